//! Whatever runs beside a request, however passes are cut, and whatever is guessed or found in the cache: the same text.

mod common;

use common::options;
use gently_formats::gguf::TensorType;
use gently_infer::{
    Constraint, Elem, End, Engine, EngineOptions, Error, Event, Failure, Grammar, Grammars, Lookup, Plan, PlanOptions,
    Request, Scheduler, Ticket, Work,
};
use gently_models::config::{DecoderConfig, Family, Position};
use gently_models::sampling::{SamplingParams, logprobs};
use gently_models::weights::Storage;
use gently_models::{Decoder, WeightSource};
use gently_tensor::{Device, Rng};
use gently_text::Tokenizer;
use proptest::prelude::*;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

const VOCAB: u64 = 13;

fn tiny() -> Arc<Plan> {
    static PLAN: OnceLock<Arc<Plan>> = OnceLock::new();
    PLAN.get_or_init(|| model(3)).clone()
}

fn other() -> Arc<Plan> {
    static PLAN: OnceLock<Arc<Plan>> = OnceLock::new();
    PLAN.get_or_init(|| model(4)).clone()
}

fn model(seed: u64) -> Arc<Plan> {
    lowered(&weights(seed))
}

fn lowered(model: &Decoder) -> Arc<Plan> {
    Arc::new(Plan::new(model, PlanOptions { cache: Elem::F16 }).unwrap())
}

fn weights(seed: u64) -> Decoder {
    let cfg = DecoderConfig {
        vocab: VOCAB as usize,
        context: 48,
        layers: 1,
        heads: 2,
        kv_heads: Some(1),
        width: 8,
        mlp_width: Some(8),
        init_std: 0.6,
        ..DecoderConfig::preset(Family::Llama)
    };
    Decoder::new(&cfg, &Rng::new(seed), &Device::Cpu).unwrap()
}

/// Of integer weights, with a context of several pages.
fn large() -> Arc<Plan> {
    static PLAN: OnceLock<Arc<Plan>> = OnceLock::new();
    let make = || {
        let cfg = DecoderConfig {
            vocab: VOCAB as usize,
            context: 160,
            layers: 1,
            heads: 2,
            kv_heads: Some(1),
            width: 32,
            mlp_width: Some(32),
            init_std: 0.3,
            ..DecoderConfig::preset(Family::Llama)
        };
        let dir = tempfile::tempdir().unwrap();
        let (folder, file) = (dir.path().join("m"), dir.path().join("m.gguf"));
        Decoder::new(&cfg, &Rng::new(3), &Device::Cpu).unwrap().save_pretrained(&folder).unwrap();
        let storage = Storage::new(TensorType::Q4_0);
        WeightSource::open(&folder).unwrap().write_gguf(&file, storage, &[], |_, _| ()).unwrap();
        let source = WeightSource::open(&file).unwrap();
        let plan = Plan::of_files(&source, PlanOptions { cache: Elem::F16 }).unwrap();
        assert!(plan.weight_types().contains_key("Q4_0"), "{:?}", plan.weight_types());
        Arc::new(plan)
    };
    PLAN.get_or_init(make).clone()
}

/// Grammars over the thirteen tokens, with texts that are forced in part and come again.
fn grammar(which: u64) -> Option<Grammar> {
    static GRAMMARS: OnceLock<Vec<Grammar>> = OnceLock::new();
    let all = GRAMMARS.get_or_init(|| {
        let grammars = Grammars::new(&Tokenizer::characters("abcdefghijkl".chars()).with_end_of_text("<end>")).unwrap();
        let all = [Constraint::regex("(abc|dea){2,7}(fgh)?"), Constraint::choice(["abcabcabd", "abcabcabk", "l"])];
        all.map(|c| grammars.compile(&c.unwrap()).unwrap()).into()
    });
    all.get(which as usize % 4).cloned()
}

