//! Texts that the model writes while it learns.

use gently_models::sampling::{Sampler, SamplingParams};
use gently_models::{Decoder, ForwardCx};
use gently_tensor::{Device, Tensor};
use gently_text::Tokenizer;

use super::step::Passes;
use crate::Result;
use crate::recipe::Sample;

/// A text to continue, with its tokens.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Prompt {
    pub text: String,
    pub ids: Vec<u32>,
}

/// The prompts that the tokenizer can spell, and one sentence for each that it cannot.
pub(super) fn prompts(settings: &Sample, tokenizer: &Tokenizer) -> (Vec<Prompt>, Vec<String>) {
    let (mut good, mut complaints) = (Vec::new(), Vec::new());
    for text in &settings.prompts {
        match tokenizer.encode_with_specials(text) {
            Ok(mut ids) => {
                if ids.is_empty() {
                    ids.push(tokenizer.end_of_text().unwrap_or(0));
                }
                good.push(Prompt { text: text.clone(), ids });
            }
            Err(error) => complaints.push(format!("no samples from the prompt {text:?}: {error}")),
        }
    }
    (good, complaints)
}

/// What the model writes after each of the prompts. The random numbers depend on the seed and the prompt's number only,
/// so that samples of different steps differ by what was learned between them.
pub(super) fn write(
    model: &Decoder,
    passes: &Passes,
    tokenizer: &Tokenizer,
    prompts: &[Prompt],
    settings: &Sample,
    seed: u64,
) -> Result<Vec<String>> {
    let cx = passes.evaluation();
    let mut texts = Vec::new();
    for (number, prompt) in prompts.iter().enumerate() {
        let params = SamplingParams {
            temperature: settings.temperature as f32,
            top_k: settings.top_k,
            seed: seed.wrapping_add(number as u64),
            ..SamplingParams::default()
        };
        let ids = continue_prompt(model, &cx, &prompt.ids, settings.tokens, params)?;
        texts.push(tokenizer.decode(&ids)?);
    }
    Ok(texts)
}

/// `tokens` tokens after `prompt`. When the context is full, the later half of it is read again as a new beginning, so
/// a text may be longer than the model can see.
fn continue_prompt(
    model: &Decoder,
    cx: &ForwardCx,
    prompt: &[u32],
    tokens: usize,
    params: SamplingParams,
) -> Result<Vec<u32>> {
    let context = model.config().context;
    let vocab = model.config().vocab;
    let mut sampler = Sampler::new(params).map_err(crate::Error::Sampling)?;
    let mut seen = prompt.to_vec();
    let mut state = model.init_state(1);
    let mut unread = seen.len().saturating_sub(context);
    for _ in 0..tokens {
        if state.len() + (seen.len() - unread) > context {
            state = model.init_state(1);
            unread = seen.len() - (context / 2).max(1);
        }
        let ids = model.ids(&seen[unread..], 1)?;
        let logits = model.step_with(&ids, &mut state, cx)?;
        unread = seen.len();
        seen.push(choose(&mut sampler, &logits, &seen, vocab)?);
    }
    Ok(seen.split_off(prompt.len()))
}

/// On `Device::Meta` there are no logits: any token serves to account for the memory.
fn choose(sampler: &mut Sampler, logits: &Tensor, seen: &[u32], vocab: usize) -> Result<u32> {
    if logits.device() == Device::Meta {
        return Ok(0);
    }
    let logits = logits.contiguous()?;
    Ok(logits.with_data::<f32, _>(|row| sampler.sample(&row[..vocab], seen))?)
}
