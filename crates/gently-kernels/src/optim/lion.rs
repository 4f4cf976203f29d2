//! Lion.

use crate::real::Real;

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
}

impl Default for Lion {
    /// The paper's defaults.
    fn default() -> Self {
        Lion { lr: 1e-4, beta1: 0.9, beta2: 0.99, weight_decay: 0.0, grad_scale: 1.0 }
    }
}

impl Lion {
    /// One step on parameters `w` with gradient `g` and momentum `m`, all of one length.
    ///
    /// # Panics
    /// When lengths disagree.
    pub fn step(&self, w: &mut [f32], g: &[f32], m: &mut [f32]) {
        plain_step(self, w, g, m);
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
