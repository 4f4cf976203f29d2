//! A model with its tokenizer, as a folder on disk.
//!
//! Here: finding the folder that a path means (a Hugging Face folder, a checkpoint, or a run folder, of which the best or
//! the newest checkpoint is taken) and loading it. Not here: the formats themselves.

use gently_models::Decoder;
use gently_models::config::DecoderConfig;
use gently_tensor::Device;
use gently_text::Tokenizer;
use gently_train::checkpoint::Checkpoints;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// Why a folder gives no model.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// The path does not exist.
    #[error("{} does not exist", .path.display())]
    Absent {
        /// The path given.
        path: PathBuf,
    },
    /// Nothing in it is a model.
    #[error("{} holds no model: there is no config.json and no complete checkpoint", .path.display())]
    NoModel {
        /// The path given.
        path: PathBuf,
    },
    /// The tokenizer has more tokens than the model.
    #[error("{}: the tokenizer has {tokenizer} tokens, but the model's vocabulary is {model}", .path.display())]
    Vocabulary {
        /// The folder.
        path: PathBuf,
        /// Size of the tokenizer's vocabulary.
        tokenizer: usize,
        /// Size of the model's vocabulary.
        model: usize,
    },
    /// From the model's files.
    #[error(transparent)]
    Model(#[from] gently_models::Error),
    /// From the tokenizer's files.
    #[error(transparent)]
    Text(#[from] gently_text::Error),
    /// From the checkpoints of a run folder.
    #[error(transparent)]
    Train(#[from] gently_train::Error),
    /// The model cannot be lowered to a plan.
    #[error(transparent)]
    Infer(#[from] gently_infer::Error),
}

impl Error {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Error::Absent { .. } => Some("give a run folder, a checkpoint, or a Hugging Face model folder".into()),
            Error::NoModel { .. } => Some(
                "a run folder has its first checkpoint after checkpoint.every steps; \
                 a Hugging Face folder has config.json and model.safetensors"
                    .into(),
            ),
            Error::Vocabulary { .. } => {
                Some("tokenizer.json and model.safetensors may come from different models".into())
            }
            Error::Model(e) => e.hint(),
            Error::Text(e) => e.hint(),
            Error::Train(e) => e.hint(),
            Error::Infer(e) => e.hint(),
        }
    }
}

/// A loaded model, its tokenizer, and the folder they came from.
pub struct ModelFolder {
    /// The folder with `config.json`.
    pub path: PathBuf,
    /// The model.
    pub model: Decoder,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
}

impl ModelFolder {
    /// Loads the model that `path` means: see [`locate`].
    ///
    /// # Errors
    /// No model there; files that are damaged or do not fit each other.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = locate(path.as_ref())?;
        let tokenizer = Tokenizer::load(&path)?;
        let model = Decoder::load_pretrained(&path, &Device::Cpu)?;
        if tokenizer.vocab_size() > model.config().vocab {
            return Err(Error::Vocabulary { tokenizer: tokenizer.vocab_size(), model: model.config().vocab, path });
        }
        Ok(Self { path, model, tokenizer })
    }
}

/// The folder with `config.json` that `path` means: itself, or the newest complete checkpoint of a run folder.
///
/// # Errors
/// [`Error::Absent`], [`Error::NoModel`], or an unreadable folder.
pub fn locate(path: &Path) -> Result<PathBuf, Error> {
    if !path.exists() {
        return Err(Error::Absent { path: path.into() });
    }
    if path.join("config.json").is_file() {
        return Ok(path.into());
    }
    match Checkpoints::of_run(path).latest()? {
        Some(checkpoint) => Ok(checkpoint),
        None => Err(Error::NoModel { path: path.into() }),
    }
}

/// The configuration of the model that `path` means, without its weights.
///
/// # Errors
/// As [`locate`], and a `config.json` that cannot be read.
pub fn configuration(path: &Path) -> Result<(PathBuf, DecoderConfig), Error> {
    let path = locate(path)?;
    let (_, config) = gently_models::pretrained::read_config(&path)?;
    Ok((path, config))
}
