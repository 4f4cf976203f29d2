//! Files that anybody may have written: regular files alone, and no more read of them than a bound, or mapped.
//!
//! A pipe would be waited for, and a device may never end, though it says that it has no bytes.

use gently_kernels::buffer::mmap::Mmap;
use std::fs::File;
use std::io::{BufRead, BufReader, Error, ErrorKind, Read, Result};
use std::path::Path;

/// More than is read: the inner error of those that say so.
#[derive(Debug, thiserror::Error)]
#[error("{what} has more than {most} bytes")]
struct TooLong {
    what: String,
    most: u64,
}

impl TooLong {
    fn error(what: impl Into<String>, most: u64) -> Error {
        Error::new(ErrorKind::InvalidData, Self { what: what.into(), most })
    }
}

/// Whether an error from here says that a file or a line has more bytes than are read.
pub fn is_too_long(error: &Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<TooLong>())
}

/// Opens a regular file, or a link to one.
///
/// # Errors
/// The system's, and `InvalidInput` for a folder, a pipe, a device.
pub fn open(path: impl AsRef<Path>) -> Result<File> {
    let path = path.as_ref();
    regular(&std::fs::metadata(path)?)?;
    let file = File::open(path)?;
    regular(&file.metadata()?)?;
    Ok(file)
}

/// Opens a regular file, or a link to one, or a new file, to write at its end.
///
/// # Errors
/// As [`open`].
pub fn append(path: impl AsRef<Path>) -> Result<File> {
    let path = path.as_ref();
    match std::fs::metadata(path) {
        Ok(meta) => regular(&meta)?,
        Err(e) if e.kind() == ErrorKind::NotFound => {}
        Err(e) => return Err(e),
    }
    File::options().append(true).create(true).open(path)
}

/// Asked before a file is opened, too: opening a pipe waits for its other end.
fn regular(meta: &std::fs::Metadata) -> Result<()> {
    match meta.is_file() {
        true => Ok(()),
        false => Err(Error::new(ErrorKind::InvalidInput, "it is not a regular file")),
    }
}

/// Maps a regular file of any size.
///
/// # Errors
/// As [`open`], and those of [`Mmap::map`].
pub(crate) fn map(path: impl AsRef<Path>) -> Result<Mmap> {
    Mmap::map(&open(path)?)
}

/// All of a regular file of at most `most` bytes.
///
/// # Errors
/// As [`open`], and `InvalidData` for a longer file ([`is_too_long`]).
pub fn read(path: impl AsRef<Path>, most: u64) -> Result<Vec<u8>> {
    let file = open(path)?;
    let mut bytes = Vec::new();
    let said = file.metadata()?.len();
    // It may grow while it is read: what is read is bounded, not only what is said.
    if said <= most {
        file.take(most.saturating_add(1)).read_to_end(&mut bytes)?;
    }
    if said.max(bytes.len() as u64) > most {
        return Err(TooLong::error("it", most));
    }
    Ok(bytes)
}

/// All of a regular file of at most `most` bytes, which are UTF-8.
///
/// # Errors
/// As [`read`], and `InvalidData` where it is not UTF-8.
pub fn read_text(path: impl AsRef<Path>, most: u64) -> Result<String> {
    let not = |e: std::string::FromUtf8Error| {
        Error::new(ErrorKind::InvalidData, format!("it is not UTF-8 (byte {})", e.utf8_error().valid_up_to()))
    };
    String::from_utf8(read(path, most)?).map_err(not)
}

/// Lines of a bounded length, one at a time.
///
/// ```
/// use gently_formats::bounded::Lines;
/// let mut lines = Lines::new(&b"one\r\ntwo"[..], 100);
/// let mut line = Vec::new();
/// assert!(lines.next_into(&mut line)? && line == b"one\r\n" && lines.number() == 1);
/// assert!(lines.next_into(&mut line)? && line == b"two");
/// assert!(!lines.next_into(&mut line)?);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
pub struct Lines<R = BufReader<File>> {
    reader: R,
    most: u64,
    number: u64,
}

