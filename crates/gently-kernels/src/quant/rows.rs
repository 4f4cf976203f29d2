//! The other operand of a product: rows of activations, arranged once for all the matrices that read them.
//!
//! Here: [`PackedRows`]. Not here: the products (see [`super::product`]).
//!
//! Rows are cut in tiles of at most 12. In a tile the numbers at one place of all its rows lie side by side, so
//! that a kernel finds each at a constant distance. A row's numbers do not depend on its neighbours.

use super::BLOCK;
use crate::buffer::{AlignedBuf, OutOfMemory};
use crate::cpu::{self, Path};
use crate::pool;
use crate::simd::{Kernel, Simd, dispatch};

/// Tile widths for which there are kernels. A tile of another width computes the next larger one; its
/// extra columns are stale or zero, and nobody reads them.
pub(crate) const WIDTHS: [usize; 8] = [1, 2, 3, 4, 6, 8, 10, 12];
/// The widest tile.
pub(crate) const MAX_WIDTH: usize = 12;

/// The smallest width with a kernel that holds `n` columns.
pub(crate) fn kernel_width(n: usize) -> usize {
    WIDTHS.into_iter().find(|&w| w >= n).unwrap_or(MAX_WIDTH)
}

/// In what form a matrix wants the rows it is multiplied with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RowKind {
    /// Signed bytes in blocks of 32 with an f32 scale: for matrices of integer blocks.
    Int8,
    /// As they are: for matrices of floats.
    F32,
}

/// M rows of K activations, `[M, K]`, in the form a [`PackedMatrix`](super::PackedMatrix) multiplies with.
///
/// Buffers are made once for `capacity` rows; filling them allocates nothing.
#[derive(Debug, Clone)]
pub struct PackedRows {
    kind: RowKind,
    k: usize,
    rows: usize,
    capacity: usize,
    width: usize,
    /// `[tile, block, width, 32]`
    pub(super) ints: AlignedBuf<i8>,
    /// `[tile, block, width]`: the value of 1.
    pub(super) scale: AlignedBuf<f32>,
    /// `[tile, block, width]`: scale times the sum of the integers.
    pub(super) scaled_sum: AlignedBuf<f32>,
    /// `[tile, block, width]` for each of [`ZEROS`]: minus the zero point times the sum of the integers.
    pub(super) start: [AlignedBuf<i32>; 3],
    /// `[tile, block, width]` for each half of a block: the sum of its integers.
    pub(super) half_sum: [AlignedBuf<i32>; 2],
    /// `[tile, k, width]`
    pub(super) floats: AlignedBuf<f32>,
}

/// Zero points of the simple types: Q4_0, Q5_0, Q8_0.
pub(crate) const ZEROS: [i32; 3] = [8, 16, 128];

impl PackedRows {
    /// Room for `capacity` rows of `k` numbers, with no row in it, where there is memory for it: a caller that can be asked
    /// for any number of rows takes [`PackedRows::try_new`].
    ///
    /// # Panics
    /// As [`PackedRows::try_new`], and when there is no memory for so many.
    pub fn new(kind: RowKind, capacity: usize, k: usize) -> PackedRows {
        Self::try_new(kind, capacity, k).unwrap_or_else(|e| panic!("{e}"))
    }

    /// Room for `capacity` rows of `k` numbers, with no row in it.
    ///
    /// # Errors
    /// The system has no memory for so many.
    ///
    /// # Panics
    /// When `k` is no multiple of 32 and the kind is [`RowKind::Int8`], or so many cannot be counted.
    pub fn try_new(kind: RowKind, capacity: usize, k: usize) -> Result<PackedRows, OutOfMemory> {
        // A tile may be up to two columns narrower than its kernel.
        let spare = if capacity <= 1 { 0 } else { 2 * capacity.div_ceil(MAX_WIDTH) };
        let numbers = capacity.checked_add(spare).and_then(|columns| columns.checked_mul(k));
        let Some(numbers) = numbers else { panic!("{capacity} rows of {k} numbers are more than can be counted") };
        let (ints, floats) = match kind {
            RowKind::Int8 => {
                assert!(k.is_multiple_of(BLOCK), "rows of {k} numbers are no whole number of blocks of {BLOCK}");
                (numbers, 0)
            }
            RowKind::F32 => (0, numbers),
        };
        let blocks = ints / BLOCK;
        let sums = || AlignedBuf::<i32>::try_zeroed(blocks);
        Ok(PackedRows {
            kind,
            k,
            rows: 0,
            capacity,
            width: 1,
            ints: AlignedBuf::try_zeroed(ints)?,
            scale: AlignedBuf::try_zeroed(blocks)?,
            scaled_sum: AlignedBuf::try_zeroed(blocks)?,
            start: [sums()?, sums()?, sums()?],
            half_sum: [sums()?, sums()?],
            floats: AlignedBuf::try_zeroed(floats)?,
        })
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        // Of each block of integers a scale, and six sums.
        let words = self.floats.len() + self.scale.len() * 7;
        self.ints.len() + 4 * words
    }

