//! YAML as a tree with the line of every value.
//!
//! Here: documents of YAML 1.2's core schema, bounded in size and depth; a key given twice, an alias, a tag other than the
//! core ones and a second document are errors. Not here: what the keys mean (see [`super::Task`]).
//!
//! ```
//! use gently::eval::yaml::{Node, Value};
//! let node = Node::parse("task: demo\nnum_fewshot: 2\n").unwrap();
//! let Value::Map(entries) = &node.value else { unreachable!() };
//! assert_eq!((entries[1].key.as_str(), entries[1].line), ("num_fewshot", 2));
//! assert!(matches!(entries[1].node.value, Value::Int(2)));
//! assert_eq!(Node::parse("a: 1\na: 2\n").unwrap_err().line, 2);
//! ```

use saphyr_parser::{Event, Parser, ScalarStyle, Span, Tag};
use std::borrow::Cow;

/// Most bytes of a document.
pub const MOST_BYTES: usize = 64 << 20;
/// Lists and maps within each other.
const MOST_DEPTH: usize = 32;
/// Keys of one map.
const MOST_KEYS: usize = 4096;
/// Bytes of a key, which is compared with those that are known.
const MOST_KEY_BYTES: usize = 1024;

/// A value and where it begins.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// The line, from 1.
    pub line: usize,
    /// What it is.
    pub value: Value,
}

/// What a node is.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// `null`, `~`, or nothing.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A number with a fraction or an exponent.
    Float(f64),
    /// Anything else, and everything in quotes.
    Text(String),
    /// A list.
    List(Vec<Node>),
    /// Keys with their values, in the order of the file.
    Map(Vec<Entry>),
}

/// A key and its value.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// The key's line, from 1.
    pub line: usize,
    /// The value.
    pub node: Node,
}

/// Why a text is no such document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The line, from 1.
    pub line: usize,
    /// Why.
    pub reason: String,
    /// What to write in its place, where that is known.
    pub hint: Option<&'static str>,
}

/// A list or map that is being read.
enum Open {
    List(usize, Vec<Node>),
    Map(usize, Vec<Entry>, Option<(String, usize)>),
}

impl Node {
    /// Reads a document.
    ///
    /// # Errors
    /// [`Refusal`] with the line.
    pub fn parse(text: &str) -> Result<Self, Refusal> {
        let refuse = |line, reason: String| Err(Refusal { line, reason, hint: None });
        let instead = |line, reason: String, hint| Err(Refusal { line, reason, hint: Some(hint) });
        if text.len() > MOST_BYTES {
            return refuse(1, format!("it has {} bytes, over the limit of {MOST_BYTES}", text.len()));
        }
        let mut stack: Vec<Open> = Vec::new();
        let mut root = None;
        let mut documents = 0;
        for event in Parser::new_from_str(text) {
            let (event, Span { start, .. }) = event.map_err(|e| {
                let line = e.marker().line().max(1);
                Refusal { line, reason: format!("not YAML: {}", e.info()), hint: None }
            })?;
            let line = start.line().max(1);
            let node = match event {
                Event::DocumentStart(_) => {
                    documents += 1;
                    if documents > 1 {
                        return refuse(line, "a second document begins here".into());
                    }
                    continue;
                }
                Event::Alias(_) => {
                    return instead(line, "aliases (*name) are not read".into(), "write the value again");
                }
                Event::SequenceStart(_, tag) => {
                    only_core(tag, "seq", line)?;
                    stack.push(Open::List(line, Vec::new()));
                    None
                }
                Event::MappingStart(_, tag) => {
                    only_core(tag, "map", line)?;
                    stack.push(Open::Map(line, Vec::new(), None));
                    None
                }
                Event::SequenceEnd | Event::MappingEnd => match stack.pop() {
                    Some(Open::List(line, all)) => Some(Node { line, value: Value::List(all) }),
                    Some(Open::Map(line, all, _)) => Some(Node { line, value: Value::Map(all) }),
                    None => None,
                },
                Event::Scalar(text, style, _, tag) => Some(Node { line, value: scalar(text, style, tag, line)? }),
                _ => continue,
            };
            if stack.len() > MOST_DEPTH {
                return refuse(line, format!("more than {MOST_DEPTH} lists and maps within each other"));
            }
            let Some(node) = node else { continue };
            match stack.last_mut() {
                None => root = Some(node),
                Some(Open::List(_, all)) => all.push(node),
                Some(Open::Map(_, all, key @ None)) => {
                    let name = match node.value {
                        Value::Text(name) => name,
                        Value::Int(n) => n.to_string(),
                        _ => return refuse(node.line, "a key is not a text".into()),
                    };
                    if name == "<<" {
                        let what = "merge keys (<<) are not read".into();
                        return instead(node.line, what, "write the keys themselves");
                    }
                    if name.len() > MOST_KEY_BYTES {
                        return refuse(node.line, format!("a key has more than {MOST_KEY_BYTES} bytes"));
                    }
                    if all.len() >= MOST_KEYS {
                        return refuse(node.line, format!("a map has more than {MOST_KEYS} keys"));
                    }
                    if all.iter().any(|e| e.key == name) {
                        return instead(node.line, format!("{name} is given twice"), "leave one of the two out");
                    }
                    *key = Some((name, node.line));
                }
                Some(Open::Map(_, all, key)) => {
                    if let Some((key, line)) = key.take() {
                        all.push(Entry { key, line, node });
                    }
                }
            }
        }
        Ok(root.unwrap_or(Node { line: 1, value: Value::Null }))
    }

