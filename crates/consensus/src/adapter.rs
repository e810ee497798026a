//! Stands between openraft and a [`Machine`]: keeps what was applied last and the membership,
//! takes snapshots, and puts them on disk.
//!
//! The machine lives in memory. After a restart it is the last snapshot plus the log behind it.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures::{Stream, TryStreamExt};
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend};
use pushonce_core::Term;
use serde::{Deserialize, Serialize};

use crate::store::{self, Change, GroupWriter, Key};
use crate::types::{Answer, Entry, LogId, Snapshot, SnapshotMeta, StoredMembership, Types};
use crate::{At, Machine};

/// openraft's view of a machine.
pub(crate) struct Adapter {
    /// Never locked: openraft wants its state machine `Sync`, a machine need not be.
    machine: Mutex<Box<dyn Machine>>,
    shelf: Arc<Shelf>,
    applied: Option<LogId>,
    membership: StoredMembership,
}

/// A snapshot that was taken and is to be put on disk.
pub(crate) struct Builder {
    shelf: Arc<Shelf>,
    taken: Taken,
}

/// The place of the one snapshot on disk. It never goes back: a snapshot that was taken here may be
/// saved late, when a newer one has come from the leader and the log behind that is gone.
struct Shelf {
    writer: GroupWriter,
    /// Bytes of the snapshot on disk, for whoever decides when to take the next.
    bytes: Arc<AtomicU64>,
    /// Held while saving. The last entry of the snapshot on disk.
    latest: tokio::sync::Mutex<Option<LogId>>,
}

#[derive(Clone, Serialize, Deserialize)]
struct Taken {
    meta: SnapshotMeta,
    data: Bytes,
}

impl Adapter {
    pub(crate) fn new(
        machine: Box<dyn Machine>,
        writer: GroupWriter,
        snapshot_bytes: Arc<AtomicU64>,
    ) -> Adapter {
        let latest = tokio::sync::Mutex::new(None);
        Adapter {
            machine: Mutex::new(machine),
            shelf: Arc::new(Shelf { writer, bytes: snapshot_bytes, latest }),
            applied: None,
            membership: StoredMembership::default(),
        }
    }

    fn machine(&mut self) -> &mut dyn Machine {
        self.machine.get_mut().unwrap_or_else(PoisonError::into_inner).as_mut()
    }

    fn apply_one(&mut self, entry: Entry) -> Answer {
        let log_id = entry.log_id;
        self.applied = Some(log_id);
        match entry.payload {
            EntryPayload::Blank => Answer(Bytes::new()),
            EntryPayload::Normal(data) => {
                let at = At { index: log_id.index, term: Term(log_id.leader_id.term) };
                Answer(self.machine().apply(at, &data.0))
            }
            EntryPayload::Membership(membership) => {
                self.membership = StoredMembership::new(Some(log_id), membership);
                Answer(Bytes::new())
            }
        }
    }
}

impl RaftStateMachine<Types> for Adapter {
    type SnapshotData = Bytes;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        Ok((self.applied, self.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<Types>>> + Unpin + OptionalSend,
    {
        while let Some((entry, responder)) = entries.try_next().await? {
            let answer = self.apply_one(entry);
            if let Some(responder) = responder {
                responder.send(answer);
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        let meta =
            SnapshotMeta { last_log_id: self.applied, last_membership: self.membership.clone() };
        let data = self.machine().snapshot();
        Builder { shelf: Arc::clone(&self.shelf), taken: Taken { meta, data } }
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, snapshot: Bytes) -> io::Result<()> {
        self.machine().restore(&snapshot).map_err(io::Error::other)?;
        self.shelf.save(&Taken { meta: meta.clone(), data: snapshot }).await?;
        self.applied = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<Snapshot>> {
        let taken = self.shelf.load().await?;
        Ok(taken.map(|Taken { meta, data }| Snapshot { meta, snapshot: data }))
    }
}

impl RaftSnapshotBuilder<Types> for Builder {
    type SnapshotData = Bytes;

    async fn build_snapshot(&mut self) -> io::Result<Snapshot> {
        self.shelf.save(&self.taken).await?;
        let Taken { meta, data } = self.taken.clone();
        Ok(Snapshot { meta, snapshot: data })
    }
}

impl Shelf {
    /// Returns when the snapshot, or a newer one, is durable: openraft purges the log behind it.
    async fn save(&self, taken: &Taken) -> io::Result<()> {
        let mut latest = self.latest.lock().await;
        if latest.is_some() && *latest >= taken.meta.last_log_id {
            return Ok(());
        }
        let record = store::seal(self.writer.group(), taken)?;
        self.bytes.store(record.len() as u64, Ordering::Relaxed);
        self.writer.write(vec![Change::Set { key: Key::Snapshot, record }]).await?;
        *latest = taken.meta.last_log_id;
        Ok(())
    }

    async fn load(&self) -> io::Result<Option<Taken>> {
        let mut latest = self.latest.lock().await;
        let Some(record) = self.writer.snapshot().await? else { return Ok(None) };
        self.bytes.store(record.len() as u64, Ordering::Relaxed);
        let taken: Taken = store::open(self.writer.group(), &record)?;
        *latest = taken.meta.last_log_id;
        Ok(Some(taken))
    }
}
