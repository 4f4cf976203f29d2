//! Where a task's items and solved examples are from.
//!
//! Here: the keys that name files, splits of files, and items in the task file itself. Not here: reading a file of items (see
//! [`super::items`]).

use super::error::Result;
use super::items;
use super::keys::{Keys, wrong};
use super::yaml::{Node, Value};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// How solved examples are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sampler {
    /// Drawn anew for each item.
    Random,
    /// The first ones, in their order.
    First,
}

/// Items and where they are from.
#[derive(Debug, Clone)]
pub(super) struct Items {
    pub path: PathBuf,
    pub all: Vec<serde_json::Value>,
}

impl Items {
    /// The items of some files, one after another; the first file names them.
    fn read(files: &[PathBuf]) -> Result<Self> {
        let path = files.first().cloned().unwrap_or_default();
        let mut all = Vec::new();
        for file in files {
            all.extend(items::read(file)?);
        }
        Ok(Self { path, all })
    }
}

/// Solved examples that are not among the items. Those of files are read once they are wanted: how many there are to be is known
/// only when the task is run.
#[derive(Debug, Clone)]
pub(super) struct Examples {
    files: Vec<PathBuf>,
    read: OnceLock<Items>,
}

impl Examples {
    fn in_files(files: Vec<PathBuf>) -> Self {
        Self { files, read: OnceLock::new() }
    }

    /// All of them.
    pub fn items(&self) -> Result<&Items> {
        if let Some(items) = self.read.get() {
            return Ok(items);
        }
        let items = Items::read(&self.files)?;
        Ok(self.read.get_or_init(|| items))
    }
}

impl From<Items> for Examples {
    fn from(items: Items) -> Self {
        Self { files: Vec::new(), read: OnceLock::from(items) }
    }
}

/// The items, and the examples that are not among them.
pub(super) fn files(keys: &Keys<'_>) -> Result<(Items, Option<Examples>)> {
    let path = keys.path;
    let folder = path.parent().unwrap_or(Path::new(""));
    let read = |file: &str| Items::read(&[folder.join(file)]);
    let inline = |key: &str| -> Result<Option<Items>> { inline(keys, key) };
    let given = ["data", "items", "dataset_path"].into_iter().filter(|k| keys.get(k).is_some()).collect::<Vec<_>>();
    let mut examples = match (keys.text("fewshot_data")?, inline("fewshot_items")?) {
        (Some(_), Some(_)) => {
            let node = keys.get("fewshot_items").map_or(1, |n| n.line);
            return Err(wrong(path, node, "both fewshot_data and fewshot_items are given", None));
        }
        (Some(file), None) => Some(read(file)?.into()),
        (None, shown) => shown.map(Examples::from),
    };
    let items = match given[..] {
        ["data"] => read(keys.text("data")?.unwrap_or_default())?,
        ["items"] => inline("items")?.ok_or_else(|| wrong(path, 1, "items is missing", None))?,
        [_] => {
            let splits = splits(keys)?;
            let of = |key: &str| -> Result<Option<&str>> {
                let Some(name) = keys.text(key)? else { return Ok(None) };
                let node = keys.get(key).map_or(1, |n| n.line);
                let known = || splits.iter().map(|s| s.0.as_str()).collect::<Vec<_>>().join(", ");
                let found = splits.iter().find(|s| s.0 == name).map(|s| Some(s.0.as_str()));
                found.ok_or_else(|| {
                    wrong(path, node, format!("{key}: data_files has no {name:?}, but {}", known()), None)
                })
            };
            let files = |split: &str| -> Vec<PathBuf> {
                let files = splits.iter().find(|s| s.0 == split).map_or(&[][..], |s| &s.1[..]);
                files.iter().map(|file| folder.join(file)).collect()
            };
            let split = of("test_split")?.map_or_else(|| of("validation_split"), |s| Ok(Some(s)))?;
            let split = split.ok_or_else(|| {
                wrong(path, 1, "neither test_split nor validation_split says which items to ask", None)
            })?;
            let shown = match of("fewshot_split")? {
                Some(shown) => Some(shown),
                None => of("training_split")?.map_or_else(|| of("validation_split"), |s| Ok(Some(s)))?,
            };
            // Examples that are written down go before a split that is named for something else too.
            let free = examples.is_none() || keys.get("fewshot_split").is_some();
            if let Some(shown) = shown.filter(|s| free && *s != split) {
                examples = Some(Examples::in_files(files(shown)));
            }
            Items::read(&files(split))?
        }
        [] => {
            let hint = "data: FILE.jsonl, or items: with a list of items";
            return Err(wrong(path, 1, "there are no items: data is missing", Some(hint)));
        }
        [first, second, ..] => {
            let line = keys.get(second).map_or(1, |n| n.line);
            return Err(wrong(path, line, format!("both {first} and {second} say where the items are"), None));
        }
    };
    Ok((items, examples))
}

