//! Models from the Hugging Face Hub.
//!
//! Here: what a name means ([`Name`]), which files of a repository make a model ([`choose`]), and fetching them into a folder
//! ([`Hub::pull`]): pinned to one commit, verified, and complete before `config.json` appears. Not here: how one file is
//! fetched ([`gently_train::data::fetch`]), and what is done with the model.
//!
//! ```no_run
//! use gently::hub::{Hub, Name};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let name: Name = "HuggingFaceTB/SmolLM2-135M".parse()?;
//! let pulled = Hub::from_env()?.pull(&name, "models/smollm2".as_ref(), &mut |_| Ok(()))?;
//! println!("{}", pulled.model.display());
//! # Ok(()) }
//! ```

mod choice;
mod error;
mod listing;
mod name;
mod record;

pub(crate) use choice::fixed_names;
pub use choice::{Choice, choose};
pub use error::{Error, Result};
pub use listing::Entry;
pub use name::Name;
pub(crate) use record::{NAME as RECORD, of_conversion as record_of_conversion};

use gently_formats::files;
use gently_train::data;
use gently_train::data::fetch::{Alone, Exact, FetchReport, Fetcher, Token};
use std::path::{Path, PathBuf};

/// The Hub's public address.
const PUBLIC: &str = "https://huggingface.co";
/// Most bytes of an answer about a repository.
const MOST_ANSWER: u64 = 16 << 20;
/// Bytes of a disk that are left alone.
const MARGIN: u64 = 64 << 20;

/// Where models are fetched from.
#[derive(Debug, Clone)]
pub struct Hub {
    endpoint: String,
    fetcher: Fetcher,
}

/// What was fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pulled {
    /// What other commands take: the folder, or the GGUF file.
    pub model: PathBuf,
    /// The commit.
    pub revision: String,
    /// Files, those that were there already included.
    pub files: usize,
    /// Their bytes.
    pub bytes: u64,
}

impl Hub {
    /// The Hub that `HF_ENDPOINT` names, or the public one, asked with `HF_TOKEN` where that is set.
    ///
    /// # Errors
    /// [`Error::Setting`] for values that are no address or token.
    pub fn from_env() -> Result<Self> {
        let value = |name: &str| std::env::var(name).ok().filter(|v| !v.is_empty());
        let endpoint = value("HF_ENDPOINT").unwrap_or_else(|| PUBLIC.into());
        Self::new(&endpoint, value("HF_TOKEN").as_deref(), Fetcher::default())
    }

    /// The Hub at an address.
    ///
    /// # Errors
    /// [`Error::Setting`] for what is no address or token, and for a token that would travel readable by all.
    pub fn new(endpoint: &str, token: Option<&str>, fetcher: Fetcher) -> Result<Self> {
        let wrong = |name, reason: &str| Error::Setting { name, reason: reason.into() };
        let endpoint = endpoint.trim_end_matches('/');
        let rest = endpoint.strip_prefix("https://").or_else(|| endpoint.strip_prefix("http://"));
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~:/[]".contains(&b);
        let Some(rest) = rest.filter(|r| !r.is_empty() && r.bytes().all(plain)) else {
            return Err(wrong("HF_ENDPOINT", "it is no address such as https://huggingface.co"));
        };
        let token = token.map(|t| Token::new(t.trim()).ok_or_else(|| wrong("HF_TOKEN", "it is no token")));
        let token = token.transpose()?;
        let host = rest.split('/').next().unwrap_or_default();
        let host =
            host.rsplit_once(':').filter(|(_, port)| port.bytes().all(|b| b.is_ascii_digit())).map_or(host, |h| h.0);
        let here = ["localhost", "127.0.0.1", "[::1]"].contains(&host);
        if token.is_some() && endpoint.starts_with("http://") && !here {
            return Err(wrong("HF_TOKEN", "it is not sent over http, where anyone could read it; use https"));
        }
        Ok(Self { endpoint: endpoint.into(), fetcher: Fetcher { token, ..fetcher } })
    }

