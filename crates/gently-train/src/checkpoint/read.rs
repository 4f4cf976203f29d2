//! Finding a checkpoint that is what it was when it was saved.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use gently_formats::bounded;
use serde::Deserialize;
use serde_json::Value;

use super::files::{Seal, seal};
use super::save::{DONE_TEMPORARY, FORMAT};
use super::{Checkpoints, DONE_FILE, STATE_FILE};
use crate::{Error, Result};

/// Largest `trainer.json` that is read.
const LIMIT: u64 = 256 << 20;

/// A checkpoint whose every file has been compared with its checksum.
#[derive(Debug, Clone, PartialEq)]
pub struct Verified {
    /// Updates completed when it was saved.
    pub step: u64,
    /// Its folder.
    pub path: PathBuf,
    /// The trainer's state, as it was given to `save`.
    pub state: Value,
}

/// The newest good checkpoint, and what is wrong with those that are newer.
#[derive(Debug)]
pub struct Newest {
    /// The newest good one; `None` if no checkpoint was ever completed.
    pub good: Option<Verified>,
    /// One error for each newer one that is damaged.
    pub damaged: Vec<Error>,
}

#[derive(Deserialize)]
struct Manifest {
    format: u32,
    step: u64,
    files: BTreeMap<String, Seal>,
    state: Value,
}

impl Checkpoints {
    /// Compares every file of a step's checkpoint with its checksum.
    ///
    /// # Errors
    /// [`Error::DamagedCheckpoint`] naming the file and what is wrong with it.
    pub fn verify(&self, step: u64) -> Result<Verified> {
        let path = self.path(step);
        let damaged = |file: &str, why: String| Error::DamagedCheckpoint { file: path.join(file), why };
        let done = bounded::read_text(path.join(DONE_FILE), 64).map_err(|e| damaged(DONE_FILE, e.to_string()))?;
        let state_path = path.join(STATE_FILE);
        let state_seal = seal(&state_path).map_err(|e| damaged(STATE_FILE, e.to_string()))?;
        if done.trim() != state_seal.xxh3 {
            return Err(damaged(STATE_FILE, "its checksum is not the one in DONE".into()));
        }
        let text = bounded::read_text(&state_path, LIMIT).map_err(|e| damaged(STATE_FILE, e.to_string()))?;
        let manifest: Manifest = serde_json::from_str(&text).map_err(|e| damaged(STATE_FILE, e.to_string()))?;
        if manifest.format != FORMAT {
            let why = format!("has format {}; this program reads {FORMAT}", manifest.format);
            return Err(damaged(STATE_FILE, why));
        }
        if manifest.step != step {
            let why = format!("is of step {}, its folder of step {step}", manifest.step);
            return Err(damaged(STATE_FILE, why));
        }
        for (name, expected) in &manifest.files {
            if Path::new(name).components().count() != 1 || name.contains("..") {
                return Err(damaged(STATE_FILE, format!("names a file outside: {name:?}")));
            }
            let found = seal(&path.join(name)).map_err(|e| damaged(name, e.to_string()))?;
            if found.bytes != expected.bytes {
                let why = format!("has {} bytes, it had {}", found.bytes, expected.bytes);
                return Err(damaged(name, why));
            }
            if found.xxh3 != expected.xxh3 {
                return Err(damaged(name, "its checksum is not the one it had when saved".into()));
            }
        }
        Ok(Verified { step, path, state: manifest.state })
    }

    /// Whether a folder without a done mark is what a killed process left of this step's checkpoint: `trainer.json` is
    /// there before the folder has its name, and there is nothing in it but what was saved.
    pub(super) fn is_unfinished(&self, step: u64) -> bool {
        let path = self.path(step);
        let text = bounded::read_text(path.join(STATE_FILE), LIMIT).unwrap_or_default();
        let Ok(manifest) = serde_json::from_str::<Manifest>(&text) else {
            return false;
        };
        let Ok(mut entries) = std::fs::read_dir(&path) else {
            return false;
        };
        let saved = |name: &str| name == STATE_FILE || name == DONE_TEMPORARY || manifest.files.contains_key(name);
        manifest.step == step
            && entries.all(|entry| entry.is_ok_and(|entry| entry.file_name().to_str().is_some_and(saved)))
    }

    /// The newest checkpoint that is still good. Nothing is moved: whoever goes on from it calls
    /// [`Checkpoints::set_aside_after`] then.
    ///
    /// # Errors
    /// There are checkpoints but all are damaged: the newest one's error.
    pub fn newest(&self) -> Result<Newest> {
        let mut damaged = Vec::new();
        for step in self.steps()?.into_iter().rev() {
            match self.verify(step) {
                Ok(good) => return Ok(Newest { good: Some(good), damaged }),
                Err(error) => damaged.push(error),
            }
        }
        if damaged.is_empty() {
            return Ok(Newest { good: None, damaged });
        }
        Err(damaged.swap_remove(0))
    }
}
