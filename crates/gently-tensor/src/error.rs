//! What can go wrong with a tensor: one enum, each variant naming the operation, the shapes and the dtypes.
//!
//! No retry logic and no I/O errors live here. [`Error::hint`] gives the next step to take, where there is one.
//!
//! ```
//! use gently_tensor::{Device, DType, Tensor};
//! let a = Tensor::zeros([2, 3], DType::F32, &Device::Cpu)?;
//! let b = Tensor::zeros([4], DType::F32, &Device::Cpu)?;
//! let error = a.add(&b).unwrap_err();
//! assert!(error.to_string().contains("add"));
//! # Ok::<(), gently_tensor::Error>(())
//! ```

use crate::{DType, Device, Shape};

/// The result of every fallible tensor operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a tensor operation was refused.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Two shapes that do not fit together.
    #[error("{op}: shapes {left} and {right} do not fit: {why}")]
    ShapeMismatch {
        /// The operation.
        op: &'static str,
        /// The first operand's shape.
        left: Box<Shape>,
        /// The second operand's shape.
        right: Box<Shape>,
        /// The rule that is broken.
        why: &'static str,
    },
    /// One shape that the operation cannot take.
    #[error("{op}: shape {shape} is not accepted: {why}")]
    BadShape {
        /// The operation.
        op: &'static str,
        /// The operand's shape.
        shape: Box<Shape>,
        /// The rule that is broken.
        why: &'static str,
    },
    /// A shape with too many dimensions.
    #[error("a shape of {rank} dimensions was asked for; at most {max} are supported")]
    TooManyDims {
        /// Dimensions asked for.
        rank: usize,
        /// The limit.
        max: usize,
    },
    /// A shape whose element or byte count does not fit in memory addresses.
    #[error("shape {shape} has more elements than can be addressed")]
    TooLarge {
        /// The shape.
        shape: Box<Shape>,
    },
    /// The system has no memory for a tensor, even after every unused buffer was given back.
    #[error("{op}: there is no memory for the {} of a {dtype} tensor {shape}", bytes_text(*bytes))]
    OutOfMemory {
        /// The operation that makes the tensor.
        op: &'static str,
        /// The tensor's shape.
        shape: Box<Shape>,
        /// Its dtype.
        dtype: DType,
        /// Its size in bytes.
        bytes: usize,
    },
    /// The system has no memory for what a kernel needs beside its operands.
    #[error("{op}: there is no memory for {} of scratch", bytes_text(*bytes))]
    NoScratch {
        /// The operation.
        op: &'static str,
        /// Bytes asked for.
        bytes: usize,
    },
    /// A data slice whose length is not the shape's element count.
    #[error("{op}: {len} values given for shape {shape}, which holds {expected}")]
    LenMismatch {
        /// The operation.
        op: &'static str,
        /// Values given.
        len: usize,
        /// Values needed.
        expected: usize,
        /// The shape.
        shape: Box<Shape>,
    },
    /// Operands of different dtypes, where one is needed.
    #[error("{op}: dtypes {left} and {right} differ")]
    DTypeMismatch {
        /// The operation.
        op: &'static str,
        /// The first operand's dtype.
        left: DType,
        /// The second operand's dtype.
        right: DType,
    },
    /// A dtype that the operation does not compute in.
    #[error("{op}: dtype {dtype} is not supported (it takes {takes})")]
    UnsupportedDType {
        /// The operation.
        op: &'static str,
        /// The dtype given.
        dtype: DType,
        /// What it takes.
        takes: &'static str,
    },
    /// Operands that live on different devices.
    #[error("{op}: operands live on {left} and on {right}")]
    DeviceMismatch {
        /// The operation.
        op: &'static str,
        /// The first operand's device.
        left: Device,
        /// The second operand's device.
        right: Device,
    },
    /// A dimension that the tensor does not have.
    #[error("{op}: dimension {dim} is outside a tensor of {rank} dimensions")]
    DimOutOfRange {
        /// The operation.
        op: &'static str,
        /// The dimension given.
        dim: i64,
        /// The tensor's rank.
        rank: usize,
    },
    /// A range or an index that leaves a dimension.
    #[error("{op}: index {index} is outside a dimension of size {size}")]
    IndexOutOfRange {
        /// The operation.
        op: &'static str,
        /// The index (for a range: its last one).
        index: usize,
        /// The size of the dimension.
        size: usize,
    },
    /// An id or target with no row.
    #[error("{op}: id {id} at position {position} is outside a table of {size}")]
    IdOutOfRange {
        /// The operation.
        op: &'static str,
        /// The id.
        id: u32,
        /// Where it stands among the ids.
        position: usize,
        /// Rows of the table.
        size: usize,
    },
    /// An argument outside its range.
    #[error("{op}: {name} = {value} is not accepted: {why}")]
    BadArgument {
        /// The operation.
        op: &'static str,
        /// The argument.
        name: &'static str,
        /// Its value.
        value: f64,
        /// The rule that is broken.
        why: &'static str,
    },
    /// An operation with no backward was asked to record one.
    #[error("{op} has no backward and its input needs a gradient")]
    NoBackward {
        /// The operation.
        op: &'static str,
    },
    /// `backward` was called on a tensor that is not one value.
    #[error("backward starts from one value, not from shape {shape}")]
    NotScalar {
        /// The shape.
        shape: Box<Shape>,
    },
    /// `backward` was called on a tensor that no tracked operation made.
    #[error("backward: this tensor was not made by a recorded operation")]
    NotRecorded,
    /// A graph was walked twice; the first walk frees what it used.
    #[error("backward: the graph below {op} was already used by an earlier backward")]
    GraphConsumed {
        /// The operation met twice.
        op: &'static str,
    },
    /// A checkpointed block used a tracked intermediate that was not among its inputs.
    #[error("checkpoint: the block uses a tracked intermediate ({op}) that is not among its inputs")]
    CheckpointCapture {
        /// The operation that made the captured tensor.
        op: &'static str,
    },
    /// The values of a tensor without values (device Meta) were asked for.
    #[error("{op}: a tensor on device Meta has a shape but no values")]
    NoValues {
        /// The operation.
        op: &'static str,
    },
    /// A tensor's data was asked for while a `with_data_mut` on it is running.
    #[error("{op}: the tensor's data is being changed by a running with_data_mut")]
    Busy {
        /// The operation.
        op: &'static str,
    },
}

