//! Two operands with broadcasting, the gradient of their maximum and minimum, and operations in place.

use super::View;
use super::strided::Walk;
use crate::cpu::{self, Path};
use crate::lanes::CHUNK;
use crate::pool::{self, Disjoint};
use crate::real::Real;
use crate::simd::{Kernel, Simd, dispatch};

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

    /// Whether the gradient of [`Binary::Max`] or [`Binary::Min`] goes to a: the one that was chosen, of equals the first. It
    /// goes to b where either is NaN.
    #[inline(always)]
    fn chooses_left<T: Real>(self, a: T, b: T) -> bool {
        if self == Binary::Max { a >= b } else { a <= b }
    }
}

/// `out = op(a, b)` over `shape`; `out` is contiguous, a and b are views of that shape.
///
/// # Panics
/// When a view leaves its data or `out` has another length than the shape.
pub fn binary<T: Real>(op: Binary, shape: &[usize], a: View<'_, T>, b: View<'_, T>, out: &mut [T]) {
    binary_on(cpu::path(), op, shape, a, b, out);
}

pub(super) fn binary_on<T: Real>(
    path: Path,
    op: Binary,
    shape: &[usize],
    a: View<'_, T>,
    b: View<'_, T>,
    out: &mut [T],
) {
    let walk = Walk::new(shape, [a.strides, b.strides]);
    assert_eq!(out.len(), walk.len(), "elementwise: output and shape {shape:?}");
    assert!(walk.extent(0) <= a.data.len(), "elementwise: left operand leaves its data");
    assert!(walk.extent(1) <= b.data.len(), "elementwise: right operand leaves its data");
    let strides = [walk.inner(0), walk.inner(1)];
    let shared = Disjoint::new(out);
    walk.runs(|first, [oa, ob], len| {
        // SAFETY: runs are disjoint parts of the output.
        let out = unsafe { shared.part(first, len) };
        let (a, b) = (&a.data[oa..], &b.data[ob..]);
        dispatch(path, Run { op, a, b, strides, out });
    });
}

/// One run along the innermost axis. The plain loops are compiled for each path and vectorise there.
struct Run<'a, T> {
    op: Binary,
    a: &'a [T],
    b: &'a [T],
    strides: [usize; 2],
    out: &'a mut [T],
}

impl<T: Real> Kernel for Run<'_, T> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        match self.op {
            Binary::Add => self.each(|a, b| a + b),
            Binary::Sub => self.each(|a, b| a - b),
            Binary::Mul => self.each(|a, b| a * b),
            Binary::Div => self.each(|a, b| a / b),
            Binary::Max => self.each(|a, b| Binary::Max.apply(a, b)),
            Binary::Min => self.each(|a, b| Binary::Min.apply(a, b)),
        }
    }
}

impl<T: Real> Run<'_, T> {
    #[inline(always)]
    fn each(self, f: impl Fn(T, T) -> T) {
        let Run { a, b, strides, out, .. } = self;
        let n = out.len();
        match strides {
            [1, 1] => {
                for ((o, &a), &b) in out.iter_mut().zip(&a[..n]).zip(&b[..n]) {
                    *o = f(a, b);
                }
            }
            [1, 0] => {
                let b = b[0];
                for (o, &a) in out.iter_mut().zip(&a[..n]) {
                    *o = f(a, b);
                }
            }
            [0, 1] => {
                let a = a[0];
                for (o, &b) in out.iter_mut().zip(&b[..n]) {
                    *o = f(a, b);
                }
            }
            [sa, sb] => {
                for (i, o) in out.iter_mut().enumerate() {
                    *o = f(a[i * sa], b[i * sb]);
                }
            }
        }
    }
}

/// Gradient of [`Binary::Max`] or [`Binary::Min`] by a, or by b with `flip`: `out = g` where that operand was chosen, else 0, any
/// shape. Of two equals a was.
///
/// # Panics
/// When lengths disagree or `op` is another operation.
pub fn choice_backward<T: Real>(op: Binary, a: &[T], b: &[T], g: &[T], flip: bool, out: &mut [T]) {
    choice_backward_on(cpu::path(), op, a, b, g, flip, out);
}

