//! Cross entropy of a vocabulary, alone or fused with the output projection.
//!
//! Here: [`linear_cross_entropy`], which never holds all the logits, and [`softmax_cross_entropy`]
//! on given logits, with [`plain`] twins. Not here: sampling, and losses on preferences.
//!
//! ```
//! use gently_kernels::loss::{softmax_cross_entropy, IGNORE};
//! let loss = softmax_cross_entropy(&[0.0f32, 0.0, 5.0, 1.0], 2, &[1, IGNORE], None, None, None).unwrap();
//! assert_eq!(loss.count, 1);
//! assert!((loss.total - std::f64::consts::LN_2).abs() < 1e-6);
//! ```

use crate::gemm::Compute;

/// A target that is not scored: no loss, no gradient.
pub const IGNORE: u32 = u32::MAX;

/// Summed loss and how many targets it is over.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Loss {
    /// Σ −ln p(target), in nats, summed in f64 in the order of the rows.
    pub total: f64,
    /// Targets other than [`IGNORE`].
    pub count: usize,
}

/// A target outside the vocabulary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("target {target} at position {position} is outside the vocabulary of {vocab}")]
pub struct TargetOutOfRange {
    /// The offending id.
    pub target: u32,
    /// Where it stands in `targets`.
    pub position: usize,
    /// V.
    pub vocab: usize,
}

/// Inputs of [`linear_cross_entropy`].
#[derive(Clone, Copy, Debug)]
pub struct LinearCrossEntropy<'a, T> {
    /// Hidden states `[N, C]`.
    pub x: &'a [T],
    /// Output projection `[V, C]`.
    pub w: &'a [T],
    /// C.
    pub width: usize,
    /// Targets `[N]`, below V or [`IGNORE`].
    pub targets: &'a [u32],
    /// Logits are `cap · tanh(z / cap)` (Gemma 2, arXiv:2408.00118 §2).
    pub softcap: Option<T>,
    /// Gradients are those of `scale · total`.
    pub scale: T,
    /// Precision of the matrix products.
    pub compute: Compute,
}

/// Gradients of [`linear_cross_entropy`].
#[derive(Debug)]
pub struct LinearGrads<'a, T> {
    /// `[N, C]`, overwritten.
    pub dx: &'a mut [T],
    /// `[V, C]`, added to.
    pub dw: &'a mut [T],
}

fn check_targets(targets: &[u32], vocab: usize) -> Result<usize, TargetOutOfRange> {
    let mut count = 0;
    for (position, &target) in targets.iter().enumerate() {
        if target == IGNORE {
            continue;
        }
        if target as usize >= vocab {
            return Err(TargetOutOfRange { target, position, vocab });
        }
        count += 1;
    }
    Ok(count)
}

/// Cross entropy of the output projection: Σ −ln softmax(cap(x·wᵀ))[target] over the targets that are
/// not [`IGNORE`], and on request its gradients, times `scale`.
///
/// The rows are taken in chunks whose logits stay in cache, so memory does not grow with N·V.
/// `per_token` `[N]` receives each token's loss (0 where ignored).
///
/// # Errors
/// [`TargetOutOfRange`]; nothing is then written.
///
/// # Panics
/// When lengths disagree.
pub fn linear_cross_entropy(
    args: &LinearCrossEntropy<'_, f32>,
    per_token: Option<&mut [f32]>,
    grads: Option<LinearGrads<'_, f32>>,
) -> Result<Loss, TargetOutOfRange> {
    plain::linear_cross_entropy(args, per_token, grads)
}

/// Cross entropy of given logits `[N, V]`: the loss, each token's loss into `per_token` `[N]` (0 where
/// ignored), and with `grad = (scale, dlogits)` the gradient of `scale · total`, `[N, V]`.
///
/// # Errors
/// [`TargetOutOfRange`]; nothing is then written.
///
/// # Panics
/// When lengths disagree.
pub fn softmax_cross_entropy(
    logits: &[f32],
    vocab: usize,
    targets: &[u32],
    softcap: Option<f32>,
    per_token: Option<&mut [f32]>,
    grad: Option<(f32, &mut [f32])>,
) -> Result<Loss, TargetOutOfRange> {
    plain::softmax_cross_entropy(logits, vocab, targets, softcap, per_token, grad)
}

