//! Gradients against central finite differences in f64: the check that every operation passes.
//!
//! ```
//! use gently_tensor::{gradcheck, Device, Tensor};
//! let x = Tensor::from_slice(&[0.3f64, -0.7], [2], &Device::Cpu)?;
//! gradcheck::check(|xs| xs[0].sqr()?.sum_all(), &[x]).unwrap();
//! # Ok::<(), gently_tensor::Error>(())
//! ```

use crate::{DType, Device, Error, Result, Rng, Tensor, no_grad};

/// Why a gradient check did not pass.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckError {
    /// The function or its backward failed.
    #[error(transparent)]
    Tensor(#[from] Error),
    /// A derivative differs from its finite difference.
    #[error("input {input}, element {element}: the backward gives {analytic}, finite differences {numeric}")]
    Differs {
        /// Which input.
        input: usize,
        /// Which of its elements, in row-major order.
        element: usize,
        /// By the backward.
        analytic: f64,
        /// By finite differences.
        numeric: f64,
    },
}

/// Step of the differences: the cube root of the f64 rounding error balances truncation and rounding.
const STEP: f64 = 6e-6;
/// Allowed difference, relative to the larger of 1 and the derivative.
const TOLERANCE: f64 = 1e-6;

/// Compares the gradients of `f` at `inputs` (f64 leaves) with central differences, element by element. A result of more
/// than one value is reduced by fixed random weights first, so that no element's error can hide.
pub fn check(f: impl Fn(&[Tensor]) -> Result<Tensor>, inputs: &[Tensor]) -> Result<(), CheckError> {
    let params = inputs.iter().map(|t| t.copy()?.param()).collect::<Result<Vec<_>>>()?;
    let scalar = |xs: &[Tensor]| -> Result<Tensor> {
        let y = f(xs)?;
        let weights = Rng::new(0).stream("gradcheck").uniform(*y.shape(), 0.5, 1.5, DType::F64, &Device::Cpu)?;
        y.to_dtype(DType::F64)?.mul(&weights)?.sum_all()
    };
    let grads = scalar(&params)?.backward()?;
    for (i, input) in params.iter().enumerate() {
        let analytic = match grads.get(input) {
            Some(g) => g.to_vec::<f64>()?,
            None => vec![0.0; input.numel()],
        };
        for (element, &a) in analytic.iter().enumerate() {
            let at = |delta: f64| -> Result<f64> {
                let moved = input.copy()?;
                moved.with_data_mut::<f64, _>(|d| d[element] += delta)?;
                let mut xs = Vec::from_iter(params.iter().map(|t| t.detach()));
                xs[i] = moved;
                no_grad(|| scalar(&xs)?.item::<f64>())
            };
            let numeric = (at(STEP)? - at(-STEP)?) / (2.0 * STEP);
            let agrees = (a - numeric).abs() <= TOLERANCE * a.abs().max(numeric.abs()).max(1.0);
            if !agrees {
                return Err(CheckError::Differs { input: i, element, analytic: a, numeric });
            }
        }
    }
    Ok(())
}
