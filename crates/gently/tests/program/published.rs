//! Models as others publish them, with marks that begin texts and end turns; they are tiny and made here.

use crate::run::{Said, command, fail, gently as program, succeed};
use gently::models::config::{DecoderConfig, Family, Position};
use gently::models::pretrained::read_config;
use gently::prelude::*;
use gently::text::{TemplateTokens, Vocabulary};
use serde_json::Value;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Stdio;

/// A model of random weights with this tokenizer in `dir`.
pub fn model(dir: &Path, tokenizer: &Tokenizer, context: usize, tokens: &TemplateTokens) -> String {
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
pub fn turns(add_bos: bool) -> Tokenizer {
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

/// Runs `gently chat` on lines.
fn ask(args: &[&str], lines: &str) -> Said {
    let all = [&["chat"], args, &["--temperature", "0", "--max-tokens", "4"][..]].concat();
    let mut child = command(&all).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    child.wait_with_output().unwrap().into()
}

/// The same, to their end.
fn chat(args: &[&str], lines: &str) -> Said {
    let said = ask(args, lines);
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
    succeed(&["eval", &front, "--task", &at("t.yaml"), "--out", &at("front-out")]);
    let read: Value = serde_json::from_str(&fs::read_to_string(at("front-out/t.jsonl")).unwrap()).unwrap();
    let [found, known] = [&said, &read].map(|v| v["log_likelihood"].as_f64().unwrap());
    assert!((found - known).abs() < 1e-3, "{found}, not {known}");
    assert_eq!(said["tokens"], read["tokens"]);
    // The beginning alone is no text.
    fs::write(at("none.yaml"), "task: none\nkind: perplexity\nitems:\n- {t: ''}\ndoc_to_target: t\n").unwrap();
    fail(&["eval", &front, "--task", &at("none.yaml")], &["item 1", "no tokens to score"]);
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
    let said = ask(&[&path[..], "--template", file.to_str().unwrap()], "ab\n");
    // A question without an answer is no success.
    assert!(said.code == Some(1) && said.err.contains("from <bos> to <eos>"), "{}", said.err);
}

#[test]
fn a_template_that_cannot_be_read_costs_only_what_wants_it() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let path = model(&dir.path().join("m"), &turns(true), 64, &names());
    fs::write(at("m/chat_template.jinja"), "{% if %}").unwrap();
    fs::write(at("good"), "{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}").unwrap();
    succeed(&["score", &path, "--text", "ab"]);
    succeed(&["generate", &path, "--prompt", "ab", "-n", "2"]);
    fail(&["generate", &path, "--prompt", "ab", "-n", "2", "--chat"], &["chat_template.jinja", "hint:"]);
    let said = ask(&[&path[..]], "ab\n");
    assert!(said.code == Some(1) && said.err.contains("chat_template.jinja"), "{}", said.err);
    chat(&[&path[..], "--template", &at("good")], "ab\n");
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
    let mut named = names();
    named.extend([("pad_token", "<turn>"), ("mask_token", "<unk>")].map(|(k, v)| (k.to_owned(), v.to_owned())));
    let path = model(&dir.path().join("m"), &turns(true), 64, &named);
    fs::write(at("m/chat_template.jinja"), "{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}")
        .unwrap();
    // The tokenizer names one more, for what cannot be spelled.
    named.insert("unk_token".into(), "<unk>".into());
    let first = TextModel::open(&path).unwrap();
    assert_eq!(first.tokenizer().ends(), [2, 3]);
    // A folder from a folder, a file from it, and a folder from that.
    let mut from = path;
    for to in ["folder", "file.gguf", "again"] {
        succeed(&["convert", &from, &at(to)]);
        from = at(to);
        let model = TextModel::open(&from).unwrap();
        assert_eq!(model.tokenizer().ends(), first.tokenizer().ends(), "{to}");
        assert_eq!(model.chat_template().unwrap().unwrap().tokens(), &named, "{to}");
        let prompt = |m: &TextModel| m.tokenizer().encode_prompt("ab ab").unwrap();
        assert_eq!(prompt(&model), prompt(&first), "{to}");
    }
    // A folder keeps the length of texts that it says, here none; a file says it as the model's context.
    let longest = |name: &str| {
        let said = fs::read_to_string(dir.path().join(name).join("tokenizer_config.json")).unwrap();
        serde_json::from_str::<Value>(&said).unwrap()["model_max_length"].as_u64()
    };
    assert_eq!((longest("folder"), longest("again")), (None, Some(64)));
}

#[test]
fn a_number_beyond_the_type_is_told_by_its_tensor_and_the_output() {
    let dir = tempfile::tempdir().unwrap();
    let cfg = DecoderConfig {
        vocab: Tokenizer::bytes().vocab_size(),
        context: 64,
        layers: 1,
        heads: 2,
        width: 32,
        ..DecoderConfig::preset(Family::Gpt2)
    };
    let model = Decoder::new(&cfg, &Rng::new(7), &Device::Cpu).unwrap();
    let tokens = model.params().iter().find(|p| p.name == "embed.tokens").unwrap();
    tokens.tensor.with_data_mut(|d: &mut [f32]| d[3] = 1e5).unwrap();
    let (from, to) = (dir.path().join("m"), dir.path().join("out"));
    model.save_pretrained(&from).unwrap();
    Tokenizer::bytes().save(&from).unwrap();
    let args = ["convert", from.to_str().unwrap(), to.to_str().unwrap(), "--type", "f16"];
    let told = to.join("model.safetensors");
    let said = fail(&args, &[told.to_str().unwrap(), "wte.weight", "the range of F16", "hint:"]);
    assert!(!said.err.contains(".new-model.tmp"), "{}", said.err);
    assert!(!to.exists());
}

#[test]
fn what_only_this_program_reads_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let llama = DecoderConfig {
        vocab: Tokenizer::bytes().vocab_size(),
        context: 64,
        layers: 1,
        heads: 2,
        kv_heads: None,
        width: 32,
        ..DecoderConfig::preset(Family::Llama)
    };
    let qwen2 = DecoderConfig { attention_bias: true, out_bias: Some(false), ..llama.clone() };
    let stretched = |factors: Vec<f64>| DecoderConfig { rope_factors: Some(factors), ..qwen2.clone() };
    let listed = (1..=8).map(f64::from).collect();
    // The model, and what is told of a folder and of a file.
    let cases = [
        ("window", DecoderConfig { window: Some(8), ..llama.clone() }, ["", "it ignores the window of 8 tokens"]),
        ("alibi", DecoderConfig { position: Position::Alibi, ..llama }, ["model_type is \"gently\"", "layout"]),
        ("listed", stretched(listed), ["", "no rope_freqs.weight for qwen2"]),
        ("linear", stretched(vec![4.0; 8]), ["", ""]),
    ];
    for (name, cfg, told) in cases {
        let from = dir.path().join(name);
        Decoder::new(&cfg, &Rng::new(7), &Device::Cpu).unwrap().save_pretrained(&from).unwrap();
        Tokenizer::bytes().save_with(&from, &TemplateTokens::new()).unwrap();
        for (words, end) in told.into_iter().zip(["out", "gguf"]) {
            let to = dir.path().join(format!("{name}.{end}"));
            let said = program(&["convert", from.to_str().unwrap(), to.to_str().unwrap()]);
            assert!(said.err.contains(words), "{name}.{end}: {}", said.err);
            assert_eq!(said.err.contains("note:"), !words.is_empty() && said.ok, "{name}.{end}: {}", said.err);
            if said.ok {
                assert_eq!(read_config(&to).unwrap().1.rope_factors, cfg.rope_factors, "{name}.{end}");
            }
            if said.ok && end == "gguf" {
                // Of a file that is made of this file, the same is told.
                let again = dir.path().join(format!("{name}-again.gguf"));
                let args = ["quantize", to.to_str().unwrap(), again.to_str().unwrap(), "--type", "q8_0"];
                let said = succeed(&args);
                assert!(said.err.contains(words), "{name}: {}", said.err);
                assert_eq!(said.err.contains("note:"), !words.is_empty(), "{name}: {}", said.err);
            }
        }
    }
}