/// Reference implementations, generic over the float type.
pub mod plain {
    use super::{IGNORE, LinearCrossEntropy, LinearGrads, Loss, TargetOutOfRange, check_targets};
    use crate::real::Real;

    /// See [`super::softmax_cross_entropy`].
    pub fn softmax_cross_entropy<T: Real>(
        logits: &[T],
        vocab: usize,
        targets: &[u32],
        softcap: Option<T>,
        mut per_token: Option<&mut [T]>,
        mut grad: Option<(T, &mut [T])>,
    ) -> Result<Loss, TargetOutOfRange> {
        assert_eq!(logits.len(), targets.len() * vocab, "loss: logits are not [N, V]");
        let count = check_targets(targets, vocab)?;
        let mut total = 0.0;
        for (n, &target) in targets.iter().enumerate() {
            let z = &logits[n * vocab..][..vocab];
            let cap = |z: T| softcap.map_or(z, |c| c * (z / c).tanh());
            let top = z.iter().fold(T::NEG_INFINITY, |m, &z| m.max(cap(z)));
            let sum = z.iter().fold(T::ZERO, |s, &z| s + (cap(z) - top).exp());
            let nll = if target == IGNORE { T::ZERO } else { sum.ln() + top - cap(z[target as usize]) };
            total += nll.to_f64();
            if let Some(out) = &mut per_token {
                out[n] = nll;
            }
            if let Some((scale, grad)) = &mut grad {
                for (v, g) in grad[n * vocab..][..vocab].iter_mut().enumerate() {
                    let hit = if target as usize == v { T::ONE } else { T::ZERO };
                    let p = (cap(z[v]) - top).exp() / sum;
                    let slope = softcap.map_or(T::ONE, |c| {
                        let t = (z[v] / c).tanh();
                        T::ONE - t * t
                    });
                    *g = if target == IGNORE { T::ZERO } else { *scale * (p - hit) * slope };
                }
            }
        }
        Ok(Loss { total, count })
    }

    /// See [`super::linear_cross_entropy`]. Holds one row of logits.
    pub fn linear_cross_entropy<T: Real>(
        args: &LinearCrossEntropy<'_, T>,
        mut per_token: Option<&mut [T]>,
        mut grads: Option<LinearGrads<'_, T>>,
    ) -> Result<Loss, TargetOutOfRange> {
        let (c, n, v) = args.check();
        let count = check_targets(args.targets, v)?;
        let mut total = 0.0;
        let (mut z, mut dz) = (vec![T::ZERO; v], vec![T::ZERO; v]);
        for r in 0..n {
            let x = &args.x[r * c..][..c];
            for (z, w) in z.iter_mut().zip(args.w.chunks_exact(c)) {
                *z = x.iter().zip(w).fold(T::ZERO, |s, (&a, &b)| s + a * b);
            }
            let nll = softmax_cross_entropy(
                &z,
                v,
                &args.targets[r..=r],
                args.softcap,
                per_token.as_deref_mut().map(|p| &mut p[r..=r]),
                grads.is_some().then_some((args.scale, dz.as_mut_slice())),
            )?;
            total += nll.total;
            if let Some(g) = &mut grads {
                let dx = &mut g.dx[r * c..][..c];
                dx.fill(T::ZERO);
                for (k, &d) in dz.iter().enumerate() {
                    for i in 0..c {
                        dx[i] += d * args.w[k * c + i];
                        g.dw[k * c + i] += d * x[i];
                    }
                }
            }
        }
        Ok(Loss { total, count })
    }
}

impl<T> LinearCrossEntropy<'_, T> {
    /// (C, N, V)
    fn check(&self) -> (usize, usize, usize) {
        let c = self.width;
        assert!(c > 0 && self.w.len() % c == 0, "loss: w is not whole rows of {c}");
        assert_eq!(self.x.len(), self.targets.len() * c, "loss: x is not one row of {c} per target");
        (c, self.targets.len(), self.w.len() / c)
    }
}
