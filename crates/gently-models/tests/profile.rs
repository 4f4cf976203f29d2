//! A profile of a model: its products add up to the formula of `flops`, and every call knows its part.

use gently_models::config::{DecoderConfig, Family};
use gently_models::flops::Cost;
use gently_models::{Batch, Decoder, ForwardCx};
use gently_tensor::profile::{self, Pass, Recording};
use gently_tensor::{Device, Grads, Rng};
use std::collections::BTreeSet;

fn step(cfg: &DecoderConfig, batch: usize, t: usize, cx: &ForwardCx) -> Recording {
    let model = Decoder::new(cfg, &Rng::new(0), &Device::Meta).unwrap();
    let ids = model.ids(&vec![1; batch * t], batch).unwrap();
    let mut grads = Grads::new();
    profile::start();
    let loss = model.loss(&Batch { ids: &ids, targets: &ids, docs: None }, 1.0, cx).unwrap();
    loss.backward_into(&mut grads).unwrap();
    profile::finish().unwrap()
}

fn products(r: &Recording) -> f64 {
    let heavy = ["gemm", "attention", "attention_backward", "linear_cross_entropy"];
    let counted = r.calls.iter().filter(|c| c.pass != Pass::Recompute && heavy.contains(&c.kernel));
    counted.map(|c| c.work.flops as f64).sum()
}

#[test]
fn calls_add_up_to_the_floor() {
    // GPT-2 124M itself: nothing is computed on the meta device.
    let gpt2 = DecoderConfig::named("gpt2").unwrap();
    let llama = DecoderConfig {
        vocab: 500,
        layers: 3,
        heads: 8,
        kv_heads: Some(2),
        width: 64,
        window: Some(24),
        ..DecoderConfig::preset(Family::Llama)
    };
    for (cfg, batch, t) in [(gpt2, 1, 1024), (llama, 3, 96)] {
        for recompute in [false, true] {
            let cx = ForwardCx { training: true, recompute, ..ForwardCx::default() };
            let r = step(&cfg, batch, t, &cx);
            let floor = Cost::of(&cfg).training_flops_per_token(t) * (batch * t) as f64;
            let off = products(&r) / floor - 1.0;
            assert!(off.abs() < 1e-9, "{off} off");
            // Norms, activations and the rest are small beside the products.
            let all: f64 = r.calls.iter().filter(|c| c.pass != Pass::Recompute).map(|c| c.work.flops as f64).sum();
            assert!(all / floor < 1.1, "{}", all / floor);
        }
    }
}

#[test]
fn every_call_of_a_step_knows_its_part() {
    let cfg = DecoderConfig { vocab: 20, layers: 2, heads: 2, width: 8, ..DecoderConfig::preset(Family::Gpt2) };
    let cfg = DecoderConfig { dropout: 0.1, ..cfg };
    for recompute in [false, true] {
        let cx = ForwardCx { training: true, recompute, ..ForwardCx::default() };
        let r = step(&cfg, 2, 8, &cx);
        for pass in [Pass::Forward, Pass::Backward] {
            let parts: BTreeSet<&str> = r.calls.iter().filter(|c| c.pass == pass).map(|c| r.part(c)).collect();
            for part in ["mixer_norm", "mixer.qkv", "mixer.scores", "mixer.out", "mlp_norm", "mlp.up", "mlp.down"] {
                for layer in 0..2 {
                    assert!(parts.contains(&*format!("blocks.{layer}.{part}")), "{part} in {parts:?}");
                }
            }
            assert!(parts.contains("embed") && parts.contains("final_norm"), "{parts:?}");
        }
        let lost = r.calls.iter().filter(|c| r.part(c).is_empty() && !c.op.is_empty()).count();
        assert_eq!(lost, 0, "every operation stands in a part");
    }
}
