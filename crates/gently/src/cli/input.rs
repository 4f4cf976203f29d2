//! Texts that a person gives: whole files and standard input, bounded, with errors that name them.
//!
//! Not here: model files (their readers bound themselves), and texts read line by line (`embed`).

use super::failure::advise;
use anyhow::Result;
use std::io::{ErrorKind, Read};
use std::path::Path;

/// Longest prompt, template or conversation.
pub const PROMPT: u64 = 64 << 20;
/// Longest text to measure a model on.
pub const BOOK: u64 = 1 << 30;

/// The text of a file, or of standard input for `-`.
///
/// # Errors
/// What cannot be read, is longer than `limit` bytes, or is not UTF-8. A device that never ends is too long.
pub fn text(path: &Path, limit: u64) -> Result<String> {
    let name = match path == Path::new("-") {
        true => "the text on standard input".to_owned(),
        false => path.display().to_string(),
    };
    let failed = |e: std::io::Error| {
        let hint = match e.kind() {
            ErrorKind::NotFound => "give a file that exists, or - for standard input",
            ErrorKind::IsADirectory => "give a file, not a folder",
            _ => "give a file that can be read, or - for standard input",
        };
        advise(format!("cannot read {name}: {e}"), hint)
    };
    let mut bytes = Vec::new();
    match path == Path::new("-") {
        true => std::io::stdin().lock().take(limit + 1).read_to_end(&mut bytes).map_err(failed)?,
        false => {
            let file = std::fs::File::open(path).map_err(failed)?;
            file.take(limit + 1).read_to_end(&mut bytes).map_err(failed)?
        }
    };
    if bytes.len() as u64 > limit {
        return Err(advise(format!("{name} is longer than {} MiB", limit >> 20), "give a part of it"));
    }
    String::from_utf8(bytes).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        advise(format!("{name} is not UTF-8 (byte {at})"), "convert it with iconv first")
    })
}
