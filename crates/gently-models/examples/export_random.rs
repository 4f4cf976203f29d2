//! Writes small random models in every published layout, with what we compute for some tokens, for
//! `tests/python/check_export.py` to hold against Python transformers.
//!
//!     cargo run -p gently-models --example export_random -- FOLDER

use gently_formats::safetensors::{Dtype, Spec, Writer};
use gently_models::config::{DecoderConfig, Family, MlpKind};
use gently_models::{Decoder, Error, ForwardCx, Result};
use gently_tensor::{Device, Rng};
use std::path::PathBuf;

fn main() -> Result<()> {
    let Some(folder) = std::env::args_os().nth(1).map(PathBuf::from) else {
        eprintln!("usage: export_random FOLDER");
        std::process::exit(2);
    };
    let tiny = |family| DecoderConfig {
        vocab: 61,
        context: 32,
        layers: 2,
        heads: 4,
        kv_heads: None,
        width: 24,
        init_std: 0.2,
        ..DecoderConfig::preset(family)
    };
    let (gpt2, llama) = (tiny(Family::Gpt2), tiny(Family::Llama));
    let cases = [
        ("gpt2", gpt2.clone(), u64::MAX),
        ("gpt2-untied-sharded", DecoderConfig { tied_head: false, mlp: MlpKind::GeluErf, ..gpt2.clone() }, 10_000),
        (
            "gpt2-without-biases",
            DecoderConfig {
                attention_bias: false,
                mlp_bias: false,
                norm_bias: false,
                mlp: MlpKind::Relu2,
                mlp_width: Some(50),
                ..gpt2
            },
            u64::MAX,
        ),
        ("llama", DecoderConfig { kv_heads: Some(2), head_width: Some(10), ..llama.clone() }, u64::MAX),
        (
            "llama-stretched",
            DecoderConfig { rope_factors: Some(vec![1.0, 2.0, 2.5]), rope_scale: Some(1.2), ..llama.clone() },
            u64::MAX,
        ),
        (
            "llama-tied-biased-sharded",
            DecoderConfig {
                tied_head: true,
                attention_bias: true,
                mlp_bias: true,
                rope_theta: 700.0,
                norm_eps: 1e-3,
                ..llama
            },
            10_000,
        ),
    ];
    for (name, cfg, max_bytes) in cases {
        let dir = folder.join(name);
        let model = Decoder::new(&cfg, &Rng::new(17), &Device::Cpu)?;
        // Biases and norms leave their starting values, so that a swapped one shows.
        let rng = Rng::new(23);
        for p in model.params() {
            let mut stream = rng.stream(&p.name);
            p.tensor.with_data_mut(|d: &mut [f32]| {
                d.iter_mut().for_each(|v| *v += 0.2 * (stream.next_f64() as f32 - 0.5));
            })?;
        }
        model.save_sharded(&dir, max_bytes)?;

        let mut rng = Rng::new(29);
        let ids: Vec<u32> = (0..2 * 20).map(|_| rng.below(cfg.vocab as u64) as u32).collect();
        let logits = model.logits(&model.ids(&ids, 2)?, &ForwardCx::default())?;
        let spec = |name: &str, dtype, shape: &[usize]| Spec { name: name.into(), dtype, shape: shape.to_vec() };
        let specs = [spec("logits", Dtype::F32, logits.dims()), spec("ids", Dtype::I32, &[2, 20])];
        let mut file = Writer::create(dir.join("expected.safetensors"), &specs, &Default::default())?;
        file.write_f32(&logits.to_vec::<f32>()?)?;
        let ids: Vec<i32> = ids.iter().map(|v| *v as i32).collect();
        file.write_elements(&ids)?;
        file.finish().map_err(Error::from)?;
        println!("{}", dir.display());
    }
    Ok(())
}
