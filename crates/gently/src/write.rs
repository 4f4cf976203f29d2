//! Writing text: prompt in, pieces of text out.
//!
//! Here: [`Writer`], an iterator over printable pieces, which ends at a stop string, the end-of-text token or the token
//! limit. Not here: the choice of tokens ([`gently_models::sampling`]).

use crate::text_model::TextModel;
use gently_infer::{Constraint, Request, Stream, Token};
use gently_models::sampling::SamplingParams;
use gently_text::{StreamDecoder, Tokenizer};
use thiserror::Error;

/// Why writing stopped with an error.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// From the engine, or a sampling parameter out of range.
    #[error(transparent)]
    Infer(#[from] gently_infer::Error),
    /// The prompt cannot be written in the model's vocabulary, or a token has no text.
    #[error(transparent)]
    Text(#[from] gently_text::Error),
}

impl Error {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Error::Infer(e) => e.hint(),
            Error::Text(e) => e.hint(),
        }
    }
}

/// How much to write, how to choose, and where to stop.
#[derive(Debug, Clone, PartialEq)]
pub struct WriteOptions {
    /// At most this many tokens.
    pub max_tokens: usize,
    /// How tokens are chosen.
    pub sampling: SamplingParams,
    /// The text ends before the first of these; they are not given out.
    pub stop: Vec<String>,
    /// What the text must be.
    pub constraint: Option<Constraint>,
    /// What is written is a text of its own, as an answer in a conversation is, and not more of the prompt's: the space that
    /// SentencePiece puts before a first word is left out.
    pub answer: bool,
    /// Keep the log-probability of each token, and of this many likeliest ones, with what was [written](Writer::written).
    pub logprobs: Option<usize>,
}

impl Default for WriteOptions {
    fn default() -> Self {
        Self {
            max_tokens: 200,
            sampling: SamplingParams::default(),
            stop: Vec::new(),
            constraint: None,
            answer: false,
            logprobs: None,
        }
    }
}

/// Why a text ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// `max_tokens` were written.
    Length,
    /// A stop string came.
    Stop,
    /// The model wrote a token that ends a text or an answer.
    EndOfText,
    /// The constraint allows nothing more.
    Complete,
    /// It was cancelled, or the engine went away.
    Cancelled,
}

impl End {
    /// In one word.
    pub fn name(self) -> &'static str {
        match self {
            End::Length => "length",
            End::Stop => "stop",
            End::EndOfText => "end_of_text",
            End::Complete => "complete",
            End::Cancelled => "cancelled",
        }
    }
}

/// Continues a prompt; iterate to get pieces of text as they become certain. Dropping it frees its place in the engine.
pub struct Writer {
    stream: Stream,
    decoder: StreamDecoder,
    stop: Vec<String>,
    /// Text not yet given out because a stop string may be beginning in it.
    held: String,
    prompt_tokens: usize,
    left_out: usize,
    written: Vec<Token>,
    end: Option<End>,
    failed: bool,
}

impl Writer {
    /// Starts after `prompt`. An empty prompt starts at the end-of-text token, or at token 0 where there is none. Of a prompt
    /// longer than the model's context the end is read ([`Writer::prompt_left_out`]).
    ///
    /// # Errors
    /// A prompt outside the vocabulary, a sampling parameter out of range, a constraint that cannot be compiled, an engine with a
    /// full queue.
    pub fn new(model: &TextModel, prompt: &str, options: &WriteOptions) -> Result<Self, Error> {
        Self::of_tokens(model, model.tokenizer().encode_prompt(prompt)?, options)
    }

    /// Starts an [answer](WriteOptions::answer) after a rendered chat template, which holds every special token that it wants: for
    /// text that was rendered elsewhere. [`TextModel::encode_chat`] renders a conversation and gives its tokens, for
    /// [`Writer::of_tokens`].
    ///
    /// # Errors
    /// As [`Writer::new`].
    pub fn after_template(model: &TextModel, text: &str, options: &WriteOptions) -> Result<Self, Error> {
        let options = WriteOptions { answer: true, ..options.clone() };
        Self::of_tokens(model, model.tokenizer().encode_with_specials(text)?, &options)
    }

    /// Starts after these tokens; where there are none, as [`Writer::new`] does for an empty prompt.
    ///
    /// # Errors
    /// As [`Writer::new`].
    pub fn of_tokens(model: &TextModel, prompt: Vec<u32>, options: &WriteOptions) -> Result<Self, Error> {
        let tokenizer = model.tokenizer();
        let answer = options.answer || prompt.is_empty();
        let prompt = prompt_of(tokenizer, prompt);
        let prompt_tokens = prompt.len();
        let left_out = prompt_tokens.saturating_sub(model.engine().plan().room().unwrap_or(usize::MAX));
        let grammar = match &options.constraint {
            Some(constraint) => Some(model.grammars()?.compile(constraint)?),
            None => None,
        };
        // What a grammar allows counts every byte, a first space too.
        let decoder = decoder_of(tokenizer, answer && grammar.is_none());
        let request = Request {
            max_tokens: options.max_tokens,
            sampling: options.sampling.clone(),
            stop: tokenizer.ends().to_vec(),
            below: Some(tokenizer.vocab_size()),
            slide: true,
            logprobs: options.logprobs,
            grammar,
            ..Request::new(prompt)
        };
        Ok(Self {
            stream: model.engine().submit(request)?,
            decoder,
            stop: options.stop.iter().filter(|s| !s.is_empty()).cloned().collect(),
            held: String::new(),
            prompt_tokens,
            left_out,
            written: Vec::new(),
            end: None,
            failed: false,
        })
    }