/// A number of bytes as people read it.
fn bytes_text(bytes: usize) -> String {
    match bytes {
        0..1024 => format!("{bytes} bytes"),
        1024..1_048_576 => format!("{:.1} KiB", bytes as f64 / 1024.0),
        1_048_576..1_073_741_824 => format!("{:.1} MiB", bytes as f64 / 1_048_576.0),
        _ => format!("{:.1} GiB", bytes as f64 / 1_073_741_824.0),
    }
}

impl Error {
    /// The `len` places from `start` on leave a dimension of this size.
    pub(crate) fn range(op: &'static str, start: usize, len: usize, size: usize) -> Error {
        Error::IndexOutOfRange { op, index: start.saturating_add(len.saturating_sub(1)), size }
    }

    /// Whether the system had no memory left.
    pub fn is_out_of_memory(&self) -> bool {
        matches!(self, Error::OutOfMemory { .. } | Error::NoScratch { .. })
    }

    /// What to do next, where that is known.
    pub fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Error::NoBackward { .. } => "call it inside no_grad(|| …), or on x.detach(), if no gradient is wanted",
            Error::NotScalar { .. } => "reduce with sum_all() or mean_all() first",
            Error::NotRecorded => "mark a leaf with set_requires_grad(true) and run the forward outside no_grad",
            Error::GraphConsumed { .. } => "run the forward again, or add the losses and call backward once",
            Error::CheckpointCapture { .. } => "pass every tracked intermediate through checkpoint's inputs",
            Error::DTypeMismatch { .. } => "convert one operand with to_dtype",
            Error::UnsupportedDType { .. } => "convert with to_dtype first",
            Error::OutOfMemory { .. } | Error::NoScratch { .. } => {
                "work on less at a time (a smaller batch or a shorter text), or stop other programs"
            }
            Error::Busy { .. } => "read before with_data_mut, or inside its closure",
            _ => return None,
        })
    }
}
