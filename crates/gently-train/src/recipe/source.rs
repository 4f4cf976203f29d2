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

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Default => f.write_str("default"),
            Source::Family(name) => write!(f, "default of {name}"),
            Source::Recipe { file, line } => write!(f, "{file}:{line}"),
            Source::Set => f.write_str("--set"),
            Source::Derived(how) => f.write_str(how),
        }
    }
}

/// One resolved configuration value.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ConfigLine {
    /// Dotted key, such as `model.layers`.
    pub key: String,
    /// The value as TOML text, such as `4` or `"cosine"`.
    pub value: String,
    /// Where it came from.
    pub source: Source,
}
