//! What a person's terminal is given: commands to copy, and colours or none.
//!
//! ```
//! use gently_train::terminal::quoted;
//! assert_eq!(quoted("runs/one"), "runs/one");
//! assert_eq!(quoted("it's mine"), r"'it'\''s mine'");
//! ```

use std::path::Path;

/// A word of a command as a shell reads it: as it stands where no sign in it means something else, between marks otherwise.
pub fn quoted(word: &str) -> String {
    // A system whose paths have backslashes has another shell.
    let plain = |c: char| c.is_alphanumeric() || "-_./:@%+,=".contains(c) || cfg!(windows) && c == '\\';
    match word.chars().all(plain) && !word.is_empty() {
        true => word.to_owned(),
        // Between these a shell reads everything as it stands but the mark itself.
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

/// A path as a word of a command; see [`quoted`].
pub fn quoted_path(path: &Path) -> String {
    quoted(&path.display().to_string())
}

/// Whether a terminal may be given colours: not where `NO_COLOR` is set to anything.
pub fn wants_colours() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

#[cfg(all(test, unix))]
mod tests {
    use super::quoted;

    #[test]
    fn a_shell_reads_what_was_meant() {
        for word in ["runs/a", "q s", "it's", "", "\"$HOME\" `id` \\n", "~/x", "a\nb", "*", "é&", "#1"] {
            let script = format!("printf %s {}", quoted(word));
            let said = std::process::Command::new("sh").args(["-c", &script]).output().unwrap();
            assert_eq!(String::from_utf8(said.stdout).unwrap(), word, "{script}");
        }
    }
}
