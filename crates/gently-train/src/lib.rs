//! Training: recipes, data, optimizers, schedules, checkpoints and the loop.

#![forbid(unsafe_code)]

pub mod checkpoint;
mod error;
pub mod events;
pub mod folder;
pub mod optim;
pub mod plan;
pub mod recipe;
pub mod schedule;
pub mod spike;
mod stop;
pub mod watch;

pub use error::{Error, Result};
pub use events::{Event, Observer};
pub use stop::StopHandle;
