//! The training loop.
//!
//! Here: [`Trainer`], which opens a run folder, prepares everything and runs the loop, and the parts of the loop, one
//! file each: gradients of an update (`step`), evaluation, samples, diagnosis of numbers that are none, the memory plan
//! (`rehearsal`), profiles (`profiling`), saving and resuming (`session`). Not here: recipes, optimizers, checkpoints' protocol, data.
//!
//! ```no_run
//! use gently_train::{Recipe, StopHandle, Trainer};
//!
//! let mut recipe = Recipe::load("recipes/shakespeare-cpu.toml".as_ref())?;
//! recipe.set("data.path=['input.txt']")?;
//! let finished = Trainer::new(recipe, "runs/shakespeare")
//!     .stop_when(StopHandle::on_signals()?)
//!     .resume(true) // go on if the folder holds a run
//!     .run()?;
//! println!("validation loss {:?} after {} steps", finished.val_loss, finished.step);
//! # Ok::<(), gently_train::Error>(())
//! ```

mod diagnose;
mod evaluate;
mod machine;
mod probe;
mod profiling;
mod rehearsal;
mod sample;
mod session;
mod state;
mod step;
mod work;

pub use probe::Probe;

use std::path::{Path, PathBuf};

use gently_models::Decoder;
use gently_models::config::DecoderConfig;
use gently_tensor::{Device, Rng};

use crate::data::Report;
use crate::events::Finished;
use crate::recipe::{Recipe, Resolved};
use crate::source::TrainData;
use crate::stop::StopHandle;
use crate::{Observer, Result};

/// Makes the model: on `Device::Meta` for the memory plan, then on the device it is trained on.
pub type Build = dyn Fn(&DecoderConfig, &Rng, &Device) -> gently_models::Result<Decoder> + Send;

/// Opens the data of a run whose configuration is known, in its folder, and tells how far it is.
pub type OpenData = dyn FnOnce(&Resolved, &Path, &mut Report<'_>) -> Result<TrainData> + Send;

/// A run that has not begun. It can be handed to another thread and run there.
pub struct Trainer {
    recipe: Recipe,
    folder: PathBuf,
    resume: bool,
    data: Box<OpenData>,
    build: Box<Build>,
    observers: Vec<Box<dyn Observer + Send>>,
    stop: StopHandle,
    profile: u64,
}

impl Trainer {
    /// A run of `recipe` in `folder`, which is made if it is not there.
    pub fn new(recipe: Recipe, folder: impl Into<PathBuf>) -> Self {
        Self {
            recipe,
            folder: folder.into(),
            resume: false,
            data: Box::new(crate::source::open),
            build: Box::new(Decoder::new),
            observers: Vec::new(),
            stop: StopHandle::new(),
            profile: 0,
        }
    }

    /// Continue the run that the folder holds from its last good checkpoint, if it holds one. Values come from the
    /// folder's `config.toml`, then from the recipe, except those that `--set` gave when the run began.
    pub fn resume(mut self, resume: bool) -> Self {
        self.resume = resume;
        self
    }

    /// Somebody to tell what happens.
    pub fn observe(mut self, observer: impl Observer + Send + 'static) -> Self {
        self.observers.push(Box::new(observer));
        self
    }

    /// A handle that others use to end the run early; its state is saved then.
    pub fn stop_when(mut self, stop: StopHandle) -> Self {
        self.stop = stop;
        self
    }

    /// Record where the time of this many updates goes, after three that warm up; then write `profile.json` and
    /// `profile.html` into the run folder and train on. A run that ends before has fewer: of one with three updates or less
    /// the last is recorded. Where none is, a warning says so. A
    /// recording that is full ends early: it holds [`CAPACITY`](gently_tensor::profile::CAPACITY) kernel calls, whose memory is not
    /// in the plan. The results are the same bits with and without. 0 is none.
    pub fn profile(mut self, steps: u64) -> Self {
        self.profile = steps;
        self
    }

    /// Other data than what `[data]` says.
    pub fn data(mut self, open: impl FnOnce(&Resolved, &Path) -> Result<TrainData> + Send + 'static) -> Self {
        self.data = Box::new(|resolved, folder, _| open(resolved, folder));
        self
    }

    /// Another model than `[model]`'s own, such as one with other mixers; its parameters and their names must not
    /// change between two calls.
    pub fn model(
        mut self,
        build: impl Fn(&DecoderConfig, &Rng, &Device) -> gently_models::Result<Decoder> + Send + 'static,
    ) -> Self {
        self.build = Box::new(build);
        self
    }

    /// Runs until the last step, or until somebody asks to stop.
    ///
    /// # Errors
    /// Whatever stops the run, with the thing it is about; the last complete checkpoint is intact.
    pub fn run(self) -> Result<Finished> {
        session::Session::open(self)?.run()
    }
}

#[cfg(test)]
mod tests;
