//! Weight matrices arranged once for fast products.
//!
//! Here: [`PackedMatrix`] and its layout. Not here: the products (see [`super::product`]).
//!
//! Sixteen rows form a group. In a group the numbers of one place of all 16 rows lie side by side, so that a
//! vector register holds 16 outputs, an activation is broadcast to all of them, and no sum runs across a
//! register. A group is contiguous: decoding reads memory in one stream.
//!
//! - Floats: `[k][16]` in their own type.
//! - Integer blocks: the group's scales, then for every 32 numbers of K the integers as *quads* (four
//!   neighbours in k of each row, 64 bytes as `[16][4]`): quad t holds k = 4t … 4t + 3. Bits are kept in planes:
//!   of 4-bit integers a vector holds quad t in the low and quad t + 4 in the high nibbles; further bits of all
//!   eight quads lie in a second plane. Integers are unsigned (signed ones are moved up by their zero point).
//!
//! ```
//! use gently_kernels::quant::{BlockType, PackedMatrix, PackedRows, Epilogue, product, quantize};
//! let w: Vec<f32> = (0..2 * 32).map(|i| (i % 7) as f32 - 3.0).collect(); // [2, 32]
//! let mut bytes = vec![0; 2 * BlockType::Q8_0.row_bytes(32).unwrap()];
//! quantize(BlockType::Q8_0, &w, &mut bytes).unwrap();
//! let w = PackedMatrix::pack(BlockType::Q8_0, &bytes, 2, 32).unwrap();
//! let mut x = PackedRows::new(w.row_kind(), 1, 32);
//! x.fill(1, &[1.0; 32], 32);
//! let mut y = [0.0; 2];
//! product(&w, &x, &mut y, 2, &Epilogue::default());
//! assert!((y[0] - -6.0).abs() < 0.01 && (y[1] - 3.0).abs() < 0.01, "{y:?}");
//! ```

use super::arena::{PackArena, Piece};
use super::decode::{half_at, k_run, k_scales};
use super::rows::RowKind;
use super::{BLOCK, BlockType, QuantError, SUPER, check_size};
#[cfg(target_arch = "x86_64")]
use crate::cpu::{self, Path};
use crate::pool;

/// Rows of a group.
pub const GROUP: usize = 16;
/// Bytes of the half-precision scales of a group.
const HALVES: usize = 2 * GROUP;

/// How the integers of a type are packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Layout {
    /// Bits in the first plane: 2, 4 or 8.
    pub low: usize,
    /// Bits in the second plane: 0, 1 or 2.
    pub high: usize,
    /// Scales belong to 16 numbers rather than 32.
    pub halves: bool,
    /// Value of the integer that means 0, where there is no minimum.
    pub zero: i32,
    /// There is a minimum beside each scale.
    pub min: bool,
    /// Scales are integers under a half-precision scale of 256 numbers.
    pub supers: bool,
}

impl Layout {
    /// `None` for the float types.
    pub(crate) const fn of(ty: BlockType) -> Option<Layout> {
        use BlockType::*;
        let simple = Layout { low: 4, high: 0, halves: false, zero: 0, min: false, supers: false };
        Some(match ty {
            F32 | F16 | Bf16 => return None,
            Q4_0 => Layout { zero: 8, ..simple },
            Q4_1 => Layout { min: true, ..simple },
            Q5_0 => Layout { high: 1, zero: 16, ..simple },
            Q5_1 => Layout { high: 1, min: true, ..simple },
            Q8_0 => Layout { low: 8, zero: 128, ..simple },
            Q2K => Layout { low: 2, halves: true, min: true, supers: true, ..simple },
            Q3K => Layout { low: 2, high: 1, halves: true, zero: 4, supers: true, ..simple },
            Q4K => Layout { min: true, supers: true, ..simple },
            Q5K => Layout { high: 1, min: true, supers: true, ..simple },
            Q6K => Layout { high: 2, halves: true, zero: 32, supers: true, ..simple },
        })
    }

