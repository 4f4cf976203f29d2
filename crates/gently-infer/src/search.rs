//! Looking for a text rather than drawing one: beam search and contrastive search.
//!
//! Here: both over one [`Plan`], each step one pass over all hypotheses, whose states share the pages of what they have in
//! common. Not here: choosing token by token (see [`crate::Scheduler`]), and text: where one ends before a token says so, the
//! caller is asked ([`Ends`]).

use crate::error::{Error, Result, check_logits, check_tokens, choices};
use crate::plan::{CHUNK, Piece, Plan, Wanted};
use crate::schedule::{End, PROMPT};
use crate::state::State;
use crate::work::Work;
use gently_models::sampling::logprobs;

/// How hypotheses are compared.
#[derive(Debug, Clone, PartialEq)]
pub struct BeamOptions {
    /// Hypotheses kept at each step, and given back.
    pub width: usize,
    /// Write at most this many tokens.
    pub max_tokens: usize,
    /// A hypothesis of n tokens scores `log-probability / n^length_penalty`: above 0 longer ones win, below 0 shorter ones
    /// do (as Python `transformers` has it; Wu et al. 2016 have `((5 + n)/6)^α`). A finite number.
    pub length_penalty: f64,
    /// Tokens that end a hypothesis; the one that does counts, and is its last.
    pub stop: Vec<u32>,
    /// Never choose a token of this id or above. Log-probabilities count all.
    pub below: Option<usize>,
}

impl Default for BeamOptions {
    fn default() -> Self {
        Self { width: 4, max_tokens: 64, length_penalty: 1.0, stop: Vec::new(), below: None }
    }
}

/// Asked of a text with all its tokens, when one was added that is no stop token: `None` while it goes on; where it has ended, what
/// it comes to. Of texts that have ended so and come to the same, a search gives the best.
pub type Ends<'a> = &'a dyn Fn(&[u32]) -> Option<String>;

/// A text that was found.
#[derive(Debug, Clone, PartialEq)]
pub struct Hypothesis {
    /// What follows the prompt.
    pub tokens: Vec<u32>,
    /// The natural log-probability of these tokens.
    pub logprob: f64,
    /// What hypotheses are compared by.
    pub score: f64,
    /// Why it ended: [`End::Stop`] with its last token, [`End::Complete`] where [`Ends`] said so, [`End::Length`] or
    /// [`End::Context`].
    pub end: End,
}

/// Most hypotheses and candidates: a bound on the rows of a pass.
const MOST: usize = 256;

/// A hypothesis that goes on.
struct Beam {
    state: State,
    tokens: Vec<u32>,
    logprob: f64,
}

/// One that has ended, and what [`Ends`] said that it comes to.
struct Ended {
    found: Hypothesis,
    text: Option<String>,
}

