//! `gently pull` from a stand-in for the Hub on this machine. Without the program curl the tests say that they are skipped.

use crate::run::{Said, command, gently};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
const NEXT: &str = "76543210fedcba9876543210fedcba9876543210";
/// What a pull of a folder writes down.
const RECORD: &str = ".gently-pull.json";
const TOKEN: &str = "hf_a_secret";

/// What a server was asked: path, first byte, token.
type Asked = Arc<Mutex<Vec<(String, u64, bool)>>>;

/// A Hub with one repository, `owner/repo`.
struct Server {
    address: String,
    asked: Asked,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Serves the pages. The first answer with a file longer than `cut` is broken off there.
    fn new(pages: BTreeMap<String, Vec<u8>>, cut: Option<usize>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let asked = Asked::default();
        let kept = asked.clone();
        let thread = std::thread::spawn(move || {
            let mut cut = cut;
            for stream in listener.incoming().map_while(Result::ok) {
                // An empty request is the sign to end.
                if answer(stream, &pages, &mut cut, &kept).is_none() {
                    break;
                }
            }
        });
        Self { address, asked, thread: Some(thread) }
    }

    /// With a tree of these files; the digests are right but for one that is named.
    fn of_files(files: &[(&str, &[u8])], wrong: Option<&str>, cut: Option<usize>) -> Self {
        Self::at(COMMIT, files, wrong, cut)
    }

    /// The same, at some commit.
    fn at(commit: &str, files: &[(&str, &[u8])], wrong: Option<&str>, cut: Option<usize>) -> Self {
        Self::of_repo("owner/repo", commit, files, wrong, cut)
    }

    /// The same, of another repository.
    fn of_repo(repo: &str, commit: &str, files: &[(&str, &[u8])], wrong: Option<&str>, cut: Option<usize>) -> Self {
        let mut pages = BTreeMap::new();
        let mut tree = vec![json!({"type": "directory", "path": "folder", "size": 0})];
        for (path, bytes) in files {
            let digest: String = Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect();
            let digest = if wrong == Some(path) { digest.replace(|c: char| c.is_ascii_digit(), "0") } else { digest };
            let mut entry = json!({"type": "file", "path": path, "size": bytes.len(), "oid": "x"});
            if path.ends_with(".safetensors") || path.ends_with(".gguf") {
                entry["lfs"] = json!({"oid": digest, "size": bytes.len(), "pointerSize": 134});
            }
            tree.push(entry);
            pages.insert(format!("/{repo}/resolve/{commit}/{path}"), bytes.to_vec());
        }
        let about = json!({"id": repo, "sha": commit}).to_string();
        pages.insert(format!("/api/models/{repo}/revision/main"), about.clone().into());
        pages.insert(format!("/api/models/{repo}/revision/refs%2Fpr%2F1"), about.into());
        let tree = Value::from(tree).to_string();
        pages.insert(format!("/api/models/{repo}/tree/{commit}?recursive=true"), tree.into());
        Self::new(pages, cut)
    }

    fn pull(&self, dir: &Path, args: &[&str]) -> Said {
        pull(dir, &format!("http://{}", self.address), args)
    }

