//! Packing buffers that each thread keeps, so that a product allocates nothing after the first.

use crate::buffer::AlignedBuf;
use std::cell::Cell;

/// What a buffer is for; a thread has one for each.
#[derive(Clone, Copy)]
pub(crate) enum Slot {
    /// Panels of A, packed and read by one thread.
    A,
    /// Panels of B, packed by all and kept by the thread that asked for the product.
    B,
}

/// Buffers start at 4 MiB, so that they lie in huge pages; untouched parts cost nothing.
const LEAST: usize = 1 << 20;

thread_local! {
    static SLOTS: [Cell<Option<AlignedBuf<u32>>>; 2] = const { [Cell::new(None), Cell::new(None)] };
}

/// Words of a buffer that is to hold `words`.
fn capacity(words: usize) -> usize {
    words.max(LEAST).next_multiple_of(4096)
}

/// Bytes of main memory that a slot takes for `words` words.
pub(super) fn bytes(words: usize) -> usize {
    AlignedBuf::<u32>::resident(capacity(words), words)
}

/// Lends a buffer of at least `words` words, contents unspecified. A call inside another for the same
/// slot gets a buffer of its own.
///
/// The sizes are bounded by the cuts of a product, some megabytes, whatever its shape: like a thread's stack they are
/// not worth an error of their own.
pub(crate) fn with<R>(slot: Slot, words: usize, f: impl FnOnce(&mut [u32]) -> R) -> R {
    let kept = SLOTS.with(|s| s[slot as usize].take());
    let mut buf = match kept {
        Some(buf) if buf.len() >= words => buf,
        _ => AlignedBuf::zeroed(capacity(words)),
    };
    let out = f(&mut buf[..words]);
    SLOTS.with(|s| s[slot as usize].set(Some(buf)));
    out
}
