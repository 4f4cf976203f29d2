//! Llama as published on Hugging Face (SmolLM2 and many others use it): keys, names, and what of ours fits.
//!
//! Not here: GPT-2 (see [`super::gpt2`]), file reading (see [`crate::pretrained`]).
//!
//! Traps: rotary pairs are half-split, with no permutation of rows; `head_dim` may differ from
//! `hidden_size / num_attention_heads`; `rope_theta` moved into `rope_parameters` in transformers 5; scaled
//! rotary positions are refused rather than ignored.
//!
//! ```
//! use gently_models::{config::DecoderConfig, families::llama};
//! let table = llama::names(&DecoderConfig::named("smollm2-135m").unwrap());
//! let qkv = table.mappings.iter().find(|m| m.ours == "blocks.0.mixer.qkv.weight").unwrap();
//! assert_eq!(qkv.theirs[1].name, "model.layers.0.self_attn.k_proj.weight");
//! assert_eq!(qkv.theirs.iter().map(|r| r.rows).sum::<usize>(), (9 + 2 * 3) * 64);
//! ```

use super::{Keys, NameTable};
use crate::config::{DecoderConfig, Family, MlpKind, NormKind, NormPlace, Position};
use crate::error::Result;
use serde_json::{Value, json};

/// Whether Llama's layout holds `cfg` exactly.
pub fn covers(cfg: &DecoderConfig) -> bool {
    cfg.norm == NormKind::Rms
        && cfg.norm_place == NormPlace::Pre
        && cfg.position == Position::Rotary
        && cfg.mlp == MlpKind::Swiglu
        && cfg.logit_softcap.is_none()
        && cfg.attention_softcap.is_none()
        && cfg.window.is_none()
        && !cfg.qk_norm
}

/// Reads the published keys.
///
/// # Errors
/// As [`super::read_config`].
pub fn from_json(keys: &Keys) -> Result<DecoderConfig> {
    if keys.text_or("hidden_act", "silu")? != "silu" {
        return Err(keys.unsupported("hidden_act"));
    }
    if keys.real_or("partial_rotary_factor", 1.0)? != 1.0 {
        return Err(keys.unsupported("partial_rotary_factor"));
    }
    if let Some(scaling) = keys.object("rope_scaling")? {
        // transformers 4 wrote `{"rope_type": "default"}` here for no scaling at all.
        let kind = scaling.text_or("rope_type", scaling.text_or("type", "unnamed")?)?;
        if kind != "default" {
            return Err(keys.unsupported("rope_scaling"));
        }
    }
    let mut rope_theta = keys.real_or("rope_theta", 10000.0)?;
    if let Some(rope) = keys.object("rope_parameters")? {
        if rope.text_or("rope_type", "default")? != "default" || rope.real_or("partial_rotary_factor", 1.0)? != 1.0 {
            return Err(keys.unsupported("rope_parameters"));
        }
        rope_theta = rope.real_or("rope_theta", rope_theta)?;
    }
    // Ours drops the embedding and the branches as well, so another figure than 0 cannot be honoured.
    if keys.real_or("attention_dropout", 0.0)? != 0.0 {
        return Err(keys.unsupported("attention_dropout"));
    }
    Ok(DecoderConfig {
        vocab: keys.size("vocab_size")?,
        context: keys.size("max_position_embeddings")?,
        width: keys.size("hidden_size")?,
        layers: keys.size("num_hidden_layers")?,
        heads: keys.size("num_attention_heads")?,
        kv_heads: keys.size_if("num_key_value_heads")?,
        head_width: keys.size_if("head_dim")?,
        mlp_width: Some(keys.size("intermediate_size")?),
        norm_eps: keys.real_or("rms_norm_eps", 1e-6)?,
        attention_bias: keys.flag_or("attention_bias", false)?,
        mlp_bias: keys.flag_or("mlp_bias", false)?,
        tied_head: keys.flag_or("tie_word_embeddings", false)?,
        init_std: keys.real_or("initializer_range", 0.02)?,
        rope_theta,
        ..DecoderConfig::preset(Family::Llama)
    })
}

/// The published keys for `cfg`, which [`covers`] accepted.
pub fn to_json(cfg: &DecoderConfig) -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "max_position_embeddings": cfg.context,
        "hidden_size": cfg.width,
        "intermediate_size": cfg.mlp_width(),
        "num_hidden_layers": cfg.layers,
        "num_attention_heads": cfg.heads,
        "num_key_value_heads": cfg.kv_heads(),
        "head_dim": cfg.head_width(),
        "hidden_act": "silu",
        "rms_norm_eps": cfg.norm_eps,
        // transformers 4 reads the first, 5 the second.
        "rope_theta": cfg.rope_theta,
        "rope_parameters": { "rope_type": "default", "rope_theta": cfg.rope_theta },
        "attention_bias": cfg.attention_bias,
        "attention_dropout": 0.0,
        "mlp_bias": cfg.mlp_bias,
    })
}

/// The name table for `cfg`.
pub fn names(cfg: &DecoderConfig) -> NameTable {
    let mut t = NameTable { skipped: &["rotary_emb.inv_freq"], ..NameTable::default() };
    let (c, m) = (cfg.width, cfg.mlp_width());
    let (q, kv) = (cfg.heads * cfg.head_width(), cfg.kv_heads() * cfg.head_width());
    // A linear layer of ours is theirs stacked by rows.
    let linear = |t: &mut NameTable, ours: String, parts: &[(String, usize)], bias: bool| {
        for end in if bias { &["weight", "bias"][..] } else { &["weight"][..] } {
            let theirs = parts.iter().map(|(name, rows)| (format!("{name}.{end}"), *rows)).collect();
            t.rows(format!("{ours}.{end}"), theirs, false);
        }
    };
    t.same("embed.tokens", "model.embed_tokens.weight", cfg.vocab);
    for i in 0..cfg.layers {
        let (ours, theirs) = (format!("blocks.{i}"), format!("model.layers.{i}"));
        let attn = |end: &str| format!("{theirs}.self_attn.{end}_proj");
        let mlp = |end: &str| format!("{theirs}.mlp.{end}_proj");
        t.same(format!("{ours}.mixer_norm.weight"), format!("{theirs}.input_layernorm.weight"), c);
        let qkv = [(attn("q"), q), (attn("k"), kv), (attn("v"), kv)];
        linear(&mut t, format!("{ours}.mixer.qkv"), &qkv, cfg.attention_bias);
        linear(&mut t, format!("{ours}.mixer.out"), &[(attn("o"), c)], cfg.attention_bias);
        t.same(format!("{ours}.mlp_norm.weight"), format!("{theirs}.post_attention_layernorm.weight"), c);
        linear(&mut t, format!("{ours}.mlp.gate_up"), &[(mlp("gate"), m), (mlp("up"), m)], cfg.mlp_bias);
        linear(&mut t, format!("{ours}.mlp.down"), &[(mlp("down"), c)], cfg.mlp_bias);
    }
    t.same("final_norm.weight", "model.norm.weight", c);
    if !cfg.tied_head {
        t.same("head.weight", "lm_head.weight", cfg.vocab);
    }
    t
}
