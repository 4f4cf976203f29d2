//! Pointwise nonlinearities and gated units: forward, and backward from the stored input.
//!
//! Here: [`Activation`] applied to slices, SwiGLU, their derivatives and their [`plain`] twins.
//! Not here: activations fused into a matrix product (see `gemm`).
//!
//! ```
//! use gently_kernels::{activation, gemm::Activation};
//! let mut y = [0.0f32; 2];
//! activation::forward(Activation::Relu2, &[-1.0, 3.0], &mut y);
//! assert_eq!(y, [0.0, 9.0]);
//! ```

use crate::cpu::{self, Path};
use crate::gemm::Activation;

/// The two inputs of a gated unit, each of width H: apart, or as the halves `[gate | up]` of each
/// row of one `[N, 2H]` buffer.
#[derive(Clone, Copy, Debug)]
pub enum GateUp<'a, T> {
    /// Two `[N, H]` buffers.
    Separate {
        /// Input of the SiLU.
        gate: &'a [T],
        /// Multiplied with it.
        up: &'a [T],
    },
    /// One `[N, 2H]` buffer, rows `[gate | up]`.
    Packed(&'a [T]),
}

/// Gradients in the layout of [`GateUp`].
#[derive(Debug)]
pub enum GateUpMut<'a, T> {
    /// Two `[N, H]` buffers.
    Separate {
        /// Gradient of the gate.
        gate: &'a mut [T],
        /// Gradient of the other factor.
        up: &'a mut [T],
    },
    /// One `[N, 2H]` buffer, rows `[gate | up]`.
    Packed(&'a mut [T]),
}

/// `y = act(x)`, any shape.
///
/// # Panics
/// When lengths disagree.
pub fn forward(act: Activation, x: &[f32], y: &mut [f32]) {
    forward_on(cpu::path(), act, x, y);
}

/// `dx = dy · act'(x)` with `x` the stored input of [`forward`].
///
/// # Panics
/// When lengths disagree.
pub fn backward(act: Activation, x: &[f32], dy: &[f32], dx: &mut [f32]) {
    backward_on(cpu::path(), act, x, dy, dx);
}

/// SwiGLU (Shazeer 2020, arXiv:2002.05202): `y = silu(gate) · up`, `[N, H]`.
///
/// # Panics
/// When lengths disagree.
pub fn swiglu_forward(x: GateUp<'_, f32>, width: usize, y: &mut [f32]) {
    swiglu_forward_on(cpu::path(), x, width, y);
}

/// Gradients of [`swiglu_forward`] from its stored inputs and `dy` `[N, H]`.
///
/// # Panics
/// When lengths disagree, or the layouts of `x` and `dx` do.
pub fn swiglu_backward(x: GateUp<'_, f32>, width: usize, dy: &[f32], dx: GateUpMut<'_, f32>) {
    swiglu_backward_on(cpu::path(), x, width, dy, dx);
}

impl<T> GateUp<'_, T> {
    fn check(&self, width: usize, out: usize) {
        assert!(width > 0 && out % width == 0, "swiglu: {out} numbers are not whole rows of {width}");
        let fits = match self {
            GateUp::Separate { gate, up } => gate.len() == out && up.len() == out,
            GateUp::Packed(x) => x.len() == 2 * out,
        };
        assert!(fits, "swiglu: gate and up are not as long as the output");
    }
}

impl<T> GateUpMut<'_, T> {
    fn check(&self, out: usize) {
        let fits = match self {
            GateUpMut::Separate { gate, up } => gate.len() == out && up.len() == out,
            GateUpMut::Packed(x) => x.len() == 2 * out,
        };
        assert!(fits, "swiglu: gradients of gate and up are not as long as the output");
    }
}

/// Reference implementations, generic over the float type.
pub mod plain {
    use super::{GateUp, GateUpMut};
    use crate::gemm::Activation;
    use crate::real::Real;

    /// √(2/π), the inner factor of the tanh form of GELU (Hendrycks & Gimpel 2016, arXiv:1606.08415).
    const GELU_SCALE: f64 = 0.797_884_560_802_865_4;
    const GELU_CUBE: f64 = 0.044715;

