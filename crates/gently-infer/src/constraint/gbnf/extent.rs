//! Which parts of a grammar may be terminals: how large they are, and what of recursion is repetition.

use super::node::{Grammar, Node, Rule};
use super::read::MOST_HEIGHT;

/// Most characters of a terminal, repetitions counted, or else twice what they are without: its lexer has about as many states.
const MOST_SIZE: u64 = 1024;
/// A rule that is named in several places is copied to each of them if it has at most so many characters.
const MOST_COPIED: [u64; 3] = [256, 16, 0];
/// Most characters after that.
const MOST_COPIES: u64 = 100_000;

/// How much there is in a node.
#[derive(Clone, Copy, Default)]
pub(super) struct Extent {
    /// Whether it may be part of a terminal.
    pub(super) whole: bool,
    /// Whether it may be empty, and whether it may be anything else.
    pub(super) empty: bool,
    pub(super) some: bool,
    /// Characters and alternatives, repetitions counted, and not.
    pub(super) size: u64,
    pub(super) weight: u64,
    pub(super) height: usize,
}

impl Extent {
    /// Whether it may be a terminal.
    pub(super) fn fits(&self) -> bool {
        self.whole && self.size <= MOST_SIZE.max(2 * self.weight) && self.height <= MOST_HEIGHT
    }

    /// One after the other, or one or the other.
    pub(super) fn and(&self, other: &Self) -> Self {
        Self {
            whole: self.whole && other.whole,
            empty: self.empty && other.empty,
            some: self.some || other.some,
            size: self.size.saturating_add(other.size),
            weight: self.weight.saturating_add(other.weight),
            height: self.height.max(other.height),
        }
    }
}

/// Which rules may be part of terminals, those that they name first.
pub(super) fn extents(rules: &[Rule], root: usize) -> Vec<Extent> {
    let users = users(rules);
    let mut names = vec![0usize; rules.len()];
    users.iter().flatten().for_each(|&user| names[user] += 1);
    let mut all = Vec::new();
    for most in MOST_COPIED {
        all = vec![Extent::default(); rules.len()];
        let mut waiting = names.clone();
        let mut agenda: Vec<usize> = (0..rules.len()).filter(|&r| waiting[r] == 0).collect();
        // What is left in the end is recursive, or names what is.
        while let Some(index) = agenda.pop() {
            let mut extent = extent(&rules[index].body, &all);
            extent.whole = extent.fits() && (users[index].len() <= 1 || extent.weight <= most || index == root);
            all[index] = extent;
            for &user in &users[index] {
                waiting[user] -= 1;
                if waiting[user] == 0 {
                    agenda.push(user);
                }
            }
        }
        let weights = rules.iter().map(|rule| extent(&rule.body, &all).weight);
        if weights.fold(0, u64::saturating_add) <= MOST_COPIES {
            break;
        }
    }
    all
}

pub(super) fn extent(node: &Node, rules: &[Extent]) -> Extent {
    let parts: Vec<Extent> = node.parts().iter().map(|part| extent(part, rules)).collect();
    // Alternatives count if they are empty, too.
    let sum = |empty: bool, least: u64| {
        let one =
            |p: &Extent| Extent { size: p.size.max(least), weight: p.weight.max(least), height: p.height + 1, ..*p };
        let all = parts.iter().fold(Extent { whole: true, ..Extent::default() }, |all, part| all.and(&one(part)));
        Extent { empty, ..all }
    };
    match node {
        Node::Chars(chars) => {
            let size = 1 + chars.ranges().len() as u64 / 8;
            Extent { whole: true, some: true, size, weight: size, ..Extent::default() }
        }
        Node::Token(_) => Extent { some: true, size: 1, weight: 1, ..Extent::default() },
        Node::Rule(rule) => match rules[*rule] {
            of if of.whole => Extent { height: of.height + 1, ..of },
            _ => Extent { some: true, size: 1, weight: 1, ..Extent::default() },
        },
        Node::Seq(_) => sum(parts.iter().all(|p| p.empty), 0),
        Node::Alt(_) => sum(parts.iter().any(|p| p.empty), 1),
        Node::Repeat(_, least, most) => {
            let body = sum(*least == 0 || parts.iter().all(|p| p.empty), 1);
            let times = most.unwrap_or(*least).max(1);
            Extent { size: body.size.saturating_mul(u64::from(times)), ..body }
        }
    }
}

