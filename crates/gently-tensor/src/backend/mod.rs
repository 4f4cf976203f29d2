//! The seam between operations and whoever computes them.
//!
//! Operations decide shapes, dtypes and what is recorded; everything that touches values goes through a function of this
//! table, which looks at the output's device and calls that device's implementation. A new device adds one module with
//! the same functions and one arm here; no operation changes. `Device::Meta` computes nothing: its buffers exist only in
//! the pool's accounts.
//!
//! Each function states the work it stands for (see [`profile`](mod@crate::profile)) behind its signature, so that a kernel
//! cannot be called unseen and its cost stands in one place.

mod cpu;
mod meta;
mod work;

use crate::ops::rope::Rope;
use crate::profile::{self, Work};
use crate::shape::{Layout, Shape};
use crate::storage::Buffer;
use crate::tensor::View;
use crate::{Activation, Compute, Device, Result};
pub(crate) use cpu::{AttentionArgs, AttentionGrads, Epilogue, Heads, Matrix, NormGrads, Positions, QkvBuffers};
pub(crate) use gently_kernels::elementwise::{Binary, Unary};
pub(crate) use gently_kernels::norm::Kind as NormKind;

/// A function of one number, its constants in f64.
pub(crate) type UnaryOp = Unary<f64>;

/// What a device that computes nothing returns.
trait Done {
    fn done() -> Self;
}
impl Done for () {
    fn done() {}
}
impl Done for Result<()> {
    fn done() -> Self {
        Ok(())
    }
}

/// What `Device::Meta` does in place of a call: nothing, or the account of what its kernel takes beside the operands.
macro_rules! on_meta {
    ($name:ident, $out:expr $(, $arg:expr)*) => {
        Done::done()
    };
    (counted $name:ident, $out:expr $(, $arg:expr)*) => {{
        meta::$name($out $(, $arg)*);
        Done::done()
    }};
}

