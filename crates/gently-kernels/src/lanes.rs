//! Loops over slices in whole vectors with a masked tail, and reductions of one slice.
//!
//! Here: what the row kernels (norms, softmax, losses, optimizers) share, on top of
//! [`Simd`](crate::simd::Simd). Not here: anything parallel.

use crate::real::Real;
use crate::simd::Simd;
use std::any::TypeId;

/// Elements of a simple operation worth one task: about 10 µs. A smaller loop stays on its caller.
pub(crate) const CHUNK: usize = 16 * 1024;

/// Runs the body for `i = 0, LANES, 2·LANES, …` below `len` with `n` the number of lanes there: a constant
/// in the main loop, so that [`Simd::load_part`] becomes a plain load, and the rest in the tail.
macro_rules! for_lanes {
    ($S:ty, $len:expr, |$i:ident, $n:ident| $body:block) => {{
        let len: usize = $len;
        let mut $i = 0usize;
        while len - $i >= <$S>::LANES {
            let $n = <$S>::LANES;
            $body
            $i += <$S>::LANES;
        }
        if $i < len {
            let $n = len - $i;
            $body
        }
    }};
}
pub(crate) use for_lanes;

/// The slice itself where T is f32.
#[inline(always)]
pub(crate) fn as_f32<T: Real>(x: &[T]) -> Option<&[f32]> {
    (TypeId::of::<T>() == TypeId::of::<f32>()).then(|| bytemuck::cast_slice(x))
}

/// The slice itself where T is f32.
#[inline(always)]
pub(crate) fn as_f32_mut<T: Real>(x: &mut [T]) -> Option<&mut [f32]> {
    (TypeId::of::<T>() == TypeId::of::<f32>()).then(|| bytemuck::cast_slice_mut(x))
}

/// Rows of `width` numbers for one task: about [`CHUNK`] numbers.
pub(crate) fn rows_per_task(width: usize) -> usize {
    (CHUNK / width.max(1)).max(1)
}

/// Rows in each fixed chunk of a reduction over `rows` rows: at most 64 chunks, of at least 16 rows.
pub(crate) fn rows_per_partial(rows: usize) -> usize {
    rows.div_ceil(64).max(16)
}

/// Four accumulators (vectors, or tuples of them) over a slice: the latency of one addition is hidden
/// behind the others. Indices are constants, so that the accumulators stay in registers.
macro_rules! fold {
    ($S:ty, $start:expr, $len:expr, |$acc:ident, $i:ident, $n:ident| $step:expr) => {{
        let len: usize = $len;
        let mut accs = [$start; 4];
        let mut $i = 0usize;
        let $n = <$S>::LANES;
        while len - $i >= 4 * <$S>::LANES {
            let $acc = accs[0];
            accs[0] = $step;
            $i += <$S>::LANES;
            let $acc = accs[1];
            accs[1] = $step;
            $i += <$S>::LANES;
            let $acc = accs[2];
            accs[2] = $step;
            $i += <$S>::LANES;
            let $acc = accs[3];
            accs[3] = $step;
            $i += <$S>::LANES;
        }
        while len - $i >= <$S>::LANES {
            let $acc = accs[0];
            accs[0] = $step;
            $i += <$S>::LANES;
        }
        if $i < len {
            let $n = len - $i;
            let $acc = accs[1];
            accs[1] = $step;
        }
        accs
    }};
}
pub(crate) use fold;

/// Joins the accumulators of [`fold`] by addition.
#[inline(always)]
pub(crate) fn join<S: Simd>(s: S, a: [S::V; 4]) -> f32 {
    s.sum(s.add(s.add(a[0], a[1]), s.add(a[2], a[3])))
}

/// Σ x
#[inline(always)]
pub(crate) fn sum<S: Simd>(s: S, x: &[f32]) -> f32 {
    let accs = fold!(S, s.splat(0.0), x.len(), |acc, i, n| s.add(acc, s.load_part(&x[i..i + n])));
    join(s, accs)
}

