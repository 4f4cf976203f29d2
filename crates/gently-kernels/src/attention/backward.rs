//! The blockwise backward.
//!
//! Here: the order of work. One task has a run of keys of one (batch, key head), with all the query heads
//! that read it, so that each gradient has one writer. Keys go by in strips of 256: a strip and its
//! gradients stay in cache while the blocks of queries pass. Per tile, from the largest score M and the sum Z of
//! the forward and δ = Σ out · dout of each row (Dao et al., arXiv:2205.14135, algorithm 4):
//!
//! ```text
//! P = exp(S − M) / Z   dV += Pᵀ dO   dP = dO Vᵀ   dS = P ∘ (dP − δ)   dK += dSᵀ Q   dQ += dS K
//! ```
//!
//! Where there are few (batch, key head) pairs, their keys are cut into several tasks; each has its own
//! partial dQ, and the partial sums are added in order. Not here: the arithmetic (see `product`, `rows`).

use super::panel::{Parts, Raw, Transpose, Width, load_row, store_row, with_scratch};
use super::plan::{Block, Plan, TileMask};
use super::product::{Product, TILE};
use super::rows::{Gradients, ScoreTile, Scores};
use super::vector::{Job, Vector, dispatch};
use super::{AttnShape, AttnSpec, HeadView, HeadViewMut, Part, QkvGrads, check_forward, check_grads};
use crate::buffer::OutOfMemory;
use crate::cpu::Path;
use crate::pool;
use crate::scratch::{Refusal, Scratch};
use crate::simd::prefetch;
use crate::thread_buffer::{self, Slot};

/// Tiles of a strip of keys.
const STRIP: usize = 4;
/// Fewer (batch, key head) pairs than this are cut further; a function of shape alone.
const TASKS: usize = 8;

/// [`backward`](super::backward) on one path.
#[allow(clippy::too_many_arguments)]
pub(super) fn backward_on(
    path: Path,
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
    check_forward(shape, spec, [&q, &k, &v], out.len(), stats.len());
    assert_eq!(dout.len(), out.len(), "attention: gradient of the output is [B, Tq, H, D]");
    check_grads(shape, &grads);
    if let Some(d) = &d_rel_bias {
        assert_eq!(Some(d.len()), spec.rel_bias.map(<[_]>::len), "attention: gradient of the relative bias is [H, R]");
    }
    let groups = shape.batch * shape.kv_heads;
    if groups * shape.d == 0 || shape.t_q.max(shape.t_k) == 0 {
        return Ok(());
    }
    let plan = Plan::new(shape, spec);
    let cut = Cut::new(shape);
    let bins = spec.rel_bias.filter(|_| d_rel_bias.is_some()).map_or(0, |b| b.len() / shape.heads.max(1));
    let partial = partial_len(shape, cut.splits);
    let words = partial.saturating_add(bias_len(shape, cut.splits, bins));
    thread_buffer::try_with(Slot::Call, words, |words| {
        let (partial, bias) = bytemuck::cast_slice_mut::<u32, f32>(words).split_at_mut(partial);
        run(path, &plan, cut, [q, k, v], [out, dout], stats, grads, d_rel_bias, partial, bias)
    })?
}

