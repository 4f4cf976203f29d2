use crate::recipe::OptimizerKind;
use gently_models::Decoder;
use gently_models::config::{DecoderConfig, Family};
use gently_models::init::Init;
use gently_models::params::{Builder, Param, ParamKind};
use gently_tensor::{Device, Grads, Rng, Tensor};

use super::norm::{clip_factor, first_non_finite, global_norm};
use super::*;
use crate::recipe::Decay;

fn params() -> Vec<Param> {
    let mut b = Builder::new(Some(&Rng::new(3)), &Device::Cpu);
    let normal = Init::Normal { std: 0.5 };
    b.param("table", &[5, 3], normal, ParamKind::Embedding).unwrap();
    b.param("w", &[4, 3], normal, ParamKind::Matrix).unwrap();
    b.param("bias", &[4], normal, ParamKind::Vector).unwrap();
    b.into_params()
}

/// Half the sum of squares of everything: the gradient is the parameter itself.
fn pull_to_zero(params: &[Param]) -> (f64, Grads) {
    let mut grads = Grads::new();
    let mut total = 0.0;
    for param in params {
        let loss = param.tensor.sqr().unwrap().sum_all().unwrap().affine(0.5, 0.0).unwrap();
        total += f64::from(loss.item::<f32>().unwrap());
        loss.backward_into(&mut grads).unwrap();
    }
    (total, grads)
}

fn settings(kind: OptimizerKind) -> Optimizer {
    Optimizer { kind, weight_decay: 0.0, lr: 0.01, muon_lr: 0.02, ..Optimizer::default() }
}

/// Every kind with moments in every type.
fn all_settings() -> impl Iterator<Item = Optimizer> {
    [OptimizerKind::Adamw, OptimizerKind::Lion, OptimizerKind::Muon]
        .into_iter()
        .flat_map(|kind| [Moments::F32, Moments::Bf16].map(|moments| Optimizer { moments, ..settings(kind) }))
}

#[test]
fn every_optimizer_goes_down() {
    for settings in all_settings() {
        let kind = settings.kind;
        let params = params();
        let mut optim = Optim::new(&params, &settings).unwrap();
        let first = pull_to_zero(&params).0;
        for _ in 0..60 {
            let (_, grads) = pull_to_zero(&params);
            optim.step(&grads, 0.01, 1.0).unwrap();
        }
        let last = pull_to_zero(&params).0;
        assert!(last < 0.5 * first, "{kind:?}: {first} -> {last}");
        assert_eq!(optim.updates(), 60);
    }
}

#[test]
fn groups_follow_kind_and_rank() {
    let of = |kind, decay| {
        let settings = Optimizer { kind, decay, ..Optimizer::default() };
        let optim = Optim::new(&params(), &settings).unwrap();
        optim.groups().map(|(_, method, decays)| (method, decays)).collect::<Vec<_>>()
    };
    let muon = of(OptimizerKind::Muon, Decay::AllMatrices);
    assert_eq!(muon[0], (Method::AdamW, true));
    assert_eq!(muon[1], (Method::Muon { rows: 4, cols: 3 }, true));
    assert_eq!(muon[2], (Method::AdamW, false));
    let decays = |decay| of(OptimizerKind::Adamw, decay).iter().map(|g| g.1).collect::<Vec<_>>();
    assert_eq!(decays(Decay::Matrices), [false, true, false]);
    assert_eq!(decays(Decay::All), [true, true, true]);
    assert_eq!(decays(Decay::None), [false, false, false]);
}

#[test]
fn a_head_of_its_own_decays_as_a_table_of_embeddings_does() {
    let preset = DecoderConfig::preset(Family::Gpt2);
    let cfg = DecoderConfig { layers: 1, heads: 2, width: 8, vocab: 10, context: 4, tied_head: false, ..preset };
    let model = Decoder::new(&cfg, &Rng::new(1), &Device::Meta).unwrap();
    for (decay, wanted) in [(Decay::Matrices, false), (Decay::AllMatrices, true)] {
        let optim = Optim::new(model.params(), &Optimizer { decay, ..Optimizer::default() }).unwrap();
        for name in ["embed.tokens", "head.weight"] {
            let decays = optim.groups().find(|group| group.0 == name).map(|group| group.2);
            assert_eq!(decays, Some(wanted), "{name} with {decay:?}");
        }
    }
}

#[test]
fn a_loaded_state_continues_the_same() {
    for set in all_settings() {
        let kind = set.kind;
        let one = params();
        let mut optim = Optim::new(&one, &set).unwrap();
        for _ in 0..3 {
            optim.step(&pull_to_zero(&one).1, 0.01, 0.5).unwrap();
        }
        let two = params();
        for (a, b) in one.iter().zip(&two) {
            let values = a.tensor.to_vec::<f32>().unwrap();
            b.tensor.with_data_mut::<f32, _>(|w| w.copy_from_slice(&values)).unwrap();
        }
        let mut again = Optim::new(&two, &set).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("trainer.safetensors");
        optim.save(&path, &[]).unwrap();
        again.load(&path, optim.updates()).unwrap();
        for _ in 0..2 {
            optim.step(&pull_to_zero(&one).1, 0.01, 0.5).unwrap();
            again.step(&pull_to_zero(&two).1, 0.01, 0.5).unwrap();
        }
        for (a, b) in one.iter().zip(&two) {
            assert_eq!(a.tensor.to_vec::<f32>().unwrap(), b.tensor.to_vec::<f32>().unwrap());
        }
        let other = if kind == OptimizerKind::Adamw { OptimizerKind::Lion } else { OptimizerKind::Adamw };
        Optim::new(&two, &settings(other)).unwrap().load(&path, 3).unwrap_err();
    }
}

