//! GGUF files out: a model of any source, or another file with its tensors stored anew.
//!
//! Here: which tensor gets which type, the keys that a family's file has, and whether they say all of the model. Not here: the
//! blocks themselves (`gently-kernels::quant`), tokenizers' keys (the caller gives them).

use super::{WeightSource, decode, room, zeros};
use crate::config::{DecoderConfig, Position};
use crate::error::{Error, Result};
use crate::families::rope::{FREQS, InGguf, has_no_freqs};
use crate::families::{self, Entry, GgufKeys, NameTable, Rows};
use crate::pretrained::published_shape;
use gently_formats::gguf::{Gguf, Metadata, Spec, TensorType, Value, Writer};
use gently_kernels::quant::{self, BlockType};
use std::collections::BTreeSet;
use std::path::Path;

/// How tensors are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Storage {
    /// Matrices.
    pub matrices: TensorType,
    /// The token table and the head, which cost the most when coarse.
    pub tables: TensorType,
}

impl Storage {
    /// Everything in one type, but the tables in Q8_0 where that is finer.
    pub fn new(kind: TensorType) -> Self {
        let bits = 8 * kind.block_bytes() / kind.block_len();
        Self { matrices: kind, tables: if bits < 8 { TensorType::Q8_0 } else { kind } }
    }

    /// The type of a tensor: vectors stay F32, and rows that are no whole number of blocks get the next type that has smaller
    /// blocks, as llama.cpp chooses it.
    pub fn of(self, name: &str, shape: &[usize]) -> TensorType {
        let [_, width] = *shape else { return TensorType::F32 };
        let table = ["token_embd.", "output."].iter().any(|start| name.starts_with(start));
        // Positions are added to numbers, a row at a time: nothing is won.
        if name.starts_with("position_embd.") || name.starts_with("token_types.") {
            return TensorType::F32;
        }
        let mut kind = if table { self.tables } else { self.matrices };
        while !width.is_multiple_of(kind.block_len()) {
            kind = match kind {
                TensorType::Q2K | TensorType::Q3K => TensorType::Q4_0,
                TensorType::Q4K => TensorType::Q5_0,
                TensorType::Q5K => TensorType::Q5_1,
                TensorType::Q6K => TensorType::Q8_0,
                _ => TensorType::F16,
            };
        }
        kind
    }
}

/// `general.file_type` of a file mostly of one type (ggml's `llama_ftype`).
fn file_type(kind: TensorType) -> u32 {
    match kind {
        TensorType::F32 => 0,
        TensorType::F16 => 1,
        TensorType::Q4_0 => 2,
        TensorType::Q4_1 => 3,
        TensorType::Q8_0 => 7,
        TensorType::Q5_0 => 8,
        TensorType::Q5_1 => 9,
        TensorType::Q2K => 10,
        TensorType::Q3K => 12,
        TensorType::Q4K => 15,
        TensorType::Q5K => 17,
        TensorType::Q6K => 18,
        TensorType::Bf16 => 32,
        _ => 1024,
    }
}

/// Rows of f32 in another type; `path` and `name` are for messages.
///
/// # Errors
/// [`gently_formats::Error::Request`] for a type that is not written, and for numbers that it does not hold;
/// [`Error::NoMemory`].
pub(crate) fn encode(path: &Path, name: &str, kind: TensorType, values: &[f32]) -> Result<Vec<u8>> {
    let bad = |reason: String| {
        let reason = format!("tensor {name:?}: {reason}");
        gently_formats::Error::Request { path: path.into(), reason }
    };
    let Some(block) = BlockType::from_ggml_id(kind.id()) else {
        return Err(bad(format!("{kind} is not a type that can be written")).into());
    };
    let bytes = block.row_bytes(values.len()).ok_or_else(|| bad(format!("it is no whole number of {kind} blocks")))?;
    let mut out = room::<u8>(name, bytes)?;
    out.resize(bytes, 0);
    quant::quantize(block, values, &mut out).map_err(|e| bad(e.to_string()))?;
    Ok(out)
}

