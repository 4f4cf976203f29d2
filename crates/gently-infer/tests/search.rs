//! Searches against what looking at every text finds.

use gently_infer::{
    BeamOptions, ContrastiveOptions, End, Ends, Error, Hypothesis, Plan, PlanOptions, Work, beam_search,
    contrastive_search,
};
use gently_models::config::{DecoderConfig, Family};
use gently_models::sampling::logprobs;
use gently_models::{Decoder, ForwardCx};
use gently_tensor::{Device, Rng};
use std::collections::HashSet;

const VOCAB: u32 = 5;

fn model() -> Decoder {
    model_of(64)
}

fn model_of(context: usize) -> Decoder {
    let cfg = DecoderConfig {
        vocab: VOCAB as usize,
        context,
        layers: 1,
        heads: 2,
        kv_heads: Some(1),
        width: 8,
        mlp_width: Some(8),
        init_std: 0.9,
        ..DecoderConfig::preset(Family::Llama)
    };
    Decoder::new(&cfg, &Rng::new(11), &Device::Cpu).unwrap()
}

fn plan() -> Plan {
    Plan::new(&model(), PlanOptions::default()).unwrap()
}

/// Says of no text that it has ended.
fn never(_: &[u32]) -> Option<String> {
    None
}

/// A text has ended with a 3 or a 4, and comes to what stood before.
fn before_the_last(tokens: &[u32]) -> Option<String> {
    let (last, before) = tokens.split_last()?;
    (*last > 2).then(|| format!("{before:?}"))
}

/// Every text of up to `n` tokens after the prompt, with its log-probability; a text ends with `stop`, where `ends` says so, or at `n`.
fn every_text(plan: &Plan, prompt: &[u32], n: usize, stop: u32, ends: Ends<'_>) -> Vec<(Vec<u32>, f64)> {
    let mut work = Work::new();
    let mut open = vec![(Vec::new(), 0.0)];
    let mut done = Vec::new();
    while let Some((tokens, logprob)) = open.pop() {
        let ids = [prompt, &tokens].concat();
        let logits = plan.read(&mut work, &mut plan.state(), &ids).unwrap().to_vec();
        for id in 0..VOCAB {
            let next = ([&tokens[..], &[id]].concat(), logprob + f64::from(logprobs(&logits, id, 0).0));
            let over = id == stop || ends(&next.0).is_some() || next.0.len() == n;
            if over { done.push(next) } else { open.push(next) }
        }
    }
    done
}

#[test]
fn a_wide_beam_finds_the_best_of_all_texts() {
    let plan = plan();
    for (penalty, prompt) in [(0.0, vec![1]), (1.0, vec![2, 3]), (-0.5, vec![0, 4, 1]), (2.0, vec![3])] {
        let options = BeamOptions { width: 125, max_tokens: 4, length_penalty: penalty, stop: vec![2], below: None };
        let found = beam_search(&plan, &mut Work::new(), &prompt, &options, &never).unwrap();
        let mut all = every_text(&plan, &prompt, 4, 2, &never);
        let score = |t: &(Vec<u32>, f64)| t.1 / (t.0.len() as f64).powf(penalty);
        all.sort_by(|a, b| score(b).total_cmp(&score(a)));
        for (got, want) in found.iter().zip(&all).take(10) {
            assert_eq!(got.tokens, want.0, "penalty {penalty}");
            assert!((got.score - score(want)).abs() < 1e-5 && (got.logprob - want.1).abs() < 1e-5);
            assert_eq!(got.end, if want.0.last() == Some(&2) { End::Stop(2) } else { End::Length });
        }
    }
}

