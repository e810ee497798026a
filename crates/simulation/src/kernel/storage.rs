//! What the threads of a host do with its disk.

use std::path::{Path, PathBuf};

use super::disk::{Change, Disk, SyncStart};
use super::host::HostId;
use super::scheduler::{current_thread, end_turn_of_killed, wait};
use super::{ClockKind, Kernel, KernelGuard, cut_power, read_clock_here, with};

/// Whether a change of a file can be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DiskVerdict {
    /// It can.
    Proceed,
    /// There is no space.
    Full,
}

impl Kernel {
    fn disk_here(&mut self) -> &mut Disk {
        let host = self.running_process().host;
        &mut self.host_mut(host).disk
    }

    /// Sets the folder of the system in which the files of a host are.
    pub fn set_disk_root(&mut self, host: HostId, root: PathBuf) {
        self.host_mut(host).disk.root = root;
    }

    /// Takes the free space of a disk, or gives it back.
    pub fn set_disk_full(&mut self, host: HostId, is_full: bool) {
        self.host_mut(host).disk.is_full = is_full;
    }

    /// Sets the shortest time that a sync takes. The longest is twice that.
    pub fn set_sync_time(&mut self, host: HostId, ns: u64) {
        self.host_mut(host).disk.sync_ns = ns;
    }

    /// Lets the next syncs of a host fail.
    pub fn fail_syncs(&mut self, host: HostId, count: u32) {
        self.host_mut(host).disk.failing_syncs = count;
    }

    /// Cuts the power of a host when it has begun another `operations` changes and syncs of files.
    pub fn cut_power_after(&mut self, host: HostId, operations: u32) {
        self.host_mut(host).disk.operations_before_power_cut = Some(operations);
    }

    /// Everything that was written to a disk is durable.
    pub fn settle_disk(&mut self, host: HostId) {
        self.host_mut(host).disk.settle();
    }

    /// Withdraws [`Kernel::cut_power_after`].
    pub fn clear_power_cut(&mut self, host: HostId) {
        self.host_mut(host).disk.operations_before_power_cut = None;
    }
}

/// The file behind a descriptor of the process, if it is on the host's disk.
pub(crate) fn tracked_file(descriptor: i32) -> Option<PathBuf> {
    with(|kernel| kernel.disk_here().path_of(descriptor).cloned())
}

pub(crate) fn on_open(descriptor: i32, path: PathBuf) {
    with(|kernel| {
        let disk = kernel.disk_here();
        if disk.holds(&path) {
            disk.on_open(descriptor, path);
        }
    });
}

pub(crate) fn on_close(descriptor: i32) {
    with(|kernel| kernel.disk_here().on_close(descriptor));
}

pub(crate) fn on_change(path: &Path, change: Change) {
    with(|kernel| {
        let disk = kernel.disk_here();
        if disk.holds(path) {
            disk.on_change(path, change);
        }
    });
}

pub(crate) fn on_rename(from: &Path, to: &Path, replaced: Option<Vec<u8>>) {
    with(|kernel| {
        let disk = kernel.disk_here();
        if disk.holds(to) {
            disk.on_rename(from, to, replaced);
        }
    });
}

pub(crate) fn on_remove(path: &Path) {
    with(|kernel| kernel.disk_here().on_remove(path));
}

pub(crate) fn is_disk_full() -> bool {
    with(|kernel| kernel.disk_here().is_full)
}

/// Asks before a change of a file; `extends` when it needs more space. Does not return when the host loses its power
/// here.
pub(crate) fn before_change(extends: bool) -> DiskVerdict {
    count_operation();
    match with(|kernel| kernel.disk_here().is_full) && extends {
        true => DiskVerdict::Full,
        false => DiskVerdict::Proceed,
    }
}

/// Makes the changes of a file durable that were made before the call.
pub(crate) fn sync(path: &Path) -> SyncStart {
    count_operation();
    let mut kernel = KernelGuard::acquire();
    let host = kernel.running_process().host;
    let mut random = kernel.host_mut(host).random.fork();
    let start = kernel.host_mut(host).disk.begin_sync(path, &mut random);
    drop(kernel);
    if let (SyncStart::Takes { ns, changes }, Some(thread)) = (&start, current_thread()) {
        let until = read_clock_here(thread, ClockKind::Monotonic).as_nanos() as u64 + ns;
        wait(thread, Some(until));
        count_operation();
        with(|kernel| kernel.disk_here().finish_sync(path, *changes));
    }
    start
}

/// Ends the process here when its host is to lose its power now.
fn count_operation() {
    let cut = with(|kernel| {
        let host = kernel.running_process().host;
        let left = &mut kernel.host_mut(host).disk.operations_before_power_cut;
        match left {
            Some(0) => left.take().map(|_| host),
            Some(left) => {
                *left -= 1;
                None
            }
            None => None,
        }
    });
    if let Some(host) = cut {
        cut_power(host);
        end_turn_of_killed()
    }
}
