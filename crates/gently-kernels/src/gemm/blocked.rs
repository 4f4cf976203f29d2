//! The blocked product: how C is cut into tasks, K into blocks, and operands into packed panels.
//!
//! B is packed once by all threads in panels of a tile's width, in an outer chunk of columns where it is
//! large. Then tasks of C rows × columns run: each packs its rows of A (or reads them in place) and walks
//! the panels, so that the rows of a tile stay in L1 and the panels of B in L2. Packing and computing are
//! phases of one parallel loop. All cuts depend on the shape alone.
//!
//! Loop order and blocking follow Goto & van de Geijn, "Anatomy of High-Performance Matrix
//! Multiplication" (2008), with the roles of A and B as in row-major storage.

use super::micro::{self, Finish, Isa, MAX_NV, PANEL_ROWS, Tile};
use super::pack::{self, Mode, Part, Ptr};
use super::scratch::{self, Slot};
use super::{Activation, Compute, Epilogue, Mat, Operand};
use crate::cpu::Path;
use crate::pool;

/// Longest block of K, in words: PANEL_ROWS rows of it and a tile's share of B stay in L1.
const KC: usize = 384;
/// Words of packed B that a task walks again and again: about 5/8 of a 1 MiB L2.
const NC_WORDS: usize = 160 << 10;
/// Words of B packed at a time: a share of the last cache level.
const CHUNK_WORDS: usize = 2 << 20;
/// Most rows of C in a task.
const MC: usize = 192;
/// Fewest multiplications worth a task of their own: some tens of microseconds.
const TASK_MACS: usize = 1 << 20;
/// Tasks to cut a product into where it is large enough, so that threads finish together.
const TASKS: usize = 16;
/// Widest tile in floats, for the tile that waits for its epilogue.
const TILE: usize = PANEL_ROWS * MAX_NV * 16;

/// Splits `n` into `parts` nearly equal pieces that are multiples of `unit`; returns the piece length.
fn piece(n: usize, parts: usize, unit: usize) -> usize {
    n.div_ceil(parts.max(1)).next_multiple_of(unit)
}

fn isa(path: Path, compute: Compute) -> (&'static Isa, Mode) {
    let plain_mode = match compute {
        Compute::F32 => Mode::F32,
        Compute::Bf16 => Mode::Rounded,
    };
    match (path, compute) {
        #[cfg(target_arch = "x86_64")]
        (Path::Avx512Bf16, Compute::Bf16) => (&micro::AVX512_BF16, Mode::Pairs),
        #[cfg(target_arch = "x86_64")]
        (Path::Avx512 | Path::Avx512Bf16, _) => (&micro::AVX512, plain_mode),
        #[cfg(target_arch = "x86_64")]
        (Path::Avx2, _) => (&micro::AVX2, plain_mode),
        _ => (&micro::PLAIN, plain_mode),
    }
}

/// The cuts of one product.
struct Plan {
    isa: &'static Isa,
    mode: Mode,
    m: usize,
    n: usize,
    k: usize,
    /// Elements of K in a block.
    kc: usize,
    /// Rows in a task.
    mc: usize,
    /// Columns in a task.
    nc: usize,
    /// Columns packed at a time.
    chunk: usize,
    /// A is read in place.
    direct: bool,
}

impl Plan {
    fn new(isa: &'static Isa, mode: Mode, a: &Mat, b: &Mat, one_block: bool) -> Plan {
        let (m, n, k) = (a.rows, b.cols, a.cols);
        let per = if mode == Mode::Pairs { 2 } else { 1 };
        let kc = if one_block { k.max(1) } else { piece(k.max(1), k.div_ceil(KC * per), 8 * per) };
        let words = kc.div_ceil(per);
        let nr = isa.nv * isa.lanes;
        let chunk_max = (CHUNK_WORDS / k.div_ceil(per).max(1) / nr).max(1) * nr;
        let chunk = piece(n, n.div_ceil(chunk_max), nr);
        let nc_max = (NC_WORDS / words / nr).max(1) * nr;
        let nc = piece(chunk.min(n), chunk.min(n).div_ceil(nc_max), nr);
        // Rows: at most MC; fewer where that gives too few tasks, as long as a task is worth it.
        let columns = chunk.min(n).div_ceil(nc);
        let worth = (m * nc.min(n) * k / TASK_MACS).max(1);
        let rows = m.div_ceil(MC).max(TASKS.div_ceil(columns).min(worth));
        let mc = piece(m, rows, PANEL_ROWS);
        // Rows 4096 bytes apart share the few ways of one L1 set, so they are packed.
        let direct = mode == Mode::F32
            && a.col_stride == 1
            && matches!(a.data, Operand::F32(_))
            && !(a.row_stride * 4).is_multiple_of(4096);
        Plan { isa, mode, m, n, k, kc, mc, nc, chunk, direct }
    }

    fn words(&self, k: usize) -> usize {
        pack::words(self.mode, k)
    }

    /// The blocks of K: (first element, length, words before it).
    fn k_blocks(&self) -> impl Iterator<Item = (usize, usize, usize)> + '_ {
        (0..self.k.div_ceil(self.kc).max(1)).map(|i| {
            let start = i * self.kc;
            (start, self.kc.min(self.k - start), i * self.words(self.kc))
        })
    }
}

