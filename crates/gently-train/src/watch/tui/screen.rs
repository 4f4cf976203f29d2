//! The terminal while the dashboard has it: raw keys, its own screen, and back again whatever happens.
//!
//! Here: entering and leaving, also on a panic in any thread and before a signal ends the process. Not here: what is drawn, and
//! signals (`stop`).

use std::io::{self, Stderr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, Once, PoisonError, TryLockError};
use std::time::Duration;

use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::cursor::Show;
use ratatui::crossterm::execute;
use ratatui::crossterm::terminal::{EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode};
use ratatui::{Frame, Terminal};

/// Whether this process has changed the terminal's modes.
static ENTERED: AtomicBool = AtomicBool::new(false);
static HOOK: Once = Once::new();
/// Held while a frame goes out, so that none is written over what a panicking thread says.
static DRAWING: Mutex<()> = Mutex::new(());
/// Times [`leave`] looks whether the frame is out, two milliseconds apart. The panicking thread may be the one that
/// draws, so it must not wait for ever.
const PATIENCE: u32 = 50;

/// The terminal on standard error, so that standard output stays free for data.
pub struct Screen {
    terminal: Terminal<CrosstermBackend<Stderr>>,
}

impl Screen {
    /// Takes the terminal.
    pub fn enter() -> io::Result<Self> {
        HOOK.call_once(|| {
            let previous = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |panic| {
                leave();
                previous(panic);
            }));
        });
        enable_raw_mode()?;
        ENTERED.store(true, Ordering::SeqCst);
        let entered = execute!(io::stderr(), EnterAlternateScreen)
            .and_then(|()| Terminal::new(CrosstermBackend::new(io::stderr())));
        entered.map(|terminal| Self { terminal }).inspect_err(|_| leave())
    }
}

impl Screen {
    /// Draws one frame, unless the terminal has been given back.
    pub fn draw(&mut self, render: impl FnOnce(&mut Frame)) -> io::Result<()> {
        let _drawing = DRAWING.lock().unwrap_or_else(PoisonError::into_inner);
        if ENTERED.load(Ordering::SeqCst) {
            self.terminal.draw(render)?;
        }
        Ok(())
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        leave();
    }
}

/// Gives the terminal back, where it was taken; a second time does nothing.
pub fn leave() {
    if ENTERED.swap(false, Ordering::SeqCst) {
        let _drawing = (0..PATIENCE).find_map(|_| {
            let free = taken(&DRAWING);
            if free.is_none() {
                std::thread::sleep(Duration::from_millis(2));
            }
            free
        });
        // Each is tried whatever became of the others: a terminal half restored is better than none.
        let _ = execute!(io::stderr(), LeaveAlternateScreen, Show);
        let _ = disable_raw_mode();
    }
}

/// The lock, if nobody has it. After a panic in a frame nobody draws any more.
fn taken(lock: &Mutex<()>) -> Option<MutexGuard<'_, ()>> {
    match lock.try_lock() {
        Ok(guard) => Some(guard),
        Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
        Err(TryLockError::WouldBlock) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_that_a_panic_left_is_free() {
        let lock = Mutex::new(());
        let held = lock.lock().unwrap();
        assert!(taken(&lock).is_none());
        drop(held);
        assert!(taken(&lock).is_some());
        std::thread::scope(|scope| {
            let panics = scope.spawn(|| {
                let _held = lock.lock();
                panic!("in a frame");
            });
            panics.join().unwrap_err();
        });
        assert!(lock.is_poisoned() && taken(&lock).is_some());
    }
}
