//! Which updates of a run are profiled, and what becomes of it.

use std::path::PathBuf;

use gently_tensor::profile::{self, CAPACITY, Recording};

use super::session::Session;
use crate::events::Profiled;
use crate::profile::{Facts, JSON_FILE, PAGE_FILE, Peaks, Profile, STEP, processor};
use crate::recipe::Config;
use crate::watch::format;
use crate::{Error, Event, Result};

/// Updates before the recording, where the run has more: buffers are made in the first, and caches and the processor's clock
/// settle.
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
        Self { peaks: Peaks::measure(config.train.compute.into()), asked: steps, made: 0, first: None }
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

    /// Takes note of an update that was made, and ends the recording after the last of those wanted, or once it is full.
    pub(super) fn note_profile(&mut self) -> Result<()> {
        let Some(p) = &mut self.profiling else {
            return Ok(());
        };
        p.made += 1;
        let (first, asked) = (p.first, p.asked);
        match first.is_some_and(|first| self.state.step + 1 - first >= asked || profile::is_full()) {
            true => self.end_profile(),
            false => Ok(()),
        }
    }

    /// Ends the recording, if one runs, and writes down the updates that were made meanwhile: fewer than were wanted where the run
    /// ended before or the recording was full. Where there is none nothing is written, and a warning says so.
    pub(super) fn end_profile(&mut self) -> Result<()> {
        let Some(p) = self.profiling.take() else {
            return Ok(());
        };
        let recorded = p.first.map_or(0, |first| self.state.step + 1 - first);
        let (first, peaks) = (p.first.unwrap_or_default(), p.peaks);
        let mut recording = p.first.and_then(|_| profile::finish());
        let whole = recording.as_mut().filter(|recording| recording.lost > 0).map(keep_whole);
        let steps = whole.map_or(recorded, |whole| whole.min(recorded));
        let Some(mut recording) = recording.filter(|_| steps > 0) else {
            let why = match p.made {
                _ if whole.is_some() => format!("a recording holds {CAPACITY} kernel calls, and one update makes more"),
                0 => "the run made no update".into(),
                made => format!("the run ended after {}", format::updates(self.state.step + 1 - made, made)),
            };
            return self.warn(format!("no profile is written: {why}"));
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
        self.say(&format!("profile of {}\n{}", format::updates(first, steps), event.table))?;
        self.tell(&Event::Profiled(event))
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }
}

/// Cuts a recording that was full down to the updates that are in it with all their calls, and says how many they are.
fn keep_whole(recording: &mut Recording) -> u64 {
    let ended = &recording.phases[..recording.whole.min(recording.phases.len())];
    let steps = ended.iter().filter(|phase| phase.name == STEP);
    let (count, end) = (steps.clone().count(), steps.map(|phase| phase.end).max().unwrap_or(0));
    recording.phases.retain(|phase| phase.start < end);
    recording.calls.retain(|call| call.start < end);
    count as u64
}

/// Cuts off what was recorded from the beginning of the update after `steps` of them on: one that a stop ended in its midst.
fn leave_out_after(recording: &mut Recording, steps: u64) {
    let mut begun = recording.phases.iter().filter(|phase| phase.name == STEP).map(|phase| phase.start);
    if let Some(start) = begun.nth(steps as usize) {
        recording.phases.retain(|phase| phase.start < start);
        recording.calls.retain(|call| call.start < start);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use gently_tensor::profile::Work;

    use super::*;

    #[test]
    fn of_a_full_recording_only_whole_updates_count() {
        profile::start();
        for _ in 0..3 {
            let _step = profile::phase(STEP);
            drop(profile::phase("forward"));
            drop(profile::call("one", Work::default));
            // Longer than the clock's tick, so that no two steps share a time.
            std::thread::sleep(Duration::from_millis(1));
        }
        let all = profile::finish().unwrap();
        assert_eq!((all.whole, all.phases.len()), (6, 6));
        // Each update's phases end with its own. The first call is lost in the third, in the second, and in the first.
        for (whole, steps) in [(4, 2), (5, 2), (2, 1), (3, 1), (1, 0), (0, 0)] {
            let mut full = all.clone();
            (full.whole, full.lost) = (whole, 1);
            assert_eq!(keep_whole(&mut full), steps, "{whole}");
            assert_eq!((full.calls.len() as u64, full.phases.len() as u64), (steps, 2 * steps), "{whole}");
        }
    }
}
