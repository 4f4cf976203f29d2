//! Nothing goes wrong in silence: numbers that mean nothing, texts that are cut, options without an effect, files that are not
//! there are errors, or are told.

use crate::run::{Said, command, fail, gently, succeed};
use gently::models::config::{DecoderConfig, Family};
use gently::prelude::*;
use gently::text::{TemplateTokens, Vocabulary};
use serde_json::Value;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Stdio;

/// Tokens that the model reads.
const CONTEXT: usize = 24;

/// A model of random weights, or of none that are numbers, in `dir`.
fn model(dir: &Path, tokenizer: &Tokenizer, numbers: bool) -> String {
    let cfg = DecoderConfig {
        vocab: tokenizer.vocab_size(),
        context: CONTEXT,
        layers: 1,
        heads: 2,
        width: 32,
        init_std: 0.3,
        ..DecoderConfig::preset(Family::Gpt2)
    };
    let model = Decoder::new(&cfg, &Rng::new(7), &Device::Cpu).unwrap();
    for param in model.params().iter().filter(|_| !numbers) {
        param.tensor.with_data_mut::<f32, _>(|w| w.fill(f32::NAN)).unwrap();
    }
    model.save_pretrained(dir).unwrap();
    tokenizer.save(dir).unwrap();
    fs::write(dir.join("chat_template.jinja"), "{% for m in messages %}{{ m.content }}{% endfor %}").unwrap();
    dir.to_str().unwrap().to_owned()
}

/// Runs a command on what it reads.
fn reading(args: &[&str], text: &str) -> Said {
    let mut child = command(args).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    child.wait_with_output().unwrap().into()
}

fn json(args: &[&str]) -> Value {
    serde_json::from_str(&succeed(args).out).unwrap()
}

#[test]
fn a_model_without_numbers_writes_and_scores_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let broken = model(&dir.path().join("m"), &Tokenizer::bytes(), false);
    let words = ["the model's output after 3 tokens is not a number", "hint: the weights are damaged"];
    let ways: [&[&str]; 7] = [
        &[],
        &["--temperature", "0", "--json"],
        &["--top-k", "4", "--repetition-penalty", "1.1"],
        &["--mirostat", "5"],
        &["--choice", "yes", "--choice", "no"],
        &["--beams", "2"],
        &["--contrastive", "0.6"],
    ];
    for way in ways {
        fail(&[&["generate", &broken, "--prompt", "the", "-n", "4"], way].concat(), &words);
    }
    // What was written has a line of its own.
    let ways: [&[&str]; 2] = [&[], &["--samples", "2"]];
    for more in ways {
        let said = fail(&[&["generate", &broken, "--prompt", "the", "-n", "4"], more].concat(), &words);
        assert_eq!(said.out, "the\n", "{more:?}");
    }
    let said = reading(&["chat", &broken], "the\nthe\n");
    assert!(said.code == Some(1) && words.iter().all(|w| said.err.contains(w)), "{}", said.err);
    fail(&["score", &broken, "--text", "the"], &["after 1 tokens is not a number", words[1]]);

    let item = "items:\n- {q: the, a: sea}\ndoc_to_target: a\n";
    let choose = "output_type: multiple_choice\nitems:\n- {q: the, c: [sea, sky], a: 0}\ndoc_to_text: '{{q}}'\n\
        doc_to_choice: '{{c}}'\ndoc_to_target: '{{a}}'\n";
    for (name, task) in [
        ("read.yaml", format!("task: t\nkind: perplexity\n{item}")),
        ("write.yaml", format!("task: t\nkind: generate\ndoc_to_text: q\n{item}")),
        ("choose.yaml", format!("task: t\n{choose}")),
    ] {
        fs::write(at(name), task).unwrap();
        fail(&["eval", &broken, "--task", &at(name)], &["is not a number", words[1]]);
    }
}

