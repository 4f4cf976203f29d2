//! What the parts of a pipeline would do to a text: checked before the library runs them.
//!
//! Here: how much longer a text may become, and settings at which the library panics. The parts are read as the library
//! understood them, not as a file spells them, since it also takes parts whose type is missing or wrong. Not here: the
//! links of the normalisation table (`charsmap`) and the merges of the model (`pipeline`).

use crate::charsmap;
use serde_json::Value;
use tokenizers::{NormalizerWrapper, Tokenizer};

/// How many bytes a byte of text may become, by one step after another.
const MOST_GROWTH: usize = 1 << 10;
/// How many tokens may stand around a text; published tokenizers have up to four.
const MOST_AROUND: usize = 1 << 10;

/// Refuses what would fill the memory or panic. Gives the decoder, as JSON.
pub(crate) fn check(tokenizer: &Tokenizer) -> Result<Value, String> {
    let read = |part: serde_json::Result<Value>| part.map_err(|e| e.to_string());
    let normalizer = read(serde_json::to_value(tokenizer.get_normalizer()))?;
    let pre_tokenizer = read(serde_json::to_value(tokenizer.get_pre_tokenizer()))?;
    let post_processor = read(serde_json::to_value(tokenizer.get_post_processor()))?;
    let decoder = read(serde_json::to_value(tokenizer.get_decoder()))?;
    for (name, part) in [("normalizer", &normalizer), ("pre_tokenizer", &pre_tokenizer), ("decoder", &decoder)] {
        check_growth(name, part)?;
    }
    if steps(&pre_tokenizer).iter().any(|s| s["type"] == "FixedLength" && s["length"].as_u64() == Some(0)) {
        return Err("its pre_tokenizer cuts text into pieces of no length (FixedLength)".into());
    }
    // It looks for as many letters as are to be cut also in a token that has fewer.
    if steps(&decoder).iter().any(|s| s["type"] == "Strip" && s["stop"].as_u64() != Some(0)) {
        return Err("its decoder cuts the ends of tokens (Strip with a stop other than 0), which may have none".into());
    }
    check_around(&post_processor)?;
    Ok(decoder)
}

/// As [`check`], of a file's normalizer alone: the library runs it on added tokens while it reads the file.
pub(crate) fn check_normalizer(spelled: &Value) -> Result<(), String> {
    let understood: Option<NormalizerWrapper> = serde_json::from_value(spelled.clone()).map_err(|e| e.to_string())?;
    check_growth("normalizer", &serde_json::to_value(understood).map_err(|e| e.to_string())?)
}

fn check_growth(name: &str, part: &Value) -> Result<(), String> {
    if steps(part).into_iter().fold(1usize, |n, step| n.saturating_mul(growth(step))) > MOST_GROWTH {
        return Err(format!("its {name} may make a text more than {MOST_GROWTH} times as long"));
    }
    Ok(())
}

/// A part, or the parts in a sequence of them.
fn steps(part: &Value) -> Vec<&Value> {
    let keys = ["normalizers", "pretokenizers", "decoders", "processors"];
    match keys.into_iter().find_map(|key| part[key].as_array()) {
        Some(all) => all.iter().flat_map(steps).collect(),
        None if part.is_null() => Vec::new(),
        None => vec![part],
    }
}

/// How many bytes a byte of text may become by one step.
fn growth(step: &Value) -> usize {
    let bytes = |key: &str| step[key].as_str().map_or(0, str::len);
    match step["type"].as_str() {
        Some("Replace") => match step["pattern"]["String"].as_str().map(str::len) {
            Some(pattern @ 1..) => bytes("content").div_ceil(pattern).max(1),
            // Of a pattern that may match nothing there is one more between any two letters.
            _ => bytes("content").saturating_add(1),
        },
        Some("Prepend") => bytes("prepend").saturating_add(1),
        // The key of a replacement has a byte or more. Published tables have replacements of up to 33 bytes.
        Some("Precompiled") => match step["precompiled_charsmap"].as_str().map(charsmap::check_text) {
            Some(Ok(longest)) => longest.max(1),
            _ => usize::MAX,
        },
        // The greatest factors in UTF-8, by Unicode's Annex 15: ΐ of 2 bytes has 6, ﷺ of 3 has 33.
        Some("NFC" | "NFD") => 3,
        Some("NFKC" | "NFKD") => 11,
        // NFD, and a space on each side of a Chinese character of three bytes.
        Some("BertNormalizer") => 5,
        // A byte becomes a letter of up to two; a piece may be one byte and gets a space in front, of two.
        Some("ByteLevel") if step["add_prefix_space"] == true => 4,
        Some("ByteLevel") => 2,
        // A piece of one byte gets a mark of up to four.
        Some("Metaspace") => 5,
        // What they look for may be nothing, which is between any two letters and outside.
        Some("CTC" | "BPEDecoder") => 3,
        _ => 1,
    }
}

