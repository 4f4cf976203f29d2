//! The progress bar on standard error, or plain lines where there is no terminal.
//!
//! Here: what a person sees of a run without asking for more. Not here: the full-screen dashboard
//! ([`super::Dashboard`]) or anything on standard output, which belongs to data.
//!
//! ```
//! use gently_train::{Observer, watch::Progress};
//! let mut lines = Vec::new();
//! let mut progress = Progress::lines(Box::new(std::io::sink()));
//! lines.push(&mut progress as &mut dyn Observer);
//! ```

use std::collections::VecDeque;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::series::Series;
use super::{BytesBar, format, summary};
use crate::events::{Event, Finished, RunStarted, Sampled, Step};
use crate::{Observer, Result};

/// The shown loss is the mean of this many steps: single batches jump too much to read.
const RECENT: usize = 20;
/// Characters of the loss curve in the bar.
const CURVE: usize = 16;
/// Points kept for that curve.
const CURVE_POINTS: usize = 8 * CURVE;
/// Time between plain lines.
const LINE_EVERY: Duration = Duration::from_secs(10);
/// Lines of one sample that are shown.
const SAMPLE_LINES: usize = 8;

/// Shows a run on standard error.
pub struct Progress {
    output: Output,
    samples: bool,
    line_every: Duration,
    last_line: Option<Instant>,
    total: u64,
    recent: VecDeque<f64>,
    curve: Series,
    val: Option<f64>,
    /// Shown while the data is prepared.
    preparation: Option<BytesBar>,
}

enum Output {
    Bar(ProgressBar),
    Lines(Box<dyn Write + Send>),
}

impl Progress {
    /// A bar when standard error is a terminal that can draw one, plain lines every ten seconds otherwise (`TERM=dumb`).
    /// `NO_COLOR` turns colours off.
    pub fn stderr() -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        // A hidden bar swallows the lines that are printed above it, too.
        if bar.is_hidden() || !draws(std::io::stderr().is_terminal(), std::env::var("TERM").ok().as_deref()) {
            return Self::lines(Box::new(std::io::stderr()));
        }
        bar.set_style(style(crate::terminal::wants_colours()));
        Self::new(Output::Bar(bar))
    }

    /// Plain lines into `output`.
    pub fn lines(output: Box<dyn Write + Send>) -> Self {
        Self::new(Output::Lines(output))
    }

    fn new(output: Output) -> Self {
        Self {
            output,
            samples: true,
            line_every: LINE_EVERY,
            last_line: None,
            total: 0,
            recent: VecDeque::new(),
            curve: Series::new(CURVE_POINTS),
            val: None,
            preparation: None,
        }
    }

    /// Whether texts the model writes are shown (they are by default).
    #[must_use]
    pub fn samples(mut self, shown: bool) -> Self {
        self.samples = shown;
        self
    }

    /// Time between plain lines; evaluations have a line of their own at once.
    #[must_use]
    pub fn line_every(mut self, every: Duration) -> Self {
        self.line_every = every;
        self
    }

    /// Writes a whole line (or several) above the bar.
    fn say(&mut self, text: &str) {
        match &mut self.output {
            Output::Bar(bar) => bar.println(text),
            // Nobody reads a closed pipe; the run must not end for it.
            Output::Lines(output) => {
                let _ = writeln!(output, "{text}");
            }
        }
    }

    fn started(&mut self, run: &RunStarted) {
        self.total = run.total_steps;
        for line in summary::header(run) {
            self.say(&line);
        }
        if let Output::Bar(bar) = &self.output {
            bar.set_length(run.total_steps);
            bar.set_position(run.start_step);
            bar.set_prefix("–");
            bar.set_message("first step…");
            bar.tick();
        }
    }

    fn step(&mut self, step: &Step) {
        if step.loss.is_finite() {
            if self.recent.len() == RECENT {
                self.recent.pop_front();
            }
            self.recent.push_back(step.loss);
            self.curve.push(step.step, step.loss);
        }
        match &self.output {
            Output::Bar(bar) => {
                bar.set_position(step.step);
                bar.set_prefix(format::duration(step.eta));
                bar.set_message(self.numbers(step, true));
            }
            Output::Lines(_) => {
                let due = self.last_line.is_none_or(|last| last.elapsed() >= self.line_every);
                if due {
                    self.last_line = Some(Instant::now());
                    let line = format!(
                        "step {}/{}  {}  ETA {}",
                        step.step,
                        self.total,
                        self.numbers(step, false),
                        format::duration(step.eta)
                    );
                    self.say(&line);
                }
            }
        }
    }

    fn numbers(&self, step: &Step, curve: bool) -> String {
        let mean = self.recent.iter().sum::<f64>() / self.recent.len().max(1) as f64;
        let mut text = format!("loss {}", format::loss(mean));
        if let Some(val) = self.val {
            text.push_str(&format!("  val {}", format::loss(val)));
        }
        if curve {
            let means: Vec<f64> = self.curve.means().map(|(_, mean)| mean).collect();
            let curve = format::sparkline(&means, CURVE);
            text.push_str(&format!("  {curve}"));
        }
        text.push_str(&format!("  {} tok/s", format::count(step.tokens_per_second.round())));
        if step.utilisation > 0.0 {
            text.push_str(&format!("  {} of peak", format::percent(step.utilisation)));
        }
        text
    }

    fn sample(&mut self, sample: &Sampled) {
        let text = format::printable(&format!("{}{}", sample.prompt, sample.text));
        self.say(&format!("step {} writes:", sample.step));
        let mut lines = text.lines().skip_while(|line| line.trim().is_empty());
        for line in lines.by_ref().take(SAMPLE_LINES) {
            self.say(&format!("  │ {line}"));
        }
        if lines.next().is_some() {
            self.say("  │ …");
        }
    }

    fn finished(&mut self, end: &Finished) {
        if let Output::Bar(bar) = &self.output {
            bar.finish_and_clear();
        }
        for line in summary::farewell(end) {
            self.say(&line);
        }
    }
}

