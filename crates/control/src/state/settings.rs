//! Consensus times, namespaces, revocations and the cluster version.

use std::sync::Arc;

use pushonce_core::{
    ClusterVersion, ConsensusTimes, Durability, FailPoint, InvalidNamespace, Namespace,
    NamespaceChange, Namespaces, NodeId, Revocations, RevokedTokens, Timestamp,
};

use super::ClusterState;
use crate::times::ChangeInProgress;
use crate::{CommandRejection, CommandReply, MoveToMemory};

/// How long a revocation stays after its tokens have expired: a day.
const EXPIRED_REVOCATION_KEEP_MS: u64 = 24 * 3_600_000;

impl ClusterState {
    pub(super) fn set_times(
        &mut self,
        times: ConsensusTimes,
    ) -> Result<CommandReply, CommandRejection> {
        let result = self.times.begin_change(times);
        result.map_err(|ChangeInProgress { to }| {
            let missing = self.times.missing_acks(self.members.keys().copied()).collect();
            CommandRejection::TimesChanging { to, missing }
        })?;
        Ok(CommandReply::Done)
    }

    pub(super) fn ack_times(
        &mut self,
        node: NodeId,
        version: u64,
    ) -> Result<CommandReply, CommandRejection> {
        if !self.members.contains_key(&node) {
            return Err(CommandRejection::NotAMember(node));
        }
        self.times.acknowledge(node, version);
        self.times.complete_if_acknowledged(self.members.keys().copied());
        Ok(CommandReply::Done)
    }

    pub(super) fn set_namespace(
        &mut self,
        name: Option<String>,
        change: Option<NamespaceChange>,
        move_to_memory: MoveToMemory,
    ) -> Result<Namespace, CommandRejection> {
        let max = self.rules().namespaces_max;
        let Namespaces { revision: _, default, named, drop_stored } = &mut self.namespaces;
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
            drop_stored.remove(&name);
            return Ok(default.clone());
        };
        let before = named.get(&name).unwrap_or(default);
        let settings = before.with_change(change);
        settings.validate().map_err(CommandRejection::Namespace)?;
        if before.moves_to_memory(&settings) && move_to_memory == MoveToMemory::Reject {
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
        match (settings.durability, change.durability) {
            (Durability::Replicated, _) => {
                drop_stored.remove(&name);
            }
            // Also for a namespace in memory: a shard may have kept it on disk.
            (Durability::Memory, Some(_)) if move_to_memory == MoveToMemory::DropStored => {
                drop_stored.insert(name.clone());
            }
            (Durability::Memory, _) => {}
        }
        named.insert(name, settings.clone());
        Ok(settings)
    }

    /// Revokes tokens. Revocations whose tokens expired more than a day ago make room for it: `at` is the clock of
    /// the node that received the command, and one that is ahead must not end the revocations of valid tokens.
    pub(super) fn revoke(
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

    /// Raises the cluster version. Returns the current version if it is already `to`, so that the command
    /// is idempotent.
    pub(super) fn finalize(
        &mut self,
        to: ClusterVersion,
    ) -> Result<ClusterVersion, CommandRejection> {
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
}