/// The likeliest continuations of `prompt` that beam search finds, best first.
///
/// # Errors
/// [`Error::Request`] for a width of 0 or above 256, a length penalty that is not finite, or a `below` of 0; [`Error::Tokens`] and
/// [`Error::TooLong`] for a prompt that the model cannot read; [`Error::NotNumbers`] for a model whose logits mean nothing.
pub fn beam_search(
    plan: &Plan,
    work: &mut Work,
    prompt: &[u32],
    options: &BeamOptions,
    ends: Ends<'_>,
) -> Result<Vec<Hypothesis>> {
    let BeamOptions { width, max_tokens, length_penalty, .. } = *options;
    if width == 0 || width > MOST {
        return Err(Error::Request { what: format!("a beam of {width} is not between 1 and {MOST}") });
    }
    if !length_penalty.is_finite() {
        return Err(Error::Request { what: format!("a length penalty of {length_penalty} is not a finite number") });
    }
    let score = |logprob: f64, n: usize| logprob / (n as f64).powf(length_penalty);
    let vocab = plan.config().vocab;
    let below = choices(vocab, options.below)?;
    let room = room_for(plan, prompt)?;
    // The last token is chosen where the context is full, and not read.
    let steps = max_tokens.min(room.saturating_sub(prompt.len()).saturating_add(1));
    let last = if steps == max_tokens { End::Length } else { End::Context };

    let mut state = plan.state();
    let (before, rest) = prompt.split_at(prompt.len().saturating_sub(1) / CHUNK * CHUNK);
    plan.prefill(work, &mut state, before)?;
    let mut logits = plan.read(work, &mut state, rest)?.to_vec();
    let mut beams = vec![Beam { state, tokens: Vec::new(), logprob: 0.0 }];
    let mut done: Vec<Ended> = Vec::new();
    for step in 1..=steps {
        // As many as could all be stop tokens, and still leave a beam's width.
        let most = width * (1 + options.stop.len());
        let mut next: Vec<(usize, u32, f64)> = Vec::new();
        for (i, (beam, row)) in beams.iter().zip(logits.chunks_exact(vocab)).enumerate() {
            check_logits(&row[..below], prompt.len() + beam.tokens.len())?;
            let (_, top) = likeliest(row, below, 0, most);
            next.extend(top.into_iter().map(|(id, p)| (i, id, beam.logprob + f64::from(p))));
        }
        next.retain(|n| n.2 > f64::NEG_INFINITY);
        next.sort_by(|a, b| b.2.total_cmp(&a.2).then((a.0, a.1).cmp(&(b.0, b.1))));
        let mut live = Vec::new();
        for (i, id, logprob) in next {
            if live.len() == width {
                break;
            }
            let tokens = [&beams[i].tokens[..], &[id]].concat();
            let stops = options.stop.contains(&id);
            let text = if stops { None } else { ends(&tokens) };
            let end = match &text {
                _ if stops => End::Stop(id),
                Some(_) => End::Complete,
                None if step == steps => last,
                None => {
                    live.push(Beam { state: beams[i].state.clone(), tokens, logprob });
                    continue;
                }
            };
            let found = Hypothesis { score: score(logprob, step), tokens, logprob, end };
            keep(&mut done, Ended { found, text });
            if step == steps && done.len() >= 2 * most {
                break;
            }
        }
        done.sort_by(|a, b| b.found.score.total_cmp(&a.found.score));
        done.truncate(width);
        // The best that a live hypothesis can still come to: its own probability, at the length that helps most.
        let reach = |b: &Beam| score(b.logprob, if length_penalty > 0.0 { steps } else { step });
        let hopeless = done.len() == width && live.iter().all(|b| reach(b) <= done[width - 1].found.score);
        beams = live;
        if beams.is_empty() || hopeless {
            break;
        }
        logits = pass(plan, work, &mut beams)?;
    }
    Ok(done.into_iter().map(|one| one.found).collect())
}

/// Log-probabilities under the model as [`logprobs`] gives them: of `chosen`, and of the `n` likeliest tokens below `below`. Those
/// from `below` on are never chosen, but a part of the probability is theirs.
pub(crate) fn likeliest(row: &[f32], below: usize, chosen: u32, n: usize) -> (f32, Vec<(u32, f32)>) {
    let beyond = if n > 0 { row.len().saturating_sub(below) } else { 0 };
    let (logprob, mut top) = logprobs(row, chosen, n.saturating_add(beyond));
    top.retain(|one| (one.0 as usize) < below);
    top.truncate(n);
    (logprob, top)
}

/// Adds a text that has ended, unless a better one that is there comes to the same.
fn keep(done: &mut Vec<Ended>, one: Ended) {
    match done.iter_mut().find(|other| one.text.is_some() && other.text == one.text) {
        Some(other) if other.found.score >= one.found.score => {}
        Some(other) => *other = one,
        None => done.push(one),
    }
}

/// Reads the last token of each beam; all logits.
fn pass(plan: &Plan, work: &mut Work, beams: &mut [Beam]) -> Result<Vec<f32>> {
    let mut pieces: Vec<Piece<'_>> = beams
        .iter_mut()
        .map(|b| Piece { state: &mut b.state, tokens: &b.tokens[b.tokens.len() - 1..], wanted: Wanted::Last })
        .collect();
    Ok(plan.forward(work, &mut pieces, &|| true)?.unwrap_or(&[]).to_vec())
}

/// The model's context, which the whole prompt must fit into.
fn room_for(plan: &Plan, prompt: &[u32]) -> Result<usize> {
    check_tokens(PROMPT, plan.config().vocab, prompt)?;
    match plan.most() {
        room if prompt.len() > room => Err(Error::TooLong { tokens: prompt.len(), room }),
        room => Ok(room),
    }
}

/// How likelihood and variety are weighed.
#[derive(Debug, Clone, PartialEq)]
pub struct ContrastiveOptions {
    /// k, the likeliest tokens among which one is chosen: 4 to 8 are usual.
    pub candidates: usize,
    /// α, the weight of variety against likelihood, from 0 (greedy) to 1: 0.6 is usual.
    pub alpha: f32,
    /// Write at most this many tokens, one that ends the text included.
    pub max_tokens: usize,
    /// Tokens that end the text; the one that does is given back as [`End::Stop`].
    pub stop: Vec<u32>,
    /// Never choose a token of this id or above. Likelihoods count all.
    pub below: Option<usize>,
}

