//! Layer norm and RMS norm over rows: forward, backward, optional fused residual add.
//!
//! Here: the f32 kernels and their [`plain`] twins, which are generic over [`Real`](crate::real::Real) and serve f64.
//! Not here: group or batch norms, and the residual stream itself (see `elementwise`).
//!
//! ```
//! use gently_kernels::norm::{self, Kind, Norm};
//! let norm = Norm { kind: Kind::Rms, width: 2, weight: None, bias: None, eps: 0.0 };
//! let (mut y, mut rstd) = ([0.0f32; 2], [0.0f32; 1]);
//! norm::forward(&norm, &[3.0, 4.0], None, &mut y, &mut [], &mut rstd);
//! assert!((y[0] * y[0] + y[1] * y[1] - 2.0).abs() < 1e-5);
//! ```

use crate::cpu::{self, Path};
use crate::lanes::{self, fold, for_lanes};
use crate::pool::{self, Disjoint};
use crate::scratch::Scratch;
use crate::simd::{Kernel, Simd, dispatch};

/// Which statistic a row is divided by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `(x - mean) / sqrt(var + eps)` with the biased variance (Ba et al. 2016, arXiv:1607.06450).
    Layer,
    /// `x / sqrt(mean(x²) + eps)` (Zhang & Sennrich 2019, arXiv:1910.07467).
    Rms,
}

/// What a norm is: kind, row width C, gain and shift `[C]` (absent means 1 and 0), epsilon.
#[derive(Clone, Copy, Debug)]
pub struct Norm<'a, T> {
    /// Layer or RMS.
    pub kind: Kind,
    /// Row width C.
    pub width: usize,
    /// Gain `[C]`.
    pub weight: Option<&'a [T]>,
    /// Shift `[C]`.
    pub bias: Option<&'a [T]>,
    /// Added to the variance or mean square.
    pub eps: T,
}

/// A residual `[N, C]` added to the input before it is normalised; the sum is written out as well,
/// because it is the next residual stream and the input that the backward needs.
#[derive(Debug)]
pub struct ResidualAdd<'a, T> {
    /// Added to x, `[N, C]`.
    pub residual: &'a [T],
    /// Receives `x + residual`, `[N, C]`.
    pub sum: &'a mut [T],
}

/// Where the backward writes.
#[derive(Debug)]
pub struct Grads<'a, T> {
    /// Gradient of the normalised input, `[N, C]`.
    pub dx: &'a mut [T],
    /// Add to `dx` instead of overwriting it (the residual stream's gradient is already there).
    pub accumulate_dx: bool,
    /// Gradient of the gain, `[C]`.
    pub dweight: Option<&'a mut [T]>,
    /// Gradient of the shift, `[C]`.
    pub dbias: Option<&'a mut [T]>,
    /// Add to `dweight` and `dbias` instead of overwriting them.
    pub accumulate_params: bool,
}

impl<T> Norm<'_, T> {
    fn check(&self, x: usize, mean: usize, rstd: usize) -> usize {
        assert!(self.width > 0, "norm: width is zero");
        let rows = x / self.width;
        assert_eq!(rows * self.width, x, "norm: input is not whole rows of {}", self.width);
        assert_eq!(rstd, rows, "norm: rstd holds one value per row");
        if self.kind == Kind::Layer {
            assert_eq!(mean, rows, "norm: mean holds one value per row");
        }
        for (name, p) in [("weight", self.weight), ("bias", self.bias)] {
            if let Some(p) = p {
                assert_eq!(p.len(), self.width, "norm: {name} is as wide as a row");
            }
        }
        rows
    }
}

/// Normalises the rows of `x` `[N, C]` (or of `x + residual`) into `y` `[N, C]`.
///
/// `mean` `[N]` (unused and may be empty for RMS) and `rstd` `[N]` keep each row's statistics for
/// [`backward`].
///
/// # Panics
/// When lengths disagree.
pub fn forward(
    norm: &Norm<'_, f32>,
    x: &[f32],
    add: Option<ResidualAdd<'_, f32>>,
    y: &mut [f32],
    mean: &mut [f32],
    rstd: &mut [f32],
) {
    forward_on(cpu::path(), norm, x, add, y, mean, rstd);
}

