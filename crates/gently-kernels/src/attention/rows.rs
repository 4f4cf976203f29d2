//! What happens between the products, row by row: scores become probabilities, and their gradients.
//!
//! Here: score modifiers (scale, soft cap, biases), masks, the online softmax, the gradient of scores.
//! Not here: which rows and tiles there are (see `plan`).
//!
//! Scores are kept in units of ln 2, so that the exponential is a bare 2^x: factors carry log₂ e.

use std::f32::consts::LOG2_E;

use super::panel::{Width, scale_row};
use super::plan::{Block, Plan, TileMask};
use super::product::TILE;
use super::vector::{Job, Vector};
use crate::dropout::Dropout;
use crate::gemm::Compute;
use crate::simd_math;

/// Factors of scores and the modifiers that are on.
#[derive(Clone, Copy)]
pub(super) struct Scores {
    /// scale · log₂ e
    factor: f32,
    scale: f32,
    /// Soft cap: scale / c, and c · log₂ e.
    cap: Option<(f32, f32)>,
    dropout: Option<Dropout>,
    pub bf16: bool,
    /// None of all this: rows are compiled once without modifiers and once with all of them.
    plain: bool,
}

impl Scores {
    pub fn new(plan: &Plan<'_>) -> Self {
        let spec = plan.spec;
        let cap = spec.softcap.map(|c| (spec.scale / c, c * LOG2_E));
        let dropout = spec.dropout.filter(|d| d.p > 0.0);
        let bf16 = spec.compute == Compute::Bf16;
        let plain = cap.is_none() && dropout.is_none() && !bf16 && !plan.has_bias();
        Self { factor: spec.scale * LOG2_E, scale: spec.scale, cap, dropout, bf16, plain }
    }

    /// The modified score in units of ln 2, and the tanh of the soft cap (0 without one).
    ///
    /// # Safety
    /// `bias`, where not null, must be readable for a vector.
    #[inline(always)]
    unsafe fn modify<S: Vector, const PLAIN: bool>(&self, s: S, x: S::V, bias: *const f32) -> (S::V, S::V) {
        if PLAIN {
            return (s.mul(x, s.splat(self.factor)), s.splat(0.0));
        }
        let (mut x, tanh) = match self.cap {
            None => (s.mul(x, s.splat(self.factor)), s.splat(0.0)),
            Some((by, cap)) => {
                let t = simd_math::tanh(s, s.mul(x, s.splat(by)));
                (s.mul(t, s.splat(cap)), t)
            }
        };
        if !bias.is_null() {
            // SAFETY: the caller's promise.
            x = s.add(x, unsafe { s.load_ptr(bias) });
        }
        (x, tanh)
    }
}

/// The lanes of vector `v` of a row of 64.
#[inline(always)]
fn lanes<S: Vector>(bits: u64, v: usize) -> u32 {
    (bits >> (v * S::LANES)) as u32 & ((1u64 << S::LANES) - 1) as u32
}

/// The scores of a block of queries with a tile of keys.
#[derive(Clone, Copy)]
pub(super) struct ScoreTile<'a> {
    pub f: &'a Scores,
    pub plan: &'a Plan<'a>,
    pub block: &'a Block,
    pub mask: &'a TileMask,
    pub b: usize,
    pub kv_head: usize,
    pub tile: usize,
    /// Biases of the heads that share the keys, or null.
    pub bias: *const f32,
}

