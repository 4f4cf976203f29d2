//! Arranging a tile of rows on AVX2: what [`super::rows`] does number by number.
//!
//! Blocks are rounded eight at a time, in the order in which the tile keeps them, as [`super::rows_avx512`] does with 16: their
//! largest numbers and their sums meet in the lanes of one vector, so nothing runs across a register for one block alone. The same
//! bits as the plain twin's.

// Loops over registers: their indices become constants, which iterators over several arrays would hide.
#![allow(clippy::needless_range_loop)]

use super::BLOCK;
use super::rows::{Parts, TileOf, ZEROS};
use crate::simd::avx2::{first, transpose8};
use std::arch::x86_64::*;

/// Blocks, or numbers, at once.
const SIDE: usize = 8;

/// Rounds the blocks at `sources` to the `n` places from `at` on.
///
/// # Safety
/// The processor must have the features. Each source must be valid for reading a block, and the places for writing.
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn round(to: &Parts, at: usize, sources: &[*const f32; SIDE], n: usize) {
    // Bits of floats without their sign are ordered as integers, with NaN on top: it is not lost.
    let size = _mm256_set1_epi32(0x7fff_ffff);
    let mut tops = [_mm256_setzero_si256(); SIDE];
    for i in 0..SIDE {
        for part in 0..4 {
            // SAFETY: the caller's promise.
            let x = unsafe { _mm256_loadu_ps(sources[i].add(8 * part)) };
            tops[i] = _mm256_max_epu32(tops[i], _mm256_and_si256(_mm256_castps_si256(x), size));
        }
    }
    // SAFETY: the features are those of this function.
    let lanes = unsafe { transpose8(tops) };
    let mut tops = lanes[0];
    for i in 1..SIDE {
        tops = _mm256_max_epu32(tops, lanes[i]);
    }
    let scale = _mm256_div_ps(_mm256_castsi256_ps(tops), _mm256_set1_ps(127.0));
    // Below the normal numbers the inverse would overflow. NaN is not below.
    let small = _mm256_cmp_ps::<_CMP_LT_OQ>(scale, _mm256_set1_ps(f32::MIN_POSITIVE));
    let inverse = _mm256_andnot_ps(small, _mm256_div_ps(_mm256_set1_ps(1.0), scale));
    // Bits of sizes are positive as signed numbers too.
    let endless = _mm256_castsi256_ps(_mm256_cmpgt_epi32(tops, _mm256_set1_epi32(0x7f7f_ffff)));
    let scale = _mm256_blendv_ps(_mm256_andnot_ps(small, scale), _mm256_set1_ps(f32::NAN), endless);
    let mut inverses = [0.0f32; SIDE];
    // SAFETY: eight numbers.
    unsafe { _mm256_storeu_ps(inverses.as_mut_ptr(), inverse) }

    // Packing pairs of vectors takes turns between them every 128 bits; this puts their words back in order.
    let order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    let mut fours = [_mm256_setzero_si256(); SIDE];
    for i in 0..SIDE {
        let inverse = _mm256_set1_ps(inverses[i]);
        let mut words = [_mm256_setzero_si256(); 4];
        for part in 0..4 {
            // SAFETY: the caller's promise.
            let x = unsafe { _mm256_loadu_ps(sources[i].add(8 * part)) };
            // To the nearest integer, ties to even.
            words[part] = _mm256_cvtps_epi32(_mm256_mul_ps(x, inverse));
        }
        let halves = [_mm256_packs_epi32(words[0], words[1]), _mm256_packs_epi32(words[2], words[3])];
        let bytes = _mm256_permutevar8x32_epi32(_mm256_packs_epi16(halves[0], halves[1]), order);
        if i < n {
            // SAFETY: one of the places.
            unsafe { _mm256_storeu_si256(to.ints.add((at + i) * BLOCK).cast(), bytes) }
        }
        let pairs = _mm256_maddubs_epi16(_mm256_set1_epi8(1), bytes);
        fours[i] = _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
    }

    // The first half of each of four blocks in the low 128 bits, the second in the high ones.
    let (a, b) = (join_sums(&fours[..4]), join_sums(&fours[4..]));
    let halves = [_mm256_permute2x128_si256::<0x20>(a, b), _mm256_permute2x128_si256::<0x31>(a, b)];
    let sum = _mm256_add_epi32(halves[0], halves[1]);
    // SAFETY: n places of the tile.
    unsafe {
        put(to.scale.add(at).cast(), _mm256_castps_si256(scale), n);
        let scaled = _mm256_mul_ps(scale, _mm256_cvtepi32_ps(sum));
        put(to.scaled_sum.add(at).cast(), _mm256_castps_si256(scaled), n);
        for i in 0..ZEROS.len() {
            put(to.start[i].add(at), _mm256_mullo_epi32(sum, _mm256_set1_epi32(-ZEROS[i])), n);
        }
        for h in 0..2 {
            put(to.half_sum[h].add(at), halves[h], n);
        }
    }
}

