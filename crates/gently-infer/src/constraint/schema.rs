//! What a JSON schema may ask for, before it is compiled.
//!
//! Here: bounds on numbers and patterns whose cost the compiler does not count, or counts wrongly. Not here: what schemas
//! mean.

use serde_json::Value;

/// Largest magnitude of a bound: beyond it not every integer is a number of JSON's readers.
const MOST_BOUND: f64 = 9_007_199_254_740_992.0;
/// Most that all divisors may come to: a number's remainders are states.
const MOST_REMAINDERS: f64 = 20_000.0;
/// Longest pattern, in bytes.
const MOST_PATTERN: usize = 512;

/// Refuses what would take too long.
pub(super) fn check(schema: &Value) -> Result<(), String> {
    walk(schema, &mut 0.0)
}

fn walk(value: &Value, remainders: &mut f64) -> Result<(), String> {
    let members = match value {
        Value::Array(all) => return all.iter().try_for_each(|v| walk(v, remainders)),
        Value::Object(members) => members,
        _ => return Ok(()),
    };
    for (key, value) in members {
        match (key.as_str(), value) {
            // Values, not schemas.
            ("const" | "enum" | "default" | "examples", _) => continue,
            ("minimum" | "maximum" | "exclusiveMinimum" | "exclusiveMaximum", Value::Number(n))
                if n.as_f64().is_none_or(|n| n.abs() > MOST_BOUND) =>
            {
                return Err(format!("{key} is {n}, beyond ±2⁵³"));
            }
            ("multipleOf", Value::Number(n)) => {
                // Its digits without the point.
                let (mantissa, exponent) = (n.to_string(), n.as_f64().unwrap_or(f64::INFINITY));
                let digits: String = mantissa.split(['e', 'E']).next().unwrap_or("").replace('.', "");
                *remainders += digits.parse().unwrap_or(f64::INFINITY).max(exponent);
                if *remainders > MOST_REMAINDERS {
                    return Err(format!("multipleOf is {n}; all together may come to {MOST_REMAINDERS}"));
                }
            }
            ("pattern" | "whitespace_pattern", Value::String(s)) if s.len() > MOST_PATTERN => {
                return Err(format!("a pattern of {} bytes; {MOST_PATTERN} are allowed", s.len()));
            }
            ("patternProperties", Value::Object(named)) => {
                if let Some(long) = named.keys().find(|k| k.len() > MOST_PATTERN) {
                    return Err(format!("a pattern of {} bytes; {MOST_PATTERN} are allowed", long.len()));
                }
                walk(value, remainders)?;
            }
            _ => walk(value, remainders)?,
        }
    }
    Ok(())
}
