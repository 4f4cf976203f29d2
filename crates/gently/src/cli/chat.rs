//! `gently chat`: a conversation with a model.

use super::constraint::Constraint;
use super::failure::advise;
use super::input;
use super::output::{data, rate, say};
use super::sampling::Sampling;
use anyhow::Result;
use clap::Args as ClapArgs;
use gently::text_model::TextModel;
use gently::write::{End, WriteOptions, Writer};
use gently_infer::Ticket;
use gently_text::{ChatTemplate, Message};
use rustyline::error::ReadlineError;
use rustyline::history::MemHistory;
use rustyline::{Config, Editor};
use serde_json::json;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// Options of `gently chat`.
#[derive(ClapArgs)]
#[command(allow_negative_numbers = true)]
#[command(
    after_help = "Ctrl-C stops an answer, Ctrl-D ends the conversation, /help shows the commands. A line that ends in \\ goes \
    on in the next one; a line of \"\"\" begins and ends a longer text, which is never a command.\n\nExamples:\n  gently chat SmolLM2-135M-Instruct.Q4_1.gguf\n  \
    echo \"Why is the sky blue?\" | gently chat models/SmolLM2 --temperature 0\n  \
    gently chat models/SmolLM2 --system \"Answer yes or no.\" --choice yes --choice no"
)]
pub struct Args {
    /// A GGUF file, a Hugging Face model folder, a run folder, or a checkpoint
    model: PathBuf,
    /// How the model is to behave
    #[arg(long)]
    system: Option<String>,
    /// Use the chat template in this file rather than the model's own
    #[arg(long, value_name = "FILE")]
    template: Option<PathBuf>,
    /// Write at most this many tokens in an answer
    #[arg(long, short = 'n', default_value_t = 1024)]
    max_tokens: usize,
    #[command(flatten)]
    sampling: Sampling,
    #[command(flatten)]
    constraint: Constraint,
    #[command(flatten)]
    engine: super::engine::Options,
    #[command(flatten)]
    guessing: super::engine::Guessing,
}

/// Runs the command.
pub fn run(args: Args) -> Result<()> {
    let constraint = args.constraint.read()?;
    let sampling = args.sampling.params()?;
    let model = args.engine.open_guessing(&args.model, args.guessing)?;
    if let Some(constraint) = &constraint {
        // What cannot be compiled is told before the first question.
        model.grammars()?.compile(constraint)?;
    }
    let own;
    let template = match &args.template {
        Some(file) => {
            own = ChatTemplate::new(&input::text(file, input::PROMPT)?, model.template_tokens()?, file)?;
            &own
        }
        None => model.chat_template().ok_or_else(|| {
            advise(
                format!("{} has no chat template", model.path().display()),
                "continue texts with gently generate, or give a template with --template FILE",
            )
        })?,
    };
    let options =
        WriteOptions { max_tokens: args.max_tokens, sampling, constraint, answer: true, ..WriteOptions::default() };
    let answering = stop_on_interrupt()?;
    let system = args.system.map(Message::system);
    let mut lines = Lines::new()?;
    let (messages, person) = (Vec::new(), lines.person);
    let mut chat = Chat { model: &model, template, options, answering, messages, system, last: None, person };
    if lines.person {
        say("Ctrl-C stops an answer, Ctrl-D ends the conversation, /help shows the commands.");
    }
    while let Some((text, fenced)) = lines.next()? {
        let text = text.trim();
        match text.strip_prefix('/').filter(|_| !fenced) {
            _ if text.is_empty() => {}
            Some(command) => {
                if !chat.command(command)? {
                    break;
                }
            }
            None => chat.ask(text)?,
        }
    }
    Ok(())
}

const COMMANDS: &str = "/system TEXT  say how the model is to behave (without TEXT: nothing special)
/undo         forget the last question and its answer
/again        answer the last question again
/clear        begin a new conversation
/save FILE    write the conversation as JSON
/load FILE    go on with a conversation that was saved
/stats        tokens and speed of the last answer
/quit         end the conversation";

/// A conversation.
struct Chat<'m> {
    model: &'m TextModel,
    template: &'m ChatTemplate,
    options: WriteOptions,
    /// The answer being written, for Ctrl-C.
    answering: Arc<Mutex<Option<Ticket>>>,
    system: Option<Message>,
    messages: Vec<Message>,
    last: Option<String>,
    /// As [`Lines::person`].
    person: bool,
}

