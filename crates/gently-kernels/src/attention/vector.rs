//! What attention asks of vectors beyond [`Simd`]: lane masks from bits, transposes, bf16 rounding.
//!
//! Here: [`Vector`], its three implementations, and [`dispatch`] of a [`Job`]. Not here: the kernels, and how a path is
//! entered (see [`crate::simd`]).

use crate::cast::bf16_high;
use crate::cpu::Path;
use crate::dropout::Dropout;
use crate::simd::{Simd, Work, dispatch_work, plain::Plain};
#[cfg(target_arch = "x86_64")]
use crate::simd::{avx2::Avx2, avx512::Avx512};

/// Vectors with masks.
pub(super) trait Vector: Simd {
    /// Lane by lane: `yes` where the bit is set, else `no`.
    fn select_bits(self, bits: u32, yes: Self::V, no: Self::V) -> Self::V;

    /// `to[c·to_stride + r] = from[r·stride + c]` for r, c in 0..LANES.
    ///
    /// # Safety
    /// All those places must be readable and writable.
    unsafe fn transpose(self, from: *const f32, stride: usize, to: *mut f32, to_stride: usize);

    /// Runs a job in a function of its own with the same instructions: what several places need is compiled once, and
    /// nothing around it disturbs its registers.
    ///
    /// # Safety
    /// As [`Job::run`].
    unsafe fn job<J: Job>(self, job: J);

    /// [`Dropout::masks`].
    #[inline(always)]
    fn dropout_masks(self, d: &Dropout, bh: usize, pair: usize, tile: usize) -> [u64; 2] {
        d.masks(bh, pair, tile)
    }

    /// The nearest bf16 of each lane, ties to even.
    #[inline(always)]
    fn bf16(self, x: Self::V) -> Self::V {
        let mut lanes = [0.0f32; 16];
        // SAFETY: a vector has at most 16 lanes.
        unsafe {
            self.store_ptr(lanes.as_mut_ptr(), x);
            for lane in &mut lanes[..Self::LANES] {
                *lane = f32::from_bits(bf16_high(*lane) & 0xFFFF_0000);
            }
            self.load_ptr(lanes.as_ptr())
        }
    }

    /// [`Vector::bf16`] if asked.
    #[inline(always)]
    fn rounded(self, x: Self::V, bf16: bool) -> Self::V {
        if bf16 { self.bf16(x) } else { x }
    }
}

/// Work written once for all instruction sets; `run` and all it calls must be `#[inline(always)]` or be
/// reached through [`dispatch`] again.
pub(super) trait Job {
    /// Does the work.
    ///
    /// # Safety
    /// What the job's maker promised about its pointers.
    unsafe fn run<S: Vector>(self, s: S);
}

/// A job whose maker gave [`Job::run`]'s promise.
struct Promised<J>(J);

// SAFETY of all blocks: the promise was given where the value was made.
impl<J: Job> Work for Promised<J> {
    type Out = ();
    #[inline(always)]
    fn plain(self, s: Plain) {
        unsafe { self.0.run(s) }
    }
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    fn avx2(self, s: Avx2) {
        unsafe { self.0.run(s) }
    }
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    fn avx512(self, s: Avx512) {
        unsafe { self.0.run(s) }
    }
}

/// Runs a job with the instructions of `path`.
///
/// # Safety
/// As [`Job::run`].
///
/// # Panics
/// When this processor does not support the path.
#[inline]
pub(super) unsafe fn dispatch<J: Job>(path: Path, job: J) {
    dispatch_work(path, Promised(job));
}

