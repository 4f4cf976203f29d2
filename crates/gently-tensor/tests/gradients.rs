//! Every operation with a backward, against finite differences in f64. The list of operations is `Op::ALL`; an operation
//! without a case fails the last test.

use gently_tensor::*;
use std::collections::BTreeSet;

type Function = Box<dyn Fn(&[Tensor]) -> Result<Tensor>>;

struct Case {
    op: Op,
    name: String,
    f: Function,
    inputs: Vec<Tensor>,
}

const CPU: Device = Device::Cpu;

/// Fixed random numbers in [low, high), different for each tag.
fn uniform(tag: &str, shape: &[usize], low: f64, high: f64) -> Tensor {
    let mut rng = Rng::new(7).stream(tag);
    rng.uniform(shape, low, high, DType::F64, &CPU).unwrap()
}

fn normal(tag: &str, shape: &[usize]) -> Tensor {
    uniform(tag, shape, -1.7, 1.7)
}

fn ids(values: &[u32], shape: &[usize]) -> Tensor {
    Tensor::from_slice(values, shape, &CPU).unwrap()
}

fn case(
    op: Op,
    name: impl Into<String>,
    inputs: Vec<Tensor>,
    f: impl Fn(&[Tensor]) -> Result<Tensor> + 'static,
) -> Case {
    Case { op, name: name.into(), f: Box::new(f), inputs }
}

fn elementwise() -> Vec<Case> {
    let mut cases = Vec::new();
    type Two = fn(&Tensor, &Tensor) -> Result<Tensor>;
    let two: [(Op, Two); 6] = [
        (Op::Add, |a, b| a.add(b)),
        (Op::Sub, |a, b| a.sub(b)),
        (Op::Mul, |a, b| a.mul(b)),
        (Op::Div, |a, b| a.div(b)),
        (Op::Maximum, |a, b| a.maximum(b)),
        (Op::Minimum, |a, b| a.minimum(b)),
    ];
    for (op, f) in two {
        for (sa, sb) in
            [(&[2, 3][..], &[2, 3][..]), (&[2, 3], &[3]), (&[2, 1], &[1, 3]), (&[3], &[2, 4, 3]), (&[], &[2, 2])]
        {
            let inputs = vec![normal("a", sa), uniform("b", sb, 0.4, 2.0)];
            cases.push(case(op, format!("{sa:?} {sb:?}"), inputs, move |x| f(&x[0], &x[1])));
        }
        cases.push(case(op, "with itself", vec![uniform("a", &[3], 0.5, 2.0)], move |x| {
            f(&x[0], &x[0].affine(2.0, 0.1)?)
        }));
    }
    type One = fn(&Tensor) -> Result<Tensor>;
    let one: [(Op, f64, f64, One); 14] = [
        (Op::Neg, -2.0, 2.0, |x| x.neg()),
        (Op::Exp, -2.0, 2.0, |x| x.exp()),
        (Op::Ln, 0.3, 3.0, |x| x.ln()),
        (Op::Sqrt, 0.3, 3.0, |x| x.sqrt()),
        (Op::Sqr, -2.0, 2.0, |x| x.sqr()),
        (Op::Recip, 0.4, 2.0, |x| x.recip()),
        (Op::Abs, -2.0, 2.0, |x| x.abs()),
        (Op::Tanh, -2.0, 2.0, |x| x.tanh()),
        (Op::Sigmoid, -3.0, 3.0, |x| x.sigmoid()),
        (Op::Sin, -3.0, 3.0, |x| x.sin()),
        (Op::Cos, -3.0, 3.0, |x| x.cos()),
        (Op::Powf, 0.3, 2.0, |x| x.powf(1.7)),
        (Op::Affine, -2.0, 2.0, |x| x.affine(-1.5, 0.3)),
        (Op::Contiguous, -2.0, 2.0, |x| x.t()?.contiguous()?.sqr()),
    ];
    for (op, low, high, f) in one {
        let x = uniform("x", &[3, 4], low, high);
        cases.push(case(op, "dense", vec![x.clone()], move |x| f(&x[0])));
        cases.push(case(op, "strided", vec![x], move |x| f(&x[0].t()?.narrow(0, 1, 2)?)));
    }
    for act in [Activation::GeluTanh, Activation::GeluErf, Activation::Silu, Activation::Relu, Activation::Relu2] {
        cases.push(case(Op::Activation, format!("{act:?}"), vec![uniform("x", &[4, 5], -3.0, 3.0)], move |x| {
            x[0].activation(act)
        }));
    }
    cases.push(case(Op::Swiglu, "", vec![normal("x", &[3, 2, 6])], |x| x[0].swiglu()));
    let inputs = vec![normal("x", &[5, 7]), normal("r", &[5, 7])];
    cases.push(case(Op::Dropout, "residual", inputs, |x| x[0].dropout_add(&x[1], 0.4, &mut Rng::new(3).stream("d"))));
    cases.push(case(Op::Dropout, "", vec![normal("x", &[5, 7])], |x| x[0].dropout(0.4, &mut Rng::new(3).stream("d"))));
    cases
}

