//! Reading through memory maps, one for each part of a split file.

use super::{Entry, Header, Metadata};
use crate::{Error, Limits, Result, bounded};
use gently_kernels::buffer::mmap::Mmap;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Parts of a split file believed.
const MOST_PARTS: usize = 1024;

/// An open file, all its parts mapped.
#[derive(Debug)]
pub struct Gguf {
    parts: Vec<(PathBuf, Mmap)>,
    version: u32,
    metadata: Metadata,
    tensors: BTreeMap<String, Entry>,
}

impl Gguf {
    /// Opens a file and checks its header. Any part of a split file (`name-00002-of-00003.gguf`) stands for the whole:
    /// the metadata is the first part's.
    ///
    /// # Errors
    /// Those of [`Header::parse`], for parts that do not belong together [`Error::Header`], and [`Error::Io`].
    pub fn open(path: impl AsRef<Path>, limits: &Limits) -> Result<Self> {
        let path = path.as_ref();
        let paths = match split_of(path) {
            Some((stem, count)) => (1..=count).map(|i| part_path(path, &stem, i, count)).collect(),
            None => vec![path.to_owned()],
        };
        if paths.len() > MOST_PARTS {
            let what = "the number of parts".to_owned();
            return Err(Error::Limit { path: path.into(), what, found: paths.len() as u64, limit: MOST_PARTS as u64 });
        }
        let count = paths.len();
        let mut whole: Option<Self> = None;
        for (i, path) in paths.into_iter().enumerate() {
            let map = bounded::map(&path).map_err(Error::io(&path, "read"))?;
            let header = Header::parse(&map, limits, &path)?;
            check_part(&header.metadata, i, count)?;
            let gguf = whole.get_or_insert_with(|| Self {
                parts: Vec::new(),
                version: header.version,
                metadata: header.metadata,
                tensors: BTreeMap::new(),
            });
            for (name, mut entry) in header.tensors {
                entry.part = i;
                if gguf.tensors.contains_key(&name) {
                    let reason = "an earlier part holds it already".into();
                    return Err(Error::Tensor { path, name, reason });
                }
                gguf.tensors.insert(name, entry);
            }
            gguf.parts.push((path, map));
        }
        whole.ok_or_else(|| Error::Header { path: path.into(), reason: "it says that it has no parts".into() })
    }

    /// The file, or its first part.
    pub fn path(&self) -> &Path {
        self.metadata.path()
    }

    /// Every part's file with its size in bytes.
    pub fn parts(&self) -> impl Iterator<Item = (&Path, usize)> {
        self.parts.iter().map(|(path, map)| (path.as_path(), map.len()))
    }

    /// Version of the format.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// The keys.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// The tensors by name.
    pub fn tensors(&self) -> &BTreeMap<String, Entry> {
        &self.tensors
    }

    /// A tensor's type, shape and place.
    ///
    /// # Errors
    /// [`Error::NoTensor`].
    pub fn entry(&self, name: &str) -> Result<&Entry> {
        self.tensors.get(name).ok_or_else(|| Error::NoTensor {
            path: self.path().into(),
            name: name.into(),
            near: self.tensors.keys().find(|k| k.ends_with(name) || name.ends_with(k.as_str())).cloned(),
        })
    }

    /// A tensor's bytes as they stand in the file: rows one after another, each a whole number of blocks.
    ///
    /// # Errors
    /// As [`Gguf::entry`].
    pub fn bytes(&self, name: &str) -> Result<&[u8]> {
        let entry = self.entry(name)?;
        Ok(&self.parts[entry.part].1[entry.bytes.clone()])
    }

    /// Gives back the memory of the tensors read so far; they can be read again.
    pub fn release(&self) {
        self.parts.iter().for_each(|(_, map)| map.release());
    }
}

/// Whether a file's name says that it is a part of several: `model-00002-of-00003.gguf`.
pub fn is_part(path: &Path) -> bool {
    split_of(path).is_some()
}

/// `model-00002-of-00003.gguf` is `("model", 3)`.
fn split_of(path: &Path) -> Option<(String, usize)> {
    let name = path.file_name()?.to_str()?.strip_suffix(".gguf")?;
    let (rest, count) = name.rsplit_once("-of-")?;
    let (stem, number) = rest.rsplit_once('-')?;
    let digits = |s: &str| s.len() == 5 && s.bytes().all(|b| b.is_ascii_digit());
    if !digits(count) || !digits(number) {
        return None;
    }
    let (number, count) = (number.parse::<usize>().ok()?, count.parse::<usize>().ok()?);
    (1..=count).contains(&number).then(|| (stem.to_owned(), count))
}

fn part_path(path: &Path, stem: &str, number: usize, count: usize) -> PathBuf {
    path.with_file_name(format!("{stem}-{number:05}-of-{count:05}.gguf"))
}

/// A part says its number and how many there are; a file that is no part by its name may still be one.
fn check_part(metadata: &Metadata, number: usize, count: usize) -> Result<()> {
    for (key, here) in [("split.no", number), ("split.count", count)] {
        // Writers leave `split.count` at 0 or 1 for whole files.
        if let Some(said) = metadata.size_if(key)?
            && said != here
            && !(key == "split.count" && said <= 1 && count == 1)
        {
            return Err(metadata.error(key, format!("it is {said}, but by the file names it is {here}")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_parts() {
        assert_eq!(split_of("a/m-00002-of-00003.gguf".as_ref()), Some(("m".into(), 3)));
        assert!(is_part("a/m-00002-of-00003.gguf".as_ref()) && !is_part("a/m.gguf".as_ref()));
        for whole in ["m.gguf", "m-2-of-3.gguf", "m-00004-of-00003.gguf", "m-00000-of-00003.gguf", "-of-00003.gguf"] {
            assert_eq!(split_of(whole.as_ref()), None, "{whole}");
        }
        let second = part_path("a/m-00001-of-00003.gguf".as_ref(), "m", 2, 3);
        assert_eq!(second, Path::new("a/m-00002-of-00003.gguf"));
    }
}
