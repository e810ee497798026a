//! Changing who is in a group, and who leads it: one change at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::atomic::Ordering;

use openraft::ChangeMembers;
use openraft::errors::{ChangeMembershipError, ClientWriteError, RaftError};
use openraft::raft::ClientWriteResponse;
use pushonce_core::{NodeId, Term};
use tokio::time::timeout;

use crate::types::Types;
use crate::{Group, Status};

/// How many entries a voter may lag behind and still be called level: what a busy group has on its
/// way at any moment. The old leader waits for it, so the count is the length of the pause.
const LEVEL_LAG: u64 = 64;

/// Why the members of a group, or its leader, were not changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// This node does not lead the group.
    #[error("not the leader{}", match leader { Some(node) => format!(": {node} leads"), None => String::new() })]
    NotLeader {
        /// Who leads, if known.
        leader: Option<NodeId>,
    },
    /// Another change is under way; wait.
    #[error("another change of this group is under way")]
    Busy,
    /// It cannot be done as asked. Says what to change.
    #[error("{0}")]
    Invalid(String),
    /// It may have happened, in part or whole, or may still: look at the status.
    #[error("the outcome of the change is unknown: {0}")]
    Unknown(String),
}

type Written = Result<ClientWriteResponse<Types>, RaftError<Types, ClientWriteError<Types>>>;

impl Group {
    /// Adds a replica that follows without a vote; its node must have started the group,
    /// uninitialised. Does not wait until it is level: see [`Status::matched`].
    pub async fn add_learner(&self, node: NodeId) -> Result<(), ChangeError> {
        self.change(|| self.raft().add_learner(node.0, (), false)).await
    }

    /// Makes these the voters, in one joint step; each must be a member already. The removed are
    /// dropped entirely: nobody tells them, so their replica is to be stopped and destroyed.
    pub async fn change_voters(&self, voters: BTreeSet<NodeId>) -> Result<(), ChangeError> {
        let voters = voters.into_iter().map(|node| node.0).collect();
        let change = ChangeMembers::ReplaceAllVoters(voters);
        self.change(|| self.raft().change_membership(change.clone(), false)).await
    }

    /// Drops a replica that only follows.
    pub async fn remove_learner(&self, node: NodeId) -> Result<(), ChangeError> {
        let change = ChangeMembers::RemoveNodes(BTreeSet::from([node.0]));
        self.change(|| self.raft().change_membership(change.clone(), true)).await
    }

    /// Hands leadership to a voter that is level and reachable, and waits until it leads. `Ok` when
    /// this node is meant and leads already.
    ///
    /// Once `to` has shown that it can take over, this node does not lead in its term any more, whatever
    /// comes of it.
    pub async fn transfer(&self, to: NodeId) -> Result<(), ChangeError> {
        let _one = self.0.changing.try_lock().map_err(|_| ChangeError::Busy)?;
        let status = self.look();
        let Some(term) = self.leads() else {
            return Err(ChangeError::NotLeader {
                leader: status.leader.filter(|n| *n != self.0.me),
            });
        };
        if to == self.0.me {
            return Ok(());
        }
        // openraft checks nothing: with a target that cannot take over, the group would have no
        // leader until the next election.
        successor(&status, to).map_err(ChangeError::Invalid)?;
        if !self.0.links.to(to).is_up() {
            return Err(ChangeError::Invalid(format!("{to} cannot be reached now")));
        }
        self.probe(to).await?;
        if self.leads() != Some(term) {
            return Err(ChangeError::NotLeader { leader: None });
        }
        self.0.handed_over.store(term.0, Ordering::SeqCst);
        self.0.nudge.notify_one();
        self.raft()
            .trigger()
            .transfer_leader(to.0)
            .await
            .map_err(|error| ChangeError::Unknown(error.to_string()))?;
        self.confirmed(term, to).await
    }

    /// Waits until `to` has written an entry that is newer than this call. Its known log position does not
    /// show that it can lead: after a restart the replica may not run yet, and openraft refuses a transfer to
    /// a replica that has written nothing since its start. The group would have no leader until the next
    /// election.
    async fn probe(&self, to: NodeId) -> Result<(), ChangeError> {
        #[cfg(feature = "planted-bugs")]
        if crate::planted::probes_nobody() {
            return Ok(());
        }
        let written = async {
            let blank = self.raft().write_blank().await.map_err(|error| self.not_changed(error))?;
            let has_it = |status: &Status| matched(&status.matched, to) >= blank.log_id.index;
            let mut status = self.status();
            self.0.nudge.notify_one();
            let decided = status.wait_for(|status| has_it(status) || !status.leads).await;
            match decided {
                Ok(status) if has_it(&status) => Ok(()),
                Ok(_) => Err(ChangeError::NotLeader { leader: None }),
                Err(_) => Err(ChangeError::Unknown("the replica was stopped".to_owned())),
            }
        };
        // An election takes as long.
        let patience = self.0.settings.election_max;
        let late = || ChangeError::Invalid(format!("{to} wrote no entry within {patience:?}"));
        timeout(patience, written).await.unwrap_or_else(|_| Err(late()))
    }

