//! Which queries meet which pages, and who computes them.
//!
//! Here: the cut of attention over cached sequences into tasks. Few queries (decoding, verifying a draft) are cut by
//! key head and by chunks of the sequence, joined in a second phase; many (a prompt) by key head and blocks of
//! queries, each of which goes over all chunks. Not here: the arithmetic (see [`super::tile`]).

use super::tile::{self, Head, MOST, Query, Score, WIDEST};
use super::{Data, PAGE, Page, PageShape};
use crate::buffer::{AlignedBuf, OutOfMemory};
use crate::cast::Stored;
use crate::cpu::{self, Path};
use crate::pool::{self, Disjoint};
use crate::simd::{Kernel, Simd, dispatch};
use crate::thread_buffer::{self, Slot};
use std::sync::Arc;

/// Pages whose results are joined before they meet those of other pages. It is the same for every cut of the work.
const CHUNK: usize = 4;
/// Rows (queries times heads of a group) that are cut by chunks of the sequence.
const FEW: usize = 24;
/// Rows of a block of many queries.
const BLOCK: usize = 96;

/// How attention scores queries and keys.
#[derive(Debug, Clone, Copy)]
pub struct Spec<'a> {
    /// H, query heads; a multiple of the page's key heads.
    pub heads: usize,
    /// Factor of q·k, commonly 1/√D.
    pub scale: f32,
    /// A token sees itself and the `window - 1` tokens before it.
    pub window: Option<usize>,
    /// Slope of each head, `[H]` (Press et al., arXiv:2108.12409): scores fall by slope times distance.
    pub alibi: Option<&'a [f32]>,
    /// `c·tanh(score / c)` (Gemma 2, arXiv:2408.00118).
    pub softcap: Option<f32>,
}

/// New tokens of one sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// Row of the first in queries and outputs.
    pub first_row: usize,
    /// How many.
    pub rows: usize,
    /// Position of the first in its sequence.
    pub start: usize,
}

/// Some queries of one key head, against some chunks of their sequence.
#[derive(Debug, Clone, Copy)]
struct Task {
    span: usize,
    kv_head: usize,
    /// Tokens of the span.
    t: (usize, usize),
    /// Chunks of the sequence.
    chunks: (usize, usize),
    /// Where its parts go, in rows of `dp + 2`; `None` for a task that sees all its chunks.
    part: Option<usize>,
}

/// A cut of attention for a given set of spans: made once for a pass, run for each layer.
#[derive(Debug)]
pub struct Attend<'a> {
    spec: Spec<'a>,
    shape: PageShape,
    spans: Vec<Span>,
    tasks: Vec<Task>,
    /// Tasks cut by chunks, whose parts are joined; their `part` is that of the first chunk.
    joins: Vec<Task>,
    /// `[rows of parts, dp + 2]`
    parts: AlignedBuf<f32>,
}

impl<'a> Attend<'a> {
    /// Cuts the work of `spans`, where there is memory for its parts: a caller that can be asked for any spans takes
    /// [`Attend::try_new`].
    ///
    /// # Panics
    /// As [`Attend::try_new`], and when there is no memory for the parts.
    pub fn new(spec: Spec<'a>, shape: PageShape, spans: &[Span]) -> Self {
        Self::try_new(spec, shape, spans).unwrap_or_else(|e| panic!("{e}"))
    }

