//! Following one text.

use super::{ConstraintError, Kind, sentence};
use llguidance::Matcher;
use llguidance::api::StopReason;
use llguidance::toktrie::SimpleVob;
use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

/// Forced tokens taken before a grammar is believed. (How many may be found at once was bounded when it was compiled.)
const MOST_TRIED: usize = 1024;
/// How the matcher calls a place where no token may come; an error leaves nothing else of it.
const NOTHING: &str = "NoExtensionBias";

type Result<T, E = ConstraintError> = std::result::Result<T, E>;

/// Says which tokens may come next in one text. Each step is: take what is [forced](Guide::forced), while there is any; then
/// [mask](Guide::mask) the logits, choose, and [take](Guide::take) what was chosen; until it [is complete](Guide::is_complete).
pub struct Guide {
    kind: Kind,
    /// Number of tokens that the matcher knows.
    vocab: usize,
    matcher: Matcher,
    /// Tokens that end a text where the grammar can end.
    ends: Arc<[u32]>,
    mask: Option<Result<SimpleVob>>,
    /// Tokens that the matcher has taken, and the text not yet.
    forced: VecDeque<u32>,
    /// Whether forced tokens were looked for at this place.
    looked: bool,
    /// No token of a text can be written any more, and none needs to be.
    exhausted: bool,
    taken: usize,
}

impl fmt::Debug for Guide {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guide").field("kind", &self.kind).field("taken", &self.taken).finish_non_exhaustive()
    }
}

impl Guide {
    pub(super) fn new(kind: Kind, vocab: usize, matcher: Matcher, ends: Arc<[u32]>) -> Self {
        let forced = VecDeque::new();
        Self { kind, vocab, matcher, ends, mask: None, forced, looked: false, exhausted: false, taken: 0 }
    }

    /// The next token, where the grammar leaves no choice. It counts as taken.
    ///
    /// # Errors
    /// [`ConstraintError::Stuck`] where the matcher cannot go on.
    pub fn forced(&mut self) -> Result<Option<u32>> {
        if self.forced.is_empty() && !self.looked && !self.is_complete() {
            self.looked = true;
            let tokens = self.matcher.compute_ff_tokens();
            if !tokens.is_empty() {
                self.consume(&tokens)?;
                self.forced.extend(tokens);
            } else if let Some(e) = self.matcher.get_error() {
                return Err(self.stuck(&e));
            }
        }
        Ok(self.forced.pop_front())
    }

    /// Copies logits `[V]` to `out`, minus infinity in place of those of tokens that may not come next. `false`: nothing may,
    /// and the text is complete.
    ///
    /// # Errors
    /// [`ConstraintError::Stuck`] where the matcher cannot go on, or the text is neither complete nor can it go on.
    pub fn mask(&mut self, logits: &[f32], out: &mut Vec<f32>) -> Result<bool> {
        if let Some(&id) = self.forced.front() {
            return Err(self.stuck(&format!("token {id} is forced and was not taken")));
        }
        self.prepare();
        if self.is_complete() {
            return Ok(false);
        }
        let allowed = match &self.mask {
            Some(Ok(allowed)) => allowed,
            Some(Err(e)) => return Err(e.clone()),
            None => return Err(self.stuck(&"there is no mask")),
        };
        out.clear();
        out.resize(logits.len(), f32::NEG_INFINITY);
        let words = allowed.as_slice().iter();
        for ((&word, from), to) in words.zip(logits.chunks(32)).zip(out.chunks_mut(32)) {
            match word {
                0 => {}
                u32::MAX => to.copy_from_slice(from),
                _ => {
                    for (bit, (from, to)) in from.iter().zip(to).enumerate() {
                        if word >> bit & 1 == 1 {
                            *to = *from;
                        }
                    }
                }
            }
        }
        Ok(true)
    }

