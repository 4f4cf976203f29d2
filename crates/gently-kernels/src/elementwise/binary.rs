//! Two operands with broadcasting, and in-place sums.

use super::View;
use super::strided::{CHUNK, Walk};
use crate::pool::{self, Disjoint};
use crate::real::Real;

/// An operation on two numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Binary {
    /// a + b
    Add,
    /// a − b
    Sub,
    /// a · b
    Mul,
    /// a / b
    Div,
    /// The larger; NaN where either is.
    Max,
    /// The smaller; NaN where either is.
    Min,
}

impl Binary {
    /// The operation on two numbers.
    #[inline(always)]
    pub fn apply<T: Real>(self, a: T, b: T) -> T {
        match self {
            Binary::Add => a + b,
            Binary::Sub => a - b,
            Binary::Mul => a * b,
            Binary::Div => a / b,
            // `a != a` is true for NaN only; written so that it vectorises.
            Binary::Max => {
                if a > b || a.is_nan() {
                    a
                } else {
                    b
                }
            }
            Binary::Min => {
                if a < b || a.is_nan() {
                    a
                } else {
                    b
                }
            }
        }
    }
}

/// `out = op(a, b)` over `shape`; `out` is contiguous, a and b are views of that shape.
///
/// # Panics
/// When a view leaves its data or `out` has another length than the shape.
pub fn binary<T: Real>(op: Binary, shape: &[usize], a: View<'_, T>, b: View<'_, T>, out: &mut [T]) {
    let walk = Walk::new(shape, [a.strides, b.strides]);
    assert_eq!(out.len(), walk.len(), "elementwise: output and shape {shape:?}");
    assert!(walk.extent(0) <= a.data.len(), "elementwise: left operand leaves its data");
    assert!(walk.extent(1) <= b.data.len(), "elementwise: right operand leaves its data");
    let (sa, sb) = (walk.inner(0), walk.inner(1));
    let shared = Disjoint::new(out);
    walk.runs(|first, [oa, ob], len| {
        // SAFETY: runs are disjoint parts of the output.
        let out = unsafe { shared.part(first, len) };
        for (i, o) in out.iter_mut().enumerate() {
            *o = op.apply(a.data[oa + i * sa], b.data[ob + i * sb]);
        }
    });
}

/// `y += x`, any shape.
///
/// # Panics
/// When lengths disagree.
pub fn add_assign<T: Real>(y: &mut [T], x: &[T]) {
    scale_add(T::ONE, x, T::ONE, y);
}

/// `y = alpha · x + beta · y`, any shape.
///
/// # Panics
/// When lengths disagree.
pub fn scale_add<T: Real>(alpha: T, x: &[T], beta: T, y: &mut [T]) {
    assert_eq!(x.len(), y.len(), "elementwise: lengths of x and y");
    pool::parallel_chunks_mut(y, CHUNK, |chunk, y| {
        let x = &x[chunk * CHUNK..][..y.len()];
        for (y, &x) in y.iter_mut().zip(x) {
            *y = alpha * x + beta * *y;
        }
    });
}