    /// Cuts the work of `spans`.
    ///
    /// # Errors
    /// The system has no memory for the parts, of which there are the more the longer the sequences.
    ///
    /// # Panics
    /// When heads do not divide, slopes are not one for each head, a soft cap is not positive, or the end of a span cannot be
    /// counted.
    pub fn try_new(spec: Spec<'a>, shape: PageShape, spans: &[Span]) -> Result<Self, OutOfMemory> {
        assert!(
            shape.d > 0 && shape.kv_heads > 0 && spec.heads.is_multiple_of(shape.kv_heads) && spec.heads > 0,
            "attend: {} heads over {} key heads of {} channels",
            spec.heads,
            shape.kv_heads,
            shape.d
        );
        assert!(spec.alibi.is_none_or(|a| a.len() == spec.heads), "attend: one slope for each head");
        assert!(spec.softcap.is_none_or(|c| c > 0.0), "attend: soft cap must be positive");
        for s in spans {
            let counted = s.first_row.checked_add(s.rows).is_some() && s.start.checked_add(s.rows).is_some();
            assert!(counted, "attend: {s:?} ends beyond what can be counted");
        }
        let group = spec.heads / shape.kv_heads;
        let (mut tasks, mut joins, mut parts) = (Vec::new(), Vec::new(), 0);
        let tokens = (BLOCK / group).max(1);
        for (span, s) in spans.iter().enumerate().filter(|(_, s)| s.rows > 0) {
            let blocks = s.rows.div_ceil(tokens);
            // A key head's blocks follow each other, so that its pages stay in the second cache from one to the next. The last
            // blocks see the most keys: they go first.
            for (kv_head, block) in (0..shape.kv_heads).flat_map(|head| (0..blocks).rev().map(move |b| (head, b))) {
                let t = (block * tokens, s.rows.min((block + 1) * tokens));
                let seen_from = spec.window.map_or(0, |w| (s.start + t.0 + 1).saturating_sub(w));
                let chunks = (seen_from / (CHUNK * PAGE), (s.start + t.1).div_ceil(CHUNK * PAGE));
                let rows = (t.1 - t.0) * group;
                let whole = Task { span, kv_head, t, chunks, part: None };
                if rows > FEW || chunks.1 - chunks.0 == 1 {
                    tasks.push(whole);
                    continue;
                }
                joins.push(Task { part: Some(parts), ..whole });
                for chunk in chunks.0..chunks.1 {
                    tasks.push(Task { chunks: (chunk, chunk + 1), part: Some(parts), ..whole });
                    parts += rows;
                }
            }
        }
        let parts = AlignedBuf::try_zeroed(parts * (shape.padded() + 2))?;
        Ok(Self { spec, shape, spans: spans.to_vec(), tasks, joins, parts })
    }

    /// Attention of one layer: queries `[N, H, D]` in rows `q_stride` apart, `out` `[N, H·D]`. `pages` are those of
    /// each span's sequence, with the keys and values of the new tokens already written.
    ///
    /// # Panics
    /// When pages are missing or of another shape, or rows lie outside the slices.
    pub fn run(&mut self, layer: usize, pages: &[&[Arc<Page>]], q: &[f32], q_stride: usize, out: &mut [f32]) {
        self.run_on(cpu::path(), layer, pages, q, q_stride, out);
    }

    pub(super) fn run_on(
        &mut self,
        path: Path,
        layer: usize,
        pages: &[&[Arc<Page>]],
        q: &[f32],
        q_stride: usize,
        out: &mut [f32],
    ) {
        let (shape, width) = (self.shape, self.spec.heads.checked_mul(self.shape.d));
        assert!(layer < shape.layers && pages.len() == self.spans.len(), "attend: layer {layer}");
        for (span, pages) in self.spans.iter().zip(pages) {
            let need = (span.start + span.rows).div_ceil(PAGE);
            assert!(pages.len() >= need, "attend: {} pages of {need}", pages.len());
            assert!(pages.iter().all(|p| p.shape() == shape), "attend: a page of another shape");
            let end = span.first_row + span.rows;
            let ends = || Some((end.checked_mul(width?)?, (end - 1).checked_mul(q_stride)?.checked_add(width?)?));
            let fits = || ends().is_some_and(|(o, i)| o <= out.len() && i <= q.len());
            assert!(span.rows == 0 || fits(), "attend: rows to {end} leave their slices");
        }
        assert!(disjoint(&self.spans), "attend: spans overlap");
        let (out, parts) = (Disjoint::new(out), Disjoint::new(&mut self.parts));
        let cx =
            Cx { spec: &self.spec, shape, spans: &self.spans, layer, pages, q, q_stride, out: &out, parts: &parts };
        // Scratch is taken here: a closure inside a kernel would be compiled without the path's instructions.
        pool::parallel_phases(&[self.tasks.len(), self.joins.len()], |phase, i| match phase {
            0 => {
                let task = self.tasks[i];
                thread_buffer::with(Slot::Task, cx.rows(task) * words_of_row(shape), |words| {
                    dispatch(path, Run { cx: &cx, task, words: bytemuck::cast_slice_mut(words) });
                });
            }
            _ => thread_buffer::with(Slot::Task, shape.padded(), |words| {
                dispatch(path, Join { cx: &cx, task: self.joins[i], sum: bytemuck::cast_slice_mut(words) });
            }),
        });
    }
}

