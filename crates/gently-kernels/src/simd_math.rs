//! Vectorised exp, tanh, sigmoid, erf, GELU and SiLU, written once over [`Simd`].
//!
//! Here: functions of a vector, relative error below 1e-6 (a few units in the last place). Not here:
//! loops over slices (see the kernels that use these) and double precision (see [`crate::real`]).
//!
//! Polynomials are minimax fits in the relative error of the final function, made for this file by
//! iteratively reweighted least squares on Chebyshev nodes.
//!
//! ```
//! use gently_kernels::{cpu, simd::{Kernel, Simd, dispatch}, simd_math};
//! struct Exp<'a>(&'a mut [f32]);
//! impl Kernel for Exp<'_> {
//!     type Out = ();
//!     #[inline(always)]
//!     fn run<S: Simd>(self, s: S) {
//!         for part in self.0.chunks_mut(S::LANES) {
//!             let y = simd_math::exp(s, s.load_part(part));
//!             s.store_part(part, y);
//!         }
//!     }
//! }
//! let mut x = [0.0, 1.0];
//! dispatch(cpu::path(), Exp(&mut x));
//! assert!((x[1] - std::f32::consts::E).abs() < 1e-6);
//! ```

use crate::simd::Simd;

/// ln 2 in two parts: the first has few bits, so that n·LN2_HI is exact.
const LN2_HI: f32 = 0.693_359_4;
const LN2_LO: f32 = -2.121_944_4e-4;

/// (e^r − 1 − r) / r² on |r| ≤ ½ ln 2.
const EXPM1: [f32; 5] = [0.499_999_97, 0.166_665_43, 0.041_667_197, 0.008_366_508, 0.001_388_276_6];
/// A polynomial for (2^r − 1) / r on |r| ≤ ½, minimax in the relative error of 2^r (9e-8), made for
/// this file by iteratively reweighted least squares. 2^0 is exactly 1.
// The first is near ln 2, but its own number.
#[allow(clippy::approx_constant)]
const EXP2: [f32; 5] = [0.693_147, 0.240_222_42, 0.055_507_336, 0.009_671_513, 0.001_326_472_7];
/// erf(x) / x in x² on |x| < 0.95. (The first is a fitted number that happens to lie near 2/√π.)
#[allow(clippy::approx_constant)]
const ERF_SMALL: [f32; 7] =
    [1.128_379_2, -0.376_126_32, 0.112_836_64, -0.026_857_706, 0.005_196_952, -0.000_809_770_25, 8.185_091e-5];
/// ln(1 − erf x) on 0.95 … 4.
const ERFC_LOG: [f32; 7] =
    [-0.000_244_713_6, -1.127_475, -0.637_517_04, -0.103_640_325, 0.022_087_643, -0.003_008_537_5, 0.000_192_426_07];

/// c₀ + x(c₁ + x(c₂ + …))
#[inline(always)]
fn horner<S: Simd, const N: usize>(s: S, x: S::V, c: &[f32; N]) -> S::V {
    let mut y = s.splat(c[N - 1]);
    let mut i = N - 1;
    while i > 0 {
        i -= 1;
        y = s.fma(y, x, s.splat(c[i]));
    }
    y
}

/// x = n ln 2 + r with |r| ≤ ½ ln 2; returns (n, e^r − 1).
#[inline(always)]
fn exp_parts<S: Simd>(s: S, x: S::V) -> (S::V, S::V) {
    let n = s.round(s.mul(x, s.splat(std::f32::consts::LOG2_E)));
    let r = s.nfma(n, s.splat(LN2_HI), x);
    let r = s.nfma(n, s.splat(LN2_LO), r);
    let q = horner(s, r, &EXPM1);
    (n, s.fma(s.mul(r, r), q, r))
}

/// e^x; 0 where that is below the normal numbers (x under −87.33), ∞ above 88.72, NaN kept. Subnormal results would take a
/// processor some twenty times as long, and every masked score would be one.
#[inline(always)]
pub fn exp<S: Simd>(s: S, x: S::V) -> S::V {
    let least = s.splat(-87.33);
    // The clamp keeps n in the range of `ldexp`; min and max return their second operand on NaN.
    let (n, p) = exp_parts(s, s.min(s.splat(90.0), s.max(least, x)));
    s.select_lt(x, least, s.splat(0.0), s.ldexp(s.add(p, s.splat(1.0)), n))
}

