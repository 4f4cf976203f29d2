//! Vocabularies as GGUF files carry them, against Python's published pipelines on 1,000 hard strings (see `golden/make.py`),
//! and hostile ones.

use gently_text::{ChatTemplate, StreamDecoder, TemplateTokens, Tokenizer, Vocabulary};
use serde_json::Value;
use std::path::PathBuf;

fn golden(name: &str) -> Value {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn texts(v: &Value) -> Vec<&str> {
    v.as_array().map(|a| a.iter().map(|t| t.as_str().unwrap()).collect()).unwrap_or_default()
}

fn vocabulary(v: &Value) -> Vocabulary<'_> {
    let id = |key: &str| v[key].as_u64().map(|n| n as u32);
    Vocabulary {
        model: v["model"].as_str().unwrap(),
        pre: v["pre"].as_str(),
        tokens: texts(&v["tokens"]),
        types: v["types"].as_array().unwrap().iter().map(|t| t.as_i64().unwrap()).collect(),
        scores: v["scores"].as_array().map(|a| a.iter().map(|s| s.as_f64().unwrap()).collect()).unwrap_or_default(),
        merges: texts(&v["merges"]),
        bos: id("bos"),
        ends: v["ends"].as_array().unwrap().iter().map(|e| e.as_u64().unwrap() as u32).collect(),
        unknown: id("unknown"),
        separator: id("separator"),
        class: id("class"),
        add_bos: v["add_bos"].as_bool(),
        add_space_prefix: v["add_space_prefix"].as_bool(),
        ..Vocabulary::default()
    }
}

fn check(name: &str) {
    let (file, strings) = (golden(&format!("vocab-{name}.json")), golden("strings.json"));
    let v = vocabulary(&file);
    let tokenizer = Tokenizer::from_vocabulary(&v, "x.gguf".as_ref()).unwrap();
    assert_eq!(tokenizer.vocab_size(), v.tokens.len());
    assert_eq!(tokenizer.ends(), v.ends);
    let whole = file["whole"] == true;
    let cases = texts(&strings);
    assert_eq!(cases.len(), 1000);
    for (text, ids) in cases.iter().zip(file["ids"].as_array().unwrap()) {
        let expected: Vec<u32> = ids.as_array().unwrap().iter().map(|n| n.as_u64().unwrap() as u32).collect();
        let found = if whole { tokenizer.encode_whole(text) } else { tokenizer.encode(text) }.unwrap();
        assert_eq!(found, expected, "{name}: {text:?}");
        // Byte-level tokens give the text back exactly, also one by one.
        if v.model == "gpt2" {
            assert_eq!(tokenizer.decode(&found).unwrap(), *text);
            let mut stream = StreamDecoder::new(&tokenizer);
            let mut out = String::new();
            found.iter().for_each(|&id| out += &stream.push(id).unwrap());
            assert_eq!(out + &stream.finish().unwrap(), *text);
        }
    }
    // What is written for a GGUF file is the vocabulary that was read.
    if v.model != "t5" {
        let out = tokenizer.export(v.tokens.len() + 2).unwrap();
        assert_eq!((out.model, out.pre), (v.model, v.pre));
        assert_eq!(out.tokens[..v.tokens.len()], v.tokens);
        // The token for what cannot be spelled is marked as such, whatever the file said.
        let kind = |(id, t): (usize, &i64)| if v.unknown == Some(id as u32) { 2 } else { *t as i32 };
        assert_eq!(out.types[..v.tokens.len()], v.types.iter().enumerate().map(kind).collect::<Vec<_>>());
        assert_eq!(out.tokens.len(), v.tokens.len() + 2);
        assert_eq!((out.ends.as_slice(), out.unknown), (v.ends.as_slice(), v.unknown));
        let again = Vocabulary {
            tokens: out.tokens.iter().map(String::as_str).collect(),
            types: out.types.iter().map(|t| i64::from(*t)).collect(),
            scores: out.scores.iter().map(|s| f64::from(*s)).collect(),
            merges: out.merges.iter().map(String::as_str).collect(),
            ..v.clone()
        };
        let again = Tokenizer::from_vocabulary(&again, "x".as_ref()).unwrap();
        for text in cases.iter().take(300) {
            assert_eq!(again.encode(text).unwrap(), tokenizer.encode(text).unwrap(), "{name}: {text:?}");
        }
    }
    // What is saved is the same tokenizer.
    let dir = tempfile::tempdir().unwrap();
    tokenizer.save(dir.path()).unwrap();
    let again = Tokenizer::load(dir.path()).unwrap();
    assert_eq!((again.hash(), again.end_of_text()), (tokenizer.hash(), tokenizer.end_of_text()));
}

