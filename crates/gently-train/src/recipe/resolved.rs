//! A configuration with all values known, and its `config.toml`.

use std::fmt::Write as _;

use serde_json::{Map, Value};

use super::values::toml_text;
use super::{Config, ConfigLine, Documents, OPTIONAL_MODEL_KEYS, ScheduleKind, Source, Tokenizer};
use crate::{Error, Result};

/// Name of the resolved configuration in a run folder.
pub const CONFIG_FILE: &str = "config.toml";

const HEADER: &str = "# Resolved configuration of the run ";

/// All values of a run, each with its source.
#[derive(Debug, Clone, PartialEq)]
pub struct Resolved {
    /// The run's name.
    pub name: String,
    /// The values.
    pub config: Config,
    sources: Vec<(String, Source)>,
}

/// Keys whose change would make a continued run another run.
const FROZEN: [&str; 11] = [
    "train.batch",
    "train.block",
    "train.accumulate",
    "train.micro_batch",
    "train.seed",
    "optimizer.kind",
    "data.val_fraction",
    "data.documents",
    "data.shuffle",
    "data.weights",
    "data.field",
];

impl Resolved {
    pub(super) fn new(name: String, config: Config, sources: Vec<(String, Source)>) -> Self {
        Self { name, config, sources }
    }

    /// Where the value of `key` came from.
    pub fn source(&self, key: &str) -> Source {
        self.sources.iter().find(|(known, _)| known == key).map_or(Source::Default, |(_, source)| source.clone())
    }

    /// Notes that `key` was worked out, and how.
    pub(crate) fn set_derived(&mut self, key: &str, how: impl Into<String>) {
        self.set_source(key, Source::Derived(how.into()));
    }

    fn set_source(&mut self, key: &str, from: Source) {
        if let Some((_, source)) = self.sources.iter_mut().find(|(known, _)| known == key) {
            *source = from;
        }
    }

    /// Fills in the values that depend on others.
    pub(super) fn derive(&mut self) {
        if !self.source("model.context").is_given() {
            self.config.model.context = self.config.train.block;
            self.set_derived("model.context", "train.block");
        }
        // A saved run's file has what was worked out when it began. Worked out anew, it follows what has changed since.
        let decays = self.config.optimizer.schedule != ScheduleKind::Constant;
        if !self.source("optimizer.min_lr").is_given() {
            // One rounding of the product is enough; lr / 10 keeps 1e-3 -> 1e-4 exact.
            self.config.optimizer.min_lr = decays.then_some(self.config.optimizer.lr / 10.0);
            self.set_source("optimizer.min_lr", derived_if(decays, "optimizer.lr / 10"));
        }
        if !self.source("optimizer.decay_steps").is_given() {
            self.config.optimizer.decay_steps = decays.then_some(self.config.train.steps);
            self.set_source("optimizer.decay_steps", derived_if(decays, "train.steps"));
        }
    }

    /// Takes the tokenizer's vocabulary as the model's, unless a person gave one.
    ///
    /// # Errors
    /// The model's vocabulary, given by a person, is smaller than the tokenizer's.
    pub(crate) fn fit_vocabulary(&mut self, tokenizer: usize) -> Result<()> {
        let given = self.source("model.vocab").is_given();
        if given && self.config.model.vocab < tokenizer {
            return Err(
                self.out_of_range("model.vocab", &format!("is smaller than the tokenizer's vocabulary of {tokenizer}"))
            );
        }
        if !given {
            self.config.model.vocab = tokenizer;
            self.set_derived("model.vocab", "tokenizer");
        }
        Ok(())
    }

    /// Takes the tokenizer of data that was prepared before in place of what the recipe says: the run has no other.
    pub(crate) fn take_tokenizer(&mut self, prepared: Tokenizer) {
        let now = &mut self.config.tokenizer;
        let changed = [("tokenizer.kind", now.kind != prepared.kind), ("tokenizer.path", now.path != prepared.path)];
        (now.kind, now.path) = (prepared.kind, prepared.path);
        for (key, _) in changed.into_iter().filter(|(_, changed)| *changed) {
            self.set_derived(key, "prepared data");
        }
    }

    /// The error of a value that a prepared folder contradicts; `own` says what the folder has.
    pub(crate) fn against_prepared(&self, key: &str, folder: &str, own: String) -> Error {
        let value = lookup(&self.tree(), key).and_then(toml_text).unwrap_or_default();
        let setting = format!("{key} = {value} ({})", self.source(key));
        Error::OtherPrepared { setting, folder: folder.into(), own }
    }

    /// Whether `key` has the same value in both.
    pub(super) fn has_same(&self, other: &Self, key: &str) -> bool {
        lookup(&self.tree(), key) == lookup(&other.tree(), key)
    }

