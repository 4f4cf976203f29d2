//! Which method and decay each parameter gets.

use gently_kernels::gemm::Compute;
use gently_models::params::{Param, ParamKind};
use gently_tensor::profile::Work;
use gently_tensor::{DType, Tensor};

use super::Slot;
use crate::Result;
use crate::recipe::{Decay, Moments, Optimizer, OptimizerKind};

/// How a parameter is updated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Method {
    /// Adam with decoupled weight decay.
    AdamW,
    /// Lion.
    Lion,
    /// Muon on a matrix of this size.
    Muon {
        /// Output channels.
        rows: usize,
        /// Input channels.
        cols: usize,
    },
}

impl Method {
    /// The name in a profile.
    pub fn name(self) -> &'static str {
        match self {
            Method::AdamW => "adamw",
            Method::Lion => "lion",
            Method::Muon { .. } => "muon",
        }
    }

    /// The work of one update of a parameter with `elements` numbers: gradient read, parameter and states read and
    /// written; for Muon the products of `newton_schulz` iterations, each X·Xᵀ, its square and their product with X. `moment` is
    /// the size of a state's number in bytes.
    pub fn work(self, elements: usize, moment: usize, newton_schulz: usize, compute: Compute) -> Work {
        let bytes = (3 * 4 + 2 * moment * self.states().len()) * elements;
        match self {
            Method::AdamW => Work::pass(15 * elements, bytes),
            Method::Lion => Work::pass(9 * elements, bytes),
            Method::Muon { rows, cols } => {
                let (small, large) = (rows.min(cols) as u64, rows.max(cols) as u64);
                let each = 2 * small * small * large + small * small * small;
                Work::products(newton_schulz as u64 * each, bytes, compute)
            }
        }
    }

    /// Names of the state tensors.
    pub fn states(self) -> &'static [&'static str] {
        match self {
            Method::AdamW => &["m", "v"],
            Method::Lion | Method::Muon { .. } => &["m"],
        }
    }
}

pub(super) fn slot(param: &Param, settings: &Optimizer) -> Result<Slot> {
    let group = &param.group;
    let method = match (settings.kind, group.kind, param.tensor.dims()) {
        (OptimizerKind::Lion, _, _) => Method::Lion,
        (OptimizerKind::Muon, ParamKind::Matrix, &[rows, cols]) => Method::Muon { rows, cols },
        _ => Method::AdamW,
    };
    let decays = match settings.decay {
        Decay::Matrices => group.weight_decay && group.kind == ParamKind::Matrix,
        Decay::AllMatrices => group.weight_decay && param.tensor.rank() >= 2,
        Decay::All => true,
        Decay::None => false,
    };
    let dtype = match settings.moments {
        Moments::F32 => DType::F32,
        Moments::Bf16 => DType::Bf16,
    };
    let state = method
        .states()
        .iter()
        .map(|_| Tensor::zeros(param.tensor.dims(), dtype, &param.tensor.device()))
        .collect::<Result<_, _>>()?;
    Ok(Slot {
        name: param.name.clone(),
        param: param.tensor.clone(),
        method,
        lr_scale: group.lr_scale,
        weight_decay: if decays { settings.weight_decay } else { 0.0 },
        state,
    })
}
