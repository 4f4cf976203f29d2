//! Bad input: a clear error that names the thing, exit status 1, nothing lost.

use crate::run::{command, fail, gently, succeed, text, train_args};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }
    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, bytes).unwrap();
        path
    }
}

/// All files below a folder with their contents.
fn contents(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut all = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all.extend(contents(&path));
        } else {
            let bytes = fs::read(&path).unwrap();
            all.push((path, bytes));
        }
    }
    all.sort();
    all
}

#[test]
fn texts_that_cannot_be_learned_from() {
    let place = Place::new();
    let out = place.path("run");
    let empty = place.write("empty.txt", "");
    fail(&train_args(&empty, &out, &[]), &["empty.txt", "hint:"]);
    let latin = place.write("latin.txt", b"caf\xe9 au lait, caf\xe9 noir");
    fail(&train_args(&latin, &out, &[]), &["latin.txt", "UTF-8", "hint:"]);
    let short = place.write("short.txt", "to be or not");
    fail(&train_args(&short, &out, &[]), &["hint:"]);
    fail(&train_args(&place.path("absent.txt"), &out, &[]), &["absent.txt"]);
}

#[test]
fn recipes_that_make_no_sense() {
    let place = Place::new();
    let data = place.write("text.txt", text());
    let out = place.path("run");
    let set = |assignment: &str, words: &[&str]| {
        fail(&train_args(&data, &out, &["--set", assignment]), words);
    };
    set("model.laiers=3", &["model.laiers", "did you mean model.layers"]);
    set("train.batch=-4", &["train.batch"]);
    set("model.width=0", &["model.width"]);
    set("model.heads=3", &["model", "heads"]);
    set("optimizer.lr=fast", &["optimizer.lr"]);
    set("train.steps", &["train.steps"]);
    let recipe = place.write("odd.toml", "[train]\nstepps = 3\n");
    let said = fail(&["train", recipe.to_str().unwrap()], &["odd.toml", "train.stepps", "did you mean train.steps"]);
    assert!(said.err.contains(":2") || said.err.contains("line 2"), "the line is named: {}", said.err);
    let broken = place.write("broken.toml", "[train\nsteps = 3\n");
    fail(&["train", broken.to_str().unwrap()], &["broken.toml"]);
    fail(&["train", "shakespear"], &["shakespear", "shakespeare-cpu"]);
    assert!(!out.join("checkpoints").exists());
}

#[test]
fn what_is_not_there_or_not_so_is_said() {
    let place = Place::new();
    let data = place.write("text.txt", text());
    let none = place.path("none").display().to_string();
    fail(&["train", "--resume", "--out", &none], &["there is no run in", "hint: name the folder of a run"]);
    for command in ["inspect", "spec"] {
        let words = ["nosuch is no GGUF file, no folder and no published size", "hint: published sizes: gpt2, "];
        fail(&[command, "nosuch"], &words);
    }
    fail(&train_args(&data, &data, &[]), &["text.txt is no folder", "hint:"]);
    let folder = place.path("d.toml");
    fs::create_dir(&folder).unwrap();
    fail(&["train", folder.to_str().unwrap()], &["d.toml is a folder", "hint:"]);
    fail(&train_args(&data, &place.path("run"), &["--set", "=5"]), &["no key before `=`", "hint:"]);

    // A name that is none is told, and the work goes on.
    let args = train_args(&place.path("absent.txt"), &place.path("run"), &[]);
    let said = command(&args).env("GENTLY_CPU", "sse9").output().unwrap();
    let err = String::from_utf8_lossy(&said.stderr);
    assert!(err.contains("warning: GENTLY_CPU=sse9 is none of plain, avx2") && err.contains("absent.txt"), "{err}");

    let (text, out) = (data.display().to_string(), place.path("made").display().to_string());
    for part in ["1", "nan", "-0.1"] {
        let said = gently(&["data", "prepare", &text, "--out", &out, "--val-fraction", part]);
        assert_eq!(said.code, Some(2), "{part}: {}", said.err);
        assert!(said.err.contains("a number from 0 to 0.5"), "{part}: {}", said.err);
    }
    let said = gently(&["data", "prepare", &text, "--out", &out, "--separator", ""]);
    assert_eq!(said.code, Some(2), "{}", said.err);
    let said = succeed(&["data", "prepare", &text, "--out", &out, "--tokenizer", "bpe", "--vocab", "4000"]);
    assert!(said.err.contains("the text gave only") && said.err.contains("of the 4000 asked for"), "{}", said.err);
}

