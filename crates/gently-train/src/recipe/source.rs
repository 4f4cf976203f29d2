//! Where a configuration value came from.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Where a configuration value came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Source {
    /// Gently's own default.
    Default,
    /// The default of a model family (`model.family`).
    Family(String),
    /// A line of a recipe file.
    Recipe {
        /// The file.
        file: String,
        /// Its line, from 1.
        line: usize,
    },
    /// `--set key=value`, or a flag that stands for it.
    Set,
    /// Worked out from another value; the text says how.
    Derived(String),
}

const FAMILY: &str = "default of ";
const SET: &str = "--set";

impl Source {
    /// Reads back what [`Display`](fmt::Display) wrote after a value in `config.toml`.
    pub(super) fn from_comment(comment: &str) -> Self {
        if comment == "default" {
            return Source::Default;
        }
        if comment == SET {
            return Source::Set;
        }
        if let Some(family) = comment.strip_prefix(FAMILY) {
            return Source::Family(family.into());
        }
        match comment.rsplit_once(':') {
            Some((file, line)) if line.parse::<usize>().is_ok() => {
                Source::Recipe { file: file.into(), line: line.parse().unwrap_or_default() }
            }
            _ => Source::Derived(comment.into()),
        }
    }

    /// Whether a person wrote the value.
    pub fn is_given(&self) -> bool {
        matches!(self, Source::Recipe { .. } | Source::Set)
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Default => f.write_str("default"),
            Source::Family(name) => write!(f, "{FAMILY}{name}"),
            Source::Recipe { file, line } => write!(f, "{file}:{line}"),
            Source::Set => f.write_str(SET),
            Source::Derived(how) => f.write_str(how),
        }
    }
}

/// One resolved configuration value.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ConfigLine {
    /// Dotted key, such as `model.layers`.
    pub key: String,
    /// The value as TOML text, such as `4` or `"cosine"`; empty when the value is unset.
    pub value: String,
    /// Where it came from.
    pub source: Source,
}
