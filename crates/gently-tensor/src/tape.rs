//! Reverse-mode differentiation: the record of operations, the walk back over it, and gradients.
//!
//! Each recorded tensor owns a node; a node owns edges to its inputs' nodes (never the inputs' values) and the values that
//! its own backward needs. The walk visits nodes from the newest to the oldest, so every gradient is complete when its
//! node runs. A node frees what it saved as soon as it has run; a gradient with one consumer is handed over, not copied;
//! second contributions are added in place, by the kernel that computes them where it can.
//!
//! ```
//! use gently_tensor::{Device, Tensor};
//! let w = Tensor::from_slice(&[3.0f32], [1], &Device::Cpu)?.param()?;
//! let loss = w.mul(&w)?.sum_all()?;
//! let grads = loss.backward()?;
//! assert_eq!(grads.get(&w).unwrap().to_vec::<f32>()?, [6.0]);
//! # Ok::<(), gently_tensor::Error>(())
//! ```

use crate::shape::Layout;
use crate::storage::Buffer;
use crate::tensor::View;
use crate::{DType, Device, Error, Op, Result, Shape, Tensor, TensorId, backend, profile};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

thread_local! {
    static RECORDING: Cell<bool> = const { Cell::new(true) };
}

/// Runs `f` without recording: evaluation, generation, updates.
pub fn no_grad<R>(f: impl FnOnce() -> R) -> R {
    with_recording(false, f)
}

/// True if operations on tracked tensors are being recorded on this thread.
pub fn is_recording() -> bool {
    RECORDING.get()
}

pub(crate) fn with_recording<R>(on: bool, f: impl FnOnce() -> R) -> R {
    struct Restore(bool);
    impl Drop for Restore {
        fn drop(&mut self) {
            RECORDING.set(self.0);
        }
    }
    let _restore = Restore(RECORDING.replace(on));
    f()
}

/// True if an operation on these inputs must be recorded.
#[inline]
pub(crate) fn recording(inputs: &[&Tensor]) -> bool {
    RECORDING.get() && inputs.iter().any(|t| t.is_tracked())
}

/// Refuses a tracked input: for operations without a backward.
pub(crate) fn refuse(op: &'static str, inputs: &[&Tensor]) -> Result<()> {
    if recording(inputs) {
        return Err(Error::NoBackward { op });
    }
    Ok(())
}

