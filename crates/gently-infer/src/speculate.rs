//! Guessing the next tokens, so that one pass verifies several.
//!
//! Here: [`Lookup`], which guesses that what followed the last words before will follow them again; a smaller model that
//! guesses; and the gate that stops guessing where it does not pay. Not here: verification, which is a shape of the plan's pass (see
//! [`crate::Scheduler`]). A guess never changes the text: each token is chosen from the model's own logits by the same
//! draw, and the guess only decides how many of these logits one pass computes. One exception is damage: a guessed token whose
//! values are not finite may make NaN of the real row beside it (see [`gently_kernels::kv`]), and the text then ends with an error.
//!
//! ```
//! let lookup = gently_infer::Lookup::default();
//! assert_eq!(lookup.propose(&[7, 8, 9, 1, 2, 7, 8]), [9, 1, 2, 7, 8]);
//! ```

use crate::error::{Error, Result};
use crate::plan::{Piece, Plan, Wanted};
use crate::state::State;
use crate::work::Work;
use gently_models::sampling::logprobs;
use std::sync::Arc;
use std::time::Instant;

/// Guesses from the text itself (prompt lookup; Saxena 2023): the longest recent run of tokens that occurred before is
/// continued as it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lookup {
    /// Most tokens compared.
    pub longest: usize,
    /// Fewest tokens that must agree.
    pub shortest: usize,
    /// Most tokens guessed.
    pub draft: usize,
}

impl Default for Lookup {
    fn default() -> Self {
        Self { longest: 4, shortest: 2, draft: 7 }
    }
}

/// How far back is searched: a bound on the time of a guess.
const REACH: usize = 16 * 1024;

impl Lookup {
    /// What may follow `tokens`; empty where nothing occurred before.
    pub fn propose<'t>(&self, tokens: &'t [u32]) -> &'t [u32] {
        let recent = &tokens[tokens.len().saturating_sub(REACH)..];
        // What occurred before is shorter than all of it.
        let longest = self.longest.min(recent.len().saturating_sub(1));
        for n in (self.shortest.max(1)..=longest).rev() {
            let rest = recent.len() - n;
            let end = &recent[rest..];
            // The latest occurrence: habits change.
            if let Some(at) = (0..rest).rev().find(|&i| recent[i..i + n] == *end) {
                let from = at + n;
                return &recent[from..recent.len().min(from.saturating_add(self.draft))];
            }
        }
        &[]
    }
}

/// A smaller model that guesses (Leviathan et al. 2023; here a guess is kept where it is what would have been drawn).
pub(crate) struct Draft {
    plan: Arc<Plan>,
    work: Work,
    most: usize,
}

impl Draft {
    pub fn new(model: &Plan, plan: Arc<Plan>, most: usize) -> Result<Self> {
        let (theirs, ours) = (plan.config().vocab, model.config().vocab);
        if theirs != ours || most == 0 {
            let what = format!("a draft of {most} tokens by a model of {theirs} tokens, for one of {ours}");
            return Err(Error::Request { what });
        }
        Ok(Self { plan, work: Work::new(), most })
    }

    /// The model that guesses.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Nothing read.
    pub fn state(&self) -> State {
        self.plan.state()
    }

