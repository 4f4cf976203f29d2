//! GBNF: the texts that a constraint allows are those of the grammar, whatever way of reading them there is, and what is
//! wrong with a grammar is said.

use gently_infer::{Constraint, Grammar, Grammars};
use gently_text::{BpeOptions, Tokenizer, train_bpe};
use peak_alloc::PeakAlloc;
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::sync::OnceLock;

/// Counts what is allocated and not freed, to the byte.
#[global_allocator]
static HEAP: PeakAlloc = PeakAlloc;

/// What a grammar and a text held to it may take, with whatever tests run beside.
const MOST: usize = 1 << 30;

/// A grammar and what it derives, checked without what constraints are made of.
#[derive(Debug, Clone)]
enum Says {
    Text(String),
    /// Characters, or all but these.
    Class(Vec<(char, char)>, bool),
    Any,
    Rule(usize),
    Seq(Vec<Says>),
    Alt(Vec<Says>),
    Repeat(Box<Says>, usize, Option<usize>),
}

impl Says {
    fn write(&self) -> String {
        let join = |all: &[Says], with: &str| all.iter().map(Says::write).collect::<Vec<_>>().join(with);
        match self {
            Self::Text(text) => format!("\"{text}\""),
            Self::Class(ranges, negated) => {
                let ranges: String = ranges.iter().map(|(a, b)| format!("{a}-{b}")).collect();
                format!("[{}{ranges}]", if *negated { "^" } else { "" })
            }
            Self::Any => ".".into(),
            Self::Rule(0) => "root".into(),
            Self::Rule(rule) => format!("r{rule}"),
            Self::Seq(all) if all.is_empty() => "\"\"".into(),
            Self::Seq(all) => join(all, " "),
            Self::Alt(all) => format!("({})", join(all, " | ")),
            Self::Repeat(of, least, most) => {
                let times = match (least, most) {
                    (0, None) => "*".into(),
                    (1, None) => "+".into(),
                    (0, Some(1)) => "?".into(),
                    (_, None) => format!("{{{least},}}"),
                    (_, Some(most)) => format!("{{{least},{most}}}"),
                };
                format!("({}){times}", of.write())
            }
        }
    }

    /// Where a text may end that begins here. `ends`: what is known of rules.
    fn ends(&self, text: &[char], at: usize, ends: &[Vec<BTreeSet<usize>>]) -> BTreeSet<usize> {
        let one = |takes: bool| if takes { BTreeSet::from([at + 1]) } else { BTreeSet::new() };
        match self {
            Self::Text(own) => {
                let own: Vec<char> = own.chars().collect();
                if text[at..].starts_with(&own) { BTreeSet::from([at + own.len()]) } else { BTreeSet::new() }
            }
            Self::Class(ranges, negated) => {
                one(text.get(at).is_some_and(|c| ranges.iter().any(|(a, b)| (a..=b).contains(&c)) != *negated))
            }
            Self::Any => one(at < text.len()),
            Self::Rule(rule) => ends[*rule][at].clone(),
            Self::Seq(all) => all.iter().fold(BTreeSet::from([at]), |from, part| {
                from.iter().flat_map(|&at| part.ends(text, at, ends)).collect()
            }),
            Self::Alt(all) => all.iter().flat_map(|part| part.ends(text, at, ends)).collect(),
            Self::Repeat(of, least, most) => {
                let (mut all, mut now, mut seen) = (BTreeSet::new(), BTreeSet::from([at]), BTreeSet::new());
                for count in 0.. {
                    if count >= *least {
                        all.extend(&now);
                    }
                    // Beyond the least, what was seen brings nothing new.
                    if most.is_some_and(|most| count >= most) || count > *least && !seen.insert(now.clone()) {
                        break;
                    }
                    now = now.iter().flat_map(|&at| of.ends(text, at, ends)).collect();
                }
                all
            }
        }
    }
}

