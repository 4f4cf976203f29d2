//! What a Lark grammar may ask for, before it is compiled.
//!
//! Here: bounds on the schemas inside of it, and attributes of rules that texts cannot be held to. Not here: what grammars mean,
//! and errors in them, which the compiler finds.

use super::{ConstraintError, Kind, schema};
use serde_json::{Deserializer, Value};

/// Refuses what would take too long, and what would not be kept to.
pub(super) fn check(grammar: &str) -> Result<(), ConstraintError> {
    schemas(grammar)?;
    attributes(grammar)
}

/// Looks at what stands behind each `%json`.
fn schemas(grammar: &str) -> Result<(), ConstraintError> {
    let wrong = |what: String| ConstraintError::of(Kind::Lark, what);
    for (at, word) in grammar.match_indices("%json") {
        // What is no JSON is no schema: the compiler says so, if it reads it as one.
        let Some((value, _)) = json(&grammar[at + word.len()..]) else { continue };
        // All of a grammar's schemas together have no bound. A name may be spelled with escapes, which reading it has undone.
        if value.to_string().contains("multipleOf") {
            return Err(wrong("multipleOf is known in a JSON schema of its own only".into()));
        }
        schema::check(&value).map_err(wrong)?;
    }
    Ok(())
}

/// JSON at the beginning of a text, and its bytes.
fn json(text: &str) -> Option<(Value, usize)> {
    let mut values = Deserializer::from_str(text).into_iter::<Value>();
    let value = values.next()?.ok()?;
    Some((value, values.byte_offset()))
}

/// Looks for attributes of rules: a name and `=`, which stand together nowhere else.
fn attributes(grammar: &str) -> Result<(), ConstraintError> {
    let tokens = tokens(grammar);
    for three in tokens.windows(3) {
        let [(at, name), (_, "="), (_, value)] = three else { continue };
        let attribute = match *name {
            // The empty one ends a rule where a text ends.
            "stop" if *value != "\"\"" => "stop",
            "temperature" => "temperature",
            _ => continue,
        };
        let before = &grammar[..*at];
        let (line, start) = (before.matches('\n').count() + 1, before.rfind('\n').map_or(0, |n| n + 1));
        return Err(ConstraintError::Attribute { attribute, line, column: before[start..].chars().count() + 1 });
    }
    Ok(())
}

/// Names, strings, expressions, special tokens and signs, each with its place, as the compiler's lexer cuts them. Comments, white
/// space and JSON are left out. Ends where there is no token.
fn tokens(grammar: &str) -> Vec<(usize, &str)> {
    let mut tokens = Vec::new();
    let mut at = 0;
    while let Some(first) = grammar[at..].chars().next() {
        let rest = &grammar[at..];
        let name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        let end = match first {
            '#' => comment(rest),
            '/' if rest.starts_with("//") => comment(rest),
            '"' | '/' => quoted(rest, first),
            '<' => rest.find('>').map(|n| n + 1),
            '%' => directive(rest),
            c if name(c) => Some(rest.find(|c: char| !name(c)).unwrap_or(rest.len())),
            c => Some(c.len_utf8()),
        };
        let Some(end) = end else { break };
        if !first.is_whitespace() && first != '#' && !rest.starts_with("//") {
            tokens.push((at, &rest[..end]));
        }
        at += end;
    }
    tokens
}

fn comment(text: &str) -> Option<usize> {
    Some(text.find('\n').unwrap_or(text.len()))
}

/// Up to the same sign again, unless a backslash stands before it.
fn quoted(text: &str, sign: char) -> Option<usize> {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        if !escaped && c == sign {
            return Some(at + 1);
        }
        escaped = !escaped && c == '\\';
    }
    None
}

/// `%json` and its like, with the JSON behind it.
fn directive(text: &str) -> Option<usize> {
    match ["%json", "%regex", "%llguidance"].iter().find(|word| text.starts_with(**word)) {
        Some(word) => json(&text[word.len()..]).map(|(_, bytes)| word.len() + bytes),
        None => Some(1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(grammar: &str) -> String {
        check(grammar).map_or_else(|e| e.to_string(), |()| String::new())
    }

    #[test]
    fn attributes_that_are_not_kept_to_are_named() {
        for (grammar, attribute, place) in [
            ("start: a\na[stop=\"x\"]: /[a-z]+/", "stop", "line 2, column 3"),
            ("start: a\n  a[capture=\"b\", stop = STOP]: /b/\nSTOP: \"x\"", "stop", "line 2, column 18"),
            ("start: a\na[stop=/\"\"/]: /b/", "stop", "line 2, column 3"),
            ("start: %lark {\n start: é\n é[lazy,stop=\"]\"]: \"\\\"\"\n}", "stop", "line 3, column 9"),
            ("start: a // a quote: \"\na[stop=\"x\"]: \"b\"", "stop", "line 2, column 3"),
            ("start: </s> a\na[stop=/x/]: \"b\"", "stop", "line 2, column 3"),
            ("start: %json {\"a\": \"[\"} a\na[stop=\"x\"]: \"b\"", "stop", "line 2, column 3"),
            ("start: a\na[temperature=0.5]: /b/", "temperature", "line 2, column 3"),
        ] {
            let said = said(grammar);
            assert!(said.contains(&format!("{place}: the attribute {attribute}=")), "{grammar}: {said}");
        }
    }

    #[test]
    fn the_same_words_elsewhere_are_words() {
        for grammar in [
            "start: stop temperature\nstop: \"stop=x\"\ntemperature: /stop=x/",
            "# a[stop=\"x\"]\nstart: \"a\" // temperature=1",
            "start: a\na[stop=\"\"]: /b*/",
            "start: a\na[suffix=\"x\", capture=\"stop\"]: /b*/",
            "start: a_stop\na_stop[max_tokens=3, lazy]: /[a-z]+/",
            "start: %json {\"const\": \"stop=\\\"x\\\"\"}",
            "start: <stop=\"x\"> \"\\\" stop=x\"",
            // As far as a lexer would come.
            "start: \"a\" /b\na[stop=\"x\"]: \"b\"",
        ] {
            assert_eq!(said(grammar), "", "{grammar}");
        }
    }

    #[test]
    fn divisors_count_in_schemas_alone() {
        assert!(said("start: %json {\"multiple\\u004ff\": 3}").contains("multipleOf"));
        assert!(said("start: %lark { start: %json {\"items\": {\"multipleOf\": 3}} }").contains("multipleOf"));
        assert!(said("start: \"a\" %json {\"maximum\": 1e300}").contains("maximum"));
        for grammar in [
            "start: \"multipleOf\" %json {\"type\": \"integer\"}",
            "// multipleOf is not used\nstart: %json {\"const\": \"\\u00e9\"} // %json {",
        ] {
            assert_eq!(said(grammar), "", "{grammar}");
        }
    }
}
