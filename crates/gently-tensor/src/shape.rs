//! Shapes, strides and the arithmetic of views and broadcasting. Knows no data.
//!
//! ```
//! use gently_tensor::{Shape, ToShape};
//! let shape = [2, 3, 4].to_shape()?;
//! assert_eq!(shape.numel(), 24);
//! assert_eq!(shape.to_string(), "[2, 3, 4]");
//! # Ok::<(), gently_tensor::Error>(())
//! ```

use crate::{Error, Result};
use std::fmt;

/// The largest number of dimensions of a tensor.
pub const MAX_RANK: usize = 8;

/// The sizes of a tensor's dimensions, outermost first; held inline, at most [`MAX_RANK`] of them.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Shape {
    dims: [usize; MAX_RANK],
    rank: u8,
}

impl Shape {
    /// The shape of a single value.
    pub const SCALAR: Shape = Shape { dims: [0; MAX_RANK], rank: 0 };

    /// A shape from its sizes. Errors: more than [`MAX_RANK`] dimensions, or an element count that cannot be addressed.
    pub fn new(dims: &[usize]) -> Result<Shape> {
        if dims.len() > MAX_RANK {
            return Err(Error::TooManyDims { rank: dims.len(), max: MAX_RANK });
        }
        let shape = Shape::raw(dims);
        // 16 is twice the widest element: byte counts and their rounding stay far from overflow.
        let mut bytes = Some(16usize);
        for &d in dims {
            bytes = bytes.and_then(|b| b.checked_mul(d.max(1)));
        }
        match bytes {
            Some(b) if b <= isize::MAX as usize => Ok(shape),
            _ => Err(Error::TooLarge { shape: Box::new(shape) }),
        }
    }

    /// For sizes already known to be few enough: results of shape arithmetic on valid shapes.
    pub(crate) fn raw(dims: &[usize]) -> Shape {
        let mut out = Shape::SCALAR;
        out.dims[..dims.len()].copy_from_slice(dims);
        out.rank = dims.len() as u8;
        out
    }

    /// The sizes.
    #[inline]
    pub fn dims(&self) -> &[usize] {
        &self.dims[..self.rank as usize]
    }

    #[inline]
    pub(crate) fn dims_mut(&mut self) -> &mut [usize] {
        &mut self.dims[..self.rank as usize]
    }

    /// The number of dimensions.
    #[inline]
    pub fn rank(&self) -> usize {
        self.rank as usize
    }

    /// The number of elements.
    #[inline]
    pub fn numel(&self) -> usize {
        self.dims().iter().product()
    }

    /// The last size, 1 for a single value.
    #[inline]
    pub fn last(&self) -> usize {
        self.dims().last().copied().unwrap_or(1)
    }

    /// The shape with one dimension taken out.
    pub(crate) fn without(&self, dim: usize) -> Shape {
        let mut out = Shape::SCALAR;
        for (i, &d) in self.dims().iter().enumerate() {
            if i != dim {
                out.push(d);
            }
        }
        out
    }

    /// The shape with one size replaced.
    pub(crate) fn with(&self, dim: usize, size: usize) -> Shape {
        let mut out = *self;
        out.dims[dim] = size;
        out
    }

    pub(crate) fn push(&mut self, size: usize) {
        self.dims[self.rank as usize] = size;
        self.rank += 1;
    }

    /// The strides of a row-major tensor of this shape.
    pub(crate) fn row_major(&self) -> Strides {
        let mut strides = [0; MAX_RANK];
        let mut step = 1;
        for i in (0..self.rank()).rev() {
            strides[i] = step;
            step *= self.dims[i];
        }
        strides
    }

    /// The common shape of two operands by the broadcasting rule: aligned at the last dimension, sizes equal or 1.
    ///
    /// # Errors
    /// Sizes that are neither equal nor 1; a shape of too many elements.
    pub fn broadcast(&self, other: &Shape, op: &'static str) -> Result<Shape> {
        if self == other {
            return Ok(*self);
        }
        let rank = self.rank().max(other.rank());
        let mut out = Shape::SCALAR;
        for i in 0..rank {
            let a = self.dim_from_aligned(i, rank);
            let b = other.dim_from_aligned(i, rank);
            out.push(match (a, b) {
                (a, b) if a == b => a,
                (1, b) => b,
                (a, 1) => a,
                _ => {
                    return Err(Error::ShapeMismatch {
                        op,
                        left: Box::new(*self),
                        right: Box::new(*other),
                        why: "aligned at the last dimension, sizes must be equal or 1",
                    });
                }
            });
        }
        Shape::new(out.dims())
    }

    /// Size of dimension `i` of a rank-`rank` frame that this shape is aligned to at the end.
    fn dim_from_aligned(&self, i: usize, rank: usize) -> usize {
        let missing = rank - self.rank();
        if i < missing { 1 } else { self.dims[i - missing] }
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.dims())
    }
}

impl fmt::Debug for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.dims())
    }
}

/// Anything that names a shape: `[2, 3]`, `&[usize]`, `&Vec<usize>`, `Shape`, `()` for a single value, `n` for a vector.
pub trait ToShape {
    /// The shape, checked.
    ///
    /// # Errors
    /// As [`Shape::new`].
    fn to_shape(&self) -> Result<Shape>;
}

