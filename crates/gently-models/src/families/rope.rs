//! Rotary positions in published files: which channels turn, how fast, and how far positions are stretched for long contexts.
//!
//! Here: the kinds that transformers names in `rope_parameters` and llama.cpp in `rope.scaling`, as divisors of frequencies and
//! a factor of what is turned; and, for writing, the kind that a model's divisors are of. Not here: the other keys (`keys`), the
//! tables of angles (see [`crate::positions`]).
//!
//! Traps: transformers 5 takes `rope_scaling` in place of `rope_parameters` where a file has both; the length that a model was
//! trained on stands beside the object or in it, and the former wins; "longrope" has divisors for short texts and others for
//! long ones, and keys that a cache holds cannot be turned again: the short ones are taken, and with them the shorter context.

use super::keys::rounded;
use super::{GgufKeys, Keys, near};
use crate::config::{DecoderConfig, Position};
use crate::error::Result;
use gently_formats::gguf::Value as Meta;
use serde_json::{Value, json};

/// What a family takes where its file says nothing, and under which keys it may say it outside of the object.
pub(super) struct Usual {
    pub theta: (&'static str, f64),
    /// Share of a head's channels that are turned.
    pub partial: (&'static str, f64),
    /// Tokens that a model was trained on before its positions were stretched; absent: its context.
    pub original: Option<f64>,
    /// Whether "su" and "yarn" are early names of "longrope" (Phi-3).
    pub early_names: bool,
}

/// Llama and most others.
pub(super) const USUAL: Usual = Usual {
    theta: ("rope_theta", 10000.0),
    partial: ("partial_rotary_factor", 1.0),
    original: None,
    early_names: false,
};

/// How far positions are stretched.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Stretched {
    /// Divisor of each frequency.
    pub factors: Option<Vec<f64>>,
    /// Factor of the turned channels.
    pub scale: Option<f64>,
    /// Tokens up to which that holds; absent: the whole context.
    pub context: Option<usize>,
}

impl Stretched {
    /// `cfg` with positions stretched so.
    pub fn apply(self, cfg: DecoderConfig) -> DecoderConfig {
        DecoderConfig {
            rope_factors: self.factors,
            rope_scale: other_scale(self.scale),
            context: self.context.map_or(cfg.context, |n| n.min(cfg.context)),
            ..cfg
        }
    }
}

/// The factor of the turned channels, where it is another than 1: one that was divided by YaRN's own in single precision is not
/// quite 1 after the multiplication.
pub(super) fn other_scale(scale: Option<f64>) -> Option<f64> {
    scale.filter(|scale| (scale - 1.0).abs() > 1e-6)
}

/// What the divisors follow from beside the object that asks for them.
pub(super) struct At {
    pub theta: f64,
    /// Channels of a head that are turned.
    pub width: usize,
    pub context: usize,
    /// As [`Usual::original`], but over what the object says.
    pub original: Option<f64>,
    pub early_names: bool,
}

impl Keys<'_> {
    /// `cfg` with the rotary positions of the file: transformers 4 has `rope_theta` and `rope_scaling`, transformers 5
    /// `rope_parameters`.
    pub(super) fn rope(&self, usual: &Usual, cfg: DecoderConfig) -> Result<DecoderConfig> {
        let (mut key, mut rope) = ("rope_scaling", self.object("rope_scaling")?);
        let other = self.object("rope_parameters")?;
        // An empty object says as little as none.
        if rope.as_ref().is_none_or(Keys::is_empty) {
            (key, rope) = ("rope_parameters", other);
        }
        let real = |inner: &'static str, (outer, default): (&'static str, f64), fits: fn(f64) -> bool| -> Result<f64> {
            let (keys, key) = match &rope {
                Some(rope) if rope.value(inner).is_some() => (rope, inner),
                _ => (self, outer),
            };
            let value = keys.real_or(key, default)?;
            if fits(value) { Ok(value) } else { Err(keys.unsupported(key)) }
        };
        let theta = real("rope_theta", usual.theta, |theta| theta > 0.0 && theta.is_finite())?;
        let partial = real("partial_rotary_factor", usual.partial, |share| share > 0.0 && share <= 1.0)?;
        let width = share(partial, cfg.head_width());
        let stretched = match &rope {
            None => Stretched::default(),
            Some(rope) => {
                let original = self.real_if("original_max_position_embeddings")?.or(usual.original);
                let at = At { theta, width, context: cfg.context, original, early_names: usual.early_names };
                rope.stretched(&at)?.ok_or_else(|| self.unsupported(key))?
            }
        };
        let rotary_width = (width != cfg.head_width()).then_some(width);
        Ok(stretched.apply(DecoderConfig { rope_theta: theta, rotary_width, ..cfg }))
    }

    /// What an object of scaling asks for; none for a kind that is not implemented.
    pub(super) fn stretched(&self, at: &At) -> Result<Option<Stretched>> {
        let pairs = pairs(at.width);
        let needed = |key: &str| self.need(key, self.real_if(key)?);
        let original = || match at.original {
            Some(original) => Ok(original),
            None => self.real_or("original_max_position_embeddings", at.context as f64),
        };
        // 0 stands for none in transformers.
        let some = |key: &str| -> Result<Option<f64>> { Ok(self.real_if(key)?.filter(|v| *v != 0.0)) };
        // transformers 4 wrote `{"rope_type": "default"}` for no scaling at all.
        let kind = match self.text_or("rope_type", self.text_or("type", "default")?)? {
            "su" | "yarn" if at.early_names => "longrope",
            kind => kind,
        };
        Ok(Some(match kind {
            "default" => Stretched::default(),
            "linear" => Stretched { factors: Some(vec![needed("factor")?; pairs]), ..Stretched::default() },
            "llama3" => {
                let (factor, low, high) = (needed("factor")?, needed("low_freq_factor")?, needed("high_freq_factor")?);
                let factors = llama3(at.theta, at.width, pairs, [factor, low, high, original()?]);
                Stretched { factors: Some(factors), ..Stretched::default() }
            }
            "yarn" => {
                let original = original()?;
                let factor = if self.is_null("factor") { at.context as f64 / original } else { needed("factor")? };
                let turns = [some("beta_fast")?.unwrap_or(FAST), some("beta_slow")?.unwrap_or(SLOW)];
                let truncate = self.flag_or("truncate", true)?;
                let usual = match (some("mscale")?, some("mscale_all_dim")?) {
                    (Some(over), Some(under)) => magnitude(factor, over) / magnitude(factor, under),
                    _ => magnitude(factor, 1.0),
                };
                let factors = yarn(at.theta, at.width, pairs, factor, original, turns, truncate);
                let scale = self.real_or("attention_factor", usual)?;
                Stretched { factors: Some(factors), scale: Some(scale), context: None }
            }
            "longrope" => {
                let original = original()?;
                let factor = self.real_if("factor")?.unwrap_or(at.context as f64 / original);
                let usual = if factor <= 1.0 { 1.0 } else { (1.0 + factor.ln() / original.ln()).sqrt() };
                let factors = self.need("short_factor", self.reals("short_factor")?)?;
                let scale = self.real_or("attention_factor", usual)?;
                Stretched { factors: Some(factors), scale: Some(scale), context: Some(original as usize) }
            }
            _ => return Ok(None),
        }))
    }
}

