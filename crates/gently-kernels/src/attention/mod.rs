//! Softmax attention, blockwise, forward and backward: the score engine.
//!
//! Here: the shapes, views and options of attention, its checks, and the entry points [`forward`],
//! [`forward_each`] and [`backward`]. [`plain`] says what they compute, in a few lines, over `f32` or `f64`. Not here:
//! projections, rotary positions (see [`crate::rope`]), caches.
//!
//! No T×T matrix is ever stored: scores live in tiles of 64 by 64, the softmax is kept online (Milakov
//! and Gimelshein, arXiv:1805.02867; Dao et al., "FlashAttention", arXiv:2205.14135), and the backward
//! makes the tiles again from two numbers of each row, its largest score and one over its sum. Not from their log-sum-exp, as
//! later work does (Dao, arXiv:2307.08691): beside a score of 10⁶ the logarithm of the sum is lost to rounding, and probabilities
//! would no longer add up to 1.
//!
//! ```
//! use gently_kernels::attention::{AttnShape, AttnSpec, HeadView, Mask, forward};
//! let shape = AttnShape { batch: 1, t_q: 2, t_k: 2, heads: 1, kv_heads: 1, d: 1 };
//! let (q, k, v) = ([0.0, 0.0], [1.0, 2.0], [10.0, 20.0]);
//! let view = |x| HeadView::contiguous(x, 2, 1, 1);
//! let (mut out, mut stats) = ([0.0; 2], [0.0; 4]);
//! forward(shape, &AttnSpec::new(1.0, Mask::Causal), view(&q), view(&k), view(&v), &mut out, &mut stats);
//! assert_eq!(out, [10.0, 15.0]);
//! ```

mod backward;
mod dropout;
mod forward;
mod panel;
pub mod plain;
mod plan;
mod product;
mod rows;
#[cfg(test)]
mod tests;
mod vector;

use crate::buffer::OutOfMemory;
use crate::cpu;
use crate::dropout::Dropout;
use crate::gemm::Compute;
use crate::scratch::Scratch;

/// The sizes of one attention: queries `[B, Tq, H, D]`, keys and values `[B, Tk, Hk, D]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttnShape {
    /// B
    pub batch: usize,
    /// Number of queries in each row of the batch.
    pub t_q: usize,
    /// Number of keys in each row of the batch.
    pub t_k: usize,
    /// H, query heads.
    pub heads: usize,
    /// Hk, key and value heads; divides H. Query head `h` reads key head `h / (H / Hk)`.
    pub kv_heads: usize,
    /// D, channels of a head.
    pub d: usize,
}

impl AttnShape {
    /// Query heads for each key head.
    pub fn group(&self) -> usize {
        self.heads / self.kv_heads.max(1)
    }

    /// Elements of queries, of outputs, and of their gradients: B·Tq·H·D.
    pub fn out_len(&self) -> usize {
        self.batch * self.t_q * self.heads * self.d
    }

    /// Elements of the statistics of all rows, `[B, H, Tq, 2]`.
    pub fn stats_len(&self) -> usize {
        self.batch * self.heads * self.t_q * 2
    }
}

/// Which keys a query may see by position.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mask {
    /// All of them.
    Full,
    /// Those at or before its own position.
    #[default]
    Causal,
    /// The last `n` at or before its own position, itself included. 0 sees nothing.
    Window(usize),
}

impl Mask {
    /// Scores that the mask leaves: pairs of a query, of which `t_q` stand at positions from `q_start` on, and one of `t_k` keys.
    ///
    /// ```
    /// use gently_kernels::attention::Mask;
    /// assert_eq!(Mask::Full.pairs(0, 4, 4), 16);
    /// assert_eq!(Mask::Causal.pairs(0, 4, 4), 1 + 2 + 3 + 4);
    /// assert_eq!(Mask::Window(2).pairs(0, 4, 4), 1 + 2 + 2 + 2);
    /// assert_eq!(Mask::Causal.pairs(3, 1, 4), 4);
    /// ```
    pub fn pairs(self, q_start: usize, t_q: usize, t_k: usize) -> u64 {
        // Σ min(i, t_k) for i from 1 to n.
        let sum = |n: u64| {
            let rising = n.min(t_k as u64);
            rising * (rising + 1) / 2 + (n - rising) * t_k as u64
        };
        // Keys before position p + 1 − behind, over all queries p.
        let before = |behind: usize| {
            let upto = |p: usize| sum(p.saturating_sub(behind) as u64);
            upto(q_start + t_q) - upto(q_start)
        };
        match self {
            Mask::Full => t_q as u64 * t_k as u64,
            Mask::Causal => before(0),
            Mask::Window(n) => before(0) - before(n),
        }
    }
}

