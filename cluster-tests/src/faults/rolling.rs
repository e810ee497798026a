//! Every node is stopped as an operator stops it, and started again, one after the other.

use std::time::Duration;

use futures::FutureExt;
use futures::future::LocalBoxFuture;

use super::{Confirmed, Effect, Fault, Row, Stage, loopback, secs};

pub(super) const ROW: Row = Row {
    name: "rolling-restart",
    story: "every node is stopped and started again, the next when the last is ready",
    nodes: 3,
    flags: &[],
    prepare: |_| loopback(Rolling { failed: None }),
};

struct Rolling {
    /// Why a node did not end well.
    failed: Option<String>,
}

impl Fault for Rolling {
    fn hold(&self) -> Duration {
        secs(1)
    }

    fn inject<'a>(
        &'a mut self,
        stage: &'a mut Stage,
    ) -> LocalBoxFuture<'a, Result<Effect, String>> {
        async {
            let nodes: Vec<_> = stage.cluster.running().collect();
            for &node in &nodes {
                let status = stage.cluster.stop(node).await;
                if !status.success() {
                    self.failed = Some(format!("node {node} ended by {status}"));
                }
                stage.cluster.restart(node);
                stage.whole().await;
            }
            Ok(Effect { nodes, majority: true, ..Effect::default() })
        }
        .boxed_local()
    }

    fn confirm<'a>(&'a mut self, _: &'a mut Stage) -> LocalBoxFuture<'a, Confirmed> {
        let failed = self.failed.take();
        async move { failed.map_or(Confirmed::Installed, Confirmed::Indeterminate) }.boxed_local()
    }

    fn heal<'a>(&'a mut self, _: &'a mut Stage) -> LocalBoxFuture<'a, ()> {
        async {}.boxed_local()
    }
}
