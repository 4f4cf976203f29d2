//! Logs of JSON lines that can be cut back to a step.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use gently_formats::atomic::AtomicFile;
use gently_formats::bounded;
use serde::Serialize;
use serde_json::Value;

use crate::{Error, Result};

/// An append-only file with one JSON object in each line, each with a whole number `step`.
///
/// A line is handed to the system in one write, so a killed process leaves whole lines but for, at worst, the last.
#[derive(Debug)]
pub struct Lines {
    path: PathBuf,
    file: File,
}

impl Lines {
    /// Opens `path` for appending and drops every line after step `last`, and any torn line. With `last` `None`
    /// the file starts empty.
    ///
    /// # Errors
    /// Files that cannot be read or written.
    pub fn open(path: &Path, last: Option<u64>) -> Result<Self> {
        cut(path, last)?;
        let file = bounded::append(path).map_err(|e| Error::io("cannot write", path, e))?;
        Ok(Self { path: path.into(), file })
    }

    /// Appends one object.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn append(&mut self, object: &impl Serialize) -> Result<()> {
        let mut line = serde_json::to_vec(object).map_err(|e| Error::io("cannot write", &self.path, e.into()))?;
        line.push(b'\n');
        self.file.write_all(&line).map_err(|e| Error::io("cannot write", &self.path, e))
    }

    /// Makes all lines survive a loss of power.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn sync(&self) -> Result<()> {
        self.file.sync_data().map_err(|e| Error::io("cannot write", &self.path, e))
    }
}

/// Most bytes of a line.
const MOST: u64 = 256 << 20;

/// Writes the lines to keep beside the file and renames, so that a kill at any moment leaves one or the other.
fn cut(path: &Path, last: Option<u64>) -> Result<()> {
    let mut old = match bounded::Lines::open(path, MOST) {
        Ok(lines) => lines,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(Error::io("cannot read", path, e)),
    };
    let mut new = AtomicFile::create(path)?;
    if let Some(last) = last {
        let mut line = Vec::new();
        while old.next_into(&mut line).map_err(|e| Error::io("cannot read", path, e))? {
            if line.last() != Some(&b'\n') {
                break;
            }
            if step_of(&line).is_some_and(|step| step <= last) {
                new.write_all(&line).map_err(|e| Error::io("cannot write", path, e))?;
            }
        }
    }
    Ok(new.commit()?)
}

fn step_of(line: &[u8]) -> Option<u64> {
    serde_json::from_slice::<Value>(line).ok()?.get("step")?.as_u64()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn lines_after_the_step_and_torn_lines_are_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        let mut lines = Lines::open(&path, None).unwrap();
        for step in 0..6 {
            lines.append(&json!({"step": step})).unwrap();
        }
        drop(lines);
        let mut torn = std::fs::read(&path).unwrap();
        torn.extend(b"{\"step\":2,\"tr");
        std::fs::write(&path, torn).unwrap();

        let mut lines = Lines::open(&path, Some(3)).unwrap();
        lines.append(&json!({"step": 4, "again": true})).unwrap();
        lines.sync().unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text, "{\"step\":0}\n{\"step\":1}\n{\"step\":2}\n{\"step\":3}\n{\"step\":4,\"again\":true}\n");
        drop(Lines::open(&path, None).unwrap());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "");
    }

    #[test]
    fn bytes_that_are_no_json_are_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        std::fs::write(&path, b"{\"step\":1}\n\xff\x00\n[]\n{\"step\":-1}\n{\"step\":2}\n").unwrap();
        drop(Lines::open(&path, Some(9)).unwrap());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "{\"step\":1}\n{\"step\":2}\n");
    }

    #[test]
    fn a_cut_leaves_no_rest_and_no_name_is_in_its_way() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("metrics.jsonl");
        // The name of an older program's unfinished work.
        std::fs::create_dir(folder.path().join("metrics.jsonl.tmp")).unwrap();
        std::fs::write(&path, "{\"step\":1}\n{\"step\":2}\n").unwrap();
        drop(Lines::open(&path, Some(1)).unwrap());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "{\"step\":1}\n");
        let entries = std::fs::read_dir(folder.path()).unwrap();
        let mut names = Vec::from_iter(entries.map(|e| e.unwrap().file_name().into_string().unwrap()));
        names.sort();
        assert_eq!(names, ["metrics.jsonl", "metrics.jsonl.tmp"]);
    }

    #[cfg(unix)]
    #[test]
    fn what_never_ends_is_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.jsonl");
        std::os::unix::fs::symlink("/dev/zero", &path).unwrap();
        let error = Lines::open(&path, Some(3)).unwrap_err();
        assert!(error.to_string().contains("metrics.jsonl"), "{error}");
    }
}
