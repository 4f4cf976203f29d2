//! Lists that were added, repeated or cut: paid for, and as deep as they are.

use super::{MOST_NESTED, Size};
use minijinja::value::{Enumerator, Object, ObjectRepr, Value};
use minijinja::{Error, State};
use std::sync::Arc;

/// A list in parts, each longer than the next, which sums share: a list to which one element after another is added costs
/// little more than its elements.
#[derive(Debug, Clone)]
pub(super) struct List {
    parts: Vec<Arc<[Value]>>,
    len: usize,
    /// Its own: of depth 1 where its elements are no lists.
    size: Size,
}

impl List {
    /// The elements of a list.
    pub fn of(state: &State, value: &Value) -> Result<Self, Error> {
        if let Some(list) = value.downcast_object_ref::<Self>() {
            return Ok(list.clone());
        }
        let (mut part, mut size) = (Vec::new(), Size::EMPTY);
        for value in value.try_iter()? {
            // Looking at it pays for its slot, too: one has 24 bytes, a unit of fuel is for 64.
            size.hold(Size::of(state, &value, MOST_NESTED, true)?);
            part.push(value);
        }
        Ok(Self { len: part.len(), parts: vec![part.into()], size })
    }

    pub fn size(&self) -> Size {
        self.size
    }

    /// This and another one.
    pub fn plus(mut self, state: &State, other: &Self) -> Result<Self, Error> {
        // The heavier one was paid for when it was made.
        state.consume_fuel(self.size.weight.min(other.size.weight))?;
        other.parts.iter().try_for_each(|part| self.push(state, part.clone()))?;
        self.size.depth = self.size.depth.max(other.size.depth);
        self.size.weight = self.size.weight.saturating_add(other.size.weight);
        Ok(self)
    }

    /// This so many times.
    pub fn times(self, state: &State, times: usize) -> Result<Self, Error> {
        let len = self.len.saturating_mul(times);
        // An element has the weight of its slot at least.
        let weight = self.size.weight.saturating_mul(times.max(1) as u64);
        state.consume_fuel(weight)?;
        let all: Vec<Value> = (0..times).flat_map(|_| self.parts.iter().flat_map(|p| p.iter().cloned())).collect();
        Ok(Self { len, parts: vec![all.into()], size: Size { weight, ..self.size } })
    }

    fn push(&mut self, state: &State, part: Arc<[Value]>) -> Result<(), Error> {
        self.len += part.len();
        self.parts.push(part);
        while let [.., before, last] = &self.parts[..]
            && before.len() <= last.len()
        {
            state.consume_fuel(1 + (before.len() + last.len()).div_ceil(2) as u64)?;
            let both = before.iter().chain(&**last).cloned().collect();
            self.parts.truncate(self.parts.len() - 2);
            self.parts.push(both);
        }
        Ok(())
    }
}

impl Object for List {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Seq
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        let mut at = key.as_usize()?;
        for part in &self.parts {
            if let Some(value) = part.get(at) {
                return Some(value.clone());
            }
            at -= part.len();
        }
        None
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Seq(self.len)
    }
}
