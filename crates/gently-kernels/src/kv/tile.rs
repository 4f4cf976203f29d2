//! The arithmetic of attention over one page: some queries of one key head against its keys and values.
//!
//! Here: scores of up to twelve queries with all keys of a page, the online softmax, the weighted sum of values, and
//! the join of chunks. Not here: which queries meet which pages (see [`super::attend`]).

// Loops over register arrays are by index: they unroll, iterators over parts of them may not.
#![allow(clippy::needless_range_loop)]

use super::{PAGE, Spec};
use crate::cast::Stored;
use crate::simd::{Kernel, Simd};
use crate::simd_math;
use std::f32::consts::LOG2_E;

/// Most queries of a tile.
pub(super) const MOST: usize = 12;

/// Channels, or keys, between two looks at whether the loop ends: a loop of 16 such is foreseen to its end, so what comes after
/// it begins before its last multiplications are done.
const STEPS: usize = 4;

/// Channels, or keys, that few queries ask for ahead where vectors are short: half a page.
const AHEAD: usize = 32;

/// How scores are made from products.
#[derive(Clone, Copy)]
pub(super) struct Score {
    scale: f32,
    /// The cap and one over it.
    softcap: Option<[f32; 2]>,
    window: Option<usize>,
    /// Some query has a slope.
    sloped: bool,
    /// Numbers of the page have scales.
    stored: bool,
}

impl Score {
    /// `stored` for pages whose numbers have scales.
    pub fn new(spec: &Spec, stored: bool) -> Self {
        let Spec { scale, softcap, window, alibi, .. } = *spec;
        Self { scale, softcap: softcap.map(|cap| [cap, 1.0 / cap]), window, sloped: alibi.is_some(), stored }
    }

    /// Whether scores are products times a factor above 0 and nothing else, as most models' are: differences of products times it
    /// serve then.
    fn plain(&self) -> bool {
        !self.stored && self.softcap.is_none() && !self.sloped && self.scale > 0.0
    }

    /// What differences are multiplied with to be powers of two.
    pub fn by(&self) -> f32 {
        LOG2_E * if self.plain() { self.scale } else { 1.0 }
    }

    /// Whether a query at `position` and all after it see the whole page from `first` on.
    fn sees_all(&self, position: usize, first: usize) -> bool {
        self.window.is_none() && first + PAGE <= position + 1
    }
}

/// One head of one page.
pub(super) struct Head<T> {
    /// `[D, PAGE]`
    pub keys: *const T,
    /// `[PAGE, dp]`
    pub values: *const T,
    /// Scales of keys and of values, `[PAGE]` each; null where numbers have none.
    pub scales: *const f32,
    /// Position of the first token of the page.
    pub first: usize,
}

/// What a query has gathered in a chunk: pointers to rows of tables.
#[derive(Clone, Copy)]
pub(super) struct Query {
    /// `[D]`
    pub q: *const f32,
    /// Its place in the sequence.
    pub position: usize,
    /// Of its head; 0 for none.
    pub slope: f32,
    /// `[dp]`, the weighted sum of values.
    pub sum: *mut f32,
    /// The largest score, to be multiplied with [`Score::by`].
    pub most: *mut f32,
    /// `[WIDEST]`, sums of weights: a lane for each place of a vector, so that nothing runs across a register for each page.
    pub totals: *mut f32,
}

/// 0, 1, 2, …
static RAMP: [f32; PAGE] = {
    let mut ramp = [0.0; PAGE];
    let mut i = 0;
    while i < PAGE {
        ramp[i] = i as f32;
        i += 1;
    }
    ramp
};

/// Places of the page that a query at `position` sees.
fn seen(score: Score, position: usize, first: usize) -> (usize, usize) {
    let end = (position + 1).saturating_sub(first).min(PAGE);
    let from = score.window.map_or(0, |w| (position + 1).saturating_sub(w));
    (from.saturating_sub(first).min(end), end)
}

