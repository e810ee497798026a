//! A cluster without the members that took the majority with them.

use std::collections::BTreeSet;

use pushonce_core::{MemberState, NodeId};

use super::ControlState;

/// Why a cluster cannot be recovered this way. Nothing changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecoverError {
    /// This node has never heard of its cluster.
    #[error("this node knows of no cluster: recover on another one")]
    NotFounded,
    /// Nobody of that id is in.
    #[error("{0} is not a member: check --lost")]
    NotAMember(NodeId),
    /// The node that recovers is said to be lost.
    #[error("{0} is this node: name only the nodes that are lost")]
    IsLocalNode(NodeId),
    /// The node that recovers could not hold shards.
    #[error("{0} is not an active member with the core role: recover on one that is")]
    NotShardHolder(NodeId),
}

impl ControlState {
    /// Removes the `lost` members for ever, as of `index`, on the node `me` that goes on without them.
    ///
    /// # Errors
    /// [`RecoverError`].
    pub fn recover(
        &mut self,
        me: NodeId,
        lost: &BTreeSet<NodeId>,
        index: u64,
    ) -> Result<(), RecoverError> {
        let cluster = self.0.as_mut().ok_or(RecoverError::NotFounded)?;
        if lost.contains(&me) {
            return Err(RecoverError::IsLocalNode(me));
        }
        if let Some(unknown) = lost.iter().find(|node| !cluster.members.contains_key(*node)) {
            return Err(RecoverError::NotAMember(*unknown));
        }
        let local = cluster.members.get(&me).map(|known| &known.member);
        if !local.is_some_and(|own| own.state == MemberState::Active && own.roles.core) {
            return Err(RecoverError::NotShardHolder(me));
        }
        for node in lost {
            if let Some(known) = cluster.members.remove(node) {
                cluster.removed.insert(known.incarnation, *node);
            }
        }
        // The lost members may have given some ids out that this node never heard of: as many as a cluster
        // may have members.
        let skipped = cluster.rules().members_max as u64;
        cluster.next_id = cluster.next_id.saturating_add(skipped);
        cluster.times.complete_if_acknowledged(cluster.members.keys().copied());
        cluster.version = index;
        // Shards may have followed settings that the lost members had committed: these replace them.
        cluster.namespaces.revision = index;
        Ok(())
    }
}
