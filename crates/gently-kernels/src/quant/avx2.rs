//! The products' inner loop on AVX2: 8 outputs in a register, two registers for a group.
//!
//! `vpmaddubsw` multiplies unsigned weights with signed activations into sums of two in 16 bits, which
//! `vpmaddwd` widens. Integers of up to 6 bits never leave 16 bits on the way (63·127·2 = 16002). Bytes of 8 bits would:
//! they are made signed again, and the activations take the weights' signs.

// Loops over registers: their indices become constants, which iterators over several arrays would hide.
#![allow(clippy::needless_range_loop)]

use super::BLOCK;
use super::packed::{Layout, PackedMatrix};
use super::product::{Tile, TileKernel, by_layout};
use super::rows::{PackedRows, ZEROS};
use std::arch::x86_64::*;

/// Bytes between a load of integers and the line asked for meanwhile; it may lie in the next group.
const AHEAD: usize = 1024;

/// The inner loop for a layout.
pub(super) fn kernel(layout: &Layout) -> TileKernel {
    TileKernel::One(by_layout!(layout, run))
}

/// Pointers to half a group (8 rows) and some columns of a tile.
struct Args {
    /// At the first row's entry.
    scales: *const u8,
    quads: *const u8,
    k: usize,
    zero: i32,
    /// Row of the group the half begins with: 0 or 8.
    row: usize,
    width: usize,
    ints: *const i8,
    x_scale: *const f32,
    x_scaled_sum: *const f32,
    x_start: *const i32,
    x_half_sum: [*const i32; 2],
    out: *mut f32,
}

fn run<const LOW: usize, const HIGH: usize, const HALVES: bool, const MIN: bool, const SUPERS: bool>(
    w: &PackedMatrix,
    x: &PackedRows,
    g: usize,
    tile: usize,
    columns: usize,
    out: &mut Tile,
) {
    let layout = Layout { low: LOW, high: HIGH, halves: HALVES, zero: 0, min: MIN, supers: SUPERS };
    let zero = Layout::of(w.block_type()).map_or(0, |l| l.zero);
    let (k, width, group) = (w.k(), x.width(), w.group(g));
    let (blocks, scale_bytes) = (k / BLOCK, layout.scale_bytes(k));
    let first = tile * blocks * width;
    assert_eq!(group.len(), scale_bytes + blocks * layout.quad_bytes());
    assert!(x.k() == k && first + blocks * width <= x.scale.len() && columns <= width);
    let start = ZEROS.iter().position(|&z| z == zero).unwrap_or(0);
    for row in [0, 8] {
        let mut c = 0;
        while c < columns {
            let n = (columns - c).min(4);
            // SAFETY: the group holds the scales and integers of all blocks, and the rows' buffers `width` entries
            // of each for all blocks of this tile (their lengths are in proportion), of which the kernel reads
            // `c .. c + n`. The processor has the features: this kernel is chosen only then.
            unsafe {
                let args = Args {
                    scales: group.as_ptr(),
                    quads: group.as_ptr().add(scale_bytes + 4 * row),
                    k,
                    zero,
                    row,
                    width,
                    ints: x.ints.as_ptr().add((first + c) * BLOCK),
                    x_scale: x.scale.as_ptr().add(first + c),
                    x_scaled_sum: x.scaled_sum.as_ptr().add(first + c),
                    x_start: x.start[start].as_ptr().add(first + c),
                    x_half_sum: [x.half_sum[0].as_ptr().add(first + c), x.half_sum[1].as_ptr().add(first + c)],
                    out: out.0.as_mut_ptr().cast::<f32>().add(16 * c + row),
                };
                match n {
                    1 => columns_of::<1, LOW, HIGH, HALVES, MIN, SUPERS>(&args),
                    2 => columns_of::<2, LOW, HIGH, HALVES, MIN, SUPERS>(&args),
                    3 => columns_of::<3, LOW, HIGH, HALVES, MIN, SUPERS>(&args),
                    _ => columns_of::<4, LOW, HIGH, HALVES, MIN, SUPERS>(&args),
                }
            }
            c += n;
        }
    }
}

