//! The commands a person tries first, on a run made here.

use crate::run::{fail, gently, succeed, text, train_args};
use gently::models::config::{DecoderConfig, Family, Position};
use gently::prelude::{Decoder, Device, Rng};
use std::fs;

/// Searches find what their words say, and say it in the same terms as the other commands.
fn looks_for_texts(run: &str) {
    let json = |more: &[&str]| -> serde_json::Value {
        let args = [&["generate", run, "--prompt", "the s", "--max-tokens", "6", "--json"], more].concat();
        serde_json::from_str(&succeed(&args).out).unwrap()
    };
    let number = |v: &serde_json::Value| v.as_f64().unwrap();
    let greedy = json(&["--temperature", "0", "--logprobs", "2"]);
    let tokens = greedy["logprobs"].as_array().unwrap();
    assert_eq!(tokens.len(), 6);
    for token in tokens {
        assert_eq!(token["id"], token["top"][0]["id"], "greedy takes the likeliest");
        assert!(number(&token["logprob"]) >= number(&token["top"][1]["logprob"]));
    }
    let pieces: String = tokens.iter().map(|t| t["text"].as_str().unwrap()).collect();
    assert_eq!(greedy["text"], pieces.as_str());

    let one = json(&["--beams", "1"]);
    assert_eq!((&one["texts"][0]["text"], one["texts"].as_array().unwrap().len()), (&greedy["text"], 1));
    let sum: f64 = tokens.iter().map(|t| number(&t["logprob"])).sum();
    assert!((number(&one["texts"][0]["logprob"]) - sum).abs() < 1e-3, "{one} {sum}");
    assert_eq!((&one["prompt_tokens"], &greedy["prompt_tokens"]), (&5.into(), &5.into()));
    let four = json(&["--beams", "4"]);
    let likelihoods: Vec<f64> = four["texts"].as_array().unwrap().iter().map(|t| number(&t["logprob"])).collect();
    assert!(likelihoods.len() == 4 && likelihoods.is_sorted_by(|a, b| a >= b), "{four}");
    assert!(likelihoods[0] >= sum - 1e-3, "a wider beam finds nothing worse here: {four}");
    let cut = json(&["--beams", "4", "--stop", " "]);
    for text in cut["texts"].as_array().unwrap() {
        let (said, tokens) = (text["text"].as_str().unwrap(), number(&text["tokens"]));
        // What ended it is a token as well: each is a character here.
        let ended = if text["end"] == "length" { 0.0 } else { 1.0 };
        assert!(!said.contains(' ') && tokens == said.chars().count() as f64 + ended, "{cut}");
        assert!((number(&text["logprob"]) - tokens * number(&text["score"])).abs() < 1e-6, "{cut}");
    }

    assert_eq!(json(&["--contrastive", "0"])["texts"][0]["text"], greedy["text"], "no weight on variety is greedy");
    fail(&["generate", run, "--prompt", "the", "--contrastive", "2"], &["weight of 2"]);
    for clash in [["--top-k", "3"], ["--contrastive", "0.5"], ["--choice", "a"], ["--draft", run]] {
        let said = gently(&[&["generate", run, "--beams", "2"], &clash[..]].concat());
        assert_eq!(said.code, Some(2), "{clash:?} draws, or looks for something else");
    }
}

