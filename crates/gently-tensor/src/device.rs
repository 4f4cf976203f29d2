//! Where a tensor lives.
//!
//! ```
//! use gently_tensor::Device;
//! assert_eq!(Device::Cpu.to_string(), "cpu");
//! ```

use std::fmt;

/// Where a tensor's values live and who computes on them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Device {
    /// Main memory and the CPU kernels.
    #[default]
    Cpu,
    /// Shapes and memory accounting only: every operation runs and allocates from a simulated pool, nothing is computed.
    /// A step run here gives the peak memory of the same step on [`Device::Cpu`] exactly (kernels' own scratch aside).
    Meta,
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Device::Cpu => "cpu",
            Device::Meta => "meta",
        })
    }
}
