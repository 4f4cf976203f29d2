//! Random requests, cancellations and deadlines for as long as one likes: every request ends, every place and page comes back,
//! memory stays where it was, and what is finished is the text written alone.
//!
//! `GENTLY_SOAK_SECONDS` sets how long (a few seconds otherwise), `GENTLY_SOAK_SEED` the seed, which is printed:
//! `GENTLY_SOAK_SECONDS=600 cargo test --release --workspace --test soak -- --nocapture`. Alone in its process, because both
//! accounts of memory, the heap's and the system's, are the process's.

mod common;

use gently_infer::{
    Constraint, Elem, End, Engine, EngineOptions, Error, Event, Grammar, Grammars, Lookup, Plan, PlanOptions, Request,
    Scheduler, Stream,
};
use gently_kernels::kv::PAGE;
use gently_models::Decoder;
use gently_models::config::{DecoderConfig, Family};
use gently_models::sampling::SamplingParams;
use gently_tensor::{Device, Rng};
use gently_text::Tokenizer;
use peak_alloc::PeakAlloc;
use std::collections::BTreeMap;
use std::io::Write as _;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime};

/// Counts what is allocated and not freed, to the byte.
#[global_allocator]
static HEAP: PeakAlloc = PeakAlloc;

/// Different requests.
const KINDS: u64 = 240;
/// Threads that ask, requests of each in a round, and those that it has open at once.
const CLIENTS: u64 = 4;
const ASKED: usize = 60;
const OPEN: usize = 6;
/// Bytes of text, an end, and padding.
const VOCAB: usize = 260;
const CONTEXT: usize = 3 * PAGE;

/// What the heap may hold beyond its largest after the first rounds, whenever nothing is asked (the pages kept for sequences
/// that begin alike are bounded for themselves), and how far its largest within a round may rise.
const HEAP_SLACK: usize = 256 << 10;
const PEAK_SLACK: usize = 8 << 20;
/// The same for resident memory: the C library's allocator spreads while threads come and go.
const RESIDENT_SLACK: u64 = 24 << 20;
/// A request that has not ended after so many seconds is stuck: the longest takes well under one. Counted one by one, so that a
/// process that was halted for a while finds nothing stuck.
const STUCK: u32 = 120;

fn model(layers: usize, width: usize, seed: u64) -> Arc<Plan> {
    let cfg = DecoderConfig {
        vocab: VOCAB,
        context: CONTEXT,
        layers,
        heads: 2,
        kv_heads: Some(1),
        width,
        mlp_width: Some(width),
        init_std: 0.6,
        ..DecoderConfig::preset(Family::Llama)
    };
    let model = Decoder::new(&cfg, &Rng::new(seed), &Device::Cpu).unwrap();
    Arc::new(Plan::new(&model, PlanOptions { cache: Elem::F16 }).unwrap())
}

fn grammars() -> &'static [Grammar] {
    static ALL: OnceLock<Vec<Grammar>> = OnceLock::new();
    ALL.get_or_init(|| {
        let grammars = Grammars::new(&Tokenizer::bytes().with_end_of_text("<end>")).unwrap();
        let schema = r#"{"type": "object", "properties": {"name": {"type": "string", "maxLength": 9}, "ok": {"type": "boolean"}},
            "required": ["name", "ok"], "additionalProperties": false}"#;
        let all = [
            Constraint::regex("(abc|dea){2,30}(fgh)?"),
            Constraint::json_schema(schema),
            Constraint::lark("start: (\"yes \" | \"no \")+ /[0-9]{3}/"),
            Constraint::choice(["a rather long answer that is forced", "a rather long answer that is not", "short"]),
        ];
        all.map(|c| grammars.compile(&c.unwrap()).unwrap()).into()
    })
}

