//! Every gradient of whole tiny models against central finite differences in f64, over every choice a
//! configuration has.

use gently_models::config::{DecoderConfig, Family, MlpKind, NormKind, NormPlace, Position};
use gently_models::params::Builder;
use gently_models::{Batch, Decoder, ForwardCx};
use gently_tensor::{DType, Device, Rng, Tensor};

/// Step of the differences, and how far a gradient may be off relative to the largest of its tensor.
const STEP: f64 = 1e-5;
const TOLERANCE: f64 = 2e-6;
/// Elements checked in each parameter.
const PROBES: usize = 4;

fn tiny(family: Family) -> DecoderConfig {
    DecoderConfig {
        vocab: 11,
        context: 8,
        layers: 2,
        heads: 2,
        kv_heads: None,
        width: 8,
        mlp_width: Some(12),
        init_std: 0.4,
        ..DecoderConfig::preset(family)
    }
}

fn gpt2() -> DecoderConfig {
    tiny(Family::Gpt2)
}

fn llama() -> DecoderConfig {
    DecoderConfig { heads: 4, kv_heads: Some(2), head_width: Some(4), ..tiny(Family::Llama) }
}

/// A model in f64 whose biases and norms have left their starting values.
fn model(cfg: &DecoderConfig) -> Decoder {
    let rng = Rng::new(7);
    let model = Decoder::build(cfg, Builder::new(Some(&rng), &Device::Cpu).dtype(DType::F64)).unwrap();
    for p in model.params() {
        let noise = rng.stream(&p.name).normal(p.tensor.dims(), 0.0, 0.1, DType::F64, &Device::Cpu).unwrap();
        let noise = noise.to_vec::<f64>().unwrap();
        p.tensor.with_data_mut(|d: &mut [f64]| d.iter_mut().zip(&noise).for_each(|(x, n)| *x += n)).unwrap();
    }
    model
}

struct Case {
    model: Decoder,
    ids: Tensor,
    targets: Tensor,
    docs: Option<Tensor>,
    cx: ForwardCx,
}

impl Case {
    fn new(cfg: &DecoderConfig) -> Self {
        let model = model(cfg);
        let ids = model.ids(&[1, 4, 9, 2, 7, 7, 0, 10, 3, 5, 1, 6], 2).unwrap();
        // One target does not count.
        let targets = model.ids(&[4, 9, 2, 7, 7, 8, 10, u32::MAX, 5, 1, 6, 2], 2).unwrap();
        let training = cfg.dropout > 0.0;
        let cx = ForwardCx { training, rng: Rng::new(3).stream("dropout"), ..ForwardCx::default() };
        Self { model, ids, targets, docs: None, cx }
    }

    fn loss(&self) -> Tensor {
        let batch = Batch { ids: &self.ids, targets: &self.targets, docs: self.docs.as_ref() };
        self.model.loss(&batch, 1.0 / 11.0, &self.cx).unwrap()
    }

    fn value(&self) -> f64 {
        gently_tensor::no_grad(|| self.loss()).to_f64_vec().unwrap()[0]
    }

    fn check(&self, name: &str) {
        let grads = self.loss().backward().unwrap();
        let mut pick = Rng::new(11);
        for p in self.model.params() {
            let grad = grads.get(&p.tensor).unwrap_or_else(|| panic!("{name}: no gradient for {}", p.name));
            let grad = grad.to_vec::<f64>().unwrap();
            let scale = grad.iter().fold(1e-3f64, |m, g| m.max(g.abs()));
            for _ in 0..PROBES {
                let i = pick.below(grad.len() as u64) as usize;
                let nudge = |by: f64| p.tensor.with_data_mut(|d: &mut [f64]| d[i] += by).unwrap();
                nudge(STEP);
                let above = self.value();
                nudge(-2.0 * STEP);
                let below = self.value();
                nudge(STEP);
                let expected = (above - below) / (2.0 * STEP);
                let off = (grad[i] - expected).abs();
                assert!(off <= TOLERANCE * scale, "{name}: {}[{i}] is {}, differences say {expected}", p.name, grad[i]);
            }
        }
    }
}

fn check(name: &str, cfg: &DecoderConfig) {
    Case::new(cfg).check(name);
}

#[test]
fn both_families() {
    check("gpt2", &gpt2());
    check("gpt2, untied", &DecoderConfig { tied_head: false, ..gpt2() });
    check("llama", &llama());
    check(
        "llama with biases, tied",
        &DecoderConfig { attention_bias: true, mlp_bias: true, tied_head: true, ..llama() },
    );
    check("rms norm without biases", &DecoderConfig { norm: NormKind::Rms, norm_bias: false, ..gpt2() });
}

#[test]
fn every_place_of_the_norm() {
    for norm_place in [NormPlace::Post, NormPlace::Both] {
        check(&format!("gpt2, {norm_place:?}"), &DecoderConfig { norm_place, ..gpt2() });
        check(&format!("llama, {norm_place:?}"), &DecoderConfig { norm_place, ..llama() });
    }
}

#[test]
fn every_kind_of_position() {
    for position in [Position::Sinusoidal, Position::Rotary, Position::Alibi, Position::None] {
        check(&format!("gpt2, {position:?}"), &DecoderConfig { position, ..gpt2() });
    }
    check("llama, alibi", &DecoderConfig { position: Position::Alibi, ..llama() });
}

#[test]
fn every_kind_of_mlp() {
    for mlp in [MlpKind::GeluErf, MlpKind::Swiglu, MlpKind::Relu2, MlpKind::Relu, MlpKind::Silu] {
        check(&format!("gpt2, {mlp:?}"), &DecoderConfig { mlp, ..gpt2() });
    }
}

#[test]
fn soft_caps_windows_and_normalised_queries() {
    check("soft caps", &DecoderConfig { logit_softcap: Some(2.0), attention_softcap: Some(1.5), ..gpt2() });
    check("window", &DecoderConfig { window: Some(3), ..llama() });
    check("qk norm", &DecoderConfig { qk_norm: true, ..llama() });
    check("qk norm, learned positions", &DecoderConfig { qk_norm: true, ..gpt2() });
}

#[test]
fn dropout_with_a_fixed_stream() {
    for norm_place in [NormPlace::Pre, NormPlace::Both] {
        check(&format!("dropout, {norm_place:?}"), &DecoderConfig { dropout: 0.3, norm_place, ..gpt2() });
    }
    check("dropout, llama", &DecoderConfig { dropout: 0.3, ..llama() });
}

#[test]
fn packed_documents() {
    for cfg in [gpt2(), llama(), DecoderConfig { position: Position::Sinusoidal, ..gpt2() }] {
        let mut case = Case::new(&cfg);
        case.docs = Some(case.model.ids(&[0, 0, 1, 1, 1, 2, 5, 5, 5, 5, 6, 6], 2).unwrap());
        case.check("documents");
    }
}

#[test]
fn recomputation_gives_the_same_bits() {
    for cfg in [gpt2(), DecoderConfig { dropout: 0.3, ..llama() }] {
        let mut case = Case::new(&cfg);
        let kept = case.loss();
        let grads = kept.backward().unwrap();
        case.cx.recompute = true;
        let again = case.loss();
        assert_eq!(kept.to_f64_vec().unwrap(), again.to_f64_vec().unwrap());
        let regrads = again.backward().unwrap();
        for p in case.model.params() {
            let (a, b) = (grads.get(&p.tensor).unwrap(), regrads.get(&p.tensor).unwrap());
            assert_eq!(a.to_vec::<f64>().unwrap(), b.to_vec::<f64>().unwrap(), "{}", p.name);
        }
    }
}
