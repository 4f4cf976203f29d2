//! Matrix products C = A·B with what a network needs around them.
//!
//! Here: the operands ([`Mat`], any strides, f32 or bf16), the [`Epilogue`] (scale, bias, activation,
//! residual, accumulation) and the entry points [`gemm`] and [`gemm_batched`]. [`plain`] is the
//! reference. Not here: graphs, shapes of tensors, gradients; a caller asks for dX = dY·W and
//! dW = dYᵀ·X as products of transposed views.
//!
//! ```
//! use gently_kernels::gemm::{Compute, Epilogue, Mat, gemm};
//! let (a, b) = ([1.0, 2.0, 3.0, 4.0], [1.0, 0.0, 1.0, 1.0]);
//! let mut c = [0.0; 4];
//! // C = A·Bᵀ, as in y = x·Wᵀ.
//! gemm(Compute::F32, Mat::f32(&a, 2, 2), Mat::f32(&b, 2, 2).t(), &mut c, 2, Epilogue::default());
//! assert_eq!(c, [1.0, 3.0, 3.0, 7.0]);
//! ```

mod blocked;
mod micro;
mod pack;
pub mod plain;
mod skinny;

use crate::activation::Activation;
use crate::cpu::{self, Path};
use crate::pool::{self, Disjoint};
use crate::real::Real;
use crate::scratch::Scratch;
use half::bf16;

/// The elements of a matrix.
#[derive(Debug, Clone, Copy)]
pub enum Operand<'a> {
    /// 32-bit floats.
    F32(&'a [f32]),
    /// bfloat16.
    Bf16(&'a [bf16]),
}

impl<'a> Operand<'a> {
    /// The number of elements.
    pub fn len(&self) -> usize {
        match self {
            Operand::F32(d) => d.len(),
            Operand::Bf16(d) => d.len(),
        }
    }

    /// The elements from the `n`th on.
    fn skip(self, n: usize) -> Operand<'a> {
        match self {
            Operand::F32(d) => Operand::F32(&d[n..]),
            Operand::Bf16(d) => Operand::Bf16(&d[n..]),
        }
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A matrix view: element (i, j) is `data[i·row_stride + j·col_stride]`. Strides may be zero (a row or
/// column that is repeated) and need not be 1 in any direction.
#[derive(Debug, Clone, Copy)]
pub struct Mat<'a> {
    /// The elements; more than the view covers is allowed.
    pub data: Operand<'a>,
    /// Number of rows.
    pub rows: usize,
    /// Number of columns.
    pub cols: usize,
    /// Elements from one row to the next.
    pub row_stride: usize,
    /// Elements from one column to the next.
    pub col_stride: usize,
}

impl<'a> Mat<'a> {
    /// A row-major matrix of f32.
    pub fn f32(data: &'a [f32], rows: usize, cols: usize) -> Self {
        Self::new(Operand::F32(data), rows, cols)
    }

    /// A row-major matrix of bf16.
    pub fn bf16(data: &'a [bf16], rows: usize, cols: usize) -> Self {
        Self::new(Operand::Bf16(data), rows, cols)
    }

    /// A row-major matrix.
    pub fn new(data: Operand<'a>, rows: usize, cols: usize) -> Self {
        Self { data, rows, cols, row_stride: cols, col_stride: 1 }
    }

    /// The transposed view.
    #[must_use]
    pub fn t(self) -> Self {
        Self { rows: self.cols, cols: self.rows, row_stride: self.col_stride, col_stride: self.row_stride, ..self }
    }

    /// The same elements with other strides.
    #[must_use]
    pub fn with_strides(self, row_stride: usize, col_stride: usize) -> Self {
        Self { row_stride, col_stride, ..self }
    }

    /// One more than the largest index the view touches, or `None` where that overflows.
    fn extent(&self) -> Option<usize> {
        if self.rows == 0 || self.cols == 0 {
            return Some(0);
        }
        let last_row = (self.rows - 1).checked_mul(self.row_stride)?;
        let last_col = (self.cols - 1).checked_mul(self.col_stride)?;
        last_row.checked_add(last_col)?.checked_add(1)
    }

    /// Panics where the view leaves its data by `extra` elements of offset.
    fn check(&self, name: &str, extra: usize) {
        let fits = self
            .extent()
            .and_then(|e| e.checked_add(extra))
            .is_some_and(|e| e <= self.data.len() || self.rows == 0 || self.cols == 0);
        assert!(
            fits,
            "gemm: matrix {name} [{}, {}] with strides ({}, {}) leaves its {} elements",
            self.rows,
            self.cols,
            self.row_stride,
            self.col_stride,
            self.data.len()
        );
    }
}

/// In what arithmetic products are formed. Accumulation is f32 in both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Compute {
    /// Inputs as they are (bf16 is widened, exactly).
    #[default]
    F32,
    /// Inputs rounded to bf16, to nearest even. Twice as fast where the processor multiplies bf16; there,
    /// `vdpbf16ps` takes subnormal inputs and sums for 0.
    Bf16,
}

/// What happens to the product on its way to memory:
///
/// x = alpha · A·B + bias;  C = activation(x) + residual, or C = C + x with `accumulate`
///
/// `pre_activation` and `residual` are laid out as C, with its row stride. A product that is added to C has none of them and
/// no activation: gradients add up, outputs do not, and C could not hold the partial sums of a product that has both.
#[derive(Debug)]
pub struct Epilogue<'a, T = f32> {
    /// One number for each column of C.
    pub bias: Option<&'a [T]>,
    /// Applied to x.
    pub activation: Activation,
    /// Receives x, for the backward pass.
    pub pre_activation: Option<&'a mut [T]>,
    /// Added after the activation.
    pub residual: Option<&'a [T]>,
    /// Add to what C holds rather than replace it: without an activation, `pre_activation` and `residual`.
    pub accumulate: bool,
    /// Factor on the product.
    pub alpha: T,
}

