//! What happens between the products, row by row: scores become probabilities, and their gradients.
//!
//! Here: score modifiers (scale, soft cap, biases), masks, the online softmax, the gradient of scores.
//! Not here: which rows and tiles there are (see `plan`).
//!
//! Scores are kept in units of ln 2, so that the exponential is a bare 2^x: factors carry log₂ e.

use std::f32::consts::{LN_2, LOG2_E};

use super::dropout::Dropout;
use super::plan::{Block, Plan};
use super::product::TILE;
use super::vector::{Job, Vector};
use crate::gemm::Compute;
use crate::simd_math;

/// A pass over the tiles of a task, compiled for scores without modifiers and for all others.
pub(super) trait Sweep {
    /// What the task is part of.
    fn plan(&self) -> &Plan<'_>;

    /// # Safety
    /// As [`Job::run`]; `PLAIN` only where no modifier is on.
    unsafe fn sweep<S: Vector, const PLAIN: bool>(self, s: S, f: Scores);
}

impl<T: Sweep> Job for T {
    #[inline(always)]
    unsafe fn run<S: Vector>(self, s: S) {
        let scores = Scores::new(self.plan());
        let plain = scores.is_plain() && !self.plan().has_bias();
        // SAFETY: the caller's promise.
        unsafe {
            if plain {
                self.sweep::<S, true>(s, scores);
            } else {
                self.sweep::<S, false>(s, scores);
            }
        }
    }
}

/// Factors of scores and the modifiers that are on.
#[derive(Clone, Copy)]
pub(super) struct Scores {
    /// scale · log₂ e
    factor: f32,
    scale: f32,
    /// Soft cap: scale / c, and c · log₂ e.
    cap: Option<(f32, f32)>,
    pub dropout: Option<Dropout>,
    pub bf16: bool,
}

impl Scores {
    pub fn new(plan: &Plan<'_>) -> Self {
        let spec = plan.spec;
        Self {
            factor: spec.scale * LOG2_E,
            scale: spec.scale,
            cap: spec.softcap.map(|c| (spec.scale / c, c * LOG2_E)),
            dropout: spec.dropout.filter(|d| d.p > 0.0),
            bf16: spec.compute == Compute::Bf16,
        }
    }

