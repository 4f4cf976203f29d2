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

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use gently_text::Tokenizer;
use serde_json::Value;

use crate::checkpoint::Checkpoints;
use crate::data::{
    self, Batch, Corpus, Dataset, EvalSet, Input, Layout, Loader, LoaderOptions, LoaderState, Mode, Prepare, Replace,
    Report, SplitInfo, TokenizerSpec,
};
use crate::events::DataSummary;
use crate::recipe::{self, Config, Documents, Resolved, Source, TokenizerKind};
use crate::{Error, Recipe, Result};

/// An endless, seekable sequence of batches that is the same each time.
pub trait BatchSource: Send {
    /// The next batch: `train.batch` rows of `train.block` tokens; the trainer refuses others.
    ///
    /// # Errors
    /// Data that cannot be read any more.
    fn next_batch(&mut self) -> Result<Batch>;

    /// Batches in which about all of the data comes once; `None` where that is not known. It bounds the search for a batch with
    /// a target that counts.
    fn batches_per_epoch(&self) -> Option<u64> {
        None
    }

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

    fn batches_per_epoch(&self) -> Option<u64> {
        Some(Loader::batches_per_epoch(self))
    }

    fn position(&self) -> Value {
        serde_json::to_value(self.state()).unwrap_or_default()
    }

    fn seek(&mut self, to: &Value) -> Result<()> {
        let state: LoaderState =
            serde_json::from_value(to.clone()).map_err(|e| data::Error::State { reason: e.to_string() })?;
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
    /// Bytes of main memory that reading it takes at most, without mapped files.
    pub memory: u64,
    /// Bytes of files that are mapped into memory: they come and go in the system's cache and need not fit into what is free.
    pub mapped: u64,
    /// What a person should know of it before the first step, a sentence each.
    pub warnings: Vec<String>,
    /// The tokenizer's settings where the data was prepared before: they are the run's, whatever the recipe says.
    pub prepared: Option<recipe::Tokenizer>,
}

/// Prepares or opens what `[data]` and `[tokenizer]` name: token shards lie in `data.shards`, or in the run folder's
/// `data`, and are made again only when the texts or the settings have changed. In the folder of a run that has a checkpoint
/// other tokens to learn from do not take the place of those it has learned from; they are read where the texts cannot be read
/// again (standard input, pipes, files that are gone), and whether they are those is found out when the run seeks its place.
///
/// # Errors
/// [`Error::NoData`] if nothing is named; [`crate::data::Error::Gone`] for a text of the run that is not there any more and of which no
/// shards were made; [`Error::OtherPrepared`] for a setting of a new run that is not that of a folder
/// prepared before; [`Error::ShortValidation`]; what is wrong with the texts, by file; what `progress` answers.
pub fn open(resolved: &Resolved, folder: &Path, progress: &mut Report<'_>) -> Result<TrainData> {
    let config = &resolved.config;
    let data = &config.data;
    if data.path.is_empty() {
        return Err(Error::NoData);
    }
    let begins = Checkpoints::of_run(folder).latest()?.is_none();
    let own = if begins { Replace::Any } else { Replace::SameTokens };
    let shards = match data.shards.as_str() {
        "" => Shards::new(folder.join("data"), own, begins),
        path => Shards::new(path.into(), Replace::Any, begins),
    };
    let shards = Shards { named: if begins { Vec::new() } else { named(folder) }, ..shards };
    let prepared = prepared(resolved, begins)?;
    // Beside shards that are there already each path has its own.
    let several = data.path.len() > 1 && data.path.iter().any(Dataset::is_at);
    let Parts { datasets, validation } = match several || !data.weights.is_empty() {
        true => mixture(config, &shards, progress)?,
        false => single(config, &shards, progress)?,
    };
    let tokenizer = datasets[0].0.tokenizer().clone();
    let mut warnings = Vec::new();
    if shards.unread.get() {
        let kept = shards.path.display();
        warnings.push(format!("standard input is not read: the run goes on with the tokens that it has, in {kept}"));
    }
    let (entries, wanted) = (tokenizer.vocab_size(), config.tokenizer.vocab);
    if prepared.is_none() && config.tokenizer.kind == TokenizerKind::Bpe && entries < wanted {
        warnings.push(format!("the text gave only {entries} entries of the {wanted} that tokenizer.vocab asks for"));
    }
    let mut parts = Vec::new();
    for (dataset, weight) in &datasets {
        parts.push((dataset.train()?, *weight));
    }
    if data.weights.is_empty() {
        let all = Corpus::merge(parts.into_iter().map(|(corpus, _)| corpus))?;
        parts = vec![(all, 1.0)];
    }
    let corpora: Vec<_> = parts.into_iter().map(|(corpus, weight)| (Arc::new(corpus), weight)).collect();
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
    if val.tokens() < 2 {
        warnings.extend(no_validation(resolved, val.tokens(), begins)?);
    }
    let summary = DataSummary {
        description: data.path.join(", "),
        train_tokens: corpora.iter().map(|(corpus, _)| corpus.tokens()).sum(),
        val_tokens: val.tokens(),
    };
    let all = || corpora.iter().map(|(corpus, _)| corpus).chain([&val]);
    let memory = all().map(|corpus| corpus.owned_bytes()).sum();
    let mapped = all().map(|corpus| corpus.mapped_bytes()).sum();
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
        mapped,
        warnings,
        prepared,
    })
}

