//! The products' inner loop on AVX-512 with VNNI: 16 outputs in a register, 64 multiply-adds an instruction.
//!
//! `vpdpbusd` multiplies unsigned weights with signed activations, four neighbours in k for each of 16 outputs,
//! with the four activations broadcast from memory. The zero point is paid when the sums start: at minus the zero
//! point times the sum of the activations.

// Loops over registers: their indices become constants, which iterators over several arrays would hide.
#![allow(clippy::needless_range_loop)]

use super::BLOCK;
use super::packed::Layout;
use super::product::{Tile, TileKernel, by_layout};
use super::rows::{PackedRows, ZEROS, kernel_width};
use super::unpacked::Weights;
use crate::cpu::{self, Path};
use std::arch::asm;
use std::arch::x86_64::*;

/// Bytes between a load of integers and the line asked for meanwhile; it may lie in the next group.
const AHEAD: usize = 1536;

/// The inner loop for a layout.
///
/// # Panics
/// When the processor has no AVX-512 with VNNI.
pub(super) fn kernel(layout: &Layout) -> TileKernel {
    Path::Avx512.check();
    assert!(cpu::has_vnni(), "VNNI is not supported here");
    TileKernel::One(by_layout!(layout, run))
}

/// Pointers to one group and one tile.
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

fn run<const LOW: usize, const HIGH: usize, const HALVES: bool, const MIN: bool, const SUPERS: bool>(
    w: &Weights,
    x: &PackedRows,
    g: usize,
    tile: usize,
    columns: usize,
    out: &mut Tile,
) {
    let layout = Layout { low: LOW, high: HIGH, halves: HALVES, zero: 0, min: MIN, supers: SUPERS };
    let w = w.matrix;
    let zero = Layout::of(w.block_type()).map_or(0, |l| l.zero);
    let (k, width, group) = (w.k(), x.width(), w.group(g));
    let (blocks, scale_bytes) = (k / BLOCK, layout.scale_bytes(k));
    let first = tile * blocks * width;
    assert_eq!(group.len(), scale_bytes + blocks * layout.quad_bytes());
    assert!(x.k() == k && first + blocks * width <= x.scale.len() && kernel_width(columns) <= width);
    let start = ZEROS.iter().position(|&z| z == zero).unwrap_or(0);
    // SAFETY: the group holds the scales and integers of all blocks, and the rows' buffers `width` entries of
    // each for all blocks of this tile (their lengths are in proportion); the kernel reads a prefix of that. The
    // processor has the features: `kernel`, the only way here, has asked.
    unsafe {
        let args = Args {
            scales: group.as_ptr(),
            quads: group.as_ptr().add(scale_bytes),
            k,
            zero,
            width,
            ints: x.ints.as_ptr().add(first * BLOCK),
            x_scale: x.scale.as_ptr().add(first),
            x_scaled_sum: x.scaled_sum.as_ptr().add(first),
            x_start: x.start[start].as_ptr().add(first),
            x_half_sum: [x.half_sum[0].as_ptr().add(first), x.half_sum[1].as_ptr().add(first)],
            out: out.0.as_mut_ptr().cast(),
        };
        match kernel_width(columns) {
            1 => columns_of::<1, LOW, HIGH, HALVES, MIN, SUPERS>(&args),
            2 => columns_of::<2, LOW, HIGH, HALVES, MIN, SUPERS>(&args),
            3 => columns_of::<3, LOW, HIGH, HALVES, MIN, SUPERS>(&args),
            4 => columns_of::<4, LOW, HIGH, HALVES, MIN, SUPERS>(&args),
            6 => columns_of::<6, LOW, HIGH, HALVES, MIN, SUPERS>(&args),
            8 => columns_of::<8, LOW, HIGH, HALVES, MIN, SUPERS>(&args),
            10 => columns_of::<10, LOW, HIGH, HALVES, MIN, SUPERS>(&args),
            _ => columns_of::<12, LOW, HIGH, HALVES, MIN, SUPERS>(&args),
        }
    }
}