fn derives(rules: &[Says], text: &str) -> bool {
    let text: Vec<char> = text.chars().collect();
    let mut ends = vec![vec![BTreeSet::new(); text.len() + 1]; rules.len()];
    loop {
        let mut changed = false;
        for (rule, says) in rules.iter().enumerate() {
            for at in 0..=text.len() {
                let found = says.ends(&text, at, &ends);
                changed |= found != ends[rule][at];
                ends[rule][at] = found;
            }
        }
        if !changed {
            return ends[0][0].contains(&text.len());
        }
    }
}

fn written(rules: &[Says]) -> String {
    let name = |rule: usize| if rule == 0 { "root".into() } else { format!("r{rule}") };
    rules.iter().enumerate().map(|(i, says)| format!("{} ::= {}\n", name(i), says.write())).collect()
}

fn bytes() -> &'static (Tokenizer, Grammars) {
    static BYTES: OnceLock<(Tokenizer, Grammars)> = OnceLock::new();
    BYTES.get_or_init(|| {
        let tokenizer = Tokenizer::bytes().with_end_of_text("<end>");
        let grammars = Grammars::new(&tokenizer).unwrap();
        (tokenizer, grammars)
    })
}

/// Tokens of several characters.
fn words() -> &'static (Tokenizer, Grammars) {
    static WORDS: OnceLock<(Tokenizer, Grammars)> = OnceLock::new();
    WORDS.get_or_init(|| {
        let seen = ["abcabb aab ccab bé aébc éa baa cb èa {\"a\": [1, 23]} 12+34 ", "aaaa bbbb abab cc "];
        let specials = vec!["<|endoftext|>".into(), "<|go|>".into()];
        let options = BpeOptions { specials, ..BpeOptions::new(330) };
        let tokenizer = train_bpe(seen.map(|s| s.repeat(8)).iter(), &options).unwrap();
        let grammars = Grammars::new(&tokenizer).unwrap();
        (tokenizer, grammars)
    })
}

/// Whether a text of these tokens is allowed, asked token by token.
fn allows(grammar: &Grammar, ids: &[u32]) -> bool {
    let (mut guide, mut masked, logits) = (grammar.guide(), Vec::new(), vec![0.0; grammar.vocab()]);
    for &id in ids {
        if guide.is_complete() {
            return false;
        }
        // What is forced is not asked for: the mask must say the same.
        if !guide.mask(&logits, &mut masked).unwrap() || masked[id as usize] != 0.0 {
            return false;
        }
        guide.take(id).unwrap();
    }
    if guide.is_complete() {
        return true;
    }
    match guide.mask(&logits, &mut masked) {
        Ok(more) => !more || (0..masked.len()).any(|id| guide.ends(id as u32) && masked[id] == 0.0),
        Err(e) => panic!("{e}"),
    }
}

/// All texts of some characters, up to a length.
fn texts(of: &[char], longest: usize) -> Vec<String> {
    let mut all = vec![String::new()];
    let mut begin = 0;
    for _ in 0..longest {
        let end = all.len();
        for at in begin..end {
            all.extend(of.iter().map(|c| format!("{}{c}", all[at])).collect::<Vec<_>>());
        }
        begin = end;
    }
    all
}

