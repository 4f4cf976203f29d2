//! Joining tensors.

use super::need_same;
use crate::backend;
use crate::shape::Layout;
use crate::storage::Buffer;
use crate::tape::{Node, recording};
use crate::{Dim, Error, Op, Result, Shape, Tensor, profile};

impl Tensor {
    /// Tensors joined along dimension `dim`; all other sizes equal, any one dtype. Errors: nothing to join, shapes.
    pub fn cat(tensors: &[&Tensor], dim: impl Dim) -> Result<Tensor> {
        const OP: &str = Op::Cat.name();
        let _op = profile::op(OP);
        let Some((&first, rest)) = tensors.split_first() else {
            return Err(Error::BadShape { op: OP, shape: Box::new(Shape::SCALAR), why: "there is nothing to join" });
        };
        let dim = dim.resolve(first.rank(), OP)?;
        let mut total = first.dims()[dim];
        for t in rest {
            need_same(OP, first, t)?;
            let fits = t.rank() == first.rank() && t.shape().with(dim, first.dims()[dim]) == *first.shape();
            if !fits {
                return Err(Error::ShapeMismatch {
                    op: OP,
                    left: Box::new(*first.shape()),
                    right: Box::new(*t.shape()),
                    why: "all sizes but the joined one must be equal",
                });
            }
            total = total.saturating_add(t.dims()[dim]);
        }
        let shape = Shape::new(first.shape().with(dim, total).dims())?;
        let whole = Layout::row_major(shape);
        let mut out = Buffer::alloc(OP, first.device(), first.dtype(), shape)?;
        let mut start = 0;
        let mut parts = Vec::with_capacity(tensors.len());
        for t in tensors {
            let size = t.dims()[dim];
            parts.push((start, size));
            if t.numel() > 0 {
                let part = Layout { shape: *t.shape(), strides: whole.strides, offset: start * whole.strides[dim] };
                backend::assign_part(&mut out, &part, &super::dense(OP, t)?);
            }
            start += size;
        }
        let node = recording(tensors).then(|| {
            Node::new(Op::Cat, tensors, move |s, g| {
                for (i, (start, size)) in parts.into_iter().enumerate() {
                    if s.needs(i) {
                        s.give(i, g.narrow(dim, start, size)?)?;
                    }
                }
                Ok(())
            })
        });
        Ok(Tensor::from_buffer(out, shape, node))
    }

    /// Tensors of one shape joined along a new dimension at `dim`. Errors as [`Tensor::cat`].
    pub fn stack(tensors: &[&Tensor], dim: impl Dim) -> Result<Tensor> {
        let rank = tensors.first().map_or(0, |t| t.rank());
        let dim = dim.resolve(rank + 1, "stack")?;
        let wide = tensors.iter().map(|t| t.unsqueeze(dim)).collect::<Result<Vec<_>>>()?;
        Tensor::cat(&Vec::from_iter(&wide), dim)
    }
}
