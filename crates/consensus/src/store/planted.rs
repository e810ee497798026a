//! A bug for the tests of the tests: the proof must catch it. In no build that anybody uses.

use std::io;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::{RaftStore, StoreChange, StoredGroup};
use crate::GroupId;

/// `acknowledge-before-fsync`: says that writes are durable, and keeps them in memory for a while.
pub(super) struct DelayedFsyncStore<S> {
    store: S,
    buffered: Vec<(GroupId, StoreChange)>,
    flushed_at: Instant,
}

/// How long writes are kept in memory at most, while others follow.
const DELAY_MAX: Duration = Duration::from_secs(3);

impl<S: RaftStore> DelayedFsyncStore<S> {
    pub(super) fn new(store: S) -> DelayedFsyncStore<S> {
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
        if std::env::var("PUSHONCE_PLANTED_BUG").as_deref() != Ok("acknowledge-before-fsync") {
            return self.store.write(changes);
        }
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
