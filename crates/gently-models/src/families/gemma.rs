//! Gemma 1, 2 and 3 (text): a gated GELU, scaled embeddings, a tied head; from 2 on norms on both sides of a branch and
//! layers with a window between others; soft caps in 2 (the last one in
//! some files of 3), normalised queries and keys and two rotary wavelengths in 3.
//!
//! Traps: Hugging Face stores the scales of norms less one, GGUF as they are; the embedding's factor √C is not the head's;
//! scores are divided by the root of `query_pre_attn_scalar`, which GGUF does not have (the largest sizes are known by their
//! number of layers); a Gemma 2 file that says nothing of soft caps and window has those of the published sizes; Gemma 3's
//! local layers ignore the stretching of positions.
//!
//! ```
//! use gently_models::families::Entry;
//! assert_eq!(Entry::of_model_type("gemma3_text").unwrap().architectures, ["gemma3"]);
//! ```

use super::stacked::{self, Choices};
use super::{Entry, GgufKeys, Keys, Layout, llama};
use crate::config::{DecoderConfig, Family, MlpKind, NormPlace};
use crate::error::Result;
use gently_formats::gguf::Value as Meta;
use serde_json::{Value, json};

/// Every second layer of Gemma 2 has no window.
const SKIP2: usize = 2;
/// Every sixth layer of Gemma 3 has no window.
const SKIP3: usize = 6;

/// Gemma 1.
pub static GEMMA: Entry = Entry {
    layout: Layout::Gemma,
    model_types: &["gemma"],
    architectures: &["gemma"],
    from_json: |keys| finish(from_json(keys)?),
    to_json: |cfg| to_json(cfg, "GemmaForCausalLM", "gemma", &[]),
    names: |cfg| stacked::hf(cfg, Choices { norm_shift: 1.0, ..Choices::default() }),
    from_gguf: |keys| finish(keys.common(base())?),
    to_gguf: |_| Vec::new(),
    gguf_names: |cfg| stacked::gguf(cfg, Choices::default()),
};

/// Gemma 2.
pub static GEMMA2: Entry = Entry {
    layout: Layout::Gemma2,
    model_types: &["gemma2"],
    architectures: &["gemma2"],
    from_json: |keys| {
        let window_skip = Some(window_skip(keys, SKIP2)?);
        finish(DecoderConfig {
            norm_place: NormPlace::Both,
            attention_scale: Some(keys.real_or("query_pre_attn_scalar", 256.0)?.powf(-0.5)),
            attention_softcap: keys.real_if("attn_logit_softcapping")?,
            logit_softcap: keys.real_if("final_logit_softcapping")?,
            window: keys.size_if("sliding_window")?,
            window_skip,
            ..from_json(keys)?
        })
    },
    to_json: |cfg| {
        let more = [
            ("query_pre_attn_scalar", json!(scalar(cfg))),
            ("attn_logit_softcapping", json!(cfg.attention_softcap)),
            ("final_logit_softcapping", json!(cfg.logit_softcap)),
            ("sliding_window", json!(cfg.window)),
            ("layer_types", json!(layer_types(cfg))),
        ];
        to_json(cfg, "Gemma2ForCausalLM", "gemma2", &more)
    },
    names: GEMMA.names,
    from_gguf: |keys| {
        // Files older than these keys have llama.cpp's defaults; 0 says none.
        let cap = |key: &str, default: f64| -> Result<Option<f64>> {
            Ok(Some(keys.real_if(key)?.unwrap_or(default)).filter(|cap| *cap != 0.0))
        };
        let cfg = DecoderConfig {
            norm_place: NormPlace::Both,
            attention_softcap: cap("attn_logit_softcapping", 50.0)?,
            logit_softcap: cap("final_logit_softcapping", 30.0)?,
            window: Some(keys.size_if("attention.sliding_window")?.unwrap_or(4096)).filter(|w| *w > 0),
            window_skip: pattern(keys, SKIP2)?,
            ..keys.common_capped(base())?
        };
        finish(scaled(keys, cfg, 46)?)
    },
    to_gguf: |cfg| {
        let mut more = window_keys(cfg);
        let caps = [("attn_logit_softcapping", cfg.attention_softcap), ("final_logit_softcapping", cfg.logit_softcap)];
        more.extend(caps.map(|(key, cap)| (key, Meta::F32(cap.unwrap_or(0.0) as f32))));
        more
    },
    gguf_names: GEMMA.gguf_names,
};

