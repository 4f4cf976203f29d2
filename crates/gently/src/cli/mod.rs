//! The command line: what may be typed, and which file answers. Bodies live one command a file.

pub mod failure;

mod bench;
mod chat;
mod constraint;
mod convert;
mod data;
mod doctor;
mod embed;
mod engine;
mod eval;
mod generate;
mod gguf_file;
mod input;
mod inspect;
mod interrupt;
mod output;
mod overwrite;
mod pull;
mod quickstart;
mod sampling;
mod score;
mod searching;
mod spec;
mod train;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Train transformers on an ordinary computer, and use them.
#[derive(Parser)]
#[command(name = "gently", version, about, max_term_width = 110)]
#[command(after_help = "Examples:\n  gently quickstart                      \
    train a small model on real text in about two minutes\n  \
    gently train shakespeare-cpu --data input.txt\n  gently generate runs/quickstart --prompt \"In the beginning\"")]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

impl Cli {
    /// Reads the command line. One that cannot be understood ends the program, and so does one that asks for help.
    pub fn read() -> Self {
        Self::try_parse().unwrap_or_else(|mut error| {
            // Nothing stands before the command's name but what ends the program.
            if std::env::args_os().nth(1).is_some_and(|command| command == "embed") {
                embed::advise_on(&mut error);
            }
            error.exit()
        })
    }
}

#[derive(Subcommand)]
enum Command {
    /// Train a small character model on real text in about two minutes and read what it writes
    Quickstart(quickstart::Args),
    /// Train a model by a recipe, or go on with an interrupted run
    Train(train::Args),
    /// Continue a prompt with a trained or published model
    Generate(generate::Args),
    /// Talk with a model
    Chat(chat::Args),
    /// Say how likely a text is to a model: log-likelihood, perplexity, bits per byte
    Score(score::Args),
    /// Ask a model the questions of task files, and say how many it gets right
    Eval(eval::Args),
    /// Turn texts into vectors with an encoder, or say how alike they are
    Embed(embed::Args),
    /// Fetch a published model from the Hugging Face Hub
    Pull(pull::Args),
    /// Prepare, inspect and fetch training text
    Data(data::Args),
    /// Write a model in another format: Hugging Face folder or GGUF file
    Convert(convert::Args),
    /// Write a GGUF file with coarser weights, and say what it costs
    Quantize(convert::QuantizeArgs),
    /// Show what a model folder or GGUF file holds: shapes, parameters, work per token, memory
    Inspect(inspect::Args),
    /// Print a model's algorithm with its real sizes
    Spec(spec::Args),
    /// Measure the machine and the kernels
    Bench(bench::Args),
    /// Say what this machine can do and which path is taken
    Doctor(doctor::Args),
}

impl Command {
    /// Whether it hears Ctrl-C and SIGTERM itself: one that stops and saves, or ends an answer. Two that hear one signal would
    /// be in each other's way.
    fn hears_signals(&self) -> bool {
        match self {
            Self::Quickstart(_) | Self::Train(_) | Self::Chat(_) => true,
            Self::Data(args) => args.hears_signals(),
            _ => false,
        }
    }
}

/// Runs the chosen command.
pub fn run(cli: Cli) -> Result<()> {
    if !cli.command.hears_signals() {
        interrupt::leave_nothing()?;
    }
    match cli.command {
        Command::Quickstart(args) => quickstart::run(args),
        Command::Train(args) => train::run(args),
        Command::Generate(args) => generate::run(args),
        Command::Chat(args) => chat::run(args),
        Command::Score(args) => score::run(args),
        Command::Eval(args) => eval::run(args),
        Command::Embed(args) => embed::run(args),
        Command::Pull(args) => pull::run(args),
        Command::Data(args) => data::run(args),
        Command::Convert(args) => convert::run(args),
        Command::Quantize(args) => convert::quantize(args),
        Command::Inspect(args) => inspect::run(args),
        Command::Spec(args) => spec::run(args),
        Command::Bench(args) => bench::run(args),
        Command::Doctor(args) => doctor::run(args),
    }
}
