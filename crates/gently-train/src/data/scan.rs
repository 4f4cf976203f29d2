//! The first pass over the sources: their hashes, sizes and characters, and which documents are kept for validation.

use super::permute::draw;
use super::read::{Layout, Source};
use super::{Error, Result};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3;

/// A source as it was when it was prepared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceInfo {
    /// File or name.
    pub name: String,
    /// Bytes.
    pub bytes: u64,
    /// SHA-256 of the content, hex.
    pub sha256: String,
    /// Documents.
    pub documents: u64,
    /// Characters (Unicode scalar values).
    pub characters: u64,
}

/// What the first pass finds.
#[derive(Debug)]
pub(crate) struct Scan {
    pub sources: Vec<SourceInfo>,
    pub documents: u64,
    pub characters: u64,
    pub alphabet: Alphabet,
    /// Whether some text does not count in the loss.
    pub masked: bool,
    /// A bit for each document: kept for validation, if documents are drawn for it.
    drawn: Vec<u64>,
    least: Option<(u64, u64)>,
    drawn_count: u64,
    /// Characters of each document, as far as they are kept.
    pub lengths: Vec<u64>,
}

/// Which characters occur: a bit for each of Unicode.
#[derive(Debug)]
pub(crate) struct Alphabet(Vec<u64>);

impl Alphabet {
    fn new() -> Self {
        Self(vec![0; (char::MAX as usize + 1) / 64])
    }

    fn add(&mut self, text: &str) -> u64 {
        let mut n = 0;
        for c in text.chars() {
            self.0[c as usize / 64] |= 1 << (c as usize % 64);
            n += 1;
        }
        n
    }

    /// The characters, in code-point order.
    pub fn chars(&self) -> impl Iterator<Item = char> + '_ {
        (0..=char::MAX as u32).filter(|&c| self.0[c as usize / 64] >> (c % 64) & 1 == 1).filter_map(char::from_u32)
    }
}

impl Scan {
    /// Reads all sources once. A document is drawn for validation when a hash of `seed` and its text falls under
    /// `fraction`: so it stays on its side when other documents come and go, and its copies stay with it. Lengths are
    /// kept of the first `keep_lengths` documents. `progress` hears of the bytes of text as they are read, and of 0 bytes now
    /// and then while a source's hash is made.
    pub fn run(
        sources: &[Source],
        layout: &Layout,
        fraction: f64,
        seed: u64,
        keep_lengths: usize,
        progress: &mut dyn FnMut(u64) -> Result<()>,
    ) -> Result<Self> {
        let mut scan = Self {
            sources: Vec::new(),
            documents: 0,
            characters: 0,
            alphabet: Alphabet::new(),
            masked: false,
            drawn: Vec::new(),
            least: None,
            drawn_count: 0,
            lengths: Vec::new(),
        };
        for source in sources {
            let (documents, characters) = (scan.documents, scan.characters);
            let mut hash = Xxh3::with_seed(seed);
            let mut length = 0;
            source.read(layout, &mut |chunk| {
                hash.update(chunk.text.as_bytes());
                scan.masked |= !chunk.counts && !chunk.text.is_empty();
                let n = scan.alphabet.add(chunk.text);
                length += n;
                scan.characters += n;
                if chunk.last {
                    if length > 0 {
                        scan.draw_document(hash.digest(), fraction);
                        if scan.lengths.len() < keep_lengths {
                            scan.lengths.push(length);
                        }
                    }
                    hash.reset();
                    length = 0;
                }
                progress(chunk.text.len() as u64)
            })?;
            scan.sources.push(SourceInfo {
                name: source.name.clone(),
                bytes: source.size(),
                sha256: source.sha256(&mut |_| progress(0))?,
                documents: scan.documents - documents,
                characters: scan.characters - characters,
            });
        }
        if scan.characters == 0 {
            let names: Vec<_> = sources.iter().map(|s| s.name.as_str()).take(3).collect();
            return Err(Error::Empty { source_name: names.join(", ") });
        }
        Ok(scan)
    }

    fn draw_document(&mut self, hash: u64, fraction: f64) {
        let n = self.documents;
        if n.is_multiple_of(64) {
            self.drawn.push(0);
        }
        self.documents += 1;
        // Hashed again, so that equal texts of another seed do not keep their order.
        let hash = draw(0, &[hash]);
        if (hash as f64) < fraction * 2f64.powi(64) {
            self.drawn[(n / 64) as usize] |= 1 << (n % 64);
            self.drawn_count += 1;
        }
        if self.least.is_none_or(|(least, _)| hash < least) {
            self.least = Some((hash, n));
        }
    }

    /// Makes sure that of two documents or more one is drawn and one is not, when any shall be.
    pub fn settle(&mut self, fraction: f64) {
        if fraction <= 0.0 || self.documents < 2 {
            return;
        }
        let Some((_, n)) = self.least else { return };
        if self.drawn_count == 0 || self.drawn_count == self.documents {
            self.drawn[(n / 64) as usize] ^= 1 << (n % 64);
        }
    }

    /// Whether document `n` is kept for validation.
    pub fn is_drawn(&self, n: u64) -> bool {
        self.drawn.get((n / 64) as usize).is_some_and(|word| word >> (n % 64) & 1 == 1)
    }
}