/// Gemma 3, the text part.
pub static GEMMA3: Entry = Entry {
    layout: Layout::Gemma3,
    model_types: &["gemma3_text"],
    architectures: &["gemma3"],
    from_json: |keys| {
        keys.must_be_off("attn_logit_softcapping")?;
        keys.must_be_off("use_bidirectional_attention")?;
        let mut cfg = DecoderConfig {
            norm_place: NormPlace::Both,
            qk_norm: true,
            logit_softcap: keys.real_if("final_logit_softcapping")?.filter(|cap| *cap != 0.0),
            attention_scale: Some(keys.real_or("query_pre_attn_scalar", 256.0)?.powf(-0.5)),
            window: keys.size_if("sliding_window")?,
            window_skip: Some(window_skip(keys, keys.size_if("sliding_window_pattern")?.unwrap_or(SKIP3))?),
            local_rope_theta: Some(keys.real_or("rope_local_base_freq", 10000.0)?),
            rope_theta: keys.real_or("rope_theta", 1e6)?,
            ..from_json(keys)?
        };
        // transformers 5 has an object for each kind of layer.
        if let Some(rope) = keys.object("rope_parameters")? {
            if let Some(local) = rope.object("sliding_attention")? {
                if !matches!(local.rope_factors(1.0, 2)?, Some(None)) {
                    return Err(keys.unsupported("rope_parameters"));
                }
                cfg.local_rope_theta = Some(local.real_or("rope_theta", 10000.0)?);
            }
            if let Some(full) = rope.object("full_attention")? {
                cfg.rope_theta = full.real_or("rope_theta", 1e6)?;
                let factors = full.rope_factors(cfg.rope_theta, cfg.head_width())?;
                cfg.rope_factors = factors.ok_or_else(|| keys.unsupported("rope_parameters"))?;
            }
        }
        finish(cfg)
    },
    to_json: |cfg| {
        let rope = |theta: Option<f64>| json!({ "rope_type": "default", "rope_theta": theta });
        let more = [
            ("query_pre_attn_scalar", json!(scalar(cfg))),
            ("final_logit_softcapping", json!(cfg.logit_softcap)),
            ("sliding_window", json!(cfg.window)),
            ("layer_types", json!(layer_types(cfg))),
            ("rope_local_base_freq", json!(cfg.local_rope_theta)),
            (
                "rope_parameters",
                json!({
                    "full_attention": rope(Some(cfg.rope_theta)), "sliding_attention": rope(cfg.local_rope_theta),
                }),
            ),
        ];
        to_json(cfg, "Gemma3ForCausalLM", "gemma3_text", &more)
    },
    names: GEMMA.names,
    from_gguf: |keys| {
        keys.no_cap("attn_logit_softcapping")?;
        let common = keys.common_capped(base())?;
        let cfg = DecoderConfig {
            norm_place: NormPlace::Both,
            qk_norm: true,
            // Published models have none, but some files of them say one, and llama.cpp believes it.
            logit_softcap: keys.real_if("final_logit_softcapping")?.filter(|cap| *cap != 0.0),
            window_skip: pattern(keys, SKIP3)?,
            rope_theta: keys.real_if("rope.freq_base")?.unwrap_or(1e6),
            local_rope_theta: Some(keys.real_if("rope.freq_base_swa")?.unwrap_or(10000.0)),
            ..common
        };
        finish(scaled(keys, cfg, 62)?)
    },
    to_gguf: |cfg| {
        let mut more = window_keys(cfg);
        more.extend(cfg.local_rope_theta.map(|theta| ("rope.freq_base_swa", Meta::F32(theta as f32))));
        more.extend(cfg.logit_softcap.map(|cap| ("final_logit_softcapping", Meta::F32(cap as f32))));
        more
    },
    gguf_names: GEMMA.gguf_names,
};

