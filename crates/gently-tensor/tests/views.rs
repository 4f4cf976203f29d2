//! Views and broadcasting against a naive model: a tensor is its sizes and a list of values, an index is a list.

use gently_tensor::*;
use proptest::prelude::*;

const CPU: Device = Device::Cpu;

/// Sizes and values in row-major order.
#[derive(Debug, Clone, PartialEq)]
struct Naive {
    dims: Vec<usize>,
    data: Vec<i64>,
}

/// All indices of a shape, in row-major order.
fn indices(dims: &[usize]) -> Vec<Vec<usize>> {
    let mut all = vec![vec![]];
    for &d in dims {
        all = all.into_iter().flat_map(|i| (0..d).map(move |k| [&i[..], &[k]].concat())).collect();
    }
    all
}

impl Naive {
    fn build(dims: &[usize], value: impl Fn(&[usize]) -> i64) -> Naive {
        Naive { dims: dims.to_vec(), data: indices(dims).iter().map(|i| value(i)).collect() }
    }

    fn at(&self, index: &[usize]) -> i64 {
        let place = index.iter().zip(&self.dims).fold(0, |p, (i, d)| p * d + i);
        self.data[place]
    }
}

#[derive(Debug, Clone)]
enum Step {
    Transpose(usize, usize),
    Rotate,
    Narrow(usize, usize, usize),
    Unsqueeze(usize),
    Squeeze(usize),
    Broadcast(usize),
    Merge(usize),
    Split(usize),
    Contiguous,
}

fn step() -> impl Strategy<Value = Step> {
    let n = 0..8usize;
    prop_oneof![
        (n.clone(), n.clone()).prop_map(|(a, b)| Step::Transpose(a, b)),
        Just(Step::Rotate),
        (n.clone(), n.clone(), n.clone()).prop_map(|(a, b, c)| Step::Narrow(a, b, c)),
        n.clone().prop_map(Step::Unsqueeze),
        n.clone().prop_map(Step::Squeeze),
        n.clone().prop_map(Step::Broadcast),
        n.clone().prop_map(Step::Merge),
        n.prop_map(Step::Split),
        Just(Step::Contiguous),
    ]
}

/// Applies a step to both, where it makes sense.
fn apply(step: &Step, x: Naive, t: Tensor) -> (Naive, Tensor) {
    let rank = x.dims.len();
    let pick = |d: usize| d % rank.max(1);
    match *step {
        Step::Transpose(a, b) if rank > 0 => {
            let (a, b) = (pick(a), pick(b));
            let mut dims = x.dims.clone();
            dims.swap(a, b);
            let y = Naive::build(&dims, |i| {
                let mut i = i.to_vec();
                i.swap(a, b);
                x.at(&i)
            });
            (y, t.transpose(a, b).unwrap())
        }
        Step::Rotate if rank > 0 => {
            let order: Vec<usize> = (0..rank).map(|i| (i + 1) % rank).collect();
            let dims: Vec<usize> = order.iter().map(|&d| x.dims[d]).collect();
            let y = Naive::build(&dims, |i| {
                let mut from = vec![0; rank];
                for (k, &d) in order.iter().enumerate() {
                    from[d] = i[k];
                }
                x.at(&from)
            });
            (y, t.permute(&order).unwrap())
        }
        Step::Narrow(d, start, len) if rank > 0 => {
            let d = pick(d);
            let start = start % (x.dims[d] + 1);
            let len = len % (x.dims[d] - start + 1);
            let mut dims = x.dims.clone();
            dims[d] = len;
            let y = Naive::build(&dims, |i| {
                let mut i = i.to_vec();
                i[d] += start;
                x.at(&i)
            });
            (y, t.narrow(d, start, len).unwrap())
        }
        Step::Unsqueeze(d) if rank < 5 => {
            let d = d % (rank + 1);
            let mut dims = x.dims.clone();
            dims.insert(d, 1);
            (Naive { dims, data: x.data }, t.unsqueeze(d).unwrap())
        }
        Step::Squeeze(d) if rank > 0 && x.dims[pick(d)] == 1 => {
            let mut dims = x.dims.clone();
            dims.remove(pick(d));
            (Naive { dims, data: x.data }, t.squeeze(pick(d)).unwrap())
        }
        Step::Broadcast(d) if rank > 0 && x.dims[pick(d)] == 1 => {
            let d = pick(d);
            let mut dims = x.dims.clone();
            dims[d] = 3;
            let y = Naive::build(&dims, |i| {
                let mut i = i.to_vec();
                i[d] = 0;
                x.at(&i)
            });
            (y, t.broadcast_to(&dims).unwrap())
        }
        Step::Merge(d) if rank > 1 => {
            let d = d % (rank - 1);
            let mut dims = x.dims.clone();
            let size = dims.remove(d + 1);
            dims[d] *= size;
            let t = t.reshape(&dims).unwrap();
            (Naive { dims, data: x.data }, t)
        }
        Step::Split(d) if rank > 0 && rank < 5 && x.dims[pick(d)].is_multiple_of(2) => {
            let d = pick(d);
            let mut dims = x.dims.clone();
            dims[d] /= 2;
            dims.insert(d + 1, 2);
            let t = t.reshape(&dims).unwrap();
            (Naive { dims, data: x.data }, t)
        }
        Step::Contiguous => {
            let t = t.contiguous().unwrap();
            assert!(t.is_contiguous());
            (x, t)
        }
        _ => (x, t),
    }
}