/// The call with the parts of gradients that tasks add up: those of queries, `[splits, B, Tq, H, D]`, if there are several
/// splits, and those of the relative bias, `[splits, B, H, R]`, if it has a gradient.
#[allow(clippy::too_many_arguments)]
fn run(
    path: Path,
    plan: &Plan<'_>,
    Cut { strips, splits, each }: Cut,
    [q, k, v]: [HeadView<'_>; 3],
    [out, dout]: [&[f32]; 2],
    stats: &[f32],
    mut grads: QkvGrads<'_>,
    d_rel_bias: Option<&mut [f32]>,
    partial: &mut [f32],
    bias: &mut [f32],
) -> Result<(), OutOfMemory> {
    let shape = plan.shape;
    let groups = shape.batch * shape.kv_heads;
    let bins = bias.len() / (splits * shape.batch * shape.heads).max(1);
    let refusal = Refusal::default();
    // Tasks add to these, and write all of the others.
    bias.fill(0.0);
    let [dq, dk, dv] = open(&mut grads, shape);
    let view = |data| Raw::new(&HeadView::contiguous(data, shape.t_q, shape.heads, shape.d));
    let io = Io {
        q: Raw::new(&q),
        k: Raw::new(&k),
        v: Raw::new(&v),
        out: view(out),
        dout: view(dout),
        stats: stats.as_ptr(),
        dq: match splits {
            1 => dq,
            // A further split is one more row of the batch.
            _ => Raw::new_mut(&mut HeadViewMut::contiguous(partial, shape.t_q, shape.heads, shape.d)),
        },
        dk,
        dv,
        bias: bias.as_mut_ptr(),
        bins,
    };
    let sizes = Sizes::new(plan, bins > 0);
    pool::parallel(groups * splits, |task| {
        let split = task / groups;
        let (b, kv_head) = (task % groups / shape.kv_heads, task % groups % shape.kv_heads);
        let strips = (split * each, strips.min((split + 1) * each));
        refusal.note(with_scratch(sizes.total, |parts| {
            // SAFETY: the views were checked. A key belongs to one task, which writes its gradients; a query
            // head belongs to one task, or to one for each split with its own part of `partial`.
            unsafe { dispatch(path, Task { plan, io: &io, b, kv_head, split, strips, sizes, parts }) }
        }));
    });
    refusal.into_result()?;
    if splits > 1 {
        add_partial(shape, partial, splits, grads.part(shape, Part::Q));
    }
    if let Some(d) = d_rel_bias {
        // In order of split and batch: bits do not depend on who made the parts.
        // Without heads there are no parts, and none of them has a size.
        for part in bias.chunks_exact((shape.heads * bins).max(1)) {
            for (d, x) in d.iter_mut().zip(part) {
                *d += x;
            }
        }
    }
    Ok(())
}

/// The gradients of queries, keys and values. Those of a packed buffer come from one pointer into it: to borrow the whole again
/// for the next would end what the one before may write.
fn open(grads: &mut QkvGrads<'_>, shape: AttnShape) -> [Raw<*mut f32>; 3] {
    match grads {
        QkvGrads::Packed { data } => {
            let first = Raw::new_mut(&mut HeadViewMut::packed(data, shape, Part::Q));
            [Part::Q, Part::K, Part::V].map(|part| first.shifted(part.place(shape).0))
        }
        QkvGrads::Split { dq, dk, dv } => [Raw::new_mut(dq), Raw::new_mut(dk), Raw::new_mut(dv)],
    }
}

/// How the keys of a (batch, key head) are divided among tasks.
struct Cut {
    /// Strips of tiles.
    strips: usize,
    /// Tasks.
    splits: usize,
    /// Strips of a task.
    each: usize,
}

impl Cut {
    fn new(shape: AttnShape) -> Self {
        let strips = shape.t_k.div_ceil(STRIP * TILE).max(1);
        let splits = TASKS.div_ceil(shape.batch * shape.kv_heads).min(strips);
        let each = strips.div_ceil(splits);
        Self { strips, splits: strips.div_ceil(each), each }
    }
}

/// Floats of the parts that several tasks give to a query's gradient.
fn partial_len(shape: AttnShape, splits: usize) -> usize {
    if splits > 1 { splits.saturating_mul(shape.out_len()) } else { 0 }
}

/// Floats of the parts that tasks give to the gradient of the relative bias, `[splits, B, H, R]`. Too many to be counted are
/// more than there is memory for.
fn bias_len(shape: AttnShape, splits: usize, bins: usize) -> usize {
    splits.saturating_mul(shape.batch).saturating_mul(shape.heads).saturating_mul(bins)
}

/// What [`backward_on`] takes beside its operands; `bins` are R where the relative bias has a gradient, else 0.
pub(super) fn scratch(shape: AttnShape, spec: &AttnSpec<'_>, bins: usize) -> Scratch {
    if shape.batch * shape.kv_heads * shape.d == 0 || shape.t_q.max(shape.t_k) == 0 {
        return Scratch::default();
    }
    let splits = Cut::new(shape).splits;
    let call = partial_len(shape, splits).saturating_add(bias_len(shape, splits, bins));
    let floats = Sizes::new(&Plan::new(shape, spec), bins > 0).total;
    Scratch { attention: floats * size_of::<f32>(), call: call.saturating_mul(size_of::<f32>()), ..Scratch::default() }
}

/// Adds the partial gradients of queries in order of splits.
fn add_partial(shape: AttnShape, partial: &[f32], splits: usize, mut dq: HeadViewMut<'_>) {
    let AttnShape { t_q, heads, d, .. } = shape;
    let to = Raw::new_mut(&mut dq);
    pool::parallel(shape.batch * t_q, |row| {
        for h in 0..heads {
            let at = (row * heads + h) * d;
            // SAFETY: the view was checked, and each of its heads is visited once.
            let to = unsafe { std::slice::from_raw_parts_mut(to.at(row / t_q, row % t_q, h), d) };
            to.copy_from_slice(&partial[at..][..d]);
            for split in 1..splits {
                for (x, y) in to.iter_mut().zip(&partial[split * shape.out_len() + at..][..d]) {
                    *x += y;
                }
            }
        }
    });
}

struct Io {
    q: Raw<*const f32>,
    k: Raw<*const f32>,
    v: Raw<*const f32>,
    out: Raw<*const f32>,
    dout: Raw<*const f32>,
    /// `[B, H, Tq, 2]`
    stats: *const f32,
    dq: Raw<*mut f32>,
    dk: Raw<*mut f32>,
    dv: Raw<*mut f32>,
    /// `[splits, B, H, R]`, or nothing.
    bias: *mut f32,
    bins: usize,
}

// SAFETY: tasks write disjoint parts (see the caller).
unsafe impl Sync for Io {}

/// Sizes of a task's scratch.
#[derive(Clone, Copy)]
struct Sizes {
    width: Width,
    /// A transposed tile.
    transposed: usize,
    /// Biases of all heads of a group, and their gradients.
    bias: usize,
    d_bias: usize,
    total: usize,
}

impl Sizes {
    fn new(plan: &Plan<'_>, d_bias: bool) -> Self {
        let width = Width::new(plan.shape.d);
        let transposed = (width.d * TILE).next_multiple_of(16);
        let bias = (plan.group * plan.bias_row()).next_multiple_of(16);
        let d_bias = if d_bias { bias } else { 0 };
        let narrow = width.panel(width.narrow());
        let total = 2 * width.panel(TILE)
            + 2 * TILE * TILE
            + narrow
            + STRIP * (2 * transposed + 3 * narrow)
            + 3 * plan.rows().next_multiple_of(16)
            + plan.blocks.next_multiple_of(16)
            + bias
            + d_bias;
        Self { width, transposed, bias, d_bias, total }
    }
}

struct Task<'a> {
    plan: &'a Plan<'a>,
    io: &'a Io,
    b: usize,
    kv_head: usize,
    split: usize,
    strips: (usize, usize),
    sizes: Sizes,
    parts: &'a mut Parts,
}

