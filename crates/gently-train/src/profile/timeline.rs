//! Single calls on a line of time, small enough for a page.

use gently_tensor::profile::Recording;
use serde::{Deserialize, Serialize};

use super::{Peaks, op};

/// Calls that a page shows at most.
const ROOM: usize = 20_000;

/// See [`Timeline::calls`].
pub type CallOnLine = (usize, usize, usize, f64, f64, f64, f64, f64);

/// Calls and phases from the recording's start on. Times are microseconds.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Timeline {
    /// Texts that the others name by their place here.
    pub names: Vec<String>,
    /// `[name, depth, start, length]`
    pub phases: Vec<(usize, u32, f64, f64)>,
    /// `[operation, part, pass, start, length, GFLOP, MB, share of the roofline]`; the operation with its detail and kernel.
    pub calls: Vec<CallOnLine>,
    /// Whether calls were left out at the end.
    pub cut: bool,
}

impl Timeline {
    pub(super) fn of(recording: &Recording, peaks: &Peaks) -> Self {
        let mut line = Timeline::default();
        let mut places = std::collections::HashMap::new();
        let mut name = |names: &mut Vec<String>, text: String| {
            *places.entry(text.clone()).or_insert_with(|| {
                names.push(text);
                names.len() - 1
            })
        };
        let micros = |nanos: u64| (nanos as f64 / 10.0).round() / 100.0;
        line.cut = recording.calls.len() > ROOM;
        let end = recording.calls.get(ROOM).map_or(u64::MAX, |call| call.start);
        for call in recording.calls.iter().take(ROOM) {
            let mut title = op(call).to_string();
            if !call.detail.is_empty() {
                title += &format!(" {}", call.detail);
            }
            if call.kernel != op(call) {
                title += &format!(" ({})", call.kernel);
            }
            let spent = (call.end - call.start).max(1);
            let share = peaks.floor(&call.work) / (spent as f64 * 1e-9);
            let entry = (
                name(&mut line.names, title),
                name(&mut line.names, recording.part(call).to_string()),
                name(&mut line.names, call.pass.name().to_string()),
                micros(call.start),
                micros(spent),
                (call.work.flops as f64 / 1e9 * 1e6).round() / 1e6,
                (call.work.bytes as f64 / 1e6 * 1e4).round() / 1e4,
                (share * 1e4).round() / 1e4,
            );
            line.calls.push(entry);
        }
        for phase in recording.phases.iter().filter(|p| p.start < end) {
            let length = micros(phase.end.min(end) - phase.start);
            line.phases.push((name(&mut line.names, phase.name.into()), phase.depth, micros(phase.start), length));
        }
        line
    }
}
