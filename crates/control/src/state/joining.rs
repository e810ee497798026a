//! Who may join: credentials, ids, names, logs and runs of directories.

use pushonce_consensus::LogMark;
use pushonce_core::{
    ClusterVersion, ConsensusTimes, FailPoint, JoinTokenHash, Member, MemberState, NodeId,
    Timestamp,
};

use super::{ClusterState, MemberRecord};
use crate::{
    CommandRejection, CommandReply, Incarnation, JoinCommand, JoinCredential, JoinReply,
    ProcessRun, Profile,
};

impl ClusterState {
    pub(super) fn join(
        &mut self,
        index: u64,
        command: JoinCommand,
    ) -> Result<JoinReply, CommandRejection> {
        let JoinCommand { incarnation, run, cluster, node: claimed_id, profile, .. } = command;
        let JoinCommand { times, log, credential, .. } = command;
        if let Some(directory_cluster) = cluster.filter(|&theirs| theirs != self.id) {
            return Err(CommandRejection::OtherCluster { directory_cluster, cluster: self.id });
        }
        profile.validate().map_err(CommandRejection::Profile)?;
        check_supported_version(&profile, self.cluster_version)?;
        let known = self.find_member(incarnation, claimed_id)?;
        self.check_run(known, run)?;
        self.check_log(known, claimed_id.and(log))?;
        self.check_times(times)?;
        let abandoned = known.filter(|&node| self.is_abandoned_join(node, incarnation, credential));
        let known = known.filter(|_| abandoned.is_none());
        let max = self.rules().members_max;
        if known.is_none() && self.members.len() >= max {
            return Err(CommandRejection::TooManyMembers { max: max as u32 });
        }
        let max = self.rules().joining_max;
        if known.is_none() && self.joining_count() >= max {
            return Err(CommandRejection::TooManyJoining { max: max as u32 });
        }
        let node = self.check_credential(credential, incarnation, known)?;
        self.check_name(&profile.name, node, abandoned)?;
        if let Some(abandoned) = abandoned {
            self.expire_joining(abandoned);
        }
        let state = match known.and_then(|node| self.members.get(&node)) {
            Some(registered) => registered.member.state,
            None => MemberState::Joining,
        };
        if let JoinCredential::Token { hash, .. } = credential {
            self.join_tokens.mark_used(hash.id(), incarnation, node);
        }
        self.mark_assigned(node);
        let log = log.or_else(|| self.members.get(&node)?.log);
        let member = profile.into_member(node, state);
        if self.members.insert(node, MemberRecord { incarnation, run, log, member }).is_none() {
            self.times.acknowledge(node, self.times.agreed().version);
        }
        Ok(JoinReply { cluster: self.id, node, index, times: self.times.agreed() })
    }

    /// Whether a directory that joins with a token began to join before, as `node`, with another token that has
    /// expired since. That node has never become active, so the directory starts again with a new id: its
    /// incarnation is no secret, so the token must not give it the identity of `node`.
    fn is_abandoned_join(
        &self,
        node: NodeId,
        incarnation: Incarnation,
        credential: JoinCredential,
    ) -> bool {
        let JoinCredential::Token { hash, .. } = credential else { return false };
        let state = self.members.get(&node).map(|known| known.member.state);
        state == Some(MemberState::Joining) && !self.join_tokens.was_used_by(hash.id(), incarnation)
    }

    /// The id of a node that joins: the one it has, the one in its certificate, or the next one.
    fn check_credential(
        &self,
        credential: JoinCredential,
        incarnation: Incarnation,
        known: Option<NodeId>,
    ) -> Result<NodeId, CommandRejection> {
        let next = NodeId(self.next_id);
        match credential {
            JoinCredential::None => Ok(known.unwrap_or(next)),
            JoinCredential::Token { hash, now } => {
                self.join_tokens.check(hash, now, incarnation, known)?;
                Ok(known.unwrap_or(next))
            }
            JoinCredential::Certificate(certificate) => match known {
                Some(node) if node == certificate => Ok(node),
                Some(node) => Err(CommandRejection::CertificateMismatch { node, certificate }),
                None => self.check_certified_id(certificate).map(|()| certificate),
            },
        }
    }

    /// Checks that an id was never assigned, and that it skips no more ids than can be remembered.
    fn check_certified_id(&self, node: NodeId) -> Result<(), CommandRejection> {
        if node.0 < self.next_id {
            let is_unused = self.unused_ids.contains(&node);
            return if is_unused {
                Ok(())
            } else {
                Err(CommandRejection::IdTaken { node, next: NodeId(self.next_id) })
            };
        }
        let room = self.rules().unused_ids_max.saturating_sub(self.unused_ids.len());
        let max = NodeId(self.next_id.saturating_add(room as u64));
        if node > max { Err(CommandRejection::IdTooHigh { node, max }) } else { Ok(()) }
    }

    fn mark_assigned(&mut self, node: NodeId) {
        self.unused_ids.extend((self.next_id..node.0).map(NodeId));
        self.unused_ids.remove(&node);
        self.next_id = self.next_id.max(node.0.saturating_add(1));
    }

