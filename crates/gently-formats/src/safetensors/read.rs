//! Reading through a memory map.

use super::{Dtype, Element, Entry, Header};
use crate::{Error, Limits, Result, bounded};
use gently_kernels::buffer::mmap::Mmap;
use half::{bf16, f16};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// An open file of weights.
#[derive(Debug)]
pub struct SafeTensors {
    path: PathBuf,
    map: Mmap,
    header: Header,
}

impl SafeTensors {
    /// Opens a file and checks its header.
    ///
    /// # Errors
    /// Those of [`Header::parse`], and [`Error::Io`].
    pub fn open(path: impl AsRef<Path>, limits: &Limits) -> Result<Self> {
        let path = path.as_ref();
        let map = bounded::map(path).map_err(Error::io(path, "read"))?;
        let header = Header::parse(&map, limits, path)?;
        Ok(Self { path: path.into(), map, header })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The tensors by name.
    pub fn tensors(&self) -> &BTreeMap<String, Entry> {
        &self.header.tensors
    }

    /// Free text of the file's maker.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.header.metadata
    }

    /// A tensor's place and shape.
    ///
    /// # Errors
    /// [`Error::NoTensor`], with a name that ends alike if there is one.
    pub fn entry(&self, name: &str) -> Result<&Entry> {
        self.header.tensors.get(name).ok_or_else(|| {
            // Most wrong names differ in a prefix such as "model." or "transformer.".
            let near = self.header.tensors.keys().find(|k| k.ends_with(name) || name.ends_with(k.as_str()));
            Error::NoTensor { path: self.path.clone(), name: name.into(), near: near.cloned() }
        })
    }

    /// A tensor's bytes, little-endian, of no particular alignment.
    ///
    /// # Errors
    /// As [`SafeTensors::entry`].
    pub fn bytes(&self, name: &str) -> Result<&[u8]> {
        Ok(&self.map[self.entry(name)?.bytes.clone()])
    }

    /// Gives back the memory of the tensors read so far; they can be read again.
    pub fn release(&self) {
        self.map.release();
    }

    /// A tensor's elements.
    ///
    /// # Errors
    /// [`Error::Tensor`] when they are of another type.
    pub fn to_vec<T: Element>(&self, name: &str) -> Result<Vec<T>> {
        let entry = self.entry(name)?;
        if entry.dtype != T::DTYPE {
            let reason = format!("it is {}, not {}", entry.dtype, T::DTYPE);
            return Err(Error::Tensor { path: self.path.clone(), name: name.into(), reason });
        }
        let mut out = vec![T::zeroed(); entry.len()];
        // As they lie: the kernels compile for little-endian machines alone.
        bytemuck::cast_slice_mut::<T, u8>(&mut out).copy_from_slice(&self.map[entry.bytes.clone()]);
        Ok(out)
    }

    /// A tensor of any floating type, as f32.
    ///
    /// # Errors
    /// As [`SafeTensors::read_f32`].
    pub fn to_f32(&self, name: &str) -> Result<Vec<f32>> {
        let mut out = vec![0.0; self.entry(name)?.len()];
        self.read_f32(name, &mut out)?;
        Ok(out)
    }

    /// Fills `out` with a tensor of any floating type (F32, F16, BF16, F64), as f32.
    ///
    /// # Errors
    /// [`Error::Tensor`] when it is not floating or has another number of elements, [`Error::NoTensor`].
    pub fn read_f32(&self, name: &str, out: &mut [f32]) -> Result<()> {
        let entry = self.entry(name)?;
        let bad = |reason: String| Error::Tensor { path: self.path.clone(), name: name.into(), reason };
        if out.len() != entry.len() {
            return Err(bad(format!("{} elements were asked for but it has {}", out.len(), entry.len())));
        }
        let bytes = &self.map[entry.bytes.clone()];
        match entry.dtype {
            Dtype::F32 => fill(bytes, out, f32::from_le_bytes),
            Dtype::F64 => fill(bytes, out, |b| f64::from_le_bytes(b) as f32),
            Dtype::F16 => fill(bytes, out, |b| f16::from_le_bytes(b).to_f32()),
            Dtype::Bf16 => fill(bytes, out, |b| bf16::from_le_bytes(b).to_f32()),
            other => return Err(bad(format!("it is {other}, which is not read as f32"))),
        }
        Ok(())
    }
}

fn fill<const N: usize>(bytes: &[u8], out: &mut [f32], convert: impl Fn([u8; N]) -> f32) {
    for (o, b) in out.iter_mut().zip(bytes.as_chunks::<N>().0) {
        *o = convert(*b);
    }
}
