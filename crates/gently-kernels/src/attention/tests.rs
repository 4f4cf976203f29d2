//! Every path against the plain twin in f64, over random shapes and all combinations of options.

use proptest::prelude::*;

use super::backward::backward_on;
use super::forward::{forward_each_on, forward_on};
use super::*;
use crate::cpu;
use crate::philox;

/// What a random case is made of; the inputs follow from it.
#[derive(Debug, Clone)]
struct Case {
    shape: AttnShape,
    scale: f32,
    mask: Mask,
    q_start: usize,
    docs: Option<Vec<u32>>,
    alibi: bool,
    rel_bias: Option<usize>,
    softcap: Option<f32>,
    dropout: Option<f32>,
    compute: Compute,
    packed: bool,
    seed: u32,
}

struct Inputs {
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    dout: Vec<f32>,
    slopes: Vec<f32>,
    bias: Vec<f32>,
}

/// Outputs and gradients.
#[derive(Debug, Clone, PartialEq)]
struct Results<T> {
    out: Vec<T>,
    lse: Vec<T>,
    dq: Vec<T>,
    dk: Vec<T>,
    dv: Vec<T>,
    d_bias: Vec<T>,
}

impl Case {
    fn normal(&self, what: u32, n: usize) -> Vec<f32> {
        let mut x = vec![0.0; n];
        philox::fill_normal([self.seed, what], 0, &mut x);
        x
    }

    fn inputs(&self) -> Inputs {
        let s = self.shape;
        let kv = s.batch * s.t_k * s.kv_heads * s.d;
        Inputs {
            q: self.normal(0, s.out_len()),
            k: self.normal(1, kv),
            v: self.normal(2, kv),
            dout: self.normal(3, s.out_len()),
            slopes: (0..s.heads).map(|h| 0.5f32.powi(h as i32 + 1)).collect(),
            bias: self.normal(4, s.heads * self.rel_bias.unwrap_or(0)),
        }
    }

