//! What a profile of a run says: time, work and share of the roofline for each operation.
//!
//! Here: [`Profile`], the sums over a [`Recording`]; its forms are beside it: a text table (`table`), `profile.json` (this
//! type as it is) and a page with a timeline (`page`). Not here: the recorder and the work of a call
//! (`gently_tensor::profile`), and which steps of a run are recorded (`trainer`).
//!
//! **Roofline** (Williams, Waterman, Patterson 2009): a call can be no faster than its operations over the measured peak, and no
//! faster than its bytes over the measured memory bandwidth. The larger of the two is its floor; floor over measured time
//! is its share of the roofline. Bytes that a cache kept need no memory, so small models can show more than 100 %.
//!
//! ```
//! use gently_train::profile::{Facts, Peaks, Profile};
//! use gently_tensor::{profile, DType, Device, Tensor};
//! profile::start();
//! Tensor::ones([64, 64], DType::F32, &Device::Cpu)?.exp()?;
//! let peaks = Peaks { products: 2e11, f32: 2e11, bytes_per_second: 2e10 };
//! let facts = Facts { name: "example".into(), peaks, ..Facts::default() };
//! let profile = Profile::of(&profile::finish().unwrap(), facts);
//! let exp = profile.calls.iter().find(|c| c.op == "exp").unwrap();
//! assert_eq!(exp.flops, 64.0 * 64.0);
//! # Ok::<(), gently_tensor::Error>(())
//! ```

mod page;
mod table;
#[cfg(test)]
mod tests;
mod timeline;

use std::collections::BTreeMap;

use gently_kernels::{peak, pool};
use gently_tensor::Compute;
use gently_tensor::profile::{Call, Recording, Work};
use serde::{Deserialize, Serialize};

use crate::events::Machine;
use crate::watch::format;
pub use timeline::{CallOnLine, Timeline};

/// The file with the numbers, in the run folder.
pub const JSON_FILE: &str = "profile.json";
/// The page, in the run folder.
pub const PAGE_FILE: &str = "profile.html";

/// What calls are held to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Peaks {
    /// Operations per second of products in the run's arithmetic, all threads.
    pub products: f64,
    /// Operations per second in f32, all threads.
    pub f32: f64,
    /// Bytes per second from memory, all threads; 0 where there was no memory to measure it, and then holds nothing back.
    pub bytes_per_second: f64,
}

impl Peaks {
    /// Measures them; takes about a fifth of a second and, for that time, 256 MiB if there are.
    pub fn measure(compute: Compute) -> Self {
        let threads = pool::threads() as f64;
        let f32 = peak::f32_gflops() * 1e9 * threads;
        let products = match compute {
            Compute::F32 => f32,
            // Where the machine does not multiply bf16 the kernels round and multiply in f32.
            Compute::Bf16 => peak::bf16_gflops().map_or(f32, |g| g * 1e9 * threads),
        };
        Self { products, f32, bytes_per_second: peak::read_gbps().unwrap_or(0.0) * 1e9 }
    }

    /// The rate from memory in words.
    pub(crate) fn memory(&self) -> String {
        match self.bytes_per_second > 0.0 {
            true => format::quantity(self.bytes_per_second, "B/s"),
            false => "not measured".to_owned(),
        }
    }

    /// Seconds that the work needs at the least.
    pub fn floor(&self, work: &Work) -> f64 {
        let peak = match work.compute {
            Compute::F32 => self.f32,
            Compute::Bf16 => self.products,
        };
        let over = |amount: u64, rate: f64| if rate > 0.0 { amount as f64 / rate } else { 0.0 };
        over(work.flops, peak).max(over(work.bytes, self.bytes_per_second))
    }
}

/// What a profile is of.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Facts {
    /// The run's name.
    pub name: String,
    /// The model in a line.
    pub model: String,
    /// The processor, where the system tells.
    pub processor: Option<String>,
    /// Path, threads and arithmetic.
    pub machine: Machine,
    /// What calls are held to.
    pub peaks: Peaks,
    /// The first recorded update.
    pub first_step: u64,
    /// Recorded updates.
    pub steps: u64,
    /// Tokens of one update.
    pub tokens_per_step: u64,
}

