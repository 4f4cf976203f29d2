//! What attention computes, one row at a time, over `f32` or `f64`.
//!
//! Here: the reference of [`forward`](super::forward) and [`backward`](super::backward), which also serves
//! `f64` tensors. Not here: anything fast. One row of scores is held at a time, never all of them.

use std::ops::Range;

use super::{AttnShape, AttnSpec, HeadView, Part, QkvGrads, bias_entry, check_forward, check_grads, visible};
use crate::gemm::Compute;
use crate::pool::{self, Disjoint};
use crate::real::Real;

/// One (batch, head) of one attention.
struct Head<'a, T> {
    s: AttnShape,
    spec: &'a AttnSpec<'a, T>,
    q: HeadView<'a, T>,
    k: HeadView<'a, T>,
    v: HeadView<'a, T>,
    b: usize,
    h: usize,
}

/// Rounds an input of a product, as [`AttnSpec::compute`] asks.
fn input<T: Real>(compute: Compute, x: T) -> T {
    match compute {
        Compute::F32 => x,
        Compute::Bf16 => T::from_f32(half::bf16::from_f32(x.to_f32()).to_f32()),
    }
}

impl<'a, T: Real> Head<'a, T> {
    fn query(&self, i: usize) -> &'a [T] {
        self.q.head(self.b, i, self.h, self.s.d)
    }
    fn key(&self, j: usize) -> &'a [T] {
        self.k.head(self.b, j, self.h / self.s.group(), self.s.d)
    }
    fn value(&self, j: usize) -> &'a [T] {
        self.v.head(self.b, j, self.h / self.s.group(), self.s.d)
    }

    fn dot(&self, x: &[T], y: &[T]) -> T {
        let c = self.spec.compute;
        x.iter().zip(y).map(|(&x, &y)| input(c, x) * input(c, y)).sum()
    }

    /// Adds `weight` times `row` to `to`.
    fn add(&self, weight: T, row: &[T], to: &mut [T]) {
        let c = self.spec.compute;
        let weight = input(c, weight);
        for (a, &x) in to.iter_mut().zip(row) {
            *a += weight * input(c, x);
        }
    }

    /// The keys that query `i` sees by position, and those among them that its document allows.
    fn keys(&self, i: usize) -> (Range<usize>, impl Fn(usize) -> bool + use<'a, T>) {
        let pos = self.spec.q_start + i;
        let (lo, hi) = visible(self.spec.mask, pos, self.s.t_k);
        let docs = self.spec.docs.map(|d| &d[self.b * self.s.t_k..][..self.s.t_k]);
        (lo..hi, move |j| docs.is_none_or(|d| d[j] == d[pos]))
    }

    /// The score of query `i` and key `j`, and the derivative of it by `scale · q·k`.
    fn score(&self, i: usize, j: usize) -> (T, T) {
        let (mut s, mut slope) = (T::from_f32(self.spec.scale) * self.dot(self.query(i), self.key(j)), T::ONE);
        if let Some(cap) = self.spec.softcap {
            let cap = T::from_f32(cap);
            let t = (s / cap).tanh();
            (s, slope) = (cap * t, T::ONE - t * t);
        }
        let pos = self.spec.q_start + i;
        if let Some(a) = self.spec.alibi {
            s -= T::from_f32(a[self.h]) * T::from_f64(pos.abs_diff(j) as f64);
        }
        if let Some(bias) = self.spec.rel_bias {
            let r = bias.len() / self.s.heads;
            s += bias[self.h * r + bias_entry(self.spec.mask, r, pos, j)];
        }
        (s, slope)
    }

    /// What dropout multiplies the probability of key `j` for query `i` by.
    fn kept(&self, i: usize, j: usize) -> T {
        match &self.spec.dropout {
            None => T::ONE,
            Some(d) => {
                let keeps = d.keeps(self.b * self.s.heads + self.h, self.spec.q_start + i, j);
                if keeps { T::from_f64(d.gain()) } else { T::ZERO }
            }
        }
    }

    /// The output of query `i`, its largest score, and one over its sum.
    fn forward_row(&self, i: usize, out: &mut [T], scores: &mut [T]) -> [T; 2] {
        out.fill(T::ZERO);
        let (range, allowed) = self.keys(i);
        let mut max = T::NEG_INFINITY;
        for j in range.clone() {
            scores[j] = if allowed(j) { self.score(i, j).0 } else { T::NEG_INFINITY };
            max = max.max(scores[j]);
        }
        if max == T::NEG_INFINITY {
            // Nothing to see, but `max` passes over NaN.
            let nan = range.map(|j| scores[j]).find(|&s| s.is_nan());
            out.fill(nan.unwrap_or(T::ZERO));
            return [max, nan.unwrap_or(T::ZERO)];
        }
        let sum: T = range.clone().map(|j| (scores[j] - max).exp()).sum();
        for j in range.filter(|&j| allowed(j)) {
            // The division comes after the product, as in the blockwise form: it shows in bf16.
            self.add((scores[j] - max).exp() * self.kept(i, j), self.value(j), out);
        }
        for x in out {
            *x /= sum;
        }
        [max, T::ONE / sum]
    }
}

