//! Texts that are looked for rather than drawn: beam search and contrastive search, from prompt to text.
//!
//! Here: [`search`], tokens in and texts out. Not here: the searches themselves ([`gently_infer::beam_search`],
//! [`gently_infer::contrastive_search`]), and text that is drawn token by token ([`crate::write`](mod@crate::write)).

use crate::text_model::TextModel;
use crate::write::{End, Error, begun, stopped, text_of};
use gently_infer::{BeamOptions, ContrastiveOptions, Work, beam_search, contrastive_search};

/// What is looked for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Search {
    /// The likeliest texts, of which this many are kept at each step; compared by log-probability over tokens to the power of
    /// the length penalty.
    Beam {
        /// Texts kept at each step, and given back.
        width: usize,
        /// Above 0 longer texts win, below 0 shorter ones.
        length_penalty: f64,
    },
    /// One text that is likely and yet does not repeat itself (Su et al. 2022).
    Contrastive {
        /// The likeliest tokens among which each is chosen.
        candidates: usize,
        /// The weight of variety against likelihood, 0 to 1.
        alpha: f32,
    },
}

/// How long a text may be, and where it ends.
#[derive(Debug, Clone, PartialEq)]
pub struct SearchOptions {
    /// What is looked for.
    pub search: Search,
    /// At most this many tokens.
    pub max_tokens: usize,
    /// A text ends before the first of these.
    pub stop: Vec<String>,
    /// As [`WriteOptions::answer`](crate::write::WriteOptions::answer).
    pub answer: bool,
}

/// A text that was found.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// What follows the prompt.
    pub text: String,
    /// Tokens of it, one that ends a text included, and those up to where a stop string is whole.
    pub tokens: usize,
    /// Of a beam search: the natural log-probability of these tokens, and what texts are compared by.
    pub likelihood: Option<(f64, f64)>,
    /// Why it ended.
    pub end: End,
}

/// The texts that follow the tokens of `prompt`, best first, each once: one of a contrastive search, up to its width of a beam search,
/// none where no token may be written.
///
/// # Errors
/// A prompt that is longer than the model's context, a width, a number of candidates or a weight out of range, a token without text.
pub fn search(model: &TextModel, prompt: Vec<u32>, options: &SearchOptions) -> Result<Vec<Found>, Error> {
    let (plan, tokenizer) = (model.engine().plan(), model.tokenizer());
    let (prompt, begins) = begun(tokenizer, prompt, options.answer)?;
    let (stop, below, max_tokens) = (tokenizer.ends().to_vec(), Some(tokenizer.choosable()), options.max_tokens);
    let mut work = Work::new();
    if max_tokens == 0 {
        return Ok(Vec::new());
    }
    let stops = options.stop.iter().any(|s| !s.is_empty());
    let ends = |ids: &[u32]| if stops { stopped(tokenizer, begins, ids, &options.stop) } else { None };
    // What was found of these tokens, and perhaps one more that ended them.
    let found = |ids: &[u32], end: gently_infer::End, likelihood| -> Result<Found, Error> {
        let (text, stopped) = text_of(tokenizer, begins, ids, &options.stop)?;
        let (tokens, end) = match (stopped, end) {
            (Some(tokens), _) => (tokens, End::Stop),
            (None, gently_infer::End::Stop(_)) => (ids.len() + 1, End::EndOfText),
            (None, end) => (ids.len(), End::from(end)),
        };
        Ok(Found { text, tokens, likelihood, end })
    };
    match options.search {
        Search::Beam { width, length_penalty } => {
            let beam = BeamOptions { width, max_tokens, length_penalty, stop, below };
            let mut texts: Vec<Found> = Vec::new();
            for h in beam_search(plan, &mut work, &prompt, &beam, &ends)? {
                let last = usize::from(matches!(h.end, gently_infer::End::Stop(_)));
                let one = found(&h.tokens[..h.tokens.len() - last], h.end, Some((h.logprob, h.score)))?;
                // Other tokens may spell the same text, and a text may end by a token as well as by a stop string.
                if texts.iter().all(|better| better.text != one.text) {
                    texts.push(one);
                }
            }
            Ok(texts)
        }
        Search::Contrastive { candidates, alpha } => {
            let contrastive = ContrastiveOptions { candidates, alpha, max_tokens, stop, below };
            let (ids, end) = contrastive_search(plan, &mut work, &prompt, &contrastive, &ends)?;
            Ok(vec![found(&ids, end, None)?])
        }
    }
}
