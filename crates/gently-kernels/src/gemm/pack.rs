//! Packing: parts of an operand copied into panels that a micro-kernel reads in order.
//!
//! A panel holds `width` *minor* lines (rows of A, columns of B): for each word of K, `width` words
//! side by side, zero where the operand ends. A word is an f32, or a pair of bf16 (k, k+1), the second
//! zero past an odd end. Here: copies for operands contiguous along either direction, transposing in
//! 8 × 8 blocks, with widening of bf16 and rounding to bf16 on the way. Not here: when to pack.

// Loops over register arrays are by index: they unroll, iterators over parts of them may not.
#![allow(clippy::needless_range_loop)]

use crate::cast::bf16_high;
use half::bf16;

/// The elements of an operand, by address.
#[derive(Clone, Copy)]
pub(super) enum Ptr {
    F32(*const f32),
    Bf16(*const bf16),
}

impl Ptr {
    /// The place `n` elements on. Where K is 0 it may lie past the operand's end, and nothing is read there.
    #[inline(always)]
    pub fn wrapping_add(self, n: usize) -> Ptr {
        match self {
            Ptr::F32(p) => Ptr::F32(p.wrapping_add(n)),
            Ptr::Bf16(p) => Ptr::Bf16(p.wrapping_add(n)),
        }
    }
}

/// What a word is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Mode {
    /// The f32 value.
    F32,
    /// The f32 value rounded to bf16.
    Rounded,
    /// Two neighbours along K, rounded to bf16.
    Pairs,
}

/// A part of an operand to be packed into one panel.
#[derive(Clone, Copy)]
pub(super) struct Part {
    pub src: Ptr,
    /// Elements from one minor line to the next.
    pub minor_stride: usize,
    /// Elements from one k to the next.
    pub k_stride: usize,
    /// Minor lines there are, at most `width`.
    pub minors: usize,
    /// Elements along K.
    pub k: usize,
    /// Minor lines in the panel.
    pub width: usize,
}

/// Packs a part to `dst`, which takes words(k) × width words.
///
/// # Safety
/// `part` must describe elements inside its operand, `dst` must have room, and `avx2` may be true only
/// where the processor has AVX2 and FMA.
pub(super) unsafe fn pack(dst: *mut u32, part: &Part, mode: Mode, avx2: bool) {
    // SAFETY: the caller's promise is passed on.
    unsafe {
        #[cfg(target_arch = "x86_64")]
        if avx2 {
            return x86::pack(dst, part, mode);
        }
        let _ = avx2;
        scalar(dst, part, mode, 0..part.width, 0..words(mode, part.k));
    }
}

/// Packs `lines` minor lines in panels of `part.width` that begin `panel_stride` words apart. `part`
/// describes the first panel; its `minors` is ignored.
///
/// # Safety
/// As for [`pack`], for all the panels.
pub(super) unsafe fn pack_panels(
    dst: *mut u32,
    part: &Part,
    lines: usize,
    panel_stride: usize,
    mode: Mode,
    avx2: bool,
) {
    let whole = lines / part.width * part.width;
    // SAFETY: the caller's promise is passed on; panels lie inside `lines` and one after another in `dst`.
    unsafe {
        #[cfg(target_arch = "x86_64")]
        if avx2
            && part.minor_stride == 1
            && part.width == 8
            && mode == Mode::F32
            && let Ptr::F32(src) = part.src
        {
            x86::pack_octets(dst, src, part.k_stride, whole, part.k, panel_stride);
        } else {
            panels(dst, part, 0..whole, panel_stride, mode, avx2);
        }
        #[cfg(not(target_arch = "x86_64"))]
        panels(dst, part, 0..whole, panel_stride, mode, avx2);
        panels(dst, part, whole..lines, panel_stride, mode, avx2);
    }
}

/// Packs the words `rows` of K of all panels of a part whose lines are contiguous (`minor_stride` 1): row after row, so
/// that whole cache lines and pages are read once. `part` describes all the lines; panels take `part.width` of them, the
/// last one those that are left, up to a multiple of `lanes`, and lie one after the other.
///
/// # Safety
/// As for [`pack`], for all the panels.
pub(super) unsafe fn pack_rows(
    dst: *mut u32,
    part: &Part,
    lanes: usize,
    rows: std::ops::Range<usize>,
    mode: Mode,
    avx2: bool,
) {
    debug_assert_eq!(part.minor_stride, 1);
    // SAFETY: the caller's promise is passed on.
    unsafe {
        #[cfg(target_arch = "x86_64")]
        if avx2 {
            return x86::pack_rows(dst, part, lanes, rows, mode);
        }
        let _ = avx2;
        let words = words(mode, part.k);
        for j in (0..part.minors).step_by(part.width) {
            let one = part.panel(j, lanes);
            scalar(dst.add(j * words), &one, mode, 0..one.width, rows.clone());
        }
    }
}

