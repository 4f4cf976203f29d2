//! Gradients of one update, and the loss they belong to.

use std::time::Instant;

use gently_kernels::gemm::Compute;
use gently_models::{Decoder, ForwardCx};
use gently_tensor::{Device, Grads, Rng, Tensor, no_grad, profile};

use crate::data::Batch;
use crate::recipe::{ComputeKind, Train};
use crate::source::BatchSource;
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

    /// The micro-batches of the update after `step` updates: of the next `accumulate` batches with a target that counts in one
    /// of them. Those without any, such as windows in the midst of long prompts, teach nothing and are passed over. That is a
    /// function of the place in the data alone, so a run that goes on passes over the same ones.
    ///
    /// `None` when somebody asks to stop meanwhile: the source is somewhere further on then.
    ///
    /// # Errors
    /// [`Error::NothingToLearn`] where two epochs, and at least a thousand batches, have been passed over; those of the source.
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
                batches.extend(self.micro_batches(source.next_batch()?));
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