#[test]
fn a_run_can_be_written_with_inspected_and_explained() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("text.txt");
    fs::write(&data, text()).unwrap();
    let out = dir.path().join("run");
    succeed(&train_args(&data, &out, &["--set", "sample.every=30"]));
    let run = out.to_str().unwrap();
    for file in ["config.toml", "metrics.jsonl", "report.html", "log.txt", "checkpoints/step-60/tokenizer.json"] {
        assert!(out.join(file).is_file(), "{file} is missing");
    }
    let report = fs::read_to_string(out.join("report.html")).unwrap();
    assert!(report.contains("<svg"), "the report has curves");
    assert!(!report.contains("src=\"http") && !report.contains("href=\"http"), "the report needs no network");
    assert!(succeed(&["inspect", run, "--report"]).out.trim_end().ends_with("report.html"));
    let checkpoint = out.join("checkpoints/step-60");
    for other in [dir.path(), checkpoint.as_path()] {
        fail(&["inspect", other.to_str().unwrap(), "--report"], &["is no run folder", "hint:"]);
        assert!(!other.join("report.html").exists());
    }
    fail(&["inspect", "gpt2", "--report"], &["gpt2 is no run folder", "hint:"]);

    let write = |more: &[&str]| {
        let mut args = vec!["generate", run, "--prompt", "the sea ", "--max-tokens", "60"];
        args.extend(more);
        succeed(&args).out
    };
    let one = write(&["--seed", "5"]);
    assert!(one.starts_with("the sea ") && one.chars().count() >= 60, "{one:?}");
    assert_eq!(one, write(&["--seed", "5"]), "the same seed writes the same text");
    assert_ne!(one, write(&["--seed", "6"]));
    assert_eq!(write(&["--temperature", "0"]), write(&["--top-k", "1"]), "greedy is top-1");
    assert_eq!(one, write(&["--seed", "5", "--threads", "1"]), "threads change nothing");
    let json: serde_json::Value = serde_json::from_str(&write(&["--json", "--stop", " "])).unwrap();
    assert_eq!(json["end"], "stop");
    assert!(!json["text"].as_str().unwrap().contains(' '));

    assert_eq!(write(&["--temperature", "0"]), write(&["--temperature", "0", "--no-lookup"]), "guesses change nothing");
    // A model may guess, if only its own next words.
    assert_eq!(one, write(&["--seed", "5", "--draft", run, "--draft-tokens", "3"]), "nor do guesses of a model");
    assert_eq!(write(&["--temperature", "0"]), write(&["--temperature", "0", "--no-lookup", "--draft", run]));
    let more = dir.path().join("more.txt");
    fs::write(&more, text() + "àéîõü").unwrap();
    let other = dir.path().join("other");
    succeed(&train_args(&more, &other, &[]));
    let other = other.to_str().unwrap();
    fail(&["generate", run, "--prompt", "the", "--draft", other], &["other", "vocabulary", "same tokenizer"]);
    assert_ne!(one, write(&["--seed", "5", "--frequency-penalty", "9"]));

    looks_for_texts(run);

    let score = |more: &[&str]| -> serde_json::Value {
        serde_json::from_str(&succeed(&[&["score", run, "--json"], more].concat()).out).unwrap()
    };
    let whole = score(&["--text", "the sea and the night", "--tokens"]);
    let sum: f64 = whole["logprobs"].as_array().unwrap().iter().map(|p| p.as_f64().unwrap()).sum();
    assert!((sum - whole["log_likelihood"].as_f64().unwrap()).abs() < 1e-4);
    let nats = whole["nats_per_token"].as_f64().unwrap();
    assert!((nats.exp() - whole["perplexity"].as_f64().unwrap()).abs() < 1e-6 * nats.exp());
    // Longer than the context: scored in windows.
    let long = score(&["--file", data.to_str().unwrap()]);
    assert!(long["tokens"].as_u64().unwrap() > 1000, "{long}");
    assert!((0.1..8.0).contains(&long["bits_per_byte"].as_f64().unwrap()), "{long}");

    let bench = |batch: &str| -> serde_json::Value {
        let args = ["bench", "infer", run, "--prefill", "10", "--decode", "5", "--depth", "3", "--json"];
        serde_json::from_str(&succeed(&[&args[..], &["--batch", batch]].concat()).out).unwrap()
    };
    let (one, two) = (bench("1"), bench("2"));
    assert!(two["results"].as_array().unwrap().iter().all(|r| r["tokens_per_second"].as_f64().unwrap() > 0.0));
    // The work of each token of one sequence, whatever stands beside it: prompts are read one at a time.
    for at in [0_usize, 1] {
        let work = |bench: &serde_json::Value| {
            let result = &bench["results"][at];
            result["gflops"].as_f64().unwrap() / result["tokens_per_second"].as_f64().unwrap()
        };
        assert!((work(&one) / work(&two) - 1.0).abs() < 1e-9, "{one} {two}");
    }

    let all = usize::MAX.to_string();
    for (option, said) in [("--prefill", "context of 16"), ("--decode", "context of 16"), ("--depth", "context of 16")]
    {
        fail(&["bench", "infer", run, option, &all], &["error: --depth", option, said, "hint:"]);
    }
    let nothing = ["bench", "infer", run, "--prefill", "0", "--decode", "0"];
    fail(&nothing, &["--prefill 0 and --decode 0 leave nothing to measure", "hint:"]);
    for (option, value) in [("--batch", "0"), ("--batch", &all), ("--rounds", "0"), ("--rounds", &all)] {
        assert_eq!(gently(&["bench", "infer", run, option, value]).code, Some(2), "{option} {value}");
    }

    let seen: serde_json::Value = serde_json::from_str(&succeed(&["inspect", run, "--json"]).out).unwrap();
    assert_eq!(seen["config"]["width"], 16);
    let tensors = seen["tensors"].as_array().unwrap();
    let counted: u64 = tensors
        .iter()
        .map(|t| t["shape"].as_array().unwrap().iter().map(|n| n.as_u64().unwrap()).product::<u64>())
        .sum();
    assert_eq!(seen["parameters"], counted, "the formula and the tensors agree");
    let (half, whole) = (&seen["kv_bytes_per_token_f16"], &seen["kv_bytes_per_token_f32"]);
    assert!(half.as_u64().is_some_and(|n| n > 0 && whole.as_u64() == Some(2 * n)), "{half} {whole}");
    let shown = succeed(&["inspect", run]).out;
    assert!(shown.contains("keys and values in f16, one token"), "{shown}");
    fail(
        &["generate", run, "--prompt", "-", "--json-schema", "-"],
        &["--prompt and --json-schema both read standard input", "hint:"],
    );
    assert!(succeed(&["spec", run]).out.contains("ℝ^{48×16}"), "the projection of queries, keys and values");

    let data_seen = succeed(&["data", "inspect", run]).out;
    assert!(data_seen.contains("entropy"), "{data_seen}");
}

