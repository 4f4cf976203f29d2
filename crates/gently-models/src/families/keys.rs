//! Typed access to the keys of a `config.json` and of a GGUF file, with errors that name file and key.

use crate::config::{DecoderConfig, MlpKind};
use crate::error::{Error, Result};
use gently_formats::gguf::{Gguf, Metadata, Spec};
use serde_json::{Map, Value};
use std::path::Path;

/// The keys of a `config.json`.
pub struct Keys<'a> {
    map: &'a Map<String, Value>,
    path: &'a Path,
}

/// transformers' names of activations without a gate (its `ACT2FN`).
const ACTIVATIONS: &[(&str, MlpKind)] = &[
    ("gelu", MlpKind::GeluErf),
    ("gelu_new", MlpKind::Gelu),
    ("gelu_pytorch_tanh", MlpKind::Gelu),
    ("gelu_fast", MlpKind::Gelu),
    ("relu", MlpKind::Relu),
    ("relu2", MlpKind::Relu2),
    ("silu", MlpKind::Silu),
    ("swish", MlpKind::Silu),
];

/// transformers' name of an MLP's activation.
pub(super) fn activation_name(kind: MlpKind) -> &'static str {
    match kind {
        MlpKind::GeluErf => "gelu",
        MlpKind::Gelu | MlpKind::Geglu => "gelu_new",
        MlpKind::Relu => "relu",
        MlpKind::Relu2 => "relu2",
        MlpKind::Silu | MlpKind::Swiglu => "silu",
    }
}

/// Our settings, and what published files call them in `config.json` and in GGUF: for messages.
const PUBLISHED: &[(&str, &[&str], &str)] = &[
    ("vocab", &["vocab_size"], "vocab_size"),
    ("context", &["max_position_embeddings", "n_positions", "n_ctx"], "context_length"),
    ("layers", &["num_hidden_layers", "n_layer"], "block_count"),
    ("heads", &["num_attention_heads", "n_head"], "attention.head_count"),
    ("kv_heads", &["num_key_value_heads"], "attention.head_count_kv"),
    ("width", &["hidden_size", "n_embd"], "embedding_length"),
    ("mlp_width", &["intermediate_size", "n_inner"], "feed_forward_length"),
    ("head_width", &["head_dim"], "attention.key_length"),
    ("rotary_width", &["partial_rotary_factor", "rotary_pct"], "rope.dimension_count"),
    ("rope_theta", &["rope_theta", "rotary_emb_base"], "rope.freq_base"),
    ("rope_scale", &[], "rope.scaling.attn_factor"),
    ("window", &["sliding_window"], WINDOW),
    ("dropout", &["resid_pdrop", "hidden_dropout_prob", "hidden_dropout"], ""),
    ("init_std", &["initializer_range"], ""),
    ("logit_softcap", &[CAPS[1]], CAPS[1]),
    ("attention_softcap", &[CAPS[0]], CAPS[0]),
    ("norm_eps", &["rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon"], "attention.layer_norm_rms_epsilon"),
];

impl<'a> Keys<'a> {
    pub(crate) fn new(json: &'a Value, path: &'a Path) -> Result<Self> {
        match json {
            Value::Object(map) => Ok(Self { map, path }),
            _ => Err(Error::Json { path: path.to_owned(), message: "not a JSON object".into() }),
        }
    }

