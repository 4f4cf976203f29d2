//! What the recorder says about calls: their work against numbers made by hand, and their place.

mod tiny;

use gently_tensor::profile::{self, Call, Pass, Recording, Work};
use gently_tensor::*;
use tiny::{B, C, H, T, Tiny, V};

fn recorded(f: impl FnOnce()) -> Recording {
    profile::start();
    f();
    profile::finish().expect("a recording runs")
}

fn named<'a>(recording: &'a Recording, pass: Pass, kernel: &str) -> Vec<&'a Call> {
    recording.calls.iter().filter(|c| c.pass == pass && c.kernel == kernel).collect()
}

#[test]
fn a_linear_layer_states_its_three_products() {
    let (n, inp, out) = (6, 8, 5);
    let x = Tensor::ones([n, inp], DType::F32, &Device::Cpu).unwrap().param().unwrap();
    let w = Tensor::ones([out, inp], DType::F32, &Device::Cpu).unwrap().param().unwrap();
    let b = Tensor::ones([out], DType::F32, &Device::Cpu).unwrap().param().unwrap();
    let r = recorded(|| {
        let args = LinearArgs::new(&w).bias(&b).activation(Activation::GeluTanh).compute(Compute::Bf16);
        x.linear(&args).unwrap().sum_all().unwrap().backward().unwrap();
    });
    let [forward] = named(&r, Pass::Forward, "gemm")[..] else { panic!("one product forward") };
    // x and w are read, y and what stands before the activation are written, the bias is read.
    let bytes = 4 * (6 * 8 + 5 * 8 + 2 * 6 * 5 + 5);
    assert_eq!(forward.work, Work { flops: 2 * 6 * 8 * 5, bytes, compute: Compute::Bf16 });
    assert_eq!((forward.op, forward.detail), ("linear", ""));
    let [dx, dw] = named(&r, Pass::Backward, "gemm")[..] else { panic!("two products backward") };
    assert_eq!((dx.detail, dw.detail), ("dx", "dw"));
    assert_eq!((dx.work.flops, dw.work.flops), (480, 480));
    assert_eq!(dx.work.bytes, 4 * (6 * 5 + 5 * 8 + 6 * 8));
    let [act] = named(&r, Pass::Backward, "activation_backward")[..] else { panic!("one derivative") };
    assert_eq!(act.work, Work::pass(2 * 9 * 30, 3 * 4 * 30));
    assert_eq!(act.op, "linear", "what a backward calls belongs to its operation");
    let [sum] = named(&r, Pass::Backward, "column_sum")[..] else { panic!("one bias") };
    assert_eq!(sum.work, Work::pass(30, 4 * (30 + 5)));
}

#[test]
fn attention_counts_what_its_mask_leaves() {
    let (b, t, h, kv, d) = (2, 6, 4, 2, 8);
    let qkv = Tensor::ones([b, t, (h + 2 * kv) * d], DType::F32, &Device::Meta).unwrap().param().unwrap();
    for (mask, pairs) in [(Mask::Full, 36), (Mask::Causal, 21), (Mask::Window(2), 11)] {
        let r = recorded(|| {
            let y = qkv.detach().param().unwrap().attention_packed(h, kv, None, None, &AttentionSpec::new(1.0, mask));
            y.unwrap().sum_all().unwrap().backward().unwrap();
        });
        let [forward] = named(&r, Pass::Forward, "attention")[..] else { panic!("one attention") };
        let [backward] = named(&r, Pass::Backward, "attention_backward")[..] else { panic!("one backward") };
        let scores = pairs * 2 * 4;
        assert_eq!(forward.work.flops, 4 * scores * 8, "{mask:?}");
        assert_eq!(backward.work.flops, 8 * scores * 8, "{mask:?}");
        // q and the result 2·6·4·8 each, k and v half of it each, two statistics for a query and head.
        assert_eq!(forward.work.bytes, 4 * (2 * 384 + 2 * 192 + 96));
        assert_eq!(backward.work.bytes, 4 * (4 * 384 + 4 * 192 + 96));
    }
}

