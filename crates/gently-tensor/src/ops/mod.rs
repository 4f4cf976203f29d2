//! Operations on tensors, one file for each subject. Each checks shapes and dtypes, allocates the result, calls the
//! backend, and records how its gradient is computed. Nothing here touches values itself.

mod activation;
mod arithmetic;
pub(crate) mod attention;
mod cast;
mod embedding;
mod join;
pub(crate) mod linear;
pub(crate) mod loss;
mod matmul;
mod norm;
mod reduce;
pub(crate) mod rope;

use crate::tensor::View;
use crate::{DType, Error, Result, Tensor};

/// Refuses dtypes that an operation does not compute in.
fn need_float(op: &'static str, t: &Tensor) -> Result<()> {
    match t.dtype() {
        DType::F32 | DType::F64 => Ok(()),
        dtype => Err(Error::UnsupportedDType { op, dtype, takes: "f32 and f64" }),
    }
}

/// Refuses ids of another dtype.
fn need_ids(op: &'static str, t: &Tensor) -> Result<()> {
    match t.dtype() {
        DType::U32 => Ok(()),
        dtype => Err(Error::UnsupportedDType { op, dtype, takes: "u32 ids" }),
    }
}

/// Refuses operands on different devices or of different dtypes.
fn need_same(op: &'static str, a: &Tensor, b: &Tensor) -> Result<()> {
    need_device(op, a, b)?;
    if a.dtype() != b.dtype() {
        return Err(Error::DTypeMismatch { op, left: a.dtype(), right: b.dtype() });
    }
    Ok(())
}

fn need_device(op: &'static str, a: &Tensor, b: &Tensor) -> Result<()> {
    if a.device() != b.device() {
        return Err(Error::DeviceMismatch { op, left: a.device(), right: b.device() });
    }
    Ok(())
}

/// Refuses an operand that has not exactly this shape.
fn need_shape(op: &'static str, t: &Tensor, dims: &[usize], why: &'static str) -> Result<()> {
    if t.dims() != dims {
        return Err(Error::BadShape { op, shape: Box::new(*t.shape()), why });
    }
    Ok(())
}

/// Refuses a soft cap c of c·tanh(x/c) that is not positive.
fn check_softcap(op: &'static str, softcap: Option<f64>) -> Result<()> {
    match softcap {
        Some(value) if value.is_nan() || value <= 0.0 => {
            Err(Error::BadArgument { op, name: "softcap", value, why: "it must be positive" })
        }
        _ => Ok(()),
    }
}

/// A dense snapshot; copies only where the view has gaps.
fn dense(op: &'static str, t: &Tensor) -> Result<View> {
    t.detach_if_gaps()?.view(op)
}

impl Tensor {
    /// This tensor, or its dense copy without history where it has gaps.
    fn detach_if_gaps(&self) -> Result<Tensor> {
        if self.is_contiguous() { Ok(self.clone()) } else { self.copy() }
    }
}
