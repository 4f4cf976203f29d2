//! `textwrap.wrap` as Jinja's filter `wordwrap` calls it: tabs stay, blank ends of lines go.

use super::strings::is_space;
use super::{Spend, refused};
use minijinja::Error;

/// How lines are cut.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wrapping {
    /// The most characters of a line.
    pub width: usize,
    /// Whether words longer than that are cut.
    pub cuts_words: bool,
    /// Whether words are cut at their hyphens.
    pub cuts_at_hyphens: bool,
}

/// The lines of a text that is one line.
pub(crate) fn wrapped(text: &str, how: Wrapping, spend: Spend) -> Result<Vec<String>, Error> {
    if how.width == 0 {
        return Err(refused("the width of lines must be above 0"));
    }
    // Its characters with their places take several times its own size.
    spend(text.len() as u64 / 4)?;
    let mut rest = chunks(text, how.cuts_at_hyphens);
    rest.reverse();
    let mut lines = Vec::new();
    while !rest.is_empty() {
        spend(1)?;
        if !lines.is_empty() && rest.last().is_some_and(|(chunk, _)| is_blank(chunk)) {
            rest.pop();
        }
        // The line, its characters, and where its last part begins.
        let (mut line, mut length, mut last) = (String::new(), 0, 0);
        while let Some(&(chunk, chars)) = rest.last()
            && length + chars <= how.width
        {
            last = line.len();
            line.push_str(chunk);
            length += chars;
            rest.pop();
        }
        if let Some(&(chunk, chars)) = rest.last()
            && chars > how.width
        {
            if how.cuts_words {
                let (part, count) = beginning(chunk, how.width - length, how.cuts_at_hyphens);
                last = line.len();
                line.push_str(part);
                rest.pop();
                rest.push((&chunk[part.len()..], chars - count));
            } else if line.is_empty() {
                line.push_str(chunk);
                rest.pop();
            }
        }
        if is_blank(&line[last..]) {
            line.truncate(last);
        }
        if !line.is_empty() {
            lines.push(line);
        }
    }
    Ok(lines)
}

fn is_blank(text: &str) -> bool {
    text.chars().all(is_space)
}

/// The beginning of a word that has to be cut, at a hyphen if one of so many characters is, and how long it is.
fn beginning(word: &str, room: usize, cuts_at_hyphens: bool) -> (&str, usize) {
    let end = word.char_indices().nth(room).map_or(word.len(), |(at, _)| at);
    let part = &word[..end];
    match part.rfind('-').filter(|at| cuts_at_hyphens && part[..*at].contains(|c: char| c != '-')) {
        Some(at) => (&part[..=at], part[..=at].chars().count()),
        None => (part, room),
    }
}

/// The parts that a text may be cut between, and how long they are: words, parts of words, dashes, white space.
fn chunks(text: &str, cuts_at_hyphens: bool) -> Vec<(&str, usize)> {
    let chars: Vec<(usize, char)> = text.char_indices().collect();
    let byte = |i: usize| chars.get(i).map_or(text.len(), |(at, _)| *at);
    let mut chunks = Vec::new();
    let mut start = 0;
    while start < chars.len() {
        let end = chunk_end(&chars, start, cuts_at_hyphens);
        chunks.push((&text[byte(start)..byte(end)], end - start));
        start = end;
    }
    chunks
}

/// Where the part ends that begins at a character.
fn chunk_end(chars: &[(usize, char)], start: usize, cuts_at_hyphens: bool) -> usize {
    let is_there = |at: usize, what: fn(char) -> bool| chars.get(at).is_some_and(|(_, c)| what(*c));
    let is_before =
        |at: usize, back: usize, what: fn(char) -> bool| at.checked_sub(back).is_some_and(|at| is_there(at, what));
    let run = |what: fn(char) -> bool| chars[start..].iter().take_while(|(_, c)| what(*c)).count();
    if is_there(start, is_white) {
        return start + run(is_white);
    }
    if !cuts_at_hyphens {
        return start + run(|c| !is_white(c));
    }
    // The end of two hyphens or more between a word and another.
    let dash_end = |at: usize| {
        let count = chars.get(at..).unwrap_or_default().iter().take_while(|(_, c)| *c == '-').count();
        (count >= 2 && is_before(at, 1, is_punctuated) && is_there(at + count, is_word)).then_some(at + count)
    };
    if let Some(end) = dash_end(start) {
        return end;
    }
    for at in start + 1..chars.len() {
        let is_hyphen = is_there(at, is_dash)
            && is_before(at, 1, is_letter)
            && (is_before(at, 2, is_letter) || is_before(at, 2, is_dash) && is_before(at, 3, is_letter))
            && is_there(at + 1, is_letter)
            && (is_there(at + 2, is_letter) || is_there(at + 2, is_dash) && is_there(at + 3, is_letter));
        if is_hyphen {
            return at + 1;
        }
        // Looked for only behind a word: a long row of hyphens is counted once.
        if is_there(at, is_white) || is_before(at, 1, is_punctuated) && dash_end(at).is_some() {
            return at;
        }
    }
    chars.len()
}

/// What lines are cut at, beside hyphens.
fn is_white(c: char) -> bool {
    matches!(c, '\t'..='\r' | ' ')
}

/// A character of words, about as Python's regular expressions know them.
pub(crate) fn is_word(c: char) -> bool {
    c == '_' || c.is_alphanumeric()
}

fn is_letter(c: char) -> bool {
    is_word(c) && !c.is_numeric()
}

fn is_dash(c: char) -> bool {
    c == '-'
}

/// A character of words, or a sign that stands at their ends.
fn is_punctuated(c: char) -> bool {
    is_word(c) || matches!(c, '!' | '"' | '\'' | '&' | '.' | ',' | '?')
}