fn says(rules: usize) -> impl Strategy<Value = Says> {
    let letter = || prop::sample::select(vec!['a', 'b', 'c', 'é', 'è']);
    let range = (letter(), letter()).prop_map(|(a, b)| (a.min(b), a.max(b)));
    let leaf = prop_oneof![
        4 => prop::collection::vec(letter(), 1..4).prop_map(|t| Says::Text(t.into_iter().collect())),
        3 => (prop::collection::vec(range, 1..3), prop::bool::weighted(0.3)).prop_map(|(r, n)| Says::Class(r, n)),
        1 => Just(Says::Any),
        3 => (0..rules).prop_map(Says::Rule),
        1 => Just(Says::Seq(Vec::new())),
    ];
    leaf.prop_recursive(4, 16, 4, |inner| {
        prop_oneof![
            3 => prop::collection::vec(inner.clone(), 2..5).prop_map(Says::Seq),
            3 => prop::collection::vec(inner.clone(), 2..4).prop_map(Says::Alt),
            2 => (inner, 0usize..3, prop::option::of(0usize..3)).prop_map(|(of, least, more)| {
                Says::Repeat(Box::new(of), least, more.map(|n| (least + n).max(1)))
            }),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn texts_are_allowed_that_are_derived(rules in prop::collection::vec(says(3), 3)) {
        let text = written(&rules);
        let constraint = Constraint::gbnf(&text);
        let mut tried = texts(&['a', 'b', 'é'], 4);
        tried.extend(["abcabc", "cccccc", "èaèb", "abbbbba", "aacéècaa", "bcbcbcb"].map(String::from));
        let constraint = match constraint {
            Ok(constraint) => constraint,
            Err(e) => {
                prop_assert!(e.to_string().contains("derives no text"), "{} for\n{}", e, &text);
                prop_assert!(!tried.iter().any(|one| derives(&rules, one)), "{} for\n{}", e, &text);
                return Ok(());
            }
        };
        let grammar = bytes().1.compile(&constraint).unwrap();
        let words = words().1.compile(&constraint).unwrap();
        for one in &tried {
            let want = derives(&rules, one);
            let ids: Vec<u32> = one.bytes().map(u32::from).collect();
            prop_assert_eq!(allows(&grammar, &ids), want, "{:?} of\n{}", one, &text);
            prop_assert_eq!(allows(&words, &words_of(one)), want, "{:?} in words of\n{}", one, &text);
        }
    }
}

fn words_of(text: &str) -> Vec<u32> {
    words().0.encode(text).unwrap()
}

fn holds(grammar: &str, yes: &[&str], no: &[&str]) {
    let constraint = Constraint::gbnf(grammar).unwrap();
    let (byte, word) = (bytes().1.compile(&constraint).unwrap(), words().1.compile(&constraint).unwrap());
    for (texts, want) in [(yes, true), (no, false)] {
        for text in texts {
            let ids: Vec<u32> = text.bytes().map(u32::from).collect();
            assert_eq!(allows(&byte, &ids), want, "{text:?} of {grammar}");
            assert_eq!(allows(&word, &words_of(text)), want, "{text:?} in words of {grammar}");
        }
    }
}

#[test]
fn what_people_write_works() {
    let arithmetic = r#"
        # Sums and products, one a line.
        root  ::= (expr " = " num "\n")+
        expr  ::= term ([-+*/] term)*
        term  ::= num | ident | "(" ws expr ws ")"
        num   ::= "-"? [0-9]+ ("." [0-9]+)?
        ident ::= [a-z] [a-z0-9_]*
        ws    ::= [ \t]*"#;
    holds(
        arithmetic,
        &["1+2 = 3\n", "(a-b)*3.25 = -7\n", "( (x1) )/y = 2\n1 = 1\n"],
        &["1+2 = 3", "1++2 = 3\n", "(1 = 1\n", "1.=1\n", "1+2 = x\n", ""],
    );
    let json = r#"root   ::= value
        value  ::= object | array | string | number | ("true" | "false" | "null") ws
        object ::= "{" ws (member ("," ws member)*)? "}" ws
        member ::= string ":" ws value
        array  ::= "[" ws (value ("," ws value)*)? "]" ws
        string ::= "\"" ([^"\\\x00-\x1F] | "\\" (["\\/bfnrt] | "u" [0-9a-fA-F]{4}))* "\"" ws
        number ::= "-"? ("0" | [1-9] [0-9]*) ("." [0-9]+)? ([eE] [-+]? [0-9]+)? ws
        ws     ::= ([ \t\n] ws)?"#;
    // A rule ends with its line.
    let json: String = json.lines().map(|l| format!("{}\n", l.trim())).collect();
    holds(
        &json,
        &["{}", "[ 1, -2.5e+3 , \"\\u00e9é\\n\" ]\n", "{\"a\": {\"b\" : [ ] }, \"\": null}", "0", "true \t"],
        &["{", "[1,]", "01", "{\"a\" 1}", "\"\n\"", "\"\\x\"", "{1: 2}", " 1", "truefalse"],
    );
    let list = "root ::= item+\n# One or more.\nitem ::= \"- \" [^\\r\\n\\x0b\\u2028\\U00002029]+ \"\\n\"\n";
    holds(list, &["- milk\n", "- a\n- é b\n"], &["-milk\n", "- \n", "- a", "- a\n\n", "- a\u{2028}\n"]);
    let chess = r#"
root     ::= "1. " move " " move ("\n" [1-9] [0-9]? ". " move (" " move)?)* "\n"?
move     ::= (pawn | piece | castling) [+#]?
pawn     ::= ([a-h] "x")? [a-h] [1-8] ("=" [NBRQ])?
piece    ::= [NBRQK] [a-h]? [1-8]? "x"? [a-h] [1-8]
castling ::= "O-O" "-O"?
"#;
    holds(
        chess,
        &["1. e4 e5", "1. Nf3 exd5\n2. O-O-O Rae1+\n3. a8=Q# N1c3\n", "1. Qd1e2 O-O"],
        &["1. e4", "1. e9 e5", "1. Nf3 exd", "2. e4 e5", "1. e4 e5\n0. d4"],
    );
}

#[test]
fn every_way_of_reading_counts() {
    // The longest terminal is not always the one that is meant.
    holds("root ::= [a-z]+ [a-z]", &["ab", "abc"], &["a", "", "a1"]);
    holds(
        "root ::= (x \";\")* x?\nx ::= y [a-z]\ny ::= [a-z]+ | \"(\" y \")\"",
        &["ab", "(abc)d;xyz", ""],
        &["a", "(a)", "ab;c"],
    );
    // A word that is also a name's beginning.
    let keywords =
        "root ::= stmt+\nstmt ::= \"if\" expr \"then\" stmt | expr \";\"\nexpr ::= [a-z]+ | \"(\" stmt \")\"";
    holds(
        keywords,
        &["ifathenb;", "ifif;", "if(a;)thenifxthenthen;", "iffthenthenthen;"],
        &["if", "ifathen", "a", "()"],
    );
    holds(
        "root ::= a a\na ::= b* \"x\"?\nb ::= \"ab\" | \"a\" | \"(\" a \")\"",
        &["", "ababax", "x(x)ab", "xx"],
        &["b", "xxx", "xaxa"],
    );
    // Characters whose first bytes are the same.
    holds("root ::= (\"(\" root \")\" | é)+\né ::= \"a\"".replace('é', "e").as_str(), &["aa(a)"], &["()"]);
    holds("root ::= p \"è\" | p\np ::= \"x\" \"é\"* | \"(\" p \")\"", &["xéé", "xééè", "(xé)è", "xè"], &["xèé", "è"]);
    // Recursion at the beginning, at the end, at both, in the middle, around.
    holds("root ::= root \"a\" | \"b\"", &["b", "baa"], &["", "a", "bab"]);
    holds("root ::= \"a\" root | \"b\"", &["b", "aab"], &["", "a", "aba"]);
    holds("root ::= root root | \"a\" | \"(\" root? \")\"", &["a", "a(a()a)", "()()"], &["", "(", "(()"]);
    holds("root ::= x\nx ::= y \"b\" | \"c\"\ny ::= x \"a\" | x", &["c", "cab", "cb", "cabbab"], &["ca", "cba", ""]);
    holds("root ::= \"a\"? (\"\" | root) \"b\"{0,2}", &["", "a", "b", "aab", "bbb"], &["ba", "c"]);
    let long = "a".repeat(5000);
    let ids: Vec<u32> = long.bytes().map(u32::from).collect();
    let many = bytes().1.compile(&Constraint::gbnf("root ::= \"a\" root | \"\"").unwrap()).unwrap();
    assert!(allows(&many, &ids), "what is recursive at its end needs no stack");
}

#[test]
fn the_notation_is_that_of_llama_cpp() {
    holds("root::=\"a\"#c\n", &["a"], &["a#c"]);
    holds(
        "\n\n# c\r\nroot ::= # c\n  x-1 | # c\n\n  \"b\"\r\nx-1 ::= ( \"a\" # c\n | \"aa\"\n)\n",
        &["a", "aa", "b"],
        &["ab"],
    );
    holds("root ::= |\"a\"", &["", "a"], &["aa"]);
    holds("root ::= \"\\x41\\u00e9\\U0001F600\\\"\\\\\\[\\]\\-\\t\\r\\n\"", &["Aé😀\"\\[]-\t\r\n"], &["A"]);
    holds("root ::= [\\]a^-c\\x2d-\\x2f-]+", &["]", "a^_`bc", "-./"], &["d", "[", "\\"]);
    holds("root ::= [-a] [a-] [^^]", &["-a^".replace('^', "b").as_str(), "a-\n"], &["aa^", "b-a"]);
    holds("root ::= . .", &["ab", "\né", "日\0"], &["a", "abc"]);
    holds(
        "root ::= \"ab\"{2} \"c\"{0} [d]{ 1 , 2 } \"e\" {2,} \"f\"{0,1}?",
        &["ababdee", "ababddeeef"],
        &["abde", "ababcdee", "ababdddee", "ababdef"],
    );
    holds("root ::= \"a\nb\"", &["a\nb"], &["ab"]);
    holds("root ::= \"/\" \"#\" \"//\" [/#]", &["/#///", "/#//#"], &["/#//"]);
    // A special token, which is no text.
    let constraint = Constraint::gbnf("root ::= [a-z]+ <|go|> (root | \"<|go|>\")").unwrap();
    let (tokenizer, grammars) = words();
    let grammar = grammars.compile(&constraint).unwrap();
    let go = tokenizer.specials().iter().find(|s| s.0 == "<|go|>").unwrap().1;
    let ids = |text: &str| text.split('!').map(words_of).collect::<Vec<_>>().join(&[go][..]);
    for (text, want) in
        [("ab!<|go|>", true), ("a!bc!<|go|>", true), ("ab<|go|>", false), ("a!", false), ("!<|go|>", false)]
    {
        assert_eq!(allows(&grammar, &ids(text)), want, "{text}");
    }
}

#[test]
fn what_is_wrong_is_said() {
    let said = |text: &str, parts: &[&str]| {
        let error = Constraint::gbnf(text).unwrap_err();
        let said = error.to_string();
        assert!(said.starts_with("the GBNF grammar cannot be used: "), "{said}");
        assert!(parts.iter().all(|p| said.contains(p)), "{said}");
        assert!(error.hint().is_some_and(|h| h.contains("root ::=")) && said.len() < 400, "{said}");
    };
    said(" \n", &["it is empty"]);
    said("# nothing", &["there is no rule root"]);
    said("start ::= \"a\"", &["there is no rule root"]);
    said("root ::= \"a\" |\n  b c", &["line 2, column 3: there is no rule b"]);
    said("root ::= \"é\" )", &["line 1, column 14: ')' in place of"]);
    said("root ::= (\"a\"\n", &["line 2, column 1: the end in place of )"]);
    said("root ::= \"a\n| b", &["line 1, column 10: a string without an end"]);
    said("root ::= [a\n", &["line 1, column 10: a class of characters without an end"]);
    said("root ::= \"a\"\n  | \"b\"", &["line 2, column 3: '|' in place of a rule's name", "end this one with |"]);
    said("root = \"a\"", &["line 1, column 6: '=' in place of ::="]);
    said("root ::= my_rule", &["line 1, column 12: '_'"]);
    said("root ::= \"a\"\nroot ::= \"b\"", &["line 2, column 1: the rule root is defined a second time"]);
    said("root ::= \"\\q\"", &["line 1, column 11: an unknown escape, \\q"]);
    said("root ::= \"\\u12\"", &["line 1, column 11: 4 hexadecimal digits"]);
    said("root ::= \"\\uD800\"", &["U+D800 is no character"]);
    said("root ::= [\\U00110000]", &["U+110000 is no character"]);
    said("root ::= []", &["a class without characters"]);
    said("root ::= [^\\x00-\\U0010FFFF]", &["a class without characters"]);
    said("root ::= [z-a]", &["line 1, column 11: a range whose end is before"]);
    said("root ::= *", &["line 1, column 10: nothing stands before *"]);
    said("root ::= \"a\"{x}", &["'x' in place of a number"]);
    said("root ::= \"a\"{2,1}", &["line 1, column 13: a repetition with more at least"]);
    said("root ::= \"a\"{1,1000000000}", &["line 1, column 16: repeated more than 100000 times"]);
    said("root ::= \"a\"{99999999999999999999}", &["repeated more than"]);
    said("root ::= \"a\"{1", &["the end in place of }"]);
    said("root ::= <[12]>", &["tokens by number"]);
    said("root ::= !<a>", &["any token but one"]);
    said("root ::= <a", &["a token without >"]);
    said(&format!("root ::= {}\"a\"{}", "(".repeat(5000), ")".repeat(5000)), &["parentheses nested deeper than 50"]);
    said(&format!("root ::= \"a\"{}", "*".repeat(5000)), &["nested deeper than 128"]);
    said(&format!("root ::= \"{}\"", "a".repeat(1 << 16)), &["bytes"]);
    let unknown = Constraint::gbnf("root ::= <|nobody|>").unwrap();
    let error = bytes().1.compile(&unknown).unwrap_err().to_string();
    assert!(error.contains("<|nobody|>"), "{error}");
    for nothing in ["root ::= root", "root ::= \"a\" root", "root ::= x\nx ::= x x", "root ::= x+\nx ::= \"a\" x"] {
        said(nothing, &["the rule root derives no text"]);
    }
}

/// Grammars that would take hours or gigabytes: an error comes, when they are compiled or while a text is written.
#[test]
fn hostile_grammars_cost_little() {
    let chain = |count: usize, of: &dyn Fn(usize) -> String, last: &str| {
        let rules: String = (0..count).map(|i| format!("r{i} ::= {}\n", of(i))).collect();
        format!("root ::= r0\n{rules}r{count} ::= {last}\n")
    };
    let many =
        |count: usize, of: &dyn Fn(usize) -> String, with: &str| (0..count).map(of).collect::<Vec<_>>().join(with);
    let cases = [
        ("powers", chain(40, &|i| format!("r{0} r{0}", i + 1), "[a-z]")),
        ("powers that are forced", chain(40, &|i| format!("r{0} r{0}", i + 1), "\"a\"")),
        ("powers of twelve", chain(40, &|i| format!("r{} ", i + 1).repeat(12), "\"a\"")),
        ("powers of four", chain(40, &|i| format!("r{} ", i + 1).repeat(4), "\"a\"")),
        ("powers by counting", chain(40, &|i| format!("r{}{{2}}", i + 1), "\"a\"")),
        ("some powers", chain(22, &|i| format!("r{0} r{0}", i + 1), "\"a\"")),
        ("some powers of a word", chain(16, &|i| format!("r{0} r{0}", i + 1), &format!("\"{}\"", "a".repeat(1000)))),
        (
            "powers behind a choice",
            chain(24, &|i| format!("r{0} r{0}", i + 1), "\"a\"").replace("root ::= r0", "root ::= \"b\" r0 | \"c\""),
        ),
        (
            "long ends of a chain",
            chain(2000, &|i| format!("r{} t | \"z\"", i + 1), "\"q\"")
                + &format!("t ::= u{{60}} | u{{60}} \"!\"\nu ::= \"{}\"\n", "a".repeat(1000)),
        ),
        (
            "long ends of recursion",
            format!("root ::= \"a\" root t | \"b\"\nt ::= u{{60}} \"!\"\nu ::= \"{}\"", "a".repeat(1000)),
        ),
        ("powers that may be empty", chain(40, &|i| format!("r{0}? r{0}?", i + 1), "[a-z]")),
        ("powers of ways", chain(40, &|i| format!("r{0} | r{0} [ab]", i + 1), "[a-z]")),
        ("a chain", chain(3000, &|i| format!("\"a\" r{}", i + 1), "\"b\"")),
        ("a chain backwards", chain(3000, &|i| format!("r{} [ab]*", i + 1), "\"b\"")),
        ("a chain of recursion", chain(2500, &|i| format!("\"a\" r{} | root", i + 1), "\"b\"")),
        ("a chain of repetitions", chain(2000, &|i| format!("(r{} [a-c]?)*", i + 1), "\"b\"")),
        ("words", format!("root ::= \"(\" root \")\" | {}", many(6000, &|i| format!("\"w{i}\""), " | "))),
        (
            "words apart",
            format!("root ::= root root | \"x\" | {}", many(2500, &|i| format!("\"w{i}\" root \"b\""), " | ")),
        ),
        (
            "words as rules",
            format!(
                "root ::= {}\n{}",
                many(1500, &|i| format!("r{i} root?"), " | "),
                many(1500, &|i| format!("r{i} ::= [a-z]{{{i}}}"), "\n")
            ),
        ),
        (
            "a long word again",
            format!("root ::= {}\nw ::= \"{}\"", many(6000, &|_| "w root?".into(), " | "), "a".repeat(250)),
        ),
        (
            "rules beside others",
            format!(
                "root ::= \"a\" | {}\n{}r40 ::= \"b\"",
                many(40, &|i| format!("r{i}"), " | "),
                many(
                    40,
                    &|i| { format!("r{i} ::= {}\n", many(30, &|j| format!("r{} [{j}] root?", (i * 7 + j) % 41), "|")) },
                    ""
                )
            ),
        ),
        (
            "empty ways again",
            format!("root ::= {}\nw ::= {} \"a\"", many(6000, &|_| "w".into(), "|"), "|".repeat(30_000)),
        ),
        ("what must be remembered", "root ::= [ab]* \"a\" [ab]{1000} | \"(\" root \")\"".into()),
        ("repetitions of repetitions", format!("root ::= {}[a-z]?{}", "(".repeat(40), "){1,100000}".repeat(40))),
        ("a long repetition", "root ::= (\"a\" | root \"b\"){100000}".into()),
        ("all ways", "root ::= root root root | root root | [a-z]* | \"\"".into()),
        ("all ways of repetitions", "root ::= ([a-z]* [a-z]* [a-z]*)* [a-z]* ([a-z]* root)*".into()),
        (
            "classes",
            format!(
                "root ::= \"x\" root? {}",
                many(
                    300,
                    &|i| format!(
                        "[{}{i}]",
                        many(60, &|c| char::from_u32(0x4E00 + 3 * c as u32).unwrap().to_string(), "")
                    ),
                    " "
                )
            ),
        ),
        (
            "parts that may be empty",
            format!("root ::= {} root?", many(5000, &|i| format!("[a-{}]*", (b'a' + i as u8 % 26) as char), " ")),
        ),
        (
            "nested parts",
            format!(
                "root ::= ({} root?)",
                many(400, &|_| format!("{}\"a\"{}", "([ab] ".repeat(12), ")?".repeat(12)), " ")
            ),
        ),
    ];
    for (name, text) in cases {
        HEAP.reset_peak_usage();
        let before = HEAP.current_usage();
        follow(name, &text);
        let taken = HEAP.peak_usage().saturating_sub(before);
        assert!(taken < MOST, "{name}: {taken} bytes");
    }
}

/// Compiles a grammar and goes some steps, as far as there is no error.
fn follow(name: &str, text: &str) {
    let compiled = Constraint::gbnf(text).map_err(gently_infer::Error::from).and_then(|c| bytes().1.compile(&c));
    let grammar = match compiled {
        Ok(grammar) => grammar,
        Err(e) => {
            assert!(e.to_string().contains("cannot be used: ") && e.hint().is_some(), "{name}: {e}");
            return;
        }
    };
    let (mut guide, mut masked) = (grammar.guide(), Vec::new());
    let logits = vec![0.0; grammar.vocab()];
    for taken in 0..6 {
        let more = match guide.mask(&logits, &mut masked) {
            Ok(more) => more,
            Err(e) => {
                assert!(e.to_string().contains("cannot go on after"), "{name}: {e}");
                false
            }
        };
        let allowed: Vec<u32> = (0..256).filter(|&id| more && masked[id as usize] == 0.0).collect();
        let Some(&id) = allowed.get(taken * 31 % allowed.len().max(1)) else { break };
        if let Err(e) = guide.take(id) {
            assert!(e.to_string().contains("cannot go on after"), "{name}: {e}");
            break;
        }
    }
}
