//! Quantized weights: the block formats of GGUF files, packing for fast products, and the products.
//!
//! Here: [`BlockType`] with plain [`dequantize`] and [`quantize`] in the byte layout of GGUF (ggml's
//! `block_*` structures); [`PackedMatrix`], weights arranged once for products; [`PackedRows`], the activations
//! they are multiplied with; [`product()`]. Not here: files (bytes come in as slices), and models.
//!
//! A quantized row is a run of blocks; a block is a few integers with a scale, and in some types a
//! minimum. The K types cut a block of 256 into sub-blocks whose scales are themselves small integers.
//!
//! ```
//! use gently_kernels::quant::{BlockType, dequantize, quantize};
//! let x: Vec<f32> = (0..32).map(|i| i as f32 - 15.5).collect();
//! let mut bytes = vec![0; BlockType::Q8_0.row_bytes(32).unwrap()];
//! quantize(BlockType::Q8_0, &x, &mut bytes).unwrap();
//! let mut back = vec![0.0; 32];
//! dequantize(BlockType::Q8_0, &bytes, &mut back).unwrap();
//! assert!((back[3] - x[3]).abs() < 0.07);
//! ```

mod arena;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod decode;
mod encode;
mod encode_k;
mod floats;
mod packed;
#[cfg(target_arch = "x86_64")]
mod packed_avx2;
mod plain;
mod product;
#[cfg(test)]
mod product_tests;
mod rows;
#[cfg(target_arch = "x86_64")]
mod rows_avx2;
#[cfg(target_arch = "x86_64")]
mod rows_avx512;
#[cfg(test)]
mod tests;
mod unpacked;

use crate::buffer::OutOfMemory;

pub use arena::PackArena;
pub use decode::dequantize;
pub use encode::quantize;
pub use packed::{GROUP, PackedMatrix};
pub use product::{Epilogue, product};
pub use rows::{PackedRows, RowKind};

/// Values in a block of the simple types.
pub(crate) const BLOCK: usize = 32;
/// Values in a block of the K types.
pub(crate) const SUPER: usize = 256;

/// How a row of numbers is stored.
///
/// Names and layouts are those of GGUF. `d`, `m` are half-precision floats, little endian.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum BlockType {
    /// 4 bytes a number.
    F32,
    /// IEEE half precision.
    F16,
    /// The upper half of an f32.
    Bf16,
    /// Blocks of 32: d, 16 bytes of nibbles; value d·(q − 8).
    Q4_0,
    /// Blocks of 32: d, m, 16 bytes of nibbles; value d·q + m.
    Q4_1,
    /// Blocks of 32: d, 4 bytes of fifth bits, 16 bytes of nibbles; value d·(q − 16).
    Q5_0,
    /// Blocks of 32: d, m, 4 bytes of fifth bits, 16 bytes of nibbles; value d·q + m.
    Q5_1,
    /// Blocks of 32: d, 32 signed bytes; value d·q.
    Q8_0,
    /// Blocks of 256 in 16 parts with 4-bit scale and minimum; 2 bits a number.
    Q2K,
    /// Blocks of 256 in 16 parts with 6-bit scale; 3 bits a number.
    Q3K,
    /// Blocks of 256 in 8 parts with 6-bit scale and minimum; 4 bits a number.
    Q4K,
    /// Blocks of 256 in 8 parts with 6-bit scale and minimum; 5 bits a number.
    Q5K,
    /// Blocks of 256 in 16 parts with 8-bit scale; 6 bits a number.
    Q6K,
}

impl BlockType {
    /// All the types.
    pub const ALL: [BlockType; 13] = {
        use BlockType::*;
        [F32, F16, Bf16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2K, Q3K, Q4K, Q5K, Q6K]
    };

    /// Numbers in a block; a row is a whole number of blocks.
    pub const fn block_len(self) -> usize {
        use BlockType::*;
        match self {
            F32 | F16 | Bf16 => 1,
            Q4_0 | Q4_1 | Q5_0 | Q5_1 | Q8_0 => BLOCK,
            Q2K | Q3K | Q4K | Q5K | Q6K => SUPER,
        }
    }

