//! A thread that runs a [`Scheduler`], and streams of its tokens.
//!
//! Here: [`Engine`], its options, its [`Load`] and [`Stream`]. Not here: what goes into a pass (see [`crate::schedule`]).

use crate::error::{Error, Result};
use crate::plan::Plan;
use crate::schedule::{End, Event, Prepared, Request, Scheduler, Ticket, Token, prepare};
use crate::speculate::Lookup;
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

/// Bounds and choices of an engine.
#[derive(Debug, Clone, PartialEq)]
pub struct EngineOptions {
    /// Most sequences written at once.
    pub batch: usize,
    /// Rows of a pass while prompts are read, and tokens that a guessing model reads before it: a bound on the time between two
    /// tokens of those that write. Guesses to be verified fit into it as well.
    pub chunk: usize,
    /// Most requests that wait; more are refused. 0, with which every request would be, is taken as 1.
    pub queue: usize,
    /// Most bytes of keys and values of running sequences, a guessing model's included; a request waits until what it may need
    /// is free.
    pub cache_bytes: usize,
    /// Most bytes of states kept for sequences that begin alike.
    pub prefix_bytes: usize,
    /// Threads; `None` finds out how many decode fastest.
    pub threads: Option<usize>,
    /// Guess from the text itself, and verify several tokens in one pass.
    pub lookup: Option<Lookup>,
}

impl Default for EngineOptions {
    /// 16 sequences, chunks of 256 rows, 64 waiting, 1 GiB for sequences and 256 MiB for beginnings, lookup on.
    fn default() -> Self {
        Self {
            batch: 16,
            chunk: 256,
            queue: 64,
            cache_bytes: 1 << 30,
            prefix_bytes: 256 << 20,
            threads: None,
            lookup: Some(Lookup::default()),
        }
    }
}

/// A request on its way to the thread.
struct Submission {
    ticket: Ticket,
    prepared: Prepared,
    events: Sender<Event>,
}

/// What an engine holds at a moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Load {
    /// Requests that wait.
    pub waiting: usize,
    /// Sequences being written.
    pub running: usize,
    /// Bytes of keys and values of the sequences being written, a guessing model's included.
    pub state_bytes: usize,
    /// Bytes of keys and values kept for sequences that begin alike.
    pub prefix_bytes: usize,
}

impl Load {
    /// Whether nothing waits and nothing is written.
    pub fn is_idle(&self) -> bool {
        self.waiting == 0 && self.running == 0
    }

    fn of(scheduler: &Scheduler) -> Self {
        let (state_bytes, prefix_bytes) = scheduler.state_bytes();
        Self { waiting: scheduler.waiting(), running: scheduler.running(), state_bytes, prefix_bytes }
    }
}

#[derive(Default)]
struct Inbox {
    arrived: VecDeque<Submission>,
    /// What the scheduler holds.
    load: Load,
    /// The thread has ended, and takes nothing in any more.
    dead: bool,
}

struct Shared {
    inbox: Mutex<Inbox>,
    wake: Condvar,
    stopping: AtomicBool,
}

