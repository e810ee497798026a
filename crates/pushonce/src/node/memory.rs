//! How much memory the process uses, and may use.

use std::fs;

/// The share of the machine's memory that a node takes for its own unless told otherwise, in
/// hundredths: the rest is the kernel's, whose socket buffers are most of what clients cost.
const SHARE: u64 = 80;

/// Bytes that are resident; `None` where the system does not say.
pub(super) fn resident() -> Option<u64> {
    kibibytes(&fs::read_to_string("/proc/self/status").ok()?, "VmRSS:")
}

/// Bytes that a node may use unless told otherwise: a share of what the machine has, or of what its
/// control group may have. Zero, which is no bound, where the system does not say.
pub(super) fn usual_max() -> u64 {
    let machine = fs::read_to_string("/proc/meminfo").ok();
    let machine = machine.and_then(|text| kibibytes(&text, "MemTotal:"));
    let group = fs::read_to_string("/sys/fs/cgroup/memory.max").ok();
    // It says `max` where there is no bound.
    let group = group.and_then(|text| text.trim().parse().ok());
    machine.into_iter().chain(group).min().map_or(0, |bytes| bytes / 100 * SHARE)
}

/// The number behind `name`, which stands in kibibytes.
fn kibibytes(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    let number: u64 = line.trim().strip_suffix("kB")?.trim_end().parse().ok()?;
    number.checked_mul(1 << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_found_by_its_name() {
        let text = "Name:\ta\nVmHWM:\t    9 kB\nVmRSS:\t    2048 kB\nThreads:\t1\n";
        assert_eq!(kibibytes(text, "VmRSS:"), Some(2 << 20));
        assert_eq!(kibibytes(text, "MemTotal:"), None);
        assert_eq!(kibibytes("VmRSS: many kB", "VmRSS:"), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_uses_less_than_it_may() {
        assert!(resident().is_some_and(|used| used > 0 && used < usual_max()));
    }
}
