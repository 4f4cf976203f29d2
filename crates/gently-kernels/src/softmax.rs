//! Softmax and log-softmax over rows, forward and backward.
//!
//! Here: rows of one buffer `[N, C]`, f32 kernels and [`plain`] twins. Not here: the softmax inside
//! attention (see `attention`) or inside the loss (see `loss`).
//!
//! ```
//! let mut y = [0.0f32; 2];
//! gently_kernels::softmax::forward(&[1.0, 1.0], 2, &mut y);
//! assert_eq!(y, [0.5, 0.5]);
//! ```

use crate::cpu::{self, Path};
use crate::lanes::{self, fold, for_lanes};
use crate::pool;
use crate::simd::{Kernel, Simd, dispatch};
use crate::simd_math::exp;

/// `y = softmax(x)` by rows of `width`, `[N, C]`. A row of only −∞ gives zeros.
///
/// # Panics
/// When lengths disagree or are not whole rows.
pub fn forward(x: &[f32], width: usize, y: &mut [f32]) {
    forward_on(cpu::path(), x, width, y);
}

/// `dx = y · (dy − Σ y·dy)` by rows, with `y` the result of [`forward`].
///
/// # Panics
/// When lengths disagree or are not whole rows.
pub fn backward(y: &[f32], dy: &[f32], width: usize, dx: &mut [f32]) {
    backward_on(cpu::path(), y, dy, width, dx);
}

/// `y = x − ln Σ exp x` by rows of `width`, `[N, C]`.
///
/// # Panics
/// When lengths disagree or are not whole rows.
pub fn log_forward(x: &[f32], width: usize, y: &mut [f32]) {
    log_forward_on(cpu::path(), x, width, y);
}

/// `dx = dy − exp(y) · Σ dy` by rows, with `y` the result of [`log_forward`].
///
/// # Panics
/// When lengths disagree or are not whole rows.
pub fn log_backward(y: &[f32], dy: &[f32], width: usize, dx: &mut [f32]) {
    log_backward_on(cpu::path(), y, dy, width, dx);
}

fn check(width: usize, lengths: &[usize]) {
    assert!(width > 0, "softmax: width is zero");
    assert!(
        lengths.iter().all(|&l| l == lengths[0] && l.is_multiple_of(width)),
        "softmax: buffers of {lengths:?} numbers are not equal whole rows of {width}"
    );
}
/// Which row function a task computes.
#[derive(Clone, Copy)]
enum Row {
    Softmax,
    LogSoftmax,
    SoftmaxBackward,
    LogSoftmaxBackward,
}

fn forward_on(path: Path, x: &[f32], width: usize, y: &mut [f32]) {
    rows(path, Row::Softmax, x, x, width, y);
}

fn backward_on(path: Path, y: &[f32], dy: &[f32], width: usize, dx: &mut [f32]) {
    rows(path, Row::SoftmaxBackward, y, dy, width, dx);
}

fn log_forward_on(path: Path, x: &[f32], width: usize, y: &mut [f32]) {
    rows(path, Row::LogSoftmax, x, x, width, y);
}

fn log_backward_on(path: Path, y: &[f32], dy: &[f32], width: usize, dx: &mut [f32]) {
    rows(path, Row::LogSoftmaxBackward, y, dy, width, dx);
}

fn rows(path: Path, row: Row, a: &[f32], b: &[f32], width: usize, out: &mut [f32]) {
    check(width, &[a.len(), b.len(), out.len()]);
    let chunk = lanes::rows_per_task(width) * width;
    pool::parallel_chunks_mut(out, chunk, |i, out| {
        let at = i * chunk..i * chunk + out.len();
        dispatch(path, Rows { row, a: &a[at.clone()], b: &b[at], width, out });
    });
}

/// Some rows; `a` and `b` are the inputs, the same slice for the forward functions.
struct Rows<'a> {
    row: Row,
    a: &'a [f32],
    b: &'a [f32],
    width: usize,
    out: &'a mut [f32],
}

impl Kernel for Rows<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let c = self.width;
        for (r, out) in self.out.chunks_exact_mut(c).enumerate() {
            let (a, b) = (&self.a[r * c..][..c], &self.b[r * c..][..c]);
            match self.row {
                Row::Softmax => softmax_row(s, a, out),
                Row::LogSoftmax => {
                    let (top, rest) = log_sum_exp(s, a);
                    let (top, rest) = (s.splat(top), s.splat(rest));
                    for_lanes!(S, c, |i, n| {
                        s.store_part(&mut out[i..i + n], s.sub(s.sub(s.load_part(&a[i..i + n]), top), rest));
                    });
                }
                Row::SoftmaxBackward => {
                    let dot = s.splat(lanes::dot(s, a, b));
                    for_lanes!(S, c, |i, n| {
                        let d = s.sub(s.load_part(&b[i..i + n]), dot);
                        s.store_part(&mut out[i..i + n], s.mul(d, s.load_part(&a[i..i + n])));
                    });
                }
                Row::LogSoftmaxBackward => {
                    let sum = s.splat(lanes::sum(s, b));
                    for_lanes!(S, c, |i, n| {
                        let p = exp(s, s.load_part(&a[i..i + n]));
                        s.store_part(&mut out[i..i + n], s.nfma(p, sum, s.load_part(&b[i..i + n])));
                    });
                }
            }
        }
    }
}

