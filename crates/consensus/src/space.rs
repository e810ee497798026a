//! How much room the data directory's disk has, and what a node does when there is little.
//!
//! The last of the room is kept for what a node cannot do without: votes, elections, and the
//! snapshots that make room again. Below the reserve nothing is published here; below half of it
//! this replica takes no more from the leaders of others either, so that what they had accepted
//! before they noticed still finds a place. All else goes on, and so does publishing as soon as
//! there is room.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// How often the disk is asked. A node that writes 200 MB a second gets 100 MB further meanwhile,
/// which half of the smallest useful reserve holds.
const INTERVAL: Duration = Duration::from_millis(500);

/// The reserve unless one is set: this many bytes, or this part of the disk if that is less.
const RESERVE_BYTES: u64 = 256 << 20;
const RESERVE_PART: u64 = 20;

/// What a file system has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Bytes that this process may still fill.
    pub free: u64,
    /// Bytes in all.
    pub total: u64,
}

/// Asks the system how much room there is where a directory lies.
pub type Probe = Arc<dyn Fn(&Path) -> io::Result<Room> + Send + Sync>;

/// There is too little room to publish here. Says where, how much there is, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the disk of {} has {} MiB left, and the last {} MiB are kept for elections and snapshots: \
     free some space there, or lower --disk-reserve; publishing resumes by itself",
    .dir.display(), .free >> 20, .reserve >> 20
)]
pub struct DiskFull {
    /// The data directory.
    pub dir: PathBuf,
    /// Bytes that are left.
    pub free: u64,
    /// Bytes that are kept.
    pub reserve: u64,
}

/// The room of one data directory. Clones share it.
#[derive(Clone)]
pub(crate) struct Space(Arc<Shared>);

struct Shared {
    dir: PathBuf,
    reserve: Option<u64>,
    probe: Probe,
    /// A write has found no room and waits.
    stuck: AtomicBool,
    measured: watch::Sender<Measured>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Measured {
    free: u64,
    reserve: u64,
}

impl Room {
    /// What the system says.
    ///
    /// # Errors
    /// When it cannot say.
    pub fn of(dir: &Path) -> io::Result<Room> {
        let stat = rustix::fs::statvfs(dir)?;
        let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
        Ok(Room { free: bytes(stat.f_bavail), total: bytes(stat.f_blocks) })
    }

    fn reserve(&self, wanted: Option<u64>) -> u64 {
        wanted.unwrap_or(RESERVE_BYTES.min(self.total / RESERVE_PART))
    }
}

impl Space {
    pub(crate) fn new(dir: &Path, reserve: Option<u64>, probe: Probe) -> Space {
        let measured = watch::Sender::new(Measured { free: u64::MAX, reserve: 0 });
        let stuck = AtomicBool::new(false);
        let space = Space(Arc::new(Shared { dir: dir.into(), reserve, probe, stuck, measured }));
        space.measure();
        space
    }

    /// Asks every now and then, until `shutdown`.
    pub(crate) async fn run(self, shutdown: CancellationToken) {
        let mut next = tokio::time::interval(INTERVAL);
        while shutdown.run_until_cancelled(next.tick()).await.is_some() {
            let space = self.clone();
            // A network file system may let it wait. An error means that the runtime is going.
            let _ = tokio::task::spawn_blocking(move || space.measure()).await;
        }
    }

    /// Asks now.
    pub(crate) fn measure(&self) {
        // Not knowing is no reason to refuse: the write itself will tell.
        let Ok(room) = (self.0.probe)(&self.0.dir) else { return };
        metrics::gauge!("pushonce_disk_free_bytes").set(room.free as f64);
        let was = self.refused();
        let measured = Measured { free: room.free, reserve: room.reserve(self.0.reserve) };
        self.0.measured.send_if_modified(|known| std::mem::replace(known, measured) != measured);
        match (was, self.refused()) {
            (None, Some(full)) => tracing::error!(%full, "publishes are refused"),
            (Some(_), None) => tracing::info!("the disk has room again: publishes are taken"),
            _ => {}
        }
    }

    /// A write found no room, or found some again.
    pub(crate) fn set_stuck(&self, stuck: bool) {
        if self.0.stuck.swap(stuck, Ordering::SeqCst) != stuck {
            let dir = self.0.dir.display();
            match stuck {
                true => tracing::error!(%dir, "the disk is full: the log waits for room"),
                false => tracing::info!(%dir, "the log is written again"),
            }
            self.measure();
        }
    }

    /// Why nothing may be published here, if so.
    pub(crate) fn refused(&self) -> Option<DiskFull> {
        self.under(|reserve| reserve)
    }

    /// Why nothing may be taken from a leader, if so.
    pub(crate) fn closed(&self) -> Option<DiskFull> {
        self.under(|reserve| reserve / 2)
    }

    fn under(&self, bar: impl Fn(u64) -> u64) -> Option<DiskFull> {
        let Measured { free, reserve } = *self.0.measured.borrow();
        let full = free < bar(reserve) || self.0.stuck.load(Ordering::SeqCst);
        full.then(|| DiskFull { dir: self.0.dir.clone(), free, reserve })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use super::*;

    fn space(free: &Arc<AtomicU64>, reserve: Option<u64>) -> Space {
        let free = Arc::clone(free);
        let probe = move |_: &Path| Ok(Room { free: free.load(Ordering::SeqCst), total: 10 << 30 });
        Space::new(Path::new("/data"), reserve, Arc::new(probe))
    }

    #[test]
    fn publishing_ends_at_the_reserve_and_taking_at_half_of_it_and_both_come_back() {
        let free = Arc::new(AtomicU64::new(1 << 30));
        let space = space(&free, None);
        let at = |bytes: u64| {
            free.store(bytes, Ordering::SeqCst);
            space.measure();
            (space.refused().is_some(), space.closed().is_some())
        };
        assert_eq!(at(1 << 30), (false, false));
        assert_eq!(at(255 << 20), (true, false));
        assert_eq!(at(127 << 20), (true, true));
        assert_eq!(at(256 << 20), (false, false));
    }

    #[test]
    fn the_reserve_is_what_was_said_or_a_twentieth_of_a_small_disk() {
        let room = Room { free: 0, total: 1 << 30 };
        assert_eq!(room.reserve(None), (1 << 30) / 20);
        assert_eq!(Room { free: 0, total: 1 << 40 }.reserve(None), 256 << 20);
        assert_eq!(room.reserve(Some(0)), 0);
    }

    #[test]
    fn a_write_that_waits_for_room_refuses_whatever_the_system_says() {
        let free = Arc::new(AtomicU64::new(1 << 30));
        let space = space(&free, None);
        space.set_stuck(true);
        let full = space.refused().unwrap().to_string();
        assert!(full.contains("/data") && full.contains("1024 MiB"), "{full}");
        space.set_stuck(false);
        assert_eq!(space.refused(), None);
    }

    #[test]
    fn the_system_knows_the_room_of_a_directory_and_of_none_that_is_missing() {
        let room = Room::of(Path::new("/")).unwrap();
        assert!(room.free <= room.total && room.total > 0);
        assert!(Room::of(Path::new("/no/such/directory")).is_err());
    }
}
