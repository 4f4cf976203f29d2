//! What a run folder remembers: from its files back to a [`History`].
//!
//! Here: the reading of `metrics.jsonl` and `samples.jsonl`, and the reading and writing of `report.json`,
//! which keeps what those do not hold (the facts of the run and of its processes, notes, memory). Not here: the page.

use std::io::ErrorKind;
use std::path::Path;

use gently_formats::{atomic, bounded};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::events::{Evaluated, Event, Failed, Finished, RunStarted, Sampled, Split, Step};
use crate::folder::{METRICS_FILE, SAMPLES_FILE};
use crate::watch::history::{History, Note, Session};
use crate::watch::series::Point;
use crate::{Error, Result};

/// The file beside `metrics.jsonl`.
pub const FACTS: &str = "report.json";
/// The name under which one that cannot be read is kept.
const DAMAGED: &str = "report.json.damaged";

/// What `report.json` holds.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Facts {
    run: Option<RunStarted>,
    notes: Vec<Note>,
    /// Steps and means.
    memory: Vec<(u64, f64)>,
    /// Lowest and highest of each of them; a file of before has none.
    memory_range: Vec<(f64, f64)>,
    /// A file of before has none.
    sessions: Option<Vec<Session>>,
    finished: Option<Finished>,
    failed: Option<Failed>,
}

/// One line of `metrics.jsonl`; keys that a report does not draw are passed over.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Row {
    step: u64,
    train_loss: Option<f64>,
    val_loss: Option<f64>,
    lr: Option<f64>,
    grad_norm: Option<f64>,
    tokens: Option<u64>,
    tokens_per_second: Option<f64>,
    utilisation: Option<f64>,
    seconds: Option<Split>,
}

/// Most bytes of `report.json`, and of a line of the other files.
const MOST: u64 = 256 << 20;

fn unreadable(path: &Path, source: std::io::Error) -> Error {
    Error::io("cannot read", path, source)
}

/// The history of `folder` up to and including step `until`. A file that is not there is an empty one.
pub fn read(folder: &Path, until: u64) -> Result<History> {
    let mut history = History::default();
    let path = folder.join(FACTS);
    match bounded::read(&path, MOST) {
        Ok(bytes) => {
            let facts = serde_json::from_slice(&bytes)
                .map_err(|error| unreadable(&path, std::io::Error::new(ErrorKind::InvalidData, error)))?;
            take_facts(&mut history, facts, until);
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(unreadable(&path, error)),
    }
    let mut unread = 0;
    each_line(&folder.join(METRICS_FILE), &mut unread, |row: Row| take_row(&mut history, row, until))?;
    each_line(&folder.join(SAMPLES_FILE), &mut unread, |sample: Sampled| {
        if sample.step <= until {
            history.on(&Event::Sampled(sample));
        }
    })?;
    if unread > 0 {
        history.note(history.steps_done(), format!("{unread} lines of the run's files could not be read"));
    }
    Ok(history)
}

/// As [`read`], for a run that goes on. A damaged `report.json` does not keep it from that: it is kept under another name, and the
/// report begins anew and says so.
pub fn take_up(folder: &Path, until: u64) -> Result<History> {
    let path = folder.join(FACTS);
    let why = match read(folder, until) {
        Err(Error::Io { path: at, source, .. }) if at == path && source.kind() == ErrorKind::InvalidData => source,
        other => return other,
    };
    let aside = folder.join(DAMAGED);
    std::fs::rename(&path, &aside).map_err(|e| Error::io("cannot rename", &path, e))?;
    let mut history = read(folder, until)?;
    history.note(
        until,
        format!("{FACTS} could not be read ({why}); it is kept as {DAMAGED}, and this report begins anew"),
    );
    Ok(history)
}

/// Hands each line of a JSON-lines file to `take` and counts those that are something else: the last line of a
/// run that was killed may be half there.
fn each_line<T: DeserializeOwned>(path: &Path, unread: &mut u64, mut take: impl FnMut(T)) -> Result<()> {
    let mut lines = match bounded::Lines::open(path, MOST) {
        Ok(lines) => lines,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(unreadable(path, error)),
    };
    let mut line = Vec::new();
    while lines.next_into(&mut line).map_err(|error| unreadable(path, error))? {
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        match serde_json::from_slice(&line) {
            Ok(value) => take(value),
            Err(_) => *unread += 1,
        }
    }
    Ok(())
}

fn take_facts(history: &mut History, facts: Facts, until: u64) {
    if let Some(run) = &facts.run {
        history.began(run);
    }
    for note in facts.notes.into_iter().filter(|note| note.step <= until) {
        history.note(note.step, note.text);
    }
    let mut ranges = facts.memory_range.into_iter();
    for (step, mean) in facts.memory {
        let (low, high) = ranges.next().unwrap_or((mean, mean));
        if step <= until {
            history.memory.push_stretch(Point { step, mean, low, high });
        }
    }
    // Where they were not noted the whole run is one.
    let whole = || {
        let run = facts.run.as_ref()?;
        let measured = facts.finished.as_ref().and_then(|end| end.measured_bytes);
        Some(Session { start: 0, measured, ..Session::of(run) })
    };
    history.sessions = facts.sessions.unwrap_or_else(|| whole().into_iter().collect());
    // One whose updates are all undone goes with them.
    history.sessions.retain(|session| session.start < until);
    history.finished = facts.finished.filter(|end| end.step <= until);
    history.failed = facts.failed.filter(|end| end.step <= until);
}

fn take_row(history: &mut History, row: Row, until: u64) {
    if row.step > until {
        return;
    }
    if let Some(loss) = row.train_loss {
        history.step(&Step {
            step: row.step,
            loss,
            lr: row.lr.unwrap_or(f64::NAN),
            grad_norm: row.grad_norm.unwrap_or(f64::NAN),
            tokens: row.tokens.unwrap_or(0),
            tokens_per_second: row.tokens_per_second.unwrap_or(f64::NAN),
            utilisation: row.utilisation.unwrap_or(f64::NAN),
            seconds: row.seconds.unwrap_or_default(),
            ..Step::default()
        });
    }
    if let Some(loss) = row.val_loss {
        history.on(&Event::Evaluated(Evaluated { step: row.step, loss, ..Evaluated::default() }));
    }
}

/// Writes `report.json`.
pub fn write_facts(folder: &Path, history: &History) -> Result<()> {
    let memory = history.memory.points();
    let facts = Facts {
        run: history.run.clone(),
        notes: history.notes.clone(),
        memory: memory.iter().map(|point| (point.step, point.mean)).collect(),
        memory_range: memory.iter().map(|point| (point.low, point.high)).collect(),
        sessions: Some(history.sessions.clone()),
        finished: history.finished.clone(),
        failed: history.failed.clone(),
    };
    let path = folder.join(FACTS);
    let json = serde_json::to_vec(&facts).map_err(|error| Error::io("cannot write", &path, error.into()))?;
    Ok(atomic::write(&path, &json)?)
}
