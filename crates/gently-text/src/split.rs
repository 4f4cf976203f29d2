//! How byte-level vocabularies cut a text before merging, by the name that GGUF files give in `tokenizer.ggml.pre`.
//!
//! Here: the names and their regular expressions, applied one after another, each to the pieces that the one before left.
//! Not here: merging. Source: the published `tokenizer.json` of the models named, as llama.cpp's converter recognises
//! them. A name that is not here is an error: a wrong cut changes tokens silently.

/// A rule: expressions in order.
pub(crate) struct Rule {
    pub patterns: &'static [&'static str],
    /// Whether words that are entries are taken whole without merging.
    pub ignore_merges: bool,
    /// Whether a text starts with a mark where a file does not say it, as llama.cpp has it.
    pub add_bos: bool,
}

pub(crate) const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
pub(crate) const DIGIT: &str = r"\p{N}";
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN35: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const GPT4O: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const BLOOM: &str = r" ?[^(\s|.,!?…。，、।۔،)]+";
const HAN: &str = r"[一-龥ࠀ-一가-퟿]+";
const DEEPSEEK3: &str = r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"##;

/// The rule of a name.
pub(crate) fn rule(name: &str) -> Option<Rule> {
    let rule = |patterns| Rule { patterns, ignore_merges: false, add_bos: false };
    let whole = |patterns| Rule { patterns, ignore_merges: true, add_bos: false };
    let begun = |patterns| Rule { patterns, ignore_merges: true, add_bos: true };
    Some(match name {
        "gpt-2" | "gpt2" | "phi-2" | "mpt" | "olmo" | "jais" | "jina-es" | "jina-de" | "jina-v2-es" | "jina-v2-de"
        | "gigachat" | "trillion" | "roberta-bpe" | "modern-bert" => rule(&[GPT2]),
        "smollm" | "starcoder" | "refact" | "command-r" | "codeshell" | "exaone" | "minerva-7b" => rule(&[DIGIT, GPT2]),
        "llama-bpe" | "llama3" | "llama-v3" | "falcon3" | "falcon-h1" | "pixtral" | "lfm2" => begun(&[LLAMA3]),
        "dbrx" | "smaug-bpe" | "chatglm-bpe" => rule(&[LLAMA3]),
        "glm4" => whole(&[LLAMA3]),
        "qwen2" | "deepseek-r1-qwen" | "stablelm2" | "hunyuan" | "megrez" | "grok-2" => rule(&[QWEN2]),
        "qwen35" => rule(&[QWEN35]),
        "tekken" => begun(&[TEKKEN]),
        "gpt-4o" | "llama4" => rule(&[GPT4O]),
        "falcon" => rule(&[r"[\p{P}\$\+<=>\^~\|`]+", GPT2, "[0-9][0-9][0-9]"]),
        "bloom" | "poro-chat" | "gpt3-finnish" => rule(&[BLOOM]),
        "viking" => rule(&[BLOOM, DIGIT]),
        "deepseek-coder" => rule(&[r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", HAN, DIGIT]),
        "deepseek-v3" | "hunyuan-dense" => rule(&[r"\p{N}{1,3}", r"[一-龥぀-ゟ゠-ヿ]+", DEEPSEEK3]),
        _ => return None,
    })
}

/// The name of a rule, where one of ours has these expressions.
pub(crate) fn name_of(patterns: &[String], ignore_merges: bool) -> Option<&'static str> {
    const NAMES: [&str; 15] = [
        "gpt-2",
        "smollm",
        "llama-bpe",
        "dbrx",
        "qwen2",
        "qwen35",
        "tekken",
        "gpt-4o",
        "falcon",
        "bloom",
        "viking",
        "deepseek-coder",
        "deepseek-v3",
        "starcoder",
        "olmo",
    ];
    // The last alternative of GPT-2's is what is left over, which is a piece with or without it.
    let same = |a: &str, b: &str| a.strip_suffix(r"|\s+").unwrap_or(a) == b.strip_suffix(r"|\s+").unwrap_or(b);
    NAMES.into_iter().find(|name| {
        rule(name).is_some_and(|rule| {
            rule.ignore_merges == ignore_merges
                && rule.patterns.len() == patterns.len()
                && rule.patterns.iter().zip(patterns).all(|(a, b)| same(a, b))
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_back() {
        for name in ["gpt-2", "smollm", "llama-bpe", "qwen2", "tekken", "deepseek-v3"] {
            let rule = rule(name).unwrap();
            let patterns: Vec<String> = rule.patterns.iter().map(|p| (*p).to_owned()).collect();
            assert_eq!(name_of(&patterns, rule.ignore_merges), Some(name));
        }
        assert!(name_of(&["x".into()], false).is_none());
        assert!(rule("no-such-rule").is_none());
    }

    /// As `llama_vocab::impl::load` has them.
    #[test]
    fn words_are_whole_and_texts_begin_as_in_llama_cpp() {
        let said = |name| rule(name).map(|rule| (rule.ignore_merges, rule.add_bos));
        for name in ["llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "lfm2", "tekken"] {
            assert_eq!(said(name), Some((true, true)), "{name}");
        }
        assert_eq!(said("glm4"), Some((true, false)));
        for name in ["chatglm-bpe", "gpt-2", "qwen2", "smollm", "dbrx"] {
            assert_eq!(said(name), Some((false, false)), "{name}");
        }
    }
}
