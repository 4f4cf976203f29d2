//! What a GGUF file says of itself: keys, types of tensors, parts.

use super::output::{bytes, table};
use anyhow::Result;
use gently_formats::Limits;
use gently_formats::gguf::{Array, Gguf, TensorType, Value};
use serde_json::json;
use std::collections::BTreeMap;
use std::path::Path;

/// Longest text of a value that is shown whole.
const SHOWN: usize = 60;

/// The file that `model` means; `None` where it is a folder or a name.
pub fn open(model: &str) -> Result<Option<Gguf>> {
    let path = Path::new(model);
    Ok(if path.is_file() { Some(Gguf::open(path, &Limits::default())?) } else { None })
}

/// Number of tensors and bytes for each type.
fn types(file: &Gguf) -> BTreeMap<&'static str, (TensorType, usize, u64)> {
    let mut types = BTreeMap::new();
    for entry in file.tensors().values() {
        let (_, tensors, size) = types.entry(entry.kind.name()).or_insert((entry.kind, 0, 0));
        *tensors += 1;
        *size += entry.bytes.len() as u64;
    }
    types
}

/// A few lines for people.
pub fn to_text(file: &Gguf) -> String {
    let mut text = format!("\nGGUF version {}\n", file.version());
    let mut rows = vec![["type", "tensors", "bytes", "bits each"].map(String::from).to_vec()];
    for (name, (kind, tensors, size)) in types(file) {
        let bits = 8.0 * kind.block_bytes() as f64 / kind.block_len() as f64;
        rows.push(vec![name.into(), tensors.to_string(), bytes(size), format!("{bits:.2}")]);
    }
    text.push_str(&table(&rows));
    text.push_str("\nkeys\n");
    let rows: Vec<_> = file.metadata().iter().map(|(k, v)| vec![k.to_owned(), shown(v)]).collect();
    let width = rows.iter().map(|r| r[0].chars().count()).max().unwrap_or(0);
    // The values to the left, unlike numbers in a table.
    rows.iter().for_each(|r| text.push_str(&format!("{:width$}  {}\n", r[0], r[1])));
    text.push_str("\nfiles\n");
    text.push_str(&table(
        &file.parts().map(|(path, size)| vec![path.display().to_string(), bytes(size as u64)]).collect::<Vec<_>>(),
    ));
    text
}

/// The same for programs.
pub fn to_json(file: &Gguf) -> serde_json::Value {
    let types: BTreeMap<_, _> =
        types(file).into_iter().map(|(name, (_, n, size))| (name, json!({"tensors": n, "bytes": size}))).collect();
    let keys: BTreeMap<&str, serde_json::Value> = file
        .metadata()
        .iter()
        .map(|(key, value)| {
            let value = match value {
                Value::Bool(v) => json!(v),
                Value::Text(v) => json!(v),
                Value::Array(a) => json!(short(a)),
                number => number.as_uint().map_or_else(|| json!(number.as_real()), |n| json!(n)),
            };
            (key, value)
        })
        .collect();
    json!({
        "version": file.version(), "types": types, "keys": keys,
        "tensors": file.tensors().iter()
            .map(|(name, e)| json!({"name": name, "type": e.kind.name(), "shape": e.shape, "bytes": e.bytes.len()}))
            .collect::<Vec<_>>(),
        "files": file.parts().map(|(path, size)| json!({"name": path, "bytes": size})).collect::<Vec<_>>(),
    })
}

fn shown(value: &Value) -> String {
    match value {
        Value::Bool(v) => v.to_string(),
        Value::Text(t) => cut(&format!("{t:?}")),
        Value::Array(a) => short(a),
        number => match number.as_int() {
            Some(n) => n.to_string(),
            None => number.as_real().map_or_else(|| number.kind(), |v| (v as f32).to_string()),
        },
    }
}

/// The beginning of an array.
fn short(a: &Array) -> String {
    let first: Vec<String> = match a {
        Array::Texts(t) => t.iter().take(4).map(|t| format!("{t:?}")).collect(),
        Array::Bool(v) => v.iter().take(4).map(bool::to_string).collect(),
        other => match (other.to_ints(), other.to_reals()) {
            (Some(v), _) => v.iter().take(4).map(i64::to_string).collect(),
            (_, Some(v)) => v.iter().take(4).map(f64::to_string).collect(),
            _ => Vec::new(),
        },
    };
    let more = if a.len() > first.len() { ", …" } else { "" };
    cut(&format!("{} [{}{more}]", a.len(), first.join(", ")))
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(SHOWN) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}
