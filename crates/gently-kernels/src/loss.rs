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

use crate::buffer::OutOfMemory;
use crate::cpu::{self, Path};
use crate::gemm::{self, Compute, Epilogue, Mat, gemm};
use crate::lanes::{self, for_lanes};
use crate::pool;
use crate::scratch::Scratch;
use crate::simd::{Kernel, Simd, dispatch};
use crate::simd_math;
use crate::softcap;
use crate::softmax::log_sum_exp;
use crate::thread_buffer::{self, Slot};

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

/// Why there is no loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A target outside the vocabulary.
    #[error(transparent)]
    Target(#[from] TargetOutOfRange),
    /// No memory for the logits of a chunk of rows.
    #[error(transparent)]
    Memory(#[from] OutOfMemory),
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
        assert!(c > 0 && self.w.len().is_multiple_of(c), "loss: w is not whole rows of {c}");
        assert_eq!(self.x.len(), self.targets.len() * c, "loss: x is not one row of {c} per target");
        (c, self.targets.len(), self.w.len() / c)
    }
}

/// Cross entropy of the output projection: `Σ −ln softmax(cap(x·wᵀ))[target]` over the targets that are
/// not [`IGNORE`], and on request its gradients, times `scale`.
///
/// The rows are taken in chunks (see [`chunk_rows`]), so memory does not grow with N·V. `per_token` `[N]`
/// receives each token's loss (0 where ignored).
///
/// # Errors
/// [`Error`]; nothing is then written.
///
/// # Panics
/// When lengths disagree.
pub fn linear_cross_entropy(
    args: &LinearCrossEntropy<'_, f32>,
    per_token: Option<&mut [f32]>,
    grads: Option<LinearGrads<'_, f32>>,
) -> Result<Loss, Error> {
    linear_cross_entropy_on(cpu::path(), args, per_token, grads)
}

