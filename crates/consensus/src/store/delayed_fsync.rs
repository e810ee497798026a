//! The store of [`FailPoint::AcknowledgeBeforeFsync`](pushonce_core::FailPoint).

use std::io;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::{RaftStore, StoreChange, StoredGroup};
use crate::GroupId;

/// Reports writes as durable and keeps them in memory for up to [`DELAY_MAX`].
pub(crate) struct DelayedFsyncStore<S> {
    store: S,
    buffered: Vec<(GroupId, StoreChange)>,
    flushed_at: Instant,
}

/// How long writes are kept in memory at most, while others follow.
const DELAY_MAX: Duration = Duration::from_secs(3);

impl<S: RaftStore> DelayedFsyncStore<S> {
    pub(crate) fn new(store: S) -> DelayedFsyncStore<S> {
        DelayedFsyncStore { store, buffered: Vec::new(), flushed_at: Instant::now() }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.flushed_at = Instant::now();
        if self.buffered.is_empty() {
            return Ok(());
        }
        self.store.write(&std::mem::take(&mut self.buffered))
    }
}

impl<S: RaftStore> RaftStore for DelayedFsyncStore<S> {
    fn write(&mut self, changes: &[(GroupId, StoreChange)]) -> io::Result<()> {
        self.buffered.extend_from_slice(changes);
        if self.flushed_at.elapsed() < DELAY_MAX { Ok(()) } else { self.flush() }
    }

    fn read(&mut self, group: GroupId) -> io::Result<StoredGroup> {
        self.flush()?;
        self.store.read(group)
    }

    fn read_piece(
        &mut self,
        group: GroupId,
        generation: u64,
        number: u32,
    ) -> io::Result<Option<Bytes>> {
        self.flush()?;
        self.store.read_piece(group, generation, number)
    }
}
