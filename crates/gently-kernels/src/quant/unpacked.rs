//! Weights that many rows pass by: unpacked once for a task, rather than once for every few columns.
//!
//! Here: [`Weights`], what the inner loops read. Not here: the loops, and how one type is unpacked ([`super::floats`] makes
//! halves f32, `avx2` gives integers a byte each).

use super::floats;
use super::packed::{GROUP, Layout, PackedMatrix};
use crate::cpu::Path;
use crate::simd::Simd;
use std::ops::Range;

/// A matrix, some of whose groups may have been unpacked beforehand.
pub(super) struct Weights<'a> {
    pub matrix: &'a PackedMatrix,
    /// Groups from `first` on, or empty.
    unpacked: &'a [u32],
    first: usize,
    /// Words of a group in `unpacked`.
    each: usize,
}

/// Tiles of rows that pay for unpacking weights beforehand: it takes the processor as long as a multiplication or a few, and a
/// tile is some twelve.
const MANY_TILES: usize = 4;
/// Most words unpacked beforehand: 1 MiB, a second cache. Tasks of very long or very many outputs have more.
const MOST: usize = 1 << 18;

/// Words of one group of 16 rows unpacked, on a path whose inner loop can read it so; 0 where it is best read as it is.
#[cfg_attr(not(target_arch = "x86_64"), allow(unused_variables))]
fn group_words(path: Path, w: &PackedMatrix) -> usize {
    match Layout::of(w.block_type()) {
        None if w.block_type().block_bytes() < 4 => w.k() * GROUP,
        #[cfg(target_arch = "x86_64")]
        Some(layout) if path >= Path::Avx2 && !super::product::has_vnni_loop(path) => {
            super::avx2::unpacked_bytes(&layout) / 4 * (w.k() / super::BLOCK)
        }
        _ => 0,
    }
}

/// Words of room that [`Weights::unpack`] needs for `groups` groups of outputs that `tiles` tiles of rows pass by; 0 where they
/// are best read as they are.
pub(super) fn words(path: Path, w: &PackedMatrix, groups: usize, tiles: usize) -> usize {
    let words = groups * if w.is_gated() { 2 } else { 1 } * group_words(path, w);
    if tiles >= MANY_TILES && words <= MOST { words } else { 0 }
}

impl<'a> Weights<'a> {
    /// Read as it is.
    fn packed(matrix: &'a PackedMatrix) -> Self {
        Self { matrix, unpacked: &[], first: 0, each: 0 }
    }

    /// With these groups of rows unpacked in `room`, unless that is empty.
    #[inline(always)]
    pub fn unpack<S: Simd>(s: S, matrix: &'a PackedMatrix, groups: Range<usize>, room: &'a mut [u32]) -> Self {
        if room.is_empty() || groups.is_empty() {
            return Self::packed(matrix);
        }
        let (each, first) = (room.len() / groups.len(), groups.start);
        for (g, room) in groups.zip(room.chunks_exact_mut(each)) {
            match Layout::of(matrix.block_type()) {
                #[cfg(target_arch = "x86_64")]
                Some(_) => super::avx2::unpack(matrix, g, bytemuck::cast_slice_mut(room)),
                _ => floats::widen(s, matrix, g, bytemuck::cast_slice_mut(room)),
            }
        }
        Self { matrix, unpacked: room, first, each }
    }

    /// Group `g` unpacked, if it was.
    #[inline(always)]
    pub fn unpacked(&self, g: usize) -> Option<&[u8]> {
        (!self.unpacked.is_empty())
            .then(|| bytemuck::cast_slice(&self.unpacked[(g - self.first) * self.each..][..self.each]))
    }
}
