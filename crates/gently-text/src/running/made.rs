//! What is put together from other values: paid for by all that it holds.

use super::{MOST_NESTED, Size};
use crate::python::defined;
use minijinja::value::{Kwargs, Rest, Tuple, Value, ValueOrKwargs};
use minijinja::{Environment, Error, State, filters, functions};

/// Puts the filters and functions that put values together into an environment.
pub(super) fn add(environment: &mut Environment<'_>) {
    environment.add_function("dict", dict);
    environment.add_filter("map", map);
    environment.add_filter("batch", batch);
    environment.add_filter("slice", slice);
    environment.add_filter("groupby", groupby);
}

/// A value, once all that it holds is paid for.
pub(super) fn made(state: &State, value: Value) -> Result<Value, Error> {
    Size::of(state, &value, MOST_NESTED, false)?;
    Ok(value)
}

/// Values that something is made of.
fn parts(state: &State, values: Rest<ValueOrKwargs>) -> Result<Vec<Value>, Error> {
    let values = values.into_values();
    values.iter().try_for_each(|value| Size::of(state, value, MOST_NESTED, false).map(drop))?;
    Ok(values)
}

/// `[a, b]`.
pub(super) fn list_of(state: &State, values: Rest<ValueOrKwargs>) -> Result<Value, Error> {
    parts(state, values).map(Value::from)
}

/// `(a, b)`.
pub(super) fn tuple_of(state: &State, values: Rest<ValueOrKwargs>) -> Result<Value, Error> {
    Ok(Value::from(Tuple::from(parts(state, values)?)))
}

/// `{a: b}`, of keys and values by turns. Keys are paid for before they are hashed.
pub(super) fn dictionary(state: &State, values: Rest<ValueOrKwargs>) -> Result<Value, Error> {
    let values = parts(state, values)?;
    Ok(Value::from_pairs(values.chunks_exact(2).map(|pair| (pair[0].clone(), pair[1].clone()))))
}

fn dict(state: &State, values: Option<Value>, named: Kwargs) -> Result<Value, Error> {
    made(state, functions::dict(values, named)?)
}

fn map(state: &mut State, values: Value, how: Rest<ValueOrKwargs>) -> Result<Value, Error> {
    let mapped = filters::map(state, values, how)?;
    made(state, Value::from(mapped))
}

fn batch(state: &State, values: Value, count: usize, fill: Option<Value>) -> Result<Value, Error> {
    made(state, filters::batch(state, values, count, fill)?)
}

fn slice(state: &State, values: Value, count: usize, fill: Option<Value>) -> Result<Value, Error> {
    made(state, filters::slice(state, values, count, fill)?)
}

fn groupby(state: &State, values: Value, attribute: Option<&str>, named: Kwargs) -> Result<Value, Error> {
    defined(state, &values)?;
    // It is sorted.
    let len = values.len().unwrap_or(0) as u64;
    state.consume_fuel(len * u64::from(u64::BITS - len.leading_zeros()))?;
    made(state, filters::groupby(values, attribute, named)?)
}
