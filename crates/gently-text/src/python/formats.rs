//! Python's two ways of putting values into texts: `format % values` and `format.format(values)`.

use super::{Paid, defined, escape, refused, repr, scientific, text};
use minijinja::value::{Kwargs, Value, ValueKind, from_args};
use minijinja::{Error, State};
use std::borrow::Cow;

/// Digits behind a number's point.
const MOST_DIGITS: usize = 1000;

/// `format % values`: a tuple has a value for each place, a dictionary one for each name, and all else is one value.
pub(crate) fn printf(state: &State, format: &str, values: &Value) -> Result<String, Error> {
    let spend = |fuel: u64| state.consume_fuel(fuel);
    let mut out = Paid::new(&spend);
    let mut values = Values::of(values)?;
    let mut rest = format;
    while let Some(at) = rest.find('%') {
        out.push(&rest[..at])?;
        out.step()?;
        let (place, behind) = Place::read(&rest[at + 1..], &mut values)?;
        rest = behind;
        if place.kind == '%' {
            out.push("%")?;
            continue;
        }
        let value = match place.key {
            Some(key) => values.named(key)?,
            None => values.take()?,
        };
        defined(state, &value)?;
        place.write(&value, &mut out)?;
    }
    out.push(rest)?;
    values.finished()?;
    Ok(out.done())
}

/// What is to be put in.
struct Values {
    whole: Value,
    each: Vec<Value>,
    taken: usize,
}

impl Values {
    fn of(values: &Value) -> Result<Self, Error> {
        let each = match values.is_tuple() {
            true => values.try_iter()?.collect(),
            false => vec![values.clone()],
        };
        Ok(Self { whole: values.clone(), each, taken: 0 })
    }

    /// Whether it has values by name, as Python sees it: lists have, too.
    fn is_mapping(&self) -> bool {
        let kind = self.whole.kind();
        matches!(kind, ValueKind::Map | ValueKind::Seq | ValueKind::Iterable) && !self.whole.is_tuple()
    }

    fn take(&mut self) -> Result<Value, Error> {
        self.taken += 1;
        self.each.get(self.taken - 1).cloned().ok_or_else(|| refused("not enough arguments for format string"))
    }

    fn named(&self, key: &str) -> Result<Value, Error> {
        if self.whole.kind() != ValueKind::Map {
            return Err(refused("format requires a mapping"));
        }
        let value = self.whole.get_item(&Value::from(key))?;
        match value.is_undefined() {
            true => Err(refused(format!("there is no {key:?} to be formatted"))),
            false => Ok(value),
        }
    }

    /// A number in place of a width or a precision.
    fn number(&mut self) -> Result<i64, Error> {
        let value = self.take()?;
        match value.is_integer() || value.kind() == ValueKind::Bool {
            true => i64::try_from(value),
            false => Err(refused("* wants an integer")),
        }
    }

    fn finished(&self) -> Result<(), Error> {
        match self.taken < self.each.len() && !self.is_mapping() {
            true => Err(refused("not all arguments converted during string formatting")),
            false => Ok(()),
        }
    }
}

/// A place in a format: `%(key)-5.2f`.
#[derive(Default)]
struct Place<'f> {
    key: Option<&'f str>,
    is_left: bool,
    has_plus: bool,
    has_blank: bool,
    is_alternative: bool,
    is_zeroed: bool,
    width: usize,
    precision: Option<usize>,
    kind: char,
}

impl<'f> Place<'f> {
    /// Reads it from behind its sign, and gives what is behind it.
    fn read(format: &'f str, values: &mut Values) -> Result<(Self, &'f str), Error> {
        let mut place = Self::default();
        let mut rest = format;
        if let Some(inner) = rest.strip_prefix('(') {
            let end = closing(inner).ok_or_else(|| refused("incomplete format key"))?;
            place.key = Some(&inner[..end]);
            rest = &inner[end + 1..];
        }
        while let Some(flag @ ('-' | '+' | ' ' | '#' | '0')) = rest.chars().next() {
            match flag {
                '-' => place.is_left = true,
                '+' => place.has_plus = true,
                ' ' => place.has_blank = true,
                '#' => place.is_alternative = true,
                _ => place.is_zeroed = true,
            }
            rest = &rest[1..];
        }
        (place.width, rest) = match rest.strip_prefix('*') {
            Some(rest) => {
                let width = values.number()?;
                place.is_left |= width < 0;
                (usize::try_from(width.unsigned_abs()).unwrap_or(usize::MAX), rest)
            }
            None => digits(rest)?,
        };
        if let Some(behind) = rest.strip_prefix('.') {
            let (precision, behind) = match behind.strip_prefix('*') {
                Some(behind) => (usize::try_from(values.number()?).unwrap_or(0), behind),
                None => digits(behind)?,
            };
            place.precision = Some(precision);
            rest = behind;
        }
        // Sizes of C's, which say nothing.
        rest = rest.strip_prefix(['h', 'l', 'L']).unwrap_or(rest);
        place.kind = rest.chars().next().ok_or_else(|| refused("incomplete format"))?;
        let rest = &rest[place.kind.len_utf8()..];
        Ok((place, rest))
    }