impl ScoreTile<'_> {
    /// Scores become probabilities relative to the running maximum of their rows.
    ///
    /// # Safety
    /// The pointers must be valid for the block's rows.
    #[inline(always)]
    pub unsafe fn forward<S: Vector>(self, s: S, to: Running) {
        // SAFETY: the caller's promise.
        unsafe {
            if self.f.plain {
                s.job(ForwardRows::<true>(self, to));
            } else {
                s.job(ForwardRows::<false>(self, to));
            }
        }
    }

    /// Scores become dropped-out probabilities, and gradients of probabilities become gradients of q·k.
    ///
    /// # Safety
    /// The pointers must be valid for the block's rows.
    #[inline(always)]
    pub unsafe fn backward<S: Vector>(self, s: S, to: Gradients) {
        // SAFETY: the caller's promise.
        unsafe {
            if self.f.plain {
                s.job(BackwardRows::<true>(self, to));
            } else {
                s.job(BackwardRows::<false>(self, to));
            }
        }
    }

    /// Masks of dropout of the rows, and what is kept is multiplied by; `None` without dropout.
    #[inline(always)]
    fn keep<S: Vector>(&self, s: S, masks: &mut [u64; TILE]) -> Option<f32> {
        let dropout = self.f.dropout.as_ref()?;
        let (plan, block) = (self.plan, self.block);
        let mut last = (usize::MAX, usize::MAX, [0; 2]);
        for (r, k) in masks.iter_mut().enumerate().take(block.rows) {
            let (h, pos) = (block.head[r] as usize, plan.spec.q_start + block.time[r] as usize);
            if (last.0, last.1) != (h, pos / 2) {
                last = (h, pos / 2, s.dropout_masks(dropout, self.b * plan.shape.heads + h, pos / 2, self.tile));
            }
            *k = last.2[pos % 2];
        }
        Some(dropout.gain() as f32)
    }

    /// Where row `r`'s biases begin in tables of them.
    #[inline(always)]
    fn bias_at(&self, r: usize) -> usize {
        self.plan.bias_at(self.block, r, self.kv_head, self.tile)
    }
}

/// Scores of a block of rows, and what each row has gathered.
#[derive(Clone, Copy)]
pub(super) struct Running {
    /// `[rows, 64]`
    pub scores: *mut f32,
    /// The largest score of each row in units of ln 2, `[rows]`.
    pub max: *mut f32,
    /// Lane by lane the sum of each row, `[rows, 16]`.
    pub sum: *mut f32,
    /// A row panel of outputs with rows of `ld`: they are multiplied where a maximum grows.
    pub w: Width,
    pub o: *mut f32,
    pub ld: usize,
}

struct ForwardRows<'a, const PLAIN: bool>(ScoreTile<'a>, Running);

impl<const PLAIN: bool> Job for ForwardRows<'_, PLAIN> {
    #[inline(always)]
    #[allow(clippy::needless_range_loop)] // a row is a place in several tables
    unsafe fn run<S: Vector>(self, s: S) {
        let Self(tile, to) = self;
        let mut keep = [0; TILE];
        let gain = if PLAIN { None } else { tile.keep(s, &mut keep) };
        for r in 0..tile.block.rows {
            // SAFETY: the caller's promise.
            unsafe {
                let mut bias = tile.bias;
                if !PLAIN && !bias.is_null() {
                    bias = bias.add(tile.bias_at(r));
                }
                let (row, state) = (to.scores.add(r * TILE), (to.max.add(r), to.sum.add(r * 16)));
                let (bits, keep) = (tile.mask.bits[r], gain.map(|gain| (keep[r], gain)));
                if let Some(by) = forward_row::<S, PLAIN>(s, tile.f, row, bits, keep, bias, state) {
                    scale_row(s, to.w, to.o, to.ld, r, by);
                }
            }
        }
    }
}