#[inline(always)]
fn softmax_row<S: Simd>(s: S, x: &[f32], y: &mut [f32]) {
    let c = x.len();
    let top = lanes::max(s, x);
    if top == f32::NEG_INFINITY {
        // All masked: zeros, unless a NaN hides among them.
        let value = if x.iter().any(|v| v.is_nan()) { f32::NAN } else { 0.0 };
        y.fill(value);
        return;
    }
    let shift = s.splat(top);
    let whole = c / S::LANES * S::LANES;
    let accs = fold!(S, s.splat(0.0), whole, |acc, i, n| {
        let e = exp(s, s.sub(s.load_part(&x[i..i + n]), shift));
        s.store_part(&mut y[i..i + n], e);
        s.add(acc, e)
    });
    // The tail apart: empty lanes would count e^−top.
    let tail = &mut y[whole..c];
    s.store_part(tail, exp(s, s.sub(s.load_part(&x[whole..]), shift)));
    let sum = lanes::join(s, accs) + tail.iter().sum::<f32>();
    let scale = s.splat(1.0 / sum);
    for_lanes!(S, c, |i, n| {
        let part = &mut y[i..i + n];
        let v = s.mul(s.load_part(part), scale);
        s.store_part(part, v);
    });
}

/// ln Σ exp x in two parts whose sum it is: the largest x, and ln Σ exp(x − largest). Kept apart, because their sum is
/// rounded to the largest's precision and log-probabilities near 0 would be lost in it.
#[inline(always)]
pub(crate) fn log_sum_exp<S: Simd>(s: S, x: &[f32]) -> (f32, f32) {
    let top = lanes::max(s, x);
    if top.is_infinite() {
        // Of +∞, its own ∞ − ∞ is in the sum.
        let nan = top > 0.0 || x.iter().any(|v| v.is_nan());
        return (if nan { f32::NAN } else { top }, 0.0);
    }
    let shift = s.splat(top);
    let whole = x.len() / S::LANES * S::LANES;
    let accs = fold!(S, s.splat(0.0), whole, |acc, i, n| s.add(acc, exp(s, s.sub(s.load_part(&x[i..i + n]), shift))));
    let mut tail = [0.0f32; 64];
    let rest = &mut tail[..x.len() - whole];
    s.store_part(rest, exp(s, s.sub(s.load_part(&x[whole..]), shift)));
    (top, (lanes::join(s, accs) + rest.iter().sum::<f32>()).ln())
}

/// Reference implementations, generic over the float type.
pub mod plain {
    use super::check;
    use crate::real::Real;

    fn max<T: Real>(x: &[T]) -> T {
        x.iter().fold(T::NEG_INFINITY, |m, &v| m.max(v))
    }

    /// See [`super::forward`].
    pub fn forward<T: Real>(x: &[T], width: usize, y: &mut [T]) {
        check(width, &[x.len(), y.len()]);
        for (x, y) in x.chunks_exact(width).zip(y.chunks_exact_mut(width)) {
            let top = max(x);
            if top == T::NEG_INFINITY {
                // `max` passes over NaN.
                y.fill(x.iter().copied().find(|&v| v.is_nan()).unwrap_or(T::ZERO));
                continue;
            }
            for (y, &x) in y.iter_mut().zip(x) {
                *y = (x - top).exp();
            }
            let sum = y.iter().fold(T::ZERO, |s, &v| s + v);
            for y in y {
                *y /= sum;
            }
        }
    }

    /// See [`super::backward`].
    pub fn backward<T: Real>(y: &[T], dy: &[T], width: usize, dx: &mut [T]) {
        check(width, &[y.len(), dy.len(), dx.len()]);
        for ((y, dy), dx) in y.chunks_exact(width).zip(dy.chunks_exact(width)).zip(dx.chunks_exact_mut(width)) {
            let dot = y.iter().zip(dy).fold(T::ZERO, |s, (&a, &b)| s + a * b);
            for ((dx, &y), &dy) in dx.iter_mut().zip(y).zip(dy) {
                *dx = y * (dy - dot);
            }
        }
    }

    /// See [`super::log_forward`].
    pub fn log_forward<T: Real>(x: &[T], width: usize, y: &mut [T]) {
        check(width, &[x.len(), y.len()]);
        for (x, y) in x.chunks_exact(width).zip(y.chunks_exact_mut(width)) {
            let top = max(x);
            let sum = x.iter().fold(T::ZERO, |s, &v| s + (v - top).exp());
            for (y, &x) in y.iter_mut().zip(x) {
                *y = x - top - sum.ln();
            }
        }
    }

