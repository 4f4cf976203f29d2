//! Memory: aligned buffers for kernels and read-only file maps.
//!
//! Here: [`AlignedBuf`] and [`mmap::Mmap`]. Not here: recycling of buffers between steps, which
//! belongs to the tensor crate.
//!
//! ```
//! let mut b = gently_kernels::buffer::AlignedBuf::<f32>::zeroed(100);
//! b[7] = 1.0;
//! assert_eq!(b.as_ptr() as usize % 64, 0);
//! ```

use bytemuck::Pod;
use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::sync::OnceLock;

/// Every buffer starts on a cache line, so a full vector load never splits one.
pub const ALIGN: usize = 64;
/// From this size on a buffer is its own mapping, with huge pages asked for.
const LARGE: usize = 4 << 20;
/// The huge page of x86-64 and of most AArch64 systems.
const HUGE_PAGE: usize = 2 << 20;

/// The system has no memory for a buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("there is no memory for {bytes} bytes")]
pub struct OutOfMemory {
    /// Bytes asked for.
    pub bytes: usize,
}

enum Owner {
    Empty,
    Heap(Layout),
    // Unmapped when dropped.
    Map(#[allow(dead_code)] memmap2::MmapMut),
}

/// A zero-initialised, fixed-length buffer aligned to 64 bytes. Four MiB and more come straight from
/// the kernel as lazily zeroed memory with huge-page advice: fewer page faults and TLB misses.
pub struct AlignedBuf<T: Pod> {
    ptr: NonNull<T>,
    len: usize,
    owner: Owner,
}

// SAFETY: the buffer owns its memory alone, and T: Pod has no interior mutability or thread affinity.
unsafe impl<T: Pod + Send> Send for AlignedBuf<T> {}
// SAFETY: shared access only reads.
unsafe impl<T: Pod + Sync> Sync for AlignedBuf<T> {}

impl<T: Pod> AlignedBuf<T> {
    /// `len` zeros, for buffers whose size does not come from outside: a caller that can be asked for any size takes
    /// [`AlignedBuf::try_zeroed`].
    ///
    /// # Panics
    /// When the size overflows or the system has no memory for it.
    pub fn zeroed(len: usize) -> Self {
        Self::try_zeroed(len).unwrap_or_else(|e| panic!("{e}"))
    }

    /// `len` zeros.
    ///
    /// # Errors
    /// The system has no memory for them, or they are more than can be addressed.
    pub fn try_zeroed(len: usize) -> Result<Self, OutOfMemory> {
        const { assert!(align_of::<T>() <= ALIGN) };
        let bytes = len.saturating_mul(size_of::<T>());
        let refused = OutOfMemory { bytes };
        if bytes == 0 {
            return Ok(Self { ptr: NonNull::dangling(), len, owner: Owner::Empty });
        }
        if bytes > isize::MAX as usize - HUGE_PAGE {
            return Err(refused);
        }
        if bytes >= LARGE
            && let Some(buf) = Self::mapped(len, bytes)
        {
            return Ok(buf);
        }
        let layout = Layout::from_size_align(bytes, ALIGN).map_err(|_| refused)?;
        // SAFETY: the layout has a non-zero size.
        let raw = unsafe { alloc_zeroed(layout) };
        let ptr = NonNull::new(raw.cast::<T>()).ok_or(refused)?;
        Ok(Self { ptr, len, owner: Owner::Heap(layout) })
    }

    /// An anonymous mapping whose used part starts on a huge-page boundary. The slack before it is
    /// never touched and so costs address space only.
    fn mapped(len: usize, bytes: usize) -> Option<Self> {
        let mut map = memmap2::MmapMut::map_anon(bytes + HUGE_PAGE).ok()?;
        let start = map.as_mut_ptr();
        let skip = start.align_offset(HUGE_PAGE);
        #[cfg(target_os = "linux")]
        {
            // Advice only: a kernel without huge pages serves small ones. The tail, less than a huge page, is left to
            // small ones, or it would take a whole one: with large models that was 8 % of their memory.
            let _ = map.advise_range(memmap2::Advice::HugePage, skip, bytes / HUGE_PAGE * HUGE_PAGE);
        }
        // SAFETY: skip < HUGE_PAGE, and the mapping is bytes + HUGE_PAGE long, so the result and the
        // `bytes` after it lie inside the mapping.
        let ptr = NonNull::new(unsafe { start.add(skip) }.cast::<T>())?;
        Some(Self { ptr, len, owner: Owner::Map(map) })
    }

    /// Bytes of main memory that a buffer of `len` elements takes when the first `used` are touched.
    pub(crate) fn resident(len: usize, used: usize) -> usize {
        let (bytes, used) = (len.saturating_mul(size_of::<T>()), used.saturating_mul(size_of::<T>()));
        let huge = bytes / HUGE_PAGE * HUGE_PAGE;
        match bytes >= LARGE && used <= huge && huge_pages() {
            true => used.next_multiple_of(HUGE_PAGE),
            false => used.next_multiple_of(4096).min(bytes),
        }
    }

    /// A buffer holding a copy of `data`.
    pub fn from_slice(data: &[T]) -> Self {
        let mut b = Self::zeroed(data.len());
        b.copy_from_slice(data);
        b
    }

