//! [`Tensor`]: what it is, how it is made from data and read back. Operations are in [`crate::ops`], views in `view`,
//! gradients in `tape`.
//!
//! ```
//! use gently_tensor::{Device, Tensor};
//! let x = Tensor::from_slice(&[1.0f32, 2.0, 3.0, 4.0], [2, 2], &Device::Cpu)?;
//! assert_eq!(x.sum_all()?.item::<f32>()?, 10.0);
//! # Ok::<(), gently_tensor::Error>(())
//! ```

use crate::shape::Layout;
use crate::storage::{Buffer, Storage};
use crate::tape::Node;
use crate::{DType, Device, Element, Error, Result, Shape, ToShape};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Names a tensor for the life of the process. Ids grow with time, so their order is the order of creation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TensorId(u64);

impl TensorId {
    pub(crate) fn next() -> TensorId {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        TensorId(NEXT.fetch_add(1, Ordering::Relaxed))
    }

    pub(crate) fn number(self) -> u64 {
        self.0
    }
}

/// A view of shared memory with a shape, a dtype and a device, and possibly the record of how it was computed.
/// Cloning costs a reference count.
#[derive(Clone)]
pub struct Tensor(Arc<Inner>);

struct Inner {
    id: TensorId,
    storage: Arc<Storage>,
    layout: Layout,
    node: Option<Arc<Node>>,
    requires_grad: AtomicBool,
}

/// A snapshot of a tensor's values with its layout: what kernels read and what backwards keep.
#[derive(Clone, Debug)]
pub(crate) struct View {
    buffer: Arc<Buffer>,
    pub layout: Layout,
}

impl View {
    /// A fresh buffer under its shape.
    pub fn of(buffer: Buffer, shape: Shape) -> View {
        View { buffer: Arc::new(buffer), layout: Layout::row_major(shape) }
    }

    /// The elements in order. The layout must be contiguous. Empty on Meta.
    #[inline]
    pub fn dense<T: Element>(&self) -> &[T] {
        debug_assert!(self.layout.is_contiguous());
        if self.buffer.is_meta() {
            return &[];
        }
        let start = self.layout.offset;
        &self.buffer.slice()[start..start + self.layout.shape.numel()]
    }

    /// From the first element to the end of the storage, for kernels that take strides. Empty on Meta.
    #[inline]
    pub fn strided<T: Element>(&self) -> &[T] {
        let all = self.buffer.slice();
        &all[self.layout.offset.min(all.len())..]
    }

    #[inline]
    pub fn shape(&self) -> &Shape {
        &self.layout.shape
    }

    #[inline]
    pub fn dtype(&self) -> DType {
        self.buffer.dtype()
    }

    /// Elements shown, repeats included.
    pub fn len(&self) -> usize {
        self.layout.shape.numel()
    }

    /// Bytes of the elements shown; what is repeated is there once.
    pub fn bytes(&self) -> usize {
        let l = &self.layout;
        let held: usize = l.shape.dims().iter().zip(l.strides()).map(|(&n, &s)| if s == 0 { 1 } else { n }).product();
        held.min(l.shape.numel()) * self.dtype().size()
    }
}

impl Tensor {
    // ---- making ----

    /// Zeros of `shape`.
    ///
    /// # Errors
    /// A shape of too many dimensions or elements, no memory.
    pub fn zeros(shape: impl ToShape, dtype: DType, device: &Device) -> Result<Tensor> {
        let shape = shape.to_shape()?;
        let buffer = Buffer::zeroed("zeros", *device, dtype, shape)?;
        Ok(Tensor::from_buffer(buffer, shape, None))
    }

    /// Ones of `shape`.
    ///
    /// # Errors
    /// As [`Tensor::zeros`].
    pub fn ones(shape: impl ToShape, dtype: DType, device: &Device) -> Result<Tensor> {
        Tensor::full(shape, 1.0, dtype, device)
    }

