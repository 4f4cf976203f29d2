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
                y.fill(T::ZERO);
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

fn check(width: usize, lengths: &[usize]) {
    assert!(width > 0, "softmax: width is zero");
    assert!(
        lengths.iter().all(|&l| l == lengths[0] && l % width == 0),
        "softmax: buffers of {lengths:?} numbers are not equal whole rows of {width}"
    );
}
fn forward_on(_: Path, x: &[f32], width: usize, y: &mut [f32]) {
    plain::forward(x, width, y);
}
fn backward_on(_: Path, y: &[f32], dy: &[f32], width: usize, dx: &mut [f32]) {
    plain::backward(y, dy, width, dx);
}
fn log_forward_on(_: Path, x: &[f32], width: usize, y: &mut [f32]) {
    plain::log_forward(x, width, y);
}
fn log_backward_on(_: Path, y: &[f32], dy: &[f32], width: usize, dx: &mut [f32]) {
    plain::log_backward(y, dy, width, dx);
}
