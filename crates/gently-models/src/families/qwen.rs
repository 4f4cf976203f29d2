//! Qwen 2, 2.5 and 3: Llama with biases on queries, keys and values, or with these normalised head by head.
//!
//! Traps: the vocabulary is padded beyond the tokenizer's; small sizes have a tied head; a window is in the
//! configuration but off (`use_sliding_window`). Where it is on, only the layers from `max_window_layers` on have it, which is
//! read where these are all or none; a list of kinds (`layer_types`) counts before that.
//!
//! ```
//! use gently_models::families::Entry;
//! assert_eq!(Entry::of_model_type("qwen3").unwrap().architectures, ["qwen3"]);
//! ```

use super::stacked::{self, Choices};
use super::{Entry, Keys, Layout, llama};
use crate::config::DecoderConfig;
use crate::error::Result;
use serde_json::{Value, json};

/// Qwen 2 and 2.5.
pub static QWEN2: Entry = Entry {
    layout: Layout::Qwen2,
    model_types: &["qwen2"],
    architectures: &["qwen2"],
    from_json: |keys| Ok(biased(from_json(keys, None)?)),
    to_json: |cfg| to_json(cfg, "Qwen2ForCausalLM", "qwen2"),
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
        // transformers' default is 128, and not width / heads.
        Ok(DecoderConfig { qk_norm: true, attention_bias, ..from_json(keys, Some(128))? })
    },
    to_json: |cfg| to_json(cfg, "Qwen3ForCausalLM", "qwen3"),
    names: QWEN2.names,
    from_gguf: |keys| Ok(DecoderConfig { qk_norm: true, ..llama::from_gguf(keys)? }),
    to_gguf: |_| Vec::new(),
    gguf_names: QWEN2.gguf_names,
};

fn biased(cfg: DecoderConfig) -> DecoderConfig {
    DecoderConfig { attention_bias: true, out_bias: Some(false), ..cfg }
}

/// `head_width` counts where the key is left out.
fn from_json(keys: &Keys, head_width: Option<usize>) -> Result<DecoderConfig> {
    let cfg = llama::from_json(keys, &DecoderConfig { head_width, ..llama::defaults(1 << 15, Some(32)) })?;
    let window = match keys.flag_or("use_sliding_window", false)? {
        true => keys.optional_size("sliding_window", Some(4096))?,
        false => None,
    };
    let full = keys.size_if("max_window_layers")?.unwrap_or(28);
    if full == 0 || keys.value("layer_types").is_some() {
        return llama::windowed(keys, window, cfg);
    }
    // The first layers have none, the others have one.
    let mixed = window.is_some() && full < cfg.layers;
    if mixed { Err(keys.unsupported("use_sliding_window")) } else { Ok(cfg) }
}

fn to_json(cfg: &DecoderConfig, architecture: &str, model_type: &str) -> Value {
    let mut more = vec![("use_sliding_window", json!(cfg.window.is_some()))];
    if cfg.window.is_some() {
        let kinds = json!(llama::layer_types(cfg));
        more.extend([("sliding_window", json!(cfg.window)), ("max_window_layers", json!(0)), ("layer_types", kinds)]);
    }
    stacked::to_json(cfg, architecture, model_type, &more)
}
