//! Products with weights that never change: W is packed once, y = epilogue(x·Wᵀ) runs many times.
//!
//! W lies in panels of [`PANEL`] rows, interleaved along K, so that one row of x is spread over lanes with no
//! horizontal sums, and any number of rows of x read each weight once. Here: f32 panels. Not here: operands
//! that change from call to call (see [`super::gemm`]).
//!
//! **Each element is one chain of multiply-adds over k = 0, 1, …**, whatever the number of rows of x: a row
//! has the same bits alone, in a batch, and in a prompt of any length.
//!
//! ```
//! use gently_kernels::gemm::packed::{Packed, Finish};
//! let w = Packed::new(&[1.0, 2.0, 3.0, 4.0], 2, 2, None);
//! let mut y = [0.0; 2];
//! w.product(&[1.0, 1.0], &mut y, Finish::default());
//! assert_eq!(y, [3.0, 7.0]);
//! ```

// Loops over register arrays are by index: they unroll, iterators over parts of them may not.
#![allow(clippy::needless_range_loop)]

use super::Activation;
use super::scratch::{self, Slot};
use crate::buffer::AlignedBuf;
use crate::cpu::{self, Path};
use crate::pool::{self, Disjoint};
use crate::simd::{Kernel, Simd, dispatch};
use crate::simd_math;

/// Rows of W in a panel.
pub const PANEL: usize = 32;
/// Weights in a task of a product with few rows: some tens of microseconds of reading.
const TASK_WORDS: usize = 1 << 16;
/// Most rows that are multiplied with a weight while it is in a register.
const ROWS: usize = 12;
/// Length of K that a panel goes through before the next rows of x take their turn: it stays in L2.
const DEPTH: usize = 2048;

/// A weight matrix `[rows, cols]` in panels, with its bias.
#[derive(Debug)]
pub struct Packed {
    rows: usize,
    cols: usize,
    gated: bool,
    /// `[panels, cols, PANEL]`; rows beyond the last are zero.
    data: AlignedBuf<f32>,
    /// `[panels, PANEL]`, or empty.
    bias: AlignedBuf<f32>,
}

/// What happens to a product on its way to memory: `y = (y if add) + activation(x·Wᵀ + bias)`.
#[derive(Debug, Clone, Copy, Default)]
pub struct Finish {
    /// Applied to the product; not to that of gated weights, which have SwiGLU.
    pub activation: Activation,
    /// Add to what y holds: a residual stream.
    pub add: bool,
}

impl Packed {
    /// Packs a row-major `w` `[rows, cols]` and its bias `[rows]`.
    ///
    /// # Panics
    /// When a length does not fit the sizes.
    pub fn new(w: &[f32], rows: usize, cols: usize, bias: Option<&[f32]>) -> Self {
        Self::fill(rows, cols, false, bias.is_some(), |r| (&w[r * cols..][..cols], bias.map_or(0.0, |b| b[r])))
    }

    /// Packs gate over up, `w` `[2·rows, cols]` with bias `[2·rows]`, so that [`Packed::product`] gives
    /// `silu(gate)·up` (Shazeer 2020, arXiv:2002.05202), `[N, rows]`.
    ///
    /// # Panics
    /// As [`Packed::new`].
    pub fn gated(w: &[f32], rows: usize, cols: usize, bias: Option<&[f32]>) -> Self {
        Self::fill(rows, cols, true, bias.is_some(), |r| (&w[r * cols..][..cols], bias.map_or(0.0, |b| b[r])))
    }

    /// Rows of y that one panel makes.
    fn width(gated: bool) -> usize {
        if gated { PANEL / 2 } else { PANEL }
    }

    fn fill<'a>(
        rows: usize,
        cols: usize,
        gated: bool,
        biased: bool,
        row: impl Fn(usize) -> (&'a [f32], f32) + Sync,
    ) -> Self {
        let width = Self::width(gated);
        let panels = rows.div_ceil(width);
        let mut data = AlignedBuf::zeroed(panels * cols * PANEL);
        let mut bias = AlignedBuf::zeroed(if biased { panels * PANEL } else { 0 });
        // The row of W behind lane `lane` of panel `p`.
        let place = |p: usize, lane: usize| {
            let r = p * width + lane % width;
            (r < rows).then_some(if lane >= width { rows + r } else { r })
        };
        for (i, b) in bias.iter_mut().enumerate() {
            *b = place(i / PANEL, i % PANEL).map_or(0.0, |r| row(r).1);
        }
        if cols > 0 {
            pool::parallel_chunks_mut(&mut data, cols * PANEL, |p, panel| {
                for lane in 0..PANEL {
                    if let Some(r) = place(p, lane) {
                        for (k, v) in row(r).0.iter().enumerate() {
                            panel[k * PANEL + lane] = *v;
                        }
                    }
                }
            });
        }
        Self { rows, cols, gated, data, bias }
    }