fn shapes() -> Vec<Case> {
    let x = || vec![normal("x", &[2, 3, 4])];
    vec![
        case(Op::Sum, "one", x(), |x| x[0].sum(1, false)?.sqr()),
        case(Op::Sum, "keep", x(), |x| x[0].sum(-1, true)?.mul(&x[0])),
        case(Op::Sum, "two", x(), |x| x[0].sum_dims(&[0, 2], false)?.exp()),
        case(Op::Sum, "all, mean", x(), |x| x[0].mean_all()?.mul(&x[0].mean(0, false)?)),
        case(Op::Max, "last", x(), |x| x[0].max(-1, false)?.sqr()),
        case(Op::Max, "middle, keep", x(), |x| x[0].max(1, true)?.mul(&x[0])),
        case(Op::Softmax, "", x(), |x| x[0].softmax()?.sqr()),
        case(Op::LogSoftmax, "", x(), |x| x[0].log_softmax()?.sqr()),
        case(Op::Reshape, "", x(), |x| x[0].reshape([6, 4])?.sqr()),
        case(Op::Reshape, "squeeze", x(), |x| x[0].unsqueeze(1)?.sqr()?.squeeze(1)?.sqr()),
        case(Op::Reshape, "of a transposed", x(), |x| x[0].transpose(0, 2)?.reshape([4, 6])?.sqr()),
        case(Op::Permute, "", x(), |x| x[0].permute(&[2, 0, 1])?.sqr()?.softmax()),
        case(Op::Narrow, "", x(), |x| {
            // Three parts of one tensor, two of them overlapping.
            let a = x[0].narrow(2, 0, 2)?;
            let b = x[0].narrow(2, 1, 2)?;
            let c = x[0].narrow(1, 2, 1)?.narrow(2, 0, 2)?;
            a.mul(&b)?.add(&c)?.sqr()
        }),
        case(Op::Narrow, "select", x(), |x| x[0].select(1, 2)?.sqr()),
        case(Op::Broadcast, "", x(), |x| x[0].sum(1, true)?.broadcast_to([5, 2, 3, 4])?.sqr()),
        case(Op::Cat, "", vec![normal("a", &[2, 1, 3]), normal("b", &[2, 4, 3])], |x| {
            Tensor::cat(&[&x[0], &x[1], &x[0].sqr()?], 1)?.sqr()
        }),
        case(Op::Cat, "stack", vec![normal("a", &[2, 3]), normal("b", &[2, 3])], |x| {
            Tensor::stack(&[&x[0], &x[1]], -1)?.softmax()
        }),
        case(Op::IndexSelect, "", x(), |x| x[0].index_select(1, &ids(&[2, 0, 2, 2], &[4]))?.sqr()),
        case(Op::Gather, "", x(), |x| x[0].gather(2, &ids(&[3, 0, 0, 1, 1, 1, 2, 3, 0, 0, 0, 3], &[2, 3, 2]))?.sqr()),
        case(Op::Embedding, "", vec![normal("w", &[5, 3])], |x| x[0].embedding(&ids(&[4, 1, 1, 0], &[2, 2]))?.sqr()),
        case(Op::Embedding, "with positions", vec![normal("w", &[5, 3]), normal("p", &[6, 3])], |x| {
            x[0].embedding_with_positions(&ids(&[4, 1, 1, 0, 2, 4], &[2, 3]), &x[1], 1)?.sqr()
        }),
        case(Op::Checkpoint, "", vec![normal("x", &[3, 4]), normal("w", &[4, 4])], |x| {
            let w = x[1].clone();
            checkpoint(&[&x[0]], &mut Rng::new(1), move |x, rng| {
                x[0].linear(&LinearArgs::new(&w))?.dropout(0.3, rng)?.tanh()?.add(&x[0])
            })
        }),
    ]
}

