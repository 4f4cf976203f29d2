//! What a pull put into a folder, written down there.
//!
//! Here: the record of a commit and its files, and making a folder ready for another commit, so that nothing of the old one is
//! read with the new one. Not here: which files a commit has (see [`super::choice`]), and fetching them.
//!
//! Only names that a pull writes are ever removed, and of those only what the record says that a pull wrote; and only for
//! another commit of the same repository, so that a name typed wrong costs nobody a model.

use super::choice::{Choice, fixed_names, is_of_folder};
use super::error::{Error, Result};
use super::name::Name;
use super::part_of;
use crate::folder;
use gently_formats::files::{CONFIG, TOKENIZER};
use gently_formats::{atomic, bounded};
use gently_train::data;
use serde_json::{Value, json};
use std::path::Path;

/// The record's file. No repository has it: a name with a dot in front is not safe.
pub(crate) const NAME: &str = ".gently-pull.json";
/// Most bytes of it.
const MOST: u64 = 1 << 20;

/// A commit, and the files of it in a folder.
#[derive(Debug, PartialEq, Eq)]
struct Record {
    /// The repository; older records do not say it.
    repo: Option<String>,
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
        let repo = record["repo"].as_str().map(str::to_owned);
        Some(Self { repo, revision: record["revision"].as_str()?.to_owned(), files })
    }

    fn write(&self, folder: &Path) -> Result<()> {
        let record = json!({"repo": self.repo, "revision": self.revision, "files": self.files});
        let text = format!("{record:#}\n");
        Ok(atomic::write(folder.join(NAME), text.as_bytes()).map_err(data::Error::from)?)
    }
}

/// The record of a folder whose pulled model another one took the place of, by a conversion: no pull may take it for its own.
pub(crate) fn of_conversion() -> String {
    let record = json!({"repo": "of a conversion", "revision": "", "files": []});
    format!("{record:#}\n")
}

/// Makes a folder ready for a commit's files: one that has another commit loses its `config.json`, without which it is no
/// model, then what was half fetched, then the files that this commit lacks. Before a whole model is given up, `reach` says
/// whether the files of this one can be had.
///
/// # Errors
/// Before anything is removed [`Error::OtherModel`], [`Error::Foreign`] and what `reach` says; a file that cannot be removed, a
/// record that cannot be written.
pub(super) fn prepare(
    folder: &Path,
    name: &Name,
    revision: &str,
    choice: &Choice,
    reach: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let wanted = Record {
        repo: Some(name.repo().to_owned()),
        revision: revision.to_owned(),
        files: choice.files.iter().map(|f| f.path.clone()).collect(),
    };
    let found = Record::read(folder);
    let brought = found.as_ref().map_or(&[][..], |found| &found.files[..]);
    let repo = found.as_ref().and_then(|found| found.repo.as_ref());
    // The Hub does not tell large letters from small ones.
    let other = repo.filter(|repo| !repo.eq_ignore_ascii_case(name.repo()));
    // A pull that was refused leaves its record, and nothing else.
    let has = |file: &String| folder.join(file).exists() || part_of(&folder.join(file)).exists();
    let anything = || folder.join(CONFIG).exists() || brought.iter().any(has);
    if let Some(repo) = other.filter(|_| anything()) {
        return Err(Error::OtherModel { name: name.to_string(), folder: folder.into(), repo: repo.clone() });
    }
    if let Some(path) = foreign(folder, &wanted.files, brought) {
        return Err(Error::Foreign { name: name.to_string(), folder: folder.into(), path });
    }
    if other.is_none()
        && found.as_ref().is_some_and(|found| found.revision == wanted.revision && found.files == wanted.files)
    {
        return if repo.is_some() { Ok(()) } else { wanted.write(folder) };
    }
    if folder.join(CONFIG).exists() {
        reach()?;
    }
    remove(&folder.join(CONFIG))?;
    if found.is_some() {
        for file in brought.iter().chain(&wanted.files) {
            remove(&part_of(&folder.join(file)))?;
        }
        for file in brought.iter().filter(|f| !wanted.files.contains(f)) {
            remove(&folder.join(file))?;
        }
    }
    // Last: until then the old record says what is still to be removed.
    wanted.write(folder)
}

/// A file that would be read with those wanted, though it is not of them, and no pull brought it: it may be anybody's.
fn foreign(folder: &Path, wanted: &[String], brought: &[String]) -> Option<&'static str> {
    let has = |files: &[String], path: &str| files.iter().any(|f| f == path);
    let known = |path: &str| has(wanted, path) || has(brought, path);
    fixed_names(has(wanted, TOKENIZER)).find(|path| !known(path) && folder.join(path).exists())
}

