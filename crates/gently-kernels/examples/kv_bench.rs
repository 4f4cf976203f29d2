//! Times attention of new tokens over a cached sequence: pages as keys and values of many layers, one layer after another.
//!
//! `cargo run --release -p gently-kernels --example kv_bench [-- THREADS [DEPTH [ROWS]]]`
//!
//! Prints the median of a pass over all layers, in microseconds, the bytes of the cache a second and the multiply-adds
//! a second.

use std::sync::Arc;
use std::time::Instant;

use gently_kernels::kv::{Attend, Elem, PAGE, Page, PageShape, Rows, Span, Spec};
use gently_kernels::{cpu, philox, pool};

fn main() {
    let mut args = std::env::args().skip(1);
    let mut next = |or| args.next().and_then(|a| a.parse().ok()).unwrap_or(or);
    let (threads, depth, rows) = (next(2), next(2048), next(1));
    pool::set_threads(threads);
    println!("path {}, {threads} threads, depth {depth}, {rows} rows", cpu::path().name());
    // SmolLM2-135M, Llama-3.2-1B.
    for (layers, heads, kv_heads, d) in [(30, 9, 3, 64), (16, 32, 8, 64)] {
        for elem in [Elem::F32, Elem::F16, Elem::I8] {
            let shape = PageShape { layers, kv_heads, d, elem };
            let width = kv_heads * d;
            let mut data = vec![0.0; PAGE * 2 * width];
            philox::fill_normal([1, 0], 0, &mut data);
            let pages: Vec<_> = (0..(depth + rows).div_ceil(PAGE))
                .map(|_| {
                    let mut page = Page::new(shape);
                    for layer in 0..layers {
                        page.write(layer, 0, Rows { data: &data, stride: 2 * width, k: 0, v: width, count: PAGE });
                    }
                    Arc::new(page)
                })
                .collect();
            let mut q = vec![0.0; rows * heads * d];
            philox::fill_normal([2, 0], 0, &mut q);
            let mut out = vec![0.0; q.len()];
            let spec = Spec { heads, scale: 1.0 / (d as f32).sqrt(), window: None, alibi: None, softcap: None };
            let mut attend = Attend::new(spec, shape, &[Span { first_row: 0, rows, start: depth }]);
            let mut times: Vec<f64> = (0..25)
                .map(|_| {
                    let begun = Instant::now();
                    for layer in 0..layers {
                        attend.run(layer, &[&pages], &q, heads * d, &mut out);
                    }
                    begun.elapsed().as_secs_f64()
                })
                .collect();
            times.sort_by(f64::total_cmp);
            let (least, median) = (times[0], times[times.len() / 2]);
            let bytes = (shape.bytes() * pages.len()) as f64;
            let products = (4 * layers * heads * d * (depth + rows) * rows) as f64;
            println!(
                "{layers}x{heads}/{kv_heads}x{d} {elem:?}: median {:.0} us, least {:.0}; {:.1} GB/s, {:.1} GFLOP/s",
                1e6 * median,
                1e6 * least,
                bytes / median / 1e9,
                products / median / 1e9
            );
        }
    }
}
