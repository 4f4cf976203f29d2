//! Model folders: `config.json` beside `model.safetensors`, whole or in shards, as Hugging Face lays them out.
//!
//! Here: writing such folders, and models from and into them. Not here: the reading of weights, which GGUF files share (see
//! [`crate::weights`]), which published names and keys there are (see [`crate::families`]), tokenizers, and the
//! trainer's checkpoints around the folder.
//!
//! ```
//! use gently_models::{Decoder, config::*};
//! use gently_tensor::{Device, Rng};
//! # fn main() -> gently_models::Result<()> {
//! # let dir = std::env::temp_dir().join(format!("gently-pretrained-{}", std::process::id()));
//! let cfg = DecoderConfig { vocab: 16, layers: 1, heads: 2, width: 8, ..DecoderConfig::preset(Family::Gpt2) };
//! let model = Decoder::new(&cfg, &Rng::new(0), &Device::Cpu)?;
//! model.save_pretrained(&dir)?;
//! let again = Decoder::load_pretrained(&dir, &Device::Cpu)?;
//! assert_eq!(again.config(), model.config());
//! # std::fs::remove_dir_all(&dir).ok();
//! # Ok(()) }
//! ```

use crate::config::DecoderConfig;
use crate::decoder::Decoder;
use crate::error::{Error, Result};
use crate::families::{self, Layout, NameTable, Order, Rows, native};
use crate::params::Param;
use crate::weights::{WeightSource, encode, zeros};
use gently_formats::files::{self, CONFIG, INDEX, WEIGHTS};
use gently_formats::gguf::{Gguf, TensorType};
use gently_formats::safetensors::{Dtype, Spec, Writer};
use gently_formats::{Limits, atomic, bounded};
use gently_tensor::{DType, Device};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Reads only the configuration of a model folder or GGUF file.
///
/// # Errors
/// As [`Decoder::load_pretrained`].
pub fn read_config(path: impl AsRef<Path>) -> Result<(Layout, DecoderConfig)> {
    let path = path.as_ref();
    if path.is_file() {
        let (entry, cfg) = families::read_gguf_config(&Gguf::open(path, &Limits::default())?)?;
        return Ok((entry.layout, cfg));
    }
    let path = path.join(CONFIG);
    families::read_config(&read_json(&path)?, &path)
}

impl Decoder {
    /// Reads a model: a folder of a published family (see [`families::FAMILIES`]) or one that
    /// [`Decoder::save_pretrained`] wrote, or a GGUF file. Weights of every type become f32.
    ///
    /// # Errors
    /// As [`WeightSource::open`]. Nothing is allocated by a size that a file declares before the tensors are seen to have
    /// it.
    pub fn load_pretrained(path: impl AsRef<Path>, device: &Device) -> Result<Self> {
        WeightSource::open(path)?.decoder(device)
    }

    /// Fills the parameters in place from a folder of the same configuration: resuming. A model of
    /// [`Decoder::with_mixers`] is filled from what [`Decoder::save_pretrained`] wrote of one made in the same way, or, where
    /// its parameters have their names and shapes, from a folder of a published family.
    ///
    /// # Errors
    /// As [`Decoder::load_pretrained`]; [`Error::NoParameter`] and [`Error::MissingTensor`] where the model has other
    /// parameters than the folder's layout; [`Error::OtherMixers`] for a folder of a model with other mixers, if this has none.
    pub fn load_weights(&self, dir: impl AsRef<Path>) -> Result<()> {
        let dir = dir.as_ref();
        let path = dir.join(CONFIG);
        let json = read_json(&path)?;
        if native::has_other_mixers(&json) && !self.has_other_mixers() {
            return Err(Error::OtherMixers { path });
        }
        let layout = if native::is_native(&json) { self.layout() } else { Layout::of(self.config()) };
        WeightSource::of_folder(dir, layout, self)?.fill(self)
    }

    /// The layout that the model is saved in. A published one holds mixers that the configuration says, and no others.
    fn layout(&self) -> Layout {
        if self.has_other_mixers() { Layout::Native } else { Layout::of(self.config()) }
    }

    /// Writes a model folder in f32: `config.json` and `model.safetensors`, each complete or absent. The layout is
    /// that of the first published family that holds the model exactly, and our own otherwise. Read again, every parameter has
    /// the same bits, but those that [`Decoder::rounded_when_saved`] names. The folder of a model of [`Decoder::with_mixers`]
    /// says that its mixers are from elsewhere: [`Decoder::load_weights`] alone reads it.
    ///
    /// # Errors
    /// [`Error::Format`] if a file cannot be written; [`Error::NoMemory`].
    pub fn save_pretrained(&self, dir: impl AsRef<Path>) -> Result<()> {
        self.save_sharded(dir, u64::MAX)
    }