/// What to say where `tokens` are too few to evaluate on. It is an error where a person asked for an evaluation: with texts of
/// its own, or with a part in a new run's `--set`.
fn no_validation(resolved: &Resolved, tokens: u64, begins: bool) -> Result<Option<String>> {
    let data = &resolved.config.data;
    if !data.val_path.is_empty() {
        return Err(short_validation(data, tokens));
    }
    // Whoever prepared a folder without a part for validation wanted none.
    if data.val_fraction <= 0.0 || data.path.iter().all(Dataset::is_at) {
        return Ok(None);
    }
    if begins && resolved.source("data.val_fraction") == Source::Set {
        return Err(Error::NothingToEvaluate);
    }
    Ok(Some(format!(
        "nothing is evaluated: of this text, data.val_fraction = {} leaves {tokens} tokens to validate on",
        data.val_fraction
    )))
}

/// The error of texts for validation that give `tokens` alone.
fn short_validation(data: &recipe::Data, tokens: u64) -> Error {
    Error::ShortValidation { what: data.val_path.join(", "), tokens }
}

/// `[tokenizer]` as the first folder among the paths that was prepared before has it, if there is one. What a new run's `--set`
/// says otherwise is refused: it would stand in `config.toml` and not be true.
fn prepared(resolved: &Resolved, begins: bool) -> Result<Option<recipe::Tokenizer>> {
    let data = &resolved.config.data;
    let Some(folder) = data.path.iter().find(|path| Dataset::is_at(path)) else {
        return Ok(None);
    };
    let dataset = Dataset::open(folder)?;
    let info = dataset.info();
    let mut tokenizer = resolved.config.tokenizer.clone();
    let set = |key: &str| begins && resolved.source(key) == Source::Set;
    let refuse = |key: &str, own: String| Err(resolved.against_prepared(key, folder, own));

    if data.val_path.is_empty() && data.path.iter().all(Dataset::is_at) {
        let usual = recipe::Data::default();
        for (key, differs) in [("data.field", data.field != usual.field), ("data.shards", data.shards != usual.shards)]
        {
            if set(key) && differs {
                return refuse(key, "shards of its own, which are read as they are".into());
            }
        }
    }
    let kind = match info.tokenizer.kind.as_str() {
        "bytes" => TokenizerKind::Bytes,
        "characters" => TokenizerKind::Characters,
        _ => TokenizerKind::File,
    };
    // A vocabulary that was learned is a file from then on.
    let learned = (kind, tokenizer.kind) == (TokenizerKind::File, TokenizerKind::Bpe);
    if kind != tokenizer.kind && !learned {
        for key in ["tokenizer.kind", "tokenizer.path"] {
            if set(key) {
                return refuse(key, format!("the tokenizer {:?}", info.tokenizer.kind));
            }
            // A run that was begun with it goes on with it.
            if resolved.source(key) == Source::Set {
                return Ok(Some(tokenizer));
            }
        }
        tokenizer.kind = kind;
        tokenizer.path = if kind == TokenizerKind::File { folder.clone() } else { String::new() };
    } else if kind == tokenizer.kind && kind == TokenizerKind::File {
        let named = Tokenizer::load(&tokenizer.path);
        if named.is_err() && set("tokenizer.path") {
            named?;
        } else if named.is_ok_and(|named| named.hash() != dataset.tokenizer().hash()) {
            if set("tokenizer.path") {
                return refuse("tokenizer.path", "another tokenizer".into());
            }
            tokenizer.path = folder.clone();
        }
    }
    // Of a vocabulary that was learned it is the most that was wanted.
    let fits = tokenizer.vocab == info.tokenizer.vocab || learned && tokenizer.vocab > info.tokenizer.vocab;
    if set("tokenizer.vocab") && !fits {
        return refuse("tokenizer.vocab", format!("a vocabulary of {}", info.tokenizer.vocab));
    }
    let (learn, validate) = (info.train.tokens, info.val.tokens);
    let share = validate as f64 / (learn + validate).max(1) as f64;
    // Whole documents are drawn, so how large the part is only comes near to what was asked for.
    let same = match data.val_fraction {
        none if none <= 0.0 => validate < 2,
        wanted => validate >= 2 && (wanted / 2.0..=wanted * 2.0).contains(&share),
    };
    if set("data.val_fraction") && !same && data.val_path.is_empty() && data.path.iter().all(Dataset::is_at) {
        return refuse("data.val_fraction", format!("{validate} tokens to validate on and {learn} to learn from"));
    }
    Ok(Some(tokenizer))
}

