//! What kernels would take beside their operands, for tensors that have shapes only.
//!
//! Here: for each kernel with scratch worth counting, its own account by shape, entered in [`memory`]. Not here: the
//! accounts themselves, which stand beside the kernels (`gently_kernels::scratch`). Products in f64 run on plain kernels,
//! which take nothing; they are counted as if they were f32.

use super::cpu::{AttentionArgs, AttentionGrads, Epilogue, Matrix};
use crate::Compute;
use crate::memory::note_scratch;
use crate::storage::Buffer;
use crate::tensor::View;
use gently_kernels::{attention as kernel, gemm as products, loss, norm};

pub(super) fn gemm(_c: &mut Buffer, compute: Compute, a: Matrix<'_>, b: Matrix<'_>, _ep: Epilogue<'_>) {
    note_scratch(products::scratch(compute, &a.single(0), &b.single(0)));
}

pub(super) fn gemm_batched(
    _c: &mut Buffer,
    compute: Compute,
    a: Matrix<'_>,
    b: Matrix<'_>,
    offsets: &[(usize, usize)],
    _accumulate: bool,
) {
    note_scratch(products::scratch_batched(compute, offsets.len(), &a.single(0), &b.single(0)));
}

pub(super) fn attention(_out: &mut Buffer, _stats: &mut Buffer, args: &AttentionArgs<'_>) {
    note_scratch(kernel::forward_scratch(args.shape, &args.spec()));
}

pub(super) fn attention_backward(args: &AttentionArgs<'_>, grads: &AttentionGrads<'_>) {
    // R, the width of the bias [H, R].
    let bins = args.rel_bias.filter(|_| grads.rel_bias.is_some()).map_or(0, |bias| bias.shape().last());
    note_scratch(kernel::backward_scratch(args.shape, &args.spec(), bins));
}

pub(super) fn norm_backward(x: &View) {
    let width = x.shape().last();
    note_scratch(norm::backward_scratch(x.shape().numel() / width.max(1), width));
}

#[allow(clippy::too_many_arguments)]
pub(super) fn linear_cross_entropy(
    _out: &mut Buffer,
    x: &View,
    w: &View,
    targets: &View,
    _scale: f64,
    _softcap: Option<f64>,
    compute: Compute,
    _per_token: Option<&mut Buffer>,
    grads: Option<(&mut Buffer, &mut Buffer)>,
) {
    let (rows, vocab) = (targets.shape().numel(), w.shape().dims()[0]);
    note_scratch(loss::linear_scratch(compute, rows, x.shape().last(), vocab, grads.is_some()));
}
