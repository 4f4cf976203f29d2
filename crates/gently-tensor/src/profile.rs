//! Where the time goes: every kernel call with its operation, its pass, its part of the model, and the work it stands for.
//!
//! Here: the recorder, the marks that give a call its place, and [`Work`], which the seam of the kernels states beside each of
//! them. Not here: sums, tables and pictures (`gently-train`'s `profile`).
//!
//! A recording belongs to the thread that starts it. While none runs, a mark or a call costs the look at one thread-local flag;
//! while one runs, nothing about the computation changes, so results are the same bits with and without.
//!
//! **What counts as work.** A multiply-add of a product is two operations; pointwise work that is fused into a product, an
//! attention or a loss is not counted, and neither is what a backward computes a second time to save memory. Of attention's
//! pairs those count that the mask and the borders of documents leave. A pointwise
//! pass of its own counts each arithmetic operation and each function (exp, tanh, …) as one. Bytes are what must move if
//! nothing is in a cache before: every operand read once, every result written once.
//!
//! ```
//! use gently_tensor::{profile, Device, DType, LinearArgs, Tensor};
//! let x = Tensor::ones([8, 16], DType::F32, &Device::Cpu)?;
//! let w = Tensor::ones([4, 16], DType::F32, &Device::Cpu)?;
//! profile::start();
//! {
//!     let _part = profile::part("head");
//!     x.linear(&LinearArgs::new(&w))?;
//! }
//! let recording = profile::finish().unwrap();
//! let call = &recording.calls[0];
//! assert_eq!((call.op, call.kernel, recording.part(call)), ("linear", "gemm", "head"));
//! assert_eq!(call.work.flops, 2 * 8 * 16 * 4);
//! # Ok::<(), gently_tensor::Error>(())
//! ```

use crate::Compute;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::fmt::Display;
use std::marker::PhantomData;
use std::time::Instant;

/// What a call could not do without. See the module's conventions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Work {
    /// Floating-point operations.
    pub flops: u64,
    /// Bytes read and written.
    pub bytes: u64,
    /// The arithmetic of the operations, which decides the peak they are held to.
    pub compute: Compute,
}

impl Work {
    /// A pass over memory, in f32.
    pub fn pass(flops: usize, bytes: usize) -> Work {
        Work { flops: flops as u64, bytes: bytes as u64, compute: Compute::F32 }
    }

    /// Products with this many multiply-adds.
    pub fn products(multiply_adds: u64, bytes: usize, compute: Compute) -> Work {
        Work { flops: 2 * multiply_adds, bytes: bytes as u64, compute }
    }
}

/// Which way a call was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub enum Pass {
    /// Values.
    #[default]
    Forward,
    /// Values once more, for a backward that did not keep them.
    Recompute,
    /// Gradients.
    Backward,
}

impl Pass {
    /// `forward`, `recompute` or `backward`.
    pub const fn name(self) -> &'static str {
        match self {
            Pass::Forward => "forward",
            Pass::Recompute => "recompute",
            Pass::Backward => "backward",
        }
    }
}

/// The name of a part of the model in a recording; 0 is no part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct PartId(u32);

/// One kernel call.
#[derive(Debug, Clone, Copy)]
pub struct Call {
    /// The innermost [`phase`] it was made in, or an empty text.
    pub phase: &'static str,
    /// Forward, backward or recomputed.
    pub pass: Pass,
    /// The operation it is part of, by [`crate::Op`]'s name where there is one; empty outside of any.
    pub op: &'static str,
    /// What it computes for the operation, such as `dx` or `dw`; empty where there is one thing only.
    pub detail: &'static str,
    /// The kernel.
    pub kernel: &'static str,
    /// The part of the model.
    pub part: PartId,
    /// Nanoseconds from the recording's start to the call's.
    pub start: u64,
    /// Nanoseconds from the recording's start to the call's end.
    pub end: u64,
    /// What it could not do without.
    pub work: Work,
}

/// One named stretch of time that calls lie in.
#[derive(Debug, Clone, Copy)]
pub struct Phase {
    /// Its name.
    pub name: &'static str,
    /// How many phases it lies in.
    pub depth: u32,
    /// Nanoseconds from the recording's start.
    pub start: u64,
    /// Nanoseconds from the recording's start.
    pub end: u64,
}

