//! `gently bench products`: matrix products of the sizes that training makes.

use crate::cli::output::{data, say, table};
use anyhow::Result;
use gently_kernels::gemm::{Compute, Epilogue, Mat, gemm};
use gently_kernels::{cpu, peak, pool};
use serde_json::json;
use std::time::Instant;

/// What a product is of a layer with weights W.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Of {
    /// x·Wᵀ: M tokens.
    Values,
    /// dyᵀ·x, the gradient of the weights: the sum over K tokens.
    Weights,
}

/// Products of the recipes' layers with rows M, columns N and inner size K; the tokens are those of a micro-batch.
const SHAPES: &[(&str, Of, usize, usize, usize)] = &[
    ("shakespeare-cpu qkv", Of::Values, 768, 384, 128),
    ("shakespeare-cpu out", Of::Values, 768, 128, 128),
    ("shakespeare-cpu up", Of::Values, 768, 512, 128),
    ("shakespeare-cpu head", Of::Values, 768, 65, 128),
    ("shakespeare-cpu up, weights", Of::Weights, 512, 128, 768),
    ("shakespeare-baby qkv", Of::Values, 2048, 1152, 384),
    ("shakespeare-baby up", Of::Values, 2048, 1536, 384),
    ("shakespeare-baby down", Of::Values, 2048, 384, 1536),
    ("shakespeare-baby up, weights", Of::Weights, 1536, 384, 2048),
    ("gpt2-124m up", Of::Values, 2048, 3072, 768),
    ("gpt2-124m down", Of::Values, 2048, 768, 3072),
    ("gpt2-124m up, weights", Of::Weights, 3072, 768, 2048),
];

/// Runs `gently bench products`.
pub fn run(as_json: bool) -> Result<()> {
    let threads = pool::threads() as f64;
    let peak32 = peak::f32_gflops() * threads;
    let peak16 = peak::bf16_gflops().map_or(peak32, |g| g * threads);
    let mut rows = vec![["product", "M", "N", "K", "f32", "of peak", "bf16", "of peak"].map(String::from).to_vec()];
    let mut report = Vec::new();
    for &(name, of, m, n, k) in SHAPES {
        let f32_rate = product(Compute::F32, of, m, n, k);
        let bf16_rate = product(Compute::Bf16, of, m, n, k);
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
fn product(compute: Compute, of: Of, m: usize, n: usize, k: usize) -> f64 {
    let a: Vec<f32> = (0..m * k).map(|i| (i % 17) as f32 * 0.1 - 0.8).collect();
    let b: Vec<f32> = (0..k * n).map(|i| (i % 13) as f32 * 0.1 - 0.6).collect();
    let mut c = vec![0.0f32; m * n];
    let (left, right) = operands(of, &a, &b, m, n, k);
    let mut best = f64::INFINITY;
    let begun = Instant::now();
    let mut runs = 0;
    while runs < 5 || (begun.elapsed().as_secs_f64() < 0.2 && runs < 1000) {
        let one = Instant::now();
        gemm(compute, left, right, &mut c, n, Epilogue::default());
        best = best.min(one.elapsed().as_secs_f64());
        runs += 1;
    }
    2.0 * (m * n * k) as f64 / best / 1e9
}

/// The factors M × K and K × N as they lie in training: weights, and what gradients of weights are summed over, row by row.
fn operands<'a>(of: Of, a: &'a [f32], b: &'a [f32], m: usize, n: usize, k: usize) -> (Mat<'a>, Mat<'a>) {
    match of {
        Of::Values => (Mat::f32(a, m, k), Mat::f32(b, n, k).t()),
        Of::Weights => (Mat::f32(a, k, m).t(), Mat::f32(b, k, n)),
    }
}

#[cfg(test)]
mod tests {
    use super::super::train::resolved;
    use super::*;

    #[test]
    fn products_are_of_the_sizes_that_training_makes() {
        for &(name, of, m, n, k) in SHAPES {
            let config = resolved(name.split(' ').next().unwrap(), "f32", &[]).unwrap().config;
            let tokens = config.train.rows().min(config.train.batch) * config.train.block;
            assert_eq!(if of == Of::Values { m } else { k }, tokens, "{name}");
            let (a, b) = (vec![0.0; m * k], vec![0.0; k * n]);
            let (left, right) = operands(of, &a, &b, m, n, k);
            assert_eq!([left.rows, left.cols, right.rows, right.cols], [m, k, k, n], "{name}");
            // Numbers of one token, or of one row of weights, lie beside each other.
            let beside = match of {
                Of::Values => (left.col_stride, right.row_stride),
                Of::Weights => (left.row_stride, right.col_stride),
            };
            assert_eq!(beside, (1, 1), "{name}");
        }
    }
}
