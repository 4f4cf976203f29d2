//! Fetching of one file or text by HTTPS.
//!
//! The system's `curl` does it: Windows, macOS and Linux come with it or have it at hand, it knows proxies and certificates, and
//! a TLS library of our own would need a C compiler to build. What it brings comes through a pipe, is written and verified here:
//! a curl whose parent was killed has nobody to write to and ends, and nothing of it gets into a later download.

use super::read::file_sha256;
use super::{Error, Result};
use gently_formats::atomic::is_at;
use gently_formats::bounded;
use std::ffi::OsStr;
use std::fs::{File, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

/// How far a download is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchProgress {
    /// The file's name.
    pub file: String,
    /// What is being done: "fetching", "waiting for another download", "verifying".
    pub stage: &'static str,
    /// Bytes on disk, or those of them that are verified.
    pub done: u64,
    /// Bytes expected, about.
    pub total: u64,
}

impl FetchProgress {
    /// What to show beside the bytes: the file's name while it comes, or what else is being done.
    pub fn what(&self) -> &str {
        if self.stage == FETCHING { &self.file } else { self.stage }
    }
}

/// Hears how far a download is, about ten times a second, and may end it with an error. What has come by then stays, for the next
/// time.
pub type FetchReport<'a> = dyn FnMut(FetchProgress) -> Result<()> + 'a;

const FETCHING: &str = "fetching";
const WAITING: &str = "waiting for another download";
const VERIFYING: &str = "verifying";

/// Time between two reports, and so until one of them can end something.
const LOOK: Duration = Duration::from_millis(100);
/// Bytes that are taken from curl at once.
const PIECE: usize = 1 << 16;
/// How long to wait after each failure that may pass, and so how many there may be. Not curl's own `--retry`, which a person's
/// settings may ask for: it would send again what it has sent.
const PAUSES: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(2)];

/// Somebody who hears of one file.
struct Listener<'a, 'b> {
    file: String,
    total: u64,
    report: &'a mut FetchReport<'b>,
}

impl<'a, 'b> Listener<'a, 'b> {
    fn new(target: &Path, total: u64, report: &'a mut FetchReport<'b>) -> Self {
        Self { file: target.file_name().unwrap_or_default().to_string_lossy().into_owned(), total, report }
    }

    fn tell(&mut self, stage: &'static str, done: u64) -> Result<()> {
        (self.report)(FetchProgress { file: self.file.clone(), stage, done, total: self.total })
    }

    fn sha256(&mut self, path: &Path) -> Result<String> {
        let mut done = 0;
        file_sha256(path, &mut |n| {
            done += n;
            self.tell(VERIFYING, done)
        })
    }
}

/// Fetches files.
#[derive(Debug, Clone)]
pub struct Fetcher {
    /// The `curl` program.
    pub program: PathBuf,
    /// Sent to the address itself as proof of who asks, never to where it redirects.
    pub token: Option<Token>,
}

impl Default for Fetcher {
    fn default() -> Self {
        Self { program: "curl".into(), token: None }
    }
}

/// A secret, which no message shows.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// A token of visible ASCII; `None` for anything else, which could change what the program is told.
    pub fn new(token: &str) -> Option<Self> {
        let plain = |b: u8| b.is_ascii_graphic() && b != b'"' && b != b'\\';
        (!token.is_empty() && token.len() <= 4096 && token.bytes().all(plain)).then(|| Self(token.to_owned()))
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(…)")
    }
}

/// A file that is wanted as it was published: of exactly this size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exact<'a> {
    /// Where it is.
    pub url: &'a str,
    /// Its bytes.
    pub bytes: u64,
    /// Its SHA-256, hex, where it is known.
    pub sha256: Option<&'a str>,
}

/// curl's exit code for a server that does not send a part of a file.
const NO_RANGE: i32 = 33;
/// ... for an answer of 400 and above, among them 416: no such part of a file.
const REFUSED: i32 = 22;
/// ... for a server, or a connection, that took too long.
const TIMED_OUT: i32 = 28;
/// Answers of a server that may be another a moment later.
const BUSY: [u32; 6] = [408, 429, 500, 502, 503, 504];

/// How a run of curl ended.
struct Ended {
    code: Option<i32>,
    said: String,
}