/// Quad T of a block: 16 rows of 4 unsigned bytes each.
///
/// # Safety
/// `p` must be valid for reading the block's planes.
#[inline(always)]
unsafe fn quad<const T: usize, const LOW: usize, const HIGH: usize>(p: *const u8) -> __m512i {
    // SAFETY: 64·(LOW + HIGH) bytes are readable; the features are those of the caller.
    unsafe {
        let plane = |i: usize| -> *const __m512i { p.add(64 * i).cast() };
        let low = match LOW {
            8 => _mm512_loadu_si512(plane(T)),
            4 => {
                let v = _mm512_loadu_si512(plane(T % 4));
                let v = if T < 4 { v } else { _mm512_srli_epi16::<4>(v) };
                _mm512_and_si512(v, _mm512_set1_epi8(15))
            }
            _ => {
                let v = _mm512_loadu_si512(plane(T / 4));
                let v = match T % 4 {
                    0 => v,
                    1 => _mm512_srli_epi16::<2>(v),
                    2 => _mm512_srli_epi16::<4>(v),
                    _ => _mm512_srli_epi16::<6>(v),
                };
                _mm512_and_si512(v, _mm512_set1_epi8(3))
            }
        };
        if HIGH == 0 {
            return low;
        }
        // Further bits: moved from their place to bit LOW, masked and joined by one instruction, a | (b & c).
        let (v, from, mask) = match HIGH {
            1 => (_mm512_loadu_si512(plane(LOW)), T, 1 << LOW),
            _ => (_mm512_loadu_si512(plane(LOW + T / 4)), 2 * (T % 4), 3 << LOW),
        };
        let v = match LOW as isize - from as isize {
            4 => _mm512_slli_epi16::<4>(v),
            3 => _mm512_slli_epi16::<3>(v),
            2 => _mm512_slli_epi16::<2>(v),
            1 => _mm512_slli_epi16::<1>(v),
            -1 => _mm512_srli_epi16::<1>(v),
            -2 => _mm512_srli_epi16::<2>(v),
            -3 => _mm512_srli_epi16::<3>(v),
            -4 => _mm512_srli_epi16::<4>(v),
            -5 => _mm512_srli_epi16::<5>(v),
            _ => v,
        };
        _mm512_ternarylogic_epi64::<0xF8>(low, v, _mm512_set1_epi8(mask))
    }
}

/// Scale (or minimum) of half `h` of block `b` for the 16 rows.
///
/// # Safety
/// `a.scales` must hold the group's scales.
#[inline(always)]
unsafe fn scale<const HALVES: bool, const MIN: bool, const SUPERS: bool>(
    a: &Args,
    b: usize,
    h: usize,
    min: bool,
) -> __m512 {
    // SAFETY: places inside the group's scales, by their layout; the features are those of the caller.
    unsafe {
        if !SUPERS {
            let at = 32 * (b + if min { a.k / BLOCK } else { 0 });
            return _mm512_cvt_roundph_ps::<_MM_FROUND_CUR_DIRECTION>(_mm256_loadu_si256(a.scales.add(at).cast()));
        }
        let parts = if HALVES { 16 } else { 8 };
        let heads = if MIN { 2 } else { 1 };
        let sup = a.scales.add(b / 8 * heads * (32 + 16 * parts));
        let d = _mm512_cvt_roundph_ps::<_MM_FROUND_CUR_DIRECTION>(_mm256_loadu_si256(
            sup.add(if min { 32 } else { 0 }).cast(),
        ));
        let j = b % 8 * parts / 8 + h + if min { parts } else { 0 };
        let s = _mm_loadu_si128(sup.add(32 * heads + 16 * j).cast());
        let s = if min { _mm512_cvtepu8_epi32(s) } else { _mm512_cvtepi8_epi32(s) };
        _mm512_mul_ps(d, _mm512_cvtepi32_ps(s))
    }
}

/// Adds the products of quad T to the dot products of all columns. Neighbours do not depend on each other, so that
/// as many are under way as there are columns.
///
/// # Safety
/// `p` must be valid for reading the block's planes, `x` for C columns of a block.
#[inline(always)]
unsafe fn step<const T: usize, const C: usize, const LOW: usize, const HIGH: usize>(
    p: *const u8,
    x: *const i8,
    dot: &mut [__m512i; C],
) {
    // SAFETY: the caller's promise; the features are those of the caller.
    unsafe {
        let q = quad::<T, LOW, HIGH>(p);
        for c in 0..C {
            let four = x.add(c * BLOCK + 4 * T).cast::<i32>().read_unaligned();
            dot[c] = _mm512_dpbusd_epi32(dot[c], q, _mm512_set1_epi32(four));
        }
        if C > 1 {
            for dot in dot {
                settle(dot);
            }
        }
    }
}

