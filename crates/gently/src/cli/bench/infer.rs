//! `gently bench infer`: reading prompts and writing tokens, against what the machine can do.

use super::median;
use crate::cli::engine::Cache;
use crate::cli::failure::advise;
use crate::cli::output::{bytes, data, say, table};
use anyhow::Result;
use clap::Args as ClapArgs;
use gently::text_model::TextModel;
use gently_infer::{Piece, Plan, PlanOptions, State, Wanted, Work};
use gently_kernels::{cpu, peak, pool};
use gently_models::flops::Cost;
use serde_json::json;
use std::path::PathBuf;
use std::time::Instant;

/// Options of `gently bench infer`.
#[derive(ClapArgs)]
pub struct Args {
    /// A GGUF file, a run folder, a checkpoint, or a Hugging Face model folder
    model: PathBuf,
    /// Tokens of the prompt that is read; 0 leaves this out
    #[arg(long, default_value_t = 512)]
    prefill: usize,
    /// Tokens that are written, one pass each; 0 leaves this out
    #[arg(long, default_value_t = 128)]
    decode: usize,
    /// Tokens that the sequences have read before
    #[arg(long, default_value_t = 0)]
    depth: usize,
    /// Sequences that are written at once
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    batch: u16,
    /// Times each measurement is made; the median counts
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=1000))]
    rounds: u16,
    /// What keys and values are kept as
    #[arg(long, value_enum, default_value_t = Cache::F16)]
    cache: Cache,
}

/// Runs the command.
pub fn run(args: &Args, threads: Option<usize>, as_json: bool) -> Result<()> {
    if args.prefill == 0 && args.decode == 0 {
        let what = "--prefill 0 and --decode 0 leave nothing to measure";
        return Err(advise(what, "leave one of them out, or give it a number of tokens"));
    }
    let begun = Instant::now();
    let plan = TextModel::plan(&args.model, PlanOptions { cache: args.cache.elem() })?;
    let load = begun.elapsed().as_secs_f64();
    fits(args, &plan)?;
    let threads = threads.unwrap_or_else(pool::threads);
    let peaks = Peaks { flops: peak::f32_gflops() * threads as f64, read: peak::read_gbps() };
    say(&format!("{} threads, {}, weights {}", threads, cpu::path().name(), bytes(plan.weight_bytes() as u64)));

    let mut work = Work::new();
    let deep = state_at(&plan, &mut work, args.depth)?;
    let mut report = Vec::new();
    if args.prefill > 0 {
        report.push(prefill(&plan, &mut work, &deep, args, &peaks)?);
    }
    if args.decode > 0 {
        report.push(decode(&plan, &mut work, &deep, args, &peaks)?);
    }
    if as_json {
        let results: Vec<_> = report.iter().map(|r| &r.json).collect();
        let report = json!({
            "model": args.model, "path": cpu::path().name(), "threads": threads, "depth": args.depth,
            "batch": args.batch, "load_seconds": load, "weight_bytes": plan.weight_bytes(),
            "cache_bytes_per_token": plan.cache_bytes_per_token(), "f32_peak_gflops": peaks.flops,
            "read_peak_gbps": peaks.read, "results": results,
        });
        data(&format!("{report}\n"))?;
        return Ok(());
    }
    let head = ["work", "tokens/s", "ms a pass", "read a pass", "GB/s", "of read peak", "GFLOP/s", "of f32 peak"];
    let mut rows = vec![head.map(String::from).to_vec()];
    rows.extend(report.into_iter().map(|r| r.cells));
    data(&table(&rows))?;
    let read = peaks.read.map_or("no memory to measure reads".into(), |read| format!("{read:.1} GB/s read"));
    say(&format!("peaks measured: {read}, {:.0} GFLOP/s in f32; loaded in {load:.2} s", peaks.flops));
    Ok(())
}

/// Refuses sequences that are longer than the model reads.
fn fits(args: &Args, plan: &Plan) -> Result<()> {
    let most = args.prefill.max(args.decode);
    if args.depth.saturating_add(most) <= plan.most() {
        return Ok(());
    }
    let beyond = match plan.room() {
        Some(room) => format!("do not fit into the model's context of {room}"),
        None => format!("are more than {} tokens", plan.most()),
    };
    let name = if args.prefill == most { "--prefill" } else { "--decode" };
    Err(advise(format!("--depth {} and {name} {most} {beyond}", args.depth), "take fewer tokens"))
}

/// What the machine can do at most.
struct Peaks {
    flops: f64,
    /// `None` where there was no memory to measure it.
    read: Option<f64>,
}

/// One line of the table.
struct Line {
    cells: Vec<String>,
    json: serde_json::Value,
}

/// Any tokens will do: the work does not depend on them.
fn some_tokens(plan: &Plan, n: usize, seed: usize) -> Vec<u32> {
    (0..n).map(|i| ((i * 7919 + seed * 104_729 + 1) % plan.config().vocab) as u32).collect()
}

