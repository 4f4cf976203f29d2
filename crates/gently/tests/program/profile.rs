//! Profiles as a person makes them.

use crate::run::{gently, succeed, text, train_args};
use std::fs;
use std::path::Path;

/// `metrics.jsonl` without what a clock measured.
fn metrics(run: &Path) -> Vec<serde_json::Value> {
    let read = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let without_clock = |line: &str| {
        let mut line: serde_json::Value = serde_json::from_str(line).unwrap();
        for key in ["tokens_per_second", "utilisation", "seconds"] {
            line.as_object_mut().unwrap().remove(key);
        }
        line
    };
    read.lines().map(without_clock).collect()
}

#[test]
fn a_profile_leaves_the_run_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("text.txt");
    fs::write(&data, text()).unwrap();
    let (plain, profiled) = (dir.path().join("plain"), dir.path().join("profiled"));
    succeed(&train_args(&data, &plain, &[]));
    let said = succeed(&train_args(&data, &profiled, &["--profile", "5"]));
    assert!(said.err.contains("of roofline") && said.err.contains("mixer.qkv"), "the table is shown\n{}", said.err);
    assert_eq!(metrics(&plain), metrics(&profiled));
    let weights = |run: &Path| fs::read(run.join("checkpoints/step-60/model.safetensors")).unwrap();
    assert_eq!(weights(&plain), weights(&profiled));

    let json: serde_json::Value = serde_json::from_slice(&fs::read(profiled.join("profile.json")).unwrap()).unwrap();
    assert_eq!((json["first_step"].as_u64(), json["steps"].as_u64()), (Some(4), Some(5)));
    let calls = json["calls"].as_array().unwrap();
    for (op, pass) in
        [("linear", "forward"), ("linear", "backward"), ("attention_packed", "backward"), ("adamw", "forward")]
    {
        let row = calls.iter().find(|c| c["op"] == op && c["pass"] == pass);
        let row = row.unwrap_or_else(|| panic!("{op} {pass} is missing"));
        assert!(row["flops"].as_f64().unwrap() > 0.0 && row["bytes"].as_f64().unwrap() > 0.0, "{row}");
        assert!(row["seconds"].as_f64().unwrap() > 0.0 && row["roofline"].as_f64().unwrap() > 0.0, "{row}");
    }
    let page = fs::read_to_string(profiled.join("profile.html")).unwrap();
    assert!(
        page.contains("<canvas") && !page.contains("src=") && !page.contains("http://") && !page.contains("https://"),
        "the page needs no network"
    );
    assert!(!plain.join("profile.json").exists());
}

#[test]
fn a_profile_of_no_number_is_refused() {
    for wrong in ["0", "1001", "shakespeare-cpu"] {
        let said = gently(&["train", "--profile", wrong]);
        assert_eq!(said.code, Some(2));
        assert!(said.err.contains("from 1 to 1000"), "{}", said.err);
    }
}

#[test]
fn the_bench_prints_this_machines_own_table() {
    let small = ["--set", "model.layers=1", "--set", "train.batch=2", "--steps", "2", "--threads", "1"];
    let mut args = vec!["bench", "train", "--recipe", "shakespeare-cpu", "--recipe", "quickstart", "--compute", "both"];
    args.extend(small);
    let table = succeed(&args);
    for word in ["tokens/s", "time/floor", "quickstart", "bf16"] {
        assert!(table.out.contains(word), "{word} in\n{}", table.out);
    }
    args.push("--json");
    let said: serde_json::Value = serde_json::from_str(&succeed(&args).out).unwrap();
    assert_eq!(said["threads"], 1);
    let runs = said["runs"].as_array().unwrap();
    assert_eq!(runs.len(), 4);
    for run in runs {
        let number = |key: &str| run[key].as_f64().unwrap();
        assert_eq!(run["tokens_per_second_all"].as_array().unwrap().len(), 2);
        assert!(number("tokens_per_second") > 0.0 && number("peak_memory_bytes") > 0.0, "{run}");
        // At 6 operations for each weight in a product there is no way below the floor, in any build.
        assert!(number("time_over_floor") > 1.0, "{run}");
        assert_eq!(run["vocab"], 65, "the vocabulary of characters");
    }
}

#[test]
fn scaling_writes_a_page_with_plots() {
    let dir = tempfile::tempdir().unwrap();
    let page = dir.path().join("scaling.html");
    let said = succeed(&[
        "bench",
        "scaling",
        "--quick",
        "--only",
        "depth",
        "--threads",
        "1",
        "--json",
        "--html",
        page.to_str().unwrap(),
    ]);
    let report: serde_json::Value = serde_json::from_str(&said.out).unwrap();
    let rows = report["rows"].as_array().unwrap();
    assert!(rows.len() >= 3);
    assert!(rows.windows(2).all(|w| w[0]["layers"].as_u64() < w[1]["layers"].as_u64()));
    assert!(rows.iter().all(|r| r["series"] == "depth" && r["time_over_floor"].as_f64().unwrap() > 1.0));
    let html = fs::read_to_string(&page).unwrap();
    assert!(
        html.contains("<svg") && html.contains("time/floor") && !html.contains("http://") && !html.contains("https://")
    );
    assert!(!html.contains("<script"), "plots need none");
}
