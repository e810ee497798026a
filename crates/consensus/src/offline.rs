//! Reads the groups of a stopped node, and recovers them with this node as the only voter.
//!
//! For a cluster that permanently lost the majority of a group. The data on this node's disk becomes a
//! snapshot that begins a new history of the group, far above every index and term that the lost replicas can
//! have reached, so that no position or term is assigned twice. A group that was recovered on one node must
//! never be recovered or continue on another.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;

use openraft::{EntryPayload, Membership};
use pushonce_core::{ClusterId, FailPoint, NodeId, Term};

use crate::log;
use crate::snapshot::offline as snapshot;
use crate::store::{self, RaftStore, RedbStore, StoreChange, StoreKey, StoredGroup};
use crate::types::{LogEntry, LogId, SnapshotMeta, StoredMembership, Vote};
use crate::{EngineOpenError, EntryId, GroupId, StateMachine, StateSnapshot};

/// Distance between the last known entry and the start of a new history. A group that commits 2,000 entries a
/// second needs 17 years for it.
pub(crate) const INDEX_STEP: u64 = 1 << 40;
/// Distance between the last known term and that of a new history. A group with an election every second
/// needs 136 years for it.
pub(crate) const TERM_STEP: u64 = 1 << 32;

/// The store of a stopped node. Before [`OfflineStore::commit`] only data that is not used yet is written.
pub struct OfflineStore {
    disk: RedbStore,
    me: NodeId,
    staged: Vec<(GroupId, StoreChange)>,
}

/// The state of a group on disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OfflineGroup {
    /// The configurations of the newest membership entry: one, or two during a change of the voters. Each is
    /// a set of voters, and the group needs a majority of each.
    pub voters: Vec<BTreeSet<NodeId>>,
    /// The index of the last entry; 0 when there is none.
    pub last_index: u64,
    /// The term of the last entry. Of two replicas, the one whose last entry has the higher term has more of
    /// the acknowledged entries; with equal terms, the one with the higher index.
    pub last_term: Term,
    /// The highest term: of the vote or of the last entry.
    pub term: Term,
    /// The replica lost data that it had acknowledged, and has not restored all of it.
    pub recovering: bool,
}

/// The reason why a group cannot be read or recovered. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum OfflineError {
    /// The data on disk cannot be read.
    #[error("group {group} cannot be read: {reason}")]
    Unreadable {
        /// The group.
        group: GroupId,
        /// The damage that was found.
        reason: String,
    },
    /// The disk failed or is full.
    #[error("the store cannot be read or written: {0}")]
    Disk(#[from] io::Error),
}

impl OfflineGroup {
    /// The start of a new history of the group, above all positions that other replicas can have assigned.
    pub fn new_history_start(&self) -> EntryId {
        self.new_history_start_after(0)
    }

    /// Like [`OfflineGroup::new_history_start`], for a group that may have been recovered `recoveries` times
    /// without this replica: each recovery moved it one step higher.
    pub fn new_history_start_after(&self, recoveries: u64) -> EntryId {
        if FailPoint::RecoveryReusesTerms.is_active() {
            return EntryId { index: self.last_index, term: self.term };
        }
        let steps = recoveries.saturating_add(1);
        let above = |last: u64, step: u64| last.saturating_add(step.saturating_mul(steps));
        EntryId {
            index: above(self.last_index, INDEX_STEP),
            term: Term(above(self.term.0, TERM_STEP)),
        }
    }
}

impl OfflineStore {
    /// Opens the store in `dir` and locks it.
    ///
    /// # Errors
    /// [`EngineOpenError::AlreadyOpen`] while a node uses it.
    pub fn open(
        dir: &Path,
        cluster: ClusterId,
        me: NodeId,
    ) -> Result<OfflineStore, EngineOpenError> {
        Ok(OfflineStore { disk: RedbStore::open(dir, cluster, me)?, me, staged: Vec::new() })
    }

    /// The groups that have a replica.
    ///
    /// # Errors
    /// [`OfflineError::Disk`] when the store cannot be read.
    pub fn groups(&mut self) -> Result<Vec<GroupId>, OfflineError> {
        Ok(self.disk.groups()?)
    }

    /// Applies the snapshot and the whole log to a new machine. Entries that were not known to be committed
    /// are applied too: the lost majority may have acknowledged them.
    ///
    /// # Errors
    /// [`OfflineError::Unreadable`] for a damaged replica.
    pub fn replay(
        &mut self,
        group: GroupId,
        machine: &mut dyn StateMachine,
    ) -> Result<OfflineGroup, OfflineError> {
        let stored = self.disk.read(group)?;
        let replayed = self.replay_stored(group, &stored, machine);
        replayed.map_err(|error| OfflineError::Unreadable { group, reason: error.to_string() })
    }

