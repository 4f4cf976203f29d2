//! A model that writes text: a plan on an engine, and its tokenizer.
//!
//! Here: [`TextModel`], opened from what a path means (see [`crate::folder`]). Not here: what is written with it (see
//! [`crate::write`](mod@crate::write)).

use crate::folder::{self, Error};
use crate::gguf;
use gently_infer::{Elem, Engine, EngineOptions, Grammars, Plan, PlanOptions};
use gently_models::WeightSource;
use gently_text::{ChatOptions, ChatTemplate, Message, TemplateText, TemplateTokens, Tokenizer};
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread;

/// How a model is opened.
#[derive(Debug, Clone, PartialEq)]
pub struct OpenOptions {
    /// Choices of the plan. Keys and values are kept in half precision unless it says otherwise.
    pub plan: PlanOptions,
    /// Bounds of the engine.
    pub engine: EngineOptions,
    /// A smaller model of the same vocabulary that guesses ahead: it changes the time, never the text.
    pub draft: Option<Draft>,
}

/// A model that guesses what another will write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Draft {
    /// A path that means a model, as in [`TextModel::open`].
    pub model: PathBuf,
    /// Most tokens guessed at a time.
    pub tokens: usize,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self { plan: PlanOptions { cache: Elem::F16 }, engine: EngineOptions::default(), draft: None }
    }
}

/// A model and its tokenizer, ready to write. Several texts may be written at once.
pub struct TextModel {
    path: PathBuf,
    engine: Engine,
    tokenizer: Tokenizer,
    /// Empty where it cannot be read: then it is read again, and told, where it is wanted.
    template: OnceLock<Option<ChatTemplate>>,
    /// Made when first wanted.
    grammars: Mutex<Option<Arc<Grammars>>>,
}

impl TextModel {
    /// Opens the model that `path` means: a GGUF file, a run folder, a checkpoint, or a Hugging Face
    /// folder. Quantized weights are computed with as they are stored.
    ///
    /// # Errors
    /// No model there; files that are damaged or do not fit each other.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, Error> {
        Self::open_with(path, OpenOptions::default())
    }

    /// As [`TextModel::open`], with other choices.
    ///
    /// # Errors
    /// As there, of the draft model too; [`Error::DraftVocabulary`] for one of another vocabulary, [`gently_infer::Error::Request`]
    /// for guesses of no tokens.
    pub fn open_with(path: impl AsRef<Path>, options: OpenOptions) -> Result<Self, Error> {
        let path = folder::locate(path.as_ref())?;
        let weights = WeightSource::open(&path)?;
        let (words, plan) = beside(|| words(&weights, &path), || Plan::of_files(&weights, options.plan.clone()));
        let (tokenizer, template) = words?;
        let (size, model) = (tokenizer.vocab_size(), weights.config().vocab);
        if size > model {
            return Err(Error::Vocabulary { tokenizer: size, model, path });
        }
        let plan = plan?;
        let engine = match options.draft {
            Some(draft) => {
                let guessing = Self::plan(&draft.model, options.plan)?;
                let theirs = guessing.config().vocab;
                if theirs != model {
                    return Err(Error::DraftVocabulary { path: draft.model, theirs, model });
                }
                Engine::with_draft(plan, guessing, draft.tokens, options.engine)?
            }
            None => Engine::new(plan, options.engine),
        };
        Ok(Self { path, engine, tokenizer, template, grammars: Mutex::default() })
    }

    /// The plan alone of the model that `path` means.
    ///
    /// # Errors
    /// As [`TextModel::open`].
    pub fn plan(path: impl AsRef<Path>, options: PlanOptions) -> Result<Plan, Error> {
        let weights = WeightSource::open(folder::locate(path.as_ref())?)?;
        Ok(Plan::of_files(&weights, options)?)
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

    /// Its chat template; `None` where it has none.
    ///
    /// # Errors
    /// A template that cannot be read. A model with such a one is opened all the same.
    pub fn chat_template(&self) -> Result<Option<&ChatTemplate>, Error> {
        if let Some(known) = self.template.get() {
            return Ok(known.as_ref());
        }
        let read = folder::chat_template(&self.path)?;
        Ok(self.template.get_or_init(|| read).as_ref())
    }

    /// Special tokens by the names that chat templates use: those of its own template, else what its tokenizer knows.
    ///
    /// # Errors
    /// A tokenizer that fails.
    pub fn template_tokens(&self) -> Result<TemplateTokens, gently_text::Error> {
        match self.template.get() {
            Some(Some(template)) => Ok(template.tokens().clone()),
            _ => self.tokenizer.template_tokens(),
        }
    }

    /// A conversation in tokens, up to where the answer begins, as `apply_chat_template` of `transformers` makes them: a template
    /// writes every special token that it wants, and none is put in front. What is written after them is an
    /// [answer](crate::write::WriteOptions::answer).
    ///
    /// # Errors
    /// A template that refuses the conversation, text outside the vocabulary.
    pub fn encode_chat(&self, template: &ChatTemplate, messages: &[Message]) -> Result<Vec<u32>, gently_text::Error> {
        self.tokenizer.encode_with_specials(&template.render(messages, &ChatOptions::default())?)
    }

    /// What makes grammars for its vocabulary.
    ///
    /// # Errors
    /// [`gently_infer::Error::Text`] and [`gently_infer::Error::Constraint`] for a tokenizer that constraints cannot be used
    /// with.
    pub fn grammars(&self) -> Result<Arc<Grammars>, gently_infer::Error> {
        let mut made = self.grammars.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(grammars) = &*made {
            return Ok(grammars.clone());
        }
        let grammars = Arc::new(Grammars::new(&self.tokenizer)?);
        Ok(made.insert(grammars).clone())
    }
}

/// A model's tokenizer, and its chat template where that can be read.
fn words(weights: &WeightSource, path: &Path) -> Result<(Tokenizer, OnceLock<Option<ChatTemplate>>), Error> {
    let (tokenizer, template) = match weights.gguf() {
        Some(file) => (
            gguf::tokenizer(file)?,
            gguf::chat_template(file).and_then(|text| Ok(text.map(TemplateText::template).transpose()?)),
        ),
        None => (Tokenizer::load(path)?, ChatTemplate::load(path).map_err(Error::from)),
    };
    Ok((tokenizer, template.map_or_else(|_| OnceLock::new(), OnceLock::from)))
}

/// Does two things at once. A vocabulary is read on one thread while weights are packed on the others: neither needs the other,
/// and a person waits for both.
fn beside<A: Send, B>(first: impl Fn() -> A + Send + Sync, second: impl FnOnce() -> B) -> (A, B) {
    thread::scope(|scope| match thread::Builder::new().spawn_scoped(scope, &first) {
        Ok(running) => {
            let second = second();
            (running.join().unwrap_or_else(|panic| resume_unwind(panic)), second)
        }
        // No thread to be had: one after the other.
        Err(_) => (first(), second()),
    })
}
