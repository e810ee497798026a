//! The pipes with all nodes' logs are closed; then one node is stopped, which makes the others log a lot.

use std::time::Duration;

use tonic::async_trait;

use super::{
    FaultContext, FaultEffect, FaultInjector, FaultScenario, FaultState, on_loopback, secs,
};

pub(super) const SCENARIO: FaultScenario = FaultScenario {
    name: "log-output-closed",
    description: "the pipes of all nodes' logs are not read, then closed, then one node is stopped",
    nodes: 3,
    flags: &[],
    prepare: |_| on_loopback(LogOutputClosed { stopped: None }),
};

struct LogOutputClosed {
    stopped: Option<usize>,
}

#[async_trait(?Send)]
impl FaultInjector for LogOutputClosed {
    fn duration(&self) -> Duration {
        secs(3)
    }

    /// Each round restarts every node, which takes several seconds.
    fn rounds_max(&self) -> usize {
        2
    }

    async fn inject(&mut self, context: &mut FaultContext) -> Result<FaultEffect, String> {
        let nodes: Vec<_> = context.cluster.running_nodes().collect();
        for &node in &nodes {
            context.cluster.stop(node).await;
            context.cluster.node_mut(node).start_with_unread_log_pipe();
            context.wait_all_ready().await;
        }
        for &node in &nodes {
            context.cluster.node_mut(node).close_log_pipe();
        }
        let owner = context.hot_topic_owner().await;
        context.cluster.stop(owner).await;
        self.stopped = Some(owner);
        Ok(FaultEffect::restart(nodes))
    }

    async fn confirm(&mut self, context: &mut FaultContext) -> FaultState {
        let stopped = self.stopped;
        for node in (0..context.cluster.len()).filter(|&node| Some(node) != stopped) {
            if context.cluster.node_mut(node).has_exited() {
                return FaultState::Indeterminate(format!(
                    "node {node} exited when its log was closed"
                ));
            }
        }
        FaultState::Active
    }

    async fn heal(&mut self, context: &mut FaultContext) {
        for node in 0..context.cluster.len() {
            if context.cluster.node(node).is_running() {
                context.cluster.stop(node).await;
            }
            context.restart_if_stopped(node);
            context.wait_all_ready().await;
        }
    }
}