#[test]
fn a_text_ends_where_it_is_said_to_and_is_given_once() {
    let plan = plan();
    for (penalty, prompt) in [(0.0, vec![1]), (1.0, vec![2, 3]), (-0.5, vec![0, 4, 1])] {
        let options = BeamOptions { width: 125, max_tokens: 4, length_penalty: penalty, stop: vec![2], below: None };
        let found = beam_search(&plan, &mut Work::new(), &prompt, &options, &before_the_last).unwrap();
        let mut all = every_text(&plan, &prompt, 4, 2, &before_the_last);
        let score = |t: &(Vec<u32>, f64)| t.1 / (t.0.len() as f64).powf(penalty);
        all.sort_by(|a, b| score(b).total_cmp(&score(a)));
        // With a 3 and with a 4 it comes to the same: the better one is given.
        let mut seen = HashSet::new();
        all.retain(|t| before_the_last(&t.0).is_none_or(|text| seen.insert(text)));
        for (got, want) in found.iter().zip(&all).take(10) {
            assert_eq!(got.tokens, want.0, "penalty {penalty}");
            assert!((got.score - score(want)).abs() < 1e-5 && (got.logprob - want.1).abs() < 1e-5);
            let end = match want.0[..] {
                [.., 2] => End::Stop(2),
                [.., 3 | 4] => End::Complete,
                _ => End::Length,
            };
            assert_eq!(got.end, end);
        }
    }
    let options = ContrastiveOptions { candidates: 3, max_tokens: 15, ..ContrastiveOptions::default() };
    let search = |ends: Ends<'_>| contrastive_search(&plan, &mut Work::new(), &[1, 4], &options, ends).unwrap();
    let (all, end) = search(&never);
    assert_eq!((all.len(), end), (15, End::Length));
    let three = search(&|tokens: &[u32]| (tokens.len() == 3).then(String::new));
    assert_eq!(three, (all[..3].to_vec(), End::Complete));
}

#[test]
fn a_beam_of_one_is_greedy() {
    let plan = plan();
    let options = BeamOptions { width: 1, max_tokens: 12, ..BeamOptions::default() };
    let found = beam_search(&plan, &mut Work::new(), &[1, 2], &options, &never).unwrap();
    let mut ids = vec![1, 2];
    for _ in 0..12 {
        let logits = plan.read(&mut Work::new(), &mut plan.state(), &ids).unwrap().to_vec();
        ids.push(logprobs(&logits, 0, 1).1[0].0);
    }
    assert_eq!(found.len(), 1);
    let Hypothesis { tokens, end, .. } = &found[0];
    assert_eq!((&tokens[..], *end), (&ids[2..], End::Length));
    assert!(beam_search(&plan, &mut Work::new(), &[1], &BeamOptions { width: 0, ..options }, &never).is_err());
}

#[test]
fn what_no_search_can_do_is_refused() {
    let plan = plan();
    let beam = |options: &BeamOptions| beam_search(&plan, &mut Work::new(), &[1], options, &never);
    let none = BeamOptions { below: Some(0), ..BeamOptions::default() };
    let said = beam(&none).unwrap_err().to_string();
    assert!(said.contains("below = 0"), "{said}");
    for length_penalty in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
        let said = beam(&BeamOptions { length_penalty, ..BeamOptions::default() }).unwrap_err();
        assert!(matches!(&said, Error::Request { what } if what.contains("length penalty")), "{said}");
    }
    let contrastive = |options: &ContrastiveOptions| contrastive_search(&plan, &mut Work::new(), &[1], options, &never);
    let said = contrastive(&ContrastiveOptions { below: Some(0), ..ContrastiveOptions::default() }).unwrap_err();
    assert!(matches!(&said, Error::Request { what } if what.contains("below = 0")), "{said}");
    // One token is a choice.
    let one = beam(&BeamOptions { below: Some(1), max_tokens: 3, ..none }).unwrap();
    assert_eq!(one[0].tokens, [0u32; 3]);
    let one = ContrastiveOptions { below: Some(1), max_tokens: 3, ..ContrastiveOptions::default() };
    assert_eq!(contrastive(&one).unwrap(), (vec![0; 3], End::Length));
}

#[test]
fn a_prompt_of_several_passes_is_one_prompt() {
    let plan = Plan::new(&model_of(600), PlanOptions::default()).unwrap();
    let options = BeamOptions { width: 1, max_tokens: 1, ..BeamOptions::default() };
    let prompt: Vec<u32> = (0..601).map(|i| i * i % 7 % VOCAB).collect();
    for n in [255, 256, 257, 512, 513, 600] {
        let found = beam_search(&plan, &mut Work::new(), &prompt[..n], &options, &never).unwrap();
        let mut work = Work::new();
        let logits = plan.read(&mut work, &mut plan.state(), &prompt[..n]).unwrap();
        let (id, logprob) = logprobs(logits, 0, 1).1[0];
        assert_eq!((&found[0].tokens[..], found[0].logprob), (&[id][..], f64::from(logprob)), "{n} tokens");
    }
    let refused =
        |n: usize| beam_search(&plan, &mut Work::new(), &prompt[..n], &options, &never).unwrap_err().to_string();
    assert!(refused(601).contains("601 tokens do not fit"));
    assert!(refused(0).contains("no tokens"));
    // All of it is counted, not what a pass of its middle came to.
    let other = ContrastiveOptions { max_tokens: 1, ..ContrastiveOptions::default() };
    let said = contrastive_search(&plan, &mut Work::new(), &prompt[..601], &other, &never).unwrap_err();
    assert!(matches!(said, Error::TooLong { tokens: 601, room: 600 }), "{said}");
}