fn state_at(plan: &Plan, work: &mut Work, depth: usize) -> Result<State> {
    let mut state = plan.state();
    plan.prefill(work, &mut state, &some_tokens(plan, depth, 1))?;
    Ok(state)
}

/// The prompt, in passes of at most 512 rows.
fn prefill(plan: &Plan, work: &mut Work, deep: &State, args: &Args, peaks: &Peaks) -> Result<Line> {
    let tokens = some_tokens(plan, args.prefill, 2);
    let mut times = Vec::new();
    // The first round finds cold memory and is not counted.
    for round in 0..args.rounds + 1 {
        let mut state = deep.clone();
        let begun = Instant::now();
        for part in tokens.chunks(512) {
            plan.read(work, &mut state, part)?;
        }
        if round > 0 {
            times.push(begun.elapsed().as_secs_f64());
        }
    }
    let passes = args.prefill.div_ceil(512);
    let cached = (args.depth + args.prefill / 2) * plan.cache_bytes_per_token();
    Ok(line(plan, "prefill", args.prefill, passes, median(times.into_iter()), cached, args, peaks))
}

/// Tokens one by one, of all sequences at once.
fn decode(plan: &Plan, work: &mut Work, deep: &State, args: &Args, peaks: &Peaks) -> Result<Line> {
    let batch = args.batch as usize;
    let mut times = Vec::new();
    for round in 0..args.rounds + 1 {
        let mut states = vec![deep.clone(); batch];
        let mut next: Vec<[u32; 1]> = (0..batch).map(|b| [some_tokens(plan, 1, b)[0]]).collect();
        let steps = if round == 0 { args.decode.min(8) } else { args.decode };
        let begun = Instant::now();
        for _ in 0..steps {
            let mut pieces: Vec<Piece> = states
                .iter_mut()
                .zip(&next)
                .map(|(state, tokens)| Piece { state, tokens, wanted: Wanted::Last })
                .collect();
            let logits = plan.forward(work, &mut pieces, &|| true)?.unwrap_or(&[]);
            for (next, row) in next.iter_mut().zip(logits.chunks_exact(plan.config().vocab)) {
                next[0] = largest(row);
            }
        }
        if round > 0 {
            times.push(begun.elapsed().as_secs_f64());
        }
    }
    let cached = batch * (args.depth + args.decode / 2) * plan.cache_bytes_per_token();
    Ok(line(plan, "decode", args.decode * batch, args.decode, median(times.into_iter()), cached, args, peaks))
}

fn largest(row: &[f32]) -> u32 {
    let best = row.iter().enumerate().fold((0, f32::NEG_INFINITY), |b, (i, v)| if *v > b.1 { (i, *v) } else { b });
    best.0 as u32
}

#[allow(clippy::too_many_arguments)]
fn line(
    plan: &Plan,
    work: &str,
    tokens: usize,
    passes: usize,
    seconds: f64,
    cached: usize,
    args: &Args,
    peaks: &Peaks,
) -> Line {
    let rate = tokens as f64 / seconds;
    let read = (plan.weight_bytes() + cached) as f64;
    let gbps = read * passes as f64 / seconds / 1e9;
    let of_read = peaks.read.map(|peak| gbps / peak);
    let cost = Cost::of(plan.config());
    // The head works for the last token of a prompt only.
    let head = 2 * (plan.config().vocab * plan.config().width) as u64;
    // Prompts are read one at a time: only what is written is of several sequences.
    let sequences = if work == "decode" { args.batch as usize } else { 1 };
    let per_token = cost.forward_flops_per_token(args.depth + tokens / sequences / 2);
    let flops = match work {
        "prefill" => tokens as u64 * (per_token - head) + passes as u64 * head,
        _ => tokens as u64 * per_token,
    };
    let gflops = flops as f64 / seconds / 1e9;
    let batch = args.batch as usize;
    let name = match (args.depth, batch) {
        (0, 1) => format!("{work} {tokens}"),
        (d, 1) => format!("{work} {tokens} at depth {d}"),
        (d, b) if work == "decode" => format!("{work} {} × {b} at depth {d}", tokens / b),
        (d, _) => format!("{work} {tokens} at depth {d}"),
    };
    let cells = vec![
        name.clone(),
        format!("{rate:.1}"),
        format!("{:.2}", 1e3 * seconds / passes as f64),
        bytes(read as u64),
        format!("{gbps:.1}"),
        of_read.map_or("not measured".into(), |share| format!("{:.0} %", 100.0 * share)),
        format!("{gflops:.0}"),
        format!("{:.0} %", 100.0 * gflops / peaks.flops),
    ];
    let json = json!({
        "work": work, "tokens": tokens, "passes": passes, "seconds": seconds, "tokens_per_second": rate,
        "bytes_per_pass": read, "gbps": gbps, "of_read_peak": of_read, "gflops": gflops,
        "of_f32_peak": gflops / peaks.flops,
    });
    Line { cells, json }
}
