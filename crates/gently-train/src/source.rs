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

use std::path::{Path, PathBuf};
use std::sync::Arc;

use gently_text::Tokenizer;
use serde_json::Value;

use crate::checkpoint::Checkpoints;
use crate::data::{
    Batch, Corpus, Dataset, EvalSet, Input, Layout, Loader, LoaderOptions, LoaderState, Mode, Prepare, Report,
    SplitInfo, TokenizerSpec,
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
/// `data`, and are made again only when the texts or the settings have changed. In the folder of a run that has a checkpoint
/// other tokens to learn from do not take the place of those it has learned from.
///
/// # Errors
/// [`Error::NoData`] if nothing is named; what is wrong with the texts, by file; what `progress` answers.
pub fn open(resolved: &Resolved, folder: &Path, progress: &mut Report<'_>) -> Result<TrainData> {
    let config = &resolved.config;
    let data = &config.data;
    if data.path.is_empty() {
        return Err(Error::NoData);
    }
    let shards = match data.shards.as_str() {
        "" => Shards { path: folder.join("data"), replace: Checkpoints::of_run(folder).latest()?.is_none() },
        path => Shards { path: path.into(), replace: true },
    };
    let Parts { datasets, validation } = match data.weights.as_slice() {
        [] => single(config, &shards, progress)?,
        weights => mixture(config, weights, &shards, progress)?,
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
    let val = Arc::new(Corpus::open("val", validation)?);
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

/// Where token shards are kept, and whether others may take the place of those to learn from.
struct Shards {
    path: PathBuf,
    replace: bool,
}

/// What a run learns from, each with its weight, and the shards it is evaluated on.
struct Parts {
    datasets: Vec<(Dataset, f64)>,
    validation: Vec<PathBuf>,
}

/// All paths together; a single path that is a prepared dataset is taken as it is.
fn single(config: &Config, shards: &Shards, progress: &mut Report<'_>) -> Result<Parts> {
    let data = &config.data;
    if let [path] = data.path.as_slice()
        && Dataset::is_at(path)
    {
        let dataset = Dataset::open(path)?;
        let validation = match data.val_path.as_slice() {
            [] => shard_paths(&dataset, &dataset.info().val),
            _ => validation_texts(config, dataset.tokenizer(), &shards.path, progress)?,
        };
        return Ok(Parts { datasets: vec![(dataset, 1.0)], validation });
    }
    let texts = Prepare { replace: shards.replace, ..plan(config, &data.path) };
    let dataset = texts.run(&shards.path, progress)?;
    let validation = shard_paths(&dataset, &dataset.info().val);
    Ok(Parts { datasets: vec![(dataset, 1.0)], validation })
}

/// One dataset for each path, all with one tokenizer. Texts for validation belong to the mixture and not to its parts: each
/// counts once, however many parts there are.
fn mixture(config: &Config, weights: &[f64], shards: &Shards, progress: &mut Report<'_>) -> Result<Parts> {
    let data = &config.data;
    let tokenizer = match data.path.iter().find(|path| Dataset::is_at(path)) {
        Some(path) => Dataset::open(path)?.tokenizer().clone(),
        None => plan(config, &data.path).tokenizer(progress)?,
    };
    let own_texts = !data.val_path.is_empty();
    let mut parts = Parts { datasets: Vec::new(), validation: Vec::new() };
    for (n, (path, weight)) in data.path.iter().zip(weights).enumerate() {
        let dataset = match Dataset::is_at(path) {
            true => Dataset::open(path)?,
            false => {
                let mut part = plan(config, std::slice::from_ref(path));
                (part.tokenizer, part.replace) = (TokenizerSpec::Ready(tokenizer.clone()), shards.replace);
                if own_texts {
                    (part.val_inputs, part.val_fraction) = (Vec::new(), 0.0);
                }
                part.run(shards.path.join(format!("part-{n}")), progress)?
            }
        };
        if !own_texts {
            parts.validation.extend(shard_paths(&dataset, &dataset.info().val));
        }
        parts.datasets.push((dataset, *weight));
    }
    if own_texts {
        parts.validation = validation_texts(config, &tokenizer, &shards.path, progress)?;
    }
    Ok(parts)
}

/// Shards of the texts that `data.val_path` names, as a dataset of their own.
fn validation_texts(
    config: &Config,
    tokenizer: &Tokenizer,
    shards: &Path,
    progress: &mut Report<'_>,
) -> Result<Vec<PathBuf>> {
    let texts = Prepare {
        tokenizer: TokenizerSpec::Ready(tokenizer.clone()),
        val_inputs: Vec::new(),
        val_fraction: 0.0,
        ..plan(config, &config.data.val_path)
    };
    let dataset = texts.run(shards.join("validation"), progress)?;
    Ok(shard_paths(&dataset, &dataset.info().train))
}

fn shard_paths(dataset: &Dataset, split: &SplitInfo) -> Vec<PathBuf> {
    split.shards.iter().map(|name| dataset.dir().join(name)).collect()
}

/// How `paths` are prepared.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Recipe;

    /// A folder with two texts to learn from and one of 70 characters to validate on, and a recipe that names them.
    fn folder() -> (tempfile::TempDir, Recipe) {
        let folder = tempfile::tempdir().unwrap();
        for (name, times) in [("a.txt", 50), ("b.txt", 80), ("v.txt", 7)] {
            let text = "the sea. a ".repeat(times);
            std::fs::write(folder.path().join(name), &text[..10 * times]).unwrap();
        }
        let mut recipe = Recipe::parse("[train]\nbatch = 2\nblock = 8", "mixture.toml").unwrap();
        let path = |name: &str| folder.path().join(name).display().to_string();
        recipe.set(&format!("data.path=['{}', '{}']", path("a.txt"), path("b.txt"))).unwrap();
        recipe.set(&format!("data.val_path=['{}']", path("v.txt"))).unwrap();
        (folder, recipe)
    }

    fn tokens(recipe: &Recipe, folder: &Path) -> (u64, u64) {
        let data = open(&recipe.resolve().unwrap(), &folder.join("run"), &mut |_| Ok(())).unwrap();
        (data.summary.train_tokens, data.summary.val_tokens)
    }

    #[test]
    fn a_text_for_validation_counts_once_however_many_parts_a_mixture_has() {
        let (folder, mut recipe) = folder();
        assert_eq!(tokens(&recipe, folder.path()), (1300, 70));
        recipe.set("data.weights=[1.0, 3.0]").unwrap();
        assert_eq!(tokens(&recipe, folder.path()), (1300, 70));
        // Without it every part gives its own share.
        recipe.set("data.val_path=[]").unwrap();
        recipe.set("data.val_fraction=0.1").unwrap();
        assert_eq!(tokens(&recipe, folder.path()), (1170, 130));
    }

    #[test]
    fn a_prepared_dataset_is_validated_on_the_texts_that_are_named() {
        let (folder, mut recipe) = folder();
        let prepared = folder.path().join("prepared");
        let texts = ["a.txt", "b.txt"].map(|name| Input::named(&folder.path().join(name).display().to_string()));
        Prepare::new(texts).run(&prepared, &mut |_| Ok(())).unwrap();
        recipe.set(&format!("data.path=['{}']", prepared.display())).unwrap();
        assert_eq!(tokens(&recipe, folder.path()), (1170, 70));
        recipe.set("data.val_path=[]").unwrap();
        assert_eq!(tokens(&recipe, folder.path()), (1170, 130));
    }

    #[test]
    fn preparation_tells_how_far_it_is() {
        let (folder, recipe) = folder();
        let mut stages = Vec::new();
        open(&recipe.resolve().unwrap(), &folder.path().join("run"), &mut |now| {
            assert!(now.done <= now.total, "{now:?}");
            if stages.last() != Some(&now.stage) {
                stages.push(now.stage);
            }
            Ok(())
        })
        .unwrap();
        assert_eq!(stages, ["scanning", "encoding"]);
    }
}
