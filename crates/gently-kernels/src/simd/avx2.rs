//! AVX2 and FMA: 8 lanes, 16 registers.

use super::{Kernel, Simd};
use std::arch::x86_64::*;

/// Proof that the processor has AVX2 and FMA.
#[derive(Clone, Copy)]
pub struct Avx2(());

impl Avx2 {
    /// To be used only in functions compiled for these features.
    pub(crate) const TOKEN: Avx2 = Avx2(());
}

/// Eight ones, then eight zeros: a window on it is the mask of the first n lanes.
static MASK: [i32; 16] = [-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0];

/// The mask of the first `n` lanes. (To be used only in functions compiled for AVX2.)
#[inline(always)]
pub(crate) fn first(n: usize) -> __m256i {
    // SAFETY: 8 − min(n, 8) + 8 ≤ 16 elements; the callers have the features.
    unsafe { _mm256_loadu_si256(MASK.as_ptr().add(8 - n.min(8)).cast()) }
}

/// Transposes an 8 × 8 block of words. (No closures here: they would not be compiled for AVX2.)
///
/// # Safety
/// To be used only in functions compiled for AVX2.
#[inline(always)]
pub(crate) unsafe fn transpose8(x: [__m256i; 8]) -> [__m256i; 8] {
    // SAFETY: inlined into functions with AVX2.
    unsafe {
        // Neighbouring rows, then quads, then halves.
        let p0 = _mm256_unpacklo_epi32(x[0], x[1]);
        let p1 = _mm256_unpackhi_epi32(x[0], x[1]);
        let p2 = _mm256_unpacklo_epi32(x[2], x[3]);
        let p3 = _mm256_unpackhi_epi32(x[2], x[3]);
        let p4 = _mm256_unpacklo_epi32(x[4], x[5]);
        let p5 = _mm256_unpackhi_epi32(x[4], x[5]);
        let p6 = _mm256_unpacklo_epi32(x[6], x[7]);
        let p7 = _mm256_unpackhi_epi32(x[6], x[7]);
        let q0 = _mm256_unpacklo_epi64(p0, p2);
        let q1 = _mm256_unpackhi_epi64(p0, p2);
        let q2 = _mm256_unpacklo_epi64(p1, p3);
        let q3 = _mm256_unpackhi_epi64(p1, p3);
        let q4 = _mm256_unpacklo_epi64(p4, p6);
        let q5 = _mm256_unpackhi_epi64(p4, p6);
        let q6 = _mm256_unpacklo_epi64(p5, p7);
        let q7 = _mm256_unpackhi_epi64(p5, p7);
        [
            _mm256_permute2x128_si256::<0x20>(q0, q4),
            _mm256_permute2x128_si256::<0x20>(q1, q5),
            _mm256_permute2x128_si256::<0x20>(q2, q6),
            _mm256_permute2x128_si256::<0x20>(q3, q7),
            _mm256_permute2x128_si256::<0x31>(q0, q4),
            _mm256_permute2x128_si256::<0x31>(q1, q5),
            _mm256_permute2x128_si256::<0x31>(q2, q6),
            _mm256_permute2x128_si256::<0x31>(q3, q7),
        ]
    }
}

// SAFETY of all blocks: a token exists only where the features do; pointers are the caller's promise.
impl Simd for Avx2 {
    type V = __m256;
    const LANES: usize = 8;
    const REGISTERS: usize = 16;

