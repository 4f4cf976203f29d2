//! `gently quickstart`: from nothing to a model that writes, in about two minutes.

use super::failure::advise;
use super::output::say;
use super::train::{Watch, thread_count, watched};
use anyhow::Result;
use clap::Args as ClapArgs;
use gently::recipes;
use gently_kernels::pool;
use gently_text::Tokenizer;
use gently_train::Recipe;
use gently_train::data::Input;
use gently_train::events::{Finished, Reason, RunStarted};
use gently_train::recipe::{CONFIG_FILE, Config, Source};
use gently_train::terminal::{quoted, quoted_path};
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
    /// Go on with the quickstart that the folder --out holds
    #[arg(long)]
    resume: bool,
}

/// Runs the command.
pub fn run(args: Args) -> Result<()> {
    if let Some(n) = args.threads {
        pool::set_threads(n);
    }
    let out = match args.out {
        Some(out) => out,
        None if args.resume => {
            return Err(advise("--resume needs the run folder", "gently quickstart --resume --out runs/quickstart"));
        }
        None => free_folder()?,
    };
    // One that was stopped before it was begun begins.
    let goes_on = args.resume && out.join(CONFIG_FILE).exists();
    let mut recipe = if goes_on { Recipe::reload(&out)? } else { recipes::find("quickstart")? };
    if let Some(corpus) = &args.corpus {
        if !corpus.exists() {
            return Err(advise(format!("{} does not exist", corpus.display()), "give a text file in UTF-8"));
        }
        let text = Input::Path(corpus.clone()).beginning(BEGINNING);
        let words = text.as_deref().and_then(first_words);
        // A text without an end of a line has no such character.
        let prompt = words.filter(|_| text.is_some_and(|text| !text.contains('\n')));
        recipe.assign("data.path", vec![corpus.display().to_string()], Source::Set)?;
        recipe.assign("sample.prompts", vec![prompt.unwrap_or_else(|| "\n".into())], Source::Set)?;
    }
    for assignment in &args.set {
        recipe.set(assignment)?;
    }
    // What cannot be resolved the run refuses.
    let words = recipe.resolve().ok().and_then(|resolved| words(&resolved.config));
    if !goes_on {
        let source = args.corpus.as_ref().map_or(BIBLE.into(), |c| c.display().to_string());
        say(&format!(
            "A small transformer learns to write like {source}, one character at a time.\n\
             It begins with random weights; watch its samples. Ctrl-C saves and stops.\n"
        ));
    }
    let greeting = goes_on.then_some(going_on as fn(&RunStarted) -> String);
    let watch = Watch { samples: true, greeting, ..Watch::default() };
    let finished = watched(recipe, out.clone(), args.resume, watch)?;
    let folder = quoted_path(&out);
    if finished.reason == Reason::Stopped {
        say(&format!("\nGo on with:\n  gently quickstart --out {folder} --resume"));
        return Ok(());
    }
    let prompt = prompt(&finished, words);
    let next = columns(&[
        (format!("gently generate {folder}{prompt}"), "write with the model"),
        (format!("open {}", quoted_path(&out.join("report.html"))), "see how it learned"),
        (format!("gently inspect {folder}"), "what it is made of"),
        (format!("gently spec {folder}"), "its algorithm, with its sizes"),
        ("gently quickstart --corpus FILE".into(), "learn from a text of your own"),
        ("gently train shakespeare-cpu --data FILE".into(), "a recipe that others publish numbers for"),
    ]);
    say(&format!("\nThe run is in {}. Next:{next}", out.display()));
    Ok(())
}

/// What is said of a run that goes on, once it is known that it does.
fn going_on(run: &RunStarted) -> String {
    let source = if run.data.description == "kjv" { BIBLE } else { run.data.description.as_str() };
    format!(
        "A small transformer that learns to write like {source} goes on from step {}. Ctrl-C saves and stops.\n",
        run.start_step
    )
}

/// What a text of the run may begin with: its own text's first words, or the prompt of its samples.
fn words(config: &Config) -> Option<String> {
    let own = match config.data.path.as_slice() {
        [path] => Input::named(path).beginning(BEGINNING).as_deref().and_then(first_words),
        _ => None,
    };
    own.or_else(|| config.sample.prompts.iter().find(|prompt| !prompt.trim().is_empty()).cloned())
}

/// Commands and what they do, each on a line of its own, in two columns.
fn columns(rows: &[(String, &str)]) -> String {
    let width = rows.iter().map(|(command, _)| command.chars().count()).max().unwrap_or(0);
    rows.iter().map(|(command, what)| format!("\n  {command:width$}    {what}")).collect()
}

/// The text of the recipe.
const BIBLE: &str = "the King James Bible";
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
        Some(words) => format!(" --prompt {}", quoted(&words)),
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
