//! What chat templates expect of Python: `json.dumps`, `strftime`.
//!
//! Here: the text of values as `transformers` prints them into prompts. Not here: methods of strings and dictionaries, which
//! `minijinja-contrib` has.

use minijinja::value::{Value, ValueKind};
use minijinja::{Error, ErrorKind};
use std::fmt::Write as _;
use std::time::SystemTime;

/// Values stand in values at most this deep.
const DEPTH: usize = 64;

/// Takes the cost of what is to be written next, and refuses when it is too much.
type Spend<'a> = &'a dyn Fn(u64) -> Result<(), Error>;

/// `json.dumps(value, ensure_ascii=False, indent=indent)`. `spend` is asked before each value: a small value may hold others
/// many times over.
pub(crate) fn json(value: &Value, indent: Option<usize>, spend: Spend) -> Result<String, Error> {
    let mut out = String::new();
    write(value, indent, 0, spend, &mut out)?;
    Ok(out)
}

fn write(value: &Value, indent: Option<usize>, depth: usize, spend: Spend, out: &mut String) -> Result<(), Error> {
    spend(1 + (value.as_str().map_or(0, str::len) + depth * indent.unwrap_or(0)) as u64 / 64)?;
    if depth > DEPTH {
        return Err(Error::new(ErrorKind::InvalidOperation, format!("values stand more than {DEPTH} deep")));
    }
    let line = |out: &mut String, depth: usize| {
        if let Some(width) = indent {
            out.push('\n');
            out.extend(std::iter::repeat_n(' ', width * depth));
        }
    };
    let comma = if indent.is_some() { "," } else { ", " };
    match value.kind() {
        ValueKind::Undefined | ValueKind::None => out.push_str("null"),
        ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
        ValueKind::Number => number(value, out),
        ValueKind::String => quote(value.as_str().unwrap_or_default(), out),
        ValueKind::Seq | ValueKind::Iterable => {
            out.push('[');
            let mut any = false;
            for item in value.try_iter()? {
                out.push_str(if any { comma } else { "" });
                line(out, depth + 1);
                write(&item, indent, depth + 1, spend, out)?;
                any = true;
            }
            if any {
                line(out, depth);
            }
            out.push(']');
        }
        ValueKind::Map => {
            out.push('{');
            let mut any = false;
            for key in value.try_iter()? {
                out.push_str(if any { comma } else { "" });
                line(out, depth + 1);
                quote(&key.to_string(), out);
                out.push_str(": ");
                write(&value.get_item(&key)?, indent, depth + 1, spend, out)?;
                any = true;
            }
            if any {
                line(out, depth);
            }
            out.push('}');
        }
        other => return Err(Error::new(ErrorKind::InvalidOperation, format!("{other} is not a JSON value"))),
    }
    Ok(())
}

fn number(value: &Value, out: &mut String) {
    if value.is_integer() {
        let _ = write!(out, "{value}");
        return;
    }
    let _ = match f64::try_from(value.clone()) {
        Ok(v) if v.is_nan() => write!(out, "NaN"),
        Ok(v) if v.is_infinite() => write!(out, "{}Infinity", if v < 0.0 { "-" } else { "" }),
        // Python's repr changes to exponents at 1e16 and below 1e-4, and writes them with two digits.
        Ok(v) if v != 0.0 && !(1e-4..1e16).contains(&v.abs()) => {
            let text = format!("{v:e}");
            let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
            let (sign, exponent) = exponent.strip_prefix('-').map_or(('+', exponent), |e| ('-', e));
            write!(out, "{digits}e{sign}{exponent:0>2}")
        }
        Ok(v) => write!(out, "{v:?}"),
        Err(_) => write!(out, "{value}"),
    };
}

fn quote(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            c if c < ' ' => {
                let _ = write!(out, "\\u{:04x}", c as u32);
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] = ["Thursday", "Friday", "Saturday", "Sunday", "Monday", "Tuesday", "Wednesday"];

/// Python's `strftime` of a moment in UTC, for the directives that templates use.
pub(crate) fn strftime(now: SystemTime, format: &str) -> Result<String, Error> {
    let seconds = now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let (days, time) = (seconds / 86400, seconds % 86400);
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (time / 3600, time / 60 % 60, time % 60);
    let (month_name, day_name) = (MONTHS[month as usize - 1], DAYS[(days % 7) as usize]);
    let mut out = String::new();
    let mut rest = format.chars();
    while let Some(c) = rest.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let _ = match rest.next() {
            Some('Y') => write!(out, "{year:04}"),
            Some('y') => write!(out, "{:02}", year % 100),
            Some('m') => write!(out, "{month:02}"),
            Some('d') => write!(out, "{day:02}"),
            Some('e') => write!(out, "{day:2}"),
            Some('B') => write!(out, "{month_name}"),
            Some('b') => write!(out, "{}", &month_name[..3]),
            Some('A') => write!(out, "{day_name}"),
            Some('a') => write!(out, "{}", &day_name[..3]),
            Some('H') => write!(out, "{hour:02}"),
            Some('I') => write!(out, "{:02}", (hour + 11) % 12 + 1),
            Some('p') => write!(out, "{}", if hour < 12 { "AM" } else { "PM" }),
            Some('M') => write!(out, "{minute:02}"),
            Some('S') => write!(out, "{second:02}"),
            Some('%') => write!(out, "%"),
            other => {
                let directive = other.map(String::from).unwrap_or_default();
                let why = format!("strftime_now does not know %{directive}");
                return Err(Error::new(ErrorKind::InvalidOperation, why));
            }
        };
    }
    Ok(out)
}

/// Year, month and day of a day since 1970 (Hinnant, "chrono-compatible low-level date algorithms", `civil_from_days`).
fn civil(days: u64) -> (u64, u64, u64) {
    let z = days + 719_468;
    let (era, of_era) = (z / 146_097, z % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn dates_of_the_calendar() {
        let at = |s: u64, f: &str| strftime(SystemTime::UNIX_EPOCH + Duration::from_secs(s), f).unwrap();
        assert_eq!(at(0, "%A %d %b %Y %H:%M:%S"), "Thursday 01 Jan 1970 00:00:00");
        assert_eq!(at(951_782_400, "%Y-%m-%d %a"), "2000-02-29 Tue");
        assert_eq!(at(1_735_689_599, "%e. %B %y, %I:%M %p %%"), "31. December 24, 11:59 PM %");
        assert!(strftime(SystemTime::UNIX_EPOCH, "%Q").is_err());
    }
}
