//! What can go wrong between a file of text and a batch.

use super::read::is_gzip;
use crate::terminal::{quoted, quoted_path};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// The result of this module.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What is said where there is no program that fetches.
pub const NO_CURL: &str = "the program curl is not installed";

/// What went wrong, and where.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Somebody asked to stop while texts were prepared.
    #[error("stopped while the texts were prepared")]
    Stopped,
    /// A path that can be read only once where it has to be read twice, or that has no end.
    #[error("{source_name} {reason}")]
    Unreadable {
        /// The source.
        source_name: String,
        /// "is a device …"
        reason: &'static str,
    },
    /// A file or folder could not be read or written, or a file of weights or tokens is wrong.
    #[error(transparent)]
    File(#[from] gently_formats::Error),
    /// A tokenizer is wrong, or a text is wrong for it.
    #[error("{}", place.as_ref().map_or_else(|| source.to_string(), |p| format!("{p}: {source}")))]
    Text {
        /// The source of the text, where there is one.
        place: Option<String>,
        /// The reason.
        source: gently_text::Error,
    },
    /// A source has no text at all.
    #[error("{source_name} is empty")]
    Empty {
        /// The source.
        source_name: String,
    },
    /// A source is not UTF-8.
    #[error("{source_name} is not UTF-8: the byte 0x{byte:02x} at offset {offset} is not part of a character")]
    NotUtf8 {
        /// The source.
        source_name: String,
        /// The first bad byte's offset.
        offset: u64,
        /// The byte.
        byte: u8,
    },
    /// A folder has no file of a known kind.
    #[error("no .txt, .md, .jsonl or .parquet file in {}", path.display())]
    NoFiles {
        /// The folder.
        path: PathBuf,
    },
    /// A folder that was prepared before where texts are wanted.
    #[error("{} is a prepared dataset, not texts", path.display())]
    NotTexts {
        /// The folder.
        path: PathBuf,
    },
    /// A folder holds a dataset that may not be replaced.
    #[error("{} holds a dataset of other texts or settings, made from {made_from}", path.display())]
    Occupied {
        /// The folder.
        path: PathBuf,
        /// Names of its texts.
        made_from: String,
    },
    /// A line of a .jsonl file is wrong.
    #[error("{source_name}: line {line}: {reason}")]
    Line {
        /// The file.
        source_name: String,
        /// The line, from 1.
        line: u64,
        /// Why.
        reason: String,
    },
    /// A document is too long to be cut for its tokenizer.
    #[error("{source_name}: {bytes} bytes without a place where its tokens can be cut")]
    Uncut {
        /// The source.
        source_name: String,
        /// How many.
        bytes: usize,
    },
    /// There are fewer tokens than a window needs.
    #[error("the {split} split has {tokens} tokens, but a block of {block} needs at least {} in one piece", block + 1)]
    TooShort {
        /// "train" or "val".
        split: String,
        /// Tokens in it.
        tokens: u64,
        /// The block.
        block: usize,
    },
    /// A part of a mixture has no token to learn from.
    #[error("{source_name} leaves no token to learn from")]
    NothingToLearn {
        /// The part.
        source_name: String,
    },
    /// A text that was there when a run began.
    #[error("{source_name} is not there any more")]
    Gone {
        /// The text.
        source_name: String,
        /// A dataset that lies where that of the text should.
        dataset: Option<PathBuf>,
    },
    /// All that is to be learned from, the completions after prompts, is empty or lies in the part for validation.
    #[error("{source_name} leaves prompts alone, and no completion to learn from")]
    OnlyPrompts {
        /// The texts.
        source_name: String,
    },
    /// The tokens were made with another tokenizer.
    #[error(
        "{what} was made with tokenizer {found:016x} ({found_vocab} tokens), not {expected:016x} ({expected_vocab} tokens)"
    )]
    OtherTokenizer {
        /// The data.
        what: String,
        /// Its tokenizer.
        found: u64,
        /// Its vocabulary.
        found_vocab: u64,
        /// The tokenizer wanted.
        expected: u64,
        /// Its vocabulary.
        expected_vocab: u64,
    },
    /// Prepared folders that cannot be learned from together.
    #[error(
        "{} and {} were prepared with different tokenizers (of {first_vocab} and {second_vocab} tokens)",
        first.display(),
        second.display()
    )]
    TwoTokenizers {
        /// A folder.
        first: PathBuf,
        /// Its vocabulary.
        first_vocab: usize,
        /// The folder that differs from it.
        second: PathBuf,
        /// Its vocabulary.
        second_vocab: usize,
    },
    /// A loader's state belongs to other data or options.
    #[error("the saved place in the data does not fit: {reason}")]
    State {
        /// In what it differs.
        reason: String,
    },
    /// A run that goes on would learn from another part of its texts.
    #[error("of its texts the run would learn from another part than it was begun with")]
    OtherPart,
    /// An option is impossible.
    #[error("{option}: {reason}")]
    Option {
        /// The option.
        option: &'static str,
        /// Why.
        reason: String,
    },
    /// A folder is not a prepared dataset.
    #[error("{} is not a prepared dataset: {reason}", path.display())]
    NotDataset {
        /// The folder or its `dataset.json`.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A feature of the build is missing.
    #[error("{what} needs a build with `--features {feature}`")]
    Feature {
        /// What was asked for.
        what: String,
        /// The feature.
        feature: &'static str,
    },
    /// A parquet file is wrong.
    #[error("{source_name}: {reason}")]
    Parquet {
        /// The file.
        source_name: String,
        /// Why.
        reason: String,
    },
    /// No public set of that name.
    #[error("no public set is named {name:?}")]
    UnknownSet {
        /// The name asked for.
        name: String,
        /// The name that is nearest.
        near: Option<&'static str>,
    },
    /// A download failed.
    #[error("cannot fetch {url}: {reason}")]
    Fetch {
        /// The address.
        url: String,
        /// Why.
        reason: String,
        /// Where the file is wanted.
        target: PathBuf,
    },
    /// A download is not the file it should be.
    #[error("{} is not the file expected: its SHA-256 is {found}, not {expected}", path.display())]
    Digest {
        /// The file.
        path: PathBuf,
        /// The digest expected.
        expected: String,
        /// Its digest.
        found: String,
    },
}

