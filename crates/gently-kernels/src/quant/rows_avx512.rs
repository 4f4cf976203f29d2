//! Arranging a tile of rows on AVX-512: what [`super::rows`] does number by number.
//!
//! Blocks are rounded 16 at a time, in the order in which the tile keeps them. Their largest numbers and their sums are found side
//! by side in the lanes of one vector, so that nothing runs across a register alone; scales, inverses and what is kept
//! beside a block are vectors of 16 blocks. The same bits as the plain twin's.

// Loops over registers: their indices become constants, which iterators over several arrays would hide.
#![allow(clippy::needless_range_loop)]

use super::BLOCK;
use super::rows::{Parts, TileOf, ZEROS};
use crate::simd::avx512::first;
use std::arch::x86_64::*;

/// Blocks at once.
const SIDE: usize = 16;

/// Rounds the blocks at `sources` to the `n` places from `at` on.
///
/// # Safety
/// The processor must have the features. Each source must be valid for reading a block, and the places for writing.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
pub(super) unsafe fn round(to: &Parts, at: usize, sources: &[*const f32; SIDE], n: usize) {
    // Bits of floats without their sign are ordered as integers, with NaN on top: it is not lost.
    let size = _mm512_set1_epi32(0x7fff_ffff);
    let mut tops = [_mm512_setzero_si512(); SIDE];
    for i in 0..SIDE {
        // SAFETY: the caller's promise.
        let halves = unsafe { [half(sources[i], 0), half(sources[i], 1)] };
        let [low, high] = halves.map(|x| _mm512_and_si512(_mm512_castps_si512(x), size));
        tops[i] = _mm512_max_epu32(low, high);
    }
    let tops = join_max(&tops);
    let scale = _mm512_div_ps(_mm512_castsi512_ps(tops), _mm512_set1_ps(127.0));
    // Below the normal numbers the inverse would overflow. NaN is not below.
    let usable = !_mm512_cmp_ps_mask::<_CMP_LT_OQ>(scale, _mm512_set1_ps(f32::MIN_POSITIVE));
    let inverse = _mm512_maskz_div_ps(usable, _mm512_set1_ps(1.0), scale);
    let finite = _mm512_cmplt_epu32_mask(tops, _mm512_set1_epi32(0x7f80_0000));
    let scale = _mm512_mask_mov_ps(_mm512_set1_ps(f32::NAN), finite, _mm512_maskz_mov_ps(usable, scale));
    let mut inverses = [0.0f32; SIDE];
    // SAFETY: 16 numbers.
    unsafe { _mm512_storeu_ps(inverses.as_mut_ptr(), inverse) }

    // Packing pairs of vectors takes turns between them every 128 bits; this puts their words back in order.
    let order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    let mut pairs = [_mm512_setzero_si512(); SIDE / 2];
    for p in 0..SIDE / 2 {
        let mut words = [_mm512_setzero_si512(); 2];
        for i in 0..2 {
            let (source, inverse) = (sources[2 * p + i], _mm512_set1_ps(inverses[2 * p + i]));
            // SAFETY: the caller's promise.
            let halves = unsafe { [half(source, 0), half(source, 1)] };
            // To the nearest integer, ties to even.
            let [low, high] = halves.map(|x| _mm512_cvtps_epi32(_mm512_mul_ps(x, inverse)));
            words[i] = _mm512_packs_epi32(low, high);
        }
        pairs[p] = _mm512_permutexvar_epi32(order, _mm512_packs_epi16(words[0], words[1]));
        if 2 * p < n {
            // SAFETY: one or two places.
            unsafe {
                let out = to.ints.add((at + 2 * p) * BLOCK);
                if 2 * p + 1 < n {
                    _mm512_storeu_si512(out.cast(), pairs[p]);
                } else {
                    _mm256_storeu_si256(out.cast(), _mm512_castsi512_si256(pairs[p]));
                }
            }
        }
    }

    let [a, b] = [join_sums(&pairs[..4]), join_sums(&pairs[4..])];
    // Half h of block 8v + 2i + j is lane 8j + 4h + i of the v-th.
    let first_half = _mm512_setr_epi32(0, 8, 1, 9, 2, 10, 3, 11, 16, 24, 17, 25, 18, 26, 19, 27);
    let second_half = _mm512_add_epi32(first_half, _mm512_set1_epi32(4));
    let halves = [_mm512_permutex2var_epi32(a, first_half, b), _mm512_permutex2var_epi32(a, second_half, b)];
    let sum = _mm512_add_epi32(halves[0], halves[1]);
    let mask = first(n);
    // SAFETY: n places of the tile.
    unsafe {
        _mm512_mask_storeu_ps(to.scale.add(at), mask, scale);
        _mm512_mask_storeu_ps(to.scaled_sum.add(at), mask, _mm512_mul_ps(scale, _mm512_cvtepi32_ps(sum)));
        for i in 0..ZEROS.len() {
            let start = _mm512_mullo_epi32(sum, _mm512_set1_epi32(-ZEROS[i]));
            _mm512_mask_storeu_epi32(to.start[i].add(at), mask, start);
        }
        for h in 0..2 {
            _mm512_mask_storeu_epi32(to.half_sum[h].add(at), mask, halves[h]);
        }
    }
}

/// Half `h` of a block.
///
/// # Safety
/// `x` must be valid for reading a block.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn half(x: *const f32, h: usize) -> __m512 {
    // SAFETY: the caller's promise.
    unsafe { _mm512_loadu_ps(x.add(h * 16)) }
}

