//! Pointwise nonlinearities and gated units: forward, and backward from the stored input.
//!
//! Here: [`Activation`], of one number, of vectors and of slices, SwiGLU, their derivatives and their [`plain`] twins.
//! Not here: the products that an activation is fused into (see `gemm`).
//!
//! ```
//! use gently_kernels::activation::{self, Activation};
//! let mut y = [0.0f32; 2];
//! activation::forward(Activation::Relu2, &[-1.0, 3.0], &mut y);
//! assert_eq!(y, [0.0, 9.0]);
//! ```

use crate::cpu::{self, Path};
use crate::lanes::{self, CHUNK, for_lanes};
use crate::pool::{self, Disjoint};
use crate::real::Real;
use crate::simd::{Kernel, Simd, dispatch};
use crate::simd_math::{self, erf, exp, gelu_gate, silu_gate};

/// √(2/π), the inner factor of the tanh form of GELU (Hendrycks & Gimpel 2016, arXiv:1606.08415).
const GELU_SCALE: f64 = 0.797_884_560_802_865_4;
/// The factor of x³ inside it. Vectors have both in products of their own: `gelu_gate` and `derivative`.
const GELU_CUBE: f64 = 0.044715;

/// A nonlinearity of a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Activation {
    /// x
    #[default]
    None,
    /// ½x(1 + tanh(√(2/π)(x + 0.044715x³))) (Hendrycks & Gimpel 2016, the form of GPT-2)
    GeluTanh,
    /// ½x(1 + erf(x/√2)) (Hendrycks & Gimpel 2016)
    GeluErf,
    /// x·σ(x) (Elfwing et al. 2017)
    Silu,
    /// max(x, 0)
    Relu,
    /// max(x, 0)² (So et al. 2021)
    Relu2,
}

impl Activation {
    /// The activation of one number: the plain twin of [`Activation::apply_vector`].
    pub fn apply<T: Real>(self, x: T) -> T {
        let half = T::from_f64(0.5);
        match self {
            Activation::None => x,
            Activation::GeluTanh => {
                let inner = T::from_f64(GELU_SCALE) * (x + T::from_f64(GELU_CUBE) * x * x * x);
                half * x * (T::ONE + inner.tanh())
            }
            Activation::GeluErf => half * x * (T::ONE + (x * T::from_f64(std::f64::consts::FRAC_1_SQRT_2)).erf()),
            Activation::Silu => x * x.sigmoid(),
            Activation::Relu => {
                // NaN stays, as in the vectorised form; `max` would drop it.
                if x < T::ZERO { T::ZERO } else { x }
            }
            Activation::Relu2 => {
                let r = Activation::Relu.apply(x);
                r * r
            }
        }
    }

    /// The activation of each lane.
    #[inline(always)]
    pub fn apply_vector<S: Simd>(self, s: S, x: S::V) -> S::V {
        match self {
            Activation::None => x,
            Activation::GeluTanh => simd_math::gelu_tanh(s, x),
            Activation::GeluErf => simd_math::gelu_erf(s, x),
            Activation::Silu => simd_math::silu(s, x),
            Activation::Relu => s.max(s.splat(0.0), x),
            Activation::Relu2 => {
                let r = s.max(s.splat(0.0), x);
                s.mul(r, r)
            }
        }
    }
}

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
        assert!(width > 0 && out.is_multiple_of(width), "swiglu: {out} numbers are not whole rows of {width}");
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

/// Compiles the body once for each activation, so that the loop inside does not choose.
macro_rules! for_each_activation {
    ($act:expr, |$k:ident| $body:block) => {
        for_each_activation!(@ $act, $k, $body, None GeluTanh GeluErf Silu Relu Relu2)
    };
    (@ $act:expr, $k:ident, $body:block, $($name:ident)*) => {
        match $act {
            $(Activation::$name => {
                const $k: Activation = Activation::$name;
                $body
            })*
        }
    };
}
pub(crate) use for_each_activation;

