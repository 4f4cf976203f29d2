//! How a failure is told: one sentence, the chain of causes, a hint, and the exit status.

use gently_train::terminal::wants_colours;
use std::fmt;
use std::io::{ErrorKind, IsTerminal, Write};
use std::process::ExitCode;

/// A message with advice on what to do; wrap it in `anyhow::Error` and the advice is printed as `hint:`.
#[derive(Debug)]
pub struct Advice {
    /// What went wrong, one sentence.
    pub message: String,
    /// What to do about it.
    pub hint: String,
}

impl fmt::Display for Advice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Advice {}

/// An error with a hint, ready for `?` in a function that returns `anyhow::Result`.
pub fn advise(message: impl Into<String>, hint: impl Into<String>) -> anyhow::Error {
    Advice { message: message.into(), hint: hint.into() }.into()
}

/// Prints `error` to standard error and gives the exit status: 1, or 0 when the reader of our output went away.
pub fn report(error: &anyhow::Error) -> ExitCode {
    if is_gone(error) {
        return ExitCode::SUCCESS;
    }
    tell(error);
    ExitCode::from(1)
}

/// Whether the reader of our output went away, which is no failure.
pub fn is_gone(error: &anyhow::Error) -> bool {
    let gone = |e: &std::io::Error| e.kind() == ErrorKind::BrokenPipe;
    error.chain().any(|e| e.downcast_ref::<std::io::Error>().is_some_and(gone))
}

/// Prints `error` to standard error: the sentence, its causes, a hint.
pub fn tell(error: &anyhow::Error) {
    let stderr = std::io::stderr();
    let colour = stderr.is_terminal() && wants_colours();
    let paint = |code: &str, text: &str| if colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_string() };
    let mut text = format!("{} {error}\n", paint("1;31", "error:"));
    let mut last = error.to_string();
    for cause in error.chain().skip(1) {
        let cause = cause.to_string();
        // Transparent wrappers repeat their source; saying it once is enough.
        if !last.contains(&cause) {
            text.push_str(&format!("  caused by: {cause}\n"));
            last = cause;
        }
    }
    if let Some(hint) = error.chain().find_map(hint_of) {
        text.push_str(&format!("{} {hint}\n", paint("1;36", "hint:")));
    }
    // Nothing can be done when standard error itself is closed.
    let _ = stderr.lock().write_all(text.as_bytes());
}

/// The hint that a typed error of one of our crates carries.
fn hint_of(error: &(dyn std::error::Error + 'static)) -> Option<String> {
    if let Some(advice) = error.downcast_ref::<Advice>() {
        return Some(advice.hint.clone());
    }
    macro_rules! typed {
        ($($kind:ty),+ $(,)?) => {
            $(if let Some(e) = error.downcast_ref::<$kind>() {
                return e.hint().map(|h| h.to_string());
            })+
        };
    }
    typed!(
        gently::embed::Error,
        gently::eval::Error,
        gently::folder::Error,
        gently::hub::Error,
        gently::recipes::Error,
        gently::write::Error,
        gently_infer::ConstraintError,
        gently_infer::Error,
        gently_models::Error,
        gently_text::Error,
        gently_formats::Error,
        gently_tensor::Error,
        gently_train::Error,
        gently_train::data::Error,
    );
    None
}