    /// As [`Decoder::save_pretrained`], with weights in F32, F16 or BF16.
    ///
    /// # Errors
    /// As there, also for numbers beyond the type's range; [`Error::UnsupportedOption`] for another type.
    pub fn save_as(&self, dir: impl AsRef<Path>, dtype: Dtype) -> Result<()> {
        let dir = dir.as_ref();
        if !matches!(dtype, Dtype::F32 | Dtype::F16 | Dtype::Bf16) {
            return Err(Error::UnsupportedOption { path: dir.into(), key: "dtype", value: dtype.to_string() });
        }
        self.save_files(dir, u64::MAX, dtype)
    }

    /// As [`Decoder::save_pretrained`], in files of at most `max_bytes` of weights (one tensor may be larger) with an index.
    ///
    /// # Errors
    /// As [`Decoder::save_pretrained`].
    pub fn save_sharded(&self, dir: impl AsRef<Path>, max_bytes: u64) -> Result<()> {
        self.save_files(dir.as_ref(), max_bytes, Dtype::F32)
    }

    /// The parameters that come back from a folder of [`Decoder::save_pretrained`] with other bits: Gemma's layout stores the
    /// scales of norms less one, and neither that difference nor the sum of it and one need be a number of 32 bits. Who goes on
    /// training from such a folder needs these from elsewhere.
    ///
    /// # Errors
    /// [`Error::Tensor`] on a device without numbers.
    pub fn rounded_when_saved(&self) -> Result<Vec<&Param>> {
        let params = by_name(self.params());
        let mut rounded = Vec::new();
        for mapping in self.layout().names(self.config(), self.params()).mappings {
            let Some(param) = params.get(mapping.ours.as_str()) else { continue };
            let mut row = 0;
            for Rows { rows, shift, .. } in mapping.theirs {
                let first = row;
                row += rows;
                if shift == 0.0 {
                    continue;
                }
                let values = param.narrow(first, rows)?.to_dtype(DType::F32)?.to_vec::<f32>()?;
                if values.iter().any(|v| (v - shift + shift).to_bits() != v.to_bits()) {
                    rounded.push(*param);
                    break;
                }
            }
        }
        Ok(rounded)
    }

    fn save_files(&self, dir: &Path, max_bytes: u64, dtype: Dtype) -> Result<()> {
        std::fs::create_dir_all(dir).map_err(gently_formats::Error::io(dir, "create"))?;
        let layout = self.layout();
        let table = layout.names(self.config(), self.params());

        // The published tensors in order, cut into shards.
        let mut shards: Vec<Vec<Out>> = vec![Vec::new()];
        let mut bytes = 0;
        let params = by_name(self.params());
        for out in Out::all(&table, &params)? {
            let size = dtype.size() as u64 * out.shape().iter().product::<usize>() as u64;
            let now = shards.len() - 1;
            if bytes > 0 && bytes + size > max_bytes {
                shards.push(vec![out]);
                bytes = size;
            } else {
                shards[now].push(out);
                bytes += size;
            }
        }

        let metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
        let count = shards.len();
        let mut index = Map::new();
        let mut total = 0;
        for (i, shard) in shards.iter().enumerate() {
            let file = match count {
                1 => WEIGHTS.to_owned(),
                _ => files::part(i + 1, count),
            };
            let specs: Vec<Spec> =
                shard.iter().map(|o| Spec { name: o.rows.name.clone(), dtype, shape: o.shape() }).collect();
            let mut writer = Writer::create(dir.join(&file), &specs, &metadata)?;
            for out in shard {
                let encoded = |kind, values: &[f32]| encode(&dir.join(&file), &out.rows.name, kind, values);
                for values in out.bands() {
                    let values = values?;
                    total += (dtype.size() * values.len()) as u64;
                    match dtype {
                        Dtype::F16 => writer.write(&encoded(TensorType::F16, &values)?)?,
                        Dtype::Bf16 => writer.write(&encoded(TensorType::Bf16, &values)?)?,
                        _ => writer.write_f32(&values)?,
                    }
                }
                index.insert(out.rows.name.clone(), Value::from(file.as_str()));
            }
            writer.finish()?;
        }
        if count > 1 {
            let index = json!({ "metadata": { "total_size": total }, "weight_map": index });
            write_json(&dir.join(INDEX), &index)?;
        }
        let mut config = layout.to_json(self.config());
        if self.has_other_mixers() {
            native::put_other_mixers(&mut config);
        }
        let name = match dtype {
            Dtype::F16 => "float16",
            Dtype::Bf16 => "bfloat16",
            _ => "float32",
        };
        for key in ["dtype", "torch_dtype"] {
            if config.get(key).is_some() {
                config[key] = name.into();
            }
        }
        write_json(&dir.join(CONFIG), &config)
    }
}