impl Shared {
    fn inbox(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the engine is not being dropped.
    fn going(&self) -> bool {
        !self.stopping.load(Ordering::Relaxed)
    }

    /// Ends what has arrived and all that comes later.
    fn close(&self) {
        let mut inbox = self.inbox();
        inbox.dead = true;
        inbox.load = Load::default();
        let arrived = std::mem::take(&mut inbox.arrived);
        drop(inbox);
        drop(arrived);
    }
}

/// Closes the inbox when the thread ends, by a panic as well: the inbox outlives the thread, and with it the senders of what
/// has arrived, whose streams would wait for ever.
struct Closing(Arc<Shared>);

impl Drop for Closing {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// Runs a model for many requests at once, on a thread of its own. Dropping it ends all requests.
pub struct Engine {
    plan: Arc<Plan>,
    /// What guesses, where a model does.
    draft: Option<Arc<Plan>>,
    /// Those of the scheduler.
    options: EngineOptions,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Engine {
    /// Starts an engine.
    pub fn new(plan: impl Into<Arc<Plan>>, options: EngineOptions) -> Self {
        let plan = plan.into();
        let scheduler = Scheduler::new(plan.clone(), options);
        let options = scheduler.options().clone();
        Self::start(plan, None, options, move |shared| serve(scheduler, shared, &|| shared.going()))
    }

    /// Starts an engine in which a smaller model of the same vocabulary guesses up to `tokens` tokens ahead. The texts are
    /// the same.
    ///
    /// # Errors
    /// As [`Scheduler::with_draft`].
    pub fn with_draft(
        plan: impl Into<Arc<Plan>>,
        draft: impl Into<Arc<Plan>>,
        tokens: usize,
        options: EngineOptions,
    ) -> Result<Self> {
        let (plan, draft) = (plan.into(), draft.into());
        let scheduler = Scheduler::new(plan.clone(), options).with_draft(draft.clone(), tokens)?;
        let options = scheduler.options().clone();
        Ok(Self::start(plan, Some(draft), options, move |shared| serve(scheduler, shared, &|| shared.going())))
    }

    fn start(
        plan: Arc<Plan>,
        draft: Option<Arc<Plan>>,
        options: EngineOptions,
        run: impl FnOnce(&Shared) + Send + 'static,
    ) -> Self {
        let shared =
            Arc::new(Shared { inbox: Mutex::default(), wake: Condvar::new(), stopping: AtomicBool::new(false) });
        // Dropped with the closure even if no thread can be started: requests are refused then as by an engine that has stopped.
        let closing = Closing(shared.clone());
        let work = move || {
            let closing = closing;
            run(&closing.0);
        };
        let thread = std::thread::Builder::new().name("gently-engine".into()).spawn(work).ok();
        Self { plan, draft, options, shared, thread }
    }

    /// The plan it runs.
    pub fn plan(&self) -> &Arc<Plan> {
        &self.plan
    }

    /// What it holds between its last pass and its next, with the requests that have arrived since.
    pub fn load(&self) -> Load {
        let inbox = self.shared.inbox();
        Load { waiting: inbox.load.waiting + inbox.arrived.len(), ..inbox.load }
    }

    /// Starts a request and gives the stream of its tokens. Dropping the stream cancels the request.
    ///
    /// # Errors
    /// [`Error::Busy`] when too many wait; [`Error::Tokens`], [`Error::TooLong`], [`Error::Request`], [`Error::State`] and
    /// [`Error::Sampling`] for a request that this model cannot serve; [`Error::Stopped`].
    pub fn submit(&self, request: Request) -> Result<Stream> {
        let prepared = prepare(&self.plan, self.draft.as_deref(), &self.options, request)?;
        let mut inbox = self.shared.inbox();
        if inbox.dead {
            return Err(Error::Stopped);
        }
        let waiting = inbox.arrived.len() + inbox.load.waiting;
        if waiting >= self.options.queue {
            return Err(Error::Busy { waiting });
        }
        let ticket = Ticket::new();
        let (sender, events) = channel();
        inbox.arrived.push_back(Submission { ticket: ticket.clone(), prepared, events: sender });
        drop(inbox);
        self.shared.wake.notify_one();
        Ok(Stream { ticket, events, end: None })
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // Under the lock, so that the thread cannot miss it between looking and waiting.
        let inbox = self.shared.inbox();
        self.shared.stopping.store(true, Ordering::Relaxed);
        drop(inbox);
        self.shared.wake.notify_one();
        if let Some(thread) = self.thread.take() {
            // A panic in it has been reported by the thread itself.
            let _ = thread.join();
        }
    }
}

/// The thread: takes in requests, runs passes, gives out events; waits when there is nothing to do. `going` is asked inside of
/// passes.
fn serve(mut scheduler: Scheduler, shared: &Shared, going: &dyn Fn() -> bool) {
    let mut streams: HashMap<u64, Sender<Event>> = HashMap::new();
    while shared.going() {
        let mut inbox = shared.inbox();
        while inbox.arrived.is_empty() && scheduler.is_idle() && shared.going() {
            inbox = shared.wake.wait(inbox).unwrap_or_else(PoisonError::into_inner);
        }
        for Submission { ticket, prepared, events } in std::mem::take(&mut inbox.arrived) {
            streams.insert(ticket.id(), events);
            scheduler.enqueue(ticket, prepared);
        }
        // Before the inbox is open again: a request with a place does not wait, however long the pass takes, and one without
        // is still in the queue.
        let events = scheduler.admit();
        inbox.load = Load::of(&scheduler);
        drop(inbox);
        give_out(&mut streams, events);
        let events = scheduler.pass(going);
        // Before its last events are given out: who has seen the end of a request sees its place free.
        shared.inbox().load = Load::of(&scheduler);
        give_out(&mut streams, events);
    }
}

fn give_out(streams: &mut HashMap<u64, Sender<Event>>, events: Vec<(Ticket, Event)>) {
    for (ticket, event) in events {
        let ended = matches!(event, Event::End(_));
        // A receiver that is gone has cancelled by being dropped.
        let _ = streams.get(&ticket.id()).map(|s| s.send(event));
        if ended {
            streams.remove(&ticket.id());
        }
    }
}

/// The tokens of a request as they are written.
pub struct Stream {
    ticket: Ticket,
    events: Receiver<Event>,
    end: Option<End>,
}

impl Stream {
    /// Why the text ended; `None` while it goes on.
    pub fn end(&self) -> Option<End> {
        self.end
    }

