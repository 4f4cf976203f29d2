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
use super::{Entry, GgufKeys, Keys, Layout, rope};
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
            ..from_json(keys, &defaults(2048, None))?
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
    from_json: |keys| {
        let window = keys.optional_size("sliding_window", Some(4096))?;
        let cfg = windowed(keys, window, from_json(keys, &defaults(1 << 17, Some(8)))?)?;
        // transformers' `MistralForCausalLM` ignores the list, and its `AutoModelForCausalLM` follows it.
        if cfg.window_skip.is_some() { Err(keys.unsupported("layer_types")) } else { Ok(cfg) }
    },
    to_json: |cfg| stacked::to_json(cfg, "MistralForCausalLM", "mistral", &[("sliding_window", json!(cfg.window))]),
    names: LLAMA.names,
    from_gguf: LLAMA.from_gguf,
    to_gguf: LLAMA.to_gguf,
    gguf_names: LLAMA.gguf_names,
};

/// What transformers takes for keys that a `config.json` leaves out: a context, a number of key heads (none: as many as heads),
/// and what the families have alike. The sizes of the matrices are never left out.
pub(super) fn defaults(context: usize, kv_heads: Option<usize>) -> DecoderConfig {
    DecoderConfig { context, kv_heads, norm_eps: 1e-6, ..DecoderConfig::preset(Family::Llama) }
}

/// What Llama and its descendants have in common in `config.json`; `base` has what keys that are left out say.
pub(super) fn from_json(keys: &Keys, base: &DecoderConfig) -> Result<DecoderConfig> {
    if keys.text_or("hidden_act", "silu")? != "silu" {
        return Err(keys.unsupported("hidden_act"));
    }
    from_json_whole(keys, base)
}

/// The same with any activation. All of a head is turned.
pub(super) fn from_json_whole(keys: &Keys, base: &DecoderConfig) -> Result<DecoderConfig> {
    let cfg = from_json_in_part(keys, base, &rope::USUAL)?;
    match cfg.rotary_width {
        Some(_) => Err(keys.unsupported("partial_rotary_factor")),
        None => Ok(cfg),
    }
}

/// The same with heads that are turned in part; `usual` has what is left out of their positions.
pub(super) fn from_json_in_part(keys: &Keys, base: &DecoderConfig, usual: &rope::Usual) -> Result<DecoderConfig> {
    // Ours drops the embedding and the branches as well, so another figure than 0 cannot be honoured.
    keys.must_be_off("attention_dropout")?;
    let cfg = DecoderConfig {
        vocab: keys.size("vocab_size")?,
        context: keys.size_if("max_position_embeddings")?.unwrap_or(base.context),
        width: keys.size("hidden_size")?,
        layers: keys.size("num_hidden_layers")?,
        heads: keys.size("num_attention_heads")?,
        kv_heads: keys.optional_size("num_key_value_heads", base.kv_heads)?,
        head_width: keys.size_if("head_dim")?.or(base.head_width),
        mlp_width: Some(keys.size("intermediate_size")?),
        norm_eps: keys.real_or("rms_norm_eps", base.norm_eps)?,
        tied_head: keys.flag_or("tie_word_embeddings", base.tied_head)?,
        init_std: keys.real_or("initializer_range", 0.02)?,
        ..base.clone()
    };
    keys.rope(usual, cfg)
}

const FULL: &str = "full_attention";
const SLIDING: &str = "sliding_attention";

/// The kind of each layer: with a window or without.
pub(super) fn layer_types(cfg: &DecoderConfig) -> Vec<&'static str> {
    let kind = |i| if cfg.window_of(i).is_some() { SLIDING } else { FULL };
    // A configuration is asked whether it fits before its sizes are believed.
    (0..cfg.layers.min(1 << 16)).map(kind).collect()
}

/// Every how many layers one has no window, from the list of kinds where there is one. Where all have one, a number over that of
/// the layers.
///
/// # Errors
/// [`crate::Error::UnsupportedOption`] for a list without this rule, or of another length than there are layers.
pub(super) fn listed_skip(keys: &Keys) -> Result<Option<usize>> {
    let Some(kinds) = keys.texts("layer_types")? else { return Ok(None) };
    let skip = kinds.iter().position(|k| *k == FULL).map_or(kinds.len() + 1, |i| i + 1);
    let regular = kinds.iter().enumerate().all(|(i, kind)| match *kind {
        FULL => (i + 1).is_multiple_of(skip),
        SLIDING => !(i + 1).is_multiple_of(skip),
        _ => false,
    });
    let whole = kinds.len() == keys.size("num_hidden_layers")?;
    if regular && whole { Ok(Some(skip)) } else { Err(keys.unsupported("layer_types")) }
}

/// The model with a window in the layers that the list of kinds gives one, or without a list in all.
pub(super) fn windowed(keys: &Keys, window: Option<usize>, cfg: DecoderConfig) -> Result<DecoderConfig> {
    let (window, skip) = match (window, listed_skip(keys)?) {
        (_, Some(1)) => (None, None),
        (Some(window), skip) => (Some(window), skip.filter(|n| *n <= cfg.layers)),
        (None, None) => (None, None),
        // A window of no width.
        (None, Some(_)) => return Err(keys.unsupported("layer_types")),
    };
    Ok(DecoderConfig { window, window_skip: skip, ..cfg })
}

/// What Llama's descendants without a window have in common in GGUF.
pub(super) fn from_gguf(keys: &GgufKeys) -> Result<DecoderConfig> {
    keys.common(DecoderConfig::preset(Family::Llama))
}

/// The window's key in GGUF, where all layers have one.
pub(super) fn window_key(cfg: &DecoderConfig) -> Vec<(&'static str, Meta)> {
    cfg.window.map(|w| ("attention.sliding_window", Meta::U32(w as u32))).into_iter().collect()
}
