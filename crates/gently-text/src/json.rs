//! `tokenizer.json` for the two kinds of tokenizer that need no learned vocabulary, and their recognition
//! when such a file is read back.
//!
//! Here: byte and character vocabularies as pipelines of the Hugging Face format, built so that Python's
//! `tokenizers` makes the same tokens; the byte-to-letter table of GPT-2. Not here: other pipelines, which
//! the `tokenizers` crate reads (see `pipeline`).

use serde_json::{Map, Value, json};

/// Splits before every character. `[\s\S]`, because "dot matches newline" is spelled differently in
/// Oniguruma (Python) and in Rust's engines.
const EVERY_CHARACTER: &str = r"[\s\S]";

/// What a `tokenizer.json` turned out to be.
pub(crate) enum Recognised {
    /// 256 bytes, token = byte; then special tokens.
    Bytes(Vec<(String, u32)>),
    /// Characters in token order; then special tokens.
    Characters(Vec<char>, Vec<(String, u32)>),
    /// Anything else.
    Other,
}

/// GPT-2's printable stand-in for each byte: the byte itself where it is a visible Latin-1 character,
/// else the next free letter from U+0100 (openai/gpt-2, `bytes_to_unicode`).
pub(crate) fn byte_letters() -> [char; 256] {
    let visible = |b: u8| matches!(b, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    let mut free = 0x100u32;
    std::array::from_fn(|b| {
        if visible(b as u8) {
            char::from(b as u8)
        } else {
            free += 1;
            char::from_u32(free - 1).unwrap_or(char::REPLACEMENT_CHARACTER)
        }
    })
}

fn added_tokens(specials: &[(String, u32)]) -> Value {
    specials
        .iter()
        .map(|(content, id)| {
            json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
                   "normalized": false, "special": true})
        })
        .collect()
}

/// The byte tokenizer as a BPE with no merges over GPT-2's byte letters.
pub(crate) fn bytes_json(specials: &[(String, u32)]) -> Value {
    let vocab: Map<String, Value> = byte_letters().iter().enumerate().map(|(b, c)| (c.to_string(), b.into())).collect();
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added_tokens(specials),
        "normalizer": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false},
        "post_processor": null,
        "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                  "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
                  "vocab": vocab, "merges": []},
    })
}

/// The character tokenizer as a word-level model over single characters. Its unknown token is not in the
/// vocabulary, so an unknown character is an error in Python too.
pub(crate) fn characters_json(chars: &[char], specials: &[(String, u32)]) -> Value {
    let vocab: Map<String, Value> = chars.iter().enumerate().map(|(i, c)| (c.to_string(), i.into())).collect();
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added_tokens(specials),
        "normalizer": null,
        "pre_tokenizer": {"type": "Split", "pattern": {"Regex": EVERY_CHARACTER}, "behavior": "Isolated",
                          "invert": false},
        "post_processor": null,
        "decoder": {"type": "Fuse"},
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "<unk>"},
    })
}

/// Recognises what [`bytes_json`] and [`characters_json`] write, whoever wrote it.
pub(crate) fn recognise(file: &Value) -> Recognised {
    try_recognise(file).unwrap_or(Recognised::Other)
}

