//! Jinja's filters, tests and functions, where `minijinja` has none or others.
//!
//! Here: what writes values as Python does, and what else published templates may call; all of it pays for what it makes. Not here:
//! namespaces and operators (see [`crate::running`]), methods of values (see [`crate::python::strings`]).

mod html;

use crate::python::wrap::{Wrapping, is_word, wrapped};
use crate::python::{Dumps, Paid, Spend, defined, formats, is_machinery, json, or_named, refused, strings, text};
use minijinja::value::{Kwargs, Object, ObjectRepr, Rest, StringInput, Value, ValueKind, ValueOrKwargs, from_args};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, State};
use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Puts all of them into an environment, but for `tojson`, of which there are two.
pub(crate) fn add(environment: &mut Environment<'_>) {
    environment.add_filter("string", string);
    environment.add_filter("trim", trim);
    environment.add_filter("join", join);
    environment.add_filter("format", format);
    environment.add_filter("wordcount", wordcount);
    environment.add_filter("truncate", truncate);
    environment.add_filter("wordwrap", wordwrap);
    environment.add_filter("center", center);
    environment.add_filter("striptags", html::striptags);
    environment.add_filter("urlencode", html::urlencode);
    environment.add_test("sequence", is_sequence);
    environment.add_test("iterable", is_iterable);
    environment.add_test("callable", is_callable);
    environment.add_function("cycler", cycler);
    environment.add_function("joiner", joiner);
    // Rust's way to print, at any length.
    environment.remove_filter("pprint");
    environment.remove_global("debug");
}

/// `str(value)`; an error for what is not there where that is one.
fn text_of<'v>(state: &State, value: &'v Value, spend: Spend) -> Result<Cow<'v, str>, Error> {
    defined(state, value)?;
    text(value, spend)
}

/// `tojson` of `transformers`: `json.dumps` with nothing escaped for HTML.
pub(crate) fn tojson(state: &State, values: Rest<ValueOrKwargs>) -> Result<String, Error> {
    type Arguments<'a> = (&'a Value, Option<&'a Value>, Option<&'a Value>, Option<&'a Value>, Kwargs);
    let values = values.into_values();
    let (value, ascii, indent, separators, named): Arguments = from_args(&values)?;
    dumped(state, value, ascii, indent, separators, &named)
}

/// `tojson` of Jinja, which takes an indentation where that of `transformers` takes whether to escape; otherwise the same.
pub(crate) fn tojson_indented(
    state: &State,
    value: &Value,
    indent: Option<&Value>,
    named: Kwargs,
) -> Result<String, Error> {
    dumped(state, value, None, indent, None, &named)
}

fn dumped(
    state: &State,
    value: &Value,
    ascii: Option<&Value>,
    indent: Option<&Value>,
    separators: Option<&Value>,
    named: &Kwargs,
) -> Result<String, Error> {
    let spend = |fuel: u64| state.consume_fuel(fuel);
    let ascii = or_named(ascii, named, "ensure_ascii")?;
    let indent = or_named(indent, named, "indent")?;
    let separators = or_named(separators, named, "separators")?;
    let sorted = named.get::<Option<&Value>>("sort_keys")?;
    named.assert_all_used()?;
    let how = Dumps {
        ascii: ascii.is_some_and(Value::is_true),
        indent: indent.map(|indent| indentation(indent, &spend)).transpose()?,
        separators: separators.map(pair).transpose()?,
        sorted: sorted.is_some_and(Value::is_true),
    };
    json(value, &how, &spend)
}

/// What a level is indented by: a text, or so many spaces.
fn indentation(value: &Value, spend: Spend) -> Result<String, Error> {
    if let Some(text) = value.as_str() {
        return Ok(text.to_owned());
    }
    if !value.is_integer() && value.kind() != ValueKind::Bool {
        return Err(refused(format!("tojson indents by a number of spaces or a text, not by {}", value.kind())));
    }
    let spaces = i64::try_from(value.clone())?;
    let mut out = Paid::new(spend);
    out.fill(' ', usize::try_from(spaces).unwrap_or(0))?;
    Ok(out.done())
}

/// Two texts.
fn pair(value: &Value) -> Result<(String, String), Error> {
    let texts = match value.kind() {
        ValueKind::Seq => value.try_iter()?.map(|v| v.as_str().map(str::to_owned)).collect::<Option<Vec<String>>>(),
        _ => None,
    };
    match texts.map(<[String; 2]>::try_from) {
        Some(Ok([items, keys])) => Ok((items, keys)),
        _ => Err(refused("tojson's separators are two texts")),
    }
}

