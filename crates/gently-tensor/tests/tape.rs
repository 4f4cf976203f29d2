//! The tape's rules: what is refused, what is shared, what is accumulated, and what errors say.

use gently_tensor::*;

const CPU: Device = Device::Cpu;

fn param(values: &[f32]) -> Tensor {
    Tensor::from_slice(values, [values.len()], &CPU).unwrap().param().unwrap()
}

#[test]
fn operations_without_a_backward_refuse_to_record() {
    let x = param(&[1.0, 3.0, 2.0]);
    assert_eq!(x.argmax(0, false).unwrap_err(), Error::NoBackward { op: "argmax" });
    assert!(matches!(x.to_dtype(DType::U32), Err(Error::NoBackward { .. })));
    let w = x.reshape([1, 3]).unwrap();
    let t = Tensor::from_slice(&[0u32], [1], &CPU).unwrap();
    assert!(matches!(w.linear_nll(&w, &t, None, Compute::F32), Err(Error::NoBackward { .. })));
    let mut spec = AttentionSpec::causal(3);
    spec.alibi = Some(param(&[0.5]));
    let h = w.reshape([1, 1, 1, 3]).unwrap();
    assert!(matches!(h.attention(&h, &h, &spec), Err(Error::NoBackward { .. })));
    // Without a recording tape, or without history, they run.
    assert_eq!(no_grad(|| x.argmax(0, false)).unwrap().item::<u32>().unwrap(), 1);
    assert_eq!(x.detach().argmax(0, false).unwrap().item::<u32>().unwrap(), 1);
    assert!(x.argmax(0, false).unwrap_err().hint().is_some());
}

#[test]
fn no_grad_records_nothing_and_ends_with_a_panic() {
    let x = param(&[1.0]);
    assert!(!no_grad(|| x.exp()).unwrap().is_tracked());
    let caught = std::panic::catch_unwind(|| no_grad(|| panic!("on purpose")));
    assert!(caught.is_err() && is_recording());
    assert!(x.exp().unwrap().is_tracked());
    assert!(!x.detach().exp().unwrap().is_tracked());
}

#[test]
fn a_graph_is_used_once() {
    let x = param(&[1.0, 2.0]);
    let y = x.sqr().unwrap();
    let (a, b) = (y.sum_all().unwrap(), y.mean_all().unwrap());
    a.backward().unwrap();
    assert_eq!(a.backward().unwrap_err(), Error::GraphConsumed { op: "sum" });
    assert_eq!(b.backward().unwrap_err(), Error::GraphConsumed { op: "sqr" });
    assert!(matches!(y.backward(), Err(Error::NotScalar { .. })));
    let constant = Tensor::scalar(1.0f32, &CPU).unwrap();
    assert_eq!(constant.backward().unwrap_err(), Error::NotRecorded);
}

#[test]
fn gradients_of_leaves_are_never_shared() {
    let (a, b) = (param(&[1.0, 2.0]), param(&[3.0, 4.0]));
    let grads = a.add(&b).unwrap().sum_all().unwrap().backward().unwrap();
    let (ga, gb) = (grads.get(&a).unwrap(), grads.get(&b).unwrap());
    assert!(!ga.shares_memory_with(gb));
    ga.with_data_mut::<f32, _>(|d| d.fill(9.0)).unwrap();
    assert_eq!(gb.to_vec::<f32>().unwrap(), [1.0, 1.0]);
}

#[test]
fn second_contributions_are_added_in_place() {
    let w = param(&[2.0, -1.0]).reshape([1, 2]).unwrap().param().unwrap();
    let x = Tensor::from_slice(&[1.0f32, 5.0], [1, 2], &CPU).unwrap();
    let mut grads = Grads::new();
    let step = |grads: &mut Grads| {
        let y = x.linear(&LinearArgs::new(&w)).unwrap();
        y.sum_all().unwrap().backward_into(grads).unwrap();
    };
    step(&mut grads);
    let address = |g: &Grads| g.get(&w).unwrap().with_data::<f32, _>(|d| d.as_ptr() as usize).unwrap();
    let before = address(&grads);
    step(&mut grads);
    assert_eq!(address(&grads), before);
    assert_eq!(grads.get(&w).unwrap().to_vec::<f32>().unwrap(), [2.0, 10.0]);
    assert_eq!(grads.iter().map(|(id, _)| id).collect::<Vec<_>>(), [w.id()]);
}

