//! A split's tokens: shards on disk, or token lists in memory.

use super::permute::draw;
use super::{Error, Result};
use gently_formats::shard::Shard;
use std::ops::Range;
use std::path::Path;
use xxhash_rust::xxh3::Xxh3;

/// Tokens in parts, with document boundaries and, where there is one, a loss mask.
#[derive(Debug)]
pub struct Corpus {
    name: String,
    parts: Vec<Part>,
    vocab: u64,
    tokenizer: u64,
    tokens: u64,
    documents: u64,
    /// A hash of all tokens, boundaries and masks.
    content: u64,
}

#[derive(Debug)]
enum Part {
    Shard(Shard),
    Memory { tokens: Vec<u32>, ends: Vec<u64> },
}

impl Corpus {
    /// Opens shards, which must all come from one tokenizer. `name` is for messages ("train", "val").
    ///
    /// # Errors
    /// [`Error::File`] for a damaged shard, [`Error::OtherTokenizer`].
    pub fn open<P: AsRef<Path>>(name: &str, shards: impl IntoIterator<Item = P>) -> Result<Self> {
        let mut parts = Vec::new();
        let mut first: Option<(u64, u64)> = None;
        let mut content = 0;
        for path in shards {
            let shard = Shard::open(path)?;
            let (expected_vocab, expected) = *first.get_or_insert((shard.vocab(), shard.tokenizer()));
            if (shard.vocab(), shard.tokenizer()) != (expected_vocab, expected) {
                return Err(Error::OtherTokenizer {
                    what: shard.path().display().to_string(),
                    found: shard.tokenizer(),
                    found_vocab: shard.vocab(),
                    expected,
                    expected_vocab,
                });
            }
            content = draw(content, &[shard.checksum()]);
            parts.push(Part::Shard(shard));
        }
        let (vocab, tokenizer) = first.unwrap_or((0, 0));
        Ok(Self::from_parts(name, parts, vocab, tokenizer, content))
    }

    /// A corpus in memory: each list is a document. `vocab` and `tokenizer` as in a shard.
    ///
    /// # Errors
    /// [`Error::Option`] for a token outside the vocabulary.
    pub fn from_documents(
        name: &str,
        documents: impl IntoIterator<Item = Vec<u32>>,
        vocab: u64,
        tokenizer: u64,
    ) -> Result<Self> {
        let (mut tokens, mut ends) = (Vec::new(), Vec::new());
        for document in documents {
            if let Some(bad) = document.iter().find(|&&t| u64::from(t) >= vocab) {
                let reason = format!("{bad} is outside the vocabulary of {vocab}");
                return Err(Error::Option { option: "token", reason });
            }
            if !document.is_empty() {
                tokens.extend(document);
                ends.push(tokens.len() as u64);
            }
        }
        let content = content_of(&tokens, &ends);
        Ok(Self::from_parts(name, vec![Part::Memory { tokens, ends }], vocab, tokenizer, content))
    }

    /// One corpus of the parts of several from one tokenizer, the first of which gives the name. Its vocabulary is the largest of
    /// theirs.
    ///
    /// # Errors
    /// [`Error::OtherTokenizer`]; [`Error::Option`] when there are none.
    pub fn merge(corpora: impl IntoIterator<Item = Self>) -> Result<Self> {
        let mut corpora = corpora.into_iter();
        let none = || Error::Option { option: "data", reason: "there is no text".into() };
        let mut all = corpora.next().ok_or_else(none)?;
        for corpus in corpora {
            corpus.expect_tokenizer_of(&all)?;
            all.vocab = all.vocab.max(corpus.vocab);
            all.tokens += corpus.tokens;
            all.documents += corpus.documents;
            all.content = draw(all.content, &[corpus.content]);
            all.parts.extend(corpus.parts);
        }
        Ok(all)
    }

    fn from_parts(name: &str, parts: Vec<Part>, vocab: u64, tokenizer: u64, content: u64) -> Self {
        let tokens = parts.iter().map(Part::len).sum();
        let documents = parts.iter().map(Part::documents).sum();
        Self { name: name.into(), parts, vocab, tokenizer, tokens, documents, content }
    }

    /// The same corpus under another name.
    #[must_use]
    pub fn named(mut self, name: &str) -> Self {
        self.name = name.into();
        self
    }

    /// The split's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// All tokens.
    pub fn tokens(&self) -> u64 {
        self.tokens
    }

    /// All documents. One that goes over several shards counts in each.
    pub fn documents(&self) -> u64 {
        self.documents
    }

    /// Every token is below this.
    pub fn vocab(&self) -> u64 {
        self.vocab
    }

    /// The hash of the tokenizer.
    pub fn tokenizer(&self) -> u64 {
        self.tokenizer
    }

    /// A hash of all tokens, boundaries and masks: equal for equal shards.
    pub(crate) fn content(&self) -> u64 {
        self.content
    }

    /// Shards.
    pub fn parts(&self) -> usize {
        self.parts.len()
    }

    /// Tokens in part `part`; none in one that is not there.
    pub fn part_len(&self, part: usize) -> u64 {
        self.parts.get(part).map_or(0, Part::len)
    }

    /// Documents in part `part`; none in one that is not there.
    pub fn part_documents(&self, part: usize) -> u64 {
        self.parts.get(part).map_or(0, Part::documents)
    }

    /// The tokens of a document of a part; none, at its end, of one that is not there.
    pub fn document(&self, part: usize, document: u64) -> Range<u64> {
        match self.parts.get(part) {
            Some(Part::Shard(s)) => s.document(document),
            Some(Part::Memory { ends, .. }) => {
                let end = |at: u64| usize::try_from(at).ok().and_then(|at| ends.get(at).copied());
                let last = ends.last().copied().unwrap_or(0);
                let start = document.checked_sub(1).map_or(0, |before| end(before).unwrap_or(last));
                start..end(document).unwrap_or(last)
            }
            None => 0..0,
        }
    }

