//! The plan against the model on the tape, for every choice of the decoder block; and the laws of states.

mod common;

use common::model;
use gently_formats::gguf::TensorType;
use gently_infer::{Elem, Encoder, Error, Piece, Plan, PlanOptions, PrefixCache, State, Wanted, Work};
use gently_kernels::quant::BlockType;
use gently_models::config::{DecoderConfig, Family, MlpKind, NormKind, NormPlace, Position};
use gently_models::mixers::SoftmaxAttention;
use gently_models::params::Builder;
use gently_models::weights::Storage;
use gently_models::{Decoder, ForwardCx, WeightSource};
use gently_tensor::{Device, Rng};

const VOCAB: usize = 29;
const CONTEXT: usize = 300;

fn base(family: Family) -> DecoderConfig {
    DecoderConfig {
        vocab: VOCAB,
        context: CONTEXT,
        layers: 2,
        heads: 4,
        kv_heads: None,
        width: 24,
        init_std: 0.2,
        ..DecoderConfig::preset(family)
    }
}

/// Each choice of the block at least once, beside its usual neighbours.
fn configs() -> Vec<DecoderConfig> {
    let (gpt2, llama) = (base(Family::Gpt2), base(Family::Llama));
    let mut all = vec![gpt2.clone(), llama.clone()];
    for place in [NormPlace::Pre, NormPlace::Post, NormPlace::Both] {
        for norm in [NormKind::Layer, NormKind::Rms] {
            let norm_bias = norm == NormKind::Layer;
            all.push(DecoderConfig { norm, norm_place: place, norm_bias, ..gpt2.clone() });
        }
    }
    all.push(DecoderConfig { norm_bias: false, ..gpt2.clone() });
    for position in [Position::Learned, Position::Sinusoidal, Position::Rotary, Position::Alibi, Position::None] {
        all.push(DecoderConfig { position, ..gpt2.clone() });
    }
    for mlp in [MlpKind::Gelu, MlpKind::GeluErf, MlpKind::Swiglu, MlpKind::Relu2, MlpKind::Relu, MlpKind::Silu] {
        all.push(DecoderConfig { mlp, ..gpt2.clone() });
    }
    all.extend([
        DecoderConfig { norm_place: NormPlace::Out, qk_norm: true, qk_norm_wide: true, ..llama.clone() },
        DecoderConfig { mlp: MlpKind::Geglu, embed_scale: Some(3.0), ..llama.clone() },
        DecoderConfig { parallel: true, rotary_width: Some(2), position: Position::Rotary, ..gpt2.clone() },
        DecoderConfig { embed_norm: true, embed_scale: Some(0.5), attention_scale: Some(0.7), ..gpt2.clone() },
        DecoderConfig { rope_factors: Some(vec![1.0, 4.0, 8.0]), out_bias: Some(true), ..llama.clone() },
        // Part of a head turned and scaled: no factor of the scores says that.
        DecoderConfig { rotary_width: Some(4), rope_scale: Some(1.2), ..llama.clone() },
        DecoderConfig {
            window: Some(9),
            window_skip: Some(2),
            local_rope_theta: Some(100.0),
            norm_place: NormPlace::Both,
            ..llama.clone()
        },
        DecoderConfig { attention_bias: false, mlp_bias: true, tied_head: false, ..gpt2.clone() },
        DecoderConfig { attention_bias: true, mlp_bias: true, tied_head: true, ..llama.clone() },
        DecoderConfig { kv_heads: Some(2), head_width: Some(10), mlp_width: Some(37), ..llama.clone() },
        DecoderConfig { kv_heads: Some(1), qk_norm: true, ..llama.clone() },
        DecoderConfig { logit_softcap: Some(2.0), attention_softcap: Some(1.0), ..llama.clone() },
        DecoderConfig { window: Some(5), ..llama.clone() },
        DecoderConfig { window: Some(100), position: Position::Alibi, ..gpt2 },
    ]);
    all
}

fn tokens(n: usize, seed: u64) -> Vec<u32> {
    let mut rng = Rng::new(seed);
    (0..n).map(|_| rng.below(VOCAB as u64) as u32).collect()
}

fn plan(model: &Decoder) -> Plan {
    Plan::new(model, PlanOptions::default()).unwrap()
}

/// All logits of a sequence that is read in `pieces`.
fn read(plan: &Plan, state: &mut State, ids: &[u32], pieces: &[usize]) -> Vec<f32> {
    let (mut work, mut at, mut all) = (Work::new(), 0, Vec::new());
    for &n in pieces {
        let mut pass = [Piece { state, tokens: &ids[at..at + n], wanted: Wanted::All }];
        all.extend_from_slice(plan.forward(&mut work, &mut pass, &|| true).unwrap().unwrap());
        at += n;
    }
    assert_eq!(at, ids.len());
    all
}

