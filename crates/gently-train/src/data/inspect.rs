//! Looking at tokens: lengths of documents, how often each token occurs, and what a piece reads like.
//!
//! ```
//! use gently_train::data::{Corpus, inspect};
//! use gently_text::Tokenizer;
//!
//! let bytes = Tokenizer::bytes();
//! let corpus = Corpus::from_documents("train", [bytes.encode("banana")?], 256, bytes.hash())?;
//! let seen = inspect::summarise(&corpus, &bytes, 2)?;
//! assert_eq!((seen.tokens, seen.distinct, seen.most[0].text.as_str(), seen.most[0].count), (6, 3, "a", 3));
//! assert_eq!(inspect::sample(&corpus, &bytes, 1, 100)?.text, "banana");
//! # Ok::<(), gently_train::data::Error>(())
//! ```

use super::permute::draw_below;
use super::{Corpus, Result};
use gently_text::Tokenizer;
use serde::Serialize;

/// Documents whose lengths are looked at one by one; of more, evenly spread ones.
const MAX_LENGTHS: u64 = 1 << 20;
/// Tokens read at once.
const READ: u64 = 1 << 18;

/// A split in numbers.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Summary {
    /// Tokens.
    pub tokens: u64,
    /// Documents.
    pub documents: u64,
    /// Shards.
    pub shards: usize,
    /// Bytes of text.
    pub bytes: u64,
    /// Tokens that do not count in the loss.
    pub masked: u64,
    /// Lengths of documents in tokens.
    pub lengths: Lengths,
    /// Different tokens that occur.
    pub distinct: u64,
    /// Entropy of the tokens' frequencies in bits: what a model that knows only them needs for each.
    pub entropy: f64,
    /// The most frequent tokens.
    pub most: Vec<TokenCount>,
}

/// Lengths of documents in tokens.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Lengths {
    /// Shortest.
    pub min: u64,
    /// A tenth are at most this long.
    pub p10: u64,
    /// Half are.
    pub median: u64,
    /// Nine tenths are.
    pub p90: u64,
    /// Longest.
    pub max: u64,
    /// Mean.
    pub mean: f64,
}

/// How often a token occurs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TokenCount {
    /// The token.
    pub token: u32,
    /// Its text.
    pub text: String,
    /// Times.
    pub count: u64,
}

/// A piece of a split, decoded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Sample {
    /// The shard.
    pub shard: usize,
    /// The document in the shard.
    pub document: u64,
    /// Its first token's place in the shard.
    pub start: u64,
    /// The tokens.
    pub tokens: Vec<u32>,
    /// Each token's text; bytes that are no character appear as U+FFFD.
    pub pieces: Vec<String>,
    /// All of it.
    pub text: String,
}

/// Counts everything, and so verifies all checksums; `most` tokens are listed.
///
/// # Errors
/// [`super::Error::File`] when a shard is damaged, [`super::Error::OtherTokenizer`] when the tokenizer is not the corpus's.
pub fn summarise(corpus: &Corpus, tokenizer: &Tokenizer, most: usize) -> Result<Summary> {
    corpus.expect_tokenizer(tokenizer.hash(), tokenizer.vocab_size())?;
    let mut counts = vec![0u64; corpus.vocab() as usize];
    let mut masked = 0;
    let mut buffer = Vec::new();
    let mut lengths = Vec::new();
    let every = corpus.documents().div_ceil(MAX_LENGTHS).max(1);
    for part in 0..corpus.parts() {
        let mut at = 0;
        while at < corpus.part_len(part) {
            let end = (at + READ).min(corpus.part_len(part));
            buffer.clear();
            corpus.read(part, at..end, &mut buffer)?;
            for &token in &buffer {
                counts[token as usize] += 1;
            }
            if corpus.part_is_masked(part) {
                masked += (at..end).filter(|&i| !corpus.counts(part, i)).count() as u64;
            }
            at = end;
        }
        for document in (0..corpus.part_documents(part)).step_by(every as usize) {
            let range = corpus.document(part, document);
            lengths.push(range.end - range.start);
        }
    }
    lengths.sort_unstable();
    let total = corpus.tokens();
    let mut order: Vec<u32> = (0..counts.len() as u32).filter(|&t| counts[t as usize] > 0).collect();
    let mut bytes = 0;
    for &token in &order {
        bytes += counts[token as usize] * tokenizer.decode_bytes(&[token])?.len() as u64;
    }
    let entropy =
        order.iter().map(|&t| counts[t as usize] as f64 / total as f64).map(|p| -p * p.log2()).sum::<f64>().max(0.0);
    order.sort_by_key(|&t| (std::cmp::Reverse(counts[t as usize]), t));
    let distinct = order.len() as u64;
    order.truncate(most);
    let most = order
        .into_iter()
        .map(|token| Ok(TokenCount { token, text: tokenizer.decode(&[token])?, count: counts[token as usize] }))
        .collect::<Result<_>>()?;
    Ok(Summary {
        tokens: total,
        documents: corpus.documents(),
        shards: corpus.parts(),
        bytes,
        masked,
        lengths: Lengths::of(&lengths, total as f64 / corpus.documents().max(1) as f64),
        distinct,
        entropy,
        most,
    })
}

impl Lengths {
    fn of(sorted: &[u64], mean: f64) -> Self {
        let at = |share: f64| sorted.get((sorted.len().saturating_sub(1) as f64 * share).round() as usize);
        let at = |share: f64| at(share).copied().unwrap_or(0);
        Self { min: at(0.0), p10: at(0.1), median: at(0.5), p90: at(0.9), max: at(1.0), mean }
    }
}

/// The start of a document that `seed` draws, up to `tokens` tokens.
///
/// # Errors
/// As [`summarise`]; [`super::Error::Empty`] when there is no document.
pub fn sample(corpus: &Corpus, tokenizer: &Tokenizer, seed: u64, tokens: usize) -> Result<Sample> {
    corpus.expect_tokenizer(tokenizer.hash(), tokenizer.vocab_size())?;
    if corpus.documents() == 0 {
        return Err(super::Error::Empty { source_name: format!("the {} split", corpus.name()) });
    }
    let mut document = draw_below(corpus.documents(), seed, &[0]);
    let mut shard = 0;
    while document >= corpus.part_documents(shard) {
        document -= corpus.part_documents(shard);
        shard += 1;
    }
    let range = corpus.document(shard, document);
    // Of a long document some place inside of it: all documents of a single text begin the same.
    let slack = (range.end - range.start).saturating_sub(tokens as u64);
    let start = range.start + if slack == 0 { 0 } else { draw_below(slack, seed, &[1]) };
    let mut ids = Vec::new();
    corpus.read(shard, start..range.end.min(start + tokens as u64), &mut ids)?;
    let pieces = ids.iter().map(|&id| tokenizer.decode(&[id])).collect::<Result<_, _>>()?;
    Ok(Sample { shard, document, start, pieces, text: tokenizer.decode(&ids)?, tokens: ids })
}
