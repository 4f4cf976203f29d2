//! What can go wrong while a model runs.

use crate::constraint::ConstraintError;
use gently_kernels::buffer::OutOfMemory;
use gently_kernels::quant::QuantError;
use std::borrow::Cow;
use std::fmt::Display;
use std::path::{Path, PathBuf};

/// Result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of the inference engine.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A model made of parts that the plan does not know.
    #[error("this model cannot be lowered to a plan: {what}")]
    Lowering {
        /// Which part.
        what: String,
    },
    /// Tokens that do not fit the model.
    #[error("{what}")]
    Tokens {
        /// What is wrong, with the numbers.
        what: String,
    },
    /// A text longer than the model's context.
    #[error("{tokens} tokens do not fit into a context of {room}")]
    TooLong {
        /// Tokens of the text.
        tokens: usize,
        /// Tokens that the model can read.
        room: usize,
    },
    /// Logits that nothing can be chosen or scored by.
    #[error("the model's output after {tokens} tokens is not a number")]
    NotNumbers {
        /// Tokens that the model had read.
        tokens: usize,
    },
    /// The system has no memory for what was asked.
    #[error("there is no memory for {bytes} bytes of {of}")]
    NoMemory {
        /// What they were to hold.
        of: Cow<'static, str>,
        /// Bytes asked for.
        bytes: usize,
    },
    /// A state that cannot do what is asked, or belongs to another model.
    #[error("state: {what}")]
    State {
        /// What is wrong, with the numbers.
        what: String,
    },
    /// A file that holds no state of this model, as far as its configuration and a sample of its weights can tell.
    #[error("{}: {what}", path.display())]
    StateFile {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// A request asks for something out of range.
    #[error("request: {what}")]
    Request {
        /// The field and its value.
        what: String,
    },
    /// The queue is full.
    #[error("{waiting} requests are waiting already")]
    Busy {
        /// The length of the queue.
        waiting: usize,
    },
    /// The engine has been shut down, or its thread ended.
    #[error("the engine has stopped")]
    Stopped,
    /// A sampling parameter out of range.
    #[error(transparent)]
    Sampling(#[from] gently_models::sampling::SamplingError),
    /// A text cannot be held to its grammar.
    #[error(transparent)]
    Constraint(#[from] ConstraintError),
    /// From the tokenizer.
    #[error(transparent)]
    Text(#[from] gently_text::Error),
    /// From the model.
    #[error(transparent)]
    Model(#[from] gently_models::Error),
    /// A file that cannot be read, written or believed.
    #[error(transparent)]
    Format(#[from] gently_formats::Error),
    /// From the tensor crate.
    #[error(transparent)]
    Tensor(#[from] gently_tensor::Error),
}

impl Error {
    /// What to do about it, where there is something to do.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Lowering { .. } => {
                Some("gently inspect shows what a model is made of; encoders are run by gently embed".into())
            }
            Self::Tokens { .. } => {
                Some("give tokens of the model's own tokenizer, one or more and no more than its context".into())
            }
            Self::TooLong { .. } => Some("give a shorter text, or take a model with a longer context".into()),
            Self::NotNumbers { .. } => Some(NOT_NUMBERS.into()),
            Self::NoMemory { .. } => Some(NO_MEMORY.into()),
            Self::Request { .. } => Some("change what is named to a value within its bounds".into()),
            Self::Sampling(e) => Some(e.hint().into()),
            Self::Busy { .. } => Some("try again when a request has ended, or give the engine a longer queue".into()),
            Self::StateFile { .. } => Some(
                "a state can be loaded only by the model, cache type and version of the program that saved it".into(),
            ),
            Self::Constraint(e) => e.hint(),
            Self::Text(e) => e.hint(),
            Self::Model(e) => e.hint(),
            Self::Format(e) => e.hint().map(str::to_owned),
            Self::Tensor(e) => e.hint().map(str::to_owned),
            _ => None,
        }
    }

    /// The same of a model in a file. Several may be opened at once: which one it is, only its file says.
    pub(crate) fn of_file(self, path: &Path) -> Self {
        match self {
            Self::Lowering { what } => Self::Lowering { what: format!("{}: {what}", path.display()) },
            Self::NoMemory { of, bytes } => Self::NoMemory { of: format!("{of} of {}", path.display()).into(), bytes },
            other => other,
        }
    }
}

const NOT_NUMBERS: &str =
    "the weights are damaged, or too large to compute with: look at them with gently inspect, or fetch the model again";

const NO_MEMORY: &str = "ask for less at a time (shorter texts, fewer of them), keep the cache as int8, \
    take a smaller model or coarser weights (gently quantize), or stop other programs";

/// The error for memory that the system does not have.
pub(crate) fn no_memory(of: impl Into<Cow<'static, str>>) -> impl FnOnce(OutOfMemory) -> Error {
    move |refused| Error::NoMemory { of: of.into(), bytes: refused.bytes }
}

/// The error for a parameter that the plan cannot have.
pub(crate) fn no_parameter(name: &str) -> impl FnOnce(QuantError) -> Error {
    move |e| match e {
        QuantError::Memory(refused) => no_memory(format!("weights ({name})"))(refused),
        e => Error::Lowering { what: format!("{name}: {e}") },
    }
}

/// Why the text of one request cannot go on. Other requests do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// It cannot be held to its grammar.
    #[error(transparent)]
    Constraint(#[from] ConstraintError),
    /// As [`Error::NotNumbers`].
    #[error("the model's output after {tokens} tokens is not a number")]
    NotNumbers {
        /// Tokens of the text, its prompt included.
        tokens: usize,
    },
    /// As [`Error::NoMemory`].
    #[error("there is no memory for {bytes} bytes of {of}")]
    NoMemory {
        /// What they were to hold.
        of: Cow<'static, str>,
        /// Bytes asked for.
        bytes: usize,
    },
    /// Its pass was refused for another reason, or the request leaves no token to choose.
    #[error("{what}")]
    Refused {
        /// What the pass said, or what is wrong.
        what: String,
    },
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Constraint(e) => Self::Constraint(e),
            Failure::NotNumbers { tokens } => Self::NotNumbers { tokens },
            Failure::NoMemory { of, bytes } => Self::NoMemory { of, bytes },
            Failure::Refused { what } => Self::Request { what },
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::Constraint(e) => Self::Constraint(e),
            Error::NotNumbers { tokens } => Self::NotNumbers { tokens },
            Error::NoMemory { of, bytes } => Self::NoMemory { of, bytes },
            other => Self::Refused { what: other.to_string() },
        }
    }
}

/// Refuses a row of a model's logits, as the model gives them after `tokens` tokens, with a NaN or plus infinity in it, or with nothing above minus
/// infinity: choosing by it would give a text, and scoring by it a number, that mean nothing. Minus infinity that a mask or a bias
/// puts into some of them comes later.
///
/// # Errors
/// [`Failure::NotNumbers`].
#[inline(never)]
pub fn check_logits(row: &[f32], tokens: usize) -> Result<(), Failure> {
    // Counted, where a search would do: a loop without a way out is one of vectors. It reads what the head has just written, a
    // thousandth of what the head read.
    let broken = |part: &[f32]| part.iter().map(|z| u32::from(z.is_nan() | (*z == f32::INFINITY))).sum::<u32>() > 0;
    match row.iter().all(|z| *z == f32::NEG_INFINITY) || row.chunks(4096).any(broken) {
        true => Err(Failure::NotNumbers { tokens }),
        false => Ok(()),
    }
}

/// Refuses tokens that a vocabulary does not have, and none at all. `of` is what they are the tokens of.
pub(crate) fn check_tokens(of: impl Display, vocab: usize, tokens: &[u32]) -> Result<()> {
    let what = match outside(vocab, tokens) {
        _ if tokens.is_empty() => format!("{of} has no tokens"),
        Some(what) => format!("{of}: {what}"),
        None => return Ok(()),
    };
    Err(Error::Tokens { what })
}

/// What is wrong with tokens that a vocabulary does not have.
pub(crate) fn outside(vocab: usize, tokens: &[u32]) -> Option<String> {
    let id = tokens.iter().find(|id| **id as usize >= vocab)?;
    Some(format!("token {id} is outside the vocabulary of {vocab}"))
}

/// How many tokens of a vocabulary may be chosen, where those from `below` on may not.
///
/// # Errors
/// [`Error::Request`] where none may.
pub(crate) fn choices(vocab: usize, below: Option<usize>) -> Result<usize> {
    match below.unwrap_or(vocab).min(vocab) {
        0 => Err(Error::Request { what: "below = 0 leaves no token to choose".into() }),
        some => Ok(some),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_that_mean_nothing_are_refused() {
        let mut row = vec![0.5; 5000];
        assert_eq!(check_logits(&row, 3), Ok(()));
        // The sign of a NaN says nothing.
        for nan in [f32::NAN, -f32::NAN] {
            for at in [0, 4095, 4096, 4999] {
                row[at] = nan;
                assert_eq!(check_logits(&row, 3), Err(Failure::NotNumbers { tokens: 3 }), "{at}");
                row[at] = f32::NEG_INFINITY;
            }
        }
        assert_eq!(check_logits(&row, 3), Ok(()));
        // Sums that grew too large give no log-probabilities.
        row[7] = f32::INFINITY;
        assert!(check_logits(&row, 3).is_err());
        assert!(check_logits(&[f32::NEG_INFINITY; 3], 3).is_err());
        let error = Error::from(Failure::NotNumbers { tokens: 3 });
        assert_eq!(error.to_string(), Failure::NotNumbers { tokens: 3 }.to_string());
        assert!(error.hint().is_some());
    }

    #[test]
    fn failures_of_a_pass_keep_what_they_say() {
        let error = no_memory("keys and values")(OutOfMemory { bytes: 123 });
        assert_eq!(error.to_string(), "there is no memory for 123 bytes of keys and values");
        assert!(error.hint().is_some());
        let failure = Failure::from(error);
        assert_eq!(Error::from(failure.clone()).to_string(), failure.to_string());
        let error = no_parameter("w")(OutOfMemory { bytes: 9 }.into()).of_file(Path::new("m.gguf"));
        assert_eq!(error.to_string(), "there is no memory for 9 bytes of weights (w) of m.gguf");
        let long = Error::TooLong { tokens: 9, room: 8 }.to_string();
        assert!(Error::from(Failure::from(Error::TooLong { tokens: 9, room: 8 })).to_string().contains(&long));
    }
}
