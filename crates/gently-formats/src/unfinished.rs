//! What is half made while a program runs, and must not stay when a signal ends it.
//!
//! Here: a list of how to undo each such thing. [`crate::atomic`] notes its temporary files in it. Not here: waiting for signals.
//!
//! ```
//! use gently_formats::unfinished::{Unfinished, abandon};
//! let path = std::env::temp_dir().join(format!("gently-doc-half-{}", std::process::id()));
//! std::fs::write(&path, b"half").unwrap();
//! let remove = path.clone();
//! let half = Unfinished::new(move || drop(std::fs::remove_file(remove)));
//! // A program that a signal ends gives `|| std::process::exit(130)`.
//! abandon(|| assert!(!path.exists()));
//! # drop(half);
//! ```

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

type Undo = Box<dyn FnOnce() + Send>;

/// How everything that is unfinished is undone.
pub(crate) struct List {
    next: u64,
    all: Vec<(u64, Undo)>,
}

static LIST: Mutex<List> = Mutex::new(List { next: 0, all: Vec::new() });

/// The list, which nobody changes or works off meanwhile.
pub(crate) fn list() -> MutexGuard<'static, List> {
    LIST.lock().unwrap_or_else(PoisonError::into_inner)
}

impl List {
    /// Notes one thing more.
    pub(crate) fn note(&mut self, undo: impl FnOnce() + Send + 'static) -> Unfinished {
        self.next += 1;
        self.all.push((self.next, Box::new(undo)));
        Unfinished { number: self.next }
    }

    fn forget(&mut self, number: u64) {
        self.all.retain(|(n, _)| *n != number);
    }
}

/// A thing that is unfinished for as long as this lives.
pub struct Unfinished {
    number: u64,
}

impl Unfinished {
    /// Notes a thing, before or after it is made. `undo` may be called at any time from another thread, must do no harm where
    /// there is nothing, and must not itself begin or end what is unfinished.
    pub fn new(undo: impl FnOnce() + Send + 'static) -> Self {
        list().note(undo)
    }

    /// Finishes it by `act`: a signal is before that or after, never within. `act` must not itself begin or end what is
    /// unfinished.
    pub fn finish<T>(self, act: impl FnOnce() -> T) -> T {
        let mut list = list();
        let result = act();
        list.forget(self.number);
        result
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        list().forget(self.number);
    }
}

impl fmt::Debug for Unfinished {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Unfinished").finish_non_exhaustive()
    }
}

/// Undoes everything that is unfinished, the latest first, and then calls `end`, which is to end the process: until it comes
/// back, nothing can be begun or finished.
pub fn abandon<T>(end: impl FnOnce() -> T) -> T {
    let mut list = list();
    for (_, undo) in std::mem::take(&mut list.all).into_iter().rev() {
        undo();
    }
    end()
}
