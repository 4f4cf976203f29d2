//! Rows by id: embeddings with positions, and picking along any dimension.

use super::{dense, need_device, need_float, need_ids, need_same};
use crate::backend;
use crate::storage::Buffer;
use crate::tape::{Node, recording};
use crate::{Dim, Error, Op, Result, Shape, Tensor, profile};

impl Tensor {
    /// Rows of this table `[V, C]` by u32 ids of any shape `[…]`, giving `[…, C]`. The gradient is added into the table's
    /// rows in the order of the ids. Errors: an id of V or more, shapes, dtypes.
    pub fn embedding(&self, ids: &Tensor) -> Result<Tensor> {
        self.embedding_by(ids, None)
    }

    /// [`Tensor::embedding`] of ids `[…, T]` plus rows of a table of positions `[context, C]`, token t at `start + t`.
    ///
    /// # Errors
    /// As [`Tensor::embedding`], and positions beyond their table or a table of other rows.
    pub fn embedding_with_positions(&self, ids: &Tensor, positions: &Tensor, start: usize) -> Result<Tensor> {
        self.embedding_by(ids, Some((positions, start)))
    }

    fn embedding_by(&self, ids: &Tensor, positions: Option<(&Tensor, usize)>) -> Result<Tensor> {
        const OP: &str = Op::Embedding.name();
        let _op = profile::op(OP);
        need_float(OP, self)?;
        need_ids(OP, ids)?;
        need_device(OP, self, ids)?;
        let &[_, width] = self.dims() else {
            return Err(Error::BadShape { op: OP, shape: Box::new(*self.shape()), why: "a table is [V, C]" });
        };
        let block = ids.shape().last();
        if let Some((p, start)) = positions {
            need_same(OP, self, p)?;
            if p.rank() != 2 || p.dims()[1] != width {
                return Err(Error::ShapeMismatch {
                    op: OP,
                    left: Box::new(*self.shape()),
                    right: Box::new(*p.shape()),
                    why: "both tables have rows of the same width",
                });
            }
            let rows = p.dims()[0];
            if start.checked_add(block).is_none_or(|end| end > rows) {
                return Err(Error::range("embedding (positions)", start, block, rows));
            }
        }
        let mut dims = ids.dims().to_vec();
        dims.push(width);
        let shape = Shape::new(&dims)?;
        let (table, id_view) = (dense(OP, self)?, dense(OP, ids)?);
        let pos_view = positions.map(|(p, _)| dense(OP, p)).transpose()?;
        let start = positions.map_or(0, |p| p.1);
        let mut out = Buffer::alloc(OP, self.device(), self.dtype(), shape)?;
        if shape.numel() > 0 {
            let with = pos_view.as_ref().map(|p| (p, block, start));
            backend::embedding(&mut out, &table, &id_view, with)?;
        }
        drop((table, pos_view));
        let mut inputs = vec![self];
        inputs.extend(positions.map(|p| p.0));
        let with_positions = positions.is_some();
        let node = recording(&inputs).then(|| {
            Node::new(Op::Embedding, &inputs, move |s, g| {
                let dy = dense(OP, &g)?;
                let mut table = s.open(0)?;
                if let Some(acc) = &mut table {
                    acc.make_additive();
                    if shape.numel() > 0 {
                        backend::embedding_backward(acc.buffer(), width, &id_view, &dy)?;
                    }
                }
                s.close(0, table)?;
                if with_positions {
                    let mut table = s.open(1)?;
                    if let Some(acc) = &mut table {
                        acc.make_additive();
                        if shape.numel() > 0 {
                            backend::positions_backward(acc.buffer(), width, block, start, &dy);
                        }
                    }
                    s.close(1, table)?;
                }
                Ok(())
            })
        });
        Ok(Tensor::from_buffer(out, shape, node))
    }

    /// Slices of dimension `dim` by u32 ids `[M]`: the result has M in that place. Any dtype. Errors: an id beyond the
    /// dimension.
    pub fn index_select(&self, dim: impl Dim, ids: &Tensor) -> Result<Tensor> {
        const OP: &str = Op::IndexSelect.name();
        let dim = dim.resolve(self.rank(), OP)?;
        let &[m] = ids.dims() else {
            return Err(Error::BadShape { op: OP, shape: Box::new(*ids.shape()), why: "ids are [M]" });
        };
        let shape = Shape::new(self.shape().with(dim, m).dims())?;
        self.pick(Op::IndexSelect, dim, ids, shape, false)
    }

    /// Elements of dimension `dim` by u32 ids of this rank, all other sizes equal: out[…, j, …] = x[…, ids[…, j, …], …].
    /// Any dtype. Errors: shapes, an id beyond the dimension.
    pub fn gather(&self, dim: impl Dim, ids: &Tensor) -> Result<Tensor> {
        const OP: &str = Op::Gather.name();
        let dim = dim.resolve(self.rank(), OP)?;
        let fits = ids.rank() == self.rank() && {
            let m = ids.dims()[dim];
            self.shape().with(dim, m) == *ids.shape()
        };
        if !fits {
            return Err(Error::ShapeMismatch {
                op: OP,
                left: Box::new(*self.shape()),
                right: Box::new(*ids.shape()),
                why: "ids have the tensor's sizes except in the gathered dimension",
            });
        }
        self.pick(Op::Gather, dim, ids, *ids.shape(), true)
    }

    fn pick(&self, op: Op, dim: usize, ids: &Tensor, shape: Shape, full: bool) -> Result<Tensor> {
        let _op = profile::op(op.name());
        need_ids(op.name(), ids)?;
        need_device(op.name(), self, ids)?;
        let dims = self.dims();
        let (n, m) = (dims[dim], shape.dims()[dim]);
        let outer = dims[..dim].iter().product();
        let inner = dims[dim + 1..].iter().product();
        let sizes = [outer, n, m, inner];
        let (x, ids) = (dense(op.name(), self)?, dense(op.name(), ids)?);
        let mut out = Buffer::alloc(op.name(), self.device(), self.dtype(), shape)?;
        backend::pick(&mut out, &x, &ids, sizes, full)?;
        drop(x);
        let node = recording(&[self]).then(|| {
            Node::new(op, &[self], move |s, g| {
                let dy = dense(op.name(), &g)?;
                let mut acc = s.open(0)?;
                if let Some(acc) = &mut acc {
                    acc.make_additive();
                    backend::pick_backward(acc.buffer(), &ids, &dy, sizes, full);
                }
                s.close(0, acc)
            })
        });
        Ok(Tensor::from_buffer(out, shape, node))
    }
}