    /// The value, unless absent or null.
    pub(crate) fn value(&self, key: &str) -> Option<&'a Value> {
        self.map.get(key).filter(|v| !v.is_null())
    }

    /// Whether there is no key.
    pub(super) fn is_empty(&self) -> bool {
        self.map.is_empty()
    }

    /// Whether the key is there to say that there is no value.
    pub(super) fn is_null(&self, key: &str) -> bool {
        self.map.get(key).is_some_and(Value::is_null)
    }

    /// Another object, made of keys of this one.
    pub(super) fn with<'b>(&self, json: &'b Value) -> Result<Keys<'b>>
    where
        'a: 'b,
    {
        Keys::new(json, self.path)
    }

    fn get<T>(&self, key: &str, what: &str, read: impl Fn(&'a Value) -> Option<T>) -> Result<Option<T>> {
        let Some(value) = self.value(key) else { return Ok(None) };
        match read(value) {
            Some(v) => Ok(Some(v)),
            None => Err(Error::Json { path: self.path.to_owned(), message: format!("{key} = {value} is not {what}") }),
        }
    }

    pub(super) fn need<T>(&self, key: &str, found: Option<T>) -> Result<T> {
        found.ok_or_else(|| Error::Json { path: self.path.to_owned(), message: format!("{key} is missing") })
    }

    pub(crate) fn text(&self, key: &str) -> Result<&'a str> {
        self.need(key, self.get(key, "a string", |v| v.as_str())?)
    }

    pub(crate) fn text_or<'t>(&self, key: &str, default: &'t str) -> Result<&'t str>
    where
        'a: 't,
    {
        Ok(self.get(key, "a string", |v| v.as_str())?.unwrap_or(default))
    }

    pub(crate) fn size(&self, key: &str) -> Result<usize> {
        self.need(key, self.size_if(key)?)
    }

    pub(crate) fn size_if(&self, key: &str) -> Result<Option<usize>> {
        self.get(key, "a whole number", |v| v.as_u64().and_then(|n| usize::try_from(n).ok()))
    }

    /// A size that may be none: null says so, and where the key is left out `default` counts, as in transformers.
    pub(crate) fn optional_size(&self, key: &str, default: Option<usize>) -> Result<Option<usize>> {
        if self.map.contains_key(key) { self.size_if(key) } else { Ok(default) }
    }

    pub(crate) fn real_if(&self, key: &str) -> Result<Option<f64>> {
        self.get(key, "a number", |v| v.as_f64())
    }

    /// A number that may be none, as [`Keys::optional_size`].
    pub(crate) fn optional_real(&self, key: &str, default: Option<f64>) -> Result<Option<f64>> {
        if self.map.contains_key(key) { self.real_if(key) } else { Ok(default) }
    }

    pub(crate) fn real_or(&self, key: &str, default: f64) -> Result<f64> {
        Ok(self.real_if(key)?.unwrap_or(default))
    }

    pub(crate) fn flag_or(&self, key: &str, default: bool) -> Result<bool> {
        Ok(self.get(key, "true or false", |v| v.as_bool())?.unwrap_or(default))
    }

    /// An inner object, if present.
    pub(crate) fn object(&self, key: &str) -> Result<Option<Keys<'a>>> {
        Ok(self.get(key, "an object", |v| v.as_object())?.map(|map| Keys { map, path: self.path }))
    }

    /// An array of texts, if present.
    pub(crate) fn texts(&self, key: &str) -> Result<Option<Vec<&'a str>>> {
        self.get(key, "an array of strings", |v| v.as_array()?.iter().map(Value::as_str).collect())
    }

    /// An array of numbers, if present.
    pub(super) fn reals(&self, key: &str) -> Result<Option<Vec<f64>>> {
        self.get(key, "an array of numbers", |v| v.as_array()?.iter().map(Value::as_f64).collect())
    }

    /// The activation of an MLP without a gate.
    pub(super) fn activation(&self, key: &'static str, default: &str) -> Result<MlpKind> {
        let name = self.text_or(key, default)?;
        let found = ACTIVATIONS.iter().find(|(known, _)| *known == name);
        found.map(|(_, kind)| *kind).ok_or_else(|| self.unsupported(key))
    }

    /// The error for a published option that is not implemented.
    pub(crate) fn unsupported(&self, key: &'static str) -> Error {
        // What is not on top may stand in an object, such as `rope_parameters`.
        let value = self.map.get(key).or_else(|| self.map.values().find_map(|value| value.get(key)));
        let value = value.map_or_else(|| "absent".into(), Value::to_string);
        Error::UnsupportedOption { path: self.path.to_owned(), key, value }
    }

    /// An impossible setting, told with the file and by the key that it has there.
    pub(crate) fn impossible(&self, error: Error) -> Error {
        let Error::Config { key, value, rule } = error else { return error };
        let names = PUBLISHED.iter().find(|(ours, ..)| *ours == key).map_or(&[] as &[&str], |(_, names, _)| *names);
        let rope = self.map.get("rope_parameters");
        let inner = |name: &str| rope.and_then(|rope| rope.get(name));
        let said = names.iter().find_map(|name| Some((*name, inner(name).or_else(|| self.value(name))?)));
        let message = match (said, names.first()) {
            // A share, from which the number follows.
            (Some((name, share)), _) if key == "rotary_width" => {
                format!("{name} = {share} turns {value} channels of a head, which {rule}")
            }
            (Some((name, _)), _) => format!("{name} = {value} {rule}"),
            (None, Some(name)) => format!("{name}, which is left out, makes {key} = {value}, which {rule}"),
            (None, None) => format!("{key} = {value} {rule}"),
        };
        Error::Setting { path: self.path.to_owned(), message }
    }

    /// Refuses a flag or number that is there and is not `expected`.
    pub(crate) fn must_be_off(&self, key: &'static str) -> Result<()> {
        match self.value(key) {
            None | Some(Value::Bool(false)) => Ok(()),
            Some(v) if v.as_f64() == Some(0.0) => Ok(()),
            Some(_) => Err(self.unsupported(key)),
        }
    }
}

