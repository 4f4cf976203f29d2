//! Products of packed rows with a packed matrix, `y[M, N] = x[M, K] · W[N, K]ᵀ`.
//!
//! Here: [`product`], and how its work is cut. Not here: the inner loops ([`super::plain`] and its fast twins).
//!
//! **The same bits, always.** An output is a sum over k in one fixed order: block by block, the integers of a
//! block exactly, then one fused multiply-add with the product of the two scales (and one for the minimum);
//! floats number by number. So it does not depend on M, on the other rows, on threads, or on how work is
//! cut; with integer blocks not even on the instruction set.

use super::packed::{GROUP, Layout, PackedMatrix};
use super::plain;
use super::rows::{MAX_WIDTH, PackedRows};
use super::unpacked::{self, Weights};
use crate::activation::Activation;
use crate::cpu::{self, Path};
use crate::pool::{self, Disjoint};
use crate::simd::{Kernel, Simd, dispatch};
use crate::thread_buffer::{self, Slot};
use std::ops::Range;

/// What happens to a product on its way to memory: `y = residual + act(x·Wᵀ + bias)`; of a gated matrix
/// `y = residual + act(x·gateᵀ + bias₀) · (x·upᵀ + bias₁)`.
#[derive(Debug, Clone, Copy)]
pub struct Epilogue<'a> {
    /// `[N]`; of a gated matrix `[2, N]`.
    pub bias: Option<&'a [f32]>,
    /// The activation function, [`Activation::Silu`] for SwiGLU.
    pub activation: Activation,
    /// Adds to what `y` holds: the residual stream.
    pub accumulate: bool,
}

impl Default for Epilogue<'_> {
    fn default() -> Self {
        Epilogue { bias: None, activation: Activation::None, accumulate: false }
    }
}

/// Outputs of one tile: a vector of 16 rows for each column.
#[derive(Clone, Copy)]
#[repr(align(64))]
pub(super) struct Tile(pub [[f32; GROUP]; MAX_WIDTH]);

impl Tile {
    const NEW: Tile = Tile([[0.0; GROUP]; MAX_WIDTH]);
}

/// Most groups that a kernel computes at once.
pub(super) const TOGETHER: usize = 2;

/// Computes `columns` columns (of a tile kernel's width) of tile `tile`.
#[derive(Clone, Copy)]
pub(super) enum TileKernel {
    /// For group `g`.
    One(fn(w: &Weights, x: &PackedRows, g: usize, tile: usize, columns: usize, out: &mut Tile)),
    /// For up to [`TOGETHER`] groups from `g` on, one for each of `out`.
    Several(fn(w: &Weights, x: &PackedRows, g: usize, tile: usize, columns: usize, out: &mut [Tile])),
}

impl TileKernel {
    /// For the groups from `g` on, one for each of `out`.
    #[inline(always)]
    fn run(self, w: &Weights, x: &PackedRows, g: usize, tile: usize, columns: usize, out: &mut [Tile]) {
        match self {
            Self::One(kernel) => (g..).zip(out).for_each(|(g, out)| kernel(w, x, g, tile, columns, out)),
            Self::Several(kernel) => kernel(w, x, g, tile, columns, out),
        }
    }
}

/// The form of `$run` for a layout: its bits in both planes, scales of halves, minima, scales under scales. An instruction set is
/// one function generic over these.
#[cfg(target_arch = "x86_64")]
macro_rules! by_layout {
    ($layout:expr, $run:ident) => {
        match ($layout.low, $layout.high, $layout.min, $layout.supers) {
            (4, 0, false, false) => $run::<4, 0, false, false, false>,
            (4, 0, true, false) => $run::<4, 0, false, true, false>,
            (4, 1, false, false) => $run::<4, 1, false, false, false>,
            (4, 1, true, false) => $run::<4, 1, false, true, false>,
            (8, ..) => $run::<8, 0, false, false, false>,
            (2, 0, ..) => $run::<2, 0, true, true, true>,
            (2, ..) => $run::<2, 1, true, false, true>,
            (4, 0, ..) => $run::<4, 0, false, true, true>,
            (4, 1, ..) => $run::<4, 1, false, true, true>,
            _ => $run::<4, 2, true, false, true>,
        }
    };
}
#[cfg(target_arch = "x86_64")]
pub(super) use by_layout;

