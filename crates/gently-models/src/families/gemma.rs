//! Gemma 1, 2 and 3 (text): a gated GELU, scaled embeddings, a tied head; from 2 on norms on both sides of a branch and
//! layers with a window between others; soft caps in 2 (the last one in
//! some files of 3), normalised queries and keys and two rotary wavelengths in 3.
//!
//! Traps: Hugging Face stores the scales of norms less one, GGUF as they are; a `config.json` of Gemma 2 or 3 that leaves caps or
//! window out has those of the published sizes, and one that says null has none; the embedding's factor √C is not the head's;
//! scores are divided by the root of `query_pre_attn_scalar`, which GGUF does not have (the largest sizes are known by their
//! number of layers); a Gemma 2 file that says nothing of soft caps and window has those of the published sizes; Gemma 3's
//! local layers ignore the stretching of positions.
//!
//! ```
//! use gently_models::families::Entry;
//! assert_eq!(Entry::of_model_type("gemma3_text").unwrap().architectures, ["gemma3"]);
//! ```

use super::stacked::{self, Choices};
use super::{Entry, GgufKeys, Keys, Layout, llama, rope};
use crate::config::{DecoderConfig, Family, MlpKind, NormPlace};
use crate::error::Result;
use gently_formats::gguf::Value as Meta;
use serde_json::{Value, json};

/// Every second layer of Gemma 2 has no window.
const SKIP2: usize = 2;
/// Every sixth layer of Gemma 3 has no window.
const SKIP3: usize = 6;
/// Layers of the largest Gemma 2, whose scores are divided by the root of width over heads.
const LARGEST2: usize = 46;
/// The same of Gemma 3.
const LARGEST3: usize = 62;
/// The activation's name.
const TANH: &str = "gelu_pytorch_tanh";

/// Gemma 1.
pub static GEMMA: Entry = Entry {
    layout: Layout::Gemma,
    model_types: &["gemma"],
    architectures: &["gemma"],
    from_json: |keys| {
        // "gelu" is the tanh form all the same.
        if !["gelu", "gelu_new", TANH].contains(&keys.text_or("hidden_act", TANH)?) {
            return Err(keys.unsupported("hidden_act"));
        }
        finish(from_json(keys, &defaults(8192, 16))?)
    },
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
            attention_scale: Some(scale(keys.real_or("query_pre_attn_scalar", 256.0)?)),
            attention_softcap: keys.optional_real("attn_logit_softcapping", Some(50.0))?,
            logit_softcap: keys.optional_real("final_logit_softcapping", Some(30.0))?,
            window: keys.optional_size("sliding_window", Some(4096))?,
            window_skip,
            ..from_json(keys, &defaults(8192, 4))?
        })
    },
    to_json: |cfg| {
        let more = [
            ("query_pre_attn_scalar", scalar(cfg)),
            ("attn_logit_softcapping", json!(cfg.attention_softcap)),
            ("final_logit_softcapping", json!(cfg.logit_softcap)),
            ("sliding_window", json!(cfg.window)),
            ("layer_types", json!(llama::layer_types(cfg))),
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
        finish(scaled(keys, cfg, LARGEST2)?)
    },
    to_gguf: |cfg| {
        let mut more = own_keys(cfg);
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
        let cfg = DecoderConfig {
            norm_place: NormPlace::Both,
            qk_norm: true,
            // transformers divides by 0 too, which is no model: null says none.
            logit_softcap: keys.real_if("final_logit_softcapping")?,
            attention_scale: Some(scale(keys.real_or("query_pre_attn_scalar", 256.0)?)),
            window: keys.optional_size("sliding_window", Some(4096))?,
            window_skip: Some(window_skip(keys, keys.size_if("sliding_window_pattern")?.unwrap_or(SKIP3))?),
            ..from_json(keys, &defaults(1 << 17, 4))?
        };
        finish(turned(keys, cfg)?)
    },
    to_json: |cfg| {
        let full = rope::object(cfg, rope::Kind::of(cfg));
        let local = json!({ "rope_type": "default", "rope_theta": cfg.local_rope_theta });
        let more = [
            ("query_pre_attn_scalar", scalar(cfg)),
            ("final_logit_softcapping", json!(cfg.logit_softcap)),
            ("sliding_window", json!(cfg.window)),
            ("layer_types", json!(llama::layer_types(cfg))),
            ("rope_local_base_freq", json!(cfg.local_rope_theta)),
            ("rope_parameters", json!({ "full_attention": full, "sliding_attention": local })),
        ];
        to_json(cfg, "Gemma3ForCausalLM", "gemma3_text", &more)
    },
    names: GEMMA.names,
    from_gguf: |keys| {
        keys.no_cap("attn_logit_softcapping")?;
        // llama.cpp multiplies queries and keys of local layers by it too.
        if let Some(factor) = keys.real_if("rope.scaling.attn_factor")?.filter(|f| *f != 1.0) {
            return Err(keys.error("rope.scaling.attn_factor", format!("{factor} is not supported for gemma3, only 1")));
        }
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
        finish(scaled(keys, cfg, LARGEST3)?)
    },
    to_gguf: |cfg| {
        let mut more = own_keys(cfg);
        more.extend(cfg.local_rope_theta.map(|theta| ("rope.freq_base_swa", Meta::F32(theta as f32))));
        more.extend(cfg.logit_softcap.map(|cap| ("final_logit_softcapping", Meta::F32(cap as f32))));
        more
    },
    gguf_names: GEMMA.gguf_names,
};

