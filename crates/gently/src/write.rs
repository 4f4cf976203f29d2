//! Writing text: prompt in, pieces of text out.
//!
//! Here: [`Writer`], an iterator over printable pieces, which ends at a stop string, the end-of-text token or the token
//! limit; [`samples`], several after one prompt. Not here: the choice of tokens ([`gently_models::sampling`]).

use crate::text_model::TextModel;
use gently_infer::{Constraint, Request, State, Stream, Token, Work};
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
    /// What was read before ([`Request::state`]): the text is the same, and as much of the prompt is not read again.
    pub state: Option<State>,
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
            state: None,
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
    /// The model's context is full. What a [`Writer`] writes goes on: it reads the later half again.
    Context,
    /// It was cancelled.
    Cancelled,
    /// It could not go on: an error said why.
    Failed,
}

impl End {
    /// In one word.
    pub fn name(self) -> &'static str {
        match self {
            End::Length => "length",
            End::Stop => "stop",
            End::EndOfText => "end_of_text",
            End::Complete => "complete",
            End::Context => "context",
            End::Cancelled => "cancelled",
            End::Failed => "failed",
        }
    }
}

impl From<gently_infer::End> for End {
    fn from(end: gently_infer::End) -> Self {
        match end {
            gently_infer::End::Length => End::Length,
            gently_infer::End::Stop(_) => End::EndOfText,
            gently_infer::End::Complete => End::Complete,
            gently_infer::End::Context => End::Context,
            gently_infer::End::Cancelled | gently_infer::End::Deadline => End::Cancelled,
            gently_infer::End::Failed => End::Failed,
        }
    }
}

/// Continues a prompt; iterate to get pieces of text as they become certain. Dropping it frees its place in the engine.
pub struct Writer {
    stream: Stream,
    text: Text,
    prompt: Vec<u32>,
    left_out: usize,
    written: Vec<Token>,
    end: Option<End>,
}

impl Writer {
    /// Starts after `prompt`, with what the tokenizer puts in front of every text. Where that is nothing, an empty prompt is the
    /// end-of-text token, or token 0 where there is none. After no more than that a text begins, without a space in front. Of a
    /// prompt longer than the model's context the end is read ([`Writer::prompt_left_out`]).
    ///
    /// # Errors
    /// A prompt outside the vocabulary, a sampling parameter out of range, a constraint that cannot be compiled, a state of another
    /// model, an engine with a full queue.
    pub fn new(model: &TextModel, prompt: &str, options: &WriteOptions) -> Result<Self, Error> {
        Self::of_tokens(model, model.tokenizer().encode_prompt(prompt)?, options)
    }

    /// Starts after these tokens; where there are none, as [`Writer::new`] does for an empty prompt. Those of a conversation, after
    /// which an [answer](WriteOptions::answer) begins, are given by [`TextModel::encode_chat`].
    ///
    /// # Errors
    /// As [`Writer::new`].
    pub fn of_tokens(model: &TextModel, prompt: Vec<u32>, options: &WriteOptions) -> Result<Self, Error> {
        let tokenizer = model.tokenizer();
        let (prompt, begins) = begun(tokenizer, prompt, options.answer)?;
        let left_out = prompt.len().saturating_sub(model.engine().plan().most());
        let grammar = match &options.constraint {
            Some(constraint) => Some(model.grammars()?.compile(constraint)?),
            None => None,
        };
        // What a grammar allows counts every byte, a first space too.
        let text = Text::new(tokenizer, begins && grammar.is_none(), &options.stop);
        let request = Request {
            max_tokens: options.max_tokens,
            sampling: options.sampling.clone(),
            stop: tokenizer.ends().to_vec(),
            below: Some(tokenizer.choosable()),
            slide: true,
            logprobs: options.logprobs,
            grammar,
            state: options.state.clone(),
            ..Request::new(prompt.clone())
        };
        Ok(Self { stream: model.engine().submit(request)?, text, prompt, left_out, written: Vec::new(), end: None })
    }

    /// The tokens of the prompt.
    pub fn prompt(&self) -> &[u32] {
        &self.prompt
    }

    /// Number of tokens of the prompt.
    pub fn prompt_tokens(&self) -> usize {
        self.prompt.len()
    }

