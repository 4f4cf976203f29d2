//! Files that are complete or absent.
//!
//! [`AtomicFile`] writes under a temporary name beside the target; [`AtomicFile::commit`] flushes it to the disk and
//! renames it. A crash, a full disk or a dropped writer leaves the old file as it was.
//!
//! A program that is killed cannot remove its temporary file: the next one that writes the same target does. Whoever writes a
//! temporary file holds a lock on it, which ends with its process, so one that can be locked is nobody's. A process number would
//! not say it: containers that share a folder have their own. Where a file system has no locks, what was left stays; and since some
//! know only those of their own machine, nothing is taken away that was written within a day.
//!
//! ```
//! let path = std::env::temp_dir().join(format!("gently-atomic-{}", std::process::id()));
//! gently_formats::atomic::write(&path, b"whole")?;
//! assert_eq!(std::fs::read(&path).unwrap(), b"whole");
//! # std::fs::remove_file(path).ok();
//! # Ok::<(), gently_formats::Error>(())
//! ```

use crate::{Error, Result};
use std::fs::{File, TryLockError};
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

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
        if target.is_dir() {
            // Told now, not after hours of writing.
            return Err(Error::io(&target, "write")(io::ErrorKind::IsADirectory.into()));
        }
        remove_left(&target);
        let (file, temp) = open_temporary(&target).map_err(Error::io(&target, "write"))?;
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
            // The lock ends with the file, so it is closed when the temporary name is gone.
            .and_then(|file| file.sync_all().and_then(|()| std::fs::rename(&self.temp, &self.target)));
        if done.is_err() {
            // The first error is the one to tell.
            let _ = std::fs::remove_file(&self.temp);
        }
        done.map_err(Error::io(&self.target, "write"))?;
        sync_folder(folder_of(&self.target));
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
            let _parts = buffer.into_parts();
            let _ = std::fs::remove_file(&self.temp);
        }
    }
}

/// The folder of a target.
fn folder_of(target: &Path) -> &Path {
    target.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Makes and locks a temporary file beside the target.
fn open_temporary(target: &Path) -> io::Result<(File, PathBuf)> {
    const MOST: usize = 1000;
    for number in 0..MOST {
        let mut name = std::ffi::OsString::from(".");
        name.push(target.file_name().unwrap_or_default());
        name.push(match number {
            0 => format!(".{}.tmp", std::process::id()),
            _ => format!(".{}-{number}.tmp", std::process::id()),
        });
        let temp = target.with_file_name(name);
        let file = File::options().write(true).create(true).truncate(false).open(&temp)?;
        match file.try_lock() {
            // Another thread writes the same target, or a process of this number in another container.
            Err(TryLockError::WouldBlock) => continue,
            // Without locks the process number alone keeps writers apart.
            Ok(()) | Err(TryLockError::Error(_)) => {}
        }
        // One who clears up may have removed it before it was locked, and another made it anew.
        if is_at(&file, &temp) {
            file.set_len(0)?;
            return Ok((file, temp));
        }
    }
    Err(io::ErrorKind::ResourceBusy.into())
}

/// Whether the open file is the one that the path names.
fn is_at(file: &File, path: &Path) -> bool {
    let (Ok(open), Ok(named)) = (file.metadata(), std::fs::symlink_metadata(path)) else { return false };
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        (open.dev(), open.ino()) == (named.dev(), named.ino())
    }
    // An open file keeps its name elsewhere.
    #[cfg(not(unix))]
    {
        open.is_file() && named.is_file()
    }
}

/// Whether a file was last written longer ago than any writer waits between two writes.
fn is_old(file: &File) -> bool {
    const DAY: Duration = Duration::from_secs(24 * 60 * 60);
    let written = file.metadata().and_then(|data| data.modified());
    written.is_ok_and(|at| at.elapsed().is_ok_and(|ago| ago > DAY))
}

/// Removes the temporary files of this target whose writers are gone.
fn remove_left(target: &Path) {
    let Some(name) = target.file_name().and_then(|name| name.to_str()) else { return };
    let is_temporary = |found: &str| {
        let number = found.strip_prefix('.').and_then(|rest| rest.strip_prefix(name)?.strip_prefix('.'));
        let number = number.and_then(|rest| rest.strip_suffix(".tmp")).unwrap_or_default();
        !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit() || b == b'-')
    };
    // What cannot be seen or removed does no harm but to the room on the disk.
    for entry in std::fs::read_dir(folder_of(target)).into_iter().flatten().flatten() {
        let found = entry.file_name();
        let left = found.to_str().is_some_and(is_temporary) && entry.file_type().is_ok_and(|kind| kind.is_file());
        let path = entry.path();
        if left
            && let Ok(file) = File::options().write(true).open(&path)
            && is_old(&file)
            && file.try_lock().is_ok()
            && is_at(&file, &path)
        {
            let _ = std::fs::remove_file(&path);
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
    fn what_a_killed_program_left_is_removed_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let left = [".a.4000000.tmp", ".a.4000000-1.tmp"];
        let others = [".a.b.7.tmp", ".a.1.7.tmp", ".a..tmp", ".a.x.tmp", "a.7.tmp", ".b.7.tmp"];
        let yesterday = std::time::SystemTime::now() - 2 * Duration::from_secs(24 * 60 * 60);
        for name in left.iter().chain(&others) {
            std::fs::write(at(name), b"half").unwrap();
            File::options().write(true).open(at(name)).unwrap().set_modified(yesterday).unwrap();
        }
        // Somebody of another machine may be writing it.
        std::fs::write(at(".a.8.tmp"), b"half").unwrap();
        std::fs::create_dir(at(".a.9.tmp")).unwrap();
        // Who still writes keeps its file, also in the same process.
        let mut first = AtomicFile::create(at("a")).unwrap();
        assert!(left.iter().all(|name| !at(name).exists()));
        let mut second = AtomicFile::create(at("a")).unwrap();
        first.write_all(b"first").unwrap();
        second.write_all(b"second").unwrap();
        first.commit().unwrap();
        assert_eq!(std::fs::read(at("a")).unwrap(), b"first");
        second.commit().unwrap();
        assert_eq!(std::fs::read(at("a")).unwrap(), b"second");
        let mut found: Vec<String> =
            std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        found.sort();
        let mut expected: Vec<&str> = others.into_iter().chain([".a.8.tmp", ".a.9.tmp", "a"]).collect();
        expected.sort();
        assert_eq!(found, expected);
    }

    #[test]
    fn a_folder_is_no_target() {
        let dir = tempfile::tempdir().unwrap();
        let e = AtomicFile::create(dir.path()).unwrap_err();
        assert!(e.hint().is_some_and(|hint| hint.contains("folder")), "{e}");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_missing_folder_is_an_error_that_names_the_target() {
        let e = write("/nonexistent-gently/x", b"").unwrap_err();
        assert!(e.to_string().contains("/nonexistent-gently/x"), "{e}");
        assert_eq!(e.hint(), Some("check the path"));
    }
}
