//! Which sequences go into the next pass: continuous batching without threads or clocks of its own.
//!
//! Here: [`Scheduler`], a queue of requests and the sequences being written. Each [`Scheduler::step`] is one pass: a
//! token for every sequence that writes, and a chunk of the prompts that are still being read. Not here: the thread
//! that calls it and the streams (see [`crate::Engine`]).
//!
//! **A request's tokens do not depend on the others**: a row of a pass has the same bits in any company, random draws
//! are counted by request, and what is taken from the prefix cache equals what reading would give.
//!
//! ```
//! use gently_infer::{EngineOptions, Event, Plan, PlanOptions, Request, Scheduler};
//! use gently_models::{Decoder, DecoderConfig};
//! # use gently_tensor::{Device, Rng};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let cfg = DecoderConfig { vocab: 16, layers: 1, heads: 2, width: 8, ..DecoderConfig::named("gpt2")? };
//! # let model = Decoder::new(&cfg, &Rng::new(0), &Device::Cpu)?;
//! let plan = Plan::new(&model, PlanOptions::default())?;
//! let mut scheduler = Scheduler::new(plan.into(), EngineOptions::default());
//! scheduler.submit(Request { max_tokens: 3, ..Request::new(vec![1, 2]) })?;
//! let mut written = 0;
//! while !scheduler.is_idle() {
//!     let events = scheduler.step(&|| true);
//!     written += events.iter().filter(|(_, e)| matches!(e, Event::Token(_))).count();
//! }
//! assert_eq!(written, 3);
//! # Ok(()) }
//! ```

use crate::constraint::{Ahead, ConstraintError, Grammar, Guide};
use crate::engine::EngineOptions;
use crate::error::{Error, Failure, Result, check_logits, check_tokens, choices};
use crate::plan::{Piece, Plan, Wanted};
use crate::prefix::PrefixCache;
use crate::search::likeliest;
use crate::speculate::{Draft, Gate, Times};
use crate::state::State;
use crate::tune::Tuner;
use crate::work::Work;
use gently_kernels::kv::PAGE;
use gently_models::sampling::{Sampler, SamplingParams};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

/// What is to be written.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// The tokens to continue; at least one.
    pub prompt: Vec<u32>,
    /// Write at most this many.
    pub max_tokens: usize,
    /// How tokens are chosen.
    pub sampling: SamplingParams,
    /// Tokens that end the text; the one that does is given out as [`End::Stop`], not as a token. Those that a vocabulary
    /// ends texts with may stand in the middle of a grammar: there they are tokens like others.
    pub stop: Vec<u32>,
    /// Never choose a token of this id or above: models pad their vocabulary beyond the tokenizer's. Log-probabilities count all.
    pub below: Option<usize>,
    /// End when this time has come.
    pub deadline: Option<Instant>,
    /// When the model's context is full, read the later half of it again as a new beginning and go on. Otherwise the
    /// text ends there.
    pub slide: bool,
    /// Give the log-probability of each token, and of this many likeliest ones below `below`.
    pub logprobs: Option<usize>,
    /// What the text must be. Tokens that it forces are read together, unless log-probabilities are asked for.
    pub grammar: Option<Grammar>,
    /// What was read before. As much of the prompt as it begins like is not read again: that changes the time, never the text.
    /// Requests that are given forks of one state share its pages.
    pub state: Option<State>,
}

impl Request {
    /// Continues `prompt` by up to 256 tokens, drawn from the model's own distribution.
    pub fn new(prompt: Vec<u32>) -> Self {
        Self {
            prompt,
            max_tokens: 256,
            sampling: SamplingParams::default(),
            stop: Vec::new(),
            below: None,
            deadline: None,
            slide: false,
            logprobs: None,
            grammar: None,
            state: None,
        }
    }
}

/// What the tokens of a prompt are called where they are wrong.
pub(crate) const PROMPT: &str = "the prompt";
/// Most alternatives that log-probabilities are given for.
const MOST_LOGPROBS: usize = 100;

/// A token that was written.
#[derive(Debug, Clone, PartialEq)]
pub struct Token {
    /// Its id.
    pub id: u32,
    /// Its natural log-probability under the model, before temperature, filters and penalties; where asked for.
    pub logprob: Option<f32>,
    /// The likeliest tokens with theirs, likeliest first; where asked for.
    pub top: Vec<(u32, f32)>,
}

