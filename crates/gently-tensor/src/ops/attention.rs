//! Softmax attention on heads, blockwise: no T×T tensor exists at any time.

use super::rope::{Rope, check_positions};
use super::{check_softcap, dense, need_device, need_float, need_ids, need_same, need_shape};
use crate::backend::{self, AttentionArgs, AttentionGrads, Heads, Positions, QkvBuffers};
use crate::storage::Buffer;
use crate::tape::{Node, recording};
use crate::tensor::View;
use crate::{Compute, DType, Error, Op, Result, Rng, Shape, Tensor, profile};
use gently_kernels::attention::{AttnShape, Mask};
use gently_kernels::dropout::Dropout;

/// What attention computes beyond softmax(scale·q·k)·v.
///
/// ```
/// use gently_tensor::{AttentionSpec, Mask};
/// let spec = AttentionSpec::causal(64);
/// assert_eq!(spec.scale, 0.125);
/// assert_eq!(spec.mask, Mask::Causal);
/// ```
#[derive(Debug, Clone)]
pub struct AttentionSpec {
    /// Factor of q·k, commonly 1/√D.
    pub scale: f32,
    /// Which keys a query sees by position.
    pub mask: Mask,
    /// Position of the first query: the length of the cache before it.
    pub q_start: usize,
    /// Document of each position, u32 `[B, S]`: a query sees only its own document.
    pub docs: Option<Tensor>,
    /// ALiBi slopes, f32 `[H]` (Press et al., arXiv:2108.12409): adds −slope·|i − j|.
    pub alibi: Option<Tensor>,
    /// Learned bias by clipped relative distance, `[H, R]`; gets a gradient.
    pub rel_bias: Option<Tensor>,
    /// Soft cap of scores, c·tanh(s/c) (Gemma 2, arXiv:2408.00118).
    pub softcap: Option<f32>,
    /// Dropout of probabilities; see [`AttentionSpec::with_dropout`].
    pub dropout: Option<Dropout>,
    /// Precision of the products.
    pub compute: Compute,
}

