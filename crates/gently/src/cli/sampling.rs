//! Options of how tokens are chosen, shared by the commands that write.

use super::failure::advise;
use anyhow::Result;
use clap::Args;
use gently_models::sampling::{Dry, Mirostat, SamplingParams};

/// How tokens are chosen.
#[derive(Args, Clone)]
pub struct Sampling {
    /// Divide logits by this; 0 always takes the likeliest token
    #[arg(long, short, default_value_t = 0.8)]
    temperature: f32,
    /// Choose among this many likeliest tokens; 0 among all
    #[arg(long, default_value_t = 0)]
    top_k: usize,
    /// Choose among the likeliest tokens that together reach this probability
    #[arg(long, default_value_t = 1.0)]
    top_p: f32,
    /// Choose among tokens at least this fraction as likely as the likeliest
    #[arg(long, default_value_t = 0.0)]
    min_p: f32,
    /// Choose among the tokens of the most usual surprise that together reach this probability
    #[arg(long, default_value_t = 1.0)]
    typical: f32,
    /// Hold the surprise of the text near this many bits, in place of the filters above
    #[arg(long, value_name = "BITS")]
    mirostat: Option<f32>,
    /// How fast mirostat corrects
    #[arg(long, default_value_t = 0.1, requires = "mirostat")]
    mirostat_rate: f32,
    /// Make tokens already seen less likely; 1 is off
    #[arg(long, default_value_t = 1.0)]
    repetition_penalty: f32,
    /// Lower a token's logit by this for each time it was seen
    #[arg(long, default_value_t = 0.0)]
    frequency_penalty: f32,
    /// Lower the logits of tokens that were seen by this
    #[arg(long, default_value_t = 0.0)]
    presence_penalty: f32,
    /// Make the continuation of what was said before less likely (DRY); 0.8 is usual
    #[arg(long, value_name = "STRENGTH")]
    dry: Option<f32>,
    /// Penalties look back on this many tokens; 0 on all
    #[arg(long, default_value_t = 0)]
    penalty_window: usize,
    /// Seed of the random choices: the same seed writes the same text
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

impl Sampling {
    /// The parameters of the sampler.
    ///
    /// # Errors
    /// One out of its range; a window of penalties without a penalty.
    pub fn params(&self) -> Result<SamplingParams> {
        let params = SamplingParams {
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            min_p: self.min_p,
            typical: self.typical,
            mirostat: self.mirostat.map(|tau| Mirostat { tau, eta: self.mirostat_rate }),
            repetition_penalty: self.repetition_penalty,
            frequency_penalty: self.frequency_penalty,
            presence_penalty: self.presence_penalty,
            dry: self.dry.map(|multiplier| Dry { multiplier, ..Dry::default() }),
            penalty_window: self.penalty_window,
            seed: self.seed,
            ..SamplingParams::default()
        };
        params.validate().map_err(gently_infer::Error::from)?;
        if params.penalty_window > 0 && !params.penalises() {
            let what = format!("--penalty-window {} has no penalty to look back for", params.penalty_window);
            return Err(advise(what, "add --repetition-penalty, --frequency-penalty, --presence-penalty or --dry"));
        }
        Ok(params)
    }
}
