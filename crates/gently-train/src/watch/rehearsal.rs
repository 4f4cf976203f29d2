//! A run that never happened, for the observers' tests: plausible numbers, the same ones each time.
//!
//! Here: events shaped like those of a small character model. Not here: anything a real run uses.

use std::path::PathBuf;

use crate::events::{
    CheckpointSaved, DataSummary, Evaluated, Event, Finished, Machine, ModelSummary, Reason, RunStarted, Sampled,
    SpikeSkipped, Split, Step,
};
use crate::plan::MemoryPlan;
use crate::recipe::{ConfigLine, Source};

/// A text no observer may pass on as it is.
pub const HOSTILE: &str = "<script>alert('x')</script> & \"quotes\" \u{1b}[31m";

pub fn started(total_steps: u64) -> RunStarted {
    let line = |key: &str, value: &str, source: Source| ConfigLine { key: key.into(), value: value.into(), source };
    let recipe = |line| Source::Recipe { file: "recipes/shakespeare-cpu.toml".into(), line };
    RunStarted {
        name: "shakespeare-cpu".into(),
        folder: PathBuf::from("runs/shakespeare-cpu"),
        start_step: 0,
        pending: true,
        best: None,
        best_since: 0,
        total_steps,
        tokens_per_step: 768,
        config: vec![
            line("model.family", "\"gpt2\"", recipe(12)),
            line("model.layers", "4", recipe(13)),
            line("model.norm", "\"layer\"", Source::Family("gpt2".into())),
            line("train.steps", &total_steps.to_string(), Source::Set),
            line("optimizer.lr", "1e-3", recipe(24)),
            line("optimizer.betas", "[0.9, 0.99]", recipe(25)),
            line("train.seed", "1337", Source::Default),
            line("model.window", "", Source::Default),
            line("optimizer.decay_steps", &total_steps.to_string(), Source::Derived("train.steps".into())),
            line("sample.prompts", "[\"\\n\", \"<b>&\"]", recipe(31)),
        ],
        plan: MemoryPlan::from_lines([
            ("parameters", 3_235_840, "808,960 × 4 bytes"),
            ("gradients", 3_235_840, ""),
            ("optimizer state", 6_471_680, "two moments"),
            ("activations", 31_457_280, "B 12 × T 64"),
        ]),
        model: ModelSummary {
            description: "gpt2: 4 layers, 4 heads, width 128, vocabulary 65".into(),
            parameters: 808_960,
            flops_per_token: 5.2e6,
        },
        data: DataSummary {
            description: "tinyshakespeare.txt, characters".into(),
            train_tokens: 1_003_854,
            val_tokens: 111_540,
        },
        machine: Machine { path: "avx512bf16".into(), threads: 2, compute: "f32".into(), peak_flops: 2.34e11 },
    }
}

/// Noise without a generator: a fixed function of the step, between -1 and 1.
fn noise(step: u64, salt: u64) -> f64 {
    let mixed = (step ^ salt << 32).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mixed = (mixed ^ mixed >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    ((mixed >> 33) as f64 / f64::from(1u32 << 31)) * 2.0 - 1.0
}

pub fn step(number: u64, total: u64) -> Step {
    let progress = number as f64 / total as f64;
    let warmup = (total as f64 * 0.05).max(1.0);
    let lr = if (number as f64) < warmup {
        1e-3 * number as f64 / warmup
    } else {
        1e-4 + 0.45e-3 * (1.0 + (std::f64::consts::PI * progress).cos())
    };
    let speed = 30_500.0 * (1.0 + 0.04 * noise(number, 2));
    let total_seconds = 768.0 / speed;
    Step {
        step: number,
        loss: 1.72 + 2.45 * (-9.0 * progress).exp() + 0.06 * noise(number, 1),
        lr,
        grad_norm: 0.35 + 1.8 * (-6.0 * progress).exp() + 0.08 * noise(number, 3),
        tokens: number * 768,
        step_tokens: 768,
        skipped: false,
        seconds: Split {
            total: total_seconds,
            data: total_seconds * 0.01,
            forward: total_seconds * (0.33 + 0.02 * noise(number, 4)),
            backward: total_seconds * 0.58,
            optimizer: total_seconds * 0.05,
        },
        tokens_per_second: speed,
        utilisation: speed * 5.2e6 / 2.34e11,
        eta: (total - number) as f64 * total_seconds,
    }
}

/// All events of a run of `total` steps with evaluations and samples at each tenth.
pub fn events(total: u64) -> Vec<Event> {
    const TEXTS: [&str; 4] = [
        "wtOfQ;zdK  ?Bx'nPqa,\njW&lRmVhS:-EyT",
        "\nThe mand thor, and ing he whe sour\nBut mar thy of the",
        "\nROMEO:\nWhat is the king? and shall be gone,\nAnd with the world",
        "\nDUKE VINCENTIO:\nI will not speak of thee, my gracious lord,\nThat I have stood the state of all the house",
    ];
    let every = (total / 10).max(1);
    let mut events = vec![Event::RunStarted(Box::new(started(total)))];
    let mut best: Option<(u64, f64)> = None;
    for number in 0..=total {
        if number > 0 {
            if number == total / 2 {
                events.push(Event::SpikeSkipped(SpikeSkipped {
                    step: number,
                    loss: 9.1,
                    loss_z: 8.2,
                    grad_norm: 14.0,
                    grad_norm_z: 7.7,
                }));
            }
            let mut taken = step(number, total);
            taken.skipped = number == total / 2;
            events.push(Event::Step(taken));
        }
        if number % every == 0 {
            let loss = 1.88 + 2.3 * (-9.0 * number as f64 / total as f64).exp() + 0.01 * noise(number, 5);
            let is_best = best.is_none_or(|(_, lowest)| loss < lowest);
            if is_best {
                best = Some((number, loss));
            }
            events.push(Event::Evaluated(Evaluated {
                step: number,
                loss,
                tokens: 15_360,
                best: is_best,
                seconds: 0.2,
            }));
            let text = TEXTS[(number * 3 / total).min(3) as usize];
            for (prompt, text) in [("\n", text), ("<b>&", HOSTILE)] {
                events.push(Event::Sampled(Sampled { step: number, prompt: prompt.into(), text: text.into() }));
            }
            if number > 0 {
                events.push(Event::CheckpointSaved(CheckpointSaved {
                    step: number,
                    path: PathBuf::from(format!("checkpoints/step-{number}")),
                    bytes: 9_900_000,
                    best: is_best,
                    seconds: 0.05,
                }));
            }
        }
    }
    events.push(Event::Warning { step: total, message: "the validation split is shorter than one evaluation".into() });
    events.push(Event::Finished(finished(total, best)));
    events
}

pub fn finished(total: u64, best: Option<(u64, f64)>) -> Finished {
    Finished {
        step: total,
        reason: Reason::Complete,
        train_loss: Some(1.7234),
        val_loss: Some(1.8812),
        best,
        tokens: total * 768,
        seconds: total as f64 * 0.0252,
        split: Split {
            total: total as f64 * 0.0252,
            data: total as f64 * 0.0003,
            forward: total as f64 * 0.0083,
            backward: total as f64 * 0.0146,
            optimizer: total as f64 * 0.0013,
        },
        planned_bytes: 44_400_640,
        measured_bytes: Some(45_900_000),
        checkpoint: Some(PathBuf::from(format!("checkpoints/step-{total}"))),
    }
}