/// What was recorded, in the order in which it ended.
#[derive(Debug, Clone, Default)]
pub struct Recording {
    /// Kernel calls.
    pub calls: Vec<Call>,
    /// Phases.
    pub phases: Vec<Phase>,
    /// Calls that were made after [`CAPACITY`] others and are not here.
    pub lost: u64,
    /// Of `phases`, how many had ended before the first lost call and so have all of theirs; all of them where none is lost.
    pub whole: usize,
    parts: Vec<String>,
}

impl Recording {
    /// The part of the model that a call belongs to, dotted like its parameters' names; empty for none.
    pub fn part(&self, call: &Call) -> &str {
        self.parts.get(call.part.0 as usize).map_or("", String::as_str)
    }
}

/// Calls that one recording holds at most, so that a forgotten one does not fill the memory: they take some 120 MB.
pub const CAPACITY: usize = 1 << 20;

/// Where the next call stands.
#[derive(Clone, Copy)]
struct Place {
    phase: &'static str,
    depth: u32,
    pass: Pass,
    op: &'static str,
    detail: &'static str,
    part: PartId,
}

struct Recorder {
    begun: Instant,
    calls: Vec<Call>,
    phases: Vec<Phase>,
    lost: u64,
    /// Phases that had ended at the first lost call.
    whole: Option<usize>,
}

thread_local! {
    static ON: Cell<bool> = const { Cell::new(false) };
    static PLACE: Cell<Place> = const {
        Cell::new(Place { phase: "", depth: 0, pass: Pass::Forward, op: "", detail: "", part: PartId(0) })
    };
    static RECORDER: RefCell<Option<Recorder>> = const { RefCell::new(None) };
    /// Names keep their numbers for the life of the thread: a recorded graph may outlive a recording.
    static PARTS: RefCell<Parts> = RefCell::new(Parts { names: vec![String::new()], numbers: HashMap::new() });
}

struct Parts {
    names: Vec<String>,
    numbers: HashMap<String, u32>,
}

impl Parts {
    fn below(&mut self, parent: PartId, name: &dyn Display) -> PartId {
        let full = match self.names.get(parent.0 as usize).map_or("", String::as_str) {
            "" => name.to_string(),
            parent => format!("{parent}.{name}"),
        };
        if let Some(&number) = self.numbers.get(&full) {
            return PartId(number);
        }
        let number = self.names.len() as u32;
        self.names.push(full.clone());
        self.numbers.insert(full, number);
        PartId(number)
    }
}

/// Starts a recording on this thread; one that runs already is thrown away.
pub fn start() {
    let recorder = Recorder { begun: Instant::now(), calls: Vec::new(), phases: Vec::new(), lost: 0, whole: None };
    RECORDER.with_borrow_mut(|r| *r = Some(recorder));
    ON.set(true);
}

/// Ends this thread's recording and gives it; `None` if none runs.
pub fn finish() -> Option<Recording> {
    ON.set(false);
    let recorder = RECORDER.take()?;
    let parts = PARTS.with_borrow(|p| p.names.clone());
    let Recorder { calls, phases, lost, whole, .. } = recorder;
    let whole = whole.unwrap_or(phases.len());
    Some(Recording { calls, phases, lost, whole, parts })
}

/// True once a call of this thread's recording has found no room: what comes after is not recorded.
pub fn is_full() -> bool {
    RECORDER.with_borrow(|r| r.as_ref().is_some_and(|r| r.lost > 0))
}

/// True while this thread records.
#[inline]
pub fn is_on() -> bool {
    ON.get()
}

/// Puts the place back when it goes.
#[must_use = "the mark ends when this is dropped"]
pub struct Mark {
    before: Option<Place>,
    /// The thread's own: not to be sent to another.
    _here: PhantomData<*const ()>,
}

impl Mark {
    #[inline]
    fn new(change: impl FnOnce(&mut Place)) -> Mark {
        if !ON.get() {
            return Mark { before: None, _here: PhantomData };
        }
        let before = PLACE.get();
        let mut place = before;
        change(&mut place);
        PLACE.set(place);
        Mark { before: Some(before), _here: PhantomData }
    }
}