/// What attention computes beyond softmax(q·k)·v.
///
/// The score of query position i and key position j is `s = scale · q·k`, then `c · tanh(s / c)` with a
/// soft cap `c`, then plus the biases. Query `t` has the position `q_start + t`, key `t` has `t`.
#[derive(Debug, Clone, Copy)]
pub struct AttnSpec<'a, T = f32> {
    /// Factor of q·k, commonly 1/√D.
    pub scale: f32,
    /// Which keys are seen by position.
    pub mask: Mask,
    /// Position of the first query: the length of the cache before it.
    pub q_start: usize,
    /// Document of each position, `[B, Tk]`. A query sees only keys of the document at its own position;
    /// needs `q_start + Tq ≤ Tk`. Ids may come in any order; ascending runs skip whole tiles.
    pub docs: Option<&'a [u32]>,
    /// ALiBi (Press et al., arXiv:2108.12409): slope of each head, `[H]`; adds −slope · |i − j|.
    pub alibi: Option<&'a [f32]>,
    /// Learned bias by relative distance, `[H, R]`, R ≥ 1. Under a causal mask or a window the entry is
    /// min(i − j, R − 1); under [`Mask::Full`] it is i − j + ⌊R/2⌋ clipped to 0..R.
    pub rel_bias: Option<&'a [T]>,
    /// Soft cap of scores (Gemma 2, arXiv:2408.00118): `c · tanh(s / c)`.
    pub softcap: Option<f32>,
    /// Dropout of probabilities.
    pub dropout: Option<Dropout>,
    /// With [`Compute::Bf16`] the inputs of all products (q, k, v, probabilities, and in the backward the
    /// gradients of outputs and scores) are rounded to bf16; sums and softmax stay f32.
    pub compute: Compute,
}

impl<T> AttnSpec<'_, T> {
    /// Scale and mask, nothing else.
    pub fn new(scale: f32, mask: Mask) -> Self {
        Self {
            scale,
            mask,
            q_start: 0,
            docs: None,
            alibi: None,
            rel_bias: None,
            softcap: None,
            dropout: None,
            compute: Compute::F32,
        }
    }
}

/// A read-only `[B, T, H, D]` inside a slice. The D channels of a head lie side by side.
#[derive(Debug, Clone, Copy)]
pub struct HeadView<'a, T = f32> {
    /// The slice.
    pub data: &'a [T],
    /// Place of element (0, 0, 0, 0).
    pub offset: usize,
    /// Elements from one row of the batch to the next.
    pub stride_b: usize,
    /// Elements from one token to the next.
    pub stride_t: usize,
    /// Elements from one head to the next.
    pub stride_h: usize,
}

/// A writable `[B, T, H, D]` inside a slice; no two of its heads may overlap.
#[derive(Debug)]
pub struct HeadViewMut<'a, T = f32> {
    /// The slice.
    pub data: &'a mut [T],
    /// Place of element (0, 0, 0, 0).
    pub offset: usize,
    /// Elements from one row of the batch to the next.
    pub stride_b: usize,
    /// Elements from one token to the next.
    pub stride_t: usize,
    /// Elements from one head to the next.
    pub stride_h: usize,
}

/// One of the three parts of a packed `[B, T, (H + 2·Hk)·D]` buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Queries, the first H·D columns.
    Q,
    /// Keys, the next Hk·D.
    K,
    /// Values, the last Hk·D.
    V,
}

impl Part {
    /// First column and width of a row.
    fn place(self, s: AttnShape) -> (usize, usize) {
        let column = match self {
            Part::Q => 0,
            Part::K => s.heads,
            Part::V => s.heads + s.kv_heads,
        };
        (column * s.d, (s.heads + 2 * s.kv_heads) * s.d)
    }
}

/// One past the last element of a view that has some, if it does not overflow.
fn end_of(sizes: [usize; 4], offset: usize, strides: [usize; 3]) -> Option<usize> {
    let mut last = offset.checked_add(sizes[3])?;
    for (n, s) in sizes.iter().zip(strides) {
        last = last.checked_add((n - 1).checked_mul(s)?)?;
    }
    Some(last)
}