/// One stretch of a step, summed over the recording.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PhaseRow {
    /// `step`, `data`, `forward`, `backward`, `gradient norm`, `optimizer`, `evaluation`, `samples`, `checkpoint`.
    pub name: String,
    /// True for the parts of a step, false for the step itself and what comes between steps.
    pub in_step: bool,
    /// How often.
    pub count: u64,
    /// Seconds, together.
    pub seconds: f64,
    /// Seconds of it in kernels.
    pub kernel_seconds: f64,
}

/// One kind of call in one part of the model, summed over the recording.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct CallRow {
    /// The phase it was made in.
    pub phase: String,
    /// `forward`, `recompute` or `backward`.
    pub pass: String,
    /// The layer's number, from 0, for what is in a block.
    pub layer: Option<u64>,
    /// The part of the block or of the model, such as `mlp.up` or `embed`; for the optimizer its tensor.
    pub part: String,
    /// The operation.
    pub op: String,
    /// What is computed for it: `dx`, `dw`; or empty.
    pub detail: String,
    /// The kernel.
    pub kernel: String,
    /// How often.
    pub count: u64,
    /// Seconds, together.
    pub seconds: f64,
    /// Floating-point operations, together.
    pub flops: f64,
    /// Bytes that must move, together.
    pub bytes: f64,
    /// Seconds that the roofline leaves, together.
    pub floor_seconds: f64,
    /// `floor_seconds` over `seconds`.
    pub roofline: f64,
}

impl CallRow {
    fn add(&mut self, count: u64, seconds: f64, flops: f64, bytes: f64, floor: f64) {
        self.count += count;
        self.seconds += seconds;
        self.flops += flops;
        self.bytes += bytes;
        self.floor_seconds += floor;
        self.roofline = if self.seconds > 0.0 { self.floor_seconds / self.seconds } else { 0.0 };
    }
}

/// A profile: what `profile.json` holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Profile {
    /// Version of the program that measured.
    pub gently: String,
    /// What was measured.
    #[serde(flatten)]
    pub facts: Facts,
    /// Seconds of each recorded update.
    pub step_seconds: Vec<f64>,
    /// Phases, in the order in which they first come.
    pub phases: Vec<PhaseRow>,
    /// Calls, by phase, pass, layer, part, operation and kernel.
    pub calls: Vec<CallRow>,
    /// Calls that found no room in the recording, which ended with the update in which it was full: none of those that are
    /// summed up here is missing.
    pub lost: u64,
    /// Single calls on a line of time, as many as a page holds.
    pub timeline: Timeline,
}

impl Profile {
    /// Sums up a recording.
    pub fn of(recording: &Recording, facts: Facts) -> Self {
        let mut rows: BTreeMap<Key<'_>, CallRow> = BTreeMap::new();
        let mut in_kernels: BTreeMap<&str, f64> = BTreeMap::new();
        for call in &recording.calls {
            let (layer, part) = place(recording.part(call));
            let key = (call.phase, call.pass, layer, part, op(call), call.detail, call.kernel);
            let row = rows.entry(key).or_insert_with(|| CallRow {
                phase: call.phase.into(),
                pass: call.pass.name().into(),
                layer,
                part: part.into(),
                op: op(call).into(),
                detail: call.detail.into(),
                kernel: call.kernel.into(),
                ..CallRow::default()
            });
            let spent = seconds(call.start, call.end);
            *in_kernels.entry(call.phase).or_default() += spent;
            row.add(1, spent, call.work.flops as f64, call.work.bytes as f64, facts.peaks.floor(&call.work));
        }
        let mut phases: Vec<PhaseRow> = Vec::new();
        let mut ordered = recording.phases.clone();
        ordered.sort_by_key(|p| (p.start, p.depth));
        for phase in &ordered {
            let at = phases.iter().position(|row| row.name == phase.name).unwrap_or_else(|| {
                let (name, in_step) = (phase.name.to_string(), phase.depth > 0);
                phases.push(PhaseRow { name, in_step, count: 0, seconds: 0.0, kernel_seconds: 0.0 });
                phases.len() - 1
            });
            phases[at].count += 1;
            phases[at].seconds += seconds(phase.start, phase.end);
        }
        for row in &mut phases {
            row.kernel_seconds = in_kernels.get(&*row.name).copied().unwrap_or(0.0);
        }
        // A step's kernels are those of its parts.
        let inside: f64 = phases.iter().filter(|p| p.in_step).map(|p| p.kernel_seconds).sum();
        if let Some(step) = phases.iter_mut().find(|p| p.name == STEP) {
            step.kernel_seconds += inside;
        }
        let steps = ordered.iter().filter(|p| p.name == STEP);
        Self {
            gently: env!("CARGO_PKG_VERSION").into(),
            step_seconds: steps.map(|p| seconds(p.start, p.end)).collect(),
            phases,
            calls: rows.into_values().collect(),
            lost: recording.lost,
            timeline: Timeline::of(recording, &facts.peaks),
            facts,
        }
    }

