//! Running the binary, and a small text to train on.

use std::path::Path;
use std::process::{Command, Output, Stdio};

/// What a run of the program said.
pub struct Said {
    pub ok: bool,
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl From<Output> for Said {
    fn from(o: Output) -> Self {
        Said {
            ok: o.status.success(),
            code: o.status.code(),
            out: String::from_utf8_lossy(&o.stdout).into_owned(),
            err: String::from_utf8_lossy(&o.stderr).into_owned(),
        }
    }
}

/// The program with `args`, not yet started.
pub fn command<S: AsRef<std::ffi::OsStr>>(args: &[S]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gently"));
    command.args(args).env("NO_COLOR", "1").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs the program to its end.
pub fn gently<S: AsRef<std::ffi::OsStr>>(args: &[S]) -> Said {
    command(args).output().expect("the program starts").into()
}

/// Runs it and insists that it succeeds.
pub fn succeed<S: AsRef<std::ffi::OsStr> + std::fmt::Debug>(args: &[S]) -> Said {
    let said = gently(args);
    assert!(said.ok, "{args:?} failed\n{}\n{}", said.out, said.err);
    said
}

/// Runs it and insists that it fails cleanly: exit status 1, no panic, and every one of `words` in what it says.
pub fn fail<S: AsRef<std::ffi::OsStr> + std::fmt::Debug>(args: &[S], words: &[&str]) -> Said {
    let said = gently(args);
    assert_eq!(said.code, Some(1), "{args:?} should fail with status 1\n{}\n{}", said.out, said.err);
    assert!(!said.err.contains("panicked"), "{args:?} panicked\n{}", said.err);
    assert!(said.err.contains("error:"), "{args:?} says no error\n{}", said.err);
    for word in words {
        assert!(said.err.contains(word), "{args:?} should say {word:?}, but says\n{}", said.err);
    }
    said
}

/// Some thousand characters of lines made of a few words, the same on every call.
pub fn text() -> String {
    let words = ["the", "sea", "is", "grey", "and", "we", "sail", "on", "a", "long", "night", "under", "old", "stars"];
    let mut state = 12345u64;
    let mut text = String::new();
    while text.len() < 12_000 {
        for _ in 0..8 {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            text.push_str(words[(state >> 33) as usize % words.len()]);
            text.push(' ');
        }
        text.push('\n');
    }
    text
}

/// Settings that make the Shakespeare recipe so small that a step takes a millisecond.
pub const TINY: &[&str] = &[
    "--set",
    "model.layers=1",
    "--set",
    "model.heads=2",
    "--set",
    "model.width=16",
    "--set",
    "train.batch=4",
    "--set",
    "train.block=16",
    "--set",
    "train.steps=60",
    "--set",
    "optimizer.warmup=5",
    "--set",
    "eval.every=20",
    "--set",
    "eval.batches=2",
    "--set",
    "sample.every=0",
    "--set",
    "checkpoint.every=7",
];

/// `train shakespeare-cpu` on `data` into `out`, tiny, with more arguments.
pub fn train_args(data: &Path, out: &Path, more: &[&str]) -> Vec<String> {
    let mut args = vec!["train".to_string(), "shakespeare-cpu".into()];
    args.extend(["--data".into(), data.display().to_string(), "--out".into(), out.display().to_string()]);
    args.extend(TINY.iter().map(|s| s.to_string()));
    args.extend(more.iter().map(|s| s.to_string()));
    args
}
