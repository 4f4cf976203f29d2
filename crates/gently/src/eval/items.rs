//! Items of a task: JSON objects from a `.jsonl` or `.json` file.
//!
//! Not here: items written into the task file itself (see [`super::task`]).

use super::error::{Error, Result};
use gently_formats::bounded;
use serde_json::Value;
use std::path::Path;

/// Most bytes of a file of items.
const MOST_BYTES: u64 = 1 << 30;

/// The items of a file, in its order.
///
/// # Errors
/// A file that cannot be read, is larger than 1 GiB or has no items; a line that is not a JSON object, with its number.
pub fn read(path: &Path) -> Result<Vec<Value>> {
    let io = |source| Error::Io { path: path.into(), named_by_task: true, source };
    let wrong = |reason: String| Error::Data { path: path.into(), reason };
    let long = || wrong(format!("it is longer than {} MiB", MOST_BYTES >> 20));
    let failed = |e: std::io::Error| if bounded::is_too_long(&e) { long() } else { io(e) };
    let mut items: Vec<Value> = Vec::new();
    if path.extension().is_some_and(|e| e.eq_ignore_ascii_case("json")) {
        let text = bounded::read(path, MOST_BYTES).map_err(failed)?;
        items = serde_json::from_slice(&text).map_err(|e| wrong(format!("not a list of JSON objects: {e}")))?;
    } else {
        let mut lines = bounded::Lines::open(path, MOST_BYTES).map_err(failed)?;
        let (mut line, mut read) = (Vec::new(), 0);
        while lines.next_into(&mut line).map_err(failed)? {
            read += line.len() as u64;
            if read > MOST_BYTES {
                return Err(long());
            }
            if line.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            let number = lines.number();
            items.push(serde_json::from_slice(&line).map_err(|e| wrong(format!("line {number}: not JSON: {e}")))?);
        }
    }
    if let Some(at) = items.iter().position(|item| !item.is_object()) {
        return Err(Error::Item { path: path.into(), item: at + 1, reason: "it is not a JSON object".into() });
    }
    if items.is_empty() {
        return Err(wrong("it has no items".into()));
    }
    Ok(items)
}
