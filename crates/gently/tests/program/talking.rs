//! Conversations: `gently chat` driven through its standard input.

use crate::run::{Said, command, fail, succeed, text, train_args};
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Stdio;

/// Runs `gently chat` on lines, to their end.
fn chat(args: &[&str], lines: impl AsRef<[u8]>) -> Said {
    let all = [&["chat"], args, &["--temperature", "0", "--max-tokens", "8"][..]].concat();
    let mut child = command(&all).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(lines.as_ref()).unwrap();
    child.wait_with_output().unwrap().into()
}

#[test]
fn a_conversation_comes_through_standard_input() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let (data, run) = (at("text.txt"), at("run"));
    fs::write(&data, text()).unwrap();
    succeed(&train_args(Path::new(&data), Path::new(&run), &[]));

    fail(&["chat", &run], &["no chat template", "hint:"]);
    fail(&["chat", &run, "--template", &at("none")], &["none", "cannot read"]);
    fs::write(at("broken"), "{% for %}").unwrap();
    fail(&["chat", &run, "--template", &at("broken")], &["broken", "line 1"]);

    // A model of characters, which knows those of its text alone.
    let template = at("template");
    fs::write(&template, "{% for m in messages %}{{ m.content }} {% endfor %}").unwrap();
    let with = [&run[..], "--template", &template];
    let once = chat(&with, "the sea\n");
    assert!(once.ok && once.out.chars().count() == 8 + 1, "eight characters and an end: {:?}{}", once.out, once.err);
    assert_eq!(once.out, chat(&with, "/clear\nthe sea\n").out, "the same question, the same answer");

    let said = chat(&with, b"the sea\n\xff\n");
    assert!(!said.ok && said.err.contains("standard input: a line is not UTF-8"), "{}", said.err);

    // Each answer is one of the choices; what its characters cannot write is told before the first question.
    let choices = [&with[..], &["--choice", "the sea", "--choice", "old star"]].concat();
    let said = chat(&choices, "the sea\nthe old\n");
    assert!(said.ok && said.out.lines().count() == 2, "{}{}", said.out, said.err);
    assert!(said.out.lines().all(|l| ["the sea", "old star"].contains(&l)), "{}", said.out);
    let prompt = ["generate", &run, "--prompt", "the sea ", "--temperature", "1"];
    let held = |more: &[&str]| succeed(&[&prompt[..], more].concat());
    assert!(held(&["--regex", "(is|on) (a|the) sea"]).out.trim_end().ends_with(" sea"));
    fs::write(at("lark"), "start: (WORD \" \")~2 WORD\nWORD: \"sea\" | \"night\"").unwrap();
    let said = held(&["--grammar", &at("lark"), "--json"]).out;
    let said: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!((said["text"].as_str().unwrap().split(' ').count(), &said["end"]), (3, &"complete".into()));
    assert!(said["decode_tokens_per_second"].as_f64().is_none_or(|rate| rate > 0.0), "{said}");
    fs::write(at("words.gbnf"), "root ::= word (\" \" word){2}\nword ::= \"sea\" | \"night\"").unwrap();
    let said = held(&["--grammar", &at("words.gbnf")]).out;
    let words = said.strip_prefix("the sea ").unwrap_or(&said).trim_end();
    assert!(words.split(' ').filter(|w| ["sea", "night"].contains(w)).count() == 3, "{said}");
    let refused = |more: &[&str], parts: &[&str]| fail(&[&prompt[..], more].concat(), parts);
    refused(&["--json-schema", "{\"type\": \"object\"}"], &["the JSON schema", "no token", "hint:"]);
    fs::write(at("schema"), "{\"type\": }").unwrap();
    refused(&["--json-schema", &at("schema")], &["schema", "line 1 column 10"]);
    fs::write(at("wrong.gbnf"), "root ::= word\n").unwrap();
    refused(&["--grammar", &at("wrong.gbnf")], &["wrong.gbnf", "line 1, column 10: there is no rule word", "hint:"]);
    // What is found only with the model's vocabulary names its file too.
    for (option, name, text, word) in [
        ("--json-schema", "object.json", "{\"type\": \"object\"}", "no token"),
        ("--grammar", "terminal.lark", "start: NONE", "NONE"),
        ("--grammar", "token.gbnf", "root ::= <none>", "no special token"),
    ] {
        let file = at(name);
        fs::write(&file, text).unwrap();
        refused(&[option, &file], &[name, word, "hint:"]);
        fail(&[&["chat"], &with[..], &[option, &file][..]].concat(), &[name, word, "hint:"]);
    }
    refused(&["--json-schema", &at("none")], &["none", "cannot read"]);
    refused(&["--regex", "(a"], &["the regular expression", "unclosed", "hint:"]);

    fs::write(at("wrong.json"), "{\"role\": 3}").unwrap();
    let (saved, wrong) = (at("saved.json"), at("wrong.json"));
    let lines = format!("the sea\n/save {saved}\n/again\n/undo\n/load {saved}\n/stats\n");
    let said = chat(&with, &lines);
    assert!(said.ok, "{}{}", said.out, said.err);
    for word in ["saved to", "2 messages", "tokens read"] {
        assert!(said.err.contains(word), "{word:?} is missing in\n{}", said.err);
    }
    // Where nobody is told, what cannot be done ends it: the answers that follow would be taken for others.
    for (line, word) in [
        ("/nothing or a question".to_owned(), "there is no /nothing"),
        ("/again".into(), "nothing was asked yet"),
        ("/undo".into(), "nothing was asked yet"),
        (format!("/load {}", at("none.json")), "none.json"),
        ("/load -".into(), "cannot read -: "),
        (format!("/load {wrong}"), "wrong.json is not a list of messages"),
        (format!("/save {}", at("no/such/folder.json")), "cannot write"),
        (format!("/save {run}/config.toml"), "config.toml is no saved conversation"),
    ] {
        let said = chat(&with, format!("{line}\nthe sea\n"));
        assert_eq!((said.code, said.out.as_str()), (Some(1), ""), "{line}: {}", said.err);
        assert!(said.err.contains(word) && said.err.contains("hint:"), "{line}: {}", said.err);
    }
    let fenced = chat(&with, "\"\"\"\nthe\nsea\n\"\"\"\n");
    assert!(fenced.ok && fenced.out.lines().count() >= 1, "{}{}", fenced.out, fenced.err);
    let kept: serde_json::Value = serde_json::from_str(&fs::read_to_string(&saved).unwrap()).unwrap();
    assert_eq!((&kept[0]["role"], &kept[0]["content"]), (&"user".into(), &"the sea".into()));
    assert_eq!(kept[1]["content"].as_str(), once.out.strip_suffix('\n'));

    // Longer than the context of 16: its beginning is left out, or what cannot be is said.
    let said = chat(&with, "the sea\nthe sea\n");
    assert!(said.ok && said.err.contains("left out"), "{}{}", said.out, said.err);
    // Nobody is there to ask otherwise: the answers that are there are counted, and the next must not take this one's place.
    let said = chat(&with, "the sea\nthe sea and the night and the stars\nthe sea\n");
    assert_eq!((said.code, &said.out), (Some(1), &once.out), "{}", said.err);
    assert!(said.err.contains("error:") && said.err.contains("do not fit into a context of 16"), "{}", said.err);
    assert!(said.err.contains("hint: ask something shorter"), "{}", said.err);
    // What no question can be answered with is told before the first.
    let said = chat(&[&with[..], &["--top-p", "0"]].concat(), "");
    assert!(said.code == Some(1) && said.err.contains("top_p") && said.err.contains("hint:"), "{}", said.err);
}