    /// Width of a row of y.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Width of a row of x.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        4 * (self.data.len() + self.bias.len())
    }

    /// Row `r` of W, for a table that is also a head.
    ///
    /// # Panics
    /// When there is no such row, `out` is not as long as a row, or the weights are gated.
    pub fn row(&self, r: usize, out: &mut [f32]) {
        assert!(r < self.rows && out.len() == self.cols && !self.gated, "packed: row {r} of {}", self.rows);
        let panel = &self.data[r / PANEL * self.cols * PANEL..][..self.cols * PANEL];
        for (o, k) in out.iter_mut().zip(panel.chunks_exact(PANEL)) {
            *o = k[r % PANEL];
        }
    }

    /// `y[N, rows] = finish(x[N, cols])`.
    ///
    /// # Panics
    /// When x or y is not whole rows, or they differ in number.
    pub fn product(&self, x: &[f32], y: &mut [f32], finish: Finish) {
        self.product_on(cpu::path(), x, y, finish);
    }

    fn product_on(&self, path: Path, x: &[f32], y: &mut [f32], finish: Finish) {
        let (k, width) = (self.cols, Self::width(self.gated));
        let n = y.len().checked_div(self.rows).unwrap_or(0);
        assert!(
            n * self.rows == y.len() && n * k == x.len(),
            "packed: {} and {} numbers are not rows of {k} and {}",
            x.len(),
            y.len(),
            self.rows
        );
        if n == 0 || self.rows == 0 {
            return;
        }
        let panels = self.rows.div_ceil(width);
        // Few rows: tasks as large as the time of claiming one asks. Many: one panel each.
        let each = if n > ROWS { 1 } else { (TASK_WORDS / (PANEL * k.max(1))).clamp(1, panels.div_ceil(4)).max(1) };
        let y = Disjoint::new(y);
        pool::parallel(panels.div_ceil(each), |task| {
            let first = task * each;
            let count = each.min(panels - first);
            scratch::with(Slot::A, count * n * PANEL, |tile| {
                let tile: *mut f32 = tile.as_mut_ptr().cast();
                let sums =
                    Sums { w: self.data[first * k * PANEL..].as_ptr(), panels: count, x: x.as_ptr(), n, k, tile };
                dispatch(path, sums);
                dispatch(path, Close { w: self, first, panels: count, n, tile, y: &y, finish });
            });
        });
    }
}

/// x·Wᵀ of some panels, into `tile` `[panels, n, PANEL]`.
struct Sums {
    w: *const f32,
    panels: usize,
    x: *const f32,
    n: usize,
    k: usize,
    tile: *mut f32,
}

// SAFETY of all blocks of the two kernels: `product_on` makes them with whole panels, n rows of x and of y, and a
// tile of panels · n · PANEL numbers; row and strip indices stay below those.
impl Kernel for Sums {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let depth = if self.n > ROWS { DEPTH } else { self.k.max(1) };
        let mut k0 = 0;
        loop {
            let k1 = self.k.min(k0 + depth);
            let mut i = 0;
            unsafe {
                if S::REGISTERS >= 32 {
                    while i + 12 <= self.n {
                        self.rows::<S, 12, 1>(s, i, k0, k1);
                        i += 12;
                    }
                    while i + 6 <= self.n {
                        self.rows::<S, 6, 2>(s, i, k0, k1);
                        i += 6;
                    }
                } else {
                    while i + 6 <= self.n {
                        self.rows::<S, 6, 1>(s, i, k0, k1);
                        i += 6;
                    }
                }
                while i + 3 <= self.n {
                    self.rows::<S, 3, 2>(s, i, k0, k1);
                    i += 3;
                }
                while i + 2 <= self.n {
                    self.rows::<S, 2, 2>(s, i, k0, k1);
                    i += 2;
                }
                while i < self.n {
                    self.rows::<S, 1, 4>(s, i, k0, k1);
                    i += 1;
                }
            }
            k0 = k1;
            if k0 >= self.k {
                return;
            }
        }
    }
}