fn dense() -> Vec<Case> {
    let mut cases = Vec::new();
    for (sa, sb) in [
        (&[3, 4][..], &[4, 2][..]),
        (&[2, 3, 4], &[2, 4, 5]),
        (&[2, 3, 4], &[4, 5]),
        (&[3, 4], &[2, 4, 5]),
        (&[2, 1, 3, 4], &[1, 3, 4, 2]),
        (&[1, 3, 4], &[1, 4, 2]),
    ] {
        let inputs = vec![normal("a", sa), normal("b", sb)];
        cases.push(case(Op::Matmul, format!("{sa:?} {sb:?}"), inputs, |x| x[0].matmul(&x[1])?.sqr()));
    }
    cases.push(case(
        Op::Matmul,
        "transposed and permuted",
        vec![normal("a", &[2, 3, 4]), normal("b", &[5, 2, 4])],
        |x| x[0].matmul(&x[1].permute(&[1, 2, 0])?)?.sqr(),
    ));
    cases.push(case(Op::Matmul, "with itself", vec![normal("a", &[3, 3])], |x| x[0].matmul(&x[0].t()?)?.matmul(&x[0])));
    let activations = [
        Activation::None,
        Activation::GeluTanh,
        Activation::GeluErf,
        Activation::Silu,
        Activation::Relu,
        Activation::Relu2,
    ];
    for act in activations {
        for extra in [false, true] {
            let inputs =
                vec![normal("x", &[2, 3, 4]), normal("w", &[5, 4]), normal("b", &[5]), normal("r", &[2, 3, 5])];
            cases.push(case(Op::Linear, format!("{act:?} {extra}"), inputs, move |x| {
                let args = LinearArgs::new(&x[1]).activation(act);
                let args = if extra { args.bias(&x[2]).residual(&x[3]) } else { args };
                x[0].linear(&args)?.sqr()
            }));
        }
    }
    cases.push(case(
        Op::Linear,
        "rows inside a wider tensor, weights used twice",
        vec![normal("x", &[3, 9]), normal("w", &[4, 4])],
        |x| {
            let part = x[0].narrow(1, 2, 4)?;
            let y = part.linear(&LinearArgs::new(&x[1]).residual(&part))?;
            y.linear(&LinearArgs::new(&x[1]).activation(Activation::Silu))
        },
    ));
    for bias in [false, true] {
        let inputs = vec![normal("x", &[2, 3, 6]), normal("w", &[6]), normal("b", &[6])];
        cases.push(case(Op::LayerNorm, format!("{bias}"), inputs, move |x| {
            let y = x[0].layer_norm(&x[1], bias.then_some(&x[2]), 1e-5)?;
            y.mul(&x[0])?.sqr()
        }));
    }
    cases.push(case(Op::LayerNorm, "plain", vec![normal("x", &[3, 6])], |x| x[0].layer_norm_plain(1e-5)?.exp()));
    cases.push(case(Op::RmsNorm, "", vec![normal("x", &[3, 6]), normal("w", &[6])], |x| {
        x[0].rms_norm(&x[1], 1e-6)?.add(&x[0])?.sqr()
    }));
    cases.push(case(Op::RmsNorm, "plain", vec![normal("x", &[3, 6])], |x| x[0].rms_norm_plain(1e-6)?.exp()));
    cases.push(case(Op::RmsNorm, "gain used twice", vec![normal("x", &[3, 6]), normal("w", &[6])], |x| {
        x[0].rms_norm(&x[1], 1e-6)?.sqr()?.rms_norm(&x[1], 1e-6)?.exp()
    }));
    cases
}