#[test]
fn a_dataset_is_not_replaced_without_a_word() {
    let place = Place::new();
    let path = |name: &str| place.path(name).display().to_string();
    let (one, other, out) = (path("one.txt"), path("other.txt"), path("made"));
    place.write("one.txt", text());
    place.write("other.txt", "another text that is long enough");
    succeed(&["data", "prepare", &one, "--out", &out]);
    let before = contents(&place.path("made"));
    assert!(succeed(&["data", "prepare", &one, "--out", &out]).err.contains("was prepared already"));
    for (input, option) in [(&other, "--seed=1337"), (&one, "--val-fraction=0.2")] {
        let words = ["made holds a dataset of other texts or settings", "one.txt", "hint:", "--replace"];
        fail(&["data", "prepare", input, "--out", &out, option], &words);
    }
    assert_eq!(contents(&place.path("made")), before);
    succeed(&["data", "prepare", &other, "--out", &out, "--replace"]);
    assert_ne!(contents(&place.path("made")), before);
}

#[cfg(unix)]
#[test]
fn a_file_beyond_the_limit_of_the_shell_is_an_error_with_its_name() {
    let place = Place::new();
    let (data, out) = (place.write("text.txt", text()), place.path("made"));
    let mut limited = std::process::Command::new("sh");
    limited.args(["-c", "ulimit -f 4 && exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_gently"), "data", "prepare"]);
    let said = limited.arg(data).arg("--out").arg(&out).env("NO_COLOR", "1").output().unwrap();
    let err = String::from_utf8_lossy(&said.stderr);
    assert_eq!(said.status.code(), Some(1), "{:?}: {err}", said.status);
    assert!(err.contains("train-00000.tok") && err.contains("hint: raise the limit"), "{err}");
    assert!(!out.exists());
}

#[test]
fn usage_errors_exit_with_2() {
    assert_eq!(gently(&["train", "shakespeare-cpu", "--threads", "0"]).code, Some(2));
    assert_eq!(gently(&["trian"]).code, Some(2));
    assert_eq!(gently(&["generate"]).code, Some(2));
}

#[test]
fn a_run_folder_is_not_overwritten_and_not_shared() {
    let place = Place::new();
    let data = place.write("text.txt", text());
    let out = place.path("run");
    succeed(&train_args(&data, &out, &[]));
    let before = fs::read(out.join("metrics.jsonl")).unwrap();
    fail(&train_args(&data, &out, &[]), &["run", "--resume"]);
    assert_eq!(fs::read(out.join("metrics.jsonl")).unwrap(), before);

    // A long run holds its folder; a second process is told so.
    let long = place.path("long");
    let args = train_args(&data, &long, &["--set", "train.steps=1000000", "--set", "checkpoint.every=1000000"]);
    let mut first =
        command(&args).stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn().unwrap();
    while !long.join("metrics.jsonl").exists() {
        assert!(first.try_wait().unwrap().is_none(), "the first run ended early");
        std::thread::sleep(Duration::from_millis(20));
    }
    let resume: Vec<String> = args.iter().cloned().chain(["--resume".into()]).collect();
    let said = gently(&resume);
    first.kill().unwrap();
    first.wait().unwrap();
    assert_eq!(said.code, Some(1), "{}", said.err);
    assert!(said.err.contains("in use"), "{}", said.err);
}

#[test]
fn another_text_cannot_continue_a_run() {
    let place = Place::new();
    let data = place.write("text.txt", text());
    let out = place.path("run");
    succeed(&train_args(&data, &out, &[]));
    let before = contents(&out.join("checkpoints"));
    let other = place.write("other.txt", text().replace("sea", "ŞEA"));
    fail(&train_args(&other, &out, &["--resume", "--set", "train.steps=70"]), &["hint:"]);
    assert_eq!(contents(&out.join("checkpoints")), before, "the checkpoints are as they were");
}

