//! Jinja templates: the bounded environment that all of them run in, and texts made of an object's fields.
//!
//! Here: [`Template`], rendered as the prompts of evaluation tasks are written (undefined fields are errors), and the budget, the
//! methods and the limits that it shares with [`crate::ChatTemplate`]. Not here: conversations.
//!
//! ```
//! use gently_text::Template;
//! let template = Template::new("Question: {{ question.strip() }}\nAnswer:", "doc_to_text", "task.yaml".as_ref())?;
//! let item = serde_json::json!({"question": " What is grey? "});
//! assert_eq!(template.render(&item)?, "Question: What is grey?\nAnswer:");
//! assert!(template.render(&serde_json::json!({})).unwrap_err().to_string().contains("question"));
//! # Ok::<(), gently_text::Error>(())
//! ```

use crate::running::{self, Program};
use crate::{Error, Result, python};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Value, ValueKind};
use minijinja::{Environment, ErrorKind, State, UndefinedBehavior};
use minijinja_contrib::pycompat;
use std::path::{Path, PathBuf};

/// No published template is near this.
const MOST_SOURCE: usize = 256 << 10;
/// Values of an expression may stand in each other this deep.
const MOST_NESTED: usize = 64;
/// Instructions, and units of 64 bytes of text, that a rendering may cost beside what its input costs.
const FUEL: u64 = 400_000;
/// Calls of macros within each other.
const DEPTH: usize = 100;
/// Words, strings and signs in one tag, and `elif` in a template: the reader of templates goes as deep as there are of them.
const MOST_PARTS: usize = 800;
const NAME: &str = "text";

/// What a rendering of an input of `size` bytes may spend: long inputs are paid for by their length.
pub(crate) fn fuel(size: usize) -> u64 {
    FUEL + 4 * size as u64
}

/// Where a template runs: without escaping, with Python's methods, and bounded. Refuses a source that is too long or too deep.
pub(crate) fn environment(source: &str) -> Result<Environment<'static>, String> {
    if source.len() > MOST_SOURCE {
        return Err(format!("it has {} bytes, over the limit of {MOST_SOURCE}", source.len()));
    }
    check_depth(source)?;
    let mut environment = Environment::new();
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    environment.set_recursion_limit(DEPTH);
    environment.set_unknown_method_callback(method);
    environment.add_filter("tojson", tojson);
    running::bound(&mut environment);
    Ok(environment)
}

/// A text made of an object's fields. A field that is not there is an error.
#[derive(Debug, Clone)]
pub struct Template {
    environment: Environment<'static>,
    program: Program,
    source: String,
    what: String,
    path: PathBuf,
}

impl Template {
    /// Reads a template; `what` it makes and the `path` it is from are for messages.
    ///
    /// # Errors
    /// [`Error::TextTemplate`] with the line, also for one that is too long or too deep.
    pub fn new(source: &str, what: &str, path: &Path) -> Result<Self> {
        let fail = |reason| Error::TextTemplate { path: path.into(), what: what.into(), reason };
        let mut environment = environment(source).map_err(fail)?;
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        let syntax = SyntaxConfig::builder().keep_trailing_newline(true).build();
        let syntax = syntax.map_err(|e| fail(e.to_string()))?;
        environment.set_syntax(syntax.clone());
        environment.add_template_owned(NAME, source.to_owned()).map_err(|e| fail(told(&e)))?;
        let program = Program::new(&mut environment, NAME, source.into(), syntax).map_err(|e| fail(told(&e)))?;
        Ok(Self { environment, program, source: source.to_owned(), what: what.into(), path: path.into() })
    }

    /// The template's text.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The text for an object.
    ///
    /// # Errors
    /// [`Error::TextTemplate`]: a field that is not there by its name, what the template itself says, a budget exceeded.
    pub fn render(&self, fields: &serde_json::Value) -> Result<String> {
        let environment = self.funded(fields);
        self.program.render(&environment, self.values(fields)?).map_err(|e| self.fail(&e, fields))
    }

    /// The value of a template that is nothing but one `{{ expression }}`, such as a list; `None` for any other template.
    ///
    /// # Errors
    /// As [`Template::render`].
    pub fn value(&self, fields: &serde_json::Value) -> Result<Option<serde_json::Value>> {
        let inner = self.source.trim().strip_prefix("{{").and_then(|s| s.strip_suffix("}}"));
        let Some(inner) = inner.map(|s| s.trim_matches('-')) else { return Ok(None) };
        let environment = self.funded(fields);
        let json = |value: &Value| match value.is_undefined() {
            true => Ok(None),
            false if is_deep(value, MOST_NESTED) => Err(format!("values stand more than {MOST_NESTED} deep")),
            false => serde_json::to_value(value).map(Some).map_err(|e| e.to_string()),
        };
        let value =
            running::value(&environment, inner, self.values(fields)?, json).map_err(|e| self.fail(&e, fields))?;
        match value {
            // Two tags and what is between them are no expression.
            None => Ok(None),
            Some(Ok(Some(value))) => Ok(Some(value)),
            Some(Ok(None)) => Err(self.fail(&minijinja::Error::from(ErrorKind::UndefinedError), fields)),
            Some(Err(reason)) => Err(self.error(reason)),
        }
    }

