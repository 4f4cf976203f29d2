//! Times attention, forward and backward, on a packed qkv buffer.
//!
//! `cargo run --release -p gently-kernels --example attention_bench [-- THREADS [SECONDS [dropout]]]`
//!
//! Prints for each shape the least of many runs, in microseconds, and the rate over the multiply-adds
//! that a causal mask leaves. `attention_bench_torch.py` beside this file prints the same for PyTorch.

use std::time::Instant;

use gently_kernels::attention::{AttnShape, AttnSpec, HeadView, Mask, Part, QkvGrads, backward, forward};
use gently_kernels::dropout::Dropout;
use gently_kernels::{cpu, philox, pool};

fn least(seconds: f64, mut f: impl FnMut()) -> f64 {
    let (start, mut best) = (Instant::now(), f64::INFINITY);
    let mut runs = 0;
    while runs < 5 || start.elapsed().as_secs_f64() < seconds {
        let t = Instant::now();
        f();
        best = best.min(t.elapsed().as_secs_f64());
        runs += 1;
    }
    best * 1e6
}

fn main() {
    let mut args = std::env::args().skip(1);
    let threads = args.next().and_then(|a| a.parse().ok()).unwrap_or(2);
    let seconds = args.next().and_then(|a| a.parse().ok()).unwrap_or(3.0);
    let dropout = args.next().map(|_| Dropout { p: 0.2, key: [1, 2], offset: 0 });
    pool::set_threads(threads);
    println!("path {}, {threads} threads", cpu::path().name());
    println!("{:>18} {:>10} {:>10} {:>8} {:>8}", "B,H,T,D", "forward", "backward", "GF/s", "GF/s");
    for (b, h, t, d) in [(12, 4, 64, 32), (16, 6, 256, 64), (1, 12, 1024, 64)] {
        let shape = AttnShape { batch: b, t_q: t, t_k: t, heads: h, kv_heads: h, d };
        let mut qkv = vec![0.0; 3 * shape.out_len()];
        philox::fill_normal([1, 0], 0, &mut qkv);
        let mut dout = vec![0.0; shape.out_len()];
        philox::fill_normal([2, 0], 0, &mut dout);
        let (mut out, mut stats) = (vec![0.0; shape.out_len()], vec![0.0; shape.stats_len()]);
        let mut grads = vec![0.0; qkv.len()];
        let spec = AttnSpec { dropout, ..AttnSpec::new(1.0 / (d as f32).sqrt(), Mask::Causal) };
        let view = |part| HeadView::packed(&qkv, shape, part);
        let (q, k, v) = (view(Part::Q), view(Part::K), view(Part::V));
        let f =
            least(seconds, || forward(shape, &spec, q, k, v, &mut out, &mut stats).expect("memory for the scratch"));
        let g = least(seconds, || {
            let grads = QkvGrads::Packed { data: &mut grads };
            backward(shape, &spec, q, k, v, &out, &stats, &dout, grads, None).expect("memory for the scratch");
        });
        let flops = (b * h * t * (t + 1) / 2 * d * 2) as f64;
        println!(
            "{:>18} {f:>10.1} {g:>10.1} {:>8.1} {:>8.1}",
            format!("{b},{h},{t},{d}"),
            2.0 * flops / f / 1e3,
            5.0 * flops / g / 1e3
        );
    }
}
