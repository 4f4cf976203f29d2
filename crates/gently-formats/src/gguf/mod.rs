//! GGUF, the single-file format of llama.cpp and its relatives: metadata and (quantized) tensors.
//!
//! Here: a memory-mapped reader of versions 2 and 3, also of files in several parts, that checks the whole header before
//! anything is used; typed [`Metadata`]; a writer that streams one tensor after another into an atomic file. Not here:
//! what the keys and names mean (`gently-models`, `gently-text`) and what a quantized block holds
//! (`gently-kernels::quant`).
//!
//! The format, all little-endian: `GGUF`, u32 version, u64 number of tensors, u64 number of keys; each key a string (u64
//! length, bytes), u32 type, value; each tensor its name, u32 rank, u64 sizes **innermost first**, u32 type, u64 offset;
//! then, at the next multiple of `general.alignment` (32 if absent), the data: of one tensor after another, each on such a
//! multiple. Shapes here are outermost first, as
//! everywhere else in this crate. Source: ggml's `docs/gguf.md`.
//!
//! Memory: an open file holds its header in at most [`HEADER_FACTOR`] times the header's own bytes, and the data stays in
//! the map.
//!
//! ```
//! use gently_formats::gguf::{Gguf, Spec, TensorType, Value, Writer};
//!
//! let path = std::env::temp_dir().join(format!("gently-doc-{}.gguf", std::process::id()));
//! let keys = [("general.architecture".to_owned(), Value::Text("llama".into()))];
//! let specs = [Spec { name: "w".into(), kind: TensorType::F32, shape: vec![1, 2] }];
//! let mut writer = Writer::create(&path, &keys, &specs)?;
//! writer.write(bytemuck::cast_slice(&[1.0f32, 2.0]))?;
//! writer.finish()?;
//!
//! let file = Gguf::open(&path, &Default::default())?;
//! assert_eq!(file.metadata().text("general.architecture")?, "llama");
//! assert_eq!(file.entry("w")?.shape, [1, 2]);
//! assert_eq!(file.bytes("w")?.len(), 8);
//! # std::fs::remove_file(path).ok();
//! # Ok::<(), gently_formats::Error>(())
//! ```

mod header;
mod kinds;
mod metadata;
mod read;
mod value;
mod write;

pub use header::{Entry, HEADER_FACTOR, Header};
pub use kinds::TensorType;
pub use metadata::Metadata;
pub use read::{Gguf, is_part};
pub use value::{Array, Texts, Value};
pub use write::{Spec, Writer};
