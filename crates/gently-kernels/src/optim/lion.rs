//! Lion.

use super::moments::{BLOCK, Moment, Noise, round, widen};
use crate::cpu::{self, Path};
use crate::lanes::{CHUNK, for_lanes};
use crate::pool;
use crate::real::Real;
use crate::simd::{Kernel, Simd, dispatch};
use half::bf16;

/// Lion (Chen et al. 2023, arXiv:2302.06675, algorithm 2): the sign of an interpolation of momentum and
/// gradient, with decoupled weight decay.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Lion {
    /// Learning rate.
    pub lr: f64,
    /// Share of the momentum in the update's direction.
    pub beta1: f64,
    /// Decay of the momentum.
    pub beta2: f64,
    /// Decoupled weight decay, times the learning rate.
    pub weight_decay: f64,
    /// Factor on the gradient (clipping, mean over micro-batches).
    pub grad_scale: f64,
    /// Rounds a momentum in bf16.
    pub noise: Noise,
}

impl Default for Lion {
    /// The paper's defaults.
    fn default() -> Self {
        Lion { lr: 1e-4, beta1: 0.9, beta2: 0.99, weight_decay: 0.0, grad_scale: 1.0, noise: [0; 2] }
    }
}

impl Lion {
    /// One step on parameters `w` with gradient `g` and momentum `m`, all of one length.
    ///
    /// # Panics
    /// When lengths disagree.
    pub fn step<'a>(&self, w: &mut [f32], g: &[f32], m: impl Into<Moment<'a>>) {
        self.step_on(cpu::path(), w, g, m.into());
    }
}

impl Lion {
    pub(super) fn step_on(&self, path: Path, w: &mut [f32], g: &[f32], m: Moment<'_>) {
        assert!(
            [g.len(), m.len()].iter().all(|&n| n == w.len()),
            "lion: parameters, gradient and momentum differ in length"
        );
        match m {
            Moment::F32(m) => pool::parallel_chunks_mut2(w, CHUNK, m, CHUNK, |chunk, w, m| {
                let g = &g[chunk * CHUNK..][..w.len()];
                dispatch(path, Part { opt: self, w, g, m });
            }),
            Moment::Bf16(m) => pool::parallel_chunks_mut2(w, CHUNK, m, CHUNK, |chunk, w, m| {
                let g = &g[chunk * CHUNK..][..w.len()];
                dispatch(path, Rounded { opt: self, w, g, m, chunk });
            }),
        }
    }
}

struct Part<'a> {
    opt: &'a Lion,
    w: &'a mut [f32],
    g: &'a [f32],
    m: &'a mut [f32],
}

impl Kernel for Part<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Part { opt, w, g, m } = self;
        let len = w.len();
        let (g, m) = (&g[..len], &mut m[..len]);
        let f = |x: f64| s.splat(x as f32);
        let (beta1, fresh1) = (f(opt.beta1), f(opt.beta1 - 1.0));
        let (beta2, fresh2) = (f(opt.beta2), f(1.0 - opt.beta2));
        let (lr, decay, grad) = (f(opt.lr), f(1.0 - opt.lr * opt.weight_decay), f(opt.grad_scale));
        let (zero, one, minus) = (s.splat(0.0), s.splat(1.0), s.splat(-1.0));
        for_lanes!(S, len, |i, n| {
            let (w, m) = (&mut w[i..i + n], &mut m[i..i + n]);
            let g = s.mul(s.load_part(&g[i..i + n]), grad);
            let old = s.load_part(m);
            let c = s.nfma(fresh1, g, s.mul(beta1, old));
            // Neither above nor below 0: 0 itself or NaN, which stays.
            let sign = s.select_lt(zero, c, one, s.select_lt(c, zero, minus, c));
            let kept = s.mul(decay, s.load_part(w));
            s.store_part(w, s.nfma(lr, sign, kept));
            s.store_part(m, s.fma(fresh2, g, s.mul(beta2, old)));
        });
    }
}

/// The same with a momentum in bf16.
struct Rounded<'a> {
    opt: &'a Lion,
    w: &'a mut [f32],
    g: &'a [f32],
    m: &'a mut [bf16],
    chunk: usize,
}

impl Kernel for Rounded<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let mut wide = [0.0; BLOCK];
        let first = self.chunk * (CHUNK / BLOCK);
        let parts = self.w.chunks_mut(BLOCK).zip(self.g.chunks(BLOCK)).zip(self.m.chunks_mut(BLOCK));
        for (i, ((w, g), m)) in parts.enumerate() {
            let wide = &mut wide[..w.len()];
            widen(m, wide);
            Part { opt: self.opt, w, g, m: wide }.run(s);
            round(wide, m, self.opt.noise, first + i);
        }
    }
}

/// The plain twin of [`Lion::step`].
pub fn plain_step<T: Real>(opt: &Lion, w: &mut [T], g: &[T], m: &mut [T]) {
    let f = T::from_f64;
    for i in 0..w.len() {
        let g = g[i] * f(opt.grad_scale);
        let c = f(opt.beta1) * m[i] + f(1.0 - opt.beta1) * g;
        let sign = if c > T::ZERO {
            T::ONE
        } else if c < T::ZERO {
            -T::ONE
        } else {
            c // 0 stays 0 and NaN stays NaN.
        };
        w[i] = w[i] * f(1.0 - opt.lr * opt.weight_decay) - f(opt.lr) * sign;
        m[i] = f(opt.beta2) * m[i] + f(1.0 - opt.beta2) * g;
    }
}