impl Ended {
    /// Whether the failure may pass by itself.
    fn may_pass(&self) -> bool {
        let busy = || BUSY.iter().any(|status| self.said.contains(&format!("error: {status}")));
        self.code == Some(TIMED_OUT) || self.code == Some(REFUSED) && busy()
    }
}

/// A curl, which ends when it is dropped.
struct Curl(Child);

impl Drop for Curl {
    fn drop(&mut self) {
        // Where it has ended already this does nothing.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Curl {
    /// Waits for its end, and takes what it says then.
    fn end(mut self) -> io::Result<Ended> {
        let status = self.0.wait()?;
        Ok(ended(&mut self.0, status))
    }
}

impl Fetcher {
    /// Makes sure that `target` is there and right. A download that was cut off goes on where it stopped; if what comes of it is
    /// wrong, the file is fetched once more from its beginning. With no
    /// `sha256` the one found is written to `TARGET.sha256` the first time, and must be the same later. More than twice the
    /// `bytes`, which are about those expected, is refused. Of several processes that want the file one fetches it and the others
    /// wait, by a lock on `TARGET.lock`.
    ///
    /// # Errors
    /// [`Error::Fetch`], [`Error::Digest`], [`Error::File`], and those of `report`.
    pub fn get(
        &self,
        url: &str,
        target: &Path,
        sha256: Option<&str>,
        bytes: u64,
        report: &mut FetchReport<'_>,
    ) -> Result<()> {
        let mut listener = Listener::new(target, bytes, report);
        let note = with_ending(target, "sha256");
        let known = || match sha256 {
            Some(known) => Some(known.to_owned()),
            None => bounded::read_text(&note, 4096).ok().map(|s| s.trim().to_owned()),
        };
        if target.exists() {
            return verify(target, known().as_deref(), &note, &mut listener);
        }
        let _alone = alone(target, &mut listener)?;
        // Who was waited for has fetched it, or written down its digest.
        let known = known();
        if target.exists() {
            return verify(target, known.as_deref(), &note, &mut listener);
        }
        let most = bytes.saturating_mul(2).saturating_add(1 << 20);
        let resumed = with_ending(target, "part").exists();
        let mut fetch = || {
            let part = self.part(url, target, most, &mut listener)?;
            match verify(&part, known.as_deref(), &note, &mut listener) {
                Err(e @ Error::Digest { .. }) => {
                    // Going on from wrong bytes would not make them right.
                    let _ = std::fs::remove_file(&part);
                    Err(e)
                }
                verified => verified.map(|()| part),
            }
        };
        let part = match fetch() {
            // The beginning may be of an older version of the file.
            Err(Error::Digest { .. }) if resumed => fetch()?,
            done => done?,
        };
        std::fs::rename(&part, target).map_err(Error::io(target, "write"))
    }

    /// Makes sure that `target` is the file that is wanted; one that is not is replaced. Without a digest it is fetched anew:
    /// its size alone does not say that it is the same. A download that was cut off goes on where it stopped.
    ///
    /// # Errors
    /// [`Error::Fetch`], also for another size; [`Error::Digest`]; [`Error::File`]; those of `report`. What is wrong is removed.
    pub fn exact(&self, file: Exact<'_>, target: &Path, report: &mut FetchReport<'_>) -> Result<()> {
        let Exact { url, bytes, sha256 } = file;
        let mut listener = Listener::new(target, bytes, report);
        let size = |path: &Path| std::fs::metadata(path).ok().map(|m| m.len());
        if let (Some(known), true) = (sha256, size(target) == Some(bytes))
            && listener.sha256(target)? == known
        {
            return Ok(());
        }
        let part = with_ending(target, "part");
        // Without a digest nothing says that an old part belongs to this file.
        if size(&part).is_some_and(|n| n > bytes || sha256.is_none()) {
            std::fs::remove_file(&part).map_err(Error::io(&part, "remove"))?;
        }
        if size(&part) != Some(bytes) {
            self.part(url, target, bytes, &mut listener)?;
        }
        let right = match (size(&part), sha256) {
            (found, _) if found != Some(bytes) => {
                let reason = format!("{} bytes came, not the {bytes} that were promised", found.unwrap_or(0));
                Err(Error::Fetch { url: url.into(), reason, target: target.into() })
            }
            (_, Some(known)) => check(&part, known, &mut listener),
            _ => Ok(()),
        };
        if let Err(e @ (Error::Fetch { .. } | Error::Digest { .. })) = right {
            let _ = std::fs::remove_file(&part);
            return Err(e);
        }
        right?;
        std::fs::rename(&part, target).map_err(Error::io(target, "write"))
    }

