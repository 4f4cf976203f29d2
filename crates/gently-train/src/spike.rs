//! Finding updates whose loss or gradient norm is far above the recent ones.
//!
//! Here: the window and its z-score (the rule of llm.c's outlier detector). Not here: what is done about a spike,
//! which is the trainer's business.
//!
//! ```
//! let mut window = gently_train::spike::Window::new(8);
//! for i in 0..8 {
//!     assert_eq!(window.push(f64::from(i % 2)), None, "no score until the window is full");
//! }
//! assert!(window.push(9.0).unwrap() > 6.0);
//! ```

use serde::{Deserialize, Serialize};

/// The last values of a quantity. Saved and loaded without loss (JSON is read with exact floats).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Window {
    length: usize,
    /// Oldest first.
    values: Vec<f64>,
}

impl Window {
    /// An empty window of `length` values.
    pub fn new(length: usize) -> Self {
        Self { length, values: Vec::new() }
    }

    /// Scores `value` by its distance from the mean of the values before it in standard deviations, and takes it in.
    /// `None` until the window is full, or when all its values are equal. A spike is taken in like any other value,
    /// so a lasting change of level becomes the new normal instead of stopping the run from learning.
    pub fn push(&mut self, value: f64) -> Option<f64> {
        let score = self.score(value);
        if self.values.len() >= self.length {
            let surplus = self.values.len() + 1 - self.length;
            self.values.drain(..surplus);
        }
        self.values.push(value);
        score
    }

    /// Sums are taken anew each time: running sums would drift, and would make a resumed run differ.
    fn score(&self, value: f64) -> Option<f64> {
        if self.values.len() < self.length {
            return None;
        }
        let n = self.values.len() as f64;
        let mean = self.values.iter().sum::<f64>() / n;
        let variance = self.values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n;
        let deviation = variance.sqrt();
        (deviation > 0.0).then(|| (value - mean) / deviation)
    }

    /// A window of `length` with the newest values of this one, as many as it has room for.
    pub(crate) fn resized(mut self, length: usize) -> Self {
        self.values.drain(..self.values.len().saturating_sub(length));
        self.length = length;
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_score_is_the_distance_in_deviations() {
        let mut window = Window::new(4);
        for value in [1.0, 3.0, 1.0, 3.0] {
            assert_eq!(window.push(value), None);
        }
        assert_eq!(window.push(5.0), Some(3.0));
        // The 5 has replaced the first 1: mean 3, deviation sqrt(2).
        let score = window.push(3.0).unwrap();
        assert!(score.abs() < 1e-12, "{score}");
        assert_eq!(window.values, [1.0, 3.0, 5.0, 3.0]);
    }

    #[test]
    fn equal_values_give_no_score() {
        let mut window = Window::new(8);
        for _ in 0..20 {
            assert_eq!(window.push(2.0), None);
        }
    }

    #[test]
    fn another_length_keeps_the_newest_values() {
        let mut window = Window::new(4);
        for value in [1.0, 2.0, 3.0, 4.0] {
            window.push(value);
        }
        let mut shorter = window.clone().resized(2);
        assert_eq!(shorter.values, [3.0, 4.0]);
        assert_eq!(shorter.push(4.0), Some(1.0));
        let mut longer = window.clone().resized(5);
        assert_eq!((longer.push(5.0), longer.push(6.0).is_some()), (None, true));
        assert_eq!(longer.values, [2.0, 3.0, 4.0, 5.0, 6.0]);
        assert_eq!(window.clone().resized(4), window);
    }

    #[test]
    fn a_saved_window_continues_the_same() {
        let mut window = Window::new(8);
        for i in 0..13 {
            window.push((f64::from(i) * 0.7).sin());
        }
        let text = serde_json::to_string(&window).unwrap();
        let mut again: Window = serde_json::from_str(&text).unwrap();
        assert_eq!(again.push(0.3), window.push(0.3));
        assert_eq!(again, window);
    }
}