impl<'a, T> HeadView<'a, T> {
    /// A whole `[B, T, H, D]` slice.
    pub fn contiguous(data: &'a [T], time: usize, heads: usize, d: usize) -> Self {
        Self { data, offset: 0, stride_b: time * heads * d, stride_t: heads * d, stride_h: d }
    }

    /// One part of a packed `[B, T, (H + 2·Hk)·D]` slice, where Tq = Tk = T.
    pub fn packed(data: &'a [T], shape: AttnShape, part: Part) -> Self {
        let (offset, row) = part.place(shape);
        Self { data, offset, stride_b: shape.t_k * row, stride_t: row, stride_h: shape.d }
    }

    /// Panics unless a `[B, T, H, D]` of these sizes lies inside the slice. One without elements always does.
    pub fn check(&self, sizes: [usize; 4]) {
        if sizes.contains(&0) {
            return;
        }
        let end = end_of(sizes, self.offset, [self.stride_b, self.stride_t, self.stride_h]);
        assert!(end.is_some_and(|e| e <= self.data.len()), "head view {sizes:?} leaves its slice");
    }

    /// The D channels of one head of one token.
    #[inline]
    fn head(&self, b: usize, t: usize, h: usize, d: usize) -> &'a [T] {
        &self.data[self.offset + b * self.stride_b + t * self.stride_t + h * self.stride_h..][..d]
    }
}

impl<'a, T> HeadViewMut<'a, T> {
    /// A whole `[B, T, H, D]` slice.
    pub fn contiguous(data: &'a mut [T], time: usize, heads: usize, d: usize) -> Self {
        Self { data, offset: 0, stride_b: time * heads * d, stride_t: heads * d, stride_h: d }
    }

    /// One part of a packed `[B, T, (H + 2·Hk)·D]` slice, where Tq = Tk = T.
    pub fn packed(data: &'a mut [T], shape: AttnShape, part: Part) -> Self {
        let (offset, row) = part.place(shape);
        Self { data, offset, stride_b: shape.t_k * row, stride_t: row, stride_h: shape.d }
    }

    /// Panics unless a `[B, T, H, D]` of these sizes lies inside the slice with no element in it twice. One without elements
    /// always does.
    pub fn check(&self, sizes: [usize; 4]) {
        if sizes.contains(&0) {
            return;
        }
        let strides = [self.stride_b, self.stride_t, self.stride_h];
        let end = end_of(sizes, self.offset, strides);
        assert!(end.is_some_and(|e| e <= self.data.len()), "head view {sizes:?} leaves its slice");
        let mut axes: Vec<(usize, usize)> = strides.into_iter().zip(sizes).filter(|&(_, n)| n > 1).collect();
        axes.sort_unstable();
        let mut inner = sizes[3];
        for (stride, n) in axes {
            assert!(stride >= inner, "heads of a writable view overlap");
            inner += stride * (n - 1);
        }
    }

    /// The D channels of one head of one token.
    #[inline]
    fn head(&mut self, b: usize, t: usize, h: usize, d: usize) -> &mut [T] {
        &mut self.data[self.offset + b * self.stride_b + t * self.stride_t + h * self.stride_h..][..d]
    }

    /// The same view for a shorter time.
    fn reborrow(&mut self) -> HeadViewMut<'_, T> {
        HeadViewMut { data: self.data, ..*self }
    }
}

/// Where the gradients of queries, keys and values go. They are written, not added.
#[derive(Debug)]
pub enum QkvGrads<'a, T = f32> {
    /// Into one packed `[B, T, (H + 2·Hk)·D]` buffer, with Tq = Tk = T.
    Packed {
        /// The whole buffer.
        data: &'a mut [T],
    },
    /// Into three views.
    Split {
        /// `[B, Tq, H, D]`
        dq: HeadViewMut<'a, T>,
        /// `[B, Tk, Hk, D]`
        dk: HeadViewMut<'a, T>,
        /// `[B, Tk, Hk, D]`
        dv: HeadViewMut<'a, T>,
    },
}

impl<T> QkvGrads<'_, T> {
    /// One of the three gradients.
    fn part(&mut self, shape: AttnShape, part: Part) -> HeadViewMut<'_, T> {
        match self {
            QkvGrads::Packed { data } => HeadViewMut::packed(data, shape, part),
            QkvGrads::Split { dq, dk, dv } => match part {
                Part::Q => dq.reborrow(),
                Part::K => dk.reborrow(),
                Part::V => dv.reborrow(),
            },
        }
    }
}

/// Whether the product of sizes can be counted, also of parts of them where others are 0.
fn countable(sizes: &[usize]) -> bool {
    sizes.iter().try_fold(1usize, |product, &n| product.checked_mul(n.max(1))).is_some()
}

