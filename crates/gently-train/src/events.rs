//! What a run tells those who watch it.
//!
//! Here: the event types, the [`Observer`] trait and the small facts that events carry (model summary, machine,
//! time split). Not here: the observers themselves (progress bar, terminal dashboard, TensorBoard, report), which
//! live in `watch`, and `metrics.jsonl`, which the trainer writes itself because exact resume depends on it.
//!
//! ```
//! use gently_train::{Event, Observer, Result};
//!
//! struct LastLoss(f64);
//! impl Observer for LastLoss {
//!     fn on(&mut self, event: &Event) -> Result<()> {
//!         if let Event::Step(step) = event {
//!             self.0 = step.loss;
//!         }
//!         Ok(())
//!     }
//! }
//! ```

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::Result;
use crate::plan::MemoryPlan;
use crate::recipe::ConfigLine;

/// Somebody who watches a run. Called in the training thread, so a slow observer slows the run.
///
/// An error stops the run: the last complete checkpoint stays as it is and the error is returned to the caller.
pub trait Observer {
    /// Takes one event.
    fn on(&mut self, event: &Event) -> Result<()>;
}

/// One thing that happened. A *step* number counts completed updates, those that were left out included: the event of the first update says 1, an
/// evaluation before any training says 0.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Event {
    /// The data is being prepared; sent about once for each megabyte, or ten times a second where something is waited for, before [`Event::RunStarted`].
    Preparing(Preparing),
    /// Sent once, before the first step, after the configuration is resolved and the memory plan made.
    RunStarted(Box<RunStarted>),
    /// An update was made (or skipped, see [`Step::skipped`]).
    Step(Step),
    /// The model was evaluated on the validation split.
    Evaluated(Evaluated),
    /// The model wrote a text from a fixed prompt.
    Sampled(Sampled),
    /// A checkpoint is complete on disk.
    CheckpointSaved(CheckpointSaved),
    /// The updates that were to be profiled are, and the profile is written.
    Profiled(Profiled),
    /// A loss or gradient spike was found and its update left out. The `Step` event of that step follows.
    SpikeSkipped(SpikeSkipped),
    /// Something a person should read; the run goes on.
    Warning {
        /// The step at which it happened.
        step: u64,
        /// One sentence.
        message: String,
    },
    /// Sent once, after the last checkpoint is saved.
    Finished(Finished),
    /// Sent last where an error ends a run that has started; there is no [`Event::Finished`] then, unless the error is what an
    /// observer answered to it. What observers answer to this is not looked at.
    Failed(Failed),
}

/// How far the preparation of the data is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Preparing {
    /// What is being done, as [`crate::data::Progress::stage`] says it.
    pub stage: String,
    /// Bytes of text, or of a file, done in this stage.
    pub done: u64,
    /// Bytes of the sources (of compressed sources: fewer than the text's).
    pub total: u64,
}

/// The facts of a run before its first step.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RunStarted {
    /// The run's name: the recipe's file name without its ending, or the folder's name.
    pub name: String,
    /// The run folder.
    pub folder: PathBuf,
    /// The step from which the run continues; 0 for a new run.
    pub start_step: u64,
    /// Whether what belongs to `start_step` is still to come: in a new run, and where the process before ended in its evaluation
    /// or its samples. The events of that step, its update's too, are sent then.
    #[serde(default, alias = "owed")]
    pub pending: bool,
    /// The lowest validation loss so far and its step; none where nothing was measured on the present validation batches.
    #[serde(default)]
    pub best: Option<(u64, f64)>,
    /// The first step whose validation loss is to be compared with `best`. Those before it are in it, or were measured on other
    /// batches.
    #[serde(default)]
    pub best_since: u64,
    /// The step at which the run ends.
    pub total_steps: u64,
    /// Tokens in one update (batch × block × accumulate).
    pub tokens_per_step: u64,
    /// Every configuration value with where it came from, in the order of `config.toml`.
    pub config: Vec<ConfigLine>,
    /// Planned memory.
    pub plan: MemoryPlan,
    /// The model in numbers.
    pub model: ModelSummary,
    /// The data in numbers.
    pub data: DataSummary,
    /// What it runs on.
    pub machine: Machine,
}

/// The model in numbers.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ModelSummary {
    /// One line, such as `gpt2: 4 layers, 4 heads, width 128, vocabulary 65`.
    pub description: String,
    /// All parameters; a tied head is counted once.
    pub parameters: u64,
    /// Floating-point operations (a multiply-add counts as two) of forward and backward for one token, as
    /// [`gently_models::flops`] counts them.
    pub flops_per_token: f64,
}

