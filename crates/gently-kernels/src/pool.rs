//! The thread pool: short parallel loops with a dispatch cost near a microsecond.
//!
//! Here: [`parallel`], loops over slices cut in chunks, loops in [`phases`](parallel_phases) with a
//! barrier between them, and [`Disjoint`] for kernels that write scattered parts of one slice. Not
//! here: any decision about how work is cut. Callers cut by shape alone, never by thread count, so
//! results have the same bits on any number of threads.
//!
//! One loop runs at a time. A loop started inside another, or while another thread's loop is running,
//! runs on its caller alone: the same results, no deadlock. Workers watch for work for some tens of
//! microseconds after each loop, then sleep. A late worker joins a running loop or misses it;
//! the caller never waits for a worker to wake up, only for tasks that were begun.
//!
//! ```
//! use gently_kernels::pool;
//! let mut squares = vec![0usize; 1000];
//! pool::parallel_chunks_mut(&mut squares, 64, |chunk, out| {
//!     for (i, s) in out.iter_mut().enumerate() {
//!         *s = (chunk * 64 + i).pow(2);
//!     }
//! });
//! assert_eq!(squares[31], 961);
//! ```

use std::any::Any;
use std::cell::Cell;
use std::hint::spin_loop;
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

/// How long an idle worker watches for the next loop before it sleeps.
const WATCH: Duration = Duration::from_micros(60);
/// The state word: a loop is open for workers to join.
const OPEN: u64 = 1 << 31;
/// The state word: the number of workers inside the loop. The epoch lies above bit 32.
const COUNT: u64 = OPEN - 1;

/// A cache line of its own, so that two hot words never share one.
#[repr(align(128))]
struct Line<T>(T);

struct Shared {
    /// epoch << 32 | OPEN | workers inside. One word, so joining a loop that has closed must fail.
    state: Line<AtomicU64>,
    /// The open loop. Written only while no worker is inside and the loop is closed.
    job: Line<Cell<Option<*const Loop<'static>>>>,
    /// Held by the thread whose loop is running.
    busy: AtomicBool,
    /// Threads that take part, the caller included.
    threads: AtomicUsize,
}

// SAFETY: `job` is written by the thread that holds `busy`, before it publishes OPEN (release), and
// read by workers after they joined through `state` (acquire); it is not written again before the
// loop is closed and the count of workers is back at zero.
unsafe impl Sync for Shared {}
// SAFETY: the raw pointer inside is used only under the protocol above.
unsafe impl Send for Shared {}

struct Worker {
    thread: Thread,
    asleep: Arc<AtomicBool>,
}

struct Pool {
    shared: Arc<Shared>,
    workers: Mutex<Vec<Worker>>,
    /// Number of workers, readable without the lock.
    spawned: AtomicUsize,
}

/// One parallel loop: tasks 0..total, cut in phases that end at `ends`.
struct Loop<'a> {
    body: &'a (dyn Fn(usize, usize) + Sync),
    ends: &'a [usize],
    claimed: Line<AtomicUsize>,
    finished: Line<AtomicUsize>,
    failed: AtomicBool,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

thread_local! {
    /// This thread is inside a loop; a further loop runs inline.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
    /// The number of threads of loops that this thread begins; 0 where that is the program's.
    static OWN: Cell<usize> = const { Cell::new(0) };
}

impl Loop<'_> {
    /// Claims and runs tasks until none is left.
    fn work(&self) {
        let total = *self.ends.last().expect("a loop has a phase");
        let mut phase = 0;
        let mut start = 0;
        loop {
            let task = self.claimed.0.fetch_add(1, Ordering::Relaxed);
            if task >= total {
                return;
            }
            while task >= self.ends[phase] {
                start = self.ends[phase];
                phase += 1;
            }
            // The barrier. Tasks are claimed in order, so all of the earlier phases have been claimed,
            // and each is run by a thread that is awake.
            if self.finished.0.load(Ordering::Acquire) < start {
                let mut spins = 0u32;
                while self.finished.0.load(Ordering::Acquire) < start {
                    relax(&mut spins);
                }
            }
            if !self.failed.load(Ordering::Relaxed) {
                let run = catch_unwind(AssertUnwindSafe(|| (self.body)(phase, task - start)));
                if let Err(payload) = run {
                    self.failed.store(true, Ordering::Relaxed);
                    let mut first = self.panic.lock().unwrap_or_else(|e| e.into_inner());
                    match first.is_none() {
                        true => *first = Some(payload),
                        // Its drop may panic too, and would leave a loop that others are still inside of.
                        false => std::mem::forget(payload),
                    }
                }
            }
            self.finished.0.fetch_add(1, Ordering::Release);
        }
    }
}

