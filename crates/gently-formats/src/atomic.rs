//! Files that are complete or absent.
//!
//! [`AtomicFile`] writes under a temporary name beside the target; [`AtomicFile::commit`] flushes it to the disk and
//! renames it. A crash, a full disk or a dropped writer leaves the old file as it was. What takes its place has its permissions, and
//! where the target is a link, the link stays and the file that it leads to is replaced.
//!
//! A pipe, a character device and an open file of the process (`/dev/stdout`, `/dev/fd/3`) cannot be replaced: they are written as
//! they stand, forward only, and nothing is taken back that was written.
//!
//! A program that a signal ends removes its temporary files by [`crate::unfinished`]. One that is killed cannot: the next one that
//! writes the same target does. Whoever writes a temporary file holds a lock on it, which ends with its process, so one that can be
//! locked is nobody's. A process number would not say it: containers that share a folder have their own. Where a file system has no
//! locks, what was left stays; and since some know only those of their own machine, nothing is taken away that was written within a
//! day.
//!
//! ```
//! let path = std::env::temp_dir().join(format!("gently-atomic-{}", std::process::id()));
//! gently_formats::atomic::write(&path, b"whole")?;
//! assert_eq!(std::fs::read(&path).unwrap(), b"whole");
//! # std::fs::remove_file(path).ok();
//! # Ok::<(), gently_formats::Error>(())
//! ```

