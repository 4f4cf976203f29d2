//! Signals that end a command: what it was writing does not stay.
//!
//! Not here: training and preparing data, which stop by themselves (`gently_train::StopHandle`).

use anyhow::Result;
use gently_formats::unfinished;
use signal_hook::consts::{SIGINT, SIGTERM};

/// From here on Ctrl-C and SIGTERM end the program, and files that are half written are removed first: they may be as large as a
/// model.
pub fn leave_nothing() -> Result<()> {
    each(&[SIGINT, SIGTERM], end)
}

/// Calls `act` with each of these signals that comes, on a thread of its own. Where a system has no such signals, it ends the
/// program as it does.
pub fn each(signals: &[i32], act: impl FnMut(i32) + Send + 'static) -> Result<()> {
    #[cfg(unix)]
    {
        let mut signals = signal_hook::iterator::Signals::new(signals)?;
        let watch = move || signals.forever().for_each(act);
        std::thread::Builder::new().name("gently-interrupt".into()).spawn(watch)?;
    }
    #[cfg(not(unix))]
    let _ = (signals, act);
    Ok(())
}

/// Ends the program as the shell expects of one that this signal ended.
pub fn end(signal: i32) {
    unfinished::abandon(|| {
        std::process::exit(128 + signal);
    });
}