#[test]
fn logits_are_the_models_for_every_configuration() {
    for cfg in configs() {
        let model = model(&cfg);
        let plan = plan(&model);
        for t in [1, 9, 150] {
            let ids = tokens(t, 3);
            let want = model.logits(&model.ids(&ids, 1).unwrap(), &ForwardCx::default()).unwrap();
            let want = want.to_vec::<f32>().unwrap();
            let got = read(&plan, &mut plan.state(), &ids, &[t]);
            assert_eq!(got.len(), want.len());
            let scale = want.iter().fold(1.0f32, |m, v| m.max(v.abs()));
            for (i, (a, b)) in got.iter().zip(&want).enumerate() {
                assert!((a - b).abs() <= 1e-4 * scale, "{cfg:?}\n{t} tokens, logit {i}: {a} and {b}");
            }
        }
    }
}

/// The models of the other crate's fixtures, as files of both kinds: what is computed on stored weights is what the
/// model on the tape computes from the same.
#[test]
fn published_files_give_the_logits_of_their_models() {
    let golden = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../gently-models/tests/golden");
    let (mut seen, mut encoders) = (0, 0);
    for dir in std::fs::read_dir(golden).unwrap().map(|d| d.unwrap().path()).filter(|d| d.is_dir()) {
        for path in [dir.clone(), dir.join("model.gguf")] {
            if !(path.is_file() || path.join("config.json").is_file()) {
                continue;
            }
            let source = WeightSource::open(&path).unwrap();
            if source.config().bidirectional {
                assert!(matches!(Plan::of_files(&source, PlanOptions::default()), Err(Error::Lowering { .. })));
                encoders += 1;
                continue;
            }
            let model = source.decoder(&Device::Cpu).unwrap();
            let plan = Plan::of_files(&source, PlanOptions::default()).unwrap();
            let vocab = source.config().vocab as u64;
            let mut rng = Rng::new(1);
            let ids: Vec<u32> = (0..20.min(source.config().context)).map(|_| rng.below(vocab) as u32).collect();
            let want = model.logits(&model.ids(&ids, 1).unwrap(), &ForwardCx::default()).unwrap();
            let want = want.to_vec::<f32>().unwrap();
            let got = read(&plan, &mut plan.state(), &ids, &[3, ids.len() - 3]);
            let scale = want.iter().fold(1.0f32, |m, v| m.max(v.abs()));
            let worst = got.iter().zip(&want).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(worst <= 1e-4 * scale, "{}: {worst}", path.display());
            seen += 1;
        }
    }
    // Every folder there, and the file that most have: a new fixture is counted here.
    assert_eq!((seen, encoders), (32, 2));
}

/// Every type that files are written in, tables included. Integer weights are multiplied with rows that are rounded to a byte for a
/// number, which costs some percent of a logit; floats are not rounded beyond their own type.
#[test]
fn every_type_of_weights_gives_the_logits_of_its_numbers() {
    let cfg = DecoderConfig {
        layers: 1,
        width: 256,
        mlp_width: Some(256),
        kv_heads: Some(2),
        init_std: 0.0625,
        ..base(Family::Llama)
    };
    let dir = tempfile::tempdir().unwrap();
    Decoder::new(&cfg, &Rng::new(3), &Device::Cpu).unwrap().save_pretrained(dir.path().join("m")).unwrap();
    let exact = WeightSource::open(dir.path().join("m")).unwrap();
    let ids = tokens(20, 3);
    for &kind in TensorType::ALL.iter().filter(|kind| BlockType::from_ggml_id(kind.id()).is_some()) {
        let file = dir.path().join(format!("{}.gguf", kind.name()));
        exact.write_gguf(&file, Storage { matrices: kind, tables: kind }, &[], |_, _| ()).unwrap();
        let source = WeightSource::open(&file).unwrap();
        let plan = Plan::of_files(&source, PlanOptions::default()).unwrap();
        assert_eq!(plan.weight_types().into_keys().collect::<Vec<_>>(), [kind.name()]);
        let model = source.decoder(&Device::Cpu).unwrap();
        let want = model.logits(&model.ids(&ids, 1).unwrap(), &ForwardCx::default()).unwrap();
        let want = want.to_vec::<f32>().unwrap();
        let got = read(&plan, &mut plan.state(), &ids, &[1, 19]);
        let rms = |values: &[f32]| (values.iter().map(|v| v * v).sum::<f32>() / values.len() as f32).sqrt();
        let apart: Vec<f32> = got.iter().zip(&want).map(|(a, b)| a - b).collect();
        let (mean, most) = (rms(&apart) / rms(&want), apart.iter().fold(0.0f32, |m, v| m.max(v.abs())) / rms(&want));
        let allowed = if kind.block_len() > 1 { (0.02, 0.08) } else { (1e-4, 1e-4) };
        assert!(mean <= allowed.0 && most <= allowed.1, "{}: {mean} in the mean, {most} at most", kind.name());
    }
}

