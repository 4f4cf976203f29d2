//! Training of a byte-level BPE vocabulary on a text (Sennrich et al. 2016, in GPT-2's byte form).

use crate::{END_OF_TEXT, Error, Result, Tokenizer, gpt2};
use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::{BPE, BpeTrainerBuilder};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{AddedToken, Tokenizer as Pipeline};

/// What to train.
#[derive(Debug, Clone)]
pub struct BpeOptions {
    /// Entries wanted: 256 bytes, the special tokens, and merges for the rest.
    pub vocab_size: usize,
    /// Pairs seen less often are not merged.
    pub min_frequency: u64,
    /// Special tokens, given the first numbers.
    pub specials: Vec<String>,
}

impl BpeOptions {
    /// `vocab_size` entries, the end-of-text token among them; pairs must be seen twice.
    pub fn new(vocab_size: usize) -> Self {
        Self { vocab_size, min_frequency: 2, specials: vec![END_OF_TEXT.into()] }
    }
}

/// Most entries: memory for all of them is taken before the first is learnt, some 66 bytes each.
const MOST: usize = 1 << 20;

/// Trains a byte-level BPE with GPT-2's splitting on the texts. Memory is that of the distinct words, not of
/// the texts. A small text may give fewer entries than asked for; [`Tokenizer::vocab_size`] tells.
///
/// # Errors
/// [`Error::VocabTooSmall`] under 256 + special tokens, [`Error::VocabTooLarge`] over 2²⁰; [`Error::EmptyText`] when there is nothing to learn from.
pub fn train_bpe<S: AsRef<str> + Send>(
    texts: impl Iterator<Item = S> + Send,
    options: &BpeOptions,
) -> Result<Tokenizer> {
    let least = 256 + options.specials.len();
    if options.vocab_size < least {
        return Err(Error::VocabTooSmall { asked: options.vocab_size, least });
    }
    if options.vocab_size > MOST {
        return Err(Error::VocabTooLarge { asked: options.vocab_size, most: MOST });
    }
    let mut pipeline = Pipeline::new(BPE::default());
    gpt2::byte_level(&mut pipeline);
    let mut trainer: TrainerWrapper = BpeTrainerBuilder::new()
        .vocab_size(options.vocab_size)
        .min_frequency(options.min_frequency)
        .show_progress(false)
        .special_tokens(options.specials.iter().map(|s| AddedToken::from(s.clone(), true)).collect())
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .build()
        .into();
    let mut seen = false;
    pipeline.train(&mut trainer, texts.inspect(|t| seen |= !t.as_ref().is_empty())).map_err(Error::pipeline)?;
    if !seen {
        return Err(Error::EmptyText { what: "BPE vocabulary" });
    }
    Tokenizer::built(pipeline, "trained BPE".as_ref())
}
