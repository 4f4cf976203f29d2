//! One operand: functions and their derivatives.

use super::strided::CHUNK;
use crate::pool;
use crate::real::Real;

/// A function of one number.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Unary<T> {
    /// −x
    Neg,
    /// e^x
    Exp,
    /// ln x
    Ln,
    /// √x
    Sqrt,
    /// x²
    Sqr,
    /// 1 / x
    Recip,
    /// |x|; derivative 0 at 0.
    Abs,
    /// tanh x
    Tanh,
    /// 1 / (1 + e^−x)
    Sigmoid,
    /// sin x
    Sin,
    /// cos x
    Cos,
    /// x^p
    Powf(T),
    /// scale · x + shift
    Affine {
        /// Factor.
        scale: T,
        /// Added.
        shift: T,
    },
}

impl<T: Real> Unary<T> {
    /// The function of one number.
    #[inline(always)]
    pub fn apply(self, x: T) -> T {
        match self {
            Unary::Neg => -x,
            Unary::Exp => x.exp(),
            Unary::Ln => x.ln(),
            Unary::Sqrt => x.sqrt(),
            Unary::Sqr => x * x,
            Unary::Recip => T::ONE / x,
            Unary::Abs => x.abs(),
            Unary::Tanh => x.tanh(),
            Unary::Sigmoid => x.sigmoid(),
            Unary::Sin => x.sin(),
            Unary::Cos => x.cos(),
            Unary::Powf(p) => x.powf(p),
            Unary::Affine { scale, shift } => scale * x + shift,
        }
    }

    /// Its derivative at x, where y = f(x) is known.
    #[inline(always)]
    pub fn derivative(self, x: T, y: T) -> T {
        match self {
            Unary::Neg => -T::ONE,
            Unary::Exp => y,
            Unary::Ln => T::ONE / x,
            Unary::Sqrt => T::from_f64(0.5) / y,
            Unary::Sqr => x + x,
            Unary::Recip => -(y * y),
            Unary::Abs => {
                if x > T::ZERO {
                    T::ONE
                } else if x < T::ZERO {
                    -T::ONE
                } else {
                    T::ZERO
                }
            }
            Unary::Tanh => T::ONE - y * y,
            Unary::Sigmoid => y * (T::ONE - y),
            Unary::Sin => x.cos(),
            Unary::Cos => -x.sin(),
            Unary::Powf(p) => p * x.powf(p - T::ONE),
            Unary::Affine { scale, .. } => scale,
        }
    }
}

/// `y = f(x)`, any shape.
///
/// # Panics
/// When lengths disagree.
pub fn unary<T: Real>(op: Unary<T>, x: &[T], y: &mut [T]) {
    assert_eq!(x.len(), y.len(), "elementwise: lengths of x and y");
    pool::parallel_chunks_mut(y, CHUNK, |chunk, y| {
        let x = &x[chunk * CHUNK..][..y.len()];
        for (y, &x) in y.iter_mut().zip(x) {
            *y = op.apply(x);
        }
    });
}

/// `dx = dy · f'(x)` with the stored input x and output y of [`unary`].
///
/// # Panics
/// When lengths disagree.
pub fn unary_backward<T: Real>(op: Unary<T>, x: &[T], y: &[T], dy: &[T], dx: &mut [T]) {
    assert!([x.len(), y.len(), dy.len()].iter().all(|&n| n == dx.len()), "elementwise: lengths of x, y, dy and dx");
    pool::parallel_chunks_mut(dx, CHUNK, |chunk, dx| {
        let at = chunk * CHUNK;
        for (i, dx) in dx.iter_mut().enumerate() {
            *dx = dy[at + i] * op.derivative(x[at + i], y[at + i]);
        }
    });
}