type Run = Box<dyn FnOnce(&mut Sink<'_>, Tensor) -> Result<()> + Send>;
/// Makes the values of a node's result again from what its backward keeps.
type Repeat = Box<dyn Fn() -> Result<View> + Send>;

/// One recorded operation.
pub(crate) struct Node {
    seq: u64,
    pub op: Op,
    /// Whose time its backward is.
    part: profile::PartId,
    body: Mutex<Option<Body>>,
}

struct Body {
    edges: Vec<Option<Edge>>,
    run: Run,
    repeat: Option<Repeat>,
}

/// Where an input's gradient goes, and what it must look like.
struct Edge {
    target: Target,
    shape: Shape,
    dtype: DType,
    device: Device,
}

enum Target {
    Leaf(TensorId),
    Node(Arc<Node>),
}

impl Node {
    /// Records `op` on `inputs`. `run` gets the gradient of the result and gives one to each input that needs it.
    pub fn new(
        op: Op,
        inputs: &[&Tensor],
        run: impl FnOnce(&mut Sink<'_>, Tensor) -> Result<()> + Send + 'static,
    ) -> Arc<Node> {
        Node::later(op, inputs).with(run)
    }

    /// Captures the edges now; the backward comes later. For operations that change their input's memory in between.
    pub fn later(op: Op, inputs: &[&Tensor]) -> Later {
        Later { op, edges: inputs.iter().map(|t| Edge::to(t)).collect(), repeat: None }
    }

    /// True if [`Node::repeat`] can make the result's values again: until the node's backward has run.
    pub fn can_repeat(&self) -> bool {
        self.body().as_ref().is_some_and(|body| body.repeat.is_some())
    }

    /// The result's values, the same bits, from what the node's backward keeps.
    pub fn repeat(&self) -> Result<View> {
        match self.body().as_ref().and_then(|body| body.repeat.as_ref()) {
            Some(repeat) => repeat(),
            None => Err(Error::GraphConsumed { op: self.op.name() }),
        }
    }

    fn body(&self) -> MutexGuard<'_, Option<Body>> {
        self.body.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self) -> Option<Body> {
        self.body().take()
    }
}

/// A node whose backward is not known yet.
pub(crate) struct Later {
    op: Op,
    edges: Vec<Option<Edge>>,
    repeat: Option<Repeat>,
}

impl Later {
    /// Says how the result's values are made again, in one pass over what the backward keeps anyway: see `saved`.
    pub fn repeated_by(mut self, repeat: impl Fn() -> Result<View> + Send + 'static) -> Later {
        self.repeat = Some(Box::new(repeat));
        self
    }

    /// The node.
    pub fn with(self, run: impl FnOnce(&mut Sink<'_>, Tensor) -> Result<()> + Send + 'static) -> Arc<Node> {
        Arc::new(Node {
            seq: TensorId::next().number(),
            op: self.op,
            part: profile::here(),
            body: Mutex::new(Some(Body { edges: self.edges, run: Box::new(run), repeat: self.repeat })),
        })
    }
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Node({}, {})", self.seq, self.op.name())
    }
}

impl Drop for Node {
    /// Frees a long chain of nodes without recursion: an unrolled recurrence is thousands deep.
    fn drop(&mut self) {
        let mut bodies = Vec::from_iter(self.take());
        while let Some(Body { edges, run, repeat }) = bodies.pop() {
            // They may keep an input's node too (see `saved`): that must not be the last hold on it.
            drop((run, repeat));
            for edge in edges.into_iter().flatten() {
                if let Target::Node(node) = edge.target
                    && let Some(node) = Arc::into_inner(node)
                {
                    bodies.extend(node.take());
                }
            }
        }
    }
}

impl Edge {
    fn to(t: &Tensor) -> Option<Edge> {
        let target = match t.node() {
            Some(node) => Target::Node(node.clone()),
            None if t.requires_grad() => Target::Leaf(t.id()),
            None => return None,
        };
        Some(Edge { target, shape: *t.shape(), dtype: t.dtype().grad(), device: t.device() })
    }
}

/// Gradients by leaf. Iteration is in the order in which the leaves were made, so it does not depend on hashing.
#[derive(Default, Debug)]
pub struct Grads {
    map: BTreeMap<TensorId, Tensor>,
}

impl Grads {
    /// No gradients yet.
    pub fn new() -> Grads {
        Grads::default()
    }

    /// The gradient of a leaf: its shape, its dtype ([`DType::F32`] for a `Bf16` leaf). `None` if nothing reached it.
    pub fn get(&self, leaf: &Tensor) -> Option<&Tensor> {
        self.map.get(&leaf.id())
    }

    /// Takes a leaf's gradient out.
    pub fn remove(&mut self, leaf: &Tensor) -> Option<Tensor> {
        self.map.remove(&leaf.id())
    }

    /// All gradients, oldest leaf first.
    pub fn iter(&self) -> impl Iterator<Item = (TensorId, &Tensor)> {
        self.map.iter().map(|(&id, t)| (id, t))
    }

    /// The number of leaves with a gradient.
    pub fn len(&self) -> usize {
        self.map.len()
    }

    /// True if nothing has a gradient.
    pub fn is_empty(&self) -> bool {
        self.map.is_empty()
    }

    /// Forgets all gradients; their memory goes back to the pool for the next step.
    pub fn clear(&mut self) {
        self.map.clear();
    }
}

/// Gradients on their way to nodes not yet visited.
type Pending = BTreeMap<u64, (Arc<Node>, Tensor)>;

/// What a node's backward writes its inputs' gradients to.
pub(crate) struct Sink<'a> {
    edges: &'a [Option<Edge>],
    pending: &'a mut Pending,
    grads: &'a mut Grads,
    floor: u64,
}

/// A gradient that a kernel may write into: a fresh buffer, or one that already holds other contributions.
pub(crate) struct Acc {
    tensor: Tensor,
    /// Add to what is there instead of overwriting it.
    pub accumulate: bool,
}

