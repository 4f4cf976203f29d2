//! Names that Llama's descendants share, in Hugging Face folders and in GGUF files.
//!
//! Here: the tables of models whose blocks are a norm, attention, a norm and an MLP, told apart by a few choices. Not
//! here: which family makes which choice (its own file).

use super::{NameTable, Order, rope};
use crate::config::{DecoderConfig, NormPlace, Position};
use serde_json::{Value, json};

/// What differs between the families' tables.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Choices {
    /// Query, key and value are one tensor, and so are gate and up.
    pub fused: bool,
    /// The norms' scales are stored less one.
    pub norm_shift: f32,
    /// Rows of queries and keys have rotary pairs as neighbours.
    pub paired: bool,
}

/// Names of one file format; `{}` never occurs, the block's number is joined by the code.
struct Names {
    tokens: &'static str,
    block: &'static str,
    mixer_norm: &'static str,
    mixer_out_norm: &'static str,
    mlp_norm: &'static str,
    mlp_out_norm: &'static str,
    q: &'static str,
    k: &'static str,
    v: &'static str,
    qkv: &'static str,
    out: &'static str,
    q_norm: &'static str,
    k_norm: &'static str,
    gate: &'static str,
    up: &'static str,
    gate_up: &'static str,
    down: &'static str,
    final_norm: &'static str,
    head: &'static str,
}

const HF: Names = Names {
    tokens: "model.embed_tokens",
    block: "model.layers",
    mixer_norm: "input_layernorm",
    // Where a branch has norms on both sides, or on the way out only; otherwise the second name is the MLP's norm.
    mixer_out_norm: "post_attention_layernorm",
    mlp_norm: "pre_feedforward_layernorm",
    mlp_out_norm: "post_feedforward_layernorm",
    q: "self_attn.q_proj",
    k: "self_attn.k_proj",
    v: "self_attn.v_proj",
    qkv: "self_attn.qkv_proj",
    out: "self_attn.o_proj",
    q_norm: "self_attn.q_norm",
    k_norm: "self_attn.k_norm",
    gate: "mlp.gate_proj",
    up: "mlp.up_proj",
    gate_up: "mlp.gate_up_proj",
    down: "mlp.down_proj",
    final_norm: "model.norm",
    head: "lm_head",
};

const GGUF: Names = Names {
    tokens: "token_embd",
    block: "blk",
    mixer_norm: "attn_norm",
    mixer_out_norm: "post_attention_norm",
    mlp_norm: "ffn_norm",
    mlp_out_norm: "post_ffw_norm",
    q: "attn_q",
    k: "attn_k",
    v: "attn_v",
    qkv: "attn_qkv",
    out: "attn_output",
    q_norm: "attn_q_norm",
    k_norm: "attn_k_norm",
    gate: "ffn_gate",
    up: "ffn_up",
    // Without a gate of its own the "up" tensor holds both.
    gate_up: "ffn_up",
    down: "ffn_down",
    final_norm: "output_norm",
    head: "output",
};

/// The Hugging Face table.
pub(super) fn hf(cfg: &DecoderConfig, choices: Choices) -> NameTable {
    let names = match cfg.norm_place {
        NormPlace::Pre => Names { mlp_norm: HF.mixer_out_norm, ..HF },
        _ => HF,
    };
    NameTable { optional_prefix: Some("model."), skipped: &["rotary_emb.inv_freq"], ..table(cfg, choices, &names) }
}

/// The GGUF table. Queries and keys of Llama itself are `paired`.
pub(super) fn gguf(cfg: &DecoderConfig, choices: Choices) -> NameTable {
    NameTable { skipped: rope::TENSORS, ..table(cfg, choices, &GGUF) }
}

