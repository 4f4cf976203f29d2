//! Muon: momentum, orthogonalised.

use super::moments::{Moment, Noise, round};
use crate::buffer::OutOfMemory;
use crate::cast::cast;
use crate::elementwise::scale_add;
use crate::gemm::{self, Compute, Epilogue, Mat, gemm};
use crate::real::Real;
use crate::reduce::sum_of_squares;
use crate::scratch::Scratch;
use crate::thread_buffer::{self, Slot};

/// How the orthogonal update is scaled for a matrix of `rows × cols` (out × in).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MuonScale {
    /// √max(1, rows/cols) (Jordan 2024, <https://kellerjordan.github.io/posts/muon/>).
    #[default]
    Jordan,
    /// 0.2·√max(rows, cols), so that AdamW's learning rate and decay can be kept (Moonlight,
    /// arXiv:2502.16982 §2.2).
    Moonlight,
}

/// Muon for matrices (Jordan 2024): Nesterov momentum whose singular values are pushed towards 1 by five
/// Newton–Schulz steps, with decoupled weight decay.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Muon {
    /// Learning rate, before [`MuonScale`].
    pub lr: f64,
    /// Decay of the momentum.
    pub momentum: f64,
    /// Look ahead: orthogonalise (1 − μ)·g + μ·m instead of m.
    pub nesterov: bool,
    /// Decoupled weight decay, times the unscaled learning rate.
    pub weight_decay: f64,
    /// Newton–Schulz steps.
    pub steps: usize,
    /// Scale of the update.
    pub scale: MuonScale,
    /// Precision of the matrix products.
    pub compute: Compute,
    /// Factor on the gradient (clipping, mean over micro-batches).
    pub grad_scale: f64,
    /// Rounds a momentum in bf16.
    pub noise: Noise,
}

impl Default for Muon {
    /// Jordan's defaults.
    fn default() -> Self {
        Muon {
            lr: 0.02,
            momentum: 0.95,
            nesterov: true,
            weight_decay: 0.0,
            steps: 5,
            scale: MuonScale::Jordan,
            compute: Compute::F32,
            grad_scale: 1.0,
            noise: [0; 2],
        }
    }
}

impl Muon {
    /// One step on a matrix `w` `[rows, cols]` with gradient `g` and momentum `m` of that shape.
    ///
    /// # Errors
    /// There is no memory for [`Muon::scratch`]; nothing is then changed.
    ///
    /// # Panics
    /// When lengths disagree.
    pub fn step<'a>(
        &self,
        rows: usize,
        cols: usize,
        w: &mut [f32],
        g: &[f32],
        m: impl Into<Moment<'a>>,
    ) -> Result<(), OutOfMemory> {
        self.step_by(rows, cols, w, g, m.into())
    }

    fn step_by(&self, rows: usize, cols: usize, w: &mut [f32], g: &[f32], m: Moment<'_>) -> Result<(), OutOfMemory> {
        assert!(
            [w.len(), g.len(), m.len()].iter().all(|&n| n == rows * cols),
            "muon: parameters, gradient and momentum of a {rows} × {cols} matrix"
        );
        if w.is_empty() {
            return Ok(());
        }
        let words = Work::numbers(rows, cols).saturating_add(m.len());
        thread_buffer::try_with(Slot::Call, words, |words| {
            let (update, work) = bytemuck::cast_slice_mut::<u32, f32>(words).split_at_mut(m.len());
            self.step_in(rows, cols, w, g, m, update, Work::new(rows, cols, work));
        })
    }

    /// The step, with room for the update and for its orthogonalisation, which may hold anything.
    #[allow(clippy::too_many_arguments)]
    fn step_in(
        &self,
        rows: usize,
        cols: usize,
        w: &mut [f32],
        g: &[f32],
        m: Moment<'_>,
        update: &mut [f32],
        work: Work<'_>,
    ) {
        let mu = self.momentum as f32;
        let fresh = ((1.0 - self.momentum) * self.grad_scale) as f32;
        match m {
            Moment::F32(m) => {
                scale_add(fresh, g, mu, m);
                update.copy_from_slice(m);
            }
            Moment::Bf16(m) => {
                cast(&*m, update);
                scale_add(fresh, g, mu, update);
                round(update, m, self.noise, 0);
            }
        }
        if self.nesterov {
            scale_add(fresh, g, mu, update);
        }
        work.orthogonalize(update, rows, cols, self.steps, self.compute);
        let (r, c) = (rows as f64, cols as f64);
        let factor = match self.scale {
            MuonScale::Jordan => (r / c).max(1.0).sqrt(),
            MuonScale::Moonlight => 0.2 * r.max(c).sqrt(),
        };
        scale_add((-self.lr * factor) as f32, update, (1.0 - self.lr * self.weight_decay) as f32, w);
    }

    /// What [`Muon::step`] takes beside its operands.
    pub fn scratch(&self, rows: usize, cols: usize) -> Scratch {
        let n = rows.min(cols);
        let (x, square) = (Mat::f32(&[], n, rows.max(cols)), Mat::f32(&[], n, n));
        let products = [(x, x.t()), (square, square), (square, x), (x.t(), square)];
        let packed = products
            .iter()
            .fold(Scratch::default(), |most, (left, right)| most.or(gemm::scratch(self.compute, left, right)));
        Scratch { call: (rows * cols + Work::numbers(rows, cols)) * size_of::<f32>(), ..packed }
    }
}