/// M queries, by position, against one head of one page. `weights` is room for their scores. Sums of M queries and W vectors of
/// keys, or of channels, stay in registers.
///
/// # Safety
/// Pointers of the page and the queries must be valid for D, dp and PAGE, with no two queries sharing a sum or a norm;
/// places up to each query's own position have been written.
#[inline(always)]
pub(super) unsafe fn page<S: Simd, T: Stored, const M: usize, const W: usize>(
    s: S,
    score: Score,
    head: &Head<T>,
    queries: &[Query],
    weights: &mut [[f32; PAGE]; MOST],
    d: usize,
    dp: usize,
) {
    // SAFETY: the caller's promise; `weights` has PAGE numbers for each query.
    unsafe {
        let q: [_; M] = std::array::from_fn(|m| queries[m].q);
        let mut at = 0;
        while at < PAGE {
            let mut acc = [[s.splat(0.0); W]; M];
            gather(s, &mut acc, &q, head.keys.add(at), PAGE, (0, d));
            for m in 0..M {
                for v in 0..W {
                    s.store_ptr(weights[m].as_mut_ptr().add(at + v * S::LANES), acc[m][v]);
                }
            }
            at += W * S::LANES;
        }

        let mut fade = [1.0f32; M];
        let mut places = [(0, PAGE); M];
        let (mut from, mut end) = (0, PAGE);
        // Most pages are. Queries come by position.
        if !score.sees_all(queries[0].position, head.first) {
            (from, end) = (PAGE, 0);
            for m in 0..M {
                places[m] = seen(score, queries[m].position, head.first);
                from = from.min(places[m].0);
                end = end.max(places[m].1);
            }
        }
        let (scales, first) = (head.scales, head.first);
        s.apart(OnlineSoftmax {
            score,
            scales,
            queries,
            first,
            seen: &places,
            rows: &mut weights[..M],
            fade: &mut fade,
        });

        let mut c = 0;
        while c + W * S::LANES <= dp {
            mix::<S, T, M, W>(s, head, queries, weights, &fade, (from, end), c, dp);
            c += W * S::LANES;
        }
        while c < dp {
            mix::<S, T, M, 1>(s, head, queries, weights, &fade, (from, end), c, dp);
            c += S::LANES;
        }
    }
}

/// Turns rows of products into weights against the largest score so far, and gives the factors of what was gathered
/// before. Pointers as in [`page`].
///
/// All rows go through a step before the next: a row's maximum, its factor and its sum each wait for a run across a
/// register, and the rows wait at the same time.
struct OnlineSoftmax<'a> {
    score: Score,
    scales: *const f32,
    queries: &'a [Query],
    /// Position of the page's first token.
    first: usize,
    /// Places that each query sees.
    seen: &'a [(usize, usize)],
    rows: &'a mut [[f32; PAGE]],
    fade: &'a mut [f32],
}

/// The score of a place that a query does not see.
const UNSEEN: f32 = f32::NEG_INFINITY;