#[test]
fn damaged_files_are_named() {
    let place = Place::new();
    let data = place.write("text.txt", text());
    let out = place.path("run");
    succeed(&train_args(&data, &out, &[]));
    let newest = out.join("checkpoints/step-60/model.safetensors");
    let good = fs::read(&newest).unwrap();

    // A flipped bit in the newest checkpoint: the one before it is taken, and the run says so.
    let mut flipped = good.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 0x10;
    fs::write(&newest, &flipped).unwrap();
    let said = succeed(&train_args(&data, &out, &["--resume"]));
    assert!(said.err.contains("step-60"), "the damaged checkpoint is named: {}", said.err);
    assert_eq!(fs::read(&newest).unwrap(), good, "the run ends with the same weights again");

    // A truncated model cannot be used to write.
    let copy = place.path("model");
    fs::create_dir(&copy).unwrap();
    for file in ["config.json", "tokenizer.json"] {
        fs::copy(out.join("checkpoints/step-60").join(file), copy.join(file)).unwrap();
    }
    fs::write(copy.join("model.safetensors"), &good[..good.len() - 7]).unwrap();
    fail(&["generate", copy.to_str().unwrap(), "--prompt", "the"], &["model.safetensors"]);
    fs::write(copy.join("model.safetensors"), &good[..5]).unwrap();
    fail(&["generate", copy.to_str().unwrap(), "--prompt", "the"], &["model.safetensors"]);
    fs::write(copy.join("config.json"), "{\"model_type\": \"gpt2\", \"n_layer\": 1e300}").unwrap();
    fail(&["generate", copy.to_str().unwrap(), "--prompt", "the"], &["config.json"]);

    // A flipped bit in a token shard is found before it is learned from.
    let shard = out.join("data/train-00000.tok");
    let mut bytes = fs::read(&shard).unwrap();
    let end = bytes.len() - 200;
    bytes[end] ^= 1;
    fs::write(&shard, &bytes).unwrap();
    let said = gently(&["data", "inspect", out.to_str().unwrap()]);
    assert_eq!(said.code, Some(1), "{}", said.out);
    assert!(said.err.contains("train-00000.tok"), "{}", said.err);
    fs::write(&shard, &bytes[..bytes.len() / 2]).unwrap();
    fail(&["data", "inspect", out.to_str().unwrap()], &["train-00000.tok"]);
}

#[test]
fn folders_that_cannot_be_written() {
    let place = Place::new();
    let data = place.write("text.txt", text());
    let file = place.write("file", "I am a file");
    fail(&train_args(&data, &file.join("run"), &[]), &["file"]);
    // The kernel's own folder: nobody can write there, not even root.
    if Path::new("/proc/self").exists() {
        fail(&train_args(&data, Path::new("/proc/gently"), &[]), &["/proc/gently"]);
    }
}

#[test]
fn prompts_outside_the_vocabulary_are_refused() {
    let place = Place::new();
    let data = place.write("text.txt", text());
    let out = place.path("run");
    succeed(&train_args(&data, &out, &[]));
    let run = out.to_str().unwrap();
    fail(&["generate", run, "--prompt", "the 鯨"], &["鯨"]);
    fail(&["generate", run, "--temperature", "-1"], &["temperature"]);
    fail(&["generate", run, "--top-p", "0"], &["top_p"]);
    fail(&["generate", place.path("nowhere").to_str().unwrap()], &["nowhere", "hint:"]);
}

/// Needs a file system that can be filled: run as root with `GENTLY_TEST_MOUNT=1` (CI does), otherwise skipped.
#[test]
fn a_full_disk_leaves_the_last_good_checkpoint() {
    if std::env::var_os("GENTLY_TEST_MOUNT").is_none() {
        eprintln!("skipped: GENTLY_TEST_MOUNT is not set");
        return;
    }
    let place = Place::new();
    let data = place.write("text.txt", text());
    let small = place.path("small");
    fs::create_dir(&small).unwrap();
    let mount = |args: &[&str]| {
        let done = std::process::Command::new(args[0]).args(&args[1..]).arg(&small).status().unwrap();
        assert!(done.success(), "{args:?}");
    };
    mount(&["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs"]);
    let out = small.join("run");
    let more = ["--set", "checkpoint.keep=1000", "--set", "checkpoint.every=1", "--set", "train.steps=2000"];
    let said = gently(&train_args(&data, &out, &more));
    let written = gently(&["generate", out.to_str().unwrap(), "--prompt", "the", "-n", "5"]);
    let elsewhere = place.path("elsewhere");
    let moved = std::process::Command::new("cp").arg("-r").arg(&out).arg(&elsewhere).status().unwrap();
    mount(&["umount"]);
    assert_eq!(said.code, Some(1), "{}", said.err);
    assert!(said.err.contains("No space left"), "{}", said.err);
    // Which file meets the full disk is chance; the message names it.
    assert!(said.err.contains("small/run/") && said.err.contains("hint: free some space"), "{}", said.err);
    assert!(written.ok, "the last good checkpoint writes: {}", written.err);
    assert!(moved.success());
    let steps = ["--resume", "--set", "train.steps=80", "--set", "checkpoint.every=50"];
    succeed(&train_args(&data, &elsewhere, &steps));
}
