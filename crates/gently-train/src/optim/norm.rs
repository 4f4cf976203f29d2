//! The gradient's global norm, and where it is not finite.

use gently_kernels::reduce::{self, sum_of_squares};
use gently_models::params::Param;
use gently_tensor::profile::{self, Work};
use gently_tensor::{Device, Grads, Tensor};

use crate::Result;

/// The Euclidean norm of all gradients together: squares are added in f64, tensor by tensor in the parameters' order,
/// so that the bits depend on nothing but the values. 0 on `Device::Meta`.
///
/// # Errors
/// A gradient that is not f32.
pub fn global_norm(params: &[Param], grads: &Grads) -> Result<f64> {
    let mut sum = 0.0;
    for param in params {
        if let Some(grad) = grads.get(&param.tensor)
            && grad.device() != Device::Meta
        {
            let _part = profile::part(&param.name);
            let n = grad.numel();
            let _call = profile::call("sum_of_squares", || Work::pass(2 * n, 4 * n));
            sum += grad.contiguous()?.with_data::<f32, _>(sum_of_squares)?;
        }
    }
    Ok(sum.sqrt())
}

/// The factor that brings a gradient of `norm` down to `limit`; 1 where it is below, or where `limit` is 0.
/// PyTorch's rule: `limit / (norm + 1e-6)`, at most 1.
pub fn clip_factor(norm: f64, limit: f64) -> f64 {
    if limit <= 0.0 {
        return 1.0;
    }
    (limit / (norm + 1e-6)).min(1.0)
}

/// The place of the first value of `tensor` that is not finite, and the value.
///
/// # Errors
/// A tensor that is not f32.
pub fn first_non_finite(tensor: &Tensor) -> Result<Option<(usize, f32)>> {
    if tensor.device() == Device::Meta {
        return Ok(None);
    }
    let found = tensor.contiguous()?.with_data::<f32, _>(|values| {
        let at = reduce::first_non_finite(values)?;
        Some((at, values[at]))
    })?;
    Ok(found)
}
