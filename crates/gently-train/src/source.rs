//! Where a run's batches come from: the [`BatchSource`] trait, [`TrainData`], and [`open`], which makes them from
//! `[data]` and `[tokenizer]`.
//!
//! Not here: reading texts, shards and shuffling (`data`).
//!
//! ```
//! use gently_train::source::BatchSource;
//! use gently_train::data::{Batch, IGNORE};
//! use gently_train::Result;
//!
//! /// Teaches a model to count, forever.
//! struct Counting(u64);
//! impl BatchSource for Counting {
//!     fn next_batch(&mut self) -> Result<Batch> {
//!         self.0 += 1;
//!         Ok(Batch { ids: vec![1, 2, 3], targets: vec![2, 3, IGNORE], docs: None, batch: 1, block: 3 })
//!     }
//!     fn position(&self) -> serde_json::Value { self.0.into() }
//!     fn seek(&mut self, to: &serde_json::Value) -> Result<()> { self.0 = to.as_u64().unwrap_or(0); Ok(()) }
//! }
//! assert_eq!(Counting(0).next_batch()?.counted(), 2);
//! # Ok::<(), gently_train::Error>(())
//! ```

use std::path::Path;
use std::sync::Arc;

use gently_text::Tokenizer;
use serde_json::Value;

use crate::data::{
    Batch, Corpus, Dataset, EvalSet, Input, Layout, Loader, LoaderOptions, LoaderState, Mode, Prepare, TokenizerSpec,
};
use crate::events::DataSummary;
use crate::recipe::{Config, Documents, Resolved, TokenizerKind};
use crate::{Error, Result};

/// An endless, seekable sequence of batches that is the same each time.
pub trait BatchSource: Send {
    /// The next batch.
    ///
    /// # Errors
    /// Data that cannot be read any more.
    fn next_batch(&mut self) -> Result<Batch>;

    /// The place of the next batch, for [`BatchSource::seek`] in a later process.
    fn position(&self) -> Value;

    /// Goes to a place that `position` gave.
    ///
    /// # Errors
    /// A place of other data, or of another source.
    fn seek(&mut self, to: &Value) -> Result<()>;
}

impl BatchSource for Loader {
    fn next_batch(&mut self) -> Result<Batch> {
        Ok(Loader::next_batch(self)?)
    }

    fn position(&self) -> Value {
        serde_json::to_value(self.state()).unwrap_or_default()
    }

    fn seek(&mut self, to: &Value) -> Result<()> {
        let state: LoaderState =
            serde_json::from_value(to.clone()).map_err(|e| crate::data::Error::State { reason: e.to_string() })?;
        Ok(Loader::seek(self, &state)?)
    }
}

/// What a run needs of its data.
pub struct TrainData {
    /// Turns prompts into tokens and tokens into text; saved with each checkpoint.
    pub tokenizer: Tokenizer,
    /// Batches to learn from.
    pub train: Box<dyn BatchSource>,
    /// Batches to evaluate on, if there are any.
    pub val: Option<EvalSet>,
    /// Where the data came from and how much there is.
    pub summary: DataSummary,
    /// Bytes of main memory that reading it takes at most.
    pub memory: u64,
}

