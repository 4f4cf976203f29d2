//! How many threads decoding uses, by measuring its own first passes.
//!
//! A pass over few rows reads weights once and does little with them: where one core can read as fast as the memory
//! gives, more threads only add waiting. Prompts always use all threads. Results do not depend on the choice.

use gently_kernels::pool::{self, OwnThreads};

/// Passes with at most this many rows are tuned.
const FEW: usize = 8;
/// Passes measured for each number of threads.
const ROUNDS: usize = 4;

/// Tries numbers of threads in turn, then keeps to the fastest.
pub(crate) struct Tuner {
    /// Numbers of threads with their times; empty when there is no choice.
    candidates: Vec<(usize, Vec<f64>)>,
    all: usize,
    chosen: Option<usize>,
}

impl Tuner {
    /// `fixed` threads, or those found by measuring.
    pub fn new(fixed: Option<usize>) -> Self {
        let all = fixed.unwrap_or_else(pool::threads).max(1);
        let mut counts = vec![all, (all * 3).div_ceil(4), all.div_ceil(2), 1];
        counts.dedup();
        let candidates = counts.into_iter().map(|n| (n, Vec::new())).collect();
        Self { candidates, all, chosen: (fixed.is_some() || all == 1).then_some(all) }
    }

    /// All threads that passes may use, until what is returned is dropped. Other engines, and what else runs in this program,
    /// have their own number.
    pub fn all(&self) -> OwnThreads {
        pool::use_threads(self.all)
    }

    /// The number of threads for a pass, in use until what is returned beside it is dropped.
    pub fn begin(&self, rows: usize) -> (usize, OwnThreads) {
        let n = match (rows <= FEW, self.chosen) {
            (false, _) => self.all,
            (true, Some(n)) => n,
            (true, None) => self.candidates.iter().min_by_key(|c| c.1.len()).map_or(self.all, |c| c.0),
        };
        (n, pool::use_threads(n))
    }

    /// Notes how long it took; `None` for a pass that did not come to its end, which says nothing of its threads.
    pub fn end(&mut self, rows: usize, threads: usize, seconds: Option<f64>) {
        let Some(seconds) = seconds.filter(|_| rows <= FEW && self.chosen.is_none()) else { return };
        if let Some(candidate) = self.candidates.iter_mut().find(|c| c.0 == threads) {
            // Passes of other sizes are brought to one row's time roughly; most are of one size.
            candidate.1.push(seconds / (1.0 + 0.05 * (rows - 1) as f64));
        }
        if self.candidates.iter().all(|c| c.1.len() >= ROUNDS) {
            // The best of a few: noise only adds.
            let best = |c: &(usize, Vec<f64>)| c.1.iter().copied().fold(f64::INFINITY, f64::min);
            self.chosen = self.candidates.iter().min_by(|a, b| best(a).total_cmp(&best(b))).map(|c| c.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passes_that_were_called_off_are_not_counted() {
        let all = pool::threads();
        let candidates = vec![(all, Vec::new()), (all + 1, Vec::new())];
        let mut tuner = Tuner { candidates, all, chosen: None };
        for _ in 0..3 * ROUNDS {
            assert_eq!(tuner.begin(1).0, all, "still the first");
            tuner.end(1, all, None);
        }
        assert!(tuner.chosen.is_none() && tuner.candidates.iter().all(|c| c.1.is_empty()));
        tuner.end(1, all, Some(0.5));
        assert_eq!(tuner.candidates[0].1, [0.5]);
    }

    #[test]
    fn a_number_for_passes_is_theirs_alone() {
        let all = pool::threads();
        let fixed = Tuner::new(Some(all + 3));
        {
            let _whole_step = fixed.all();
            let (n, pass) = fixed.begin(1);
            assert_eq!((n, pool::threads()), (all + 3, all + 3));
            let elsewhere = std::thread::scope(|s| s.spawn(|| (pool::threads(), Tuner::new(None).all)).join().unwrap());
            assert_eq!(elsewhere, (all, all), "another thread, and an engine that begins meanwhile");
            drop(pass);
            assert_eq!(pool::threads(), all + 3);
        }
        assert_eq!(pool::threads(), all);
    }
}
