//! What values hold: paid for by whoever puts them together.

use super::{List, MOST_NESTED, Space};
use crate::python::{UNIT, is_machinery, refused};
use minijinja::value::{Value, ValueKind};
use minijinja::{Error, State};

/// What stands in a value, as often as it is found there: twice where a list holds it twice.
#[derive(Debug, Clone, Copy)]
pub(super) struct Size {
    /// How deep values stand within it; 0 where it holds none.
    pub depth: usize,
    /// Units of fuel: one for each value, and one for every 64 bytes of text.
    pub weight: u64,
}

impl Size {
    /// Of a list without elements.
    pub const EMPTY: Self = Self { depth: 1, weight: 1 };

    /// Pays for all that a value holds. Refuses what is deeper than `most`, and a namespace in it: that may change later.
    /// `is_kept`: it outlives a round of a loop, and has to be data; macros and loops hold what was there when they were made.
    pub fn of(state: &State, value: &Value, most: usize, is_kept: bool) -> Result<Self, Error> {
        if let Some(list) = value.downcast_object_ref::<List>() {
            let size = list.size();
            state.consume_fuel(size.weight)?;
            return if size.depth > most { Err(too_deep()) } else { Ok(size) };
        }
        let text = value.as_str().map_or(0, str::len) / UNIT;
        let mut size = Self { depth: 0, weight: 1 + text as u64 };
        state.consume_fuel(size.weight)?;
        if value.downcast_object_ref::<Space>().is_some() {
            return Err(refused("a namespace cannot stand in another value"));
        }
        let kind = value.kind();
        // Macros and loops look like maps.
        if kind == ValueKind::Plain || is_machinery(value) {
            return if is_kept { Err(refused("only data can be kept in a namespace")) } else { Ok(size) };
        }
        if !matches!(kind, ValueKind::Seq | ValueKind::Iterable | ValueKind::Map) {
            return Ok(size);
        }
        let Some(most) = most.checked_sub(1) else { return Err(too_deep()) };
        size.depth = 1;
        for inner in value.try_iter()? {
            size.hold(Self::of(state, &inner, most, is_kept)?);
            if kind == ValueKind::Map {
                size.hold(Self::of(state, &value.get_item(&inner)?, most, is_kept)?);
            }
        }
        Ok(size)
    }

    /// Adds what a value within holds.
    pub fn hold(&mut self, inner: Self) {
        self.depth = self.depth.max(inner.depth + 1);
        self.weight = self.weight.saturating_add(inner.weight);
    }
}

fn too_deep() -> Error {
    refused(format!("values stand more than {MOST_NESTED} deep"))
}
