//! Vocabularies as GGUF files carry them, made into the `tokenizer.json` that means the same.
//!
//! Here: byte-level BPE, SentencePiece's BPE and unigram, WordPiece; the checks that make a hostile list of tokens an
//! error. Not here: reading GGUF files (`gently-formats`); the algorithms, which the `tokenizers` crate runs.

use crate::charsmap;
use crate::names::Names;
use crate::pipeline::Pipeline;
use crate::split;
use crate::{Error, Result, Tokenizer};
use serde_json::{Map, Value, json};
use std::collections::HashSet;
use std::path::Path;
use tokenizers::AddedToken;
use tokenizers::models::bpe::{BPE, Vocab};

/// SentencePiece's visible space.
const SPACE: &str = "▁";
/// No published token is near this; a longer one would make merges in quadratic time.
const MAX_TOKEN: usize = 4096;
/// How many bytes of merges a byte of SentencePiece's tokens may make, beside some for all; published ones make about 30.
const MOST_MERGES: usize = 64;
/// What a merge takes beside its letters: two texts and an entry in a list.
const MERGE: usize = 64;
/// Tokens of Phi-3 that take no spaces with them.
const PHI3_KEPT: [&str; 3] = ["<unk>", "<s>", "<|endoftext|>"];

/// What a file says about its tokens. Token numbers are places in `tokens`.
#[derive(Debug, Clone, Default)]
pub struct Vocabulary<'a> {
    /// The architecture of the model, where it is known. What its tokens do beyond their types has no place in a file: those of
    /// turns of `phi3` take the spaces behind them, with `llama` as the algorithm.
    pub architecture: Option<&'a str>,
    /// The algorithm: `gpt2` (byte-level BPE), `llama` (SentencePiece BPE), `t5` (unigram), `bert` (WordPiece).
    pub model: &'a str,
    /// How a text is cut, for `gpt2`.
    pub pre: Option<&'a str>,
    /// Spellings.
    pub tokens: Vec<&'a str>,
    /// 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte. May be empty: all normal.
    pub types: Vec<i64>,
    /// Scores, for `llama` and `t5`.
    pub scores: Vec<f64>,
    /// `left right`, for `gpt2`.
    pub merges: Vec<&'a str>,
    /// Token that a text starts with.
    pub bos: Option<u32>,
    /// Tokens that end a text, a turn, a message: the first is the end of text.
    pub ends: Vec<u32>,
    /// Token for what cannot be spelled.
    pub unknown: Option<u32>,
    /// Token between two texts (`bert`: the end of each).
    pub separator: Option<u32>,
    /// Token in front of a text (`bert`).
    pub class: Option<u32>,
    /// Token that fills short texts up; one that is no token of the file is passed over.
    pub padding: Option<u32>,
    /// Token for one that is to be guessed (`bert`); as `padding`.
    pub mask: Option<u32>,
    /// Whether `bos` is put in front of a prompt.
    pub add_bos: Option<bool>,
    /// Whether the first of `ends` is put behind a text.
    pub add_eos: Option<bool>,
    /// Whether a text gets a space in front (`llama`, `t5`).
    pub add_space_prefix: Option<bool>,
    /// Whether runs of spaces are one space (`t5`).
    pub remove_extra_whitespaces: Option<bool>,
    /// SentencePiece's compiled normalisation (`t5`).
    pub charsmap: Vec<u8>,
    /// Whether texts are put into lower case (`bert`); they are where a file does not say it.
    pub lowercase: Option<bool>,
    /// Whether letters lose their accents (`bert`); as `lowercase` where a file does not say it.
    pub strip_accents: Option<bool>,
    /// The whole `tokenizer.json`, where a file has it. It is believed before all else but `ends` and the tokens' names, since it
    /// says more than the form can; its special tokens must be those of `tokens`.
    pub json: Option<&'a str>,
}

const UNKNOWN: i64 = 2;
const CONTROL: i64 = 3;
const USER: i64 = 4;
const UNUSED: i64 = 5;
const BYTE: i64 = 6;