    /// The text at an address, of at most `most` bytes.
    ///
    /// # Errors
    /// [`Error::Fetch`], also for a longer text or one that is not UTF-8.
    pub fn text(&self, url: &str, most: u64) -> Result<String> {
        let failed = |reason: String| Error::Fetch { url: url.into(), reason, target: PathBuf::new() };
        let mut pauses = PAUSES.iter();
        loop {
            let mut curl = self.start(url, most, &[])?;
            let mut text = Vec::new();
            let read = curl.0.stdout.take().map(|out| out.take(most + 1).read_to_end(&mut text));
            if text.len() as u64 > most {
                return Err(failed(format!("the answer is longer than {most} bytes")));
            }
            let ended = curl.end().map_err(|e| failed(format!("curl: {e}")))?;
            match (read, ended.code) {
                (Some(Ok(_)), Some(0)) => {
                    return String::from_utf8(text).map_err(|_| failed("the answer is not UTF-8".into()));
                }
                (Some(Err(e)), _) => return Err(failed(format!("curl: {e}"))),
                _ => match pauses.next().filter(|_| ended.may_pass()) {
                    Some(pause) => std::thread::sleep(*pause),
                    None => return Err(failed(ended.said)),
                },
            }
        }
    }

    /// Downloads what is missing of `target` into a file beside it, and gives that file.
    fn part(&self, url: &str, target: &Path, most: u64, listener: &mut Listener<'_, '_>) -> Result<PathBuf> {
        make_folder_of(target)?;
        let part = with_ending(target, "part");
        let mut pauses = PAUSES.iter();
        let mut may_begin_again = part.exists();
        loop {
            let end = self.run(url, target, &part, most, listener)?;
            if end.code == Some(0) {
                return Ok(part);
            }
            let refused = end.code == Some(NO_RANGE) || end.code == Some(REFUSED) && end.said.contains("416");
            if refused && std::mem::take(&mut may_begin_again) {
                // What is there cannot be continued: begin again. Any other refusal leaves it for later.
                std::fs::remove_file(&part).map_err(Error::io(&part, "remove"))?;
                continue;
            }
            let Some(pause) = pauses.next().filter(|_| end.may_pass()) else {
                return Err(Error::Fetch { url: url.into(), reason: end.said, target: target.into() });
            };
            let until = Instant::now() + *pause;
            while Instant::now() < until {
                listener.tell(FETCHING, size_of(&part))?;
                std::thread::sleep(LOOK);
            }
        }
    }

    /// Starts curl.
    fn start(&self, url: &str, most: u64, more: &[&OsStr]) -> Result<Curl> {
        let failed = |reason: String| Error::Fetch { url: url.into(), reason, target: PathBuf::new() };
        // Neither the address nor a redirection may leave HTTPS, unless the address itself never had it.
        let protocols = if url.starts_with("http://") { "=http,https" } else { "=https" };
        let mut command = Command::new(&self.program);
        command
            .args(["--fail", "--location", "--silent", "--show-error", "--globoff"])
            .args(["--proto", protocols, "--proto-redir", protocols])
            .args(["--connect-timeout", "20", "--retry", "0", "--speed-time", "60", "--speed-limit", "1"])
            .args(["--max-filesize", &most.to_string()])
            .args(more);
        if self.token.is_some() {
            // Not on the command line, where every user of the machine could read it.
            command.args(["--config", "-"]);
        }
        let mut child = command
            .arg("--")
            .arg(url)
            .stdin(if self.token.is_some() { Stdio::piped() } else { Stdio::null() })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|e| match e.kind() {
                std::io::ErrorKind::NotFound => failed(super::NO_CURL.into()),
                _ => failed(format!("curl: {e}")),
            })?;
        if let (Some(Token(token)), Some(mut stdin)) = (&self.token, child.stdin.take()) {
            // A program that ended already says why by its exit.
            let _ = writeln!(stdin, "header = \"Authorization: Bearer {token}\"");
        }
        Ok(Curl(child))
    }

