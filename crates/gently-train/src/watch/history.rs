//! What a run has shown so far, in bounded memory: the one thing the dashboard and the report draw from.
//!
//! Here: [`History`], fed by [events](crate::events). Not here: drawing, and reading a finished run's
//! folder (the report does that).
//!
//! ```
//! use gently_train::watch::history::History;
//! let history = History::default();
//! assert!(history.run.is_none() && history.train.points().is_empty());
//! ```

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::format;
use super::series::Series;
use crate::events::{Evaluated, Event, Failed, Finished, Machine, Preparing, RunStarted, Sampled, Split, Step};
use crate::plan::MemoryPlan;
use crate::process_memory;

/// Points kept of each curve.
const POINTS: usize = 2048;
/// Validation losses kept; when there are more, every second one is dropped.
const VALIDATIONS: usize = 4096;
/// Samples kept; when full, every second step that was sampled is dropped.
const SAMPLES: usize = 512;
/// Characters kept of one sample.
const SAMPLE_CHARS: usize = 4000;
/// Notes kept, the newest.
const NOTES: usize = 200;
/// Sessions kept, the newest.
const SESSIONS: usize = 200;
/// The system is asked for the memory in use at most this often.
const MEMORY_EVERY: Duration = Duration::from_millis(500);

/// Something worth a line in a log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// The step at which it happened.
    pub step: u64,
    /// One sentence.
    pub text: String,
}

/// A validation loss.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Validation {
    /// Updates completed.
    pub step: u64,
    /// Nats per token.
    pub loss: f64,
}

/// The part of a run that one process made: at least one update.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Session {
    /// The step that it went on from.
    pub start: u64,
    /// Its planned memory.
    pub plan: MemoryPlan,
    /// What it ran on.
    pub machine: Machine,
    /// Its peak resident bytes, where it came to its end and the system told.
    pub measured: Option<u64>,
}

impl Session {
    /// That of a process that has told of its run, and of no peak yet.
    pub fn of(run: &RunStarted) -> Self {
        Self { start: run.start_step, plan: run.plan.clone(), machine: run.machine.clone(), measured: None }
    }
}

/// Everything the watchers draw.
#[derive(Debug, Clone)]
pub struct History {
    /// How far the data is prepared, before the run starts.
    pub preparing: Option<Preparing>,
    /// The facts of the run, once it has started.
    pub run: Option<RunStarted>,
    /// Training loss.
    pub train: Series,
    /// Validation losses, oldest first.
    pub val: Vec<Validation>,
    /// The lowest of those that were measured on the present validation batches.
    pub best: Option<Validation>,
    /// Learning rate.
    pub lr: Series,
    /// Gradient norm before clipping.
    pub grad_norm: Series,
    /// Tokens per second of single updates.
    pub tokens_per_second: Series,
    /// Share of the measured peak, 0 to 1.
    pub utilisation: Series,
    /// Milliseconds of an update: data, forward, backward, optimizer, rest.
    pub parts: [Series; 5],
    /// Resident bytes of this process.
    pub memory: Series,
    /// Texts, oldest first.
    pub samples: Vec<Sampled>,
    /// Spikes, warnings, checkpoints that failed; oldest first.
    pub notes: Vec<Note>,
    /// The newest update.
    pub last: Option<Step>,
    /// Seconds in updates since the run began.
    pub seconds: f64,
    /// The same times the threads of the session that made each update.
    pub processor_seconds: f64,
    /// The processes that made updates, oldest first. One that made none is not among them.
    pub sessions: Vec<Session>,
    /// The end, once it is there.
    pub finished: Option<Finished>,
    /// The end of a run that an error stopped.
    pub failed: Option<Failed>,
    /// Whether the newest session is that of the process that is watched.
    at_work: bool,
    asked_memory: Option<Instant>,
}

impl Default for History {
    fn default() -> Self {
        let series = || Series::new(POINTS);
        Self {
            preparing: None,
            run: None,
            train: series(),
            val: Vec::new(),
            best: None,
            lr: series(),
            grad_norm: series(),
            tokens_per_second: series(),
            utilisation: series(),
            parts: std::array::from_fn(|_| series()),
            memory: series(),
            samples: Vec::new(),
            notes: Vec::new(),
            last: None,
            seconds: 0.0,
            processor_seconds: 0.0,
            sessions: Vec::new(),
            finished: None,
            failed: None,
            at_work: false,
            asked_memory: None,
        }
    }
}

