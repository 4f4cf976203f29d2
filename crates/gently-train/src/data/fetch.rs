//! Fetching of one file or text by HTTPS.
//!
//! The system's `curl` does it: Windows, macOS and Linux come with it or have it at hand, it knows proxies and certificates, and
//! a TLS library of our own would need a C compiler to build. What it brings is verified here.

use super::read::file_sha256;
use super::{Error, Result};
use gently_formats::bounded;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

/// How far a download is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchProgress {
    /// The file's name.
    pub file: String,
    /// Bytes on disk.
    pub done: u64,
    /// Bytes expected, about.
    pub total: u64,
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

/// How a run of curl ended.
struct Ended {
    code: Option<i32>,
    said: String,
}

impl Fetcher {
    /// Makes sure that `target` is there and right. A download that was cut off goes on where it stopped; if what comes of it is
    /// wrong, the file is fetched once more from its beginning. With no
    /// `sha256` the one found is written to `TARGET.sha256` the first time, and must be the same later. More than twice the
    /// `bytes`, which are about those expected, is refused.
    ///
    /// # Errors
    /// [`Error::Fetch`], [`Error::Digest`], [`Error::Io`].
    pub fn get(
        &self,
        url: &str,
        target: &Path,
        sha256: Option<&str>,
        bytes: u64,
        progress: &mut dyn FnMut(FetchProgress),
    ) -> Result<()> {
        let note = with_ending(target, "sha256");
        let known = match sha256 {
            Some(known) => Some(known.to_owned()),
            None => bounded::read_text(&note, 4096).ok().map(|s| s.trim().to_owned()),
        };
        if target.exists() {
            return verify(target, known.as_deref(), &note);
        }
        let most = bytes.saturating_mul(2).saturating_add(1 << 20);
        let resumed = with_ending(target, "part").exists();
        let mut fetch = || {
            let part = self.part(url, target, bytes, most, progress)?;
            if let Err(e) = verify(&part, known.as_deref(), &note) {
                // Going on from wrong bytes would not make them right.
                let _ = std::fs::remove_file(&part);
                return Err(e);
            }
            Ok(part)
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
    /// [`Error::Fetch`], also for another size; [`Error::Digest`]; [`Error::Io`]. What is wrong is removed.
    pub fn exact(&self, file: Exact<'_>, target: &Path, progress: &mut dyn FnMut(FetchProgress)) -> Result<()> {
        let Exact { url, bytes, sha256 } = file;
        let size = |path: &Path| std::fs::metadata(path).ok().map(|m| m.len());
        if let (Some(known), true) = (sha256, size(target) == Some(bytes))
            && file_sha256(target)? == known
        {
            return Ok(());
        }
        let part = with_ending(target, "part");
        // Without a digest nothing says that an old part belongs to this file.
        if size(&part).is_some_and(|n| n > bytes || sha256.is_none()) {
            std::fs::remove_file(&part).map_err(Error::io(&part, "remove"))?;
        }
        if size(&part) != Some(bytes) {
            self.part(url, target, bytes, bytes, progress)?;
        }
        let right = match (size(&part), sha256) {
            (Some(found), _) if found != bytes => {
                let reason = format!("{found} bytes came, not the {bytes} that were promised");
                Err(Error::Fetch { url: url.into(), reason, target: target.into() })
            }
            (_, Some(known)) => check(&part, known),
            _ => Ok(()),
        };
        if let Err(e) = right {
            let _ = std::fs::remove_file(&part);
            return Err(e);
        }
        std::fs::rename(&part, target).map_err(Error::io(target, "write"))
    }

    /// The text at an address, of at most `most` bytes.
    ///
    /// # Errors
    /// [`Error::Fetch`], also for a longer text or one that is not UTF-8.
    pub fn text(&self, url: &str, most: u64) -> Result<String> {
        let failed = |reason: String| Error::Fetch { url: url.into(), reason, target: PathBuf::new() };
        let mut child = self.start(url, most, &[])?;
        let mut text = Vec::new();
        let read = child.stdout.take().map(|out| out.take(most + 1).read_to_end(&mut text));
        if text.len() as u64 > most {
            let _ = child.kill();
            let _ = child.wait();
            return Err(failed(format!("the answer is longer than {most} bytes")));
        }
        let status = child.wait().map_err(|e| failed(format!("curl: {e}")))?;
        let ended = ended(&mut child, status);
        match (read, ended.code) {
            (Some(Ok(_)), Some(0)) => String::from_utf8(text).map_err(|_| failed("the answer is not UTF-8".into())),
            (Some(Err(e)), _) => Err(failed(format!("curl: {e}"))),
            _ => Err(failed(ended.said)),
        }
    }

    /// Downloads what is missing of `target` into a file beside it, and gives that file.
    fn part(
        &self,
        url: &str,
        target: &Path,
        bytes: u64,
        most: u64,
        progress: &mut dyn FnMut(FetchProgress),
    ) -> Result<PathBuf> {
        if let Some(folder) = target.parent() {
            std::fs::create_dir_all(folder).map_err(Error::io(folder, "create"))?;
        }
        let part = with_ending(target, "part");
        let mut end = self.run(url, target, &part, (bytes, most), progress)?;
        let refused = end.code == Some(NO_RANGE) || end.code == Some(REFUSED) && end.said.contains("416");
        if refused && part.exists() {
            // What is there cannot be continued: begin again. Any other refusal leaves it for later.
            std::fs::remove_file(&part).map_err(Error::io(&part, "remove"))?;
            end = self.run(url, target, &part, (bytes, most), progress)?;
        }
        match end.code {
            Some(0) => Ok(part),
            _ => Err(Error::Fetch { url: url.into(), reason: end.said, target: target.into() }),
        }
    }

    /// Starts curl.
    fn start(&self, url: &str, most: u64, more: &[&std::ffi::OsStr]) -> Result<Child> {
        let failed = |reason: String| Error::Fetch { url: url.into(), reason, target: PathBuf::new() };
        // Neither the address nor a redirection may leave HTTPS, unless the address itself never had it.
        let protocols = if url.starts_with("http://") { "=http,https" } else { "=https" };
        let mut command = Command::new(&self.program);
        command
            .args(["--fail", "--location", "--silent", "--show-error", "--globoff"])
            .args(["--proto", protocols, "--proto-redir", protocols])
            .args(["--connect-timeout", "20", "--retry", "2", "--speed-time", "60", "--speed-limit", "1"])
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
        Ok(child)
    }

    /// Runs curl and watches the file grow to the expected and at most the second number of bytes.
    fn run(
        &self,
        url: &str,
        target: &Path,
        part: &Path,
        (total, most): (u64, u64),
        progress: &mut dyn FnMut(FetchProgress),
    ) -> Result<Ended> {
        let failed = |reason: String| Error::Fetch { url: url.into(), reason, target: target.into() };
        let output = ["--continue-at", "-", "--output"].map(std::ffi::OsStr::new);
        let mut child = self.start(url, most, &[&output[..], &[part.as_os_str()]].concat()).map_err(|e| match e {
            Error::Fetch { reason, .. } => failed(reason),
            other => other,
        })?;
        let file = target.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let status = loop {
            if let Some(status) = child.try_wait().map_err(|e| failed(format!("curl: {e}")))? {
                break status;
            }
            let done = std::fs::metadata(part).map_or(0, |m| m.len());
            if done > most {
                // A server that does not say how much it sends.
                let _ = child.kill();
                let _ = child.wait();
                let _ = std::fs::remove_file(part);
                return Err(failed(format!("more than {most} bytes came")));
            }
            progress(FetchProgress { file: file.clone(), done, total });
            std::thread::sleep(Duration::from_millis(100));
        };
        Ok(ended(&mut child, status))
    }
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
fn check(path: &Path, expected: &str) -> Result<()> {
    let found = file_sha256(path)?;
    if found == expected {
        return Ok(());
    }
    Err(Error::Digest { path: path.into(), expected: expected.into(), found })
}

/// Checks a file against its digest, or notes the digest down.
fn verify(path: &Path, known: Option<&str>, note: &Path) -> Result<()> {
    match known {
        Some(expected) => check(path, expected),
        None => Ok(gently_formats::atomic::write(note, format!("{}\n", file_sha256(path)?).as_bytes())?),
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

    /// A stand-in for curl: a shell script that gets the output file as `$OUT`.
    fn curl(dir: &Path, script: &str) -> Fetcher {
        let program = dir.join("curl");
        let prelude = "#!/bin/sh\nwhile [ $# -gt 0 ]; do [ \"$1\" = --output ] && OUT=\"$2\"; shift; done\n";
        std::fs::write(&program, format!("{prelude}{script}\n")).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        Fetcher { program, token: None }
    }

    fn digest() -> String {
        use sha2::Digest;
        super::super::read::hex(&sha2::Sha256::digest(TEXT))
    }

    #[test]
    fn a_good_file_is_kept_and_not_fetched_again() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("data/a.txt");
        let good = curl(dir.path(), "printf 'fetched text\\n' > \"$OUT\"");
        good.get(URL, &target, Some(&digest()), 13, &mut |_| {}).unwrap();
        assert_eq!(std::fs::read_to_string(&target).unwrap(), TEXT);
        let none = Fetcher { program: "/nonexistent/curl".into(), token: None };
        none.get(URL, &target, Some(&digest()), 13, &mut |_| {}).unwrap();
        std::fs::write(&target, "changed").unwrap();
        let e = none.get(URL, &target, Some(&digest()), 13, &mut |_| {}).unwrap_err();
        assert!(matches!(e, Error::Digest { .. }), "{e}");
    }

    #[test]
    fn a_first_download_fixes_the_digest() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("a.txt");
        curl(dir.path(), "printf 'fetched text\\n' > \"$OUT\"").get(URL, &target, None, 13, &mut |_| {}).unwrap();
        assert_eq!(std::fs::read_to_string(dir.path().join("a.txt.sha256")).unwrap().trim(), digest());
        std::fs::remove_file(&target).unwrap();
        let other = curl(dir.path(), "printf 'other' > \"$OUT\"");
        assert!(matches!(other.get(URL, &target, None, 13, &mut |_| {}), Err(Error::Digest { .. })));
        assert!(!target.exists() && !dir.path().join("a.txt.part").exists());
    }

    #[test]
    fn an_interrupted_download_goes_on_or_begins_again() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("a.txt");
        std::fs::write(dir.path().join("a.txt.part"), "fetched ").unwrap();
        let goes_on = curl(dir.path(), "printf 'text\\n' >> \"$OUT\"");
        goes_on.get(URL, &target, Some(&digest()), 13, &mut |_| {}).unwrap();
        std::fs::remove_file(&target).unwrap();
        std::fs::write(dir.path().join("a.txt.part"), "something").unwrap();
        let no_range = curl(dir.path(), "[ -e \"$OUT\" ] && exit 33; printf 'fetched text\\n' > \"$OUT\"");
        no_range.get(URL, &target, Some(&digest()), 13, &mut |_| {}).unwrap();
    }

    #[test]
    fn the_beginning_of_an_older_version_is_fetched_anew() {
        let dir = tempfile::tempdir().unwrap();
        let (target, part) = (dir.path().join("a.txt"), dir.path().join("a.txt.part"));
        let goes_on =
            "if [ -e \"$OUT\" ]; then printf 'text\\n' >> \"$OUT\"; else printf 'fetched text\\n' > \"$OUT\"; fi";
        let server = curl(dir.path(), &format!("echo run >> {}/runs; {goes_on}", dir.path().display()));
        let runs = || std::fs::read_to_string(dir.path().join("runs")).unwrap_or_default().lines().count();
        std::fs::write(&part, "FETCHED ").unwrap();
        server.get(URL, &target, Some(&digest()), 13, &mut |_| {}).unwrap();
        assert_eq!((std::fs::read_to_string(&target).unwrap().as_str(), runs()), (TEXT, 2));
        // Wrong from its beginning, it is not fetched again.
        std::fs::remove_file(&target).unwrap();
        let e = server.get(URL, &target, Some("0"), 13, &mut |_| {}).unwrap_err();
        assert!(matches!(e, Error::Digest { .. }), "{e}");
        assert_eq!((part.exists(), runs()), (false, 3));
        // Wrong both times.
        std::fs::write(&part, "FETCHED ").unwrap();
        let e = server.get(URL, &target, Some("0"), 13, &mut |_| {}).unwrap_err();
        assert!(matches!(e, Error::Digest { .. }), "{e}");
        assert_eq!((part.exists(), target.exists(), runs()), (false, false, 5));
    }

    #[test]
    fn offline_says_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("a.txt");
        let offline = curl(dir.path(), "echo 'curl: (6) Could not resolve host: example.invalid' >&2; exit 6");
        let e = offline.get(URL, &target, None, 13, &mut |_| {}).unwrap_err();
        assert!(e.to_string().contains("Could not resolve host"), "{e}");
        assert!(e.hint().unwrap().contains("a.txt") && e.hint().unwrap().contains("kjv"));
        let none = Fetcher { program: "/nonexistent/curl".into(), token: None };
        let e = none.get(URL, &target, None, 13, &mut |_| {}).unwrap_err();
        assert!(e.to_string().contains("not installed") && e.hint().unwrap().contains("install curl"), "{e}");
    }