    /// Runs curl for what is missing of `part`, which grows to at most `most` bytes. Where the server says how many there are, curl
    /// fails if fewer come.
    fn run(&self, url: &str, target: &Path, part: &Path, most: u64, listener: &mut Listener<'_, '_>) -> Result<Ended> {
        let failed = |reason: String| Error::Fetch { url: url.into(), reason, target: target.into() };
        let mut done = size_of(part);
        let from = done.to_string();
        let going_on = ["--continue-at", from.as_str()].map(OsStr::new);
        let more: &[&OsStr] = if done > 0 { &going_on } else { &[] };
        let mut curl = self.start(url, most, more).map_err(|e| match e {
            Error::Fetch { reason, .. } => failed(reason),
            other => other,
        })?;
        let pieces = curl.0.stdout.take().map(pieces).ok_or_else(|| failed("curl: it has no output".into()))?;
        let open = || File::options().append(true).create(true).open(part).map_err(Error::io(part, "write"));
        let mut file = None;
        let mut told = None::<Instant>;
        loop {
            if told.is_none_or(|told| told.elapsed() >= LOOK) {
                listener.tell(FETCHING, done)?;
                told = Some(Instant::now());
            }
            let piece = match pieces.recv_timeout(LOOK) {
                Ok(piece) => piece.map_err(|e| failed(format!("curl: {e}")))?,
                Err(RecvTimeoutError::Timeout) => continue,
                Err(RecvTimeoutError::Disconnected) => break,
            };
            done += piece.len() as u64;
            if done > most {
                // A server that does not say how much it sends.
                drop(file);
                let _ = std::fs::remove_file(part);
                return Err(failed(format!("more than {most} bytes came")));
            }
            // Not before something comes: a refusal leaves no file.
            let file = match &mut file {
                Some(file) => file,
                none => none.insert(open()?),
            };
            file.write_all(&piece).map_err(Error::io(part, "write"))?;
        }
        let ended = curl.end().map_err(|e| failed(format!("curl: {e}")))?;
        if ended.code == Some(0) && file.is_none() {
            // Nothing was missing, or nothing is all that there is.
            open()?;
        }
        Ok(ended)
    }
}

/// What curl writes, in order, read by a thread of its own so that waiting for it can be given up. The thread ends with the pipe,
/// which what curl has started may hold open for a while: nobody waits for that.
fn pieces(mut out: ChildStdout) -> Receiver<io::Result<Vec<u8>>> {
    let (sender, receiver) = sync_channel(4);
    std::thread::spawn(move || {
        loop {
            let mut piece = vec![0; PIECE];
            let read = match out.read(&mut piece) {
                Ok(0) => return,
                Ok(n) => {
                    piece.truncate(n);
                    Ok(piece)
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => Err(e),
            };
            let failed = read.is_err();
            if sender.send(read).is_err() || failed {
                return;
            }
        }
    });
    receiver
}

/// The right to fetch a file, or several that belong together, for as long as this lives.
#[derive(Debug)]
pub struct Alone {
    path: PathBuf,
    /// `None` where the file system has no locks.
    _lock: Option<File>,
}

impl Alone {
    /// Waits for the right to fetch `target`, of about `bytes`: a lock on `TARGET.lock`, which is there for as long as it is held.
    /// Where the file system has no locks the right is anybody's.
    ///
    /// # Errors
    /// [`Error::File`], and those of `report`.
    pub fn wait(target: &Path, bytes: u64, report: &mut FetchReport<'_>) -> Result<Self> {
        alone(target, &mut Listener::new(target, bytes, report))
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        // While it is held: who waits finds that the file is not there any more, and makes another.
        let _ = std::fs::remove_file(&self.path);
    }
}

fn alone(target: &Path, listener: &mut Listener<'_, '_>) -> Result<Alone> {
    make_folder_of(target)?;
    let path = with_ending(target, "lock");
    loop {
        // Each time anew: who has it takes the file away.
        let opened = File::options().write(true).create(true).truncate(false).open(&path);
        let file = opened.map_err(Error::io(&path, "write"))?;
        match file.try_lock() {
            Ok(()) if is_at(&file, &path) => return Ok(Alone { path, _lock: Some(file) }),
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                listener.tell(WAITING, 0)?;
                std::thread::sleep(LOOK);
            }
            Err(TryLockError::Error(_)) => return Ok(Alone { path, _lock: None }),
        }
    }
}