impl Lines {
    /// Opens a regular file, whose lines have at most `most` bytes each.
    ///
    /// # Errors
    /// As [`open`].
    pub fn open(path: impl AsRef<Path>, most: u64) -> Result<Self> {
        Ok(Self::new(BufReader::new(open(path)?), most))
    }
}

impl<R: BufRead> Lines<R> {
    /// The lines of whatever can be read, at most `most` bytes each.
    pub fn new(reader: R, most: u64) -> Self {
        Self { reader, most, number: 0 }
    }

    /// Puts the next line in the place of what `line` holds, with its end, which the last may lack; false after the last.
    ///
    /// # Errors
    /// The system's, and `InvalidData` for a line that is too long ([`is_too_long`]).
    pub fn next_into(&mut self, line: &mut Vec<u8>) -> Result<bool> {
        line.clear();
        let read = self.reader.by_ref().take(self.most.saturating_add(1)).read_until(b'\n', line)?;
        self.number += u64::from(read > 0);
        match read as u64 > self.most {
            true => Err(TooLong::error(format!("line {}", self.number), self.most)),
            false => Ok(read > 0),
        }
    }

    /// The number of the line that came last, from 1, also where it was too long.
    pub fn number(&self) -> u64 {
        self.number
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_up_to_its_bound() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        std::fs::write(&path, "four").unwrap();
        assert_eq!(read_text(&path, 4).unwrap(), "four");
        assert_eq!(read(&path, 3).unwrap_err().to_string(), "it has more than 3 bytes");
        std::fs::write(&path, b"ab\xff").unwrap();
        assert_eq!(read_text(&path, 4).unwrap_err().to_string(), "it is not UTF-8 (byte 2)");
        assert_eq!(read(dir.path().join("none"), 4).unwrap_err().kind(), ErrorKind::NotFound);
    }

    #[test]
    fn what_is_not_a_regular_file_is_not_opened() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read(dir.path(), 4).unwrap_err().to_string(), "it is not a regular file");
        let e = crate::safetensors::SafeTensors::open(dir.path(), &crate::Limits::default()).unwrap_err();
        assert!(e.hint().is_some_and(|hint| hint.contains("folder")), "{e}");
        #[cfg(unix)]
        {
            let link = dir.path().join("link");
            std::os::unix::fs::symlink("/dev/zero", &link).unwrap();
            assert_eq!(read(&link, 4).unwrap_err().kind(), ErrorKind::InvalidInput);
            assert_eq!(Lines::open(&link, 4).unwrap_err().kind(), ErrorKind::InvalidInput);
            assert_eq!(append(&link).unwrap_err().kind(), ErrorKind::InvalidInput);
        }
    }

    #[test]
    fn a_file_that_says_that_it_is_too_long_is_not_read() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(1 << 33).unwrap();
        let e = read(file.path(), 1 << 20).unwrap_err();
        assert!(is_too_long(&e) && e.to_string() == "it has more than 1048576 bytes", "{e}");
        std::fs::write(file.path(), b"ab\xff").unwrap();
        assert!(!is_too_long(&read_text(file.path(), 4).unwrap_err()));
    }

    #[test]
    fn lines_come_with_their_ends_and_numbers() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        let mut line = Vec::new();
        std::fs::write(&path, "a\r\n\nbcd\nlonger\nx\n").unwrap();
        let mut lines = Lines::open(&path, 4).unwrap();
        for (wanted, number) in [("a\r\n", 1), ("\n", 2), ("bcd\n", 3)] {
            assert!(lines.next_into(&mut line).unwrap());
            assert_eq!((&line[..], lines.number()), (wanted.as_bytes(), number));
        }
        let e = lines.next_into(&mut line).unwrap_err();
        assert!(is_too_long(&e) && e.to_string() == "line 4 has more than 4 bytes", "{e}");
        assert_eq!(lines.number(), 4);
        // Of what can be read only once, too.
        let mut lines = Lines::new(&b"a\ntorn"[..], 4);
        for wanted in ["a\n", "torn"] {
            assert!(lines.next_into(&mut line).unwrap());
            assert_eq!(line, wanted.as_bytes());
        }
        assert!(!lines.next_into(&mut line).unwrap());
        assert_eq!(lines.number(), 2);
    }
}
