//! Sums, means, maxima, softmax. All sums run in an order fixed by the shape.

use super::{dense, need_float};
use crate::backend;
use crate::shape::MAX_RANK;
use crate::storage::Buffer;
use crate::tape::{Node, recording, refuse};
use crate::{DType, Dim, Error, Op, Result, Shape, Tensor, profile};

impl Tensor {
    /// The sum over the given dimensions, each named once; with `keep` they stay with size 1. `bf16` sums in `f32`.
    ///
    /// # Errors
    /// Integers, a dimension that is not there or is named twice, no memory.
    pub fn sum_dims(&self, dims: &[usize], keep: bool) -> Result<Tensor> {
        let op = Op::Sum;
        let _op = profile::op(op.name());
        if self.dtype() == DType::Bf16 {
            let wide = self.to_dtype(DType::F32)?.sum_dims(dims, keep)?;
            return wide.to_dtype(DType::Bf16);
        }
        need_float(op.name(), self)?;
        let rank = self.rank();
        let mut gone = [false; MAX_RANK];
        for &d in dims {
            if d >= rank {
                return Err(Error::DimOutOfRange { op: op.name(), dim: i64::try_from(d).unwrap_or(i64::MAX), rank });
            }
            if std::mem::replace(&mut gone[d], true) {
                let (name, why) = ("dimension", "each is named once");
                return Err(Error::BadArgument { op: op.name(), name, value: d as f64, why });
            }
        }
        let from = *self.shape();
        let (mut kept, mut short) = (from, Shape::SCALAR);
        for (i, &size) in from.dims().iter().enumerate() {
            if gone[i] {
                kept = kept.with(i, 1);
            } else {
                short.push(size);
            }
        }
        let x = dense(op.name(), self)?;
        let mut out = Buffer::alloc(op.name(), self.device(), self.dtype(), short)?;
        backend::sum_axes(&mut out, &x, dims);
        let node = recording(&[self])
            .then(|| Node::new(op, &[self], move |s, g| s.give(0, g.reshape(kept)?.broadcast_to(from)?)));
        let shape = if keep { kept } else { short };
        Ok(Tensor::from_buffer(out, shape, node))
    }

    /// The sum over one dimension; with `keep` it stays with size 1.
    ///
    /// # Errors
    /// As [`Tensor::sum_dims`].
    pub fn sum(&self, dim: impl Dim, keep: bool) -> Result<Tensor> {
        self.sum_dims(&[dim.resolve(self.rank(), "sum")?], keep)
    }

    /// The mean over one dimension; with `keep` it stays with size 1. The mean of nothing is 0, where other libraries give NaN.
    ///
    /// # Errors
    /// As [`Tensor::sum_dims`].
    pub fn mean(&self, dim: impl Dim, keep: bool) -> Result<Tensor> {
        let dim = dim.resolve(self.rank(), "mean")?;
        let n = self.dims()[dim].max(1);
        self.sum_dims(&[dim], keep)?.affine(1.0 / n as f64, 0.0)
    }

    /// The sum of all elements, as one value.
    ///
    /// # Errors
    /// Integers; no memory.
    pub fn sum_all(&self) -> Result<Tensor> {
        self.sum_dims(&Vec::from_iter(0..self.rank()), false)
    }

    /// The mean of all elements, as one value. The mean of nothing is 0, where other libraries give NaN.
    ///
    /// # Errors
    /// As [`Tensor::sum_all`].
    pub fn mean_all(&self) -> Result<Tensor> {
        let n = self.numel().max(1);
        self.sum_all()?.affine(1.0 / n as f64, 0.0)
    }

