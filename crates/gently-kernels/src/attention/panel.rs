//! Strided heads copied into dense panels of 64 rows, as the products want them, and back.
//!
//! Here: row panels, transposed panels, and the parts of a thread's scratch they live in. Not here: what is done
//! with them.
//!
//! A row panel of D channels is ⌈D/64⌉ column chunks, each `[64, ld]`; the last chunk's columns are padded
//! with zeros to a multiple of 16. A transposed panel is `[D, 64]`.

use super::product::TILE;
use super::vector::{Job, Vector};
use super::{HeadView, HeadViewMut};
use crate::buffer::OutOfMemory;
use crate::thread_buffer::{self, Slot};

/// Column chunks of D channels.
#[derive(Clone, Copy)]
pub(super) struct Width {
    pub d: usize,
    /// Column chunks of at most 64 channels.
    pub chunks: usize,
}

impl Width {
    pub fn new(d: usize) -> Self {
        Self { d, chunks: d.div_ceil(TILE) }
    }

    /// Channels of chunk `c`.
    #[inline(always)]
    pub fn of(self, c: usize) -> usize {
        TILE.min(self.d - c * TILE)
    }

    /// Row stride of panels that are not read as A: no wider than needed.
    #[inline(always)]
    pub fn narrow(self) -> usize {
        self.d.next_multiple_of(16).min(TILE)
    }

    /// Floats of a row panel with row stride `ld`.
    #[inline(always)]
    pub fn panel(self, ld: usize) -> usize {
        self.chunks * TILE * ld
    }
}

/// A view without its lifetime, to be used by tasks on several threads.
#[derive(Clone, Copy)]
pub(super) struct Raw<P> {
    first: P,
    stride_b: usize,
    stride_t: usize,
    stride_h: usize,
}

// SAFETY: a Raw is only an address; those who read or write through it promise to do so disjointly.
unsafe impl<P> Sync for Raw<P> {}
// SAFETY: as above.
unsafe impl<P> Send for Raw<P> {}

impl Raw<*const f32> {
    /// The view must have been checked.
    pub fn new(v: &HeadView<'_>) -> Self {
        let first = v.data.as_ptr().wrapping_add(v.offset);
        Self { first, stride_b: v.stride_b, stride_t: v.stride_t, stride_h: v.stride_h }
    }
    #[inline(always)]
    pub fn at(&self, b: usize, t: usize, h: usize) -> *const f32 {
        self.first.wrapping_add(b * self.stride_b + t * self.stride_t + h * self.stride_h)
    }
    #[inline(always)]
    pub fn stride_t(&self) -> usize {
        self.stride_t
    }
    /// The same from token `t` on.
    pub fn after(self, t: usize) -> Self {
        Self { first: self.at(0, t, 0), ..self }
    }
}

impl Raw<*mut f32> {
    /// The view must have been checked.
    pub fn new_mut(v: &mut HeadViewMut<'_>) -> Self {
        let first = v.data.as_mut_ptr().wrapping_add(v.offset);
        Self { first, stride_b: v.stride_b, stride_t: v.stride_t, stride_h: v.stride_h }
    }
    #[inline(always)]
    pub fn at(&self, b: usize, t: usize, h: usize) -> *mut f32 {
        self.first.wrapping_add(b * self.stride_b + t * self.stride_t + h * self.stride_h)
    }
    /// The same from token `t` on.
    pub fn after(self, t: usize) -> Self {
        Self { first: self.at(0, t, 0), ..self }
    }
    /// The same, `n` floats further on.
    pub fn shifted(self, n: usize) -> Self {
        Self { first: self.first.wrapping_add(n), ..self }
    }
}

/// Copies one row of D channels into row `r` of a row panel.
///
/// # Safety
/// `from` must be readable for D floats, `panel` writable for a panel of that width.
#[inline(always)]
pub(super) unsafe fn load_row<S: Vector>(
    s: S,
    w: Width,
    from: *const f32,
    panel: *mut f32,
    ld: usize,
    r: usize,
    bf16: bool,
) {
    for c in 0..w.chunks {
        let n = w.of(c);
        // SAFETY: the caller's promise.
        unsafe {
            let (from, to) = (from.add(c * TILE), panel.add((c * TILE + r) * ld));
            let mut i = 0;
            while i + S::LANES <= n {
                s.store_ptr(to.add(i), s.rounded(s.load_ptr(from.add(i)), bf16));
                i += S::LANES;
            }
            if i < n {
                s.store_ptr(to.add(i), s.rounded(s.load_n(from.add(i), n - i), bf16));
                i += S::LANES;
            }
            while i < n.next_multiple_of(16) {
                s.store_ptr(to.add(i), s.splat(0.0));
                i += S::LANES;
            }
        }
    }
}