/// Panics with the name of what does not fit.
fn check_spec<T>(s: AttnShape, spec: &AttnSpec<'_, T>) {
    assert!(s.d > 0, "attention: heads of no channels");
    assert!(
        s.kv_heads > 0 && s.heads.is_multiple_of(s.kv_heads),
        "attention: {} heads over {} kv heads",
        s.heads,
        s.kv_heads
    );
    assert!(spec.q_start.checked_add(s.t_q.max(s.t_k)).is_some_and(|p| p < 1 << 31), "attention: positions beyond 2³¹");
    // A view with strides of 0 fits its slice whatever the sizes; all that is computed from them, the lengths of outputs too,
    // relies on these products.
    let table = s.t_q.saturating_add(s.t_k).saturating_add(product::TILE);
    assert!(
        countable(&[s.batch, s.t_q, s.heads, s.d.max(2)])
            && countable(&[s.batch, s.t_k, s.kv_heads, s.d])
            && countable(&[s.heads, table]),
        "attention: sizes beyond what can be counted: {s:?}"
    );
    if let Some(docs) = spec.docs {
        assert_eq!(docs.len(), s.batch * s.t_k, "attention: documents are [B, Tk]");
        assert!(spec.q_start + s.t_q <= s.t_k, "attention: documents need each query's position among the keys");
    }
    if let Some(slopes) = spec.alibi {
        assert_eq!(slopes.len(), s.heads, "attention: one ALiBi slope for each head");
    }
    if let Some(bias) = spec.rel_bias {
        assert!(
            s.heads == 0 || (!bias.is_empty() && bias.len().is_multiple_of(s.heads)),
            "attention: relative bias is [H, R] with R ≥ 1"
        );
    }
    if let Some(cap) = spec.softcap {
        assert!(cap > 0.0, "attention: soft cap must be positive");
    }
    if let Some(d) = spec.dropout {
        assert!((0.0..1.0).contains(&d.p), "attention: dropout must be in [0, 1)");
        assert!(s.batch * s.heads < 1 << 31, "attention: too many heads for dropout");
    }
}

fn check_forward<T>(s: AttnShape, spec: &AttnSpec<'_, T>, [q, k, v]: [&HeadView<'_, T>; 3], out: usize, stats: usize) {
    check_spec(s, spec);
    q.check([s.batch, s.t_q, s.heads, s.d]);
    k.check([s.batch, s.t_k, s.kv_heads, s.d]);
    v.check([s.batch, s.t_k, s.kv_heads, s.d]);
    assert_eq!(out, s.out_len(), "attention: output is [B, Tq, H, D]");
    assert_eq!(stats, s.stats_len(), "attention: statistics are [B, H, Tq, 2]");
}

fn check_grads<T>(s: AttnShape, grads: &QkvGrads<'_, T>) {
    match grads {
        QkvGrads::Packed { data } => {
            assert_eq!(s.t_q, s.t_k, "attention: packed gradients need as many queries as keys");
            let row = s.kv_heads.checked_mul(2).and_then(|kv| kv.checked_add(s.heads)?.checked_mul(s.d));
            let len = row.and_then(|row| s.batch.checked_mul(s.t_q)?.checked_mul(row));
            assert_eq!(Some(data.len()), len, "attention: packed gradients are [B, T, (H + 2 Hk) D]");
        }
        QkvGrads::Split { dq, dk, dv } => {
            dq.check([s.batch, s.t_q, s.heads, s.d]);
            dk.check([s.batch, s.t_k, s.kv_heads, s.d]);
            dv.check([s.batch, s.t_k, s.kv_heads, s.d]);
        }
    }
}

/// The half-open range of key positions that the mask leaves to the query at position `pos`.
#[inline]
fn visible(mask: Mask, pos: usize, t_k: usize) -> (usize, usize) {
    match mask {
        Mask::Full => (0, t_k),
        Mask::Causal => (0, t_k.min(pos + 1)),
        Mask::Window(n) => ((pos + 1).saturating_sub(n).min(t_k), t_k.min(pos + 1)),
    }
}

/// The entry of a row of R relative biases for query position `i` and key position `j`.
#[inline]
fn bias_entry(mask: Mask, r: usize, i: usize, j: usize) -> usize {
    match mask {
        Mask::Full => (i as isize - j as isize + (r / 2) as isize).clamp(0, r as isize - 1) as usize,
        _ => i.saturating_sub(j).min(r - 1),
    }
}

