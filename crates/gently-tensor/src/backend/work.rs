//! The work of the kernels whose cost is more than a count of elements. Conventions: [`mod@crate::profile`].

use super::cpu::{AttentionArgs, Epilogue, Matrix, NormGrads};
use crate::ops::rope::Rope;
use crate::profile::Work;
use crate::storage::Buffer;
use crate::tensor::View;
use crate::{Activation, Compute};
use gently_kernels::attention::Mask;
use gently_kernels::norm::Kind as NormKind;

/// Operations of an activation on one element; its derivative takes about twice as many.
pub(super) fn activation(act: Activation) -> usize {
    match act {
        Activation::None => 0,
        Activation::Relu => 1,
        Activation::Relu2 => 2,
        Activation::Silu => 4,
        Activation::GeluErf => 5,
        Activation::GeluTanh => 9,
    }
}

fn matrix_bytes(m: Matrix<'_>) -> usize {
    m.rows * m.cols * m.view.dtype().size()
}

fn multiply_adds(a: Matrix<'_>, b: Matrix<'_>) -> u64 {
    a.rows as u64 * a.cols as u64 * b.cols as u64
}

/// M·N·K multiply-adds; what the epilogue reads and writes is part of the traffic.
pub(super) fn gemm(c: &Buffer, compute: Compute, a: Matrix<'_>, b: Matrix<'_>, ep: &Epilogue<'_>) -> Work {
    let out = c.bytes() * (1 + usize::from(ep.accumulate));
    let around = ep.bias.map_or(0, View::bytes)
        + ep.residual.map_or(0, View::bytes)
        + ep.pre_activation.as_ref().map_or(0, |p| p.bytes());
    Work::products(multiply_adds(a, b), matrix_bytes(a) + matrix_bytes(b) + out + around, compute)
}

/// The same for `count` products.
pub(super) fn gemm_batched(
    c: &Buffer,
    compute: Compute,
    a: Matrix<'_>,
    b: Matrix<'_>,
    count: usize,
    accumulate: bool,
) -> Work {
    let bytes = (matrix_bytes(a) + matrix_bytes(b)) * count + c.bytes() * (1 + usize::from(accumulate));
    Work::products(multiply_adds(a, b) * count as u64, bytes, compute)
}

/// Operations on one element: mean, centring, squares, scale and shift; squares and scale.
pub(super) fn norm(kind: NormKind) -> usize {
    match kind {
        NormKind::Layer => 7,
        NormKind::Rms => 4,
    }
}

/// Two sums over a row and the gradient itself, and the sums of the parameters' gradients.
pub(super) fn norm_backward(kind: NormKind, x: &View, grads: &NormGrads<'_>) -> Work {
    let each = match kind {
        NormKind::Layer => 12,
        NormKind::Rms => 9,
    };
    Work::pass(each * x.len(), x.bytes() * (3 + usize::from(grads.accumulate_dx)))
}

/// Four multiplications and two additions for each pair of channels that is turned.
pub(super) fn rope(x: &Buffer, rope: &Rope, [b, t, h, _]: [usize; 4]) -> Work {
    let turned = b * t * h * rope.rotated();
    Work::pass(3 * turned, 2 * turned * x.dtype().size())
}

/// Scores that the mask and the borders of documents leave, of all rows and heads.
fn scores(args: &AttentionArgs<'_>) -> u64 {
    let s = args.shape;
    // On Meta documents have no numbers: the mask alone counts there.
    let docs = args.docs.map(|docs| docs.dense::<u32>()).unwrap_or_default();
    let pairs: u64 = match docs.is_empty() {
        true => args.mask.pairs(args.q_start, s.t_q, s.t_k) * s.batch as u64,
        false => docs.chunks(s.t_k.max(1)).map(|row| in_documents(args.mask, args.q_start, s.t_q, row)).sum(),
    };
    pairs * s.heads as u64
}

/// Pairs of one row, whose keys have the documents `row`: each stretch of one document by itself. Where a document comes back
/// after another, what its parts see of each other is not counted.
fn in_documents(mask: Mask, q_start: usize, t_q: usize, row: &[u32]) -> u64 {
    let mut at = 0;
    let mut pairs = 0;
    for document in row.chunk_by(|a, b| a == b) {
        let end = at + document.len();
        let (from, upto) = (q_start.max(at), (q_start + t_q).min(end));
        pairs += mask.pairs(from - at, upto.saturating_sub(from), document.len());
        at = end;
    }
    pairs
}

/// Elements of queries, of keys and of values.
fn heads(args: &AttentionArgs<'_>) -> [usize; 2] {
    let s = args.shape;
    [s.out_len(), s.batch * s.t_k * s.kv_heads * s.d]
}

/// Two products: D multiply-adds for each score, D for its share of the result.
pub(super) fn attention(args: &AttentionArgs<'_>) -> Work {
    let ([q, kv], s) = (heads(args), args.shape);
    let bytes = (2 * q + 2 * kv + s.stats_len()) * args.q.view.dtype().size();
    Work::products(2 * scores(args) * s.d as u64, bytes, args.compute)
}

/// Four products: the gradients of probabilities, values, queries and keys. The scores' second computation is not counted.
pub(super) fn attention_backward(args: &AttentionArgs<'_>) -> Work {
    let ([q, kv], s) = (heads(args), args.shape);
    let bytes = (4 * q + 4 * kv + s.stats_len()) * args.q.view.dtype().size();
    Work::products(4 * scores(args) * s.d as u64, bytes, args.compute)
}

/// Bytes: rows of the table read and written, and rows of positions.
pub(super) fn embedding(out: &Buffer, ids: &View, with_positions: bool) -> usize {
    out.bytes() * (2 + usize::from(with_positions)) + ids.bytes()
}

/// N·V·C multiply-adds for the logits, twice as many more for both gradients, which are made here and not in the backward.
pub(super) fn linear_cross_entropy(x: &View, w: &View, targets: &View, compute: Compute, with_grads: bool) -> Work {
    let (width, rows) = (w.shape().last().max(1), targets.len());
    let logits = rows as u64 * (w.len() / width) as u64 * width as u64;
    let read = x.bytes() + w.bytes() + targets.bytes();
    match with_grads {
        false => Work::products(logits, read, compute),
        true => Work::products(3 * logits, read + x.bytes() + 2 * w.bytes(), compute),
    }
}
