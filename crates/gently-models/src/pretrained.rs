//! Model folders: `config.json` beside `model.safetensors`, whole or in shards, as Hugging Face lays them out.
//!
//! Here: reading and writing such folders. Not here: which published names and keys there are (see
//! [`crate::families`]), tokenizers, and the trainer's checkpoints around the folder.
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
use crate::families::{self, Layout, NameTable, Rows};
use crate::params::{Builder, Param};
use gently_formats::safetensors::{Dtype, SafeTensors, Spec, Writer};
use gently_formats::{Limits, atomic};
use gently_tensor::{DType, Device};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::{Path, PathBuf};

const CONFIG: &str = "config.json";
const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// Reads only the configuration of a model folder.
///
/// # Errors
/// As [`Decoder::load_pretrained`].
pub fn read_config(dir: impl AsRef<Path>) -> Result<(Layout, DecoderConfig)> {
    let path = dir.as_ref().join(CONFIG);
    families::read_config(&read_json(&path)?, &path)
}

impl Decoder {
    /// Reads a model folder: GPT-2's or Llama's as published, or one that [`Decoder::save_pretrained`]
    /// wrote. Weights stored as F32, F16,
    /// BF16 or F64 become f32.
    ///
    /// # Errors
    /// [`Error::UnknownModelType`], [`Error::UnsupportedOption`], [`Error::Json`] and [`Error::Config`] for the
    /// configuration; [`Error::MissingTensor`], [`Error::UnexpectedTensor`], [`Error::TensorShape`] and
    /// [`Error::NonZeroBias`] for weights that are not this configuration's; [`Error::Format`] for broken files.
    /// Nothing is allocated by a size that a file declares before the tensors are seen to have it.
    pub fn load_pretrained(dir: impl AsRef<Path>, device: &Device) -> Result<Self> {
        let dir = dir.as_ref();
        let (layout, cfg) = read_config(dir)?;
        let weights = Weights::open(dir)?;
        weights.check(layout, &cfg)?;
        let model = Decoder::build(&cfg, Builder::new(None, device))?;
        weights.fill(layout, &model)?;
        Ok(model)
    }

    /// Fills the parameters in place from a folder of the same configuration: resuming.
    ///
    /// # Errors
    /// As [`Decoder::load_pretrained`].
    pub fn load_weights(&self, dir: impl AsRef<Path>) -> Result<()> {
        let weights = Weights::open(dir.as_ref())?;
        let layout = Layout::of(self.config());
        weights.check(layout, self.config())?;
        weights.fill(layout, self)
    }

    /// Writes a model folder in f32: `config.json` and `model.safetensors`, each complete or absent. The layout is
    /// GPT-2's or Llama's where one of them holds the model exactly, and our own otherwise.
    ///
    /// # Errors
    /// [`Error::Format`] if a file cannot be written.
    pub fn save_pretrained(&self, dir: impl AsRef<Path>) -> Result<()> {
        self.save_sharded(dir, u64::MAX)
    }

    /// As [`Decoder::save_pretrained`], in files of at most `max_bytes` of weights (one tensor may be larger) with an index.
    ///
    /// # Errors
    /// As [`Decoder::save_pretrained`].
    pub fn save_sharded(&self, dir: impl AsRef<Path>, max_bytes: u64) -> Result<()> {
        let dir = dir.as_ref();
        std::fs::create_dir_all(dir).map_err(io(dir, "create"))?;
        let layout = Layout::of(self.config());
        let table = layout.names(self.config(), self.params());

        // The published tensors in order, cut into shards.
        let mut shards: Vec<Vec<Out>> = vec![Vec::new()];
        let mut bytes = 0;
        let params = by_name(self.params());
        for out in Out::all(&table, &params) {
            let size = 4 * out.shape().iter().product::<usize>() as u64;
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
                _ => format!("model-{:05}-of-{count:05}.safetensors", i + 1),
            };
            let specs: Vec<Spec> =
                shard.iter().map(|o| Spec { name: o.name.clone(), dtype: Dtype::F32, shape: o.shape() }).collect();
            let mut writer = Writer::create(dir.join(&file), &specs, &metadata)?;
            for out in shard {
                let values = out.values()?;
                total += 4 * values.len() as u64;
                writer.write_f32(&values)?;
                index.insert(out.name.clone(), Value::from(file.as_str()));
            }
            writer.finish()?;
        }
        if count > 1 {
            let index = json!({ "metadata": { "total_size": total }, "weight_map": index });
            write_json(&dir.join(INDEX), &index)?;
        }
        write_json(&dir.join(CONFIG), &layout.to_json(self.config()))
    }
}