#[test]
fn attention_counts_no_pairs_across_borders_of_documents() {
    let (b, t, h, d) = (2, 6, 2, 8);
    let ids = [1u32, 1, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3];
    let docs = Tensor::from_slice(&ids, [b, t], &Device::Cpu).unwrap();
    // Documents of 2, 3 and 1 in the first row, of 6 in the second.
    for (mask, pairs) in
        [(Mask::Full, 4 + 9 + 1 + 36), (Mask::Causal, 3 + 6 + 1 + 21), (Mask::Window(2), 3 + 5 + 1 + 11)]
    {
        let spec = AttentionSpec { docs: Some(docs.clone()), ..AttentionSpec::new(1.0, mask) };
        let r = recorded(|| {
            let qkv = Tensor::ones([b, t, 3 * h * d], DType::F32, &Device::Cpu).unwrap().param().unwrap();
            let y = qkv.detach().param().unwrap().attention_packed(h, h, None, None, &spec);
            y.unwrap().sum_all().unwrap().backward().unwrap();
        });
        let [forward] = named(&r, Pass::Forward, "attention")[..] else { panic!("one attention") };
        let [backward] = named(&r, Pass::Backward, "attention_backward")[..] else { panic!("one backward") };
        assert_eq!(forward.work.flops, 4 * pairs * 2 * 8, "{mask:?}");
        assert_eq!(backward.work.flops, 8 * pairs * 2 * 8, "{mask:?}");
    }
}

#[test]
fn a_full_recording_knows_which_phases_have_all_their_calls() {
    let r = recorded(|| {
        drop(profile::phase("empty"));
        let _outer = profile::phase("outer");
        for _ in 0..profile::CAPACITY {
            drop(profile::call("nothing", Work::default));
        }
        drop(profile::phase("inner"));
        assert!(!profile::is_full());
        drop(profile::call("nothing", Work::default));
        assert!(profile::is_full());
        drop(profile::phase("after"));
    });
    assert!(!profile::is_full());
    assert_eq!((r.calls.len(), r.lost), (profile::CAPACITY, 1));
    assert_eq!(r.phases.iter().map(|p| p.name).collect::<Vec<_>>(), ["empty", "inner", "after", "outer"]);
    assert_eq!(r.whole, 2);
    assert_eq!(recorded(|| drop(profile::phase("one"))).whole, 1);
}

#[test]
fn the_loss_makes_its_gradients_in_the_forward() {
    let x = Tensor::ones([10, 16], DType::F32, &Device::Meta).unwrap().param().unwrap();
    let w = Tensor::ones([50, 16], DType::F32, &Device::Meta).unwrap().param().unwrap();
    let targets = Tensor::zeros([10], DType::U32, &Device::Meta).unwrap();
    let loss = || x.linear_cross_entropy(&w, &targets, 0.1, None, Compute::F32).unwrap();
    let with = recorded(|| drop(loss()));
    let without = recorded(|| no_grad(|| drop(loss())));
    assert_eq!(with.calls.last().unwrap().work.flops, 6 * 10 * 16 * 50);
    assert_eq!(without.calls.last().unwrap().work.flops, 2 * 10 * 16 * 50);
    assert_eq!(without.calls.last().unwrap().work.bytes, 4 * (10 * 16 + 50 * 16 + 10));
}

