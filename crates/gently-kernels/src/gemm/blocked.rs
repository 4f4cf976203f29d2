//! The blocked product: how C is cut into tasks, K into blocks, and operands into packed panels.
//!
//! The product is a sequence of steps: a chunk of columns times a block of K. In each step B's part is
//! packed once by all threads in panels of a tile's width (across all panels where its rows are contiguous: whole
//! cache lines and pages are then read once); then tasks of C rows × columns run: each packs
//! its rows of A (or reads them in place) and walks the panels, so that the rows of a tile stay in L1 and
//! the panels of B in L2. Packing of the next step shares a phase with the computing of this one, and
//! evens out the threads' ends. All steps are phases of one parallel loop; all cuts depend on the shape
//! alone.
//!
//! Loop order and blocking follow Goto & van de Geijn, "Anatomy of High-Performance Matrix
//! Multiplication" (2008), with the roles of A and B as in row-major storage.

use super::micro::{self, Finish, Isa, MAX_NV, PANEL_ROWS, Tile};
use super::pack::{self, Mode, Part, Ptr};
use super::{Compute, Epilogue, Mat, Operand};
use crate::activation::Activation;
use crate::cpu::Path;
use crate::pool;
use crate::scratch::Scratch;
use crate::thread_buffer::{self, Slot};

/// Longest block of K, in words: PANEL_ROWS rows of it and a tile's share of B stay in L1.
const KC: usize = 384;
/// Words of packed B that a task walks again and again: most of a 1 MiB L2.
const NC_WORDS: usize = 240 << 10;
/// Words of B packed in a step; two steps' worth share the last cache level.
const CHUNK_WORDS: usize = 1 << 20;
/// Most rows of C in a task.
const MC: usize = 192;
/// Fewest rows that a task is cut to for the sake of more tasks: whole cache lines of a transposed A.
const MC_LEAST: usize = 32;
/// Fewest multiplications worth a task of their own: some tens of microseconds.
const TASK_MACS: usize = 1 << 20;
/// Tasks to cut a small product into, so that threads finish together.
const TASKS: usize = 8;
/// Widest tile in floats, for the tile that waits for its epilogue.
const TILE: usize = PANEL_ROWS * MAX_NV * 16;

/// Splits `n` into `parts` nearly equal pieces that are multiples of `unit`; returns the piece length.
fn piece(n: usize, parts: usize, unit: usize) -> usize {
    n.div_ceil(parts.max(1)).next_multiple_of(unit)
}

/// Words from one packed panel of A to the next: a little apart, so that equal places of neighbouring
/// panels do not share an L1 set.
fn panel_words(words: usize) -> usize {
    PANEL_ROWS * words + 16
}

