//! The metadata keys of a file, with typed access.

use super::{Array, Texts, Value};
use crate::{Error, Result};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Keys and values. Integers are accepted in any width, as writers differ; another type is an error that names the key.
#[derive(Debug, Clone, PartialEq)]
pub struct Metadata {
    path: PathBuf,
    values: BTreeMap<String, Value>,
}

impl Metadata {
    /// The keys that a file has, or will have; `path` is for messages.
    pub fn new(path: &Path, values: BTreeMap<String, Value>) -> Self {
        Self { path: path.into(), values }
    }

    /// The file they come from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// All keys in alphabetical order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.values.iter().map(|(k, v)| (k.as_str(), v))
    }

    /// A key's value.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.values.get(key)
    }

    /// The error that says what is wrong with a key.
    pub fn error(&self, key: &str, reason: impl Into<String>) -> Error {
        Error::Metadata { path: self.path.clone(), key: key.into(), reason: reason.into() }
    }

    fn typed<'a, T>(&'a self, key: &str, what: &str, read: impl Fn(&'a Value) -> Option<T>) -> Result<Option<T>> {
        let Some(value) = self.values.get(key) else { return Ok(None) };
        let wrong = || self.error(key, format!("it is {}, not {what}", value.kind()));
        read(value).map(Some).ok_or_else(wrong)
    }

    fn present<T>(&self, key: &str, value: Option<T>) -> Result<T> {
        value.ok_or_else(|| self.error(key, "it is missing"))
    }

    /// Text, if the key is there.
    ///
    /// # Errors
    /// [`Error::Metadata`] for another type; so for all that follow.
    pub fn text_if(&self, key: &str) -> Result<Option<&str>> {
        self.typed(key, "text", |v| match v {
            Value::Text(t) => Some(t.as_str()),
            _ => None,
        })
    }

    /// Text.
    ///
    /// # Errors
    /// As [`Self::text_if`], and when the key is missing.
    pub fn text(&self, key: &str) -> Result<&str> {
        self.present(key, self.text_if(key)?)
    }

    /// A count or size, if the key is there.
    ///
    /// # Errors
    /// As [`Self::text_if`]; a negative number too.
    pub fn size_if(&self, key: &str) -> Result<Option<usize>> {
        self.typed(key, "a count", |v| v.as_uint().and_then(|n| usize::try_from(n).ok()))
    }

    /// A count or size.
    ///
    /// # Errors
    /// As [`Self::size_if`], and when the key is missing.
    pub fn size(&self, key: &str) -> Result<usize> {
        self.present(key, self.size_if(key)?)
    }

    /// A number, if the key is there.
    ///
    /// # Errors
    /// As [`Self::text_if`].
    pub fn real_if(&self, key: &str) -> Result<Option<f64>> {
        self.typed(key, "a number", Value::as_real)
    }

    /// A number.
    ///
    /// # Errors
    /// As [`Self::real_if`], and when the key is missing.
    pub fn real(&self, key: &str) -> Result<f64> {
        self.present(key, self.real_if(key)?)
    }

    /// True or false, if the key is there.
    ///
    /// # Errors
    /// As [`Self::text_if`].
    pub fn flag_if(&self, key: &str) -> Result<Option<bool>> {
        self.typed(key, "true or false", |v| match v {
            Value::Bool(b) => Some(*b),
            _ => None,
        })
    }

    /// An array of strings, if the key is there.
    ///
    /// # Errors
    /// As [`Self::text_if`].
    pub fn texts_if(&self, key: &str) -> Result<Option<&Texts>> {
        self.typed(key, "an array of texts", |v| match v {
            Value::Array(Array::Texts(t)) => Some(t),
            _ => None,
        })
    }

    /// An array of integers, if the key is there.
    ///
    /// # Errors
    /// As [`Self::text_if`].
    pub fn ints_if(&self, key: &str) -> Result<Option<Vec<i64>>> {
        self.typed(key, "an array of integers", |v| match v {
            Value::Array(a) => a.to_ints(),
            _ => None,
        })
    }

    /// An array of floats, if the key is there.
    ///
    /// # Errors
    /// As [`Self::text_if`].
    pub fn reals_if(&self, key: &str) -> Result<Option<Vec<f64>>> {
        self.typed(key, "an array of numbers", |v| match v {
            Value::Array(a) => a.to_reals(),
            _ => None,
        })
    }

    /// Bytes of memory held, nodes of the map included.
    pub fn held_bytes(&self) -> usize {
        let entry = |(k, v): (&String, &Value)| k.capacity() + size_of::<(String, Value)>() + v.held();
        self.values.iter().map(entry).sum()
    }
}