fn make_folder_of(target: &Path) -> Result<()> {
    match target.parent() {
        Some(folder) => std::fs::create_dir_all(folder).map_err(Error::io(folder, "create")),
        None => Ok(()),
    }
}

/// Bytes of a file, 0 where there is none.
fn size_of(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |m| m.len())
}

/// What curl said at its end.
fn ended(child: &mut Child, status: ExitStatus) -> Ended {
    let mut said = String::new();
    if let Some(stderr) = child.stderr.take() {
        // It is short, and not worth an error of its own.
        let _ = stderr.take(1 << 16).read_to_string(&mut said);
    }
    let said = said.lines().next_back().unwrap_or("").trim_start_matches("curl: ").to_owned();
    Ended { code: status.code(), said: if said.is_empty() { format!("curl ended with {status}") } else { said } }
}

/// Checks a file against its digest.
fn check(path: &Path, expected: &str, listener: &mut Listener<'_, '_>) -> Result<()> {
    let found = listener.sha256(path)?;
    if found == expected {
        return Ok(());
    }
    Err(Error::Digest { path: path.into(), expected: expected.into(), found })
}

/// Checks a file against its digest, or notes the digest down.
fn verify(path: &Path, known: Option<&str>, note: &Path, listener: &mut Listener<'_, '_>) -> Result<()> {
    match known {
        Some(expected) => check(path, expected, listener),
        None => Ok(gently_formats::atomic::write(note, format!("{}\n", listener.sha256(path)?).as_bytes())?),
    }
}

