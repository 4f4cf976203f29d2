//! Reading assignments out of TOML text, with the line of each.

use std::io::ErrorKind;
use std::path::Path;

use serde_json::Value;
use toml::de::{DeTable, DeValue};

use super::Source;
use crate::{Error, Result};

/// One `section.key = value` and where it stands.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Assignment {
    pub key: String,
    pub value: Value,
    pub source: Source,
}

/// Longest recipe that is read; a larger file is no recipe.
const LIMIT: u64 = 1 << 20;

pub(super) fn read(path: &Path) -> Result<String> {
    gently_formats::bounded::read_text(path, LIMIT).map_err(|e| match e.kind() {
        ErrorKind::InvalidData => Error::NotARecipe { path: path.into(), why: e.to_string() },
        _ => Error::io("cannot read", path, e),
    })
}

/// All assignments of a TOML text in file order. `restore` reads a line's trailing comment as its source, which is
/// what a resolved `config.toml` carries.
pub(super) fn parse(text: &str, file: &str, restore: bool) -> Result<Vec<Assignment>> {
    // Looked up, not counted anew for each of many keys.
    let breaks: Vec<usize> = text.match_indices('\n').map(|(at, _)| at).collect();
    let line_of = |at: usize| breaks.partition_point(|b| *b < at) + 1;
    let syntax = |e: toml::de::Error| Error::Syntax {
        file: file.into(),
        line: e.span().map_or(1, |span| line_of(span.start)),
        why: e.message().replace('\n', "; "),
    };
    let spans = DeTable::parse(text).map_err(syntax)?;
    let values: toml::Table = toml::from_str(text).map_err(syntax)?;
    let mut found = Vec::new();
    for (section, body) in spans.get_ref() {
        let name = section.get_ref().as_ref();
        let (DeValue::Table(keys), Some(toml::Value::Table(table))) = (body.get_ref(), values.get(name)) else {
            return Err(Error::NotASection {
                key: name.into(),
                file: file.into(),
                line: line_of(section.span().start),
            });
        };
        for (key, value) in keys {
            let name_in = key.get_ref().as_ref();
            let Some(plain) = table.get(name_in) else {
                continue;
            };
            let line = line_of(value.span().start);
            let comment = if restore { comment_after(text, value.span().end) } else { None };
            found.push(Assignment {
                key: format!("{name}.{name_in}"),
                value: json(plain),
                source: comment.map_or(Source::Recipe { file: file.into(), line }, Source::from_comment),
            });
        }
    }
    found.sort_by_key(|a| match &a.source {
        Source::Recipe { line, .. } => *line,
        _ => 0,
    });
    Ok(found)
}

fn comment_after(text: &str, at: usize) -> Option<&str> {
    let rest = text.get(at..)?.lines().next()?;
    Some(rest.trim_start().strip_prefix('#')?.trim())
}

/// The value in `--set key=value`: TOML if it is TOML, otherwise a text.
pub(super) fn parse_value(text: &str) -> Value {
    toml::from_str::<toml::Table>(&format!("v = {text}"))
        .ok()
        .and_then(|mut table| table.remove("v"))
        .map_or_else(|| Value::String(text.to_owned()), |v| json(&v))
}

/// TOML has numbers that JSON does not, `nan` and `inf`: they become texts, which no key of numbers takes. (As JSON's null they
/// would be keys that nobody gave.)
fn json(value: &toml::Value) -> Value {
    match value {
        toml::Value::Float(f) if !f.is_finite() => Value::String(value.to_string()),
        toml::Value::Array(items) => items.iter().map(json).collect(),
        toml::Value::Table(items) => Value::Object(items.iter().map(|(key, v)| (key.clone(), json(v))).collect()),
        other => serde_json::to_value(other).unwrap_or(Value::Null),
    }
}

/// A value as TOML text; `None` for an unset one.
pub(super) fn toml_text(value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::Number(number) => Some(number_text(number)),
        Value::Array(items) => Some(format!("[{}]", items.iter().filter_map(toml_text).collect::<Vec<_>>().join(", "))),
        // JSON's escapes are TOML's too, and keep a text on one line; only DEL is allowed there and not here.
        Value::String(_) => Some(value.to_string().replace('\u{7f}', "\\u007F")),
        other => toml::Value::try_from(other).ok().map(|v| v.to_string()),
    }
}

/// Floats keep a point or an exponent, so that they stay floats when read again.
fn number_text(number: &serde_json::Number) -> String {
    match number.as_f64() {
        Some(f) if number.is_f64() && f != 0.0 && (f.abs() < 1e-3 || f.abs() >= 1e9) => {
            format!("{f:e}")
        }
        _ => number.to_string(),
    }
}
