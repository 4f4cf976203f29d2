//! Token shards: a file of token numbers with document boundaries, an optional loss mask and checksums.
//!
//! Here: the layout, [`ShardWriter`] and the memory-mapped [`Shard`]. Not here: how text is tokenised and how
//! batches are drawn (`gently-train::data`).
//!
//! # Layout, version 1 (little-endian)
//!
//! | part | bytes | content |
//! |---|---|---|
//! | header | 128 | see below |
//! | tokens | count × width | u16 or u32 |
//! | mask | ⌈count ÷ 8⌉, when flagged | bit i: token i counts in the loss as a target; least significant bit first |
//! | ends | documents × 8 | u64, one past each document's last token, rising; the last equals count |
//! | sums | blocks × 8 | XXH3-64 of each 65,536 tokens |
//!
//! Header: magic `GNTLYTOK`; u32 version; u32 token width in bytes; u64 count; u64 vocabulary (every token is
//! below it); u64 hash of the tokenizer; u64 documents; u32 flags (1: mask, 2: the first document continues one of the
//! shard before, 4: the last document goes on in the next shard); u32 zero; u64 XXH3-64 of mask, ends and sums; 48 zero
//! bytes; u64 XXH3-64 of the 120 bytes before. No offset is stored: all follow from the counts, and the
//! file's size must fit exactly.
//!
//! Header, mask, ends and sums are verified when a shard is opened, a block of tokens when it is first read.
//!
//! ```
//! use gently_formats::shard::{Shard, ShardInfo, ShardWriter};
//!
//! let path = std::env::temp_dir().join(format!("gently-doc-{}.tok", std::process::id()));
//! let mut writer = ShardWriter::create(&path, ShardInfo { vocab: 65, tokenizer: 7, masked: false })?;
//! writer.push(&[5, 6, 7], true)?;
//! writer.end_document();
//! writer.finish(false, false)?;
//! let shard = Shard::open(&path)?;
//! let mut tokens = Vec::new();
//! shard.read(1..3, &mut tokens)?;
//! assert_eq!((shard.len(), &tokens[..]), (3, &[6, 7][..]));
//! # std::fs::remove_file(path).ok();
//! # Ok::<(), gently_formats::Error>(())
//! ```

mod header;
mod read;
mod write;

pub use header::{BLOCK, MAGIC, VERSION};
pub use read::Shard;
pub use write::{ShardInfo, ShardWriter, Written};
