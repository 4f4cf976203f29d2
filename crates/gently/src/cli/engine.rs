//! Options of the commands that run a model.

use anyhow::Result;
use clap::{Args, ValueEnum};
use gently::text_model::{OpenOptions, TextModel};
use gently_infer::{Elem, EngineOptions, Lookup, PlanOptions};
use std::path::Path;

/// How a model is run.
#[derive(Args, Clone)]
pub struct Options {
    /// Compute threads (default: all for prompts, and as many as are fastest for the rest)
    #[arg(long, value_parser = super::train::thread_count)]
    pub threads: Option<usize>,
    /// What keys and values are kept as
    #[arg(long, value_enum, default_value_t = Cache::F16)]
    pub cache: Cache,
    /// Do not guess from the text itself: the text is the same, tokens come one by one
    #[arg(long)]
    pub no_lookup: bool,
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
    /// Opens a model for one person: one text at a time, of any length the model has room for.
    pub fn open(&self, path: &Path) -> Result<TextModel> {
        self.open_for(path, 1)
    }

    /// Opens a model for up to `batch` texts at a time.
    pub fn open_for(&self, path: &Path, batch: usize) -> Result<TextModel> {
        let engine = EngineOptions {
            batch,
            cache_bytes: usize::MAX,
            threads: self.threads,
            lookup: (!self.no_lookup).then(Lookup::default),
            ..EngineOptions::default()
        };
        Ok(TextModel::open_with(path, OpenOptions { plan: PlanOptions { cache: self.cache.elem() }, engine })?)
    }
}
