//! Which updates of a run are profiled, and what becomes of it.

use std::path::PathBuf;

use gently_tensor::profile;

use super::session::Session;
use super::step;
use crate::events::Profiled;
use crate::profile::{Facts, JSON_FILE, PAGE_FILE, Peaks, Profile, processor};
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

    /// Ends the recording after the last of the updates wanted, or of the run's, and writes it down.
    pub(super) fn end_profile(&mut self, last: bool) -> Result<()> {
        let Some(p) = &mut self.profiling else {
            return Ok(());
        };
        p.made += 1;
        let Some(first) = p.first else {
            return Ok(());
        };
        let steps = self.state.step + 1 - first;
        if steps < p.asked && !last {
            return Ok(());
        }
        let (recording, peaks) = (profile::finish(), p.peaks);
        self.profiling = None;
        let Some(recording) = recording else {
            return Ok(());
        };
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