/// Writes `input` again with its tensors stored anew: keys, names and order of rows stay. Tensors of the wanted type
/// already are copied bit for bit. `progress` is told the number of tensors done and of all.
///
/// # Errors
/// [`Error::Format`] for tensors that cannot be read or written.
pub fn requantize(
    input: &Gguf,
    output: impl AsRef<Path>,
    storage: Storage,
    mut progress: impl FnMut(usize, usize),
) -> Result<()> {
    let mut keys: Vec<(String, Value)> = input
        .metadata()
        .iter()
        // The parts of a split file become one, and the writer aligns as it does.
        .filter(|(k, _)| !k.starts_with("split.") && !matches!(*k, "general.alignment" | "general.file_type"))
        .map(|(k, v)| (k.to_owned(), v.clone()))
        .collect();
    keys.push(("general.file_type".into(), Value::U32(file_type(storage.matrices))));
    let target = |name: &str| -> Result<TensorType> {
        let entry = input.entry(name)?;
        let number = BlockType::from_ggml_id(entry.kind.id()).is_some() || entry.kind == TensorType::F64;
        let kept = !number || entry.shape.len() != 2;
        Ok(if kept { entry.kind } else { storage.of(name, &entry.shape) })
    };
    let mut specs = Vec::new();
    for (name, entry) in input.tensors() {
        specs.push(Spec { name: name.clone(), kind: target(name)?, shape: entry.shape.clone() });
    }
    let mut writer = Writer::create(output, &keys, &specs)?;
    for (i, spec) in specs.iter().enumerate() {
        let (entry, bytes) = (input.entry(&spec.name)?, input.bytes(&spec.name)?);
        if entry.kind == spec.kind {
            writer.write(bytes)?;
        } else {
            let mut values = zeros(&spec.name, entry.len())?;
            decode(input.path(), &spec.name, entry.kind, bytes, &mut values)?;
            writer.write(&encode(input.path(), &spec.name, spec.kind, &values)?)?;
        }
        progress(i + 1, specs.len());
    }
    Ok(writer.finish()?)
}

impl WeightSource {
    /// Writes the model as a GGUF file, with `more` keys behind those of the family: the tokenizer's.
    ///
    /// # Errors
    /// [`Error::UnsupportedOption`] for a model of no family that has a GGUF form; [`Error::NoGgufForm`] for one that the
    /// family's keys do not say wholly (an activation); [`Error::NoHead`]; [`Error::Format`].
    pub fn write_gguf(
        &self,
        output: impl AsRef<Path>,
        storage: Storage,
        more: &[(String, Value)],
        mut progress: impl FnMut(usize, usize),
    ) -> Result<()> {
        self.check_head()?;
        let Some(entry) = self.layout.gguf_entry() else {
            // As `config.json` names it.
            let published = self.layout.entry().and_then(|entry| entry.model_types.first());
            let value = published.copied().unwrap_or("gently").to_owned();
            return Err(Error::UnsupportedOption { path: self.path().into(), key: "layout (for GGUF)", value });
        };
        let architecture = entry.architectures[0];
        let mut keys = vec![
            ("general.architecture".to_owned(), Value::Text(architecture.into())),
            ("general.file_type".to_owned(), Value::U32(file_type(storage.matrices))),
        ];
        let rope = InGguf::of(&self.cfg, architecture);
        let own = common_keys(&self.cfg).into_iter().chain(rope.keys).chain((entry.to_gguf)(&self.cfg));
        keys.extend(own.map(|(key, value)| (format!("{architecture}.{key}"), value)));

        let table = (entry.gguf_names)(&self.cfg);
        let mut tensors: Vec<(Spec, Source)> = Vec::new();
        for mapping in &table.mappings {
            let Some((_, shape)) = self.params.get(&mapping.ours) else { continue };
            let mut row = 0;
            for rows in &mapping.theirs {
                let shape = published_shape(shape, rows.rows, rows.transposed);
                let kind = storage.of(&rows.name, &shape);
                if let Some(plus) = &rows.plus {
                    let shape = [&[1], &shape[1..]].concat();
                    tensors.push((Spec { name: plus.clone(), kind: TensorType::F32, shape }, Source::Zeros));
                }
                let spec = Spec { name: rows.name.clone(), kind, shape };
                tensors.push((spec, Source::Rows { ours: &mapping.ours, first: row, rows }));
                row += rows.rows;
            }
        }
        for (name, n) in &table.zeros {
            tensors.push((Spec { name: name.clone(), kind: TensorType::F32, shape: vec![*n] }, Source::Zeros));
        }
        let factors = self.cfg.rope_factors.as_deref().unwrap_or_default();
        for name in rope.tensors {
            let spec = Spec { name: (*name).into(), kind: TensorType::F32, shape: vec![factors.len()] };
            tensors.push((spec, Source::Factors(factors)));
        }
        let specs: Vec<Spec> = tensors.iter().map(|(spec, _)| spec.clone()).collect();
        self.check_read_back(entry, &keys, &specs, &table)?;
        keys.extend(more.iter().cloned());
        let mut writer = Writer::create(output, &keys, &specs)?;
        let mut held = Held::default();
        for (i, (spec, source)) in tensors.iter().enumerate() {
            let values = self.values(spec, source, &mut held)?;
            writer.write(&encode(self.path(), &spec.name, spec.kind, &values)?)?;
            progress(i + 1, specs.len());
        }
        Ok(writer.finish()?)
    }

