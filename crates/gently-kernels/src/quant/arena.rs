//! Memory shared by packed matrices.
//!
//! Here: [`PackArena`] and the pieces it hands out. Small matrices of a model lie side by side in large chunks: those
//! have huge pages, so that streaming a layer's weights does not stop at every 4 KiB for an address translation.

use super::packed::PackedMatrix;
use super::{BlockType, QuantError};
use crate::buffer::{AlignedBuf, OutOfMemory};
use std::fmt;
use std::ops::Deref;
use std::ptr::NonNull;
use std::sync::Arc;

/// Bytes of a chunk, unless a matrix is larger.
const CHUNK: usize = 32 << 20;

/// Packs matrices into shared memory. Untouched parts of a chunk cost address space only; a chunk is freed with
/// its last matrix.
///
/// ```
/// use gently_kernels::quant::{BlockType, PackArena};
/// let mut arena = PackArena::new();
/// let a = arena.pack(BlockType::F32, &[&[0; 4 * 16], &[0; 4 * 16]], 4, 8).unwrap();
/// let b = arena.pack_gated(BlockType::F32, &[0; 4 * 32], &[0; 4 * 32], 4, 8).unwrap();
/// assert_eq!((a.n(), b.is_gated()), (4, true));
/// ```
#[derive(Debug, Default)]
pub struct PackArena {
    chunk: Option<Arc<Chunk>>,
    used: usize,
}

/// The buffer is never looked at as a whole after its pieces have been given out.
struct Chunk {
    start: NonNull<u8>,
    buffer: AlignedBuf<u8>,
}

// SAFETY: bytes, reached only through pieces: one writer while a piece is unique, then readers.
unsafe impl Send for Chunk {}
// SAFETY: as above.
unsafe impl Sync for Chunk {}

impl Chunk {
    /// One of `len` zeros.
    fn try_new(len: usize) -> Result<Arc<Chunk>, OutOfMemory> {
        let mut buffer = AlignedBuf::try_zeroed(len)?;
        let start = NonNull::from(&mut buffer[..]).cast();
        Ok(Arc::new(Chunk { start, buffer }))
    }
}

impl fmt::Debug for Chunk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Chunk[{}]", self.buffer.len())
    }
}

/// Bytes of a chunk that nobody writes any more.
#[derive(Debug, Clone)]
pub(super) struct Piece {
    chunk: Arc<Chunk>,
    start: usize,
    len: usize,
}

impl Deref for Piece {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: inside the chunk's buffer, which the piece keeps alive; its only writer is gone.
        unsafe { std::slice::from_raw_parts(self.chunk.start.as_ptr().add(self.start), self.len) }
    }
}

impl PackArena {
    /// An arena with no memory yet.
    pub fn new() -> PackArena {
        PackArena::default()
    }

    /// [`PackedMatrix::pack`] in this memory, of N rows in one piece or in several that lie below each other.
    ///
    /// # Errors
    /// As there; a piece that is no whole number of rows is one.
    pub fn pack(&mut self, ty: BlockType, rows: &[&[u8]], n: usize, k: usize) -> Result<PackedMatrix, QuantError> {
        PackedMatrix::arrange(Some(self), ty, &[rows], n, k)
    }

    /// [`PackedMatrix::pack_gated`] in this memory.
    ///
    /// # Errors
    /// As there.
    pub fn pack_gated(
        &mut self,
        ty: BlockType,
        gate: &[u8],
        up: &[u8],
        n: usize,
        k: usize,
    ) -> Result<PackedMatrix, QuantError> {
        PackedMatrix::arrange(Some(self), ty, &[&[gate], &[up]], n, k)
    }

    /// An arena whose first chunk has no more than `len` bytes.
    ///
    /// # Errors
    /// The system has no memory for it.
    pub(super) fn exact(len: usize) -> Result<PackArena, OutOfMemory> {
        Ok(PackArena { chunk: Some(Chunk::try_new(len)?), used: 0 })
    }

    /// A piece of `len` zeros, filled by `fill`.
    ///
    /// # Errors
    /// The system has no memory for it; the arena then begins a new chunk with the next one.
    pub(super) fn piece(&mut self, len: usize, fill: impl FnOnce(&mut [u8])) -> Result<Piece, OutOfMemory> {
        let fits = |c: &Arc<Chunk>| len <= c.buffer.len() - self.used;
        let chunk = match self.chunk.take().filter(fits) {
            Some(chunk) => chunk,
            None => {
                self.used = 0;
                Chunk::try_new(len.max(CHUNK))?
            }
        };
        let start = self.used;
        // The next piece begins on a cache line.
        self.used = (start + len).next_multiple_of(64).min(chunk.buffer.len());
        // SAFETY: inside the buffer, and past all pieces given out before: this is its only user.
        fill(unsafe { std::slice::from_raw_parts_mut(chunk.start.as_ptr().add(start), len) });
        self.chunk = Some(chunk.clone());
        Ok(Piece { chunk, start, len })
    }
}
