//! The `gently` program: parses the command line, runs one command, turns an error into one sentence, its causes
//! and a hint. Each command lives in its own file under `cli/`.
#![forbid(unsafe_code)]

mod cli;

use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    let args = cli::Cli::parse();
    match cli::run(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => cli::failure::report(&error),
    }
}