    fn spec<'a, T>(&'a self, slopes: &'a [f32], bias: &'a [T]) -> AttnSpec<'a, T> {
        AttnSpec {
            scale: self.scale,
            mask: self.mask,
            q_start: self.q_start,
            docs: self.docs.as_deref(),
            alibi: self.alibi.then_some(slopes),
            rel_bias: self.rel_bias.map(|_| bias),
            softcap: self.softcap,
            dropout: self.dropout.map(|p| Dropout { p, key: [self.seed, 9], offset: 5 << 33 | 77 }),
            compute: self.compute,
        }
    }

    fn plain(&self) -> Results<f64> {
        self.plain_of(&self.inputs())
    }

    fn plain_of(&self, x: &Inputs) -> Results<f64> {
        let s = self.shape;
        let wide = |v: &[f32]| v.iter().map(|&x| x as f64).collect::<Vec<_>>();
        let (q, k, v, dout, bias) = (wide(&x.q), wide(&x.k), wide(&x.v), wide(&x.dout), wide(&x.bias));
        let spec = self.spec(&x.slopes, &bias);
        let views = (
            HeadView::contiguous(&q, s.t_q, s.heads, s.d),
            HeadView::contiguous(&k, s.t_k, s.kv_heads, s.d),
            HeadView::contiguous(&v, s.t_k, s.kv_heads, s.d),
        );
        let mut r = Results {
            out: vec![7.0; s.out_len()],
            lse: Vec::new(),
            dq: vec![7.0; q.len()],
            dk: vec![7.0; k.len()],
            dv: vec![7.0; v.len()],
            d_bias: vec![0.0; bias.len()],
        };
        let mut stats = vec![7.0; s.stats_len()];
        plain::forward(s, &spec, views.0, views.1, views.2, &mut r.out, &mut stats);
        r.lse = stats.as_chunks::<2>().0.iter().map(|&[max, share]| log_sum_exp(max, share)).collect();
        let grads = QkvGrads::Split {
            dq: HeadViewMut::contiguous(&mut r.dq, s.t_q, s.heads, s.d),
            dk: HeadViewMut::contiguous(&mut r.dk, s.t_k, s.kv_heads, s.d),
            dv: HeadViewMut::contiguous(&mut r.dv, s.t_k, s.kv_heads, s.d),
        };
        let d_bias = self.rel_bias.map(|_| r.d_bias.as_mut_slice());
        plain::backward(s, &spec, views.0, views.1, views.2, &r.out, &stats, &dout, grads, d_bias);
        r
    }

    fn fast(&self, path: cpu::Path) -> Results<f32> {
        self.fast_of(&self.inputs(), path)
    }

    fn fast_of(&self, x: &Inputs, path: cpu::Path) -> Results<f32> {
        let s = self.shape;
        let spec = self.spec(&x.slopes, &x.bias);
        let mut r = Results {
            out: vec![7.0; s.out_len()],
            lse: Vec::new(),
            dq: vec![7.0; x.q.len()],
            dk: vec![7.0; x.k.len()],
            dv: vec![7.0; x.v.len()],
            d_bias: vec![0.0; x.bias.len()],
        };
        let d_bias = self.rel_bias.map(|_| r.d_bias.as_mut_slice());
        let mut stats = vec![7.0; s.stats_len()];
        let logs = |stats: &[f32]| {
            let rows = stats.as_chunks::<2>().0.iter();
            rows.map(|&[max, share]| log_sum_exp(max as f64 * std::f64::consts::LN_2, share as f64) as f32)
                .collect::<Vec<f32>>()
        };
        if !self.packed {
            let q = HeadView::contiguous(&x.q, s.t_q, s.heads, s.d);
            let k = HeadView::contiguous(&x.k, s.t_k, s.kv_heads, s.d);
            let v = HeadView::contiguous(&x.v, s.t_k, s.kv_heads, s.d);
            forward_on(path, s, &spec, q, k, v, &mut r.out, &mut stats).unwrap();
            r.lse = logs(&stats);
            let grads = QkvGrads::Split {
                dq: HeadViewMut::contiguous(&mut r.dq, s.t_q, s.heads, s.d),
                dk: HeadViewMut::contiguous(&mut r.dk, s.t_k, s.kv_heads, s.d),
                dv: HeadViewMut::contiguous(&mut r.dv, s.t_k, s.kv_heads, s.d),
            };
            backward_on(path, s, &spec, q, k, v, &r.out, &stats, &x.dout, grads, d_bias).unwrap();
            return r;
        }
        // The three inputs side by side in each token, and so the gradients.
        let (wq, wk) = (s.heads * s.d, s.kv_heads * s.d);
        let row = wq + 2 * wk;
        let mut qkv = vec![0.0; s.batch * s.t_q * row];
        for (t, row) in qkv.chunks_mut(row).enumerate() {
            row[..wq].copy_from_slice(&x.q[t * wq..][..wq]);
            row[wq..wq + wk].copy_from_slice(&x.k[t * wk..][..wk]);
            row[wq + wk..].copy_from_slice(&x.v[t * wk..][..wk]);
        }
        let view = |part| HeadView::packed(&qkv, s, part);
        let (q, k, v) = (view(Part::Q), view(Part::K), view(Part::V));
        forward_on(path, s, &spec, q, k, v, &mut r.out, &mut stats).unwrap();
        r.lse = logs(&stats);
        let mut d = vec![7.0; qkv.len()];
        let grads = QkvGrads::Packed { data: &mut d };
        backward_on(path, s, &spec, q, k, v, &r.out, &stats, &x.dout, grads, d_bias).unwrap();
        for (t, row) in d.chunks(row).enumerate() {
            r.dq[t * wq..][..wq].copy_from_slice(&row[..wq]);
            r.dk[t * wk..][..wk].copy_from_slice(&row[wq..wq + wk]);
            r.dv[t * wk..][..wk].copy_from_slice(&row[wq + wk..]);
        }
        r
    }

    fn check(&self) -> Result<(), TestCaseError> {
        self.check_of(&self.inputs())
    }

    fn check_of(&self, x: &Inputs) -> Result<(), TestCaseError> {
        let want = self.plain_of(x);
        for path in cpu::available() {
            let got = self.fast_of(x, path);
            for (name, got, want) in [
                ("out", &got.out, &want.out),
                ("lse", &got.lse, &want.lse),
                ("dq", &got.dq, &want.dq),
                ("dk", &got.dk, &want.dk),
                ("dv", &got.dv, &want.dv),
                ("d_bias", &got.d_bias, &want.d_bias),
            ] {
                let tolerance = match (self.compute, name) {
                    // Long sums whose terms cancel to nothing but rounding; dropout makes the terms larger.
                    (Compute::F32, "d_bias") => 1e-4,
                    (Compute::F32, _) => 2e-5,
                    (_, "d_bias") => 1e-1,
                    _ => 2e-2,
                };
                // Absolute against the largest of its kind, as sums cancel.
                let size = want.iter().filter(|x| x.is_finite()).fold(1.0, |m: f64, x| m.max(x.abs()));
                for (i, (&g, &w)) in got.iter().zip(want).enumerate() {
                    let same = w == f64::NEG_INFINITY && g == f32::NEG_INFINITY;
                    prop_assert!(
                        same || (g as f64 - w).abs() <= tolerance * size,
                        "{path:?} {name}[{i}]: {g} instead of {w}, largest {size}, {self:?}"
                    );
                }
            }
        }
        Ok(())
    }
}

