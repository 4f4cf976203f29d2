//! How likely continuations are after a context, many at once.
//!
//! Here: cutting text into context and continuation tokens, the left truncation, and passes in which the continuations of many
//! contexts are read together, each context once. Rows do not depend on their company ([`gently_infer::Plan::forward`]), so
//! neither do these numbers. Not here: what is asked (see [`super::Run`]).

use super::error::Result;
use crate::text_model::TextModel;
use gently_infer::{Failure, Piece, Plan, PrefixCache, State, Wanted, Work, check_logits};
use gently_models::sampling::logprobs;
use gently_text::Tokenizer;

/// Rows of a pass whose logits are wanted: a bound on memory.
const WANTED_ROWS: usize = 128;
/// Other rows of a pass.
const ROWS: usize = 384;
/// Beginnings that several contexts share are read first when they have at least this many tokens.
const SHARED: usize = 16;
/// Most bytes of states kept from one batch to the next.
const KEPT: usize = 256 << 20;

/// Tokens whose likelihood is asked for, and those before them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    /// What comes before; at least one token.
    pub context: Vec<u32>,
    /// What is scored; at least one token.
    pub continuation: Vec<u32>,
}

/// How likely a continuation is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Likelihood {
    /// The sum of the natural log-probabilities of its tokens.
    pub sum: f64,
    /// How many they are.
    pub tokens: usize,
    /// Whether each is the likeliest token at its place.
    pub greedy: bool,
    /// Whether the context lost its beginning, because the model's context is shorter.
    pub cut: bool,
}

/// Turns texts into pairs as lm-evaluation-harness does.
pub struct Cutter<'a> {
    tokenizer: &'a Tokenizer,
    prefix: Option<u32>,
}

impl<'a> Cutter<'a> {
    /// For a model's tokenizer.
    ///
    /// # Errors
    /// A tokenizer that fails.
    pub fn new(model: &'a TextModel) -> Result<Self> {
        let tokenizer = model.tokenizer();
        Ok(Self { tokenizer, prefix: tokenizer.beginning()? })
    }

    /// The tokens of a context and its continuation: white space at the context's end goes to the continuation, the whole is
    /// encoded, and what the context alone is encoded to is cut off. An empty context is the token that begins texts. `None`
    /// where the continuation has no tokens of its own, or nothing can stand before it.
    ///
    /// # Errors
    /// Text that the tokenizer refuses.
    pub fn pair(&self, context: &str, continuation: &str) -> Result<Option<Pair>> {
        // As Python's rstrip.
        let kept = context.trim_end_matches(|c: char| c.is_whitespace() || ('\x1c'..='\x1f').contains(&c));
        let pair = if kept.is_empty() {
            let whole = format!("{context}{continuation}");
            let ids = self.tokenizer.encode_with_specials(&whole)?;
            match (self.prefix, ids.first()) {
                (Some(prefix), Some(first)) if *first == prefix => {
                    Pair { context: vec![prefix], continuation: ids[1..].to_vec() }
                }
                (Some(prefix), _) => Pair { context: vec![prefix], continuation: ids },
                (None, _) => return Ok(None),
            }
        } else {
            let whole = self.tokenizer.encode_prompt(&format!("{context}{continuation}"))?;
            let alone = self.tokenizer.encode_prompt(kept)?;
            Pair { continuation: whole.get(alone.len()..).unwrap_or(&[]).to_vec(), context: alone }
        };
        Ok((!pair.continuation.is_empty()).then_some(pair))
    }

    /// A whole text after the token that begins texts, in windows of `room` tokens: each token is scored once, in the first
    /// window that reaches it, and the last window reaches back as far as it can. The token that begins texts is not scored,
    /// also where the tokenizer puts it in front of every text, or the text spells it. Where no token begins texts, the first of
    /// the text does. Empty where no token is left to score.
    ///
    /// # Errors
    /// Text that the tokenizer refuses.
    pub fn windows(&self, text: &str, room: usize) -> Result<Vec<Pair>> {
        let ids = self.tokenizer.encode_prompt(text)?;
        let (prefix, ids) = match (self.prefix, &ids[..]) {
            // It is there already: a second one would be scored, and stands before no text that a model learned from.
            (Some(prefix), [first, rest @ ..]) if *first == prefix => (prefix, rest),
            (Some(prefix), ids) => (prefix, ids),
            (None, [first, rest @ ..]) => (*first, rest),
            (None, []) => return Ok(Vec::new()),
        };
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let first = ids.len().min(room);
        let mut pairs = vec![Pair { context: vec![prefix], continuation: ids[..first].to_vec() }];
        let mut done = first;
        while done < ids.len() {
            let end = ids.len().min(done + room);
            let start = (end - room).saturating_sub(1);
            pairs.push(Pair { context: ids[start..done].to_vec(), continuation: ids[done..end].to_vec() });
            done = end;
        }
        Ok(pairs)
    }
}