    /// Tokens at the prompt's beginning that were left out, because it is longer than the model's context.
    pub fn prompt_left_out(&self) -> usize {
        self.left_out
    }

    /// Tokens written so far, a stop string's included.
    pub fn written(&self) -> &[Token] {
        &self.written
    }

    /// Why the text ended; `None` while it goes on. [`End::Failed`] after an error.
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
            return self.finish(self.stream.end().map_or(End::Cancelled, End::from));
        };
        let token = token?;
        let id = token.id;
        self.written.push(token);
        let piece = self.text.push(id)?;
        if self.text.stopped {
            self.end = Some(End::Stop);
            self.stream.cancel();
        }
        Ok(piece)
    }

    /// Gives out what was held.
    fn finish(&mut self, end: End) -> Result<String, Error> {
        self.end = Some(end);
        let rest = self.text.finish()?;
        if self.text.stopped {
            self.end = Some(End::Stop);
        }
        Ok(rest)
    }
}

/// Tokens as text, piece by piece, up to the first stop string that is whole.
struct Text {
    decoder: StreamDecoder,
    stop: Vec<String>,
    /// Text not yet given out because a stop string may be beginning in it.
    held: String,
    /// Whether a stop string came: nothing more is said.
    stopped: bool,
}

impl Text {
    /// Of a text that `begins` here, or of more of the prompt's.
    fn new(tokenizer: &Tokenizer, begins: bool, stop: &[String]) -> Self {
        let decoder = if begins { StreamDecoder::new(tokenizer) } else { StreamDecoder::within(tokenizer) };
        let stop = stop.iter().filter(|s| !s.is_empty()).cloned().collect();
        Self { decoder, stop, held: String::new(), stopped: false }
    }

    /// Takes one token and gives the text that became certain by it.
    fn push(&mut self, id: u32) -> Result<String, gently_text::Error> {
        let piece = self.decoder.push(id)?;
        self.held.push_str(&piece);
        self.cut();
        let keep = if self.stopped { 0 } else { self.stop.iter().map(|s| overlap(&self.held, s)).max().unwrap_or(0) };
        let rest = self.held.split_off(self.held.len() - keep);
        Ok(std::mem::replace(&mut self.held, rest))
    }

    /// Gives out what was held; a stop string can still be complete in the last bytes.
    fn finish(&mut self) -> Result<String, gently_text::Error> {
        let rest = self.decoder.finish()?;
        self.held.push_str(&rest);
        self.cut();
        Ok(std::mem::take(&mut self.held))
    }

    /// Takes tokens up to the one with which a stop string is whole, adds the text that became certain, and gives how many that
    /// were; `None` where none is.
    fn push_all(&mut self, ids: &[u32], text: &mut String) -> Result<Option<usize>, gently_text::Error> {
        for (i, id) in ids.iter().enumerate() {
            text.push_str(&self.push(*id)?);
            if self.stopped {
                return Ok(Some(i + 1));
            }
        }
        Ok(None)
    }

    fn cut(&mut self) {
        if let Some(at) = self.stop.iter().filter_map(|s| self.held.find(s.as_str())).min() {
            self.held.truncate(at);
            self.stopped = true;
        }
    }
}

/// The text of tokens after a prompt, as a [`Writer`] gives it out; where a stop string ends it, also how many of the tokens
/// were written when that was whole.
pub(crate) fn text_of(
    tokenizer: &Tokenizer,
    begins: bool,
    ids: &[u32],
    stop: &[String],
) -> Result<(String, Option<usize>), gently_text::Error> {
    let mut pieces = Text::new(tokenizer, begins, stop);
    let mut text = String::new();
    if let Some(tokens) = pieces.push_all(ids, &mut text)? {
        return Ok((text, Some(tokens)));
    }
    text.push_str(&pieces.finish()?);
    Ok((text, pieces.stopped.then_some(ids.len())))
}

/// The text of tokens after a prompt, where a stop string is whole in it; `None` while one may be coming. What has no text has none
/// here either.
pub(crate) fn stopped(tokenizer: &Tokenizer, begins: bool, ids: &[u32], stop: &[String]) -> Option<String> {
    let mut text = String::new();
    let at = Text::new(tokenizer, begins, stop).push_all(ids, &mut text).ok().flatten();
    at.map(|_| text)
}