#[test]
fn what_other_programs_do_not_read_of_a_tokenizer_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let path = model(&dir.path().join("m"), &turns(true), 64, &names());
    assert!(!succeed(&["convert", &path, &at("plain.gguf")]).err.contains("note:"));
    let mut file: Value = serde_json::from_str(&fs::read_to_string(at("m/tokenizer.json")).unwrap()).unwrap();
    file["added_tokens"][3]["lstrip"] = true.into();
    fs::write(at("m/tokenizer.json"), file.to_string()).unwrap();
    let said = succeed(&["convert", &path, &at("m.gguf")]);
    assert!(said.err.contains("note:") && said.err.contains("lstrip"), "{}", said.err);
    // And this program reads it, also from the file with coarser weights.
    succeed(&["quantize", &at("m.gguf"), &at("small.gguf"), "--type", "q8_0"]);
    for name in ["m", "m.gguf", "small.gguf"] {
        let model = TextModel::open(at(name)).unwrap();
        assert_eq!(model.tokenizer().encode_with_specials("a <turn>").unwrap(), [7, 3], "{name}");
    }
}

#[test]
fn ends_that_a_file_has_no_places_for_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let said = |name: &str, ends: &[u32]| {
        let path = model(&dir.path().join(name), &turns(true).with_ends(ends), 64, &names());
        succeed(&["convert", &path, &format!("{path}.gguf")]).err
    };
    assert!(said("four", &[2, 3, 1, 0]).contains("the file does not name <unk>\n"));
    assert!(!said("three", &[2, 3, 1]).contains("does not name"));
}

