//! What can go wrong in training, each with the thing it is about.

use std::path::PathBuf;

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
}