/// A share of a head's channels; a share such as 2/3 is not quite what it was written for.
fn share(partial: f64, head_width: usize) -> usize {
    (partial * head_width as f64 + 1e-6) as usize
}

/// Pairs of channels of a declared width, which is believed only up to the bound that the configuration's check has.
fn pairs(width: usize) -> usize {
    width.min(1 << 14) / 2
}

/// Llama 3.1: long waves are stretched by `factor`, short ones are left, those between blend (Grattafiori et al. 2024; the
/// released code's `apply_scaling`).
fn llama3(theta: f64, width: usize, pairs: usize, [factor, low, high, original]: [f64; 4]) -> Vec<f64> {
    let divisor = |i: usize| {
        let frequency = theta.powf(-2.0 * i as f64 / width as f64);
        let turns = original * frequency / std::f64::consts::TAU;
        let share = ((turns - low) / (high - low)).clamp(0.0, 1.0);
        1.0 / ((1.0 - share) / factor + share)
    };
    (0..pairs).map(divisor).collect()
}

/// YaRN (Peng et al. 2023, §3.2): pairs that turn more than `fast` times within the `original` context are left, those that turn
/// less than `slow` times are stretched by `factor`, those between blend by their number, whose ends are made whole numbers by
/// `truncate`.
fn yarn(
    theta: f64,
    width: usize,
    pairs: usize,
    factor: f64,
    original: f64,
    turns: [f64; 2],
    truncate: bool,
) -> Vec<f64> {
    let pair = |turns: f64| width as f64 * (original / (turns * std::f64::consts::TAU)).ln() / (2.0 * theta.ln());
    let [mut low, mut high] = turns.map(pair);
    if truncate {
        (low, high) = (low.floor(), high.ceil());
    }
    (low, high) = (low.max(0.0), high.min(width as f64 - 1.0));
    if low == high {
        high += 0.001;
    }
    let divisor = |i: usize| {
        let share = ((i as f64 - low) / (high - low)).clamp(0.0, 1.0);
        1.0 / (share / factor + 1.0 - share)
    };
    (0..pairs).map(divisor).collect()
}