impl Kernel for OnlineSoftmax<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Self { score, scales, queries, first, seen, rows, fade } = self;
        // Largest scores so far, and what the factors are exponentials of.
        let (mut mosts, mut falls) = ([UNSEEN; MOST], [0.0; WIDEST]);
        for (m, row) in rows.iter_mut().enumerate() {
            // SAFETY: the caller's promise; rows have PAGE numbers.
            let [before, page_most] = unsafe {
                let query = &queries[m];
                if !score.plain() {
                    scores(s, score, scales, query, first, row);
                }
                [*query.most, largest(s, seen[m], row)]
            };
            mosts[m] = if page_most > before { page_most } else { before };
            falls[m] = if mosts[m] == UNSEEN { 0.0 } else { (before - mosts[m]) * score.by() };
        }
        let mut i = 0;
        while i < fade.len() {
            let e = simd_math::exp2(s, s.load(&falls[i..]));
            s.store(&mut falls[i..], e);
            i += S::LANES;
        }
        let by = s.splat(score.by());
        for (m, row) in rows.iter_mut().enumerate() {
            fade[m] = falls[m];
            let mut most = mosts[m];
            if most == UNSEEN {
                if seen[m].0 == seen[m].1 {
                    row.fill(0.0);
                    continue;
                }
                // What it sees is −∞ or NaN: powers of it are 0 or NaN, which stays. Subtracting −∞ would make NaN of both.
                most = 0.0;
            }
            // SAFETY: as above.
            unsafe {
                let p = row.as_mut_ptr();
                let most = s.splat(most);
                let mut total = s.mul(s.load_ptr(queries[m].totals), s.splat(fade[m]));
                let mut i = 0;
                while i < PAGE {
                    // The difference first: the largest's is exactly 0, however large it is.
                    let e = simd_math::exp2(s, s.mul(s.sub(s.load_ptr(p.add(i)), most), by));
                    total = s.add(total, e);
                    let e = if scales.is_null() { e } else { s.mul(e, s.load_ptr(scales.add(PAGE + i))) };
                    s.store_ptr(p.add(i), e);
                    i += S::LANES;
                }
                s.store_ptr(queries[m].totals, total);
                *queries[m].most = mosts[m];
            }
        }
    }
}

/// Lanes of the widest vectors.
pub(super) const WIDEST: usize = 16;

/// Turns products into scores.
///
/// # Safety
/// As [`page`].
#[inline(always)]
unsafe fn scores<S: Simd>(s: S, score: Score, scales: *const f32, query: &Query, first: usize, row: &mut [f32; PAGE]) {
    // SAFETY: the caller's promise; rows have PAGE numbers.
    unsafe {
        let p = row.as_mut_ptr();
        let mut i = 0;
        while i < PAGE {
            let mut v = s.mul(s.load_ptr(p.add(i)), s.splat(score.scale));
            if !scales.is_null() {
                v = s.mul(v, s.load_ptr(scales.add(i)));
            }
            if let Some([cap, inverse]) = score.softcap {
                v = s.mul(s.splat(cap), simd_math::tanh(s, s.mul(v, s.splat(inverse))));
            }
            if score.sloped {
                // Minus slope times distance: exact, for positions below 2²⁴.
                let behind = s.splat(first as f32 + i as f32 - query.position as f32);
                v = s.fma(s.splat(query.slope), s.add(s.load_ptr(RAMP.as_ptr()), behind), v);
            }
            s.store_ptr(p.add(i), v);
            i += S::LANES;
        }
    }
}

/// The largest of the places `lo .. hi` of a row, but for NaN; the others are made [`UNSEEN`].
#[inline(always)]
fn largest<S: Simd>(s: S, (lo, hi): (usize, usize), row: &mut [f32; PAGE]) -> f32 {
    // Most pages are seen whole.
    if (lo, hi) != (0, PAGE) {
        row[..lo].fill(UNSEEN);
        row[hi..].fill(UNSEEN);
    }
    // `max` returns its second operand on NaN: a NaN is passed over, and reaches the sums with its weight.
    let mut most = s.splat(UNSEEN);
    let mut i = 0;
    while i < PAGE {
        most = s.max(s.load(&row[i..]), most);
        i += S::LANES;
    }
    s.max_lane(most)
}

/// Adds G vectors of weighted values, from channel `c` on, to the faded sums.
///
/// # Safety
/// As [`page`]; `c` and G vectors lie below dp.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
unsafe fn mix<S: Simd, T: Stored, const M: usize, const G: usize>(
    s: S,
    head: &Head<T>,
    queries: &[Query],
    weights: &[[f32; PAGE]; MOST],
    fade: &[f32; M],
    seen: (usize, usize),
    c: usize,
    dp: usize,
) {
    // SAFETY: the caller's promise.
    unsafe {
        let mut acc = [[s.splat(0.0); G]; M];
        for m in 0..M {
            for g in 0..G {
                acc[m][g] = s.mul(s.load_ptr(queries[m].sum.add(c + g * S::LANES)), s.splat(fade[m]));
            }
        }
        let w: [_; M] = std::array::from_fn(|m| weights[m].as_ptr());
        gather(s, &mut acc, &w, head.values.add(c), dp, seen);
        for m in 0..M {
            for g in 0..G {
                s.store_ptr(queries[m].sum.add(c + g * S::LANES), acc[m][g]);
            }
        }
    }
}

