//! What a JSON schema may ask for, before it is compiled.
//!
//! Here: bounds on numbers and patterns whose cost the compiler does not count, or counts wrongly; numbers that it would round;
//! and what it reads into a schema that JSON Schema does not say. Not here: what schemas mean.

use serde_json::{Map, Number, Value};

/// Largest magnitude of a bound and of a value: beyond it not every integer is a number of JSON's readers, nor of the compiler.
const MOST: u64 = 1 << 53;
/// Most that all divisors may come to, and those of one number together: its remainders are states.
const MOST_REMAINDERS: u64 = 20_000;
/// Longest pattern, in bytes.
const MOST_PATTERN: usize = 512;

/// Keywords with values, which are no schemas: the first two say what a text may be.
const VALUES: [&str; 4] = ["const", "enum", "default", "examples"];
/// Keywords whose members are schemas by a name that anybody may choose.
const NAMED: [&str; 5] = ["properties", "$defs", "definitions", "patternProperties", "dependentSchemas"];
/// Keywords that bring other schemas to the same value.
const IN_PLACE: [&str; 4] = ["allOf", "anyOf", "oneOf", "$ref"];
/// Keywords that may hold divisors of a value or of its parts.
const OWN: [&str; 7] = [
    "multipleOf",
    "properties",
    "patternProperties",
    "additionalProperties",
    "items",
    "prefixItems",
    "additionalItems",
];

/// Refuses what would take too long, and what texts would not be held to.
pub(super) fn check(schema: &Value) -> Result<(), String> {
    match schema.get("x-guidance") {
        Some(Value::Object(guidance)) => spacing(guidance)?,
        Some(other) => return Err(format!("x-guidance is {other}, no object")),
        None => {}
    }
    let mut walk = Walk { refers: refers(schema), ..Walk::default() };
    walk.visit(schema, false)?;
    if walk.refers && walk.joins { within(&walk.found) } else { Ok(()) }
}

/// Says how a text is spaced where the schema's `x-guidance` does not: on one line, as most JSON that a model has read. With free
/// white space it may write that for ever. Who asks for free white space gets it around bare separators.
pub(super) fn space(schema: &mut Map<String, Value>) {
    let guidance = schema.entry("x-guidance").or_insert_with(|| Value::Object(Map::new()));
    let Some(guidance) = guidance.as_object_mut() else { return };
    if guidance.entry("whitespace_flexible").or_insert(Value::Bool(false)) == &Value::Bool(false) {
        guidance.entry("item_separator").or_insert_with(|| ", ".into());
        guidance.entry("key_separator").or_insert_with(|| ": ".into());
    }
}

/// Refuses what `x-guidance` may ask of the compiler beyond white space: some of it makes texts no JSON, or ignores keywords.
/// Values of other types are the compiler's to refuse.
fn spacing(guidance: &Map<String, Value>) -> Result<(), String> {
    for (key, value) in guidance {
        let sign = match key.as_str() {
            "whitespace_flexible" => continue,
            "item_separator" => ",",
            "key_separator" => ":",
            _ => {
                let known = "whitespace_flexible, item_separator and key_separator are known";
                return Err(format!("x-guidance has {key:?}; {known}"));
            }
        };
        // The compiler takes it as an expression, and these letters mean themselves.
        if value.as_str().is_some_and(|s| s.trim_matches([' ', '\t', '\n', '\r']) != sign) {
            return Err(format!("{key} of x-guidance is {value}, not {sign:?} with white space around it"));
        }
    }
    Ok(())
}

/// Whether a number is too large to be kept as it is written.
fn rounded(n: &Number) -> bool {
    match n.as_i64().map(i64::unsigned_abs).or(n.as_u64()) {
        Some(exact) => exact > MOST,
        None => n.as_f64().is_none_or(|n| n.abs() > MOST as f64),
    }
}

/// Refuses numbers in a value that are too large, wherever they stand.
fn exact(key: &str, value: &Value) -> Result<(), String> {
    match value {
        Value::Number(n) if rounded(n) => Err(format!("the number {n} in {key} is beyond ±2⁵³")),
        Value::Array(all) => all.iter().try_for_each(|v| exact(key, v)),
        Value::Object(members) => members.values().try_for_each(|v| exact(key, v)),
        _ => Ok(()),
    }
}

