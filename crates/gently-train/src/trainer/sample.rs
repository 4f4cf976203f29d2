//! Texts that the model writes while it learns.

use gently_models::Decoder;
use gently_models::generate::Generator;
use gently_models::sampling::SamplingParams;
use gently_text::Tokenizer;

use super::step::Passes;
use crate::Result;
use crate::recipe::Sample;
use crate::stop::StopHandle;

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
/// so that samples of different steps differ by what was learned between them. `None` when somebody asks to stop meanwhile.
pub(super) fn write(
    model: &Decoder,
    passes: &Passes,
    tokenizer: &Tokenizer,
    prompts: &[Prompt],
    settings: &Sample,
    seed: u64,
    stop: &StopHandle,
) -> Result<Option<Vec<String>>> {
    let cx = passes.evaluation();
    let mut texts = Vec::new();
    for (number, prompt) in prompts.iter().enumerate() {
        let params = SamplingParams {
            temperature: settings.temperature as f32,
            top_k: settings.top_k,
            seed: seed.wrapping_add(number as u64),
            ..SamplingParams::default()
        };
        let mut generator =
            Generator::new(model, &prompt.ids, params, cx.clone())?.only_below(tokenizer.choosable())?;
        for _ in 0..settings.tokens {
            if stop.is_asked() {
                return Ok(None);
            }
            generator.next_token()?;
        }
        texts.push(tokenizer.decode(generator.written())?);
    }
    Ok(Some(texts))
}