/// The keys of a GGUF file, those of its architecture by their short names.
pub struct GgufKeys<'a> {
    metadata: &'a Metadata,
    architecture: &'a str,
    tensors: Tensors<'a>,
}

/// The tensors beside the keys.
#[derive(Clone, Copy)]
enum Tensors<'a> {
    /// Those of a file.
    Read(&'a Gguf),
    /// Those of a file that is about to be written, and the divisors of frequencies that its tensors of such hold.
    Planned(&'a [Spec], &'a [f64]),
}

impl<'a> GgufKeys<'a> {
    pub(crate) fn new(file: &'a Gguf, architecture: &'a str) -> Self {
        Self { metadata: file.metadata(), architecture, tensors: Tensors::Read(file) }
    }

    /// The keys and tensors of a file that is not there yet: what a reader will make of it. `factors` are the divisors of
    /// frequencies.
    pub(crate) fn planned(
        metadata: &'a Metadata,
        architecture: &'a str,
        specs: &'a [Spec],
        factors: &'a [f64],
    ) -> Self {
        Self { metadata, architecture, tensors: Tensors::Planned(specs, factors) }
    }

    fn full(&self, key: &str) -> String {
        format!("{}.{key}", self.architecture)
    }

    pub(crate) fn size(&self, key: &str) -> Result<usize> {
        Ok(self.metadata.size(&self.full(key))?)
    }

    pub(crate) fn size_if(&self, key: &str) -> Result<Option<usize>> {
        Ok(self.metadata.size_if(&self.full(key))?)
    }

    pub(crate) fn real(&self, key: &str) -> Result<f64> {
        Ok(self.metadata.real(&self.full(key))?)
    }

    pub(crate) fn real_if(&self, key: &str) -> Result<Option<f64>> {
        Ok(self.metadata.real_if(&self.full(key))?)
    }

