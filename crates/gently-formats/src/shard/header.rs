//! The fixed part of a shard, and the sizes that follow from it.

use crate::{Error, Result};
use std::path::Path;
use xxhash_rust::xxh3::xxh3_64;

/// The first eight bytes of a shard.
pub const MAGIC: [u8; 8] = *b"GNTLYTOK";
/// The version written and read here.
pub const VERSION: u32 = 1;
/// Tokens under one checksum.
pub const BLOCK: u64 = 1 << 16;

pub(super) const HEADER: usize = 128;
const FORMAT: &str = "token shard";

const MASKED: u32 = 1;
const CONTINUES: u32 = 2;
const GOES_ON: u32 = 4;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Header {
    pub width: u32,
    pub count: u64,
    pub vocab: u64,
    pub tokenizer: u64,
    pub documents: u64,
    pub masked: bool,
    pub continues: bool,
    pub goes_on: bool,
    /// Checksum of mask, ends and sums.
    pub tail: u64,
}

/// Where the parts are, in bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Layout {
    pub mask: u64,
    pub ends: u64,
    pub sums: u64,
    pub end: u64,
}

impl Header {
    /// The narrowest token that holds a vocabulary.
    pub fn width_for(vocab: u64) -> u32 {
        if vocab <= 1 << 16 { 2 } else { 4 }
    }

    pub fn to_bytes(&self) -> [u8; HEADER] {
        let mut out = [0; HEADER];
        let flags =
            u32::from(self.masked) * MASKED + u32::from(self.continues) * CONTINUES + u32::from(self.goes_on) * GOES_ON;
        out[..8].copy_from_slice(&MAGIC);
        out[8..12].copy_from_slice(&VERSION.to_le_bytes());
        out[12..16].copy_from_slice(&self.width.to_le_bytes());
        out[16..24].copy_from_slice(&self.count.to_le_bytes());
        out[24..32].copy_from_slice(&self.vocab.to_le_bytes());
        out[32..40].copy_from_slice(&self.tokenizer.to_le_bytes());
        out[40..48].copy_from_slice(&self.documents.to_le_bytes());
        out[48..52].copy_from_slice(&flags.to_le_bytes());
        out[56..64].copy_from_slice(&self.tail.to_le_bytes());
        let sum = xxh3_64(&out[..HEADER - 8]);
        out[HEADER - 8..].copy_from_slice(&sum.to_le_bytes());
        out
    }

    /// Reads and checks a header; `size` is the file's.
    pub fn parse(bytes: &[u8], size: u64, path: &Path) -> Result<(Self, Layout)> {
        let found = &bytes[..bytes.len().min(8)];
        if found != MAGIC {
            return Err(Error::Magic { path: path.into(), format: FORMAT, found: found.to_vec() });
        }
        let Some(bytes) = bytes.first_chunk::<HEADER>() else {
            return Err(Error::Size { path: path.into(), expected: HEADER as u64, found: size });
        };
        let u32_at = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let u64_at = |at: usize| u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32;
        let version = u32_at(8);
        if version != VERSION {
            return Err(Error::Version { path: path.into(), format: FORMAT, found: version, known: VERSION });
        }
        let (expected, found) = (u64_at(HEADER - 8), xxh3_64(&bytes[..HEADER - 8]));
        if expected != found {
            return Err(Error::Checksum { path: path.into(), part: "header".into(), expected, found });
        }
        let flags = u32_at(48);
        let header = Self {
            width: u32_at(12),
            count: u64_at(16),
            vocab: u64_at(24),
            tokenizer: u64_at(32),
            documents: u64_at(40),
            masked: flags & MASKED != 0,
            continues: flags & CONTINUES != 0,
            goes_on: flags & GOES_ON != 0,
            tail: u64_at(56),
        };
        // The checksum is no proof of good will: the numbers are checked as if it were not there.
        let bad = |reason: String| Error::Header { path: path.into(), reason };
        if header.width != 2 && header.width != 4 {
            return Err(bad(format!("tokens of {} bytes; 2 and 4 are known", header.width)));
        }
        if header.vocab == 0 || header.vocab > 1 << (8 * header.width) {
            return Err(bad(format!("a vocabulary of {} does not fit {} bytes", header.vocab, header.width)));
        }
        if flags & !(MASKED | CONTINUES | GOES_ON) != 0 {
            return Err(bad(format!("unknown flags {flags:#x}")));
        }
        if header.documents > header.count || (header.documents == 0) != (header.count == 0) {
            return Err(bad(format!("{} documents for {} tokens", header.documents, header.count)));
        }
        let layout = header.layout().ok_or_else(|| bad(format!("{} tokens overflow", header.count)))?;
        if layout.end != size {
            return Err(Error::Size { path: path.into(), expected: layout.end, found: size });
        }
        Ok((header, layout))
    }

    fn layout(&self) -> Option<Layout> {
        let mask = (HEADER as u64).checked_add(self.count.checked_mul(self.width.into())?)?;
        let ends = mask.checked_add(if self.masked { self.count.div_ceil(8) } else { 0 })?;
        let sums = ends.checked_add(self.documents.checked_mul(8)?)?;
        let end = sums.checked_add(self.count.div_ceil(BLOCK) * 8)?;
        Some(Layout { mask, ends, sums, end })
    }
}
