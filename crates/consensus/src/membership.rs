//! Changes of the members of a group and of its leader, one at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::atomic::Ordering;
use std::time::Duration;

use openraft::ChangeMembers;
use openraft::errors::{ChangeMembershipError, ClientWriteError, RaftError};
use openraft::raft::ClientWriteResponse;
use pushonce_core::{CoverageMark, FailPoint, NodeId, Term};
use tokio::time::timeout;

use crate::types::TypeConfig;
use crate::{GroupStatus, RaftGroup};

/// Maximum lag in entries at which a voter counts as caught up: what a busy group has in flight at any
/// moment. The old leader waits for these entries, so the value bounds the pause.
const CAUGHT_UP_LAG_MAX: u64 = 64;

/// The reason why the members of a group, or its leader, were not changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MembershipError {
    /// This node does not lead the group.
    #[error("this node is not the leader{}", match leader { Some(node) => format!(": {node} leads"), None => String::new() })]
    NotLeader {
        /// The leader, if known.
        leader: Option<NodeId>,
    },
    /// Another change is in progress; wait for it.
    #[error("another change of this group is in progress")]
    Busy,
    /// The leadership was not transferred: the node cannot take over now.
    #[error("{node} cannot take over: {reason}")]
    Successor {
        /// The node that was to lead.
        node: NodeId,
        /// Why it cannot.
        reason: SuccessorRejection,
    },
    /// The change is not possible as requested. The message names what to change.
    #[error("{0}")]
    Invalid(String),
    /// The change may have happened, in part or whole, or may still happen: check the status.
    #[error("the outcome of the change is unknown: {0}")]
    Unknown(String),
}

/// Why a node cannot take over the leadership of a group. All but [`SuccessorRejection::NotAVoter`] pass by
/// themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SuccessorRejection {
    /// The voters are being changed.
    #[error("a change of voters is in progress")]
    ChangeInProgress,
    /// The node has no vote in the group.
    #[error("it is not a voter of the group: make it one first")]
    NotAVoter,
    /// The node lacks entries.
    #[error("it holds {matched} of {last} entries; wait until it has caught up")]
    Behind {
        /// The index of the last entry that it holds.
        matched: u64,
        /// The index of the last entry of the log.
        last: u64,
    },
    /// There is no link to the node.
    #[error("it is not reachable")]
    Unreachable,
    /// The node did not write an entry in time, although there is a link to it.
    #[error("it wrote no entry within {within:?}; retry")]
    Silent {
        /// The time that it had.
        within: Duration,
    },
}

type ClientWriteResult =
    Result<ClientWriteResponse<TypeConfig>, RaftError<TypeConfig, ClientWriteError<TypeConfig>>>;

impl RaftGroup {
    /// Adds a replica without a vote. Its node must have started the group uninitialised. Does not wait until
    /// the replica has caught up: see [`GroupStatus::matched`].
    pub async fn add_learner(&self, node: NodeId) -> Result<(), MembershipError> {
        self.change_membership(|| self.raft().add_learner(node.0, (), false)).await
    }

    /// Replaces the voters in one joint step; each must be a member already, and [`GroupStatus::matched`] must
    /// show that it holds entries: a replica without any rejects every candidate. Removed replicas are not notified:
    /// their node must stop and destroy them.
    pub async fn change_voters(&self, voters: BTreeSet<NodeId>) -> Result<(), MembershipError> {
        let voters = voters.into_iter().map(|node| node.0).collect();
        let change = ChangeMembers::ReplaceAllVoters(voters);
        self.change_membership(|| self.raft().change_membership(change.clone(), false)).await
    }

    /// Removes a replica without a vote.
    pub async fn remove_learner(&self, node: NodeId) -> Result<(), MembershipError> {
        let change = ChangeMembers::RemoveNodes(BTreeSet::from([node.0]));
        self.change_membership(|| self.raft().change_membership(change.clone(), true)).await
    }

    /// Transfers leadership to a voter that is caught up and reachable, and waits until it leads. `Ok` when
    /// `to` is this node and it leads already.
    ///
    /// Once `to` has shown that it can take over, this node does not lead again in its term, regardless of
    /// the outcome.
    pub async fn transfer_leadership(&self, to: NodeId) -> Result<(), MembershipError> {
        let _guard = self.0.change_lock.try_lock().map_err(|_| MembershipError::Busy)?;
        let status = self.read_status();
        let Some(term) = self.leader_term() else {
            return Err(MembershipError::NotLeader {
                leader: status.leader.filter(|n| *n != self.0.me),
            });
        };
        if to == self.0.me {
            return Ok(());
        }
        // openraft does not check the target: with one that cannot take over, the group would have no leader
        // until the next election.
        let rejection = |reason| MembershipError::Successor { node: to, reason };
        check_successor(&status, to).map_err(rejection)?;
        if !self.0.links.for_peer(to).is_up() {
            return Err(rejection(SuccessorRejection::Unreachable));
        }
        self.probe_successor(to).await?;
        if self.leader_term() != Some(term) {
            return Err(MembershipError::NotLeader { leader: None });
        }
        self.0.transferred_term.store(term.0, Ordering::SeqCst);
        self.0.announced_transfers.announce(term, to);
        self.0.status_dirty.notify_one();
        self.raft()
            .trigger()
            .transfer_leader(to.0)
            .await
            .map_err(|error| MembershipError::Unknown(error.to_string()))?;
        self.wait_for_new_leader(term, to).await
    }

