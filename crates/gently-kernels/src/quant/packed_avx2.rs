//! Packing a whole group on AVX2: words of 16 rows change places in registers.
//!
//! Here: floats, and blocks whose integers need no bit moved. Not here: all other types, and groups of fewer rows (see
//! [`super::packed`], whose bytes these are).

// Loops over registers: their indices become constants, which iterators over several arrays would hide.
#![allow(clippy::needless_range_loop)]

use super::packed::{GROUP, Layout};
use super::{BLOCK, BlockType};
use crate::simd::avx2::transpose8;
use std::arch::x86_64::*;

/// Packs a group of 16 rows of K numbers, if there is a fast way; says whether it did.
///
/// # Safety
/// The processor must have the features.
///
/// # Panics
/// When a row or `out` is shorter than its numbers need.
#[target_feature(enable = "avx2")]
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
#[target_feature(enable = "avx2")]
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
                    store(to.add(64 * t), words[t]);
                } else {
                    // A word has two neighbours along K.
                    let low = words[t].map(|w| _mm256_and_si256(w, _mm256_set1_epi32(0xffff)));
                    let high = words[t].map(|w| _mm256_srli_epi32::<16>(w));
                    _mm256_storeu_si256(to.add(64 * t).cast(), narrow(low));
                    _mm256_storeu_si256(to.add(64 * t + 32).cast(), narrow(high));
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
#[target_feature(enable = "avx2")]
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
                let flip = _mm256_set1_epi8(-128);
                let words = words(integers.map(|p| _mm256_loadu_si256(p.cast())));
                for t in 0..8 {
                    store(to.add(64 * t), words[t].map(|w| _mm256_xor_si256(w, flip)));
                }
            } else {
                let words = words(integers.map(|p| _mm256_castsi128_si256(_mm_loadu_si128(p.cast()))));
                for t in 0..4 {
                    store(to.add(64 * t), words[t]);
                }
            }
        }
    }
}

/// Words of 16 rows, the first eight of them and the others.
type Words = [__m256i; 2];

/// Words t of the rows, at t.
#[inline]
#[target_feature(enable = "avx2")]
fn words(rows: [__m256i; GROUP]) -> [Words; 8] {
    let half = |first: usize| -> [__m256i; 8] { std::array::from_fn(|r| rows[first + r]) };
    // SAFETY: this function has AVX2.
    let (a, b) = unsafe { (transpose8(half(0)), transpose8(half(8))) };
    std::array::from_fn(|t| [a[t], b[t]])
}

/// The low halves of words whose high halves are 0, in the order of the rows.
#[inline]
#[target_feature(enable = "avx2")]
fn narrow([a, b]: Words) -> __m256i {
    // Packing works within 128-bit halves; the permutation puts the quarters in order.
    _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packus_epi32(a, b))
}

/// # Safety
/// `to` must be valid for 64 bytes.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn store(to: *mut u8, words: Words) {
    // SAFETY: the caller's promise is passed on.
    unsafe {
        _mm256_storeu_si256(to.cast(), words[0]);
        _mm256_storeu_si256(to.add(32).cast(), words[1]);
    }
}