#[test]
fn a_folder_keeps_nothing_of_the_model_before() {
    let dir = tempfile::tempdir().unwrap();
    let path = model(&dir.path().join("m"), &Tokenizer::bytes(), 64, &TemplateTokens::new());
    let out = dir.path().join("out");
    let to = model(&out, &turns(true), 64, &names());
    fs::create_dir(out.join("1_Pooling")).unwrap();
    let old = [
        "chat_template.jinja",
        "modules.json",
        "1_Pooling/config.json",
        "vocab.txt",
        "model.safetensors.index.json",
        "model-00001-of-00002.safetensors",
    ];
    let own = ["LICENSE", "model-one-of-many.safetensors", "notes.txt"];
    old.iter().chain(&own).for_each(|name| fs::write(out.join(name), "x").unwrap());
    assert!(out.join("generation_config.json").exists());
    succeed(&["convert", &path, &to]);
    let mut found: Vec<String> =
        fs::read_dir(&out).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    let new = ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"];
    found.retain(|name| !new.contains(&name.as_str()));
    found.sort();
    assert_eq!(found, own);
    let made = TextModel::open(&out).unwrap();
    assert!(made.chat_template().unwrap().is_none() && made.tokenizer().ends().is_empty());

    // Where something cannot be taken away, all stays as it was.
    fs::remove_file(out.join("tokenizer.json")).unwrap();
    fs::create_dir(out.join("tokenizer.json")).unwrap();
    fail(&["convert", &path, &to], &["cannot remove", "tokenizer.json"]);
    assert!(out.join("config.json").exists() && out.join("model.safetensors").exists());
    assert!(!out.join(".new-model.tmp").exists());
    // What is read is not taken away.
    fail(&["convert", &path, &path], &["both read and written"]);
    TextModel::open(&path).unwrap();
}

#[test]
fn a_template_that_cannot_be_read_is_passed_on_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let path = model(&dir.path().join("m"), &turns(true), 64, &names());
    fs::write(dir.path().join("m/chat_template.jinja"), "{% for %}").unwrap();
    let out = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let said = succeed(&["convert", &path, &out("folder")]);
    assert!(said.err.contains("chat_template.jinja") && said.err.contains("line 1"), "{}", said.err);
    assert_eq!(fs::read_to_string(dir.path().join("folder/chat_template.jinja")).unwrap(), "{% for %}");
    succeed(&["convert", &path, &out("m.gguf")]);
    succeed(&["convert", &out("m.gguf"), &out("back")]);
    assert_eq!(fs::read_to_string(dir.path().join("back/chat_template.jinja")).unwrap(), "{% for %}");
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

