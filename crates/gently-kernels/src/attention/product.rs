//! Small matrix products on tiles in cache: all five of attention are one function.
//!
//! Here: `C[m, n] (+)= A[m, k] · B[k, n]` where a tile's rows or depth may be limited row by row, so that a
//! causal triangle costs little more than its half. Not here: packing (see `panel`), large products
//! (see [`crate::gemm`]).
//!
//! A is read element by element (broadcast), B and C by vectors. The sum over k runs in ascending order
//! for each element of C whatever the blocking, so its bits do not depend on the other rows.

use super::vector::{Job, Vector};

/// Keys of a tile, most queries of a block, and the row stride of everything that is read as A.
pub(super) const TILE: usize = 64;

/// Vectors of B that one register block spans at most.
#[inline(always)]
fn max_vectors<S: Vector>() -> usize {
    if S::REGISTERS >= 32 { 4 } else { 2 }
}

/// Rows of a register block of `nv` vectors, so that accumulators, B and one element of A fit.
#[inline(always)]
fn max_rows<S: Vector>(nv: usize) -> usize {
    if S::REGISTERS >= 32 {
        match nv {
            4 => 6,
            3 => 8,
            _ => 12,
        }
    } else {
        match nv {
            2 => 6,
            _ => 8,
        }
    }
}

/// What part of a block of rows must be computed.
#[derive(Clone, Copy)]
pub(super) struct Span {
    /// Depths `k.0 .. k.1`.
    pub k: (usize, usize),
    /// Columns `n.0 .. n.1`, widened to whole vectors.
    pub n: (usize, usize),
}

/// The operands of one product; `TRANSPOSED` A holds element (i, p) at `a[p·TILE + i]`, else at `a[i·TILE + p]`.
#[derive(Clone, Copy)]
pub(super) struct Product<const TRANSPOSED: bool> {
    pub a: *const f32,
    pub b: *const f32,
    pub ldb: usize,
    pub c: *mut f32,
    pub ldc: usize,
    /// Add to C instead of overwriting it.
    pub accumulate: bool,
}

impl<const T: bool> Product<T> {
    /// Computes `m` rows and columns `0..n`, in blocks of rows; `span(first, end)` limits each block.
    /// A block whose span is empty is left alone.
    ///
    /// # Safety
    /// For all the rows, depths and columns asked for, columns rounded up to whole vectors, the operands
    /// must be valid, and C must not overlap them.
    #[inline(always)]
    pub unsafe fn run<S: Vector>(self, s: S, m: usize, n: usize, span: impl Fn(usize, usize) -> Span) {
        let vectors = n.div_ceil(S::LANES);
        let parts = vectors.div_ceil(max_vectors::<S>());
        let mut v0 = 0;
        for part in 0..parts {
            let v1 = v0 + (vectors - v0).div_ceil(parts - part);
            let rows = max_rows::<S>(v1 - v0);
            let mut r0 = 0;
            while r0 < m {
                let r1 = m.min(r0 + rows);
                let Span { k, n } = span(r0, r1);
                let (from, to) = (v0.max(n.0 / S::LANES), v1.min(n.1.div_ceil(S::LANES)));
                if from < to && k.0 < k.1 {
                    // SAFETY: the caller's promise.
                    unsafe { s.job(Rows { product: self, rows: (r0, r1), k, vector: from, vectors: to - from }) };
                }
                r0 = r1;
            }
            v0 = v1;
        }
    }
}

/// Rows `rows.0 .. rows.1` of a product, depths `k.0 .. k.1`, and `vectors` vectors of columns from `vector` on.
struct Rows<const TRANSPOSED: bool> {
    product: Product<TRANSPOSED>,
    rows: (usize, usize),
    k: (usize, usize),
    vector: usize,
    vectors: usize,
}