impl<T: Real> Default for Epilogue<'_, T> {
    fn default() -> Self {
        Self {
            bias: None,
            activation: Activation::None,
            pre_activation: None,
            residual: None,
            accumulate: false,
            alpha: T::ONE,
        }
    }
}

/// `C[m,n] = epilogue(A[m,k] · B[k,n])`; C is row-major with row stride `ldc`.
///
/// Each element's sum runs over k in an order that depends on the shape alone.
///
/// # Panics
/// When the inner dimensions differ, an operand is shorter than its view, or a product is added to C and has an activation,
/// a residual or a place for x (see [`Epilogue`]).
pub fn gemm(compute: Compute, a: Mat, b: Mat, c: &mut [f32], ldc: usize, ep: Epilogue) {
    gemm_on(cpu::path(), compute, a, b, c, ldc, ep);
}

/// [`gemm`] on a path.
fn gemm_on(path: Path, compute: Compute, a: Mat, b: Mat, c: &mut [f32], ldc: usize, ep: Epilogue) {
    check(&a, &b, c, ldc, &ep);
    path.check();
    if a.rows == 0 || b.cols == 0 {
        return;
    }
    // SAFETY: operands, C and epilogue were checked against their lengths, and the path against the
    // processor.
    unsafe {
        if skinny::serves(compute, &a, &b) {
            skinny::run(path, &a, &b, c.as_mut_ptr(), ldc, ep);
        } else {
            blocked::run(path, compute, &a, &b, c.as_mut_ptr(), ldc, ep);
        }
    }
}

/// What [`gemm`] takes beside its operands, of which only sizes, strides and types are looked at.
pub fn scratch(compute: Compute, a: &Mat, b: &Mat) -> Scratch {
    if a.rows == 0 || b.cols == 0 {
        return Scratch::default();
    }
    let path = cpu::path();
    match skinny::serves(compute, a, b) {
        true => skinny::scratch_bytes(a, b),
        false => blocked::scratch_bytes(path, compute, a, b),
    }
}

/// What [`gemm_batched`] takes beside its operands.
pub fn scratch_batched(compute: Compute, batch: usize, a: &Mat, b: &Mat) -> Scratch {
    let one = scratch(compute, a, b);
    match batch >= FEW {
        // Each thread asks for products of its own.
        true => Scratch { asking: 0, packing: one.asking + one.packing, ..one },
        false => one,
    }
}

fn check<T>(a: &Mat, b: &Mat, c: &[T], ldc: usize, ep: &Epilogue<T>) {
    assert_eq!(
        a.cols, b.rows,
        "gemm: A is [{}, {}] and B is [{}, {}]: inner dimensions differ",
        a.rows, a.cols, b.rows, b.cols
    );
    a.check("A", 0);
    b.check("B", 0);
    plain::check_output(a.rows, b.cols, c.len(), ldc, ep);
}

/// Products that are too few to be made one by each thread.
const FEW: usize = 4;

/// `batch` products side by side, C `[batch, m, n]`: product i is of A at `i·a_stride` and B at `i·b_stride` (strides in
/// elements; 0 repeats an input). C = (C if `accumulate`) + alpha·A·B.
///
/// # Panics
/// As [`gemm`], and when C is too short.
#[allow(clippy::too_many_arguments)]
pub fn gemm_batched(
    compute: Compute,
    batch: usize,
    a: Mat,
    a_stride: usize,
    b: Mat,
    b_stride: usize,
    c: &mut [f32],
    alpha: f32,
    accumulate: bool,
) {
    let (m, n) = (a.rows, b.cols);
    assert_eq!(a.cols, b.rows, "gemm: inner dimensions differ");
    if batch == 0 || m == 0 || n == 0 {
        return;
    }
    let extra = |stride: usize| (batch - 1).saturating_mul(stride);
    a.check("A", extra(a_stride));
    b.check("B", extra(b_stride));
    let fits = m.checked_mul(n).and_then(|one| one.checked_mul(batch)).is_some_and(|all| all <= c.len());
    assert!(fits, "gemm: {batch} products of [{m}, {n}] do not fit {} elements", c.len());
    let c = Disjoint::new(c);
    // Where K is 0 there are no inputs, and no place of theirs to go to.
    let (a_stride, b_stride) = if a.cols == 0 { (0, 0) } else { (a_stride, b_stride) };
    let product = |i: usize| {
        let ai = Mat { data: a.data.skip(i * a_stride), ..a };
        let bi = Mat { data: b.data.skip(i * b_stride), ..b };
        let ep = Epilogue { alpha, accumulate, ..Epilogue::default() };
        // SAFETY: results lie side by side, and each belongs to one task.
        let ci = unsafe { c.part(i * m * n, m * n) };
        gemm(compute, ai, bi, ci, n, ep);
    };
    // A product inside a task runs on one thread; few products are better shared by all threads.
    if batch >= FEW {
        pool::parallel(batch, product);
    } else {
        (0..batch).for_each(product);
    }
}

#[cfg(test)]
mod tests;
