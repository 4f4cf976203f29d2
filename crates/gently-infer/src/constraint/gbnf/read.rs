//! Reading a grammar's text.
//!
//! Source: the reader in `llama.cpp` (`src/llama-grammar.cpp`) and its page `grammars/README.md`. What that one takes is
//! taken here with the same meaning; rules that derive themselves at their beginning are taken too. Refused are: a rule that is
//! defined twice, a class without characters, more at least than at most, and tokens by number or by exclusion.

use super::node::{Chars, Grammar, Node, Rule};
use std::collections::HashMap;

/// Deepest nesting of parentheses.
const MOST_DEPTH: usize = 50;
/// Deepest nesting of all that there is, in one rule.
pub(super) const MOST_HEIGHT: usize = 128;
/// Most that a repetition may count.
const MOST_TIMES: u32 = 100_000;

type Result<T, E = String> = std::result::Result<T, E>;

/// Reads a grammar; what is wrong is said with line and column.
pub(super) fn read(text: &str) -> Result<Grammar> {
    let mut reader = Reader { text, at: 0, names: HashMap::new(), rules: Vec::new() };
    reader.space(true);
    while reader.peek().is_some() {
        reader.rule()?;
    }
    let root = reader.names.get("root").copied();
    let root = root.filter(|&r| reader.rules[r].body.is_some()).ok_or("there is no rule root")?;
    let Reader { rules, .. } = &reader;
    if let Some(missing) = rules.iter().filter(|r| r.body.is_none()).min_by_key(|r| r.at) {
        return Err(reader.wrong(missing.at, format!("there is no rule {}", missing.name)));
    }
    let rules = reader.rules.into_iter().filter_map(|r| Some(Rule { body: r.body? }));
    Ok(Grammar { rules: rules.collect(), root })
}

struct Reader<'a> {
    text: &'a str,
    /// Bytes that were read.
    at: usize,
    names: HashMap<&'a str, usize>,
    rules: Vec<Named<'a>>,
}

struct Named<'a> {
    name: &'a str,
    /// Where it is first named.
    at: usize,
    body: Option<Node>,
}

