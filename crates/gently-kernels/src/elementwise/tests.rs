//! Broadcasting and strided copies against index arithmetic, functions against f64.

use super::*;
use crate::lanes::testing::{close, gradient, random, same_on_threads, wide};
use crate::real::Real;
use proptest::prelude::*;

const BINARIES: [Binary; 6] = [Binary::Add, Binary::Sub, Binary::Mul, Binary::Div, Binary::Max, Binary::Min];

/// Every index of a shape in row-major order, as the place in a view.
fn places(shape: &[usize], strides: &[usize]) -> Vec<usize> {
    let mut all = vec![0];
    for (&n, &s) in shape.iter().zip(strides) {
        all = all.iter().flat_map(|&at| (0..n).map(move |i| at + i * s)).collect();
    }
    all
}

/// Strides of a contiguous buffer whose axes are stored in the order `perm`, with broadcast axes 0.
fn layout(shape: &[usize], order: &[usize], broadcast: usize) -> (Vec<usize>, usize) {
    let mut strides = vec![0; shape.len()];
    let mut step = 1;
    for &axis in order.iter().rev() {
        if broadcast >> axis & 1 == 0 {
            strides[axis] = step;
            step *= shape[axis];
        }
    }
    (strides, step)
}

fn shapes() -> impl Strategy<Value = (Vec<usize>, Vec<usize>)> {
    proptest::collection::vec(1usize..9, 0..5).prop_flat_map(|shape| {
        let axes: Vec<usize> = (0..shape.len()).collect();
        (Just(shape), Just(axes).prop_shuffle())
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(80))]
    #[test]
    fn any_layout_broadcasts((shape, order) in shapes(), cut_a in 0usize..16, cut_b in 0usize..16, seed: u32) {
        let straight: Vec<usize> = (0..shape.len()).collect();
        let (sa, na) = layout(&shape, &order, cut_a);
        let (sb, nb) = layout(&shape, &straight, cut_b);
        let (a, b) = (random(seed, na), random(seed ^ 1, nb));
        let (pa, pb) = (places(&shape, &sa), places(&shape, &sb));
        for op in BINARIES {
            let want: Vec<f32> = pa.iter().zip(&pb).map(|(&i, &j)| op.apply(a[i], b[j])).collect();
            for path in crate::cpu::available() {
                let mut out = vec![9.0; pa.len()];
                binary::binary_on(path, op, &shape, View::new(&a, &sa), View::new(&b, &sb), &mut out);
                prop_assert_eq!(&out, &want);
            }
        }
        let mut copy = vec![0.0; pa.len()];
        copy_strided(&shape, View::new(&a, &sa), &mut copy);
        prop_assert!(copy.iter().zip(&pa).all(|(&c, &i)| c == a[i]));
        // Back again, where no two elements share a place.
        let (sc, nc) = layout(&shape, &order, 0);
        let mut back = vec![1.0; nc + 3];
        assign_strided(&shape, &copy, &mut back, &sc);
        add_strided(&shape, &copy, &mut back, &sc);
        for (&at, &c) in places(&shape, &sc).iter().zip(&copy) {
            prop_assert_eq!(back[at], c + c);
        }
        prop_assert_eq!(&back[nc..], &[1.0; 3]);
    }
}

#[test]
fn long_rows_are_cut_and_joined() {
    let shape = [3, 50_000];
    let (a, b) = (random(1, 150_000), random(2, 50_000));
    same_on_threads(|| {
        let mut out = vec![0.0; 150_000];
        binary(Binary::Mul, &shape, View::new(&a, &[50_000, 1]), View::new(&b, &[0, 1]), &mut out);
        assert!(out.iter().enumerate().all(|(i, &o)| o == a[i] * b[i % 50_000]));
        let mut turned = vec![0.0; 150_000];
        copy_strided(&[50_000, 3], View::new(&a, &[1, 50_000]), &mut turned);
        assert!((0..150_000).all(|i| turned[i] == a[i / 3 + i % 3 * 50_000]));
        (out, turned)
    });
}

#[test]
#[should_panic(expected = "share a place")]
fn overlapping_destinations_are_refused() {
    assign_strided(&[2, 2], &[0.0f32; 4], &mut [0.0; 8], &[1, 1]);
}

#[test]
#[should_panic(expected = "leaves its data")]
fn a_view_past_its_data_is_refused() {
    copy_strided(&[2, 2], View::new(&[0.0f32; 3], &[2, 1]), &mut [0.0; 4]);
}

