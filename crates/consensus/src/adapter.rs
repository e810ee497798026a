//! Adapts a [`StateMachine`] to openraft: tracks the last applied entry and the membership, and takes
//! snapshots.
//!
//! The machine lives in memory. After a restart it is restored from the last snapshot and the log after it.

use std::io;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use bytes::Bytes;
use futures::{Stream, TryStreamExt};
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend};
use pushonce_core::versioned::VersionedDecodeError;
use pushonce_core::{FailPoint, Term};

use crate::metrics;
use crate::snapshot::{SnapshotStore, StoredSnapshot};
use crate::types::{
    ApplyResponse, LogEntry, LogId, RaftSnapshot, SnapshotMeta, StoredMembership, TypeConfig,
};
use crate::{EntryId, StateMachine, StateSnapshot};

/// A state machine as openraft uses it.
pub(crate) struct StateMachineAdapter {
    /// Never locked: openraft requires `Sync`, which a machine need not be.
    machine: Mutex<Box<dyn StateMachine>>,
    snapshot_store: Arc<SnapshotStore>,
    last_applied: Option<LogId>,
    membership: StoredMembership,
    halt_reason: HaltReason,
}

/// The reason why a replica halted, once it has: it met data that this build cannot read. Clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct HaltReason(Arc<OnceLock<String>>);

/// A captured state to be written to disk.
pub(crate) struct SnapshotBuilder {
    snapshot_store: Arc<SnapshotStore>,
    meta: SnapshotMeta,
    /// Taken by the first build. Never locked: openraft requires `Sync`.
    state: Mutex<Option<io::Result<StateSnapshot>>>,
}

impl StateMachineAdapter {
    pub(crate) fn new(
        machine: Box<dyn StateMachine>,
        snapshot_store: Arc<SnapshotStore>,
    ) -> StateMachineAdapter {
        StateMachineAdapter {
            machine: Mutex::new(machine),
            snapshot_store,
            last_applied: None,
            membership: StoredMembership::default(),
            halt_reason: HaltReason::default(),
        }
    }

    /// The halt reason of the replica, which may be set later.
    pub(crate) fn halt_reason(&self) -> HaltReason {
        self.halt_reason.clone()
    }

    /// Restores the snapshot on disk, if there is one. After an error the machine is unchanged.
    pub(crate) async fn load_snapshot(&mut self) -> io::Result<()> {
        let Some(snapshot) = self.snapshot_store.current().await else { return Ok(()) };
        let meta = snapshot.meta().clone();
        self.install_snapshot(&meta, snapshot).await
    }

    pub(crate) fn into_machine(self) -> Box<dyn StateMachine> {
        self.machine.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    fn machine(&mut self) -> &mut dyn StateMachine {
        self.machine.get_mut().unwrap_or_else(PoisonError::into_inner).as_mut()
    }

    /// Applies an entry. An entry that cannot be read does not count as applied and ends the replica, because
    /// its state would diverge if it continued.
    fn apply_entry(&mut self, entry: LogEntry) -> io::Result<ApplyResponse> {
        let log_id = entry.log_id;
        let response = match entry.payload {
            EntryPayload::Blank => ApplyResponse(Bytes::new()),
            EntryPayload::Normal(data) => {
                let at = EntryId { index: log_id.index, term: Term(log_id.leader_id.term) };
                let machine = self.machine();
                let applied =
                    match catch_panic("applying an entry", || machine.apply(at, &data.bytes))? {
                        Err(_) if FailPoint::UnreadableEntrySkipped.is_active() => Ok(Bytes::new()),
                        applied => applied,
                    };
                let halt = |error| self.halt_reason.halt(&format!("entry {}", at.index), error);
                ApplyResponse(applied.map_err(halt)?)
            }
            EntryPayload::Membership(membership) => {
                self.membership = StoredMembership::new(Some(log_id), membership);
                ApplyResponse(Bytes::new())
            }
        };
        self.last_applied = Some(log_id);
        Ok(response)
    }
}

impl HaltReason {
    /// The reason, if the replica has halted.
    pub(crate) fn reason(&self) -> Option<&str> {
        self.0.get().map(String::as_str)
    }

    /// Records that the replica halted at `subject`.
    fn halt(&self, subject: &str, error: VersionedDecodeError) -> io::Error {
        let message = format!("{subject} cannot be read: {error}");
        self.0.get_or_init(|| message.clone());
        metrics::HALTED_REPLICAS.register_counter(&[]).increment(1);
        // The error itself, because the start of a replica distinguishes unsupported versions from damage.
        match error {
            VersionedDecodeError::Unsupported(_) => io::Error::other(error),
            VersionedDecodeError::MissingVersion(_) | VersionedDecodeError::Corrupt(_) => {
                io::Error::other(message)
            }
        }
    }
}

impl RaftStateMachine<TypeConfig> for StateMachineAdapter {
    type SnapshotData = StoredSnapshot;
    type SnapshotBuilder = SnapshotBuilder;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        Ok((self.last_applied, self.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<TypeConfig>>> + Unpin + OptionalSend,
    {
        while let Some((entry, responder)) = entries.try_next().await? {
            let response = self.apply_entry(entry)?;
            if let Some(responder) = responder {
                responder.send(response);
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder {
        let meta = SnapshotMeta {
            last_log_id: self.last_applied,
            last_membership: self.membership.clone(),
        };
        let machine = self.machine();
        let state = Mutex::new(Some(catch_panic("taking a snapshot", || machine.snapshot())));
        SnapshotBuilder { snapshot_store: Arc::clone(&self.snapshot_store), meta, state }
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: StoredSnapshot,
    ) -> io::Result<()> {
        let state = snapshot.read_all().await?;
        let machine = self.machine();
        catch_panic("restoring a snapshot", || machine.restore(&state))?
            .map_err(|error| self.halt_reason.halt("the snapshot", error))?;
        self.snapshot_store.make_current(snapshot).await?;
        self.last_applied = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<RaftSnapshot>> {
        Ok(self.snapshot_store.current().await.map(RaftSnapshot::from))
    }
}

impl RaftSnapshotBuilder<TypeConfig> for SnapshotBuilder {
    type SnapshotData = StoredSnapshot;

    async fn build_snapshot(&mut self) -> io::Result<RaftSnapshot> {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        let state = state.ok_or_else(|| io::Error::other("the state was saved already"))??;
        self.snapshot_store.save(self.meta.clone(), state).await.map(RaftSnapshot::from)
    }
}

/// Converts a panic in a machine into an error. Otherwise only the task of the machine would end, and the
/// replica would continue to lead or follow without applying entries.
fn catch_panic<T>(operation: &str, work: impl FnOnce() -> T) -> io::Result<T> {
    // The error ends the replica, so the state that the panic left is not used.
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
    result.map_err(|_| io::Error::other(format!("{operation} has panicked")))
}
