//! OLMo 2: Llama with norms on the way out of each branch, and all query heads, and all key heads, normalised as one row.
//!
//! Traps: GGUF has OLMo 3, three of whose four layers have a window, under `olmo2` as well; a window is refused.
//!
//! ```
//! use gently_models::families::Entry;
//! assert_eq!(Entry::of_model_type("olmo2").unwrap().architectures, ["olmo2"]);
//! ```

use super::stacked::{self, Choices};
use super::{Entry, Layout, llama};
use crate::config::{DecoderConfig, NormPlace};

/// OLMo 2.
pub static ENTRY: Entry = Entry {
    layout: Layout::Olmo2,
    model_types: &["olmo2"],
    architectures: &["olmo2"],
    from_json: |keys| {
        let attention_bias = keys.flag_or("attention_bias", false)?;
        let base = DecoderConfig { norm_eps: 1e-5, ..llama::defaults(2048, None) };
        Ok(DecoderConfig { attention_bias, ..olmo(llama::from_json(keys, &base)?) })
    },
    to_json: |cfg| stacked::to_json(cfg, "Olmo2ForCausalLM", "olmo2", &[]),
    names: |cfg| stacked::hf(cfg, Choices::default()),
    from_gguf: |keys| Ok(olmo(llama::from_gguf(keys)?)),
    to_gguf: |_| Vec::new(),
    gguf_names: |cfg| stacked::gguf(cfg, Choices::default()),
};

fn olmo(cfg: DecoderConfig) -> DecoderConfig {
    DecoderConfig { norm_place: NormPlace::Out, qk_norm: true, qk_norm_wide: true, ..cfg }
}
