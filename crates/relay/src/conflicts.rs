//! The nodes whose versions do not fit this node's, for those who watch over it.

use std::collections::BTreeMap;

use pushonce_core::{NodeId, VersionConflict};
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

    pub(crate) fn watch(&self) -> watch::Receiver<BTreeMap<NodeId, VersionConflict>> {
        self.0.subscribe()
    }
}