/// Whether integers are multiplied by 512-bit VNNI instructions on a path.
#[cfg(target_arch = "x86_64")]
pub(super) fn has_vnni_loop(path: Path) -> bool {
    path >= Path::Avx512 && cpu::has_vnni()
}

/// The inner loop for a matrix on a path.
fn tile_kernel(path: Path, w: &PackedMatrix) -> TileKernel {
    #[cfg(target_arch = "x86_64")]
    if let Some(layout) = Layout::of(w.block_type()) {
        if has_vnni_loop(path) {
            return super::avx512::kernel(&layout);
        }
        if path >= Path::Avx2 {
            return super::avx2::kernel(&layout);
        }
        return TileKernel::One(plain::integers);
    }
    match Layout::of(w.block_type()) {
        Some(_) => TileKernel::One(plain::integers),
        None => super::floats::kernel(path),
    }
}

/// Computes `y[m·stride + n] = …` for all rows of `x` and outputs of `w`, on all threads.
///
/// # Panics
/// When K or the form of the rows differ, or `y`, `stride` or a bias are too short.
pub fn product(w: &PackedMatrix, x: &PackedRows, y: &mut [f32], stride: usize, epilogue: &Epilogue) {
    product_on(cpu::path(), w, x, y, stride, epilogue);
}

/// [`product`] on a chosen path.
pub(crate) fn product_on(
    path: Path,
    w: &PackedMatrix,
    x: &PackedRows,
    y: &mut [f32],
    stride: usize,
    epilogue: &Epilogue,
) {
    path.check();
    check(w, x);
    let (m, n) = (x.rows(), w.n());
    assert!(stride >= n, "rows of {n} outputs do not fit in {stride}");
    let fits = m == 0 || (m - 1).checked_mul(stride).and_then(|at| at.checked_add(n)).is_some_and(|l| l <= y.len());
    assert!(fits, "{m} rows of {n} outputs leave y");
    if let Some(bias) = epilogue.bias {
        let wanted = n * if w.is_gated() { 2 } else { 1 };
        assert_eq!(bias.len(), wanted, "a bias has a number for each output");
    }
    if m == 0 {
        return;
    }
    let (cut, y) = (Cut::new(path, w, m, x.tiles()), Disjoint::new(y));
    let parts = cut.parts(x.tiles());
    pool::parallel(cut.tasks * parts, |i| {
        let (groups, tiles) = (cut.groups(i / parts), cut.tiles(i % parts, x.tiles()));
        let words = unpacked::words(path, w, groups.len(), tiles.len());
        let part = Part { path, w, x, y: &y, stride, epilogue, groups, tiles, room: &mut [] };
        match words {
            0 => dispatch(path, part),
            _ => thread_buffer::with(Slot::Task, words, |room| {
                dispatch(path, Part { room, ..part });
            }),
        }
    });
}

fn check(w: &PackedMatrix, x: &PackedRows) {
    assert_eq!(w.k(), x.k(), "rows and matrix differ in K");
    assert_eq!(w.row_kind(), x.kind(), "{} wants its rows as {:?}", w.block_type(), w.row_kind());
}

/// Most tasks of a product.
const MOST_TASKS: usize = 256;

/// A product cut in tasks: groups of outputs, and parts of the rows for each. Outputs do not depend on the cut, so it may depend
/// on the threads.
struct Cut {
    /// Where the groups of each task end.
    ends: [usize; MOST_TASKS],
    tasks: usize,
    /// Tiles of rows that a task takes.
    tiles: usize,
}

