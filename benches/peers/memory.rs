//! Memory of a server: its own, and that of the kernel for all sockets.

use std::fs;

/// A measurement of the memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ServerMemory {
    /// Resident memory; pages shared by several of its processes count once.
    pub(crate) user_bytes: u64,
    /// Slab and socket buffers of the whole machine, including those of the generator.
    pub(crate) kernel_bytes: u64,
}

const PAGE_BYTES: u64 = 4_096;

impl ServerMemory {
    /// Measures the memory now. Values that cannot be read count as zero.
    pub(crate) fn measure(pids: &[u32]) -> ServerMemory {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let user = |pid| line_bytes(&read(&format!("/proc/{pid}/smaps_rollup")), "Pss:");
        let buffers = tcp_pages(&read("/proc/net/sockstat")) * PAGE_BYTES;
        ServerMemory {
            user_bytes: pids.iter().map(user).sum(),
            kernel_bytes: line_bytes(&read("/proc/meminfo"), "Slab:") + buffers,
        }
    }

    /// The growth since `before` per unit.
    pub(crate) fn per_unit(self, before: ServerMemory, count: usize) -> ServerMemory {
        let per_unit = |after: u64, before: u64| after.saturating_sub(before) / count.max(1) as u64;
        ServerMemory {
            user_bytes: per_unit(self.user_bytes, before.user_bytes),
            kernel_bytes: per_unit(self.kernel_bytes, before.kernel_bytes),
        }
    }
}

/// The value of a line in kibibytes, as bytes.
fn line_bytes(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kib.unwrap_or(0) * 1_024
}

/// The number of pages in TCP buffers.
fn tcp_pages(sockstat: &str) -> u64 {
    let line = sockstat.lines().find_map(|line| line.strip_prefix("TCP:")).unwrap_or_default();
    line.rsplit(' ').next().and_then(|pages| pages.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_files_are_parsed_to_bytes() {
        assert_eq!(line_bytes("Rss:   9 kB\nPss:     2 kB\nPss_Dirty:   1 kB\n", "Pss:"), 2_048);
        assert_eq!(
            tcp_pages(
                "sockets: used 9\nTCP: inuse 1 orphan 0 tw 0 alloc 1 mem 265\nUDP: inuse 0 mem 7\n"
            ),
            265
        );
    }
}
