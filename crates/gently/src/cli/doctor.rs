//! `gently doctor`: what this machine can do, which path is taken, measured peaks.

use super::output::{bytes, data, table};
use anyhow::Result;
use clap::Args as ClapArgs;
use gently_kernels::gemm::{Compute, Epilogue, Mat, gemm};
use gently_kernels::{cpu, peak, pool};
use gently_train::profile::processor;
use serde_json::json;
use std::fs;
use std::time::Instant;

/// Options of `gently doctor`.
#[derive(ClapArgs)]
#[command(after_help = "Example:\n  gently doctor --json")]
pub struct Args {
    /// Print one JSON object instead of the table
    #[arg(long)]
    json: bool,
    /// Compute threads to measure with (default: all)
    #[arg(long, value_parser = super::train::thread_count)]
    threads: Option<usize>,
}

/// Runs the command.
pub fn run(args: Args) -> Result<()> {
    if let Some(n) = args.threads {
        pool::set_threads(n);
    }
    let threads = pool::threads();
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
    let path = cpu::path();
    let available = cpu::available();
    let best = available.last().copied().unwrap_or(path);
    let f32_peak = peak::f32_gflops() * threads as f64;
    let bf16_peak = peak::bf16_gflops().map(|g| g * threads as f64);
    let f32_gemm = product(Compute::F32);
    let bf16_gemm = product(Compute::Bf16);
    let read = peak::read_gbps();
    let (total, free) = memory();
    let processor = processor();

    let mut notes: Vec<String> = super::train::unknown_path().into_iter().collect();
    if path < best {
        notes.push(format!("the {} path is forced by GENTLY_CPU; this processor can do {}", path.name(), best.name()));
    }
    if path == cpu::Path::Plain {
        notes.push("no AVX2: kernels run as portable code, several times slower than they could".into());
    }
    if bf16_peak.is_none() {
        notes.push(
            "no bf16 instructions: compute = \"bf16\" gives the same results as elsewhere, but is not faster".into(),
        );
    }
    if threads > cores {
        notes.push(format!("{threads} threads share {cores} cores"));
    }
    if cfg!(debug_assertions) {
        notes.push("this is a debug build; measure with a release build".into());
    }

    if args.json {
        let report = json!({
            "version": env!("CARGO_PKG_VERSION"), "processor": processor, "cores": cores, "threads": threads,
            "path": path.name(), "paths": available.iter().map(|p| p.name()).collect::<Vec<_>>(),
            "f32_peak_gflops": f32_peak, "bf16_peak_gflops": bf16_peak,
            "f32_product_gflops": f32_gemm, "bf16_product_gflops": bf16_gemm, "read_gb_per_second": read,
            "memory_bytes": total, "memory_available_bytes": free, "notes": notes,
        });
        data(&format!("{report}\n"))?;
        return Ok(());
    }
    let row = |k: &str, v: String| vec![k.to_string(), v];
    let rate = |g: f64, of: Option<f64>| match of {
        // Portable code is what the compiler makes of it: the loop that measures its peak may be the slower one.
        Some(peak) if g > peak && path == cpu::Path::Plain => format!("{g:.0} GFLOP/s"),
        Some(peak) => format!("{g:.0} GFLOP/s ({:.0} % of peak)", 100.0 * g / peak),
        None => format!("{g:.0} GFLOP/s"),
    };
    let mut rows = vec![
        row("gently", env!("CARGO_PKG_VERSION").into()),
        row("processor", processor.unwrap_or_else(|| std::env::consts::ARCH.into())),
        row("threads", format!("{threads} of {cores} cores")),
        row("path taken", path.name().into()),
        row("paths there are", available.iter().map(|p| p.name()).collect::<Vec<_>>().join(", ")),
        row("f32 peak, measured", rate(f32_peak, None)),
        row("f32 product, 1024 cubed", rate(f32_gemm, Some(f32_peak))),
        row("bf16 peak, measured", bf16_peak.map_or("no instruction".into(), |g| rate(g, None))),
        row("bf16 product, 1024 cubed", rate(bf16_gemm, bf16_peak)),
        row("memory read", read.map_or("not measured: no memory for 256 MiB".into(), |read| format!("{read:.1} GB/s"))),
    ];
    if let (Some(total), Some(free)) = (total, free) {
        rows.push(row("memory", format!("{}, {} free", bytes(total), bytes(free))));
    }
    let mut text = table(&rows);
    for note in &notes {
        text.push_str(&format!("note: {note}\n"));
    }
    data(&text)?;
    Ok(())
}

/// GFLOP/s of a 1024³ product on all threads, the best of several.
fn product(compute: Compute) -> f64 {
    const N: usize = 1024;
    let a = vec![0.5f32; N * N];
    let b = vec![0.25f32; N * N];
    let mut c = vec![0.0f32; N * N];
    let mut best = f64::INFINITY;
    for _ in 0..6 {
        let begun = Instant::now();
        gemm(compute, Mat::f32(&a, N, N), Mat::f32(&b, N, N), &mut c, N, Epilogue::default());
        best = best.min(begun.elapsed().as_secs_f64());
    }
    2.0 * (N * N * N) as f64 / best / 1e9
}

/// Total and available memory in bytes, where the system tells.
fn memory() -> (Option<u64>, Option<u64>) {
    let info = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let field = |name: &str| {
        let line = info.lines().find(|l| l.starts_with(name))?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok()?.checked_mul(1024)
    };
    (field("MemTotal:"), field("MemAvailable:"))
}
