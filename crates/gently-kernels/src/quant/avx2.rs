//! The products' inner loop on AVX2: 8 outputs in a register, two registers for a group.
//!
//! `vpmaddubsw` multiplies unsigned weights with signed activations into sums of two in 16 bits, which are added there as long as
//! they fit, and then widened by `vpmaddwd`. Bytes of 8 bits would not fit even once: they are made signed again, and the
//! activations take the weights' signs.
//!
//! Where many rows pass by, the integers are unpacked for all of them beforehand ([`unpack`]): of a block its eight quads, a byte
//! for each integer, then the scales (and minima) of its 16 rows in f32.

// Loops over registers: their indices become constants, which iterators over several arrays would hide.
#![allow(clippy::needless_range_loop)]

use super::BLOCK;
use super::packed::{Layout, PackedMatrix};
use super::product::{Tile, TileKernel, by_layout};
use super::rows::{PackedRows, ZEROS};
use super::unpacked::Weights;
use crate::cpu::Path;
use std::arch::asm;
use std::arch::x86_64::*;

/// Bytes between a load of integers and the line asked for meanwhile; it may lie in the next group.
const AHEAD: usize = 1024;

/// The inner loop for a layout.
///
/// # Panics
/// When the processor has no AVX2.
pub(super) fn kernel(layout: &Layout) -> TileKernel {
    Path::Avx2.check();
    TileKernel::One(by_layout!(layout, run))
}

/// Bytes of a block of 16 rows unpacked; 0 for a type that is read as it is: bytes already have one integer each.
pub(super) const fn unpacked_bytes(layout: &Layout) -> usize {
    let scales = if layout.halves { 2 } else { 1 } * if layout.min { 2 } else { 1 };
    if layout.low == 8 { 0 } else { UNPACKED_QUADS + scales * UNPACKED_SCALES }
}

/// Bytes of a block's quads unpacked.
const UNPACKED_QUADS: usize = 8 * 64;
/// Bytes of the scales, or minima, of the 16 rows in f32.
const UNPACKED_SCALES: usize = 64;

/// Unpacks group `g`.
///
/// # Panics
/// When `to` has another size, or the processor has no AVX2.
pub(super) fn unpack(w: &PackedMatrix, g: usize, to: &mut [u8]) {
    let layout = Layout::of(w.block_type()).expect("an integer type");
    assert_eq!(to.len(), w.k() / BLOCK * unpacked_bytes(&layout), "room for a group");
    assert_eq!(w.group(g).len(), layout.scale_bytes(w.k()) + w.k() / BLOCK * layout.quad_bytes());
    Path::Avx2.check();
    let unpack = by_layout!(layout, unpack_group);
    // SAFETY: the group and the room have their sizes, and the processor has the features, as asked above.
    unsafe { unpack(w.group(g).as_ptr(), w.k(), to.as_mut_ptr()) }
}

/// # Safety
/// The processor must have the features; `group` must be readable and `to` writable for a whole group of K numbers.
#[target_feature(enable = "avx2,f16c")]
unsafe fn unpack_group<const LOW: usize, const HIGH: usize, const HALVES: bool, const MIN: bool, const SUPERS: bool>(
    group: *const u8,
    k: usize,
    mut to: *mut u8,
) {
    let layout = Layout { low: LOW, high: HIGH, halves: HALVES, zero: 0, min: MIN, supers: SUPERS };
    for b in 0..k / BLOCK {
        // SAFETY: block b of the group, and of the room.
        unsafe {
            let p = group.add(layout.scale_bytes(k) + b * layout.quad_bytes());
            for r in 0..2 {
                let to = to.add(32 * r);
                let put = |t: usize, v: __m256i| _mm256_storeu_si256(to.add(64 * t).cast(), v);
                put(0, quad::<0, LOW, HIGH>(p, r));
                put(1, quad::<1, LOW, HIGH>(p, r));
                put(2, quad::<2, LOW, HIGH>(p, r));
                put(3, quad::<3, LOW, HIGH>(p, r));
                put(4, quad::<4, LOW, HIGH>(p, r));
                put(5, quad::<5, LOW, HIGH>(p, r));
                put(6, quad::<6, LOW, HIGH>(p, r));
                put(7, quad::<7, LOW, HIGH>(p, r));
            }
            to = to.add(UNPACKED_QUADS);
            for h in 0..if HALVES { 2 } else { 1 } {
                for min in [false, true] {
                    if min && !MIN {
                        continue;
                    }
                    let all = scale::<HALVES, MIN, SUPERS>(group, k, b, h, min);
                    for r in 0..2 {
                        _mm256_storeu_ps(to.add(32 * r).cast(), all[r]);
                    }
                    to = to.add(UNPACKED_SCALES);
                }
            }
        }
    }
}

