//! Tokenizers that the `tokenizers` crate runs: normalise, split, model, decode.
//!
//! Here: loading of a `tokenizer.json` text with checks, encoding with special tokens read or not (and never made of plain
//! text), and the exact bytes of each token where the pipeline is byte-level. Not here: byte and character vocabularies,
//! which have their own direct code.

use crate::spelling::{self, Spelling};
use crate::{Error, Result, charsmap, json, parts};
use serde_json::Value;
use std::path::Path;
use std::sync::OnceLock;
use tokenizers::tokenizer::normalizer::Range;
use tokenizers::{Model, ModelWrapper, NormalizedString, OffsetType, PreTokenizer, Tokenizer};

/// No published vocabulary is near this; a larger id is a damaged file.
const MAX_ID: u32 = 1 << 24;
/// Numbers without a token that are believed, beside some for each token: tables have a place for every number.
const MOST_HOLES: usize = 1 << 16;
/// What a `tokenizer.json` is made of.
const PARTS: [&str; 9] = [
    "version",
    "truncation",
    "padding",
    "added_tokens",
    "normalizer",
    "pre_tokenizer",
    "post_processor",
    "decoder",
    "model",
];

#[derive(Debug)]
pub(crate) struct Pipeline {
    /// Spelled-out special tokens in a text are plain text to this one.
    ordinary: Tokenizer,
    /// The same, but special tokens in a text are recognised. Made when first wanted.
    special: OnceLock<Tokenizer>,
    /// The file as it was given, for saving; of a pipeline that was built, written when first wanted.
    text: OnceLock<String>,
    pub vocab: usize,
    /// Where the pipeline is byte-level: each token's bytes.
    bytes: Option<TokenBytes>,
    spelling: Spelling,
    pub special_ids: Vec<(String, u32)>,
    /// What stands in front of a text and behind it. Found when first wanted.
    around: OnceLock<(Vec<u32>, Vec<u32>)>,
}

/// All tokens' bytes, one after another.
#[derive(Debug)]
struct TokenBytes {
    data: Vec<u8>,
    ends: Vec<u32>,
}

impl TokenBytes {
    fn get(&self, id: u32) -> &[u8] {
        let i = id as usize;
        let start = if i == 0 { 0 } else { self.ends[i - 1] as usize };
        &self.data[start..self.ends[i] as usize]
    }
}

impl Pipeline {
    /// Checks and loads the text of a `tokenizer.json`, already parsed as `value`; `path` is for messages. The library gets what was
    /// checked and not the text, in which a part may stand twice: it would read both, where a parser keeps the last.
    pub fn read(text: String, value: Value, path: &Path) -> Result<Self> {
        let invalid = |reason: String| Error::Invalid { path: path.into(), reason };
        let unknown = value.as_object().and_then(|parts| parts.keys().find(|key| !PARTS.contains(&key.as_str())));
        if let Some(unknown) = unknown {
            // The library passes over it in a value, and it may change what tokens are.
            return Err(invalid(format!("its part {unknown:?} is not known")));
        }
        charsmap::check_all(&value["normalizer"]).map_err(|why| invalid(format!("the normalisation table: {why}")))?;
        parts::check_normalizer(&value["normalizer"]).map_err(invalid)?;
        check_merges(&value["model"]).map_err(invalid)?;
        let ordinary: Tokenizer = serde_json::from_value(value).map_err(|e| invalid(e.to_string()))?;
        let pipeline = Self::built(ordinary, path)?;
        Ok(Self { text: text.into(), ..pipeline })
    }

    /// Of a tokenizer that was put together here.
    pub fn built(ordinary: Tokenizer, path: &Path) -> Result<Self> {
        let vocab = ordinary.get_vocab(true);
        let mut tokens: Vec<(u32, &str)> = vocab.iter().map(|(token, &id)| (id, token.as_str())).collect();
        tokens.sort_unstable();
        Self::of_tokens(ordinary, &tokens, path)
    }