fn ptr(m: &Mat) -> Ptr {
    match m.data {
        Operand::F32(d) => Ptr::F32(d.as_ptr()),
        Operand::Bf16(d) => Ptr::Bf16(d.as_ptr()),
    }
}

/// Everything the tasks need, shared by all threads.
struct Job {
    plan: Plan,
    a: Ptr,
    a_strides: (usize, usize),
    b: Ptr,
    b_strides: (usize, usize),
    packed: *mut u32,
    c: *mut f32,
    ldc: usize,
    bias: *const f32,
    pre: *mut f32,
    residual: *const f32,
    activation: Activation,
    accumulate: bool,
    alpha: f32,
    /// The epilogue needs a pass of its own over finished tiles.
    full: bool,
}

// SAFETY: tasks read A, B, bias and residual, and write disjoint parts of the packed panels (phase 0) and of
// C and `pre` (phase 1); the barrier between the phases orders writes of panels before reads.
unsafe impl Sync for Job {}

/// Runs a product with at least one row and column.
///
/// # Safety
/// Views, C (with `ldc`) and the parts of the epilogue must fit their memory; the processor must have
/// the path.
pub(super) unsafe fn run(path: Path, compute: Compute, a: &Mat, b: &Mat, c: *mut f32, ldc: usize, ep: Epilogue) {
    let (isa, mode) = isa(path, compute);
    let full =
        ep.activation != Activation::None || ep.pre_activation.is_some() || (ep.residual.is_some() && ep.accumulate);
    // Partial sums of a K in blocks live in C, which must then not hold what is to be added at the end.
    let plan = Plan::new(isa, mode, a, b, full && ep.accumulate);
    let nr = isa.nv * isa.lanes;
    let widest = plan.chunk.min(plan.n).next_multiple_of(isa.lanes);
    let words_k: usize = plan.k_blocks().map(|(_, k, _)| plan.words(k)).sum();
    scratch::with(Slot::B, widest * words_k, |packed| {
        let job = Job {
            a: ptr(a),
            a_strides: (a.row_stride, a.col_stride),
            b: ptr(b),
            b_strides: (b.row_stride, b.col_stride),
            packed: packed.as_mut_ptr(),
            c,
            ldc,
            bias: ep.bias.map_or(std::ptr::null(), |x| x.as_ptr()),
            pre: ep.pre_activation.map_or(std::ptr::null_mut(), |x| x.as_mut_ptr()),
            residual: ep.residual.map_or(std::ptr::null(), |x| x.as_ptr()),
            activation: ep.activation,
            accumulate: ep.accumulate,
            alpha: ep.alpha,
            full,
            plan,
        };
        let plan = &job.plan;
        let blocks = plan.k_blocks().count();
        let rows = plan.m.div_ceil(plan.mc);
        let mut j0 = 0;
        while j0 < plan.n {
            let width = plan.chunk.min(plan.n - j0);
            let panels = width.div_ceil(nr);
            let columns = width.div_ceil(plan.nc);
            let phases = [panels * blocks, rows * columns];
            let work = |phase: usize, task: usize| {
                // SAFETY: panel and task indices are inside the plan's cuts; see `Sync for Job`.
                unsafe {
                    if phase == 0 {
                        job.pack_b(j0, width, task / blocks, task % blocks);
                    } else {
                        job.compute(j0, width, task % rows, task / rows);
                    }
                }
            };
            if phases[1] == 1 {
                // Too small to be worth waking anyone.
                for phase in 0..2 {
                    for task in 0..phases[phase] {
                        work(phase, task);
                    }
                }
            } else {
                pool::parallel_phases(&phases, work);
            }
            j0 += width;
        }
    });
}

impl Job {
    /// Where panel columns `j..` (inside a chunk of `width` columns) of block `block` begin. Panels of one
    /// block of K lie side by side.
    fn panel(&self, width: usize, j: usize, words_before: usize, words: usize) -> usize {
        words_before * width.next_multiple_of(self.plan.isa.lanes) + j * words
    }

    /// Packs one panel of B for one block of K.
    unsafe fn pack_b(&self, j0: usize, width: usize, panel: usize, block: usize) {
        let plan = &self.plan;
        let nr = plan.isa.nv * plan.isa.lanes;
        let (k0, k, before) = plan.k_blocks().nth(block).expect("a block of the plan");
        let j = panel * nr;
        let minors = nr.min(width - j);
        // SAFETY: columns j0 + j.. and words of this block are inside B; the panel is inside the buffer.
        unsafe {
            let part = Part {
                src: self.b.add(k0 * self.b_strides.0 + (j0 + j) * self.b_strides.1),
                minor_stride: self.b_strides.1,
                k_stride: self.b_strides.0,
                minors,
                k,
                width: minors.next_multiple_of(plan.isa.lanes),
            };
            let dst = self.packed.add(self.panel(width, j, before, plan.words(k)));
            pack::pack(dst, &part, plan.mode, plan.isa.avx2);
        }
    }

