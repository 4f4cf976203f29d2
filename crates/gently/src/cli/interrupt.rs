//! Signals that end a command: what it was writing does not stay.
//!
//! Not here: training and preparing data, which stop by themselves (`gently_train::StopHandle`).

use anyhow::Result;
use gently_formats::unfinished;
use signal_hook::consts::{SIGINT, SIGTERM};

/// Signals that ask a program to end.
pub const ENDING: [i32; 2] = [SIGINT, SIGTERM];

/// From here on Ctrl-C and SIGTERM end the program, and files that are half written are removed first: they may be as large as a
/// model.
pub fn leave_nothing() -> Result<()> {
    each(&ENDING, end)
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

/// Removes what is half written and ends the program by this very signal: a shell that saw a mere status would go on with the next
/// round of its loop after Ctrl-C.
pub fn end(signal: i32) {
    unfinished::abandon(|| {
        let _ = signal_hook::low_level::emulate_default_handler(signal);
        // Not come to, where the system does as it is told.
        std::process::exit(128 + signal);
    });
}