/// The texts that the run in `folder` names. None where its configuration cannot be read.
fn named(folder: &Path) -> Vec<String> {
    let saved = Recipe::reload(folder).and_then(|saved| saved.resolve_unchecked());
    saved.map_or_else(|_| Vec::new(), |saved| [saved.config.data.path, saved.config.data.val_path].concat())
}

/// Where token shards are kept, and what may take the place of those that are there.
struct Shards {
    path: PathBuf,
    replace: Replace,
    /// Whether the run has no checkpoint yet: then nothing says which shards are its own.
    begins: bool,
    /// The texts that the run names, where it goes on: what is not there and not among them was never there.
    named: Vec<String>,
    /// Whether a text that somebody sent into standard input is left there.
    unread: Cell<bool>,
}

impl Shards {
    fn new(path: PathBuf, replace: Replace, begins: bool) -> Self {
        Self { path, replace, begins, named: Vec::new(), unread: Cell::new(false) }
    }

    /// The dataset of `texts` that a run which goes on has in `folder`, where they cannot be read again; see [`Prepare::kept`].
    fn kept(&self, texts: &Prepare, folder: &Path, progress: &mut Report<'_>) -> Result<Option<(Dataset, bool)>> {
        if self.begins {
            return Ok(None);
        }
        let kept = texts.kept(folder, &self.named, progress)?;
        if kept.is_some() && texts.inputs.iter().chain(&texts.val_inputs).any(Input::is_sent) {
            self.unread.set(true);
        }
        Ok(kept)
    }

    /// The dataset of `texts` in `folder`, and whether it holds their part for validation: they are prepared, unless the run
    /// goes on and they cannot be read again.
    fn of(&self, texts: &Prepare, folder: &Path, progress: &mut Report<'_>) -> Result<(Dataset, bool)> {
        match self.kept(texts, folder, progress)? {
            Some(kept) => Ok(kept),
            None => Ok((texts.run(folder, progress)?, true)),
        }
    }
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
            _ => validation_texts(config, dataset.tokenizer(), shards, progress)?,
        };
        return Ok(Parts { datasets: vec![(dataset, 1.0)], validation });
    }
    let texts = Prepare { replace: shards.replace, ..plan(config, &data.path) };
    let (dataset, validates) = shards.of(&texts, &shards.path, progress)?;
    let validation = match validates {
        true => shard_paths(&dataset, &dataset.info().val),
        false => validation_texts(config, dataset.tokenizer(), shards, progress)?,
    };
    Ok(Parts { datasets: vec![(dataset, 1.0)], validation })
}