/// See [`forward`](super::forward). The largest score of each row is in nats here, not in units of ln 2.
pub fn forward<T: Real>(
    shape: AttnShape,
    spec: &AttnSpec<'_, T>,
    q: HeadView<'_, T>,
    k: HeadView<'_, T>,
    v: HeadView<'_, T>,
    out: &mut [T],
    stats: &mut [T],
) {
    check_forward(shape, spec, [&q, &k, &v], out.len(), stats.len());
    let s = shape;
    let (out, stats) = (Disjoint::new(out), Disjoint::new(stats));
    pool::parallel(s.batch * s.heads, |task| {
        let head = Head { s, spec, q, k, v, b: task / s.heads, h: task % s.heads };
        let mut scores = vec![T::ZERO; s.t_k];
        for i in 0..s.t_q {
            // SAFETY: each (batch, query, head) is written by one task, once.
            let (out, stats) = unsafe {
                (out.part(((head.b * s.t_q + i) * s.heads + head.h) * s.d, s.d), stats.part((task * s.t_q + i) * 2, 2))
            };
            stats.copy_from_slice(&head.forward_row(i, out, &mut scores));
        }
    });
}

/// See [`backward`](super::backward).
#[allow(clippy::too_many_arguments)]
pub fn backward<T: Real>(
    shape: AttnShape,
    spec: &AttnSpec<'_, T>,
    q: HeadView<'_, T>,
    k: HeadView<'_, T>,
    v: HeadView<'_, T>,
    out: &[T],
    stats: &[T],
    dout: &[T],
    mut grads: QkvGrads<'_, T>,
    mut d_rel_bias: Option<&mut [T]>,
) {
    let s = shape;
    check_forward(s, spec, [&q, &k, &v], out.len(), stats.len());
    assert_eq!(dout.len(), out.len(), "attention: gradient of the output is [B, Tq, H, D]");
    check_grads(s, &grads);
    if let Some(d) = &d_rel_bias {
        assert_eq!(Some(d.len()), spec.rel_bias.map(<[T]>::len), "attention: gradient of the relative bias is [H, R]");
    }
    for b in 0..s.batch {
        for t in 0..s.t_k {
            for h in 0..s.kv_heads {
                grads.part(s, Part::K).head(b, t, h, s.d).fill(T::ZERO);
                grads.part(s, Part::V).head(b, t, h, s.d).fill(T::ZERO);
            }
        }
    }
    let scale = T::from_f32(spec.scale);
    let mut dq = vec![T::ZERO; s.d];
    for b in 0..s.batch {
        for h in 0..s.heads {
            let head = Head { s, spec, q, k, v, b, h };
            for i in 0..s.t_q {
                let row = ((b * s.t_q + i) * s.heads + h) * s.d;
                let (o, d_o) = (&out[row..][..s.d], &dout[row..][..s.d]);
                let [max, share] = [0, 1].map(|n| stats[((b * s.heads + h) * s.t_q + i) * 2 + n]);
                // Σⱼ Pᵢⱼ dPᵢⱼ, with or without dropout.
                let delta: T = o.iter().zip(d_o).map(|(&x, &y)| x * y).sum();
                dq.fill(T::ZERO);
                let (range, allowed) = head.keys(i);
                for j in range.filter(|&j| allowed(j)) {
                    let (score, slope) = head.score(i, j);
                    let kept = head.kept(i, j);
                    let p = if score == T::NEG_INFINITY { T::ZERO } else { (score - max).exp() * share };
                    head.add(p * kept, d_o, grads.part(s, Part::V).head(b, j, h / s.group(), s.d));
                    let dp = kept * head.dot(d_o, head.value(j));
                    // Where one key has the whole row, δ is its own dP but for rounding.
                    let ds = p * (dp - if p == T::ONE { dp } else { delta });
                    if let (Some(d), Some(bias)) = (&mut d_rel_bias, spec.rel_bias) {
                        let r = bias.len() / s.heads;
                        d[h * r + bias_entry(spec.mask, r, spec.q_start + i, j)] += ds;
                    }
                    let ds = ds * slope * scale;
                    head.add(ds, head.query(i), grads.part(s, Part::K).head(b, j, h / s.group(), s.d));
                    head.add(ds, head.key(j), &mut dq);
                }
                grads.part(s, Part::Q).head(b, i, h, s.d).copy_from_slice(&dq);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Mask;
    use super::*;

    #[test]
    fn rows_of_nan_are_nan_and_rows_of_nothing_are_zeros() {
        let s = AttnShape { batch: 1, t_q: 3, t_k: 3, heads: 1, kv_heads: 1, d: 2 };
        fn view(data: &[f32]) -> HeadView<'_, f32> {
            HeadView::contiguous(data, 3, 1, 2)
        }
        let (ones, minus, nan) = ([1.0; 6], [f32::NEG_INFINITY; 3], f32::NAN);
        let first = [nan, nan, 1.0, 1.0, 1.0, 1.0];
        // Queries see only NaN, then NaN among −∞, then only −∞.
        for (bias, k, nans) in
            [(None, [nan; 6], true), (Some(&minus[..]), first, true), (Some(&minus[..]), ones, false)]
        {
            let spec = AttnSpec { rel_bias: bias, ..AttnSpec::new(1.0, Mask::Causal) };
            for fast in [false, true] {
                let (mut out, mut stats) = ([9.0; 6], [9.0; 6]);
                let (q, k, v) = (view(&ones), view(&k), view(&ones));
                match fast {
                    true => super::super::forward(s, &spec, q, k, v, &mut out, &mut stats).unwrap(),
                    false => forward(s, &spec, q, k, v, &mut out, &mut stats),
                }
                if nans {
                    let shares = stats.iter().skip(1).step_by(2);
                    assert!(out.iter().chain(shares).all(|x| x.is_nan()), "fast {fast}: {out:?} {stats:?}");
                } else {
                    let nothing = [[f32::NEG_INFINITY, 0.0]; 3];
                    assert_eq!((out, stats.as_slice()), ([0.0; 6], nothing.as_flattened()), "fast {fast}");
                }
            }
        }
    }
}