#[test]
fn values_saved_for_the_backward_survive_updates_in_place() {
    let x = param(&[3.0]);
    let y = x.sqr().unwrap().sum_all().unwrap();
    x.with_data_mut::<f32, _>(|d| d[0] = 100.0).unwrap();
    assert_eq!(y.backward().unwrap().get(&x).unwrap().to_vec::<f32>().unwrap(), [6.0]);
    assert_eq!(x.to_vec::<f32>().unwrap(), [100.0]);

    type Two = fn(&Tensor, &Tensor) -> Result<Tensor>;
    let two: [(Two, [f32; 2]); 5] = [
        (|a, b| a.mul(b), [5.0, 3.0]),
        (|a, b| a.div(b), [0.2, -0.12]),
        (|a, b| a.maximum(b), [0.0, 1.0]),
        (|a, b| a.minimum(b), [1.0, 0.0]),
        (|a, b| checkpoint(&[a, b], &mut Rng::new(1), |x, _| x[0].mul(&x[1])), [5.0, 3.0]),
    ];
    for (i, (f, want)) in two.into_iter().enumerate() {
        let (a, b) = (param(&[3.0]), param(&[5.0]));
        let y = f(&a, &b).unwrap().sum_all().unwrap();
        a.with_data_mut::<f32, _>(|d| d[0] = 100.0).unwrap();
        b.with_data_mut::<f32, _>(|d| d[0] = -7.0).unwrap();
        let grads = y.backward().unwrap();
        let got = [&a, &b].map(|t| grads.get(t).unwrap().item::<f32>().unwrap());
        assert!(got.iter().zip(want).all(|(g, w)| (g - w).abs() < 1e-6), "{i}: {got:?}");
        assert_eq!((a.item::<f32>().unwrap(), b.item::<f32>().unwrap()), (100.0, -7.0));
    }
}

#[test]
fn positions_saved_for_the_backward_survive_updates_in_place() {
    let rope = Rope::new(64, 4, 100.0, RopeStyle::Half).unwrap();
    let values = Vec::from_iter((0..24).map(|i| (i as f32 * 0.7).sin()));
    let turned = |x: &Tensor, at: &Tensor| x.narrow(2, 0, 2).unwrap().rope_at(&rope, at);
    let packed = |x: &Tensor, at: &Tensor| {
        let row = x.reshape([1, 2, 12]).unwrap();
        row.attention_packed(1, 1, Some(&rope), Some(at), &AttentionSpec::causal(4))
    };
    let gradient = |f: &dyn Fn(&Tensor, &Tensor) -> Result<Tensor>, change: bool| {
        let x = Tensor::from_slice(&values, [1, 2, 3, 4], &CPU).unwrap().param().unwrap();
        let at = Tensor::from_slice(&[3u32, 9], [1, 2], &CPU).unwrap();
        let y = f(&x, &at).unwrap().sqr().unwrap().sum_all().unwrap();
        // Turning changes no length: weights make the angle count.
        let weights = Tensor::from_slice(&values, [1, 2, 3, 4], &CPU).unwrap();
        let z = f(&x.mul(&weights).unwrap(), &at).unwrap().sum_all().unwrap();
        if change {
            at.with_data_mut::<u32, _>(|d| d.fill(40)).unwrap();
        }
        y.add(&z).unwrap().backward().unwrap().get(&x).unwrap().to_vec::<f32>().unwrap()
    };
    for f in [&turned as &dyn Fn(&Tensor, &Tensor) -> Result<Tensor>, &packed] {
        let plain = gradient(f, false);
        assert!(plain.iter().any(|g| *g != 0.0));
        assert_eq!(plain, gradient(f, true));
    }
}

