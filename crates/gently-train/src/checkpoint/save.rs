//! Writing a checkpoint so that a kill or a full disk at any moment leaves the ones before it whole.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use gently_formats::unfinished::Unfinished;
use serde::Serialize;

use super::files::{Seal, seal, sync};
use super::{Checkpoints, DONE_FILE, STATE_FILE};
use crate::{Error, Result};

/// The layout of `trainer.json`.
pub(super) const FORMAT: u32 = 1;
/// The done mark while it is written.
pub(super) const DONE_TEMPORARY: &str = "DONE.tmp";

#[derive(Serialize)]
struct Manifest<'a, S> {
    format: u32,
    step: u64,
    files: BTreeMap<String, Seal>,
    state: &'a S,
}

/// A test's way to make the disk full: fails when a file of this name is about to be made to last.
#[cfg(test)]
#[derive(Debug, Clone, Default)]
pub(crate) struct Fault(pub std::sync::Arc<std::sync::Mutex<Option<&'static str>>>);

impl Checkpoints {
    /// Saves a checkpoint: `write` puts its files into the folder that it is given. Returns the final folder and the
    /// size of all its files.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] with the cause and the last good checkpoint. Nothing of the failed one stays.
    pub fn save<S: Serialize>(
        &self,
        step: u64,
        state: &S,
        write: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<(PathBuf, u64)> {
        let temporary = self.root.join(format!(".step-{step}.tmp"));
        let half = temporary.clone();
        let _unfinished = Unfinished::new(move || drop(std::fs::remove_dir_all(half)));
        let result =
            self.fill(&temporary, step, state, write).and_then(|bytes| Ok((self.publish(&temporary, step)?, bytes)));
        result.map_err(|source| {
            // The cause is what the person must hear; a folder that stays is swept at the next start.
            let _ = std::fs::remove_dir_all(&temporary);
            Error::Checkpoint {
                path: self.path(step),
                last_good: self.latest().ok().flatten(),
                source: Box::new(source),
            }
        })
    }

    fn fill<S: Serialize>(
        &self,
        folder: &Path,
        step: u64,
        state: &S,
        write: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<u64> {
        let on = |path: &Path| {
            let path = path.to_owned();
            move |e| Error::io("cannot write", &path, e)
        };
        if folder.exists() {
            std::fs::remove_dir_all(folder).map_err(on(folder))?;
        }
        std::fs::create_dir_all(folder).map_err(on(folder))?;
        write(folder)?;

        let mut files = BTreeMap::new();
        for entry in std::fs::read_dir(folder).map_err(on(folder))? {
            let path = entry.map_err(on(folder))?.path();
            self.fault(&path).map_err(on(&path))?;
            let seal = seal(&path).map_err(on(&path))?;
            sync(&path).map_err(on(&path))?;
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            files.insert(name.into_owned(), seal);
        }
        let mut bytes = files.values().map(|seal| seal.bytes).sum();

        let manifest = Manifest { format: FORMAT, step, files, state };
        let path = folder.join(STATE_FILE);
        let text = serde_json::to_vec_pretty(&manifest).map_err(|e| on(&path)(e.into()))?;
        bytes += text.len() as u64;
        self.fault(&path).map_err(on(&path))?;
        std::fs::write(&path, text).and_then(|()| sync(&path)).and_then(|()| sync(folder)).map_err(on(&path))?;
        Ok(bytes)
    }

    fn publish(&self, temporary: &Path, step: u64) -> Result<PathBuf> {
        let path = self.path(step);
        if path.exists() {
            match path.join(DONE_FILE).is_file() || self.is_unfinished(step) {
                // Left without a done mark by a killed process, or damaged and replaced now.
                true => self.remove(step)?,
                // Whatever it is, it is not ours to remove.
                false => self.set_aside(step)?,
            }
        }
        let done = path.join(DONE_FILE);
        let done_temporary = path.join(DONE_TEMPORARY);
        // What is there where this fails is not ours.
        std::fs::rename(temporary, &path).map_err(|e| Error::io("cannot write", &path, e))?;
        sync(&self.root)
            .and_then(|()| self.fault(&done))
            .and_then(|()| seal(&path.join(STATE_FILE)))
            .and_then(|seal| std::fs::write(&done_temporary, seal.xxh3))
            .and_then(|()| sync(&done_temporary))
            .and_then(|()| std::fs::rename(&done_temporary, &done))
            .and_then(|()| sync(&path))
            .map_err(|e| {
                if !done.exists() {
                    // By way of another name: half a removed folder under this one would be taken for somebody's own.
                    let _ = self.remove(step);
                }
                Error::io("cannot write", &path, e)
            })?;
        Ok(path)
    }

    #[cfg(test)]
    fn fault(&self, path: &Path) -> io::Result<()> {
        let name = self.fault.0.lock().unwrap();
        match (*name, path.file_name().and_then(|n| n.to_str())) {
            (Some(fault), Some(name)) if fault == name => Err(io::ErrorKind::StorageFull.into()),
            _ => Ok(()),
        }
    }

    #[cfg(not(test))]
    fn fault(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }
}
