//! `gently generate`: continue a prompt with a model, streaming.

use super::constraint::Constraint;
use super::failure::{advise, is_gone};
use super::input;
use super::output::{data, rate, say};
use super::overwrite;
use super::sampling::Sampling;
use anyhow::{Context, Result};
use clap::Args as ClapArgs;
use gently::prelude::*;
use gently::search::SearchOptions;
use gently::write::{End, read_before, samples};
use gently_infer::{State, Token, Work};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Options of `gently generate`.
#[derive(ClapArgs)]
#[command(allow_negative_numbers = true)]
#[command(after_help = "Examples:
  gently generate runs/quickstart --prompt \"In the beginning \" --max-tokens 300
  echo -n \"And God said\" | gently generate runs/quickstart --prompt - \\
    --temperature 0
  gently generate smollm2.gguf --chat --temperature 0 \\
    --prompt \"What is photosynthesis, in one sentence?\"
  gently generate smollm2.gguf --chat --prompt \"Who is Ada, aged 36?\" \\
    --json-schema '{\"type\": \"object\", \"properties\": {\"name\": {\"type\": \"string\"},
    \"age\": {\"type\": \"integer\"}}, \"required\": [\"name\", \"age\"],
    \"additionalProperties\": false}'
  gently generate smollm2.gguf --prompt \"The sky is\" --beams 4 --json
  gently generate smollm2.gguf --prompt \"The sky is\" --logprobs 3 --json
  gently generate smollm2.gguf --prompt \"The sky is\" --top-p 0.9 \\
    --top-p-rule original
  gently generate smollm2.gguf --prompt \"The sky is\" --logit-bias '\" blue\"=-inf'
  gently generate smollm2.gguf --prompt \"The sky is\" --samples 3
  gently generate smollm2.gguf --prompt - --max-tokens 0 \\
    --save-state book.state < book.txt > /dev/null
  gently generate smollm2.gguf --load-state book.state --prompt \" In short,\"")]
pub struct Args {
    /// A GGUF file, a run folder, a checkpoint, or a Hugging Face model folder
    model: PathBuf,
    /// The text to continue; `-` reads it from standard input
    #[arg(long, short, default_value = "", allow_hyphen_values = true)]
    prompt: String,
    /// Wrap the prompt in the model's own chat template, and print the answer alone
    #[arg(long)]
    chat: bool,
    /// With --chat: how the model is to behave
    // What excludes --chat, or --system would be dropped without a word: clap asks for nothing that another option excludes.
    #[arg(long, requires = "chat", conflicts_with_all = ["save_state", "load_state"], allow_hyphen_values = true)]
    system: Option<String>,
    /// Write at most this many tokens
    #[arg(long, short = 'n', default_value_t = 200)]
    max_tokens: usize,
    #[command(flatten)]
    sampling: Sampling,
    #[command(flatten)]
    constraint: Constraint,
    /// End before this text comes; may be given several times
    #[arg(long, allow_hyphen_values = true)]
    stop: Vec<String>,
    /// Write this many texts, the first with --seed, each other with one more; the prompt is read once
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    samples: Option<u16>,
    /// Save in this file what was read and written, for --load-state to go on with
    #[arg(long, value_name = "FILE", conflicts_with_all = ["chat", "samples"])]
    save_state: Option<PathBuf>,
    /// Go on with what --save-state saved in this file, of the same model: --prompt follows it, and it is not read again
    #[arg(long, value_name = "FILE", conflicts_with = "chat")]
    load_state: Option<PathBuf>,
    #[command(flatten)]
    searching: super::searching::Searching,
    #[command(flatten)]
    engine: super::engine::Options,
    #[command(flatten)]
    speculation: super::engine::Speculation,
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
        "-" => input::text(Path::new("-"), input::PROMPT, "--prompt")?,
        text => text.to_owned(),
    };
    let constraint = args.constraint.read()?;
    let choice = args.sampling.choice()?;
    if args.stop.iter().any(String::is_empty) {
        return Err(advise("--stop is empty: no text would begin", "leave it out, or say what the text ends before"));
    }
    let count = args.samples.map(usize::from);
    if choice.is_greedy() && count > Some(1) {
        let what = "--samples with --temperature 0 would write the same text again and again";
        return Err(advise(what, "choose a temperature such as 0.8, or look for several texts with --beams"));
    }
    if let Some(file) = &args.save_state {
        overwrite::refuse_unwritable(file)?;
        let mut read = overwrite::files_of_named(&args.model)?;
        if let Some(draft) = args.speculation.model() {
            read.extend(overwrite::files_of_named(draft)?);
        }
        read.extend(args.constraint.file().map(Path::to_owned));
        overwrite::refuse(read, file)?;
        overwrite::refuse_others(file, "saved state", State::is_saved_in)?;
    }
    let model = args.engine.open_speculating(&args.model, args.speculation, count.unwrap_or(1))?;
    let sampling = choice.of(model.tokenizer())?;
    args.constraint.compile(constraint.as_ref(), &model)?;
    let begun = Instant::now();
    let mut state = args.load_state.as_deref().map(|file| loaded(&model, file)).transpose()?;
    let ids = match &state {
        Some(state) => following(model.tokenizer(), state.tokens(), &prompt)?,
        None if args.chat => conversation(&model, args.system, &prompt)?,
        None => model.tokenizer().encode_prompt(&prompt)?,
    };
    if let Some(search) = args.searching.wanted() {
        let options = SearchOptions { search, max_tokens: args.max_tokens, stop: args.stop, answer: args.chat };
        let shown = if args.chat { "" } else { &prompt };
        return super::searching::run(&model, ids, shown, &options, args.json.then_some(&prompt));
    }
    if args.save_state.is_some() {
        all_is_read(&model, ids.len(), args.max_tokens)?;
        state = Some(read_before(&model, &ids, state)?);
    }
    let options = WriteOptions {
        max_tokens: args.max_tokens,
        sampling,
        stop: args.stop,
        constraint,
        answer: args.chat,
        logprobs: args.logprobs.map(usize::from),
        state: state.clone(),
    };
    let shown = if args.chat { "" } else { &prompt };
    let logprobs = args.logprobs.is_some();
    let show = Show { model: &model, prompt: &prompt, shown, json: args.json, logprobs, begun };
    if let Some(count) = count {
        return show.several(samples(&model, &ids, &options, count)?, options.sampling.seed);
    }
    let mut writer = Writer::of_tokens(&model, ids, &options)?;
    let shown = show.one(&mut writer);
    if let (Some(file), Some(state)) = (&args.save_state, state)
        && shown.as_ref().err().is_none_or(is_gone)
    {
        // Whoever read the text went away and wants no more of it; the state is wanted all the same.
        writer.by_ref().try_for_each(|piece| piece.map(|_| ()))?;
        saved(&model, &writer, state, file)?;
    }
    shown
}