#[test]
fn a_weight_is_updated_in_place_once_its_backward_has_run() {
    let (w, x) = (param(&[2.0, 3.0]), param(&[5.0, 7.0]));
    let address = || w.with_data::<f32, _>(|d| d.as_ptr() as usize).unwrap();
    let before = address();
    let loss = w.mul(&x).unwrap().div(&w).unwrap().maximum(&w).unwrap().sum_all().unwrap();
    loss.backward().unwrap();
    // The loss still lives, but what its graph kept does not.
    w.with_data_mut::<f32, _>(|d| d[0] = 1.0).unwrap();
    assert_eq!(address(), before);
    drop(loss);
}

#[test]
fn reading_inside_a_write_is_an_error_not_a_deadlock() {
    let x = param(&[1.0]);
    let inner = x.with_data_mut::<f32, _>(|_| x.to_vec::<f32>()).unwrap();
    assert!(matches!(inner, Err(Error::Busy { .. })));
    let caught =
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| x.with_data_mut::<f32, ()>(|_| panic!("on purpose"))));
    assert!(caught.is_err());
    assert_eq!(x.to_vec::<f32>().unwrap(), [1.0]);
}

#[test]
fn a_chain_of_a_hundred_thousand_operations_runs_and_frees() {
    let x = param(&[1.0]);
    let chain = |n: usize| (0..n).try_fold(x.clone(), |y, _| y.affine(1.0, 0.0)).unwrap();
    let grads = chain(100_000).sum_all().unwrap().backward().unwrap();
    assert_eq!(grads.get(&x).unwrap().to_vec::<f32>().unwrap(), [1.0]);
    drop(chain(100_000));
}

#[test]
fn checkpoints_refuse_captured_intermediates() {
    let x = param(&[1.0, 2.0]);
    let hidden = x.exp().unwrap();
    let y = checkpoint(&[&x], &mut Rng::new(0), move |xs, _| xs[0].mul(&hidden)).unwrap();
    let error = y.sum_all().unwrap().backward().unwrap_err();
    assert_eq!(error, Error::CheckpointCapture { op: "exp" });
}

#[test]
fn a_checkpointed_block_may_return_what_it_was_given() {
    type Block = fn(&Tensor, &Tensor, &Tensor) -> Result<Tensor>;
    // An input; a parameter that the block captured; an input that the block was given twice.
    let blocks: [Block; 3] = [|x, _, _| Ok(x.clone()), |_, _, w| Ok(w.clone()), |x, y, _| x.mul(y)];
    let run = |block: Block, checkpointed: bool| {
        let (x, w) = (param(&[0.5, -0.25]), param(&[2.0, 3.0]));
        let hidden = x.exp().unwrap();
        let y = if checkpointed {
            let w = w.clone();
            checkpoint(&[&hidden, &hidden], &mut Rng::new(4), move |xs, _| block(&xs[0], &xs[1], &w)).unwrap()
        } else {
            block(&hidden, &hidden, &w).unwrap()
        };
        // Both leaves have other uses, before and after the block's.
        let y = y.mul(&w).unwrap().add(&hidden).unwrap();
        let grads = y.sum_all().unwrap().backward().unwrap();
        assert_eq!(grads.len(), 2, "the block's own leaves leave no trace");
        [&x, &w].map(|t| grads.get(t).unwrap().to_vec::<f32>().unwrap())
    };
    for (i, block) in blocks.into_iter().enumerate() {
        assert_eq!(run(block, false), run(block, true), "block {i}");
    }
    // Nothing that it returns needs a gradient.
    let constant = param(&[1.0]).detach();
    let x = param(&[4.0]);
    let y = checkpoint(&[&x], &mut Rng::new(0), move |_, _| Ok(constant.clone())).unwrap();
    assert!(y.sum_all().unwrap().backward().unwrap().is_empty());
}

