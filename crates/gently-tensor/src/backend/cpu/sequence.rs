//! Attention, rotary positions, embeddings and losses on the CPU.

use super::{by_float, try_twin, twin};
use crate::ops::rope::Rope;
use crate::storage::Buffer;
use crate::tensor::View;
use crate::{Compute, DType, Element, Error, Result};
use gently_kernels::attention::{AttnShape, AttnSpec, HeadView, HeadViewMut, Mask, QkvGrads};
use gently_kernels::dropout::Dropout;
use gently_kernels::embedding;
use gently_kernels::loss::{self, LinearCrossEntropy, LinearGrads};
use gently_kernels::rope::{self, Positions as RopePositions};

/// Which row of the rotary table each token uses.
#[derive(Clone, Copy)]
pub(crate) enum Positions<'a> {
    /// Token t stands at this position plus t.
    From(usize),
    /// The position of each token, u32 `[B, T]`, dense.
    Each(&'a View),
}

/// Where queries, keys or values lie: strides of batch, time and head from the view's first element.
pub(crate) struct Heads<'a> {
    pub view: &'a View,
    pub offset: usize,
    pub strides: [usize; 3],
}

impl<'a> Heads<'a> {
    fn view<T: Element>(&self) -> HeadView<'a, T> {
        let [stride_b, stride_t, stride_h] = self.strides;
        HeadView { data: self.view.strided(), offset: self.offset, stride_b, stride_t, stride_h }
    }
}

/// Everything attention reads.
pub(crate) struct AttentionArgs<'a> {
    pub shape: AttnShape,
    pub q: Heads<'a>,
    pub k: Heads<'a>,
    pub v: Heads<'a>,
    pub scale: f32,
    pub mask: Mask,
    pub q_start: usize,
    pub docs: Option<&'a View>,
    pub alibi: Option<&'a View>,
    pub rel_bias: Option<&'a View>,
    pub softcap: Option<f32>,
    pub dropout: Option<Dropout>,
    pub compute: Compute,
}

impl AttentionArgs<'_> {
    pub(in crate::backend) fn spec<T: Element>(&self) -> AttnSpec<'_, T> {
        AttnSpec {
            scale: self.scale,
            mask: self.mask,
            q_start: self.q_start,
            docs: self.docs.map(|d| d.dense()),
            alibi: self.alibi.map(|d| d.dense()),
            rel_bias: self.rel_bias.map(|d| d.dense()),
            softcap: self.softcap,
            dropout: self.dropout,
            compute: self.compute,
        }
    }
}

/// Where attention's gradients go.
pub(crate) struct AttentionGrads<'a> {
    pub qkv: QkvBuffers<'a>,
    pub rel_bias: Option<&'a mut Buffer>,
}

