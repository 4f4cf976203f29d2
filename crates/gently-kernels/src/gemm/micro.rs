//! The micro-kernels: an MR × (NV vectors) tile of C held in registers over one block of K.
//!
//! Here: the tile loop, written once over [`Simd`], its instantiations for each instruction set, and
//! the epilogue pass over a finished tile. Not here: which tile is computed when (see
//! [`super::blocked`]) and how panels are laid out (see [`super::pack`]).
//!
//! A *word* is one step of K in a panel: an f32, or a pair of bf16 on the path that multiplies pairs.

// Loops over register arrays are by index: they unroll, iterators over parts of them may not.
#![allow(clippy::needless_range_loop)]

use crate::activation::{Activation, for_each_activation};
use crate::lanes::for_lanes;
use crate::simd::{Simd, plain::Plain, prefetch};

/// Rows in a packed panel of A, whatever the tile takes of them.
pub(super) const PANEL_ROWS: usize = 8;
/// Steps of K that panels of B are asked for ahead of their use; they come from L2.
const AHEAD: usize = 16;
/// Widest tile of any path, in vectors.
pub(super) const MAX_NV: usize = 3;

/// One tile: dst = alpha · (A panel · B panel) + base + bias.
pub(super) struct Tile {
    /// Words of K.
    pub k: usize,
    /// Packed: in a panel, `PANEL_ROWS` words for each k. Direct: the first of the rows.
    pub a: *const f32,
    /// Direct: words from one row to the next. Rows past `rows` repeat the last.
    pub a_row: usize,
    /// A panel, one row of NV vectors for each k.
    pub b: *const f32,
    /// Words from one k to the next in `b`.
    pub b_step: usize,
    pub dst: *mut f32,
    pub ld_dst: usize,
    /// Added to the product where not null, laid out with `ld_base`.
    pub base: *const f32,
    pub ld_base: usize,
    /// A row added to all rows where not null.
    pub bias: *const f32,
    pub alpha: f32,
    /// Rows to store, 1..=MR, which for one vector is `mr_narrow`.
    pub rows: usize,
    /// Columns to store; the last vector may be partial.
    pub cols: usize,
}

/// The rest of the epilogue for a tile of finished x.
pub(super) struct Finish {
    /// x, with row stride `ld_tile`.
    pub tile: *const f32,
    pub ld_tile: usize,
    pub c: *mut f32,
    /// Null where not wanted. Laid out as C, like `added`.
    pub pre: *mut f32,
    /// The residual, or C itself where the product is added to it; null where there is neither.
    pub added: *const f32,
    pub ldc: usize,
    pub activation: Activation,
    pub rows: usize,
    pub cols: usize,
}

pub(super) type TileFn = unsafe fn(&Tile);
pub(super) type FinishFn = unsafe fn(&Finish);

/// The kernels of one instruction set.
pub(super) struct Isa {
    /// Rows of a tile; divides `PANEL_ROWS`.
    pub mr: usize,
    /// Rows of a tile of one vector, a multiple of `mr` that divides `PANEL_ROWS`: with as few sums as four rows have, each
    /// waits for the one before.
    pub mr_narrow: usize,
    /// Words in a vector.
    pub lanes: usize,
    /// Vectors across a full tile.
    pub nv: usize,
    /// Panels are packed with AVX2 shuffles.
    pub avx2: bool,
    /// `tile[v − 1][direct]` for tiles of v vectors.
    pub tile: [[TileFn; 2]; MAX_NV],
    pub finish: FinishFn,
}

/// How one word of A is multiplied with one word of B.
trait Words: Copy {
    type S: Simd;
    const S: Self::S;
    /// acc + a · b
    fn madd(a: <Self::S as Simd>::V, b: <Self::S as Simd>::V, acc: <Self::S as Simd>::V) -> <Self::S as Simd>::V;
}

