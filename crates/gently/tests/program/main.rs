//! Whole-program tests: the `gently` binary as a person runs it.

mod bad_input;
mod commands;
mod drawing;
mod embed;
mod eval;
mod kill;
mod memory;
mod numbers;
mod profile;
mod published;
mod pull;
mod run;
mod silence;
mod talking;
mod texts;
