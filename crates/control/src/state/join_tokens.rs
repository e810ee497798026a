//! The join tokens of a cluster.

use std::collections::BTreeMap;

use pushonce_core::{JoinTokenHash, JoinTokenId, JoinTokenStatus, NodeId, Timestamp};
use serde::{Deserialize, Serialize};

use crate::{CommandRejection, Incarnation};

/// The tokens that were not dropped yet. An expired token is dropped when another one is added.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct JoinTokens(BTreeMap<JoinTokenId, JoinTokenRecord>);

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct JoinTokenRecord {
    hash: JoinTokenHash,
    expires: Timestamp,
    /// The directory that joined with the token. It may repeat its request while the token is valid: the
    /// response may be lost.
    used_by: Option<(Incarnation, NodeId)>,
}

impl JoinTokens {
    /// Adds a token, and drops those that are expired at `now`. Idempotent.
    pub(crate) fn add(
        &mut self,
        hash: JoinTokenHash,
        now: Timestamp,
        expires: Timestamp,
        max: usize,
    ) -> Result<(), CommandRejection> {
        if self.0.contains_key(&hash.id()) {
            return Ok(());
        }
        if self.0.values().filter(|token| token.expires > now).count() >= max {
            return Err(CommandRejection::TooManyJoinTokens { max: max as u32 });
        }
        self.0.retain(|_, token| token.expires > now);
        self.0.insert(hash.id(), JoinTokenRecord { hash, expires, used_by: None });
        Ok(())
    }

    /// Drops a token. Idempotent.
    pub(crate) fn revoke(&mut self, id: JoinTokenId) {
        self.0.remove(&id);
    }

    /// Checks that a directory may join with a token at `now`. `known` is the member that the directory
    /// belongs to already.
    pub(crate) fn check(
        &self,
        hash: JoinTokenHash,
        now: Timestamp,
        incarnation: Incarnation,
        known: Option<NodeId>,
    ) -> Result<(), CommandRejection> {
        let token = self.0.get(&hash.id()).filter(|token| token.hash == hash);
        let token = token.ok_or(CommandRejection::UnknownJoinToken)?;
        if token.expires <= now {
            return Err(CommandRejection::JoinTokenExpired);
        }
        match (token.used_by, known) {
            (Some((directory, _)), _) if directory == incarnation => Ok(()),
            (Some((_, node)), _) => Err(CommandRejection::JoinTokenUsed(node)),
            // The incarnation of a member is no secret: a token must not give its identity to another node.
            (None, Some(node)) => Err(CommandRejection::AlreadyMember(node)),
            (None, None) => Ok(()),
        }
    }

    /// Whether a directory joined with a token.
    pub(crate) fn was_used_by(&self, id: JoinTokenId, incarnation: Incarnation) -> bool {
        let used_by = self.0.get(&id).and_then(|token| token.used_by);
        used_by.is_some_and(|(directory, _)| directory == incarnation)
    }

    /// Records that a directory joined with a token, which [`JoinTokens::check`] accepted.
    pub(crate) fn mark_used(&mut self, id: JoinTokenId, incarnation: Incarnation, node: NodeId) {
        if let Some(token) = self.0.get_mut(&id) {
            token.used_by = Some((incarnation, node));
        }
    }

    /// The state of each token.
    pub(crate) fn statuses(&self) -> BTreeMap<JoinTokenId, JoinTokenStatus> {
        let status = |token: &JoinTokenRecord| JoinTokenStatus {
            expires: token.expires,
            used_by: token.used_by.map(|(_, node)| node),
        };
        self.0.iter().map(|(&id, token)| (id, status(token))).collect()
    }
}
