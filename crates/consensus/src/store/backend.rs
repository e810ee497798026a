//! Tracks the failures of the file under redb, which reports that an operation failed but not why.
//!
//! A write that failed for lack of space may be retried. A failed fsync may not: the system may have dropped
//! the data, and the next fsync would report it as durable.

use std::io;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use redb::{BackendError, StorageBackend};

/// The first failure since the file was opened. Clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct FirstFailure(Arc<AtomicU8>);

const NO_FAILURE: u8 = 0;
const DISK_FULL: u8 = 1;
const OTHER_FAILURE: u8 = 2;

#[derive(Debug)]
pub(crate) struct TrackedBackend<B> {
    inner: B,
    first_failure: FirstFailure,
}

impl FirstFailure {
    /// Whether the first failure was a write without space.
    pub(crate) fn is_disk_full(&self) -> bool {
        self.0.load(Ordering::SeqCst) == DISK_FULL
    }

    fn record(&self, kind: u8) {
        let _first = self.0.compare_exchange(NO_FAILURE, kind, Ordering::SeqCst, Ordering::SeqCst);
    }
}

impl<B> TrackedBackend<B> {
    pub(crate) fn new(inner: B, first_failure: FirstFailure) -> TrackedBackend<B> {
        TrackedBackend { inner, first_failure }
    }

    fn track_write<T>(&self, result: io::Result<T>) -> io::Result<T> {
        if let Err(error) = &result {
            self.first_failure.record(if is_disk_full(error) { DISK_FULL } else { OTHER_FAILURE });
        }
        result
    }

    fn track_other<T>(&self, result: io::Result<T>) -> io::Result<T> {
        if result.is_err() {
            self.first_failure.record(OTHER_FAILURE);
        }
        result
    }
}

/// Whether a write failed for lack of space.
pub(crate) fn is_disk_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

type LockBound = Bound<u64>;

impl<B: StorageBackend> StorageBackend for TrackedBackend<B> {
    fn len(&self) -> io::Result<u64> {
        self.track_other(self.inner.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.track_other(self.inner.read(offset, out))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.track_write(self.inner.set_len(len))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.track_other(self.inner.sync_data())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.track_write(self.inner.write(offset, data))
    }

    fn close(&self) -> io::Result<()> {
        self.inner.close()
    }

    fn try_lock_range(&self, start: LockBound, end: LockBound) -> Result<bool, BackendError> {
        self.inner.try_lock_range(start, end)
    }

    fn try_lock_shared_range(
        &self,
        start: LockBound,
        end: LockBound,
    ) -> Result<bool, BackendError> {
        self.inner.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: LockBound, end: LockBound) -> Result<(), BackendError> {
        self.inner.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: LockBound, end: LockBound) -> Result<(), BackendError> {
        self.inner.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: LockBound, end: LockBound) -> Result<(), BackendError> {
        self.inner.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: LockBound, end: LockBound) -> Result<bool, BackendError> {
        self.inner.query_lock_range(start, end)
    }
}