/// Why a text ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// `max_tokens` were written.
    Length,
    /// This stop token was chosen.
    Stop(u32),
    /// The grammar allows nothing more, or what a search asks ([`crate::Ends`]) said that the text has ended.
    Complete,
    /// The model's context is full.
    Context,
    /// Its stream was dropped.
    Cancelled,
    /// Its deadline came.
    Deadline,
    /// It could not go on; what happened before says why ([`Event::Error`]).
    Failed,
}

/// What happened to a request.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A token was written.
    Token(Token),
    /// The text cannot go on; its end follows.
    Error(Failure),
    /// The text ended; the last event of a request.
    End(End),
}

/// The name of a request, and the way to cancel it.
#[derive(Debug, Clone)]
pub struct Ticket {
    id: u64,
    cancelled: Arc<AtomicBool>,
}

impl Ticket {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self { id: NEXT.fetch_add(1, Ordering::Relaxed), cancelled: Arc::default() }
    }

    /// A number that no other request of this program has.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Ends the request before the next layer of a pass that only cancelled requests are in, or after the pass.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }
}

/// A sequence being written.
struct Running {
    ticket: Ticket,
    request: Request,
    sampler: Sampler,
    /// The prompt and what was written.
    tokens: Vec<u32>,
    /// What the model has read of `tokens`, from `base` on.
    state: State,
    base: usize,
    gate: Gate,
    /// What the draft model has read.
    draft: Option<State>,
    /// Follows the grammar, where there is one.
    guide: Option<Box<Guide>>,
    /// Whether all of the prompt was read; what was written before is given out then.
    begun: bool,
    early: Events,
    end: Option<End>,
}

impl Running {
    fn unread(&self) -> usize {
        self.tokens.len() - self.base - self.state.len()
    }

    fn written(&self) -> usize {
        self.tokens.len() - self.request.prompt.len()
    }

    /// Chooses the next token from a row of logits, or ends the text.
    fn choose(&mut self, row: &[f32], room: usize, masked: &mut Vec<f32>, events: &mut Events) {
        if self.written() >= self.request.max_tokens {
            self.end = Some(End::Length);
            return;
        }
        let choices = &row[..self.request.below.unwrap_or(row.len()).min(row.len())];
        if let Err(e) = check_logits(choices, self.tokens.len()) {
            return self.fail(e, events);
        }
        let id = match self.request.grammar {
            None => self.sample(choices).map(Some),
            Some(_) => self.choose_within(choices, masked),
        };
        match id {
            Ok(Some(id)) => self.push(id, Some(row), room, events),
            Ok(None) => self.end = Some(End::Complete),
            Err(e) => self.fail(e, events),
        }
    }

    /// Chooses one of some logits.
    fn sample(&mut self, logits: &[f32]) -> Result<u32, Failure> {
        let id = self.sampler.sample(logits, &self.tokens);
        // It must choose something, even where nothing is left.
        let chosen = logits.get(id as usize).copied().unwrap_or(f32::NEG_INFINITY);
        permit(&self.request, self.written(), id, Some(chosen)).map(|()| id)
    }

    /// Chooses what the grammar allows; nothing where the text is complete.
    fn choose_within(&mut self, row: &[f32], masked: &mut Vec<f32>) -> Result<Option<u32>, Failure> {
        let guide = self.guide.as_mut().ok_or_else(lost)?;
        if let Some(id) = guide.forced()? {
            permit(&self.request, self.written(), id, None)?;
            return Ok(Some(id));
        }
        if !guide.mask(row, masked)? {
            return Ok(None);
        }
        let id = self.sample(masked)?;
        self.guide.as_mut().ok_or_else(lost)?.take(id)?;
        Ok(Some(id))
    }

    /// Writes what the grammar leaves no choice of, at most `most` tokens, without asking the model.
    fn write_forced(&mut self, most: usize, room: usize, events: &mut Events) {
        if self.request.logprobs.is_some() {
            return;
        }
        for _ in 0..most {
            if self.end.is_some() || self.written() >= self.request.max_tokens {
                return;
            }
            let forced = match self.guide.as_mut().map(|g| g.forced()) {
                Some(Ok(Some(id))) => permit(&self.request, self.written(), id, None).map(|()| id),
                Some(Err(e)) => Err(e.into()),
                _ => return,
            };
            match forced {
                Ok(id) => self.push(id, None, room, events),
                Err(e) => self.fail(e, events),
            }
        }
    }

