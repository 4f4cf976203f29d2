//! What can go wrong while a model runs.

use std::path::PathBuf;

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
    Constraint(#[from] crate::ConstraintError),
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
            Self::Busy { .. } => Some("try again when a request has ended, or give the engine a longer queue".into()),
            Self::StateFile { .. } => {
                Some("a state can be loaded only by the model and cache type that saved it".into())
            }
            Self::Constraint(e) => e.hint(),
            Self::Text(e) => e.hint(),
            Self::Model(e) => e.hint(),
            Self::Format(e) => e.hint().map(str::to_owned),
            Self::Tensor(e) => e.hint().map(str::to_owned),
            _ => None,
        }
    }
}