/// One of a few prompts that begin alike, greedy or drawn, some held to a grammar.
fn request(which: u64) -> Request {
    let mut rng = Rng::new(which / 3 % 4);
    let mut prompt: Vec<u32> = (0..1 + which % 20).map(|_| rng.below(VOCAB) as u32).collect();
    prompt.extend((0..which % 3).map(|i| (which / 7 + i) as u32 % VOCAB as u32));
    let temperature = if which.is_multiple_of(2) { 0.0 } else { 0.7 };
    let sampling = SamplingParams { temperature, seed: which, ..SamplingParams::default() };
    Request {
        max_tokens: 1 + (which % 23) as usize,
        sampling,
        stop: if which.is_multiple_of(5) { vec![4] } else { vec![] },
        slide: which.is_multiple_of(3),
        logprobs: which.is_multiple_of(11).then_some(1),
        grammar: grammar(which / 2),
        ..Request::new(prompt)
    }
}

/// The same behind a beginning of a page or two, for the large model.
fn long_request(which: u64) -> Request {
    let asked = request(which);
    let begin = (0..60 + which % 3 * 30).map(|i| (i * i % 11) as u32);
    Request { prompt: begin.chain(asked.prompt.iter().copied()).collect(), ..asked }
}

type Text = (Vec<u32>, End);

/// What the request writes alone, with nothing guessed or remembered.
fn alone(which: u64) -> Text {
    alone_of(which, false)
}

/// What it writes so, or the long one of its number.
fn alone_of(which: u64, long: bool) -> Text {
    static KNOWN: OnceLock<Mutex<HashMap<(u64, bool), Text>>> = OnceLock::new();
    let known = KNOWN.get_or_init(Mutex::default);
    if let Some(text) = known.lock().unwrap().get(&(which, long)) {
        return text.clone();
    }
    let (plan, request) = if long { (large(), long_request(which)) } else { (tiny(), request(which)) };
    let mut scheduler = Scheduler::new(plan, options());
    let ticket = scheduler.submit(request).unwrap();
    let text = run(&mut scheduler).remove(&ticket.id()).unwrap();
    known.lock().unwrap().insert((which, long), text.clone());
    text
}

fn note(texts: &mut HashMap<u64, Text>, events: Vec<(Ticket, Event)>) {
    for (ticket, event) in events {
        let text = texts.entry(ticket.id()).or_insert((Vec::new(), End::Failed));
        match event {
            Event::Token(token) => text.0.push(token.id),
            Event::Error(error) => panic!("{error}"),
            Event::End(end) => text.1 = end,
        }
    }
}

fn run(scheduler: &mut Scheduler) -> HashMap<u64, Text> {
    let mut texts = HashMap::new();
    while !scheduler.is_idle() {
        note(&mut texts, scheduler.step(&|| true));
    }
    texts
}