    /// Whether the model's GGUF file is read by this program alone, that which [`WeightSource::write_gguf`] writes or, of a file,
    /// [`requantize`]: llama.cpp has divisors of rotary frequencies, which Llama 3.1 stretches positions by, for no other family.
    pub fn gguf_is_ours_alone(&self) -> bool {
        let Some(architecture) = self.layout.gguf_entry().map(|entry| entry.architectures[0]) else { return false };
        match self.gguf() {
            // Stored anew, it has the tensors and keys that it has now.
            Some(file) => has_no_freqs(architecture) && file.tensors().contains_key(FREQS),
            None => InGguf::of(&self.cfg, architecture).ours_alone,
        }
    }

    /// What llama.cpp does not take from the model's GGUF file, that which [`WeightSource::write_gguf`] writes or, of a file,
    /// [`requantize`], so that it opens the file and computes another model; empty where it computes the same.
    pub fn gguf_ignored(&self) -> Vec<String> {
        let architecture = self.layout.gguf_entry().map(|entry| entry.architectures[0]);
        architecture.map(|architecture| families::ignored_in_gguf(&self.cfg, architecture)).unwrap_or_default()
    }

    /// Refuses a file that would be read as another model, or not at all, before any of it is written.
    fn check_read_back(
        &self,
        entry: &Entry,
        keys: &[(String, Value)],
        specs: &[Spec],
        table: &NameTable,
    ) -> Result<()> {
        let metadata = Metadata::new(self.path(), keys.iter().cloned().collect());
        let factors = self.cfg.rope_factors.as_deref().unwrap_or_default();
        let mut read = (entry.from_gguf)(&GgufKeys::planned(&metadata, entry.architectures[0], specs, factors))?;
        if !table.zeros.is_empty() {
            // This family's files have every bias; those that the model leaves out are written as zeros.
            let DecoderConfig { attention_bias, out_bias, mlp_bias, norm_bias, .. } = self.cfg;
            read = DecoderConfig { attention_bias, out_bias, mlp_bias, norm_bias, ..read };
        }
        if let Some([key, value, read]) = families::difference(&self.cfg, &read) {
            return Err(Error::NoGgufForm { path: self.path().into(), key, value, read });
        }
        let theirs = (entry.gguf_names)(&read);
        let named: BTreeSet<&str> = theirs.names().collect();
        let lost = |spec: &&Spec| !named.contains(spec.name.as_str()) && !theirs.skips(&spec.name);
        match specs.iter().find(lost) {
            None => Ok(()),
            Some(spec) => Err(Error::UnexpectedTensor { path: self.path().into(), name: spec.name.clone() }),
        }
    }

