//! Quantized products on the shapes of SmolLM2-135M: GB/s of weights read and Gop/s, beside what this machine can do.
//! Each figure is the best of many runs, so that other work on the machine disturbs little. To time memory rather
//! than caches, a run goes through copies of the matrix that together fill 96 MiB.
//!
//! `cargo run --release -p gently-kernels --example quant_bench -- [types,…] [rows,…] [threads,…] [NxK]`
//!
//! With `NxK` one matrix of that shape is timed, in caches: what the inner loops reach.

use gently_kernels::quant::{BlockType, Epilogue, PackArena, PackedRows, product, quantize};
use gently_kernels::{cpu, peak, pool};
use std::time::{Duration, Instant};

/// (N, K, gated) of the merged projections: q·k·v, output, gate and up, down, and the head.
const SHAPES: [Shape; 5] = [
    ("qkv", 960, 576, false),
    ("out", 576, 576, false),
    ("gate+up", 1536, 576, true),
    ("down", 576, 1536, false),
    ("head", 49152, 576, false),
];

fn best(limit: Duration, mut f: impl FnMut()) -> f64 {
    let start = Instant::now();
    let mut best = f64::INFINITY;
    let mut runs = 0;
    while start.elapsed() < limit || runs < 3 {
        let t = Instant::now();
        f();
        best = best.min(t.elapsed().as_secs_f64());
        runs += 1;
    }
    best
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let list = |i: usize, default: &str| -> Vec<String> {
        args.get(i).map_or(default, String::as_str).split(',').map(String::from).collect()
    };
    let numbers = |i, default| list(i, default).iter().filter_map(|s| s.parse::<usize>().ok()).collect::<Vec<_>>();
    let own = args.get(3).and_then(|s| s.split_once('x')).map(|(n, k)| {
        let size = |s: &str| s.parse().expect("a shape is NxK");
        ("matrix", size(n), size(k), false)
    });
    println!("path {}, vnni {}", cpu::path().name(), cpu::has_vnni());
    for threads in numbers(2, "1,2") {
        pool::set_threads(threads);
        let (read, ints) = (peak::read_gbps().expect("256 MiB"), peak::int8_gops() * threads as f64);
        let floats = peak::f32_gflops() * threads as f64;
        println!("{threads} threads: reads {read:.1} GB/s, {ints:.0} Gop/s int8, {floats:.0} GFLOP/s f32");
        for ty in list(0, "Q4_0,Q4_1,Q8_0,F16").iter().filter_map(|s| BlockType::from_name(s)) {
            for m in numbers(1, "1,2,4,8,16,64,512") {
                bench(ty, m, own, read, if ty.is_float() { floats } else { ints });
            }
        }
    }
}

type Shape = (&'static str, usize, usize, bool);

fn bench(ty: BlockType, m: usize, own: Option<Shape>, read: f64, peak: f64) {
    let (mut total, mut bytes, mut ops) = (0.0, 0.0, 0.0);
    let shapes = own.as_slice();
    for &(name, n, k, gated) in if shapes.is_empty() { &SHAPES[..] } else { shapes } {
        if k % ty.block_len() != 0 {
            println!("{ty:5} {m:4} rows: {k} columns are no whole number of blocks");
            return;
        }
        let w: Vec<f32> = (0..n * k).map(|i| (i * 7919 % 1000) as f32 * 1e-3 - 0.5).collect();
        let mut raw = vec![0; ty.row_bytes(n * k).unwrap_or(0)];
        quantize(ty, &w, &mut raw).expect("finite numbers");
        let mut arena = PackArena::new();
        let mut pack = || match gated {
            true => arena.pack_gated(ty, &raw, &raw, n, k).expect("sizes agree"),
            false => arena.pack(ty, &[&raw], n, k).expect("sizes agree"),
        };
        let start = Instant::now();
        let one = pack();
        let packing = start.elapsed().as_secs_f64();
        // Many rows compute for longer than memory takes; one copy will do.
        let copies = if m > 16 || own.is_some() { 1 } else { (96 << 20) / one.bytes() + 1 };
        let mut ws = vec![one];
        ws.extend((1..copies).map(|_| pack()));
        let x: Vec<f32> = (0..m * k).map(|i| (i * 104729 % 1000) as f32 * 1e-3 - 0.5).collect();
        let mut rows = PackedRows::new(ws[0].row_kind(), m, k);
        // The head is asked for the last rows alone.
        let head = name == "head";
        let used = if head { m.min(8) } else { m };
        let mut y = vec![0.0; used * n];
        let t = best(Duration::from_millis(if m > 16 { 60 } else { 120 }), || {
            for w in &ws {
                if own.is_none() || rows.rows() != used {
                    rows.fill(used, &x, k);
                }
                product(w, &rows, &mut y, n, &Epilogue::default());
            }
        }) / copies as f64;
        let op = 2.0 * (used * n * k) as f64 * if gated { 2.0 } else { 1.0 };
        let byte = ws[0].bytes() as f64;
        if std::env::var_os("SHAPES").is_some() {
            let packing = byte / packing / 1e9;
            let (gbps, gops) = (byte / t / 1e9, op / t / 1e9);
            println!("    {name:8} {:9.1} us {gbps:6.1} GB/s {gops:7.1} Gop/s, packed at {packing:4.1} GB/s", t * 1e6);
        }
        let layers = if head || own.is_some() { 1.0 } else { 30.0 };
        total += t * layers;
        bytes += byte * layers;
        ops += op * layers;
    }
    let (gbps, gops) = (bytes / total / 1e9, ops / total / 1e9);
    println!(
        "{ty:5} {m:4} rows: {:8.3} ms, {:7.0} tokens/s, {gbps:5.1} GB/s ({:3.0} %), {gops:6.1} Gop/s ({:3.0} %)",
        total * 1e3,
        m as f64 / total,
        100.0 * gbps / read,
        100.0 * gops / peak,
    );
}
