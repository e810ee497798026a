//! The peers whose versions are incompatible with this node's, published for monitoring.

use std::collections::BTreeMap;

use pushonce_core::{ClusterView, NodeId, VersionConflict};
use tokio::sync::watch;

use crate::metrics;

/// The version conflict of each peer with which this node exchanges no frames. Clones share the map.
#[derive(Clone, Debug, Default)]
pub(crate) struct VersionConflicts(watch::Sender<BTreeMap<NodeId, VersionConflict>>);

impl VersionConflicts {
    /// Records that the versions of a node are incompatible. Logs once for each reason.
    pub(crate) fn record(&self, node: NodeId, conflict: VersionConflict) {
        let is_new =
            self.0.send_if_modified(|known| known.insert(node, conflict) != Some(conflict));
        if is_new {
            tracing::warn!(peer = %node, error = %conflict, "rejected a link, the versions do not overlap");
            metrics::VERSION_CONFLICTS.register_counter(&[]).increment(1);
        }
    }

    /// Records that the versions of a node are compatible.
    pub(crate) fn clear(&self, node: NodeId) {
        self.0.send_if_modified(|known| known.remove(&node).is_some());
    }

    /// Drops the conflicts of nodes that are not members of `view`.
    pub(crate) fn retain_members(&self, view: &ClusterView) {
        self.0.send_if_modified(|known| {
            let before = known.len();
            known.retain(|&node, _| view.member(node).is_some());
            known.len() != before
        });
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<BTreeMap<NodeId, VersionConflict>> {
        self.0.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use pushonce_core::VersionRange;

    use super::*;
    use crate::engine::testing::view;

    #[test]
    fn conflicts_of_removed_members_are_dropped() {
        let conflicts = VersionConflicts::default();
        let (member, removed) = (NodeId(1), NodeId(2));
        let conflict =
            VersionConflict::NoPeerVersion { local_supported: VersionRange::supported() };
        for node in [member, removed] {
            conflicts.record(node, conflict);
        }
        conflicts.retain_members(&view(&["eu"]));
        assert_eq!(conflicts.subscribe().borrow().keys().collect::<Vec<_>>(), [&member]);
    }
}
