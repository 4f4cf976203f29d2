//! What a checkpoint says about the run beside its tensors.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::recipe::Spike;
use crate::spike::Window;

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
