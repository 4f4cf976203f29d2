//! What a lexer would take: terminals as automata over the first bytes of their characters.
//!
//! Characters with the same first byte are one here, as they are for a lexer that has seen no more of them. What is said is therefore
//! never too little: two terminals may be said to meet, or one to go on, when they would not.

use super::node::{Chars, Node, Rule};
use std::cell::Cell;
use std::collections::{HashMap, HashSet};

/// Work that may be done on one grammar, in steps of some nanoseconds.
pub(super) struct Fuel(Cell<u64>);

impl Fuel {
    pub(super) fn new(steps: u64) -> Self {
        Self(Cell::new(steps))
    }

    /// Whether there was enough for so many steps.
    pub(super) fn burn(&self, steps: usize) -> bool {
        let left = self.0.get().checked_sub(steps as u64);
        self.0.set(left.unwrap_or(0));
        left.is_some()
    }
}

/// A set of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(super) struct Bytes([u64; 4]);

impl Bytes {
    pub(super) fn add(&mut self, byte: u8) {
        self.0[usize::from(byte >> 6)] |= 1 << (byte & 63);
    }

    pub(super) fn has(self, byte: u8) -> bool {
        self.0[usize::from(byte >> 6)] >> (byte & 63) & 1 == 1
    }

    pub(super) fn extend(&mut self, other: Self) {
        self.0.iter_mut().zip(other.0).for_each(|(a, b)| *a |= b);
    }

    pub(super) fn meets(self, other: Self) -> bool {
        self.0.iter().zip(other.0).any(|(a, b)| a & b != 0)
    }

    /// First bytes of characters.
    fn firsts(chars: &Chars) -> Self {
        let mut bytes = Self::default();
        for &(first, last) in chars.ranges() {
            for byte in first_byte(first)..=first_byte(last) {
                bytes.add(byte);
            }
        }
        bytes
    }
}

/// The first byte of a character in UTF-8.
fn first_byte(code: u32) -> u8 {
    let mut bytes = [0; 4];
    char::from_u32(code).map_or(0xFF, |c| c.encode_utf8(&mut bytes).as_bytes()[0])
}

/// An automaton whose states go on by one set of bytes, or freely.
struct Loose<'a> {
    rules: &'a [Rule],
    /// Free moves.
    free: Vec<Vec<u32>>,
    /// The move that takes a character.
    takes: Vec<Option<(Bytes, u32)>>,
}

impl Loose<'_> {
    fn state(&mut self) -> u32 {
        self.free.push(Vec::new());
        self.takes.push(None);
        self.free.len() as u32 - 1
    }

    fn join(&mut self, from: u32, to: u32) {
        self.free[from as usize].push(to);
    }

    /// Adds a node that begins at this state; gives where it ends.
    fn add(&mut self, node: &Node, from: u32) -> u32 {
        match node {
            Node::Chars(chars) => self.take(from, Bytes::firsts(chars)),
            // A byte that is in no text stands before the token's number.
            Node::Token(_) => {
                let mut marker = Bytes::default();
                marker.add(0xFF);
                self.take(from, marker)
            }
            Node::Rule(rule) => {
                let rules = self.rules;
                self.add(&rules[*rule].body, from)
            }
            Node::Seq(parts) => parts.iter().fold(from, |at, part| self.add(part, at)),
            Node::Alt(parts) => {
                let end = self.state();
                for part in parts {
                    let begin = self.state();
                    self.join(from, begin);
                    let last = self.add(part, begin);
                    self.join(last, end);
                }
                end
            }
            Node::Repeat(body, least, most) => {
                // The last of those that must come may come again, if there is no most.
                let certain = if most.is_none() { least.saturating_sub(1) } else { *least };
                let mut at = from;
                for _ in 0..certain {
                    at = self.add(body, at);
                }
                let end = self.state();
                if let Some(most) = most {
                    for _ in *least..*most {
                        self.join(at, end);
                        let begin = self.state();
                        self.join(at, begin);
                        at = self.add(body, begin);
                    }
                    self.join(at, end);
                    return end;
                }
                let begin = self.state();
                self.join(at, begin);
                let last = self.add(body, begin);
                self.join(last, begin);
                self.join(last, end);
                if *least == 0 {
                    self.join(at, end);
                }
                end
            }
        }
    }

    fn take(&mut self, from: u32, bytes: Bytes) -> u32 {
        let (begin, end) = (self.state(), self.state());
        self.join(from, begin);
        self.takes[begin as usize] = Some((bytes, end));
        end
    }

    /// All states that are reached freely, in order; only those that take something, and the end.
    fn close(&self, from: Vec<u32>, end: u32, fuel: &Fuel) -> Option<Vec<u32>> {
        let (mut seen, mut agenda, mut all) = (HashSet::new(), from, Vec::new());
        while let Some(at) = agenda.pop() {
            if seen.insert(at) {
                fuel.burn(4).then_some(())?;
                agenda.extend(&self.free[at as usize]);
                if at == end || self.takes[at as usize].is_some() {
                    all.push(at);
                }
            }
        }
        all.sort_unstable();
        Some(all)
    }
}

