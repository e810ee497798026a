//! A replica that has lost something it had acknowledged, and gets it from the others again.
//!
//! It has a part in every majority it was ever counted in, so until it holds all of that again it
//! must not vote: two that have forgotten could elect a leader that never knew. Its leader holds
//! whatever was committed, and more; so the replica is whole again when it holds all that its leader
//! held when they first met. Its vote it still has, so it never votes twice under one term.
//!
//! A replica that left its group, was destroyed, and comes back has lost everything: replicas that do not
//! know of its removal still count it in their majorities.
//!
//! That it recovers is on disk before anything else is done, and for as long as it does. What cannot
//! be read stays where it is until a leader is there: where all are damaged, or nobody else is,
//! nothing is deleted.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use openraft::EntryPayload;
use pushonce_core::FailPoint;
use tokio::sync::{Mutex, watch};

use crate::log::consistency;
use crate::store::{self, GroupWriter, StoreChange, StoreKey, StoredGroup};
use crate::types::{LogEntry, LogId, StoredMembership, Vote};
use crate::{GroupId, snapshot};

/// The recovery of one replica.
pub(crate) struct ReplicaRecovery {
    writer: GroupWriter,
    /// What is on disk cannot be read. Held while it is dropped.
    has_unreadable_records: Mutex<bool>,
    /// What it has to hold to be whole; `NoFault` before it has met a leader.
    target: watch::Sender<Option<LogId>>,
    has_met_leader: AtomicBool,
    finished: watch::Sender<bool>,
}

impl ReplicaRecovery {
    /// Puts the mark on disk.
    pub(crate) async fn begin(
        writer: GroupWriter,
        has_unreadable_records: bool,
    ) -> io::Result<ReplicaRecovery> {
        let record = writer.encode_record(&())?;
        let mark = StoreChange::Set { key: StoreKey::Recovering, record };
        writer.write(vec![mark, StoreChange::Remove { key: StoreKey::Removed }]).await?;
        Ok(ReplicaRecovery {
            writer,
            has_unreadable_records: Mutex::new(has_unreadable_records),
            target: watch::Sender::new(None),
            has_met_leader: AtomicBool::new(false),
            finished: watch::Sender::new(false),
        })
    }

    /// Whether it is still going on.
    pub(crate) fn is_active(&self) -> bool {
        !*self.finished.borrow()
    }

    /// A leader that holds everything up to `last` is about to send something. What could not be read
    /// goes first, so that it never mixes with what comes.
    pub(crate) async fn on_leader_log(&self, last: Option<LogId>) -> io::Result<()> {
        let mut has_unreadable_records = self.has_unreadable_records.lock().await;
        if *has_unreadable_records {
            self.writer.write(vec![StoreChange::ClearReplica]).await?;
            *has_unreadable_records = false;
        }
        // The target first, and under the lock: `end` must not see that a leader was met and no target, or
        // an empty replica would take itself for whole.
        if !self.has_met_leader.load(Ordering::SeqCst) {
            self.target.send_replace(last);
            self.has_met_leader.store(true, Ordering::SeqCst);
        }
        drop(has_unreadable_records);
        Ok(())
    }

    /// Takes the mark off the disk if a replica that holds everything up to `last` is whole again;
    /// says whether it is.
    pub(crate) async fn try_finish(&self, last: Option<LogId>) -> io::Result<bool> {
        if !self.has_met_leader.load(Ordering::SeqCst) || last < *self.target.borrow() {
            return Ok(false);
        }
        // Queued behind the entries themselves: durable after them.
        self.writer.write(vec![StoreChange::Remove { key: StoreKey::Recovering }]).await?;
        self.finished.send_replace(true);
        Ok(true)
    }

    /// Waits until it is over.
    pub(crate) async fn wait_finished(&self) {
        // The sender lives as long as this does.
        let _ = self.finished.subscribe().wait_for(|finished| *finished).await;
    }
}

/// Whether a replica begins with less than it has acknowledged: it recovers, or left and comes back.
pub(crate) fn is_required(stored: &StoredGroup) -> bool {
    if FailPoint::RemovedReplicaVotes.is_active() {
        return stored.recovering.is_some();
    }
    let is_empty =
        stored.entries.is_empty() && stored.purged.is_none() && stored.snapshot.is_none();
    stored.recovering.is_some() || stored.removed.is_some() && is_empty
}

/// What is left of a replica of which something cannot be read.
pub(crate) fn salvage_vote(stored: &StoredGroup) -> StoredGroup {
    StoredGroup {
        vote: stored.vote.clone(),
        recovering: stored.recovering.clone(),
        ..StoredGroup::default()
    }
}

/// Checks the vote against whatever else can be read: without a vote that is at least as new, a replica
/// could vote twice in one term, and must not start.
pub(crate) fn check_vote(
    group: GroupId,
    stored: &StoredGroup,
    vote: Option<Vote>,
) -> io::Result<()> {
    let entries = stored
        .entries
        .iter()
        .filter_map(|record| store::decode_record::<LogEntry>(group, record).ok());
    let purged = stored.purged.as_ref().and_then(|record| store::decode_record(group, record).ok());
    let snapshot = snapshot::last_log_id(group, stored).ok().flatten();
    let known = entries.map(|entry| entry.log_id).chain(purged).chain(snapshot);
    consistency::check_vote(vote, known)
}

/// The newest membership that is still readable, committed or not.
pub(crate) async fn newest_membership(
    writer: &GroupWriter,
    stored: &StoredGroup,
) -> Option<StoredMembership> {
    let group = writer.group();
    let in_log = stored.entries.iter().filter_map(|record| decode_membership(group, record));
    let mut newest = in_log.max_by_key(|membership| *membership.log_id());
    for &generation in &stored.generations {
        let found = snapshot::read_membership(writer, generation).await;
        newest = newest.into_iter().chain(found).max_by_key(|membership| *membership.log_id());
    }
    newest
}

/// Whether others than `me` can help: so say the newest membership that is still readable, or the
/// leader that was followed last.
pub(crate) async fn has_other_voters(
    me: u64,
    writer: &GroupWriter,
    stored: &StoredGroup,
    vote: Option<Vote>,
) -> bool {
    match newest_membership(writer, stored).await {
        Some(membership) => membership.voter_ids().any(|voter| voter != me),
        None => vote.is_some_and(|vote| vote.committed && vote.leader_id.voted_for != me),
    }
}

fn decode_membership(group: GroupId, record: &Bytes) -> Option<StoredMembership> {
    let entry: LogEntry = store::decode_record(group, record).ok()?;
    match entry.payload {
        EntryPayload::Membership(membership) => {
            Some(StoredMembership::new(Some(entry.log_id), membership))
        }
        _ => None,
    }
}