    /// `value` everywhere, rounded to `dtype`.
    ///
    /// # Errors
    /// As [`Tensor::zeros`].
    pub fn full(shape: impl ToShape, value: f64, dtype: DType, device: &Device) -> Result<Tensor> {
        let shape = shape.to_shape()?;
        let mut buffer = Buffer::alloc("full", *device, dtype, shape)?;
        crate::backend::fill(&mut buffer, value);
        Ok(Tensor::from_buffer(buffer, shape, None))
    }

    /// A copy of `data` under `shape`. On Meta the values are dropped.
    ///
    /// # Errors
    /// As [`Tensor::zeros`], and lengths that differ.
    pub fn from_slice<T: Element>(data: &[T], shape: impl ToShape, device: &Device) -> Result<Tensor> {
        let shape = shape.to_shape()?;
        if data.len() != shape.numel() {
            return Err(Error::LenMismatch {
                op: "from_slice",
                len: data.len(),
                expected: shape.numel(),
                shape: Box::new(shape),
            });
        }
        let mut buffer = Buffer::alloc("from_slice", *device, T::DTYPE, shape)?;
        if !buffer.is_meta() {
            buffer.slice_mut::<T>().copy_from_slice(data);
        }
        Ok(Tensor::from_buffer(buffer, shape, None))
    }

    /// One value.
    ///
    /// # Errors
    /// No memory.
    pub fn scalar<T: Element>(value: T, device: &Device) -> Result<Tensor> {
        Tensor::from_slice(&[value], (), device)
    }

    /// `start, start+1, …` up to but without `end`, each the nearest `T`, shape `[end − start]`; nothing if `end` is not above.
    ///
    /// # Errors
    /// As [`Tensor::zeros`].
    pub fn arange<T: Element>(start: i64, end: i64, device: &Device) -> Result<Tensor> {
        let len = usize::try_from(end.saturating_sub(start)).unwrap_or(0);
        let shape = Shape::new(&[len])?;
        let mut buffer = Buffer::alloc("arange", *device, T::DTYPE, shape)?;
        for (i, v) in buffer.slice_mut::<T>().iter_mut().enumerate() {
            *v = T::from_i64(start + i as i64);
        }
        Ok(Tensor::from_buffer(buffer, shape, None))
    }

    pub(crate) fn from_buffer(buffer: Buffer, shape: Shape, node: Option<Arc<Node>>) -> Tensor {
        let storage = Arc::new(Storage::new(buffer));
        Tensor::from_storage(storage, Layout::row_major(shape), node)
    }

    pub(crate) fn from_storage(storage: Arc<Storage>, layout: Layout, node: Option<Arc<Node>>) -> Tensor {
        debug_assert!(layout.end() <= storage.len);
        Tensor(Arc::new(Inner { id: TensorId::next(), storage, layout, node, requires_grad: AtomicBool::new(false) }))
    }

    // ---- asking ----

    /// This tensor's id.
    pub fn id(&self) -> TensorId {
        self.0.id
    }

    /// The sizes of the dimensions.
    #[inline]
    pub fn shape(&self) -> &Shape {
        &self.0.layout.shape
    }

    /// The sizes of the dimensions, as a slice.
    #[inline]
    pub fn dims(&self) -> &[usize] {
        self.0.layout.shape.dims()
    }

    /// The number of dimensions.
    #[inline]
    pub fn rank(&self) -> usize {
        self.0.layout.shape.rank()
    }

    /// The number of elements.
    #[inline]
    pub fn numel(&self) -> usize {
        self.0.layout.shape.numel()
    }

    /// The size of one dimension.
    ///
    /// # Errors
    /// A dimension that is not there.
    pub fn dim(&self, dim: impl crate::Dim) -> Result<usize> {
        Ok(self.dims()[dim.resolve(self.rank(), "dim")?])
    }

    /// The dtype of the elements.
    #[inline]
    pub fn dtype(&self) -> DType {
        self.0.storage.dtype
    }

    /// Where the tensor lives.
    #[inline]
    pub fn device(&self) -> Device {
        self.0.storage.device
    }

    /// Steps in elements between neighbours along each dimension.
    pub fn strides(&self) -> &[usize] {
        self.0.layout.strides()
    }

    /// True if the elements lie in order and without gaps.
    #[inline]
    pub fn is_contiguous(&self) -> bool {
        self.0.layout.is_contiguous()
    }