#[test]
fn a_prompt_that_is_cut_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let path = model(&dir.path().join("m"), &Tokenizer::bytes(), true);
    let write = |prompt: &str, more: &[&str]| {
        let args = ["generate", &path, "--prompt", prompt, "-n", "2"];
        gently(&[&args[..], more].concat())
    };
    let left_out = |said: Said| serde_json::from_str::<Value>(&said.out).unwrap()["prompt_left_out"].clone();
    let (whole, long) = ("a".repeat(CONTEXT), "a".repeat(CONTEXT + 7));
    let said = write(&whole, &["--json"]);
    assert!(!said.err.contains("left out"), "{}", said.err);
    assert_eq!(left_out(said), 0);
    let said = write(&long, &["--json"]);
    assert!(said.err.contains("its first 7 tokens are left out"), "{}", said.err);
    assert_eq!(left_out(said), 7);
    // A conversation without its beginning, which says how to behave, is another one.
    for long in [&["--chat"][..], &["--chat", "--json"], &["--beams", "2"], &["--contrastive", "0.5"]] {
        let said = write(&"a".repeat(CONTEXT + 7), long);
        assert_eq!(said.code, Some(1), "{}", said.err);
        assert!(
            said.err.contains("31 tokens do not fit into a context of 24") && said.err.contains("hint:"),
            "{}",
            said.err
        );
    }
    let said = write(&long, &["--chat", "--system", "b"]);
    assert!(said.err.contains("32 tokens do not fit"), "{}", said.err);
    assert!(write(&whole, &["--chat"]).ok);
}

#[test]
fn bits_are_of_the_bytes_that_are_scored() {
    let dir = tempfile::tempdir().unwrap();
    let holds = |path: &str, text: &str, bytes: u64| {
        let said = json(&["score", path, "--text", text, "--json"]);
        assert_eq!(said["bytes"], bytes, "{text}: {said}");
        let [bits, sum] = ["bits_per_byte", "log_likelihood"].map(|name| said[name].as_f64().unwrap());
        assert!((bits * bytes as f64 * std::f64::consts::LN_2 + sum).abs() < 1e-6 * sum.abs(), "{said}");
    };
    // Nothing begins texts: the first byte is not scored.
    let bytes = model(&dir.path().join("bytes"), &Tokenizer::bytes(), true);
    holds(&bytes, "the sea", 6);
    holds(&bytes, "é", 1);
    // A beginning that was put in front is no part of the text; one that it spells is.
    let v = Vocabulary {
        model: "llama",
        tokens: vec!["<unk>", "<bos>", "<eos>", "▁", "a", "b", "▁a"],
        types: vec![2, 3, 3, 1, 1, 1, 1],
        scores: vec![0.0; 7],
        bos: Some(1),
        ends: vec![2],
        unknown: Some(0),
        ..Vocabulary::default()
    };
    let names: TemplateTokens =
        [("bos_token", "<bos>"), ("eos_token", "<eos>")].map(|(k, v)| (k.to_owned(), v.to_owned())).into();
    for (name, add_bos) in [("front", true), ("none", false)] {
        let v = Vocabulary { add_bos: Some(add_bos), ..v.clone() };
        let tokenizer = Tokenizer::from_vocabulary(&v, Path::new("x")).unwrap();
        let folder = dir.path().join(name);
        let path = model(&folder, &tokenizer, true);
        tokenizer.save_with(&folder, &names).unwrap();
        holds(&path, "ab", 2);
        holds(&path, "<bos>ab", 2);
    }
}

#[test]
fn options_do_something_or_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = model(&dir.path().join("m"), &Tokenizer::bytes(), true);
    assert_eq!(gently(&["score", &path, "--text", "the", "--no-lookup"]).code, Some(2), "nothing is guessed there");
    let refused = |more: &[&str], words: &[&str]| {
        let write = ["generate", &path, "--prompt", "the", "-n", "2"];
        fail(&[&write[..], more].concat(), &[words, &["hint:"]].concat());
    };
    refused(&["--stop", "x", "--stop", ""], &["--stop is empty"]);
    refused(&["--mirostat", "5", "-t", "0"], &["temperature is 0", "mirostat", "leave mirostat out"]);
    refused(&["--penalty-window", "3"], &["--penalty-window 3", "--repetition-penalty"]);
    refused(&["--penalty-window", "3", "--dry", "0"], &["--penalty-window 3"]);
    succeed(&["generate", &path, "--penalty-window", "3", "--presence-penalty", "0.5", "-n", "2"]);
    for (option, value) in [("--temperature", "-1"), ("--top-p", "0"), ("--min-p", "2"), ("--dry", "-1")] {
        refused(&[option, value], &[]);
    }
    refused(&["--json-schema", ""], &["the JSON schema cannot be used: it is empty"]);
    // Any JSON: of bytes it can be written.
    let args = ["generate", &path, "--prompt", "the", "-n", "2", "--json-schema"];
    for schema in ["true", " false"] {
        let said = gently(&[&args[..], &[schema]].concat());
        assert!(!said.err.contains("cannot read"), "{schema}: {}", said.err);
    }
}

