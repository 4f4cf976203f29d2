//! Figures of the machine and the model.

use gently_kernels::{cpu, peak, pool};
use gently_models::Decoder;

use crate::events::{Machine, ModelSummary};
use crate::recipe::{ComputeKind, Config};

pub(super) fn model_summary(model: &Decoder, config: &Config) -> ModelSummary {
    let m = &config.model;
    let family = serde_json::to_value(m.family).unwrap_or_default();
    ModelSummary {
        description: format!(
            "{}: {} layers, {} heads, width {}, context {}, vocabulary {}",
            family.as_str().unwrap_or("decoder"),
            m.layers,
            m.heads,
            m.width,
            m.context,
            m.vocab
        ),
        parameters: model.num_params() as u64,
        flops_per_token: model.flops_per_token(config.train.block),
    }
}

/// The machine as it is now; measuring its peak takes about a tenth of a second.
pub(super) fn machine(config: &Config) -> Machine {
    let (compute, core) = match config.train.compute {
        ComputeKind::F32 => ("f32", peak::f32_gflops()),
        // Where the machine does not multiply bf16 the kernels round and multiply in f32.
        ComputeKind::Bf16 => ("bf16", peak::bf16_gflops().unwrap_or_else(peak::f32_gflops)),
    };
    let peak_flops = core * 1e9 * pool::threads() as f64;
    Machine { path: cpu::path().name().into(), threads: pool::threads(), compute: compute.into(), peak_flops }
}