    /// The form of the rows.
    pub fn kind(&self) -> RowKind {
        self.kind
    }

    /// K, numbers in a row.
    pub fn k(&self) -> usize {
        self.k
    }

    /// M, rows there are.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Rows there is room for.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Columns of a whole tile.
    pub(super) fn width(&self) -> usize {
        self.width
    }

    pub(super) fn tiles(&self) -> usize {
        self.rows.div_ceil(self.width)
    }

    /// Sets the number of rows. Their contents are then to be set anew.
    ///
    /// # Panics
    /// When there is no room for so many.
    pub fn resize(&mut self, rows: usize) {
        assert!(rows <= self.capacity, "{rows} rows where there is room for {}", self.capacity);
        let tiles = rows.div_ceil(MAX_WIDTH).max(1);
        self.rows = rows;
        self.width = kernel_width(rows.div_ceil(tiles).max(1));
    }

    /// Makes the rows those of `x`, `[M, K]` with `stride` numbers from a row to the next, on all threads. Numbers that are not
    /// finite make their whole block NaN.
    ///
    /// # Panics
    /// When `x` is too short or there is no room for M rows.
    pub fn fill(&mut self, rows: usize, x: &[f32], stride: usize) {
        self.fill_on(cpu::path(), rows, x, stride);
    }

    /// [`PackedRows::fill`] on a chosen path.
    pub(crate) fn fill_on(&mut self, path: Path, rows: usize, x: &[f32], stride: usize) {
        self.resize(rows);
        let k = self.k;
        let end = |last: usize| last.checked_mul(stride)?.checked_add(k);
        assert!(rows == 0 || end(rows - 1).is_some_and(|end| end <= x.len()), "rows leave x");
        let parts = Parts::new(self);
        let width = self.width;
        // Tasks of a few µs.
        let chunk = (16 * 1024 / (k * width).max(1)).max(1);
        let tiles = self.tiles();
        pool::parallel(tiles.div_ceil(chunk), |task| {
            for tile in task * chunk..tiles.min((task + 1) * chunk) {
                let first = tile * width;
                let of = TileOf { tile, rows: width.min(rows - first), x: &x[first * stride..], stride };
                parts.set(path, of);
            }
        });
    }
}

/// The rows of a tile: `rows` of them, each `stride` numbers after the one before.
#[derive(Clone, Copy)]
pub(super) struct TileOf<'a> {
    pub(super) tile: usize,
    pub(super) rows: usize,
    pub(super) x: &'a [f32],
    pub(super) stride: usize,
}

/// The buffers of rows, open to writers of different tiles.
#[derive(Clone, Copy)]
pub(super) struct Parts {
    kind: RowKind,
    pub(super) k: usize,
    pub(super) width: usize,
    pub(super) ints: *mut i8,
    pub(super) scale: *mut f32,
    pub(super) scaled_sum: *mut f32,
    pub(super) start: [*mut i32; 3],
    pub(super) half_sum: [*mut i32; 2],
    pub(super) floats: *mut f32,
}

// SAFETY: writers of different tiles write different elements, and `PackedRows` sets each tile once.
unsafe impl Sync for Parts {}

impl Parts {
    fn new(rows: &mut PackedRows) -> Parts {
        let tiles = rows.tiles().checked_mul(rows.width).and_then(|columns| columns.checked_mul(rows.k));
        let room = rows.ints.len().max(rows.floats.len());
        assert!(tiles.is_some_and(|tiles| tiles <= room), "tiles leave the buffers");
        let [a, b, c] = &mut rows.start;
        let [first, second] = &mut rows.half_sum;
        Parts {
            kind: rows.kind,
            k: rows.k,
            width: rows.width,
            ints: rows.ints.as_mut_ptr(),
            scale: rows.scale.as_mut_ptr(),
            scaled_sum: rows.scaled_sum.as_mut_ptr(),
            start: [a.as_mut_ptr(), b.as_mut_ptr(), c.as_mut_ptr()],
            half_sum: [first.as_mut_ptr(), second.as_mut_ptr()],
            floats: rows.floats.as_mut_ptr(),
        }
    }

