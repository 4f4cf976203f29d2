//! One operand: functions and their derivatives.

use crate::cpu::{self, Path};
use crate::lanes::{self, CHUNK, for_lanes};
use crate::pool;
use crate::real::Real;
use crate::simd::{Kernel, Simd, dispatch};
use crate::simd_math;

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
            // x⁰ is flat, at 0 too, where the rule would give 0 · ∞.
            Unary::Powf(p) if p == T::ZERO => T::ZERO,
            Unary::Powf(p) => p * x.powf(p - T::ONE),
            Unary::Affine { scale, .. } => scale,
        }
    }
}

/// Compiles the body once for each function, so that the loop inside does not choose.
macro_rules! for_each_unary {
    ($op:expr, |$k:ident| $body:expr) => {
        match $op {
            Unary::Powf(p) => {
                let $k = Unary::Powf(p);
                $body
            }
            Unary::Affine { scale, shift } => {
                let $k = Unary::Affine { scale, shift };
                $body
            }
            other => for_each_unary!(@ other, $k, $body, Neg Exp Ln Sqrt Sqr Recip Abs Tanh Sigmoid Sin Cos),
        }
    };
    (@ $op:expr, $k:ident, $body:expr, $($name:ident)*) => {
        match $op {
            $(Unary::$name => {
                let $k = Unary::$name;
                $body
            })*
            Unary::Powf(_) | Unary::Affine { .. } => unreachable!("matched above"),
        }
    };
}

/// `y = f(x)`, any shape.
///
/// # Panics
/// When lengths disagree.
pub fn unary<T: Real>(op: Unary<T>, x: &[T], y: &mut [T]) {
    unary_on(cpu::path(), op, x, y);
}

pub(super) fn unary_on<T: Real>(path: Path, op: Unary<T>, x: &[T], y: &mut [T]) {
    assert_eq!(x.len(), y.len(), "elementwise: lengths of x and y");
    pool::parallel_chunks_mut(y, CHUNK, |chunk, y| {
        let x = &x[chunk * CHUNK..][..y.len()];
        dispatch(path, Forward { op, x, y });
    });
}

struct Forward<'a, T> {
    op: Unary<T>,
    x: &'a [T],
    y: &'a mut [T],
}

impl<T: Real> Kernel for Forward<'_, T> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Forward { op, x, y } = self;
        if let (Some(x), Some(y)) = (lanes::as_f32(x), lanes::as_f32_mut(y)) {
            macro_rules! vectors {
                ($f:path) => {
                    for_lanes!(S, y.len(), |i, n| {
                        let v = $f(s, s.load_part(&x[i..i + n]));
                        s.store_part(&mut y[i..i + n], v);
                    })
                };
            }
            match op {
                Unary::Exp => return vectors!(simd_math::exp),
                Unary::Tanh => return vectors!(simd_math::tanh),
                Unary::Sigmoid => return vectors!(simd_math::sigmoid),
                _ => {}
            }
        }
        for_each_unary!(op, |k| y.iter_mut().zip(x).for_each(|(y, &x)| *y = k.apply(x)));
    }
}

/// `dx = dy · f'(x)` with the stored input x and output y of [`unary`].
///
/// # Panics
/// When lengths disagree.
pub fn unary_backward<T: Real>(op: Unary<T>, x: &[T], y: &[T], dy: &[T], dx: &mut [T]) {
    assert!([x.len(), y.len(), dy.len()].iter().all(|&n| n == dx.len()), "elementwise: lengths of x, y, dy and dx");
    pool::parallel_chunks_mut(dx, CHUNK, |chunk, dx| {
        let at = chunk * CHUNK..chunk * CHUNK + dx.len();
        let (x, y, dy) = (&x[at.clone()], &y[at.clone()], &dy[at]);
        dispatch(cpu::path(), Backward { op, x, y, dy, dx });
    });
}

struct Backward<'a, T> {
    op: Unary<T>,
    x: &'a [T],
    y: &'a [T],
    dy: &'a [T],
    dx: &'a mut [T],
}

impl<T: Real> Kernel for Backward<'_, T> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let Backward { op, x, y, dy, dx } = self;
        for_each_unary!(op, |k| {
            for (((dx, &x), &y), &dy) in dx.iter_mut().zip(x).zip(y).zip(dy) {
                *dx = dy * k.derivative(x, y);
            }
        });
    }
}
