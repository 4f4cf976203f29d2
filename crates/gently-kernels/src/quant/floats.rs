//! The products' inner loop for float weights, written once for all instruction sets.

// Loops over registers: their indices become constants, which iterators over several arrays would hide.
#![allow(clippy::needless_range_loop)]

use super::BlockType;
use super::packed::{GROUP, PackedMatrix};
use super::product::{TOGETHER, Tile, TileKernel};
use super::rows::{PackedRows, kernel_width};
use super::unpacked::Weights;
use crate::cast::Stored;
use crate::cpu::Path;
use crate::simd::{Kernel, Simd, dispatch};
use half::{bf16, f16};

/// The inner loop on a path.
pub(super) fn kernel(path: Path) -> TileKernel {
    TileKernel::Several(match path {
        Path::Plain => |w, x, g, tile, columns, out| run(Path::Plain, w, x, g, tile, columns, out),
        Path::Avx2 => |w, x, g, tile, columns, out| run(Path::Avx2, w, x, g, tile, columns, out),
        Path::Avx512 => |w, x, g, tile, columns, out| run(Path::Avx512, w, x, g, tile, columns, out),
        Path::Avx512Bf16 => |w, x, g, tile, columns, out| run(Path::Avx512Bf16, w, x, g, tile, columns, out),
    })
}

#[inline]
fn run(path: Path, w: &Weights, x: &PackedRows, g: usize, tile: usize, columns: usize, out: &mut [Tile]) {
    dispatch(path, Product { w, x, g, tile, columns, out });
}

/// Makes a group of halves f32.
#[inline(always)]
pub(super) fn widen<S: Simd>(s: S, w: &PackedMatrix, g: usize, to: &mut [f32]) {
    match w.block_type() {
        BlockType::F16 => widen_stored::<S, f16>(s, w.group(g), to),
        _ => widen_stored::<S, bf16>(s, w.group(g), to),
    }
}

#[inline(always)]
fn widen_stored<S: Simd, W: Stored>(s: S, from: &[u8], to: &mut [f32]) {
    assert_eq!(from.len(), to.len() * size_of::<W>());
    let from = from.as_ptr().cast::<W>();
    for (i, to) in to.chunks_exact_mut(S::LANES).enumerate() {
        // SAFETY: the bytes hold as many numbers as there are places, as asserted, and groups are whole vectors.
        let v = unsafe { W::load(s, from.add(i * S::LANES)) };
        s.store(to, v);
    }
}

struct Product<'a> {
    w: &'a Weights<'a>,
    x: &'a PackedRows,
    g: usize,
    tile: usize,
    columns: usize,
    out: &'a mut [Tile],
}

impl Kernel for Product<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        match self.w.matrix.block_type() {
            _ if self.w.unpacked(self.g).is_some() => columns::<S, f32>(s, self),
            BlockType::F32 => columns::<S, f32>(s, self),
            BlockType::F16 => columns::<S, f16>(s, self),
            _ => columns::<S, bf16>(s, self),
        }
    }
}

/// Cuts the columns so that the sums of two vectors of weights fit the registers: 12 for 16 lanes, 6 for 8.
#[inline(always)]
fn columns<S: Simd, W: Stored>(s: S, mut f: Product) {
    let (most, in_group) = if S::LANES == GROUP { (12, 1) } else { (6, 2) };
    let mut first = 0;
    while first < f.columns {
        let n = most.min(f.columns - first);
        let mut i = 0;
        while i < f.out.len() {
            // Two vectors of weights: both halves of a group, or two groups, so that each number of the rows that is
            // loaded is used twice.
            let pair = in_group == 2 || f.out.len() - i >= 2;
            // SAFETY: `first` and the kernel's width lie in the tile: of the widths only 6 and 12 leave a rest
            // that is not itself a width, namely 5, and that in a tile of 12.
            unsafe {
                if pair {
                    wide::<S, W, 2>(s, &mut f, first, n, i);
                } else {
                    wide::<S, W, 1>(s, &mut f, first, n, i);
                }
            }
            i += if pair && in_group == 1 { 2 } else { 1 };
        }
        first += n;
    }
}

