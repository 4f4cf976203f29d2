//! AdamW.

use super::moments::{BLOCK, Moment, Noise, round_both, widen};
use crate::cpu::{self, Path};
use crate::lanes::{CHUNK, for_lanes};
use crate::pool;
use crate::real::Real;
use crate::simd::{Kernel, Simd, dispatch};
use half::bf16;

/// AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101), as PyTorch computes it: decay is decoupled and
/// applied first, both moments are corrected for their bias, ε stands outside the root.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    /// Learning rate.
    pub lr: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to √v̂.
    pub eps: f64,
    /// Decoupled weight decay, times the learning rate.
    pub weight_decay: f64,
    /// Factor on the gradient (clipping, mean over micro-batches).
    pub grad_scale: f64,
    /// Rounds moments in bf16.
    pub noise: Noise,
}

impl Default for AdamW {
    /// PyTorch's defaults, without weight decay.
    fn default() -> Self {
        AdamW { lr: 1e-3, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.0, grad_scale: 1.0, noise: [0; 2] }
    }
}

impl AdamW {
    /// One step, the `t`th (from 1), on parameters `w` with gradient `g` and moments `m`, `v`, all of one length.
    ///
    /// # Panics
    /// When lengths or the moments' types disagree or `t` is 0.
    pub fn step<'a>(&self, t: u64, w: &mut [f32], g: &[f32], m: impl Into<Moment<'a>>, v: impl Into<Moment<'a>>) {
        self.step_on(cpu::path(), t, w, g, m.into(), v.into());
    }
}

impl AdamW {
    pub(super) fn step_on(&self, path: Path, t: u64, w: &mut [f32], g: &[f32], m: Moment<'_>, v: Moment<'_>) {
        assert!(t > 0, "adamw: steps count from 1");
        assert!(
            [g.len(), m.len(), v.len()].iter().all(|&n| n == w.len()),
            "adamw: parameters, gradient and moments differ in length"
        );
        // lr·(m/c1) / (√(v/c2) + ε) = step·m / (√v·root + ε)
        let factors = Factors {
            decay: (1.0 - self.lr * self.weight_decay) as f32,
            step: (self.lr / (1.0 - self.beta1.powf(t as f64))) as f32,
            root: (1.0 / (1.0 - self.beta2.powf(t as f64)).sqrt()) as f32,
            eps: self.eps as f32,
            beta1: self.beta1 as f32,
            fresh1: (1.0 - self.beta1) as f32,
            beta2: self.beta2 as f32,
            fresh2: (1.0 - self.beta2) as f32,
            grad: self.grad_scale as f32,
        };
        match (m, v) {
            (Moment::F32(m), Moment::F32(v)) => {
                pool::parallel_chunks_mut3((w, CHUNK), (m, CHUNK), (v, CHUNK), |chunk, w, m, v| {
                    let g = &g[chunk * CHUNK..][..w.len()];
                    dispatch(path, Part { factors, w, g, m, v });
                });
            }
            (Moment::Bf16(m), Moment::Bf16(v)) => {
                pool::parallel_chunks_mut3((w, CHUNK), (m, CHUNK), (v, CHUNK), |chunk, w, m, v| {
                    let g = &g[chunk * CHUNK..][..w.len()];
                    dispatch(path, Rounded { factors, w, g, m, v, noise: self.noise, chunk });
                });
            }
            _ => panic!("adamw: the moments differ in type"),
        }
    }
}

#[derive(Clone, Copy)]
struct Factors {
    decay: f32,
    step: f32,
    root: f32,
    eps: f32,
    beta1: f32,
    fresh1: f32,
    beta2: f32,
    fresh2: f32,
    grad: f32,
}

/// 16 bytes read and 12 written for each parameter: memory is the limit.
struct Part<'a> {
    factors: Factors,
    w: &'a mut [f32],
    g: &'a [f32],
    m: &'a mut [f32],
    v: &'a mut [f32],
}

impl Kernel for Part<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Part { factors: f, w, g, m, v } = self;
        let len = w.len();
        let (g, m, v) = (&g[..len], &mut m[..len], &mut v[..len]);
        let (beta1, fresh1) = (s.splat(f.beta1), s.splat(f.fresh1));
        let (beta2, fresh2) = (s.splat(f.beta2), s.splat(f.fresh2));
        let (decay, step) = (s.splat(f.decay), s.splat(f.step));
        let (root, eps, grad) = (s.splat(f.root), s.splat(f.eps), s.splat(f.grad));
        for_lanes!(S, len, |i, n| {
            let (w, m, v) = (&mut w[i..i + n], &mut m[i..i + n], &mut v[i..i + n]);
            let g = s.mul(s.load_part(&g[i..i + n]), grad);
            let m1 = s.fma(fresh1, g, s.mul(beta1, s.load_part(m)));
            let v1 = s.fma(s.mul(fresh2, g), g, s.mul(beta2, s.load_part(v)));
            let down = s.fma(s.sqrt(v1), root, eps);
            let kept = s.mul(decay, s.load_part(w));
            s.store_part(m, m1);
            s.store_part(v, v1);
            s.store_part(w, s.nfma(step, s.div(m1, down), kept));
        });
    }
}

/// The same with moments in bf16: 12 bytes read and 8 written for each parameter.
struct Rounded<'a> {
    factors: Factors,
    w: &'a mut [f32],
    g: &'a [f32],
    m: &'a mut [bf16],
    v: &'a mut [bf16],
    noise: Noise,
    chunk: usize,
}

impl Kernel for Rounded<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (mut wide_m, mut wide_v) = ([0.0; BLOCK], [0.0; BLOCK]);
        let first = self.chunk * (CHUNK / BLOCK);
        let narrow = self.m.chunks_mut(BLOCK).zip(self.v.chunks_mut(BLOCK));
        for (i, ((w, g), (m, v))) in self.w.chunks_mut(BLOCK).zip(self.g.chunks(BLOCK)).zip(narrow).enumerate() {
            let (wide_m, wide_v) = (&mut wide_m[..w.len()], &mut wide_v[..w.len()]);
            widen(m, wide_m);
            widen(v, wide_v);
            Part { factors: self.factors, w, g, m: wide_m, v: wide_v }.run(s);
            round_both([wide_m, wide_v], m, v, self.noise, first + i);
        }
    }
}

/// The plain twin of [`AdamW::step`].
pub fn plain_step<T: Real>(opt: &AdamW, t: u64, w: &mut [T], g: &[T], m: &mut [T], v: &mut [T]) {
    assert!(t > 0, "adamw: steps count from 1");
    let f = T::from_f64;
    let c1 = f(1.0 - opt.beta1.powf(t as f64));
    let c2 = f(1.0 - opt.beta2.powf(t as f64));
    for i in 0..w.len() {
        let g = g[i] * f(opt.grad_scale);
        m[i] = f(opt.beta1) * m[i] + f(1.0 - opt.beta1) * g;
        v[i] = f(opt.beta2) * v[i] + f(1.0 - opt.beta2) * g * g;
        w[i] *= f(1.0 - opt.lr * opt.weight_decay);
        w[i] -= f(opt.lr) * (m[i] / c1) / ((v[i] / c2).sqrt() + f(opt.eps));
    }
}
