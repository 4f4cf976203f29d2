use super::*;
use crate::cpu;
use std::sync::Arc;

fn ramp(n: usize, seed: usize) -> Vec<f32> {
    (0..n).map(|i| ((i * 7919 + seed * 104_729) % 1009) as f32 / 504.5 - 1.0).collect()
}

#[derive(Clone, Copy)]
struct Case {
    heads: usize,
    kv_heads: usize,
    d: usize,
    window: Option<usize>,
    alibi: bool,
    softcap: Option<f32>,
}

const CASES: [Case; 5] = [
    Case { heads: 6, kv_heads: 2, d: 64, window: None, alibi: false, softcap: None },
    Case { heads: 3, kv_heads: 3, d: 20, window: Some(70), alibi: false, softcap: None },
    Case { heads: 4, kv_heads: 1, d: 8, window: None, alibi: true, softcap: None },
    Case { heads: 2, kv_heads: 2, d: 72, window: None, alibi: false, softcap: Some(1.5) },
    Case { heads: 8, kv_heads: 1, d: 16, window: Some(1), alibi: false, softcap: None },
];

impl Case {
    fn stride(&self) -> usize {
        (self.heads + 2 * self.kv_heads) * self.d
    }

    fn shape(&self, elem: Elem) -> PageShape {
        PageShape { layers: 2, kv_heads: self.kv_heads, d: self.d, elem }
    }

    fn slopes(&self) -> Vec<f32> {
        (0..self.heads).map(|h| 0.5f32.powi(h as i32 + 1)).collect()
    }

    /// The pages of `qkv` `[T, stride]`, in layer 1, filled in pieces of 7 tokens.
    fn pages(&self, elem: Elem, qkv: &[f32]) -> Vec<Arc<Page>> {
        let stride = self.stride();
        let tokens = qkv.len() / stride;
        let mut pages: Vec<Page> = (0..tokens.div_ceil(PAGE)).map(|_| Page::new(self.shape(elem))).collect();
        let (mut t, k) = (0, self.heads * self.d);
        while t < tokens {
            let count = 7.min(tokens - t).min(PAGE - t % PAGE);
            let rows = Rows { data: &qkv[t * stride..], stride, k, v: k + self.kv_heads * self.d, count };
            pages[t / PAGE].write(1, t % PAGE, rows);
            t += count;
        }
        pages.into_iter().map(Arc::new).collect()
    }

    /// The definition, in double precision: queries from position `start` on.
    fn plain(&self, qkv: &[f32], start: usize) -> Vec<f64> {
        let (stride, d, group) = (self.stride(), self.d, self.heads / self.kv_heads);
        let tokens = qkv.len() / stride;
        let at = |t: usize, c: usize| f64::from(qkv[t * stride + c]);
        let mut out = Vec::new();
        for i in start..tokens {
            for h in 0..self.heads {
                let k = self.heads * d + h / group * d;
                let v = k + self.kv_heads * d;
                let from = self.window.map_or(0, |w| (i + 1).saturating_sub(w));
                let scores: Vec<f64> = (from..=i)
                    .map(|j| {
                        let dot: f64 = (0..d).map(|c| at(i, h * d + c) * at(j, k + c)).sum();
                        let mut s = dot / (d as f64).sqrt();
                        if let Some(cap) = self.softcap {
                            s = f64::from(cap) * (s / f64::from(cap)).tanh();
                        }
                        if self.alibi {
                            s -= f64::from(self.slopes()[h]) * (i - j) as f64;
                        }
                        s
                    })
                    .collect();
                let most = scores.iter().copied().fold(f64::MIN, f64::max);
                let total: f64 = scores.iter().map(|s| (s - most).exp()).sum();
                for c in 0..d {
                    let sum: f64 = scores.iter().enumerate().map(|(n, s)| (s - most).exp() * at(from + n, v + c)).sum();
                    out.push(sum / total);
                }
            }
        }
        out
    }

    fn run(&self, path: cpu::Path, elem: Elem, pages: &[Arc<Page>], qkv: &[f32], spans: &[Span]) -> Vec<f32> {
        let slopes = self.slopes();
        let spec = Spec {
            heads: self.heads,
            scale: 1.0 / (self.d as f32).sqrt(),
            window: self.window,
            alibi: self.alibi.then_some(&slopes[..]),
            softcap: self.softcap,
        };
        let mut out = vec![0.0; qkv.len() / self.stride() * self.heads * self.d];
        let all = vec![pages; spans.len()];
        Attend::new(spec, self.shape(elem), spans).run_on(path, 1, &all, qkv, self.stride(), &mut out);
        out
    }
}