    pub(super) fn add_join_token(
        &mut self,
        hash: JoinTokenHash,
        now: Timestamp,
        expires: Timestamp,
    ) -> Result<CommandReply, CommandRejection> {
        let rules = self.rules();
        let max_ms = rules.join_token_validity_max_ms;
        if !(1..=max_ms).contains(&expires.0.saturating_sub(now.0)) {
            return Err(CommandRejection::InvalidTokenValidity { max_ms });
        }
        self.join_tokens.add(hash, now, expires, rules.join_tokens_max)?;
        Ok(CommandReply::Done)
    }

    /// Checks the log of a known member. A node that was in use has voted: without its log it could vote
    /// again in the same term, and entries it acknowledged would count although no node holds them. A
    /// joining member that never announced a log has no vote yet, so it may start with an empty one.
    fn check_log(
        &self,
        node: Option<NodeId>,
        log: Option<LogMark>,
    ) -> Result<(), CommandRejection> {
        let Some((node, record)) = node.and_then(|node| Some((node, self.members.get(&node)?)))
        else {
            return Ok(());
        };
        match (record.log, log) {
            (None, None) if record.member.state == MemberState::Joining => Ok(()),
            (None, Some(_)) => Ok(()),
            (Some(recorded), Some(reported)) if reported.log == recorded.log => {
                if reported.writes >= recorded.writes {
                    return Ok(());
                }
                let (writes, known) = (reported.writes, recorded.writes);
                Err(CommandRejection::LogRolledBack { node, writes, known })
            }
            _ if FailPoint::DeletedLogAccepted.is_active() => Ok(()),
            _ => Err(CommandRejection::LogLost { node }),
        }
    }

    fn check_times(&self, node_times: Option<ConsensusTimes>) -> Result<(), CommandRejection> {
        let agreed = self.times.agreed();
        match node_times {
            _ if FailPoint::ConsensusTimesUnchecked.is_active() => Ok(()),
            Some(node_times) if !agreed.accepts(&node_times) => {
                Err(CommandRejection::TimesMismatch { node_times, cluster: agreed.target() })
            }
            _ => Ok(()),
        }
    }

    /// The member that the directory belongs to; `None` for a new one.
    fn find_member(
        &self,
        incarnation: Incarnation,
        claimed_id: Option<NodeId>,
    ) -> Result<Option<NodeId>, CommandRejection> {
        if let Some(&node) = self.removed.get(&incarnation) {
            return Err(CommandRejection::Removed(node));
        }
        let by_directory = self.members.values().find(|known| known.incarnation == incarnation);
        match (by_directory.map(|known| known.member.id), claimed_id) {
            (None, Some(claimed_id)) if self.removed.values().any(|&gone| gone == claimed_id) => {
                Err(CommandRejection::Removed(claimed_id))
            }
            (None, Some(claimed_id))
                if claimed_id.0 < self.next_id && !self.members.contains_key(&claimed_id) =>
            {
                Err(CommandRejection::JoinExpired(claimed_id))
            }
            (known, Some(claimed_id)) if known != Some(claimed_id) => {
                Err(CommandRejection::NodeIdMismatch(claimed_id))
            }
            (known, _) => Ok(known),
        }
    }

    /// Checks that a process does not run on a copy of the directory. Of two processes with the same count
    /// one runs on a copy; of two with different counts the one with the lower count does. Its log lacks
    /// what the other has committed since.
    fn check_run(&self, node: Option<NodeId>, run: ProcessRun) -> Result<(), CommandRejection> {
        let Some((node, known)) = node.and_then(|node| Some((node, self.members.get(&node)?.run)))
        else {
            return Ok(());
        };
        if run.count > known.count || run == known {
            return Ok(());
        }
        Err(CommandRejection::StaleDirectory { node, run: run.count, known: known.count })
    }

    /// Checks that the name of a node cannot be mistaken for another node: neither for its id, nor for its
    /// name, which must differ in more than the case of ASCII letters.
    fn check_name(
        &self,
        name: &str,
        node: NodeId,
        leaving: Option<NodeId>,
    ) -> Result<(), CommandRejection> {
        check_unlike_other_ids(name, node)?;
        let is_other = |m: &Member| m.id != node && Some(m.id) != leaving;
        let is_taken = |m: &&Member| m.name.eq_ignore_ascii_case(name) && is_other(m);
        match self.members.values().map(|known| &known.member).find(is_taken) {
            Some(holder) => {
                Err(CommandRejection::NameTaken { name: holder.name.clone(), holder: holder.id })
            }
            None => Ok(()),
        }
    }

    fn joining_count(&self) -> usize {
        let states = self.members.values().map(|known| known.member.state);
        states.filter(|state| *state == MemberState::Joining).count()
    }
}

/// Checks that the name of a node does not look like the id of another one.
pub(super) fn check_unlike_other_ids(name: &str, node: NodeId) -> Result<(), CommandRejection> {
    match NodeId::resembled_by(name).filter(|&id| id != node) {
        Some(other) => {
            Err(CommandRejection::NameLooksLikeId { name: name.to_owned(), node, other })
        }
        None => Ok(()),
    }
}

/// Checks that a member supports the cluster version; otherwise it could not read what the others write.
pub(super) fn check_supported_version(
    profile: &Profile,
    cluster: ClusterVersion,
) -> Result<(), CommandRejection> {
    let supported = profile.build.supported;
    if !supported.is_valid() {
        return Err(CommandRejection::NoVersionAnnounced { cluster });
    }
    supported.ensure_contains(cluster).map(drop).map_err(CommandRejection::Unsupported)
}