/// Whether there is a reference in it.
fn refers(value: &Value) -> bool {
    match value {
        Value::Array(all) => all.iter().any(refers),
        Value::Object(members) => members.contains_key("$ref") || members.values().any(refers),
        _ => false,
    }
}

/// What was met on the way through a schema.
#[derive(Default)]
struct Walk {
    /// Whether anything may stand for a schema somewhere else: a reference leads to any place, and to values as well.
    refers: bool,
    /// Whether schemas are joined somewhere.
    joins: bool,
    /// Divisors, in order.
    found: Vec<Divisor>,
    /// What they come to.
    sum: u64,
}

impl Walk {
    /// Looks at a schema, or at `named` ones.
    fn visit(&mut self, value: &Value, named: bool) -> Result<(), String> {
        let members = match value {
            Value::Array(all) => return all.iter().try_for_each(|v| self.visit(v, false)),
            Value::Object(members) => members,
            _ => return Ok(()),
        };
        let before = self.found.len();
        for (key, value) in members {
            if VALUES[..2].contains(&key.as_str()) && !named {
                exact(key, value)?;
            }
            match (key.as_str(), value) {
                (key, _) if VALUES.contains(&key) && !named && !self.refers => continue,
                ("minimum" | "maximum" | "exclusiveMinimum" | "exclusiveMaximum", Value::Number(n)) if rounded(n) => {
                    return Err(format!("{key} is {n}, beyond ±2⁵³"));
                }
                ("multipleOf", Value::Number(n)) => self.divide(n)?,
                ("pattern", Value::String(s)) if s.len() > MOST_PATTERN => {
                    return Err(format!("a pattern of {} bytes; {MOST_PATTERN} are allowed", s.len()));
                }
                (key, _) => {
                    if key == "patternProperties"
                        && let Some(long) = value.as_object().and_then(|v| v.keys().find(|k| k.len() > MOST_PATTERN))
                    {
                        return Err(format!("a pattern of {} bytes; {MOST_PATTERN} are allowed", long.len()));
                    }
                    self.visit(value, !named && NAMED.contains(&key))?;
                }
            }
        }
        if joins(members) {
            self.joins = true;
            within(&self.found[before..])?;
        }
        Ok(())
    }

    fn divide(&mut self, n: &Number) -> Result<(), String> {
        // The compiler would leave the sign out.
        if n.as_f64().is_some_and(|n| n < 0.0) {
            return Err(format!("multipleOf is {n}, which is negative"));
        }
        let Some(divisor) = Divisor::of(n) else {
            return Err(format!("multipleOf is {n}, which the compiler cannot take as a decimal"));
        };
        self.sum = self.sum.saturating_add(divisor.digits);
        self.found.push(divisor);
        match self.sum > MOST_REMAINDERS {
            true => Err(format!("multipleOf is {n}; all together may come to {MOST_REMAINDERS}")),
            false => Ok(()),
        }
    }
}

/// Whether a value, or a part of it, must satisfy several of the schemas in here.
fn joins(members: &Map<String, Value>) -> bool {
    let has = |key: &str| members.contains_key(key);
    let others = IN_PLACE.iter().chain(&OWN).filter(|k| has(k)).count();
    has("allOf")
        || IN_PLACE.iter().any(|k| has(k)) && others > 1
        // A named property is matched with the patterns as well.
        || has("properties") && has("patternProperties")
}

/// `digits · 10^-places`.
struct Divisor {
    digits: u64,
    places: u32,
}

impl Divisor {
    /// As the compiler reads it; `None` beyond what it takes.
    fn of(n: &Number) -> Option<Self> {
        let (mut value, mut places) = (n.as_f64().filter(|v| v.is_finite())?, 0);
        // Ends: from 2⁵³ on there are no fractions.
        while value.fract() != 0.0 {
            value *= 10.0;
            places += 1;
        }
        (value <= f64::from(u32::MAX)).then_some(Self { digits: value as u64, places })
    }
}

