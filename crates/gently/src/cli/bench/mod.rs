//! `gently bench`: how fast this machine runs the kernels and the recipes. One file a measurement; what they share is here.

mod infer;
mod products;
mod scaling;
mod train;

use super::output::say;
use anyhow::Result;
use clap::{Args as ClapArgs, Subcommand, ValueEnum};
use gently_kernels::{cpu, pool};
use gently_models::flops::Cost;
use gently_tensor::{Device, memory};
use gently_train::events::Split;
use gently_train::process_memory;
use gently_train::profile::processor;
use gently_train::recipe::{ComputeKind, Config};
use gently_train::trainer::Probe;
use serde_json::{Value, json};
use std::time::Instant;

/// Options of `gently bench`.
#[derive(ClapArgs)]
#[command(
    after_help = "Examples:\n  gently bench train\n  gently bench train --recipe shakespeare-cpu --compute both --json\n  \
    gently bench scaling --quick --html scaling.html\n  gently bench products --json\n  \
    gently bench infer runs/quickstart --prefill 512 --decode 128"
)]
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
    /// Updates of the recipes: tokens/s, share of the peak, time over the floor, memory
    Train(train::Args),
    /// How time over the floor grows with width, depth, length and vocabulary, as a table and a page with plots
    Scaling(scaling::Args),
    /// Reading prompts and writing tokens: tokens/s, bytes moved, share of what the machine can do
    Infer(infer::Args),
}

/// Runs the command.
pub fn run(args: Args) -> Result<()> {
    if let Some(n) = args.threads {
        pool::set_threads(n);
    }
    if cfg!(debug_assertions) {
        say("warning: this is a debug build; measure with a release build");
    }
    match args.what {
        What::Products => products::run(args.json),
        What::Train(train) => train::run(&train, args.json),
        What::Scaling(scaling) => scaling::run(&scaling, args.json),
        What::Infer(infer) => infer::run(&infer, args.threads, args.json),
    }
}

/// In which arithmetic to measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ComputeChoice {
    /// Products in f32.
    F32,
    /// Products of bf16 numbers, added in f32.
    Bf16,
    /// One after the other.
    Both,
}

impl ComputeChoice {
    fn kinds(self) -> &'static [ComputeKind] {
        match self {
            ComputeChoice::F32 => &[ComputeKind::F32],
            ComputeChoice::Bf16 => &[ComputeKind::Bf16],
            ComputeChoice::Both => &[ComputeKind::F32, ComputeKind::Bf16],
        }
    }
}

/// How long to measure.
#[derive(Debug, Clone, Copy)]
struct Effort {
    /// Updates that warm up.
    warm_up: u64,
    /// Updates that are timed at the least and at the most.
    timed: (u64, u64),
    /// Between the two, no update begins after this many seconds.
    seconds: f64,
}

/// What was measured of one configuration.
struct Measured {
    parameters: u64,
    tokens_per_step: u64,
    /// Of each timed update.
    steps: Vec<Split>,
    peak_flops: f64,
    floor_flops_per_token: f64,
    memory_bytes: u64,
    planned_bytes: u64,
}

impl Measured {
    /// Median seconds of an update.
    fn seconds(&self) -> f64 {
        median(self.steps.iter().map(|s| s.total))
    }

    fn tokens_per_second(&self) -> f64 {
        self.tokens_per_step as f64 / self.seconds()
    }

    /// Median time over the time that the operations take at the measured peak.
    fn over_floor(&self) -> f64 {
        self.seconds() / (self.tokens_per_step as f64 * self.floor_flops_per_token / self.peak_flops)
    }

    fn json(&self, config: &Config) -> Value {
        let part = |f: fn(&Split) -> f64| median(self.steps.iter().map(f));
        json!({
            "compute": config.train.compute.name(), "parameters": self.parameters, "layers": config.model.layers,
            "width": config.model.width, "vocab": config.model.vocab, "window": config.model.window,
            "batch": config.train.batch, "block": config.train.block, "accumulate": config.train.accumulate,
            "steps": self.steps.len(), "tokens_per_second": self.tokens_per_second(),
            "tokens_per_second_all": self.steps.iter().map(|s| self.tokens_per_step as f64 / s.total).collect::<Vec<_>>(),
            "peak_flops": self.peak_flops, "floor_flops_per_token": self.floor_flops_per_token,
            "time_over_floor": self.over_floor(), "share_of_peak": 1.0 / self.over_floor(),
            "peak_memory_bytes": self.memory_bytes, "planned_memory_bytes": self.planned_bytes,
            "seconds": {"total": part(|s| s.total), "forward": part(|s| s.forward), "backward": part(|s| s.backward),
                "optimizer": part(|s| s.optimizer)},
        })
    }
}

/// Makes updates of `config` on random tokens and times them.
fn measure(config: &Config, effort: Effort) -> gently_train::Result<Measured> {
    // What the configuration before left in the pool is not this one's.
    memory::reset(Device::Cpu);
    let mut probe = Probe::new(config)?;
    for _ in 0..effort.warm_up {
        probe.update()?;
    }
    let (least, most) = effort.timed;
    let begun = Instant::now();
    let mut steps = Vec::new();
    while (steps.len() as u64) < least
        || ((steps.len() as u64) < most && begun.elapsed().as_secs_f64() < effort.seconds)
    {
        steps.push(probe.update()?);
    }
    let train = &config.train;
    Ok(Measured {
        parameters: probe.model().num_params() as u64,
        tokens_per_step: (train.batch * train.block * train.accumulate) as u64,
        steps,
        peak_flops: probe.machine().peak_flops,
        floor_flops_per_token: Cost::of(&config.model).training_flops_per_token(train.block),
        memory_bytes: process_memory::peak_resident().unwrap_or(probe.planned_bytes()),
        planned_bytes: probe.planned_bytes(),
    })
}

/// The machine and the version, for the head of a report.
fn machine() -> Value {
    json!({"version": env!("CARGO_PKG_VERSION"), "processor": processor(), "path": cpu::path().name(),
        "threads": pool::threads()})
}

/// The same in a line.
fn machine_line() -> String {
    format!(
        "gently {}, {}, {}, {} threads",
        env!("CARGO_PKG_VERSION"),
        processor().unwrap_or_else(|| std::env::consts::ARCH.into()),
        cpu::path().name(),
        pool::threads()
    )
}

/// The middle of the values, or the mean of the two in the middle; NaN of none.
fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut all: Vec<f64> = values.collect();
    all.sort_by(f64::total_cmp);
    match all.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => all[n / 2],
        n => (all[n / 2 - 1] + all[n / 2]) / 2.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_number_lies_between_two() {
        for (values, want) in [(&[3.0, 1.0, 2.0][..], 2.0), (&[4.0, 1.0, 2.0, 8.0], 3.0), (&[5.0], 5.0)] {
            assert_eq!(median(values.iter().copied()), want);
        }
        assert!(median(std::iter::empty()).is_nan());
    }
}
