//! Options of the commands that run a model.

use anyhow::Result;
use clap::{Args, ValueEnum};
use gently::text_model::{Draft, OpenOptions, TextModel};
use gently_infer::{Elem, EngineOptions, Lookup, PlanOptions};
use std::path::{Path, PathBuf};

/// How a model is read, by the commands that write nothing.
#[derive(Args, Clone)]
pub struct Reading {
    /// Compute threads (default: all for prompts, and as many as are fastest for the rest)
    #[arg(long, value_parser = super::train::thread_count)]
    threads: Option<usize>,
    /// What keys and values are kept as
    #[arg(long, value_enum, default_value_t = Cache::F16)]
    cache: Cache,
}

/// How a model is run, by the commands that write.
#[derive(Args, Clone)]
pub struct Options {
    #[command(flatten)]
    reading: Reading,
    /// Do not guess from the text itself: the text is the same, tokens come one by one
    #[arg(long)]
    no_lookup: bool,
}

/// Speculation by a second model that guesses, for commands that write for one person.
#[derive(Args, Clone)]
pub struct Speculation {
    /// Let this smaller model of the same vocabulary guess ahead: the text is the same
    #[arg(long, value_name = "MODEL")]
    draft: Option<PathBuf>,
    /// With --draft: most tokens guessed at a time
    #[arg(long, value_name = "N", default_value_t = 4, requires = "draft", value_parser = clap::value_parser!(u8).range(1..=64))]
    draft_tokens: u8,
}

impl Speculation {
    /// The model that guesses.
    pub fn model(&self) -> Option<&Path> {
        self.draft.as_deref()
    }

    fn draft(self) -> Option<Draft> {
        let tokens = usize::from(self.draft_tokens);
        self.draft.map(|model| Draft { model, tokens })
    }
}

/// Types of the key/value cache.
#[derive(Clone, Copy, ValueEnum)]
pub enum Cache {
    /// 4 bytes a number
    F32,
    /// 2 bytes a number
    F16,
    /// 1 byte a number, with a scale for each head of each token
    Int8,
}

impl Cache {
    /// As the plan has it.
    pub fn elem(self) -> Elem {
        match self {
            Cache::F32 => Elem::F32,
            Cache::F16 => Elem::F16,
            Cache::Int8 => Elem::I8,
        }
    }
}

impl Options {
    /// Opens a model for one person: up to `batch` texts at a time, mostly one, of any length the model has room for. A second
    /// model may guess.
    pub fn open_speculating(&self, path: &Path, speculation: Speculation, batch: usize) -> Result<TextModel> {
        self.reading.open_by(path, OpenOptions { draft: speculation.draft(), ..self.opening(batch) })
    }

    /// Opens a model for up to `batch` texts at a time.
    pub fn open_for(&self, path: &Path, batch: usize) -> Result<TextModel> {
        self.reading.open_by(path, self.opening(batch))
    }

    fn opening(&self, batch: usize) -> OpenOptions {
        self.reading.opening(batch, (!self.no_lookup).then(Lookup::default))
    }
}

impl Reading {
    /// Opens a model of which the plan alone is used.
    pub fn open(&self, path: &Path) -> Result<TextModel> {
        self.open_by(path, self.opening(1, None))
    }

    fn open_by(&self, path: &Path, options: OpenOptions) -> Result<TextModel> {
        // For the engine it is one of its options; what runs the plan itself (scores, searches) takes the pool's.
        if let Some(threads) = self.threads {
            gently_kernels::pool::set_threads(threads);
        }
        Ok(TextModel::open_with(path, options)?)
    }

    fn opening(&self, batch: usize, lookup: Option<Lookup>) -> OpenOptions {
        let usual = EngineOptions::default();
        // As many as are written at once may all come before the first is begun.
        let queue = usual.queue.max(batch);
        let engine = EngineOptions { batch, queue, cache_bytes: usize::MAX, threads: self.threads, lookup, ..usual };
        OpenOptions { plan: PlanOptions { cache: self.cache.elem() }, engine, draft: None }
    }
}
