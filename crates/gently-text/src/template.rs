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

use crate::python::{self, strings};
use crate::running::{self, Program};
use crate::{Error, Result, filters, source};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Value, ValueKind};
use minijinja::{AutoEscape, Environment, ErrorKind, Output, State, UndefinedBehavior, escape_formatter};
use minijinja_contrib::pycompat;
use std::path::{Path, PathBuf};

/// Values of an expression may stand in each other this deep.
const MOST_NESTED: usize = 64;
/// Instructions, and units of 64 bytes of text, that a rendering may cost beside what its input costs.
const FUEL: u64 = 400_000;
/// Calls of macros within each other.
const DEPTH: usize = 100;
const NAME: &str = "text";

/// What a rendering of an input of `size` bytes may spend: long inputs are paid for by their length.
pub(crate) fn fuel(size: usize) -> u64 {
    FUEL + 4 * size as u64
}

/// Where a template runs: without escaping, with Python's methods and Jinja's filters, and bounded.
pub(crate) fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_recursion_limit(DEPTH);
    environment.set_unknown_method_callback(method);
    environment.set_formatter(print);
    filters::add(&mut environment);
    running::bound(&mut environment);
    environment
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
        let plain = source::prepared(source, false).map_err(fail)?;
        let mut environment = environment();
        environment.add_filter("tojson", filters::tojson_indented);
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        let syntax = SyntaxConfig::builder().keep_trailing_newline(true).build();
        let syntax = syntax.map_err(|e| fail(e.to_string()))?;
        environment.set_syntax(syntax.clone());
        environment.add_template_owned(NAME, plain.clone()).map_err(|e| fail(told(&e)))?;
        let program = Program::new(&mut environment, NAME, plain, syntax).map_err(|e| fail(told(&e)))?;
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
        let inner = self.program.source().trim().strip_prefix("{{").and_then(|s| s.strip_suffix("}}"));
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

/// Writes a value as Python does.
fn print(out: &mut Output, state: &mut State, value: &Value) -> Result<(), minijinja::Error> {
    if !matches!(state.auto_escape(), AutoEscape::None) {
        return escape_formatter(out, state, value);
    }
    let text = python::text(value, &|fuel| state.consume_fuel(fuel))?;
    out.write_str(&text).map_err(minijinja::Error::from)
}

/// Python's methods of strings and dictionaries.
fn method(state: &mut State, value: &Value, name: &str, args: &[Value]) -> Result<Value, minijinja::Error> {
    if let Some(text) = value.as_str()
        && let Some(done) = strings::method(state, text, name, args)?
    {
        return Ok(done);
    }
    match name {
        "index" if value.kind() == ValueKind::Seq => index(state, value, args),
        _ => pycompat::unknown_method_callback(state, value, name, args),
    }
}

/// Python's `list.index`.
fn index(state: &mut State, list: &Value, args: &[Value]) -> Result<Value, minijinja::Error> {
    let (wanted,): (&Value,) = minijinja::value::from_args(args)?;
    state.consume_fuel(list.len().unwrap_or(0) as u64)?;
    match list.try_iter()?.position(|v| v == *wanted) {
        Some(at) => Ok(Value::from(at)),
        None => {
            let wanted = python::repr(wanted, &|fuel| state.consume_fuel(fuel))?;
            Err(python::refused(format!("{wanted} is not in list")))
        }
    }
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
        assert_eq!(template("{{ [one ~ '\\a\\/'] }}").value(&item).unwrap(), Some(json!(["x\u{7}\\/"])));
    }

    #[test]
    fn fields_may_have_the_names_of_signs() {
        let item = json!({"a": 3, "+": 1, "*": 1, "%": 1, "~": 1, "=b": 1, ".items": 1, "d": {"k": 0.00001}});
        let source = "{% set ns = namespace() %}{% set ns.b = a %}{{ a + 1 }}{{ a * 2 }}{{ a % 2 }}{{ a ~ ns.b }}{{ d.items() | list }}";
        assert_eq!(template(source).render(&item).unwrap(), "46133[('k', 1e-05)]");
        assert_eq!(template("{{ [1] | tojson(1) }}").render(&item).unwrap(), "[\n 1\n]");
    }

    #[test]
    fn failures_name_what_is_missing() {
        let says = |source: &str, item: serde_json::Value| template(source).render(&item).unwrap_err().to_string();
        let e = says("{{a.b}} {{c}}", json!({"a": {"b": 1}}));
        assert_eq!(e, "task.yaml: doc_to_text: there is no field \"c\"");
        assert!(says("{{a.b}}", json!({"a": {}})).contains("\"a.b\""));
        for source in [
            "{{c.strip()}}",
            "{{a}}{{c.d.strip()}}",
            "{{c[0]}}",
            "{{c + a}}",
            "{{a ~ c}}",
            "{{c % 2}}",
            "{{'%s' % c}}",
            "{{'{}'.format(c)}}",
            "{{c | trim}}",
            "{{[a, c] | join}}",
            "{{c | string}}",
            "{% for x in c %}{% endfor %}",
        ] {
            assert!(says(source, json!({"a": "x"})).ends_with("there is no field \"c\""), "{source}");
        }
        assert!(!says("{{a.stripped()}}", json!({"a": "x"})).contains("no field"));
        assert!(says("{{l.index(\"z\")}}", json!({"l": ["x"]})).contains("'z' is not in list"));
        assert!(template("{{c}}").value(&json!({})).unwrap_err().to_string().contains("\"c\""));
        let e = says("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}", json!({}));
        assert!(e.contains("fuel"), "{e}");
        let e = Template::new("{{ a", "doc_to_text", Path::new("task.yaml")).unwrap_err();
        assert!(e.to_string().contains("line 1"), "{e}");
    }
}
