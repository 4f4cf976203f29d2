//! What a decoder is: sizes and choices, their validation and their presets.
//!
//! Here: [`DecoderConfig`] and its enums, defaults by [`Family`], named published sizes. Not here: the
//! published `config.json` keys (see [`crate::families`]) and the weights (see [`crate::Decoder`]).
//!
//! ```
//! use gently_models::config::{DecoderConfig, Family};
//! let cfg = DecoderConfig { layers: 4, heads: 4, width: 128, ..DecoderConfig::preset(Family::Gpt2) };
//! cfg.validate().unwrap();
//! assert_eq!(cfg.head_width(), 32);
//! ```

use crate::error::{Error, Result};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

/// The preset that fills every key a person does not give.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// Layer norm, learned positions, tanh GELU, biases, tied head (Radford et al. 2019).
    Gpt2,
    /// RMS norm, rotary positions, SwiGLU, no biases, own head (Touvron et al. 2023).
    Llama,
}

/// The normalisation of a row of C channels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NormKind {
    /// Subtract the mean, divide by the standard deviation (Ba et al. 2016).
    Layer,
    /// Divide by the root mean square (Zhang & Sennrich 2019).
    Rms,
}

/// Where a block normalises.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NormPlace {
    /// `x + f(norm(x))`, and one norm before the head.
    Pre,
    /// `norm(x + f(x))` (Vaswani et al. 2017); no norm before the head.
    Post,
    /// `x + norm(f(norm(x)))`, and one norm before the head.
    Both,
    /// `x + norm(f(x))`, and one norm before the head (OLMo 2).
    Out,
}

/// How a token knows where it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Position {
    /// A learned row per position, added to the token's embedding.
    Learned,
    /// Fixed sines and cosines added to the token's embedding (Vaswani et al. 2017).
    Sinusoidal,
    /// Queries and keys rotated by their position (Su et al. 2021), half-split layout.
    Rotary,
    /// Scores fall linearly with distance (Press et al. 2021).
    Alibi,
    /// Nothing but the causal mask.
    None,
}

/// The two-layer network applied to each token on its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MlpKind {
    /// GELU by its tanh approximation (Hendrycks & Gimpel 2016).
    Gelu,
    /// GELU by the error function.
    GeluErf,
    /// `silu(gate) * up` (Shazeer 2020): three matrices.
    Swiglu,
    /// `gelu(gate) * up` with the tanh GELU (Shazeer 2020; Gemma): three matrices.
    Geglu,
    /// Squared ReLU (So et al. 2021).
    Relu2,
    /// ReLU.
    Relu,
    /// SiLU, also called swish.
    Silu,
}

impl MlpKind {
    /// Whether a gate multiplies what goes up: gate over up in one matrix of `2·mlp_width` rows.
    pub fn is_gated(self) -> bool {
        matches!(self, Self::Swiglu | Self::Geglu)
    }
}

