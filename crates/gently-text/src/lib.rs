//! Tokenizers: text to token numbers and back.
//!
//! Here: one [`Tokenizer`] over bytes, characters, GPT-2's byte-level BPE, any `tokenizer.json`
//! and newly trained BPE, and the [`Vocabulary`] of a GGUF file; [`ChatTemplate`]s, and [`Template`]s over the fields of an object; [`StreamDecoder`] for printing tokens as
//! they are made; [`safe_cut`], which finds places where a long text may be cut without changing its tokens. Not here: reading
//! corpora and writing token shards (`gently-train::data`), and the algorithms of BPE, WordPiece and Unigram, which are
//! the `tokenizers` crate's.
//!
//! ```
//! use gently_text::Tokenizer;
//!
//! let tokenizer = Tokenizer::characters("to be or not to be".chars());
//! let ids = tokenizer.encode("to be").unwrap();
//! assert_eq!(tokenizer.vocab_size(), 7);
//! assert_eq!(tokenizer.decode(&ids).unwrap(), "to be");
//! ```
#![forbid(unsafe_code)]

mod beginning;
mod characters;
mod charsmap;
mod chat;
mod cut;
mod error;
mod export;
mod filters;
mod gpt2;
mod json;
mod names;
mod parts;
mod pipeline;
mod python;
mod running;
mod source;
mod spelling;
mod split;
mod stream;
mod template;
mod tokenizer;
mod train;
mod vocabulary;

pub use chat::{ChatOptions, ChatTemplate, Message, TemplateText, TemplateTokens};
pub use cut::safe_cut;
pub use error::{Error, Result};
pub use export::Export;
pub use stream::StreamDecoder;
pub use template::Template;
pub use tokenizer::{Kind, Tokenizer};
pub use train::{BpeOptions, train_bpe};
pub use vocabulary::Vocabulary;

/// The end-of-text token of GPT-2, also used by tokenizers trained here.
pub const END_OF_TEXT: &str = "<|endoftext|>";
