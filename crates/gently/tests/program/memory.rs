//! Memory as the system counts it: a run that is refused memory, and the plan against what a run took.

use crate::run::{TINY, text};

#[cfg(target_os = "linux")]
#[test]
fn a_run_that_is_refused_memory_says_so_and_ends_with_status_1() {
    use std::process::{Command, Stdio};
    let folder = tempfile::tempdir().unwrap();
    let (input, out) = (folder.path().join("text.txt"), folder.path().join("run"));
    std::fs::write(&input, text()).unwrap();
    // Activations of some GiB, an address space of 700 MB. A machine with less memory free than that is told before.
    let program = env!("CARGO_BIN_EXE_gently");
    let mut limited = Command::new("sh");
    limited.args([
        "-c",
        "ulimit -v 700000 && exec \"$0\" \"$@\"",
        program,
        "train",
        "shakespeare-cpu",
        "--threads",
        "2",
    ]);
    limited.arg("--data").arg(&input).arg("--out").arg(&out).args(TINY).args([
        "--set",
        "train.batch=131072",
        "--set",
        "train.micro_batch=131072",
    ]);
    let said = limited.stdin(Stdio::null()).env("NO_COLOR", "1").output().unwrap();
    let err = String::from_utf8_lossy(&said.stderr);
    assert_eq!(said.status.code(), Some(1), "{err}");
    assert!(err.contains("error:") && err.contains("memory") && !err.contains("panicked"), "{err}");
    assert!(err.contains("hint:") && err.contains("train.micro_batch"), "{err}");
}

/// Measured and planned peak of a run of the Shakespeare recipe, made tiny and then what `more` says.
#[cfg(all(target_os = "linux", not(debug_assertions)))]
fn measured_and_planned(more: &[&str]) -> (f64, f64) {
    let folder = tempfile::tempdir().unwrap();
    let (input, out) = (folder.path().join("text.txt"), folder.path().join("run"));
    std::fs::write(&input, text()).unwrap();
    let paths = [input.display().to_string(), out.display().to_string()];
    let mut args = vec!["train", "shakespeare-cpu", "--data", &paths[0], "--out", &paths[1]];
    args.extend(TINY);
    args.extend(more);
    crate::run::succeed(&args);
    // "complete after step 300; peak memory 22175744 bytes, planned 23462692"
    let log = std::fs::read_to_string(out.join("log.txt")).unwrap();
    let line = log.lines().rfind(|line| line.contains("peak memory")).unwrap();
    let number = |after: &str| -> f64 {
        let digits = line.split(after).nth(1).unwrap().trim();
        digits.split(|c: char| !c.is_ascii_digit()).next().unwrap().parse().unwrap()
    };
    (number("peak memory"), number("planned"))
}

/// Debug builds carry several times the code, which the plan counts and a short run does not touch. The process is most of so
/// small a run, and what it brings in of the program, its heap and its kernels' scratch are bounds that systems with other pages
/// use less of: the plan may be more than the run took, hardly less.
#[cfg(all(target_os = "linux", not(debug_assertions)))]
#[test]
fn the_plan_holds_for_a_run_of_a_few_thousand_parameters() {
    let (measured, planned) = measured_and_planned(&["--set", "train.steps=300"]);
    assert!((0.85..1.05).contains(&(measured / planned)), "{measured} of {planned}");
}

/// What each call takes and gives back must leave no holes between the buffers that stay.
#[cfg(all(target_os = "linux", not(debug_assertions)))]
#[test]
fn the_plan_holds_for_long_rows() {
    let sizes = ["train.block=2048", "train.batch=1", "model.layers=12", "model.width=64", "train.steps=3"];
    let more: Vec<&str> = sizes.iter().flat_map(|size| ["--set", *size]).collect();
    let (measured, planned) = measured_and_planned(&more);
    assert!((0.9..1.02).contains(&(measured / planned)), "{measured} of {planned}");
}