/// One row of the forward: `scores[64]` become probabilities relative to the running maximum, all of
/// them written (masked ones as 0). Returns what the row of outputs must be multiplied by, if anything.
///
/// # Safety
/// The pointers must be valid for a row.
#[inline(always)]
#[allow(clippy::needless_range_loop)] // a vector is a place in several rows
unsafe fn forward_row<S: Vector, const PLAIN: bool>(
    s: S,
    f: &Scores,
    scores: *mut f32,
    bits: u64,
    keep: Option<(u64, f32)>,
    bias: *const f32,
    (state_max, state_sum): (*mut f32, *mut f32),
) -> Option<f32> {
    let vectors = TILE / S::LANES;
    let minus = s.splat(f32::NEG_INFINITY);
    // At most eight vectors; unused ones cost nothing once unrolled.
    let mut x = [minus; 8];
    let mut max = minus;
    // SAFETY: the caller's promise.
    unsafe {
        for v in 0..vectors {
            let on = lanes::<S>(bits, v);
            if on != 0 {
                let at = v * S::LANES;
                let b = if PLAIN || bias.is_null() { bias } else { bias.add(at) };
                let (y, _) = f.modify::<S, PLAIN>(s, s.load_ptr(scores.add(at)), b);
                x[v] = s.select_bits(on, y, minus);
                max = s.max(max, x[v]);
            }
        }
        let (old, new) = (*state_max, s.max_lane(max));
        let mut factor = None;
        if new > old {
            *state_max = new;
            if old > f32::NEG_INFINITY {
                let by = scalar_exp2(s, old - new);
                s.store_ptr(state_sum, s.mul(s.load_ptr(state_sum), s.splat(by)));
                factor = Some(by);
            }
        }
        let max = *state_max;
        // Nothing seen yet: subtracting −∞ would make NaN.
        let shift = s.splat(if max == f32::NEG_INFINITY { 0.0 } else { max });
        let mut sum = s.load_ptr(state_sum);
        for v in 0..vectors {
            let mut p = s.splat(0.0);
            if lanes::<S>(bits, v) != 0 {
                p = simd_math::exp2(s, s.sub(x[v], shift));
                sum = s.add(sum, p);
                if !PLAIN {
                    if let Some((keep, gain)) = keep {
                        p = s.select_bits(lanes::<S>(keep, v), s.mul(p, s.splat(gain)), s.splat(0.0));
                    }
                    p = s.rounded(p, f.bf16);
                }
            }
            s.store_ptr(scores.add(v * S::LANES), p);
        }
        s.store_ptr(state_sum, sum);
        factor
    }
}

#[inline(always)]
fn scalar_exp2<S: Vector>(s: S, x: f32) -> f32 {
    s.max_lane(simd_math::exp2(s, s.splat(x)))
}

/// The end of a row, from its sums by lane: 1 / Σ; 0 where nothing was seen.
///
/// # Safety
/// `sum` must be readable for a vector.
#[inline(always)]
pub(super) unsafe fn finish_row<S: Vector>(s: S, sum: *const f32) -> f32 {
    // SAFETY: the caller's promise.
    let sum = unsafe { s.sum(s.load_ptr(sum)) };
    // The sum counts its own largest term as 1; a NaN stays one.
    if sum == 0.0 { 0.0 } else { 1.0 / sum }
}

/// Rows of the backward.
#[derive(Clone, Copy)]
pub(super) struct Gradients {
    /// `[rows, 64]`
    pub scores: *mut f32,
    /// Gradients of probabilities, `[rows, 64]`.
    pub grads: *mut f32,
    /// The forward's largest score of each row in units of ln 2; +∞ where nothing was seen.
    pub max: *const f32,
    /// One over the forward's sum of each row.
    pub share: *const f32,
    /// Σ out · dout of each row.
    pub delta: *const f32,
    /// Where gradients of the tables of biases are added, or null.
    pub d_bias: *mut f32,
}

struct BackwardRows<'a, const PLAIN: bool>(ScoreTile<'a>, Gradients);

