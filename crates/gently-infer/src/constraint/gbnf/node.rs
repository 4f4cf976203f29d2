//! What a rule says.

use std::fmt::Write;

/// What a text, or a part of it, may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Node {
    /// One character of a set.
    Chars(Chars),
    /// A special token, with its name's brackets: `<|name|>`.
    Token(String),
    /// What the rule with this index derives.
    Rule(usize),
    /// One after the other; nothing, if there are none.
    Seq(Vec<Node>),
    /// One of these.
    Alt(Vec<Node>),
    /// As often as this at least, and at most.
    Repeat(Box<Node>, u32, Option<u32>),
}

/// A rule.
#[derive(Debug)]
pub(super) struct Rule {
    pub(super) body: Node,
}

/// All rules; the text is what `root` derives.
#[derive(Debug)]
pub(super) struct Grammar {
    pub(super) rules: Vec<Rule>,
    pub(super) root: usize,
}

impl Node {
    /// Whatever parts it is made of directly.
    pub(super) fn parts(&self) -> &[Node] {
        match self {
            Self::Seq(parts) | Self::Alt(parts) => parts,
            Self::Repeat(body, ..) => std::slice::from_ref(&**body),
            Self::Chars(_) | Self::Token(_) | Self::Rule(_) => &[],
        }
    }

    /// Calls with every rule that it names.
    pub(super) fn each_rule(&self, call: &mut impl FnMut(usize)) {
        if let Self::Rule(rule) = self {
            call(*rule);
        }
        self.parts().iter().for_each(|part| part.each_rule(call));
    }
}

/// A set of characters that is not empty: ranges in order, none beside the next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Chars(Vec<(u32, u32)>);

/// Code points that are no characters.
const SURROGATES: (u32, u32) = (0xD800, 0xDFFF);

impl Chars {
    /// Characters of any of these ranges, or of none of them; `None`: there are none.
    pub(super) fn new(mut ranges: Vec<(u32, u32)>, negated: bool) -> Option<Self> {
        ranges.sort_unstable();
        let mut within: Vec<(u32, u32)> = Vec::new();
        for (first, last) in ranges {
            match within.last_mut() {
                Some(before) if first <= before.1.saturating_add(1) => before.1 = before.1.max(last),
                _ => within.push((first, last)),
            }
        }
        if negated {
            let firsts = std::iter::once(0).chain(within.iter().map(|r| r.1 + 1));
            let lasts = within.iter().map(|r| r.0.checked_sub(1)).chain([Some(char::MAX as u32)]);
            within = firsts.zip(lasts).filter_map(|(f, l)| Some((f, l?))).filter(|(f, l)| f <= l).collect();
        }
        let mut all = Vec::with_capacity(within.len() + 1);
        for (first, last) in within {
            let below = (first, last.min(SURROGATES.0 - 1));
            let above = (first.max(SURROGATES.1 + 1), last);
            all.extend([below, above].iter().filter(|r| r.0 <= r.1));
        }
        (!all.is_empty()).then_some(Self(all))
    }

    /// One character.
    pub(super) fn one(c: char) -> Self {
        Self(vec![(c as u32, c as u32)])
    }

    pub(super) fn ranges(&self) -> &[(u32, u32)] {
        &self.0
    }

    /// Writes the set as a regular expression.
    pub(super) fn write(&self, out: &mut String) {
        let one = |out: &mut String, c: u32| match char::from_u32(c) {
            Some(c) if c.is_ascii_alphanumeric() => out.push(c),
            _ => {
                let _ = write!(out, "\\x{{{c:X}}}");
            }
        };
        if let [(first, last)] = self.0[..]
            && first == last
        {
            return one(out, first);
        }
        out.push('[');
        for &(first, last) in &self.0 {
            one(out, first);
            if last > first {
                out.push('-');
                one(out, last);
            }
        }
        out.push(']');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_are_put_in_order() {
        let of = |ranges: &[(u32, u32)], negated| Chars::new(ranges.to_vec(), negated).map(|c| c.0);
        assert_eq!(of(&[(5, 9), (1, 2), (3, 4), (8, 20)], false), Some(vec![(1, 20)]));
        assert_eq!(of(&[(0, 9)], true), Some(vec![(10, 0xD7FF), (0xE000, 0x10FFFF)]));
        assert_eq!(of(&[(0x10FFFF, 0x10FFFF), (7, 7)], true), Some(vec![(0, 6), (8, 0xD7FF), (0xE000, 0x10FFFE)]));
        assert_eq!(of(&[(0xD900, 0xE001)], false), Some(vec![(0xE000, 0xE001)]));
        assert_eq!(of(&[], true), Some(vec![(0, 0xD7FF), (0xE000, 0x10FFFF)]));
        assert_eq!([of(&[], false), of(&[(0xD800, 0xD801)], false), of(&[(0, 0x10FFFF)], true)], [None, None, None]);
        let mut written = String::new();
        Chars::new(vec![(0x2F, 0x39), (0x41, 0x41)], false).unwrap().write(&mut written);
        assert_eq!(written, "[\\x{2F}-9A]");
    }
}