/// Pointers to one group and some columns of a tile.
struct Args {
    scales: *const u8,
    quads: *const u8,
    k: usize,
    zero: i32,
    width: usize,
    ints: *const i8,
    x_scale: *const f32,
    x_scaled_sum: *const f32,
    x_start: *const i32,
    x_half_sum: [*const i32; 2],
    out: *mut f32,
}

/// Columns whose sums fit the registers beside what is multiplied.
const fn most(low: usize) -> usize {
    if low == 8 { 4 } else { 6 }
}

fn run<const LOW: usize, const HIGH: usize, const HALVES: bool, const MIN: bool, const SUPERS: bool>(
    w: &Weights,
    x: &PackedRows,
    g: usize,
    tile: usize,
    columns: usize,
    out: &mut Tile,
) {
    let (unpacked, w) = (w.unpacked(g), w.matrix);
    let layout = Layout { low: LOW, high: HIGH, halves: HALVES, zero: 0, min: MIN, supers: SUPERS };
    let zero = Layout::of(w.block_type()).map_or(0, |l| l.zero);
    let (k, width, group) = (w.k(), x.width(), w.group(g));
    let (blocks, scale_bytes) = (k / BLOCK, layout.scale_bytes(k));
    let first = tile * blocks * width;
    assert_eq!(group.len(), scale_bytes + blocks * layout.quad_bytes());
    assert!(unpacked.is_none_or(|u| u.len() == blocks * unpacked_bytes(&layout)));
    assert!(x.k() == k && first + blocks * width <= x.scale.len() && columns <= width);
    let start = ZEROS.iter().position(|&z| z == zero).unwrap_or(0);
    let mut c = 0;
    while c < columns {
        // Parts of nearly equal width: what is unpacked for a few columns alone costs as much as for many.
        let n = (columns - c).div_ceil((columns - c).div_ceil(most(LOW)));
        // SAFETY: the group, packed or unpacked, holds the scales and integers of all blocks, and the rows' buffers `width` entries of each for all
        // blocks of this tile (their lengths are in proportion), of which the kernel reads `c .. c + n`. The processor has the
        // features: `kernel`, the only way here, has asked.
        unsafe {
            let args = Args {
                scales: group.as_ptr(),
                quads: unpacked.map_or(group.as_ptr().add(scale_bytes), <[u8]>::as_ptr),
                k,
                zero,
                width,
                ints: x.ints.as_ptr().add((first + c) * BLOCK),
                x_scale: x.scale.as_ptr().add(first + c),
                x_scaled_sum: x.scaled_sum.as_ptr().add(first + c),
                x_start: x.start[start].as_ptr().add(first + c),
                x_half_sum: [x.half_sum[0].as_ptr().add(first + c), x.half_sum[1].as_ptr().add(first + c)],
                out: out.0.as_mut_ptr().cast::<f32>().add(16 * c),
            };
            let all = &args;
            match (unpacked.is_some() && LOW != 8, n) {
                (false, 1) => columns_of::<1, false, LOW, HIGH, HALVES, MIN, SUPERS>(all),
                (false, 2) => columns_of::<2, false, LOW, HIGH, HALVES, MIN, SUPERS>(all),
                (false, 3) => columns_of::<3, false, LOW, HIGH, HALVES, MIN, SUPERS>(all),
                (false, 4) => columns_of::<4, false, LOW, HIGH, HALVES, MIN, SUPERS>(all),
                // Not reached where four are the most.
                (false, 5) if most(LOW) > 4 => columns_of::<5, false, LOW, HIGH, HALVES, MIN, SUPERS>(all),
                (false, _) => columns_of::<6, false, LOW, HIGH, HALVES, MIN, SUPERS>(all),
                (true, 1) => columns_of::<1, true, LOW, HIGH, HALVES, MIN, SUPERS>(all),
                (true, 2) => columns_of::<2, true, LOW, HIGH, HALVES, MIN, SUPERS>(all),
                (true, 3) => columns_of::<3, true, LOW, HIGH, HALVES, MIN, SUPERS>(all),
                (true, 4) => columns_of::<4, true, LOW, HIGH, HALVES, MIN, SUPERS>(all),
                (true, 5) => columns_of::<5, true, LOW, HIGH, HALVES, MIN, SUPERS>(all),
                (true, _) => columns_of::<6, true, LOW, HIGH, HALVES, MIN, SUPERS>(all),
            }
        }
        c += n;
    }
}