    /// Of a tokenizer whose tokens, added ones too, are known in the order of their numbers: asking it for them makes copies of
    /// all, twice.
    pub fn of_tokens(mut ordinary: Tokenizer, tokens: &[(u32, &str)], path: &Path) -> Result<Self> {
        let invalid = |reason: String| Error::Invalid { path: path.into(), reason };
        let decoder = parts::check(&ordinary).map_err(invalid)?;
        ordinary.set_encode_special_tokens(true);
        // A cut or padded sequence would silently change a corpus.
        ordinary.with_truncation(None).map_err(|e| invalid(e.to_string()))?;
        ordinary.with_padding(None);
        // For training alone: it leaves merges out by chance, and no text would have the same tokens twice.
        if let ModelWrapper::BPE(model) = ordinary.get_model()
            && model.dropout.is_some()
        {
            let mut model = model.clone();
            model.dropout = None;
            ordinary.with_model(model);
        }
        let &(max, _) = tokens.last().ok_or_else(|| invalid("the vocabulary is empty".into()))?;
        if max >= MAX_ID {
            return Err(invalid(format!("token number {max} is over the limit of {MAX_ID}")));
        }
        if max as usize > MOST_HOLES + 16 * tokens.len() {
            return Err(invalid(format!("token number {max} is far beyond its {} tokens", tokens.len())));
        }
        let mut special_ids: Vec<(String, u32)> = ordinary
            .get_added_tokens_decoder()
            .into_iter()
            .filter(|(_, t)| t.special)
            .map(|(id, t)| (t.content, id))
            .collect();
        special_ids.sort_by_key(|&(_, id)| id);
        let spelling = Spelling::of(&decoder);
        let bytes = (spelling == Spelling::ByteLevel).then(|| token_bytes(&ordinary, tokens));
        Ok(Self {
            special: OnceLock::new(),
            text: OnceLock::new(),
            vocab: max as usize + 1,
            bytes,
            spelling,
            special_ids,
            around: OnceLock::new(),
            ordinary,
        })
    }

    pub fn encode(&self, text: &str, specials: bool) -> Result<Vec<u32>> {
        // A text that spells no special token is read alike by both, and the second takes megabytes. A normalizer might make one.
        let spelled = || {
            self.ordinary.get_normalizer().is_some() || self.special_ids.iter().any(|(token, _)| text.contains(token))
        };
        let tokenizer = if specials && spelled() {
            self.special.get_or_init(|| {
                let mut t = self.ordinary.clone();
                t.set_encode_special_tokens(false);
                t
            })
        } else {
            &self.ordinary
        };
        let ids = tokenizer.encode_fast(text, false).map_err(Error::pipeline)?.get_ids().to_vec();
        // Special tokens that the model itself has as entries it finds in plain text, too: Unigram, words taken whole.
        match !specials && ids.iter().any(|&id| self.is_special(id)) {
            true => Ok(self.encode_cut(text)?.unwrap_or(ids)),
            false => Ok(ids),
        }
    }