/// Adds rows `from .. end` of W vectors, `stride` numbers apart, to M sums, each row times a number of each sum: channels of keys
/// times a query's numbers, or values times weights.
///
/// # Safety
/// `rows` must be valid for W vectors in each of these rows, and each of `times` for `end` numbers.
#[inline(always)]
unsafe fn gather<S: Simd, T: Stored, const M: usize, const W: usize>(
    s: S,
    acc: &mut [[S::V; W]; M],
    times: &[*const f32; M],
    rows: *const T,
    stride: usize,
    (from, end): (usize, usize),
) {
    // A macro, because a closure would not be compiled for the instruction set.
    macro_rules! row {
        ($at:expr) => {{
            let row = rows.add($at * stride);
            if M < W && S::REGISTERS < 32 {
                // Few queries wait for memory, and half a row at a time is no stream that a processor follows.
                let mut line = 0;
                while line < stride * size_of::<T>() {
                    s.prefetch(rows.wrapping_add(($at + AHEAD) * stride).cast::<u8>().wrapping_add(line).cast());
                    line += 64;
                }
                // Twelve sums and the numbers that they are multiplied with leave one register: vectors come one by one.
                let by: [_; M] = std::array::from_fn(|m| s.splat(*times[m].add($at)));
                for v in 0..W {
                    let x = T::load(s, row.add(v * S::LANES));
                    for m in 0..M {
                        acc[m][v] = s.fma(by[m], x, acc[m][v]);
                    }
                }
            } else {
                let mut x = [s.splat(0.0); W];
                for v in 0..W {
                    x[v] = T::load(s, row.add(v * S::LANES));
                }
                for m in 0..M {
                    let by = s.splat(*times[m].add($at));
                    for v in 0..W {
                        acc[m][v] = s.fma(by, x[v], acc[m][v]);
                    }
                }
            }
        }};
    }
    // SAFETY: the caller's promise.
    unsafe {
        let mut at = from;
        // With few registers, what is loaded ahead for the next step would push sums out.
        while S::REGISTERS >= 32 && at + STEPS <= end {
            for i in 0..STEPS {
                row!(at + i);
            }
            at += STEPS;
        }
        while at < end {
            row!(at);
            at += 1;
        }
    }
}

/// Joins what a chunk gathered to what the chunks before it did.
///
/// # Safety
/// `sum` and `chunk` must be valid for dp numbers and not overlap.
#[inline(always)]
pub(super) unsafe fn join<S: Simd>(
    s: S,
    sum: *mut f32,
    norm: &mut [f32; 2],
    chunk: *const f32,
    [most, weight]: [f32; 2],
    dp: usize,
) {
    // A chunk without a number among its scores weighs NaN where one was NaN, which is kept.
    if most == UNSEEN && weight == 0.0 {
        return;
    }
    let top = if most > norm[0] { most } else { norm[0] };
    let old = s.max_lane(simd_math::exp2(s, s.splat(norm[0] - top)));
    let new = s.max_lane(simd_math::exp2(s, s.splat(most - top)));
    let mut c = 0;
    while c < dp {
        // SAFETY: dp is whole vectors.
        unsafe {
            let was = s.mul(s.load_ptr(sum.add(c)), s.splat(old));
            s.store_ptr(sum.add(c), s.fma(s.load_ptr(chunk.add(c)), s.splat(new), was));
        }
        c += S::LANES;
    }
    *norm = [top, norm[1] * old + weight * new];
}