impl Tokenizer {
    /// The tokenizer of a vocabulary; `path` is for messages. [`Tokenizer::save`] writes it as `tokenizer.json`.
    ///
    /// # Errors
    /// [`Error::Invalid`] naming the token, merge or rule at fault; an unknown `pre` is one: another cut would change
    /// tokens silently.
    pub fn from_vocabulary(vocabulary: &Vocabulary, path: &Path) -> Result<Self> {
        let reader = Reader { v: vocabulary, path };
        reader.check()?;
        let tokenizer = match (vocabulary.json, vocabulary.model) {
            (Some(json), _) => reader.whole(json)?,
            (_, "gpt2") => Self::of_pipeline(reader.byte_level()?),
            (_, "llama") => Self::of_pipeline(reader.sentencepiece()?),
            (_, "t5") => Self::of_pipeline(reader.unigram()?),
            (_, "bert") => Self::of_pipeline(reader.wordpiece()?),
            (_, other) => return Err(reader.invalid(format!("tokenizer model {other:?} is not supported"))),
        };
        let v = vocabulary;
        // Of BERT the beginning is the token in front of a text, by a second name.
        let (start, class) = match v.model {
            "bert" => (None, v.class.or(v.bos)),
            _ => (v.bos, v.class),
        };
        let names = Names {
            start,
            end: v.ends.first().copied(),
            unknown: v.unknown,
            separator: v.separator,
            padding: v.padding,
            class,
            mask: v.mask,
            longest: None,
        };
        Ok(tokenizer.with_ends(&v.ends).with_names(names).with_padding(reader.padding()))
    }
}

/// What a pipeline's model is made from.
enum Source {
    Json(Value),
    Bpe(Box<BPE>),
}

struct Reader<'a> {
    v: &'a Vocabulary<'a>,
    path: &'a Path,
}