/// The same pointer, in a register of its own. Pointers that step together would else become one index beside several bases, and
/// a processor splits an instruction that reads memory at a base and an index in two.
#[inline(always)]
#[allow(clippy::pointers_in_nomem_asm_block)] // the address alone passes, and nothing reads there
fn own<T>(mut p: *const T) -> *const T {
    // SAFETY: no instruction at all.
    unsafe { asm!("/* {0} */", inout(reg) p, options(pure, nomem, nostack, preserves_flags)) };
    p
}

/// Has `v` computed before what comes after is: the compiler would gather the steps of a column, each waiting for the last, and
/// keep what they read in memory meanwhile.
#[inline]
#[target_feature(enable = "avx512f")]
fn settle(v: &mut __m512i) {
    // SAFETY: no instruction at all.
    unsafe { asm!("/* {0} */", inout(zmm_reg) * v, options(nomem, nostack, preserves_flags)) };
}

/// All of K for 16 outputs and C columns.
///
/// # Safety
/// The processor must have the features; `a` must point to a whole group and to a tile of at least C columns.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
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
    let mut sums = [_mm512_setzero_ps(); C];
    let (mut p, mut x) = (a.quads, a.ints);
    let (mut x_scale, mut x_start, mut x_scaled_sum) = (a.x_scale, a.x_start, a.x_scaled_sum);
    for b in 0..a.k / BLOCK {
        // SAFETY: block b of the group and of the tile's columns.
        unsafe {
            for line in 0..LOW + HIGH {
                _mm_prefetch::<_MM_HINT_T0>(p.wrapping_add(AHEAD + 64 * line).cast());
            }
            for h in 0..2 {
                if h == 1 && !HALVES {
                    continue;
                }
                let half_sum = a.x_half_sum[h].add(b * a.width);
                let mut dot = [_mm512_setzero_si512(); C];
                if !MIN {
                    for c in 0..C {
                        let start = if HALVES { -a.zero * *half_sum.add(c) } else { *x_start.add(c) };
                        dot[c] = _mm512_set1_epi32(start);
                    }
                }
                if h == 0 {
                    step::<0, C, LOW, HIGH>(p, x, &mut dot);
                    step::<1, C, LOW, HIGH>(p, x, &mut dot);
                    step::<2, C, LOW, HIGH>(p, x, &mut dot);
                    step::<3, C, LOW, HIGH>(p, x, &mut dot);
                }
                if h == 1 || !HALVES {
                    step::<4, C, LOW, HIGH>(p, x, &mut dot);
                    step::<5, C, LOW, HIGH>(p, x, &mut dot);
                    step::<6, C, LOW, HIGH>(p, x, &mut dot);
                    step::<7, C, LOW, HIGH>(p, x, &mut dot);
                }
                let d = scale::<HALVES, MIN, SUPERS>(a, b, h, false);
                let m = if MIN { scale::<HALVES, MIN, SUPERS>(a, b, h, true) } else { d };
                for c in 0..C {
                    let xd = *x_scale.add(c);
                    let both = _mm512_mul_ps(d, _mm512_set1_ps(xd));
                    let mut sum = _mm512_fmadd_ps(both, _mm512_cvtepi32_ps(dot[c]), sums[c]);
                    if MIN {
                        let s = if HALVES { xd * *half_sum.add(c) as f32 } else { *x_scaled_sum.add(c) };
                        let s = _mm512_set1_ps(s);
                        // The minimum of the K types is subtracted.
                        sum = if SUPERS { _mm512_fnmadd_ps(m, s, sum) } else { _mm512_fmadd_ps(m, s, sum) };
                    }
                    sums[c] = sum;
                }
            }
            p = own(p.add(64 * (LOW + HIGH)));
            x = own(x.add(a.width * BLOCK));
            x_scale = own(x_scale.add(a.width));
            x_start = own(x_start.add(a.width));
            x_scaled_sum = own(x_scaled_sum.add(a.width));
        }
    }
    for (c, &sum) in sums.iter().enumerate() {
        // SAFETY: a tile has room for 12 columns of 16.
        unsafe { _mm512_storeu_ps(a.out.add(16 * c), sum) }
    }
}