    fn write(&self, value: &Value, out: &mut Paid) -> Result<(), Error> {
        match self.kind {
            's' | 'r' | 'a' => {
                let written = match self.kind {
                    's' => text(value, out.spend())?,
                    'r' => Cow::Owned(repr(value, out.spend())?),
                    _ => Cow::Owned(ascii(&repr(value, out.spend())?)),
                };
                let end = self.precision.and_then(|n| written.char_indices().nth(n)).map(|(at, _)| at);
                self.put("", 0, &written[..end.unwrap_or(written.len())], ' ', out)
            }
            'c' => {
                let number = || integer(value, true).ok().filter(|(is_negative, _)| !is_negative);
                let letter = match value.as_str() {
                    Some(text) => text.chars().next().filter(|c| c.len_utf8() == text.len()),
                    None => number().and_then(|(_, n)| u32::try_from(n).ok()).and_then(char::from_u32),
                };
                let letter = letter.ok_or_else(|| refused("%c requires a number or one character"))?;
                self.put("", 0, letter.encode_utf8(&mut [0; 4]), ' ', out)
            }
            'd' | 'i' | 'u' | 'o' | 'x' | 'X' => {
                let is_decimal = matches!(self.kind, 'd' | 'i' | 'u');
                let (is_negative, n) = integer(value, !is_decimal)?;
                let (prefix, digits) = match self.kind {
                    'o' => ("0o", format!("{n:o}")),
                    'x' => ("0x", format!("{n:x}")),
                    'X' => ("0X", format!("{n:X}")),
                    _ => ("", n.to_string()),
                };
                let prefix = if self.is_alternative { prefix } else { "" };
                let zeros = self.precision.unwrap_or(0).saturating_sub(digits.len());
                self.put(&format!("{}{prefix}", self.sign(is_negative)), zeros, &digits, self.fill(), out)
            }
            'e' | 'E' | 'f' | 'F' | 'g' | 'G' => {
                let v = match value.kind() {
                    ValueKind::Bool => f64::from(u8::from(value.is_true())),
                    _ => f64::try_from(value.clone())?,
                };
                let digits = self.float(v.abs())?;
                let digits = if self.kind.is_ascii_uppercase() { digits.to_uppercase() } else { digits };
                let is_negative = v.is_sign_negative() && !v.is_nan();
                self.put(self.sign(is_negative), 0, &digits, self.fill(), out)
            }
            other => Err(refused(format!("unsupported format character {other:?}"))),
        }
    }

    fn sign(&self, is_negative: bool) -> &'static str {
        match (is_negative, self.has_plus, self.has_blank) {
            (true, ..) => "-",
            (_, true, _) => "+",
            (_, _, true) => " ",
            _ => "",
        }
    }

    fn fill(&self) -> char {
        if self.is_zeroed && !self.is_left { '0' } else { ' ' }
    }

    /// A text, behind zeros and a sign, as wide as is wanted.
    fn put(&self, sign: &str, zeros: usize, text: &str, fill: char, out: &mut Paid) -> Result<(), Error> {
        let length = sign.len().saturating_add(zeros).saturating_add(text.chars().count());
        let missing = self.width.saturating_sub(length);
        if !self.is_left && fill == ' ' {
            out.fill(' ', missing)?;
        }
        out.push(sign)?;
        if fill == '0' {
            out.fill('0', missing)?;
        }
        out.fill('0', zeros)?;
        out.push(text)?;
        if self.is_left {
            out.fill(' ', missing)?;
        }
        Ok(())
    }

    /// The digits of a number that is not negative, as C writes it.
    fn float(&self, v: f64) -> Result<String, Error> {
        if v.is_nan() {
            return Ok("nan".into());
        }
        if v.is_infinite() {
            return Ok("inf".into());
        }
        let precision = self.precision.unwrap_or(6);
        if precision > MOST_DIGITS {
            return Err(refused(format!("a number has at most {MOST_DIGITS} digits behind its point")));
        }
        let point = |digits: String| match self.is_alternative && !digits.contains('.') {
            true => digits + ".",
            false => digits,
        };
        Ok(match self.kind {
            'f' | 'F' => point(format!("{v:.precision$}")),
            'e' | 'E' => {
                let (digits, exponent) = scientific(&format!("{v:.precision$e}"));
                point(digits) + &exponent
            }
            _ => {
                // As many digits as are wanted, with an exponent where the number is far from them.
                let behind = precision.max(1) - 1;
                let (digits, exponent) = scientific(&format!("{v:.behind$e}"));
                let power: i64 = exponent[1..].parse().unwrap_or(0);
                let (digits, exponent) = match usize::try_from(behind as i64 - power) {
                    Ok(behind) if power >= -4 => (format!("{v:.behind$}"), String::new()),
                    _ => (digits, exponent),
                };
                let digits = match self.is_alternative || !digits.contains('.') {
                    true => point(digits),
                    false => digits.trim_end_matches('0').trim_end_matches('.').to_owned(),
                };
                digits + &exponent
            }
        })
    }
}

