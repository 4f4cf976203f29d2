//! Data: from files of text to batches.
//!
//! Here: reading texts ([`Prepare`]), the prepared [`Dataset`] and its [`Corpus`]es, training batches ([`Loader`]) and
//! evaluation batches ([`EvalSet`]). Not here: tokenizers (`gently-text`) and the layout of a shard (`gently-formats`).
//!
//! ```
//! use gently_train::data::{Corpus, Loader, LoaderOptions};
//! use std::sync::Arc;
//!
//! let corpus = Corpus::from_documents("train", [(0..100).collect()], 100, 0)?;
//! let mut loader = Loader::new(Arc::new(corpus), LoaderOptions::new(2, 8, 42))?;
//! let batch = loader.next_batch()?;
//! assert_eq!((batch.ids.len(), batch.counted()), (16, 16));
//! # Ok::<(), gently_train::data::Error>(())
//! ```

mod batch;
mod corpus;
mod dataset;
mod encode;
mod error;
mod evaluate;
pub mod fetch;
pub mod inspect;
#[cfg(feature = "kjv")]
pub mod kjv;
mod loader;
mod order;
mod pack;
mod parquet;
mod permute;
mod prepare;
mod read;
mod scan;
pub mod sets;
mod shards;

pub use batch::{Batch, IGNORE};
pub use corpus::Corpus;
pub use dataset::{Dataset, DatasetInfo, SplitInfo, TokenizerInfo};
pub use error::{Error, NO_CURL, Result};
pub use evaluate::EvalSet;
pub use loader::{Loader, LoaderOptions, LoaderState, Mode};
pub use order::Cursor;
pub use prepare::{Prepare, Progress, Replace, Report, SplitRule, TokenizerSpec};
pub use read::{Format, Input, Layout};
pub use scan::SourceInfo;

#[cfg(test)]
mod tests;
