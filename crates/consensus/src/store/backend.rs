//! What redb writes to, watched: redb tells that something failed, this tells what.
//!
//! A write that found no room may be tried again. A failed fsync never: the system may have dropped
//! what was to be synced, and the next fsync would call it durable.

use std::io;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use redb::{BackendError, StorageBackend};

/// What has failed first since the file was opened. Clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Failed(Arc<AtomicU8>);

const NOTHING: u8 = 0;
const ROOM: u8 = 1;
const ALL_ELSE: u8 = 2;

#[derive(Debug)]
pub(crate) struct Watched<B> {
    inner: B,
    failed: Failed,
}

impl Failed {
    /// Whether a write found no room, and nothing else was wrong before.
    pub(crate) fn for_want_of_room(&self) -> bool {
        self.0.load(Ordering::SeqCst) == ROOM
    }

    fn note(&self, what: u8) {
        let _first = self.0.compare_exchange(NOTHING, what, Ordering::SeqCst, Ordering::SeqCst);
    }
}

impl<B> Watched<B> {
    pub(crate) fn new(inner: B, failed: Failed) -> Watched<B> {
        Watched { inner, failed }
    }

    fn wrote<T>(&self, result: io::Result<T>) -> io::Result<T> {
        if let Err(error) = &result {
            self.failed.note(if is_full(error) { ROOM } else { ALL_ELSE });
        }
        result
    }

    fn all_else<T>(&self, result: io::Result<T>) -> io::Result<T> {
        if result.is_err() {
            self.failed.note(ALL_ELSE);
        }
        result
    }
}

/// Whether there was no room for a write.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

type Range = Bound<u64>;

impl<B: StorageBackend> StorageBackend for Watched<B> {
    fn len(&self) -> io::Result<u64> {
        self.all_else(self.inner.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.all_else(self.inner.read(offset, out))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.wrote(self.inner.set_len(len))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.all_else(self.inner.sync_data())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.wrote(self.inner.write(offset, data))
    }

    fn close(&self) -> io::Result<()> {
        self.inner.close()
    }

    fn try_lock_range(&self, start: Range, end: Range) -> Result<bool, BackendError> {
        self.inner.try_lock_range(start, end)
    }

    fn try_lock_shared_range(&self, start: Range, end: Range) -> Result<bool, BackendError> {
        self.inner.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Range, end: Range) -> Result<(), BackendError> {
        self.inner.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Range, end: Range) -> Result<(), BackendError> {
        self.inner.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Range, end: Range) -> Result<(), BackendError> {
        self.inner.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Range, end: Range) -> Result<bool, BackendError> {
        self.inner.query_lock_range(start, end)
    }
}
