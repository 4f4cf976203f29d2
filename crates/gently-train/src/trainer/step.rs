//! Gradients of one update, and the loss they belong to.

use std::time::Instant;

use gently_kernels::gemm::Compute;
use gently_models::flops::Cost;
use gently_models::{Decoder, ForwardCx};
use gently_tensor::{Device, Grads, Rng, Tensor, no_grad, profile};

use crate::data::Batch;
use crate::recipe::Train;
use crate::source::BatchSource;
use crate::stop::StopHandle;
use crate::{Error, Result};

/// How passes are run, for any update.
#[derive(Debug, Clone)]
pub(super) struct Passes {
    compute: Compute,
    recompute: bool,
    /// Rows and tokens of a row of the batches that the run was planned for.
    shape: (usize, usize),
    /// Most rows of a micro-batch.
    rows: usize,
    /// The stream below which every micro-batch of every step has its own: nothing to save for a resumed run.
    dropout: Rng,
}

/// What the passes of one update gave.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Measured {
    /// Nats per counted token over all micro-batches.
    pub loss: f64,
    pub forward: f64,
    pub backward: f64,
}

impl Passes {
    pub fn new(train: &Train) -> Self {
        Self {
            compute: train.compute.into(),
            recompute: train.recompute,
            shape: (train.batch, train.block),
            rows: train.rows(),
            dropout: Rng::new(train.seed).stream("dropout"),
        }
    }

    pub fn compute(&self) -> Compute {
        self.compute
    }

    /// The micro-batches of the update after `step` updates: of the next `accumulate` batches with a target that counts in one
    /// of them. Those without any, such as windows in the midst of long prompts, teach nothing and are passed over. That is a
    /// function of the place in the data alone, so a run that goes on passes over the same ones.
    ///
    /// `None` when somebody asks to stop meanwhile: the source is somewhere further on then.
    ///
    /// # Errors
    /// [`Error::NothingToLearn`] where two epochs, and at least a thousand batches, have been passed over; [`Error::Batch`] for one
    /// that is not of the recipe's size; those of the source.
    pub fn draw(
        &self,
        source: &mut dyn BatchSource,
        accumulate: usize,
        step: u64,
        stop: &StopHandle,
    ) -> Result<Option<Vec<Batch>>> {
        /// In so few batches the windows of a small text may leave out what counts.
        const FEW: u64 = 1000;
        // From any place on, a whole epoch is among two.
        let most = source.batches_per_epoch().unwrap_or(0).saturating_mul(2).max(FEW);
        let mut drawn = 0;
        loop {
            let mut batches = Vec::new();
            for _ in 0..accumulate {
                let batch = source.next_batch()?;
                self.expect(&batch).map_err(|why| Error::Batch { step: step + 1, why })?;
                batches.extend(self.micro_batches(batch));
            }
            drawn += accumulate as u64;
            if batches.iter().any(|batch| batch.counted() > 0) {
                return Ok(Some(batches));
            }
            if drawn >= most {
                return Err(Error::NothingToLearn { step: step + 1, batches: drawn });
            }
            if stop.is_asked() {
                return Ok(None);
            }
        }
    }

    /// What is wrong with a batch, in words: the plan, the tokens of an update and the cuts into micro-batches take its size for
    /// granted.
    fn expect(&self, batch: &Batch) -> Result<(), String> {
        let (rows, width) = self.shape;
        if (batch.batch, batch.block) != self.shape {
            return Err(format!(
                "has {} rows of {} tokens, and the recipe says {rows} of {width} (train.batch, train.block)",
                batch.batch, batch.block
            ));
        }
        let docs = batch.docs.as_ref().unwrap_or(&batch.ids);
        for (name, list) in [("ids", &batch.ids), ("targets", &batch.targets), ("docs", docs)] {
            if list.len() != rows * width {
                return Err(format!("of {rows} rows of {width} tokens has {} {name}", list.len()));
            }
        }
        Ok(())
    }

    /// A batch in the micro-batches that go through the model.
    pub fn micro_batches(&self, batch: Batch) -> Vec<Batch> {
        batch.split(self.rows)
    }

    /// How micro-batch `micro` of the update after `step` updates is run.
    fn training(&self, step: u64, micro: usize) -> ForwardCx {
        ForwardCx {
            training: true,
            compute: self.compute,
            rng: self.dropout.substream(step).substream(micro as u64),
            recompute: self.recompute,
        }
    }

    /// How batches are evaluated: no dropout.
    pub fn evaluation(&self) -> ForwardCx {
        ForwardCx { compute: self.compute, ..ForwardCx::default() }
    }

