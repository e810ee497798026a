//! The nodes whose versions do not fit this node's, for those who watch over it.

use std::collections::BTreeMap;

use pushonce_core::{ClusterView, NodeId, VersionConflict};
use tokio::sync::watch;

/// By node: why it and this node exchange no frames. Clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Conflicts(watch::Sender<BTreeMap<NodeId, VersionConflict>>);

impl Conflicts {
    /// The versions of a node do not fit. Logged once for each reason.
    pub(crate) fn note(&self, node: NodeId, conflict: VersionConflict) {
        let news = self.0.send_if_modified(|known| known.insert(node, conflict) != Some(conflict));
        if news {
            tracing::warn!(peer = %node, error = %conflict, "refused a link for its version");
            metrics::counter!("pushonce_relay_version_refusals_total").increment(1);
        }
    }

    /// They fit.
    pub(crate) fn clear(&self, node: NodeId) {
        self.0.send_if_modified(|known| known.remove(&node).is_some());
    }

    /// Only these nodes are members now.
    pub(crate) fn keep_members(&self, view: &ClusterView) {
        self.0.send_if_modified(|known| {
            let before = known.len();
            known.retain(|&node, _| view.member(node).is_some());
            known.len() != before
        });
    }

    pub(crate) fn watch(&self) -> watch::Receiver<BTreeMap<NodeId, VersionConflict>> {
        self.0.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use pushonce_core::VersionRange;

    use super::*;
    use crate::engine::testing::view;

    #[test]
    fn conflicts_of_removed_members_are_forgotten() {
        let conflicts = Conflicts::default();
        let (member, removed) = (NodeId(1), NodeId(2));
        let conflict = VersionConflict::Unnamed { ours: VersionRange::SUPPORTED };
        for node in [member, removed] {
            conflicts.note(node, conflict);
        }
        conflicts.keep_members(&view(&["eu"]));
        assert_eq!(conflicts.watch().borrow().keys().collect::<Vec<_>>(), [&member]);
    }
}
