//! The header: parsed with limits, and checked whole.
//!
//! Every count is held to the bytes that are left, of the file and of the longest header, before anything is allocated by
//! it, and all arithmetic on numbers from the file is checked.

use super::kinds::unread_name;
use super::{Array, Metadata, TensorType, Texts, Value};
use crate::{Error, Limits, Result};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry as Slot;
use std::ops::Range;
use std::path::Path;

/// Memory that an open header may hold, as a multiple of its bytes in the file. A tensor of 24 bytes (no name, no sizes) and
/// an empty array of 12 become map and vector entries of about ten times that.
pub const HEADER_FACTOR: usize = 16;

/// Arrays may stand in arrays this deep.
const DEPTH: usize = 4;
/// The longest key (ggml's `docs/gguf.md`).
const KEY_BYTES: usize = 65535;
/// Sizes of a tensor (ggml's `GGML_MAX_DIMS`).
const RANK: usize = 4;
/// The widest alignment believed.
const ALIGNMENT: u64 = 1 << 16;
const DEFAULT_ALIGNMENT: u64 = 32;

/// A tensor's place and shape.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// How rows are stored.
    pub kind: TensorType,
    /// Sizes, outermost first; empty for a scalar.
    pub shape: Vec<usize>,
    /// Which part of a split file holds it.
    pub part: usize,
    /// Bytes in that part.
    pub bytes: Range<usize>,
}

impl Entry {
    /// Elements.
    pub fn len(&self) -> usize {
        self.bytes.len() / self.kind.block_bytes() * self.kind.block_len()
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}

/// A checked header of one file, whose tensors follow one another without gap or overlap.
#[derive(Debug, Clone, PartialEq)]
pub struct Header {
    /// Version of the format: 2 or 3.
    pub version: u32,
    /// The keys.
    pub metadata: Metadata,
    /// The tensors by name.
    pub tensors: BTreeMap<String, Entry>,
}

impl Header {
    /// Parses and checks the header of a file whose whole content is `file`; `path` is for messages. This is all of the
    /// reading that depends on the file's own numbers.
    ///
    /// # Errors
    /// [`Error::Magic`], [`Error::Size`], [`Error::Limit`], [`Error::Header`], [`Error::Metadata`] with the key,
    /// [`Error::Tensor`] and [`Error::UnreadType`] with the tensor's name.
    pub fn parse(file: &[u8], limits: &Limits, path: &Path) -> Result<Self> {
        let mut r = Reader { file, at: 0, limits, path };
        let magic = r.take(4)?;
        if magic != b"GGUF" {
            return Err(Error::Magic { path: path.into(), format: "GGUF", found: magic.to_vec() });
        }
        let version = r.u32()?;
        if !(2..=3).contains(&version) {
            let big = (1..=3).contains(&version.swap_bytes());
            let reason = match big {
                true => "it is a big-endian file, which is not read".to_owned(),
                false => format!("version {version} is not read; 2 and 3 are"),
            };
            return Err(r.bad(reason));
        }
        // A tensor takes at least its name's length, rank, type and offset; a key its length, type and a byte.
        let tensor_count = r.count(24, limits.tensors as u64, "the number of tensors")?;
        let key_count = r.count(13, u64::MAX, "the number of keys")?;
        let values = r.metadata(key_count)?;
        let metadata = Metadata::new(path, values);
        let alignment = alignment(&metadata)?;

        let mut raw = Vec::with_capacity(tensor_count);
        for _ in 0..tensor_count {
            raw.push(r.tensor()?);
        }
        let start = (r.at as u64).checked_next_multiple_of(alignment).ok_or_else(|| r.bad("it is too long".into()))?;
        let mut tensors = BTreeMap::new();
        // As ggml demands it, each begins where the one before it ends: a damaged type or size is found by the next, and none
        // share bytes.
        let (mut before, mut next) = (None, 0);
        for t in &raw {
            let entry =
                t.place(file.len() as u64, start, alignment).map_err(|reason| r.tensor_error(&t.name, reason))?;
            if t.offset != next {
                let found = format!("its data begins at byte {} of all", t.offset);
                let reason = match before {
                    Some(before) => format!("{found}, but {:?} before it ends at byte {next}", shorten(before)),
                    None => format!("{found}, but it is the first"),
                };
                return Err(r.tensor_error(&t.name, reason));
            }
            let end = next.checked_add(entry.bytes.len() as u64).and_then(|n| n.checked_next_multiple_of(alignment));
            next = end.ok_or_else(|| r.bad("it is too long".into()))?;
            before = Some(&t.name);
            match tensors.entry(t.name.clone()) {
                Slot::Occupied(slot) => {
                    return Err(r.tensor_error(slot.key(), "it is there twice".into()));
                }
                Slot::Vacant(slot) => {
                    slot.insert(entry);
                }
            }
        }
        Ok(Self { version, metadata, tensors })
    }

