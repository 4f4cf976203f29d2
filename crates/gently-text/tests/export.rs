//! What of a tokenizer goes into a GGUF file: an error where readers of it would make other tokens, told where they do without.

use gently_text::{Export, Tokenizer, Vocabulary};
use serde_json::{Value, json};

fn read(file: &Value) -> Tokenizer {
    Tokenizer::from_json(file.to_string(), "tokenizer.json".as_ref()).unwrap()
}

fn export(file: &Value) -> Export {
    read(file).export(0).unwrap()
}

#[track_caller]
fn refused(file: &Value, part: &str) {
    let told = read(file).export(0).unwrap_err().to_string();
    assert!(told.contains(part) && told.contains("has no form in a GGUF file"), "{told}");
}

/// Exported, with this told and the whole file kept.
#[track_caller]
fn told(file: &Value, part: &str) {
    let out = export(file);
    assert!(out.lost.iter().any(|lost| lost.contains(part)), "{part}: {:?}", out.lost);
    let kept: Value = serde_json::from_str(out.json.as_deref().unwrap()).unwrap();
    assert_eq!(&kept, file);
}

#[track_caller]
fn whole(file: &Value) {
    let out = export(file);
    assert_eq!((out.lost.as_slice(), out.json), (&[][..], None));
}

fn edited(file: &Value, edit: impl FnOnce(&mut Value)) -> Value {
    let mut file = file.clone();
    edit(&mut file);
    file
}

fn special(content: &str, id: u32) -> Value {
    json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
           "special": true})
}

/// A template with these tokens around a text.
fn around(front: &[(&str, u32)], behind: &[(&str, u32)]) -> Value {
    let token = |(name, _): &(&str, u32)| json!({"SpecialToken": {"id": name, "type_id": 0}});
    let text = json!({"Sequence": {"id": "A", "type_id": 0}});
    let single: Vec<Value> = front.iter().map(token).chain([text]).chain(behind.iter().map(token)).collect();
    let mut listed = json!({});
    for (name, id) in front.iter().chain(behind) {
        listed[*name] = json!({"id": name, "ids": [id], "tokens": [name]});
    }
    json!({"type": "TemplateProcessing", "single": single, "pair": single, "special_tokens": listed})
}

fn byte_level() -> Value {
    let level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [special("<e>", 4)],
        "normalizer": null, "pre_tokenizer": level, "post_processor": null, "decoder": level,
        "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2, "c": 3}, "merges": [["a", "b"]]},
    })
}

#[test]
fn bytes_with_more_than_bytes_are_refused_or_told() {
    let file = byte_level();
    whole(&file);
    refused(&edited(&file, |f| f["model"]["end_of_word_suffix"] = "</w>".into()), "end_of_word_suffix = \"</w>\"");
    let prefixed = |f: &mut Value| {
        f["model"]["continuing_subword_prefix"] = "##".into();
        f["model"]["merges"] = json!([]);
    };
    refused(&edited(&file, prefixed), "continuing_subword_prefix");
    refused(&edited(&file, |f| f["model"]["unk_token"] = "c".into()), "unknown token");
    told(&edited(&file, |f| f["normalizer"] = json!({"type": "NFC"})), "NFC");
    for key in ["lstrip", "rstrip", "single_word"] {
        told(&edited(&file, |f| f["added_tokens"][0][key] = true.into()), key);
    }
    // Without a normalisation it is found in the same places.
    whole(&edited(&file, |f| f["added_tokens"][0]["normalized"] = true.into()));
}

#[test]
fn more_around_a_text_than_its_beginning_and_end_is_refused() {
    let e = ("<e>", 4);
    let file = |front: &[_], behind: &[_]| edited(&byte_level(), |f| f["post_processor"] = around(front, behind));
    refused(&file(&[e, e], &[]), "2 tokens in front");
    refused(&file(&[e], &[e, e]), "2 behind");
    refused(&file(&[], &[e]), "\"<e>\" behind a text");
    let ended = read(&file(&[e], &[e])).with_ends(&[4]).export(0).unwrap();
    assert_eq!((ended.bos, ended.add_bos, ended.add_eos, ended.lost.len()), (Some(4), true, true, 0));
}

