//! Stands between openraft and a [`Machine`]: keeps what was applied last and the membership, and
//! takes snapshots.
//!
//! The machine lives in memory. After a restart it is the last snapshot plus the log behind it.

use std::io;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use bytes::Bytes;
use futures::{Stream, TryStreamExt};
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend};
use pushonce_core::Term;
use pushonce_core::versioned::Unreadable;

use crate::snapshot::{Image, Shelf};
use crate::types::{Answer, Entry, LogId, Snapshot, SnapshotMeta, StoredMembership, Types};
use crate::{At, Capture, Machine};

/// openraft's view of a machine.
pub(crate) struct Adapter {
    /// Never locked: openraft wants its state machine `Sync`, a machine need not be.
    machine: Mutex<Box<dyn Machine>>,
    shelf: Arc<Shelf>,
    applied: Option<LogId>,
    membership: StoredMembership,
    halted: Halted,
}

/// Why a replica has halted, once it has: it met something that this build cannot read. Clones share
/// it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Halted(Arc<OnceLock<String>>);

/// A state that was captured and is to be put on disk.
pub(crate) struct Builder {
    shelf: Arc<Shelf>,
    meta: SnapshotMeta,
    /// Taken by the first build. Never locked, as above.
    state: Mutex<Option<io::Result<Capture>>>,
}

impl Adapter {
    pub(crate) fn new(machine: Box<dyn Machine>, shelf: Arc<Shelf>) -> Adapter {
        Adapter {
            machine: Mutex::new(machine),
            shelf,
            applied: None,
            membership: StoredMembership::default(),
            halted: Halted::default(),
        }
    }

    /// Says why the replica has halted, if it has.
    pub(crate) fn halted(&self) -> Halted {
        self.halted.clone()
    }

    /// Restores the snapshot on disk, if there is one. With an error the machine is as it was.
    pub(crate) async fn load(&mut self) -> io::Result<()> {
        let Some(image) = self.shelf.current().await else { return Ok(()) };
        let meta = image.meta().clone();
        self.install_snapshot(&meta, image).await
    }

    pub(crate) fn into_machine(self) -> Box<dyn Machine> {
        self.machine.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    fn machine(&mut self) -> &mut dyn Machine {
        self.machine.get_mut().unwrap_or_else(PoisonError::into_inner).as_mut()
    }

    /// An entry that cannot be read does not count as applied, and ends the replica: one that went on
    /// would have another state than the others.
    fn apply_one(&mut self, entry: Entry) -> io::Result<Answer> {
        let log_id = entry.log_id;
        let answer = match entry.payload {
            EntryPayload::Blank => Answer(Bytes::new()),
            EntryPayload::Normal(data) => {
                let at = At { index: log_id.index, term: Term(log_id.leader_id.term) };
                let machine = self.machine();
                let applied = unless_panic("applying an entry", || machine.apply(at, &data.bytes))?;
                #[cfg(feature = "planted-bugs")]
                let applied = match applied {
                    Err(_) if crate::planted::skips_unreadable() => Ok(Bytes::new()),
                    applied => applied,
                };
                let halt = |why| self.halted.halt(&format!("entry {}", at.index), why);
                Answer(applied.map_err(halt)?)
            }
            EntryPayload::Membership(membership) => {
                self.membership = StoredMembership::new(Some(log_id), membership);
                Answer(Bytes::new())
            }
        };
        self.applied = Some(log_id);
        Ok(answer)
    }
}

impl Halted {
    /// The reason, if the replica has halted.
    pub(crate) fn why(&self) -> Option<&str> {
        self.0.get().map(String::as_str)
    }

    /// The replica halts at `what`.
    fn halt(&self, what: &str, why: Unreadable) -> io::Error {
        let text = format!("{what} cannot be read: {why}");
        self.0.get_or_init(|| text.clone());
        metrics::counter!("pushonce_halted_replicas_total").increment(1);
        // The reason itself: whoever starts a replica asks whether another build would read it.
        match why {
            Unreadable::Version(_) => io::Error::other(why),
            Unreadable::Unversioned(_) | Unreadable::Damaged(_) => io::Error::other(text),
        }
    }
}

impl RaftStateMachine<Types> for Adapter {
    type SnapshotData = Image;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        Ok((self.applied, self.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<Types>>> + Unpin + OptionalSend,
    {
        while let Some((entry, responder)) = entries.try_next().await? {
            let answer = self.apply_one(entry)?;
            if let Some(responder) = responder {
                responder.send(answer);
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        let meta =
            SnapshotMeta { last_log_id: self.applied, last_membership: self.membership.clone() };
        let machine = self.machine();
        let state = Mutex::new(Some(unless_panic("taking a snapshot", || machine.snapshot())));
        Builder { shelf: Arc::clone(&self.shelf), meta, state }
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, snapshot: Image) -> io::Result<()> {
        let whole = snapshot.whole().await?;
        let machine = self.machine();
        unless_panic("restoring a snapshot", || machine.restore(&whole))?
            .map_err(|why| self.halted.halt("the snapshot", why))?;
        self.shelf.publish(snapshot).await?;
        self.applied = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<Snapshot>> {
        Ok(self.shelf.current().await.map(Snapshot::from))
    }
}

impl RaftSnapshotBuilder<Types> for Builder {
    type SnapshotData = Image;

    async fn build_snapshot(&mut self) -> io::Result<Snapshot> {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        let state = state.ok_or_else(|| io::Error::other("the state was saved already"))??;
        self.shelf.save(self.meta.clone(), state).await.map(Snapshot::from)
    }
}

/// Makes an error of a panic in a machine. Without that only the task of the machine would end, and the
/// replica would go on to lead, or to follow, and never apply anything again.
fn unless_panic<T>(doing: &str, work: impl FnOnce() -> T) -> io::Result<T> {
    // With the error the replica ends: nobody sees the state that the panic left.
    let worked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
    worked.map_err(|_| io::Error::other(format!("{doing} has panicked")))
}
