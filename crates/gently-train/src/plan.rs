//! The memory plan: what a run will need, known before its first step.
//!
//! Here: its lines and their sums. Not here: how they are found (`trainer`), and what the process takes and may still take
//! ([`crate::process_memory`]).
//!
//! ```
//! let plan = gently_train::plan::MemoryPlan::from_lines([("parameters", 4 << 20, ""), ("gradients", 4 << 20, "")]);
//! assert_eq!(plan.total(), 8 << 20);
//! ```

use serde::{Deserialize, Serialize};

/// The line of files that are mapped into memory. Their pages are the system's cache, clean and ready to be given up: reading
/// them is quicker where they fit, but they need not.
pub const MAPPED: &str = "mapped data";

/// Lines of the trainer's plan. The report has a colour for each.
pub(crate) const LINES: usize = 10;

/// One line of the plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanLine {
    /// What the memory is for.
    pub name: String,
    /// Bytes.
    pub bytes: u64,
    /// How the number was found, or an empty text.
    pub note: String,
}

/// Peak memory of a run, by part.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryPlan {
    /// The parts; their sum is the planned peak.
    pub lines: Vec<PlanLine>,
}

impl MemoryPlan {
    /// A plan from `(name, bytes, note)`.
    pub fn from_lines<'a>(lines: impl IntoIterator<Item = (&'a str, u64, &'a str)>) -> Self {
        let lines = lines
            .into_iter()
            .map(|(name, bytes, note)| PlanLine { name: name.into(), bytes, note: note.into() })
            .collect();
        Self { lines }
    }

    /// The planned peak in bytes, as the system counts it: with all of the mapped files.
    pub fn total(&self) -> u64 {
        self.lines.iter().map(|line| line.bytes).sum()
    }

    /// Bytes that must be free beside the `taken` ones that the process has: the planned peak without files that are only mapped.
    pub fn needed_beside(&self, taken: u64) -> u64 {
        (self.total() - self.of(&[MAPPED])).saturating_sub(taken)
    }

    /// Whether weights, gradients and the optimizer's state are more than activations: then a smaller model or smaller moments
    /// make a run smaller, and smaller micro-batches do not.
    pub fn is_mostly_lasting(&self) -> bool {
        self.of(&["parameters", "gradients", "optimizer state"]) > self.of(&["activations"])
    }

    /// Bytes of the lines of these names.
    fn of(&self, names: &[&str]) -> u64 {
        self.lines.iter().filter(|line| names.contains(&line.name.as_str())).map(|line| line.bytes).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_leads_a_plan_is_known() {
        let plan = |activations| {
            MemoryPlan::from_lines([
                ("parameters", 4, ""),
                ("optimizer state", 8, ""),
                ("activations", activations, ""),
            ])
        };
        assert!(plan(11).is_mostly_lasting() && !plan(12).is_mostly_lasting());
    }

    #[test]
    fn mapped_files_need_no_free_memory() {
        let shards = 1 << 40;
        let plan = MemoryPlan::from_lines([
            ("parameters", 300, ""),
            ("data", 50, ""),
            ("process", 70, ""),
            (MAPPED, shards, ""),
        ]);
        assert_eq!(plan.total(), shards + 420);
        // All that is not mapped and not taken yet.
        assert_eq!((plan.needed_beside(70), plan.needed_beside(1000)), (350, 0));
    }
}