impl Drop for Mark {
    #[inline]
    fn drop(&mut self) {
        if let Some(before) = self.before {
            PLACE.set(before);
        }
    }
}

/// Calls until the mark goes belong to this part of the model, below the part around it. The name is written out only while a
/// recording runs: `profile::part(format_args!("blocks.{i}"))` costs nothing otherwise.
#[inline]
pub fn part(name: impl Display) -> Mark {
    Mark::new(|place| place.part = PARTS.with_borrow_mut(|p| p.below(place.part, &name)))
}

/// Calls until the mark goes belong to this operation, unless they belong to one already.
#[inline]
pub(crate) fn op(name: &'static str) -> Mark {
    Mark::new(|place| {
        if place.op.is_empty() {
            place.op = name;
        }
    })
}

/// Calls until the mark goes compute this for their operation.
#[inline]
pub(crate) fn detail(name: &'static str) -> Mark {
    Mark::new(|place| place.detail = name)
}

/// Calls until the mark goes are the backward of a node.
#[inline]
pub(crate) fn backward(op: &'static str, part: PartId) -> Mark {
    Mark::new(|place| (place.pass, place.op, place.detail, place.part) = (Pass::Backward, op, "", part))
}

/// Calls until the mark goes compute values again.
#[inline]
pub(crate) fn recompute() -> Mark {
    Mark::new(|place| (place.pass, place.op, place.detail) = (Pass::Recompute, "", ""))
}

/// The part that a node of the tape belongs to.
#[inline]
pub(crate) fn here() -> PartId {
    if ON.get() { PLACE.get().part } else { PartId(0) }
}

/// A stretch of time with a name; phases may lie in each other.
#[must_use = "the phase ends when this is dropped"]
pub struct PhaseMark {
    start: Option<Instant>,
    mark: Mark,
}

/// Begins a phase, which ends when the mark goes.
pub fn phase(name: &'static str) -> PhaseMark {
    let mark = Mark::new(|place| (place.phase, place.depth) = (name, place.depth + 1));
    PhaseMark { start: mark.before.is_some().then(Instant::now), mark }
}

impl Drop for PhaseMark {
    fn drop(&mut self) {
        let (Some(start), Some(before)) = (self.start, self.mark.before) else {
            return;
        };
        let (end, name) = (Instant::now(), PLACE.get().phase);
        RECORDER.with_borrow_mut(|r| {
            // A phase from before the recording began is not its own.
            if let Some(r) = r
                && start >= r.begun
            {
                r.phases.push(Phase { name, depth: before.depth, start: r.at(start), end: r.at(end) });
            }
        });
    }
}

/// A kernel call that is being timed.
#[must_use = "the call ends when this is dropped"]
pub struct Timing(Option<(Instant, &'static str, Work)>);

/// Times a kernel call until the mark goes. `work` is asked only while a recording runs.
#[inline]
pub fn call(kernel: &'static str, work: impl FnOnce() -> Work) -> Timing {
    if !ON.get() {
        return Timing(None);
    }
    let work = work();
    Timing(Some((Instant::now(), kernel, work)))
}

impl Drop for Timing {
    #[inline]
    fn drop(&mut self) {
        if let Some((start, kernel, work)) = self.0.take() {
            let end = Instant::now();
            record(start, end, kernel, work);
        }
    }
}

#[cold]
fn record(start: Instant, end: Instant, kernel: &'static str, work: Work) {
    RECORDER.with_borrow_mut(|r| {
        let Some(r) = r else {
            return;
        };
        if r.calls.len() >= CAPACITY {
            let ended = r.phases.len();
            r.whole.get_or_insert(ended);
            r.lost += 1;
            return;
        }
        let Place { phase, pass, op, detail, part, .. } = PLACE.get();
        r.calls.push(Call { phase, pass, op, detail, kernel, part, start: r.at(start), end: r.at(end), work });
    });
}

impl Recorder {
    fn at(&self, when: Instant) -> u64 {
        when.duration_since(self.begun).as_nanos() as u64
    }
}
