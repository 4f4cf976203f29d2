//! The laws of mixers and their states, on whole models: at once, in pieces and token by token are the same;
//! rows of a batch and packed documents do not influence each other; states fork, cut, save and load.

use gently_models::config::{DecoderConfig, Family, NormPlace, Position};
use gently_models::{Batch, Decoder, DecoderState, Error, ForwardCx};
use gently_tensor::{Device, Rng, Tensor};
use proptest::prelude::*;

const VOCAB: usize = 29;
const CONTEXT: usize = 96;
const WIDTH: usize = 16;

fn configs() -> Vec<DecoderConfig> {
    let base = |family| DecoderConfig {
        vocab: VOCAB,
        context: CONTEXT,
        layers: 2,
        heads: 4,
        kv_heads: None,
        width: WIDTH,
        init_std: 0.3,
        ..DecoderConfig::preset(family)
    };
    let (gpt2, llama) = (base(Family::Gpt2), base(Family::Llama));
    vec![
        DecoderConfig { kv_heads: Some(2), head_width: Some(6), ..llama.clone() },
        DecoderConfig { kv_heads: Some(1), qk_norm: true, window: Some(3), ..llama.clone() },
        DecoderConfig { window: Some(1), ..llama.clone() },
        DecoderConfig { position: Position::Alibi, attention_softcap: Some(3.0), ..llama },
        DecoderConfig { position: Position::Sinusoidal, norm_place: NormPlace::Post, ..gpt2.clone() },
        DecoderConfig { position: Position::None, norm_place: NormPlace::Both, window: Some(7), ..gpt2.clone() },
        gpt2,
    ]
}

fn model(cfg: &DecoderConfig) -> Decoder {
    Decoder::new(cfg, &Rng::new(5), &Device::Cpu).unwrap()
}

fn tokens(n: usize, seed: u64) -> Vec<u32> {
    let mut rng = Rng::new(seed);
    (0..n).map(|_| rng.below(VOCAB as u64) as u32).collect()
}

fn values(t: &Tensor) -> Vec<f32> {
    t.to_vec::<f32>().unwrap()
}

fn assert_close(a: &[f32], b: &[f32], what: &str) {
    assert_eq!(a.len(), b.len(), "{what}");
    let scale = a.iter().fold(1.0f32, |m, v| m.max(v.abs()));
    for (i, (x, y)) in a.iter().zip(b).enumerate() {
        assert!((x - y).abs() <= 2e-5 * scale, "{what}: element {i} is {x} and {y}");
    }
}

/// Tokens `[B,T]` of `ids` from column `from` on.
fn columns(model: &Decoder, ids: &[u32], batch: usize, from: usize, t: usize) -> Tensor {
    let row = ids.len() / batch;
    let cut: Vec<u32> = ids.chunks(row).flat_map(|r| r[from..from + t].to_vec()).collect();
    model.ids(&cut, batch).unwrap()
}

