//! From what a grammar says to Lark with the same language.
//!
//! The matcher has a lexer that takes the longest terminal among those that may come, and a parser (Earley's) that knows every
//! way in which the terminals taken may be read. One way of cutting the text into terminals is lost to it: where one ends, and a
//! longer one, or another that may come at the same place, goes on with what may follow. So:
//!
//! 1. Parts without recursion are terminals, as large as they can be ([`Lowering::shape`]).
//! 2. For each two that may come at one place it is found out by which bytes the second goes on after a text of the first; if one
//!    of these may follow the first, the second is cut into its parts ([`Lowering::refine`]). What may follow, and what may come
//!    at one place, is taken from the whole grammar without its contexts: rather too much than too little.
//! 3. Again, until there are no such two. Single characters are never two such: no character's bytes begin another's.
//!
//! What takes too long to find out is cut into characters, which is slower and as right.

use super::automaton::{Automaton, Bytes, Fuel};
use super::extent::{self, Extent, extents, iterate, prune};
use super::node::{Grammar, Node, Rule};
use super::write;
use std::collections::HashMap;
use std::fmt::Write;

/// States of a terminal's lexer for each of its characters.
const MOST_STATES: u64 = 4;
/// Parts in a row that may all be empty: without the empty text, a terminal of them is written as often as they are many.
const MOST_EMPTY: usize = 8;
/// Steps of finding out: some tenths of a second.
const FUEL: u64 = 10_000_000;

/// What a rule is to the parser.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Shape {
    Term(usize),
    Rule(usize),
    Seq(Vec<Shape>),
    Alt(Vec<Shape>),
    Repeat(Box<Shape>, u32, Option<u32>),
}

/// The empty text.
pub(super) static NOTHING: Shape = Shape::Seq(Vec::new());

impl Shape {
    fn seq(mut parts: Vec<Self>) -> Self {
        if parts.len() == 1 { parts.remove(0) } else { Self::Seq(parts) }
    }
}

/// A terminal, which never is the empty text.
pub(super) struct Term {
    pub(super) node: Node,
    pub(super) written: String,
    pub(super) automaton: Automaton,
    pub(super) firsts: Bytes,
    /// What it was cut into.
    pub(super) cut: Option<Shape>,
}

/// Lark whose rule `start` derives what `root` does; an error if that is nothing.
pub(super) fn lower(mut grammar: Grammar) -> Result<String, String> {
    if !prune(&mut grammar) {
        return Err("the rule root derives no text: each way to derive one names a rule again without end".into());
    }
    for index in 0..grammar.rules.len() {
        iterate(&mut grammar.rules[index], index);
    }
    let extents = extents(&grammar.rules, grammar.root);
    let mut lowering =
        Lowering { rules: &grammar.rules, extents, terms: Vec::new(), known: HashMap::new(), fuel: Fuel::new(FUEL) };
    let shapes: Vec<Shape> = grammar
        .rules
        .iter()
        .enumerate()
        .map(|(r, rule)| match lowering.extents[r].whole && r != grammar.root {
            true => NOTHING.clone(),
            false => lowering.shape(&rule.body),
        })
        .collect();
    lowering.refine(&shapes, grammar.root);
    write::write(&lowering, &shapes, grammar.root)
}

pub(super) struct Lowering<'a> {
    rules: &'a [Rule],
    extents: Vec<Extent>,
    pub(super) terms: Vec<Term>,
    known: HashMap<String, usize>,
    pub(super) fuel: Fuel,
}

