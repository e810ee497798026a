//! Every node is stopped as an operator stops it, and started again, one after the other.

use std::time::Duration;

use tonic::async_trait;

use super::{Confirmed, Effect, Fault, Row, Stage, loopback, secs};

pub(super) const ROW: Row = Row {
    name: "rolling-restart",
    story: "every node is stopped and started again, the next when the last is ready",
    nodes: 3,
    flags: &[],
    prepare: |_| loopback(Rolling::new(false)),
};

pub(super) const TERMINATED: Row = Row {
    name: "rolling-restart-sigterm",
    story: "every node gets SIGTERM, gives its leads away, sends its clients away and starts again",
    nodes: 3,
    flags: &["--shutdown-delay", "500ms", "--shutdown-grace", "2s"],
    prepare: |_| loopback(Rolling::new(true)),
};

pub(super) struct Rolling {
    /// By SIGTERM; else as by Ctrl-C.
    terminated: bool,
    /// Why a node did not end well.
    failed: Option<String>,
}

impl Rolling {
    pub(super) fn new(terminated: bool) -> Rolling {
        Rolling { terminated, failed: None }
    }
}

#[async_trait(?Send)]
impl Fault for Rolling {
    fn hold(&self) -> Duration {
        secs(1)
    }

    async fn inject(&mut self, stage: &mut Stage) -> Result<Effect, String> {
        let nodes: Vec<_> = stage.cluster.running().collect();
        for &node in &nodes {
            let status = if self.terminated {
                stage.cluster.node(node).terminate();
                stage.cluster.ended(node).await
            } else {
                stage.cluster.stop(node).await
            };
            if !status.success() {
                self.failed = Some(format!("node {node} ended by {status}"));
            }
            stage.cluster.restart(node);
            stage.whole().await;
        }
        Ok(Effect::restart(nodes))
    }

    async fn confirm(&mut self, _: &mut Stage) -> Confirmed {
        let failed = self.failed.take();
        failed.map_or(Confirmed::Installed, Confirmed::Indeterminate)
    }

    async fn heal(&mut self, _: &mut Stage) {}
}