/// Whether no row belongs to two spans, whose ends can be counted ([`Attend::new`] has looked).
fn disjoint(spans: &[Span]) -> bool {
    let in_order = spans.windows(2).all(|w| w[0].first_row + w[0].rows <= w[1].first_row);
    in_order || {
        let mut sorted: Vec<_> = spans.iter().filter(|s| s.rows > 0).map(|s| (s.first_row, s.rows)).collect();
        sorted.sort_unstable();
        sorted.windows(2).all(|w| w[0].0 + w[0].1 <= w[1].0)
    }
}

/// What the tasks share.
struct Cx<'a> {
    spec: &'a Spec<'a>,
    shape: PageShape,
    spans: &'a [Span],
    layer: usize,
    pages: &'a [&'a [Arc<Page>]],
    q: &'a [f32],
    q_stride: usize,
    out: &'a Disjoint<'a, f32>,
    parts: &'a Disjoint<'a, f32>,
}

impl Cx<'_> {
    fn group(&self) -> usize {
        self.spec.heads / self.shape.kv_heads
    }

    /// Rows of a task: its tokens, each with the queries of a key head.
    fn rows(&self, task: Task) -> usize {
        (task.t.1 - task.t.0) * self.group()
    }

    /// The place of a row's output.
    ///
    /// # Safety
    /// Each row of each task is asked for by one task at a time.
    #[allow(clippy::mut_from_ref)]
    unsafe fn out(&self, task: Task, row: usize) -> &mut [f32] {
        let (group, d) = (self.group(), self.shape.d);
        let n = self.spans[task.span].first_row + task.t.0 + row / group;
        // SAFETY: rows of spans do not overlap (checked), and heads are disjoint.
        unsafe { self.out.part((n * self.spec.heads + task.kv_head * group + row % group) * d, d) }
    }
}

/// Runs a task.
struct Run<'a> {
    cx: &'a Cx<'a>,
    task: Task,
    /// Scratch: sums `[rows, dp]` of a chunk, then of all; of a chunk the sums of weights `[rows, WIDEST]` and the largest scores
    /// `[rows]`; norms `[rows, 2]` of all.
    words: &'a mut [f32],
}

/// Scratch of a task for each of its rows.
fn words_of_row(shape: PageShape) -> usize {
    2 * shape.padded() + WIDEST + 3
}

impl Kernel for Run<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        match self.cx.shape.elem {
            super::Elem::F32 => self.typed::<S, f32>(s),
            super::Elem::F16 => self.typed::<S, half::f16>(s),
            super::Elem::I8 => self.typed::<S, i8>(s),
        }
    }
}

/// The numbers of a page and its scales, by type.
trait OfPage: Stored {
    fn of(page: &Page) -> (&[Self], &[f32]);
}

macro_rules! of_page {
    ($T:ty, $pattern:pat => $values:expr, $scales:expr) => {
        impl OfPage for $T {
            #[inline(always)]
            fn of(page: &Page) -> (&[Self], &[f32]) {
                match page.data() {
                    $pattern => ($values, $scales),
                    _ => unreachable!("pages of the shape that was checked"),
                }
            }
        }
    };
}
of_page!(f32, Data::F32(d) => d, &[]);
of_page!(half::f16, Data::F16(d) => d, &[]);
of_page!(i8, Data::I8(d, scales) => d, scales);