    /// The largest along one dimension; with `keep` it stays with size 1. The gradient goes to the first largest.
    ///
    /// # Errors
    /// Integers, a dimension that is not there or has no element, no memory.
    pub fn max(&self, dim: impl Dim, keep: bool) -> Result<Tensor> {
        let op = Op::Max;
        let _op = profile::op(op.name());
        let dim = dim.resolve(self.rank(), op.name())?;
        let ids = crate::no_grad(|| self.first_largest(op.name(), dim))?;
        let from = *self.shape();
        let picked = crate::no_grad(|| self.gather(dim, &ids))?;
        let kept = *picked.shape();
        let mut shape = kept;
        if !keep {
            shape = kept.without(dim);
        }
        let out = picked.reshape(shape)?;
        if !recording(&[self]) {
            return Ok(out);
        }
        let ids = ids.view(op.name())?;
        let sizes = split(from, dim);
        let node = Node::new(op, &[self], move |s, g| {
            let dy = dense(op.name(), &g)?;
            let mut acc = s.open(0)?;
            if let Some(acc) = &mut acc {
                acc.make_additive();
                let [outer, n, inner] = sizes;
                backend::pick_backward(acc.buffer(), &ids, &dy, [outer, n, 1, inner], true);
            }
            s.close(0, acc)
        });
        Ok(out.attach(node))
    }

    /// The place of the first largest along one dimension, u32; with `keep` it stays with size 1. Has no backward: refuses
    /// a tracked input under a recording tape.
    ///
    /// # Errors
    /// As [`Tensor::max`], and a tracked input.
    pub fn argmax(&self, dim: impl Dim, keep: bool) -> Result<Tensor> {
        const OP: &str = "argmax";
        let _op = profile::op(OP);
        refuse(OP, &[self])?;
        let dim = dim.resolve(self.rank(), OP)?;
        let ids = self.first_largest(OP, dim)?;
        if keep { Ok(ids) } else { ids.reshape(self.shape().without(dim)) }
    }

    /// The places of [`Tensor::argmax`], the dimension kept, for an operation of this name.
    fn first_largest(&self, op: &'static str, dim: usize) -> Result<Tensor> {
        if self.dtype() == DType::Bf16 {
            return self.to_dtype(DType::F32)?.first_largest(op, dim);
        }
        need_float(op, self)?;
        let from = *self.shape();
        let n = from.dims()[dim];
        if n == 0 || u32::try_from(n).is_err() {
            return Err(Error::BadShape {
                op,
                shape: Box::new(from),
                why: "the dimension has no element, or more than ids can count",
            });
        }
        let kept = from.with(dim, 1);
        let x = dense(op, self)?;
        let mut out = Buffer::alloc(op, self.device(), DType::U32, kept)?;
        backend::argmax(&mut out, &x, split(from, dim));
        Ok(Tensor::from_buffer(out, kept, None))
    }

    /// exp(x)/Σ exp(x) over the last dimension. A row of only −∞ gives zeros.
    ///
    /// # Errors
    /// A single value, rows of no elements, a dtype that is not f32 or f64, no memory.
    pub fn softmax(&self) -> Result<Tensor> {
        self.softmax_by(Op::Softmax, false)
    }

    /// x − ln Σ exp(x) over the last dimension.
    ///
    /// # Errors
    /// As [`Tensor::softmax`].
    pub fn log_softmax(&self) -> Result<Tensor> {
        self.softmax_by(Op::LogSoftmax, true)
    }

    fn softmax_by(&self, op: Op, log: bool) -> Result<Tensor> {
        let _op = profile::op(op.name());
        need_float(op.name(), self)?;
        let shape = *self.shape();
        if shape.rank() == 0 || shape.last() == 0 {
            return Err(Error::BadShape { op: op.name(), shape: Box::new(shape), why: "there is no row to normalise" });
        }
        let x = dense(op.name(), self)?;
        let mut out = Buffer::alloc(op.name(), self.device(), self.dtype(), shape)?;
        backend::softmax(&mut out, &x, log);
        let out = Tensor::from_buffer(out, shape, None);
        if !recording(&[self]) {
            return Ok(out);
        }
        let y = out.view(op.name())?;
        let node = Node::new(op, &[self], move |s, g| {
            let dy = dense(op.name(), &g)?;
            let mut dx = Buffer::alloc(op.name(), g.device(), g.dtype(), shape)?;
            backend::softmax_backward(&mut dx, &y, &dy, log);
            s.give(0, Tensor::from_buffer(dx, shape, None))
        });
        Ok(out.attach(node))
    }
}

/// A shape as [before, the dimension, after].
fn split(shape: Shape, dim: usize) -> [usize; 3] {
    let dims = shape.dims();
    [dims[..dim].iter().product(), dims[dim], dims[dim + 1..].iter().product()]
}