macro_rules! kinds {
    ($($test:ident $name:literal)*) => { $(
        #[test]
        fn $test() {
            check($name);
        }
    )* };
}
kinds! {
    gpt2 "gpt-2"
    smollm "smollm"
    llama3 "llama-bpe"
    qwen2 "qwen2"
    tekken "tekken"
    sentencepiece "sentencepiece"
    sentencepiece_without_prefix "sentencepiece-no-prefix"
    unigram "unigram"
    wordpiece "wordpiece"
}

#[test]
fn prompts_get_their_beginning_once() {
    let file = golden("vocab-sentencepiece.json");
    let tokenizer = Tokenizer::from_vocabulary(&vocabulary(&file), "x".as_ref()).unwrap();
    let ids = tokenizer.encode_prompt("the cat").unwrap();
    assert_eq!(ids[0], 1, "Llama's texts start with <s>");
    assert_eq!(ids[1..], tokenizer.encode("the cat").unwrap());
    let spelled = tokenizer.encode_prompt("<s>the cat").unwrap();
    assert_eq!(spelled.iter().filter(|&&id| id == 1).count(), 1);
    let without = Vocabulary { add_bos: Some(false), ..vocabulary(&file) };
    let tokenizer = Tokenizer::from_vocabulary(&without, "x".as_ref()).unwrap();
    assert!(!tokenizer.encode_prompt("the cat").unwrap().contains(&1));
    assert_eq!(tokenizer.decode(&tokenizer.encode("the  cat\n 日本 \u{1}").unwrap()).unwrap(), "the  cat\n 日本 \u{1}");
}

/// A vocabulary with marks for turns, as Gemma's.
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
    Tokenizer::from_vocabulary(&v, "x.gguf".as_ref()).unwrap()
}

#[test]
fn a_text_to_score_begins_once() {
    for add_bos in [true, false] {
        let tokenizer = turns(add_bos);
        assert_eq!((tokenizer.beginning().unwrap(), tokenizer.front().unwrap().len()), (Some(1), add_bos.into()));
        assert_eq!(tokenizer.encode_begun("ab").unwrap(), [1, 7, 6]);
        assert_eq!(tokenizer.encode_begun("<bos>ab").unwrap().iter().filter(|&&id| id == 1).count(), 1);
        assert_eq!(tokenizer.export(8).unwrap().bos, Some(1), "also where it is put in front of no prompt");
    }
    // Without a beginning the end of the text before; without either nothing.
    let tokenizer = Tokenizer::from_vocabulary(&tiny(), "x".as_ref()).unwrap();
    assert_eq!(tokenizer.encode_begun("ab").unwrap(), [3, 2]);
    assert_eq!(Tokenizer::bytes().encode_begun("ab").unwrap(), [97, 98]);
}

#[test]
fn a_text_inside_another_has_nothing_in_front() {
    let tokenizer = turns(true);
    let inside = |text: &str| tokenizer.encode_inside(text, true).unwrap().unwrap();
    assert_eq!((inside("ab"), inside(" ab"), inside("")), (vec![5, 6], vec![7, 6], vec![]));
    assert_eq!(inside("a<eos>"), [5, 2]);
    assert_eq!(tokenizer.encode("ab").unwrap(), [7, 6], "a text's beginning");
    assert_eq!(Tokenizer::bytes().encode_inside("ab", false).unwrap(), Some(vec![97, 98]));
}