/// Gradients of [`forward`]: `x` is what was normalised (the sum, if a residual was added), `dy`
/// `[N, C]`. The sums over rows run over chunks fixed by the shape, so their bits do not depend on
/// the number of threads.
///
/// # Panics
/// When lengths disagree.
pub fn backward(norm: &Norm<'_, f32>, x: &[f32], mean: &[f32], rstd: &[f32], dy: &[f32], grads: Grads<'_, f32>) {
    backward_on(cpu::path(), norm, x, mean, rstd, dy, grads);
}

fn forward_on(
    path: Path,
    norm: &Norm<'_, f32>,
    x: &[f32],
    add: Option<ResidualAdd<'_, f32>>,
    y: &mut [f32],
    mean: &mut [f32],
    rstd: &mut [f32],
) {
    let (c, rows) = (norm.width, norm.check(x.len(), mean.len(), rstd.len()));
    assert_eq!(y.len(), x.len(), "norm: length of y");
    let (residual, sum) = match add {
        Some(add) => (Some(add.residual), Some(add.sum)),
        None => (None, None),
    };
    assert!(residual.is_none_or(|r| r.len() == x.len()), "norm: length of the residual");
    assert!(sum.as_ref().is_none_or(|s| s.len() == x.len()), "norm: length of the sum");
    let per_task = lanes::rows_per_task(c);
    let (y, rstd) = (Disjoint::new(y), Disjoint::new(rstd));
    let (mean, sum) = (Disjoint::new(mean), sum.map(Disjoint::new));
    pool::parallel(rows.div_ceil(per_task), |task| {
        let first = task * per_task;
        let n = per_task.min(rows - first);
        let (at, len) = (first * c, n * c);
        // SAFETY: each task takes its own rows of every output.
        let part = unsafe {
            Forward {
                norm,
                x: &x[at..at + len],
                residual: residual.map(|r| &r[at..at + len]),
                sum: sum.as_ref().map(|s| s.part(at, len)),
                y: y.part(at, len),
                mean: match norm.kind {
                    Kind::Layer => mean.part(first, n),
                    Kind::Rms => &mut [],
                },
                rstd: rstd.part(first, n),
            }
        };
        dispatch(path, part);
    });
}

/// Some rows of the forward pass. Three passes over each row, which stays in the first-level cache: the
/// two-pass variance loses no digits where the mean is large.
struct Forward<'a> {
    norm: &'a Norm<'a, f32>,
    x: &'a [f32],
    residual: Option<&'a [f32]>,
    sum: Option<&'a mut [f32]>,
    y: &'a mut [f32],
    mean: &'a mut [f32],
    rstd: &'a mut [f32],
}