#[test]
fn mixers_from_elsewhere_are_refused_whatever_their_parameters_are_called() {
    let cfg = base(Family::Gpt2);
    let model = Decoder::with_mixers(&cfg, Builder::new(Some(&Rng::new(5)), &Device::Cpu), |b, layer| {
        let window = (layer == 0).then_some(3);
        Ok(Box::new(SoftmaxAttention::new(b, &DecoderConfig { window, ..cfg.clone() }, None)?))
    })
    .unwrap();
    let refused = [Plan::new(&model, PlanOptions::default()).err(), Encoder::new(&model).err()];
    for error in refused.map(Option::unwrap) {
        assert!(matches!(&error, Error::Lowering { what } if what.contains("mixers")), "{error}");
    }
}

#[test]
fn any_cut_of_a_sequence_gives_the_same_bits() {
    for cfg in configs() {
        let plan = plan(&model(&cfg));
        let ids = tokens(140, 7);
        let whole = read(&plan, &mut plan.state(), &ids, &[140]);
        for pieces in [vec![1; 140], vec![64, 64, 12], vec![3, 100, 1, 1, 35], vec![139, 1]] {
            assert_eq!(read(&plan, &mut plan.state(), &ids, &pieces), whole, "{pieces:?} {cfg:?}");
        }
    }
}

#[test]
fn company_does_not_matter() {
    for elem in [Elem::F32, Elem::F16, Elem::I8] {
        let cfg = DecoderConfig { kv_heads: Some(2), ..base(Family::Llama) };
        let plan = Plan::new(&model(&cfg), PlanOptions { cache: elem }).unwrap();
        let texts: Vec<Vec<u32>> = (0..5).map(|i| tokens(10 + 17 * i, i as u64)).collect();
        let mut alone = Vec::new();
        for ids in &texts {
            alone.extend_from_slice(plan.read(&mut Work::new(), &mut plan.state(), ids).unwrap());
        }
        let mut states: Vec<State> = texts.iter().map(|_| plan.state()).collect();
        let mut pieces: Vec<Piece> = states
            .iter_mut()
            .zip(&texts)
            .map(|(state, ids)| Piece { state, tokens: ids, wanted: Wanted::Last })
            .collect();
        let mut work = Work::new();
        assert_eq!(plan.forward(&mut work, &mut pieces, &|| true).unwrap().unwrap(), alone);
    }
}

#[test]
fn small_caches_stay_close() {
    let cfg = DecoderConfig { kv_heads: Some(2), ..base(Family::Llama) };
    let model = model(&cfg);
    let ids = tokens(200, 9);
    let exact = read(&plan(&model), &mut plan(&model).state(), &ids, &[200]);
    for (cache, allowed) in [(Elem::F16, 5e-3), (Elem::I8, 0.1)] {
        let plan = Plan::new(&model, PlanOptions { cache }).unwrap();
        let got = read(&plan, &mut plan.state(), &ids, &[200]);
        let worst = got.iter().zip(&exact).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst < allowed, "{cache:?}: {worst}");
    }
}

#[test]
fn states_fork_cut_save_and_load() {
    for cache in [Elem::F32, Elem::F16, Elem::I8] {
        let plan = Plan::new(&model(&base(Family::Llama)), PlanOptions { cache }).unwrap();
        let ids = tokens(150, 1);
        let mut work = Work::new();
        let mut state = plan.state();
        plan.read(&mut work, &mut state, &ids[..100]).unwrap();
        let mut fork = state.clone();
        let rest = plan.read(&mut work, &mut state, &ids[100..]).unwrap().to_vec();
        // The fork goes another way, comes back, and arrives where the first did.
        plan.read(&mut work, &mut fork, &[1, 2, 3, 4]).unwrap();
        fork.truncate(90).unwrap();
        assert_eq!(fork.tokens(), &ids[..90]);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.safetensors");
        fork.save(&path).unwrap();
        let mut loaded = State::load(&path, &plan).unwrap();
        for state in [&mut fork, &mut loaded] {
            assert_eq!(plan.read(&mut work, state, &ids[90..]).unwrap(), rest);
            assert_eq!(state.tokens(), ids);
        }
        assert!(matches!(fork.truncate(151), Err(Error::State { .. })));
        assert_eq!(fork.bytes(), 3 * 64 * plan.cache_bytes_per_token());

        let other =
            Plan::new(&Decoder::new(&base(Family::Llama), &Rng::new(1), &Device::Cpu).unwrap(), PlanOptions { cache })
                .unwrap();
        assert!(matches!(State::load(&path, &other), Err(Error::StateFile { .. })), "another model's");
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() - 9]).unwrap();
        assert!(State::load(&path, &plan).is_err(), "cut short");
    }
}