/// Sizes and choices of a decoder. As text (JSON, or `[model]` in a recipe) every key but `family` may be
/// left out and then comes from the family's preset; unknown keys are errors.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(remote = "Self", deny_unknown_fields)]
pub struct DecoderConfig {
    /// The preset that filled the keys not given.
    pub family: Family,
    /// V: number of token ids.
    pub vocab: usize,
    /// Longest sequence with defined positions.
    pub context: usize,
    /// Number of blocks.
    pub layers: usize,
    /// H: number of query heads.
    pub heads: usize,
    /// Hk: number of key and value heads; divides `heads`. Absent: as many as `heads`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kv_heads: Option<usize>,
    /// D: channels of a head. Absent: `width / heads`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub head_width: Option<usize>,
    /// C: channels of the residual stream.
    pub width: usize,
    /// Hidden channels of the MLP. Absent: `4·width`, or for SwiGLU and GEGLU `8/3·width` rounded up to a multiple of 64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mlp_width: Option<usize>,
    /// Kind of normalisation.
    pub norm: NormKind,
    /// Added to the variance before its root.
    pub norm_eps: f64,
    /// Where a block normalises.
    pub norm_place: NormPlace,
    /// Whether layer norms have a bias.
    pub norm_bias: bool,
    /// How positions enter.
    pub position: Position,
    /// Base of the rotary wavelengths.
    pub rope_theta: f64,
    /// Channels of a head that rotary positions turn, the first ones. Absent: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotary_width: Option<usize>,
    /// Divisor of each rotary frequency, one for each pair of channels: long contexts (Llama 3.1, linear scaling, YaRN,
    /// LongRoPE).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rope_factors: Option<Vec<f64>>,
    /// Factor of the channels that rotary positions turn (YaRN, LongRoPE). Absent: 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rope_scale: Option<f64>,
    /// Base of the rotary wavelengths in layers with a window, which then have no factors and no scale (Gemma 3). Absent: as
    /// the other layers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local_rope_theta: Option<f64>,
    /// Kind of MLP.
    pub mlp: MlpKind,
    /// Whether the attention projections have biases.
    pub attention_bias: bool,
    /// Whether the attention's output projection has a bias. Absent: as `attention_bias` says (Qwen 2 has biases on
    /// queries, keys and values only).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub out_bias: Option<bool>,
    /// Whether the MLP projections have biases.
    pub mlp_bias: bool,
    /// Whether the head is the embedding table.
    pub tied_head: bool,
    /// Logits become `cap·tanh(logits/cap)` (Gemma 2).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logit_softcap: Option<f64>,
    /// Attention scores become `cap·tanh(scores/cap)` (Gemma 2).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attention_softcap: Option<f64>,
    /// RMS-normalise each query and key head, with a learned scale (Henry et al. 2020; Qwen 3).
    pub qk_norm: bool,
    /// With `qk_norm`: normalise all query heads together, and all key heads together (OLMo 2).
    #[serde(default)]
    pub qk_norm_wide: bool,
    /// Factor of the scores. Absent: one over the root of the head's width.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attention_scale: Option<f64>,
    /// Factor of the token embeddings; a tied head does not have it (Gemma). Absent: 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub embed_scale: Option<f64>,
    /// Normalise the embeddings before the first block (BERT).
    #[serde(default)]
    pub embed_norm: bool,
    /// Both branches read the block's input: `x + f(norm(x)) + g(norm'(x))` (GPT-NeoX). With `norm_place = "pre"`.
    #[serde(default)]
    pub parallel: bool,
    /// A token sees those after it too: an encoder, which cannot be continued token by token (BERT).
    #[serde(default)]
    pub bidirectional: bool,
    /// A token sees itself and the `window - 1` tokens before it. Absent: everything before it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<usize>,
    /// The layers of which a window leaves none out: every n-th, counted from 1 (Gemma 2 has 2, Gemma 3 has 6). Absent: every
    /// layer has the window.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window_skip: Option<usize>,
    /// Probability of dropping an element of the embedding, the attention weights and each branch's output.
    pub dropout: f64,
    /// Standard deviation of the initial matrices.
    pub init_std: f64,
}

impl DecoderConfig {
    /// The family's smallest published size: GPT-2 124M, or Llama's shape at the size of SmolLM2 135M.
    pub fn preset(family: Family) -> Self {
        match family {
            Family::Gpt2 => Self {
                family,
                vocab: 50257,
                context: 1024,
                layers: 12,
                heads: 12,
                kv_heads: None,
                head_width: None,
                width: 768,
                mlp_width: None,
                norm: NormKind::Layer,
                norm_eps: 1e-5,
                norm_place: NormPlace::Pre,
                norm_bias: true,
                position: Position::Learned,
                rope_theta: 10000.0,
                rotary_width: None,
                rope_factors: None,
                rope_scale: None,
                local_rope_theta: None,
                mlp: MlpKind::Gelu,
                attention_bias: true,
                out_bias: None,
                mlp_bias: true,
                tied_head: true,
                logit_softcap: None,
                attention_softcap: None,
                qk_norm: false,
                qk_norm_wide: false,
                attention_scale: None,
                embed_scale: None,
                embed_norm: false,
                parallel: false,
                bidirectional: false,
                window: None,
                window_skip: None,
                dropout: 0.0,
                init_std: 0.02,
            },
            Family::Llama => Self {
                family,
                vocab: 49152,
                context: 2048,
                layers: 30,
                heads: 9,
                kv_heads: Some(3),
                width: 576,
                norm: NormKind::Rms,
                norm_bias: false,
                position: Position::Rotary,
                mlp: MlpKind::Swiglu,
                attention_bias: false,
                mlp_bias: false,
                tied_head: false,
                ..Self::preset(Family::Gpt2)
            },
        }
    }

