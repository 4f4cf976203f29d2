//! Fills, copies, casts, arithmetic, reductions and picking by index on the CPU.

use super::{by_any, by_float, twin};
use crate::backend::UnaryOp;
use crate::shape::{Layout, Shape};
use crate::storage::Buffer;
use crate::tensor::View;
use crate::{Activation, DType, Element, Error, Result};
use gently_kernels::activation::{GateUp, GateUpMut};
use gently_kernels::dropout::Dropout;
use gently_kernels::elementwise::{self, Binary, Unary};
use gently_kernels::{philox, pool, real::Real};

/// Elements that one task fills.
const CHUNK: usize = 1 << 16;

pub(crate) fn fill(out: &mut Buffer, value: f64) {
    by_any!(out.dtype(), T => {
        let value = <T as Element>::from_f64(value);
        pool::parallel_chunks_mut(out.slice_mut::<T>(), CHUNK, |_, part| part.fill(value));
    });
}

pub(crate) fn copy(out: &mut Buffer, x: &View) {
    by_any!(out.dtype(), T => elementwise::copy_strided(
        x.shape().dims(), strided::<T>(x), out.slice_mut::<T>(),
    ));
}

fn strided<T: Element>(x: &View) -> elementwise::View<'_, T> {
    elementwise::View::new(x.strided::<T>(), x.layout.strides())
}

pub(crate) fn cast(out: &mut Buffer, x: &View) {
    by_any!(x.dtype(), A => by_any!(out.dtype(), B => {
        gently_kernels::cast::cast::<A, B>(x.dense::<A>(), out.slice_mut::<B>())
    }));
}

pub(crate) fn random(out: &mut Buffer, key: [u32; 2], offset: u64, normal: bool, scale: f64, shift: f64) {
    let make = if normal { philox::fill_normal } else { philox::fill_uniform };
    if out.dtype() == DType::F64 {
        let mut part = [0.0; 4096];
        for (i, out) in out.slice_mut::<f64>().chunks_mut(part.len()).enumerate() {
            let part = &mut part[..out.len()];
            make(key, offset.wrapping_add((i * 4096) as u64), part);
            out.iter_mut().zip(part).for_each(|(out, x)| *out = f64::from(*x) * scale + shift);
        }
        return;
    }
    let (out, scale, shift) = (out.slice_mut::<f32>(), scale as f32, shift as f32);
    make(key, offset, out);
    if scale != 1.0 || shift != 0.0 {
        elementwise::affine_assign(scale, shift, out);
    }
}

pub(crate) fn add_assign(y: &mut Buffer, x: &View) {
    by_float!(y.dtype(), T => elementwise::add_assign(y.slice_mut::<T>(), x.dense::<T>()));
}

pub(crate) fn scale(y: &mut Buffer, factor: f64) {
    by_float!(y.dtype(), T => elementwise::scale_assign(factor as T, y.slice_mut::<T>()));
}

pub(crate) fn add_part(y: &mut Buffer, part: &Layout, x: &View) {
    if part.shape.numel() == 0 {
        return;
    }
    by_float!(y.dtype(), T => elementwise::add_strided(
        part.shape.dims(), x.dense::<T>(), &mut y.slice_mut::<T>()[part.offset..], part.strides(),
    ));
}

pub(crate) fn assign_part(y: &mut Buffer, part: &Layout, x: &View) {
    if part.shape.numel() == 0 {
        return;
    }
    by_any!(y.dtype(), T => elementwise::assign_strided(
        part.shape.dims(), x.dense::<T>(), &mut y.slice_mut::<T>()[part.offset..], part.strides(),
    ));
}

pub(crate) fn binary(out: &mut Buffer, op: Binary, shape: &Shape, a: &View, b: &View) {
    by_float!(out.dtype(), T => elementwise::binary(
        op, shape.dims(), strided::<T>(a), strided::<T>(b), out.slice_mut::<T>(),
    ));
}

pub(crate) fn binary_choice(out: &mut Buffer, op: Binary, a: &View, b: &View, g: &View, flip: bool) {
    by_float!(out.dtype(), T => elementwise::choice_backward(
        op, a.dense::<T>(), b.dense::<T>(), g.dense::<T>(), flip, out.slice_mut::<T>(),
    ));
}

fn constants<T: Real>(op: UnaryOp) -> Unary<T> {
    let f = T::from_f64;
    match op {
        Unary::Neg => Unary::Neg,
        Unary::Exp => Unary::Exp,
        Unary::Ln => Unary::Ln,
        Unary::Sqrt => Unary::Sqrt,
        Unary::Sqr => Unary::Sqr,
        Unary::Recip => Unary::Recip,
        Unary::Abs => Unary::Abs,
        Unary::Tanh => Unary::Tanh,
        Unary::Sigmoid => Unary::Sigmoid,
        Unary::Sin => Unary::Sin,
        Unary::Cos => Unary::Cos,
        Unary::Powf(p) => Unary::Powf(f(p)),
        Unary::Affine { scale, shift } => Unary::Affine { scale: f(scale), shift: f(shift) },
    }
}

pub(crate) fn unary(y: &mut Buffer, op: UnaryOp, x: &View) {
    by_float!(y.dtype(), T => {
        elementwise::unary(constants::<T>(op), x.dense::<T>(), y.slice_mut::<T>())
    });
}

