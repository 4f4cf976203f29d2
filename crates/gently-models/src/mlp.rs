//! The network applied to each token on its own.
//!
//! Here: one hidden layer with an activation, or with a gate (SwiGLU, GeGLU). Not here: mixing between tokens (see
//! [`crate::mixers`]).
//!
//! ```
//! use gently_models::{config::*, mlp::Mlp, params::Builder};
//! use gently_tensor::{Device, Rng};
//! let cfg = DecoderConfig { width: 48, ..DecoderConfig::preset(Family::Llama) };
//! let mut b = Builder::new(Some(&Rng::new(0)), &Device::Cpu);
//! Mlp::new(b.scope("mlp"), &cfg).unwrap();
//! assert_eq!(b.into_params()[0].tensor.dims(), [256, 48], "gate and up in one matrix");
//! ```

use crate::config::{DecoderConfig, MlpKind};
use crate::error::Result;
use crate::init;
use crate::layers::{Dropout, Linear};
use crate::params::Builder;
use gently_tensor::{Activation, Compute, Tensor, profile};

/// `down(act(up(x)))`, or `down(act(gate(x)) * up(x))` (Shazeer 2020).
#[derive(Debug, Clone)]
pub struct Mlp {
    /// `[M, C]`, or with a gate: gate over up, `[2M, C]`.
    up: Linear,
    /// `[C, M]`.
    down: Linear,
    kind: MlpKind,
}

impl Mlp {
    /// The configuration's MLP, under the builder's scope as `up` (or `gate_up`) and `down`.
    ///
    /// # Errors
    /// From the tensor crate.
    pub fn new(b: &mut Builder, cfg: &DecoderConfig) -> Result<Self> {
        let path = b.path().to_owned();
        let (c, m) = (cfg.width, cfg.mlp_width());
        let (name, rows) = if cfg.mlp.is_gated() { ("gate_up", 2 * m) } else { ("up", m) };
        let up = Linear::new(b.scope(format!("{path}.{name}")), rows, c, cfg.mlp_bias, init::matrix(cfg))?;
        let down = Linear::new(b.scope(format!("{path}.down")), c, m, cfg.mlp_bias, init::residual(cfg))?;
        Ok(Self { up, down, kind: cfg.mlp })
    }

    /// `[B,T,C]` to `[B,T,C]`, plus `residual` where given.
    ///
    /// # Errors
    /// From the tensor crate.
    pub fn forward(
        &self,
        x: &Tensor,
        residual: Option<&Tensor>,
        dropout: Option<Dropout>,
        compute: Compute,
    ) -> Result<Tensor> {
        let part = profile::part("up");
        let up = |activation| self.up.forward(x, activation, compute);
        let hidden = match self.kind {
            MlpKind::Gelu => up(Activation::GeluTanh)?,         // [B,T,M]
            MlpKind::GeluErf => up(Activation::GeluErf)?,       // [B,T,M]
            MlpKind::Relu => up(Activation::Relu)?,             // [B,T,M]
            MlpKind::Relu2 => up(Activation::Relu2)?,           // [B,T,M]
            MlpKind::Silu => up(Activation::Silu)?,             // [B,T,M]
            MlpKind::Swiglu => up(Activation::None)?.swiglu()?, // [B,T,2M] -> [B,T,M]
            MlpKind::Geglu => {
                let both = up(Activation::None)?; // [B,T,2M]
                let (last, m) = (both.rank() - 1, both.dims()[both.rank() - 1] / 2);
                both.narrow(last, 0, m)?.gelu_tanh()?.mul(&both.narrow(last, m, m)?)? // [B,T,M]
            }
        };
        drop(part);
        let _part = profile::part("down");
        self.down.close_branch(&hidden, residual, dropout, compute) // [B,T,C]
    }
}
