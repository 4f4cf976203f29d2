use super::*;

fn softmax(logits: &[f32], temperature: f64) -> Vec<f64> {
    let most = logits.iter().copied().fold(f32::MIN, f32::max);
    let e: Vec<f64> = logits.iter().map(|&z| (f64::from(z - most) / temperature).exp()).collect();
    let total: f64 = e.iter().sum();
    e.iter().map(|x| x / total).collect()
}

/// χ² of `n` draws against `expected`; tokens with probability 0 must never be drawn.
fn chi_square(params: &SamplingParams, logits: &[f32], history: &[u32], expected: &[f64], n: usize) -> f64 {
    let mut sampler = Sampler::new(params.clone()).unwrap();
    let mut count = vec![0usize; logits.len()];
    for _ in 0..n {
        count[sampler.sample(logits, history) as usize] += 1;
    }
    let mut chi = 0.0;
    for (k, &p) in count.iter().zip(expected) {
        if p == 0.0 {
            assert_eq!(*k, 0, "a filtered token was drawn");
        } else {
            let e = p * n as f64;
            chi += (*k as f64 - e).powi(2) / e;
        }
    }
    chi
}

const LOGITS: [f32; 6] = [1.0, 2.5, -0.5, 0.0, 2.0, -3.0];

fn kept(p: &[f64], keep: &[usize]) -> Vec<f64> {
    let total: f64 = keep.iter().map(|&i| p[i]).sum();
    (0..p.len()).map(|i| if keep.contains(&i) { p[i] / total } else { 0.0 }).collect()
}

fn seeded() -> SamplingParams {
    SamplingParams { seed: 7, ..Default::default() }
}

#[test]
fn draws_follow_the_analytic_distribution() {
    let p = softmax(&LOGITS, 1.0);
    // Probabilities are about .51 .31 .11 .04 .025 .002 (tokens 1 4 0 3 2 5); the entropy is 1.18 nats, so that surprises
    // .67 1.17 2.17 lie .51 .01 .99 from it: typical takes tokens 4, 1, 0.
    let cases = [
        (seeded(), p.clone()),
        (SamplingParams { temperature: 0.5, ..seeded() }, softmax(&LOGITS, 0.5)),
        (SamplingParams { top_k: 2, ..seeded() }, kept(&p, &[1, 4])),
        (SamplingParams { top_p: 0.6, ..seeded() }, kept(&p, &[1, 4])),
        (SamplingParams { top_p: 0.85, top_p_strict: true, ..seeded() }, kept(&p, &[1, 4])),
        (SamplingParams { top_p: 0.1, top_p_strict: true, ..seeded() }, kept(&p, &[1])),
        (SamplingParams { min_p: 0.2, ..seeded() }, kept(&p, &[0, 1, 4])),
        (SamplingParams { typical: 0.3, ..seeded() }, kept(&p, &[4])),
        (SamplingParams { typical: 0.6, ..seeded() }, kept(&p, &[1, 4])),
        (SamplingParams { typical: 0.9, ..seeded() }, kept(&p, &[0, 1, 4])),
        // Two of the three that top-k leaves hold .88 of what is left.
        (SamplingParams { top_k: 3, top_p: 0.87, ..seeded() }, kept(&p, &[1, 4])),
        (SamplingParams { logit_bias: [(5, 5.0), (1, f32::NEG_INFINITY)].into(), ..seeded() }, {
            softmax(&[1.0, -1e9, -0.5, 0.0, 2.0, 2.0], 1.0)
        }),
    ];
    for (params, expected) in cases {
        // 99.9 % quantile of χ² with 5 degrees of freedom is 20.5; the draws are seeded, so this cannot flake.
        let chi = chi_square(&params, &LOGITS, &[], &expected, 20_000);
        assert!(chi < 20.5, "{chi} {params:?}");
    }
}

#[test]
fn penalties_change_the_distribution_as_they_say() {
    let history = [1, 4, 1, 2, 1];
    let base = seeded();
    let cases = [
        (SamplingParams { repetition_penalty: 2.0, ..base.clone() }, [1.0, 1.25, -1.0, 0.0, 1.0, -3.0]),
        (SamplingParams { frequency_penalty: 0.5, ..base.clone() }, [1.0, 1.0, -1.0, 0.0, 1.5, -3.0]),
        (SamplingParams { presence_penalty: 1.5, ..base.clone() }, [1.0, 1.0, -2.0, 0.0, 0.5, -3.0]),
        (SamplingParams { presence_penalty: 1.5, penalty_window: 2, ..base.clone() }, [1.0, 1.0, -2.0, 0.0, 2.0, -3.0]),
        // The last token, 1, was followed by 4 and by 2.
        (SamplingParams { dry: Some(Dry { allowed: 1, multiplier: 1.0, ..Dry::default() }), ..base }, {
            [1.0, 2.5, -1.5, 0.0, 1.0, -3.0]
        }),
    ];
    for (params, logits) in cases {
        let chi = chi_square(&params, &LOGITS, &history, &softmax(&logits, 1.0), 20_000);
        assert!(chi < 20.5, "{chi} {params:?}");
    }
}

