//! Cross entropy, fused with the output projection or on given logits.

use super::{check_softcap, dense, need_device, need_float, need_ids, need_same, need_shape};
use crate::backend;
use crate::storage::Buffer;
use crate::tape::{Node, recording};
use crate::{Compute, Device, Error, Op, Result, Shape, Tensor, profile};

/// The target that is not scored: no loss, no gradient.
pub const IGNORE: u32 = gently_kernels::loss::IGNORE;

impl Tensor {
    /// `scale·Σ −ln softmax(x·Wᵀ)[target]` over the targets that are not [`IGNORE`], as one value; x `[…, C]`, W `[V, C]`,
    /// targets u32 `[…]`. The logits `[…, V]` never exist as a whole. With `softcap` c the logits are c·tanh(z/c)
    /// (Gemma 2, arXiv:2408.00118).
    ///
    /// Under a recording tape the gradients of x and W are computed at once, while each chunk of logits is at hand, and
    /// kept until the backward.
    ///
    /// # Errors
    /// Shapes and dtypes that do not fit, a target of V or more, a soft cap that is not positive, no memory.
    pub fn linear_cross_entropy(
        &self,
        w: &Tensor,
        targets: &Tensor,
        scale: f64,
        softcap: Option<f64>,
        compute: Compute,
    ) -> Result<Tensor> {
        const OP: &str = Op::LinearCrossEntropy.name();
        let _op = profile::op(OP);
        self.check_projection(OP, w, targets)?;
        check_softcap(OP, softcap)?;
        let (x_shape, w_shape) = (*self.shape(), *w.shape());
        let (x, wv, ids) = (dense(OP, self)?, dense(OP, w)?, dense(OP, targets)?);
        let (device, dtype) = (self.device(), self.dtype());
        let mut out = Buffer::alloc(OP, device, dtype, Shape::SCALAR)?;
        if !recording(&[self, w]) {
            backend::linear_cross_entropy(&mut out, &x, &wv, &ids, scale, softcap, compute, None, None)?;
            return Ok(Tensor::from_buffer(out, Shape::SCALAR, None));
        }
        let mut dx = Buffer::alloc(OP, device, dtype, x_shape)?;
        let mut dw = Buffer::zeroed(OP, device, dtype, w_shape)?;
        backend::linear_cross_entropy(
            &mut out,
            &x,
            &wv,
            &ids,
            scale,
            softcap,
            compute,
            None,
            Some((&mut dx, &mut dw)),
        )?;
        drop((x, wv, ids));
        let node = Node::new(Op::LinearCrossEntropy, &[self, w], move |s, g| {
            let factor = upstream(&g)?;
            for (i, mut d, shape) in [(0, dx, x_shape), (1, dw, w_shape)] {
                if s.needs(i) {
                    if factor != 1.0 {
                        backend::scale(&mut d, factor);
                    }
                    s.give(i, Tensor::from_buffer(d, shape, None))?;
                }
            }
            Ok(())
        });
        Ok(Tensor::from_buffer(out, Shape::SCALAR, Some(node)))
    }

    /// The loss of each token, `[…]`, in nats; 0 where the target is [`IGNORE`]. Arguments as
    /// [`Tensor::linear_cross_entropy`]. Has no backward.
    ///
    /// # Errors
    /// As [`Tensor::linear_cross_entropy`], and tracked inputs under a recording tape.
    #[doc(hidden)]
    pub fn linear_nll(&self, w: &Tensor, targets: &Tensor, softcap: Option<f64>, compute: Compute) -> Result<Tensor> {
        const OP: &str = "linear_nll";
        let _op = profile::op(OP);
        crate::tape::refuse(OP, &[self, w])?;
        self.check_projection(OP, w, targets)?;
        check_softcap(OP, softcap)?;
        let (x, wv, ids) = (dense(OP, self)?, dense(OP, w)?, dense(OP, targets)?);
        let mut total = Buffer::alloc(OP, self.device(), self.dtype(), Shape::SCALAR)?;
        let mut each = Buffer::alloc(OP, self.device(), self.dtype(), *targets.shape())?;
        backend::linear_cross_entropy(&mut total, &x, &wv, &ids, 1.0, softcap, compute, Some(&mut each), None)?;
        Ok(Tensor::from_buffer(each, *targets.shape(), None))
    }

    fn check_projection(&self, op: &'static str, w: &Tensor, targets: &Tensor) -> Result<()> {
        need_float(op, self)?;
        need_same(op, self, w)?;
        need_ids(op, targets)?;
        need_device(op, self, targets)?;
        let width = self.shape().last();
        if self.rank() == 0 || width == 0 || w.rank() != 2 || w.dims()[1] != width {
            return Err(Error::ShapeMismatch {
                op,
                left: Box::new(*self.shape()),
                right: Box::new(*w.shape()),
                why: "x is […, C] and the projection [V, C]",
            });
        }
        let rows = &self.dims()[..self.rank() - 1];
        need_shape(op, targets, rows, "targets have the shape of x without C")
    }

    /// `scale·Σ −ln softmax(logits)[target]` over the targets that are not [`IGNORE`], as one value; logits `[…, V]`
    /// (self), targets u32 `[…]`. Errors: shapes, dtypes, a target of V or more.
    pub fn cross_entropy(&self, targets: &Tensor, scale: f64) -> Result<Tensor> {
        const OP: &str = Op::CrossEntropy.name();
        let _op = profile::op(OP);
        need_float(OP, self)?;
        need_ids(OP, targets)?;
        need_device(OP, self, targets)?;
        if self.rank() == 0 || self.shape().last() == 0 {
            return Err(Error::BadShape { op: OP, shape: Box::new(*self.shape()), why: "logits are […, V]" });
        }
        let rows = &self.dims()[..self.rank() - 1];
        need_shape(OP, targets, rows, "targets have the shape of the logits without V")?;
        let shape = *self.shape();
        let (x, ids) = (dense(OP, self)?, dense(OP, targets)?);
        let mut out = Buffer::alloc(OP, self.device(), self.dtype(), Shape::SCALAR)?;
        let mut grad = match recording(&[self]) {
            true => Some(Buffer::alloc(OP, self.device(), self.dtype(), shape)?),
            false => None,
        };
        backend::cross_entropy(&mut out, &x, &ids, scale, None, grad.as_mut())?;
        let node = grad.map(|mut d| {
            Node::new(Op::CrossEntropy, &[self], move |s, g| {
                let factor = upstream(&g)?;
                if factor != 1.0 {
                    backend::scale(&mut d, factor);
                }
                s.give(0, Tensor::from_buffer(d, shape, None))
            })
        });
        Ok(Tensor::from_buffer(out, Shape::SCALAR, node))
    }
}

/// The value of a gradient of one element; 1 on Meta.
fn upstream(g: &Tensor) -> Result<f64> {
    match g.device() {
        Device::Meta => Ok(1.0),
        Device::Cpu => Ok(g.to_f64_vec()?[0]),
    }
}