#[test]
fn a_saved_state_that_was_changed_is_refused() {
    let plan = plan(&model(&base(Family::Llama)));
    let (mut work, mut state, ids) = (Work::new(), plan.state(), tokens(70, 4));
    plan.prefill(&mut work, &mut state, &ids).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.safetensors");
    state.save(&path).unwrap();
    let good = std::fs::read(&path).unwrap();
    let said = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        State::load(&path, &plan).map_or_else(|e| e.to_string(), |state| panic!("{state:?} was loaded"))
    };
    // Each byte of the header, of the tokens and of the checksum; of the pages some.
    let header = 8 + u64::from_le_bytes(good[..8].try_into().unwrap()) as usize;
    let pages = header + 4 * ids.len();
    for at in (0..pages).chain((pages..good.len()).step_by(997)).chain(good.len() - 8..good.len()) {
        let mut bad = good.clone();
        bad[at] ^= 0x41;
        let said = said(&bad);
        assert!(at < header || said.contains("the saved state is damaged"), "byte {at}: {said}");
    }
    let mut bad = good.clone();
    let end = bad.len() - 5000;
    bad[end..].fill(0xff);
    assert!(said(&bad).contains("the saved state is damaged"));
    // The version without a checksum is told by name.
    let kind = b"gently paged state 2";
    let at = good.windows(kind.len()).position(|bytes| bytes == kind).unwrap() + kind.len() - 1;
    let mut old = good.clone();
    old[at] = b'1';
    assert!(said(&old).contains("version 1, and 2 is read"));
    std::fs::write(&path, &good).unwrap();
    assert_eq!(State::load(&path, &plan).unwrap(), state);
}

#[test]
fn a_prompt_read_without_logits_gives_the_same_bits_after_it() {
    let plan = plan(&model(&base(Family::Gpt2)));
    let (mut work, ids) = (Work::new(), tokens(290, 8));
    let all = plan.read(&mut work, &mut plan.state(), &ids).unwrap().to_vec();
    for n in [0, 1, 256, 257, 289] {
        let mut state = plan.state();
        plan.prefill(&mut work, &mut state, &ids[..n]).unwrap();
        assert_eq!((state.len(), plan.read(&mut work, &mut state, &ids[n..]).unwrap()), (n, &all[..]), "{n} tokens");
    }
    let mut state = plan.state();
    plan.prefill(&mut work, &mut state, &ids).unwrap();
    state.keep_common(&[&ids[..70], &[ids[70] ^ 1, 3]].concat());
    assert_eq!((state.tokens(), state.bytes()), (&ids[..70], 2 * 64 * plan.cache_bytes_per_token()));
}

#[test]
fn a_pass_that_cannot_be_made_changes_nothing() {
    let plan = plan(&model(&base(Family::Gpt2)));
    let mut work = Work::new();
    let mut state = plan.state();
    plan.read(&mut work, &mut state, &[1, 2, 3]).unwrap();
    let before = state.tokens().to_vec();
    let mut bad = |ids: &[u32]| plan.read(&mut work, &mut state, ids).unwrap_err().to_string();
    assert!(bad(&[VOCAB as u32]).contains("vocabulary of 29"));
    assert!(bad(&[]).contains("no tokens"));
    assert!(bad(&[0; CONTEXT]).contains("303 tokens"));
    let called_off =
        plan.forward(&mut work, &mut [Piece { state: &mut state, tokens: &[4, 5], wanted: Wanted::Last }], &|| false);
    assert!(called_off.unwrap().is_none());
    assert_eq!(state.tokens(), before);
    let mut fresh = plan.state();
    let want = plan.read(&mut work, &mut fresh, &[1, 2, 3, 4, 5]).unwrap().to_vec();
    assert_eq!(plan.read(&mut work, &mut state, &[4, 5]).unwrap(), want);
}

