//! The weights of a published model, by our own parameter names, as they are stored.
//!
//! Here: [`WeightSource`], which opens a model folder or a GGUF file, holds every name and shape to the configuration, and
//! gives each parameter's rows in our order: dequantized for a [`Decoder`], or packed as in the file for an engine that
//! computes on them. Not here: the file formats (`gently-formats`), names and keys (see [`crate::families`]), the block
//! formats (`gently-kernels::quant`).
//!
//! ```
//! use gently_models::{Decoder, WeightSource, config::*};
//! use gently_tensor::{Device, Rng};
//! # fn main() -> gently_models::Result<()> {
//! # let dir = std::env::temp_dir().join(format!("gently-weights-{}", std::process::id()));
//! let cfg = DecoderConfig { vocab: 16, layers: 1, heads: 2, width: 8, ..DecoderConfig::preset(Family::Llama) };
//! Decoder::new(&DecoderConfig { kv_heads: None, ..cfg }, &Rng::new(0), &Device::Cpu)?.save_pretrained(&dir)?;
//! let source = WeightSource::open(&dir)?;
//! // Query, key and value are three tensors in the file and one parameter of ours.
//! let parts = source.parts("blocks.0.mixer.qkv.weight")?;
//! assert_eq!(parts.iter().map(|p| p.rows).collect::<Vec<_>>(), [8, 8, 8]);
//! assert_eq!(parts[0].cols, 8);
//! assert_eq!(source.to_f32("blocks.0.mixer.qkv.weight")?.len(), 24 * 8);
//! # std::fs::remove_dir_all(&dir).ok();
//! # Ok(()) }
//! ```

mod store;
mod write;

use crate::config::DecoderConfig;
use crate::decoder::Decoder;
use crate::error::{Error, Result};
use crate::families::{self, Layout, NameTable, Order, Rows};
use crate::params::{Builder, Param};
use crate::pretrained::{by_name, published_shape, read_json, transpose};
use gently_formats::Limits;
use gently_formats::files::CONFIG;
use gently_formats::gguf::{Gguf, TensorType};
use gently_kernels::quant::{self, BlockType};
use gently_tensor::{DType, Device, memory};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use store::{Raw, Store};

pub(crate) use write::encode;
pub use write::{Storage, requantize};

/// Some rows of a parameter, stacked below those of the part before, as they are stored.
#[derive(Debug, Clone)]
pub struct Part<'a> {
    /// How a row is stored: floats, or quantized blocks.
    pub kind: TensorType,
    /// Number of rows; for a vector its elements.
    pub rows: usize,
    /// Elements of a row; 1 for a vector.
    pub cols: usize,
    /// The rows one after another, of no particular alignment. Borrowed from the mapped file where nothing had to move.
    pub bytes: Cow<'a, [u8]>,
}

impl Part<'_> {
    /// The elements as f32.
    ///
    /// # Errors
    /// [`Error::Format`] for a type of integers; [`Error::NoMemory`].
    pub fn to_f32(&self) -> Result<Vec<f32>> {
        let mut out = zeros("", self.rows * self.cols)?;
        self.read("", &mut out)?;
        Ok(out)
    }

    /// The same of the parameter `name`, into their place.
    fn read(&self, name: &str, out: &mut [f32]) -> Result<()> {
        decode(Path::new(""), name, self.kind, &self.bytes, out)
    }
}

/// An open model: its configuration, and its weights on request.
pub struct WeightSource {
    cfg: DecoderConfig,
    layout: Layout,
    store: Store,
    table: NameTable,
    /// Where each parameter of ours stands in the table, and its shape.
    params: BTreeMap<String, (usize, Vec<usize>)>,
    /// The name of the head that the model has of its own and that is in no file.
    lost_head: Option<String>,
}

/// What files have of a head, against what the configuration says.
enum Head {
    /// What it says.
    Said,
    /// One of its own, where the embedding table was said to be it.
    Own,
    /// None, where it has one of its own: a model saved without its head.
    Lost(String),
}