/// Logits of a vocabulary's size: most of them far below a few.
fn many(v: usize) -> Vec<f32> {
    (0..v).map(|i| ((i * 7919) % 10_007) as f32 / 500.0 - 10.0 + if i % 997 == 0 { 3.0 } else { 0.0 }).collect()
}

/// The filters as they are defined, on sorted probabilities in double precision.
fn definition(p: &SamplingParams, logits: &[f32]) -> Vec<(u32, f64)> {
    let probs = softmax(logits, f64::from(p.temperature));
    let mut c: Vec<(u32, f64)> = probs.into_iter().enumerate().map(|(i, w)| (i as u32, w)).collect();
    c.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    let renormalise = |c: &mut Vec<(u32, f64)>| {
        let total: f64 = c.iter().map(|x| x.1).sum();
        c.iter_mut().for_each(|x| x.1 /= total);
    };
    if p.top_k > 0 {
        c.truncate(p.top_k);
        renormalise(&mut c);
    }
    if p.top_p < 1.0 {
        let mut reached = 0.0;
        let at = c.iter().position(|x| {
            reached += x.1;
            reached >= f64::from(p.top_p)
        });
        c.truncate(at.map_or(c.len(), |at| at + 1));
        renormalise(&mut c);
    }
    if p.min_p > 0.0 {
        let line = f64::from(p.min_p) * c[0].1;
        c.retain(|x| x.1 >= line);
        renormalise(&mut c);
    }
    if p.typical < 1.0 {
        let entropy: f64 = c.iter().map(|x| -x.1 * x.1.ln()).sum();
        c.sort_by(|a, b| (a.1.ln() + entropy).abs().total_cmp(&(b.1.ln() + entropy).abs()));
        let mut reached = 0.0;
        let at = c.iter().position(|x| {
            reached += x.1;
            reached >= f64::from(p.typical)
        });
        c.truncate(at.map_or(c.len(), |at| at + 1));
        renormalise(&mut c);
        c.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    }
    c
}

#[test]
fn a_large_vocabulary_is_filtered_as_defined() {
    let logits = many(49_152);
    let cases = [
        SamplingParams { top_k: 40, ..seeded() },
        SamplingParams { top_k: 40, top_p: 0.9, min_p: 0.05, ..seeded() },
        SamplingParams { top_p: 0.95, ..seeded() },
        SamplingParams { top_p: 0.999, temperature: 3.0, ..seeded() },
        SamplingParams { min_p: 0.1, temperature: 1.5, ..seeded() },
        SamplingParams { typical: 0.7, ..seeded() },
        SamplingParams { top_p: 0.9, typical: 0.5, ..seeded() },
        seeded(),
    ];
    for params in cases {
        let got = Sampler::new(params.clone()).unwrap().distribution(&logits, &[]);
        let want = definition(&params, &logits);
        // Equal logits may straddle a line by a rounding.
        assert!(got.len().abs_diff(want.len()) <= 1 + want.len() / 5000, "{} of {} {params:?}", got.len(), want.len());
        for ((a, p), (b, q)) in got.iter().zip(&want).take(1000) {
            assert!((f64::from(*p) - q).abs() < 1e-5 * q.max(1e-3), "{a} {p} {b} {q} {params:?}");
        }
        let total: f64 = got.iter().map(|x| f64::from(x.1)).sum();
        assert!((total - 1.0).abs() < 1e-4, "{total}");
    }
}

#[test]
fn mirostat_holds_the_surprise() {
    let logits: Vec<f32> = (0..5000).map(|i| -1.1 * (i as f32 + 1.0).ln()).collect();
    let p = softmax(&logits, 1.0);
    for tau in [3.0, 5.0] {
        let params = SamplingParams { mirostat: Some(Mirostat { tau, eta: 0.1 }), ..seeded() };
        let mut sampler = Sampler::new(params).unwrap();
        let surprise: Vec<f64> = (0..3000).map(|_| -p[sampler.sample(&logits, &[]) as usize].log2()).collect();
        let mean = surprise[500..].iter().sum::<f64>() / 2500.0;
        assert!((mean - f64::from(tau)).abs() < 0.1, "{mean} for {tau}");
    }
    // A bound that no token keeps leaves the likeliest.
    let params = SamplingParams { mirostat: Some(Mirostat { tau: 1e-3, eta: 1e-3 }), ..seeded() };
    assert_eq!(Sampler::new(params).unwrap().sample(&LOGITS, &[]), 1);
}