/// Waits a moment: first the processor's pause, then the operating system's yield, so that a waiting
/// thread does not starve the one it waits for when the machine is shared.
#[inline]
fn relax(spins: &mut u32) {
    *spins += 1;
    if *spins < 2000 {
        spin_loop();
    } else {
        thread::yield_now();
    }
}

fn pool() -> &'static Pool {
    static POOL: OnceLock<Pool> = OnceLock::new();
    POOL.get_or_init(|| {
        let n = thread::available_parallelism().map_or(1, |n| n.get());
        Pool {
            shared: Arc::new(Shared {
                state: Line(AtomicU64::new(0)),
                job: Line(Cell::new(None)),
                busy: AtomicBool::new(false),
                threads: AtomicUsize::new(n),
            }),
            workers: Mutex::new(Vec::new()),
            spawned: AtomicUsize::new(0),
        }
    })
}

/// Sets the number of threads that loops use, the calling thread included; 0 means one for each
/// processor this process may use. Results do not depend on it.
pub fn set_threads(n: usize) {
    let n = match n {
        0 => thread::available_parallelism().map_or(1, |n| n.get()),
        n => n.min(1024),
    };
    pool().shared.threads.store(n, Ordering::Relaxed);
}

/// The number of threads that loops of the calling thread use.
pub fn threads() -> usize {
    match OWN.get() {
        0 => pool().shared.threads.load(Ordering::Relaxed),
        own => own,
    }
}

/// Loops that the calling thread begins use `n` threads, until what is returned goes out of scope. Loops of other threads keep
/// to [`set_threads`]. 0 means the program's number.
pub fn use_threads(n: usize) -> OwnThreads {
    OwnThreads { before: OWN.replace(n.min(1024)), _of_this_thread: PhantomData }
}

/// The calling thread has a number of threads of its own: see [`use_threads`].
#[must_use = "it ends when this is dropped"]
pub struct OwnThreads {
    before: usize,
    _of_this_thread: PhantomData<*const ()>,
}

impl Drop for OwnThreads {
    fn drop(&mut self) {
        OWN.set(self.before);
    }
}

/// Runs `f(0) … f(tasks − 1)`, each once, on all threads, in no particular order. Returns when all are
/// done; what the tasks wrote is then visible.
///
/// # Panics
/// With the first panic of a task; remaining tasks may then not have been run.
pub fn parallel(tasks: usize, f: impl Fn(usize) + Sync) {
    if tasks == 1 {
        return f(0);
    }
    parallel_phases(&[tasks], |_, task| f(task));
}

/// Runs several loops with a barrier between them and one dispatch for all: `f(phase, task)` for each
/// `task < phases[phase]`. A task of a phase begins when all tasks of the earlier phases are done, and
/// sees what they wrote. With 1 thread the phases run in order on the caller.
///
/// # Panics
/// As [`parallel`].
pub fn parallel_phases(phases: &[usize], f: impl Fn(usize, usize) + Sync) {
    let total: usize = phases.iter().sum();
    if total == 0 {
        return;
    }
    let threads = threads();
    let inline = || {
        for (phase, &tasks) in phases.iter().enumerate() {
            for task in 0..tasks {
                f(phase, task);
            }
        }
    };
    if threads <= 1 || total == 1 || INSIDE.get() {
        return inline();
    }
    let pool = pool();
    if pool.shared.busy.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed).is_err() {
        return inline();
    }
    // Up to 32 phases need no allocation.
    let mut few = [0usize; 32];
    let mut many = Vec::new();
    let ends: &mut [usize] = if phases.len() <= few.len() {
        &mut few[..phases.len()]
    } else {
        many.resize(phases.len(), 0);
        &mut many
    };
    let mut sum = 0;
    for (end, &tasks) in ends.iter_mut().zip(phases) {
        sum += tasks;
        *end = sum;
    }
    let job = Loop {
        body: &f,
        ends,
        claimed: Line(AtomicUsize::new(0)),
        finished: Line(AtomicUsize::new(0)),
        failed: AtomicBool::new(false),
        panic: Mutex::new(None),
    };
    pool.run(&job, threads.min(total));
    pool.shared.busy.store(false, Ordering::Release);
    let payload = job.panic.into_inner().unwrap_or_else(|e| e.into_inner());
    if let Some(payload) = payload {
        resume_unwind(payload);
    }
}

