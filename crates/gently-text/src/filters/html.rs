//! Filters for the web: texts without tags, texts in addresses.

use super::text_of;
use crate::python::{Paid, strings};
use minijinja::value::{Value, ValueKind};
use minijinja::{Error, State};

/// A text without tags and comments, its white space single spaces, its references the characters that they stand for.
pub(super) fn striptags(state: &State, value: &Value) -> Result<String, Error> {
    let spend = |fuel: u64| state.consume_fuel(fuel);
    let text = text_of(state, value, &spend)?;
    let mut kept = String::with_capacity(text.len());
    let mut rest = &*text;
    while let Some(start) = rest.find('<') {
        let tag = &rest[start..];
        let end = match tag.strip_prefix("<!--") {
            Some(comment) => comment.find("-->").map(|at| at + "<!---->".len()),
            None => tag.find('>').map(|at| at + 1),
        };
        // What is not closed is text.
        let Some(end) = end else { break };
        kept.push_str(&rest[..start]);
        rest = &tag[end..];
    }
    kept.push_str(rest);
    let words = strings::split(&kept, None, None, false, &spend)?;
    Ok(unescaped(&words.join(" ")))
}

/// Characters by the names that pages use most, and whether the semicolon may be left out. Others stay as they are.
const NAMES: [(&str, &str, bool); 24] = [
    ("amp", "&", true),
    ("lt", "<", true),
    ("gt", ">", true),
    ("quot", "\"", true),
    ("apos", "'", false),
    ("nbsp", "\u{a0}", true),
    ("copy", "©", true),
    ("reg", "®", true),
    ("trade", "™", false),
    ("hellip", "…", false),
    ("mdash", "—", false),
    ("ndash", "–", false),
    ("lsquo", "‘", false),
    ("rsquo", "’", false),
    ("ldquo", "“", false),
    ("rdquo", "”", false),
    ("laquo", "«", true),
    ("raquo", "»", true),
    ("bull", "•", false),
    ("middot", "·", true),
    ("times", "×", true),
    ("deg", "°", true),
    ("euro", "€", false),
    ("pound", "£", true),
];
/// What the numbers from 128 to 159 mean on pages: characters of Windows.
const WINDOWS: &str = "€\u{81}‚ƒ„…†‡ˆ‰Š‹Œ\u{8d}Ž\u{8f}\u{90}‘’“”•–—˜™š›œ\u{9d}žŸ";

/// `html.unescape`.
fn unescaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('&') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        match reference(rest) {
            Some((meant, behind)) => {
                out.push_str(&meant);
                rest = behind;
            }
            None => out.push('&'),
        }
    }
    out + rest
}

/// What a reference means, read from behind its sign, and what is behind it.
fn reference(text: &str) -> Option<(String, &str)> {
    let Some(number) = text.strip_prefix('#') else {
        let named = NAMES.iter().find_map(|(name, meant, may_end)| {
            let behind = text.strip_prefix(name)?;
            let closed = behind.strip_prefix(';');
            closed.or(may_end.then_some(behind)).map(|behind| (*meant, behind))
        });
        return named.map(|(meant, behind)| (meant.to_owned(), behind));
    };
    let (digits, radix) = match number.strip_prefix(['x', 'X']) {
        Some(digits) => (digits, 16),
        None => (number, 10),
    };
    let end = digits.find(|c: char| !c.is_digit(radix)).unwrap_or(digits.len());
    if end == 0 {
        return None;
    }
    let behind = digits[end..].strip_prefix(';').unwrap_or(&digits[end..]);
    let meant = match u32::from_str_radix(&digits[..end], radix).unwrap_or(u32::MAX) {
        0 => "\u{fffd}".to_owned(),
        n @ 0x80..=0x9f => WINDOWS.chars().nth(n as usize - 0x80).map(String::from).unwrap_or_default(),
        // Signs that have no place in a page.
        0x1..=0x8 | 0xb | 0xe..=0x1f | 0x7f | 0xfdd0..=0xfdef => String::new(),
        n if n <= 0x10_ffff && n & 0xfffe == 0xfffe => String::new(),
        n => char::from_u32(n).unwrap_or('\u{fffd}').to_string(),
    };
    Some((meant, behind))
}

/// A text in an address, or pairs of texts in its question.
pub(super) fn urlencode(state: &State, value: &Value) -> Result<String, Error> {
    let spend = |fuel: u64| state.consume_fuel(fuel);
    let mut out = Paid::new(&spend);
    match value.kind() {
        ValueKind::Map | ValueKind::Seq | ValueKind::Iterable | ValueKind::Undefined => {
            for (i, item) in value.try_iter()?.checked().enumerate() {
                let item = item?;
                let (key, value) = match value.kind() {
                    ValueKind::Map => (item.clone(), value.get_item(&item)?),
                    _ => (item.get_item_by_index(0)?, item.get_item_by_index(1)?),
                };
                out.push(if i > 0 { "&" } else { "" })?;
                write_quoted(&text_of(state, &key, &spend)?, true, &mut out)?;
                out.push("=")?;
                write_quoted(&text_of(state, &value, &spend)?, true, &mut out)?;
            }
        }
        _ => write_quoted(&text_of(state, value, &spend)?, false, &mut out)?,
    }
    Ok(out.done())
}

/// A text as addresses have it. In a question, slashes are written out, and spaces are `+`.
fn write_quoted(text: &str, in_question: bool, out: &mut Paid) -> Result<(), Error> {
    for byte in text.bytes() {
        match byte {
            b'/' if !in_question => out.push("/")?,
            b' ' if in_question => out.push("+")?,
            b if b.is_ascii_alphanumeric() || b"_.-~".contains(&b) => out.fill(b as char, 1)?,
            b => out.push(&format!("%{b:02X}"))?,
        }
    }
    Ok(())
}