impl Error {
    /// What the person can do, where that is known.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            // What unpacking says.
            Self::File(gently_formats::Error::Io { path, source, .. })
                if is_gzip(path)
                    && matches!(
                        source.kind(),
                        ErrorKind::UnexpectedEof | ErrorKind::InvalidInput | ErrorKind::InvalidData
                    ) =>
            {
                "it is cut off, damaged or not packed by gzip: fetch or pack it again, or take .gz off the name of a plain file"
                    .into()
            }
            Self::File(e) => return e.hint().map(Into::into),
            Self::Text { source, .. } => return source.hint(),
            Self::Stopped => "nothing of it is kept but what was fetched; the same command begins again".into(),
            Self::Unreadable { .. } => "save the text to a file first".into(),
            Self::Empty { .. } => "give a file with text in it".into(),
            Self::NotUtf8 { source_name, .. } => {
                format!("convert it first, for example: iconv -f latin1 -t utf-8 {} > converted.txt", quoted(source_name))
            }
            Self::NoFiles { .. } => {
                "name the file itself if it has another ending; it is then read as plain text".into()
            }
            Self::NotTexts { .. } => {
                "learn from it by --data (data.path), which takes prepared folders as they are; \
                 validation (data.val_path) and `gently data prepare` take texts"
                    .into()
            }
            Self::Occupied { .. } => "name another folder with --out, or give --replace".into(),
            Self::Line { .. } => "each line must be a JSON object; the field with the text is named by --field (`gently data prepare`) or --set data.field=NAME (`gently train`)".into(),
            Self::Uncut { .. } => "break the text into documents, or use a byte-level tokenizer".into(),
            // No block is short enough for a single token.
            Self::TooShort { tokens: 0 | 1, .. } => "use more text".into(),
            Self::TooShort { tokens, .. } => format!("use more text, or a block of at most {}", tokens - 1),
            Self::NothingToLearn { .. } => {
                "give more text, leave the path out, or lower data.val_fraction: the part kept for validation".into()
            }
            Self::Gone { dataset: Some(dataset), .. } => {
                format!("put it back, or go on with the tokens that the run has: --data {}", quoted_path(dataset))
            }
            Self::Gone { .. } => "put it back, or say where it is now: --data, or data.val_path".into(),
            Self::OnlyPrompts { .. } => {
                "give more documents with completions, or keep nothing for validation (data.val_fraction = 0)".into()
            }
            Self::OtherTokenizer { .. } => "prepare the data again with the model's own tokenizer".into(),
            Self::TwoTokenizers { first, second, .. } => format!(
                "learn from one of them alone, or prepare the texts of {} again with the other's tokenizer: \
                 gently data prepare TEXTS --tokenizer-file {} --out DIR",
                second.display(),
                quoted_path(first)
            ),
            Self::OtherPart => {
                "texts for validation of its own (data.val_path) leave all of the others to learn from: give none where config.toml \
                 in the run folder has none, or begin a new run in another folder with --out"
                    .into()
            }
            Self::State { .. } => "resume with the same data, seed, batch and block, or start a new run".into(),
            Self::NotDataset { .. } => "prepare it with `gently data prepare`, or give a text file".into(),
            Self::Feature { feature, .. } => {
                format!("cargo install with --features {feature}, or convert the file to .jsonl")
            }
            Self::UnknownSet { near: Some(near), .. } => format!("did you mean {near}?"),
            Self::UnknownSet { .. } => "`gently data list` shows the names; `kjv` needs no network".into(),
            Self::Fetch { reason, .. } if reason.contains(NO_CURL) => {
                "install curl with the system's packages, for example: apt install curl".into()
            }
            Self::Fetch { url, target, .. } => format!(
                "check the network; or fetch {url} by other means and put it at {}; the set `kjv` needs no network",
                target.display()
            ),
            Self::Digest { .. } => {
                "remove the file and fetch it again; if it fails again, the publisher changed it".into()
            }
            Self::Option { .. } | Self::Parquet { .. } => return None,
        })
    }

    /// That the system refused to do this with the file or folder, for `map_err`.
    pub(crate) fn io(path: &Path, action: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        move |source| gently_formats::Error::io(path, action)(source).into()
    }
}

impl From<gently_text::Error> for Error {
    fn from(source: gently_text::Error) -> Self {
        Self::Text { place: None, source }
    }
}
