//! Llama (SmolLM2 and many others use its layout) and Mistral: keys, names, and what of ours fits.
//!
//! Not here: the names that the descendants share (`stacked`), file reading (see [`crate::weights`]).
//!
//! Traps: in Hugging Face folders rotary pairs are half a head apart, with no permutation of rows, and in GGUF they are
//! neighbours; `head_dim` may differ from `hidden_size / num_attention_heads`; `rope_theta` moved into
//! `rope_parameters` in transformers 5; GGUF leaves a tied head out, stores the stretching of Llama 3.1's positions as a tensor of
//! divisors, and has Mistral under `llama`, where llama.cpp's converter loses its window; one that a file says is kept, and ours
//! say it.
//!
//! ```
//! use gently_models::{config::DecoderConfig, families::llama};
//! let table = (llama::LLAMA.names)(&DecoderConfig::named("smollm2-135m").unwrap());
//! let qkv = table.mappings.iter().find(|m| m.ours == "blocks.0.mixer.qkv.weight").unwrap();
//! assert_eq!(qkv.theirs[1].name, "model.layers.0.self_attn.k_proj.weight");
//! assert_eq!(qkv.theirs.iter().map(|r| r.rows).sum::<usize>(), (9 + 2 * 3) * 64);
//! ```

use super::stacked::{self, Choices};
use super::{Entry, GgufKeys, Keys, Layout};
use crate::config::{DecoderConfig, Family};
use crate::error::Result;
use gently_formats::gguf::Value as Meta;
use serde_json::json;

/// Llama.
pub static LLAMA: Entry = Entry {
    layout: Layout::Llama,
    model_types: &["llama"],
    architectures: &["llama"],
    from_json: |keys| {
        Ok(DecoderConfig {
            attention_bias: keys.flag_or("attention_bias", false)?,
            mlp_bias: keys.flag_or("mlp_bias", false)?,
            ..from_json(keys)?
        })
    },
    to_json: |cfg| stacked::to_json(cfg, "LlamaForCausalLM", "llama", &[("mlp_bias", cfg.mlp_bias.into())]),
    names: |cfg| stacked::hf(cfg, Choices::default()),
    from_gguf: |keys| {
        let bias = |name: &str| keys.has(&format!("blk.0.{name}.bias"));
        let cfg = keys.common_windowed(DecoderConfig::preset(Family::Llama))?;
        let (turned, head) = (cfg.rotary_width(), cfg.head_width());
        if turned != head {
            // Which rows are a pair then is not said: converters permute the whole head.
            let reason = format!("heads turned in part ({turned} of {head} channels) are not supported for llama");
            return Err(keys.error("rope.dimension_count", reason));
        }
        Ok(DecoderConfig {
            attention_bias: bias("attn_q"),
            out_bias: Some(bias("attn_output")),
            mlp_bias: bias("ffn_gate"),
            ..cfg
        })
    },
    to_gguf: window_key,
    gguf_names: |cfg| stacked::gguf(cfg, Choices { paired: true, ..Choices::default() }),
};

/// Mistral: Llama with a window.
pub static MISTRAL: Entry = Entry {
    layout: Layout::Mistral,
    model_types: &["mistral"],
    architectures: &[],
    from_json: |keys| Ok(DecoderConfig { window: keys.size_if("sliding_window")?, ..from_json(keys)? }),
    to_json: |cfg| stacked::to_json(cfg, "MistralForCausalLM", "mistral", &[("sliding_window", json!(cfg.window))]),
    names: LLAMA.names,
    from_gguf: LLAMA.from_gguf,
    to_gguf: LLAMA.to_gguf,
    gguf_names: LLAMA.gguf_names,
};

/// What Llama and its descendants have in common in `config.json`. All of a head is turned.
pub(super) fn from_json(keys: &Keys) -> Result<DecoderConfig> {
    if keys.text_or("hidden_act", "silu")? != "silu" {
        return Err(keys.unsupported("hidden_act"));
    }
    let cfg = from_json_with(keys, &DecoderConfig::preset(Family::Llama))?;
    match cfg.rotary_width {
        Some(_) => Err(keys.unsupported("partial_rotary_factor")),
        None => Ok(cfg),
    }
}

/// The same with other defaults, any activation, and heads that are turned in part.
pub(super) fn from_json_with(keys: &Keys, base: &DecoderConfig) -> Result<DecoderConfig> {
    // Ours drops the embedding and the branches as well, so another figure than 0 cannot be honoured.
    keys.must_be_off("attention_dropout")?;
    let cfg = DecoderConfig {
        vocab: keys.size("vocab_size")?,
        context: keys.size("max_position_embeddings")?,
        width: keys.size("hidden_size")?,
        layers: keys.size("num_hidden_layers")?,
        heads: keys.size("num_attention_heads")?,
        kv_heads: keys.size_if("num_key_value_heads")?,
        head_width: keys.size_if("head_dim")?,
        mlp_width: Some(keys.size("intermediate_size")?),
        norm_eps: keys.real_or("rms_norm_eps", 1e-6)?,
        tied_head: keys.flag_or("tie_word_embeddings", base.tied_head)?,
        init_std: keys.real_or("initializer_range", 0.02)?,
        ..base.clone()
    };
    let rope = keys.rope(10000.0, cfg.head_width())?;
    let turned = share(rope.partial, cfg.head_width());
    Ok(DecoderConfig {
        rope_theta: rope.theta,
        rope_factors: rope.factors,
        rotary_width: (rope.partial != 1.0).then_some(turned),
        ..cfg
    })
}

/// A share of a head's channels; a share such as 2/3 is not quite what it was written for.
pub(super) fn share(partial: f64, head_width: usize) -> usize {
    (partial * head_width as f64 + 1e-6) as usize
}

/// What Llama's descendants without a window have in common in GGUF.
pub(super) fn from_gguf(keys: &GgufKeys) -> Result<DecoderConfig> {
    keys.common(DecoderConfig::preset(Family::Llama))
}

/// The window's key in GGUF, where all layers have one.
pub(super) fn window_key(cfg: &DecoderConfig) -> Vec<(&'static str, Meta)> {
    cfg.window.map(|w| ("attention.sliding_window", Meta::U32(w as u32))).into_iter().collect()
}
