//! A whole training step: memory, recomputation, threads, micro-batches. The pools and the thread count are the
//! process's, so these tests take turns.

mod tiny;

use gently_tensor::*;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tiny::{B, T, Tiny};

static TURN: Mutex<()> = Mutex::new(());

fn turn() -> MutexGuard<'static, ()> {
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn bits(model: &Tiny, grads: &Grads) -> Vec<u32> {
    let mut all = Vec::new();
    for p in model.params() {
        let g = grads.get(&p).expect("every parameter has a gradient");
        all.extend(g.to_vec::<f32>().unwrap().iter().map(|v| v.to_bits()));
    }
    all
}

/// Loss and gradients of one step.
fn run(model: &Tiny) -> (f32, Vec<u32>) {
    let mut grads = Grads::new();
    let loss = model.step(&mut Rng::new(2).stream("dropout"), &mut grads).unwrap();
    (loss.item().unwrap(), bits(model, &grads))
}

#[test]
fn memory_is_flat_after_the_second_step() {
    let _turn = turn();
    let model = Tiny::new(&Device::Cpu).unwrap();
    let mut grads = Grads::new();
    let mut rng = Rng::new(2);
    let mut seen = Vec::new();
    for _ in 0..6 {
        model.step(&mut rng, &mut grads).unwrap();
        seen.push(memory::stats(Device::Cpu));
    }
    let second = seen[1];
    for s in &seen[2..] {
        assert_eq!(s, &second, "{seen:?}");
    }
    drop((grads, model));
    memory::reset(Device::Cpu);
    assert_eq!(memory::current(Device::Cpu), 0);
}

#[test]
fn a_step_on_meta_predicts_the_peak_exactly() {
    let _turn = turn();
    for recompute in [false, true] {
        let [cpu, meta] = [Device::Cpu, Device::Meta].map(|device| {
            memory::reset(device);
            let mut model = Tiny::new(&device).unwrap();
            (model.recompute, model.dropout) = (recompute, 0.1);
            let (mut grads, mut rng) = (Grads::new(), Rng::new(2));
            let mut history = Vec::new();
            for _ in 0..3 {
                let loss = model.step(&mut rng, &mut grads).unwrap();
                assert_eq!(loss.item::<f32>().is_ok(), device == Device::Cpu);
                let stats = memory::stats(device);
                history.push((stats.peak_held, stats.peak_live, stats.held, stats.live));
            }
            history
        });
        assert_eq!(cpu, meta, "recompute = {recompute}");
    }
}

#[test]
fn recomputation_changes_no_bit_and_lowers_the_peak() {
    let _turn = turn();
    let mut model = Tiny::new(&Device::Cpu).unwrap();
    model.dropout = 0.2;
    let peak = |model: &Tiny| {
        memory::reset(Device::Cpu);
        let parameters = memory::stats(Device::Cpu).live;
        let result = run(model);
        // Gradients take as much as parameters; the rest is activations.
        (result, memory::stats(Device::Cpu).peak_live - 2 * parameters)
    };
    let (plain, high) = peak(&model);
    model.recompute = true;
    let (again, low) = peak(&model);
    assert_eq!(plain.0.to_bits(), again.0.to_bits());
    assert!(plain.1 == again.1, "gradients differ");
    assert!(low < high * 2 / 3, "peaks: {high} without recomputation, {low} with");
}

#[test]
fn dropout_streams_continue_after_a_checkpoint() {
    let _turn = turn();
    let mut places = Vec::new();
    for recompute in [false, true] {
        let mut model = Tiny::new(&Device::Cpu).unwrap();
        (model.dropout, model.recompute) = (0.2, recompute);
        let mut rng = Rng::new(2);
        model.step(&mut rng, &mut Grads::new()).unwrap();
        places.push(rng);
    }
    assert_eq!(places[0], places[1]);
}

