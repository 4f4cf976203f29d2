//! BERT encoders without heads, MiniLM among them: attention both ways, norms after each sum, learned positions.
//!
//! Traps: the embedding of the token's type is added; sentences are all of the first type, so its row is added to the position
//! table when read. The GELU is the erf form, eps 1e-12. Old files say `gamma` and `beta` for a norm's weight and bias, and carry
//! `position_ids`, which are no weights. The pooler is not the mean that embedders use. Heads (masked words, classes) are left out.
//!
//! ```
//! use gently_models::families::Entry;
//! assert_eq!(Entry::of_model_type("bert").unwrap().architectures, ["bert"]);
//! ```

use super::keys::activation_name;
use super::{Entry, Keys, Layout, NameTable};
use crate::config::{DecoderConfig, Family, MlpKind, NormPlace};
use crate::error::Result;
use gently_formats::gguf::Value as Meta;
use serde_json::{Value, json};

/// BERT.
pub static ENTRY: Entry = Entry {
    layout: Layout::Bert,
    model_types: &["bert"],
    architectures: &["bert"],
    from_json,
    to_json,
    names: |cfg| NameTable {
        optional_prefix: Some("bert."),
        old_ends: &[("LayerNorm.weight", "LayerNorm.gamma"), ("LayerNorm.bias", "LayerNorm.beta")],
        other_heads: &["cls.", "classifier.", "qa_outputs."],
        skipped: &["embeddings.position_ids", "pooler.dense.weight", "pooler.dense.bias"],
        ..names(cfg, &HF)
    },
    from_gguf: |keys| keys.common(base()),
    to_gguf: |_| vec![("attention.causal", Meta::Bool(false))],
    gguf_names: |cfg| names(cfg, &GGUF),
};

fn base() -> DecoderConfig {
    DecoderConfig {
        norm_place: NormPlace::Post,
        norm_eps: 1e-12,
        mlp: MlpKind::GeluErf,
        embed_norm: true,
        bidirectional: true,
        tied_head: true,
        ..DecoderConfig::preset(Family::Gpt2)
    }
}

fn from_json(keys: &Keys) -> Result<DecoderConfig> {
    if keys.text_or("position_embedding_type", "absolute")? != "absolute" {
        return Err(keys.unsupported("position_embedding_type"));
    }
    keys.must_be_off("is_decoder")?;
    keys.must_be_off("add_cross_attention")?;
    Ok(DecoderConfig {
        vocab: keys.size("vocab_size")?,
        context: keys.size_if("max_position_embeddings")?.unwrap_or(512),
        width: keys.size("hidden_size")?,
        layers: keys.size("num_hidden_layers")?,
        heads: keys.size("num_attention_heads")?,
        mlp_width: Some(keys.size("intermediate_size")?),
        mlp: keys.activation("hidden_act", "gelu")?,
        norm_eps: keys.real_or("layer_norm_eps", 1e-12)?,
        init_std: keys.real_or("initializer_range", 0.02)?,
        ..base()
    })
}

fn to_json(cfg: &DecoderConfig) -> Value {
    json!({
        "architectures": ["BertModel"],
        "model_type": "bert",
        "max_position_embeddings": cfg.context,
        "hidden_size": cfg.width,
        "intermediate_size": cfg.mlp_width(),
        "num_hidden_layers": cfg.layers,
        "num_attention_heads": cfg.heads,
        "hidden_act": activation_name(cfg.mlp),
        "layer_norm_eps": cfg.norm_eps,
        "type_vocab_size": 1,
        "position_embedding_type": "absolute",
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    })
}

struct Names {
    tokens: &'static str,
    positions: &'static str,
    types: &'static str,
    embed_norm: &'static str,
    block: &'static str,
    /// Query, key, value, output, norm, up, down, norm.
    parts: [&'static str; 8],
}

const HF: Names = Names {
    tokens: "bert.embeddings.word_embeddings",
    positions: "bert.embeddings.position_embeddings",
    types: "bert.embeddings.token_type_embeddings",
    embed_norm: "bert.embeddings.LayerNorm",
    block: "bert.encoder.layer",
    parts: [
        "attention.self.query",
        "attention.self.key",
        "attention.self.value",
        "attention.output.dense",
        "attention.output.LayerNorm",
        "intermediate.dense",
        "output.dense",
        "output.LayerNorm",
    ],
};

const GGUF: Names = Names {
    tokens: "token_embd",
    positions: "position_embd",
    types: "token_types",
    embed_norm: "token_embd_norm",
    block: "blk",
    parts: ["attn_q", "attn_k", "attn_v", "attn_output", "attn_output_norm", "ffn_up", "ffn_down", "layer_output_norm"],
};

fn names(cfg: &DecoderConfig, n: &Names) -> NameTable {
    let mut t = NameTable::default();
    let c = cfg.width;
    let both = |t: &mut NameTable, ours: String, theirs: &[String], rows: usize| {
        for end in ["weight", "bias"] {
            let theirs = theirs.iter().map(|name| (format!("{name}.{end}"), rows)).collect();
            t.rows(format!("{ours}.{end}"), theirs, false);
        }
    };
    t.same("embed.tokens", format!("{}.weight", n.tokens), cfg.vocab);
    t.same("embed.positions", format!("{}.weight", n.positions), cfg.context).plus =
        Some(format!("{}.weight", n.types));
    both(&mut t, "embed_norm".into(), &[n.embed_norm.into()], c);
    for i in 0..cfg.layers {
        let ours = |name: &str| format!("blocks.{i}.{name}");
        let [q, k, v, out, mixer_norm, up, down, mlp_norm] = n.parts.map(|name| format!("{}.{i}.{name}", n.block));
        both(&mut t, ours("mixer_norm"), &[mixer_norm], c);
        both(&mut t, ours("mixer.qkv"), &[q, k, v], c);
        both(&mut t, ours("mixer.out"), &[out], c);
        both(&mut t, ours("mlp_norm"), &[mlp_norm], c);
        both(&mut t, ours("mlp.up"), &[up], cfg.mlp_width());
        both(&mut t, ours("mlp.down"), &[down], c);
    }
    t
}
