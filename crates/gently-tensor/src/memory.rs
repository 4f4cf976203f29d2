//! The recycling pool that every tensor's buffer comes from, and its accounts.
//!
//! A buffer that dies goes to a free list of its size class and serves the next request of that class, so a
//! training step that repeats itself allocates nothing after its first run. Size classes step by 1/16 of a power
//! of two (at most 6 % larger than asked). Where a class has none, one that is up to half as large again serves: gradients
//! take the place of activations that are done with. There is one pool for each device: [`Device::Cpu`]'s holds bytes,
//! [`Device::Meta`]'s only counts them, by the same rules. Kernels' own scratch is not in these
//! accounts; on [`Device::Meta`] it has one of its own, [`scratch`].
//!
//! ```
//! use gently_tensor::{memory, Device, DType, Tensor};
//! memory::reset(Device::Meta);
//! let x = Tensor::zeros([1024, 1024], DType::F32, &Device::Meta)?;
//! assert_eq!(memory::stats(Device::Meta).live, 4 << 20);
//! drop(x);
//! assert_eq!(memory::stats(Device::Meta).live, 0);
//! assert_eq!(memory::current(Device::Meta), 4 << 20); // kept for the next tensor of its size
//! # Ok::<(), gently_tensor::Error>(())
//! ```

use crate::Device;
use gently_kernels::buffer::AlignedBuf;
use gently_kernels::scratch::Scratch;
use std::cell::Cell;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A pool's accounts, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    /// Held by living tensors, after rounding to size classes.
    pub live: usize,
    /// Held at all: by living tensors, some in blocks larger than their class, and on the free lists.
    pub held: usize,
    /// The largest `live` since [`reset_peak`].
    pub peak_live: usize,
    /// The largest `held` since [`reset_peak`].
    pub peak_held: usize,
    /// Requests that the free lists could not serve, since the start.
    pub misses: u64,
}

/// Bytes held for `device` now: living tensors and free lists.
pub fn current(device: Device) -> usize {
    stats(device).held
}

/// The largest [`current`] since the start or the last [`reset_peak`].
pub fn peak(device: Device) -> usize {
    stats(device).peak_held
}

/// All accounts of `device`'s pool.
pub fn stats(device: Device) -> Stats {
    pool(device).stats
}

/// Starts the peaks again from the present values.
pub fn reset_peak(device: Device) {
    let mut pool = pool(device);
    pool.stats.peak_live = pool.stats.live;
    pool.stats.peak_held = pool.stats.held;
}

/// Gives the free lists' buffers back to the system and starts the peaks again, on `Device::Meta` that of kernels'
/// scratch too. Living tensors keep their buffers.
pub fn reset(device: Device) {
    if device == Device::Meta {
        *scratch_account() = Scratch::default();
    }
    let freed = pool(device).drain();
    drop(freed);
    reset_peak(device);
}

/// What kernels would have taken beside their operands for the tensors of `Device::Meta` since the start or the last
/// [`reset`] of it: enough for the most demanding call of each kind. On other devices it is not counted.
pub fn scratch() -> Scratch {
    *scratch_account()
}

/// Enters a call of a kernel on `Device::Meta`.
pub(crate) fn note_scratch(call: Scratch) {
    let mut account = scratch_account();
    *account = account.or(call);
}

thread_local! {
    static UNCOUNTED: Cell<bool> = const { Cell::new(false) };
}

/// Runs `f`, whose tensors of [`Device::Meta`] enter no account: for shapes that are looked at while another thread may be counting
/// what a run will take.
pub fn uncounted<R>(f: impl FnOnce() -> R) -> R {
    struct Restore(bool);
    impl Drop for Restore {
        fn drop(&mut self) {
            UNCOUNTED.set(self.0);
        }
    }
    let _restore = Restore(UNCOUNTED.replace(true));
    f()
}

static SCRATCH: Mutex<Scratch> = Mutex::new(Scratch { asking: 0, packing: 0, attention: 0, call: 0 });

fn scratch_account() -> MutexGuard<'static, Scratch> {
    SCRATCH.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The bytes that a tensor of `bytes` bytes takes from the pool.
pub fn rounded(bytes: usize) -> usize {
    class_of(bytes).1
}

/// A block of memory, or the account of one.
#[derive(Debug)]
pub(crate) enum Block {
    Bytes(AlignedBuf<u8>),
    Counted {
        size: usize,
    },
    /// Nothing, not even an account: made within [`uncounted`].
    Uncounted,
}

