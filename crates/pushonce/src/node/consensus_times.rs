//! Follows the consensus times of the cluster: stores each step of a change, applies it, and
//! acknowledges it.
//!
//! The order makes a change safe (see `ClusterTimes` in core): a step is on disk before it is in force, so
//! that a restarted node never returns to the previous step, and in force before it is acknowledged.

use std::sync::Arc;
use std::time::{Duration, Instant};

use pushonce_consensus::ConsensusEngine;
use pushonce_control::ControlHandle;
use pushonce_core::{ClusterTimes, ClusterView, CoverageMark};
use pushonce_telemetry::LogLimiter;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::identity::DataDir;

/// Pause between two attempts to write or acknowledge; an acknowledgement itself waits seconds for a leader.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// Follows the consensus times and applies them to this node.
pub(super) struct ConsensusTimesFollower {
    pub(super) times: ClusterTimes,
    pub(super) data: Arc<DataDir>,
    pub(super) engine: ConsensusEngine,
    pub(super) control: ControlHandle,
}

impl ConsensusTimesFollower {
    /// Runs until `shutdown` is cancelled. While the data directory cannot be written, a step is neither in
    /// force here nor acknowledged, and the other nodes wait for this one.
    ///
    /// # Errors
    /// When the control group has ended.
    pub(super) async fn run(mut self, shutdown: CancellationToken) -> anyhow::Result<()> {
        tokio::select! {
            () = shutdown.cancelled() => Ok(()),
            ended = self.follow() => ended,
        }
    }

    async fn follow(&mut self) -> anyhow::Result<()> {
        let mut view = self.control.view();
        let mut acknowledged_version = 0;
        let (save_limiter, ack_limiter) = (LogLimiter::new(), LogLimiter::new());
        loop {
            let newest = newest_times(&mut view);
            if let Some(newest) = newest.filter(|agreed| agreed.version > self.times.version) {
                if let Err(error) = self.data.save_times(&newest) {
                    if let Some(suppressed) = save_limiter.allow(Instant::now()) {
                        tracing::warn!(%error, suppressed, "cannot write the consensus times, retrying");
                    }
                    tokio::time::sleep(RETRY_INTERVAL).await;
                    continue;
                }
                CoverageMark::TimesChanged.reach();
                self.engine.set_times(&newest);
                self.times = newest;
                tracing::info!(version = newest.version, lease = ?newest.lease(),
                    hold = ?newest.vote_holdoff(), changing = newest.next.is_some(),
                    "consensus times changed; heartbeats and timeouts follow at the next start");
            }
            let version = self.times.version;
            if self.times.next.is_none() || acknowledged_version >= version {
                view.changed().await?;
                continue;
            }
            match self.control.ack_times(version).await {
                Ok(()) => acknowledged_version = version,
                Err(error) => {
                    if let Some(suppressed) = ack_limiter.allow(Instant::now()) {
                        tracing::warn!(%error, version, suppressed,
                            "cannot acknowledge the consensus times, retrying");
                    }
                    tokio::time::sleep(RETRY_INTERVAL).await;
                }
            }
        }
    }
}

fn newest_times(view: &mut watch::Receiver<Option<Arc<ClusterView>>>) -> Option<ClusterTimes> {
    view.borrow_and_update().as_ref().map(|view| view.times)
}