    /// Paths asked for since the last time, by their last parts, with the first byte.
    fn asked(&self) -> Vec<(String, u64)> {
        let all = std::mem::take(&mut *self.asked.lock().unwrap());
        assert!(all.iter().all(|a| a.2), "the token comes with each request: {all:?}");
        all.into_iter().map(|(path, from, _)| (path.rsplit('/').next().unwrap().to_owned(), from)).collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(TcpStream::connect(&self.address));
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

fn answer(stream: TcpStream, pages: &BTreeMap<String, Vec<u8>>, cut: &mut Option<usize>, asked: &Asked) -> Option<()> {
    let mut lines = BufReader::new(stream.try_clone().ok()?).lines().map_while(Result::ok);
    let path = lines.next()?.split(' ').nth(1)?.to_owned();
    let (mut from, mut token) = (0, false);
    for line in lines.by_ref().take_while(|l| !l.is_empty()) {
        let lower = line.to_ascii_lowercase();
        if let Some(range) = lower.strip_prefix("range: bytes=") {
            from = range.trim_end_matches('-').parse().unwrap();
        }
        token |= line == format!("Authorization: Bearer {TOKEN}");
    }
    asked.lock().unwrap().push((path.clone(), from, token));
    let mut stream = stream;
    let Some(page) = pages.get(&path) else {
        let _ = write!(stream, "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        return Some(());
    };
    let rest = &page[from as usize..];
    let status = match from {
        0 => "200 OK".to_owned(),
        _ => format!("206 Partial Content\r\nContent-Range: bytes {from}-{}/{}", page.len() - 1, page.len()),
    };
    let _ = write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", rest.len());
    let end = match cut {
        Some(n) if *n < rest.len() => cut.take().unwrap_or(0),
        _ => rest.len(),
    };
    let _ = stream.write_all(&rest[..end]);
    Some(())
}

fn pull(dir: &Path, endpoint: &str, args: &[&str]) -> Said {
    let mut command = command(&[&["pull"], args].concat());
    command.current_dir(dir).env("HF_ENDPOINT", endpoint).env("HF_TOKEN", TOKEN).env("NO_PROXY", "*");
    let said: Said = command.output().unwrap().into();
    assert!(!said.out.contains(TOKEN) && !said.err.contains(TOKEN), "{}{}", said.out, said.err);
    assert!(!said.err.contains("panicked"), "{}", said.err);
    said
}

fn no_curl() -> bool {
    let there = Command::new("curl").arg("--version").output().is_ok();
    if !there {
        eprintln!("skipped: the program curl is not there");
    }
    !there
}

fn fails(said: &Said, words: &[&str]) {
    assert_eq!(said.code, Some(1), "{}{}", said.out, said.err);
    for word in words {
        assert!(said.err.contains(word), "{word:?} is missing in\n{}", said.err);
    }
}

/// Names of all files below a folder.
fn files(dir: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let mut all: Vec<String> = Vec::new();
    for path in entries.map(|e| e.unwrap().path()) {
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        match path.is_dir() {
            true => all.extend(files(&path).into_iter().map(|f| format!("{name}/{f}"))),
            false => all.push(name),
        }
    }
    all.sort();
    all
}

/// The tiny random Llama with its tokenizer.
fn llama() -> Vec<(&'static str, Vec<u8>)> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let read = |name: &'static str, from: &str| (name, fs::read(root.join(from).join(name)).unwrap());
    let (weights, tokens) = ("../gently-models/tests/golden/llama", "tests/golden/eval");
    vec![
        read("config.json", weights),
        read("model.safetensors", weights),
        read("tokenizer.json", tokens),
        read("tokenizer_config.json", tokens),
        ("pytorch_model.bin", b"not read here".to_vec()),
        ("README.md", b"# A model".to_vec()),
    ]
}

fn borrowed<'a>(files: &'a [(&'static str, Vec<u8>)]) -> Vec<(&'a str, &'a [u8])> {
    files.iter().map(|(name, bytes)| (*name, &bytes[..])).collect()
}

#[test]
fn a_model_is_fetched_and_used() {
    if no_curl() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let all = llama();
    let server = Server::of_files(&borrowed(&all), None, None);
    let said = server.pull(dir.path(), &["owner/repo"]);
    assert!(said.ok, "{}", said.err);
    assert_eq!(said.out, "models/owner--repo\n");
    let model = dir.path().join("models/owner--repo");
    assert_eq!(files(&model), [RECORD, "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]);
    assert_eq!(fs::read(model.join("model.safetensors")).unwrap(), all[1].1);
    assert_eq!(server.asked().last().unwrap().0, "config.json", "a folder that has it has everything");
    let wrote = gently(&["generate", model.to_str().unwrap(), "--prompt", "the sea", "-n", "3"]);
    assert!(wrote.ok && wrote.out.starts_with("the sea"), "{}{}", wrote.out, wrote.err);

    // Again, by another name of the commit: the weights are there and right.
    let said = server.pull(dir.path(), &["owner/repo@refs/pr/1", "--json"]);
    let report: Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!((&report["revision"], &report["files"]), (&COMMIT.into(), &4.into()));
    assert!(server.asked().iter().all(|a| a.0 != "model.safetensors"));
    // Changed since: fetched again.
    fs::write(model.join("model.safetensors"), "x".repeat(all[1].1.len())).unwrap();
    assert!(server.pull(dir.path(), &["owner/repo"]).ok);
    assert_eq!(fs::read(model.join("model.safetensors")).unwrap(), all[1].1);
}

#[test]
fn without_curl_it_is_said_what_to_install() {
    let mut pull = command(&["pull", "owner/repo"]);
    let said: Said = pull.env("PATH", "/nonexistent-gently").output().unwrap().into();
    fails(&said, &["curl is not installed", "hint: install curl"]);
    let said: Said = command(&["pull", "owner/repo"]).env("HF_ENDPOINT", "nowhere").output().unwrap().into();
    fails(&said, &["HF_ENDPOINT cannot be used", "hint:"]);
}

#[test]
fn a_download_that_was_cut_off_goes_on() {
    if no_curl() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let big: Vec<u8> = (0..300_000u32).flat_map(u32::to_le_bytes).collect();
    let server = Server::of_files(&[("big-q8.gguf", &big), ("small.gguf", b"x")], None, Some(100_000));
    let name = ["owner/repo:big-q8.gguf", "--to", "here"];
    fails(&server.pull(dir.path(), &name), &["cannot fetch", "big-q8.gguf", "hint:", "goes on"]);
    assert_eq!(files(&dir.path().join("here")), ["big-q8.gguf.part"]);
    server.asked();
    let said = server.pull(dir.path(), &name);
    assert!(said.ok, "{}", said.err);
    assert_eq!(said.out, "here/big-q8.gguf\n");
    assert!(server.asked().contains(&("big-q8.gguf".into(), 100_000)), "only the rest is asked for");
    assert_eq!(fs::read(dir.path().join("here/big-q8.gguf")).unwrap(), big);
    assert_eq!(files(&dir.path().join("here")), ["big-q8.gguf"]);
}

#[test]
fn of_several_pulls_of_a_model_one_fetches_it() {
    if no_curl() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let weights = big(3);
    let model: [(&str, &[u8]); 2] = [("config.json", b"{}"), ("model.safetensors", &weights)];
    let server = Server::of_files(&model, None, None);
    let gguf = Server::of_files(&[("a.gguf", &weights)], None, None);
    for (server, file, all) in [
        (&server, "model.safetensors", &[RECORD, "config.json", "model.safetensors"][..]),
        (&gguf, "a.gguf", &["a.gguf"][..]),
    ] {
        let folder = dir.path().join(file).to_str().unwrap().to_owned();
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    let said = server.pull(dir.path(), &["owner/repo", "--to", &folder]);
                    assert!(said.ok, "{}", said.err);
                });
            }
        });
        let asked: Vec<u64> = server.asked().into_iter().filter(|a| a.0 == file).map(|a| a.1).collect();
        assert_eq!(asked, [0], "{file}");
        assert_eq!(files(folder.as_ref()), all, "no lock is left");
        assert_eq!(fs::read(Path::new(&folder).join(file)).unwrap(), weights);
    }
}

/// Bytes that a download of can be cut off.
fn big(seed: u32) -> Vec<u8> {
    (0..30_000).flat_map(|i: u32| (i ^ seed).to_le_bytes()).collect()
}

#[test]
fn another_commit_leaves_nothing_of_the_one_before() {
    if no_curl() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("here");
    let pull = ["owner/repo", "--to", "here"];
    let (one, two) = (big(1), big(2));
    let first: [(&str, &[u8]); 6] = [
        ("config.json", b"{}"),
        ("chat_template.jinja", b"x"),
        ("tokenizer.json", b"{}"),
        ("modules.json", b"[]"),
        ("1_Pooling/config.json", b"{}"),
        ("model.safetensors", &one),
    ];
    assert!(Server::of_files(&first, None, None).pull(dir.path(), &pull).ok);
    assert_eq!(files(&folder).len(), 7);
    fs::write(folder.join("notes.txt"), "mine").unwrap();
    // A part that was left when a file was fetched again.
    fs::write(folder.join("model.safetensors.part"), &one[..1000]).unwrap();

    let shard = "model-00001-of-00001.safetensors";
    let next: [(&str, &[u8]); 4] =
        [("config.json", b"{ }"), ("tokenizer.json", b"{ }"), ("model.safetensors.index.json", b"{}"), (shard, &two)];
    let server = Server::at(NEXT, &next, None, Some(100_000));
    fails(&server.pull(dir.path(), &pull), &["cannot fetch", shard]);
    let part = format!("{shard}.part");
    assert_eq!(files(&folder), [RECORD, &part, "notes.txt", "tokenizer.json"], "no config.json until all is there");
    server.asked();
    let said = server.pull(dir.path(), &pull);
    assert!(said.ok, "{}", said.err);
    assert!(server.asked().contains(&(shard.into(), 100_000)), "the same commit goes on");
    let all = [RECORD, "config.json", shard, "model.safetensors.index.json", "notes.txt", "tokenizer.json"];
    assert_eq!(files(&folder), all);
    assert_eq!(fs::read(folder.join("config.json")).unwrap(), b"{ }");

    // Files that no pull brought are not taken away, but not read with the model either.
    fs::remove_file(folder.join(RECORD)).unwrap();
    let server = Server::of_files(&first, None, None);
    fails(&server.pull(dir.path(), &pull), &["here has model.safetensors.index.json, which owner/repo lacks", "--to"]);
    assert_eq!(files(&folder), all[1..]);
}

#[test]
fn a_pull_that_is_refused_costs_no_model() {
    if no_curl() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("here");
    let pull = ["owner/repo", "--to", "here"];
    let all = llama();
    let server = Server::of_files(&borrowed(&all), None, None);
    assert!(server.pull(dir.path(), &pull).ok);
    let whole = files(&folder);

    let other: [(&str, &[u8]); 2] = [("config.json", b"{}"), ("model.safetensors", b"x")];
    let said =
        Server::of_repo("owner/other", NEXT, &other, None, None).pull(dir.path(), &["owner/other", "--to", "here"]);
    fails(&said, &["here has the model owner/repo, not owner/other", "hint:", "--to"]);
    assert_eq!(files(&folder), whole);

    // Anybody may read the list of the next commit, but not its files.
    let file = |path: &str| json!({"type": "file", "path": path, "size": 2});
    let tree = json!([file("config.json"), file("model.safetensors")]).to_string();
    let pages = [
        ("/api/models/owner/repo/revision/main".to_owned(), json!({"sha": NEXT}).to_string().into_bytes()),
        (format!("/api/models/owner/repo/tree/{NEXT}?recursive=true"), tree.into_bytes()),
    ];
    fails(&Server::new(pages.into(), None).pull(dir.path(), &pull), &["cannot fetch", "config.json", "hint:"]);
    assert_eq!(files(&folder), whole);

    // A file that no pull brought, though one has been here.
    fs::write(folder.join("vocab.txt"), "mine").unwrap();
    fails(&server.pull(dir.path(), &pull), &["here has vocab.txt, which owner/repo lacks", "--to"]);
    fs::remove_file(folder.join("vocab.txt")).unwrap();
    assert_eq!(files(&folder), whole);
    let wrote = gently(&["generate", folder.to_str().unwrap(), "--prompt", "the sea", "-n", "3"]);
    assert!(wrote.ok, "{}{}", wrote.out, wrote.err);
}

#[test]
fn a_part_of_an_older_file_is_begun_again() {
    if no_curl() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (one, two) = (big(1), big(2));
    let old = Server::of_files(&[("a.gguf", &one)], None, Some(100_000));
    fails(&old.pull(dir.path(), &["owner/repo", "--to", "here"]), &["cannot fetch"]);
    let new = Server::at(NEXT, &[("a.gguf", &two)], None, None);
    let said = new.pull(dir.path(), &["owner/repo", "--to", "here"]);
    assert!(said.ok, "{}", said.err);
    let asked: Vec<u64> = new.asked().into_iter().filter(|a| a.0 == "a.gguf").map(|a| a.1).collect();
    assert_eq!(asked, [100_000, 0]);
    assert_eq!(fs::read(dir.path().join("here/a.gguf")).unwrap(), two);
}

#[test]
fn what_is_not_as_published_is_refused() {
    if no_curl() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let none: [String; 0] = [];
    let server = Server::of_files(&[("a.gguf", b"the bytes that came")], Some("a.gguf"), None);
    fails(&server.pull(dir.path(), &["owner/repo"]), &["a.gguf", "SHA-256", "hint:"]);
    assert_eq!(files(&dir.path().join("models")), none, "what is wrong is removed");

    let server = Server::of_files(&[("../../a.gguf", b"x")], None, None);
    fails(&server.pull(dir.path(), &["owner/repo"]), &["../../a.gguf", "not safe"]);
    assert_eq!(files(dir.path()), none);

    let server = Server::of_files(&[("a-q4.gguf", b"x"), ("a-q8.gguf", b"y")], None, None);
    fails(&server.pull(dir.path(), &["owner/repo"]), &["2 GGUF files", "a-q4.gguf", "pull owner/repo:a-q4.gguf"]);
    fails(&server.pull(dir.path(), &["owner/repo:a-q9.gguf"]), &["is not there", "did you mean a-q"]);
    fails(&server.pull(dir.path(), &["owner/repo@none"]), &["404", "HF_TOKEN"]);

    // More bytes than the list says, and sizes that no disk has.
    let list = |size: u64| {
        let about = json!({"sha": COMMIT}).to_string();
        let lfs = json!({"oid": "0".repeat(64), "size": size});
        let tree = json!([{"type": "file", "path": "a.gguf", "size": 100, "lfs": lfs}]).to_string();
        let pages = [
            ("/api/models/owner/repo/revision/main".to_owned(), about.into_bytes()),
            (format!("/api/models/owner/repo/tree/{COMMIT}?recursive=true"), tree.into_bytes()),
            (format!("/owner/repo/resolve/{COMMIT}/a.gguf"), vec![0; 5000]),
        ];
        Server::new(pages.into(), None)
    };
    fails(&list(4000).pull(dir.path(), &["owner/repo"]), &["cannot fetch", "a.gguf"]);
    assert_eq!(files(dir.path()), none);
    if cfg!(unix) {
        fails(&list(1 << 62).pull(dir.path(), &["owner/repo"]), &["has room for", "hint:"]);
    }
    let pages = [("/api/models/owner/repo/revision/main".to_owned(), b"<html>".to_vec())];
    fails(&Server::new(pages.into(), None).pull(dir.path(), &["owner/repo"]), &["not understood", "hint:"]);
}

#[test]
fn without_a_network_it_is_said_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    // A port that was free a moment ago.
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let said = pull(dir.path(), &format!("http://{closed}"), &["owner/repo"]);
    fails(&said, &["cannot fetch", "hint:", if no_curl() { "not installed" } else { "check the network" }]);
    fails(&pull(dir.path(), "http://mirror.invalid", &["owner/repo"]), &["HF_TOKEN", "https"]);
    fails(&pull(dir.path(), "ftp://mirror.invalid", &["owner/repo"]), &["HF_ENDPOINT"]);
    fails(&pull(dir.path(), "https://mirror.invalid", &["../repo"]), &["no name of a model", "hint:"]);
}
