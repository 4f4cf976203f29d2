//! A tokenizer as the vocabulary of a GGUF file: what [`crate::Vocabulary`] reads, written.
//!
//! Here: the way back from `tokenizer.json`. What the GGUF form cannot say (another rule for cutting text, another
//! normalisation) is an error, but for two things that published models have and that are dropped: NFC in front of byte-level
//! BPE (Qwen), which readers of GGUF files do without, and whether an added token takes the spaces beside it or stands for
//! whole words only (`lstrip`, `rstrip`, `single_word`), which they know by a model's name or architecture (Phi-3) or not at
//! all.

use crate::json::byte_letters;
use crate::split;
use crate::vocabulary::byte_of;
use crate::{Error, Kind, Result, Tokenizer};
use serde_json::Value;
use std::collections::HashMap;

const SPACE: &str = "▁";
/// A rule for cutting text that every reader knows.
const ANY_CUT: &str = "gpt-2";

/// A vocabulary ready to be written; the fields are those of [`crate::Vocabulary`].
#[derive(Debug, Clone, PartialEq, Default)]
#[allow(missing_docs)]
pub struct Export {
    pub model: &'static str,
    pub pre: Option<&'static str>,
    pub tokens: Vec<String>,
    pub types: Vec<i32>,
    pub scores: Vec<f32>,
    pub merges: Vec<String>,
    pub bos: Option<u32>,
    pub ends: Vec<u32>,
    pub unknown: Option<u32>,
    pub separator: Option<u32>,
    pub class: Option<u32>,
    pub add_bos: bool,
    pub add_eos: bool,
    pub add_space_prefix: Option<bool>,
}

impl Tokenizer {
    /// The vocabulary for a GGUF file, filled up to `size` tokens with unused ones: models pad theirs.
    ///
    /// # Errors
    /// [`Error::Pipeline`] naming the part of the tokenizer that has no GGUF form.
    pub fn export(&self, size: usize) -> Result<Export> {
        let file: Value = serde_json::from_str(&self.to_json()).map_err(Error::pipeline)?;
        let model = &file["model"];
        let mut out = match model["type"].as_str() {
            Some("BPE") if is_byte_level(&file["decoder"]) => byte_level(&file)?,
            Some("BPE") => sentencepiece(&file)?,
            Some("WordPiece") => wordpiece(&file)?,
            Some("WordLevel") if self.kind() == Kind::Characters => characters(&file)?,
            Some(other) => return Err(none(format!("a {other} model"))),
            None => return Err(none("a model without a type")),
        };
        for i in out.tokens.len()..size {
            out.tokens.push(format!("[PAD{i}]"));
            out.types.push(5);
            out.scores.extend((!out.scores.is_empty()).then_some(-1e4));
        }
        let (front, behind) = self.around()?;
        (out.add_bos, out.add_eos) = (!front.is_empty(), !behind.is_empty());
        // Templates and scores use a beginning that is put in front of no prompt, too.
        out.bos = front.first().copied().or(self.start());
        out.ends = self.ends().to_vec();
        if out.model == "bert" {
            (out.class, out.separator) = (front.first().copied(), behind.first().copied());
        }
        Ok(out)
    }
}

fn none(what: impl std::fmt::Display) -> Error {
    Error::Pipeline { reason: format!("{what} has no form in a GGUF file") }
}

fn is_byte_level(decoder: &Value) -> bool {
    parts(decoder, "decoders").iter().any(|d| d["type"] == "ByteLevel")
}

/// A part, or the parts of a sequence of them.
fn parts<'v>(value: &'v Value, name: &str) -> Vec<&'v Value> {
    match value["type"].as_str() {
        Some("Sequence") => value[name].as_array().into_iter().flatten().flat_map(|v| parts(v, name)).collect(),
        Some(_) => vec![value],
        None => Vec::new(),
    }
}

/// Tokens by number with their types: those of the model and those added.
fn tokens(file: &Value) -> Result<(Vec<String>, Vec<i32>)> {
    let mut tokens: Vec<Option<String>> = Vec::new();
    let mut put = |id: u64, token: &str| -> Result<usize> {
        let id =
            usize::try_from(id).ok().filter(|id| *id < 1 << 24).ok_or_else(|| none(format!("token number {id}")))?;
        if id >= tokens.len() {
            tokens.resize(id + 1, None);
        }
        tokens[id] = Some(token.to_owned());
        Ok(id)
    };
    for (token, id) in file["model"]["vocab"].as_object().into_iter().flatten() {
        put(id.as_u64().unwrap_or(u64::MAX), token)?;
    }
    let mut special = HashMap::new();
    for added in file["added_tokens"].as_array().into_iter().flatten() {
        let id = put(added["id"].as_u64().unwrap_or(u64::MAX), added["content"].as_str().unwrap_or_default())?;
        special.insert(id, if added["special"] == true { 3 } else { 4 });
    }
    let unknown = file["model"]["unk_token"].as_str();
    let bytes = file["model"]["byte_fallback"] == true;
    let kind = |(id, token): (usize, &Option<String>)| match token {
        None => 5,
        Some(t) if Some(t.as_str()) == unknown => 2,
        Some(t) if bytes && byte_of(t).is_some() => 6,
        Some(_) => special.get(&id).copied().unwrap_or(1),
    };
    let types = tokens.iter().enumerate().map(kind).collect();
    let named = |(id, token): (usize, Option<String>)| token.unwrap_or_else(|| format!("[PAD{id}]"));
    Ok((tokens.into_iter().enumerate().map(named).collect(), types))
}