#[test]
fn pointwise_and_row_work() {
    let x = Tensor::ones([4, 8], DType::F32, &Device::Cpu).unwrap();
    let w = Tensor::ones([8], DType::F32, &Device::Cpu).unwrap();
    let one = |f: &dyn Fn() -> Tensor| recorded(|| drop(f())).calls.last().map(|c| (c.op, c.kernel, c.work)).unwrap();
    assert_eq!(one(&|| x.add(&x).unwrap()), ("add", "binary", Work::pass(32, 3 * 128)));
    // What is repeated is read once.
    assert_eq!(one(&|| x.mul(&w).unwrap()), ("mul", "binary", Work::pass(32, 2 * 128 + 32)));
    assert_eq!(one(&|| x.layer_norm(&w, None, 1e-5).unwrap()), ("layer_norm", "norm", Work::pass(7 * 32, 256)));
    assert_eq!(one(&|| x.rms_norm(&w, 1e-5).unwrap()), ("rms_norm", "norm", Work::pass(4 * 32, 256)));
    assert_eq!(one(&|| x.softmax().unwrap()), ("softmax", "softmax", Work::pass(5 * 32, 256)));
    assert_eq!(one(&|| x.sum_all().unwrap()), ("sum", "sum_axes", Work::pass(32, 132)));
    assert_eq!(one(&|| x.t().unwrap().contiguous().unwrap()), ("contiguous", "copy", Work::pass(0, 256)));
    let p = recorded(|| drop(x.matmul(&x.t().unwrap()).unwrap()));
    assert_eq!(p.calls[0].work, Work::products(4 * 4 * 8, 4 * (32 + 32 + 16), Compute::F32));
}

#[test]
fn calls_know_their_part_and_phase_also_backward() {
    let x = Tensor::ones([2, 3], DType::F32, &Device::Cpu).unwrap().param().unwrap();
    let r = recorded(|| {
        let y = {
            let _phase = profile::phase("forward");
            let _block = profile::part(format_args!("blocks.{}", 3));
            let _mlp = profile::part("mlp");
            x.exp().unwrap().sum_all().unwrap()
        };
        let _phase = profile::phase("backward");
        y.backward().unwrap();
    });
    let exp = r.calls.iter().find(|c| c.op == "exp" && c.pass == Pass::Forward).unwrap();
    assert_eq!((r.part(exp), exp.phase), ("blocks.3.mlp", "forward"));
    let back = r.calls.iter().find(|c| c.op == "exp" && c.pass == Pass::Backward).unwrap();
    assert_eq!((r.part(back), back.phase), ("blocks.3.mlp", "backward"));
    assert_eq!(r.phases.iter().map(|p| p.name).collect::<Vec<_>>(), ["forward", "backward"]);
    for call in &r.calls {
        assert!(call.start <= call.end);
        let inside = |p: &profile::Phase| p.name == call.phase && p.start <= call.start && call.end <= p.end;
        assert!(r.phases.iter().any(inside), "{call:?} lies in its phase");
    }
    assert!(!profile::is_on() && profile::finish().is_none());
}

#[test]
fn a_recording_changes_no_bit_and_sees_every_product() {
    let run = |record: bool, recompute: bool| {
        let mut model = Tiny::new(&Device::Cpu).unwrap();
        (model.recompute, model.dropout) = (recompute, 0.1);
        let mut grads = Grads::new();
        if record {
            profile::start();
        }
        let loss = model.step(&mut Rng::new(3), &mut grads).unwrap();
        let recording = profile::finish();
        let mut bits = vec![loss.item::<f32>().unwrap().to_bits()];
        for p in model.params() {
            bits.extend(grads.get(&p).unwrap().to_vec::<f32>().unwrap().iter().map(|v| v.to_bits()));
        }
        (bits, recording)
    };
    let (n, c, layers) = ((B * T) as u64, C as u64, 3);
    let products = layers * 12 * c * c + (V * C) as u64;
    let pairs = (B * H) as u64 * Mask::Causal.pairs(0, T, T);
    let attention = layers * 4 * pairs * (C / H) as u64;
    for recompute in [false, true] {
        let (plain, none) = run(false, recompute);
        let (seen, recording) = run(true, recompute);
        assert!(none.is_none());
        assert_eq!(plain, seen);
        let recording = recording.unwrap();
        let flops = |pass| -> u64 {
            let heavy = ["gemm", "attention", "attention_backward", "linear_cross_entropy"];
            recording.calls.iter().filter(|c| c.pass == pass && heavy.contains(&c.kernel)).map(|c| c.work.flops).sum()
        };
        let total = flops(Pass::Forward) + flops(Pass::Backward);
        assert_eq!(total, 6 * n * products + 3 * attention, "recompute {recompute}");
        let again = 2 * n * layers * 12 * c * c + attention;
        assert_eq!(flops(Pass::Recompute), if recompute { again } else { 0 });
    }
}