impl WeightSource {
    /// Opens a model folder (`config.json` beside safetensors files, whole or in shards) or a GGUF file (whole or in parts), and
    /// checks that its tensors are the configuration's. A head in the files that is not the embedding table counts, also where
    /// `config.json` says that the two are one, as in transformers. A model that was saved without a head of its own is opened as
    /// one whose head is the embedding table, see [`WeightSource::check_head`].
    ///
    /// # Errors
    /// [`Error::NoModel`]; [`Error::UnknownModelType`], [`Error::UnsupportedOption`], [`Error::Setting`] and [`Error::Json`] for
    /// the configuration; [`Error::OtherMixers`]; [`Error::Pickle`]; [`Error::MissingTensor`], [`Error::UnexpectedTensor`],
    /// [`Error::TensorShape`] and [`Error::NonZeroBias`] for weights that are not this configuration's;
    /// [`Error::Format`] for broken files.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        if path.is_file() {
            return Self::of_gguf(Gguf::open(path, &Limits::default())?);
        }
        if !path.is_dir() {
            return Err(Error::NoModel { path: path.into() });
        }
        let config = path.join(CONFIG);
        let (layout, cfg) = families::read_config(&read_json(&config)?, &config)?;
        let source = Self::of_store(Store::open_folder(path)?, layout, cfg)?;
        let source = match source.found_head()? {
            Head::Said => source,
            Head::Own => source.with_tied_head(false)?,
            Head::Lost(name) => Self { lost_head: Some(name), ..source.with_tied_head(true)? },
        };
        source.check()?;
        Ok(source)
    }

    /// An open GGUF file.
    ///
    /// # Errors
    /// As [`WeightSource::open`].
    pub fn of_gguf(file: Gguf) -> Result<Self> {
        let (entry, cfg) = families::read_gguf_config(&file)?;
        Self::check_layers(&cfg, file.tensors().len(), file.path())?;
        let table = (entry.gguf_names)(&cfg);
        let shapes = shapes_of(&cfg)?;
        let source = Self::new(cfg, entry.layout, Store::Gguf(Box::new(file)), table, shapes.params())?;
        source.check()?;
        Ok(source)
    }

    /// The folder of a model that there is, whose parameters' names and shapes count.
    ///
    /// # Errors
    /// As [`WeightSource::open`]; [`Error::UntiedHead`] where the configuration has no place for the files' head;
    /// [`Error::NoParameter`] where the layout has another parameter than the model.
    pub(crate) fn of_folder(dir: &Path, layout: Layout, model: &Decoder) -> Result<Self> {
        let (cfg, params) = (model.config().clone(), model.params());
        let table = layout.names(&cfg, params);
        let source = Self::new(cfg, layout, Store::open_folder(dir)?, table, params)?;
        if let (Head::Own, Some(name)) = (source.found_head()?, &source.table.head) {
            return Err(Error::UntiedHead { path: dir.into(), name: name.clone() });
        }
        source.check()?;
        Ok(source)
    }

    /// The same, unchecked.
    fn of_store(store: Store, layout: Layout, cfg: DecoderConfig) -> Result<Self> {
        Self::check_layers(&cfg, store.len(), &store.path().join(CONFIG))?;
        let shapes = shapes_of(&cfg)?;
        let table = layout.names(&cfg, shapes.params());
        Self::new(cfg, layout, store, table, shapes.params())
    }

    /// The same files for a model whose head is the embedding table or its own, unchecked.
    fn with_tied_head(self, tied_head: bool) -> Result<Self> {
        let Self { cfg, layout, store, .. } = self;
        Self::of_store(store, layout, DecoderConfig { tied_head, ..cfg })
    }

    /// Each layer has tensors: a number of layers over theirs is not believed, and nothing is made by it. `key` says it.
    fn check_layers(cfg: &DecoderConfig, tensors: usize, path: &Path) -> Result<()> {
        if cfg.layers <= tensors {
            return Ok(());
        }
        let message = format!("{} layers, but the files hold {tensors} tensors", cfg.layers);
        Err(Error::Json { path: path.into(), message })
    }

    /// `params` are the model's, of which the names and shapes are taken.
    fn new(cfg: DecoderConfig, layout: Layout, store: Store, table: NameTable, params: &[Param]) -> Result<Self> {
        let mut unnamed = by_name(params);
        let mut params = BTreeMap::new();
        for (i, mapping) in table.mappings.iter().enumerate() {
            let Some(param) = unnamed.remove(mapping.ours.as_str()) else {
                return Err(Error::NoParameter { name: mapping.ours.clone() });
            };
            params.insert(mapping.ours.clone(), (i, param.tensor.dims().to_vec()));
        }
        if let Some(name) = unnamed.keys().next() {
            return Err(Error::MissingTensor { path: store.path().into(), name: (*name).to_owned() });
        }
        Ok(Self { cfg, layout, store, table, params, lost_head: None })
    }

    /// Whether the head that the configuration speaks of is the one in the files.
    fn found_head(&self) -> Result<Head> {
        let Some(name) = &self.table.head else { return Ok(Head::Said) };
        let table = self.table.mappings.iter().find(|m| m.ours == "embed.tokens").and_then(|m| m.theirs.first());
        let Some(table) = table else { return Ok(Head::Said) };
        Ok(match (self.cfg.tied_head, self.find(name).ok()) {
            (true, Some(head)) if !head.is_same(&self.find(&table.name)?)? => Head::Own,
            // Saved without its head, the others have lost the first part of their names too.
            (false, None) if self.find(&table.name)?.name != table.name => Head::Lost(name.clone()),
            _ => Head::Said,
        })
    }

    /// Refuses files without a head, of a model that has one of its own: texts can be embedded with them, and none written.
    ///
    /// # Errors
    /// [`Error::NoHead`].
    pub fn check_head(&self) -> Result<()> {
        match &self.lost_head {
            Some(name) => Err(Error::NoHead { path: self.path().into(), name: name.clone() }),
            None => Ok(()),
        }
    }

    /// What the model is.
    pub fn config(&self) -> &DecoderConfig {
        &self.cfg
    }

    /// The family's layout.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// The file or folder.
    pub fn path(&self) -> &Path {
        self.store.path()
    }

    /// The GGUF file, where it is one: its metadata has the tokenizer.
    pub fn gguf(&self) -> Option<&Gguf> {
        match &self.store {
            Store::Gguf(file) => Some(file),
            Store::Folder { .. } => None,
        }
    }

    /// The files that the weights are read from: all parts of a GGUF file, or all safetensors files of a folder.
    pub fn files(&self) -> Vec<&Path> {
        self.store.files()
    }

    /// Bytes of the parameters as they are stored, without what else the files have: headers, a tokenizer, other tensors.
    pub fn stored_bytes(&self) -> u64 {
        let rows = self.table.mappings.iter().flat_map(|mapping| &mapping.theirs);
        let names: BTreeSet<&str> = rows.map(|rows| rows.name.as_str()).collect();
        names.into_iter().filter_map(|name| self.store.get(name)).map(|raw| raw.bytes.len() as u64).sum()
    }

    /// Our parameters' names with their shapes, as [`Decoder::params`] has them.
    pub fn params(&self) -> impl Iterator<Item = (&str, &[usize])> {
        self.params.iter().map(|(name, (_, shape))| (name.as_str(), shape.as_slice()))
    }

    /// Whether the model has the parameter: a bias, a norm that not all have.
    pub fn has(&self, name: &str) -> bool {
        self.params.contains_key(name)
    }

    /// A parameter's rows `[out, in]` in our order, in parts that may differ in type; a tied `head.weight` is
    /// `embed.tokens`. Parts that must be computed on the way (transposed, or shifted) come as F32.
    ///
    /// # Errors
    /// [`Error::NoParameter`]; [`Error::Format`] for a type that cannot be read as numbers; [`Error::NoMemory`].
    pub fn parts(&self, name: &str) -> Result<Vec<Part<'_>>> {
        let tied = name == "head.weight" && self.cfg.tied_head;
        let name = if tied { "embed.tokens" } else { name };
        let Some((index, shape)) = self.params.get(name) else {
            return Err(Error::NoParameter { name: name.to_owned() });
        };
        let cols = shape.iter().skip(1).product();
        self.table.mappings[*index].theirs.iter().map(|rows| self.part(rows, cols)).collect()
    }

    /// Gives back the memory of the parameters read so far, so that who keeps a copy does not hold them twice. They can be
    /// read again.
    pub fn release(&self) {
        self.store.release();
    }

    /// A parameter as f32.
    ///
    /// # Errors
    /// As [`WeightSource::parts`].
    pub fn to_f32(&self, name: &str) -> Result<Vec<f32>> {
        let parts = self.parts(name)?;
        let mut all = zeros(name, parts.iter().map(|p| p.rows * p.cols).sum())?;
        let mut rest = all.as_mut_slice();
        for part in parts {
            let (here, after) = rest.split_at_mut(part.rows * part.cols);
            part.read(name, here)?;
            rest = after;
        }
        Ok(all)
    }

    /// The model with all its weights in f32.
    ///
    /// # Errors
    /// As [`WeightSource::parts`] and [`WeightSource::check_head`].
    pub fn decoder(&self, device: &Device) -> Result<Decoder> {
        self.check_head()?;
        let model = Decoder::build(&self.cfg, Builder::new(None, device))?;
        self.fill(&model)?;
        Ok(model)
    }

    /// Fills the parameters of a model of the same configuration.
    pub(crate) fn fill(&self, model: &Decoder) -> Result<()> {
        for param in model.params() {
            let mut at = 0;
            for part in self.parts(&param.name)? {
                let values = part.to_f32()?;
                let place = at..at + values.len();
                at = place.end;
                match param.tensor.dtype() {
                    DType::F64 => param.tensor.with_data_mut(|d: &mut [f64]| {
                        d[place].iter_mut().zip(&values).for_each(|(d, v)| *d = f64::from(*v));
                    })?,
                    _ => param.tensor.with_data_mut(|d: &mut [f32]| d[place].copy_from_slice(&values))?,
                }
            }
        }
        Ok(())
    }

    fn part(&self, rows: &Rows, cols: usize) -> Result<Part<'_>> {
        let raw = self.find(&rows.name)?;
        let computed = rows.transposed || rows.shift != 0.0 || rows.plus.is_some();
        let unordered = rows.order != Order::Same && raw.kind.row_bytes(cols).is_none();
        if !computed && !unordered {
            let bytes = match rows.order {
                Order::Same => Cow::Borrowed(raw.bytes),
                order => Cow::Owned(reorder(raw.name, raw.bytes, rows.rows, order)?),
            };
            return Ok(Part { kind: raw.kind, rows: rows.rows, cols, bytes });
        }
        let mut values = raw.to_f32()?;
        if rows.transposed {
            values = transpose(raw.name, &values, values.len() / rows.rows.max(1))?;
        }
        if let Some(plus) = &rows.plus {
            let first = self.find(plus)?.to_f32()?;
            values.chunks_mut(cols.max(1)).for_each(|row| row.iter_mut().zip(&first).for_each(|(v, p)| *v += p));
        }
        // Not where there is none: the sum of -0 and 0 is 0.
        if rows.shift != 0.0 {
            values.iter_mut().for_each(|v| *v += rows.shift);
        }
        let mut bytes = room::<u8>(raw.name, size_of_val(values.as_slice()))?;
        bytes.extend(values.iter().flat_map(|v| v.to_le_bytes()));
        if rows.order != Order::Same {
            bytes = reorder(raw.name, &bytes, rows.rows, rows.order)?;
        }
        Ok(Part { kind: TensorType::F32, rows: rows.rows, cols, bytes: Cow::Owned(bytes) })
    }

    /// A published tensor under its name, or under its name without the prefix, each with its end as it is and as it was.
    fn find(&self, name: &str) -> Result<Raw<'_>> {
        let old = |name: &str| {
            let renamed = |(end, old): &(&str, &str)| Some(format!("{}{old}", name.strip_suffix(*end)?));
            self.table.old_ends.iter().filter_map(renamed).find_map(|name| self.store.get(&name))
        };
        let bare = self.table.optional_prefix.and_then(|prefix| name.strip_prefix(prefix));
        let found =
            [Some(name), bare].into_iter().flatten().find_map(|name| self.store.get(name).or_else(|| old(name)));
        found.ok_or_else(|| Error::MissingTensor { path: self.store.path().into(), name: name.to_owned() })
    }

    /// Holds every name and shape to the configuration.
    fn check(&self) -> Result<()> {
        let mut known = BTreeSet::new();
        // In the table's order, so that what is said is about the first tensor that is wrong.
        for mapping in &self.table.mappings {
            let Some((_, shape)) = self.params.get(&mapping.ours) else { continue };
            for rows in &mapping.theirs {
                let raw = self.find(&rows.name)?;
                raw.check_shape(published_shape(shape, rows.rows, rows.transposed))?;
                raw.check_numbers()?;
                known.insert(raw.name);
                if let Some(plus) = &rows.plus {
                    let raw = self.find(plus)?;
                    // One row is used; there may be more.
                    let there = raw.shape.first().copied().unwrap_or(0).max(1);
                    raw.check_shape([&[there], &shape[1..]].concat())?;
                    raw.check_numbers()?;
                    known.insert(raw.name);
                }
            }
        }
        for (name, n) in &self.table.zeros {
            // A bias of zeros that the configuration leaves out may be left out of the file as well.
            let Ok(raw) = self.find(name) else { continue };
            raw.check_shape(vec![*n])?;
            if raw.to_f32()?.iter().any(|v| *v != 0.0) {
                return Err(Error::NonZeroBias { path: raw.path.into(), name: raw.name.to_owned() });
            }
            known.insert(raw.name);
        }
        for name in self.store.names() {
            // The embedding table a second time.
            let tied = self.cfg.tied_head && self.table.head.as_deref() == Some(name);
            if !known.contains(name) && !self.table.skips(name) && !tied {
                let path = self.store.get(name).map_or(self.store.path(), |raw| raw.path);
                return Err(Error::UnexpectedTensor { path: path.into(), name: name.to_owned() });
            }
        }
        Ok(())
    }
}

