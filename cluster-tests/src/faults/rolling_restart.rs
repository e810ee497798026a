//! Every node is stopped as by an operator and restarted, one after the other.

use std::time::Duration;

use tonic::async_trait;

use super::{
    FaultContext, FaultEffect, FaultInjector, FaultScenario, FaultState, on_loopback, secs,
};

pub(super) const SCENARIO: FaultScenario = FaultScenario {
    name: "rolling-restart",
    description: "every node is stopped and restarted in turn, each when the previous one is ready",
    nodes: 3,
    flags: &[],
    prepare: |_| on_loopback(RollingRestart::new(false)),
};

pub(super) const SIGTERM_SCENARIO: FaultScenario = FaultScenario {
    name: "rolling-restart-sigterm",
    description: "every node receives SIGTERM, transfers leadership, moves its clients to other nodes and restarts",
    nodes: 3,
    flags: &["--shutdown-delay", "500ms", "--shutdown-grace", "2s"],
    prepare: |_| on_loopback(RollingRestart::new(true)),
};

pub(super) struct RollingRestart {
    /// Whether nodes are stopped by SIGTERM; otherwise by SIGINT, as by Ctrl-C.
    by_sigterm: bool,
    /// The node that did not exit successfully, and its status.
    failure: Option<String>,
}

impl RollingRestart {
    pub(super) fn new(by_sigterm: bool) -> RollingRestart {
        RollingRestart { by_sigterm, failure: None }
    }
}

#[async_trait(?Send)]
impl FaultInjector for RollingRestart {
    fn duration(&self) -> Duration {
        secs(1)
    }

    async fn inject(&mut self, context: &mut FaultContext) -> Result<FaultEffect, String> {
        let nodes: Vec<_> = context.cluster.running_nodes().collect();
        for &node in &nodes {
            let status = if self.by_sigterm {
                context.cluster.node(node).terminate();
                context.cluster.wait_exit(node).await
            } else {
                context.cluster.stop(node).await
            };
            if !status.success() {
                self.failure = Some(format!("node {node} exited with {status}"));
            }
            context.cluster.restart(node);
            context.wait_all_ready().await;
        }
        Ok(FaultEffect::restart(nodes))
    }

    async fn confirm(&mut self, _: &mut FaultContext) -> FaultState {
        let failure = self.failure.take();
        failure.map_or(FaultState::Active, FaultState::Indeterminate)
    }

    async fn heal(&mut self, _: &mut FaultContext) {}
}
