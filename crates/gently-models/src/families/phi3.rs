//! Phi-3 and Phi-4: Llama with query, key and value in one tensor, gate and up in another, and a window.
//!
//! Traps: Phi-4-mini turns only part of a head (`partial_rotary_factor`); the long-context sizes stretch positions by "longrope",
//! the only kind of stretching that transformers takes here, of which "su" and "yarn" were early names. In GGUF the tensor
//! called `ffn_up` holds gate and up.
//!
//! ```
//! use gently_models::families::Entry;
//! assert_eq!(Entry::of_architecture("phi3").unwrap().model_types, ["phi3"]);
//! ```

use super::stacked::{self, Choices};
use super::{Entry, Layout, llama, rope};
use crate::config::{DecoderConfig, Family};
use serde_json::json;

const FUSED: Choices = Choices { fused: true, norm_shift: 0.0, paired: false };
const USUAL: rope::Usual = rope::Usual { original: Some(4096.0), early_names: true, ..rope::USUAL };

/// Phi-3.
pub static ENTRY: Entry = Entry {
    layout: Layout::Phi3,
    model_types: &["phi3"],
    architectures: &["phi3"],
    from_json: |keys| {
        keys.must_be_off("resid_pdrop")?;
        keys.must_be_off("embd_pdrop")?;
        if keys.text_or("hidden_act", "silu")? != "silu" {
            return Err(keys.unsupported("hidden_act"));
        }
        let base = DecoderConfig { norm_eps: 1e-5, ..llama::defaults(4096, None) };
        Ok(DecoderConfig { window: keys.size_if("sliding_window")?, ..llama::from_json_in_part(keys, &base, &USUAL)? })
    },
    to_json: |cfg| {
        let partial = cfg.rotary_width() as f64 / cfg.head_width() as f64;
        let more = [
            ("sliding_window", json!(cfg.window)),
            ("resid_pdrop", 0.0.into()),
            ("embd_pdrop", 0.0.into()),
            ("partial_rotary_factor", partial.into()),
            ("original_max_position_embeddings", cfg.context.into()),
        ];
        let mut json = stacked::to_json(cfg, "Phi3ForCausalLM", "phi3", &more);
        let kind = if rope::Kind::of(cfg) == rope::Kind::None { rope::Kind::None } else { rope::Kind::Listed };
        rope::put(&mut json, rope::object(cfg, kind));
        json
    },
    names: |cfg| stacked::hf(cfg, FUSED),
    from_gguf: |keys| keys.common_windowed(DecoderConfig::preset(Family::Llama)),
    to_gguf: llama::window_key,
    gguf_names: |cfg| stacked::gguf(cfg, FUSED),
};
