//! Mixers written outside the crate: that of `examples/custom_mixer.rs` in a model, under its laws and in folders; and
//! others whose parameters are named like the block's own.

// The example is written against the facade, which this crate does not know.
extern crate self as gently;

use gently_models as models;
use gently_tensor as tensor;

mod prelude {
    pub use gently_models::{Batch, Decoder, DecoderConfig, ForwardCx};
    pub use gently_tensor::{DType, Device, Rng, Tensor};
}

#[allow(dead_code, reason = "its main")]
#[path = "../../../examples/custom_mixer.rs"]
mod example;

use models::config::{Family, Position};
use models::init::Init;
use models::mixers::SoftmaxAttention;
use models::params::{Builder, ParamKind};
use models::{Error, WeightSource};
use prelude::*;

fn config() -> DecoderConfig {
    DecoderConfig { vocab: 13, context: 32, layers: 2, heads: 2, width: 8, ..DecoderConfig::preset(Family::Gpt2) }
}

fn model(seed: u64) -> Decoder {
    example::model(&config(), &Rng::new(seed), &Device::Cpu).unwrap()
}

fn values(model: &Decoder) -> Vec<(&str, Vec<f32>)> {
    model.params().iter().map(|p| (p.name.as_str(), p.tensor.to_vec().unwrap())).collect()
}

#[test]
fn it_trains() {
    let model = model(6);
    let ids = model.ids(&[1, 2, 3, 4, 5, 6], 2).unwrap();
    let batch = Batch { ids: &ids, targets: &ids, docs: None };
    for recompute in [false, true] {
        let cx = ForwardCx { recompute, ..ForwardCx::default() };
        let grads = model.loss(&batch, 1.0, &cx).unwrap().backward().unwrap();
        assert!(model.params().iter().all(|p| grads.get(&p.tensor).is_some()));
    }
    assert!(model.params().iter().any(|p| p.name == "blocks.1.mixer.weight"));
}

#[test]
fn any_split_is_the_whole_and_states_are_kept() {
    let model = model(6);
    let ids = [1, 5, 2, 8, 12, 3, 3, 7];
    let whole = model.logits(&model.ids(&ids, 1).unwrap(), &ForwardCx::default()).unwrap();
    let last = whole.narrow(1, 7, 1).unwrap().to_vec::<f32>().unwrap();
    for split in 1..8 {
        let mut state = model.init_state(1);
        model.step(&model.ids(&ids[..split], 1).unwrap(), &mut state).unwrap();
        let mut loaded = model.init_state(1);
        loaded.restore(state.len(), &state.to_tensors().unwrap()).unwrap();
        let rest = model.ids(&ids[split..], 1).unwrap();
        let a = model.step(&rest, &mut state).unwrap().to_vec::<f32>().unwrap();
        let b = model.step(&rest, &mut loaded).unwrap().to_vec::<f32>().unwrap();
        assert_eq!(a, b);
        assert!(a.iter().zip(&last).all(|(x, y)| (x - y).abs() < 1e-5), "{a:?} {last:?}");
        assert!(matches!(state.truncate(2), Err(Error::State { .. })));
    }
}

#[test]
fn a_folder_holds_what_the_mixers_have() {
    let alibi = DecoderConfig { position: Position::Alibi, ..config() };
    for cfg in [config(), alibi] {
        let make = |seed| example::model(&cfg, &Rng::new(seed), &Device::Cpu).unwrap();
        let (model, again, sharded) = (make(6), make(7), make(8));
        let (dir, shards) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        model.save_pretrained(dir.path()).unwrap();
        again.load_weights(dir.path()).unwrap();
        assert_eq!(values(&again), values(&model));
        model.save_sharded(shards.path(), 1000).unwrap();
        sharded.load_weights(shards.path()).unwrap();
        assert_eq!(values(&sharded), values(&model));
        assert!(model.rounded_when_saved().unwrap().is_empty());

        // Without the code of the mixers it is no model.
        let plain = Decoder::new(&cfg, &Rng::new(6), &Device::Cpu).unwrap();
        let opened = [WeightSource::open(dir.path()).err(), plain.load_weights(dir.path()).err()];
        for error in opened.map(Option::unwrap) {
            assert!(matches!(error, Error::OtherMixers { .. }), "{error}");
            assert!(error.to_string().contains("config.json"), "{error}");
            assert!(error.hint().unwrap().contains("Decoder::with_mixers"));
        }
        // And the parameters of others are not its own.
        let other = tempfile::tempdir().unwrap();
        plain.save_pretrained(other.path()).unwrap();
        let error = model.load_weights(other.path()).unwrap_err();
        assert!(error.to_string().contains("blocks.0.mixer."), "{error}");
        assert_eq!(values(&again), values(&model), "nothing was read");
    }
}

#[test]
fn parameters_of_any_rank_are_kept() {
    let make = |seed| {
        let cfg = config();
        Decoder::with_mixers(&cfg, Builder::new(Some(&Rng::new(seed)), &Device::Cpu), |b, _| {
            let normal = Init::Normal { std: 1.0 };
            b.param("gain", &[], normal, ParamKind::Vector)?;
            b.param("taps", &[3, 2, 4], normal, ParamKind::Matrix)?;
            Ok(Box::new(SoftmaxAttention::new(b, &cfg, None)?))
        })
        .unwrap()
    };
    let (model, again, dir) = (make(6), make(7), tempfile::tempdir().unwrap());
    model.save_pretrained(dir.path()).unwrap();
    again.load_weights(dir.path()).unwrap();
    assert_eq!(values(&again), values(&model));
}

#[test]
fn mixers_with_the_usual_names_are_not_taken_for_the_usual_ones() {
    let cfg = config();
    let make = |seed| {
        Decoder::with_mixers(&cfg, Builder::new(Some(&Rng::new(seed)), &Device::Cpu), |b, layer| {
            let window = (layer == 0).then_some(3);
            Ok(Box::new(SoftmaxAttention::new(b, &DecoderConfig { window, ..cfg.clone() }, None)?))
        })
        .unwrap()
    };
    let (model, dir) = (make(6), tempfile::tempdir().unwrap());
    assert!(model.has_other_mixers());
    model.save_pretrained(dir.path()).unwrap();
    let error = Decoder::load_pretrained(dir.path(), &Device::Cpu).err().unwrap();
    assert!(matches!(error, Error::OtherMixers { .. }), "{error}");
    let again = make(7);
    again.load_weights(dir.path()).unwrap();
    assert_eq!(values(&again), values(&model));

    // They may start from the weights of a published model.
    let plain = Decoder::new(&cfg, &Rng::new(8), &Device::Cpu).unwrap();
    assert!(!plain.has_other_mixers());
    plain.save_pretrained(dir.path()).unwrap();
    model.load_weights(dir.path()).unwrap();
    assert_eq!(values(&model), values(&plain));
}
