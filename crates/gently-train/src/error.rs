//! What can go wrong in training, each with the thing it is about.
//!
//! Here: [`Error`] and its hints. Not here: errors of tensors, models, formats and texts, which arrive as they are.
//!
//! ```
//! let error = gently_train::recipe::Recipe::parse("[train]\nstep = 5", "r.toml").unwrap_err();
//! assert_eq!(error.hint().unwrap(), "did you mean train.steps?");
//! ```

use std::path::{Path, PathBuf};

use crate::recipe::Source;

/// Shorthand for results of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Anything that stops a run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file or folder could not be used.
    #[error("{action} {}", path.display())]
    Io {
        /// What was tried, such as `cannot write`.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// An observer failed.
    #[error("{name} stopped the run")]
    Observer {
        /// Which observer.
        name: String,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A file that cannot be a recipe.
    #[error("{} is not a recipe: {why}", path.display())]
    NotARecipe {
        /// The file.
        path: PathBuf,
        /// What it is instead.
        why: String,
    },
    /// TOML that cannot be read.
    #[error("{file}:{line}: {why}")]
    Syntax {
        /// The file.
        file: String,
        /// The line.
        line: usize,
        /// What the parser says.
        why: String,
    },
    /// A value outside of a section.
    #[error("{file}:{line}: `{key}` is not a section of a recipe")]
    NotASection {
        /// The key found.
        key: String,
        /// The file.
        file: String,
        /// The line.
        line: usize,
    },
    /// `--set` without a value.
    #[error("--set {text}: there is no `=`")]
    NotAnAssignment {
        /// What was given.
        text: String,
    },
    /// A key that no section has.
    #[error("unknown key {key} ({place})")]
    UnknownKey {
        /// The key.
        key: String,
        /// Where it stands.
        place: Source,
        /// The known key nearest to it.
        suggestion: Option<String>,
    },
    /// A value of a wrong type or out of range.
    #[error("{key} = {value} ({place}): {why}")]
    Value {
        /// The key.
        key: String,
        /// The value as TOML.
        value: String,
        /// Where it came from.
        place: Source,
        /// The rule it breaks.
        why: String,
    },
    /// A continued run whose configuration is another run's.
    #[error("{key} is {now} ({place}), but the run was begun with {saved}")]
    ConfigMismatch {
        /// The key.
        key: String,
        /// The value in the run folder.
        saved: String,
        /// The value asked for now.
        now: String,
        /// Where that came from.
        place: Source,
    },
    /// The system refuses signal handlers.
    #[error("cannot listen for Ctrl-C and SIGTERM")]
    Signals {
        /// The system's answer.
        source: std::io::Error,
    },
    /// Another process trains in the folder.
    #[error("{} is in use by another process{}", folder.display(), pid.map_or(String::new(), |pid| format!(" (pid {pid})")))]
    FolderInUse {
        /// The run folder.
        folder: PathBuf,
        /// The other process, where its number could be read.
        pid: Option<u32>,
    },
    /// From the model crate.
    #[error(transparent)]
    Model(#[from] gently_models::Error),
}

impl Error {
    /// Wraps a system error with what was tried and its path.
    pub(crate) fn io(action: &'static str, path: &Path, source: std::io::Error) -> Self {
        Self::Io { action, path: path.into(), source }
    }

    /// What to do about it, where there is something to do.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::UnknownKey { suggestion, .. } => {
                suggestion.as_ref().map(|key| format!("did you mean {key}?"))
            }
            Self::NotAnAssignment { .. } => Some("write it as section.key=value, such as train.steps=500".into()),
            Self::NotASection { .. } => Some(
                "the sections are [model], [data], [tokenizer], [train], [optimizer], [eval], [sample], [checkpoint] and [spike]"
                    .into(),
            ),
            Self::ConfigMismatch { .. } => {
                Some("continue with the run's own value, or begin a new run in another folder".into())
            }
            Self::Io { source, .. } => match source.kind() {
                std::io::ErrorKind::StorageFull => Some("free some space and continue with --resume".into()),
                std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::ReadOnlyFilesystem => {
                    Some("choose a folder that you may write with --out".into())
                }
                _ => None,
            },
            Self::FolderInUse { .. } => {
                Some("wait for it, stop it with Ctrl-C, or choose another folder with --out".into())
            }
            Self::Model(error) => error.hint(),
            _ => None,
        }
    }
}