/// One dataset for each path, all with one tokenizer. Texts for validation belong to all of them and not to each: they count
/// once, however many paths there are.
fn mixture(config: &Config, shards: &Shards, progress: &mut Report<'_>) -> Result<Parts> {
    let data = &config.data;
    let own_texts = !data.val_path.is_empty();
    let folder = |n: usize| shards.path.join(format!("part-{n}"));
    let part = |path: &String| {
        let mut part = plan(config, std::slice::from_ref(path));
        part.replace = shards.replace;
        if own_texts {
            (part.val_inputs, part.val_fraction) = (Vec::new(), 0.0);
        }
        part
    };
    // What is at hand: prepared before, or of texts that cannot be read again.
    let mut ready = Vec::new();
    for (n, path) in data.path.iter().enumerate() {
        ready.push(match Dataset::is_at(path) {
            true => Some(Dataset::open(path)?),
            false => shards.kept(&part(path), &folder(n), progress)?.map(|(dataset, _)| dataset),
        });
    }
    one_tokenizer(ready.iter().flatten())?;
    let texts = plan(config, &data.path);
    // Of texts for validation that are gone only the shards tell which tokenizer was made of them, too.
    let made = match shards.begins || texts.val_inputs.iter().all(Input::lasts) {
        true => None,
        false => (0..data.path.len()).find_map(|n| Dataset::open(folder(n)).ok()),
    };
    let tokenizer = match ready.iter().flatten().next().or(made.as_ref()) {
        Some(dataset) => dataset.tokenizer().clone(),
        None => texts.tokenizer(progress)?,
    };
    // First, because the parts may take hours: texts that are too short are refused before.
    let validation = match own_texts {
        true => validation_texts(config, &tokenizer, shards, progress)?,
        false => Vec::new(),
    };
    let mut parts = Parts { datasets: Vec::new(), validation };
    for (n, (path, ready)) in data.path.iter().zip(ready).enumerate() {
        let dataset = match ready {
            Some(dataset) => dataset,
            None => {
                let tokenizer = TokenizerSpec::Ready(tokenizer.clone());
                Prepare { tokenizer, ..part(path) }.run(folder(n), progress)?
            }
        };
        // Before corpora are compared: shards of nothing have no tokenizer.
        if dataset.info().train.tokens == 0 {
            return Err(data::Error::NothingToLearn { source_name: path.clone() }.into());
        }
        if !own_texts {
            parts.validation.extend(shard_paths(&dataset, &dataset.info().val));
        }
        parts.datasets.push((dataset, data.weights.get(n).copied().unwrap_or(1.0)));
    }
    Ok(parts)
}

/// Refuses datasets of different tokenizers, before anything is prepared beside them. Those without a token to learn from have
/// an error of their own.
fn one_tokenizer<'a>(datasets: impl Iterator<Item = &'a Dataset>) -> Result<()> {
    let mut datasets = datasets.filter(|dataset| dataset.info().train.tokens > 0);
    let Some(first) = datasets.next() else {
        return Ok(());
    };
    match datasets.find(|other| other.tokenizer().hash() != first.tokenizer().hash()) {
        None => Ok(()),
        Some(second) => Err(data::Error::TwoTokenizers {
            first: first.dir().into(),
            first_vocab: first.tokenizer().vocab_size(),
            second: second.dir().into(),
            second_vocab: second.tokenizer().vocab_size(),
        }
        .into()),
    }
}