    /// The tokens of a plain text in which special tokens are spelled: the pieces that the model would find them in are cut
    /// behind the first letter of each. `None` where no piece spells one: a token for what is unknown stands for it.
    fn encode_cut(&self, text: &str) -> Result<Option<Vec<u32>>> {
        let tokenizer = &self.ordinary;
        let added = tokenizer.get_added_vocabulary();
        let mut pieces = added.extract_and_normalize(tokenizer.get_normalizer(), text);
        if let Some(cutter) = tokenizer.get_pre_tokenizer() {
            cutter.pre_tokenize(&mut pieces).map_err(Error::pipeline)?;
        }
        let mut spelled = false;
        let cut = |_: usize, piece: NormalizedString| {
            let places = self.cuts(piece.get());
            spelled |= !places.is_empty();
            let ends = places.into_iter().chain([piece.get().len()]);
            let part = |start: &mut usize, end: usize| {
                let part = piece.slice(Range::Normalized(std::mem::replace(start, end)..end));
                Some(part.ok_or_else(|| tokenizers::Error::from("a piece of the text cannot be cut")))
            };
            ends.scan(0, part).collect::<tokenizers::Result<Vec<NormalizedString>>>()
        };
        pieces.split(cut).map_err(Error::pipeline)?;
        if !spelled {
            return Ok(None);
        }
        pieces.tokenize(|piece| tokenizer.get_model().tokenize(piece.get())).map_err(Error::pipeline)?;
        let tokens = pieces.into_encoding(None, 0, OffsetType::None).map_err(Error::pipeline)?;
        Ok(Some(tokens.get_ids().to_vec()))
    }

    /// Where a piece is cut so that it spells no special token. One of a single letter cannot be cut: it has no other spelling.
    fn cuts(&self, piece: &str) -> Vec<usize> {
        let mut places = Vec::new();
        for (name, _) in &self.special_ids {
            let first = name.chars().next().map_or(0, char::len_utf8);
            if first == name.len() {
                continue;
            }
            let mut from = 0;
            while let Some(at) = piece[from..].find(name.as_str()) {
                from += at + first;
                places.push(from);
            }
        }
        places.sort_unstable();
        places.dedup();
        places
    }

    fn is_special(&self, id: u32) -> bool {
        self.special_ids.binary_search_by_key(&id, |s| s.1).is_ok()
    }

    /// The tokens that the model alone makes of a piece, without what is done to a text before.
    pub fn tokens_of_piece(&self, piece: &str) -> Result<Vec<u32>> {
        let tokens = self.ordinary.get_model().tokenize(piece).map_err(Error::pipeline)?;
        Ok(tokens.into_iter().map(|token| token.id).collect())
    }

    /// What the pipeline puts in front of a text and behind it.
    pub fn around(&self) -> Result<(Vec<u32>, Vec<u32>)> {
        if let Some(known) = self.around.get() {
            return Ok(known.clone());
        }
        // A text whose tokens are found again among those with everything around; an empty text would do where it has none,
        // but some pipelines make tokens of it.
        let text = "a";
        let ids = |around: bool| -> Result<Vec<u32>> {
            Ok(self.ordinary.encode_fast(text, around).map_err(Error::pipeline)?.get_ids().to_vec())
        };
        let (inner, whole) = (ids(false)?, ids(true)?);
        let at = whole.windows(inner.len().max(1)).position(|w| w == inner).unwrap_or(0);
        let behind = whole.get(at + inner.len()..).unwrap_or_default().to_vec();
        Ok(self.around.get_or_init(|| (whole[..at].to_vec(), behind)).clone())
    }

    pub fn check(&self, ids: &[u32]) -> Result<()> {
        match ids.iter().find(|&&id| id as usize >= self.vocab) {
            Some(&id) => Err(Error::UnknownId { id, vocab: self.vocab }),
            None => Ok(()),
        }
    }

    /// Appends the bytes of the tokens, when the pipeline is byte-level; false when it is not.
    pub fn push_bytes(&self, ids: &[u32], out: &mut Vec<u8>) -> bool {
        let Some(bytes) = &self.bytes else { return false };
        for &id in ids {
            out.extend_from_slice(bytes.get(id));
        }
        true
    }

    /// The bytes of a token inside a text; none for special tokens and numbers without a token.
    pub fn bytes_within(&self, id: u32) -> Result<Option<Vec<u8>>> {
        self.check(&[id])?;
        if self.is_special(id) {
            return Ok(None);
        }
        let bytes = match (&self.bytes, &self.spelling) {
            (Some(table), _) => table.get(id).to_vec(),
            (None, Spelling::Steps(steps)) => {
                self.id_to_token(id).map_or_else(Vec::new, |t| spelling::apply(steps, &t))
            }
            (None, Spelling::Unknown(name)) => return Err(Error::NoBytes { decoder: name.clone() }),
            (None, Spelling::ByteLevel) => Vec::new(),
        };
        Ok(Some(bytes).filter(|b| !b.is_empty()))
    }

