//! `gently chat`: a conversation with a model.

use super::constraint::Constraint;
use super::failure::{advise, tell};
use super::input;
use super::interrupt;
use super::output::{data, rate, say};
use super::overwrite;
use super::sampling::Sampling;
use anyhow::Result;
use clap::Args as ClapArgs;
use gently::folder;
use gently::text_model::TextModel;
use gently::write::{End, WriteOptions, Writer};
use gently_infer::Ticket;
use gently_text::{ChatTemplate, Message};
use gently_train::terminal::wants_colours;
use rustyline::error::ReadlineError;
use rustyline::history::MemHistory;
use rustyline::{Config, Editor};
use serde_json::json;
use signal_hook::consts::SIGINT;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// Options of `gently chat`.
#[derive(ClapArgs)]
#[command(allow_negative_numbers = true)]
#[command(
    after_help = "Ctrl-C stops an answer, Ctrl-D ends the conversation, /help shows the commands. A line that ends in \\ goes \
    on in the next one; a line of \"\"\" begins and ends a longer text, which is never a command; Ctrl-C in it leaves it out. Where \
    the questions are a file's, what cannot be done or answered ends the conversation with an error.\n\nExamples:\n  gently chat SmolLM2-135M-Instruct.Q4_1.gguf\n  \
    echo \"Why is the sky blue?\" | gently chat models/SmolLM2 --temperature 0\n  \
    gently chat smollm2.gguf --system \"Answer yes or no.\" --choice yes --choice no"
)]
pub struct Args {
    /// A GGUF file, a Hugging Face model folder, a run folder, or a checkpoint
    model: PathBuf,
    /// How the model is to behave
    #[arg(long, allow_hyphen_values = true)]
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
    speculation: super::engine::Speculation,
}

