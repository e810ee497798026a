//! Recovery of a cluster whose majority is permanently lost.

use std::collections::BTreeSet;

use pushonce_core::{MemberState, NodeId};

use super::ControlState;

/// Why a cluster cannot be recovered on this node. Nothing changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecoverError {
    /// This node has not applied the bootstrap of its cluster.
    #[error("this node has no cluster state: recover on another node")]
    NotBootstrapped,
    /// No member has this id.
    #[error("{0} is not a member: check --lost")]
    NotAMember(NodeId),
    /// The node that recovers is listed as lost.
    #[error("{0} is this node: name only the nodes that are lost")]
    IsLocalNode(NodeId),
    /// The node that recovers cannot hold shards.
    #[error("{0} is not an active member with the core role: recover on a node that is")]
    NotShardHolder(NodeId),
}

impl ControlState {
    /// Removes the `lost` members permanently, as of `index`, on the node `me` that continues without them.
    ///
    /// # Errors
    /// [`RecoverError`] when the state is empty, or `me` or `lost` are invalid.
    pub fn recover(
        &mut self,
        me: NodeId,
        lost: &BTreeSet<NodeId>,
        index: u64,
    ) -> Result<(), RecoverError> {
        let cluster = self.0.as_mut().ok_or(RecoverError::NotBootstrapped)?;
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
        // The lost members may have assigned ids that this node does not know: at most as many as a cluster
        // may have members.
        let skipped = cluster.rules().members_max as u64;
        cluster.next_id = cluster.next_id.saturating_add(skipped);
        cluster.times.complete_if_acknowledged(cluster.members.keys().copied());
        cluster.version = index;
        // Shards may have applied newer settings that the lost members had committed: this revision
        // replaces them.
        cluster.namespaces.revision = index;
        Ok(())
    }
}