    /// A published model's configuration by name: [`NAMED`] lists them.
    ///
    /// # Errors
    /// [`Error::UnknownPreset`] with the names there are.
    pub fn named(name: &str) -> Result<Self> {
        let gpt2 = |layers, heads, width| Self { layers, heads, width, ..Self::preset(Family::Gpt2) };
        Ok(match name {
            "gpt2" => Self::preset(Family::Gpt2),
            "gpt2-medium" => gpt2(24, 16, 1024),
            "gpt2-large" => gpt2(36, 20, 1280),
            "gpt2-xl" => gpt2(48, 25, 1600),
            "smollm2-135m" => {
                Self { context: 8192, rope_theta: 100_000.0, tied_head: true, ..Self::preset(Family::Llama) }
            }
            "tinystories-15m" => Self {
                vocab: 32000,
                context: 256,
                layers: 6,
                heads: 6,
                kv_heads: None,
                width: 288,
                tied_head: true,
                ..Self::preset(Family::Llama)
            },
            "llama2-7b" => Self {
                vocab: 32000,
                context: 4096,
                layers: 32,
                heads: 32,
                kv_heads: None,
                width: 4096,
                mlp_width: Some(11008),
                ..Self::preset(Family::Llama)
            },
            _ => {
                return Err(Error::UnknownPreset { name: name.to_owned() });
            }
        })
    }

    /// Hk: number of key and value heads.
    pub fn kv_heads(&self) -> usize {
        self.kv_heads.unwrap_or(self.heads)
    }

    /// D: channels of a head.
    pub fn head_width(&self) -> usize {
        self.head_width.unwrap_or_else(|| self.width.checked_div(self.heads).unwrap_or(0))
    }

    /// Hidden channels of the MLP.
    pub fn mlp_width(&self) -> usize {
        self.mlp_width.unwrap_or_else(|| match self.mlp {
            MlpKind::Swiglu | MlpKind::Geglu => (self.width.saturating_mul(8) / 3).next_multiple_of(64),
            _ => self.width.saturating_mul(4),
        })
    }

    /// Rows of the packed query, key and value matrix: `(H + 2·Hk)·D`.
    pub fn qkv_width(&self) -> usize {
        (self.heads + 2 * self.kv_heads()) * self.head_width()
    }

    /// Whether the attention's output projection has a bias.
    pub fn out_bias(&self) -> bool {
        self.out_bias.unwrap_or(self.attention_bias)
    }

    /// Factor of the scores.
    pub fn attention_scale(&self) -> f64 {
        self.attention_scale.unwrap_or_else(|| 1.0 / (self.head_width() as f64).sqrt())
    }

    /// Channels of a head that rotary positions turn.
    pub fn rotary_width(&self) -> usize {
        self.rotary_width.unwrap_or_else(|| self.head_width())
    }

    /// The window of a layer, counted from 0.
    pub fn window_of(&self, layer: usize) -> Option<usize> {
        self.window.filter(|_| self.window_skip.is_none_or(|n| !(layer + 1).is_multiple_of(n)))
    }

    /// Base of the rotary wavelengths of a layer, counted from 0, that is turned otherwise than those without a window.
    fn local_theta_of(&self, layer: usize) -> Option<f64> {
        self.local_rope_theta.filter(|_| self.window_of(layer).is_some())
    }

    /// Factor of the channels that rotary positions turn in a layer, counted from 0.
    pub fn rope_scale(&self, layer: usize) -> f64 {
        self.rope_scale.filter(|_| self.local_theta_of(layer).is_none()).unwrap_or(1.0)
    }

