//! The blockwise forward.
//!
//! Here: the order of work. One task has some blocks of queries of one (batch, key head): it packs the
//! keys (transposed) and the values they see, then goes over tiles, block by block. With one block, as in
//! decoding, each tile is packed when it is used. Not here: the arithmetic (see `product`, `rows`).

use super::panel::{Parts, Raw, Transpose, Width, load_row, store_row, with_scratch};
use super::plan::{Block, Plan, TileMask};
use super::product::{Product, TILE};
use super::rows::{Running, ScoreTile, Scores, finish_row};
use super::vector::{Job, Vector, dispatch};
use super::{AttnShape, AttnSpec, HeadView, HeadViewMut, check_forward};
use crate::buffer::OutOfMemory;
use crate::cpu::Path;
use crate::pool;
use crate::scratch::{Refusal, Scratch};
use crate::simd::prefetch;

/// Tasks that a call is cut in, if its blocks allow; a function of shape alone.
const TASKS: usize = 64;
/// Fewest blocks of a task that repacks the keys of another one.
const BLOCKS: usize = 4;

/// Operands and outputs of a call, `out[B, Tq, H, D]` and `stats[B, H, Tq, 2]`.
fn open([q, k, v]: [&HeadView<'_>; 3], shape: AttnShape, out: &mut [f32], stats: &mut [f32]) -> Io {
    let (stride_b, stride_h) = (shape.heads * shape.t_q * 2, shape.t_q * 2);
    Io {
        q: Raw::new(q),
        k: Raw::new(k),
        v: Raw::new(v),
        out: Raw::new_mut(&mut HeadViewMut::contiguous(out, shape.t_q, shape.heads, shape.d)),
        stats: Raw::new_mut(&mut HeadViewMut { data: stats, offset: 0, stride_b, stride_t: 2, stride_h }),
    }
}

/// [`forward`](super::forward) on one path.
#[allow(clippy::too_many_arguments)]
pub(super) fn forward_on(
    path: Path,
    shape: AttnShape,
    spec: &AttnSpec<'_>,
    q: HeadView<'_>,
    k: HeadView<'_>,
    v: HeadView<'_>,
    out: &mut [f32],
    stats: &mut [f32],
) -> Result<(), OutOfMemory> {
    check_forward(shape, spec, [&q, &k, &v], out.len(), stats.len());
    if shape.stats_len() == 0 {
        return Ok(());
    }
    let io = open([&q, &k, &v], shape, out, stats);
    run(path, &[Sequence::new(Plan::new(shape, spec), io, 0)])
}

/// [`forward_each`](super::forward_each) on one path.
#[allow(clippy::too_many_arguments)]
pub(super) fn forward_each_on(
    path: Path,
    shape: AttnShape,
    lengths: &[usize],
    spec: &AttnSpec<'_>,
    q: HeadView<'_>,
    k: HeadView<'_>,
    v: HeadView<'_>,
    out: &mut [f32],
    stats: &mut [f32],
) -> Result<(), OutOfMemory> {
    assert!(spec.docs.is_none() && spec.q_start == 0, "attention: sequences of a call begin at 0 and are one document");
    assert!(spec.dropout.is_none(), "attention: no dropout over several sequences");
    let rows = lengths.iter().try_fold(0usize, |sum, n| sum.checked_add(*n));
    assert_eq!(rows, Some(shape.t_q), "attention: lengths add up to Tq");
    assert!(shape.batch == 1 && shape.t_k == shape.t_q, "attention: sequences lie in one row of the batch");
    check_forward(shape, spec, [&q, &k, &v], out.len(), stats.len());
    if shape.stats_len() == 0 {
        return Ok(());
    }
    let io = open([&q, &k, &v], shape, out, stats);
    let mut sequences: Vec<Sequence<'_>> = Vec::with_capacity(lengths.len());
    let (mut row, mut tasks) = (0, 0);
    for &t in lengths.iter().filter(|t| **t > 0) {
        let plan = Plan::new(AttnShape { t_q: t, t_k: t, ..shape }, spec);
        let sequence = Sequence::new(plan, io.after(row), tasks);
        (row, tasks) = (row + t, tasks + sequence.tasks());
        sequences.push(sequence);
    }
    run(path, &sequences)
}

/// One attention of those that a call computes, and its cut into tasks.
struct Sequence<'a> {
    plan: Plan<'a>,
    io: Io,
    /// Its first task.
    first: usize,
    groups: usize,
    splits: usize,
    each: usize,
}

impl<'a> Sequence<'a> {
    fn new(plan: Plan<'a>, io: Io, first: usize) -> Self {
        let (splits, each) = cut(&plan);
        Self { groups: plan.shape.batch * plan.shape.kv_heads, plan, io, first, splits, each }
    }

    fn tasks(&self) -> usize {
        self.groups * self.splits
    }
}