#[test]
fn one_and_more_threads_give_the_same_bits() {
    let _turn = turn();
    let mut model = Tiny::new(&Device::Cpu).unwrap();
    model.dropout = 0.1;
    let before = gently_kernels::pool::threads();
    let mut results = Vec::new();
    for n in [1, 2, 3] {
        gently_kernels::pool::set_threads(n);
        results.push(run(&model));
    }
    gently_kernels::pool::set_threads(before);
    assert!(results[0] == results[1] && results[0] == results[2]);
}

#[test]
fn micro_batches_add_up_in_place() {
    let _turn = turn();
    let model = Tiny::new(&Device::Cpu).unwrap();
    let mut whole = Grads::new();
    let mut rng = Rng::new(0);
    model.step(&mut rng, &mut whole).unwrap();
    let mut parts = Grads::new();
    let mut total = 0.0;
    for i in 0..B {
        let part = |t: &Tensor| t.narrow(0, i, 1).unwrap().contiguous().unwrap();
        let loss = model.loss(&part(&model.ids), &part(&model.targets), &mut rng).unwrap();
        loss.backward_into(&mut parts).unwrap();
        total += loss.item::<f32>().unwrap();
    }
    let loss = model.loss(&model.ids, &model.targets, &mut rng).unwrap();
    assert!((total - loss.item::<f32>().unwrap()).abs() < 1e-5);
    for p in model.params() {
        let (a, b) = (whole.get(&p).unwrap(), parts.get(&p).unwrap());
        let (a, b) = (a.to_vec::<f32>().unwrap(), b.to_vec::<f32>().unwrap());
        let size = a.iter().fold(0.0f32, |m, v| m.max(v.abs()));
        assert!(a.iter().zip(&b).all(|(a, b)| (a - b).abs() <= 2e-5 * size), "{:?}", p.shape());
    }
}

#[test]
fn bf16_products_stay_near_f32() {
    let _turn = turn();
    let x = Rng::new(1).normal([B * T, 64], 0.0, 1.0, DType::F32, &Device::Cpu).unwrap();
    let w = Rng::new(2).normal([48, 64], 0.0, 0.1, DType::F32, &Device::Cpu).unwrap();
    let exact = x.linear(&LinearArgs::new(&w)).unwrap().to_vec::<f32>().unwrap();
    let rounded = x.linear(&LinearArgs::new(&w).compute(Compute::Bf16)).unwrap();
    // Storing the operands as bf16 is the same rounding.
    let stored = x
        .to_dtype(DType::Bf16)
        .unwrap()
        .linear(&LinearArgs::new(&w.to_dtype(DType::Bf16).unwrap()).compute(Compute::Bf16))
        .unwrap();
    assert_eq!(stored.dtype(), DType::F32);
    let rounded = rounded.to_vec::<f32>().unwrap();
    assert_eq!(rounded, stored.to_vec::<f32>().unwrap());
    let worst = exact.iter().zip(&rounded).fold(0.0f32, |m, (a, b)| m.max((a - b).abs()));
    assert!(worst > 0.0 && worst < 0.03, "{worst}");
}

#[test]
fn a_product_does_not_keep_what_can_be_made_again() {
    let _turn = turn();
    let peaks = [Device::Cpu, Device::Meta].map(|device| {
        memory::reset(device);
        let ones = |dims: [usize; 2]| Tensor::ones(dims, DType::F32, &device).unwrap().param().unwrap();
        // 4 MiB each for x, its norm, the sums before the activation and the activated.
        let (x, gain, up, down) = (ones([1024, 1024]), ones([1, 1024]), ones([1024, 1024]), ones([8, 1024]));
        let gain = gain.reshape([1024]).unwrap();
        let before = memory::stats(device).live;
        let normed = x.rms_norm(&gain, 1e-5).unwrap();
        let h = normed.linear(&LinearArgs::new(&up).activation(Activation::GeluTanh)).unwrap();
        drop(normed);
        let y = h.linear(&LinearArgs::new(&down)).unwrap();
        drop(h);
        let kept = memory::stats(device).live - before;
        assert!((4 << 20..5 << 20).contains(&kept), "{kept} bytes are kept on {device}");
        y.sum_all().unwrap().backward().unwrap();
        memory::stats(device).peak_live
    });
    assert_eq!(peaks[0], peaks[1]);
}