#[test]
fn what_continues_a_prompt_keeps_its_first_space() {
    use gently::models::sampling::SamplingParams;
    use gently::search::{Search, SearchOptions, search};

    let dir = tempfile::tempdir().unwrap();
    let path = model(&dir.path().join("m"), &turns(false), 64, &names());
    let model = TextModel::open(&path).unwrap();
    let ids = |prompt: &str| model.tokenizer().encode_prompt(prompt).unwrap();
    // "▁a" is the likeliest by far.
    let sampling = SamplingParams { temperature: 0.0, logit_bias: [(7, 1e4)].into(), ..SamplingParams::default() };
    let options =
        |answer| WriteOptions { max_tokens: 2, sampling: sampling.clone(), answer, ..WriteOptions::default() };
    let written = |prompt: &str, answer| {
        Writer::of_tokens(&model, ids(prompt), &options(answer)).unwrap().collect_text().unwrap()
    };
    assert_eq!(written("ab", false), " a a", "more of a text");
    assert_eq!(written("ab", true), "a a", "an answer");
    assert_eq!(written("", false), "a a", "a text's beginning");

    // A search as wide as the vocabulary finds every token.
    let of = |model: &TextModel, ids: Vec<u32>, answer| {
        let beam = Search::Beam { width: 8, length_penalty: 0.0 };
        let options = SearchOptions { search: beam, max_tokens: 1, stop: vec![], answer };
        search(model, ids, &options).unwrap().into_iter().map(|f| f.text).collect::<Vec<_>>()
    };
    let found = |prompt: &str, answer| of(&model, ids(prompt), answer);
    assert!(found("ab", false).contains(&" a".to_owned()), "{:?}", found("ab", false));
    assert!(found("ab", true).contains(&"a".to_owned()) && !found("ab", true).contains(&" a".to_owned()));

    // What the tokenizer puts in front of every text is no text.
    let front = TextModel::open(self::model(&dir.path().join("front"), &turns(true), 64, &names())).unwrap();
    let begun = Writer::new(&front, "", &options(false)).unwrap();
    assert_eq!((begun.prompt_tokens(), begun.collect_text().unwrap().as_str()), (1, "a a"));
    let begun = Writer::of_tokens(&front, vec![], &options(false)).unwrap();
    assert_eq!(begun.collect_text().unwrap(), "a a");
    assert_eq!(Writer::new(&front, "ab", &options(false)).unwrap().collect_text().unwrap(), " a a");
    let none = of(&front, front.tokenizer().encode_prompt("").unwrap(), false);
    assert!(none.contains(&"a".to_owned()) && !none.contains(&" a".to_owned()), "{none:?}");
}

#[test]
fn a_search_counts_the_tokens_of_what_it_gives() {
    use gently::search::{Search, SearchOptions, search};
    use gently::write::End;

    let dir = tempfile::tempdir().unwrap();
    let letters = Tokenizer::characters("abcd".chars());
    let open = |name: &str, tokenizer: &Tokenizer| {
        TextModel::open(model(&dir.path().join(name), tokenizer, 12, &TemplateTokens::new())).unwrap()
    };
    // One whose every token ends the text, and one with no token that does.
    let (ends, goes_on) = (open("ends", &letters.clone().with_ends(&[0, 1, 2, 3])), open("on", &letters));
    let ways = [Search::Beam { width: 1, length_penalty: 1.0 }, Search::Contrastive { candidates: 4, alpha: 0.6 }];
    for way in ways {
        let found = |model: &TextModel, prompt: usize, stop: &str| {
            let stop = vec![stop.to_owned()];
            let options = SearchOptions { search: way, max_tokens: 8, stop, answer: false };
            search(model, vec![1; prompt], &options).unwrap().remove(0)
        };
        let one = found(&ends, 1, "");
        assert_eq!((one.text.as_str(), one.tokens, one.end), ("", 1, End::EndOfText), "{way:?}");
        let all = found(&goes_on, 1, "");
        assert_eq!((all.text.len(), all.tokens, all.end), (8, 8, End::Length), "{way:?}");
        for (i, letter) in all.text.char_indices() {
            let cut = found(&goes_on, 1, &all.text[i..=i]);
            let at = all.text.find(letter).unwrap();
            assert_eq!((cut.text.as_str(), cut.tokens, cut.end), (&all.text[..at], at + 1, End::Stop), "{way:?}");
        }
        // A full context is no end of a text, and no limit that was asked for; its last token is given all the same.
        for (prompt, tokens) in [(10, 3), (12, 1)] {
            let full = found(&goes_on, prompt, "");
            assert_eq!((full.tokens, full.end, full.end.name()), (tokens, End::Context, "context"), "{way:?}");
        }
    }
}