/// Runs the tasks of all sequences, in one loop.
fn run(path: Path, sequences: &[Sequence<'_>]) -> Result<(), OutOfMemory> {
    let refusal = Refusal::default();
    pool::parallel(sequences.last().map_or(0, |s| s.first + s.tasks()), |task| {
        let Sequence { plan, io, first, groups, splits, each } =
            &sequences[sequences.partition_point(|s| s.first <= task) - 1];
        let task = task - first;
        // The last blocks of a causal mask see the most keys: they go first.
        let split = splits - 1 - task / groups;
        let (b, kv_head) = (task % groups / plan.shape.kv_heads, task % groups % plan.shape.kv_heads);
        let blocks = (split * each, plan.blocks.min((split + 1) * each));
        let sizes = Sizes::new(plan, blocks);
        refusal.note(with_scratch(sizes.total, |parts| {
            // SAFETY: the views were checked, and sequences share no rows; a query belongs to one block, a block to one
            // task, which alone writes its output and statistics.
            unsafe { dispatch(path, Task { plan, io, b, kv_head, blocks, sizes, parts }) }
        }));
    });
    refusal.into_result()
}

/// Tasks for each (batch, key head), and the blocks of one.
fn cut(plan: &Plan<'_>) -> (usize, usize) {
    let groups = plan.shape.batch * plan.shape.kv_heads;
    let splits = TASKS.div_ceil(groups).min(plan.blocks.div_ceil(BLOCKS));
    let each = plan.blocks.div_ceil(splits);
    (plan.blocks.div_ceil(each), each)
}

/// What [`forward_on`] takes beside its operands.
pub(super) fn scratch(shape: AttnShape, spec: &AttnSpec<'_>) -> Scratch {
    if shape.stats_len() == 0 {
        return Scratch::default();
    }
    let plan = Plan::new(shape, spec);
    let (splits, each) = cut(&plan);
    let blocks = (0..splits).map(|split| (split * each, plan.blocks.min((split + 1) * each)));
    let floats = blocks.map(|blocks| Sizes::new(&plan, blocks).total).max().unwrap_or(0);
    Scratch { attention: floats * size_of::<f32>(), ..Scratch::default() }
}

#[derive(Clone, Copy)]
struct Io {
    q: Raw<*const f32>,
    k: Raw<*const f32>,
    v: Raw<*const f32>,
    out: Raw<*mut f32>,
    stats: Raw<*mut f32>,
}

impl Io {
    /// The same from token `row` on.
    fn after(self, row: usize) -> Self {
        Self {
            q: self.q.after(row),
            k: self.k.after(row),
            v: self.v.after(row),
            out: self.out.after(row),
            stats: self.stats.after(row),
        }
    }
}

/// Sizes of a task's scratch.
#[derive(Clone, Copy)]
struct Sizes {
    width: Width,
    /// Tiles that the task's blocks see.
    tiles: (usize, usize),
    /// Tiles packed at a time: all, or one when there is one block.
    packed: usize,
    bias: usize,
    total: usize,
}

impl Sizes {
    fn new(plan: &Plan<'_>, blocks: (usize, usize)) -> Self {
        let width = Width::new(plan.shape.d);
        let seen = (blocks.0..blocks.1).map(|i| plan.tiles(i));
        let tiles = seen.fold((usize::MAX, 0), |(lo, hi), (l, h)| (lo.min(l), hi.max(h)));
        let tiles = (tiles.0.min(tiles.1), tiles.1);
        let packed = if blocks.1 - blocks.0 > 1 { tiles.1 - tiles.0 } else { 1 };
        let bias = plan.group * plan.bias_row();
        let total = width.panel(TILE)
            + TILE * TILE
            + width.panel(width.narrow())
            + TILE * 17
            + bias.next_multiple_of(16)
            + packed * ((width.d * TILE).next_multiple_of(16) + width.panel(width.narrow()));
        Self { width, tiles, packed, bias, total }
    }
}

struct Task<'a> {
    plan: &'a Plan<'a>,
    io: &'a Io,
    b: usize,
    kv_head: usize,
    blocks: (usize, usize),
    sizes: Sizes,
    parts: &'a mut Parts,
}