/// The tile loop. `PACKED`: `a` lies in a panel with `PANEL_ROWS` words for each k; else rows are read in place.
///
/// # Safety
/// The pointers of `t` must be valid for the extents it describes, and the processor must have the
/// instructions of `W`.
#[inline(always)]
unsafe fn tile<W: Words, const MR: usize, const NV: usize, const PACKED: bool>(t: &Tile) {
    let s = W::S;
    let lanes = W::S::LANES;
    let mut acc = [[s.splat(0.0); NV]; MR];
    let mut b = t.b;
    let ahead = t.b_step * AHEAD;
    for i in 0..MR {
        for v in 0..NV {
            s.prefetch(t.dst.wrapping_add(i * t.ld_dst + v * lanes));
        }
    }
    // One step of K. A macro, because a closure would not be compiled for the instruction set.
    macro_rules! step {
        ($acc:ident, $b:ident, $u:expr, |$i:ident| $a:expr) => {{
            let mut bv = [s.splat(0.0); NV];
            for v in 0..NV {
                bv[v] = s.load_ptr($b.add(v * lanes));
                // Once for each line, of 16 words.
                if ($u * NV + v) * lanes % 16 == 0 {
                    s.prefetch($b.wrapping_add(v * lanes + ahead));
                }
            }
            for $i in 0..MR {
                let av = s.splat(*$a);
                for v in 0..NV {
                    $acc[$i][v] = W::madd(av, bv[v], $acc[$i][v]);
                }
            }
        }};
    }
    // SAFETY of the block: by the caller's promise a[i], b and dst stay inside their panels: k words of
    // A for each of the rows, k rows of NV vectors of B, `rows` × `cols` of dst and base.
    unsafe {
        let mut k = 0;
        if PACKED {
            let mut a = t.a;
            while k + 4 <= t.k {
                for u in 0..4 {
                    step!(acc, b, u, |i| a.add(i));
                    a = a.add(PANEL_ROWS);
                    b = b.add(t.b_step);
                }
                k += 4;
            }
            while k < t.k {
                step!(acc, b, 0, |i| a.add(i));
                a = a.add(PANEL_ROWS);
                b = b.add(t.b_step);
                k += 1;
            }
        } else {
            let mut rows = [t.a; MR];
            for i in 0..MR {
                // Past the operand's end where K is 0, and not read.
                rows[i] = t.a.wrapping_add(i.min(t.rows - 1) * t.a_row);
            }
            while k + 4 <= t.k {
                for u in 0..4 {
                    step!(acc, b, u, |i| rows[i].add(k + u));
                    b = b.add(t.b_step);
                }
                k += 4;
            }
            while k < t.k {
                step!(acc, b, 0, |i| rows[i].add(k));
                b = b.add(t.b_step);
                k += 1;
            }
        }
        let alpha = s.splat(t.alpha);
        let full = t.cols == NV * lanes;
        let last = t.cols - (NV - 1) * lanes;
        let mut bias = [s.splat(0.0); NV];
        if !t.bias.is_null() {
            for v in 0..NV {
                let n = if v + 1 == NV { last } else { lanes };
                bias[v] = s.load_n(t.bias.add(v * lanes), n);
            }
        }
        for i in 0..MR {
            if i < t.rows {
                let dst = t.dst.add(i * t.ld_dst);
                let base = t.base.wrapping_add(i * t.ld_base);
                for v in 0..NV {
                    let whole = full || v + 1 < NV;
                    let mut x = s.fma(acc[i][v], alpha, bias[v]);
                    if !t.base.is_null() {
                        let p = base.add(v * lanes);
                        x = s.add(x, if whole { s.load_ptr(p) } else { s.load_n(p, last) });
                    }
                    if whole {
                        s.store_ptr(dst.add(v * lanes), x);
                    } else {
                        s.store_n(dst.add(v * lanes), last, x);
                    }
                }
            }
        }
    }
}

/// Asks for the part `place` of `places` of the cache lines of `rows` rows of `words` words: rows that are read where they lie come
/// from memory, and the processor does not see ahead of a jump from row to row.
#[inline]
pub(super) fn ask_rows(a: *const f32, stride: usize, rows: usize, words: usize, place: usize, places: usize) {
    const LINE: usize = 16;
    let lines = words.div_ceil(LINE);
    let each = (rows * lines).div_ceil(places);
    let asked = place * each..(rows * lines).min((place + 1) * each);
    if asked.is_empty() {
        return;
    }
    // Divided once, not for each line: this stands between two tiles.
    let (mut row, mut line) = (asked.start / lines, asked.start % lines);
    for _ in asked {
        prefetch::<true>(a.wrapping_add(row * stride + line * LINE), 1);
        line += 1;
        if line == lines {
            (row, line) = (row + 1, 0);
        }
    }
}

