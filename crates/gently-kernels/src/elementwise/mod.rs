//! Arithmetic element by element: binary with broadcasting, unary, copies of strided views, dropout.
//!
//! Here: kernels over [`View`]s and slices, generic over f32 and f64, one body compiled for each CPU path;
//! [`Dropout::apply`](crate::dropout::Dropout::apply). Not here:
//! reductions (see `reduce`), activations of networks (see `activation`), conversions (see `cast`).
//!
//! ```
//! use gently_kernels::elementwise::{binary, Binary, View};
//! let (a, b) = ([1.0f32, 2.0, 3.0, 4.0], [10.0f32, 20.0]);
//! let mut out = [0.0; 4];
//! // [2, 2] + [2] broadcast over rows: a stride of 0.
//! binary(Binary::Add, &[2, 2], View::new(&a, &[2, 1]), View::new(&b, &[0, 1]), &mut out);
//! assert_eq!(out, [11.0, 22.0, 13.0, 24.0]);
//! ```

mod binary;
mod copy;
mod dropout;
mod strided;
mod unary;

pub use binary::{Binary, add_assign, affine_assign, binary, choice_backward, scale_add, scale_assign};
pub use copy::{add_strided, assign_strided, copy_strided};
pub use unary::{Unary, unary, unary_backward};

/// A strided view: element (i, j, …) is `data[i·strides[0] + j·strides[1] + …]`; stride 0 repeats.
#[derive(Clone, Copy, Debug)]
pub struct View<'a, T> {
    /// The numbers, from the view's first element on.
    pub data: &'a [T],
    /// One stride, in elements, for each axis.
    pub strides: &'a [usize],
}

impl<'a, T> View<'a, T> {
    /// A view.
    pub fn new(data: &'a [T], strides: &'a [usize]) -> Self {
        View { data, strides }
    }
}

#[cfg(test)]
mod tests;
