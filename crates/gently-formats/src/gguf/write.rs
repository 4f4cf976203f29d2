//! Writing, one tensor after another, into an atomic file.

use super::{Array, TensorType, Value};
use crate::atomic::AtomicFile;
use crate::{Error, Result};
use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;

const ALIGNMENT: u64 = 32;
/// The longest name that ggml reads.
const NAME_BYTES: usize = 63;

/// A tensor to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spec {
    /// Its name, at most 63 bytes.
    pub name: String,
    /// How its rows are stored.
    pub kind: TensorType,
    /// Its sizes, outermost first, at most four.
    pub shape: Vec<usize>,
}

/// Writes a file of version 3, alignment 32. Equal content gives equal bytes. The file appears by [`Writer::finish`].
#[derive(Debug)]
pub struct Writer {
    file: AtomicFile,
    /// Names and bytes still to come, last first.
    rest: Vec<(String, u64)>,
    /// Bytes of the current tensor already written.
    done: u64,
}

impl Writer {
    /// Writes the header, keys in the order given. The tensors' data must follow in the order of `specs`.
    ///
    /// # Errors
    /// [`Error::Request`] for a name or key twice, a name too long, a size that overflows or rows that are no whole number of
    /// blocks, `general.alignment` among the keys; [`Error::Io`].
    pub fn create(path: impl AsRef<Path>, keys: &[(String, Value)], specs: &[Spec]) -> Result<Self> {
        let path = path.as_ref();
        let request = |reason: String| Error::Request { path: path.into(), reason };
        let mut head = b"GGUF".to_vec();
        head.extend(3u32.to_le_bytes());
        head.extend((specs.len() as u64).to_le_bytes());
        head.extend((keys.len() as u64).to_le_bytes());
        let mut seen = BTreeSet::new();
        for (key, value) in keys {
            if key == "general.alignment" || !seen.insert(key.as_str()) {
                return Err(request(format!("metadata key {key:?} is taken")));
            }
            push_text(&mut head, key);
            head.extend(value.type_id().to_le_bytes());
            push_value(&mut head, value);
        }
        let mut seen = BTreeSet::new();
        let mut rest = Vec::with_capacity(specs.len());
        let mut at = 0u64;
        for spec in specs {
            if !seen.insert(spec.name.as_str()) || spec.name.len() > NAME_BYTES || spec.shape.len() > 4 {
                return Err(request(format!("tensor {:?} of shape {:?} cannot be written", spec.name, spec.shape)));
            }
            let rows = spec.shape.iter().rev().skip(1).try_fold(1usize, |n, &d| n.checked_mul(d));
            let row = spec.kind.row_bytes(spec.shape.last().copied().unwrap_or(1));
            let bytes = rows.zip(row).and_then(|(n, row)| n.checked_mul(row)).ok_or_else(|| {
                request(format!("tensor {:?} of shape {:?} does not fit {}", spec.name, spec.shape, spec.kind))
            })? as u64;
            push_text(&mut head, &spec.name);
            head.extend((spec.shape.len() as u32).to_le_bytes());
            spec.shape.iter().rev().for_each(|&d| head.extend((d as u64).to_le_bytes()));
            head.extend(spec.kind.id().to_le_bytes());
            head.extend(at.to_le_bytes());
            at = at.checked_add(bytes).and_then(|n| n.checked_next_multiple_of(ALIGNMENT)).ok_or_else(|| {
                request(format!("tensor {:?} of shape {:?} makes the file too long", spec.name, spec.shape))
            })?;
            rest.push((spec.name.clone(), bytes));
        }
        rest.reverse();
        head.resize(head.len().next_multiple_of(ALIGNMENT as usize), 0);
        let mut file = AtomicFile::create(path)?;
        file.write_all(&head).map_err(Error::io(path, "write"))?;
        let mut writer = Self { file, rest, done: 0 };
        writer.skip_full()?;
        Ok(writer)
    }

