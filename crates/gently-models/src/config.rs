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
    /// Squared ReLU (So et al. 2021).
    Relu2,
    /// ReLU.
    Relu,
    /// SiLU, also called swish.
    Silu,
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
    /// Hidden channels of the MLP. Absent: `4·width`, or for SwiGLU `8/3·width` rounded up to a multiple of 64.
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
    /// Kind of MLP.
    pub mlp: MlpKind,
    /// Whether the attention projections have biases.
    pub attention_bias: bool,
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
    /// A token sees itself and the `window - 1` tokens before it. Absent: everything before it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<usize>,
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
                mlp: MlpKind::Gelu,
                attention_bias: true,
                mlp_bias: true,
                tied_head: true,
                logit_softcap: None,
                attention_softcap: None,
                qk_norm: false,
                window: None,
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
            MlpKind::Swiglu => (self.width.saturating_mul(8) / 3).next_multiple_of(64),
            _ => self.width.saturating_mul(4),
        })
    }

    /// Rows of the packed query, key and value matrix: `(H + 2·Hk)·D`.
    pub fn qkv_width(&self) -> usize {
        (self.heads + 2 * self.kv_heads()) * self.head_width()
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
        ];
        // A declared size is believed only up to a bound, so that products of two sizes cannot overflow.
        const MOST: usize = 1 << 28;
        for (key, value) in sizes {
            if value == 0 || value > MOST {
                return bad(key, value.to_string(), "must be between 1 and 2^28");
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
        if self.norm == NormKind::Rms && self.norm_bias {
            return bad("norm_bias", "true".into(), "must be false with norm = \"rms\"");
        }
        let positive = |v: f64| v.is_finite() && v > 0.0;
        let reals = [
            ("norm_eps", self.norm_eps),
            ("rope_theta", self.rope_theta),
            ("logit_softcap", self.logit_softcap.unwrap_or(1.0)),
            ("attention_softcap", self.attention_softcap.unwrap_or(1.0)),
            ("init_std", self.init_std),
        ];
        for (key, value) in reals {
            if !positive(value) {
                return bad(key, value.to_string(), "must be finite and above 0");
            }
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return bad("dropout", self.dropout.to_string(), "must be at least 0 and below 1");
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
        let cases: [(&str, DecoderConfig); 9] = [
            ("heads", DecoderConfig { heads: 7, ..base() }),
            ("kv_heads", DecoderConfig { kv_heads: Some(5), ..base() }),
            ("layers", DecoderConfig { layers: 0, ..base() }),
            ("width", DecoderConfig { width: usize::MAX, ..base() }),
            ("dropout", DecoderConfig { dropout: 1.0, ..base() }),
            ("norm_eps", DecoderConfig { norm_eps: f64::NAN, ..base() }),
            ("window", DecoderConfig { window: Some(0), ..base() }),
            ("norm_bias", DecoderConfig { norm: NormKind::Rms, ..base() }),
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
    fn named_presets_are_valid() {
        for name in NAMED {
            DecoderConfig::named(name).unwrap().validate().unwrap();
        }
        assert_eq!(DecoderConfig::named("smollm2-135m").unwrap().mlp_width(), 1536);
        assert_eq!(DecoderConfig::named("tinystories-15m").unwrap().mlp_width(), 768);
        assert!(DecoderConfig::named("gpt5").is_err());
    }
}