/// The model without weights, for its parameters' names and shapes.
fn shapes_of(cfg: &DecoderConfig) -> Result<Decoder> {
    // A run elsewhere in the process may be counting what it will take.
    memory::uncounted(|| Decoder::build(cfg, Builder::new(None, &Device::Meta)))
}

/// Room for `len` elements of the tensor or parameter `name`: how many, a file says.
///
/// # Errors
/// [`Error::NoMemory`].
fn room<T>(name: &str, len: usize) -> Result<Vec<T>> {
    let mut room = Vec::new();
    room.try_reserve_exact(len).map_err(|_| {
        let of = if name.is_empty() { "weights".into() } else { format!("weights ({name})") };
        Error::NoMemory { of, bytes: len.saturating_mul(size_of::<T>()) }
    })?;
    Ok(room)
}

/// The same, filled with zeros.
///
/// # Errors
/// [`Error::NoMemory`].
pub(crate) fn zeros(name: &str, len: usize) -> Result<Vec<f32>> {
    let mut zeros = room(name, len)?;
    zeros.resize(len, 0.0);
    Ok(zeros)
}

/// Whole rows in our order.
fn reorder(name: &str, bytes: &[u8], rows: usize, order: Order) -> Result<Vec<u8>> {
    let width = bytes.len() / rows.max(1);
    let mut out = room::<u8>(name, bytes.len())?;
    for row in 0..rows {
        let from = order.source(row) * width;
        out.extend_from_slice(&bytes[from..from + width]);
    }
    Ok(out)
}

