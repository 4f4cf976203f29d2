//! An observer that writes TensorBoard event files.
//!
//! Here: which numbers and texts go under which tag, and when the file is flushed. The bytes are made
//! by [`message`] (protocol buffers) and [`record`] (framing and checksums). Not here: reading
//! event files; nothing in Gently needs that.
//!
//! ```no_run
//! # fn main() -> gently_train::Result<()> {
//! use gently_train::watch::TensorBoard;
//! let observer = TensorBoard::new("runs/shakespeare".as_ref());
//! // give it to the trainer, then: tensorboard --logdir runs/shakespeare
//! # drop(observer); Ok(()) }
//! ```

pub mod message;
pub mod record;

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::events::{Event, RunStarted, Step};
use crate::{Error, Observer, Result};

/// How long numbers may stay in memory before they are written.
const FLUSH_EVERY: Duration = Duration::from_secs(1);

/// Writes `events.out.tfevents.*` into one folder.
///
/// Each run of the trainer opens a new file. It says which step comes first, so a reader drops the steps that an
/// interrupted run made after its last checkpoint, and one that is told once more because it was still pending.
pub struct TensorBoard {
    folder: PathBuf,
    output: Option<Output>,
}

struct Output {
    file: File,
    path: PathBuf,
    buffer: Vec<u8>,
    flushed: Instant,
}

impl TensorBoard {
    /// Will write into `folder`, which is made when the run starts.
    pub fn new(folder: &Path) -> Self {
        Self { folder: folder.to_path_buf(), output: None }
    }

    fn open(&mut self, run: &RunStarted) -> Result<()> {
        std::fs::create_dir_all(&self.folder).map_err(|source| Error::Io {
            action: "cannot create",
            path: self.folder.clone(),
            source,
        })?;
        // Readers order the files of a folder by name, so the name begins with the time.
        let seconds = now().floor() as u64;
        let process = std::process::id();
        let mut attempt = 0u32;
        let (file, path) = loop {
            let name = format!("events.out.tfevents.{seconds:010}.gently.{process}.{attempt}");
            let path = self.folder.join(name);
            match OpenOptions::new().write(true).create_new(true).open(&path) {
                Ok(file) => break (file, path),
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => attempt += 1,
                Err(source) => {
                    return Err(Error::Io { action: "cannot create", path, source });
                }
            }
        };
        let output = self.output.insert(Output { file, path, buffer: Vec::new(), flushed: Instant::now() });
        output.push(&message::version(now()));
        // The first step that comes now: what earlier files say of it and of later ones, this file says again.
        output.push(&message::session_start(now(), run.start_step + u64::from(!run.pending)));
        output.text(run.start_step, "configuration", &configuration(run));
        output.flush()
    }
}

impl Output {
    fn push(&mut self, message: &[u8]) {
        record::append(&mut self.buffer, message);
    }

    fn scalar(&mut self, step: u64, tag: &str, value: f64) {
        self.push(&message::scalar(now(), step, tag, value as f32));
    }

    fn text(&mut self, step: u64, tag: &str, markdown: &str) {
        self.push(&message::text(now(), step, tag, markdown));
    }

    fn step(&mut self, step: &Step) {
        self.scalar(step.step, "loss/train", step.loss);
        self.scalar(step.step, "optimizer/learning_rate", step.lr);
        self.scalar(step.step, "optimizer/gradient_norm", step.grad_norm);
        self.scalar(step.step, "speed/tokens_per_second", step.tokens_per_second);
        self.scalar(step.step, "speed/share_of_peak", step.utilisation);
    }

    fn flush(&mut self) -> Result<()> {
        let failed = |source| Error::Io { action: "cannot write", path: self.path.clone(), source };
        self.file.write_all(&self.buffer).map_err(failed)?;
        self.buffer.clear();
        self.flushed = Instant::now();
        Ok(())
    }
}

impl Observer for TensorBoard {
    fn on(&mut self, event: &Event) -> Result<()> {
        if let Event::RunStarted(run) = event {
            return self.open(run);
        }
        let Some(output) = &mut self.output else {
            return Ok(());
        };
        let urgent = match event {
            Event::Step(step) => {
                output.step(step);
                false
            }
            Event::Evaluated(evaluated) => {
                output.scalar(evaluated.step, "loss/validation", evaluated.loss);
                true
            }
            Event::Sampled(sample) => {
                let tag = format!("samples/{}", tag_of(&sample.prompt));
                let body = fenced(&format!("{}{}", sample.prompt, sample.text));
                output.text(sample.step, &tag, &body);
                true
            }
            Event::SpikeSkipped(spike) => {
                output.scalar(spike.step, "health/spike_z_score", spike.loss_z);
                true
            }
            Event::Warning { step, message } => {
                output.text(*step, "health/warning", message);
                true
            }
            Event::Finished(_) => true,
            _ => false,
        };
        if urgent || output.flushed.elapsed() >= FLUSH_EVERY {
            output.flush()?;
        }
        Ok(())
    }
}

impl Drop for TensorBoard {
    fn drop(&mut self) {
        if let Some(output) = &mut self.output {
            // A run that failed is exactly the one whose last numbers matter; there is nobody left to
            // tell if this write fails too.
            let _ = output.flush();
        }
    }
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

/// A short tag for a prompt: its first letters and digits, since TensorBoard groups by tag.
fn tag_of(prompt: &str) -> String {
    let words: Vec<&str> =
        prompt.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).take(4).collect();
    if words.is_empty() {
        return "no_prompt".into();
    }
    let tag: String = words.join("_").chars().take(32).collect();
    tag
}