#[derive(Debug, Clone)]
enum Act {
    Submit(u64),
    Step,
    /// Cancels the n-th request.
    Cancel(usize),
    /// A pass that is called off.
    CallOff,
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        4 => (0u64..120).prop_map(Act::Submit),
        5 => Just(Act::Step),
        1 => (0usize..6).prop_map(Act::Cancel),
        1 => Just(Act::CallOff),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 10_000, ..ProptestConfig::default() })]

    #[test]
    fn a_text_does_not_depend_on_the_schedule(
        acts in prop::collection::vec(act(), 1..14),
        batch in 1usize..5,
        chunk in 1usize..24,
        prefix_pages in 0usize..6,
        draft in 0usize..6,
        guesser in 0usize..6,
        // Few, since they take long: texts of several pages and quantized weights, on two threads.
        long in prop::bool::weighted(1.0 / 64.0),
    ) {
        let plan = if long { large() } else { tiny() };
        let page = 64 * plan.cache_bytes_per_token();
        let pages = if long { 3 } else { 1 };
        let ask = if long { long_request } else { request };
        let mut scheduler = Scheduler::new(plan.clone(), EngineOptions {
            batch,
            chunk,
            prefix_bytes: prefix_pages * page,
            // The model that guesses has as large a cache.
            cache_bytes: if guesser < 2 { 6 * pages * page } else { 3 * pages * page },
            lookup: (draft > 0).then_some(Lookup { longest: 3, shortest: 1, draft }),
            threads: Some(if long { 2 } else { 1 }),
            ..options()
        });
        // Mostly none; a model that guesses wrong, or the model itself.
        if let Some(model) = [other(), plan].get(guesser) {
            scheduler = scheduler.with_draft(model.clone(), 1 + draft).unwrap();
        }
        let (mut asked, mut texts) = (Vec::new(), HashMap::new());
        for act in acts {
            match act {
                Act::Submit(which) => asked.push((scheduler.submit(ask(which)).unwrap(), which, false)),
                Act::Step => note(&mut texts, scheduler.step(&|| true)),
                Act::Cancel(n) => if let Some(request) = asked.get_mut(n) {
                    request.0.cancel();
                    request.2 = true;
                },
                Act::CallOff => note(&mut texts, scheduler.step(&|| false)),
            }
        }
        while !scheduler.is_idle() {
            note(&mut texts, scheduler.step(&|| true));
        }
        for (ticket, which, cancelled) in asked {
            let (got, end) = &texts[&ticket.id()];
            let (want, want_end) = alone_of(which, long);
            if cancelled && *end == End::Cancelled {
                prop_assert!(want.starts_with(got));
            } else {
                prop_assert_eq!(got, &want, "request {}", which);
                prop_assert_eq!(end, &want_end, "request {}", which);
            }
        }
        prop_assert_eq!(scheduler.state_bytes().0, 0);
        prop_assert!(scheduler.state_bytes().1 <= prefix_pages * page);
    }
}

#[test]
fn long_texts_slide_or_end_where_the_context_does() {
    let ask =
        |slide| Request { max_tokens: 100, slide, sampling: SamplingParams::default(), ..Request::new(vec![1, 2]) };
    for (slide, tokens, end) in [(true, 100, End::Length), (false, 47, End::Context)] {
        let mut scheduler = Scheduler::new(tiny(), options());
        let ticket = scheduler.submit(ask(slide)).unwrap();
        let text = run(&mut scheduler).remove(&ticket.id()).unwrap();
        assert_eq!((text.0.len(), text.1), (tokens, end));
    }
}

#[test]
fn a_state_that_is_given_never_changes_the_text() {
    let (plan, mut work) = (tiny(), Work::new());
    for which in 0..60 {
        let asked = request(which);
        // Some of the prompt or all of it, and mostly something else behind.
        let part = which as usize * 7 % (asked.prompt.len() + 1);
        let ids = [&asked.prompt[..part], &[3, 1, 2][..which as usize % 4 % 3]].concat();
        let mut state = plan.state();
        plan.prefill(&mut work, &mut state, &ids).unwrap();
        let mut scheduler = Scheduler::new(plan.clone(), EngineOptions { prefix_bytes: 1 << 20, ..options() });
        let given = Request { state: Some(state.clone()), ..asked.clone() };
        let tickets = [given.clone(), given].map(|r| scheduler.submit(r).unwrap());
        let texts = run(&mut scheduler);
        tickets.iter().for_each(|ticket| assert_eq!(texts[&ticket.id()], alone(which), "request {which}"));
        assert_eq!(state.tokens(), ids, "a fork was written into");
    }
    let foreign = Request { state: Some(other().state()), ..request(1) };
    let said = Scheduler::new(plan, options()).submit(foreign).unwrap_err();
    assert!(matches!(said, Error::State { .. }), "{said}");
}

#[test]
fn requests_that_cannot_be_served_are_refused_by_name() {
    let mut scheduler = Scheduler::new(tiny(), EngineOptions { queue: 1, ..options() });
    let refuse = |s: &mut Scheduler, r: Request| s.submit(r).unwrap_err().to_string();
    assert!(refuse(&mut scheduler, Request::new(vec![])).contains("no tokens"));
    assert!(refuse(&mut scheduler, Request::new(vec![99])).contains("vocabulary of 13"));
    assert!(refuse(&mut scheduler, Request::new(vec![1; 49])).contains("context of 48"));
    let logprobs = Request { logprobs: Some(1000), ..Request::new(vec![1]) };
    assert!(refuse(&mut scheduler, logprobs).contains("logprobs"));
    let sampling = SamplingParams { top_p: 2.0, ..SamplingParams::default() };
    assert!(refuse(&mut scheduler, Request { sampling, ..Request::new(vec![1]) }).contains("top_p"));
    scheduler.submit(Request::new(vec![1])).unwrap();
    assert!(matches!(scheduler.submit(Request::new(vec![1])), Err(Error::Busy { waiting: 1 })));
    let mut small = Scheduler::new(tiny(), EngineOptions { cache_bytes: 10, ..options() });
    assert!(refuse(&mut small, Request::new(vec![1])).contains("bytes"));
}

