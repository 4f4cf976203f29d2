//! Public texts by name.
//!
//! Here: the table of sets and turning a name into [`Input`]s, fetching what is missing. Where a file's SHA-256 is known it must
//! be that; where it is not, the one of the first download is written beside the file and must stay.
//!
//! ```
//! assert!(gently_train::data::sets::find("tinyshakespeare").is_ok());
//! let e = gently_train::data::sets::find("tinyshakespear").unwrap_err();
//! assert_eq!(e.hint().unwrap(), "did you mean tinyshakespeare?");
//! ```

use super::fetch::{FetchReport, Fetcher};
use super::{Error, Input, Result};
use std::path::{Path, PathBuf};

/// A named public text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PublicSet {
    /// Its name.
    pub name: &'static str,
    /// What it is, in a line.
    pub about: &'static str,
    /// On what terms its publishers give it.
    pub licence: &'static str,
    /// Its files; none for a text that comes with the program.
    pub files: &'static [RemoteFile],
    /// What stands between its documents.
    pub separator: Option<&'static str>,
}

/// A file to be fetched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RemoteFile {
    /// Its name here.
    pub name: &'static str,
    /// Where it is.
    pub url: &'static str,
    /// Its SHA-256, hex, where we have computed it.
    pub sha256: Option<&'static str>,
    /// Its bytes, about.
    pub bytes: u64,
    /// Whether it is for validation.
    pub val: bool,
}

/// All sets.
pub const SETS: [PublicSet; 6] = [
    PublicSet {
        name: "kjv",
        about: "the King James Bible, 4.3 MB; comes with the program",
        licence: "public domain",
        files: &[],
        separator: None,
    },
    PublicSet {
        name: "tinyshakespeare",
        about: "plays of Shakespeare, 1.1 MB, 65 characters",
        licence: "public domain",
        files: &[RemoteFile {
            name: "tinyshakespeare.txt",
            url: "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
            sha256: Some("86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"),
            bytes: 1_115_394,
            val: false,
        }],
        separator: None,
    },
    PublicSet {
        name: "tinystories",
        about: "short stories for small children by GPT-4, 2.2 GB (Eldan and Li 2023)",
        licence: "CDLA-Sharing-1.0",
        files: &[
            RemoteFile {
                name: "TinyStoriesV2-GPT4-train.txt",
                url: "https://huggingface.co/datasets/roneneldan/TinyStories/resolve/main/TinyStoriesV2-GPT4-train.txt",
                sha256: None,
                bytes: 2_230_000_000,
                val: false,
            },
            TINYSTORIES_VALID,
        ],
        separator: Some("<|endoftext|>"),
    },
    PublicSet {
        name: "tinystories-valid",
        about: "the validation part of tinystories alone, 22 MB: enough to try things",
        licence: "CDLA-Sharing-1.0",
        files: &[RemoteFile { val: false, ..TINYSTORIES_VALID }],
        separator: Some("<|endoftext|>"),
    },
    PublicSet {
        name: "openwebtext-sample",
        about: "a sample of OpenWebText, 12 GB when unpacked (Gokaslan and Cohen 2019; cut by Stanford's CS336)",
        licence: "the texts' own",
        files: &[
            RemoteFile {
                name: "owt_train.txt.gz",
                url: "https://huggingface.co/datasets/stanford-cs336/owt-sample/resolve/main/owt_train.txt.gz",
                sha256: None,
                bytes: 4_600_000_000,
                val: false,
            },
            OWT_VALID,
        ],
        separator: Some("<|endoftext|>"),
    },
    PublicSet {
        name: "openwebtext-valid",
        about: "the validation part of openwebtext-sample alone, 290 MB when unpacked",
        licence: "the texts' own",
        files: &[RemoteFile { val: false, ..OWT_VALID }],
        separator: Some("<|endoftext|>"),
    },
];

const TINYSTORIES_VALID: RemoteFile = RemoteFile {
    name: "TinyStoriesV2-GPT4-valid.txt",
    url: "https://huggingface.co/datasets/roneneldan/TinyStories/resolve/main/TinyStoriesV2-GPT4-valid.txt",
    sha256: None,
    bytes: 22_502_601,
    val: true,
};

const OWT_VALID: RemoteFile = RemoteFile {
    name: "owt_valid.txt.gz",
    url: "https://huggingface.co/datasets/stanford-cs336/owt-sample/resolve/main/owt_valid.txt.gz",
    sha256: None,
    bytes: 110_000_000,
    val: true,
};

/// A set's texts.
#[derive(Debug, Clone)]
pub struct SetFiles {
    /// For training, or for both.
    pub inputs: Vec<Input>,
    /// For validation; empty where the set has none of its own.
    pub val_inputs: Vec<Input>,
}

/// The set of a name.
///
/// # Errors
/// [`Error::UnknownSet`] with the name that is nearest.
pub fn find(name: &str) -> Result<&'static PublicSet> {
    SETS.iter().find(|s| s.name == name).ok_or_else(|| {
        let near = SETS
            .iter()
            .map(|s| (strsim::jaro_winkler(name, s.name), s.name))
            .filter(|&(alike, _)| alike > 0.8)
            .max_by(|a, b| a.0.total_cmp(&b.0));
        Error::UnknownSet { name: name.into(), near: near.map(|(_, name)| name) }
    })
}

/// Where fetched files are kept: `$GENTLY_CACHE`, or `gently/data` in the system's place for caches.
pub fn cache() -> PathBuf {
    let var = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    if let Some(own) = var("GENTLY_CACHE") {
        return own;
    }
    var("XDG_CACHE_HOME")
        .or_else(|| var("LOCALAPPDATA"))
        .or_else(|| var("HOME").map(|home| home.join(".cache")))
        .unwrap_or_else(std::env::temp_dir)
        .join("gently")
        .join("data")
}

/// A set's texts, fetched into `cache` if they are not there. [`Input::Set`] does this when it is prepared.
///
/// # Errors
/// [`Error::UnknownSet`], [`Error::Fetch`] when offline, [`Error::Digest`], and those of `report`.
pub fn get(name: &str, cache: &Path, report: &mut FetchReport<'_>) -> Result<SetFiles> {
    let set = find(name)?;
    let mut found = SetFiles { inputs: Vec::new(), val_inputs: Vec::new() };
    if set.name == "kjv" {
        found.inputs.push(kjv()?);
    }
    for file in set.files {
        let path = cache.join(file.name);
        Fetcher::default().get(file.url, &path, file.sha256, file.bytes, report)?;
        let side = if file.val { &mut found.val_inputs } else { &mut found.inputs };
        side.push(Input::Path(path));
    }
    Ok(found)
}

#[cfg(feature = "kjv")]
fn kjv() -> Result<Input> {
    Ok(Input::Documents { name: "the King James Bible".into(), documents: super::kjv::chapters().into() })
}

#[cfg(not(feature = "kjv"))]
fn kjv() -> Result<Input> {
    Err(Error::Feature { what: "the King James Bible".into(), feature: "kjv" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sound() {
        for (i, set) in SETS.iter().enumerate() {
            assert!(SETS[..i].iter().all(|s| s.name != set.name));
            assert_eq!(find(set.name).unwrap(), set);
            for file in set.files {
                assert!(file.url.starts_with("https://"), "{}", file.url);
                assert!(!file.name.contains('/'));
                assert!(file.sha256.is_none_or(|h| h.len() == 64 && h.bytes().all(|b| b.is_ascii_hexdigit())));
            }
        }
    }
}
