//! Packing a whole group on AVX-512: words of 16 rows change places in registers.
//!
//! Here: floats, and blocks whose integers need no bit moved. Not here: all other types, and groups of fewer rows (see
//! [`super::packed`], whose bytes these are).

// Loops over registers: their indices become constants, which iterators over several arrays would hide.
#![allow(clippy::needless_range_loop)]

use super::packed::{GROUP, Layout};
use super::{BLOCK, BlockType};
use std::arch::x86_64::*;

/// Packs a group of 16 rows of K numbers, if there is a fast way; says whether it did.
///
/// # Safety
/// The processor must have the features.
///
/// # Panics
/// When a row or `out` is shorter than its numbers need.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2")]
pub(super) unsafe fn group(ty: BlockType, rows: &[&[u8]; GROUP], k: usize, out: &mut [u8]) -> bool {
    let bytes = k / ty.block_len() * ty.block_bytes();
    assert!(rows.iter().all(|r| r.len() >= bytes), "a row of {k} numbers has {bytes} bytes");
    let rows = rows.map(<[u8]>::as_ptr);
    // SAFETY: rows have `bytes` bytes; the functions check `out`.
    unsafe {
        match (Layout::of(ty), ty.block_bytes()) {
            (None, size) => floats(size, rows, k, out),
            (Some(layout), _) if layout.supers || layout.high > 0 => return false,
            (Some(layout), size) => blocks(&layout, size, rows, k, out),
        }
    }
    true
}

/// Rows of floats of `size` bytes to `[k][16]`.
///
/// # Safety
/// Rows must be valid for K numbers.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2")]
unsafe fn floats(size: usize, rows: [*const u8; GROUP], k: usize, out: &mut [u8]) {
    let each = 32 / size;
    assert!(out.len() >= k * GROUP * size, "a group has 16 numbers at each place");
    let whole = k / each * each;
    for i in (0..whole).step_by(each) {
        // SAFETY: numbers i … i + each of the rows, which are 32 bytes, and their places in `out` (asserted).
        unsafe {
            let words = words(rows.map(|r| _mm256_loadu_si256(r.add(i * size).cast())));
            let to = out.as_mut_ptr().add(i * GROUP * size);
            for t in 0..8 {
                if size == 4 {
                    _mm512_storeu_si512(to.add(64 * t).cast(), words[t]);
                } else {
                    _mm256_storeu_si256(to.add(64 * t).cast(), _mm512_cvtepi32_epi16(words[t]));
                    let second = _mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(words[t]));
                    _mm256_storeu_si256(to.add(64 * t + 32).cast(), second);
                }
            }
        }
    }
    for i in whole..k {
        for r in 0..GROUP {
            // SAFETY: number i of row r.
            let number = unsafe { std::slice::from_raw_parts(rows[r].add(i * size), size) };
            out[(i * GROUP + r) * size..][..size].copy_from_slice(number);
        }
    }
}

/// Rows of blocks of `size` bytes: a scale, a minimum where there is one, then integers that stay as they are.
///
/// # Safety
/// Rows must be valid for K numbers.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2")]
unsafe fn blocks(layout: &Layout, size: usize, rows: [*const u8; GROUP], k: usize, out: &mut [u8]) {
    let (count, heads) = (k / BLOCK, if layout.min { 2 } else { 1 });
    let (scales, quads) = out.split_at_mut(layout.scale_bytes(k));
    assert!(quads.len() >= count * layout.quad_bytes(), "a group has the integers of all its blocks");
    for b in 0..count {
        for (r, row) in rows.iter().enumerate() {
            for h in 0..heads {
                // SAFETY: the head of block b.
                let half = unsafe { row.add(b * size + 2 * h).cast::<[u8; 2]>().read() };
                scales[layout.simple_at(k, b, h == 1) + 2 * r..][..2].copy_from_slice(&half);
            }
        }
        // SAFETY: block b has 4·low bytes of integers behind its heads; quads have 64·low (asserted).
        unsafe {
            let integers = rows.map(|r| r.add(b * size + 2 * heads));
            let to = quads.as_mut_ptr().add(b * layout.quad_bytes());
            if layout.low == 8 {
                // Signed bytes become unsigned.
                let flip = _mm512_set1_epi8(-128);
                let words = words(integers.map(|p| _mm256_loadu_si256(p.cast())));
                for t in 0..8 {
                    _mm512_storeu_si512(to.add(64 * t).cast(), _mm512_xor_si512(words[t], flip));
                }
            } else {
                let words = words(integers.map(|p| _mm256_castsi128_si256(_mm_loadu_si128(p.cast()))));
                for t in 0..4 {
                    _mm512_storeu_si512(to.add(64 * t).cast(), words[t]);
                }
            }
        }
    }
}

/// Vector t holds word t of each of 16 rows.
#[inline]
#[target_feature(enable = "avx512f")]
fn words(rows: [__m256i; GROUP]) -> [__m512i; 8] {
    let zero = _mm512_setzero_si512();
    // Rows 4i … 4i + 3 in the lower half, 4i + 4 … in the upper: in each 128 bits, after this, one word of four rows.
    let mut four = [[zero; 4]; 2];
    for i in 0..2 {
        let at = |r: usize| _mm512_inserti64x4::<1>(_mm512_castsi256_si512(rows[8 * i + r]), rows[8 * i + r + 4]);
        let (a, b, c, d) = (at(0), at(1), at(2), at(3));
        let (ab, cd) = (_mm512_unpacklo_epi32(a, b), _mm512_unpacklo_epi32(c, d));
        four[i][0] = _mm512_unpacklo_epi64(ab, cd);
        four[i][1] = _mm512_unpackhi_epi64(ab, cd);
        let (ab, cd) = (_mm512_unpackhi_epi32(a, b), _mm512_unpackhi_epi32(c, d));
        four[i][2] = _mm512_unpacklo_epi64(ab, cd);
        four[i][3] = _mm512_unpackhi_epi64(ab, cd);
    }
    let mut out = [zero; 8];
    for j in 0..4 {
        // Even quarters have word j, odd ones word j + 4.
        out[j] = _mm512_shuffle_i32x4::<0x88>(four[0][j], four[1][j]);
        out[j + 4] = _mm512_shuffle_i32x4::<0xdd>(four[0][j], four[1][j]);
    }
    out
}