/// Prepares or opens what `[data]` and `[tokenizer]` name: token shards lie in `data.shards`, or in the run folder's
/// `data`, and are made again only when the texts or the settings have changed.
///
/// # Errors
/// [`Error::NoData`] if nothing is named; what is wrong with the texts, by file.
pub fn open(resolved: &Resolved, folder: &Path) -> Result<TrainData> {
    let config = &resolved.config;
    let data = &config.data;
    if data.path.is_empty() {
        return Err(Error::NoData);
    }
    let shards = match data.shards.as_str() {
        "" => folder.join("data"),
        path => path.into(),
    };
    let datasets = match data.weights.as_slice() {
        [] => vec![(prepare(config, &data.path, None, &shards)?, 1.0)],
        weights => mixture(config, weights, &shards)?,
    };
    let tokenizer = datasets[0].0.tokenizer().clone();
    let corpora = datasets
        .iter()
        .map(|(dataset, weight)| Ok((Arc::new(dataset.train()?), *weight)))
        .collect::<Result<Vec<_>>>()?;
    let masked = data.documents != Documents::Stream;
    let options = LoaderOptions {
        mode: match (data.documents, data.shuffle) {
            (Documents::Pack, _) => Mode::Documents,
            (_, true) => Mode::Stream,
            (_, false) => Mode::Sequential,
        },
        doc_mask: masked,
        ..LoaderOptions::new(config.train.batch, config.train.block, config.train.seed)
    };
    let val = Arc::new(validation(&datasets)?);
    let summary = DataSummary {
        description: data.path.join(", "),
        train_tokens: corpora.iter().map(|(corpus, _)| corpus.tokens()).sum(),
        val_tokens: val.tokens(),
    };
    let mapped: u64 = corpora.iter().map(|(corpus, _)| corpus.bytes()).sum();
    let memory = mapped + val.bytes();
    let limit = Some(config.eval.batches).filter(|n| *n > 0);
    let (batch, block) = (config.train.batch, config.train.block);
    Ok(TrainData {
        train: Box::new(Loader::mixture(corpora, options)?),
        val: match val.tokens() {
            0 | 1 => None,
            _ => Some(EvalSet::new(val, batch, block, limit, masked)?),
        },
        tokenizer,
        summary,
        memory,
    })
}

/// One dataset for each path, all with one tokenizer.
fn mixture(config: &Config, weights: &[f64], shards: &Path) -> Result<Vec<(Dataset, f64)>> {
    let all = plan(config, &config.data.path);
    let tokenizer = match config.data.path.iter().find(|path| Dataset::is_at(path)) {
        Some(path) => Dataset::open(path)?.tokenizer().clone(),
        None => all.tokenizer()?,
    };
    let paths = config.data.path.iter().zip(weights).enumerate();
    paths
        .map(|(n, (path, weight))| {
            let folder = shards.join(format!("part-{n}"));
            let one = std::slice::from_ref(path);
            Ok((prepare(config, one, Some(&tokenizer), &folder)?, *weight))
        })
        .collect()
}

/// A dataset of all `paths` together; a single path that is a prepared dataset is taken as it is.
fn prepare(config: &Config, paths: &[String], tokenizer: Option<&Tokenizer>, shards: &Path) -> Result<Dataset> {
    if let [path] = paths
        && Dataset::is_at(path)
    {
        return Ok(Dataset::open(path)?);
    }
    let mut plan = plan(config, paths);
    if let Some(tokenizer) = tokenizer {
        plan.tokenizer = TokenizerSpec::Ready(tokenizer.clone());
    }
    Ok(plan.run(shards, &mut |_| {})?)
}

fn plan(config: &Config, paths: &[String]) -> Prepare {
    let tokenizer = &config.tokenizer;
    Prepare {
        val_inputs: config.data.val_path.iter().map(|path| Input::named(path)).collect(),
        tokenizer: match tokenizer.kind {
            TokenizerKind::Characters => TokenizerSpec::Characters,
            TokenizerKind::Bytes => TokenizerSpec::Bytes,
            TokenizerKind::Bpe => TokenizerSpec::Bpe(tokenizer.vocab),
            TokenizerKind::File => TokenizerSpec::File((&tokenizer.path).into()),
        },
        val_fraction: config.data.val_fraction,
        seed: config.train.seed,
        layout: Layout { field: config.data.field.clone(), ..Layout::default() },
        threads: gently_kernels::pool::threads(),
        ..Prepare::new(paths.iter().map(|path| Input::named(path)))
    }
}

/// The validation shards of all datasets, one after the other.
fn validation(datasets: &[(Dataset, f64)]) -> Result<Corpus> {
    let shards = datasets.iter().flat_map(|(dataset, _)| {
        let names = &dataset.info().val.shards;
        names.iter().map(|name| dataset.dir().join(name))
    });
    Ok(Corpus::open("val", shards)?)
}