    /// Ends the request; the stream then ends with [`End::Cancelled`].
    pub fn cancel(&self) {
        self.ticket.cancel();
    }

    /// The request's name, which can cancel it from elsewhere.
    pub fn ticket(&self) -> &Ticket {
        &self.ticket
    }
}

impl Iterator for Stream {
    type Item = Result<Token>;

    fn next(&mut self) -> Option<Result<Token>> {
        if self.end.is_some() {
            return None;
        }
        match self.events.recv() {
            Ok(Event::Token(token)) => Some(Ok(token)),
            Ok(Event::Error(error)) => Some(Err(error.into())),
            Ok(Event::End(end)) => {
                self.end = Some(end);
                None
            }
            Err(_) => {
                self.end = Some(End::Cancelled);
                Some(Err(Error::Stopped))
            }
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.ticket.cancel();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::plan;
    use std::sync::atomic::AtomicUsize;

    #[test]
    fn what_has_a_place_does_not_wait() {
        let plan = plan();
        let scheduler = Scheduler::new(plan.clone(), EngineOptions { threads: Some(1), ..EngineOptions::default() });
        let options = scheduler.options().clone();
        let most = Arc::new(AtomicUsize::new(0));
        let seen = most.clone();
        let engine = Engine::start(plan, None, options, move |shared| {
            let look = || {
                seen.fetch_max(shared.inbox().load.waiting, Ordering::Relaxed);
                shared.going()
            };
            serve(scheduler, shared, &look);
        });
        let stream = engine.submit(Request { max_tokens: 3, ..Request::new(vec![1]) }).unwrap();
        assert_eq!(stream.filter(|t| t.is_ok()).count(), 3);
        assert_eq!(most.load(Ordering::Relaxed), 0, "seen from inside of its passes");
    }

    #[test]
    fn streams_end_when_the_thread_panics() {
        let (go, wait) = channel::<()>();
        let engine = Engine::start(plan(), None, EngineOptions::default(), move |_| {
            let _ = wait.recv();
            panic!("on purpose");
        });
        let ask = || engine.submit(Request::new(vec![1]));
        let mut waiting = ask().unwrap();
        assert_eq!(engine.load().waiting, 1);
        drop(go);
        assert!(matches!(waiting.next(), Some(Err(Error::Stopped))));
        assert!(waiting.next().is_none());
        assert!(matches!(ask(), Err(Error::Stopped)));
        assert!(engine.load().is_idle());
    }
}
