//! Text in and out of a GGUF file: its tokenizer and its chat template.
//!
//! Here: the metadata keys under `tokenizer.`, joined to the text crate, which knows no files of this kind. Not here: the
//! model in the file (`gently_models::WeightSource`).

use crate::folder::Error;
use gently_formats::gguf::{Array, Gguf, Metadata, Texts, Value};
use gently_text::{TemplateText, TemplateTokens, Tokenizer, Vocabulary};

/// The keys of tokens that end a text, a turn, a message, in our order, and how such tokens are spelled where a file does not have
/// the key: most have the first alone, and llama.cpp goes by these (`llama_vocab::impl::load`). There are no more keys.
const ENDS: [(&str, &[&str]); 3] = [
    ("eos_token_id", &["<|endoftext|>", "</s>", "<|end_of_text|>", "<eos>"]),
    (
        "eot_token_id",
        &[
            "<|eot_id|>",
            "<|im_end|>",
            "<|end|>",
            "<end_of_turn>",
            "<|endoftext|>",
            "<|end_of_text|>",
            "<EOT>",
            "_<EOT>",
            "[EOT]",
            "<｜end▁of▁sentence｜>",
            "<end_of_utterance>",
        ],
    ),
    ("eom_token_id", &["<|eom_id|>"]),
];

/// A whole `tokenizer.json` in a file (ggml's `docs/gguf.md`).
const JSON: &str = "tokenizer.huggingface.json";

/// The tokenizer of a file.
///
/// # Errors
/// Keys missing or of the wrong type; a vocabulary that cannot be used, a rule for cutting text that is not known.
pub fn tokenizer(file: &Gguf) -> Result<Tokenizer, Error> {
    let m = file.metadata();
    let key = |name: &str| format!("tokenizer.ggml.{name}");
    let id = |name: &str| -> Result<Option<u32>, Error> { token_id(m, &key(name)) };
    let Some(tokens) = m.texts_if(&key("tokens"))? else {
        return Err(Error::Format(m.error(&key("tokens"), "it is missing")));
    };
    let types = m.ints_if(&key("token_type"))?.unwrap_or_default();
    let mut ends = Vec::new();
    for (name, spelled) in ENDS {
        match id(name)? {
            Some(id) => ends.push(id),
            None => ends.extend(marks(tokens, &types, spelled)),
        }
    }
    let model = m.text(&key("model"))?;
    let merges = m.texts_if(&key("merges"))?;
    if model == "gpt2" && merges.is_none() {
        return Err(Error::Format(m.error(&key("merges"), "it is missing: each byte would be a token")));
    }
    let vocabulary = Vocabulary {
        architecture: m.text_if("general.architecture")?,
        model,
        pre: m.text_if(&key("pre"))?,
        tokens: tokens.iter().collect(),
        types,
        scores: m.reals_if(&key("scores"))?.unwrap_or_default(),
        merges: merges.map(|t| t.iter().collect()).unwrap_or_default(),
        bos: id("bos_token_id")?,
        ends,
        unknown: id("unknown_token_id")?,
        // Spelled so in the format.
        separator: id("seperator_token_id")?,
        class: id("cls_token_id")?,
        padding: id("padding_token_id")?,
        mask: id("mask_token_id")?,
        add_bos: m.flag_if(&key("add_bos_token"))?,
        add_eos: m.flag_if(&key("add_eos_token"))?,
        add_space_prefix: m.flag_if(&key("add_space_prefix"))?,
        remove_extra_whitespaces: m.flag_if(&key("remove_extra_whitespaces"))?,
        charsmap: charsmap(m, &key("precompiled_charsmap"))?,
        lowercase: m.flag_if(&key("normalizer.lowercase"))?,
        strip_accents: m.flag_if(&key("normalizer.strip_accents"))?,
        json: m.text_if(JSON)?,
    };
    Ok(Tokenizer::from_vocabulary(&vocabulary, file.path())?)
}

/// The control and user-defined tokens that are spelled so, in the order of the spellings.
fn marks(tokens: &Texts, types: &[i64], spelled: &[&str]) -> Vec<u32> {
    let all = tokens.iter().zip(types).zip(0u32..);
    let marks: Vec<(&str, u32)> =
        all.filter(|((_, kind), _)| matches!(kind, 3 | 4)).map(|((t, _), id)| (t, id)).collect();
    spelled.iter().filter_map(|name| marks.iter().find(|(token, _)| token == name)).map(|&(_, id)| id).collect()
}

/// The chat template of a file; `None` where it has none.
///
/// # Errors
/// Keys of the wrong type, a template that cannot be read.
pub fn chat_template(file: &Gguf) -> Result<Option<TemplateText>, Error> {
    let m = file.metadata();
    let Some(source) = m.text_if("tokenizer.chat_template")? else { return Ok(None) };
    let tokens = m.texts_if("tokenizer.ggml.tokens")?;
    let mut named = TemplateTokens::new();
    let keys = ["bos", "eos", "unknown", "padding", "seperator", "cls", "mask"];
    for (name, key) in ["bos", "eos", "unk", "pad", "sep", "cls", "mask"].into_iter().zip(keys) {
        if let Some(id) = token_id(m, &format!("tokenizer.ggml.{key}_token_id"))?
            && let Some(text) = tokens.and_then(|t| t.get(id as usize))
        {
            named.insert(format!("{name}_token"), text.to_owned());
        }
    }
    Ok(Some(TemplateText { source: source.to_owned(), tokens: named, path: file.path().into() }))
}