/// The turns of YaRN's ends where no key says others.
const FAST: f64 = 32.0;
const SLOW: f64 = 1.0;
/// The same for Llama 3.1, whose published models all have these.
const LOW: f64 = 1.0;
const HIGH: f64 = 4.0;

/// YaRN's factor of the turned channels.
fn magnitude(factor: f64, weight: f64) -> f64 {
    if factor <= 1.0 { 1.0 } else { 0.1 * weight * factor.ln() + 1.0 }
}

/// The kind of stretching that a model's divisors are of.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Kind {
    None,
    Linear {
        factor: f64,
    },
    Llama3 {
        factor: f64,
        original: usize,
    },
    /// With the usual ends, and any factor of the turned channels.
    Yarn {
        factor: f64,
        original: usize,
    },
    /// None with parameters: the divisors themselves are listed.
    Listed,
}

impl Kind {
    /// Divisors have no name in a configuration, nor in llama.cpp's tensor of them. They are tried with the lengths that models
    /// are trained on: what gives the same divisors is the same model.
    pub fn of(cfg: &DecoderConfig) -> Self {
        let scale = cfg.rope_scale.unwrap_or(1.0);
        let Some(factors) = stretching(cfg) else {
            return if scale == 1.0 { Self::None } else { Self::Listed };
        };
        let (theta, width, pairs) = (cfg.rope_theta, cfg.rotary_width(), factors.len());
        if pairs != width / 2 {
            return Self::Listed;
        }
        let factor = rounded(factors.iter().copied().fold(0.0, f64::max));
        let fits = |theirs: Vec<f64>| near(&theirs, factors);
        if scale == 1.0 && fits(vec![factor; pairs]) {
            return Self::Linear { factor };
        }
        let lengths = || {
            let unstretched = (cfg.context as f64 / factor).round() as usize;
            [8192, unstretched, cfg.context].into_iter().chain((5..=20).map(|n| 1usize << n))
        };
        let is_llama3 = |n: &usize| fits(llama3(theta, width, pairs, [factor, LOW, HIGH, *n as f64]));
        let is_yarn = |n: &usize| fits(yarn(theta, width, pairs, factor, *n as f64, [FAST, SLOW], true));
        if scale == 1.0
            && let Some(original) = lengths().find(is_llama3)
        {
            return Self::Llama3 { factor, original };
        }
        lengths().find(is_yarn).map_or(Self::Listed, |original| Self::Yarn { factor, original })
    }
}

/// The divisors, where any of them divides.
pub(super) fn stretching(cfg: &DecoderConfig) -> Option<&[f64]> {
    cfg.rope_factors.as_deref().filter(|factors| factors.iter().any(|f| *f != 1.0))
}

/// The object of `config.json` that says a model's rotary positions.
pub(super) fn object(cfg: &DecoderConfig, kind: Kind) -> Value {
    let scale = cfg.rope_scale.unwrap_or(1.0);
    let mut rope = match kind {
        Kind::None => json!({ "rope_type": "default" }),
        Kind::Linear { factor } => json!({ "rope_type": "linear", "factor": factor }),
        Kind::Llama3 { factor, original } => json!({
            "rope_type": "llama3", "factor": factor, "original_max_position_embeddings": original,
            "low_freq_factor": LOW, "high_freq_factor": HIGH,
        }),
        Kind::Yarn { factor, original } => json!({
            "rope_type": "yarn", "factor": factor, "original_max_position_embeddings": original,
            "attention_factor": scale,
        }),
        // One list for texts of any length.
        Kind::Listed => {
            let factors = cfg.rope_factors.clone().unwrap_or_else(|| vec![1.0; pairs(cfg.rotary_width())]);
            json!({
                "rope_type": "longrope", "factor": 1.0, "original_max_position_embeddings": cfg.context,
                "attention_factor": scale, "long_factor": factors, "short_factor": factors,
            })
        }
    };
    rope["rope_theta"] = cfg.rope_theta.into();
    if cfg.rotary_width() != cfg.head_width() {
        rope["partial_rotary_factor"] = json!(cfg.rotary_width() as f64 / cfg.head_width() as f64);
    }
    rope
}