    /// Loss and gradients of all micro-batches of the update after `step` updates. Each micro-batch's loss is divided by
    /// the counted tokens of all of them, so the gradient is that of the mean over tokens, however they are cut. Some target
    /// must count.
    ///
    /// `None` when somebody asks to stop before the last of them has begun: what `grads` holds is of no use then.
    pub fn gradients(
        &self,
        model: &Decoder,
        step: u64,
        batches: &[Batch],
        grads: &mut Grads,
        stop: &StopHandle,
    ) -> Result<Option<Measured>> {
        let counted: usize = batches.iter().map(Batch::counted).sum();
        let mut measured = Measured::default();
        for (micro, batch) in batches.iter().enumerate() {
            if stop.is_asked() {
                return Ok(None);
            }
            let one = self.micro_batch(model, step, micro, batch, 1.0 / counted.max(1) as f64, grads)?;
            measured.loss += one.loss;
            measured.forward += one.forward;
            measured.backward += one.backward;
        }
        Ok(Some(measured))
    }

    /// One micro-batch; `scale` multiplies its summed loss.
    pub fn micro_batch(
        &self,
        model: &Decoder,
        step: u64,
        micro: usize,
        batch: &Batch,
        scale: f64,
        grads: &mut Grads,
    ) -> Result<Measured> {
        let begun = Instant::now();
        let phase = profile::phase("forward");
        let tensors = Tensors::new(model, batch)?;
        let loss = model.loss(&tensors.batch(), scale, &self.training(step, micro))?;
        let value = value(&loss)?;
        drop(phase);
        let between = Instant::now();
        let _phase = profile::phase("backward");
        loss.backward_into(grads)?;
        Ok(Measured {
            loss: value,
            forward: (between - begun).as_secs_f64(),
            backward: between.elapsed().as_secs_f64(),
        })
    }

    /// The summed loss of a batch without gradients.
    pub fn summed_loss(&self, model: &Decoder, batch: &Batch) -> Result<f64> {
        no_grad(|| {
            let tensors = Tensors::new(model, batch)?;
            value(&model.loss(&tensors.batch(), 1.0, &self.evaluation())?)
        })
    }
}

/// Operations of forward and backward over `batches`: attention's of each document by itself, where documents of a row do not see
/// each other.
pub(super) fn operations(cost: &Cost, batches: &[Batch]) -> f64 {
    let of = |tokens: usize| tokens as f64 * cost.training_flops_per_token(tokens);
    let of_batch = |batch: &Batch| match &batch.docs {
        None => batch.batch as f64 * of(batch.block),
        Some(docs) => {
            let rows = docs.chunks(batch.block.max(1));
            rows.flat_map(|row| row.chunk_by(|a, b| a == b)).map(|document| of(document.len())).sum()
        }
    };
    batches.iter().map(of_batch).sum()
}

/// A loss as a number; 0 on `Device::Meta`, where there are none.
fn value(loss: &Tensor) -> Result<f64> {
    match loss.device() {
        Device::Meta => Ok(0.0),
        _ => Ok(f64::from(loss.item::<f32>()?)),
    }
}

struct Tensors {
    ids: Tensor,
    targets: Tensor,
    docs: Option<Tensor>,
}

impl Tensors {
    fn new(model: &Decoder, batch: &Batch) -> Result<Self> {
        let docs = batch.docs.as_ref();
        Ok(Self {
            ids: model.ids(&batch.ids, batch.batch)?,
            targets: model.ids(&batch.targets, batch.batch)?,
            docs: docs.map(|docs| model.ids(docs, batch.batch)).transpose()?,
        })
    }

    fn batch(&self) -> gently_models::Batch<'_> {
        gently_models::Batch { ids: &self.ids, targets: &self.targets, docs: self.docs.as_ref() }
    }
}

#[cfg(test)]
mod tests {
    use gently_models::config::{DecoderConfig, Family};

    use super::*;

    #[test]
    fn attention_across_borders_of_documents_is_no_work() {
        let preset = DecoderConfig::preset(Family::Gpt2);
        let cfg = DecoderConfig { layers: 2, heads: 2, width: 16, vocab: 10, context: 8, ..preset };
        let cost = Cost::of(&cfg);
        let batch = |docs: Option<Vec<u32>>| Batch { ids: vec![0; 16], targets: vec![0; 16], docs, batch: 2, block: 8 };
        let of = |docs| operations(&cost, &[batch(docs)]);
        let weights = 16.0 * 6.0 * cost.matmul_parameters as f64;
        // 12·L·H·D for each visible pair.
        let pairs = |docs| (of(docs) - weights) / (12.0 * 2.0 * 16.0);
        assert_eq!(pairs(None), 2.0 * 36.0);
        assert_eq!(pairs(Some(vec![0; 16])), 2.0 * 36.0);
        // Documents of 3, 5, 8 and, in a row by itself, of 1 and 7: neighbours of two rows are never one.
        let docs = |second: [u32; 8]| Some([[4, 4, 4, 5, 5, 5, 5, 5], second].concat());
        assert_eq!(pairs(docs([5; 8])), 6.0 + 15.0 + 36.0);
        assert_eq!(pairs(docs([5, 6, 6, 6, 6, 6, 6, 6])), 6.0 + 15.0 + 1.0 + 28.0);
    }
}