    /// Goes on by a token that was chosen. While one is [forced](Guide::forced) and was not given out, it is the only one that may
    /// come.
    ///
    /// # Errors
    /// [`ConstraintError::Stuck`] for a token that may not come next.
    pub fn take(&mut self, id: u32) -> Result<()> {
        match self.forced.front().copied() {
            None => {}
            // The matcher has it already.
            Some(next) if next == id => {
                self.forced.pop_front();
                return Ok(());
            }
            Some(next) => return Err(self.stuck(&format!("token {id} was chosen, and token {next} is forced"))),
        }
        // A sampler must choose something even if it is left no finite logit.
        if let Some(Ok(allowed)) = &self.mask
            && ((id as usize) >= allowed.len() || !allowed.is_allowed(id))
        {
            return Err(self.stuck(&format!("token {id} was chosen, which it does not allow")));
        }
        self.consume(&[id])
    }

    /// Whether the grammar allows nothing more, or a token that ends the text was taken.
    pub fn is_complete(&self) -> bool {
        let fine = matches!(self.matcher.stop_reason(), StopReason::NoExtension | StopReason::EndOfSentence);
        self.forced.is_empty() && (fine || self.exhausted)
    }

    /// Whether the text that was taken may end here.
    pub(crate) fn can_end(&mut self) -> bool {
        self.is_complete() || self.forced.is_empty() && self.matcher.is_accepting().unwrap_or(false)
    }

    /// Whether this token ends a text where the grammar can end. In the middle of a grammar it may be a token like others.
    pub fn ends(&self, id: u32) -> bool {
        self.ends.contains(&id)
    }

    /// Whether a mask will be wanted and is not there.
    pub(crate) fn wants_mask(&self) -> bool {
        self.mask.is_none() && self.forced.is_empty() && !self.is_complete()
    }

    /// Computes the mask, if it is not there.
    pub(crate) fn prepare(&mut self) {
        if !self.wants_mask() {
            return;
        }
        let may_end = self.matcher.is_accepting().unwrap_or(false);
        match self.matcher.compute_mask() {
            // A grammar can end where a vocabulary has nothing more for it but tokens that end a text, or not even these. The
            // matcher sees by itself that nothing may follow, but not before a first token.
            Ok(allowed) if may_end && allowed.iter().all(|id| self.ends.contains(&id)) => self.exhausted = true,
            Err(e) if may_end && sentence(&e.to_string()) == NOTHING => self.exhausted = true,
            mask => self.mask = Some(mask.map_err(|e| self.stuck(&e))),
        }
    }

    /// How many of these tokens may come next.
    pub(crate) fn allows(&mut self, tokens: &[u32]) -> usize {
        // A model's vocabulary may be padded beyond the tokenizer's, and the matcher gives up when it is asked about such a token.
        let known = tokens.iter().take_while(|id| (**id as usize) < self.vocab).count();
        match self.forced.is_empty() && !self.is_complete() {
            true => self.matcher.validate_tokens(&tokens[..known]).unwrap_or(0),
            false => 0,
        }
    }

    /// Whether a text can begin at all.
    pub(super) fn try_out(mut self) -> Result<()> {
        // A grammar may force a text without end.
        for _ in 0..MOST_TRIED {
            if self.forced()?.is_none() {
                break;
            }
        }
        self.prepare();
        match self.mask {
            Some(Err(e)) => Err(e),
            _ => Ok(()),
        }
    }

    fn consume(&mut self, tokens: &[u32]) -> Result<()> {
        self.mask = None;
        if let Err(e) = self.matcher.consume_tokens(tokens) {
            return Err(self.stuck(&e));
        }
        let reason = self.matcher.stop_reason();
        if !reason.is_ok() {
            return Err(self.stuck(&reason));
        }
        self.looked = false;
        self.taken += tokens.len();
        Ok(())
    }

    fn stuck(&self, e: &dyn fmt::Display) -> ConstraintError {
        let reason = match sentence(&e.to_string()).as_str() {
            NOTHING => "no token of the vocabulary goes on with what it asks for".to_owned(),
            "LexerTooComplex" | "ParserTooComplex" => "it is too complex".to_owned(),
            reason => reason.to_owned(),
        };
        ConstraintError::Stuck { kind: self.kind, tokens: self.taken - self.forced.len(), reason }
    }
}