/// The data in numbers.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct DataSummary {
    /// Where it came from.
    pub description: String,
    /// Tokens of the training split.
    pub train_tokens: u64,
    /// Tokens of the validation split.
    pub val_tokens: u64,
}

/// The machine as measured when the run starts.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// Kernel path, such as `avx512bf16`.
    pub path: String,
    /// Threads in use.
    pub threads: usize,
    /// `f32` or `bf16`: the compute the peak is of.
    pub compute: String,
    /// Measured peak of all threads in floating-point operations per second.
    pub peak_flops: f64,
}

/// One update.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// Updates completed, this one included.
    pub step: u64,
    /// The optimised loss: nats per unmasked token over all micro-batches, before the update.
    pub loss: f64,
    /// Learning rate of this update.
    pub lr: f64,
    /// Global norm of the gradient before clipping.
    pub grad_norm: f64,
    /// Tokens that went through the model since the run began, this update included; so does the padding of packed rows.
    pub tokens: u64,
    /// Those of this update.
    pub step_tokens: u64,
    /// True when the update was left out because of a spike.
    pub skipped: bool,
    /// Where the time went.
    pub seconds: Split,
    /// Tokens of this update over its wall time.
    pub tokens_per_second: f64,
    /// Achieved share of [`Machine::peak_flops`], 0 to 1.
    pub utilisation: f64,
    /// Seconds until the last step at the recent speed; below 0 where that is not known.
    pub eta: f64,
}

/// Wall time of one update by part, in seconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Split {
    /// The whole update.
    pub total: f64,
    /// Waiting for batches.
    pub data: f64,
    /// Forward passes.
    pub forward: f64,
    /// Backward passes.
    pub backward: f64,
    /// Norm, clipping and update.
    pub optimizer: f64,
}

/// One evaluation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Evaluated {
    /// Updates completed.
    pub step: u64,
    /// Validation loss, nats per token.
    pub loss: f64,
    /// Tokens it was measured on.
    pub tokens: u64,
    /// Whether it is the lowest so far.
    pub best: bool,
    /// Wall time.
    pub seconds: f64,
}

/// One text.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Sampled {
    /// Updates completed.
    pub step: u64,
    /// The prompt.
    pub prompt: String,
    /// What the model wrote after it.
    pub text: String,
}

/// One complete checkpoint.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct CheckpointSaved {
    /// Updates completed.
    pub step: u64,
    /// Its folder.
    pub path: PathBuf,
    /// Size of all its files.
    pub bytes: u64,
    /// Whether it holds the lowest validation loss so far.
    pub best: bool,
    /// Wall time.
    pub seconds: f64,
}

/// One profile.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Profiled {
    /// The first recorded update.
    pub first_step: u64,
    /// Recorded updates.
    pub steps: u64,
    /// The page; `profile.json` lies beside it.
    pub page: PathBuf,
    /// The table in words.
    pub table: String,
}

/// One skipped update.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct SpikeSkipped {
    /// The step whose update is left out.
    pub step: u64,
    /// Its loss.
    pub loss: f64,
    /// How many standard deviations above the window's mean the loss is.
    pub loss_z: f64,
    /// Its gradient norm.
    pub grad_norm: f64,
    /// How many standard deviations above the window's mean the gradient norm is.
    pub grad_norm_z: f64,
}

/// Why a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Reason {
    /// All steps are done.
    Complete,
    /// A person or the system asked (SIGINT, SIGTERM, or [`crate::StopHandle::stop`]); the state is saved.
    Stopped,
}

/// The end of a run that an error stopped.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failed {
    /// Updates completed.
    pub step: u64,
    /// The error and its causes, a sentence.
    pub message: String,
}

/// The end of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Finished {
    /// Updates completed.
    pub step: u64,
    /// Why it ended.
    pub reason: Reason,
    /// Loss of the last update, if there was one.
    pub train_loss: Option<f64>,
    /// The last validation loss, if there was one.
    pub val_loss: Option<f64>,
    /// The lowest validation loss and its step.
    pub best: Option<(u64, f64)>,
    /// Tokens seen.
    pub tokens: u64,
    /// Wall time of this process's part of the run.
    pub seconds: f64,
    /// Time by part, summed over this process's part of the run.
    pub split: Split,
    /// Planned peak memory in bytes.
    pub planned_bytes: u64,
    /// Measured peak resident memory in bytes (`VmHWM`), where the system tells.
    pub measured_bytes: Option<u64>,
    /// The last checkpoint.
    pub checkpoint: Option<PathBuf>,
}
