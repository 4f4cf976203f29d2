//! GPT-2 as published on Hugging Face: keys, names, and what of ours fits into them.
//!
//! Not here: Llama (see [`super::llama`]), file reading (see [`crate::weights`]).
//!
//! Traps: the projections are `Conv1D`, stored `[in, out]`; query, key and value are consecutive thirds of
//! `c_attn`; the prefix `transformer.` is absent in the first published files; `attn.bias` and
//! `attn.masked_bias` are the causal mask, not weights; the GELU is the tanh form. GGUF has the projections as ours, `[out, in]`,
//! and often the embedding table a second time as the head.
//!
//! ```
//! use gently_models::{config::DecoderConfig, families::gpt2};
//! let table = gpt2::names(&DecoderConfig::named("gpt2").unwrap());
//! assert!(table.mappings.iter().any(|m| m.theirs[0].name == "transformer.h.11.attn.c_attn.weight"));
//! ```

use super::keys::activation_name;
use super::{Entry, Keys, Layout, NameTable};
use crate::config::{DecoderConfig, Family, NormKind, NormPlace, Position};
use crate::error::Result;
use serde_json::{Value, json};

/// GPT-2.
pub static ENTRY: Entry = Entry {
    layout: Layout::Gpt2,
    model_types: &["gpt2"],
    architectures: &["gpt2"],
    from_json,
    to_json,
    names,
    from_gguf: |keys| keys.common(DecoderConfig::preset(Family::Gpt2)),
    to_gguf: |_| Vec::new(),
    gguf_names,
};

/// Whether GPT-2's layout holds `cfg` exactly. Biases that `cfg` leaves out are written as zeros.
pub fn covers(cfg: &DecoderConfig) -> bool {
    cfg.norm == NormKind::Layer
        && cfg.norm_place == NormPlace::Pre
        && cfg.position == Position::Learned
        && !cfg.mlp.is_gated()
        && cfg.kv_heads() == cfg.heads
        && cfg.head_width() * cfg.heads == cfg.width
        && cfg.logit_softcap.is_none()
        && cfg.attention_softcap.is_none()
        && cfg.attention_scale.is_none()
        && cfg.embed_scale.is_none()
        && cfg.window.is_none()
        && !(cfg.qk_norm || cfg.embed_norm || cfg.parallel || cfg.bidirectional)
}

/// Reads the published keys.
///
/// # Errors
/// As [`super::read_config`].
pub fn from_json(keys: &Keys) -> Result<DecoderConfig> {
    if !keys.flag_or("scale_attn_weights", true)? {
        return Err(keys.unsupported("scale_attn_weights"));
    }
    if keys.flag_or("scale_attn_by_inverse_layer_idx", false)? {
        return Err(keys.unsupported("scale_attn_by_inverse_layer_idx"));
    }
    if keys.flag_or("add_cross_attention", false)? {
        return Err(keys.unsupported("add_cross_attention"));
    }
    let dropout = keys.real_or("resid_pdrop", 0.1)?;
    for key in ["embd_pdrop", "attn_pdrop"] {
        if keys.real_or(key, 0.1)? != dropout {
            return Err(keys.unsupported(key));
        }
    }
    Ok(DecoderConfig {
        vocab: keys.size("vocab_size")?,
        context: match keys.size_if("n_positions")? {
            Some(n) => n,
            None => keys.size_if("n_ctx")?.unwrap_or(1024),
        },
        width: keys.size("n_embd")?,
        layers: keys.size("n_layer")?,
        heads: keys.size("n_head")?,
        mlp_width: keys.size_if("n_inner")?,
        mlp: keys.activation("activation_function", "gelu_new")?,
        norm_eps: keys.real_or("layer_norm_epsilon", 1e-5)?,
        tied_head: keys.flag_or("tie_word_embeddings", true)?,
        init_std: keys.real_or("initializer_range", 0.02)?,
        dropout,
        ..DecoderConfig::preset(Family::Gpt2)
    })
}

