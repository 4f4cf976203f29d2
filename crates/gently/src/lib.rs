//! Gently: train transformers on an ordinary computer, and use them.
//!
//! Here: one name for each crate of the toolkit, a [`prelude`], and what ties text and models together ([`folder`], [`gguf`],
//! [`write`](mod@write), [`search`](mod@search), [`embed`], [`eval`], [`hub`]). Not here: anything that computes.
//!
//! ```no_run
//! use gently::prelude::*;
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let model = TextModel::open("runs/quickstart")?;
//! let text = Writer::new(&model, "In the beginning ", &WriteOptions::default())?.collect_text()?;
//! println!("{text}");
//! # Ok(()) }
//! ```
#![forbid(unsafe_code)]

pub mod embed;
pub mod eval;
pub mod folder;
pub mod gguf;
pub mod hub;
pub mod recipes;
pub mod search;
pub mod text_model;
pub mod write;

pub use gently_formats as formats;
pub use gently_infer as infer;
pub use gently_kernels as kernels;
pub use gently_models as models;
pub use gently_tensor as tensor;
pub use gently_text as text;
pub use gently_train as train;

/// What most programs need.
pub mod prelude {
    pub use crate::embed::{EmbedOptions, Embedder, Embeddings};
    pub use crate::folder::ModelFolder;
    pub use crate::text_model::TextModel;
    pub use crate::write::{WriteOptions, Writer};
    pub use gently_infer::Constraint;
    pub use gently_models::sampling::SamplingParams;
    pub use gently_models::{Batch, Compute, Decoder, DecoderConfig, ForwardCx};
    pub use gently_tensor::{DType, Device, Grads, Rng, Tensor, no_grad};
    pub use gently_text::{ChatOptions, ChatTemplate, Message, Tokenizer};
    pub use gently_train::{Event, Observer};
}