impl Chat<'_> {
    /// Runs a command; `false` ends the conversation.
    fn command(&mut self, command: &str) -> Result<bool> {
        let (name, rest) = command.split_once(char::is_whitespace).unwrap_or((command, ""));
        let rest = rest.trim();
        match name {
            "help" => say(COMMANDS),
            "quit" | "exit" => return Ok(false),
            "system" => self.system = (!rest.is_empty()).then(|| Message::system(rest)),
            "clear" => self.messages.clear(),
            "undo" => self.forget(),
            "again" => match self.messages.iter().rev().find(|m| m.role == "user").cloned() {
                Some(question) => {
                    self.forget();
                    // Another answer, not the same one again.
                    self.options.sampling.seed = self.options.sampling.seed.wrapping_add(1);
                    self.ask(&question.content)?;
                }
                None => say("nothing was asked yet"),
            },
            "stats" => say(self.last.as_deref().unwrap_or("nothing was answered yet")),
            "save" | "load" if rest.is_empty() => say(&format!("/{name} needs a file")),
            // A wrong file must not end the conversation.
            "save" => match self.save(Path::new(rest)) {
                Ok(()) => say(&format!("saved to {rest}")),
                Err(e) => say(&format!("not saved: {e:#}")),
            },
            "load" => match self.load(Path::new(rest)) {
                Ok(()) => say(&format!("{} messages", self.messages.len())),
                Err(e) => say(&format!("not loaded: {e:#}")),
            },
            _ => say(&format!("there is no /{name}; /help shows the commands")),
        }
        Ok(true)
    }

    /// Forgets the last question and what followed.
    fn forget(&mut self) {
        let at = self.messages.iter().rposition(|m| m.role == "user");
        self.messages.truncate(at.unwrap_or(0));
    }

    /// Asks, and streams the answer.
    fn ask(&mut self, question: &str) -> Result<()> {
        self.messages.push(Message::user(question));
        let prompt = match self.prompt() {
            Ok(prompt) => prompt,
            Err(e) => {
                self.messages.pop();
                if !self.person {
                    // Who reads the answers counts them: one that is missing must not look like the next one.
                    return Err(e);
                }
                // Templates refuse some conversations; the person may say it otherwise.
                say(&format!("{e:#}"));
                return Ok(());
            }
        };
        let begun = Instant::now();
        let mut writer = Writer::of_tokens(self.model, prompt, &self.options)?;
        *lock(&self.answering) = Some(writer.ticket());
        let (mut answer, mut first) = (String::new(), None);
        let mut outcome = Ok(());
        for piece in writer.by_ref() {
            first.get_or_insert_with(|| begun.elapsed().as_secs_f64());
            match piece {
                Ok(piece) => {
                    data(&piece)?;
                    answer.push_str(&piece);
                }
                Err(e) => {
                    outcome = Err(e);
                    break;
                }
            }
        }
        *lock(&self.answering) = None;
        data("\n")?;
        outcome?;
        let (tokens, first) = (writer.written().len(), first.unwrap_or(0.0));
        let rate = rate(tokens, begun.elapsed().as_secs_f64() - first);
        let rate = rate.map_or(String::new(), |rate| format!(", {rate:.1} tokens/s"));
        let stopped = if writer.end() == Some(End::Cancelled) { ", stopped" } else { "" };
        let last = format!(
            "{tokens} tokens{stopped}{rate}; {} tokens read, first after {:.0} ms",
            writer.prompt_tokens(),
            1e3 * first
        );
        if std::io::stderr().is_terminal() {
            say(&dim(&last));
        }
        self.last = Some(last);
        self.messages.push(Message::assistant(answer));
        Ok(())
    }

    /// The conversation in tokens. Where it is longer than the model can read, with room for an answer, its oldest turns
    /// are left out. A question that does not fit even alone leaves the conversation as it was.
    fn prompt(&mut self) -> Result<Vec<u32>> {
        let room = self.model.engine().plan().room().unwrap_or(usize::MAX);
        let answer = self.options.max_tokens.min(room / 4);
        let mut first = 0;
        let ids = loop {
            let kept = &self.messages[first..];
            let all: Vec<Message> = self.system.iter().chain(kept).cloned().collect();
            let ids = self.model.encode_chat(self.template, &all)?;
            if ids.len() + answer <= room {
                break ids;
            }
            match kept.iter().skip(1).position(|m| m.role == "user") {
                Some(at) => first += at + 1,
                None if ids.len() < room => break ids,
                None => {
                    return Err(advise(
                        format!("{} tokens do not fit into a context of {room}", ids.len()),
                        "ask something shorter",
                    ));
                }
            }
        };
        if first > 0 {
            self.messages.drain(..first);
            say("the conversation is longer than the model can read: its beginning is left out");
        }
        Ok(ids)
    }

    fn save(&self, path: &Path) -> Result<()> {
        let message = |m: &Message| json!({"role": m.role, "content": m.content});
        let all: Vec<_> = self.system.iter().chain(&self.messages).map(message).collect();
        gently_formats::atomic::write(path, format!("{:#}\n", json!(all)).as_bytes())?;
        Ok(())
    }

    fn load(&mut self, path: &Path) -> Result<()> {
        let bad = || advise(format!("{} is not a list of messages", path.display()), "give a file that /save wrote");
        let text = input::text(path, input::PROMPT)?;
        let all: serde_json::Value = serde_json::from_str(&text).map_err(|_| bad())?;
        let mut messages = Vec::new();
        for message in all.as_array().ok_or_else(bad)? {
            let (Some(role), Some(content)) = (message["role"].as_str(), message["content"].as_str()) else {
                return Err(bad());
            };
            messages.push(Message { role: role.into(), content: content.into() });
        }
        self.system = match messages.first() {
            Some(m) if m.role == "system" => Some(messages.remove(0)),
            _ => None,
        };
        self.messages = messages;
        Ok(())
    }
}