    /// No soft cap, no dropout, no rounding.
    fn is_plain(&self) -> bool {
        self.cap.is_none() && self.dropout.is_none() && !self.bf16
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

/// Masks of dropout for the rows of a block over one tile.
#[inline(always)]
pub(super) fn keep_masks<S: Vector>(
    s: S,
    dropout: &Dropout,
    plan: &Plan<'_>,
    block: &Block,
    b: usize,
    tile: usize,
    keep: &mut [u64; TILE],
) {
    let mut last = (usize::MAX, usize::MAX, [0; 2]);
    for (r, k) in keep.iter_mut().enumerate().take(block.rows) {
        let (h, pos) = (block.head[r] as usize, plan.spec.q_start + block.time[r] as usize);
        if (last.0, last.1) != (h, pos / 2) {
            last = (h, pos / 2, s.dropout_masks(dropout, b * plan.shape.heads + h, pos / 2, tile));
        }
        *k = last.2[pos % 2];
    }
}

/// The running softmax of one row: its maximum in units of ln 2, and lane by lane its sum.
pub(super) struct Running {
    pub max: *mut f32,
    pub sum: *mut f32,
}

/// One row of the forward: `scores[64]` become probabilities relative to the running maximum, all of
/// them written (masked ones as 0). Returns what the row of outputs must be multiplied by, if anything.
///
/// # Safety
/// The pointers must be valid for a row.
#[inline(always)]
#[allow(clippy::needless_range_loop)] // a vector is a place in several rows
pub(super) unsafe fn forward_row<S: Vector, const PLAIN: bool>(
    s: S,
    f: &Scores,
    scores: *mut f32,
    bits: u64,
    keep: Option<(u64, f32)>,
    bias: *const f32,
    state: Running,
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
        let (old, new) = (*state.max, s.max_lane(max));
        let mut factor = None;
        if new > old {
            *state.max = new;
            if old > f32::NEG_INFINITY {
                let by = scalar_exp2(s, old - new);
                s.store_ptr(state.sum, s.mul(s.load_ptr(state.sum), s.splat(by)));
                factor = Some(by);
            }
        }
        let max = *state.max;
        // Nothing seen yet: subtracting −∞ would make NaN.
        let shift = s.splat(if max == f32::NEG_INFINITY { 0.0 } else { max });
        let mut sum = s.load_ptr(state.sum);
        for v in 0..vectors {
            let mut p = s.splat(0.0);
            if lanes::<S>(bits, v) != 0 {
                p = s.exp2(s.sub(x[v], shift));
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
        s.store_ptr(state.sum, sum);
        factor
    }
}

#[inline(always)]
fn scalar_exp2<S: Vector>(s: S, x: f32) -> f32 {
    s.max_lane(s.exp2(s.splat(x)))
}

/// The end of a row: (1 / Σ, natural log-sum-exp); (0, −∞) where nothing was seen.
///
/// # Safety
/// The pointers must be valid for a row.
#[inline(always)]
pub(super) unsafe fn finish_row<S: Vector>(s: S, state: Running) -> (f32, f32) {
    // SAFETY: the caller's promise.
    let (max, sum) = unsafe { (*state.max, s.sum(s.load_ptr(state.sum))) };
    // The sum counts its own largest term as 1; a NaN stays one.
    if sum == 0.0 { (0.0, f32::NEG_INFINITY) } else { (1.0 / sum, max * LN_2 + sum.ln()) }
}

/// What a row of the backward needs besides its scores.
pub(super) struct Given {
    pub bits: u64,
    pub keep: Option<(u64, f32)>,
    /// The row's slice of the bias table, or null.
    pub bias: *const f32,
    /// Where the gradient of the bias table is added, or null.
    pub d_bias: *mut f32,
    /// Log-sum-exp in units of ln 2; +∞ where nothing was seen.
    pub lse: f32,
    /// Σ out · dout of the row.
    pub delta: f32,
}

/// One row of the backward: scores become dropped-out probabilities, and gradients of probabilities
/// become gradients of q·k. All 64 are written, masked ones as 0.
///
/// # Safety
/// The pointers must be valid for a row.
#[inline(always)]
pub(super) unsafe fn backward_row<S: Vector, const PLAIN: bool>(
    s: S,
    f: &Scores,
    scores: *mut f32,
    grads: *mut f32,
    given: &Given,
) {
    let zero = s.splat(0.0);
    let (lse, delta, scale) = (s.splat(given.lse), s.splat(given.delta), s.splat(f.scale));
    for v in 0..TILE / S::LANES {
        let at = v * S::LANES;
        let on = lanes::<S>(given.bits, v);
        let (mut p, mut ds) = (zero, zero);
        // SAFETY: the caller's promise.
        unsafe {
            if on != 0 {
                let bias = if PLAIN || given.bias.is_null() { given.bias } else { given.bias.add(at) };
                let (x, tanh) = f.modify::<S, PLAIN>(s, s.load_ptr(scores.add(at)), bias);
                p = s.select_bits(on, s.exp2(s.sub(x, lse)), zero);
                let mut dp = s.load_ptr(grads.add(at));
                let mut kept = p;
                if !PLAIN && let Some((keep, gain)) = given.keep {
                    let (keep, gain) = (lanes::<S>(keep, v), s.splat(gain));
                    kept = s.select_bits(keep, s.mul(p, gain), zero);
                    dp = s.select_bits(keep, s.mul(dp, gain), zero);
                }
                ds = s.mul(p, s.sub(dp, delta));
                if !PLAIN {
                    if !given.d_bias.is_null() {
                        let d = given.d_bias.add(at);
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