    fn values(&self, fields: &serde_json::Value) -> Result<Value> {
        serde_json::from_value(fields.clone()).map_err(|e| self.error(e.to_string()))
    }

    fn funded(&self, fields: &serde_json::Value) -> Environment<'static> {
        let mut environment = self.environment.clone();
        environment.set_fuel(Some(fuel(size(fields))));
        environment
    }

    fn error(&self, reason: String) -> Error {
        Error::TextTemplate { path: self.path.clone(), what: self.what.clone(), reason }
    }

    /// A failure; one for want of a field names it.
    fn fail(&self, e: &minijinja::Error, fields: &serde_json::Value) -> Error {
        let asked = self.environment.get_template(NAME).map(|t| t.undeclared_variables(true)).unwrap_or_default();
        let global = |name: &str| self.environment.globals().any(|(known, _)| known == name);
        // A method of what is not there, or a sum with it, fails as such; what is there may lack the method.
        let told = told(e);
        let deepest = match e.kind() {
            ErrorKind::UndefinedError => usize::MAX,
            _ => usize::from(told.contains("undefined")),
        };
        let mut missing: Vec<String> =
            asked.iter().filter(|name| !global(name)).filter_map(|name| absent(name, fields, deepest)).collect();
        missing.sort();
        match missing.first() {
            Some(first) => self.error(format!("there is no field {first:?}")),
            None => self.error(told),
        }
    }
}

/// The beginning of a dotted name that leads nowhere, of at most `deepest` parts.
fn absent(name: &str, fields: &serde_json::Value, deepest: usize) -> Option<String> {
    let mut place = fields;
    for (depth, part) in name.split('.').enumerate().take(deepest) {
        match (place.get(part), place) {
            (Some(inner), _) => place = inner,
            // A method, or an index, of a text or list.
            (None, serde_json::Value::String(_) | serde_json::Value::Array(_)) => return None,
            (None, _) => return Some(name.split('.').take(depth + 1).collect::<Vec<_>>().join(".")),
        }
    }
    None
}

/// Whether values stand in this one deeper than `most`.
fn is_deep(value: &Value, most: usize) -> bool {
    let inner = |all: &Value| all.try_iter().map(|all| all.collect::<Vec<_>>()).unwrap_or_default();
    match value.kind() {
        ValueKind::Seq | ValueKind::Iterable => most == 0 || inner(value).iter().any(|v| is_deep(v, most - 1)),
        ValueKind::Map => {
            most == 0 || inner(value).iter().any(|key| value.get_item(key).is_ok_and(|v| is_deep(&v, most - 1)))
        }
        _ => false,
    }
}

/// Bytes of a value's texts, about.
fn size(value: &serde_json::Value) -> usize {
    match value {
        serde_json::Value::String(s) => s.len(),
        serde_json::Value::Array(all) => all.iter().map(size).sum(),
        serde_json::Value::Object(all) => all.iter().map(|(k, v)| k.len() + size(v)).sum(),
        _ => 8,
    }
}

/// What went wrong, with the line, without the template's text.
pub(crate) fn told(e: &minijinja::Error) -> String {
    let detail = e.detail().map(|d| format!(": {d}")).unwrap_or_default();
    let line = e.line().map(|n| format!(" (line {n})")).unwrap_or_default();
    format!("{}{detail}{line}", e.kind())
}

/// Python's methods of strings and dictionaries; those that make long texts of short ones are paid for first.
fn method(state: &mut State, value: &Value, name: &str, args: &[Value]) -> Result<Value, minijinja::Error> {
    match (name, value.as_str()) {
        ("replace", Some(text)) => {
            let length = |i: usize| args.get(i).and_then(Value::as_str).map_or(0, str::len) as u64;
            let places = match length(0) {
                0 => text.len() as u64 + 1,
                n => text.len() as u64 / n,
            };
            state.consume_fuel(places.saturating_mul(length(1)) / 64)?;
        }
        // A width in a format makes a text of any length.
        ("format", Some(_)) => return Err(minijinja::Error::from(ErrorKind::UnknownMethod)),
        ("index", None) if value.kind() == ValueKind::Seq => return index(state, value, args),
        _ => {}
    }
    pycompat::unknown_method_callback(state, value, name, args)
}

/// Python's `list.index`.
fn index(state: &mut State, list: &Value, args: &[Value]) -> Result<Value, minijinja::Error> {
    let (wanted,): (&Value,) = minijinja::value::from_args(args)?;
    state.consume_fuel(list.len().unwrap_or(0) as u64)?;
    let found = list.try_iter()?.position(|v| v == *wanted);
    let absent = || minijinja::Error::new(ErrorKind::InvalidOperation, format!("{wanted} is not in list"));
    found.map(Value::from).ok_or_else(absent)
}