    /// True if two tensors look at the same memory.
    #[doc(hidden)]
    pub fn shares_memory_with(&self, other: &Tensor) -> bool {
        Arc::ptr_eq(&self.0.storage, &other.0.storage)
    }

    /// True if gradients flow to this tensor: a leaf that asks for one, or the result of a recorded operation.
    #[inline]
    pub fn is_tracked(&self) -> bool {
        self.0.node.is_some() || self.0.requires_grad.load(Ordering::Relaxed)
    }

    /// True for a leaf marked with [`Tensor::set_requires_grad`].
    pub fn requires_grad(&self) -> bool {
        self.0.requires_grad.load(Ordering::Relaxed)
    }

    /// Marks a leaf as one whose gradient is wanted, or not. Errors: integers; results of recorded operations.
    pub fn set_requires_grad(&self, on: bool) -> Result<()> {
        if on && !self.dtype().is_float() {
            return Err(Error::UnsupportedDType { op: "set_requires_grad", dtype: self.dtype(), takes: "floats" });
        }
        if self.0.node.is_some() {
            return Err(Error::BadShape {
                op: "set_requires_grad",
                shape: Box::new(*self.shape()),
                why: "only a leaf can be marked; this tensor is the result of a recorded operation",
            });
        }
        self.0.requires_grad.store(on, Ordering::Relaxed);
        Ok(())
    }

    /// This tensor's values as a new leaf whose gradient is wanted. Shares memory. Errors: integers.
    pub fn param(&self) -> Result<Tensor> {
        let leaf = self.detach();
        leaf.set_requires_grad(true)?;
        Ok(leaf)
    }

    /// The same values without history. Shares memory.
    pub fn detach(&self) -> Tensor {
        Tensor::from_storage(self.0.storage.clone(), self.0.layout, None)
    }

    /// The values of now without history, for a backward that computes with tensors: later writes do not reach them. No copy
    /// is made unless there is such a write while they are kept.
    pub(crate) fn snapshot(&self, op: &'static str) -> Result<Tensor> {
        let storage = Arc::new(Storage::of(self.0.storage.read(op)?));
        Ok(Tensor::from_storage(storage, self.0.layout, None))
    }

    /// The operation that made this tensor, if it was recorded.
    pub fn op(&self) -> Option<crate::Op> {
        self.0.node.as_ref().map(|n| n.op)
    }

    pub(crate) fn node(&self) -> Option<&Arc<Node>> {
        self.0.node.as_ref()
    }

    pub(crate) fn layout(&self) -> &Layout {
        &self.0.layout
    }

    pub(crate) fn storage(&self) -> &Arc<Storage> {
        &self.0.storage
    }

    /// True if nobody has changed the memory in place since the operation that made this tensor.
    pub(crate) fn is_as_made(&self) -> bool {
        self.0.storage.is_as_made()
    }

    /// A snapshot of the values under this tensor's layout.
    #[inline]
    pub(crate) fn view(&self, op: &'static str) -> Result<View> {
        Ok(View { buffer: self.0.storage.read(op)?, layout: self.0.layout })
    }

    /// The buffer, if this handle is the only way to see it and shows all of it in order: then it may be changed in place.
    pub(crate) fn unique(&mut self) -> Option<&mut Buffer> {
        let inner = Arc::get_mut(&mut self.0)?;
        if inner.layout.offset != 0 || inner.layout.shape.numel() != inner.storage.len || !inner.layout.is_contiguous()
        {
            return None;
        }
        Arc::get_mut(&mut inner.storage)?.unique()
    }

    /// The same values as the result of a recorded operation. For tensors just made by that operation.
    pub(crate) fn attach(self, node: Arc<Node>) -> Tensor {
        match Arc::try_unwrap(self.0) {
            Ok(mut inner) => {
                inner.node = Some(node);
                Tensor(Arc::new(inner))
            }
            Err(shared) => Tensor::from_storage(shared.storage.clone(), shared.layout, Some(node)),
        }
    }