/// An automaton that knows at each byte where it goes on: about what a lexer has of a terminal.
pub(super) struct Automaton(Vec<State>);

#[derive(Default)]
struct State {
    moves: Vec<(Bytes, usize)>,
    /// Whether a text may end here.
    ends: bool,
}

impl Automaton {
    /// Of what a node derives. `None`: it would have more states than this, or finding out is too much work.
    pub(super) fn new(node: &Node, rules: &[Rule], most: usize, fuel: &Fuel) -> Option<Self> {
        let mut loose = Loose { rules, free: vec![Vec::new()], takes: vec![None] };
        let end = loose.add(node, 0);
        fuel.burn(loose.free.len()).then_some(())?;
        // Bytes that are taken everywhere alike are one.
        let sets: Vec<Bytes> = loose.takes.iter().flatten().map(|t| t.0).collect::<HashSet<_>>().into_iter().collect();
        fuel.burn(64 * sets.len()).then_some(())?;
        let mut alike: HashMap<Vec<bool>, Bytes> = HashMap::new();
        for byte in 0..=u8::MAX {
            alike.entry(sets.iter().map(|s| s.has(byte)).collect()).or_default().add(byte);
        }
        let alike: Vec<Bytes> = alike.into_values().collect();

        let first = loose.close(vec![0], end, fuel)?;
        let mut known = HashMap::from([(first.clone(), 0)]);
        let (mut states, mut agenda) = (vec![State::default()], vec![(0, first)]);
        while let Some((index, at)) = agenda.pop() {
            states[index].ends = at.contains(&end);
            let takes = || at.iter().filter_map(|&s| loose.takes[s as usize]);
            let mut bytes = Bytes::default();
            takes().for_each(|t| bytes.extend(t.0));
            for &byte in alike.iter().filter(|one| one.meets(bytes)) {
                fuel.burn(4 + at.len() / 2).then_some(())?;
                let next = loose.close(takes().filter(|t| t.0.meets(byte)).map(|t| t.1).collect(), end, fuel)?;
                let new = states.len();
                let to = *known.entry(next).or_insert_with_key(|next| {
                    states.push(State::default());
                    agenda.push((new, next.clone()));
                    new
                });
                if states.len() > most {
                    return None;
                }
                match states[index].moves.iter_mut().find(|m| m.1 == to) {
                    Some(already) => already.0.extend(byte),
                    None => states[index].moves.push((byte, to)),
                }
            }
        }
        Some(Self(states))
    }

    /// Whether it takes one character and no more.
    pub(super) fn is_character(node: &Node) -> bool {
        matches!(node, Node::Chars(_) | Node::Token(_))
    }

