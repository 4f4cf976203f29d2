//! The linear map y = act(x·Wᵀ + b) + residual in one pass, and its backward in three.

use super::{dense, need_device, need_shape};
use crate::backend::{self, Epilogue, Matrix};
use crate::saved::Saved;
use crate::storage::Buffer;
use crate::tape::{Node, recording};
use crate::tensor::View;
use crate::{Activation, Compute, DType, Error, Op, Result, Tensor, profile};

/// What [`Tensor::linear`] does besides x·Wᵀ.
///
/// ```
/// use gently_tensor::{Activation, Device, LinearArgs, Tensor};
/// let x = Tensor::from_slice(&[1.0f32, -2.0], [1, 2], &Device::Cpu)?;
/// let w = Tensor::from_slice(&[3.0f32, 1.0, 0.0, 5.0], [2, 2], &Device::Cpu)?;
/// let y = x.linear(&LinearArgs::new(&w).activation(Activation::Relu))?;
/// assert_eq!(y.to_vec::<f32>()?, [1.0, 0.0]);
/// # Ok::<(), gently_tensor::Error>(())
/// ```
#[derive(Debug, Clone, Copy)]
pub struct LinearArgs<'a> {
    /// `[out, in]`, as published checkpoints store it.
    pub w: &'a Tensor,
    /// `[out]`.
    pub bias: Option<&'a Tensor>,
    /// Applied after the bias.
    pub activation: Activation,
    /// Added last; the shape of the result. Its gradient passes through unchanged.
    pub residual: Option<&'a Tensor>,
    /// Precision of the products, forward and backward.
    pub compute: Compute,
}

impl<'a> LinearArgs<'a> {
    /// Only the weights; f32 products.
    pub fn new(w: &'a Tensor) -> Self {
        LinearArgs { w, bias: None, activation: Activation::None, residual: None, compute: Compute::F32 }
    }

    /// With a bias, if there is one.
    pub fn bias(mut self, bias: impl Into<Option<&'a Tensor>>) -> Self {
        self.bias = bias.into();
        self
    }

    /// With an activation.
    pub fn activation(mut self, activation: Activation) -> Self {
        self.activation = activation;
        self
    }

    /// With something added to the result, if there is something.
    pub fn residual(mut self, residual: impl Into<Option<&'a Tensor>>) -> Self {
        self.residual = residual.into();
        self
    }

    /// With products in this precision.
    pub fn compute(mut self, compute: Compute) -> Self {
        self.compute = compute;
        self
    }
}

