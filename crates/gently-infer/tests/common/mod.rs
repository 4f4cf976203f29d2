//! What tests of several files share.
#![allow(dead_code)] // Each file uses a part of it.

use gently_infer::EngineOptions;
use gently_models::Decoder;
use gently_models::config::DecoderConfig;
use gently_tensor::{Device, Rng};

/// A model whose biases and scales are not the zeros and ones they start as.
pub fn model(cfg: &DecoderConfig) -> Decoder {
    let model = Decoder::new(cfg, &Rng::new(5), &Device::Cpu).unwrap();
    for (i, param) in model.params().iter().enumerate().filter(|(_, p)| p.tensor.dims().len() == 1) {
        let shake = |(n, v): (usize, &mut f32)| *v += ((n * 31 + i * 17) % 13) as f32 * 0.05 - 0.3;
        param.tensor.with_data_mut(|d: &mut [f32]| d.iter_mut().enumerate().for_each(shake)).unwrap();
    }
    model
}

/// One thread; nothing is guessed, and nothing kept for others.
pub fn options() -> EngineOptions {
    EngineOptions { threads: Some(1), lookup: None, prefix_bytes: 0, ..EngineOptions::default() }
}