impl<'a> Reader<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let next = self.peek();
        self.at += next.map_or(0, char::len_utf8);
        next
    }

    fn eat(&mut self, what: &str) -> bool {
        let there = self.rest().starts_with(what);
        self.at += if there { what.len() } else { 0 };
        there
    }

    /// Goes beyond spaces and comments.
    fn space(&mut self, lines: bool) {
        while let Some(c) = self.peek() {
            match c {
                ' ' | '\t' => self.at += 1,
                '\r' | '\n' if lines => self.at += 1,
                '#' => self.at += self.rest().find(['\r', '\n']).unwrap_or(self.rest().len()),
                _ => break,
            }
        }
    }

    fn wrong(&self, at: usize, what: impl std::fmt::Display) -> String {
        let before = &self.text[..at];
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().map_or(0, |l| l.chars().count()) + 1;
        format!("line {line}, column {column}: {what}")
    }

    /// An error here: something is wanted, and this is found.
    fn wanted(&self, what: &str) -> String {
        let found = match self.peek() {
            None => "the end".to_owned(),
            Some('\r' | '\n') => "the end of the line".to_owned(),
            Some(c) => format!("{c:?}"),
        };
        self.wrong(self.at, format!("{found} in place of {what}"))
    }

    fn name(&mut self) -> Option<&'a str> {
        let rest = self.rest();
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '-').unwrap_or(rest.len());
        self.at += end;
        (end > 0).then_some(&rest[..end])
    }

    fn index(&mut self, name: &'a str, at: usize) -> usize {
        *self.names.entry(name).or_insert_with(|| {
            self.rules.push(Named { name, at, body: None });
            self.rules.len() - 1
        })
    }

    fn rule(&mut self) -> Result<()> {
        let at = self.at;
        let Some(name) = self.name() else {
            let what = match self.peek() {
                Some('|') => "a rule's name: to go on in the next line, end this one with |",
                _ => "a rule's name, of letters, digits and -",
            };
            return Err(self.wanted(what));
        };
        self.space(false);
        if !self.eat("::=") {
            return Err(self.wanted("::="));
        }
        let index = self.index(name, at);
        if self.rules[index].body.is_some() {
            return Err(self.wrong(at, format!("the rule {name} is defined a second time")));
        }
        self.space(true);
        let (body, _) = self.alternatives(0)?;
        if !matches!(self.peek(), None | Some('\r' | '\n')) {
            return Err(self.wanted("what can stand in a rule, or its end"));
        }
        self.rules[index].body = Some(body);
        self.space(true);
        Ok(())
    }

    /// Alternatives and how deep they are nested.
    fn alternatives(&mut self, depth: usize) -> Result<(Node, usize)> {
        let (first, mut deepest) = self.sequence(depth)?;
        let mut all = vec![first];
        while self.eat("|") {
            self.space(true);
            let (one, deep) = self.sequence(depth)?;
            all.push(one);
            deepest = deepest.max(deep);
        }
        match all.len() {
            1 => Ok((all.remove(0), deepest)),
            _ => Ok((Node::Alt(all), deepest + 1)),
        }
    }

    fn sequence(&mut self, depth: usize) -> Result<(Node, usize)> {
        let within = depth > 0;
        let mut parts: Vec<(Node, usize)> = Vec::new();
        while let Some(c) = self.peek() {
            let at = self.at;
            let part = match c {
                '"' => (self.literal()?, 1),
                '[' => (Node::Chars(self.class()?), 0),
                '.' => {
                    self.at += 1;
                    let any = Chars::new(Vec::new(), true).ok_or("there are no characters")?;
                    (Node::Chars(any), 0)
                }
                '<' | '!' => (self.token()?, 0),
                '(' => {
                    self.at += 1;
                    if depth == MOST_DEPTH {
                        return Err(self.wrong(at, format!("parentheses nested deeper than {MOST_DEPTH}")));
                    }
                    self.space(true);
                    let inner = self.alternatives(depth + 1)?;
                    if !self.eat(")") {
                        return Err(self.wanted("), or what can stand before it"));
                    }
                    inner
                }
                '*' | '+' | '?' | '{' => {
                    let (least, most) = self.times(within)?;
                    let Some((before, deep)) = parts.pop() else {
                        return Err(self.wrong(at, format!("nothing stands before {c} that could be repeated")));
                    };
                    (repeat(before, least, most), deep + 1)
                }
                c if c.is_ascii_alphanumeric() || c == '-' => match self.name() {
                    Some(name) => (Node::Rule(self.index(name, at)), 0),
                    None => break,
                },
                _ => break,
            };
            if part.1 > MOST_HEIGHT {
                return Err(self.wrong(at, format!("nested deeper than {MOST_HEIGHT}")));
            }
            parts.push(part);
            self.space(within);
        }
        let deepest = parts.iter().map(|p| p.1).max().unwrap_or(0);
        let mut nodes: Vec<Node> = parts.into_iter().map(|p| p.0).collect();
        match nodes.len() {
            1 => Ok((nodes.remove(0), deepest)),
            _ => Ok((Node::Seq(nodes), deepest + 1)),
        }
    }

    fn literal(&mut self) -> Result<Node> {
        let from = self.at;
        self.at += 1;
        let mut all = Vec::new();
        while !self.eat("\"") {
            let at = self.at;
            let code = self.character(from, "a string")?;
            let c = char::from_u32(code).ok_or_else(|| self.no_character(at, code))?;
            all.push(Node::Chars(Chars::one(c)));
        }
        Ok(match all.len() {
            1 => all.remove(0),
            _ => Node::Seq(all),
        })
    }

    fn class(&mut self) -> Result<Chars> {
        let from = self.at;
        self.at += 1;
        let negated = self.eat("^");
        let mut ranges = Vec::new();
        while !self.eat("]") {
            let at = self.at;
            let first = self.character(from, "a class of characters")?;
            let mut last = first;
            if self.rest().starts_with('-') && !self.rest().starts_with("-]") {
                self.at += 1;
                last = self.character(from, "a class of characters")?;
            }
            if last < first {
                return Err(self.wrong(at, "a range whose end is before its beginning"));
            }
            ranges.push((first, last));
        }
        Chars::new(ranges, negated).ok_or_else(|| self.wrong(from, "a class without characters"))
    }

    /// The next character of a string or a class that begins at `from`, or what an escape stands for.
    fn character(&mut self, from: usize, of: &str) -> Result<u32> {
        let at = self.at;
        let unended = |this: &Self| this.wrong(from, format!("{of} without an end"));
        let c = self.next().ok_or_else(|| unended(self))?;
        if c != '\\' {
            return Ok(c as u32);
        }
        let digits = match self.next().ok_or_else(|| unended(self))? {
            'n' => return Ok('\n' as u32),
            'r' => return Ok('\r' as u32),
            't' => return Ok('\t' as u32),
            c @ ('\\' | '"' | '[' | ']' | '-') => return Ok(c as u32),
            'x' => 2,
            'u' => 4,
            'U' => 8,
            c => {
                let what = "known are \\n \\r \\t \\\\ \\\" \\[ \\] \\- \\xHH \\uHHHH \\UHHHHHHHH";
                return Err(self.wrong(at, format!("an unknown escape, \\{}; {what}", c.escape_debug())));
            }
        };
        let hex = self.rest().get(..digits).filter(|h| h.bytes().all(|b| b.is_ascii_hexdigit()));
        let Some(code) = hex.and_then(|h| u32::from_str_radix(h, 16).ok()) else {
            return Err(self.wrong(at, format!("{digits} hexadecimal digits are wanted")));
        };
        self.at += digits;
        match code > char::MAX as u32 {
            true => Err(self.no_character(at, code)),
            false => Ok(code),
        }
    }

    fn no_character(&self, at: usize, code: u32) -> String {
        self.wrong(at, format!("U+{code:04X} is no character"))
    }

    fn token(&mut self) -> Result<Node> {
        let at = self.at;
        if self.eat("!") {
            return Err(self.wrong(at, "any token but one (!) is not known: say with characters what is wanted"));
        }
        self.at += 1;
        if self.peek() == Some('[') {
            return Err(self.wrong(at, "tokens by number are not known: name a special token, as in <|im_end|>"));
        }
        let name = self.rest().split(['>', '\r', '\n']).next().unwrap_or("");
        self.at += name.len();
        if !self.eat(">") {
            return Err(self.wrong(at, "a token without >"));
        }
        if name.is_empty() || name.contains(|c: char| c == '<' || c.is_whitespace()) {
            return Err(self.wrong(at, "the name of a special token is wanted, as in <|im_end|>"));
        }
        Ok(Node::Token(format!("<{name}>")))
    }

    fn times(&mut self, lines: bool) -> Result<(u32, Option<u32>)> {
        let from = self.at;
        match self.next() {
            Some('*') => return Ok((0, None)),
            Some('+') => return Ok((1, None)),
            Some('?') => return Ok((0, Some(1))),
            _ => {}
        }
        self.space(lines);
        let least = self.count()?.ok_or_else(|| self.wanted("a number"))?;
        self.space(lines);
        let mut most = Some(least);
        if self.eat(",") {
            self.space(lines);
            most = self.count()?;
            self.space(lines);
        }
        if !self.eat("}") {
            return Err(self.wanted("}"));
        }
        match most.is_some_and(|most| most < least) {
            true => Err(self.wrong(from, "a repetition with more at least than at most")),
            false => Ok((least, most)),
        }
    }

    fn count(&mut self) -> Result<Option<u32>> {
        let (at, rest) = (self.at, self.rest());
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        if digits == 0 {
            return Ok(None);
        }
        self.at += digits;
        match rest[..digits].parse().ok().filter(|n| *n <= MOST_TIMES) {
            Some(n) => Ok(Some(n)),
            None => Err(self.wrong(at, format!("repeated more than {MOST_TIMES} times"))),
        }
    }
}

/// Repeats, without what changes nothing.
fn repeat(node: Node, least: u32, most: Option<u32>) -> Node {
    match (least, most) {
        (_, Some(0)) => Node::Seq(Vec::new()),
        (1, Some(1)) => node,
        _ => Node::Repeat(Box::new(node), least, most),
    }
}