/// One panel after the other.
///
/// # Safety
/// As for [`pack_panels`].
unsafe fn panels(
    dst: *mut u32,
    part: &Part,
    lines: std::ops::Range<usize>,
    panel_stride: usize,
    mode: Mode,
    avx2: bool,
) {
    for i in lines.clone().step_by(part.width) {
        let src = part.src.wrapping_add(i * part.minor_stride);
        let one = Part { src, minors: part.width.min(lines.end - i), ..*part };
        // SAFETY: line i is inside the operand, panel i / width inside `dst`.
        unsafe { pack(dst.add(i / part.width * panel_stride), &one, mode, avx2) }
    }
}

/// Words along K that `k` elements take.
pub(super) fn words(mode: Mode, k: usize) -> usize {
    match mode {
        Mode::Pairs => k.div_ceil(2),
        _ => k,
    }
}

impl Part {
    /// The panel of those that begins at line `j`.
    #[inline(always)]
    pub fn panel(&self, j: usize, lanes: usize) -> Part {
        let minors = self.width.min(self.minors - j);
        let src = self.src.wrapping_add(j * self.minor_stride);
        Part { src, minors, width: minors.next_multiple_of(lanes), ..*self }
    }

    /// The word of minor line `i` at word position `w`.
    ///
    /// # Safety
    /// As for [`pack`].
    #[inline(always)]
    unsafe fn word(&self, mode: Mode, i: usize, w: usize) -> u32 {
        if i >= self.minors {
            return 0;
        }
        // SAFETY: i < minors and k < self.k, so the element is inside the operand.
        let at = |k: usize| unsafe {
            let offset = i * self.minor_stride + k * self.k_stride;
            match self.src {
                Ptr::F32(p) => *p.add(offset),
                Ptr::Bf16(p) => (*p.add(offset)).to_f32(),
            }
        };
        match mode {
            Mode::F32 => at(w).to_bits(),
            Mode::Rounded => bf16_high(at(w)) & 0xFFFF_0000,
            Mode::Pairs => {
                let low = bf16_high(at(2 * w)) >> 16;
                let high = if 2 * w + 1 < self.k { bf16_high(at(2 * w + 1)) & 0xFFFF_0000 } else { 0 };
                low | high
            }
        }
    }
}

