//! Files of weights and tokens: bounded readers and atomic writers.
//!
//! Here: [`safetensors`], the weight format of the Hugging Face hub; [`gguf`], that of llama.cpp; [`shard`], Gently's token shards;
//! [`npy`], matrices for NumPy; [`atomic`], files that are complete or absent; [`unfinished`], what a signal undoes; [`bounded`], files
//! of any kind; [`files`], what a model's files are called; [`Limits`], how far a file's own numbers are believed; [`io_hint`], what
//! to do where the system refuses. Not here: what the tensors mean (`gently-models`), and how text becomes tokens (`gently-text`,
//! `gently-train::data`).
//!
//! A reader checks every count and offset of a file against the file's real size and the limits before it
//! allocates or slices by it, and names the file and the part in its error.
//!
//! ```
//! use gently_formats::safetensors::{Dtype, SafeTensors, Spec, Writer};
//!
//! let path = std::env::temp_dir().join(format!("gently-doc-{}.safetensors", std::process::id()));
//! let spec = Spec { name: "w".into(), dtype: Dtype::F32, shape: vec![2] };
//! let mut writer = Writer::create(&path, &[spec], &Default::default())?;
//! writer.write_f32(&[1.0, 2.0])?;
//! writer.finish()?;
//! let file = SafeTensors::open(&path, &Default::default())?;
//! assert_eq!(file.to_f32("w")?, [1.0, 2.0]);
//! # std::fs::remove_file(path).ok();
//! # Ok::<(), gently_formats::Error>(())
//! ```
#![forbid(unsafe_code)]

pub mod atomic;
pub mod bounded;
mod error;
pub mod files;
pub mod gguf;
pub mod npy;
pub mod safetensors;
pub mod shard;
pub mod unfinished;

pub use error::{Error, Result, io_hint};

/// How far a file's own numbers are believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a header or an index.
    pub header_bytes: u64,
    /// Tensors in a file.
    pub tensors: usize,
    /// Dimensions of a tensor.
    pub rank: usize,
    /// Bytes of a tensor's name.
    pub name_bytes: usize,
}

impl Default for Limits {
    /// Wide enough for every published model: 100 MB of header (the format's own limit), 2²⁰ tensors, 16
    /// dimensions, names of 4 KiB.
    fn default() -> Self {
        Self { header_bytes: 100_000_000, tensors: 1 << 20, rank: 16, name_bytes: 4096 }
    }
}
