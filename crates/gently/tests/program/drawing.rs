//! How texts are drawn: rules, biases, several of one prompt, and what was read before.

use crate::published::{model, turns};
use crate::run::{Said, command, fail, gently as program, succeed};
use gently::prelude::Tokenizer;
use gently::text::TemplateTokens;
use serde_json::Value;
use std::fs;
use std::path::Path;

fn json<S: AsRef<str>>(args: &[S]) -> Value {
    let args: Vec<&str> =
        ["generate"].into_iter().chain(args.iter().map(|arg| arg.as_ref())).chain(["--json"]).collect();
    serde_json::from_str(&succeed(&args).out).unwrap()
}

/// The letters that a text of this model is made of.
fn letters() -> Tokenizer {
    Tokenizer::characters("abcdefghijklmnopqrstuvwxyz ".chars())
}

fn plain(dir: &Path, tokenizer: &Tokenizer, context: usize) -> String {
    model(dir, tokenizer, context, &TemplateTokens::new())
}

#[test]
fn the_token_that_crosses_the_line_of_top_p_is_kept_or_left_out() {
    let dir = tempfile::tempdir().unwrap();
    let path = plain(dir.path(), &letters(), 64);
    let likeliest = json(&[path.as_str(), "--prompt", "the sea", "-n", "1", "-t", "0", "--logprobs", "2"]);
    let [first, second] = [0usize, 1].map(|i| &likeliest["logprobs"][0]["top"][i]);
    let chance = |token: &Value| token["logprob"].as_f64().unwrap().exp();
    // The second token crosses it.
    let line = (chance(first) + 0.5 * chance(second)).to_string();
    let written = |rule: &str| -> Vec<String> {
        let draw = ["--prompt", "the sea", "-n", "1", "-t", "1", "--samples", "40", "--top-p", &line];
        let said = json(&[&[path.as_str()], &draw[..], &["--top-p-rule", rule]].concat());
        said["texts"].as_array().unwrap().iter().map(|t| t["text"].as_str().unwrap().to_owned()).collect()
    };
    let [first, second] = [first, second].map(|token| token["text"].as_str().unwrap());
    assert!(written("original").iter().all(|text| text == first));
    let both = written("crossing");
    assert!(both.iter().all(|text| text == first || text == second) && both.iter().any(|text| text == second));
    assert_eq!(program(&["generate", &path, "--top-p-rule", "original"]).code, Some(2), "there is no line");
}

#[test]
fn tokens_are_biased_by_id_and_by_text() {
    let dir = tempfile::tempdir().unwrap();
    let path = plain(&dir.path().join("bytes"), &Tokenizer::bytes(), 64);
    let args = |path: &str, biases: &[&str]| -> Vec<String> {
        let mut args = [path, "--prompt", "ab", "-n", "3", "-t", "0"].map(str::to_owned).to_vec();
        biases.iter().for_each(|bias| args.extend(["--logit-bias".to_owned(), (*bias).to_owned()]));
        args
    };
    let written = |path: &str, biases: &[&str]| json(&args(path, biases))["text"].clone();
    assert_eq!(written(&path, &["97=1e4"]), "aaa");
    assert_eq!(written(&path, &["\"b\"=1e4", "97=-inf"]), "bbb");
    assert_eq!(written(&path, &["\"=\"=10000"]), "===");
    assert_eq!(written(&path, &["\"\\n\"=1e4"]), "\n\n\n");
    // A space that belongs to the token is written, and a text's beginning adds none.
    let pieces = model(&dir.path().join("pieces"), &turns(false), 64, &TemplateTokens::new());
    assert_eq!(written(&pieces, &["\" a\"=1e4"]), " a a a");
    assert_eq!(written(&pieces, &["\"a\"=1e4"]), "aaa");

    let said = |biases: &[&str]| {
        let all = args(&path, biases);
        ["generate".to_owned()].into_iter().chain(all).collect::<Vec<String>>()
    };
    for (biases, words) in [
        (&["\"ab\"=1"][..], "\"ab\" is 2 tokens, not one"),
        (&["\"\"=1"][..], "\"\" is 0 tokens, not one"),
        (&["256=1"][..], "256: the model has tokens 0 to 255"),
        (&["97=1", "\"a\"=2"][..], "names token 97 twice"),
    ] {
        fail(&said(biases), &["--logit-bias", words, "hint:"]);
    }
    for bias in ["97", "a=1", "97=", "97=nan", "97=inf", "\"a=1"] {
        let said = program(&said(&[bias]));
        assert!(said.code == Some(2) && said.err.contains("--logit-bias"), "{bias}: {}", said.err);
    }
    // It may rule out all that the text may be, and then is named.
    let yes = ["generate", &path, "--prompt", "ab", "--choice", "yes", "--choice", "no"];
    let out = [&yes[..], &["--logit-bias", "\"y\"=-inf", "--logit-bias", "\"n\"=-inf"]].concat();
    fail(
        &out,
        &["the choice cannot go on after 0 tokens", "ruled out by the request", "hint:", "--logit-bias TOKEN=-inf"],
    );
    // Asked for before the first question, in a conversation too.
    let template = dir.path().join("template");
    fs::write(&template, "{% for m in messages %}{{ m.content }}{% endfor %}").unwrap();
    let chat = ["chat", &path, "--template", template.to_str().unwrap(), "--logit-bias", "256=1"];
    fail(&chat, &["--logit-bias 256", "hint:"]);
}

