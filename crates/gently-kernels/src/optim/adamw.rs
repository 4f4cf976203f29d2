//! AdamW.

use crate::real::Real;

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
}

impl Default for AdamW {
    /// PyTorch's defaults, without weight decay.
    fn default() -> Self {
        AdamW { lr: 1e-3, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.0, grad_scale: 1.0 }
    }
}

impl AdamW {
    /// One step, the `t`th (from 1), on parameters `w` with gradient `g` and moments `m`, `v`, all of one length.
    ///
    /// # Panics
    /// When lengths disagree or `t` is 0.
    pub fn step(&self, t: u64, w: &mut [f32], g: &[f32], m: &mut [f32], v: &mut [f32]) {
        plain_step(self, t, w, g, m, v);
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