impl History {
    /// Takes one event.
    pub fn on(&mut self, event: &Event) {
        match event {
            Event::Preparing(preparing) => self.preparing = Some(preparing.clone()),
            Event::RunStarted(run) => {
                self.began(run);
                (self.finished, self.failed, self.at_work) = (None, None, false);
                if run.start_step > 0 {
                    self.note(run.start_step, format!("resumed from step {}", run.start_step));
                }
            }
            Event::Step(step) => {
                // One that was pending is the work of a process before this one.
                if let Some(run) = self.run.as_ref().filter(|run| !self.at_work && step.step > run.start_step) {
                    self.sessions.push(Session::of(run));
                    self.at_work = true;
                    if self.sessions.len() > SESSIONS {
                        self.sessions.remove(0);
                    }
                }
                self.step(step);
                if self.at_work {
                    self.ask_memory(step.step);
                }
            }
            Event::Evaluated(evaluated) => self.evaluated(evaluated),
            Event::Sampled(sample) => self.sampled(sample),
            Event::SpikeSkipped(spike) => {
                let text = format!(
                    "update left out: loss {:.4} ({:.1} standard deviations up), gradient norm {:.4} ({:.1})",
                    spike.loss, spike.loss_z, spike.grad_norm, spike.grad_norm_z
                );
                // That of a step that was pending is told once more, to those who remember it too.
                if !self.notes.iter().any(|note| note.step == spike.step && note.text == text) {
                    self.note(spike.step, text);
                }
            }
            Event::Warning { step, message } => self.note(*step, format!("warning: {message}")),
            Event::CheckpointSaved(saved) => {
                let name = saved.path.file_name().unwrap_or(saved.path.as_os_str()).to_string_lossy();
                let best = if saved.best { ", the best so far" } else { "" };
                let size = format::bytes(saved.bytes);
                self.note(saved.step, format!("saved {name} ({size}{best})"));
            }
            Event::Profiled(profiled) => {
                let page = profiled.page.file_name().unwrap_or(profiled.page.as_os_str()).to_string_lossy();
                let last = profiled.first_step + profiled.steps.saturating_sub(1);
                self.note(last, format!("profiled {}: {page}", format::updates(profiled.first_step, profiled.steps)));
            }
            Event::Finished(end) => {
                self.best = end.best.map(|(step, loss)| Validation { step, loss });
                if let Some(session) = self.sessions.last_mut().filter(|_| self.at_work) {
                    session.measured = end.measured_bytes;
                }
                self.finished = Some(end.clone());
            }
            Event::Failed(end) => {
                self.note(end.step, format!("failed: {}", end.message));
                self.failed = Some(end.clone());
            }
        }
    }

    /// Takes the facts of a run. Its lowest loss is the one that counts: what was seen of the past may have been measured on other
    /// batches, or not be here at all.
    pub fn began(&mut self, run: &RunStarted) {
        self.best = run.best.map(|(step, loss)| Validation { step, loss });
        self.run = Some(run.clone());
    }

    /// Takes the numbers of one update.
    pub fn step(&mut self, step: &Step) {
        let number = step.step;
        self.train.push(number, step.loss);
        self.lr.push(number, step.lr);
        self.grad_norm.push(number, step.grad_norm);
        self.tokens_per_second.push(number, step.tokens_per_second);
        self.utilisation.push(number, step.utilisation);
        for (series, seconds) in self.parts.iter_mut().zip(parts(&step.seconds)) {
            series.push(number, seconds * 1000.0);
        }
        if step.seconds.total.is_finite() {
            self.seconds += step.seconds.total;
            // Of the steps before the sessions that are kept nothing else is known.
            let of = self.sessions.iter().rev().find(|session| session.start < number);
            let threads = of.or(self.sessions.first()).map_or(0, |session| session.machine.threads);
            self.processor_seconds += step.seconds.total * threads as f64;
        }
        self.last = Some(step.clone());
    }

    fn evaluated(&mut self, evaluated: &Evaluated) {
        let new = Validation { step: evaluated.step, loss: evaluated.loss };
        self.val.push(new);
        let counts = self.run.as_ref().is_none_or(|run| new.step >= run.best_since);
        if counts && new.loss.is_finite() && self.best.is_none_or(|best| new.loss < best.loss) {
            self.best = Some(new);
        }
        // Each is of one model, so neighbours are not averaged.
        if self.val.len() > VALIDATIONS {
            // Keeps every second one and the newest; the best is remembered apart.
            let newest = self.val.len() - 1;
            let mut index = 0;
            self.val.retain(|_| {
                index += 1;
                index % 2 == 1 || index > newest
            });
        }
    }

