//! Which rows and tiles of scores there are, and what of them is masked.
//!
//! Here: blocks of at most 64 queries, what each sees of a tile of 64 keys, the table of biases. Not here:
//! arithmetic on scores.
//!
//! The queries of all the heads that share a key head are one list of rows, `head · Tq + t`. Blocks cut
//! it by shape alone; with few queries for each head (decoding), a block spans several heads.

use std::f32::consts::LOG2_E;

use super::product::{Span, TILE};
use super::{AttnShape, AttnSpec, Mask, visible};

/// One attention's shape, options and cut.
#[derive(Clone, Copy)]
pub(super) struct Plan<'a> {
    pub shape: AttnShape,
    pub spec: &'a AttnSpec<'a>,
    /// Query heads for each key head.
    pub group: usize,
    /// Blocks of queries for each (batch, key head).
    pub blocks: usize,
}

impl<'a> Plan<'a> {
    pub fn new(shape: AttnShape, spec: &'a AttnSpec<'a>) -> Self {
        let group = shape.group();
        let blocks =
            if shape.t_q >= TILE { group * shape.t_q.div_ceil(TILE) } else { (group * shape.t_q).div_ceil(TILE) };
        Self { shape, spec, group, blocks }
    }

    /// Rows of all blocks together.
    pub fn rows(&self) -> usize {
        self.group * self.shape.t_q
    }

    /// First and end row of block `i`.
    pub fn block_rows(&self, i: usize) -> (usize, usize) {
        let t_q = self.shape.t_q;
        if t_q >= TILE {
            let each = t_q.div_ceil(TILE);
            let first = i / each * t_q + i % each * TILE;
            (first, (first + TILE).min((i / each + 1) * t_q))
        } else {
            (i * TILE, ((i + 1) * TILE).min(self.rows()))
        }
    }

    /// Tiles that some row of block `i` sees by position.
    pub fn tiles(&self, i: usize) -> (usize, usize) {
        let (first, end) = self.block_rows(i);
        let t_q = self.shape.t_q;
        // What is seen moves on with time; a block of several heads has rows of all times.
        let one_head = first / t_q == (end - 1) / t_q;
        let (t0, t1) = if one_head { (first % t_q, (end - 1) % t_q) } else { (0, t_q - 1) };
        let see = |t: usize| visible(self.spec.mask, self.spec.q_start + t, self.shape.t_k);
        let from = see(t0).0 / TILE;
        (from, see(t1).1.div_ceil(TILE).max(from))
    }

    /// Whether scores have a bias by distance.
    pub fn has_bias(&self) -> bool {
        self.spec.alibi.is_some() || self.spec.rel_bias.is_some()
    }

    /// Floats of one head's table of biases. Entry `j + Tq − 1 − t` is that of query `t` and key `j`, so
    /// that a row's biases lie side by side; a tile may read past the last one.
    pub fn bias_row(&self) -> usize {
        if self.has_bias() { self.shape.t_q + self.shape.t_k + TILE } else { 0 }
    }

    /// The signed distance i − j that entry `e` of the table stands for.
    fn distance(&self, e: usize) -> isize {
        (self.spec.q_start + self.shape.t_q) as isize - 1 - e as isize
    }

    /// The entry of R learned biases for a signed distance.
    fn entry(&self, r: usize, distance: isize) -> usize {
        let shift = if self.spec.mask == Mask::Full { r / 2 } else { 0 };
        (distance + shift as isize).clamp(0, r as isize - 1) as usize
    }

    /// Fills the tables of biases of the heads that read `kv_head`, one after another.
    pub fn fill_biases(&self, kv_head: usize, tables: &mut [f32]) {
        for (g, table) in tables.chunks_exact_mut(self.bias_row().max(1)).take(self.group).enumerate() {
            self.fill_bias(kv_head * self.group + g, table);
        }
    }

