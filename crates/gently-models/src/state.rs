//! The state of a decoder: one mixer state for each block.
//!
//! Here: forking, cutting, taking apart for a file and putting together. Not here: what a mixer keeps (see [`crate::mixers`]);
//! the file itself.
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
use gently_tensor::Tensor;
use std::collections::{BTreeMap, BTreeSet};

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

    /// What must be saved: tensors by name (`layers.0.keys`, …), in their own dtypes.
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

    /// Takes over saved tensors; `self` must come from [`crate::Decoder::init_state`] of the same model with the same batch,
    /// and `len` tokens were seen. Of a model the tensors tell no more than their names and shapes: that it has the same
    /// weights is for the caller to know.
    ///
    /// # Errors
    /// [`Error::State`] if a tensor is missing, left over or of another shape; then the state is unchanged.
    pub fn restore(&mut self, len: usize, tensors: &BTreeMap<String, Tensor>) -> Result<()> {
        // The bound of positions in attention; a file could say anything.
        if len >= 1 << 31 {
            return Err(Error::State { what: format!("{len} tokens are more than any sequence has") });
        }
        let mut layers = self.layers.clone();
        let mut rest: BTreeSet<&str> = tensors.keys().map(String::as_str).collect();
        for (i, layer) in layers.iter_mut().enumerate() {
            layer.load(len, &mut |name| {
                let name = format!("layers.{i}.{name}");
                rest.remove(name.as_str());
                match tensors.get(&name) {
                    Some(tensor) => Ok(tensor.clone()),
                    None => Err(Error::State { what: format!("tensor {name} is missing") }),
                }
            })?;
        }
        if let Some(name) = rest.first() {
            return Err(Error::State { what: format!("tensor {name} has no place in it") });
        }
        self.layers = layers;
        self.len = len;
        self.broken = false;
        Ok(())
    }
}