    fn sampled(&mut self, sample: &Sampled) {
        let mut sample = sample.clone();
        if let Some((end, _)) = sample.text.char_indices().nth(SAMPLE_CHARS) {
            sample.text.truncate(end);
        }
        self.samples.push(sample);
        if self.samples.len() > SAMPLES {
            let mut steps: Vec<u64> = self.samples.iter().map(|sample| sample.step).collect();
            steps.dedup();
            let newest = steps.last().copied();
            let kept: Vec<u64> = steps.into_iter().step_by(2).collect();
            self.samples.retain(|s| Some(s.step) == newest || kept.binary_search(&s.step).is_ok());
        }
    }

    /// Adds a line to the log.
    pub fn note(&mut self, step: u64, text: String) {
        if self.notes.len() == NOTES {
            self.notes.remove(0);
        }
        self.notes.push(Note { step, text });
    }

    fn ask_memory(&mut self, step: u64) {
        if self.asked_memory.is_some_and(|at| at.elapsed() < MEMORY_EVERY) {
            return;
        }
        self.asked_memory = Some(Instant::now());
        if let Some(bytes) = process_memory::resident() {
            self.memory.push(step, bytes as f64);
        }
    }

    /// Updates completed.
    pub fn steps_done(&self) -> u64 {
        let started = self.run.as_ref().map_or(0, |run| run.start_step);
        self.last.as_ref().map_or(started, |step| step.step)
    }
}

/// Names of [`History::parts`], in their order.
pub const PART_NAMES: [&str; 5] = ["data", "forward", "backward", "optimizer", "other"];

/// Seconds of each part; the last is what the others leave of the whole.
fn parts(split: &Split) -> [f64; 5] {
    let known = split.data + split.forward + split.backward + split.optimizer;
    [split.data, split.forward, split.backward, split.optimizer, (split.total - known).max(0.0)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::SpikeSkipped;
    use crate::watch::rehearsal;

    fn watched(steps: u64) -> History {
        let mut history = History::default();
        for event in rehearsal::events(steps) {
            history.on(&event);
        }
        history
    }

    #[test]
    fn a_run_is_remembered() {
        let history = watched(100);
        assert_eq!(history.steps_done(), 100);
        assert_eq!(history.train.points().len(), 100);
        assert_eq!(history.val.len(), 11);
        let best = history.best.unwrap();
        assert!(history.val.iter().all(|v| v.loss >= best.loss));
        assert!(history.notes.iter().any(|n| n.text.starts_with("update left out")));
        let sum: f64 = history.parts.iter().map(|p| p.points()[9].mean).sum();
        let total = rehearsal::step(10, 100).seconds.total * 1000.0;
        assert!((sum - total).abs() < 1e-9);
        if let Some(point) = history.memory.points().first() {
            assert!(point.mean > 0.0);
        }
    }

    #[test]
    fn a_spike_that_is_told_once_more_is_noted_once() {
        let mut history = History::default();
        for step in [3, 3, 4] {
            history.on(&Event::SpikeSkipped(SpikeSkipped { step, ..SpikeSkipped::default() }));
        }
        assert_eq!(history.notes.iter().map(|note| note.step).collect::<Vec<_>>(), [3, 4]);
    }

    #[test]
    fn a_long_run_stays_small() {
        let mut history = History::default();
        for step in 0..20_000 {
            history.on(&Event::Step(rehearsal::step(step, 20_000)));
            history.on(&Event::Sampled(Sampled { step, prompt: "p".into(), text: "é".repeat(SAMPLE_CHARS + 10) }));
            history.note(step, "note".into());
        }
        assert!(history.train.points().len() < POINTS);
        assert!(history.samples.len() <= SAMPLES);
        assert_eq!(history.samples.last().unwrap().step, 19_999);
        assert_eq!(history.samples[0].step, 0);
        assert!(history.samples.iter().all(|s| s.text.chars().count() == SAMPLE_CHARS));
        assert_eq!(history.notes.len(), NOTES);
    }

    #[test]
    fn many_evaluations_are_thinned_but_the_newest_stays() {
        let mut history = History::default();
        for step in 0..10_000u64 {
            history.evaluated(&Evaluated { step, ..Evaluated::default() });
            assert_eq!(history.val.last().unwrap().step, step);
        }
        assert!(history.val.len() <= VALIDATIONS && history.val.len() > VALIDATIONS / 2);
        assert!(history.val.windows(2).all(|w| w[0].step < w[1].step));
    }
}
