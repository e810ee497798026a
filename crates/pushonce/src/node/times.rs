//! Follows the cluster's times of consensus: puts each step of a change on disk and in force, and
//! acknowledges it.
//!
//! The order is what makes a change safe (see `ClusterTimes` in core): a step is on disk before it is in
//! force, so that a restarted node never returns to the step before, and in force before it is
//! acknowledged.

use std::sync::Arc;
use std::time::Duration;

use pushonce_consensus::Engine;
use pushonce_control::Control;
use pushonce_core::{ClusterTimes, ClusterView};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::identity::DataDir;

/// Between two attempts to write or to acknowledge; the latter wait some seconds for a leader by themselves.
const PAUSE: Duration = Duration::from_secs(1);

/// The times in force, and where they go.
pub(super) struct Follower {
    pub(super) times: ClusterTimes,
    pub(super) data: Arc<DataDir>,
    pub(super) engine: Engine,
    pub(super) control: Control,
}

impl Follower {
    /// Runs until `stop`. While the data directory cannot be written, a step is neither in force here nor
    /// acknowledged, and the others wait for this node.
    ///
    /// # Errors
    /// When the control group has ended.
    pub(super) async fn run(mut self, stop: CancellationToken) -> anyhow::Result<()> {
        tokio::select! {
            () = stop.cancelled() => Ok(()),
            ended = self.follow() => ended,
        }
    }

    async fn follow(&mut self) -> anyhow::Result<()> {
        let mut view = self.control.view();
        let mut acknowledged = 0;
        loop {
            let agreed = agreed(&mut view);
            if let Some(agreed) = agreed.filter(|agreed| agreed.version > self.times.version) {
                if let Err(error) = self.data.keep_times(&agreed) {
                    tracing::warn!(%error, "cannot write the consensus times, retrying");
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
                self.engine.set_times(&agreed);
                self.times = agreed;
                tracing::info!(version = agreed.version, lease = ?agreed.lease(),
                    hold = ?agreed.hold(), changing = agreed.next.is_some(),
                    "consensus times changed; heartbeats and timeouts follow at the next start");
            }
            let version = self.times.version;
            if self.times.next.is_none() || acknowledged >= version {
                view.changed().await?;
                continue;
            }
            match self.control.holds_times(version).await {
                Ok(()) => acknowledged = version,
                Err(why) => {
                    tracing::warn!(%why, version, "cannot acknowledge the consensus times, retrying");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }
}

fn agreed(view: &mut watch::Receiver<Option<Arc<ClusterView>>>) -> Option<ClusterTimes> {
    view.borrow_and_update().as_ref().map(|view| view.times)
}
