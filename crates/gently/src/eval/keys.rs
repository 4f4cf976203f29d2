//! Reading of keys: a map whose every key must be known.
//!
//! Here: typed access with errors that name file, line and key, and the nearest known key. Not here: what keys mean (see
//! [`super::task`]).

use super::error::{Error, Result};
use super::yaml::{Entry, Node, Value};
use fancy_regex::Regex;
use std::path::Path;

/// A map of a task file.
pub(super) struct Keys<'a> {
    pub path: &'a Path,
    /// What the map is, for messages; empty for the file itself.
    place: String,
    entries: &'a [Entry],
}

/// An error at a line of a task file.
pub(super) fn wrong(path: &Path, line: usize, reason: impl Into<String>, hint: Option<&str>) -> Error {
    Error::Task { path: path.into(), line, reason: reason.into(), hint: hint.map(str::to_owned) }
}

impl<'a> Keys<'a> {
    /// The map that `node` is; each of its keys is in `known`, or of lm-evaluation-harness and in `elsewhere`, with why it is
    /// not read here.
    pub fn of(path: &'a Path, place: &str, node: &'a Node, known: &[&str], elsewhere: &[(&str, &str)]) -> Result<Self> {
        let of_place = if place.is_empty() { String::new() } else { format!(" of {place}") };
        let Value::Map(entries) = &node.value else {
            let what = if place.is_empty() { "the task" } else { place };
            return Err(wrong(path, node.line, format!("{what} is {}, not a map of keys", node.kind()), None));
        };
        for Entry { key, line, node } in entries {
            if known.contains(&key.as_str()) || matches!(node.value, Value::Null) && is_in(elsewhere, key).is_some() {
                continue;
            }
            if let Some(why) = is_in(elsewhere, key) {
                return Err(wrong(path, *line, format!("{key}{of_place} is not implemented: {why}"), None));
            }
            let near = known
                .iter()
                .map(|k| (strsim::jaro_winkler(key, k), k))
                .filter(|(alike, _)| *alike > 0.75)
                .max_by(|a, b| a.0.total_cmp(&b.0));
            let hint = match near {
                Some((_, near)) => format!("did you mean {near}?"),
                None => format!("known keys{of_place}: {}", known.join(", ")),
            };
            return Err(wrong(path, *line, format!("the key {key}{of_place} is not known"), Some(&hint)));
        }
        Ok(Self { path, place: of_place, entries })
    }

    /// A key's value; `None` where it is absent or null.
    pub fn get(&self, key: &str) -> Option<&'a Node> {
        let entry = self.entries.iter().find(|e| e.key == key)?;
        (entry.node.value != Value::Null).then_some(&entry.node)
    }

    /// An error about a key's value.
    pub fn wrong(&self, key: &str, node: &Node, reason: impl std::fmt::Display) -> Error {
        wrong(self.path, node.line, format!("{key}{}: {reason}", self.place), None)
    }

    fn expected(&self, key: &str, node: &Node, what: &str) -> Error {
        self.wrong(key, node, format!("it is {}, not {what}", node.kind()))
    }

    pub fn text(&self, key: &str) -> Result<Option<&'a str>> {
        match self.get(key) {
            None => Ok(None),
            Some(Node { value: Value::Text(text), .. }) => Ok(Some(text)),
            Some(node) => Err(self.expected(key, node, "a text")),
        }
    }

    pub fn flag(&self, key: &str) -> Result<Option<bool>> {
        match self.get(key) {
            None => Ok(None),
            Some(Node { value: Value::Bool(flag), .. }) => Ok(Some(*flag)),
            Some(node) => Err(self.expected(key, node, "true or false")),
        }
    }

    pub fn whole(&self, key: &str) -> Result<Option<i64>> {
        match self.get(key) {
            None => Ok(None),
            Some(Node { value: Value::Int(n), .. }) => Ok(Some(*n)),
            Some(node) => Err(self.expected(key, node, "a whole number")),
        }
    }

    pub fn list(&self, key: &str) -> Result<&'a [Node]> {
        match self.get(key) {
            None => Ok(&[]),
            Some(Node { value: Value::List(all), .. }) => Ok(all),
            Some(node) => Err(self.expected(key, node, "a list")),
        }
    }

    /// Texts: one, or a list of them.
    pub fn texts(&self, key: &str) -> Result<Option<Vec<String>>> {
        let Some(node) = self.get(key) else { return Ok(None) };
        let all = match &node.value {
            Value::List(all) => all,
            _ => std::slice::from_ref(node),
        };
        let text = |n: &Node| match &n.value {
            Value::Text(text) => Ok(text.clone()),
            _ => Err(self.expected(key, n, "a text or a list of texts")),
        };
        all.iter().map(text).collect::<Result<_>>().map(Some)
    }

    /// A number between 0 and `most`.
    pub fn count(&self, key: &str, most: i64) -> Result<Option<usize>> {
        match self.whole(key)? {
            Some(n) if !(0..=most).contains(&n) => {
                let node = self.get(key).unwrap_or(&NOTHING);
                Err(self.wrong(key, node, format!("{n} is not between 0 and {most}")))
            }
            n => Ok(n.map(|n| n as usize)),
        }
    }

    /// One of some words, by its place among them.
    pub fn choice(&self, key: &str, words: &[&str]) -> Result<Option<usize>> {
        let Some(text) = self.text(key)? else { return Ok(None) };
        let node = self.get(key).unwrap_or(&NOTHING);
        let at = words.iter().position(|w| *w == text);
        at.map(Some).ok_or_else(|| self.wrong(key, node, format!("{text:?} is none of {}", words.join(", "))))
    }

    /// Insists that a key, if given, has the one value that is done anyway.
    pub fn only(&self, key: &str, allowed: &[Value]) -> Result<()> {
        match self.get(key) {
            Some(node) if !allowed.contains(&node.value) => {
                let shown: Vec<String> =
                    allowed.iter().map(|v| Node { line: 0, value: v.clone() }.to_json().to_string()).collect();
                let reason = format!("{key}{}: only {} is implemented", self.place, shown.join(" or "));
                Err(wrong(self.path, node.line, reason, Some("leave it out, or write what is done")))
            }
            _ => Ok(()),
        }
    }

    /// A regular expression of a node.
    pub fn regex(&self, key: &str, node: &Node) -> Result<Regex> {
        let Value::Text(pattern) = &node.value else { return Err(self.expected(key, node, "a regular expression")) };
        Regex::new(pattern).map_err(|e| self.wrong(key, node, e))
    }
}

const NOTHING: Node = Node { line: 1, value: Value::Null };

fn is_in<'w>(list: &[(&str, &'w str)], key: &str) -> Option<&'w str> {
    list.iter().find(|(name, _)| *name == key).map(|(_, why)| *why)
}
