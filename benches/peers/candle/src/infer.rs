//! candle's side of the comparison of running models: its quantized Llama on a GGUF file.
//!
//! ```text
//! RAYON_NUM_THREADS=2 infer FILE.gguf [--prefill 0] [--decode 0] [--depth 0] [--threads 2]
//! ```
//!
//! Reads `depth` tokens that are not timed, then times either one pass over `prefill` tokens or `decode` passes over one,
//! after a pass of the same kind that does not count. Prints one JSON object.

use std::fs::File;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use candle_core::quantized::gguf_file;
use candle_core::{Device, Tensor};
use candle_transformers::models::quantized_llama::{MAX_SEQ_LEN, ModelWeights};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

struct Arguments {
    file: String,
    prefill: usize,
    decode: usize,
    depth: usize,
    threads: usize,
}

impl Arguments {
    fn read() -> Result<Self> {
        let usage = "usage: infer FILE.gguf [--prefill N | --decode N] [--depth N] [--threads N]";
        let mut words = std::env::args().skip(1);
        let file = words.next().context(usage)?;
        let mut a = Self { file, prefill: 0, decode: 0, depth: 0, threads: 2 };
        while let Some(word) = words.next() {
            let value: usize = words.next().context(usage)?.parse().context(usage)?;
            match word.as_str() {
                "--prefill" => a.prefill = value,
                "--decode" => a.decode = value,
                "--depth" => a.depth = value,
                "--threads" => a.threads = value,
                _ => bail!("{usage}"),
            }
        }
        ensure!((a.prefill > 0) != (a.decode > 0), "{usage}");
        let length = a.depth + a.prefill + a.decode;
        ensure!(length <= MAX_SEQ_LEN, "candle's Llama reads at most {MAX_SEQ_LEN} tokens, this is {length}");
        Ok(a)
    }
}

fn main() -> Result<()> {
    let a = Arguments::read()?;
    let threads = candle_core::utils::get_num_threads();
    ensure!(threads == a.threads, "candle takes {threads} threads: set RAYON_NUM_THREADS to {}", a.threads);
    Device::Cpu.with_context(|| {
        let begun = Instant::now();
        let mut file = File::open(&a.file).with_context(|| a.file.clone())?;
        let content = gguf_file::Content::read(&mut file)?;
        let mut model = ModelWeights::from_gguf(content, &mut file, &Device::Cpu)?;
        let load = begun.elapsed();
        work(&a, &mut model)?;
        let spent = work(&a, &mut model)?;
        let said = serde_json::json!({
            "program": concat!("candle ", env!("CARGO_PKG_VERSION")),
            "tokens_per_second": (a.prefill + a.decode) as f64 / spent.as_secs_f64(),
            "load_seconds": load.as_secs_f64(),
        });
        println!("{said}");
        Ok(())
    })
}

/// Seconds of what is timed. A pass at position 0 begins a new text.
fn work(a: &Arguments, model: &mut ModelWeights) -> Result<Duration> {
    let mut pass = |count: usize, at: usize| -> Result<()> {
        let ids: Vec<u32> = (at..at + count).map(|i| 100 + (i as u32 * 7919) % 40_000).collect();
        let logits = model.forward(&Tensor::new(ids.as_slice(), &Device::Cpu)?.unsqueeze(0)?, at)?;
        // The next token hangs on them.
        logits.argmax(candle_core::D::Minus1)?;
        Ok(())
    };
    if a.depth > 0 {
        pass(a.depth, 0)?;
    }
    let begun = Instant::now();
    if a.prefill > 0 {
        pass(a.prefill, a.depth)?;
    }
    for i in 0..a.decode {
        pass(1, a.depth + i)?;
    }
    Ok(begun.elapsed())
}
