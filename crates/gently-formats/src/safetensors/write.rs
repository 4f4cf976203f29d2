//! Writing, one tensor after another, into an atomic file.

use super::{Dtype, Element};
use crate::atomic::AtomicFile;
use crate::{Error, Result};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

/// A tensor to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spec {
    /// Its name.
    pub name: String,
    /// Its element type.
    pub dtype: Dtype,
    /// Its sizes, outermost first.
    pub shape: Vec<usize>,
}

/// Writes a file of weights. Equal content gives equal bytes. The file appears by [`Writer::finish`].
#[derive(Debug)]
pub struct Writer {
    file: AtomicFile,
    /// Names and bytes still to come, last first.
    rest: Vec<(String, Dtype, usize)>,
    /// Bytes of the current tensor already written.
    done: usize,
}

impl Writer {
    /// Writes the header. The tensors' data must follow in the order of `specs`; put wide types first to keep all
    /// aligned.
    ///
    /// # Errors
    /// [`Error::Request`] for a name twice or a size that overflows, [`Error::Io`].
    pub fn create(path: impl AsRef<Path>, specs: &[Spec], metadata: &BTreeMap<String, String>) -> Result<Self> {
        let path = path.as_ref();
        let request = |reason: String| Error::Request { path: path.into(), reason };
        let mut header = Map::new();
        if !metadata.is_empty() {
            header.insert("__metadata__".into(), json!(metadata));
        }
        let mut rest = Vec::with_capacity(specs.len());
        let mut at = 0usize;
        for spec in specs {
            let end = spec
                .shape
                .iter()
                .try_fold(spec.dtype.size(), |n, &d| n.checked_mul(d))
                .and_then(|n| at.checked_add(n))
                .ok_or_else(|| request(format!("tensor {:?} of shape {:?} overflows", spec.name, spec.shape)))?;
            let entry: Value = json!({"dtype": spec.dtype.name(), "shape": spec.shape, "data_offsets": [at, end]});
            if spec.name == "__metadata__" || header.insert(spec.name.clone(), entry).is_some() {
                return Err(request(format!("tensor name {:?} is taken", spec.name)));
            }
            rest.push((spec.name.clone(), spec.dtype, end - at));
            at = end;
        }
        rest.reverse();
        let mut text = Value::Object(header).to_string();
        // The data starts on a multiple of 8, as the format's own writer has it.
        text.push_str(&" ".repeat(text.len().next_multiple_of(8) - text.len()));
        let mut file = AtomicFile::create(path)?;
        file.write_all(&(text.len() as u64).to_le_bytes())
            .and_then(|()| file.write_all(text.as_bytes()))
            .map_err(Error::io(path, "write"))?;
        let mut writer = Self { file, rest, done: 0 };
        writer.skip_full();
        Ok(writer)
    }

    /// Appends little-endian bytes of the current tensor, or of it and the next ones.
    ///
    /// # Errors
    /// [`Error::Request`] when more comes than was announced: nothing is written then. [`Error::Io`].
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.check(bytes.len(), None)?;
        self.append(bytes)
    }

    /// Appends elements of the current tensor, or of it and the next ones, whose types must be theirs.
    ///
    /// # Errors
    /// As [`Writer::write`], and [`Error::Tensor`] for another type; nothing is written then.
    pub fn write_elements<T: Element>(&mut self, elements: &[T]) -> Result<()> {
        // As they lie: the kernels compile for little-endian machines alone.
        let bytes = bytemuck::cast_slice(elements);
        self.check(bytes.len(), Some(T::DTYPE))?;
        self.append(bytes)
    }

    /// Appends f32 elements of the current tensor.
    ///
    /// # Errors
    /// As [`Writer::write_elements`].
    pub fn write_f32(&mut self, elements: &[f32]) -> Result<()> {
        self.write_elements(elements)
    }

    /// Puts the file in its place.
    ///
    /// # Errors
    /// [`Error::Request`] naming the first tensor whose data is missing, [`Error::Io`].
    pub fn finish(self) -> Result<()> {
        if let Some((name, _, size)) = self.rest.last() {
            let reason = format!("tensor {name:?} has {} of its {size} bytes", self.done);
            return Err(Error::Request { path: self.file.target().into(), reason });
        }
        self.file.commit()
    }

    /// Whether so many bytes may come next, in all tensors that they reach into, as elements of a type where they have one.
    fn check(&self, bytes: usize, dtype: Option<Dtype>) -> Result<()> {
        let path = || self.file.target().into();
        let (mut left, mut done) = (bytes, self.done);
        for (name, announced, size) in self.rest.iter().rev() {
            let room = size - std::mem::take(&mut done);
            if left == 0 {
                break;
            }
            if let Some(dtype) = dtype.filter(|dtype| dtype != announced && room > 0) {
                let reason = format!("it was announced as {announced}, not {dtype}");
                return Err(Error::Tensor { path: path(), name: name.clone(), reason });
            }
            left = left.saturating_sub(room);
        }
        match left {
            0 => Ok(()),
            _ => Err(Error::Request { path: path(), reason: format!("{left} bytes more than announced") }),
        }
    }

    /// Writes bytes that were [checked](Self::check).
    fn append(&mut self, mut bytes: &[u8]) -> Result<()> {
        while let Some((_, _, size)) = self.rest.last()
            && !bytes.is_empty()
        {
            let (now, later) = bytes.split_at(bytes.len().min(size - self.done));
            self.file.write_all(now).map_err(Error::io(self.file.target(), "write"))?;
            self.done += now.len();
            bytes = later;
            self.skip_full();
        }
        Ok(())
    }

    fn skip_full(&mut self) {
        while self.rest.last().is_some_and(|(_, _, size)| *size == self.done) {
            self.rest.pop();
            self.done = 0;
        }
    }
}
