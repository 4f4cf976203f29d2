//! Chat templates against `transformers` (see `golden/make.py`), and hostile ones.

use gently_text::{ChatOptions, ChatTemplate, Error, Message, Template, TemplateTokens};
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
fn small_things_are_what_python_makes_of_them() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/expressions.json");
    let golden: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let mut wrong = Vec::new();
    for case in golden.as_array().unwrap() {
        let source = case[0].as_str().unwrap();
        let found = ChatTemplate::new(source, tokens(), "x".as_ref())
            .and_then(|t| t.render(&[Message::user(" Hi\n")], &ChatOptions::default()));
        // Where Python refuses, so must this.
        if found.as_ref().ok().map(String::as_str) != case[1].as_str() {
            wrong.push(format!("{source}\n  Python: {:?}\n  here:   {found:?}\n", case[1].as_str()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.concat());
}

#[test]
fn messages_and_dates() {
    let now = Some(SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000));
    let t =
        template("{{ strftime_now('%d %b %Y') }} {% for m in messages %}{{ m.role }}:{{ m['content'] }};{% endfor %}");
    let messages = [Message::system("s"), Message::user("u"), Message::assistant("<a>&")];
    let text = t.render(&messages, &ChatOptions { now, ..ChatOptions::default() }).unwrap();
    assert_eq!(text, "14 Nov 2023 system:s;user:u;assistant:<a>&;");
    let t = template("{{ strftime_now('%F %T %-d %j') }}");
    assert_eq!(t.render(&[], &ChatOptions { now, ..ChatOptions::default() }).unwrap(), "2023-11-14 22:13:20 14 318");
    let e = template("{{ raise_exception(['a', 1.0]) }}").render(&[], &ChatOptions::default()).unwrap_err();
    assert!(e.to_string().contains("['a', 1.0]"), "{e}");
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
        // Texts as wide as is said.
        "{{ 'a'.center(1000000000) }}",
        "{{ 'a'.ljust(1000000000) }}",
        "{{ 'a'.rjust(1000000000, '日') }}",
        "{{ '-1'.zfill(1000000000) }}",
        "{{ 'a' | center(1000000000) }}",
        "{{ '%1000000000s' % 'a' }}",
        "{{ '%-1000000000d' | format(1) }}",
        "{{ '%.1000000000d' % 1 }}",
        "{{ '%.100000f' % 1.5 }}",
        "{{ '%*d' % (1000000000, 1) }}",
        "{{ '%99999999999999999999s' % 1 }}",
        "{{ [1] | tojson(indent=1000000000) }}",
        "{% set x = 'x' * 9000000 %}{{ [[1]] | tojson(indent=x) }}",
        "{% set x = 'x' * 900000 %}{{ range(100) | list | tojson(separators=(x, x)) }}",
        "{% set x = 'x' * 900000 %}{{ x.join(('ab ' * 100).split()) }}",
        "{% set x = 'x' * 900000 %}{{ ('ab ' * 100) | wordwrap(1, wrapstring=x) }}",
        "{% set x = 'x' * 900000 %}{{ '{0}{0}{0}{0}{0}{0}{0}{0}{0}{0}{0}{0}{0}{0}{0}{0}{0}{0}{0}{0}{0}{0}{0}{0}{0}{0}{0}{0}'.format(x) }}",
        "{{ ('a b ' * 3000000).split() | length }}",
        "{{ ('\\n' * 9000000).splitlines() | length }}",
        "{{ ('a ' * 3000000) | wordwrap(1) | length }}",
        // Lists: doubled in a loop, in macros, in other words, with themselves inside, and written out by 33 sums.
        "{% set ns = namespace(x=[1]) %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}{{ ns.x | length }}",
        "{% macro m(x, n) %}{% if n %}{{ m(x + x, n - 1) }}{% endif %}{% endmacro %}{{ m([1], 60) }}",
        "{% set ns = namespace(x=[1]) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] | sum(start=[]) %}{% endfor %}",
        "{% set ns = namespace(x=[1]) %}{% for i in range(60) %}{% set ns.x = ns.x | chain(ns.x) %}{% endfor %}",
        "{% set ns = namespace(x=[1]) %}{% for i in range(60) %}{% set ns.x = ns.x + [ns.x] + ns.x %}{% endfor %}",
        "{% set ns = namespace(x=[1] * 1000000000000) %}{% for i in range(60) %}{% set ns.x = ns.x + [1] %}{% endfor %}",
        // Values in values without end: by a loop, by filters, cut again and again, in themselves, one in the other.
        "{% set ns = namespace(x=[]) %}{% for i in range(99999) %}{% set ns.x = [ns.x] %}{% endfor %}",
        "{% set ns = namespace(x=1) %}{% for i in range(99999) %}{% set ns.x = {'a': ns.x} %}{% endfor %}{{ ns.x }}",
        "{% set ns = namespace(x=[1]) %}{% for i in range(99999) %}{% set ns.x = (ns.x, 1) %}{% endfor %}",
        "{% set ns = namespace(x=[1]) %}{% for i in range(99999) %}{% set ns.x = ns.x | batch(1) %}{% endfor %}",
        "{% set ns = namespace(x=[1]) %}{% for i in range(99999) %}{% set ns.x = ns.x[:] %}{% endfor %}{{ ns.x | length }}",
        "{% set ns = namespace(x=[1]) %}{% for i in range(99999) %}{% set ns.x = ns.x * 1 %}{% endfor %}",
        "{% set ns = namespace(x=[1]) %}{% for i in range(99999) %}{% set ns.x = [] + [ns.x] %}{% endfor %}",
        "{% set ns = namespace() %}{% set ns.x = ns %}{{ ns }}",
        "{% set ns = namespace() %}{% set ns.x = [{'a': ns}] %}{{ ns == ns }}",
        "{% set ns = namespace(x=1) %}{% for i in range(99999) %}{% set ns.x = namespace(x=ns.x) %}{% endfor %}",
        "{% set ns = namespace(x=1) %}{% for i in range(99999) %}{% set n = namespace() %}{% set n.x = ns.x %}{% set ns.x = n %}{% endfor %}",
        "{% macro m() %}{% endmacro %}{% set ns = namespace() %}{% set ns.x = m %}",
        "{% set x = 'a' * 9000000 %}{% for i in range(99999) %}{% set y = x[8999999:] %}{% endfor %}",
        // Depth.
        "{% macro m(n) %}{{ m(n + 1) }}{% endmacro %}{{ m(0) }}",
        "{% set ns = namespace(f=1) %}{% macro a() %}{{ b() }}{% endmacro %}{% macro b() %}{{ a() }}{% endmacro %}{{ a() }}",
    ];
    for source in cases {
        let found =
            ChatTemplate::new(source, tokens(), "x".as_ref()).and_then(|t| t.render(&[], &ChatOptions::default()));
        assert!(matches!(found, Err(Error::Template { .. })), "{source}");
    }
    // As deep as a template's own length allows, and then printed, compared, cut and dropped.
    for (wrap, end) in
        [("[a]", "{{ a }}"), ("{'k': a}", "{{ a == [a] }}"), ("(a,)", "{{ a[0:] }}"), ("a[:]", "{{ a }}")]
    {
        let wraps = format!("{{%set a={wrap}%}}").repeat(200_000 / (wrap.len() + 10));
        let source = format!("{{% set a = [1] %}}{wraps}{end}");
        let _ = ChatTemplate::new(&source, tokens(), "x".as_ref()).unwrap().render(&[], &ChatOptions::default());
    }
    // Little that is much when it is written: a list twice in itself, 60 times.
    for end in [
        "{{ a }}",
        "{{ a ~ 1 }}",
        "{{ a | string }}",
        "{{ [a] | join }}",
        "{{ a | trim }}",
        "{{ a | center }}",
        "{{ a | wordcount }}",
        "{{ a | tojson }}",
        "{{ '%s' % (a,) }}",
        "{{ '%r' | format(a) }}",
        "{{ '{}'.format(a) }}",
        "{{ [1].index(a) }}",
        "{{ raise_exception(a) }}",
        "{{ strftime_now(a) }}",
        // Written, hashed and compared by filters and signs that do not pay themselves.
        "{{ a | upper }}{{ a | lower }}{{ a | title }}{{ a | capitalize }}{{ a | indent }}{{ a | escape }}{{ a | safe }}",
        "{{ 'x' | replace('x', a) }}",
        "{{ [1] | select(a) }}",
        "{{ {a: 1} }}",
        "{{ {}[a] }}",
        "{{ [a, 1] | unique }}",
        "{{ [a, 1] | sort | length }}",
        "{% set b = [1] %}{{ a == b }}",
        // It is the making that is paid for.
        "",
    ] {
        let source = format!("{{% set a = [1] %}}{}{end}", "{% set a = [a, a] %}".repeat(60));
        assert!(template(&source).render(&[], &ChatOptions::default()).is_err(), "{end}");
    }
    // The same by other ways to put values together.
    for (first, twice) in [
        ("[1]", "(a, a)"),
        ("[1]", "{'x': a, 'y': a}"),
        ("[1]", "{'x': [a], 'y': (a,)}"),
        ("[1]", "dict(x=a, y=a)"),
        ("[1]", "[a] * 2"),
        ("[1]", "[a] + [a]"),
        ("(1,)", "a + a"),
        ("(1,)", "a * 2"),
        ("[1]", "[{}, {}] | map(attribute='x', default=a) | list"),
        ("[1]", "[0] | batch(3, a)"),
        ("[1]", "[0] | slice(3, a)"),
        ("[{'x': 1}] | groupby('x')", "a | groupby('list')"),
    ] {
        let source = format!("{{% set a = {first} %}}{}", format!("{{% set a = {twice} %}}").repeat(60));
        let found = template(&source).render(&[], &ChatOptions::default());
        assert!(matches!(found, Err(Error::Template { .. })), "{twice}");
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
fn sums_are_what_they_were() {
    let item = serde_json::json!({"a": [1, 2], "s": "x", "n": 2});
    for (source, text) in [
        ("{{ a + [3] + a }}", "[1, 2, 3, 1, 2]"),
        ("{{ (a + a)[1:] }}{{ (a + a)[-1] }}{{ (a + [9])[2] }}", "[2, 1, 2]29"),
        ("{{ ([] + a + []) | length }}{{ [] + [] }}", "2[]"),
        ("{{ s + 'y' + s }}{{ n + 1 }}{{ n + 0.5 }}{{ 1.5 + 1.5 }}", "xyx32.53.0"),
        ("{{ 9223372036854775807 + 1 }}", "9223372036854775808"),
        ("{{ (1,) + (2, 3) }}", "(1, 2, 3)"),
        ("{{ a | sum }}{{ [n, 0.5] | sum }}{{ [{'k': 3}] | sum(attribute='k') }}{{ [] | sum }}", "32.530"),
        ("{% for x in a + a %}{{ x }}{% endfor %}{{ 2 in a + [] }}{{ a + [] == a }}", "1212TrueTrue"),
        ("{{ (a + ['b']) | join('-') }}{{ (a + [[3]]) | tojson }}", "1-2-b[1, 2, [3]]"),
        ("{{ a * 2 }}{{ 2 * a }}{{ a * 0 }}{{ s * 3 }}{{ 2 * 3 }}{{ n * 1.5 }}", "[1, 2, 1, 2][1, 2, 1, 2][]xxx63.0"),
        ("{{ a[::-1] }}{{ 'abc'[1:] }}{{ (1, 2, 3)[:2] }}{{ a[-1:] }}{{ a[5:] }}", "[2, 1]bc(1, 2)[2][]"),
        (
            "{% set ns = namespace(k=1, l=a) %}{% set ns.m = ns.k + 1 %}{% for x in a %}{% set ns.k = ns.k + x %}{% endfor %}\
            {{ ns.k }}{{ ns.m }}{{ ns.l }}{{ ns.z is defined }}{{ ns.k if ns.m else 0 }}",
            "42[1, 2]False4",
        ),
        (
            "{{ [n, [s]] }}{{ (n, s) }}{{ {'k': n, s: [n]} }}{{ dict({'k': n}, j=s) }}",
            "[2, ['x']](2, 'x'){'k': 2, 'x': [2]}{'k': 2, 'j': 'x'}",
        ),
        (
            "{{ [[s]] | map('first') | list }}{{ a | batch(3, n) | list }}{{ [missing is defined, a] | first }}",
            "['x'][[1, 2, 2]]False",
        ),
        (
            "{% macro m(x) %}<{{ x }}>{% endmacro %}{% for f in [m, m] %}{{ f(s) }}{% endfor %}{{ m(*[n]) }}",
            "<x><x><2>",
        ),
        ("{% set ns = namespace({'k': 7}) %}{% set ns.f = true %}{{ ns.k }}{{ ns.f }}{{ ns | length }}", "7True2"),
    ] {
        let template = Template::new(source, "text", "t.yaml".as_ref()).unwrap();
        assert_eq!(template.render(&item).unwrap(), text, "{source}");
    }
    let value = |source: &str| Template::new(source, "text", "t.yaml".as_ref()).unwrap().value(&item).unwrap().unwrap();
    assert_eq!(value("{{ a + [3] }}"), serde_json::json!([1, 2, 3]));
    for source in ["{{ a + 1 }}", "{{ a + (1,) }}", "{{ s + 1 }}", "{{ [s] | sum }}", "{{ [[1]] | sum }}"] {
        let e = Template::new(source, "text", "t.yaml".as_ref()).unwrap().render(&item).unwrap_err().to_string();
        assert!(e.contains("line 1"), "{source}: {e}");
    }
    // Many small sums cost little more than what they hold.
    let source = "{% set ns = namespace(x=[]) %}{% for i in range(5000) %}{% set ns.x = ns.x + [i] %}{% endfor %}{{ ns.x | length }}";
    assert_eq!(template(source).render(&[], &ChatOptions::default()).unwrap(), "5000");
}

#[test]
fn long_conversations_are_within_the_budget() {
    let t = template("{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] | trim }}{% endfor %}");
    let messages: Vec<Message> =
        (0..20_000).map(|i| Message::user(format!("message {i} {}", "word ".repeat(20)))).collect();
    assert!(t.render(&messages, &ChatOptions::default()).unwrap().len() > 2_000_000);
}