/// A published tensor on its way out: some rows of a parameter of ours, or zeros.
struct Out<'a> {
    name: String,
    rows: usize,
    transposed: bool,
    /// The parameter and its first row.
    from: Option<(&'a Param, usize)>,
}

impl<'a> Out<'a> {
    fn all(table: &NameTable, params: &BTreeMap<&str, &'a Param>) -> Vec<Self> {
        let mut all = Vec::new();
        for mapping in &table.mappings {
            let mut row = 0;
            for Rows { name, rows, transposed } in &mapping.theirs {
                let from = params.get(mapping.ours.as_str()).map(|p| (*p, row));
                all.push(Self { name: name.clone(), rows: *rows, transposed: *transposed, from });
                row += rows;
            }
        }
        let zeros = table.zeros.iter();
        all.extend(zeros.map(|(name, n)| Self { name: name.clone(), rows: *n, transposed: false, from: None }));
        all
    }

    fn shape(&self) -> Vec<usize> {
        published_shape(self.from.map_or(&[0], |(p, _)| p.tensor.dims()), self.rows, self.transposed)
    }

    fn values(&self) -> Result<Vec<f32>> {
        let Some((param, row)) = self.from else { return Ok(vec![0.0; self.rows]) };
        let values = param.tensor.narrow(0, row, self.rows)?.to_dtype(DType::F32)?.to_vec::<f32>()?;
        Ok(if self.transposed { transpose(&values, self.rows) } else { values })
    }
}

/// The shape of `rows` rows of a parameter of ours in a published file.
fn published_shape(ours: &[usize], rows: usize, transposed: bool) -> Vec<usize> {
    match (ours, transposed) {
        ([_, inp], true) => vec![*inp, rows],
        ([_, rest @ ..], _) => [&[rows], rest].concat(),
        ([], _) => vec![rows],
    }
}

/// `[rows, n]` to `[n, rows]`, by squares that fit the cache.
fn transpose(values: &[f32], rows: usize) -> Vec<f32> {
    const SQUARE: usize = 32;
    let columns = values.len() / rows.max(1);
    let mut out = vec![0.0; values.len()];
    for r0 in (0..rows).step_by(SQUARE) {
        for c0 in (0..columns).step_by(SQUARE) {
            for r in r0..rows.min(r0 + SQUARE) {
                for c in c0..columns.min(c0 + SQUARE) {
                    out[c * rows + r] = values[r * columns + c];
                }
            }
        }
    }
    out
}

/// The open weight files of a folder.
struct Weights {
    dir: PathBuf,
    files: Vec<SafeTensors>,
    /// Which file holds a tensor.
    places: BTreeMap<String, usize>,
}

impl Weights {
    fn open(dir: &Path) -> Result<Self> {
        let limits = Limits::default();
        let mut names = BTreeSet::from([WEIGHTS.to_owned()]);
        let index = dir.join(INDEX);
        if !dir.join(WEIGHTS).exists() && index.exists() {
            names = shard_names(&read_json(&index)?, &index)?;
        }
        let mut weights = Self { dir: dir.to_owned(), files: Vec::new(), places: BTreeMap::new() };
        for name in names {
            let file = SafeTensors::open(dir.join(name), &limits)?;
            weights.places.extend(file.tensors().keys().map(|name| (name.clone(), weights.files.len())));
            weights.files.push(file);
        }
        Ok(weights)
    }