    /// Bytes of the integers of 16 × 32 numbers.
    pub(crate) const fn quad_bytes(&self) -> usize {
        64 * (self.low + self.high)
    }

    /// Scales in a block of 256.
    const fn parts(&self) -> usize {
        if self.halves { 16 } else { 8 }
    }

    /// Bytes of the scales of 16 × 256 numbers of a K type: d, dmin, integer scales, integer minima.
    pub(crate) const fn super_bytes(&self) -> usize {
        (HALVES + GROUP * self.parts()) * if self.min { 2 } else { 1 }
    }

    /// Bytes of the scales of a group: whole cache lines.
    pub(crate) const fn scale_bytes(&self, k: usize) -> usize {
        let bytes = if self.supers {
            k / SUPER * self.super_bytes()
        } else {
            k / BLOCK * HALVES * if self.min { 2 } else { 1 }
        };
        bytes.next_multiple_of(64)
    }

    /// Bytes of a group.
    const fn group_bytes(&self, k: usize) -> usize {
        self.scale_bytes(k) + k / BLOCK * self.quad_bytes()
    }

    /// Place of the d (or dmin) of a K type's block of 256 in the group's scales.
    const fn super_at(&self, sup: usize, min: bool) -> usize {
        sup * self.super_bytes() + if min { HALVES } else { 0 }
    }

    /// Place of the integer scales (or minima) of part `j` of a block of 256.
    const fn part_at(&self, sup: usize, j: usize, min: bool) -> usize {
        let first = HALVES * if self.min { 2 } else { 1 };
        sup * self.super_bytes() + first + GROUP * (j + if min { self.parts() } else { 0 })
    }

    /// Place of the scales (or minima) of block `b` of a simple type.
    pub(super) const fn simple_at(&self, k: usize, b: usize, min: bool) -> usize {
        HALVES * (b + if min { k / BLOCK } else { 0 })
    }
}

/// A weight matrix `[N, K]` of one type, arranged for products with rows `[M, K]`.
#[derive(Debug, Clone)]
pub struct PackedMatrix {
    ty: BlockType,
    n: usize,
    k: usize,
    gated: bool,
    group_bytes: usize,
    data: Piece,
}

impl PackedMatrix {
    /// Arranges `bytes`, N rows of K numbers in blocks of `ty`. Every number keeps its value. Takes the memory of
    /// `bytes` with N rounded up to 16.
    ///
    /// # Errors
    /// When K is no whole number of blocks or `bytes` has another size than N rows need; [`QuantError::Memory`].
    pub fn pack(ty: BlockType, bytes: &[u8], n: usize, k: usize) -> Result<PackedMatrix, QuantError> {
        Self::arrange(None, ty, &[&[bytes]], n, k)
    }

    /// Arranges two matrices `[N, K]` for a gated product, `y[M, N] = act(x·gateᵀ) · (x·upᵀ)`: their groups of 16
    /// rows take turns.
    ///
    /// # Errors
    /// As [`PackedMatrix::pack`].
    pub fn pack_gated(ty: BlockType, gate: &[u8], up: &[u8], n: usize, k: usize) -> Result<PackedMatrix, QuantError> {
        Self::arrange(None, ty, &[&[gate], &[up]], n, k)
    }