impl Kernel for Forward<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(mut self, s: S) {
        let c = self.norm.width;
        let inv_n = 1.0 / c as f32;
        let zero = s.splat(0.0);
        for r in 0..self.rstd.len() {
            let at = r * c;
            let mut row = &self.x[at..at + c];
            if let (Some(residual), Some(sum)) = (self.residual, self.sum.as_deref_mut()) {
                let (residual, sum) = (&residual[at..at + c], &mut sum[at..at + c]);
                for_lanes!(S, c, |i, n| {
                    let v = s.add(s.load_part(&row[i..i + n]), s.load_part(&residual[i..i + n]));
                    s.store_part(&mut sum[i..i + n], v);
                });
                row = sum;
            }
            let (mu, square) = match self.norm.kind {
                Kind::Rms => (0.0, lanes::sum_sqr(s, row)),
                Kind::Layer => {
                    let mu = lanes::sum(s, row) * inv_n;
                    let m = s.splat(mu);
                    let whole = c / S::LANES * S::LANES;
                    let accs = fold!(S, zero, whole, |acc, i, n| {
                        let d = s.sub(s.load_part(&row[i..i + n]), m);
                        s.fma(d, d, acc)
                    });
                    // The tail apart: its empty lanes would count as deviations of −mean.
                    let tail: f32 = row[whole..].iter().map(|v| (v - mu) * (v - mu)).sum();
                    self.mean[r] = mu;
                    (mu, lanes::join(s, accs) + tail)
                }
            };
            let rstd = 1.0 / (square * inv_n + self.norm.eps).sqrt();
            self.rstd[r] = rstd;
            let (m, k) = (s.splat(mu), s.splat(rstd));
            let y = &mut self.y[at..at + c];
            match (self.norm.weight, self.norm.bias) {
                (Some(w), Some(b)) => {
                    let (w, b) = (&w[..c], &b[..c]);
                    for_lanes!(S, c, |i, n| {
                        let xhat = s.mul(s.sub(s.load_part(&row[i..i + n]), m), k);
                        let v = s.fma(xhat, s.load_part(&w[i..i + n]), s.load_part(&b[i..i + n]));
                        s.store_part(&mut y[i..i + n], v);
                    });
                }
                (w, b) => {
                    for_lanes!(S, c, |i, n| {
                        let mut v = s.mul(s.sub(s.load_part(&row[i..i + n]), m), k);
                        if let Some(w) = w {
                            v = s.mul(v, s.load_part(&w[i..i + n]));
                        }
                        if let Some(b) = b {
                            v = s.add(v, s.load_part(&b[i..i + n]));
                        }
                        s.store_part(&mut y[i..i + n], v);
                    });
                }
            }
        }
    }
}

fn backward_on(
    path: Path,
    norm: &Norm<'_, f32>,
    x: &[f32],
    mean: &[f32],
    rstd: &[f32],
    dy: &[f32],
    grads: Grads<'_, f32>,
) {
    let (c, rows) = (norm.width, norm.check(x.len(), mean.len(), rstd.len()));
    let Grads { dx, accumulate_dx, mut dweight, mut dbias, accumulate_params } = grads;
    assert_eq!(dy.len(), x.len(), "norm: length of dy");
    assert_eq!(dx.len(), x.len(), "norm: length of dx");
    for p in [&mut dweight, &mut dbias].into_iter().flatten() {
        assert_eq!(p.len(), c, "norm: parameter gradients are as wide as a row");
        if !accumulate_params {
            p.fill(0.0);
        }
    }
    if rows == 0 {
        return;
    }
    // Without parameter gradients the cut is free; with them each chunk sums into its own [dw | db].
    let want_params = dweight.is_some() || dbias.is_some();
    let per_task = if want_params { lanes::rows_per_partial(rows) } else { lanes::rows_per_task(c) };
    let tasks = rows.div_ceil(per_task);
    let mut partials = vec![0.0f32; if want_params { partials(rows, c) } else { 0 }];
    let (dx, parts) = (Disjoint::new(dx), Disjoint::new(&mut partials));
    pool::parallel(tasks, |task| {
        let first = task * per_task;
        let n = per_task.min(rows - first);
        let (at, len) = (first * c, n * c);
        // SAFETY: each task takes its own rows and its own partial sums.
        let part = unsafe {
            Backward {
                norm,
                x: &x[at..at + len],
                mean: match norm.kind {
                    Kind::Layer => &mean[first..first + n],
                    Kind::Rms => &[],
                },
                rstd: &rstd[first..first + n],
                dy: &dy[at..at + len],
                dx: dx.part(at, len),
                accumulate_dx,
                partial: want_params.then(|| parts.part(task * 2 * c, 2 * c).split_at_mut(c)),
            }
        };
        dispatch(path, part);
    });
    for partial in partials.chunks_exact(2 * c) {
        let (dw, db) = partial.split_at(c);
        for (sum, part) in [(&mut dweight, dw), (&mut dbias, db)] {
            if let Some(sum) = sum {
                sum.iter_mut().zip(part).for_each(|(s, &p)| *s += p);
            }
        }
    }
}

/// Numbers in the sums of all chunks of rows: [dw | db] of each.
fn partials(rows: usize, width: usize) -> usize {
    rows.div_ceil(lanes::rows_per_partial(rows)) * 2 * width
}