impl<const PLAIN: bool> Job for BackwardRows<'_, PLAIN> {
    #[inline(always)]
    #[allow(clippy::needless_range_loop)] // a row is a place in several tables
    unsafe fn run<S: Vector>(self, s: S) {
        let Self(tile, to) = self;
        let mut keep = [0; TILE];
        let gain = if PLAIN { None } else { tile.keep(s, &mut keep) };
        for r in 0..tile.block.rows {
            // SAFETY: the caller's promise.
            unsafe {
                let mut row = RowInputs {
                    bits: tile.mask.bits[r],
                    keep: gain.map(|gain| (keep[r], gain)),
                    bias: tile.bias,
                    d_bias: to.d_bias,
                    max: *to.max.add(r),
                    share: *to.share.add(r),
                    delta: *to.delta.add(r),
                };
                if !PLAIN && !row.bias.is_null() {
                    let at = tile.bias_at(r);
                    row.bias = row.bias.add(at);
                    if !row.d_bias.is_null() {
                        row.d_bias = row.d_bias.add(at);
                    }
                }
                backward_row::<S, PLAIN>(s, tile.f, to.scores.add(r * TILE), to.grads.add(r * TILE), &row);
            }
        }
    }
}

/// What a row of the backward needs besides its scores.
struct RowInputs {
    bits: u64,
    keep: Option<(u64, f32)>,
    /// The row's slice of the bias table, or null.
    bias: *const f32,
    /// Where the gradient of the bias table is added, or null.
    d_bias: *mut f32,
    /// The forward's largest score in units of ln 2; +∞ where nothing was seen.
    max: f32,
    /// One over the forward's sum.
    share: f32,
    /// Σ out · dout of the row.
    delta: f32,
}

/// One row of the backward: scores become dropped-out probabilities, and gradients of probabilities
/// become gradients of q·k. All 64 are written, masked ones as 0.
///
/// # Safety
/// The pointers must be valid for a row.
#[inline(always)]
unsafe fn backward_row<S: Vector, const PLAIN: bool>(
    s: S,
    f: &Scores,
    scores: *mut f32,
    grads: *mut f32,
    row: &RowInputs,
) {
    let zero = s.splat(0.0);
    let (max, share) = (s.splat(row.max), s.splat(row.share));
    let (delta, scale) = (s.splat(row.delta), s.splat(f.scale));
    // The largest number below 1.
    let below = s.splat(1.0 - f32::EPSILON / 2.0);
    for v in 0..TILE / S::LANES {
        let at = v * S::LANES;
        let on = lanes::<S>(row.bits, v);
        let (mut p, mut ds) = (zero, zero);
        // SAFETY: the caller's promise.
        unsafe {
            if on != 0 {
                let bias = if PLAIN || row.bias.is_null() { row.bias } else { row.bias.add(at) };
                let (x, tanh) = f.modify::<S, PLAIN>(s, s.load_ptr(scores.add(at)), bias);
                // The score has the forward's bits: the same products, in the same order, with the same factors. So it is
                // nowhere above the row's largest, however large they are, and this is the forward's probability.
                p = s.select_bits(on, s.mul(simd_math::exp2(s, s.sub(x, max)), share), zero);
                let mut dp = s.load_ptr(grads.add(at));
                let mut kept = p;
                if !PLAIN && let Some((keep, gain)) = row.keep {
                    let (keep, gain) = (lanes::<S>(keep, v), s.splat(gain));
                    kept = s.select_bits(keep, s.mul(p, gain), zero);
                    dp = s.select_bits(keep, s.mul(dp, gain), zero);
                }
                // Where one key has the whole row, δ is its own dP: their difference is nothing but rounding, which a large
                // scale would make a gradient of. A subtraction still, so that NaN is not swallowed.
                ds = s.mul(p, s.sub(dp, s.select_lt(below, p, dp, delta)));
                if !PLAIN {
                    if !row.d_bias.is_null() {
                        let d = row.d_bias.add(at);
                        s.store_ptr(d, s.add(s.load_ptr(d), ds));
                    }
                    if f.cap.is_some() {
                        ds = s.mul(ds, s.nfma(tanh, tanh, s.splat(1.0)));
                    }
                }
                ds = s.mul(ds, scale);
                p = kept;
                if !PLAIN {
                    (p, ds) = (s.rounded(p, f.bf16), s.rounded(ds, f.bf16));
                }
            }
            s.store_ptr(scores.add(at), p);
            s.store_ptr(grads.add(at), ds);
        }
    }
}