/// One packed `[B, T, (H + 2·Hk)·D]` buffer, or three dense ones.
pub(crate) enum QkvBuffers<'a> {
    Packed(&'a mut Buffer),
    Split(&'a mut Buffer, &'a mut Buffer, &'a mut Buffer),
}

pub(crate) fn attention(out: &mut Buffer, stats: &mut Buffer, args: &AttentionArgs<'_>) -> Result<()> {
    try_twin!("attention", out.dtype(), attention::forward, T => (
        args.shape, &args.spec::<T>(), args.q.view::<T>(), args.k.view::<T>(), args.v.view::<T>(),
        out.slice_mut::<T>(), stats.slice_mut::<T>(),
    ))
}

pub(crate) fn attention_backward(
    args: &AttentionArgs<'_>,
    out: &View,
    stats: &Buffer,
    dout: &View,
    grads: AttentionGrads<'_>,
) -> Result<()> {
    let s = args.shape;
    try_twin!("attention", out.dtype(), attention::backward, T => (
        s, &args.spec::<T>(), args.q.view::<T>(), args.k.view::<T>(), args.v.view::<T>(),
        out.dense::<T>(), stats.slice::<T>(), dout.dense::<T>(),
        match grads.qkv {
            QkvBuffers::Packed(data) => QkvGrads::Packed { data: data.slice_mut::<T>() },
            QkvBuffers::Split(dq, dk, dv) => QkvGrads::Split {
                dq: HeadViewMut::contiguous(dq.slice_mut::<T>(), s.t_q, s.heads, s.d),
                dk: HeadViewMut::contiguous(dk.slice_mut::<T>(), s.t_k, s.kv_heads, s.d),
                dv: HeadViewMut::contiguous(dv.slice_mut::<T>(), s.t_k, s.kv_heads, s.d),
            },
        },
        grads.rel_bias.map(|b| b.slice_mut::<T>()),
    ))
}

pub(crate) fn rope(
    x: &mut Buffer,
    rope: &Rope,
    sizes: [usize; 4],
    strides: [usize; 3],
    positions: Positions<'_>,
    inverse: bool,
) {
    let positions = match positions {
        Positions::From(start) => RopePositions::From(start),
        Positions::Each(view) => RopePositions::Each(view.dense()),
    };
    let [stride_b, stride_t, stride_h] = strides;
    macro_rules! turn {
        ($T:ty, $table:expr) => {
            rope::rotate(
                HeadViewMut { data: x.slice_mut::<$T>(), offset: 0, stride_b, stride_t, stride_h },
                sizes,
                $table,
                positions,
                rope.style(),
                inverse,
            )
        };
    }
    if x.dtype() == DType::F64 {
        turn!(f64, rope.table_f64());
    } else {
        turn!(f32, rope.table());
    }
}

fn id_error(op: &'static str) -> impl Fn(embedding::OutOfRange) -> Error {
    move |e| Error::IdOutOfRange { op, id: e.id, position: e.position, size: e.rows }
}

pub(crate) fn embedding(
    out: &mut Buffer,
    table: &View,
    ids: &View,
    positions: Option<(&View, usize, usize)>,
) -> Result<()> {
    let width = table.shape().last();
    by_float!(out.dtype(), T => embedding::gather(
        table.dense::<T>(),
        width,
        ids.dense(),
        positions.map(|(table, block, start)| embedding::Positions {
            table: table.dense::<T>(),
            block,
            start,
        }),
        out.slice_mut::<T>(),
    ))
    .map_err(id_error("embedding"))
}

pub(crate) fn embedding_backward(dtable: &mut Buffer, width: usize, ids: &View, dy: &View) -> Result<()> {
    by_float!(dtable.dtype(), T => embedding::scatter_add(
        dtable.slice_mut::<T>(), width, ids.dense(), dy.dense::<T>(),
    ))
    .map_err(id_error("embedding"))
}

pub(crate) fn positions_backward(dtable: &mut Buffer, width: usize, block: usize, start: usize, dy: &View) {
    by_float!(dtable.dtype(), T => embedding::positions_add(
        dtable.slice_mut::<T>(), width, block, start, dy.dense::<T>(),
    ));
}

#[allow(clippy::too_many_arguments)]
pub(crate) fn linear_cross_entropy(
    out: &mut Buffer,
    x: &View,
    w: &View,
    targets: &View,
    scale: f64,
    softcap: Option<f64>,
    compute: Compute,
    per_token: Option<&mut Buffer>,
    grads: Option<(&mut Buffer, &mut Buffer)>,
) -> Result<()> {
    let total = twin!(out.dtype(), loss::linear_cross_entropy, T => (
        &LinearCrossEntropy {
            x: x.dense::<T>(),
            w: w.dense::<T>(),
            width: x.shape().last(),
            targets: targets.dense(),
            softcap: softcap.map(|c| c as T),
            scale: scale as T,
            compute,
        },
        per_token.map(|b| b.slice_mut::<T>()),
        grads.map(|(dx, dw)| LinearGrads { dx: dx.slice_mut::<T>(), dw: dw.slice_mut::<T>() }),
    ))
    .map_err(loss_error("linear_cross_entropy"))?;
    super::fill(out, scale * total.total);
    Ok(())
}

fn loss_error(op: &'static str) -> impl Fn(loss::Error) -> Error {
    move |e| match e {
        loss::Error::Target(e) => Error::IdOutOfRange { op, id: e.target, position: e.position, size: e.vocab },
        loss::Error::Memory(e) => Error::NoScratch { op, bytes: e.bytes },
    }
}

pub(crate) fn cross_entropy(
    out: &mut Buffer,
    logits: &View,
    targets: &View,
    scale: f64,
    softcap: Option<f64>,
    grad: Option<&mut Buffer>,
) -> Result<()> {
    let total = twin!(out.dtype(), loss::softmax_cross_entropy, T => (
        logits.dense::<T>(),
        logits.shape().last(),
        targets.dense(),
        softcap.map(|c| c as T),
        None,
        grad.map(|g| (scale as T, g.slice_mut::<T>())),
    ))
    .map_err(loss_error("cross_entropy"))?;
    super::fill(out, scale * total.total);
    Ok(())
}