#[test]
fn a_search_ends_at_stop_strings_and_gives_each_text_once() {
    use gently::search::{Search, SearchOptions, search};
    use gently::write::End;

    let dir = tempfile::tempdir().unwrap();
    // A "b" may come alone or with what stands before it.
    let v = Vocabulary {
        model: "gpt2",
        pre: Some("gpt-2"),
        tokens: vec!["a", "b", "ab", "c"],
        types: vec![1; 4],
        merges: vec!["a b"],
        ..Vocabulary::default()
    };
    let tokenizer = Tokenizer::from_vocabulary(&v, Path::new("x")).unwrap();
    let model = TextModel::open(model(&dir.path().join("m"), &tokenizer, 64, &TemplateTokens::new())).unwrap();
    let mut stopped = 0;
    for (width, prompt) in [(4, 0), (4, 3), (8, 1), (16, 2)] {
        let beam = Search::Beam { width, length_penalty: 1.0 };
        let options = SearchOptions { search: beam, max_tokens: 5, stop: vec!["b".into()], answer: false };
        let texts = search(&model, vec![prompt, 3], &options).unwrap();
        for (i, found) in texts.iter().enumerate() {
            assert!(!found.text.contains('b'), "{texts:?}");
            assert!(texts[..i].iter().all(|better| better.text != found.text), "{texts:?}");
            // What is compared is the tokens that are told, and not what might have come behind them.
            let (logprob, score) = found.likelihood.unwrap();
            assert!((logprob - score * found.tokens as f64).abs() < 1e-9, "{texts:?}");
            match found.end {
                End::Stop => stopped += 1,
                end => assert_eq!((end, found.tokens, found.text.len()), (End::Length, 5, 5), "{texts:?}"),
            }
        }
        assert!(texts.iter().map(|t| t.likelihood.unwrap().1).is_sorted_by(|a, b| a >= b), "{texts:?}");
    }
    assert!(stopped > 0);
}

/// A GGUF file of the model in two parts.
fn split(file: &Path, parts: &Path) -> [String; 2] {
    use gently::formats::Limits;
    use gently::formats::gguf::{Gguf, Spec, Value, Writer};
    fs::create_dir(parts).unwrap();
    let whole = Gguf::open(file, &Limits::default()).unwrap();
    let names: Vec<&String> = whole.tensors().keys().collect();
    let (first, second) = names.split_at(names.len() / 2);
    let keys: Vec<(String, Value)> = whole.metadata().iter().map(|(k, v)| (k.to_owned(), v.clone())).collect();
    [(1, first, &keys[..]), (2, second, &keys[..0])].map(|(number, names, keys)| {
        let path = parts.join(format!("m-0000{number}-of-00002.gguf"));
        let spec = |name: &&String| {
            let entry = whole.entry(name).unwrap();
            Spec { name: (*name).clone(), kind: entry.kind, shape: entry.shape.clone() }
        };
        let mut writer = Writer::create(&path, keys, &names.iter().map(spec).collect::<Vec<_>>()).unwrap();
        names.iter().for_each(|name| writer.write(whole.bytes(name).unwrap()).unwrap());
        writer.finish().unwrap();
        path.to_str().unwrap().to_owned()
    })
}

