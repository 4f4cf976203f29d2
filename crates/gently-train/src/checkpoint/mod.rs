//! Checkpoints: folders that are either complete or not there.
//!
//! Here: the protocol (temporary folder, checksums, fsync, rename, done mark last), verification, which ones are kept.
//! Not here: what a trainer puts in them (`trainer`), and the formats of the files.
//!
//! A checkpoint `checkpoints/step-N/` holds a model in Hugging Face layout (`config.json`, `model.safetensors`,
//! `tokenizer.json`), the trainer's tensors (`trainer.safetensors`), `trainer.json` with the trainer's state and the
//! size and checksum of every other file, and `DONE` with the checksum of `trainer.json`. Whoever reads the model needs
//! none of the last three.
//!
//! ```
//! use gently_train::checkpoint::Checkpoints;
//!
//! let run = tempfile::tempdir()?;
//! let checkpoints = Checkpoints::of_run(run.path());
//! checkpoints.save(20, &"any state", |folder| Ok(std::fs::write(folder.join("weights"), b"...").unwrap()))?;
//! assert_eq!(checkpoints.steps()?, [20]);
//! assert_eq!(checkpoints.verify(20)?.state, "any state");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod files;
mod read;
mod save;

use std::path::{Path, PathBuf};

pub use read::{Newest, Verified};

use crate::{Error, Result};

/// The folder of all checkpoints in a run folder.
pub const CHECKPOINTS_FOLDER: &str = "checkpoints";
/// The trainer's state and the other files' checksums.
pub const STATE_FILE: &str = "trainer.json";
/// Written last; holds the checksum of [`STATE_FILE`].
pub const DONE_FILE: &str = "DONE";

/// The checkpoints of one run.
#[derive(Debug, Clone)]
pub struct Checkpoints {
    root: PathBuf,
    #[cfg(test)]
    fault: save::Fault,
}

impl Checkpoints {
    /// The checkpoints of the run in `folder`; nothing is read or made yet.
    pub fn of_run(folder: &Path) -> Self {
        Self {
            root: folder.join(CHECKPOINTS_FOLDER),
            #[cfg(test)]
            fault: save::Fault::default(),
        }
    }

    /// The folder of a step's checkpoint.
    pub fn path(&self, step: u64) -> PathBuf {
        self.root.join(format!("step-{step}"))
    }

    /// Steps with a complete checkpoint, oldest first. Complete means that the done mark is there; whether the files
    /// are still what they were, [`Checkpoints::verify`] tells.
    ///
    /// # Errors
    /// The folder exists but cannot be read.
    pub fn steps(&self) -> Result<Vec<u64>> {
        let mut steps: Vec<u64> = self
            .entries()?
            .into_iter()
            .filter_map(|name| step_of(&name))
            .filter(|step| self.path(*step).join(DONE_FILE).is_file())
            .collect();
        steps.sort_unstable();
        Ok(steps)
    }

    /// The newest complete checkpoint's folder: what to load when a person names the run.
    ///
    /// # Errors
    /// The folder exists but cannot be read.
    pub fn latest(&self) -> Result<Option<PathBuf>> {
        Ok(self.steps()?.last().map(|step| self.path(*step)))
    }

    /// Removes what a killed process left: temporary folders, and checkpoints without a done mark that hold nothing but
    /// what was saved. Other folders of such a name are somebody's own. Only for the holder of the run folder's lock.
    ///
    /// # Errors
    /// Something cannot be removed.
    pub fn sweep(&self) -> Result<()> {
        for name in self.entries()? {
            let path = self.root.join(&name);
            let unfinished = match step_of(&name) {
                Some(step) => !path.join(DONE_FILE).is_file() && self.is_unfinished(step),
                None => name.starts_with(".step-") && name.ends_with(".tmp"),
            };
            if unfinished && path.is_dir() {
                std::fs::remove_dir_all(&path).map_err(|e| Error::io("cannot remove", &path, e))?;
            }
        }
        Ok(())
    }

    /// Removes all but the newest `keep` checkpoints and the one of step `best`.
    ///
    /// # Errors
    /// Something cannot be removed.
    pub fn prune(&self, keep: usize, best: Option<u64>) -> Result<()> {
        let steps = self.steps()?;
        let old = steps.len().saturating_sub(keep.max(1));
        for step in &steps[..old] {
            if Some(*step) != best {
                self.remove(*step)?;
            }
        }
        Ok(())
    }

    /// Renames the checkpoints of later steps to `damaged-step-N`, over older ones of that name, so that nobody takes them
    /// for the latest. Only for the holder of the run folder's lock, who goes on from `step`.
    ///
    /// # Errors
    /// Something cannot be renamed.
    pub fn set_aside_after(&self, step: u64) -> Result<()> {
        for later in self.steps()?.into_iter().filter(|later| *later > step) {
            let (from, to) = (self.path(later), self.root.join(format!("damaged-step-{later}")));
            if to.exists() {
                std::fs::remove_dir_all(&to).map_err(|e| Error::io("cannot remove", &to, e))?;
            }
            std::fs::rename(&from, &to).map_err(|e| Error::io("cannot rename", &from, e))?;
        }
        Ok(())
    }

    /// Renames the folder of a step that is no checkpoint to a name that is free, `kept-N-step-STEP`.
    fn set_aside(&self, step: u64) -> Result<()> {
        let name = |n: u64| self.root.join(format!("kept-{n}-step-{step}"));
        let mut n = 1;
        while name(n).exists() {
            n += 1;
        }
        let from = self.path(step);
        std::fs::rename(&from, name(n)).map_err(|e| Error::io("cannot rename", &from, e))
    }

    /// Renamed first, so that a checkpoint half removed is never taken for a complete one, and is swept.
    fn remove(&self, step: u64) -> Result<()> {
        let (path, old) = (self.path(step), self.root.join(format!(".step-{step}.old.tmp")));
        if old.exists() {
            std::fs::remove_dir_all(&old).map_err(|e| Error::io("cannot remove", &old, e))?;
        }
        std::fs::rename(&path, &old)
            .and_then(|()| std::fs::remove_dir_all(&old))
            .map_err(|e| Error::io("cannot remove", &path, e))
    }

    fn entries(&self) -> Result<Vec<String>> {
        let read = |e| Error::io("cannot read", &self.root, e);
        let entries = match std::fs::read_dir(&self.root) {
            Ok(entries) => entries,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(read(e)),
        };
        let mut names = Vec::new();
        for entry in entries {
            if let Ok(name) = entry.map_err(read)?.file_name().into_string() {
                names.push(name);
            }
        }
        Ok(names)
    }
}

fn step_of(name: &str) -> Option<u64> {
    let digits = name.strip_prefix("step-")?;
    let step: u64 = digits.parse().ok()?;
    (step.to_string() == digits).then_some(step)
}

#[cfg(test)]
mod tests;
