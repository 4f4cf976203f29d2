//! Texts that a person gives: whole files and standard input, bounded, with errors that name them.
//!
//! Not here: model files (their readers bound themselves), and texts read line by line (`embed`).

use super::failure::advise;
use anyhow::Result;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::Path;
use std::sync::OnceLock;

/// Longest prompt, template or conversation.
pub const PROMPT: u64 = 64 << 20;
/// Longest text to measure a model on.
pub const BOOK: u64 = 1 << 30;

/// The option that has read standard input: nothing is left there for another one.
static READ_BY: OnceLock<&'static str> = OnceLock::new();

/// The text of a file, or of standard input for `-`; `option` is the one that names it.
///
/// # Errors
/// What cannot be read, is longer than `limit` bytes, or is not UTF-8. A device that never ends is too long. Standard input that
/// another option has read.
pub fn text(path: &Path, limit: u64, option: &'static str) -> Result<String> {
    let or = ", or - for standard input";
    if path != Path::new("-") {
        return read(&path.display().to_string(), || File::open(path), limit, or);
    }
    let first = *READ_BY.get_or_init(|| option);
    if first != option {
        let what = format!("{first} and {option} both read standard input");
        return Err(advise(what, "give - to one of them alone"));
    }
    read("the text on standard input", || Ok(std::io::stdin().lock()), limit, or)
}

/// The text of a file alone, where standard input has something else: `-` is a name as any other.
///
/// # Errors
/// As [`text`].
pub fn file(path: &Path, limit: u64) -> Result<String> {
    read(&path.display().to_string(), || File::open(path), limit, "")
}

/// The text that `open` gives; `or` is what else may be given, for hints.
fn read<R: Read>(name: &str, open: impl FnOnce() -> std::io::Result<R>, limit: u64, or: &str) -> Result<String> {
    let failed = |e: std::io::Error| {
        let hint = match e.kind() {
            ErrorKind::NotFound => format!("give a file that exists{or}"),
            ErrorKind::IsADirectory => "give a file, not a folder".to_owned(),
            _ => format!("give a file that can be read{or}"),
        };
        advise(format!("cannot read {name}: {e}"), hint)
    };
    let mut bytes = Vec::new();
    open().and_then(|from| from.take(limit + 1).read_to_end(&mut bytes)).map_err(failed)?;
    if bytes.len() as u64 > limit {
        return Err(advise(format!("{name} is longer than {} MiB", limit >> 20), "give a part of it"));
    }
    String::from_utf8(bytes).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        advise(format!("{name} is not UTF-8 (byte {at})"), "convert it with iconv first")
    })
}
