//! Optimizers over a model's parameters.
//!
//! Here: [`Optim`], which gives each parameter its method, decay and state tensors, makes the update, and saves and
//! loads its state; the gradient's global norm in [`norm`]. Not here: the arithmetic of one step
//! (`gently_kernels::optim`) and the learning rate (`schedule`).
//!
//! ```
//! use gently_models::params::{Builder, ParamKind};
//! use gently_models::init::Init;
//! use gently_tensor::Device;
//! use gently_train::optim::Optim;
//! use gently_train::recipe::Optimizer;
//!
//! let mut builder = Builder::new(None, &Device::Cpu);
//! let w = builder.param("w", &[1, 2], Init::Ones, ParamKind::Matrix)?;
//! let x = gently_tensor::Tensor::from_slice(&[1.0f32, -1.0], [1, 2], &Device::Cpu)?;
//! let mut optim = Optim::new(&builder.into_params(), &Optimizer { weight_decay: 0.0, ..Optimizer::default() })?;
//! let grads = w.mul(&x)?.sum_all()?.backward()?;
//! optim.step(&grads, 0.1, 1.0)?; // learning rate 0.1, gradient taken as it is
//! assert!((w.to_vec::<f32>()?[1] - 0.1).abs() < 1e-6);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod groups;
pub mod norm;
mod state;

use gently_kernels::gemm::Compute;
use gently_kernels::optim::{AdamW, Lion, Moment, Muon, Noise};
use gently_kernels::scratch::Scratch;
use gently_models::params::Param;
use gently_tensor::{DType, Device, Element, Grads, Tensor, bf16, profile};

pub use groups::Method;

use crate::recipe::{Moments, Optimizer, Refused, Source, check_optimizer};
use crate::{Error, Result};

/// One parameter with what its updates need.
#[derive(Debug)]
struct Slot {
    name: String,
    param: Tensor,
    method: Method,
    /// Factor on the learning rate.
    lr_scale: f64,
    /// Decoupled weight decay.
    weight_decay: f64,
    /// State tensors, each of the parameter's shape, in the order of [`Method::states`]; f32 or bf16 by `optimizer.moments`.
    state: Vec<Tensor>,
}

/// An optimizer: its parameters, their state, and the number of updates made.
#[derive(Debug)]
pub struct Optim {
    slots: Vec<Slot>,
    settings: Optimizer,
    compute: Compute,
    updates: u64,
}

impl Optim {
    /// An optimizer with all states zero. States live where their parameters live.
    ///
    /// # Errors
    /// [`Error::Value`] for a setting that no update can be made with, as in a recipe; [`Error::Parameter`] for one that is not
    /// f32; those of the tensor crate.
    pub fn new(params: &[Param], settings: &Optimizer) -> Result<Self> {
        check_optimizer(settings).map_err(|Refused { key, value, rule }| Error::Value {
            key: format!("optimizer.{key}"),
            value,
            place: Source::Derived("the optimizer's settings".into()),
            why: rule,
        })?;
        if let Some(param) = params.iter().find(|param| param.tensor.dtype() != DType::F32) {
            let why = format!("is {}", param.tensor.dtype());
            return Err(Error::Parameter { tensor: param.name.clone(), why });
        }
        let slots = params.iter().map(|param| groups::slot(param, settings)).collect::<Result<Vec<_>>>()?;
        Ok(Self { slots, settings: settings.clone(), compute: Compute::F32, updates: 0 })
    }

    /// The arithmetic of Muon's matrix products; everything else is computed in f32.
    pub fn with_compute(mut self, compute: Compute) -> Self {
        self.compute = compute;
        self
    }

    /// Updates made so far.
    pub fn updates(&self) -> u64 {
        self.updates
    }

    /// Makes one update with learning rate `lr`, which Muon's matrices scale to their own. `grad_scale` multiplies
    /// every gradient (clipping). On `Device::Meta` nothing is computed.
    ///
    /// # Errors
    /// [`Error::NoGradient`] if the loss does not depend on a parameter; no parameter is changed then. Those of the tensor crate,
    /// after which the update does not count, though some parameters may be changed.
    pub fn step(&mut self, grads: &Grads, lr: f64, grad_scale: f64) -> Result<()> {
        if let Some(slot) = self.slots.iter().find(|slot| grads.get(&slot.param).is_none()) {
            return Err(Error::NoGradient { tensor: slot.name.clone() });
        }
        let update = self.updates + 1;
        for (i, slot) in self.slots.iter().enumerate() {
            if let Some(grad) = grads.get(&slot.param)
                && slot.param.device() != Device::Meta
            {
                let noise = [i as u32, update as u32];
                match self.settings.moments {
                    Moments::F32 => self.update::<f32>(update, slot, grad, (lr, grad_scale), noise)?,
                    Moments::Bf16 => self.update::<bf16>(update, slot, grad, (lr, grad_scale), noise)?,
                }
            }
        }
        self.updates = update;
        Ok(())
    }

