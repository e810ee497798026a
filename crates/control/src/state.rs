//! The replicated state of the cluster, changed by commands.

mod join_tokens;
mod joining;
mod membership;
mod recover;
mod settings;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use pushonce_consensus::LogMark;
use pushonce_core::versioned::{self, VersionedDecodeError};
use pushonce_core::{
    ClusterId, ClusterVersion, ClusterView, Member, MemberState, Namespaces, NodeId, Placement,
    Revocations, ShardCount, Spread, TicketKeys, VersionRange,
};
use serde::{Deserialize, Serialize};

use crate::rules::Rules;
use crate::times::AgreedTimes;
use crate::{
    BootstrapCommand, CommandRejection, CommandReply, ControlCommand, Incarnation, JoinCommand,
    ProcessRun,
};
use join_tokens::JoinTokens;
use joining::{check_supported_version, check_unlike_other_ids};

pub use recover::RecoverError;

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
        self.0.as_ref().map_or(VersionRange::supported().min, |cluster| cluster.cluster_version)
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
        ControlState::restore_within(VersionRange::readable(), snapshot)
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
            ControlCommand::SetNamespace { name, change, move_to_memory } => {
                self.set_namespace(name, change, move_to_memory).map(CommandReply::Namespace)
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