fn start(dims: &[usize]) -> (Naive, Tensor) {
    let n: usize = dims.iter().product();
    let data: Vec<i64> = (0..n as i64).collect();
    let t = Tensor::from_slice(&data, dims, &CPU).unwrap();
    (Naive { dims: dims.to_vec(), data }, t)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn views_agree_with_the_naive_model(
        dims in prop::collection::vec(1..5usize, 0..4),
        steps in prop::collection::vec(step(), 0..9),
    ) {
        let (mut x, mut t) = start(&dims);
        for step in &steps {
            (x, t) = apply(step, x, t);
            prop_assert_eq!(t.dims(), &x.dims[..], "{:?}", step);
            prop_assert_eq!(&t.to_vec::<i64>().unwrap(), &x.data, "{:?} of {:?}", step, steps);
        }
    }

    #[test]
    fn gradients_of_views_count_uses(
        dims in prop::collection::vec(1..4usize, 1..4),
        steps in prop::collection::vec(step(), 0..7),
    ) {
        // The gradient of Σ view(x) is how often each element of x is seen.
        let (x, _) = start(&dims);
        let leaf = Tensor::from_slice(&vec![1.0f32; x.data.len()], &dims, &CPU).unwrap().param().unwrap();
        let (mut seen, mut t) = (x.clone(), leaf.clone());
        for step in &steps {
            (seen, t) = apply(step, seen, t);
        }
        let mut want = vec![0.0f32; x.data.len()];
        for &i in &seen.data {
            want[i as usize] += 1.0;
        }
        let grads = t.sum_all().unwrap().backward().unwrap();
        prop_assert_eq!(grads.get(&leaf).unwrap().to_vec::<f32>().unwrap(), want);
    }

    #[test]
    fn broadcasting_agrees_with_the_naive_model(
        dims in prop::collection::vec(1..5usize, 0..5),
        ones_a in prop::collection::vec(any::<bool>(), 5),
        ones_b in prop::collection::vec(any::<bool>(), 5),
        drop_a in 0..4usize,
        drop_b in 0..4usize,
    ) {
        let shape_of = |ones: &[bool], drop: usize| -> Vec<usize> {
            let d = dims.iter().zip(ones).map(|(&d, &one)| if one { 1 } else { d });
            d.skip(drop.min(dims.len())).collect()
        };
        let (da, db) = (shape_of(&ones_a, drop_a), shape_of(&ones_b, drop_b));
        let ((a, _), (b, _)) = (start(&da), start(&db));
        let rank = da.len().max(db.len());
        let size = |d: &[usize], i: usize| (i + d.len()).checked_sub(rank).map_or(1, |k| d[k]);
        let out: Vec<usize> = (0..rank).map(|i| size(&da, i).max(size(&db, i))).collect();
        let read = |x: &Naive, i: &[usize]| {
            let skip = rank - x.dims.len();
            let at: Vec<usize> = x.dims.iter().zip(&i[skip..]).map(|(&d, &i)| i.min(d - 1)).collect();
            x.at(&at)
        };
        let want = Naive::build(&out, |i| 100 * read(&a, i) - read(&b, i));
        let tensor = |x: &Naive, f: f64| {
            let data: Vec<f64> = x.data.iter().map(|&v| v as f64 * f).collect();
            Tensor::from_slice(&data, &x.dims, &CPU).unwrap()
        };
        let got = tensor(&a, 100.0).sub(&tensor(&b, 1.0)).unwrap();
        prop_assert_eq!(got.dims(), &out[..]);
        let got: Vec<i64> = got.to_vec::<f64>().unwrap().iter().map(|&v| v as i64).collect();
        prop_assert_eq!(got, want.data);
    }
}

