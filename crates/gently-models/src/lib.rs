//! Decoder models: what they are, how they start, how they run, and how they are stored.
//!
//! Here: [`DecoderConfig`] (GPT-2, Llama and their relatives, by configuration), [`Decoder`] with its
//! [`block`]s and [`mixers`], initialisation as published, Hugging Face folders in and out, GGUF files in, cost by formula
//! and the model as an algorithm on paper. Not here: kernels and gradients (`gently-tensor`), training
//! (`gently-train`), tokenizers (`gently-text`).
//!
//! Shape letters: B batch, T time, C channels, H heads, Hk key and value heads, D head width, M hidden width of the
//! MLP, V vocabulary.
//!
//! ```
//! use gently_models::{Decoder, DecoderConfig, ForwardCx};
//! use gently_tensor::{Device, Rng};
//! # fn main() -> gently_models::Result<()> {
//! let cfg = DecoderConfig { vocab: 256, layers: 2, heads: 2, width: 16, ..DecoderConfig::named("gpt2")? };
//! let model = Decoder::new(&cfg, &Rng::new(1337), &Device::Cpu)?;
//! let mut state = model.init_state(1);
//! let logits = model.step(&model.ids(&[104, 105], 1)?, &mut state)?;
//! assert_eq!(logits.dims(), [1, 256]);
//! # Ok(()) }
//! ```
#![forbid(unsafe_code)]

pub mod block;
pub mod config;
pub mod decoder;
pub mod error;
pub mod families;
pub mod flops;
pub mod generate;
pub mod init;
pub mod layers;
pub mod mixers;
pub mod mlp;
pub mod params;
pub mod positions;
pub mod pretrained;
pub mod sampling;
pub mod spec;
pub mod state;
pub mod weights;

pub use block::Block;
pub use config::DecoderConfig;
pub use decoder::{Batch, Decoder, ForwardCx};
pub use error::{Error, Result};
pub use gently_tensor::Compute;
pub use params::{Param, ParamGroup, ParamKind};
pub use state::DecoderState;
pub use weights::WeightSource;
