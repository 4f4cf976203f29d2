use super::*;
use crate::speculate::Lookup;
use crate::state::left;
use crate::testing::plan;

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
    assert_eq!(scheduler.prefix.lookup(&scheduler.plan, &guessed, usize::MAX).unwrap().tokens(), prompt);
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

#[test]
fn prompts_that_are_read_together_go_on_together() {
    // A share for each of three, and less than a token for each: then they take turns.
    for (chunk, most_apart) in [(9, 0), (2, 1), (1, 1)] {
        let options =
            EngineOptions { chunk, threads: Some(1), prefix_bytes: 0, lookup: None, ..EngineOptions::default() };
        let mut scheduler = Scheduler::new(plan(), options);
        for first in 1..=3 {
            scheduler.submit(Request { max_tokens: 1, sampling: fives(), ..Request::new(vec![first; 40]) }).unwrap();
        }
        for pass in 1..=12 {
            scheduler.step(&|| true);
            let read: Vec<usize> = scheduler.running.iter().map(|r| r.state.len()).collect();
            assert_eq!((read.len(), read.iter().sum::<usize>()), (3, pass * chunk));
            let apart = read.iter().max().unwrap() - read.iter().min().unwrap();
            assert!(apart <= most_apart, "{read:?} after {pass} passes of {chunk} rows");
        }
    }
}

#[test]
fn a_sequence_whose_guesses_are_wrong_makes_none_for_a_while() {
    let lookup = Some(Lookup { longest: 2, shortest: 1, draft: 4 });
    let options = EngineOptions { threads: Some(1), prefix_bytes: 0, lookup, ..EngineOptions::default() };
    let mut scheduler = Scheduler::new(plan(), options);
    let prompt: Vec<u32> = (1..=15).chain(1..=15).collect();
    scheduler.submit(Request { max_tokens: 40, sampling: fives(), ..Request::new(prompt) }).unwrap();
    // The prompt is read. After the 5 that is written stood other tokens, and that guess is wrong; those of later passes, a 5
    // after a 5, would be right.
    let mut written = Vec::new();
    for _ in 0..11 {
        let events = scheduler.step(&|| true);
        written.push(events.iter().filter(|(_, e)| matches!(e, Event::Token(_))).count());
    }
    assert_eq!(written, [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 2]);
}
