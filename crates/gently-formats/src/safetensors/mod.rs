//! The weight format of the Hugging Face hub.
//!
//! Here: a memory-mapped reader that checks the whole header before anything is used, and a writer that streams one
//! tensor after another into an atomic file. Not here: names and layouts of models. Why not the `safetensors` crate: its
//! writer orders metadata at random, so equal runs would write unequal files, and its errors do not name
//! the tensor. A test holds this reader and writer to it.
//!
//! The format: u64 length of the header, little-endian; a JSON object of `name: {dtype, shape, data_offsets}` with offsets
//! from the header's end, and `__metadata__` of strings; the data, which the tensors must cover without gap or overlap.
//!
//! ```
//! use gently_formats::safetensors::Dtype;
//! assert_eq!("BF16".parse::<Dtype>(), Ok(Dtype::Bf16));
//! assert_eq!(Dtype::Bf16.size(), 2);
//! ```

mod dtype;
mod header;
mod read;
mod write;

pub use dtype::{Dtype, Element};
pub use header::{Entry, Header};
pub use read::SafeTensors;
pub use write::{Spec, Writer};