fn remove(path: &Path) -> Result<()> {
    let refused = gently_formats::Error::io(path, "remove");
    Ok(folder::remove(path).map_err(|e| data::Error::from(refused(e)))?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::Entry;
    use std::fs;

    fn ready(folder: &Path, revision: &str, choice: &Choice) -> Result<()> {
        prepare(folder, &"a/b".parse().unwrap(), revision, choice, || Ok(()))
    }

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
        let folder = dir.path();
        let first = choice(&["chat_template.jinja", "model.safetensors", "config.json"]);
        ready(folder, "1", &first).unwrap();
        let there = ["LICENSE", "chat_template.jinja", "config.json", "model.safetensors", "model.safetensors.part"];
        put(folder, &there);
        put(folder, &["notes.txt"]);
        ready(folder, "1", &first).unwrap();
        assert_eq!(names(folder).len(), 7, "the same commit removes nothing");
        ready(folder, "2", &choice(&["model.safetensors.index.json", "config.json"])).unwrap();
        assert_eq!(names(folder), [NAME, "LICENSE", "notes.txt"], "what no pull brought stays");
        assert_eq!(Record::read(folder).unwrap().revision, "2");
    }

    #[test]
    fn what_is_refused_costs_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path();
        let (first, next) = (choice(&["model.safetensors", "config.json"]), choice(&["config.json"]));
        ready(folder, "1", &first).unwrap();
        put(folder, &["model.safetensors", "config.json", "model.safetensors.part"]);
        let whole = names(folder);
        let never = || -> Result<()> { panic!("it was refused before") };
        let said = |done: Result<()>| done.unwrap_err().to_string();

        // Another repository, also at a commit of the same name; the same one in other letters is no other.
        let other = "a/c".parse().unwrap();
        assert!(said(prepare(folder, &other, "1", &first, never)).contains("the model a/b, not a/c"));
        prepare(folder, &"A/B".parse().unwrap(), "1", &first, never).unwrap();
        // Of that one nothing came, and it stands in nobody's way.
        let empty = tempfile::tempdir().unwrap();
        ready(empty.path(), "1", &first).unwrap();
        prepare(empty.path(), &other, "1", &first, || Ok(())).unwrap();
        assert_eq!(names(empty.path()), [NAME]);
        assert_eq!(Record::read(empty.path()).unwrap().repo.as_deref(), Some("a/c"));
        // Half a file is something.
        put(empty.path(), &["model.safetensors.part"]);
        assert!(said(ready(empty.path(), "1", &first)).contains("the model a/c, not a/b"));
        // Nor may what was converted into the folder be taken for a pulled model.
        fs::write(empty.path().join(NAME), of_conversion()).unwrap();
        put(empty.path(), &["config.json"]);
        assert!(said(ready(empty.path(), "1", &first)).contains("of a conversion, not a/b"));
        // A commit whose files cannot be had.
        let fails = || Err(Error::NoModel { name: "it cannot be had".into(), other: None });
        assert!(said(prepare(folder, &"a/b".parse().unwrap(), "2", &next, fails)).contains("cannot be had"));
        assert_eq!((names(folder), Record::read(folder).unwrap().revision), (whole, "1".into()));
        // A file of another origin, for the commit that is there and for another one.
        put(folder, &["vocab.txt"]);
        for (revision, choice) in [("1", &first), ("2", &next)] {
            assert!(said(ready(folder, revision, choice)).contains("vocab.txt, which a/b lacks"));
        }
        assert_eq!(names(folder).len(), 5);
    }

    #[test]
    fn a_record_without_a_repository_is_of_any() {
        let dir = tempfile::tempdir().unwrap();
        let (folder, first) = (dir.path(), choice(&["config.json"]));
        fs::write(folder.join(NAME), "{\"revision\": \"1\", \"files\": [\"config.json\"]}").unwrap();
        put(folder, &["config.json"]);
        ready(folder, "1", &first).unwrap();
        assert_eq!(names(folder), [NAME, "config.json"]);
        assert_eq!(Record::read(folder).unwrap().repo.as_deref(), Some("a/b"), "from now on it says it");
    }

    #[test]
    fn a_record_leads_to_no_other_files() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("model");
        fs::create_dir(&folder).unwrap();
        put(dir.path(), &["vocab.txt"]);
        put(&folder, &["notes.txt", "vocab.txt"]);
        let files = ["../vocab.txt", "model-of-/../../vocab-of-.safetensors", "notes.txt", "vocab.txt", NAME];
        let record = Record { repo: None, revision: "1".into(), files: files.map(String::from).into() };
        record.write(&folder).unwrap();
        ready(&folder, "2", &choice(&["config.json"])).unwrap();
        assert_eq!((names(dir.path()).len(), names(&folder)), (2, vec![NAME.to_owned(), "notes.txt".into()]));
    }

    #[test]
    fn without_a_record_nothing_but_the_configuration_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path();
        put(folder, &["LICENSE", "config.json", "model.safetensors", "vocab.json"]);
        fs::write(folder.join(NAME), "{").unwrap();
        let parts = choice(&["tokenizer.json", "model.safetensors.index.json", "config.json"]);
        let e = ready(folder, "1", &parts).unwrap_err();
        assert!(e.to_string().contains("model.safetensors, which a/b lacks") && e.hint().is_some(), "{e}");
        assert_eq!(names(folder).len(), 5);
        ready(folder, "1", &choice(&["tokenizer.json", "model.safetensors", "config.json"])).unwrap();
        assert_eq!(names(folder), [NAME, "LICENSE", "model.safetensors", "vocab.json"]);
    }
}