#[test]
fn parameters_beside_the_states_come_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("trainer.safetensors");
    for set in all_settings() {
        let (one, two) = (params(), params());
        let mut optim = Optim::new(&one, &set).unwrap();
        optim.step(&pull_to_zero(&one).1, 0.01, 1.0).unwrap();
        optim.save(&path, &[&one[2]]).unwrap();
        Optim::new(&two, &set).unwrap().load(&path, 1).unwrap();
        let same = |i: usize| one[i].tensor.to_vec::<f32>().unwrap() == two[i].tensor.to_vec::<f32>().unwrap();
        assert_eq!([0, 1, 2].map(same), [false, false, true], "the others are the model's own to read");
        let mut shorter = Builder::new(None, &Device::Cpu);
        shorter.param("bias", &[3], Init::Ones, ParamKind::Vector).unwrap();
        let error = Optim::new(&shorter.into_params(), &set).unwrap().load(&path, 1).unwrap_err().to_string();
        assert!(error.contains("bias.value has shape [4]"), "{error}");
    }
}

#[test]
fn a_state_is_read_in_the_type_that_is_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("trainer.safetensors");
    let of = |moments| Optim::new(&params(), &Optimizer { moments, ..settings(OptimizerKind::Adamw) }).unwrap();
    let values = |optim: &Optim| optim.state().iter().flat_map(|(_, t)| t.to_f64_vec().unwrap()).collect::<Vec<_>>();
    for moments in [Moments::F32, Moments::Bf16] {
        let one = params();
        let mut optim = Optim::new(&one, &Optimizer { moments, ..settings(OptimizerKind::Adamw) }).unwrap();
        optim.step(&pull_to_zero(&one).1, 0.01, 1.0).unwrap();
        optim.save(&path, &[]).unwrap();
        let size = if moments == Moments::F32 { 4 } else { 2 };
        let numbers = values(&optim).len();
        let bytes = std::fs::metadata(&path).unwrap().len() as usize;
        assert!((size * numbers..size * numbers + 1000).contains(&bytes), "{bytes} bytes for {numbers}");
        for asked in [Moments::F32, Moments::Bf16] {
            let mut other = of(asked);
            other.load(&path, 1).unwrap();
            let exact = asked == Moments::F32 || moments == Moments::Bf16;
            for (got, want) in values(&other).into_iter().zip(values(&optim)) {
                let bound = if exact { 0.0 } else { want.abs() / 256.0 };
                assert!((got - want).abs() <= bound, "{moments:?} as {asked:?}: {got} for {want}");
            }
        }
    }
}

#[test]
fn a_parameter_without_gradient_stops_before_any_change() {
    let params = params();
    let before = params[0].tensor.to_vec::<f32>().unwrap();
    let mut optim = Optim::new(&params, &settings(OptimizerKind::Adamw)).unwrap();
    let (_, mut grads) = pull_to_zero(&params);
    grads.remove(&params[2].tensor);
    let error = optim.step(&grads, 0.01, 1.0).unwrap_err().to_string();
    assert!(error.contains("bias"), "{error}");
    assert_eq!(params[0].tensor.to_vec::<f32>().unwrap(), before);
}

#[test]
fn the_norm_is_of_all_gradients_together() {
    let params = params();
    let (total, grads) = pull_to_zero(&params);
    let norm = global_norm(&params, &grads).unwrap();
    assert!((norm * norm / 2.0 - total).abs() < 1e-5 * total);
    assert_eq!(clip_factor(0.5, 1.0), 1.0);
    assert_eq!(clip_factor(50.0, 0.0), 1.0);
    assert!((clip_factor(4.0, 1.0) - 0.25).abs() < 1e-6);
}

#[test]
fn the_first_bad_value_is_found() {
    let t = Tensor::from_slice(&[1.0f32, f32::INFINITY, f32::NAN], [3], &Device::Cpu).unwrap();
    assert_eq!(first_non_finite(&t).unwrap(), Some((1, f32::INFINITY)));
    let t = Tensor::from_slice(&[1.0f32, 2.0], [2], &Device::Cpu).unwrap();
    assert_eq!(first_non_finite(&t).unwrap(), None);
}

#[test]
fn settings_that_make_no_update_are_refused() {
    let usual = settings(OptimizerKind::Muon);
    for (bad, key) in [
        (Optimizer { lr: 0.0, ..usual.clone() }, "optimizer.lr = 0"),
        (Optimizer { muon_lr: 0.0, ..usual.clone() }, "optimizer.muon_lr = 0"),
        (Optimizer { betas: [0.9, 1.0], ..usual.clone() }, "optimizer.betas = 1"),
        (Optimizer { betas: [1.0, 0.9], ..usual.clone() }, "optimizer.betas = 1"),
        (Optimizer { weight_decay: f64::NAN, ..usual.clone() }, "optimizer.weight_decay = NaN"),
        (Optimizer { momentum: 1.0, ..usual.clone() }, "optimizer.momentum = 1"),
        (Optimizer { eps: -1e-8, ..usual.clone() }, "optimizer.eps = -0.00000001"),
        (Optimizer { newton_schulz: 0, ..usual.clone() }, "optimizer.newton_schulz = 0"),
    ] {
        let error = Optim::new(&params(), &bad).unwrap_err();
        assert!(error.to_string().starts_with(key) && error.hint().is_some(), "{error}");
    }
}

#[test]
fn a_parameter_of_another_type_is_refused() {
    let mut params = params();
    params[1].tensor = Tensor::zeros([4, 3], DType::F64, &Device::Cpu).unwrap();
    let error = Optim::new(&params, &settings(OptimizerKind::Adamw)).unwrap_err();
    assert_eq!(error.to_string(), "parameter w is f64");
    assert!(error.hint().unwrap().contains("f32"));
}