    /// Bytes that it may begin with.
    pub(super) fn firsts(&self) -> Bytes {
        self.firsts_at(0)
    }

    fn firsts_at(&self, state: usize) -> Bytes {
        let mut firsts = Bytes::default();
        self.0[state].moves.iter().for_each(|m| firsts.extend(m.0));
        firsts
    }

    /// Whether a text (with a character) is of both, and the bytes by which the other goes on after a text of this one. `None`: that
    /// was too much work.
    pub(super) fn beside(&self, other: &Self, fuel: &Fuel) -> Option<(bool, Bytes)> {
        let (mut meet, mut on) = (false, Bytes::default());
        let (mut seen, mut agenda) = (HashSet::new(), vec![(0, 0)]);
        while let Some((a, b)) = agenda.pop() {
            fuel.burn(4).then_some(())?;
            for &(these, to) in &self.0[a].moves {
                for &(those, other_to) in &other.0[b].moves {
                    fuel.burn(1).then_some(())?;
                    if these.meets(those) && seen.insert((to, other_to)) {
                        agenda.push((to, other_to));
                        if self.0[to].ends {
                            meet |= other.0[other_to].ends;
                            on.extend(other.firsts_at(other_to));
                        }
                    }
                }
            }
        }
        Some((meet, on))
    }
}

#[cfg(test)]
mod tests {
    use super::super::read::read;
    use super::*;

    fn with(text: &str, most: usize) -> Option<Automaton> {
        let grammar = read(&format!("root ::= {text}")).unwrap();
        Automaton::new(&grammar.rules[0].body, &grammar.rules, most, &Fuel::new(1 << 24))
    }

    fn of(text: &str) -> Automaton {
        with(text, 1000).unwrap()
    }

    fn beside(a: &str, b: &str) -> (bool, String) {
        let (meet, on) = of(a).beside(&of(b), &Fuel::new(1 << 20)).unwrap();
        (meet, (0..=255).filter(|&b| on.has(b)).map(char::from).collect())
    }

    #[test]
    fn what_goes_on_is_known() {
        assert_eq!(beside("\"if\"", "[a-z]+"), (true, ('a'..='z').collect()));
        assert_eq!(beside("[a-z]+", "\"if\""), (true, "f".into()));
        assert_eq!(beside("\"a\"", "\"b\""), (false, String::new()));
        assert_eq!(beside("\"a\" | \"bc\"", "\"ax\" | \"by\" | \"bcz\""), (false, "xz".into()));
        assert_eq!(beside("\"ab\"?", "\"ab\" \"c\"*"), (true, "c".into()));
        assert_eq!(beside("[a-c]{2,3}", "[a-c]{3,4}"), (true, "abc".into()));
        assert_eq!(beside("[a-c]{3}", "[a-c]{3}"), (true, String::new()));
        assert_eq!(beside("\"é\"", "\"èx\"").1, "x", "characters with one first byte are one");
        assert_eq!(beside("\"\\\"\" [^\"]* \"\\\"\"", "\"\\\"\" [^\"]* \"\\\"\""), (true, String::new()));
        assert!(of("[a-z]{3} \"x\"").beside(&of("[a-z]+"), &Fuel::new(10)).is_none());
        let firsts = of("(\"a\" | [x-z])* \"q\"").firsts();
        assert!((0..=255).filter(|&b| firsts.has(b)).eq(*b"aqxyz"));
    }

    #[test]
    fn lexers_that_would_be_large_are_known() {
        let small = |text: &str, most| with(text, most).is_some();
        assert!(small("[^\\n]{1,200} \"\\n\"", 202) && !small("[^\\n]{1,200} \"\\n\"", 200));
        assert!(small(". {0,50}", 52));
        assert!(!small("[ab]* \"a\" [ab]{12}", 1000), "it must remember twelve characters");
        assert!(small("\"yes\" | \"yellow\" | \"no\"", 12));
    }
}