/// Minor lines `lines`, words `rows`, one at a time.
///
/// # Safety
/// As for [`pack`].
#[inline(always)]
unsafe fn scalar(dst: *mut u32, part: &Part, mode: Mode, lines: std::ops::Range<usize>, rows: std::ops::Range<usize>) {
    for w in rows {
        for i in lines.clone() {
            // SAFETY: `dst` has room for words × width.
            unsafe { *dst.add(w * part.width + i) = part.word(mode, i, w) }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{Mode, Part, Ptr, scalar, words};
    use crate::gemm::micro::ask_rows;
    use crate::simd::{avx2::transpose8, for_path};
    use half::bf16;
    use std::arch::x86_64::*;
    use std::ops::Range;

    /// Rows that are asked for ahead of their turn.
    const AHEAD: usize = 16;

    const F32: u8 = 0;
    const ROUNDED: u8 = 1;
    const PAIRS: u8 = 2;

    for_path! { avx2:
        /// # Safety
        /// As for [`super::pack`], with AVX2.
        pub(super) unsafe fn pack(dst: *mut u32, part: &Part, mode: Mode) {
            // SAFETY: the caller's promise is passed on.
            unsafe {
                match (mode, part.src) {
                    (Mode::F32, Ptr::F32(p)) => go::<f32, F32>(dst, part, mode, p),
                    (Mode::Rounded, Ptr::F32(p)) => go::<f32, ROUNDED>(dst, part, mode, p),
                    (Mode::Pairs, Ptr::F32(p)) => go::<f32, PAIRS>(dst, part, mode, p),
                    // A bf16 is its own rounding.
                    (Mode::F32 | Mode::Rounded, Ptr::Bf16(p)) => go::<bf16, F32>(dst, part, mode, p),
                    (Mode::Pairs, Ptr::Bf16(p)) => go::<bf16, PAIRS>(dst, part, mode, p),
                }
            }
        }
    }

    for_path! { avx2:
        /// Panels of 8 lines that are contiguous along the lines: all panels of one k before the next k, so that
        /// whole cache lines and pages are read once.
        ///
        /// # Safety
        /// As for [`super::pack_panels`], with AVX2; `lines` is a multiple of 8.
        pub(super) unsafe fn pack_octets(
            dst: *mut u32,
            src: *const f32,
            k_stride: usize,
            lines: usize,
            k: usize,
            panel_stride: usize,
        ) {
            for p in 0..k {
                // The processor does not see ahead of the jump from row to row.
                ask_rows(src.wrapping_add((p + AHEAD) * k_stride), 0, 1, lines, 0, 1);
                let mut i = 0;
                while i < lines {
                    // SAFETY: (i + 8, p) lies inside the operand, panel i / 8 inside `dst`.
                    unsafe {
                        let x = _mm256_loadu_si256(src.add(p * k_stride + i).cast());
                        _mm256_storeu_si256(dst.add(i / 8 * panel_stride + p * 8).cast(), x);
                    }
                    i += 8;
                }
            }
        }
    }

    for_path! { avx2:
        /// # Safety
        /// As for [`super::pack_rows`], with AVX2.
        pub(super) unsafe fn pack_rows(dst: *mut u32, part: &Part, lanes: usize, rows: Range<usize>, mode: Mode) {
            // SAFETY: the caller's promise is passed on.
            unsafe {
                match (mode, part.src) {
                    (Mode::F32, Ptr::F32(p)) => go_rows::<f32, F32>(dst, part, lanes, rows, mode, p),
                    (Mode::Rounded, Ptr::F32(p)) => go_rows::<f32, ROUNDED>(dst, part, lanes, rows, mode, p),
                    (Mode::Pairs, Ptr::F32(p)) => go_rows::<f32, PAIRS>(dst, part, lanes, rows, mode, p),
                    (Mode::F32 | Mode::Rounded, Ptr::Bf16(p)) => go_rows::<bf16, F32>(dst, part, lanes, rows, mode, p),
                    (Mode::Pairs, Ptr::Bf16(p)) => go_rows::<bf16, PAIRS>(dst, part, lanes, rows, mode, p),
                }
            }
        }
    }

    /// A source element type and its vector loads.
    trait Element: Copy {
        /// Eight neighbours as f32 bits.
        unsafe fn widen8(p: *const Self) -> __m256i;
        /// Sixteen neighbours as eight pairs.
        unsafe fn pairs8(p: *const Self) -> __m256i;
        /// Eight neighbours as bf16 bits in the low halves of words.
        unsafe fn low8(p: *const Self) -> __m256i;
    }

    /// Rounds f32 bits to bf16 in the high half of each word; the low half is garbage.
    #[inline(always)]
    unsafe fn round_high(x: __m256i) -> __m256i {
        // SAFETY: inlined into functions with AVX2.
        unsafe {
            // Nearest even: add 0x7fff, and 1 more where the last kept bit is odd. A NaN could carry into
            // infinity, so it only gets its quiet bit.
            let odd = _mm256_and_si256(_mm256_srli_epi32::<16>(x), _mm256_set1_epi32(1));
            let sum = _mm256_add_epi32(_mm256_add_epi32(x, _mm256_set1_epi32(0x7fff)), odd);
            let f = _mm256_castsi256_ps(x);
            let nan = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_UNORD_Q>(f, f));
            let quiet = _mm256_or_si256(x, _mm256_set1_epi32(0x0040_0000));
            _mm256_blendv_epi8(sum, quiet, nan)
        }
    }

    impl Element for f32 {
        #[inline(always)]
        unsafe fn widen8(p: *const f32) -> __m256i {
            // SAFETY: the caller promises 8 readable elements.
            unsafe { _mm256_loadu_si256(p.cast()) }
        }
        #[inline(always)]
        unsafe fn pairs8(p: *const f32) -> __m256i {
            // SAFETY: the caller promises 16 readable elements.
            unsafe {
                let a = Self::low8(p);
                let b = Self::low8(p.add(8));
                // packus works within 128-bit halves; the permutation puts the quarters in order.
                _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_packus_epi32(a, b))
            }
        }
        #[inline(always)]
        unsafe fn low8(p: *const f32) -> __m256i {
            // SAFETY: the caller promises 8 readable elements.
            unsafe { _mm256_srli_epi32::<16>(round_high(Self::widen8(p))) }
        }
    }

    impl Element for bf16 {
        #[inline(always)]
        unsafe fn widen8(p: *const bf16) -> __m256i {
            // SAFETY: the caller promises 8 readable elements.
            unsafe { _mm256_slli_epi32::<16>(Self::low8(p)) }
        }
        #[inline(always)]
        unsafe fn pairs8(p: *const bf16) -> __m256i {
            // SAFETY: the caller promises 16 readable elements.
            unsafe { _mm256_loadu_si256(p.cast()) }
        }
        #[inline(always)]
        unsafe fn low8(p: *const bf16) -> __m256i {
            // SAFETY: the caller promises 8 readable elements.
            unsafe { _mm256_cvtepu16_epi32(_mm_loadu_si128(p.cast())) }
        }
    }

    /// Eight words along K from `p`, the elements there being contiguous.
    #[inline(always)]
    unsafe fn along_k<E: Element, const MODE: u8>(p: *const E) -> __m256i {
        // SAFETY: the caller promises 8 words of readable elements.
        unsafe {
            match MODE {
                PAIRS => E::pairs8(p),
                ROUNDED => _mm256_and_si256(round_high(E::widen8(p)), _mm256_set1_epi32(-65536)),
                _ => E::widen8(p),
            }
        }
    }

    /// Eight minor lines at one word of K, contiguous in memory; `next` is the second half of pairs.
    #[inline(always)]
    unsafe fn along_minor<E: Element, const MODE: u8>(p: *const E, next: Option<*const E>) -> __m256i {
        // SAFETY: the caller promises 8 readable elements at `p` and `next`.
        unsafe {
            if MODE != PAIRS {
                return along_k::<E, MODE>(p);
            }
            let low = E::low8(p);
            match next {
                Some(q) => _mm256_or_si256(low, _mm256_slli_epi32::<16>(E::low8(q))),
                None => low,
            }
        }
    }

    /// The rows of a part whose lines are contiguous: all panels of one word before the next word.
    #[inline(always)]
    unsafe fn go_rows<E: Element, const MODE: u8>(
        dst: *mut u32,
        part: &Part,
        lanes: usize,
        rows: Range<usize>,
        mode: Mode,
        src: *const E,
    ) {
        let words = words(mode, part.k);
        let per = if MODE == PAIRS { 2 } else { 1 };
        // SAFETY of the block: i + 8 ≤ minors and the rows end with K, so all reads are inside the operand; writes are
        // inside the panels.
        unsafe {
            for w in rows {
                let p = src.add(w * per * part.k_stride);
                let next = (MODE == PAIRS && 2 * w + 1 < part.k).then(|| p.add(part.k_stride));
                let mut j = 0;
                while j + part.width <= part.minors {
                    let out = dst.add(j * words + w * part.width);
                    // All widths are multiples of eight.
                    eights::<E, MODE>(out, p.add(j), next.map(|q| q.add(j)), part.width);
                    j += part.width;
                }
                if j < part.minors {
                    let last = part.panel(j, lanes);
                    let out = dst.add(j * words + w * last.width);
                    let done = eights::<E, MODE>(out, p.add(j), next.map(|q| q.add(j)), last.minors);
                    scalar(dst.add(j * words), &last, mode, done..last.width, w..w + 1);
                }
            }
        }
    }

    /// The eights among `n` lines at one word of K; returns how many lines they are.
    #[inline(always)]
    unsafe fn eights<E: Element, const MODE: u8>(
        out: *mut u32,
        p: *const E,
        next: Option<*const E>,
        n: usize,
    ) -> usize {
        let mut i = 0;
        while i + 8 <= n {
            // SAFETY: the caller promises `n` readable elements at `p` and `next`, and room for as many words.
            unsafe {
                let x = along_minor::<E, MODE>(p.add(i), next.map(|q| q.add(i)));
                _mm256_storeu_si256(out.add(i).cast(), x);
            }
            i += 8;
        }
        i
    }

    #[inline(always)]
    unsafe fn go<E: Element, const MODE: u8>(dst: *mut u32, part: &Part, mode: Mode, src: *const E) {
        let nw = words(mode, part.k);
        let whole = part.minors / 8 * 8;
        let per = if MODE == PAIRS { 2 } else { 1 };
        // SAFETY of the block: i + 8 ≤ minors and the words read end before k, so all reads are inside the
        // operand; writes are inside words × width.
        unsafe {
            if part.minor_stride == 1 {
                // One panel, and its width is whole.
                let lanes = part.width;
                go_rows::<E, MODE>(dst, part, lanes, 0..nw, mode, src);
            } else if part.k_stride == 1 {
                // Words that lie wholly inside the operand, in eights.
                let inside = (part.k / per) / 8 * 8;
                let mut i = 0;
                while i < whole {
                    // Past the operand's end where K is 0, and not read.
                    let line = src.wrapping_add(i * part.minor_stride);
                    let mut w = 0;
                    while w < inside {
                        let mut x = [_mm256_setzero_si256(); 8];
                        for r in 0..8 {
                            x[r] = along_k::<E, MODE>(line.add(r * part.minor_stride + w * per));
                        }
                        let x = transpose8(x);
                        for r in 0..8 {
                            _mm256_storeu_si256(dst.add((w + r) * part.width + i).cast(), x[r]);
                        }
                        w += 8;
                    }
                    scalar(dst, part, mode, i..i + 8, inside..nw);
                    i += 8;
                }
                scalar(dst, part, mode, whole..part.width, 0..nw);
            } else {
                scalar(dst, part, mode, 0..part.width, 0..nw);
            }
        }
    }
}