#[test]
fn a_given_gradient_fits_the_result() {
    let x = param(&[1.0, 2.0]);
    let y = || x.sqr().unwrap();
    let mut grads = Grads::new();
    let ones = Tensor::ones([2], DType::F32, &CPU).unwrap();
    y().backward_from(&ones, &mut grads).unwrap();
    y().backward_from(&ones.to_dtype(DType::F64).unwrap(), &mut grads).unwrap();
    assert_eq!(grads.get(&x).unwrap().to_vec::<f32>().unwrap(), [4.0, 8.0]);
    let refused = |grad: Tensor| y().backward_from(&grad, &mut Grads::new()).unwrap_err();
    let of = |dims: &[usize], dtype, device| refused(Tensor::ones(dims, dtype, &device).unwrap());
    assert!(matches!(of(&[1], DType::F32, CPU), Error::ShapeMismatch { .. }));
    assert!(matches!(of(&[2], DType::U32, CPU), Error::UnsupportedDType { .. }));
    assert!(matches!(of(&[2], DType::F32, Device::Meta), Error::DeviceMismatch { .. }));
}

#[test]
fn checkpoints_nest() {
    let run = |nested: bool| {
        let (x, w) = (param(&[0.5, -0.25]), param(&[2.0, 3.0]));
        let mut rng = Rng::new(4);
        let inner = {
            let w = w.clone();
            move |xs: &[Tensor], rng: &mut Rng| xs[0].mul(&w)?.dropout(0.5, rng)?.tanh()
        };
        let y = if nested {
            let outer = move |xs: &[Tensor], rng: &mut Rng| checkpoint(&[&xs[0]], rng, inner.clone())?.mul(&xs[0]);
            checkpoint(&[&x], &mut rng, outer).unwrap()
        } else {
            inner(std::slice::from_ref(&x), &mut rng).unwrap().mul(&x).unwrap()
        };
        let grads = y.sum_all().unwrap().backward().unwrap();
        let all = [&x, &w].map(|t| grads.get(t).unwrap().to_vec::<f32>().unwrap());
        assert_eq!(grads.len(), 2, "inner leaves leave no trace");
        (all, rng)
    };
    assert_eq!(run(false), run(true));
}