impl Pool {
    /// Publishes a loop, takes part in it, and returns when no thread is inside it any more.
    fn run(&self, job: &Loop<'_>, threads: usize) {
        let shared = &*self.shared;
        if self.spawned.load(Ordering::Relaxed) + 1 < threads {
            self.spawn(threads - 1);
        }
        // SAFETY of the lifetime: workers use the pointer only between joining (state CAS while OPEN) and
        // leaving (count − 1), and this function closes the loop and waits for count 0 before it returns.
        let raw = std::ptr::from_ref(job).cast::<Loop<'static>>();
        shared.job.0.set(Some(raw));
        let epoch = (shared.state.0.load(Ordering::Relaxed) >> 32).wrapping_add(1);
        shared.state.0.store((epoch << 32) | OPEN, Ordering::Release);
        self.wake(threads - 1);
        INSIDE.set(true);
        job.work();
        INSIDE.set(false);
        // Close: no worker can join from here on. Then wait for those inside, who are in their last task.
        let mut state = shared.state.0.fetch_and(!OPEN, Ordering::AcqRel);
        let mut spins = 0;
        while state & COUNT != 0 {
            relax(&mut spins);
            state = shared.state.0.load(Ordering::Acquire);
        }
        shared.job.0.set(None);
    }

    /// Wakes those of the first `n` workers that sleep.
    fn wake(&self, n: usize) {
        // Pairs with the fence in `watch`: either the worker sees the new epoch before it sleeps, or
        // we see that it is asleep.
        fence(Ordering::SeqCst);
        // Uncontended: only the holder of `busy` and `spawn`, called by it, take this lock.
        let workers = self.workers.lock().unwrap_or_else(|e| e.into_inner());
        for w in workers.iter().take(n) {
            if w.asleep.load(Ordering::Relaxed) && w.asleep.swap(false, Ordering::Relaxed) {
                w.thread.unpark();
            }
        }
    }

    #[cold]
    fn spawn(&self, n: usize) {
        let mut workers = self.workers.lock().unwrap_or_else(|e| e.into_inner());
        while workers.len() < n {
            let index = workers.len();
            let shared = self.shared.clone();
            let asleep = Arc::new(AtomicBool::new(false));
            let flag = asleep.clone();
            let spawned = thread::Builder::new()
                .name(format!("gently-{}", index + 1))
                .spawn(move || worker(&shared, &flag, index));
            match spawned {
                Ok(handle) => workers.push(Worker { thread: handle.thread().clone(), asleep }),
                // No thread to be had: the loop is served by those there are.
                Err(_) => break,
            }
        }
        self.spawned.store(workers.len(), Ordering::Relaxed);
    }
}

/// The life of a worker: watch, join, work, leave.
fn worker(shared: &Shared, asleep: &AtomicBool, index: usize) {
    INSIDE.set(true);
    let mut seen = 0;
    loop {
        let state = watch(shared, asleep, index, seen);
        seen = state >> 32;
        let joined = shared
            .state
            .0
            .fetch_update(Ordering::AcqRel, Ordering::Relaxed, |s| (s >> 32 == seen && s & OPEN != 0).then(|| s + 1));
        if joined.is_err() {
            continue;
        }
        // SAFETY: joined while OPEN, so the pointer is the live loop of this epoch; its owner waits for
        // our leave below before the loop goes out of scope. The cell is not written meanwhile.
        if let Some(job) = shared.job.0.get() {
            unsafe { (*job).work() };
        }
        shared.state.0.fetch_sub(1, Ordering::Release);
    }
}

/// Waits for an open loop of an epoch other than `seen`; returns the state that showed it.
fn watch(shared: &Shared, asleep: &AtomicBool, index: usize, seen: u64) -> u64 {
    let fresh = || {
        let s = shared.state.0.load(Ordering::Acquire);
        let wanted = index + 1 < shared.threads.load(Ordering::Relaxed);
        (s & OPEN != 0 && s >> 32 != seen && wanted).then_some(s)
    };
    loop {
        let since = Instant::now();
        loop {
            for _ in 0..64 {
                if let Some(s) = fresh() {
                    return s;
                }
                spin_loop();
            }
            if since.elapsed() > WATCH {
                break;
            }
        }
        asleep.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        if let Some(s) = fresh() {
            asleep.store(false, Ordering::Relaxed);
            return s;
        }
        while asleep.load(Ordering::Relaxed) {
            thread::park();
        }
    }
}