#[test]
fn texts_may_begin_with_a_hyphen() {
    let dir = tempfile::tempdir().unwrap();
    let path = model(&dir.path().join("m"), &Tokenizer::bytes(), true);
    let write = ["generate", &path, "-n", "8", "-t", "0", "--prompt", "- milk\n- "];
    let more = |more: &[&str]| succeed(&[&write[..], more].concat()).out;
    assert!(more(&["--stop", "-x", "--stop", "--y"]).starts_with("- milk\n- "));
    assert_eq!(more(&["--regex", "-{3}"]), "- milk\n- ---\n");
    assert!(more(&["--choice", "--yes", "--choice", "-no"]).starts_with("- milk\n- -"));
    assert_eq!(json(&["generate", &path, "-p", "-a", "-n", "1", "--json"])["prompt"], "-a");
    assert_eq!(json(&["score", &path, "--text", "--json -b", "--json"])["tokens"], 8);
    let system = ["--chat", "--system", "- be brief", "--json"];
    let said = json(&[&["generate", &path, "--prompt", "-", "-n", "1"][..], &system].concat());
    assert_eq!(said["prompt_tokens"], 10, "the prompt - is standard input, which is empty");
    succeed(&["chat", &path, "--system", "--brief"]);
    // An option after a text is one.
    assert_eq!(gently(&["score", &path, "--text", "-a", "--nonsense"]).code, Some(2));
}

#[test]
fn files_that_cannot_be_used_come_with_a_hint() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let path = model(&dir.path().join("m"), &Tokenizer::bytes(), true);
    for option in ["--grammar", "--json-schema"] {
        let with = |file: &str, hint: &str| fail(&["generate", &path, option, file], &["cannot read", file, hint]);
        with(&at("nope"), "hint: give a file that exists");
        with(&path, "hint: give a file, not a folder");
    }
    fail(&["score", &path, "--file", &at("nope")], &["cannot read", "nope", "hint:"]);
    fail(&["chat", &path, "--template", &path], &["cannot read", "hint: give a file, not a folder"]);

    fail(&["eval", &path, "--task", &at("nope.yaml")], &["cannot read", "nope.yaml", "hint: give a task file"]);
    let task = "task: t\nkind: generate\nitems:\n- {q: a, a: b}\n- {q: b, a: b}\n- {q: c, a: b}\n\
        doc_to_text: q\ndoc_to_target: a\n";
    fs::write(at("t.yaml"), task).unwrap();
    let words = ["99 solved examples are asked for, but there are 2", "hint: ask for fewer with --num-fewshot"];
    fail(&["eval", &path, "--task", &at("t.yaml"), "--num-fewshot", "99"], &words);
    let task = task.split("items:").next().unwrap().to_owned() + "data: gone.jsonl\ndoc_to_text: q\ndoc_to_target: a\n";
    fs::write(at("t.yaml"), task).unwrap();
    fail(
        &["eval", &path, "--task", &at("t.yaml")],
        &["gone.jsonl", "hint: paths in a task file are relative to the file"],
    );
}

/// Where the system has a device that is always full.
#[test]
fn standard_output_is_named_where_it_is_full() {
    let Ok(full) = fs::OpenOptions::new().write(true).open("/dev/full") else { return };
    let dir = tempfile::tempdir().unwrap();
    let path = model(&dir.path().join("m"), &Tokenizer::bytes(), true);
    let mut command = command(&["generate", &path, "--prompt", "the", "-n", "2"]);
    let said: Said = command.stdout(full).output().unwrap().into();
    assert_eq!(said.code, Some(1), "{}", said.err);
    assert!(said.err.contains("standard output") && said.err.contains("hint: free some space"), "{}", said.err);
}