    /// Whether tokens have bytes of their own inside a text.
    pub fn has_bytes_within(&self) -> bool {
        !matches!(self.spelling, Spelling::Unknown(_))
    }

    pub fn is_byte_level(&self) -> bool {
        self.bytes.is_some()
    }

    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        self.ordinary.decode(ids, false).map_err(Error::pipeline)
    }

    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        self.ordinary.token_to_id(token)
    }

    pub fn id_to_token(&self, id: u32) -> Option<String> {
        self.ordinary.id_to_token(id)
    }

    /// The pipeline as a `tokenizer.json`.
    pub fn text(&self) -> &str {
        self.text.get_or_init(|| serde_json::to_string(&self.ordinary).expect("maps and numbers have a JSON form"))
    }

    pub fn hash(&self) -> u64 {
        json::content_hash(&serde_json::from_str(self.text()).expect("the text was parsed before, or written here"))
    }
}

/// Refuses merges that the library would write outside its room for the longest token.
fn check_merges(model: &Value) -> Result<(), String> {
    let (Some(vocab), Some(merges)) = (model["vocab"].as_object(), model["merges"].as_array()) else { return Ok(()) };
    let longest = vocab.keys().map(String::len).max().unwrap_or(0);
    let prefix = model["continuing_subword_prefix"].as_str().map_or(0, str::len);
    for (i, merge) in merges.iter().enumerate() {
        let halves = match merge {
            Value::String(both) => both.split_once(' '),
            other => other[0].as_str().zip(other[1].as_str()),
        };
        let Some((a, b)) = halves else { return Err(format!("merge {i} is not two tokens")) };
        if !b.is_char_boundary(prefix) || a.len() + b.len() - prefix > longest {
            return Err(format!("merge {i}, {a:?} and {b:?}, makes no token"));
        }
    }
    Ok(())
}

