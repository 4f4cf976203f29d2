//! Memory as the system counts it: runs and models that are refused memory, and the plan against what a run took.

use crate::run::{TINY, text};

/// Runs the program in so many KiB of address space, and insists that it ends cleanly for want of memory. What it says.
#[cfg(target_os = "linux")]
fn refused(kib: usize, args: &[&str]) -> String {
    use std::process::{Command, Stdio};
    let limit = format!("ulimit -v {kib} && exec \"$0\" \"$@\"");
    let mut limited = Command::new("sh");
    limited.args(["-c", &limit, env!("CARGO_BIN_EXE_gently")]).args(args);
    let said = limited.stdin(Stdio::null()).env("NO_COLOR", "1").output().unwrap();
    let err = String::from_utf8_lossy(&said.stderr).into_owned();
    assert_eq!(said.status.code(), Some(1), "{err}");
    assert!(err.contains("error:") && err.contains("memory") && !err.contains("panicked"), "{err}");
    assert!(err.contains("hint:"), "{err}");
    err
}

#[cfg(target_os = "linux")]
#[test]
fn a_run_that_is_refused_memory_says_so_and_ends_with_status_1() {
    let folder = tempfile::tempdir().unwrap();
    let (input, out) = (folder.path().join("text.txt"), folder.path().join("run"));
    std::fs::write(&input, text()).unwrap();
    let paths = [input.display().to_string(), out.display().to_string()];
    let mut args = vec!["train", "shakespeare-cpu", "--threads", "2", "--data", &paths[0], "--out", &paths[1]];
    args.extend(TINY);
    args.extend(["--set", "train.batch=131072", "--set", "train.micro_batch=131072"]);
    // Activations of some GiB, an address space of 700 MB. A machine with less memory free than that is told before.
    let err = refused(700_000, &args);
    assert!(err.contains("train.micro_batch"), "{err}");
}

/// Gives the model in `dir` an embedding table of `rows` rows. All its weights become zeros that take no room on the disk.
#[cfg(target_os = "linux")]
fn grow(dir: &std::path::Path, rows: u64) {
    use serde_json::{Value, json};
    use std::io::Write;
    let (config, weights) = (dir.join("config.json"), dir.join("model.safetensors"));
    let mut said: Value = serde_json::from_slice(&std::fs::read(&config).unwrap()).unwrap();
    said["vocab_size"] = rows.into();
    // It says the number of rows as well.
    said.as_object_mut().unwrap().remove("gently");
    std::fs::write(&config, said.to_string()).unwrap();

    let file = std::fs::read(&weights).unwrap();
    let length = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
    let mut header: Value = serde_json::from_slice(&file[8..8 + length]).unwrap();
    let table = "transformer.wte.weight";
    let [old, width] = [0usize, 1].map(|i| header[table]["shape"][i].as_u64().unwrap());
    header[table]["shape"][0] = rows.into();
    // The table is the file's first: what follows it moves.
    let (more, mut end) = ((rows - old) * width * 4, 0);
    for (name, tensor) in header.as_object_mut().unwrap() {
        if name == "__metadata__" {
            continue;
        }
        let [from, to] = [0usize, 1].map(|i| tensor["data_offsets"][i].as_u64().unwrap());
        let from = if name == table { from } else { from + more };
        tensor["data_offsets"] = json!([from, to + more]);
        end = end.max(to + more);
    }
    let header = header.to_string();
    let mut file = std::fs::File::create(&weights).unwrap();
    file.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
    file.write_all(header.as_bytes()).unwrap();
    file.set_len(8 + header.len() as u64 + end).unwrap();
}

#[cfg(target_os = "linux")]
#[test]
fn a_model_that_is_refused_memory_is_named_and_ends_with_status_1() {
    use gently::prelude::Tokenizer;
    use gently::text::TemplateTokens;
    let folder = tempfile::tempdir().unwrap();
    let model = crate::published::model(folder.path(), &Tokenizer::bytes(), 64, &TemplateTokens::new());
    // A table of 4 GiB: the address space has room for the file, not for the packed weights beside it.
    grow(folder.path(), 1 << 25);
    for mut command in [vec!["generate", &model, "--prompt", "a"], vec!["embed", &model, "a"]] {
        command.extend(["--threads", "2"]);
        let err = refused(6_000_000, &command);
        assert!(err.contains("weights (embed.tokens)") && err.contains(&model), "{err}");
    }
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
