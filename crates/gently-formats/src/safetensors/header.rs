//! The header: parsed with limits, and checked whole.

use super::Dtype;
use crate::{Error, Limits, Result};
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry as Slot;
use std::ops::Range;
use std::path::Path;

/// A tensor's place and shape.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Element type.
    pub dtype: Dtype,
    /// Sizes, outermost first; empty for a scalar.
    pub shape: Vec<usize>,
    /// Bytes in the file.
    pub bytes: Range<usize>,
}

impl Entry {
    /// Elements.
    pub fn len(&self) -> usize {
        self.bytes.len() / self.dtype.size()
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}

/// A checked header.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Header {
    /// The tensors by name.
    pub tensors: BTreeMap<String, Entry>,
    /// Free text of the file's maker.
    pub metadata: BTreeMap<String, String>,
}

impl Header {
    /// Parses and checks the header of a file whose whole content is `file`; `path` is for messages. This is
    /// all of the reading that depends on the file's own numbers.
    ///
    /// # Errors
    /// [`Error::Size`], [`Error::Limit`], [`Error::Header`] and, with the tensor's name, [`Error::Tensor`].
    pub fn parse(file: &[u8], limits: &Limits, path: &Path) -> Result<Self> {
        let size = |expected: u64| Error::Size { path: path.into(), expected, found: file.len() as u64 };
        let bad = |reason: String| Error::Header { path: path.into(), reason };
        let first = file.first_chunk::<8>().ok_or_else(|| size(8))?;
        let length = u64::from_le_bytes(*first);
        if length > limits.header_bytes {
            let what = "the header's length".to_owned();
            return Err(Error::Limit { path: path.into(), what, found: length, limit: limits.header_bytes });
        }
        let start = length as usize + 8;
        let text = file.get(8..start).ok_or_else(|| size(start as u64))?;
        if text.first() != Some(&b'{') {
            return Err(Error::Magic {
                path: path.into(),
                format: "safetensors",
                found: file[..file.len().min(9)].to_vec(),
            });
        }
        let raw: Raw = serde_json::from_slice(text).map_err(|e| bad(e.to_string()))?;
        if raw.tensors.len() > limits.tensors {
            let (what, found) = ("the number of tensors".to_owned(), raw.tensors.len() as u64);
            return Err(Error::Limit { path: path.into(), what, found, limit: limits.tensors as u64 });
        }
        let mut tensors = BTreeMap::new();
        for (name, raw) in raw.tensors {
            let entry = raw.check(file.len() - start, start, &name, limits).map_err(|reason| Error::Tensor {
                path: path.into(),
                name: shorten(&name),
                reason,
            })?;
            tensors.insert(name, entry);
        }
        let header = Self { tensors, metadata: raw.metadata };
        header.check_cover(start, file.len(), path)?;
        Ok(header)
    }

    /// The tensors, in the order of their bytes, must fill the data without gap or overlap: otherwise bytes could
    /// hide in the file, or two names share them.
    fn check_cover(&self, start: usize, end: usize, path: &Path) -> Result<()> {
        let mut order: Vec<(&String, &Entry)> = self.tensors.iter().collect();
        order.sort_by_key(|(_, e)| (e.bytes.start, e.bytes.end));
        let mut at = start;
        for (name, entry) in order {
            if entry.bytes.start != at {
                let reason = format!("its data starts at byte {} of the file, not at {at}", entry.bytes.start);
                return Err(Error::Tensor { path: path.into(), name: shorten(name), reason });
            }
            at = entry.bytes.end;
        }
        if at != end {
            return Err(Error::Size { path: path.into(), expected: at as u64, found: end as u64 });
        }
        Ok(())
    }
}

/// A name that fits a message.
fn shorten(name: &str) -> String {
    if name.chars().count() <= 120 { name.into() } else { name.chars().take(120).chain(['…']).collect() }
}

/// The header as it stands in the file.
#[derive(Default)]
struct Raw {
    tensors: BTreeMap<String, RawEntry>,
    metadata: BTreeMap<String, String>,
}

#[derive(serde::Deserialize)]
struct RawEntry {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

impl RawEntry {
    fn check(&self, data: usize, start: usize, name: &str, limits: &Limits) -> Result<Entry, String> {
        if name.len() > limits.name_bytes {
            return Err(format!("its name has {} bytes, over the limit of {}", name.len(), limits.name_bytes));
        }
        if self.shape.len() > limits.rank {
            return Err(format!("{} dimensions, over the limit of {}", self.shape.len(), limits.rank));
        }
        let dtype: Dtype = self.dtype.parse().map_err(|_| format!("dtype {:?} is not known", shorten(&self.dtype)))?;
        let (from, to) = self.data_offsets;
        if from > to || to > data as u64 {
            return Err(format!("its data, bytes {from} to {to}, is outside the {data} bytes there are"));
        }
        let bytes = self
            .shape
            .iter()
            .try_fold(dtype.size() as u64, |n, &d| n.checked_mul(d))
            .ok_or_else(|| format!("shape {:?} overflows", self.shape))?;
        if bytes != to - from {
            return Err(format!("shape {:?} of {dtype} needs {bytes} bytes but has {}", self.shape, to - from));
        }
        // A zero among the sizes can make others of any size legal, so they are converted with care.
        let shape = self.shape.iter().map(|&d| usize::try_from(d)).collect::<Result<_, _>>();
        Ok(Entry {
            dtype,
            shape: shape.map_err(|_| format!("shape {:?} overflows", self.shape))?,
            bytes: start + from as usize..start + to as usize,
        })
    }
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Names;
        impl<'de> Visitor<'de> for Names {
            type Value = Raw;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object of tensors")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Raw, A::Error> {
                let mut raw = Raw::default();
                while let Some(name) = map.next_key::<String>()? {
                    if name == "__metadata__" {
                        raw.metadata = map.next_value::<Option<_>>()?.unwrap_or_default();
                        continue;
                    }
                    match raw.tensors.entry(name) {
                        Slot::Occupied(slot) => {
                            let name = shorten(slot.key());
                            return Err(A::Error::custom(format_args!("tensor {name:?} is there twice")));
                        }
                        Slot::Vacant(slot) => {
                            slot.insert(map.next_value()?);
                        }
                    }
                }
                Ok(raw)
            }
        }
        d.deserialize_map(Names)
    }
}