/// act'(x). With σ the logistic function, tanh-GELU is x·σ(z), z = x(a + bx²), so its derivative needs one
/// exponential: σ + xσ(1 − σ)(a + 3bx²).
#[inline(always)]
fn derivative<S: Simd>(s: S, act: Activation, x: S::V) -> S::V {
    let (zero, one) = (s.splat(0.0), s.splat(1.0));
    match act {
        Activation::None => one,
        Activation::GeluTanh => {
            let (a, b) = (1.595_769_2, 0.071_354_814);
            let square = s.mul(x, x);
            let p = gelu_gate(s, x);
            let slope = s.fma(s.splat(3.0 * b), square, s.splat(a));
            let left = s.mul(s.mul(x, p), s.sub(one, p));
            // Where x² overflows, σ(1 − σ) is 0 and the product would be NaN.
            let slope = s.min(s.splat(1e30), slope);
            s.fma(left, slope, p)
        }
        Activation::GeluErf => {
            let e = erf(s, s.mul(x, s.splat(std::f32::consts::FRAC_1_SQRT_2)));
            let cdf = s.fma(s.splat(0.5), e, s.splat(0.5));
            let pdf = exp(s, s.mul(s.mul(s.splat(-0.5), x), x));
            s.fma(s.mul(x, s.splat(0.398_942_3)), pdf, cdf)
        }
        Activation::Silu => {
            let p = silu_gate(s, x);
            s.mul(p, s.fma(x, s.sub(one, p), one))
        }
        Activation::Relu => s.select_lt(zero, x, one, zero),
        Activation::Relu2 => s.mul(s.splat(2.0), s.max(zero, x)),
    }
}

fn forward_on(path: Path, act: Activation, x: &[f32], y: &mut [f32]) {
    assert_eq!(x.len(), y.len(), "activation: lengths of x and y");
    pool::parallel_chunks_mut(y, CHUNK, |chunk, y| {
        let x = &x[chunk * CHUNK..][..y.len()];
        dispatch(path, Forward { act, x, y });
    });
}

struct Forward<'a> {
    act: Activation,
    x: &'a [f32],
    y: &'a mut [f32],
}

impl Kernel for Forward<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Forward { act, x, y } = self;
        let x = &x[..y.len()];
        for_each_activation!(act, |K| {
            for_lanes!(S, y.len(), |i, n| {
                let v = K.apply_vector(s, s.load_part(&x[i..i + n]));
                s.store_part(&mut y[i..i + n], v);
            });
        });
    }
}

fn backward_on(path: Path, act: Activation, x: &[f32], dy: &[f32], dx: &mut [f32]) {
    assert_eq!(x.len(), dy.len(), "activation: lengths of x and dy");
    assert_eq!(x.len(), dx.len(), "activation: lengths of x and dx");
    pool::parallel_chunks_mut(dx, CHUNK, |chunk, dx| {
        let at = chunk * CHUNK;
        let (x, dy) = (&x[at..][..dx.len()], &dy[at..][..dx.len()]);
        dispatch(path, Backward { act, x, dy, dx });
    });
}

struct Backward<'a> {
    act: Activation,
    x: &'a [f32],
    dy: &'a [f32],
    dx: &'a mut [f32],
}

impl Kernel for Backward<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Backward { act, x, dy, dx } = self;
        let (x, dy) = (&x[..dx.len()], &dy[..dx.len()]);
        for_each_activation!(act, |K| {
            for_lanes!(S, dx.len(), |i, n| {
                let d = derivative(s, K, s.load_part(&x[i..i + n]));
                s.store_part(&mut dx[i..i + n], s.mul(d, s.load_part(&dy[i..i + n])));
            });
        });
    }
}

impl<'a, T> GateUp<'a, T> {
    /// Row r: gate and up, each `width` long.
    #[inline(always)]
    fn row(&self, width: usize, r: usize) -> (&'a [T], &'a [T]) {
        match *self {
            GateUp::Separate { gate, up } => (&gate[r * width..][..width], &up[r * width..][..width]),
            GateUp::Packed(x) => x[2 * r * width..][..2 * width].split_at(width),
        }
    }
}

fn swiglu_forward_on(path: Path, x: GateUp<'_, f32>, width: usize, y: &mut [f32]) {
    x.check(width, y.len());
    let rows = lanes::rows_per_task(width);
    pool::parallel_chunks_mut(y, rows * width, |chunk, y| {
        dispatch(path, GluForward { x, width, first: chunk * rows, y });
    });
}

struct GluForward<'a> {
    x: GateUp<'a, f32>,
    width: usize,
    first: usize,
    y: &'a mut [f32],
}

