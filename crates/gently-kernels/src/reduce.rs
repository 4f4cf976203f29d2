//! Sums over axes and the search for the largest, in an order fixed by the shape.
//!
//! Here: [`sum_axes`] over any axes, [`argmax`], [`column_sum`] (bias gradients), [`sum_of_squares`] and
//! [`first_non_finite`] for clipping and diagnosis. Not here: softmax and norms.
//!
//! ```
//! use gently_kernels::reduce::sum_axes;
//! let mut out = [0.0f32; 2];
//! sum_axes(&[1.0, 2.0, 3.0, 4.0], &[2, 2], &[0], &mut out);
//! assert_eq!(out, [4.0, 6.0]);
//! ```

use crate::cpu::{self, Path};
use crate::lanes::{self, CHUNK};
use crate::pool;
use crate::real::Real;
use crate::simd::{Kernel, Simd, dispatch};

/// Sums the contiguous `x` of `shape` over `axes` (each named once, in any order) into `out`, whose
/// shape is `shape` without those axes. With no axes this copies; the sum of nothing is 0.
///
/// # Panics
/// When an axis is out of range or lengths disagree.
pub fn sum_axes<T: Real>(x: &[T], shape: &[usize], axes: &[usize], out: &mut [T]) {
    sum_axes_on(cpu::path(), x, shape, axes, out);
}

fn sum_axes_on<T: Real>(path: Path, x: &[T], shape: &[usize], axes: &[usize], out: &mut [T]) {
    assert_eq!(x.len(), shape.iter().product::<usize>(), "sum: input and shape {shape:?}");
    let mut gone = vec![false; shape.len()];
    for &axis in axes {
        assert!(axis < shape.len(), "sum: axis {axis} of a shape with {} axes", shape.len());
        gone[axis] = true;
    }
    let kept: usize = shape.iter().zip(&gone).filter(|&(_, &g)| !g).map(|(&n, _)| n).product();
    assert_eq!(out.len(), kept, "sum: output without axes {axes:?} of {shape:?}");
    // Runs of neighbouring axes that share a fate are one axis.
    let mut groups: Vec<(usize, bool)> = Vec::new();
    for (&n, &g) in shape.iter().zip(&gone).filter(|&(&n, _)| n != 1) {
        match groups.last_mut() {
            Some((len, fate)) if *fate == g => *len *= n,
            _ => groups.push((n, g)),
        }
    }
    // From the last group on, each pass sums [outer, n, inner] to [outer, inner].
    let mut current: Option<Vec<T>> = None;
    while let Some(i) = groups.iter().rposition(|&(_, g)| g) {
        let outer: usize = groups[..i].iter().map(|g| g.0).product();
        let inner: usize = groups[i + 1..].iter().map(|g| g.0).product();
        let n = groups.remove(i).0;
        let input = current.as_deref().unwrap_or(x);
        if groups.iter().any(|&(_, g)| g) {
            let mut next = vec![T::ZERO; outer * inner];
            sum_middle(path, input, [outer, n, inner], false, &mut next);
            current = Some(next);
        } else {
            sum_middle(path, input, [outer, n, inner], false, out);
            current = Some(Vec::new());
        }
    }
    if current.is_none() {
        out.copy_from_slice(x);
    }
}

/// Sums `[outer, n, inner]` to `[outer, inner]`, or adds the sums to what `out` holds.
fn sum_middle<T: Real>(path: Path, x: &[T], [outer, n, inner]: [usize; 3], accumulate: bool, out: &mut [T]) {
    if n == 0 || out.is_empty() {
        if !accumulate {
            out.fill(T::ZERO);
        }
        return;
    }
    // A chunk of the middle axis has its own sum; chunks are then added in order.
    let per_chunk = if inner == 1 { CHUNK } else { lanes::rows_per_partial(n) }.min(n);
    let chunks = n.div_ceil(per_chunk);
    let mut partials = vec![T::ZERO; outer * chunks * inner];
    // Small results are made several to a task.
    let group = (CHUNK / (per_chunk * inner)).max(1);
    pool::parallel_chunks_mut(&mut partials, group * inner, |task, partials| {
        for (i, partial) in partials.chunks_exact_mut(inner).enumerate() {
            let unit = task * group + i;
            let (o, first) = (unit / chunks, unit % chunks * per_chunk);
            let rows = per_chunk.min(n - first);
            let x = &x[(o * n + first) * inner..][..rows * inner];
            if inner == 1 {
                partial[0] = dispatch(path, Row { x });
            } else {
                dispatch(path, Columns { x, out: partial });
            }
        }
    });
    for (out, partials) in out.chunks_exact_mut(inner).zip(partials.chunks_exact(chunks * inner)) {
        let (first, rest) = partials.split_at(inner);
        if accumulate {
            dispatch(path, Columns { x: first, out });
        } else {
            out.copy_from_slice(first);
        }
        dispatch(path, Columns { x: rest, out });
    }
}