    /// Adds a token to the text, or ends it. All logits of its place are known where the model was asked.
    fn push(&mut self, id: u32, row: Option<&[f32]>, room: usize, events: &mut Events) {
        let stops = match &mut self.guide {
            // A grammar may name it in its middle.
            Some(guide) if guide.ends(id) => guide.can_end(),
            _ => self.request.stop.contains(&id),
        };
        if stops {
            self.end = Some(End::Stop(id));
            return;
        }
        let (mut logprob, mut top) = (None, Vec::new());
        if let (Some(n), Some(row)) = (self.request.logprobs, row) {
            let all = likeliest(row, self.request.below.unwrap_or(row.len()), id, n);
            logprob = Some(all.0);
            top = all.1;
        }
        self.tokens.push(id);
        events.push((self.ticket.clone(), Event::Token(Token { id, logprob, top })));
        if self.guide.as_ref().is_some_and(|g| g.is_complete()) {
            self.end = Some(End::Complete);
        } else if self.written() >= self.request.max_tokens {
            self.end = Some(End::Length);
        } else if self.tokens.len() - self.base > room && !self.request.slide {
            self.end = Some(End::Context);
        }
    }

    fn fail(&mut self, error: Failure, events: &mut Events) {
        events.append(&mut self.early);
        events.push((self.ticket.clone(), Event::Error(error)));
        self.end = Some(End::Failed);
    }
}

/// The error for a guide that did not come back with its mask.
fn lost() -> ConstraintError {
    ConstraintError::Vocabulary { reason: "the thread that computes masks has ended".into() }
}

/// Refuses a token that was come to after `written` ones, and that the request rules out: by its `below`, or by a bias of minus
/// infinity on its logit. `chosen` is the logit of one that was chosen; one that a grammar forces has none.
fn permit(request: &Request, written: usize, id: u32, chosen: Option<f32>) -> Result<(), Failure> {
    let biases = &request.sampling.logit_bias;
    let logit = chosen.unwrap_or(0.0) + biases.get(&id).copied().unwrap_or(0.0);
    let out = request.below.is_some_and(|below| id as usize >= below) || logit == f32::NEG_INFINITY;
    if !out {
        return Ok(());
    }
    Err(match &request.grammar {
        Some(grammar) => Failure::Constraint(ConstraintError::RuledOut {
            kind: grammar.constraint().kind(),
            tokens: written,
            // What is chosen where nothing is left may be any token.
            token: chosen.is_none().then_some(id),
            biased: biases.values().any(|bias| *bias == f32::NEG_INFINITY),
        }),
        None => Failure::Refused { what: format!("after {written} tokens its logit_bias rules out every token") },
    })
}

type Events = Vec<(Ticket, Event)>;

/// A request that this model can serve, and what serves it.
pub(crate) struct Prepared {
    request: Request,
    sampler: Sampler,
}

/// Requests and their sequences.
pub struct Scheduler {
    plan: Arc<Plan>,
    options: EngineOptions,
    work: Work,
    waiting: VecDeque<(Ticket, Prepared)>,
    running: Vec<Running>,
    prefix: PrefixCache,
    /// Whose turn it is to read a prompt first.
    turn: usize,
    times: Times,
    tuner: Tuner,
    draft: Option<Draft>,
    ahead: Ahead,
    /// Logits that a grammar allows.
    masked: Vec<f32>,
}

impl Scheduler {
    /// A scheduler with nothing to do. A batch, a chunk or a queue of 0, with which nothing would ever be written, is taken as 1.
    pub fn new(plan: Arc<Plan>, options: EngineOptions) -> Self {
        let (batch, chunk, queue) = (options.batch.max(1), options.chunk.max(1), options.queue.max(1));
        let options = EngineOptions { batch, chunk, queue, ..options };
        Self {
            prefix: PrefixCache::new(options.prefix_bytes),
            tuner: Tuner::new(options.threads),
            plan,
            options,
            work: Work::new(),
            waiting: VecDeque::new(),
            running: Vec::new(),
            turn: 0,
            times: Times::default(),
            draft: None,
            ahead: Ahead::default(),
            masked: Vec::new(),
        }
    }

