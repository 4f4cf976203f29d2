//! Text in and out of a GGUF file: its tokenizer and its chat template.
//!
//! Here: the metadata keys under `tokenizer.`, joined to the text crate, which knows no files of this kind. Not here: the
//! model in the file (`gently_models::WeightSource`).

use crate::folder::Error;
use gently_formats::gguf::{Array, Gguf, Metadata, Value};
use gently_text::{ChatTemplate, TemplateTokens, Tokenizer, Vocabulary};

/// The keys of tokens that end a text, a turn, a message, in our order. There are no more.
const ENDS: [&str; 3] = ["eos_token_id", "eot_token_id", "eom_token_id"];

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
    let mut ends = Vec::new();
    for name in ENDS {
        ends.extend(id(name)?);
    }
    let vocabulary = Vocabulary {
        architecture: m.text_if("general.architecture")?,
        model: m.text(&key("model"))?,
        pre: m.text_if(&key("pre"))?,
        tokens: tokens.iter().collect(),
        types: m.ints_if(&key("token_type"))?.unwrap_or_default(),
        scores: m.reals_if(&key("scores"))?.unwrap_or_default(),
        merges: m.texts_if(&key("merges"))?.map(|t| t.iter().collect()).unwrap_or_default(),
        bos: id("bos_token_id")?,
        ends,
        unknown: id("unknown_token_id")?,
        // Spelled so in the format.
        separator: id("seperator_token_id")?,
        class: id("cls_token_id")?,
        add_bos: m.flag_if(&key("add_bos_token"))?,
        add_eos: m.flag_if(&key("add_eos_token"))?,
        add_space_prefix: m.flag_if(&key("add_space_prefix"))?,
        remove_extra_whitespaces: m.flag_if(&key("remove_extra_whitespaces"))?,
        charsmap: charsmap(m, &key("precompiled_charsmap"))?,
    };
    Ok(Tokenizer::from_vocabulary(&vocabulary, file.path())?)
}

/// The chat template of a file; `None` where it has none.
///
/// # Errors
/// Keys of the wrong type, a template that cannot be read.
pub fn chat_template(file: &Gguf) -> Result<Option<ChatTemplate>, Error> {
    let m = file.metadata();
    let Some(source) = m.text_if("tokenizer.chat_template")? else { return Ok(None) };
    let tokens = m.texts_if("tokenizer.ggml.tokens")?;
    let mut named = TemplateTokens::new();
    for (name, key) in [("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding"), ("sep", "seperator")] {
        if let Some(id) = token_id(m, &format!("tokenizer.ggml.{key}_token_id"))?
            && let Some(text) = tokens.and_then(|t| t.get(id as usize))
        {
            named.insert(format!("{name}_token"), text.to_owned());
        }
    }
    Ok(Some(ChatTemplate::new(source, named, file.path())?))
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

/// The keys of a GGUF file for a tokenizer and a chat template; `size` is the model's vocabulary.
///
/// # Errors
/// A tokenizer that has no form in GGUF.
pub fn tokenizer_keys(
    tokenizer: &Tokenizer,
    size: usize,
    chat: Option<&ChatTemplate>,
) -> Result<Vec<(String, Value)>, Error> {
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
    let more = [("seperator_token_id", e.separator), ("cls_token_id", e.class)];
    for (name, id) in ids.into_iter().chain(more) {
        if let Some(id) = id {
            put(name, Value::U32(id));
        }
    }
    ends.for_each(|(id, name)| put(name, Value::U32(id)));
    put("add_bos_token", Value::Bool(e.add_bos));
    put("add_eos_token", Value::Bool(e.add_eos));
    if let Some(prefix) = e.add_space_prefix {
        put("add_space_prefix", Value::Bool(prefix));
    }
    if let Some(chat) = chat {
        keys.push(("tokenizer.chat_template".into(), Value::Text(chat.source().into())));
    }
    Ok(keys)
}

/// The tokens that end a text or an answer and have no key in a GGUF file: those beyond the third.
pub fn ends_without_key(tokenizer: &Tokenizer) -> &[u32] {
    tokenizer.ends().get(ENDS.len()..).unwrap_or_default()
}