    /// The numbers of a tensor as the file has them. `held` keeps the parameter for the tensors that have its other rows.
    fn values(&self, spec: &Spec, source: &Source, held: &mut Held) -> Result<Vec<f32>> {
        let (ours, first, rows) = match source {
            Source::Zeros => return zeros(&spec.name, spec.shape.iter().product()),
            Source::Factors(factors) => return Ok(factors.iter().map(|f| *f as f32).collect()),
            Source::Rows { ours, first, rows } => (*ours, *first, *rows),
        };
        if held.name != ours {
            // Two of them are never held.
            *held = Held::default();
            *held = Held { name: ours.to_owned(), values: self.to_f32(ours)? };
        }
        let total: usize = self.params.get(ours).map_or(0, |(_, shape)| shape[0]);
        let width = held.values.len() / total.max(1);
        let mut values = room::<f32>(&spec.name, rows.rows * width)?;
        values.extend(held.values[first * width..(first + rows.rows) * width].iter().map(|v| v - rows.shift));
        rows.order.to_theirs(&spec.name, values, width)
    }
}

/// A parameter whose tensors are being written.
#[derive(Default)]
struct Held {
    name: String,
    values: Vec<f32>,
}

/// Where a tensor's numbers come from.
enum Source<'a> {
    Rows { ours: &'a str, first: usize, rows: &'a Rows },
    Zeros,
    Factors(&'a [f64]),
}

/// Keys that every family's file has.
fn common_keys(cfg: &DecoderConfig) -> Vec<(&'static str, Value)> {
    let size = |n: usize| Value::U32(n as u32);
    let mut keys = vec![
        ("vocab_size", size(cfg.vocab)),
        ("context_length", size(cfg.context)),
        ("embedding_length", size(cfg.width)),
        ("block_count", size(cfg.layers)),
        ("feed_forward_length", size(cfg.mlp_width())),
        ("attention.head_count", size(cfg.heads)),
        ("attention.head_count_kv", size(cfg.kv_heads())),
        ("attention.key_length", size(cfg.head_width())),
        ("attention.value_length", size(cfg.head_width())),
    ];
    keys.push(match cfg.norm {
        crate::config::NormKind::Layer => ("attention.layer_norm_epsilon", Value::F32(cfg.norm_eps as f32)),
        crate::config::NormKind::Rms => ("attention.layer_norm_rms_epsilon", Value::F32(cfg.norm_eps as f32)),
    });
    if cfg.position == Position::Rotary {
        keys.push(("rope.freq_base", Value::F32(cfg.rope_theta as f32)));
        keys.push(("rope.dimension_count", size(cfg.rotary_width())));
    }
    keys
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Decoder;
    use crate::config::Family;
    use crate::families::Order;
    use gently_tensor::{Device, Rng};

    #[test]
    fn rows_of_another_order_are_shifted_too() {
        let dir = tempfile::tempdir().unwrap();
        let cfg = DecoderConfig {
            vocab: 8,
            layers: 1,
            heads: 2,
            kv_heads: None,
            width: 8,
            ..DecoderConfig::preset(Family::Llama)
        };
        Decoder::new(&cfg, &Rng::new(3), &Device::Cpu).unwrap().save_pretrained(dir.path()).unwrap();
        let source = WeightSource::open(dir.path()).unwrap();
        let ours = "blocks.0.mixer.qkv.weight";
        let all = source.to_f32(ours).unwrap();
        let mut held = Held::default();
        // Queries, keys and values: the second finds the parameter held.
        for first in [0, 8, 16] {
            let rows = Rows { order: Order::Pairs { head_width: 4 }, shift: 1.0, ..Rows::plain("w", 8) };
            let spec = Spec { name: "w".into(), kind: TensorType::F32, shape: vec![8, 8] };
            let values = source.values(&spec, &Source::Rows { ours, first, rows: &rows }, &mut held).unwrap();
            for row in 0..8 {
                let numbers = all[(first + row) * 8..][..8].iter().map(|v| v - 1.0);
                assert!(values[rows.order.source(row) * 8..][..8].iter().copied().eq(numbers), "{first} {row}");
            }
        }
        assert!(held.name == ours && held.values == all);
    }
}