/// One of some requests, of which many begin alike.
fn request(which: u64) -> Request {
    let mut beginning = Rng::new(which % 5);
    let length = [1, 3, 20, PAGE - 1, PAGE + 1, 100, 150][which as usize % 7];
    let mut prompt: Vec<u32> = (0..length).map(|_| 97 + beginning.below(7) as u32).collect();
    let mut own = Rng::new(1000 + which);
    prompt.extend((0..which % 4).map(|_| own.below(256) as u32));
    let mut sampling = SamplingParams { seed: which, ..SamplingParams::default() };
    match which % 3 {
        0 => sampling.temperature = 0.0,
        1 => (sampling.temperature, sampling.top_p) = (0.8, 0.9),
        _ => (sampling.temperature, sampling.top_k, sampling.repetition_penalty) = (1.3, 40, 1.1),
    }
    Request {
        max_tokens: 1 + own.below(if which.is_multiple_of(10) { 300 } else { 60 }) as usize,
        sampling,
        stop: if which.is_multiple_of(4) { vec![100, 7] } else { vec![] },
        below: Some(257),
        slide: which.is_multiple_of(2),
        logprobs: which.is_multiple_of(11).then_some(2),
        grammar: grammars().get(which as usize % 9).cloned(),
        ..Request::new(prompt)
    }
}

/// A request that no model could serve.
fn impossible(which: u64) -> Request {
    match which % 5 {
        0 => Request::new(vec![]),
        1 => Request::new(vec![VOCAB as u32]),
        2 => Request::new(vec![1; CONTEXT + 1]),
        3 => Request { logprobs: Some(1 << 20), ..Request::new(vec![1]) },
        _ => Request { below: Some(0), ..Request::new(vec![1]) },
    }
}

type Text = (Vec<u32>, End);

/// What each request writes alone, with nothing guessed or remembered.
fn texts(plan: &Arc<Plan>) -> Vec<Text> {
    let alone = |which| {
        let mut scheduler = Scheduler::new(plan.clone(), common::options());
        scheduler.submit(request(which)).unwrap();
        let (mut tokens, mut ended) = (Vec::new(), None);
        while !scheduler.is_idle() {
            for (_, event) in scheduler.step(&|| true) {
                match event {
                    Event::Token(token) => tokens.push(token.id),
                    Event::Error(error) => panic!("request {which}: {error}"),
                    Event::End(end) => ended = Some(end),
                }
            }
        }
        (tokens, ended.unwrap())
    };
    (0..KINDS).map(alone).collect()
}

/// A text that may have been cut short by its deadline, or because somebody asked.
fn check(texts: &[Text], which: u64, found: &Text, cancelled: bool, deadline: bool) {
    let (want, end) = &texts[which as usize];
    match found.1 {
        End::Cancelled if cancelled => assert!(want.starts_with(&found.0), "request {which}: another text"),
        End::Deadline if deadline => assert!(want.starts_with(&found.0), "request {which}: another text"),
        _ => assert_eq!((&found.0, &found.1), (want, end), "request {which}"),
    }
}

/// How requests ended, by name.
#[derive(Default)]
struct Tally {
    ended: BTreeMap<&'static str, u64>,
    tokens: u64,
}

impl Tally {
    fn note(&mut self, how: &'static str) {
        *self.ended.entry(how).or_default() += 1;
    }

    fn end(&mut self, end: End, tokens: usize) {
        self.tokens += tokens as u64;
        self.note(match end {
            End::Length => "length",
            End::Stop(_) => "stop",
            End::Complete => "complete",
            End::Context => "context",
            End::Cancelled => "cancelled",
            End::Deadline => "deadline",
            End::Failed => "failed",
        });
    }

    fn add(&mut self, other: Self) {
        self.tokens += other.tokens;
        other.ended.into_iter().for_each(|(how, n)| *self.ended.entry(how).or_default() += n);
    }

    fn told(&self) -> String {
        let all: u64 = self.ended.values().sum();
        let each: Vec<String> = self.ended.iter().map(|(how, n)| format!("{n} {how}")).collect();
        format!("{all} requests ({}), {} tokens", each.join(", "), self.tokens)
    }
}

