//! `gently train`: run a recipe, or go on with a run.

use super::failure::advise;
use super::output::say;
use anyhow::Result;
use clap::Args as ClapArgs;
use gently::recipes;
use gently_kernels::{cpu, pool};
use gently_train::events::{Event, Finished, Reason, RunStarted};
use gently_train::recipe::{CONFIG_FILE, Source};
use gently_train::terminal::quoted_path;
use gently_train::watch::{Dashboard, Progress, Report, TensorBoard};
use gently_train::{Observer, Recipe, StopHandle, Trainer};
use std::path::PathBuf;

/// Options of `gently train`.
#[derive(ClapArgs)]
#[command(after_help = "Examples:\n  gently train shakespeare-cpu --data input.txt --out runs/shakespeare\n  \
    gently train shakespeare-cpu --data input.txt --set optimizer.kind=muon\n  \
    gently train --resume --out runs/shakespeare\n  \
    gently train shakespeare-cpu --data input.txt --set train.steps=20 --profile\n\n\
    Built-in recipes: quickstart, shakespeare-cpu, shakespeare-baby, gpt2-124m, tinystories-15m")]
pub struct Args {
    /// A recipe: the name of a built-in one, or a .toml file (with --resume: the run's own settings when left out)
    recipe: Option<PathBuf>,
    /// Text to learn from: a file, a folder, `-` for standard input, or the name of a public set; may be repeated
    #[arg(long)]
    data: Vec<String>,
    /// The run folder (default: runs/ and the recipe's name)
    #[arg(long, short)]
    out: Option<PathBuf>,
    /// Change one value of the recipe, such as --set train.steps=500
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Compute threads (default: all); the result does not depend on it
    #[arg(long, value_parser = thread_count)]
    threads: Option<usize>,
    /// Go on with the run that the folder holds
    #[arg(long)]
    resume: bool,
    /// Record where the time of N updates goes, after three that warm up (of a run of three or less: the last): a table,
    /// profile.html and profile.json in the run folder; then train on
    #[arg(long, value_name = "N", num_args = 0..=1, default_missing_value = "10", value_parser = profiled_steps)]
    profile: Option<u64>,
    /// Show a live dashboard instead of a progress bar
    #[arg(long)]
    tui: bool,
}

/// A number of updates to profile, from 1 to 1000.
fn profiled_steps(text: &str) -> Result<u64, String> {
    match text.parse() {
        Ok(n @ 1..=1000) => Ok(n),
        _ => Err("a number of updates from 1 to 1000 is needed; the recipe stands before --profile".into()),
    }
}

/// A number of threads, from 1 to 1024.
pub fn thread_count(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(n @ 1..=1024) => Ok(n),
        _ => Err("a number from 1 to 1024 is needed".into()),
    }
}

/// What to say of a `GENTLY_CPU` that names no path.
pub fn unknown_path() -> Option<String> {
    let odd = cpu::unknown_choice()?;
    let names = [cpu::Path::Plain, cpu::Path::Avx2, cpu::Path::Avx512, cpu::Path::Avx512Bf16].map(cpu::Path::name);
    Some(format!("GENTLY_CPU={odd} is none of {}; the {} path is taken", names.join(", "), cpu::path().name()))
}

/// Runs the command.
pub fn run(args: Args) -> Result<()> {
    if let Some(n) = args.threads {
        pool::set_threads(n);
    }
    let (mut recipe, out) = match (args.recipe, args.out) {
        (Some(name), out) => {
            let recipe = recipes::find(name)?;
            let out = out.unwrap_or_else(|| PathBuf::from("runs").join(recipe.name()));
            (recipe, out)
        }
        (None, Some(out)) if args.resume => {
            if !out.join(CONFIG_FILE).exists() {
                let hint = "name the folder of a run; to begin one, give a recipe: gently train RECIPE --out DIR";
                return Err(advise(format!("there is no run in {}", out.display()), hint));
            }
            (Recipe::reload(&out)?, out)
        }
        (None, _) if args.resume => {
            return Err(advise("--resume needs the run folder", "gently train --resume --out runs/NAME"));
        }
        (None, _) => {
            let names: Vec<_> = recipes::BUILT_IN.iter().map(|r| r.0).collect();
            return Err(advise("no recipe is given", format!("give a .toml file or one of {}", names.join(", "))));
        }
    };
    if !args.data.is_empty() {
        recipe.assign("data.path", args.data, Source::Set)?;
    }
    for assignment in &args.set {
        recipe.set(assignment)?;
    }
    let watch = Watch { tui: args.tui, samples: true, profile: args.profile.unwrap_or(0), greeting: None };
    let finished = watched(recipe, out.clone(), args.resume, watch)?;
    farewell(&finished, &out);
    Ok(())
}

/// What a person wants to see of a run.
#[derive(Default)]
pub struct Watch {
    /// A dashboard instead of a progress bar.
    pub tui: bool,
    /// The texts that the model writes.
    pub samples: bool,
    /// Updates to profile.
    pub profile: u64,
    /// What to say first of a run that has started; one that is refused has not.
    pub greeting: Option<fn(&RunStarted) -> String>,
}

/// Says its greeting.
struct Greeter(fn(&RunStarted) -> String);

impl Observer for Greeter {
    fn on(&mut self, event: &Event) -> gently_train::Result<()> {
        if let Event::RunStarted(run) = event {
            say(&(self.0)(run));
        }
        Ok(())
    }
}

/// Runs `recipe` in `out` with everything a person may want to look at.
pub fn watched(recipe: Recipe, out: PathBuf, resume: bool, watch: Watch) -> Result<Finished> {
    if let Some(odd) = unknown_path() {
        say(&format!("warning: {odd}"));
    }
    let stop = StopHandle::on_signals()?;
    let mut trainer = Trainer::new(recipe, &out).resume(resume).stop_when(stop.clone()).profile(watch.profile);
    if let Some(greeting) = watch.greeting {
        trainer = trainer.observe(Greeter(greeting));
    }
    trainer = match watch.tui {
        true => trainer.observe(Dashboard::start(stop)?),
        false => trainer.observe(Progress::stderr().samples(watch.samples)),
    };
    Ok(trainer.observe(TensorBoard::new(&out)).observe(Report::new()).run()?)
}

fn farewell(finished: &Finished, out: &std::path::Path) {
    if finished.reason == Reason::Stopped {
        say(&format!("go on with: gently train --resume --out {}", quoted_path(out)));
    } else {
        say(&format!("write with it: gently generate {}", quoted_path(out)));
    }
}