/// Elements of any type of numbers as f32; `path` and `name` are for messages.
pub(crate) fn decode(path: &Path, name: &str, kind: TensorType, bytes: &[u8], out: &mut [f32]) -> Result<()> {
    let bad = |reason: String| gently_formats::Error::Tensor { path: path.into(), name: name.into(), reason };
    if kind == TensorType::F64 {
        let elements = bytes.as_chunks::<8>().0;
        out.iter_mut().zip(elements).for_each(|(o, b)| *o = f64::from_le_bytes(*b) as f32);
        return Ok(());
    }
    let Some(block) = BlockType::from_ggml_id(kind.id()) else {
        return Err(bad(format!("it is {kind}, which is not read as numbers")).into());
    };
    quant::dequantize(block, bytes, out).map_err(|e| bad(e.to_string()).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_that_no_machine_has_is_refused_by_name() {
        for len in [1 << 46, usize::MAX] {
            let error = zeros("w", len).unwrap_err();
            let wanted = format!("there is no memory for {} bytes of weights (w)", len.saturating_mul(4));
            assert!(matches!(error, Error::NoMemory { .. }) && error.to_string() == wanted, "{error}");
            assert!(error.hint().is_some());
        }
        let part = Part { kind: TensorType::F32, rows: 1 << 23, cols: 1 << 23, bytes: Cow::Borrowed(&[]) };
        assert!(matches!(part.to_f32(), Err(Error::NoMemory { .. })));
    }
}
