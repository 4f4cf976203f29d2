//! A model that writes text: a plan on an engine, and its tokenizer.
//!
//! Here: [`TextModel`], opened from what a path means (see [`crate::folder`]). Not here: what is written with it (see
//! [`crate::write`](mod@crate::write)).

use crate::folder::{Error, ModelFolder};
use gently_infer::{Elem, Engine, EngineOptions, Plan, PlanOptions};
use gently_text::{ChatTemplate, Tokenizer};
use std::path::{Path, PathBuf};

/// How a model is opened.
#[derive(Debug, Clone, PartialEq)]
pub struct OpenOptions {
    /// Choices of the plan. Keys and values are kept in half precision unless it says otherwise.
    pub plan: PlanOptions,
    /// Bounds of the engine.
    pub engine: EngineOptions,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self { plan: PlanOptions { cache: Elem::F16 }, engine: EngineOptions::default() }
    }
}

/// A model and its tokenizer, ready to write. Several texts may be written at once.
pub struct TextModel {
    path: PathBuf,
    engine: Engine,
    tokenizer: Tokenizer,
    ends: Vec<u32>,
}

impl TextModel {
    /// Opens the model that `path` means: a GGUF file, a run folder, a checkpoint, or a Hugging Face folder.
    ///
    /// # Errors
    /// As [`ModelFolder::open`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self, Error> {
        Self::open_with(path, OpenOptions::default())
    }

    /// As [`TextModel::open`], with other choices.
    ///
    /// # Errors
    /// As there.
    pub fn open_with(path: impl AsRef<Path>, options: OpenOptions) -> Result<Self, Error> {
        let ModelFolder { path, model, tokenizer } = ModelFolder::open(path)?;
        let plan = Plan::new(&model, options.plan)?;
        let ends = tokenizer.ends().to_vec();
        Ok(Self { path, engine: Engine::new(plan, options.engine), tokenizer, ends })
    }

    /// The plan alone of the model that `path` means.
    ///
    /// # Errors
    /// As [`TextModel::open`].
    pub fn plan(path: impl AsRef<Path>, options: PlanOptions) -> Result<Plan, Error> {
        Ok(Plan::new(&ModelFolder::open(path)?.model, options)?)
    }

    /// What was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The engine that runs it.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Its tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// The model's chat template; `None` where it has none.
    ///
    /// # Errors
    /// A template that cannot be read.
    pub fn chat_template(&self) -> Result<Option<ChatTemplate>, Error> {
        crate::folder::chat_template(&self.path)
    }

    /// Tokens that end a text.
    pub fn ends(&self) -> &[u32] {
        &self.ends
    }
}
