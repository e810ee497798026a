//! Checks what a peer sends before openraft, the log or the machine gets it.
//!
//! openraft trusts its peers: it adopts the vote of any request, asserts that log positions are consistent,
//! and adds 1 to every number. What is rejected here ends one request; past this point it would end the
//! replica, or the group.

use openraft::EntryPayload;
use openraft::raft::AppendEntriesRequest;
use pushonce_core::versioned::VersionedDecodeError;
use pushonce_core::{FailPoint, NodeId};

use crate::cluster_nodes::NodeStanding;
use crate::group::{CheckEntryFn, ENTRY_BYTES_MAX};
use crate::term_guard::{INDEX_JUMP_MAX, ImplausibleTerm, NUMBER_MAX};
use crate::types::{LogEntry, LogId, SnapshotMeta, StoredMembership, TypeConfig, Vote};

/// Maximum members of a group: twice those of a cluster, because removed members leave their groups one by
/// one.
const MEMBERS_MAX: usize = 2_000;

/// The reason why a request was rejected. Nothing happened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RequestRejection {
    /// The sender is not the node that the request is about.
    #[error("{sender} sent a request in the name of {named}")]
    NotSender { sender: NodeId, named: NodeId },
    /// The sender is no voter of the group, and its log does not show that it became one.
    #[error("{0} is no voter of the group")]
    NotAVoter(NodeId),
    /// The kind of the vote does not fit the request.
    #[error("the vote of {0} does not fit the request")]
    WrongVote(NodeId),
    #[error(transparent)]
    Term(#[from] ImplausibleTerm),
    /// The positions of the request contradict each other or this replica's log.
    #[error("the request has an invalid log position: {0}")]
    Position(String),
    #[error("the request has an invalid membership: {0}")]
    Membership(String),
    /// An entry, snapshot or body cannot be decoded, or is too large.
    #[error("the request cannot be read: {0}")]
    Malformed(String),
}

impl RequestRejection {
    /// The label in the metric.
    pub(crate) fn label(&self) -> &'static str {
        match self {
            RequestRejection::NotSender { .. }
            | RequestRejection::NotAVoter(_)
            | RequestRejection::WrongVote(_) => "sender",
            RequestRejection::Term(_) => "term",
            RequestRejection::Position(_) => "position",
            RequestRejection::Membership(_) => "membership",
            RequestRejection::Malformed(_) => "malformed",
        }
    }
}

/// What a replica knows about the sender of a request, and about its own log.
#[derive(Clone, Copy, Debug)]
pub(super) struct SenderFacts {
    pub(super) sender: NodeId,
    /// Whether the newest membership in this replica's log names the sender as a voter.
    pub(super) is_voter: bool,
    /// Whether this replica has a membership.
    pub(super) is_initialized: bool,
    pub(super) standing: NodeStanding,
    /// The vote of this replica.
    pub(super) vote: Option<Vote>,
    /// The last entry of this replica.
    pub(super) last: Option<LogId>,
}

/// Checks that a request of a leader comes from the node of its vote.
pub(super) fn check_leader_vote(sender: NodeId, vote: &Vote) -> Result<(), RequestRejection> {
    check_vote(sender, vote, true)
}

/// Checks that a vote request comes from its candidate.
pub(super) fn check_candidate_vote(sender: NodeId, vote: &Vote) -> Result<(), RequestRejection> {
    check_vote(sender, vote, false)
}

fn check_vote(sender: NodeId, vote: &Vote, is_leader: bool) -> Result<(), RequestRejection> {
    if FailPoint::SenderUnchecked.is_active() {
        return Ok(());
    }
    let named = NodeId(vote.leader_id.voted_for);
    if named != sender {
        return Err(RequestRejection::NotSender { sender, named });
    }
    if vote.committed != is_leader {
        return Err(RequestRejection::WrongVote(sender));
    }
    Ok(())
}

/// Checks that the sender may lead the group of this replica. `claimed_last` is the last entry that it has.
///
/// Raft does not limit requests to the members that a replica knows, because the replica may lack the entry
/// that made the sender a voter. But then the sender's log is longer: its term or its index is higher. And a
/// leader that has removed itself leads until that is committed.
pub(super) fn check_may_lead(
    facts: &SenderFacts,
    vote: &Vote,
    claimed_last: Option<LogId>,
) -> Result<(), RequestRejection> {
    let is_current_leader =
        facts.vote.is_some_and(|known| known.committed && known.leader_id == vote.leader_id);
    let may_be_newer = facts.standing != NodeStanding::NotCore
        && (!facts.is_initialized || claimed_last > facts.last);
    if facts.is_voter || is_current_leader || may_be_newer || FailPoint::SenderUnchecked.is_active()
    {
        return Ok(());
    }
    Err(RequestRejection::NotAVoter(facts.sender))
}

