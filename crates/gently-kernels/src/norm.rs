//! Layer norm and RMS norm over rows: forward, backward, optional fused residual add.
//!
//! Here: the f32 kernels and their [`plain`] twins, which are generic over [`Real`] and serve f64.
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
                mean_g = mean_g + g(i);
                mean_gx = mean_gx + g(i) * xhat(i);
            }
            mean_g = if norm.kind == Kind::Layer { mean_g / n } else { T::ZERO };
            mean_gx = mean_gx / n;
            for i in 0..c {
                let dx = rstd[r] * (g(i) - mean_g - xhat(i) * mean_gx);
                let out = &mut grads.dx[r * c + i];
                *out = if grads.accumulate_dx { *out + dx } else { dx };
                if let Some(dw) = &mut grads.dweight {
                    dw[i] = dw[i] + dy[r * c + i] * xhat(i);
                }
                if let Some(db) = &mut grads.dbias {
                    db[i] = db[i] + dy[r * c + i];
                }
            }
        }
    }
}

fn forward_on(
    _: Path,
    norm: &Norm<'_, f32>,
    x: &[f32],
    add: Option<ResidualAdd<'_, f32>>,
    y: &mut [f32],
    mean: &mut [f32],
    rstd: &mut [f32],
) {
    plain::forward(norm, x, add, y, mean, rstd);
}
fn backward_on(
    _: Path,
    norm: &Norm<'_, f32>,
    x: &[f32],
    mean: &[f32],
    rstd: &[f32],
    dy: &[f32],
    grads: Grads<'_, f32>,
) {
    plain::backward(norm, x, mean, rstd, dy, grads);
}
