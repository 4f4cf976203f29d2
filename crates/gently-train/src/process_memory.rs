//! What this process takes of the machine's memory, and what it may still take, as the system tells (Linux).
//!
//! Here: resident memory and its peak, what is free for a process inside of its control groups, code that is not in memory yet.
//! Not here: what a run will need ([`crate::plan`]).
//!
//! ```
//! use gently_train::process_memory::{available, resident};
//! if let (Some(taken), Some(free)) = (resident(), available()) {
//!     println!("{taken} bytes are taken, {free} are free");
//! }
//! ```

use std::path::Path;

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

/// Memory that this process may still take: the system's estimate, or what is left of its control groups' limits if
/// that is less.
pub fn available() -> Option<u64> {
    let system = field(&std::fs::read_to_string("/proc/meminfo").ok()?, "MemAvailable:")?;
    let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_else(|_| "0::/".into());
    let group = left_of_groups(&groups, |path| std::fs::read_to_string(path).ok());
    Some(group.map_or(system, |group| group.min(system)))
}

/// Where a version of control groups says what a group may take and has taken.
struct GroupFiles {
    root: &'static str,
    limit: &'static str,
    used: &'static str,
    /// Before the names in `memory.stat` that count a group with those inside it.
    whole: &'static str,
}

const VERSION_2: GroupFiles =
    GroupFiles { root: "/sys/fs/cgroup", limit: "memory.max", used: "memory.current", whole: "" };
const VERSION_1: GroupFiles = GroupFiles {
    root: "/sys/fs/cgroup/memory",
    limit: "memory.limit_in_bytes",
    used: "memory.usage_in_bytes",
    whole: "total_",
};

/// What is left for a process in `groups`, the text of its `/proc/self/cgroup`. A group is also held to the limits of those
/// around it, so the least counts. In a container the names may be those outside it: then only the root is there to be read, and it
/// is the container's own.
fn left_of_groups(groups: &str, read: impl Fn(&Path) -> Option<String>) -> Option<u64> {
    let mut least: Option<u64> = None;
    for line in groups.lines() {
        // 0::/user.slice/run.scope, and of version 1: 4:memory:/docker/3f8a
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(group)) = (parts.next(), parts.next()) else { continue };
        let files = match controllers {
            "" => VERSION_2,
            list if list.split(',').any(|name| name == "memory") => VERSION_1,
            _ => continue,
        };
        for group in Path::new(group.trim_start_matches('/')).ancestors() {
            let folder = Path::new(files.root).join(group);
            let text = |name: &str| read(&folder.join(name));
            let (Some(limit), Some(used)) = (text(files.limit), text(files.used)) else { continue };
            let stat = text("memory.stat").unwrap_or_default();
            if let Some(left) = left(&limit, &used, &stat, files.whole) {
                least = Some(least.map_or(left, |least| least.min(left)));
            }
        }
    }
    least
}

/// What is left of a group's limit. Of what it uses, the system takes the cached files and what else it can make again back
/// before it refuses anything. `None` without a limit.
fn left(limit: &str, used: &str, stat: &str, whole: &str) -> Option<u64> {
    let number = |text: &str| text.trim().parse::<u64>().ok();
    let of_stat = |name: &str| {
        let line = stat.lines().find_map(|line| line.strip_prefix(whole)?.strip_prefix(name)?.strip_prefix(' '));
        line.and_then(number).unwrap_or(0)
    };
    let taken_back =
        ["inactive_file", "active_file", "slab_reclaimable"].map(of_stat).into_iter().fold(0, u64::saturating_add);
    Some(number(limit)?.saturating_sub(number(used)?.saturating_sub(taken_back)))
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

    #[test]
    fn the_page_cache_of_a_group_is_not_taken() {
        let stat = "anon 300\nfile 600\ninactive_file 400\nactive_file 150\nslab_reclaimable 50\nslab 70\n";
        assert_eq!(left("1000\n", "950\n", stat, ""), Some(650));
        assert_eq!(left("1000", "950", "", ""), Some(50), "a file without the keys");
        assert_eq!(left("1000", "1200", stat, ""), Some(400));
        assert_eq!(left("1000", "100", stat, ""), Some(1000), "counted at another time than the use");
        // The keys of the group alone are not those of the whole.
        let stat = "inactive_file 7\nactive_file 7\ntotal_inactive_file 400\ntotal_active_file 150\n";
        assert_eq!(left("1000", "950", stat, "total_"), Some(600));
        assert_eq!(left("1000", "950", stat, ""), Some(64));
    }

    #[test]
    fn texts_that_say_nothing_limit_nothing() {
        for limit in ["max", "", "-1", "1e9", "99999999999999999999999"] {
            assert_eq!(left(limit, "5", "", ""), None, "{limit:?}");
        }
        assert_eq!(left("1000", "many", "", ""), None);
        let huge = format!("inactive_file {0}\nactive_file {0}\n", u64::MAX);
        assert_eq!(left("1000", "900", &huge, ""), Some(1000));
        for stat in ["inactive_file", "inactive_file x", "inactive_file -3", "inactive_files 50", "\n\n \u{0}"] {
            assert_eq!(left("1000", "900", stat, ""), Some(100), "{stat:?}");
        }
        let read = |_: &Path| Some("1000".to_owned());
        for groups in ["", "\n\n", "nonsense", "0:", "3:cpu,cpuacct:/a", "5:name=systemd:/memory", "4:memories:/a"] {
            assert_eq!(left_of_groups(groups, read), None, "{groups:?}");
        }
    }

    #[test]
    fn the_tightest_of_the_groups_around_a_process_counts() {
        let two = |path: &Path| {
            let text = match path.to_str()? {
                "/sys/fs/cgroup/a.slice/b.scope/memory.max" => "max",
                "/sys/fs/cgroup/a.slice/b.scope/memory.current" => "10",
                "/sys/fs/cgroup/a.slice/memory.max" => "1000",
                "/sys/fs/cgroup/a.slice/memory.current" => "800",
                "/sys/fs/cgroup/a.slice/memory.stat" => "inactive_file 100\n",
                // That of a container, whose group has another name outside.
                "/sys/fs/cgroup/memory.max" => "5000",
                "/sys/fs/cgroup/memory.current" => "1000",
                _ => return None,
            };
            Some(text.to_owned())
        };
        assert_eq!(left_of_groups("0::/a.slice/b.scope\n", two), Some(300));
        assert_eq!(left_of_groups("0::/docker/3f8a:x\n", two), Some(4000));
        assert_eq!(left_of_groups("0::/../../c\n", two), Some(4000));
        assert_eq!(left_of_groups("0::/", two), Some(4000));
        let one = |path: &Path| {
            let text = match path.to_str()? {
                "/sys/fs/cgroup/memory/docker/memory.limit_in_bytes" => "700",
                "/sys/fs/cgroup/memory/docker/memory.usage_in_bytes" => "600",
                "/sys/fs/cgroup/memory/docker/memory.stat" => "cache 1\ntotal_active_file 200\n",
                "/sys/fs/cgroup/memory/memory.limit_in_bytes" => "9223372036854771712",
                "/sys/fs/cgroup/memory/memory.usage_in_bytes" => "600",
                _ => return None,
            };
            Some(text.to_owned())
        };
        assert_eq!(left_of_groups("5:cpu:/docker\n4:hugetlb,memory:/docker\n0::/docker\n", one), Some(300));
        assert_eq!(left_of_groups("4:memory:/elsewhere\n", one), Some(9_223_372_036_854_771_112));
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