/// A request that a client waits for.
struct Asked {
    which: u64,
    stream: Stream,
    read: Vec<u32>,
    /// After how many tokens it is cancelled, and whether the stream is dropped then.
    patience: Option<(usize, bool)>,
    cancelled: bool,
    deadline: bool,
}

/// One who asks: up to [`OPEN`] requests at once, read in any order.
fn client(engine: &Engine, texts: &[Text], mut rng: Rng) -> Tally {
    let mut tally = Tally::default();
    let mut open: Vec<Asked> = Vec::new();
    let mut asked = 0;
    while asked < ASKED || !open.is_empty() {
        if asked < ASKED && open.len() < OPEN && rng.below(3) > 0 {
            asked += 1;
            if rng.below(20) == 0 {
                assert!(!matches!(engine.submit(impossible(rng.next_u64())), Ok(_) | Err(Error::Busy { .. })));
                tally.note("refused");
                continue;
            }
            let which = rng.below(KINDS);
            let deadline = rng.below(5) == 0;
            let patience = (rng.below(4) == 0).then(|| (rng.below(12) as usize, rng.below(2) == 0));
            let mut request = request(which);
            request.deadline = deadline.then(|| Instant::now() + Duration::from_micros(rng.below(30_000)));
            match engine.submit(request) {
                Ok(stream) => {
                    open.push(Asked { which, stream, read: Vec::new(), patience, cancelled: false, deadline })
                }
                Err(Error::Busy { .. }) => tally.note("busy"),
                Err(e) => panic!("request {which}: {e}"),
            }
            continue;
        }
        if open.is_empty() {
            continue;
        }
        let at = rng.below(open.len() as u64) as usize;
        let one = &mut open[at];
        // A few tokens of it, or all.
        for _ in 0..1 + rng.below(20) {
            if one.patience.is_some_and(|(tokens, _)| one.read.len() >= tokens) && !one.cancelled {
                one.cancelled = true;
                if one.patience.is_some_and(|(_, dropped)| dropped) {
                    open.swap_remove(at);
                    tally.note("dropped");
                    break;
                }
                // By name, as one from elsewhere would.
                one.stream.ticket().clone().cancel();
            }
            match one.stream.next() {
                Some(token) => one.read.push(token.unwrap().id),
                None => {
                    let one = open.swap_remove(at);
                    let end = one.stream.end().unwrap();
                    tally.end(end, one.read.len());
                    check(texts, one.which, &(one.read, end), one.cancelled, one.deadline);
                    break;
                }
            }
        }
    }
    tally
}

/// A round of all clients, to the end of what they asked.
fn round(engine: &Arc<Engine>, texts: &Arc<Vec<Text>>, rng: &Rng) -> Tally {
    let (done, ended) = channel();
    for n in 0..CLIENTS {
        let (engine, texts, rng, done) = (engine.clone(), texts.clone(), rng.substream(n), done.clone());
        std::thread::spawn(move || {
            let tally = client(&engine, &texts, rng);
            drop((engine, texts));
            let _ = done.send(tally);
        });
    }
    drop(done);
    let mut tally = Tally::default();
    for _ in 0..CLIENTS {
        let mut waits = (0..STUCK).map(|_| ended.recv_timeout(Duration::from_secs(1)));
        let found = waits.find(|w| !matches!(w, Err(RecvTimeoutError::Timeout)));
        tally.add(found.and_then(Result::ok).unwrap_or_else(|| panic!("a client has not ended: {:?}", engine.load())));
    }
    // Streams that were dropped have nobody who sees their end.
    let idle = (0..1000 * STUCK).any(|_| {
        std::thread::sleep(Duration::from_millis(1));
        engine.load().is_idle()
    });
    assert!(idle, "requests of nobody are still there: {:?}", engine.load());
    tally
}

