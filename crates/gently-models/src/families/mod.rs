//! Published families: `config.json` keys, GGUF keys and tensor names, one file for each family.
//!
//! Here: the registry of families and the choice of a layout. Not here: reading and writing files (see
//! [`crate::weights`], [`crate::pretrained`]); what a block computes, which is configuration (see [`crate::config`]).
//!
//! A new family is one file with an [`Entry`], and its line in the registry.
//!
//! Our query, key and value projections are one matrix, and so are a gate and its up projection; a [`NameTable`] says which
//! rows of ours are which tensor of theirs, in which order, and whether theirs is transposed.
//!
//! ```
//! use gently_models::config::{DecoderConfig, Family};
//! use gently_models::families::Layout;
//! let layout = Layout::of(&DecoderConfig::preset(Family::Gpt2));
//! assert_eq!(layout, Layout::Gpt2);
//! ```

pub mod bert;
pub mod gemma;
pub mod gpt2;
mod keys;
pub mod llama;
pub mod native;
pub mod neox;
pub mod olmo2;
pub mod phi3;
pub mod qwen;
pub(crate) mod rope;
mod stacked;
mod table;

pub use keys::{GgufKeys, Keys};
pub use table::{Mapping, NameTable, Order, Rows};

use crate::config::{DecoderConfig, Family, Position};
use crate::error::{Error, Result};
use crate::params::Param;
use gently_formats::gguf::{Gguf, Value as Meta};
use serde_json::Value;
use std::path::Path;

/// A published way to lay out a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Layout {
    /// GPT-2 and its sizes.
    Gpt2,
    /// Llama 1 to 3, SmolLM2 and many others.
    Llama,
    /// Mistral: Llama with a window.
    Mistral,
    /// Qwen 2 and 2.5: Llama with biases on queries, keys and values.
    Qwen2,
    /// Qwen 3: Llama with normalised queries and keys.
    Qwen3,
    /// Gemma 1.
    Gemma,
    /// Gemma 2.
    Gemma2,
    /// Gemma 3, text.
    Gemma3,
    /// Phi-3 and Phi-4.
    Phi3,
    /// OLMo 2.
    Olmo2,
    /// GPT-NeoX and Pythia.
    NeoX,
    /// BERT encoders without their heads: MiniLM and other sentence embedders.
    Bert,
    /// Configurations that no published family covers, and models with mixers from elsewhere, under our own names.
    Native,
}

/// What there is to know about a family's files.
pub struct Entry {
    /// The layout it is.
    pub layout: Layout,
    /// `model_type` in `config.json`, the one that is written first.
    pub model_types: &'static [&'static str],
    /// `general.architecture` in GGUF, the one that is written first; none where it is not read from there.
    pub architectures: &'static [&'static str],
    /// Reads the keys of a `config.json`.
    pub from_json: fn(&Keys) -> Result<DecoderConfig>,
    /// The family's own keys of a `config.json` for a model that the layout holds.
    pub to_json: fn(&DecoderConfig) -> Value,
    /// Hugging Face names.
    pub names: fn(&DecoderConfig) -> NameTable,
    /// Reads the keys of a GGUF file.
    pub from_gguf: fn(&GgufKeys) -> Result<DecoderConfig>,
    /// What the family adds to the usual keys of a GGUF file, without the architecture in front.
    pub to_gguf: fn(&DecoderConfig) -> Vec<(&'static str, Meta)>,
    /// GGUF names.
    pub gguf_names: fn(&DecoderConfig) -> NameTable,
}

/// All published families; where several hold a configuration the first is written.
pub static FAMILIES: &[&Entry] = &[
    &gpt2::ENTRY,
    &llama::LLAMA,
    &llama::MISTRAL,
    &qwen::QWEN2,
    &qwen::QWEN3,
    &gemma::GEMMA,
    &gemma::GEMMA2,
    &gemma::GEMMA3,
    &phi3::ENTRY,
    &olmo2::ENTRY,
    &neox::ENTRY,
    &bert::ENTRY,
];

