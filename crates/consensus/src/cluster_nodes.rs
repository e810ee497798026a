//! The nodes that may lead groups, according to the newest cluster view.

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError, RwLock};

use pushonce_core::NodeId;

/// The nodes that may lead groups. Clones share the set.
#[derive(Clone, Debug, Default)]
pub(crate) struct ClusterNodes(Arc<RwLock<KnownNodes>>);

#[derive(Debug, Default)]
struct KnownNodes {
    /// The members with the core role.
    core: BTreeSet<NodeId>,
    /// Every lower id was assigned when the view was committed.
    next_id: u64,
}

/// What the newest view says of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NodeStanding {
    /// A member that may lead groups.
    Core,
    /// A member that may not, or a removed one.
    NotCore,
    /// The node may have joined after the view was committed, or there is no view yet.
    Unknown,
}

impl ClusterNodes {
    /// Replaces the nodes with those of a newer view.
    pub(crate) fn set(&self, core: BTreeSet<NodeId>, next_id: NodeId) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) =
            KnownNodes { core, next_id: next_id.0 };
    }

    pub(crate) fn standing(&self, node: NodeId) -> NodeStanding {
        let known = self.0.read().unwrap_or_else(PoisonError::into_inner);
        match known.core.contains(&node) {
            true => NodeStanding::Core,
            false if node.0 < known.next_id => NodeStanding::NotCore,
            false => NodeStanding::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_that_the_view_does_not_know_yet_is_not_excluded() {
        let nodes = ClusterNodes::default();
        assert_eq!(nodes.standing(NodeId(1)), NodeStanding::Unknown, "there is no view");
        nodes.set(BTreeSet::from([NodeId(1)]), NodeId(3));
        assert_eq!(nodes.standing(NodeId(1)), NodeStanding::Core);
        assert_eq!(nodes.standing(NodeId(2)), NodeStanding::NotCore);
        assert_eq!(nodes.standing(NodeId(3)), NodeStanding::Unknown);
    }
}