/// 2^x for x ≤ 128; exactly 0 below −127.5 and for −∞, ∞ from 127.5 on, NaN kept.
#[inline(always)]
pub fn exp2<S: Simd>(s: S, x: S::V) -> S::V {
    // `max` returns its second operand on NaN, so NaN stays.
    let x = s.max(s.splat(-127.0), x);
    let n = s.round(x);
    let r = s.sub(x, n);
    let mut p = s.splat(EXP2[4]);
    for c in [EXP2[3], EXP2[2], EXP2[1], EXP2[0], 1.0] {
        p = s.fma(p, r, s.splat(c));
    }
    s.scale_down(p, n)
}

/// tanh x = m / (m + 2) with m = e^(2|x|) − 1, which loses no digits near 0.
#[inline(always)]
pub fn tanh<S: Simd>(s: S, x: S::V) -> S::V {
    let two = s.splat(2.0);
    // From 2|x| = 20 on the result rounds to 1.
    let a = s.min(s.splat(20.0), s.mul(two, s.abs(x)));
    let (n, p) = exp_parts(s, a);
    let one = s.splat(1.0);
    let scale = s.ldexp(one, n);
    let m = s.fma(scale, p, s.sub(scale, one));
    s.copysign(s.div(m, s.add(m, two)), x)
}

/// 1 / (1 + e^(−x))
#[inline(always)]
pub fn sigmoid<S: Simd>(s: S, x: S::V) -> S::V {
    let one = s.splat(1.0);
    s.div(one, s.add(one, exp(s, s.sub(s.splat(0.0), x))))
}

/// 1 / (1 + 2^z): the logistic function of −z ln 2, for factors of numbers that are not small where it is. Its error is below 1e-7
/// of 1, not of itself, and from z = 127.5 on it is exactly 0. The constants of callers hold −log₂ e: half the operations of
/// [`sigmoid`].
#[inline(always)]
fn logistic2<S: Simd>(s: S, z: S::V) -> S::V {
    let one = s.splat(1.0);
    // `min` returns its second operand on NaN, so NaN stays.
    s.div(one, s.add(one, exp2(s, s.min(s.splat(128.0), z))))
}

/// σ(2u) of [`gelu_tanh`].
#[inline(always)]
pub(crate) fn gelu_gate<S: Simd>(s: S, x: S::V) -> S::V {
    // −2√(2/π) log₂ e, and that times 0.044715.
    let (linear, cubic) = (s.splat(-2.302_208_2), s.splat(-0.102_943_24));
    logistic2(s, s.mul(x, s.fma(cubic, s.mul(x, x), linear)))
}

/// σ(x) of [`silu`].
#[inline(always)]
pub(crate) fn silu_gate<S: Simd>(s: S, x: S::V) -> S::V {
    logistic2(s, s.mul(x, s.splat(-std::f32::consts::LOG2_E)))
}

/// The error function.
#[inline(always)]
pub fn erf<S: Simd>(s: S, x: S::V) -> S::V {
    let a = s.min(s.splat(4.0), s.abs(x));
    let small = s.mul(a, horner(s, s.mul(a, a), &ERF_SMALL));
    let large = s.sub(s.splat(1.0), exp(s, horner(s, a, &ERFC_LOG)));
    s.copysign(s.select_lt(a, s.splat(0.95), small, large), x)
}

/// ½x(1 + tanh u) = x σ(2u) with u = √(2/π)(x + 0.044715x³): one exponential, no cancellation.
#[inline(always)]
pub fn gelu_tanh<S: Simd>(s: S, x: S::V) -> S::V {
    s.mul(x, gelu_gate(s, x))
}

/// ½x(1 + erf(x/√2))
#[inline(always)]
pub fn gelu_erf<S: Simd>(s: S, x: S::V) -> S::V {
    let e = erf(s, s.mul(x, s.splat(std::f32::consts::FRAC_1_SQRT_2)));
    let half = s.mul(s.splat(0.5), x);
    s.fma(half, e, half)
}