#[test]
fn views_share_memory_and_copies_do_not() {
    let x = Tensor::arange::<f32>(0, 12, &CPU).unwrap().reshape([3, 4]).unwrap();
    let row = x.select(0, 1).unwrap();
    assert!(row.shares_memory_with(&x) && x.t().unwrap().shares_memory_with(&x));
    assert!(!x.t().unwrap().contiguous().unwrap().shares_memory_with(&x));
    row.with_data_mut::<f32, _>(|d| d.fill(-1.0)).unwrap();
    assert_eq!(x.select(1, 0).unwrap().to_vec::<f32>().unwrap(), [0.0, -1.0, 8.0]);
}

#[test]
fn numbers_are_rounded_once_on_their_way_to_a_dtype() {
    let large = 1i64 << 53;
    let counted = Tensor::arange::<i64>(large + 1, large + 4, &CPU).unwrap();
    assert_eq!(counted.to_vec::<i64>().unwrap(), [large + 1, large + 2, large + 3]);
    // Just above half way between two f32, which an f64 cannot say.
    let tie = (1i64 << 60) + (1 << 36);
    let single = Tensor::arange::<f32>(tie + 1, tie + 2, &CPU).unwrap().to_vec::<f32>().unwrap();
    assert_eq!(single, [((1i64 << 60) + (1 << 37)) as f32]);
    assert_eq!(Tensor::arange::<u8>(-1, 2, &CPU).unwrap().to_vec::<u8>().unwrap(), [0, 0, 1]);
    let near = 1.0 + 2f64.powi(-8) + 2f64.powi(-22);
    let wide = Tensor::from_slice(&[near], [1], &CPU).unwrap().to_dtype(DType::Bf16).unwrap();
    for half in [wide, Tensor::full([1], near, DType::Bf16, &CPU).unwrap()] {
        assert_eq!(half.to_f64_vec().unwrap(), [1.0078125]);
    }
    let count = Tensor::from_slice(&[(1i64 << 24) + (1 << 16) + 1], [1], &CPU).unwrap();
    assert_eq!(count.to_dtype(DType::Bf16).unwrap().to_f64_vec().unwrap(), [16_908_288.0]);
}

#[test]
fn every_dtype_survives_views_casts_and_joins() {
    for dtype in [DType::F32, DType::F64, DType::Bf16, DType::U8, DType::U32, DType::I64] {
        let x = Tensor::arange::<i64>(0, 6, &CPU).unwrap().to_dtype(dtype).unwrap();
        let y = x.reshape([2, 3]).unwrap().t().unwrap();
        let z = Tensor::cat(&[&y, &y], 1).unwrap().contiguous().unwrap();
        assert_eq!((z.dtype(), z.dims()), (dtype, &[3, 4][..]));
        let picks = Tensor::from_slice(&[2u32, 0], [2], &CPU).unwrap();
        let rows = z.index_select(0, &picks).unwrap().to_f64_vec().unwrap();
        assert_eq!(rows, [2.0, 5.0, 2.0, 5.0, 0.0, 3.0, 0.0, 3.0], "{dtype}");
    }
}