/// ln Σ e^s of a row's scores, from its statistics.
fn log_sum_exp(max: f64, share: f64) -> f64 {
    if max == f64::NEG_INFINITY { max } else { max - share.ln() }
}

fn cases() -> impl Strategy<Value = Case> {
    let shape = (1usize..3, 1usize..140, 1usize..140, 1usize..3, 1usize..3).prop_flat_map(|(b, q, k, kv, group)| {
        (Just((b, q, k, kv, group)), prop_oneof![1usize..90, Just(32), Just(64)])
    });
    let mask = prop_oneof![Just(Mask::Full), Just(Mask::Causal), (0usize..100).prop_map(Mask::Window)];
    let options = (
        any::<bool>(),
        proptest::option::of(1usize..40),
        proptest::option::of(0.5f32..20.0),
        proptest::option::of(0.0f32..0.9),
        any::<bool>(),
        0u8..4,
    );
    (shape, mask, 0usize..80, 0u8..4, options, any::<u32>()).prop_map(
        |(((batch, t_q, t_k, kv_heads, group), d), mask, start, docs, options, seed)| {
            let (alibi, rel_bias, softcap, dropout, bf16, packed) = options;
            let (packed, docs) = (packed == 0, docs % 3);
            // Documents and packed buffers need queries that are among the keys.
            let (t_q, t_k, q_start) = match (packed, docs > 0) {
                (true, _) => (t_k, t_k, 0),
                (_, true) => (t_q.min(t_k), t_k, start.min(t_k - t_q.min(t_k))),
                _ => (t_q, t_k, start),
            };
            let shape = AttnShape { batch, t_q, t_k, heads: kv_heads * group, kv_heads, d };
            let id = |i: usize| match docs {
                1 => (i / 37) as u32,
                _ => philox::word([seed, 5], i as u64) % 3,
            };
            Case {
                shape,
                scale: 1.0 / (d as f32).sqrt(),
                mask,
                q_start,
                docs: (docs > 0).then(|| (0..batch * t_k).map(id).collect()),
                alibi,
                rel_bias,
                softcap,
                dropout,
                compute: if bf16 { Compute::Bf16 } else { Compute::F32 },
                packed,
                seed,
            }
        },
    )
}

