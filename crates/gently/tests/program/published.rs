//! Models as others publish them, with marks that begin texts and end turns; they are tiny and made here.

use crate::run::{Said, command, fail, succeed};
use gently::models::config::{DecoderConfig, Family};
use gently::prelude::*;
use gently::text::{TemplateTokens, Vocabulary};
use serde_json::Value;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Stdio;

/// A model of random weights with this tokenizer in `dir`.
fn model(dir: &Path, tokenizer: &Tokenizer, context: usize, tokens: &TemplateTokens) -> String {
    let cfg = DecoderConfig {
        vocab: tokenizer.vocab_size(),
        context,
        layers: 1,
        heads: 2,
        width: 32,
        init_std: 0.3,
        ..DecoderConfig::preset(Family::Gpt2)
    };
    Decoder::new(&cfg, &Rng::new(7), &Device::Cpu).unwrap().save_pretrained(dir).unwrap();
    tokenizer.save_with(dir, tokens).unwrap();
    dir.to_str().unwrap().to_owned()
}

/// SentencePiece of two letters, with marks for turns.
fn turns(add_bos: bool) -> Tokenizer {
    let v = Vocabulary {
        model: "llama",
        tokens: vec!["<unk>", "<bos>", "<eos>", "<turn>", "▁", "a", "b", "▁a"],
        types: vec![2, 3, 3, 3, 1, 1, 1, 1],
        scores: vec![0.0; 8],
        bos: Some(1),
        ends: vec![2, 3],
        unknown: Some(0),
        add_bos: Some(add_bos),
        ..Vocabulary::default()
    };
    Tokenizer::from_vocabulary(&v, Path::new("x")).unwrap()
}

fn names() -> TemplateTokens {
    [("bos_token", "<bos>"), ("eos_token", "<eos>")].map(|(k, v)| (k.to_owned(), v.to_owned())).into()
}

/// Runs `gently chat` on lines, to their end.
fn chat(args: &[&str], lines: &str) -> Said {
    let all = [&["chat"], args, &["--temperature", "0", "--max-tokens", "4"][..]].concat();
    let mut child = command(&all).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    let said: Said = child.wait_with_output().unwrap().into();
    assert!(said.ok, "{}{}", said.out, said.err);
    said
}

fn json(args: &[&str]) -> Value {
    serde_json::from_str(&succeed(args).out).unwrap()
}

#[test]
fn a_context_of_a_few_tokens_is_scored_to_the_end() {
    let dir = tempfile::tempdir().unwrap();
    for context in 1usize..4 {
        let path = model(&dir.path().join(context.to_string()), &Tokenizer::bytes(), context, &TemplateTokens::new());
        let said = json(&["score", &path, "--text", "the sea", "--tokens", "--json"]);
        // No token begins texts here, so the first is not scored.
        assert_eq!((&said["tokens"], said["logprobs"].as_array().unwrap().len()), (&6.into(), 6));
    }
}

#[test]
fn a_score_is_that_of_the_perplexity_task() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let path = model(&dir.path().join("m"), &turns(false), 64, &names());
    let said = json(&["score", &path, "--text", "ab abba", "--tokens", "--json"]);
    let pieces: String = said["pieces"].as_array().unwrap().iter().map(|p| p.as_str().unwrap()).collect();
    assert_eq!(pieces, "ab abba");
    fs::write(at("t.yaml"), "task: t\nkind: perplexity\nitems:\n- {t: ab abba}\ndoc_to_target: t\n").unwrap();
    succeed(&["eval", &path, "--task", &at("t.yaml"), "--out", &at("out")]);
    let read: Value = serde_json::from_str(&fs::read_to_string(at("out/t.jsonl")).unwrap()).unwrap();
    let [found, known] = [&said, &read].map(|v| v["log_likelihood"].as_f64().unwrap());
    assert!((found - known).abs() < 1e-3, "{found}, not {known}");
    // The same weights whose tokenizer puts the same token in front: once, not twice.
    let front = model(&dir.path().join("front"), &turns(true), 64, &names());
    let said = json(&["score", &front, "--text", "ab abba", "--json"]);
    assert!((found - said["log_likelihood"].as_f64().unwrap()).abs() < 1e-6, "{found}: {said}");
}

#[test]
fn a_conversation_has_the_same_tokens_in_both_commands() {
    let dir = tempfile::tempdir().unwrap();
    let path = model(&dir.path().join("m"), &turns(true), 64, &names());
    fs::write(dir.path().join("m/chat_template.jinja"), "{% for m in messages %}{{ m.content }}{% endfor %}").unwrap();
    let said = json(&["generate", &path, "--chat", "--prompt", "ab", "-n", "2", "--temperature", "0", "--json"]);
    assert_eq!(said["prompt_tokens"], 2, "the template writes no beginning");
    let said = chat(&[&path[..]], "ab\n/stats\n");
    assert!(said.err.contains("; 2 tokens read"), "{}", said.err);
}

