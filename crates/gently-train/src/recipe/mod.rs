//! Recipes: what a run is, as plain TOML, with the source of every value.
//!
//! Here: reading a recipe and `--set` assignments, rejecting unknown keys and values out of range with their place,
//! filling in defaults, writing the resolved `config.toml` and reading it back for a resumed run. Not here: what the
//! values do.
//!
//! ```
//! use gently_train::recipe::Recipe;
//!
//! let text = "[model]\nlayers = 2\nheads = 2\nwidth = 32\n[train]\nsteps = 10\n";
//! let mut recipe = Recipe::parse(text, "tiny.toml")?;
//! recipe.set("optimizer.lr=3e-4")?;
//! let resolved = recipe.resolve()?;
//! assert_eq!(resolved.config.model.layers, 2);
//! assert_eq!(resolved.source("train.steps").to_string(), "tiny.toml:6");
//! # Ok::<(), gently_train::Error>(())
//! ```

mod check;
mod resolved;
mod sections;
mod source;
mod values;

use std::path::Path;

use gently_models::config::DecoderConfig;
use serde_json::{Map, Value};

pub(crate) use check::{MOST_STEPS, Refused, check_optimizer};
pub use resolved::{CONFIG_FILE, Resolved};
pub use sections::{
    Checkpoint, ComputeKind, Config, Data, Decay, Documents, Eval, Moments, Optimizer, OptimizerKind, Sample,
    ScheduleKind, Spike, Tokenizer, TokenizerKind, Train,
};
pub use source::{ConfigLine, Source};
use values::Assignment;

use crate::{Error, Result};

/// The family of a recipe that names none.
const FAMILY: &str = "gpt2";

/// Keys of `[model]` that may stay unset and are then left out of the model's own list of keys.
const OPTIONAL_MODEL_KEYS: [&str; 14] = [
    "kv_heads",
    "head_width",
    "mlp_width",
    "rotary_width",
    "rope_factors",
    "rope_scale",
    "local_rope_theta",
    "out_bias",
    "logit_softcap",
    "attention_softcap",
    "attention_scale",
    "embed_scale",
    "window",
    "window_skip",
];

/// Assignments in the order in which they win: a later one wins over an earlier one.
#[derive(Debug, Clone, PartialEq)]
pub struct Recipe {
    name: String,
    assignments: Vec<Assignment>,
}

