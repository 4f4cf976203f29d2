//! What kernels take beside their operands, stated by the code that takes it.
//!
//! Here: [`Scratch`], the account of one call, which the kernels' own `…scratch` functions make from shapes alone, and
//! how such accounts add up over a program. Not here: the buffers (see `thread_buffer`).
//!
//! ```
//! use gently_kernels::gemm::{self, Compute, Mat};
//! let (a, b) = (Mat::f32(&[], 64, 100), Mat::f32(&[], 100, 32));
//! let product = gemm::scratch(Compute::F32, &a, &b); // shapes count, numbers do not
//! assert!(product.total(2) > 0);
//! ```

use crate::buffer::OutOfMemory;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Bytes of main memory that kernels touch beside their operands. The largest of many calls, [`Scratch::or`], is what a
/// program needs that makes them all, one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Scratch {
    /// Packed panels of B, kept by the thread that asks for products.
    pub asking: usize,
    /// Packed panels, kept by each thread that takes part in products.
    pub packing: usize,
    /// Tiles of attention, kept by each thread that takes part in it.
    pub attention: usize,
    /// What a whole call needs, kept by the thread that asks: one buffer, as large as its largest call.
    pub call: usize,
}

impl Scratch {
    /// Enough for either of two calls.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self {
            asking: self.asking.max(other.asking),
            packing: self.packing.max(other.packing),
            attention: self.attention.max(other.attention),
            call: self.call.max(other.call),
        }
    }

    /// Bytes in a program that computes with `threads` threads.
    pub fn total(self, threads: usize) -> usize {
        self.asking + threads * (self.packing + self.attention) + self.call
    }
}

/// Keeps the refusal that a task of a parallel loop met, for the caller of the loop.
#[derive(Default)]
pub(crate) struct Refusal(AtomicUsize);

impl Refusal {
    pub fn note(&self, result: Result<(), OutOfMemory>) {
        if let Err(refused) = result {
            self.0.fetch_max(refused.bytes, Ordering::Relaxed);
        }
    }

    pub fn into_result(self) -> Result<(), OutOfMemory> {
        match self.0.into_inner() {
            0 => Ok(()),
            bytes => Err(OutOfMemory { bytes }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_after_each_other_need_the_largest_and_threads_add_up() {
        let a = Scratch { asking: 10, packing: 1, attention: 0, call: 7 };
        let b = Scratch { asking: 3, packing: 2, attention: 5, call: 0 };
        assert_eq!(a.or(b), Scratch { asking: 10, packing: 2, attention: 5, call: 7 });
        assert_eq!(a.or(b).total(3), 10 + 3 * 7 + 7);
    }

    #[test]
    fn a_refusal_in_any_task_is_told() {
        let refusal = Refusal::default();
        refusal.note(Ok(()));
        refusal.note(Err(OutOfMemory { bytes: 9 }));
        refusal.note(Ok(()));
        assert_eq!(refusal.into_result(), Err(OutOfMemory { bytes: 9 }));
        assert_eq!(Refusal::default().into_result(), Ok(()));
    }
}
