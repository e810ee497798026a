//! The memory that the process uses, and its default limit.

use std::fs;

/// The default share of the machine's memory that a node may use, in percent. The rest is for the kernel,
/// whose socket buffers are most of the cost of clients.
const DEFAULT_SHARE_PERCENT: u64 = 80;

/// Resident memory of the process in bytes; `None` where the system does not report it.
pub(super) fn resident_bytes() -> Option<u64> {
    parse_kib_line(&fs::read_to_string("/proc/self/status").ok()?, "VmRSS:")
}

/// The default memory limit in bytes: a share of the machine's memory, or of the limit of the process's
/// cgroup. Zero, which is no limit, where the system does not report either.
pub(super) fn default_memory_max() -> u64 {
    let machine = fs::read_to_string("/proc/meminfo").ok();
    let machine = machine.and_then(|text| parse_kib_line(&text, "MemTotal:"));
    let cgroup = fs::read_to_string("/sys/fs/cgroup/memory.max").ok();
    // The file contains `max` when there is no limit.
    let cgroup = cgroup.and_then(|text| text.trim().parse().ok());
    machine.into_iter().chain(cgroup).min().map_or(0, |bytes| bytes / 100 * DEFAULT_SHARE_PERCENT)
}

/// The number after the field `name`, which the file gives in kibibytes.
fn parse_kib_line(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    let number: u64 = line.trim().strip_suffix("kB")?.trim_end().parse().ok()?;
    number.checked_mul(1 << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn value_is_found_by_its_field_name() {
        let text = "Name:\ta\nVmHWM:\t    9 kB\nVmRSS:\t    2048 kB\nThreads:\t1\n";
        assert_eq!(parse_kib_line(text, "VmRSS:"), Some(2 << 20));
        assert_eq!(parse_kib_line(text, "MemTotal:"), None);
        assert_eq!(parse_kib_line("VmRSS: many kB", "VmRSS:"), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn resident_memory_of_this_process_is_below_the_default_limit() {
        assert!(resident_bytes().is_some_and(|used| used > 0 && used < default_memory_max()));
    }
}
