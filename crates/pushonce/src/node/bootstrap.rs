//! The beginning of a cluster: every shard group is begun once, by the node that made the cluster.
//!
//! Two beginnings of one group would be two histories, so the right to begin is kept on disk, with
//! the one founder, and given up when every group has begun.

use std::sync::Arc;

use pushonce_core::ClusterView;

use super::identity::{DataDir, Identity};
use super::replica_supervisor::LocalReplicas;

/// The right to begin shard groups, or its absence.
pub(super) struct Bootstrap {
    identity: Identity,
    data: Arc<DataDir>,
}

impl Bootstrap {
    /// As the data directory remembers it.
    pub(super) fn new(identity: Identity, data: Arc<DataDir>) -> Bootstrap {
        Bootstrap { identity, data }
    }

    /// Whether groups are still to be begun.
    pub(super) fn is_pending(&self) -> bool {
        self.identity.bootstrap.is_some()
    }

    /// Begins what is hosted and not begun; gives the right up once all shards have begun.
    ///
    /// # Errors
    /// When a group cannot be begun, or the data directory cannot be written.
    pub(super) async fn advance(
        &mut self,
        view: &ClusterView,
        hosted: &LocalReplicas,
    ) -> anyhow::Result<()> {
        if !self.is_pending() || view.version == 0 {
            return Ok(());
        }
        for shard in view.shards.ids() {
            match hosted.get(shard) {
                Some(handle) => handle.group().initialize().await?,
                None => return Ok(()),
            }
        }
        self.identity.bootstrap = None;
        self.data.save_identity(&self.identity)?;
        tracing::info!(shards = view.shards.get(), "cluster created");
        Ok(())
    }
}
