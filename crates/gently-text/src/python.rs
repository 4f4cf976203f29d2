//! What templates expect of Python: how values are written.
//!
//! Here: `str`, `repr` and `json.dumps`, paid for as their texts grow, since a small value may hold others many times over. In the
//! modules: methods of strings, `%` and `str.format`, `textwrap`, `strftime`. Not here: Jinja's own filters (see [`crate::filters`]),
//! and methods of dictionaries, which `minijinja-contrib` has.

pub(crate) mod dates;
pub(crate) mod formats;
pub(crate) mod strings;
pub(crate) mod wrap;

use minijinja::value::{ArgType, Kwargs, StringInput, Value, ValueKind};
use minijinja::{Error, ErrorKind, State};
use std::borrow::Cow;

/// Values stand in values at most this deep.
const DEPTH: usize = 256;
/// A unit of fuel is for so many bytes.
pub(crate) const UNIT: usize = 64;

/// Takes the cost of what is to be written next, and refuses when it is too much.
pub(crate) type Spend<'a> = &'a dyn Fn(u64) -> Result<(), Error>;

/// A text that is paid for before it grows.
pub(crate) struct Paid<'a> {
    text: String,
    owed: usize,
    spend: Spend<'a>,
}

impl<'a> Paid<'a> {
    pub fn new(spend: Spend<'a>) -> Self {
        Self { text: String::new(), owed: 0, spend }
    }

    /// What it is paid with.
    pub fn spend(&self) -> Spend<'a> {
        self.spend
    }

    /// Pays for a step that may write nothing.
    pub fn step(&mut self) -> Result<(), Error> {
        (self.spend)(1)
    }

    pub fn push(&mut self, text: &str) -> Result<(), Error> {
        self.pay(text.len())?;
        self.text.push_str(text);
        Ok(())
    }

    /// A character so many times.
    pub fn fill(&mut self, c: char, count: usize) -> Result<(), Error> {
        self.pay(count.saturating_mul(c.len_utf8()))?;
        self.text.extend(std::iter::repeat_n(c, count));
        Ok(())
    }

    fn pay(&mut self, bytes: usize) -> Result<(), Error> {
        self.owed = self.owed.saturating_add(bytes);
        (self.spend)((self.owed / UNIT) as u64)?;
        self.owed %= UNIT;
        Ok(())
    }

    pub fn done(self) -> String {
        self.text
    }
}

/// A refusal with its reason.
pub(crate) fn refused(reason: impl Into<Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::InvalidOperation, reason)
}

/// Refuses what is not there, where that is an error.
pub(crate) fn defined(state: &State, value: &Value) -> Result<(), Error> {
    match value.is_undefined() {
        true => StringInput::new(state, value).map(drop),
        false => Ok(()),
    }
}

/// An argument by its place, or by its name.
pub(crate) fn or_named<'a, T: ArgType<'a, Output = T>>(
    value: Option<T>,
    named: &'a Kwargs,
    name: &'a str,
) -> Result<Option<T>, Error> {
    match value {
        Some(value) => Ok(Some(value)),
        None => named.get::<Option<T>>(name),
    }
}

/// Whether a value is one of the engine's own that look like dictionaries: macros and loops.
pub(crate) fn is_machinery(value: &Value) -> bool {
    value.as_object().is_some_and(|o| o.type_name().starts_with("minijinja::vm::"))
}

/// `str(value)`.
pub(crate) fn text<'v>(value: &'v Value, spend: Spend) -> Result<Cow<'v, str>, Error> {
    match value.as_str() {
        Some(text) => Ok(Cow::Borrowed(text)),
        None if value.is_undefined() => Ok(Cow::Borrowed("")),
        None => repr(value, spend).map(Cow::Owned),
    }
}

/// `repr(value)`.
pub(crate) fn repr(value: &Value, spend: Spend) -> Result<String, Error> {
    let mut out = Paid::new(spend);
    write_repr(value, 0, &mut out)?;
    Ok(out.done())
}

