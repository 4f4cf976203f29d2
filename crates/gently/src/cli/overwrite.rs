//! What a command reads is not written over.

use super::failure::advise;
use anyhow::Result;
use gently::folder;
use gently_models::WeightSource;
use std::path::{Path, PathBuf};

/// The files of a model: as it was named and as it was found, its weights, and the configuration, the tokenizer and the rest beside
/// them, there or not.
pub fn files_of(named: &Path, found: &Path, source: &WeightSource) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = [named, found].into_iter().chain(source.files()).map(Path::to_owned).collect();
    files.extend(folder::model_files(found));
    files
}

/// As [`files_of`], of a model that is only named.
///
/// # Errors
/// A name that is no model's.
pub fn files_of_named(named: &Path) -> Result<Vec<PathBuf>> {
    let found = folder::locate(named)?;
    Ok(files_of(named, &found, &WeightSource::open(&found)?))
}

/// Refuses a file that could not be written, before there is anything to write: a folder, or what lies in none.
pub fn refuse_unwritable(output: &Path) -> Result<()> {
    if output.is_dir() {
        return Err(advise(format!("{} is a folder", output.display()), "give the name of a file"));
    }
    match output.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        Some(parent) if !parent.is_dir() => {
            let what = format!("{} cannot be written: {} is no folder", output.display(), parent.display());
            Err(advise(what, "make the folder first, or give another name"))
        }
        _ => Ok(()),
    }
}

/// Refuses an output in the place of a file that is not of its `kind`.
pub fn refuse_others(output: &Path, kind: &str, is_one: impl FnOnce(&Path) -> bool) -> Result<()> {
    // An empty file is nobody's loss.
    let there = std::fs::metadata(output).is_ok_and(|there| there.is_file() && there.len() > 0);
    if there && !is_one(output) {
        let what = format!("{} is no {kind}, and would be lost", output.display());
        return Err(advise(what, "give another name"));
    }
    Ok(())
}

/// Refuses an output that would take the place of something that is read, or of what its links lead to. An output that is a folder
/// stands for all that a model takes away in it.
pub fn refuse(mut read: Vec<PathBuf>, output: &Path) -> Result<()> {
    let Ok(there) = output.canonicalize() else { return Ok(()) };
    if !there.is_file() && !there.is_dir() {
        // A device or a pipe keeps nothing that could be lost.
        return Ok(());
    }
    read.retain_mut(|path| path.canonicalize().map(|real| *path = real).is_ok());
    // What a model in a folder takes away: the links themselves, not what they lead to.
    let taken = |path: PathBuf| Some(path.parent()?.canonicalize().ok()?.join(path.file_name()?));
    let mut lost: Vec<PathBuf> = vec![there.clone()];
    if there.is_dir() {
        lost.extend(folder::model_files(&there).into_iter().filter_map(taken));
    }
    // What a conversion that was broken off left is cleared up before the next one writes.
    let stage = there.join(folder::STAGE);
    match read.iter().find(|path| lost.contains(path) || path.starts_with(&stage)) {
        Some(path) => {
            let what = match *path == there {
                true => format!("{} is both read and written", output.display()),
                false => format!("{} would be replaced, but it is read", path.display()),
            };
            Err(advise(what, "give another name for the result"))
        }
        None => Ok(()),
    }
}