impl Reader<'_> {
    fn invalid(&self, reason: String) -> Error {
        Error::Invalid { path: self.path.into(), reason }
    }

    fn kind(&self, id: usize) -> i64 {
        self.v.types.get(id).copied().unwrap_or(1)
    }

    /// Where the unused tokens begin that end the vocabulary. One that is named is used, and so is one of a vocabulary of nothing
    /// else.
    fn padding(&self) -> usize {
        let all = self.v.tokens.len();
        let used = |id: &usize| self.kind(*id) != UNUSED || self.names(*id);
        (0..all).rev().find(used).map_or(all, |last| last + 1)
    }

    /// Counts and references that every kind has.
    fn check(&self) -> Result<()> {
        let n = self.v.tokens.len();
        if n == 0 {
            return Err(self.invalid("the vocabulary is empty".into()));
        }
        for (what, len) in [("token types", self.v.types.len()), ("scores", self.v.scores.len())] {
            if len != 0 && len != n {
                return Err(self.invalid(format!("{len} {what} for {n} tokens")));
            }
        }
        let named = [self.v.bos, self.v.unknown, self.v.separator, self.v.class];
        if let Some(id) = named.into_iter().flatten().chain(self.v.ends.iter().copied()).find(|&id| id as usize >= n) {
            return Err(self.invalid(format!("special token {id} is not one of the {n} tokens")));
        }
        for (id, token) in self.v.tokens.iter().enumerate() {
            if token.len() > MAX_TOKEN {
                return Err(
                    self.invalid(format!("token {id} has {} bytes, over the limit of {MAX_TOKEN}", token.len()))
                );
            }
            if self.kind(id) == BYTE && byte_of(token).is_none() {
                return Err(
                    self.invalid(format!("token {id}, {token:?}, is said to be a byte but is not <0x00> to <0xFF>"))
                );
            }
        }
        Ok(())
    }

    /// The tokenizer of a `tokenizer.json` that stands in the file.
    fn whole(&self, json: &str) -> Result<Tokenizer> {
        let wrong = |reason: String| self.invalid(format!("its tokenizer.json: {reason}"));
        let tokenizer = Tokenizer::from_json(json.to_owned(), self.path).map_err(|error| match error {
            Error::Json { reason, .. } | Error::Invalid { reason, .. } => wrong(reason),
            other => other,
        })?;
        let (said, known) = (tokenizer.vocab_size(), self.v.tokens.len());
        if said > known {
            return Err(wrong(format!("{said} tokens, where the file has {known}")));
        }
        let differs = |(name, id): &&(String, u32)| self.v.tokens.get(*id as usize) != Some(&name.as_str());
        match tokenizer.specials().iter().find(differs) {
            Some((name, id)) => Err(wrong(format!("token {id} is {name:?}, which it is not in the file"))),
            None => Ok(tokenizer),
        }
    }

    /// Token to number. A spelling may be there once only.
    fn numbers(&self, spelled: &[&str]) -> Result<Vocab> {
        let mut numbers = Vocab::with_capacity(spelled.len());
        for (id, &token) in spelled.iter().enumerate() {
            if let Some(first) = numbers.insert(token.to_owned(), id as u32) {
                return Err(self.invalid(format!("tokens {first} and {id} are both {token:?}")));
            }
        }
        Ok(numbers)
    }

    /// Control and user-defined tokens are found in a text before it is cut.
    fn added(&self, spelled: &[&str]) -> impl Iterator<Item = AddedToken> {
        // An empty token would be found everywhere.
        spelled.iter().enumerate().filter(|(_, t)| !t.is_empty()).filter_map(|(id, content)| {
            let kind = self.kind(id);
            let special = matches!(kind, CONTROL | UNKNOWN) || (kind == 1 && self.names(id));
            (special || kind == USER).then(|| {
                let token = AddedToken::from((*content).to_owned(), special).normalized(false);
                token.rstrip(self.takes_spaces(kind, content))
            })
        })
    }

    /// Whether a token takes the spaces behind it, as `rstrip` says in Phi-3's published folder. Files do not say it: llama.cpp goes
    /// by the model's name (`llama_vocab::impl::load`). `</s>` is no special token there, and takes them too.
    fn takes_spaces(&self, kind: i64, token: &str) -> bool {
        let phi3 = self.v.architecture == Some("phi3") && self.v.model == "llama";
        phi3 && (kind == CONTROL && !PHI3_KEPT.contains(&token) || token == "</s>")
    }

    /// Whether the file names this token as its beginning or end.
    fn names(&self, id: usize) -> bool {
        self.v.bos.iter().chain(&self.v.ends).any(|&named| named as usize == id)
    }

    /// What is put around a text: numbers in front and behind.
    fn around(&self, front: Option<u32>, behind: Option<u32>, spelled: &[&str]) -> Value {
        if front.is_none() && behind.is_none() {
            return Value::Null;
        }
        let mut special = Map::new();
        let mut single = Vec::new();
        let mut token = |id: u32, single: &mut Vec<Value>| {
            let content = spelled[id as usize];
            single.push(json!({"SpecialToken": {"id": content, "type_id": 0}}));
            special.insert(content.to_owned(), json!({"id": content, "ids": [id], "tokens": [content]}));
        };
        if let Some(id) = front {
            token(id, &mut single);
        }
        single.push(json!({"Sequence": {"id": "A", "type_id": 0}}));
        if let Some(id) = behind {
            token(id, &mut single);
        }
        let mut pair = single.clone();
        pair.push(json!({"Sequence": {"id": "B", "type_id": 1}}));
        json!({"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": special})
    }

    /// The pipeline of these parts. A model of many merges is built by itself, since reading one from JSON takes longer than all
    /// else that opening a file does: what stands for it in the JSON is then empty.
    fn pipeline(
        &self,
        [normalizer, pre_tokenizer, decoder]: [Value; 3],
        model: Source,
        around: (Option<u32>, Option<u32>),
        spelled: &[&str],
    ) -> Result<Pipeline> {
        let (text, model) = match model {
            Source::Json(text) => (text, None),
            Source::Bpe(model) => (json!({"type": "BPE", "vocab": {}, "merges": []}), Some(model)),
        };
        let file = json!({
            "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
            "normalizer": normalizer, "pre_tokenizer": pre_tokenizer,
            "post_processor": self.around(around.0, around.1, spelled),
            "decoder": decoder, "model": text,
        });
        let failed = |e: tokenizers::Error| self.invalid(e.to_string());
        let mut pipeline = file.to_string().parse::<tokenizers::Tokenizer>().map_err(failed)?;
        if let Some(model) = model {
            pipeline.with_model(*model);
        }
        pipeline.add_tokens(self.added(spelled)).map_err(failed)?;
        let tokens: Vec<(u32, &str)> = spelled.iter().enumerate().map(|(id, &token)| (id as u32, token)).collect();
        Pipeline::of_tokens(pipeline, &tokens, self.path)
    }

    /// What stands in front of a text and behind it; whether anything does where the file does not say it.
    fn ends_around(&self, add_bos: bool, add_eos: bool) -> (Option<u32>, Option<u32>) {
        let bos = self.v.bos.filter(|_| self.v.add_bos.unwrap_or(add_bos));
        let eos = self.v.ends.first().copied().filter(|_| self.v.add_eos.unwrap_or(add_eos));
        (bos, eos)
    }

    fn byte_level(&self) -> Result<Pipeline> {
        let Some(pre) = self.v.pre else {
            return Err(self.invalid("tokenizer.ggml.pre is missing: how a text is cut is not known".into()));
        };
        let Some(rule) = split::rule(pre) else {
            return Err(self.invalid(format!("the rule {pre:?} for cutting text is not known")));
        };
        let numbers = self.numbers(&self.v.tokens)?;
        let longest = self.v.tokens.iter().map(|t| t.len()).max().unwrap_or(0);
        let mut merges = Vec::with_capacity(self.v.merges.len());
        for (i, merge) in self.v.merges.iter().enumerate() {
            // Whether they are tokens, making the model finds out too, so the one way there is to cut this is taken on trust.
            // But it believes that a merge is no longer than the longest token.
            let mut halves = halves(merge).filter(|(a, b)| a.len() + b.len() <= longest);
            let (first, second) = (halves.next(), halves.next());
            let cut = if second.is_none() { first } else { cut_of(merge, &numbers) };
            let Some((a, b)) = cut else { return Err(self.not_a_merge(i)) };
            merges.push((a.to_owned(), b.to_owned()));
        }
        let mut pieces: Vec<Value> = rule
            .patterns
            .iter()
            .map(|p| json!({"type": "Split", "pattern": {"Regex": p}, "behavior": "Isolated", "invert": false}))
            .collect();
        let level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false});
        pieces.push(level.clone());
        let builder = BPE::builder().vocab_and_merges(numbers, merges).ignore_merges(rule.ignore_merges);
        let model = match builder.build() {
            Ok(model) => model,
            Err(e) => return Err(self.first_that_is_none()?.unwrap_or_else(|| self.invalid(e.to_string()))),
        };
        let pre_tokenizer = json!({"type": "Sequence", "pretokenizers": pieces});
        let around = self.ends_around(rule.add_bos, false);
        self.pipeline([Value::Null, pre_tokenizer, level], Source::Bpe(model.into()), around, &self.v.tokens)
    }

    fn not_a_merge(&self, i: usize) -> Error {
        self.invalid(format!("merge {i}, {:?}, is not two tokens that make a third", self.v.merges[i]))
    }

    /// The error about the first merge that is none.
    fn first_that_is_none(&self) -> Result<Option<Error>> {
        let numbers = self.numbers(&self.v.tokens)?;
        let wrong = self.v.merges.iter().position(|merge| cut_of(merge, &numbers).is_none());
        Ok(wrong.map(|i| self.not_a_merge(i)))
    }

    fn sentencepiece(&self) -> Result<Pipeline> {
        let numbers = self.numbers(&self.v.tokens)?;
        if self.v.scores.is_empty() {
            return Err(self.invalid("a SentencePiece vocabulary needs scores".into()));
        }
        let normal = |id: usize| self.kind(id) == 1;
        let merges = scored_merges(&self.v.tokens, &numbers, normal, &self.v.scores).map_err(|e| self.invalid(e))?;
        let text = |id: u32| self.v.tokens[id as usize].to_owned();
        let halves: Vec<(String, String)> = merges.iter().map(|&(a, b)| (text(a), text(b))).collect();
        let model = BPE::builder().vocab_and_merges(numbers, halves).fuse_unk(true);
        let model = model.byte_fallback(self.has_bytes());
        let model = match self.unknown_token() {
            Some(token) => model.unk_token(token.to_owned()),
            None => model,
        };
        let model = Source::Bpe(model.build().map_err(|e| self.invalid(e.to_string()))?.into());
        let prefix = self.v.add_space_prefix.unwrap_or(true);
        let mut normalizers = vec![json!({"type": "Replace", "pattern": {"String": " "}, "content": SPACE})];
        if prefix {
            normalizers.insert(0, json!({"type": "Prepend", "prepend": SPACE}));
        }
        let normalizer = json!({"type": "Sequence", "normalizers": normalizers});
        let parts = [normalizer, Value::Null, sentencepiece_decoder(prefix)];
        self.pipeline(parts, model, self.ends_around(true, false), &self.v.tokens)
    }

    fn unigram(&self) -> Result<Pipeline> {
        self.numbers(&self.v.tokens)?;
        if self.v.scores.is_empty() {
            return Err(self.invalid("a unigram vocabulary needs scores".into()));
        }
        if let Some(id) = self.v.scores.iter().position(|s| !s.is_finite()) {
            return Err(self.invalid(format!("the score of token {id} is not a number")));
        }
        let unknown = self.v.unknown.or_else(|| self.first_of(UNKNOWN));
        let entry = |(token, score): (&&str, &f64)| json!([token, score]);
        let vocab: Vec<Value> = self.v.tokens.iter().zip(&self.v.scores).map(entry).collect();
        let mut normalizers = Vec::new();
        if !self.v.charsmap.is_empty() {
            charsmap::check(&self.v.charsmap).map_err(|why| self.invalid(format!("the normalisation table: {why}")))?;
            let text = charsmap::base64(&self.v.charsmap);
            normalizers.push(json!({"type": "Precompiled", "precompiled_charsmap": text}));
        }
        let replace =
            |pattern: Value, content: &str| json!({"type": "Replace", "pattern": pattern, "content": content});
        let merged = self.v.remove_extra_whitespaces.unwrap_or(true);
        if merged {
            // Of white space it is spaces alone that count.
            normalizers.push(replace(json!({"Regex": " {2,}"}), " "));
            normalizers.push(replace(json!({"Regex": r"\A | \z"}), ""));
        }
        // As llama.cpp has it (`llm_tokenizer_ugm_session::normalize`): where spaces are merged a text that has more than spaces
        // gets one in front in any case, and otherwise beside any that it has.
        let prefix = merged || self.v.add_space_prefix.unwrap_or(true);
        if prefix {
            normalizers.push(replace(json!({"Regex": r"\A(?= *[^ ])"}), " "));
        }
        normalizers.push(replace(json!({"String": " "}), SPACE));
        let normalizer = json!({"type": "Sequence", "normalizers": normalizers});
        let scheme = if prefix { "always" } else { "never" };
        let space = json!({"type": "Metaspace", "replacement": SPACE, "prepend_scheme": scheme, "split": false});
        let model = json!({
            "type": "Unigram", "unk_id": unknown, "vocab": vocab, "byte_fallback": self.has_bytes(),
        });
        let model = Source::Json(model);
        // Bytes become letters while they are tokens of their own; what Metaspace takes off is the first token's, so nothing is
        // fused before it.
        let decoder = match self.has_bytes() {
            true => json!({"type": "Sequence",
                           "decoders": [{"type": "ByteFallback"}, space.clone(), {"type": "Fuse"}]}),
            false => space.clone(),
        };
        self.pipeline([normalizer, Value::Null, decoder], model, self.ends_around(false, true), &self.v.tokens)
    }

    /// WordPiece: the file has a mark in front of words, Python has one in front of what continues a word.
    fn wordpiece(&self) -> Result<Pipeline> {
        let respelled = |(id, token): (usize, &&str)| match token.strip_prefix(SPACE) {
            Some(word) => word.to_owned(),
            None if self.kind(id) == 1 && !self.is_bracketed(token) => format!("##{token}"),
            None => (*token).to_owned(),
        };
        let spelled: Vec<String> = self.v.tokens.iter().enumerate().map(respelled).collect();
        let spelled: Vec<&str> = spelled.iter().map(String::as_str).collect();
        let numbers = self.numbers(&spelled)?;
        let vocab: Map<String, Value> = numbers.iter().map(|(t, &id)| (t.clone(), id.into())).collect();
        let unknown = self.v.unknown.map_or("[UNK]", |id| spelled[id as usize]);
        let find = |said: Option<u32>, name: &str| said.or_else(|| numbers.get(name).copied());
        let (class, separator) = (find(self.v.class.or(self.v.bos), "[CLS]"), find(self.v.separator, "[SEP]"));
        let model = json!({
            "type": "WordPiece", "unk_token": unknown, "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100, "vocab": vocab,
        });
        let normalizer = json!({"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
                                "strip_accents": self.v.strip_accents, "lowercase": self.v.lowercase.unwrap_or(true)});
        let parts = [normalizer, json!({"type": "BertPreTokenizer"}), wordpiece_decoder()];
        self.pipeline(parts, Source::Json(model), (class, separator), &spelled)
    }

    /// `[PAD]`, `[unused7]`: written as they are even where they are not marked as control tokens.
    fn is_bracketed(&self, token: &str) -> bool {
        token.len() > 2 && token.starts_with('[') && token.ends_with(']')
    }

    fn first_of(&self, kind: i64) -> Option<u32> {
        self.v.types.iter().position(|&t| t == kind).map(|id| id as u32)
    }

    fn unknown_token(&self) -> Option<&str> {
        let id = self.v.unknown.or_else(|| self.first_of(UNKNOWN))?;
        self.v.tokens.get(id as usize).copied()
    }

    /// Whether all 256 bytes have tokens to fall back on.
    fn has_bytes(&self) -> bool {
        let bytes = self.v.tokens.iter().enumerate().filter(|(id, _)| matches!(self.kind(*id), BYTE | 1));
        bytes.filter_map(|(_, t)| byte_of(t)).collect::<HashSet<_>>().len() == 256
    }
}

