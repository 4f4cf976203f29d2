//! How much text a grammar may force at once, before any of it is written.
//!
//! The matcher follows a forced text to its end before it gives a token of it, whatever that takes: a few hundred bytes for each of
//! its bytes. Rules that name each other twice make texts of any length from a few lines, so their lengths are added up here first.
//!
//! A forced text is the beginning of each text that the grammar allows from there: it is no longer than the shortest of them. That
//! is the end of the terminal that was begun, and the least of what is left of each rule that was begun.

use llguidance::earley::CGrammar;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

/// Most bytes of text that may be forced at once: about a second, and some hundred megabytes.
const MOST_FORCED: u64 = 512 << 10;
/// Most bytes that recursion may leave to be written for each level. A text that goes `n` levels down may be forced up again.
const MOST_LEFT: u64 = 16 << 10;
/// Most bytes of a terminal that are forced: each has a state of its lexer.
pub(super) const MOST_TERMINAL: u64 = 20_000;
/// Bytes that are looked at of a terminal's expression; one that is written longer counts as the longest.
const MOST_SHOWN: usize = 4096;

/// What a grammar may force.
pub(super) struct Forces {
    /// Terminals of the shortest text that it allows; `None`: it allows none.
    pub(super) shortest: Option<u64>,
    /// Whether no long text is ever forced at once.
    pub(super) little: bool,
}

impl Forces {
    pub(super) fn of(grammar: &CGrammar) -> Self {
        let rules = Rules::of(grammar);
        Self {
            shortest: rules.least(|bytes| bytes.min(1)).first().copied().flatten(),
            // Parameters count, and rules alone do not say how far.
            little: !grammar.parametric() && rules.force_little(),
        }
    }
}

/// Rules of a grammar over symbols by number; the text is the first one.
struct Rules {
    /// What each symbol may be without its rules: least bytes of a terminal, or nothing.
    ends: Vec<Option<u64>>,
    /// What a symbol may be: these, one after the other.
    rules: Vec<(usize, Vec<usize>)>,
}

impl Rules {
    fn of(grammar: &CGrammar) -> Self {
        let lexer = grammar.lexer_spec();
        let (mut symbols, mut ends, mut rules) = (vec![grammar.start()], Vec::new(), Vec::new());
        let mut numbers = HashMap::from([(grammar.start().as_index(), 0)]);
        while let Some(&symbol) = symbols.get(ends.len()) {
            let (number, data) = (ends.len(), grammar.sym_data(symbol));
            ends.push(match data.lexeme {
                Some(lexeme) if lexer.is_nullable(lexeme) => Some(0),
                Some(lexeme) => {
                    let exprs = lexer.regex_builder.exprset();
                    Some(terminal(&lexer.lexeme_spec(lexeme).to_string(MOST_SHOWN, Some(exprs))))
                }
                // What has no rules is never written.
                None => {
                    let empty = data.is_nullable || !data.cond_nullable.is_empty() || data.rules.is_empty();
                    empty.then_some(0)
                }
            });
            for &rule in &data.rules {
                let mut parts = Vec::new();
                for part in grammar.rule_rhs(rule).0 {
                    let next = symbols.len();
                    let part_number = *numbers.entry(part.as_index()).or_insert(next);
                    if part_number == next {
                        symbols.push(*part);
                    }
                    parts.push(part_number);
                }
                rules.push((number, parts));
            }
        }
        Self { ends, rules }
    }

    /// The least that each symbol derives, where a terminal of some bytes counts as `weigh` says; `None`: it derives no text. The
    /// shortest is known first: nothing longer makes it shorter.
    fn least(&self, weigh: impl Fn(u64) -> u64) -> Vec<Option<u64>> {
        let mut users = vec![Vec::new(); self.ends.len()];
        for (rule, (_, parts)) in self.rules.iter().enumerate() {
            parts.iter().for_each(|&part| users[part].push(rule));
        }
        let mut left: Vec<(usize, u64)> = self.rules.iter().map(|(_, parts)| (parts.len(), 0)).collect();
        let mut least = vec![None; self.ends.len()];
        let mut agenda: BinaryHeap<Reverse<(u64, usize)>> = BinaryHeap::new();
        agenda.extend(self.ends.iter().enumerate().filter_map(|(s, bytes)| Some(Reverse((weigh((*bytes)?), s)))));
        while let Some(Reverse((length, symbol))) = agenda.pop() {
            if least[symbol].is_some() {
                continue;
            }
            least[symbol] = Some(length);
            for &rule in &users[symbol] {
                let (parts, sum) = &mut left[rule];
                *parts -= 1;
                *sum = sum.saturating_add(length);
                if *parts == 0 {
                    agenda.push(Reverse((*sum, self.rules[rule].0)));
                }
            }
        }
        least
    }