fn base() -> DecoderConfig {
    DecoderConfig { mlp: MlpKind::Geglu, tied_head: true, ..DecoderConfig::preset(Family::Llama) }
}

/// What keys of a `config.json` that are left out say.
fn defaults(context: usize, kv_heads: usize) -> DecoderConfig {
    let llama = llama::defaults(context, Some(kv_heads));
    DecoderConfig { mlp: MlpKind::Geglu, tied_head: true, head_width: Some(256), ..llama }
}

fn from_json(keys: &Keys, defaults: &DecoderConfig) -> Result<DecoderConfig> {
    if keys.text_or("hidden_activation", TANH)? != TANH {
        return Err(keys.unsupported("hidden_activation"));
    }
    keys.must_be_off("attention_bias")?;
    keys.must_be_off("use_bidirectional_attention")?;
    llama::from_json_whole(keys, defaults)
}

/// Gemma 3 with its rotary positions. transformers 5 has an object for each kind of layer, and adds what transformers 4 has in
/// `rope_scaling` to that of the layers without a window.
fn turned(keys: &Keys, cfg: DecoderConfig) -> Result<DecoderConfig> {
    let parameters = keys.object("rope_parameters")?;
    let said = |kind: &str| parameters.as_ref().and_then(|rope| rope.value(kind)).cloned();
    let at = |theta: f64| rope::At {
        theta,
        width: cfg.head_width(),
        context: cfg.context,
        original: None,
        early_names: false,
    };
    let mut local_theta = keys.real_or("rope_local_base_freq", 10000.0)?;
    if let Some(local) = said("sliding_attention") {
        let local = keys.with(&local)?;
        local_theta = local.real_or("rope_theta", local_theta)?;
        if local.stretched(&at(local_theta))? != Some(rope::Stretched::default()) {
            return Err(keys.unsupported("rope_parameters"));
        }
    }
    let mut full = said("full_attention").unwrap_or_else(|| json!({ "rope_type": "default" }));
    if let (Value::Object(full), Some(Value::Object(more))) = (&mut full, keys.value("rope_scaling")) {
        full.extend(more.clone());
    }
    let full = keys.with(&full)?;
    let theta = full.real_or("rope_theta", keys.real_or("rope_theta", 1e6)?)?;
    let stretched = full.stretched(&at(theta))?.ok_or_else(|| keys.unsupported("rope_parameters"))?;
    Ok(stretched.apply(DecoderConfig { rope_theta: theta, local_rope_theta: Some(local_theta), ..cfg }))
}

/// What follows from the sizes.
fn finish(cfg: DecoderConfig) -> Result<DecoderConfig> {
    Ok(DecoderConfig { embed_scale: Some((cfg.width as f64).sqrt()), ..cfg })
}