/// `counted` marks a kernel that takes memory worth counting beside its operands.
macro_rules! seam {
    ($($(#[$doc:meta])* fn $name:ident($out:ident: $out_ty:ty $(, $arg:ident: $ty:ty)*) $(-> $ret:ty)? $(, $counted:ident)? => $work:expr;)*) => {
        $($(#[$doc])*
        #[allow(clippy::too_many_arguments)]
        #[inline]
        pub(crate) fn $name($out: $out_ty $(, $arg: $ty)*) $(-> $ret)? {
            let _call = profile::call(stringify!($name), || $work);
            match $out.device() {
                Device::Cpu => cpu::$name($out $(, $arg)*),
                Device::Meta => on_meta!($($counted)? $name, $out $(, $arg)*),
            }
        })*
    };
}

seam! {
    /// out = value
    fn fill(out: &mut Buffer, value: f64)
        => Work::pass(0, out.bytes());
    /// out = x, made contiguous
    fn copy(out: &mut Buffer, x: &View)
        => Work::pass(0, 2 * out.bytes());
    /// out = x in out's dtype; x dense
    fn cast(out: &mut Buffer, x: &View)
        => Work::pass(0, x.bytes() + out.bytes());
    /// out = scale·(uniform or normal) + shift, f32 or f64; the random numbers are the same f32 for both
    fn random(out: &mut Buffer, key: [u32; 2], offset: u64, normal: bool, scale: f64, shift: f64)
        => Work::pass(2 * out.len(), out.bytes());
    /// y += x, both dense
    fn add_assign(y: &mut Buffer, x: &View)
        => Work::pass(y.len(), 3 * y.bytes());
    /// y *= factor
    fn scale(y: &mut Buffer, factor: f64)
        => Work::pass(y.len(), 2 * y.bytes());
    /// y[part] += x, x dense
    fn add_part(y: &mut Buffer, part: &Layout, x: &View)
        => Work::pass(x.len(), 3 * x.bytes());
    /// y[part] = x, x dense, any dtype
    fn assign_part(y: &mut Buffer, part: &Layout, x: &View)
        => Work::pass(0, 2 * x.bytes());
    /// out = op(a, b) over `shape`
    fn binary(out: &mut Buffer, op: Binary, shape: &Shape, a: &View, b: &View)
        => Work::pass(out.len(), a.bytes() + b.bytes() + out.bytes());
    /// da = g where a wins the comparison against b, else 0 (b's gradient with `flip`); ties go to a
    fn binary_choice(out: &mut Buffer, op: Binary, a: &View, b: &View, g: &View, flip: bool)
        => Work::pass(out.len(), 4 * out.bytes());
    /// y = op(x), dense
    fn unary(y: &mut Buffer, op: UnaryOp, x: &View)
        => Work::pass(y.len(), 2 * y.bytes());
    /// dx = dy·op'(x, y), dense
    fn unary_backward(dx: &mut Buffer, op: UnaryOp, x: &View, y: &View, dy: &View)
        => Work::pass(2 * dx.len(), 3 * dx.bytes());
    /// y = act(x), dense
    fn activation(y: &mut Buffer, act: Activation, x: &View)
        => Work::pass(work::activation(act) * y.len(), 2 * y.bytes());
    /// dx = dy·act'(x), dense
    fn activation_backward(dx: &mut Buffer, act: Activation, x: &View, dy: &View)
        => Work::pass(2 * work::activation(act) * dx.len(), 3 * dx.bytes());
    /// y = silu(gate)·up on packed rows `[gate | up]`
    fn swiglu(y: &mut Buffer, width: usize, x: &View)
        => Work::pass(5 * y.len(), 3 * y.bytes());
    /// Gradient of `swiglu`
    fn swiglu_backward(dx: &mut Buffer, width: usize, x: &View, dy: &View)
        => Work::pass(10 * dy.len(), 2 * dx.bytes() + dy.bytes());
    /// y = x·mask/(1−p) + residual, dense; without the residual its own backward
    fn dropout(y: &mut Buffer, x: &View, residual: Option<&View>, p: f64, key: [u32; 2], offset: u64)
        => Work::pass(2 * y.len(), 2 * y.bytes() + residual.map_or(0, View::bytes));
    /// out = x summed over axes, x dense
    fn sum_axes(out: &mut Buffer, x: &View, axes: &[usize])
        => Work::pass(x.len(), x.bytes() + out.bytes());
    /// Index of the largest along the middle of [outer, n, inner]
    fn argmax(out: &mut Buffer, x: &View, sizes: [usize; 3])
        => Work::pass(x.len(), x.bytes() + out.bytes());
    /// y = softmax(x) or its logarithm over the last dimension
    fn softmax(y: &mut Buffer, x: &View, log: bool)
        => Work::pass(5 * y.len(), 2 * y.bytes());
    /// Gradient of `softmax` from its result
    fn softmax_backward(dx: &mut Buffer, y: &View, dy: &View, log: bool)
        => Work::pass(4 * dx.len(), 3 * dx.bytes());
    /// out[o, j, i] = x[o, ids[j], i] (or ids[o, j, i] if `full`); sizes = [outer, n, m, inner]
    fn pick(out: &mut Buffer, x: &View, ids: &View, sizes: [usize; 4], full: bool) -> Result<()>
        => Work::pass(0, 2 * out.bytes() + ids.bytes());
    /// The reverse of `pick`: dx += …
    fn pick_backward(dx: &mut Buffer, ids: &View, dy: &View, sizes: [usize; 4], full: bool)
        => Work::pass(dy.len(), 3 * dy.bytes() + ids.bytes());
    /// C = epilogue(A·B)
    fn gemm(c: &mut Buffer, compute: Compute, a: Matrix<'_>, b: Matrix<'_>, ep: Epilogue<'_>), counted
        => work::gemm(c, compute, a, b, &ep);
    /// One product for each pair of offsets; C's follow each other
    fn gemm_batched(c: &mut Buffer, compute: Compute, a: Matrix<'_>, b: Matrix<'_>, offsets: &[(usize, usize)], accumulate: bool), counted
        => work::gemm_batched(c, compute, a, b, offsets.len(), accumulate);
    /// out = column sums of x [N, C], or out += them
    fn column_sum(out: &mut Buffer, x: &View, accumulate: bool)
        => Work::pass(x.len(), x.bytes() + out.bytes());
    /// Layer or RMS norm; saves mean and 1/σ of each row
    fn norm(y: &mut Buffer, kind: NormKind, x: &View, w: Option<&View>, b: Option<&View>, eps: f64, mean: &mut Buffer, rstd: &mut Buffer)
        => Work::pass(work::norm(kind) * y.len(), 2 * y.bytes());
    /// Turns heads in place
    fn rope(x: &mut Buffer, rope: &Rope, sizes: [usize; 4], strides: [usize; 3], positions: Positions<'_>, inverse: bool)
        => work::rope(x, rope, sizes);
    /// Attention
    fn attention(out: &mut Buffer, stats: &mut Buffer, args: &AttentionArgs<'_>) -> Result<()>, counted
        => work::attention(args);
    /// Rows of a table, plus rows of a table of positions
    fn embedding(out: &mut Buffer, table: &View, ids: &View, positions: Option<(&View, usize, usize)>) -> Result<()>
        => Work::pass(positions.map_or(0, |_| out.len()), work::embedding(out, ids, positions.is_some()));
    /// Gradient of `embedding` into the table, added
    fn embedding_backward(dtable: &mut Buffer, width: usize, ids: &View, dy: &View) -> Result<()>
        => Work::pass(dy.len(), 3 * dy.bytes() + ids.bytes());
    /// Gradient of `embedding` into the positions, added
    fn positions_backward(dtable: &mut Buffer, width: usize, block: usize, start: usize, dy: &View)
        => Work::pass(dy.len(), dy.bytes() + 2 * dy.bytes().min(dtable.bytes()));
    /// scale·Σ cross entropy of x·wᵀ into `out`, with gradients where asked (dx written, dw added)
    fn linear_cross_entropy(out: &mut Buffer, x: &View, w: &View, targets: &View, scale: f64, softcap: Option<f64>, compute: Compute, per_token: Option<&mut Buffer>, grads: Option<(&mut Buffer, &mut Buffer)>) -> Result<()>, counted
        => work::linear_cross_entropy(x, w, targets, compute, grads.is_some());
    /// scale·Σ cross entropy of logits into `out`, with their gradient where asked
    fn cross_entropy(out: &mut Buffer, logits: &View, targets: &View, scale: f64, softcap: Option<f64>, grad: Option<&mut Buffer>) -> Result<()>
        => Work::pass(5 * logits.len(), logits.bytes() * if grad.is_some() { 2 } else { 1 } + targets.bytes());
}

/// Gradients of `norm`; the seam's form for a call with several outputs.
#[allow(clippy::too_many_arguments)]
pub(crate) fn norm_backward(
    device: Device,
    kind: NormKind,
    x: &View,
    w: Option<&View>,
    eps: f64,
    mean: &Buffer,
    rstd: &Buffer,
    dy: &View,
    grads: NormGrads<'_>,
) {
    let _call = profile::call("norm_backward", || work::norm_backward(kind, x, &grads));
    match device {
        Device::Cpu => cpu::norm_backward(kind, x, w, eps, mean, rstd, dy, grads),
        Device::Meta => meta::norm_backward(x),
    }
}

/// Gradients of `attention`: written, not added; the relative bias's is added.
pub(crate) fn attention_backward(
    device: Device,
    args: &AttentionArgs<'_>,
    out: &View,
    stats: &Buffer,
    dout: &View,
    grads: AttentionGrads<'_>,
) -> Result<()> {
    let _call = profile::call("attention_backward", || work::attention_backward(args));
    match device {
        Device::Cpu => cpu::attention_backward(args, out, stats, dout, grads),
        Device::Meta => {
            meta::attention_backward(args, &grads);
            Ok(())
        }
    }
}