/// Quad T of a block, for the 8 rows of half R of the group: 4 bytes each, unsigned; those of 8 bits signed.
///
/// # Safety
/// `p` must be valid for reading the block's planes.
#[inline(always)]
unsafe fn quad<const T: usize, const LOW: usize, const HIGH: usize>(p: *const u8, r: usize) -> __m256i {
    // SAFETY: 64·(LOW + HIGH) bytes are readable; the features are those of the caller.
    unsafe {
        let plane = |i: usize| -> *const __m256i { p.add(64 * i + 32 * r).cast() };
        let low = match LOW {
            8 => _mm256_xor_si256(_mm256_loadu_si256(plane(T)), _mm256_set1_epi8(-128)),
            4 => {
                let v = _mm256_loadu_si256(plane(T % 4));
                let v = if T < 4 { v } else { _mm256_srli_epi16::<4>(v) };
                _mm256_and_si256(v, _mm256_set1_epi8(15))
            }
            _ => {
                let v = _mm256_loadu_si256(plane(T / 4));
                let v = match T % 4 {
                    0 => v,
                    1 => _mm256_srli_epi16::<2>(v),
                    2 => _mm256_srli_epi16::<4>(v),
                    _ => _mm256_srli_epi16::<6>(v),
                };
                _mm256_and_si256(v, _mm256_set1_epi8(3))
            }
        };
        if HIGH == 0 {
            return low;
        }
        // Further bits: moved from their place to bit LOW.
        let (v, from, mask) = match HIGH {
            1 => (_mm256_loadu_si256(plane(LOW)), T, 1 << LOW),
            _ => (_mm256_loadu_si256(plane(LOW + T / 4)), 2 * (T % 4), 3 << LOW),
        };
        let v = match LOW as isize - from as isize {
            4 => _mm256_slli_epi16::<4>(v),
            3 => _mm256_slli_epi16::<3>(v),
            2 => _mm256_slli_epi16::<2>(v),
            1 => _mm256_slli_epi16::<1>(v),
            -1 => _mm256_srli_epi16::<1>(v),
            -2 => _mm256_srli_epi16::<2>(v),
            -3 => _mm256_srli_epi16::<3>(v),
            -4 => _mm256_srli_epi16::<4>(v),
            -5 => _mm256_srli_epi16::<5>(v),
            _ => v,
        };
        _mm256_or_si256(low, _mm256_and_si256(v, _mm256_set1_epi8(mask)))
    }
}

/// Scales (or minima) of half `h` of block `b` for the 16 rows.
///
/// # Safety
/// `scales` must hold the scales of a group of K numbers.
#[inline(always)]
unsafe fn scale<const HALVES: bool, const MIN: bool, const SUPERS: bool>(
    scales: *const u8,
    k: usize,
    b: usize,
    h: usize,
    min: bool,
) -> [__m256; 2] {
    // SAFETY: places inside the group's scales, by their layout; the features are those of the caller.
    unsafe {
        let mut all = [_mm256_setzero_ps(); 2];
        for r in 0..2 {
            if !SUPERS {
                let at = 32 * (b + if min { k / BLOCK } else { 0 }) + 16 * r;
                all[r] = _mm256_cvtph_ps(_mm_loadu_si128(scales.add(at).cast()));
                continue;
            }
            let parts = if HALVES { 16 } else { 8 };
            let heads = if MIN { 2 } else { 1 };
            let sup = scales.add(b / 8 * heads * (32 + 16 * parts));
            let d = sup.add(if min { 32 } else { 0 } + 16 * r);
            let d = _mm256_cvtph_ps(_mm_loadu_si128(d.cast()));
            let j = b % 8 * parts / 8 + h + if min { parts } else { 0 };
            let s = _mm_loadl_epi64(sup.add(32 * heads + 16 * j + 8 * r).cast());
            let s = if min { _mm256_cvtepu8_epi32(s) } else { _mm256_cvtepi8_epi32(s) };
            all[r] = _mm256_mul_ps(d, _mm256_cvtepi32_ps(s));
        }
        all
    }
}

