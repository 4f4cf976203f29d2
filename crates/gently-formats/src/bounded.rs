//! Files that anybody may have written: regular files alone, and no more read of them than a bound, or mapped.
//!
//! A pipe would be waited for, and a device may never end, though it says that it has no bytes.

use gently_kernels::buffer::mmap::Mmap;
use std::fs::File;
use std::io::{BufRead, BufReader, Error, ErrorKind, Read, Result};
use std::path::Path;

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
/// As [`open`], and `InvalidData` for a longer file.
pub fn read(path: impl AsRef<Path>, most: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open(path)?.take(most.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most {
        return Err(Error::new(ErrorKind::InvalidData, format!("it has more than {most} bytes")));
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

/// The lines of a regular file, one at a time.
#[derive(Debug)]
pub struct Lines {
    reader: BufReader<File>,
    most: u64,
    line: Vec<u8>,
    number: u64,
}

impl Lines {
    /// Opens `path`, whose lines have at most `most` bytes each.
    ///
    /// # Errors
    /// As [`open`].
    pub fn open(path: impl AsRef<Path>, most: u64) -> Result<Self> {
        Ok(Self { reader: BufReader::new(open(path)?), most, line: Vec::new(), number: 0 })
    }

    /// The next line with its end, which the last may lack; `None` after the last.
    ///
    /// # Errors
    /// The system's, and `InvalidData` for a line that is too long.
    pub fn next_line(&mut self) -> Result<Option<&[u8]>> {
        self.line.clear();
        self.number += 1;
        let read = (&mut self.reader).take(self.most.saturating_add(1)).read_until(b'\n', &mut self.line)?;
        if read as u64 > self.most {
            let what = format!("line {} has more than {} bytes", self.number, self.most);
            return Err(Error::new(ErrorKind::InvalidData, what));
        }
        Ok((read > 0).then_some(&self.line))
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
    fn lines_come_with_their_ends() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        std::fs::write(&path, "a\n\nbcd\nlonger\n").unwrap();
        let mut lines = Lines::open(&path, 4).unwrap();
        for wanted in [&b"a\n"[..], b"\n", b"bcd\n"] {
            assert_eq!(lines.next_line().unwrap(), Some(wanted));
        }
        assert_eq!(lines.next_line().unwrap_err().to_string(), "line 4 has more than 4 bytes");
        std::fs::write(&path, "a\ntorn").unwrap();
        let mut lines = Lines::open(&path, 4).unwrap();
        assert_eq!(lines.next_line().unwrap(), Some(&b"a\n"[..]));
        assert_eq!(lines.next_line().unwrap(), Some(&b"torn"[..]));
        assert_eq!(lines.next_line().unwrap(), None);
    }
}
