//! The state of a decoder: one mixer state for each block.
//!
//! Here: forking, cutting, saving and loading. Not here: what a mixer keeps (see [`crate::mixers`]).
//!
//! ```
//! use gently_models::{Decoder, config::*};
//! use gently_tensor::{Device, Rng};
//! # fn main() -> gently_models::Result<()> {
//! let cfg = DecoderConfig { vocab: 16, layers: 1, heads: 2, width: 8, ..DecoderConfig::preset(Family::Gpt2) };
//! let model = Decoder::new(&cfg, &Rng::new(0), &Device::Cpu)?;
//! let mut state = model.init_state(1);
//! model.step(&model.ids(&[1, 2, 3], 1)?, &mut state)?;
//! let mut fork = state.clone();
//! fork.truncate(2)?;
//! assert_eq!((state.len(), fork.len()), (3, 2));
//! # Ok(()) }
//! ```

use crate::error::{Error, Result};
use crate::mixers::AnyState;
use gently_formats::Limits;
use gently_formats::safetensors::{Dtype, SafeTensors, Spec, Writer};
use gently_tensor::{DType, Device, Tensor};
use std::collections::BTreeMap;
use std::path::Path;

/// Marks a file as a saved state.
const KIND: &str = "gently decoder state";

/// What a decoder remembers of the tokens before. `Clone` is a fork: nothing is copied until one is written.
#[derive(Clone)]
pub struct DecoderState {
    pub(crate) batch: usize,
    pub(crate) len: usize,
    pub(crate) layers: Vec<AnyState>,
    /// A step failed half way.
    pub(crate) broken: bool,
}

impl DecoderState {
    pub(crate) fn new(batch: usize, layers: Vec<AnyState>) -> Self {
        Self { batch, len: 0, layers, broken: false }
    }

    /// Tokens seen.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no token was seen.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Rows of the batch.
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// Bytes held. Forks that share memory count it once each.
    pub fn bytes(&self) -> usize {
        self.layers.iter().map(AnyState::bytes).sum()
    }

    /// Forgets the tokens from `len` on.
    ///
    /// # Errors
    /// [`Error::State`] if a mixer cannot go back that far; then the state is unchanged.
    pub fn truncate(&mut self, len: usize) -> Result<()> {
        let mut layers = self.layers.clone();
        for layer in &mut layers {
            layer.truncate(len)?;
        }
        self.layers = layers;
        self.len = len;
        self.broken = false;
        Ok(())
    }

    /// Writes the state to one safetensors file, complete or absent. Values are stored as f32.
    ///
    /// # Errors
    /// [`Error::State`] after a failed step; [`Error::Format`] if the file cannot be written.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let tensors = self.to_tensors()?;
        let spec =
            |(name, t): (&String, &Tensor)| Spec { name: name.clone(), dtype: Dtype::F32, shape: t.dims().to_vec() };
        let specs: Vec<Spec> = tensors.iter().map(spec).collect();
        let about = BTreeMap::from([
            ("kind".to_owned(), KIND.to_owned()),
            ("tokens".to_owned(), self.len.to_string()),
            ("batch".to_owned(), self.batch.to_string()),
        ]);
        let mut file = Writer::create(path, &specs, &about)?;
        for tensor in tensors.values() {
            file.write_f32(&tensor.to_dtype(DType::F32)?.to_vec::<f32>()?)?;
        }
        Ok(file.finish()?)
    }

    /// Takes over the state in a file; `self` must come from [`crate::Decoder::init_state`] of the same model, with
    /// the same batch.
    ///
    /// # Errors
    /// [`Error::Format`] for a broken file; [`Error::State`] for one that is no state, or of another model or
    /// batch. Then the state is unchanged.
    pub fn load(&mut self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let file = SafeTensors::open(path, &Limits::default())?;
        let about = |key: &str| file.metadata().get(key).map(String::as_str);
        let number = |key: &str| about(key).and_then(|v| v.parse::<usize>().ok());
        let wrong = |what: &str| Err(Error::State { what: format!("{} {what}", path.display()) });
        let (Some(KIND), Some(len), Some(batch)) = (about("kind"), number("tokens"), number("batch")) else {
            return wrong("does not hold a decoder's state");
        };
        if batch != self.batch {
            return wrong(&format!("holds a batch of {batch}, not of {}", self.batch));
        }
        let mut tensors = BTreeMap::new();
        for (name, entry) in file.tensors() {
            let tensor = Tensor::from_slice(&file.to_f32(name)?, entry.shape.clone(), &Device::Cpu)?;
            tensors.insert(name.clone(), tensor);
        }
        self.restore(len, &tensors)
    }

    /// What must be saved: tensors by name (`layers.0.keys`, …).
    ///
    /// # Errors
    /// [`Error::State`] after a failed step.
    pub fn to_tensors(&self) -> Result<BTreeMap<String, Tensor>> {
        if self.broken {
            return Err(Error::State { what: "an earlier step failed half way".into() });
        }
        let mut all = BTreeMap::new();
        for (i, layer) in self.layers.iter().enumerate() {
            for (name, tensor) in layer.save()? {
                all.insert(format!("layers.{i}.{name}"), tensor);
            }
        }
        Ok(all)
    }

    /// Takes over saved tensors; `self` must come from [`crate::Decoder::init_state`] with the same batch, and
    /// `len` tokens were seen.
    ///
    /// # Errors
    /// [`Error::State`] if a tensor is missing or has another shape; then the state is unchanged.
    pub fn restore(&mut self, len: usize, tensors: &BTreeMap<String, Tensor>) -> Result<()> {
        // The bound of positions in attention; a file could say anything.
        if len >= 1 << 31 {
            return Err(Error::State { what: format!("{len} tokens are more than any sequence has") });
        }
        let mut layers = self.layers.clone();
        for (i, layer) in layers.iter_mut().enumerate() {
            layer.load(len, &mut |name| {
                let name = format!("layers.{i}.{name}");
                match tensors.get(&name) {
                    Some(tensor) => Ok(tensor.clone()),
                    None => Err(Error::State { what: format!("tensor {name} is missing") }),
                }
            })?;
        }
        self.layers = layers;
        self.len = len;
        self.broken = false;
        Ok(())
    }
}