    fn replay_stored(
        &mut self,
        group: GroupId,
        stored: &StoredGroup,
        machine: &mut dyn StateMachine,
    ) -> io::Result<OfflineGroup> {
        let stored_log = log::read_stored(group, stored)?;
        let mut applied: Option<LogId> = None;
        let mut membership = StoredMembership::default();
        if let Some((meta, state)) = snapshot::read(&mut self.disk, group, stored)? {
            machine.restore(&state).map_err(io::Error::other)?;
            (applied, membership) = (meta.last_log_id, meta.last_membership);
        }
        for entry in stored_log.entries {
            let id = entry.log_id;
            let next = applied.map_or(0, |applied| applied.index.saturating_add(1));
            if id.index < next {
                continue;
            }
            if id.index > next {
                let message = format!("the entries {next} to {} are missing", id.index - 1);
                return Err(io::Error::new(io::ErrorKind::InvalidData, message));
            }
            match entry.payload {
                EntryPayload::Blank => {}
                EntryPayload::Normal(data) => {
                    let at = EntryId { index: id.index, term: Term(id.leader_id.term) };
                    machine.apply(at, &data.bytes).map_err(io::Error::other)?;
                }
                EntryPayload::Membership(changed) => {
                    membership = StoredMembership::new(Some(id), changed);
                }
            }
            applied = Some(id);
        }
        let last_term = applied.map_or(0, |applied| applied.leader_id.term);
        let vote_term = stored_log.vote.map_or(0, |vote| vote.leader_id.term);
        Ok(OfflineGroup {
            voters: configurations(&membership),
            last_index: applied.map_or(0, |applied| applied.index),
            last_term: Term(last_term),
            term: Term(vote_term.max(last_term)),
            recovering: stored.recovering.is_some(),
        })
    }

    /// Prepares a new history of a group: it begins with `state` at `at`, and this node is its only voter.
    ///
    /// # Errors
    /// [`OfflineError::Disk`] when the pieces of the snapshot cannot be written.
    pub fn force_new_group(
        &mut self,
        group: GroupId,
        at: EntryId,
        state: StateSnapshot,
    ) -> Result<(), OfflineError> {
        let stored = self.disk.read(group)?;
        let last = LogId::new_term_index(at.term.0, at.index);
        let voters = vec![BTreeSet::from([self.me.0])];
        let membership = Membership::new_with_defaults(voters, []);
        let meta = SnapshotMeta {
            last_log_id: Some(last),
            last_membership: StoredMembership::new(Some(last), membership),
        };
        let version = self.disk.version();
        let manifest = snapshot::write(&mut self.disk, group, version, &stored, meta, state)?;
        let set = |key, record| StoreChange::Set { key, record };
        let changes = [
            // The index of all existing entries is lower.
            StoreChange::Truncate { from: 0 },
            StoreChange::Purge {
                upto: at.index,
                record: store::encode_record(group, version, &last)?,
            },
            set(
                StoreKey::Vote,
                store::encode_record(group, version, &Vote::new(at.term.0, self.me.0))?,
            ),
            set(StoreKey::Committed, store::encode_record(group, version, &Some(last))?),
            set(StoreKey::Snapshot, manifest),
            StoreChange::Remove { key: StoreKey::Recovering },
            StoreChange::Remove { key: StoreKey::Removed },
        ];
        self.staged.extend(changes.into_iter().map(|change| (group, change)));
        let old = stored.generations.into_iter();
        self.staged.extend(old.map(|generation| (group, StoreChange::DeletePieces { generation })));
        Ok(())
    }

    /// Applies everything that was prepared in one atomic commit.
    ///
    /// # Errors
    /// [`OfflineError::Disk`] when the commit fails.
    pub fn commit(mut self) -> Result<(), OfflineError> {
        Ok(self.disk.write(&self.staged)?)
    }
}

fn configurations(membership: &StoredMembership) -> Vec<BTreeSet<NodeId>> {
    let configurations = membership.membership().get_joint_config().iter();
    configurations.map(|voters| voters.iter().copied().map(NodeId).collect()).collect()
}

/// The parts of a log that [`log::read_stored`] returns.
pub(crate) struct StoredLog {
    pub(crate) vote: Option<Vote>,
    pub(crate) entries: Vec<LogEntry>,
}
