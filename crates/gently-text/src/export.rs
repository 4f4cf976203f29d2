//! A tokenizer as the vocabulary of a GGUF file: what [`crate::Vocabulary`] reads, written.
//!
//! Here: the way back from `tokenizer.json`. What the GGUF form cannot say (another rule for cutting text, another
//! normalisation, marks at the ends of words) is an error, since readers of the file would make other tokens. Some of it
//! published models have, and readers do without: NFC in front of byte-level BPE (Qwen), the spaces that added tokens take
//! (Phi-3), a space in front of some texts alone (Mistral), merges of added tokens (Gemma). That is named, and the file gets
//! the whole `tokenizer.json` besides, by which this program reads it as it was.

use crate::json::byte_letters;
use crate::split;
use crate::vocabulary::{byte_of, scored_merges, sentencepiece_decoder, wordpiece_decoder};
use crate::{Error, Kind, Result, Tokenizer};
use serde_json::Value;
use std::collections::{HashMap, HashSet};
use tokenizers::Model;
use tokenizers::models::bpe::{BPE, Vocab};

const SPACE: &str = "▁";
/// A rule for cutting text that every reader knows.
const ANY_CUT: &str = "gpt-2";
/// Most bytes of a `tokenizer.json` in a file, whose whole header has a limit; Gemma's are 20 MB.
const MOST_JSON: usize = 64 << 20;
/// Longest token of one letter many times whose merges are compared by what they do; Llama's longest has 16 spaces.
const MOST_RUN: usize = 64;

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
    pub padding: Option<u32>,
    pub mask: Option<u32>,
    pub add_bos: bool,
    pub add_eos: bool,
    pub add_space_prefix: Option<bool>,
    pub lowercase: Option<bool>,
    pub strip_accents: Option<bool>,
    /// What readers of the form alone do without.
    pub lost: Vec<&'static str>,
    /// The whole `tokenizer.json`, where something is lost.
    pub json: Option<String>,
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
            Some("BPE") if is_byte_level(&file["decoder"]) => byte_level(self, &file)?,
            Some("BPE") => sentencepiece(self, &file)?,
            Some("WordPiece") => wordpiece(self, &file)?,
            Some("WordLevel") if self.kind() == Kind::Characters => characters(self, &file)?,
            Some(other) => return Err(none(format!("a {other} model"))),
            None => return Err(none("a model without a type")),
        };
        for i in out.tokens.len()..size {
            out.tokens.push(format!("[PAD{i}]"));
            out.types.push(5);
            out.scores.extend((!out.scores.is_empty()).then_some(-1e4));
        }
        let (front, behind) = self.around()?;
        check_around(self, out.model == "bert", &front, &behind)?;
        (out.add_bos, out.add_eos) = (!front.is_empty(), !behind.is_empty());
        let names = self.names();
        // Templates and scores use a beginning that is put in front of no prompt, too.
        out.bos = front.first().copied().or(names.start);
        out.ends = self.ends().to_vec();
        (out.padding, out.mask) = (names.padding, names.mask);
        (out.class, out.separator) = match out.model {
            // A reader puts them around every text.
            "bert" => (front.first().copied(), behind.first().copied()),
            _ => (names.class, names.separator),
        };
        // The other kinds spell with it, so the file's own stands there.
        if out.model == "gpt2" {
            out.unknown = names.unknown;
        }
        out.lost.extend(lost_of_added(&file));
        if !out.lost.is_empty() {
            let json = file.to_string();
            if json.len() > MOST_JSON {
                return Err(none(format!("{}, in a tokenizer.json of {} bytes,", out.lost.join(", "), json.len())));
            }
            out.json = Some(json);
        }
        Ok(out)
    }
}

/// Refuses what is put around a text and is not one token in front that begins it and one behind that ends it.
fn check_around(tokenizer: &Tokenizer, bert: bool, front: &[u32], behind: &[u32]) -> Result<()> {
    if front.len() > 1 || behind.len() > 1 {
        let (front, behind) = (front.len(), behind.len());
        return Err(none(format!("a text with {front} tokens in front and {behind} behind it")));
    }
    if bert && (front.is_empty() || behind.is_empty()) {
        return Err(none("WordPiece without a token in front of a text and one behind it"));
    }
    match behind.first() {
        Some(id) if !bert && tokenizer.end_of_text() != Some(*id) => {
            Err(none(format!("the token {:?} behind a text", tokenizer.token(*id).unwrap_or_default())))
        }
        _ => Ok(()),
    }
}

/// What the form does not say of added tokens: their type is all that it has.
fn lost_of_added(file: &Value) -> Option<&'static str> {
    let normalized = !file["normalizer"].is_null();
    let more = |added: &Value| {
        ["lstrip", "rstrip", "single_word"].iter().any(|key| added[*key] == true)
            || (normalized && added["normalized"] == true)
    };
    let lost = file["added_tokens"].as_array().is_some_and(|all| all.iter().any(more));
    lost.then_some("where added tokens are found (lstrip, rstrip, single_word, normalized)")
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

