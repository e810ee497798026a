//! The disk space of the data directory, and the behaviour of a node when it is low.
//!
//! The last part of the disk is reserved for votes, elections, and the snapshots that free space. Below the
//! reserve publishes are rejected on this node; below half of it this replica also rejects appends with
//! publishes, so that entries accepted by leaders before they noticed still fit. Everything else continues,
//! and publishing resumes as soon as there is space.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use pushonce_core::DiskFull;
use pushonce_telemetry::LogLimiter;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::metrics;
use crate::store::STORE_FILE;

/// Interval of the measurements. A node that writes 200 MB a second writes 100 MB in it, which fits in half
/// of the smallest useful reserve.
const PROBE_INTERVAL: Duration = Duration::from_millis(500);

/// The default reserve: this many bytes, or this fraction of the disk if that is less.
const DEFAULT_RESERVE_BYTES: u64 = 256 << 20;
const DEFAULT_RESERVE_DIVISOR: u64 = 20;

/// The space of a file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskSpace {
    /// Bytes that this process may still use.
    pub free: u64,
    /// Total bytes.
    pub total: u64,
}

/// Measures the space of the file system of a directory.
pub type DiskProbe = Arc<dyn Fn(&Path) -> io::Result<DiskSpace> + Send + Sync>;

/// The disk space of a data directory. Clones share it.
#[derive(Clone)]
pub(crate) struct DiskReserve(Arc<DiskReserveShared>);

struct DiskReserveShared {
    dir: PathBuf,
    reserve_bytes: Option<u64>,
    probe: DiskProbe,
    /// A write failed for lack of space and waits.
    write_blocked: AtomicBool,
    measured: watch::Sender<DiskMeasurement>,
    reserve_limiters: FullAndFree,
    write_limiters: FullAndFree,
}

/// A disk at its bound may be full and free again with every probe. One limiter for each of the two lines.
#[derive(Default)]
struct FullAndFree {
    full: LogLimiter,
    free: LogLimiter,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct DiskMeasurement {
    free: u64,
    reserve: u64,
}

impl DiskSpace {
    /// Reads the space from the operating system.
    ///
    /// # Errors
    /// When the operating system returns an error.
    pub fn for_dir(dir: &Path) -> io::Result<DiskSpace> {
        let stat = rustix::fs::statvfs(dir)?;
        let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
        Ok(DiskSpace { free: bytes(stat.f_bavail), total: bytes(stat.f_blocks) })
    }

    fn reserve_bytes(&self, configured: Option<u64>) -> u64 {
        configured.unwrap_or(DEFAULT_RESERVE_BYTES.min(self.total / DEFAULT_RESERVE_DIVISOR))
    }
}

impl DiskReserve {
    pub(crate) fn new(dir: &Path, reserve_bytes: Option<u64>, probe: DiskProbe) -> DiskReserve {
        let measured = watch::Sender::new(DiskMeasurement { free: u64::MAX, reserve: 0 });
        let write_blocked = AtomicBool::new(false);
        let disk_reserve = DiskReserve(Arc::new(DiskReserveShared {
            dir: dir.into(),
            reserve_bytes,
            probe,
            write_blocked,
            measured,
            reserve_limiters: FullAndFree::default(),
            write_limiters: FullAndFree::default(),
        }));
        disk_reserve.measure();
        disk_reserve
    }

    /// Measures the disk periodically until `shutdown`.
    pub(crate) async fn run(self, shutdown: CancellationToken) {
        let mut next = tokio::time::interval(PROBE_INTERVAL);
        while shutdown.run_until_cancelled(next.tick()).await.is_some() {
            let disk_reserve = self.clone();
            // A network file system may block. An error means that the runtime is shutting down.
            let _ = tokio::task::spawn_blocking(move || disk_reserve.measure()).await;
        }
    }

    /// Measures the disk now.
    pub(crate) fn measure(&self) {
        // An unknown value rejects nothing: the write itself fails if the disk is full.
        let Ok(disk_space) = (self.0.probe)(&self.0.dir) else { return };
        let DiskSpace { free, total } = disk_space;
        metrics::DISK_FREE.register_gauge(&[]).set(free as f64);
        metrics::DISK_USED.register_gauge(&[]).set(total.saturating_sub(free) as f64);
        if let Ok(log) = std::fs::metadata(self.0.dir.join(STORE_FILE)) {
            metrics::LOG_BYTES.register_gauge(&[]).set(log.len() as f64);
        }
        let previous = self.publish_error();
        let measured = DiskMeasurement {
            free: disk_space.free,
            reserve: disk_space.reserve_bytes(self.0.reserve_bytes),
        };
        self.0.measured.send_if_modified(|known| std::mem::replace(known, measured) != measured);
        match (previous, self.publish_error()) {
            (None, Some(error)) => {
                if let Some(suppressed) = self.0.reserve_limiters.full.allow(Instant::now()) {
                    tracing::error!(%error, suppressed, "disk full, rejecting publishes");
                }
            }
            (Some(_), None) => {
                if let Some(suppressed) = self.0.reserve_limiters.free.allow(Instant::now()) {
                    tracing::info!(suppressed, "disk has free space again, accepting publishes");
                }
            }
            _ => {}
        }
    }