    /// Lets a smaller model guess up to `tokens` tokens, but no more than a chunk, wherever the text itself gives no guess.
    ///
    /// # Errors
    /// [`Error::Request`] for a model of another vocabulary, or no tokens.
    pub fn with_draft(mut self, plan: Arc<Plan>, tokens: usize) -> Result<Self> {
        self.draft = Some(Draft::new(&self.plan, plan, tokens.min(self.options.chunk))?);
        Ok(self)
    }

    /// Puts a request into the queue.
    ///
    /// # Errors
    /// [`Error::Busy`] for a full queue; [`Error::Tokens`], [`Error::TooLong`], [`Error::Request`], [`Error::State`] and
    /// [`Error::Sampling`] for a request that this model cannot serve.
    pub fn submit(&mut self, request: Request) -> Result<Ticket> {
        let ticket = Ticket::new();
        if self.waiting.len() >= self.options.queue {
            return Err(Error::Busy { waiting: self.waiting.len() });
        }
        let prepared = prepare(&self.plan, self.draft.as_ref().map(Draft::plan), &self.options, request)?;
        self.enqueue(ticket.clone(), prepared);
        Ok(ticket)
    }

    /// Puts a request into the queue, however long it is.
    pub(crate) fn enqueue(&mut self, ticket: Ticket, prepared: Prepared) {
        self.waiting.push_back((ticket, prepared));
    }

    /// Its bounds and choices, as they hold.
    pub(crate) fn options(&self) -> &EngineOptions {
        &self.options
    }