#[test]
fn a_full_context_ends_a_text_with_a_token_that_is_not_read() {
    let plan = plan();
    let prompt: Vec<u32> = (0..64).map(|i| i * i % 7 % VOCAB).collect();
    for (before, max_tokens, tokens, end) in
        [(64, 1, 1, End::Length), (64, 3, 1, End::Context), (62, 3, 3, End::Length), (62, 9, 3, End::Context)]
    {
        let beam = BeamOptions { width: 2, max_tokens, ..BeamOptions::default() };
        for found in beam_search(&plan, &mut Work::new(), &prompt[..before], &beam, &never).unwrap() {
            assert_eq!((found.tokens.len(), found.end), (tokens, end), "{before} and {max_tokens}");
        }
        let contrastive = ContrastiveOptions { max_tokens, ..ContrastiveOptions::default() };
        let (found, ended) =
            contrastive_search(&plan, &mut Work::new(), &prompt[..before], &contrastive, &never).unwrap();
        assert_eq!((found.len(), ended), (tokens, end), "{before} and {max_tokens}");
        if before == 64 {
            let greedy = beam_search(&plan, &mut Work::new(), &prompt, &beam, &never).unwrap().remove(0);
            assert_eq!(found, greedy.tokens);
        }
    }
    let of = |stop: &[u32], ends: Ends<'_>| {
        let options = ContrastiveOptions { max_tokens: 3, stop: stop.to_vec(), ..ContrastiveOptions::default() };
        contrastive_search(&plan, &mut Work::new(), &prompt, &options, ends).unwrap()
    };
    let (last, _) = of(&[], &never);
    assert_eq!(of(&last, &never), (vec![], End::Stop(last[0])));
    assert_eq!(of(&[], &|_: &[u32]| Some(String::new())), (last, End::Complete));
}

#[test]
fn a_model_without_numbers_finds_nothing() {
    let model = model();
    let width = model.config().width;
    let table = model.params().iter().find(|p| p.name == "embed.tokens").unwrap();
    table.tensor.with_data_mut::<f32, _>(|w| w[3 * width..4 * width].fill(f32::NAN)).unwrap();
    let plan = Plan::new(&model, PlanOptions::default()).unwrap();
    let beam = |prompt: &[u32], width| {
        let options = BeamOptions { width, max_tokens: 3, ..BeamOptions::default() };
        beam_search(&plan, &mut Work::new(), prompt, &options, &never)
    };
    assert!(matches!(beam(&[1, 3], 2), Err(Error::NotNumbers { tokens: 2 })));
    // As wide as the vocabulary it tries token 3 as well.
    assert!(matches!(beam(&[1], 5), Err(Error::NotNumbers { tokens: 2 })));
    for (prompt, max_tokens, at) in [([1, 3], 3, 2), ([1, 2], 1, 3)] {
        let options = ContrastiveOptions { candidates: 5, alpha: 1.0, max_tokens, ..ContrastiveOptions::default() };
        match contrastive_search(&plan, &mut Work::new(), &prompt, &options, &never) {
            Err(Error::NotNumbers { tokens }) => assert_eq!(tokens, at),
            other => panic!("{other:?}"),
        }
    }
}