/// What [`backward`] takes beside its operands where gradients of parameters are wanted.
pub fn backward_scratch(rows: usize, width: usize) -> Scratch {
    Scratch { call: partials(rows, width) * size_of::<f32>(), ..Scratch::default() }
}

/// Some rows of the backward pass: one pass for the two sums of a row, one for the gradients.
struct Backward<'a> {
    norm: &'a Norm<'a, f32>,
    x: &'a [f32],
    mean: &'a [f32],
    rstd: &'a [f32],
    dy: &'a [f32],
    dx: &'a mut [f32],
    accumulate_dx: bool,
    partial: Option<(&'a mut [f32], &'a mut [f32])>,
}

impl Kernel for Backward<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Backward { norm, x, mean, rstd, dy, dx, accumulate_dx, mut partial } = self;
        let c = norm.width;
        let inv_n = 1.0 / c as f32;
        let zero = s.splat(0.0);
        for (r, &rstd) in rstd.iter().enumerate() {
            let at = r * c;
            let (x, dy, dx) = (&x[at..at + c], &dy[at..at + c], &mut dx[at..at + c]);
            let centre = mean.get(r).copied().unwrap_or(0.0);
            let (m, k) = (s.splat(centre), s.splat(rstd));
            // Σ g and Σ g·x̂; lanes past the end have g = 0.
            let [p, q, u, v] = fold!(S, (zero, zero), c, |acc, i, n| {
                let mut g = s.load_part(&dy[i..i + n]);
                if let Some(w) = norm.weight {
                    g = s.mul(g, s.load_part(&w[i..i + n]));
                }
                let xhat = s.mul(s.sub(s.load_part(&x[i..i + n]), m), k);
                (s.add(acc.0, g), s.fma(g, xhat, acc.1))
            });
            let sum_g = lanes::join(s, [p.0, q.0, u.0, v.0]);
            let sum_gx = lanes::join(s, [p.1, q.1, u.1, v.1]);
            let mean_gx = s.splat(sum_gx * inv_n);
            let mean_g = match norm.kind {
                Kind::Layer => s.splat(sum_g * inv_n),
                Kind::Rms => zero,
            };
            for_lanes!(S, c, |i, n| {
                let d = s.load_part(&dy[i..i + n]);
                let xhat = s.mul(s.sub(s.load_part(&x[i..i + n]), m), k);
                let mut g = d;
                if let Some(w) = norm.weight {
                    g = s.mul(g, s.load_part(&w[i..i + n]));
                }
                let inner = s.nfma(xhat, mean_gx, s.sub(g, mean_g));
                let old = if accumulate_dx { s.load_part(&dx[i..i + n]) } else { zero };
                s.store_part(&mut dx[i..i + n], s.fma(inner, k, old));
                if let Some((dw, db)) = &mut partial {
                    let (dw, db) = (&mut dw[i..i + n], &mut db[i..i + n]);
                    let v = s.fma(d, xhat, s.load_part(dw));
                    s.store_part(dw, v);
                    let v = s.add(d, s.load_part(db));
                    s.store_part(db, v);
                }
            });
        }
    }
}

/// Reference implementations, generic over the float type.
pub mod plain {
    use super::{Grads, Kind, Norm, ResidualAdd};
    use crate::real::Real;

    /// See [`super::forward`].
    pub fn forward<T: Real>(
        norm: &Norm<'_, T>,
        x: &[T],
        add: Option<ResidualAdd<'_, T>>,
        y: &mut [T],
        mean: &mut [T],
        rstd: &mut [T],
    ) {
        let (c, rows) = (norm.width, norm.check(x.len(), mean.len(), rstd.len()));
        let n = T::from_f64(c as f64);
        let mut input = x;
        if let Some(add) = add {
            for ((s, &a), &b) in add.sum.iter_mut().zip(x).zip(add.residual) {
                *s = a + b;
            }
            input = add.sum;
        }
        for r in 0..rows {
            let row = &input[r * c..][..c];
            let mu = match norm.kind {
                Kind::Layer => row.iter().fold(T::ZERO, |s, &v| s + v) / n,
                Kind::Rms => T::ZERO,
            };
            let var = row.iter().fold(T::ZERO, |s, &v| s + (v - mu) * (v - mu)) / n;
            let scale = T::ONE / (var + norm.eps).sqrt();
            for i in 0..c {
                let gain = norm.weight.map_or(T::ONE, |w| w[i]);
                let shift = norm.bias.map_or(T::ZERO, |b| b[i]);
                y[r * c + i] = (row[i] - mu) * scale * gain + shift;
            }
            if norm.kind == Kind::Layer {
                mean[r] = mu;
            }
            rstd[r] = scale;
        }
    }

