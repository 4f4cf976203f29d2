//! GPT-NeoX and Pythia: layer norms, biases, an ungated MLP, a share of each head turned, branches side by side.
//!
//! Traps: in Hugging Face folders query, key and value of a head are neighbours in one tensor, in GGUF they are three blocks
//! like ours; the GELU is the erf form; `attention.bias` and `masked_bias` are the causal mask, not weights.
//!
//! ```
//! use gently_models::families::Entry;
//! assert_eq!(Entry::of_model_type("gpt_neox").unwrap().architectures, ["gptneox"]);
//! ```

use super::keys::activation_name;
use super::{Entry, GgufKeys, Keys, Layout, NameTable, Order, rope};
use crate::config::{DecoderConfig, Family, MlpKind, Position};
use crate::error::Result;
use gently_formats::gguf::Value as Meta;
use serde_json::{Value, json};

/// GPT-NeoX.
pub static ENTRY: Entry = Entry {
    layout: Layout::NeoX,
    model_types: &["gpt_neox"],
    architectures: &["gptneox"],
    from_json,
    to_json,
    names: |cfg| {
        let heads = Order::Heads { head_width: cfg.head_width(), heads: cfg.heads };
        let t = names(cfg, &HF, heads);
        NameTable {
            optional_prefix: Some("gpt_neox."),
            skipped: &[".attention.bias", ".attention.masked_bias", ".rotary_emb.inv_freq"],
            ..t
        }
    },
    from_gguf,
    to_gguf: |cfg| vec![("use_parallel_residual", Meta::Bool(cfg.parallel))],
    gguf_names: |cfg| NameTable { skipped: rope::TENSORS, ..names(cfg, &GGUF, Order::Same) },
};

fn base() -> DecoderConfig {
    DecoderConfig {
        position: Position::Rotary,
        mlp: MlpKind::GeluErf,
        tied_head: false,
        ..DecoderConfig::preset(Family::Gpt2)
    }
}

fn from_json(keys: &Keys) -> Result<DecoderConfig> {
    keys.must_be_off("attention_dropout")?;
    keys.must_be_off("hidden_dropout")?;
    let bias = keys.flag_or("attention_bias", true)?;
    let cfg = DecoderConfig {
        vocab: keys.size("vocab_size")?,
        context: keys.size_if("max_position_embeddings")?.unwrap_or(2048),
        width: keys.size("hidden_size")?,
        layers: keys.size("num_hidden_layers")?,
        heads: keys.size("num_attention_heads")?,
        mlp_width: Some(keys.size("intermediate_size")?),
        mlp: keys.activation("hidden_act", "gelu")?,
        norm_eps: keys.real_or("layer_norm_eps", 1e-5)?,
        attention_bias: bias,
        parallel: keys.flag_or("use_parallel_residual", true)?,
        tied_head: keys.flag_or("tie_word_embeddings", false)?,
        init_std: keys.real_or("initializer_range", 0.02)?,
        ..base()
    };
    keys.rope(&USUAL, cfg)
}

/// transformers 4 has keys of its own for the two; 5 has them in `rope_parameters`, and falls back on these and no others.
const USUAL: rope::Usual =
    rope::Usual { theta: ("rotary_emb_base", 10000.0), partial: ("rotary_pct", 0.25), ..rope::USUAL };

fn to_json(cfg: &DecoderConfig) -> Value {
    let partial = cfg.rotary_width() as f64 / cfg.head_width() as f64;
    let mut json = json!({
        "architectures": ["GPTNeoXForCausalLM"],
        "model_type": "gpt_neox",
        "max_position_embeddings": cfg.context,
        "hidden_size": cfg.width,
        "intermediate_size": cfg.mlp_width(),
        "num_hidden_layers": cfg.layers,
        "num_attention_heads": cfg.heads,
        "hidden_act": activation_name(cfg.mlp),
        "layer_norm_eps": cfg.norm_eps,
        "rotary_pct": partial,
        "rotary_emb_base": cfg.rope_theta,
        "use_parallel_residual": cfg.parallel,
        "attention_bias": cfg.attention_bias,
        "attention_dropout": 0.0,
        "hidden_dropout": 0.0,
    });
    let mut rope = rope::object(cfg, rope::Kind::of(cfg));
    rope["partial_rotary_factor"] = partial.into();
    rope::put(&mut json, rope);
    json
}

fn from_gguf(keys: &GgufKeys) -> Result<DecoderConfig> {
    Ok(DecoderConfig {
        parallel: keys.flag_if("use_parallel_residual")?.unwrap_or(true),
        attention_bias: keys.has("blk.0.attn_qkv.bias"),
        ..keys.common(base())?
    })
}

struct Names {
    tokens: &'static str,
    block: &'static str,
    /// Norm, query-key-value, output, norm, up, down.
    parts: [&'static str; 6],
    final_norm: &'static str,
    head: &'static str,
}

const HF: Names = Names {
    tokens: "gpt_neox.embed_in",
    block: "gpt_neox.layers",
    parts: [
        "input_layernorm",
        "attention.query_key_value",
        "attention.dense",
        "post_attention_layernorm",
        "mlp.dense_h_to_4h",
        "mlp.dense_4h_to_h",
    ],
    final_norm: "gpt_neox.final_layer_norm",
    head: "embed_out",
};

const GGUF: Names = Names {
    tokens: "token_embd",
    block: "blk",
    parts: ["attn_norm", "attn_qkv", "attn_output", "ffn_norm", "ffn_up", "ffn_down"],
    final_norm: "output_norm",
    head: "output",
};

fn names(cfg: &DecoderConfig, n: &Names, qkv_order: Order) -> NameTable {
    let mut t = NameTable::default();
    let c = cfg.width;
    let both = |t: &mut NameTable, ours: String, theirs: String, rows: usize, bias: bool, order: Order| {
        t.same(format!("{ours}.weight"), format!("{theirs}.weight"), rows).order = order;
        if bias {
            t.same(format!("{ours}.bias"), format!("{theirs}.bias"), rows).order = order;
        }
    };
    t.same("embed.tokens", format!("{}.weight", n.tokens), cfg.vocab);
    for i in 0..cfg.layers {
        let ours = |name: &str| format!("blocks.{i}.{name}");
        let [norm, qkv, out, mlp_norm, up, down] = n.parts.map(|name| format!("{}.{i}.{name}", n.block));
        both(&mut t, ours("mixer_norm"), norm, c, true, Order::Same);
        both(&mut t, ours("mixer.qkv"), qkv, cfg.qkv_width(), cfg.attention_bias, qkv_order);
        both(&mut t, ours("mixer.out"), out, c, cfg.out_bias(), Order::Same);
        both(&mut t, ours("mlp_norm"), mlp_norm, c, true, Order::Same);
        both(&mut t, ours("mlp.up"), up, cfg.mlp_width(), true, Order::Same);
        both(&mut t, ours("mlp.down"), down, c, true, Order::Same);
    }
    both(&mut t, "final_norm".into(), n.final_norm.into(), c, true, Order::Same);
    t.head(cfg, format!("{}.weight", n.head));
    t
}