/// Attention: `out[B, Tq, H, D]`, and of each row of scores what the backward needs, `stats[B, H, Tq, 2]`: the largest score m in
/// units of ln 2, and 1 / Σ 2^(s − m) over the row's scores s in those units.
///
/// A query that sees no key gives zeros, and −∞ and 0 as its statistics. The bits do not depend on the number
/// of threads, nor on how queries are divided among calls (with `q_start` set).
///
/// # Errors
/// There is no memory for [`forward_scratch`]; outputs are then unspecified.
///
/// # Panics
/// When a view leaves its slice or a size does not fit the shape.
pub fn forward(
    shape: AttnShape,
    spec: &AttnSpec<'_>,
    q: HeadView<'_>,
    k: HeadView<'_>,
    v: HeadView<'_>,
    out: &mut [f32],
    stats: &mut [f32],
) -> Result<(), OutOfMemory> {
    forward::forward_on(cpu::path(), shape, spec, q, k, v, out, stats)
}

/// [`forward`] of several sequences whose rows lie one after another: `shape` is that of one row of a batch with all of their
/// tokens, Tq = Tk = ΣT, and each token sees those of its own sequence that the mask leaves, at positions counted from the
/// sequence's first. `out[ΣT, H, D]`, `stats[H, ΣT, 2]`.
///
/// Unlike documents ([`AttnSpec::docs`]), which are cut into tiles together, a sequence here has the same bits whatever lies
/// before and behind it: those that [`forward`] gives it alone.
///
/// ```
/// use gently_kernels::attention::{AttnShape, AttnSpec, HeadView, Mask, forward_each};
/// let shape = AttnShape { batch: 1, t_q: 3, t_k: 3, heads: 1, kv_heads: 1, d: 1 };
/// let (q, k, v) = ([0.0; 3], [1.0, 2.0, 3.0], [10.0, 20.0, 50.0]);
/// let view = |x| HeadView::contiguous(x, 3, 1, 1);
/// let (mut out, mut stats) = ([0.0; 3], [0.0; 6]);
/// let spec = AttnSpec::new(1.0, Mask::Full);
/// forward_each(shape, &[2, 1], &spec, view(&q), view(&k), view(&v), &mut out, &mut stats);
/// assert_eq!(out, [15.0, 15.0, 50.0]);
/// ```
///
/// # Errors
/// As [`forward`]; the scratch is that of the longest sequence.
///
/// # Panics
/// As [`forward`], and when lengths do not add up to Tq, or documents, a start of queries or dropout are given.
#[allow(clippy::too_many_arguments)]
pub fn forward_each(
    shape: AttnShape,
    lengths: &[usize],
    spec: &AttnSpec<'_>,
    q: HeadView<'_>,
    k: HeadView<'_>,
    v: HeadView<'_>,
    out: &mut [f32],
    stats: &mut [f32],
) -> Result<(), OutOfMemory> {
    forward::forward_each_on(cpu::path(), shape, lengths, spec, q, k, v, out, stats)
}

/// What [`forward`] takes beside its operands.
pub fn forward_scratch(shape: AttnShape, spec: &AttnSpec<'_>) -> Scratch {
    forward::scratch(shape, spec)
}

/// What [`backward`] takes beside its operands; `bins` are R where the relative bias has a gradient, else 0.
pub fn backward_scratch(shape: AttnShape, spec: &AttnSpec<'_>, bins: usize) -> Scratch {
    backward::scratch(shape, spec, bins)
}

/// Gradients of queries, keys and values from `dout[B, Tq, H, D]`, given `out` and `stats` of [`forward`].
///
/// The gradient of the relative bias, `[H, R]`, is added to `d_rel_bias` where that is given.
///
/// # Errors
/// There is no memory for [`backward_scratch`]; gradients are then unspecified.
///
/// # Panics
/// As [`forward`], and when `d_rel_bias` has another length than the bias.
#[allow(clippy::too_many_arguments)]
pub fn backward(
    shape: AttnShape,
    spec: &AttnSpec<'_>,
    q: HeadView<'_>,
    k: HeadView<'_>,
    v: HeadView<'_>,
    out: &[f32],
    stats: &[f32],
    dout: &[f32],
    grads: QkvGrads<'_>,
    d_rel_bias: Option<&mut [f32]>,
) -> Result<(), OutOfMemory> {
    backward::backward_on(cpu::path(), shape, spec, q, k, v, out, stats, dout, grads, d_rel_bias)
}