impl Block {
    /// Bytes, those of its class.
    fn size(&self) -> usize {
        match self {
            Block::Bytes(buf) => buf.len(),
            Block::Counted { size } => *size,
            Block::Uncounted => 0,
        }
    }
}

/// What the pool has for a request.
enum Taken {
    /// A block from the free lists.
    Free(Block),
    /// Nothing; the caller allocates, after letting go what trimming took from the free lists.
    Miss { dropped: Vec<Block> },
    /// More than any machine has.
    Refused,
}

#[derive(Default)]
struct Pool {
    free: Vec<Vec<Block>>,
    stats: Stats,
    /// Never reset: the base of the trimming rule, which must not depend on who looks at the accounts.
    high_water: usize,
}

static CPU: Mutex<Pool> = Mutex::new(Pool::new());
static META: Mutex<Pool> = Mutex::new(Pool::new());

fn pool(device: Device) -> MutexGuard<'static, Pool> {
    match device {
        Device::Cpu => &CPU,
        Device::Meta => &META,
    }
    .lock()
    .unwrap_or_else(PoisonError::into_inner)
}

/// The class number and the rounded size: multiples of 64 up to 1024, then 16 steps for each doubling.
fn class_of(bytes: usize) -> (usize, usize) {
    if bytes <= 1024 {
        let n = bytes.div_ceil(64);
        return (n, n * 64);
    }
    let e = (bytes - 1).ilog2() as usize;
    let step = 1usize << (e - 4);
    let m = bytes.div_ceil(step);
    (16 + (e - 10) * 16 + (m - 16), m * step)
}

/// Classes above its own in which a request looks for a free block: up to half as large again. Small ones only in their own.
fn larger(class: usize) -> usize {
    if class <= 16 { 0 } else { 8 }
}

/// Free memory beyond this multiple of the largest live size is given back (plus [`TRIM_FLOOR`]).
const TRIM_FACTOR: usize = 3;
const TRIM_FLOOR: usize = 64 << 20;
/// More than any machine has.
const MOST: usize = isize::MAX as usize / 8;

impl Pool {
    const fn new() -> Pool {
        Pool {
            free: Vec::new(),
            stats: Stats { live: 0, held: 0, peak_live: 0, peak_held: 0, misses: 0 },
            high_water: 0,
        }
    }

    /// Accounts for a block of the class; returns a free one if there is one that serves, else what trimming let go.
    fn take(&mut self, class: usize, size: usize) -> Taken {
        let has_one = |class: &usize| self.free.get(*class).is_some_and(|free| !free.is_empty());
        let found = (class..=class + larger(class)).find(has_one);
        // More than can be addressed is in no machine; on Meta nobody else would notice.
        let Some(live) = self.stats.live.checked_add(size).filter(|&live| live <= MOST) else {
            return Taken::Refused;
        };
        self.stats.live = live;
        self.stats.peak_live = self.stats.peak_live.max(self.stats.live);
        self.high_water = self.high_water.max(self.stats.live);
        if let Some(block) = found.and_then(|class| self.free[class].pop()) {
            return Taken::Free(block);
        }
        let limit = TRIM_FACTOR * self.high_water + TRIM_FLOOR;
        let mut dropped = Vec::new();
        if self.stats.held + size > limit {
            // Sizes keep changing (texts of every length): let the largest unused classes go.
            for class in (0..self.free.len()).rev() {
                while self.stats.held + size > limit / 2 + self.stats.live / 2 {
                    let Some(block) = self.free[class].pop() else {
                        break;
                    };
                    self.stats.held -= size_of_class(class);
                    dropped.push(block);
                }
            }
        }
        self.stats.misses += 1;
        self.stats.held += size;
        self.stats.peak_held = self.stats.peak_held.max(self.stats.held);
        Taken::Miss { dropped }
    }

    /// Takes back the account of a block that the system refused.
    fn refused(&mut self, size: usize, before: Stats, high_water: usize) {
        self.stats.live -= size;
        self.stats.held -= size;
        self.stats.peak_live = before.peak_live.max(self.stats.live);
        self.stats.peak_held = before.peak_held.max(self.stats.held);
        self.stats.misses -= 1;
        self.high_water = high_water.max(self.stats.live);
    }

    /// Everything on the free lists, no longer held.
    fn drain(&mut self) -> Vec<Vec<Block>> {
        self.stats.held -= self.free.iter().flatten().map(Block::size).sum::<usize>();
        std::mem::take(&mut self.free)
    }