/// Reads pairs with a plan.
pub struct Scorer<'a> {
    plan: &'a Plan,
    work: Work,
    beginnings: PrefixCache,
}

/// A sequence on its way through the model.
struct Job {
    state: State,
    tokens: Vec<u32>,
    /// Tokens read.
    at: usize,
    /// Logits are wanted after tokens from here on.
    from: usize,
}

/// A distinct input of a group: its tokens, and what is asked of it.
struct Input {
    tokens: Vec<u32>,
    /// Pair, and the row whose logits say how likely its first token is.
    asked: Vec<(usize, usize)>,
}

impl<'a> Scorer<'a> {
    /// A scorer that has read nothing.
    pub fn new(plan: &'a Plan) -> Self {
        Self { plan, work: Work::new(), beginnings: PrefixCache::new(KEPT) }
    }

    /// The likelihoods of groups of pairs. The pairs of a group should begin alike: what they share is read once.
    ///
    /// # Errors
    /// From the model; a continuation longer than the model's context is [`gently_infer::Error::Tokens`], and logits that mean
    /// nothing are [`gently_infer::Error::NotNumbers`].
    pub fn score(&mut self, groups: &[Vec<Pair>]) -> Result<Vec<Vec<Likelihood>>> {
        let room = self.plan.room().unwrap_or(usize::MAX - 1);
        let mut found: Vec<Vec<Likelihood>> = Vec::new();
        let mut inputs: Vec<(usize, Vec<Input>)> = Vec::new();
        for pairs in groups {
            let mut distinct: Vec<Input> = Vec::new();
            let mut fresh = Vec::new();
            for (i, pair) in pairs.iter().enumerate() {
                let (tokens, cut) = input(pair, room)?;
                let first = tokens.len() - pair.continuation.len();
                match distinct.iter_mut().find(|d| d.tokens == tokens) {
                    Some(same) => same.asked.push((i, first)),
                    None => distinct.push(Input { tokens, asked: vec![(i, first)] }),
                }
                fresh.push(Likelihood { sum: 0.0, tokens: pair.continuation.len(), greedy: true, cut });
            }
            found.push(fresh);
            // What all have in common, before the first row that is wanted.
            let first = distinct.iter().flat_map(|d| d.asked.iter().map(|a| a.1)).min().unwrap_or(0);
            let shared = common(distinct.iter().map(|d| &d.tokens[..])).min(first);
            inputs.push((shared, distinct));
        }
        let mut states = self.contexts(&inputs)?;

        let mut jobs = Vec::new();
        let mut owners = Vec::new();
        for (group, ((shared, distinct), state)) in inputs.iter().zip(states.drain(..)).enumerate() {
            for (d, input) in distinct.iter().enumerate() {
                let from = input.asked.iter().map(|a| a.1).min().unwrap_or(0) - shared;
                jobs.push(Job { state: state.clone(), tokens: input.tokens[*shared..].to_vec(), at: 0, from });
                owners.push((group, d));
            }
        }
        let mut sound: Result<(), Failure> = Ok(());
        self.read(&mut jobs, |job, row, logits| {
            let (group, d) = owners[job];
            let (shared, distinct) = &inputs[group];
            // The first that is broken is told; what is counted after it is not given out.
            sound = sound.clone().and_then(|()| check_logits(logits, row + shared + 1));
            for &(pair, first) in &distinct[d].asked {
                let Some(k) = (row + shared).checked_sub(first) else { continue };
                let Some(&token) = groups[group][pair].continuation.get(k) else { continue };
                let likelihood = &mut found[group][pair];
                likelihood.sum += f64::from(logprobs(logits, token, 0).0);
                likelihood.greedy &= likeliest(logits) == Some(token as usize);
            }
        })?;
        sound.map_err(gently_infer::Error::from)?;
        Ok(found)
    }

