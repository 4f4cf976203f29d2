//! A bar for work that is counted in bytes or items: preparing texts, fetching files, asking a model.
//!
//! Here: the one bar that `gently train`, `data`, `pull` and `eval` share. Not here: the run's own bar ([`super::Progress`]).
//!
//! ```
//! let bar = gently_train::watch::BytesBar::stderr(); // hidden where standard error is no terminal
//! bar.show("scanning", 500, 1000);
//! assert_eq!(bar.position(), 500);
//! ```

use indicatif::{ProgressBar, ProgressStyle};

/// A bar on standard error, hidden when that is no terminal; gone when dropped.
pub struct BytesBar(ProgressBar);

impl BytesBar {
    /// An empty bar.
    pub fn stderr() -> Self {
        Self::of("{msg:24} {wide_bar} {bytes}/{total_bytes} {eta}")
    }

    /// An empty bar that counts items instead of bytes.
    pub fn items() -> Self {
        Self::of("{msg:24} {wide_bar} {pos}/{len} {eta}")
    }

    fn of(template: &str) -> Self {
        let style = ProgressStyle::with_template(template);
        Self(ProgressBar::new(0).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar())))
    }

    /// Shows `done` of `total` bytes or items of `what`. A total that was an estimate and too low grows with what is done.
    pub fn show(&self, what: &str, done: u64, total: u64) {
        self.0.set_length(total.max(done));
        self.0.set_position(done);
        if self.0.message() != what {
            self.0.set_message(what.to_owned());
        }
    }

    /// Bytes or items done.
    pub fn position(&self) -> u64 {
        self.0.position()
    }
}

impl Drop for BytesBar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