#[test]
fn a_request_that_rules_out_every_token_fails() {
    let ask = |ids: std::ops::Range<u32>, below| {
        let logit_bias = ids.map(|id| (id, f32::NEG_INFINITY)).collect();
        let sampling = SamplingParams { logit_bias, ..SamplingParams::default() };
        Request { max_tokens: 3, sampling, below, ..Request::new(vec![1]) }
    };
    let engine = Engine::new(tiny(), options());
    let all = VOCAB as u32;
    let cases = [(ask(0..all, None), 0), (ask(0..2, Some(2)), 0), (ask(1..all, None), 3), (ask(0..2, None), 3)];
    for (request, tokens) in cases {
        let mut stream = engine.submit(request).unwrap();
        let (written, errors): (Vec<_>, Vec<_>) = stream.by_ref().partition(Result::is_ok);
        assert_eq!(written.len(), tokens);
        let end = match &errors[..] {
            [] => End::Length,
            [Err(error @ Error::Request { what })] => {
                assert!(what.contains("logit_bias") && error.hint().is_some(), "{error}");
                End::Failed
            }
            other => panic!("{other:?}"),
        };
        assert_eq!((stream.end(), end == End::Failed), (Some(end), tokens == 0));
    }
}

#[test]
fn the_engine_streams_cancels_and_keeps_deadlines() {
    let engine =
        Engine::new(tiny(), EngineOptions { prefix_bytes: 1 << 20, lookup: Some(Lookup::default()), ..options() });
    let streams: Vec<_> = (0..40).map(|which| (which, engine.submit(request(which)).unwrap())).collect();
    for (which, mut stream) in streams {
        let got: Vec<u32> = stream.by_ref().map(|t| t.unwrap().id).collect();
        assert_eq!((got, stream.end().unwrap()), alone(which));
    }
    let endless = || Request { max_tokens: 1 << 20, slide: true, ..Request::new(vec![1]) };
    let mut stream = engine.submit(endless()).unwrap();
    assert!(stream.next().unwrap().is_ok());
    stream.cancel();
    assert!(stream.by_ref().all(|t| t.is_ok()));
    assert_eq!(stream.end(), Some(End::Cancelled));

    let mut late = engine.submit(Request { deadline: Some(Instant::now()), ..endless() }).unwrap();
    assert!(late.next().is_none());
    assert_eq!(late.end(), Some(End::Deadline));
    let soon = Some(Instant::now() + Duration::from_millis(20));
    let mut soon = engine.submit(Request { deadline: soon, ..endless() }).unwrap();
    assert!(soon.by_ref().all(|t| t.is_ok()));
    assert_eq!(soon.end(), Some(End::Deadline));

    // A dropped stream frees its place, and an engine that goes away ends those that remain.
    drop(engine.submit(endless()).unwrap());
    let mut left = engine.submit(endless()).unwrap();
    drop(engine);
    assert!(left.by_ref().any(|t| matches!(t, Err(Error::Stopped))));
}

#[test]
fn a_deadline_ends_a_pass_before_its_next_layer() {
    let mut scheduler = Scheduler::new(tiny(), options());
    let deadline = Instant::now() + Duration::from_millis(50);
    let ticket = scheduler.submit(Request { deadline: Some(deadline), ..Request::new(vec![1, 2]) }).unwrap();
    let mut texts = HashMap::new();
    // The deadline comes while the pass runs: without a look at it the pass would give a token.
    let late = || {
        while Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        true
    };
    while !scheduler.is_idle() {
        note(&mut texts, scheduler.step(&late));
    }
    assert_eq!(texts[&ticket.id()], (vec![], End::Deadline));
}