/// Sums of both halves of a group for C columns.
type Sums<const C: usize> = [[__m256i; 2]; C];

/// Multiplies quad T with all columns: sums of two in 16 bits, added to `pairs`, or those of 8 bits, in 32 bits, to `dot`.
/// Neighbours do not depend on each other.
///
/// # Safety
/// `p` must be valid for reading the block's planes or, unpacked, its quads; `x` for C columns of a block.
#[inline(always)]
unsafe fn step<const T: usize, const C: usize, const UNPACKED: bool, const LOW: usize, const HIGH: usize>(
    p: *const u8,
    x: *const i8,
    pairs: &mut Sums<C>,
    dot: &mut Sums<C>,
) {
    // SAFETY: the caller's promise; the features are those of the caller.
    unsafe {
        let q = match UNPACKED {
            false => [quad::<T, LOW, HIGH>(p, 0), quad::<T, LOW, HIGH>(p, 1)],
            true => [0, 1].map(|r| _mm256_loadu_si256(p.add(64 * T + 32 * r).cast())),
        };
        let sizes = [_mm256_abs_epi8(q[0]), _mm256_abs_epi8(q[1])];
        for c in 0..C {
            let four = _mm256_set1_epi32(x.add(c * BLOCK + 4 * T).cast::<i32>().read_unaligned());
            for r in 0..2 {
                if LOW == 8 {
                    let two = _mm256_maddubs_epi16(sizes[r], _mm256_sign_epi8(four, q[r]));
                    dot[c][r] = _mm256_add_epi32(dot[c][r], _mm256_madd_epi16(two, _mm256_set1_epi16(1)));
                    settle(&mut dot[c][r]);
                } else {
                    pairs[c][r] = _mm256_add_epi16(pairs[c][r], _mm256_maddubs_epi16(q[r], four));
                    settle(&mut pairs[c][r]);
                }
            }
        }
        if LOW != 8 && flushes(T, LOW + HIGH) {
            for c in 0..C {
                for r in 0..2 {
                    dot[c][r] = _mm256_add_epi32(dot[c][r], _mm256_madd_epi16(pairs[c][r], _mm256_set1_epi16(1)));
                    pairs[c][r] = _mm256_setzero_si256();
                }
            }
        }
    }
}

/// Whether sums of two go to 32 bits after quad T: they are at most 127·2·(2ᵇⁱᵗˢ − 1) for each quad, and 16 bits hold eight of 4
/// bits, four of 5, two of 6. (Of 2 and 3 bits they hold more, but each half of a block has its own scale.)
const fn flushes(t: usize, bits: usize) -> bool {
    match bits {
        4 => t == 7,
        6 => t % 2 == 1,
        _ => t % 4 == 3,
    }
}

/// Has `v` computed before what comes after is: the compiler would gather the steps of a column, each waiting for the last, and
/// keep what they read in memory meanwhile.
#[inline]
#[target_feature(enable = "avx2")]
fn settle(v: &mut __m256i) {
    // SAFETY: no instruction at all.
    unsafe { asm!("/* {0} */", inout(ymm_reg) * v, options(nomem, nostack, preserves_flags)) };
}

/// All of K for 16 outputs and C columns.
///
/// # Safety
/// The processor must have the features; `a` must point to a whole group and to at least C columns of a tile.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn columns_of<
    const C: usize,
    const UNPACKED: bool,
    const LOW: usize,
    const HIGH: usize,
    const HALVES: bool,
    const MIN: bool,
    const SUPERS: bool,