    /// Every value as a line, in the order of the sections.
    pub fn lines(&self) -> Vec<ConfigLine> {
        let tree = self.tree();
        self.sources
            .iter()
            .map(|(key, source)| ConfigLine {
                key: key.clone(),
                value: lookup(&tree, key).and_then(toml_text).unwrap_or_default(),
                source: source.clone(),
            })
            .collect()
    }

    /// The text of `config.toml`: every value, followed by where it came from.
    pub fn to_toml(&self) -> String {
        let mut text = format!("{HEADER}{}\n", self.name.replace(['\n', '\r'], " "));
        let mut section = "";
        let lines = self.lines();
        for line in &lines {
            let Some((name, key)) = line.key.split_once('.') else {
                continue;
            };
            if name != section {
                section = name;
                let _ = write!(text, "\n[{section}]\n");
            }
            let assignment =
                if line.value.is_empty() { format!("# {key} is unset") } else { format!("{key} = {}", line.value) };
            let source = line.source.to_string().replace(['\n', '\r'], " ");
            let _ = writeln!(text, "{assignment:<32} # {source}");
        }
        text
    }

    /// Refuses to continue `saved` with a configuration that makes it another run.
    ///
    /// # Errors
    /// [`Error::ConfigMismatch`] naming the first key that differs.
    pub(crate) fn continues(&self, saved: &Resolved) -> Result<()> {
        let (now, was) = (self.tree(), saved.tree());
        // Packed documents are always drawn at random: what was said of their order never counted.
        let packs = [self, saved].iter().all(|r| r.config.data.documents == Documents::Pack);
        // What a person gave first: what is worked out from it differs as well, and nobody knows it by that name.
        let given = |of: bool| self.sources.iter().filter(move |(_, source)| source.is_given() == of);
        for (key, _) in given(true).chain(given(false)) {
            if packs && key == "data.shuffle" {
                continue;
            }
            // What the prepared data said, it says again; only a wish for something else is refused.
            let told = matches!(saved.source(key), Source::Derived(_)) && self.source(key) != Source::Set;
            if told && key.starts_with("tokenizer.") {
                continue;
            }
            let frozen = key.starts_with("model.") || key.starts_with("tokenizer.") || FROZEN.contains(&key.as_str());
            let text = |tree| lookup(tree, key).and_then(toml_text);
            // The vocabulary of the saved run is settled only once its tokenizer is read; that check comes there.
            if frozen && key != "model.vocab" && text(&now) != text(&was) {
                return Err(Error::ConfigMismatch {
                    key: key.clone(),
                    saved: text(&was).unwrap_or_else(|| "it unset".into()),
                    now: text(&now).unwrap_or_else(|| "unset".into()),
                    place: self.source(key),
                });
            }
        }
        Ok(())
    }

    /// Refuses a vocabulary that is not the one that `saved` was begun with.
    ///
    /// # Errors
    /// [`Error::ConfigMismatch`] with both sizes.
    pub(crate) fn keeps_vocabulary(&self, saved: &Resolved) -> Result<()> {
        let (now, was) = (self.config.model.vocab, saved.config.model.vocab);
        if now == was {
            return Ok(());
        }
        Err(Error::ConfigMismatch {
            key: "model.vocab".into(),
            saved: was.to_string(),
            now: now.to_string(),
            place: self.source("model.vocab"),
        })
    }

    /// The error of a value that breaks the rule `why`.
    pub(super) fn out_of_range(&self, key: &str, why: &str) -> Error {
        self.worked_out_of_range(key, String::new(), why)
    }

    /// The same of a key that may be unset, so that others give the `usual` value.
    pub(super) fn worked_out_of_range(&self, key: &str, usual: String, why: &str) -> Error {
        let given = lookup(&self.tree(), key).and_then(toml_text);
        let place = match (&given, key) {
            (Some(_), _) => self.source(key),
            (None, "model.head_width") => Source::Derived("model.width / model.heads".into()),
            (None, _) => Source::Derived("from other keys".into()),
        };
        Error::Value { key: key.into(), value: given.unwrap_or(usual), place, why: why.into() }
    }

    fn tree(&self) -> Value {
        let mut tree = serde_json::to_value(&self.config).unwrap_or_default();
        if let Some(Value::Object(model)) = tree.get_mut("model") {
            for key in OPTIONAL_MODEL_KEYS {
                model.entry(key).or_insert(Value::Null);
            }
        }
        tree
    }
}

fn derived_if(worked_out: bool, how: &str) -> Source {
    if worked_out { Source::Derived(how.into()) } else { Source::Default }
}

fn lookup<'a>(tree: &'a Value, key: &str) -> Option<&'a Value> {
    let (section, key) = key.split_once('.')?;
    tree.get(section)?.as_object().and_then(|m: &Map<_, _>| m.get(key))
}

pub(super) fn name_in_header(line: &str) -> Option<&str> {
    line.strip_prefix(HEADER).map(str::trim)
}
