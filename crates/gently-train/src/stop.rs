//! Asking a run to stop: by a program, or by a signal.
//!
//! ```
//! let stop = gently_train::StopHandle::new();
//! let theirs = stop.clone();
//! theirs.stop();
//! assert!(stop.is_asked());
//! ```

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use gently_formats::unfinished::abandon;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

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
    /// usual code (128 + the signal's number), after what is half written was removed ([`gently_formats::unfinished`]) and the
    /// terminal was given back where the dashboard has it; the last complete checkpoint stays as it is. On systems without
    /// these signals nothing is removed: the next start does that. [`StopHandle::stop`] is no signal: the first one after it
    /// asks once more.
    ///
    /// # Errors
    /// The system refuses the handlers.
    pub fn on_signals() -> Result<Self> {
        let handle = Self::new();
        let begin = || {
            end_at_the_second()?;
            [SIGINT, SIGTERM].into_iter().try_for_each(|signal| flag::register(signal, handle.asked.clone()).map(drop))
        };
        begin().map_err(|source| Error::Signals { source })?;
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

/// Ends the process at the second signal from now. A handler may do next to nothing, so a thread of its own removes what is half
/// written and gives the terminal back first.
#[cfg(unix)]
fn end_at_the_second() -> io::Result<()> {
    let stuck = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        // Should the disk or the terminal not take what it is told, a third signal does not wait for it.
        flag::register_conditional_shutdown(signal, 128 + signal, stuck.clone())?;
    }
    let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM])?;
    let watch = move || {
        if let Some(second) = signals.forever().nth(1) {
            stuck.store(true, Ordering::SeqCst);
            end_at_once(second);
        }
    };
    std::thread::Builder::new().name("signals".into()).spawn(watch).map(drop)
}

/// As above, from the handler itself, which may not remove anything.
#[cfg(not(unix))]
fn end_at_the_second() -> io::Result<()> {
    let seen = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        // The order matters: the first signal finds the flag down, and only then raises it.
        flag::register_conditional_shutdown(signal, 128 + signal, seen.clone())?;
        flag::register(signal, seen.clone())?;
    }
    Ok(())
}

/// Removes what is half written, gives the terminal back, where the dashboard has it, and ends the process as `signal` would.
pub(crate) fn end_at_once(signal: i32) -> ! {
    abandon(|| -> ! {
        crate::watch::give_terminal_back();
        signal_hook::low_level::exit(128 + signal)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One signal alone: a second one would end all tests.
    #[test]
    fn a_signal_raises_the_flag_and_the_first_after_a_stop_does_not_end_the_process() {
        let (handle, stopped) = (StopHandle::on_signals().unwrap(), StopHandle::on_signals().unwrap());
        stopped.stop();
        assert!(!handle.is_asked() && stopped.is_asked());
        signal_hook::low_level::raise(SIGTERM).unwrap();
        assert!(handle.is_asked() && stopped.is_asked());
    }

    #[cfg(unix)]
    #[test]
    fn the_second_signal_ends_the_process_with_its_code_and_leaves_nothing_half_written() {
        use crate::checkpoint::Checkpoints;
        use crate::data::{Error, Input, Prepare};
        use std::path::Path;

        const CHILD: &str = "GENTLY_TEST_TWO_SIGNALS";
        if let Some(folder) = std::env::var_os(CHILD) {
            StopHandle::on_signals().unwrap().stop();
            let folder = Path::new(&folder);
            // In the midst of preparing and of saving.
            let save = || {
                Checkpoints::of_run(folder).save(1, &"any state", |half| {
                    std::fs::write(half.join("weights"), "half").unwrap();
                    // Two of one kind may be told as one.
                    for signal in [SIGTERM, SIGINT] {
                        signal_hook::low_level::raise(signal).unwrap();
                    }
                    // Ended here. Where it is not, the test comes to its end and the process has another code.
                    std::thread::sleep(std::time::Duration::from_secs(60));
                    Ok(())
                })
            };
            let texts = Prepare::new([Input::text("text", "to be or not to be")]);
            let _ = texts.run(folder.join("data"), &mut |_| {
                let _ = save();
                Err(Error::Stopped)
            });
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let test = "stop::tests::the_second_signal_ends_the_process_with_its_code_and_leaves_nothing_half_written";
        let child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", test])
            .env(CHILD, folder.path())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&child.stdout);
        assert!([128 + SIGTERM, 128 + SIGINT].map(Some).contains(&child.status.code()), "{:?}: {said}", child.status);
        for name in ["data", "checkpoints"] {
            let left: Vec<_> = std::fs::read_dir(folder.path().join(name)).unwrap().collect();
            assert!(left.is_empty(), "{left:?}");
        }
    }
}