/// Where the bracket closes that a text is in.
fn closing(text: &str) -> Option<usize> {
    let mut open = 1_usize;
    text.bytes().position(|b| {
        match b {
            b'(' => open += 1,
            b')' => open -= 1,
            _ => {}
        }
        open == 0
    })
}

/// The number that a text begins with, 0 without one, and what is behind it.
fn digits(text: &str) -> Result<(usize, &str), Error> {
    let (digits, rest) = text.split_at(text.bytes().take_while(u8::is_ascii_digit).count());
    match digits {
        "" => Ok((0, rest)),
        _ => digits.parse::<usize>().map(|n| (n, rest)).map_err(|_| refused("too many digits in a format")),
    }
}

/// Whether a number is negative, and how far from zero; what is behind a point goes, unless only integers will do.
fn integer(value: &Value, must_be_whole: bool) -> Result<(bool, u128), Error> {
    if value.is_integer() || value.kind() == ValueKind::Bool {
        return match i128::try_from(value.clone()) {
            Ok(n) => Ok((n < 0, n.unsigned_abs())),
            Err(_) => u128::try_from(value.clone()).map(|n| (false, n)),
        };
    }
    match f64::try_from(value.clone()) {
        Ok(v) if !must_be_whole && v.abs() < 1e38 => Ok((v <= -1.0, v.abs() as u128)),
        _ => Err(refused(format!("a number is required, not {}", value.kind()))),
    }
}

/// A text with escapes in place of what is not ASCII.
fn ascii(text: &str) -> String {
    text.chars().map(|c| if c.is_ascii() { c.to_string() } else { escape(c) }).collect()
}

/// `format.format(values)` without what may stand behind a colon, and without attributes and items of the values.
pub(crate) fn str_format(state: &State, format: &str, args: &[Value]) -> Result<String, Error> {
    let spend = |fuel: u64| state.consume_fuel(fuel);
    let (values, named): (&[Value], Kwargs) = from_args(args)?;
    let mut out = Paid::new(&spend);
    // Whether places are counted, or say which they are.
    let (mut counted, mut are_counted) = (0, None);
    let mut rest = format;
    while let Some(at) = rest.find(['{', '}']) {
        out.push(&rest[..at])?;
        out.step()?;
        rest = &rest[at..];
        if rest.starts_with("{{") || rest.starts_with("}}") {
            out.push(&rest[..1])?;
            rest = &rest[2..];
            continue;
        }
        let Some((place, behind)) = rest.strip_prefix('{').and_then(|inner| inner.split_once('}')) else {
            return Err(refused("a single brace in a format string"));
        };
        rest = behind;
        let (place, spec) = place.split_once(':').unwrap_or((place, ""));
        let (name, conversion) = place.split_once('!').unwrap_or((place, "s"));
        if !spec.is_empty() || name.contains(['.', '[', '{']) {
            return Err(refused(format!(
                "only names and numbers may stand in a format's braces, not {place:?}, {spec:?}"
            )));
        }
        let number = match name {
            "" => Some(counted),
            _ if name.bytes().all(|b| b.is_ascii_digit()) => Some(digits(name)?.0),
            _ => None,
        };
        let value = match number {
            Some(n) => {
                if *are_counted.get_or_insert(name.is_empty()) != name.is_empty() {
                    return Err(refused("a format's places are either all numbered or all counted"));
                }
                counted += usize::from(name.is_empty());
                values.get(n).ok_or_else(|| refused(format!("there is no value {n} to be formatted")))?
            }
            None if named.has(name) => named.get::<&Value>(name)?,
            None => return Err(refused(format!("there is no {name:?} to be formatted"))),
        };
        defined(state, value)?;
        match conversion {
            "s" => out.push(&text(value, &spend)?)?,
            "r" => out.push(&repr(value, &spend)?)?,
            "a" => out.push(&ascii(&repr(value, &spend)?))?,
            other => return Err(refused(format!("unknown conversion {other:?} in a format string"))),
        }
    }
    out.push(rest)?;
    Ok(out.done())
}
