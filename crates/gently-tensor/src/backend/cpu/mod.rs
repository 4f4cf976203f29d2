//! The CPU's side of the seam: unpacks views into slices and calls `gently-kernels`. `f32` goes to the fast kernels,
//! `f64` to their plain twins.

mod dense;
mod elementwise;
mod sequence;

pub(crate) use dense::*;
pub(crate) use elementwise::*;
pub(crate) use sequence::*;

/// Runs a body with `$T` = f32 or f64. Operations let only these two through.
macro_rules! by_float {
    ($dtype:expr, $T:ident => $body:expr) => {
        match $dtype {
            crate::DType::F64 => {
                type $T = f64;
                $body
            }
            _ => {
                type $T = f32;
                $body
            }
        }
    };
}

/// Calls a fast kernel on f32, its plain twin on f64; the arguments are written once, generic in `$T`.
macro_rules! twin {
    ($dtype:expr, $module:ident :: $f:ident, $T:ident => ($($arg:expr),* $(,)?)) => {
        match $dtype {
            crate::DType::F64 => {
                type $T = f64;
                gently_kernels::$module::plain::$f($($arg),*)
            }
            _ => {
                type $T = f32;
                gently_kernels::$module::$f($($arg),*)
            }
        }
    };
}

/// Runs a body with `$T` = the element type of any dtype.
macro_rules! by_any {
    ($dtype:expr, $T:ident => $body:expr) => {
        match $dtype {
            crate::DType::F32 => {
                type $T = f32;
                $body
            }
            crate::DType::F64 => {
                type $T = f64;
                $body
            }
            crate::DType::Bf16 => {
                type $T = half::bf16;
                $body
            }
            crate::DType::U8 => {
                type $T = u8;
                $body
            }
            crate::DType::U32 => {
                type $T = u32;
                $body
            }
            crate::DType::I64 => {
                type $T = i64;
                $body
            }
        }
    };
}

/// [`twin`] for fast kernels that may be refused memory; their plain twins are not.
macro_rules! try_twin {
    ($op:expr, $dtype:expr, $module:ident :: $f:ident, $T:ident => ($($arg:expr),* $(,)?)) => {
        match $dtype {
            crate::DType::F64 => {
                type $T = f64;
                gently_kernels::$module::plain::$f($($arg),*);
                Ok(())
            }
            _ => {
                type $T = f32;
                gently_kernels::$module::$f($($arg),*).map_err(|e| crate::Error::NoScratch { op: $op, bytes: e.bytes })
            }
        }
    };
}

use {by_any, by_float, try_twin, twin};
