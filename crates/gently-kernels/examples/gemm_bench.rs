//! GFLOP/s of the matrix product on the shapes of the training recipes, beside the multiply-add peak of
//! this machine. Each figure is the best of many runs, so that other work on the machine disturbs little.
//! `gemm_bench_torch.py` beside this file prints the same lines of linear layers for PyTorch.
//!
//! `cargo run --release -p gently-kernels --example gemm_bench -- [f32|bf16] [threads] [filter]`

use gently_kernels::gemm::{Compute, Epilogue, Mat, gemm};
use gently_kernels::{cpu, peak, pool};
use std::time::{Duration, Instant};

fn best(limit: Duration, mut f: impl FnMut()) -> f64 {
    let start = Instant::now();
    let mut best = f64::INFINITY;
    let mut runs = 0;
    while start.elapsed() < limit || runs < 5 {
        let t = Instant::now();
        f();
        best = best.min(t.elapsed().as_secs_f64());
        runs += 1;
    }
    best
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let compute = match args.first().map(String::as_str) {
        Some("bf16") => Compute::Bf16,
        _ => Compute::F32,
    };
    pool::set_threads(args.get(1).and_then(|s| s.parse().ok()).unwrap_or(0));
    let filter = args.get(2).cloned().unwrap_or_default();
    println!("path {}, {} threads, {compute:?}", cpu::path().name(), pool::threads());
    println!("peak of one core: {:.1} GFLOP/s f32, {:.1?} bf16", peak::f32_gflops(), peak::bf16_gflops());
    println!("read bandwidth: {:.1} GB/s", peak::read_gbps().expect("256 MiB"));
    // (tokens, out, in) of a linear layer; each gives the products of forward, input and weight gradient.
    let layers = [
        (768, 384, 128),
        (768, 128, 128),
        (768, 512, 128),
        (768, 128, 512),
        (768, 65, 128),
        (4096, 1152, 384),
        (4096, 384, 384),
        (4096, 1536, 384),
        (4096, 384, 1536),
        (1024, 2304, 768),
        (1024, 3072, 768),
        (1024, 768, 3072),
    ];
    let mut shapes = Vec::new();
    for (m, n, k) in layers {
        shapes.extend([("fwd", m, n, k), ("dX", m, k, n), ("dW", n, k, m)]);
    }
    shapes.extend([
        ("fwd", 1024, 8192, 768),
        ("fwd", 1, 3072, 768),
        ("fwd", 8, 3072, 768),
        ("fwd", 64, 768, 768),
        ("fwd", 2048, 2048, 2048),
    ]);
    for (kind, m, n, k) in shapes {
        if !format!("{kind} {m} {n} {k}").contains(&filter) {
            continue;
        }
        let fill = |len: usize| -> Vec<f32> { (0..len).map(|i| (i * 7919 % 1000) as f32 * 1e-3 - 0.5).collect() };
        let (a, b) = (fill(m * k), fill(k * n));
        let mut c = vec![0.0; m * n];
        let (am, bm) = match kind {
            "fwd" => (Mat::f32(&a, m, k), Mat::f32(&b, n, k).t()),
            "dX" => (Mat::f32(&a, m, k), Mat::f32(&b, k, n)),
            _ => (Mat::f32(&a, k, m).t(), Mat::f32(&b, k, n)),
        };
        let t = best(Duration::from_millis(600), || {
            gemm(compute, am, bm, &mut c, n, Epilogue::default());
        });
        let rate = 2.0 * (m * n * k) as f64 / t / 1e9;
        println!("{kind:4}{m:6}{n:6}{k:6} {:10.1} us {rate:8.1} GFLOP/s", t * 1e6);
    }
}
