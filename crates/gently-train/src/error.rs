//! What can go wrong in training, each with the thing it is about.
//!
//! Here: [`Error`] and its hints. Not here: errors of tensors, models, formats and texts, which arrive as they are.
//!
//! ```
//! let error = gently_train::recipe::Recipe::parse("[train]\nstep = 5", "r.toml").unwrap_err();
//! assert_eq!(error.hint().unwrap(), "did you mean train.steps?");
//! ```

use std::io;
use std::path::{Path, PathBuf};

use crate::recipe::Source;

/// Shorthand for results of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Anything that stops a run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file or folder could not be used.
    #[error("{action} {}", path.display())]
    Io {
        /// What was tried, such as `cannot write`.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// An observer failed.
    #[error("{name} stopped the run")]
    Observer {
        /// Which observer.
        name: String,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A file that cannot be a recipe.
    #[error("{} is not a recipe: {why}", path.display())]
    NotARecipe {
        /// The file.
        path: PathBuf,
        /// What it is instead.
        why: String,
    },
    /// TOML that cannot be read.
    #[error("{file}:{line}: {why}")]
    Syntax {
        /// The file.
        file: String,
        /// The line.
        line: usize,
        /// What the parser says.
        why: String,
    },
    /// A value outside of a section.
    #[error("{file}:{line}: `{key}` is not a section of a recipe")]
    NotASection {
        /// The key found.
        key: String,
        /// The file.
        file: String,
        /// The line.
        line: usize,
    },
    /// `--set` without a key or without a value.
    #[error("--set {text}: there is no {}", missing_text(text))]
    NotAnAssignment {
        /// What was given.
        text: String,
    },
    /// A key that no section has.
    #[error("unknown key {key} ({place})")]
    UnknownKey {
        /// The key.
        key: String,
        /// Where it stands.
        place: Source,
        /// The known key nearest to it.
        suggestion: Option<String>,
        /// What its section has, if there is such a section.
        keys: Vec<String>,
    },
    /// A value of a wrong type or out of range.
    #[error("{key} = {value} ({place}): {why}")]
    Value {
        /// The key.
        key: String,
        /// The value as TOML.
        value: String,
        /// Where it came from.
        place: Source,
        /// The rule it breaks.
        why: String,
    },
    /// A continued run whose configuration is another run's.
    #[error("{key} is {now} ({place}), but the run was begun with {saved}")]
    ConfigMismatch {
        /// The key.
        key: String,
        /// The value in the run folder.
        saved: String,
        /// The value asked for now.
        now: String,
        /// Where that came from.
        place: Source,
    },
    /// A setting that is not that of the prepared folder, whose tokens the run takes as they are.
    #[error("{setting}, but {folder} was prepared with {own}")]
    OtherPrepared {
        /// The key, its value and where that came from.
        setting: String,
        /// The folder.
        folder: String,
        /// What the folder has instead, in words.
        own: String,
    },
    /// A continued run that is to end before where it is.
    #[error("train.steps = {steps} ({place}), but the run has made {done} steps already")]
    StepsDone {
        /// The steps asked for.
        steps: u64,
        /// Where that came from.
        place: Source,
        /// The steps of the checkpoint that the run goes on from.
        done: u64,
    },
    /// The system refuses signal handlers.
    #[error("cannot listen for Ctrl-C and SIGTERM")]
    Signals {
        /// The system's answer.
        source: io::Error,
    },
    /// Another process trains in the folder.
    #[error("{} is in use by another process{}", folder.display(), pid.map_or(String::new(), |pid| format!(" (pid {pid})")))]
    FolderInUse {
        /// The run folder.
        folder: PathBuf,
        /// The other process, where its number could be read.
        pid: Option<u32>,
    },
    /// A checkpoint could not be saved.
    #[error("cannot save checkpoint {}; {}", path.display(), last_good_text(last_good.as_deref()))]
    Checkpoint {
        /// Where it would have been.
        path: PathBuf,
        /// The newest complete checkpoint.
        last_good: Option<PathBuf>,
        /// Why.
        source: Box<Error>,
    },
    /// A checkpoint that is not what it was when it was saved.
    #[error("damaged checkpoint: {}: {why}", file.display())]
    DamagedCheckpoint {
        /// The file at fault.
        file: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The loss does not depend on a parameter.
    #[error("parameter {tensor} gets no gradient")]
    NoGradient {
        /// The parameter.
        tensor: String,
    },
    /// A saved optimizer state that does not fit.
    #[error("optimizer state: tensor {tensor} {why}")]
    OptimizerState {
        /// The state tensor.
        tensor: String,
        /// What is wrong with it.
        why: String,
    },
    /// Nobody said what to learn from.
    #[error("no data is given")]
    NoData,
    /// Texts for validation that are too short.
    #[error("{what}: {tokens} tokens are too few to validate on")]
    ShortValidation {
        /// The texts.
        what: String,
        /// Tokens in all of them.
        tokens: u64,
    },
    /// There is no token to learn from in all of the data.
    #[error("step {step}: of {batches} batches none has a token to learn from")]
    NothingToLearn {
        /// The step that could not be made.
        step: u64,
        /// Batches that were looked at.
        batches: u64,
    },
    /// The validation split has no token to evaluate.
    #[error("the validation split has no token to evaluate on")]
    NothingToEvaluate,
    /// A number that is none. No update was made with it; a weight that is none was in no checkpoint.
    #[error("step {step}: {}; {}", non_finite_text(what, tensor.as_deref(), *layer, *micro_batch), last_good_text(last_good.as_deref()))]
    NonFinite {
        /// The step whose update was not made; of a checkpoint that was not saved, its step.
        step: u64,
        /// `weight`, `loss` or `gradient`.
        what: &'static str,
        /// The first bad tensor.
        tensor: Option<String>,
        /// The block it belongs to, if any.
        layer: Option<usize>,
        /// The micro-batch, from 0.
        micro_batch: Option<usize>,
        /// The newest complete checkpoint.
        last_good: Option<PathBuf>,
    },
    /// The run would not fit into memory.
    #[error("the run needs {} MiB, but only {} MiB of memory are free", needed >> 20, available >> 20)]
    Memory {
        /// Planned peak in bytes.
        needed: u64,
        /// Free bytes.
        available: u64,
        /// Whether a run that was begun before should go on: it keeps its micro-batches and blocks.
        resumed: bool,
        /// Whether most of it stays through an update (weights, gradients, the optimizer's state), so that smaller
        /// micro-batches help little.
        lasting: bool,
    },
    /// The system refused memory while the run was going on.
    #[error("step {step}: memory ran out; {}", last_good_text(last_good.as_deref()))]
    OutOfMemory {
        /// The step that could not be made.
        step: u64,
        /// The newest complete checkpoint.
        last_good: Option<PathBuf>,
        /// What asked for how much.
        source: Box<Error>,
    },
    /// A file where the run folder should be.
    #[error("{} is no folder", path.display())]
    NotAFolder {
        /// The file.
        path: PathBuf,
    },
    /// A folder without the files of a run where one is wanted.
    #[error("{} is no run folder", path.display())]
    NotARun {
        /// The folder.
        path: PathBuf,
    },
    /// A batch that is not what the run was planned for.
    #[error("step {step}: a batch {why}")]
    Batch {
        /// The step that could not be made.
        step: u64,
        /// What is wrong with it.
        why: String,
    },
    /// A parameter that no optimizer takes.
    #[error("parameter {tensor} {why}")]
    Parameter {
        /// The parameter.
        tensor: String,
        /// What is wrong with it.
        why: String,
    },
    /// A folder that holds a run already.
    #[error("{} holds a run already", folder.display())]
    RunExists {
        /// The run folder.
        folder: PathBuf,
    },
    /// A checkpoint whose state this program cannot take.
    #[error("{}: {why}", file.display())]
    State {
        /// `trainer.json`.
        file: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// A tokenizer that is not the run's.
    #[error("the tokenizer is not the one that the run was begun with")]
    TokenizerMismatch,
    /// About the data.
    #[error(transparent)]
    Data(#[from] crate::data::Error),
    /// From the text crate.
    #[error(transparent)]
    Text(#[from] gently_text::Error),
    /// From the formats crate.
    #[error(transparent)]
    Format(#[from] gently_formats::Error),
    /// From the tensor crate.
    #[error(transparent)]
    Tensor(#[from] gently_tensor::Error),
    /// From the model crate.
    #[error(transparent)]
    Model(#[from] gently_models::Error),
}

impl Error {
    /// Wraps a system error with what was tried and its path.
    pub(crate) fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io { action, path: path.into(), source }
    }

    /// Whether the system had no memory left.
    pub fn is_out_of_memory(&self) -> bool {
        match self {
            Self::OutOfMemory { .. } => true,
            Self::Tensor(error) | Self::Model(gently_models::Error::Tensor(error)) => error.is_out_of_memory(),
            _ => false,
        }
    }

    /// What to do about it, where there is something to do.
    pub fn hint(&self) -> Option<String> {
        if let Some(kind) = io_kind(self) {
            match kind {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                    return Some("free some space and continue with --resume".into());
                }
                io::ErrorKind::FileTooLarge => {
                    return Some("raise the limit on the size of files (ulimit -f) and continue with --resume".into());
                }
                io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                    return Some("choose a folder that you may write in with --out".into());
                }
                _ => {}
            }
        }
        match self {
            Self::Io { source, .. } => match source.kind() {
                io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => Some(
                    "a file stands where a folder is wanted: give another path (the run's with --out), or move the file"
                        .into(),
                ),
                kind => gently_formats::io_hint(kind).map(str::to_owned),
            },
            Self::UnknownKey { suggestion: Some(key), .. } => Some(format!("did you mean {key}?")),
            Self::UnknownKey { key, keys, .. } if !keys.is_empty() => {
                let section = key.split_once('.').map_or("", |(section, _)| section);
                Some(format!("[{section}] has {}", keys.join(", ")))
            }
            Self::UnknownKey { .. } => Some(SECTIONS.into()),
            Self::Value { key, .. } => {
                let section = key.split_once('.').map_or("", |(section, _)| section);
                Some(format!("the book's page Configuration keys says what [{section}] takes, and its defaults"))
            }
            Self::Syntax { .. } => Some(
                "a recipe is TOML: sections such as [train], a `key = value` on each line, each key once in its section"
                    .into(),
            ),
            Self::NotARecipe { .. } => Some("give a text file of TOML, in UTF-8".into()),
            Self::OtherPrepared { .. } => {
                Some("leave the setting out, or prepare the texts anew with `gently data prepare`".into())
            }
            Self::StepsDone { done, .. } => Some(format!(
                "give at least --set train.steps={done}, or begin a new run in another folder with --out"
            )),
            Self::DamagedCheckpoint { .. } => {
                Some("put a whole copy of the checkpoint back, or begin a new run in another folder with --out".into())
            }
            Self::NotAFolder { .. } => Some("name another folder with --out".into()),
            Self::NotARun { .. } => {
                Some("name the folder that a run was trained in (`gently train --out`), such as runs/quickstart".into())
            }
            Self::Batch { .. } => Some(
                "a source gives train.batch rows of train.block tokens: ids, targets and, where there are any, docs, \
                 row after row"
                    .into(),
            ),
            Self::Parameter { .. } => Some("optimizers work on f32 parameters".into()),
            Self::NotAnAssignment { .. } => Some("write it as section.key=value, such as train.steps=500".into()),
            Self::NotASection { .. } => Some(SECTIONS.into()),
            Self::ConfigMismatch { .. } => {
                Some("continue with the run's own value, or begin a new run in another folder".into())
            }
            Self::FolderInUse { .. } => {
                Some("wait for it, stop it with Ctrl-C, or choose another folder with --out".into())
            }
            Self::NoGradient { .. } => {
                Some("it is not used by the model, or an operation lost its gradient: please report it".into())
            }
            Self::NonFinite { .. } => Some(
                "diagnostic.json in the run folder has the batch; a lower optimizer.lr, a longer optimizer.warmup or train.clip often helps"
                    .into(),
            ),
            Self::Memory { resumed: true, lasting: true, .. } => Some(SMALLER_STATE.into()),
            Self::Memory { resumed: true, .. } => Some(LESS_MEMORY_RESUMED.into()),
            Self::Memory { lasting: true, .. } => Some(SMALLER_MODEL.into()),
            Self::Memory { .. } => Some(LESS_MEMORY.into()),
            Self::OutOfMemory { last_good: Some(_), .. } => {
                Some("stop other programs and continue with --resume, or begin a new run with a lower train.micro_batch".into())
            }
            error if error.is_out_of_memory() => Some(LESS_MEMORY.into()),
            Self::RunExists { .. } => {
                Some("continue it with --resume, or begin a new run in another folder with --out".into())
            }
            Self::NothingToLearn { .. } => Some(
                "only completions are learned from, not prompts: give more of them and begin a new run; \
                 `gently data inspect` on the run's folder shows how many tokens are not learned from"
                    .into(),
            ),
            Self::NothingToEvaluate => Some("raise data.val_fraction, or give data.val_path".into()),
            Self::ShortValidation { .. } => {
                Some("name a longer text in data.val_path; without one, data.val_fraction is kept for validation".into())
            }
            Self::TokenizerMismatch => {
                Some("the text or the tokenizer file has changed; continue with the old one, or begin a new run".into())
            }
            Self::NoData => Some("name a text file with --data FILE, or as data.path in the recipe".into()),
            Self::Data(error) => error.hint(),
            Self::Text(error) => error.hint().map(|hint| hint.to_string()),
            Self::Format(error) => error.hint().map(str::to_owned),
            Self::Tensor(error) => error.hint().map(str::to_owned),
            Self::Model(error) => error.hint(),
            _ => None,
        }
    }
}

/// What a recipe is made of.
const SECTIONS: &str =
    "the sections are [model], [data], [tokenizer], [train], [optimizer], [eval], [sample], [checkpoint] and [spike]";

/// What makes a run smaller.
const LESS_MEMORY: &str = "lower train.micro_batch (the same updates) or train.block, or set train.recompute=true";

/// What makes a run smaller whose memory is mostly weights and what belongs to each of them.
const SMALLER_MODEL: &str = "most of it is weights and what belongs to each: lower model.width, model.layers or \
    the vocabulary, or set optimizer.moments=bf16";

/// The same for one that is to go on: its model is its own.
const SMALLER_STATE: &str = "most of it is weights and what belongs to each: set optimizer.moments=bf16";

/// What makes a run smaller that is to go on.
const LESS_MEMORY_RESUMED: &str =
    "set train.recompute=true or optimizer.moments=bf16; train.micro_batch and train.block are the run's own";

/// The system's answer at the root of an error's chain of causes, from whichever crate it came.
fn io_kind(error: &(dyn std::error::Error + 'static)) -> Option<io::ErrorKind> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(io) = error.downcast_ref::<io::Error>() {
            return Some(io.kind());
        }
        next = error.source();
    }
    None
}

fn missing_text(assignment: &str) -> &'static str {
    if assignment.contains('=') { "key before `=`" } else { "`=`" }
}

fn last_good_text(path: Option<&Path>) -> String {
    match path {
        Some(path) => format!("the last good checkpoint is {}", path.display()),
        None => "no checkpoint was saved yet".into(),
    }
}

fn non_finite_text(what: &str, tensor: Option<&str>, layer: Option<usize>, micro_batch: Option<usize>) -> String {
    let mut text = match tensor {
        Some(tensor) if what == "loss" => {
            format!("the loss is not finite; the first bad gradient is that of {tensor}")
        }
        Some(tensor) => format!("the {what} of {tensor} is not finite"),
        None => format!("the {what} is not finite"),
    };
    if let Some(layer) = layer {
        text += &format!(" (layer {layer})");
    }
    if let Some(micro) = micro_batch {
        text += &format!(" in micro-batch {micro}");
    }
    text + if what == "weight" { "; it was not saved" } else { "; no update was made" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_that_fails_before_its_first_checkpoint_says_so() {
        let refused = |last_good: Option<&str>| Error::OutOfMemory {
            step: 1,
            last_good: last_good.map(PathBuf::from),
            source: Box::new(Error::NoData),
        };
        assert_eq!(refused(None).to_string(), "step 1: memory ran out; no checkpoint was saved yet");
        let said = refused(Some("step-4")).to_string();
        assert_eq!(said, "step 1: memory ran out; the last good checkpoint is step-4");
    }

    #[test]
    fn every_crate_knows_what_to_do_where_the_system_refuses() {
        use std::io::ErrorKind::*;
        let refused = |kind: io::ErrorKind| gently_formats::Error::io(Path::new("x"), "read")(kind.into());
        for kind in [
            PermissionDenied,
            ReadOnlyFilesystem,
            StorageFull,
            QuotaExceeded,
            FileTooLarge,
            NotFound,
            IsADirectory,
            NotADirectory,
            AlreadyExists,
            InvalidInput,
            NotSeekable,
        ] {
            let hint = gently_formats::io_hint(kind);
            assert!(hint.is_some(), "{kind}");
            assert_eq!(gently_text::Error::from(refused(kind)).hint().as_deref(), hint);
            assert_eq!(crate::data::Error::from(refused(kind)).hint().as_deref(), hint);
            assert!(Error::io("cannot read", Path::new("x"), kind.into()).hint().is_some(), "{kind}");
        }
    }
}