/// Leaves out what derives no text, since each of its ways names itself again: a text that began so could never end. `false`: that
/// is all there is.
pub(super) fn prune(grammar: &mut Grammar) -> bool {
    let rules = &mut grammar.rules;
    let users = users(rules);
    let mut fine = vec![false; rules.len()];
    let mut agenda: Vec<usize> = (0..rules.len()).rev().collect();
    while let Some(index) = agenda.pop() {
        if !fine[index] && derives(&rules[index].body, &fine) {
            fine[index] = true;
            agenda.extend(users[index].iter().filter(|&&user| !fine[user]));
        }
    }
    for rule in rules {
        let body = std::mem::replace(&mut rule.body, Node::Seq(Vec::new()));
        rule.body = pruned(body, &fine).unwrap_or(Node::Seq(Vec::new()));
    }
    fine[grammar.root]
}

fn derives(node: &Node, fine: &[bool]) -> bool {
    match node {
        Node::Chars(_) | Node::Token(_) => true,
        Node::Rule(rule) => fine[*rule],
        Node::Seq(parts) => parts.iter().all(|part| derives(part, fine)),
        Node::Alt(parts) => parts.iter().any(|part| derives(part, fine)),
        Node::Repeat(body, least, _) => *least == 0 || derives(body, fine),
    }
}

fn pruned(node: Node, fine: &[bool]) -> Option<Node> {
    if !derives(&node, fine) {
        return None;
    }
    Some(match node {
        Node::Seq(parts) => Node::Seq(parts.into_iter().filter_map(|part| pruned(part, fine)).collect()),
        Node::Alt(parts) => Node::Alt(parts.into_iter().filter_map(|part| pruned(part, fine)).collect()),
        Node::Repeat(body, least, most) => match pruned(*body, fine) {
            Some(body) => Node::Repeat(Box::new(body), least, most),
            None => Node::Seq(Vec::new()),
        },
        node => node,
    })
}

/// Which rules name each rule, once for each time.
fn users(rules: &[Rule]) -> Vec<Vec<usize>> {
    let mut users = vec![Vec::new(); rules.len()];
    for (index, rule) in rules.iter().enumerate() {
        rule.body.each_rule(&mut |r| users[r].push(index));
    }
    users
}

/// Recursion at one end becomes repetition, which a terminal can be, and for which the parser keeps no stack.
pub(super) fn iterate(rule: &mut Rule, index: usize) {
    let mut alternatives = Vec::new();
    flatten(&rule.body, &mut alternatives);
    let names = |nodes: &[Node]| {
        let mut count = 0;
        nodes.iter().for_each(|n| n.each_rule(&mut |r| count += usize::from(r == index)));
        count
    };
    let (mut ends, mut before, mut after) = (Vec::new(), Vec::new(), Vec::new());
    for sequence in alternatives {
        match (names(&sequence), &sequence[..]) {
            (0, _) => ends.push(Node::Seq(sequence)),
            // Derives nothing new.
            (1, [Node::Rule(_)]) => {}
            (1, [front @ .., Node::Rule(r)]) if *r == index => before.push(Node::Seq(front.to_vec())),
            (1, [Node::Rule(r), back @ ..]) if *r == index => after.push(Node::Seq(back.to_vec())),
            _ => return,
        }
    }
    let many = |nodes| Node::Repeat(Box::new(Node::Alt(nodes)), 0, None);
    let end = |nodes: Vec<Node>| if nodes.len() == 1 { nodes.into_iter().next() } else { Some(Node::Alt(nodes)) };
    rule.body = match (ends.is_empty(), before.is_empty(), after.is_empty()) {
        (false, false, true) => Node::Seq([many(before)].into_iter().chain(end(ends)).collect()),
        (false, true, false) => Node::Seq(end(ends).into_iter().chain([many(after)]).collect()),
        _ => return,
    };
}

/// The alternatives of a rule, each a sequence.
fn flatten(node: &Node, out: &mut Vec<Vec<Node>>) {
    match node {
        Node::Alt(parts) => parts.iter().for_each(|part| flatten(part, out)),
        Node::Repeat(body, 0, Some(1)) => {
            out.push(Vec::new());
            flatten(body, out);
        }
        Node::Seq(parts) => out.push(parts.clone()),
        _ => out.push(vec![node.clone()]),
    }
}