    pub(super) fn text_if(&self, key: &str) -> Result<Option<&'a str>> {
        Ok(self.metadata.text_if(&self.full(key))?)
    }

    pub(crate) fn flag_if(&self, key: &str) -> Result<Option<bool>> {
        Ok(self.metadata.flag_if(&self.full(key))?)
    }

    pub(crate) fn has(&self, tensor: &str) -> bool {
        match self.tensors {
            Tensors::Read(file) => file.tensors().contains_key(tensor),
            Tensors::Planned(specs, _) => specs.iter().any(|spec| spec.name == tensor),
        }
    }

    fn shape(&self, tensor: &str) -> Result<&'a [usize]> {
        let specs = match self.tensors {
            Tensors::Read(file) => return Ok(file.entry(tensor)?.shape.as_slice()),
            Tensors::Planned(specs, _) => specs,
        };
        let missing = || Error::MissingTensor { path: self.metadata.path().into(), name: tensor.to_owned() };
        Ok(specs.iter().find(|spec| spec.name == tensor).ok_or_else(missing)?.shape.as_slice())
    }

    /// The error that says what is wrong with a key.
    pub(crate) fn error(&self, key: &str, reason: impl Into<String>) -> Error {
        self.metadata.error(&self.full(key), reason).into()
    }

    /// An impossible setting, told with the file and by the key that it has there.
    pub(crate) fn impossible(&self, error: Error) -> Error {
        let Error::Config { key, value, rule } = error else { return error };
        let name = PUBLISHED.iter().find(|(ours, ..)| *ours == key).map(|(.., name)| *name);
        match name.filter(|name| self.metadata.get(&self.full(name)).is_some()) {
            Some(name) => self.error(name, format!("{value} {rule}")),
            None => Error::Setting { path: self.metadata.path().into(), message: format!("{key} = {value} {rule}") },
        }
    }

    /// Whether the head is the embedding table: its tensor is absent, or is the same bytes a second time.
    pub(crate) fn tied(&self) -> Result<bool> {
        if !self.has(HEAD) {
            return Ok(true);
        }
        let Tensors::Read(file) = self.tensors else { return Ok(false) };
        let (head, table) = (file.entry(HEAD)?, file.entry(TABLE)?);
        Ok(head.kind == table.kind && head.shape == table.shape && file.bytes(HEAD)? == file.bytes(TABLE)?)
    }

    /// What all decoders have, over the defaults of `base`, for a family whose layers have no window. One that leaves nothing
    /// of the context out is none.
    pub(crate) fn common(&self, base: DecoderConfig) -> Result<DecoderConfig> {
        let cfg = self.common_windowed(base)?;
        match cfg.window {
            Some(window) if window < cfg.context => {
                let reason = format!("a window of {window} tokens is not supported for {}", self.architecture);
                Err(self.error(WINDOW, reason))
            }
            _ => Ok(DecoderConfig { window: None, ..cfg }),
        }
    }

    /// The same with the window that the file says; 0 says none.
    pub(crate) fn common_windowed(&self, base: DecoderConfig) -> Result<DecoderConfig> {
        for key in CAPS {
            self.no_cap(key)?;
        }
        let cfg = self.common_capped(base)?;
        let natural = cfg.attention_scale();
        match self.real_if("attention.scale")?.filter(|scale| *scale != 0.0) {
            // llama.cpp passes over it for these families, and multiplies scores by the natural one.
            Some(scale) if (scale - natural).abs() > 1e-6 * natural => {
                let reason = format!("{scale} is not supported for {}, only {natural}", self.architecture);
                Err(self.error("attention.scale", reason))
            }
            _ => Ok(cfg),
        }
    }

    /// Refuses a soft cap; 0 says none.
    pub(crate) fn no_cap(&self, key: &str) -> Result<()> {
        match self.real_if(key)?.filter(|cap| *cap != 0.0) {
            Some(cap) => Err(self.error(key, format!("a cap of {cap} is not supported for {}", self.architecture))),
            None => Ok(()),
        }
    }

    /// The same for a family that has soft caps and a scale of scores, which it reads itself.
    pub(crate) fn common_capped(&self, base: DecoderConfig) -> Result<DecoderConfig> {
        if let Some(causal) = self.flag_if("attention.causal")?
            && causal == base.bidirectional
        {
            return Err(self.error("attention.causal", format!("{causal} is not supported for {}", self.architecture)));
        }
        let shape = self.shape(TABLE)?;
        let [vocab, _] = shape[..] else {
            return Err(Error::TensorShape {
                path: self.metadata.path().into(),
                name: TABLE.into(),
                found: shape.to_vec(),
                expected: vec![0, self.size("embedding_length")?],
            });
        };
        let (width, heads) = (self.size("embedding_length")?, self.size("attention.head_count")?);
        let head_width = self.size_if("attention.key_length")?;
        if let Some(values) = self.size_if("attention.value_length")?
            && Some(values) != head_width.or(width.checked_div(heads))
        {
            return Err(self.error("attention.value_length", "values of another width than keys are not supported"));
        }
        let eps = match self.real_if("attention.layer_norm_rms_epsilon")? {
            Some(eps) => eps,
            None => self.real("attention.layer_norm_epsilon")?,
        };
        let cfg = DecoderConfig {
            vocab,
            context: self.size("context_length")?,
            layers: self.size("block_count")?,
            heads,
            kv_heads: self.size_if("attention.head_count_kv")?,
            head_width,
            width,
            mlp_width: Some(self.size("feed_forward_length")?),
            norm_eps: rounded(eps),
            rope_theta: self.real_if("rope.freq_base")?.unwrap_or(10000.0),
            tied_head: self.tied()?,
            window: self.size_if(WINDOW)?.filter(|w| *w > 0),
            ..base
        };
        let rotary_width = self.size_if("rope.dimension_count")?.filter(|&n| n != cfg.head_width());
        let cfg = DecoderConfig { rotary_width, ..cfg };
        Ok(self.stretched(&cfg)?.apply(cfg))
    }

    /// The divisors of frequencies that stand in a tensor.
    pub(super) fn divisors(&self, tensor: &str) -> Result<Vec<f64>> {
        let file = match self.tensors {
            Tensors::Read(file) => file,
            Tensors::Planned(_, factors) => return Ok(factors.iter().map(|f| f64::from(*f as f32)).collect()),
        };
        let entry = file.entry(tensor)?;
        let mut factors = vec![0.0; entry.len()];
        crate::weights::decode(file.path(), tensor, entry.kind, file.bytes(tensor)?, &mut factors)?;
        Ok(factors.into_iter().map(f64::from).collect())
    }
}

const TABLE: &str = "token_embd.weight";
const HEAD: &str = "output.weight";
const WINDOW: &str = "attention.sliding_window";
/// Soft caps of scores and logits: Gemma 2's; files of Gemma 3 may have the second, and other families' are refused.
const CAPS: [&str; 2] = ["attn_logit_softcapping", "final_logit_softcapping"];

/// A number that was written as f32, as the decimal it was meant to be: 1e-5 and not 9.99999974737875e-6.
pub(super) fn rounded(v: f64) -> f64 {
    let single = v as f32;
    if f64::from(single) == v { single.to_string().parse().unwrap_or(v) } else { v }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals_survive_single_precision() {
        assert_eq!(rounded(f64::from(1e-5f32)), 1e-5);
        assert_eq!(rounded(1e-12), 1e-12);
    }
}