    /// Bytes of a block.
    pub const fn block_bytes(self) -> usize {
        use BlockType::*;
        match self {
            F32 => 4,
            F16 | Bf16 => 2,
            Q4_0 => 18,
            Q4_1 => 20,
            Q5_0 => 22,
            Q5_1 => 24,
            Q8_0 => 34,
            Q2K => 84,
            Q3K => 110,
            Q4K => 144,
            Q5K => 176,
            Q6K => 210,
        }
    }

    /// Bytes of a row of `k` numbers; `None` where `k` is no whole number of blocks or the count overflows.
    pub const fn row_bytes(self, k: usize) -> Option<usize> {
        if k.is_multiple_of(self.block_len()) { (k / self.block_len()).checked_mul(self.block_bytes()) } else { None }
    }

    /// Bits for each number, scales included.
    pub fn bits(self) -> f64 {
        8.0 * self.block_bytes() as f64 / self.block_len() as f64
    }

    /// The number of the type in GGUF files.
    pub const fn ggml_id(self) -> u32 {
        use BlockType::*;
        match self {
            F32 => 0,
            F16 => 1,
            Q4_0 => 2,
            Q4_1 => 3,
            Q5_0 => 6,
            Q5_1 => 7,
            Q8_0 => 8,
            Q2K => 10,
            Q3K => 11,
            Q4K => 12,
            Q5K => 13,
            Q6K => 14,
            Bf16 => 30,
        }
    }

    /// The type with that number in GGUF files, if it is one of these.
    pub fn from_ggml_id(id: u32) -> Option<BlockType> {
        Self::ALL.into_iter().find(|t| t.ggml_id() == id)
    }

    /// The name in GGUF's documents: `Q4_0`, `Q4_K`, `BF16`.
    pub const fn name(self) -> &'static str {
        use BlockType::*;
        match self {
            F32 => "F32",
            F16 => "F16",
            Bf16 => "BF16",
            Q4_0 => "Q4_0",
            Q4_1 => "Q4_1",
            Q5_0 => "Q5_0",
            Q5_1 => "Q5_1",
            Q8_0 => "Q8_0",
            Q2K => "Q2_K",
            Q3K => "Q3_K",
            Q4K => "Q4_K",
            Q5K => "Q5_K",
            Q6K => "Q6_K",
        }
    }

    /// The type with that name, upper or lower case, if it is one of these.
    pub fn from_name(name: &str) -> Option<BlockType> {
        Self::ALL.into_iter().find(|t| t.name().eq_ignore_ascii_case(name))
    }

    /// Whether the numbers are plain floats.
    pub const fn is_float(self) -> bool {
        self.block_len() == 1
    }
}

impl std::fmt::Display for BlockType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// Why a quantized operation was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QuantError {
    /// The length of a row is no whole number of blocks.
    #[error("{len} numbers are no whole number of {ty} blocks of {}", ty.block_len())]
    Length {
        /// The type.
        ty: BlockType,
        /// Numbers given.
        len: usize,
    },
    /// The byte slice has another size than the numbers need.
    #[error("{ty} data of {found} bytes where {expected} are needed")]
    Bytes {
        /// The type.
        ty: BlockType,
        /// Bytes needed.
        expected: usize,
        /// Bytes given.
        found: usize,
    },
    /// A NaN or an infinity cannot be quantized.
    #[error("number {index} is {value}, which {ty} cannot hold")]
    NotFinite {
        /// The type.
        ty: BlockType,
        /// Place of the number.
        index: usize,
        /// The number, as text.
        value: String,
    },
    /// A finite number, or the scale of some, would leave the range of the type that holds it.
    #[error("numbers as large as those of block {block} leave the range of {ty}")]
    Range {
        /// The type.
        ty: BlockType,
        /// Place of the block.
        block: usize,
    },
    /// The system has no memory for a packed matrix.
    #[error(transparent)]
    Memory(#[from] OutOfMemory),
}

/// Checks that `bytes` bytes hold exactly `len` numbers.
pub(crate) fn check_size(ty: BlockType, len: usize, bytes: usize) -> Result<(), QuantError> {
    let expected = ty.row_bytes(len).ok_or(QuantError::Length { ty, len })?;
    if bytes == expected { Ok(()) } else { Err(QuantError::Bytes { ty, expected, found: bytes }) }
}