    /// What may follow `tokens`, at most `most` of them, and the seconds that it took; none while more than `chunk` tokens are
    /// unread, of which one such piece is read then. What is read is taken from `chunk`, which texts of one pass share. `state`
    /// is that of the last guess for the same text. `going` is asked before each layer; when it says no, there is no further
    /// guess.
    pub fn propose(
        &mut self,
        state: &mut State,
        tokens: &[u32],
        most: usize,
        chunk: &mut usize,
        going: &dyn Fn() -> bool,
    ) -> (Vec<u32>, f64) {
        let room = self.plan.most().saturating_sub(tokens.len());
        let most = most.min(self.most).min(room);
        let mut guess = Vec::new();
        if most == 0 {
            return (guess, 0.0);
        }
        let mut begun = Instant::now();
        // The last token is read again if it was the last one: its logits are needed.
        state.keep_common(&tokens[..tokens.len().saturating_sub(1)]);
        let mut next = tokens[state.len()..].to_vec();
        // A guess that was right leaves as many unread: with a smaller chunk it would never catch up.
        let longest = (*chunk).max(self.most.saturating_add(2));
        *chunk = chunk.saturating_sub(next.len());
        if next.len() > longest {
            // The text goes on meanwhile: nobody waits for all of a prompt to be read. What cannot be read is not guessed from.
            let piece = Piece { state, tokens: &next[..longest], wanted: Wanted::None };
            let _ = self.plan.forward(&mut self.work, &mut [piece], going);
            return (guess, 0.0);
        }
        while guess.len() < most {
            // A prompt, and what was written while nobody guessed, is read once: that says nothing of the next guesses.
            let late = next.len() > self.most.saturating_add(1);
            // A model that cannot read these tokens guesses nothing.
            let piece = Piece { state: &mut *state, tokens: &next, wanted: Wanted::Last };
            let Ok(Some(logits)) = self.plan.forward(&mut self.work, &mut [piece], going) else { break };
            let id = logprobs(logits, 0, 1).1[0].0;
            guess.push(id);
            next = vec![id];
            if late {
                begun = Instant::now();
            }
        }
        let seconds = if guess.is_empty() { 0.0 } else { begun.elapsed().as_secs_f64() };
        (guess, seconds)
    }
}

/// Seconds of passes by their number of rows.
#[derive(Debug, Clone, Default)]
pub(crate) struct Times(Vec<f64>);

impl Times {
    const MOST: usize = 256;

    /// Notes a pass.
    pub fn learn(&mut self, rows: usize, seconds: f64) {
        if rows == 0 || rows >= Self::MOST {
            return;
        }
        if self.0.len() <= rows {
            self.0.resize(rows + 1, 0.0);
        }
        let known = &mut self.0[rows];
        *known = if *known == 0.0 { seconds } else { 0.8 * *known + 0.2 * seconds };
    }

    /// Expected seconds, if a pass of that size was seen.
    fn of(&self, rows: usize) -> Option<f64> {
        self.0.get(rows).copied().filter(|t| *t > 0.0)
    }
}

/// Whether guessing pays for one sequence, by what was accepted lately.
#[derive(Debug, Clone, Default)]
pub(crate) struct Gate {
    /// Tokens accepted for each guess, averaged; `None` before the first.
    accepted: Option<f64>,
    /// Tokens to be written before the next try.
    wait: usize,
    /// How often it did not pay in a row.
    failures: u32,
}

impl Gate {
    /// Whether to guess now.
    pub fn open(&mut self) -> bool {
        if self.wait > 0 {
            self.wait -= 1;
            return false;
        }
        true
    }

