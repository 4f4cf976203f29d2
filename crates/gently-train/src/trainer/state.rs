//! What a checkpoint says about the run beside its tensors.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::events::{Split, Step};
use crate::recipe::Spike;
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
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owed: Option<Line>,
    /// [`gently_text::Tokenizer::hash`], as hexadecimal digits.
    pub tokenizer: String,
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
            owed: None,
            tokenizer,
        }
    }

    /// Takes note of a validation loss; true if it is the lowest so far.
    pub fn note_val(&mut self, loss: f64) -> bool {
        self.val_loss = Some(loss);
        let best = self.best.is_none_or(|best| loss < best.loss);
        if best {
            self.best = Some(Best { step: self.step, loss });
        }
        best
    }
}