#[test]
fn a_model_that_reads_without_an_end_is_measured_beyond_its_context() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_str().unwrap();
    let cfg = DecoderConfig {
        vocab: 16,
        context: 8,
        layers: 1,
        heads: 2,
        width: 16,
        position: Position::Alibi,
        ..DecoderConfig::preset(Family::Gpt2)
    };
    Decoder::new(&cfg, &Rng::new(7), &Device::Cpu).unwrap().save_pretrained(path).unwrap();
    let bench = ["bench", "infer", path, "--prefill", "4", "--decode", "2", "--rounds", "1", "--depth"];
    succeed(&[&bench[..], &["64"]].concat());
    let all = usize::MAX.to_string();
    fail(&[&bench[..], &[all.as_str()]].concat(), &["--prefill 4 are more than 16777216 tokens", "hint:"]);
}

#[test]
fn prepared_data_trains_like_the_text_itself() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("text.txt");
    fs::write(&data, text()).unwrap();
    let shards = dir.path().join("shards");
    succeed(&["data", "prepare", data.to_str().unwrap(), "--out", shards.to_str().unwrap()]);
    let weights = |name: &str, data: &std::path::Path| {
        let out = dir.path().join(name);
        succeed(&train_args(data, &out, &[]));
        fs::read(out.join("checkpoints/step-60/model.safetensors")).unwrap()
    };
    assert_eq!(weights("from-text", &data), weights("from-shards", &shards));
}

#[test]
fn options_of_another_tokenizer_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    fs::write(at("text.txt"), text()).unwrap();
    let (data, out, made) = (at("text.txt"), at("out"), at("made"));
    let prepare = ["data", "prepare", data.as_str(), "--out", out.as_str()];
    let with = |more: &[&str]| prepare.iter().chain(more).map(|a| a.to_string()).collect::<Vec<_>>();
    let bpe = ["data", "prepare", data.as_str(), "--out", made.as_str(), "--tokenizer", "bpe", "--vocab", "300"];
    succeed(&bpe);
    for other in [&["--vocab", "300"][..], &["--vocab", "300", "--tokenizer", "bytes"]] {
        fail(&with(other), &["--vocab 300", "hint: add --tokenizer bpe"]);
    }
    let file = ["--tokenizer-file", made.as_str()];
    fail(&with(&[&file[..], &["--vocab", "300"]].concat()), &["--vocab 300"]);
    assert_eq!(gently(&with(&[&file[..], &["--tokenizer", "bpe"]].concat())).code, Some(2));
    assert!(!dir.path().join("out").exists());
    succeed(&with(&file));
}

#[test]
fn the_machine_is_described() {
    let doctor: serde_json::Value = serde_json::from_str(&succeed(&["doctor", "--json"]).out).unwrap();
    assert!(doctor["f32_peak_gflops"].as_f64().unwrap() > 0.0);
    assert!(doctor["paths"].as_array().unwrap().contains(&doctor["path"]));
    assert!(succeed(&["data", "list"]).out.contains("tinyshakespeare"));
}

#[test]
fn every_command_has_an_example_in_its_help() {
    let commands = [
        "quickstart",
        "train",
        "generate",
        "chat",
        "score",
        "embed",
        "data",
        "inspect",
        "convert",
        "quantize",
        "spec",
        "bench",
        "doctor",
    ];
    for command in commands {
        let help = gently(&[command, "--help"]);
        assert!(help.ok);
        assert!(help.out.contains(&format!("gently {command}")), "{command} --help shows no example");
        // To be copied from a terminal of any usual width.
        let examples = help.out.split("Examples:\n").nth(1).unwrap_or_default();
        for line in examples.lines().take_while(|line| !line.is_empty()) {
            assert!(line.starts_with("  ") && line.chars().count() <= 80, "{command} --help: {line:?}");
        }
    }
}