fn dim(text: &str) -> String {
    match std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty()) {
        true => format!("\x1b[2m{text}\x1b[0m"),
        false => text.to_owned(),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// From here on Ctrl-C ends the answer being written, also while the prompt is read; with none, it ends the program.
fn stop_on_interrupt() -> Result<Arc<Mutex<Option<Ticket>>>> {
    let answering: Arc<Mutex<Option<Ticket>>> = Arc::default();
    let shared = answering.clone();
    let mut signals = signal_hook::iterator::Signals::new([signal_hook::consts::SIGINT])?;
    std::thread::Builder::new().name("gently-interrupt".into()).spawn(move || {
        for _ in signals.forever() {
            match lock(&shared).as_ref() {
                Some(ticket) => ticket.cancel(),
                None => {
                    // As the shell expects of a program that an interrupt ended.
                    let _ = std::io::stdout().flush();
                    std::process::exit(130);
                }
            }
        }
    })?;
    Ok(answering)
}

/// What the person says, of one line or several.
struct Lines {
    editor: Editor<(), MemHistory>,
    /// A person types, rather than a file.
    person: bool,
}

impl Lines {
    fn new() -> Result<Self> {
        let config = Config::builder().auto_add_history(true).build();
        let editor = Editor::with_history(config, MemHistory::new())?;
        Ok(Self { editor, person: std::io::stdin().is_terminal() })
    }

    fn line(&mut self, prompt: &str) -> Result<Option<String>> {
        loop {
            match self.editor.readline(if self.person { prompt } else { "" }) {
                Ok(line) => return Ok(Some(line)),
                Err(ReadlineError::Eof) => return Ok(None),
                Err(ReadlineError::Interrupted) => say("Ctrl-D or /quit ends the conversation"),
                Err(ReadlineError::Io(e)) if e.kind() == std::io::ErrorKind::InvalidData => {
                    let what = "a line is not UTF-8";
                    if !self.person {
                        return Err(advise(format!("standard input: {what}"), "convert it with iconv first"));
                    }
                    // The conversation is worth more than a key that this terminal sends otherwise.
                    say(&format!("{what} and is left out"));
                }
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// The next text, and whether it stood in a fence: what was pasted there may begin with a slash and is no command. `None`
    /// at the end.
    fn next(&mut self) -> Result<Option<(String, bool)>> {
        const FENCE: &str = "\"\"\"";
        let Some(mut text) = self.line("> ")? else { return Ok(None) };
        if let Some(rest) = text.trim_start().strip_prefix(FENCE) {
            let mut all = rest.to_owned();
            while !all.trim_end().ends_with(FENCE) {
                let Some(line) = self.line(". ")? else { break };
                all.push('\n');
                all.push_str(&line);
            }
            return Ok(Some((all.trim_end().trim_end_matches(FENCE).to_owned(), true)));
        }
        while let Some(begun) = text.strip_suffix('\\') {
            let begun = format!("{begun}\n");
            text = begun + &self.line(". ")?.unwrap_or_default();
        }
        Ok(Some((text, false)))
    }
}
