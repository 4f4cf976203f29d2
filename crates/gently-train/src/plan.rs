//! The memory plan: what a run will need, known before its first step.
//!
//! ```
//! let plan = gently_train::plan::MemoryPlan::from_lines([("parameters", 4 << 20, ""), ("gradients", 4 << 20, "")]);
//! assert_eq!(plan.total(), 8 << 20);
//! ```

use serde::{Deserialize, Serialize};

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

    /// The planned peak in bytes.
    pub fn total(&self) -> u64 {
        self.lines.iter().map(|line| line.bytes).sum()
    }
}
