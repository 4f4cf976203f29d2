//! Writing what a grammar was lowered to as Lark: each thing once, nothing nested.

use super::lower::{Lowering, Shape, Term};
use super::node::Node;
use std::collections::{HashMap, HashSet};
use std::fmt::Write;

/// Most alternatives that are no terminal together. The parser keeps all that may come, and gives up at twice as many.
const MOST_ALTERNATIVES: usize = 1000;

/// Lark whose rule `start` derives what the rule `root` does; an error for what the parser would give up on.
pub(super) fn write(lowering: &Lowering<'_>, shapes: &[Shape], root: usize) -> Result<String, String> {
    Writer { lowering, shapes, named: HashMap::new(), widest: 0, out: String::new() }.write(root)
}

struct Writer<'a> {
    lowering: &'a Lowering<'a>,
    shapes: &'a [Shape],
    /// What was written for a rule, and its name.
    named: HashMap<String, String>,
    /// Most alternatives of anything.
    widest: usize,
    out: String,
}

impl Writer<'_> {
    fn write(mut self, root: usize) -> Result<String, String> {
        let _ = writeln!(self.out, "start: r{root}");
        let (mut seen, mut agenda) = (HashSet::new(), vec![Name::Rule(root)]);
        while let Some(name) = agenda.pop() {
            if !seen.insert(name) {
                continue;
            }
            match name {
                Name::Rule(rule) => {
                    let text = self.alternatives(&self.shapes[rule], &mut agenda);
                    let _ = writeln!(self.out, "r{rule}: {text}");
                }
                Name::Term(term) => {
                    let lowering = self.lowering;
                    let of = &lowering.terms[term];
                    match (&of.cut, &of.node) {
                        (Some(cut), _) => {
                            let text = self.alternatives(cut, &mut agenda);
                            let _ = writeln!(self.out, "t{term}: {text}");
                        }
                        (None, Node::Token(_)) => {}
                        (None, _) => {
                            let _ = writeln!(self.out, "T{term}: /{}/", of.written);
                        }
                    }
                }
            }
        }
        match self.widest > MOST_ALTERNATIVES {
            true => Err(format!(
                "a rule with {} alternatives that are recursive or may be read in more than one way; {MOST_ALTERNATIVES} are allowed",
                self.widest
            )),
            false => Ok(self.out),
        }
    }

    fn alternatives(&mut self, shape: &Shape, agenda: &mut Vec<Name>) -> String {
        match shape {
            Shape::Alt(parts) => {
                // Alternatives that are the same are one.
                let mut written = HashSet::new();
                let parts: Vec<String> = parts
                    .iter()
                    .map(|part| self.sequence(part, agenda))
                    .filter(|part| written.insert(part.clone()))
                    .collect();
                self.widest = self.widest.max(parts.len());
                parts.join(" | ")
            }
            _ => self.sequence(shape, agenda),
        }
    }

    fn sequence(&mut self, shape: &Shape, agenda: &mut Vec<Name>) -> String {
        match shape {
            Shape::Seq(parts) if parts.is_empty() => "\"\"".to_owned(),
            Shape::Seq(parts) => {
                let parts: Vec<String> = parts.iter().map(|part| self.repeated(part, agenda)).collect();
                parts.join(" ")
            }
            _ => self.repeated(shape, agenda),
        }
    }

    fn repeated(&mut self, shape: &Shape, agenda: &mut Vec<Name>) -> String {
        let Shape::Repeat(body, least, most) = shape else { return self.atom(shape, agenda) };
        let body = self.atom(body, agenda);
        match (least, most) {
            (0, None) => format!("{body}*"),
            (1, None) => format!("{body}+"),
            (0, Some(1)) => format!("{body}?"),
            (_, None) => format!("{body}{{{least},}}"),
            (_, Some(most)) => format!("{body}{{{least},{most}}}"),
        }
    }

    fn atom(&mut self, shape: &Shape, agenda: &mut Vec<Name>) -> String {
        match shape {
            Shape::Rule(rule) => {
                agenda.push(Name::Rule(*rule));
                format!("r{rule}")
            }
            Shape::Term(term) => {
                agenda.push(Name::Term(*term));
                match &self.lowering.terms[*term] {
                    Term { cut: Some(_), .. } => format!("t{term}"),
                    Term { node: Node::Token(name), .. } => name.clone(),
                    _ => format!("T{term}"),
                }
            }
            Shape::Seq(parts) if parts.is_empty() => "\"\"".to_owned(),
            _ => {
                let text = self.alternatives(shape, agenda);
                if let Some(name) = self.named.get(&text) {
                    return name.clone();
                }
                let name = format!("s{}", self.named.len());
                let _ = writeln!(self.out, "{name}: {text}");
                self.named.insert(text, name.clone());
                name
            }
        }
    }
}

/// What is to be written.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Name {
    Rule(usize),
    Term(usize),
}
