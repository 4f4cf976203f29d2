//! `gently quickstart`: from nothing to a model that writes, in about two minutes.

use super::failure::advise;
use super::output::say;
use super::train::{Watch, thread_count, watched};
use anyhow::Result;
use clap::Args as ClapArgs;
use gently::recipes;
use gently_kernels::pool;
use gently_text::Tokenizer;
use gently_train::data::Input;
use gently_train::events::{Finished, Reason};
use gently_train::recipe::Source;
use std::path::PathBuf;

/// Options of `gently quickstart`.
#[derive(ClapArgs)]
#[command(after_help = "Examples:\n  gently quickstart\n  gently quickstart --corpus my-diary.txt --out runs/diary")]
pub struct Args {
    /// The run folder (default: runs/quickstart, or the next free name beside it)
    #[arg(long, short)]
    out: Option<PathBuf>,
    /// Learn from this text instead of the King James Bible
    #[arg(long, value_name = "FILE")]
    corpus: Option<PathBuf>,
    /// Change one value of the recipe, such as --set train.steps=500
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Compute threads (default: all)
    #[arg(long, value_parser = thread_count)]
    threads: Option<usize>,
    /// Go on with an interrupted quickstart
    #[arg(long, requires = "out")]
    resume: bool,
}

/// Runs the command.
pub fn run(args: Args) -> Result<()> {
    if let Some(n) = args.threads {
        pool::set_threads(n);
    }
    let mut recipe = recipes::find("quickstart")?;
    let mut words = Some(PROMPT.to_owned());
    if let Some(corpus) = &args.corpus {
        if !corpus.exists() {
            return Err(advise(format!("{} does not exist", corpus.display()), "give a text file in UTF-8"));
        }
        let text = Input::Path(corpus.clone()).beginning(BEGINNING);
        words = text.as_deref().and_then(first_words);
        // A text without an end of a line has no such character.
        let prompt = words.clone().filter(|_| text.is_some_and(|text| !text.contains('\n')));
        recipe.assign("data.path", vec![corpus.display().to_string()], Source::Set)?;
        recipe.assign("sample.prompts", vec![prompt.unwrap_or_else(|| "\n".into())], Source::Set)?;
    }
    for assignment in &args.set {
        recipe.set(assignment)?;
    }
    let out = match args.out {
        Some(out) => out,
        None => free_folder()?,
    };
    let source = args.corpus.as_ref().map_or("the King James Bible".into(), |c| c.display().to_string());
    say(&format!(
        "A small transformer learns to write like {source}, one character at a time.\n\
         It begins with random weights; watch its samples. Ctrl-C saves and stops.\n"
    ));
    let finished = watched(recipe, out.clone(), args.resume, Watch { samples: true, ..Watch::default() })?;
    let out = out.display();
    if finished.reason == Reason::Stopped {
        say(&format!("\nGo on with:\n  gently quickstart --out {out} --resume"));
        return Ok(());
    }
    let prompt = prompt(&finished, words);
    let next = columns(&[
        (format!("gently generate {out}{prompt}"), "write with the model"),
        (format!("open {out}/report.html"), "see how it learned"),
        (format!("gently inspect {out}"), "what it is made of"),
        (format!("gently spec {out}"), "its algorithm, with its sizes"),
        ("gently quickstart --corpus FILE".into(), "learn from a text of your own"),
        ("gently train shakespeare-cpu --data FILE".into(), "a recipe that others publish numbers for"),
    ]);
    say(&format!("\nThe run is in {out}. Next:{next}"));
    Ok(())
}

/// Commands and what they do, each on a line of its own, in two columns.
fn columns(rows: &[(String, &str)]) -> String {
    let width = rows.iter().map(|(command, _)| command.chars().count()).max().unwrap_or(0);
    rows.iter().map(|(command, what)| format!("\n  {command:width$}    {what}")).collect()
}

/// The prompt of the recipe.
const PROMPT: &str = "In the beginning ";
/// Characters of a text of one's own that are looked at.
const BEGINNING: usize = 4000;
/// The most characters of a prompt that is made of it.
const MOST: usize = 40;

/// The first three words of a text, as they stand in its first line that has any.
fn first_words(text: &str) -> Option<String> {
    let line = text.lines().map(str::trim).find(|line| !line.is_empty())?;
    let end = line.match_indices(char::is_whitespace).nth(2).map_or(line.len(), |(at, _)| at);
    let words: String = line[..end].chars().take(MOST).take_while(|c| !c.is_control()).collect();
    Some(words.trim_end().to_owned()).filter(|words| !words.is_empty())
}

/// ` --prompt …` with a text that the run's tokenizer can spell. Nothing where there is none.
fn prompt(finished: &Finished, words: Option<String>) -> String {
    let tokenizer = finished.checkpoint.as_ref().and_then(|folder| Tokenizer::load(folder).ok());
    let spelled = |text: &str| tokenizer.as_ref().is_some_and(|tokenizer| tokenizer.encode(text).is_ok());
    match words.filter(|words| spelled(words)) {
        Some(words) if words == PROMPT => format!(" --prompt \"{PROMPT}\""),
        // Between these a shell reads everything as it stands but the mark itself.
        Some(words) => format!(" --prompt '{}'", words.replace('\'', r"'\''")),
        None => String::new(),
    }
}

/// runs/quickstart, or the first of runs/quickstart-2, -3, … that is not there yet.
fn free_folder() -> Result<PathBuf> {
    let name =
        |n: usize| PathBuf::from("runs").join(if n == 1 { "quickstart".into() } else { format!("quickstart-{n}") });
    (1..10_000)
        .map(name)
        .find(|p| !p.exists())
        .ok_or_else(|| advise("runs/ is full of quickstarts", "name a folder with --out"))
}

#[cfg(test)]
mod tests {
    use super::{columns, first_words};

    #[test]
    fn columns_line_up() {
        let rows = [("a".to_owned(), "one"), ("bcé".to_owned(), "two")];
        assert_eq!(columns(&rows), "\n  a      one\n  bcé    two");
    }

    #[test]
    fn a_prompt_is_made_of_the_first_words() {
        let words = |text: &str| first_words(text);
        assert_eq!(words("\n  \n Once upon a time\nthere"), Some("Once upon a".into()));
        assert_eq!(words("one\ttwo"), Some("one".into()), "a tabulator is typed by nobody");
        assert_eq!(words("010203"), Some("010203".into()));
        assert_eq!(words(&"é".repeat(100)).unwrap().chars().count(), super::MOST);
        assert_eq!((words(" \n"), words("\u{1b}[31m")), (None, None));
    }
}
