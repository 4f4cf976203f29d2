//! Conversions between number types.
//!
//! Here: [`Scalar`], the storage types of tensors, and [`cast`] between any two of them with the
//! rules of Rust's `as` (round to nearest even for floats, truncate and saturate for integers);
//! [`widen_f16`] and [`narrow_f16`] for half precision, which files and caches use.
//! Not here: quantized formats.
//!
//! ```
//! use gently_kernels::cast::cast;
//! let mut half = [half::bf16::ZERO; 2];
//! cast(&[1.0f32, 1.005], &mut half);
//! assert_eq!(half[1].to_f32(), 1.0078125);
//! ```

use crate::cpu;
use crate::lanes::CHUNK;
use crate::pool;
use crate::simd::{Kernel, Simd, dispatch};
use half::{bf16, f16};

mod sealed {
    pub trait Sealed {}
}

/// A storage type of tensors: f32, f64, bf16, u8, u32, i64.
pub trait Scalar: sealed::Sealed + bytemuck::Pod + Send + Sync + PartialOrd + std::fmt::Debug {
    /// Converts a slice; lengths are equal.
    #[doc(hidden)]
    fn cast_slice<B: Scalar>(from: &[Self], to: &mut [B]);
    #[doc(hidden)]
    fn from_f32(x: f32) -> Self;
    #[doc(hidden)]
    fn from_f64(x: f64) -> Self;
    #[doc(hidden)]
    fn from_i64(x: i64) -> Self;
    #[doc(hidden)]
    fn from_u32(x: u32) -> Self;
}

/// Rounds to nearest even by integer arithmetic, which vectorises; NaN stays NaN.
#[inline(always)]
fn round_bf16(x: f32) -> bf16 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
    let quiet = (bits >> 16) | 0x40;
    bf16::from_bits(if x.is_nan() { quiet } else { rounded } as u16)
}

macro_rules! scalar {
    ($t:ty, |$x:ident| widen $from:ident($wide:expr), f32 $f32:expr, f64 $f64:expr, i64 $i64:expr, u32 $u32:expr) => {
        impl sealed::Sealed for $t {}
        impl Scalar for $t {
            #[inline(always)]
            fn cast_slice<B: Scalar>(from: &[Self], to: &mut [B]) {
                for (b, &$x) in to.iter_mut().zip(from) {
                    *b = B::$from($wide);
                }
            }
            #[inline(always)]
            fn from_f32($x: f32) -> Self {
                $f32
            }
            #[inline(always)]
            fn from_f64($x: f64) -> Self {
                $f64
            }
            #[inline(always)]
            fn from_i64($x: i64) -> Self {
                $i64
            }
            #[inline(always)]
            fn from_u32($x: u32) -> Self {
                $u32
            }
        }
    };
}

scalar!(f32, |x| widen from_f32(x), f32 x, f64 x as f32, i64 x as f32, u32 x as f32);
scalar!(f64, |x| widen from_f64(x), f32 x as f64, f64 x, i64 x as f64, u32 x as f64);
scalar!(u8, |x| widen from_u32(x as u32), f32 x as u8, f64 x as u8, i64 x as u8, u32 x as u8);
scalar!(u32, |x| widen from_u32(x), f32 x as u32, f64 x as u32, i64 x as u32, u32 x);
scalar!(i64, |x| widen from_i64(x), f32 x as i64, f64 x as i64, i64 x, u32 x as i64);
scalar!(bf16, |x| widen from_f32(f32::from_bits((x.to_bits() as u32) << 16)),
    f32 round_bf16(x), f64 bf16::from_f64(x), i64 bf16::from_f64(x as f64), u32 bf16::from_f64(x as f64));

/// `to[i] = from[i]` in the other type, any shape.
///
/// # Panics
/// When lengths disagree.
pub fn cast<A: Scalar, B: Scalar>(from: &[A], to: &mut [B]) {
    assert_eq!(from.len(), to.len(), "cast: lengths differ");
    pool::parallel_chunks_mut(to, CHUNK, |chunk, to| {
        let from = &from[chunk * CHUNK..][..to.len()];
        dispatch(cpu::path(), Part { from, to });
    });
}

/// `to[i] = from[i]`, exactly: half precision to f32.
///
/// # Panics
/// When lengths disagree.
pub fn widen_f16(from: &[f16], to: &mut [f32]) {
    assert_eq!(from.len(), to.len(), "widen_f16: lengths differ");
    pool::parallel_chunks_mut(to, CHUNK, |chunk, to| {
        let from = &from[chunk * CHUNK..][..to.len()];
        dispatch(cpu::path(), Widen { from, to });
    });
}

/// `to[i] = from[i]`, rounded to nearest even: f32 to half precision.
///
/// # Panics
/// When lengths disagree.
pub fn narrow_f16(from: &[f32], to: &mut [f16]) {
    assert_eq!(from.len(), to.len(), "narrow_f16: lengths differ");
    pool::parallel_chunks_mut(to, CHUNK, |chunk, to| {
        let from = &from[chunk * CHUNK..][..to.len()];
        dispatch(cpu::path(), Narrow { from, to });
    });
}

