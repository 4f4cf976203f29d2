//! The fast products against the plain one in double precision.

use super::*;
use proptest::prelude::*;
use std::sync::Mutex;

/// Tests that set the number of threads take turns.
static THREADS: Mutex<()> = Mutex::new(());

/// Deterministic numbers in −1..1 that do not repeat in step with any stride.
fn noise(len: usize, seed: u64) -> Vec<f32> {
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..len)
        .map(|_| {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            ((x >> 40) as f32) / (1u32 << 23) as f32 - 1.0
        })
        .collect()
}

#[derive(Debug, Clone, Copy)]
struct Layout {
    transposed: bool,
    pad: usize,
    step: usize,
    bf16: bool,
}

/// A matrix in some layout, in its own type and in f64 as the kernels should see it.
struct Data {
    f32: Vec<f32>,
    half: Vec<bf16>,
    layout: Layout,
    rows: usize,
    cols: usize,
}

impl Data {
    fn new(rows: usize, cols: usize, layout: Layout, seed: u64) -> Data {
        let (r, c) = if layout.transposed { (cols, rows) } else { (rows, cols) };
        let f32 = noise(r * (c + layout.pad) * layout.step, seed);
        let half = f32.iter().map(|&x| bf16::from_f32(x)).collect();
        Data { f32, half, layout, rows, cols }
    }

    fn strides(&self) -> (usize, usize) {
        let l = self.layout;
        if l.transposed { (l.step, (self.rows + l.pad) * l.step) } else { ((self.cols + l.pad) * l.step, l.step) }
    }

    fn mat(&self) -> Mat<'_> {
        let (rs, cs) = self.strides();
        let data = if self.layout.bf16 { Operand::Bf16(&self.half) } else { Operand::F32(&self.f32) };
        Mat::new(data, self.rows, self.cols).with_strides(rs, cs)
    }

    fn wide(&self, compute: Compute) -> Vec<f64> {
        let rounded = self.layout.bf16 || compute == Compute::Bf16;
        let (rs, cs) = self.strides();
        let mut out = Vec::new();
        for i in 0..self.rows {
            for j in 0..self.cols {
                let at = i * rs + j * cs;
                out.push(if rounded { self.half[at].to_f64() } else { self.f32[at] as f64 });
            }
        }
        out
    }
}

#[derive(Debug, Clone)]
struct Case {
    m: usize,
    n: usize,
    k: usize,
    a: Layout,
    b: Layout,
    c_pad: usize,
    compute: Compute,
    activation: Activation,
    bias: bool,
    pre: bool,
    residual: bool,
    accumulate: bool,
    alpha: f32,
}

/// C, and x where it was asked for.
fn fast(path: Path, case: &Case, a: &Data, b: &Data) -> (Vec<f32>, Vec<f32>) {
    let ldc = case.n + case.c_pad;
    let mut c = noise(case.m * ldc, 3);
    let mut pre = vec![-7.0; case.m * ldc];
    let bias = noise(case.n, 4);
    let residual = noise(case.m * ldc, 5);
    let ep = Epilogue {
        bias: case.bias.then_some(&bias[..]),
        activation: case.activation,
        pre_activation: case.pre.then_some(&mut pre[..]),
        residual: case.residual.then_some(&residual[..]),
        accumulate: case.accumulate,
        alpha: case.alpha,
    };
    gemm_on(path, case.compute, a.mat(), b.mat(), &mut c, ldc, ep);
    (c, pre)
}

fn exact(case: &Case, a: &Data, b: &Data) -> (Vec<f64>, Vec<f64>) {
    let ldc = case.n + case.c_pad;
    let widen = |x: Vec<f32>| -> Vec<f64> { x.into_iter().map(f64::from).collect() };
    let mut c = widen(noise(case.m * ldc, 3));
    let mut pre = vec![-7.0; case.m * ldc];
    let bias = widen(noise(case.n, 4));
    let residual = widen(noise(case.m * ldc, 5));
    let (aw, bw) = (a.wide(case.compute), b.wide(case.compute));
    let ep = Epilogue {
        bias: case.bias.then_some(&bias[..]),
        activation: case.activation,
        pre_activation: case.pre.then_some(&mut pre[..]),
        residual: case.residual.then_some(&residual[..]),
        accumulate: case.accumulate,
        alpha: case.alpha as f64,
    };
    plain::gemm(plain::View::new(&aw, case.m, case.k), plain::View::new(&bw, case.k, case.n), &mut c, ldc, ep);
    (c, pre)
}

