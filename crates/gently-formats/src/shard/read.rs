//! Reading of a shard through a memory map.

use super::header::{BLOCK, HEADER, Header, Layout};
use crate::{Error, Result, bounded};
use gently_kernels::buffer::mmap::Mmap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use xxhash_rust::xxh3::xxh3_64;

/// An open shard. Tokens are read on demand; the pages belong to the system's cache, not to this process.
#[derive(Debug)]
pub struct Shard {
    path: PathBuf,
    map: Mmap,
    header: Header,
    layout: Layout,
    /// A bit for each block whose checksum has been found right.
    verified: Vec<AtomicU64>,
}

impl Shard {
    /// Opens a shard and verifies its header and its index of documents.
    ///
    /// # Errors
    /// [`Error::Magic`], [`Error::Version`], [`Error::Size`], [`Error::Checksum`], [`Error::Header`], [`Error::Io`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let map = bounded::map(path).map_err(Error::io(path, "read"))?;
        let (header, layout) = Header::parse(&map, map.len() as u64, path)?;
        let found = xxh3_64(&map[layout.mask as usize..]);
        if found != header.tail {
            let part = "index of documents".to_owned();
            return Err(Error::Checksum { path: path.into(), part, expected: header.tail, found });
        }
        let blocks = header.count.div_ceil(BLOCK).div_ceil(64) as usize;
        let verified = std::iter::repeat_with(AtomicU64::default).take(blocks).collect();
        let shard = Self { path: path.into(), map, header, layout, verified };
        let mut before = 0;
        for i in 0..shard.documents() {
            let end = shard.u64_at(shard.layout.ends, i);
            if end <= before || end > shard.header.count {
                let reason = format!("document {i} ends at {end}, after one that ends at {before}");
                return Err(Error::Header { path: path.into(), reason });
            }
            before = end;
        }
        if before != shard.header.count {
            let reason = format!("the last document ends at {before} of {}", shard.header.count);
            return Err(Error::Header { path: path.into(), reason });
        }
        Ok(shard)
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Tokens.
    pub fn len(&self) -> u64 {
        self.header.count
    }

    /// Whether there are no tokens.
    pub fn is_empty(&self) -> bool {
        self.header.count == 0
    }

    /// Bytes of the file.
    pub fn size(&self) -> u64 {
        self.map.len() as u64
    }

    /// Every token is below this.
    pub fn vocab(&self) -> u64 {
        self.header.vocab
    }

    /// The hash of the tokenizer that made the tokens.
    pub fn tokenizer(&self) -> u64 {
        self.header.tokenizer
    }

    /// A hash of all that the shard holds: of its mask, its documents' ends and the checksums of its blocks, as its header says it.
    pub fn checksum(&self) -> u64 {
        self.header.tail
    }

    /// Documents.
    pub fn documents(&self) -> u64 {
        self.header.documents
    }

    /// Whether the first document began in the shard before.
    pub fn continues(&self) -> bool {
        self.header.continues
    }

    /// Whether the last document is continued in the next shard.
    pub fn goes_on(&self) -> bool {
        self.header.goes_on
    }

    /// Whether there is a loss mask.
    pub fn is_masked(&self) -> bool {
        self.header.masked
    }

    /// The tokens of document `i`, empty for a document that is not there.
    pub fn document(&self, i: u64) -> Range<u64> {
        if i >= self.documents() {
            return self.len()..self.len();
        }
        let start = if i == 0 { 0 } else { self.u64_at(self.layout.ends, i - 1) };
        start..self.u64_at(self.layout.ends, i)
    }

    /// The document that token `at` belongs to: a binary search.
    pub fn document_of(&self, at: u64) -> u64 {
        let (mut low, mut high) = (0, self.documents());
        while low < high {
            let middle = low + (high - low) / 2;
            if self.u64_at(self.layout.ends, middle) <= at {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }

    /// Whether token `at` counts in the loss as a target; true where there is no mask.
    pub fn counts(&self, at: u64) -> bool {
        !self.header.masked
            || self.map.get((self.layout.mask + at / 8) as usize).is_some_and(|byte| byte >> (at % 8) & 1 == 1)
    }

    /// Appends the tokens of `range` to `out`, verifying each block that has not been read before.
    ///
    /// # Errors
    /// [`Error::Checksum`] naming the block; [`Error::Request`] for a range outside the shard; [`Error::Header`] when a
    /// token is outside the vocabulary.
    pub fn read(&self, range: Range<u64>, out: &mut Vec<u32>) -> Result<()> {
        if range.start > range.end || range.end > self.len() {
            let reason = format!("tokens {range:?} are outside its {}", self.len());
            return Err(Error::Request { path: self.path.clone(), reason });
        }
        if range.is_empty() {
            return Ok(());
        }
        for block in range.start / BLOCK..=(range.end - 1) / BLOCK {
            self.verify(block)?;
        }
        let bytes = &self.map[self.token_bytes(range)];
        match self.header.width {
            2 => out.extend(bytes.chunks_exact(2).map(|b| u32::from(u16::from_le_bytes([b[0], b[1]])))),
            _ => out.extend(bytes.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]))),
        }
        Ok(())
    }

    /// Verifies all blocks.
    ///
    /// # Errors
    /// As [`Shard::read`].
    pub fn verify_all(&self) -> Result<()> {
        (0..self.len().div_ceil(BLOCK)).try_for_each(|block| self.verify(block))
    }

    fn verify(&self, block: u64) -> Result<()> {
        let (word, bit) = ((block / 64) as usize, 1u64 << (block % 64));
        if self.verified[word].load(Ordering::Relaxed) & bit != 0 {
            return Ok(());
        }
        let range = block * BLOCK..((block + 1) * BLOCK).min(self.len());
        let bytes = &self.map[self.token_bytes(range.clone())];
        let (expected, found) = (self.u64_at(self.layout.sums, block), xxh3_64(bytes));
        if expected != found {
            let part = format!("block {block} (tokens {} to {})", range.start, range.end - 1);
            return Err(Error::Checksum { path: self.path.clone(), part, expected, found });
        }
        // A writer that was not ours may have summed impossible tokens, and a model would index by them.
        let mut tokens: Box<dyn Iterator<Item = u32>> = match self.header.width {
            2 => Box::new(bytes.chunks_exact(2).map(|b| u32::from(u16::from_le_bytes([b[0], b[1]])))),
            _ => Box::new(bytes.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]))),
        };
        if let Some(token) = tokens.find(|&t| u64::from(t) >= self.header.vocab) {
            let reason = format!("token {token} in block {block} is outside the vocabulary of {}", self.header.vocab);
            return Err(Error::Header { path: self.path.clone(), reason });
        }
        self.verified[word].fetch_or(bit, Ordering::Relaxed);
        Ok(())
    }

    fn token_bytes(&self, tokens: Range<u64>) -> Range<usize> {
        let at = |token: u64| HEADER + token as usize * self.header.width as usize;
        at(tokens.start)..at(tokens.end)
    }

    /// The `i`th number of the table at byte `table`, which lies inside the file by the layout.
    fn u64_at(&self, table: u64, i: u64) -> u64 {
        let at = (table + i * 8) as usize;
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&self.map[at..at + 8]);
        u64::from_le_bytes(bytes)
    }
}