/// Checks a log position of a request made under `vote`. `own_last` is the last entry of this replica.
pub(super) fn check_position(
    id: Option<LogId>,
    vote: &Vote,
    own_last: Option<LogId>,
) -> Result<(), RequestRejection> {
    let Some(id) = id else { return Ok(()) };
    let invalid = |reason: &str| Err(RequestRejection::Position(format!("{id} {reason}")));
    if id.leader_id.term > vote.leader_id.term {
        return invalid("is of a later term than the request");
    }
    if id.index > NUMBER_MAX {
        return invalid("is beyond every index");
    }
    match own_last {
        Some(own) if id.index.saturating_sub(own.index) > INDEX_JUMP_MAX => {
            invalid("is too far from the last entry here")
        }
        _ => Ok(()),
    }
}

/// Checks the entries of an append: that they follow each other, that they do not contradict what this replica
/// has committed, and that each can be read. `own_id` is the entry here at an index.
pub(super) fn check_entries(
    append: &AppendEntriesRequest<TypeConfig>,
    committed: Option<LogId>,
    own_id: impl Fn(u64) -> Option<LogId>,
    check_entry: CheckEntryFn,
) -> Result<(), RequestRejection> {
    let mut previous = append.prev_log_id;
    let contradicts = |id: LogId| {
        committed.is_some_and(|committed| id.index <= committed.index)
            && own_id(id.index).is_some_and(|own| own != id)
    };
    if let Some(id) = previous.filter(|id| contradicts(*id)) {
        return Err(contradiction(id));
    }
    for entry in &append.entries {
        let id = entry.log_id;
        let next_index = previous.map_or(0, |id| id.index.saturating_add(1));
        let previous_term = previous.map_or(0, |id| id.leader_id.term);
        if id.index != next_index || id.leader_id.term < previous_term {
            let reason = format!("{id} does not follow {previous:?}");
            return Err(RequestRejection::Position(reason));
        }
        if contradicts(id) {
            return Err(contradiction(id));
        }
        check_payload(entry, check_entry)?;
        previous = Some(id);
    }
    let last = previous;
    check_position(last, &append.vote, None)
}

fn contradiction(id: LogId) -> RequestRejection {
    RequestRejection::Position(format!("{id} contradicts an entry that is committed here"))
}

fn check_payload(entry: &LogEntry, check_entry: CheckEntryFn) -> Result<(), RequestRejection> {
    if FailPoint::ReceivedEntryUnchecked.is_active() {
        return Ok(());
    }
    match &entry.payload {
        EntryPayload::Blank => Ok(()),
        EntryPayload::Membership(membership) => {
            let id = entry.log_id;
            check_membership(&StoredMembership::new(Some(id), membership.clone()), id)
        }
        EntryPayload::Normal(data) if data.bytes.len() > ENTRY_BYTES_MAX => {
            let bytes = data.bytes.len();
            Err(RequestRejection::Malformed(format!("an entry has {bytes} bytes")))
        }
        EntryPayload::Normal(data) => readable(check_entry(&data.bytes)),
    }
}

/// The result of decoding an entry or a snapshot. One of a version that this build does not support is
/// accepted: it halts the replica, which continues there with another build.
pub(super) fn readable(decoded: Result<(), VersionedDecodeError>) -> Result<(), RequestRejection> {
    match decoded {
        Ok(()) | Err(VersionedDecodeError::Unsupported(_)) => Ok(()),
        Err(error) => Err(RequestRejection::Malformed(error.to_string())),
    }
}

/// Checks the metadata of a snapshot that was offered under `vote`.
pub(super) fn check_snapshot_meta(
    meta: &SnapshotMeta,
    vote: &Vote,
    committed: Option<LogId>,
    own_last: Option<LogId>,
) -> Result<(), RequestRejection> {
    let Some(last) = meta.last_log_id else {
        return Err(RequestRejection::Position("a snapshot of an empty log".to_owned()));
    };
    check_position(Some(last), vote, own_last)?;
    let is_contradiction =
        |committed: LogId| (last.index <= committed.index) != (last <= committed);
    if committed.is_some_and(is_contradiction) {
        return Err(contradiction(last));
    }
    check_membership(&meta.last_membership, last)
}

/// Checks a membership in an entry, or in a snapshot that ends with the entry `last`.
fn check_membership(stored: &StoredMembership, last: LogId) -> Result<(), RequestRejection> {
    let invalid = |reason: &str| Err(RequestRejection::Membership(reason.to_owned()));
    let membership = stored.membership();
    let configurations = membership.get_joint_config();
    if stored.log_id().is_none_or(|id| id > last) {
        return invalid("it has no position in the log");
    }
    if !(1..=2).contains(&configurations.len()) || configurations.iter().any(|it| it.is_empty()) {
        return invalid("it has no voters, or too many configurations");
    }
    if membership.nodes().count() > MEMBERS_MAX || membership.get_node(&0).is_some() {
        return invalid("it has too many members, or one without an id");
    }
    let is_member = |voter: &u64| membership.get_node(voter).is_some();
    match configurations.iter().flatten().all(is_member) {
        true => Ok(()),
        false => invalid("a voter is not a member"),
    }
}

#[cfg(test)]
#[path = "request_check_test.rs"]
mod tests;
