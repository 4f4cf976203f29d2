//! A model with its tokenizer, as a folder or a GGUF file on disk.
//!
//! Here: finding what a path means (a GGUF file, a Hugging Face folder, a checkpoint, or a run folder, of which the best or
//! the newest checkpoint is taken) and loading it. Not here: the formats themselves.

use crate::gguf;
use gently_formats::Limits;
use gently_formats::gguf::Gguf;
use gently_models::config::DecoderConfig;
use gently_models::{Decoder, WeightSource};
use gently_tensor::Device;
use gently_text::{ChatTemplate, Tokenizer};
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
    /// A model cannot guess what one of another vocabulary writes.
    #[error("{} cannot be the draft: its vocabulary is {theirs}, but the model's is {model}", .path.display())]
    DraftVocabulary {
        /// What was to guess.
        path: PathBuf,
        /// Size of its vocabulary.
        theirs: usize,
        /// Size of the model's vocabulary.
        model: usize,
    },
    /// From the model's files.
    #[error(transparent)]
    Model(#[from] gently_models::Error),
    /// From the tokenizer's files.
    #[error(transparent)]
    Text(#[from] gently_text::Error),
    /// From a file's own structure.
    #[error(transparent)]
    Format(#[from] gently_formats::Error),
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
            Error::Absent { .. } => {
                Some("give a GGUF file, a run folder, a checkpoint, or a Hugging Face model folder".into())
            }
            Error::NoModel { .. } => Some(
                "a run folder has its first checkpoint after checkpoint.every steps; \
                 a Hugging Face folder has config.json and model.safetensors"
                    .into(),
            ),
            Error::Vocabulary { .. } => Some("the tokenizer and the weights may come from different models".into()),
            Error::DraftVocabulary { .. } => {
                Some("a draft is a smaller model of the same family, with the same tokenizer".into())
            }
            Error::Format(e) => e.hint().map(str::to_owned),
            Error::Model(e) => e.hint(),
            Error::Text(e) => e.hint(),
            Error::Train(e) => e.hint(),
            Error::Infer(e) => e.hint(),
        }
    }
}

/// A loaded model, its tokenizer, and the folder or file they came from.
pub struct ModelFolder {
    /// The folder with `config.json`, or the GGUF file.
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
        let weights = WeightSource::open(&path)?;
        let tokenizer = match weights.gguf() {
            Some(file) => gguf::tokenizer(file)?,
            None => Tokenizer::load(&path)?,
        };
        let model = weights.decoder(&Device::Cpu)?;
        if tokenizer.vocab_size() > model.config().vocab {
            return Err(Error::Vocabulary { tokenizer: tokenizer.vocab_size(), model: model.config().vocab, path });
        }
        Ok(Self { path, model, tokenizer })
    }

    /// The model's chat template; `None` where it has none.
    ///
    /// # Errors
    /// A template that cannot be read.
    pub fn chat_template(&self) -> Result<Option<ChatTemplate>, Error> {
        chat_template(&self.path)
    }
}

/// The chat template of the folder or GGUF file that [`locate`] found; `None` where it has none.
///
/// # Errors
/// A template that cannot be read.
pub fn chat_template(path: &Path) -> Result<Option<ChatTemplate>, Error> {
    match path.is_file() {
        true => gguf::chat_template(&Gguf::open(path, &Limits::default())?),
        false => Ok(ChatTemplate::load(path)?),
    }
}

/// The folder with `config.json` that `path` means: itself, or the newest complete checkpoint of a run folder. A file means
/// itself.
///
/// # Errors
/// [`Error::Absent`], [`Error::NoModel`], or an unreadable folder.
pub fn locate(path: &Path) -> Result<PathBuf, Error> {
    if !path.exists() {
        return Err(Error::Absent { path: path.into() });
    }
    if path.is_file() || path.join("config.json").is_file() {
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