#[test]
fn equals_the_definition_on_every_path() {
    for case in CASES {
        for tokens in [1, 63, 65, 300] {
            let qkv = ramp(tokens * case.stride(), 1);
            let want = case.plain(&qkv, 0);
            for (elem, allowed) in [(Elem::F32, 2e-6), (Elem::F16, 2e-3), (Elem::I8, 3e-2)] {
                let pages = case.pages(elem, &qkv);
                for path in cpu::available() {
                    let got = case.run(path, elem, &pages, &qkv, &[Span { first_row: 0, rows: tokens, start: 0 }]);
                    let worst = got.iter().zip(&want).map(|(a, b)| (f64::from(*a) - b).abs()).fold(0.0, f64::max);
                    assert!(worst < allowed, "{path:?} {elem:?} d {} tokens {tokens}: {worst}", case.d);
                }
            }
        }
    }
}

#[test]
fn a_query_has_the_same_bits_in_any_cut() {
    for case in CASES {
        let tokens = 700;
        let qkv = ramp(tokens * case.stride(), 3);
        let width = case.heads * case.d;
        for elem in [Elem::F32, Elem::F16, Elem::I8] {
            let pages = case.pages(elem, &qkv);
            for path in cpu::available() {
                let whole = case.run(path, elem, &pages, &qkv, &[Span { first_row: 0, rows: tokens, start: 0 }]);
                // One by one, in eights, in odd pieces: at the end of the sequence, where the cut matters.
                for piece in [1, 8, 13, 100] {
                    let spans: Vec<Span> = (tokens - 100..tokens)
                        .step_by(piece)
                        .map(|t| Span { first_row: t, rows: piece.min(tokens - t), start: t })
                        .collect();
                    let got = case.run(path, elem, &pages, &qkv, &spans);
                    let at = (tokens - 100) * width;
                    assert_eq!(got[at..], whole[at..], "{path:?} {elem:?} {piece}");
                }
            }
        }
    }
}

#[test]
fn pages_go_through_bytes() {
    for elem in [Elem::F32, Elem::F16, Elem::I8] {
        let case = CASES[1];
        let qkv = ramp(40 * case.stride(), 5);
        let pages = case.pages(elem, &qkv);
        let bytes = pages[0].to_bytes();
        assert_eq!(bytes.len(), case.shape(elem).bytes());
        let again = Page::from_bytes(case.shape(elem), &bytes).unwrap().unwrap();
        let copy = again.try_clone().unwrap();
        let span = [Span { first_row: 0, rows: 40, start: 0 }];
        let was = case.run(cpu::path(), elem, &pages, &qkv, &span);
        for page in [again, copy] {
            assert_eq!(case.run(cpu::path(), elem, &[Arc::new(page)], &qkv, &span), was);
        }
        assert!(Page::from_bytes(case.shape(elem), &bytes[1..]).unwrap().is_none());
    }
}

#[test]
fn pages_that_no_machine_has_room_for_are_refused() {
    for (elem, bytes) in [(Elem::F32, 4usize << 51), (Elem::F16, 2 << 51), (Elem::I8, 1 << 51)] {
        // 2,048 numbers a layer.
        let shape = PageShape { layers: 1 << 40, kv_heads: 1, d: 16, elem };
        assert_eq!(Page::try_new(shape).unwrap_err().bytes, bytes, "{elem:?}");
    }
}

#[test]
#[should_panic(expected = "attend: spans overlap")]
fn overlapping_spans_are_refused() {
    let case = CASES[2];
    let qkv = ramp(4 * case.stride(), 5);
    let pages = case.pages(Elem::F32, &qkv);
    let spans = [Span { first_row: 0, rows: 2, start: 0 }, Span { first_row: 1, rows: 2, start: 1 }];
    case.run(cpu::path(), Elem::F32, &pages, &qkv, &spans);
}

#[test]
#[should_panic(expected = "leave their slices")]
fn rows_past_what_can_be_counted_are_refused() {
    let shape = PageShape { layers: 1, kv_heads: 1, d: 2, elem: Elem::F32 };
    let spec = Spec { heads: 1, scale: 1.0, window: None, alibi: None, softcap: None };
    // Two numbers for each row: the second span's would begin at 0 for who does not look.
    let spans = [0, 1 << (usize::BITS - 1)].map(|first_row| Span { first_row, rows: 1, start: 0 });
    let pages = [Arc::new(Page::new(shape))];
    Attend::new(spec, shape, &spans).run(0, &[&pages[..], &pages[..]], &[0.0; 2], 2, &mut [0.0; 2]);
}

#[test]
#[should_panic(expected = "ends beyond what can be counted")]
fn spans_that_end_past_what_can_be_counted_are_refused() {
    let shape = PageShape { layers: 1, kv_heads: 1, d: 2, elem: Elem::F32 };
    let spec = Spec { heads: 1, scale: 1.0, window: None, alibi: None, softcap: None };
    Attend::new(spec, shape, &[Span { first_row: 0, rows: 1, start: usize::MAX }]);
}

