//! What a pull put into a folder, written down there.
//!
//! Here: the record of a commit and its files, and making a folder ready for another commit, so that nothing of the old one is
//! read with the new one. Not here: which files a commit has (see [`super::choice`]), and fetching them.
//!
//! Only names that a pull writes are ever removed, and of those only what the record says that a pull wrote.

use super::choice::{CONFIG, Choice, fixed_names, is_of_folder};
use super::error::{Error, Result};
use super::name::Name;
use super::part_of;
use gently_formats::{atomic, bounded};
use gently_train::data;
use serde_json::{Value, json};
use std::io::ErrorKind;
use std::path::Path;

/// The record's file. No repository has it: a name with a dot in front is not safe.
const NAME: &str = ".gently-pull.json";
/// Most bytes of it.
const MOST: u64 = 1 << 20;

/// A commit, and the files of it in a folder.
#[derive(Debug, PartialEq, Eq)]
struct Record {
    revision: String,
    files: Vec<String>,
}

impl Record {
    /// A folder's record; `None` where there is none that can be read.
    fn read(folder: &Path) -> Option<Self> {
        let text = bounded::read_text(folder.join(NAME), MOST).ok()?;
        let record: Value = serde_json::from_str(&text).ok()?;
        let files = record["files"].as_array()?.iter().filter_map(Value::as_str);
        // Anybody may have written it: it must not lead to other files.
        let files = files.filter(|f| is_of_folder(f)).map(str::to_owned).collect();
        Some(Self { revision: record["revision"].as_str()?.to_owned(), files })
    }

    fn write(&self, folder: &Path) -> Result<()> {
        let text = format!("{:#}\n", json!({"revision": self.revision, "files": self.files}));
        Ok(atomic::write(folder.join(NAME), text.as_bytes()).map_err(data::Error::from)?)
    }
}

/// Makes a folder ready for a commit's files: one that has another commit loses its `config.json`, without which it is no
/// model, then what was half fetched, then the files that this commit lacks.
///
/// # Errors
/// [`Error::Foreign`], before anything is removed; a file that cannot be removed, a record that cannot be written.
pub(super) fn prepare(folder: &Path, name: &Name, revision: &str, choice: &Choice) -> Result<()> {
    let wanted = Record { revision: revision.to_owned(), files: choice.files.iter().map(|f| f.path.clone()).collect() };
    let found = Record::read(folder);
    if found.as_ref() == Some(&wanted) {
        return Ok(());
    }
    if let (None, Some(path)) = (&found, foreign(folder, &wanted.files)) {
        return Err(Error::Foreign { name: name.to_string(), folder: folder.into(), path });
    }
    remove(&folder.join(CONFIG))?;
    if let Some(found) = &found {
        for file in found.files.iter().chain(&wanted.files) {
            remove(&part_of(&folder.join(file)))?;
        }
        for file in found.files.iter().filter(|f| !wanted.files.contains(f)) {
            remove(&folder.join(file))?;
        }
    }
    // Last: until then the old record says what is still to be removed.
    wanted.write(folder)
}

/// A file that would be read with those wanted, though it is not of them. Without a record it may be anybody's.
fn foreign(folder: &Path, wanted: &[String]) -> Option<&'static str> {
    let has = |path: &str| wanted.iter().any(|w| w == path);
    fixed_names(has("tokenizer.json")).find(|path| !has(path) && folder.join(path).exists())
}

fn remove(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(source) if !matches!(source.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            Err(data::Error::Io { path: path.into(), action: "remove", source }.into())
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::Entry;
    use std::fs;

    fn choice(paths: &[&str]) -> Choice {
        let entry = |path: &&str| Entry { path: path.to_string(), size: 1, sha256: None };
        Choice { files: paths.iter().map(entry).collect(), model: None }
    }

    fn put(folder: &Path, names: &[&str]) {
        names.iter().for_each(|name| fs::write(folder.join(name), "x").unwrap());
    }

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn another_commit_takes_what_the_first_one_brought() {
        let dir = tempfile::tempdir().unwrap();
        let (folder, name) = (dir.path(), "a/b".parse().unwrap());
        let first = choice(&["chat_template.jinja", "model.safetensors", "config.json"]);
        prepare(folder, &name, "1", &first).unwrap();
        let there = ["LICENSE", "chat_template.jinja", "config.json", "model.safetensors", "model.safetensors.part"];
        put(folder, &there);
        put(folder, &["notes.txt", "vocab.txt"]);
        prepare(folder, &name, "1", &first).unwrap();
        assert_eq!(names(folder).len(), 8, "the same commit removes nothing");
        prepare(folder, &name, "2", &choice(&["model.safetensors.index.json", "config.json"])).unwrap();
        assert_eq!(names(folder), [NAME, "LICENSE", "notes.txt", "vocab.txt"], "what no pull brought stays");
        assert_eq!(Record::read(folder).unwrap().revision, "2");
    }

    #[test]
    fn a_record_leads_to_no_other_files() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("model");
        fs::create_dir(&folder).unwrap();
        put(dir.path(), &["vocab.txt"]);
        put(&folder, &["notes.txt", "vocab.txt"]);
        let files = ["../vocab.txt", "model-of-/../../vocab-of-.safetensors", "notes.txt", "vocab.txt", NAME];
        Record { revision: "1".into(), files: files.map(String::from).into() }.write(&folder).unwrap();
        prepare(&folder, &"a/b".parse().unwrap(), "2", &choice(&["config.json"])).unwrap();
        assert_eq!((names(dir.path()).len(), names(&folder)), (2, vec![NAME.to_owned(), "notes.txt".into()]));
    }

    #[test]
    fn without_a_record_nothing_but_the_configuration_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let (folder, name) = (dir.path(), "a/b".parse().unwrap());
        put(folder, &["LICENSE", "config.json", "model.safetensors", "vocab.json"]);
        fs::write(folder.join(NAME), "{").unwrap();
        let parts = choice(&["tokenizer.json", "model.safetensors.index.json", "config.json"]);
        let e = prepare(folder, &name, "1", &parts).unwrap_err();
        assert!(e.to_string().contains("model.safetensors, which a/b lacks") && e.hint().is_some(), "{e}");
        assert_eq!(names(folder).len(), 5);
        prepare(folder, &name, "1", &choice(&["tokenizer.json", "model.safetensors", "config.json"])).unwrap();
        assert_eq!(names(folder), [NAME, "LICENSE", "model.safetensors", "vocab.json"]);
    }
}
