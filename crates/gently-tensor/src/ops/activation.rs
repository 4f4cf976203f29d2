//! Activations, SwiGLU and dropout. Each keeps its input for the backward; dropout keeps nothing but its place in the
//! random stream, from which the mask is made again.

use super::{dense, need_float, need_same, need_shape};
use crate::backend;
use crate::storage::Buffer;
use crate::tape::{Node, recording};
use crate::tensor::View;
use crate::{Activation, DType, Error, Op, Result, Rng, Tensor, profile};

impl Tensor {
    /// max(x, 0).
    ///
    /// # Errors
    /// As [`Tensor::activation`].
    pub fn relu(&self) -> Result<Tensor> {
        self.activation(Activation::Relu)
    }

    /// max(x, 0)² (So et al. 2021, arXiv:2109.08668).
    ///
    /// # Errors
    /// As [`Tensor::activation`].
    pub fn relu2(&self) -> Result<Tensor> {
        self.activation(Activation::Relu2)
    }

    /// x·sigmoid(x).
    ///
    /// # Errors
    /// As [`Tensor::activation`].
    pub fn silu(&self) -> Result<Tensor> {
        self.activation(Activation::Silu)
    }

    /// GELU by its tanh form, as GPT-2 uses it.
    ///
    /// # Errors
    /// As [`Tensor::activation`].
    pub fn gelu_tanh(&self) -> Result<Tensor> {
        self.activation(Activation::GeluTanh)
    }

    /// GELU by the error function (Hendrycks and Gimpel 2016, arXiv:1606.08415).
    ///
    /// # Errors
    /// As [`Tensor::activation`].
    pub fn gelu_erf(&self) -> Result<Tensor> {
        self.activation(Activation::GeluErf)
    }

    /// The activation named by `act`, any shape; `bf16` goes through `f32`.
    ///
    /// # Errors
    /// Integers; no memory.
    pub fn activation(&self, act: Activation) -> Result<Tensor> {
        let op = Op::Activation;
        if act == Activation::None {
            return Ok(self.clone());
        }
        let _op = profile::op(op.name());
        if self.dtype() == DType::Bf16 {
            let wide = self.to_dtype(DType::F32)?.activation(act)?;
            return wide.to_dtype(DType::Bf16);
        }
        need_float(op.name(), self)?;
        let x = dense(op.name(), self)?;
        let shape = *self.shape();
        let (device, dtype, from) = (self.device(), self.dtype(), x.clone());
        let make = move || {
            let mut out = Buffer::alloc(op.name(), device, dtype, shape)?;
            backend::activation(&mut out, act, &from);
            Ok(out)
        };
        let out = make()?;
        let node = recording(&[self]).then(|| {
            let again = move || Ok(View::of(make()?, shape));
            Node::later(op, &[self]).repeated_by(again).with(move |s, g| {
                let dy = dense(op.name(), &g)?;
                let mut dx = Buffer::alloc(op.name(), g.device(), g.dtype(), shape)?;
                backend::activation_backward(&mut dx, act, &x, &dy);
                s.give(0, Tensor::from_buffer(dx, shape, None))
            })
        });
        Ok(Tensor::from_buffer(out, shape, node))
    }

    /// silu(gate)·up, `[…, 2M] -> […, M]`, where each row is `[gate | up]`: the result of one linear map for both
    /// (Shazeer 2020, arXiv:2002.05202). Errors: an odd last dimension, a dtype that is not f32 or f64.
    pub fn swiglu(&self) -> Result<Tensor> {
        let op = Op::Swiglu;
        let _op = profile::op(op.name());
        need_float(op.name(), self)?;
        let twice = self.shape().last();
        if self.rank() == 0 || !twice.is_multiple_of(2) {
            return Err(Error::BadShape {
                op: op.name(),
                shape: Box::new(*self.shape()),
                why: "the last dimension holds gate and up and must be even",
            });
        }
        let (from, width) = (*self.shape(), twice / 2);
        let shape = from.with(from.rank() - 1, width);
        let x = dense(op.name(), self)?;
        let (device, dtype, both) = (self.device(), self.dtype(), x.clone());
        let make = move || {
            let mut out = Buffer::alloc(op.name(), device, dtype, shape)?;
            if width > 0 {
                backend::swiglu(&mut out, width, &both);
            }
            Ok(out)
        };
        let out = make()?;
        let node = recording(&[self]).then(|| {
            let again = move || Ok(View::of(make()?, shape));
            Node::later(op, &[self]).repeated_by(again).with(move |s, g| {
                let dy = dense(op.name(), &g)?;
                let mut dx = Buffer::alloc(op.name(), g.device(), g.dtype(), from)?;
                if width > 0 {
                    backend::swiglu_backward(&mut dx, width, &x, &dy);
                }
                s.give(0, Tensor::from_buffer(dx, from, None))
            })
        });
        Ok(Tensor::from_buffer(out, shape, node))
    }

    /// Zeroes each element with probability `p` and divides the others by 1 − p. Draws one number of `rng` for each
    /// element. `p = 0` returns the tensor itself and draws nothing. Errors: p outside [0, 1), a dtype not f32 or f64.
    pub fn dropout(&self, p: f64, rng: &mut Rng) -> Result<Tensor> {
        self.dropout_by(p, rng, None)
    }

    /// dropout(x) + residual in one pass; shapes equal. The residual's gradient passes through unchanged.
    /// Errors as [`Tensor::dropout`], and a residual that does not fit.
    pub fn dropout_add(&self, residual: &Tensor, p: f64, rng: &mut Rng) -> Result<Tensor> {
        self.dropout_by(p, rng, Some(residual))
    }

    fn dropout_by(&self, p: f64, rng: &mut Rng, residual: Option<&Tensor>) -> Result<Tensor> {
        let op = Op::Dropout;
        let _op = profile::op(op.name());
        Tensor::check_probability(op.name(), p)?;
        need_float(op.name(), self)?;
        if let Some(r) = residual {
            need_same(op.name(), self, r)?;
            need_shape(op.name(), r, self.dims(), "the residual has the shape of x")?;
        }
        if p == 0.0 {
            return residual.map_or_else(|| Ok(self.clone()), |r| self.add(r));
        }
        let x = dense(op.name(), self)?;
        let added = residual.map(|r| dense(op.name(), r)).transpose()?;
        let shape = *self.shape();
        let (key, offset) = (rng.key(), rng.advance(shape.numel()));
        let mut out = Buffer::alloc(op.name(), self.device(), self.dtype(), shape)?;
        backend::dropout(&mut out, &x, added.as_ref(), p, key, offset);
        drop((x, added));
        let mut inputs = vec![self];
        inputs.extend(residual);
        let with_residual = residual.is_some();
        let node = recording(&inputs).then(|| {
            Node::new(op, &inputs, move |s, g| {
                if with_residual {
                    s.give(1, g.clone())?;
                }
                if !s.needs(0) {
                    return Ok(());
                }
                let dy = dense(op.name(), &g)?;
                let mut dx = Buffer::alloc(op.name(), g.device(), g.dtype(), shape)?;
                backend::dropout(&mut dx, &dy, None, p, key, offset);
                s.give(0, Tensor::from_buffer(dx, shape, None))
            })
        });
        Ok(Tensor::from_buffer(out, shape, node))
    }
}
