//! What a checkpoint says about the run beside its tensors.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::events::{SpikeSkipped, Split, Step};
use crate::recipe::{MOST_STEPS, Spike};
use crate::spike::Window;

/// One line of `metrics.jsonl`. What is measured by a clock stands in `tokens_per_second`, `utilisation` and `seconds`;
/// everything else is the same in every run of the same recipe.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Line {
    pub step: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub train_loss: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub val_loss: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lr: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grad_norm: Option<f64>,
    pub tokens: u64,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub skipped: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens_per_second: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub utilisation: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seconds: Option<Split>,
}

impl From<&Step> for Line {
    fn from(step: &Step) -> Self {
        Self {
            step: step.step,
            train_loss: Some(step.loss),
            val_loss: None,
            lr: Some(step.lr),
            grad_norm: Some(step.grad_norm),
            tokens: step.tokens,
            skipped: step.skipped,
            tokens_per_second: Some(step.tokens_per_second),
            utilisation: Some(step.utilisation),
            seconds: Some(step.seconds),
        }
    }
}

impl Line {
    /// The update that the line is of, if it is of one; `step_tokens` is what each takes.
    pub fn as_step(&self, step_tokens: u64) -> Option<Step> {
        Some(Step {
            step: self.step,
            loss: self.train_loss?,
            lr: self.lr.unwrap_or_default(),
            grad_norm: self.grad_norm.unwrap_or_default(),
            tokens: self.tokens,
            step_tokens,
            skipped: self.skipped,
            seconds: self.seconds.unwrap_or_default(),
            tokens_per_second: self.tokens_per_second.unwrap_or_default(),
            utilisation: self.utilisation.unwrap_or_default(),
            // The speed was that of another process.
            eta: -1.0,
        })
    }
}

/// The lowest validation loss so far.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(super) struct Best {
    pub step: u64,
    pub loss: f64,
}

/// The numbers of a run that change with each step. The schedule and all random numbers are functions of the seed and
/// the step, so they need no place here.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct State {
    /// Steps completed, skipped ones included.
    pub step: u64,
    /// Updates that the optimizer made.
    pub updates: u64,
    /// Tokens seen.
    pub tokens: u64,
    /// Place in the training data.
    pub position: Value,
    pub losses: Window,
    pub norms: Window,
    pub best: Option<Best>,
    pub train_loss: Option<f64>,
    pub val_loss: Option<f64>,
    /// The present step's line, while its evaluation and its samples are not done: a stop does not wait for them, and a run that
    /// goes on begins with them.
    #[serde(default, alias = "owed", skip_serializing_if = "Option::is_none")]
    pub pending: Option<Line>,
    /// What was told of the spike that the present step is, while the step is pending.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spike: Option<SpikeSkipped>,
    /// [`gently_text::Tokenizer::hash`], as hexadecimal digits.
    pub tokenizer: String,
    /// [`crate::data::EvalSet::identity`] of what `best` was measured on, as hexadecimal digits; states that were saved before
    /// it was noted have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation: Option<String>,
}

impl State {
    pub fn new(position: Value, spike: &Spike, tokenizer: String) -> Self {
        Self {
            step: 0,
            updates: 0,
            tokens: 0,
            position,
            losses: Window::new(spike.window),
            norms: Window::new(spike.window),
            best: None,
            train_loss: None,
            val_loss: None,
            pending: None,
            spike: None,
            tokenizer,
            validation: None,
        }
    }

    /// Takes note of a validation loss; true if it is the lowest so far, which no number that is none can be.
    pub fn note_val(&mut self, loss: f64) -> bool {
        self.val_loss = Some(loss);
        let best = loss.is_finite() && self.best.is_none_or(|best| loss < best.loss);
        if best {
            self.best = Some(Best { step: self.step, loss });
        }
        best
    }