#[test]
#[should_panic(expected = "leaves its data")]
fn places_that_cannot_be_counted_are_refused() {
    // Twice the first stride is 0 for who does not look.
    let strides = [1 << (usize::BITS - 1), 1];
    add_strided(&[3, 16_384], &[1.0f32; 49_152], &mut [0.0; 16_384], &strides);
}

#[test]
#[should_panic(expected = "more elements than can be counted")]
fn shapes_that_cannot_be_counted_are_refused() {
    copy_strided(&[1 << (usize::BITS / 2); 2], View::new(&[0.0f32], &[0, 0]), &mut []);
}

#[test]
fn empty_shapes_may_have_long_axes() {
    let shape = [usize::MAX, 0, usize::MAX];
    copy_strided(&shape, View::new(&[0.0f32; 0], &[0, 1, usize::MAX]), &mut []);
    add_strided(&shape, &[], &mut [0.0f32; 0], &[0, usize::MAX, 3]);
}

#[test]
fn nan_wins_over_maximum_and_minimum() {
    for op in [Binary::Max, Binary::Min] {
        assert!(op.apply(f32::NAN, 1.0).is_nan() && op.apply(1.0, f64::NAN).is_nan());
    }
}

#[test]
fn functions_and_their_slopes() {
    let positive: Vec<f32> = random(3, 1003).iter().map(|v| v.abs() + 0.1).collect();
    let any = random(4, 1003);
    let dy = random(5, 1003);
    let all = |x: f64| {
        [
            (Unary::Neg, -x),
            (Unary::Exp, x.exp()),
            (Unary::Ln, x.ln()),
            (Unary::Sqrt, x.sqrt()),
            (Unary::Sqr, x * x),
            (Unary::Recip, 1.0 / x),
            (Unary::Abs, x.abs()),
            (Unary::Tanh, x.tanh()),
            (Unary::Sigmoid, 1.0 / (1.0 + (-x).exp())),
            (Unary::Sin, x.sin()),
            (Unary::Cos, x.cos()),
            (Unary::Powf(2.5), x.powf(2.5)),
            (Unary::Affine { scale: 3.0, shift: -1.0 }, 3.0 * x - 1.0),
        ]
    };
    for (k, (op, _)) in all(1.0).into_iter().enumerate() {
        let needs_positive = matches!(op, Unary::Ln | Unary::Sqrt | Unary::Powf(_) | Unary::Recip);
        let x = if needs_positive { &positive } else { &any };
        let want: Vec<f64> = x.iter().map(|&v| all(v as f64)[k].1).collect();
        let narrow = match op {
            Unary::Powf(p) => Unary::Powf(p as f32),
            Unary::Affine { scale, shift } => Unary::Affine { scale: scale as f32, shift: shift as f32 },
            Unary::Neg => Unary::Neg,
            Unary::Exp => Unary::Exp,
            Unary::Ln => Unary::Ln,
            Unary::Sqrt => Unary::Sqrt,
            Unary::Sqr => Unary::Sqr,
            Unary::Recip => Unary::Recip,
            Unary::Abs => Unary::Abs,
            Unary::Tanh => Unary::Tanh,
            Unary::Sigmoid => Unary::Sigmoid,
            Unary::Sin => Unary::Sin,
            Unary::Cos => Unary::Cos,
        };
        let mut slope = vec![0.0; x.len()];
        unary_backward(op, &wide(x), &want, &wide(&dy), &mut slope);
        for path in crate::cpu::available() {
            let mut y = vec![0.0; x.len()];
            unary::unary_on(path, narrow, x, &mut y);
            close(&y, &want, 2e-6, &format!("{op:?} on {path:?}"));
            let mut dx = vec![0.0; x.len()];
            unary_backward(narrow, x, &y, &dy, &mut dx);
            close(&dx, &slope, 1e-4, &format!("slope of {op:?}"));
        }
        let (x, dy) = (wide(&x[..9]), wide(&dy[..9]));
        gradient(&x, &slope[..9], &dy, &format!("{op:?}"), |x| {
            let mut y = vec![0.0; x.len()];
            unary(op, x, &mut y);
            y
        });
    }
}

#[test]
fn constant_powers_are_flat_at_zero() {
    let x = [0.0f32, -0.0, 1.5];
    for (p, want) in [(0.0, [0.0; 3]), (1.0, [1.0; 3]), (2.0, [0.0, 0.0, 3.0])] {
        let (mut y, mut dx) = ([9.0; 3], [9.0; 3]);
        unary(Unary::Powf(p), &x, &mut y);
        unary_backward(Unary::Powf(p), &x, &y, &[1.0; 3], &mut dx);
        assert_eq!(dx, want, "x^{p}");
    }
}