/// Writes or adds row `r` of a row panel, times `factor`, to D channels.
///
/// # Safety
/// As [`load_row`], the other way.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
pub(super) unsafe fn store_row<S: Vector>(
    s: S,
    w: Width,
    panel: *const f32,
    ld: usize,
    r: usize,
    factor: f32,
    to: *mut f32,
    add: bool,
) {
    let factor = s.splat(factor);
    for c in 0..w.chunks {
        let n = w.of(c);
        // SAFETY: the caller's promise.
        unsafe {
            let (from, to) = (panel.add((c * TILE + r) * ld), to.add(c * TILE));
            let mut i = 0;
            while i < n {
                let x = s.mul(s.load_ptr(from.add(i)), factor);
                let left = n - i;
                if left >= S::LANES {
                    let x = if add { s.add(x, s.load_ptr(to.add(i))) } else { x };
                    s.store_ptr(to.add(i), x);
                } else {
                    let x = if add { s.add(x, s.load_n(to.add(i), left)) } else { x };
                    s.store_n(to.add(i), left, x);
                }
                i += S::LANES;
            }
        }
    }
}

/// Multiplies row `r` of a row panel.
///
/// # Safety
/// The panel must be valid.
#[inline(always)]
pub(super) unsafe fn scale_row<S: Vector>(s: S, w: Width, panel: *mut f32, ld: usize, r: usize, by: f32) {
    for c in 0..w.chunks {
        let mut i = 0;
        while i < w.of(c) {
            // SAFETY: the caller's promise.
            unsafe {
                let at = panel.add((c * TILE + r) * ld + i);
                s.store_ptr(at, s.mul(s.load_ptr(at), s.splat(by)));
            }
            i += S::LANES;
        }
    }
}

/// Copies `rows` ≤ 64 rows of D floats, `stride` apart, into a transposed panel `[D, 64]`; missing ones become zeros.
///
/// `from` must be readable for those rows, `to` writable for D · 64.
pub(super) struct Transpose {
    pub d: usize,
    pub from: *const f32,
    pub stride: usize,
    pub rows: usize,
    pub to: *mut f32,
    pub bf16: bool,
}

impl Job for Transpose {
    #[inline(always)]
    unsafe fn run<S: Vector>(self, s: S) {
        let Self { d, from, stride, rows, to, bf16 } = self;
        let mut r = 0;
        // SAFETY: the maker's promise.
        unsafe {
            while r < TILE {
                let n = rows.saturating_sub(r).min(S::LANES);
                let mut c = 0;
                if n == S::LANES {
                    while c + S::LANES <= d {
                        s.transpose(from.add(r * stride + c), stride, to.add(c * TILE + r), TILE);
                        c += S::LANES;
                    }
                }
                while c < d {
                    let to = to.add(c * TILE + r);
                    for i in 0..n {
                        *to.add(i) = *from.add((r + i) * stride + c);
                    }
                    for i in n..S::LANES {
                        *to.add(i) = 0.0;
                    }
                    c += 1;
                }
                r += S::LANES;
            }
            if bf16 {
                for i in (0..d * TILE).step_by(S::LANES) {
                    s.store_ptr(to.add(i), s.bf16(s.load_ptr(to.add(i))));
                }
            }
        }
    }
}

/// Hands out consecutive parts of a buffer.
pub(super) struct Parts {
    at: *mut f32,
    left: usize,
}

impl Parts {
    /// The next `n` floats, starting on a cache line.
    pub fn take(&mut self, n: usize) -> *mut f32 {
        let n = n.next_multiple_of(16);
        assert!(n <= self.left, "attention scratch too small");
        let p = self.at;
        self.at = self.at.wrapping_add(n);
        self.left -= n;
        p
    }
}

/// Lends `len` floats of this thread's scratch, whose content is whatever was left there.
///
/// # Errors
/// There is no memory for them.
pub(super) fn with_scratch(len: usize, f: impl FnOnce(&mut Parts)) -> Result<(), OutOfMemory> {
    thread_buffer::try_with(Slot::Attention, len, |words| {
        f(&mut Parts { at: words.as_mut_ptr().cast(), left: words.len() });
    })
}
