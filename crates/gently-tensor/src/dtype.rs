//! Element types of tensors, and the seal that ties each to its Rust type.
//!
//! ```
//! use gently_tensor::{DType, Element};
//! assert_eq!(DType::Bf16.size(), 2);
//! assert_eq!(<f32 as Element>::DTYPE, DType::F32);
//! ```

use gently_kernels::cast::{Scalar, nearest_bf16};
use half::bf16;
use std::fmt;

/// The type of a tensor's elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum DType {
    /// 32-bit float: parameters, activations, gradients.
    F32,
    /// 64-bit float: checks of gradients.
    F64,
    /// 16-bit float with the range of `f32`: storage, and operands of matrix products.
    Bf16,
    /// Bytes.
    U8,
    /// Token ids and indices.
    U32,
    /// Signed integers.
    I64,
}

impl DType {
    /// Bytes of one element.
    pub const fn size(self) -> usize {
        match self {
            DType::U8 => 1,
            DType::Bf16 => 2,
            DType::F32 | DType::U32 => 4,
            DType::F64 | DType::I64 => 8,
        }
    }

    /// True for `F32`, `F64` and `Bf16`.
    pub const fn is_float(self) -> bool {
        matches!(self, DType::F32 | DType::F64 | DType::Bf16)
    }

    /// The dtype in which gradients of a tensor of this dtype are kept: `Bf16` tensors have `F32` gradients.
    pub const fn grad(self) -> DType {
        match self {
            DType::Bf16 => DType::F32,
            other => other,
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DType::F32 => "f32",
            DType::F64 => "f64",
            DType::Bf16 => "bf16",
            DType::U8 => "u8",
            DType::U32 => "u32",
            DType::I64 => "i64",
        })
    }
}

mod sealed {
    pub trait Sealed {}
}

/// A Rust type that can be a tensor's element. Sealed: the kernels know exactly these.
pub trait Element: sealed::Sealed + bytemuck::Pod + Send + Sync + fmt::Debug + PartialEq {
    /// The dtype of this element.
    const DTYPE: DType;
    /// The value as `f64` (exact for floats, rounded for large integers).
    fn to_f64(self) -> f64;
    /// The value nearest to `value`; integers truncate and saturate.
    fn from_f64(value: f64) -> Self;
    /// The value nearest to `value`, rounded once; integers saturate.
    fn from_i64(value: i64) -> Self;
}

macro_rules! element {
    ($t:ty, $d:ident, $to:expr, $from:expr, $int:expr) => {
        impl sealed::Sealed for $t {}
        impl Element for $t {
            const DTYPE: DType = DType::$d;
            #[inline]
            fn to_f64(self) -> f64 {
                ($to)(self)
            }
            #[inline]
            fn from_f64(value: f64) -> Self {
                ($from)(value)
            }
            #[inline]
            fn from_i64(value: i64) -> Self {
                ($int)(value)
            }
        }
    };
}

element!(f32, F32, f64::from, |v| v as f32, |v: i64| v as f32);
element!(f64, F64, |v| v, |v| v, |v: i64| v as f64);
element!(bf16, Bf16, f64::from, nearest_bf16, <bf16 as Scalar>::from_i64);
element!(u8, U8, f64::from, |v| v as u8, |v: i64| v.clamp(0, u8::MAX.into()) as u8);
element!(u32, U32, f64::from, |v| v as u32, |v: i64| v.clamp(0, u32::MAX.into()) as u32);
element!(i64, I64, |v| v as f64, |v| v as i64, |v: i64| v);