/// The merges that scores say: SentencePiece merges the pair whose whole has the best score. All ways to make a normal token of
/// two others, as their numbers, in the order of scores, and within one token by the halves' numbers (transformers'
/// `generate_merges`).
pub(crate) fn scored_merges(
    tokens: &[&str],
    numbers: &Vocab,
    normal: impl Fn(usize) -> bool,
    scores: &[f64],
) -> Result<Vec<(u32, u32)>, String> {
    let mut merges: Vec<(f64, u32, u32)> = Vec::new();
    // A token of one letter many times is cut into two tokens everywhere, if all shorter ones are there: the merges of a
    // small file would take gigabytes.
    let letters: usize = tokens.iter().map(|t| t.len()).sum();
    let most = letters.saturating_mul(MOST_MERGES).saturating_add(64 << 20);
    let mut taken = 0usize;
    for (id, (token, &score)) in tokens.iter().zip(scores).enumerate().filter(|(id, _)| normal(*id)) {
        let halves = token.char_indices().skip(1).filter_map(|(at, _)| {
            let (a, b) = token.split_at(at);
            Some((*numbers.get(a)?, *numbers.get(b)?))
        });
        let before = merges.len();
        merges.extend(halves.map(|(a, b)| (score, a, b)));
        taken = taken.saturating_add((merges.len() - before).saturating_mul(token.len() + MERGE));
        if taken > most {
            return Err(format!("the merges that make tokens 0 to {id} take over {most} bytes"));
        }
    }
    merges.sort_by(|x, y| y.0.total_cmp(&x.0).then((x.1, x.2).cmp(&(y.1, y.2))));
    Ok(merges.into_iter().map(|(_, a, b)| (a, b)).collect())
}