/// Stores the first `n` words of `v`: without a mask where there is a way, since a masked store takes a Zen 3 twelve times as long.
///
/// # Safety
/// `n` words from `to` on must be valid for writing.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn put(to: *mut i32, v: __m256i, n: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        match n {
            SIDE => _mm256_storeu_si256(to.cast(), v),
            4 => _mm_storeu_si128(to.cast(), _mm256_castsi256_si128(v)),
            _ => _mm256_maskstore_epi32(to, first(n), v),
        }
    }
}

/// The sums of each 128 bits of four vectors: those of a half side by side.
#[inline]
#[target_feature(enable = "avx2")]
fn join_sums(v: &[__m256i]) -> __m256i {
    let ab = _mm256_add_epi32(_mm256_unpacklo_epi32(v[0], v[1]), _mm256_unpackhi_epi32(v[0], v[1]));
    let cd = _mm256_add_epi32(_mm256_unpacklo_epi32(v[2], v[3]), _mm256_unpackhi_epi32(v[2], v[3]));
    _mm256_add_epi32(_mm256_unpacklo_epi64(ab, cd), _mm256_unpackhi_epi64(ab, cd))
}

/// Turns a tile of rows of floats: eight numbers of eight rows at a time.
///
/// # Safety
/// The processor must have the features. The tile must be one of `to`, whose form must be floats, with its rows inside of `of.x`;
/// nobody else may use it meanwhile.
#[target_feature(enable = "avx2")]
pub(super) unsafe fn floats(to: &Parts, of: TileOf) {
    let (k, width) = (to.k, to.width);
    let whole = k / SIDE * SIDE;
    // SAFETY: the tile's k·width numbers.
    let out = unsafe { to.floats.add(of.tile * k * width) };
    for from in (0..of.rows).step_by(SIDE) {
        let rows = SIDE.min(of.rows - from);
        for at in (0..whole).step_by(SIDE) {
            let mut v = [_mm256_setzero_si256(); SIDE];
            for r in 0..SIDE {
                if r < rows {
                    let source = of.x[(from + r) * of.stride + at..][..SIDE].as_ptr();
                    // SAFETY: eight numbers of the slice.
                    v[r] = unsafe { _mm256_loadu_si256(source.cast()) };
                }
            }
            // SAFETY: the features are those of this function.
            let v = unsafe { transpose8(v) };
            for i in 0..SIDE {
                // SAFETY: place `at + i` of these rows in the tile.
                unsafe { put(out.add((at + i) * width + from).cast(), v[i], rows) }
            }
        }
    }
    for i in whole..k {
        for r in 0..of.rows {
            // SAFETY: place i of the tile.
            unsafe { *out.add(i * width + r) = of.x[r * of.stride + i] }
        }
    }
}