/// Runs the command.
pub fn run(args: Args) -> Result<()> {
    let constraint = args.constraint.read()?;
    let choice = args.sampling.choice()?;
    let model = args.engine.open_speculating(&args.model, args.speculation, 1)?;
    let sampling = choice.of(model.tokenizer())?;
    args.constraint.compile(constraint.as_ref(), &model)?;
    let own;
    let template = match &args.template {
        Some(file) => {
            own = ChatTemplate::new(&input::text(file, input::PROMPT, "--template")?, model.template_tokens()?, file)?;
            &own
        }
        None => model.chat_template()?.ok_or_else(|| {
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
        match text.strip_prefix('/').filter(|_| !fenced) {
            _ if text.trim().is_empty() => {}
            Some(command) => {
                if !chat.command(command)? {
                    break;
                }
            }
            None => chat.ask(&text)?,
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
            "undo" => self.forget()?,
            "again" => self.again()?,
            "stats" => say(self.last.as_deref().unwrap_or("nothing was answered yet")),
            "save" | "load" if rest.is_empty() => {
                self.wrong(advise(format!("/{name} needs a file"), format!("give its name: /{name} FILE")))?;
            }
            "save" => match self.save(Path::new(rest)) {
                Ok(()) => say(&format!("saved to {rest}")),
                Err(e) => self.wrong(e.context("not saved"))?,
            },
            "load" => match self.load(Path::new(rest)) {
                Ok(()) => say(&format!("{} messages", self.messages.len())),
                Err(e) => self.wrong(e.context("not loaded"))?,
            },
            _ => self.wrong(advise(
                format!("there is no /{name}"),
                "/help shows the commands; what begins with / and is none stands between two lines of \"\"\"",
            ))?,
        }
        Ok(true)
    }

    /// What cannot be done. A person is told, and goes on: the conversation is worth more than one question, which may be said
    /// otherwise. Who reads the answers to a file counts them: one that is missing, or of another conversation, must not look like
    /// the next one.
    fn wrong(&self, error: anyhow::Error) -> Result<()> {
        if !self.person {
            return Err(error);
        }
        tell(&error);
        Ok(())
    }

    /// Where the last question is.
    fn last_question(&self) -> Option<usize> {
        self.messages.iter().rposition(|m| m.role == "user")
    }

    /// Forgets the last question and what followed.
    fn forget(&mut self) -> Result<()> {
        let Some(at) = self.last_question() else { return self.nothing() };
        self.messages.truncate(at);
        Ok(())
    }

    /// What is about the last question is asked where there is none.
    fn nothing(&self) -> Result<()> {
        self.wrong(advise("nothing was asked yet", "ask first"))
    }

    /// Asks, and streams the answer.
    fn ask(&mut self, question: &str) -> Result<()> {
        let before = self.messages.clone();
        self.messages.push(Message::user(question));
        if !self.answer()? {
            self.messages = before;
        }
        Ok(())
    }

    /// Answers the last question again. The old answer stays where there is no other.
    fn again(&mut self) -> Result<()> {
        let Some(at) = self.last_question() else { return self.nothing() };
        let (before, seed) = (self.messages.clone(), self.options.sampling.seed);
        self.messages.truncate(at + 1);
        // Another answer, not the same one again.
        self.options.sampling.seed = seed.wrapping_add(1);
        if !self.answer()? {
            (self.messages, self.options.sampling.seed) = (before, seed);
        }
        Ok(())
    }

    /// Answers the question that the messages end with. `false` where that failed, which a person is told.
    fn answer(&mut self) -> Result<bool> {
        match self.write()? {
            Ok(answer) => self.messages.push(Message::assistant(answer)),
            Err(e) => {
                self.wrong(e)?;
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Streams an answer and gives it, or why there is none.
    ///
    /// # Errors
    /// An output that cannot be written.
    fn write(&mut self) -> Result<Result<String>> {
        // Templates refuse some conversations.
        let prompt = match self.prompt() {
            Ok(prompt) => prompt,
            Err(e) => return Ok(Err(e)),
        };
        let begun = Instant::now();
        let mut writer = match Writer::of_tokens(self.model, prompt, &self.options) {
            Ok(writer) => writer,
            Err(e) => return Ok(Err(e.into())),
        };
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
        if let Err(e) = outcome {
            return Ok(Err(e.into()));
        }
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
        Ok(Ok(answer))
    }

    /// The conversation in tokens. Where it is longer than the model can read, with room for an answer, its oldest turns
    /// are left out of them; the conversation keeps them. The last question may take the answer's room.
    fn prompt(&self) -> Result<Vec<u32>> {
        let room = self.model.engine().plan().room().unwrap_or(usize::MAX);
        let answer = self.options.max_tokens.min(room / 4);
        let fits = |ids: &[u32]| ids.len().saturating_add(answer) <= room;
        let encode = |first: usize| -> Result<Vec<u32>> {
            let all: Vec<Message> = self.system.iter().chain(&self.messages[first..]).cloned().collect();
            Ok(self.model.encode_chat(self.template, &all)?)
        };
        let mut ids = encode(0)?;
        if fits(&ids) {
            return Ok(ids);
        }
        // A later turn leaves fewer tokens: the first that fits is looked for by halves, as a long conversation has many.
        let turns: Vec<usize> = (1..self.messages.len()).filter(|at| self.messages[*at].role == "user").collect();
        let (mut low, mut high) = (0, turns.len().saturating_sub(1));
        while low < high {
            let middle = (low + high) / 2;
            match fits(&encode(turns[middle])?) {
                true => high = middle,
                false => low = middle + 1,
            }
        }
        if let Some(first) = turns.get(low) {
            ids = encode(*first)?;
        }
        if !fits(&ids) && ids.len() >= room {
            return Err(advise(
                format!("{} tokens do not fit into a context of {room}", ids.len()),
                "ask something shorter",
            ));
        }
        if !turns.is_empty() {
            say("the conversation is longer than the model can read: its beginning is left out of what it reads");
        }
        Ok(ids)
    }

    /// Writes the conversation to a new file, or in the place of another conversation.
    fn save(&self, path: &Path) -> Result<()> {
        let model = self.model.path();
        overwrite::refuse([&[model.to_owned()], &folder::model_files(model)[..]].concat(), path)?;
        overwrite::refuse_others(path, "saved conversation", |path| conversation(path).is_ok())?;
        let message = |m: &Message| json!({"role": m.role, "content": m.content});
        let all: Vec<_> = self.system.iter().chain(&self.messages).map(message).collect();
        gently_formats::atomic::write(path, format!("{:#}\n", json!(all)).as_bytes())?;
        Ok(())
    }

    fn load(&mut self, path: &Path) -> Result<()> {
        let mut messages = conversation(path)?;
        self.system = match messages.first() {
            Some(m) if m.role == "system" => Some(messages.remove(0)),
            _ => None,
        };
        self.messages = messages;
        Ok(())
    }
}

/// The messages in a file that `/save` wrote.
fn conversation(path: &Path) -> Result<Vec<Message>> {
    let bad = || advise(format!("{} is not a list of messages", path.display()), "give a file that /save wrote");
    let text = input::file(path, input::PROMPT)?;
    let all: serde_json::Value = serde_json::from_str(&text).map_err(|_| bad())?;
    let mut messages = Vec::new();
    for message in all.as_array().ok_or_else(bad)? {
        let (Some(role), Some(content)) = (message["role"].as_str(), message["content"].as_str()) else {
            return Err(bad());
        };
        messages.push(Message { role: role.into(), content: content.into() });
    }
    Ok(messages)
}

fn dim(text: &str) -> String {
    match wants_colours() {
        true => format!("\x1b[2m{text}\x1b[0m"),
        false => text.to_owned(),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// From here on Ctrl-C ends the answer being written, also while the prompt is read; with none, it ends the program, as SIGTERM does
/// always. What is half saved does not stay.
fn stop_on_interrupt() -> Result<Arc<Mutex<Option<Ticket>>>> {
    let answering: Arc<Mutex<Option<Ticket>>> = Arc::default();
    let shared = answering.clone();
    interrupt::each(&interrupt::ENDING, move |signal| match lock(&shared).as_ref() {
        Some(ticket) if signal == SIGINT => ticket.cancel(),
        _ => interrupt::end(signal),
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

    fn line(&mut self, prompt: &str) -> Result<Typed> {
        loop {
            match self.editor.readline(if self.person { prompt } else { "" }) {
                Ok(line) => return Ok(Typed::Line(line)),
                Err(ReadlineError::Eof) => return Ok(Typed::End),
                Err(ReadlineError::Interrupted) => return Ok(Typed::Interrupted),
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

    fn next(&mut self) -> Result<Option<(String, bool)>> {
        gather(|prompt| self.line(prompt))
    }
}

/// What comes when a line is asked for.
enum Typed {
    Line(String),
    /// Ctrl-C.
    Interrupted,
    /// Ctrl-D, or the end of a file.
    End,
}

const FENCE: &str = "\"\"\"";

/// The next text, and whether it stood in a fence: what was pasted there may begin with a slash and is no command, and keeps the
/// white space around it. `None` at the end. `line` gives the next line, after a prompt.
fn gather(mut line: impl FnMut(&str) -> Result<Typed>) -> Result<Option<(String, bool)>> {
    loop {
        let first = match line("> ")? {
            Typed::Line(first) => first,
            Typed::End => return Ok(None),
            Typed::Interrupted => {
                say("Ctrl-D or /quit ends the conversation");
                continue;
            }
        };
        let begun = first.trim_start().strip_prefix(FENCE).map(str::to_owned);
        let fence = begun.is_some();
        let whole = match begun {
            Some(begun) => fenced(begun, &mut line)?,
            None => joined(first, &mut line)?.map(|text| text.trim().to_owned()),
        };
        match whole {
            Some(text) => return Ok(Some((text, fence))),
            None => say("the text is left out"),
        }
    }
}

/// Lines up to the end of a fence, of which the first has `begun`. `None` after Ctrl-C.
fn fenced(begun: String, line: &mut impl FnMut(&str) -> Result<Typed>) -> Result<Option<String>> {
    // A fence on a line of its own ends with one: what is pasted may have lines that end as it does.
    let alone = begun.trim().is_empty();
    // The ends of the fences' own lines are not the text's.
    let (mut lines, mut next) = (Vec::new(), Some(begun).filter(|_| !alone));
    loop {
        if let Some(last) = next {
            if let Some(rest) = last.trim_end().strip_suffix(FENCE)
                && (!alone || rest.is_empty())
            {
                lines.extend(Some(rest.to_owned()).filter(|rest| !rest.trim().is_empty()));
                return Ok(Some(lines.join("\n")));
            }
            lines.push(last);
        }
        next = match line(". ")? {
            Typed::Line(next) => Some(next),
            // What is there is all there is.
            Typed::End => return Ok(Some(lines.join("\n"))),
            Typed::Interrupted => return Ok(None),
        };
    }
}

/// A text with the lines that it goes on in, one after each that ends in a backslash. `None` after Ctrl-C.
fn joined(mut text: String, line: &mut impl FnMut(&str) -> Result<Typed>) -> Result<Option<String>> {
    while text.ends_with('\\') {
        text.pop();
        text.push('\n');
        match line(". ")? {
            Typed::Line(next) => text.push_str(&next),
            Typed::End => break,
            Typed::Interrupted => return Ok(None),
        }
    }
    Ok(Some(text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use gently::models::config::{DecoderConfig, Family};
    use gently::prelude::{Decoder, Device, Rng, Tokenizer};
    use gently_text::TemplateTokens;

    /// A model of three letters in `dir`, of random weights or of none that are numbers.
    fn model(dir: &Path, numbers: bool) -> TextModel {
        let tokenizer = Tokenizer::characters("abc".chars());
        let cfg = DecoderConfig {
            vocab: tokenizer.vocab_size(),
            context: 64,
            layers: 1,
            heads: 2,
            width: 32,
            init_std: 0.3,
            ..DecoderConfig::preset(Family::Gpt2)
        };
        let model = Decoder::new(&cfg, &Rng::new(7), &Device::Cpu).unwrap();
        for param in model.params().iter().filter(|_| !numbers) {
            param.tensor.with_data_mut::<f32, _>(|w| w.fill(f32::NAN)).unwrap();
        }
        model.save_pretrained(dir).unwrap();
        tokenizer.save(dir).unwrap();
        TextModel::open(dir).unwrap()
    }

    fn template(source: &str) -> ChatTemplate {
        ChatTemplate::new(source, TemplateTokens::new(), Path::new("template")).unwrap()
    }

    /// A conversation of one turn with a person.
    fn chat<'m>(model: &'m TextModel, template: &'m ChatTemplate) -> Chat<'m> {
        let options = WriteOptions { max_tokens: 4, answer: true, ..WriteOptions::default() };
        let messages = vec![Message::user("ab"), Message::assistant("c")];
        Chat { model, template, options, answering: Arc::default(), messages, system: None, last: None, person: true }
    }

    /// What is gathered of lines, in which `^C` is that key, to the end.
    fn gathered(lines: &str) -> Vec<(String, bool)> {
        let mut lines = lines.lines();
        let mut line = |_: &str| {
            Ok(match lines.next() {
                Some("^C") => Typed::Interrupted,
                Some(line) => Typed::Line(line.to_owned()),
                None => Typed::End,
            })
        };
        std::iter::from_fn(|| gather(&mut line).unwrap()).collect()
    }

    #[test]
    fn a_fence_ends_as_it_begins() {
        let all = |lines: &str, texts: &[(&str, bool)]| {
            let texts: Vec<_> = texts.iter().map(|(text, fence)| (text.to_string(), *fence)).collect();
            assert_eq!(gathered(lines), texts, "{lines}");
        };
        let code = "def f():\n    \"\"\"Doc.\"\"\"\n    \"\"\"\n    return 1";
        all(&format!("\"\"\" \n{code}\n\"\"\"  \n/quit"), &[(code, true), ("/quit", false)]);
        all("\"\"\"one line\"\"\"\nnext", &[("one line", true), ("next", false)]);
        all("\"\"\"two\nlines\"\"\"\nnext", &[("two\nlines", true), ("next", false)]);
        all("\"\"\"\"\"\"\nnext", &[("", true), ("next", false)]);
        all("\"\"\"\n/save x\nno end", &[("/save x\nno end", true)]);
        all("a\\\nb\\\n\n  c\\", &[("a\nb", false), ("c", false)]);
        // What is pasted stays as it is: its indentation, and the empty lines around it.
        all("\"\"\"\n\n    if x:\n        y \n\n\"\"\"\n  z ", &[("\n    if x:\n        y \n", true), ("z", false)]);
        all("\"\"\"  a\n  b\n\"\"\"", &[("  a\n  b", true)]);
        // Ctrl-C gives up what was begun, and nothing else.
        all("\"\"\"\nhalf\n^C\nwhole\n^C\nlast", &[("whole", false), ("last", false)]);
        all("half\\\n^C\n\"\"\"\nwhole\n\"\"\"", &[("whole", true)]);
    }

    #[test]
    fn only_a_conversation_is_written_over() {
        let dir = tempfile::tempdir().unwrap();
        let (model, template) = (model(&dir.path().join("m"), true), template(PLAIN));
        let mut chat = chat(&model, &template);
        let at = |name: &str| dir.path().join(name);
        std::fs::write(at("notes.txt"), "mine").unwrap();
        std::fs::write(at("empty"), "").unwrap();
        for (path, word) in [
            (at("m/config.json"), "both read and written"),
            (at("m/model.safetensors"), "both read and written"),
            (at("m"), "both read and written"),
            (at("notes.txt"), "no saved conversation"),
        ] {
            let before = std::fs::read(&path).ok();
            let error = chat.save(&path).unwrap_err();
            assert!(error.to_string().contains(word), "{error}");
            assert_eq!(std::fs::read(&path).ok(), before);
        }
        for name in ["new.json", "new.json", "empty"] {
            chat.save(&at(name)).unwrap();
            assert_eq!(conversation(&at(name)).unwrap(), chat.messages);
        }
        // A person goes on after what is wrong; a file does not.
        let wrong =
            ["nothing", "save", "load none.json", &format!("save {}", at("notes.txt").display())].map(String::from);
        for command in &wrong {
            assert!(chat.command(command).unwrap(), "{command}");
        }
        chat.person = false;
        for command in &wrong {
            assert!(chat.command(command).is_err(), "{command}");
        }
        chat.messages.clear();
        assert!(chat.command("again").is_err(), "no answer would come");
    }

    const PLAIN: &str = "{% for m in messages %}{{ m.content }}{% endfor %}";

    #[test]
    fn a_failed_answer_leaves_a_person_the_conversation() {
        let dir = tempfile::tempdir().unwrap();
        let (model, template) = (model(dir.path(), false), template(PLAIN));
        let mut chat = chat(&model, &template);
        let before = chat.messages.clone();
        chat.ask("b").unwrap();
        assert_eq!(chat.messages, before);
        assert!(chat.last.is_none(), "nothing was answered");
        // What cannot be begun is no other case.
        chat.options.sampling.top_p = 0.0;
        chat.ask("b").unwrap();
        assert_eq!(chat.messages, before);
        chat.person = false;
        assert!(chat.ask("b").is_err(), "a file's answers are counted");
    }

    #[test]
    fn what_the_model_no_longer_reads_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let (model, template) = (model(dir.path(), true), template(PLAIN));
        let mut chat = chat(&model, &template);
        chat.messages.clear();
        // Twelve letters a turn, with the answer, of the 64 that the model reads.
        for turn in 1..=20 {
            chat.ask("abcabcab").unwrap();
            assert_eq!(chat.messages.len(), 2 * turn);
            let ids = chat.prompt().unwrap().len();
            assert!(ids <= 60 && (turn < 6 || ids > 36), "as many turns as fit: {ids}");
        }
        chat.save(&dir.path().join("all.json")).unwrap();
        assert_eq!(conversation(&dir.path().join("all.json")).unwrap(), chat.messages);
        // With one question that takes the answer's room, and one that does not fit at all.
        chat.messages.push(Message::user("a".repeat(62)));
        assert_eq!(chat.prompt().unwrap().len(), 62);
        chat.messages.push(Message::user("a".repeat(64)));
        assert!(chat.prompt().unwrap_err().to_string().contains("64 tokens do not fit"));
    }

    #[test]
    fn nothing_is_undone_where_nothing_was_asked() {
        let dir = tempfile::tempdir().unwrap();
        let (model, template) = (model(dir.path(), true), template(PLAIN));
        let mut chat = chat(&model, &template);
        assert!(chat.command("undo").unwrap());
        assert!(chat.messages.is_empty());
        assert!(chat.command("undo").unwrap(), "a person goes on");
        chat.person = false;
        assert!(chat.command("undo").is_err(), "as what was to be answered again");
    }

    #[test]
    fn an_answer_stays_where_there_is_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let (model, good, bad) = (model(dir.path(), true), template(PLAIN), template("{{ raise_exception('no') }}"));
        let mut chat = chat(&model, &bad);
        let (before, seed) = (chat.messages.clone(), chat.options.sampling.seed);
        assert!(chat.command("again").unwrap());
        assert_eq!((&chat.messages, chat.options.sampling.seed), (&before, seed));
        chat.template = &good;
        assert!(chat.command("again").unwrap());
        assert_eq!((chat.messages.len(), &chat.messages[0]), (2, &before[0]));
        assert_eq!((chat.messages[1].content.len(), chat.options.sampling.seed), (4, seed.wrapping_add(1)));
    }
}
