//! Gradients of one update, and the loss they belong to.

use std::time::Instant;

use gently_kernels::gemm::Compute;
use gently_models::{Decoder, ForwardCx};
use gently_tensor::{Device, Grads, Rng, Tensor, no_grad, profile};

use crate::data::Batch;
use crate::recipe::{ComputeKind, Train};
use crate::stop::StopHandle;
use crate::{Error, Result};

/// How passes are run, for any update.
#[derive(Debug, Clone)]
pub(super) struct Passes {
    compute: Compute,
    recompute: bool,
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
            compute: compute(train.compute),
            recompute: train.recompute,
            rows: train.rows(),
            dropout: Rng::new(train.seed).stream("dropout"),
        }
    }

    pub fn compute(&self) -> Compute {
        self.compute
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
    /// the counted tokens of all of them, so the gradient is that of the mean over tokens, however they are cut.
    ///
    /// `None` when somebody asks to stop before the last of them has begun: what `grads` holds is of no use then.
    ///
    /// # Errors
    /// [`Error::NothingToLearn`] if no target counts.
    pub fn gradients(
        &self,
        model: &Decoder,
        step: u64,
        batches: &[Batch],
        grads: &mut Grads,
        stop: &StopHandle,
    ) -> Result<Option<Measured>> {
        let counted: usize = batches.iter().map(Batch::counted).sum();
        if counted == 0 {
            return Err(Error::NothingToLearn { step: step + 1 });
        }
        let mut measured = Measured::default();
        for (micro, batch) in batches.iter().enumerate() {
            if stop.is_asked() {
                return Ok(None);
            }
            let one = self.micro_batch(model, step, micro, batch, 1.0 / counted as f64, grads)?;
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

/// A loss as a number; 0 on `Device::Meta`, where there are none.
fn value(loss: &Tensor) -> Result<f64> {
    match loss.device() {
        Device::Meta => Ok(0.0),
        _ => Ok(f64::from(loss.item::<f32>()?)),
    }
}

pub(super) fn compute(kind: ComputeKind) -> Compute {
    match kind {
        ComputeKind::F32 => Compute::F32,
        ComputeKind::Bf16 => Compute::Bf16,
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