#[test]
fn added_tokens_have_the_numbers_that_they_have_here() {
    let file = |last: u32| edited(&byte_level(), |f| f["model"]["vocab"]["c"] = last.into());
    // The library counts on from the number of tokens, not from the greatest; the file says 4 in any case.
    let declared = edited(&file(9), |f| f["added_tokens"][0]["id"] = 10.into());
    let (tokenizer, out) = (read(&declared), export(&declared));
    assert_eq!(tokenizer.encode_with_specials("<e>").unwrap(), [4]);
    assert_eq!((out.tokens[4].as_str(), out.types[4]), ("<e>", 3));
    assert_eq!((out.tokens[9].as_str(), &out.types[5..]), ("c", &[5, 5, 5, 5, 1][..]));
    refused(&file(4), "token 4, which is both \"c\" and \"<e>\"");
}

/// SentencePiece, its merges as scores say them.
fn pieces() -> Value {
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [special("<unk>", 0)],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
        "pre_tokenizer": null, "post_processor": null,
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "ByteFallback"}, {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "model": {"type": "BPE", "unk_token": "<unk>", "fuse_unk": true, "byte_fallback": false,
                  "vocab": {"<unk>": 0, "▁": 1, "a": 2, "b": 3, "c": 4, "ab": 5, "bc": 6, "abc": 7},
                  "merges": [["a", "b"], ["b", "c"], ["a", "bc"], ["ab", "c"]]},
    })
}

#[test]
fn what_sentencepiece_cannot_be_is_refused_or_told() {
    let file = pieces();
    whole(&file);
    refused(&edited(&file, |f| f["normalizer"] = json!({"type": "Prepend", "prepend": "▁"})), "do not become ▁");
    refused(&edited(&file, |f| f["normalizer"] = Value::Null), "do not become ▁");
    refused(&edited(&file, |f| f["model"]["byte_fallback"] = true.into()), "0 of which are tokens");
    refused(&edited(&file, |f| f["model"]["vocab"]["<0x0A>"] = 8.into()), "no letter falls back on");
    refused(&edited(&file, |f| f["model"]["end_of_word_suffix"] = "</w>".into()), "end_of_word_suffix");
    told(&edited(&file, |f| f["model"]["fuse_unk"] = false.into()), "fuse_unk");
    told(&edited(&file, |f| f["model"]["ignore_merges"] = true.into()), "ignore_merges");
    told(&edited(&file, |f| f["decoder"] = json!({"type": "Fuse"})), "decoder");
    let metaspace = |scheme: &str| {
        edited(&file, |f| {
            f["normalizer"] = Value::Null;
            f["pre_tokenizer"] =
                json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": false});
        })
    };
    told(&metaspace("first"), "Metaspace");
    told(&metaspace("always"), "Metaspace");
    let without_strip = |f: &mut Value| drop(f["decoder"]["decoders"].as_array_mut().unwrap().pop());
    whole(&edited(&metaspace("never"), without_strip));
}

#[test]
fn merges_that_scores_do_not_say_are_refused_or_told() {
    let with = |merges: Value| edited(&pieces(), |f| f["model"]["merges"] = merges);
    // As they are learnt, one for each token; what is left out hardly ever matters.
    told(&with(json!([["a", "b"], ["b", "c"], ["ab", "c"]])), "merged");
    // Of one token, the same in another order.
    told(&with(json!([["a", "b"], ["b", "c"], ["ab", "c"], ["a", "bc"]])), "merged");
    refused(&with(json!([["b", "c"], ["a", "b"], ["ab", "c"]])), "\"abc\" is never made");
    refused(&with(json!([["a", "bc"], ["b", "c"], ["a", "b"], ["ab", "c"]])), "comes back to \"abc\"");
    // An added token has no merges in the form; Gemma has such ones for runs of spaces.
    let added = edited(&pieces(), |f| {
        f["added_tokens"] = json!([special("<unk>", 0), special("abc", 7)]);
        f["added_tokens"][1]["special"] = false.into();
    });
    told(&added, "merged");
}