/// A case with no option on.
fn simple(batch: usize, t: usize, heads: usize, kv_heads: usize, d: usize, mask: Mask) -> Case {
    Case {
        shape: AttnShape { batch, t_q: t, t_k: t, heads, kv_heads, d },
        scale: 1.0 / (d as f32).sqrt(),
        mask,
        q_start: 0,
        docs: None,
        alibi: false,
        rel_bias: None,
        softcap: None,
        dropout: None,
        compute: Compute::F32,
        packed: false,
        seed: 11,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn every_path_equals_the_plain_twin(case in cases()) {
        case.check()?;
    }
}

#[test]
fn long_rows_cross_strips_and_splits() {
    for (kv, mask) in [(1, Mask::Causal), (2, Mask::Full), (1, Mask::Window(300))] {
        simple(1, 700, 2, kv, 24, mask).check().unwrap();
    }
    let docs = (0..600).map(|i| (i / 130) as u32).collect();
    Case { docs: Some(docs), packed: true, ..simple(1, 600, 2, 1, 64, Mask::Causal) }.check().unwrap();
}

#[test]
fn gradients_of_large_scores_are_as_right_as_the_scores() {
    let masks = [Mask::Full, Mask::Causal, Mask::Window(37)];
    for (scale, mask) in [1e3, 1e4, 1e5, 1e6, 1e7].into_iter().flat_map(|scale| masks.map(|mask| (scale, mask))) {
        // Splits of keys, several tiles, a group of heads, channels of one and of two chunks.
        for (t, d) in [(300, 3), (90, 70)] {
            let base = Case { scale, ..simple(1, t, 2, 1, d, mask) };
            let mut x = base.inputs();
            // Scores are whole numbers times the scale, which every path computes exactly. They differ by much or not at all:
            // a row's probability is shared by as many keys as have its largest score.
            for (i, x) in x.q.iter_mut().chain(&mut x.k).enumerate() {
                *x = if i % d < 3 { (philox::word([5, d as u32], i as u64) % 5) as f32 - 2.0 } else { 0.0 };
            }
            let docs = Some((0..t).map(|i| (i / 41) as u32).collect::<Vec<_>>());
            for case in [
                base.clone(),
                Case { packed: true, docs, ..base.clone() },
                // Far enough from 0 that what is between the two ends of the cap has no share.
                Case { softcap: Some(50.0), ..base.clone() },
                Case { dropout: Some(0.3), ..base.clone() },
                Case { compute: Compute::Bf16, ..base.clone() },
            ] {
                case.check_of(&x).unwrap();
            }
            // One key has the whole row, whatever the biases are: its score does not move the output.
            for (i, q) in x.q.iter_mut().enumerate() {
                *q = if i % d == 0 { 1.0 } else { 0.0 };
            }
            for (i, k) in x.k.iter_mut().enumerate() {
                // Numbers of at most 8 bits, which bf16 holds. The first repeats come 255 keys on, where the largest is past.
                *k = if i % d == 0 { (i / d * 7 % 255) as f32 } else { 0.0 };
            }
            let biased = Case { alibi: true, rel_bias: Some(9), ..base.clone() };
            x.bias = biased.inputs().bias;
            for case in [
                base.clone(),
                biased.clone(),
                Case { dropout: Some(0.3), ..biased.clone() },
                Case { compute: Compute::Bf16, dropout: Some(0.3), ..base.clone() },
            ] {
                for path in cpu::available() {
                    let r = case.fast_of(&x, path);
                    for (name, grad) in [("dq", &r.dq), ("dk", &r.dk), ("d_bias", &r.d_bias)] {
                        let wrong = grad.iter().find(|&&g| g != 0.0);
                        assert_eq!(wrong, None, "{path:?} {name} {case:?}");
                    }
                }
                if case.compute == Compute::F32 {
                    case.check_of(&x).unwrap();
                }
            }
        }
    }
}

#[test]
fn plain_backward_equals_finite_differences() {
    let base = Case { seed: 3, ..simple(1, 7, 4, 2, 3, Mask::Causal) };
    let docs = Some(vec![0, 0, 0, 1, 1, 1, 1]);
    let all = Case {
        rel_bias: Some(4),
        softcap: Some(2.0),
        dropout: Some(0.4),
        alibi: true,
        mask: Mask::Window(4),
        ..base.clone()
    };
    for case in [base.clone(), all.clone(), Case { docs, ..all.clone() }, Case { mask: Mask::Full, ..all }] {
        let s = case.shape;
        let x = case.inputs();
        let wide = |v: &[f32]| v.iter().map(|&x| x as f64).collect::<Vec<_>>();
        let start = [wide(&x.q), wide(&x.k), wide(&x.v), wide(&x.bias)];
        let dout = wide(&x.dout);
        let loss = |p: &[Vec<f64>; 4]| {
            let spec = case.spec(&x.slopes, &p[3]);
            let (mut out, mut stats) = (vec![0.0; s.out_len()], vec![0.0; s.stats_len()]);
            let q = HeadView::contiguous(&p[0], s.t_q, s.heads, s.d);
            let k = HeadView::contiguous(&p[1], s.t_k, s.kv_heads, s.d);
            let v = HeadView::contiguous(&p[2], s.t_k, s.kv_heads, s.d);
            plain::forward(s, &spec, q, k, v, &mut out, &mut stats);
            out.iter().zip(&dout).map(|(a, b)| a * b).sum::<f64>()
        };
        let r = case.plain();
        for (which, grad) in [&r.dq, &r.dk, &r.dv, &r.d_bias].into_iter().enumerate() {
            for i in 0..grad.len() {
                let moved = |by: f64| {
                    let mut p = start.clone();
                    p[which][i] += by;
                    loss(&p)
                };
                let h = 1e-5;
                let slope = (moved(h) - moved(-h)) / (2.0 * h);
                assert!((slope - grad[i]).abs() < 1e-7, "input {which}[{i}]: {} instead of {slope}", grad[i]);
            }
        }
    }
}

#[test]
fn threads_and_division_of_queries_do_not_change_bits() {
    let case = Case { alibi: true, rel_bias: Some(9), dropout: Some(0.3), ..simple(2, 400, 4, 2, 40, Mask::Causal) };
    let before = crate::pool::threads();
    for case in [case, simple(1, 300, 1, 1, 64, Mask::Full)] {
        for path in cpu::available() {
            crate::pool::set_threads(1);
            let one = case.fast(path);
            crate::pool::set_threads(2);
            let two = case.fast(path);
            crate::pool::set_threads(before);
            assert_eq!(one, two, "{path:?}");

            // The same queries in pieces, as with a cache: one call's rows are the other's.
            let (s, x) = (case.shape, case.inputs());
            let mut at = 0;
            for n in [1, 2, 61, 64, 100, 1].into_iter().cycle() {
                let n = n.min(s.t_q - at);
                if n == 0 {
                    break;
                }
                let piece = AttnShape { t_q: n, ..s };
                let spec = AttnSpec { q_start: at, ..case.spec(&x.slopes, &x.bias) };
                let q = HeadView { offset: at * s.heads * s.d, ..HeadView::contiguous(&x.q, s.t_q, s.heads, s.d) };
                let k = HeadView::contiguous(&x.k, s.t_k, s.kv_heads, s.d);
                let v = HeadView::contiguous(&x.v, s.t_k, s.kv_heads, s.d);
                let (mut out, mut stats) = (vec![0.0; piece.out_len()], vec![0.0; piece.stats_len()]);
                forward_on(path, piece, &spec, q, k, v, &mut out, &mut stats).unwrap();
                let row = s.heads * s.d;
                for b in 0..s.batch {
                    let whole = &one.out[(b * s.t_q + at) * row..][..n * row];
                    assert_eq!(whole, &out[b * n * row..][..n * row], "{path:?}: {n} queries from {at}");
                }
                at += n;
            }
        }
    }
}

#[test]
fn sequences_of_a_call_are_as_alone() {
    let lengths = [1, 64, 0, 7, 130, 20, 20, 65, 300];
    let rows: usize = lengths.iter().sum();
    for (heads, kv_heads, d) in [(4, 4, 32), (4, 2, 6), (3, 1, 80)] {
        for mask in [Mask::Full, Mask::Causal, Mask::Window(9)] {
            let case = Case { alibi: heads == 4, softcap: Some(3.0), ..simple(1, rows, heads, kv_heads, d, mask) };
            let (s, x) = (case.shape, case.inputs());
            let spec = case.spec(&x.slopes, &x.bias);
            let from = |data, heads: usize, row: usize| HeadView {
                offset: row * heads * d,
                ..HeadView::contiguous(data, rows - row, heads, d)
            };
            for path in cpu::available() {
                let (mut out, mut stats) = (vec![7.0; s.out_len()], vec![7.0; s.stats_len()]);
                let [q, k, v] = [from(&x.q, heads, 0), from(&x.k, kv_heads, 0), from(&x.v, kv_heads, 0)];
                forward_each_on(path, s, &lengths, &spec, q, k, v, &mut out, &mut stats).unwrap();
                let mut row = 0;
                for t in lengths {
                    let alone = AttnShape { t_q: t, t_k: t, ..s };
                    let [q, k, v] = [from(&x.q, heads, row), from(&x.k, kv_heads, row), from(&x.v, kv_heads, row)];
                    let (mut o, mut l) = (vec![0.0; alone.out_len()], vec![0.0; alone.stats_len()]);
                    forward_on(path, alone, &spec, q, k, v, &mut o, &mut l).unwrap();
                    assert_eq!(out[row * heads * d..][..o.len()], o, "{path:?}: {t} from {row}");
                    for h in 0..heads {
                        assert_eq!(
                            stats[(h * rows + row) * 2..][..t * 2],
                            l[h * t * 2..][..t * 2],
                            "{path:?}: {t} from {row}"
                        );
                    }
                    row += t;
                }
            }
        }
    }
}

#[test]
fn queries_that_see_nothing_give_zeros() {
    for mask in [Mask::Window(0), Mask::Window(3)] {
        // Positions start beyond the keys, so that windows slide off them.
        let case = Case {
            shape: AttnShape { batch: 1, t_q: 70, t_k: 65, heads: 1, kv_heads: 1, d: 8 },
            q_start: 30,
            ..simple(1, 1, 1, 1, 8, mask)
        };
        case.check().unwrap();
        for path in cpu::available() {
            let r = case.fast(path);
            assert_eq!(r.lse[69], f32::NEG_INFINITY);
            assert!(r.out[69 * 8..].iter().chain(&r.dq[69 * 8..]).all(|&x| x == 0.0));
            let all = [&r.out, &r.dq, &r.dk, &r.dv];
            assert!(all.iter().all(|v| v.iter().all(|x| x.is_finite())), "{path:?}");
        }
    }
    // No keys at all.
    let case = simple(1, 3, 2, 1, 8, Mask::Full);
    let case = Case { shape: AttnShape { t_k: 0, ..case.shape }, ..case };
    case.check().unwrap();
}

#[test]
fn biases_of_minus_infinity_mask_and_nan_is_not_swallowed() {
    let s = AttnShape { batch: 1, t_q: 2, t_k: 70, heads: 1, kv_heads: 1, d: 4 };
    let case = Case { shape: s, q_start: 68, ..simple(1, 1, 1, 1, 4, Mask::Causal) };
    let mut x = case.inputs();
    // Only the nearest key is left.
    let mut bias = vec![f32::NEG_INFINITY; 70];
    bias[0] = 0.0;
    let spec = AttnSpec { q_start: 68, rel_bias: Some(&bias), ..AttnSpec::new(0.5, Mask::Causal) };
    for path in cpu::available() {
        let (mut out, mut stats) = (vec![0.0; 8], vec![0.0; 4]);
        fn view(data: &[f32], t: usize) -> HeadView<'_> {
            HeadView::contiguous(data, t, 1, 4)
        }
        forward_on(path, s, &spec, view(&x.q, 2), view(&x.k, 70), view(&x.v, 70), &mut out, &mut stats).unwrap();
        assert_eq!(out, x.v[68 * 4..70 * 4], "{path:?}");
        let old = std::mem::replace(&mut x.k[5], f32::NAN);
        let spec = AttnSpec { q_start: 68, ..AttnSpec::new(0.5, Mask::Causal) };
        forward_on(path, s, &spec, view(&x.q, 2), view(&x.k, 70), view(&x.v, 70), &mut out, &mut stats).unwrap();
        assert!(out.iter().chain([&stats[1], &stats[3]]).all(|x| x.is_nan()), "{path:?}");
        x.k[5] = old;
    }
}

