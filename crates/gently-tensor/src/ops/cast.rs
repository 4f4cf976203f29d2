//! Other dtypes.

use super::dense;
use crate::backend;
use crate::storage::Buffer;
use crate::tape::{Node, recording, refuse};
use crate::{DType, Op, Result, Tensor, profile};

impl Tensor {
    /// The values in another dtype: to floats they round once, to nearest even; floats to integers truncate and saturate,
    /// integers to smaller ones keep their low bits. This tensor itself if it has the dtype already. Between floats the
    /// gradient passes; to integers there is none.
    ///
    /// # Errors
    /// A tracked input to integers under a recording tape; no memory.
    pub fn to_dtype(&self, dtype: DType) -> Result<Tensor> {
        const OP: &str = Op::ToDtype.name();
        if dtype == self.dtype() {
            return Ok(self.clone());
        }
        let _op = profile::op(OP);
        if !dtype.is_float() {
            refuse("to_dtype (to integers)", &[self])?;
        }
        let x = dense(OP, self)?;
        let shape = *self.shape();
        let mut out = Buffer::alloc(OP, self.device(), dtype, shape)?;
        backend::cast(&mut out, &x);
        // The sink brings the gradient to the input's dtype.
        let node = recording(&[self]).then(|| Node::new(Op::ToDtype, &[self], |s, g| s.give(0, g)));
        Ok(Tensor::from_buffer(out, shape, node))
    }
}