impl Sums {
    /// Rows `i..i + M` against all the panels, Q strips of two vectors at a time.
    #[inline(always)]
    unsafe fn rows<S: Simd, const M: usize, const Q: usize>(&self, s: S, i: usize, k0: usize, k1: usize) {
        let strips = self.panels * (PANEL / (2 * S::LANES));
        let mut strip = 0;
        // SAFETY: rows i .. i + M and strips below `strips` are inside.
        unsafe {
            while strip + Q <= strips {
                self.tile::<S, M, Q>(s, i, strip, k0, k1);
                strip += Q;
            }
            while strip < strips {
                self.tile::<S, M, 1>(s, i, strip, k0, k1);
                strip += 1;
            }
        }
    }

    #[inline(always)]
    unsafe fn tile<S: Simd, const M: usize, const Q: usize>(&self, s: S, i: usize, strip: usize, k0: usize, k1: usize) {
        let in_panel = PANEL / (2 * S::LANES);
        let mut w = [self.w; Q];
        let mut out = [[self.tile; Q]; M];
        let mut acc = [[[s.splat(0.0); 2]; Q]; M];
        // SAFETY: as above; a strip is two vectors of one panel, whose columns of `tile` it alone writes.
        unsafe {
            for q in 0..Q {
                let (panel, column) = ((strip + q) / in_panel, (strip + q) % in_panel * 2 * S::LANES);
                w[q] = self.w.add(panel * self.k * PANEL + column);
                for m in 0..M {
                    out[m][q] = self.tile.add((panel * self.n + i + m) * PANEL + column);
                    if k0 > 0 {
                        acc[m][q][0] = s.load_ptr(out[m][q]);
                        acc[m][q][1] = s.load_ptr(out[m][q].add(S::LANES));
                    }
                }
            }
            let x = self.x.add(i * self.k);
            let mut p = k0;
            while p < k1 {
                for q in 0..Q {
                    let w0 = s.load_ptr(w[q].add(p * PANEL));
                    let w1 = s.load_ptr(w[q].add(p * PANEL + S::LANES));
                    for m in 0..M {
                        let v = s.splat(*x.add(m * self.k + p));
                        acc[m][q][0] = s.fma(v, w0, acc[m][q][0]);
                        acc[m][q][1] = s.fma(v, w1, acc[m][q][1]);
                    }
                }
                p += 1;
            }
            for q in 0..Q {
                for m in 0..M {
                    s.store_ptr(out[m][q], acc[m][q][0]);
                    s.store_ptr(out[m][q].add(S::LANES), acc[m][q][1]);
                }
            }
        }
    }
}

/// Bias, activation or gate, residual; from `tile` to the columns of y that its panels make.
struct Close<'a> {
    w: &'a Packed,
    first: usize,
    panels: usize,
    n: usize,
    tile: *const f32,
    y: &'a Disjoint<'a, f32>,
    finish: Finish,
}

impl Kernel for Close<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        match self.finish.activation {
            Activation::None => self.close::<S>(s, Activation::None),
            Activation::GeluTanh => self.close::<S>(s, Activation::GeluTanh),
            Activation::GeluErf => self.close::<S>(s, Activation::GeluErf),
            Activation::Silu => self.close::<S>(s, Activation::Silu),
            Activation::Relu => self.close::<S>(s, Activation::Relu),
            Activation::Relu2 => self.close::<S>(s, Activation::Relu2),
        }
    }
}

