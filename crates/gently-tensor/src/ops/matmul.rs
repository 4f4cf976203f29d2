//! The batched matrix product with broadcasting batch dimensions.

use super::linear::product_dtype;
use super::need_device;
use crate::backend::{self, Epilogue, Matrix};
use crate::shape::Layout;
use crate::storage::Buffer;
use crate::tape::{Node, Sink, recording};
use crate::tensor::View;
use crate::{Compute, DType, Error, Op, Result, Shape, Tensor, profile};

const OP: &str = Op::Matmul.name();

impl Tensor {
    /// A·B, `[…, M, K]` by `[…, K, N]` to `[…, M, N]`; batch dimensions broadcast. Any strides are taken as they are.
    /// f32 and bf16 in any mixture give f32; f64 gives f64. Errors: inner sizes, batch sizes, dtypes, devices.
    pub fn matmul(&self, other: &Tensor) -> Result<Tensor> {
        self.matmul_in(other, Compute::F32)
    }

    /// [`Tensor::matmul`] with products in this precision, forward and backward.
    ///
    /// # Errors
    /// As [`Tensor::matmul`].
    pub fn matmul_in(&self, other: &Tensor, compute: Compute) -> Result<Tensor> {
        let _op = profile::op(OP);
        need_device(OP, self, other)?;
        let dtype = product_dtype(OP, self, other)?;
        let (sa, sb) = (*self.shape(), *other.shape());
        let mismatch = |why| Error::ShapeMismatch { op: OP, left: Box::new(sa), right: Box::new(sb), why };
        if sa.rank() < 2 || sb.rank() < 2 {
            return Err(mismatch("both must have at least two dimensions"));
        }
        let (ra, rb) = (sa.rank(), sb.rank());
        let (m, k, n) = (sa.dims()[ra - 2], sa.dims()[ra - 1], sb.dims()[rb - 1]);
        if sb.dims()[rb - 2] != k {
            return Err(mismatch("the last size of the first is the second-last of the second"));
        }
        let batch_a = Shape::raw(&sa.dims()[..ra - 2]);
        let batch_b = Shape::raw(&sb.dims()[..rb - 2]);
        let mut shape = batch_a.broadcast(&batch_b, OP).map_err(|_| mismatch("batch dimensions must be equal or 1"))?;
        let batch = shape;
        if shape.rank() + 2 > crate::shape::MAX_RANK {
            return Err(mismatch("too many dimensions"));
        }
        shape.push(m);
        shape.push(n);
        let shape = Shape::new(shape.dims())?;

        let (a, b) = (self.view(OP)?, other.view(OP)?);
        let mut out = Buffer::alloc(OP, self.device(), dtype, shape)?;
        product(&mut out, compute, &a, false, &b, false, batch, false);
        if !recording(&[self, other]) {
            return Ok(Tensor::from_buffer(out, shape, None));
        }
        let b = self.is_tracked().then_some(b);
        let a = other.is_tracked().then_some(a);
        let node = Node::new(OP_KIND, &[self, other], move |s, g| {
            let dc = g.view(OP)?;
            if let Some(b) = b {
                // dA = dC·Bᵀ
                let _da = profile::detail("da");
                gradient(s, 0, sa, compute, (&dc, false), (&b, true), batch)?;
            }
            if let Some(a) = a {
                // dB = Aᵀ·dC
                let _db = profile::detail("db");
                gradient(s, 1, sb, compute, (&a, true), (&dc, false), batch)?;
            }
            Ok(())
        });
        Ok(Tensor::from_buffer(out, shape, Some(node)))
    }
}

const OP_KIND: Op = Op::Matmul;

/// Adds left·right to input `i`'s gradient, summing over batch dimensions that the input was repeated along.
fn gradient(
    s: &mut Sink<'_>,
    i: usize,
    shape: Shape,
    compute: Compute,
    left: (&View, bool),
    right: (&View, bool),
    batch: Shape,
) -> Result<()> {
    let own = Shape::raw(&shape.dims()[..shape.rank() - 2]);
    if own.numel() == batch.numel() {
        let Some(mut acc) = s.open(i)? else {
            return Ok(());
        };
        let accumulate = acc.accumulate;
        product(acc.buffer(), compute, left.0, left.1, right.0, right.1, batch, accumulate);
        return s.close(i, Some(acc));
    }
    let mut full = batch;
    full.push(shape.dims()[shape.rank() - 2]);
    full.push(shape.last());
    let device = s.device(i);
    let dtype = match left.0.dtype() {
        DType::F64 => DType::F64,
        _ => DType::F32,
    };
    let mut d = Buffer::alloc(OP, device, dtype, full)?;
    product(&mut d, compute, left.0, left.1, right.0, right.1, batch, false);
    s.give(i, Tensor::from_buffer(d, full, None).sum_to(shape)?)
}

/// The last two dimensions of a view as a matrix, transposed or not.
fn last_two(v: &View, transposed: bool) -> Matrix<'_> {
    let l = &v.layout;
    let r = l.shape.rank();
    let matrix = Matrix {
        view: v,
        rows: l.shape.dims()[r - 2],
        cols: l.shape.dims()[r - 1],
        row_stride: l.strides[r - 2],
        col_stride: l.strides[r - 1],
    };
    if transposed { matrix.t() } else { matrix }
}

#[allow(clippy::too_many_arguments)]
fn product(out: &mut Buffer, compute: Compute, a: &View, ta: bool, b: &View, tb: bool, batch: Shape, accumulate: bool) {
    let (ma, mb) = (last_two(a, ta), last_two(b, tb));
    if batch.numel() == 1 {
        let ep = Epilogue { accumulate, ..Epilogue::default() };
        return backend::gemm(out, compute, ma, mb, ep);
    }
    // One matrix for all batches on the right: the rows of all batches are one tall matrix, if they step evenly.
    let b_batch: usize = b.layout.shape.dims()[..b.layout.shape.rank() - 2].iter().product();
    if b_batch == 1
        && !ta
        && let Some((rows, stride)) = a.layout.as_rows()
        && rows == batch.numel() * ma.rows
    {
        let tall = Matrix::rows(a, rows, ma.cols, stride);
        let ep = Epilogue { accumulate, ..Epilogue::default() };
        return backend::gemm(out, compute, tall, mb, ep);
    }
    let offsets: Vec<_> = batch_offsets(&a.layout, batch).into_iter().zip(batch_offsets(&b.layout, batch)).collect();
    backend::gemm_batched(out, compute, ma, mb, &offsets, accumulate);
}

/// The place of each batch's matrix, counted from the view's first element, in the order of `batch`.
fn batch_offsets(layout: &Layout, batch: Shape) -> Vec<usize> {
    let own = Layout {
        shape: Shape::raw(&layout.shape.dims()[..layout.shape.rank() - 2]),
        strides: layout.strides,
        offset: 0,
    };
    let wide = own.broadcast_to(batch);
    let mut offsets = vec![0];
    for (&size, &stride) in batch.dims().iter().zip(wide.strides()) {
        offsets = offsets.iter().flat_map(|&o| (0..size).map(move |i| o + i * stride)).collect();
    }
    offsets
}
