//! The memory behind tensors: a typed buffer from the pool, shared by all views of it.
//!
//! Readers take a snapshot ([`Storage::read`]) and never block each other; a writer takes the buffer out, so a
//! reader that comes meanwhile gets [`Error::Busy`] instead of a deadlock. A snapshot kept for a backward therefore
//! stays valid whatever is written later (the writer copies if it must). Not here: what the elements mean.

use crate::memory::{self, Block};
use crate::{DType, Device, Element, Error, Result, Shape};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// An owned run of elements; goes back to the pool when dropped.
#[derive(Debug)]
pub(crate) struct Buffer {
    device: Device,
    dtype: DType,
    len: usize,
    block: Option<Block>,
}

impl Buffer {
    /// Elements of unspecified value for `op`'s tensor of `shape`. Errors: there is no memory for them.
    pub fn alloc(op: &'static str, device: Device, dtype: DType, shape: Shape) -> Result<Buffer> {
        Buffer::new(op, device, dtype, shape, false)
    }

    /// Zeros. Errors as [`Buffer::alloc`].
    pub fn zeroed(op: &'static str, device: Device, dtype: DType, shape: Shape) -> Result<Buffer> {
        Buffer::new(op, device, dtype, shape, true)
    }

    fn new(op: &'static str, device: Device, dtype: DType, shape: Shape, zeroed: bool) -> Result<Buffer> {
        let len = shape.numel();
        let bytes = len * dtype.size();
        match memory::take(device, bytes, zeroed) {
            Some(block) => Ok(Buffer { device, dtype, len, block: Some(block) }),
            None => Err(Error::OutOfMemory { op, shape: Box::new(shape), dtype, bytes }),
        }
    }

    /// The same elements in a buffer of its own. Errors as [`Buffer::alloc`].
    fn try_clone(&self, op: &'static str) -> Result<Buffer> {
        let mut copy = Buffer::alloc(op, self.device, self.dtype, Shape::raw(&[self.len]))?;
        if let (Some(Block::Bytes(to)), Some(Block::Bytes(from))) = (&mut copy.block, &self.block) {
            let bytes = self.len * self.dtype.size();
            to[..bytes].copy_from_slice(&from[..bytes]);
        }
        Ok(copy)
    }

    pub fn is_meta(&self) -> bool {
        matches!(self.block, Some(Block::Counted { .. } | Block::Uncounted))
    }

    pub fn dtype(&self) -> DType {
        self.dtype
    }

    pub fn device(&self) -> Device {
        self.device
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn bytes(&self) -> usize {
        self.len * self.dtype.size()
    }

    /// The elements. Empty on Meta; callers have checked the dtype.
    #[inline]
    pub fn slice<T: Element>(&self) -> &[T] {
        debug_assert_eq!(T::DTYPE, self.dtype);
        match &self.block {
            // A buffer of nothing has no alignment to rely on.
            Some(Block::Bytes(b)) if self.len > 0 => bytemuck::cast_slice(&b[..self.len * size_of::<T>()]),
            _ => &[],
        }
    }

    #[inline]
    pub fn slice_mut<T: Element>(&mut self) -> &mut [T] {
        debug_assert_eq!(T::DTYPE, self.dtype);
        match &mut self.block {
            Some(Block::Bytes(b)) if self.len > 0 => bytemuck::cast_slice_mut(&mut b[..self.len * size_of::<T>()]),
            _ => &mut [],
        }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(block) = self.block.take() {
            memory::put(self.device, self.len * self.dtype.size(), block);
        }
    }
}

/// A buffer shared by tensors.
#[derive(Debug)]
pub(crate) struct Storage {
    pub device: Device,
    pub dtype: DType,
    pub len: usize,
    /// `None` while a writer has it.
    buffer: Mutex<Option<Arc<Buffer>>>,
    /// True from the first [`Storage::write`] on.
    written: AtomicBool,
}

impl Storage {
    pub fn new(buffer: Buffer) -> Storage {
        Storage::of(Arc::new(buffer))
    }

    /// A storage of its own around what [`Storage::read`] gave: a write to either leaves the other as it is.
    pub fn of(buffer: Arc<Buffer>) -> Storage {
        Storage {
            device: buffer.device,
            dtype: buffer.dtype,
            len: buffer.len,
            buffer: Mutex::new(Some(buffer)),
            written: AtomicBool::new(false),
        }
    }

    /// True if the contents are still those that the storage was made with.
    pub fn is_as_made(&self) -> bool {
        !self.written.load(Ordering::Relaxed)
    }

    /// The present contents; stays what it is even if a writer comes.
    #[inline]
    pub fn read(&self, op: &'static str) -> Result<Arc<Buffer>> {
        let cell = self.buffer.lock().unwrap_or_else(PoisonError::into_inner);
        cell.clone().ok_or(Error::Busy { op })
    }

    /// Lets `f` change the contents. If a reader holds a snapshot, the writer works on a copy and the reader keeps the old.
    pub fn write<R>(&self, op: &'static str, f: impl FnOnce(&mut Buffer) -> R) -> Result<R> {
        struct PutBack<'a> {
            storage: &'a Storage,
            buffer: Option<Arc<Buffer>>,
        }
        impl Drop for PutBack<'_> {
            fn drop(&mut self) {
                let mut cell = self.storage.buffer.lock().unwrap_or_else(PoisonError::into_inner);
                *cell = self.buffer.take();
            }
        }
        self.written.store(true, Ordering::Relaxed);
        let taken = self.buffer.lock().unwrap_or_else(PoisonError::into_inner).take();
        let mut guard = PutBack { storage: self, buffer: Some(taken.ok_or(Error::Busy { op })?) };
        let buffer = guard.buffer.as_mut().ok_or(Error::Busy { op })?;
        if Arc::get_mut(buffer).is_none() {
            *buffer = Arc::new(buffer.try_clone(op)?);
        }
        let buffer = Arc::get_mut(buffer).ok_or(Error::Busy { op })?;
        Ok(f(buffer))
    }

    /// The buffer, if nobody else can see it.
    pub fn unique(&mut self) -> Option<&mut Buffer> {
        let cell = self.buffer.get_mut().unwrap_or_else(PoisonError::into_inner);
        cell.as_mut().and_then(Arc::get_mut)
    }
}