impl Recipe {
    /// A recipe with nothing in it but defaults.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), assignments: Vec::new() }
    }

    /// Reads a recipe file. The run is named after it.
    ///
    /// # Errors
    /// Unreadable or too large a file, TOML syntax, unknown keys (with a suggestion): each with file and line.
    pub fn load(path: &Path) -> Result<Self> {
        let text = values::read(path)?;
        let mut recipe = Self::parse(&text, &path.display().to_string())?;
        if let Some(stem) = path.file_stem() {
            recipe.name = stem.to_string_lossy().into_owned();
        }
        Ok(recipe)
    }

    /// Reads a recipe from text; `file` is the name that messages give it.
    ///
    /// # Errors
    /// As [`Recipe::load`], but for the file.
    pub fn parse(text: &str, file: &str) -> Result<Self> {
        Self::parse_as(text, file, false)
    }

    /// Reads the `config.toml` of a run folder with the sources it records.
    ///
    /// # Errors
    /// As [`Recipe::load`].
    pub fn reload(folder: &Path) -> Result<Self> {
        let path = folder.join(CONFIG_FILE);
        let (text, file) = (values::read(&path)?, path.display().to_string());
        // Each value's source is where it first came from. One of a wrong type is told with its place in this file.
        Self::parse_as(&text, &file, false)?.resolve_unchecked()?;
        let mut recipe = Self::parse_as(&text, &file, true)?;
        if let Some(name) = text.lines().next().and_then(resolved::name_in_header) {
            recipe.name = name.to_owned();
        }
        Ok(recipe)
    }

    fn parse_as(text: &str, file: &str, restore: bool) -> Result<Self> {
        let mut recipe = Self::new(file);
        for assignment in values::parse(text, file, restore)? {
            recipe.push(assignment)?;
        }
        Ok(recipe)
    }

    /// The run's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Takes one `section.key=value`, as `--set` gives it. A value that is not TOML is taken as text.
    ///
    /// # Errors
    /// No `=`, no key before it, or an unknown key.
    pub fn set(&mut self, assignment: &str) -> Result<()> {
        let (key, value) = assignment
            .split_once('=')
            .filter(|(key, _)| !key.trim().is_empty())
            .ok_or_else(|| Error::NotAnAssignment { text: assignment.into() })?;
        self.assign(key.trim(), values::parse_value(value.trim()), Source::Set)
    }

    /// Gives `key` a value from the source named.
    ///
    /// # Errors
    /// An unknown key.
    pub fn assign(&mut self, key: &str, value: impl Into<Value>, source: Source) -> Result<()> {
        self.push(Assignment { key: key.into(), value: value.into(), source })
    }

    fn push(&mut self, assignment: Assignment) -> Result<()> {
        let known = known_keys();
        if !known.contains(&assignment.key) {
            return Err(Error::UnknownKey {
                suggestion: nearest(&assignment.key, &known),
                keys: keys_of_section(&assignment.key, &known),
                place: assignment.source,
                key: assignment.key,
            });
        }
        self.assignments.push(assignment);
        Ok(())
    }

    /// Fills in defaults and checks types and ranges.
    ///
    /// # Errors
    /// The first value of a wrong type or out of range, or that changes nothing beside the others, with its place.
    pub fn resolve(&self) -> Result<Resolved> {
        let resolved = self.resolve_unchecked()?;
        check::ranges(&resolved)?;
        check::effects(&resolved, None)?;
        Ok(resolved)
    }

    /// As [`Recipe::resolve`], for a run that goes on: what it was begun with may be without effect, for a program of another
    /// version may have taken it.
    pub(crate) fn resolve_after(&self, saved: &Resolved) -> Result<Resolved> {
        let resolved = self.resolve_unchecked()?;
        check::ranges(&resolved)?;
        check::effects(&resolved, Some(saved))?;
        Ok(resolved)
    }

    /// Fills in defaults and checks types, but not ranges: for what a run was begun with. A program of another version may have
    /// had other ranges, and what the run goes on with is checked by itself.
    ///
    /// # Errors
    /// The first value of a wrong type, with its place.
    pub(crate) fn resolve_unchecked(&self) -> Result<Resolved> {
        let family = self.assignments.iter().rev().find(|a| a.key == "model.family");
        let (mut tree, family_name) = match family {
            Some(a) => (template(&a.value).map_err(|why| wrong(a, why))?, a.value.as_str().unwrap_or(FAMILY)),
            None => (template(&FAMILY.into()).unwrap_or_default(), FAMILY),
        };
        let mut sources = Vec::new();
        for (section, keys) in &tree {
            for key in keys.as_object().into_iter().flat_map(Map::keys) {
                let source = match section.as_str() {
                    "model" if key != "family" => Source::Family(family_name.to_owned()),
                    _ => Source::Default,
                };
                sources.push((format!("{section}.{key}"), source));
            }
        }
        // A family's grouping of heads belongs to its own number of heads.
        if self.assignments.iter().any(|a| a.key == "model.heads") {
            put(&mut tree, "model.kv_heads", Value::Null);
        }
        for assignment in &self.assignments {
            put(&mut tree, &assignment.key, assignment.value.clone());
            read_tree(&tree).map_err(|why| wrong(assignment, why))?;
            if let Some((_, source)) = sources.iter_mut().find(|(key, _)| *key == assignment.key) {
                *source = assignment.source.clone();
            }
        }
        let config = read_tree(&tree).map_err(|why| Error::Syntax { file: self.name.clone(), line: 1, why })?;
        let mut resolved = Resolved::new(self.name.clone(), config, sources);
        resolved.derive();
        Ok(resolved)
    }

    /// The recipe with which a run that is to be continued goes on: what its folder saved, then what this recipe's
    /// file says (unless `--set` said otherwise when the run began), then this recipe's `--set` assignments.
    pub fn over(&self, saved: &Recipe) -> Recipe {
        let mut merged = saved.clone();
        for assignment in &self.assignments {
            let was_set = saved.assignments.iter().any(|a| a.key == assignment.key && a.source == Source::Set);
            if assignment.source == Source::Set || !was_set {
                merged.assignments.push(assignment.clone());
            }
        }
        merged
    }
}