#[test]
fn a_text_ends_with_an_error_where_the_model_gives_no_numbers() {
    let model = weights(3);
    let width = model.config().width;
    let table = model.params().iter().find(|p| p.name == "embed.tokens").unwrap();
    table.tensor.with_data_mut::<f32, _>(|w| w[5 * width..6 * width].fill(f32::NAN)).unwrap();
    let broken = lowered(&model);
    // Token 5 is read from the prompt, and written by nobody.
    let ask = |prompt: &[u32], temperature| {
        let sampling =
            SamplingParams { temperature, logit_bias: [(5, f32::NEG_INFINITY)].into(), ..Default::default() };
        Request { max_tokens: 6, sampling, ..Request::new(prompt.to_vec()) }
    };
    let requests = [
        ask(&[1, 2, 3], 0.0),
        ask(&[1, 3, 5], 0.0),
        ask(&[1, 5], 0.7),
        Request { logprobs: Some(1), grammar: grammar(0), ..ask(&[5], 0.7) },
    ];
    let mut scheduler = Scheduler::new(broken.clone(), options());
    let tickets: Vec<Ticket> = requests.iter().map(|r| scheduler.submit(r.clone()).unwrap()).collect();
    let (mut texts, mut errors) = (HashMap::new(), HashMap::new());
    while !scheduler.is_idle() {
        let mut events = scheduler.step(&|| true);
        events.retain(|(ticket, event)| match event {
            Event::Error(e) => errors.insert(ticket.id(), e.clone()).is_some(),
            _ => true,
        });
        note(&mut texts, events);
    }
    for (ticket, request) in tickets.iter().zip(&requests).skip(1) {
        let tokens = request.prompt.len();
        assert_eq!(errors.get(&ticket.id()), Some(&Failure::NotNumbers { tokens }));
        assert_eq!(texts[&ticket.id()], (vec![], End::Failed));
    }
    // Who stands beside them does not know of it.
    let mut whole = Scheduler::new(tiny(), options());
    let ticket = whole.submit(requests[0].clone()).unwrap();
    assert_eq!(texts[&tickets[0].id()], run(&mut whole)[&ticket.id()]);
    assert_eq!((errors.len(), texts[&tickets[0].id()].0.len()), (3, 6));

    let engine = Engine::new(broken, options());
    let mut stream = engine.submit(requests[1].clone()).unwrap();
    let said = stream.next().unwrap().unwrap_err();
    assert!(matches!(said, Error::NotNumbers { tokens: 3 }) && said.hint().is_some(), "{said:?}");
    assert_eq!((stream.next().is_none(), stream.end()), (true, Some(End::Failed)));
}

#[test]
fn a_queue_of_none_holds_one() {
    let none = EngineOptions { queue: 0, ..options() };
    let mut scheduler = Scheduler::new(tiny(), none.clone());
    scheduler.submit(request(1)).unwrap();
    assert!(matches!(scheduler.submit(request(2)), Err(Error::Busy { waiting: 1 })));
    let engine = Engine::new(tiny(), none);
    let mut stream = engine.submit(request(1)).unwrap();
    let got: Vec<u32> = stream.by_ref().map(|t| t.unwrap().id).collect();
    assert_eq!((got, stream.end().unwrap()), alone(1));
}