impl Vector for Plain {
    #[inline(never)]
    unsafe fn job<J: Job>(self, job: J) {
        // SAFETY: the caller's promise.
        unsafe { job.run(self) }
    }
    #[inline(always)]
    fn select_bits(self, bits: u32, yes: Self::V, no: Self::V) -> Self::V {
        std::array::from_fn(|i| if bits >> i & 1 == 1 { yes[i] } else { no[i] })
    }
    #[inline(always)]
    unsafe fn transpose(self, from: *const f32, stride: usize, to: *mut f32, to_stride: usize) {
        for r in 0..8 {
            for c in 0..8 {
                // SAFETY: the caller's promise.
                unsafe {
                    *to.add(c * to_stride + r) = *from.add(r * stride + c);
                }
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::super::dropout;
    use super::{Avx2, Avx512, Dropout, Job, Promised, Vector};
    use crate::simd::{run_avx2, run_avx512};
    use std::arch::x86_64::*;

    // SAFETY of all blocks below: a token exists only where the features do; pointers are the caller's promise.
    impl Vector for Avx512 {
        #[inline(always)]
        fn dropout_masks(self, d: &Dropout, bh: usize, pair: usize, tile: usize) -> [u64; 2] {
            unsafe { dropout::avx512::masks(d, bh, pair, tile) }
        }
        #[inline(always)]
        unsafe fn job<J: Job>(self, job: J) {
            unsafe { run_avx512(Promised(job)) }
        }
        #[inline(always)]
        fn select_bits(self, bits: u32, yes: __m512, no: __m512) -> __m512 {
            unsafe { _mm512_mask_blend_ps(bits as u16, no, yes) }
        }
        #[inline(always)]
        unsafe fn transpose(self, from: *const f32, stride: usize, to: *mut f32, to_stride: usize) {
            unsafe {
                let mut r = [_mm512_setzero_ps(); 16];
                for (i, row) in r.iter_mut().enumerate() {
                    *row = _mm512_loadu_ps(from.add(i * stride));
                }
                // Four by four inside each quarter, first singles, then pairs.
                let mut u = [_mm512_setzero_ps(); 16];
                for g in 0..4 {
                    let (a, b, c, d) = (r[4 * g], r[4 * g + 1], r[4 * g + 2], r[4 * g + 3]);
                    let l0 = _mm512_castps_pd(_mm512_unpacklo_ps(a, b));
                    let h0 = _mm512_castps_pd(_mm512_unpackhi_ps(a, b));
                    let l1 = _mm512_castps_pd(_mm512_unpacklo_ps(c, d));
                    let h1 = _mm512_castps_pd(_mm512_unpackhi_ps(c, d));
                    u[4 * g] = _mm512_castpd_ps(_mm512_unpacklo_pd(l0, l1));
                    u[4 * g + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(l0, l1));
                    u[4 * g + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(h0, h1));
                    u[4 * g + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(h0, h1));
                }
                // Then the quarters themselves.
                for c in 0..4 {
                    let (x0, x1) = (
                        _mm512_shuffle_f32x4::<0x88>(u[c], u[4 + c]),
                        _mm512_shuffle_f32x4::<0x88>(u[8 + c], u[12 + c]),
                    );
                    let (y0, y1) = (
                        _mm512_shuffle_f32x4::<0xDD>(u[c], u[4 + c]),
                        _mm512_shuffle_f32x4::<0xDD>(u[8 + c], u[12 + c]),
                    );
                    let to = to.add(c * to_stride);
                    _mm512_storeu_ps(to, _mm512_shuffle_f32x4::<0x88>(x0, x1));
                    _mm512_storeu_ps(to.add(4 * to_stride), _mm512_shuffle_f32x4::<0x88>(y0, y1));
                    _mm512_storeu_ps(to.add(8 * to_stride), _mm512_shuffle_f32x4::<0xDD>(x0, x1));
                    _mm512_storeu_ps(to.add(12 * to_stride), _mm512_shuffle_f32x4::<0xDD>(y0, y1));
                }
            }
        }
    }

    impl Vector for Avx2 {
        #[inline(always)]
        unsafe fn job<J: Job>(self, job: J) {
            unsafe { run_avx2(Promised(job)) }
        }
        #[inline(always)]
        fn select_bits(self, bits: u32, yes: __m256, no: __m256) -> __m256 {
            unsafe {
                let lanes = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
                let set = _mm256_and_si256(_mm256_set1_epi32(bits as i32), lanes);
                _mm256_blendv_ps(no, yes, _mm256_castsi256_ps(_mm256_cmpeq_epi32(set, lanes)))
            }
        }
        #[inline(always)]
        unsafe fn transpose(self, from: *const f32, stride: usize, to: *mut f32, to_stride: usize) {
            unsafe {
                let mut r = [_mm256_setzero_ps(); 8];
                for (i, row) in r.iter_mut().enumerate() {
                    *row = _mm256_loadu_ps(from.add(i * stride));
                }
                let mut u = [_mm256_setzero_ps(); 8];
                for g in 0..2 {
                    let (a, b, c, d) = (r[4 * g], r[4 * g + 1], r[4 * g + 2], r[4 * g + 3]);
                    let l0 = _mm256_castps_pd(_mm256_unpacklo_ps(a, b));
                    let h0 = _mm256_castps_pd(_mm256_unpackhi_ps(a, b));
                    let l1 = _mm256_castps_pd(_mm256_unpacklo_ps(c, d));
                    let h1 = _mm256_castps_pd(_mm256_unpackhi_ps(c, d));
                    u[4 * g] = _mm256_castpd_ps(_mm256_unpacklo_pd(l0, l1));
                    u[4 * g + 1] = _mm256_castpd_ps(_mm256_unpackhi_pd(l0, l1));
                    u[4 * g + 2] = _mm256_castpd_ps(_mm256_unpacklo_pd(h0, h1));
                    u[4 * g + 3] = _mm256_castpd_ps(_mm256_unpackhi_pd(h0, h1));
                }
                for c in 0..4 {
                    let to = to.add(c * to_stride);
                    _mm256_storeu_ps(to, _mm256_permute2f128_ps::<0x20>(u[c], u[4 + c]));
                    _mm256_storeu_ps(to.add(4 * to_stride), _mm256_permute2f128_ps::<0x31>(u[c], u[4 + c]));
                }
            }
        }
    }
}