/// Queries of a tile, so that their scores with four vectors of keys (two, where they are the most) fit into registers. The
/// more queries, the fewer times a key is loaded and widened.
#[inline(always)]
fn heights<S: Simd>() -> [usize; 4] {
    if S::REGISTERS >= 32 { [12, 6, 3, 1] } else { [6, 3, 2, 1] }
}

impl Run<'_> {
    #[inline(always)]
    fn typed<S: Simd, T: OfPage>(self, s: S) {
        let Run { cx, task, words } = self;
        let (d, dp, group) = (cx.shape.d, cx.shape.padded(), cx.group());
        let span = cx.spans[task.span];
        let rows = cx.rows(task);
        let score = Score::new(cx.spec, cx.shape.elem == super::Elem::I8);
        let (sums, rest) = words.split_at_mut(rows * dp);
        let (all, rest) = rest.split_at_mut(rows * dp);
        let (totals, rest) = rest.split_at_mut(rows * WIDEST);
        let (mosts, all_norms) = rest.split_at_mut(rows);
        let all_norms: &mut [[f32; 2]] = bytemuck::cast_slice_mut(all_norms);
        all.fill(0.0);
        all_norms.fill([f32::NEG_INFINITY, 0.0]);
        let (sums, totals, mosts) = (sums.as_mut_ptr(), totals.as_mut_ptr(), mosts.as_mut_ptr());
        let queries: Vec<Query> = (task.t.0..task.t.1)
            .flat_map(|t| (0..group).map(move |g| (t, task.kv_head * group + g)))
            .enumerate()
            .map(|(r, (t, h))| Query {
                q: cx.q[(span.first_row + t) * cx.q_stride + h * d..][..d].as_ptr(),
                position: span.start + t,
                slope: cx.spec.alibi.map_or(0.0, |a| a[h]),
                sum: sums.wrapping_add(r * dp),
                most: mosts.wrapping_add(r),
                totals: totals.wrapping_add(r * WIDEST),
            })
            .collect();
        let mut weights = [[0.0; PAGE]; MOST];
        let pages = (span.start + task.t.1).div_ceil(PAGE).min(task.chunks.1 * CHUNK);
        for chunk in task.chunks.0..task.chunks.1 {
            // SAFETY: the slices that these pointers are of; nobody else has them.
            unsafe {
                std::slice::from_raw_parts_mut(sums, rows * dp).fill(0.0);
                std::slice::from_raw_parts_mut(totals, rows * WIDEST).fill(0.0);
                std::slice::from_raw_parts_mut(mosts, rows).fill(f32::NEG_INFINITY);
            }
            let last = pages.min((chunk + 1) * CHUNK);
            for page in chunk * CHUNK..last {
                let (data, scales) = T::of(&cx.pages[task.span][page]);
                let at = cx.layer * cx.shape.kv_heads + task.kv_head;
                let head = &data[at * cx.shape.head()..][..cx.shape.head()];
                let head = Head {
                    keys: head.as_ptr(),
                    values: head[d * PAGE..].as_ptr(),
                    scales: scales.get(at * 2 * PAGE..).map_or(std::ptr::null(), <[f32]>::as_ptr),
                    first: page * PAGE,
                };
                let head = if scales.is_empty() { Head { scales: std::ptr::null(), ..head } } else { head };
                // The head's next page comes meanwhile, a part with each tile of many: it may be far away. Few rows read on and on.
                let next = match rows > FEW && page + 1 < pages {
                    true => &T::of(&cx.pages[task.span][page + 1]).0[at * cx.shape.head()..][..cx.shape.head()],
                    false => &[],
                };
                let mut r = 0;
                while r < rows {
                    let m = heights::<S>().into_iter().find(|m| *m <= rows - r).unwrap_or(1);
                    for line in next[r * next.len() / rows..(r + m) * next.len() / rows].chunks(64 / size_of::<T>()) {
                        s.prefetch_far(line.as_ptr().cast());
                    }
                    let queries = &queries[r..r + m];
                    // SAFETY: heads of pages hold D·PAGE keys and PAGE·dp values; sums and norms are rows of this
                    // task's scratch, each in one query; positions are below the tokens written (checked).
                    unsafe {
                        // Conditions on constants: heights that a set of registers does not have are not compiled.
                        if S::REGISTERS >= 32 {
                            match m {
                                12 => tile::page::<S, T, 12, 2>(s, score, &head, queries, &mut weights, d, dp),
                                6 => tile::page::<S, T, 6, 4>(s, score, &head, queries, &mut weights, d, dp),
                                3 => tile::page::<S, T, 3, 4>(s, score, &head, queries, &mut weights, d, dp),
                                _ => tile::page::<S, T, 1, 4>(s, score, &head, queries, &mut weights, d, dp),
                            }
                        } else {
                            match m {
                                6 => tile::page::<S, T, 6, 2>(s, score, &head, queries, &mut weights, d, dp),
                                3 => tile::page::<S, T, 3, 4>(s, score, &head, queries, &mut weights, d, dp),
                                2 => tile::page::<S, T, 2, 4>(s, score, &head, queries, &mut weights, d, dp),
                                _ => tile::page::<S, T, 1, 4>(s, score, &head, queries, &mut weights, d, dp),
                            }
                        }
                    }
                    r += m;
                }
            }
            for r in 0..rows {
                // SAFETY: row r of each of the slices.
                let (sum, norm) = unsafe {
                    let sum = std::slice::from_raw_parts(sums.add(r * dp), dp);
                    (sum, [*mosts.add(r) * score.by(), s.sum(s.load_ptr(totals.add(r * WIDEST)))])
                };
                match task.part {
                    Some(part) => {
                        // SAFETY: a row of parts belongs to one task.
                        let part = unsafe { cx.parts.part((part + r) * (dp + 2), dp + 2) };
                        part[..dp].copy_from_slice(sum);
                        part[dp..].copy_from_slice(&norm);
                    }
                    None => {
                        let all = all[r * dp..][..dp].as_mut_ptr();
                        // SAFETY: both have dp numbers and lie apart.
                        unsafe { tile::join(s, all, &mut all_norms[r], sum.as_ptr(), norm, dp) }
                    }
                }
            }
        }
        if task.part.is_none() {
            for r in 0..rows {
                // SAFETY: this task alone has these rows and heads.
                close(unsafe { cx.out(task, r) }, &all[r * dp..], all_norms[r]);
            }
        }
    }
}

