//! Texts that are looked for rather than drawn: beam search and contrastive search, from prompt to text.
//!
//! Here: [`search`], tokens in and texts out. Not here: the searches themselves ([`gently_infer::beam_search`],
//! [`gently_infer::contrastive_search`]), and text that is drawn token by token ([`crate::write`](mod@crate::write)).

use crate::text_model::TextModel;
use crate::write::{End, Error, prompt_of, text_of};
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
    /// A text that was found is cut before the first of these.
    pub stop: Vec<String>,
    /// As [`WriteOptions::answer`](crate::write::WriteOptions::answer).
    pub answer: bool,
}

/// A text that was found.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// What follows the prompt.
    pub text: String,
    /// Tokens of it, one that ends a text and those of a stop string included.
    pub tokens: usize,
    /// Their natural log-probability, and what texts are compared by; of a beam search.
    pub likelihood: Option<(f64, f64)>,
    /// Why it ended.
    pub end: End,
}

/// The texts that follow the tokens of `prompt`, best first: one of a contrastive search, up to its width of a beam search, none where
/// no token may be written.
///
/// # Errors
/// A prompt that is longer than the model's context, a width, a number of candidates or a weight out of range, a token without text.
pub fn search(model: &TextModel, prompt: Vec<u32>, options: &SearchOptions) -> Result<Vec<Found>, Error> {
    let (plan, tokenizer) = (model.engine().plan(), model.tokenizer());
    let answer = options.answer || prompt.is_empty();
    let prompt = prompt_of(tokenizer, prompt);
    let (stop, below, max_tokens) = (tokenizer.ends().to_vec(), Some(tokenizer.vocab_size()), options.max_tokens);
    let mut work = Work::new();
    if max_tokens == 0 {
        return Ok(Vec::new());
    }
    match options.search {
        Search::Beam { width, length_penalty } => {
            let beam = BeamOptions { width, max_tokens, length_penalty, stop, below };
            let found = beam_search(plan, &mut work, &prompt, &beam)?;
            let text = |h: gently_infer::Hypothesis| {
                let ids = &h.tokens[..h.tokens.len() - usize::from(h.ended)];
                let end = if h.ended { End::EndOfText } else { End::Length };
                let (text, end) = cut(text_of(tokenizer, answer, ids)?, &options.stop, end);
                Ok(Found { text, tokens: h.tokens.len(), likelihood: Some((h.logprob, h.score)), end })
            };
            found.into_iter().map(text).collect()
        }
        Search::Contrastive { candidates, alpha } => {
            let contrastive = ContrastiveOptions { candidates, alpha, max_tokens, stop, below };
            let ids = contrastive_search(plan, &mut work, &prompt, &contrastive)?;
            let full = plan.room().is_some_and(|room| prompt.len() + ids.len() >= room);
            let end = if ids.len() == max_tokens || full { End::Length } else { End::EndOfText };
            let (text, end) = cut(text_of(tokenizer, answer, &ids)?, &options.stop, end);
            Ok(vec![Found { text, tokens: ids.len(), likelihood: None, end }])
        }
    }
}

/// The text up to the first stop string.
fn cut(mut text: String, stop: &[String], end: End) -> (String, End) {
    match stop.iter().filter(|s| !s.is_empty()).filter_map(|s| text.find(s.as_str())).min() {
        Some(at) => {
            text.truncate(at);
            (text, End::Stop)
        }
        None => (text, end),
    }
}

#[cfg(test)]
mod tests {
    use super::{End, cut};

    #[test]
    fn a_text_is_cut_before_the_first_stop_string() {
        let stop = ["".to_owned(), "c".to_owned(), "bc".to_owned()];
        assert_eq!(cut("abcd".into(), &stop, End::Length), ("a".into(), End::Stop));
        assert_eq!(cut("xyz".into(), &stop, End::EndOfText), ("xyz".into(), End::EndOfText));
    }
}
