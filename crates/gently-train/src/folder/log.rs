//! `log.txt`: what happened, in words.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use gently_formats::bounded;

use crate::{Error, Result};

/// An append-only text with the time at the start of each line. It tells of every process that worked on the run,
/// so a resumed run does not cut it.
#[derive(Debug)]
pub struct Log {
    path: PathBuf,
    file: File,
}

impl Log {
    /// Opens `path` for appending.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn open(path: &Path) -> Result<Self> {
        let file = bounded::append(path).map_err(|e| Error::io("cannot write", path, e))?;
        Ok(Self { path: path.into(), file })
    }

    /// Appends one line.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn say(&mut self, text: &str) -> Result<()> {
        let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
        let line = format!("{} {}\n", utc(seconds), text.trim_end().replace('\n', "\n  "));
        self.file.write_all(line.as_bytes()).map_err(|e| Error::io("cannot write", &self.path, e))
    }
}

/// `2026-11-22 22:30:00` of seconds since 1970 (the civil-from-days algorithm of Howard Hinnant, 2013).
fn utc(seconds: u64) -> String {
    let (days, rest) = (seconds / 86400, seconds % 86400);
    let z = days + 719_468;
    let era = z / 146_097;
    let day_of_era = z % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_civil() {
        assert_eq!(utc(0), "1970-01-01 00:00:00");
        assert_eq!(utc(951_782_400), "2000-02-29 00:00:00");
        assert_eq!(utc(1_735_689_599), "2024-12-31 23:59:59");
    }

    #[test]
    fn lines_are_appended() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.txt");
        Log::open(&path).unwrap().say("one\ntwo").unwrap();
        Log::open(&path).unwrap().say("three").unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().count(), 3);
        assert!(text.contains(" one\n  two\n"), "{text}");
    }
}