/// Refuses divisors whose least common multiple, which is what a number that has all of them is divided by, is too large.
fn within(divisors: &[Divisor]) -> Result<(), String> {
    let places = divisors.iter().map(|d| d.places).max().unwrap_or(0);
    let mut all = 1u64;
    // Of 0 the only multiple is 0.
    for divisor in divisors.iter().filter(|d| d.digits > 0) {
        // At the same number of places; the sum of the digits is bounded already.
        let digits = 10u64.checked_pow(places - divisor.places).and_then(|scale| divisor.digits.checked_mul(scale));
        let both = digits.and_then(|digits| (all / common(all, digits)).checked_mul(digits));
        match both.filter(|both| *both <= MOST_REMAINDERS) {
            Some(both) => all = both,
            None => {
                let what = "the least common multiple of multipleOf in schemas that are joined";
                return Err(format!("{what} is beyond {MOST_REMAINDERS}"));
            }
        }
    }
    Ok(())
}

/// The greatest common divisor.
fn common(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { common(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn said(schema: &str) -> String {
        check(&serde_json::from_str(schema).unwrap()).map_or_else(|e| e, |()| String::new())
    }

    #[test]
    fn divisors_are_bounded_wherever_they_stand() {
        for schema in [
            r#"{"multipleOf": 20001}"#,
            r#"{"items": [{"multipleOf": 19998}, {"multipleOf": 19999}]}"#,
            r#"{"properties": {"const": {"multipleOf": 1000003}}}"#,
            r#"{"properties": {"default": {"multipleOf": 1000003}}}"#,
            r#"{"$defs": {"examples": {"multipleOf": 1000003}}}"#,
            r#"{"patternProperties": {"enum": {"multipleOf": 1000003}}}"#,
            r#"{"properties": {"properties": {"properties": {"enum": {"multipleOf": 1000003}}}}}"#,
            // A reference makes a schema of what is none.
            r##"{"default": {"multipleOf": 1000003}, "$ref": "#/default"}"##,
            r##"{"$defs": {"multipleOf": 1000003}, "$ref": "#/$defs"}"##,
        ] {
            assert!(said(schema).contains("all together"), "{schema}: {}", said(schema));
        }
        // Ten times 0.07 is not quite 0.7, and so on to numbers of sixteen digits.
        for n in ["0.07", "1e10", "1e300"] {
            let said = said(&format!(r#"{{"multipleOf": {n}}}"#));
            assert!(said.ends_with("which the compiler cannot take as a decimal"), "{n}: {said}");
        }
        for schema in [
            r#"{"multipleOf": 20000}"#,
            r#"{"multipleOf": 5000.0}"#,
            r#"{"multipleOf": 0.01}"#,
            r#"{"multipleOf": 0}"#,
            r#"{"const": {"multipleOf": 1000003}}"#,
            r#"{"properties": {"properties": {"const": {"multipleOf": 1000003}}}}"#,
            r#"{"properties": {"a": {"multipleOf": 9973}, "b": {"multipleOf": 9967}}}"#,
        ] {
            assert_eq!(said(schema), "", "{schema}");
        }
    }

    #[test]
    fn numbers_that_would_be_rounded_are_refused() {
        for schema in [
            r#"{"const": 9007199254740993}"#,
            r#"{"const": -9007199254740993}"#,
            r#"{"const": 12345678901234567890}"#,
            r#"{"const": 123456789012345678901234567890}"#,
            r#"{"enum": [1, {"a": [9007199254740993]}]}"#,
            r#"{"minimum": 9007199254740993}"#,
            r#"{"items": {"exclusiveMaximum": -9007199254740993}}"#,
            r#"{"properties": {"const": {"const": 9007199254740993}}}"#,
            // Looked at as the schema that a reference may make of it.
            r##"{"default": {"const": 9007199254740993}, "$ref": "#/default"}"##,
        ] {
            assert!(said(schema).ends_with("beyond ±2⁵³"), "{schema}: {}", said(schema));
        }
        for schema in [
            r#"{"enum": [9007199254740992, -9007199254740992, 0.1]}"#,
            r#"{"minimum": 9007199254740992, "maximum": 9007199254740992}"#,
            r#"{"default": 9007199254740993}"#,
            r#"{"const": "9007199254740993"}"#,
        ] {
            assert_eq!(said(schema), "", "{schema}");
        }
    }

    #[test]
    fn what_is_no_json_schema_is_refused() {
        for (schema, part) in [
            (r#"{"multipleOf": -2}"#, "multipleOf is -2"),
            (r#"{"items": {"multipleOf": -0.5}}"#, "multipleOf is -0.5"),
            (r#"{"x-guidance": {"item_separator": "abc"}}"#, "item_separator of x-guidance is \"abc\", not \",\""),
            (r#"{"x-guidance": {"key_separator": ":|x"}}"#, "key_separator"),
            (r#"{"x-guidance": {"item_separator": ""}}"#, "item_separator"),
            (r#"{"x-guidance": {"lenient": true}}"#, "x-guidance has \"lenient\""),
            (r#"{"x-guidance": {"coerce_one_of": true}}"#, "coerce_one_of"),
            (r#"{"x-guidance": {"whitespace_pattern": "abc"}}"#, "whitespace_pattern"),
            (r#"{"x-guidance": []}"#, "x-guidance is [], no object"),
        ] {
            assert!(said(schema).contains(part), "{schema}: {}", said(schema));
        }
        for schema in [
            r#"{"x-guidance": {"whitespace_flexible": true}}"#,
            r#"{"x-guidance": {"whitespace_flexible": false, "item_separator": " ,\n", "key_separator": ":"}}"#,
            r#"{"properties": {"x-guidance": {"properties": {"lenient": {}}}}}"#,
        ] {
            assert_eq!(said(schema), "", "{schema}");
        }
    }

    #[test]
    fn what_a_schema_does_not_say_of_its_spacing_is_filled_in() {
        let spaced = |guidance: Value| {
            let mut schema = Map::from_iter([("x-guidance".to_owned(), guidance)]);
            space(&mut schema);
            schema.remove("x-guidance").unwrap()
        };
        let line = json!({"whitespace_flexible": false, "item_separator": ", ", "key_separator": ": "});
        for part in [json!({}), json!({"whitespace_flexible": false}), json!({"item_separator": ", "})] {
            assert_eq!(spaced(part), line);
        }
        let tight = json!({"whitespace_flexible": false, "item_separator": ",", "key_separator": ": "});
        assert_eq!(spaced(json!({"item_separator": ","})), tight);
        let free = json!({"whitespace_flexible": true});
        assert_eq!(spaced(free.clone()), free);
        let mut none = Map::new();
        space(&mut none);
        assert_eq!(none["x-guidance"], line);
    }

    #[test]
    fn divisors_of_one_number_are_bounded_together() {
        let (a, b) = (r#"{"multipleOf": 9973}"#, r#"{"multipleOf": 9967}"#);
        for schema in [
            format!(r#"{{"allOf": [{a}, {b}]}}"#),
            format!(r#"{{"allOf": [{{"properties": {{"x": {a}}}}}, {{"properties": {{"x": {b}}}}}]}}"#),
            format!(r#"{{"multipleOf": 9973, "anyOf": [{b}, {{"type": "null"}}]}}"#),
            format!(r#"{{"properties": {{"x": {a}}}, "patternProperties": {{"x": {b}}}}}"#),
            format!(r##"{{"$defs": {{"b": {b}}}, "items": {{"$ref": "#/$defs/b", "multipleOf": 9973}}}}"##),
            format!(
                r##"{{"$defs": {{"a": {a}, "b": {b}}}, "allOf": [{{"$ref": "#/$defs/a"}}, {{"$ref": "#/$defs/b"}}]}}"##
            ),
            // At the same number of places these are 5 and 3,000,000.
            r#"{"allOf": [{"multipleOf": 0.000005}, {"multipleOf": 3}]}"#.to_owned(),
        ] {
            assert!(said(&schema).contains("least common multiple"), "{schema}: {}", said(&schema));
        }
        for schema in [
            format!(r#"{{"anyOf": [{a}, {b}]}}"#),
            format!(r##"{{"$defs": {{"a": {a}, "b": {b}}}, "$ref": "#/$defs/a"}}"##),
            r#"{"allOf": [{"multipleOf": 0.25}, {"multipleOf": 6}, {"multipleOf": 10}]}"#.to_owned(),
            r#"{"allOf": [{"multipleOf": 9000}, {"multipleOf": 9000}]}"#.to_owned(),
        ] {
            assert_eq!(said(&schema), "", "{schema}");
        }
    }
}
