//! Conversions between number types.
//!
//! Here: [`Scalar`], the storage types of tensors, and [`cast`] between any two of them with the
//! rules of Rust's `as` (round to nearest even for floats, truncate and saturate from floats to integers);
//! [`nearest_bf16`], the same for one number;
//! [`widen_f16`] and [`narrow_f16`] for half precision, which files and caches use; `Stored`, their numbers as kernels
//! load them.
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

/// The nearest bf16, ties to even, in the high half of the bits; the low half is garbage. By integer arithmetic, which
/// vectorises; NaN stays NaN.
#[inline(always)]
pub(crate) fn bf16_high(x: f32) -> u32 {
    let bits = x.to_bits();
    let nearest = bits.wrapping_add(0x7fff + ((bits >> 16) & 1));
    let quiet = bits | 0x0040_0000;
    if x.is_nan() { quiet } else { nearest }
}

/// The nearest bf16, ties to even; NaN stays NaN.
#[inline(always)]
fn round_bf16(x: f32) -> bf16 {
    bf16::from_bits((bf16_high(x) >> 16) as u16)
}

/// The nearest bf16 to an f64, ties to even; NaN stays NaN. By way of an f32 that is rounded to odd: the last of its bits says
/// whether something was cut off, so that the second rounding sees on which side of a tie the number lies.
#[inline(always)]
pub fn nearest_bf16(x: f64) -> bf16 {
    let nearest = x as f32;
    let wide = f64::from(nearest);
    // One step towards 0 where it was rounded away from it.
    let cut = nearest.to_bits() - u32::from(wide.abs() > x.abs());
    round_bf16(f32::from_bits(cut | u32::from(wide != x)))
}

/// An i64 as an f64 that is rounded to odd where it has more than 53 bits, for [`nearest_bf16`].
#[inline(always)]
fn odd_f64(x: i64) -> f64 {
    let size = x.unsigned_abs();
    if size < 1 << 53 {
        return x as f64;
    }
    let odd = (size >> 11) | u64::from(size & 0x7FF != 0);
    (odd as f64 * 2048.0).copysign(x as f64)
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
    f32 round_bf16(x), f64 nearest_bf16(x), i64 nearest_bf16(odd_f64(x)), u32 nearest_bf16(x as f64));

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

/// A number as it lies in files and caches, of which kernels load whole vectors of f32.
pub(crate) trait Stored: Copy {
    /// A whole vector of them.
    ///
    /// # Safety
    /// `p` must be valid for reading that many.
    unsafe fn load<S: Simd>(s: S, p: *const Self) -> S::V;
}

macro_rules! stored {
    ($($t:ty: $load:ident),*) => {$(
        impl Stored for $t {
            #[inline(always)]
            unsafe fn load<S: Simd>(s: S, p: *const Self) -> S::V {
                // SAFETY: the caller's promise.
                unsafe { s.$load(p.cast()) }
            }
        }
    )*};
}
stored!(f32: load_ptr, f16: load_f16, bf16: load_bf16, i8: load_i8);

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

    /// The nearest bf16 by comparing neighbours, for finite numbers.
    fn by_distance(x: f64) -> bf16 {
        let low = bf16::from_f32(x as f32);
        let near = [low.to_bits().wrapping_sub(1), low.to_bits(), low.to_bits().wrapping_add(1)];
        let near = near.map(bf16::from_bits).into_iter().filter(|v| v.is_finite());
        // Ties go to the even one. Differences of neighbours are exact in f64.
        let key = |v: &bf16| ((v.to_f64() - x).abs(), v.to_bits() & 1);
        near.min_by(|a, b| key(a).partial_cmp(&key(b)).unwrap()).unwrap()
    }

    #[test]
    fn wide_numbers_round_to_bfloat16_once() {
        let tiny = |n: i32| 2f64.powi(-n);
        assert_eq!(to::<f64, bf16>(&[1.0 + tiny(8) + tiny(22)])[0].to_f32(), 1.0078125);
        assert_eq!(to::<i64, bf16>(&[(1 << 24) + (1 << 16) + 1])[0].to_f32(), 16_908_288.0);
        assert_eq!(to::<u32, bf16>(&[(1 << 24) + (1 << 16) + 1])[0].to_f32(), 16_908_288.0);
        // Ties, and what lies beside them by less than an f32 or an f64 can say.
        let mut x = Vec::new();
        for step in 0..64 {
            let tie = 1.0 + tiny(8) + f64::from(step) * tiny(7);
            x.extend([
                tie,
                tie + tiny(22),
                tie - tiny(22),
                tie + tiny(30),
                tie - tiny(30),
                tie + tiny(52),
                tie - tiny(52),
            ]);
        }
        x.extend(random(3, 20_000).iter().map(|v| f64::from(*v) * (1.0 + tiny(40))));
        for scale in [1.0, 1e-38, 1e30, -1.0] {
            let x = Vec::from_iter(x.iter().map(|v| v * scale));
            for (half, x) in to::<f64, bf16>(&x).iter().zip(&x) {
                assert_eq!(half.to_f64(), by_distance(*x).to_f64(), "{x:e}");
            }
        }
        let ends = to::<f64, bf16>(&[f64::NAN, f64::INFINITY, -1e300, 1e-300, -1e-300, 3.39e38, 3.4e38]);
        assert!(ends[0].is_nan() && ends[1] == bf16::INFINITY && ends[2] == bf16::NEG_INFINITY);
        assert_eq!([ends[3].to_bits(), ends[4].to_bits()], [0, 0x8000]);
        assert_eq!([ends[5], ends[6]], [bf16::MAX, bf16::INFINITY]);
        // An integer beside a tie that no f64 can tell from it.
        let tie = (1i64 << 62) + (1 << 54);
        let around = to::<i64, bf16>(&[tie - 1, tie, tie + 1, -tie - 1, i64::MAX, i64::MIN]);
        let (down, up) = (2f64.powi(62), 2f64.powi(62) + 2f64.powi(55));
        let got = Vec::from_iter(around.iter().map(|v| v.to_f64()));
        assert_eq!(got, [down, down, up, -up, 2f64.powi(63), -(2f64.powi(63))]);
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