/// `text` as a Markdown code block, indented so that no fence inside it can end the block.
fn fenced(text: &str) -> String {
    let lines: Vec<String> = text.lines().map(|line| format!("    {line}")).collect();
    lines.join("\n")
}

fn configuration(run: &RunStarted) -> String {
    let mut out = format!(
        "**{}**: {} parameters, {}\n\n| key | value | from |\n|---|---|---|\n",
        run.name, run.model.parameters, run.model.description
    );
    for line in &run.config {
        let value = match line.value.as_str() {
            "" => "unset".into(),
            value => value.replace('|', "\\|").replace('\n', " "),
        };
        out.push_str(&format!("| {} | `{value}` | {} |\n", line.key, line.source));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::message::tests::{Field, fields, sub};
    use super::*;
    use crate::watch::rehearsal;

    fn frames(path: &Path) -> Vec<Vec<(u64, Field)>> {
        let bytes = std::fs::read(path).unwrap();
        record::split(&bytes).unwrap().into_iter().map(fields).collect()
    }

    fn tags(frames: &[Vec<(u64, Field)>]) -> Vec<String> {
        frames
            .iter()
            .filter(|event| event.iter().any(|(number, _)| *number == 5))
            .map(|event| {
                let value = sub(&sub(event, 5), 1);
                match &value[0].1 {
                    Field::Bytes(tag) => String::from_utf8(tag.clone()).unwrap(),
                    other => panic!("{other:?}"),
                }
            })
            .collect()
    }

    fn files(folder: &Path) -> Vec<PathBuf> {
        let mut files: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        files
    }

    #[test]
    fn a_run_becomes_valid_frames_with_its_numbers() {
        let folder = tempfile::tempdir().unwrap();
        let mut observer = TensorBoard::new(folder.path());
        for event in rehearsal::events(40) {
            observer.on(&event).unwrap();
        }
        let files = files(folder.path());
        assert_eq!(files.len(), 1);
        let frames = frames(&files[0]);
        assert_eq!(frames[0][2], (3, Field::Bytes(b"brain.Event:2".to_vec())), "the first frame names the version");
        let tags = tags(&frames);
        let count = |tag: &str| tags.iter().filter(|t| *t == tag).count();
        assert_eq!(count("loss/train"), 40);
        assert_eq!(count("speed/tokens_per_second"), 40);
        assert!(count("loss/validation") >= 2);
        assert!(tags.iter().any(|tag| tag.starts_with("samples/")));
        assert_eq!(count("configuration"), 1);
    }

    #[test]
    fn a_resumed_run_opens_a_second_file_that_names_its_step() {
        let folder = tempfile::tempdir().unwrap();
        let mut run = rehearsal::started(100);
        TensorBoard::new(folder.path()).on(&Event::RunStarted(Box::new(run.clone()))).unwrap();
        (run.start_step, run.pending) = (60, false);
        TensorBoard::new(folder.path()).on(&Event::RunStarted(Box::new(run))).unwrap();
        let files = files(folder.path());
        assert_eq!(files.len(), 2);
        let second = frames(&files[1]);
        assert_eq!(second[1][1], (2, Field::Varint(61)));
        assert_eq!(sub(&second[1], 7), vec![(1, Field::Varint(1))]);
    }

    /// Steps at which a reader of the whole folder shows `tag`: the start of a session takes away what earlier files say of its
    /// step and later ones.
    fn shown(folder: &Path, tag: &str) -> Vec<u64> {
        let mut steps: Vec<u64> = Vec::new();
        for file in files(folder) {
            for event in frames(&file) {
                let Field::Varint(step) = event[1].1 else { panic!("{event:?}") };
                if event.iter().any(|(number, _)| *number == 7) {
                    steps.retain(|&shown| shown < step);
                } else if tags(std::slice::from_ref(&event)) == [tag] {
                    steps.push(step);
                }
            }
        }
        steps
    }

    #[test]
    fn a_step_that_is_told_once_more_is_shown_once() {
        let folder = tempfile::tempdir().unwrap();
        let process = |start_step: u64, pending: bool, steps: std::ops::RangeInclusive<u64>| {
            let mut observer = TensorBoard::new(folder.path());
            let run = RunStarted { start_step, pending, ..rehearsal::started(9) };
            observer.on(&Event::RunStarted(Box::new(run))).unwrap();
            for step in steps {
                observer.on(&Event::Step(rehearsal::step(step, 9))).unwrap();
            }
        };
        // Killed before the first checkpoint; stopped in an evaluation; stopped between two steps; killed; and not.
        process(0, true, 1..=2);
        process(0, true, 1..=3);
        process(3, true, 3..=4);
        process(4, false, 5..=7);
        process(4, false, 5..=9);
        assert_eq!(shown(folder.path(), "loss/train"), [1, 2, 3, 4, 5, 6, 7, 8, 9]);
    }

    #[test]
    fn tags_are_short_and_plain() {
        assert_eq!(tag_of("O Romeo, Romeo! wherefore art"), "O_Romeo_Romeo_wherefore");
        assert_eq!(tag_of("\n"), "no_prompt");
        assert!(tag_of(&"x".repeat(500)).len() <= 32);
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_an_error_with_its_name() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut observer = TensorBoard::new(&file.path().join("tb"));
        let event = Event::RunStarted(Box::new(rehearsal::started(1)));
        let error = observer.on(&event).unwrap_err();
        assert!(error.to_string().contains("tb"), "{error}");
    }
}