/// # Safety
/// The tile has columns `first .. first` plus the kernel's width of `n`.
#[inline(always)]
unsafe fn wide<S: Simd, W: Stored, const V: usize>(s: S, f: &mut Product, first: usize, n: usize, i: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        match kernel_width(n) {
            1 => tile::<S, W, 1, V>(s, f, first, i),
            2 => tile::<S, W, 2, V>(s, f, first, i),
            3 => tile::<S, W, 3, V>(s, f, first, i),
            4 => tile::<S, W, 4, V>(s, f, first, i),
            6 => tile::<S, W, 6, V>(s, f, first, i),
            8 => tile::<S, W, 8, V>(s, f, first, i),
            10 => tile::<S, W, 10, V>(s, f, first, i),
            _ => tile::<S, W, 12, V>(s, f, first, i),
        }
    }
}

/// C columns of V vectors of weights from group `i` of those asked for.
///
/// # Safety
/// The tile has columns `first .. first + C`.
#[inline(always)]
unsafe fn tile<S: Simd, W: Stored, const C: usize, const V: usize>(s: S, f: &mut Product, first: usize, i: usize) {
    let (k, width) = (f.w.matrix.k(), f.x.width());
    let in_group = GROUP / S::LANES;
    let groups = [f.g + i, f.g + i + V / in_group - 1].map(|g| f.w.unpacked(g).unwrap_or_else(|| f.w.matrix.group(g)));
    assert!(groups.iter().all(|g| g.len() == k * GROUP * size_of::<W>()) && first + C <= width);
    assert!((f.tile + 1) * k * width <= f.x.floats.len());
    let mut sums = [[s.splat(0.0); C]; V];
    let mut w = groups[0].as_ptr().cast::<W>();
    // The second vector: a group's second half, or the next group.
    let second = groups[1].as_ptr().cast::<W>();
    // `w1` and `x` begin inside of a place, and so lie past the end after the last one, where nothing is read.
    let mut w1 = if in_group == 2 { second.wrapping_add(S::LANES) } else { second };
    let mut x = f.x.floats.as_ptr().wrapping_add(f.tile * k * width + first);
    let next = k * width;
    for _ in 0..k {
        // SAFETY: this is place i of `k` in groups of k·16 weights and in a tile of k·width numbers.
        unsafe {
            s.prefetch(w.cast::<u8>().wrapping_add(AHEAD).cast());
            if C >= MANY {
                // The next tile of rows comes to the second cache meanwhile: all of them are more than it holds.
                s.prefetch_far(x.wrapping_add(next));
            }
            let v0 = W::load(s, w);
            if V == 1 {
                for c in 0..C {
                    sums[0][c] = s.fma(v0, s.splat(*x.add(c)), sums[0][c]);
                }
            } else {
                if in_group == 1 {
                    s.prefetch(w1.cast::<u8>().wrapping_add(AHEAD).cast());
                }
                let v1 = W::load(s, w1);
                for c in 0..C {
                    let x = s.splat(*x.add(c));
                    sums[0][c] = s.fma(v0, x, sums[0][c]);
                    sums[1][c] = s.fma(v1, x, sums[1][c]);
                }
                w1 = w1.wrapping_add(GROUP);
            }
            w = w.add(GROUP);
            x = x.wrapping_add(width);
        }
    }
    for c in 0..C.min(f.columns - first) {
        for v in 0..V {
            let out = &mut f.out[i + v / in_group].0[first + c];
            s.store(&mut out[v % in_group * S::LANES..], sums[v][c]);
        }
    }
}

/// Columns of a tile that has others after it.
const MANY: usize = 6;

/// Bytes between a load of weights and the line asked for meanwhile; it may lie in the next group.
const AHEAD: usize = 1024;

// Two vectors are all the groups that are asked for at once.
const _: () = assert!(TOGETHER == 2);