fn sequence() -> Vec<Case> {
    let mut cases = Vec::new();
    for style in [RopeStyle::Half, RopeStyle::Interleaved] {
        let rope = Rope::new(8, 4, 100.0, style).unwrap();
        cases.push(case(Op::Rope, format!("{style:?}"), vec![normal("x", &[2, 3, 2, 6])], {
            let rope = rope.clone();
            move |x| x[0].rope(&rope, 2)?.sqr()
        }));
        cases.push(case(Op::Rope, "at", vec![normal("x", &[2, 3, 2, 6])], move |x| {
            x[0].rope_at(&rope, &ids(&[0, 1, 0, 5, 6, 7], &[2, 3]))?.sqr()
        }));
        let scaled = Rope::with_frequencies(8, vec![1.0, 0.1], 1.3, style);
        cases.push(case(Op::Rope, "scaled", vec![normal("x", &[2, 3, 2, 6])], move |x| x[0].rope(&scaled, 2)?.sqr()));
    }
    let heads = || vec![normal("q", &[2, 5, 4, 3]), normal("k", &[2, 5, 2, 3]), normal("v", &[2, 5, 2, 3])];
    let docs = || ids(&[0, 0, 1, 1, 1, 3, 3, 3, 3, 4], &[2, 5]);
    let slopes = || Tensor::from_slice(&[0.5f32, 0.25, 0.1, 0.0], [4], &CPU).unwrap();
    let mut specs = vec![
        ("full", AttentionSpec::new(0.6, Mask::Full)),
        ("causal", AttentionSpec::causal(3)),
        ("window", AttentionSpec::new(0.6, Mask::Window(2))),
    ];
    let mut spec = AttentionSpec::causal(3);
    spec.docs = Some(docs());
    specs.push(("documents", spec));
    let mut spec = AttentionSpec::causal(3);
    (spec.alibi, spec.softcap) = (Some(slopes()), Some(2.0));
    specs.push(("alibi, soft cap", spec));
    specs.push(("dropout", AttentionSpec::causal(3).with_dropout(0.3, &mut Rng::new(5)).unwrap()));
    for (name, spec) in specs {
        cases.push(case(Op::Attention, name, heads(), {
            let spec = spec.clone();
            move |x| x[0].attention(&x[1], &x[2], &spec)?.sqr()
        }));
        cases.push(case(Op::AttentionPacked, name, vec![normal("qkv", &[2, 5, 24])], move |x| {
            x[0].sqr()?.attention_packed(4, 2, None, None, &spec)?.sqr()
        }));
    }
    cases.push(case(
        Op::Attention,
        "keys of another length",
        vec![normal("q", &[2, 2, 2, 3]), normal("k", &[2, 5, 2, 3]), normal("v", &[2, 5, 2, 3])],
        |x| {
            let mut spec = AttentionSpec::causal(3);
            spec.q_start = 3;
            x[0].attention(&x[1], &x[2], &spec)?.sqr()
        },
    ));
    cases.push(case(Op::Attention, "one tensor as all three", vec![normal("x", &[1, 4, 2, 3])], |x| {
        x[0].attention(&x[0], &x[0], &AttentionSpec::causal(3))?.sqr()
    }));
    cases.push(case(Op::Attention, "strided heads", vec![normal("x", &[1, 2, 4, 9])], |x| {
        let h = x[0].transpose(1, 2)?;
        let (q, k, v) = (h.narrow(3, 0, 3)?, h.narrow(3, 3, 3)?, h.narrow(3, 6, 3)?);
        q.attention(&k, &v, &AttentionSpec::causal(3))?.sqr()
    }));
    for mask in [Mask::Causal, Mask::Full] {
        let mut inputs = heads();
        inputs.push(normal("bias", &[4, 3]));
        cases.push(case(Op::Attention, format!("relative bias {mask:?}"), inputs, move |x| {
            let mut spec = AttentionSpec::new(0.6, mask);
            spec.rel_bias = Some(x[3].clone());
            let y = x[0].attention(&x[1], &x[2], &spec)?;
            y.attention(&x[1], &x[2], &spec)?.sqr()
        }));
    }
    let inputs = vec![normal("qkv", &[2, 5, 24]), normal("bias", &[4, 3])];
    cases.push(case(Op::AttentionPacked, "relative bias", inputs, |x| {
        let mut spec = AttentionSpec::causal(3);
        spec.rel_bias = Some(x[1].clone());
        x[0].clone().attention_packed(4, 2, None, None, &spec)?.sqr()
    }));
    for (name, at) in [("rotary", None), ("rotary at", Some(&[0, 1, 2, 0, 1, 0, 1, 2, 3, 4]))] {
        cases.push(case(Op::AttentionPacked, name, vec![normal("qkv", &[2, 5, 32])], move |x| {
            let rope = Rope::with_frequencies(9, vec![1.0, 0.1], 1.3, RopeStyle::Half);
            let at = at.map(|p| ids(p, &[2, 5]));
            let mut spec = AttentionSpec::causal(4);
            spec.q_start = if at.is_some() { 0 } else { 3 };
            // Once on an intermediate nobody else holds (turned in place), once on a leaf (copied).
            let own = x[0].affine(0.7, 0.0)?;
            let a = own.attention_packed(4, 2, Some(&rope), at.as_ref(), &spec)?;
            let b = x[0].clone().attention_packed(4, 2, Some(&rope), at.as_ref(), &spec)?;
            a.mul(&b)
        }));
    }
    for cap in [None, Some(3.0)] {
        cases.push(case(
            Op::LinearCrossEntropy,
            format!("{cap:?}"),
            vec![normal("x", &[2, 3, 4]), normal("w", &[5, 4])],
            move |x| {
                let targets = ids(&[0, 4, IGNORE, 2, 2, 1], &[2, 3]);
                let loss = x[0].linear_cross_entropy(&x[1], &targets, 0.2, cap, Compute::F32)?;
                // Not the last operation, and the projection has other uses: a tied head.
                loss.sqr()?.add(&x[1].sum_all()?)
            },
        ));
    }
    cases.push(case(Op::CrossEntropy, "", vec![normal("x", &[3, 5])], |x| {
        x[0].cross_entropy(&ids(&[1, IGNORE, 4], &[3]), 0.5)?.sqr()
    }));
    cases
}