impl Acc {
    /// The buffer to write. (`Acc` is only made around unique tensors.)
    pub fn buffer(&mut self) -> &mut Buffer {
        self.tensor.unique().expect("an accumulator is unique by construction")
    }

    /// The layout of a part of the gradient, from the layout of the whole.
    pub fn layout_of(&self, part: impl FnOnce(Layout) -> Layout) -> Layout {
        part(*self.tensor.layout())
    }

    /// Zeroes a fresh buffer, for kernels that only add.
    pub fn make_additive(&mut self) {
        if !self.accumulate {
            backend::fill(self.buffer(), 0.0);
            self.accumulate = true;
        }
    }
}

impl Sink<'_> {
    /// True if input `i` needs a gradient.
    pub fn needs(&self, i: usize) -> bool {
        self.edges[i].is_some()
    }

    /// The device of input `i`.
    pub fn device(&self, i: usize) -> Device {
        self.edges[i].as_ref().map_or(Device::Cpu, |e| e.device)
    }

    fn take_slot(&mut self, i: usize) -> Option<Tensor> {
        match &self.edges[i].as_ref()?.target {
            Target::Leaf(id) => self.grads.map.remove(id),
            Target::Node(node) => self.pending.remove(&node.seq).map(|(_, t)| t),
        }
    }

    fn fill_slot(&mut self, i: usize, grad: Tensor) -> Result<()> {
        let Some(edge) = &self.edges[i] else {
            return Ok(());
        };
        match &edge.target {
            Target::Leaf(id) => {
                self.grads.map.insert(*id, grad);
            }
            Target::Node(node) => {
                if node.seq < self.floor {
                    return Err(Error::CheckpointCapture { op: node.op.name() });
                }
                self.pending.insert(node.seq, (node.clone(), grad));
            }
        }
        Ok(())
    }

    /// Opens input `i`'s gradient for a kernel to write or add to; `None` if it needs none. [`Sink::close`] puts it back.
    pub fn open(&mut self, i: usize) -> Result<Option<Acc>> {
        let Some(edge) = &self.edges[i] else {
            return Ok(None);
        };
        let (shape, dtype, device) = (edge.shape, edge.dtype, edge.device);
        if let Some(mut tensor) = self.take_slot(i) {
            if tensor.unique().is_some() {
                return Ok(Some(Acc { tensor, accumulate: true }));
            }
            // Shared with another consumer: leave it; `close` adds the two.
            let _ = self.fill_slot(i, tensor);
        }
        let buffer = Buffer::alloc("backward", device, dtype, shape)?;
        Ok(Some(Acc { tensor: Tensor::from_buffer(buffer, shape, None), accumulate: false }))
    }

    /// Puts back what [`Sink::open`] opened.
    pub fn close(&mut self, i: usize, acc: Option<Acc>) -> Result<()> {
        match acc {
            Some(acc) => self.give(i, acc.tensor),
            None => Ok(()),
        }
    }

    /// Hands over a gradient for input `i`: moved if it is the first, added otherwise. May be a view with gaps or repeats.
    pub fn give(&mut self, i: usize, mut grad: Tensor) -> Result<()> {
        let Some(edge) = &self.edges[i] else {
            return Ok(());
        };
        let (shape, dtype) = (edge.shape, edge.dtype);
        let is_leaf = matches!(edge.target, Target::Leaf(_));
        debug_assert_eq!(*grad.shape(), shape, "gradient of input {i}");
        if grad.dtype() != dtype {
            grad = grad.to_dtype(dtype)?;
        }
        let Some(mut there) = self.take_slot(i) else {
            // A leaf's gradient is the user's to change in place: it must not be shared or have gaps.
            if is_leaf && grad.unique().is_none() {
                grad = grad.copy()?;
            }
            return self.fill_slot(i, grad);
        };
        if let Some(buffer) = there.unique() {
            backend::add_assign(buffer, &grad.contiguous()?.view("backward")?);
        } else if let Some(buffer) = grad.unique() {
            backend::add_assign(buffer, &there.contiguous()?.view("backward")?);
            there = grad;
        } else {
            there = there.add(&grad)?;
        }
        self.fill_slot(i, there)
    }

    /// The walk over a graph nested inside this one (recomputation): leaf gradients go to the same place.
    pub fn nested(&mut self, root: &Tensor, seed: Tensor, floor: u64) -> Result<()> {
        if root.node().is_some() {
            return walk(root, seed, self.grads, floor);
        }
        // The nested graph is a leaf itself: a block that returns its input, or a parameter, as it is.
        let edges = [Edge::to(root)];
        Sink { edges: &edges, pending: &mut Pending::new(), grads: &mut *self.grads, floor }.give(0, seed)
    }

    /// Takes a leaf's gradient out: the gradients of a nested graph's own inputs.
    pub fn take_leaf(&mut self, leaf: &Tensor) -> Option<Tensor> {
        self.grads.remove(leaf)
    }
}