impl<const T: bool> Job for Rows<T> {
    #[inline(always)]
    unsafe fn run<S: Vector>(self, s: S) {
        let Rows { product, rows: (mut r0, r1), k, vector, vectors } = self;
        let column = vector * S::LANES;
        while r0 < r1 {
            // SAFETY: the caller's promise; pointers stay inside the operands.
            unsafe {
                let depth = k.1 - k.0;
                let a = if T { product.a.add(k.0 * TILE + r0) } else { product.a.add(r0 * TILE + k.0) };
                let b = product.b.add(k.0 * product.ldb + column);
                let c = product.c.add(r0 * product.ldc + column);
                macro_rules! call {
                    ($mr:literal, $nv:literal) => {{
                        let Product { ldb, ldc, accumulate, .. } = product;
                        s.job(Block::<T, $mr, $nv> { depth, a, b, ldb, c, ldc, accumulate });
                        r0 += $mr;
                    }};
                }
                let left = r1 - r0;
                if S::REGISTERS >= 32 {
                    match (left, vectors) {
                        (12.., 1) => call!(12, 1),
                        (12.., 2) => call!(12, 2),
                        (8.., 1) => call!(8, 1),
                        (8.., 2) => call!(8, 2),
                        (8.., 3) => call!(8, 3),
                        (6.., 1) => call!(6, 1),
                        (6.., 2) => call!(6, 2),
                        (6.., 3) => call!(6, 3),
                        (6.., _) => call!(6, 4),
                        (4.., 1) => call!(4, 1),
                        (4.., 2) => call!(4, 2),
                        (4.., 3) => call!(4, 3),
                        (4.., _) => call!(4, 4),
                        (2.., 1) => call!(2, 1),
                        (2.., 2) => call!(2, 2),
                        (2.., 3) => call!(2, 3),
                        (2.., _) => call!(2, 4),
                        (_, 1) => call!(1, 1),
                        (_, 2) => call!(1, 2),
                        (_, 3) => call!(1, 3),
                        (_, _) => call!(1, 4),
                    }
                } else {
                    match (left, vectors) {
                        (8.., 1) => call!(8, 1),
                        (6.., 1) => call!(6, 1),
                        (6.., _) => call!(6, 2),
                        (4.., 1) => call!(4, 1),
                        (4.., _) => call!(4, 2),
                        (2.., 1) => call!(2, 1),
                        (2.., _) => call!(2, 2),
                        (_, 1) => call!(1, 1),
                        (_, _) => call!(1, 2),
                    }
                }
            }
        }
    }
}

/// A register block of `MR` rows by `NV` vectors: its operands at its first row, depth and column.
struct Block<const TRANSPOSED: bool, const MR: usize, const NV: usize> {
    depth: usize,
    a: *const f32,
    b: *const f32,
    ldb: usize,
    c: *mut f32,
    ldc: usize,
    accumulate: bool,
}

impl<const T: bool, const MR: usize, const NV: usize> Job for Block<T, MR, NV> {
    #[inline(always)]
    unsafe fn run<S: Vector>(self, s: S) {
        let Block { depth, a, b, ldb, c, ldc, accumulate } = self;
        // SAFETY: the caller's promise.
        unsafe {
            let mut sum = [[s.splat(0.0); NV]; MR];
            if accumulate {
                for (i, row) in sum.iter_mut().enumerate() {
                    for (j, x) in row.iter_mut().enumerate() {
                        *x = s.load_ptr(c.add(i * ldc + j * S::LANES));
                    }
                }
            }
            let (mut pa, mut pb) = (a, b);
            for _ in 0..depth {
                let mut bv = [s.splat(0.0); NV];
                for (j, y) in bv.iter_mut().enumerate() {
                    *y = s.load_ptr(pb.add(j * S::LANES));
                }
                for (i, row) in sum.iter_mut().enumerate() {
                    let x = s.splat(*pa.add(if T { i } else { i * TILE }));
                    for (t, &y) in row.iter_mut().zip(&bv) {
                        *t = s.fma(x, y, *t);
                    }
                }
                // After the last depth both may lie past the operand's end, where nothing is read.
                pa = pa.wrapping_add(if T { TILE } else { 1 });
                pb = pb.wrapping_add(ldb);
            }
            for (i, row) in sum.iter().enumerate() {
                for (j, &x) in row.iter().enumerate() {
                    s.store_ptr(c.add(i * ldc + j * S::LANES), x);
                }
            }
        }
    }
}