fn string(state: &State, value: &Value) -> Result<Value, Error> {
    let spend = |fuel: u64| state.consume_fuel(fuel);
    defined(state, value)?;
    match value.kind() {
        ValueKind::String => Ok(value.clone()),
        _ => Ok(Value::from(text(value, &spend)?)),
    }
}

fn trim(state: &State, value: &Value, chars: Option<&str>, named: Kwargs) -> Result<Value, Error> {
    let spend = |fuel: u64| state.consume_fuel(fuel);
    let chars = or_named(chars, &named, "chars")?;
    named.assert_all_used()?;
    let text = text_of(state, value, &spend)?;
    let trimmed = strings::strip(&text, chars, true, true);
    Ok(match value.is_safe() {
        true => Value::from_safe_string(trimmed.to_owned()),
        false => Value::from(trimmed),
    })
}

fn join(
    state: &mut State,
    values: &Value,
    separator: Option<&Value>,
    attribute: Option<&str>,
    named: Kwargs,
) -> Result<Value, Error> {
    if !matches!(state.auto_escape(), AutoEscape::None) {
        let separator = separator.map(|separator| StringInput::new(state, separator)).transpose()?;
        return minijinja::filters::join(state, values, separator, attribute, named);
    }
    defined(state, values)?;
    let mapped = match or_named(attribute, &named, "attribute")? {
        Some(name) => {
            let attribute = Kwargs::from_iter([("attribute", Value::from(name))]);
            Some(state.apply_filter("map", &[values.clone(), Value::from(attribute)])?)
        }
        None => None,
    };
    let state: &State = state;
    let spend = |fuel: u64| state.consume_fuel(fuel);
    let separator = match or_named(separator, &named, "d")? {
        Some(separator) => text(separator, &spend)?,
        None => Cow::Borrowed(""),
    };
    named.assert_all_used()?;
    let mut out = Paid::new(&spend);
    for (i, item) in mapped.as_ref().unwrap_or(values).try_iter()?.checked().enumerate() {
        let item = item?;
        out.step()?;
        if i > 0 {
            out.push(&separator)?;
        }
        out.push(&text_of(state, &item, &spend)?)?;
    }
    Ok(Value::from(out.done()))
}

fn format(state: &mut State, format: &Value, values: Rest<ValueOrKwargs>) -> Result<Value, Error> {
    // What is put into markup is escaped.
    if format.is_safe() {
        return minijinja::filters::format(state, format, values);
    }
    let state: &State = state;
    let spend = |fuel: u64| state.consume_fuel(fuel);
    let values = values.into_values();
    let (each, named): (&[Value], Kwargs) = from_args(&values)?;
    let has_named = named.args().next().is_some();
    if has_named && !each.is_empty() {
        return Err(refused("format takes values by place or by name, not both"));
    }
    let values = if has_named { Value::from(named) } else { Value::from(minijinja::value::Tuple::from(each)) };
    formats::printf(state, &text_of(state, format, &spend)?, &values).map(Value::from)
}

fn wordcount(state: &State, value: &Value) -> Result<usize, Error> {
    let spend = |fuel: u64| state.consume_fuel(fuel);
    let text = text_of(state, value, &spend)?;
    Ok(text.split(|c: char| !is_word(c)).filter(|word| !word.is_empty()).count())
}

fn truncate(state: &State, values: Rest<ValueOrKwargs>) -> Result<String, Error> {
    type Arguments<'a> = (&'a Value, Option<i64>, Option<bool>, Option<&'a str>, Kwargs);
    let spend = |fuel: u64| state.consume_fuel(fuel);
    let values = values.into_values();
    let (value, length, cuts_words, end, named): Arguments = from_args(&values)?;
    let length = or_named(length, &named, "length")?.unwrap_or(255);
    let cuts_words = or_named(cuts_words, &named, "killwords")?.unwrap_or(false);
    let end = or_named(end, &named, "end")?.unwrap_or("...");
    let leeway = named.get::<Option<i64>>("leeway")?.unwrap_or(5);
    named.assert_all_used()?;
    let text = text_of(state, value, &spend)?;
    let room = usize::try_from(length).ok().and_then(|n| n.checked_sub(end.chars().count()));
    let (Some(room), Ok(leeway)) = (room, usize::try_from(leeway)) else {
        return Err(refused(format!("truncate cannot end a text of {length} characters in {end:?}")));
    };
    let most = room.saturating_add(end.chars().count()).saturating_add(leeway);
    if text.chars().count() <= most {
        return Ok(text.into_owned());
    }
    let cut = text.char_indices().nth(room).map_or(&*text, |(at, _)| &text[..at]);
    let cut = if cuts_words { cut } else { cut.rsplit_once(' ').map_or(cut, |(words, _)| words) };
    let mut out = Paid::new(&spend);
    out.push(cut)?;
    out.push(end)?;
    Ok(out.done())
}

