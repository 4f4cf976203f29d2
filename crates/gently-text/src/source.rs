//! The source of a template, made ready for `minijinja`: read as Jinja reads it, and bounded.
//!
//! Here: ends of lines, `{% generation %}`, `{% raw %}`, the escapes of strings, and what is too long or too deep to be read. Not
//! here: what it means (see [`crate::running`]).

use crate::python::escape;
use std::str::Chars;

/// No published template is near this.
const MOST_SOURCE: usize = 256 << 10;
/// Words, strings and signs in one tag, and `elif` in a template: the reader of templates goes as deep as there are of them.
const MOST_PARTS: usize = 800;
/// Marks of what the model says, for training, and what stands for them: blocks that do nothing, so that white space around is cut
/// as before.
const GENERATION: [(&str, &str); 2] = [("generation", "if true"), ("endgeneration", "endif")];

/// What is wrong, and how many bytes behind the beginning of what was read.
type Fault = (usize, String);

/// A template as `minijinja` has to see it: with lines that end in `\n`, strings without escapes that the two read otherwise, and
/// raw texts that keep their first line's end. `generation`: whether it may mark what the model says.
///
/// Says what is wrong, with the line, also of a template that is too long, or whose tags are so long that reading them could
/// exhaust the stack: `- - - 1`, `a.b.c.d` and `a|b|c` are one call deeper for each part.
pub(crate) fn prepared(source: &str, generation: bool) -> Result<String, String> {
    if source.len() > MOST_SOURCE {
        return Err(format!("it has {} bytes, over the limit of {MOST_SOURCE}", source.len()));
    }
    let source = source.replace("\r\n", "\n").replace('\r', "\n");
    let mut out = String::with_capacity(source.len());
    let mut branches = 0;
    let mut rest = source.as_str();
    while let Some(at) = rest.find('{') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let copied = match rest.as_bytes().get(1) {
            Some(b'#') => {
                let end = rest[2..].find("#}").map_or(rest.len(), |n| n + 4);
                out.push_str(&rest[..end]);
                Ok(end)
            }
            Some(b'%') => copy_block(rest, generation, &mut branches, &mut out),
            Some(b'{') => copy_tag(rest, "}}", &mut branches, &mut out),
            _ => {
                out.push('{');
                Ok(1)
            }
        };
        let end = copied.map_err(|(at, what)| {
            let before = source.len() - rest.len() + at;
            let line = source.as_bytes()[..before].iter().filter(|b| **b == b'\n').count() + 1;
            format!("{what} (line {line})")
        })?;
        rest = &rest[end..];
    }
    Ok(out + rest)
}

/// Copies the block's tag that a text begins with, or all of a raw text, and gives where it ends.
fn copy_block(text: &str, generation: bool, branches: &mut usize, out: &mut String) -> Result<usize, Fault> {
    let inner = &text[2..];
    if let Some((tag, is_signed)) = bare_tag(inner, "raw") {
        let body = &inner[tag..];
        let end = body.match_indices("{%").find_map(|(at, _)| {
            let behind = at + 2;
            bare_tag(&body[behind..], "endraw").map(|(tag, _)| behind + tag)
        });
        // One without an end is an error, which is for the reader.
        let end = 2 + tag + end.unwrap_or(body.len());
        // In Jinja a line's end stays behind this tag, as a sign says here.
        out.push_str(&text[..tag]);
        out.push_str(if is_signed { "%}" } else { "+%}" });
        out.push_str(&text[tag + 2..end]);
        return Ok(end);
    }
    for (mark, block) in GENERATION {
        if let Some((tag, _)) = bare_tag(inner, mark).filter(|_| generation) {
            out.push_str("{%");
            out.push_str(&inner[..tag].replacen(mark, block, 1));
            return Ok(tag + 2);
        }
    }
    copy_tag(text, "%}", branches, out)
}

/// How long a tag is that says nothing but `name`, from behind its `{%`, and whether a sign stands at its end.
fn bare_tag(text: &str, name: &str) -> Option<(usize, bool)> {
    let inner = text.strip_prefix(['-', '+']).unwrap_or(text).trim_ascii_start();
    let inner = inner.strip_prefix(name)?.trim_ascii_start();
    let is_signed = inner.starts_with(['-', '+']);
    let behind = inner[usize::from(is_signed)..].strip_prefix("%}")?;
    Some((text.len() - behind.len(), is_signed))
}