fn write_repr(value: &Value, depth: usize, out: &mut Paid) -> Result<(), Error> {
    within_depth(depth, out)?;
    match value.kind() {
        ValueKind::Undefined => out.push("Undefined"),
        ValueKind::None => out.push("None"),
        ValueKind::Bool => out.push(if value.is_true() { "True" } else { "False" }),
        ValueKind::Number => out.push(&number(value, ["nan", "inf"])),
        ValueKind::String => {
            let text = value.as_str().unwrap_or_default();
            let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
            let escaped = |c: char| match c {
                '\n' => Some("\\n".to_owned()),
                '\r' => Some("\\r".to_owned()),
                '\t' => Some("\\t".to_owned()),
                c if c == quote || c == '\\' => Some(format!("\\{c}")),
                c => (!is_printable(c)).then(|| escape(c)),
            };
            write_quoted(text, quote, escaped, out)
        }
        ValueKind::Seq | ValueKind::Iterable if value.len().is_some() => {
            // What `groupby` makes is a tuple in Jinja.
            let groups = value.as_object().is_some_and(|o| o.type_name().contains("GroupTuple"));
            let is_tuple = groups || value.is_tuple();
            out.push(if is_tuple { "(" } else { "[" })?;
            let mut count = 0;
            for item in value.try_iter()?.checked() {
                out.push(if count > 0 { ", " } else { "" })?;
                write_repr(&item?, depth + 1, out)?;
                count += 1;
            }
            out.push(match (is_tuple, count) {
                (true, 1) => ",)",
                (true, _) => ")",
                (false, _) => "]",
            })
        }
        ValueKind::Map if !is_machinery(value) => {
            out.push("{")?;
            for (i, key) in value.try_iter()?.checked().enumerate() {
                let key = key?;
                out.push(if i > 0 { ", " } else { "" })?;
                write_repr(&key, depth + 1, out)?;
                out.push(": ")?;
                write_repr(&value.get_item(&key)?, depth + 1, out)?;
            }
            out.push("}")
        }
        ValueKind::Invalid => Err(refused("a value could not be made")),
        // Functions, macros and loops, which have short names.
        _ => out.push(&value.to_string()),
    }
}

fn within_depth(depth: usize, out: &mut Paid) -> Result<(), Error> {
    out.step()?;
    match depth > DEPTH {
        true => Err(refused(format!("values stand more than {DEPTH} deep"))),
        false => Ok(()),
    }
}

/// A text between quotes; `escaped` says what stands for a character that does not stand for itself.
fn write_quoted(
    text: &str,
    quote: char,
    escaped: impl Fn(char) -> Option<String>,
    out: &mut Paid,
) -> Result<(), Error> {
    out.fill(quote, 1)?;
    let mut plain = 0;
    for (at, c) in text.char_indices() {
        let Some(escaped) = escaped(c) else { continue };
        out.push(&text[plain..at])?;
        out.push(&escaped)?;
        plain = at + c.len_utf8();
    }
    out.push(&text[plain..])?;
    out.fill(quote, 1)
}

/// A character as Python escapes it: `\xe9`, `\u2028`, `\U0001f600`.
pub(crate) fn escape(c: char) -> String {
    match c as u32 {
        n if n < 0x100 => format!("\\x{n:02x}"),
        n if n < 0x1_0000 => format!("\\u{n:04x}"),
        n => format!("\\U{n:08x}"),
    }
}

/// `str.isprintable` of a character.
fn is_printable(c: char) -> bool {
    if c.is_ascii() {
        return !c.is_ascii_control();
    }
    // The standard library escapes the same kinds of characters, and, unless a letter stands in front of them, marks.
    let mut bytes = [b'a'; 5];
    let end = 1 + c.encode_utf8(&mut bytes[1..]).len();
    std::str::from_utf8(&bytes[..end]).is_ok_and(|pair| pair.escape_debug().count() == 2)
}

/// A number as Python writes it; `odd` are the words for what is no number and for infinity.
fn number(value: &Value, odd: [&str; 2]) -> String {
    if value.is_integer() {
        return value.to_string();
    }
    match f64::try_from(value.clone()) {
        Ok(v) if v.is_nan() => odd[0].into(),
        Ok(v) if v.is_infinite() => format!("{}{}", if v < 0.0 { "-" } else { "" }, odd[1]),
        // Python changes to exponents at 1e16 and below 1e-4.
        Ok(v) if v != 0.0 && !(1e-4..1e16).contains(&v.abs()) => {
            let (digits, exponent) = scientific(&format!("{v:e}"));
            digits + &exponent
        }
        Ok(v) => format!("{v:?}"),
        Err(_) => value.to_string(),
    }
}

/// The digits, and the exponent as Python writes it, of a number that Rust wrote with an exponent.
fn scientific(text: &str) -> (String, String) {
    let (digits, exponent) = text.split_once('e').unwrap_or((text, "0"));
    let (sign, exponent) = exponent.strip_prefix('-').map_or(('+', exponent), |e| ('-', e));
    (digits.to_owned(), format!("e{sign}{exponent:0>2}"))
}

/// How `json.dumps` is to write; the default is `transformers`' `tojson`.
#[derive(Debug, Default)]
pub(crate) struct Dumps {
    /// Whether what is not ASCII is escaped.
    pub ascii: bool,
    /// What each level is indented by; `None`: all in one line.
    pub indent: Option<String>,
    /// What stands between items, and behind keys.
    pub separators: Option<(String, String)>,
    /// Whether keys are sorted.
    pub sorted: bool,
}

impl Dumps {
    fn begin_item(&self, is_first: bool, depth: usize, out: &mut Paid) -> Result<(), Error> {
        if !is_first {
            let usual = if self.indent.is_some() { "," } else { ", " };
            out.push(self.separators.as_ref().map_or(usual, |s| s.0.as_str()))?;
        }
        self.begin_line(depth, out)
    }