/// The library panics at templates with a second text, with special tokens that are not listed, and one after another.
fn check_around(post_processor: &Value) -> Result<(), String> {
    let templates = steps(post_processor).into_iter().filter(|step| step["type"] == "TemplateProcessing");
    for (i, template) in templates.enumerate() {
        if i > 0 {
            return Err("its post_processor has one template after another".into());
        }
        let (mut texts, mut around) = (0, 0);
        for piece in template["single"].as_array().into_iter().flatten() {
            if let Some(name) = piece["SpecialToken"]["id"].as_str() {
                let Some(ids) = template["special_tokens"][name]["ids"].as_array() else {
                    return Err(format!("its post_processor puts {name:?} around a text and does not list it"));
                };
                around += ids.len();
            } else if piece["Sequence"]["id"] == "A" {
                texts += 1;
            } else {
                return Err("its post_processor puts a second text beside a single one".into());
            }
        }
        if texts != 1 {
            return Err(format!("its post_processor gives a single text {texts} times"));
        }
        if around > MOST_AROUND {
            return Err(format!("its post_processor puts more than {MOST_AROUND} tokens around a text"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::Tokenizer;
    use serde_json::{Value, json};

    fn read(part: &str, step: &Value) -> Result<Tokenizer, String> {
        let mut file = json!({
            "version": "1.0",
            "added_tokens": [{"id": 3, "content": "aaaa", "single_word": false, "lstrip": false, "rstrip": false,
                              "normalized": true, "special": false}],
            "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": []},
        });
        file[part] = step.clone();
        Tokenizer::from_json(file.to_string(), "tokenizer.json".as_ref()).map_err(|e| e.to_string())
    }

    #[track_caller]
    fn refused(part: &str, step: Value, why: &str) {
        let said = read(part, &step).unwrap_err();
        assert!(said.contains("tokenizer.json") && said.contains(why), "{step}: {said}");
    }

    #[test]
    fn every_step_that_grows_counts() {
        let many = |n: usize, step: Value| json!({"type": "Sequence", "normalizers": vec![step; n]});
        // Steps of no type, and of another, are what their fields say.
        let untyped = json!({"pattern": {"String": "a"}, "content": "aa"});
        let mistyped = json!({"type": "Strange", "pattern": {"String": "a"}, "content": "aa"});
        for step in [untyped, mistyped, json!({"type": "ByteLevel"}), json!({"type": "NFKC"})] {
            assert!(read("normalizer", &many(2, step.clone())).is_ok(), "{step}");
            refused("normalizer", many(40, step), "its normalizer may make a text");
        }
        let level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false});
        let levels = json!({"type": "Sequence", "pretokenizers": vec![level; 11]});
        refused("pre_tokenizer", levels, "its pre_tokenizer may make a text");
        // ALBERT's, with the longest replacement of its table.
        let table = |replacement: &str| {
            let mut table = 1024u32.to_le_bytes().to_vec();
            // The root leads to unit 97, the letter a, and that to the value in unit 96.
            let unit = |i: u32| match i {
                97 => 0x561,
                96 => 1 << 31,
                _ => 0u32,
            };
            (0..256).for_each(|i| table.extend(unit(i).to_le_bytes()));
            table.extend(replacement.as_bytes());
            table.push(0);
            json!({"type": "Precompiled", "precompiled_charsmap": crate::charsmap::base64(&table)})
        };
        let replace = |pattern: Value| json!({"type": "Replace", "pattern": pattern, "content": " "});
        let usual = [
            replace(json!({"String": "``"})),
            json!({"type": "NFKD"}),
            json!({"type": "StripAccents"}),
            json!({"type": "Lowercase"}),
            table(&"x".repeat(33)),
            replace(json!({"Regex": " {2,}"})),
        ];
        assert!(read("normalizer", &json!({"type": "Sequence", "normalizers": usual})).is_ok());
        refused("normalizer", table(&"x".repeat(2000)), "its normalizer may make a text");
        // A table does what it says: a becomes ab.
        let tokenizer = read("normalizer", &table("ab")).unwrap();
        assert_eq!(tokenizer.encode("a").unwrap(), [0, 1]);
    }

    #[test]
    fn what_the_library_would_panic_at_is_named() {
        for table in [Value::Null, 7.into(), "Zg".into(), "####".into()] {
            let step = json!({"type": "Precompiled", "precompiled_charsmap": table});
            refused("normalizer", step, "normalisation table");
        }
        refused("normalizer", json!({"type": "Precompiled"}), "normalisation table");
        refused("pre_tokenizer", json!({"type": "FixedLength", "length": 0}), "FixedLength");
        assert!(read("pre_tokenizer", &json!({"type": "FixedLength", "length": 1})).is_ok());
        let strip = |stop: usize| {
            let strip = json!({"type": "Strip", "content": "a", "start": 0, "stop": stop});
            json!({"type": "Sequence", "decoders": [{"type": "Fuse"}, strip]})
        };
        refused("decoder", strip(2), "Strip");
        assert_eq!(read("decoder", &strip(0)).unwrap().decode(&[0]).unwrap(), "a");
    }

    #[test]
    fn templates_name_what_they_list() {
        let a = || json!({"Sequence": {"id": "A", "type_id": 0}});
        let special = || json!({"SpecialToken": {"id": "b", "type_id": 0}});
        let template = |single: Vec<Value>, ids: Value| {
            json!({"type": "TemplateProcessing", "single": single, "pair": [],
                   "special_tokens": {"b": {"id": "b", "ids": ids, "tokens": ["b"]}}})
        };
        let good = template(vec![special(), a()], json!([1]));
        assert_eq!(read("post_processor", &good).unwrap().encode_whole("a").unwrap(), [1, 0]);
        let twice = json!({"type": "Sequence", "processors": [good.clone(), good]});
        refused("post_processor", twice, "one template after another");
        let other = json!({"SpecialToken": {"id": "c", "type_id": 0}});
        refused("post_processor", template(vec![other, a()], json!([1])), "\"c\" around a text");
        let second = json!({"Sequence": {"id": "B", "type_id": 1}});
        refused("post_processor", template(vec![a(), second], json!([1])), "a second text");
        refused("post_processor", template(vec![a(), a()], json!([1])), "a single text 2 times");
        refused("post_processor", template(vec![a(), special()], vec![1; 2000].into()), "more than 1024 tokens");
    }
}