#[test]
fn dropout_keeps_the_mean() {
    // With equal scores and values of one, the output is the share kept times the gain.
    let s = AttnShape { batch: 1, t_q: 200, t_k: 256, heads: 2, kv_heads: 2, d: 4 };
    let (q, k, v) = (vec![0.0; s.out_len()], vec![0.0; 256 * 8], vec![1.0; 256 * 8]);
    let dropout = Some(Dropout { p: 0.25, key: [1, 2], offset: 3 });
    let spec = AttnSpec { dropout, ..AttnSpec::new(1.0, Mask::Full) };
    let (mut out, mut stats) = (vec![0.0; s.out_len()], vec![0.0; s.stats_len()]);
    let view = |data, t| HeadView::contiguous(data, t, 2, 4);
    forward(s, &spec, view(&q, 200), view(&k, 256), view(&v, 256), &mut out, &mut stats).unwrap();
    let mean = out.iter().sum::<f32>() / out.len() as f32;
    let var = out.iter().map(|x| (x - mean).powi(2)).sum::<f32>() / out.len() as f32;
    assert!((mean - 1.0).abs() < 0.005, "{mean}");
    let expected = (0.25 / 0.75) / 256.0;
    assert!((var / expected - 1.0).abs() < 0.2, "{var} instead of {expected}");
}