/// Sums one run of numbers: lane by lane in 32 places, then the places in pairs.
struct Row<'a, T> {
    x: &'a [T],
}

impl<T: Real> Kernel for Row<'_, T> {
    type Out = T;
    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> T {
        fold_row(self.x, |a, b| a + b)
    }
}

#[inline(always)]
fn fold_row<T: Real>(x: &[T], join: impl Fn(T, T) -> T) -> T {
    const LANES: usize = 32;
    let mut lanes = [T::ZERO; LANES];
    let (whole, rest) = x.as_chunks::<LANES>();
    for part in whole {
        for l in 0..LANES {
            lanes[l] = join(lanes[l], part[l]);
        }
    }
    for (lane, &v) in lanes.iter_mut().zip(rest) {
        *lane = join(*lane, v);
    }
    let mut half = LANES / 2;
    while half > 0 {
        for l in 0..half {
            lanes[l] = join(lanes[l], lanes[l + half]);
        }
        half /= 2;
    }
    lanes[0]
}

/// Adds the rows of `x` to `out`, in order.
struct Columns<'a, T> {
    x: &'a [T],
    out: &'a mut [T],
}

impl<T: Real> Kernel for Columns<'_, T> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let Columns { x, out } = self;
        let c = out.len();
        // Four rows at a time, so that the sums are loaded and stored a quarter as often.
        let mut rows = x.chunks_exact(4 * c);
        for four in &mut rows {
            let (a, rest) = four.split_at(c);
            let (b, rest) = rest.split_at(c);
            let (d, e) = rest.split_at(c);
            for ((((o, &a), &b), &d), &e) in out.iter_mut().zip(a).zip(b).zip(d).zip(e) {
                *o = *o + a + b + d + e;
            }
        }
        for row in rows.remainder().chunks_exact(c) {
            for (o, &v) in out.iter_mut().zip(row) {
                *o += v;
            }
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
    assert!(c > 0 && x.len().is_multiple_of(c), "column_sum: input is not whole rows of {c}");
    let n = x.len() / c;
    sum_middle(cpu::path(), x, [1, n, c], accumulate, out);
}

/// Σ x², summed in f64 over fixed chunks: for gradient norms.
pub fn sum_of_squares<T: Real>(x: &[T]) -> f64 {
    let exact = |x: &[T]| x.iter().map(|&v| v.to_f64() * v.to_f64()).sum::<f64>();
    let mut partials = vec![0.0f64; x.len().div_ceil(CHUNK)];
    let per_task = 4;
    pool::parallel_chunks_mut(&mut partials, per_task, |task, partials| {
        for (i, partial) in partials.iter_mut().enumerate() {
            let x = &x[(task * per_task + i) * CHUNK..];
            let x = &x[..x.len().min(CHUNK)];
            *partial = match lanes::as_f32(x) {
                Some(x) => dispatch(cpu::path(), SumSquares { x }) as f64,
                None => exact(x),
            };
            if !partial.is_finite() {
                // A square may leave the range of f32 where the number does not.
                *partial = exact(x);
            }
        }
    });
    partials.iter().sum()
}

struct SumSquares<'a> {
    x: &'a [f32],
}

impl Kernel for SumSquares<'_> {
    type Out = f32;
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f32 {
        lanes::sum_sqr(s, self.x)
    }
}

/// The index of the first infinity or NaN.
pub fn first_non_finite<T: Real>(x: &[T]) -> Option<usize> {
    let chunks = x.len().div_ceil(CHUNK);
    let mut bad = vec![false; chunks];
    pool::parallel_chunks_mut(&mut bad, 4, |task, bad| {
        for (i, bad) in bad.iter_mut().enumerate() {
            let x = &x[(task * 4 + i) * CHUNK..];
            let x = &x[..x.len().min(CHUNK)];
            *bad = dispatch(cpu::path(), NonFinite { x });
        }
    });
    let chunk = bad.iter().position(|&b| b)?;
    let at = chunk * CHUNK;
    x[at..].iter().position(|v| !v.is_finite()).map(|i| at + i)
}

/// Whether there is an infinity or NaN: 0·x is 0 for all other numbers.
struct NonFinite<'a, T> {
    x: &'a [T],
}