/// The scheduler by itself, whose passes are called off in the middle.
fn scheduled(plan: &Arc<Plan>, draft: &Arc<Plan>, texts: &[Text], mut rng: Rng) -> Tally {
    let mut tally = Tally::default();
    // A guessing model's cache counts, too.
    let page = PAGE * (plan.cache_bytes_per_token() + draft.cache_bytes_per_token());
    let options = EngineOptions {
        batch: 1 + rng.below(6) as usize,
        chunk: 1 + rng.below(80) as usize,
        queue: 8,
        cache_bytes: (4 + rng.below(8) as usize) * page,
        prefix_bytes: rng.below(8) as usize * page,
        lookup: (rng.below(2) == 0).then_some(Lookup { longest: 3, shortest: 1, draft: 1 + rng.below(6) as usize }),
        threads: Some(1 + rng.below(2) as usize),
    };
    let mut scheduler = Scheduler::new(plan.clone(), options.clone());
    if rng.below(2) == 0 {
        scheduler = scheduler.with_draft(draft.clone(), 3).unwrap();
    }
    let mut asked = BTreeMap::new();
    let mut left = 60;
    while left > 0 || !scheduler.is_idle() {
        match rng.below(10) {
            0..3 if left > 0 => {
                left -= 1;
                let (which, deadline) = (rng.below(KINDS), rng.below(6) == 0);
                let mut request = request(which);
                request.deadline = deadline.then(|| Instant::now() + Duration::from_micros(rng.below(10_000)));
                match scheduler.submit(request) {
                    Ok(ticket) => {
                        asked.insert(ticket.id(), (ticket, which, Vec::new(), false, deadline));
                    }
                    Err(Error::Busy { waiting: 8 }) => tally.note("busy"),
                    Err(e) => panic!("request {which}: {e}"),
                }
                continue;
            }
            3 => {
                let at = rng.below(asked.len() as u64 + 1) as usize;
                if let Some((ticket, _, _, cancelled, _)) = asked.values_mut().nth(at) {
                    ticket.cancel();
                    *cancelled = true;
                }
                continue;
            }
            _ => {}
        }
        // Mostly whole passes; some end before their first or second layer.
        let layers = std::cell::Cell::new(if rng.below(8) == 0 { rng.below(2) } else { u64::MAX });
        let going = || {
            let left = layers.get();
            layers.set(left.saturating_sub(1));
            left > 0
        };
        for (ticket, event) in scheduler.step(&going) {
            match event {
                Event::Token(token) => asked.get_mut(&ticket.id()).unwrap().2.push(token.id),
                Event::Error(error) => panic!("{error}"),
                Event::End(end) => {
                    let (_, which, tokens, cancelled, deadline) = asked.remove(&ticket.id()).unwrap();
                    tally.end(end, tokens.len());
                    check(texts, which, &(tokens, end), cancelled, deadline);
                }
            }
        }
        assert!(scheduler.running() <= options.batch && scheduler.waiting() <= options.queue);
        let (running, kept) = scheduler.state_bytes();
        assert!(running <= options.cache_bytes && kept <= options.prefix_bytes);
    }
    assert!(asked.is_empty(), "requests without an end");
    assert_eq!(scheduler.state_bytes().0, 0);
    tally
}

