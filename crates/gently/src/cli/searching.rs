//! Options of texts that are looked for rather than drawn, and what `gently generate` prints of them.

use super::output::{data, say};
use anyhow::Result;
use clap::Args;
use gently::prelude::TextModel;
use gently::search::{Search, SearchOptions, search};
use serde_json::json;
use std::time::Instant;

/// What looking excludes: everything about drawing a token, what is told of tokens one by one, and texts from a state or several. Also
/// what needs one of these: clap asks for nothing that is excluded, and it would be dropped without a word.
const DRAWING: [&str; 23] = [
    "temperature",
    "top_k",
    "top_p",
    "top_p_rule",
    "min_p",
    "typical",
    "mirostat",
    "mirostat_rate",
    "repetition_penalty",
    "frequency_penalty",
    "presence_penalty",
    "dry",
    "penalty_window",
    "logit_bias",
    "seed",
    "samples",
    "constraint",
    "draft",
    "draft_tokens",
    "no_lookup",
    "logprobs",
    "save_state",
    "load_state",
];

/// A search in place of drawing tokens.
#[derive(Args, Clone)]
pub struct Searching {
    /// Look for the likeliest text, keeping this many at each step (beam search), instead of drawing tokens
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256), group = "search", conflicts_with_all = DRAWING)]
    beams: Option<u16>,
    /// With --beams: texts are compared by log-probability / tokens^this; above 0 longer ones win
    #[arg(long, default_value_t = 1.0, requires = "beams", value_parser = finite)]
    #[arg(conflicts_with_all = DRAWING, conflicts_with = "contrastive")]
    length_penalty: f64,
    /// Weigh variety against likelihood by this, 0 to 1 (contrastive search; 0.6 is usual), instead of drawing tokens
    #[arg(long, value_name = "WEIGHT", group = "search", conflicts_with_all = DRAWING)]
    contrastive: Option<f32>,
    /// With --contrastive: each token is one of this many likeliest
    #[arg(long, default_value_t = 4, requires = "contrastive", value_parser = clap::value_parser!(u16).range(1..=256))]
    #[arg(conflicts_with_all = DRAWING, conflicts_with = "beams")]
    candidates: u16,
}

impl Searching {
    /// The search that was asked for.
    pub fn wanted(&self) -> Option<Search> {
        let beam = |width| Search::Beam { width: usize::from(width), length_penalty: self.length_penalty };
        let contrastive = |alpha| Search::Contrastive { candidates: usize::from(self.candidates), alpha };
        self.beams.map(beam).or(self.contrastive.map(contrastive))
    }
}

fn finite(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(x) if x.is_finite() => Ok(x),
        _ => Err("a finite number is needed".into()),
    }
}

/// Looks, and prints the best text behind what is `shown` of the prompt; or all of them as JSON, with the prompt.
pub fn run(
    model: &TextModel,
    ids: Vec<u32>,
    shown: &str,
    options: &SearchOptions,
    json: Option<&String>,
) -> Result<()> {
    // A text without a prompt begins after a token all the same.
    let (begun, prompt_tokens) = (Instant::now(), ids.len().max(1));
    let found = search(model, ids, options)?;
    let seconds = begun.elapsed().as_secs_f64();
    if let Some(prompt) = json {
        let texts: Vec<_> = found
            .iter()
            .map(|f| {
                let mut text = json!({ "text": f.text, "end": f.end.name(), "tokens": f.tokens });
                if let Some((logprob, score)) = f.likelihood {
                    text["logprob"] = json!(logprob);
                    text["score"] = json!(score);
                }
                text
            })
            .collect();
        let report = json!({
            "model": model.path(), "prompt": prompt, "prompt_tokens": prompt_tokens, "texts": texts, "seconds": seconds,
        });
        data(&format!("{report}\n"))?;
        return Ok(());
    }
    let best = found.first();
    data(&format!("{shown}{}\n", best.map_or("", |f| &f.text)))?;
    let tokens = best.map_or(0, |f| f.tokens);
    let likelihood = best.and_then(|f| f.likelihood);
    let likelihood = likelihood.map_or(String::new(), |(logprob, _)| format!(", log-probability {logprob:.2}"));
    say(&format!("{tokens} tokens{likelihood}; {seconds:.2} s"));
    Ok(())
}