impl Observer for Progress {
    fn on(&mut self, event: &Event) -> Result<()> {
        match event {
            // Plain lines are for what matters later; a bar is for who waits.
            Event::Preparing(now) if matches!(self.output, Output::Bar(_)) => {
                self.preparation.get_or_insert_with(BytesBar::stderr).show(&now.stage, now.done, now.total);
            }
            Event::RunStarted(run) => {
                self.preparation = None;
                self.started(run);
            }
            Event::Step(step) => self.step(step),
            Event::Evaluated(evaluated) => {
                self.val = Some(evaluated.loss);
                let best = if evaluated.best { ", the best so far" } else { "" };
                self.say(&format!(
                    "step {}: validation loss {}{best}",
                    evaluated.step,
                    format::loss(evaluated.loss)
                ));
            }
            Event::Sampled(sample) if self.samples => self.sample(sample),
            Event::SpikeSkipped(spike) => self.say(&format!(
                "step {}: update left out, loss {} is {:.1} and the gradient norm {:.1} standard deviations above the recent mean",
                spike.step,
                format::loss(spike.loss),
                spike.loss_z,
                spike.grad_norm_z
            )),
            Event::Warning { step, message } => self.say(&format!("warning: step {step}: {message}")),
            Event::Profiled(profiled) => {
                for text in summary::profile(profiled) {
                    self.say(&text);
                }
            }
            Event::Finished(end) => self.finished(end),
            _ => {}
        }
        Ok(())
    }
}

/// Whether a bar can be drawn: on a terminal, unless its kind (`TERM`) is one that cannot move back.
fn draws(terminal: bool, kind: Option<&str>) -> bool {
    terminal && kind != Some("dumb")
}

fn style(colour: bool) -> ProgressStyle {
    let template = if colour {
        "{wide_bar:.green/dim} {percent:>3} %  step {pos}/{len}  ETA {prefix}\n{msg}"
    } else {
        "{wide_bar} {percent:>3} %  step {pos}/{len}  ETA {prefix}\n{msg}"
    };
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("━╸─")
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::watch::rehearsal;

    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn watched(progress: impl FnOnce(Progress) -> Progress) -> String {
        let shared = Shared::default();
        let mut progress = progress(Progress::lines(Box::new(shared.clone())));
        for event in rehearsal::events(40) {
            progress.on(&event).unwrap();
        }
        let bytes = shared.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn plain_lines_tell_the_whole_story_without_control_characters() {
        let text = watched(|progress| progress.line_every(Duration::ZERO));
        assert!(text.contains("model    gpt2: 4 layers, 4 heads, width 128, vocabulary 65; 809k parameters"));
        assert!(text.contains("memory   42.3 MiB planned: parameters 3.09 MiB"), "{text}");
        assert!(text.contains("234 GFLOP/s measured peak (f32)"), "{text}");
        let line = text.lines().find(|l| l.starts_with("step 7/40")).unwrap();
        for part in ["loss ", "val ", "tok/s", "% of peak", "ETA "] {
            assert!(line.contains(part), "{part} missing in {line}");
        }
        assert!(text.contains("step 40: validation loss 1.8"));
        assert!(text.contains("step 20: update left out, loss 9.1"));
        assert!(text.contains("warning: step 40: "));
        assert!(text.contains("finished at step 40"));
        assert!(text.contains("peak memory 43.8 MiB of 42.3 MiB planned"));
        assert!(!text.contains('\u{1b}'), "a sample's escape came through");
    }

    #[test]
    fn plain_lines_are_rare_by_default() {
        let text = watched(|progress| progress.line_every(Duration::from_secs(3600)));
        let lines = text.lines().filter(|l| l.contains("tok/s")).count();
        assert_eq!(lines, 1);
    }

    #[test]
    fn terminals_that_cannot_draw_get_lines() {
        assert!(draws(true, Some("xterm-256color")) && draws(true, None));
        assert!(!draws(true, Some("dumb")) && !draws(false, Some("xterm")));
    }

    #[test]
    fn samples_can_be_left_out() {
        assert!(watched(|progress| progress).contains("  │ ROMEO:"));
        assert!(!watched(|progress| progress.samples(false)).contains("  │ "));
    }

    #[test]
    fn the_bar_carries_the_numbers_and_a_falling_curve() {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
        bar.set_style(style(true));
        let mut progress = Progress::new(Output::Bar(bar.clone()));
        for event in rehearsal::events(400) {
            if matches!(event, Event::Finished(_)) {
                break;
            }
            progress.on(&event).unwrap();
        }
        assert_eq!(bar.position(), 400);
        assert_eq!(bar.length(), Some(400));
        let message = bar.message();
        assert!(message.starts_with("loss 1.7"), "{message}");
        assert!(message.contains("val 1.8"), "{message}");
        assert!(message.contains('█') && message.contains('▁'), "{message}");
        assert!(progress.curve.points().len() < CURVE_POINTS);
        bar.finish_and_clear();
    }
}
