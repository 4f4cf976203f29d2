//! `gently generate`: continue a prompt with a model, streaming.

use super::constraint::Constraint;
use super::failure::advise;
use super::input;
use super::output::{data, rate, say};
use super::sampling::Sampling;
use anyhow::Result;
use clap::Args as ClapArgs;
use gently::prelude::*;
use gently::search::SearchOptions;
use gently::write::End;
use gently_infer::Token;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Options of `gently generate`.
#[derive(ClapArgs)]
#[command(allow_negative_numbers = true)]
#[command(
    after_help = "Examples:\n  gently generate runs/quickstart --prompt \"In the beginning \" --max-tokens 300\n  \
    echo -n \"And God said\" | gently generate runs/quickstart --prompt - --temperature 0\n  \
    gently generate smollm2-135m.gguf --chat --prompt \"What is photosynthesis, in one sentence?\" --temperature 0\n  \
    gently generate smollm2-135m.gguf --chat --prompt \"Who is Ada, aged 36?\" --json-schema \\\n    \
    '{\"type\": \"object\", \"properties\": {\"name\": {\"type\": \"string\"}, \"age\": {\"type\": \"integer\"}}, \
    \"required\": [\"name\", \"age\"], \"additionalProperties\": false}'\n  \
    gently generate smollm2-135m.gguf --prompt \"The sky is\" --beams 4 --max-tokens 12 --json\n  \
    gently generate smollm2-135m.gguf --prompt \"The sky is\" --logprobs 3 --max-tokens 4 --json"
)]
pub struct Args {
    /// A GGUF file, a run folder, a checkpoint, or a Hugging Face model folder
    model: PathBuf,
    /// The text to continue; `-` reads it from standard input
    #[arg(long, short, default_value = "")]
    prompt: String,
    /// Wrap the prompt in the model's own chat template, and print the answer alone
    #[arg(long)]
    chat: bool,
    /// With --chat: how the model is to behave
    #[arg(long, requires = "chat")]
    system: Option<String>,
    /// Write at most this many tokens
    #[arg(long, short = 'n', default_value_t = 200)]
    max_tokens: usize,
    #[command(flatten)]
    sampling: Sampling,
    #[command(flatten)]
    constraint: Constraint,
    /// End before this text comes; may be given several times
    #[arg(long)]
    stop: Vec<String>,
    #[command(flatten)]
    searching: super::searching::Searching,
    #[command(flatten)]
    engine: super::engine::Options,
    #[command(flatten)]
    guessing: super::engine::Guessing,
    /// With --json: the log-probability of each token, and of this many likeliest ones
    #[arg(long, value_name = "N", requires = "json", value_parser = clap::value_parser!(u8).range(..=100))]
    logprobs: Option<u8>,
    /// Print one JSON object when done instead of streaming the text
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: Args) -> Result<()> {
    let prompt = match args.prompt.as_str() {
        "-" => input::text(Path::new("-"), input::PROMPT)?,
        text => text.to_owned(),
    };
    let constraint = args.constraint.read()?;
    let sampling = args.sampling.params()?;
    if args.stop.iter().any(String::is_empty) {
        return Err(advise("--stop is empty: no text would begin", "leave it out, or say what the text ends before"));
    }
    let model = args.engine.open_guessing(&args.model, args.guessing)?;
    let begun = Instant::now();
    let ids = match args.chat {
        true => conversation(&model, args.system, &prompt)?,
        false => model.tokenizer().encode_prompt(&prompt)?,
    };
    if let Some(search) = args.searching.wanted() {
        let options = SearchOptions { search, max_tokens: args.max_tokens, stop: args.stop, answer: args.chat };
        let shown = if args.chat { "" } else { &prompt };
        return super::searching::run(&model, ids, shown, &options, args.json.then_some(&prompt));
    }
    let options = WriteOptions {
        max_tokens: args.max_tokens,
        sampling,
        stop: args.stop,
        constraint,
        answer: args.chat,
        logprobs: args.logprobs.map(usize::from),
    };
    let mut writer = Writer::of_tokens(&model, ids, &options)?;
    let left_out = writer.prompt_left_out();
    if left_out > 0 {
        say(&format!("the prompt is longer than the model can read: its first {left_out} tokens are left out"));
    }
    let (mut text, mut first) = (String::new(), None);
    if !args.json && !args.chat {
        data(&prompt)?;
    }
    for piece in writer.by_ref() {
        let piece = piece?;
        first.get_or_insert_with(|| begun.elapsed().as_secs_f64());
        if args.json {
            text.push_str(&piece);
        } else {
            data(&piece)?;
        }
    }
    let seconds = begun.elapsed().as_secs_f64();
    let tokens = writer.written().len();
    // Of what came after the first: the prompt's time, and that of a constraint's beginning, is not that of writing.
    let first = first.unwrap_or(seconds);
    let rate = rate(tokens, seconds - first);
    if args.json {
        let mut report = json!({
            "model": model.path(), "prompt": prompt, "text": text,
            "end": writer.end().unwrap_or(End::Length).name(),
            "prompt_tokens": writer.prompt_tokens(), "prompt_left_out": left_out, "tokens": tokens, "seconds": seconds,
            "tokens_per_second": tokens as f64 / seconds,
            "first_seconds": first, "decode_tokens_per_second": rate,
        });
        if args.logprobs.is_some() {
            let each = writer.written().iter().map(|t| likelihood(model.tokenizer(), t));
            report["logprobs"] = each.collect::<Result<_>>()?;
        }
        data(&format!("{report}\n"))?;
    } else {
        data("\n")?;
        let rate = rate.map_or(String::new(), |rate| format!(", {rate:.0} tokens/s"));
        say(&format!("{tokens} tokens{rate}; first after {:.0} ms", 1e3 * first));
    }
    Ok(())
}

/// A token, its log-probability, and the likeliest ones in its place.
fn likelihood(tokenizer: &Tokenizer, token: &Token) -> Result<Value> {
    let of = |id: u32, logprob: Option<f32>| -> Result<Value> {
        Ok(json!({ "id": id, "text": tokenizer.piece(id)?, "logprob": logprob }))
    };
    let mut value = of(token.id, token.logprob)?;
    value["top"] = token.top.iter().map(|(id, logprob)| of(*id, Some(*logprob))).collect::<Result<_>>()?;
    Ok(value)
}

/// The prompt as a conversation of one turn in the model's template, in tokens.
fn conversation(model: &TextModel, system: Option<String>, prompt: &str) -> Result<Vec<u32>> {
    let Some(template) = model.chat_template() else {
        let what = format!("{} has no chat template", model.path().display());
        return Err(advise(what, "leave --chat out, or take a model that was taught to chat"));
    };
    let mut messages: Vec<Message> = system.map(Message::system).into_iter().collect();
    messages.push(Message::user(prompt));
    let ids = model.encode_chat(template, &messages)?;
    // The end of a conversation alone is another one: without its system message, or beginning in the middle of a turn.
    match model.engine().plan().room() {
        Some(room) if ids.len() > room => Err(gently_infer::Error::TooLong { tokens: ids.len(), room }.into()),
        _ => Ok(ids),
    }
}