    /// The rows of steps with all layers added up, the slowest first: what a person looks at first. Rows of the optimizer
    /// and of the gradient's norm are added up over their tensors too.
    pub fn by_part(&self) -> Vec<CallRow> {
        let mut rows: BTreeMap<[&str; 6], CallRow> = BTreeMap::new();
        for call in self.calls.iter().filter(|c| self.is_in_step(&c.phase)) {
            let of_tensor = ["optimizer", "gradient norm"].contains(&&*call.phase);
            let part = if of_tensor { call.phase.as_str() } else { call.part.as_str() };
            let pass = if of_tensor { "" } else { call.pass.as_str() };
            let key = [call.phase.as_str(), pass, part, &*call.op, &*call.detail, &*call.kernel];
            let sum = rows.entry(key).or_insert_with(|| CallRow {
                layer: None,
                part: part.into(),
                pass: pass.into(),
                count: 0,
                seconds: 0.0,
                flops: 0.0,
                bytes: 0.0,
                floor_seconds: 0.0,
                ..call.clone()
            });
            sum.add(call.count, call.seconds, call.flops, call.bytes, call.floor_seconds);
        }
        let mut rows: Vec<CallRow> = rows.into_values().collect();
        rows.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
        rows
    }

    fn is_in_step(&self, phase: &str) -> bool {
        // Without phases (a recording of no trainer) everything counts.
        self.phases.is_empty() || self.phases.iter().any(|p| p.name == phase && p.in_step)
    }

    /// Seconds of all recorded updates, and of them outside of any kernel.
    pub fn step_and_outside(&self) -> (f64, f64) {
        let step = self.phases.iter().find(|p| p.name == STEP);
        step.map_or((0.0, 0.0), |p| (p.seconds, (p.seconds - p.kernel_seconds).max(0.0)))
    }
}

/// The phase of a whole update.
pub(crate) const STEP: &str = "step";

type Key<'a> = (&'a str, gently_tensor::profile::Pass, Option<u64>, &'a str, &'a str, &'a str, &'a str);

/// The operation of a call; a call outside of any is known by its kernel.
fn op(call: &Call) -> &'static str {
    if call.op.is_empty() { call.kernel } else { call.op }
}

fn seconds(start: u64, end: u64) -> f64 {
    end.saturating_sub(start) as f64 * 1e-9
}

/// `blocks.3.mlp.up` as layer 3 and `mlp.up`.
fn place(part: &str) -> (Option<u64>, &str) {
    let inside = part.strip_prefix("blocks.").and_then(|rest| rest.split_once('.'));
    match inside.and_then(|(number, rest)| Some((number.parse().ok()?, rest))) {
        Some((layer, rest)) => (Some(layer), rest),
        None => (None, part),
    }
}

/// The processor's name, where the system tells.
pub fn processor() -> Option<String> {
    let info = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = info.lines().find(|l| l.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}
