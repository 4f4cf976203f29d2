//! Items of a task: JSON objects from a `.jsonl` or `.json` file.
//!
//! Not here: items written into the task file itself (see [`super::task`]).

use super::error::{Error, Result};
use gently_formats::bounded;
use serde_json::Value;
use std::io::{BufRead, BufReader, Read};
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
    let file = bounded::open(path).map_err(io)?;
    let mut reader = BufReader::new(file.take(MOST_BYTES + 1));
    let mut items: Vec<Value> = Vec::new();
    let mut read = 0;
    if path.extension().is_some_and(|e| e.eq_ignore_ascii_case("json")) {
        let mut text = Vec::new();
        read = reader.read_to_end(&mut text).map_err(io)? as u64;
        if read <= MOST_BYTES {
            items = serde_json::from_slice(&text).map_err(|e| wrong(format!("not a list of JSON objects: {e}")))?;
        }
    } else {
        let mut line = Vec::new();
        for number in 1.. {
            line.clear();
            let bytes = reader.read_until(b'\n', &mut line).map_err(io)?;
            read += bytes as u64;
            if bytes == 0 || read > MOST_BYTES {
                break;
            }
            if line.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            items.push(serde_json::from_slice(&line).map_err(|e| wrong(format!("line {number}: not JSON: {e}")))?);
        }
    }
    if read > MOST_BYTES {
        return Err(wrong(format!("it is longer than {} MiB", MOST_BYTES >> 20)));
    }
    if let Some(at) = items.iter().position(|item| !item.is_object()) {
        return Err(Error::Item { path: path.into(), item: at + 1, reason: "it is not a JSON object".into() });
    }
    if items.is_empty() {
        return Err(wrong("it has no items".into()));
    }
    Ok(items)
}