    /// In the arena's memory or, without one, in its own. Each part is the bytes of its rows, in one piece or several.
    pub(super) fn arrange(
        arena: Option<&mut PackArena>,
        ty: BlockType,
        parts: &[&[&[u8]]],
        n: usize,
        k: usize,
    ) -> Result<PackedMatrix, QuantError> {
        let row = ty.row_bytes(k).ok_or(QuantError::Length { ty, len: k })?;
        let len = n.checked_mul(k).ok_or(QuantError::Length { ty, len: usize::MAX })?;
        for part in parts {
            check_size(ty, len, part.iter().map(|piece| piece.len()).sum())?;
            for piece in *part {
                let rows = piece.len().checked_div(row).unwrap_or(0);
                check_size(ty, rows * k, piece.len())?;
            }
        }
        let layout = Layout::of(ty);
        let group_bytes = match layout {
            Some(layout) => layout.group_bytes(k),
            None => row * GROUP,
        };
        let groups = n.div_ceil(GROUP) * parts.len();
        #[cfg(target_arch = "x86_64")]
        let fast = cpu::path() >= Path::Avx2;
        let fill = |data: &mut [u8]| {
            // Tasks of about 64 KiB.
            let Some(some) = (64 * 1024usize).checked_div(group_bytes) else { return };
            let some = some.max(1);
            pool::parallel_chunks_mut(data, some * group_bytes, |task, out| {
                for (i, out) in out.chunks_exact_mut(group_bytes).enumerate() {
                    let g = task * some + i;
                    let (part, first) = (parts[g % parts.len()], g / parts.len() * GROUP);
                    #[cfg(target_arch = "x86_64")]
                    if fast && n - first >= GROUP {
                        let rows = std::array::from_fn(|r| row_of(part, (first + r) * row));
                        // SAFETY: the processor has AVX2, which its path asks for.
                        if unsafe { super::packed_avx2::group(ty, &rows, k, out) } {
                            continue;
                        }
                    }
                    for r in 0..GROUP.min(n - first) {
                        let bytes = &row_of(part, (first + r) * row)[..row];
                        match &layout {
                            Some(layout) => put_blocks(ty, layout, bytes, k, r, out),
                            None => put_floats(ty.block_bytes(), bytes, r, out),
                        }
                    }
                }
            });
        };
        let len = groups * group_bytes;
        let data = match arena {
            Some(arena) => arena.piece(len, fill)?,
            None => PackArena::exact(len)?.piece(len, fill)?,
        };
        Ok(PackedMatrix { ty, n, k, gated: parts.len() == 2, group_bytes, data })
    }

    /// The packed bytes.
    #[cfg(test)]
    pub(super) fn packed(&self) -> &[u8] {
        &self.data
    }

    /// The type of the blocks.
    pub fn block_type(&self) -> BlockType {
        self.ty
    }

    /// N, the outputs of a product for each row: of a gated matrix those of one half.
    pub fn n(&self) -> usize {
        self.n
    }

    /// K, the numbers in a row.
    pub fn k(&self) -> usize {
        self.k
    }

    /// Whether this is a pair of matrices for a gated product.
    pub fn is_gated(&self) -> bool {
        self.gated
    }

    /// The form of the rows it is multiplied with.
    pub fn row_kind(&self) -> RowKind {
        if self.ty.is_float() { RowKind::F32 } else { RowKind::Int8 }
    }

    /// Bytes a product reads of it.
    pub fn bytes(&self) -> usize {
        self.data.len()
    }

    /// Groups of 16 outputs; a gated matrix has two groups of rows for each.
    pub(super) fn groups(&self) -> usize {
        self.n.div_ceil(GROUP)
    }

    /// Bytes read for a group of outputs.
    pub(super) fn output_group_bytes(&self) -> usize {
        self.group_bytes * if self.gated { 2 } else { 1 }
    }

    /// Group `g` of rows.
    pub(super) fn group(&self, g: usize) -> &[u8] {
        &self.data[g * self.group_bytes..][..self.group_bytes]
    }

    /// Writes row `row`, `[K]`, as [`dequantize`](super::dequantize) would have it: for embeddings that share
    /// their matrix with the head. Of a gated matrix rows are counted gate, up in turns of 16.
    ///
    /// # Panics
    /// When there is no such row or `out` has another length.
    pub fn row(&self, row: usize, out: &mut [f32]) {
        assert!(row < self.n * if self.gated { 2 } else { 1 }, "row {row} of {}", self.n);
        assert_eq!(out.len(), self.k, "a row has {} numbers", self.k);
        let (g, r) = (self.group(row / GROUP), row % GROUP);
        let Some(layout) = Layout::of(self.ty) else {
            for (i, x) in out.iter_mut().enumerate() {
                *x = float_at(self.ty, g, i * GROUP + r);
            }
            return;
        };
        let part = if layout.halves { 16 } else { 32 };
        for (j, out) in out.chunks_exact_mut(part).enumerate() {
            let (scale, min) = scale_at(&layout, self.k, g, j * part, r);
            for (i, x) in out.iter_mut().enumerate() {
                let q = integer_at(&layout, self.k, g, j * part + i, r);
                *x = match layout.min {
                    // One rounding for each operation, as in the plain decoder.
                    true => scale * q as f32 + min,
                    false => scale * (q as i32 - layout.zero) as f32,
                };
            }
        }
    }
}