    /// Rounds a tile, SIDE blocks at a time in the order in which it keeps them. `round` gets the place of the first, where the
    /// numbers of each lie, and how many of them count.
    ///
    /// # Safety
    /// The tile must be one of these, whose form must be integers, with its rows inside of `of.x`; nobody else may use it
    /// meanwhile. The processor must have what `round` asks for, which must need no more than blocks that can be read and places
    /// that can be written.
    #[cfg(target_arch = "x86_64")]
    unsafe fn sides<const SIDE: usize>(&self, of: TileOf, round: unsafe fn(&Parts, usize, &[*const f32; SIDE], usize)) {
        let places = self.k / BLOCK * self.width;
        let begin = of.tile * places;
        let (mut block, mut column) = (0, 0);
        for done in (0..places).step_by(SIDE) {
            let n = SIDE.min(places - done);
            let mut sources = [of.x.as_ptr(); SIDE];
            for source in &mut sources[..n] {
                // Columns past the last row hold anything: here what the first row has.
                let row = if column < of.rows { column } else { 0 };
                *source = of.x[row * of.stride + block * BLOCK..][..BLOCK].as_ptr();
                column += 1;
                if column == self.width {
                    (block, column) = (block + 1, 0);
                }
            }
            // SAFETY: each source is a block (those past the n-th are the first of the first row); the places are the tile's.
            unsafe { round(self, begin + done, &sources, n) }
        }
    }

    /// Writes a tile; its rows lie in `of.x`, whose length the callers checked.
    fn set(self, path: Path, of: TileOf) {
        #[cfg(target_arch = "x86_64")]
        if path >= Path::Avx512 && path.supported() {
            // SAFETY: the processor has the features; the tile is one of these, in this form, and this task's alone.
            unsafe {
                match self.kind {
                    RowKind::Int8 if cpu::has_vnni() => return self.sides(of, super::rows_avx512::round),
                    RowKind::F32 if self.width > 1 => return super::rows_avx512::floats(&self, of),
                    _ => {}
                }
            }
        }
        #[cfg(target_arch = "x86_64")]
        if path >= Path::Avx2 && path.supported() {
            // SAFETY: as above.
            unsafe {
                match self.kind {
                    RowKind::Int8 => return self.sides(of, super::rows_avx2::round),
                    RowKind::F32 if self.width > 1 => return super::rows_avx2::floats(&self, of),
                    RowKind::F32 => {}
                }
            }
        }
        dispatch(path, SetTile { to: self, of });
    }
}

/// Writes a tile, number by number.
struct SetTile<'a> {
    to: Parts,
    of: TileOf<'a>,
}

impl Kernel for SetTile<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let SetTile { to, of } = self;
        for column in 0..of.rows {
            let x = &of.x[column * of.stride..][..to.k];
            if to.kind == RowKind::F32 {
                let at = of.tile * to.k * to.width + column;
                if to.width == 1 {
                    // SAFETY: this row's `k` numbers, inside the buffer as the tile is.
                    unsafe { std::slice::from_raw_parts_mut(to.floats.add(at), to.k) }.copy_from_slice(x);
                    continue;
                }
                for (i, &v) in x.iter().enumerate() {
                    // SAFETY: as above, `width` apart.
                    unsafe { *to.floats.add(at + i * to.width) = v }
                }
                continue;
            }
            for (i, x) in x.chunks_exact(BLOCK).enumerate() {
                let mut q = [0i8; BLOCK];
                let (scale, halves) = block(x, &mut q);
                let sum = halves[0] + halves[1];
                let at = (of.tile * (to.k / BLOCK) + i) * to.width + column;
                // SAFETY: `at` is the place of this block of this row, inside the buffers as the tile is.
                unsafe {
                    to.ints.add(at * BLOCK).cast::<[i8; BLOCK]>().write(q);
                    *to.scale.add(at) = scale;
                    *to.scaled_sum.add(at) = scale * sum as f32;
                    for (start, zero) in to.start.iter().zip(ZEROS) {
                        *start.add(at) = -zero * sum;
                    }
                    for (half_sum, half) in to.half_sum.iter().zip(halves) {
                        *half_sum.add(at) = half;
                    }
                }
            }
        }
    }
}

/// Rounds 32 numbers to integers of at most 127 in size. Returns the value of 1 (NaN where one is not finite) and the sums of the halves.
#[inline(always)]
fn block(x: &[f32], q: &mut [i8; BLOCK]) -> (f32, [i32; 2]) {
    let x: &[f32; BLOCK] = x.try_into().expect("a whole block");
    // Bits of floats without their sign are ordered as integers, with NaN on top: it is not lost.
    let mut top = 0u32;
    for v in x {
        top = top.max(v.to_bits() & 0x7fff_ffff);
    }
    if top >= f32::INFINITY.to_bits() {
        *q = [0; BLOCK];
        return (f32::NAN, [0; 2]);
    }
    let scale = f32::from_bits(top) / 127.0;
    // Below the normal numbers the inverse would overflow.
    let (scale, inverse) = if scale < f32::MIN_POSITIVE { (0.0, 0.0) } else { (scale, 1.0 / scale) };
    let mut halves = [0i32; 2];
    for h in 0..2 {
        for j in 0..BLOCK / 2 {
            // Adding 1.5·2²³ leaves the nearest integer in the low bits, ties to even.
            let shifted = x[h * 16 + j] * inverse + 12_582_912.0;
            let v = shifted.to_bits() as i32 - 0x4b40_0000;
            q[h * 16 + j] = v as i8;
            halves[h] += v as i8 as i32;
        }
    }
    (scale, halves)
}