impl Kernel for GluForward<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for (r, y) in self.y.chunks_exact_mut(self.width).enumerate() {
            let (gate, up) = self.x.row(self.width, self.first + r);
            for_lanes!(S, y.len(), |i, n| {
                let v = s.mul(simd_math::silu(s, s.load_part(&gate[i..i + n])), s.load_part(&up[i..i + n]));
                s.store_part(&mut y[i..i + n], v);
            });
        }
    }
}

fn swiglu_backward_on(path: Path, x: GateUp<'_, f32>, width: usize, dy: &[f32], mut dx: GateUpMut<'_, f32>) {
    x.check(width, dy.len());
    dx.check(dy.len());
    let rows = dy.len() / width;
    let per_task = lanes::rows_per_task(width);
    // Where each half of row r begins: (buffer, r·step + start).
    let (first, second, step, start) = match &mut dx {
        GateUpMut::Separate { gate, up } => (Disjoint::new(gate), Some(Disjoint::new(up)), width, 0),
        GateUpMut::Packed(x) => (Disjoint::new(x), None, 2 * width, width),
    };
    pool::parallel(rows.div_ceil(per_task), |task| {
        for r in task * per_task..((task + 1) * per_task).min(rows) {
            let (gate, up) = x.row(width, r);
            // SAFETY: each row is written by one task, and its halves do not overlap.
            let (dgate, dup) = unsafe {
                let dup = second.as_ref().unwrap_or(&first);
                (first.part(r * step, width), dup.part(r * step + start, width))
            };
            dispatch(path, GluBackward { gate, up, dy: &dy[r * width..][..width], dgate, dup });
        }
    });
}

/// One row.
struct GluBackward<'a> {
    gate: &'a [f32],
    up: &'a [f32],
    dy: &'a [f32],
    dgate: &'a mut [f32],
    dup: &'a mut [f32],
}

impl Kernel for GluBackward<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let GluBackward { gate, up, dy, dgate, dup } = self;
        let one = s.splat(1.0);
        for_lanes!(S, gate.len(), |i, n| {
            let x = s.load_part(&gate[i..i + n]);
            let d = s.load_part(&dy[i..i + n]);
            let p = silu_gate(s, x);
            let silu = s.mul(x, p);
            let slope = s.mul(p, s.fma(x, s.sub(one, p), one));
            s.store_part(&mut dup[i..i + n], s.mul(d, silu));
            s.store_part(&mut dgate[i..i + n], s.mul(s.mul(d, s.load_part(&up[i..i + n])), slope));
        });
    }
}

/// Reference implementations, generic over the float type.
pub mod plain {
    use super::{Activation, GELU_CUBE, GELU_SCALE, GateUp, GateUpMut};
    use crate::real::Real;

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
            Activation::Relu2 => f(2.0) * Activation::Relu.apply(x),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lanes::testing::{close, gradient, random, same_on_threads, wide};

    const ALL: [Activation; 6] = [
        Activation::None,
        Activation::GeluTanh,
        Activation::GeluErf,
        Activation::Silu,
        Activation::Relu,
        Activation::Relu2,
    ];

    #[test]
    fn every_path_agrees_with_the_plain_twin() {
        for len in [1, 7, 16, 33, 1000, 40_003] {
            let x: Vec<f32> = random(5, len).iter().map(|v| v * 4.0).collect();
            let dy = random(6, len);
            for act in ALL {
                let (mut y, mut dx) = (vec![0.0; len], vec![0.0; len]);
                plain::forward(act, &wide(&x), &mut y);
                plain::backward(act, &wide(&x), &wide(&dy), &mut dx);
                for path in cpu::available() {
                    let mut out = vec![0.0; len];
                    forward_on(path, act, &x, &mut out);
                    close(&out, &y, 2e-6, "forward");
                    backward_on(path, act, &x, &dy, &mut out);
                    close(&out, &dx, 4e-6, "backward");
                }
            }
        }
    }

    #[test]
    fn far_inputs_have_finite_slopes() {
        let x = [-1e30, -100.0, 100.0, 1e30f32];
        for act in ALL {
            for path in cpu::available() {
                let mut dx = [0.0; 4];
                backward_on(path, act, &x, &[1.0; 4], &mut dx);
                let mut want = [0.0; 4];
                plain::backward(act, &x.map(|v| v as f64), &[1.0; 4], &mut want);
                let want = if act == Activation::GeluTanh { [0.0, 0.0, 1.0, 1.0] } else { want };
                close(&dx, &want, 1e-6, &format!("{act:?} {path:?}"));
            }
        }
    }