/// What lies from byte `at` on, in the piece that has it.
fn row_of<'a>(pieces: &[&'a [u8]], mut at: usize) -> &'a [u8] {
    for piece in pieces {
        if at < piece.len() {
            return &piece[at..];
        }
        at -= piece.len();
    }
    &[]
}

/// Number `at` of a float group.
pub(super) fn float_at(ty: BlockType, g: &[u8], at: usize) -> f32 {
    match ty {
        BlockType::F32 => f32::from_le_bytes([g[4 * at], g[4 * at + 1], g[4 * at + 2], g[4 * at + 3]]),
        BlockType::F16 => half_at(g, 2 * at),
        _ => half::bf16::from_le_bytes([g[2 * at], g[2 * at + 1]]).to_f32(),
    }
}

/// Scale and (signed) minimum of number `i` of row `r` of a group.
pub(super) fn scale_at(layout: &Layout, k: usize, g: &[u8], i: usize, r: usize) -> (f32, f32) {
    if !layout.supers {
        let value = |min| half_at(g, layout.simple_at(k, i / BLOCK, min) + 2 * r);
        return (value(false), if layout.min { value(true) } else { 0.0 });
    }
    let (sup, j) = (i / SUPER, i % SUPER * layout.parts() / SUPER);
    let scale = half_at(g, layout.super_at(sup, false) + 2 * r) * g[layout.part_at(sup, j, false) + r] as i8 as f32;
    if !layout.min {
        return (scale, 0.0);
    }
    let min = half_at(g, layout.super_at(sup, true) + 2 * r) * g[layout.part_at(sup, j, true) + r] as f32;
    (scale, -min)
}

/// The unsigned integer of number `i` of row `r` of a group.
pub(super) fn integer_at(layout: &Layout, k: usize, g: &[u8], i: usize, r: usize) -> u8 {
    let b = &g[layout.scale_bytes(k) + i / BLOCK * layout.quad_bytes()..];
    let (t, lane) = (i % BLOCK / 4, 4 * r + i % 4);
    let low = match layout.low {
        8 => b[64 * t + lane],
        4 => b[64 * (t % 4) + lane] >> (4 * (t / 4)) & 15,
        _ => b[64 * (t / 4) + lane] >> (2 * (t % 4)) & 3,
    };
    let high = match layout.high {
        0 => 0,
        1 => b[64 * layout.low + lane] >> t & 1,
        _ => b[64 * layout.low + 64 * (t / 4) + lane] >> (2 * (t % 4)) & 3,
    };
    low | high << (layout.low % 8)
}

/// Spreads a row of floats of `size` bytes to its lane of a group.
fn put_floats(size: usize, bytes: &[u8], r: usize, out: &mut [u8]) {
    match size {
        4 => {
            for (x, out) in bytes.chunks_exact(4).zip(out.chunks_exact_mut(4 * GROUP)) {
                out[4 * r..][..4].copy_from_slice(x);
            }
        }
        _ => {
            for (x, out) in bytes.chunks_exact(2).zip(out.chunks_exact_mut(2 * GROUP)) {
                out[2 * r..][..2].copy_from_slice(x);
            }
        }
    }
}