#[test]
fn errors_name_the_operation_shapes_and_dtypes() {
    let a = Tensor::zeros([2, 3], DType::F32, &CPU).unwrap();
    let b = Tensor::zeros([4], DType::F32, &CPU).unwrap();
    let say = |r: Result<Tensor>| r.unwrap_err().to_string();
    let text = say(a.add(&b));
    assert!(text.contains("add") && text.contains("[2, 3]") && text.contains("[4]"), "{text}");
    let text = say(a.add(&b.to_dtype(DType::F64).unwrap()));
    assert!(text.contains("f32") && text.contains("f64"), "{text}");
    let text = say(a.linear(&LinearArgs::new(&b)));
    assert!(text.contains("linear") && text.contains("[out, in]"), "{text}");
    let text = say(a.add(&Tensor::zeros([2, 3], DType::F32, &Device::Meta).unwrap()));
    assert!(text.contains("cpu") && text.contains("meta"), "{text}");
    let ids = Tensor::from_slice(&[1u32, 7], [2], &CPU).unwrap();
    let text = say(a.embedding(&ids));
    assert!(text.contains("id 7 at position 1") && text.contains("table of 2"), "{text}");
    let text = say(a.narrow(1, 2, 5));
    assert!(text.contains("narrow: index 6 ") && text.contains("size 3"), "{text}");
    let text = say(a.select(0, 2));
    assert!(text.contains("select: index 2 ") && text.contains("size 2"), "{text}");
    let table = Tensor::zeros([7, 3], DType::F32, &CPU).unwrap();
    let one = Tensor::from_slice(&[1u32], [1], &CPU).unwrap();
    assert!(say(a.embedding_with_positions(&one, &table, 7)).contains("index 7 "));
    let (heads, rope) =
        (Tensor::zeros([1, 1, 1, 4], DType::F32, &CPU).unwrap(), Rope::new(10, 4, 1e4, RopeStyle::Half));
    let text = say(heads.rope_at(&rope.unwrap(), &Tensor::from_slice(&[10u32], [1, 1], &CPU).unwrap()));
    assert!(text.contains("rope: index 10 ") && text.contains("size 10"), "{text}");
    assert!(say(ids.max(0, false)).starts_with("max: "));
    assert!(say(Tensor::zeros([0, 2], DType::F32, &CPU).unwrap().max(0, false)).starts_with("max: "));
    let text = say(a.sum_dims(&[0, 0], false));
    assert!(text.contains("dimension = 0") && text.contains("named once"), "{text}");
    assert!(matches!(a.sum(2, false), Err(Error::DimOutOfRange { dim: 2, rank: 2, .. })));
    assert!(matches!(a.sum(-3, false), Err(Error::DimOutOfRange { .. })));
    assert!(matches!(Tensor::zeros([1usize << 40, 1 << 40], DType::F32, &CPU), Err(Error::TooLarge { .. })));
    assert!(matches!(Tensor::zeros([1usize; 9], DType::F32, &CPU), Err(Error::TooManyDims { rank: 9, .. })));
    assert!(matches!(Tensor::from_slice(&[1.0f32], [2], &CPU), Err(Error::LenMismatch { len: 1, expected: 2, .. })));
    assert!(matches!(ids.exp(), Err(Error::UnsupportedDType { dtype: DType::U32, .. })));
    assert!(matches!(ids.param(), Err(Error::UnsupportedDType { .. })));
    for p in [1.0, 0.999_999_99, -0.1, f64::NAN] {
        assert!(matches!(a.dropout(p, &mut Rng::new(0)), Err(Error::BadArgument { .. })), "{p}");
    }
}

#[test]
fn attention_refuses_what_does_not_fit() {
    let t = |dims: &[usize]| Tensor::zeros(dims, DType::F32, &CPU).unwrap();
    let (q, k) = (t(&[2, 3, 4, 8]), t(&[2, 3, 2, 8]));
    let spec = AttentionSpec::causal(8);
    q.attention(&k, &k, &spec).unwrap();
    for (k, v) in [
        (t(&[2, 3, 3, 8]), t(&[2, 3, 3, 8])),
        (t(&[2, 3, 2, 4]), t(&[2, 3, 2, 4])),
        (t(&[1, 3, 2, 8]), t(&[1, 3, 2, 8])),
        (t(&[2, 3, 2, 8]), t(&[2, 4, 2, 8])),
        (t(&[2, 3, 0, 8]), t(&[2, 3, 0, 8])),
        (t(&[3, 2, 8]), t(&[3, 2, 8])),
    ] {
        assert!(q.attention(&k, &v, &spec).is_err(), "{k:?}");
    }
    let (flat_q, flat_k) = (t(&[2, 3, 4, 0]), t(&[2, 3, 2, 0]));
    assert!(matches!(flat_q.attention(&flat_k, &flat_k, &spec), Err(Error::BadShape { .. })));
    assert!(matches!(t(&[2, 3, 0]).attention_packed(4, 2, None, None, &spec), Err(Error::BadShape { .. })));
    assert!(spec.clone().with_dropout(0.999_999_99, &mut Rng::new(0)).is_err());
    let mut bad = Vec::from_iter((0..6).map(|_| spec.clone()));
    bad[0].docs = Some(Tensor::zeros([2, 4], DType::U32, &CPU).unwrap());
    bad[1].alibi = Some(t(&[3]));
    bad[2].softcap = Some(0.0);
    bad[3].rel_bias = Some(t(&[2, 5]));
    bad[4].dropout = Some(Dropout { p: 1.0, key: [0; 2], offset: 0 });
    bad[5].dropout = Some(Dropout { p: f32::NAN, key: [0; 2], offset: 0 });
    for spec in &bad {
        assert!(q.attention(&k, &k, spec).is_err(), "{spec:?}");
    }
    let rope = Rope::new(4, 8, 10_000.0, RopeStyle::Half).unwrap();
    assert!(q.rope(&rope, 2).is_err() && q.rope(&rope, 1).is_ok());
    assert!(Rope::new(4, 3, 10_000.0, RopeStyle::Half).is_err());
    assert!(matches!(Rope::new(4, usize::MAX - 1, 1e4, RopeStyle::Half), Err(Error::NoScratch { op: "rope", .. })));
    // A table for which no machine has the memory.
    let endless = Rope::new(usize::MAX / 8, 8, 10_000.0, RopeStyle::Half).unwrap();
    assert!(matches!(q.rope(&endless, 0), Err(Error::NoScratch { op: "rope", .. })));
    let packed = t(&[2, 3, 64]);
    assert!(packed.clone().attention_packed(4, 3, None, None, &spec).is_err());
    assert!(packed.clone().attention_packed(0, 0, None, None, &spec).is_err());
    assert!(packed.attention_packed(4, 2, Some(&rope), None, &spec).is_ok());
}