    /// Takes back a block that served a request of `bytes`.
    fn put(&mut self, bytes: usize, block: Block) {
        let (class, _) = class_of(block.size());
        if self.free.len() <= class {
            self.free.resize_with(class + 1, Vec::new);
        }
        self.free[class].push(block);
        self.stats.live -= class_of(bytes).1;
    }
}

fn size_of_class(class: usize) -> usize {
    if class <= 16 {
        return class * 64;
    }
    let (e, m) = ((class - 17) / 16 + 10, (class - 17) % 16 + 17);
    m << (e - 4)
}

/// Takes a block of at least `bytes` bytes; its content is unspecified unless `zeroed`. `None` where the system has no
/// memory for it even after all free lists have been given back.
pub(crate) fn take(device: Device, bytes: usize, zeroed: bool) -> Option<Block> {
    let (class, size) = class_of(bytes);
    if device == Device::Meta && UNCOUNTED.get() {
        return (size <= MOST).then_some(Block::Uncounted);
    }
    let (taken, before, high_water) = {
        let mut pool = pool(device);
        let (before, high_water) = (pool.stats, pool.high_water);
        (pool.take(class, size), before, high_water)
    };
    let dropped = match taken {
        Taken::Refused => return None,
        Taken::Free(Block::Bytes(mut buf)) => {
            if zeroed {
                buf[..bytes].fill(0);
            } else {
                poison(&mut buf);
            }
            return Some(Block::Bytes(buf));
        }
        Taken::Free(counted) => return Some(counted),
        Taken::Miss { dropped } => dropped,
    };
    drop(dropped);
    if device == Device::Meta {
        return Some(Block::Counted { size });
    }
    let fresh = AlignedBuf::try_zeroed(size).or_else(|_| {
        let freed = pool(device).drain();
        drop(freed);
        AlignedBuf::try_zeroed(size)
    });
    match fresh {
        Ok(mut buf) => {
            if !zeroed {
                poison(&mut buf);
            }
            Some(Block::Bytes(buf))
        }
        Err(_) => {
            pool(device).refused(size, before, high_water);
            None
        }
    }
}

/// In debug builds a buffer whose content is unspecified is filled with NaN, so that a kernel that leaves a hole shows.
fn poison(buf: &mut AlignedBuf<u8>) {
    if cfg!(debug_assertions) {
        buf.fill(0xFF);
    }
}

/// Returns a block taken for `bytes` bytes.
pub(crate) fn put(device: Device, bytes: usize, block: Block) {
    if !matches!(block, Block::Uncounted) {
        pool(device).put(bytes, block);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_cover_and_invert() {
        for bytes in (0..5000).chain((1..40).map(|e| (1usize << e) + 3)) {
            let (class, size) = class_of(bytes);
            assert!(size >= bytes && size <= bytes.max(60) * 17 / 16 + 64, "{bytes} -> {size}");
            assert_eq!(size_of_class(class), size, "class {class}");
            let next = class_of(size + 1);
            assert_eq!(next.0, class + 1, "no class is skipped after {size}");
        }
    }

    #[test]
    fn a_free_block_up_to_half_as_large_again_serves() {
        let mut pool = Pool::new();
        let take = |pool: &mut Pool, bytes: usize| {
            let (class, size) = class_of(bytes);
            match pool.take(class, size) {
                Taken::Free(block) => (block, false),
                Taken::Miss { .. } => (Block::Counted { size }, true),
                Taken::Refused => panic!("a few MiB"),
            }
        };
        let large = take(&mut pool, 12 << 20);
        pool.put(12 << 20, large.0);
        let (block, fresh) = take(&mut pool, 9 << 20);
        assert!(!fresh && block.size() == 12 << 20);
        assert_eq!((pool.stats.live, pool.stats.held), (9 << 20, 12 << 20));
        pool.put(9 << 20, block);
        let (small, fresh) = take(&mut pool, 7 << 20);
        assert!(fresh && small.size() == 7 << 20, "12 MiB are too much for 7");
        // It went back to its own class.
        let (block, fresh) = take(&mut pool, 12 << 20);
        assert!(!fresh && block.size() == 12 << 20);
        assert_eq!((pool.stats.live, pool.stats.held), (19 << 20, 19 << 20));
        pool.put(12 << 20, block);
        pool.put(7 << 20, small);
        assert_eq!(pool.stats.live, 0);
        let (own, _) = take(&mut pool, 7 << 20);
        assert_eq!(own.size(), 7 << 20, "its own class comes first");
    }
}