impl Lowering<'_> {
    fn extent(&self, node: &Node) -> Extent {
        extent::extent(node, &self.extents)
    }

    /// A node with terminals as large as may be.
    fn shape(&mut self, node: &Node) -> Shape {
        if self.extent(node).fits() {
            return self.term(node);
        }
        match node {
            Node::Chars(_) | Node::Token(_) => self.term(node),
            Node::Rule(rule) if self.extents[*rule].whole => self.term(node),
            Node::Rule(rule) => Shape::Rule(*rule),
            Node::Repeat(body, least, most) => {
                let body = self.shape(body);
                Shape::Repeat(Box::new(body), *least, *most)
            }
            Node::Seq(parts) => Shape::seq(self.runs(parts, Node::Seq)),
            Node::Alt(parts) => {
                // Those that may be terminals beside each other, so that they are one.
                let (fit, others): (Vec<Node>, Vec<Node>) = parts.iter().cloned().partition(|p| self.extent(p).fits());
                Shape::Alt(self.runs(&[fit, others].concat(), Node::Alt))
            }
        }
    }

    /// Parts, those that may be one terminal together as one.
    fn runs(&mut self, parts: &[Node], join: fn(Vec<Node>) -> Node) -> Vec<Shape> {
        let (mut shapes, mut run) = (Vec::new(), Vec::new());
        let mut together = Extent::default();
        for part in parts {
            let extent = self.extent(part);
            if run.is_empty() {
                together = extent;
            } else {
                together = together.and(&extent);
                if !together.fits() {
                    shapes.push(self.joined(std::mem::take(&mut run), join));
                    together = extent;
                }
            }
            match extent.fits() {
                true => run.push(part.clone()),
                false => shapes.push(self.shape(part)),
            }
        }
        if !run.is_empty() {
            shapes.push(self.joined(run, join));
        }
        shapes
    }

    fn joined(&mut self, mut run: Vec<Node>, join: fn(Vec<Node>) -> Node) -> Shape {
        match run.len() {
            1 => self.term(&run.remove(0)),
            _ => self.term(&join(run)),
        }
    }

    /// A terminal, or its parts if it cannot be one. The node's rules are whole.
    fn term(&mut self, node: &Node) -> Shape {
        let extent = self.extent(node);
        if !extent.some {
            return NOTHING.clone();
        }
        let written = match node {
            Node::Token(name) => Some(name.clone()),
            // Each level looks at all that is below it.
            _ if !Automaton::is_character(node) && !self.fuel.burn(extent.weight as usize * (extent.height + 1)) => {
                None
            }
            _ => {
                let mut out = String::new();
                self.regex(node, true, &mut out).then_some(out)
            }
        };
        let Some(written) = written else { return self.cut(node) };
        let known = self.known.get(&written).copied();
        let index = match known {
            Some(index) => index,
            None => {
                let most = (MOST_STATES * (extent.size + 16)) as usize;
                let fuel = if Automaton::is_character(node) { &Fuel::new(FUEL) } else { &self.fuel };
                let Some(automaton) = Automaton::new(node, self.rules, most, fuel) else { return self.cut(node) };
                let firsts = automaton.firsts();
                self.terms.push(Term { node: node.clone(), written: written.clone(), automaton, firsts, cut: None });
                self.known.insert(written, self.terms.len() - 1);
                self.terms.len() - 1
            }
        };
        match extent.empty {
            true => Shape::Repeat(Box::new(Shape::Term(index)), 0, Some(1)),
            false => Shape::Term(index),
        }
    }

    /// A node as its parts, each a terminal.
    fn cut(&mut self, node: &Node) -> Shape {
        match node {
            Node::Chars(_) | Node::Token(_) => self.term(node),
            Node::Rule(rule) => {
                let rules = self.rules;
                self.cut(&rules[*rule].body)
            }
            Node::Seq(parts) if parts.len() == 1 => self.cut(&parts[0]),
            Node::Alt(parts) if parts.len() == 1 => self.cut(&parts[0]),
            Node::Seq(parts) => {
                // What may be longer or shorter at its end, such as white space, is most often all that is in the way.
                let loose = parts.iter().rev().take_while(|part| self.is_loose(part)).count();
                let (front, back) = parts.split_at(if loose < parts.len() { parts.len() - loose } else { 0 });
                let front = match (front.len(), loose) {
                    (2.., 1..) => vec![self.term(&Node::Seq(front.to_vec()))],
                    _ => front.iter().map(|part| self.term(part)).collect(),
                };
                let back: Vec<Shape> = back.iter().map(|part| self.term(part)).collect();
                Shape::Seq([front, back].concat())
            }
            Node::Alt(parts) => Shape::Alt(parts.iter().map(|part| self.term(part)).collect()),
            Node::Repeat(body, least, most) => match self.term(body) {
                // Nothing as often as one likes is nothing.
                Shape::Repeat(body, 0, Some(1)) => Shape::Repeat(body, 0, *most),
                body => Shape::Repeat(Box::new(body), *least, *most),
            },
        }
    }

    fn is_loose(&self, node: &Node) -> bool {
        match node {
            Node::Repeat(..) => true,
            Node::Rule(rule) => self.is_loose(&self.rules[*rule].body),
            _ => self.extent(node).empty,
        }
    }

    /// Writes a regular expression; `some`: of the texts that are not empty. `false`: that would be long.
    fn regex(&self, node: &Node, some: bool, out: &mut String) -> bool {
        let empty = self.extent(node).empty;
        let some = some && empty;
        match node {
            Node::Chars(chars) => chars.write(out),
            Node::Token(_) => return false,
            Node::Rule(rule) => return self.regex(&self.rules[*rule].body, some, out),
            Node::Seq(parts) if some => {
                // What is first not empty, and whatever follows it.
                if parts.len() > MOST_EMPTY {
                    return false;
                }
                out.push_str("(?:");
                let some = parts.iter().enumerate().filter(|(_, p)| self.extent(p).some);
                for (count, (at, part)) in some.enumerate() {
                    out.push_str(if count > 0 { "|" } else { "" });
                    if !self.regex(part, true, out) || !parts[at + 1..].iter().all(|p| self.regex(p, false, out)) {
                        return false;
                    }
                }
                out.push(')');
            }
            Node::Seq(parts) => {
                out.push_str("(?:");
                if !parts.iter().all(|part| self.regex(part, false, out)) {
                    return false;
                }
                out.push(')');
            }
            Node::Alt(parts) => {
                out.push_str("(?:");
                for (count, part) in parts.iter().filter(|p| !some || self.extent(p).some).enumerate() {
                    out.push_str(if count > 0 { "|" } else { "" });
                    if !self.regex(part, some, out) {
                        return false;
                    }
                }
                out.push(')');
            }
            Node::Repeat(body, least, most) => {
                out.push_str("(?:");
                if !self.regex(body, some, out) {
                    return false;
                }
                out.push(')');
                let least = if some { 1 } else { *least };
                let _ = match (least, most) {
                    (0, None) => write!(out, "*"),
                    (1, None) => write!(out, "+"),
                    (_, None) => write!(out, "{{{least},}}"),
                    (_, Some(most)) => write!(out, "{{{least},{most}}}"),
                };
            }
        }
        true
    }

    /// Cuts terminals until each text is read in every way that there is.
    fn refine(&mut self, shapes: &[Shape], root: usize) {
        loop {
            let wrong = match self.conflicts(shapes, root) {
                Some(wrong) => wrong,
                // That took too long.
                None => (0..self.terms.len()).filter(|&t| !Automaton::is_character(&self.terms[t].node)).collect(),
            };
            let mut cut = false;
            for term in wrong {
                if self.terms[term].cut.is_none() {
                    let node = self.terms[term].node.clone();
                    self.terms[term].cut = Some(self.cut(&node));
                    cut = true;
                }
            }
            if !cut {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::to_lark;

    /// How many terminals a grammar has that are more than a character, and that are one.
    fn terminals(text: &str) -> (usize, usize) {
        let lark = to_lark(text).unwrap();
        let all = lark.lines().filter_map(|l| l.strip_prefix('T')?.split_once(": ").map(|t| t.1));
        let (one, more): (Vec<&str>, Vec<&str>) = all.partition(|t| {
            t.trim_matches('/').strip_prefix("[").is_some_and(|t| t.find(']') == Some(t.len() - 1)) || t.len() <= 9
        });
        (more.len(), one.len())
    }

    #[test]
    fn what_is_not_recursive_is_one_terminal() {
        assert_eq!(to_lark("root ::= \"a\" [b-d]").unwrap(), "start: r0\nr0: T0\nT0: /(?:a[b-d])/\n");
        assert_eq!(to_lark("root ::= \"/\"?").unwrap(), "start: r0\nr0: T0?\nT0: /(?:\\x{2F}){1,1}/\n");
        assert_eq!(to_lark("root ::= \"\"").unwrap(), "start: r0\nr0: \"\"\n");
        assert_eq!(terminals("root ::= [a-z]+ [a-z]"), (1, 0));
        assert_eq!(terminals("root ::= word (\" \" word)*\nword ::= [a-z] word | [a-z]"), (1, 0));
        let many: Vec<String> = (0..5000).map(|i| format!("\"w{i}\"")).collect();
        assert_eq!(terminals(&format!("root ::= {}", many.join(" | "))), (1, 0));
        assert_eq!(terminals(&format!("root ::= \"(\" root \")\" | {}", many.join(" | "))), (1, 2));
    }

    #[test]
    fn strings_and_numbers_stay_whole_in_what_is_recursive() {
        let rest = "string ::= \"\\\"\" ([^\"\\\\] | \"\\\\\" [nrt])* \"\\\"\" ws\nnumber ::= [0-9]+ (\".\" [0-9]+)? ws\nws ::= [ \\n]*";
        let array = "root ::= \"[\" ws (value (\",\" ws value)*)? \"]\" ws\nvalue ::= root | string | number\n";
        assert_eq!(
            terminals(&[array, rest].concat()),
            (4, 0),
            "[, what is no list, a comma, ]; each with its white space"
        );
        // White space twice in a row may be cut anywhere: that of brackets alone.
        let again = array.replace("\"]\" ws", "ws \"]\" ws ws");
        assert!(
            to_lark(&[&again, rest].concat()).unwrap().contains("/(?:\\x{22}(?:(?:["),
            "a string is whole, and white space is characters"
        );
    }

    #[test]
    fn what_is_in_the_way_is_cut() {
        // A name may go on with what follows `if`, and `if` with what a name's character begins.
        let text = "root ::= \"if\" root | name \";\" | \"(\" root \")\"\nname ::= [a-z]+";
        assert_eq!(terminals(text).0, 0);
        assert_eq!(terminals(&text.replace("\"if\"", "\"?\"")).0, 1);
    }
}