    /// Waits until `to` has written an entry that is newer than this call. Its known log position does not
    /// show that it can lead: after a restart the replica may not run yet, and openraft rejects a transfer to
    /// a replica that has written nothing since its start. The group would have no leader until the next
    /// election.
    async fn probe_successor(&self, to: NodeId) -> Result<(), MembershipError> {
        if FailPoint::SuccessorUnprobed.is_active() {
            return Ok(());
        }
        let written = async {
            let blank =
                self.raft().write_blank().await.map_err(|error| self.to_membership_error(error))?;
            let has_blank_entry =
                |status: &GroupStatus| matched_index(&status.matched, to) >= blank.log_id.index;
            let mut status = self.status();
            self.0.status_dirty.notify_one();
            let decided =
                status.wait_for(|status| has_blank_entry(status) || !status.is_leader).await;
            match decided {
                Ok(status) if has_blank_entry(&status) => Ok(()),
                Ok(_) => Err(MembershipError::NotLeader { leader: None }),
                Err(_) => Err(MembershipError::Unknown("the replica was stopped".to_owned())),
            }
        };
        // An election takes about as long.
        let wait_max = self.0.settings.election_max;
        let reason = SuccessorRejection::Silent { within: wait_max };
        let timed_out = MembershipError::Successor { node: to, reason };
        timeout(wait_max, written).await.unwrap_or_else(|_| {
            CoverageMark::TransferRejected.reach();
            Err(timed_out)
        })
    }

    async fn wait_for_new_leader(&self, term: Term, to: NodeId) -> Result<(), MembershipError> {
        let unknown = |reason: String| Err(MembershipError::Unknown(reason));
        let mut status = self.status();
        let wait_max = 3 * self.0.settings.election_max;
        let new_leader = status.wait_for(|status| status.term > term && status.leader.is_some());
        match timeout(wait_max, new_leader).await {
            Ok(Ok(status)) if status.leader == Some(to) => Ok(()),
            Ok(Ok(status)) => {
                unknown(format!("{to} was expected to lead, but {:?} does", status.leader))
            }
            Ok(Err(_)) => unknown("the replica was stopped".to_owned()),
            Err(_) => unknown(format!("{to} did not take over within {wait_max:?}")),
        }
    }

    async fn change_membership<F>(&self, change: impl Fn() -> F) -> Result<(), MembershipError>
    where
        F: Future<Output = ClientWriteResult>,
    {
        let _guard = self.0.change_lock.try_lock().map_err(|_| MembershipError::Busy)?;
        let deadline = self.0.settings.proposal_deadline;
        match timeout(deadline, self.retry_change_while_busy(change)).await {
            Ok(changed) => changed,
            Err(_) => Err(MembershipError::Unknown(format!("no commit within {deadline:?}"))),
        }
    }

    /// Retries a change that a leader rejects because it was just elected or its last change is not
    /// committed.
    async fn retry_change_while_busy<F>(
        &self,
        change: impl Fn() -> F,
    ) -> Result<(), MembershipError>
    where
        F: Future<Output = ClientWriteResult>,
    {
        let mut status = self.status();
        loop {
            status.mark_unchanged();
            match change().await.map_err(|error| self.to_membership_error(error)) {
                Err(MembershipError::Busy) if status.changed().await.is_ok() => {}
                result => return result.map(drop),
            }
        }
    }

    fn to_membership_error(
        &self,
        error: RaftError<TypeConfig, ClientWriteError<TypeConfig>>,
    ) -> MembershipError {
        use ChangeMembershipError::{InProgress, UncommittedLeaderLog};
        match error {
            RaftError::APIError(ClientWriteError::ForwardToLeader(to)) => {
                MembershipError::NotLeader { leader: self.other_leader(&to) }
            }
            RaftError::APIError(ClientWriteError::ChangeMembershipError(error)) => match error {
                InProgress(_) | UncommittedLeaderLog(_) => MembershipError::Busy,
                error => MembershipError::Invalid(error.to_string()),
            },
            RaftError::APIError(ClientWriteError::PreconditionFailed(_)) => MembershipError::Busy,
            error => MembershipError::Unknown(error.to_string()),
        }
    }
}

/// Checks that a node can take over at once.
fn check_successor(status: &GroupStatus, to: NodeId) -> Result<(), SuccessorRejection> {
    if status.is_joint {
        return Err(SuccessorRejection::ChangeInProgress);
    }
    if !status.voters.contains(&to) {
        return Err(SuccessorRejection::NotAVoter);
    }
    let (matched, last) = (matched_index(&status.matched, to), status.last_log_index);
    if matched.saturating_add(CAUGHT_UP_LAG_MAX) < last {
        return Err(SuccessorRejection::Behind { matched, last });
    }
    Ok(())
}

fn matched_index(matched: &BTreeMap<NodeId, u64>, node: NodeId) -> u64 {
    matched.get(&node).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(matched: u64) -> GroupStatus {
        GroupStatus {
            voters: BTreeSet::from([NodeId(1), NodeId(2)]),
            last_log_index: 1000,
            matched: BTreeMap::from([(NodeId(2), matched)]),
            ..GroupStatus::default()
        }
    }

    #[test]
    fn only_caught_up_voter_can_take_over_leadership() {
        assert_eq!(check_successor(&status(990), NodeId(2)), Ok(()));
        assert!(check_successor(&status(900), NodeId(2)).is_err());
        assert!(check_successor(&status(990), NodeId(3)).is_err());
    }

    #[test]
    fn leadership_is_not_transferred_during_joint_configuration() {
        assert!(
            check_successor(&GroupStatus { is_joint: true, ..status(1000) }, NodeId(2)).is_err()
        );
    }
}
