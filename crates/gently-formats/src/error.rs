//! What can be wrong with a file.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// The result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What is wrong, and with which file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The system refused.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// "read", "write" …
        action: &'static str,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The file is shorter or longer than its header says.
    #[error("{} has {found} bytes but its header asks for {expected}", path.display())]
    Size {
        /// The file.
        path: PathBuf,
        /// Bytes by the header.
        expected: u64,
        /// Bytes there are.
        found: u64,
    },
    /// The file is another kind of file.
    #[error("{} is not a {format} file: it starts with {found:02x?}", path.display())]
    Magic {
        /// The file.
        path: PathBuf,
        /// The format expected.
        format: &'static str,
        /// Its first bytes.
        found: Vec<u8>,
    },
    /// The file is of a version this program does not know.
    #[error("{} is version {found} of the {format} format; this program reads version {known}", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// The format.
        format: &'static str,
        /// The file's version.
        found: u32,
        /// The version read here.
        known: u32,
    },
    /// A header contradicts itself or the file.
    #[error("{}: bad header: {reason}", path.display())]
    Header {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A number in the file is over its limit.
    #[error("{}: {what} is {found}, over the limit of {limit}", path.display())]
    Limit {
        /// The file.
        path: PathBuf,
        /// Which number.
        what: String,
        /// Its value.
        found: u64,
        /// The limit.
        limit: u64,
    },
    /// A tensor's description is impossible.
    #[error("{}: tensor {name:?}: {reason}", path.display())]
    Tensor {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// What is wrong.
        reason: String,
    },
    /// A metadata key is missing or of another type or value than its reader can use.
    #[error("{}: metadata key {key:?}: {reason}", path.display())]
    Metadata {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// What is wrong.
        reason: String,
    },
    /// A tensor is of a type that is not read.
    #[error("{}: tensor {name:?} is of {kind}, which is not read", path.display())]
    UnreadType {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Its type.
        kind: String,
    },
    /// A tensor is not in the file.
    #[error("{} has no tensor {name:?}{}", path.display(), near.as_ref().map(|n| format!(" (it has {n:?})")).unwrap_or_default())]
    NoTensor {
        /// The file.
        path: PathBuf,
        /// The tensor asked for.
        name: String,
        /// A tensor of nearly that name.
        near: Option<String>,
    },
    /// A part's bytes do not have the checksum written beside them.
    #[error("{}: the {part} is damaged: its checksum is {found:016x}, not {expected:016x}", path.display())]
    Checksum {
        /// The file.
        path: PathBuf,
        /// Which part.
        part: String,
        /// The checksum in the file.
        expected: u64,
        /// The checksum of the bytes.
        found: u64,
    },
    /// A caller's request does not fit the file.
    #[error("{}: {reason}", path.display())]
    Request {
        /// The file.
        path: PathBuf,
        /// What was asked for.
        reason: String,
    },
}

impl Error {
    /// What the person can do, where that is known.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Size { .. } => Some("the file was cut off or not fully copied; make or fetch it again"),
            Self::Limit { .. } | Self::Header { .. } | Self::Tensor { .. } => {
                Some("the file is damaged or was not fully copied; make or fetch it again")
            }
            Self::Checksum { .. } => Some("the file changed after it was written; make or fetch it again"),
            Self::Version { .. } => Some("prepare the data again with this version of the program"),
            Self::Magic { .. } => Some("check the path: this is some other file"),
            Self::UnreadType { .. } => {
                Some("take the same model in F16, BF16, Q8_0, Q6_K, Q5_K, Q5_1, Q5_0, Q4_K, Q4_1, Q4_0, Q3_K or Q2_K")
            }
            Self::Io { source, .. } => io_hint(source.kind()),
            Self::Metadata { .. } | Self::NoTensor { .. } => Some(
                "the file is damaged, not the whole model, or of a kind that is not read here; take another file of the model",
            ),
            Self::Request { .. } => Some("correct what is named, or choose a format that can hold it"),
        }
    }

    /// [`Error::Io`]: that the system refused to do this with the file or folder, for `map_err`.
    pub fn io(path: &Path, action: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Io { path: path.into(), action, source }
    }
}

/// What the person can do where the system refuses something with a file or folder, by its reason.
pub fn io_hint(reason: ErrorKind) -> Option<&'static str> {
    Some(match reason {
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => {
            "choose a folder that you may write to, or change its permissions"
        }
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => "free some space, or choose another disk",
        ErrorKind::FileTooLarge => "raise the limit on the size of files (ulimit -f)",
        ErrorKind::NotFound => "check the path",
        ErrorKind::IsADirectory => "this is a folder: give the name of a file in it",
        ErrorKind::NotADirectory | ErrorKind::AlreadyExists => {
            "a file stands where a folder is wanted: give another path, or move the file"
        }
        ErrorKind::InvalidInput | ErrorKind::NotSeekable => "give a regular file: a folder, a pipe or a device is none",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gguf::TensorType;

    #[test]
    fn a_full_quota_is_a_full_disk() {
        let refused = |kind: ErrorKind| Error::io(Path::new("x"), "write")(kind.into());
        for kind in [ErrorKind::StorageFull, ErrorKind::QuotaExceeded] {
            assert_eq!(refused(kind).hint(), Some("free some space, or choose another disk"));
        }
        assert_eq!(refused(ErrorKind::Interrupted).hint(), None);
    }

    #[test]
    fn types_that_are_read_are_offered() {
        let error = Error::UnreadType { path: "m.gguf".into(), name: "w".into(), kind: "type IQ4_NL (20)".into() };
        let hint = error.hint().unwrap();
        // Integers are no weights, and F32 and F64 are seldom published.
        let plain = |name: &str| matches!(name, "F32" | "F64") || name.starts_with('I');
        for kind in TensorType::ALL.iter().filter(|kind| !plain(kind.name())) {
            assert!(hint.contains(kind.name()), "{kind}: {hint}");
        }
    }
}
