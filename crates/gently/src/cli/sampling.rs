//! Options of how tokens are chosen, shared by the commands that write.

use super::failure::advise;
use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use gently_models::sampling::{Dry, Mirostat, SamplingParams};
use gently_text::Tokenizer;

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
    /// With --top-p: whether the token that crosses the line is kept
    #[arg(long, value_enum, default_value_t = TopPRule::Crossing, requires = "top_p")]
    top_p_rule: TopPRule,
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
    /// Add VALUE to the logit of TOKEN: an id, or a text in double quotes that is one token; -inf rules it out; may be given several
    /// times
    #[arg(long, value_name = "TOKEN=VALUE", value_parser = bias)]
    logit_bias: Vec<Bias>,
    /// Seed of the random choices: the same seed writes the same text
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

/// What becomes of the token with which top-p reaches its probability.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum TopPRule {
    /// It is kept, as in the paper (Holtzman et al. 2020)
    Crossing,
    /// It is left out, unless it is the likeliest, as in the code published with GPT-2
    Original,
}

/// What is added to the logit of a token.
#[derive(Clone)]
struct Bias {
    token: Named,
    value: f32,
}

/// A token as it is named on the command line.
#[derive(Clone)]
enum Named {
    Id(u32),
    Text(String),
}

/// Reads `TOKEN=VALUE`.
fn bias(given: &str) -> Result<Bias, String> {
    let Some((token, value)) = given.rsplit_once('=') else {
        return Err("a token, = and a number are needed, as in 262=-1.5 or '\" the\"=-inf'".into());
    };
    let token = if token.starts_with('"') {
        // As in JSON: a token may be a quote or the end of a line.
        Named::Text(serde_json::from_str(token).map_err(|_| format!("{token} is no text in double quotes"))?)
    } else {
        let id = token.parse().map_err(|_| format!("{token:?} is no id; a token's text stands in double quotes"))?;
        Named::Id(id)
    };
    match value.parse::<f32>() {
        Ok(value) if value < f32::INFINITY => Ok(Bias { token, value }),
        _ => Err(format!("{value:?} is neither a number nor -inf")),
    }
}

impl Named {
    /// The token of this vocabulary.
    ///
    /// # Errors
    /// An id that no token has, a text that is not one token.
    fn id(&self, tokenizer: &Tokenizer) -> Result<u32> {
        let text = match self {
            Self::Id(id) if (*id as usize) < tokenizer.vocab_size() => return Ok(*id),
            Self::Id(id) => {
                let what = format!("--logit-bias {id}: the model has tokens 0 to {}", tokenizer.vocab_size() - 1);
                return Err(advise(what, "name a token of this model, or its text in double quotes"));
            }
            Self::Text(text) => text,
        };
        let named = || format!("--logit-bias {text:?}");
        let tokens = match tokenizer.encode_inside(text, true).with_context(named)?.as_deref() {
            Some([id]) => return Ok(*id),
            Some(ids) => format!("{} tokens, not one", ids.len()),
            None => "not one token".to_owned(),
        };
        let hint = "name a token by its id, or a text that is one token; gently score --tokens shows how a text is cut";
        Err(advise(format!("{} is {tokens}", named()), hint))
    }
}

/// How tokens are chosen, but for what only a vocabulary can tell.
pub struct Choice {
    params: SamplingParams,
    biases: Vec<Bias>,
}

impl Choice {
    /// Whether the likeliest token is always taken.
    pub fn is_greedy(&self) -> bool {
        self.params.temperature == 0.0
    }

    /// The parameters of the sampler.
    ///
    /// # Errors
    /// A bias of what is not one token of the vocabulary, or two of the same.
    pub fn of(self, tokenizer: &Tokenizer) -> Result<SamplingParams> {
        let mut params = self.params;
        for Bias { token, value } in self.biases {
            let id = token.id(tokenizer)?;
            if params.logit_bias.insert(id, value).is_some() {
                return Err(advise(format!("--logit-bias names token {id} twice"), "give each token one value"));
            }
        }
        Ok(params)
    }
}

impl Sampling {
    /// What was asked for.
    ///
    /// # Errors
    /// A parameter out of its range; a window of penalties without a penalty.
    pub fn choice(&self) -> Result<Choice> {
        let params = SamplingParams {
            temperature: self.temperature,
            top_k: self.top_k,
            top_p: self.top_p,
            top_p_strict: self.top_p_rule == TopPRule::Original,
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
        Ok(Choice { params, biases: self.logit_bias.clone() })
    }
}
