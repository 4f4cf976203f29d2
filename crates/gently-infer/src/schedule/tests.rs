use super::*;
use crate::plan::PlanOptions;
use crate::speculate::Lookup;
use crate::state::left;
use gently_models::{Decoder, DecoderConfig};
use gently_tensor::{Device, Rng};

fn plan() -> Arc<Plan> {
    let cfg = DecoderConfig { vocab: 16, layers: 1, heads: 2, width: 8, ..DecoderConfig::named("gpt2").unwrap() };
    let model = Decoder::new(&cfg, &Rng::new(0), &Device::Cpu).unwrap();
    Arc::new(Plan::new(&model, PlanOptions::default()).unwrap())
}

/// Always chooses token 5.
fn fives() -> SamplingParams {
    SamplingParams { temperature: 0.0, logit_bias: [(5, 1e4)].into(), ..SamplingParams::default() }
}

#[test]
fn guesses_fit_into_a_chunk() {
    let lookup = Some(Lookup { longest: 2, shortest: 1, draft: usize::MAX });
    let options = EngineOptions { chunk: 8, threads: Some(1), prefix_bytes: 0, lookup, ..EngineOptions::default() };
    let mut scheduler = Scheduler::new(plan(), options);
    // What is written first, 5, stands in the prompt with eleven tokens behind it.
    let prompt: Vec<u32> = (1..=15).chain(1..=15).collect();
    for _ in 0..3 {
        scheduler.submit(Request { max_tokens: 20, sampling: fives(), ..Request::new(prompt.clone()) }).unwrap();
    }
    let (mut most, mut guessed) = (0usize, 0usize);
    while !scheduler.is_idle() {
        let inputs = scheduler.compose(&|| true);
        most = most.max(inputs.iter().map(|i| i.tokens.len()).sum());
        guessed = guessed.max(inputs.iter().map(|i| i.draft).sum());
        scheduler.step(&|| true);
    }
    // Beside a full pass prompts get a quarter of a chunk.
    assert_eq!(guessed, 5, "a chunk less a token for each");
    assert!(most <= 8 + 2, "{most} rows");
}

#[test]
fn wrong_guesses_are_not_kept_for_others() {
    let lookup = Some(Lookup { longest: 2, shortest: 1, draft: 4 });
    let options = EngineOptions { threads: Some(1), prefix_bytes: 1 << 20, lookup, ..EngineOptions::default() };
    let mut scheduler = Scheduler::new(plan(), options);
    let prompt: Vec<u32> = (0..70).map(|i| 1 + i % 15).collect();
    let ask = |max_tokens| Request { max_tokens, sampling: fives(), ..Request::new(prompt.clone()) };
    scheduler.submit(ask(1)).unwrap();
    scheduler.step(&|| true);
    assert!(scheduler.is_idle());
    // Its prompt is known but for the last token, so that its first pass has guesses in it: what followed 9 and 10 before.
    scheduler.submit(ask(20)).unwrap();
    scheduler.step(&|| true);
    assert_eq!(scheduler.running[0].tokens[70..], [5]);
    let guessed = [&prompt[..], &[11, 12, 13, 14]].concat();
    assert_eq!(scheduler.prefix.lookup(&guessed, usize::MAX).unwrap().tokens(), prompt);
}

#[test]
fn what_was_read_before_is_not_read_again() {
    let options =
        EngineOptions { chunk: 4, threads: Some(1), prefix_bytes: 0, lookup: None, ..EngineOptions::default() };
    let (plan, prompt) = (plan(), (0..20).map(|i| 1 + i % 15).collect::<Vec<u32>>());
    let mut state = plan.state();
    plan.prefill(&mut Work::new(), &mut state, &prompt).unwrap();
    for (state, passes) in [(None, 5), (Some(state), 1)] {
        let mut scheduler = Scheduler::new(plan.clone(), options.clone());
        let request = Request { max_tokens: 1, sampling: fives(), state, ..Request::new(prompt.clone()) };
        scheduler.submit(request).unwrap();
        let mut made = 0;
        while !scheduler.is_idle() {
            scheduler.step(&|| true);
            made += 1;
        }
        assert_eq!(made, passes);
    }
}

#[test]
fn a_request_without_memory_for_its_pages_fails_alone() {
    let options = EngineOptions { threads: Some(1), prefix_bytes: 0, lookup: None, ..EngineOptions::default() };
    let mut scheduler = Scheduler::new(plan(), options);
    let ask = |prompt: Vec<u32>| Request { max_tokens: 4, sampling: fives(), ..Request::new(prompt) };
    let long = || ask(vec![3; 2 * PAGE + 1]);
    let short = scheduler.submit(ask(vec![1, 2])).unwrap();
    scheduler.submit(long()).unwrap();
    // One for the short text, and one of three for the long one.
    left::set(2);
    let (mut written, mut failed) = (Vec::new(), Vec::new());
    while !scheduler.is_idle() {
        for (ticket, event) in scheduler.step(&|| true) {
            if ticket.id() == short.id() { written.push(event) } else { failed.push(event) }
        }
        let page = PAGE * scheduler.plan.cache_bytes_per_token();
        assert!(scheduler.state_bytes().0 <= scheduler.running().min(1) * page, "what could not be read is given back");
    }
    left::set(usize::MAX);
    assert_eq!((written.len(), written.last()), (5, Some(&Event::End(End::Length))));
    let [Event::Error(error), Event::End(End::Failed)] = &failed[..] else { panic!("{failed:?}") };
    assert!(matches!(error, Failure::NoMemory { .. }) && Error::from(error.clone()).hint().is_some(), "{error}");
    // It was not the scheduler's end.
    scheduler.submit(long()).unwrap();
    let mut events = Vec::new();
    while !scheduler.is_idle() {
        events.extend(scheduler.step(&|| true));
    }
    assert!(matches!(events.last(), Some((_, Event::End(End::Length)))), "{events:?}");
}