fn merges(file: &Value) -> Result<Vec<(String, String)>> {
    let pair = |m: &Value| match m {
        Value::Array(two) => Some((two.first()?.as_str()?.to_owned(), two.get(1)?.as_str()?.to_owned())),
        // The older spelling: one string with a space.
        Value::String(text) => text.split_once(' ').map(|(a, b)| (a.to_owned(), b.to_owned())),
        _ => None,
    };
    let all = file["model"]["merges"].as_array().into_iter().flatten();
    all.map(|m| pair(m).ok_or_else(|| none("a merge that is no pair"))).collect()
}

fn byte_level(file: &Value) -> Result<Export> {
    if !parts(&file["normalizer"], "normalizers").iter().all(|n| n["type"] == "NFC") {
        return Err(none("a normalisation in front of bytes"));
    }
    let mut patterns: Vec<String> = Vec::new();
    for part in parts(&file["pre_tokenizer"], "pretokenizers") {
        match part["type"].as_str() {
            Some("Digits") if part["individual_digits"] == true => patterns.push(split::DIGIT.into()),
            Some("ByteLevel") if part["add_prefix_space"] == true => {
                return Err(none("a space put in front of a text"));
            }
            Some("ByteLevel") if part["use_regex"] == true => patterns.push(split::GPT2.into()),
            Some("ByteLevel") => {}
            Some("Split") if part["behavior"] == "Isolated" && part["invert"] != true => {
                match &part["pattern"]["Regex"] {
                    Value::String(p) => patterns.push(p.clone()),
                    _ => return Err(none("a cut at a fixed text")),
                }
            }
            other => return Err(none(format!("the cut {}", other.unwrap_or("without a type")))),
        }
    }
    let whole = file["model"]["ignore_merges"] == true;
    let merges: Vec<String> = merges(file)?.into_iter().map(|(a, b)| format!("{a} {b}")).collect();
    // Where nothing is merged it does not matter how a text is cut.
    let any = (merges.is_empty() && !whole).then_some(ANY_CUT);
    let Some(pre) = split::name_of(&patterns, whole).or(any) else {
        return Err(none(format!("the rule {patterns:?} for cutting text")));
    };
    let (tokens, types) = tokens(file)?;
    Ok(Export { model: "gpt2", pre: Some(pre), tokens, types, merges, ..Export::default() })
}

/// Characters of one byte are a byte-level vocabulary that merges nothing. A reader of the file leaves out what is not in it, where
/// the character vocabulary calls it an error.
fn characters(file: &Value) -> Result<Export> {
    let letters = byte_letters();
    let (mut tokens, types) = tokens(file)?;
    for (token, _) in tokens.iter_mut().zip(&types).filter(|(_, kind)| **kind == 1) {
        match token.as_bytes() {
            [byte] => *token = letters[usize::from(*byte)].to_string(),
            _ => return Err(none(format!("a vocabulary of characters, one of them {token:?},"))),
        }
    }
    Ok(Export { model: "gpt2", pre: Some(ANY_CUT), tokens, types, ..Export::default() })
}

fn sentencepiece(file: &Value) -> Result<Export> {
    let mut prefix = false;
    for n in parts(&file["normalizer"], "normalizers") {
        match n["type"].as_str() {
            Some("Prepend") if n["prepend"] == SPACE => prefix = true,
            Some("Replace") if n["pattern"]["String"] == " " && n["content"] == SPACE => {}
            other => return Err(none(format!("the normalisation {}", other.unwrap_or("without a type")))),
        }
    }
    for p in parts(&file["pre_tokenizer"], "pretokenizers") {
        match p["type"].as_str() {
            Some("Metaspace") if p["replacement"] == SPACE && p["split"] == false => {
                prefix = p["prepend_scheme"] != "never"
            }
            // Spaces are marks by now: this finds none.
            Some("Split") if p["pattern"]["String"] == " " => {}
            other => return Err(none(format!("the cut {}", other.unwrap_or("without a type")))),
        }
    }
    let (tokens, types) = tokens(file)?;
    // SentencePiece's scores fall with the rank of the merge that makes a token.
    let mut rank: HashMap<String, usize> = HashMap::new();
    for (a, b) in merges(file)? {
        let next = rank.len();
        rank.entry(a + &b).or_insert(next);
    }
    let score = |(id, (token, kind)): (usize, (&String, &i32))| match kind {
        1 => -(rank.get(token).copied().unwrap_or(rank.len() + id) as f32),
        _ => 0.0,
    };
    let scores = tokens.iter().zip(&types).enumerate().map(score).collect();
    let unknown = types.iter().position(|&t| t == 2).map(|id| id as u32);
    Ok(Export { model: "llama", tokens, types, scores, unknown, add_space_prefix: Some(prefix), ..Export::default() })
}

fn wordpiece(file: &Value) -> Result<Export> {
    let normalizer = &file["normalizer"];
    let usual = normalizer["type"] == "BertNormalizer" && normalizer["lowercase"] == true;
    if !usual || file["model"]["continuing_subword_prefix"] != "##" {
        return Err(none("WordPiece that keeps capitals, or with another mark than ##"));
    }
    let (mut tokens, types) = tokens(file)?;
    for (token, kind) in tokens.iter_mut().zip(&types) {
        let bracketed = token.len() > 2 && token.starts_with('[') && token.ends_with(']');
        if *kind == 1 && !bracketed {
            *token = token.strip_prefix("##").map_or_else(|| format!("{SPACE}{token}"), str::to_owned);
        }
    }
    let unknown = types.iter().position(|&t| t == 2).map(|id| id as u32);
    Ok(Export { model: "bert", tokens, types, unknown, ..Export::default() })
}