    /// Whether there is nothing to do.
    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.running.is_empty()
    }

    /// Requests in the queue.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Sequences being written.
    pub fn running(&self) -> usize {
        self.running.len()
    }

    /// Bytes of keys and values of the running sequences, those of a guessing model included, and of the prefix cache.
    pub fn state_bytes(&self) -> (usize, usize) {
        let bytes = |r: &Running| r.state.bytes() + r.draft.as_ref().map_or(0, State::bytes);
        (self.running.iter().map(bytes).sum(), self.prefix.bytes())
    }

    /// One pass over the sequences, those that wait and now have room among them, and what came of it. `going` is asked before
    /// each layer, besides the requests' own cancellation and deadlines; when it says no, or no request in the pass goes on, the
    /// pass is dropped, and can be made again.
    pub fn step(&mut self, going: &dyn Fn() -> bool) -> Vec<(Ticket, Event)> {
        let mut events = self.admit();
        events.append(&mut self.pass(going));
        events
    }

    /// What comes before a pass: ends what was cancelled or is late, and takes requests from the queue while there is room.
    pub(crate) fn admit(&mut self) -> Vec<(Ticket, Event)> {
        let mut events = Vec::new();
        self.expire(&mut events);
        self.take_up(&mut events);
        events
    }

    /// The pass of a [step](Self::step).
    pub(crate) fn pass(&mut self, going: &dyn Fn() -> bool) -> Vec<(Ticket, Event)> {
        let mut events = Vec::new();
        // A draft model's passes are made here.
        let in_use = self.tuner.all();
        let mut inputs = self.compose(going);
        drop(in_use);
        inputs.retain(|input| self.ready(input, &mut events));
        if inputs.is_empty() {
            self.finish(&mut events);
            return events;
        }
        let rows: usize = inputs.iter().map(|i| i.tokens.len()).sum();
        let limits: Vec<(Ticket, Option<Instant>)> = inputs
            .iter()
            .map(|i| &self.running[i.index])
            .map(|running| (running.ticket.clone(), running.request.deadline))
            .collect();
        let over = |(ticket, deadline): &(Ticket, Option<Instant>)| {
            ticket.is_cancelled() || deadline.is_some_and(|d| d <= Instant::now())
        };
        let going = || going() && !limits.iter().all(over);

        for input in inputs.iter().filter(|i| i.wanted != Wanted::None) {
            if let Some(guide) = self.running[input.index].guide.take_if(|g| g.wants_mask()) {
                self.ahead.begin(input.index, guide);
            }
        }
        let mut pieces = Vec::with_capacity(inputs.len());
        let mut inputs_left = inputs.iter().peekable();
        for (index, running) in self.running.iter_mut().enumerate() {
            if let Some(input) = inputs_left.next_if(|i| i.index == index) {
                pieces.push(Piece { state: &mut running.state, tokens: &input.tokens, wanted: input.wanted });
            }
        }
        let begun = Instant::now();
        let (threads, in_use) = self.tuner.begin(rows);
        let passed = self.plan.forward(&mut self.work, &mut pieces, &going);
        drop(in_use);
        let whole = matches!(passed, Ok(Some(_)));
        self.tuner.end(rows, threads, whole.then(|| begun.elapsed().as_secs_f64()));
        drop(pieces);
        self.ahead.finish(|index, guide| self.running[index].guide = Some(guide));
        let logits = match passed {
            Ok(Some(logits)) => logits,
            // Called off: the states are as they were.
            Ok(None) => {
                self.finish(&mut events);
                return events;
            }
            // Each of them was ready. What they need together comes mostly of the longest: the others are tried again without it.
            Err(error) => {
                if let Some(longest) = inputs.iter().max_by_key(|i| i.tokens.len()) {
                    self.running[longest.index].fail(error.into(), &mut events);
                }
                self.finish(&mut events);
                return events;
            }
        };
        self.times.learn(rows, begun.elapsed().as_secs_f64());

        let (vocab, room) = (self.plan.config().vocab, self.plan.most());
        let mut logits = logits.chunks_exact(vocab);
        for input in &inputs {
            let running = &mut self.running[input.index];
            if input.wanted == Wanted::None {
                continue;
            }
            let begins = !std::mem::replace(&mut running.begun, true);
            events.append(&mut running.early);
            // Where the text ends before this pass chooses, and what was guessed to follow.
            let (end, guess) = (running.tokens.len(), &input.tokens[input.tokens.len() - input.draft..]);
            let agreed = |tokens: &[u32]| tokens[end..].iter().zip(guess).take_while(|(a, b)| a == b).count();
            for i in 0..=input.draft {
                let Some(row) = logits.next() else { break };
                // A row's logits hold if the text went on as guessed, and are wanted if no grammar has decided already.
                if running.end.is_none() && running.tokens.len() == end + i && agreed(&running.tokens) == i {
                    running.choose(row, room, &mut self.masked, &mut events);
                    running.write_forced(self.options.chunk, room, &mut events);
                }
            }
            if input.draft > 0 {
                let agreed = agreed(&running.tokens);
                running.gate.learn(agreed, (input.draft, input.guessing), rows, &self.times);
                // What was read beyond the last token that was guessed right is not part of the text.
                let keep = ((end + agreed).min(running.tokens.len() - 1) - running.base).min(running.state.len());
                // Cannot fail: it is no more than was read.
                let _ = running.state.truncate(keep);
            } else if input.guessing > 0.0 {
                // The grammar allowed none of what a model took its time to guess.
                running.gate.learn(0, (0, input.guessing), rows, &self.times);
            }
            if begins && running.state.len() > PAGE {
                // Requests that come while this one writes may begin alike. Wrong guesses are gone by now.
                self.prefix.insert(running.state.clone());
            }
        }
        self.finish(&mut events);
        events
    }

    /// Whether a pass can take this input. Where it cannot, its request alone fails.
    fn ready(&mut self, input: &Input, events: &mut Events) -> bool {
        let running = &mut self.running[input.index];
        let mut piece = Piece { state: &mut running.state, tokens: &input.tokens, wanted: input.wanted };
        let ready = match self.plan.ready(&mut piece) {
            Err(Error::NoMemory { .. }) if !self.prefix.is_empty() => {
                // What is kept for others goes first.
                self.prefix.clear();
                self.plan.ready(&mut piece)
            }
            ready => ready,
        };
        match ready {
            Ok(()) => true,
            Err(error) => {
                running.fail(error.into(), events);
                false
            }
        }
    }

    /// Ends what was cancelled or is late, running or not.
    fn expire(&mut self, events: &mut Vec<(Ticket, Event)>) {
        let now = Instant::now();
        let fate = |ticket: &Ticket, request: &Request| {
            if ticket.is_cancelled() {
                Some(End::Cancelled)
            } else if request.deadline.is_some_and(|d| d <= now) {
                Some(End::Deadline)
            } else {
                None
            }
        };
        self.waiting.retain(|(ticket, prepared)| {
            let fate = fate(ticket, &prepared.request);
            events.extend(fate.map(|end| (ticket.clone(), Event::End(end))));
            fate.is_none()
        });
        for running in &mut self.running {
            running.end = running.end.or_else(|| fate(&running.ticket, &running.request));
        }
        self.finish(events);
    }

    /// Takes requests from the queue, first come first served, while there is room.
    fn take_up(&mut self, events: &mut Events) {
        while self.running.len() < self.options.batch {
            let Some((_, next)) = self.waiting.front() else { return };
            let need = |r: &Request| worst_bytes(&self.plan, self.draft.as_ref().map(Draft::plan), r);
            let promised = self.running.iter().map(|r| need(&r.request)).fold(0, usize::saturating_add);
            // One alone is never too large, unless it came before the model that guesses.
            if !self.running.is_empty() && promised.saturating_add(need(&next.request)) > self.options.cache_bytes {
                return;
            }
            let Some((ticket, Prepared { mut request, sampler })) = self.waiting.pop_front() else { return };
            let room = self.plan.most();
            let base = request.prompt.len().saturating_sub(room);
            // At least the last token is read anew: its logits are needed.
            let before = &request.prompt[base..request.prompt.len() - 1];
            let mut known: Vec<State> = request.state.take().into_iter().collect();
            known.iter_mut().for_each(|state| state.keep_common(before));
            known.extend(self.prefix.lookup(&self.plan, before, before.len()));
            let state = known.into_iter().max_by_key(State::len).unwrap_or_else(|| self.plan.state());
            let tokens = request.prompt.clone();
            // Not before: what waits takes no memory for its matcher.
            let guide = request.grammar.as_ref().map(|g| Box::new(g.guide()));
            let mut running = Running {
                ticket,
                request,
                sampler,
                tokens,
                state,
                base,
                gate: Gate::default(),
                draft: None,
                guide,
                begun: false,
                early: Vec::new(),
                end: None,
            };
            // What the grammar begins with is read together with the prompt.
            let mut early = Vec::new();
            // No more than fits beside it.
            let most = self.options.chunk.min(room.saturating_sub(running.tokens.len() - running.base));
            running.write_forced(most, room, &mut early);
            running.early = early;
            self.running.push(running);
            if self.running.last().is_some_and(|r| r.end.is_some()) {
                self.finish(events);
            }
        }
    }

    /// The next pass: a token of all that write, then pieces of prompts, each of those that read getting a share.
    fn compose(&mut self, going: &dyn Fn() -> bool) -> Vec<Input> {
        let room = self.plan.most();
        let mut inputs = Vec::new();
        let mut readers = Vec::new();
        let mut rows = 0;
        // Rows that guesses may take beside a token for each sequence, and tokens that the model which guesses may read.
        let mut spare = self.options.chunk.saturating_sub(self.running.len());
        let mut unread = self.options.chunk;
        for (index, running) in self.running.iter_mut().enumerate() {
            if running.state.len() + running.unread() > room {
                // Only with `slide`: others have ended.
                running.base = running.tokens.len() - (room / 2).max(1);
                running.state = self.plan.state();
            }
            if running.unread() > 1 {
                readers.push(index);
                continue;
            }
            let mut tokens = running.tokens[running.tokens.len() - 1..].to_vec();
            let (mut draft, mut guessing) = (0, 0.0);
            if spare > 0 && (self.options.lookup.is_some() || self.draft.is_some()) && running.gate.open() {
                let left = (running.request.max_tokens - running.written()).saturating_sub(1);
                let most = left.min(room - running.state.len() - 1).min(spare);
                let lookup = self.options.lookup.as_ref();
                let found = lookup.map_or(&[][..], |lookup| lookup.propose(&running.tokens));
                let guess = match &mut self.draft {
                    Some(model) if found.is_empty() => {
                        let state = running.draft.get_or_insert_with(|| model.state());
                        let text = &running.tokens[running.base..];
                        let (guess, seconds) = model.propose(state, text, most, &mut unread, going);
                        guessing = seconds;
                        guess
                    }
                    _ => found[..found.len().min(most)].to_vec(),
                };
                let most = running.guide.as_mut().map_or(guess.len(), |g| g.allows(&guess));
                draft = guess.len().min(most);
                spare -= draft;
                tokens.extend(&guess[..draft]);
            }
            rows += tokens.len();
            inputs.push(Input { index, tokens, wanted: Wanted::All, draft, guessing });
        }
        if !readers.is_empty() {
            self.turn = self.turn.wrapping_add(1);
            let count = readers.len();
            readers.rotate_left(self.turn % count);
            // However many write, prompts go on.
            let mut budget = self.options.chunk.saturating_sub(rows).max(self.options.chunk.div_ceil(4));
            for (i, index) in readers.into_iter().enumerate() {
                let running = &self.running[index];
                let share = budget.div_ceil(count - i).min(running.unread());
                if share == 0 {
                    break;
                }
                budget -= share;
                let from = running.base + running.state.len();
                let tokens = running.tokens[from..from + share].to_vec();
                let wanted = if share == running.unread() { Wanted::Last } else { Wanted::None };
                inputs.push(Input { index, tokens, wanted, draft: 0, guessing: 0.0 });
            }
        }
        inputs.sort_by_key(|i| i.index);
        inputs
    }

    /// Lets go of sequences that have ended, and keeps their states for those that begin alike.
    fn finish(&mut self, events: &mut Vec<(Ticket, Event)>) {
        let mut i = 0;
        while i < self.running.len() {
            let Some(end) = self.running[i].end else {
                i += 1;
                continue;
            };
            let mut running = self.running.remove(i);
            events.append(&mut running.early);
            self.prefix.insert(running.state);
            events.push((running.ticket, Event::End(end)));
        }
    }
}