fn to_json(cfg: &DecoderConfig, architecture: &str, model_type: &str, more: &[(&str, Value)]) -> Value {
    let mut json = stacked::to_json(cfg, architecture, model_type, more);
    json["hidden_act"] = TANH.into();
    json["hidden_activation"] = TANH.into();
    json
}

/// What the scores are multiplied by, from the number whose root divides them.
fn scale(scalar: f64) -> f64 {
    1.0 / whole(scalar).sqrt()
}

/// A number that was whole before its root went through single precision, as it was.
fn whole(scalar: f64) -> f64 {
    if (scalar - scalar.round()).abs() < 1e-6 * scalar { scalar.round() } else { scalar }
}

/// The number whose root divides the scores; transformers 5 takes whole numbers only.
fn scalar(cfg: &DecoderConfig) -> Value {
    let scalar = whole(cfg.attention_scale().powi(-2));
    // A float has all of these.
    if scalar.fract() == 0.0 && scalar < 9e15 { json!(scalar as u64) } else { json!(scalar) }
}

/// Every how many layers one has no window, from the list of kinds where there is one.
fn window_skip(keys: &Keys, default: usize) -> Result<usize> {
    let Some(skip) = llama::listed_skip(keys)? else { return Ok(default) };
    // A list with windows only says nothing about longer ones.
    Ok(if skip > keys.size("num_hidden_layers")? { default.max(skip) } else { skip })
}

/// GGUF has no scale of scores; the largest sizes divide by the root of width over heads.
fn scaled(keys: &GgufKeys, cfg: DecoderConfig, largest: usize) -> Result<DecoderConfig> {
    let said = keys.real_if("attention.scale")?.filter(|s| *s != 0.0).map(|s| scale(s.powi(-2)));
    let own = || (cfg.layers == largest).then(|| scale(cfg.width as f64 / cfg.heads as f64));
    Ok(DecoderConfig { attention_scale: said.or_else(own), ..cfg })
}

/// What llama.cpp does not take from a file of Gemma 2 or 3, and so computes otherwise.
pub(super) fn ignored(cfg: &DecoderConfig, architecture: &str) -> Vec<String> {
    let largest = if architecture == "gemma2" { LARGEST2 } else { LARGEST3 };
    let theirs = match cfg.layers == largest {
        true => scale(cfg.width as f64 / cfg.heads as f64),
        false => 1.0 / (cfg.head_width() as f64).sqrt(),
    };
    let mut ignored = Vec::new();
    if (cfg.attention_scale() - theirs).abs() > 1e-6 * theirs {
        ignored.push(format!("the factor {} of the scores", cfg.attention_scale() as f32));
    }
    // It divides by the 0 that says none.
    if architecture == "gemma2" && (cfg.attention_softcap.is_none() || cfg.logit_softcap.is_none()) {
        ignored.push("the absence of a soft cap".to_owned());
    }
    ignored
}

/// Every how many layers one has no window; 0 says that every layer has it.
fn pattern(keys: &GgufKeys, default: usize) -> Result<Option<usize>> {
    Ok(Some(keys.size_if("attention.sliding_window_pattern")?.unwrap_or(default)).filter(|n| *n > 0))
}

/// The keys of windows are written where there are none too, as a reader has defaults; that of the scale, which only this program
/// reads, where it is another than a head's width says.
fn own_keys(cfg: &DecoderConfig) -> Vec<(&'static str, Meta)> {
    let size = |n: Option<usize>| Meta::U32(n.unwrap_or(0) as u32);
    let windows = [("attention.sliding_window", cfg.window), ("attention.sliding_window_pattern", cfg.window_skip)];
    let mut keys: Vec<_> = windows.into_iter().map(|(key, n)| (key, size(n))).collect();
    let natural = 1.0 / (cfg.head_width() as f64).sqrt();
    if (cfg.attention_scale() - natural).abs() > 1e-9 {
        keys.push(("attention.scale", Meta::F32(cfg.attention_scale() as f32)));
    }
    keys
}