/// Copies the tag that a text begins with, and gives where it ends. As for the reader, it does not end within brackets.
fn copy_tag(text: &str, close: &str, branches: &mut usize, out: &mut String) -> Result<usize, Fault> {
    let bytes = text.as_bytes();
    let (mut at, mut open, mut parts) = (2, 0_isize, 0);
    out.push_str(&text[..at]);
    while at < bytes.len() && !(open == 0 && bytes[at..].starts_with(close.as_bytes())) {
        let start = at;
        at += 1;
        match bytes[start] {
            b if b.is_ascii_whitespace() => {
                out.push(b as char);
                continue;
            }
            quote @ (b'"' | b'\'') => {
                while at < bytes.len() && bytes[at] != quote {
                    at += if bytes[at] == b'\\' { 2 } else { 1 };
                }
                let is_closed = at < bytes.len();
                at = (at + 1).min(bytes.len());
                let literal = &text[start..at];
                match is_closed && literal.contains('\\') {
                    true => {
                        let inner = unescaped(&literal[1..literal.len() - 1]).map_err(|what| (start, what))?;
                        spell(&inner, quote as char, out);
                    }
                    false => out.push_str(literal),
                }
            }
            b if b.is_ascii_alphanumeric() || b == b'_' || b >= 0x80 => {
                let is_word = |b: &u8| b.is_ascii_alphanumeric() || *b == b'_' || *b >= 0x80;
                at = start + bytes[start..].iter().take_while(|b| is_word(b)).count();
                *branches += usize::from(&bytes[start..at] == b"elif");
                out.push_str(&text[start..at]);
            }
            b => {
                match b {
                    b'(' | b'[' | b'{' => open += 1,
                    b')' | b']' | b'}' => open -= 1,
                    _ => {}
                }
                out.push(b as char);
            }
        }
        parts += 1;
        if parts > MOST_PARTS || *branches > MOST_PARTS {
            return Err((0, format!("a tag or its branches have more than {MOST_PARTS} parts")));
        }
    }
    // Past the end of the tag, or of a template that ends within it.
    let end = (at + 2).min(bytes.len());
    out.push_str(&text[at.min(end)..end]);
    Ok(end)
}

/// A string with nothing escaped but what must be.
fn spell(text: &str, quote: char, out: &mut String) {
    out.push(quote);
    for c in text.chars() {
        if c == quote || c == '\\' {
            out.push('\\');
        }
        out.push(c);
    }
    out.push(quote);
}

/// What a string means that has escapes, by Python's `unicode-escape` over ASCII, as Jinja has it.
fn unescaped(text: &str) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        if c != '\\' {
            out.push(c);
            continue;
        }
        match rest.next() {
            // The line goes on.
            Some('\n') => {}
            Some(c @ ('\\' | '\'' | '"')) => out.push(c),
            Some('a') => out.push('\u{7}'),
            Some('b') => out.push('\u{8}'),
            Some('t') => out.push('\t'),
            Some('n') => out.push('\n'),
            Some('v') => out.push('\u{b}'),
            Some('f') => out.push('\u{c}'),
            Some('r') => out.push('\r'),
            Some(first @ '0'..='7') => {
                let more = rest.clone().take(2).take_while(|c| c.is_digit(8)).count();
                let digits: String = std::iter::once(first).chain(rest.by_ref().take(more)).collect();
                out.extend(u32::from_str_radix(&digits, 8).ok().and_then(char::from_u32));
            }
            Some('x') => out.push(character(hexadecimal(&mut rest, 2)?)?),
            Some('U') => out.push(character(hexadecimal(&mut rest, 8)?)?),
            Some('u') => {
                let first = hexadecimal(&mut rest, 4)?;
                // Beyond 16 bits, two halves are taken for one character, as in JSON.
                let mut behind = rest.clone();
                if (0xd800..0xdc00).contains(&first)
                    && behind.next() == Some('\\')
                    && behind.next() == Some('u')
                    && let Ok(second @ 0xdc00..=0xdfff) = hexadecimal(&mut behind, 4)
                {
                    rest = behind;
                    out.push(character(0x1_0000 + ((first - 0xd800) << 10) + (second - 0xdc00))?);
                } else {
                    out.push(character(first)?);
                }
            }
            Some('N') => return Err("a string has \\N, a character by its name, which is not known here".into()),
            // No escape: it stays. What is not ASCII is an escape of its own by then.
            Some(c) if c.is_ascii() => out.extend(['\\', c]),
            Some(c) => out.push_str(&escape(c)),
            None => return Err("a string ends in \\".into()),
        }
    }
    Ok(out)
}

