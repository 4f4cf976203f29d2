//! A step on the meta device, where nothing is computed, takes the memory that the same step takes on the CPU: this
//! is what memory plans stand on. Alone in its file, because the accounts are the process's.

use gently_models::config::{DecoderConfig, Family, Position};
use gently_models::{Batch, Decoder, ForwardCx};
use gently_tensor::{Device, Grads, Rng, memory};

/// Peak bytes of two training steps and of a prompt with some steps of generation.
fn peak(cfg: &DecoderConfig, recompute: bool, packed: bool, device: Device) -> usize {
    memory::reset(device);
    let model = Decoder::new(cfg, &Rng::new(1), &device).unwrap();
    let cx = ForwardCx { training: true, rng: Rng::new(2), recompute, ..ForwardCx::default() };
    let mut grads = Grads::new();
    for _ in 0..2 {
        let ids = model.ids(&[1; 4 * 24], 4).unwrap();
        let docs = packed.then(|| model.ids(&[0; 4 * 24], 4).unwrap());
        let batch = Batch { ids: &ids, targets: &ids, docs: docs.as_ref() };
        model.loss(&batch, 1.0 / 96.0, &cx).unwrap().backward_into(&mut grads).unwrap();
        grads.clear();
    }
    let mut state = model.init_state(2);
    for ids in [&[3; 14][..], &[4, 4], &[5, 5]] {
        model.step(&model.ids(ids, 2).unwrap(), &mut state).unwrap();
    }
    memory::peak(device)
}

#[test]
fn the_plan_is_the_truth() {
    let base = |family| DecoderConfig {
        vocab: 90,
        context: 32,
        layers: 3,
        heads: 4,
        kv_heads: Some(2),
        width: 64,
        dropout: 0.1,
        ..DecoderConfig::preset(family)
    };
    let configs = [
        base(Family::Gpt2),
        base(Family::Llama),
        DecoderConfig { qk_norm: true, window: Some(6), ..base(Family::Llama) },
        DecoderConfig { position: Position::Sinusoidal, dropout: 0.0, ..base(Family::Gpt2) },
    ];
    for cfg in configs {
        let mut kept = 0;
        for (recompute, packed) in [(false, false), (true, false), (false, true)] {
            let (plan, truth) =
                (peak(&cfg, recompute, packed, Device::Meta), peak(&cfg, recompute, packed, Device::Cpu));
            let apart = plan.abs_diff(truth) as f64 / truth as f64;
            assert!(apart < 0.02, "planned {plan}, took {truth}; recompute {recompute}, packed {packed}, {cfg:?}");
            match recompute {
                false if kept == 0 => kept = truth,
                true => assert!(truth < kept, "recomputation saves memory: {truth} of {kept}"),
                _ => {}
            }
        }
    }
}