impl AttentionSpec {
    /// A scale and a mask, nothing else.
    pub fn new(scale: f32, mask: Mask) -> AttentionSpec {
        AttentionSpec {
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

    /// Causal attention for heads of width `d`: scale 1/√d.
    pub fn causal(d: usize) -> AttentionSpec {
        AttentionSpec::new(1.0 / (d as f32).sqrt(), Mask::Causal)
    }

    /// With dropout of probabilities from one place of `rng`; `p = 0` draws nothing. Errors: p outside [0, 1).
    pub fn with_dropout(mut self, p: f64, rng: &mut Rng) -> Result<AttentionSpec> {
        Tensor::check_probability("attention", p)?;
        self.dropout = (p > 0.0).then(|| Dropout { p: p as f32, key: rng.key(), offset: rng.advance(1) });
        Ok(self)
    }

    /// Checks the options against the sizes; returns dense snapshots of the tensors among them.
    fn check(&self, op: &'static str, x: &Tensor, s: AttnShape) -> Result<Extras> {
        if s.d == 0 {
            return Err(Error::BadShape { op, shape: Box::new(*x.shape()), why: "a head has at least one channel" });
        }
        if s.kv_heads == 0 || !s.heads.is_multiple_of(s.kv_heads) {
            return Err(Error::BadArgument {
                op,
                name: "kv_heads",
                value: s.kv_heads as f64,
                why: "it must divide the number of heads",
            });
        }
        check_softcap(op, self.softcap.map(f64::from))?;
        // `with_dropout` has looked; the fields can be set without it.
        if let Some(dropout) = self.dropout {
            Tensor::check_probability(op, f64::from(dropout.p))?;
        }
        let positions = self.q_start.checked_add(s.t_q.max(s.t_k));
        if positions.is_none_or(|p| p >= 1 << 31) || s.batch * s.heads >= 1 << 31 {
            return Err(Error::BadShape {
                op,
                shape: Box::new(*x.shape()),
                why: "positions and heads must stay below 2³¹",
            });
        }
        let (mut docs, mut alibi, mut rel_bias) = (None, None, None);
        if let Some(t) = &self.docs {
            need_ids(op, t)?;
            need_device(op, x, t)?;
            need_shape(op, t, &[s.batch, s.t_k], "documents are [B, S]")?;
            if self.q_start + s.t_q > s.t_k {
                return Err(Error::range(op, self.q_start, s.t_q, s.t_k));
            }
            docs = Some(dense(op, t)?);
        }
        if let Some(t) = &self.alibi {
            need_device(op, x, t)?;
            need_shape(op, t, &[s.heads], "ALiBi slopes are [H]")?;
            if t.dtype() != DType::F32 {
                return Err(Error::UnsupportedDType { op, dtype: t.dtype(), takes: "f32 slopes" });
            }
            if t.is_tracked() && crate::is_recording() {
                return Err(Error::NoBackward { op: "attention (ALiBi slopes)" });
            }
            alibi = Some(dense(op, t)?);
        }
        if let Some(t) = &self.rel_bias {
            need_same(op, x, t)?;
            if t.rank() != 2 || t.dims()[0] != s.heads || t.dims()[1] == 0 {
                return Err(Error::BadShape { op, shape: Box::new(*t.shape()), why: "a relative bias is [H, R]" });
            }
            rel_bias = Some(dense(op, t)?);
        }
        Ok(Extras {
            scale: self.scale,
            mask: self.mask,
            q_start: self.q_start,
            softcap: self.softcap,
            dropout: self.dropout,
            compute: self.compute,
            docs,
            alibi,
            rel_bias,
        })
    }
}

/// The options with their tensors as snapshots: what the backward keeps.
struct Extras {
    scale: f32,
    mask: Mask,
    q_start: usize,
    softcap: Option<f32>,
    dropout: Option<Dropout>,
    compute: Compute,
    docs: Option<View>,
    alibi: Option<View>,
    rel_bias: Option<View>,
}

impl Extras {
    fn args<'a>(&'a self, shape: AttnShape, [q, k, v]: [Heads<'a>; 3]) -> AttentionArgs<'a> {
        AttentionArgs {
            shape,
            q,
            k,
            v,
            scale: self.scale,
            mask: self.mask,
            q_start: self.q_start,
            docs: self.docs.as_ref(),
            alibi: self.alibi.as_ref(),
            rel_bias: self.rel_bias.as_ref(),
            softcap: self.softcap,
            dropout: self.dropout,
            compute: self.compute,
        }
    }
}

/// A snapshot of `[B, T, H, D]` whose channels lie side by side; copies only where they do not.
fn heads(op: &'static str, t: &Tensor) -> Result<View> {
    if t.dims()[3] <= 1 || t.strides()[3] == 1 { t.view(op) } else { t.copy()?.view(op) }
}

fn strided(view: &View) -> Heads<'_> {
    let s = view.layout.strides;
    Heads { view, offset: 0, strides: [s[0], s[1], s[2]] }
}

/// Queries, keys and values inside one packed snapshot.
fn packed(view: &View, s: AttnShape) -> [Heads<'_>; 3] {
    let row = (s.heads + 2 * s.kv_heads) * s.d;
    [0, s.heads, s.heads + s.kv_heads].map(|head| Heads { view, offset: head * s.d, strides: [s.t_k * row, row, s.d] })
}

impl Tensor {
    /// softmax(scale·q·kᵀ + …)·v for each head: q (self) `[B, T, H, D]`, k and v `[B, S, Hk, D]`, Hk dividing H;
    /// gives `[B, T, H, D]`. f32 or f64. Heads may be strided views. Errors: shapes, dtypes, options that do not fit.
    pub fn attention(&self, k: &Tensor, v: &Tensor, spec: &AttentionSpec) -> Result<Tensor> {
        const OP: &str = Op::Attention.name();
        let _op = profile::op(OP);
        need_float(OP, self)?;
        need_same(OP, self, k)?;
        need_same(OP, self, v)?;
        let (&[batch, t_q, n_heads, d], &[kb, t_k, kv_heads, kd]) = (self.dims(), k.dims()) else {
            return Err(Error::ShapeMismatch {
                op: OP,
                left: Box::new(*self.shape()),
                right: Box::new(*k.shape()),
                why: "queries are [B, T, H, D], keys [B, S, Hk, D]",
            });
        };
        if kb != batch || kd != d || v.shape() != k.shape() {
            return Err(Error::ShapeMismatch {
                op: OP,
                left: Box::new(*self.shape()),
                right: Box::new(if v.shape() == k.shape() { *k.shape() } else { *v.shape() }),
                why: "queries, keys and values share B and D, keys and values their whole shape",
            });
        }
        let s = AttnShape { batch, t_q, t_k, heads: n_heads, kv_heads, d };
        let extras = spec.check(OP, self, s)?;
        let views = [heads(OP, self)?, heads(OP, k)?, heads(OP, v)?];
        let (device, dtype, shape) = (self.device(), self.dtype(), *self.shape());
        let mut out = Buffer::alloc(OP, device, dtype, Shape::raw(&[s.batch, s.t_q, s.heads, s.d]))?;
        let mut stats = Buffer::alloc(OP, device, dtype, Shape::raw(&[s.batch, s.heads, s.t_q, 2]))?;
        backend::attention(&mut out, &mut stats, &extras.args(s, [&views[0], &views[1], &views[2]].map(strided)))?;
        let out = Tensor::from_buffer(out, shape, None);
        let mut inputs = vec![self, k, v];
        inputs.extend(&spec.rel_bias);
        if !recording(&inputs) {
            return Ok(out);
        }
        let kept = out.view(OP)?;
        let (q_shape, k_shape) = (shape, *k.shape());
        let node = Node::new(Op::Attention, &inputs, move |sink, g| {
            let dout = dense(OP, &g)?;
            drop(g);
            let fresh = |shape: Shape| Buffer::alloc(OP, device, dtype, shape);
            let (mut dq, mut dk, mut dv) = (fresh(q_shape)?, fresh(k_shape)?, fresh(k_shape)?);
            let mut bias = if extras.rel_bias.is_some() { sink.open(3)? } else { None };
            if let Some(acc) = &mut bias {
                acc.make_additive();
            }
            backend::attention_backward(
                device,
                &extras.args(s, [&views[0], &views[1], &views[2]].map(strided)),
                &kept,
                &stats,
                &dout,
                AttentionGrads {
                    qkv: QkvBuffers::Split(&mut dq, &mut dk, &mut dv),
                    rel_bias: bias.as_mut().map(|a| a.buffer()),
                },
            )?;
            drop((kept, stats, dout, views));
            if extras.rel_bias.is_some() {
                sink.close(3, bias)?;
            }
            sink.give(0, Tensor::from_buffer(dq, q_shape, None))?;
            sink.give(1, Tensor::from_buffer(dk, k_shape, None))?;
            sink.give(2, Tensor::from_buffer(dv, k_shape, None))
        });
        Ok(out.attach(node))
    }

    /// [`Tensor::attention`] on one packed projection `[B, T, (H + 2·Hk)·D]`, columns `[q | k | v]`; gives `[B, T, H, D]`.
    ///
    /// With `rope`, queries and keys are turned first; token t stands at position `spec.q_start + t`, or at `positions`
    /// `[B, T]` if given. The packed tensor is taken by value: if the caller gives up its only handle, it is turned in
    /// place, and its gradient is one packed buffer; nothing is split or copied. `spec.q_start` is otherwise ignored,
    /// as queries and keys are the same tokens. Errors as [`Tensor::attention`] and [`Tensor::rope`].
    pub fn attention_packed(
        self,
        n_heads: usize,
        kv_heads: usize,
        rope: Option<&Rope>,
        positions: Option<&Tensor>,
        spec: &AttentionSpec,
    ) -> Result<Tensor> {
        const OP: &str = Op::AttentionPacked.name();
        let _op = profile::op(OP);
        need_float(OP, &self)?;
        let columns = n_heads.checked_add(kv_heads.saturating_mul(2));
        let (&[batch, time, width], Some(columns @ 1..)) = (self.dims(), columns) else {
            return Err(Error::BadShape {
                op: OP,
                shape: Box::new(*self.shape()),
                why: "the packed projection is [B, T, (H + 2·Hk)·D]",
            });
        };
        if !width.is_multiple_of(columns) {
            return Err(Error::BadShape {
                op: OP,
                shape: Box::new(*self.shape()),
                why: "the last dimension is (H + 2·Hk)·D",
            });
        }
        let d = width / columns;
        let s = AttnShape { batch, t_q: time, t_k: time, heads: n_heads, kv_heads, d };
        let start = spec.q_start;
        let same_tokens = AttentionSpec { q_start: 0, ..spec.clone() };
        let extras = same_tokens.check(OP, &self, s)?;
        let positions = match (rope, positions) {
            (Some(rope), Some(p)) => Some(check_positions(rope, &self, p, batch, time, d)?),
            (Some(rope), None) => {
                rope.check(&self, d, start, time)?;
                None
            }
            _ => None,
        };
        // Queries and keys are neighbours in a row: one call turns the heads of both.
        let turn = {
            let rope = rope.cloned();
            move |x: &mut Buffer, inverse: bool| {
                let Some(rope) = &rope else {
                    return;
                };
                let at = positions.as_ref().map_or(Positions::From(start), Positions::Each);
                let sizes = [batch, time, n_heads + kv_heads, d];
                backend::rope(x, rope, sizes, [time * width, width, d], at, inverse);
            }
        };

        let mut inputs = vec![&self];
        inputs.extend(&spec.rel_bias);
        let record = recording(&inputs);
        let (device, dtype, shape) = (self.device(), self.dtype(), *self.shape());
        // The node is made first, because turning in place needs the tensor's history detached from it.
        let mut slot = None;
        if record {
            slot = Some(Node::later(Op::AttentionPacked, &inputs));
        }
        drop(inputs);
        let mut qkv = self.without_node();
        if rope.is_some() {
            if qkv.unique().is_none() {
                qkv = qkv.copy()?;
            }
            if let Some(buffer) = qkv.unique() {
                turn(buffer, false);
            }
        }
        let qkv = dense(OP, &qkv)?;
        let mut out = Buffer::alloc(OP, device, dtype, Shape::raw(&[s.batch, s.t_q, s.heads, s.d]))?;
        let mut stats = Buffer::alloc(OP, device, dtype, Shape::raw(&[s.batch, s.heads, s.t_q, 2]))?;
        backend::attention(&mut out, &mut stats, &extras.args(s, packed(&qkv, s)))?;
        let out = Tensor::from_buffer(out, Shape::raw(&[batch, time, n_heads, d]), None);
        let Some(slot) = slot else {
            return Ok(out);
        };
        let kept = out.view(OP)?;
        let node = slot.with(move |sink, g| {
            let dout = dense(OP, &g)?;
            drop(g);
            let mut dqkv = Buffer::alloc(OP, device, dtype, shape)?;
            let mut bias = if extras.rel_bias.is_some() { sink.open(1)? } else { None };
            if let Some(acc) = &mut bias {
                acc.make_additive();
            }
            backend::attention_backward(
                device,
                &extras.args(s, packed(&qkv, s)),
                &kept,
                &stats,
                &dout,
                AttentionGrads { qkv: QkvBuffers::Packed(&mut dqkv), rel_bias: bias.as_mut().map(|a| a.buffer()) },
            )?;
            drop((kept, stats, dout, qkv));
            if extras.rel_bias.is_some() {
                sink.close(1, bias)?;
            }
            turn(&mut dqkv, true);
            sink.give(0, Tensor::from_buffer(dqkv, shape, None))
        });
        Ok(out.attach(node))
    }
}
