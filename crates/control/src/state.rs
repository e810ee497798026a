//! The replicated state of the cluster, changed by commands.

mod join_tokens;
mod recover;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use pushonce_consensus::LogMark;
use pushonce_core::versioned::{self, VersionedDecodeError};
use pushonce_core::{
    ClusterId, ClusterVersion, ClusterView, ConsensusTimes, Durability, FailPoint,
    InvalidNamespace, JoinTokenHash, Member, MemberState, Namespace, NamespaceChange, Namespaces,
    NodeId, Placement, Revocations, RevokedTokens, ShardCount, Spread, TicketKeys, Timestamp,
    VersionRange,
};
use serde::{Deserialize, Serialize};

use crate::rules::Rules;
use crate::times::{AgreedTimes, ChangeInProgress};
use crate::{
    BootstrapCommand, CommandRejection, CommandReply, ControlCommand, Incarnation, JoinCommand,
    JoinCredential, JoinReply, ProcessRun, Profile,
};
use join_tokens::JoinTokens;

pub use recover::RecoverError;

/// How long a revocation stays after its tokens have expired: a day.
const EXPIRED_REVOCATION_KEEP_MS: u64 = 24 * 3_600_000;

/// The state of the cluster as of an index of the log; empty before the bootstrap. Two replicas that
/// applied the same commands are equal.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ControlState(Option<ClusterState>);

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct ClusterState {
    id: ClusterId,
    /// The index of the last entry that changed anything.
    version: u64,
    shards: ShardCount,
    replicas: u8,
    spread: Spread,
    next_id: u64,
    /// The ids below `next_id` that were never assigned: certificates of other nodes named higher ones.
    unused_ids: BTreeSet<NodeId>,
    members: BTreeMap<NodeId, MemberRecord>,
    /// Removed directories and their ids, kept permanently: an id is never reused, and a removed directory
    /// is never accepted again.
    removed: BTreeMap<Incarnation, NodeId>,
    placement: Placement,
    namespaces: Namespaces,
    /// Shared with the views.
    revocations: Arc<Revocations>,
    times: AgreedTimes,
    join_tokens: JoinTokens,
    /// The version in which nodes encode shared data. Never decreases.
    cluster_version: ClusterVersion,
    /// The keys of TLS session tickets.
    ticket_keys: Option<TicketKeys>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct MemberRecord {
    incarnation: Incarnation,
    /// The last process that announced itself with the directory.
    run: ProcessRun,
    /// The mark of the member's log when it was last announced; `None` before the member has a log.
    log: Option<LogMark>,
    member: Member,
}

/// The id of the first node of every cluster.
pub(crate) const FIRST_NODE: NodeId = NodeId(1);

impl ControlState {
    /// Applies the command committed at `index`.
    pub fn apply(&mut self, index: u64, command: ControlCommand) -> CommandReply {
        let before = self.0.clone();
        let outcome = match (&mut self.0, command) {
            (_, ControlCommand::Bootstrap(bootstrap)) => self.bootstrap(bootstrap),
            (None, _) => Err(CommandRejection::NotBootstrapped),
            (Some(cluster), command) => cluster.apply(index, command),
        };
        if self.0 != before
            && let Some(cluster) = &mut self.0
        {
            cluster.version = index;
            if before.is_none_or(|before| before.namespaces != cluster.namespaces) {
                cluster.namespaces.revision = index;
            }
        }
        outcome.unwrap_or_else(CommandReply::Rejected)
    }

    /// The reply to a join that would change nothing, if applied at `index`.
    pub(crate) fn reply_to_repeated_join(
        &self,
        index: u64,
        joining: &JoinCommand,
    ) -> Option<CommandReply> {
        let cluster = self.0.as_ref()?;
        let mut next = cluster.clone();
        let reply = next.join(index, joining.clone()).map(CommandReply::Joined);
        (next == *cluster).then(|| reply.unwrap_or_else(CommandReply::Rejected))
    }

    /// The index of the last entry that changed anything; 0 before the bootstrap.
    pub fn version(&self) -> u64 {
        self.0.as_ref().map_or(0, |cluster| cluster.version)
    }

    /// The view of the state that every node receives.
    pub fn view(&self) -> Option<ClusterView> {
        self.0.as_ref().map(ClusterState::view)
    }

    /// The cluster version; before the bootstrap the oldest that this build supports.
    pub fn cluster_version(&self) -> ClusterVersion {
        self.0.as_ref().map_or(VersionRange::SUPPORTED.min, |cluster| cluster.cluster_version)
    }

    /// The snapshot of the whole state: its version, then postcard.
    pub fn snapshot(&self) -> bytes::Bytes {
        versioned::encode(self.cluster_version(), self).into()
    }

    /// Restores the state from a snapshot.
    ///
    /// # Errors
    /// [`VersionedDecodeError`] when the bytes are not a snapshot of a version that this build reads.
    pub fn restore(snapshot: &[u8]) -> Result<ControlState, VersionedDecodeError> {
        ControlState::restore_within(VersionRange::READABLE, snapshot)
    }

    /// As [`ControlState::restore`], for a build that reads `readable`.
    pub(crate) fn restore_within(
        readable: VersionRange,
        snapshot: &[u8],
    ) -> Result<ControlState, VersionedDecodeError> {
        let (version, state): (_, ControlState) = versioned::decode_in_range(readable, snapshot)?;
        // Its own snapshots would have a version that no build reads.
        if state.0.as_ref().is_some_and(|cluster| cluster.cluster_version != version) {
            let reason = format!("the state is not of version {version}, as its snapshot");
            return Err(VersionedDecodeError::Corrupt(reason));
        }
        Ok(state)
    }

    fn bootstrap(&mut self, command: BootstrapCommand) -> Result<CommandReply, CommandRejection> {
        if let Some(cluster) = &self.0 {
            return cluster.check_repeated_bootstrap(&command);
        }
        command.profile.validate().map_err(CommandRejection::Profile)?;
        check_unlike_other_ids(&command.profile.name, FIRST_NODE)?;
        if command.replicas == 0 {
            return Err(CommandRejection::NoReplicas);
        }
        check_supported_version(&command.profile, command.cluster_version)?;
        self.0 = Some(ClusterState::new(command));
        Ok(CommandReply::Done)
    }
}

/// Checks that the name of a node does not look like the id of another one.
fn check_unlike_other_ids(name: &str, node: NodeId) -> Result<(), CommandRejection> {
    match NodeId::resembled_by(name).filter(|&id| id != node) {
        Some(other) => {
            Err(CommandRejection::NameLooksLikeId { name: name.to_owned(), node, other })
        }
        None => Ok(()),
    }
}

impl ClusterState {
    fn new(command: BootstrapCommand) -> ClusterState {
        let BootstrapCommand {
            cluster, incarnation, run, profile, shards, replicas, spread, ..
        } = command;
        let BootstrapCommand { namespaces, times, log, cluster_version, .. } = command;
        let member = profile.into_member(FIRST_NODE, MemberState::Active);
        ClusterState {
            id: cluster,
            version: 0,
            shards,
            replicas,
            spread,
            next_id: FIRST_NODE.0 + 1,
            unused_ids: BTreeSet::new(),
            members: BTreeMap::from([(FIRST_NODE, MemberRecord { incarnation, run, log, member })]),
            removed: BTreeMap::new(),
            placement: Placement {
                version: 1,
                replicas: shards.ids().map(|_| vec![FIRST_NODE]).collect(),
            },
            namespaces,
            revocations: Arc::default(),
            times: AgreedTimes::new(times),
            join_tokens: JoinTokens::default(),
            cluster_version,
            ticket_keys: None,
        }
    }

    fn rules(&self) -> &'static Rules {
        Rules::for_version(self.cluster_version)
    }

    fn check_repeated_bootstrap(
        &self,
        command: &BootstrapCommand,
    ) -> Result<CommandReply, CommandRejection> {
        let known = self.members.get(&FIRST_NODE).map(|first| first.incarnation);
        if self.id == command.cluster && known == Some(command.incarnation) {
            return Ok(CommandReply::Done);
        }
        Err(CommandRejection::AlreadyBootstrapped(self.id))
    }

    fn apply(
        &mut self,
        index: u64,
        command: ControlCommand,
    ) -> Result<CommandReply, CommandRejection> {
        match command {
            ControlCommand::Bootstrap(bootstrap) => self.check_repeated_bootstrap(&bootstrap),
            ControlCommand::Join(joining) => self.join(index, joining).map(CommandReply::Joined),
            ControlCommand::Activate(node) => self.activate(node),
            ControlCommand::SetPlacement { version, replicas } => {
                self.set_placement(version, replicas)
            }
            ControlCommand::Remove(node) => self.remove(node),
            ControlCommand::SetNamespace { name, change, allow_data_loss } => {
                self.set_namespace(name, change, allow_data_loss).map(CommandReply::Namespace)
            }
            ControlCommand::Revoke { tokens, at, kept_until } => {
                self.revoke(tokens, at, kept_until)
            }
            ControlCommand::Drain { node, force } => self.drain(node, force),
            ControlCommand::Undrain(node) => self.undrain(node),
            ControlCommand::SetTimes(times) => self.set_times(times),
            ControlCommand::AckTimes { node, version } => self.ack_times(node, version),
            ControlCommand::Finalize { to } => self.finalize(to).map(CommandReply::Version),
            ControlCommand::ExpireJoining(node) => Ok(self.expire_joining(node)),
            ControlCommand::RotateTicketKeys { key, at } => {
                TicketKeys::rotate(&mut self.ticket_keys, key, at);
                Ok(CommandReply::Done)
            }
            ControlCommand::AddJoinToken { hash, now, expires } => {
                self.add_join_token(hash, now, expires)
            }
            ControlCommand::RevokeJoinToken(id) => {
                self.join_tokens.revoke(id);
                Ok(CommandReply::Done)
            }
        }
    }

    fn join(&mut self, index: u64, command: JoinCommand) -> Result<JoinReply, CommandRejection> {
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

    fn add_join_token(
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

    fn activate(&mut self, node: NodeId) -> Result<CommandReply, CommandRejection> {
        let known = self.members.get_mut(&node).ok_or(CommandRejection::NotAMember(node))?;
        if known.member.state == MemberState::Joining {
            known.member.state = MemberState::Active;
        }
        Ok(CommandReply::Done)
    }

    /// Drops a member that never became active. It has voted in no group, so its directory is not remembered: a
    /// node that joins with it again gets another id.
    fn expire_joining(&mut self, node: NodeId) -> CommandReply {
        let is_joining = |known: &MemberRecord| known.member.state == MemberState::Joining;
        if self.members.get(&node).is_some_and(is_joining) {
            self.members.remove(&node);
            self.times.complete_if_acknowledged(self.members.keys().copied());
        }
        CommandReply::Done
    }

    fn joining_count(&self) -> usize {
        let states = self.members.values().map(|known| known.member.state);
        states.filter(|state| *state == MemberState::Joining).count()
    }

    fn set_placement(
        &mut self,
        version: u64,
        replicas: Vec<Vec<NodeId>>,
    ) -> Result<CommandReply, CommandRejection> {
        let placement = Placement { version, replicas };
        if placement == self.placement {
            return Ok(CommandReply::Done);
        }
        let holders = self.view();
        let holders = holders.placement_candidates();
        let complete = placement.replicas.len() == usize::from(self.shards.get());
        let is_valid = |list: &Vec<NodeId>| {
            !list.is_empty()
                && list.iter().all(|node| holders.contains_key(node))
                && list.iter().enumerate().all(|(at, node)| !list[..at].contains(node))
        };
        if version != self.placement.version + 1
            || !complete
            || !placement.replicas.iter().all(is_valid)
        {
            return Err(CommandRejection::StalePlacement);
        }
        self.placement = placement;
        Ok(CommandReply::Done)
    }

    fn remove(&mut self, node: NodeId) -> Result<CommandReply, CommandRejection> {
        if self.removed.values().any(|&gone| gone == node) {
            return Ok(CommandReply::Done);
        }
        if self.view().placement_candidates().keys().eq([&node]) {
            return Err(CommandRejection::LastShardHolder(node));
        }
        let known = self.members.remove(&node).ok_or(CommandRejection::NotAMember(node))?;
        self.removed.insert(known.incarnation, node);
        self.times.complete_if_acknowledged(self.members.keys().copied());
        Ok(CommandReply::Done)
    }

    fn set_times(&mut self, times: ConsensusTimes) -> Result<CommandReply, CommandRejection> {
        let result = self.times.begin_change(times);
        result.map_err(|ChangeInProgress { to }| {
            let missing = self.times.missing_acks(self.members.keys().copied()).collect();
            CommandRejection::TimesChanging { to, missing }
        })?;
        Ok(CommandReply::Done)
    }

    fn ack_times(&mut self, node: NodeId, version: u64) -> Result<CommandReply, CommandRejection> {
        if !self.members.contains_key(&node) {
            return Err(CommandRejection::NotAMember(node));
        }
        self.times.acknowledge(node, version);
        self.times.complete_if_acknowledged(self.members.keys().copied());
        Ok(CommandReply::Done)
    }

    fn set_namespace(
        &mut self,
        name: Option<String>,
        change: Option<NamespaceChange>,
        allow_data_loss: bool,
    ) -> Result<Namespace, CommandRejection> {
        let max = self.rules().namespaces_max;
        let Namespaces { revision: _, default, named } = &mut self.namespaces;
        let Some(name) = name else {
            let settings =
                change.map_or_else(Namespace::default, |change| default.with_change(change));
            settings.validate().map_err(CommandRejection::Namespace)?;
            if settings.durability == Durability::Memory {
                return Err(CommandRejection::Namespace(InvalidNamespace::DefaultInMemory));
            }
            *default = settings.clone();
            return Ok(settings);
        };
        Namespaces::validate_name(&name).map_err(CommandRejection::Namespace)?;
        let Some(change) = change else {
            named.remove(&name);
            return Ok(default.clone());
        };
        let before = named.get(&name).unwrap_or(default);
        let settings = before.with_change(change);
        settings.validate().map_err(CommandRejection::Namespace)?;
        if before.moves_to_memory(&settings) && !allow_data_loss {
            return Err(CommandRejection::WouldLoseStoredMessages(name));
        }
        let differs_in_case =
            |other: &&String| **other != name && other.eq_ignore_ascii_case(&name);
        if let Some(other) = named.keys().find(differs_in_case) {
            return Err(CommandRejection::NamespaceDiffersInCase { other: other.clone(), name });
        }
        if !named.contains_key(&name) && named.len() >= max {
            return Err(CommandRejection::TooManyNamespaces { max: max as u32 });
        }
        named.insert(name, settings.clone());
        Ok(settings)
    }

    /// Revokes tokens. Revocations whose tokens expired more than a day ago make room for it: `at` is the clock of
    /// the node that received the command, and one that is ahead must not end the revocations of valid tokens.
    fn revoke(
        &mut self,
        tokens: RevokedTokens,
        at: Timestamp,
        kept_until: Timestamp,
    ) -> Result<CommandReply, CommandRejection> {
        let mut revocations = Revocations::clone(&self.revocations);
        revocations.expire(Timestamp(at.0.saturating_sub(EXPIRED_REVOCATION_KEEP_MS)));
        revocations.revoke(tokens, kept_until).map_err(CommandRejection::Revocation)?;
        self.revocations = Arc::new(revocations);
        Ok(CommandReply::Done)
    }

    /// Drains a member. The node that received the command has checked reachability; of two nodes that
    /// check at the same time, neither sees the drain of the other, so the number of remaining members is
    /// checked here again.
    fn drain(&mut self, node: NodeId, force: bool) -> Result<CommandReply, CommandRejection> {
        let view = self.view();
        if view.placement_candidates().keys().eq([&node]) {
            return Err(CommandRejection::LastShardHolder(node));
        }
        let can_hold = |member: &Member| member.roles.core && member.state == MemberState::Active;
        let left =
            view.members.values().filter(|other| other.id != node && can_hold(other)).count();
        let is_holder = view.member(node).is_some_and(can_hold);
        if is_holder && !force && left < usize::from(self.replicas) {
            let (left, wanted) = (left as u32, u32::from(self.replicas));
            return Err(CommandRejection::TooFewCopies { node, left, wanted });
        }
        let known = self.members.get_mut(&node).ok_or(CommandRejection::NotAMember(node))?;
        known.member.state = MemberState::Draining;
        Ok(CommandReply::Done)
    }

    fn undrain(&mut self, node: NodeId) -> Result<CommandReply, CommandRejection> {
        let known = self.members.get_mut(&node).ok_or(CommandRejection::NotAMember(node))?;
        if known.member.state == MemberState::Draining {
            known.member.state = MemberState::Active;
        }
        Ok(CommandReply::Done)
    }

    /// Raises the cluster version. Returns the current version if it is already `to`, so that the command
    /// is idempotent.
    fn finalize(&mut self, to: ClusterVersion) -> Result<ClusterVersion, CommandRejection> {
        let cluster = self.cluster_version;
        if to == cluster {
            return Ok(cluster);
        }
        if to != cluster.next() {
            return Err(CommandRejection::NotNextVersion { to, cluster });
        }
        if FailPoint::VersionSupportUnchecked.is_active() {
            self.cluster_version = to;
            return Ok(to);
        }
        let members = self.view().members_not_supporting(to);
        if !members.is_empty() {
            return Err(CommandRejection::NotSupportedByAll { to, members });
        }
        self.cluster_version = to;
        Ok(to)
    }

    fn view(&self) -> ClusterView {
        let members = self.members.iter().map(|(&id, known)| (id, known.member.clone()));
        ClusterView {
            cluster: self.id,
            version: self.version,
            shards: self.shards,
            replicas: self.replicas,
            spread: self.spread,
            members: members.collect(),
            next_id: NodeId(self.next_id),
            unused_ids: self.unused_ids.clone(),
            join_tokens: self.join_tokens.statuses(),
            placement: self.placement.clone(),
            namespaces: self.namespaces.clone(),
            revocations: self.revocations.clone(),
            times: self.times.agreed(),
            cluster_version: self.cluster_version,
            ticket_keys: self.ticket_keys.clone(),
        }
    }
}

/// Checks that a member supports the cluster version; otherwise it could not read what the others write.
fn check_supported_version(
    profile: &Profile,
    cluster: ClusterVersion,
) -> Result<(), CommandRejection> {
    let supported = profile.build.supported;
    if !supported.is_valid() {
        return Err(CommandRejection::NoVersionAnnounced { cluster });
    }
    supported.ensure_contains(cluster).map(drop).map_err(CommandRejection::Unsupported)
}

#[cfg(test)]
#[path = "state/arbitrary_commands_test.rs"]
mod arbitrary_commands_test;
#[cfg(test)]
mod fuzz;
#[cfg(test)]
#[path = "state/join_credential_test.rs"]
mod join_credential_test;
#[cfg(test)]
#[path = "state/log_mark_test.rs"]
mod log_mark_test;
#[cfg(test)]
#[path = "state/namespace_test.rs"]
mod namespace_test;
#[cfg(test)]
#[path = "state/recover_test.rs"]
mod recover_test;
#[cfg(test)]
#[path = "state/revocation_test.rs"]
mod revocation_test;
#[cfg(test)]
#[path = "state/state_test.rs"]
pub(crate) mod state_test;
#[cfg(test)]
#[path = "state/ticket_keys_test.rs"]
mod ticket_keys_test;
#[cfg(test)]
#[path = "state/times_test.rs"]
mod times_test;
#[cfg(test)]
#[path = "state/version_test.rs"]
mod version_test;
