//! The learning rate of each update.
//!
//! Here: warm-up and the four shapes after it. Not here: who uses the rate (`optim`).
//!
//! ```
//! use gently_train::recipe::Optimizer;
//! use gently_train::schedule::Schedule;
//!
//! let schedule = Schedule::new(&Optimizer { lr: 1e-3, min_lr: Some(1e-4), ..Default::default() }, 2000);
//! assert!(schedule.rate(0) < schedule.rate(99));
//! assert_eq!(schedule.rate(2000), 1e-4);
//! ```

use crate::recipe::{Optimizer, ScheduleKind};

/// A learning rate for every update, counted from 0. A pure function of the update's number: nothing to save.
#[derive(Debug, Clone, PartialEq)]
pub struct Schedule {
    kind: ScheduleKind,
    peak: f64,
    lowest: f64,
    warmup: u64,
    end: u64,
    cooldown: f64,
}

impl Schedule {
    /// The schedule that `[optimizer]` describes for a run of `steps` updates.
    pub fn new(optimizer: &Optimizer, steps: u64) -> Self {
        Self {
            kind: optimizer.schedule,
            peak: optimizer.lr,
            lowest: optimizer.min_lr.unwrap_or(optimizer.lr / 10.0),
            warmup: optimizer.warmup,
            end: optimizer.decay_steps.unwrap_or(steps),
            cooldown: optimizer.cooldown,
        }
    }

    /// The rate of update `it`, counted from 0.
    ///
    /// Warm-up is `lr·(it+1)/(warmup+1)`, and the cosine is nanoGPT's: from `lr` at the end of warm-up to `min_lr`
    /// at `decay_steps`, then `min_lr`.
    pub fn rate(&self, it: u64) -> f64 {
        if it < self.warmup {
            return self.peak * (it + 1) as f64 / self.warmup.saturating_add(1) as f64;
        }
        if self.kind == ScheduleKind::Constant {
            return self.peak;
        }
        if it >= self.end {
            return self.lowest;
        }
        let start = match self.kind {
            ScheduleKind::Wsd => {
                let stable = (1.0 - self.cooldown) * self.end as f64;
                (stable.round() as u64).max(self.warmup)
            }
            _ => self.warmup,
        };
        if it < start {
            return self.peak;
        }
        let done = (it - start) as f64 / (self.end - start) as f64;
        let left = match self.kind {
            ScheduleKind::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * done).cos()),
            _ => 1.0 - done,
        };
        self.lowest + left * (self.peak - self.lowest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(kind: ScheduleKind) -> Schedule {
        let optimizer = Optimizer {
            schedule: kind,
            lr: 1e-3,
            min_lr: Some(1e-4),
            warmup: 100,
            cooldown: 0.2,
            ..Optimizer::default()
        };
        Schedule::new(&optimizer, 2000)
    }

    /// Values of nanoGPT's `get_lr` with its CPU recipe's numbers, computed with Python floats.
    #[test]
    fn the_cosine_is_nanogpts() {
        let cosine = schedule(ScheduleKind::Cosine);
        for (it, expected) in NANOGPT {
            let rate = cosine.rate(it);
            assert!((rate - expected).abs() <= 1e-15, "{it}: {rate} and {expected}");
        }
    }

    #[test]
    fn the_line_is_straight_and_the_constant_constant() {
        let linear = schedule(ScheduleKind::Linear);
        assert_eq!(linear.rate(100), 1e-3);
        assert!((linear.rate(1050) - 5.5e-4).abs() < 1e-15);
        assert_eq!(linear.rate(2000), 1e-4);
        assert_eq!(linear.rate(9000), 1e-4);
        let constant = schedule(ScheduleKind::Constant);
        assert_eq!(constant.rate(100), 1e-3);
        assert_eq!(constant.rate(9000), 1e-3);
    }

    #[test]
    fn wsd_is_stable_and_then_falls() {
        let wsd = schedule(ScheduleKind::Wsd);
        assert_eq!(wsd.rate(100), 1e-3);
        assert_eq!(wsd.rate(1599), 1e-3);
        assert!((wsd.rate(1800) - 5.5e-4).abs() < 1e-15);
        assert_eq!(wsd.rate(2000), 1e-4);
    }

    #[test]
    fn warm_up_longer_than_the_run_does_not_divide_by_zero() {
        for kind in [ScheduleKind::Cosine, ScheduleKind::Linear, ScheduleKind::Wsd] {
            let optimizer = Optimizer { schedule: kind, warmup: 50, ..Optimizer::default() };
            let schedule = Schedule::new(&optimizer, 20);
            assert!((0..100).all(|it| schedule.rate(it).is_finite() && schedule.rate(it) > 0.0));
            let endless = Schedule::new(&Optimizer { schedule: kind, warmup: u64::MAX, ..Optimizer::default() }, 20);
            assert!(
                endless.rate(0) > 0.0 && endless.rate(u64::MAX - 1).is_finite() && endless.rate(u64::MAX).is_finite()
            );
        }
    }

    const NANOGPT: [(u64, f64); 14] = [
        (0, 9.900990099009901e-06),
        (1, 1.9801980198019803e-05),
        (50, 0.000504950495049505),
        (99, 0.0009900990099009901),
        (100, 0.001),
        (101, 0.0009999993848585915),
        (500, 0.0009051132292283772),
        (1000, 0.0005871607054625496),
        (1050, 0.00055),
        (1500, 0.0002452232927684166),
        (1999, 0.00010000061514140841),
        (2000, 0.0001),
        (2001, 0.0001),
        (5000, 0.0001),
    ];
}
