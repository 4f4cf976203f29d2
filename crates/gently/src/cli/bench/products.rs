//! `gently bench products`: matrix products of the sizes that training makes.

use crate::cli::output::{data, say, table};
use anyhow::Result;
use gently_kernels::gemm::{Compute, Epilogue, Mat, gemm};
use gently_kernels::{cpu, peak, pool};
use serde_json::json;
use std::time::Instant;

/// Rows, columns and inner size of products: forward and backward of the recipes' layers.
const SHAPES: &[(&str, usize, usize, usize)] = &[
    ("shakespeare-cpu qkv", 768, 384, 128),
    ("shakespeare-cpu out", 768, 128, 128),
    ("shakespeare-cpu up", 768, 512, 128),
    ("shakespeare-cpu head", 768, 65, 128),
    ("shakespeare-cpu up, weights", 512, 128, 768),
    ("shakespeare-baby qkv", 4096, 1152, 384),
    ("shakespeare-baby up", 4096, 1536, 384),
    ("shakespeare-baby down", 4096, 384, 1536),
    ("shakespeare-baby up, weights", 1536, 384, 4096),
    ("gpt2-124m up", 1024, 3072, 768),
    ("gpt2-124m down", 1024, 768, 3072),
    ("gpt2-124m up, weights", 3072, 768, 1024),
];

/// Runs `gently bench products`.
pub fn run(as_json: bool) -> Result<()> {
    let threads = pool::threads() as f64;
    let peak32 = peak::f32_gflops() * threads;
    let peak16 = peak::bf16_gflops().map_or(peak32, |g| g * threads);
    let mut rows = vec![["product", "M", "N", "K", "f32", "of peak", "bf16", "of peak"].map(String::from).to_vec()];
    let mut report = Vec::new();
    for &(name, m, n, k) in SHAPES {
        let f32_rate = product(Compute::F32, m, n, k);
        let bf16_rate = product(Compute::Bf16, m, n, k);
        let share = |rate: f64, peak: f64| format!("{:.0} %", 100.0 * rate / peak);
        rows.push(vec![
            name.into(),
            m.to_string(),
            n.to_string(),
            k.to_string(),
            format!("{f32_rate:.0}"),
            share(f32_rate, peak32),
            format!("{bf16_rate:.0}"),
            share(bf16_rate, peak16),
        ]);
        report.push(json!({"product": name, "m": m, "n": n, "k": k, "f32_gflops": f32_rate, "bf16_gflops": bf16_rate}));
    }
    if as_json {
        let report = json!({"path": cpu::path().name(), "threads": pool::threads(), "f32_peak_gflops": peak32,
            "bf16_peak_gflops": peak16, "products": report});
        data(&format!("{report}\n"))?;
    } else {
        data(&table(&rows))?;
        say(&format!("GFLOP/s, best of several; peak {peak32:.0} in f32, {peak16:.0} in bf16 ({} threads)", threads));
    }
    Ok(())
}

/// GFLOP/s of one product, the best of several.
fn product(compute: Compute, m: usize, n: usize, k: usize) -> f64 {
    let a: Vec<f32> = (0..m * k).map(|i| (i % 17) as f32 * 0.1 - 0.8).collect();
    let b: Vec<f32> = (0..k * n).map(|i| (i % 13) as f32 * 0.1 - 0.6).collect();
    let mut c = vec![0.0f32; m * n];
    let mut best = f64::INFINITY;
    let begun = Instant::now();
    let mut runs = 0;
    while runs < 5 || (begun.elapsed().as_secs_f64() < 0.2 && runs < 1000) {
        let one = Instant::now();
        gemm(compute, Mat::f32(&a, m, k), Mat::f32(&b, k, n), &mut c, n, Epilogue::default());
        best = best.min(one.elapsed().as_secs_f64());
        runs += 1;
    }
    2.0 * (m * n * k) as f64 / best / 1e9
}
