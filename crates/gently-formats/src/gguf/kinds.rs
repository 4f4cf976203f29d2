//! The types of tensors: number, name, elements and bytes of a block.

macro_rules! kinds {
    ($($(#[$doc:meta])* $variant:ident $name:literal = $id:literal, $elements:literal in $bytes:literal;)*) => {
        /// How a tensor's rows are stored: in blocks of elements, each of a fixed number of bytes.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum TensorType { $($(#[$doc])* $variant,)* }

        impl TensorType {
            /// Every type that is read here.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The type of a number in a file.
            pub fn from_id(id: u32) -> Option<Self> {
                match id { $($id => Some(Self::$variant),)* _ => None }
            }

            /// Its number in a file.
            pub fn id(self) -> u32 {
                match self { $(Self::$variant => $id,)* }
            }

            /// Its name, as llama.cpp prints it.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// Elements of a block; rows are whole blocks.
            pub fn block_len(self) -> usize {
                match self { $(Self::$variant => $elements,)* }
            }

            /// Bytes of a block.
            pub fn block_bytes(self) -> usize {
                match self { $(Self::$variant => $bytes,)* }
            }
        }
    };
}

kinds! {
    /// Single-precision floats.
    F32 "F32" = 0, 1 in 4;
    /// Half-precision floats.
    F16 "F16" = 1, 1 in 2;
    /// 4 bits, a scale.
    Q4_0 "Q4_0" = 2, 32 in 18;
    /// 4 bits, a scale and a minimum.
    Q4_1 "Q4_1" = 3, 32 in 20;
    /// 5 bits, a scale.
    Q5_0 "Q5_0" = 6, 32 in 22;
    /// 5 bits, a scale and a minimum.
    Q5_1 "Q5_1" = 7, 32 in 24;
    /// 8 bits, a scale.
    Q8_0 "Q8_0" = 8, 32 in 34;
    /// 2 bits in super-blocks.
    Q2K "Q2_K" = 10, 256 in 84;
    /// 3 bits in super-blocks.
    Q3K "Q3_K" = 11, 256 in 110;
    /// 4 bits in super-blocks.
    Q4K "Q4_K" = 12, 256 in 144;
    /// 5 bits in super-blocks.
    Q5K "Q5_K" = 13, 256 in 176;
    /// 6 bits in super-blocks.
    Q6K "Q6_K" = 14, 256 in 210;
    /// 8-bit integers.
    I8 "I8" = 24, 1 in 1;
    /// 16-bit integers.
    I16 "I16" = 25, 1 in 2;
    /// 32-bit integers.
    I32 "I32" = 26, 1 in 4;
    /// 64-bit integers.
    I64 "I64" = 27, 1 in 8;
    /// Double-precision floats.
    F64 "F64" = 28, 1 in 8;
    /// Brain floats.
    Bf16 "BF16" = 30, 1 in 2;
}

impl TensorType {
    /// Bytes of a row of `n` elements; `None` where a row is no whole number of blocks, or overflows.
    pub fn row_bytes(self, n: usize) -> Option<usize> {
        n.is_multiple_of(self.block_len()).then(|| (n / self.block_len()).checked_mul(self.block_bytes())).flatten()
    }

    /// Whether elements are floats, each on its own: no blocks.
    pub fn is_float(self) -> bool {
        matches!(self, Self::F32 | Self::F16 | Self::Bf16 | Self::F64)
    }
}

impl std::fmt::Display for TensorType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// Names of the numbers that are known to exist but not read, for messages.
pub(crate) fn unread_name(id: u32) -> Option<&'static str> {
    Some(match id {
        4 => "Q4_2",
        5 => "Q4_3",
        9 => "Q8_1",
        15 => "Q8_K",
        16 => "IQ2_XXS",
        17 => "IQ2_XS",
        18 => "IQ3_XXS",
        19 => "IQ1_S",
        20 => "IQ4_NL",
        21 => "IQ3_S",
        22 => "IQ2_S",
        23 => "IQ4_XS",
        29 => "IQ1_M",
        31 => "Q4_0_4_4",
        32 => "Q4_0_4_8",
        33 => "Q4_0_8_8",
        34 => "TQ1_0",
        35 => "TQ2_0",
        36 => "IQ4_NL_4_4",
        37 => "IQ4_NL_4_8",
        38 => "IQ4_NL_8_8",
        39 => "MXFP4",
        40 => "NVFP4",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_their_own_and_rows_are_whole_blocks() {
        for &kind in TensorType::ALL {
            assert_eq!(TensorType::from_id(kind.id()), Some(kind));
            assert_eq!(unread_name(kind.id()), None);
            assert_eq!(kind.row_bytes(512), Some(512 / kind.block_len() * kind.block_bytes()));
            assert_eq!(kind.row_bytes(33).is_some(), kind.block_len() == 1);
        }
        assert_eq!(TensorType::F64.row_bytes(usize::MAX), None);
    }
}