fn all() -> Vec<Case> {
    [elementwise(), shapes(), dense(), sequence()].into_iter().flatten().collect()
}

#[test]
fn every_backward_agrees_with_finite_differences() {
    for case in all() {
        if let Err(e) = gradcheck::check(&case.f, &case.inputs) {
            panic!("{} ({}): {e}", case.op.name(), case.name);
        }
    }
}

#[test]
fn the_check_finds_a_lost_gradient() {
    // One of two paths is cut: x where 2·x is right.
    let x = Tensor::from_slice(&[0.3f64, -0.7], [2], &CPU).unwrap();
    let error = gradcheck::check(|x| x[0].detach().mul(&x[0]), std::slice::from_ref(&x)).unwrap_err();
    assert!(matches!(error, gradcheck::CheckError::Differs { input: 0, element: 0, .. }), "{error}");
    // One element of the second input alone.
    let gap = |x: &[Tensor]| x[0].mul(&Tensor::cat(&[&x[1].narrow(0, 0, 1)?, &x[1].narrow(0, 1, 1)?.detach()], 0)?);
    let error = gradcheck::check(gap, &[x.clone(), x]).unwrap_err();
    assert!(matches!(error, gradcheck::CheckError::Differs { input: 1, element: 1, .. }), "{error}");
}

#[test]
fn every_operation_has_a_case_that_records_it() {
    let mut seen = BTreeSet::new();
    for case in all() {
        let params: Vec<Tensor> = case.inputs.iter().map(|t| t.param().unwrap()).collect();
        let ops = (case.f)(&params).unwrap().history();
        assert!(ops.contains(&case.op), "{} ({}) records {ops:?}", case.op.name(), case.name);
        seen.insert(case.op);
    }
    // Casts cannot be checked in f64; `casts_pass_gradients` checks them.
    seen.insert(Op::ToDtype);
    let missing: Vec<_> = Op::ALL.iter().filter(|op| !seen.contains(op)).collect();
    assert!(missing.is_empty(), "operations without a gradient check: {missing:?}");
}

#[test]
fn casts_pass_gradients() {
    let x = Tensor::from_slice(&[0.5f32, -1.25, 2.0], [3], &CPU).unwrap().param().unwrap();
    let loss = x.to_dtype(DType::Bf16).unwrap().to_dtype(DType::F64).unwrap().sqr().unwrap().sum_all().unwrap();
    assert_eq!(loss.history(), [Op::Sum, Op::Sqr, Op::ToDtype, Op::ToDtype]);
    let grads = loss.backward().unwrap();
    let g = grads.get(&x).unwrap();
    assert_eq!(g.to_vec::<f32>().unwrap(), [1.0, -2.5, 4.0]);
}