/// The kernels and the words for a product on a path.
pub(super) fn isa(path: Path, compute: Compute) -> (&'static Isa, Mode) {
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
    fn new(isa: &'static Isa, mode: Mode, a: &Mat, b: &Mat) -> Plan {
        let (m, n, k) = (a.rows, b.cols, a.cols);
        let per = if mode == Mode::Pairs { 2 } else { 1 };
        let kc = piece(k.max(1), k.div_ceil(KC * per), 8 * per);
        let words = kc.div_ceil(per);
        let nr = isa.nv * isa.lanes;
        let chunk_max = (CHUNK_WORDS / words / nr).max(1) * nr;
        let chunk = piece(n, n.div_ceil(chunk_max), nr);
        let nc_max = (NC_WORDS / words / nr).max(1) * nr;
        let across = chunk.min(n);
        // As many tasks as the work is worth: up to 8 small ones, more only where they are large, and then a
        // number that threads share evenly.
        let macs = m * across * kc;
        let large = (macs / (4 * TASK_MACS)).min(4 * TASKS);
        let wanted = match large > TASKS {
            true => large.next_multiple_of(TASKS),
            false => (macs / TASK_MACS).clamp(1, TASKS),
        };
        let columns = across.div_ceil(nc_max);
        let rows = m.div_ceil(MC).max(wanted.div_ceil(columns).min(m.div_ceil(MC_LEAST)));
        let columns = columns.max(wanted.div_ceil(rows).min(across.div_ceil(nr)));
        let mc = piece(m, rows, PANEL_ROWS);
        let nc = piece(across, columns, nr);
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

    /// Blocks of K; one where K is 0, to write the epilogue.
    fn blocks(&self) -> usize {
        self.k.div_ceil(self.kc).max(1)
    }

    fn steps(&self) -> usize {
        self.n.div_ceil(self.chunk) * self.blocks()
    }

    /// Step `s`: chunks of columns outside, blocks of K inside.
    fn step(&self, s: usize) -> Step {
        let (chunk, block) = (s / self.blocks(), s % self.blocks());
        let (j0, k0) = (chunk * self.chunk, block * self.kc);
        Step {
            j0,
            width: self.chunk.min(self.n - j0),
            k0,
            k: self.kc.min(self.k - k0),
            first: block == 0,
            last: block + 1 == self.blocks(),
            half: s % 2,
        }
    }

    /// Panels across a step.
    fn panels(&self, step: &Step) -> usize {
        step.width.div_ceil(self.isa.nv * self.isa.lanes)
    }

    /// Words of B packed in a step, at most.
    fn half(&self) -> usize {
        self.chunk.min(self.n).next_multiple_of(self.isa.lanes) * self.words(self.kc)
    }

    /// Words of A that a task packs, at most.
    fn packed_a(&self) -> usize {
        match self.direct {
            true => 0,
            false => self.mc.min(self.m).div_ceil(PANEL_ROWS) * panel_words(self.words(self.kc)),
        }
    }

    /// Tasks of a step.
    fn tasks(&self, step: &Step) -> usize {
        self.m.div_ceil(self.mc) * step.width.div_ceil(self.nc)
    }
}

fn ptr(m: &Mat) -> Ptr {
    match m.data {
        Operand::F32(d) => Ptr::F32(d.as_ptr()),
        Operand::Bf16(d) => Ptr::Bf16(d.as_ptr()),
    }
}

/// What [`run`] takes beside its operands; see [`super::scratch`].
pub(super) fn scratch_bytes(path: Path, compute: Compute, a: &Mat, b: &Mat) -> Scratch {
    let (isa, mode) = isa(path, compute);
    let plan = Plan::new(isa, mode, a, b);
    let asking = thread_buffer::bytes(Slot::Shared, plan.half() * plan.steps().min(2));
    let packing = thread_buffer::bytes(Slot::Task, plan.packed_a());
    match plan.steps() == 1 && plan.tasks(&plan.step(0)) == 1 {
        // Nobody else is woken.
        true => Scratch { asking: asking + packing, ..Scratch::default() },
        false => Scratch { asking, packing, ..Scratch::default() },
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
    /// Words in each half of `packed`; steps take turns.
    half: usize,
    c: *mut f32,
    ldc: usize,
    bias: *const f32,
    pre: *mut f32,
    /// The residual, or C itself where the product is added to it; null where there is neither.
    added: *const f32,
    activation: Activation,
    alpha: f32,
    /// The epilogue needs a pass of its own over finished tiles.
    full: bool,
}

// SAFETY: tasks read A, B, bias and what is added. Within a phase the tasks of a step write disjoint parts of C
// and `pre` and read one half of the packed panels, while the packing of the next step writes disjoint panels
// of the other half. The barrier between phases orders writes of panels and of C before later reads.
unsafe impl Sync for Job {}

/// Runs a product with at least one row and column.
///
/// # Safety
/// Views, C (with `ldc`) and the parts of the epilogue must fit their memory; the processor must have
/// the path.
pub(super) unsafe fn run(path: Path, compute: Compute, a: &Mat, b: &Mat, c: *mut f32, ldc: usize, ep: Epilogue) {
    let (isa, mode) = isa(path, compute);
    // Partial sums of a K in blocks live in C. Where C is added to, no pass over it follows: an epilogue has one of the two.
    let full = ep.activation != Activation::None || ep.pre_activation.is_some();
    let plan = Plan::new(isa, mode, a, b);
    let half = plan.half();
    let steps = plan.steps();
    thread_buffer::with(Slot::Shared, half * steps.min(2), |packed| {
        let job = Job {
            a: ptr(a),
            a_strides: (a.row_stride, a.col_stride),
            b: ptr(b),
            b_strides: (b.row_stride, b.col_stride),
            packed: packed.as_mut_ptr(),
            half,
            c,
            ldc,
            bias: ep.bias.map_or(std::ptr::null(), |x| x.as_ptr()),
            pre: ep.pre_activation.map_or(std::ptr::null_mut(), |x| x.as_mut_ptr()),
            added: match ep.accumulate {
                true => c.cast_const(),
                false => ep.residual.map_or(std::ptr::null(), |x| x.as_ptr()),
            },
            activation: ep.activation,
            alpha: ep.alpha,
            full,
            plan,
        };
        let plan = &job.plan;
        // Phase p computes step p − 1 and packs step p.
        let work = |phase: usize, task: usize| {
            let before = phase.checked_sub(1).map(|s| plan.step(s));
            let tasks = before.as_ref().map_or(0, |s| plan.tasks(s));
            // SAFETY: steps, tasks and panels are those of the plan; see `Sync for Job`.
            unsafe {
                match before {
                    Some(step) if task < tasks => job.compute(&step, task),
                    _ => job.pack_b(&plan.step(phase), task - tasks),
                }
            }
        };
        let size = |phase: usize| {
            let compute = phase.checked_sub(1).map_or(0, |s| plan.tasks(&plan.step(s)));
            let pack = if phase < steps { job.packs(&plan.step(phase)) } else { 0 };
            compute + pack
        };
        if steps == 1 && plan.tasks(&plan.step(0)) == 1 {
            // Too small to be worth waking anyone.
            for phase in 0..2 {
                for task in 0..size(phase) {
                    work(phase, task);
                }
            }
            return;
        }
        let mut few = [0; 32];
        if steps < few.len() {
            for (phase, n) in few[..=steps].iter_mut().enumerate() {
                *n = size(phase);
            }
            pool::parallel_phases(&few[..=steps], work);
        } else {
            let many: Vec<usize> = (0..=steps).map(size).collect();
            pool::parallel_phases(&many, work);
        }
    });
}

impl Job {
    /// Whether rows of B are contiguous: then they are packed across all panels, else panel after panel.
    fn by_rows(&self) -> bool {
        self.b_strides.1 == 1
    }

    /// Words of K in a packing task where rows are packed across panels: as many tasks as there are panels.
    fn rows_each(&self, step: &Step) -> usize {
        piece(self.plan.words(step.k), self.plan.panels(step), 8).max(8)
    }

    /// Tasks of packing a step.
    fn packs(&self, step: &Step) -> usize {
        match self.by_rows() {
            true => self.plan.words(step.k).div_ceil(self.rows_each(step)),
            false => self.plan.panels(step),
        }
    }

    /// Packs one panel of a step, or some rows of all.
    unsafe fn pack_b(&self, step: &Step, task: usize) {
        let plan = &self.plan;
        let words = plan.words(step.k);
        let all = Part {
            src: self.b.wrapping_add(step.k0 * self.b_strides.0 + step.j0 * self.b_strides.1),
            minor_stride: self.b_strides.1,
            k_stride: self.b_strides.0,
            minors: step.width,
            k: step.k,
            width: plan.isa.nv * plan.isa.lanes,
        };
        // SAFETY: these columns and this block of K are inside B; the panels are inside their half.
        unsafe {
            let dst = self.packed.add(step.half * self.half);
            if self.by_rows() {
                let each = self.rows_each(step);
                let rows = task * each..words.min((task + 1) * each);
                pack::pack_rows(dst, &all, plan.isa.lanes, rows, plan.mode, plan.isa.avx2);
            } else {
                let j = task * all.width;
                let panel = all.panel(j, plan.isa.lanes);
                pack::pack(dst.add(j * words), &panel, plan.mode, plan.isa.avx2);
            }
        }
    }

    /// Computes one task of a step.
    unsafe fn compute(&self, step: &Step, task: usize) {
        let plan = &self.plan;
        let row_blocks = plan.m.div_ceil(plan.mc);
        // Rows change fastest, so that consecutive tasks share panels of B.
        let (mi, ni) = (task % row_blocks, task / row_blocks);
        let rows = plan.mc * mi..plan.m.min(plan.mc * (mi + 1));
        let words = plan.words(step.k);
        let span = Span {
            rows: rows.clone(),
            cols: plan.nc * ni..step.width.min(plan.nc * (ni + 1)),
            j0: step.j0,
            words,
            b: self.packed.wrapping_add(step.half * self.half).cast(),
            first: step.first,
            last: step.last,
        };
        // SAFETY: rows, columns and words are inside the plan's cuts.
        unsafe {
            let a = self.a.wrapping_add(rows.start * self.a_strides.0 + step.k0 * self.a_strides.1);
            if let (true, Ptr::F32(a)) = (plan.direct, a) {
                return self.walk(&span, a, Some(self.a_strides.0));
            }
            let panels = rows.len().div_ceil(PANEL_ROWS);
            thread_buffer::with(Slot::Task, panels * panel_words(words), |buf| {
                let part = Part {
                    src: a,
                    minor_stride: self.a_strides.0,
                    k_stride: self.a_strides.1,
                    minors: PANEL_ROWS,
                    k: step.k,
                    width: PANEL_ROWS,
                };
                let (dst, stride) = (buf.as_mut_ptr(), panel_words(words));
                pack::pack_panels(dst, &part, rows.len(), stride, plan.mode, plan.isa.avx2);
                self.walk(&span, dst.cast(), None);
            });
        }
    }

    /// Walks the tiles of a task. `a` is the first packed panel, or with `direct` (a row
    /// stride) the first element of A.
    unsafe fn walk(&self, span: &Span, a: *const f32, direct: Option<usize>) {
        let isa = self.plan.isa;
        let nr = isa.nv * isa.lanes;
        let mut scratch = std::mem::MaybeUninit::<[f32; TILE]>::uninit();
        let finished = self.full && span.last;
        for r in span.rows.clone().step_by(isa.mr) {
            let down = r - span.rows.start;
            let a = match direct {
                Some(stride) => a.wrapping_add(down * stride),
                None => a.wrapping_add(down / PANEL_ROWS * panel_words(span.words) + down % PANEL_ROWS),
            };
            // The rows below, where they are read in place: each tile asks for its share of their lines.
            let below = match direct {
                Some(stride) if r + isa.mr < span.rows.end => Some((a.wrapping_add(isa.mr * stride), stride)),
                _ => None,
            };
            for (place, j) in span.cols.clone().step_by(nr).enumerate() {
                if let Some((a, stride)) = below {
                    micro::ask_rows(a, stride, isa.mr, span.words, place, span.cols.len().div_ceil(nr));
                }
                let cols = nr.min(span.cols.end - j);
                let nv = cols.div_ceil(isa.lanes);
                let mr = if nv == 1 { isa.mr_narrow } else { isa.mr };
                if !down.is_multiple_of(mr) {
                    // Done with the rows above.
                    continue;
                }
                let rows = mr.min(span.rows.end - r);
                let at = r * self.ldc + span.j0 + j;
                let c = self.c.wrapping_add(at);
                let (dst, ld_dst) = if finished { (scratch.as_mut_ptr().cast::<f32>(), nr) } else { (c, self.ldc) };
                if finished {
                    // Where the tile goes in the end comes meanwhile.
                    micro::ask_rows(c, self.ldc, rows, cols, 0, 1);
                    if !self.pre.is_null() {
                        micro::ask_rows(self.pre.wrapping_add(at), self.ldc, rows, cols, 0, 1);
                    }
                }
                let base = match (span.first, self.full) {
                    (false, _) => c.cast_const(),
                    (true, false) if !self.added.is_null() => self.added.wrapping_add(at),
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
                            added: match self.added.is_null() {
                                true => self.added,
                                false => self.added.wrapping_add(at),
                            },
                            ldc: self.ldc,
                            activation: self.activation,
                            rows,
                            cols,
                        });
                    }
                }
            }
        }
    }
}

/// A chunk of columns times a block of K.
struct Step {
    /// First column and number of columns.
    j0: usize,
    width: usize,
    /// First element of K and number of elements.
    k0: usize,
    k: usize,
    /// First and last block of K.
    first: bool,
    last: bool,
    /// Which half of the packing buffer.
    half: usize,
}

/// What one task covers.
struct Span {
    rows: std::ops::Range<usize>,
    /// Inside the chunk.
    cols: std::ops::Range<usize>,
    /// First column of the chunk.
    j0: usize,
    words: usize,
    /// The first panel of the step.
    b: *const f32,
    first: bool,
    last: bool,
}
