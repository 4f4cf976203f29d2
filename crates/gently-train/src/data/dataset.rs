//! A prepared dataset: a folder with `dataset.json`, token shards and a tokenizer.

use super::scan::SourceInfo;
use super::{Corpus, Error, Result};
use gently_formats::bounded;
use gently_text::{Kind, Tokenizer};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// `dataset.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatasetInfo {
    /// Version of this file.
    pub version: u32,
    /// Names the sources' content and all options; equal keys mean equal shards.
    pub key: String,
    /// The tokenizer.
    pub tokenizer: TokenizerInfo,
    /// The training split.
    pub train: SplitInfo,
    /// The validation split.
    pub val: SplitInfo,
    /// Characters in all sources.
    pub characters: u64,
    /// The texts.
    pub sources: Vec<SourceInfo>,
    /// Texts for validation only.
    #[serde(default)]
    pub val_sources: Vec<SourceInfo>,
}

/// A tokenizer in short.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenizerInfo {
    /// "bytes", "characters" or "tokenizer.json".
    pub kind: String,
    /// Its hash, hex.
    pub hash: String,
    /// Token numbers.
    pub vocab: usize,
    /// The token put after each document.
    pub end_of_text: Option<u32>,
}

/// A split in short.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SplitInfo {
    /// Tokens.
    pub tokens: u64,
    /// Documents.
    pub documents: u64,
    /// Files, in order.
    pub shards: Vec<String>,
}

impl DatasetInfo {
    /// The file's name.
    pub const FILE: &str = "dataset.json";
    /// The version written and read here.
    pub const VERSION: u32 = 1;
}

impl TokenizerInfo {
    pub(crate) fn of(tokenizer: &Tokenizer, end_of_text: Option<u32>) -> Self {
        let kind = match tokenizer.kind() {
            Kind::Bytes => "bytes",
            Kind::Characters => "characters",
            _ => gently_formats::files::TOKENIZER,
        };
        let hash = format!("{:016x}", tokenizer.hash());
        Self { kind: kind.into(), hash, vocab: tokenizer.vocab_size(), end_of_text }
    }
}

/// An open prepared dataset.
#[derive(Debug, Clone)]
pub struct Dataset {
    dir: PathBuf,
    info: DatasetInfo,
    tokenizer: Tokenizer,
    reused: bool,
}

/// Most bytes of a folder's description.
const MOST: u64 = 256 << 20;

impl Dataset {
    /// Opens a folder that [`super::Prepare::run`] made. Shards are opened by [`Dataset::train`] and [`Dataset::val`].
    ///
    /// # Errors
    /// [`Error::NotDataset`], [`Error::OtherTokenizer`] when the tokenizer in the folder is not the one that made the shards.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self> {
        let dir = dir.as_ref();
        let path = dir.join(DatasetInfo::FILE);
        let not = |reason: String| Error::NotDataset { path: path.clone(), reason };
        let text = bounded::read_text(&path, MOST).map_err(|e| not(e.to_string()))?;
        let value: serde_json::Value = serde_json::from_str(&text).map_err(|e| not(e.to_string()))?;
        if value["version"] != DatasetInfo::VERSION {
            return Err(not(format!("version {} is not {}", value["version"], DatasetInfo::VERSION)));
        }
        let info: DatasetInfo = serde_json::from_value(value).map_err(|e| not(e.to_string()))?;
        // Names from a file must not lead out of the folder.
        for shard in info.train.shards.iter().chain(&info.val.shards) {
            if Path::new(shard).file_name() != Some(shard.as_ref()) {
                return Err(not(format!("shard {shard:?} is not a file name")));
            }
        }
        let tokenizer = Tokenizer::load(dir)?;
        let expected =
            u64::from_str_radix(&info.tokenizer.hash, 16).map_err(|e| not(format!("tokenizer hash: {e}")))?;
        if tokenizer.hash() != expected {
            return Err(Error::OtherTokenizer {
                what: dir.display().to_string(),
                found: expected,
                found_vocab: info.tokenizer.vocab as u64,
                expected: tokenizer.hash(),
                expected_vocab: tokenizer.vocab_size() as u64,
            });
        }
        Ok(Self { dir: dir.into(), info, tokenizer, reused: false })
    }

    /// Opens the folder if it was prepared under `key` and its shards are there.
    pub(crate) fn open_if(dir: &Path, key: &str) -> Option<Self> {
        let mut ready = Self::open(dir).ok().filter(|d| d.info.key == key)?;
        let opens = |split: &SplitInfo, name| ready.corpus(name, split).is_ok_and(|c| c.tokens() == split.tokens);
        (opens(&ready.info.train, "train") && opens(&ready.info.val, "val")).then(|| {
            ready.reused = true;
            ready
        })
    }

    /// What the dataset in a folder was made of, where there is one that was not prepared under `key`: names of its texts. One
    /// that cannot be read may be of use to another version of the program.
    pub(crate) fn other_at(dir: &Path, key: &str) -> Option<String> {
        let text = match bounded::read_text(dir.join(DatasetInfo::FILE), MOST) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return None,
            Err(_) => String::new(),
        };
        let value: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
        if value["key"] == key {
            return None;
        }
        let sources = value["sources"].as_array().map_or(&[][..], Vec::as_slice);
        let names: Vec<_> = sources.iter().filter_map(|source| source["name"].as_str()).take(3).collect();
        Some(if names.is_empty() { "what its dataset.json does not tell".into() } else { names.join(", ") })
    }

    /// Whether a folder has a `dataset.json`.
    pub fn is_at(dir: impl AsRef<Path>) -> bool {
        dir.as_ref().join(DatasetInfo::FILE).is_file()
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// What is in it.
    pub fn info(&self) -> &DatasetInfo {
        &self.info
    }

    /// Its tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// Whether preparing found it done already.
    pub fn was_reused(&self) -> bool {
        self.reused
    }

    /// The training split.
    ///
    /// # Errors
    /// [`Error::File`] for a missing or damaged shard, [`Error::OtherTokenizer`].
    pub fn train(&self) -> Result<Corpus> {
        self.corpus("train", &self.info.train)
    }

    /// The validation split, if there is one.
    ///
    /// # Errors
    /// As [`Dataset::train`].
    pub fn val(&self) -> Result<Option<Corpus>> {
        if self.info.val.tokens == 0 {
            return Ok(None);
        }
        self.corpus("val", &self.info.val).map(Some)
    }

    fn corpus(&self, name: &str, split: &SplitInfo) -> Result<Corpus> {
        let corpus = Corpus::open(name, split.shards.iter().map(|s| self.dir.join(s)))?;
        if corpus.parts() > 0 {
            corpus.expect_tokenizer(self.tokenizer.hash(), self.tokenizer.vocab_size())?;
        }
        Ok(corpus)
    }
}
