//! Qwen 2, 2.5 and 3: Llama with biases on queries, keys and values, or with these normalised head by head.
//!
//! Traps: the vocabulary is padded beyond the tokenizer's; small sizes have a tied head; a window is in the
//! configuration but off (`use_sliding_window`), and where it is on it is refused.
//!
//! ```
//! use gently_models::families::Entry;
//! assert_eq!(Entry::of_model_type("qwen3").unwrap().architectures, ["qwen3"]);
//! ```

use super::stacked::{self, Choices};
use super::{Entry, Keys, Layout, llama};
use crate::config::DecoderConfig;
use crate::error::Result;

/// Qwen 2 and 2.5.
pub static QWEN2: Entry = Entry {
    layout: Layout::Qwen2,
    model_types: &["qwen2"],
    architectures: &["qwen2"],
    from_json: |keys| Ok(biased(from_json(keys)?)),
    to_json: |cfg| stacked::to_json(cfg, "Qwen2ForCausalLM", "qwen2", &[("use_sliding_window", false.into())]),
    names: |cfg| stacked::hf(cfg, Choices::default()),
    from_gguf: |keys| Ok(biased(llama::from_gguf(keys)?)),
    to_gguf: |_| Vec::new(),
    gguf_names: |cfg| stacked::gguf(cfg, Choices::default()),
};

/// Qwen 3.
pub static QWEN3: Entry = Entry {
    layout: Layout::Qwen3,
    model_types: &["qwen3"],
    architectures: &["qwen3"],
    from_json: |keys| {
        let attention_bias = keys.flag_or("attention_bias", false)?;
        // transformers' default, and not width / heads.
        let head_width = keys.size_if("head_dim")?.or(Some(128));
        Ok(DecoderConfig { qk_norm: true, attention_bias, head_width, ..from_json(keys)? })
    },
    to_json: |cfg| stacked::to_json(cfg, "Qwen3ForCausalLM", "qwen3", &[("use_sliding_window", false.into())]),
    names: QWEN2.names,
    from_gguf: |keys| Ok(DecoderConfig { qk_norm: true, ..llama::from_gguf(keys)? }),
    to_gguf: |_| Vec::new(),
    gguf_names: QWEN2.gguf_names,
};

fn biased(cfg: DecoderConfig) -> DecoderConfig {
    DecoderConfig { attention_bias: true, out_bias: Some(false), ..cfg }
}

fn from_json(keys: &Keys) -> Result<DecoderConfig> {
    keys.must_be_off("use_sliding_window")?;
    llama::from_json(keys)
}
