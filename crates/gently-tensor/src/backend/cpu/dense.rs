//! Matrix products and norms on the CPU.

use super::{by_float, twin};
use crate::backend::NormKind;
use crate::storage::Buffer;
use crate::tensor::View;
use crate::{Activation, Compute, DType, Element};
use gently_kernels::gemm::{self, Mat, Operand, plain};
use gently_kernels::norm;

/// A matrix inside a view: element (i, j) at `offset + i·row_stride + j·col_stride` from the view's first.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a> {
    pub view: &'a View,
    pub rows: usize,
    pub cols: usize,
    pub row_stride: usize,
    pub col_stride: usize,
}

impl<'a> Matrix<'a> {
    /// Dense rows, `row_stride` apart.
    pub fn rows(view: &'a View, rows: usize, cols: usize, row_stride: usize) -> Matrix<'a> {
        Matrix { view, rows, cols, row_stride, col_stride: 1 }
    }

    pub fn t(self) -> Matrix<'a> {
        Matrix { rows: self.cols, cols: self.rows, row_stride: self.col_stride, col_stride: self.row_stride, ..self }
    }

    /// The elements from `offset` on. Without elements, strides may lead to offsets that storage does not have.
    fn elements<T: Element>(&self, offset: usize) -> &'a [T] {
        let all = self.view.strided();
        &all[offset.min(all.len())..]
    }

    pub(in crate::backend) fn single(&self, offset: usize) -> Mat<'a> {
        let data = match self.view.dtype() {
            DType::Bf16 => Operand::Bf16(self.elements(offset)),
            _ => Operand::F32(self.elements(offset)),
        };
        Mat::new(data, self.rows, self.cols).with_strides(self.row_stride, self.col_stride)
    }

    fn double(&self, offset: usize) -> plain::View<'a, f64> {
        plain::View {
            data: self.elements(offset),
            rows: self.rows,
            cols: self.cols,
            row_stride: self.row_stride,
            col_stride: self.col_stride,
        }
    }
}

/// What happens to a product on its way to memory; see `gently_kernels::gemm::Epilogue`.
#[derive(Default)]
pub(crate) struct Epilogue<'a> {
    pub bias: Option<&'a View>,
    pub activation: Activation,
    pub pre_activation: Option<&'a mut Buffer>,
    pub residual: Option<&'a View>,
    pub accumulate: bool,
}

pub(crate) fn gemm(c: &mut Buffer, compute: Compute, a: Matrix<'_>, b: Matrix<'_>, ep: Epilogue<'_>) {
    let n = b.cols;
    macro_rules! epilogue {
        ($T:ty) => {
            gemm::Epilogue {
                bias: ep.bias.map(|b| b.dense::<$T>()),
                activation: ep.activation,
                pre_activation: ep.pre_activation.map(|p| p.slice_mut::<$T>()),
                residual: ep.residual.map(|r| r.dense::<$T>()),
                accumulate: ep.accumulate,
                alpha: 1.0,
            }
        };
    }
    if c.dtype() == DType::F64 {
        plain::gemm(a.double(0), b.double(0), c.slice_mut(), n, epilogue!(f64));
    } else {
        gemm::gemm(compute, a.single(0), b.single(0), c.slice_mut(), n, epilogue!(f32));
    }
}

pub(crate) fn gemm_batched(
    c: &mut Buffer,
    compute: Compute,
    a: Matrix<'_>,
    b: Matrix<'_>,
    offsets: &[(usize, usize)],
    accumulate: bool,
) {
    let (m, n) = (a.rows, b.cols);
    if c.dtype() == DType::F64 {
        for (i, &(oa, ob)) in offsets.iter().enumerate() {
            let ep = gemm::Epilogue { accumulate, ..gemm::Epilogue::default() };
            let c = &mut c.slice_mut()[i * m * n..][..m * n];
            plain::gemm(a.double(oa), b.double(ob), c, n, ep);
        }
        return;
    }
    // Evenly stepping batches are one call; anything else (inner broadcasting) is one call for each even run.
    let mut start = 0;
    while start < offsets.len() {
        let first = offsets[start];
        let mut count = 1;
        let mut step = (0, 0);
        while let Some(&next) = offsets.get(start + count) {
            let last = offsets[start + count - 1];
            let (Some(da), Some(db)) = (next.0.checked_sub(last.0), next.1.checked_sub(last.1)) else {
                break;
            };
            if count == 1 {
                step = (da, db);
            } else if (da, db) != step {
                break;
            }
            count += 1;
        }
        let c = &mut c.slice_mut::<f32>()[start * m * n..][..count * m * n];
        let (a, b) = (a.single(first.0), b.single(first.1));
        gemm::gemm_batched(compute, count, a, step.0, b, step.1, c, 1.0, accumulate);
        start += count;
    }
}

pub(crate) fn column_sum(out: &mut Buffer, x: &View, accumulate: bool) {
    by_float!(out.dtype(), T => gently_kernels::reduce::column_sum(
        x.dense::<T>(), accumulate, out.slice_mut::<T>(),
    ));
}

#[allow(clippy::too_many_arguments)]
pub(crate) fn norm(
    y: &mut Buffer,
    kind: NormKind,
    x: &View,
    w: Option<&View>,
    b: Option<&View>,
    eps: f64,
    mean: &mut Buffer,
    rstd: &mut Buffer,
) {
    twin!(y.dtype(), norm::forward, T => (
        &norm::Norm {
            kind,
            width: x.shape().last(),
            weight: w.map(|w| w.dense::<T>()),
            bias: b.map(|b| b.dense::<T>()),
            eps: eps as T,
        },
        x.dense::<T>(),
        None,
        y.slice_mut::<T>(),
        mean.slice_mut::<T>(),
        rstd.slice_mut::<T>(),
    ));
}

/// Where `norm`'s gradients go. All accumulators of parameters share one flag.
pub(crate) struct NormGrads<'a> {
    pub dx: &'a mut Buffer,
    pub accumulate_dx: bool,
    pub dw: Option<&'a mut Buffer>,
    pub db: Option<&'a mut Buffer>,
    pub accumulate_params: bool,
}

#[allow(clippy::too_many_arguments)]
pub(crate) fn norm_backward(
    kind: NormKind,
    x: &View,
    w: Option<&View>,
    eps: f64,
    mean: &Buffer,
    rstd: &Buffer,
    dy: &View,
    grads: NormGrads<'_>,
) {
    twin!(grads.dx.dtype(), norm::backward, T => (
        &norm::Norm {
            kind,
            width: x.shape().last(),
            weight: w.map(|w| w.dense::<T>()),
            bias: None,
            eps: eps as T,
        },
        x.dense::<T>(),
        mean.slice::<T>(),
        rstd.slice::<T>(),
        dy.dense::<T>(),
        norm::Grads {
            dx: grads.dx.slice_mut::<T>(),
            accumulate_dx: grads.accumulate_dx,
            dweight: grads.dw.map(|d| d.slice_mut::<T>()),
            dbias: grads.db.map(|d| d.slice_mut::<T>()),
            accumulate_params: grads.accumulate_params,
        },
    ));
}
