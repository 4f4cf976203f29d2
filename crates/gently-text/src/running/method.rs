//! Methods of dictionaries that are named without being called.

use super::Space;
use crate::python::is_machinery;
use minijinja::value::{Object, ObjectRepr, Value, ValueKind};
use minijinja::{Error, State};
use std::fmt;
use std::sync::Arc;

/// A method and its dictionary. As in Python, it is there whatever keys the dictionary has.
pub(super) struct Method {
    of: Value,
    name: &'static str,
}

impl Method {
    /// `value.name`: a method of a dictionary, nothing where it would change the dictionary, and an attribute of all else.
    pub fn named(value: &Value, name: &'static str, is_allowed: bool) -> Result<Value, Error> {
        let is_space = value.downcast_object_ref::<Space>().is_some();
        if value.kind() != ValueKind::Map || is_space || is_machinery(value) {
            return value.get_attr(name);
        }
        Ok(match is_allowed {
            true => Value::from_object(Self { of: value.clone(), name }),
            false => Value::UNDEFINED,
        })
    }
}

impl fmt::Debug for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<built-in method {} of dict object>", self.name)
    }
}

impl Object for Method {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn call(self: &Arc<Self>, state: &mut State<'_, '_>, args: &[Value]) -> Result<Value, Error> {
        self.of.call_method(state, self.name, args)
    }
}
