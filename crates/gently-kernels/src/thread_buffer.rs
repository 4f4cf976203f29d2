//! Buffers that each thread keeps, so that kernels allocate nothing after their first calls.
//!
//! Here: [`try_with`] and [`with`], which lend a thread's buffer of a [`Slot`] for the time of a closure, and what a buffer
//! takes of main memory ([`bytes`]). Not here: how much a call needs, which its kernel says (see [`crate::scratch`]).

use crate::buffer::{AlignedBuf, OutOfMemory};
use std::cell::Cell;

/// What a buffer is for; a thread has one for each, since a task of the one may run while another is lent.
#[derive(Clone, Copy)]
pub(crate) enum Slot {
    /// What one task of a loop packs, unpacks or sums up for itself: panels of A, products with few rows, quantized weights
    /// unpacked, sums of attention over a cache.
    Task,
    /// Panels of B, packed by all threads and kept by the one that asked for the product.
    Shared,
    /// Tiles of attention, as many as its sequences are long.
    Attention,
    /// What a whole call needs, held by the thread that asked for it: a chunk of logits, parts of a gradient that are added
    /// up, the matrices of an orthogonalisation.
    Call,
}

/// Buffers of products start at 4 MiB, so that they lie in huge pages; untouched parts cost nothing.
const LEAST: usize = 1 << 20;

thread_local! {
    static SLOTS: [Cell<Option<AlignedBuf<u32>>>; 4] = const { [const { Cell::new(None) }; 4] };
}

/// Words of a buffer that is to hold `words`: of attention and of calls no more, which may be many.
fn capacity(slot: Slot, words: usize) -> usize {
    match slot {
        Slot::Task | Slot::Shared => words.max(LEAST).checked_next_multiple_of(4096).unwrap_or(words),
        Slot::Attention | Slot::Call => words,
    }
}

/// Bytes of main memory that a buffer takes when `words` words of it are used.
pub(crate) fn bytes(slot: Slot, words: usize) -> usize {
    AlignedBuf::<u32>::resident(capacity(slot, words), words)
}

/// Lends a buffer of `words` words, on a cache line, with whatever was left there. A call inside another for the same slot
/// gets a buffer of its own.
///
/// # Errors
/// The thread's buffer is too small and the system has no memory for a larger one; `f` is then not called.
pub(crate) fn try_with<R>(slot: Slot, words: usize, f: impl FnOnce(&mut [u32]) -> R) -> Result<R, OutOfMemory> {
    let mut kept = SLOTS.with(|s| s[slot as usize].take());
    if kept.as_ref().is_some_and(|buf| buf.len() < words) {
        // It goes before the larger one comes, so that both are never held.
        kept = None;
    }
    let mut buf = match kept {
        Some(buf) => buf,
        None => AlignedBuf::try_zeroed(capacity(slot, words))?,
    };
    let out = f(&mut buf[..words]);
    SLOTS.with(|s| s[slot as usize].set(Some(buf)));
    Ok(out)
}

/// Where this thread's buffer of a slot lies and how many words it has; `None` before the first call.
#[cfg(test)]
pub(crate) fn kept(slot: Slot) -> Option<(usize, usize)> {
    let buf = SLOTS.with(|s| s[slot as usize].take());
    let place = buf.as_ref().map(|buf| (buf.as_ptr() as usize, buf.len()));
    SLOTS.with(|s| s[slot as usize].set(buf));
    place
}

/// [`try_with`] for what the cut of the work bounds. Of products these are some megabytes whatever their shape, of attention
/// over a cache a few rows of its model's heads: like a thread's stack they are not worth an error of their own.
///
/// # Panics
/// When there is no memory.
pub(crate) fn with<R>(slot: Slot, words: usize, f: impl FnOnce(&mut [u32]) -> R) -> R {
    try_with(slot, words, f).unwrap_or_else(|e| panic!("{e}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_grows_stays_and_is_lent_once() {
        let place = |slot, words| with(slot, words, |buf| (buf.as_ptr() as usize, buf.len()));
        for slot in [Slot::Task, Slot::Shared, Slot::Attention, Slot::Call] {
            let (first, len) = place(slot, 100);
            assert_eq!((first % 64, len), (0, 100));
            assert_eq!(place(slot, 7), (first, 7), "the same buffer");
            with(slot, 10, |outer| {
                outer.fill(1);
                with(slot, 10, |inner| inner.fill(2));
                assert_eq!(outer, [1; 10], "a call inside has a buffer of its own");
            });
            assert_eq!(place(slot, 3 << 20).1, 3 << 20);
        }
    }

    #[test]
    fn memory_that_is_refused_is_an_error_and_the_next_call_is_served() {
        for slot in [Slot::Task, Slot::Shared, Slot::Attention, Slot::Call] {
            for words in [1 << 46, usize::MAX] {
                let refused = try_with(slot, words, |buf| buf.len()).unwrap_err();
                assert!(refused.bytes >= 1 << 48, "{refused}");
            }
            assert_eq!(try_with(slot, 9, |buf| buf.len()), Ok(9));
        }
    }

    #[test]
    fn attention_takes_what_it_asks_for_and_products_whole_pages() {
        assert_eq!([Slot::Attention, Slot::Call].map(|slot| capacity(slot, 1_000_001)), [1_000_001; 2]);
        assert_eq!(capacity(Slot::Task, 1), LEAST);
        assert_eq!(capacity(Slot::Shared, LEAST + 1), LEAST + 4096);
        assert_eq!(bytes(Slot::Task, 1), AlignedBuf::<u32>::resident(LEAST, 1));
    }
}
