//! `kill -9` at random moments, then `--resume`: the run ends as if nothing had happened.
//! `GENTLY_KILLS` sets how many kills (CI: 50). And signals that commands hear, to leave nothing half written.

use crate::run::{command, succeed, text, train_args};
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

/// metrics.jsonl without the fields that are times or speeds.
fn metrics(run: &Path) -> Vec<serde_json::Value> {
    let text = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let timeless = |line: &str| {
        let mut v: serde_json::Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{line:?}: {e}"));
        let map = v.as_object_mut().unwrap();
        map.retain(|k, _| !k.contains("second") && !k.contains("time") && k != "utilisation" && k != "eta");
        v
    };
    text.lines().map(timeless).collect()
}

fn weights(run: &Path) -> Vec<u8> {
    fs::read(run.join("checkpoints/step-60/model.safetensors")).unwrap()
}

#[test]
fn killed_runs_resume_to_the_same_bits() {
    let kills: usize = std::env::var("GENTLY_KILLS").ok().and_then(|k| k.parse().ok()).unwrap_or(6);
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("text.txt");
    fs::write(&data, text()).unwrap();

    let whole = dir.path().join("whole");
    let begun = Instant::now();
    succeed(&train_args(&data, &whole, &[]));
    let unbroken = begun.elapsed();
    let expected = metrics(&whole);
    assert_eq!(expected.last().unwrap()["step"], 60);

    let mut state = 99u64;
    let mut made = 0;
    let mut round = 0;
    while made < kills {
        round += 1;
        assert!(round <= kills * 20, "the run ends before it can be killed");
        let run = dir.path().join(format!("run-{round}"));
        // One run may be killed several times before it is let go.
        for attempt in 0.. {
            let fresh = !run.join("config.toml").exists();
            let args = train_args(&data, &run, if fresh { &[] } else { &["--resume"] });
            let mut child =
                command(&args).stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn().unwrap();
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let wait = unbroken.mul_f64((state >> 40) as f64 / (1u64 << 24) as f64);
            if attempt >= 4 || made >= kills {
                assert!(child.wait().unwrap().success(), "the resumed run fails");
                break;
            }
            std::thread::sleep(wait.max(Duration::from_millis(1)));
            if child.try_wait().unwrap().is_none() {
                child.kill().unwrap();
                made += 1;
            }
            if child.wait().unwrap().success() {
                break;
            }
        }
        assert_eq!(metrics(&run), expected, "metrics.jsonl differs after kills in {}", run.display());
        assert_eq!(weights(&run), weights(&whole), "final weights differ after kills");
    }
}

#[test]
fn one_and_two_threads_give_the_same_bits() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("text.txt");
    fs::write(&data, text()).unwrap();
    let (one, two) = (dir.path().join("one"), dir.path().join("two"));
    succeed(&train_args(&data, &one, &["--threads", "1"]));
    succeed(&train_args(&data, &two, &["--threads", "2"]));
    assert_eq!(metrics(&one), metrics(&two));
    assert_eq!(weights(&one), weights(&two));
}

/// Whether a process hears Ctrl-C and SIGTERM itself, as the system tells it.
#[cfg(target_os = "linux")]
fn hears_signals(pid: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    let caught = caught.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok()).unwrap_or_default();
    [2, 15].iter().all(|signal| caught >> (signal - 1) & 1 == 1)
}

/// Who hears a signal removes what is half written, whichever command it is: a saved state, a conversation.
#[cfg(target_os = "linux")]
#[test]
fn commands_that_write_hear_signals_and_end_by_them() {
    use std::os::unix::process::ExitStatusExt;
    use std::process::{Command, Stdio};
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (run, state, template) = (at("run"), at("state"), at("template"));
    fs::write(at("text.txt"), text()).unwrap();
    succeed(&train_args(Path::new(&at("text.txt")), Path::new(&run), &[]));
    fs::write(&template, "{% for m in messages %}{{ m.content }}{% endfor %}").unwrap();
    for args in [
        &["generate", &run, "--prompt", "-", "--save-state", &state][..],
        &["chat", &run, "--template", &template],
        &["score", &run, "--file", "-"],
    ] {
        for (signal, number) in [("-INT", 2), ("-TERM", 15)] {
            let mut child = command(args).stdin(Stdio::piped()).spawn().unwrap();
            // It waits for a text, which does not end before it does.
            let texts = child.stdin.take();
            while !hears_signals(child.id()) {
                assert!(child.try_wait().unwrap().is_none(), "{args:?} ended before it was asked to");
                std::thread::sleep(Duration::from_millis(5));
            }
            assert!(Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap().success());
            assert_eq!(child.wait().unwrap().signal(), Some(number), "{args:?}");
            drop(texts);
        }
    }
    assert!(!Path::new(&state).exists());
}