/// Of tokens in the order of their numbers. Added ones are stored as themselves, the others in byte letters.
fn token_bytes(tokenizer: &Tokenizer, tokens: &[(u32, &str)]) -> TokenBytes {
    let letters = json::byte_letters();
    let beyond = letters.iter().map(|&c| c as usize + 1).max().unwrap_or(0);
    let mut byte_of: Vec<Option<u8>> = vec![None; beyond];
    letters.iter().enumerate().for_each(|(b, &c)| byte_of[c as usize] = Some(b as u8));
    let added = tokenizer.get_added_tokens_decoder();
    let size = tokens.last().map_or(0, |t| t.0 as usize + 1);
    let mut all = TokenBytes { data: Vec::new(), ends: Vec::with_capacity(size) };
    for &(id, token) in tokens {
        // Numbers without a token have no bytes; of two tokens with one number the first has it.
        if (id as usize) < all.ends.len() {
            continue;
        }
        all.ends.resize(id as usize, all.data.len() as u32);
        let start = all.data.len();
        let mut letter = |c: char| {
            let byte = byte_of.get(c as usize).copied().flatten();
            byte.inspect(|&b| all.data.push(b)).is_some()
        };
        let spelled = !added.contains_key(&id) && token.chars().all(&mut letter);
        if !spelled {
            all.data.truncate(start);
            all.data.extend_from_slice(token.as_bytes());
        }
        all.ends.push(all.data.len() as u32);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_ask_for_more_than_they_hold_are_named() {
        let read = |vocab: &str, normalizer: &str| {
            let text = format!(
                r#"{{"version": "1.0", "added_tokens": [], "normalizer": {normalizer},
                "model": {{"type": "BPE", "vocab": {vocab}, "merges": []}}}}"#
            );
            let value = serde_json::from_str(&text).unwrap();
            Pipeline::read(text, value, Path::new("tokenizer.json")).map(|p| p.vocab)
        };
        let says = |vocab, normalizer: &str| read(vocab, normalizer).unwrap_err().to_string();
        assert_eq!(read(r#"{"a": 0, "b": 60000}"#, "null").unwrap(), 60001);
        assert!(says(r#"{"a": 0, "b": 16000000}"#, "null").contains("16000000 is far beyond its 2 tokens"));
        assert!(says(r#"{"a": 16777216}"#, "null").contains("over the limit"));
        // Each step is small; together they are a bomb.
        let replace = |pattern: &str, content: &str| {
            format!(r#"{{"type": "Replace", "pattern": {pattern}, "content": "{content}"}}"#)
        };
        let many =
            |n: usize, step: &str| format!(r#"{{"type": "Sequence", "normalizers": [{}]}}"#, vec![step; n].join(", "));
        let space = replace(r#"{"String": " "}"#, "▁");
        assert_eq!(read(r#"{"a": 0}"#, &many(4, &space)).unwrap(), 1);
        for (n, step) in [
            (40, replace(r#"{"String": "a"}"#, "aa")),
            (30, replace(r#"{"String": ""}"#, "a")),
            (30, replace(r#"{"Regex": "a*"}"#, "aa")),
            (2, many(2, &many(4, &replace(r#"{"String": "a"}"#, "aa")))),
        ] {
            assert!(says(r#"{"a": 0}"#, &many(n, &step)).contains("its normalizer may make a text"), "{step}");
        }
        let long = "a".repeat(2000);
        assert!(says(r#"{"a": 0}"#, &replace(r#"{"String": "a"}"#, &long)).contains("its normalizer"));
        assert_eq!(read(r#"{"a": 0}"#, &replace(&format!(r#"{{"String": "{long}"}}"#), "b")).unwrap(), 1);
    }

    #[test]
    fn merges_that_make_no_token_are_named() {
        let file = |merge: &str, prefix: &str| {
            format!(
                r###"{{"version": "1.0", "added_tokens": [], "model": {{"type": "BPE", "continuing_subword_prefix": {prefix},
                "vocab": {{"ab": 0, "cd": 1, "##é": 2, "abé": 3}}, "merges": [{merge}]}}}}"###
            )
        };
        let read = |merge: &str, prefix: &str| {
            let text = file(merge, prefix);
            let value = serde_json::from_str(&text).unwrap();
            Pipeline::read(text, value, Path::new("tokenizer.json")).map(|p| p.vocab)
        };
        assert_eq!(read(r###"["ab", "##é"]"###, r###""##""###).unwrap(), 4);
        assert_eq!(read(r###""ab ##é""###, r###""##""###).unwrap(), 4);
        // Longer than any token; a half shorter than the prefix; a prefix that ends inside a letter; not two.
        for (merge, prefix) in [
            (r#"["abé", "abé"]"#, "null"),
            (r#"["ab", "c"]"#, r###""##""###),
            (r#"["ab", "é"]"#, r##""#""##),
            (r#""ab""#, "null"),
            (r#"["ab"]"#, "null"),
            ("7", "null"),
        ] {
            let e = read(merge, prefix).unwrap_err().to_string();
            assert!(e.contains("tokenizer.json") && e.contains("merge 0"), "{merge} {prefix}: {e}");
        }
    }

    /// A pipeline without anything before its model and behind it.
    fn bare(model: &str, specials: &[(&str, u32)]) -> Pipeline {
        let added = |(content, id): &(&str, u32)| {
            format!(
                r#"{{"id": {id}, "content": "{content}", "single_word": false, "lstrip": false, "rstrip": false,
                    "normalized": false, "special": true}}"#
            )
        };
        let added = specials.iter().map(added).collect::<Vec<_>>().join(", ");
        let text = format!(r#"{{"version": "1.0", "added_tokens": [{added}], "model": {model}}}"#);
        let value = serde_json::from_str(&text).unwrap();
        Pipeline::read(text, value, Path::new("tokenizer.json")).unwrap()
    }

    #[test]
    fn plain_text_makes_no_special_token() {
        let letters = r#""a": 0, "<": 1, "s": 2, ">": 3, "/": 4, "?": 5, "<s>": 6, "</s>": 7, "s>": 8"#;
        let specials = [("?", 5), ("<s>", 6), ("</s>", 7)];
        let unigram = r#"[["a", -1], ["<", -1], ["s", -1], [">", -1], ["/", -1], ["?", -1], ["<s>", 0], ["</s>", 0], ["s>", -1]]"#;
        for model in [
            format!(r#"{{"type": "Unigram", "unk_id": 5, "vocab": {unigram}}}"#),
            format!(
                r#"{{"type": "BPE", "unk_token": "?", "ignore_merges": true, "vocab": {{{letters}}}, "merges": [["s", ">"]]}}"#
            ),
            // It has no merges for them, but would make them of halves.
            format!(
                r#"{{"type": "BPE", "unk_token": "?", "vocab": {{{letters}}}, "merges": [["s", ">"], ["<", "s>"]]}}"#
            ),
        ] {
            let p = bare(&model, &specials);
            let (plain, special) = (|text| p.encode(text, false).unwrap(), |text| p.encode(text, true).unwrap());
            assert_eq!(plain("<s>"), [1, 8], "{model}");
            assert_eq!(plain("</s>"), [1, 4, 8], "{model}");
            assert_eq!(special("</s>"), [7], "{model}");
            let ids = plain("a</s>a<s><s>");
            assert!(!ids.contains(&6) && !ids.contains(&7), "{model}: {ids:?}");
            let spelled: String = ids.iter().map(|&id| p.id_to_token(id).unwrap()).collect();
            assert_eq!(spelled, "a</s>a<s><s>", "{model}");
            // What is unknown stays so, also beside one.
            assert_eq!(plain("é"), [5], "{model}");
            assert_eq!(plain("é<s>"), [5, 1, 8], "{model}");
        }
    }

    #[test]
    fn merges_are_not_left_out_by_chance() {
        let bpe = r#"{"type": "BPE", "dropout": 1.0, "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [["a", "b"]]}"#;
        let p = bare(bpe, &[]);
        assert_eq!(p.encode("ab", false).unwrap(), [2]);
        assert!(p.text().contains("dropout"), "the file is kept as it was");
    }

    #[test]
    fn what_is_said_twice_is_read_once() {
        let read = |more: &str| {
            let text = format!(
                r#"{{"version": "1.0", "added_tokens": [], {more}
                "model": {{"type": "BPE", "vocab": {{"a": 0, "b": 1}}, "merges": []}}}}"#
            );
            let value = serde_json::from_str(&text).unwrap();
            Pipeline::read(text, value, Path::new("tokenizer.json"))
        };
        let ids = |more: &str| read(more).unwrap().encode("a", false).unwrap();
        assert_eq!(ids(""), [0]);
        // The library would fail or panic at each of the first, though another follows.
        for first in [
            r#""normalizer": {"type": "Precompiled", "precompiled_charsmap": "Zg"},"#,
            r#""normalizer": {"type": "Precompiled", "precompiled_charsmap": ""},"#,
            r#""model": {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": [["a", "bb"]]},"#,
        ] {
            assert_eq!(ids(&format!(r#"{first} "normalizer": null,"#)), [0], "{first}");
        }
        let e = read(r#""normaliser": null,"#).unwrap_err().to_string();
        assert!(e.contains("tokenizer.json") && e.contains("\"normaliser\" is not known"), "{e}");
    }
}
