//! Where terminals stand in what a grammar derives, and which of them are in the way of others.

use super::automaton::Bytes;
use super::lower::{Lowering, NOTHING, Shape};
use std::collections::HashSet;

impl Lowering<'_> {
    /// Terminals that go on with what may follow another one. `None`: that is too much work.
    pub(super) fn conflicts(&self, shapes: &[Shape], root: usize) -> Option<HashSet<usize>> {
        let places = Places::new(self, shapes, root)?;
        let terms = self.terms.len();
        let follows: Vec<Bytes> = (0..terms)
            .map(|t| {
                let mut bytes = Bytes::default();
                places.after[t].each(|next| bytes.extend(self.terms[next].firsts));
                bytes
            })
            .collect();
        // Which may come at one place: those that begin the text, and those that follow what may be read as either.
        let mut beside = vec![Set::new(terms); terms];
        let mut agenda = Vec::new();
        let mut meet = |these: &Set, those: &Set, agenda: &mut Vec<(usize, usize)>| {
            let mut fine = true;
            these.each(|a| {
                fine &= self.fuel.burn(terms / 64 + 1);
                if fine {
                    let new = beside[a].extend(those);
                    new.each(|b| agenda.push((a, b)));
                }
            });
            fine.then_some(())
        };
        meet(&places.first, &places.first, &mut agenda)?;
        let mut wrong = HashSet::new();
        while let Some((a, b)) = agenda.pop() {
            let (one, other) = (&self.terms[a], &self.terms[b]);
            if !one.firsts.meets(other.firsts) {
                self.fuel.burn(1).then_some(())?;
                continue;
            }
            let (meets, on) = one.automaton.beside(&other.automaton, &self.fuel)?;
            if on.meets(follows[a]) {
                wrong.insert(b);
            }
            if meets {
                meet(&places.after[a], &places.after[b], &mut agenda)?;
                meet(&places.after[b], &places.after[a], &mut agenda)?;
            }
        }
        Some(wrong)
    }
}

/// A set of terminals.
#[derive(Clone, PartialEq, Eq)]
struct Set(Vec<u64>);

impl Set {
    fn new(terms: usize) -> Self {
        Self(vec![0; terms.div_ceil(64)])
    }

    fn add(&mut self, at: usize) -> bool {
        let new = self.0[at / 64] >> (at % 64) & 1 == 0;
        self.0[at / 64] |= 1 << (at % 64);
        new
    }

    /// Adds others; gives those that are new.
    fn extend(&mut self, other: &Self) -> Self {
        let new = self.0.iter_mut().zip(&other.0).map(|(a, b)| {
            let new = b & !*a;
            *a |= b;
            new
        });
        Self(new.collect())
    }

    fn is_empty(&self) -> bool {
        self.0.iter().all(|w| *w == 0)
    }

    fn each(&self, mut call: impl FnMut(usize)) {
        for (at, &word) in self.0.iter().enumerate() {
            let mut word = word;
            while word != 0 {
                call(at * 64 + word.trailing_zeros() as usize);
                word &= word - 1;
            }
        }
    }
}

/// Where terminals stand in what is derived.
struct Places<'a> {
    lowering: &'a Lowering<'a>,
    shapes: &'a [Shape],
    /// Rules that are reached, then (from the number of rules on) terminals that were cut; the names that are below.
    order: Vec<usize>,
    empty: Vec<bool>,
    begins: Vec<Set>,
    follow: Vec<Set>,
    /// Which may begin the text.
    first: Set,
    /// Which may come after each.
    after: Vec<Set>,
}

impl<'a> Places<'a> {
    fn new(lowering: &'a Lowering<'a>, shapes: &'a [Shape], root: usize) -> Option<Self> {
        let (terms, names) = (lowering.terms.len(), shapes.len() + lowering.terms.len());
        // Sets are of terminals, for each name twice.
        lowering.fuel.burn(names.saturating_mul(terms) / 4).then_some(())?;
        let none = Set::new(terms);
        let mut this = Self {
            lowering,
            shapes,
            order: Vec::new(),
            empty: vec![false; names],
            begins: vec![none.clone(); names],
            follow: vec![none.clone(); names],
            first: none.clone(),
            after: vec![none; terms],
        };
        let (mut seen, mut agenda) = (vec![false; names], vec![root]);
        while let Some(name) = agenda.pop() {
            if !std::mem::replace(&mut seen[name], true) {
                this.order.push(name);
                this.named(this.body(name), &mut agenda);
            }
        }
        // What is named comes later: so it is known first, more or less.
        loop {
            let mut changed = false;
            for at in (0..this.order.len()).rev() {
                let name = this.order[at];
                let (first, empty) = this.firsts(this.body(name))?;
                changed |= empty != this.empty[name] || !this.begins[name].extend(&first).is_empty();
                this.empty[name] = empty;
            }
            if !changed {
                break;
            }
        }
        loop {
            let mut changed = false;
            for at in 0..this.order.len() {
                let name = this.order[at];
                let follow = this.follow[name].clone();
                changed |= this.follows(this.body(name), &follow)?.0;
            }
            if !changed {
                break;
            }
        }
        this.first = this.begins[root].clone();
        Some(this)
    }

