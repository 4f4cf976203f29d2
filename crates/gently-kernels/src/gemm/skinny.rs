//! Products with few rows, as in decoding: y = x·Wᵀ for one to eight x.
//!
//! Packing W would cost more than the product, so each weight row is read once, in place, along K, and
//! multiplied with all rows of x. Here: the case of f32 operands that are contiguous along K. Not here:
//! all others, which [`super::blocked`] serves.

// Loops over register arrays are by index: they unroll, iterators over parts of them may not.
#![allow(clippy::needless_range_loop)]

use super::blocked::isa;
use super::micro::Finish;
use super::{Compute, Epilogue, Mat, Operand};
use crate::cpu::Path;
use crate::pool;
use crate::scratch::Scratch;
use crate::simd::{Kernel, Simd, dispatch};
use crate::thread_buffer::{self, Slot};

/// Most rows of A.
const ROWS: usize = 8;
/// Weights in a task: some tens of microseconds of reading.
const TASK_WORDS: usize = 1 << 16;

/// Whether this path serves the product.
pub(super) fn serves(compute: Compute, a: &Mat, b: &Mat) -> bool {
    let f32 = |m: &Mat| matches!(m.data, Operand::F32(_));
    let contiguous = a.col_stride == 1 && b.row_stride == 1;
    compute == Compute::F32 && f32(a) && f32(b) && contiguous && a.rows <= ROWS && a.cols >= 16
}

/// Dot products of the rows of `a` with `cols` rows of `w`, written to `out`, one row for each of `a`.
struct Dots {
    a: *const f32,
    a_stride: usize,
    w: *const f32,
    w_stride: usize,
    out: *mut f32,
    rows: usize,
    cols: usize,
    k: usize,
}

impl Kernel for Dots {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        // SAFETY: `run` below makes Dots only with extents inside the checked operands.
        unsafe {
            match self.rows {
                1 => self.sweep::<S, 1, 8>(s),
                2 => self.sweep::<S, 2, 4>(s),
                3 => self.sweep::<S, 3, 4>(s),
                4 => self.sweep::<S, 4, 4>(s),
                5 => self.sweep::<S, 5, 2>(s),
                6 => self.sweep::<S, 6, 2>(s),
                7 => self.sweep::<S, 7, 2>(s),
                _ => self.sweep::<S, 8, 2>(s),
            }
        }
    }
}

impl Dots {
    #[inline(always)]
    unsafe fn sweep<S: Simd, const M: usize, const N: usize>(&self, s: S) {
        let mut j = 0;
        // SAFETY: columns j .. j + N (or j alone) are inside.
        unsafe {
            while j + N <= self.cols {
                self.tile::<S, M, N>(s, j);
                j += N;
            }
            while j < self.cols {
                self.tile::<S, M, 1>(s, j);
                j += 1;
            }
        }
    }

    #[inline(always)]
    unsafe fn tile<S: Simd, const M: usize, const N: usize>(&self, s: S, j: usize) {
        let mut acc = [[s.splat(0.0); N]; M];
        let mut p = 0;
        // SAFETY: p + n ≤ k, rows below M and columns below j + N are inside the operands.
        unsafe {
            while p < self.k {
                let n = S::LANES.min(self.k - p);
                let whole = n == S::LANES;
                let mut x = [s.splat(0.0); M];
                for i in 0..M {
                    let at = self.a.add(i * self.a_stride + p);
                    x[i] = if whole { s.load_ptr(at) } else { s.load_n(at, n) };
                }
                for v in 0..N {
                    let at = self.w.add((j + v) * self.w_stride + p);
                    let w = if whole { s.load_ptr(at) } else { s.load_n(at, n) };
                    for i in 0..M {
                        acc[i][v] = s.fma(x[i], w, acc[i][v]);
                    }
                }
                p += n;
            }
            for i in 0..M {
                for v in 0..N {
                    *self.out.add(i * self.cols + j + v) = s.sum(acc[i][v]);
                }
            }
        }
    }
}

/// Columns of C in a task: a multiple of every tile width, so that tiles do not depend on where tasks begin.
fn task_columns(k: usize) -> usize {
    (TASK_WORDS / k).max(8).next_multiple_of(8)
}

/// What [`run`] takes beside its operands.
pub(super) fn scratch_bytes(a: &Mat, b: &Mat) -> Scratch {
    let words = a.rows * task_columns(a.cols).min(b.cols);
    Scratch { packing: thread_buffer::bytes(Slot::Task, words), ..Scratch::default() }
}

/// What the tasks share.
struct Job {
    c: *mut f32,
    pre: *mut f32,
    /// The residual, or C itself where the product is added to it; null where there is neither.
    added: *const f32,
}

// SAFETY: tasks read the operands and write disjoint columns of C and `pre`.
unsafe impl Sync for Job {}

/// Runs a product that [`serves`] accepts.
///
/// # Safety
/// As for [`super::blocked::run`].
pub(super) unsafe fn run(path: Path, a: &Mat, b: &Mat, c: *mut f32, ldc: usize, ep: Epilogue) {
    let (Operand::F32(x), Operand::F32(w)) = (a.data, b.data) else {
        unreachable!("a skinny product has f32 operands")
    };
    let (m, n, k) = (a.rows, b.cols, a.cols);
    let (isa, _) = isa(path, Compute::F32);
    let job = Job {
        c,
        pre: ep.pre_activation.map_or(std::ptr::null_mut(), |x| x.as_mut_ptr()),
        added: match ep.accumulate {
            true => c.cast_const(),
            false => ep.residual.map_or(std::ptr::null(), |x| x.as_ptr()),
        },
    };
    let job = &job;
    let width = task_columns(k);
    pool::parallel(n.div_ceil(width), |task| {
        let j = task * width;
        let cols = width.min(n - j);
        thread_buffer::with(Slot::Task, m * cols, |out| {
            let out: *mut f32 = out.as_mut_ptr().cast();
            let dots = Dots {
                a: x.as_ptr(),
                a_stride: a.row_stride,
                w: w[j * b.col_stride..].as_ptr(),
                w_stride: b.col_stride,
                out,
                rows: m,
                cols,
                k,
            };
            dispatch(path, dots);
            // SAFETY: columns j .. j + cols of C and its companions are inside, by the caller's promise,
            // and belong to this task; `out` has m × cols numbers, written above.
            unsafe {
                for i in 0..m {
                    for v in 0..cols {
                        let bias = ep.bias.map_or(0.0, |bias| bias[j + v]);
                        let x = out.add(i * cols + v);
                        *x = ep.alpha * *x + bias;
                    }
                }
                (isa.finish)(&Finish {
                    tile: out,
                    ld_tile: cols,
                    c: job.c.add(j),
                    pre: if job.pre.is_null() { job.pre } else { job.pre.add(j) },
                    added: match job.added.is_null() {
                        true => job.added,
                        false => job.added.add(j),
                    },
                    ldc,
                    activation: ep.activation,
                    rows: m,
                    cols,
                });
            }
        });
    });
}
