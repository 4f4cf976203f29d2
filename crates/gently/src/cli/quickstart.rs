//! `gently quickstart`: from nothing to a model that writes, in about two minutes.

use super::failure::advise;
use super::output::say;
use super::train::{Watch, thread_count, watched};
use anyhow::Result;
use clap::Args as ClapArgs;
use gently::recipes;
use gently_kernels::pool;
use gently_train::events::Reason;
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
    if let Some(corpus) = &args.corpus {
        if !corpus.exists() {
            return Err(advise(format!("{} does not exist", corpus.display()), "give a text file in UTF-8"));
        }
        recipe.assign("data.path", vec![corpus.display().to_string()], Source::Set)?;
        recipe.assign("sample.prompts", vec!["\n"], Source::Set)?;
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
    say(&format!(
        "\nThe run is in {out}. Next:\n  \
         gently generate {out} --prompt \"In the beginning \"    write with the model\n  \
         open {out}/report.html                            see how it learned\n  \
         gently inspect {out}                              what it is made of\n  \
         gently spec {out}                                 its algorithm, with its sizes\n  \
         gently quickstart --corpus FILE                   learn from a text of your own\n  \
         gently train shakespeare-cpu --data FILE          a recipe that others publish numbers for"
    ));
    Ok(())
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