fn close(fast: &[f32], exact: &[f64], k: usize, what: &str) {
    // Terms are below 1 in size; errors of a sum of k of them grow like √k, with room for the worst.
    let tolerance = 3e-7 * (k as f64).sqrt().max(4.0) * 4.0;
    for (i, (&x, &y)) in fast.iter().zip(exact).enumerate() {
        let error = (x as f64 - y).abs() / y.abs().max(1.0);
        assert!(error <= tolerance, "{what}: element {i} is {x}, should be {y}");
    }
}

fn check_case(case: &Case) {
    let a = Data::new(case.m, case.k, case.a, 1);
    let b = Data::new(case.k, case.n, case.b, 2);
    let (c, pre) = exact(case, &a, &b);
    for path in cpu::available() {
        let got = {
            let _turn = THREADS.lock().unwrap_or_else(|e| e.into_inner());
            pool::set_threads(1);
            let one = fast(path, case, &a, &b);
            pool::set_threads(2);
            let two = fast(path, case, &a, &b);
            pool::set_threads(0);
            let bits = |v: &[f32]| v.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
            assert_eq!(bits(&one.0), bits(&two.0), "threads change bits on {path:?}: {case:?}");
            assert_eq!(bits(&one.1), bits(&two.1), "threads change bits on {path:?}: {case:?}");
            one
        };
        close(&got.0, &c, case.k, &format!("{path:?} C of {case:?}"));
        close(&got.1, &pre, case.k, &format!("{path:?} x of {case:?}"));
    }
}

const PLAIN_LAYOUT: Layout = Layout { transposed: false, pad: 0, step: 1, bf16: false };

fn case(m: usize, n: usize, k: usize) -> Case {
    Case {
        m,
        n,
        k,
        a: PLAIN_LAYOUT,
        b: PLAIN_LAYOUT,
        c_pad: 0,
        compute: Compute::F32,
        activation: Activation::None,
        bias: false,
        pre: false,
        residual: false,
        accumulate: false,
        alpha: 1.0,
    }
}

fn layout() -> impl Strategy<Value = Layout> {
    (any::<bool>(), 0..4usize, 1..3usize, any::<bool>()).prop_map(|(transposed, pad, step, bf16)| Layout {
        transposed,
        pad,
        step: if pad == 3 { step } else { 1 },
        bf16,
    })
}

fn activation() -> impl Strategy<Value = Activation> {
    use Activation::*;
    prop::sample::select(vec![None, GeluTanh, GeluErf, Silu, Relu, Relu2])
}

