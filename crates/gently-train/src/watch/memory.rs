//! How much memory this process holds, as the system counts it.
//!
//! Here: resident size now and at its highest. Not here: the plan ([`crate::plan`]) and the tensor
//! pool's own books.
//!
//! ```
//! use gently_train::watch::memory;
//! if let Some(now) = memory::resident() {
//!     assert!(now > 0);
//! }
//! ```

/// Bytes resident now, where the system tells (Linux).
pub fn resident() -> Option<u64> {
    status("VmRSS:")
}

fn status(field: &str) -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/status").ok()?;
    parse(&text, field)
}

fn parse(text: &str, field: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(field))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_field_and_refuses_nonsense() {
        let text = "Name:\tgently\nVmHWM:\t  2048 kB\nVmRSS:\t  1024 kB\n";
        assert_eq!(parse(text, "VmRSS:"), Some(1 << 20));
        assert_eq!(parse(text, "VmHWM:"), Some(2 << 20));
        assert_eq!(parse(text, "VmSwap:"), None);
        assert_eq!(parse("VmRSS: many kB", "VmRSS:"), None);
    }
}