impl Close<'_> {
    #[inline(always)]
    fn close<S: Simd>(&self, s: S, activation: Activation) {
        let width = Packed::width(self.w.gated);
        for p in 0..self.panels {
            let column = (self.first + p) * width;
            let columns = width.min(self.w.rows - column);
            let bias = self.w.bias.get((self.first + p) * PANEL..).unwrap_or(&[]);
            for i in 0..self.n {
                let mut c = 0;
                while c < columns {
                    let lanes = S::LANES.min(columns - c);
                    // SAFETY: c and a vector lie in a panel of the tile; the columns of y belong to this task.
                    unsafe {
                        let from = self.tile.add((p * self.n + i) * PANEL + c);
                        let mut v = s.load_ptr(from);
                        if !bias.is_empty() {
                            v = s.add(v, s.load(&bias[c..]));
                        }
                        if self.w.gated {
                            let mut up = s.load_ptr(from.add(PANEL / 2));
                            if !bias.is_empty() {
                                up = s.add(up, s.load(&bias[PANEL / 2 + c..]));
                            }
                            v = s.mul(simd_math::silu(s, v), up);
                        } else {
                            v = simd_math::activation(s, activation, v);
                        }
                        // These columns of y belong to this task alone.
                        let y = self.y.part(i * self.w.rows + column + c, lanes);
                        if self.finish.add {
                            v = s.add(v, s.load_part(y));
                        }
                        s.store_part(y, v);
                    }
                    c += S::LANES;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ramp(n: usize, seed: usize) -> Vec<f32> {
        (0..n).map(|i| ((i * 7919 + seed * 104_729) % 1009) as f32 / 504.5 - 1.0).collect()
    }

    /// The definition, in double precision.
    fn plain(w: &[f32], bias: Option<&[f32]>, x: &[f32], k: usize, rows: usize) -> Vec<f64> {
        let row = |x: &[f32], r: usize| -> f64 {
            let dot: f64 = x.iter().zip(&w[r * k..]).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
            dot + bias.map_or(0.0, |b| f64::from(b[r]))
        };
        x.chunks(k).flat_map(|x| (0..rows).map(move |r| row(x, r))).collect()
    }

    fn close(y: &[f32], want: impl Iterator<Item = f64>, what: &str) {
        for (i, (y, w)) in y.iter().zip(want).enumerate() {
            assert!((f64::from(*y) - w).abs() < 1e-4 * w.abs().max(1.0), "{what}: element {i} is {y}, not {w}");
        }
    }

    #[test]
    fn equals_the_definition_on_every_path() {
        for (n, k, rows) in [(1, 40, 70), (2, 33, 32), (5, 64, 31), (9, 17, 130), (40, 2100, 65), (13, 1, 1)] {
            let (w, x) = (ramp(rows * k, 1), ramp(n * k, 2));
            let bias = ramp(rows, 3);
            let packed = Packed::new(&w, rows, k, Some(&bias));
            for path in cpu::available() {
                let mut y = vec![2.0; n * rows];
                let finish = Finish { activation: Activation::Relu2, add: true };
                packed.product_on(path, &x, &mut y, finish);
                let want = plain(&w, Some(&bias), &x, k, rows).into_iter().map(|v| 2.0 + v.max(0.0).powi(2));
                close(&y, want, &format!("{path:?} {n} {k} {rows}"));
            }
        }
    }

    #[test]
    fn gated_weights_give_swiglu() {
        let (n, k, rows) = (7, 24, 37);
        let (w, x, bias) = (ramp(2 * rows * k, 1), ramp(n * k, 2), ramp(2 * rows, 3));
        for bias in [None, Some(&bias[..])] {
            let packed = Packed::gated(&w, rows, k, bias);
            let both = plain(&w, bias, &x, k, 2 * rows);
            for path in cpu::available() {
                let mut y = vec![0.0; n * rows];
                packed.product_on(path, &x, &mut y, Finish::default());
                let want = both.chunks(2 * rows).flat_map(|row| {
                    (0..rows).map(|r| row[r] / (1.0 + (-row[r]).exp()) * row[rows + r]).collect::<Vec<_>>()
                });
                close(&y, want, &format!("{path:?}"));
            }
        }
    }

    #[test]
    fn a_row_has_the_same_bits_in_any_company() {
        let (k, rows, most) = (2500, 100, 31);
        let (w, x) = (ramp(rows * k, 1), ramp(most * k, 2));
        let packed = Packed::new(&w, rows, k, None);
        for path in cpu::available() {
            let mut alone = vec![0.0; most * rows];
            for (x, y) in x.chunks(k).zip(alone.chunks_mut(rows)) {
                packed.product_on(path, x, y, Finish::default());
            }
            for n in [2, 3, 4, 5, 6, 7, 8, 12, 13, 18, 31] {
                let mut y = vec![0.0; n * rows];
                packed.product_on(path, &x[..n * k], &mut y, Finish::default());
                assert_eq!(y, alone[..n * rows], "{path:?} {n}");
            }
        }
    }

    #[test]
    fn rows_come_back_as_they_were() {
        let w = ramp(70 * 9, 4);
        let packed = Packed::new(&w, 70, 9, None);
        let mut row = [0.0; 9];
        for r in [0, 31, 32, 69] {
            packed.row(r, &mut row);
            assert_eq!(row, w[r * 9..][..9]);
        }
    }
}