    /// See [`super::log_backward`].
    pub fn log_backward<T: Real>(y: &[T], dy: &[T], width: usize, dx: &mut [T]) {
        check(width, &[y.len(), dy.len(), dx.len()]);
        for ((y, dy), dx) in y.chunks_exact(width).zip(dy.chunks_exact(width)).zip(dx.chunks_exact_mut(width)) {
            let sum = dy.iter().fold(T::ZERO, |s, &v| s + v);
            for ((dx, &y), &dy) in dx.iter_mut().zip(y).zip(dy) {
                *dx = dy - y.exp() * sum;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lanes::testing::{close, gradient, random, same_on_threads, wide};
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]
        #[test]
        fn every_path_agrees_with_the_plain_twin(rows in 1usize..40, width in 1usize..200, seed: u32) {
            let x: Vec<f32> = random(seed, rows * width).iter().map(|v| v * 5.0 + 40.0).collect();
            let dy = random(seed ^ 1, x.len());
            let (mut y, mut log) = (vec![0.0; x.len()], vec![0.0; x.len()]);
            let (mut dx, mut dlog) = (y.clone(), y.clone());
            plain::forward(&wide(&x), width, &mut y);
            plain::log_forward(&wide(&x), width, &mut log);
            plain::backward(&y, &wide(&dy), width, &mut dx);
            plain::log_backward(&log, &wide(&dy), width, &mut dlog);
            let narrow = |x: &[f64]| x.iter().map(|&v| v as f32).collect::<Vec<_>>();
            for path in cpu::available() {
                let mut out = vec![0.0f32; x.len()];
                forward_on(path, &x, width, &mut out);
                close(&out, &y, 3e-6, "softmax");
                log_forward_on(path, &x, width, &mut out);
                close(&out, &log, 3e-6, "log-softmax");
                backward_on(path, &narrow(&y), &dy, width, &mut out);
                close(&out, &dx, 3e-6, "softmax backward");
                log_backward_on(path, &narrow(&log), &dy, width, &mut out);
                close(&out, &dlog, 1e-5, "log-softmax backward");
            }
        }
    }

    #[test]
    fn gradients_of_the_plain_twins() {
        let (x, dy) = (wide(&random(1, 15)), wide(&random(2, 15)));
        let (mut y, mut dx) = (vec![0.0; 15], vec![0.0; 15]);
        let run = |f: fn(&[f64], usize, &mut [f64]), x: &[f64]| {
            let mut y = vec![0.0; 15];
            f(x, 5, &mut y);
            y
        };
        plain::forward(&x, 5, &mut y);
        plain::backward(&y, &dy, 5, &mut dx);
        gradient(&x, &dx, &dy, "softmax", |x| run(plain::forward, x));
        plain::log_forward(&x, 5, &mut y);
        plain::log_backward(&y, &dy, 5, &mut dx);
        gradient(&x, &dx, &dy, "log-softmax", |x| run(plain::log_forward, x));
    }

    #[test]
    fn log_softmax_has_no_numbers_beside_infinity_and_nan() {
        let (inf, nan) = (f32::INFINITY, f32::NAN);
        for pair in [[inf, 0.0], [0.0, inf], [inf, -inf], [inf, inf], [nan, 0.0], [nan, -inf], [nan, inf], [-inf, -inf]]
        {
            // In the first places of a row that fills vectors, and alone.
            for width in [2, 70] {
                let mut x = vec![-inf; width];
                x[..2].copy_from_slice(&pair);
                let mut y = vec![0.0; width];
                plain::log_forward(&x, width, &mut y);
                assert!(y.iter().all(|v| v.is_nan()), "{pair:?}");
                for path in cpu::available() {
                    y.fill(0.0);
                    log_forward_on(path, &x, width, &mut y);
                    assert!(y.iter().all(|v| v.is_nan()), "{path:?} {pair:?}");
                }
            }
        }
    }

    #[test]
    fn masked_rows_and_threads() {
        let inf = f32::NEG_INFINITY;
        for path in cpu::available() {
            let mut y = [9.0; 4];
            forward_on(path, &[inf, inf, 2.0, inf], 2, &mut y);
            assert_eq!(y, [0.0, 0.0, 1.0, 0.0]);
            forward_on(path, &[f32::NAN, inf, f32::NAN, 0.0], 2, &mut y);
            assert!(y.iter().all(|v| v.is_nan()), "{path:?} {y:?}");
        }
        let mut y = [9.0; 4];
        plain::forward(&[inf, inf, 2.0, inf], 2, &mut y);
        assert_eq!(y, [0.0, 0.0, 1.0, 0.0]);
        plain::forward(&[f32::NAN, inf, f32::NAN, f32::NAN], 2, &mut y);
        assert!(y.iter().all(|v| v.is_nan()), "{y:?}");
        let x = random(3, 300 * 333);
        same_on_threads(|| {
            let mut y = vec![0.0; x.len()];
            forward(&x, 333, &mut y);
            y
        });
    }
}
