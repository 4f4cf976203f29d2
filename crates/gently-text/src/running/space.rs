//! Jinja's namespaces: what loops keep.

use super::{List, MOST_NESTED, Size};
use minijinja::value::{Enumerator, Kwargs, Object, ObjectRepr, Value, ValueKind};
use minijinja::{Error, ErrorKind, State};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Values by name, none of them deeper than [`MOST_NESTED`] and none of them a namespace: loops cannot make what is too deep to be
/// read or dropped, nor what stands in itself.
#[derive(Debug, Default)]
pub(super) struct Space(Mutex<BTreeMap<String, Value>>);

impl Space {
    /// `namespace(values, name=value)`.
    pub fn made_of(state: &State, values: Option<Value>, named: &Kwargs) -> Result<Value, Error> {
        let space = Value::from_object(Self::default());
        if let Some(values) = values {
            if values.kind() != ValueKind::Map {
                let what = format!("expected object or keyword arguments, got {}", values.kind());
                return Err(Error::new(ErrorKind::InvalidOperation, what));
            }
            for key in values.try_iter()? {
                if let Some(name) = key.as_str() {
                    Self::set(state, &space, name, values.get_item(&key)?)?;
                }
            }
        }
        for name in named.args() {
            Self::set(state, &space, name, named.get(name)?)?;
        }
        Ok(space)
    }

    /// `{% set space.name = value %}`.
    pub fn set(state: &State, space: &Value, name: &str, value: Value) -> Result<Value, Error> {
        let Some(inner) = space.downcast_object_ref::<Self>() else {
            let what = format!("can only assign to namespaces, not {}", space.kind());
            return Err(Error::new(ErrorKind::InvalidOperation, what));
        };
        // Texts and lists were paid for when they were made, and a list knows how deep it is.
        let is_known = value.downcast_object_ref::<List>().is_some_and(|list| list.size().depth <= MOST_NESTED);
        if value.as_str().is_none() && !is_known {
            Size::of(state, &value, MOST_NESTED, true)?;
        }
        inner.values().insert(name.to_owned(), value);
        Ok(Value::from(()))
    }

    fn values(&self) -> MutexGuard<'_, BTreeMap<String, Value>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Object for Space {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Map
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.values().get(key.as_str()?).cloned()
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Values(self.values().keys().map(|k| Value::from(k.as_str())).collect())
    }
}
