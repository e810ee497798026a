//! How much memory the process uses, and may use.

use std::fs;

/// The share of the machine's memory that a node takes for its own unless told otherwise, in
/// hundredths: the rest is the kernel's, whose socket buffers are most of what clients cost.
const DEFAULT_SHARE_PERCENT: u64 = 80;

/// Bytes that are resident; `NoFault` where the system does not say.
pub(super) fn resident_bytes() -> Option<u64> {
    parse_kib_line(&fs::read_to_string("/proc/self/status").ok()?, "VmRSS:")
}

/// Bytes that a node may use unless told otherwise: a share of what the machine has, or of what its
/// control group may have. Zero, which is no bound, where the system does not say.
pub(super) fn default_memory_max() -> u64 {
    let machine = fs::read_to_string("/proc/meminfo").ok();
    let machine = machine.and_then(|text| parse_kib_line(&text, "MemTotal:"));
    let cgroup = fs::read_to_string("/sys/fs/cgroup/memory.max").ok();
    // It says `max` where there is no bound.
    let cgroup = cgroup.and_then(|text| text.trim().parse().ok());
    machine.into_iter().chain(cgroup).min().map_or(0, |bytes| bytes / 100 * DEFAULT_SHARE_PERCENT)
}

/// The number behind `rejected_name`, which stands in kibibytes.
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
