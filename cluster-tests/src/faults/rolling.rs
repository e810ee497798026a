//! Every node is stopped as an operator stops it, and started again, one after the other.

use std::time::Duration;

use tonic::async_trait;

use super::{Confirmed, Effect, Fault, Row, Stage, loopback, secs};

pub(super) const ROW: Row = Row {
    name: "rolling-restart",
    story: "every node is stopped and started again, the next when the last is ready",
    nodes: 3,
    flags: &[],
    prepare: |_| loopback(Rolling::default()),
};

#[derive(Default)]
pub(super) struct Rolling {
    /// Why a node did not end well.
    failed: Option<String>,
}

#[async_trait(?Send)]
impl Fault for Rolling {
    fn hold(&self) -> Duration {
        secs(1)
    }

    async fn inject(&mut self, stage: &mut Stage) -> Result<Effect, String> {
        let nodes: Vec<_> = stage.cluster.running().collect();
        for &node in &nodes {
            let status = stage.cluster.stop(node).await;
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