pub(super) fn choice_backward_on<T: Real>(
    path: Path,
    op: Binary,
    a: &[T],
    b: &[T],
    g: &[T],
    flip: bool,
    out: &mut [T],
) {
    assert!(matches!(op, Binary::Max | Binary::Min), "elementwise: {op:?} chooses none of its operands");
    assert!([a.len(), b.len(), g.len()].iter().all(|&n| n == out.len()), "elementwise: lengths of a, b, g and out");
    pool::parallel_chunks_mut(out, CHUNK, |chunk, out| {
        let at = chunk * CHUNK..chunk * CHUNK + out.len();
        let (a, b, g) = (&a[at.clone()], &b[at.clone()], &g[at]);
        dispatch(path, Choice { op, a, b, g, flip, out });
    });
}

struct Choice<'a, T> {
    op: Binary,
    a: &'a [T],
    b: &'a [T],
    g: &'a [T],
    flip: bool,
    out: &'a mut [T],
}

impl<T: Real> Kernel for Choice<'_, T> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        // Once for each operation, so that the loop inside does not choose.
        match self.op {
            Binary::Max => self.each(|a, b| Binary::Max.chooses_left(a, b)),
            _ => self.each(|a, b| Binary::Min.chooses_left(a, b)),
        }
    }
}

impl<T: Real> Choice<'_, T> {
    #[inline(always)]
    fn each(self, left: impl Fn(T, T) -> bool) {
        let Choice { a, b, g, flip, out, .. } = self;
        for (((o, &a), &b), &g) in out.iter_mut().zip(a).zip(b).zip(g) {
            *o = if left(a, b) != flip { g } else { T::ZERO };
        }
    }
}

/// `y += x`, any shape.
///
/// # Panics
/// When lengths disagree.
pub fn add_assign<T: Real>(y: &mut [T], x: &[T]) {
    scale_add(T::ONE, x, T::ONE, y);
}

/// `y = alpha · x + beta · y`, any shape; `y` is not read where `beta` is 0.
///
/// # Panics
/// When lengths disagree.
pub fn scale_add<T: Real>(alpha: T, x: &[T], beta: T, y: &mut [T]) {
    assert_eq!(x.len(), y.len(), "elementwise: lengths of x and y");
    pool::parallel_chunks_mut(y, CHUNK, |chunk, y| {
        let x = &x[chunk * CHUNK..][..y.len()];
        dispatch(cpu::path(), ScaleAdd { alpha, x, beta, y });
    });
}

struct ScaleAdd<'a, T> {
    alpha: T,
    x: &'a [T],
    beta: T,
    y: &'a mut [T],
}

impl<T: Real> Kernel for ScaleAdd<'_, T> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let ScaleAdd { alpha, x, beta, y } = self;
        if beta == T::ZERO {
            // As in BLAS: y is not read, so it may hold anything.
            y.iter_mut().zip(x).for_each(|(y, &x)| *y = alpha * x);
        } else {
            y.iter_mut().zip(x).for_each(|(y, &x)| *y = alpha * x + beta * *y);
        }
    }
}

/// `y = factor · y`, any shape.
pub fn scale_assign<T: Real>(factor: T, y: &mut [T]) {
    assign_on(cpu::path(), move |y| y * factor, y);
}

/// `y = scale · y + shift`, any shape, rounded after each of the two.
pub fn affine_assign<T: Real>(scale: T, shift: T, y: &mut [T]) {
    assign_on(cpu::path(), move |y| y * scale + shift, y);
}

pub(super) fn assign_on<T: Real>(path: Path, f: impl Fn(T) -> T + Copy + Send + Sync, y: &mut [T]) {
    pool::parallel_chunks_mut(y, CHUNK, |_, y| dispatch(path, Assign { f, y }));
}

/// `y = f(y)`.
struct Assign<'a, F, T> {
    f: F,
    y: &'a mut [T],
}

impl<T: Real, F: Fn(T) -> T> Kernel for Assign<'_, F, T> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        self.y.iter_mut().for_each(|y| *y = (self.f)(*y));
    }
}