#[test]
fn no_file_that_is_read_is_written_over() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let folder = model(&dir.path().join("m"), &Tokenizer::bytes(), 64, &TemplateTokens::new());
    succeed(&["convert", &folder, &at("m.gguf")]);
    let [first, second] = split(&dir.path().join("m.gguf"), &dir.path().join("parts"));
    let before = [&first, &second].map(|part| fs::read(part).unwrap());
    for output in [&first, &second, &at("parts/m-00003-of-00003.gguf")] {
        fail(&["quantize", &first, output, "--type", "q8_0"], &["part of several", "hint:"]);
        fail(&["convert", &second, output], &["part of several", "hint:"]);
    }
    assert_eq!([&first, &second].map(|part| fs::read(part).unwrap()), before);
    succeed(&["quantize", &second, &at("small.GGUF"), "--type", "q8_0"]);
    assert!(Path::new(&at("small.GGUF")).is_file());
    succeed(&["convert", &first, &at("again.GGUF")]);
    assert!(Path::new(&at("again.GGUF")).is_file(), "a file, whatever the case of its ending");
    TextModel::open(at("again.GGUF")).unwrap();
    // A name that is a folder's, or a file's where a folder is wanted, is told before anything is written.
    fs::create_dir(dir.path().join("is.gguf")).unwrap();
    fail(&["convert", &first, &at("is.gguf")], &["cannot write", "is.gguf", "hint:"]);
    fail(&["convert", &first, &at("m.gguf/out")], &["cannot create", "m.gguf", "hint:"]);
    fail(&["inspect", &at("nonsense.gguf")], &["nonsense.gguf does not exist", "hint:"]);
}

#[cfg(unix)]
#[test]
fn a_folder_that_links_lead_into_is_not_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let to = model(&out, &Tokenizer::bytes(), 64, &TemplateTokens::new());
    let links = dir.path().join("links");
    fs::create_dir(&links).unwrap();
    fs::copy(out.join("config.json"), links.join("config.json")).unwrap();
    fs::copy(out.join("tokenizer.json"), links.join("tokenizer.json")).unwrap();
    std::os::unix::fs::symlink(out.join("model.safetensors"), links.join("model.safetensors")).unwrap();
    fail(&["convert", links.to_str().unwrap(), &to], &["model.safetensors", "it is read", "hint:"]);
    TextModel::open(&out).unwrap();
    // A device is no model.
    fail(&["inspect", "/dev/null"], &["/dev/null is neither a file nor a folder", "hint:"]);
}

#[test]
fn what_cannot_be_measured_is_said_before_anything_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let path = model(&dir.path().join("m"), &Tokenizer::bytes(), 64, &TemplateTokens::new());
    let out = dir.path().join("m.gguf");
    let short = dir.path().join("short.txt");
    fs::write(&short, "").unwrap();
    let quantize = |more: &[&str]| -> Vec<String> {
        let all = [&["quantize", &path, out.to_str().unwrap(), "--type", "q8_0"][..], more].concat();
        all.into_iter().map(str::to_owned).collect()
    };
    fail(&quantize(&["--measure", "/nonexistent-gently"]), &["/nonexistent-gently"]);
    fail(&quantize(&["--measure", short.to_str().unwrap()]), &["fewer than two tokens", "hint:"]);
    assert_eq!(program(&quantize(&["--measure", short.to_str().unwrap(), "--tokens", "0"])).code, Some(2));
    assert!(!out.exists());
    // Lengths that nobody has.
    for context in ["0", "268435457", "18446744073709551615"] {
        assert_eq!(program(&["inspect", &path, "--context", context]).code, Some(2), "{context}");
    }
    succeed(&["inspect", &path, "--context", "268435456"]);
    // The text is read, too.
    fs::write(&out, "abcabc").unwrap();
    fail(&quantize(&["--measure", out.to_str().unwrap()]), &["both read and written", "hint:"]);
    fs::remove_file(&out).unwrap();
    // A model whose numbers mean nothing is named.
    let (weights, text) = (dir.path().join("m/model.safetensors"), dir.path().join("text.txt"));
    fs::write(&text, "abcabc").unwrap();
    let mut bytes = fs::read(&weights).unwrap();
    let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    bytes[header..].chunks_exact_mut(4).for_each(|v| v.copy_from_slice(&f32::NAN.to_le_bytes()));
    fs::write(&weights, bytes).unwrap();
    for form in [&[][..], &["--json"][..]] {
        let measure = [&["--measure", text.to_str().unwrap()], form].concat();
        let said = fail(&quantize(&measure), &[&path, "is not a number", "hint:"]);
        assert_eq!(said.out, "");
        assert!(!out.exists());
    }
    // A value that cannot be is told by its file and its published name.
    let config = dir.path().join("m/config.json");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, text.replace("\"n_layer\": 1", "\"n_layer\": 0")).unwrap();
    fail(&["inspect", &path], &["m/config.json", "n_layer = 0", "hint:"]);
}

