//! Recovery of a replica that lost data it had acknowledged.
//!
//! The replica was counted in majorities, so it must not vote until it holds everything again: two such
//! replicas could elect a leader without the lost entries. Its leader holds everything that was committed, so
//! the replica has recovered when it holds all that its leader held at first contact. It still has its vote,
//! so it never votes twice in one term.
//!
//! A replica that left its group, was destroyed and is added again has lost everything as well: replicas that
//! do not know of its removal still count it in their majorities.
//!
//! The recovery mark is written to disk before anything else and stays until the recovery is complete.
//! Records that cannot be read are kept until there is a leader: if all replicas are damaged, or there are no
//! others, nothing is deleted.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use openraft::EntryPayload;
use pushonce_core::{CoverageMark, FailPoint};
use tokio::sync::{Mutex, watch};

use crate::log::consistency;
use crate::store::{self, GroupWriter, StoreChange, StoreKey, StoredGroup};
use crate::types::{LogEntry, LogId, StoredMembership, Vote};
use crate::{GroupId, snapshot};

/// The recovery of one replica.
pub(crate) struct ReplicaRecovery {
    writer: GroupWriter,
    /// Whether records on disk cannot be read. Locked while they are deleted.
    has_unreadable_records: Mutex<bool>,
    /// The last entry that the replica must hold to be complete; `None` before contact with a leader.
    target: watch::Sender<Option<LogId>>,
    has_met_leader: AtomicBool,
    finished: watch::Sender<bool>,
}

impl ReplicaRecovery {
    /// Writes the recovery mark to disk and begins the recovery.
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

    /// Whether the recovery is still in progress.
    pub(crate) fn is_active(&self) -> bool {
        !*self.finished.borrow()
    }

    /// Handles contact with a leader that holds everything up to `last`. Deletes the unreadable records
    /// first, so that they are never mixed with those that the leader sends.
    pub(crate) async fn on_leader_log(&self, last: Option<LogId>) -> io::Result<()> {
        let mut has_unreadable_records = self.has_unreadable_records.lock().await;
        if *has_unreadable_records {
            self.writer.write(vec![StoreChange::ClearReplica]).await?;
            *has_unreadable_records = false;
        }
        // The target is set first, and under the lock: if `try_finish` saw the contact without a target, an
        // empty replica would count as complete.
        if !self.has_met_leader.load(Ordering::SeqCst) {
            self.target.send_replace(last);
            self.has_met_leader.store(true, Ordering::SeqCst);
        }
        drop(has_unreadable_records);
        Ok(())
    }

    /// Removes the recovery mark if a replica that holds everything up to `last` is complete. Returns whether
    /// it is.
    pub(crate) async fn try_finish(&self, last: Option<LogId>) -> io::Result<bool> {
        if !self.has_met_leader.load(Ordering::SeqCst) || last < *self.target.borrow() {
            return Ok(false);
        }
        // Queued behind the entries themselves, so it is durable after them.
        self.writer.write(vec![StoreChange::Remove { key: StoreKey::Recovering }]).await?;
        self.finished.send_replace(true);
        Ok(true)
    }

    /// Waits until the recovery is complete.
    pub(crate) async fn wait_finished(&self) {
        // An error is impossible: the sender lives as long as `self`.
        let _ = self.finished.subscribe().wait_for(|finished| *finished).await;
    }
}

/// Whether a replica starts with less than it acknowledged: it recovers, or it left and was added again.
pub(crate) fn is_required(stored: &StoredGroup) -> bool {
    if FailPoint::RemovedReplicaVotes.is_active() {
        return stored.recovering.is_some();
    }
    let is_empty =
        stored.entries.is_empty() && stored.purged.is_none() && stored.snapshot.is_none();
    if stored.removed.is_some() && is_empty {
        CoverageMark::RemovedReplicaReturns.reach();
    }
    stored.recovering.is_some() || stored.removed.is_some() && is_empty
}

/// The part of a damaged replica's records that is used: its vote and its recovery mark.
pub(crate) fn salvage_vote(stored: &StoredGroup) -> StoredGroup {
    StoredGroup {
        vote: stored.vote.clone(),
        recovering: stored.recovering.clone(),
        ..StoredGroup::default()
    }
}

/// Checks the vote against all other readable records: without a vote at least as new, a replica could vote
/// twice in one term and must not start.
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

/// The newest readable membership, committed or not.
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

/// Whether there are other voters to recover from, according to the newest readable membership or else the
/// last leader.
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