/// Σ x²
#[inline(always)]
pub(crate) fn sum_sqr<S: Simd>(s: S, x: &[f32]) -> f32 {
    let accs = fold!(S, s.splat(0.0), x.len(), |acc, i, n| {
        let v = s.load_part(&x[i..i + n]);
        s.fma(v, v, acc)
    });
    join(s, accs)
}

/// Σ a·b
#[inline(always)]
pub(crate) fn dot<S: Simd>(s: S, a: &[f32], b: &[f32]) -> f32 {
    let b = &b[..a.len()];
    let accs = fold!(S, s.splat(0.0), a.len(), |acc, i, n| {
        s.fma(s.load_part(&a[i..i + n]), s.load_part(&b[i..i + n]), acc)
    });
    join(s, accs)
}

/// The largest of x; −∞ of nothing. NaNs may be passed over.
#[inline(always)]
pub(crate) fn max<S: Simd>(s: S, x: &[f32]) -> f32 {
    // The tail is loaded with the vector before it, or by itself where there is none: no padding.
    if x.len() < S::LANES {
        return x.iter().fold(f32::NEG_INFINITY, |m, &v| m.max(v));
    }
    let whole = x.len() / S::LANES * S::LANES;
    let accs = fold!(S, s.splat(f32::NEG_INFINITY), whole, |acc, i, n| s.max(s.load_part(&x[i..i + n]), acc));
    let last = s.load(&x[x.len() - S::LANES..]);
    let most = s.max(s.max(accs[0], accs[1]), s.max(accs[2], accs[3]));
    s.max_lane(s.max(last, most))
}

#[cfg(test)]
pub(crate) mod testing {
    //! What the tests of row kernels share.

    use crate::philox;
    use crate::pool;

    /// `n` numbers of mean 0 and variance 1, a pure function of the seed.
    pub(crate) fn random(seed: u32, n: usize) -> Vec<f32> {
        let mut x = vec![0.0; n];
        philox::fill_normal([seed, 77], 0, &mut x);
        x
    }

    pub(crate) fn wide(x: &[f32]) -> Vec<f64> {
        x.iter().map(|&v| v as f64).collect()
    }

    /// Asserts |got − want| ≤ tol · (1 + |want|) everywhere.
    #[track_caller]
    pub(crate) fn close(got: &[f32], want: &[f64], tol: f64, what: &str) {
        assert_eq!(got.len(), want.len(), "{what}");
        for (i, (&g, &w)) in got.iter().zip(want).enumerate() {
            let error = (g as f64 - w).abs();
            assert!(error <= tol * (1.0 + w.abs()), "{what}: [{i}] is {g}, not {w}");
        }
    }

    /// Asserts that the gradient `dx` of Σ dy·f(x) agrees with central differences.
    #[track_caller]
    pub(crate) fn gradient(x: &[f64], dx: &[f64], dy: &[f64], what: &str, mut f: impl FnMut(&[f64]) -> Vec<f64>) {
        let mut x = x.to_vec();
        let h = 1e-5;
        let mut dot = |x: &[f64]| f(x).iter().zip(dy).map(|(a, b)| a * b).sum::<f64>();
        for i in 0..x.len() {
            let old = x[i];
            x[i] = old + h;
            let up = dot(&x);
            x[i] = old - h;
            let down = dot(&x);
            x[i] = old;
            let slope = (up - down) / (2.0 * h);
            let error = (slope - dx[i]).abs();
            assert!(error <= 1e-7 * (1.0 + slope.abs()), "{what}: [{i}] {} against {slope}", dx[i]);
        }
    }

    /// Asserts that `f` gives the same bits on one thread and on several.
    #[track_caller]
    pub(crate) fn same_on_threads<R: PartialEq + std::fmt::Debug>(f: impl Fn() -> R) {
        pool::set_threads(1);
        let one = f();
        for n in [2, 3] {
            pool::set_threads(n);
            assert_eq!(f(), one, "{n} threads");
        }
        pool::set_threads(0);
    }
}