    /// Tokens of the prompt.
    pub fn prompt_tokens(&self) -> usize {
        self.prompt_tokens
    }

    /// Tokens at the prompt's beginning that were left out, because it is longer than the model's context.
    pub fn prompt_left_out(&self) -> usize {
        self.left_out
    }

    /// Tokens written so far, a stop string's included.
    pub fn written(&self) -> &[Token] {
        &self.written
    }

    /// Why the text ended; `None` while it goes on.
    pub fn end(&self) -> Option<End> {
        self.end
    }

    /// What can end it from elsewhere.
    pub fn ticket(&self) -> gently_infer::Ticket {
        self.stream.ticket().clone()
    }

    /// Writes to the end and gives the whole text.
    ///
    /// # Errors
    /// From the engine or the tokenizer.
    pub fn collect_text(self) -> Result<String, Error> {
        self.collect()
    }

    /// One more token, and the text that became certain by it.
    fn advance(&mut self) -> Result<String, Error> {
        let Some(token) = self.stream.next() else {
            return self.finish(match self.stream.end() {
                Some(gently_infer::End::Stop(_)) => End::EndOfText,
                Some(gently_infer::End::Complete) => End::Complete,
                Some(gently_infer::End::Length | gently_infer::End::Context) => End::Length,
                _ => End::Cancelled,
            });
        };
        let token = token?;
        let id = token.id;
        self.written.push(token);
        let piece = self.decoder.push(id)?;
        self.held.push_str(&piece);
        if let Some(at) = self.stop.iter().filter_map(|s| self.held.find(s.as_str())).min() {
            self.held.truncate(at);
            self.end = Some(End::Stop);
            self.stream.cancel();
            return Ok(std::mem::take(&mut self.held));
        }
        let keep = self.stop.iter().map(|s| overlap(&self.held, s)).max().unwrap_or(0);
        let rest = self.held.split_off(self.held.len() - keep);
        Ok(std::mem::replace(&mut self.held, rest))
    }

    /// Gives out what was held; a stop string can still be complete in the last bytes.
    fn finish(&mut self, end: End) -> Result<String, Error> {
        self.end = Some(end);
        let rest = self.decoder.finish()?;
        self.held.push_str(&rest);
        if let Some(at) = self.stop.iter().filter_map(|s| self.held.find(s.as_str())).min() {
            self.held.truncate(at);
            self.end = Some(End::Stop);
        }
        Ok(std::mem::take(&mut self.held))
    }
}

/// What makes text of the tokens after a prompt: an answer's, or more of the prompt's text.
fn decoder_of(tokenizer: &Tokenizer, answer: bool) -> StreamDecoder {
    match answer {
        true => StreamDecoder::new(tokenizer),
        false => StreamDecoder::within(tokenizer),
    }
}

/// The text of tokens after a prompt, as a [`Writer`] gives it out.
pub(crate) fn text_of(tokenizer: &Tokenizer, answer: bool, ids: &[u32]) -> Result<String, gently_text::Error> {
    let mut decoder = decoder_of(tokenizer, answer);
    let mut text = String::new();
    for id in ids {
        text.push_str(&decoder.push(*id)?);
    }
    text.push_str(&decoder.finish()?);
    Ok(text)
}

/// A prompt with something to continue.
pub(crate) fn prompt_of(tokenizer: &Tokenizer, mut prompt: Vec<u32>) -> Vec<u32> {
    if prompt.is_empty() {
        prompt.push(tokenizer.end_of_text().unwrap_or(0));
    }
    prompt
}

impl Iterator for Writer {
    type Item = Result<String, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.end.is_none() && !self.failed {
            match self.advance() {
                Ok(piece) if piece.is_empty() => {}
                Ok(piece) => return Some(Ok(piece)),
                Err(error) => {
                    self.failed = true;
                    return Some(Err(error));
                }
            }
        }
        None
    }
}

/// Length of the longest end of `text` that is a proper beginning of `stop`, in bytes, on a character boundary.
fn overlap(text: &str, stop: &str) -> usize {
    let longest = text.len().min(stop.len().saturating_sub(1));
    (1..=longest)
        .rev()
        .find(|&n| {
            text.is_char_boundary(text.len() - n) && stop.as_bytes().starts_with(&text.as_bytes()[text.len() - n..])
        })
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::overlap;

    #[test]
    fn text_is_held_while_a_stop_string_may_begin() {
        assert_eq!(overlap("and the\n", "\n\n"), 1);
        assert_eq!(overlap("and the EN", "END"), 2);
        assert_eq!(overlap("and the", "END"), 0);
        assert_eq!(overlap("aaa", "aab"), 2);
        assert_eq!(overlap("ü", "ü!"), 2);
        assert_eq!(overlap("", "x"), 0);
    }
}
