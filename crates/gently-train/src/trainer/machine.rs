//! Figures of the machine and the model.

use std::sync::{Mutex, PoisonError};

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

/// The machine as it is now; measuring its peak takes about a twentieth of a second.
pub(super) fn machine(config: &Config) -> Machine {
    described(config.train.compute, peak_of_a_core(config.train.compute))
}

/// The machine with the peak that it had when a run of this process first asked: the runs after it do not wait for that.
pub(super) fn machine_once(config: &Config) -> Machine {
    type Rates = Vec<((cpu::Path, ComputeKind), f64)>;
    static MEASURED: Mutex<Rates> = Mutex::new(Vec::new());
    let key = (cpu::path(), config.train.compute);
    // Nothing is measured twice at once, either: that would show half a machine.
    let mut measured = MEASURED.lock().unwrap_or_else(PoisonError::into_inner);
    let known = measured.iter().find(|(of, _)| *of == key).map(|(_, rate)| *rate);
    let core = known.unwrap_or_else(|| {
        let rate = peak_of_a_core(config.train.compute);
        measured.push((key, rate));
        rate
    });
    described(config.train.compute, core)
}

/// In GFLOP/s.
fn peak_of_a_core(compute: ComputeKind) -> f64 {
    match compute {
        ComputeKind::F32 => peak::f32_gflops(),
        // Where the machine does not multiply bf16 the kernels round and multiply in f32.
        ComputeKind::Bf16 => peak::bf16_gflops().unwrap_or_else(peak::f32_gflops),
    }
}

fn described(compute: ComputeKind, core: f64) -> Machine {
    let peak_flops = core * 1e9 * pool::threads() as f64;
    Machine { path: cpu::path().name().into(), threads: pool::threads(), compute: compute.name().into(), peak_flops }
}