/// SentencePiece with runs of a letter that have one score, as Llama's spaces have.
fn runs() -> Value {
    edited(&pieces(), |f| {
        f["model"]["vocab"] = json!({"<unk>": 0, "▁": 1, "aa": 2, "aaaa": 3, "aaa": 4, "a": 5, "▁a": 6});
        // By score, then by number.
        f["model"]["merges"] =
            json!([["▁", "a"], ["aa", "aa"], ["aa", "a"], ["aaa", "a"], ["a", "aa"], ["a", "aaa"], ["a", "a"]]);
    })
}

#[test]
fn merges_of_one_score_survive() {
    let file = runs();
    whole(&file);
    let out = export(&file);
    assert_eq!(out.scores[3], out.scores[4], "merges between one another's have one score");
    assert!(out.scores[6] > out.scores[3] && out.scores[3] > out.scores[2], "{:?}", out.scores);
    let again = Vocabulary {
        model: out.model,
        tokens: out.tokens.iter().map(String::as_str).collect(),
        types: out.types.iter().map(|kind| i64::from(*kind)).collect(),
        scores: out.scores.iter().map(|score| f64::from(*score)).collect(),
        unknown: out.unknown,
        add_bos: Some(false),
        ..Vocabulary::default()
    };
    let again = Tokenizer::from_vocabulary(&again, "x.gguf".as_ref()).unwrap();
    let merges = |of: &Tokenizer| serde_json::from_str::<Value>(&of.to_json()).unwrap()["model"]["merges"].clone();
    assert_eq!(merges(&again), merges(&read(&file)));

    // By length, as transformers orders them: runs are cut alike all the same.
    let by_length = json!([["▁", "a"], ["aaa", "a"], ["aa", "aa"], ["aa", "a"], ["a", "aaa"], ["a", "aa"], ["a", "a"]]);
    told(&edited(&file, |f| f["model"]["merges"] = by_length), "merged");
    // Three are made before four are: six letters become two tokens of three.
    let threes = json!([["▁", "a"], ["aa", "a"], ["a", "aaa"], ["a", "a"], ["a", "aa"], ["aa", "aa"], ["aaa", "a"]]);
    refused(&edited(&file, |f| f["model"]["merges"] = threes), "comes back to \"aaa\"");
}

fn words() -> Value {
    json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [special("[UNK]", 0), special("[CLS]", 1), special("[SEP]", 2)],
        "normalizer": {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
                       "strip_accents": null, "lowercase": true},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": around(&[("[CLS]", 1)], &[("[SEP]", 2)]),
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true},
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                  "max_input_chars_per_word": 100,
                  "vocab": {"[UNK]": 0, "[CLS]": 1, "[SEP]": 2, "a": 3, "##b": 4}},
    })
}

#[test]
fn what_berts_words_cannot_be_is_refused_or_told() {
    let file = words();
    whole(&file);
    let said = |lowercase: bool, strip: Value| {
        let out = export(&edited(&file, |f| {
            f["normalizer"]["lowercase"] = lowercase.into();
            f["normalizer"]["strip_accents"] = strip;
        }));
        (out.lowercase, out.strip_accents)
    };
    assert_eq!(said(true, Value::Null), (Some(true), None));
    assert_eq!(said(false, true.into()), (Some(false), Some(true)));
    for key in ["clean_text", "handle_chinese_chars"] {
        refused(&edited(&file, |f| f["normalizer"][key] = false.into()), key);
    }
    refused(&edited(&file, |f| f["normalizer"] = json!({"type": "NFC"})), "BERT's normalisation");
    refused(&edited(&file, |f| f["pre_tokenizer"] = json!({"type": "WhitespaceSplit"})), "another cut");
    refused(&edited(&file, |f| f["model"]["max_input_chars_per_word"] = 10.into()), "10 letters");
    refused(&edited(&file, |f| f["post_processor"] = Value::Null), "without a token in front");
    refused(&edited(&file, |f| f["post_processor"] = around(&[("[CLS]", 1)], &[])), "one behind");
    told(&edited(&file, |f| f["decoder"]["cleanup"] = false.into()), "decoder");
}