fn state_values(state: &DecoderState) -> Vec<(String, Vec<f32>)> {
    state.to_tensors().unwrap().into_iter().map(|(n, t)| (n, values(&t))).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// Any split of a sequence gives the output and the final state of the whole.
    #[test]
    fn any_split_is_the_whole(
        which in 0usize..7,
        batch in 1usize..4,
        pieces in prop::collection::vec(1usize..6, 1..6),
        seed in 0u64..1000,
    ) {
        let model = model(&configs()[which]);
        let t: usize = pieces.iter().sum();
        let ids = tokens(batch * t, seed);
        let cx = ForwardCx::default();
        let whole = values(&model.logits(&model.ids(&ids, batch).unwrap(), &cx).unwrap());
        let mut once = model.init_state(batch);
        model.step(&model.ids(&ids, batch).unwrap(), &mut once).unwrap();

        let mut state = model.init_state(batch);
        let mut at = 0;
        for piece in pieces {
            let got = values(&model.extend(&columns(&model, &ids, batch, at, piece), &mut state, &cx).unwrap());
            for b in 0..batch {
                let expected = &whole[(b * t + at) * VOCAB..][..piece * VOCAB];
                assert_close(&got[b * piece * VOCAB..][..piece * VOCAB], expected, "logits");
            }
            at += piece;
            prop_assert_eq!(state.len(), at);
        }
        for ((name, a), (_, b)) in state_values(&once).iter().zip(&state_values(&state)) {
            // With a window, two histories may keep a different number of rows that nothing can see.
            if model.config().window.is_none() {
                assert_close(a, b, name);
            }
        }
    }

    /// A row alone and in a batch gives the same.
    #[test]
    fn rows_are_independent(which in 0usize..7, t in 1usize..12, seed in 0u64..1000) {
        let model = model(&configs()[which]);
        let ids = tokens(3 * t, seed);
        let all = values(&model.logits(&model.ids(&ids, 3).unwrap(), &ForwardCx::default()).unwrap());
        for (row, together) in ids.chunks(t).zip(all.chunks(t * VOCAB)) {
            let alone = values(&model.logits(&model.ids(row, 1).unwrap(), &ForwardCx::default()).unwrap());
            assert_close(together, &alone, "row");
        }
    }

    /// Documents packed into a row give what each gives alone.
    #[test]
    fn packed_documents_are_alone(
        which in 0usize..7,
        lengths in prop::collection::vec(1usize..6, 1..5),
        seed in 0u64..1000,
    ) {
        let model = model(&configs()[which]);
        let t: usize = lengths.iter().sum();
        let ids = tokens(t, seed);
        let docs: Vec<u32> =
            lengths.iter().enumerate().flat_map(|(i, &n)| vec![40 + i as u32; n]).collect();
        let cx = ForwardCx::default();
        let docs = model.ids(&docs, 1).unwrap();
        let packed = values(&model.features(&model.ids(&ids, 1).unwrap(), Some(&docs), &cx).unwrap());
        let mut at = 0;
        for n in lengths {
            let alone = values(&model.features(&model.ids(&ids[at..at + n], 1).unwrap(), None, &cx).unwrap());
            assert_close(&packed[at * WIDTH..(at + n) * WIDTH], &alone, "document");
            at += n;
        }
    }
}

#[test]
fn a_document_cannot_change_another() {
    for cfg in configs() {
        let model = model(&cfg);
        let docs = model.ids(&[0, 0, 0, 0, 1, 1, 1, 1], 1).unwrap();
        let run = |first: u32| {
            let ids = model.ids(&[first, 2, 3, first, 4, 5, 6, 7], 1).unwrap();
            values(&model.features(&ids, Some(&docs), &ForwardCx::default()).unwrap())
        };
        let (a, b) = (run(1), run(20));
        assert_eq!(a[4 * WIDTH..], b[4 * WIDTH..], "same shapes, so the same bits");
        assert_ne!(a[..4 * WIDTH], b[..4 * WIDTH]);
    }
}

#[test]
fn a_saved_state_continues_identically() {
    for cfg in configs() {
        let model = model(&cfg);
        let ids = tokens(2 * 70, 3);
        let mut state = model.init_state(2);
        model.step(&columns(&model, &ids, 2, 0, 40), &mut state).unwrap();
        for at in 40..60 {
            model.step(&columns(&model, &ids, 2, at, 1), &mut state).unwrap();
        }
        let mut loaded = model.init_state(2);
        let saved = state.to_tensors().unwrap();
        loaded.restore(60, &saved).unwrap();
        assert_eq!(loaded.len(), 60);
        assert!(matches!(model.init_state(1).restore(60, &saved), Err(Error::State { .. })), "another batch");
        let shorter = self::model(&DecoderConfig { layers: 1, ..cfg });
        let error = shorter.init_state(2).restore(60, &saved).unwrap_err().to_string();
        assert!(error.contains("layers.1.keys has no place"), "{error}");
        for at in 60..70 {
            let next = columns(&model, &ids, 2, at, 1);
            let (a, b) = (model.step(&next, &mut state).unwrap(), model.step(&next, &mut loaded).unwrap());
            assert_eq!(values(&a), values(&b));
        }
        assert_eq!(state_values(&state), state_values(&loaded));
    }
}

