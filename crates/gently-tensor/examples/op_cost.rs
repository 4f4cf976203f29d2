//! What an operation costs beyond its kernel: time per operation on tensors of a few elements.
//!
//! Run: `cargo run --release -p gently-tensor --example op_cost`

use gently_tensor::*;
use std::time::Instant;

fn time(name: &str, ops: usize, mut f: impl FnMut()) {
    for _ in 0..2000 {
        f();
    }
    let mut best = f64::INFINITY;
    for _ in 0..7 {
        let start = Instant::now();
        for _ in 0..5000 {
            f();
        }
        best = best.min(start.elapsed().as_secs_f64() / 5000.0);
    }
    println!("{name:<32} {:>8.0} ns", best * 1e9 / ops as f64);
}

fn main() -> Result<()> {
    let x = Tensor::ones([2, 8], DType::F32, &Device::Cpu)?;
    let (p, w) = (x.param()?, Tensor::ones([8, 8], DType::F32, &Device::Cpu)?.param()?);
    let gain = Tensor::ones([8], DType::F32, &Device::Cpu)?.param()?;
    time("add", 1, || drop(x.add(&x)));
    time("reshape", 1, || drop(x.reshape([4, 4])));
    time("add, recorded", 1, || drop(p.add(&p)));
    time("linear", 1, || drop(x.linear(&LinearArgs::new(&w.detach()))));
    time("linear, recorded", 1, || drop(x.linear(&LinearArgs::new(&w))));
    time("layer_norm, recorded", 1, || drop(p.layer_norm(&gain, None, 1e-5)));
    let mut grads = Grads::new();
    time("chain of 20 affine, both ways", 40, || {
        grads.clear();
        let y = (0..20).try_fold(p.clone(), |y, _| y.affine(1.0, 0.0)).unwrap();
        y.sum_all().unwrap().backward_into(&mut grads).unwrap();
    });
    Ok(())
}