/// The state in a file, for this model to go on with.
fn loaded(model: &TextModel, file: &Path) -> Result<State> {
    let failed = || format!("{} is nothing that {} can go on with", file.display(), model.path().display());
    State::load(file, model.engine().plan()).with_context(failed)
}

/// These tokens, and those of a text that follows them.
fn following(tokenizer: &Tokenizer, before: &[u32], text: &str) -> Result<Vec<u32>> {
    if before.is_empty() {
        return Ok(tokenizer.encode_prompt(text)?);
    }
    let more = match tokenizer.encode_inside(text, true)? {
        Some(ids) => ids,
        None => tokenizer.encode_with_specials(text)?,
    };
    Ok([before, &more].concat())
}

/// Refuses a text whose beginning the model may no longer see at its end: no state has read all of it.
fn all_is_read(model: &TextModel, prompt: usize, max_tokens: usize) -> Result<()> {
    // A text without a prompt begins after a token all the same.
    let (prompt, room) = (prompt.max(1), model.engine().plan().most());
    if prompt.saturating_add(max_tokens) <= room {
        return Ok(());
    }
    let what =
        format!("--save-state: {prompt} tokens of a prompt and {max_tokens} more do not fit into a context of {room}");
    let hint = match max_tokens {
        0 => "give a shorter prompt",
        _ => "write fewer with --max-tokens, or give a shorter prompt",
    };
    Err(advise(what, hint))
}

/// Saves the state behind the last token. What is read of the prompt is not read again.
fn saved(model: &TextModel, writer: &Writer, mut state: State, file: &Path) -> Result<()> {
    let written = writer.written().iter().map(|token| token.id);
    let all: Vec<u32> = writer.prompt().iter().copied().chain(written).collect();
    state.keep_common(&all);
    let read = state.len();
    model.engine().plan().prefill(&mut Work::new(), &mut state, &all[read..])?;
    state.save(file)?;
    say(&format!("{} tokens are saved in {}", all.len(), file.display()));
    Ok(())
}