    /// The rotary frequency of each pair of channels in a layer, counted from 0: what a position is multiplied by to get an
    /// angle.
    pub fn rope_frequencies(&self, layer: usize) -> Vec<f64> {
        let width = self.rotary_width();
        let local = self.local_theta_of(layer);
        let theta = local.unwrap_or(self.rope_theta);
        let factors = self.rope_factors.as_deref().filter(|_| local.is_none()).unwrap_or(&[]);
        let factor = |i: usize| factors.get(i).copied().unwrap_or(1.0);
        (0..width / 2).map(|i| theta.powf(-2.0 * i as f64 / width as f64) / factor(i)).collect()
    }

    /// Checks every size and every combination.
    ///
    /// # Errors
    /// [`Error::Config`] naming the first key at fault, its value and the rule.
    pub fn validate(&self) -> Result<()> {
        let bad =
            |key: &'static str, value: String, rule: &str| Err(Error::Config { key, value, rule: rule.to_owned() });
        let sizes = [
            ("vocab", self.vocab),
            ("context", self.context),
            ("layers", self.layers),
            ("heads", self.heads),
            ("kv_heads", self.kv_heads()),
            ("width", self.width),
            ("mlp_width", self.mlp_width()),
            ("window", self.window.unwrap_or(1)),
            ("window_skip", self.window_skip.unwrap_or(1)),
        ];
        // A declared size is believed only up to a bound, so that products of two sizes cannot overflow.
        const MOST: usize = 1 << 28;
        // Each layer is built before memory can be planned: some 20 KiB and a fifth of a millisecond.
        const MOST_LAYERS: usize = 1 << 14;
        for (key, value) in sizes {
            let (most, rule) = match key {
                "layers" => (MOST_LAYERS, "must be between 1 and 16384"),
                _ => (MOST, "must be between 1 and 2^28"),
            };
            if value == 0 || value > most {
                return bad(key, value.to_string(), rule);
            }
        }
        if self.head_width.is_none() && !self.width.is_multiple_of(self.heads) {
            let rule = format!("must divide width = {} (or give head_width: channels of one head)", self.width);
            return bad("heads", self.heads.to_string(), &rule);
        }
        if self.head_width() == 0 || self.head_width() > 1 << 14 {
            return bad("head_width", self.head_width().to_string(), "must be between 1 and 16384");
        }
        if !self.heads.is_multiple_of(self.kv_heads()) {
            let rule = format!("must divide heads = {}", self.heads);
            return bad("kv_heads", self.kv_heads().to_string(), &rule);
        }
        if self.position == Position::Rotary && !self.head_width().is_multiple_of(2) {
            let rule = "must be even for rotary positions";
            return bad("head_width", self.head_width().to_string(), rule);
        }
        let rotary = self.rotary_width();
        if rotary == 0 || rotary > self.head_width() || !rotary.is_multiple_of(2) {
            let rule = format!("must be even, and at most {}, the channels of a head", self.head_width());
            if self.position == Position::Rotary {
                return bad("rotary_width", rotary.to_string(), &rule);
            }
        }
        if let Some(factors) = &self.rope_factors {
            if factors.len() != rotary / 2 {
                let rule = format!("must be one for each of the {} pairs of channels", rotary / 2);
                return bad("rope_factors", format!("{} numbers", factors.len()), &rule);
            }
            if let Some(wrong) = factors.iter().find(|f| !is_positive(**f)) {
                return bad("rope_factors", wrong.to_string(), POSITIVE);
            }
        }
        if self.qk_norm_wide && !self.qk_norm {
            return bad("qk_norm_wide", "true".into(), "needs qk_norm = true");
        }
        if self.parallel && self.norm_place != NormPlace::Pre {
            return bad("parallel", "true".into(), "needs norm_place = \"pre\"");
        }
        if self.bidirectional && self.window.is_some() {
            return bad("bidirectional", "true".into(), "cannot have a window");
        }
        if self.norm == NormKind::Rms && self.norm_bias {
            return bad("norm_bias", "true".into(), "must be false with norm = \"rms\"");
        }
        let reals = [
            ("norm_eps", self.norm_eps),
            ("rope_theta", self.rope_theta),
            ("rope_scale", self.rope_scale.unwrap_or(1.0)),
            ("local_rope_theta", self.local_rope_theta.unwrap_or(1.0)),
            ("attention_scale", self.attention_scale.unwrap_or(1.0)),
            ("embed_scale", self.embed_scale.unwrap_or(1.0)),
            ("logit_softcap", self.logit_softcap.unwrap_or(1.0)),
            ("attention_softcap", self.attention_softcap.unwrap_or(1.0)),
            ("init_std", self.init_std),
        ];
        for (key, value) in reals {
            if !is_positive(value) {
                return bad(key, value.to_string(), POSITIVE);
            }
        }
        if !is_below_one(self.dropout) {
            return bad("dropout", self.dropout.to_string(), BELOW_ONE);
        }
        Ok(())
    }