impl Cut {
    /// Few rows wait for memory: large tasks, which cost the threads few meetings, then ever smaller ones, so that all end
    /// together; the last are of about 16 KiB, a µs or two to read. Many rows pass by a task's weights tile by tile: the more
    /// weights, the less often they do, as long as those stay in the second cache. Floats as rows are four times as long as
    /// integers and leave that cache in between, so their weights take most of it, and what is too coarse for the threads then is
    /// made finer by the rows.
    fn new(path: Path, w: &PackedMatrix, m: usize, tiles: usize) -> Cut {
        let (groups, bytes) = (w.groups(), w.output_group_bytes().max(1));
        let mut cut = Cut { ends: [0; MOST_TASKS], tasks: 0, tiles };
        if m > 2 * MAX_WIDTH {
            if Layout::of(w.block_type()).is_none() {
                let wide = bytes * 4 / w.block_type().block_bytes();
                let each = if w.is_gated() { 1 } else { TOGETHER };
                let most = (WIDE_BYTES / wide / each).max(1);
                let all = groups.div_ceil(each);
                let tasks = all.div_ceil(most).min(MOST_TASKS);
                (1..=tasks).for_each(|i| cut.push((i * all / tasks * each).min(groups)));
                cut.tiles = (tiles * tasks).div_ceil(FLOAT_TASKS * pool::threads()).max(LEAST_TILES);
                return cut;
            }
            let each = unpacked::words(path, w, 1, tiles) * 4;
            let (bytes, most) = if each > 0 { (each, UNPACKED_BYTES) } else { (bytes, PACKED_BYTES) };
            let tasks = (groups * bytes).div_ceil(most).max(1).next_multiple_of(8).min(MOST_TASKS).min(groups);
            (1..=tasks).for_each(|i| cut.push(i * groups / tasks));
            return cut;
        }
        let (least, shares) = ((16 * 1024 / bytes).max(1), 4 * pool::threads());
        let mut end = 0;
        while end < groups {
            let left = groups - end;
            end += if cut.tasks + 1 == MOST_TASKS { left } else { (left / shares).max(least).min(left) };
            cut.push(end);
        }
        cut
    }

    fn push(&mut self, end: usize) {
        self.ends[self.tasks] = end;
        self.tasks += 1;
    }

    /// The groups of task `i`.
    fn groups(&self, i: usize) -> Range<usize> {
        let start = if i == 0 { 0 } else { self.ends[i - 1] };
        start..self.ends[i]
    }

    /// Parts that `all` tiles are cut into.
    fn parts(&self, all: usize) -> usize {
        all.div_ceil(self.tiles)
    }

    /// The tiles of part `i` of `all`.
    fn tiles(&self, i: usize, all: usize) -> Range<usize> {
        i * self.tiles..all.min((i + 1) * self.tiles)
    }
}

/// Memory of a task's integer weights that many rows pass by, as they are.
const PACKED_BYTES: usize = 128 * 1024;
/// And unpacked.
const UNPACKED_BYTES: usize = 192 * 1024;
/// Memory of a task's float weights as f32: a third of the second cache of the processors that have vectors of 16, which the rows
/// and the outputs pass through too.
const WIDE_BYTES: usize = 320 * 1024;
/// Tasks for each thread that a product of floats with many rows is cut into at least, where it has the rows.
const FLOAT_TASKS: usize = 8;
/// Fewest tiles of rows that make it worth reading a task's weights.
const LEAST_TILES: usize = 16;

/// Some groups of outputs for some tiles of rows.
struct Part<'a> {
    path: Path,
    w: &'a PackedMatrix,
    x: &'a PackedRows,
    y: &'a Disjoint<'a, f32>,
    stride: usize,
    epilogue: &'a Epilogue<'a>,
    groups: Range<usize>,
    tiles: Range<usize>,
    /// Room for the weights unpacked, empty where they are read as they are.
    room: &'a mut [u32],
}

impl Kernel for Part<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        let room = std::mem::take(&mut self.room);
        let Part { path, w, x, .. } = self;
        let kernel = tile_kernel(path, w);
        let mut out = [Tile::NEW; TOGETHER];
        // Of a gated matrix a gate and its up, else two neighbours.
        let each = if w.is_gated() { TOGETHER } else { 1 };
        let weights = Weights::unpack(s, w, self.groups.start * each..self.groups.end * each, room);
        // A tile of rows stays in the first cache while the task's weights pass by.
        for tile in self.tiles.clone() {
            let first = tile * x.width();
            let columns = x.width().min(x.rows() - first);
            for g in self.groups.clone().step_by(TOGETHER / each) {
                let count = (TOGETHER / each).min(self.groups.end - g);
                if self.epilogue.accumulate {
                    // What is added to comes meanwhile.
                    for c in 0..columns {
                        let y = self.y.as_mut_ptr().wrapping_add((first + c) * self.stride + g * GROUP);
                        for i in 0..count {
                            s.prefetch(y.wrapping_add(i * GROUP));
                        }
                    }
                }
                kernel.run(&weights, x, g * each, tile, columns, &mut out[..count * each]);
                for i in 0..count {
                    let up = w.is_gated().then(|| &out[i * each + 1]);
                    self.finish(s, g + i, first, columns, &out[i * each], up);
                }
            }
        }
    }
}