fn try_recognise(file: &Value) -> Option<Recognised> {
    if !file["normalizer"].is_null() || !file["post_processor"].is_null() {
        return None;
    }
    let vocab = file["model"]["vocab"].as_object()?;
    let specials = special_tokens(file, vocab.len())?;
    let pre = &file["pre_tokenizer"];
    match file["model"]["type"].as_str()? {
        "BPE" => {
            let plain = file["model"]["merges"].as_array()?.is_empty()
                && pre["type"] == "ByteLevel"
                && pre["add_prefix_space"] == false
                && file["decoder"]["type"] == "ByteLevel"
                && vocab.len() == 256;
            let letters = byte_letters();
            let natural =
                || letters.iter().enumerate().all(|(b, c)| vocab.get(c.encode_utf8(&mut [0; 4])) == Some(&b.into()));
            (plain && natural()).then_some(Recognised::Bytes(specials))
        }
        "WordLevel" => {
            let plain = pre["type"] == "Split"
                && pre["pattern"]["Regex"] == EVERY_CHARACTER
                && pre["behavior"] == "Isolated"
                && file["decoder"]["type"] == "Fuse";
            if !plain {
                return None;
            }
            let mut chars = vec![None; vocab.len()];
            for (token, id) in vocab {
                let mut all = token.chars();
                let (Some(c), None) = (all.next(), all.next()) else { return None };
                let slot = chars.get_mut(usize::try_from(id.as_u64()?).ok()?)?;
                if slot.replace(c).is_some() {
                    return None;
                }
            }
            Some(Recognised::Characters(chars.into_iter().collect::<Option<_>>()?, specials))
        }
        _ => None,
    }
}

/// The added tokens when they are all special and follow the vocabulary without a gap.
fn special_tokens(file: &Value, from: usize) -> Option<Vec<(String, u32)>> {
    let Some(list) = file["added_tokens"].as_array() else { return Some(Vec::new()) };
    let mut specials = Vec::new();
    for (i, token) in list.iter().enumerate() {
        let id = u32::try_from(token["id"].as_u64()?).ok()?;
        if token["special"] != true || id as usize != from + i {
            return None;
        }
        specials.push((token["content"].as_str()?.to_owned(), id));
    }
    Some(specials)
}

/// A number that depends on the content of the JSON value but not on its layout or key order.
pub(crate) fn content_hash(value: &Value) -> u64 {
    let mut hasher = xxhash_rust::xxh3::Xxh3::new();
    feed(value, &mut hasher);
    hasher.digest()
}

fn feed(value: &Value, h: &mut xxhash_rust::xxh3::Xxh3) {
    // Each part is preceded by its tag and length, so that no two values feed the same bytes.
    let mut part = |tag: u8, bytes: &[u8]| {
        h.update(&[tag]);
        h.update(&(bytes.len() as u64).to_le_bytes());
        h.update(bytes);
    };
    match value {
        Value::Null => part(0, &[]),
        Value::Bool(b) => part(1, &[u8::from(*b)]),
        Value::Number(n) => part(2, n.to_string().as_bytes()),
        Value::String(s) => part(3, s.as_bytes()),
        Value::Array(a) => {
            part(4, &(a.len() as u64).to_le_bytes());
            a.iter().for_each(|v| feed(v, h));
        }
        Value::Object(o) => {
            part(5, &(o.len() as u64).to_le_bytes());
            let mut keys: Vec<_> = o.iter().collect();
            keys.sort_unstable_by_key(|(k, _)| *k);
            for (k, v) in keys {
                feed(&Value::String(k.clone()), h);
                feed(v, h);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn byte_letters_are_gpt2s() {
        let letters = byte_letters();
        assert_eq!(letters[b'A' as usize], 'A');
        assert_eq!(letters[b' ' as usize], 'Ġ');
        assert_eq!(letters[b'\n' as usize], 'Ċ');
        assert_eq!(letters[0], 'Ā');
        assert_eq!(letters[0xAD], 'Ń');
        let distinct: std::collections::HashSet<_> = letters.iter().collect();
        assert_eq!(distinct.len(), 256);
    }

    #[test]
    fn hash_ignores_layout_only() {
        let a: Value = serde_json::from_str(r#"{"a":1,"b":[true,null]}"#).unwrap();
        let b: Value = serde_json::from_str(r#"{ "b" : [true, null], "a" : 1 }"#).unwrap();
        let c: Value = serde_json::from_str(r#"{"a":1,"b":[null,true]}"#).unwrap();
        assert_eq!(content_hash(&a), content_hash(&b));
        assert_ne!(content_hash(&a), content_hash(&c));
    }
}