    /// The name under which a file has a published tensor: as it is, or without the prefix.
    fn find<'a>(&self, table: &NameTable, name: &'a str) -> Result<(&SafeTensors, &'a str)> {
        let bare = table.optional_prefix.and_then(|prefix| name.strip_prefix(prefix));
        for name in [Some(name), bare].into_iter().flatten() {
            if let Some(&i) = self.places.get(name) {
                return Ok((&self.files[i], name));
            }
        }
        Err(Error::MissingTensor { path: self.dir.clone(), name: name.to_owned() })
    }

    /// Holds every name and shape to the configuration, allocating nothing by what the configuration says.
    fn check(&self, layout: Layout, cfg: &DecoderConfig) -> Result<()> {
        if cfg.layers > self.places.len() {
            let what = format!("{} layers, but the files hold {} tensors", cfg.layers, self.places.len());
            return Err(Error::Json { path: self.dir.join(CONFIG), message: what });
        }
        let shapes = Decoder::build(cfg, Builder::new(None, &Device::Meta))?;
        let table = layout.names(cfg, shapes.params());
        let params = by_name(shapes.params());
        let mut known = BTreeSet::new();
        for out in Out::all(&table, &params) {
            let expected = match out.from {
                Some(_) => out.shape(),
                // A bias of zeros that the configuration leaves out may be left out of the file as well.
                None if self.find(&table, &out.name).is_err() => continue,
                None => vec![out.rows],
            };
            let (file, name) = self.find(&table, &out.name)?;
            let found = file.entry(name)?.shape.clone();
            if found != expected {
                return Err(Error::TensorShape {
                    path: file.path().to_owned(),
                    name: name.to_owned(),
                    found,
                    expected,
                });
            }
            if out.from.is_none() && file.to_f32(name)?.iter().any(|v| *v != 0.0) {
                return Err(Error::NonZeroBias { path: file.path().to_owned(), name: name.to_owned() });
            }
            known.insert(name.to_owned());
        }
        for (name, &i) in &self.places {
            let skipped = table.skipped.iter().any(|end| name.ends_with(end));
            let tied = cfg.tied_head && name == "lm_head.weight";
            if !known.contains(name) && !skipped && !tied {
                return Err(Error::UnexpectedTensor { path: self.files[i].path().to_owned(), name: name.clone() });
            }
        }
        Ok(())
    }

    /// Fills the parameters. [`Weights::check`] has run.
    fn fill(&self, layout: Layout, model: &Decoder) -> Result<()> {
        let table = layout.names(model.config(), model.params());
        let params = by_name(model.params());
        for out in Out::all(&table, &params) {
            let Some((param, row)) = out.from else { continue };
            let (file, name) = self.find(&table, &out.name)?;
            let mut values = file.to_f32(name)?;
            if out.transposed {
                let inp = values.len() / out.rows.max(1);
                values = transpose(&values, inp);
            }
            let width = param.tensor.numel() / param.tensor.dims()[0].max(1);
            let place = row * width..row * width + values.len();
            match param.tensor.dtype() {
                DType::F64 => param.tensor.with_data_mut(|d: &mut [f64]| {
                    d[place].iter_mut().zip(&values).for_each(|(d, v)| *d = f64::from(*v));
                })?,
                _ => param.tensor.with_data_mut(|d: &mut [f32]| d[place].copy_from_slice(&values))?,
            }
        }
        Ok(())
    }
}

/// The files an index names; each must be a plain name inside the folder.
fn shard_names(index: &Value, path: &Path) -> Result<BTreeSet<String>> {
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

fn by_name(params: &[Param]) -> BTreeMap<&str, &Param> {
    params.iter().map(|p| (p.name.as_str(), p)).collect()
}

fn read_json(path: &Path) -> Result<Value> {
    let limit = Limits::default().header_bytes;
    let mut text = Vec::new();
    let file = std::fs::File::open(path).map_err(io(path, "read"))?;
    file.take(limit + 1).read_to_end(&mut text).map_err(io(path, "read"))?;
    let bad = |message: String| Error::Json { path: path.to_owned(), message };
    if text.len() as u64 > limit {
        return Err(bad(format!("longer than {limit} bytes")));
    }
    serde_json::from_slice(&text).map_err(|e| bad(e.to_string()))
}

fn write_json(path: &Path, value: &Value) -> Result<()> {
    Ok(atomic::write(path, format!("{value:#}\n").as_bytes())?)
}

fn io(path: &Path, action: &'static str) -> impl FnOnce(std::io::Error) -> Error {
    move |source| Error::Format(gently_formats::Error::Io { path: path.into(), action, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transposing_twice_is_nothing() {
        let values: Vec<f32> = (0..35 * 70).map(|v| v as f32).collect();
        let turned = transpose(&values, 35);
        assert_eq!(turned[1], 70.0);
        assert_eq!(transpose(&turned, 70), values);
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
