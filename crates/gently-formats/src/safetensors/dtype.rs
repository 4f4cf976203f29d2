//! Element types and their names in the header.

use half::{bf16, f16};

macro_rules! dtypes {
    ($($(#[$doc:meta])* $variant:ident $name:literal $size:literal,)*) => {
        /// The type of a tensor's elements.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Dtype { $($(#[$doc])* $variant,)* }

        impl Dtype {
            /// Bytes of an element.
            pub fn size(self) -> usize {
                match self { $(Self::$variant => $size,)* }
            }

            /// The name in the header.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }
        }

        impl std::str::FromStr for Dtype {
            type Err = UnknownDtype;
            fn from_str(name: &str) -> Result<Self, UnknownDtype> {
                match name { $($name => Ok(Self::$variant),)* _ => Err(UnknownDtype) }
            }
        }
    };
}

/// A dtype name that is not known here. Types of less than a byte are not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("unknown dtype")]
pub struct UnknownDtype;

dtypes! {
    /// Truth values, a byte each.
    Bool "BOOL" 1,
    /// Unsigned bytes.
    U8 "U8" 1,
    /// Signed bytes.
    I8 "I8" 1,
    /// 8-bit floats, 4 bits of exponent.
    F8E4M3 "F8_E4M3" 1,
    /// 8-bit floats, 5 bits of exponent.
    F8E5M2 "F8_E5M2" 1,
    /// 16-bit integers.
    I16 "I16" 2,
    /// 16-bit unsigned integers.
    U16 "U16" 2,
    /// Half-precision floats.
    F16 "F16" 2,
    /// Brain floats.
    Bf16 "BF16" 2,
    /// 32-bit integers.
    I32 "I32" 4,
    /// 32-bit unsigned integers.
    U32 "U32" 4,
    /// Single-precision floats.
    F32 "F32" 4,
    /// Double-precision floats.
    F64 "F64" 8,
    /// 64-bit integers.
    I64 "I64" 8,
    /// 64-bit unsigned integers.
    U64 "U64" 8,
}

impl std::fmt::Display for Dtype {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// Rust types that are elements.
pub trait Element: bytemuck::Pod {
    /// The header's name for it.
    const DTYPE: Dtype;
}

macro_rules! elements {
    ($($t:ty => $d:ident),*) => { $(impl Element for $t { const DTYPE: Dtype = Dtype::$d; })* };
}
elements!(u8 => U8, i8 => I8, i16 => I16, u16 => U16, f16 => F16, bf16 => Bf16, i32 => I32, u32 => U32, f32 => F32,
    f64 => F64, i64 => I64, u64 => U64);
