//! Training: recipes, data, optimizers, schedules, checkpoints and the loop.

#![forbid(unsafe_code)]

pub mod checkpoint;
pub mod data;
mod error;
pub mod events;
pub mod folder;
pub mod optim;
pub mod plan;
pub mod process_memory;
pub mod profile;
pub mod recipe;
pub mod schedule;
pub mod source;
pub mod spike;
mod stop;
pub mod terminal;
pub mod trainer;
pub mod watch;

pub use error::{Error, Result};
pub use events::{Event, Observer};
pub use recipe::Recipe;
pub use stop::StopHandle;
pub use trainer::Trainer;
