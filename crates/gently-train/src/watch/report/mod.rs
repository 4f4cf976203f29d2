//! `report.html`: one page that says how a run went, with everything inside it.
//!
//! Here: the observer that keeps the page current, and [`rebuild`], which makes it again from a run
//! folder. The page needs no network and no script; it follows the reader's light or dark theme and prints.
//! Not here: the trainer's own record, `metrics.jsonl`.
//!
//! ```no_run
//! # fn main() -> gently_train::Result<()> {
//! use gently_train::watch::report;
//! let page = report::rebuild("runs/shakespeare".as_ref())?;
//! println!("{}", page.display());
//! # Ok(()) }
//! ```

pub mod chart;
mod curves;
pub mod document;
pub mod figure;
mod folder;
mod page;
#[cfg(test)]
mod tests;

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use gently_formats::{atomic, bounded};

use super::history::History;
use crate::events::{Event, RunStarted};
use crate::folder::METRICS_FILE;
use crate::{Error, Observer, Result};

/// The page's name in a run folder.
pub const PAGE: &str = "report.html";

/// Of a run's time, at most one part in this many goes into writing the page.
const SHARE: u32 = 50;

/// Keeps `report.html` and `report.json` in the run folder current: after each evaluation, unless that would
/// take more than a fiftieth of the time, and at the end.
#[derive(Default)]
pub struct Report {
    folder: PathBuf,
    history: History,
    /// The page is worth writing again.
    stale: bool,
    /// The page lacks something that has happened.
    behind: bool,
    written: Option<(Instant, Duration)>,
}

impl Report {
    /// Will write into the run's folder, which the first event names.
    pub fn new() -> Self {
        Self::default()
    }

    fn start(&mut self, run: &RunStarted) -> Result<()> {
        self.history = match run.start_step {
            0 => History::default(),
            step => folder::take_up(&run.folder, step)?,
        };
        // Not before: nothing is written where the past could not be read.
        self.folder = run.folder.clone();
        Ok(())
    }

    fn write(&mut self) -> Result<()> {
        let begun = Instant::now();
        folder::write_facts(&self.folder, &self.history)?;
        let html = page::page(&self.history, None);
        atomic::write(self.folder.join(PAGE), html.as_bytes())?;
        (self.stale, self.behind) = (false, false);
        self.written = Some((Instant::now(), begun.elapsed()));
        Ok(())
    }

    fn affordable(&self) -> bool {
        self.written.is_none_or(|(at, took)| at.elapsed() >= took * SHARE)
    }
}

impl Observer for Report {
    fn on(&mut self, event: &Event) -> Result<()> {
        if let Event::RunStarted(run) = event {
            self.start(run)?;
        }
        // The samples of an evaluation come after it: the page is written when the next update is.
        if self.stale && matches!(event, Event::Step(_)) && self.affordable() {
            self.write()?;
        }
        self.history.on(event);
        self.behind = true;
        match event {
            Event::RunStarted(_) | Event::Finished(_) => self.write()?,
            Event::Evaluated(_) | Event::Sampled(_) => self.stale = true,
            // Of a failure too: what it brings is written when the run lets go of this.
            _ => {}
        }
        Ok(())
    }
}

impl Drop for Report {
    /// A run that ended with an error is told up to there.
    fn drop(&mut self) {
        // Without a name there is no run yet. That the page cannot be written is not worth a second error.
        if self.behind && !self.folder.as_os_str().is_empty() {
            let _ = self.write();
        }
    }
}

/// Writes `report.html` again from a run folder's `metrics.jsonl`, `samples.jsonl`, `report.json` and
/// `config.toml`, and returns its path. Without `report.json` the page has the curves and the configuration only.
///
/// # Errors
/// [`Error::NotARun`] for a folder that has neither `metrics.jsonl` nor `report.json`, in which nothing is written; a file that
/// cannot be read or written, by name.
pub fn rebuild(run: &Path) -> Result<PathBuf> {
    // Every run has the first from its beginning on. A config.toml alone may be anybody's, and so may a report.html beside it.
    if !(holds(run, METRICS_FILE)? || holds(run, folder::FACTS)?) {
        return Err(Error::NotARun { path: run.into() });
    }
    let history = folder::read(run, u64::MAX)?;
    let config = bounded::read_text(run.join("config.toml"), 1 << 20).ok();
    let html = page::page(&history, config.as_deref());
    let path = run.join(PAGE);
    atomic::write(&path, html.as_bytes())?;
    Ok(path)
}

/// Whether there is something of this name in `folder`, if that is one.
fn holds(folder: &Path, name: &str) -> Result<bool> {
    let path = folder.join(name);
    match std::fs::metadata(&path) {
        Ok(_) => Ok(true),
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(false),
        Err(e) => Err(Error::io("cannot read", &path, e)),
    }
}
