//! Figures of the machine and the model.

use gently_kernels::{cpu, loss, peak, pool};
use gently_models::Decoder;

use crate::events::{Machine, ModelSummary};
use crate::recipe::{ComputeKind, Config};

/// The kernels' own buffers for a run of `config`: a packed panel of the left matrix in each thread, two packed chunks
/// of the largest right one (a weight, or the activations when a weight's gradient is made), and the logits of one chunk
/// of rows in the loss. The packed buffers lie in huge pages, so they come in steps of 2 MiB.
pub(super) fn kernel_scratch(config: &Config) -> u64 {
    const HUGE: u64 = 2 << 20;
    const CHUNK: usize = 1 << 20;
    let model = &config.model;
    let tokens = config.train.batch * config.train.block;
    let widest = model.mlp_width().max(model.qkv_width()).max(model.width);
    let largest = (tokens.max(model.width) * widest).max(model.vocab * model.width).min(CHUNK);
    let packed = (8 * largest as u64).next_multiple_of(HUGE);
    let rows = tokens.min(loss::chunk_rows(model.vocab));
    let logits = 4 * (rows as u64) * (model.vocab as u64);
    pool::threads() as u64 * HUGE + packed + logits
}

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
        flops_per_token: model.flops_per_token(config.train.block) as f64,
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