    /// See [`super::backward`]. With x̂ = (x − mean)·rstd and g = dy·weight:
    /// dx = rstd·(g − mean(g) − x̂·mean(g·x̂)), the middle term absent for RMS.
    pub fn backward<T: Real>(norm: &Norm<'_, T>, x: &[T], mean: &[T], rstd: &[T], dy: &[T], mut grads: Grads<'_, T>) {
        let (c, rows) = (norm.width, norm.check(x.len(), mean.len(), rstd.len()));
        let n = T::from_f64(c as f64);
        if !grads.accumulate_params {
            for p in [&mut grads.dweight, &mut grads.dbias].into_iter().flatten() {
                p.fill(T::ZERO);
            }
        }
        for r in 0..rows {
            let centre = if norm.kind == Kind::Layer { mean[r] } else { T::ZERO };
            let xhat = |i: usize| (x[r * c + i] - centre) * rstd[r];
            let g = |i: usize| dy[r * c + i] * norm.weight.map_or(T::ONE, |w| w[i]);
            let mut mean_g = T::ZERO;
            let mut mean_gx = T::ZERO;
            for i in 0..c {
                mean_g += g(i);
                mean_gx += g(i) * xhat(i);
            }
            mean_g = if norm.kind == Kind::Layer { mean_g / n } else { T::ZERO };
            mean_gx /= n;
            for i in 0..c {
                let dx = rstd[r] * (g(i) - mean_g - xhat(i) * mean_gx);
                let out = &mut grads.dx[r * c + i];
                *out = if grads.accumulate_dx { *out + dx } else { dx };
                if let Some(dw) = &mut grads.dweight {
                    dw[i] += dy[r * c + i] * xhat(i);
                }
                if let Some(db) = &mut grads.dbias {
                    db[i] += dy[r * c + i];
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lanes::testing::{close, gradient, random, same_on_threads, wide};
    use proptest::prelude::*;

    /// All results of one forward and backward, f32 on a path or f64 plain.
    struct Run<T> {
        y: Vec<T>,
        sum: Vec<T>,
        mean: Vec<T>,
        rstd: Vec<T>,
        dx: Vec<T>,
        dw: Vec<T>,
        db: Vec<T>,
    }

    macro_rules! run {
        ($t:ty, $kind:expr, $width:expr, $x:expr, $res:expr, $w:expr, $b:expr, $dy:expr,
         $accumulate:expr, $forward:expr, $backward:expr) => {{
            let (n, c) = ($x.len(), $width);
            let rows = n / c;
            let norm = Norm { kind: $kind, width: c, weight: $w, bias: $b, eps: 1e-5 };
            let stats = if $kind == Kind::Layer { rows } else { 0 };
            let mut r = Run::<$t> {
                y: vec![0.0; n],
                sum: $x.to_vec(),
                mean: vec![0.0; stats],
                rstd: vec![0.0; rows],
                dx: vec![0.5; n],
                dw: vec![0.25; c],
                db: vec![0.125; c],
            };
            let mut sum = vec![0.0; n];
            let add = $res.map(|residual| ResidualAdd { residual, sum: &mut sum });
            let added = add.is_some();
            $forward(&norm, $x, add, &mut r.y, &mut r.mean, &mut r.rstd);
            if added {
                r.sum = sum;
            }
            let grads = Grads {
                dx: &mut r.dx,
                accumulate_dx: $accumulate,
                dweight: Some(&mut r.dw),
                dbias: Some(&mut r.db),
                accumulate_params: $accumulate,
            };
            $backward(&norm, &r.sum, &r.mean, &r.rstd, $dy, grads);
            r
        }};
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn every_path_agrees_with_the_plain_twin(
            rows in 1usize..90, width in 1usize..150, seed: u32,
            rms: bool, residual: bool, weight: bool, bias: bool, accumulate: bool,
        ) {
            let kind = if rms { Kind::Rms } else { Kind::Layer };
            let x: Vec<f32> = random(seed, rows * width).iter().map(|v| v * 2.0 + 3.0).collect();
            let (dy, res) = (random(seed ^ 1, x.len()), random(seed ^ 2, x.len()));
            let (w, b) = (random(seed ^ 3, width), random(seed ^ 4, width));
            let (xd, dyd, resd, wd, bd) = (wide(&x), wide(&dy), wide(&res), wide(&w), wide(&b));
            let want = run!(f64, kind, width, &xd, residual.then_some(resd.as_slice()),
                weight.then_some(wd.as_slice()), bias.then_some(bd.as_slice()), &dyd, accumulate,
                plain::forward, plain::backward);
            for path in cpu::available() {
                let got = run!(f32, kind, width, &x, residual.then_some(res.as_slice()),
                    weight.then_some(w.as_slice()), bias.then_some(b.as_slice()), &dy, accumulate,
                    |n: &Norm<'_, f32>, x: &[f32], a: Option<ResidualAdd<'_, f32>>, y: &mut [f32], m: &mut [f32], r: &mut [f32]|
                        forward_on(path, n, x, a, y, m, r),
                    |n: &Norm<'_, f32>, x: &[f32], m: &[f32], r: &[f32], dy: &[f32], g: Grads<'_, f32>|
                        backward_on(path, n, x, m, r, dy, g));
                // A row of one or two nearly equal numbers has a large 1/σ, which enlarges rounding.
                let worst = want.rstd.iter().fold(1.0, |m: f64, &r| m.max(r));
                let tol = 1e-5 * worst * worst;
                close(&got.sum, &want.sum, 1e-6, "sum");
                close(&got.mean, &want.mean, 1e-6, "mean");
                close(&got.rstd, &want.rstd, tol, "rstd");
                close(&got.y, &want.y, tol, "y");
                close(&got.dx, &want.dx, tol * 10.0, "dx");
                close(&got.dw, &want.dw, tol * 10.0, "dw");
                close(&got.db, &want.db, 1e-5, "db");
            }
        }
    }

    #[test]
    fn gradients_of_the_plain_twin() {
        for kind in [Kind::Layer, Kind::Rms] {
            let (rows, c) = (3, 7);
            let (x, dy) = (wide(&random(1, rows * c)), wide(&random(2, rows * c)));
            let (w, b) = (wide(&random(3, c)), wide(&random(4, c)));
            let none = None::<&[f64]>;
            let r = run!(f64, kind, c, &x, none, Some(&w), Some(&b), &dy, false, plain::forward, plain::backward);
            let y = |x: &[f64], w: &[f64], b: &[f64]| {
                run!(f64, kind, c, x, none, Some(w), Some(b), &dy, false, plain::forward, plain::backward).y
            };
            gradient(&x, &r.dx, &dy, "dx", |x| y(x, &w, &b));
            gradient(&w, &r.dw, &dy, "dw", |w| y(&x, w, &b));
            gradient(&b, &r.db, &dy, "db", |b| y(&x, &w, b));
        }
    }

    #[test]
    fn bits_do_not_depend_on_threads() {
        let (rows, c) = (700, 96);
        let (x, dy, w) = (random(1, rows * c), random(2, rows * c), random(3, c));
        let none = None::<&[f32]>;
        same_on_threads(|| {
            let r = run!(f32, Kind::Layer, c, &x, none, Some(&w), Some(&w), &dy, true, forward, backward);
            (r.y, r.dx, r.dw, r.db)
        });
    }
}