/// Visits the graph below `root` from the newest node to the oldest. Nodes older than `floor` may not be met.
fn walk(root: &Tensor, seed: Tensor, grads: &mut Grads, floor: u64) -> Result<()> {
    let node = root.node().ok_or(Error::NotRecorded)?.clone();
    let mut pending = Pending::new();
    pending.insert(node.seq, (node, seed));
    while let Some((_, (node, grad))) = pending.pop_last() {
        let Body { edges, run, repeat } = node.take().ok_or(Error::GraphConsumed { op: node.op.name() })?;
        // All who could ask are done; what it keeps must not outlive its use in `run`.
        drop(repeat);
        let mut sink = Sink { edges: &edges, pending: &mut pending, grads: &mut *grads, floor };
        let _op = profile::backward(node.op.name(), node.part);
        run(&mut sink, grad)?;
    }
    Ok(())
}

impl Tensor {
    /// The operations recorded below this tensor, newest first: what a backward would visit.
    pub fn history(&self) -> Vec<Op> {
        let mut left = BTreeMap::new();
        left.extend(self.node().map(|n| (n.seq, n.clone())));
        let mut ops = Vec::new();
        while let Some((_, node)) = left.pop_last() {
            ops.push(node.op);
            let body = node.body();
            for edge in body.iter().flat_map(|b| &b.edges).flatten() {
                if let Target::Node(below) = &edge.target {
                    left.insert(below.seq, below.clone());
                }
            }
        }
        ops
    }

    /// Gradients of this single value with respect to every leaf below it. The graph is used up.
    ///
    /// # Errors
    /// Not one value, not recorded, used before, no memory.
    pub fn backward(&self) -> Result<Grads> {
        let mut grads = Grads::new();
        self.backward_into(&mut grads)?;
        Ok(grads)
    }

    /// As [`Tensor::backward`], adding to the gradients that are already there, in place: micro-batches.
    /// After an error `grads` holds part of the sums and should be cleared.
    ///
    /// # Errors
    /// As [`Tensor::backward`].
    pub fn backward_into(&self, grads: &mut Grads) -> Result<()> {
        if self.numel() != 1 {
            return Err(Error::NotScalar { shape: Box::new(*self.shape()) });
        }
        let seed = Tensor::ones(*self.shape(), self.dtype().grad(), &self.device())?;
        with_recording(false, || walk(self, seed, grads, 0))
    }

    /// As [`Tensor::backward_into`] from any shape, with the gradient of the result given: same shape and device, a float
    /// of any dtype.
    ///
    /// # Errors
    /// A gradient of another shape or device, or of integers; not recorded, used before, no memory.
    pub fn backward_from(&self, grad: &Tensor, grads: &mut Grads) -> Result<()> {
        const OP: &str = "backward_from";
        if self.shape() != grad.shape() {
            return Err(Error::ShapeMismatch {
                op: OP,
                left: Box::new(*self.shape()),
                right: Box::new(*grad.shape()),
                why: "the gradient has the result's shape",
            });
        }
        if self.device() != grad.device() {
            return Err(Error::DeviceMismatch { op: OP, left: self.device(), right: grad.device() });
        }
        if !grad.dtype().is_float() {
            return Err(Error::UnsupportedDType { op: OP, dtype: grad.dtype(), takes: "floats" });
        }
        let grad = grad.to_dtype(self.dtype().grad())?;
        with_recording(false, || walk(self, grad.detach(), grads, 0))
    }
}
