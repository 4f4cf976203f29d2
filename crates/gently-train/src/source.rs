//! Where batches come from, as the trainer sees it.
//!
//! Here: the [`BatchSource`] trait and [`TrainData`], what a run needs of its data. Not here: reading texts, shards and
//! shuffling (`data`).
//!
//! ```
//! use gently_train::source::{BatchSource, IGNORE, TokenBatch};
//! use gently_train::Result;
//!
//! /// Teaches a model to count, forever.
//! struct Counting(u64);
//! impl BatchSource for Counting {
//!     fn next_batch(&mut self) -> Result<TokenBatch> {
//!         self.0 += 1;
//!         Ok(TokenBatch { ids: vec![1, 2, 3, 4], targets: vec![2, 3, 4, IGNORE], docs: None, rows: 1 })
//!     }
//!     fn batches(&self) -> u64 { 1 }
//!     fn position(&self) -> serde_json::Value { self.0.into() }
//!     fn seek(&mut self, to: &serde_json::Value) -> Result<()> { self.0 = to.as_u64().unwrap_or(0); Ok(()) }
//!     fn rewind(&mut self) -> Result<()> { self.0 = 0; Ok(()) }
//! }
//! assert_eq!(Counting(0).next_batch()?.counted(), 3);
//! # Ok::<(), gently_train::Error>(())
//! ```

use gently_text::Tokenizer;
use serde_json::Value;

use crate::Result;
use crate::events::DataSummary;

/// A target that is not learned from.
pub const IGNORE: u32 = u32::MAX;

/// `rows` rows of T tokens with what follows each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenBatch {
    /// `[B,T]` token ids, row after row.
    pub ids: Vec<u32>,
    /// `[B,T]` the token after each, or [`IGNORE`].
    pub targets: Vec<u32>,
    /// `[B,T]` document numbers, if tokens shall see only their own document.
    pub docs: Option<Vec<u32>>,
    /// B.
    pub rows: usize,
}

impl TokenBatch {
    /// How many targets are learned from.
    pub fn counted(&self) -> u64 {
        self.targets.iter().filter(|t| **t != IGNORE).count() as u64
    }
}

/// An endless, seekable sequence of batches that is the same each time.
pub trait BatchSource: Send {
    /// The next batch.
    ///
    /// # Errors
    /// Data that cannot be read any more.
    fn next_batch(&mut self) -> Result<TokenBatch>;

    /// Batches in one pass over the data, at least 1.
    fn batches(&self) -> u64;

    /// The place of the next batch, for [`BatchSource::seek`] in a later process.
    fn position(&self) -> Value;

    /// Goes to a place that `position` gave.
    ///
    /// # Errors
    /// A place of other data, or of another source.
    fn seek(&mut self, to: &Value) -> Result<()>;

    /// Goes to the first batch of the first pass.
    ///
    /// # Errors
    /// As [`BatchSource::next_batch`].
    fn rewind(&mut self) -> Result<()>;
}

/// What a run needs of its data.
pub struct TrainData {
    /// Turns prompts into tokens and tokens into text; saved with each checkpoint.
    pub tokenizer: Tokenizer,
    /// Batches to learn from.
    pub train: Box<dyn BatchSource>,
    /// Batches to evaluate on, if there are any.
    pub val: Option<Box<dyn BatchSource>>,
    /// Where the data came from and how much there is.
    pub summary: DataSummary,
    /// Bytes of main memory that reading it takes at most.
    pub memory: u64,
}