fn resident() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find_map(|l| l.strip_prefix("VmRSS:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? << 10)
}

/// What a process holds when nothing is asked, and held at most in the round before.
#[derive(Debug, Default, Clone, Copy)]
struct Account {
    heap: usize,
    peak: usize,
    resident: u64,
}

impl Account {
    fn max(self, other: Self) -> Self {
        Self {
            heap: self.heap.max(other.heap),
            peak: self.peak.max(other.peak),
            resident: self.resident.max(other.resident),
        }
    }
}

#[test]
fn every_request_ends_and_memory_is_flat() {
    let given = |name: &str| std::env::var(name).ok().and_then(|s| s.parse::<u64>().ok());
    let whole = Duration::from_secs(given("GENTLY_SOAK_SECONDS").unwrap_or(4));
    let clock = SystemTime::UNIX_EPOCH.elapsed().map_or(0, |t| t.as_nanos() as u64);
    let seed = given("GENTLY_SOAK_SEED").unwrap_or(clock % 1_000_000);
    // Not through the harness, which would keep it in memory.
    let say = |text: String| drop(writeln!(std::io::stderr(), "{text}"));
    say(format!("soak of {} s, seed {seed}", whole.as_secs()));

    let (plan, draft) = (model(2, 16, 3), model(1, 8, 4));
    let texts = Arc::new(texts(&plan));
    // A guessing model's cache counts, too.
    let page = PAGE * (plan.cache_bytes_per_token() + draft.cache_bytes_per_token());
    let options = EngineOptions {
        batch: 6,
        chunk: 48,
        queue: 14,
        cache_bytes: 12 * page,
        prefix_bytes: 8 * page,
        threads: None,
        lookup: Some(Lookup { longest: 3, shortest: 1, draft: 4 }),
    };
    let engine = Arc::new(Engine::with_draft(plan.clone(), draft.clone(), 3, options.clone()).unwrap());
    let rng = Rng::new(seed);
    let begun = Instant::now();
    let (mut tally, mut alone) = (Tally::default(), Tally::default());
    let (mut first, mut later) = (Account::default(), Account::default());
    let (mut rounds, mut reported) = (0, Duration::ZERO);
    // The first rounds, a tenth of the time, show what is needed.
    while rounds < 8 || begun.elapsed() < whole {
        HEAP.reset_peak_usage();
        tally.add(round(&engine, &texts, &rng.substream(rounds)));
        let peak = HEAP.peak_usage();
        let load = engine.load();
        assert_eq!((load.waiting, load.running, load.state_bytes), (0, 0, 0));
        assert!(load.prefix_bytes <= options.prefix_bytes, "{load:?}");
        alone.add(scheduled(&plan, &draft, &texts, rng.substream(1 << 32 | rounds)));
        // The engine's thread may still be letting go of its last events.
        std::thread::sleep(Duration::from_millis(2));
        let now = Account { heap: HEAP.current_usage() - load.prefix_bytes, peak, resident: resident().unwrap_or(0) };
        rounds += 1;
        if rounds <= 6 || begun.elapsed() < whole / 10 {
            first = first.max(now);
        } else {
            later = later.max(now);
            assert!(now.heap <= first.heap + HEAP_SLACK, "heap after round {rounds}: {now:?}, first {first:?}");
            assert!(now.peak <= first.peak + PEAK_SLACK, "heap in round {rounds}: {now:?}, first {first:?}");
            assert!(now.resident <= first.resident + RESIDENT_SLACK, "round {rounds}: {now:?}, first {first:?}");
        }
        if begun.elapsed() - reported > Duration::from_secs(30) {
            reported = begun.elapsed();
            say(format!("{} s: {rounds} rounds; {}; {now:?}", reported.as_secs(), tally.told()));
        }
    }
    say(format!("engine: {rounds} rounds, {}", tally.told()));
    say(format!("scheduler, passes called off: {}", alone.told()));
    say(format!("bytes when idle, at most: first {first:?}, later {later:?}"));
    for how in ["length", "stop", "complete", "context", "cancelled", "deadline", "dropped", "refused"] {
        assert!(tally.ended.get(how).is_some_and(|n| *n > 0), "no request ended so: {how}");
    }
    assert!(!tally.ended.contains_key("failed") && !alone.ended.contains_key("failed"));

    // An engine that goes away ends what it was asked.
    let endless = || Request { max_tokens: 1 << 20, slide: true, ..Request::new(vec![1]) };
    let mut left: Vec<Stream> = (0..10).map(|_| engine.submit(endless()).unwrap()).collect();
    drop(Arc::into_inner(engine).unwrap());
    for stream in &mut left {
        assert!(stream.by_ref().any(|t| matches!(t, Err(Error::Stopped))));
    }
}
