//! Asking a run to stop: by a program, or by a signal.
//!
//! ```
//! let stop = gently_train::StopHandle::new();
//! let theirs = stop.clone();
//! theirs.stop();
//! assert!(stop.is_asked());
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::{Error, Result};

/// A flag that the trainer looks at before each micro-batch, of an update or an evaluation, and each token of a sample: when
/// set, it saves a checkpoint of the last whole update and ends the run.
#[derive(Debug, Clone, Default)]
pub struct StopHandle {
    asked: Arc<AtomicBool>,
    /// Looks until it is raised by itself, if above 0.
    #[cfg(test)]
    looks: Arc<std::sync::atomic::AtomicU64>,
}

impl StopHandle {
    /// A handle that nobody has used.
    pub fn new() -> Self {
        Self::default()
    }

    /// A handle that SIGINT (Ctrl-C) and SIGTERM use. A second signal ends the process at once with the shell's
    /// usual code (128 + the signal's number); the last complete checkpoint stays as it is.
    ///
    /// # Errors
    /// The system refuses the handlers.
    pub fn on_signals() -> Result<Self> {
        let handle = Self::new();
        for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
            // The order matters: the first signal finds the flag down, and only then raises it.
            let register = || {
                let flag = &handle.asked;
                signal_hook::flag::register_conditional_shutdown(signal, 128 + signal, flag.clone())?;
                signal_hook::flag::register(signal, flag.clone())
            };
            register().map_err(|source| Error::Signals { source })?;
        }
        Ok(handle)
    }

    /// Asks the run to stop.
    pub fn stop(&self) {
        self.asked.store(true, Ordering::Relaxed);
    }

    /// A handle that is raised at the `n`th look, counted from 1.
    #[cfg(test)]
    pub(crate) fn at_look(n: u64) -> Self {
        let handle = Self::new();
        handle.looks.store(n, Ordering::Relaxed);
        handle
    }

    /// Whether somebody asked.
    pub fn is_asked(&self) -> bool {
        #[cfg(test)]
        if self.looks.load(Ordering::Relaxed) > 0 && self.looks.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.stop();
        }
        self.asked.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_raises_the_flag() {
        let handle = StopHandle::on_signals().unwrap();
        assert!(!handle.is_asked());
        signal_hook::low_level::raise(signal_hook::consts::SIGTERM).unwrap();
        assert!(handle.is_asked());
    }
}