/// x σ(x)
#[inline(always)]
pub fn silu<S: Simd>(s: S, x: S::V) -> S::V {
    s.mul(x, silu_gate(s, x))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::activation::Activation;
    use crate::cpu::{self, Path};
    use crate::real::Real;
    use crate::simd::{Kernel, dispatch};

    #[derive(Clone, Copy, Debug)]
    enum Which {
        Exp,
        Tanh,
        Sigmoid,
        Erf,
        Act(Activation),
    }

    struct Map<'a>(Which, &'a mut [f32]);
    impl Kernel for Map<'_> {
        type Out = ();
        #[inline(always)]
        fn run<S: Simd>(self, s: S) {
            for part in self.1.chunks_mut(S::LANES) {
                let x = s.load_part(part);
                let y = match self.0 {
                    Which::Exp => exp(s, x),
                    Which::Tanh => tanh(s, x),
                    Which::Sigmoid => sigmoid(s, x),
                    Which::Erf => erf(s, x),
                    Which::Act(a) => a.apply_vector(s, x),
                };
                s.store_part(part, y);
            }
        }
    }

    fn exact(w: Which, x: f64) -> f64 {
        match w {
            Which::Exp => x.exp(),
            Which::Tanh => x.tanh(),
            Which::Sigmoid => Real::sigmoid(x),
            Which::Erf => Real::erf(x),
            Which::Act(a) => a.apply(x),
        }
    }

    fn run(path: Path, w: Which, x: &[f32]) -> Vec<f32> {
        let mut y = x.to_vec();
        dispatch(path, Map(w, &mut y));
        y
    }

    #[test]
    fn functions_agree_with_double_precision_on_every_path() {
        let xs: Vec<f32> =
            (-80_000..=80_000).map(|i| i as f32 * 1e-3).chain((-2000..=2000).map(|i| i as f32 * 1e-5)).collect();
        use Activation::*;
        let all = [Which::Exp, Which::Tanh, Which::Sigmoid, Which::Erf]
            .into_iter()
            .chain([None, GeluTanh, GeluErf, Silu, Relu, Relu2].map(Which::Act));
        for w in all {
            for path in cpu::available() {
                let mut worst = (0.0, 0.0);
                for (&x, &y) in xs.iter().zip(&run(path, w, &xs)) {
                    let e = exact(w, x as f64);
                    // GELU's left tail is the difference of nearly equal numbers: judged absolutely there.
                    let floor = if matches!(w, Which::Act(_)) { 0.5 } else { 1e-30 };
                    let err = (y as f64 - e).abs() / e.abs().max(floor);
                    if err > worst.0 {
                        worst = (err, x);
                    }
                }
                assert!(worst.0 < 1e-6, "{w:?} {path:?}: error {:e} at {}", worst.0, worst.1);
            }
        }
    }

    #[test]
    fn powers_of_two_agree_with_double_precision_on_every_path() {
        struct Powers<'a>(&'a mut [f32]);
        impl Kernel for Powers<'_> {
            type Out = ();
            #[inline(always)]
            fn run<S: Simd>(self, s: S) {
                for part in self.0.chunks_mut(S::LANES) {
                    let y = exp2(s, s.load_part(part));
                    s.store_part(part, y);
                }
            }
        }
        let xs: Vec<f32> = (0..=126_000).map(|i| i as f32 * -1e-3).collect();
        for path in cpu::available() {
            let mut ys = xs.clone();
            dispatch(path, Powers(&mut ys));
            for (x, y) in xs.iter().zip(&ys) {
                let e = (*x as f64).exp2();
                assert!((*y as f64 - e).abs() < 2e-7 * e, "{path:?}: 2^{x} is {y}");
            }
            let mut ends = [0.0, -1.0, -127.6, -1e30, f32::NEG_INFINITY, f32::NAN];
            dispatch(path, Powers(&mut ends));
            assert_eq!(ends[..5], [1.0, 0.5, 0.0, 0.0, 0.0], "{path:?}");
            assert!(ends[5].is_nan());
        }
    }

    #[test]
    fn extremes() {
        for path in cpu::available() {
            let x = [f32::NEG_INFINITY, -200.0, 200.0, f32::INFINITY, f32::NAN, 0.0, -0.0];
            let e = run(path, Which::Exp, &x);
            assert_eq!(&e[..4], &[0.0, 0.0, f32::INFINITY, f32::INFINITY]);
            assert!(e[4].is_nan());
            assert_eq!(&e[5..], &[1.0, 1.0]);
            let t = run(path, Which::Tanh, &x);
            assert_eq!(&t[..4], &[-1.0, -1.0, 1.0, 1.0]);
            assert!(t[4].is_nan());
            assert_eq!((t[5], t[6].is_sign_negative()), (0.0, true));
            let r = run(path, Which::Erf, &x);
            assert_eq!(&r[..4], &[-1.0, -1.0, 1.0, 1.0]);
            assert!(r[4].is_nan());
            let g = run(path, Which::Sigmoid, &x);
            assert_eq!((g[0], g[3]), (0.0, 1.0));
        }
    }
}