fn base() -> DecoderConfig {
    DecoderConfig { mlp: MlpKind::Geglu, tied_head: true, ..DecoderConfig::preset(Family::Llama) }
}

fn from_json(keys: &Keys) -> Result<DecoderConfig> {
    // Gemma 1's `hidden_act` says "gelu" and is the tanh form all the same; the later key wins.
    let activation = keys.text_or("hidden_activation", "gelu_pytorch_tanh")?;
    if activation != "gelu_pytorch_tanh" {
        return Err(keys.unsupported("hidden_activation"));
    }
    keys.must_be_off("attention_bias")?;
    let head_width = keys.size_if("head_dim")?.or(Some(256));
    Ok(DecoderConfig { head_width, ..llama::from_json_with(keys, &base())? })
}

/// What follows from the sizes.
fn finish(cfg: DecoderConfig) -> Result<DecoderConfig> {
    Ok(DecoderConfig { embed_scale: Some((cfg.width as f64).sqrt()), ..cfg })
}

fn to_json(cfg: &DecoderConfig, architecture: &str, model_type: &str, more: &[(&str, Value)]) -> Value {
    let mut json = stacked::to_json(cfg, architecture, model_type, more);
    json["hidden_act"] = "gelu_pytorch_tanh".into();
    json["hidden_activation"] = "gelu_pytorch_tanh".into();
    json
}

/// The number whose root divides the scores, whole where it was whole.
fn scalar(cfg: &DecoderConfig) -> f64 {
    let scalar = cfg.attention_scale().powi(-2);
    if (scalar - scalar.round()).abs() < 1e-9 * scalar { scalar.round() } else { scalar }
}

fn layer_types(cfg: &DecoderConfig) -> Vec<&'static str> {
    let kind = |i| if cfg.window_of(i).is_some() { "sliding_attention" } else { "full_attention" };
    // A configuration is asked whether it fits before its sizes are believed.
    (0..cfg.layers.min(1 << 16)).map(kind).collect()
}

/// Every how many layers one has no window, from the list of kinds where there is one.
fn window_skip(keys: &Keys, default: usize) -> Result<usize> {
    let Some(kinds) = keys.texts("layer_types")? else { return Ok(default) };
    let skip = kinds.iter().position(|k| *k == "full_attention").map_or(kinds.len() + 1, |i| i + 1);
    let regular = kinds.iter().enumerate().all(|(i, kind)| match *kind {
        "full_attention" => (i + 1).is_multiple_of(skip),
        "sliding_attention" => !(i + 1).is_multiple_of(skip),
        _ => false,
    });
    if !regular {
        return Err(keys.unsupported("layer_types"));
    }
    // A list with windows only says nothing about longer ones.
    Ok(if skip > kinds.len() { default.max(skip) } else { skip })
}

/// GGUF has no scale of scores; the largest sizes divide by the root of width over heads.
fn scaled(keys: &GgufKeys, cfg: DecoderConfig, largest: usize) -> Result<DecoderConfig> {
    let said = keys.real_if("attention.scale")?.filter(|s| *s != 0.0);
    let scale = said.or_else(|| (cfg.layers == largest).then(|| (cfg.width as f64 / cfg.heads as f64).powf(-0.5)));
    Ok(DecoderConfig { attention_scale: scale, ..cfg })
}

/// Every how many layers one has no window; 0 says that every layer has it.
fn pattern(keys: &GgufKeys, default: usize) -> Result<Option<usize>> {
    Ok(Some(keys.size_if("attention.sliding_window_pattern")?.unwrap_or(default)).filter(|n| *n > 0))
}

/// Both are written where there are none too, as a reader has defaults.
fn window_keys(cfg: &DecoderConfig) -> Vec<(&'static str, Meta)> {
    let size = |n: Option<usize>| Meta::U32(n.unwrap_or(0) as u32);
    vec![("attention.sliding_window", size(cfg.window)), ("attention.sliding_window_pattern", size(cfg.window_skip))]
}