impl<T: Real> Kernel for NonFinite<'_, T> {
    type Out = bool;
    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> bool {
        fold_row(self.x, |a, b| a + b * T::ZERO).is_nan()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lanes::testing::{close, random, same_on_threads, wide};
    use proptest::prelude::*;

    /// By definition: every element goes to the place its kept indices name.
    fn naive(x: &[f64], shape: &[usize], axes: &[usize]) -> Vec<f64> {
        let kept: Vec<usize> = (0..shape.len()).filter(|a| !axes.contains(a)).collect();
        let mut out = vec![0.0; kept.iter().map(|&a| shape[a]).product()];
        for (i, &v) in x.iter().enumerate() {
            let mut rest = i;
            let mut index = vec![0; shape.len()];
            for a in (0..shape.len()).rev() {
                index[a] = rest % shape[a];
                rest /= shape[a];
            }
            let at = kept.iter().fold(0, |at, &a| at * shape[a] + index[a]);
            out[at] += v;
        }
        out
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]
        #[test]
        fn any_axes_on_every_path(
            shape in proptest::collection::vec(1usize..12, 0..5), mask in 0usize..32, seed: u32,
        ) {
            let x = random(seed, shape.iter().product());
            let axes: Vec<usize> = (0..shape.len()).filter(|a| mask >> a & 1 == 1).collect();
            let want = naive(&wide(&x), &shape, &axes);
            for path in cpu::available() {
                let mut got = vec![9.0; want.len()];
                sum_axes_on(path, &x, &shape, &axes, &mut got);
                close(&got, &want, 1e-5, &format!("{shape:?} {axes:?}"));
            }
            let mut got = vec![9.0; want.len()];
            sum_axes(&wide(&x), &shape, &axes, &mut got);
            prop_assert!(got.iter().zip(&want).all(|(a, b)| (a - b).abs() < 1e-12));
        }
    }

    #[test]
    fn long_rows_tall_columns_and_threads() {
        for shape in [[3, 50_001], [5000, 37], [70_000, 1], [1, 200_000]] {
            let x = random(4, shape[0] * shape[1]);
            for axis in [0, 1] {
                let want = naive(&wide(&x), &shape, &[axis]);
                let mut got = vec![0.0; want.len()];
                sum_axes(&x, &shape, &[axis], &mut got);
                close(&got, &want, 2e-4, "sum");
                same_on_threads(|| {
                    let mut out = vec![0.0; got.len()];
                    sum_axes(&x, &shape, &[axis], &mut out);
                    out
                });
            }
            let mut sums = vec![1.0; shape[1]];
            column_sum(&x, true, &mut sums);
            let want: Vec<f64> = naive(&wide(&x), &shape, &[0]).iter().map(|v| v + 1.0).collect();
            close(&sums, &want, 2e-4, "column sums added");
        }
    }

    #[test]
    fn the_sum_of_nothing_is_zero() {
        let mut out = [9.0f32; 3];
        sum_axes(&[], &[0, 3], &[0], &mut out);
        assert_eq!(out, [0.0; 3]);
        let mut none: [f32; 0] = [];
        sum_axes(&[], &[0, 3], &[1], &mut none);
        let mut sums = [9.0f32; 3];
        column_sum(&[], true, &mut sums);
        assert_eq!(sums, [9.0; 3]);
    }

    #[test]
    fn nan_is_never_passed_over() {
        for at in [0, 5, 31, 32, 70] {
            let mut x = random(1, 71);
            x[at] = f32::NAN;
            let mut out = [0.0];
            sum_axes(&x, &[71], &[0], &mut out);
            assert!(out[0].is_nan(), "NaN at {at}");
            let mut best = [0];
            argmax(&x, 1, 71, 1, &mut best);
            assert_eq!(best[0] as usize, at);
            assert_eq!(first_non_finite(&x), Some(at));
        }
    }

    #[test]
    fn argmax_takes_the_first_of_equals() {
        let mut best = [9; 2];
        argmax(&[1.0, 5.0, 3.0, 5.0, 3.0, 2.0f32], 1, 3, 2, &mut best);
        assert_eq!(best, [1, 0]);
        argmax(&[1.0, 2.0, 2.0, 7.0, 7.0, 7.0f64], 2, 3, 1, &mut best);
        assert_eq!(best, [1, 0]);
    }

    #[test]
    fn norms_and_the_search_for_bad_numbers() {
        let mut x = random(2, 100_000);
        let exact: f64 = x.iter().map(|&v| v as f64 * v as f64).sum();
        assert!((sum_of_squares(&x) - exact).abs() < 1e-6 * exact);
        same_on_threads(|| sum_of_squares(&x).to_bits());
        assert_eq!(first_non_finite(&x), None);
        x[3] = 1e30;
        assert!((sum_of_squares(&x) / 1e60 - 1.0).abs() < 1e-6);
        assert_eq!(first_non_finite(&x), None);
        x[77_777] = f32::INFINITY;
        x[88_888] = f32::NAN;
        assert_eq!(first_non_finite(&x), Some(77_777));
        assert!(sum_of_squares(&x).is_nan());
    }
}
