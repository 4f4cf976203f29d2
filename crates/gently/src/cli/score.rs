//! `gently score`: how likely a text is to a model.

use super::failure::advise;
use super::input;
use super::output::{data, table};
use anyhow::Result;
use clap::Args as ClapArgs;
use gently_infer::{Piece, Plan, Wanted, Work, check_logits};
use gently_models::sampling::logprobs;
use gently_text::Tokenizer;
use serde_json::json;
use std::path::PathBuf;

/// Options of `gently score`.
#[derive(ClapArgs)]
#[command(after_help = "Examples:\n  gently score runs/quickstart --file book.txt\n  \
    gently score runs/quickstart --text \"In the beginning God created\" --tokens")]
pub struct Args {
    /// A GGUF file, a run folder, a checkpoint, or a Hugging Face model folder
    model: PathBuf,
    /// Score this text; special tokens that are spelled out in it are read as such, as in prompts
    #[arg(long, conflicts_with = "file", required_unless_present = "file", allow_hyphen_values = true)]
    text: Option<String>,
    /// Score the text in this file, read in the same way; `-` reads standard input
    #[arg(long)]
    file: Option<PathBuf>,
    /// Print each token with its log-probability
    #[arg(long)]
    tokens: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    engine: super::engine::Reading,
}

/// Runs the command.
pub fn run(args: Args) -> Result<()> {
    let text = match (args.text, &args.file) {
        (Some(text), _) => text,
        (None, Some(file)) => input::text(file, input::BOOK, "--file")?,
        (None, None) => unreachable!("one of the two is required"),
    };
    let model = args.engine.open(&args.model)?;
    let tokenizer = model.tokenizer();
    // The first token is likely or not after a beginning of text, where the vocabulary has one.
    let ids = tokenizer.encode_begun(&text)?;
    if ids.len() < 2 {
        return Err(advise("there is nothing to score: the text has fewer than two tokens", "give a longer text"));
    }
    let scores = score(model.engine().plan(), &ids)?;
    let total: f64 = scores.iter().map(|s| f64::from(*s)).sum();
    let nats = -total / scores.len() as f64;
    let bytes = text.len().saturating_sub(unscored(tokenizer, &text, &ids)?);
    let bits_per_byte = -total / std::f64::consts::LN_2 / bytes as f64;
    let pieces = || -> Result<Vec<String>> {
        // Some vocabularies have a space in front of a text, which is not the text's.
        let begun = tokenizer.beginning()?.is_some();
        let piece = |(i, id): (usize, &u32)| match begun && i == 0 {
            true => tokenizer.decode(&[*id]),
            false => tokenizer.piece(*id),
        };
        Ok(ids[1..].iter().enumerate().map(piece).collect::<Result<_, _>>()?)
    };
    if args.json {
        let mut report = json!({
            "model": model.path(), "tokens": scores.len(), "bytes": bytes, "log_likelihood": total,
            "nats_per_token": nats, "perplexity": nats.exp(), "bits_per_byte": bits_per_byte,
        });
        if args.tokens {
            report["ids"] = json!(ids[1..]);
            report["pieces"] = json!(pieces()?);
            report["logprobs"] = json!(scores);
        }
        data(&format!("{report}\n"))?;
        return Ok(());
    }
    if args.tokens {
        let rows: Vec<_> =
            pieces()?.iter().zip(&scores).map(|(p, s)| vec![format!("{p:?}"), format!("{s:.3}")]).collect();
        data(&table(&rows))?;
        data("\n")?;
    }
    let rows = [
        ("tokens", scores.len().to_string()),
        ("log-likelihood, nats", format!("{total:.3}")),
        ("nats per token", format!("{nats:.4}")),
        ("perplexity", format!("{:.3}", nats.exp())),
        ("bits per byte", format!("{bits_per_byte:.4}")),
    ];
    data(&table(&rows.map(|(k, v)| vec![k.to_owned(), v])))?;
    Ok(())
}

/// Bytes of a text that its first token stands for, which is not scored: none where that token was put in front.
fn unscored(tokenizer: &Tokenizer, text: &str, ids: &[u32]) -> Result<usize> {
    let Some(beginning) = tokenizer.beginning()? else {
        return Ok(tokenizer.decode_bytes(&ids[..1])?.len());
    };
    let name = tokenizer.token(beginning).unwrap_or_default();
    if name.is_empty() || !text.starts_with(&name) {
        return Ok(0);
    }
    // The text spells the token: as often as what follows, where it was put in front, and once more where it was not.
    let times = |mut text: &str| {
        let mut times = 0;
        while let Some(rest) = text.strip_prefix(&name) {
            (text, times) = (rest, times + 1);
        }
        times
    };
    let spelled = times(&tokenizer.decode(&ids[1..])?) < times(text);
    Ok(if spelled { name.len() } else { 0 })
}

/// Rows whose logits are computed at a time: a bound on memory.
const CHUNK: usize = 128;

/// Log-probability of each token but the first. A text longer than the model's context is read in windows that overlap by
/// half, so that each token has at least half a context before it.
fn score(plan: &Plan, ids: &[u32]) -> Result<Vec<f32>> {
    let (vocab, room) = (plan.config().vocab, plan.room().unwrap_or(usize::MAX));
    let mut work = Work::new();
    let mut scores = Vec::with_capacity(ids.len() - 1);
    let mut start = 0usize;
    loop {
        let end = ids.len().min(start.saturating_add(room));
        let mut state = plan.state();
        let mut at = start;
        while at < end {
            let next = end.min(at + CHUNK);
            let mut pieces = [Piece { state: &mut state, tokens: &ids[at..next], wanted: Wanted::All }];
            let logits = plan.forward(&mut work, &mut pieces, &|| true)?.unwrap_or(&[]);
            for (row, i) in logits.chunks_exact(vocab).zip(at..next) {
                // The logits after token i say how likely token i + 1 was; earlier windows have scored some.
                if i == scores.len() && i + 1 < ids.len() {
                    check_logits(row, i + 1).map_err(gently_infer::Error::from)?;
                    scores.push(logprobs(row, ids[i + 1], 0).0);
                }
            }
            at = next;
        }
        if end == ids.len() {
            return Ok(scores);
        }
        // A context of one token has no half.
        start += (room / 2).max(1);
    }
}