/// The largest score is rounded and the exponents are not: what is left must not overflow.
#[test]
fn scores_of_any_size_stay_finite() {
    let case = CASES[0];
    let (stride, tokens) = (case.stride(), 70);
    let mut qkv = ramp(tokens * stride, 3);
    // Queries and keys: scores of about 1e17, whose last place is above 1e9.
    for row in qkv.chunks_mut(stride) {
        row[..(case.heads + case.kv_heads) * case.d].iter_mut().for_each(|x| *x = (2.0 + *x) * 1e8);
    }
    let pages = case.pages(Elem::F32, &qkv);
    let spec = Spec { heads: case.heads, scale: 0.125, window: None, alibi: None, softcap: None };
    for path in cpu::available() {
        let mut out = vec![f32::NAN; tokens * case.heads * case.d];
        let mut attend = Attend::new(spec, case.shape(Elem::F32), &[Span { first_row: 0, rows: tokens, start: 0 }]);
        attend.run_on(path, 1, &[&pages], &qkv, stride, &mut out);
        assert!(out.iter().all(|x| x.abs() <= 1.0), "{path:?}: means of values are within them");
    }
}

/// The queries of `whole` go over all chunks in one task, those of `few` are joined from parts.
#[test]
fn nan_keys_reach_the_queries_that_see_them_and_no_others() {
    let tokens = 270;
    let whole = [Span { first_row: 0, rows: tokens, start: 0 }];
    let few = [Span { first_row: 267, rows: 3, start: 267 }];
    for case in CASES {
        let (stride, width) = (case.stride(), case.heads * case.d);
        let qkv = ramp(tokens * stride, 2);
        for elem in [Elem::F32, Elem::F16, Elem::I8] {
            let sound = case.pages(elem, &qkv);
            // One key in several lanes, all of a page, all of the first chunk.
            let spoiled = [0..1, 9..10, 63..64, 0..64, 64..128, 0..256].map(|bad| {
                let mut qkv = qkv.clone();
                for t in bad.clone() {
                    qkv[t * stride + width..][..case.kv_heads * case.d].fill(f32::NAN);
                }
                (bad, case.pages(elem, &qkv))
            });
            for path in cpu::available() {
                for spans in [whole, few] {
                    let want = case.run(path, elem, &sound, &qkv, &spans);
                    for (bad, pages) in &spoiled {
                        let got = case.run(path, elem, pages, &qkv, &spans);
                        for i in spans[0].first_row..tokens {
                            let from = case.window.map_or(0, |w| (i + 1).saturating_sub(w));
                            let (got, want) = (&got[i * width..][..width], &want[i * width..][..width]);
                            if bad.start <= i && from < bad.end {
                                assert!(got.iter().all(|x| x.is_nan()), "{path:?} {elem:?} {bad:?}: query {i}");
                            } else {
                                assert_eq!(got, want, "{path:?} {elem:?} {bad:?}: query {i}");
                            }
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn finite_numbers_stay_finite_in_half_precision() {
    let shape = PageShape { layers: 1, kv_heads: 1, d: 4, elem: Elem::F16 };
    let mut page = Page::new(shape);
    let kv = [65_519.0, -1e6, f32::INFINITY, f32::NAN, 1e6, -65_520.0, f32::NEG_INFINITY, 0.5];
    page.write(0, 0, Rows { data: &kv, stride: 8, k: 0, v: 4, count: 1 });
    let Data::F16(data) = page.data() else { panic!("a page of f16") };
    let keys = [0, 1, 2, 3].map(|c| data[c * PAGE].to_f32());
    assert_eq!(keys[..3], [65_504.0, -65_504.0, f32::INFINITY]);
    assert!(keys[3].is_nan());
    let values = [0, 1, 2, 3].map(|c| data[4 * PAGE + c].to_f32());
    assert_eq!(values, [65_504.0, -65_504.0, f32::NEG_INFINITY, 0.5]);

    // Neither who sees a large value nor who computes beside it is spoiled.
    let case = CASES[0];
    let (stride, tokens) = (case.stride(), 20);
    let mut qkv = ramp(tokens * stride, 4);
    qkv[9 * stride + case.heads * case.d..][..2 * case.kv_heads * case.d].fill(1e6);
    let pages = case.pages(Elem::F16, &qkv);
    for path in cpu::available() {
        let got = case.run(path, Elem::F16, &pages, &qkv, &[Span { first_row: 0, rows: tokens, start: 0 }]);
        assert!(got.iter().all(|x| x.is_finite()), "{path:?}");
    }
}

#[test]
fn bytes_do_not_hide_what_is_not_finite() {
    let case = CASES[0];
    let (stride, width, tokens) = (case.stride(), case.heads * case.d, 20);
    let values = width + case.kv_heads * case.d;
    let qkv = ramp(tokens * stride, 6);
    for part in [width, values] {
        for bad in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut spoiled = qkv.clone();
            // One number of each head, in the last and in another place.
            for h in 0..case.kv_heads {
                spoiled[9 * stride + part + (h + 1) * case.d - 1 - h] = bad;
            }
            let pages = case.pages(Elem::I8, &spoiled);
            for path in cpu::available() {
                let got = case.run(path, Elem::I8, &pages, &qkv, &[Span { first_row: 0, rows: tokens, start: 0 }]);
                assert!(got[9 * width..].iter().all(|x| x.is_nan()), "{path:?} {bad} at {part}");
            }
        }
    }
}