    /// One parameter's part of update `update`, counted from 1, with states of type `M`.
    fn update<M: Element>(
        &self,
        update: u64,
        slot: &Slot,
        grad: &Tensor,
        (lr, grad_scale): (f64, f64),
        noise: Noise,
    ) -> Result<()>
    where
        for<'a> Moment<'a>: From<&'a mut [M]>,
    {
        let set = &self.settings;
        let [beta1, beta2] = set.betas;
        let lr_here = lr * slot.lr_scale;
        let grad = grad.contiguous()?;
        let _part = profile::part(&slot.name);
        let work = || slot.method.work(grad.numel(), size_of::<M>(), set.newton_schulz, self.compute);
        let _call = profile::call(slot.method.name(), work);
        match (slot.method, slot.state.as_slice()) {
            (Method::AdamW, [m, v]) => {
                let weight_decay = slot.weight_decay;
                let method = AdamW { lr: lr_here, beta1, beta2, eps: set.eps, weight_decay, grad_scale, noise };
                let step = |w: &mut [f32], g: &[f32]| {
                    m.with_data_mut::<M, _>(|m| v.with_data_mut::<M, _>(|v| method.step(update, w, g, m, v)))?
                };
                with_all(&slot.param, &grad, step)?;
            }
            (Method::Lion, [m]) => {
                let method = Lion { lr: lr_here, beta1, beta2, weight_decay: slot.weight_decay, grad_scale, noise };
                let step = |w: &mut [f32], g: &[f32]| m.with_data_mut::<M, _>(|m| method.step(w, g, m));
                with_all(&slot.param, &grad, step)?;
            }
            (Method::Muon { rows, cols }, [m]) => {
                let method = Muon {
                    // The same schedule, on Muon's own peak.
                    lr: lr_here * (set.muon_lr / set.lr),
                    momentum: set.momentum,
                    // A step shrinks a matrix by lr × decay; this keeps it what it is under AdamW.
                    weight_decay: slot.weight_decay * (set.lr / set.muon_lr),
                    steps: set.newton_schulz,
                    compute: self.compute,
                    grad_scale,
                    noise,
                    ..Muon::default()
                };
                let step = |w: &mut [f32], g: &[f32]| {
                    m.with_data_mut::<M, _>(|m| method.step(rows, cols, w, g, m))?
                        .map_err(|e| gently_tensor::Error::NoScratch { op: "muon", bytes: e.bytes })
                };
                with_all(&slot.param, &grad, step)?;
            }
            _ => unreachable!("a slot is made with its method's states"),
        }
        Ok(())
    }

    /// What each parameter gets: name, method, and whether it decays. For the log.
    pub fn groups(&self) -> impl Iterator<Item = (&str, Method, bool)> {
        self.slots.iter().map(|slot| (slot.name.as_str(), slot.method, slot.weight_decay > 0.0))
    }

    /// What kernels take beside their operands in an update.
    pub(crate) fn scratch(&self) -> Scratch {
        let muon = Muon { compute: self.compute, ..Muon::default() };
        let of = |slot: &Slot| match slot.method {
            Method::Muon { rows, cols } => muon.scratch(rows, cols),
            Method::AdamW | Method::Lion => Scratch::default(),
        };
        self.slots.iter().map(of).fold(Scratch::default(), Scratch::or)
    }
}

/// Runs `step` on a parameter's values and its gradient's.
fn with_all(
    param: &Tensor,
    grad: &Tensor,
    step: impl FnOnce(&mut [f32], &[f32]) -> gently_tensor::Result<()>,
) -> Result<()> {
    param.with_data_mut::<f32, _>(|w| grad.with_data::<f32, _>(|g| step(w, g)))???;
    Ok(())
}

#[cfg(test)]
mod tests;