/// How SentencePiece's tokens become text; `prefix` is the space in front of one.
pub(crate) fn sentencepiece_decoder(prefix: bool) -> Value {
    let mut decoders = vec![
        json!({"type": "Replace", "pattern": {"String": SPACE}, "content": " "}),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    if prefix {
        decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    json!({"type": "Sequence", "decoders": decoders})
}

/// How WordPiece's tokens become text.
pub(crate) fn wordpiece_decoder() -> Value {
    json!({"type": "WordPiece", "prefix": "##", "cleanup": true})
}

/// The ways to cut `left right`: an entry may hold a space only where it starts, since both halves are at least a character long.
fn halves(merge: &str) -> impl Iterator<Item = (&str, &str)> {
    let spaces = merge.char_indices().skip(1).filter(|(_, c)| *c == ' ');
    spaces.map(|(at, _)| (&merge[..at], &merge[at + 1..]))
}

/// The first way that makes two tokens whose whole is a third.
fn cut_of<'m>(merge: &'m str, numbers: &Vocab) -> Option<(&'m str, &'m str)> {
    halves(merge).find(|(a, b)| {
        let whole = [*a, *b].concat();
        [*a, *b, whole.as_str()].iter().all(|t| numbers.contains_key(*t))
    })
}

/// The byte that `<0x0A>` stands for.
pub(crate) fn byte_of(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    let upper = |b: u8| b.is_ascii_digit() || (b'A'..=b'F').contains(&b);
    (digits.len() == 2 && digits.bytes().all(upper)).then(|| u8::from_str_radix(digits, 16).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_two_digits() {
        assert_eq!(byte_of("<0x0A>"), Some(10));
        for wrong in ["<0x-1>", "<0x+1>", "<0x0a>", "<0x100>", "<0x>", "<0xA>", "0x0A", "<0xÄ>"] {
            assert_eq!(byte_of(wrong), None, "{wrong}");
        }
    }
}