/// How texts are printed.
struct Show<'a> {
    model: &'a TextModel,
    prompt: &'a str,
    /// What of the prompt stands before a text.
    shown: &'a str,
    json: bool,
    logprobs: bool,
    begun: Instant,
}

impl Show<'_> {
    /// One text.
    fn one(&self, writer: &mut Writer) -> Result<()> {
        let left_out = left_out(writer);
        let (text, first) = self.write(writer)?;
        let (tokens, seconds) = (writer.written().len(), self.begun.elapsed().as_secs_f64());
        // Of what came after the first: the prompt's time, and that of a constraint's beginning, is not that of writing.
        let first = first.unwrap_or(seconds);
        let rate = rate(tokens, seconds - first);
        if self.json {
            let mut report = self.told(writer, &text)?;
            report["model"] = json!(self.model.path());
            report["prompt"] = json!(self.prompt);
            report["prompt_tokens"] = json!(writer.prompt_tokens());
            report["prompt_left_out"] = json!(left_out);
            report["seconds"] = json!(seconds);
            report["tokens_per_second"] = json!(tokens as f64 / seconds);
            report["first_seconds"] = json!(first);
            report["decode_tokens_per_second"] = json!(rate);
            return data(&format!("{report}\n"));
        }
        let rate = rate.map_or(String::new(), |rate| format!(", {rate:.0} tokens/s"));
        say(&format!("{tokens} tokens{rate}; first after {:.0} ms", 1e3 * first));
        Ok(())
    }

    /// Texts after one prompt, each with its seed, one behind the other.
    fn several(&self, writers: Vec<Writer>, seed: u64) -> Result<()> {
        let (count, mut texts, mut tokens) = (writers.len(), Vec::new(), 0);
        let prompt_tokens = writers.first().map_or(0, Writer::prompt_tokens);
        let left_out = writers.first().map_or(0, left_out);
        for (i, mut writer) in writers.into_iter().enumerate() {
            let seed = seed.wrapping_add(i as u64);
            if !self.json {
                say(&format!("text {} of {count}, seed {seed}:", i + 1));
            }
            let (text, _) = self.write(&mut writer)?;
            tokens += writer.written().len();
            let mut told = self.told(&writer, &text)?;
            told["seed"] = json!(seed);
            texts.push(told);
        }
        let seconds = self.begun.elapsed().as_secs_f64();
        if self.json {
            let report = json!({
                "model": self.model.path(), "prompt": self.prompt, "prompt_tokens": prompt_tokens,
                "prompt_left_out": left_out, "texts": texts, "seconds": seconds,
            });
            return data(&format!("{report}\n"));
        }
        say(&format!("{tokens} tokens; {seconds:.2} s"));
        Ok(())
    }

    /// Writes a text to its end, streaming it unless it becomes JSON; gives it then, and when its first piece came.
    fn write(&self, writer: &mut Writer) -> Result<(String, Option<f64>)> {
        let (mut text, mut first) = (String::new(), None);
        let mut begun = !self.json && !self.shown.is_empty();
        if begun {
            data(self.shown)?;
        }
        for piece in writer.by_ref() {
            let piece = match piece {
                Ok(piece) => piece,
                Err(error) => {
                    // What is told of it has a line of its own.
                    if begun {
                        let _ = data("\n");
                    }
                    return Err(error.into());
                }
            };
            first.get_or_insert_with(|| self.begun.elapsed().as_secs_f64());
            match self.json {
                true => text.push_str(&piece),
                false => {
                    data(&piece)?;
                    begun = true;
                }
            }
        }
        if !self.json {
            data("\n")?;
        }
        Ok((text, first))
    }

    /// A text as JSON.
    fn told(&self, writer: &Writer, text: &str) -> Result<Value> {
        let tokens = writer.written();
        let mut told = json!({ "text": text, "end": writer.end().map(End::name), "tokens": tokens.len() });
        if self.logprobs {
            let each = tokens.iter().map(|token| likelihood(self.model.tokenizer(), token));
            told["logprobs"] = each.collect::<Result<_>>()?;
        }
        Ok(told)
    }
}

/// Says how much of the prompt is not read, and gives it.
fn left_out(writer: &Writer) -> usize {
    let left_out = writer.prompt_left_out();
    if left_out > 0 {
        say(&format!("the prompt is longer than the model can read: its first {left_out} tokens are left out"));
    }
    left_out
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
    let Some(template) = model.chat_template()? else {
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