#[test]
fn what_ends_and_names_there_are_survives_a_folder() {
    let named = |all: &[(&str, &str)]| -> TemplateTokens {
        all.iter().map(|(key, token)| (key.to_string(), token.to_string())).collect()
    };
    let tokens = named(&[("bos_token", "<bos>"), ("eos_token", "<eos>"), ("pad_token", "<unk>")]);
    for add_bos in [true, false] {
        let (tokenizer, dir) = (turns(add_bos), tempfile::tempdir().unwrap());
        tokenizer.save_with(dir.path(), &tokens).unwrap();
        std::fs::write(dir.path().join("chat_template.jinja"), "{{ bos_token }}").unwrap();
        let again = Tokenizer::load(dir.path()).unwrap();
        assert_eq!((again.ends(), again.beginning().unwrap()), (&[2, 3][..], Some(1)));
        assert_eq!(again.encode_prompt("ab").unwrap(), tokenizer.encode_prompt("ab").unwrap());
        // The tokenizer names one more, for what cannot be spelled.
        let unknown = named(&[("unk_token", "<unk>")]);
        let all: TemplateTokens = tokens.clone().into_iter().chain(unknown).collect();
        assert_eq!(ChatTemplate::load(dir.path()).unwrap().unwrap().tokens(), &all);
        assert_eq!(again.template_tokens().unwrap(), named(&[("bos_token", "<bos>"), ("eos_token", "<eos>")]));
        // A folder keeps no ends of the tokenizer that was there before.
        Tokenizer::bytes().with_end_of_text("<end>").save(dir.path()).unwrap();
        assert_eq!(Tokenizer::load(dir.path()).unwrap().ends(), [256]);
    }
}

/// The JSON of a file.
fn json(path: PathBuf) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

