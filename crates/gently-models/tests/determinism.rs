//! The same numbers every time: for a seed, for any number of threads, and for any cut into micro-batches.

use gently_models::config::{DecoderConfig, Family};
use gently_models::{Batch, Compute, Decoder, ForwardCx};
use gently_tensor::{Device, Grads, IGNORE, Rng};

const BATCH: usize = 8;
const BLOCK: usize = 33;

fn config(family: Family, dropout: f64) -> DecoderConfig {
    DecoderConfig {
        vocab: 131,
        context: BLOCK,
        layers: 2,
        heads: 4,
        kv_heads: Some(2),
        width: 72,
        dropout,
        ..DecoderConfig::preset(family)
    }
}

/// Tokens and targets, a third of which do not count, unevenly over the rows.
fn data() -> (Vec<u32>, Vec<u32>) {
    let mut rng = Rng::new(2);
    let ids: Vec<u32> = (0..BATCH * BLOCK).map(|_| rng.below(131) as u32).collect();
    let targets = (0..BATCH * BLOCK)
        .map(|i| if rng.below(BATCH as u64) < (i / BLOCK) as u64 / 2 { IGNORE } else { rng.below(131) as u32 })
        .collect();
    (ids, targets)
}

/// Loss and gradients of the whole batch, cut into `cuts` micro-batches, normalised by all targets that count.
fn run(model: &Decoder, cuts: usize, cx: &ForwardCx) -> (f64, Vec<Vec<f32>>) {
    let (ids, targets) = data();
    let scale = 1.0 / targets.iter().filter(|t| **t != IGNORE).count() as f64;
    let (mut grads, mut sum) = (Grads::new(), 0.0);
    let rows = BATCH / cuts;
    for (ids, targets) in ids.chunks(rows * BLOCK).zip(targets.chunks(rows * BLOCK)) {
        let (ids, targets) = (model.ids(ids, rows).unwrap(), model.ids(targets, rows).unwrap());
        let loss = model.loss(&Batch { ids: &ids, targets: &targets, docs: None }, scale, cx).unwrap();
        sum += f64::from(loss.item::<f32>().unwrap());
        loss.backward_into(&mut grads).unwrap();
    }
    let grad = |p: &gently_models::Param| grads.get(&p.tensor).unwrap().to_vec::<f32>().unwrap();
    (sum, model.params().iter().map(grad).collect())
}

fn model(cfg: &DecoderConfig) -> Decoder {
    Decoder::new(cfg, &Rng::new(1), &Device::Cpu).unwrap()
}

/// Largest difference, relative to the largest value of each parameter.
fn distance(a: &[Vec<f32>], b: &[Vec<f32>]) -> f32 {
    let largest = |v: &[f32]| v.iter().fold(1e-12f32, |m, x| m.max(x.abs()));
    let apart = |a: &[f32], b: &[f32]| a.iter().zip(b).fold(0.0f32, |m, (x, y)| m.max((x - y).abs()));
    a.iter().zip(b).fold(0.0, |m, (a, b)| m.max(apart(a, b) / largest(a)))
}

#[test]
fn a_seed_and_any_number_of_threads_give_the_same_bits() {
    for family in [Family::Gpt2, Family::Llama] {
        for compute in [Compute::F32, Compute::Bf16] {
            let cfg = config(family, 0.1);
            let cx = ForwardCx { training: true, compute, rng: Rng::new(4).stream("dropout"), recompute: false };
            let before = gently_kernels::pool::threads();
            let mut runs = Vec::new();
            for threads in [1, 2, 3, 2] {
                gently_kernels::pool::set_threads(threads);
                runs.push(run(&model(&cfg), 1, &cx));
            }
            gently_kernels::pool::set_threads(before);
            for other in &runs[1..] {
                assert!(runs[0] == *other, "{family:?} {compute:?}");
            }
        }
    }
}

#[test]
fn micro_batches_add_up() {
    for family in [Family::Gpt2, Family::Llama] {
        let model = model(&config(family, 0.0));
        let cx = ForwardCx::default();
        let (loss, grads) = run(&model, 1, &cx);
        for cuts in [2, 4, 8] {
            let (cut_loss, cut_grads) = run(&model, cuts, &cx);
            assert!((loss - cut_loss).abs() < 1e-5, "{loss} {cut_loss}");
            assert!(distance(&grads, &cut_grads) < 1e-4, "{family:?}, {cuts} micro-batches");
        }
    }
}

#[test]
fn bf16_products_are_near_f32_products() {
    for family in [Family::Gpt2, Family::Llama] {
        let model = model(&config(family, 0.0));
        let (loss, grads) = run(&model, 1, &ForwardCx::default());
        let (rough, rough_grads) = run(&model, 1, &ForwardCx { compute: Compute::Bf16, ..ForwardCx::default() });
        assert!((loss - rough).abs() < 5e-3, "{loss} {rough}");
        // A bf16 number has 8 bits.
        assert!(distance(&grads, &rough_grads) < 0.05);
        assert!(rough_grads != grads, "bf16 was asked for");
    }
}
