//! The list of a model's parameters: names, tensors and how an optimizer should treat them.
//!
//! Here: [`Param`], [`ParamGroup`] and the [`Builder`] that layers use to make their parameters. Not here: the
//! optimizers, and published names (see [`crate::families`]).
//!
//! ```
//! use gently_models::params::{Builder, ParamKind};
//! use gently_models::init::Init;
//! use gently_tensor::{Device, Rng};
//! let mut b = Builder::new(Some(&Rng::new(1)), &Device::Cpu);
//! let w = b.scope("mlp").param("up.weight", &[8, 4], Init::Normal { std: 0.02 }, ParamKind::Matrix).unwrap();
//! assert_eq!(w.dims(), [8, 4]);
//! assert_eq!(b.into_params()[0].name, "mlp.up.weight");
//! ```

use crate::error::{Error, Result};
use crate::init::Init;
use gently_tensor::{DType, Device, Rng, Tensor};
use std::collections::BTreeSet;

/// What a parameter is to an optimizer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ParamKind {
    /// A hidden matrix `[out, in]`: what Muon orthogonalises.
    Matrix,
    /// A table with a row per token or position, and the head.
    Embedding,
    /// A bias or the scale of a norm.
    Vector,
}

/// How a parameter starts and is trained; it belongs to the layer that owns the parameter.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ParamGroup {
    /// Its first values.
    pub init: Init,
    /// Factor on the learning rate.
    pub lr_scale: f64,
    /// Whether weight decay applies.
    pub weight_decay: bool,
    /// Its kind.
    pub kind: ParamKind,
}

/// One parameter of a model. The tensor shares its storage with the layer that uses it.
#[derive(Debug, Clone)]
pub struct Param {
    /// Its name: a path such as `blocks.3.mixer.qkv.weight`.
    pub name: String,
    /// The values; updated in place.
    pub tensor: Tensor,
    /// How it starts and is trained.
    pub group: ParamGroup,
}

impl Param {
    /// Its rows in a file: the first dimension, one for a single number.
    pub(crate) fn rows(&self) -> usize {
        self.tensor.dims().first().copied().unwrap_or(1)
    }

    /// Numbers of a row.
    pub(crate) fn columns(&self) -> usize {
        self.tensor.numel() / self.rows().max(1)
    }

    /// Some of its rows.
    pub(crate) fn narrow(&self, first: usize, rows: usize) -> Result<Tensor> {
        Ok(match self.tensor.dims() {
            [] => self.tensor.reshape([1])?.narrow(0, first, rows)?,
            _ => self.tensor.narrow(0, first, rows)?,
        })
    }
}

/// Makes parameters, names them by scope and keeps the list.
pub struct Builder {
    rng: Option<Rng>,
    dtype: DType,
    device: Device,
    prefix: String,
    params: Vec<Param>,
    names: BTreeSet<String>,
}

impl Builder {
    /// Parameters in f32. Without `rng` they are all zeros, to be filled from a file.
    pub fn new(rng: Option<&Rng>, device: &Device) -> Self {
        let rng = rng.map(|r| r.stream("init"));
        let (prefix, params, names) = Default::default();
        Self { rng, dtype: DType::F32, device: *device, prefix, params, names }
    }

    /// The same with another dtype; f64 is for checking gradients.
    pub fn dtype(mut self, dtype: DType) -> Self {
        self.dtype = dtype;
        self
    }

    /// Sets the path in front of the names that follow.
    pub fn scope(&mut self, path: impl Into<String>) -> &mut Self {
        self.prefix = path.into();
        self
    }

    /// Dtype of the parameters.
    pub fn params_dtype(&self) -> DType {
        self.dtype
    }

    /// Where the parameters live.
    pub fn device(&self) -> Device {
        self.device
    }

    /// The path in front of names now.
    pub fn path(&self) -> &str {
        &self.prefix
    }

    /// Makes one parameter of `shape`, with a random stream of its own: whether another parameter exists
    /// changes nothing in this one.
    ///
    /// # Errors
    /// [`Error::NameTaken`]: two of a name would start with the same numbers, and one would be lost in a file. From the
    /// tensor crate.
    pub fn param(&mut self, name: &str, shape: &[usize], init: Init, kind: ParamKind) -> Result<Tensor> {
        let name = if self.prefix.is_empty() { name.to_owned() } else { format!("{}.{name}", self.prefix) };
        if !self.names.insert(name.clone()) {
            return Err(Error::NameTaken { name });
        }
        let values = match &self.rng {
            Some(rng) => init.draw(shape, rng.stream(&name), self.dtype, &self.device)?,
            None => Tensor::zeros(shape, self.dtype, &self.device)?,
        };
        let tensor = values.param()?;
        let group = ParamGroup { init, lr_scale: 1.0, weight_decay: kind != ParamKind::Vector, kind };
        self.params.push(Param { name, tensor: tensor.clone(), group });
        Ok(tensor)
    }

    /// The parameters made, in order.
    pub fn into_params(self) -> Vec<Param> {
        self.params
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_given_once() {
        let mut b = Builder::new(Some(&Rng::new(1)), &Device::Cpu);
        let mut make = |scope: &str| b.scope(scope).param("weight", &[2], Init::Ones, ParamKind::Vector);
        make("a").unwrap();
        make("b").unwrap();
        let error = make("a").unwrap_err();
        assert!(matches!(&error, Error::NameTaken { name } if name == "a.weight"), "{error}");
        assert!(error.hint().is_some());
        assert_eq!(b.into_params().len(), 2);
    }
}