impl Entry {
    /// The family of a `config.json`'s `model_type`.
    pub fn of_model_type(model_type: &str) -> Option<&'static Self> {
        FAMILIES.iter().copied().find(|e| e.model_types.contains(&model_type))
    }

    /// The family of a GGUF file's `general.architecture`.
    pub fn of_architecture(architecture: &str) -> Option<&'static Self> {
        FAMILIES.iter().copied().find(|e| e.architectures.contains(&architecture))
    }

    /// The keys of a `config.json`: the family's own and those that all have.
    fn json(&self, cfg: &DecoderConfig) -> Value {
        let mut json = (self.to_json)(cfg);
        json["vocab_size"] = cfg.vocab.into();
        json["initializer_range"] = cfg.init_std.into();
        json["tie_word_embeddings"] = cfg.tied_head.into();
        // transformers would take its own defaults, such as 50256, which a small vocabulary does not have.
        for key in ["bos_token_id", "eos_token_id", "pad_token_id"] {
            json[key] = Value::Null;
        }
        json["dtype"] = "float32".into();
        json["torch_dtype"] = "float32".into();
        json
    }

    /// Whether the layout holds `cfg` exactly: its keys, read again, say the same.
    pub fn covers(&self, cfg: &DecoderConfig) -> bool {
        if self.layout == Layout::Gpt2 {
            return gpt2::covers(cfg);
        }
        let json = self.json(cfg);
        let read = Keys::new(&json, Path::new("")).and_then(|keys| (self.from_json)(&keys));
        read.is_ok_and(|mut read| {
            // The kind of stretching was found by its divisors, as far as single precision has them.
            if let (Some(said), Some(ours)) = (&read.rope_factors, &cfg.rope_factors)
                && near(said, ours)
            {
                read.rope_factors = cfg.rope_factors.clone();
            }
            canonical(&read) == canonical(cfg)
        })
    }
}

/// The same model with everything spelled out that may be left out, and without what training alone needs.
fn canonical(cfg: &DecoderConfig) -> DecoderConfig {
    DecoderConfig {
        family: Family::Gpt2,
        kv_heads: Some(cfg.kv_heads()),
        head_width: Some(cfg.head_width()),
        mlp_width: Some(cfg.mlp_width()),
        out_bias: Some(cfg.out_bias()),
        rotary_width: Some(cfg.rotary_width()),
        rope_factors: rope::stretching(cfg).map(<[f64]>::to_vec),
        rope_scale: rope::other_scale(cfg.rope_scale),
        attention_scale: Some(cfg.attention_scale()),
        dropout: 0.0,
        ..cfg.clone()
    }
}

/// The first key of `cfg` that `read`, the same model from a file for inference, has another value for: the key and both
/// values. Numbers may differ as far as single precision does.
pub(crate) fn difference(cfg: &DecoderConfig, read: &DecoderConfig) -> Option<[String; 3]> {
    let (cfg, mut read) = (canonical(cfg), canonical(read));
    // What training alone needs is in no such file, and what has no effect need not be.
    read.init_std = cfg.init_std;
    if cfg.position != Position::Rotary {
        read.rope_theta = cfg.rope_theta;
        read.rotary_width = cfg.rotary_width;
        read.rope_factors = cfg.rope_factors.clone();
        read.rope_scale = cfg.rope_scale;
        read.local_rope_theta = cfg.local_rope_theta;
    }
    if cfg.window.is_none() {
        read.window_skip = cfg.window_skip;
    }
    let (ours, theirs, absent) = (cfg.to_keys(), read.to_keys(), Value::Null);
    for key in ours.keys().chain(theirs.keys()) {
        let [a, b] = [&ours, &theirs].map(|keys| keys.get(key).unwrap_or(&absent));
        if !same(a, b) {
            return Some([key.clone(), a.to_string(), b.to_string()]);
        }
    }
    None
}

/// What llama.cpp does not take from the file of a model, and so computes otherwise.
pub(crate) fn ignored_in_gguf(cfg: &DecoderConfig, architecture: &str) -> Vec<String> {
    match (architecture, cfg.window) {
        ("gemma2" | "gemma3", _) => gemma::ignored(cfg, architecture),
        ("llama" | "phi3", Some(window)) if window < cfg.context => vec![format!("the window of {window} tokens")],
        _ => Vec::new(),
    }
}

/// Whether lists of numbers are the same as far as single precision has them.
fn near(a: &[f64], b: &[f64]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(x, y)| (x - y).abs() <= 1e-6 * x.abs().max(y.abs()))
}