    /// Bytes of memory held.
    pub fn held_bytes(&self) -> usize {
        let entry = |(n, e): (&String, &Entry)| {
            n.capacity() + size_of::<(String, Entry)>() + e.shape.capacity() * size_of::<usize>()
        };
        self.metadata.held_bytes() + self.tensors.iter().map(entry).sum::<usize>()
    }
}

fn alignment(metadata: &Metadata) -> Result<u64> {
    const KEY: &str = "general.alignment";
    let Some(value) = metadata.get(KEY) else { return Ok(DEFAULT_ALIGNMENT) };
    match value.as_uint() {
        Some(a) if a.is_power_of_two() && a <= ALIGNMENT => Ok(a),
        Some(a) => Err(metadata.error(KEY, format!("it is {a}, not a power of two up to {ALIGNMENT}"))),
        None => Err(metadata.error(KEY, format!("it is {}, not a power of two", value.kind()))),
    }
}

/// A name that fits a message.
fn shorten(name: &str) -> String {
    if name.chars().count() <= 120 { name.into() } else { name.chars().take(120).chain(['…']).collect() }
}

/// A tensor's description as it stands in the file.
struct RawTensor {
    name: String,
    kind: TensorType,
    /// Innermost first.
    sizes: Vec<u64>,
    offset: u64,
}

impl RawTensor {
    fn place(&self, file: u64, start: u64, alignment: u64) -> Result<Entry, String> {
        let overflow = || format!("sizes {:?} overflow", self.sizes);
        let block = self.kind.block_len() as u64;
        let inner = self.sizes.first().copied().unwrap_or(1);
        if !inner.is_multiple_of(block) {
            return Err(format!("its rows of {inner} elements are no whole number of {} blocks of {block}", self.kind));
        }
        let elements = self.sizes.iter().try_fold(1u64, |n, &d| n.checked_mul(d)).ok_or_else(overflow)?;
        let bytes = (elements / block).checked_mul(self.kind.block_bytes() as u64).ok_or_else(overflow)?;
        if !self.offset.is_multiple_of(alignment) {
            return Err(format!("its offset {} is no multiple of the alignment {alignment}", self.offset));
        }
        let from = start.checked_add(self.offset);
        let to = from.and_then(|from| from.checked_add(bytes));
        let (Some(from), Some(to)) = (from, to) else {
            return Err(format!("its offset {} and {bytes} bytes overflow", self.offset));
        };
        // A tensor of no bytes may stand anywhere, but its range must be one of the file.
        if to > file && bytes > 0 {
            return Err(format!("its data, bytes {from} to {to}, is outside the {file} bytes there are"));
        }
        let bytes = if bytes == 0 { 0..0 } else { from as usize..to as usize };
        let size = |&d: &u64| usize::try_from(d).map_err(|_| overflow());
        Ok(Entry {
            kind: self.kind,
            shape: self.sizes.iter().rev().map(size).collect::<Result<_, _>>()?,
            part: 0,
            bytes,
        })
    }
}

/// Reads from the front of a file.
struct Reader<'a> {
    file: &'a [u8],
    at: usize,
    limits: &'a Limits,
    path: &'a Path,
}

macro_rules! numbers {
    ($($name:ident $t:ty)*) => { $(
        fn $name(&mut self) -> Result<$t> {
            const N: usize = size_of::<$t>();
            let mut bytes = [0; N];
            bytes.copy_from_slice(self.take(N)?);
            Ok(<$t>::from_le_bytes(bytes))
        }
    )* };
}

impl<'a> Reader<'a> {
    numbers!(u8 u8 i8 i8 u16 u16 i16 i16 u32 u32 i32 i32 f32 f32 u64 u64 i64 i64 f64 f64);

    fn rest(&self) -> u64 {
        (self.file.len() - self.at) as u64
    }