    /// Where a row's biases for the keys from `tile` on begin in those tables.
    pub fn bias_at(&self, block: &Block, r: usize, kv_head: usize, tile: usize) -> usize {
        let g = block.head[r] as usize - kv_head * self.group;
        g * self.bias_row() + tile * TILE + self.shape.t_q - 1 - block.time[r] as usize
    }

    /// Fills the table of biases of head `h`, in units of ln 2.
    fn fill_bias(&self, h: usize, table: &mut [f32]) {
        let slope = self.spec.alibi.map_or(0.0, |a| a[h] * LOG2_E);
        for (e, x) in table.iter_mut().enumerate() {
            *x = -slope * self.distance(e).unsigned_abs() as f32;
        }
        if let Some(bias) = self.spec.rel_bias {
            let r = bias.len() / self.shape.heads;
            let row = &bias[h * r..][..r];
            for (e, x) in table.iter_mut().enumerate() {
                *x += row[self.entry(r, self.distance(e))] * LOG2_E;
            }
        }
    }

    /// Adds the gradient of a table of biases to the gradient of R learned ones.
    pub fn fold_bias(&self, table: &[f32], to: &mut [f32]) {
        for (e, &x) in table.iter().enumerate().take(self.shape.t_q + self.shape.t_k) {
            to[self.entry(to.len(), self.distance(e))] += x;
        }
    }
}

/// At most 64 queries that share their keys.
pub(super) struct Block {
    /// Number of queries.
    pub rows: usize,
    /// Query head of each, from 0 to H.
    pub head: [u32; TILE],
    /// Time of each, from 0 to Tq.
    pub time: [u32; TILE],
    /// Keys each may see by position.
    lo: [u32; TILE],
    hi: [u32; TILE],
    doc: [u32; TILE],
    /// Smallest and largest `lo` and `hi` of rows, and documents.
    lo_range: (u32, u32),
    hi_range: (u32, u32),
    doc_range: (u32, u32),
}

impl Block {
    pub fn new(plan: &Plan<'_>, b: usize, kv_head: usize, i: usize) -> Self {
        let (first, end) = plan.block_rows(i);
        let t_q = plan.shape.t_q;
        let none = (u32::MAX, 0);
        let mut x = Self {
            rows: end - first,
            head: [0; TILE],
            time: [0; TILE],
            lo: [0; TILE],
            hi: [0; TILE],
            doc: [0; TILE],
            lo_range: none,
            hi_range: none,
            doc_range: none,
        };
        let widen = |range: &mut (u32, u32), x: u32| *range = (range.0.min(x), range.1.max(x));
        let (mut head, mut time) = (first / t_q, first % t_q);
        for r in 0..x.rows {
            x.head[r] = (kv_head * plan.group + head) as u32;
            x.time[r] = time as u32;
            let (lo, hi) = visible(plan.spec.mask, plan.spec.q_start + time, plan.shape.t_k);
            (x.lo[r], x.hi[r]) = (lo as u32, hi as u32);
            widen(&mut x.lo_range, x.lo[r]);
            widen(&mut x.hi_range, x.hi[r]);
            if let Some(docs) = plan.spec.docs {
                x.doc[r] = docs[b * plan.shape.t_k + plan.spec.q_start + time];
                widen(&mut x.doc_range, x.doc[r]);
            }
            time += 1;
            if time == t_q {
                (head, time) = (head + 1, 0);
            }
        }
        x
    }

    /// Every row sees something of tile 0.
    pub fn all_see_first(&self, plan: &Plan<'_>) -> bool {
        plan.spec.docs.is_none() && self.lo_range.1 == 0 && self.hi_range.0 > 0
    }

