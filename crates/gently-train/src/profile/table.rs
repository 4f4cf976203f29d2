//! A profile as text, for a terminal and a log.

use super::{CallRow, Profile};
use crate::watch::format;

/// Rows that a person reads; the rest is one line.
const ROWS: usize = 24;

/// The columns' heads.
pub(super) const HEAD: [&str; 9] =
    ["part", "pass", "operation", "ms", "of step", "GFLOP", "GFLOP/s", "GB/s", "of roofline"];

/// The cells of a row, per update. `whole` is the seconds of all updates.
pub(super) fn cells(row: &CallRow, steps: f64, whole: f64) -> [String; 9] {
    let mut title = row.op.clone();
    if !row.detail.is_empty() {
        title += &format!(" {}", row.detail);
    }
    if row.kernel != row.op {
        title += &format!(" ({})", row.kernel);
    }
    let rate = |amount: f64| if row.seconds > 0.0 { amount / row.seconds / 1e9 } else { 0.0 };
    let share = if whole > 0.0 { row.seconds / whole } else { 0.0 };
    [
        if row.part.is_empty() { "–".into() } else { row.part.clone() },
        if row.pass.is_empty() { "–".into() } else { row.pass.clone() },
        title,
        format!("{:.3}", row.seconds / steps * 1e3),
        format::percent(share),
        format!("{:.4}", row.flops / steps / 1e9),
        format!("{:.1}", rate(row.flops)),
        format!("{:.1}", rate(row.bytes)),
        format::percent(row.roofline),
    ]
}

impl Profile {
    /// The table: parts with their layers added up, the slowest first, per update; then the phases and what no kernel
    /// took.
    pub fn table(&self) -> String {
        let steps = self.facts.steps.max(1) as f64;
        let (whole, outside) = self.step_and_outside();
        let rows = self.by_part();
        let mut lines = vec![HEAD.map(String::from)];
        lines.extend(rows.iter().take(ROWS).map(|row| cells(row, steps, whole)));
        if rows.len() > ROWS {
            let mut rest = CallRow { part: format!("{} more", rows.len() - ROWS), ..CallRow::default() };
            for row in &rows[ROWS..] {
                rest.add(row.count, row.seconds, row.flops, row.bytes, row.floor_seconds);
            }
            lines.push(cells(&rest, steps, whole));
        }
        let mut sum = CallRow { part: "all kernels".into(), ..CallRow::default() };
        for row in &rows {
            sum.add(row.count, row.seconds, row.flops, row.bytes, row.floor_seconds);
        }
        lines.push(cells(&sum, steps, whole));
        let mut text = columns(&lines);
        let share = if whole > 0.0 { outside / whole } else { 0.0 };
        text += &format!("outside of kernels: {:.3} ms, {} of a step\n", outside / steps * 1e3, format::percent(share));
        let phases: Vec<String> = self
            .phases
            .iter()
            .map(|p| format!("{} {}", p.name, format::duration(p.seconds / p.count.max(1) as f64)))
            .collect();
        text += &format!("each: {}\n", phases.join(", "));
        let peaks = &self.facts.peaks;
        text += &format!(
            "roofline: {} in products, {} else, {} from memory, measured; bytes that a cache kept can show more than 100 %\n",
            format::quantity(peaks.products, "FLOP/s"),
            format::quantity(peaks.f32, "FLOP/s"),
            peaks.memory(),
        );
        if self.lost > 0 {
            let whole = format::updates(self.facts.first_step, self.facts.steps);
            text += &format!("the recording was full: of {whole} it has all calls, of later ones none are counted\n");
        }
        text
    }
}

/// Padded columns: three of words to the left, numbers to the right.
fn columns(lines: &[[String; 9]]) -> String {
    let width = |c: usize| lines.iter().map(|l| l[c].chars().count()).max().unwrap_or(0);
    let widths: [usize; 9] = std::array::from_fn(width);
    let mut text = String::new();
    for line in lines {
        for (c, cell) in line.iter().enumerate() {
            let pad = " ".repeat(widths[c] - cell.chars().count());
            let gap = if c == 0 { "" } else { "  " };
            text += &if c < 3 { format!("{gap}{cell}{pad}") } else { format!("{gap}{pad}{cell}") };
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
    }
    text
}