    /// The configuration that `keys` describe: each key given wins over the preset of `family` (default `gpt2`).
    ///
    /// # Errors
    /// [`Error::ConfigText`] for an unknown key or a value of the wrong type.
    pub fn from_keys(keys: Map<String, Value>) -> Result<Self> {
        let text = |e: serde_json::Error| Error::ConfigText { message: e.to_string() };
        let family = match keys.get("family") {
            Some(name) => Family::deserialize(name).map_err(text)?,
            None => Family::Gpt2,
        };
        let mut merged = Self::preset(family).to_keys();
        if !keys.contains_key("kv_heads") && keys.contains_key("heads") {
            // The preset's grouping belongs to the preset's head count.
            merged.remove("kv_heads");
        }
        merged.extend(keys);
        // `remote = "Self"` makes the derived code an inherent function; this is not the trait's.
        Self::deserialize(Value::Object(merged)).map_err(text)
    }

    /// Every key with its value; what [`DecoderConfig::from_keys`] reads.
    pub fn to_keys(&self) -> Map<String, Value> {
        match Self::serialize(self, serde_json::value::Serializer) {
            Ok(Value::Object(map)) => map,
            _ => unreachable!("a struct of numbers, booleans and names serialises to an object"),
        }
    }
}

/// Whether a setting is finite and above 0, also as the f32 that kernels take: 1e-46 would be 0 to them, and 1e300 infinity.
pub fn is_positive(value: f64) -> bool {
    fits_f32(value) && value as f32 > 0.0
}

/// Whether a setting is at least 0 and below 1, also as the f32 that kernels take: 0.99999999 would be 1 to them.
pub fn is_below_one(value: f64) -> bool {
    (0.0..1.0).contains(&value) && (value as f32) < 1.0
}

/// Whether a setting is finite, also as f32.
pub fn fits_f32(value: f64) -> bool {
    (value as f32).is_finite()
}

/// The rule of [`is_positive`], for messages.
pub const POSITIVE: &str = "must be finite and above 0, as a number of 32 bits too";
/// The rule of [`is_below_one`], for messages.
pub const BELOW_ONE: &str = "must be at least 0 and below 1, as a number of 32 bits too";

/// Names that [`DecoderConfig::named`] knows.
pub const NAMED: &[&str] =
    &["gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl", "smollm2-135m", "tinystories-15m", "llama2-7b"];

impl Serialize for DecoderConfig {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        DecoderConfig::serialize(self, serializer)
    }
}