    /// Fills in the mask of the rows over tile `tile`; false if no row sees any of it.
    #[inline(always)]
    pub fn mask(&self, plan: &Plan<'_>, b: usize, tile: usize, mask: &mut TileMask) -> bool {
        let j0 = tile * TILE;
        let keys = TILE.min(plan.shape.t_k - j0);
        let (start, end) = (j0 as u32, (j0 + keys) as u32);
        if self.lo_range.0 >= end || self.hi_range.1 <= start {
            return false;
        }
        let docs = plan.spec.docs.map(|d| &d[b * plan.shape.t_k + j0..][..keys]);
        let mut one_doc = true;
        if let Some(docs) = docs {
            let (min, max) = docs.iter().fold((u32::MAX, 0), |(lo, hi), &x| (lo.min(x), hi.max(x)));
            if max < self.doc_range.0 || min > self.doc_range.1 {
                return false;
            }
            one_doc = min == max && (min, max) == self.doc_range;
        }
        mask.keys = keys;
        mask.rows = self.rows;
        mask.whole = one_doc && self.lo_range.1 <= start && self.hi_range.0 >= end;
        if mask.whole {
            mask.bits = [u64::MAX >> (TILE - keys); TILE];
            return true;
        }
        for r in 0..self.rows {
            let lo = self.lo[r].clamp(start, end) - start;
            let hi = self.hi[r].clamp(start, end) - start;
            (mask.lo[r], mask.hi[r]) = (lo as u8, hi as u8);
            mask.bits[r] = if lo < hi { u64::MAX >> (64 - (hi - lo)) << lo } else { 0 };
        }
        if let Some(docs) = docs
            && !one_doc
        {
            for r in 0..self.rows {
                let same = docs.iter().enumerate().fold(0, |m, (j, &d)| m | ((d == self.doc[r]) as u64) << j);
                mask.bits[r] &= same;
            }
        }
        true
    }
}

/// Which keys of one tile each row of a block sees.
pub(super) struct TileMask {
    /// Bit j of row r: query r sees key j.
    pub bits: [u64; TILE],
    /// Keys of the tile; fewer than 64 in the last one.
    pub keys: usize,
    rows: usize,
    /// Every row sees every key.
    whole: bool,
    /// Else the range that each sees by position.
    lo: [u8; TILE],
    hi: [u8; TILE],
}

impl TileMask {
    pub fn new() -> Self {
        Self { bits: [0; TILE], keys: 0, rows: 0, whole: false, lo: [0; TILE], hi: [0; TILE] }
    }

    /// The keys that some row of `r0..r1` sees.
    #[inline(always)]
    pub fn keys_of(&self, r0: usize, r1: usize) -> (usize, usize) {
        if self.whole {
            return (0, self.keys);
        }
        let (mut lo, mut hi) = (TILE, 0);
        for r in r0..r1 {
            if self.lo[r] < self.hi[r] {
                (lo, hi) = (lo.min(self.lo[r] as usize), hi.max(self.hi[r] as usize));
            }
        }
        (lo, hi)
    }

    /// A range with all the rows that see some key of `j0..j1`.
    #[inline(always)]
    pub fn rows_of(&self, j0: usize, j1: usize) -> (usize, usize) {
        if self.whole {
            return (0, self.rows);
        }
        let sees = |r: &usize| (self.lo[*r] as usize) < j1 && self.hi[*r] as usize > j0;
        match (0..self.rows).find(sees) {
            None => (0, 0),
            Some(first) => (first, (first..self.rows).rfind(sees).map_or(0, |r| r + 1)),
        }
    }

    /// The span of a product whose columns are keys.
    #[inline(always)]
    pub fn columns(&self, depth: usize) -> impl Fn(usize, usize) -> Span {
        move |r0, r1| Span { k: (0, depth), n: self.keys_of(r0, r1) }
    }

    /// The span of a product that sums over keys.
    #[inline(always)]
    pub fn over_keys(&self, columns: usize) -> impl Fn(usize, usize) -> Span {
        move |r0, r1| Span { k: self.keys_of(r0, r1), n: (0, columns) }
    }

    /// The span of a product whose rows are keys and which sums over queries.
    #[inline(always)]
    pub fn over_rows(&self, columns: usize) -> impl Fn(usize, usize) -> Span {
        move |j0, j1| Span { k: self.rows_of(j0, j1), n: (0, columns) }
    }
}
