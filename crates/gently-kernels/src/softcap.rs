//! Soft caps: `cap · tanh(x / cap)`, which leaves small numbers nearly as they are and none beyond ±cap.
//!
//! Here: [`apply`] on logits (Gemma 2, arXiv:2408.00118 §2) and its [`plain`] twin. Not here: gradients (see `loss`), and the
//! caps of scores, which attention computes where it has them in registers.
//!
//! ```
//! let mut x = [0.0f32, 1e9];
//! gently_kernels::softcap::apply(30.0, &mut x);
//! assert_eq!(x, [0.0, 30.0]);
//! ```

use crate::cpu::{self, Path};
use crate::lanes::{CHUNK, for_lanes};
use crate::pool;
use crate::simd::{Kernel, Simd, dispatch};
use crate::simd_math;

/// `x = cap · tanh(x / cap)` in place, any shape. NaN stays NaN.
///
/// # Panics
/// When the cap is not above 0.
pub fn apply(cap: f32, x: &mut [f32]) {
    apply_on(cpu::path(), cap, x);
}

fn apply_on(path: Path, cap: f32, x: &mut [f32]) {
    assert!(cap > 0.0, "softcap: the cap must be positive");
    pool::parallel_chunks_mut(x, CHUNK, |_, x| dispatch(path, Part { cap, x }));
}

struct Part<'a> {
    cap: f32,
    x: &'a mut [f32],
}

impl Kernel for Part<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        row(s, self.cap, self.x);
    }
}

/// [`apply`] to a row inside a kernel.
#[inline(always)]
pub(crate) fn row<S: Simd>(s: S, cap: f32, x: &mut [f32]) {
    let (up, down) = (s.splat(cap), s.splat(1.0 / cap));
    for_lanes!(S, x.len(), |i, n| {
        let part = &mut x[i..i + n];
        let v = s.mul(up, simd_math::tanh(s, s.mul(down, s.load_part(part))));
        s.store_part(part, v);
    });
}

/// Reference implementation, generic over the float type.
pub mod plain {
    use crate::real::Real;

    /// See [`super::apply`].
    pub fn apply<T: Real>(cap: T, x: &mut [T]) {
        x.iter_mut().for_each(|x| *x = cap * (*x / cap).tanh());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lanes::testing::{close, random, wide};

    #[test]
    fn every_path_agrees_with_the_plain_twin() {
        // More than one task, a tail, and numbers from far below the caps to far above them.
        let mut x = random(1, CHUNK + 21);
        x.iter_mut().enumerate().for_each(|(i, v)| *v *= 10f32.powi(i as i32 % 7 - 3));
        for cap in [0.5f32, 2.0, 30.0] {
            let mut want = wide(&x);
            plain::apply(f64::from(cap), &mut want);
            for path in cpu::available() {
                let mut got = x.clone();
                apply_on(path, cap, &mut got);
                close(&got, &want, 1e-6, &format!("{path:?}, cap {cap}"));
                assert!(got.iter().all(|v| v.abs() <= cap), "{path:?}, cap {cap}");
            }
        }
    }

    #[test]
    fn what_is_not_finite_is_capped_and_nan_stays() {
        for path in cpu::available() {
            let mut x = [f32::INFINITY, f32::NEG_INFINITY, -0.0, f32::NAN];
            apply_on(path, 3.0, &mut x);
            assert_eq!(x[..3], [3.0, -3.0, 0.0], "{path:?}");
            assert!(x[2].is_sign_negative() && x[3].is_nan(), "{path:?}");
        }
    }

    #[test]
    #[should_panic(expected = "the cap must be positive")]
    fn a_cap_of_nothing_is_refused() {
        apply(0.0, &mut [1.0]);
    }
}