fn wrong(assignment: &Assignment, why: String) -> Error {
    Error::Value {
        key: assignment.key.clone(),
        value: values::toml_text(&assignment.value).unwrap_or_default(),
        place: assignment.source.clone(),
        why,
    }
}

/// Every section with its keys and defaults; unset ones are null.
fn template(family: &Value) -> Result<Map<String, Value>, String> {
    let keys = Map::from_iter([("family".to_owned(), family.clone())]);
    let model = DecoderConfig::from_keys(keys).map_err(|e| e.to_string())?;
    let config = Config { model, ..Config::default() };
    let Ok(Value::Object(mut tree)) = serde_json::to_value(&config) else {
        return Err("the defaults cannot be written as text".into());
    };
    if let Some(Value::Object(model)) = tree.get_mut("model") {
        for key in OPTIONAL_MODEL_KEYS {
            model.entry(key).or_insert(Value::Null);
        }
    }
    Ok(tree)
}

fn put(tree: &mut Map<String, Value>, key: &str, value: Value) {
    if let Some((section, key)) = key.split_once('.')
        && let Some(Value::Object(keys)) = tree.get_mut(section)
    {
        keys.insert(key.to_owned(), value);
    }
}

fn read_tree(tree: &Map<String, Value>) -> Result<Config, String> {
    let mut tree = tree.clone();
    if let Some(Value::Object(model)) = tree.get_mut("model") {
        model.retain(|_, value| !value.is_null());
        // A key that is absent falls back to the family's value; a grouping that was taken away must stay away.
        if !model.contains_key("kv_heads")
            && let Some(heads) = model.get("heads").cloned()
        {
            model.insert("kv_heads".into(), heads);
        }
    }
    serde_json::from_value(Value::Object(tree)).map_err(|e| {
        let text = e.to_string();
        in_words(text.strip_prefix("model configuration: ").unwrap_or(&text))
    })
}

/// What serde says of a value of a wrong type, without the names that numbers have in Rust.
fn in_words(text: &str) -> String {
    let names = [("usize", WHOLE), ("u64", WHOLE), ("u32", WHOLE), ("f64", "a number"), ("f32", "a number")];
    let told = names.iter().find_map(|(name, words)| {
        let start = text.strip_suffix(name)?;
        start.ends_with("expected ").then(|| format!("{start}{words}"))
    });
    told.unwrap_or_else(|| text.to_owned())
}

/// A count, in words.
const WHOLE: &str = "a whole number, 0 or more";

fn known_keys() -> Vec<String> {
    let tree = template(&FAMILY.into()).unwrap_or_default();
    tree.iter()
        .flat_map(|(section, keys)| {
            keys.as_object().into_iter().flat_map(Map::keys).map(move |key| format!("{section}.{key}"))
        })
        .collect()
}

/// The known key that `key` was most likely meant to be: near in spelling, or of the same last part.
fn nearest(key: &str, known: &[String]) -> Option<String> {
    // Comparing costs the product of the lengths, and nobody misspells at such length.
    if key.len() > 200 {
        return None;
    }
    let last = |key: &str| key.rsplit_once('.').map_or(key.to_owned(), |(_, k)| k.to_owned());
    let score = |candidate: &String| {
        let whole = strsim::jaro_winkler(key, candidate);
        let part = strsim::jaro_winkler(&last(key), &last(candidate));
        (whole + part) / 2.0
    };
    known
        .iter()
        .map(|candidate| (score(candidate), candidate))
        .filter(|(score, _)| *score > 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate.clone())
}

/// The keys of the section that `key` names, without its name.
fn keys_of_section(key: &str, known: &[String]) -> Vec<String> {
    let section = key.split_once('.').map_or("", |(section, _)| section);
    let rest = |key: &String| Some(key.strip_prefix(section)?.strip_prefix('.')?.to_owned());
    known.iter().filter_map(rest).collect()
}

#[cfg(test)]
mod tests;