#[test]
fn nothing_is_a_size_too() {
    let t = |dims: &[usize]| Tensor::zeros(dims, DType::F32, &CPU).unwrap().param().unwrap();
    let (x, w) = (t(&[0, 4]), t(&[3, 4]));
    let y = x.linear(&LinearArgs::new(&w)).unwrap();
    assert_eq!(y.dims(), [0, 3]);
    let loss = y.exp().unwrap().softmax().unwrap().sum_all().unwrap();
    assert_eq!(loss.item::<f32>().unwrap(), 0.0);
    let grads = loss.backward().unwrap();
    assert_eq!(grads.get(&w).unwrap().to_vec::<f32>().unwrap(), [0.0; 12]);
    assert_eq!(x.t().unwrap().matmul(&x).unwrap().to_vec::<f32>().unwrap(), [0.0; 16]);
    let none = Tensor::zeros([0], DType::U32, &CPU).unwrap();
    assert_eq!(w.embedding(&none).unwrap().dims(), [0, 4]);
    assert_eq!(w.index_select(0, &none).unwrap().dims(), [0, 4]);
    assert_eq!(Tensor::cat(&[&x, &w], 0).unwrap().dims(), [3, 4]);
    let h = t(&[0, 2, 1, 4]);
    assert_eq!(h.attention(&h, &h, &AttentionSpec::causal(4)).unwrap().numel(), 0);
    let g = x.layer_norm(&t(&[4]), None, 1e-5).unwrap().sum_all().unwrap().backward().unwrap();
    assert_eq!(g.get(&x).unwrap().numel(), 0);
}

#[test]
fn heads_and_tokens_of_nothing_run_both_ways() {
    let rope = Rope::new(8, 4, 1e4, RopeStyle::Half).unwrap();
    for dtype in [DType::F32, DType::F64] {
        let t = |dims: &[usize]| Tensor::ones(dims, dtype, &CPU).unwrap().param().unwrap();
        let gradient = |y: Tensor, of: &Tensor| {
            let grads = y.sum_all().unwrap().backward().unwrap();
            grads.get(of).unwrap().to_f64_vec().unwrap()
        };
        for (b, time, h) in [(0, 3, 2), (2, 0, 2), (1, 0, 1), (2, 3, 0)] {
            let qkv = t(&[b, time, (h + 2) * 4]);
            for rope in [None, Some(&rope)] {
                let spec = AttentionSpec::causal(4);
                let y = qkv.clone().attention_packed(h, 1, rope, None, &spec).unwrap();
                assert_eq!(y.dims(), [b, time, h, 4]);
                assert_eq!(gradient(y, &qkv), vec![0.0; qkv.numel()]);
            }
            let x = t(&[b, time, h, 4]);
            assert!(gradient(x.rope(&rope, 0).unwrap(), &x).is_empty());
            let at = Tensor::zeros([b, time], DType::U32, &CPU).unwrap();
            assert_eq!(x.rope_at(&rope, &at).unwrap().dims(), x.dims());
            // A bias of no heads too.
            let (k, mut spec) = (t(&[b, 5, 1, 4]), AttentionSpec::causal(4));
            spec.rel_bias = Some(t(&[h, 3]));
            let y = x.attention(&k, &k, &spec).unwrap();
            assert_eq!((y.dims(), gradient(y.clone(), &k)), (x.dims(), vec![0.0; k.numel()]));
        }
        // Sums of nothing, with batches that step through memory that is not there.
        let (a, b) = (t(&[0, 3, 2]).transpose(0, 1).unwrap(), t(&[3, 2, 0]));
        assert_eq!(b.matmul(&a).unwrap().to_f64_vec().unwrap(), [0.0; 12]);
        assert_eq!(b.unsqueeze(1).unwrap().matmul(&a).unwrap().to_f64_vec().unwrap(), [0.0; 36]);
    }
}