    fn take(&mut self, n: usize) -> Result<&'a [u8]> {
        let end = self.at.saturating_add(n);
        if end <= self.file.len() {
            self.check_end(end as u64)?;
        }
        let Some(bytes) = self.file.get(self.at..end) else {
            return Err(Error::Size { path: self.path.into(), expected: end as u64, found: self.file.len() as u64 });
        };
        self.at = end;
        Ok(bytes)
    }

    /// Holds the header to its longest.
    fn check_end(&self, end: u64) -> Result<()> {
        let limit = self.limits.header_bytes;
        if end > limit {
            let what = "the header's length".to_owned();
            return Err(Error::Limit { path: self.path.into(), what, found: end, limit });
        }
        Ok(())
    }

    /// A count of things that take at least `least` bytes each.
    fn count(&mut self, least: u64, limit: u64, what: &str) -> Result<usize> {
        let n = self.u64()?;
        self.check_count(n, least, limit, what)
    }

    fn check_count(&self, n: u64, least: u64, limit: u64, what: &str) -> Result<usize> {
        let limit = limit.min(self.rest() / least);
        if n > limit {
            return Err(Error::Limit { path: self.path.into(), what: what.into(), found: n, limit });
        }
        // The weights behind the header are no room for what stands in it, however long the file is.
        self.check_end((self.at as u64).saturating_add(n.saturating_mul(least)))?;
        Ok(n as usize)
    }

    fn text(&mut self, most: usize, what: &str) -> Result<&'a str> {
        let n = self.count(1, most as u64, what)?;
        let bytes = self.take(n)?;
        std::str::from_utf8(bytes).map_err(|_| self.bad(format!("{what} belongs to a string that is not UTF-8")))
    }

    fn metadata(&mut self, count: usize) -> Result<BTreeMap<String, Value>> {
        let mut values = BTreeMap::new();
        for _ in 0..count {
            let key = self.text(KEY_BYTES, "the length of a key")?.to_owned();
            let kind = self.u32()?;
            let value = self.value(kind, &key)?;
            if values.contains_key(&key) {
                return Err(self.key_error(&key, "it is there twice".into()));
            }
            values.insert(key, value);
        }
        Ok(values)
    }

    fn value(&mut self, kind: u32, key: &str) -> Result<Value> {
        Ok(match kind {
            0 => Value::U8(self.u8()?),
            1 => Value::I8(self.i8()?),
            2 => Value::U16(self.u16()?),
            3 => Value::I16(self.i16()?),
            4 => Value::U32(self.u32()?),
            5 => Value::I32(self.i32()?),
            6 => Value::F32(self.f32()?),
            7 => Value::Bool(self.bool(key)?),
            8 => Value::Text(self.text(usize::MAX, &format!("the length of {:?}", shorten(key)))?.to_owned()),
            9 => Value::Array(self.array(key, 0)?),
            10 => Value::U64(self.u64()?),
            11 => Value::I64(self.i64()?),
            12 => Value::F64(self.f64()?),
            other => return Err(self.key_error(key, format!("its type {other} is not known"))),
        })
    }

    fn bool(&mut self, key: &str) -> Result<bool> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(self.key_error(key, format!("a truth value is {other}, not 0 or 1"))),
        }
    }

    fn array(&mut self, key: &str, depth: usize) -> Result<Array> {
        if depth == DEPTH {
            return Err(self.key_error(key, format!("arrays stand in arrays more than {DEPTH} deep")));
        }
        let kind = self.u32()?;
        // The least bytes of an element in the file.
        let least = match kind {
            0 | 1 | 7 => 1,
            2 | 3 => 2,
            4..=6 => 4,
            8 | 10..=12 => 8,
            9 => 12,
            other => return Err(self.key_error(key, format!("its elements' type {other} is not known"))),
        };
        let n = self.count(least, u64::MAX, &format!("the number of elements of {:?}", shorten(key)))?;
        macro_rules! all {
            ($variant:ident, $read:ident) => {{
                let mut v = Vec::with_capacity(n);
                for _ in 0..n {
                    v.push(self.$read()?);
                }
                Array::$variant(v)
            }};
        }
        Ok(match kind {
            0 => all!(U8, u8),
            1 => all!(I8, i8),
            2 => all!(U16, u16),
            3 => all!(I16, i16),
            4 => all!(U32, u32),
            5 => all!(I32, i32),
            6 => all!(F32, f32),
            7 => {
                let mut v = Vec::with_capacity(n);
                for _ in 0..n {
                    v.push(self.bool(key)?);
                }
                Array::Bool(v)
            }
            8 => {
                let mut texts = Texts::default();
                let what = format!("the length of an element of {:?}", shorten(key));
                for _ in 0..n {
                    texts.push(self.text(usize::MAX, &what)?);
                }
                Array::Texts(texts)
            }
            9 => {
                let mut v = Vec::with_capacity(n);
                for _ in 0..n {
                    v.push(self.array(key, depth + 1)?);
                }
                Array::Arrays(v)
            }
            10 => all!(U64, u64),
            11 => all!(I64, i64),
            _ => all!(F64, f64),
        })
    }

    fn tensor(&mut self) -> Result<RawTensor> {
        let name = self.text(self.limits.name_bytes, "the length of a tensor's name")?.to_owned();
        let rank = self.u32()?;
        if rank as usize > RANK.min(self.limits.rank) {
            return Err(self.tensor_error(&name, format!("{rank} dimensions, over the limit of {RANK}")));
        }
        let mut sizes = Vec::with_capacity(rank as usize);
        for _ in 0..rank {
            sizes.push(self.u64()?);
        }
        let id = self.u32()?;
        let offset = self.u64()?;
        let Some(kind) = TensorType::from_id(id) else {
            let kind = unread_name(id).map_or_else(|| format!("type {id}"), |name| format!("type {name} ({id})"));
            return Err(Error::UnreadType { path: self.path.into(), name: shorten(&name), kind });
        };
        Ok(RawTensor { name, kind, sizes, offset })
    }

    fn bad(&self, reason: String) -> Error {
        Error::Header { path: self.path.into(), reason }
    }

    fn key_error(&self, key: &str, reason: String) -> Error {
        Error::Metadata { path: self.path.into(), key: shorten(key), reason }
    }

    fn tensor_error(&self, name: &str, reason: String) -> Error {
        Error::Tensor { path: self.path.into(), name: shorten(name), reason }
    }
}
