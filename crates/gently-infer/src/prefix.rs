//! States of earlier sequences, for new ones that begin alike.
//!
//! Here: [`PrefixCache`], bounded by bytes. A sequence takes over the longest beginning that any kept state shares with
//! it, token by token, not block by block. Since a token's numbers do not depend on how its sequence was cut, what is
//! taken over has the bits that reading it again would give. Not here: when to ask (see [`crate::Scheduler`]).

use crate::plan::Plan;
use crate::state::State;
use gently_kernels::kv::Page;
use std::collections::HashMap;
use std::sync::Arc;

/// Kept states, the least recently used of which go first.
#[derive(Debug, Default)]
pub struct PrefixCache {
    budget: usize,
    entries: Vec<Entry>,
    clock: u64,
    /// Bytes of the pages held, each counted once.
    held: usize,
}

#[derive(Debug)]
struct Entry {
    state: State,
    used: u64,
}

impl PrefixCache {
    /// A cache that holds at most `budget` bytes of pages; pages that entries share count once. 0 keeps nothing.
    pub fn new(budget: usize) -> Self {
        Self { budget, ..Self::default() }
    }

    /// A fork of a kept state of `plan`, cut to the longest beginning that it shares with `tokens`, of at most `most` tokens.
    pub fn lookup(&mut self, plan: &Plan, tokens: &[u32], most: usize) -> Option<State> {
        let tokens = &tokens[..most.min(tokens.len())];
        let common = |e: &Entry| if plan.owns(&e.state) { e.state.common(tokens) } else { 0 };
        // Among equals the first: the choice does not depend on anything but the entries.
        let (best, len) = self.entries.iter().map(common).enumerate().rev().max_by_key(|(_, len)| *len)?;
        if len == 0 {
            return None;
        }
        self.clock += 1;
        self.entries[best].used = self.clock;
        let mut state = self.entries[best].state.clone();
        state.keep_common(tokens);
        Some(state)
    }

    /// Keeps a state, in place of those of its plan that are its beginnings.
    pub fn insert(&mut self, state: State) {
        if state.is_empty() || state.bytes() > self.budget {
            return;
        }
        self.clock += 1;
        let begins = |long: &State, short: &State| long.alike(short) && long.tokens().starts_with(short.tokens());
        if let Some(longer) = self.entries.iter_mut().find(|e| begins(&e.state, &state)) {
            longer.used = self.clock;
            return;
        }
        self.entries.retain(|e| !begins(&state, &e.state));
        self.entries.push(Entry { state, used: self.clock });
        self.held = self.count();
        while self.held > self.budget {
            let Some(oldest) = (0..self.entries.len()).min_by_key(|i| self.entries[*i].used) else { return };
            self.entries.remove(oldest);
            self.held = self.count();
        }
    }

    /// Bytes of the pages held, each counted once.
    pub fn bytes(&self) -> usize {
        self.held
    }

    fn count(&self) -> usize {
        let pages = self.entries.iter().flat_map(|e| e.state.pages());
        let unique: HashMap<*const Page, usize> = pages.map(|p| (Arc::as_ptr(p), p.shape().bytes())).collect();
        unique.values().sum()
    }

    /// Number of states held.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether nothing is held.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.entries.clear();
        self.held = 0;
    }
}