#[test]
fn a_soft_cap_is_positive() {
    let (x, w) = (param(&[1.0, 2.0]).reshape([1, 2]).unwrap(), Tensor::ones([3, 2], DType::F32, &CPU).unwrap());
    let targets = Tensor::from_slice(&[1u32], [1], &CPU).unwrap();
    let loss = |c: f64| x.linear_cross_entropy(&w, &targets, 1.0, Some(c), Compute::F32);
    let nll = |c: f64| x.detach().linear_nll(&w, &targets, Some(c), Compute::F32);
    assert!(loss(5.0).is_ok() && nll(5.0).is_ok());
    for cap in [0.0, -1.0, f64::NAN] {
        for refused in [loss(cap), nll(cap)] {
            assert!(refused.unwrap_err().to_string().contains("it must be positive"), "{cap}");
        }
    }
}

#[test]
fn streams_are_named_seekable_and_serialisable() {
    let root = Rng::new(42);
    let draw = |mut r: Rng| r.uniform([8], 0.0, 1.0, DType::F32, &CPU).unwrap().to_vec::<f32>().unwrap();
    assert_eq!(draw(root.stream("init")), draw(Rng::new(42).stream("init")));
    let others = [
        root.clone(),
        root.stream("dropout"),
        root.stream("ini").stream("t"),
        Rng::new(43).stream("init"),
        root.substream(0),
        root.substream(1),
    ];
    for other in others {
        assert_ne!(draw(root.stream("init")), draw(other));
    }
    let mut a = root.stream("data");
    let all = draw(a.clone());
    a.uniform([3], 0.0, 1.0, DType::F32, &CPU).unwrap();
    let text = serde_json::to_string(&a).unwrap();
    let b: Rng = serde_json::from_str(&text).unwrap();
    assert_eq!((&a, a.offset()), (&b, 3));
    assert_eq!(draw(b)[..5], all[3..]);
    let mut order: Vec<u32> = (0..100).collect();
    root.stream("shuffle").shuffle(&mut order);
    assert_ne!(order, Vec::from_iter(0..100));
    order.sort_unstable();
    assert_eq!(order, Vec::from_iter(0..100));
    let mut r = root.stream("below");
    assert!((0..1000).all(|_| r.below(7) < 7) && r.below(0) == 0);
}

#[test]
fn bf16_arithmetic_goes_through_f32() {
    let x = Tensor::from_slice(&[1.0f32, 2.5, -3.0], [3], &CPU).unwrap().to_dtype(DType::Bf16).unwrap();
    let y = x.mul(&x).unwrap().exp().unwrap();
    assert_eq!(y.dtype(), DType::Bf16);
    let want = bf16::from_f32(bf16::from_f32(6.25).to_f32().exp());
    assert_eq!(y.to_vec::<bf16>().unwrap()[1], want);
    let p = x.param().unwrap();
    let grads = p.sqr().unwrap().sum_all().unwrap().to_dtype(DType::F32).unwrap().backward().unwrap();
    let g = grads.get(&p).unwrap();
    assert_eq!((g.dtype(), g.to_vec::<f32>().unwrap()), (DType::F32, vec![2.0, 5.0, -6.0]));
}