struct Widen<'a> {
    from: &'a [f16],
    to: &'a mut [f32],
}

impl Kernel for Widen<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let whole = self.to.len() - self.to.len() % S::LANES;
        let (to, rest) = self.to.split_at_mut(whole);
        for (from, to) in self.from.chunks_exact(S::LANES).zip(to.chunks_exact_mut(S::LANES)) {
            // SAFETY: a whole vector of numbers.
            let v = unsafe { s.load_f16(from.as_ptr().cast()) };
            s.store(to, v);
        }
        for (from, to) in self.from[whole..].iter().zip(rest) {
            *to = from.to_f32();
        }
    }
}

struct Narrow<'a> {
    from: &'a [f32],
    to: &'a mut [f16],
}

impl Kernel for Narrow<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let whole = self.to.len() - self.to.len() % S::LANES;
        let (to, rest) = self.to.split_at_mut(whole);
        for (from, to) in self.from.chunks_exact(S::LANES).zip(to.chunks_exact_mut(S::LANES)) {
            // SAFETY: a whole vector of numbers.
            unsafe { s.store_f16(to.as_mut_ptr().cast(), s.load(from)) }
        }
        for (from, to) in self.from[whole..].iter().zip(rest) {
            *to = f16::from_f32(*from);
        }
    }
}

struct Part<'a, A, B> {
    from: &'a [A],
    to: &'a mut [B],
}

impl<A: Scalar, B: Scalar> Kernel for Part<'_, A, B> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        A::cast_slice(self.from, self.to);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lanes::testing::random;

    fn to<A: Scalar, B: Scalar>(from: &[A]) -> Vec<B> {
        let mut out = vec![B::from_u32(0); from.len()];
        cast(from, &mut out);
        out
    }

    #[test]
    fn bfloat16_rounds_as_the_half_crate_does() {
        let mut x = random(1, 50_000);
        x.extend([0.0, -0.0, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::MIN_POSITIVE, 1e-45]);
        // Ties: half way between two neighbours, to even.
        x.extend((0..64u32).map(|i| f32::from_bits(0x3F80_8000 + (i << 16))));
        let half: Vec<bf16> = to(&x);
        for (h, x) in half.iter().zip(&x) {
            assert_eq!(h.to_bits(), bf16::from_f32(*x).to_bits(), "{x}");
        }
        let back: Vec<f32> = to(&half);
        assert!(back.iter().zip(&half).all(|(b, h)| b.to_bits() == h.to_f32().to_bits()));
        // NaN stays NaN even where only its low bits say so.
        assert!(to::<f32, bf16>(&[f32::NAN, f32::from_bits(0x7F80_0001)]).iter().all(|v| v.is_nan()));
    }

    #[test]
    fn half_precision_goes_both_ways_on_every_path() {
        let all: Vec<f16> = (0..=u16::MAX).map(f16::from_bits).collect();
        let mut x: Vec<f32> = random(2, 10_001);
        x.extend(all.iter().map(|h| h.to_f32() * 1.0003));
        for path in cpu::available() {
            let mut wide = vec![0.0; all.len()];
            dispatch(path, Widen { from: &all, to: &mut wide });
            for (w, h) in wide.iter().zip(&all) {
                assert!(w.to_bits() == h.to_f32().to_bits() || h.is_nan() && w.is_nan());
            }
            let mut narrow = vec![f16::ZERO; x.len()];
            dispatch(path, Narrow { from: &x, to: &mut narrow });
            for (h, &x) in narrow.iter().zip(&x) {
                assert!(h.to_bits() == f16::from_f32(x).to_bits() || h.is_nan() && x.is_nan(), "{x}");
            }
        }
        let (mut wide, mut narrow) = (vec![0.0; all.len()], vec![f16::ZERO; all.len()]);
        widen_f16(&all, &mut wide);
        narrow_f16(&wide, &mut narrow);
        assert!(all.iter().zip(&narrow).all(|(a, b)| a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan()));
    }

    #[test]
    fn integers_saturate_truncate_and_keep_their_digits() {
        assert_eq!(to::<f32, u8>(&[-1.0, 3.9, 300.0, f32::NAN]), [0, 3, 255, 0]);
        assert_eq!(to::<f64, i64>(&[-2.7, 1e30]), [-2, i64::MAX]);
        assert_eq!(to::<u32, i64>(&[u32::MAX]), [u32::MAX as i64]);
        assert_eq!(to::<i64, f64>(&[(1 << 53) - 1]), [9_007_199_254_740_991.0]);
        assert_eq!(to::<i64, i64>(&[i64::MAX, i64::MIN]), [i64::MAX, i64::MIN]);
        assert_eq!(to::<u32, f32>(&[16_777_216]), [16_777_216.0]);
        assert_eq!(to::<u8, u32>(&[255]), [255]);
        assert_eq!(to::<bf16, i64>(&[bf16::from_f32(-3.5)]), [-3]);
        assert_eq!(to::<f64, f32>(&[0.1]), [0.1f32]);
        assert_eq!(to::<f32, f64>(&[0.1]), [0.1f32 as f64]);
    }
}