/// Three times it is 1 more than a multiple of all the numbers there are.
const THIRD: usize = usize::MAX / 3 * 2 + 1;

#[test]
#[should_panic(expected = "attention: sizes beyond what can be counted")]
fn outputs_that_cannot_be_counted_are_refused() {
    let s = AttnShape { batch: THIRD, t_q: 1, t_k: 1, heads: 3, kv_heads: 1, d: 1 };
    let one = HeadView { data: &[0.0], offset: 0, stride_b: 0, stride_t: 0, stride_h: 0 };
    forward(s, &AttnSpec::new(1.0, Mask::Full), one, one, one, &mut [0.0], &mut [0.0]).unwrap();
}

#[test]
#[should_panic(expected = "attention: packed gradients are")]
fn packed_gradients_that_cannot_be_counted_are_refused() {
    let s = AttnShape { batch: 1, t_q: 1, t_k: 1, heads: THIRD, kv_heads: THIRD, d: 1 };
    check_grads(s, &QkvGrads::Packed { data: &mut [0.0f32] });
}

#[test]
fn no_heads_are_no_work() {
    let s = AttnShape { batch: 1, t_q: 1, t_k: 1, heads: 0, kv_heads: 1, d: 4 };
    let spec = AttnSpec::new(1.0, Mask::Full);
    // Without heads a bias may have any length.
    let bias = [0.5f32; 3];
    let biased = AttnSpec { rel_bias: Some(&bias[..]), ..spec };
    let q = HeadView::contiguous(&[], 1, 0, 4);
    let kv = HeadView::contiguous(&[0.0; 4], 1, 1, 4);
    for path in cpu::available() {
        let nothing: [f32; 0] = [];
        for bias in [None, Some(&nothing[..])] {
            let spec = AttnSpec { rel_bias: bias, ..spec };
            forward_on(path, s, &spec, q, kv, kv, &mut [], &mut []).unwrap();
        }
        forward_each_on(path, s, &[1], &spec, q, kv, kv, &mut [], &mut []).unwrap();
        let (mut dk, mut dv, mut d_bias) = ([7.0; 4], [7.0; 4], [7.0; 3]);
        let grads = QkvGrads::Split {
            dq: HeadViewMut::contiguous(&mut [], 1, 0, 4),
            dk: HeadViewMut::contiguous(&mut dk, 1, 1, 4),
            dv: HeadViewMut::contiguous(&mut dv, 1, 1, 4),
        };
        backward_on(path, s, &biased, q, kv, kv, &[], &[], &[], grads, Some(&mut d_bias)).unwrap();
        assert_eq!((dk, dv, d_bias), ([0.0; 4], [0.0; 4], [7.0; 3]), "{path:?}: nobody reads the key");
    }
}