    /// The same tensor with its history cut off and handed back, so that its memory may become unique.
    pub(crate) fn without_node(self) -> Tensor {
        match Arc::try_unwrap(self.0) {
            Ok(mut inner) => {
                inner.node = None;
                Tensor(Arc::new(inner))
            }
            Err(shared) => Tensor(shared).detach(),
        }
    }

    // ---- reading and writing ----

    /// Runs `f` on the elements in row-major order. Copies first if the view has gaps.
    ///
    /// # Errors
    /// Another dtype, no values (Meta), no memory for the copy; [`Error::Busy`] inside a [`Tensor::with_data_mut`] of the same
    /// memory, on this thread or another.
    pub fn with_data<T: Element, R>(&self, f: impl FnOnce(&[T]) -> R) -> Result<R> {
        self.check_readable::<T>("with_data")?;
        let dense = self.detach().contiguous()?;
        let view = dense.view("with_data")?;
        Ok(f(view.dense()))
    }

    /// Runs `f` on the elements in place: parameter updates and initialisation. Every view of the memory changes;
    /// values saved for a backward do not.
    ///
    /// # Errors
    /// Another dtype, no values (Meta), a view with gaps, no memory for the copy of values that a backward or a reader holds;
    /// [`Error::Busy`] while another such call on the same memory runs.
    pub fn with_data_mut<T: Element, R>(&self, f: impl FnOnce(&mut [T]) -> R) -> Result<R> {
        self.check_readable::<T>("with_data_mut")?;
        if !self.is_contiguous() {
            return Err(Error::BadShape {
                op: "with_data_mut",
                shape: Box::new(*self.shape()),
                why: "the view is not contiguous",
            });
        }
        let (start, len) = (self.0.layout.offset, self.numel());
        self.0.storage.write("with_data_mut", |b| f(&mut b.slice_mut()[start..start + len]))
    }

    /// The elements in row-major order.
    ///
    /// # Errors
    /// As [`Tensor::with_data`], [`Error::Busy`] among them.
    pub fn to_vec<T: Element>(&self) -> Result<Vec<T>> {
        self.with_data(<[T]>::to_vec)
    }

    /// The only element.
    ///
    /// # Errors
    /// More or fewer than one, and as [`Tensor::with_data`].
    pub fn item<T: Element>(&self) -> Result<T> {
        if self.numel() != 1 {
            return Err(Error::BadShape {
                op: "item",
                shape: Box::new(*self.shape()),
                why: "it must hold exactly one value",
            });
        }
        self.with_data(|d| d[0])
    }

    /// The elements as `f64`, whatever the dtype, in row-major order.
    ///
    /// # Errors
    /// As [`Tensor::with_data`], but for the dtype.
    pub fn to_f64_vec(&self) -> Result<Vec<f64>> {
        fn read<T: Element>(t: &Tensor) -> Result<Vec<f64>> {
            t.with_data::<T, _>(|d| d.iter().map(|v| v.to_f64()).collect())
        }
        match self.dtype() {
            DType::F32 => read::<f32>(self),
            DType::F64 => read::<f64>(self),
            DType::Bf16 => read::<half::bf16>(self),
            DType::U8 => read::<u8>(self),
            DType::U32 => read::<u32>(self),
            DType::I64 => read::<i64>(self),
        }
    }

    fn check_readable<T: Element>(&self, op: &'static str) -> Result<()> {
        if T::DTYPE != self.dtype() {
            return Err(Error::DTypeMismatch { op, left: self.dtype(), right: T::DTYPE });
        }
        if self.device() == Device::Meta {
            return Err(Error::NoValues { op });
        }
        Ok(())
    }
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tensor{}:{}", self.shape(), self.dtype())?;
        if self.device() != Device::Cpu {
            write!(f, "@{}", self.device())?;
        }
        if let Some(op) = self.op() {
            write!(f, " by {}", op.name())?;
        } else if self.requires_grad() {
            f.write_str(" param")?;
        }
        const SHOWN: usize = 8;
        if self.numel() <= SHOWN
            && let Ok(values) = self.to_f64_vec()
        {
            write!(f, " {values:?}")?;
        }
        Ok(())
    }
}