fn any_case() -> impl Strategy<Value = Case> {
    // Small sizes meet every edge of a tile; the long K crosses blocks.
    let size = || prop_oneof![1..20usize, 30..140usize];
    (
        (size(), size(), prop_oneof![0..20usize, 30..140usize, 380..900usize]),
        (layout(), layout(), 0..3usize, any::<bool>()),
        (activation(), any::<[bool; 4]>(), prop::sample::select(vec![1.0f32, 0.5, -2.0])),
    )
        .prop_map(|((m, n, k), (a, b, c_pad, half), (activation, flags, alpha))| Case {
            a,
            b,
            c_pad,
            compute: if half { Compute::Bf16 } else { Compute::F32 },
            // What is added to C has none of these.
            activation: if flags[3] { Activation::None } else { activation },
            bias: flags[0],
            pre: flags[1] && !flags[3],
            residual: flags[2] && !flags[3],
            accumulate: flags[3],
            alpha,
            ..case(m, n, k)
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]
    #[test]
    fn every_path_agrees_with_the_plain_product(case in any_case()) {
        check_case(&case);
    }
}

#[test]
fn training_shapes_in_all_forms() {
    for (m, n, k) in [(96, 384, 128), (96, 65, 128), (512, 128, 768), (40, 1300, 800)] {
        for (ta, tb) in [(false, false), (false, true), (true, false), (true, true)] {
            for compute in [Compute::F32, Compute::Bf16] {
                let mut c = case(m, n, k);
                c.a.transposed = ta;
                c.b.transposed = tb;
                c.compute = compute;
                check_case(&c);
            }
        }
    }
}

#[test]
fn few_rows_with_long_columns() {
    for m in 1..=9 {
        for (n, k) in [(300, 700), (7, 33), (1, 16)] {
            let mut c = case(m, n, k);
            c.b.transposed = true;
            c.bias = m % 2 == 0;
            c.activation = if m % 3 == 0 { Activation::GeluTanh } else { Activation::None };
            c.residual = m % 3 == 1;
            check_case(&c);
            let sum = Case { activation: Activation::None, residual: false, accumulate: true, ..c };
            check_case(&sum);
        }
    }
}

#[test]
fn rounding_to_bf16_keeps_special_values() {
    let a = [f32::NAN, f32::INFINITY, f32::MAX, -0.0, 1.0 + 1.0 / 256.0, 1.0 + 3.0 / 256.0, 2.0, 3.0];
    let one = [1.0f32];
    for path in cpu::available() {
        for a in [Mat::f32(&a, 8, 1), Mat::f32(&a, 1, 8).t()] {
            let mut c = [9.0; 8];
            gemm_on(path, Compute::Bf16, a, Mat::f32(&one, 1, 1), &mut c, 1, Epilogue::default());
            assert!(c[0].is_nan());
            assert_eq!(&c[1..], &[f32::INFINITY, f32::INFINITY, 0.0, 1.0, 1.015625, 2.0, 3.0], "{path:?}");
        }
    }
}

#[test]
fn a_batch_is_its_products() {
    let (m, n, k, batch) = (5, 7, 9, 6);
    let (a, b) = (noise(batch * m * k, 1), noise(k * n, 2));
    let mut c = vec![1.0; batch * m * n];
    let (am, bm) = (Mat::f32(&a, m, k), Mat::f32(&b, k, n));
    gemm_batched(Compute::F32, batch, am, m * k, bm, 0, &mut c, 0.5, true);
    for i in 0..batch {
        let mut one = vec![1.0; m * n];
        let ep = Epilogue { alpha: 0.5, accumulate: true, ..Epilogue::default() };
        gemm(Compute::F32, Mat::f32(&a[i * m * k..], m, k), bm, &mut one, n, ep);
        assert_eq!(one, c[i * m * n..][..m * n]);
    }
}

#[test]
fn products_without_an_inner_dimension_are_zero() {
    // Strides that lie past the empty inputs.
    let (a, b) = (Mat::f32(&[], 3, 0).with_strides(5, 1), Mat::f32(&[], 0, 2).with_strides(1, 7));
    for (before, accumulate, after) in [(7.0, false, 0.0), (7.0, true, 7.0)] {
        for batch in [2, FEW + 1] {
            let mut c = vec![before; batch * 6];
            gemm_batched(Compute::F32, batch, a, 5, b, 5, &mut c, 1.0, accumulate);
            assert_eq!(c, vec![after; batch * 6]);
        }
        for path in cpu::available() {
            for compute in [Compute::F32, Compute::Bf16] {
                let mut c = [before; 6];
                gemm_on(path, compute, a, b, &mut c, 2, Epilogue { accumulate, ..Epilogue::default() });
                assert_eq!(c, [after; 6]);
            }
        }
    }
}

#[test]
fn a_product_that_is_added_to_c_has_no_more_of_an_epilogue() {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    let one = [1.0f32];
    let mat = Mat::f32(&one, 1, 1);
    for part in 0..4 {
        for accumulate in [false, true] {
            let (mut c, mut pre) = ([1.0f32], [0.0f32]);
            let refused = catch_unwind(AssertUnwindSafe(|| {
                let ep = Epilogue {
                    bias: Some(&one),
                    activation: if part == 1 { Activation::Relu } else { Activation::None },
                    pre_activation: (part == 2).then_some(&mut pre[..]),
                    residual: (part == 3).then_some(&one[..]),
                    accumulate,
                    alpha: 1.0,
                };
                gemm(Compute::F32, mat, mat, &mut c, 1, ep);
            }));
            assert_eq!(refused.is_err(), accumulate && part > 0, "part {part}, accumulate {accumulate}");
        }
    }
    let (mut c, residual) = ([1.0f64], [1.0f64]);
    let view = plain::View::new(&[1.0f64], 1, 1);
    let both = Epilogue { residual: Some(&residual[..]), accumulate: true, ..Epilogue::default() };
    assert!(catch_unwind(AssertUnwindSafe(|| plain::gemm(view, view, &mut c, 1, both))).is_err());
}

#[test]
fn what_a_product_packs_is_bounded_whatever_its_shape() {
    let long = 1 << 20;
    for (m, n, k) in [(long, long, long), (192, 48, long), (9, long, 17), (8, long, 16), (8, 16, long), (long, 1, long)]
    {
        for compute in [Compute::F32, Compute::Bf16] {
            let (a, b) = (Mat::f32(&[], m, k), Mat::f32(&[], k, n));
            for (a, b) in [(a, b), (a.with_strides(1, m), b.with_strides(1, k))] {
                let taken = scratch(compute, &a, &b).total(1);
                assert!(taken <= 16 << 20, "{taken} bytes for [{m}, {k}] · [{k}, {n}], {compute:?}");
            }
        }
    }
}

#[test]
fn a_path_that_is_not_there_is_refused() {
    let one = [1.0];
    cpu::assert_refused_elsewhere(|path| {
        gemm_on(path, Compute::F32, Mat::f32(&one, 1, 1), Mat::f32(&one, 1, 1), &mut [0.0], 1, Epilogue::default());
    });
}

#[test]
#[should_panic(expected = "do not fit")]
fn batches_must_fit_their_output() {
    let x = [1.0; 8];
    let (a, b) = (Mat::f32(&x, 2, 2), Mat::f32(&x, 2, 2));
    gemm_batched(Compute::F32, 2, a, 4, b, 4, &mut [0.0; 7], 1.0, false);
}

#[test]
#[should_panic(expected = "inner dimensions differ")]
fn inner_dimensions_must_agree() {
    let x = [0.0; 4];
    gemm(Compute::F32, Mat::f32(&x, 2, 2), Mat::f32(&x, 1, 4), &mut [0.0; 8], 4, Epilogue::default());
}

#[test]
#[should_panic(expected = "leaves its")]
fn views_must_fit_their_data() {
    let x = [0.0; 4];
    let a = Mat::f32(&x, 2, 2).with_strides(usize::MAX, 1);
    gemm(Compute::F32, a, Mat::f32(&x, 2, 2), &mut [0.0; 4], 2, Epilogue::default());
}

/// Rows packed across all panels are the panels packed one by one, for the widths of every instruction set: packing for
/// AVX-512 needs AVX2 alone, so it is checked where the former is not.
#[test]
fn rows_across_panels_are_the_panels() {
    use super::pack::{Mode, Part, Ptr, pack, pack_rows, words};
    let f32s: Vec<f32> = (0..40 * 130).map(|i| (i * 7919 % 1000) as f32 * 1e-3 - 0.5).collect();
    let bf16s: Vec<half::bf16> = f32s.iter().map(|&x| half::bf16::from_f32(x)).collect();
    let paths: &[bool] = if crate::cpu::path() == crate::cpu::Path::Plain { &[false] } else { &[false, true] };
    for (&avx2, (width, lanes)) in paths.iter().flat_map(|p| [(24, 8), (48, 16)].map(|w| (p, w))) {
        for mode in [Mode::F32, Mode::Rounded, Mode::Pairs] {
            for src in [Ptr::F32(f32s.as_ptr()), Ptr::Bf16(bf16s.as_ptr())] {
                for (minors, k) in [(1, 1), (7, 9), (24, 8), (65, 13), (97, 40), (128, 33)] {
                    let all = Part { src, minor_stride: 1, k_stride: 130, minors, k, width };
                    let words = words(mode, k);
                    let len = minors.next_multiple_of(lanes) * words;
                    let (mut a, mut b) = (vec![u32::MAX; len], vec![u32::MAX; len]);
                    // SAFETY: 40 rows of 130 elements hold every part, and the buffers all panels.
                    unsafe {
                        for j in (0..minors).step_by(width) {
                            pack(a.as_mut_ptr().add(j * words), &all.panel(j, lanes), mode, false);
                        }
                        for from in (0..words).step_by(8) {
                            pack_rows(b.as_mut_ptr(), &all, lanes, from..words.min(from + 8), mode, avx2);
                        }
                    }
                    assert!(a == b, "{mode:?}, {minors} lines of {k} in panels of {width}, avx2 {avx2}");
                }
            }
        }
    }
}
