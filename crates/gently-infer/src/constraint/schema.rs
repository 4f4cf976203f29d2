//! What a JSON schema may ask for, before it is compiled.
//!
//! Here: bounds on numbers and patterns whose cost the compiler does not count, or counts wrongly. Not here: what schemas
//! mean.

use serde_json::{Map, Number, Value};

/// Largest magnitude of a bound: beyond it not every integer is a number of JSON's readers.
const MOST_BOUND: f64 = 9_007_199_254_740_992.0;
/// Most that all divisors may come to, and those of one number together: its remainders are states.
const MOST_REMAINDERS: u64 = 20_000;
/// Longest pattern, in bytes.
const MOST_PATTERN: usize = 512;

/// Keywords with values, which are no schemas.
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

/// Refuses what would take too long.
pub(super) fn check(schema: &Value) -> Result<(), String> {
    let mut walk = Walk { refers: refers(schema), ..Walk::default() };
    walk.visit(schema, false)?;
    if walk.refers && walk.joins { within(&walk.found) } else { Ok(()) }
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
            match (key.as_str(), value) {
                (key, _) if VALUES.contains(&key) && !named && !self.refers => continue,
                ("minimum" | "maximum" | "exclusiveMinimum" | "exclusiveMaximum", Value::Number(n))
                    if n.as_f64().is_none_or(|n| n.abs() > MOST_BOUND) =>
                {
                    return Err(format!("{key} is {n}, beyond ±2⁵³"));
                }
                ("multipleOf", Value::Number(n)) => self.divide(n)?,
                ("pattern" | "whitespace_pattern", Value::String(s)) if s.len() > MOST_PATTERN => {
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
        let (mut value, mut places) = (n.as_f64().filter(|v| v.is_finite())?.abs(), 0);
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

    fn said(schema: &str) -> String {
        check(&serde_json::from_str(schema).unwrap()).map_or_else(|e| e, |()| String::new())
    }

    #[test]
    fn divisors_are_bounded_wherever_they_stand() {
        for schema in [
            r#"{"multipleOf": 20001}"#,
            r#"{"items": [{"multipleOf": -19999}, {"multipleOf": 19999}]}"#,
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
            r#"{"multipleOf": -5000.0}"#,
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
