//! One decoder block: a branch that mixes between tokens, a branch for each token on its own.
//!
//! Here: the two branches and where their norms stand. Not here: the mixers and the MLP themselves (see
//! [`crate::mixers`], [`crate::mlp`]), embedding and head (see [`crate::decoder`]).
//!
//! ```
//! use gently_models::{Block, config::*, mixers::{MixCtx, SoftmaxAttention}, params::Builder};
//! use gently_tensor::{DType, Device, Rng, Tensor};
//! # fn main() -> gently_models::Result<()> {
//! let cfg = DecoderConfig { heads: 2, width: 8, ..DecoderConfig::preset(Family::Gpt2) };
//! let mut b = Builder::new(Some(&Rng::new(0)), &Device::Cpu);
//! let block = Block::new(&mut b, &cfg, "blocks.0", |b| Ok(Box::new(SoftmaxAttention::new(b, &cfg, None)?)))?;
//! let x = Tensor::ones([1, 3, 8], DType::F32, &Device::Cpu)?;
//! let mut state = block.init_state(1);
//! assert_eq!(block.forward(&x, &mut state, &MixCtx::default())?.dims(), [1, 3, 8]);
//! # Ok(()) }
//! ```

use crate::config::{DecoderConfig, NormPlace};
use crate::error::Result;
use crate::layers::Norm;
use crate::mixers::{AnyMixer, AnyState, MixCtx};
use crate::mlp::Mlp;
use crate::params::Builder;
use gently_tensor::{Tensor, profile};

/// A mixer and an MLP, each in a residual branch with its norms.
pub struct Block {
    mixer: Box<dyn AnyMixer>,
    mlp: Mlp,
    mixer_norms: BranchNorms,
    mlp_norms: BranchNorms,
    parallel: bool,
}

/// The norms of a branch, by [`NormPlace`].
struct BranchNorms {
    place: NormPlace,
    /// On the way in, after the sum for [`NormPlace::Post`], on the way out for [`NormPlace::Out`].
    norm: Norm,
    /// On the way out, for [`NormPlace::Both`] only.
    out: Option<Norm>,
}

impl Block {
    /// A block under `path`, with the mixer that `mixer` makes under `path.mixer`.
    ///
    /// # Errors
    /// From the tensor crate.
    pub fn new(
        b: &mut Builder,
        cfg: &DecoderConfig,
        path: &str,
        mixer: impl FnOnce(&mut Builder) -> Result<Box<dyn AnyMixer>>,
    ) -> Result<Self> {
        let mixer_norms = BranchNorms::new(b, cfg, &format!("{path}.mixer"))?;
        let mixer = mixer(b.scope(format!("{path}.mixer")))?;
        let mlp_norms = BranchNorms::new(b, cfg, &format!("{path}.mlp"))?;
        let mlp = Mlp::new(b.scope(format!("{path}.mlp")), cfg)?;
        Ok(Self { mixer, mlp, mixer_norms, mlp_norms, parallel: cfg.parallel })
    }

    /// `[B,T,C]` to `[B,T,C]`.
    ///
    /// # Errors
    /// As [`crate::mixers::Mixer::mix`].
    pub fn forward(&self, x: &Tensor, state: &mut AnyState, cx: &MixCtx) -> Result<Tensor> {
        if self.parallel {
            // Both branches read x; the second adds the first's sum instead of x.
            let sum = self.mixer_norms.branch("mixer", x, |h, residual| {
                self.mixer.mix_any(h, state, &MixCtx { residual: residual.cloned(), ..cx.clone() }) // [B,T,C]
            })?;
            return self.mlp_norms.branch("mlp", x, |h, _| {
                self.mlp.forward(h, Some(&sum), cx.dropout_at("mlp"), cx.compute) // [B,T,C]
            });
        }
        // Each branch adds `residual` to what it returns, so that the sum costs no pass over memory of its own.
        let x = self.mixer_norms.branch("mixer", x, |h, residual| {
            self.mixer.mix_any(h, state, &MixCtx { residual: residual.cloned(), ..cx.clone() }) // [B,T,C]
        })?;
        self.mlp_norms.branch("mlp", &x, |h, residual| {
            self.mlp.forward(h, residual, cx.dropout_at("mlp"), cx.compute) // [B,T,C]
        })
    }

    /// The mixer's state before the first token.
    pub fn init_state(&self, batch: usize) -> AnyState {
        self.mixer.init_any(batch)
    }
}

impl BranchNorms {
    fn new(b: &mut Builder, cfg: &DecoderConfig, path: &str) -> Result<Self> {
        let norm = Norm::new(b.scope(format!("{path}_norm")), cfg, cfg.width)?;
        let out = match cfg.norm_place {
            NormPlace::Both => Some(Norm::new(b.scope(format!("{path}_out_norm")), cfg, cfg.width)?),
            NormPlace::Pre | NormPlace::Post | NormPlace::Out => None,
        };
        Ok(Self { place: cfg.norm_place, norm, out })
    }

    /// Runs the branch `f(input, residual)`, which adds `residual` to its result; `[B,T,C]` everywhere. In a profile the
    /// branch is called `name`, its norms like their parameters.
    fn branch(
        &self,
        name: &'static str,
        x: &Tensor,
        f: impl FnOnce(&Tensor, Option<&Tensor>) -> Result<Tensor>,
    ) -> Result<Tensor> {
        let norm = |norm: &Norm, x: &Tensor, kind: &str| {
            let _part = profile::part(format_args!("{name}_{kind}"));
            norm.apply(x)
        };
        let f = |x: &Tensor, residual: Option<&Tensor>| {
            let _part = profile::part(name);
            f(x, residual)
        };
        match (self.place, &self.out) {
            (NormPlace::Post, _) => norm(&self.norm, &f(x, Some(x))?, "norm"), // norm(x + f(x))
            (NormPlace::Out, _) => Ok(norm(&self.norm, &f(x, None)?, "norm")?.add(x)?), // x + norm(f(x))
            (_, Some(out)) => {
                let y = f(&norm(&self.norm, x, "norm")?, None)?;
                Ok(norm(out, &y, "out_norm")?.add(x)?) // x + norm(f(norm(x)))
            }
            (_, None) => f(&norm(&self.norm, x, "norm")?, Some(x)), // x + f(norm(x))
        }
    }
}