/// Quads 0 … 7 of a block: 8 rows of 4 bytes each, unsigned; those of 8 bits signed.
///
/// # Safety
/// `p` must be valid for reading the half group's part of the block's planes.
#[inline(always)]
unsafe fn quads<const LOW: usize, const HIGH: usize>(p: *const u8) -> [__m256i; 8] {
    // SAFETY: 32 bytes at each multiple of 64 below 64·(LOW + HIGH) are readable; the features are the caller's.
    unsafe {
        let mut v = [_mm256_setzero_si256(); 8];
        for (i, v) in v.iter_mut().enumerate().take(LOW) {
            *v = _mm256_loadu_si256(p.add(64 * i).cast());
        }
        let mut q = v;
        match LOW {
            8 => {
                let flip = _mm256_set1_epi8(-128);
                for q in &mut q {
                    *q = _mm256_xor_si256(*q, flip);
                }
            }
            4 => {
                let mask = _mm256_set1_epi8(15);
                for t in 0..4 {
                    q[t] = _mm256_and_si256(v[t], mask);
                    q[t + 4] = _mm256_and_si256(_mm256_srli_epi16::<4>(v[t]), mask);
                }
            }
            _ => {
                let mask = _mm256_set1_epi8(3);
                for t in 0..2 {
                    q[4 * t] = _mm256_and_si256(v[t], mask);
                    q[4 * t + 1] = _mm256_and_si256(_mm256_srli_epi16::<2>(v[t]), mask);
                    q[4 * t + 2] = _mm256_and_si256(_mm256_srli_epi16::<4>(v[t]), mask);
                    q[4 * t + 3] = _mm256_and_si256(_mm256_srli_epi16::<6>(v[t]), mask);
                }
            }
        }
        if HIGH == 1 {
            let v = _mm256_loadu_si256(p.add(64 * LOW).cast());
            // Bit t of v becomes bit LOW.
            let at = _mm256_set1_epi8(1 << LOW);
            let moved = if LOW == 4 {
                [
                    _mm256_slli_epi16::<4>(v),
                    _mm256_slli_epi16::<3>(v),
                    _mm256_slli_epi16::<2>(v),
                    _mm256_slli_epi16::<1>(v),
                    v,
                    _mm256_srli_epi16::<1>(v),
                    _mm256_srli_epi16::<2>(v),
                    _mm256_srli_epi16::<3>(v),
                ]
            } else {
                [
                    _mm256_slli_epi16::<2>(v),
                    _mm256_slli_epi16::<1>(v),
                    v,
                    _mm256_srli_epi16::<1>(v),
                    _mm256_srli_epi16::<2>(v),
                    _mm256_srli_epi16::<3>(v),
                    _mm256_srli_epi16::<4>(v),
                    _mm256_srli_epi16::<5>(v),
                ]
            };
            for t in 0..8 {
                q[t] = _mm256_or_si256(q[t], _mm256_and_si256(moved[t], at));
            }
        }
        if HIGH == 2 {
            let at = _mm256_set1_epi8(0x30);
            for t in 0..2 {
                let v = _mm256_loadu_si256(p.add(64 * (LOW + t)).cast());
                let moved = [_mm256_slli_epi16::<4>(v), _mm256_slli_epi16::<2>(v), v, _mm256_srli_epi16::<2>(v)];
                for i in 0..4 {
                    q[4 * t + i] = _mm256_or_si256(q[4 * t + i], _mm256_and_si256(moved[i], at));
                }
            }
        }
        q
    }
}

/// Scale (or minimum) of half `h` of block `b` for the 8 rows.
///
/// # Safety
/// `a.scales` must hold the group's scales.
#[inline(always)]
unsafe fn scale<const HALVES: bool, const MIN: bool, const SUPERS: bool>(
    a: &Args,
    b: usize,
    h: usize,
    min: bool,
) -> __m256 {
    // SAFETY: places inside the group's scales, by their layout; the features are those of the caller.
    unsafe {
        if !SUPERS {
            let at = 32 * (b + if min { a.k / BLOCK } else { 0 }) + 2 * a.row;
            return _mm256_cvtph_ps(_mm_loadu_si128(a.scales.add(at).cast()));
        }
        let parts = if HALVES { 16 } else { 8 };
        let heads = if MIN { 2 } else { 1 };
        let sup = a.scales.add(b / 8 * heads * (32 + 16 * parts));
        let d = sup.add(if min { 32 } else { 0 } + 2 * a.row);
        let d = _mm256_cvtph_ps(_mm_loadu_si128(d.cast()));
        let j = b % 8 * parts / 8 + h + if min { parts } else { 0 };
        let s = _mm_loadl_epi64(sup.add(32 * heads + 16 * j + a.row).cast());
        let s = if min { _mm256_cvtepu8_epi32(s) } else { _mm256_cvtepi8_epi32(s) };
        _mm256_mul_ps(d, _mm256_cvtepi32_ps(s))
    }
}