/// A sequence's part of a pass.
struct Input {
    index: usize,
    tokens: Vec<u32>,
    wanted: Wanted,
    /// How many of the tokens, at the end, are guesses.
    draft: usize,
    /// Seconds that a model took to guess them.
    guessing: f64,
}

/// Bytes of keys and values that a request may come to need, in the model and in the one that guesses.
fn worst_bytes(plan: &Plan, draft: Option<&Plan>, request: &Request) -> usize {
    let within = |tokens: usize, plan: &Plan| tokens.min(plan.most());
    let bytes = |tokens: usize, plan: &Plan| tokens.div_ceil(PAGE).saturating_mul(PAGE * plan.cache_bytes_per_token());
    let tokens = within(request.prompt.len().saturating_add(request.max_tokens), plan);
    bytes(tokens, plan).saturating_add(draft.map_or(0, |draft| bytes(within(tokens, draft), draft)))
}

/// Refuses what this model cannot serve, before it waits in a queue.
pub(crate) fn prepare(
    plan: &Plan,
    draft: Option<&Plan>,
    options: &EngineOptions,
    request: Request,
) -> Result<Prepared> {
    let (vocab, prompt) = (plan.config().vocab, &request.prompt);
    check_tokens(PROMPT, vocab, prompt)?;
    let room = plan.most();
    if prompt.len() > room && !request.slide {
        return Err(Error::TooLong { tokens: prompt.len(), room });
    }
    choices(vocab, request.below)?;
    if request.logprobs.is_some_and(|n| n > MOST_LOGPROBS) {
        return Err(Error::Request { what: format!("logprobs is more than {MOST_LOGPROBS}") });
    }
    if let Some(grammar) = request.grammar.as_ref().filter(|g| g.vocab() > vocab) {
        let what = format!("a grammar of {} tokens, for a model of {vocab}", grammar.vocab());
        return Err(Error::Request { what });
    }
    if let Some(state) = &request.state {
        plan.own(state)?;
    }
    let need = worst_bytes(plan, draft, &request);
    if need > options.cache_bytes {
        let what = format!("its keys and values may need {need} bytes, of {} there are", options.cache_bytes);
        return Err(Error::Request { what });
    }
    let sampler = Sampler::new(request.sampling.clone())?;
    Ok(Prepared { request, sampler })
}

#[cfg(test)]
mod tests;