/// The largest unsigned lane of each vector, in the vectors' order.
#[inline]
#[target_feature(enable = "avx512f")]
fn join_max(v: &[__m512i; SIDE]) -> __m512i {
    let mut four = [_mm512_setzero_si512(); 4];
    for i in 0..4 {
        let ab = _mm512_max_epu32(
            _mm512_unpacklo_epi32(v[4 * i], v[4 * i + 1]),
            _mm512_unpackhi_epi32(v[4 * i], v[4 * i + 1]),
        );
        let (c, d) = (v[4 * i + 2], v[4 * i + 3]);
        let cd = _mm512_max_epu32(_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
        // In each 128 bits what remains of four vectors.
        four[i] = _mm512_max_epu32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
    }
    let mut two = [_mm512_setzero_si512(); 2];
    for i in 0..2 {
        let (a, b) = (four[2 * i], four[2 * i + 1]);
        two[i] = _mm512_max_epu32(_mm512_shuffle_i32x4::<0x88>(a, b), _mm512_shuffle_i32x4::<0xdd>(a, b));
    }
    let [a, b] = two;
    _mm512_max_epu32(_mm512_shuffle_i32x4::<0x88>(a, b), _mm512_shuffle_i32x4::<0xdd>(a, b))
}

/// The sums of 16 bytes each of four vectors: those of a place side by side.
#[inline]
#[target_feature(enable = "avx512f,avx512vnni")]
fn join_sums(pairs: &[__m512i]) -> __m512i {
    let mut v = [_mm512_setzero_si512(); 4];
    for i in 0..4 {
        v[i] = _mm512_dpbusd_epi32(v[i], _mm512_set1_epi8(1), pairs[i]);
    }
    let ab = _mm512_add_epi32(_mm512_unpacklo_epi32(v[0], v[1]), _mm512_unpackhi_epi32(v[0], v[1]));
    let cd = _mm512_add_epi32(_mm512_unpacklo_epi32(v[2], v[3]), _mm512_unpackhi_epi32(v[2], v[3]));
    _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd))
}

/// Turns a tile of rows of floats: 16 numbers of each row at a time.
///
/// # Safety
/// The processor must have the features. The tile must be one of `to`, whose form must be floats, with its rows inside of `of.x`;
/// nobody else may use it meanwhile.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn floats(to: &Parts, of: TileOf) {
    let (k, width) = (to.k, to.width);
    let whole = k / SIDE * SIDE;
    // SAFETY: the tile's k·width numbers.
    let out = unsafe { to.floats.add(of.tile * k * width) };
    let mask = first(width);
    for at in (0..whole).step_by(SIDE) {
        let mut v = [_mm512_setzero_ps(); SIDE];
        for r in 0..SIDE {
            if r < of.rows {
                // SAFETY: 16 numbers of the slice.
                v[r] = unsafe { _mm512_loadu_ps(of.x[r * of.stride + at..][..SIDE].as_ptr()) };
            }
        }
        let v = transpose(&v);
        for i in 0..SIDE {
            // SAFETY: place `at + i` of the tile.
            unsafe { _mm512_mask_storeu_ps(out.add((at + i) * width), mask, v[i]) }
        }
    }
    for i in whole..k {
        for r in 0..of.rows {
            // SAFETY: place i of the tile.
            unsafe { *out.add(i * width + r) = of.x[r * of.stride + i] }
        }
    }
}

/// Vector i of the result holds lane i of each.
#[inline]
#[target_feature(enable = "avx512f")]
fn transpose(v: &[__m512; SIDE]) -> [__m512; SIDE] {
    let zero = _mm512_setzero_ps();
    // In each 128 bits: one number of each of four vectors.
    let mut four = [[zero; 4]; 4];
    for i in 0..4 {
        let pair = |a: __m512, b: __m512| [_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b)];
        let (ab, cd) = (pair(v[4 * i], v[4 * i + 1]), pair(v[4 * i + 2], v[4 * i + 3]));
        for h in 0..2 {
            let [ab, cd] = [_mm512_castps_pd(ab[h]), _mm512_castps_pd(cd[h])];
            four[2 * h][i] = _mm512_castpd_ps(_mm512_unpacklo_pd(ab, cd));
            four[2 * h + 1][i] = _mm512_castpd_ps(_mm512_unpackhi_pd(ab, cd));
        }
    }
    let mut out = [zero; SIDE];
    for j in 0..4 {
        let [a, b, c, d] = four[j];
        // Quarters of 128 bits: 0 and 2, 1 and 3 of two vectors each, then of those.
        let (ab0, ab1) = (_mm512_shuffle_f32x4::<0x88>(a, b), _mm512_shuffle_f32x4::<0xdd>(a, b));
        let (cd0, cd1) = (_mm512_shuffle_f32x4::<0x88>(c, d), _mm512_shuffle_f32x4::<0xdd>(c, d));
        out[j] = _mm512_shuffle_f32x4::<0x88>(ab0, cd0);
        out[j + 4] = _mm512_shuffle_f32x4::<0x88>(ab1, cd1);
        out[j + 8] = _mm512_shuffle_f32x4::<0xdd>(ab0, cd0);
        out[j + 12] = _mm512_shuffle_f32x4::<0xdd>(ab1, cd1);
    }
    out
}