#[test]
fn samples_are_the_texts_of_their_seeds() {
    let dir = tempfile::tempdir().unwrap();
    let path = plain(dir.path(), &letters(), 256);
    // Longer than a page of the cache.
    let prompt = "the sea ".repeat(12);
    let with = |more: &[&str]| -> Vec<String> {
        let all = [&[path.as_str(), "--prompt", &prompt, "-n", "6"], more].concat();
        all.into_iter().map(str::to_owned).collect()
    };
    let three = json(&with(&["--samples", "3", "--seed", "41", "--logprobs", "1"]));
    let texts = three["texts"].as_array().unwrap();
    assert_eq!((texts.len(), &three["prompt_tokens"], &three["prompt_left_out"]), (3, &96.into(), &0.into()));
    for (text, seed) in texts.iter().zip(["41", "42", "43"]) {
        let alone = json(&with(&["--seed", seed, "--logprobs", "1"]));
        assert_eq!(text["seed"].to_string(), seed);
        for key in ["text", "end", "tokens", "logprobs"] {
            assert_eq!(text[key], alone[key], "seed {seed}");
        }
    }
    assert_ne!(texts[0]["text"], texts[1]["text"]);
    // One behind the other, each behind the prompt.
    let generate = |more: &[&str]| -> Vec<String> { ["generate".to_owned()].into_iter().chain(with(more)).collect() };
    let said = succeed(&generate(&["--samples", "2", "--seed", "42"]));
    let two = [1, 2].map(|i| format!("{prompt}{}\n", texts[i]["text"].as_str().unwrap()));
    assert_eq!(said.out, two.concat());
    assert!(said.err.contains("text 2 of 2, seed 43:"), "{}", said.err);
    // More than a queue usually holds.
    let many = json(&[path.as_str(), "--prompt", "the", "-n", "1", "--samples", "100"]);
    assert_eq!(many["texts"].as_array().unwrap().len(), 100);
    // Of a prompt that is longer than the context.
    let long = prompt.repeat(4);
    let args = [path.as_str(), "--prompt", &long, "-n", "3", "--seed", "7"];
    let (one, two) = (json(&args), json(&[&args[..], &["--samples", "2"]].concat()));
    assert_eq!((&two["texts"][0]["text"], &two["prompt_left_out"]), (&one["text"], &128.into()));

    fail(&generate(&["--samples", "2", "-t", "0"]), &["--samples with --temperature 0", "hint:"]);
    assert!(program(&generate(&["--samples", "1", "-t", "0"])).ok);
    for clash in
        [&["--samples", "0"][..], &["--samples", "2", "--beams", "2"], &["--samples", "2", "--contrastive", "0"]]
    {
        assert_eq!(program(&generate(clash)).code, Some(2), "{clash:?}");
    }
}