/// Cuts `data` in chunks of `chunk` elements (the last may be shorter) and runs `f(index, chunk)` on each.
///
/// # Panics
/// When `chunk` is 0, and as [`parallel`].
pub fn parallel_chunks_mut<T: Send>(data: &mut [T], chunk: usize, f: impl Fn(usize, &mut [T]) + Sync) {
    let data = Disjoint::new(data);
    parallel(data.chunks(chunk), |i| {
        // SAFETY: chunk i belongs to task i alone.
        f(i, unsafe { data.chunk(chunk, i) })
    });
}

/// [`parallel_chunks_mut`] over two slices at once, each with its own chunk length.
///
/// # Panics
/// When the slices have different numbers of chunks, and as [`parallel_chunks_mut`].
pub fn parallel_chunks_mut2<A: Send, B: Send>(
    a: &mut [A],
    chunk_a: usize,
    b: &mut [B],
    chunk_b: usize,
    f: impl Fn(usize, &mut [A], &mut [B]) + Sync,
) {
    let (a, b) = (Disjoint::new(a), Disjoint::new(b));
    let n = a.chunks(chunk_a);
    assert_eq!(n, b.chunks(chunk_b), "slices with different numbers of chunks");
    parallel(n, |i| {
        // SAFETY: chunk i of each slice belongs to task i alone.
        unsafe { f(i, a.chunk(chunk_a, i), b.chunk(chunk_b, i)) }
    });
}

/// [`parallel_chunks_mut`] over three slices at once, each with its own chunk length.
///
/// # Panics
/// As [`parallel_chunks_mut2`].
pub fn parallel_chunks_mut3<A: Send, B: Send, C: Send>(
    (a, chunk_a): (&mut [A], usize),
    (b, chunk_b): (&mut [B], usize),
    (c, chunk_c): (&mut [C], usize),
    f: impl Fn(usize, &mut [A], &mut [B], &mut [C]) + Sync,
) {
    let (a, b, c) = (Disjoint::new(a), Disjoint::new(b), Disjoint::new(c));
    let n = a.chunks(chunk_a);
    assert_eq!(n, b.chunks(chunk_b), "slices with different numbers of chunks");
    assert_eq!(n, c.chunks(chunk_c), "slices with different numbers of chunks");
    parallel(n, |i| {
        // SAFETY: chunk i of each slice belongs to task i alone.
        unsafe { f(i, a.chunk(chunk_a, i), b.chunk(chunk_b, i), c.chunk(chunk_c, i)) }
    });
}

/// A mutable slice that several tasks write at once, each its own part.
pub struct Disjoint<'a, T> {
    ptr: *mut T,
    len: usize,
    life: PhantomData<&'a mut [T]>,
}

// SAFETY: parts are handed out only by unsafe methods whose callers promise that they do not overlap,
// so this moves distinct &mut [T] to other threads, which needs T: Send.
unsafe impl<T: Send> Sync for Disjoint<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Send for Disjoint<'_, T> {}

impl<'a, T> Disjoint<'a, T> {
    /// Takes the slice for as long as the tasks run.
    pub fn new(data: &'a mut [T]) -> Self {
        Self { ptr: data.as_mut_ptr(), len: data.len(), life: PhantomData }
    }

    /// The length of the whole slice.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the whole slice is empty.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The whole slice's first element, for kernels that compute addresses themselves.
    pub fn as_mut_ptr(&self) -> *mut T {
        self.ptr
    }

    /// The number of chunks of `chunk` elements, a shorter last one included.
    ///
    /// # Panics
    /// When `chunk` is 0.
    pub fn chunks(&self, chunk: usize) -> usize {
        assert!(chunk > 0, "a chunk of 0 elements");
        self.len.div_ceil(chunk)
    }

    /// Elements `start .. start + len`.
    ///
    /// # Safety
    /// No two live parts may overlap.
    ///
    /// # Panics
    /// When the part lies outside the slice.
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn part(&self, start: usize, len: usize) -> &mut [T] {
        assert!(start <= self.len && len <= self.len - start, "part outside the slice");
        // SAFETY: inside the slice (checked), alone by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.add(start), len) }
    }

