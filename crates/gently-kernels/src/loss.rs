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

use crate::buffer::AlignedBuf;
use crate::cpu::{self, Path};
use crate::gemm::{Compute, Epilogue, Mat, gemm};
use crate::lanes::{self, for_lanes};
use crate::pool;
use crate::simd::{Kernel, Simd, dispatch};
use crate::simd_math;
use crate::softmax::log_sum_exp;

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

impl<T> LinearCrossEntropy<'_, T> {
    /// (C, N, V)
    fn check(&self) -> (usize, usize, usize) {
        let c = self.width;
        assert!(c > 0 && self.w.len() % c == 0, "loss: w is not whole rows of {c}");
        assert_eq!(self.x.len(), self.targets.len() * c, "loss: x is not one row of {c} per target");
        (c, self.targets.len(), self.w.len() / c)
    }
}

/// Cross entropy of the output projection: Σ −ln softmax(cap(x·wᵀ))[target] over the targets that are
/// not [`IGNORE`], and on request its gradients, times `scale`.
///
/// The rows are taken in chunks (see [`chunk_rows`]), so memory does not grow with N·V. `per_token` `[N]`
/// receives each token's loss (0 where ignored).
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
    linear_cross_entropy_on(cpu::path(), args, per_token, grads)
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
    assert_eq!(logits.len(), targets.len() * vocab, "loss: logits are not [N, V]");
    let count = check_targets(targets, vocab)?;
    let mut own = Vec::new();
    let nll = token_losses(per_token, targets.len(), &mut own);
    let path = cpu::path();
    match grad {
        Some((scale, grad)) => {
            assert_eq!(grad.len(), logits.len(), "loss: gradient is not [N, V]");
            grad.copy_from_slice(logits);
            rows(path, grad, vocab, targets, softcap, Some(scale), nll);
        }
        None => {
            let mut copy = Vec::new();
            for (chunk, n) in cuts(targets.len(), chunk_rows(vocab)) {
                copy.clear();
                copy.extend_from_slice(&logits[chunk * vocab..(chunk + n) * vocab]);
                let (targets, nll) = (&targets[chunk..chunk + n], &mut nll[chunk..chunk + n]);
                rows(path, &mut copy, vocab, targets, softcap, None, nll);
            }
        }
    }
    Ok(Loss { total: nll.iter().map(|&l| l as f64).sum(), count })
}

/// Rows of logits held at a time for a vocabulary of V: at most 4 MiB of them, so that they stay in cache
/// between the products; but at least 256 rows, because each chunk reads all of `w` three times and must
/// have enough work to pay for it; and never more than 64 MiB (or one row).
pub fn chunk_rows(vocab: usize) -> usize {
    let row = (vocab * size_of::<f32>()).max(1);
    ((4 << 20) / row).max(256).min((64 << 20) / row).max(1)
}

/// (first, count) of each chunk of n rows: chunks as equal as can be, so that the last is not a sliver.
fn cuts(n: usize, most: usize) -> impl Iterator<Item = (usize, usize)> {
    let chunk = n.div_ceil(n.div_ceil(most).max(1)).max(1);
    (0..n).step_by(chunk).map(move |first| (first, chunk.min(n - first)))
}

/// The caller's buffer for the losses of the tokens, or one of our own.
fn token_losses<'a>(given: Option<&'a mut [f32]>, n: usize, own: &'a mut Vec<f32>) -> &'a mut [f32] {
    let nll = given.unwrap_or_else(|| {
        own.resize(n, 0.0);
        own
    });
    assert_eq!(nll.len(), n, "loss: per_token is not one number for each target");
    nll
}