/// Tokens by number with their types: those of the model and those added. An added token's number is the one that it has here:
/// where numbers are left out it may be another than the file says.
fn tokens(tokenizer: &Tokenizer, file: &Value) -> Result<(Vec<String>, Vec<i32>)> {
    let mut tokens: Vec<Option<String>> = Vec::new();
    let mut put = |id: u64, token: &str| -> Result<usize> {
        let id =
            usize::try_from(id).ok().filter(|id| *id < 1 << 24).ok_or_else(|| none(format!("token number {id}")))?;
        if id >= tokens.len() {
            tokens.resize(id + 1, None);
        }
        match tokens[id].replace(token.to_owned()) {
            Some(other) if other != token => Err(none(format!("token {id}, which is both {other:?} and {token:?},"))),
            _ => Ok(id),
        }
    };
    for (token, id) in file["model"]["vocab"].as_object().into_iter().flatten() {
        put(id.as_u64().unwrap_or(u64::MAX), token)?;
    }
    let mut special = HashMap::new();
    for added in file["added_tokens"].as_array().into_iter().flatten() {
        let content = added["content"].as_str().unwrap_or_default();
        // An empty one is none.
        if let Some(id) = tokenizer.token_to_id(content) {
            special.insert(put(id.into(), content)?, if added["special"] == true { 3 } else { 4 });
        }
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

/// Refuses marks at the beginnings and ends of words, which change what is merged.
fn check_marks(model: &Value) -> Result<()> {
    let marked = |key: &&str| model[*key].as_str().is_some_and(|mark| !mark.is_empty());
    match ["continuing_subword_prefix", "end_of_word_suffix"].into_iter().find(marked) {
        Some(key) => Err(none(format!("BPE with {key} = {}", model[key]))),
        None => Ok(()),
    }
}

fn byte_level(tokenizer: &Tokenizer, file: &Value) -> Result<Export> {
    let model = &file["model"];
    check_marks(model)?;
    let mut lost = Vec::new();
    let normalizers = parts(&file["normalizer"], "normalizers");
    if !normalizers.iter().all(|n| n["type"] == "NFC") {
        return Err(none("a normalisation in front of bytes"));
    }
    if !normalizers.is_empty() {
        lost.push("that a text is composed first (NFC)");
    }
    if parts(&file["decoder"], "decoders").len() > 1 {
        lost.push("how tokens become text (decoder)");
    }
    let is_token = |letter: &char| model["vocab"].get(letter.to_string()).is_some();
    if model["unk_token"].is_string() && !byte_letters().iter().all(is_token) {
        return Err(none("an unknown token, beside bytes that are no tokens,"));
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
    let whole = model["ignore_merges"] == true;
    let merges: Vec<String> = merges(file)?.into_iter().map(|(a, b)| format!("{a} {b}")).collect();
    // Where nothing is merged it does not matter how a text is cut.
    let any = (merges.is_empty() && !whole).then_some(ANY_CUT);
    let Some(pre) = split::name_of(&patterns, whole).or(any) else {
        return Err(none(format!("the rule {patterns:?} for cutting text")));
    };
    let (tokens, types) = tokens(tokenizer, file)?;
    Ok(Export { model: "gpt2", pre: Some(pre), tokens, types, merges, lost, ..Export::default() })
}

/// Characters of one byte are a byte-level vocabulary that merges nothing. A reader of the file leaves out what is not in it, where
/// the character vocabulary calls it an error.
fn characters(tokenizer: &Tokenizer, file: &Value) -> Result<Export> {
    let letters = byte_letters();
    let (mut tokens, types) = tokens(tokenizer, file)?;
    for (token, _) in tokens.iter_mut().zip(&types).filter(|(_, kind)| **kind == 1) {
        match token.as_bytes() {
            [byte] => *token = letters[usize::from(*byte)].to_string(),
            _ => return Err(none(format!("a vocabulary of characters, one of them {token:?},"))),
        }
    }
    Ok(Export { model: "gpt2", pre: Some(ANY_CUT), tokens, types, ..Export::default() })
}

fn sentencepiece(tokenizer: &Tokenizer, file: &Value) -> Result<Export> {
    let model = &file["model"];
    check_marks(model)?;
    let mut lost = Vec::new();
    // Whether a space is put in front of a text, and whether spaces are marks at all.
    let (mut prefix, mut marked) = (false, false);
    for n in parts(&file["normalizer"], "normalizers") {
        match n["type"].as_str() {
            Some("Prepend") if n["prepend"] == SPACE && !prefix => prefix = true,
            Some("Replace") if n["pattern"]["String"] == " " && n["content"] == SPACE => marked = true,
            other => return Err(none(format!("the normalisation {}", other.unwrap_or("without a type")))),
        }
    }
    for p in parts(&file["pre_tokenizer"], "pretokenizers") {
        match p["type"].as_str() {
            Some("Metaspace") if p["replacement"] == SPACE && p["split"] == false && !prefix => {
                marked = true;
                if p["prepend_scheme"] != "never" {
                    prefix = true;
                    lost.push("where a space is put in front (Metaspace)");
                }
            }
            // Spaces are marks by now: this finds none.
            Some("Split") if p["pattern"]["String"] == " " => {}
            other => return Err(none(format!("the cut {}", other.unwrap_or("without a type")))),
        }
    }
    if !marked {
        return Err(none(format!("text whose spaces do not become {SPACE}")));
    }
    let bytes = model["vocab"].as_object().map_or(0, |vocab| vocab.keys().filter(|t| byte_of(t).is_some()).count());
    match (model["byte_fallback"] == true, bytes) {
        (true, 256) => {}
        // Letters that are no tokens are one token together, in the form.
        (false, 0) if model["fuse_unk"] == true => {}
        (false, 0) => lost.push("that each unknown letter is a token (fuse_unk)"),
        (true, n) => return Err(none(format!("a fallback on bytes, {n} of which are tokens,"))),
        (false, _) => return Err(none("tokens for bytes that no letter falls back on")),
    }
    if model["ignore_merges"] == true {
        lost.push("that words which are tokens are taken whole (ignore_merges)");
    }
    if file["decoder"] != sentencepiece_decoder(prefix) {
        lost.push("how tokens become text (decoder)");
    }
    let (tokens, types) = tokens(tokenizer, file)?;
    let (scores, exact) = scores(tokenizer, &tokens, &types, &merges(file)?)?;
    if !exact {
        lost.push("which tokens are merged, and in which order");
    }
    let unknown = types.iter().position(|&t| t == 2).map(|id| id as u32);
    let (model, add_space_prefix) = ("llama", Some(prefix));
    Ok(Export { model, tokens, types, scores, unknown, add_space_prefix, lost, ..Export::default() })
}

/// The wholes that merges make, in order; those whose merges stand between one another's are one group, which has one score.
struct Ranks {
    /// The group of each whole.
    of: HashMap<String, usize>,
    groups: Vec<Vec<String>>,
}

impl Ranks {
    /// Of the wholes in the order of their merges.
    fn of(wholes: &[String]) -> Self {
        let last: HashMap<&str, usize> = wholes.iter().enumerate().map(|(at, whole)| (whole.as_str(), at)).collect();
        let mut ranks = Self { of: HashMap::new(), groups: Vec::new() };
        // Where the last merge of the group stands.
        let mut until = 0;
        for (at, whole) in wholes.iter().enumerate() {
            if ranks.of.contains_key(whole) {
                continue;
            }
            match ranks.groups.last_mut() {
                Some(group) if at < until => group.push(whole.clone()),
                _ => ranks.groups.push(vec![whole.clone()]),
            }
            until = until.max(last[whole.as_str()]);
            ranks.of.insert(whole.clone(), ranks.groups.len() - 1);
        }
        ranks
    }

    /// The groups of several wholes.
    fn mixed(&self) -> impl Iterator<Item = &Vec<String>> {
        self.groups.iter().filter(|group| group.len() > 1)
    }
}

/// Scores that fall with the rank of the merge that makes a token, and whether they say all of the merges: a reader makes a
/// token of every two that spell it. Tokens whose merges stand between one another's have one score (of Llama's vocabulary the
/// runs of spaces), since a reader brings those of one score into an order of its own.
///
/// # Errors
/// An order that no scores have, and merges of which some are left out so that other tokens come out.
fn scores(
    tokenizer: &Tokenizer,
    tokens: &[String],
    types: &[i32],
    merges: &[(String, String)],
) -> Result<(Vec<f32>, bool)> {
    let numbers: Vocab = tokens.iter().enumerate().map(|(id, token)| (token.clone(), id as u32)).collect();
    let normal = |id: usize| types[id] == 1;
    let mut wholes: Vec<String> = Vec::with_capacity(merges.len());
    let mut halves: Vec<(u32, u32)> = Vec::with_capacity(merges.len());
    for (a, b) in merges {
        let whole = [a.as_str(), b.as_str()].concat();
        if numbers.get(&whole).is_some_and(|&id| normal(id as usize)) {
            wholes.push(whole);
        }
        halves.extend(numbers.get(a).copied().zip(numbers.get(b).copied()));
    }
    let ranks = Ranks::of(&wholes);
    let score = |(id, (token, kind)): (usize, (&String, &i32))| match kind {
        1 => -(ranks.of.get(token).copied().unwrap_or(ranks.groups.len() + id) as f32),
        _ => 0.0,
    };
    let scores: Vec<f32> = tokens.iter().zip(types).enumerate().map(score).collect();

    let spelled: Vec<&str> = tokens.iter().map(String::as_str).collect();
    let wide: Vec<f64> = scores.iter().map(|score| f64::from(*score)).collect();
    let read = scored_merges(&spelled, &numbers, normal, &wide).map_err(none)?;
    if read == halves {
        return Ok((scores, true));
    }
    check_mixed(tokenizer, tokens, &numbers, &read, &ranks)?;
    let known: HashSet<(u32, u32)> = halves.into_iter().collect();
    if !read.iter().all(|pair| known.contains(pair)) {
        // Of merges as they are learnt, one for each token, the rest hardly ever matter. But then each token comes out.
        for (token, id) in ranks.of.keys().filter_map(|token| Some((token, *numbers.get(token)?))) {
            if tokenizer.tokens_of_piece(token)? != [id] {
                return Err(none(format!("an order of merges in which {token:?} is never made")));
            }
        }
    }
    Ok((scores, false))
}

/// Refuses tokens of one score that a reader merges in another order, unless it makes no other tokens by it. That can be seen of
/// runs of one letter alone: `transformers` orders the merges of Llama's spaces by length, a reader by number.
fn check_mixed(
    tokenizer: &Tokenizer,
    tokens: &[String],
    numbers: &Vocab,
    read: &[(u32, u32)],
    ranks: &Ranks,
) -> Result<()> {
    let mut made = None;
    for group in ranks.mixed() {
        let comes_back = || none(format!("an order of merges that comes back to {:?}", group[0]));
        let letter = group[0].chars().next().ok_or_else(comes_back)?;
        let longest = group.iter().map(|whole| whole.chars().count()).max().unwrap_or(0);
        if longest > MOST_RUN || !group.iter().all(|whole| whole.chars().all(|c| c == letter)) {
            return Err(comes_back());
        }
        let reader = match &mut made {
            Some(reader) => reader,
            empty => {
                let text = |id: u32| tokens[id as usize].clone();
                let pairs = read.iter().map(|&(a, b)| (text(a), text(b))).collect();
                let model = BPE::builder().vocab_and_merges(numbers.clone(), pairs).build().map_err(Error::pipeline)?;
                empty.insert(model)
            }
        };
        // Beyond the longest token a run is cut into several: twice and more shows how.
        for letters in 1..=4 * longest {
            let run = letter.to_string().repeat(letters);
            let cut = reader.tokenize(&run).map_err(Error::pipeline)?;
            let cut: Vec<u32> = cut.into_iter().map(|token| token.id).collect();
            if tokenizer.tokens_of_piece(&run)? != cut {
                return Err(comes_back());
            }
        }
    }
    Ok(())
}

fn wordpiece(tokenizer: &Tokenizer, file: &Value) -> Result<Export> {
    let (model, normalizer) = (&file["model"], &file["normalizer"]);
    let usual = ["clean_text", "handle_chinese_chars"].iter().all(|key| normalizer[*key] == true);
    if normalizer["type"] != "BertNormalizer" || !usual {
        return Err(none("WordPiece without BERT's normalisation (clean_text, handle_chinese_chars)"));
    }
    if file["pre_tokenizer"]["type"] != "BertPreTokenizer" {
        return Err(none("WordPiece with another cut than BERT's"));
    }
    if model["continuing_subword_prefix"] != "##" {
        return Err(none("WordPiece with another mark than ##"));
    }
    // Readers have no such limit, or this one.
    let longest = model["max_input_chars_per_word"].as_u64().unwrap_or(100);
    if longest != 100 {
        return Err(none(format!("a longest word of {longest} letters")));
    }
    let mut lost = Vec::new();
    if file["decoder"] != wordpiece_decoder() {
        lost.push("how tokens become text (decoder)");
    }
    let (mut tokens, types) = tokens(tokenizer, file)?;
    for (token, kind) in tokens.iter_mut().zip(&types) {
        let bracketed = token.len() > 2 && token.starts_with('[') && token.ends_with(']');
        if *kind == 1 && !bracketed {
            *token = token.strip_prefix("##").map_or_else(|| format!("{SPACE}{token}"), str::to_owned);
        }
    }
    let unknown = types.iter().position(|&t| t == 2).map(|id| id as u32);
    let lowercase = Some(normalizer["lowercase"] == true);
    let strip_accents = normalizer["strip_accents"].as_bool();
    Ok(Export { model: "bert", tokens, types, unknown, lowercase, strip_accents, lost, ..Export::default() })
}
