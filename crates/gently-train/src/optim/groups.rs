//! Which method and decay each parameter gets.

use gently_models::params::{Param, ParamKind};
use gently_tensor::{DType, Tensor};

use super::Slot;
use crate::Result;
use crate::recipe::{Decay, Optimizer, OptimizerKind};

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
    let state = method
        .states()
        .iter()
        .map(|_| Tensor::zeros(param.tensor.dims(), DType::F32, &param.tensor.device()))
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
