//! Which instruction set the kernels use, chosen once at start.
//!
//! Here: detection and the `GENTLY_CPU` override. Not here: the kernels themselves; each takes a
//! [`Path`] so that a test can run all the paths this machine has.
//!
//! ```
//! use gently_kernels::cpu;
//! assert!(cpu::available().contains(&cpu::path()));
//! ```

use std::sync::OnceLock;

/// An instruction-set level. Later levels contain the earlier ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Path {
    /// Portable Rust, no intrinsics.
    Plain,
    /// AVX2 and FMA: 8 lanes of f32, 16 registers.
    Avx2,
    /// AVX-512 F, BW, DQ, VL: 16 lanes of f32, 32 registers.
    Avx512,
    /// AVX-512 with BF16: pairs of bf16 multiplied and accumulated in f32.
    Avx512Bf16,
}

/// Lowest first.
const ALL: [Path; 4] = [Path::Plain, Path::Avx2, Path::Avx512, Path::Avx512Bf16];

impl Path {
    /// The name used by `GENTLY_CPU` and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Path::Plain => "plain",
            Path::Avx2 => "avx2",
            Path::Avx512 => "avx512",
            Path::Avx512Bf16 => "avx512bf16",
        }
    }

    /// The path with that name, if there is one.
    pub fn from_name(name: &str) -> Option<Path> {
        ALL.into_iter().find(|p| p.name().eq_ignore_ascii_case(name))
    }

    /// Whether this processor can run the path.
    pub fn supported(self) -> bool {
        self <= best()
    }

    /// Panics unless this processor can run the path. A path is a plain value, which anybody can make: this stands before
    /// its instructions.
    #[inline]
    pub(crate) fn check(self) {
        assert!(self.supported(), "path {} is not supported here", self.name());
    }
}

/// The best path of this processor, whatever `GENTLY_CPU` says.
fn best() -> Path {
    static BEST: OnceLock<Path> = OnceLock::new();
    *BEST.get_or_init(|| {
        // Unit tests may run under an emulator that catches the illegal instruction.
        #[cfg(test)]
        if let Some(p) = std::env::var("GENTLY_CPU_FORCE").ok().and_then(|s| Path::from_name(&s)) {
            return p;
        }
        detect()
    })
}

#[cfg(target_arch = "x86_64")]
fn detect() -> Path {
    use std::arch::is_x86_feature_detected as has;
    if !(has!("avx2") && has!("fma") && has!("f16c")) {
        return Path::Plain;
    }
    let avx512 = has!("avx512f") && has!("avx512bw") && has!("avx512dq") && has!("avx512vl");
    match (avx512, avx512 && has!("avx512bf16")) {
        (true, true) => Path::Avx512Bf16,
        (true, false) => Path::Avx512,
        _ => Path::Avx2,
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn detect() -> Path {
    Path::Plain
}

/// Whether the processor also has VNNI: four products of bytes summed into 32 bits by one instruction.
/// A capability beside the paths: every product of integers has a form without it.
pub fn has_vnni() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        std::arch::is_x86_feature_detected!("avx512vnni")
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        false
    }
}

/// The path all kernels take: the best this processor has, or a lower one named by the environment
/// variable `GENTLY_CPU` (`plain`, `avx2`, `avx512`, `avx512bf16`). Read once; an unknown name or a
/// level above the processor's is ignored: see [`unknown_choice`].
pub fn path() -> Path {
    static PATH: OnceLock<Path> = OnceLock::new();
    *PATH.get_or_init(|| {
        let wish = std::env::var("GENTLY_CPU").ok().and_then(|s| Path::from_name(&s));
        wish.map_or(best(), |w| w.min(best()))
    })
}

/// What `GENTLY_CPU` says if it names no path, for a program to warn of. An empty one says nothing.
pub fn unknown_choice() -> Option<String> {
    std::env::var_os("GENTLY_CPU").and_then(|s| unknown(&s.to_string_lossy()))
}

fn unknown(name: &str) -> Option<String> {
    (!name.is_empty() && Path::from_name(name).is_none()).then(|| name.to_owned())
}

/// All the paths this processor can run, lowest first.
pub fn available() -> Vec<Path> {
    ALL.into_iter().filter(|p| p.supported()).collect()
}

/// Asserts that `run` refuses each path that this processor cannot run.
#[cfg(test)]
#[track_caller]
pub(crate) fn assert_refused_elsewhere(run: impl Fn(Path)) {
    for path in ALL.into_iter().filter(|p| !p.supported()) {
        let refused = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run(path)));
        assert!(refused.is_err(), "{path:?} was run");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_go_both_ways_and_levels_nest() {
        for p in ALL {
            assert_eq!(Path::from_name(p.name()), Some(p));
        }
        assert_eq!(Path::from_name("sse9"), None);
        assert_eq!((unknown("sse9").as_deref(), unknown("AVX2"), unknown("")), (Some("sse9"), None, None));
        let all = available();
        assert_eq!(all[0], Path::Plain);
        assert!(all.windows(2).all(|w| w[0] < w[1]));
        assert!(path().supported());
    }
}