    /// Appends bytes of the current tensor; of the next one once the current is complete.
    ///
    /// # Errors
    /// [`Error::Request`] when more comes than was announced, [`Error::Io`].
    pub fn write(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            let Some((_, size)) = self.rest.last() else {
                let reason = format!("{} bytes more than announced", bytes.len());
                return Err(Error::Request { path: self.file.target().into(), reason });
            };
            let left = usize::try_from(size - self.done).unwrap_or(usize::MAX);
            let (now, later) = bytes.split_at(bytes.len().min(left));
            self.file.write_all(now).map_err(Error::io(self.file.target(), "write"))?;
            self.done += now.len() as u64;
            bytes = later;
            self.skip_full()?;
        }
        Ok(())
    }

    /// Puts the file in its place.
    ///
    /// # Errors
    /// [`Error::Request`] naming the first tensor whose data is missing, [`Error::Io`].
    pub fn finish(self) -> Result<()> {
        if let Some((name, size)) = self.rest.last() {
            let reason = format!("tensor {name:?} has {} of its {size} bytes", self.done);
            return Err(Error::Request { path: self.file.target().into(), reason });
        }
        self.file.commit()
    }

    /// Goes on to the next tensor that wants bytes; each starts on the alignment.
    fn skip_full(&mut self) -> Result<()> {
        while self.rest.last().is_some_and(|(_, size)| *size == self.done) {
            self.rest.pop();
            let pad = self.done.next_multiple_of(ALIGNMENT) - self.done;
            let zeros = [0; ALIGNMENT as usize];
            self.file.write_all(&zeros[..pad as usize]).map_err(Error::io(self.file.target(), "write"))?;
            self.done = 0;
        }
        Ok(())
    }
}

fn push_text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

fn push_value(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::U8(v) => out.push(*v),
        Value::I8(v) => out.extend(v.to_le_bytes()),
        Value::U16(v) => out.extend(v.to_le_bytes()),
        Value::I16(v) => out.extend(v.to_le_bytes()),
        Value::U32(v) => out.extend(v.to_le_bytes()),
        Value::I32(v) => out.extend(v.to_le_bytes()),
        Value::F32(v) => out.extend(v.to_le_bytes()),
        Value::Bool(v) => out.push((*v).into()),
        Value::Text(v) => push_text(out, v),
        Value::Array(v) => push_array(out, v),
        Value::U64(v) => out.extend(v.to_le_bytes()),
        Value::I64(v) => out.extend(v.to_le_bytes()),
        Value::F64(v) => out.extend(v.to_le_bytes()),
    }
}

fn push_array(out: &mut Vec<u8>, array: &Array) {
    out.extend(array.type_id().to_le_bytes());
    out.extend((array.len() as u64).to_le_bytes());
    match array {
        Array::U8(v) => out.extend(v),
        Array::I8(v) => v.iter().for_each(|v| out.extend(v.to_le_bytes())),
        Array::U16(v) => v.iter().for_each(|v| out.extend(v.to_le_bytes())),
        Array::I16(v) => v.iter().for_each(|v| out.extend(v.to_le_bytes())),
        Array::U32(v) => v.iter().for_each(|v| out.extend(v.to_le_bytes())),
        Array::I32(v) => v.iter().for_each(|v| out.extend(v.to_le_bytes())),
        Array::F32(v) => v.iter().for_each(|v| out.extend(v.to_le_bytes())),
        Array::Bool(v) => v.iter().for_each(|v| out.push((*v).into())),
        Array::Texts(v) => v.iter().for_each(|v| push_text(out, v)),
        Array::Arrays(v) => v.iter().for_each(|v| push_array(out, v)),
        Array::U64(v) => v.iter().for_each(|v| out.extend(v.to_le_bytes())),
        Array::I64(v) => v.iter().for_each(|v| out.extend(v.to_le_bytes())),
        Array::F64(v) => v.iter().for_each(|v| out.extend(v.to_le_bytes())),
    }
}