impl Job for Task<'_> {
    #[inline(always)]
    #[allow(clippy::needless_range_loop)] // a row is a place in several tiles
    unsafe fn run<S: Vector>(self, s: S) {
        let f = Scores::new(self.plan);
        let Task { plan, io, b, kv_head, split, strips, sizes, parts } = self;
        let (shape, w) = (plan.shape, sizes.width);
        let (ld, narrow, transposed) = (w.narrow(), w.panel(w.narrow()), sizes.transposed);
        let q = parts.take(w.panel(TILE));
        let d_o = parts.take(w.panel(TILE));
        let p = parts.take(TILE * TILE);
        let ds = parts.take(TILE * TILE);
        let dq = parts.take(narrow);
        let kt = parts.take(STRIP * transposed);
        let vt = parts.take(STRIP * transposed);
        let k = parts.take(STRIP * narrow);
        let dk = parts.take(STRIP * narrow);
        let dv = parts.take(STRIP * narrow);
        let max = parts.take(plan.rows());
        let share = parts.take(plan.rows());
        let delta = parts.take(plan.rows());
        let written = parts.take(plan.blocks);
        let bias = parts.take(sizes.bias);
        let d_bias = parts.take(sizes.d_bias);
        // SAFETY: the caller's promise; all pointers stay in the scratch and in the checked views.
        unsafe {
            for row in 0..plan.rows() {
                let (h, t) = (kv_head * plan.group + row / shape.t_q, row % shape.t_q);
                let stats = io.stats.add(((b * shape.heads + h) * shape.t_q + t) * 2);
                // With the other infinity nothing is 2^−∞ = 0 of a row that saw nothing, and not NaN.
                *max.add(row) = if *stats == f32::NEG_INFINITY { f32::INFINITY } else { *stats };
                *share.add(row) = *stats.add(1);
                *delta.add(row) = dot(s, io.out.at(b, t, h), io.dout.at(b, t, h), shape.d);
            }
            std::slice::from_raw_parts_mut(written, plan.blocks).fill(0.0);
            plan.fill_biases(kv_head, std::slice::from_raw_parts_mut(bias, sizes.bias));
            std::slice::from_raw_parts_mut(d_bias, sizes.d_bias).fill(0.0);

            let mut mask = TileMask::new();
            for strip in strips.0..strips.1 {
                let j0 = strip * STRIP * TILE;
                let keys = (STRIP * TILE).min(shape.t_k - j0);
                let tiles = keys.div_ceil(TILE);
                for i in 0..tiles {
                    let j0 = j0 + i * TILE;
                    let n = TILE.min(shape.t_k - j0);
                    let (from_k, from_v) = (io.k.at(b, j0, kv_head), io.v.at(b, j0, kv_head));
                    for (from, stride, to) in [(from_k, io.k.stride_t(), kt), (from_v, io.v.stride_t(), vt)] {
                        s.job(Transpose { d: w.d, from, stride, rows: n, to: to.add(i * transposed), bf16: f.bf16 });
                    }
                    for j in 0..n {
                        load_row(s, w, io.k.at(b, j0 + j, kv_head), k.add(i * narrow), ld, j, f.bf16);
                    }
                }
                std::slice::from_raw_parts_mut(dk, tiles * narrow).fill(0.0);
                std::slice::from_raw_parts_mut(dv, tiles * narrow).fill(0.0);

                for i in 0..plan.blocks {
                    let row0 = plan.block_rows(i).0;
                    let seen = plan.tiles(i);
                    let (from, to) = (seen.0.max(strip * STRIP), seen.1.min(strip * STRIP + tiles));
                    if from >= to {
                        continue;
                    }
                    let block = Block::new(plan, b, kv_head, i);
                    for r in 0..block.rows {
                        let (t, h) = (block.time[r] as usize, block.head[r] as usize);
                        load_row(s, w, io.q.at(b, t, h), q, TILE, r, f.bf16);
                        load_row(s, w, io.dout.at(b, t, h), d_o, TILE, r, f.bf16);
                    }
                    // The next block's, where they are of the same head.
                    for r in 0..block.rows {
                        let (t, h) = (block.time[r] as usize + TILE, block.head[r] as usize);
                        if t < shape.t_q {
                            prefetch::<false>(io.q.at(b, t, h), w.d);
                            prefetch::<false>(io.dout.at(b, t, h), w.d);
                        }
                    }
                    std::slice::from_raw_parts_mut(dq, narrow).fill(0.0);
                    for tile in from..to {
                        if !block.mask(plan, b, tile, &mut mask) {
                            continue;
                        }
                        let slot = tile - strip * STRIP;
                        let (rows, keys) = (block.rows, mask.keys);
                        for (a, packed, c) in [(q, kt, p), (d_o, vt, ds)] {
                            for chunk in 0..w.chunks {
                                let a = a.add(chunk * TILE * TILE);
                                let b = packed.add(slot * transposed + chunk * TILE * TILE);
                                Product::<false> { a, b, ldb: TILE, c, ldc: TILE, accumulate: chunk > 0 }.run(
                                    s,
                                    rows,
                                    keys,
                                    mask.columns(w.of(chunk)),
                                );
                            }
                        }
                        let bias = if sizes.bias > 0 { bias.cast_const() } else { std::ptr::null() };
                        let d_bias = if sizes.d_bias > 0 { d_bias } else { std::ptr::null_mut() };
                        let scores = ScoreTile { f: &f, plan, block: &block, mask: &mask, b, kv_head, tile, bias };
                        let (max, share, delta) = (max.add(row0), share.add(row0), delta.add(row0));
                        scores.backward(s, Gradients { scores: p, grads: ds, max, share, delta, d_bias });
                        for c in 0..w.chunks {
                            let n = w.of(c);
                            let at = slot * narrow + c * TILE * ld;
                            for (a, b, c) in
                                [(p, d_o.add(c * TILE * TILE), dv.add(at)), (ds, q.add(c * TILE * TILE), dk.add(at))]
                            {
                                Product::<true> { a, b, ldb: TILE, c, ldc: ld, accumulate: true }.run(
                                    s,
                                    keys,
                                    n,
                                    mask.over_rows(n),
                                );
                            }
                            let (b, c) = (k.add(at), dq.add(c * TILE * ld));
                            Product::<false> { a: ds, b, ldb: ld, c, ldc: ld, accumulate: true }.run(
                                s,
                                rows,
                                n,
                                mask.over_keys(n),
                            );
                        }
                    }
                    for r in 0..block.rows {
                        let (t, h) = (block.time[r] as usize, block.head[r] as usize);
                        let to = io.dq.at(split * shape.batch + b, t, h);
                        store_row(s, w, dq, ld, r, 1.0, to, *written.add(i) != 0.0);
                    }
                    *written.add(i) = 1.0;
                }
                for j in 0..keys {
                    let (tile, r) = (j / TILE, j % TILE);
                    store_row(s, w, dk.add(tile * narrow), ld, r, 1.0, io.dk.at(b, j0 + j, kv_head), false);
                    store_row(s, w, dv.add(tile * narrow), ld, r, 1.0, io.dv.at(b, j0 + j, kv_head), false);
                }
            }
            // Queries that saw none of these keys.
            for i in (0..plan.blocks).filter(|&i| *written.add(i) == 0.0) {
                let block = Block::new(plan, b, kv_head, i);
                for r in 0..block.rows {
                    let (t, h) = (block.time[r] as usize, block.head[r] as usize);
                    let to = io.dq.at(split * shape.batch + b, t, h);
                    std::slice::from_raw_parts_mut(to, shape.d).fill(0.0);
                }
            }
            for g in 0..plan.group * (sizes.d_bias > 0) as usize {
                let table = std::slice::from_raw_parts(d_bias.add(g * plan.bias_row()), plan.bias_row());
                let h = (split * shape.batch + b) * shape.heads + kv_head * plan.group + g;
                plan.fold_bias(table, std::slice::from_raw_parts_mut(io.bias.add(h * io.bins), io.bins));
            }
        }
    }
}

/// Σ x·y over `n` floats, in a fixed order.
///
/// # Safety
/// Both must be readable for `n` floats.
#[inline(always)]
unsafe fn dot<S: Vector>(s: S, x: *const f32, y: *const f32, n: usize) -> f32 {
    let mut sum = s.splat(0.0);
    let mut i = 0;
    // SAFETY: the caller's promise.
    unsafe {
        while i + S::LANES <= n {
            sum = s.fma(s.load_ptr(x.add(i)), s.load_ptr(y.add(i)), sum);
            i += S::LANES;
        }
        if i < n {
            sum = s.fma(s.load_n(x.add(i), n - i), s.load_n(y.add(i), n - i), sum);
        }
    }
    s.sum(sum)
}