fn with_ending(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(format!(".{ending}"));
    path.with_file_name(name)
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    const TEXT: &str = "fetched text\n";
    const URL: &str = "https://example.invalid/a.txt";

    /// A stand-in for curl: a shell script that is told in `$AT` how many bytes are there already, if there are any.
    fn curl(dir: &Path, script: &str) -> Fetcher {
        let program = dir.join("curl");
        let prelude = "#!/bin/sh\nwhile [ $# -gt 0 ]; do [ \"$1\" = --continue-at ] && AT=\"$2\"; shift; done\n";
        std::fs::write(&program, format!("{prelude}{script}\n")).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        Fetcher { program, token: None }
    }

    /// Hears nothing.
    fn deaf(_: FetchProgress) -> Result<()> {
        Ok(())
    }

    fn digest() -> String {
        use sha2::Digest;
        super::super::read::hex(&sha2::Sha256::digest(TEXT))
    }

    #[test]
    fn a_good_file_is_kept_and_not_fetched_again() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("data/a.txt");
        let good = curl(dir.path(), "printf 'fetched text\\n'");
        good.get(URL, &target, Some(&digest()), 13, &mut deaf).unwrap();
        assert_eq!(std::fs::read_to_string(&target).unwrap(), TEXT);
        let none = Fetcher { program: "/nonexistent/curl".into(), token: None };
        none.get(URL, &target, Some(&digest()), 13, &mut deaf).unwrap();
        std::fs::write(&target, "changed").unwrap();
        let e = none.get(URL, &target, Some(&digest()), 13, &mut deaf).unwrap_err();
        assert!(matches!(e, Error::Digest { .. }), "{e}");
    }

    #[test]
    fn a_first_download_fixes_the_digest() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("a.txt");
        curl(dir.path(), "printf 'fetched text\\n'").get(URL, &target, None, 13, &mut deaf).unwrap();
        assert_eq!(std::fs::read_to_string(dir.path().join("a.txt.sha256")).unwrap().trim(), digest());
        std::fs::remove_file(&target).unwrap();
        let other = curl(dir.path(), "printf 'other'");
        assert!(matches!(other.get(URL, &target, None, 13, &mut deaf), Err(Error::Digest { .. })));
        assert!(!target.exists() && !dir.path().join("a.txt.part").exists());
    }

    #[test]
    fn an_interrupted_download_goes_on_or_begins_again() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("a.txt");
        std::fs::write(dir.path().join("a.txt.part"), "fetched ").unwrap();
        let goes_on = curl(dir.path(), "[ \"$AT\" = 8 ] && printf 'text\\n'");
        goes_on.get(URL, &target, Some(&digest()), 13, &mut deaf).unwrap();
        std::fs::remove_file(&target).unwrap();
        std::fs::write(dir.path().join("a.txt.part"), "something").unwrap();
        let no_range = curl(dir.path(), "[ -n \"$AT\" ] && exit 33; printf 'fetched text\\n'");
        no_range.get(URL, &target, Some(&digest()), 13, &mut deaf).unwrap();
    }

    #[test]
    fn the_beginning_of_an_older_version_is_fetched_anew() {
        let dir = tempfile::tempdir().unwrap();
        let (target, part) = (dir.path().join("a.txt"), dir.path().join("a.txt.part"));
        let goes_on = "if [ -n \"$AT\" ]; then printf 'text\\n'; else printf 'fetched text\\n'; fi";
        let server = curl(dir.path(), &format!("echo run >> {}/runs; {goes_on}", dir.path().display()));
        let runs = || std::fs::read_to_string(dir.path().join("runs")).unwrap_or_default().lines().count();
        std::fs::write(&part, "FETCHED ").unwrap();
        server.get(URL, &target, Some(&digest()), 13, &mut deaf).unwrap();
        assert_eq!((std::fs::read_to_string(&target).unwrap().as_str(), runs()), (TEXT, 2));
        // Wrong from its beginning, it is not fetched again.
        std::fs::remove_file(&target).unwrap();
        let e = server.get(URL, &target, Some("0"), 13, &mut deaf).unwrap_err();
        assert!(matches!(e, Error::Digest { .. }), "{e}");
        assert_eq!((part.exists(), runs()), (false, 3));
        // Wrong both times.
        std::fs::write(&part, "FETCHED ").unwrap();
        let e = server.get(URL, &target, Some("0"), 13, &mut deaf).unwrap_err();
        assert!(matches!(e, Error::Digest { .. }), "{e}");
        assert_eq!((part.exists(), target.exists(), runs()), (false, false, 5));
    }

    #[test]
    fn of_two_that_want_a_file_one_fetches_it() {
        let dir = tempfile::tempdir().unwrap();
        let (target, runs) = (dir.path().join("a.txt"), dir.path().join("runs"));
        let script = format!("echo run >> {}; printf 'fetched '; sleep 0.3; printf 'text\\n'", runs.display());
        let slow = curl(dir.path(), &script);
        // With no digest known, what comes first would be taken for right for ever.
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| slow.get(URL, &target, None, 13, &mut deaf).unwrap());
            }
        });
        assert_eq!(std::fs::read_to_string(&target).unwrap(), TEXT);
        assert_eq!(std::fs::read_to_string(dir.path().join("a.txt.sha256")).unwrap().trim(), digest());
        assert_eq!(std::fs::read_to_string(&runs).unwrap(), "run\n");
        assert!(!dir.path().join("a.txt.lock").exists());
        // Who waits says so, and may be called off.
        std::fs::remove_file(&target).unwrap();
        let held = File::create(dir.path().join("a.txt.lock")).unwrap();
        held.lock().unwrap();
        let mut what = String::new();
        let e = slow.get(URL, &target, None, 13, &mut |now| {
            what = now.what().to_owned();
            Err(Error::Stopped)
        });
        assert!(matches!(e, Err(Error::Stopped)) && what == WAITING, "{what}");
    }

    #[test]
    fn a_download_that_is_called_off_ends_and_keeps_what_came() {
        let dir = tempfile::tempdir().unwrap();
        let (target, pid) = (dir.path().join("a.txt"), dir.path().join("pid"));
        let endless = curl(dir.path(), &format!("echo $$ > {}; printf 'fetched '; exec sleep 600", pid.display()));
        let e = endless.get(URL, &target, Some(&digest()), 13, &mut |now| match now.done {
            0 => Ok(()),
            _ => Err(Error::Stopped),
        });
        assert!(matches!(e, Err(Error::Stopped)));
        let pid = std::fs::read_to_string(&pid).unwrap();
        let asked = Command::new("sh").args(["-c", &format!("kill -0 {pid}")]).stderr(Stdio::null()).status();
        assert!(!asked.unwrap().success(), "curl goes on");
        let rest = curl(dir.path(), "[ \"$AT\" = 8 ] && printf 'text\\n'");
        rest.get(URL, &target, Some(&digest()), 13, &mut deaf).unwrap();
        assert_eq!(std::fs::read_to_string(&target).unwrap(), TEXT);
    }

    #[test]
    fn a_server_that_is_busy_is_asked_again_for_what_is_missing() {
        let dir = tempfile::tempdir().unwrap();
        let (target, asked) = (dir.path().join("a.txt"), dir.path().join("asked"));
        let script = format!(
            "if [ -e {0} ]; then [ \"$AT\" = 8 ] && printf 'text\\n'; exit; fi; touch {0}; printf 'fetched '; \
             echo 'curl: (28) Operation too slow' >&2; exit 28",
            asked.display()
        );
        curl(dir.path(), &script).get(URL, &target, Some(&digest()), 13, &mut deaf).unwrap();
        let said = |code: i32, said: &str| Ended { code: Some(code), said: said.into() };
        assert!(said(22, "(22) The requested URL returned error: 503").may_pass());
        for (code, text) in [(22, "(22) The requested URL returned error: 404"), (18, "transfer closed"), (6, "")] {
            assert!(!said(code, text).may_pass(), "{code}");
        }
    }

    #[test]
    fn nothing_is_a_file_too() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("a.txt");
        curl(dir.path(), "exit 0").exact(Exact { url: URL, bytes: 0, sha256: None }, &target, &mut deaf).unwrap();
        assert_eq!(std::fs::read(&target).unwrap(), b"");
    }

    #[test]
    fn offline_says_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("a.txt");
        let offline = curl(dir.path(), "echo 'curl: (6) Could not resolve host: example.invalid' >&2; exit 6");
        let e = offline.get(URL, &target, None, 13, &mut deaf).unwrap_err();
        assert!(e.to_string().contains("Could not resolve host"), "{e}");
        assert!(e.hint().unwrap().contains("a.txt") && e.hint().unwrap().contains("kjv"));
        let none = Fetcher { program: "/nonexistent/curl".into(), token: None };
        let e = none.get(URL, &target, None, 13, &mut deaf).unwrap_err();
        assert!(e.to_string().contains("not installed") && e.hint().unwrap().contains("install curl"), "{e}");
    }

    #[test]
    fn an_exact_file_is_replaced_when_it_is_another() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("a.txt");
        let digest = digest();
        let file = |sha256| Exact { url: URL, bytes: 13, sha256 };
        let good = curl(dir.path(), "printf 'fetched text\\n'");
        std::fs::write(&target, "another text\n").unwrap();
        good.exact(file(Some(&digest)), &target, &mut deaf).unwrap();
        assert_eq!(std::fs::read_to_string(&target).unwrap(), TEXT);
        let none = Fetcher { program: "/nonexistent/curl".into(), token: None };
        none.exact(file(Some(&digest)), &target, &mut deaf).unwrap();
        // Without a digest only fetching says that it is the same.
        assert!(none.exact(file(None), &target, &mut deaf).is_err());
        good.exact(file(None), &target, &mut deaf).unwrap();
        let short = curl(dir.path(), "printf 'fetched'");
        let e = short.exact(file(None), &target, &mut deaf).unwrap_err();
        assert!(e.to_string().contains("7 bytes came, not the 13"), "{e}");
        assert_eq!(std::fs::read_to_string(&target).unwrap(), TEXT, "what was there stays");
        assert!(!dir.path().join("a.txt.part").exists());
        let long = curl(dir.path(), "printf 'fetched text and more'; sleep 1");
        assert!(long.exact(file(None), &target, &mut deaf).unwrap_err().to_string().contains("bytes came"));
        // A whole part is only verified.
        std::fs::remove_file(&target).unwrap();
        std::fs::write(dir.path().join("a.txt.part"), TEXT).unwrap();
        none.exact(file(Some(&digest)), &target, &mut deaf).unwrap();
    }

    #[test]
    fn a_token_goes_by_standard_input_and_texts_are_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let mut echo = curl(dir.path(), "cat");
        echo.token = Token::new("hf_secret");
        assert_eq!(echo.text(URL, 100).unwrap(), "header = \"Authorization: Bearer hf_secret\"\n");
        assert!(echo.text(URL, 10).unwrap_err().to_string().contains("longer than 10 bytes"));
        assert!(!format!("{echo:?}").contains("secret"));
        assert!(Token::new("a\nb").is_none() && Token::new("a\"").is_none() && Token::new("").is_none());
    }
}