    /// The states after what the inputs of each group share.
    fn contexts(&mut self, inputs: &[(usize, Vec<Input>)]) -> Result<Vec<State>> {
        let contexts: Vec<&[u32]> =
            inputs.iter().map(|(shared, all)| all.first().map_or(&[][..], |d| &d.tokens[..*shared])).collect();
        // What the contexts themselves begin with, such as solved examples: read first, and kept for the next batch.
        let shared = common(contexts.iter().copied());
        if shared >= SHARED {
            let tokens = &contexts[0][..shared];
            let state = self.begun(tokens);
            let mut jobs = [Job { tokens: tokens[state.len()..].to_vec(), at: 0, from: shared, state }];
            self.read(&mut jobs, |_, _, _| ())?;
            let [job] = jobs;
            self.beginnings.insert(job.state);
        }
        let mut jobs: Vec<Job> = contexts
            .iter()
            .map(|tokens| {
                let state = self.begun(tokens);
                Job { tokens: tokens[state.len()..].to_vec(), at: 0, from: usize::MAX, state }
            })
            .collect();
        self.read(&mut jobs, |_, _, _| ())?;
        Ok(jobs.into_iter().map(|j| j.state).collect())
    }

    fn begun(&mut self, tokens: &[u32]) -> State {
        self.beginnings.lookup(self.plan, tokens, tokens.len()).unwrap_or_else(|| self.plan.state())
    }

    /// Reads all jobs to their ends and gives each wanted row of logits, by job and index of its token.
    fn read(&mut self, jobs: &mut [Job], mut row: impl FnMut(usize, usize, &[f32])) -> Result<()> {
        let vocab = self.plan.config().vocab;
        loop {
            let (mut rows, mut wanted) = (ROWS, WANTED_ROWS);
            let mut pieces = Vec::new();
            let mut given = Vec::new();
            for (j, job) in jobs.iter_mut().enumerate() {
                let left = job.tokens.len() - job.at;
                let silent = job.from.saturating_sub(job.at).min(left);
                let (room, kind, length) = match silent {
                    0 => (&mut wanted, Wanted::All, left),
                    n => (&mut rows, Wanted::None, n),
                };
                let take = length.min(*room);
                if take == 0 {
                    continue;
                }
                *room -= take;
                if kind == Wanted::All {
                    given.extend((job.at..job.at + take).map(|at| (j, at)));
                }
                let tokens = &job.tokens[job.at..job.at + take];
                job.at += take;
                pieces.push(Piece { state: &mut job.state, tokens, wanted: kind });
            }
            if pieces.is_empty() {
                return Ok(());
            }
            let logits = self.plan.forward(&mut self.work, &mut pieces, &|| true)?.unwrap_or(&[]);
            for (&(job, at), logits) in given.iter().zip(logits.chunks_exact(vocab)) {
                row(job, at, logits);
            }
        }
    }
}

/// What the model reads of a pair: all but the last token, of which the beginning goes when there is no room.
fn input(pair: &Pair, room: usize) -> Result<(Vec<u32>, bool)> {
    let whole = [&pair.context[..], &pair.continuation].concat();
    let most = room.saturating_add(1);
    if pair.context.is_empty() || pair.continuation.is_empty() || pair.continuation.len() > room {
        let what =
            format!("a continuation of {} tokens does not fit into a context of {room}", pair.continuation.len());
        return Err(gently_infer::Error::Tokens { what }.into());
    }
    let start = whole.len().saturating_sub(most);
    Ok((whole[start..whole.len() - 1].to_vec(), start > 0))
}

/// Length of the beginning that all have in common.
fn common<'t>(mut all: impl Iterator<Item = &'t [u32]>) -> usize {
    let Some(first) = all.next() else { return 0 };
    all.fold(first.len(), |n, other| first[..n].iter().zip(other).take_while(|(a, b)| a == b).count())
}

/// The first of the greatest logits.
fn likeliest(logits: &[f32]) -> Option<usize> {
    let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    logits.iter().position(|z| *z == most)
}