impl ToShape for Shape {
    fn to_shape(&self) -> Result<Shape> {
        Ok(*self)
    }
}
impl ToShape for () {
    fn to_shape(&self) -> Result<Shape> {
        Ok(Shape::SCALAR)
    }
}
impl ToShape for usize {
    fn to_shape(&self) -> Result<Shape> {
        Shape::new(&[*self])
    }
}
impl ToShape for [usize] {
    fn to_shape(&self) -> Result<Shape> {
        Shape::new(self)
    }
}
impl<const N: usize> ToShape for [usize; N] {
    fn to_shape(&self) -> Result<Shape> {
        Shape::new(self)
    }
}
impl ToShape for Vec<usize> {
    fn to_shape(&self) -> Result<Shape> {
        Shape::new(self)
    }
}
impl<S: ToShape + ?Sized> ToShape for &S {
    fn to_shape(&self) -> Result<Shape> {
        (**self).to_shape()
    }
}

/// A dimension's number: from the front (`0`, `1`, …) or from the back (`-1` is the last).
pub trait Dim: Copy {
    /// As a signed number.
    fn signed(self) -> i64;

    /// The position in a tensor of `rank` dimensions.
    ///
    /// # Errors
    /// A dimension that is not there.
    fn resolve(self, rank: usize, op: &'static str) -> Result<usize> {
        let dim = self.signed();
        let at = if dim < 0 { dim + rank as i64 } else { dim };
        if at < 0 || at >= rank as i64 {
            return Err(Error::DimOutOfRange { op, dim, rank });
        }
        Ok(at as usize)
    }
}
impl Dim for i32 {
    fn signed(self) -> i64 {
        i64::from(self)
    }
}
impl Dim for isize {
    fn signed(self) -> i64 {
        self as i64
    }
}
impl Dim for usize {
    fn signed(self) -> i64 {
        i64::try_from(self).unwrap_or(i64::MAX)
    }
}

/// Steps in elements, one per dimension; 0 repeats.
pub(crate) type Strides = [usize; MAX_RANK];

/// Where a tensor's elements lie inside its storage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Layout {
    pub shape: Shape,
    pub strides: Strides,
    pub offset: usize,
}

impl Layout {
    pub fn row_major(shape: Shape) -> Layout {
        Layout { shape, strides: shape.row_major(), offset: 0 }
    }

    pub fn strides(&self) -> &[usize] {
        &self.strides[..self.shape.rank()]
    }

    /// Row-major without gaps (strides of dimensions of size 1 do not matter).
    pub fn is_contiguous(&self) -> bool {
        let mut step = 1;
        for i in (0..self.shape.rank()).rev() {
            let size = self.shape.dims()[i];
            if size != 1 {
                if self.strides[i] != step {
                    return size == 0 || self.shape.numel() == 0;
                }
                step *= size;
            }
        }
        true
    }

    /// The layout under another shape of the same element count, if no copy is needed.
    /// Each group of old dimensions that covers a group of new ones must step evenly.
    pub fn reshaped(&self, shape: Shape) -> Option<Layout> {
        if self.is_contiguous() {
            return Some(Layout { offset: self.offset, ..Layout::row_major(shape) });
        }
        let mut old = [(0usize, 0usize); MAX_RANK];
        let mut n_old = 0;
        for (&d, &s) in self.shape.dims().iter().zip(self.strides()) {
            if d != 1 {
                old[n_old] = (d, s);
                n_old += 1;
            }
        }
        let new = shape.dims();
        let mut strides = [0; MAX_RANK];
        let (mut i, mut j) = (0, 0);
        while i < n_old && j < new.len() {
            let (start_i, start_j) = (i, j);
            let (mut a, mut b) = (old[i].0, new[j]);
            while a != b {
                if a < b {
                    i += 1;
                    a *= old.get(i).filter(|_| i < n_old)?.0;
                } else {
                    j += 1;
                    b *= *new.get(j)?;
                }
            }
            for k in start_i..i {
                if old[k].1 != old[k + 1].0 * old[k + 1].1 {
                    return None;
                }
            }
            let mut step = old[i].1;
            for k in (start_j..=j).rev() {
                strides[k] = step;
                step *= new[k];
            }
            i += 1;
            j += 1;
        }
        Some(Layout { shape, strides, offset: self.offset })
    }

    /// The layout seen under a larger shape; repeated dimensions get stride 0. The caller has checked that it fits.
    pub fn broadcast_to(&self, shape: Shape) -> Layout {
        let missing = shape.rank() - self.shape.rank();
        let mut strides = [0; MAX_RANK];
        for i in 0..self.shape.rank() {
            if self.shape.dims()[i] == shape.dims()[i + missing] {
                strides[i + missing] = self.strides[i];
            }
        }
        Layout { shape, strides, offset: self.offset }
    }

    /// Rows and the step between them, when all dimensions but the last collapse into one evenly stepping dimension
    /// and the last is dense: what a matrix kernel can take without a copy.
    pub fn as_rows(&self) -> Option<(usize, usize)> {
        let rank = self.shape.rank();
        if rank == 0 {
            return Some((1, 1));
        }
        let last = self.shape.last();
        if last > 1 && self.strides[rank - 1] != 1 {
            return None;
        }
        let rows: usize = self.shape.dims()[..rank - 1].iter().product();
        let mut step = None;
        let mut expect = 0;
        for i in (0..rank - 1).rev() {
            let size = self.shape.dims()[i];
            if size == 1 {
                continue;
            }
            match step {
                None => step = Some(self.strides[i]),
                Some(_) if self.strides[i] != expect => return None,
                Some(_) => {}
            }
            expect = self.strides[i] * size;
        }
        Some((rows, step.unwrap_or(last.max(1))))
    }

    /// One past the last element's place, counted from the storage's start; 0 for an empty layout.
    pub fn end(&self) -> usize {
        if self.shape.numel() == 0 {
            return 0;
        }
        let span: usize = self.shape.dims().iter().zip(self.strides()).map(|(&d, &s)| (d - 1) * s).sum();
        self.offset + span + 1
    }
}
