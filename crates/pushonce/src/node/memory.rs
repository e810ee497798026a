//! The memory that the process uses, and its default limit.
//!
//! The values of `/proc` and `/sys` are read by hand: the crate `procfs` builds on Linux only and does not know
//! limits of cgroups; `sysinfo` 0.40 knows them and needs Rust 1.95, and 0.38 reads the root cgroup only.

use std::fs;
use std::path::Path;

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
    let cgroups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let cgroup = cgroup_memory_max(&cgroups, Path::new("/sys/fs/cgroup"));
    machine.into_iter().chain(cgroup).min().map_or(0, |bytes| bytes / 100 * DEFAULT_SHARE_PERCENT)
}

/// The lowest limit of the cgroups in `/proc/self/cgroup` and of their parents, which bind as well: a
/// service manager sets them on a slice or a service, a container runtime on the container.
fn cgroup_memory_max(cgroups: &str, mount_point: &Path) -> Option<u64> {
    // A line is `0::/path` in version 2, and `4:memory:/path` in version 1.
    let limits = cgroups.lines().flat_map(|line| {
        let (controllers, path) =
            line.split_once(':').and_then(|(_, rest)| rest.split_once(':')).unwrap_or_default();
        let (root, file) = match controllers {
            "" => (mount_point.to_owned(), "memory.max"),
            _ => (mount_point.join(controllers), "memory.limit_in_bytes"),
        };
        let cgroup = root.join(path.trim_start_matches('/'));
        let own_and_parents: Vec<_> = cgroup
            .ancestors()
            .take_while(|folder| folder.starts_with(&root))
            .map(Path::to_owned)
            .collect();
        // A file is missing at the root, and where a container has the host's paths. It contains `max` when
        // there is no limit.
        own_and_parents.into_iter().filter_map(move |folder| {
            fs::read_to_string(folder.join(file)).ok()?.trim().parse::<u64>().ok()
        })
    });
    limits.min()
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

    #[test]
    fn lowest_limit_of_the_cgroup_and_its_parents_applies() {
        let mount_point = tempfile::tempdir().expect("a directory");
        let write = |path: &str, text: &str| {
            let path = mount_point.path().join(path);
            fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
            fs::write(path, text).expect("a file");
        };
        write("system.slice/memory.max", "3000\n");
        write("system.slice/a.service/memory.max", "max\n");
        write("other.slice/memory.max", "1\n");
        write("memory/docker/memory.limit_in_bytes", "2000\n");
        let limit = |cgroups| cgroup_memory_max(cgroups, mount_point.path());
        assert_eq!(limit("0::/system.slice/a.service\n"), Some(3_000));
        assert_eq!(limit("4:memory:/docker/c1\n1:name=systemd:/docker/c1\n0::/\n"), Some(2_000));
        write("memory.max", "1500\n");
        assert_eq!(limit("0::/host/path\n"), Some(1_500));
        assert_eq!(limit("4:cpu,cpuacct:/docker\n"), None);
        assert_eq!(limit("broken"), Some(1_500));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn resident_memory_of_this_process_is_below_the_default_limit() {
        assert!(resident_bytes().is_some_and(|used| used > 0 && used < default_memory_max()));
    }
}