    #[test]
    fn nan_is_kept_where_the_plain_twin_keeps_it() {
        for act in ALL {
            let (mut y, mut dx) = ([0.0], [0.0]);
            plain::forward(act, &[f64::NAN], &mut y);
            plain::backward(act, &[f64::NAN], &[1.0], &mut dx);
            assert!(y[0].is_nan(), "{act:?}");
            // The slopes of x and of max(x, 0) are constants.
            assert_eq!(dx[0].is_nan(), !matches!(act, Activation::None | Activation::Relu), "{act:?}");
            for path in cpu::available() {
                let (mut fast_y, mut fast_dx) = ([0.0], [0.0]);
                forward_on(path, act, &[f32::NAN], &mut fast_y);
                backward_on(path, act, &[f32::NAN], &[1.0], &mut fast_dx);
                assert!(fast_y[0].is_nan(), "{act:?} {path:?}");
                assert_eq!(fast_dx[0].is_nan(), dx[0].is_nan(), "{act:?} {path:?}");
            }
        }
    }

    #[test]
    fn swiglu_in_both_layouts() {
        for (rows, h) in [(1, 1), (5, 17), (300, 96)] {
            let packed = random(7, rows * 2 * h);
            let half =
                |k: usize| -> Vec<f32> { (0..rows * h).map(|i| packed[(2 * (i / h) + k) * h + i % h]).collect() };
            let (gate, up, dy) = (half(0), half(1), random(8, rows * h));
            let (wide_packed, wide_dy) = (wide(&packed), wide(&dy));
            let (mut y, mut dx) = (vec![0.0; rows * h], vec![0.0; rows * 2 * h]);
            plain::swiglu_forward(GateUp::Packed(&wide_packed), h, &mut y);
            plain::swiglu_backward(GateUp::Packed(&wide_packed), h, &wide_dy, GateUpMut::Packed(&mut dx));
            for path in cpu::available() {
                let mut out = vec![0.0; rows * h];
                let apart = GateUp::Separate { gate: &gate, up: &up };
                for x in [GateUp::Packed(&packed), apart] {
                    swiglu_forward_on(path, x, h, &mut out);
                    close(&out, &y, 2e-6, "swiglu");
                    let mut got = vec![0.0; rows * 2 * h];
                    swiglu_backward_on(path, x, h, &dy, GateUpMut::Packed(&mut got));
                    close(&got, &dx, 4e-6, "swiglu backward");
                    let (mut dgate, mut dup) = (out.clone(), out.clone());
                    let to = GateUpMut::Separate { gate: &mut dgate, up: &mut dup };
                    swiglu_backward_on(path, x, h, &dy, to);
                    assert!((0..rows * h).all(|i| dgate[i] == got[(2 * (i / h)) * h + i % h]));
                    assert!((0..rows * h).all(|i| dup[i] == got[(2 * (i / h) + 1) * h + i % h]));
                }
            }
        }
    }

    #[test]
    fn gradients_of_the_plain_twins() {
        let (x, dy) = (wide(&random(9, 12)), wide(&random(10, 12)));
        for act in ALL {
            let mut dx = vec![0.0; 12];
            plain::backward(act, &x, &dy, &mut dx);
            gradient(&x, &dx, &dy, &format!("{act:?}"), |x| x.iter().map(|&v| act.apply(v)).collect());
        }
        let mut dx = vec![0.0; 12];
        plain::swiglu_backward(GateUp::Packed(&x), 3, &dy[..6], GateUpMut::Packed(&mut dx));
        gradient(&x, &dx, &dy[..6], "swiglu", |x| {
            let mut y = vec![0.0; 6];
            plain::swiglu_forward(GateUp::Packed(x), 3, &mut y);
            y
        });
    }

    #[test]
    fn bits_do_not_depend_on_threads() {
        let x = random(11, 100_000);
        same_on_threads(|| {
            let mut y = vec![0.0; x.len()];
            backward(Activation::GeluTanh, &x, &x, &mut y);
            y
        });
    }
}
