//! Tensors by published name, from safetensors files or a GGUF file.

use super::{decode, zeros};
use crate::error::{Error, Result};
use crate::pretrained::{read_json, shard_names};
use gently_formats::Limits;
use gently_formats::files::{INDEX, WEIGHTS};
use gently_formats::gguf::{Gguf, TensorType};
use gently_formats::safetensors::{Dtype, SafeTensors};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Weights that are Python programs, as transformers wrote them before safetensors.
const PICKLES: [&str; 2] = ["pytorch_model.bin", "pytorch_model.bin.index.json"];

/// The open weight files.
pub(super) enum Store {
    Folder {
        dir: PathBuf,
        files: Vec<SafeTensors>,
        /// Which file holds a tensor.
        places: BTreeMap<String, usize>,
    },
    Gguf(Box<Gguf>),
}

/// A tensor as it is stored.
pub(super) struct Raw<'a> {
    pub path: &'a Path,
    pub name: &'a str,
    pub kind: TensorType,
    pub shape: &'a [usize],
    pub bytes: &'a [u8],
}

impl Store {
    pub fn open_folder(dir: &Path) -> Result<Self> {
        let limits = Limits::default();
        let mut names = BTreeSet::from([WEIGHTS.to_owned()]);
        let index = dir.join(INDEX);
        if !dir.join(WEIGHTS).exists() {
            if index.exists() {
                names = shard_names(&read_json(&index)?, &index)?;
            } else if let Some(path) = PICKLES.iter().map(|name| dir.join(name)).find(|path| path.exists()) {
                return Err(Error::Pickle { path });
            }
        }
        let (mut files, mut places) = (Vec::new(), BTreeMap::new());
        for name in names {
            let file = SafeTensors::open(dir.join(name), &limits)?;
            places.extend(file.tensors().keys().map(|name| (name.clone(), files.len())));
            files.push(file);
        }
        Ok(Self::Folder { dir: dir.to_owned(), files, places })
    }

    pub fn path(&self) -> &Path {
        match self {
            Self::Folder { dir, .. } => dir,
            Self::Gguf(file) => file.path(),
        }
    }

    pub fn files(&self) -> Vec<&Path> {
        match self {
            Self::Folder { files, .. } => files.iter().map(SafeTensors::path).collect(),
            Self::Gguf(file) => file.parts().map(|(path, _)| path).collect(),
        }
    }

    pub fn release(&self) {
        match self {
            Self::Folder { files, .. } => files.iter().for_each(SafeTensors::release),
            Self::Gguf(file) => file.release(),
        }
    }

    pub fn len(&self) -> usize {
        match self {
            Self::Folder { places, .. } => places.len(),
            Self::Gguf(file) => file.tensors().len(),
        }
    }

    pub fn names(&self) -> Box<dyn Iterator<Item = &str> + '_> {
        match self {
            Self::Folder { places, .. } => Box::new(places.keys().map(String::as_str)),
            Self::Gguf(file) => Box::new(file.tensors().keys().map(String::as_str)),
        }
    }

    pub fn get(&self, name: &str) -> Option<Raw<'_>> {
        match self {
            Self::Folder { files, places, .. } => {
                let (name, i) = places.get_key_value(name)?;
                let file = &files[*i];
                let entry = file.tensors().get(name)?;
                let kind = match entry.dtype {
                    Dtype::F32 => TensorType::F32,
                    Dtype::F16 => TensorType::F16,
                    Dtype::Bf16 => TensorType::Bf16,
                    Dtype::F64 => TensorType::F64,
                    Dtype::I64 => TensorType::I64,
                    Dtype::I32 => TensorType::I32,
                    // Truth values and others that are never weights here.
                    _ => TensorType::I8,
                };
                Some(Raw { path: file.path(), name, kind, shape: &entry.shape, bytes: file.bytes(name).ok()? })
            }
            Self::Gguf(file) => {
                let (name, entry) = file.tensors().get_key_value(name)?;
                let path = file.path();
                Some(Raw { path, name, kind: entry.kind, shape: &entry.shape, bytes: file.bytes(name).ok()? })
            }
        }
    }
}

impl Raw<'_> {
    pub fn check_shape(&self, expected: Vec<usize>) -> Result<()> {
        if self.shape == expected {
            return Ok(());
        }
        let (path, name) = (self.path.to_owned(), self.name.to_owned());
        Err(Error::TensorShape { path, name, found: self.shape.to_vec(), expected })
    }

    /// Refuses integers where numbers are wanted, before anything is made of them.
    pub fn check_numbers(&self) -> Result<()> {
        match self.kind {
            TensorType::I8 | TensorType::I16 | TensorType::I32 | TensorType::I64 => {
                decode(self.path, self.name, self.kind, &[], &mut [])
            }
            _ => Ok(()),
        }
    }

    /// Whether two tensors have the same numbers. Of one type they are compared as they lie in the files, else row by row.
    pub fn is_same(&self, other: &Raw<'_>) -> Result<bool> {
        if self.shape != other.shape {
            return Ok(false);
        }
        if self.kind == other.kind {
            return Ok(self.bytes == other.bytes);
        }
        let cols: usize = self.shape.iter().skip(1).product();
        let (Some(a), Some(b)) = (self.kind.row_bytes(cols), other.kind.row_bytes(cols)) else { return Ok(false) };
        let mut rows = [zeros(self.name, cols)?, zeros(other.name, cols)?];
        for bytes in self.bytes.chunks(a.max(1)).zip(other.bytes.chunks(b.max(1))) {
            decode(self.path, self.name, self.kind, bytes.0, &mut rows[0])?;
            decode(other.path, other.name, other.kind, bytes.1, &mut rows[1])?;
            if rows[0] != rows[1] {
                return Ok(false);
            }
        }
        Ok(true)
    }

    pub fn to_f32(&self) -> Result<Vec<f32>> {
        let mut out = zeros(self.name, self.shape.iter().product())?;
        decode(self.path, self.name, self.kind, self.bytes, &mut out)?;
        Ok(out)
    }
}
