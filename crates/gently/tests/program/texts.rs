//! Texts that come once, and texts that are fetched.

use crate::run::{Said, command, fail, succeed, text, train_args};
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Stdio;

#[test]
fn a_run_on_standard_input_goes_on_by_the_command_it_prints() {
    let dir = tempfile::tempdir().unwrap();
    let (data, whole, run) = (dir.path().join("text.txt"), dir.path().join("whole"), dir.path().join("run"));
    fs::write(&data, text()).unwrap();
    let decay = ["--set", "optimizer.decay_steps=60"];
    succeed(&train_args(&data, &whole, &decay));

    let half = [&decay[..], &["--set", "train.steps=30"]].concat();
    let mut child = command(&train_args(Path::new("-"), &run, &half)).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(text().as_bytes()).unwrap();
    let said: Said = child.wait_with_output().unwrap().into();
    assert!(said.ok, "{}", said.err);
    let on = ["train", "--resume", "--out", run.to_str().unwrap(), "--set"];
    // A text that is sent in once more is not read, and whoever sends it hears that.
    let more = [&on[..], &["train.steps=40", "--data", "-"]].concat();
    let mut child = command(&more).stdin(Stdio::piped()).spawn().unwrap();
    // Closed unread, it may be a broken pipe.
    let _ = child.stdin.take().unwrap().write_all(b"another text");
    let said: Said = child.wait_with_output().unwrap().into();
    let unread = "standard input is not read: the run goes on with the tokens that it has, in ";
    assert!(said.ok && said.err.contains(unread), "{}", said.err);
    let said = succeed(&[&on[..], &["train.steps=60"]].concat());
    assert!(!said.err.contains(unread), "nothing was sent: {}", said.err);
    let weights = |run: &Path| fs::read(run.join("checkpoints/step-60/model.safetensors")).unwrap();
    assert_eq!(weights(&run), weights(&whole));
}

/// Digits and spaces alone, in one line: neither the recipe's prompt nor the end of a line is among its characters.
#[test]
fn the_quickstart_takes_a_prompt_from_the_text_where_its_own_cannot_be_spelled() {
    let dir = tempfile::tempdir().unwrap();
    // The commands it prints are for a shell.
    let (data, run) = (dir.path().join("text.txt"), dir.path().join("q s"));
    fs::write(&data, "010 020 030 040 ".repeat(300)).unwrap();
    let names = [data.to_str().unwrap(), run.to_str().unwrap()];
    let mut args = vec!["quickstart", "--corpus", names[0], "--out", names[1]];
    for set in [
        "model.layers=1",
        "model.heads=2",
        "model.width=16",
        "train.steps=2",
        "train.batch=4",
        "train.block=16",
        "eval.batches=1",
        "sample.tokens=5",
    ] {
        args.extend(["--set", set]);
    }
    let said = succeed(&args);
    let generate = format!("gently generate '{}' --prompt '010 020 030' ", names[1]);
    assert!(said.err.contains(&generate), "{}", said.err);
    assert!(!said.err.contains("In the beginning") && !said.err.contains("warning"), "{}", said.err);
    let samples = fs::read_to_string(run.join("samples.jsonl")).unwrap();
    assert!(samples.contains("\"prompt\":\"010 020 030\""), "{samples}");
    succeed(&["generate", names[1], "--prompt", "010 020 030", "--max-tokens", "5"]);

    // One that goes on learns what it learned, and is told of once it is known to go on.
    let on = ["quickstart", "--resume", "--out", names[1], "--set"];
    let said = succeed(&[&on[..], &["train.steps=3"]].concat());
    let greeting = format!("learns to write like {} goes on from step 2.", names[0]);
    assert!(said.err.contains(&greeting) && said.err.contains(&generate), "{}", said.err);
    assert!(!said.err.contains("King James") && !said.err.contains("random weights"), "{}", said.err);
    let said = fail(&[&on[..], &["model.width=32"]].concat(), &["model.width is 32"]);
    assert!(!said.err.contains("learns to write"), "{}", said.err);
    fail(&["quickstart", "--resume"], &["--resume needs the run folder", "hint: gently quickstart --resume --out"]);
}

#[cfg(unix)]
#[test]
fn a_stop_ends_a_download_and_keeps_what_came() {
    use std::os::unix::fs::PermissionsExt;
    use std::process::Command;
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let run = |script: String| Command::new("sh").args(["-c", &script]).stderr(Stdio::null()).status().unwrap();
    // A server that sends a little and then nothing more.
    fs::create_dir(at("bin")).unwrap();
    let script = format!("#!/bin/sh\necho $$ > '{}'\nprintf 'some text'\nexec sleep 600\n", at("pid").display());
    fs::write(at("bin/curl"), script).unwrap();
    fs::set_permissions(at("bin/curl"), fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", at("bin").display(), std::env::var("PATH").unwrap_or_default());
    let (cache, out) = (at("cache"), at("out"));
    let out_name = out.to_str().unwrap();
    for args in [
        &["data", "prepare", "tinyshakespeare", "--out", out_name][..],
        &["train", "shakespeare-cpu", "--data", "tinyshakespeare", "--out", out_name],
    ] {
        let _ = fs::remove_dir_all(&cache);
        let part = cache.join("tinyshakespeare.txt.part");
        let mut child = command(args).env("GENTLY_CACHE", &cache).env("PATH", &path).spawn().unwrap();
        while fs::read(&part).unwrap_or_default() != b"some text" {
            assert!(child.try_wait().unwrap().is_none(), "{args:?} ended before it was asked to");
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        assert!(run(format!("kill -INT {}", child.id())).success());
        let said: Said = child.wait_with_output().unwrap().into();
        assert_eq!(said.code, Some(1), "{args:?}: {}", said.err);
        assert!(said.err.contains("stopped while the texts were prepared"), "{}", said.err);
        assert!(part.is_file(), "what came stays for the next time");
        let curl = fs::read_to_string(at("pid")).unwrap();
        assert!(!run(format!("kill -0 {curl}")).success(), "curl goes on");
    }
}
