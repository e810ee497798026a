//! What a node holds: its memory and its descriptors.

use std::fs;

use crate::node::ClusterNode;
use crate::wait::{secs, wait_until};

/// Memory that the allocator may keep after an attack, in bytes.
const RETAINED_BYTES_MAX: u64 = 96 << 20;

/// Descriptors of connections that come and go by themselves: probes, links, files.
const DESCRIPTORS_MARGIN: usize = 8;

/// The memory and the descriptors of a process.
#[derive(Clone, Copy, Debug)]
pub struct Footprint {
    /// Resident memory.
    pub resident_bytes: u64,
    /// Open descriptors.
    pub descriptors: usize,
}

impl Footprint {
    /// The present footprint of a running node.
    pub fn of(node: &ClusterNode) -> Footprint {
        let pid = node.pid().expect("the node runs").as_raw_nonzero();
        let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the node runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
        let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).expect("the node runs").count();
        Footprint { resident_bytes: kib.expect("a number of KiB") << 10, descriptors }
    }

    /// Waits until a node has no more than this baseline again.
    pub async fn wait_restored(self, node: &ClusterNode) {
        wait_until("memory and descriptors are back at the baseline", secs(60), async || {
            let now = Footprint::of(node);
            let is_restored = now.descriptors <= self.descriptors + DESCRIPTORS_MARGIN
                && now.resident_bytes <= self.resident_bytes + RETAINED_BYTES_MAX;
            if is_restored { Ok(()) } else { Err(format!("{self:?} became {now:?}")) }
        })
        .await;
    }
}