/// The published keys for `cfg`, which [`covers`] accepted.
pub fn to_json(cfg: &DecoderConfig) -> Value {
    json!({
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "n_positions": cfg.context,
        "n_ctx": cfg.context,
        "n_embd": cfg.width,
        "n_layer": cfg.layers,
        "n_head": cfg.heads,
        "n_inner": cfg.mlp_width,
        "activation_function": activation_name(cfg.mlp),
        "layer_norm_epsilon": cfg.norm_eps,
        "resid_pdrop": cfg.dropout,
        "embd_pdrop": cfg.dropout,
        "attn_pdrop": cfg.dropout,
    })
}

/// The name table for `cfg`.
pub fn names(cfg: &DecoderConfig) -> NameTable {
    let mut t = NameTable {
        optional_prefix: Some("transformer."),
        skipped: &[".attn.bias", ".attn.masked_bias"],
        ..NameTable::default()
    };
    let (c, m) = (cfg.width, cfg.mlp_width());
    // A linear layer: `[out, in]` of ours is `[in, out]` of theirs; a missing bias is a bias of zeros.
    let linear = |t: &mut NameTable, ours: String, theirs: String, out: usize, bias: bool| {
        t.rows(format!("{ours}.weight"), vec![(format!("{theirs}.weight"), out)], true);
        if bias {
            t.same(format!("{ours}.bias"), format!("{theirs}.bias"), out);
        } else {
            t.zeros.push((format!("{theirs}.bias"), out));
        }
    };
    let norm = |t: &mut NameTable, ours: String, theirs: String| {
        t.same(format!("{ours}.weight"), format!("{theirs}.weight"), c);
        if cfg.norm_bias {
            t.same(format!("{ours}.bias"), format!("{theirs}.bias"), c);
        } else {
            t.zeros.push((format!("{theirs}.bias"), c));
        }
    };
    t.same("embed.tokens", "transformer.wte.weight", cfg.vocab);
    t.same("embed.positions", "transformer.wpe.weight", cfg.context);
    for i in 0..cfg.layers {
        let (ours, theirs) = (format!("blocks.{i}"), format!("transformer.h.{i}"));
        norm(&mut t, format!("{ours}.mixer_norm"), format!("{theirs}.ln_1"));
        linear(&mut t, format!("{ours}.mixer.qkv"), format!("{theirs}.attn.c_attn"), 3 * c, cfg.attention_bias);
        linear(&mut t, format!("{ours}.mixer.out"), format!("{theirs}.attn.c_proj"), c, cfg.out_bias());
        norm(&mut t, format!("{ours}.mlp_norm"), format!("{theirs}.ln_2"));
        linear(&mut t, format!("{ours}.mlp.up"), format!("{theirs}.mlp.c_fc"), m, cfg.mlp_bias);
        linear(&mut t, format!("{ours}.mlp.down"), format!("{theirs}.mlp.c_proj"), c, cfg.mlp_bias);
    }
    norm(&mut t, "final_norm".into(), "transformer.ln_f".into());
    t.head(cfg, "lm_head.weight");
    t
}

/// The GGUF name table for `cfg`. A file of this family has every bias; ours may not.
fn gguf_names(cfg: &DecoderConfig) -> NameTable {
    let mut t = names(cfg);
    let rename = |name: &str| {
        let name = name.strip_prefix("transformer.").unwrap_or(name);
        let pairs = [
            ("wte.", "token_embd."),
            ("wpe.", "position_embd."),
            ("ln_f.", "output_norm."),
            ("lm_head.", "output."),
            ("h.", "blk."),
        ];
        let start = pairs.iter().find_map(|(from, to)| Some(format!("{to}{}", name.strip_prefix(from)?)));
        let mut name = start.unwrap_or_else(|| name.to_owned());
        let parts = [
            (".ln_1.", ".attn_norm."),
            (".attn.c_attn.", ".attn_qkv."),
            (".attn.c_proj.", ".attn_output."),
            (".ln_2.", ".ffn_norm."),
            (".mlp.c_fc.", ".ffn_up."),
            (".mlp.c_proj.", ".ffn_down."),
        ];
        for (from, to) in parts {
            name = name.replace(from, to);
        }
        name
    };
    for rows in t.mappings.iter_mut().flat_map(|m| &mut m.theirs) {
        (rows.name, rows.transposed) = (rename(&rows.name), false);
    }
    t.zeros.iter_mut().for_each(|(name, _)| *name = rename(name));
    t.head = t.head.map(|name| rename(&name));
    NameTable { optional_prefix: None, skipped: &[], ..t }
}