impl Tensor {
    /// act(x·Wᵀ + bias) + residual, `[…, in] -> […, out]`, in one kernel call.
    ///
    /// x and W may be f32 or bf16 (the result is f32), or both f64. Only what the backward needs is kept: x (a large result of
    /// a norm, an activation or a gate is made again instead), W, and the pre-activation if there is an activation. Errors: shapes, devices or dtypes that do not fit.
    pub fn linear(&self, args: &LinearArgs<'_>) -> Result<Tensor> {
        const OP: &str = Op::Linear.name();
        let _op = profile::op(OP);
        let w = args.w;
        need_device(OP, self, w)?;
        let [out_width, in_width] = *w.dims() else {
            return Err(Error::BadShape { op: OP, shape: Box::new(*w.shape()), why: "weights are [out, in]" });
        };
        if self.rank() == 0 || self.shape().last() != in_width {
            return Err(Error::ShapeMismatch {
                op: OP,
                left: Box::new(*self.shape()),
                right: Box::new(*w.shape()),
                why: "x is […, in] and weights are [out, in]",
            });
        }
        let dtype = product_dtype(OP, self, w)?;
        let x_shape = *self.shape();
        let shape = x_shape.with(x_shape.rank() - 1, out_width);
        for (t, dims) in [(args.bias, &[out_width][..]), (args.residual, shape.dims())] {
            if let Some(t) = t {
                need_device(OP, self, t)?;
                need_shape(OP, t, dims, "a bias is [out], a residual has the result's shape")?;
                if t.dtype() != dtype {
                    return Err(Error::DTypeMismatch { op: OP, left: dtype, right: t.dtype() });
                }
            }
        }

        let x_dense = match self.layout().as_rows() {
            Some(_) => self.detach(),
            None => self.copy()?,
        };
        let x = x_dense.view(OP)?;
        drop(x_dense);
        let (rows, x_stride) = x.layout.as_rows().unwrap_or((1, in_width));
        let w_dense = match w.layout().as_rows() {
            Some(_) => w.detach(),
            None => w.copy()?,
        };
        let wv = w_dense.view(OP)?;
        drop(w_dense);
        let w_stride = wv.layout.as_rows().map_or(in_width, |r| r.1);
        let bias = args.bias.map(|b| dense(OP, b)).transpose()?;
        let residual = args.residual.map(|r| dense(OP, r)).transpose()?;

        let mut inputs = vec![self, w];
        let bias_at = args.bias.map(|b| push(&mut inputs, b));
        let residual_at = args.residual.map(|r| push(&mut inputs, r));
        let record = recording(&inputs);
        let (act, compute) = (args.activation, args.compute);

        let mut out = Buffer::alloc(OP, self.device(), dtype, shape)?;
        let mut pre = match record && act != Activation::None {
            true => Some(Buffer::alloc(OP, self.device(), dtype, shape)?),
            false => None,
        };
        backend::gemm(
            &mut out,
            compute,
            Matrix::rows(&x, rows, in_width, x_stride),
            Matrix::rows(&wv, out_width, in_width, w_stride).t(),
            Epilogue {
                bias: bias.as_ref(),
                activation: act,
                pre_activation: pre.as_mut(),
                residual: residual.as_ref(),
                accumulate: false,
            },
        );
        drop((bias, residual));
        if !record {
            return Ok(Tensor::from_buffer(out, shape, None));
        }
        let pre = pre.map(|p| View::of(p, shape));
        // The weights' gradient reads x, x's reads W: keep what will be read.
        let x = w.is_tracked().then(|| Saved::new(self, x));
        let wv = self.is_tracked().then_some(wv);
        let mut node = Node::later(Op::Linear, &inputs);
        if let Some(pre) = pre.clone().filter(|_| residual_at.is_none()) {
            let device = self.device();
            node = node.repeated_by(move || {
                let mut out = Buffer::alloc(OP, device, dtype, shape)?;
                backend::activation(&mut out, act, &pre);
                Ok(View::of(out, shape))
            });
        }
        let node = node.with(move |s, g| {
            let g = g.contiguous()?;
            if let Some(i) = residual_at {
                s.give(i, g.clone())?;
            }
            let g = match pre {
                None => g,
                Some(pre) => {
                    let mut d = Buffer::alloc(OP, g.device(), g.dtype(), *g.shape())?;
                    backend::activation_backward(&mut d, act, &pre, &g.view(OP)?);
                    Tensor::from_buffer(d, shape, None)
                }
            };
            let dy = g.view(OP)?;
            let dy_rows = Matrix::rows(&dy, rows, out_width, out_width);
            if let (Some(mut acc), Some(wv)) = (s.open(0)?, wv) {
                let accumulate = acc.accumulate;
                let _dx = profile::detail("dx");
                backend::gemm(
                    acc.buffer(),
                    compute,
                    dy_rows,
                    Matrix::rows(&wv, out_width, in_width, w_stride),
                    Epilogue { accumulate, ..Epilogue::default() },
                );
                s.close(0, Some(acc))?;
            }
            if let (Some(mut acc), Some(x)) = (s.open(1)?, x) {
                let accumulate = acc.accumulate;
                let x = x.view()?;
                let _dw = profile::detail("dw");
                backend::gemm(
                    acc.buffer(),
                    compute,
                    dy_rows.t(),
                    Matrix::rows(&x, rows, in_width, x_stride),
                    Epilogue { accumulate, ..Epilogue::default() },
                );
                s.close(1, Some(acc))?;
            }
            if let Some(i) = bias_at
                && let Some(mut acc) = s.open(i)?
            {
                let accumulate = acc.accumulate;
                if out_width > 0 {
                    backend::column_sum(acc.buffer(), &dy, accumulate);
                }
                s.close(i, Some(acc))?;
            }
            Ok(())
        });
        Ok(Tensor::from_buffer(out, shape, Some(node)))
    }
}

fn push<'a>(inputs: &mut Vec<&'a Tensor>, t: &'a Tensor) -> usize {
    inputs.push(t);
    inputs.len() - 1
}

/// The dtype of a product of two operands: f32 of any mixture of f32 and bf16, f64 of two f64.
pub(super) fn product_dtype(op: &'static str, a: &Tensor, b: &Tensor) -> Result<DType> {
    let narrow = |d| matches!(d, DType::F32 | DType::Bf16);
    match (a.dtype(), b.dtype()) {
        (DType::F64, DType::F64) => Ok(DType::F64),
        (x, y) if narrow(x) && narrow(y) => Ok(DType::F32),
        (x, y) if x.is_float() && y.is_float() => Err(Error::DTypeMismatch { op, left: x, right: y }),
        (x, y) => Err(Error::UnsupportedDType { op, dtype: if x.is_float() { y } else { x }, takes: "floats" }),
    }
}
