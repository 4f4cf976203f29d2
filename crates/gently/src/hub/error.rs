//! Why a model is not fetched, and what to do about it.

use super::name::Name;
use gently_train::data;
use gently_train::terminal::quoted;
use std::path::PathBuf;

/// The result of this module.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a model is not fetched.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A name that no model has.
    #[error("{name:?} is no name of a model: {reason}")]
    Name {
        /// The name.
        name: String,
        /// Why.
        reason: String,
    },
    /// A variable of the environment that cannot be used.
    #[error("{name} cannot be used: {reason}")]
    Setting {
        /// The variable.
        name: &'static str,
        /// Why.
        reason: String,
    },
    /// A download failed.
    #[error("cannot fetch {url}: {reason}")]
    Fetch {
        /// The address.
        url: String,
        /// Why.
        reason: String,
        /// What to do.
        hint: String,
    },
    /// An answer that is not what the Hub answers.
    #[error("the answer of {url} is not understood: {reason}")]
    Answer {
        /// The address.
        url: String,
        /// Why.
        reason: String,
    },
    /// A repository without weights that are read here.
    #[error("{name} has no model that Gently reads{}", other.as_ref().map_or(String::new(), |o| format!(": its weights are {}", o.escape_debug())))]
    NoModel {
        /// The name.
        name: String,
        /// Weights that it has.
        other: Option<String>,
    },
    /// Several files, one of which must be named.
    #[error("{name} has {} GGUF files: {}", has.len(), sizes(has))]
    Several {
        /// The name.
        name: String,
        /// Paths and sizes.
        has: Vec<(String, u64)>,
    },
    /// A file that is not there.
    #[error("{name} is not there{}", if has.is_empty() { String::new() } else { format!("; its GGUF files: {}", sizes(has)) })]
    NoFile {
        /// The name.
        name: String,
        /// The path that is nearest.
        near: Option<String>,
        /// GGUF files and sizes.
        has: Vec<(String, u64)>,
    },
    /// A path that could lead out of the folder.
    #[error("{name} has a file {path:?}, which is not safe as a name")]
    Path {
        /// The name.
        name: String,
        /// The path.
        path: String,
    },
    /// Too little room.
    #[error("{} has room for {free} bytes, but {needed} are to be fetched", folder.display())]
    Room {
        /// The folder.
        folder: PathBuf,
        /// Bytes to be fetched.
        needed: u64,
        /// Bytes free.
        free: u64,
    },
    /// A folder with the model of another repository.
    #[error("{} has the model {}, not {name}", folder.display(), repo.escape_debug())]
    OtherModel {
        /// The name.
        name: String,
        /// The folder.
        folder: PathBuf,
        /// The repository.
        repo: String,
    },
    /// A folder with a file that would be read with the model's, though it is not of them.
    #[error("{} has {path}, which {name} lacks and no pull brought", folder.display())]
    Foreign {
        /// The name.
        name: String,
        /// The folder.
        folder: PathBuf,
        /// The file.
        path: &'static str,
    },
    /// A file that came is not the one published; a file or folder that cannot be written.
    #[error(transparent)]
    Data(#[from] data::Error),
}

impl Error {
    /// What the person can do, where that is known.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Name { .. } => {
                "such as HuggingFaceTB/SmolLM2-135M, owner/repo@revision or owner/repo:file.gguf".into()
            }
            Self::Fetch { hint, .. } => hint.clone(),
            Self::Answer { .. } => "check HF_ENDPOINT; a portal of the network may have answered instead".into(),
            Self::NoModel { .. } => "look for the model as safetensors or GGUF".into(),
            Self::Several { name, has } => {
                let file = has.first().map_or("FILE".into(), |f| f.0.escape_debug().to_string());
                format!("name one: gently pull {}", quoted(&format!("{name}:{file}")))
            }
            Self::NoFile { near: Some(near), .. } => format!("did you mean {}?", near.escape_debug()),
            Self::Room { .. } => "free some space, or choose another disk with --to".into(),
            Self::OtherModel { .. } => "choose another folder with --to, or remove this one".into(),
            Self::Foreign { .. } => "move the file elsewhere, or choose another folder with --to".into(),
            Self::Data(data::Error::Digest { .. }) => "it was removed; fetch it again".into(),
            Self::Data(e) => return e.hint(),
            Self::NoFile { .. } => "the files of a repository are on its page at the Hub".into(),
            Self::Path { .. } => "fetch the file by other means, and give it a plain name".into(),
            Self::Setting { name, .. } => format!("set {name} to a value of that form, or unset it"),
        })
    }

    /// A failed download, with advice for models.
    pub(super) fn of_fetch(e: data::Error, name: &Name, endpoint: &str) -> Self {
        let data::Error::Fetch { url, reason, .. } = e else { return e.into() };
        let hint = if ["401", "403"].iter().any(|code| reason.contains(&format!("error: {code}"))) {
            format!("accept the model's terms at {endpoint}/{}, make a token there and set HF_TOKEN", name.repo())
        } else if reason.contains("error: 404") {
            "check the name and the revision; a private model needs HF_TOKEN".into()
        } else if reason.contains(data::NO_CURL) {
            "install curl with the system's packages, for example: apt install curl".into()
        } else {
            format!(
                "check the network; what came so far is kept, and the same command goes on with it. HF_ENDPOINT names a mirror; \
                 or fetch the files of {endpoint}/{} by other means",
                name.repo()
            )
        };
        Self::Fetch { url, reason, hint }
    }
}

/// `a.gguf (1.2 GB), …`
fn sizes(files: &[(String, u64)]) -> String {
    let one = |(path, size): &(String, u64)| format!("{} ({:.2} GB)", path.escape_debug(), *size as f64 / 1e9);
    let mut shown: Vec<String> = files.iter().take(20).map(one).collect();
    if files.len() > shown.len() {
        shown.push(format!("and {} more", files.len() - shown.len()));
    }
    shown.join(", ")
}