/// The files that a task names, those among them too that it does not read.
pub(super) fn named(keys: &Keys<'_>) -> Result<Vec<PathBuf>> {
    let mut files: Vec<String> = Vec::new();
    for key in ["data", "fewshot_data"] {
        files.extend(keys.text(key)?.map(str::to_owned));
    }
    if keys.get("dataset_path").is_some() {
        files.extend(splits(keys)?.into_iter().flat_map(|split| split.1));
    }
    let folder = keys.path.parent().unwrap_or(Path::new(""));
    Ok(files.iter().map(|file| folder.join(file)).collect())
}

/// Items written into the task file.
fn inline(keys: &Keys<'_>, key: &str) -> Result<Option<Items>> {
    let Some(node) = keys.get(key) else { return Ok(None) };
    let all: Vec<serde_json::Value> = keys.list(key)?.iter().map(Node::to_json).collect();
    if all.is_empty() {
        return Err(keys.wrong(key, node, "it has no items"));
    }
    if let Some(at) = all.iter().position(|item| !item.is_object()) {
        return Err(keys.wrong(key, node, format!("item {} is not a map of fields", at + 1)));
    }
    Ok(Some(Items { path: keys.path.into(), all }))
}

/// Splits and their files, of a dataset that is local JSON.
fn splits(keys: &Keys<'_>) -> Result<Vec<(String, Vec<String>)>> {
    let path = keys.path;
    let line = |key: &str| keys.get(key).map_or(1, |n| n.line);
    if let Some(other) = keys.text("dataset_path")?.filter(|p| *p != "json") {
        let hint = "write the items to a .jsonl file and name it with data:";
        return Err(wrong(path, line("dataset_path"), format!("the dataset {other} is not fetched"), Some(hint)));
    }
    let Some(node) = keys.get("dataset_kwargs") else {
        return Err(wrong(path, line("dataset_path"), "dataset_kwargs with data_files is missing", None));
    };
    let kwargs = Keys::of(path, "dataset_kwargs", node, &["data_files"], &[])?;
    let list = |keys: &Keys<'_>, key: &str, node: &Node| match keys.texts(key)? {
        Some(files) if !files.is_empty() => Ok(files),
        _ => Err(keys.wrong(key, node, "it names no file")),
    };
    match kwargs.get("data_files") {
        Some(Node { value: Value::Map(all), .. }) if !all.is_empty() => {
            let node = kwargs.get("data_files").unwrap_or(node);
            let known: Vec<&str> = all.iter().map(|e| e.key.as_str()).collect();
            let files = Keys::of(path, "data_files", node, &known, &[])?;
            known.iter().map(|k| Ok((k.to_string(), list(&files, k, node)?))).collect()
        }
        Some(files) => Ok(vec![("train".to_owned(), list(&kwargs, "data_files", files)?)]),
        None => Err(kwargs.wrong("data_files", node, "it is missing")),
    }
}

/// How examples are chosen, and those that `fewshot_config` has.
pub(super) fn fewshot_config(keys: &Keys<'_>) -> Result<(Sampler, Option<Items>)> {
    let Some(node) = keys.get("fewshot_config") else { return Ok((Sampler::Random, None)) };
    let config = Keys::of(keys.path, "fewshot_config", node, &["sampler", "samples"], &[])?;
    let sampler = match config.choice("sampler", &["default", "first_n"])? {
        Some(1) => Sampler::First,
        _ => Sampler::Random,
    };
    Ok((sampler, inline(&config, "samples")?))
}
