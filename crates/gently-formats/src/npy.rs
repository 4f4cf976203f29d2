//! NumPy's array file: a line that says type and shape, then the numbers.
//!
//! Here: a writer of matrices of f32 whose number of rows may be known only at the end (format version 1.0, as NumPy's
//! `numpy.lib.format` describes it). Not here: reading, other types.
//!
//! ```
//! let path = std::env::temp_dir().join(format!("gently-doc-{}.npy", std::process::id()));
//! let mut writer = gently_formats::npy::Writer::create(&path, 2)?;
//! writer.write(&[1.0, 2.0, 3.0, 4.0])?;
//! writer.finish()?;
//! let bytes = std::fs::read(&path).unwrap();
//! assert!(bytes.starts_with(b"\x93NUMPY\x01\x00"));
//! assert_eq!(bytes.len(), 128 + 4 * 4);
//! # std::fs::remove_file(path).ok();
//! # Ok::<(), gently_formats::Error>(())
//! ```

use crate::atomic::AtomicFile;
use crate::{Error, Result};
use std::io::{ErrorKind, Seek, SeekFrom, Write};
use std::path::Path;

/// Bytes before the numbers: a multiple of 64, with room for any shape.
const HEADER: usize = 128;

/// A matrix `[rows, cols]` of f32 on its way into a file that will be complete or absent. A pipe or a device gets all of it at the
/// end: the number of rows comes first, and until it is known the numbers are held in memory.
#[derive(Debug)]
pub struct Writer {
    file: AtomicFile,
    cols: usize,
    /// Numbers written.
    len: usize,
    /// Numbers that wait, as bytes, where there is no going back in the file.
    held: Vec<u8>,
}

impl Writer {
    /// Starts a file of rows of `cols` numbers.
    ///
    /// # Errors
    /// [`Error::Io`] naming the file; so for all that follow.
    pub fn create(path: impl AsRef<Path>, cols: usize) -> Result<Self> {
        let mut writer = Self { file: AtomicFile::create(path)?, cols, len: 0, held: Vec::new() };
        if !writer.file.is_forward() {
            writer.put(&header(0, cols))?;
        }
        Ok(writer)
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        let done = self.file.write_all(bytes);
        done.map_err(Error::io(self.file.target(), "write"))
    }

    /// Appends numbers: whole rows by the time the file is finished.
    ///
    /// # Errors
    /// As [`Writer::create`].
    pub fn write(&mut self, numbers: &[f32]) -> Result<()> {
        let bytes: Vec<u8> = numbers.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.len += numbers.len();
        if !self.file.is_forward() {
            return self.put(&bytes);
        }
        let room = self.held.try_reserve(bytes.len()).map_err(|_| std::io::Error::from(ErrorKind::OutOfMemory));
        room.map_err(Error::io(self.file.target(), "write"))?;
        self.held.extend(bytes);
        Ok(())
    }

    /// Writes the shape and puts the file in its place; gives the number of rows.
    ///
    /// # Errors
    /// As [`Writer::create`], and [`Error::Size`] when the last row is not whole.
    pub fn finish(mut self) -> Result<usize> {
        let rows = self.len.checked_div(self.cols).unwrap_or(0);
        if rows * self.cols != self.len {
            // A row may have more numbers than can be counted as bytes.
            let bytes = |n: usize| (n as u64).saturating_mul(4).saturating_add(HEADER as u64);
            let expected = bytes((rows + 1).saturating_mul(self.cols));
            return Err(Error::Size { path: self.file.target().into(), expected, found: bytes(self.len) });
        }
        if !self.file.is_forward() {
            let sought = self.file.seek(SeekFrom::Start(0));
            sought.map_err(Error::io(self.file.target(), "write"))?;
        }
        self.put(&header(rows, self.cols))?;
        let held = std::mem::take(&mut self.held);
        self.put(&held)?;
        self.file.commit()?;
        Ok(rows)
    }
}

/// Magic, version, length of the rest as u16, a Python dictionary padded with spaces to a line.
fn header(rows: usize, cols: usize) -> Vec<u8> {
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend(((HEADER - 10) as u16).to_le_bytes());
    bytes.extend(format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {cols}), }}").bytes());
    bytes.resize(HEADER - 1, b' ');
    bytes.push(b'\n');
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shape_is_known_at_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.npy");
        let mut writer = Writer::create(&path, 3).unwrap();
        writer.write(&[1.0, 2.0]).unwrap();
        writer.write(&[3.0, -4.0, 5.0, 6.5]).unwrap();
        assert!(!path.exists());
        assert_eq!(writer.finish().unwrap(), 2);
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!(&bytes[..10], b"\x93NUMPY\x01\x00\x76\x00");
        assert_eq!(bytes[127], b'\n');
        let dictionary = std::str::from_utf8(&bytes[10..128]).unwrap().trim_end();
        assert_eq!(dictionary, "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }");
        let numbers: Vec<f32> = bytes[128..].chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
        assert_eq!(numbers, [1.0, 2.0, 3.0, -4.0, 5.0, 6.5]);
        // The longest shape there is still fits.
        assert_eq!(header(usize::MAX, usize::MAX).len(), HEADER);
    }

    #[cfg(unix)]
    #[test]
    fn a_pipe_gets_the_same_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let (path, pipe) = (dir.path().join("a.npy"), dir.path().join("pipe"));
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let there = pipe.clone();
        let reader = std::thread::spawn(move || std::fs::read(there).unwrap());
        for path in [&path, &pipe] {
            let mut writer = Writer::create(path, 2).unwrap();
            writer.write(&[1.0, 2.0, 3.0]).unwrap();
            writer.write(&[4.0]).unwrap();
            assert_eq!(writer.finish().unwrap(), 2);
        }
        assert_eq!(reader.join().unwrap(), std::fs::read(path).unwrap());
    }

    #[test]
    fn half_a_row_leaves_no_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.npy");
        for cols in [3, usize::MAX] {
            let mut writer = Writer::create(&path, cols).unwrap();
            writer.write(&[1.0]).unwrap();
            assert!(matches!(writer.finish(), Err(Error::Size { .. })));
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