    /// Chunk `i` of `chunk` elements; the last one may be shorter.
    ///
    /// # Safety
    /// No two live parts may overlap.
    ///
    /// # Panics
    /// When the chunk begins outside the slice.
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn chunk(&self, chunk: usize, i: usize) -> &mut [T] {
        let start = i * chunk;
        // SAFETY: the caller's promise is passed on.
        unsafe { self.part(start, chunk.min(self.len.saturating_sub(start))) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Barrier;
    use std::sync::atomic::AtomicU32;

    #[test]
    fn each_task_runs_once_for_any_thread_count() {
        for n in [1, 2, 3, 7, 2] {
            set_threads(n);
            for tasks in [0, 1, 2, 5, 1000] {
                let hits: Vec<AtomicU32> = (0..tasks).map(|_| AtomicU32::new(0)).collect();
                parallel(tasks, |i| {
                    hits[i].fetch_add(1, Ordering::Relaxed);
                });
                assert!(hits.iter().all(|h| h.load(Ordering::Relaxed) == 1));
            }
        }
        set_threads(0);
    }

    #[test]
    fn a_thread_may_have_a_number_of_its_own() {
        {
            let _five = use_threads(5);
            assert_eq!(threads(), 5);
            {
                let _one = use_threads(1);
                let me = thread::current().id();
                parallel(8, |_| assert_eq!(thread::current().id(), me, "one thread is the caller"));
            }
            assert_eq!(threads(), 5);
            thread::scope(|s| s.spawn(|| assert_eq!(OWN.get(), 0)).join().unwrap());
        }
        assert_eq!(OWN.get(), 0);
    }

    #[test]
    fn phases_wait_for_each_other() {
        for _ in 0..200 {
            let done = AtomicUsize::new(0);
            let sizes = [3, 0, 17, 1, 8];
            parallel_phases(&sizes, |phase, task| {
                assert!(task < sizes[phase]);
                let before: usize = sizes[..phase].iter().sum();
                assert!(done.load(Ordering::SeqCst) >= before);
                done.fetch_add(1, Ordering::SeqCst);
            });
            assert_eq!(done.into_inner(), 29);
        }
        parallel_phases(&[1; 40], |_, _| {});
    }

    #[test]
    fn nested_and_concurrent_loops_finish() {
        let sum = AtomicUsize::new(0);
        thread::scope(|s| {
            for _ in 0..4 {
                s.spawn(|| {
                    for _ in 0..50 {
                        parallel(4, |i| {
                            parallel(3, |j| {
                                sum.fetch_add(i * 3 + j, Ordering::Relaxed);
                            })
                        });
                    }
                });
            }
        });
        assert_eq!(sum.into_inner(), 4 * 50 * 66);
    }

    #[test]
    fn panics_reach_the_caller_and_the_pool_lives_on() {
        for _ in 0..20 {
            let caught = catch_unwind(|| parallel(64, |i| assert!(i != 13, "task thirteen")));
            let payload = caught.unwrap_err();
            assert!(payload.downcast_ref::<&str>().unwrap().contains("thirteen"));
            let n = AtomicUsize::new(0);
            parallel(64, |_| {
                n.fetch_add(1, Ordering::Relaxed);
            });
            assert_eq!(n.into_inner(), 64);
        }
    }

    #[test]
    fn a_payload_that_panics_when_dropped_stays_inside_the_loop() {
        struct Angry;
        impl Drop for Angry {
            fn drop(&mut self) {
                panic!("dropped");
            }
        }
        // Both tasks have begun before one of them panics.
        let begun = Barrier::new(2);
        let body: &(dyn Fn(usize, usize) + Sync) = &|_, _| {
            begun.wait();
            std::panic::panic_any(Angry);
        };
        let job = Loop {
            body,
            ends: &[2],
            claimed: Line(AtomicUsize::new(0)),
            finished: Line(AtomicUsize::new(0)),
            failed: AtomicBool::new(false),
            panic: Mutex::new(None),
        };
        thread::scope(|s| {
            s.spawn(|| job.work());
            s.spawn(|| job.work());
        });
        assert_eq!(job.finished.0.load(Ordering::Relaxed), 2);
        let first = job.panic.into_inner().unwrap().expect("the first payload");
        assert!(first.is::<Angry>());
        std::mem::forget(first);
    }

    #[test]
    fn chunks_meet_their_own_part() {
        let mut a = vec![0u32; 103];
        let mut b = [0u8; 11];
        parallel_chunks_mut2(&mut a, 10, &mut b, 1, |i, a, b| {
            a.fill(i as u32);
            b[0] = a.len() as u8;
        });
        assert!(a.iter().enumerate().all(|(i, &x)| x == i as u32 / 10));
        assert_eq!(b[10], 3);
    }
}
