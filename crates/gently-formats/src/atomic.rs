//! Files that are complete or absent.
//!
//! [`AtomicFile`] writes under a temporary name beside the target; [`AtomicFile::commit`] flushes it to the disk and
//! renames it. A crash, a full disk or a dropped writer leaves the old file as it was.
//!
//! ```
//! let path = std::env::temp_dir().join(format!("gently-atomic-{}", std::process::id()));
//! gently_formats::atomic::write(&path, b"whole")?;
//! assert_eq!(std::fs::read(&path).unwrap(), b"whole");
//! # std::fs::remove_file(path).ok();
//! # Ok::<(), gently_formats::Error>(())
//! ```

use crate::{Error, Result};
use std::fs::File;
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// A file being written under a temporary name.
#[derive(Debug)]
pub struct AtomicFile {
    /// `None` once committed.
    file: Option<BufWriter<File>>,
    temp: PathBuf,
    target: PathBuf,
}

impl AtomicFile {
    /// Starts a file that will appear at `target`.
    ///
    /// # Errors
    /// [`Error::Io`] naming the target.
    pub fn create(target: impl AsRef<Path>) -> Result<Self> {
        let target = target.as_ref().to_owned();
        let mut name = std::ffi::OsString::from(".");
        name.push(target.file_name().unwrap_or_default());
        name.push(format!(".{}.tmp", std::process::id()));
        let temp = target.with_file_name(name);
        let file = File::create(&temp).map_err(Error::io(&target, "write"))?;
        Ok(Self { file: Some(BufWriter::with_capacity(1 << 18, file)), temp, target })
    }

    /// Where the file will be.
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// Puts the file in its place: flush, fsync, rename, fsync of the folder.
    ///
    /// # Errors
    /// [`Error::Io`] naming the target; the temporary file is removed and an older target is intact.
    pub fn commit(mut self) -> Result<()> {
        let Some(buffer) = self.file.take() else { return Ok(()) };
        let done = buffer
            .into_inner()
            .map_err(io::IntoInnerError::into_error)
            .and_then(|file| file.sync_all())
            .and_then(|()| std::fs::rename(&self.temp, &self.target));
        if done.is_err() {
            // The first error is the one to tell.
            let _ = std::fs::remove_file(&self.temp);
        }
        done.map_err(Error::io(&self.target, "write"))?;
        sync_folder(self.target.parent().unwrap_or(Path::new(".")));
        Ok(())
    }

    fn inner(&mut self) -> io::Result<&mut BufWriter<File>> {
        self.file.as_mut().ok_or_else(|| io::Error::other("the file is already committed"))
    }
}

impl Write for AtomicFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.inner()?.write(bytes)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.inner()?.flush()
    }
}

impl Seek for AtomicFile {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.inner()?.seek(to)
    }
}

impl Drop for AtomicFile {
    fn drop(&mut self) {
        if let Some(buffer) = self.file.take() {
            // Not `drop(buffer)`: that would write the rest of a file that is to be removed.
            let _ = buffer.into_parts();
            let _ = std::fs::remove_file(&self.temp);
        }
    }
}

/// Writes a whole small file.
///
/// # Errors
/// As [`AtomicFile`].
pub fn write(target: impl AsRef<Path>, bytes: &[u8]) -> Result<()> {
    let target = target.as_ref();
    let mut file = AtomicFile::create(target)?;
    file.write_all(bytes).map_err(Error::io(target, "write"))?;
    file.commit()
}

/// Makes renames in a folder last through a power cut, where the system allows it. Not all do, and the rename
/// itself has been done.
pub fn sync_folder(folder: &Path) {
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    if let Ok(handle) = File::open(folder) {
        let _ = handle.sync_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_file_leaves_the_old_one_and_no_rest() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        write(&path, b"old").unwrap();
        let mut file = AtomicFile::create(&path).unwrap();
        file.write_all(&[b'x'; 1 << 20]).unwrap();
        drop(file);
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_missing_folder_is_an_error_that_names_the_target() {
        let e = write("/nonexistent-gently/x", b"").unwrap_err();
        assert!(e.to_string().contains("/nonexistent-gently/x"), "{e}");
        assert_eq!(e.hint(), Some("check the path"));
    }
}
