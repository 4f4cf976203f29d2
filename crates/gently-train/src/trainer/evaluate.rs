//! The loss on the validation split.

use gently_models::Decoder;

use super::step::Passes;
use crate::source::BatchSource;
use crate::{Error, Result};

/// Mean loss in nats per token, and the tokens it was taken over: the first `batches` of the split, or all of it when
/// `batches` is 0. The same batches each time, so losses of different steps can be compared.
pub(super) fn evaluate(
    model: &Decoder,
    passes: &Passes,
    val: &mut dyn BatchSource,
    batches: usize,
) -> Result<(f64, u64)> {
    let all = val.batches();
    let wanted = match batches as u64 {
        0 => all,
        some => some.min(all),
    };
    val.rewind()?;
    let (mut sum, mut tokens) = (0.0, 0);
    for _ in 0..wanted {
        let batch = val.next_batch()?;
        let counted = batch.counted();
        if counted > 0 {
            sum += passes.summed_loss(model, &batch)?;
            tokens += counted;
        }
    }
    if tokens == 0 {
        return Err(Error::NothingToEvaluate);
    }
    Ok((sum / tokens as f64, tokens))
}