#[test]
fn views_of_nothing_fit_any_slice() {
    for sizes in [[0, 3, 2, 4], [2, 0, 2, 4], [2, 3, 0, 4], [2, 3, 2, 0]] {
        HeadView::<f32> { data: &[], offset: 8, stride_b: 0, stride_t: 0, stride_h: 4 }.check(sizes);
        HeadViewMut::<f32> { data: &mut [], offset: 8, stride_b: 0, stride_t: 0, stride_h: 4 }.check(sizes);
    }
}

#[test]
fn pairs_are_what_the_mask_leaves() {
    for (q_start, t_q, t_k) in [(0, 5, 5), (0, 1, 1), (3, 4, 7), (2, 4, 3), (9, 3, 4), (0, 6, 2), (0, 0, 4), (4, 3, 0)]
    {
        for mask in [Mask::Full, Mask::Causal, Mask::Window(0), Mask::Window(1), Mask::Window(3), Mask::Window(100)] {
            let seen = |p: usize, j: usize| match mask {
                Mask::Full => true,
                Mask::Causal => j <= p,
                Mask::Window(n) => j <= p && p - j < n,
            };
            let counted =
                (q_start..q_start + t_q).flat_map(|p| (0..t_k).map(move |j| (p, j))).filter(|&(p, j)| seen(p, j));
            assert_eq!(mask.pairs(q_start, t_q, t_k), counted.count() as u64, "{mask:?} {q_start} {t_q} {t_k}");
        }
    }
}
