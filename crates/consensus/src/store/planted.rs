//! A bug for the tests of the tests: the proof must catch it. In no build that anybody uses.

use std::io;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::{Change, Store, Stored};
use crate::GroupId;

/// `acknowledge-before-fsync`: says that writes are durable, and keeps them in memory for a while.
pub(super) struct Behind<S> {
    store: S,
    held: Vec<(GroupId, Change)>,
    since: Instant,
}

/// How long writes are kept in memory at most, while others follow.
const HELD: Duration = Duration::from_secs(3);

impl<S: Store> Behind<S> {
    pub(super) fn over(store: S) -> Behind<S> {
        Behind { store, held: Vec::new(), since: Instant::now() }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.since = Instant::now();
        if self.held.is_empty() {
            return Ok(());
        }
        self.store.write(&std::mem::take(&mut self.held))
    }
}

impl<S: Store> Store for Behind<S> {
    fn write(&mut self, changes: &[(GroupId, Change)]) -> io::Result<()> {
        if std::env::var("PUSHONCE_PLANTED_BUG").as_deref() != Ok("acknowledge-before-fsync") {
            return self.store.write(changes);
        }
        self.held.extend_from_slice(changes);
        if self.since.elapsed() < HELD { Ok(()) } else { self.flush() }
    }

    fn read(&mut self, group: GroupId) -> io::Result<Stored> {
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