/// pre = x; C = activation(x) + added, row by row. Whole vectors are stored without a mask: a masked store takes a
/// Zen 3 twelve times as long.
///
/// # Safety
/// As for [`tile`].
#[inline(always)]
unsafe fn finish<S: Simd>(s: S, f: &Finish) {
    for_each_activation!(f.activation, |K| {
        for i in 0..f.rows {
            let (x, at) = (f.tile.wrapping_add(i * f.ld_tile), i * f.ldc);
            for_lanes!(S, f.cols, |j, n| {
                // SAFETY: (i, j) lies inside the tile, and n columns from j on as well.
                unsafe {
                    let x = s.load_n(x.add(j), n);
                    if !f.pre.is_null() {
                        s.store_n(f.pre.add(at + j), n, x);
                    }
                    let mut y = K.apply_vector(s, x);
                    if !f.added.is_null() {
                        y = s.add(y, s.load_n(f.added.add(at + j), n));
                    }
                    s.store_n(f.c.add(at + j), n, y);
                }
            });
        }
    });
}

#[derive(Clone, Copy)]
struct F32Words<S>(S);

macro_rules! f32_words {
    ($s:ty, $token:expr) => {
        impl Words for F32Words<$s> {
            type S = $s;
            const S: $s = $token;
            #[inline(always)]
            fn madd(a: <$s as Simd>::V, b: <$s as Simd>::V, acc: <$s as Simd>::V) -> <$s as Simd>::V {
                Self::S.fma(a, b, acc)
            }
        }
    };
}

f32_words!(Plain, Plain::TOKEN);

/// Instantiates the tile functions of one instruction set with its features, those of a path in `simd::for_path`.
macro_rules! isa {
    ($name:ident, $path:ident, $words:ty, $mr:literal, $narrow:literal, $nv:literal, $avx2:literal) => {
        mod $path {
            use super::*;
            crate::simd::for_path! { $path:
                /// # Safety
                /// As for [`super::tile`].
                pub(super) unsafe fn tile<const MR: usize, const NV: usize, const PACKED: bool>(t: &Tile) {
                    // SAFETY: the caller's promise is passed on.
                    unsafe { super::tile::<$words, MR, NV, PACKED>(t) }
                }
            }
            crate::simd::for_path! { $path:
                /// # Safety
                /// As for [`super::tile`].
                pub(super) unsafe fn finish(f: &Finish) {
                    // SAFETY: the caller's promise is passed on.
                    unsafe { super::finish(<$words as Words>::S, f) }
                }
            }
        }
        pub(in crate::gemm) static $name: Isa = Isa {
            mr: $mr,
            mr_narrow: $narrow,
            lanes: <<$words as Words>::S as Simd>::LANES,
            nv: $nv,
            avx2: $avx2,
            tile: [
                [$path::tile::<$narrow, 1, true>, $path::tile::<$narrow, 1, false>],
                [
                    $path::tile::<$mr, { if $nv >= 2 { 2 } else { 1 } }, true>,
                    $path::tile::<$mr, { if $nv >= 2 { 2 } else { 1 } }, false>,
                ],
                [$path::tile::<$mr, $nv, true>, $path::tile::<$mr, $nv, false>],
            ],
            finish: $path::finish,
        };
    };
}

isa!(PLAIN, plain, F32Words<Plain>, 4, 4, 1, false);

#[cfg(target_arch = "x86_64")]
pub(in crate::gemm) use x86::{AVX2, AVX512, AVX512_BF16};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::*;
    use crate::simd::{avx2::Avx2, avx512::Avx512};
    use std::arch::x86_64::{__m512, __m512bh, _mm512_dpbf16_ps};

    f32_words!(Avx2, Avx2::TOKEN);
    f32_words!(Avx512, Avx512::TOKEN);

    /// Pairs of bf16, multiplied and summed by one instruction.
    #[derive(Clone, Copy)]
    pub(super) struct Bf16Words;

    impl Words for Bf16Words {
        type S = Avx512;
        const S: Avx512 = Avx512::TOKEN;
        #[inline(always)]
        fn madd(a: __m512, b: __m512, acc: __m512) -> __m512 {
            // SAFETY: the vectors are 64 bytes of plain bits; these words are used only on the path
            // whose processor has AVX512-BF16.
            unsafe {
                let a = std::mem::transmute::<__m512, __m512bh>(a);
                let b = std::mem::transmute::<__m512, __m512bh>(b);
                _mm512_dpbf16_ps(acc, a, b)
            }
        }
    }

    isa!(AVX512, avx512, F32Words<Avx512>, 8, 8, 3, true);
    isa!(AVX512_BF16, avx512bf16, Bf16Words, 8, 8, 3, true);
    isa!(AVX2, avx2, F32Words<Avx2>, 4, 8, 3, true);
}
