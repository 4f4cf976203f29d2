//! How parameters start, as the families published it.
//!
//! Here: [`Init`] and the standard deviation of each kind of matrix. Not here: who owns which parameter (see
//! [`crate::params`]).
//!
//! ```
//! use gently_models::{config::*, init::{self, Init}};
//! let cfg = DecoderConfig::preset(Family::Gpt2);
//! assert_eq!(init::residual(&cfg), Init::Normal { std: 0.02 / (2.0 * 12.0_f64).sqrt() });
//! ```

use crate::config::{DecoderConfig, Family};
use crate::error::Result;
use gently_tensor::{DType, Device, Rng, Tensor};

/// The distribution a parameter starts from.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Init {
    /// Independent normal numbers with mean 0.
    Normal {
        /// Standard deviation.
        std: f64,
    },
    /// All ones: the scale of a norm.
    Ones,
    /// All zeros: biases.
    Zeros,
}

impl Init {
    /// Draws a tensor of this distribution. Takes `rng` by value: each parameter has a stream of its own.
    ///
    /// # Errors
    /// From the tensor crate.
    pub fn draw(self, shape: &[usize], mut rng: Rng, dtype: DType, device: &Device) -> Result<Tensor> {
        Ok(match self {
            // Drawn in f32 and then converted, so that a model in f64 starts from the same numbers.
            Self::Normal { std } => rng.normal(shape, 0.0, std, DType::F32, device)?.to_dtype(dtype)?,
            Self::Ones => Tensor::ones(shape, dtype, device)?,
            Self::Zeros => Tensor::zeros(shape, dtype, device)?,
        })
    }
}

/// Projections into a branch, embeddings and heads: N(0, 0.02²) in both families.
pub fn matrix(cfg: &DecoderConfig) -> Init {
    Init::Normal { std: cfg.init_std }
}

/// Projections back into the residual stream. GPT-2 divides by √(2·layers), the number of branches that add up
/// (Radford et al. 2019, §2.3); Llama does not.
pub fn residual(cfg: &DecoderConfig) -> Init {
    match cfg.family {
        Family::Gpt2 => Init::Normal { std: cfg.init_std / (2.0 * cfg.layers as f64).sqrt() },
        Family::Llama => matrix(cfg),
    }
}