    /// Notes that `accepted` of a guess of `guessed` tokens were right, in a pass of `rows` rows. To guess took `seconds`: of a
    /// guess that was thrown away, and has no rows in the pass, that is all it cost.
    pub fn learn(&mut self, accepted: usize, (guessed, seconds): (usize, f64), rows: usize, times: &Times) {
        let now = accepted as f64;
        let mean = self.accepted.map_or(now, |mean| 0.75 * mean + 0.25 * now);
        self.accepted = Some(mean);
        // The guess and a pass with it must cost less than the passes that it saves.
        let with = times.of(rows);
        let without = times.of(rows.saturating_sub(guessed)).or(with.map(|with| with / 1.25));
        let cost = match (with, without) {
            (Some(with), Some(without)) => (with + seconds) / without,
            _ => 1.25,
        };
        // With nothing to verify the pass costs what it would without: that alone does not pay.
        if (guessed > 0 || mean > 0.0) && 1.0 + mean >= cost {
            self.failures = 0;
        } else {
            self.wait = 8 << self.failures.min(6);
            self.failures += 1;
            // The next try is judged by itself.
            self.accepted = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[test]
    fn the_longest_and_latest_run_is_continued() {
        let lookup = Lookup { longest: 3, shortest: 1, draft: 2 };
        assert_eq!(lookup.propose(&[1, 2, 3, 9, 3, 8, 1, 2, 3]), [9, 3], "three agree");
        assert_eq!(lookup.propose(&[5, 1, 5, 2, 5]), [2, 5], "the latest");
        assert_eq!(lookup.propose(&[1, 2, 3]), [0u32; 0]);
        assert_eq!(lookup.propose(&[]), [0u32; 0]);
        assert_eq!(lookup.propose(&[4, 4]), [4]);
        let boundless = Lookup { longest: usize::MAX, shortest: 1, draft: usize::MAX };
        assert_eq!(boundless.propose(&[1, 2, 3, 1, 2]), [3, 1, 2]);
        assert_eq!(boundless.propose(&[1, 2, 3]), [0u32; 0]);
        assert_eq!(boundless.propose(&[]), [0u32; 0]);
    }

    #[test]
    fn guessing_stops_where_it_does_not_pay() {
        let mut times = Times::default();
        times.learn(1, 1.0);
        times.learn(8, 2.0);
        let mut gate = Gate::default();
        for _ in 0..10 {
            assert!(gate.open());
            gate.learn(3, (7, 0.0), 8, &times);
        }
        while gate.open() {
            gate.learn(0, (7, 0.0), 8, &times);
        }
        let closed = (0..).take_while(|_| !gate.open()).count();
        assert!(closed >= 7, "{closed}");
    }

    #[test]
    fn guesses_that_are_thrown_away_do_not_pay() {
        for seconds in [1e-3, 0.0, f64::MIN_POSITIVE] {
            let mut times = Times::default();
            // With no pass known, and with one.
            for _ in 0..2 {
                let mut gate = Gate::default();
                gate.learn(0, (0, seconds), 1, &times);
                assert!(!gate.open(), "{seconds}");
                times.learn(1, 1.0);
            }
        }
    }

    #[test]
    fn a_model_that_guesses_reads_a_long_text_in_pieces() {
        let plan = testing::plan();
        let mut draft = Draft::new(&plan, plan.clone(), 3).unwrap();
        let tokens: Vec<u32> = (0..50).map(|i| i % 11).collect();
        let mut state = draft.state();
        for read in [20, 40] {
            assert_eq!(draft.propose(&mut state, &tokens, 3, &mut 20, &|| true), (vec![], 0.0));
            assert_eq!(state.tokens(), &tokens[..read]);
        }
        let (guess, _) = draft.propose(&mut state, &tokens, 3, &mut 20, &|| true);
        let mut whole = draft.state();
        assert_eq!(guess.len(), 3);
        assert_eq!(guess, draft.propose(&mut whole, &tokens, 3, &mut 1000, &|| true).0);
        // Called off: nothing guessed, nothing read.
        let mut none = draft.state();
        assert_eq!(draft.propose(&mut none, &tokens, 3, &mut 1000, &|| false), (vec![], 0.0));
        assert!(none.is_empty());
        // A chunk of one token would never catch up with a text that grows by one; five are read.
        let (mut slow, mut at) = (draft.state(), 12);
        while draft.propose(&mut slow, &tokens[..at], 3, &mut 1, &|| true).0.is_empty() {
            at += 1;
        }
        assert_eq!(at, 14);
        // Two texts of a pass share what it reads: the second gets the little that is always read.
        let (mut one, mut two, mut left) = (draft.state(), draft.state(), 30);
        for state in [&mut one, &mut two] {
            draft.propose(state, &tokens, 3, &mut left, &|| true);
        }
        assert_eq!((one.tokens(), two.tokens(), left), (&tokens[..30], &tokens[..5], 0));
    }

    #[test]
    fn a_model_that_guesses_right_but_slowly_does_not_pay() {
        let mut times = Times::default();
        times.learn(8, 2.0);
        // 8 tokens for a pass of 2 and the guess; a pass of one row has not been seen, and is taken for 1.6.
        let mut gate = Gate::default();
        gate.learn(7, (7, 10.0), 8, &times);
        assert!(gate.open(), "12 seconds in place of 12.8");
        gate.learn(7, (7, 12.0), 8, &times);
        assert!(!gate.open(), "14 in place of 12.8");
        times.learn(1, 2.0);
        let mut gate = Gate::default();
        gate.learn(7, (7, 12.0), 8, &times);
        assert!(gate.open(), "14 in place of 16");
    }
}