    /// A buffer holding the same, for buffers whose size comes from outside.
    ///
    /// # Errors
    /// As [`AlignedBuf::try_zeroed`].
    pub fn try_clone(&self) -> Result<Self, OutOfMemory> {
        let mut copy = Self::try_zeroed(self.len)?;
        copy.copy_from_slice(self);
        Ok(copy)
    }
}

impl<T: Pod> Drop for AlignedBuf<T> {
    fn drop(&mut self) {
        if let Owner::Heap(layout) = self.owner {
            // SAFETY: allocated in `try_zeroed` with this very layout, and freed once.
            unsafe { dealloc(self.ptr.as_ptr().cast(), layout) }
        }
    }
}

impl<T: Pod> Deref for AlignedBuf<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        // SAFETY: ptr is valid for len initialised (zeroed, T: Pod) elements for the life of self.
        unsafe { std::slice::from_raw_parts(self.ptr.as_ptr(), self.len) }
    }
}

impl<T: Pod> DerefMut for AlignedBuf<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as in `deref`, and &mut self makes the access unique.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.as_ptr(), self.len) }
    }
}

impl<T: Pod> Clone for AlignedBuf<T> {
    fn clone(&self) -> Self {
        Self::from_slice(self)
    }
}

impl<T: Pod> fmt::Debug for AlignedBuf<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AlignedBuf<{}>[{}]", std::any::type_name::<T>(), self.len)
    }
}

/// Whether the system gives huge pages to those who ask for them.
fn huge_pages() -> bool {
    static GIVEN: OnceLock<bool> = OnceLock::new();
    *GIVEN.get_or_init(|| {
        let setting = std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled");
        setting.is_ok_and(|setting| !setting.contains("[never]"))
    })
}

/// Read-only maps of files.
pub mod mmap {
    use std::fs::File;
    use std::io;
    use std::ops::Deref;

    /// A file's bytes, read on demand through the page cache.
    ///
    /// **Caveat.** The map is a window on the file, not a copy. If another process truncates the file
    /// while it is mapped, touching the lost part ends this process with SIGBUS; if it writes to the
    /// file, the bytes here change. Gently writes its own files by rename, which leaves open maps on
    /// the old contents, so only a foreign writer can do this. Readers must validate what they parse
    /// and not assume that two reads of one place agree.
    #[derive(Debug)]
    pub struct Mmap {
        map: Option<memmap2::Mmap>,
    }

    impl Mmap {
        /// Maps the whole of `file`. An empty file gives an empty map.
        ///
        /// # Errors
        /// Those of the operating system: not a regular file, out of address space.
        pub fn map(file: &File) -> io::Result<Mmap> {
            let meta = file.metadata()?;
            if meta.is_file() && meta.len() == 0 {
                return Ok(Mmap { map: None });
            }
            // SAFETY: the map is read-only and private to this value. The bytes may change under a
            // foreign writer; u8 has no invalid values, and the caveat above is the documented contract.
            let map = unsafe { memmap2::Mmap::map(file)? };
            Ok(Mmap { map: Some(map) })
        }

        /// Opens and maps a file.
        ///
        /// # Errors
        /// As [`Mmap::map`], and those of opening the file.
        pub fn open(path: impl AsRef<std::path::Path>) -> io::Result<Mmap> {
            Self::map(&File::open(path)?)
        }

        /// Gives back the memory of what was read so far; reading it again takes it from the page cache or the disk.
        /// For who copies a file part by part and would hold it twice. Does nothing where the system has no such call.
        pub fn release(&self) {
            #[cfg(unix)]
            if let Some(map) = &self.map {
                // SAFETY: the map is shared and read-only, so its pages hold nothing but the file: they come back with
                // the same bytes (but for a foreign writer, see above). A refusal leaves them where they are.
                let _ = unsafe { map.unchecked_advise(memmap2::UncheckedAdvice::DontNeed) };
            }
        }
    }

    impl Deref for Mmap {
        type Target = [u8];
        fn deref(&self) -> &[u8] {
            self.map.as_deref().unwrap_or(&[])
        }
    }

    impl AsRef<[u8]> for Mmap {
        fn as_ref(&self) -> &[u8] {
            self
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_and_large_buffers_are_zeroed_and_aligned() {
        for len in [0, 1, 17, LARGE / 4 - 1, LARGE / 4, LARGE / 4 + 33] {
            let mut b = AlignedBuf::<f32>::zeroed(len);
            assert_eq!(b.len(), len);
            assert!(b.iter().all(|&x| x == 0.0));
            if len > 0 {
                assert_eq!(b.as_ptr() as usize % ALIGN, 0);
                b[len - 1] = 2.0;
                assert_eq!(b.clone()[len - 1], 2.0);
                assert_eq!(b.try_clone().unwrap()[..], b[..]);
            }
        }
    }

    #[test]
    fn what_no_machine_has_is_refused() {
        // The whole address space of today's processors, and more than a count of bytes can say.
        for len in [1 << 46, isize::MAX as usize, usize::MAX] {
            let refused = AlignedBuf::<u32>::try_zeroed(len).unwrap_err();
            assert_eq!(refused.bytes, len.saturating_mul(4));
        }
        assert_eq!(AlignedBuf::<u32>::try_zeroed(9).unwrap().len(), 9);
    }

    #[test]
    fn maps_files_and_empty_files() {
        let dir = std::env::temp_dir();
        let p = dir.join(format!("gently-mmap-{}", std::process::id()));
        std::fs::write(&p, b"transformer").unwrap();
        assert_eq!(&*mmap::Mmap::open(&p).unwrap(), b"transformer");
        std::fs::write(&p, b"").unwrap();
        assert!(mmap::Mmap::open(&p).unwrap().is_empty());
        std::fs::remove_file(&p).unwrap();
        assert!(mmap::Mmap::open(&p).is_err());
    }
}