    /// act'(x) for one number.
    pub fn derivative<T: Real>(act: Activation, x: T) -> T {
        let f = T::from_f64;
        match act {
            Activation::None => T::ONE,
            Activation::GeluTanh => {
                let t = (f(GELU_SCALE) * (x + f(GELU_CUBE) * x * x * x)).tanh();
                let du = f(GELU_SCALE) * (T::ONE + f(3.0 * GELU_CUBE) * x * x);
                f(0.5) * (T::ONE + t) + f(0.5) * x * (T::ONE - t * t) * du
            }
            Activation::GeluErf => {
                let cdf = f(0.5) * (T::ONE + (x * f(std::f64::consts::FRAC_1_SQRT_2)).erf());
                let pdf = (f(-0.5) * x * x).exp() * f(0.398_942_280_401_432_7);
                cdf + x * pdf
            }
            Activation::Silu => {
                let s = x.sigmoid();
                s * (T::ONE + x * (T::ONE - s))
            }
            Activation::Relu => {
                if x > T::ZERO {
                    T::ONE
                } else {
                    T::ZERO
                }
            }
            Activation::Relu2 => f(2.0) * x.max(T::ZERO),
        }
    }

    /// See [`super::forward`].
    pub fn forward<T: Real>(act: Activation, x: &[T], y: &mut [T]) {
        assert_eq!(x.len(), y.len(), "activation: lengths of x and y");
        for (y, &x) in y.iter_mut().zip(x) {
            *y = act.apply(x);
        }
    }

    /// See [`super::backward`].
    pub fn backward<T: Real>(act: Activation, x: &[T], dy: &[T], dx: &mut [T]) {
        assert_eq!(x.len(), dy.len(), "activation: lengths of x and dy");
        assert_eq!(x.len(), dx.len(), "activation: lengths of x and dx");
        for ((dx, &x), &dy) in dx.iter_mut().zip(x).zip(dy) {
            *dx = dy * derivative(act, x);
        }
    }

    fn gate_up<T: Real>(x: GateUp<'_, T>, width: usize, r: usize, i: usize) -> (T, T) {
        match x {
            GateUp::Separate { gate, up } => (gate[r * width + i], up[r * width + i]),
            GateUp::Packed(x) => (x[2 * r * width + i], x[(2 * r + 1) * width + i]),
        }
    }

    /// See [`super::swiglu_forward`].
    pub fn swiglu_forward<T: Real>(x: GateUp<'_, T>, width: usize, y: &mut [T]) {
        x.check(width, y.len());
        for r in 0..y.len() / width {
            for i in 0..width {
                let (gate, up) = gate_up(x, width, r, i);
                y[r * width + i] = gate * gate.sigmoid() * up;
            }
        }
    }

    /// See [`super::swiglu_backward`].
    pub fn swiglu_backward<T: Real>(x: GateUp<'_, T>, width: usize, dy: &[T], mut dx: GateUpMut<'_, T>) {
        x.check(width, dy.len());
        dx.check(dy.len());
        for r in 0..dy.len() / width {
            for i in 0..width {
                let (gate, up) = gate_up(x, width, r, i);
                let dy = dy[r * width + i];
                let dgate = dy * up * derivative(Activation::Silu, gate);
                let dup = dy * gate * gate.sigmoid();
                match &mut dx {
                    GateUpMut::Separate { gate, up } => {
                        gate[r * width + i] = dgate;
                        up[r * width + i] = dup;
                    }
                    GateUpMut::Packed(p) => {
                        p[2 * r * width + i] = dgate;
                        p[(2 * r + 1) * width + i] = dup;
                    }
                }
            }
        }
    }
}

fn forward_on(_: Path, act: Activation, x: &[f32], y: &mut [f32]) {
    plain::forward(act, x, y);
}
fn backward_on(_: Path, act: Activation, x: &[f32], dy: &[f32], dx: &mut [f32]) {
    plain::backward(act, x, dy, dx);
}
fn swiglu_forward_on(_: Path, x: GateUp<'_, f32>, width: usize, y: &mut [f32]) {
    plain::swiglu_forward(x, width, y);
}
fn swiglu_backward_on(_: Path, x: GateUp<'_, f32>, width: usize, dy: &[f32], dx: GateUpMut<'_, f32>) {
    plain::swiglu_backward(x, width, dy, dx);
}