#[test]
fn special_tokens_are_named_as_they_were() {
    // As the files of BERT's first models, this one leaves their parts to their spellings.
    let v = Vocabulary {
        model: "bert",
        tokens: vec!["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "▁sea"],
        types: vec![3, 3, 3, 3, 3, 1],
        bos: Some(2),
        ..Vocabulary::default()
    };
    let dir = tempfile::tempdir().unwrap();
    Tokenizer::from_vocabulary(&v, "x".as_ref()).unwrap().save(dir.path()).unwrap();
    let said = json(dir.path().join("tokenizer_config.json"));
    for (i, key) in ["pad", "unk", "cls", "sep", "mask"].into_iter().enumerate() {
        assert_eq!(said[format!("{key}_token")], v.tokens[i], "{said}");
    }
    // The beginning in front of each text is [CLS], under one name.
    assert!(said.get("bos_token").is_none() && said.get("model_max_length").is_none(), "{said}");
    let out = Tokenizer::load(dir.path()).unwrap().export(6).unwrap();
    let found = [out.padding, out.unknown, out.class, out.separator, out.mask, out.bos];
    assert_eq!(found, [Some(0), Some(1), Some(2), Some(3), Some(4), Some(2)]);

    // What an older folder says in a file of its own; a newer one lists the added tokens.
    let (dir, again) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    Tokenizer::from_vocabulary(&tiny(), "x".as_ref()).unwrap().save(dir.path()).unwrap();
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    write("special_tokens_map.json", r#"{"pad_token": {"content": "<end>"}, "unk_token": "b"}"#);
    for (more, padding, unknown, longest) in [
        (r#""model_max_length": 512"#, 3, Some(1), Some(512)),
        // For transformers this is no limit.
        (r#""added_tokens_decoder": {}, "model_max_length": 1000000000000000019884624838656"#, 0, None, None),
    ] {
        write("tokenizer_config.json", &format!(r#"{{"pad_token": "a", "mask_token": "not there", {more}}}"#));
        let tokenizer = Tokenizer::load(dir.path()).unwrap();
        let out = tokenizer.export(4).unwrap();
        assert_eq!((out.padding, out.unknown, out.mask), (Some(padding), unknown, None), "{more}");
        tokenizer.save(again.path()).unwrap();
        let said = json(again.path().join("tokenizer_config.json"));
        assert_eq!(said["pad_token"], spelling(padding), "{said}");
        assert_eq!(said["model_max_length"].as_u64(), longest, "{said}");
    }
    // One that is no token of a file is none, and no reason to refuse the file.
    let odd = Vocabulary { padding: Some(4), mask: Some(u32::MAX), ..tiny() };
    let out = Tokenizer::from_vocabulary(&odd, "x".as_ref()).unwrap().export(4).unwrap();
    assert_eq!((out.padding, out.mask), (None, None));
}

/// A token of [`tiny`].
fn spelling(id: u32) -> &'static str {
    tiny().tokens[id as usize]
}

#[test]
fn ends_that_config_json_alone_has_are_read_and_kept() {
    let (dir, again) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    Tokenizer::characters("abcd".chars()).save(dir.path()).unwrap();
    let write = |name: &str, said: &str| {
        std::fs::write(dir.path().join(name), format!(r#"{{"eos_token_id": {said}}}"#)).unwrap();
    };
    for (said, ends) in [("1", vec![1u32]), ("[2, 0]", vec![2, 0]), ("null", vec![]), ("4", vec![])] {
        write("config.json", said);
        let tokenizer = Tokenizer::load(dir.path()).unwrap();
        assert_eq!(tokenizer.ends(), ends, "{said}");
        tokenizer.save(again.path()).unwrap();
        assert_eq!(Tokenizer::load(again.path()).unwrap().ends(), ends, "{said}");
        // By name an ordinary token would be a special one in Python.
        assert!(json(again.path().join("tokenizer_config.json")).get("eos_token").is_none(), "{said}");
        let kept = json(again.path().join("generation_config.json"));
        match ends[..] {
            [] => assert!(kept.get("eos_token_id").is_none(), "{said}: {kept}"),
            [end] => assert_eq!(kept["eos_token_id"], end),
            _ => assert_eq!(kept["eos_token_id"], serde_json::json!(ends)),
        }
    }
    write("config.json", "1");
    for (said, ends) in [("3", vec![3u32]), ("null", vec![])] {
        write("generation_config.json", said);
        assert_eq!(Tokenizer::load(dir.path()).unwrap().ends(), ends, "that file stands before");
    }
}

fn tiny() -> Vocabulary<'static> {
    Vocabulary {
        model: "gpt2",
        pre: Some("gpt-2"),
        tokens: vec!["a", "b", "ab", "<end>"],
        types: vec![1, 1, 1, 3],
        merges: vec!["a b"],
        ends: vec![3],
        ..Vocabulary::default()
    }
}

#[track_caller]
fn refused(v: &Vocabulary, part: &str) {
    let e = Tokenizer::from_vocabulary(v, "x.gguf".as_ref()).unwrap_err().to_string();
    assert!(e.contains(part) && e.contains("x.gguf"), "{e}");
}

#[test]
fn hostile_vocabularies_are_named() {
    assert_eq!(Tokenizer::from_vocabulary(&tiny(), "x".as_ref()).unwrap().encode("aab").unwrap(), [0, 2]);
    refused(&Vocabulary { tokens: vec![], ..tiny() }, "empty");
    refused(&Vocabulary { types: vec![1], ..tiny() }, "1 token types for 4 tokens");
    refused(&Vocabulary { scores: vec![0.0; 5], ..tiny() }, "5 scores");
    refused(&Vocabulary { tokens: vec!["a", "b", "ab", "a"], ..tiny() }, "tokens 0 and 3 are both \"a\"");
    refused(&Vocabulary { ends: vec![4], ..tiny() }, "special token 4");
    refused(&Vocabulary { bos: Some(u32::MAX), ..tiny() }, "special token 4294967295");
    refused(&Vocabulary { merges: vec!["a c"], ..tiny() }, "merge 0");
    refused(&Vocabulary { merges: vec!["ab"], ..tiny() }, "merge 0");
    refused(&Vocabulary { pre: Some("no-such-rule"), ..tiny() }, "no-such-rule");
    refused(&Vocabulary { pre: None, ..tiny() }, "tokenizer.ggml.pre");
    refused(&Vocabulary { model: "rwkv", ..tiny() }, "rwkv");
    let long = "x".repeat(5000);
    refused(&Vocabulary { tokens: vec!["a", "b", "ab", &long], ..tiny() }, "token 3 has 5000 bytes");
}

/// A byte token of a value outside a byte once wrote outside a table elsewhere.
#[test]
fn negative_and_malformed_byte_tokens_are_named() {
    for bad in ["<0x-1>", "<0x100>", "<0xZZ>", "<0x>", "", "A"] {
        let v = Vocabulary {
            model: "llama",
            tokens: vec!["<unk>", bad, "b", "c"],
            types: vec![2, 6, 1, 1],
            scores: vec![0.0; 4],
            merges: vec![],
            unknown: Some(0),
            ..tiny()
        };
        refused(&v, "is said to be a byte");
    }
}

#[test]
fn hostile_unigrams_are_named() {
    let v = || Vocabulary {
        model: "t5",
        tokens: vec!["<unk>", "▁a", "b", "<e>"],
        types: vec![2, 1, 1, 3],
        scores: vec![0.0, -1.0, -2.0, 0.0],
        merges: vec![],
        ..tiny()
    };
    let tokenizer = Tokenizer::from_vocabulary(&v(), "x".as_ref()).unwrap();
    assert_eq!(tokenizer.encode("ab").unwrap(), [1, 2]);
    refused(&Vocabulary { scores: vec![0.0, f64::NAN, 0.0, 0.0], ..v() }, "the score of token 1");
    refused(&Vocabulary { scores: vec![], ..v() }, "needs scores");
    refused(&Vocabulary { charsmap: vec![255; 8], ..v() }, "normalisation table");
    // A table whose links lead outside it.
    let mut table = 1024u32.to_le_bytes().to_vec();
    (0..256u32).for_each(|_| table.extend((1u32 << 28).to_le_bytes()));
    refused(&Vocabulary { charsmap: table, ..v() }, "leads to");
}

/// Every token is two others in every way.
#[test]
fn merges_of_many_gigabytes_are_refused() {
    let tokens: Vec<String> = (1..=1000).map(|n| "a".repeat(n)).collect();
    let v = |n: usize| Vocabulary {
        model: "llama",
        tokens: tokens[..n].iter().map(String::as_str).collect(),
        scores: vec![0.0; n],
        ..Vocabulary::default()
    };
    assert!(Tokenizer::from_vocabulary(&v(100), "x".as_ref()).is_ok());
    refused(&v(1000), "the merges that make tokens 0 to");
}

#[test]
fn unigrams_fall_back_on_bytes_and_read_them() {
    let bytes: Vec<String> = (0..256).map(|b| format!("<0x{b:02X}>")).collect();
    let v = Vocabulary {
        model: "t5",
        tokens: ["<unk>", "▁a", "b"].into_iter().chain(bytes.iter().map(String::as_str)).collect(),
        types: [2, 1, 1].into_iter().chain([6; 256]).collect(),
        scores: [0.0, -1.0, -2.0].into_iter().chain([-20.0; 256]).collect(),
        ..Vocabulary::default()
    };
    let tokenizer = Tokenizer::from_vocabulary(&v, "x".as_ref()).unwrap();
    let ids = tokenizer.encode("aéb a").unwrap();
    assert_eq!(ids, [1, 3 + 0xC3, 3 + 0xA9, 2, 1]);
    assert_eq!(tokenizer.decode(&ids).unwrap(), "aéb a");
    assert_eq!(tokenizer.bytes_within(ids[1]).unwrap().unwrap(), [0xC3]);
    assert_eq!(streamed(&mut StreamDecoder::new(&tokenizer), &ids), "aéb a");
    assert_eq!(streamed(&mut StreamDecoder::within(&tokenizer), &ids), " aéb a");
}

/// As `llm_tokenizer_ugm_session::normalize` of llama.cpp has it.
#[test]
fn spaces_of_unigrams_are_llama_cpps() {
    let v = |merged, prefix| Vocabulary {
        model: "t5",
        tokens: vec!["<unk>", "</s>", "▁", "a", "\n", "▁a"],
        types: vec![2, 3, 1, 1, 1, 1],
        scores: vec![0.0, 0.0, -2.0, -2.0, -2.0, -1.0],
        ends: vec![1],
        unknown: Some(0),
        remove_extra_whitespaces: Some(merged),
        add_space_prefix: Some(prefix),
        ..Vocabulary::default()
    };
    let of = |merged, prefix| Tokenizer::from_vocabulary(&v(merged, prefix), "x".as_ref()).unwrap();
    let cases: [(bool, bool, &str, &[u32]); 11] = [
        (true, true, "  a  a ", &[5, 5]),
        // Other white space is no space, and a mark that stands in a text is none in front of it.
        (true, true, "\na\n", &[2, 4, 3, 4]),
        (true, true, "▁a", &[2, 5]),
        (true, true, "  ", &[]),
        (true, false, "a", &[5]),
        (false, true, "a", &[5]),
        (false, true, " a", &[2, 5]),
        (false, true, "  ", &[2, 2]),
        (false, false, "a", &[3]),
        (false, false, " a", &[5]),
        (false, false, "a ", &[3, 2]),
    ];
    for (merged, prefix, text, ids) in cases {
        assert_eq!(of(merged, prefix).encode(text).unwrap(), ids, "{merged} {prefix} {text:?}");
    }
    // An end is put behind where the file does not say it.
    assert_eq!(of(true, true).encode_whole("a").unwrap(), [5, 1]);
    let without = Vocabulary { add_eos: Some(false), ..v(true, true) };
    assert_eq!(Tokenizer::from_vocabulary(&without, "x".as_ref()).unwrap().encode_whole("a").unwrap(), [5]);
    // The end is an entry of the model, and plain text spells none.
    assert!(!of(true, true).encode("a</s>a").unwrap().contains(&1));
    assert_eq!(of(true, true).encode_with_specials("a</s>a").unwrap(), [5, 1, 5]);
}

fn streamed(decoder: &mut StreamDecoder, ids: &[u32]) -> String {
    let pushed: String = ids.iter().map(|&id| decoder.push(id).unwrap()).collect();
    pushed + &decoder.finish().unwrap()
}

#[test]
fn bytes_that_are_no_character_take_no_text_with_them() {
    let v = Vocabulary {
        model: "llama",
        tokens: vec!["<unk>", "<0x0A>", "<0xF0>", "▁a", "▁"],
        types: vec![2, 6, 6, 1, 1],
        scores: vec![0.0; 5],
        unknown: Some(0),
        ..Vocabulary::default()
    };
    let tokenizer = Tokenizer::from_vocabulary(&v, "x".as_ref()).unwrap();
    let said = |ids: &[u32]| streamed(&mut StreamDecoder::new(&tokenizer), ids);
    assert_eq!(said(&[1, 2, 3]), "\n\u{FFFD} a");
    assert_eq!(said(&[2; 100]), "\u{FFFD}".repeat(100));
    // Only the first space is stripped, wherever it comes from.
    assert_eq!(said(&[3, 3]), "a a");
    assert_eq!(said(&[4, 3, 4]), " a ");
    assert_eq!(said(&[4, 2, 3]), "\u{FFFD} a");
    let mut decoder = StreamDecoder::new(&tokenizer);
    assert!(decoder.push(9).is_err());
    assert_eq!(decoder.push(3).unwrap(), "a", "unchanged by what it refused");
    // Tokens without bytes of their own are given out too, when they have ended as nothing for long.
    let tokens = vec!["[UNK]", "[CLS]", "[SEP]", "▁\u{FFFD}", "▁b"];
    let v = Vocabulary { model: "bert", tokens, ..Vocabulary::default() };
    let word = Tokenizer::from_vocabulary(&v, "x".as_ref()).unwrap();
    let mut ids = vec![3; 100];
    ids.push(4);
    let mut decoder = StreamDecoder::new(&word);
    assert!((0..4).any(|_| !decoder.push(3).unwrap().is_empty()));
    assert_eq!(streamed(&mut StreamDecoder::new(&word), &ids), word.decode(&ids).unwrap());
}

#[test]
fn marks_of_phi3_take_the_spaces_behind_them() {
    let v = |architecture| Vocabulary {
        architecture,
        model: "llama",
        tokens: vec!["<unk>", "<s>", "</s>", "▁", "a", "▁a", "<|endoftext|>", "<|user|>"],
        types: vec![2, 3, 4, 1, 1, 1, 3, 3],
        scores: vec![0.0; 8],
        bos: Some(1),
        ends: vec![6],
        unknown: Some(0),
        ..Vocabulary::default()
    };
    for architecture in [Some("phi3"), Some("llama"), None] {
        let tokenizer = Tokenizer::from_vocabulary(&v(architecture), "x".as_ref()).unwrap();
        let strips = architecture == Some("phi3");
        for (mark, id, stripped) in
            [("<|user|>", 7, strips), ("</s>", 2, strips), ("<|endoftext|>", 6, false), ("<s>", 1, false)]
        {
            let ids = tokenizer.encode_with_specials(&format!("{mark}  a")).unwrap();
            let kept: &[u32] = if stripped { &[5] } else { &[3, 3, 5] };
            assert_eq!(ids, [&[id], kept].concat(), "{architecture:?}: {mark}");
        }
        // And a folder made of it says so.
        assert_eq!(tokenizer.to_json().contains("\"rstrip\":true"), strips);
    }
    // With another algorithm a model of that architecture has other tokens.
    let other = Tokenizer::from_vocabulary(&Vocabulary { architecture: Some("phi3"), ..tiny() }, "x".as_ref()).unwrap();
    assert!(!other.to_json().contains("\"rstrip\":true"));
}

#[test]
fn a_decoder_begins_again_as_it_did() {
    let tokenizer = turns(false);
    for (mut decoder, said) in [(StreamDecoder::new(&tokenizer), "a a"), (StreamDecoder::within(&tokenizer), " a a")] {
        for _ in 0..3 {
            assert_eq!(streamed(&mut decoder, &[7, 7]), said);
        }
        // Also after a text of which nothing was left.
        assert_eq!(streamed(&mut decoder, &[4]), if said.starts_with(' ') { " " } else { "" });
        assert_eq!(streamed(&mut decoder, &[7, 7]), said);
    }
}

#[test]
fn no_letter_is_streamed_twice() {
    // WordPiece cleans each token by itself ...
    let tokens = vec!["[UNK]", "[CLS]", "[SEP]", "▁do", "▁n", "▁'", "▁t", "▁know"];
    let v = Vocabulary { model: "bert", tokens, ..Vocabulary::default() };
    let word = Tokenizer::from_vocabulary(&v, "x".as_ref()).unwrap();
    let ids = [3, 4, 5, 6, 7];
    assert_eq!(streamed(&mut StreamDecoder::new(&word), &ids), word.decode(&ids).unwrap());
    // ... but behind Fuse the whole text, when some of it is given out already.
    let file = serde_json::json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": null, "post_processor": null,
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Fuse"}, {"type": "WordPiece", "prefix": "##", "cleanup": true}]},
        "model": {"type": "WordLevel", "unk_token": "?",
                  "vocab": {"?": 0, "do": 1, " n": 2, " '": 3, " t": 4, " know": 5}},
    });
    let fused = Tokenizer::from_json(file.to_string(), "x".as_ref()).unwrap();
    let ids = [1, 2, 3, 4, 5];
    assert_eq!(fused.decode(&ids).unwrap(), "don't know");
    assert_eq!(streamed(&mut StreamDecoder::new(&fused), &ids), "do n 't know");
}

#[test]
fn a_text_loses_its_end_and_never_what_stands_around_it() {
    let v = Vocabulary {
        model: "bert",
        tokens: vec!["[PAD]", "[UNK]", "[CLS]", "[SEP]", "▁sea", "▁sail", "ing"],
        types: vec![3, 3, 3, 3, 1, 1, 1],
        ..Vocabulary::default()
    };
    let tokenizer = Tokenizer::from_vocabulary(&v, "x.gguf".as_ref()).unwrap();
    let within = |most: usize| tokenizer.encode_within("Sailing sea", most).unwrap();
    assert_eq!(within(9), (vec![2, 5, 6, 4, 3], false));
    assert_eq!(within(5), (vec![2, 5, 6, 4, 3], false));
    assert_eq!(within(4), (vec![2, 5, 6, 3], true));
    assert_eq!(within(2), (vec![2, 3], true));
    assert_eq!(within(0), (vec![2, 3], true));
    assert_eq!(tokenizer.encode_whole("Sailing sea").unwrap(), within(5).0);
    assert_eq!(tokenizer.encode_within("", 0).unwrap(), (vec![2, 3], false));
    let bytes = Tokenizer::bytes();
    assert_eq!(bytes.encode_within("abc", 2).unwrap(), (vec![97, 98], true));
}

/// Inside a text a token's bytes are always the same; at its beginning SentencePiece strips a space.
#[test]
fn tokens_have_their_bytes_inside_a_text() {
    let file = golden("vocab-sentencepiece.json");
    let pieces = Tokenizer::from_vocabulary(&vocabulary(&file), "x".as_ref()).unwrap();
    for text in ["the cat  sat", " 日本\n", "é\u{1}"] {
        let ids = pieces.encode(text).unwrap();
        let mut bytes: Vec<u8> = ids.iter().flat_map(|&id| pieces.bytes_within(id).unwrap().unwrap()).collect();
        assert_eq!(bytes.remove(0), b' ', "the one in front of a text");
        assert_eq!(String::from_utf8(bytes).unwrap(), text);
        let (mut start, mut within) = (StreamDecoder::new(&pieces), StreamDecoder::within(&pieces));
        let said = |d: &mut StreamDecoder| {
            let pushed: String = ids.iter().map(|&id| d.push(id).unwrap()).collect();
            pushed + &d.finish().unwrap()
        };
        assert_eq!((said(&mut start), said(&mut within)), (text.to_owned(), format!(" {text}")));
    }
    let ids = pieces.encode("the cat  sat").unwrap();
    let joined: String = ids.iter().map(|&id| pieces.piece(id).unwrap()).collect();
    assert_eq!(joined, " the cat  sat");
    assert_eq!((pieces.piece(1).unwrap(), Tokenizer::bytes().piece(0xC3).unwrap()), ("<s>".into(), "\u{FFFD}".into()));
    let bpe = Tokenizer::from_vocabulary(&tiny(), "x".as_ref()).unwrap();
    assert_eq!(bpe.bytes_within(2).unwrap().unwrap(), b"ab");
    assert_eq!(bpe.bytes_within(3).unwrap(), None, "a special token");
    assert!(bpe.bytes_within(4).unwrap_err().to_string().contains("token 4"));
    let letters = Tokenizer::characters("aé".chars()).with_end_of_text("<end>");
    assert_eq!(letters.bytes_within(1).unwrap().unwrap(), "é".as_bytes());
    assert_eq!((letters.bytes_within(2).unwrap(), letters.bytes_within(3).is_err()), (None, true));
    let bytes = Tokenizer::bytes().with_end_of_text("<end>");
    assert_eq!((bytes.bytes_within(255).unwrap(), bytes.bytes_within(256).unwrap()), (Some(vec![255]), None));
    let tokens = vec!["[UNK]", "[CLS]", "[SEP]", "▁a", "b"];
    let word = Tokenizer::from_vocabulary(&Vocabulary { model: "bert", tokens, ..Vocabulary::default() }, "x".as_ref());
    let word = word.unwrap();
    assert_eq!(word.piece(3).unwrap(), "a");
    let error = word.bytes_within(3).unwrap_err();
    assert!(error.to_string().contains("WordPiece") && error.hint().is_some(), "{error}");
}

#[test]
fn bytes_and_characters_go_into_a_file_and_come_back() {
    let text = "zebra ~ Q\n";
    for (tokenizer, all) in [(Tokenizer::bytes(), 256), (Tokenizer::characters(text.chars()), 9)] {
        let tokenizer = tokenizer.with_end_of_text("<end>");
        let out = tokenizer.export(all + 3).unwrap();
        assert_eq!(
            (out.tokens.len(), &out.types[all - 1..], out.ends.as_slice()),
            (all + 3, &[1, 3, 5, 5][..], &[all as u32][..])
        );
        let v = Vocabulary {
            model: out.model,
            pre: out.pre,
            tokens: out.tokens.iter().map(String::as_str).collect(),
            types: out.types.iter().map(|t| i64::from(*t)).collect(),
            ends: out.ends.clone(),
            ..Vocabulary::default()
        };
        let again = Tokenizer::from_vocabulary(&v, "x".as_ref()).unwrap();
        assert_eq!(again.encode(text).unwrap(), tokenizer.encode(text).unwrap());
        assert_eq!(again.decode(&again.encode(text).unwrap()).unwrap(), text);
        assert_eq!(again.ends(), tokenizer.ends());
        // What pads it is never chosen.
        assert_eq!((again.vocab_size(), again.choosable()), (all + 3, all + 1));
        assert_eq!(tokenizer.choosable(), tokenizer.vocab_size());
    }
    let wide = Tokenizer::characters("aü".chars()).export(2).unwrap_err();
    assert!(wide.to_string().contains("ü"), "{wide}");
}

#[test]
fn unused_tokens_at_the_end_alone_are_padding() {
    let choosable = |types: [i64; 6], ends: Vec<u32>| {
        let v = Vocabulary {
            model: "llama",
            tokens: vec!["<unk>", "▁", "a", "b", "c", "d"],
            types: types.to_vec(),
            scores: vec![0.0; 6],
            ends,
            ..Vocabulary::default()
        };
        let tokenizer = Tokenizer::from_vocabulary(&v, "x".as_ref()).unwrap();
        assert_eq!(tokenizer.vocab_size(), 6);
        // The copies that are made of it keep that.
        tokenizer.with_longest(9).with_ends(&[2]).choosable()
    };
    assert_eq!(choosable([2, 1, 1, 1, 1, 1], vec![]), 6);
    assert_eq!(choosable([2, 1, 5, 1, 5, 5], vec![]), 4);
    assert_eq!(choosable([2, 1, 5, 1, 5, 5], vec![4]), 5);
    assert_eq!(choosable([2, 1, 5, 1, 5, 1], vec![]), 6);
}