/// Spreads a row of blocks to its lane of a group that is still zero.
fn put_blocks(ty: BlockType, layout: &Layout, bytes: &[u8], k: usize, r: usize, out: &mut [u8]) {
    let (scales, quads) = out.split_at_mut(layout.scale_bytes(k));
    if layout.supers {
        for (sup, block) in bytes.chunks_exact(ty.block_bytes()).enumerate() {
            put_super(ty, layout, block, sup, r, scales, quads);
        }
        return;
    }
    // d, then m where there is one, then fifth bits where there are some, then the integers.
    let integers = if layout.min { 4 } else { 2 };
    let blocks = bytes.chunks_exact(ty.block_bytes()).zip(quads.chunks_exact_mut(layout.quad_bytes()));
    for (b, (block, quads)) in blocks.enumerate() {
        scales[layout.simple_at(k, b, false) + 2 * r..][..2].copy_from_slice(&block[..2]);
        if layout.min {
            scales[layout.simple_at(k, b, true) + 2 * r..][..2].copy_from_slice(&block[2..4]);
        }
        let mut q = &block[integers..];
        if layout.high == 1 {
            let high = u32::from_le_bytes([q[0], q[1], q[2], q[3]]);
            for (i, out) in quads[256 + 4 * r..][..4].iter_mut().enumerate() {
                // Bit 4t + i is the fifth bit of place i of quad t.
                *out = (0..8).map(|t| (high >> (4 * t + i) & 1) << t).sum::<u32>() as u8;
            }
            q = &q[4..];
        }
        // Bytes 4t … 4t + 3 of the block are a lane of vector t, in both widths of integers.
        let flip = if layout.low == 8 { 0x8080_8080u32 } else { 0 };
        for (q, out) in q.chunks_exact(4).zip(quads.chunks_exact_mut(64)) {
            let word = u32::from_le_bytes([q[0], q[1], q[2], q[3]]) ^ flip;
            out[4 * r..][..4].copy_from_slice(&word.to_le_bytes());
        }
    }
}

/// Spreads one block of 256 of a K type.
fn put_super(ty: BlockType, layout: &Layout, block: &[u8], sup: usize, r: usize, scales: &mut [u8], quads: &mut [u8]) {
    let halves = match ty {
        BlockType::Q2K => [80, 82],
        BlockType::Q3K => [108, 108],
        BlockType::Q6K => [208, 208],
        _ => [0, 2],
    };
    for min in [false, true].into_iter().take(if layout.min { 2 } else { 1 }) {
        let half = &block[halves[min as usize]..][..2];
        scales[layout.super_at(sup, min) + 2 * r..][..2].copy_from_slice(half);
    }
    for j in 0..layout.parts() {
        let (scale, min, ..) = k_scales(ty, block, j);
        scales[layout.part_at(sup, j, false) + r] = scale as u8;
        if layout.min {
            scales[layout.part_at(sup, j, true) + r] = min;
        }
    }
    let bytes = layout.quad_bytes();
    for (run, quads) in quads[sup * 8 * bytes..][..8 * bytes].chunks_exact_mut(bytes).enumerate() {
        let q = k_run(ty, block, run);
        let mut put = |plane: usize, word: u32| quads[64 * plane + 4 * r..][..4].copy_from_slice(&word.to_le_bytes());
        // Some bits of several quads, each above the one before.
        let joined = |quads: [usize; 4], shift: usize, bits: usize| {
            let mask = ((1 << bits) - 1) * 0x0101_0101;
            (0..4).map(|i| (q[quads[i]] >> shift & mask) << (i * bits)).fold(0, |a, b| a | b)
        };
        let (first, second) = ([0, 1, 2, 3], [4, 5, 6, 7]);
        if layout.low == 4 {
            for t in 0..4 {
                put(t, q[t] & 0x0f0f_0f0f | (q[t + 4] & 0x0f0f_0f0f) << 4);
            }
        } else {
            put(0, joined(first, 0, 2));
            put(1, joined(second, 0, 2));
        }
        match layout.high {
            0 => {}
            1 => put(layout.low, joined(first, layout.low, 1) | joined(second, layout.low, 1) << 4),
            _ => {
                put(layout.low, joined(first, layout.low, 2));
                put(layout.low + 1, joined(second, layout.low, 2));
            }
        }
    }
}
