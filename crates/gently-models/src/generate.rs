//! Writing tokens one after the other.
//!
//! Here: [`Generator`], which keeps the state, the sampler and the tokens so far. Not here: text, stop strings,
//! several sequences at once.
//!
//! ```
//! use gently_models::{Decoder, ForwardCx, config::*, generate::Generator, sampling::SamplingParams};
//! use gently_tensor::{Device, Rng};
//! # fn main() -> gently_models::Result<()> {
//! let cfg = DecoderConfig { vocab: 16, layers: 1, heads: 2, width: 8, context: 8, ..DecoderConfig::preset(Family::Gpt2) };
//! let model = Decoder::new(&cfg, &Rng::new(0), &Device::Cpu)?;
//! let mut generator = Generator::new(&model, &[1, 2], SamplingParams::default(), ForwardCx::default())?;
//! for _ in 0..20 {
//!     generator.next_token()?;
//! }
//! assert_eq!(generator.tokens().len(), 22);
//! # Ok(()) }
//! ```

use crate::error::{Error, Result};
use crate::sampling::{Sampler, SamplingParams};
use crate::state::DecoderState;
use crate::{Decoder, ForwardCx};
use gently_tensor::Device;

/// Continues one sequence of tokens. When the model's context is full, the later half of what it sees is read again as a
/// new beginning, so a text may be longer than the context.
pub struct Generator<'m> {
    model: &'m Decoder,
    cx: ForwardCx,
    state: DecoderState,
    sampler: Sampler,
    tokens: Vec<u32>,
    prompt: usize,
    /// Tokens from here on have not been read by the model.
    unread: usize,
    /// Tokens that may be chosen: ids below this.
    choices: usize,
}

impl<'m> Generator<'m> {
    /// Continues `prompt`, of which the last `context` tokens are read.
    ///
    /// # Errors
    /// [`Error::Tokens`] for an empty prompt or a token outside the vocabulary; a sampling parameter out of range.
    pub fn new(model: &'m Decoder, prompt: &[u32], params: SamplingParams, cx: ForwardCx) -> Result<Self> {
        let vocab = model.config().vocab;
        if prompt.is_empty() {
            return Err(Error::Tokens { what: "there is nothing to continue: the prompt has no tokens".into() });
        }
        if let Some(id) = prompt.iter().find(|id| **id as usize >= vocab) {
            return Err(Error::Tokens { what: format!("token {id} is outside the vocabulary of {vocab}") });
        }
        let sampler = Sampler::new(params)?;
        let unread = prompt.len().saturating_sub(model.config().context);
        let state = model.init_state(1);
        Ok(Self { model, cx, state, sampler, tokens: prompt.to_vec(), prompt: prompt.len(), unread, choices: vocab })
    }

    /// Never chooses a token of id `n` or above: models pad their vocabulary beyond the tokenizer's.
    ///
    /// # Errors
    /// [`Error::Tokens`] for 0, which leaves none.
    pub fn only_below(mut self, n: usize) -> Result<Self> {
        if n == 0 {
            return Err(Error::Tokens { what: "only_below(0) leaves no token to choose".into() });
        }
        self.choices = n.min(self.model.config().vocab);
        Ok(self)
    }

    /// Reads what is unread and chooses the next token.
    ///
    /// # Errors
    /// From the model.
    pub fn next_token(&mut self) -> Result<u32> {
        let context = self.model.config().context;
        if self.state.len() + (self.tokens.len() - self.unread) > context {
            self.state = self.model.init_state(1);
            self.unread = self.tokens.len() - (context / 2).max(1);
        }
        let ids = self.model.ids(&self.tokens[self.unread..], 1)?;
        let logits = self.model.step_with(&ids, &mut self.state, &self.cx)?; // [1,V]
        self.unread = self.tokens.len();
        // On `Device::Meta` there are no logits: any token serves to account for the memory.
        let token = match logits.device() {
            Device::Meta => 0,
            _ => logits
                .contiguous()?
                .with_data::<f32, _>(|row| self.sampler.sample(&row[..self.choices], &self.tokens))?,
        };
        self.tokens.push(token);
        Ok(token)
    }

    /// The prompt and everything written.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// What was written after the prompt.
    pub fn written(&self) -> &[u32] {
        &self.tokens[self.prompt..]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{DecoderConfig, Family};
    use gently_tensor::Rng;

    #[test]
    fn some_token_must_be_left_to_choose() {
        let cfg = DecoderConfig {
            vocab: 16,
            layers: 1,
            heads: 2,
            width: 8,
            context: 8,
            ..DecoderConfig::preset(Family::Gpt2)
        };
        let model = Decoder::new(&cfg, &Rng::new(0), &Device::Cpu).unwrap();
        let below =
            |n| Generator::new(&model, &[1], SamplingParams::default(), ForwardCx::default()).unwrap().only_below(n);
        assert!(matches!(below(0), Err(Error::Tokens { .. })));
        assert_eq!(below(1).unwrap().next_token().unwrap(), 0);
        assert!(below(usize::MAX).unwrap().next_token().unwrap() < 16);
    }
}