/// The equation of the paper, step by step, with features from the model on the tape.
#[test]
fn contrastive_search_is_the_papers() {
    let (model, plan) = (model(), plan());
    let options = ContrastiveOptions { candidates: 3, alpha: 0.6, max_tokens: 15, ..ContrastiveOptions::default() };
    let (got, end) = contrastive_search(&plan, &mut Work::new(), &[1, 4], &options, &never).unwrap();

    let features = |ids: &[u32]| -> Vec<Vec<f64>> {
        // The head of this model is its own matrix: solve nothing, read the plan's features of each beginning instead.
        (1..=ids.len())
            .map(|n| {
                let mut work = Work::new();
                plan.read(&mut work, &mut plan.state(), &ids[..n]).unwrap();
                work.features().iter().map(|v| f64::from(*v)).collect()
            })
            .collect()
    };
    let cosine = |a: &[f64], b: &[f64]| {
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
    };
    let mut ids = vec![1, 4];
    for _ in 0..15 {
        let logits =
            model.logits(&model.ids(&ids, 1).unwrap(), &ForwardCx::default()).unwrap().to_vec::<f32>().unwrap();
        let top = logprobs(&logits[logits.len() - VOCAB as usize..], 0, 3).1;
        let score = |&(id, p): &(u32, f32)| {
            let h = features(&[&ids[..], &[id]].concat());
            let (last, before) = h.split_last().unwrap();
            let alike = before.iter().map(|b| cosine(b, last)).fold(-1.0, f64::max);
            0.4 * f64::from(p).exp() - 0.6 * alike
        };
        let best = top.iter().max_by(|a, b| score(a).total_cmp(&score(b))).unwrap();
        ids.push(best.0);
    }
    assert_eq!((&got[..], end), (&ids[2..], End::Length));
    // With no weight on variety it is greedy, and a stop token ends it.
    let greedy = ContrastiveOptions { alpha: 0.0, ..options.clone() };
    let (text, _) = contrastive_search(&plan, &mut Work::new(), &[1, 4], &greedy, &never).unwrap();
    let beam = BeamOptions { width: 1, max_tokens: 15, ..BeamOptions::default() };
    assert_eq!(text, beam_search(&plan, &mut Work::new(), &[1, 4], &beam, &never).unwrap()[0].tokens);
    let first = got.iter().position(|t| *t == got[3]).unwrap();
    // The token that ends it is the last that may be written, and is one.
    let stopped = ContrastiveOptions { stop: vec![got[3]], max_tokens: first + 1, ..options };
    let found = contrastive_search(&plan, &mut Work::new(), &[1, 4], &stopped, &never).unwrap();
    assert_eq!(found, (got[..first].to_vec(), End::Stop(got[3])));
}

#[test]
fn likelihoods_count_tokens_that_are_never_chosen() {
    let plan = plan();
    let below = 3;
    let row = |ids: &[u32]| plan.read(&mut Work::new(), &mut plan.state(), ids).unwrap().to_vec();
    let options =
        BeamOptions { width: 9, max_tokens: 2, length_penalty: 0.0, below: Some(below), ..BeamOptions::default() };
    let found = beam_search(&plan, &mut Work::new(), &[1], &options, &never).unwrap();
    assert_eq!(found.len(), 9, "all texts of two of three tokens");
    for text in found {
        let [a, b] = text.tokens[..] else { panic!("{text:?}") };
        assert!(a.max(b) < below as u32);
        let want = f64::from(logprobs(&row(&[1]), a, 0).0) + f64::from(logprobs(&row(&[1, a]), b, 0).0);
        assert!((text.logprob - want).abs() < 1e-5 && text.score == text.logprob, "{text:?}: {want}");
    }
    // With half of the weight on likelihood a candidate is weighed by its part of all.
    let options = ContrastiveOptions {
        candidates: 3,
        alpha: 0.5,
        max_tokens: 8,
        below: Some(below),
        ..ContrastiveOptions::default()
    };
    let (got, _) = contrastive_search(&plan, &mut Work::new(), &[1, 2], &options, &never).unwrap();
    let unit = |ids: &[u32]| {
        let mut work = Work::new();
        plan.read(&mut work, &mut plan.state(), ids).unwrap();
        let length = work.features().iter().map(|v| v * v).sum::<f32>().sqrt();
        work.features().iter().map(|v| v / length).collect::<Vec<f32>>()
    };
    let mut ids = vec![1, 2];
    for id in got {
        let logits = row(&ids);
        let before: Vec<Vec<f32>> = (1..=ids.len()).map(|n| unit(&ids[..n])).collect();
        let score = |id: u32| {
            let own = unit(&[&ids[..], &[id]].concat());
            let cosine = |b: &Vec<f32>| b.iter().zip(&own).map(|(a, b)| a * b).sum::<f32>();
            let alike = before.iter().map(cosine).fold(-1.0, f32::max);
            0.5 * logprobs(&logits, id, 0).0.exp() - 0.5 * alike
        };
        let best = (0..below as u32).map(score).fold(f32::NEG_INFINITY, f32::max);
        assert!(score(id) >= best - 1e-5, "{id} after {ids:?}");
        ids.push(id);
    }
}
