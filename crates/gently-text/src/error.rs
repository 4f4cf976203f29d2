//! What can go wrong with a tokenizer or a text, and what to do about it.

use std::path::PathBuf;

/// The result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file or folder could not be read or written.
    #[error(transparent)]
    File(#[from] gently_formats::Error),
    /// No tokenizer where one was expected.
    #[error("no tokenizer in {}: none of {} is there", path.display(), tried.join(", "))]
    Missing {
        /// The folder or file.
        path: PathBuf,
        /// The names looked for.
        tried: Vec<&'static str>,
    },
    /// A file is larger than any tokenizer should be.
    #[error("{} has more than {limit} bytes, to which tokenizer files are limited", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The limit.
        limit: u64,
    },
    /// A file is not UTF-8.
    #[error("{} is not UTF-8: the byte at offset {offset} is not part of a character", path.display())]
    NotUtf8 {
        /// The file.
        path: PathBuf,
        /// The first bad byte.
        offset: usize,
    },
    /// A file is not the JSON that a tokenizer needs.
    #[error("{}: line {line}, column {column}: {reason}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The column, from 1.
        column: usize,
        /// The parser's reason.
        reason: String,
    },
    /// A tokenizer file parses but cannot be used.
    #[error("{}: {reason}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A line of a merges file is malformed.
    #[error("{}: line {line}: {reason}", path.display())]
    Merges {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// Why.
        reason: String,
    },
    /// A text has a character that a character vocabulary lacks.
    #[error("character {character:?} (U+{:04X}) at position {position} (byte {byte}) is not in the vocabulary of {vocab} characters", *character as u32)]
    UnknownCharacter {
        /// The character.
        character: char,
        /// Its index among the text's characters, from 0.
        position: usize,
        /// Its byte offset.
        byte: usize,
        /// The vocabulary's size.
        vocab: usize,
    },
    /// A token number outside the vocabulary.
    #[error("token {id} is not in the vocabulary of {vocab} tokens")]
    UnknownId {
        /// The token.
        id: u32,
        /// The vocabulary's size.
        vocab: usize,
    },
    /// A character vocabulary cannot be made from a text with no characters.
    #[error("a {what} cannot be made from an empty text")]
    EmptyText {
        /// What was to be made.
        what: &'static str,
    },
    /// A BPE vocabulary of the wanted size cannot be trained.
    #[error("a byte-level BPE vocabulary needs at least {least} entries; {asked} were asked for")]
    VocabTooSmall {
        /// The size asked for.
        asked: usize,
        /// 256 bytes and the special tokens.
        least: usize,
    },
    /// A BPE vocabulary of the wanted size is not trained.
    #[error("a byte-level BPE vocabulary has at most {most} entries; {asked} were asked for")]
    VocabTooLarge {
        /// The size asked for.
        asked: usize,
        /// The most that is made.
        most: usize,
    },
    /// A chat template cannot be read, or fails.
    #[error("{}: chat template: {reason}", path.display())]
    Template {
        /// The file.
        path: PathBuf,
        /// Why, with the line where there is one.
        reason: String,
    },
    /// Tokens whose bytes depend on their neighbours.
    #[error("the tokens of this tokenizer have no bytes of their own (its decoder is {decoder})")]
    NoBytes {
        /// The decoder's type in `tokenizer.json`.
        decoder: String,
    },
    /// A template of a task cannot be read, or fails.
    #[error("{}: {what}: {reason}", path.display())]
    TextTemplate {
        /// The file.
        path: PathBuf,
        /// What the template makes.
        what: String,
        /// Why, with the line where there is one.
        reason: String,
    },
    /// The tokenizer's own pipeline refused.
    #[error("the tokenizer failed: {reason}")]
    Pipeline {
        /// Its reason.
        reason: String,
    },
}

impl Error {
    /// What the person can do, where that is known.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Missing { .. } => {
                Some("give a tokenizer.json, a folder with one, or a folder with vocab.json and merges.txt".into())
            }
            Self::NotUtf8 { .. } => Some("convert it first, for example: iconv -f latin1 -t utf-8 OLD > NEW".into()),
            Self::Json { .. } => Some("the file may be cut off or not a tokenizer; fetch it again".into()),
            Self::Merges { .. } => {
                Some("each line of a merges file is two vocabulary entries with one space between them".into())
            }
            Self::UnknownCharacter { .. } => Some(
                "a character model knows only its training text's characters; change the text, or use the byte \
                 or BPE tokenizer"
                    .into(),
            ),
            Self::UnknownId { .. } => {
                Some("the tokens were made with another tokenizer, or the model's vocabulary is padded".into())
            }
            Self::VocabTooSmall { least, .. } => Some(format!("ask for {least} or more, or use the byte tokenizer")),
            Self::VocabTooLarge { .. } => Some("published vocabularies have 4,000 to 260,000".into()),
            Self::EmptyText { .. } => Some("check that the file is the one you meant".into()),
            Self::Template { .. } => {
                Some("generate without the chat template, and write the prompt in its form".into())
            }
            Self::NoBytes { .. } => Some(
                "constraints need a tokenizer of bytes, characters, byte-level BPE or SentencePiece; WordPiece is none"
                    .into(),
            ),
            Self::Invalid { .. } => Some(
                "the file is damaged, or of a kind that is not read here; take it from where the model was published"
                    .into(),
            ),
            Self::TooLarge { .. } => Some("check the path: this may be some other file".into()),
            Self::File(e) => e.hint().map(str::to_owned),
            Self::Pipeline { .. } | Self::TextTemplate { .. } => None,
        }
    }

    pub(crate) fn pipeline(e: impl std::fmt::Display) -> Self {
        Self::Pipeline { reason: e.to_string() }
    }
}
