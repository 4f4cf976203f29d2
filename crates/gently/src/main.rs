//! The `gently` program: parses the command line, runs one command, turns an error into one sentence, its causes
//! and a hint. Each command lives in its own file under `cli/`.
#![forbid(unsafe_code)]

mod cli;

use std::process::ExitCode;

/// A file beyond the shell's limit (`ulimit -f`) is an error with its name from here on, as a full disk is, and not the end of the
/// program without a word.
fn survive_large_files() {
    #[cfg(unix)]
    {
        // Where the system refuses, all is as it was.
        let _ = signal_hook::flag::register(signal_hook::consts::SIGXFSZ, std::sync::Arc::default());
    }
}

fn main() -> ExitCode {
    let args = cli::Cli::read();
    survive_large_files();
    match cli::run(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => cli::failure::report(&error),
    }
}