fn table(cfg: &DecoderConfig, choices: Choices, n: &Names) -> NameTable {
    let mut t = NameTable::default();
    let (c, m, d) = (cfg.width, cfg.mlp_width(), cfg.head_width());
    let (q, kv) = (cfg.heads * d, cfg.kv_heads() * d);
    // A linear layer of ours is theirs stacked by rows.
    let linear = |t: &mut NameTable, ours: String, parts: &[(String, usize)], bias: bool, paired: usize| {
        for end in if bias { &["weight", "bias"][..] } else { &["weight"][..] } {
            let theirs = parts.iter().map(|(name, rows)| (format!("{name}.{end}"), *rows)).collect();
            t.rows(format!("{ours}.{end}"), theirs, false);
            t.latest().iter_mut().take(paired).for_each(|r| r.order = Order::Pairs { head_width: d });
        }
    };
    let norm = |t: &mut NameTable, ours: String, theirs: String, width: usize| {
        t.same(format!("{ours}.weight"), format!("{theirs}.weight"), width).shift = choices.norm_shift;
    };
    t.same("embed.tokens", format!("{}.weight", n.tokens), cfg.vocab);
    for i in 0..cfg.layers {
        let (ours, block) = (format!("blocks.{i}"), format!("{}.{i}", n.block));
        let their = |name: &str| format!("{block}.{name}");
        let out = cfg.norm_place == NormPlace::Out;
        norm(&mut t, format!("{ours}.mixer_norm"), their(if out { n.mixer_out_norm } else { n.mixer_norm }), c);
        if cfg.norm_place == NormPlace::Both {
            norm(&mut t, format!("{ours}.mixer_out_norm"), their(n.mixer_out_norm), c);
        }
        let qkv = match choices.fused {
            true => vec![(their(n.qkv), q + 2 * kv)],
            false => vec![(their(n.q), q), (their(n.k), kv), (their(n.v), kv)],
        };
        // Without rotary positions nothing was permuted.
        let paired = if choices.paired && cfg.position == Position::Rotary { 2 } else { 0 };
        linear(&mut t, format!("{ours}.mixer.qkv"), &qkv, cfg.attention_bias, paired);
        linear(&mut t, format!("{ours}.mixer.out"), &[(their(n.out), c)], cfg.out_bias(), 0);
        if cfg.qk_norm {
            let wide = |all: usize| if cfg.qk_norm_wide { all } else { d };
            norm(&mut t, format!("{ours}.mixer.q_norm"), their(n.q_norm), wide(q));
            norm(&mut t, format!("{ours}.mixer.k_norm"), their(n.k_norm), wide(kv));
        }
        norm(&mut t, format!("{ours}.mlp_norm"), their(if out { n.mlp_out_norm } else { n.mlp_norm }), c);
        if cfg.norm_place == NormPlace::Both {
            norm(&mut t, format!("{ours}.mlp_out_norm"), their(n.mlp_out_norm), c);
        }
        let gate_up = match choices.fused {
            true => vec![(their(n.gate_up), 2 * m)],
            false => vec![(their(n.gate), m), (their(n.up), m)],
        };
        linear(&mut t, format!("{ours}.mlp.gate_up"), &gate_up, cfg.mlp_bias, 0);
        linear(&mut t, format!("{ours}.mlp.down"), &[(their(n.down), c)], cfg.mlp_bias, 0);
    }
    norm(&mut t, "final_norm".into(), n.final_norm.into(), c);
    t.head(cfg, format!("{}.weight", n.head));
    t
}

/// The keys of `config.json` that all of them have; `more` wins.
pub(super) fn to_json(cfg: &DecoderConfig, architecture: &str, model_type: &str, more: &[(&str, Value)]) -> Value {
    let mut json = json!({
        "architectures": [architecture],
        "model_type": model_type,
        "max_position_embeddings": cfg.context,
        "hidden_size": cfg.width,
        "intermediate_size": cfg.mlp_width(),
        "num_hidden_layers": cfg.layers,
        "num_attention_heads": cfg.heads,
        "num_key_value_heads": cfg.kv_heads(),
        "head_dim": cfg.head_width(),
        "hidden_act": "silu",
        "rms_norm_eps": cfg.norm_eps,
        // transformers 5 reads it with the other rotary positions.
        "rope_theta": cfg.rope_theta,
        "attention_bias": cfg.attention_bias,
        "attention_dropout": 0.0,
    });
    rope::put(&mut json, rope::object(cfg, rope::Kind::of(cfg)));
    more.iter().for_each(|(key, value)| json[*key] = value.clone());
    json
}
