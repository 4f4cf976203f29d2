//! Sums, means, maxima over axes, in an order fixed by the shape.
//!
//! Here: [`reduce`] over any axes, [`argmax`], [`column_sum`] (bias gradients), [`sum_of_squares`] and
//! [`first_non_finite`] for clipping and diagnosis. Not here: softmax and norms.
//!
//! ```
//! use gently_kernels::reduce::{reduce, Reduce};
//! let mut out = [0.0f32; 2];
//! reduce(Reduce::Sum, &[1.0, 2.0, 3.0, 4.0], &[2, 2], &[0], &mut out);
//! assert_eq!(out, [4.0, 6.0]);
//! ```

use crate::pool;
use crate::real::Real;

/// A reduction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reduce {
    /// Σ x
    Sum,
    /// Σ x / n
    Mean,
    /// The largest; NaN where there is one; −∞ of nothing.
    Max,
    /// The smallest; NaN where there is one; +∞ of nothing.
    Min,
}

impl Reduce {
    #[inline(always)]
    fn start<T: Real>(self) -> T {
        match self {
            Reduce::Sum | Reduce::Mean => T::ZERO,
            Reduce::Max => T::NEG_INFINITY,
            Reduce::Min => T::INFINITY,
        }
    }

    #[inline(always)]
    fn join<T: Real>(self, a: T, b: T) -> T {
        match self {
            Reduce::Sum | Reduce::Mean => a + b,
            Reduce::Max => {
                if a > b || a.is_nan() {
                    a
                } else {
                    b
                }
            }
            Reduce::Min => {
                if a < b || a.is_nan() {
                    a
                } else {
                    b
                }
            }
        }
    }
}

/// Reduces the contiguous `x` of `shape` over `axes` (each named once, in any order) into `out`, whose
/// shape is `shape` without those axes. With no axes this copies.
///
/// # Panics
/// When an axis is out of range or lengths disagree.
pub fn reduce<T: Real>(op: Reduce, x: &[T], shape: &[usize], axes: &[usize], out: &mut [T]) {
    assert_eq!(x.len(), shape.iter().product::<usize>(), "reduce: input and shape {shape:?}");
    let mut gone = vec![false; shape.len()];
    for &axis in axes {
        assert!(axis < shape.len(), "reduce: axis {axis} of a shape with {} axes", shape.len());
        gone[axis] = true;
    }
    let kept =
        |keep: bool| -> usize { shape.iter().zip(&gone).filter(|&(_, &g)| g != keep).map(|(&n, _)| n).product() };
    assert_eq!(out.len(), kept(true), "reduce: output without axes {axes:?} of {shape:?}");
    // Runs of neighbouring axes that share a fate are one axis.
    let mut groups: Vec<(usize, bool)> = Vec::new();
    for (&n, &g) in shape.iter().zip(&gone).filter(|&(&n, _)| n != 1) {
        match groups.last_mut() {
            Some((len, fate)) if *fate == g => *len *= n,
            _ => groups.push((n, g)),
        }
    }
    // From the last group on, each pass reduces [outer, n, inner] to [outer, inner].
    let mut current: Option<Vec<T>> = None;
    while let Some(i) = groups.iter().rposition(|&(_, g)| g) {
        let outer: usize = groups[..i].iter().map(|g| g.0).product();
        let inner: usize = groups[i + 1..].iter().map(|g| g.0).product();
        let n = groups.remove(i).0;
        let input = current.as_deref().unwrap_or(x);
        if groups.iter().any(|&(_, g)| g) {
            let mut next = vec![T::ZERO; outer * inner];
            reduce_middle(op, input, outer, n, inner, &mut next);
            current = Some(next);
        } else {
            reduce_middle(op, input, outer, n, inner, out);
            current = Some(Vec::new());
        }
    }
    if current.is_none() {
        out.copy_from_slice(x);
    }
    if op == Reduce::Mean {
        let n = T::from_f64(kept(false) as f64);
        out.iter_mut().for_each(|o| *o /= n);
    }
}

fn reduce_middle<T: Real>(op: Reduce, x: &[T], outer: usize, n: usize, inner: usize, out: &mut [T]) {
    for o in 0..outer {
        for i in 0..inner {
            out[o * inner + i] = (0..n).fold(op.start(), |s, k| op.join(s, x[(o * n + k) * inner + i]));
        }
    }
}

/// The index of the first largest element along the middle axis of `[outer, n, inner]`, into
/// `[outer, inner]`; the first NaN where there is one.
///
/// # Panics
/// When lengths disagree, or `n` is 0 or above `u32::MAX`.
pub fn argmax<T: Real>(x: &[T], outer: usize, n: usize, inner: usize, out: &mut [u32]) {
    assert!(n > 0 && u32::try_from(n).is_ok(), "argmax: over an axis of {n}");
    assert_eq!(x.len(), outer * n * inner, "argmax: input is not [outer, n, inner]");
    assert_eq!(out.len(), outer * inner, "argmax: output is not [outer, inner]");
    if out.is_empty() {
        return;
    }
    pool::parallel_chunks_mut(out, inner, |o, out| {
        let x = &x[o * n * inner..][..n * inner];
        for (i, out) in out.iter_mut().enumerate() {
            let mut best = x[i];
            *out = 0;
            for k in 1..n {
                let v = x[k * inner + i];
                if v > best || (v.is_nan() && !best.is_nan()) {
                    best = v;
                    *out = k as u32;
                }
            }
        }
    });
}

/// Sum of the rows of `x` `[N, C]` into `out` `[C]`, or added to it: the gradient of a bias.
///
/// # Panics
/// When lengths disagree.
pub fn column_sum<T: Real>(x: &[T], accumulate: bool, out: &mut [T]) {
    let c = out.len();
    assert!(c > 0 && x.len() % c == 0, "column_sum: input is not whole rows of {c}");
    if !accumulate {
        out.fill(T::ZERO);
    }
    for row in x.chunks_exact(c) {
        for (o, &v) in out.iter_mut().zip(row) {
            *o += v;
        }
    }
}

/// Σ x², summed in f64 in fixed chunks: for gradient norms.
pub fn sum_of_squares<T: Real>(x: &[T]) -> f64 {
    x.iter().map(|&v| v.to_f64() * v.to_f64()).sum()
}

/// Σ x, summed in f64 in fixed chunks.
pub fn sum<T: Real>(x: &[T]) -> f64 {
    x.iter().map(|&v| v.to_f64()).sum()
}

/// The index of the first infinity or NaN.
pub fn first_non_finite<T: Real>(x: &[T]) -> Option<usize> {
    x.iter().position(|v| !v.is_finite())
}