#[test]
fn a_fork_does_not_disturb_its_origin() {
    for cfg in configs() {
        let model = model(&cfg);
        let mut state = model.init_state(1);
        model.step(&model.ids(&tokens(9, 1), 1).unwrap(), &mut state).unwrap();
        let before = state_values(&state);
        let mut fork = state.clone();
        model.step(&model.ids(&[3, 4, 5], 1).unwrap(), &mut fork).unwrap();
        assert_eq!((state.len(), fork.len()), (9, 12));
        assert_eq!(before, state_values(&state));
        let mut alone = model.init_state(1);
        model.step(&model.ids(&tokens(9, 1), 1).unwrap(), &mut alone).unwrap();
        let next = model.ids(&[8], 1).unwrap();
        let (a, b) = (model.step(&next, &mut state).unwrap(), model.step(&next, &mut alone).unwrap());
        assert_eq!(values(&a), values(&b));
    }
}

#[test]
fn a_cut_state_is_the_state_of_the_shorter_text() {
    for cfg in configs() {
        let model = model(&cfg);
        let ids = tokens(12, 2);
        let mut state = model.init_state(1);
        model.step(&model.ids(&ids, 1).unwrap(), &mut state).unwrap();
        state.truncate(5).unwrap();
        let mut short = model.init_state(1);
        model.step(&model.ids(&ids[..5], 1).unwrap(), &mut short).unwrap();
        let next = model.ids(&[1, 2], 1).unwrap();
        let (a, b) = (model.step(&next, &mut state).unwrap(), model.step(&next, &mut short).unwrap());
        assert_close(&values(&a), &values(&b), "after the cut");
        assert!(matches!(state.truncate(100), Err(Error::State { .. })));
    }
}

#[test]
fn a_window_bounds_the_state() {
    let cfg = DecoderConfig { window: Some(4), position: Position::Alibi, ..configs()[0].clone() };
    let model = model(&cfg);
    let mut state = model.init_state(1);
    let mut largest = 0;
    let ids = tokens(300, 4);
    for id in &ids {
        model.step(&model.ids(&[*id], 1).unwrap(), &mut state).unwrap();
        largest = largest.max(state.bytes());
    }
    let row = 2 * 2 * 2 * 6 * 4; // layers, keys and values, kv heads, channels, bytes
    assert!(largest <= 64 * row, "{largest} bytes");
    assert_eq!(state.len(), 300);
    assert!(matches!(state.truncate(100), Err(Error::State { .. })), "those tokens are gone");
    assert_eq!(state.len(), 300, "a refused cut changes nothing");

    // ALiBi knows no context limit, and the answer is that of the last tokens the layers can see.
    let last = model.step(&model.ids(&[1], 1).unwrap(), &mut state).unwrap();
    let mut tail: Vec<u32> = ids[ids.len() - 20..].to_vec();
    tail.push(1);
    let fresh = model.step(&model.ids(&tail, 1).unwrap(), &mut model.init_state(1)).unwrap();
    assert_close(&values(&last), &values(&fresh), "windowed");
}

#[test]
fn misuse_is_an_error_that_says_so() {
    let model = model(&configs()[0]);
    let cx = ForwardCx::default();
    let long = model.ids(&tokens(CONTEXT + 1, 1), 1).unwrap();
    let error = model.logits(&long, &cx).unwrap_err().to_string();
    assert!(error.contains("97") && error.contains("96"), "{error}");
    assert!(model.ids(&[1, 2, 3], 2).is_err());
    assert!(model.ids(&[1, 2, 3], 0).is_err());
    let (ids, targets) = (model.ids(&[1, 2, 3, 4], 2).unwrap(), model.ids(&[2, 3, 4, 5], 1).unwrap());
    let error = model.loss(&Batch { ids: &ids, targets: &targets, docs: None }, 1.0, &cx).unwrap_err().to_string();
    assert!(error.contains("[2, 2]") && error.contains("[1, 4]"), "{error}");
    let outside = model.ids(&[VOCAB as u32], 1).unwrap();
    assert!(model.logits(&outside, &cx).is_err());
    let mut state = model.init_state(2);
    assert!(matches!(model.step(&model.ids(&[1], 1).unwrap(), &mut state), Err(Error::State { .. })));
    model.step(&model.ids(&[1, 2], 2).unwrap(), &mut state).unwrap();
    assert!(state.restore(1, &Default::default()).is_err());
    assert!(state.restore(usize::MAX, &Default::default()).is_err());
    assert_eq!(state.len(), 1);
    // Cut to nothing it is as one before the first token.
    state.truncate(0).unwrap();
    model.init_state(2).restore(0, &state.to_tensors().unwrap()).unwrap();
}
