//! Where a loss, a gradient or a weight stopped being a number.
//!
//! Of losses and gradients: runs only after that has happened and before anything is changed by it, so that every pass can be
//! repeated exactly. Weights are looked at then, and before each checkpoint.

use gently_models::Decoder;
use gently_models::params::Param;
use gently_tensor::Grads;
use serde::Serialize;

use super::step::Passes;
use crate::data::Batch;
use crate::optim::norm::first_non_finite;
use crate::{Error, Result};

/// Name of the file in the run folder.
pub(super) const DIAGNOSTIC_FILE: &str = "diagnostic.json";

/// The first thing that was not finite.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Diagnosis {
    /// The step whose update was not made; of a checkpoint that was not saved, its step.
    pub step: u64,
    /// `weight`, `loss` or `gradient`.
    pub what: &'static str,
    /// The first bad tensor: of the weights in the order of the forward pass, of the gradients in the order in which
    /// the backward pass makes them.
    pub tensor: Option<String>,
    /// Index of the first bad value in it, row-major, and the value as text.
    pub index: Option<usize>,
    pub value: Option<String>,
    /// The micro-batch of the step, from 0.
    pub micro_batch: Option<usize>,
    /// The loss of each micro-batch that was run again, as text because JSON has no NaN.
    pub losses: Vec<String>,
    /// The bad micro-batch: rows of token ids.
    pub tokens: Vec<Vec<u32>>,
}

/// Finds the first bad weight, else the first micro-batch whose loss or gradient is bad and the first bad tensor in it.
pub(super) fn diagnose(model: &Decoder, passes: &Passes, step: u64, batches: &[Batch]) -> Result<Diagnosis> {
    if let Some(found) = bad_weight(model, step + 1)? {
        return Ok(found);
    }
    let mut found = Diagnosis::new(step + 1, "gradient");
    let counted: usize = batches.iter().map(Batch::counted).sum();
    for (micro, batch) in batches.iter().enumerate() {
        let mut grads = Grads::new();
        let scale = 1.0 / counted.max(1) as f64;
        let loss = passes.micro_batch(model, step, micro, batch, scale, &mut grads)?.loss;
        found.losses.push(loss.to_string());
        let bad = first_bad_gradient(model.params(), &grads)?;
        if loss.is_finite() && bad.is_none() {
            continue;
        }
        if !loss.is_finite() {
            found.what = "loss";
        }
        if let Some((name, index, value)) = bad {
            found = found.at(name, index, value);
        }
        found.micro_batch = Some(micro);
        found.tokens = batch.ids.chunks(batch.block.max(1)).map(<[u32]>::to_vec).collect();
        return Ok(found);
    }
    // Each micro-batch is finite on its own: their sum overflowed.
    Ok(found)
}

/// The first weight that is not finite, found at `step`; `None` where all are.
pub(super) fn bad_weight(model: &Decoder, step: u64) -> Result<Option<Diagnosis>> {
    for param in model.params() {
        if let Some((index, value)) = first_non_finite(&param.tensor)? {
            return Ok(Some(Diagnosis::new(step, "weight").at(param.name.clone(), index, value)));
        }
    }
    Ok(None)
}

/// The backward pass makes gradients from the last parameter to the first, and what is bad spreads that way.
fn first_bad_gradient(params: &[Param], grads: &Grads) -> Result<Option<(String, usize, f32)>> {
    for param in params.iter().rev() {
        if let Some(grad) = grads.get(&param.tensor)
            && let Some((index, value)) = first_non_finite(grad)?
        {
            return Ok(Some((param.name.clone(), index, value)));
        }
    }
    Ok(None)
}

impl Diagnosis {
    fn new(step: u64, what: &'static str) -> Self {
        Self {
            step,
            what,
            tensor: None,
            index: None,
            value: None,
            micro_batch: None,
            losses: Vec::new(),
            tokens: Vec::new(),
        }
    }

    /// With the first bad value.
    fn at(self, tensor: String, index: usize, value: f32) -> Self {
        Self { tensor: Some(tensor), index: Some(index), value: Some(value.to_string()), ..self }
    }

    /// The error that stops the run.
    pub fn into_error(self, saved: Option<std::path::PathBuf>) -> Error {
        let layer = self.tensor.as_deref().and_then(layer_of);
        Error::NonFinite {
            step: self.step,
            what: self.what,
            tensor: self.tensor,
            layer,
            micro_batch: self.micro_batch,
            last_good: saved,
        }
    }
}

/// `blocks.3.mlp.up.weight` is in layer 3; embeddings and heads are in none.
fn layer_of(name: &str) -> Option<usize> {
    name.strip_prefix("blocks.")?.split('.').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::layer_of;

    #[test]
    fn layers_are_read_from_names() {
        assert_eq!(layer_of("blocks.11.mixer.qkv.weight"), Some(11));
        assert_eq!(layer_of("embed.tokens"), None);
    }
}
