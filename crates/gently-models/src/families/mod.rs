//! Published layouts of a model folder: `config.json` keys and tensor names, one file for each family.
//!
//! Here: the choice of a layout and the table that joins our tensors to published ones. Not here: reading and
//! writing files (see [`crate::pretrained`]).
//!
//! Our query, key and value projections are one matrix, and so are SwiGLU's gate and up projections; the table
//! says which rows of ours are which tensor of theirs, and whether theirs is transposed.
//!
//! ```
//! use gently_models::config::{DecoderConfig, Family};
//! use gently_models::families::Layout;
//! let layout = Layout::of(&DecoderConfig::preset(Family::Gpt2));
//! assert_eq!(layout, Layout::Gpt2);
//! ```

pub mod gpt2;
pub mod llama;
pub mod native;

use crate::config::DecoderConfig;
use crate::error::{Error, Result};
use crate::params::Param;
use serde_json::{Map, Value};
use std::path::Path;

/// A published way to lay out a model folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// `model_type` "gpt2".
    Gpt2,
    /// `model_type` "llama".
    Llama,
    /// `model_type` "gently": configurations that no published family covers, under our own names.
    Native,
}

/// Where the rows of one of our parameters lie in published tensors.
#[derive(Debug, Clone, PartialEq)]
pub struct Rows {
    /// The published name.
    pub name: String,
    /// How many rows of ours it holds (for a vector: elements).
    pub rows: usize,
    /// Whether it is stored `[in, out]` (GPT-2's Conv1D); ours are `[out, in]`.
    pub transposed: bool,
}

/// One of our parameters and the published tensors that make it up, in order of rows.
#[derive(Debug, Clone, PartialEq)]
pub struct Mapping {
    /// Our name.
    pub ours: String,
    /// The published tensors.
    pub theirs: Vec<Rows>,
}

/// The whole table of a layout.
#[derive(Debug, Clone, Default)]
pub struct NameTable {
    /// Our parameters.
    pub mappings: Vec<Mapping>,
    /// Published biases that our configuration leaves out: written as zeros, must be zeros when read.
    pub zeros: Vec<(String, usize)>,
    /// Prefix that a file may leave off every name ("transformer.").
    pub optional_prefix: Option<&'static str>,
    /// Ends of names that hold no weights (masks, tables): skipped when read.
    pub skipped: &'static [&'static str],
}

impl NameTable {
    /// Joins our parameter to one published tensor of the same layout.
    pub(crate) fn same(&mut self, ours: impl Into<String>, theirs: impl Into<String>, rows: usize) {
        self.rows(ours, vec![(theirs.into(), rows)], false);
    }

    /// Joins our parameter to published tensors stacked by rows.
    pub(crate) fn rows(&mut self, ours: impl Into<String>, theirs: Vec<(String, usize)>, transposed: bool) {
        let theirs = theirs.into_iter().map(|(name, rows)| Rows { name, rows, transposed }).collect();
        self.mappings.push(Mapping { ours: ours.into(), theirs });
    }
}

impl Layout {
    /// The published layout that holds `cfg` exactly, or [`Layout::Native`].
    pub fn of(cfg: &DecoderConfig) -> Self {
        if gpt2::covers(cfg) {
            Self::Gpt2
        } else if llama::covers(cfg) {
            Self::Llama
        } else {
            Self::Native
        }
    }

    /// The name table for a model of `cfg` with these parameters.
    pub fn names(self, cfg: &DecoderConfig, params: &[Param]) -> NameTable {
        match self {
            Self::Gpt2 => gpt2::names(cfg),
            Self::Llama => llama::names(cfg),
            Self::Native => native::names(params),
        }
    }

    /// The `config.json` for `cfg`. A `gently` entry says what the published keys cannot (a model without
    /// biases in GPT-2's layout, the preset it came from); other programs ignore it.
    pub fn to_json(self, cfg: &DecoderConfig) -> Value {
        let mut json = match self {
            Self::Gpt2 => gpt2::to_json(cfg),
            Self::Llama => llama::to_json(cfg),
            Self::Native => Value::Object(native::to_json()),
        };
        if self != Self::Native {
            json["vocab_size"] = cfg.vocab.into();
            json["initializer_range"] = cfg.init_std.into();
            json["tie_word_embeddings"] = cfg.tied_head.into();
            // transformers would take its own defaults, such as 50256, which a small vocabulary does not have.
            json["bos_token_id"] = Value::Null;
            json["eos_token_id"] = Value::Null;
            json["dtype"] = "float32".into();
            json["torch_dtype"] = "float32".into();
        }
        json["gently"] = Value::Object(cfg.to_keys());
        json
    }
}