    /// Whether what is left of rules that were begun is never long.
    fn force_little(&self) -> bool {
        let least = self.least(|bytes| bytes);
        // For each symbol the rules that name it, and the least that follows it there.
        let mut users = vec![Vec::new(); self.ends.len()];
        let mut waiting = vec![0usize; self.ends.len()];
        for (rule, (symbol, parts)) in self.rules.iter().enumerate() {
            let mut after = 0u64;
            for &part in parts.iter().rev() {
                users[part].push((rule, after));
                waiting[*symbol] += 1;
                // A rule that derives no text goes on for ever.
                let Some(length) = least[part] else { return false };
                after = after.saturating_add(length);
            }
            if after > MOST_FORCED {
                return false;
            }
        }
        // What may be left where a symbol was begun, those first that name no others.
        let mut within: Vec<u64> = self.ends.iter().map(|end| end.map_or(0, |_| MOST_TERMINAL)).collect();
        let mut agenda: Vec<usize> = (0..waiting.len()).filter(|&symbol| waiting[symbol] == 0).collect();
        while let Some(symbol) = agenda.pop() {
            for &(rule, after) in &users[symbol] {
                let user = self.rules[rule].0;
                within[user] = within[user].max(within[symbol].saturating_add(after));
                waiting[user] -= 1;
                if waiting[user] == 0 {
                    agenda.push(user);
                }
            }
        }
        if within.iter().any(|&bytes| bytes > MOST_FORCED) {
            return false;
        }
        // The others are recursive, or name what is: any of their rules may have been begun.
        let mut nested = vec![0u64; self.rules.len()];
        for (_, users) in waiting.iter().zip(&users).filter(|(waiting, _)| **waiting > 0) {
            users.iter().for_each(|&(rule, after)| nested[rule] = nested[rule].max(after));
        }
        nested.into_iter().fold(0, u64::saturating_add) <= MOST_LEFT
    }
}

/// The bytes of a terminal's shortest text, or more. All there is to see of it is how it is written: a number, a name, and behind
/// two spaces the expression. Wherever that might begin, since a name may have anything in it, the longest counts.
fn terminal(written: &str) -> u64 {
    /// More beginnings than this are not looked at.
    const MOST_BEGINNINGS: usize = 8;
    // Cut, or not understood.
    if written.len() >= MOST_SHOWN || written.contains('…') {
        return MOST_TERMINAL;
    }
    let beginnings: Vec<usize> = written.match_indices("  (").map(|(at, _)| at).take(MOST_BEGINNINGS + 1).collect();
    if beginnings.is_empty() || beginnings.len() > MOST_BEGINNINGS {
        return MOST_TERMINAL;
    }
    beginnings.into_iter().map(|at| expression(&written[at..])).max().unwrap_or(MOST_TERMINAL)
}

/// The same of an expression: groups in parentheses, strings in quotes, single bytes in apostrophes, sets in brackets. What may be
/// left out is not counted; of alternatives all are.
fn expression(written: &str) -> u64 {
    // Of each open group, and of what a repetition would be of.
    let (mut open, mut sum, mut last) = (Vec::new(), 0u64, 0u64);
    let mut at = 0;
    while let Some(first) = written[at..].chars().next() {
        let rest = &written[at + first.len_utf8()..];
        at += first.len_utf8();
        match first {
            '(' => {
                open.push(sum);
                (sum, last) = (0, 0);
            }
            ')' => {
                let Some(before) = open.pop() else { return MOST_TERMINAL };
                last = sum;
                sum = sum.saturating_add(before);
            }
            '"' => {
                let inside = until(rest, '"');
                sum = sum.saturating_add(inside as u64);
                last = 0;
                at += (inside + 1).min(rest.len());
            }
            '*' | '?' => {
                sum = sum.saturating_sub(last);
                last = 0;
            }
            '+' => last = 0,
            '{' if times(rest).is_some() => {
                let least = times(rest).unwrap_or(MOST_TERMINAL);
                sum = sum.saturating_sub(last).saturating_add(last.saturating_mul(least));
                last = 0;
                at += rest.find('}').map_or(rest.len(), |end| end + 1);
            }
            _ => {
                at += match first {
                    '[' => set(rest),
                    '\'' => byte(rest),
                    // A character by its number or its class is in braces.
                    '\\' if ["x{", "u{", "p{", "P{"].iter().any(|name| rest.starts_with(name)) => {
                        rest.find('}').map_or(rest.len(), |end| end + 1)
                    }
                    '\\' => rest.chars().next().map_or(0, char::len_utf8),
                    _ => 0,
                };
                sum = sum.saturating_add(1);
                last = 1;
            }
        }
    }
    if open.is_empty() { sum.min(MOST_TERMINAL) } else { MOST_TERMINAL }
}

