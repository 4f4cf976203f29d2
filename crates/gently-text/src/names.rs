//! The special tokens of a vocabulary by the part they have.
//!
//! Here: what a folder's files name, and what is known by its usual spelling where they do not. Not here: all tokens that end a
//! text or an answer ([`crate::Tokenizer::ends`]), and what is put around a text.

use crate::TemplateTokens;
use crate::tokenizer::optional;
use gently_formats::files;
use serde_json::Value;
use std::path::Path;

/// The names that the files of a folder, and chat templates, have for special tokens.
const KEYS: [&str; 7] = ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// End-of-text tokens by their usual names, looked for when a folder does not say.
const USUAL_ENDS: [&str; 6] = ["<|endoftext|>", "</s>", "<|end_of_text|>", "<eos>", "<|eot_id|>", "<|im_end|>"];

/// What files say of a tokenizer beside its tokens.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Names {
    /// The beginning of a text, whether or not it is put in front of one.
    pub start: Option<u32>,
    /// The end of a text.
    pub end: Option<u32>,
    /// Stands for what cannot be spelled.
    pub unknown: Option<u32>,
    /// Between two texts.
    pub separator: Option<u32>,
    /// Fills short texts up to the length of others.
    pub padding: Option<u32>,
    /// In front of a text, for its meaning as a whole.
    pub class: Option<u32>,
    /// Stands for a token that is to be guessed.
    pub mask: Option<u32>,
    /// The most tokens of a text, `model_max_length`.
    pub longest: Option<u64>,
}

impl Names {
    /// The tokens that `id` finds by their keys.
    pub fn find(id: impl Fn(&str) -> Option<u32>) -> Self {
        let [start, end, unknown, separator, padding, class, mask] = KEYS.map(id);
        Self { start, end, unknown, separator, padding, class, mask, longest: None }
    }

    /// Special tokens that are spelled as those of many models. The files of BERT's first models name none of theirs: Python has
    /// their spellings in its code.
    pub fn usual(specials: &[(String, u32)]) -> Self {
        let find = |spelled: &str| specials.iter().find(|(name, _)| name == spelled).map(|&(_, id)| id);
        Self {
            end: USUAL_ENDS.into_iter().find_map(find),
            unknown: find("[UNK]"),
            separator: find("[SEP]"),
            padding: find("[PAD]"),
            class: find("[CLS]"),
            mask: find("[MASK]"),
            ..Self::default()
        }
    }

    /// These, and those of `other` in place of what is not said or is no token of a vocabulary of `size`.
    pub fn within(self, size: usize, other: Self) -> Self {
        let of = |own: Option<u32>, other| own.filter(|&id| (id as usize) < size).or(other);
        Self {
            start: of(self.start, other.start),
            end: of(self.end, other.end),
            unknown: of(self.unknown, other.unknown),
            separator: of(self.separator, other.separator),
            padding: of(self.padding, other.padding),
            class: of(self.class, other.class),
            mask: of(self.mask, other.mask),
            longest: self.longest.or(other.longest),
        }
    }

    /// The tokens with their keys.
    pub fn ids(&self) -> impl Iterator<Item = (&'static str, u32)> {
        let ids = [self.start, self.end, self.unknown, self.separator, self.padding, self.class, self.mask];
        KEYS.into_iter().zip(ids).filter_map(|(key, id)| Some((key, id?)))
    }
}

/// The spellings of special tokens in a folder whose `tokenizer_config.json` is `config`. As transformers has it,
/// `special_tokens_map.json` stands before that file, unless the file lists the added tokens itself.
pub(crate) fn spelled(config: &Value, dir: &Path) -> TemplateTokens {
    let map = match config.get("added_tokens_decoder") {
        Some(_) => Value::Null,
        None => optional(&dir.join(files::SPECIAL_TOKENS)),
    };
    let spelling = |key: &str| token_name(&map[key]).or(token_name(&config[key]));
    KEYS.into_iter().filter_map(|key| Some((key.to_owned(), spelling(key)?.to_owned()))).collect()
}

/// The spelling of a token, which is there plain or with its properties.
fn token_name(value: &Value) -> Option<&str> {
    value.as_str().or_else(|| value["content"].as_str())
}
