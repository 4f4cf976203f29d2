//! Training: recipes, data, optimizers, schedules, checkpoints and the loop.

#![forbid(unsafe_code)]

mod error;
pub mod events;
pub mod plan;
pub mod recipe;
pub mod watch;

pub use error::{Error, Result};
pub use events::{Event, Observer};

/// Asks a run to stop.
pub struct StopHandle;

impl StopHandle {
    /// Asks.
    pub fn stop(&self) {}
}
