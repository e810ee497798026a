//! Bootstrap of a cluster: each shard group is initialized once, by the node that created the cluster.
//!
//! Two initializations of one group would be two histories. So the right to initialize is stored on the
//! disk of the first node only, and is given up when every group is initialized.

use std::sync::Arc;
use std::time::Instant;

use pushonce_core::ClusterView;
use pushonce_telemetry::LogLimiter;

use super::identity::{DataDir, Identity};
use super::replica_supervisor::LocalReplicas;
use crate::metrics::DATA_WRITE_ERRORS;

/// The right to initialize shard groups, or its absence.
pub(super) struct Bootstrap {
    identity: Identity,
    data: Arc<DataDir>,
}

impl Bootstrap {
    /// Restores the state that the data directory has stored.
    pub(super) fn new(identity: Identity, data: Arc<DataDir>) -> Bootstrap {
        Bootstrap { identity, data }
    }

    /// Whether some groups still have to be initialized.
    pub(super) fn is_pending(&self) -> bool {
        self.identity.bootstrap.is_some()
    }

    /// Initializes the hosted groups that are not initialized; gives the right up once all shards are. While the
    /// data directory cannot be written, the right stays: call it again.
    ///
    /// # Errors
    /// When a group cannot be initialized.
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
        let complete = Identity { bootstrap: None, ..self.identity.clone() };
        // A group of which this node has a vote is never initialized again, so a late end is safe.
        if let Err(error) = self.data.save_identity(&complete) {
            DATA_WRITE_ERRORS.register_counter(&["identity.json"]).increment(1);
            static LIMITER: LogLimiter = LogLimiter::new();
            if let Some(suppressed) = LIMITER.allow(Instant::now()) {
                tracing::warn!(%error, suppressed, "cannot store that the cluster is created, retrying");
            }
            return Ok(());
        }
        self.identity = complete;
        tracing::info!(shards = view.shards.get(), "cluster created");
        Ok(())
    }
}