    #[inline(always)]
    fn splat(self, x: f32) -> __m256 {
        unsafe { _mm256_set1_ps(x) }
    }
    #[inline(always)]
    fn add(self, a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_add_ps(a, b) }
    }
    #[inline(always)]
    fn sub(self, a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_sub_ps(a, b) }
    }
    #[inline(always)]
    fn mul(self, a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_mul_ps(a, b) }
    }
    #[inline(always)]
    fn div(self, a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_div_ps(a, b) }
    }
    #[inline(always)]
    fn fma(self, a: __m256, b: __m256, c: __m256) -> __m256 {
        unsafe { _mm256_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    fn nfma(self, a: __m256, b: __m256, c: __m256) -> __m256 {
        unsafe { _mm256_fnmadd_ps(a, b, c) }
    }
    #[inline(always)]
    fn min(self, a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_min_ps(a, b) }
    }
    #[inline(always)]
    fn max(self, a: __m256, b: __m256) -> __m256 {
        unsafe { _mm256_max_ps(a, b) }
    }
    #[inline(always)]
    fn sqrt(self, a: __m256) -> __m256 {
        unsafe { _mm256_sqrt_ps(a) }
    }
    #[inline(always)]
    fn abs(self, a: __m256) -> __m256 {
        unsafe { _mm256_andnot_ps(_mm256_set1_ps(-0.0), a) }
    }
    #[inline(always)]
    fn copysign(self, a: __m256, b: __m256) -> __m256 {
        unsafe {
            let sign = _mm256_set1_ps(-0.0);
            _mm256_or_ps(_mm256_andnot_ps(sign, a), _mm256_and_ps(sign, b))
        }
    }
    #[inline(always)]
    fn select_lt(self, a: __m256, b: __m256, yes: __m256, no: __m256) -> __m256 {
        unsafe { _mm256_blendv_ps(no, yes, _mm256_cmp_ps::<_CMP_LT_OQ>(a, b)) }
    }
    #[inline(always)]
    fn round(self, a: __m256) -> __m256 {
        unsafe { _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(a) }
    }
    #[inline(always)]
    fn scale_down(self, p: __m256, n: __m256) -> __m256 {
        unsafe {
            let exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
            _mm256_mul_ps(p, _mm256_castsi256_ps(_mm256_slli_epi32::<23>(exponent)))
        }
    }
    #[inline(always)]
    fn ldexp(self, a: __m256, n: __m256) -> __m256 {
        // In two steps, because 2ⁿ itself may lie outside the range of normal numbers.
        unsafe {
            let n = _mm256_cvtps_epi32(n);
            let half = _mm256_srai_epi32::<1>(n);
            let rest = _mm256_sub_epi32(n, half);
            let bias = _mm256_set1_epi32(127);
            let p = _mm256_slli_epi32::<23>(_mm256_add_epi32(half, bias));
            let q = _mm256_slli_epi32::<23>(_mm256_add_epi32(rest, bias));
            let scaled = _mm256_mul_ps(a, _mm256_castsi256_ps(p));
            _mm256_mul_ps(scaled, _mm256_castsi256_ps(q))
        }
    }
    #[inline(always)]
    fn sum(self, a: __m256) -> f32 {
        unsafe {
            let four = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
        }
    }
    #[inline(always)]
    fn max_lane(self, a: __m256) -> f32 {
        unsafe {
            let four = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
            let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)))
        }
    }
    #[inline(always)]
    fn apart<K: Kernel>(self, kernel: K) -> K::Out {
        // SAFETY: a token exists only where the features do.
        unsafe { super::run_avx2(kernel) }
    }
    #[inline(always)]
    fn prefetch(self, p: *const f32) {
        unsafe { _mm_prefetch::<_MM_HINT_T0>(p.cast()) }
    }
    #[inline(always)]
    fn prefetch_far(self, p: *const f32) {
        unsafe { _mm_prefetch::<_MM_HINT_T1>(p.cast()) }
    }
    #[inline(always)]
    unsafe fn load_ptr(self, p: *const f32) -> __m256 {
        unsafe { _mm256_loadu_ps(p) }
    }
    #[inline(always)]
    unsafe fn load_f16(self, p: *const u16) -> __m256 {
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(p.cast())) }
    }
    #[inline(always)]
    unsafe fn load_bf16(self, p: *const u16) -> __m256 {
        unsafe {
            let wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(p.cast()));
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide))
        }
    }
    #[inline(always)]
    unsafe fn load_i8(self, p: *const i8) -> __m256 {
        unsafe { _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(p.cast()))) }
    }
    #[inline(always)]
    unsafe fn store_f16(self, p: *mut u16, a: __m256) {
        unsafe { _mm_storeu_si128(p.cast(), _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(a)) }
    }
    #[inline(always)]
    unsafe fn store_ptr(self, p: *mut f32, a: __m256) {
        unsafe { _mm256_storeu_ps(p, a) }
    }
    #[inline(always)]
    unsafe fn load_n(self, p: *const f32, n: usize) -> __m256 {
        unsafe { _mm256_maskload_ps(p, first(n)) }
    }
    #[inline(always)]
    unsafe fn store_n(self, p: *mut f32, n: usize, a: __m256) {
        unsafe { _mm256_maskstore_ps(p, first(n), a) }
    }
}