    /// Computes one task of C: row block `mi`, column block `ni` of the chunk that begins at `j0`.
    unsafe fn compute(&self, j0: usize, width: usize, mi: usize, ni: usize) {
        let plan = &self.plan;
        let rows = plan.mc * mi..plan.m.min(plan.mc * (mi + 1));
        let cols = plan.nc * ni..width.min(plan.nc * (ni + 1));
        let last_block = plan.k.div_ceil(plan.kc).max(1) - 1;
        for (block, (k0, k, before)) in plan.k_blocks().enumerate() {
            let words = plan.words(k);
            let span = Span {
                rows: rows.clone(),
                cols: cols.clone(),
                j0,
                words,
                b: self.packed.wrapping_add(self.panel(width, 0, before, words)).cast(),
                first: block == 0,
                last: block == last_block,
            };
            // SAFETY: rows, columns and words are inside the plan's cuts.
            unsafe {
                if plan.direct {
                    let Ptr::F32(a) = self.a.add(rows.start * self.a_strides.0 + k0) else {
                        unreachable!("a direct operand is f32")
                    };
                    self.walk(&span, a, Some(self.a_strides.0));
                } else {
                    let panels = rows.len().div_ceil(PANEL_ROWS);
                    scratch::with(Slot::A, panels * PANEL_ROWS * words, |buf| {
                        for p in 0..panels {
                            let r = rows.start + p * PANEL_ROWS;
                            let part = Part {
                                src: self.a.add(r * self.a_strides.0 + k0 * self.a_strides.1),
                                minor_stride: self.a_strides.0,
                                k_stride: self.a_strides.1,
                                minors: PANEL_ROWS.min(rows.end - r),
                                k,
                                width: PANEL_ROWS,
                            };
                            let dst = buf.as_mut_ptr().add(p * PANEL_ROWS * words);
                            pack::pack(dst, &part, plan.mode, plan.isa.avx2);
                        }
                        self.walk(&span, buf.as_ptr().cast(), None);
                    });
                }
            }
        }
    }

    /// Walks the tiles of a task for one block of K. `a` is the first packed panel, or with `direct` (a row
    /// stride) the first element of A.
    unsafe fn walk(&self, span: &Span, a: *const f32, direct: Option<usize>) {
        let isa = self.plan.isa;
        let nr = isa.nv * isa.lanes;
        let mut scratch = std::mem::MaybeUninit::<[f32; TILE]>::uninit();
        let finished = self.full && span.last;
        for r in span.rows.clone().step_by(isa.mr) {
            let down = r - span.rows.start;
            let rows = isa.mr.min(span.rows.end - r);
            let a = match direct {
                Some(stride) => a.wrapping_add(down * stride),
                None => a.wrapping_add(down / PANEL_ROWS * PANEL_ROWS * span.words + down % PANEL_ROWS),
            };
            for j in span.cols.clone().step_by(nr) {
                let cols = nr.min(span.cols.end - j);
                let nv = cols.div_ceil(isa.lanes);
                let at = r * self.ldc + span.j0 + j;
                let c = self.c.wrapping_add(at);
                let (dst, ld_dst) = if finished { (scratch.as_mut_ptr().cast::<f32>(), nr) } else { (c, self.ldc) };
                let base = match (span.first, self.full) {
                    (false, _) => c.cast_const(),
                    (true, false) if self.accumulate => c.cast_const(),
                    (true, false) if !self.residual.is_null() => self.residual.wrapping_add(at),
                    (true, _) => std::ptr::null(),
                };
                let bias = match self.bias.is_null() || !span.last {
                    true => std::ptr::null(),
                    false => self.bias.wrapping_add(span.j0 + j),
                };
                let tile = Tile {
                    k: span.words,
                    a,
                    a_row: direct.unwrap_or(0),
                    b: span.b.wrapping_add(j * span.words),
                    b_step: nv * isa.lanes,
                    dst,
                    ld_dst,
                    base,
                    ld_base: self.ldc,
                    bias,
                    alpha: self.alpha,
                    rows,
                    cols,
                };
                // SAFETY: the tile's rows and columns are inside C, its panels were packed for these words.
                unsafe {
                    (isa.tile[nv - 1][direct.is_some() as usize])(&tile);
                    if finished {
                        (isa.finish)(&Finish {
                            tile: dst,
                            ld_tile: nr,
                            c,
                            pre: match self.pre.is_null() {
                                true => self.pre,
                                false => self.pre.wrapping_add(at),
                            },
                            residual: match self.residual.is_null() {
                                true => self.residual,
                                false => self.residual.wrapping_add(at),
                            },
                            ldc: self.ldc,
                            activation: self.activation,
                            accumulate: self.accumulate,
                            rows,
                            cols,
                        });
                    }
                }
            }
        }
    }
}

/// The part of a task that one block of K covers.
struct Span {
    rows: std::ops::Range<usize>,
    /// Inside the chunk.
    cols: std::ops::Range<usize>,
    /// First column of the chunk.
    j0: usize,
    words: usize,
    /// The first panel of this block of K.
    b: *const f32,
    first: bool,
    last: bool,
}
