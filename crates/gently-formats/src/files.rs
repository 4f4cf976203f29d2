//! What the files of a model's folder are called.
//!
//! Here: the names that `transformers`, `tokenizers` and `sentence-transformers` give them, for those who read, write, fetch or
//! replace such folders. Not here: what is in the files.
//!
//! ```
//! use gently_formats::files;
//! assert_eq!(files::part(1, 2), "model-00001-of-00002.safetensors");
//! assert!(files::is_part(&files::part(1, 2)) && !files::is_part(files::WEIGHTS));
//! ```

/// A model's configuration, and that of a module of `sentence-transformers` in the module's own folder.
pub const CONFIG: &str = "config.json";
/// Weights in one file.
pub const WEIGHTS: &str = "model.safetensors";
/// Which of several files a weight is in.
pub const INDEX: &str = "model.safetensors.index.json";
/// How texts are written, and the tokens that end them.
pub const GENERATION: &str = "generation_config.json";

/// A tokenizer of any kind.
pub const TOKENIZER: &str = "tokenizer.json";
/// What is said of a tokenizer beside its tokens, older chat templates too.
pub const TOKENIZER_CONFIG: &str = "tokenizer_config.json";
/// Special tokens by their parts.
pub const SPECIAL_TOKENS: &str = "special_tokens_map.json";
/// Tokens beside those of a vocabulary.
pub const ADDED_TOKENS: &str = "added_tokens.json";
/// BERT's vocabulary, one token a line.
pub const WORDS: &str = "vocab.txt";
/// GPT-2's vocabulary and merges, as `transformers` names them and as OpenAI does.
pub const GPT2: [(&str, &str); 2] = [("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe")];
/// A chat template.
pub const CHAT_TEMPLATE: &str = "chat_template.jinja";
/// A chat template in the form before.
pub const CHAT_TEMPLATE_JSON: &str = "chat_template.json";

/// The modules of a model of `sentence-transformers`.
pub const MODULES: &str = "modules.json";
/// How its texts become tokens.
pub const SENTENCE: &str = "sentence_bert_config.json";
/// What is put in front of its texts.
pub const PROMPTS: &str = "config_sentence_transformers.json";
/// The folder of its pooling module.
pub const POOLING: &str = "1_Pooling";
/// The configuration of that module.
pub const POOLING_CONFIG: &str = "1_Pooling/config.json";

/// The name of the weights' file `number`, from 1, of `count`.
pub fn part(number: usize, count: usize) -> String {
    format!("model-{number:05}-of-{count:05}.safetensors")
}

/// Whether a name is one of [`part`]'s, of any number and count.
pub fn is_part(name: &str) -> bool {
    let numbers = name.strip_prefix("model-").and_then(|rest| rest.strip_suffix(".safetensors")?.split_once("-of-"));
    let five = |text: &str| text.len() == 5 && text.bytes().all(|b| b.is_ascii_digit());
    numbers.is_some_and(|(number, of)| five(number) && five(of))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_known_by_their_names() {
        assert!(is_part(&part(1, 1)) && is_part(&part(99_999, 99_999)));
        for other in
            [WEIGHTS, INDEX, "model-1-of-2.safetensors", "model-00001-of-0000x.safetensors", "model-of-.safetensors"]
        {
            assert!(!is_part(other), "{other}");
        }
        assert_eq!(POOLING_CONFIG, format!("{POOLING}/{CONFIG}"));
    }
}