#[test]
fn what_a_model_that_guesses_holds_is_counted() {
    let page = 64 * tiny().cache_bytes_per_token();
    let ask = || Request { max_tokens: 20, ..Request::new(vec![1, 2, 3]) };
    let with = |pages: usize| {
        let scheduler = Scheduler::new(tiny(), EngineOptions { cache_bytes: pages * page, ..options() });
        scheduler.with_draft(tiny(), 3).unwrap()
    };
    assert!(with(1).submit(ask()).unwrap_err().to_string().contains("bytes"));
    let mut scheduler = with(2);
    scheduler.submit(ask()).unwrap();
    let mut most = 0;
    while !scheduler.is_idle() {
        scheduler.step(&|| true);
        most = most.max(scheduler.state_bytes().0);
    }
    assert_eq!(most, 2 * page);
    // One that came before it is served all the same.
    let mut early = Scheduler::new(tiny(), EngineOptions { cache_bytes: page, ..options() });
    early.submit(ask()).unwrap();
    let mut early = early.with_draft(tiny(), 3).unwrap();
    assert_eq!(run(&mut early).len(), 1);
}

#[test]
fn a_draft_of_any_length_is_no_longer_than_a_chunk() {
    let mut scheduler = Scheduler::new(tiny(), options()).with_draft(tiny(), usize::MAX).unwrap();
    let ticket = scheduler.submit(request(14)).unwrap();
    assert_eq!(run(&mut scheduler)[&ticket.id()], alone(14));
}

#[test]
fn positions_without_an_end_are_counted_so_far() {
    let cfg = DecoderConfig {
        vocab: VOCAB as usize,
        layers: 1,
        heads: 2,
        width: 8,
        position: Position::Alibi,
        ..DecoderConfig::preset(Family::Gpt2)
    };
    let plan = lowered(&Decoder::new(&cfg, &Rng::new(3), &Device::Cpu).unwrap());
    assert_eq!(plan.room(), None);
    let mut scheduler = Scheduler::new(plan, EngineOptions { cache_bytes: usize::MAX, ..options() });
    let said = scheduler.submit(Request::new(vec![1; (1 << 24) + 1])).unwrap_err();
    assert!(matches!(said, Error::TooLong { tokens: 16_777_217, room: 16_777_216 }), "{said}");
}

#[test]
fn log_probabilities_come_with_the_tokens() {
    let mut scheduler = Scheduler::new(tiny(), options());
    let sampling = SamplingParams { temperature: 0.0, ..SamplingParams::default() };
    scheduler.submit(Request { logprobs: Some(3), max_tokens: 4, sampling, ..Request::new(vec![5]) }).unwrap();
    let mut tokens = 0;
    while !scheduler.is_idle() {
        for (_, event) in scheduler.step(&|| true) {
            let Event::Token(token) = event else { continue };
            tokens += 1;
            assert_eq!(token.top.len(), 3);
            assert_eq!(token.top[0].0, token.id, "greedy takes the likeliest");
            assert_eq!(token.logprob, Some(token.top[0].1));
            assert!(token.top[0].1 < 0.0 && token.top[0].1 >= token.top[1].1);
        }
    }
    assert_eq!(tokens, 4);
}

#[test]
fn log_probabilities_count_tokens_that_are_never_chosen() {
    let (plan, below) = (tiny(), 9);
    let sampling = SamplingParams { temperature: 0.0, ..SamplingParams::default() };
    let ask = |logprobs, constrained: Option<Grammar>| Request {
        logprobs: Some(logprobs),
        max_tokens: 6,
        below: Some(below),
        sampling: sampling.clone(),
        grammar: constrained,
        ..Request::new(vec![5, 1])
    };
    for (n, constrained) in [(3, None), (0, None), (100, None), (2, grammar(0))] {
        let mut scheduler = Scheduler::new(plan.clone(), options());
        scheduler.submit(ask(n, constrained)).unwrap();
        let mut ids = vec![5, 1];
        while !scheduler.is_idle() {
            for (_, event) in scheduler.step(&|| true) {
                let Event::Token(token) = event else { continue };
                let row = plan.read(&mut Work::new(), &mut plan.state(), &ids).unwrap().to_vec();
                let (own, mut all) = logprobs(&row, token.id, VOCAB as usize);
                assert!(own < logprobs(&row[..below], token.id, 0).0, "the others have a part of it");
                all.retain(|one| (one.0 as usize) < below);
                all.truncate(n);
                assert_eq!((token.logprob, &token.top), (Some(own), &all));
                ids.push(token.id);
            }
        }
        assert!(ids.len() > 2);
    }
}
