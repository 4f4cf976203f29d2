//! Fetching of one file by HTTPS.
//!
//! The system's `curl` does it: Windows, macOS and Linux come with it or have it at hand, it knows proxies and certificates, and
//! a TLS library of our own would need a C compiler to build. What it brings is verified here.

use super::read::file_sha256;
use super::{Error, Result};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
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
}

impl Default for Fetcher {
    fn default() -> Self {
        Self { program: "curl".into() }
    }
}

/// curl's exit code for a server that does not send a part of a file.
const NO_RANGE: i32 = 33;
/// ... for an answer of 400 and above, among them 416: no such part.
const REFUSED: i32 = 22;

impl Fetcher {
    /// Makes sure that `target` is there and right. A download that was cut off goes on where it stopped. With no
    /// `sha256` the one found is written to `TARGET.sha256` the first time, and must be the same later.
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
            None => std::fs::read_to_string(&note).ok().map(|s| s.trim().to_owned()),
        };
        if target.exists() {
            return verify(target, known.as_deref(), &note);
        }
        if let Some(folder) = target.parent() {
            std::fs::create_dir_all(folder).map_err(Error::io(folder, "create"))?;
        }
        let part = with_ending(target, "part");
        let mut code = self.run(url, target, &part, bytes, progress)?;
        if let (Some(NO_RANGE | REFUSED), true) = (code.0, part.exists()) {
            // What is there cannot be continued: begin again.
            std::fs::remove_file(&part).map_err(Error::io(&part, "remove"))?;
            code = self.run(url, target, &part, bytes, progress)?;
        }
        if code.0 != Some(0) {
            return Err(Error::Fetch { url: url.into(), reason: code.1, target: target.into() });
        }
        if let Err(e) = verify(&part, known.as_deref(), &note) {
            // Going on from wrong bytes would not make them right.
            let _ = std::fs::remove_file(&part);
            return Err(e);
        }
        std::fs::rename(&part, target).map_err(Error::io(target, "write"))
    }

    /// Runs curl and watches the file grow. Gives its exit code and what it says.
    fn run(
        &self,
        url: &str,
        target: &Path,
        part: &Path,
        total: u64,
        progress: &mut dyn FnMut(FetchProgress),
    ) -> Result<(Option<i32>, String)> {
        let failed = |reason: String| Error::Fetch { url: url.into(), reason, target: target.into() };
        let mut child = Command::new(&self.program)
            .args(["--fail", "--location", "--silent", "--show-error"])
            // Neither the address nor a redirection may leave HTTPS.
            .args(["--proto", "=https", "--proto-redir", "=https"])
            .args(["--connect-timeout", "20", "--retry", "2", "--speed-time", "60", "--speed-limit", "1"])
            .args(["--continue-at", "-", "--output"])
            .arg(part)
            .arg("--")
            .arg(url)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|e| match e.kind() {
                std::io::ErrorKind::NotFound => failed("the program curl is not installed".into()),
                _ => failed(format!("curl: {e}")),
            })?;
        let file = target.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let status = loop {
            if let Some(status) = child.try_wait().map_err(|e| failed(format!("curl: {e}")))? {
                break status;
            }
            let done = std::fs::metadata(part).map_or(0, |m| m.len());
            progress(FetchProgress { file: file.clone(), done, total });
            std::thread::sleep(Duration::from_millis(100));
        };
        let mut said = String::new();
        if let Some(stderr) = child.stderr.take() {
            // It is short, and not worth an error of its own.
            let _ = stderr.take(1 << 16).read_to_string(&mut said);
        }
        let said = said.lines().next_back().unwrap_or("").trim_start_matches("curl: ").to_owned();
        Ok((status.code(), if said.is_empty() { format!("curl ended with {status}") } else { said }))
    }
}

/// Checks a file against its digest, or notes the digest down.
fn verify(path: &Path, known: Option<&str>, note: &Path) -> Result<()> {
    let found = file_sha256(path)?;
    match known {
        Some(expected) if expected != found => {
            Err(Error::Digest { path: path.into(), expected: expected.into(), found })
        }
        Some(_) => Ok(()),
        None => Ok(gently_formats::atomic::write(note, format!("{found}\n").as_bytes())?),
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
        Fetcher { program }
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
        let none = Fetcher { program: "/nonexistent/curl".into() };
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
    fn offline_says_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("a.txt");
        let offline = curl(dir.path(), "echo 'curl: (6) Could not resolve host: example.invalid' >&2; exit 6");
        let e = offline.get(URL, &target, None, 13, &mut |_| {}).unwrap_err();
        assert!(e.to_string().contains("Could not resolve host"), "{e}");
        assert!(e.hint().unwrap().contains("a.txt") && e.hint().unwrap().contains("kjv"));
        let none = Fetcher { program: "/nonexistent/curl".into() };
        let e = none.get(URL, &target, None, 13, &mut |_| {}).unwrap_err();
        assert!(e.to_string().contains("not installed"), "{e}");
    }
}
