//! The loss on the validation split.

use gently_models::Decoder;

use super::step::Passes;
use crate::data::EvalSet;
use crate::stop::StopHandle;
use crate::{Error, Result};

/// Mean loss in nats per token, and the tokens it was taken over. The same batches each time, so losses of different
/// steps can be compared. `None` when somebody asks to stop meanwhile.
///
/// # Errors
/// [`Error::NothingToEvaluate`] of batches that were not settled ([`EvalSet::settle`]); those of the data and the model.
pub(super) fn evaluate(
    model: &Decoder,
    passes: &Passes,
    val: &EvalSet,
    stop: &StopHandle,
) -> Result<Option<(f64, u64)>> {
    let (mut sum, mut tokens) = (0.0, 0);
    for batch in val.iter() {
        for batch in passes.micro_batches(batch?) {
            if stop.is_asked() {
                return Ok(None);
            }
            let counted = batch.counted() as u64;
            if counted > 0 {
                sum += passes.summed_loss(model, &batch)?;
                tokens += counted;
            }
        }
    }
    if tokens == 0 {
        return Err(Error::NothingToEvaluate);
    }
    Ok(Some((sum / tokens as f64, tokens)))
}