/// What a text after this prompt needs to have been read: all but the last token, of what the model's context holds. `known` is
/// what was read before; what the prompt does not begin with is left out of it. Texts that are given the state, or forks of it
/// ([`WriteOptions::state`]), share its pages.
///
/// # Errors
/// A prompt outside the vocabulary, a state of another model, no memory.
pub fn read_before(model: &TextModel, prompt: &[u32], known: Option<State>) -> Result<State, Error> {
    let plan = model.engine().plan();
    let from = prompt.len().saturating_sub(plan.most());
    let before = &prompt[from..prompt.len().saturating_sub(1).max(from)];
    let mut state = known.unwrap_or_else(|| plan.state());
    state.keep_common(before);
    let read = state.len();
    plan.prefill(&mut Work::new(), &mut state, &before[read..])?;
    Ok(state)
}

/// Starts `count` texts after one prompt, which is read once for all: the i-th, from 0, draws by the seed plus i, and is the text
/// that a [`Writer`] of that seed writes alone.
///
/// # Errors
/// As [`Writer::new`]; an engine whose queue has no room for as many.
pub fn samples(model: &TextModel, prompt: &[u32], options: &WriteOptions, count: usize) -> Result<Vec<Writer>, Error> {
    let state = Some(read_before(model, prompt, options.state.clone())?);
    let one = |i: u64| {
        let sampling = SamplingParams { seed: options.sampling.seed.wrapping_add(i), ..options.sampling.clone() };
        Writer::of_tokens(model, prompt.to_vec(), &WriteOptions { sampling, state: state.clone(), ..options.clone() })
    };
    (0..count as u64).map(one).collect()
}

/// A prompt with something to continue, and whether a text begins after it: an answer, or any where the prompt holds no more
/// than what stands in front of every text.
pub(crate) fn begun(
    tokenizer: &Tokenizer,
    mut prompt: Vec<u32>,
    answer: bool,
) -> Result<(Vec<u32>, bool), gently_text::Error> {
    if answer && !prompt.is_empty() {
        return Ok((prompt, true));
    }
    let front = tokenizer.front()?;
    let begins = prompt.is_empty() || prompt == front;
    if prompt.is_empty() {
        prompt = front;
    }
    if prompt.is_empty() {
        prompt.push(tokenizer.end_of_text().unwrap_or(0));
    }
    Ok((prompt, begins))
}

impl Iterator for Writer {
    type Item = Result<String, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.end.is_none() {
            match self.advance() {
                Ok(piece) if piece.is_empty() => {}
                Ok(piece) => return Some(Ok(piece)),
                Err(error) => {
                    self.end = Some(End::Failed);
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
    use super::{End, Tokenizer, overlap, stopped, text_of};

    #[test]
    fn an_end_keeps_its_name() {
        use gently_infer::End as Inner;
        let all = [
            (Inner::Length, "length"),
            (Inner::Stop(3), "end_of_text"),
            (Inner::Complete, "complete"),
            (Inner::Context, "context"),
            (Inner::Cancelled, "cancelled"),
            (Inner::Failed, "failed"),
        ];
        all.into_iter().for_each(|(end, name)| assert_eq!(End::from(end).name(), name));
    }

    #[test]
    fn a_text_ends_before_the_first_stop_string() {
        let of = |text: &str, stop: &[&str]| {
            let stop: Vec<String> = stop.iter().map(|s| (*s).to_owned()).collect();
            let ids: Vec<u32> = text.bytes().map(u32::from).collect();
            text_of(&Tokenizer::bytes(), true, &ids, &stop).unwrap()
        };
        // One token is one byte here: what comes after the stop string is not counted.
        assert_eq!(of("abcdef", &["", "c", "bc"]), ("a".into(), Some(3)));
        assert_eq!(of("xyz", &["zz"]), ("xyz".into(), None));
        assert_eq!(of("xyz", &["z"]), ("xy".into(), Some(3)));
        assert_eq!(of("", &["z"]), (String::new(), None));
        let held = |text: &str| {
            let ids: Vec<u32> = text.bytes().map(u32::from).collect();
            stopped(&Tokenizer::bytes(), true, &ids, &["bc".to_owned()])
        };
        assert_eq!((held("abc"), held("ab"), held("")), (Some("a".into()), None, None));
    }

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
