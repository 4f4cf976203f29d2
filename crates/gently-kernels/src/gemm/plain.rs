//! The reference product: three loops, generic over [`Real`]. It defines what the fast paths must give,
//! and serves f64 tensors.

use super::Epilogue;
use crate::activation::Activation;
use crate::pool::{self, Disjoint};
use crate::real::Real;

/// A strided matrix of any [`Real`]; see [`super::Mat`].
#[derive(Debug, Clone, Copy)]
pub struct View<'a, T> {
    /// The elements.
    pub data: &'a [T],
    /// Number of rows.
    pub rows: usize,
    /// Number of columns.
    pub cols: usize,
    /// Elements from one row to the next.
    pub row_stride: usize,
    /// Elements from one column to the next.
    pub col_stride: usize,
}

impl<'a, T: Real> View<'a, T> {
    /// A row-major matrix.
    pub fn new(data: &'a [T], rows: usize, cols: usize) -> Self {
        Self { data, rows, cols, row_stride: cols, col_stride: 1 }
    }

    /// The transposed view.
    #[must_use]
    pub fn t(self) -> Self {
        Self { rows: self.cols, cols: self.rows, row_stride: self.col_stride, col_stride: self.row_stride, ..self }
    }

    /// Element (i, j).
    #[inline]
    pub fn at(&self, i: usize, j: usize) -> T {
        self.data[i * self.row_stride + j * self.col_stride]
    }
}

/// `C[m,n] = epilogue(A[m,k] · B[k,n])`, each sum over k from first to last.
///
/// # Panics
/// As [`super::gemm`].
pub fn gemm<T: Real>(a: View<T>, b: View<T>, c: &mut [T], ldc: usize, ep: Epilogue<T>) {
    assert_eq!(a.cols, b.rows, "gemm: inner dimensions differ");
    check_output(a.rows, b.cols, c.len(), ldc, &ep);
    let n = b.cols;
    if a.rows == 0 || n == 0 {
        return;
    }
    let c = Disjoint::new(c);
    let pre = ep.pre_activation.map(Disjoint::new);
    pool::parallel(a.rows, |i| {
        let mut row = vec![T::ZERO; n];
        for p in 0..a.cols {
            let x = a.at(i, p);
            for (j, sum) in row.iter_mut().enumerate() {
                *sum += x * b.at(p, j);
            }
        }
        // SAFETY: row i belongs to task i alone; ldc ≥ n is checked.
        let out = unsafe { c.part(i * ldc, n) };
        // SAFETY: as above; `pre` has the layout of C.
        let mut pre = pre.as_ref().map(|p| unsafe { p.part(i * ldc, n) });
        for j in 0..n {
            let x = ep.alpha * row[j] + ep.bias.map_or(T::ZERO, |bias| bias[j]);
            if let Some(pre) = &mut pre {
                pre[j] = x;
            }
            let mut y = ep.activation.apply(x);
            if let Some(residual) = ep.residual {
                y += residual[i * ldc + j];
            }
            out[j] = if ep.accumulate { out[j] + y } else { y };
        }
    });
}

/// Panics where C or a part of the epilogue is too short for an [m, n] result, or its parts do not go together.
pub(super) fn check_output<T>(m: usize, n: usize, len: usize, ldc: usize, ep: &Epilogue<T>) {
    assert!(
        !ep.accumulate || (ep.activation == Activation::None && ep.pre_activation.is_none() && ep.residual.is_none()),
        "gemm: a product that is added to C has no activation, residual or saved x"
    );
    if m == 0 || n == 0 {
        return;
    }
    let need = (m - 1).checked_mul(ldc).and_then(|x| x.checked_add(n));
    let fits = |len: usize| need.is_some_and(|need| need <= len);
    assert!(ldc >= n && fits(len), "gemm: C [{m}, {n}] with row stride {ldc} does not fit its {len} elements");
    if let Some(bias) = ep.bias {
        assert!(bias.len() >= n, "gemm: bias has {} of {n} elements", bias.len());
    }
    if let Some(pre) = &ep.pre_activation {
        assert!(fits(pre.len()), "gemm: pre_activation is shorter than C");
    }
    if let Some(residual) = ep.residual {
        assert!(fits(residual.len()), "gemm: residual is shorter than C");
    }
}
