//! `gently bench`: how fast this machine runs the kernels and the recipes.

use super::doctor::processor;
use super::output::{bytes, data, say, table};
use anyhow::Result;
use clap::{Args as ClapArgs, Subcommand};
use gently::recipes;
use gently_kernels::gemm::{Compute, Epilogue, Mat, gemm};
use gently_kernels::{cpu, peak, pool};
use gently_models::flops::Cost;
use gently_train::Trainer;
use gently_train::events::{Event, Observer, Step};
use gently_train::recipe::Source;
use serde_json::json;
use std::sync::mpsc::{Sender, channel};
use std::time::Instant;

/// Options of `gently bench`.
#[derive(ClapArgs)]
#[command(after_help = "Examples:\n  gently bench train --recipe shakespeare-cpu\n  gently bench products --json")]
pub struct Args {
    #[command(subcommand)]
    what: What,
    /// Compute threads (default: all)
    #[arg(long, global = true, value_parser = super::train::thread_count)]
    threads: Option<usize>,
    /// Print JSON instead of a table
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Subcommand)]
enum What {
    /// Matrix products of the sizes that training makes, against the measured peak
    Products,
    /// Training steps of the recipes: tokens/s, share of the peak, time over the floor, memory
    Train(TrainArgs),
}

#[derive(ClapArgs)]
struct TrainArgs {
    /// Recipes to run; may be repeated (default: shakespeare-cpu)
    #[arg(long, value_name = "NAME")]
    recipe: Vec<String>,
    /// Steps to time, after three that warm up
    #[arg(long, default_value_t = 20)]
    steps: u64,
    /// Change one value of the recipes, such as --set train.compute=bf16
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
}

/// Runs the command.
pub fn run(args: Args) -> Result<()> {
    if let Some(n) = args.threads {
        pool::set_threads(n);
    }
    match args.what {
        What::Products => products(args.json),
        What::Train(train) => training(&train, args.json),
    }
}

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

fn products(as_json: bool) -> Result<()> {
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

/// Collects the steps of a run.
struct Collect(Sender<Collected>);

enum Collected {
    Started { parameters: u64, peak: f64, planned: u64 },
    Step(Step),
}

impl Observer for Collect {
    fn on(&mut self, event: &Event) -> gently_train::Result<()> {
        // The receiver lives until the run is over.
        let _ = match event {
            Event::RunStarted(run) => self.0.send(Collected::Started {
                parameters: run.model.parameters,
                peak: run.machine.peak_flops,
                planned: run.plan.total(),
            }),
            Event::Step(step) => self.0.send(Collected::Step(step.clone())),
            _ => Ok(()),
        };
        Ok(())
    }
}

const WARM_UP: u64 = 3;

fn training(args: &TrainArgs, as_json: bool) -> Result<()> {
    let names = if args.recipe.is_empty() { vec!["shakespeare-cpu".into()] } else { args.recipe.clone() };
    let head = ["recipe", "compute", "parameters", "tokens/s", "of peak", "time/floor", "memory"];
    let mut rows = vec![head.map(String::from).to_vec()];
    let mut report = Vec::new();
    for name in names {
        let mut recipe = recipes::find(&name)?;
        // Any text will do: the work of a step depends on the vocabulary and the sizes alone.
        recipe.assign("data.path", vec!["kjv"], Source::Set)?;
        for (key, value) in [("eval.every", 0), ("sample.every", 0), ("checkpoint.every", 0)] {
            recipe.assign(key, value, Source::Set)?;
        }
        recipe.assign("eval.batches", 1, Source::Set)?;
        recipe.assign("eval.at_start", false, Source::Set)?;
        recipe.assign("train.steps", args.steps + WARM_UP, Source::Set)?;
        for assignment in &args.set {
            recipe.set(assignment)?;
        }
        let config = recipe.resolve()?.config;
        let folder = std::env::temp_dir().join(format!("gently-bench-{}-{name}", std::process::id()));
        let (sender, events) = channel();
        let finished = Trainer::new(recipe, &folder).observe(Collect(sender)).run();
        // The run folder is ours alone; a leftover does no harm.
        let _ = std::fs::remove_dir_all(&folder);
        let finished = finished?;

        let (mut parameters, mut peak_flops, mut planned) = (0, 0.0, 0);
        let mut steps = Vec::new();
        for event in events.try_iter() {
            match event {
                Collected::Started { parameters: n, peak, planned: p } => {
                    (parameters, peak_flops, planned) = (n, peak, p)
                }
                Collected::Step(step) if step.step > WARM_UP => steps.push(step),
                Collected::Step(_) => {}
            }
        }
        let rate = median(steps.iter().map(|s| s.tokens_per_second));
        let floor_rate = peak_flops / floor_flops(&config);
        let compute = format!("{:?}", config.train.compute).to_lowercase();
        let memory = finished.measured_bytes.unwrap_or(planned);
        rows.push(vec![
            name.clone(),
            compute.clone(),
            format!("{:.1} M", parameters as f64 / 1e6),
            format!("{rate:.0}"),
            format!("{:.0} %", 100.0 * rate / floor_rate),
            format!("{:.2}", floor_rate / rate),
            bytes(memory),
        ]);
        report.push(json!({
            "recipe": name, "compute": compute, "parameters": parameters, "batch": config.train.batch,
            "block": config.train.block, "accumulate": config.train.accumulate, "steps": steps.len(),
            "tokens_per_second": rate,
            "tokens_per_second_all": steps.iter().map(|s| s.tokens_per_second).collect::<Vec<_>>(),
            "peak_flops": peak_flops, "time_over_floor": floor_rate / rate,
            "peak_memory_bytes": memory, "planned_memory_bytes": planned,
            "seconds": split(&steps),
        }));
    }
    if as_json {
        let report = json!({"version": env!("CARGO_PKG_VERSION"), "processor": processor(), "path": cpu::path().name(),
            "threads": pool::threads(), "runs": report});
        data(&format!("{report}\n"))?;
    } else {
        data(&table(&rows))?;
        say("The floor: 6 operations for each weight in a product, attention's visible half, at the measured peak.");
    }
    Ok(())
}

/// Operations that a token cannot do without: `6·N` and, of attention's square, the part that the causal mask leaves.
fn floor_flops(config: &gently_train::recipe::Config) -> f64 {
    let cost = Cost::of(&config.model);
    let t = config.train.block;
    let products = 6.0 * cost.matmul_parameters as f64;
    let square = cost.training_flops_per_token(t) as f64 - products;
    let visible = config.model.window.map_or(t, |w| w.min(t)) as f64;
    // With a window W of T tokens a token sees W − W·(W−1)/(2T) others on average; without, (T+1)/2.
    let share = (visible - visible * (visible - 1.0) / (2.0 * t as f64)) / visible;
    products + square * share
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut all: Vec<f64> = values.collect();
    all.sort_by(f64::total_cmp);
    match all.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => all[n / 2],
        n => (all[n / 2 - 1] + all[n / 2]) / 2.0,
    }
}

/// Median seconds of a step by part.
fn split(steps: &[Step]) -> serde_json::Value {
    let part = |f: fn(&Step) -> f64| median(steps.iter().map(f));
    json!({
        "total": part(|s| s.seconds.total), "data": part(|s| s.seconds.data), "forward": part(|s| s.seconds.forward),
        "backward": part(|s| s.seconds.backward), "optimizer": part(|s| s.seconds.optimizer),
    })
}