/// A token's number; writers say "none" by a number that none has.
fn token_id(m: &Metadata, key: &str) -> Result<Option<u32>, Error> {
    match m.get(key).and_then(Value::as_int) {
        Some(-1) => Ok(None),
        Some(id) if id == i64::from(u32::MAX) => Ok(None),
        _ => match m.size_if(key)? {
            Some(id) => u32::try_from(id).map(Some).map_err(|_| m.error(key, "it is no token's number").into()),
            None => Ok(None),
        },
    }
}

/// Bytes, which writers have stored as either kind of byte.
fn charsmap(m: &Metadata, key: &str) -> Result<Vec<u8>, Error> {
    match m.get(key) {
        None => Ok(Vec::new()),
        Some(Value::Array(Array::U8(bytes))) => Ok(bytes.clone()),
        Some(Value::Array(Array::I8(bytes))) => Ok(bytes.iter().map(|b| *b as u8).collect()),
        Some(other) => Err(m.error(key, format!("it is {}, not bytes", other.kind())).into()),
    }
}

/// What goes into a file for a tokenizer.
pub struct TokenizerKeys {
    /// Keys and their values.
    pub keys: Vec<(String, Value)>,
    /// What only [`tokenizer`] reads of them, as it stands in a whole `tokenizer.json`: other programs do without.
    pub lost: Vec<&'static str>,
}

/// The keys of a GGUF file for a tokenizer and a chat template; `size` is the model's vocabulary.
///
/// # Errors
/// A tokenizer that has no form in GGUF.
pub fn tokenizer_keys(tokenizer: &Tokenizer, size: usize, chat: Option<&TemplateText>) -> Result<TokenizerKeys, Error> {
    let e = tokenizer.export(size)?;
    let mut keys = Vec::new();
    let mut put = |name: &str, value: Value| keys.push((format!("tokenizer.ggml.{name}"), value));
    put("model", Value::Text(e.model.into()));
    if let Some(pre) = e.pre {
        put("pre", Value::Text(pre.into()));
    }
    put("tokens", Value::Array(Array::Texts(e.tokens.iter().collect())));
    put("token_type", Value::Array(Array::I32(e.types)));
    if !e.scores.is_empty() {
        put("scores", Value::Array(Array::F32(e.scores)));
    }
    if e.model == "gpt2" {
        put("merges", Value::Array(Array::Texts(e.merges.iter().collect())));
    }
    let ends = e.ends.iter().copied().zip(ENDS);
    let ids = [("bos_token_id", e.bos), ("unknown_token_id", e.unknown)];
    let of_encoders = [("seperator_token_id", e.separator), ("cls_token_id", e.class), ("mask_token_id", e.mask)];
    for (name, id) in ids.into_iter().chain(of_encoders).chain([("padding_token_id", e.padding)]) {
        if let Some(id) = id {
            put(name, Value::U32(id));
        }
    }
    ends.for_each(|(id, (name, _))| put(name, Value::U32(id)));
    put("add_bos_token", Value::Bool(e.add_bos));
    put("add_eos_token", Value::Bool(e.add_eos));
    if let Some(prefix) = e.add_space_prefix {
        put("add_space_prefix", Value::Bool(prefix));
    }
    for (name, said) in [("normalizer.lowercase", e.lowercase), ("normalizer.strip_accents", e.strip_accents)] {
        if let Some(said) = said {
            put(name, Value::Bool(said));
        }
    }
    if let Some(json) = e.json {
        keys.push((JSON.into(), Value::Text(json)));
    }
    if let Some(chat) = chat {
        keys.push(("tokenizer.chat_template".into(), Value::Text(chat.source.clone())));
    }
    Ok(TokenizerKeys { keys, lost: e.lost })
}