/// The weighted mean.
fn close(out: &mut [f32], sum: &[f32], norm: [f32; 2]) {
    for (o, v) in out.iter_mut().zip(sum) {
        *o = v / norm[1];
    }
}

/// Joins the parts of a task that was cut by chunks.
struct Join<'a> {
    cx: &'a Cx<'a>,
    task: Task,
    /// Scratch, `[dp]`.
    sum: &'a mut [f32],
}

impl Kernel for Join<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Join { cx, task, sum } = self;
        let dp = cx.shape.padded();
        let rows = cx.rows(task);
        let first = task.part.unwrap_or(0);
        for r in 0..rows {
            sum.fill(0.0);
            let mut norm = [f32::NEG_INFINITY, 0.0];
            for chunk in 0..task.chunks.1 - task.chunks.0 {
                // SAFETY: the first phase has written it, and nobody writes now.
                let part = unsafe { cx.parts.part((first + chunk * rows + r) * (dp + 2), dp + 2) };
                let chunk_norm = [part[dp], part[dp + 1]];
                // SAFETY: both have dp numbers and lie apart.
                unsafe { tile::join(s, sum.as_mut_ptr(), &mut norm, part.as_ptr(), chunk_norm, dp) }
            }
            // SAFETY: this task alone has these rows and heads.
            close(unsafe { cx.out(task, r) }, sum, norm);
        }
    }
}