fn linear_cross_entropy_on(
    path: Path,
    args: &LinearCrossEntropy<'_, f32>,
    per_token: Option<&mut [f32]>,
    mut grads: Option<LinearGrads<'_, f32>>,
) -> Result<Loss, TargetOutOfRange> {
    let (c, n, v) = args.check();
    if let Some(g) = &grads {
        assert_eq!(g.dx.len(), args.x.len(), "loss: dx is as long as x");
        assert_eq!(g.dw.len(), args.w.len(), "loss: dw is as long as w");
    }
    let count = check_targets(args.targets, v)?;
    let mut own = Vec::new();
    let nll = token_losses(per_token, n, &mut own);
    let most = cuts(n, chunk_rows(v)).map(|(_, len)| len).max().unwrap_or(0);
    let mut logits = AlignedBuf::<f32>::zeroed(most * v);
    let w = Mat::f32(args.w, v, c);
    for (first, len) in cuts(n, chunk_rows(v)) {
        let z = &mut logits[..len * v];
        let x = Mat::f32(&args.x[first * c..(first + len) * c], len, c);
        gemm(args.compute, x, w.t(), z, v, Epilogue::default());
        let (targets, nll) = (&args.targets[first..first + len], &mut nll[first..first + len]);
        let scale = grads.is_some().then_some(args.scale);
        rows(path, z, v, targets, args.softcap, scale, nll);
        if let Some(g) = &mut grads {
            let dz = Mat::f32(z, len, v);
            let dx = &mut g.dx[first * c..(first + len) * c];
            gemm(args.compute, dz, w, dx, c, Epilogue::default());
            let add = Epilogue { accumulate: true, ..Default::default() };
            gemm(args.compute, dz.t(), x, g.dw, c, add);
        }
    }
    Ok(Loss { total: nll.iter().map(|&l| l as f64).sum(), count })
}

/// Losses of the rows of `z` `[N, V]`; with a scale, `z` becomes the gradient.
fn rows(
    path: Path,
    z: &mut [f32],
    vocab: usize,
    targets: &[u32],
    softcap: Option<f32>,
    scale: Option<f32>,
    nll: &mut [f32],
) {
    if targets.is_empty() {
        return;
    }
    let per_task = lanes::rows_per_task(vocab);
    pool::parallel_chunks_mut2(z, per_task * vocab, nll, per_task, |task, z, nll| {
        let targets = &targets[task * per_task..][..nll.len()];
        dispatch(path, Rows { z, vocab, targets, softcap, scale, nll });
    });
}

struct Rows<'a> {
    z: &'a mut [f32],
    vocab: usize,
    targets: &'a [u32],
    softcap: Option<f32>,
    scale: Option<f32>,
    nll: &'a mut [f32],
}

impl Kernel for Rows<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let one = s.splat(1.0);
        for ((z, &target), nll) in self.z.chunks_exact_mut(self.vocab).zip(self.targets).zip(self.nll) {
            if target == IGNORE {
                *nll = 0.0;
                if self.scale.is_some() {
                    z.fill(0.0);
                }
                continue;
            }
            if let Some(cap) = self.softcap {
                let (up, down) = (s.splat(cap), s.splat(1.0 / cap));
                for_lanes!(S, z.len(), |i, n| {
                    let part = &mut z[i..i + n];
                    let v = s.mul(up, simd_math::tanh(s, s.mul(down, s.load_part(part))));
                    s.store_part(part, v);
                });
            }
            let target = target as usize;
            let lse = log_sum_exp(s, z);
            *nll = lse - z[target];
            let Some(scale) = self.scale else { continue };
            let (shift, factor) = (s.splat(lse), s.splat(scale));
            // cap·tanh(z/cap) has the derivative 1 − tanh².
            let slope = |z: f32| self.softcap.map_or(1.0, |cap| 1.0 - (z / cap) * (z / cap));
            let hit = scale * slope(z[target]);
            let down = self.softcap.map(|cap| s.splat(1.0 / cap));
            for_lanes!(S, z.len(), |i, n| {
                let part = &mut z[i..i + n];
                let z = s.load_part(part);
                let mut g = s.mul(factor, simd_math::exp(s, s.sub(z, shift)));
                if let Some(down) = down {
                    let t = s.mul(z, down);
                    g = s.mul(g, s.nfma(t, t, one));
                }
                s.store_part(part, g);
            });
            z[target] -= hit;
        }
    }
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
