//! Saving and loading an optimizer's state.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use gently_formats::Limits;
use gently_formats::safetensors::{Dtype, SafeTensors, Spec, Writer};
use gently_tensor::Tensor;

use super::Optim;
use crate::{Error, Result};

impl Optim {
    /// The state tensors, each under `parameter.state`, such as `blocks.0.mlp.up.weight.m`.
    pub fn state(&self) -> Vec<(String, Tensor)> {
        let named = |slot: &super::Slot| {
            let pairs = slot.method.states().iter().zip(&slot.state);
            pairs.map(|(state, tensor)| (format!("{}.{state}", slot.name), tensor.clone())).collect::<Vec<_>>()
        };
        self.slots.iter().flat_map(named).collect()
    }

    /// Writes the state tensors as safetensors, f32.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        let state = self.state();
        let specs: Vec<Spec> = state
            .iter()
            .map(|(name, tensor)| Spec { name: name.clone(), dtype: Dtype::F32, shape: tensor.dims().to_vec() })
            .collect();
        let mut writer = Writer::create(path, &specs, &BTreeMap::new())?;
        for (_, tensor) in &state {
            tensor.with_data::<f32, _>(|values| writer.write_f32(values))??;
        }
        Ok(writer.finish()?)
    }

    /// Takes back what [`Optim::save`] wrote after `updates` updates.
    ///
    /// # Errors
    /// [`Error::OptimizerState`] naming the first tensor that has another shape or no place here, and errors of the
    /// format for a tensor that is missing. The state may be partly loaded then.
    pub fn load(&mut self, path: &Path, updates: u64) -> Result<()> {
        let file = SafeTensors::open(path, &Limits::default())?;
        let mut unknown: BTreeSet<&String> = file.tensors().keys().collect();
        for (name, tensor) in self.state() {
            let found = &file.entry(&name)?.shape;
            if found.as_slice() != tensor.dims() {
                return Err(Error::OptimizerState {
                    why: format!("has shape {found:?}, the model says {:?}", tensor.dims()),
                    tensor: name,
                });
            }
            tensor.with_data_mut::<f32, _>(|values| file.read_f32(&name, values))??;
            unknown.remove(&name);
        }
        if let Some(name) = unknown.first() {
            return Err(Error::OptimizerState {
                tensor: name.to_string(),
                why: "has no place in this model and optimizer".into(),
            });
        }
        self.updates = updates;
        Ok(())
    }
}
