//! Times of the kernels that are limited by memory, and of the fused loss: the least of many runs.
//!
//! ```text
//! cargo run --release -p gently-kernels --example ops_bench [threads [part of a name]]
//! ```
//!
//! `ops_bench_torch.py` beside this file prints the same lines for PyTorch.

use gently_kernels::activation::{self, Activation};
use gently_kernels::buffer::AlignedBuf;
use gently_kernels::dropout::Dropout;
use gently_kernels::elementwise::{Binary, View, binary};
use gently_kernels::gemm::Compute;
use gently_kernels::loss::{LinearCrossEntropy, LinearGrads, linear_cross_entropy};
use gently_kernels::norm::{self, Grads, Kind, Norm};
use gently_kernels::optim::{AdamW, Lion, Muon};
use gently_kernels::{cast, cpu, embedding, philox, pool, reduce, softmax};
use std::time::Instant;

/// Prints the least time over about a second of runs, and the rate for `bytes` moved.
fn time(name: &str, bytes: usize, mut f: impl FnMut()) {
    if std::env::args().nth(2).is_some_and(|part| !name.contains(&part)) {
        return;
    }
    f();
    let (since, mut least, mut runs) = (Instant::now(), f64::INFINITY, 0);
    while runs < 3 || (since.elapsed().as_secs_f64() < 1.0 && runs < 2000) {
        let start = Instant::now();
        f();
        least = least.min(start.elapsed().as_secs_f64());
        runs += 1;
    }
    println!("{name:<44} {:>9.3} ms {:>7.1} GB/s", least * 1e3, bytes as f64 / least * 1e-9);
}

fn zeros(n: usize) -> AlignedBuf<f32> {
    AlignedBuf::zeroed(n)
}

fn random(n: usize) -> AlignedBuf<f32> {
    let mut x = zeros(n);
    philox::fill_normal([n as u32, 1], 0, &mut x);
    x
}

