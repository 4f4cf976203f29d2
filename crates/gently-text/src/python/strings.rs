//! Python's methods of strings.
//!
//! Here: those that `minijinja-contrib` has not, has otherwise, or does not pay for. Positions and widths count characters.

use super::{Paid, Spend, defined, formats, or_named, refused};
use minijinja::value::{Kwargs, Value, ValueKind, from_args};
use minijinja::{Error, State};
use minijinja_contrib::pycompat;

/// What a method of a string gives; `None` for those that are the library's.
pub(crate) fn method(state: &mut State, text: &str, name: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    if name == "title" {
        let () = from_args(args)?;
        return title(state, text).map(|t| Some(t.into()));
    }
    let state: &State = state;
    let spend = |fuel: u64| state.consume_fuel(fuel);
    let done = match name {
        "strip" | "lstrip" | "rstrip" => {
            let (chars,): (Option<&str>,) = from_args(args)?;
            Value::from(strip(text, chars, name != "rstrip", name != "lstrip"))
        }
        "split" | "rsplit" => {
            let (separator, most, named): (Option<&str>, Option<i64>, Kwargs) = from_args(args)?;
            let separator = or_named(separator, &named, "sep")?;
            let most = or_named(most, &named, "maxsplit")?;
            named.assert_all_used()?;
            let most = most.and_then(|n| usize::try_from(n).ok());
            list(split(text, separator, most, name == "rsplit", &spend)?)
        }
        "splitlines" => {
            let (keep, named): (Option<bool>, Kwargs) = from_args(args)?;
            let keep = or_named(keep, &named, "keepends")?;
            named.assert_all_used()?;
            list(lines(text, keep.unwrap_or(false), &spend)?)
        }
        "partition" | "rpartition" => {
            let (separator,): (&str,) = from_args(args)?;
            if separator.is_empty() {
                return Err(refused("empty separator"));
            }
            match name {
                "partition" => match text.split_once(separator) {
                    Some((before, behind)) => Value::from((before, separator, behind)),
                    None => Value::from((text, "", "")),
                },
                _ => match text.rsplit_once(separator) {
                    Some((before, behind)) => Value::from((before, separator, behind)),
                    None => Value::from(("", "", text)),
                },
            }
        }
        "removeprefix" => {
            let (prefix,): (&str,) = from_args(args)?;
            Value::from(text.strip_prefix(prefix).unwrap_or(text))
        }
        "removesuffix" => {
            let (suffix,): (&str,) = from_args(args)?;
            Value::from(text.strip_suffix(suffix).unwrap_or(text))
        }
        "find" | "rfind" | "index" | "rindex" => {
            let (what, start, end): (&str, Option<i64>, Option<i64>) = from_args(args)?;
            let found = part(text, start, end).and_then(|(before, part)| {
                let at = if name.starts_with('r') { part.rfind(what) } else { part.find(what) };
                at.map(|at| before + part[..at].chars().count())
            });
            match found {
                Some(at) => Value::from(at),
                None if name.ends_with("find") => Value::from(-1),
                None => return Err(refused("substring not found")),
            }
        }
        "count" => {
            let (what, start, end): (&str, Option<i64>, Option<i64>) = from_args(args)?;
            Value::from(part(text, start, end).map_or(0, |(_, part)| part.matches(what).count()))
        }
        "startswith" | "endswith" => {
            let (wanted, start, end): (&Value, Option<i64>, Option<i64>) = from_args(args)?;
            let is_there = |wanted: &Value| {
                let wanted = wanted.as_str().ok_or_else(|| refused(format!("{name} wants strings")))?;
                Ok::<bool, Error>(part(text, start, end).is_some_and(|(_, part)| match name {
                    "startswith" => part.starts_with(wanted),
                    _ => part.ends_with(wanted),
                }))
            };
            let mut found = false;
            match wanted.kind() {
                ValueKind::Seq => {
                    for wanted in wanted.try_iter()?.checked() {
                        found = is_there(&wanted?)?;
                        if found {
                            break;
                        }
                    }
                }
                _ => found = is_there(wanted)?,
            }
            Value::from(found)
        }
        "zfill" => {
            let (width,): (i64,) = from_args(args)?;
            let (sign, digits) = text.split_at(usize::from(text.starts_with(['+', '-'])));
            let mut out = Paid::new(&spend);
            out.push(sign)?;
            out.fill('0', missing(text, width))?;
            out.push(digits)?;
            Value::from(out.done())
        }
        "ljust" | "rjust" | "center" => {
            let (width, fill): (i64, Option<&str>) = from_args(args)?;
            let mut letters = fill.unwrap_or(" ").chars();
            let (Some(fill), None) = (letters.next(), letters.next()) else {
                return Err(refused("the fill character must be exactly one character long"));
            };
            let missing = missing(text, width);
            let before = match name {
                "ljust" => 0,
                "rjust" => missing,
                _ => before_centre(missing, width),
            };
            Value::from(padded(text, fill, before, missing - before, &spend)?)
        }
        "casefold" => {
            let () = from_args(args)?;
            let mut folded = String::with_capacity(text.len());
            text.chars().for_each(|c| fold(c, &mut folded));
            Value::from(folded)
        }
        "swapcase" => {
            let () = from_args(args)?;
            Value::from(swap_case(text))
        }
        "isspace" => {
            let () = from_args(args)?;
            Value::from(!text.is_empty() && text.chars().all(is_space))
        }
        "format" => Value::from(formats::str_format(state, text, args)?),
        "join" => {
            let (values,): (&Value,) = from_args(args)?;
            defined(state, values)?;
            Value::from(join(text, values, &spend)?)
        }
        // The library's, which makes long texts of short ones: paid for first.
        "replace" => {
            let length = |i: usize| args.get(i).and_then(Value::as_str).map_or(0, str::len) as u64;
            let places = match length(0) {
                0 => text.len() as u64 + 1,
                n => text.len() as u64 / n,
            };
            state.consume_fuel(places.saturating_mul(length(1)) / 64)?;
            return Ok(None);
        }
        _ => return Ok(None),
    };
    Ok(Some(done))
}