/// Puts the object where every version of transformers finds it: 4 knows `rope_scaling` only, which for 5 stands in place of
/// `rope_parameters`.
pub(super) fn put(json: &mut Value, rope: Value) {
    if rope["rope_type"] != "default" {
        json["rope_scaling"] = rope.clone();
    }
    json["rope_parameters"] = rope;
}

/// The tensor of divisors that files of most families have them in.
pub(crate) const FREQS: &str = "rope_freqs.weight";
const LONG: &str = "rope_factors_long.weight";
const SHORT: &str = "rope_factors_short.weight";
/// The tensors of a GGUF file that hold divisors, and no weights.
pub(super) const TENSORS: &[&str] = &[FREQS, SHORT, LONG];

/// How a GGUF file says a model's stretched positions.
#[derive(Debug, Default)]
pub(crate) struct InGguf {
    /// Keys, without the architecture in front.
    pub keys: Vec<(&'static str, Meta)>,
    /// Tensors that hold the divisors.
    pub tensors: &'static [&'static str],
    /// Whether llama.cpp refuses these tensors for the architecture.
    pub ours_alone: bool,
}

/// Whether llama.cpp refuses [`FREQS`] for the architecture.
pub(crate) fn has_no_freqs(architecture: &str) -> bool {
    architecture != "llama"
}

impl InGguf {
    /// That of a model in a family's file.
    pub fn of(cfg: &DecoderConfig, architecture: &str) -> Self {
        let mut said = Self::default();
        if cfg.position != Position::Rotary {
            return said;
        }
        let kind = |kind: &str| ("rope.scaling.type", Meta::Text(kind.into()));
        let factor_of = |factor: f64| ("rope.scaling.factor", Meta::F32(factor as f32));
        let trained_on = |tokens: usize| ("rope.scaling.original_context_length", Meta::U32(tokens as u32));
        let mut scale = cfg.rope_scale.unwrap_or(1.0);
        match Kind::of(cfg) {
            Kind::None => {}
            Kind::Linear { factor } => {
                said.keys = vec![kind("linear"), factor_of(factor)];
            }
            Kind::Yarn { factor, original } => {
                said.keys = vec![kind("yarn"), factor_of(factor), trained_on(original)];
                scale /= magnitude(factor, 1.0);
            }
            Kind::Llama3 { .. } | Kind::Listed if stretching(cfg).is_none() => {}
            Kind::Llama3 { .. } | Kind::Listed if architecture == "phi3" => {
                said.keys = vec![kind("longrope"), trained_on(cfg.context)];
                said.tensors = &[LONG, SHORT];
            }
            Kind::Llama3 { .. } | Kind::Listed => {
                said.tensors = &[FREQS];
                said.ours_alone = has_no_freqs(architecture);
            }
        }
        // llama.cpp turns Gemma 3's layers with a window by it too, which is another model: its file cannot say it.
        if (scale - 1.0).abs() > 1e-7 && architecture != "gemma3" {
            said.keys.push(("rope.scaling.attn_factor", Meta::F32(scale as f32)));
        }
        said
    }
}