#[test]
fn characters_and_bytes_go_into_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let written =
        |path: &str| json(&["generate", path, "--prompt", "abc", "-n", "8", "-t", "0", "--json"])["text"].clone();
    for (name, tokenizer) in [("bytes", Tokenizer::bytes()), ("characters", Tokenizer::characters("a b\ncde".chars()))]
    {
        let path = model(&dir.path().join(name), &tokenizer, 64, &TemplateTokens::new());
        let file = format!("{path}.gguf");
        succeed(&["convert", &path, &file]);
        assert_eq!(written(&file), written(&path), "{name}");
    }
    let path = model(&dir.path().join("wide"), &Tokenizer::characters("aü".chars()), 64, &TemplateTokens::new());
    let file = format!("{path}.gguf");
    fail(&["convert", &path, &file], &["wide", "ü", "hint: convert to a Hugging Face folder"]);
    assert!(!Path::new(&file).exists());
}

#[test]
fn tokens_that_pad_a_vocabulary_are_never_written() {
    let dir = tempfile::tempdir().unwrap();
    // Half of the model's tokens are padding; the folder's tokenizer has none of them, and the file spells each.
    for (name, tokenizer) in [("turns", turns(true)), ("letters", Tokenizer::characters("PAD[]12".chars()))] {
        let folder = dir.path().join(name);
        let cfg = DecoderConfig {
            vocab: 2 * tokenizer.vocab_size(),
            context: 64,
            layers: 1,
            heads: 2,
            width: 32,
            init_std: 0.3,
            ..DecoderConfig::preset(Family::Gpt2)
        };
        Decoder::new(&cfg, &Rng::new(7), &Device::Cpu).unwrap().save_pretrained(&folder).unwrap();
        tokenizer.save(&folder).unwrap();
        let (folder, file) = (folder.to_str().unwrap().to_owned(), dir.path().join(format!("{name}.gguf")));
        let file = file.to_str().unwrap();
        succeed(&["convert", &folder, file]);
        let [ours, theirs] = [folder.as_str(), file].map(|path| TextModel::open(path).unwrap());
        assert_eq!(theirs.tokenizer().choosable(), tokenizer.vocab_size());
        let start = tokenizer.vocab_size() as u32 - 1;
        let write = |model: &TextModel, options: &WriteOptions| {
            let mut writer = Writer::of_tokens(model, vec![start], options).unwrap();
            let text: String = writer.by_ref().collect::<Result<_, _>>().unwrap();
            (text, writer.written().iter().map(|token| token.id).collect::<Vec<u32>>())
        };
        for seed in 0..6 {
            let sampling = SamplingParams { seed, temperature: 1.5, ..SamplingParams::default() };
            let options = WriteOptions { max_tokens: 20, sampling, ..WriteOptions::default() };
            assert_eq!(write(&theirs, &options), write(&ours, &options), "{name}, seed {seed}");
            // What padding is spelled like may be asked for: it is letters then.
            if name == "letters" {
                let constraint = Some(Constraint::regex("\\[PAD1[12]\\]").unwrap());
                let (text, ids) = write(&theirs, &WriteOptions { constraint, ..options });
                assert_eq!((text.len(), ids.len()), (7, 7), "{text}");
            }
        }
        for [search, value] in [["--beams", "3"], ["--contrastive", "0.6"]] {
            let said = |path: &str| succeed(&["generate", path, "--prompt", "", search, value, "-n", "6"]).out;
            assert_eq!(said(file), said(&folder), "{name} {search}");
        }
    }
}
