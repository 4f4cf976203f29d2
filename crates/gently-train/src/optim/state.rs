//! Saving and loading an optimizer's state.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use gently_formats::Limits;
use gently_formats::safetensors::{Dtype, SafeTensors, Spec, Writer};
use gently_kernels::cast::cast;
use gently_models::params::Param;
use gently_tensor::{Tensor, bf16};

use super::Optim;
use crate::recipe::Moments;
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

    /// Writes the state tensors as safetensors, in the type that they are kept in, and the parameters `exact` in f32, each under
    /// `parameter.value`: those that the model's own file does not hold to the bit.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn save(&self, path: &Path, exact: &[&Param]) -> Result<()> {
        let state = self.state();
        let spec = |name: String, dtype, tensor: &Tensor| Spec { name, dtype, shape: tensor.dims().to_vec() };
        // Wide types first, so that all are aligned.
        let mut specs: Vec<Spec> = exact.iter().map(|p| spec(value_of(&p.name), Dtype::F32, &p.tensor)).collect();
        specs.extend(state.iter().map(|(name, tensor)| spec(name.clone(), self.dtype(), tensor)));
        let mut writer = Writer::create(path, &specs, &BTreeMap::new())?;
        for param in exact {
            param.tensor.with_data::<f32, _>(|values| writer.write_elements(values))??;
        }
        for (_, tensor) in &state {
            match self.settings.moments {
                Moments::F32 => tensor.with_data::<f32, _>(|values| writer.write_elements(values))??,
                Moments::Bf16 => tensor.with_data::<bf16, _>(|values| writer.write_elements(values))??,
            }
        }
        Ok(writer.finish()?)
    }

    fn dtype(&self) -> Dtype {
        match self.settings.moments {
            Moments::F32 => Dtype::F32,
            Moments::Bf16 => Dtype::Bf16,
        }
    }

    /// Takes back what [`Optim::save`] wrote after `updates` updates, in the type that `optimizer.moments` says now: states in
    /// bf16 are read as f32 exactly, and states in f32 are rounded to the nearest bf16. Parameters that are there take the place of
    /// what was read from the model's file before.
    ///
    /// # Errors
    /// [`Error::OptimizerState`] naming the first tensor that has another shape or no place here, and errors of the
    /// format for a tensor that is missing. The state may be partly loaded then.
    pub fn load(&mut self, path: &Path, updates: u64) -> Result<()> {
        let file = SafeTensors::open(path, &Limits::default())?;
        let mut unknown: BTreeSet<&String> = file.tensors().keys().collect();
        let fits = |name: &str, tensor: &Tensor| -> Result<()> {
            let found = &file.entry(name)?.shape;
            if found.as_slice() != tensor.dims() {
                let why = format!("has shape {found:?}, the model says {:?}", tensor.dims());
                return Err(Error::OptimizerState { tensor: name.into(), why });
            }
            Ok(())
        };
        for slot in &self.slots {
            let name = value_of(&slot.name);
            if unknown.remove(&name) {
                fits(&name, &slot.param)?;
                slot.param.with_data_mut::<f32, _>(|values| file.read_f32(&name, values))??;
            }
        }
        for (name, tensor) in self.state() {
            fits(&name, &tensor)?;
            match self.settings.moments {
                Moments::F32 => tensor.with_data_mut::<f32, _>(|values| file.read_f32(&name, values))??,
                Moments::Bf16 => {
                    let mut wide = vec![0.0; tensor.numel()];
                    file.read_f32(&name, &mut wide)?;
                    tensor.with_data_mut::<bf16, _>(|values| cast(&wide, values))?;
                }
            }
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

/// The name of a parameter's own values beside its states.
fn value_of(parameter: &str) -> String {
    format!("{parameter}.value")
}
