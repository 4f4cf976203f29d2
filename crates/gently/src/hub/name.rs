//! Names of models: `owner/repo`, with a revision and a file.

use super::error::Error;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// `owner/repo`, `owner/repo@revision`, `owner/repo:file.gguf` or `owner/repo@revision:file.gguf`.
///
/// ```
/// let name: gently::hub::Name = "owner/repo@v1.0:q/model-q4_0.gguf".parse()?;
/// assert_eq!((name.repo(), name.revision(), name.file()), ("owner/repo", Some("v1.0"), Some("q/model-q4_0.gguf")));
/// assert_eq!(name.folder(), std::path::Path::new("models/owner--repo"));
/// assert!("../etc".parse::<gently::hub::Name>().is_err());
/// # Ok::<(), gently::hub::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name {
    repo: String,
    revision: Option<String>,
    file: Option<String>,
}

impl Name {
    /// The repository.
    pub fn repo(&self) -> &str {
        &self.repo
    }

    /// A branch, tag or commit; `None`: `main`.
    pub fn revision(&self) -> Option<&str> {
        self.revision.as_deref()
    }

    /// One file of it.
    pub fn file(&self) -> Option<&str> {
        self.file.as_deref()
    }

    /// Where it is put unless a folder is named: `models/owner--repo`.
    pub fn folder(&self) -> PathBuf {
        PathBuf::from("models").join(self.repo.replace('/', "--"))
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.repo)?;
        self.revision.iter().try_for_each(|r| write!(f, "@{r}"))?;
        self.file.iter().try_for_each(|file| write!(f, ":{file}"))
    }
}

impl FromStr for Name {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let wrong = |reason: &str| Error::Name { name: text.into(), reason: reason.into() };
        if text.contains("://") {
            return Err(wrong("it is an address, not owner/repo"));
        }
        let (left, file) = text.split_once(':').map_or((text, None), |(left, file)| (left, Some(file)));
        let (repo, revision) = left.split_once('@').map_or((left, None), |(repo, revision)| (repo, Some(revision)));
        if repo.split('/').count() != 2 || !repo.split('/').all(|part| part.len() <= 96 && is_part(part)) {
            return Err(wrong("the repository is not two plain words with a slash between them"));
        }
        if revision.is_some_and(|r| r.len() > 255 || !r.split('/').all(is_part)) {
            return Err(wrong("the revision is no branch, tag or commit"));
        }
        if file.is_some_and(|f| !is_safe_path(f)) {
            return Err(wrong("the file is no plain path within the repository"));
        }
        Ok(Self { repo: repo.into(), revision: revision.map(str::to_owned), file: file.map(str::to_owned) })
    }
}

/// Whether a word is safe as a name of a file on any system and in an address: letters, digits and `._-+=,@()`, no dot or
/// dash in front, no dot behind.
pub(super) fn is_part(part: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"._-+=,@()".contains(&b);
    // Names that are devices on Windows, with any ending.
    let stem = part.split('.').next().unwrap_or_default().to_ascii_lowercase();
    let numbered =
        |port: &str| stem.strip_prefix(port).is_some_and(|n| n.len() == 1 && n.as_bytes()[0].is_ascii_digit());
    let device = ["con", "prn", "aux", "nul"].contains(&stem.as_str()) || numbered("com") || numbered("lpt");
    !part.is_empty()
        && part.len() <= 200
        && part.bytes().all(plain)
        && !part.starts_with(['.', '-'])
        && !part.ends_with('.')
        && !device
}

/// Whether a path of a repository leads to a place below any folder that it is joined to.
pub(super) fn is_safe_path(path: &str) -> bool {
    path.len() <= 500 && path.split('/').all(is_part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_plain_words() {
        for name in ["a/b", "a/b@v1", "a/b@refs/pr/1", "a/b:c.gguf", "A-1/b_2.c@0123abc:d/e-f.gguf"] {
            assert_eq!(name.parse::<Name>().unwrap().to_string(), name);
        }
        for name in [
            "",
            "a",
            "a/b/c",
            "/b",
            "a/",
            "../b",
            "a/..",
            "a/.b",
            "a/b@",
            "a/b:",
            "a/b:/c",
            "a/b:../c",
            "a/b:c/../d",
            "a/b:c\\d",
            "a/b?c",
            "a b/c",
            "a/b@x y",
            "a/b:c//d",
            "https://x.y/a/b",
            "a/b:nul.gguf",
            "a/COM1",
            "-o/b",
            "a/b:c%2Fd",
            "a/ü",
        ] {
            assert!(name.parse::<Name>().is_err(), "{name}");
        }
    }
}
