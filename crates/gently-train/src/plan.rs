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

/// Resident memory of this process now, in bytes, where the system tells (Linux).
pub fn resident() -> Option<u64> {
    status_field("VmRSS:")
}

/// Peak resident memory of this process since its start or the last [`forget_peak`].
pub fn peak_resident() -> Option<u64> {
    status_field("VmHWM:")
}

/// Starts the peak again from what is resident now, where the system allows it.
pub fn forget_peak() {
    // Without permission the peak stays that of the whole process, which is still true, only larger.
    let _ = std::fs::write("/proc/self/clear_refs", "5");
}

/// Memory that this process may still take: the system's estimate, or what is left of the control group's limit if
/// that is less.
pub fn available() -> Option<u64> {
    let system = field(&std::fs::read_to_string("/proc/meminfo").ok()?, "MemAvailable:")?;
    let number = |name: &str| {
        let text = std::fs::read_to_string(format!("/sys/fs/cgroup/{name}")).ok()?;
        text.trim().parse::<u64>().ok()
    };
    let group = match (number("memory.max"), number("memory.current")) {
        (Some(limit), Some(used)) => Some(limit.saturating_sub(used)),
        _ => None,
    };
    Some(group.map_or(system, |group| group.min(system)))
}

/// Bytes of this program's code that are not in memory yet: the most that its further work may bring in, where the
/// system tells (Linux).
pub fn unread_program() -> u64 {
    let (Ok(program), Ok(maps)) = (std::env::current_exe(), std::fs::read_to_string("/proc/self/smaps")) else {
        return 0;
    };
    unread_code(&maps, &program.to_string_lossy()).unwrap_or(0)
}

/// Size less resident size of the executable mappings of `program` in the text of `smaps`.
fn unread_code(maps: &str, program: &str) -> Option<u64> {
    let (mut of_program, mut unread) = (false, 0);
    for line in maps.lines() {
        let first = line.split_whitespace().next()?;
        if first.contains('-') && !first.ends_with(':') {
            // 5581e0000-5581f0000 r-xp 00001000 fd:00 1234  /usr/bin/program
            of_program = line.ends_with(program) && line.split_whitespace().nth(1)?.contains('x');
        } else if of_program && first == "Size:" {
            unread += field(line, "Size:")?;
        } else if of_program && first == "Rss:" {
            unread = unread.saturating_sub(field(line, "Rss:")?);
        }
    }
    Some(unread)
}

fn status_field(name: &str) -> Option<u64> {
    field(&std::fs::read_to_string("/proc/self/status").ok()?, name)
}

/// `Name:   123 kB` in bytes.
fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_read_in_bytes() {
        let text = "VmPeak:\t  100 kB\nVmHWM:\t    2048 kB\nVmRSS:\t 1024 kB\n";
        assert_eq!(field(text, "VmHWM:"), Some(2 << 20));
        assert_eq!(field(text, "VmSwap:"), None);
    }

    #[test]
    fn code_that_was_not_read_is_counted_for_the_program_alone() {
        let maps = "\
55e0-55f0 r--p 00000000 fd:00 12 /opt/gently\nSize: 900 kB\nRss: 100 kB\n\
55f0-5600 r-xp 00001000 fd:00 12 /opt/gently\nSize: 800 kB\nKernelPageSize: 4 kB\nRss: 300 kB\n\
7f00-7f10 r-xp 00001000 fd:00 13 /usr/lib/libc.so\nSize: 700 kB\nRss: 200 kB\n";
        assert_eq!(unread_code(maps, "/opt/gently"), Some(500 << 10));
        assert_eq!(unread_code(maps, "/opt/other"), Some(0));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_is_resident() {
        let (now, peak) = (resident().unwrap(), peak_resident().unwrap());
        assert!(now > 0 && peak >= now / 2);
        assert!(available().unwrap() > 0);
        assert!(unread_program() > 0, "some code is never run");
    }
}