/// Cross entropy of given logits `[N, V]`: the loss, each token's loss into `per_token` `[N]` (0 where
/// ignored), and with `grad = (scale, dlogits)` the gradient of `scale · total`, `[N, V]`.
///
/// # Errors
/// [`Error`]; nothing is then written.
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
) -> Result<Loss, Error> {
    assert_eq!(logits.len(), targets.len() * vocab, "loss: logits are not [N, V]");
    if let Some((_, grad)) = &grad {
        assert_eq!(grad.len(), logits.len(), "loss: gradient is not [N, V]");
    }
    let count = check_targets(targets, vocab)?;
    let path = cpu::path();
    let copied = if grad.is_some() { 0 } else { chunk_logits(targets.len(), vocab) };
    let total = with_losses(copied, per_token, targets.len(), |copy, nll| match grad {
        Some((scale, grad)) => {
            grad.copy_from_slice(logits);
            rows(path, grad, vocab, targets, softcap, Some(scale), nll);
        }
        None => {
            for (chunk, n) in cuts(targets.len(), chunk_rows(vocab)) {
                let copy = &mut copy[..n * vocab];
                copy.copy_from_slice(&logits[chunk * vocab..(chunk + n) * vocab]);
                let (targets, nll) = (&targets[chunk..chunk + n], &mut nll[chunk..chunk + n]);
                rows(path, copy, vocab, targets, softcap, None, nll);
            }
        }
    })?;
    Ok(Loss { total, count })
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

/// What [`linear_cross_entropy`] takes beside its operands for `n` rows of `width` numbers and a vocabulary of `vocab`.
pub fn linear_scratch(compute: Compute, n: usize, width: usize, vocab: usize, grads: bool) -> Scratch {
    let rows = cuts(n, chunk_rows(vocab)).map(|(_, len)| len).max().unwrap_or(0);
    let x = Mat::f32(&[], rows, width);
    let (w, z) = (Mat::f32(&[], vocab, width), Mat::f32(&[], rows, vocab));
    let mut products = gemm::scratch(compute, &x, &w.t());
    if grads {
        products = products.or(gemm::scratch(compute, &z, &w));
        products = products.or(gemm::scratch(compute, &z.t(), &x));
    }
    Scratch { call: (chunk_logits(n, vocab) + n) * size_of::<f32>(), ..products }
}

/// Logits held at a time for n rows.
fn chunk_logits(n: usize, vocab: usize) -> usize {
    cuts(n, chunk_rows(vocab)).map(|(_, len)| len).max().unwrap_or(0).saturating_mul(vocab)
}

/// Calls `f` with room for `logits` numbers, which holds anything, and for the losses of `n` tokens, which is the caller's or
/// our own; gives their sum. The room is kept by this thread: one call after another allocates nothing.
fn with_losses(
    logits: usize,
    per_token: Option<&mut [f32]>,
    n: usize,
    f: impl FnOnce(&mut [f32], &mut [f32]),
) -> Result<f64, OutOfMemory> {
    let own = if per_token.is_some() { 0 } else { n };
    thread_buffer::try_with(Slot::Call, logits.saturating_add(own), |words| {
        let (logits, own) = bytemuck::cast_slice_mut::<u32, f32>(words).split_at_mut(logits);
        let nll = per_token.unwrap_or(own);
        assert_eq!(nll.len(), n, "loss: per_token is not one number for each target");
        f(logits, nll);
        nll.iter().map(|&l| l as f64).sum()
    })
}

fn linear_cross_entropy_on(
    path: Path,
    args: &LinearCrossEntropy<'_, f32>,
    per_token: Option<&mut [f32]>,
    mut grads: Option<LinearGrads<'_, f32>>,
) -> Result<Loss, Error> {
    let (c, n, v) = args.check();
    if let Some(g) = &grads {
        assert_eq!(g.dx.len(), args.x.len(), "loss: dx is as long as x");
        assert_eq!(g.dw.len(), args.w.len(), "loss: dw is as long as w");
    }
    let count = check_targets(args.targets, v)?;
    let w = Mat::f32(args.w, v, c);
    let total = with_losses(chunk_logits(n, v), per_token, n, |logits, nll| {
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
    })?;
    Ok(Loss { total, count })
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
    if vocab == 0 {
        // There is no target that is not ignored.
        return nll.fill(0.0);
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
        let (zero, one) = (s.splat(0.0), s.splat(1.0));
        for ((z, &target), nll) in self.z.chunks_exact_mut(self.vocab).zip(self.targets).zip(self.nll) {
            if target == IGNORE {
                *nll = 0.0;
                if self.scale.is_some() {
                    z.fill(0.0);
                }
                continue;
            }
            if let Some(cap) = self.softcap {
                softcap::row(s, cap, z);
            }
            let target = target as usize;
            let (top, rest) = log_sum_exp(s, z);
            *nll = rest - (z[target] - top);
            let Some(scale) = self.scale else { continue };
            let (top, rest, factor) = (s.splat(top), s.splat(rest), s.splat(scale));
            // cap·tanh(z/cap) has the derivative 1 − tanh².
            let slope = |z: f32| self.softcap.map_or(1.0, |cap| 1.0 - (z / cap) * (z / cap));
            let hit = scale * slope(z[target]);
            let down = self.softcap.map(|cap| s.splat(1.0 / cap));
            for_lanes!(S, z.len(), |i, n| {
                let part = &mut z[i..i + n];
                let z = s.load_part(part);
                let log_p = s.sub(s.sub(z, top), rest);
                // Below 1e-30 a probability is 0: left as it is, p·scale would be a denormal number, and those
                // make the products that follow many times slower.
                let p = s.select_lt(log_p, s.splat(-69.0), zero, simd_math::exp(s, log_p));
                let mut g = s.mul(factor, p);
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
    use super::{Error, IGNORE, LinearCrossEntropy, LinearGrads, Loss, check_targets};
    use crate::real::Real;

    /// See [`super::softmax_cross_entropy`].
    pub fn softmax_cross_entropy<T: Real>(
        logits: &[T],
        vocab: usize,
        targets: &[u32],
        softcap: Option<T>,
        mut per_token: Option<&mut [T]>,
        mut grad: Option<(T, &mut [T])>,
    ) -> Result<Loss, Error> {
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
    ) -> Result<Loss, Error> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lanes::testing::{close, gradient, random, same_on_threads, wide};
    use proptest::prelude::*;

    /// Targets in 0..v, one in five ignored.
    fn targets(seed: u32, n: usize, v: usize) -> Vec<u32> {
        (0..n as u64)
            .map(|i| match crate::philox::word([seed, 5], i) {
                w if w.is_multiple_of(5) => IGNORE,
                w => (w / 5) % v as u32,
            })
            .collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]
        #[test]
        fn every_path_agrees_with_the_plain_twin(
            n in 0usize..40, c in 1usize..40, v in 1usize..90, seed: u32, capped: bool, grads: bool,
        ) {
            let (x, w, before) = (random(seed, n * c), random(seed ^ 1, v * c), random(seed ^ 2, v * c));
            let targets = targets(seed, n, v);
            let (wide_x, wide_w) = (wide(&x), wide(&w));
            let args = LinearCrossEntropy {
                x: wide_x.as_slice(), w: wide_w.as_slice(), width: c, targets: &targets,
                softcap: capped.then_some(3.0), scale: 0.5, compute: Compute::F32,
            };
            let (mut each, mut dx, mut dw) = (vec![0.0; n], vec![9.0; n * c], wide(&before));
            let g = grads.then_some(LinearGrads { dx: &mut dx, dw: &mut dw });
            let want = plain::linear_cross_entropy(&args, Some(&mut each), g).unwrap();
            let args = LinearCrossEntropy {
                x: x.as_slice(), w: w.as_slice(), width: c, targets: &targets,
                softcap: capped.then_some(3.0), scale: 0.5, compute: Compute::F32,
            };
            for path in cpu::available() {
                let (mut fast_each, mut fdx, mut fdw) = (vec![0.0; n], vec![9.0; n * c], before.clone());
                let g = grads.then_some(LinearGrads { dx: &mut fdx, dw: &mut fdw });
                let got = linear_cross_entropy_on(path, &args, Some(&mut fast_each), g).unwrap();
                prop_assert_eq!(got.count, want.count);
                prop_assert!((got.total - want.total).abs() < 1e-5 * (1.0 + want.total.abs()));
                close(&fast_each, &each, 1e-5, "losses");
                close(&fdx, &dx, 1e-4, "dx");
                close(&fdw, &dw, 1e-4, "dw");
            }
        }
    }

    #[test]
    fn many_chunks_make_the_same_loss_as_one_matrix_of_logits() {
        // 300 rows of 70 000 logits: two chunks.
        let (n, c, v) = (300, 4, 70_000);
        assert!(cuts(n, chunk_rows(v)).count() > 1);
        let (x, w, targets) = (random(1, n * c), random(2, v * c), targets(3, n, v));
        let args = LinearCrossEntropy {
            x: x.as_slice(),
            w: w.as_slice(),
            width: c,
            targets: &targets,
            softcap: None,
            scale: 1.0,
            compute: Compute::F32,
        };
        let (mut dx, mut dw) = (vec![0.0; n * c], vec![0.0; v * c]);
        let fused = linear_cross_entropy(&args, None, Some(LinearGrads { dx: &mut dx, dw: &mut dw })).unwrap();
        let mut z = vec![0.0; n * v];
        gemm(Compute::F32, Mat::f32(&x, n, c), Mat::f32(&w, v, c).t(), &mut z, v, Epilogue::default());
        let mut dz = vec![0.0; n * v];
        let mut each = vec![0.0; n];
        let apart = softmax_cross_entropy(&z, v, &targets, None, Some(&mut each), Some((1.0, &mut dz))).unwrap();
        assert_eq!(fused.count, apart.count);
        assert!((fused.total - apart.total).abs() < 1e-6 * apart.total);
        let bare = softmax_cross_entropy(&z, v, &targets, None, None, None).unwrap();
        assert_eq!(bare.total, apart.total);
        let mut want = vec![0.0; n * c];
        gemm(Compute::F32, Mat::f32(&dz, n, v), Mat::f32(&w, v, c), &mut want, c, Epilogue::default());
        close(&dx, &wide(&want), 1e-4, "dx");
    }

    #[test]
    fn chunks_are_bounded_and_cover_all_rows() {
        for v in [1, 65, 50_304, 256_000, 100_000_000] {
            let most = chunk_rows(v);
            assert!(most == 1 || most * v * 4 <= 64 << 20, "{v}: {most}");
            for n in [0, 1, most, most + 1, 3 * most - 1].map(|n| n.min(1 << 20)) {
                let mut next = 0;
                for (first, len) in cuts(n, most) {
                    assert_eq!(first, next);
                    assert!(len > 0 && len <= most);
                    next += len;
                }
                assert_eq!(next, n);
            }
        }
    }

    #[test]
    fn gradients_of_the_plain_twin() {
        let (n, c, v) = (5, 3, 7);
        let (x, w) = (wide(&random(1, n * c)), wide(&random(2, v * c)));
        fn total(x: &[f64], w: &[f64], softcap: Option<f64>, grads: Option<LinearGrads<'_, f64>>) -> f64 {
            let targets = &[0, 6, IGNORE, 3, 3];
            let compute = Compute::F32;
            let args = LinearCrossEntropy { x, w, width: 3, targets, softcap, scale: 2.0, compute };
            plain::linear_cross_entropy(&args, None, grads).unwrap().total
        }
        for softcap in [None, Some(1.5)] {
            let (mut dx, mut dw) = (vec![0.0; n * c], vec![0.0; v * c]);
            total(&x, &w, softcap, Some(LinearGrads { dx: &mut dx, dw: &mut dw }));
            gradient(&x, &dx, &[2.0], "dx", |x| vec![total(x, &w, softcap, None)]);
            gradient(&w, &dw, &[2.0], "dw", |w| vec![total(&x, w, softcap, None)]);
        }
    }

    #[test]
    fn a_target_outside_the_vocabulary_is_an_error_and_nothing_is_written() {
        let mut grad = [7.0f32; 6];
        let error = softmax_cross_entropy(&[0.0; 6], 3, &[1, 3], None, None, Some((1.0, &mut grad))).unwrap_err();
        assert_eq!(error, Error::Target(TargetOutOfRange { target: 3, position: 1, vocab: 3 }));
        assert_eq!(grad, [7.0; 6]);
        let args = LinearCrossEntropy {
            x: &[1.0f32],
            w: &[1.0, 2.0],
            width: 1,
            targets: &[2],
            softcap: None,
            scale: 1.0,
            compute: Compute::F32,
        };
        let (mut dx, mut dw) = ([7.0], [7.0; 2]);
        let grads = LinearGrads { dx: &mut dx, dw: &mut dw };
        assert!(linear_cross_entropy(&args, None, Some(grads)).is_err());
        assert_eq!((dx, dw), ([7.0], [7.0; 2]));
    }

    #[test]
    fn a_second_call_takes_no_new_memory() {
        use crate::thread_buffer::kept;
        let (n, c, v) = (300, 16, 900);
        let (x, w, targets) = (random(1, n * c), random(2, v * c), targets(3, n, v));
        let args = LinearCrossEntropy {
            x: x.as_slice(),
            w: w.as_slice(),
            width: c,
            targets: &targets,
            softcap: None,
            scale: 1.0,
            compute: Compute::F32,
        };
        let first = linear_cross_entropy(&args, None, None).unwrap();
        let room = kept(Slot::Call).unwrap();
        assert!(room.1 >= chunk_logits(n, v) + n);
        let (mut dx, mut dw) = (vec![0.0; n * c], vec![0.0; v * c]);
        let second = linear_cross_entropy(&args, None, Some(LinearGrads { dx: &mut dx, dw: &mut dw })).unwrap();
        assert_eq!((second, kept(Slot::Call)), (first, Some(room)));
    }

    #[test]
    fn an_empty_vocabulary_has_no_loss() {
        for n in [0, 1, 3] {
            let targets = vec![IGNORE; n];
            let want = plain::softmax_cross_entropy::<f32>(&[], 0, &targets, None, None, None);
            for with_grad in [false, true] {
                let (mut each, mut dz) = (vec![7.0; n], [0.0f32; 0]);
                let grad = with_grad.then_some((1.0, &mut dz[..]));
                assert_eq!(softmax_cross_entropy(&[], 0, &targets, None, Some(&mut each), grad), want);
                assert_eq!(each, vec![0.0; n]);
            }
        }
        assert!(softmax_cross_entropy(&[], 0, &[0], None, None, None).is_err());
    }

    #[test]
    fn bits_do_not_depend_on_threads() {
        let (n, c, v) = (600, 24, 65);
        let (x, w, targets) = (random(1, n * c), random(2, v * c), targets(3, n, v));
        same_on_threads(|| {
            let args = LinearCrossEntropy {
                x: x.as_slice(),
                w: w.as_slice(),
                width: c,
                targets: &targets,
                softcap: Some(20.0),
                scale: 1.0,
                compute: Compute::F32,
            };
            let (mut dx, mut dw) = (vec![0.0; n * c], vec![0.0; v * c]);
            let loss = linear_cross_entropy(&args, None, Some(LinearGrads { dx: &mut dx, dw: &mut dw })).unwrap();
            (loss.total.to_bits(), dx, dw)
        });
    }
}