    /// Notes what losses are measured on from now on; `None` where there is nothing. Losses on different texts cannot be compared:
    /// if the lowest so far was measured on something else it is forgotten, and a sentence says so.
    pub fn measure_on(&mut self, validation: Option<String>) -> Option<String> {
        let now = validation?;
        let differs = self.validation.as_ref().is_some_and(|was| *was != now);
        self.validation = Some(now);
        let Best { step, loss } = self.best.take_if(|_| differs)?;
        Some(format!(
            "the validation batches are not those of before: the lowest loss, {loss:.4} at step {step}, counts no more"
        ))
    }

    /// Bounds the numbers of a state that was read from the checkpoint of `step`.
    ///
    /// # Errors
    /// What no run can have saved, in words.
    pub fn check(&self, step: u64) -> Result<(), String> {
        if self.step != step {
            return Err(format!("its state is of step {}, the checkpoint of step {step}", self.step));
        }
        if step > MOST_STEPS {
            return Err(format!("step {step} is more than a run can have"));
        }
        if self.updates > step {
            return Err(format!("{} updates cannot have been made in {step} steps", self.updates));
        }
        if self.tokens > MOST_TOKENS {
            return Err(format!("{} tokens are more than a run can see", self.tokens));
        }
        if let Some(best) = self.best.filter(|best| best.step > step) {
            return Err(format!("the best loss is of step {}, after step {step}", best.step));
        }
        if let Some(spike) = self.spike.filter(|spike| spike.step != step) {
            return Err(format!("a spike that is pending is of step {}, not of step {step}", spike.step));
        }
        match self.pending.as_ref().filter(|line| line.step != step) {
            Some(line) => Err(format!("what is pending is of step {}, not of step {step}", line.step)),
            None => Ok(()),
        }
    }
}

/// Leaves room for every sum that is made of it.
const MOST_TOKENS: u64 = 1 << 62;

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> State {
        State { step: 8, updates: 7, tokens: 256, ..State::new(Value::Null, &Spike::default(), "0".into()) }
    }

    #[test]
    fn a_loss_that_is_no_number_is_never_the_best() {
        let mut state = state();
        for loss in [f64::NAN, f64::INFINITY] {
            assert!(!state.note_val(loss));
            assert_eq!(state.best, None);
        }
        assert!(state.note_val(3.0) && !state.note_val(f64::NAN));
        assert_eq!(state.best, Some(Best { step: 8, loss: 3.0 }));
        let text = serde_json::to_string(&state).unwrap();
        let again: State = serde_json::from_str(&text).unwrap();
        assert_eq!((again.best, again.val_loss), (state.best, None));
    }

    #[test]
    fn a_loss_on_other_texts_is_not_compared() {
        let on = |text: &str| Some(text.to_owned());
        let mut state = state();
        assert_eq!(state.measure_on(on("a")), None, "of old states nothing is known");
        state.note_val(3.0);
        let best = state.best;
        assert_eq!((state.measure_on(on("a")), state.best), (None, best));
        assert_eq!((state.measure_on(None), state.best), (None, best));
        let message = state.measure_on(on("b")).unwrap();
        assert!(message.contains("3.0000 at step 8"), "{message}");
        assert_eq!((state.best, state.validation.as_deref()), (None, Some("b")));
        assert_eq!(state.measure_on(on("a")), None, "there is nothing to forget");
        assert!(state.note_val(4.0));
    }

    #[test]
    fn numbers_that_no_run_has_are_refused() {
        state().check(8).unwrap();
        let bad = |change: fn(&mut State), word: &str| {
            let mut state = state();
            change(&mut state);
            let why = state.check(8).unwrap_err();
            assert!(why.contains(word), "{why}");
        };
        bad(|s| s.step = 9, "step 9");
        bad(|s| s.updates = u64::MAX, "updates");
        bad(|s| s.tokens = u64::MAX, "tokens");
        bad(|s| s.best = Some(Best { step: 9, loss: 1.0 }), "best");
        bad(|s| s.pending = Some(Line { step: 3, ..Line::default() }), "pending");
        bad(|s| s.spike = Some(SpikeSkipped { step: 3, ..SpikeSkipped::default() }), "spike");
        assert!(State { step: u64::MAX, ..state() }.check(u64::MAX).is_err());
    }
}