#[test]
fn a_template_of_a_file_knows_the_names_of_the_model() {
    let dir = tempfile::tempdir().unwrap();
    let path = model(&dir.path().join("m"), &turns(true), 64, &TemplateTokens::new());
    let file = dir.path().join("template");
    fs::write(&file, "{{ raise_exception('from ' ~ bos_token ~ ' to ' ~ eos_token) }}").unwrap();
    let said = chat(&[&path[..], "--template", file.to_str().unwrap()], "ab\n");
    assert!(said.err.contains("from <bos> to <eos>"), "{}", said.err);
}

#[test]
fn a_text_in_a_fence_is_no_command() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let path = model(&dir.path().join("m"), &Tokenizer::bytes(), 128, &TemplateTokens::new());
    fs::write(at("template"), "{% for m in messages %}{{ m.content }} {% endfor %}").unwrap();
    let lines = format!("hello\n\"\"\"\n/clear\n\"\"\"\n/save {}\n", at("saved.json"));
    chat(&[&path[..], "--template", &at("template")], &lines);
    let kept: Value = serde_json::from_str(&fs::read_to_string(at("saved.json")).unwrap()).unwrap();
    assert_eq!((&kept[0]["content"], &kept[2]["content"]), (&"hello".into(), &"/clear".into()));
}

#[test]
fn marks_of_turns_survive_conversion() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let path = model(&dir.path().join("m"), &turns(true), 64, &names());
    fs::write(at("m/chat_template.jinja"), "{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}")
        .unwrap();
    let first = TextModel::open(&path).unwrap();
    assert_eq!(first.tokenizer().ends(), [2, 3]);
    // A folder from a folder, a file from it, and a folder from that.
    let mut from = path;
    for (to, named) in [("folder", 2), ("file.gguf", 3), ("again", 3)] {
        succeed(&["convert", &from, &at(to)]);
        from = at(to);
        let model = TextModel::open(&from).unwrap();
        assert_eq!(model.tokenizer().ends(), first.tokenizer().ends(), "{to}");
        let tokens = model.chat_template().unwrap().tokens();
        // A GGUF file also names the token for what cannot be spelled.
        assert_eq!(tokens.len(), named, "{to}: {tokens:?}");
        assert!(names().iter().all(|(key, token)| tokens.get(key) == Some(token)), "{to}: {tokens:?}");
        let prompt = |m: &TextModel| m.tokenizer().encode_prompt("ab ab").unwrap();
        assert_eq!(prompt(&model), prompt(&first), "{to}");
    }
}

#[test]
fn a_template_that_cannot_be_read_leaves_no_model_without_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = model(&dir.path().join("m"), &turns(true), 64, &names());
    fs::write(dir.path().join("m/chat_template.jinja"), "{% for %}").unwrap();
    let out = dir.path().join("out");
    fail(&["convert", &path, out.to_str().unwrap()], &["chat_template.jinja", "line 1"]);
    assert!(!out.join("config.json").exists());
}

#[test]
fn answers_to_a_task_are_without_special_tokens() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let marks: Vec<String> = (0..60).map(|i| format!("<{i}>")).collect();
    let tokens: Vec<&str> = ["a", "b", "ab"].into_iter().chain(marks.iter().map(String::as_str)).collect();
    let types = (0..tokens.len()).map(|i| if i < 3 { 1 } else { 3 }).collect();
    let end = vec![tokens.len() as u32 - 1];
    let (merges, pre) = (vec!["a b"], Some("gpt-2"));
    let v = Vocabulary { model: "gpt2", pre, tokens, types, merges, ends: end, ..Vocabulary::default() };
    let tokenizer = Tokenizer::from_vocabulary(&v, Path::new("x")).unwrap();
    let path = model(&dir.path().join("m"), &tokenizer, 64, &TemplateTokens::new());
    let said = json(&["generate", &path, "--prompt", "<7>", "-n", "4", "--temperature", "0", "--json"]);
    assert!(said["text"].as_str().unwrap().contains('<'), "nearly all tokens are special: {said}");
    let task = "task: t\nkind: generate\nitems:\n- {q: '<7>', a: b}\ndoc_to_text: q\ndoc_to_target: a\n\
        generation_kwargs: {until: zz, max_gen_toks: 4}\n";
    fs::write(at("t.yaml"), task).unwrap();
    succeed(&["eval", &path, "--task", &at("t.yaml"), "--out", &at("out")]);
    let line: Value = serde_json::from_str(&fs::read_to_string(at("out/t.jsonl")).unwrap()).unwrap();
    assert!(!line["answer"].as_str().unwrap().contains('<'), "{line}");
}