pub(crate) fn unary_backward(dx: &mut Buffer, op: UnaryOp, x: &View, y: &View, dy: &View) {
    by_float!(dx.dtype(), T => elementwise::unary_backward(
        constants::<T>(op), x.dense::<T>(), y.dense::<T>(), dy.dense::<T>(), dx.slice_mut::<T>(),
    ));
}

pub(crate) fn activation(y: &mut Buffer, act: Activation, x: &View) {
    twin!(y.dtype(), activation::forward, T => (act, x.dense::<T>(), y.slice_mut::<T>()));
}

pub(crate) fn activation_backward(dx: &mut Buffer, act: Activation, x: &View, dy: &View) {
    twin!(dx.dtype(), activation::backward, T => (
        act, x.dense::<T>(), dy.dense::<T>(), dx.slice_mut::<T>(),
    ));
}

pub(crate) fn swiglu(y: &mut Buffer, width: usize, x: &View) {
    twin!(y.dtype(), activation::swiglu_forward, T => (
        GateUp::Packed(x.dense::<T>()), width, y.slice_mut::<T>(),
    ));
}

pub(crate) fn swiglu_backward(dx: &mut Buffer, width: usize, x: &View, dy: &View) {
    twin!(dx.dtype(), activation::swiglu_backward, T => (
        GateUp::Packed(x.dense::<T>()), width, dy.dense::<T>(), GateUpMut::Packed(dx.slice_mut::<T>()),
    ));
}

pub(crate) fn dropout(y: &mut Buffer, x: &View, residual: Option<&View>, p: f64, key: [u32; 2], offset: u64) {
    let dropout = Dropout { p: p as f32, key, offset };
    by_float!(y.dtype(), T => dropout.apply::<T>(
        x.dense::<T>(), residual.map(|r| r.dense::<T>()), y.slice_mut::<T>(),
    ));
}

pub(crate) fn sum_axes(out: &mut Buffer, x: &View, axes: &[usize]) {
    by_float!(out.dtype(), T => gently_kernels::reduce::sum_axes(
        x.dense::<T>(), x.shape().dims(), axes, out.slice_mut::<T>(),
    ));
}

pub(crate) fn argmax(out: &mut Buffer, x: &View, [outer, n, inner]: [usize; 3]) {
    by_float!(x.dtype(), T => gently_kernels::reduce::argmax(
        x.dense::<T>(), outer, n, inner, out.slice_mut::<u32>(),
    ));
}

pub(crate) fn softmax(y: &mut Buffer, x: &View, log: bool) {
    let width = x.shape().last();
    if log {
        twin!(y.dtype(), softmax::log_forward, T => (x.dense::<T>(), width, y.slice_mut::<T>()));
    } else {
        twin!(y.dtype(), softmax::forward, T => (x.dense::<T>(), width, y.slice_mut::<T>()));
    }
}

pub(crate) fn softmax_backward(dx: &mut Buffer, y: &View, dy: &View, log: bool) {
    let width = y.shape().last();
    if log {
        twin!(dx.dtype(), softmax::log_backward, T => (
            y.dense::<T>(), dy.dense::<T>(), width, dx.slice_mut::<T>(),
        ));
    } else {
        twin!(dx.dtype(), softmax::backward, T => (
            y.dense::<T>(), dy.dense::<T>(), width, dx.slice_mut::<T>(),
        ));
    }
}

pub(crate) fn pick(out: &mut Buffer, x: &View, ids: &View, [outer, n, m, inner]: [usize; 4], full: bool) -> Result<()> {
    let ids = ids.dense::<u32>();
    if let Some(position) = ids.iter().position(|&i| i as usize >= n) {
        return Err(Error::IdOutOfRange {
            op: if full { "gather" } else { "index_select" },
            id: ids[position],
            position,
            size: n,
        });
    }
    by_any!(out.dtype(), T => {
        let (x, out) = (x.dense::<T>(), out.slice_mut::<T>());
        if out.is_empty() {
            return Ok(());
        }
        pool::parallel_chunks_mut(out, m * inner, |o, out| {
            debug_assert!(o < outer);
            for (j, out) in out.chunks_exact_mut(inner).enumerate() {
                if full {
                    for (i, out) in out.iter_mut().enumerate() {
                        let id = ids[(o * m + j) * inner + i] as usize;
                        *out = x[(o * n + id) * inner + i];
                    }
                } else {
                    out.copy_from_slice(&x[(o * n + ids[j] as usize) * inner..][..inner]);
                }
            }
        });
    });
    Ok(())
}

pub(crate) fn pick_backward(dx: &mut Buffer, ids: &View, dy: &View, [_, n, m, inner]: [usize; 4], full: bool) {
    let ids = ids.dense::<u32>();
    by_float!(dx.dtype(), T => {
        let (dy, dx) = (dy.dense::<T>(), dx.slice_mut::<T>());
        if dx.is_empty() || dy.is_empty() {
            return;
        }
        pool::parallel_chunks_mut(dx, n * inner, |o, dx| {
            for j in 0..m {
                for i in 0..inner {
                    let at = (o * m + j) * inner + i;
                    let id = if full { ids[at] } else { ids[j] } as usize;
                    dx[id * inner + i] += dy[at];
                }
            }
        });
    });
}