impl Default for ContrastiveOptions {
    fn default() -> Self {
        Self { candidates: 4, alpha: 0.6, max_tokens: 64, stop: Vec::new(), below: None }
    }
}

/// Continues `prompt` by contrastive search (Su et al. 2022, eq. 5): of the k likeliest tokens the one with the largest
/// `(1 − α)·p − α·max cos`, the cosine being that between the candidate's features and those of each token before. Where the
/// context is full no candidate can be read any more: the last token is the likeliest. Gives what follows the prompt, and why it
/// ended: [`End::Stop`], [`End::Complete`] where `ends` said so, [`End::Length`] or [`End::Context`].
///
/// # Errors
/// [`Error::Request`] for candidates or a weight out of range, or a `below` of 0; [`Error::Tokens`] and [`Error::TooLong`] for a
/// prompt that the model cannot read; [`Error::NotNumbers`] for a model whose logits mean nothing.
pub fn contrastive_search(
    plan: &Plan,
    work: &mut Work,
    prompt: &[u32],
    options: &ContrastiveOptions,
    ends: Ends<'_>,
) -> Result<(Vec<u32>, End)> {
    let (k, alpha) = (options.candidates, options.alpha);
    if k == 0 || k > MOST || !(0.0..=1.0).contains(&alpha) {
        let what = format!("{k} candidates with a weight of {alpha}: 1 to {MOST} and 0 to 1 are needed");
        return Err(Error::Request { what });
    }
    let vocab = plan.config().vocab;
    let below = choices(vocab, options.below)?;
    let room = room_for(plan, prompt)?;
    let c = plan.config().width;

    let mut state = plan.state();
    // Directions of the features of all tokens before, `[T, C]`.
    let mut before: Vec<f32> = Vec::new();
    let mut logits = Vec::new();
    for part in prompt.chunks(64) {
        let mut pieces = [Piece { state: &mut state, tokens: part, wanted: Wanted::All }];
        let all = plan.forward(work, &mut pieces, &|| true)?.unwrap_or(&[]);
        logits = all[all.len().saturating_sub(vocab)..].to_vec();
        work.features().chunks_exact(c).for_each(|h| before.extend(direction(h)));
    }
    check_logits(&logits[..below], prompt.len())?;
    let mut tokens = Vec::new();
    while tokens.len() < options.max_tokens {
        let (_, top) = likeliest(&logits, below, 0, k);
        if state.len() >= room {
            let Some(&(id, _)) = top.first() else { break };
            if options.stop.contains(&id) {
                return Ok((tokens, End::Stop(id)));
            }
            tokens.push(id);
            let end = match ends(&tokens) {
                Some(_) => End::Complete,
                None if tokens.len() == options.max_tokens => End::Length,
                None => End::Context,
            };
            return Ok((tokens, end));
        }
        let mut forks: Vec<(State, [u32; 1])> = top.iter().map(|t| (state.clone(), [t.0])).collect();
        let mut pieces: Vec<Piece<'_>> =
            forks.iter_mut().map(|(state, tokens)| Piece { state, tokens, wanted: Wanted::Last }).collect();
        let all = plan.forward(work, &mut pieces, &|| true)?.unwrap_or(&[]).to_vec();
        let mut best: Option<(f32, usize, Vec<f32>)> = None;
        for (i, (h, (_, logprob))) in work.features().chunks_exact(c).zip(&top).enumerate() {
            let h = direction(h);
            let cosine = |b: &[f32]| b.iter().zip(&h).map(|(a, b)| a * b).sum::<f32>();
            let alike = before.chunks_exact(c).map(cosine).fold(-1.0, f32::max);
            let score = (1.0 - alpha) * logprob.exp() - alpha * alike;
            if best.as_ref().is_none_or(|b| score > b.0) {
                best = Some((score, i, h));
            }
        }
        let Some((_, i, h)) = best else { break };
        let id = top[i].0;
        if options.stop.contains(&id) {
            return Ok((tokens, End::Stop(id)));
        }
        tokens.push(id);
        before.extend(h);
        state = forks.swap_remove(i).0;
        logits = all[i * vocab..][..vocab].to_vec();
        // Of the last token, too: its features chose it.
        check_logits(&logits[..below], prompt.len() + tokens.len())?;
        if ends(&tokens).is_some() {
            return Ok((tokens, End::Complete));
        }
    }
    Ok((tokens, End::Length))
}

/// The vector of length 1 that points where `h` does.
fn direction(h: &[f32]) -> Vec<f32> {
    let length = h.iter().map(|v| v * v).sum::<f32>().sqrt().max(f32::MIN_POSITIVE);
    h.iter().map(|v| v / length).collect()
}