#[test]
fn a_saved_state_is_gone_on_with() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let path = plain(&dir.path().join("m"), &letters(), 128);
    let prompt = "the old sea ".repeat(6);
    let write = |more: &[&str]| json(&[&[path.as_str(), "-t", "0"], more].concat());
    let text = |said: &Value| said["text"].as_str().unwrap().to_owned();

    let whole = write(&["--prompt", &prompt, "-n", "12"]);
    let begun = write(&["--prompt", &prompt, "-n", "5", "--save-state", &at("s")]);
    let rest = write(&["--load-state", &at("s"), "-n", "7"]);
    assert_eq!(text(&begun) + &text(&rest), text(&whole));
    assert_eq!((&rest["prompt"], &rest["prompt_tokens"]), (&"".into(), &77.into()));
    // With more behind it, and saved again in the same place.
    let more = write(&["--load-state", &at("s"), "--prompt", " and", "-n", "4", "--save-state", &at("s")]);
    let all = format!("{prompt}{} and", text(&begun));
    assert_eq!(text(&more), text(&write(&["--prompt", &all, "-n", "4"])));
    let last = write(&["--load-state", &at("s"), "-n", "3"]);
    assert_eq!(last["prompt_tokens"], 85);
    assert_eq!(text(&last), text(&write(&["--prompt", &(all + &text(&more)), "-n", "3"])));
    // The prompt alone, for several texts.
    assert_eq!(write(&["--prompt", &prompt, "-n", "0", "--save-state", &at("p")])["tokens"], 0);
    let texts = |more: &[&str]| json(&[&[path.as_str(), "-n", "4", "--samples", "2"], more].concat())["texts"].clone();
    assert_eq!(texts(&["--load-state", &at("p")]), texts(&["--prompt", &prompt]));
    let said = succeed(&["generate", &path, "--load-state", &at("p"), "--prompt", " and", "-n", "2"]);
    assert!(said.out.starts_with(" and"), "what was read before is not printed: {}", said.out);

    let load = |model: &str, more: &[&str], words: &[&str]| {
        let state = at("p");
        let args = ["generate", model, "--load-state", &state];
        fail(&[&args[..], more].concat(), &[words, &["hint:"]].concat());
    };
    let other = plain(&dir.path().join("other"), &Tokenizer::bytes(), 128);
    load(&other, &[], &["p is nothing that", "other can go on with", "model is"]);
    load(&path, &["--cache", "int8"], &["shape is", "int8"]);
    let mut bytes = fs::read(at("p")).unwrap();
    let end = bytes.len() - 5000;
    bytes[end..].fill(0xff);
    fs::write(at("p"), &bytes).unwrap();
    load(&path, &[], &["the saved state is damaged"]);
    fs::write(at("p"), "no state").unwrap();
    fail(&["generate", &path, "--load-state", &at("p")], &["p is nothing that"]);

    let save = |to: &str, more: &[&str], words: &[&str]| {
        let args = ["generate", &path, "--prompt", &prompt, "--save-state", to];
        fail(&[&args[..], more].concat(), &[words, &["hint:"]].concat());
    };
    save(&at("x"), &["-n", "57"], &["72 tokens of a prompt and 57 more do not fit into a context of 128"]);
    assert!(!Path::new(&at("x")).exists());
    let weights = at("m/model.safetensors");
    save(&weights, &["-n", "1"], &["model.safetensors", "both read and written"]);
    let (long, to) = ("a".repeat(200), at("x"));
    let args = ["generate", &path, "--prompt", &long, "-n", "0", "--save-state", &to];
    fail(&args, &["do not fit", "hint: give a shorter prompt"]);
    for clash in [
        &["--chat", "--load-state", "x"][..],
        &["--chat", "--save-state", "x"],
        &["--samples", "2", "--save-state", "x"],
        &["--beams", "2", "--load-state", "x"],
        &["--load-state", "x", "--system", "y"],
        &["--save-state", "x", "--system", "y"],
        &["--beams", "2", "--top-p-rule", "original"],
        &["--beams", "2", "--mirostat-rate", "0.2"],
        &["--beams", "2", "--draft-tokens", "2"],
        &["--beams", "2", "--candidates", "2"],
        &["--contrastive", "0.6", "--length-penalty", "2"],
        &["--samples", "2", "--length-penalty", "2"],
        &["--samples", "2", "--candidates", "2"],
        &["--seed", "2", "--candidates", "2"],
    ] {
        assert_eq!(program(&[&["generate", &path], clash].concat()).code, Some(2), "{clash:?}");
    }
}

#[test]
fn a_state_is_saved_although_nobody_reads_the_text() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let path = plain(&dir.path().join("m"), &letters(), 128);
    let ways: [(&str, &[&str]); 2] = [("text", &[]), ("json", &["--json"])];
    for (name, more) in ways {
        let to = at(name);
        let args = ["generate", &path, "--prompt", "the sea", "-n", "40", "-t", "0", "--save-state", &to];
        let mut child = command(&[&args[..], more].concat()).spawn().unwrap();
        drop(child.stdout.take());
        let said: Said = child.wait_with_output().unwrap().into();
        assert!(said.ok && said.err.contains("47 tokens are saved in"), "{name}: {}", said.err);
        assert_eq!(json(&[path.as_str(), "--load-state", &to, "-n", "1"])["prompt_tokens"], 47);
    }
}

#[test]
fn a_state_takes_the_place_of_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let path = plain(&dir.path().join("m"), &letters(), 64);
    let draft = plain(&dir.path().join("draft"), &letters(), 64);
    let schema = r#"{"type": "string"}"#;
    fs::write(at("s.json"), schema).unwrap();
    fs::write(at("g.lark"), "start: \"a\"").unwrap();
    fs::write(at("notes"), "mine").unwrap();
    let save = |to: &str, more: &[&str], words: &[&str]| {
        let args = ["generate", &path, "--prompt", "the sea", "-n", "2", "--save-state", to];
        let said = fail(&[&args[..], more].concat(), &[words, &["hint:"]].concat());
        assert_eq!(said.out, "", "it is told before anything is written");
    };
    let read = "is both read and written";
    save(&at("draft/model.safetensors"), &["--draft", &draft], &["model.safetensors", read]);
    save(&at("s.json"), &["--json-schema", &at("s.json")], &["s.json", read]);
    save(&at("g.lark"), &["--grammar", &at("g.lark")], &["g.lark", read]);
    save(&at("notes"), &[], &["notes is no saved state, and would be lost"]);
    save(&at("draft"), &[], &["draft is a folder"]);
    save(&at("none/s"), &[], &["s cannot be written", "none is no folder"]);
    assert_eq!(fs::read_to_string(at("s.json")).unwrap(), schema);
    assert_eq!(fs::read_to_string(at("notes")).unwrap(), "mine");
}
