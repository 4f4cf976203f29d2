//! Watching a run: a progress bar, a live dashboard, TensorBoard files and a report.
//!
//! Here: everything that listens to a run's [events](crate::events) and shows them. Not here: the
//! trainer, and `metrics.jsonl`, which it writes itself because exact resume depends on it.
//!
//! ```
//! use gently_train::Observer;
//! use gently_train::watch::Progress;
//! let mut observers: Vec<Box<dyn Observer>> = Vec::new();
//! observers.push(Box::new(Progress::stderr()));
//! ```

mod bytes_bar;
pub mod format;
pub mod history;
mod progress;
#[cfg(test)]
mod rehearsal;
pub mod report;
pub mod series;
pub mod summary;
pub mod tensorboard;
mod tui;

pub use bytes_bar::BytesBar;
pub use progress::Progress;
pub use report::Report;
pub use tensorboard::TensorBoard;
pub use tui::Dashboard;
pub(crate) use tui::give_terminal_back;