    #[test]
    fn an_exact_file_is_replaced_when_it_is_another() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("a.txt");
        let digest = digest();
        let file = |sha256| Exact { url: URL, bytes: 13, sha256 };
        let good = curl(dir.path(), "printf 'fetched text\\n' > \"$OUT\"");
        std::fs::write(&target, "another text\n").unwrap();
        good.exact(file(Some(&digest)), &target, &mut |_| {}).unwrap();
        assert_eq!(std::fs::read_to_string(&target).unwrap(), TEXT);
        let none = Fetcher { program: "/nonexistent/curl".into(), token: None };
        none.exact(file(Some(&digest)), &target, &mut |_| {}).unwrap();
        // Without a digest only fetching says that it is the same.
        assert!(none.exact(file(None), &target, &mut |_| {}).is_err());
        good.exact(file(None), &target, &mut |_| {}).unwrap();
        let short = curl(dir.path(), "printf 'fetched' > \"$OUT\"");
        let e = short.exact(file(None), &target, &mut |_| {}).unwrap_err();
        assert!(e.to_string().contains("7 bytes came, not the 13"), "{e}");
        assert_eq!(std::fs::read_to_string(&target).unwrap(), TEXT, "what was there stays");
        assert!(!dir.path().join("a.txt.part").exists());
        let long = curl(dir.path(), "printf 'fetched text and more' > \"$OUT\"; sleep 1");
        assert!(long.exact(file(None), &target, &mut |_| {}).unwrap_err().to_string().contains("bytes came"));
        // A whole part is only verified.
        std::fs::remove_file(&target).unwrap();
        std::fs::write(dir.path().join("a.txt.part"), TEXT).unwrap();
        none.exact(file(Some(&digest)), &target, &mut |_| {}).unwrap();
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