/// Room for the Newton–Schulz steps.
struct Work<'a> {
    /// The next iterate.
    y: &'a mut [f32],
    /// A = X·Xᵀ of the smaller side.
    gram: &'a mut [f32],
    /// bA + cA².
    poly: &'a mut [f32],
}

/// Coefficients a, b, c of the quintic, chosen by Jordan for the steepest slope at 0.
const QUINTIC: [f64; 3] = [3.4445, -4.7750, 2.0315];

/// Replaces the matrix `x` `[rows, cols]` by nearly U·Vᵀ of its singular value decomposition: singular
/// values land in about 0.7 … 1.2. Quintic Newton–Schulz X ← aX + (bA + cA²)X with A = X·Xᵀ taken on the
/// smaller side, after division by the Frobenius norm.
///
/// # Errors
/// There is no memory for one more such matrix and two squares of its smaller side; `x` is then as it was.
///
/// # Panics
/// When `x` is not `rows · cols` long.
pub fn orthogonalize(
    x: &mut [f32],
    rows: usize,
    cols: usize,
    steps: usize,
    compute: Compute,
) -> Result<(), OutOfMemory> {
    thread_buffer::try_with(Slot::Call, Work::numbers(rows, cols), |words| {
        Work::new(rows, cols, bytemuck::cast_slice_mut(words)).orthogonalize(x, rows, cols, steps, compute);
    })
}

impl<'a> Work<'a> {
    /// Divides [`Work::numbers`] numbers, which may be anything.
    fn new(rows: usize, cols: usize, room: &'a mut [f32]) -> Self {
        let n = rows.min(cols);
        let (y, squares) = room.split_at_mut(rows * cols);
        let (gram, poly) = squares.split_at_mut(n * n);
        Self { y, gram, poly }
    }

    /// Numbers of the room for a matrix of `rows × cols`.
    fn numbers(rows: usize, cols: usize) -> usize {
        let n = rows.min(cols);
        rows * cols + 2 * n * n
    }

    fn orthogonalize(self, x: &mut [f32], rows: usize, cols: usize, steps: usize, compute: Compute) {
        assert_eq!(x.len(), rows * cols, "muon: a {rows} × {cols} matrix");
        let Self { y, gram, poly } = self;
        let [a, b, c] = QUINTIC.map(|q| q as f32);
        let norm = sum_of_squares(x).sqrt().max(1e-7) as f32;
        y.copy_from_slice(x);
        scale_add(1.0 / norm, y, 0.0, x);
        let n = rows.min(cols);
        for _ in 0..steps {
            let m = Mat::f32(x, rows, cols);
            // A = X·Xᵀ of the wide orientation, without moving a tall X.
            let (left, right) = if rows <= cols { (m, m.t()) } else { (m.t(), m) };
            gemm(compute, left, right, gram, n, Epilogue::default());
            // bA + cA²; then aX + (…)X, or aX + X(…) for the tall one (the polynomial is symmetric).
            scale_add(b, gram, 0.0, poly);
            let g = Mat::f32(gram, n, n);
            gemm(compute, g, g, poly, n, Epilogue { alpha: c, accumulate: true, ..Default::default() });
            let p = Mat::f32(poly, n, n);
            let (left, right) = if rows <= cols { (p, m) } else { (m, p) };
            gemm(compute, left, right, y, cols, Epilogue::default());
            scale_add(1.0, y, a, x);
        }
    }
}

/// The plain twin of [`orthogonalize`].
pub fn plain_orthogonalize<T: Real>(x: &mut [T], rows: usize, cols: usize, steps: usize) {
    let [a, b, c] = QUINTIC.map(T::from_f64);
    // Wide orientation: k rows of n numbers.
    let (k, n) = (rows.min(cols), rows.max(cols));
    let at = |i: usize, j: usize| if rows <= cols { i * cols + j } else { j * cols + i };
    let norm = x.iter().fold(T::ZERO, |s, &v| s + v * v).sqrt().max(T::from_f64(1e-7));
    x.iter_mut().for_each(|v| *v /= norm);
    let sum = |n: usize, f: &dyn Fn(usize) -> T| (0..n).fold(T::ZERO, |s, l| s + f(l));
    for _ in 0..steps {
        let entries = || (0..k * k).map(|e| (e / k, e % k));
        let gram: Vec<T> = entries().map(|(i, j)| sum(n, &|l| x[at(i, l)] * x[at(j, l)])).collect();
        let square = |i, j| sum(k, &|l| gram[i * k + l] * gram[l * k + j]);
        let poly: Vec<T> = entries().map(|(i, j)| b * gram[i * k + j] + c * square(i, j)).collect();
        let old = x.to_vec();
        for i in 0..k {
            for j in 0..n {
                x[at(i, j)] = a * old[at(i, j)] + sum(k, &|l| poly[i * k + l] * old[at(l, j)]);
            }
        }
    }
}