/// What Python calls white space.
pub(crate) fn is_space(c: char) -> bool {
    c.is_whitespace() || matches!(c, '\u{1c}'..='\u{1f}')
}

/// A text without white space, or without `chars`, at its left, its right or both.
pub(crate) fn strip<'t>(text: &'t str, chars: Option<&str>, left: bool, right: bool) -> &'t str {
    let goes = |c: char| chars.map_or_else(|| is_space(c), |chars| chars.contains(c));
    let text = if left { text.trim_start_matches(goes) } else { text };
    if right { text.trim_end_matches(goes) } else { text }
}

/// The parts between separators or, without one, between white space: after at most so many cuts, from the left or the right.
pub(crate) fn split<'t>(
    text: &'t str,
    separator: Option<&str>,
    most: Option<usize>,
    from_right: bool,
    spend: Spend,
) -> Result<Vec<&'t str>, Error> {
    let mut parts = Vec::new();
    let mut rest = Some(text);
    while let Some(now) = rest {
        // Each is paid for: its place is larger than it may be.
        spend(1)?;
        let is_last = most.is_some_and(|most| parts.len() >= most);
        let (now, cut) = match (separator, from_right) {
            (Some(""), _) => return Err(refused("empty separator")),
            (Some(separator), false) => (now, now.split_once(separator)),
            (Some(separator), true) => (now, now.rsplit_once(separator).map(|(rest, part)| (part, rest))),
            (None, false) => {
                let now = now.trim_start_matches(is_space);
                (now, now.split_once(is_space))
            }
            (None, true) => {
                let now = now.trim_end_matches(is_space);
                (now, now.rsplit_once(is_space).map(|(rest, part)| (part, rest)))
            }
        };
        let (part, behind) = match cut.filter(|_| !is_last) {
            Some((part, behind)) => (part, Some(behind)),
            None => (now, None),
        };
        // Between white space there are no empty parts.
        if separator.is_some() || !part.is_empty() {
            parts.push(part);
        }
        rest = behind;
    }
    if from_right {
        parts.reverse();
    }
    Ok(parts)
}

/// The lines, with their ends if wanted.
pub(crate) fn lines<'t>(text: &'t str, keep_ends: bool, spend: Spend) -> Result<Vec<&'t str>, Error> {
    let ends = |c: char| matches!(c, '\n'..='\r' | '\u{1c}'..='\u{1e}' | '\u{85}' | '\u{2028}' | '\u{2029}');
    let mut lines = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        spend(1)?;
        let line = rest.find(ends).unwrap_or(rest.len());
        let end = match &rest[line..] {
            end if end.starts_with("\r\n") => 2,
            end => end.chars().next().map_or(0, char::len_utf8),
        };
        lines.push(&rest[..line + if keep_ends { end } else { 0 }]);
        rest = &rest[line + end..];
    }
    Ok(lines)
}

/// A text in the middle of so many characters.
pub(crate) fn centred(text: &str, width: i64, spend: Spend) -> Result<String, Error> {
    let missing = missing(text, width);
    let before = before_centre(missing, width);
    padded(text, ' ', before, missing - before, spend)
}