fn main() {
    let threads = std::env::args().nth(1).and_then(|t| t.parse().ok()).unwrap_or(0);
    pool::set_threads(threads);
    println!("path {}, {} threads", cpu::path().name(), pool::threads());

    let (n, c) = (4096, 384);
    let (x, dy, w, b) = (random(n * c), random(n * c), random(c), random(c));
    let mut y = zeros(n * c);
    let (mut mean, mut rstd) = (zeros(n), zeros(n));
    let layer = Norm { kind: Kind::Layer, width: c, weight: Some(&w), bias: Some(&b), eps: 1e-5 };
    let size = 4 * n * c;
    time("layer norm forward 4096x384", 2 * size, || {
        norm::forward(&layer, &x, None, &mut y, &mut mean, &mut rstd);
    });
    let (mut dx, mut dw, mut db) = (zeros(n * c), zeros(c), zeros(c));
    time("layer norm backward 4096x384", 3 * size, || {
        let grads = Grads {
            dx: &mut dx,
            accumulate_dx: false,
            dweight: Some(&mut dw),
            dbias: Some(&mut db),
            accumulate_params: false,
        };
        norm::backward(&layer, &x, &mean, &rstd, &dy, grads);
    });
    time("softmax forward 4096x384", 2 * size, || softmax::forward(&x, c, &mut y));
    let (h, dh, mut out) = (random(4 * n * c), random(4 * n * c), random(4 * n * c));
    time("gelu (tanh) forward 4096x1536", 8 * size, || activation::forward(Activation::GeluTanh, &h, &mut out));
    time("gelu (tanh) backward 4096x1536", 12 * size, || {
        activation::backward(Activation::GeluTanh, &h, &dh, &mut out);
    });
    time("gelu (erf) backward 4096x1536", 12 * size, || {
        activation::backward(Activation::GeluErf, &h, &dh, &mut out);
    });
    time("add 4096x1536", 12 * size, || {
        let (a, b) = (View::new(&h, &[1]), View::new(&dh, &[1]));
        binary(Binary::Add, &[4 * n * c], a, b, &mut out);
    });
    let mut sums = zeros(4 * c);
    time("column sums 4096x1536", 4 * size, || reduce::column_sum(&h, false, &mut sums));
    let drop = Dropout { p: 0.2, key: [1, 2], offset: 0 };
    time("dropout 4096x1536", 8 * size, || drop.apply(&h, None, &mut out));
    let mut half = AlignedBuf::<half::bf16>::zeroed(h.len());
    time("f32 to bf16 4096x1536", 6 * size, || cast::cast(&h, &mut half));
    let ids: Vec<u32> = (0..n as u64).map(|i| philox::word([1, 1], i) % 50_304).collect();
    let mut table = random(50_304 * c);
    time("embedding gather 4096 of 50304x384", 2 * size, || {
        embedding::gather(&table, c, &ids, None, &mut y).expect("ids are in range");
    });
    time("embedding scatter-add 4096 of 50304x384", 3 * size, || {
        embedding::scatter_add(&mut table, c, &ids, &dy).expect("ids are in range");
    });
    let ids: Vec<u32> = ids.iter().map(|i| i % 65).collect();
    time("embedding scatter-add 4096 of 65x384", size, || {
        embedding::scatter_add(&mut table[..65 * c], c, &ids, &dy).expect("ids are in range");
    });
    drop_all([x, dy, y, dx, h, dh, out, table]);

    let n = 10_000_000;
    let (mut w, g, mut m, mut v) = (random(n), random(n), zeros(n), zeros(n));
    let adamw = AdamW { weight_decay: 0.1, ..AdamW::default() };
    time("AdamW, 10 M parameters", 28 * n, || adamw.step(3, &mut w, &g, &mut m[..], &mut v[..]));
    let mut half = [(); 2].map(|()| AlignedBuf::<half::bf16>::zeroed(n));
    let [hm, hv] = &mut half;
    time("AdamW, 10 M parameters, moments in bf16", 20 * n, || adamw.step(3, &mut w, &g, &mut hm[..], &mut hv[..]));
    time("Lion, 10 M parameters", 20 * n, || Lion::default().step(&mut w, &g, &mut m[..]));
    time("sum of squares, 10 M", 4 * n, || assert!(reduce::sum_of_squares(&g) > 0.0));
    time("first non-finite, 10 M", 4 * n, || assert!(reduce::first_non_finite(&g).is_none()));
    drop_all([w, g, m, v]);
    for compute in [Compute::F32, Compute::Bf16] {
        let (rows, cols) = (768, 3072);
        let (mut w, g, mut m) = (random(rows * cols), random(rows * cols), zeros(rows * cols));
        let muon = Muon { compute, ..Muon::default() };
        time(&format!("Muon 768x3072 {compute:?}"), 0, || {
            muon.step(rows, cols, &mut w, &g, &mut m[..]).expect("memory for the scratch");
        });
    }

    for (n, c, v) in [(4096, 384, 65), (1024, 768, 50_304)] {
        let (x, mut w) = (random(n * c), random(v * c));
        w.iter_mut().for_each(|w| *w *= 0.02);
        let targets: Vec<u32> = (0..n as u64).map(|i| philox::word([2, 1], i) % v as u32).collect();
        let (mut dx, mut dw) = (zeros(n * c), zeros(v * c));
        for compute in [Compute::F32, Compute::Bf16] {
            let args = LinearCrossEntropy {
                x: &x[..],
                w: &w[..],
                width: c,
                targets: &targets,
                softcap: None,
                scale: 1.0 / n as f32,
                compute,
            };
            time(&format!("linear cross entropy {n}x{c}x{v} {compute:?}"), 0, || {
                let grads = LinearGrads { dx: &mut dx, dw: &mut dw };
                linear_cross_entropy(&args, None, Some(grads)).expect("targets are in range");
            });
        }
    }
}

fn drop_all<const N: usize>(_: [AlignedBuf<f32>; N]) {}