/// The tokens that end a text or an answer and have no key in a GGUF file: those beyond the third.
pub fn ends_without_key(tokenizer: &Tokenizer) -> &[u32] {
    tokenizer.ends().get(ENDS.len()..).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use gently_formats::Limits;
    use gently_formats::gguf::Writer;
    use std::path::Path;

    /// A file of these keys alone.
    fn file(dir: &Path, keys: &[(String, Value)]) -> Gguf {
        let path = dir.join("x.gguf");
        Writer::create(&path, keys, &[]).unwrap().finish().unwrap();
        Gguf::open(&path, &Limits::default()).unwrap()
    }

    fn texts(all: &[&str]) -> Value {
        Value::Array(Array::Texts(all.iter().collect()))
    }

    /// Byte-level tokens with their types, and more keys.
    fn keys(tokens: &[(&str, i32)], more: &[(&str, Value)]) -> Vec<(String, Value)> {
        let spelled: Vec<&str> = tokens.iter().map(|t| t.0).collect();
        let types = tokens.iter().map(|t| t.1).collect();
        let fixed = [
            ("model", Value::Text("gpt2".into())),
            ("pre", Value::Text("gpt-2".into())),
            ("tokens", texts(&spelled)),
            ("token_type", Value::Array(Array::I32(types))),
        ];
        let named = |(name, value): (&str, Value)| (format!("tokenizer.ggml.{name}"), value);
        fixed.into_iter().chain(more.iter().cloned()).map(named).collect()
    }

    #[test]
    fn ends_without_a_key_are_found_by_their_spelling() {
        let dir = tempfile::tempdir().unwrap();
        let tokens =
            [("a", 1), ("<|endoftext|>", 3), ("<|im_end|>", 3), ("<|eom_id|>", 4), ("<|end|>", 1), ("</s>", 3)];
        let ends = |named: &[(&str, u32)]| {
            let named = named.iter().map(|(name, id)| (*name, Value::U32(*id)));
            let more: Vec<(&str, Value)> = named.chain([("merges", texts(&[]))]).collect();
            tokenizer(&file(dir.path(), &keys(&tokens, &more))).unwrap().ends().to_vec()
        };
        assert_eq!(ends(&[("eos_token_id", 1)]), [1, 2, 3], "what looks like one and is an ordinary token is none");
        assert_eq!(ends(&[("eos_token_id", 1), ("eot_token_id", 5)]), [1, 5, 3]);
        assert_eq!(ends(&[("eos_token_id", 5), ("eot_token_id", 2), ("eom_token_id", 2)]), [5, 2]);
        assert_eq!(ends(&[]), [1, 5, 2, 3], "the end of a text first");
    }

    #[test]
    fn byte_level_tokens_without_merges_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let error = tokenizer(&file(dir.path(), &keys(&[("a", 1)], &[]))).unwrap_err();
        let told = error.to_string();
        assert!(told.contains("tokenizer.ggml.merges") && told.contains("x.gguf"), "{told}");
        assert!(error.hint().is_some());
    }

    #[test]
    fn what_other_readers_do_without_comes_back() {
        let dir = tempfile::tempdir().unwrap();
        // é is its two bytes, in their letters; <b> takes the spaces behind it.
        let json = r#"{"version": "1.0", "truncation": null, "padding": null,
            "added_tokens": [{"id": 3, "content": "<b>", "single_word": false, "lstrip": false, "rstrip": true,
                "normalized": false, "special": true}],
            "normalizer": {"type": "NFC"},
            "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
            "post_processor": null,
            "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
            "model": {"type": "BPE", "vocab": {"e": 0, "Ã": 1, "©": 2}, "merges": []}}"#;
        let first = Tokenizer::from_json(json.to_owned(), Path::new("tokenizer.json")).unwrap();
        let text = tokenizer_keys(&first, 6, None).unwrap();
        assert!(text.lost.iter().any(|lost| lost.contains("NFC")), "{:?}", text.lost);
        assert!(text.lost.iter().any(|lost| lost.contains("rstrip")), "{:?}", text.lost);
        let again = tokenizer(&file(dir.path(), &text.keys)).unwrap();
        assert_eq!((again.hash(), again.ends()), (first.hash(), first.ends()));
        let ids = again.encode_with_specials("<b>  e\u{301}").unwrap();
        assert_eq!(ids, [3, 1, 2]);
        assert_eq!(first.encode_with_specials("<b>  e\u{301}").unwrap(), ids);

        // One that is not of these tokens is not believed.
        let mut other = text.keys.clone();
        for (key, value) in &mut other {
            if key == "tokenizer.ggml.tokens" {
                *value = texts(&["e", "Ã", "©", "<c>", "[PAD4]", "[PAD5]"]);
            }
        }
        let told = tokenizer(&file(dir.path(), &other)).unwrap_err().to_string();
        assert!(told.contains("x.gguf") && told.contains("\"<b>\""), "{told}");
    }

    #[test]
    fn capitals_and_accents_of_bert_are_kept_where_a_file_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let tokens = vec!["[PAD]", "[UNK]", "[CLS]", "[SEP]", "▁A", "▁a", "▁á", "▁Á"];
        for (lowercase, strip_accents, found) in [
            (None, None, [5, 5]),
            (Some(true), Some(false), [5, 6]),
            (Some(false), None, [4, 7]),
            (Some(false), Some(true), [4, 4]),
        ] {
            let (types, tokens) = (vec![3, 3, 3, 3, 1, 1, 1, 1], tokens.clone());
            let v = Vocabulary { model: "bert", tokens, types, lowercase, strip_accents, ..Vocabulary::default() };
            let first = Tokenizer::from_vocabulary(&v, Path::new("x")).unwrap();
            assert_eq!(first.encode("A Á").unwrap(), found, "{lowercase:?} {strip_accents:?}");
            let text = tokenizer_keys(&first, 8, None).unwrap();
            assert!(text.lost.is_empty(), "{:?}", text.lost);
            let again = tokenizer(&file(dir.path(), &text.keys)).unwrap();
            assert_eq!(again.encode("A Á").unwrap(), found, "{lowercase:?} {strip_accents:?}");
        }
    }
}
