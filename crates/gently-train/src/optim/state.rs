//! Saving and loading an optimizer's state.

use std::collections::BTreeMap;

use gently_tensor::Tensor;

use super::Optim;
use crate::{Error, Result};

impl Optim {
    /// The state tensors, each under `parameter.state`, such as `blocks.0.mlp.up.weight.m`.
    pub fn state(&self) -> Vec<(String, Tensor)> {
        let named = |slot: &super::Slot| {
            let pairs = slot.method.states().iter().zip(&slot.state);
            pairs
                .map(|(state, tensor)| (format!("{}.{state}", slot.name), tensor.clone()))
                .collect::<Vec<_>>()
        };
        self.slots.iter().flat_map(named).collect()
    }

    /// Takes back a saved state and the number of updates that it was saved after.
    ///
    /// # Errors
    /// [`Error::OptimizerState`] naming the first tensor that is missing, has another shape, or has no place here.
    /// The state may be partly loaded then.
    pub fn load_state(&mut self, mut saved: BTreeMap<String, Tensor>, updates: u64) -> Result<()> {
        for (name, tensor) in self.state() {
            let wrong = |why: String| Error::OptimizerState {
                tensor: name.clone(),
                why,
            };
            let found = saved
                .remove(&name)
                .ok_or_else(|| wrong("is missing".into()))?;
            if found.dims() != tensor.dims() {
                return Err(wrong(format!(
                    "has shape {:?}, the model says {:?}",
                    found.dims(),
                    tensor.dims()
                )));
            }
            tensor.with_data_mut::<f32, _>(|to| {
                found.with_data::<f32, _>(|from| to.copy_from_slice(from))
            })??;
        }
        if let Some(name) = saved.into_keys().next() {
            return Err(Error::OptimizerState {
                tensor: name,
                why: "has no place in this model and optimizer".into(),
            });
        }
        self.updates = updates;
        Ok(())
    }
}
