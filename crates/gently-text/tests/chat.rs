//! Chat templates against `transformers` (see `golden/make.py`), and hostile ones.

use gently_text::{ChatOptions, ChatTemplate, Error, Message, TemplateTokens};
use serde_json::Value;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

fn tokens() -> TemplateTokens {
    [("bos_token", "<s>"), ("eos_token", "</s>")].map(|(k, v)| (k.to_owned(), v.to_owned())).into()
}

fn template(source: &str) -> ChatTemplate {
    ChatTemplate::new(source, tokens(), "x".as_ref()).unwrap()
}

#[test]
fn conversations_are_rendered_as_in_python() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/chat.json");
    let text = std::fs::read_to_string(path).unwrap();
    let golden: Value = serde_json::from_str(&text).unwrap();
    let mut refused = 0;
    for case in golden["cases"].as_array().unwrap() {
        let name = case["template"].as_str().unwrap();
        let template = template(golden["templates"][name].as_str().unwrap());
        let tools = case["tools"].as_str().map(str::to_owned);
        let options = ChatOptions { add_generation_prompt: case["prompt"] == true, tools, now: None };
        let found = template.render_json(case["messages"].as_str().unwrap(), &options);
        match case["text"].as_str() {
            Some(text) => assert_eq!(found.unwrap(), text, "{name}: {}", case["messages"]),
            None => {
                refused += 1;
                assert!(found.unwrap_err().to_string().contains("must alternate"));
            }
        }
    }
    assert!(refused > 0);
}

#[test]
fn messages_and_dates() {
    let now = Some(SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000));
    let t =
        template("{{ strftime_now('%d %b %Y') }} {% for m in messages %}{{ m.role }}:{{ m['content'] }};{% endfor %}");
    let messages = [Message::system("s"), Message::user("u"), Message::assistant("<a>&")];
    let text = t.render(&messages, &ChatOptions { now, ..ChatOptions::default() }).unwrap();
    assert_eq!(text, "14 Nov 2023 system:s;user:u;assistant:<a>&;");
}

#[test]
fn folders_hold_templates_in_three_ways() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    assert!(ChatTemplate::load(dir.path()).unwrap().is_none());
    write("tokenizer_config.json", r#"{"eos_token": {"content": "</s>"}, "bos_token": "<s>"}"#);
    assert!(ChatTemplate::load(dir.path()).unwrap().is_none());
    let render = || ChatTemplate::load(dir.path()).unwrap().unwrap().render(&[], &ChatOptions::default()).unwrap();
    write(
        "tokenizer_config.json",
        r#"{"eos_token": {"content": "</s>"}, "chat_template": [{"name": "tool_use", "template": "t"},
            {"name": "default", "template": "d{{ eos_token }}"}]}"#,
    );
    assert_eq!(render(), "d</s>");
    write("tokenizer_config.json", r#"{"chat_template": "c{{ bos_token is defined }}"}"#);
    assert_eq!(render(), "cFalse");
    write("chat_template.jinja", "j");
    assert_eq!(render(), "j");
    write("tokenizer_config.json", "{");
    assert!(matches!(ChatTemplate::load(dir.path()), Err(Error::Json { .. })));
}

#[test]
fn hostile_templates_end() {
    let cases = [
        // Time.
        "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}{% endfor %}{% endfor %}{% endfor %}",
        // Memory: doubling, repeating, replacing, joining.
        "{% set ns = namespace(s='aaaaaaaaaaaaaaaa') %}{% for i in range(60) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
        "{% set ns = namespace(s='aaaaaaaaaaaaaaaa') %}{% for i in range(60) %}{% set ns.s = ns.s + ns.s %}{% endfor %}{{ ns.s }}",
        "{% set x = 'a' * 90000000 %}{% for i in range(1000) %}{{ x }}{% endfor %}",
        "{% set ns = namespace(s='ab') %}{% for i in range(60) %}{% set ns.s = ns.s.replace('', ns.s) %}{% endfor %}",
        "{% set ns = namespace(s='ab') %}{% for i in range(60) %}{% set ns.s = ns.s | replace('', ns.s) %}{% endfor %}",
        "{% set ns = namespace(s=[1]) %}{% for i in range(99) %}{% set ns.s = [ns.s, ns.s] %}{% endfor %}{{ ns.s | tojson }}",
        "{{ '{:>9999999999}'.format(1) }}",
        // Depth.
        "{% macro m(n) %}{{ m(n + 1) }}{% endmacro %}{{ m(0) }}",
        "{% set ns = namespace(f=1) %}{% macro a() %}{{ b() }}{% endmacro %}{% macro b() %}{{ a() }}{% endmacro %}{{ a() }}",
    ];
    for source in cases {
        let found =
            ChatTemplate::new(source, tokens(), "x".as_ref()).and_then(|t| t.render(&[], &ChatOptions::default()));
        assert!(matches!(found, Err(Error::Template { .. })), "{source}");
    }
    // Deep and long tags: brackets, signs, chains, branches.
    for (open, part) in
        [("{{ ", "("), ("{{ ", "["), ("{{ ", "-"), ("{{ ", "not "), ("{{ a", ".b"), ("{{ a", "|f"), ("{{ a", "+1")]
    {
        for n in [700, 100_000] {
            let source = format!("{open}{} }}}}", part.repeat(n));
            let _ = ChatTemplate::new(&source, tokens(), "x".as_ref()).map(|t| t.render(&[], &ChatOptions::default()));
        }
        let source = format!("{open}{} }}}}", part.repeat(100_000));
        assert!(ChatTemplate::new(&source, tokens(), "x".as_ref()).is_err(), "{part}");
    }
    for part in ["{% if 1 %}", "{% elif 1 %}", "{% for a in b %}", "{{ 1 }}"] {
        let _ = ChatTemplate::new(&part.repeat(50_000), tokens(), "x".as_ref());
        let source = format!("{{% if 0 %}}{}{{% endif %}}", part.repeat(50_000));
        let _ = ChatTemplate::new(&source, tokens(), "x".as_ref()).map(|t| t.render(&[], &ChatOptions::default()));
    }
    let long = "a".repeat(2 << 20);
    assert!(ChatTemplate::new(&long, tokens(), "x".as_ref()).unwrap_err().to_string().contains("over the limit"));
    let e = ChatTemplate::new("\n\n{% if %}", tokens(), "x".as_ref()).unwrap_err().to_string();
    assert!(e.contains("line 3"), "{e}");
}

#[test]
fn long_conversations_are_within_the_budget() {
    let t = template("{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] | trim }}{% endfor %}");
    let messages: Vec<Message> =
        (0..20_000).map(|i| Message::user(format!("message {i} {}", "word ".repeat(20)))).collect();
    assert!(t.render(&messages, &ChatOptions::default()).unwrap().len() > 2_000_000);
}