impl GgufKeys<'_> {
    /// How the positions are stretched of a model that is `cfg` in all else.
    pub(super) fn stretched(&self, cfg: &DecoderConfig) -> Result<Stretched> {
        let real = |key: &str| -> Result<Option<f64>> { Ok(self.real_if(key)?.map(rounded)) };
        // llama.cpp multiplies the turned channels by it whatever the type is.
        let scale = real("rope.scaling.attn_factor")?.unwrap_or(1.0);
        // The first writers had a bare `rope.scale_linear`. Without a type llama.cpp takes linear, and a factor of 0 as none.
        let factor = match real("rope.scaling.factor")? {
            Some(factor) => Some(factor),
            None => real("rope.scale_linear")?,
        };
        let said = self.text_if("rope.scaling.type")?;
        let kind = said.unwrap_or("linear");
        let factor = match (kind, factor) {
            ("none", _) | ("linear" | "yarn" | "longrope", Some(0.0)) | ("longrope", None) => 1.0,
            ("linear", None) if said.is_none() => 1.0,
            ("linear" | "yarn" | "longrope", Some(factor)) => factor,
            ("linear" | "yarn", None) => self.real("rope.scaling.factor")?,
            _ => return Err(self.error("rope.scaling.type", format!("{kind:?} is not supported"))),
        };
        let original = || self.real_if("rope.scaling.original_context_length").map(|n| n.unwrap_or(cfg.context as f64));
        let (width, pairs) = (cfg.rotary_width(), pairs(cfg.rotary_width()));
        let Some(tensor) = TENSORS.iter().copied().find(|name| self.has(name)) else {
            return match kind {
                // The lists are said to be there.
                "longrope" => Err(self.error("rope.scaling.type", format!("{kind:?} needs the tensor {SHORT}"))),
                _ if factor == 1.0 => Ok(Stretched { scale: Some(scale), ..Stretched::default() }),
                "yarn" => {
                    let turns = self.yarn_turns(factor)?;
                    let factors = yarn(cfg.rope_theta, width, pairs, factor, original()?, turns, true);
                    let scale = scale * magnitude(factor, 1.0);
                    Ok(Stretched { factors: Some(factors), scale: Some(scale), context: None })
                }
                _ => Ok(Stretched { factors: Some(vec![factor; pairs]), scale: Some(scale), context: None }),
            };
        };
        if factor != 1.0 {
            let reason = format!("{factor} beside the tensor {tensor} is not supported: each stretches positions");
            return Err(self.error("rope.scaling.factor", reason));
        }
        if tensor == LONG {
            return Err(self.error("rope.scaling.type", format!("{LONG} is there without {SHORT}")));
        }
        let context = if tensor == SHORT { Some(original()? as usize) } else { None };
        Ok(Stretched { factors: Some(self.divisors(tensor)?), scale: Some(scale), context })
    }

    /// The turns of YaRN's ends; refuses keys that llama.cpp ignores for the families here, where they would change something.
    fn yarn_turns(&self, factor: f64) -> Result<[f64; 2]> {
        let refused = [
            ("rope.scaling.yarn_ext_factor", 1.0),
            ("rope.scaling.yarn_attn_factor", magnitude(factor, 1.0)),
            ("rope.scaling.yarn_log_multiplier", 0.0),
        ];
        for (key, usual) in refused {
            match self.real_if(key)? {
                Some(value) if value.is_nan() || (value - usual).abs() > 1e-4 => {
                    return Err(self.error(key, format!("{value} is not supported, only {usual}")));
                }
                _ => {}
            }
        }
        let turns = |key: &str, usual: f64| -> Result<f64> { Ok(self.real_if(key)?.unwrap_or(usual)) };
        Ok([turns("rope.scaling.yarn_beta_fast", FAST)?, turns("rope.scaling.yarn_beta_slow", SLOW)?])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Family;

    #[test]
    fn llama3_stretches_long_waves_only() {
        let f = llama3(500_000.0, 128, 64, [8.0, 1.0, 4.0, 8192.0]);
        assert_eq!((f[0], f[63]), (1.0, 8.0));
        assert!(f.windows(2).all(|w| w[0] <= w[1]) && f.iter().any(|&f| f > 1.0 && f < 8.0));
    }

    #[test]
    fn the_kind_is_known_by_its_divisors() {
        let cfg = |factors: Vec<f64>, scale: Option<f64>| DecoderConfig {
            heads: 1,
            kv_heads: None,
            width: 128,
            context: 131_072,
            rope_theta: 500_000.0,
            rope_factors: Some(factors),
            rope_scale: scale,
            ..DecoderConfig::preset(Family::Llama)
        };
        // As a GGUF file has them, in single precision.
        let single = |factors: Vec<f64>| factors.into_iter().map(|f| f64::from(f as f32)).collect::<Vec<_>>();
        let llama = llama3(500_000.0, 128, 64, [8.0, LOW, HIGH, 8192.0]);
        let yarn = |original: f64| yarn(500_000.0, 128, 64, 4.0, original, [FAST, SLOW], true);
        let cases = [
            (cfg(vec![1.0; 64], None), Kind::None),
            (cfg(single(vec![1.1; 64]), None), Kind::Linear { factor: 1.1 }),
            (cfg(single(llama.clone()), None), Kind::Llama3 { factor: 8.0, original: 8192 }),
            (cfg(yarn(32768.0), Some(1.1)), Kind::Yarn { factor: 4.0, original: 32768 }),
            (cfg(single(yarn(4096.0)), None), Kind::Yarn { factor: 4.0, original: 4096 }),
            (cfg(llama, Some(1.1)), Kind::Listed),
            (cfg((1..=64).map(f64::from).collect(), None), Kind::Listed),
            (cfg(vec![1.0; 64], Some(1.1)), Kind::Listed),
            (cfg(vec![2.0; 3], None), Kind::Listed),
        ];
        for (cfg, kind) in cases {
            assert_eq!(Kind::of(&cfg), kind, "{:?} {:?}", cfg.rope_factors, cfg.rope_scale);
        }
    }
}
