//! Writing of a shard, token by token, in memory that does not grow with the tokens (one bit for each where there is
//! a mask, eight bytes for each document).

use super::header::{BLOCK, HEADER, Header};
use crate::atomic::AtomicFile;
use crate::{Error, Result};
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;
use xxhash_rust::xxh3::Xxh3;

/// What all tokens of a shard have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShardInfo {
    /// Every token is below this.
    pub vocab: u64,
    /// The tokenizer's hash.
    pub tokenizer: u64,
    /// Whether a loss mask is stored.
    pub masked: bool,
}

/// What was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// Tokens.
    pub tokens: u64,
    /// Documents.
    pub documents: u64,
}

/// Writes one shard. It appears under its name only by [`ShardWriter::finish`].
pub struct ShardWriter {
    file: AtomicFile,
    info: ShardInfo,
    width: u32,
    count: u64,
    ends: Vec<u64>,
    mask: Vec<u8>,
    sums: Vec<u64>,
    sum: Xxh3,
    bytes: Vec<u8>,
}

impl std::fmt::Debug for ShardWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ShardWriter").field("file", &self.file).field("tokens", &self.count).finish_non_exhaustive()
    }
}

impl ShardWriter {
    /// Starts a shard that will appear at `path`.
    ///
    /// # Errors
    /// [`Error::Request`] for a vocabulary of 0 or over 2³², [`Error::Io`].
    pub fn create(path: impl AsRef<Path>, info: ShardInfo) -> Result<Self> {
        let path = path.as_ref();
        if info.vocab == 0 || info.vocab > 1 << 32 {
            let reason = format!("a vocabulary of {} cannot be stored", info.vocab);
            return Err(Error::Request { path: path.into(), reason });
        }
        let mut file = AtomicFile::create(path)?;
        file.write_all(&[0; HEADER]).map_err(Error::io(path, "write"))?;
        Ok(Self {
            file,
            info,
            width: Header::width_for(info.vocab),
            count: 0,
            ends: Vec::new(),
            mask: Vec::new(),
            sums: Vec::new(),
            sum: Xxh3::new(),
            bytes: Vec::new(),
        })
    }

    /// Tokens so far.
    pub fn len(&self) -> u64 {
        self.count
    }

    /// Whether there are no tokens yet.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Appends tokens of the current document; `counts` says whether they count in the loss as targets (kept only
    /// when the shard is masked).
    ///
    /// # Errors
    /// [`Error::Request`] for a token outside the vocabulary, [`Error::Io`].
    pub fn push(&mut self, tokens: &[u32], counts: bool) -> Result<()> {
        if let Some(bad) = tokens.iter().find(|&&t| u64::from(t) >= self.info.vocab) {
            let reason = format!("token {bad} is outside the vocabulary of {}", self.info.vocab);
            return Err(Error::Request { path: self.file.target().into(), reason });
        }
        let mut rest = tokens;
        while !rest.is_empty() {
            let room = (BLOCK - self.count % BLOCK) as usize;
            let (now, later) = rest.split_at(rest.len().min(room));
            self.bytes.clear();
            match self.width {
                2 => self.bytes.extend(now.iter().flat_map(|&t| (t as u16).to_le_bytes())),
                _ => self.bytes.extend(now.iter().flat_map(|&t| t.to_le_bytes())),
            }
            self.sum.update(&self.bytes);
            self.file.write_all(&self.bytes).map_err(Error::io(self.file.target(), "write"))?;
            if self.info.masked {
                for i in self.count..self.count + now.len() as u64 {
                    if i.is_multiple_of(8) {
                        self.mask.push(0);
                    }
                    if let Some(last) = self.mask.last_mut() {
                        *last |= u8::from(counts) << (i % 8);
                    }
                }
            }
            self.count += now.len() as u64;
            if self.count.is_multiple_of(BLOCK) {
                self.sums.push(self.sum.digest());
                self.sum.reset();
            }
            rest = later;
        }
        Ok(())
    }

    /// Ends the current document. One with no tokens leaves no trace.
    pub fn end_document(&mut self) {
        if self.ends.last().copied().unwrap_or(0) < self.count {
            self.ends.push(self.count);
        }
    }

    /// Ends the shard and puts it in its place. `continues`: its first document began in the shard before;
    /// `goes_on`: its last document is continued in the next.
    ///
    /// # Errors
    /// [`Error::Io`]; nothing is left at the path.
    pub fn finish(mut self, continues: bool, goes_on: bool) -> Result<Written> {
        self.end_document();
        if !self.count.is_multiple_of(BLOCK) {
            self.sums.push(self.sum.digest());
        }
        let mut tail = Xxh3::new();
        let path = self.file.target().to_owned();
        let mut put = |bytes: &[u8]| {
            tail.update(bytes);
            self.file.write_all(bytes).map_err(Error::io(&path, "write"))
        };
        put(&self.mask)?;
        for number in self.ends.iter().chain(&self.sums) {
            put(&number.to_le_bytes())?;
        }
        let header = Header {
            width: self.width,
            count: self.count,
            vocab: self.info.vocab,
            tokenizer: self.info.tokenizer,
            documents: self.ends.len() as u64,
            masked: self.info.masked,
            continues,
            goes_on,
            tail: tail.digest(),
        };
        self.file
            .seek(SeekFrom::Start(0))
            .and_then(|_| self.file.write_all(&header.to_bytes()))
            .map_err(Error::io(&path, "write"))?;
        self.file.commit()?;
        Ok(Written { tokens: header.count, documents: header.documents })
    }
}