>(
    a: &Args,
) {
    let layout = Layout { low: LOW, high: HIGH, halves: HALVES, zero: 0, min: MIN, supers: SUPERS };
    for c in 0..C {
        for r in 0..2 {
            // SAFETY: a tile has room for 12 columns of 16.
            unsafe { _mm256_storeu_ps(a.out.add(16 * c + 8 * r), _mm256_setzero_ps()) }
        }
    }
    for b in 0..a.k / BLOCK {
        // SAFETY: block b of the group and of the columns.
        unsafe {
            let bytes = if UNPACKED { unpacked_bytes(&layout) } else { layout.quad_bytes() };
            let p = a.quads.add(b * bytes);
            // Unpacked blocks lie in the second cache, in one stream: not asked for they come as fast.
            if !UNPACKED {
                for line in 0..bytes / 64 {
                    _mm_prefetch::<_MM_HINT_T0>(p.wrapping_add(AHEAD + 64 * line).cast());
                }
            }
            let first = b * a.width;
            let x = a.ints.add(first * BLOCK);
            let zero = _mm256_setzero_si256();
            let (mut pairs, mut dot) = ([[zero; 2]; C], [[zero; 2]; C]);
            for h in 0..2 {
                if h == 0 {
                    step::<0, C, UNPACKED, LOW, HIGH>(p, x, &mut pairs, &mut dot);
                    step::<1, C, UNPACKED, LOW, HIGH>(p, x, &mut pairs, &mut dot);
                    step::<2, C, UNPACKED, LOW, HIGH>(p, x, &mut pairs, &mut dot);
                    step::<3, C, UNPACKED, LOW, HIGH>(p, x, &mut pairs, &mut dot);
                } else {
                    step::<4, C, UNPACKED, LOW, HIGH>(p, x, &mut pairs, &mut dot);
                    step::<5, C, UNPACKED, LOW, HIGH>(p, x, &mut pairs, &mut dot);
                    step::<6, C, UNPACKED, LOW, HIGH>(p, x, &mut pairs, &mut dot);
                    step::<7, C, UNPACKED, LOW, HIGH>(p, x, &mut pairs, &mut dot);
                }
                if h == 0 && !HALVES {
                    continue;
                }
                let part = if HALVES { h } else { 0 };
                let half_sum = a.x_half_sum[part].add(first);
                let scales = |min: bool| match UNPACKED {
                    false => scale::<HALVES, MIN, SUPERS>(a.scales, a.k, b, part, min),
                    true => {
                        let first = UNPACKED_QUADS + UNPACKED_SCALES * if MIN { 2 * part + min as usize } else { part };
                        [0, 1].map(|r| _mm256_loadu_ps(p.add(first + 32 * r).cast()))
                    }
                };
                let (d, m) = (scales(false), scales(MIN));
                for c in 0..C {
                    let xd = *a.x_scale.add(first + c);
                    for r in 0..2 {
                        let mut dot = std::mem::replace(&mut dot[c][r], zero);
                        if !MIN && LOW != 8 {
                            let start = if HALVES { -a.zero * *half_sum.add(c) } else { *a.x_start.add(first + c) };
                            dot = _mm256_add_epi32(dot, _mm256_set1_epi32(start));
                        }
                        let both = _mm256_mul_ps(d[r], _mm256_set1_ps(xd));
                        // Sums stay in the tile: registers are all taken by integers.
                        let to = a.out.add(16 * c + 8 * r);
                        let mut sum = _mm256_fmadd_ps(both, _mm256_cvtepi32_ps(dot), _mm256_loadu_ps(to));
                        if MIN {
                            let s = if HALVES { xd * *half_sum.add(c) as f32 } else { *a.x_scaled_sum.add(first + c) };
                            let s = _mm256_set1_ps(s);
                            // The minimum of the K types is subtracted.
                            sum = if SUPERS { _mm256_fnmadd_ps(m[r], s, sum) } else { _mm256_fmadd_ps(m[r], s, sum) };
                        }
                        _mm256_storeu_ps(to, sum);
                    }
                }
            }
        }
    }
}
