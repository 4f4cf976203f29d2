//! The run folder: who may write in it, and its logs.
//!
//! Here: the lock, JSON-lines logs that can be cut back to a step, the plain log. Not here: `checkpoints/`, which
//! has its own module.
//!
//! ```text
//! run/config.toml     every value with its source      run/metrics.jsonl   one object for each step
//! run/run.lock        held while a process trains      run/samples.jsonl   what the model wrote
//! run/log.txt         words                            run/checkpoints/    step-N/ …
//! ```

mod lines;
mod lock;
mod log;

pub use lines::Lines;
pub use lock::Lock;
pub use log::Log;

/// Name of the metrics file.
pub const METRICS_FILE: &str = "metrics.jsonl";
/// Name of the samples file.
pub const SAMPLES_FILE: &str = "samples.jsonl";
/// Name of the plain log.
pub const LOG_FILE: &str = "log.txt";