#[test]
fn every_optimizer_and_family_learns() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("text.txt");
    fs::write(&data, text()).unwrap();
    let cases: &[(&str, &[&str])] = &[
        ("muon", &["--set", "optimizer.kind=muon"]),
        ("lion", &["--set", "optimizer.kind=lion", "--set", "optimizer.lr=1e-3"]),
        ("llama", &["--set", "model.family=llama", "--set", "model.kv_heads=1"]),
        ("bf16", &["--set", "train.compute=bf16"]),
        ("bytes", &["--set", "tokenizer.kind=bytes"]),
        ("bpe", &["--set", "tokenizer.kind=bpe", "--set", "tokenizer.vocab=300"]),
        ("recompute", &["--set", "train.recompute=true", "--set", "model.dropout=0.1"]),
    ];
    for (name, more) in cases {
        let out = dir.path().join(name);
        succeed(&train_args(&data, &out, more));
        let metrics = fs::read_to_string(out.join("metrics.jsonl")).unwrap();
        let loss = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["train_loss"].as_f64();
        let losses: Vec<f64> = metrics.lines().filter_map(loss).collect();
        let (first, last) = (losses[0], losses[losses.len() - 1]);
        assert!(last < 0.95 * first, "{name}: loss {first} to {last}");
    }
}

#[test]
fn a_run_becomes_a_gguf_file_and_a_folder_again() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("text.txt");
    fs::write(&data, text()).unwrap();
    let out = dir.path().join("run");
    let more = ["--set", "tokenizer.kind=bpe", "--set", "tokenizer.vocab=300", "--set", "model.width=32"];
    succeed(&train_args(&data, &out, &more));
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let write =
        |model: &str| succeed(&["generate", model, "--prompt", "the sea", "--max-tokens", "20", "--seed", "3"]).out;
    let (run, file, folder) = (at("run"), at("model.gguf"), at("folder"));
    succeed(&["convert", &run, &file]);
    succeed(&["convert", &file, &folder]);
    let first = write(&run);
    assert_eq!(write(&file), first, "the GGUF file is the same model");
    assert_eq!(write(&folder), first, "and so is the folder made from it");

    let small = at("small.gguf");
    let measured = ["--measure", data.to_str().unwrap(), "--tokens", "300", "--json"];
    let said = succeed(&[&["quantize", &file, &small, "--type", "q8_0"][..], &measured[..]].concat()).out;
    let said: serde_json::Value = serde_json::from_str(&said).unwrap();
    let (full, eight) = (&said["models"][0], &said["models"][1]);
    assert!(eight["bytes"].as_u64().unwrap() < full["bytes"].as_u64().unwrap());
    // Of the weights alone, whatever else the files have: the first has them all in f32.
    let bits = |model: &serde_json::Value| model["bits_per_parameter"].as_f64().unwrap();
    assert!(bits(full) == 32.0 && (8.5..12.0).contains(&bits(eight)), "{said}");
    let apart = eight["nats_per_token"].as_f64().unwrap() - full["nats_per_token"].as_f64().unwrap();
    assert!(apart.abs() < 0.02, "{said}");
    let seen: serde_json::Value = serde_json::from_str(&succeed(&["inspect", &small, "--json"]).out).unwrap();
    assert!(seen["gguf"]["types"]["Q8_0"]["tensors"].as_u64().unwrap() > 0, "{seen}");
    assert_eq!(seen["files"][0]["bytes"].as_u64(), Some(fs::metadata(&small).unwrap().len()), "{seen}");
    let shown = succeed(&["inspect", &small]).out;
    assert!(shown.contains("tokenizer.ggml.tokens") && shown.matches("\nfiles\n").count() == 1, "{shown}");

    crate::run::fail(&["quantize", &file, &file, "--type", "q4_0"], &["both read and written"]);
    crate::run::fail(&["convert", &run, &run], &["both read and written"]);
    crate::run::fail(&["generate", &file, "--chat", "--prompt", "x"], &["no chat template", "hint:"]);
    fs::write(&small, &fs::read(&small).unwrap()[..5000]).unwrap();
    crate::run::fail(&["generate", &small, "--prompt", "x"], &["small.gguf", "hint:"]);
}