/// The number that so many digits are.
fn hexadecimal(rest: &mut Chars, count: usize) -> Result<u32, String> {
    let digits: String = rest.clone().take(count).take_while(char::is_ascii_hexdigit).collect();
    if digits.len() < count {
        return Err(format!("a string has an escape with fewer than {count} hexadecimal digits"));
    }
    rest.by_ref().take(count).for_each(drop);
    u32::from_str_radix(&digits, 16).map_err(|e| e.to_string())
}

fn character(code: u32) -> Result<char, String> {
    char::from_u32(code).ok_or_else(|| format!("a string has an escape of {code:#x}, which is no character"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ready(source: &str) -> String {
        prepared(source, true).unwrap()
    }

    #[test]
    fn generation_marks_print_nothing() {
        let marked = "a{%- generation -%} b {% endgeneration %}c{% if generation %}{% endif %}";
        assert_eq!(ready(marked), "a{%- if true -%} b {% endif %}c{% if generation %}{% endif %}");
        assert_eq!(prepared(marked, false).unwrap(), marked);
        assert_eq!(ready("a {% b"), "a {% b");
        // Found by fuzzing: the sign of a beginning taken for that of an end.
        assert_eq!(ready("a{%}b{%%}c{%}generation%}"), "a{%}b{%%}c{%}generation%}");
    }

    #[test]
    fn sources_are_read_as_by_jinja() {
        for (source, text) in [
            ("a\r\nb\rc\n\r", "a\nb\nc\n\n"),
            (
                "{% raw %}\r\nx{{ '\\a' {% endraw %}{%- raw-%}y{%endraw-%}",
                "{% raw +%}\nx{{ '\\a' {% endraw %}{%- raw-%}y{%endraw-%}",
            ),
            ("{% raw %}{% endfor %} '\\a", "{% raw +%}{% endfor %} '\\a"),
            // Escapes, in strings alone, with the quotes that they have.
            ("\\a {{ '\\a\\'\"\\/' }} {% if \"\\\"\\'\\u00e9\" %}", "\\a {{ '\u{7}\\'\"\\\\/' }} {% if \"\\\"'é\" %}"),
            ("{{ '\\ud83d\\ude00\\U0001f600\\x41\\101\\08\\777' }}", "{{ '😀😀AA\08ǿ' }}"),
            ("{# '\\a' #}{{ '#}' }}{{ '\\\\' }}", "{# '\\a' #}{{ '#}' }}{{ '\\\\' }}"),
            // Not ended, and ended behind a bracket.
            ("{{ '\\a", "{{ '\\a"),
            ("{{ \"", "{{ \""),
            ("{", "{"),
            ("{#}\\a{{ '\\a' }}", "{#}\\a{{ '\\a' }}"),
            ("{{ {'a': {}}}}{{ '\\é' }}", "{{ {'a': {}}}}{{ '\\\\xe9' }}"),
        ] {
            assert_eq!(ready(source), text, "{source}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_told_with_its_line() {
        let says = |source: &str| prepared(source, true).unwrap_err();
        for escape in ["\\x4", "\\ud83d", "\\ud83d\\u0041", "\\U00110000", "\\u12g4", "\\N{BULLET}"] {
            let e = says(&format!("\n\n{{{{ '{escape}' }}}}"));
            assert!(e.contains("(line 3)"), "{e}");
        }
        assert!(says(&"a".repeat(MOST_SOURCE + 1)).contains("over the limit"));
        assert!(says(&format!("\r\n{{{{ 1{} }}}}", "+1".repeat(500))).ends_with("parts (line 2)"));
        // A bracket within does not end the tag.
        assert!(says(&format!("{{{{ {{0: {{}}}} + {} 1 }}}}", "- ".repeat(900))).contains("parts"));
        assert!(says(&format!("{{% if 1 %}}{}", "{% elif 1 %}".repeat(900))).contains("parts"));
    }
}