#[test]
fn scaled_sums() {
    let x = random(6, 40_000);
    let mut y = x.clone();
    scale_add(2.0, &x, -0.5, &mut y);
    assert!(y.iter().zip(&x).all(|(&y, &x)| (y - 1.5 * x).abs() <= 1e-6 * x.abs()));
    let mut y = vec![f32::NAN; x.len()];
    scale_add(1.0, &x, 0.0, &mut y);
    assert_eq!(y, x);
    add_assign(&mut y, &x);
    assert!(y.iter().zip(&x).all(|(&y, &x)| y == 2.0 * x));
}

#[test]
fn operations_in_place_equal_the_plain_twin_on_every_path() {
    fn check<T: Real>(x: &[T]) {
        let (scale, shift) = (T::from_f64(0.3), T::from_f64(-1.7));
        for path in crate::cpu::available() {
            let (mut scaled, mut moved) = (x.to_vec(), x.to_vec());
            binary::assign_on(path, move |y| y * scale, &mut scaled);
            binary::assign_on(path, move |y| y * scale + shift, &mut moved);
            for ((&x, &s), &m) in x.iter().zip(&scaled).zip(&moved) {
                assert_eq!(s, x * scale, "{path:?}");
                // Two roundings: fused they would differ.
                let product = std::hint::black_box(x * scale);
                assert_eq!(m, product + shift, "{path:?}");
            }
        }
        let (mut scaled, mut moved) = (x.to_vec(), x.to_vec());
        scale_assign(scale, &mut scaled);
        affine_assign(scale, shift, &mut moved);
        assert!(x.iter().zip(&scaled).zip(&moved).all(|((&x, &s), &m)| s == x * scale && m == x * scale + shift));
    }
    let x = random(7, 40_003);
    check(&x);
    check(&wide(&x));
    // Zero loses its sign to a shift of nothing, and keeps it otherwise.
    let (mut scaled, mut moved) = ([-0.0f32], [-0.0f32]);
    scale_assign(2.0, &mut scaled);
    affine_assign(2.0, 0.0, &mut moved);
    assert!(scaled[0].is_sign_negative() && moved[0].is_sign_positive());
}

#[test]
fn gradients_of_choices_equal_the_plain_twin_on_every_path() {
    fn check<T: Real>(a: &[T], b: &[T], g: &[T]) {
        for (op, flip) in [(Binary::Max, false), (Binary::Max, true), (Binary::Min, false), (Binary::Min, true)] {
            let left = |a: T, b: T| if op == Binary::Max { a >= b } else { a <= b };
            let want: Vec<T> = (0..g.len()).map(|i| if left(a[i], b[i]) != flip { g[i] } else { T::ZERO }).collect();
            for path in crate::cpu::available() {
                let mut out = vec![T::ONE; g.len()];
                binary::choice_backward_on(path, op, a, b, g, flip, &mut out);
                assert_eq!(out, want, "{op:?} {flip} {path:?}");
            }
        }
    }
    let (mut a, mut b, g) = (random(8, 40_003), random(9, 40_003), random(10, 40_003));
    // Equals, on both sides of a task's end, and no numbers.
    for i in [0, 7, 16_383, 16_384, 40_002] {
        b[i] = a[i];
    }
    (a[3], b[4]) = (f32::NAN, f32::NAN);
    check(&a, &b, &g);
    check(&wide(&a), &wide(&b), &wide(&g));
    same_on_threads(|| {
        let mut out = vec![0.0; g.len()];
        choice_backward(Binary::Max, &a, &b, &g, true, &mut out);
        out
    });
    // What is chosen has the gradient, of equals the first.
    let mut both = [[0.0f32; 3]; 2];
    for (flip, out) in both.iter_mut().enumerate() {
        choice_backward(Binary::Max, &[1.0, 2.0, 3.0], &[2.0, 2.0, 1.0], &[5.0; 3], flip == 1, out);
    }
    assert_eq!(both, [[0.0, 5.0, 5.0], [5.0, 0.0, 0.0]]);
}

#[test]
#[should_panic(expected = "chooses none of its operands")]
fn sums_have_no_choice() {
    choice_backward(Binary::Add, &[1.0f32], &[1.0], &[1.0], false, &mut [0.0]);
}