    /// Fetches a model into `folder`. Files that are there and right stay; a download that was cut off goes on where it
    /// stopped. A folder that has another commit of the same repository loses its `config.json` first, once the new one is known
    /// to be there for us, then what that commit brought and this one lacks; what it brought stands in the folder's
    /// `.gently-pull.json`. Of several processes that fetch the same model into a folder one does, and the others wait
    /// ([`Alone`]).
    ///
    /// # Errors
    /// No network, no such model or revision, one that asks for a token; several GGUF files and none named; names that are
    /// not safe as paths; too little room on the disk; a folder with the model of another repository; a file in the folder that
    /// would be read with the model's, though neither the model nor an earlier pull has it; a file that is not the one published;
    /// those of `report`.
    pub fn pull(&self, name: &Name, folder: &Path, report: &mut FetchReport<'_>) -> Result<Pulled> {
        let revision = self.revision(name)?;
        let entries = self.tree(name, &revision)?;
        let choice = choose(name, &entries)?;
        let bytes = choice.files.iter().map(|f| f.size).fold(0, u64::saturating_add);
        let refused = gently_formats::Error::io(folder, "create");
        std::fs::create_dir_all(folder).map_err(|e| data::Error::from(refused(e)))?;
        // Of a folder there is one record; a GGUF file stands for itself and its parts.
        let whole = folder.join(choice.model.as_deref().unwrap_or(RECORD));
        let _alone = Alone::wait(&whole, bytes, report)?;
        self.check_room(folder, &choice.files)?;
        // A GGUF file needs nothing beside it, and its folder may have those of other models.
        if choice.model.is_none() {
            // A list of files may be open where the files themselves ask for a token.
            let reach = || self.ask(name, &self.address(name, &revision, files::CONFIG)).map(drop);
            record::prepare(folder, name, &revision, &choice, reach)?;
        }
        for file in &choice.files {
            let url = self.address(name, &revision, &file.path);
            let wanted = Exact { url: &url, bytes: file.size, sha256: file.sha256.as_deref() };
            let target = folder.join(&file.path);
            self.fetch(wanted, &target, report).map_err(|e| Error::of_fetch(e, name, &self.endpoint))?;
        }
        let model = choice.model.map_or_else(|| folder.to_path_buf(), |file| folder.join(file));
        Ok(Pulled { model, revision, files: choice.files.len(), bytes })
    }

    /// Where a file of a commit is.
    fn address(&self, name: &Name, revision: &str, path: &str) -> String {
        format!("{}/{}/resolve/{revision}/{path}", self.endpoint, name.repo())
    }

    /// Fetches a file; what is left of another one of its name does not spoil it.
    fn fetch(&self, file: Exact<'_>, target: &Path, report: &mut FetchReport<'_>) -> data::Result<()> {
        let resumed = part_of(target).exists();
        match self.fetcher.exact(file, target, report) {
            // The wrong part is removed by now: this begins at zero.
            Err(data::Error::Digest { .. }) if resumed => self.fetcher.exact(file, target, report),
            done => done,
        }
    }

    /// The commit that a name means now.
    fn revision(&self, name: &Name) -> Result<String> {
        let wanted = name.revision().unwrap_or("main").replace('/', "%2F");
        let url = format!("{}/api/models/{}/revision/{wanted}", self.endpoint, name.repo());
        listing::commit(&self.ask(name, &url)?)
            .ok_or_else(|| Error::Answer { url, reason: "it names no commit".into() })
    }

    /// The files of a commit.
    fn tree(&self, name: &Name, revision: &str) -> Result<Vec<Entry>> {
        let url = format!("{}/api/models/{}/tree/{revision}?recursive=true", self.endpoint, name.repo());
        listing::entries(&self.ask(name, &url)?).map_err(|reason| Error::Answer { url, reason })
    }

    fn ask(&self, name: &Name, url: &str) -> Result<String> {
        self.fetcher.text(url, MOST_ANSWER).map_err(|e| Error::of_fetch(e, name, &self.endpoint))
    }

    /// Refuses what the disk has no room for, before anything is fetched.
    fn check_room(&self, folder: &Path, files: &[Entry]) -> Result<()> {
        let there = |file: &Entry| {
            let path = folder.join(&file.path);
            // A file that is there is replaced only once the new one is whole.
            match std::fs::metadata(&path) {
                Ok(m) if m.len() == file.size => file.size,
                _ => std::fs::metadata(part_of(&path)).map_or(0, |m| m.len()).min(file.size),
            }
        };
        let needed = files.iter().map(|f| f.size - there(f)).fold(0, u64::saturating_add);
        match free(folder) {
            Some(free) if needed.saturating_add(MARGIN) > free => {
                Err(Error::Room { folder: folder.into(), needed, free })
            }
            _ => Ok(()),
        }
    }
}

/// Where a file is while it is fetched.
fn part_of(target: &Path) -> PathBuf {
    let mut path = target.as_os_str().to_owned();
    path.push(".part");
    path.into()
}

/// Bytes that a folder's disk has room for; `None` where the system does not say.
#[cfg(unix)]
fn free(folder: &Path) -> Option<u64> {
    let stat = rustix::fs::statvfs(folder).ok()?;
    stat.f_bavail.checked_mul(stat.f_frsize)
}

#[cfg(not(unix))]
fn free(_: &Path) -> Option<u64> {
    None
}
