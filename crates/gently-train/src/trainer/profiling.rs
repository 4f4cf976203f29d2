//! Which updates of a run are profiled, and what becomes of it.

use std::path::PathBuf;

use gently_tensor::profile::{self, Recording};

use super::session::Session;
use super::step;
use crate::events::Profiled;
use crate::profile::{Facts, JSON_FILE, PAGE_FILE, Peaks, Profile, STEP, processor};
use crate::recipe::Config;
use crate::{Error, Event, Result};

/// Updates before the recording: buffers are made in the first, and caches and the processor's clock settle.
const WARM_UP: u64 = 3;

/// The recording of one run.
pub(super) struct Profiling {
    peaks: Peaks,
    asked: u64,
    /// Updates made by this process so far.
    made: u64,
    /// The first recorded update, while the recording runs.
    first: Option<u64>,
}

impl Profiling {
    /// Measures what calls will be held to; before the run begins, because it takes memory of its own.
    pub fn new(steps: u64, config: &Config) -> Self {
        Self { peaks: Peaks::measure(step::compute(config.train.compute)), asked: steps, made: 0, first: None }
    }
}

impl Drop for Profiling {
    /// A run that failed leaves no recording behind.
    fn drop(&mut self) {
        if self.first.is_some() {
            drop(profile::finish());
        }
    }
}

impl Session {
    /// Starts the recording when the next update is the first of those wanted.
    pub(super) fn begin_profile(&mut self) {
        let left = self.config.train.steps.saturating_sub(self.state.step);
        if let Some(p) = &mut self.profiling
            && p.first.is_none()
            && (p.made >= WARM_UP || left <= 1)
        {
            p.first = Some(self.state.step + 1);
            profile::start();
        }
    }

    /// Takes note of an update that was made, and ends the recording after the last of those wanted.
    pub(super) fn note_profile(&mut self) -> Result<()> {
        let Some(p) = &mut self.profiling else {
            return Ok(());
        };
        p.made += 1;
        let (first, asked) = (p.first, p.asked);
        match first.is_some_and(|first| self.state.step + 1 - first >= asked) {
            true => self.end_profile(),
            false => Ok(()),
        }
    }

    /// Ends the recording, if one runs, and writes down the updates that were made meanwhile: fewer than were wanted where the run
    /// ended before. Nothing is written where none was made.
    pub(super) fn end_profile(&mut self) -> Result<()> {
        let Some(p) = self.profiling.take() else {
            return Ok(());
        };
        let Some(first) = p.first else {
            return Ok(());
        };
        let (steps, peaks) = (self.state.step + 1 - first, p.peaks);
        let Some(mut recording) = profile::finish().filter(|_| steps > 0) else {
            return Ok(());
        };
        leave_out_after(&mut recording, steps);
        let train = &self.config.train;
        let facts = Facts {
            name: self.name.clone(),
            model: super::machine::model_summary(&self.model, &self.config).description,
            processor: processor(),
            machine: self.machine.clone(),
            peaks,
            first_step: first,
            steps,
            tokens_per_step: (train.batch * train.block * train.accumulate) as u64,
        };
        let profile = Profile::of(&recording, facts);
        let json =
            serde_json::to_vec(&profile).map_err(|e| Error::io("cannot write", &self.file(JSON_FILE), e.into()))?;
        gently_formats::atomic::write(self.file(JSON_FILE), &json)?;
        gently_formats::atomic::write(self.file(PAGE_FILE), profile.html().as_bytes())?;
        let event = Profiled { first_step: first, steps, page: self.file(PAGE_FILE), table: profile.table() };
        self.say(&format!("profile of updates {first} to {}\n{}", first + steps - 1, event.table))?;
        self.tell(&Event::Profiled(event))
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }
}

/// Cuts off what was recorded from the beginning of the update after `steps` of them on: one that a stop ended in its midst.
fn leave_out_after(recording: &mut Recording, steps: u64) {
    let mut begun = recording.phases.iter().filter(|phase| phase.name == STEP).map(|phase| phase.start);
    if let Some(start) = begun.nth(steps as usize) {
        recording.phases.retain(|phase| phase.start < start);
        recording.calls.retain(|call| call.start < start);
    }
}
