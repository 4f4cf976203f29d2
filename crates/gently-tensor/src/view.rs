//! Views: other shapes on the same memory. None of them copies, except [`Tensor::reshape`] and [`Tensor::contiguous`]
//! where the elements do not lie in order.
//!
//! ```
//! use gently_tensor::{Device, Tensor};
//! let x = Tensor::arange::<f32>(0, 6, &Device::Cpu)?.reshape([2, 3])?;
//! let y = x.transpose(0, 1)?.narrow(0, 1, 2)?;
//! assert_eq!(y.to_vec::<f32>()?, [1.0, 4.0, 2.0, 5.0]);
//! # Ok::<(), gently_tensor::Error>(())
//! ```

use crate::shape::{Layout, MAX_RANK};
use crate::storage::Buffer;
use crate::tape::{Node, Sink, recording};
use crate::{Dim, Error, Op, Result, Shape, Tensor, ToShape, backend, profile};

impl Tensor {
    /// The same memory under another layout, recorded with the given backward.
    fn relaid(
        &self,
        op: Op,
        layout: Layout,
        run: impl FnOnce(&mut Sink<'_>, Tensor) -> Result<()> + Send + 'static,
    ) -> Tensor {
        let node = recording(&[self]).then(|| Node::new(op, &[self], run));
        Tensor::from_storage(self.storage().clone(), layout, node)
    }

    /// The elements in the same order under another shape of as many. Copies only if the view's strides forbid it.
    ///
    /// # Errors
    /// Another number of elements, a shape of more than [`MAX_RANK`] dimensions, no memory for the copy.
    pub fn reshape(&self, shape: impl ToShape) -> Result<Tensor> {
        let shape = shape.to_shape()?;
        let old = *self.shape();
        if shape.numel() != old.numel() {
            return Err(Error::ShapeMismatch {
                op: "reshape",
                left: Box::new(old),
                right: Box::new(shape),
                why: "a reshape keeps the number of elements",
            });
        }
        if shape == old {
            return Ok(self.clone());
        }
        match self.layout().reshaped(shape) {
            Some(layout) => Ok(self.relaid(Op::Reshape, layout, move |s, g| s.give(0, g.reshape(old)?))),
            None => self.contiguous()?.reshape(shape),
        }
    }

    /// Two dimensions exchanged.
    ///
    /// # Errors
    /// A dimension that is not there.
    pub fn transpose(&self, a: impl Dim, b: impl Dim) -> Result<Tensor> {
        let (a, b) = (a.resolve(self.rank(), "transpose")?, b.resolve(self.rank(), "transpose")?);
        if a == b {
            return Ok(self.clone());
        }
        let mut layout = *self.layout();
        layout.shape.dims_mut().swap(a, b);
        layout.strides.swap(a, b);
        Ok(self.relaid(Op::Permute, layout, move |s, g| s.give(0, g.transpose(a, b)?)))
    }

    /// The last two dimensions exchanged.
    ///
    /// # Errors
    /// Fewer than two dimensions.
    pub fn t(&self) -> Result<Tensor> {
        self.transpose(-2, -1)
    }

    /// Dimension `i` of the result is dimension `order[i]` of this. Errors: `order` is not a permutation.
    pub fn permute(&self, order: &[usize]) -> Result<Tensor> {
        let rank = self.rank();
        let mut seen = [false; MAX_RANK];
        let good = order.len() == rank && order.iter().all(|&d| d < rank && !std::mem::replace(&mut seen[d], true));
        if !good {
            return Err(Error::BadShape {
                op: "permute",
                shape: Box::new(*self.shape()),
                why: "the order must name each dimension once",
            });
        }
        let mut layout = *self.layout();
        let mut inverse = [0usize; MAX_RANK];
        for (i, &d) in order.iter().enumerate() {
            layout.shape.dims_mut()[i] = self.dims()[d];
            layout.strides[i] = self.layout().strides[d];
            inverse[d] = i;
        }
        Ok(self.relaid(Op::Permute, layout, move |s, g| s.give(0, g.permute(&inverse[..rank])?)))
    }

    /// Places `start .. start + len` of dimension `dim`.
    ///
    /// # Errors
    /// A dimension that is not there, places beyond it.
    pub fn narrow(&self, dim: impl Dim, start: usize, len: usize) -> Result<Tensor> {
        let dim = dim.resolve(self.rank(), "narrow")?;
        let size = self.dims()[dim];
        if start.checked_add(len).is_none_or(|end| end > size) {
            return Err(Error::range("narrow", start, len, size));
        }
        if len == size {
            return Ok(self.clone());
        }
        let mut layout = *self.layout();
        layout.offset += start * layout.strides[dim];
        layout.shape = layout.shape.with(dim, len);
        if layout.shape.numel() == 0 {
            layout.offset = 0;
        }
        Ok(self.relaid(Op::Narrow, layout, move |s, g| {
            let mut acc = s.open(0)?;
            if let Some(acc) = &mut acc {
                acc.make_additive();
                let part = acc.layout_of(|full| {
                    let mut part = full;
                    part.offset += start * part.strides[dim];
                    part.shape = part.shape.with(dim, len);
                    part
                });
                let g = g.contiguous()?;
                backend::add_part(acc.buffer(), &part, &g.view("narrow")?);
            }
            s.close(0, acc)
        }))
    }

    /// Index `at` of dimension `dim`, which disappears.
    ///
    /// # Errors
    /// A dimension that is not there, an index beyond it.
    pub fn select(&self, dim: impl Dim, at: usize) -> Result<Tensor> {
        let dim = dim.resolve(self.rank(), "select")?;
        let size = self.dims()[dim];
        if at >= size {
            return Err(Error::IndexOutOfRange { op: "select", index: at, size });
        }
        self.narrow(dim, at, 1)?.squeeze(dim)
    }

    /// Dimension `dim`, of size 1, removed.
    ///
    /// # Errors
    /// A dimension that is not there or has another size than 1.
    pub fn squeeze(&self, dim: impl Dim) -> Result<Tensor> {
        let dim = dim.resolve(self.rank(), "squeeze")?;
        if self.dims()[dim] != 1 {
            return Err(Error::BadShape {
                op: "squeeze",
                shape: Box::new(*self.shape()),
                why: "only a dimension of size 1 can be removed",
            });
        }
        let mut layout = *self.layout();
        layout.shape = layout.shape.without(dim);
        layout.strides.copy_within(dim + 1.., dim);
        Ok(self.relaid(Op::Reshape, layout, move |s, g| s.give(0, g.unsqueeze(dim)?)))
    }

    /// A new dimension of size 1 at `dim` (up to and including the rank; `-1` appends).
    ///
    /// # Errors
    /// A dimension beyond the rank, more than [`MAX_RANK`] dimensions.
    pub fn unsqueeze(&self, dim: impl Dim) -> Result<Tensor> {
        let dim = dim.resolve(self.rank() + 1, "unsqueeze")?;
        let mut dims = self.dims().to_vec();
        dims.insert(dim, 1);
        let mut layout = Layout { shape: Shape::new(&dims)?, ..*self.layout() };
        layout.strides.copy_within(dim..MAX_RANK - 1, dim + 1);
        layout.strides[dim] = layout.strides.get(dim + 1).map_or(1, |&s| s * dims.get(dim + 1).copied().unwrap_or(1));
        Ok(self.relaid(Op::Reshape, layout, move |s, g| s.give(0, g.squeeze(dim)?)))
    }

    /// Repeated, without copying, along new leading dimensions and along dimensions of size 1.
    ///
    /// # Errors
    /// Sizes that are neither equal nor 1, fewer dimensions than there are.
    pub fn broadcast_to(&self, shape: impl ToShape) -> Result<Tensor> {
        let shape = shape.to_shape()?;
        let old = *self.shape();
        if shape == old {
            return Ok(self.clone());
        }
        if shape.rank() < old.rank() || old.broadcast(&shape, "broadcast_to")? != shape {
            return Err(Error::ShapeMismatch {
                op: "broadcast_to",
                left: Box::new(old),
                right: Box::new(shape),
                why: "each size, aligned at the last dimension, must be equal or 1",
            });
        }
        let layout = self.layout().broadcast_to(shape);
        Ok(self.relaid(Op::Broadcast, layout, move |s, g| s.give(0, g.sum_to(old)?)))
    }

    /// The same values in row-major order without gaps; this tensor itself if it is so already.
    ///
    /// # Errors
    /// No memory for the copy; `Busy` inside a [`Tensor::with_data_mut`] of the same memory.
    pub fn contiguous(&self) -> Result<Tensor> {
        if self.is_contiguous() {
            return Ok(self.clone());
        }
        let _op = profile::op(Op::Contiguous.name());
        let mut buffer = Buffer::alloc("contiguous", self.device(), self.dtype(), *self.shape())?;
        backend::copy(&mut buffer, &self.view("contiguous")?);
        let node = recording(&[self]).then(|| Node::new(Op::Contiguous, &[self], |s, g| s.give(0, g)));
        Ok(Tensor::from_buffer(buffer, *self.shape(), node))
    }

    /// A copy in memory of its own, without history.
    ///
    /// # Errors
    /// As [`Tensor::contiguous`].
    pub fn copy(&self) -> Result<Tensor> {
        let mut buffer = Buffer::alloc("copy", self.device(), self.dtype(), *self.shape())?;
        backend::copy(&mut buffer, &self.view("copy")?);
        Ok(Tensor::from_buffer(buffer, *self.shape(), None))
    }

    /// The gradient of a broadcast: summed over what was repeated.
    pub(crate) fn sum_to(&self, shape: Shape) -> Result<Tensor> {
        if *self.shape() == shape {
            return Ok(self.clone());
        }
        let missing = self.rank() - shape.rank();
        let mut dims = Vec::new();
        for (i, &d) in self.dims().iter().enumerate() {
            if i < missing || (shape.dims()[i - missing] == 1 && d != 1) {
                dims.push(i);
            }
        }
        let summed = if dims.is_empty() { self.clone() } else { self.sum_dims(&dims, true)? };
        summed.reshape(shape)
    }
}