/// All of K for 8 outputs and C columns.
///
/// # Safety
/// The processor must have the features; `a` must point to half a group and to at least C columns of a tile.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn columns_of<
    const C: usize,
    const LOW: usize,
    const HIGH: usize,
    const HALVES: bool,
    const MIN: bool,
    const SUPERS: bool,
>(
    a: &Args,
) {
    let mut sums = [_mm256_setzero_ps(); C];
    let ones = _mm256_set1_epi16(1);
    for b in 0..a.k / BLOCK {
        // SAFETY: block b of the half group and of the columns.
        unsafe {
            let at = a.quads.add(b * 64 * (LOW + HIGH));
            for line in 0..LOW + HIGH {
                _mm_prefetch::<_MM_HINT_T0>(at.wrapping_add(AHEAD + 64 * line).cast());
            }
            let q = quads::<LOW, HIGH>(at);
            let first = b * a.width;
            let zero = _mm256_setzero_ps();
            let (mut d, mut m) = ([zero; 2], [zero; 2]);
            for h in 0..2 {
                if h == 0 || HALVES {
                    d[h] = scale::<HALVES, MIN, SUPERS>(a, b, h, false);
                    if MIN {
                        m[h] = scale::<HALVES, MIN, SUPERS>(a, b, h, true);
                    }
                }
            }
            for c in 0..C {
                let x = a.ints.add((first + c) * BLOCK).cast::<i32>();
                let half = [a.x_half_sum[0].add(first + c), a.x_half_sum[1].add(first + c)];
                let mut dot = [_mm256_setzero_si256(); 2];
                for h in 0..2 {
                    if LOW == 8 {
                        for t in 4 * h..4 * h + 4 {
                            let x = _mm256_set1_epi32(x.add(t).read_unaligned());
                            let pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(q[t]), _mm256_sign_epi8(x, q[t]));
                            dot[0] = _mm256_add_epi32(dot[0], _mm256_madd_epi16(pairs, ones));
                        }
                    } else {
                        let mut pairs = _mm256_setzero_si256();
                        for t in 4 * h..4 * h + 4 {
                            let x = _mm256_set1_epi32(x.add(t).read_unaligned());
                            let two = _mm256_maddubs_epi16(q[t], x);
                            // Four of 4 or 5 bits fit 16 bits together (31·127·2·4 = 31496), of 6 bits only two.
                            if HIGH == 2 && t % 2 == 0 {
                                dot[h] = _mm256_add_epi32(dot[h], _mm256_madd_epi16(pairs, ones));
                                pairs = two;
                            } else {
                                pairs = _mm256_add_epi16(pairs, two);
                            }
                        }
                        let to = if HALVES { h } else { 0 };
                        dot[to] = _mm256_add_epi32(dot[to], _mm256_madd_epi16(pairs, ones));
                    }
                }
                let xd = *a.x_scale.add(first + c);
                let xs = _mm256_set1_ps(xd);
                let mut sum = sums[c];
                for h in 0..2 {
                    if h == 0 || HALVES {
                        let mut dot = dot[h];
                        if !MIN && LOW != 8 {
                            let start = if HALVES { -a.zero * *half[h] } else { *a.x_start.add(first + c) };
                            dot = _mm256_add_epi32(dot, _mm256_set1_epi32(start));
                        }
                        sum = _mm256_fmadd_ps(_mm256_mul_ps(d[h], xs), _mm256_cvtepi32_ps(dot), sum);
                        if MIN {
                            let s = if HALVES { xd * *half[h] as f32 } else { *a.x_scaled_sum.add(first + c) };
                            let s = _mm256_set1_ps(s);
                            // The minimum of the K types is subtracted.
                            sum = if SUPERS { _mm256_fnmadd_ps(m[h], s, sum) } else { _mm256_fmadd_ps(m[h], s, sum) };
                        }
                    }
                }
                sums[c] = sum;
            }
        }
    }
    for (c, &sum) in sums.iter().enumerate() {
        // SAFETY: a tile has room for 12 columns of 16.
        unsafe { _mm256_storeu_ps(a.out.add(16 * c), sum) }
    }
}
