//! The two layers everything is made of: [`Linear`] and [`Norm`].
//!
//! Here: their parameters and how they run with what surrounds them fused in (bias, activation, residual). Not
//! here: attention (see [`crate::mixers`]) and the MLP (see [`crate::mlp`]).
//!
//! ```
//! use gently_models::{config::*, layers::Norm, params::Builder};
//! use gently_tensor::{DType, Device, Rng, Tensor};
//! let cfg = DecoderConfig { width: 4, ..DecoderConfig::preset(Family::Llama) };
//! let norm = Norm::new(&mut Builder::new(Some(&Rng::new(0)), &Device::Cpu), &cfg, 4).unwrap();
//! let x = Tensor::full([1, 4], 3.0, DType::F32, &Device::Cpu).unwrap();
//! let y: Vec<f32> = norm.apply(&x).unwrap().to_vec().unwrap();
//! assert!(y.iter().all(|v| (v - 1.0).abs() < 1e-4));
//! ```

use crate::config::{DecoderConfig, NormKind};
use crate::error::Result;
use crate::init::Init;
use crate::params::{Builder, ParamKind};
use gently_tensor::{Activation, Compute, LinearArgs, Rng, Tensor};

/// `y = W x + b` on the last dimension.
#[derive(Debug, Clone)]
pub struct Linear {
    /// `[out, in]`.
    pub weight: Tensor,
    /// `[out]`.
    pub bias: Option<Tensor>,
}

impl Linear {
    /// A layer under the builder's scope, as `weight` and `bias`; biases start at zero.
    ///
    /// # Errors
    /// From the tensor crate.
    pub fn new(b: &mut Builder, out: usize, inp: usize, bias: bool, init: Init) -> Result<Self> {
        let weight = b.param("weight", &[out, inp], init, ParamKind::Matrix)?;
        let bias = if bias { Some(b.param("bias", &[out], Init::Zeros, ParamKind::Vector)?) } else { None };
        Ok(Self { weight, bias })
    }

    /// `[…, in]` to `[…, out]`, with the activation applied in the same pass.
    ///
    /// # Errors
    /// From the tensor crate.
    pub fn forward(&self, x: &Tensor, activation: Activation, compute: Compute) -> Result<Tensor> {
        Ok(x.linear(&LinearArgs::new(&self.weight).bias(self.bias.as_ref()).activation(activation).compute(compute))?)
    }

    /// The end of a branch: `[…, in]` to `[…, out]`, then dropout, then plus `residual`, in one pass
    /// or with dropout in two.
    ///
    /// # Errors
    /// From the tensor crate.
    pub fn close_branch(
        &self,
        x: &Tensor,
        residual: Option<&Tensor>,
        dropout: Option<Dropout>,
        compute: Compute,
    ) -> Result<Tensor> {
        let Some(mut dropout) = dropout else {
            let args = LinearArgs::new(&self.weight).bias(self.bias.as_ref()).residual(residual).compute(compute);
            return Ok(x.linear(&args)?);
        };
        let y = self.forward(x, Activation::None, compute)?;
        Ok(match residual {
            Some(residual) => y.dropout_add(residual, dropout.p, &mut dropout.stream)?,
            None => dropout.apply(&y)?,
        })
    }
}

/// Dropout at one place of the model: a probability and the place's own random stream.
///
/// The stream is fixed for the pass, not advanced: recomputing the place gives the same mask.
#[derive(Debug, Clone)]
pub struct Dropout {
    /// Probability that an element becomes zero.
    pub p: f64,
    /// Where the mask comes from.
    pub stream: Rng,
}

impl Dropout {
    /// Drops elements of `x` and scales the rest by `1/(1-p)`.
    ///
    /// # Errors
    /// From the tensor crate.
    pub fn apply(mut self, x: &Tensor) -> Result<Tensor> {
        Ok(x.dropout(self.p, &mut self.stream)?)
    }
}

/// Layer norm or RMS norm of the last dimension.
#[derive(Debug, Clone)]
pub struct Norm {
    /// Scale, `[C]`.
    pub weight: Tensor,
    /// Shift, `[C]`.
    pub bias: Option<Tensor>,
    kind: NormKind,
    eps: f64,
}

impl Norm {
    /// The configuration's norm over `width` channels, under the builder's scope; starts as scale 1, shift 0.
    ///
    /// # Errors
    /// From the tensor crate.
    pub fn new(b: &mut Builder, cfg: &DecoderConfig, width: usize) -> Result<Self> {
        let weight = b.param("weight", &[width], Init::Ones, ParamKind::Vector)?;
        let bias = if cfg.norm == NormKind::Layer && cfg.norm_bias {
            Some(b.param("bias", &[width], Init::Zeros, ParamKind::Vector)?)
        } else {
            None
        };
        Ok(Self { weight, bias, kind: cfg.norm, eps: cfg.norm_eps })
    }

    /// `[…, C]` to `[…, C]`.
    ///
    /// # Errors
    /// From the tensor crate.
    pub fn apply(&self, x: &Tensor) -> Result<Tensor> {
        Ok(match self.kind {
            NormKind::Layer => x.layer_norm(&self.weight, self.bias.as_ref(), self.eps)?,
            NormKind::Rms => x.rms_norm(&self.weight, self.eps)?,
        })
    }
}