#[test]
fn a_pass_called_off_between_layers_gives_its_pages_back() {
    let plan = plan(&model(&base(Family::Llama)));
    let (mut work, mut state) = (Work::new(), plan.state());
    let ids = tokens(250, 6);
    plan.read(&mut work, &mut state, &ids[..10]).unwrap();
    let bytes = state.bytes();
    // The first layer is computed, the second is not; what comes then needs fewer pages.
    let asked = std::cell::Cell::new(0);
    let going = || asked.replace(asked.get() + 1) == 0;
    let mut pieces = [Piece { state: &mut state, tokens: &ids[10..], wanted: Wanted::Last }];
    assert!(plan.forward(&mut work, &mut pieces, &going).unwrap().is_none());
    assert_eq!((asked.get(), state.bytes(), state.tokens()), (2, bytes, &ids[..10]));
    let got = plan.read(&mut work, &mut state, &ids[10..15]).unwrap().to_vec();
    let all = read(&plan, &mut plan.state(), &ids[..15], &[15]);
    assert_eq!(got, all[14 * VOCAB..]);
    assert_eq!(state.bytes(), bytes);
}

#[test]
fn beginnings_are_shared_within_a_budget() {
    let plan = plan(&model(&base(Family::Llama)));
    let mut work = Work::new();
    let page = 64 * plan.cache_bytes_per_token();
    let mut cache = PrefixCache::new(4 * page);
    let ids = tokens(130, 2);
    let mut state = plan.state();
    plan.read(&mut work, &mut state, &ids).unwrap();
    cache.insert(state.clone());
    assert_eq!((cache.len(), cache.bytes()), (1, 3 * page));

    // The longest common beginning, token by token, and never all of it when the last logits are needed.
    let mut other = ids[..100].to_vec();
    other.extend([ids[100] ^ 1, 5, 6]);
    let mut found = cache.lookup(&plan, &other, other.len() - 1).unwrap();
    assert_eq!(found.tokens(), &ids[..100]);
    assert_eq!(cache.lookup(&plan, &ids, ids.len() - 1).unwrap().len(), 129);
    let fresh = plan.read(&mut work, &mut plan.state(), &other).unwrap().to_vec();
    assert_eq!(plan.read(&mut work, &mut found, &other[100..]).unwrap(), fresh);
    assert!(cache.lookup(&plan, &[ids[0] ^ 1], 1).is_none());

    // The second shares a page with the first; a third needs the oldest's place.
    cache.insert(found);
    assert_eq!((cache.len(), cache.bytes()), (2, 4 * page));
    let mut third = plan.state();
    plan.read(&mut work, &mut third, &[9; 60]).unwrap();
    cache.insert(third);
    assert_eq!(cache.len(), 2);
    assert!(cache.bytes() <= 4 * page);
    assert!(cache.lookup(&plan, &ids, 129).unwrap().len() < 129, "the first is gone");

    // A beginning of a kept state adds nothing; a continuation takes its place.
    let mut longer = cache.lookup(&plan, &[9; 60], 60).unwrap();
    cache.insert(longer.clone());
    plan.read(&mut work, &mut longer, &[1, 2]).unwrap();
    cache.insert(longer);
    assert_eq!(cache.len(), 2);
    cache.clear();
    assert!(cache.is_empty());
}

#[test]
fn beginnings_are_not_shared_with_other_plans() {
    let cfg = base(Family::Llama);
    let model = model(&cfg);
    let [ours, theirs] = [Elem::F32, Elem::F16].map(|cache| Plan::new(&model, PlanOptions { cache }).unwrap());
    let (mut work, ids) = (Work::new(), tokens(20, 2));
    let mut cache = PrefixCache::new(1 << 20);
    for (plan, read) in [(&ours, 20), (&theirs, 10)] {
        let mut state = plan.state();
        plan.read(&mut work, &mut state, &ids[..read]).unwrap();
        assert!(cache.lookup(plan, &ids, 20).is_none());
        cache.insert(state);
        // Neither takes the other's place.
        let mut found = cache.lookup(plan, &ids, 20).unwrap();
        assert_eq!(found.len(), read);
        plan.read(&mut work, &mut found, &[1]).unwrap();
    }
    assert_eq!((cache.len(), cache.lookup(&ours, &ids, 20).unwrap().len()), (2, 20));
    // A longer one of theirs stands in place of theirs alone.
    let mut state = theirs.state();
    theirs.read(&mut work, &mut state, &[&ids[..], &[3]].concat()).unwrap();
    cache.insert(state);
    assert_eq!((cache.len(), cache.lookup(&ours, &ids, 20).unwrap().len()), (2, 20));
}
