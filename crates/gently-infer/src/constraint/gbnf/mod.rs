//! GBNF, the grammars of `llama.cpp`, in the dialect of Lark that the matcher reads.
//!
//! Here: [`to_lark`], by way of what a grammar says ([`node`], [`read`]), what of it may be one terminal ([`lower`], [`extent`],
//! [`places`], [`automaton`]) and writing that ([`write`]).
//! Not here: compiling Lark (see [`super::Grammars`]).
//!
//! GBNF knows characters only: whatever way of reading a text there is, is one. Lark has terminals, and its lexer takes the longest
//! one. Each character as a terminal would be right and slow, so terminals are made as large as they can be while a lexer
//! that takes the longest one never takes what a rule after it needs.

mod automaton;
mod extent;
mod lower;
mod node;
mod places;
mod read;
mod write;

/// A GBNF grammar as Lark with the same language, or what is wrong with it, with line and column.
///
/// `root ::= "a" [0-9]+` becomes `start: T0` and `T0: /\x{61}[\x{30}-\x{39}]+/`, more or less.
pub(super) fn to_lark(text: &str) -> Result<String, String> {
    lower::lower(read::read(text)?)
}