/// A large result of each kind that is made again in the backward instead of being kept, of x [512, 1536] and w.
fn repeated(kind: usize, x: &Tensor, w: &Tensor) -> Tensor {
    let gain = w.narrow(0, 0, 1).unwrap().reshape([1536]).unwrap();
    match kind {
        0 => x.linear(&LinearArgs::new(w).activation(Activation::GeluTanh)),
        1 => x.layer_norm(&gain, Some(&gain), 1e-5),
        2 => x.rms_norm(&gain, 1e-5),
        3 => x.silu(),
        4 => x.linear(&LinearArgs::new(w)).unwrap().swiglu(),
        _ => unreachable!(),
    }
    .unwrap()
}

#[test]
fn what_is_made_again_gives_the_gradients_of_what_is_kept() {
    let mut rng = Rng::new(5);
    let mut normal = |dims: &[usize]| rng.normal(dims, 0.0, 1.0, DType::F32, &CPU).unwrap().param().unwrap();
    let x = normal(&[512, 1536]);
    let up = normal(&[3072, 1536]);
    for kind in 0..5 {
        let w = if kind == 0 { up.narrow(0, 0, 1536).unwrap().copy().unwrap().param().unwrap() } else { up.clone() };
        let down = normal(&[4, 1536]);
        let gradients = |keep: bool| {
            let h = repeated(kind, &x, &w);
            // Another shape of the same memory has a node of its own, which cannot make values.
            let h = if keep { h.reshape([1, 512, 1536]).unwrap() } else { h };
            let y = h.linear(&LinearArgs::new(&down)).unwrap();
            drop(h);
            let grads = y.sqr().unwrap().sum_all().unwrap().backward().unwrap();
            [&x, &w, &down].map(|t| grads.get(t).map(|g| g.to_vec::<f32>().unwrap()))
        };
        let (kept, again) = (gradients(true), gradients(false));
        assert!(kept[2].as_ref().unwrap().iter().any(|g| *g != 0.0));
        assert!(kept == again, "kind {kind}");
    }
}

#[test]
fn a_deep_chain_of_what_is_made_again_is_freed_without_recursion() {
    // Counted, not held: 2 MiB each, from which on a product keeps the node of what it reads.
    let w = Tensor::ones([512, 512], DType::F32, &Device::Meta).unwrap().param().unwrap();
    let mut x = Tensor::ones([1024, 512], DType::F32, &Device::Meta).unwrap();
    for _ in 0..50_000 {
        x = x.relu().unwrap().linear(&LinearArgs::new(&w)).unwrap();
    }
    drop(x);
}

#[test]
fn what_was_changed_in_place_is_not_made_again() {
    let x = Tensor::ones([512, 1536], DType::F32, &CPU).unwrap().param().unwrap();
    let w = Tensor::ones([1, 1536], DType::F32, &CPU).unwrap().param().unwrap();
    let h = x.relu().unwrap();
    h.with_data_mut::<f32, _>(|h| h.fill(7.0)).unwrap();
    let grads = h.linear(&LinearArgs::new(&w)).unwrap().sum_all().unwrap().backward().unwrap();
    assert_eq!(grads.get(&w).unwrap().to_vec::<f32>().unwrap(), vec![7.0 * 512.0; 1536]);
    // A change after it was read is none of the backward's business.
    let h = x.relu().unwrap();
    let y = h.linear(&LinearArgs::new(&w)).unwrap();
    h.with_data_mut::<f32, _>(|h| h.fill(7.0)).unwrap();
    let grads = y.sum_all().unwrap().backward().unwrap();
    assert_eq!(grads.get(&w).unwrap().to_vec::<f32>().unwrap(), vec![512.0; 1536]);
}