    /// Records that a write waits for space, or succeeded again.
    pub(crate) fn set_write_blocked(&self, blocked: bool) {
        if self.0.write_blocked.swap(blocked, Ordering::SeqCst) != blocked {
            let dir = self.0.dir.display();
            let FullAndFree { full, free } = &self.0.write_limiters;
            let limiter = if blocked { full } else { free };
            match limiter.allow(Instant::now()) {
                Some(suppressed) if blocked => {
                    tracing::error!(%dir, suppressed, "disk full, the log waits for free space");
                }
                Some(suppressed) => tracing::info!(%dir, suppressed, "log writes resumed"),
                None => {}
            }
            self.measure();
        }
    }

    /// The reason why publishes are rejected on this node, if they are.
    pub(crate) fn publish_error(&self) -> Option<DiskFull> {
        self.error_below(|reserve| reserve)
    }

    /// The reason why publishes from a leader are rejected, if they are.
    pub(crate) fn append_error(&self) -> Option<DiskFull> {
        self.error_below(|reserve| reserve / 2)
    }

    fn error_below(&self, threshold: impl Fn(u64) -> u64) -> Option<DiskFull> {
        let DiskMeasurement { free, reserve } = *self.0.measured.borrow();
        let full = free < threshold(reserve) || self.0.write_blocked.load(Ordering::SeqCst);
        full.then(|| DiskFull { dir: self.0.dir.clone(), free, reserve })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use pushonce_telemetry::test_util::TestRecorder;

    use super::*;

    fn disk_reserve(free: &Arc<AtomicU64>, reserve: Option<u64>) -> DiskReserve {
        let free = Arc::clone(free);
        let probe =
            move |_: &Path| Ok(DiskSpace { free: free.load(Ordering::SeqCst), total: 10 << 30 });
        DiskReserve::new(Path::new("/data"), reserve, Arc::new(probe))
    }

    #[test]
    fn publishes_stop_at_reserve_and_appends_at_half_of_it_and_both_resume() {
        let free = Arc::new(AtomicU64::new(1 << 30));
        let disk_reserve = disk_reserve(&free, None);
        let at = |bytes: u64| {
            free.store(bytes, Ordering::SeqCst);
            disk_reserve.measure();
            (disk_reserve.publish_error().is_some(), disk_reserve.append_error().is_some())
        };
        assert_eq!(at(1 << 30), (false, false));
        assert_eq!(at(255 << 20), (true, false));
        assert_eq!(at(127 << 20), (true, true));
        assert_eq!(at(256 << 20), (false, false));
    }

    #[test]
    fn each_measurement_sets_the_gauges_of_the_disk_and_the_log() {
        let (recorder, dir) = (TestRecorder::default(), tempfile::tempdir().unwrap());
        std::fs::write(dir.path().join(STORE_FILE), [0; 70]).unwrap();
        let probe = |_: &Path| Ok(DiskSpace { free: 3, total: 10 });
        recorder.run(|| DiskReserve::new(dir.path(), None, Arc::new(probe)));
        let values = [
            "pushonce_disk_free_bytes",
            "pushonce_disk_used_bytes",
            "pushonce_consensus_log_bytes",
        ];
        assert_eq!(values.map(|name| recorder.value(name, &[])), [3.0, 7.0, 70.0]);
    }

    #[test]
    fn reserve_is_configured_value_or_a_twentieth_of_small_disk() {
        let room = DiskSpace { free: 0, total: 1 << 30 };
        assert_eq!(room.reserve_bytes(None), (1 << 30) / 20);
        assert_eq!(DiskSpace { free: 0, total: 1 << 40 }.reserve_bytes(None), 256 << 20);
        assert_eq!(room.reserve_bytes(Some(0)), 0);
    }

    #[test]
    fn blocked_write_rejects_publishes_regardless_of_free_space() {
        let free = Arc::new(AtomicU64::new(1 << 30));
        let disk_reserve = disk_reserve(&free, None);
        disk_reserve.set_write_blocked(true);
        let full = disk_reserve.publish_error().unwrap().to_string();
        assert!(full.contains("/data") && full.contains("1024 MiB"), "{full}");
        disk_reserve.set_write_blocked(false);
        assert_eq!(disk_reserve.publish_error(), None);
    }

    #[test]
    fn disk_space_is_read_for_existing_directory_only() {
        let room = DiskSpace::for_dir(Path::new("/")).unwrap();
        assert!(room.free <= room.total && room.total > 0);
        assert!(DiskSpace::for_dir(Path::new("/no/such/directory")).is_err());
    }
}