#[test]
fn greedy_takes_the_first_largest_and_skips_nan() {
    let mut s = Sampler::new(SamplingParams { temperature: 0.0, ..Default::default() }).unwrap();
    assert_eq!(s.sample(&[f32::NAN, 1.0, 3.0, 3.0], &[]), 2);
    assert_eq!(s.sample(&[f32::NAN, f32::NAN], &[]), 0);
    assert_eq!(s.sample(&[f32::NEG_INFINITY, -5.0], &[]), 1);
    let mut logits = many(1000);
    logits[777] = 99.0;
    logits[900] = 99.0;
    assert_eq!(s.sample(&logits, &[]), 777);
}

#[test]
fn infinite_logits_do_not_make_nan() {
    for params in [seeded(), SamplingParams { top_p: 0.5, ..seeded() }, SamplingParams { top_k: 2, ..seeded() }] {
        let mut s = Sampler::new(params).unwrap();
        assert_eq!(s.sample(&[0.0, f32::INFINITY, 1.0], &[]), 1);
        assert_eq!(s.sample(&[f32::NAN, f32::NEG_INFINITY, -4.0], &[]), 2);
    }
}

#[test]
fn the_same_seed_draws_the_same_tokens() {
    let run = |seed| {
        let mut s = Sampler::new(SamplingParams { seed, ..Default::default() }).unwrap();
        (0..50).map(|_| s.sample(&LOGITS, &[])).collect::<Vec<_>>()
    };
    assert_eq!(run(3), run(3));
    assert_ne!(run(3), run(4));
}

#[test]
fn log_probabilities_are_the_models_own() {
    let p = softmax(&LOGITS, 1.0);
    let (chosen, top) = logprobs(&LOGITS, 3, 2);
    assert!((f64::from(chosen) - p[3].ln()).abs() < 1e-6);
    assert_eq!(top.iter().map(|t| t.0).collect::<Vec<_>>(), [1, 4]);
    assert!((f64::from(top[1].1) - p[4].ln()).abs() < 1e-6);
    const NONE: f32 = f32::NEG_INFINITY;
    assert_eq!(logprobs(&[f32::NAN, 0.0], 0, 0), (NONE, vec![]));
    // A logit that is not finite has no probability, the largest neither.
    assert_eq!(logprobs(&[NONE, NONE], 1, 2), (NONE, vec![(0, NONE), (1, NONE)]));
    assert_eq!(logprobs(&[f32::INFINITY, 1.0], 0, 2), (NONE, vec![(1, 0.0), (0, NONE)]));
    assert_eq!(logprobs(&[f32::INFINITY, f32::NAN], 1, 1), (NONE, vec![(0, NONE)]));
}

#[test]
fn bad_parameters_are_named() {
    let bad = |p: SamplingParams| Sampler::new(p).unwrap_err().name;
    let d = SamplingParams::default;
    assert_eq!(bad(SamplingParams { temperature: -1.0, ..d() }), "temperature");
    assert_eq!(bad(SamplingParams { temperature: f32::NAN, ..d() }), "temperature");
    assert_eq!(bad(SamplingParams { top_p: 0.0, ..d() }), "top_p");
    assert_eq!(bad(SamplingParams { min_p: 1.5, ..d() }), "min_p");
    assert_eq!(bad(SamplingParams { typical: 0.0, ..d() }), "typical");
    assert_eq!(bad(SamplingParams { repetition_penalty: 0.0, ..d() }), "repetition_penalty");
    assert_eq!(bad(SamplingParams { presence_penalty: f32::INFINITY, ..d() }), "presence_penalty");
    assert_eq!(bad(SamplingParams { logit_bias: [(1, f32::NAN)].into(), ..d() }), "logit_bias");
    assert_eq!(bad(SamplingParams { dry: Some(Dry { base: 0.5, ..Dry::default() }), ..d() }), "dry.base");
    for allowed in [0, 65, usize::MAX] {
        assert_eq!(bad(SamplingParams { dry: Some(Dry { allowed, ..Dry::default() }), ..d() }), "dry.allowed");
    }
    assert!(Sampler::new(SamplingParams { dry: Some(Dry { allowed: 64, ..Dry::default() }), ..d() }).is_ok());
    let mirostat = Some(Mirostat { tau: 5.0, eta: 0.1 });
    assert_eq!(bad(SamplingParams { mirostat, top_k: 5, ..d() }), "top_k");
    assert_eq!(bad(SamplingParams { mirostat, temperature: 0.0, ..d() }), "temperature");
    let hint = |p: SamplingParams| Sampler::new(p).unwrap_err().hint();
    assert!(hint(SamplingParams { mirostat, top_p: 0.5, ..d() }).contains("mirostat"));
    assert!(hint(SamplingParams { mirostat, temperature: 0.0, ..d() }).contains("mirostat"));
    assert!(hint(SamplingParams { top_p: 0.0, ..d() }).contains("1 keeps all"));
    assert_eq!(bad(SamplingParams { mirostat: Some(Mirostat { tau: 0.0, eta: 0.1 }), ..d() }), "mirostat.tau");
}