/// `tojson` as transformers has it: nothing escaped for HTML, Python's spaces.
fn tojson(state: &State, value: &Value, indent: Option<Value>, options: Kwargs) -> Result<String, minijinja::Error> {
    let indent = match options.get::<Option<Value>>("indent")?.or(indent) {
        Some(n) if n.is_integer() => Some(usize::try_from(n)?.min(16)),
        _ => None,
    };
    // Read by some templates' authors as Jinja's: accepted where they ask for what is done anyway.
    let _ = options.get::<Option<Value>>("ensure_ascii")?;
    options.assert_all_used()?;
    python::json(value, indent, &|fuel| state.consume_fuel(fuel))
}

/// Refuses tags so long that reading them could exhaust the stack: `- - - 1`, `a.b.c.d` and `a|b|c` are one call deeper for
/// each part.
fn check_depth(source: &str) -> Result<(), String> {
    let bytes = source.as_bytes();
    let (mut at, mut branches) = (0, 0);
    while let Some(open) = source.get(at..).and_then(|rest| rest.find('{')).map(|n| at + n) {
        let close: &[u8] = match bytes.get(open + 1) {
            Some(b'{') => b"}}",
            Some(b'%') => b"%}",
            Some(b'#') => {
                at = source[open..].find("#}").map_or(source.len(), |n| open + n + 2);
                continue;
            }
            _ => {
                at = open + 1;
                continue;
            }
        };
        at = open + 2;
        let mut parts = 0;
        while at < bytes.len() && !bytes[at..].starts_with(close) {
            let start = at;
            match bytes[at] {
                b if b.is_ascii_whitespace() => {
                    at += 1;
                    continue;
                }
                quote @ (b'"' | b'\'') => {
                    at += 1;
                    while at < bytes.len() && bytes[at] != quote {
                        at += if bytes[at] == b'\\' { 2 } else { 1 };
                    }
                    at += 1;
                }
                b if b.is_ascii_alphanumeric() || b == b'_' || b >= 0x80 => {
                    let word = |b: &u8| b.is_ascii_alphanumeric() || *b == b'_' || *b >= 0x80;
                    at += bytes[at..].iter().take_while(|b| word(b)).count();
                    branches += usize::from(&bytes[start..at] == b"elif");
                }
                _ => at += 1,
            }
            parts += 1;
            if parts > MOST_PARTS || branches > MOST_PARTS {
                let line = bytes[..start].iter().filter(|b| **b == b'\n').count() + 1;
                return Err(format!("a tag or its branches have more than {MOST_PARTS} parts (line {line})"));
            }
        }
        // Past the end of the tag, or of a template that ends within it.
        at = if at < bytes.len() { at + 2 } else { bytes.len() };
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn template(source: &str) -> Template {
        Template::new(source, "doc_to_text", Path::new("task.yaml")).unwrap()
    }

    #[test]
    fn expressions_have_values_and_other_templates_have_none() {
        let item = json!({"choices": {"text": ["a", "b"], "label": ["A", "B"]}, "key": "B", "one": "x"});
        assert_eq!(template("{{choices.text}}").value(&item).unwrap(), Some(json!(["a", "b"])));
        assert_eq!(template("{{ [one, key] }}").value(&item).unwrap(), Some(json!(["x", "B"])));
        assert_eq!(template("{{choices.label.index(key)}}").render(&item).unwrap(), "1");
        assert_eq!(template("{{one}} {{key}}").value(&item).unwrap(), None);
        assert_eq!(template("x").value(&item).unwrap(), None);
        assert_eq!(template(" {{one}}\n").render(&item).unwrap(), " x\n", "white space stays");
    }

    #[test]
    fn failures_name_what_is_missing() {
        let says = |source: &str, item: serde_json::Value| template(source).render(&item).unwrap_err().to_string();
        let e = says("{{a.b}} {{c}}", json!({"a": {"b": 1}}));
        assert_eq!(e, "task.yaml: doc_to_text: there is no field \"c\"");
        assert!(says("{{a.b}}", json!({"a": {}})).contains("\"a.b\""));
        for source in ["{{c.strip()}}", "{{a}}{{c.d.strip()}}", "{{c[0]}}", "{{c + a}}", "{% for x in c %}{% endfor %}"]
        {
            assert!(says(source, json!({"a": "x"})).ends_with("there is no field \"c\""), "{source}");
        }
        assert!(!says("{{a.stripped()}}", json!({"a": "x"})).contains("no field"));
        assert!(says("{{l.index(\"z\")}}", json!({"l": ["x"]})).contains("z is not in list"));
        assert!(template("{{c}}").value(&json!({})).unwrap_err().to_string().contains("\"c\""));
        let e = says("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}", json!({}));
        assert!(e.contains("fuel"), "{e}");
        let e = Template::new("{{ a", "doc_to_text", Path::new("task.yaml")).unwrap_err();
        assert!(e.to_string().contains("line 1"), "{e}");
    }
}