/// Most numbers of a tensor that are copied at a time on their way out, unless one row has more.
const BAND: usize = 1 << 16;

/// A published tensor on its way out: some rows of a parameter of ours, or zeros.
struct Out<'a> {
    rows: Rows,
    /// The parameter and its first row.
    from: Option<(&'a Param, usize)>,
    /// Columns of a matrix of zeros; 0 otherwise.
    width: usize,
}

impl<'a> Out<'a> {
    /// # Errors
    /// [`Error::NoParameter`] for a name in the table that the model has no parameter of.
    fn all(table: &NameTable, params: &BTreeMap<&str, &'a Param>) -> Result<Vec<Self>> {
        let mut all = Vec::new();
        for mapping in &table.mappings {
            let Some(param) = params.get(mapping.ours.as_str()).copied() else {
                return Err(Error::NoParameter { name: mapping.ours.clone() });
            };
            let mut row = 0;
            for rows in &mapping.theirs {
                // What was added to ours when it was read is written as a tensor of zeros, and ours as it is.
                if let Some(plus) = &rows.plus {
                    let rows = Rows { name: plus.clone(), rows: 1, ..rows.clone() };
                    all.push(Self { rows, from: None, width: param.columns() });
                }
                all.push(Self { rows: rows.clone(), from: Some((param, row)), width: 0 });
                row += rows.rows;
            }
        }
        all.extend(table.zeros.iter().map(|(name, n)| Self { rows: Rows::plain(name, *n), from: None, width: 0 }));
        Ok(all)
    }

    fn shape(&self) -> Vec<usize> {
        if self.width > 0 {
            return vec![self.rows.rows, self.width];
        }
        published_shape(self.from.map_or(&[0], |(p, _)| p.tensor.dims()), self.rows.rows, self.rows.transposed)
    }

    /// The values, some rows of the file after others, so that no matrix is copied whole while its model trains. What is in
    /// another order comes in one piece.
    fn bands(&self) -> impl Iterator<Item = Result<Vec<f32>>> {
        let (rows, width) = (self.rows.rows, self.columns());
        let same = self.rows.order == Order::Same;
        // The rows of a file that is turned are our columns.
        let turned = same && self.rows.transposed && self.from.is_some_and(|(p, _)| p.tensor.dims().len() == 2);
        let (all, across) = if turned { (width, rows) } else { (rows, width) };
        let whole = !turned && (self.rows.transposed || !same);
        let step = if whole { all } else { BAND / across.max(1) }.max(1);
        (0..all).step_by(step).map(move |first| {
            let some = step.min(all - first);
            if turned { self.turned(first, some) } else { self.values(first, some, width) }
        })
    }

    /// Numbers in a row of ours.
    fn columns(&self) -> usize {
        self.from.map_or(self.width, |(p, _)| p.columns()).max(1)
    }

    /// Columns `first .. first + columns` of a matrix that is written turned, as the file's rows.
    fn turned(&self, first: usize, columns: usize) -> Result<Vec<f32>> {
        let Some((param, row)) = self.from else { return Ok(Vec::new()) };
        let part = param.narrow(row, self.rows.rows)?.narrow(1, first, columns)?;
        let mut values = part.to_dtype(DType::F32)?.to_vec::<f32>()?;
        if self.rows.shift != 0.0 {
            values.iter_mut().for_each(|v| *v -= self.rows.shift);
        }
        transpose(&self.rows.name, &values, self.rows.rows)
    }

    /// Rows `first .. first + rows` of `width` numbers.
    fn values(&self, first: usize, rows: usize, width: usize) -> Result<Vec<f32>> {
        let Rows { name, transposed, order, shift, .. } = &self.rows;
        let Some((param, row)) = self.from else { return zeros(name, rows * width) };
        let mut values = param.narrow(row + first, rows)?.to_dtype(DType::F32)?.to_vec::<f32>()?;
        if *shift != 0.0 {
            values.iter_mut().for_each(|v| *v -= shift);
        }
        let values = order.to_theirs(name, values, width)?;
        if *transposed { transpose(name, &values, rows) } else { Ok(values) }
    }
}

/// The shape of `rows` rows of a parameter of ours in a published file.
pub(crate) fn published_shape(ours: &[usize], rows: usize, transposed: bool) -> Vec<usize> {
    match (ours, transposed) {
        ([_, inp], true) => vec![*inp, rows],
        ([_, rest @ ..], _) => [&[rows], rest].concat(),
        ([], _) => vec![rows],
    }
}