impl Part<'_> {
    /// Writes the outputs of group `g` for `columns` rows from `first` on.
    #[inline(always)]
    fn finish<S: Simd>(&self, s: S, g: usize, first: usize, columns: usize, out: &Tile, up: Option<&Tile>) {
        // Compiled for each: nothing is multiplied meanwhile, and with short K these few instructions count.
        match (self.epilogue.activation, up) {
            _ if g * GROUP + GROUP > self.w.n() => self.edge(s, g, first, columns, out, up),
            (Activation::None, None) => self.whole(s, g, first, columns, out, None, Activation::None),
            (Activation::Silu, Some(_)) => self.whole(s, g, first, columns, out, up, Activation::Silu),
            (activation, _) => self.whole(s, g, first, columns, out, up, activation),
        }
    }

    /// [`finish`](Self::finish) for a group that has all its outputs.
    #[inline(always)]
    #[allow(clippy::too_many_arguments)]
    fn whole<S: Simd>(
        &self,
        s: S,
        g: usize,
        first: usize,
        columns: usize,
        out: &Tile,
        up: Option<&Tile>,
        activation: Activation,
    ) {
        let Part { w, y, stride, epilogue, .. } = self;
        let mut i = 0;
        while i < GROUP {
            let at = g * GROUP + i;
            // Adding minus zero changes nothing, not even a zero.
            let (mut bias, mut up_bias) = (s.splat(-0.0), s.splat(-0.0));
            if let Some(from) = epilogue.bias {
                bias = s.load(&from[at..]);
                if up.is_some() {
                    up_bias = s.load(&from[w.n() + at..]);
                }
            }
            let mut c = 0;
            while c < columns {
                let mut v = activation.apply_vector(s, s.add(s.load(&out.0[c][i..]), bias));
                if let Some(up) = up {
                    v = s.mul(v, s.add(s.load(&up.0[c][i..]), up_bias));
                }
                // SAFETY: these outputs belong to this task alone, which runs once; a whole group of a row lies in y
                // (`product_on` checked).
                unsafe {
                    let y = y.as_mut_ptr().add((first + c) * stride + at);
                    if epilogue.accumulate {
                        v = s.add(v, s.load_ptr(y));
                    }
                    s.store_ptr(y, v);
                }
                c += 1;
            }
            i += S::LANES;
        }
    }

    /// [`finish`](Self::finish) for the last group, some of whose outputs are not there.
    #[inline(always)]
    fn edge<S: Simd>(&self, s: S, g: usize, first: usize, columns: usize, out: &Tile, up: Option<&Tile>) {
        let Part { w, y, stride, epilogue, .. } = self;
        let n = GROUP.min(w.n() - g * GROUP);
        for c in 0..columns {
            // SAFETY: these outputs belong to this task alone, which runs once; they lie in y (`product_on` checked).
            let y = unsafe { y.part((first + c) * stride + g * GROUP, n) };
            let mut i = 0;
            while i < n {
                let lanes = S::LANES.min(n - i);
                let at = g * GROUP + i;
                let mut v = s.load(&out.0[c][i..]);
                if let Some(bias) = epilogue.bias {
                    v = s.add(v, s.load_part(&bias[at..at + lanes]));
                }
                v = epilogue.activation.apply_vector(s, v);
                if let Some(up) = up {
                    let mut u = s.load(&up.0[c][i..]);
                    if let Some(bias) = epilogue.bias {
                        u = s.add(u, s.load_part(&bias[w.n() + at..w.n() + at + lanes]));
                    }
                    v = s.mul(v, u);
                }
                let y = &mut y[i..i + lanes];
                if epilogue.accumulate {
                    v = s.add(v, s.load_part(y));
                }
                s.store_part(y, v);
                i += lanes;
            }
        }
    }
}