impl<'de> Deserialize<'de> for DecoderConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        let keys = Map::deserialize(deserializer)?;
        Self::from_keys(keys).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<DecoderConfig> {
        serde_json::from_str(text).map_err(|e| Error::ConfigText { message: e.to_string() })
    }

    #[test]
    fn keys_not_given_come_from_the_family() {
        let cfg = parse(r#"{"family":"llama","layers":2,"heads":4,"width":64}"#).unwrap();
        assert_eq!(cfg.norm, NormKind::Rms);
        assert_eq!(cfg.kv_heads(), 4, "the preset's 3 key heads belong to its 9 heads");
        assert_eq!(cfg.mlp_width(), 192);
        let cfg = parse(r#"{"layers":2}"#).unwrap();
        assert_eq!(cfg.position, Position::Learned);
        assert_eq!(cfg, parse(&serde_json::to_string(&cfg).unwrap()).unwrap());
    }

    #[test]
    fn unknown_keys_and_wrong_types_are_named() {
        let unknown = parse(r#"{"layerz":2}"#).unwrap_err().to_string();
        assert!(unknown.contains("layerz"), "{unknown}");
        assert!(parse(r#"{"layers":-2}"#).unwrap_err().to_string().contains("-2"));
        assert!(parse(r#"{"mlp":"maxout"}"#).unwrap_err().to_string().contains("maxout"));
    }

    #[test]
    fn bad_combinations_name_the_key() {
        let base = || DecoderConfig::preset(Family::Gpt2);
        let cases: [(&str, DecoderConfig); 21] = [
            ("heads", DecoderConfig { heads: 7, ..base() }),
            ("kv_heads", DecoderConfig { kv_heads: Some(5), ..base() }),
            ("layers", DecoderConfig { layers: 0, ..base() }),
            ("width", DecoderConfig { width: usize::MAX, ..base() }),
            ("dropout", DecoderConfig { dropout: 1.0, ..base() }),
            ("dropout", DecoderConfig { dropout: 0.999_999_99, ..base() }),
            ("dropout", DecoderConfig { dropout: -1e-60, ..base() }),
            ("norm_eps", DecoderConfig { norm_eps: f64::NAN, ..base() }),
            ("norm_eps", DecoderConfig { norm_eps: 1e-46, ..base() }),
            ("logit_softcap", DecoderConfig { logit_softcap: Some(1e300), ..base() }),
            ("attention_softcap", DecoderConfig { attention_softcap: Some(1e-50), ..base() }),
            ("rope_factors", DecoderConfig { rope_factors: Some(vec![1e-300; 32]), ..base() }),
            ("rope_scale", DecoderConfig { rope_scale: Some(f64::NAN), ..base() }),
            ("window", DecoderConfig { window: Some(0), ..base() }),
            ("norm_bias", DecoderConfig { norm: NormKind::Rms, ..base() }),
            ("rotary_width", DecoderConfig { rotary_width: Some(66), position: Position::Rotary, ..base() }),
            ("rope_factors", DecoderConfig { rope_factors: Some(vec![1.0; 31]), ..base() }),
            ("qk_norm_wide", DecoderConfig { qk_norm_wide: true, ..base() }),
            ("parallel", DecoderConfig { parallel: true, norm_place: NormPlace::Both, ..base() }),
            ("bidirectional", DecoderConfig { bidirectional: true, window: Some(3), ..base() }),
            ("head_width", DecoderConfig { head_width: Some(3), position: Position::Rotary, ..base() }),
        ];
        for (key, cfg) in cases {
            match cfg.validate() {
                Err(Error::Config { key: named, .. }) => assert_eq!(named, key),
                other => panic!("{key}: {other:?}"),
            }
        }
    }

    #[test]
    fn windows_and_wavelengths_differ_by_layer() {
        let cfg = DecoderConfig {
            window: Some(4),
            window_skip: Some(3),
            local_rope_theta: Some(100.0),
            rope_factors: Some(vec![8.0; 4]),
            rope_scale: Some(1.5),
            head_width: Some(8),
            ..DecoderConfig::preset(Family::Llama)
        };
        cfg.validate().unwrap();
        let windows: Vec<_> = (0..6).map(|l| cfg.window_of(l)).collect();
        assert_eq!(windows, [Some(4), Some(4), None, Some(4), Some(4), None]);
        assert_eq!(cfg.rope_frequencies(2)[0], 1.0 / 8.0);
        assert_eq!(cfg.rope_frequencies(3)[1], 100f64.powf(-0.25));
        assert_eq!([2, 3].map(|layer| cfg.rope_scale(layer)), [1.5, 1.0]);
    }

    #[test]
    fn named_presets_are_valid() {
        for name in NAMED {
            DecoderConfig::named(name).unwrap().validate().unwrap();
        }
        assert_eq!(DecoderConfig::named("smollm2-135m").unwrap().mlp_width(), 1536);
        assert_eq!(DecoderConfig::named("tinystories-15m").unwrap().mlp_width(), 768);
        assert!(DecoderConfig::named("gpt5").is_err());
    }
}