/// Bytes of what follows an apostrophe, up to the second one, if these are around a single sign.
fn byte(text: &str) -> usize {
    let mut signs = text.char_indices().filter(|(at, c)| *at > 0 || *c != '\\').skip(1);
    signs.next().filter(|(_, c)| *c == '\'').map_or(0, |(at, _)| at + 1)
}

/// Bytes of what follows an opening bracket, with the closing one.
fn set(text: &str) -> usize {
    let mut at = 0;
    while let Some(first) = text[at..].chars().next() {
        at += first.len_utf8();
        match first {
            ']' => break,
            '\'' => at += byte(&text[at..]),
            '\\' => at += text[at..].chars().next().map_or(0, char::len_utf8),
            _ => {}
        }
    }
    at
}

/// Bytes before a sign that has no backslash before it, or all.
fn until(text: &str, sign: char) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices() {
        if !escaped && c == sign {
            return at;
        }
        escaped = !escaped && c == '\\';
    }
    text.len()
}

/// The least count of a repetition, after its brace.
fn times(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).filter(|&digits| digits > 0)?;
    // What does not fit is too many.
    text[digits..].starts_with([',', '}']).then(|| text[..digits].parse().unwrap_or(MOST_TERMINAL))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `ends` of symbols, and their rules.
    fn rules(ends: &[Option<u64>], rules: &[(usize, &[usize])]) -> Rules {
        Rules { ends: ends.to_vec(), rules: rules.iter().map(|(s, parts)| (*s, parts.to_vec())).collect() }
    }

    #[test]
    fn the_shortest_text_is_found() {
        // s: t s t | t t
        let some = rules(&[None, Some(7)], &[(0, &[1, 0, 1]), (0, &[1, 1])]);
        assert_eq!(some.least(|bytes| bytes), [Some(14), Some(7)]);
        assert_eq!(some.least(|bytes| bytes.min(1)), [Some(2), Some(1)]);
        // s: t s
        let none = rules(&[None, Some(7)], &[(0, &[1, 0])]);
        assert_eq!(none.least(|bytes| bytes), [None, Some(7)]);
        assert!(some.force_little() && !none.force_little());
    }

    #[test]
    fn what_is_left_of_rules_adds_up() {
        let doubled = |count: usize| {
            let ends: Vec<Option<u64>> = (0..=count).map(|s| (s == count).then_some(1)).collect();
            let twice: Vec<(usize, Vec<usize>)> = (0..count).map(|s| (s, vec![s + 1; 2])).collect();
            Rules { ends, rules: twice }
        };
        assert_eq!(doubled(30).least(|bytes| bytes)[0], Some(1 << 30));
        assert_eq!(doubled(100).least(|bytes| bytes)[0], Some(u64::MAX));
        assert!(doubled(15).force_little() && !doubled(30).force_little());
        // Each level down leaves a long text: s: t s u | t
        let nested = |bytes| rules(&[None, Some(1), Some(bytes)], &[(0, &[1, 0, 2]), (0, &[1])]);
        assert!(nested(10).force_little() && !nested(MOST_TERMINAL).force_little());
        // A choice leaves the texts of all rules above it, though none names itself.
        let mut chain = rules(&[None; 50], &[]);
        chain.ends.extend([Some(1), Some(MOST_TERMINAL)]);
        chain.rules = (0..50).flat_map(|s| [(s, vec![s + 1, 51]), (s, vec![50])]).collect();
        assert!(!chain.force_little());
        chain.ends[51] = Some(10);
        assert!(chain.force_little());
    }

    #[test]
    fn terminals_are_as_long_as_they_are_written() {
        for (written, bytes) in [
            ("(Literal \"a(c*\")", 12),
            ("a{500,}", 500),
            ("(a{10, 20}){3}[ab)]", 31),
            ("\\x{61}{0,9}b", 1),
            ("(\"ab\" (x)* (y){0, 4})", 4),
            ("('(' '\\'' '\"' ')')", 7),
            ("[' '-'!';'#'-'[';']'-'~'](b)", 2),
            ("(a{144}){99999999999999999999}", MOST_TERMINAL),
            ("(a", MOST_TERMINAL),
            ("a)", MOST_TERMINAL),
        ] {
            assert_eq!(expression(written), bytes, "{written}");
        }
        // Brackets in a name hide nothing, nor does a name like an expression.
        assert_eq!(terminal("[3] [a  (Literal \"[a\")"), 12);
        assert_eq!(terminal("[3] x  ([  (Literal \"x\")"), MOST_TERMINAL);
        assert_eq!(terminal("[3] x"), MOST_TERMINAL);
        assert_eq!(terminal(&"a".repeat(MOST_SHOWN)), MOST_TERMINAL);
    }
}