    async fn confirmed(&self, term: Term, to: NodeId) -> Result<(), ChangeError> {
        let unknown = |why: String| Err(ChangeError::Unknown(why));
        let mut status = self.status();
        let patience = 3 * self.0.settings.election_max;
        let settled = status.wait_for(|status| status.term > term && status.leader.is_some());
        match timeout(patience, settled).await {
            Ok(Ok(status)) if status.leader == Some(to) => Ok(()),
            Ok(Ok(status)) => unknown(format!("not {to} but {:?} leads now", status.leader)),
            Ok(Err(_)) => unknown("the replica was stopped".to_owned()),
            Err(_) => unknown(format!("{to} did not take over within {patience:?}")),
        }
    }

    async fn change<F>(&self, change: impl Fn() -> F) -> Result<(), ChangeError>
    where
        F: Future<Output = Written>,
    {
        let _one = self.0.changing.try_lock().map_err(|_| ChangeError::Busy)?;
        let deadline = self.0.settings.proposal_deadline;
        match timeout(deadline, self.change_when_settled(change)).await {
            Ok(changed) => changed,
            Err(_) => Err(ChangeError::Unknown(format!("no commit within {deadline:?}"))),
        }
    }

    /// A leader that has just been elected, or whose last change is not committed yet, refuses the
    /// next one: waits for that.
    async fn change_when_settled<F>(&self, change: impl Fn() -> F) -> Result<(), ChangeError>
    where
        F: Future<Output = Written>,
    {
        let mut status = self.status();
        loop {
            status.mark_unchanged();
            match change().await.map_err(|error| self.not_changed(error)) {
                Err(ChangeError::Busy) if status.changed().await.is_ok() => {}
                result => return result.map(drop),
            }
        }
    }

    fn not_changed(&self, error: RaftError<Types, ClientWriteError<Types>>) -> ChangeError {
        use ChangeMembershipError::{InProgress, UncommittedLeaderLog};
        match error {
            RaftError::APIError(ClientWriteError::ForwardToLeader(to)) => {
                ChangeError::NotLeader { leader: self.other_leader(&to) }
            }
            RaftError::APIError(ClientWriteError::ChangeMembershipError(error)) => match error {
                InProgress(_) | UncommittedLeaderLog(_) => ChangeError::Busy,
                error => ChangeError::Invalid(error.to_string()),
            },
            RaftError::APIError(ClientWriteError::PreconditionFailed(_)) => ChangeError::Busy,
            error => ChangeError::Unknown(error.to_string()),
        }
    }
}

/// Whether a node can take over at once.
fn successor(status: &Status, to: NodeId) -> Result<(), String> {
    if status.joint {
        return Err("a change of voters is under way: wait for it".to_owned());
    }
    if !status.voters.contains(&to) {
        return Err(format!("{to} is not a voter of the group: make it one first"));
    }
    let matched = matched(&status.matched, to);
    if matched.saturating_add(LEVEL_LAG) < status.last_log {
        let last = status.last_log;
        return Err(format!("{to} is not level: it holds {matched} of {last}; wait for it"));
    }
    Ok(())
}

fn matched(matched: &BTreeMap<NodeId, u64>, node: NodeId) -> u64 {
    matched.get(&node).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(matched: u64) -> Status {
        Status {
            voters: BTreeSet::from([NodeId(1), NodeId(2)]),
            last_log: 1000,
            matched: BTreeMap::from([(NodeId(2), matched)]),
            ..Status::default()
        }
    }

    #[test]
    fn only_a_level_voter_can_take_over() {
        assert_eq!(successor(&status(990), NodeId(2)), Ok(()));
        assert!(successor(&status(900), NodeId(2)).is_err());
        assert!(successor(&status(990), NodeId(3)).is_err());
    }

    #[test]
    fn nobody_takes_over_while_the_voters_change() {
        assert!(successor(&Status { joint: true, ..status(1000) }, NodeId(2)).is_err());
    }
}