fn padded(text: &str, fill: char, before: usize, behind: usize, spend: Spend) -> Result<String, Error> {
    let mut out = Paid::new(spend);
    out.fill(fill, before)?;
    out.push(text)?;
    out.fill(fill, behind)?;
    Ok(out.done())
}

/// How many characters a text is short of a width.
fn missing(text: &str, width: i64) -> usize {
    usize::try_from(width).map_or(0, |width| width.saturating_sub(text.chars().count()))
}

/// How many of the missing stand in front: the odd one does in odd widths.
fn before_centre(missing: usize, width: i64) -> usize {
    missing / 2 + usize::from(missing % 2 == 1 && width % 2 == 1)
}

/// The part between two characters, as slices have it, and how many characters stand before it; `None` where the end is before
/// the start.
fn part(text: &str, start: Option<i64>, end: Option<i64>) -> Option<(usize, &str)> {
    if start.is_none() && end.is_none() {
        return Some((0, text));
    }
    let len = i64::try_from(text.chars().count()).ok()?;
    let place = |n: i64| if n < 0 { (n + len).max(0) } else { n };
    let start = place(start.unwrap_or(0));
    let end = place(end.unwrap_or(len)).min(len);
    if start > end {
        return None;
    }
    let byte = |n: i64| text.char_indices().nth(n as usize).map_or(text.len(), |(at, _)| at);
    Some((start as usize, &text[byte(start)..byte(end)]))
}

fn list(parts: Vec<&str>) -> Value {
    parts.into_iter().collect()
}

fn join(separator: &str, values: &Value, spend: Spend) -> Result<String, Error> {
    let mut out = Paid::new(spend);
    for (i, item) in values.try_iter()?.checked().enumerate() {
        let item = item?;
        out.step()?;
        if i > 0 {
            out.push(separator)?;
        }
        let Some(text) = item.as_str() else {
            return Err(refused(format!("sequence item {i}: expected a string, found {}", item.kind())));
        };
        out.push(text)?;
    }
    Ok(out.done())
}

/// Full case folding.
fn fold(c: char, out: &mut String) {
    match c {
        // A small letter without a dot, and the capital of ß.
        '\u{131}' => out.push(c),
        '\u{1e9e}' => out.push_str("ss"),
        // Cherokee folds to its capitals.
        '\u{13a0}'..='\u{13fd}' | '\u{ab70}'..='\u{abbf}' => out.extend(c.to_uppercase()),
        _ => out.extend(c.to_uppercase().flat_map(char::to_lowercase)),
    }
}

/// Calls with each character and its small letters where it stands: a sigma at the end of a word is another letter.
fn each_lower(text: &str, mut each: impl FnMut(char, &str)) {
    let lower = text.to_lowercase();
    let mut rest = lower.as_str();
    for c in text.chars() {
        let length: usize = rest.chars().take(c.to_lowercase().count()).map(char::len_utf8).sum();
        let (small, behind) = rest.split_at(length);
        each(c, small);
        rest = behind;
    }
}

fn swap_case(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    each_lower(text, |c, small| match (c.is_uppercase(), c.is_lowercase()) {
        (true, _) => out.push_str(small),
        (_, true) => out.extend(c.to_uppercase()),
        _ => out.push(c),
    });
    out
}

/// Capitals wherever no letter stands before: `They'Re`.
fn title(state: &mut State, text: &str) -> Result<String, Error> {
    let mut out = String::with_capacity(text.len());
    let mut is_within = false;
    let mut failed = None;
    each_lower(text, |c, small| {
        match (is_within, c.is_ascii()) {
            (true, _) => out.push_str(small),
            (false, true) => out.push(c.to_ascii_uppercase()),
            // The library knows which capitals begin a word: `ǅ`.
            (false, false) => match pycompat::unknown_method_callback(state, &Value::from(c), "capitalize", &[]) {
                Ok(capital) => out.push_str(capital.as_str().unwrap_or_default()),
                Err(e) => failed = Some(e),
            },
        }
        is_within = is_cased(c);
    });
    failed.map_or(Ok(out), Err)
}

/// Whether a character is a small letter, a capital or both in one.
fn is_cased(c: char) -> bool {
    c.is_lowercase()
        || c.is_uppercase()
        || matches!(c, '\u{1c5}' | '\u{1c8}' | '\u{1cb}' | '\u{1f2}' | '\u{1fbc}' | '\u{1fcc}' | '\u{1ffc}')
        || matches!(c, '\u{1f88}'..='\u{1f8f}' | '\u{1f98}'..='\u{1f9f}' | '\u{1fa8}'..='\u{1faf}')
}