/// Whether two values are the same, numbers in single precision.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (Value::Number(x), Value::Number(y)) if x.is_f64() || y.is_f64() => match (x.as_f64(), y.as_f64()) {
            (Some(x), Some(y)) => near(&[x], &[y]),
            _ => false,
        },
        _ => a == b,
    }
}

impl Layout {
    /// The published layout that holds `cfg` exactly, or [`Layout::Native`].
    pub fn of(cfg: &DecoderConfig) -> Self {
        FAMILIES.iter().find(|e| e.covers(cfg)).map_or(Self::Native, |e| e.layout)
    }

    /// The family's entry; none for [`Layout::Native`].
    pub fn entry(self) -> Option<&'static Entry> {
        FAMILIES.iter().copied().find(|e| e.layout == self)
    }

    /// The family whose form in GGUF holds a model of this one: mostly itself, of Mistral Llama, whose files may have a window.
    /// None for [`Layout::Native`].
    pub fn gguf_entry(self) -> Option<&'static Entry> {
        let layout = if self == Self::Mistral { Self::Llama } else { self };
        layout.entry().filter(|e| !e.architectures.is_empty())
    }

    /// The Hugging Face names for a model of `cfg` with these parameters.
    pub fn names(self, cfg: &DecoderConfig, params: &[Param]) -> NameTable {
        match self.entry() {
            Some(entry) => (entry.names)(cfg),
            None => native::names(params),
        }
    }

    /// The `config.json` for `cfg`. A `gently` entry says what the published keys cannot (a model without
    /// biases in GPT-2's layout, the preset it came from); other programs ignore it.
    pub fn to_json(self, cfg: &DecoderConfig) -> Value {
        let mut json = match self.entry() {
            Some(entry) => entry.json(cfg),
            None => Value::Object(native::to_json()),
        };
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
/// wrong, [`Error::OtherMixers`] for a model that the configuration does not say wholly, [`Error::Json`] for missing keys,
/// wrong types and impossible values.
pub fn read_config(json: &Value, path: &Path) -> Result<(Layout, DecoderConfig)> {
    let keys = Keys::new(json, path)?;
    let own = || match json.get("gently") {
        Some(Value::Object(own)) => DecoderConfig::from_keys(own.clone()).map_err(|error| match error {
            Error::ConfigText { message } => {
                Error::Json { path: path.to_owned(), message: format!("the \"gently\" entry: {message}") }
            }
            other => other,
        }),
        _ => Err(Error::Json { path: path.to_owned(), message: "no \"gently\" entry".into() }),
    };
    let model_type = keys.text("model_type")?;
    let (layout, cfg) = match Entry::of_model_type(model_type) {
        None if native::has_other_mixers(json) => return Err(Error::OtherMixers { path: path.to_owned() }),
        None if native::is_native(json) => (Layout::Native, own()?),
        None => return Err(Error::UnknownModelType { path: path.to_owned(), model_type: model_type.to_owned() }),
        Some(entry) => {
            let published = (entry.from_json)(&keys)?;
            let cfg = match own() {
                Ok(cfg) if entry.covers(&cfg) => {
                    let same = entry.layout.to_json(&cfg);
                    if (entry.from_json)(&Keys::new(&same, path)?)? == published { cfg } else { published }
                }
                _ => published,
            };
            (entry.layout, cfg)
        }
    };
    cfg.validate().map_err(|error| keys.impossible(error))?;
    Ok((layout, cfg))
}

/// Reads the keys of a GGUF file: its family and what the model is.
///
/// # Errors
/// [`Error::UnknownModelType`], [`Error::Format`] for keys missing, of the wrong type or of an impossible value,
/// [`Error::Json`] for impossible values that follow from several, [`Error::UnsupportedOption`].
pub fn read_gguf_config(file: &Gguf) -> Result<(&'static Entry, DecoderConfig)> {
    let architecture = file.metadata().text("general.architecture")?;
    let Some(entry) = Entry::of_architecture(architecture) else {
        return Err(Error::UnknownModelType { path: file.path().into(), model_type: architecture.into() });
    };
    let keys = GgufKeys::new(file, architecture);
    let cfg = (entry.from_gguf)(&keys)?;
    cfg.validate().map_err(|error| keys.impossible(error))?;
    Ok((entry, cfg))
}