/// Shards of the texts that `data.val_path` names, as a dataset of their own; [`Error::ShortValidation`] where they are too short.
fn validation_texts(
    config: &Config,
    tokenizer: &Tokenizer,
    shards: &Shards,
    progress: &mut Report<'_>,
) -> Result<Vec<PathBuf>> {
    let texts = Prepare {
        tokenizer: TokenizerSpec::Ready(tokenizer.clone()),
        val_inputs: Vec::new(),
        val_fraction: 0.0,
        ..plan(config, &config.data.val_path)
    };
    let (dataset, _) = shards.of(&texts, &shards.path.join("validation"), progress).map_err(|e| match e {
        // Those that the folder has cannot be named in their place.
        Error::Data(data::Error::Gone { source_name, .. }) => data::Error::Gone { source_name, dataset: None }.into(),
        other => other,
    })?;
    match dataset.info().train.tokens {
        tokens @ (0 | 1) => Err(short_validation(&config.data, tokens)),
        _ => Ok(shard_paths(&dataset, &dataset.info().train)),
    }
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

    /// What `open` refuses, in words, with its hint.
    fn refused(recipe: &Recipe, folder: &Path) -> String {
        let Err(error) = open(&recipe.resolve().unwrap(), &folder.join("run"), &mut |_| Ok(())) else {
            panic!("it was taken");
        };
        format!("{error}; hint: {}", error.hint().unwrap())
    }

    #[test]
    fn what_a_prepared_folder_contradicts_is_refused_or_recorded() {
        let (folder, mut recipe) = folder();
        let prepared = folder.path().join("prepared");
        let text = Input::named(&folder.path().join("a.txt").display().to_string());
        Prepare { tokenizer: TokenizerSpec::Bytes, ..Prepare::new([text]) }.run(&prepared, &mut |_| Ok(())).unwrap();
        recipe.set(&format!("data.path=['{}']", prepared.display())).unwrap();
        recipe.set("data.val_path=[]").unwrap();
        // The recipe's own characters are not the person's wish: the folder's tokenizer is written down.
        let mut resolved = recipe.resolve().unwrap();
        let mut data = open(&resolved, &folder.path().join("run"), &mut |_| Ok(())).unwrap();
        assert_eq!(data.tokenizer.vocab_size(), 256);
        resolved.take_tokenizer(data.prepared.take().unwrap());
        assert_eq!(resolved.config.tokenizer.kind, TokenizerKind::Bytes);
        assert_eq!(resolved.source("tokenizer.kind").to_string(), "prepared data");
        assert_eq!(resolved.source("tokenizer.path"), Source::Default);
        // A run that goes on with the recipe's characters is still the run that was begun with the folder's bytes.
        let again = recipe.resolve().unwrap();
        again.continues(&resolved).unwrap();

        for (set, own) in [
            ("tokenizer.kind=bpe", "the tokenizer \"bytes\""),
            ("data.val_fraction=0.3", "50 tokens to validate on and 450 to learn from"),
            ("data.val_fraction=0", "50 tokens to validate on and 450 to learn from"),
            ("data.field=body", "shards of its own"),
            ("data.shards=elsewhere", "shards of its own"),
        ] {
            let mut other = recipe.clone();
            other.set(set).unwrap();
            let said = refused(&other, folder.path());
            assert!(said.contains("(--set)") && said.contains(own) && said.contains("gently data prepare"), "{said}");
        }
        for same in ["tokenizer.kind=bytes", "data.val_fraction=0.1"] {
            recipe.set(same).unwrap();
            assert_eq!(tokens(&recipe, folder.path()), (450, 50));
        }
    }

    #[test]
    fn a_smaller_vocabulary_than_a_prepared_folder_learned_is_refused() {
        let (folder, mut recipe) = folder();
        let prepared = folder.path().join("prepared");
        let text = Input::named(&folder.path().join("b.txt").display().to_string());
        Prepare { tokenizer: TokenizerSpec::Bpe(262), ..Prepare::new([text]) }.run(&prepared, &mut |_| Ok(())).unwrap();
        for set in ["data.val_path=[]", "tokenizer.kind=bpe", "tokenizer.vocab=300"] {
            recipe.set(set).unwrap();
        }
        recipe.set(&format!("data.path=['{}']", prepared.display())).unwrap();
        tokens(&recipe, folder.path());
        recipe.set("tokenizer.vocab=260").unwrap();
        let said = refused(&recipe, folder.path());
        assert!(said.contains("a vocabulary of 262") && said.contains("gently data prepare"), "{said}");
    }

    #[test]
    fn prepared_folders_without_weights_are_one_corpus() {
        let (folder, mut recipe) = folder();
        let at = |name: &str| folder.path().join(name).display().to_string();
        for name in ["a", "b"] {
            let text = Prepare::new([Input::named(&at(&format!("{name}.txt")))]);
            text.run(at(name), &mut |_| Ok(())).unwrap();
        }
        recipe.set("data.val_path=[]").unwrap();
        for second in ["b.txt", "b"] {
            recipe.set(&format!("data.path=['{}', '{}']", at("a"), at(second))).unwrap();
            assert_eq!(tokens(&recipe, folder.path()), (1170, 130), "{second}");
        }
        recipe.set(&format!("data.val_path=['{}']", at("v.txt"))).unwrap();
        assert_eq!(tokens(&recipe, folder.path()), (1170, 70));
        let mut data = open(&recipe.resolve().unwrap(), &folder.path().join("run"), &mut |_| Ok(())).unwrap();
        data.train.next_batch().unwrap();
        assert_eq!(data.train.position()["taken"], serde_json::json!([2]));
        // Texts for validation cannot be shards.
        recipe.set(&format!("data.val_path=['{}']", at("b"))).unwrap();
        let said = refused(&recipe, folder.path());
        assert!(said.contains("b is a prepared dataset, not texts") && said.contains("data.val_path"), "{said}");
    }

    #[test]
    fn a_part_without_tokens_is_named() {
        let (folder, mut recipe) = folder();
        let empty = folder.path().join("one.txt");
        std::fs::write(&empty, "a").unwrap();
        let full = folder.path().join("a.txt");
        recipe.set(&format!("data.path=['{}', '{}']", full.display(), empty.display())).unwrap();
        recipe.set("data.val_path=[]").unwrap();
        recipe.set("data.weights=[1.0, 1.0]").unwrap();
        // All of the one character is kept for validation.
        let said = refused(&recipe, folder.path());
        assert!(said.contains("one.txt leaves no token to learn from"), "{said}");
    }

    /// Notes that the run of `folder` has a checkpoint, and the recipe.
    fn has_begun(recipe: &Recipe, folder: &Path) {
        is_configured(recipe, folder);
        Checkpoints::of_run(&folder.join("run")).save(1, &"any state", |_| Ok(())).unwrap();
    }

    /// Notes the recipe of the run of `folder`.
    fn is_configured(recipe: &Recipe, folder: &Path) {
        let config = recipe.resolve().unwrap().to_toml();
        std::fs::write(folder.join("run").join(recipe::CONFIG_FILE), config).unwrap();
    }

    #[test]
    fn a_run_that_goes_on_reads_the_shards_of_texts_that_are_gone() {
        for weights in ["data.weights=[]", "data.weights=[1.0, 3.0]"] {
            let (folder, mut recipe) = folder();
            recipe.set(weights).unwrap();
            assert_eq!(tokens(&recipe, folder.path()), (1300, 70));
            std::fs::remove_file(folder.path().join("a.txt")).unwrap();
            assert!(refused(&recipe, folder.path()).contains("a.txt"), "a run that begins needs it");
            has_begun(&recipe, folder.path());
            assert_eq!(tokens(&recipe, folder.path()), (1300, 70));
            std::fs::write(folder.path().join("v.txt"), "the sea. a the sea. a").unwrap();
            assert_eq!(tokens(&recipe, folder.path()), (1300, 21), "other texts to validate on");
            std::fs::remove_file(folder.path().join("v.txt")).unwrap();
            tokens(&recipe, folder.path());
            let mut other = recipe.clone();
            other.set(&format!("data.val_path=['{}']", folder.path().join("w.txt").display())).unwrap();
            let said = refused(&other, folder.path());
            assert!(said.contains("cannot read") && said.contains("w.txt"), "it never was: {said}");
            other.set(&format!("data.path=['{0}', '{0}']", folder.path().join("c.txt").display())).unwrap();
            let said = refused(&other, folder.path());
            assert!(said.contains("cannot read") && said.contains("c.txt"), "{said}");
            is_configured(&other, folder.path());
            let said = refused(&other, folder.path());
            assert!(said.contains("c.txt is not there any more; hint: ") && said.contains("--data"), "{said}");
        }
    }

    #[test]
    fn a_mixture_goes_on_without_its_texts_for_validation() {
        let (folder, mut recipe) = folder();
        recipe.set("data.weights=[1.0, 3.0]").unwrap();
        // With a character that no other text has.
        std::fs::write(folder.path().join("v.txt"), "the sea? a the sea. a").unwrap();
        assert_eq!(tokens(&recipe, folder.path()), (1300, 21));
        std::fs::remove_file(folder.path().join("v.txt")).unwrap();
        has_begun(&recipe, folder.path());
        assert_eq!(tokens(&recipe, folder.path()), (1300, 21));
    }

    #[test]
    fn a_misspelt_set_is_no_text_that_is_gone() {
        let (folder, mut recipe) = folder();
        tokens(&recipe, folder.path());
        has_begun(&recipe, folder.path());
        recipe.set("data.path=['tinyshakespear']").unwrap();
        let said = refused(&recipe, folder.path());
        assert!(said.contains("no public set") && said.ends_with("did you mean tinyshakespeare?"), "{said}");
    }

    #[test]
    fn a_file_that_was_never_prepared_names_the_tokens_that_are_there() {
        let (folder, mut recipe) = folder();
        tokens(&recipe, folder.path());
        has_begun(&recipe, folder.path());
        recipe.set("data.path=['elsewhere/a.txt']").unwrap();
        let said = refused(&recipe, folder.path());
        assert!(said.contains("cannot read elsewhere/a.txt"), "it is mistyped: {said}");
        is_configured(&recipe, folder.path());
        let said = refused(&recipe, folder.path());
        assert!(said.contains("elsewhere/a.txt is not there any more") && said.contains("--data"), "{said}");
        let shards = folder.path().join("run").join("data");
        assert!(said.ends_with(&format!("--data {}", shards.display())), "{said}");
        recipe.set(&format!("data.path=['{}']", shards.display())).unwrap();
        assert_eq!(tokens(&recipe, folder.path()), (1300, 70));
    }

    #[test]
    fn texts_that_are_too_short_to_validate_on_are_told() {
        let (folder, mut recipe) = folder();
        let short = folder.path().join("short.txt");
        std::fs::write(&short, "a").unwrap();
        recipe.set(&format!("data.val_path=['{}']", short.display())).unwrap();
        let said = refused(&recipe, folder.path());
        assert!(said.contains("short.txt: 1 tokens are too few"), "{said}");
        // The default of a tenth leaves one character of ten: the run goes on and says so. Asked for, it is an error.
        let text = folder.path().join("ten.txt");
        std::fs::write(&text, "abcdefghij").unwrap();
        recipe.set(&format!("data.path=['{}']", text.display())).unwrap();
        recipe.set("data.val_path=[]").unwrap();
        let data = open(&recipe.resolve().unwrap(), &folder.path().join("run"), &mut |_| Ok(())).unwrap();
        assert!(data.val.is_none());
        assert!(data.warnings.len() == 1 && data.warnings[0].contains("nothing is evaluated"), "{:?}", data.warnings);
        recipe.set("data.val_fraction=0.1").unwrap();
        assert!(refused(&recipe, folder.path()).contains("no token to evaluate on"));
        recipe.set("data.val_fraction=0").unwrap();
        let data = open(&recipe.resolve().unwrap(), &folder.path().join("run"), &mut |_| Ok(())).unwrap();
        assert!(data.val.is_none() && data.warnings.is_empty(), "{:?}", data.warnings);
    }

    #[test]
    fn a_mixture_prepares_nothing_beside_a_text_that_is_too_short_to_validate_on() {
        let (folder, mut recipe) = folder();
        recipe.set("data.weights=[1.0, 3.0]").unwrap();
        std::fs::write(folder.path().join("v.txt"), "a").unwrap();
        let said = refused(&recipe, folder.path());
        assert!(said.contains("v.txt: 1 tokens are too few"), "{said}");
        assert!(!folder.path().join("run/data/part-0").exists(), "it was prepared before");
    }

    #[test]
    fn prepared_folders_of_different_tokenizers_are_named() {
        let (folder, mut recipe) = folder();
        let at = |name: &str| folder.path().join(name).display().to_string();
        for (name, tokenizer) in [("a", TokenizerSpec::Characters), ("b", TokenizerSpec::Bytes)] {
            let text = Prepare { tokenizer, ..Prepare::new([Input::named(&at(&format!("{name}.txt")))]) };
            text.run(at(name), &mut |_| Ok(())).unwrap();
        }
        recipe.set("data.val_path=[]").unwrap();
        recipe.set(&format!("data.path=['{}', '{}', '{}']", at("a"), at("a.txt"), at("b"))).unwrap();
        for weights in ["data.weights=[]", "data.weights=[1.0, 1.0, 1.0]"] {
            recipe.set(weights).unwrap();
            let said = refused(&recipe, folder.path());
            let named = format!("{} and {} were prepared with different tokenizers", at("a"), at("b"));
            let hint = format!("--tokenizer-file {} ", at("a"));
            assert!(said.contains(&named) && said.contains("and 256 tokens") && said.contains(&hint), "{said}");
            assert!(!folder.path().join("run").exists(), "the text beside them was prepared before");
        }
    }

    #[test]
    fn a_vocabulary_that_the_text_does_not_fill_is_told() {
        let (folder, mut recipe) = folder();
        recipe.set("tokenizer.kind=bpe").unwrap();
        recipe.set("tokenizer.vocab=2000").unwrap();
        let data = open(&recipe.resolve().unwrap(), &folder.path().join("run"), &mut |_| Ok(())).unwrap();
        let entries = data.tokenizer.vocab_size();
        let expected = format!("the text gave only {entries} entries of the 2000 that tokenizer.vocab asks for");
        assert!(entries < 2000 && data.warnings == [expected], "{:?}", data.warnings);
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