/// Reads a `config.json`: which layout the folder has and what the model is. `path` is for messages only.
///
/// The published keys are the truth. The `gently` entry counts only while it says the same as they do, so that
/// a file edited or fine-tuned elsewhere is read as it stands.
///
/// # Errors
/// [`Error::UnknownModelType`], [`Error::UnsupportedOption`] for a published option that would be silently
/// wrong, [`Error::Json`] for missing keys and wrong types, [`Error::Config`] for impossible sizes.
pub fn read_config(json: &Value, path: &Path) -> Result<(Layout, DecoderConfig)> {
    let keys = Keys::new(json, path)?;
    let layout = match keys.text("model_type")? {
        "gpt2" => Layout::Gpt2,
        "llama" => Layout::Llama,
        "gently" => Layout::Native,
        other => return Err(Error::UnknownModelType { path: path.to_owned(), model_type: other.to_owned() }),
    };
    let own = || match json.get("gently") {
        Some(Value::Object(own)) => DecoderConfig::from_keys(own.clone()),
        _ => Err(Error::Json { path: path.to_owned(), message: "no \"gently\" entry".into() }),
    };
    let cfg = match layout {
        Layout::Native => own()?,
        Layout::Gpt2 | Layout::Llama => {
            let read = |k: &Keys| if layout == Layout::Gpt2 { gpt2::from_json(k) } else { llama::from_json(k) };
            let published = read(&keys)?;
            match own() {
                Ok(cfg) if Layout::of(&cfg) == layout => {
                    let same = layout.to_json(&cfg);
                    if read(&Keys::new(&same, path)?)? == published { cfg } else { published }
                }
                _ => published,
            }
        }
    };
    cfg.validate()?;
    Ok((layout, cfg))
}

/// Typed access to the keys of a `config.json`, with errors that name file and key.
pub struct Keys<'a> {
    map: &'a Map<String, Value>,
    path: &'a Path,
}

impl<'a> Keys<'a> {
    pub(crate) fn new(json: &'a Value, path: &'a Path) -> Result<Self> {
        match json {
            Value::Object(map) => Ok(Self { map, path }),
            _ => Err(Error::Json { path: path.to_owned(), message: "not a JSON object".into() }),
        }
    }

    /// The value, unless absent or null.
    pub(crate) fn value(&self, key: &str) -> Option<&'a Value> {
        self.map.get(key).filter(|v| !v.is_null())
    }

    fn get<T>(&self, key: &str, what: &str, read: impl Fn(&'a Value) -> Option<T>) -> Result<Option<T>> {
        let Some(value) = self.value(key) else { return Ok(None) };
        match read(value) {
            Some(v) => Ok(Some(v)),
            None => Err(Error::Json { path: self.path.to_owned(), message: format!("{key} = {value} is not {what}") }),
        }
    }

    fn need<T>(&self, key: &str, found: Option<T>) -> Result<T> {
        found.ok_or_else(|| Error::Json { path: self.path.to_owned(), message: format!("{key} is missing") })
    }

    pub(crate) fn text(&self, key: &str) -> Result<&'a str> {
        self.need(key, self.get(key, "a string", |v| v.as_str())?)
    }

    pub(crate) fn text_or<'t>(&self, key: &str, default: &'t str) -> Result<&'t str>
    where
        'a: 't,
    {
        Ok(self.get(key, "a string", |v| v.as_str())?.unwrap_or(default))
    }

    pub(crate) fn size(&self, key: &str) -> Result<usize> {
        self.need(key, self.size_if(key)?)
    }

    pub(crate) fn size_if(&self, key: &str) -> Result<Option<usize>> {
        self.get(key, "a whole number", |v| v.as_u64().and_then(|n| usize::try_from(n).ok()))
    }

    pub(crate) fn real_or(&self, key: &str, default: f64) -> Result<f64> {
        Ok(self.get(key, "a number", |v| v.as_f64())?.unwrap_or(default))
    }

    pub(crate) fn flag_or(&self, key: &str, default: bool) -> Result<bool> {
        Ok(self.get(key, "true or false", |v| v.as_bool())?.unwrap_or(default))
    }

    /// An inner object, if present.
    pub(crate) fn object(&self, key: &str) -> Result<Option<Keys<'a>>> {
        Ok(self.get(key, "an object", |v| v.as_object())?.map(|map| Keys { map, path: self.path }))
    }

    /// The error for a published option that is not implemented.
    pub(crate) fn unsupported(&self, key: &'static str) -> Error {
        let value = self.map.get(key).map_or_else(|| "absent".into(), Value::to_string);
        Error::UnsupportedOption { path: self.path.to_owned(), key, value }
    }
}
