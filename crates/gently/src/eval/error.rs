//! What can go wrong with a task, and what to do about it.

use std::path::PathBuf;

/// The result of this module.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a task cannot be read or run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Whether a task file names it, rather than the person.
        named_by_task: bool,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A task file says something impossible.
    #[error("{}: line {line}: {reason}", path.display())]
    Task {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// Why.
        reason: String,
        /// What to do.
        hint: Option<String>,
    },
    /// A file of items is wrong.
    #[error("{}: {reason}", path.display())]
    Data {
        /// The file.
        path: PathBuf,
        /// Why, with the line where there is one.
        reason: String,
    },
    /// More solved examples are asked for than there are.
    #[error("{}: {asked} solved examples are asked for, but there are {available}", path.display())]
    Examples {
        /// The file that they are from.
        path: PathBuf,
        /// How many are asked for.
        asked: usize,
        /// How many there are, without the item itself.
        available: usize,
    },
    /// Solved examples are asked for of a task that takes none.
    #[error(
        "{}: {asked} solved examples are asked for, but a task of loglikelihood_rolling has none",
        path.display()
    )]
    NoExamples {
        /// The task file.
        path: PathBuf,
        /// How many are asked for.
        asked: usize,
    },
    /// One item does not fit the task.
    #[error("{}: item {item}: {reason}", path.display())]
    Item {
        /// The file it is from.
        path: PathBuf,
        /// Its number, from 1.
        item: usize,
        /// Why.
        reason: String,
    },
    /// From the tokenizer.
    #[error(transparent)]
    Text(#[from] gently_text::Error),
    /// From the model.
    #[error(transparent)]
    Infer(#[from] gently_infer::Error),
    /// From writing an answer.
    #[error(transparent)]
    Write(#[from] crate::write::Error),
}

impl Error {
    /// An error about the item of an index. What it repeats of the item cannot drive a terminal.
    pub(super) fn item(path: &std::path::Path, index: usize, reason: String) -> Self {
        let reason = reason.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        Self::Item { path: path.into(), item: index + 1, reason }
    }

    /// What the person can do, where that is known.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Task { hint: Some(hint), .. } => Some(hint.clone()),
            Self::Task { .. } => Some("correct that line; the page on evaluation lists what each key may say".into()),
            Self::Data { .. } => Some("a .jsonl file has one JSON object a line, a .json file a list of them".into()),
            Self::Examples { .. } => Some(
                "ask for fewer with --num-fewshot or num_fewshot:, or name more with fewshot_data:; an item is no example of its own"
                    .into(),
            ),
            Self::NoExamples { .. } => {
                Some("leave --num-fewshot out for this task: its texts are read with nothing in front".into())
            }
            Self::Item { .. } => Some("correct the item, or the template that reads it".into()),
            Self::Io { named_by_task: true, .. } => Some("paths in a task file are relative to the file".into()),
            Self::Io { .. } => Some("give a task file, as in examples/eval/facts.yaml".into()),
            Self::Text(gently_text::Error::TextTemplate { .. }) => {
                Some("correct the template: it is Jinja, over the fields of an item".into())
            }
            Self::Text(e) => e.hint(),
            Self::Infer(e) => e.hint(),
            Self::Write(e) => e.hint(),
        }
    }
}