    /// The document of a part that a token belongs to: how many documents end before it.
    pub fn document_of(&self, part: usize, token: u64) -> u64 {
        match self.parts.get(part) {
            Some(Part::Shard(s)) => s.document_of(token),
            Some(Part::Memory { ends, .. }) => ends.partition_point(|&end| end <= token) as u64,
            None => 0,
        }
    }

    /// Whether a token counts in the loss as a target; none of a part that is not there does.
    pub fn counts(&self, part: usize, token: u64) -> bool {
        match self.parts.get(part) {
            Some(Part::Shard(s)) => s.counts(token),
            Some(Part::Memory { .. }) => true,
            None => false,
        }
    }

    /// Bytes of shards that are mapped: pages of the system's cache, which it takes back when it needs them.
    pub fn mapped_bytes(&self) -> u64 {
        let of = |part: &Part| if let Part::Shard(shard) = part { shard.size() } else { 0 };
        self.parts.iter().map(of).sum()
    }

    /// Bytes of tokens in memory.
    pub fn owned_bytes(&self) -> u64 {
        let of = |part: &Part| match part {
            Part::Shard(_) => 0,
            Part::Memory { tokens, ends } => (tokens.len() * 4 + ends.len() * 8) as u64,
        };
        self.parts.iter().map(of).sum()
    }

    /// Whether any part has a loss mask.
    pub fn is_masked(&self) -> bool {
        self.parts.iter().any(Part::is_masked)
    }

    pub(crate) fn part_is_masked(&self, part: usize) -> bool {
        self.parts.get(part).is_some_and(Part::is_masked)
    }

    /// Appends tokens of a part.
    ///
    /// # Errors
    /// [`Error::File`] when the shard is damaged there or has no such tokens; [`Error::Option`] for tokens in memory, or a part,
    /// that are not there. Nothing is appended then.
    pub fn read(&self, part: usize, range: Range<u64>, out: &mut Vec<u32>) -> Result<()> {
        let outside = |reason: String| Err(Error::Option { option: "tokens", reason });
        match self.parts.get(part) {
            Some(Part::Shard(s)) => Ok(s.read(range, out)?),
            Some(Part::Memory { tokens, .. }) => {
                let within = || Some(usize::try_from(range.start).ok()?..usize::try_from(range.end).ok()?);
                match within().and_then(|range| tokens.get(range)) {
                    Some(some) => {
                        out.extend_from_slice(some);
                        Ok(())
                    }
                    None => outside(format!("{range:?} are outside the {} of part {part}", tokens.len())),
                }
            }
            None => outside(format!("part {part} is not among the {} of the {} split", self.parts.len(), self.name)),
        }
    }

    /// Verifies all tokens of all shards.
    ///
    /// # Errors
    /// [`Error::File`] naming the damaged block.
    pub fn verify(&self) -> Result<()> {
        for part in &self.parts {
            if let Part::Shard(s) = part {
                s.verify_all()?;
            }
        }
        Ok(())
    }

    /// Checks that these tokens are a tokenizer's: that it made them, and that it has a token for each.
    ///
    /// # Errors
    /// [`Error::OtherTokenizer`].
    pub fn expect_tokenizer(&self, hash: u64, vocab: usize) -> Result<()> {
        // The vocabulary is a number in a file, and tables are made of that size.
        match self.tokenizer == hash && self.vocab <= vocab as u64 {
            true => Ok(()),
            false => Err(self.other_tokenizer(hash, vocab as u64)),
        }
    }

    /// Checks that another corpus's tokens are of the same tokenizer. The vocabularies are only bounds, which may differ.
    ///
    /// # Errors
    /// [`Error::OtherTokenizer`].
    pub(crate) fn expect_tokenizer_of(&self, other: &Self) -> Result<()> {
        match self.tokenizer == other.tokenizer {
            true => Ok(()),
            false => Err(self.other_tokenizer(other.tokenizer, other.vocab)),
        }
    }

    fn other_tokenizer(&self, expected: u64, expected_vocab: u64) -> Error {
        Error::OtherTokenizer {
            what: format!("the {} split", self.name),
            found: self.tokenizer,
            found_vocab: self.vocab,
            expected,
            expected_vocab,
        }
    }
}

/// A hash of tokens and of where documents end, without a second list of either. How many there are of each is checked beside it.
fn content_of(tokens: &[u32], ends: &[u64]) -> u64 {
    let mut hash = Xxh3::new();
    let mut bytes = Vec::new();
    for some in tokens.chunks(1024) {
        bytes.clear();
        bytes.extend(some.iter().flat_map(|&token| u64::from(token).to_le_bytes()));
        hash.update(&bytes);
    }
    for some in ends.chunks(1024) {
        bytes.clear();
        bytes.extend(some.iter().flat_map(|end| end.to_le_bytes()));
        hash.update(&bytes);
    }
    hash.digest()
}

impl Part {
    fn len(&self) -> u64 {
        match self {
            Self::Shard(s) => s.len(),
            Self::Memory { tokens, .. } => tokens.len() as u64,
        }
    }

    fn documents(&self) -> u64 {
        match self {
            Self::Shard(s) => s.documents(),
            Self::Memory { ends, .. } => ends.len() as u64,
        }
    }

    fn is_masked(&self) -> bool {
        matches!(self, Self::Shard(s) if s.is_masked())
    }
}