/// `[rows, n]` to `[n, rows]`, by squares that fit the cache. `name` is that of the tensor.
///
/// # Errors
/// [`Error::NoMemory`].
pub(crate) fn transpose(name: &str, values: &[f32], rows: usize) -> Result<Vec<f32>> {
    const SQUARE: usize = 32;
    let columns = values.len() / rows.max(1);
    let mut out = zeros(name, values.len())?;
    for r0 in (0..rows).step_by(SQUARE) {
        for c0 in (0..columns).step_by(SQUARE) {
            for r in r0..rows.min(r0 + SQUARE) {
                for c in c0..columns.min(c0 + SQUARE) {
                    out[c * rows + r] = values[r * columns + c];
                }
            }
        }
    }
    Ok(out)
}

/// The files an index names; each must be a plain name inside the folder.
pub(crate) fn shard_names(index: &Value, path: &Path) -> Result<BTreeSet<String>> {
    let bad = |message: String| Error::Json { path: path.to_owned(), message };
    let Some(Value::Object(map)) = index.get("weight_map") else { return Err(bad("no weight_map".into())) };
    let mut names = BTreeSet::new();
    for (tensor, file) in map {
        match file.as_str() {
            Some(name) if Path::new(name).file_name().is_some_and(|f| f == name) => names.insert(name.to_owned()),
            _ => return Err(bad(format!("tensor {tensor} is in {file}, which is not a file of this folder"))),
        };
    }
    Ok(names)
}

/// Parameters by their names, each of which there is once.
pub(crate) fn by_name(params: &[Param]) -> BTreeMap<&str, &Param> {
    params.iter().map(|p| (p.name.as_str(), p)).collect()
}

pub(crate) fn read_json(path: &Path) -> Result<Value> {
    let bad = |message: String| Error::Json { path: path.to_owned(), message };
    let text = bounded::read(path, Limits::default().header_bytes).map_err(|e| match e.kind() {
        std::io::ErrorKind::InvalidData => bad(e.to_string()),
        _ => gently_formats::Error::io(path, "read")(e).into(),
    })?;
    serde_json::from_slice(&text).map_err(|e| bad(e.to_string()))
}

fn write_json(path: &Path, value: &Value) -> Result<()> {
    Ok(atomic::write(path, format!("{value:#}\n").as_bytes())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transposing_twice_is_nothing() {
        let values: Vec<f32> = (0..35 * 70).map(|v| v as f32).collect();
        let turned = transpose("w", &values, 35).unwrap();
        assert_eq!(turned[1], 70.0);
        assert_eq!(transpose("w", &turned, 70).unwrap(), values);
    }

    #[test]
    fn a_matrix_goes_out_in_small_pieces() {
        let config = DecoderConfig {
            vocab: 300,
            context: 8,
            layers: 1,
            heads: 4,
            width: 264,
            ..DecoderConfig::preset(crate::config::Family::Gpt2)
        };
        let model = Decoder::new(&config, &gently_tensor::Rng::new(3), &Device::Cpu).unwrap();
        let table = Layout::of(&config).names(&config, model.params());
        let params = by_name(model.params());
        let mut turned = 0;
        for out in Out::all(&table, &params).unwrap() {
            let bands = out.bands().collect::<Result<Vec<_>>>().unwrap();
            assert!(bands.iter().all(|band| band.len() <= BAND), "{}", out.rows.name);
            assert_eq!(bands.concat(), out.values(0, out.rows.rows, out.columns()).unwrap(), "{}", out.rows.name);
            turned += usize::from(out.rows.transposed && bands.len() > 1);
        }
        assert!(turned > 0, "GPT-2's files have matrices turned");
    }

    #[test]
    fn a_name_without_a_parameter_is_not_written_as_zeros() {
        let config = DecoderConfig {
            vocab: 8,
            layers: 1,
            heads: 2,
            width: 8,
            ..DecoderConfig::preset(crate::config::Family::Gpt2)
        };
        let model = Decoder::new(&config, &gently_tensor::Rng::new(3), &Device::Cpu).unwrap();
        let table = Layout::of(&config).names(&config, model.params());
        let mut params = by_name(model.params());
        params.remove("blocks.0.mixer.out.weight");
        let error = Out::all(&table, &params).err().unwrap();
        assert!(matches!(&error, Error::NoParameter { name } if name == "blocks.0.mixer.out.weight"), "{error}");
    }

    #[test]
    fn an_index_cannot_leave_its_folder() {
        for name in ["../model.safetensors", "/etc/passwd", "a/b", "..", ""] {
            let index = json!({ "weight_map": { "w": name } });
            assert!(shard_names(&index, Path::new("index")).is_err(), "{name}");
        }
        let index = json!({ "weight_map": { "w": "model-00001-of-00002.safetensors" } });
        assert_eq!(shard_names(&index, Path::new("index")).unwrap().len(), 1);
    }
}