impl Job for Task<'_> {
    #[inline(always)]
    unsafe fn run<S: Vector>(self, s: S) {
        let f = Scores::new(self.plan);
        let Task { plan, io, b, kv_head, blocks, sizes, parts } = self;
        let Sizes { width: w, tiles, packed, .. } = sizes;
        let (shape, ld) = (plan.shape, w.narrow());
        let q = parts.take(w.panel(TILE));
        let p = parts.take(TILE * TILE);
        let o = parts.take(w.panel(ld));
        let max = parts.take(TILE);
        let sum = parts.take(TILE * 16);
        let bias = parts.take(sizes.bias);
        let kt = parts.take(packed * (w.d * TILE).next_multiple_of(16));
        let vp = parts.take(packed * w.panel(ld));
        let kt_size = (w.d * TILE).next_multiple_of(16);
        // Values that are used once are read where they are.
        let in_place = packed == 1 && blocks.1 - blocks.0 == 1 && !f.bf16 && w.d % 16 == 0;
        // SAFETY: the caller's promise; all pointers stay in the scratch and in the checked views.
        unsafe {
            let packer = Packer { plan, io, b, kv_head, w, ld, values: !in_place, bf16: f.bf16 };
            plan.fill_biases(kv_head, std::slice::from_raw_parts_mut(bias, sizes.bias));
            let all_at_once = blocks.1 - blocks.0 > 1;
            if all_at_once {
                for tile in tiles.0..tiles.1 {
                    let slot = tile - tiles.0;
                    packer.pack(s, tile, kt.add(slot * kt_size), vp.add(slot * w.panel(ld)));
                }
            }
            let mut mask = TileMask::new();
            for i in blocks.0..blocks.1 {
                let block = Block::new(plan, b, kv_head, i);
                for r in 0..block.rows {
                    let from = io.q.at(b, block.time[r] as usize, block.head[r] as usize);
                    load_row(s, w, from, q, TILE, r, f.bf16);
                    *max.add(r) = f32::NEG_INFINITY;
                    s.store_ptr(sum.add(r * 16), s.splat(0.0));
                }
                // The next block's queries, where they are of the same head.
                for r in 0..block.rows {
                    let t = block.time[r] as usize + TILE;
                    if t < shape.t_q {
                        prefetch::<false>(io.q.at(b, t, block.head[r] as usize), w.d);
                    }
                }
                // The first product may overwrite the outputs if it reaches all of them.
                let mut fresh = block.all_see_first(plan);
                if !fresh {
                    std::slice::from_raw_parts_mut(o, w.panel(ld)).fill(0.0);
                }
                let seen = plan.tiles(i);
                for tile in seen.0..seen.1 {
                    if !block.mask(plan, b, tile, &mut mask) {
                        continue;
                    }
                    let slot = if all_at_once { tile - tiles.0 } else { 0 };
                    if !all_at_once {
                        packer.pack(s, tile, kt, vp);
                    }
                    let kt = kt.add(slot * kt_size);
                    for c in 0..w.chunks {
                        let a = q.add(c * TILE * TILE);
                        let b = kt.add(c * TILE * TILE);
                        Product::<false> { a, b, ldb: TILE, c: p, ldc: TILE, accumulate: c > 0 }.run(
                            s,
                            block.rows,
                            mask.keys,
                            mask.columns(w.of(c)),
                        );
                    }
                    let bias = if sizes.bias > 0 { bias.cast_const() } else { std::ptr::null() };
                    let scores = ScoreTile { f: &f, plan, block: &block, mask: &mask, b, kv_head, tile, bias };
                    scores.forward(s, Running { scores: p, max, sum, w, o, ld });
                    let (values, ldb, chunk) = if in_place {
                        (io.v.at(b, tile * TILE, kv_head), io.v.stride_t(), TILE)
                    } else {
                        (vp.add(slot * w.panel(ld)).cast_const(), ld, TILE * ld)
                    };
                    for c in 0..w.chunks {
                        let (b, to) = (values.add(c * chunk), o.add(c * TILE * ld));
                        Product::<false> { a: p, b, ldb, c: to, ldc: ld, accumulate: !fresh }.run(
                            s,
                            block.rows,
                            w.of(c),
                            mask.over_keys(w.of(c)),
                        );
                    }
                    fresh = false;
                }
                for r in 0..block.rows {
                    let by = finish_row(s, sum.add(r * 16));
                    let (t, h) = (block.time[r] as usize, block.head[r] as usize);
                    store_row(s, w, o, ld, r, by, io.out.at(b, t, h), false);
                    let stats = io.stats.at(b, t, h);
                    (*stats, *stats.add(1)) = (*max.add(r), by);
                }
            }
        }
    }
}

/// Packs tiles of keys and values.
struct Packer<'a> {
    plan: &'a Plan<'a>,
    io: &'a Io,
    b: usize,
    kv_head: usize,
    w: Width,
    ld: usize,
    /// Values too.
    values: bool,
    bf16: bool,
}

impl Packer<'_> {
    /// # Safety
    /// The views must have been checked, and the panels must be writable.
    #[inline(always)]
    unsafe fn pack<S: Vector>(&self, s: S, tile: usize, kt: *mut f32, v: *mut f32) {
        let j0 = tile * TILE;
        let keys = TILE.min(self.plan.shape.t_k - j0);
        let (k, b, h) = (&self.io.k, self.b, self.kv_head);
        // SAFETY: the caller's promise.
        unsafe {
            let (from, stride, bf16) = (k.at(b, j0, h), k.stride_t(), self.bf16);
            s.job(Transpose { d: self.w.d, from, stride, rows: keys, to: kt, bf16 });
            if self.values {
                for j in 0..keys {
                    load_row(s, self.w, self.io.v.at(b, j0 + j, h), v, self.ld, j, self.bf16);
                }
            }
        }
    }
}