fn wordwrap(state: &State, values: Rest<ValueOrKwargs>) -> Result<String, Error> {
    type Arguments<'a> = (&'a Value, Option<i64>, Option<bool>, Option<&'a str>, Kwargs);
    let spend = |fuel: u64| state.consume_fuel(fuel);
    let values = values.into_values();
    let (value, width, cuts_words, between, named): Arguments = from_args(&values)?;
    let width = or_named(width, &named, "width")?.unwrap_or(79);
    let cuts_words = or_named(cuts_words, &named, "break_long_words")?.unwrap_or(true);
    let between = or_named(between, &named, "wrapstring")?.unwrap_or("\n");
    let cuts_at_hyphens = named.get::<Option<bool>>("break_on_hyphens")?.unwrap_or(true);
    named.assert_all_used()?;
    let how = Wrapping { width: usize::try_from(width).unwrap_or(0), cuts_words, cuts_at_hyphens };
    let text = text_of(state, value, &spend)?;
    let mut out = Paid::new(&spend);
    let mut is_first = true;
    for line in strings::lines(&text, false, &spend)? {
        let mut lines = wrapped(line, how, &spend)?;
        if lines.is_empty() {
            lines.push(String::new());
        }
        for line in lines {
            if !std::mem::take(&mut is_first) {
                out.push(between)?;
            }
            out.push(&line)?;
        }
    }
    Ok(out.done())
}

fn center(state: &State, value: &Value, width: Option<i64>, named: Kwargs) -> Result<String, Error> {
    let spend = |fuel: u64| state.consume_fuel(fuel);
    let width = or_named(width, &named, "width")?.unwrap_or(80);
    named.assert_all_used()?;
    strings::centred(&text_of(state, value, &spend)?, width, &spend)
}

/// Whether a value has a length and items by place or key.
fn is_sequence(value: &Value) -> bool {
    value.is_undefined()
        || matches!(value.kind(), ValueKind::Seq | ValueKind::String | ValueKind::Map) && !is_machinery(value)
}

fn is_iterable(value: &Value) -> bool {
    !value.is_none() && value.try_iter().is_ok()
}

fn is_callable(value: &Value) -> bool {
    let is_object = value.kind() == ValueKind::Plain && value.downcast_object_ref::<Cycler>().is_none();
    is_object || is_machinery(value) || value.is_undefined()
}

/// Gives its values one after the other, again and again.
struct Cycler {
    values: Vec<Value>,
    at: AtomicUsize,
}

fn cycler(values: Rest<Value>) -> Result<Value, Error> {
    match values.is_empty() {
        true => Err(refused("cycler wants at least one value")),
        false => Ok(Value::from_object(Cycler { values: values.0, at: AtomicUsize::new(0) })),
    }
}

impl Cycler {
    fn current(&self) -> Value {
        self.values[self.at.load(Ordering::Relaxed)].clone()
    }
}

/// Short: it may be printed.
impl fmt::Debug for Cycler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<cycler>")
    }
}

impl Object for Cycler {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        (key.as_str() == Some("current")).then(|| self.current())
    }

    fn call_method(self: &Arc<Self>, _: &mut State<'_, '_>, method: &str, args: &[Value]) -> Result<Value, Error> {
        let now = self.current();
        let (next, given) = match method {
            "next" => ((self.at.load(Ordering::Relaxed) + 1) % self.values.len(), now),
            "reset" => (0, Value::from(())),
            _ => return Err(Error::from(ErrorKind::UnknownMethod)),
        };
        let () = from_args(args)?;
        self.at.store(next, Ordering::Relaxed);
        Ok(given)
    }
}

/// Gives nothing when it is first called, then what stands between things.
struct Joiner {
    between: Value,
    was_called: AtomicBool,
}

fn joiner(between: Option<Value>, named: Kwargs) -> Result<Value, Error> {
    let between = or_named(between, &named, "sep")?.unwrap_or_else(|| Value::from(", "));
    named.assert_all_used()?;
    Ok(Value::from_object(Joiner { between, was_called: AtomicBool::new(false) }))
}

/// Short: it may be printed.
impl fmt::Debug for Joiner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<joiner>")
    }
}

impl Object for Joiner {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn call(self: &Arc<Self>, _: &mut State<'_, '_>, args: &[Value]) -> Result<Value, Error> {
        let () = from_args(args)?;
        Ok(match self.was_called.swap(true, Ordering::Relaxed) {
            true => self.between.clone(),
            false => Value::from(""),
        })
    }
}