    fn begin_line(&self, depth: usize, out: &mut Paid) -> Result<(), Error> {
        let Some(indent) = &self.indent else { return Ok(()) };
        out.push("\n")?;
        (0..depth).try_for_each(|_| out.push(indent))
    }
}

/// `json.dumps(value)`.
pub(crate) fn json(value: &Value, how: &Dumps, spend: Spend) -> Result<String, Error> {
    let mut out = Paid::new(spend);
    write_json(value, how, 0, &mut out)?;
    Ok(out.done())
}

fn write_json(value: &Value, how: &Dumps, depth: usize, out: &mut Paid) -> Result<(), Error> {
    within_depth(depth, out)?;
    match value.kind() {
        ValueKind::Undefined | ValueKind::None => out.push("null"),
        ValueKind::Bool => out.push(if value.is_true() { "true" } else { "false" }),
        ValueKind::Number => out.push(&number(value, ["NaN", "Infinity"])),
        ValueKind::String => write_json_text(value.as_str().unwrap_or_default(), how, out),
        ValueKind::Seq | ValueKind::Iterable => {
            out.push("[")?;
            let mut is_empty = true;
            for item in value.try_iter()?.checked() {
                how.begin_item(is_empty, depth + 1, out)?;
                write_json(&item?, how, depth + 1, out)?;
                is_empty = false;
            }
            if !is_empty {
                how.begin_line(depth, out)?;
            }
            out.push("]")
        }
        ValueKind::Map => {
            let mut keys = value.try_iter()?.checked().collect::<Result<Vec<Value>, Error>>()?;
            if how.sorted {
                sort_keys(&mut keys)?;
            }
            out.push("{")?;
            for (i, key) in keys.iter().enumerate() {
                how.begin_item(i == 0, depth + 1, out)?;
                match key.kind() {
                    ValueKind::String => write_json_text(key.as_str().unwrap_or_default(), how, out)?,
                    // As texts of what they are as values.
                    ValueKind::None | ValueKind::Bool | ValueKind::Number => {
                        out.push("\"")?;
                        write_json(key, how, depth + 1, out)?;
                        out.push("\"")?;
                    }
                    other => return Err(refused(format!("a JSON object has texts for keys, not {other}"))),
                }
                out.push(how.separators.as_ref().map_or(": ", |s| s.1.as_str()))?;
                write_json(&value.get_item(key)?, how, depth + 1, out)?;
            }
            if !keys.is_empty() {
                how.begin_line(depth, out)?;
            }
            out.push("}")
        }
        other => Err(refused(format!("{other} is not a JSON value"))),
    }
}

fn write_json_text(text: &str, how: &Dumps, out: &mut Paid) -> Result<(), Error> {
    let escaped = |c: char| match c {
        '"' | '\\' => Some(format!("\\{c}")),
        '\n' => Some("\\n".to_owned()),
        '\r' => Some("\\r".to_owned()),
        '\t' => Some("\\t".to_owned()),
        '\u{8}' => Some("\\b".to_owned()),
        '\u{c}' => Some("\\f".to_owned()),
        c if c < ' ' || how.ascii && c > '~' => {
            Some(c.encode_utf16(&mut [0; 2]).iter().map(|unit| format!("\\u{unit:04x}")).collect())
        }
        _ => None,
    };
    write_quoted(text, '"', escaped, out)
}

/// Sorts keys that Python can compare: texts, or numbers.
fn sort_keys(keys: &mut [Value]) -> Result<(), Error> {
    let is_text = |key: &Value| match key.kind() {
        ValueKind::String => Some(true),
        ValueKind::Number | ValueKind::Bool => Some(false),
        _ => None,
    };
    if let [first, .., _] = &*keys
        && (is_text(first).is_none() || keys.iter().any(|key| is_text(key) != is_text(first)))
    {
        return Err(refused("keys of different kinds cannot be sorted"));
    }
    keys.sort();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_as_deep_as_they_may_be_and_paid_for() {
        let nested = |n: usize| (0..n).fold(Value::from(1), |inner, _| Value::from(vec![inner]));
        let free: Spend = &|_| Ok(());
        assert_eq!(repr(&nested(200), free).unwrap().len(), 401);
        assert!(repr(&nested(300), free).unwrap_err().to_string().contains("deep"));
        assert!(json(&nested(300), &Dumps::default(), free).unwrap_err().to_string().contains("deep"));
        // The same list twice in itself, 40 times: 2⁴⁰ numbers.
        let twice = (0..40).fold(Value::from(1), |inner, _| Value::from(vec![inner.clone(), inner]));
        let left = std::cell::Cell::new(10_000_u64);
        let spend = |fuel: u64| -> Result<(), Error> {
            left.set(left.get().checked_sub(fuel).ok_or_else(|| refused("spent"))?);
            Ok(())
        };
        assert_eq!(repr(&twice, &spend).unwrap_err().detail(), Some("spent"));
        let mut out = Paid::new(free);
        out.fill('é', 3).unwrap();
        assert_eq!(out.done(), "ééé");
        assert!(Paid::new(&spend).fill('é', usize::MAX).is_err());
    }
}