use crate::unfinished::{self, Unfinished};
use crate::{Error, Result};
use std::fs::{File, Metadata, TryLockError};
use std::io::{self, BufWriter, ErrorKind, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A file being written under a temporary name, or a pipe or device being written as it stands.
#[derive(Debug)]
pub struct AtomicFile {
    /// `None` once committed.
    file: Option<BufWriter<File>>,
    target: PathBuf,
    /// `None` where the target is written itself.
    temporary: Option<Temporary>,
}

/// A temporary file, and the file that it is to become.
#[derive(Debug)]
struct Temporary {
    temp: PathBuf,
    real: PathBuf,
    unfinished: Unfinished,
}

impl AtomicFile {
    /// Starts a file that will appear at `target`. Waits for the reader of a pipe.
    ///
    /// # Errors
    /// [`Error::Io`] naming the target: also for a folder, a disk and what else is neither a file nor written forward.
    pub fn create(target: impl AsRef<Path>) -> Result<Self> {
        let target = target.as_ref().to_owned();
        let (file, temporary) = begin(&target).map_err(Error::io(&target, "write"))?;
        Ok(Self { file: Some(BufWriter::with_capacity(1 << 18, file)), target, temporary })
    }

    /// Where the file will be, as it was named.
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// Whether what is written goes to its reader at once: there is no going back in it.
    pub fn is_forward(&self) -> bool {
        self.temporary.is_none()
    }

    /// Puts the file in its place: flush, fsync, rename, fsync of the folder. What is written forward is flushed.
    ///
    /// # Errors
    /// [`Error::Io`] naming the target; the temporary file is removed and an older target is intact.
    pub fn commit(mut self) -> Result<()> {
        let Some(buffer) = self.file.take() else { return Ok(()) };
        let written = buffer.into_inner().map_err(io::IntoInnerError::into_error);
        let done = match (written, self.temporary.take()) {
            (Ok(file), Some(temporary)) => temporary.put(file),
            (Ok(_), None) => Ok(()),
            (Err(e), temporary) => {
                if let Some(temporary) = temporary {
                    temporary.remove();
                }
                Err(e)
            }
        };
        done.map_err(Error::io(&self.target, "write"))
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
        match self.is_forward() {
            // A file that is appended to would take the place and write at its end.
            true => Err(ErrorKind::NotSeekable.into()),
            false => self.inner()?.seek(to),
        }
    }
}

impl Drop for AtomicFile {
    fn drop(&mut self) {
        if let Some(buffer) = self.file.take() {
            // Not `drop(buffer)`: that would write the rest of a file that is to be removed.
            let _parts = buffer.into_parts();
            if let Some(temporary) = self.temporary.take() {
                temporary.remove();
            }
        }
    }
}

impl Temporary {
    /// Flushes the file to the disk and gives it its name. After an error it is removed.
    fn put(self, file: File) -> io::Result<()> {
        let Self { temp, real, unfinished } = self;
        let done = file.sync_all().and_then(|()| unfinished.finish(|| std::fs::rename(&temp, &real)));
        match &done {
            Ok(()) => sync_folder(folder_of(&real)),
            // The first error is the one to tell.
            Err(_) => drop(std::fs::remove_file(&temp)),
        }
        // The lock ends with the file, so it is closed when the temporary name is gone.
        drop(file);
        done
    }

    /// Removes the file.
    fn remove(self) {
        let _ = std::fs::remove_file(&self.temp);
    }
}

/// Opens what is written for `target`: a temporary file, or the target itself.
fn begin(target: &Path) -> io::Result<(File, Option<Temporary>)> {
    let there = match std::fs::metadata(target) {
        Ok(there) => Some(there),
        Err(e) if e.kind() == ErrorKind::NotFound => None,
        Err(e) => return Err(e),
    };
    if there.as_ref().is_some_and(Metadata::is_dir) {
        // Told now, not after hours of writing.
        return Err(ErrorKind::IsADirectory.into());
    }
    let real = follow(target);
    if let Some(there) = &there
        && (is_open_file(&real) || !there.is_file())
    {
        return Ok((open_itself(&real, there)?, None));
    }
    remove_left(&real);
    // Made and noted in one: a signal between the two would leave it.
    let mut list = unfinished::list();
    let (file, temp) = open_temporary(&real)?;
    let left = temp.clone();
    let unfinished = list.note(move || drop(std::fs::remove_file(left)));
    drop(list);
    #[cfg(unix)]
    if let Some(there) = &there {
        // Before anything is in it. A file system without permissions refuses, and has the same for all files.
        let _ = file.set_permissions(there.permissions());
    }
    Ok((file, Some(Temporary { temp, real, unfinished })))
}

/// Where a target's links lead, one after another. An open file of a process is a link too, which leads nowhere: it is the end.
fn follow(target: &Path) -> PathBuf {
    // As many as the system follows.
    const MOST: usize = 40;
    let mut real = target.to_owned();
    for _ in 0..MOST {
        match std::fs::read_link(&real) {
            Ok(next) if !is_open_file(&real) => real = folder_of(&real).join(next),
            _ => break,
        }
    }
    real
}

/// Whether a path without links at its end is that of an open file of some process.
fn is_open_file(path: &Path) -> bool {
    let folder = folder_of(path).canonicalize();
    folder.is_ok_and(|folder| folder.starts_with("/proc") || folder == Path::new("/dev/fd"))
}

/// Opens what cannot be replaced, to write at its end.
fn open_itself(path: &Path, there: &Metadata) -> io::Result<File> {
    #[cfg(unix)]
    {
        use std::os::fd::AsFd;
        use std::os::unix::fs::FileTypeExt;
        let folder = folder_of(path).canonicalize();
        let own = ["/dev/fd", "/proc/self/fd"].into_iter().filter_map(|own| Path::new(own).canonicalize().ok());
        if folder.is_ok_and(|folder| own.into_iter().any(|own| own == folder)) {
            // The descriptor itself and not the file anew: it knows where in the file it is, and may be a socket.
            match path.file_name().and_then(|name| name.to_str()) {
                Some("1") => return Ok(io::stdout().as_fd().try_clone_to_owned()?.into()),
                Some("2") => return Ok(io::stderr().as_fd().try_clone_to_owned()?.into()),
                _ => {}
            }
        }
        let kind = there.file_type();
        if !(kind.is_file() || kind.is_fifo() || kind.is_char_device()) {
            return Err(io::Error::new(ErrorKind::InvalidInput, "it is a disk or a socket, not a file or a pipe"));
        }
    }
    #[cfg(not(unix))]
    let _ = there;
    File::options().append(true).open(path)
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
    Err(ErrorKind::ResourceBusy.into())
}

/// Whether the open file is the one that the path names. Who has locked a file that others take away when they are done must ask:
/// it may have been taken away, and another one made, before it was locked.
pub fn is_at(file: &File, path: &Path) -> bool {
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

    #[cfg(unix)]
    #[test]
    fn links_stay_and_so_do_permissions() {
        use std::os::unix::fs::{PermissionsExt, symlink};
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::create_dir(at("far")).unwrap();
        std::fs::write(at("far/real"), b"old").unwrap();
        std::fs::set_permissions(at("far/real"), std::fs::Permissions::from_mode(0o600)).unwrap();
        symlink("far/real", at("near")).unwrap();
        symlink("near", at("nearer")).unwrap();
        symlink("far/new", at("dangling")).unwrap();
        let mut file = AtomicFile::create(at("nearer")).unwrap();
        assert!(!file.is_forward());
        let half = std::fs::read_dir(at("far")).unwrap().map(|e| e.unwrap());
        let half = half.filter(|e| e.file_name() != "real").map(|e| e.metadata().unwrap().permissions().mode());
        assert_eq!(half.map(|mode| mode & 0o777).collect::<Vec<_>>(), [0o600], "also while it is half");
        file.write_all(b"new").unwrap();
        file.commit().unwrap();
        write(at("dangling"), b"first").unwrap();
        for (link, to) in [("near", "far/real"), ("nearer", "near"), ("dangling", "far/new")] {
            assert_eq!(std::fs::read_link(at(link)).unwrap(), Path::new(to));
        }
        assert_eq!(std::fs::read(at("far/real")).unwrap(), b"new");
        assert_eq!(std::fs::metadata(at("far/real")).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read(at("far/new")).unwrap(), b"first");
        symlink("round", at("round")).unwrap();
        assert!(write(at("round"), b"").is_err());
        let names = |dir: &Path| std::fs::read_dir(dir).unwrap().count();
        assert_eq!((names(dir.path()), names(&at("far"))), (5, 2), "nothing half is left");
    }

    #[cfg(unix)]
    #[test]
    fn pipes_and_devices_are_written_and_stay() {
        use std::os::unix::fs::FileTypeExt;
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let make = |program: &str, args: &[&str]| {
            let made = std::process::Command::new(program).args(args).current_dir(dir.path()).output();
            made.is_ok_and(|made| made.status.success())
        };
        assert!(make("mkfifo", &["pipe"]));
        std::os::unix::fs::symlink("pipe", at("link")).unwrap();
        let pipe = at("pipe");
        let reader = std::thread::spawn(move || std::fs::read(pipe).unwrap());
        let mut file = AtomicFile::create(at("link")).unwrap();
        assert!(file.is_forward());
        // More than a pipe holds.
        file.write_all(&[b'x'; 1 << 17]).unwrap();
        assert_eq!(file.seek(SeekFrom::Start(0)).unwrap_err().kind(), ErrorKind::NotSeekable);
        file.commit().unwrap();
        assert!(reader.join().unwrap() == vec![b'x'; 1 << 17]);
        assert!(std::fs::symlink_metadata(at("pipe")).unwrap().file_type().is_fifo());
        // A device that takes everything; only the system's owner can make one.
        if make("mknod", &["null", "c", "1", "3"]) && File::options().append(true).open(at("null")).is_ok() {
            write(at("null"), b"gone").unwrap();
            assert!(std::fs::symlink_metadata(at("null")).unwrap().file_type().is_char_device());
        }
        let _socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
        let e = write(at("socket"), b"").unwrap_err();
        assert!(e.hint().is_some_and(|hint| hint.contains("regular file")), "{e}");
        assert!(std::fs::symlink_metadata(at("socket")).unwrap().file_type().is_socket());
        let names = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
        assert!(names.into_iter().all(|name| ["pipe", "link", "null", "socket"].contains(&name.as_str())));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn an_open_file_is_written_at_its_end() {
        use std::os::fd::AsRawFd;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        let mut open = File::create(&path).unwrap();
        open.write_all(b"before ").unwrap();
        // As the shell has it: a link of a link, which ends in the file's own name.
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(format!("/proc/self/fd/{}", open.as_raw_fd()), &link).unwrap();
        write(&link, b"after").unwrap();
        assert!(is_at(&open, &path), "the file is not another one");
        assert_eq!(std::fs::read(&path).unwrap(), b"before after");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
    }

    #[test]
    fn a_missing_folder_is_an_error_that_names_the_target() {
        let e = write("/nonexistent-gently/x", b"").unwrap_err();
        assert!(e.to_string().contains("/nonexistent-gently/x"), "{e}");
        assert_eq!(e.hint(), Some("check the path"));
    }
}