    fn body(&self, name: usize) -> &'a Shape {
        match self.shapes.get(name) {
            Some(shape) => shape,
            None => self.lowering.terms[name - self.shapes.len()].cut.as_ref().unwrap_or(&NOTHING),
        }
    }

    /// The name of a rule or of a terminal that was cut.
    fn name(&self, shape: &Shape) -> Option<usize> {
        match shape {
            Shape::Rule(rule) => Some(*rule),
            Shape::Term(term) if self.lowering.terms[*term].cut.is_some() => Some(self.shapes.len() + term),
            _ => None,
        }
    }

    fn named(&self, shape: &Shape, out: &mut Vec<usize>) {
        out.extend(self.name(shape));
        match shape {
            Shape::Seq(parts) | Shape::Alt(parts) => parts.iter().for_each(|part| self.named(part, out)),
            Shape::Repeat(body, ..) => self.named(body, out),
            Shape::Term(_) | Shape::Rule(_) => {}
        }
    }

    /// Terminals that a shape may begin with, and whether it may be empty, as far as is known.
    fn firsts(&self, shape: &Shape) -> Option<(Set, bool)> {
        let terms = self.lowering.terms.len();
        self.lowering.fuel.burn(terms / 64 + 1).then_some(())?;
        if let Some(name) = self.name(shape) {
            return Some((self.begins[name].clone(), self.empty[name]));
        }
        let mut set = Set::new(terms);
        let empty = match shape {
            Shape::Term(term) => {
                set.add(*term);
                false
            }
            Shape::Rule(_) => false,
            Shape::Seq(parts) => {
                let mut empty = true;
                for part in parts {
                    let (first, may) = self.firsts(part)?;
                    set.extend(&first);
                    empty &= may;
                    if !empty {
                        break;
                    }
                }
                empty
            }
            Shape::Alt(parts) => {
                let mut empty = false;
                for part in parts {
                    let (first, may) = self.firsts(part)?;
                    set.extend(&first);
                    empty |= may;
                }
                empty
            }
            Shape::Repeat(body, least, _) => {
                let (first, may) = self.firsts(body)?;
                set = first;
                may || *least == 0
            }
        };
        Some((set, empty))
    }

    /// Tells a shape's parts what may follow; gives whether that was news, and what the shape may begin with and be empty.
    fn follows(&mut self, shape: &Shape, follow: &Set) -> Option<(bool, Set, bool)> {
        self.lowering.fuel.burn(follow.0.len() + 1).then_some(())?;
        if let Some(name) = self.name(shape) {
            let news = !self.follow[name].extend(follow).is_empty();
            return Some((news, self.begins[name].clone(), self.empty[name]));
        }
        match shape {
            Shape::Term(term) => {
                let news = !self.after[*term].extend(follow).is_empty();
                let mut first = Set::new(self.lowering.terms.len());
                first.add(*term);
                Some((news, first, false))
            }
            Shape::Rule(_) => None,
            Shape::Seq(parts) => {
                let (mut news, mut follow, mut empty) = (false, follow.clone(), true);
                let mut first = Set::new(self.lowering.terms.len());
                for part in parts.iter().rev() {
                    let (new, begins, may) = self.follows(part, &follow)?;
                    news |= new;
                    empty &= may;
                    if !may {
                        follow = begins;
                        first = follow.clone();
                    } else {
                        follow.extend(&begins);
                        first.extend(&begins);
                    }
                }
                Some((news, first, empty))
            }
            Shape::Alt(parts) => {
                let (mut news, mut empty) = (false, false);
                let mut first = Set::new(self.lowering.terms.len());
                for part in parts {
                    let (new, begins, may) = self.follows(part, follow)?;
                    news |= new;
                    empty |= may;
                    first.extend(&begins);
                }
                Some((news, first, empty))
            }
            Shape::Repeat(body, least, most) => {
                let mut again = follow.clone();
                if *most != Some(1) {
                    again.extend(&self.firsts(body)?.0);
                }
                let (news, first, may) = self.follows(body, &again)?;
                Some((news, first, may || *least == 0))
            }
        }
    }
}