    /// What it is, for messages.
    pub fn kind(&self) -> &'static str {
        match self.value {
            Value::Null => "nothing",
            Value::Bool(_) => "true or false",
            Value::Int(_) | Value::Float(_) => "a number",
            Value::Text(_) => "a text",
            Value::List(_) => "a list",
            Value::Map(_) => "a map",
        }
    }

    /// The same value in JSON; a number that JSON does not have is null.
    pub fn to_json(&self) -> serde_json::Value {
        match &self.value {
            Value::Null => serde_json::Value::Null,
            Value::Bool(b) => (*b).into(),
            Value::Int(n) => (*n).into(),
            Value::Float(x) => (*x).into(),
            Value::Text(text) => text.as_str().into(),
            Value::List(all) => all.iter().map(Node::to_json).collect(),
            Value::Map(all) => {
                serde_json::Value::Object(all.iter().map(|e| (e.key.clone(), e.node.to_json())).collect())
            }
        }
    }
}

/// Refuses tags that ask for more than what is written.
fn only_core(tag: Option<Cow<'_, Tag>>, kind: &str, line: usize) -> Result<(), Refusal> {
    match tag {
        Some(tag) if !tag.is_yaml_core_schema() || tag.suffix != kind => Err(unknown(&tag, line)),
        _ => Ok(()),
    }
}

fn unknown(tag: &Tag, line: usize) -> Refusal {
    let (reason, hint) = match tag.suffix.as_str() {
        "function" => {
            ("!function asks for Python code, which is not run here".into(), Some("write a template instead"))
        }
        _ => (format!("the tag {}{} is not known", tag.handle, tag.suffix), None),
    };
    Refusal { line, reason, hint }
}

/// A scalar by YAML 1.2's core schema.
fn scalar(text: Cow<'_, str>, style: ScalarStyle, tag: Option<Cow<'_, Tag>>, line: usize) -> Result<Value, Refusal> {
    if let Some(tag) = tag {
        only_core(Some(tag), "str", line)?;
        return Ok(Value::Text(text.into_owned()));
    }
    if style != ScalarStyle::Plain {
        return Ok(Value::Text(text.into_owned()));
    }
    Ok(match &*text {
        "" | "~" | "null" | "Null" | "NULL" => Value::Null,
        "true" | "True" | "TRUE" => Value::Bool(true),
        "false" | "False" | "FALSE" => Value::Bool(false),
        plain => {
            let digits = plain.trim_start_matches(['-', '+']);
            let number = digits.starts_with(|c: char| c.is_ascii_digit() || c == '.')
                && digits.bytes().all(|b| b.is_ascii_digit() || b"eE+-.".contains(&b))
                && plain.len() - digits.len() <= 1;
            let whole = || plain.parse().ok().map(Value::Int);
            let broken = || plain.parse().ok().filter(|x: &f64| x.is_finite()).map(Value::Float);
            number.then(|| whole().or_else(broken)).flatten().unwrap_or_else(|| Value::Text(text.into_owned()))
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn json(text: &str) -> serde_json::Value {
        Node::parse(text).unwrap().to_json()
    }

    #[test]
    fn scalars_are_what_the_core_schema_says() {
        let text = "[1, -2, +3, 0.5, 1e3, .5, 1-2, 1.2.3, yes, true, ~, '1', \"a\\n\", , 12345678901234567890]";
        let text = text.replace(", ,", ", '',");
        let expected = json!([
            1,
            -2,
            3,
            0.5,
            1e3,
            0.5,
            "1-2",
            "1.2.3",
            "yes",
            true,
            null,
            "1",
            "a\n",
            "",
            12345678901234567890f64
        ]);
        assert_eq!(json(&text), expected);
        assert_eq!(json("a: |\n  x\n  y\nb: >-\n  x\n  y\nc: !!str 1\n"), json!({"a": "x\ny\n", "b": "x y", "c": "1"}));
        assert_eq!(json(""), serde_json::Value::Null);
        assert_eq!(json("1: x\n"), json!({"1": "x"}));
    }

    #[test]
    fn what_is_not_read_is_refused_with_its_line() {
        let deep = "[".repeat(40);
        for (text, line, word) in [
            ("a: &x 1\nb: *x\n", 2, "alias"),
            ("a: 1\n<<: {b: 1}\n", 2, "merge"),
            ("x: !function utils.f\n", 1, "Python"),
            ("x: !odd f\n", 1, "!odd"),
            ("a: 1\n---\nb: 2\n", 2, "second document"),
            ("a: [1\nb: 2\n", 2, "not YAML"),
            ("? [a]\n: 1\n", 1, "key"),
            (&deep, 1, "within each other"),
            (&format!("a: 1\n? {}\n: 1\n", "k".repeat(2000)), 2, "1024 bytes"),
            ("a:\n\tb: 1\n", 2, "not YAML"),
        ] {
            let e = Node::parse(text).unwrap_err();
            assert!(e.reason.contains(word) && e.line == line, "{text:?}: {e:?}");
        }
    }
}
