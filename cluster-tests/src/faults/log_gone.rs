//! The readers of all nodes' logs go away, and then one node is stopped, of which the others have a lot
//! to log.

use std::time::Duration;

use tonic::async_trait;

use super::{Confirmed, Effect, Fault, Row, Stage, loopback, secs};

pub(super) const ROW: Row = Row {
    name: "log-output-gone",
    story: "no pipe with a node's log is read, then all pipes are closed, then one node is stopped",
    nodes: 3,
    flags: &[],
    prepare: |_| loopback(LogGone { stopped: None }),
};

struct LogGone {
    stopped: Option<usize>,
}

#[async_trait(?Send)]
impl Fault for LogGone {
    fn hold(&self) -> Duration {
        secs(3)
    }

    /// Each round restarts every node, which takes some seconds.
    fn rounds(&self) -> usize {
        2
    }

    async fn inject(&mut self, stage: &mut Stage) -> Result<Effect, String> {
        let nodes: Vec<_> = stage.cluster.running().collect();
        for &node in &nodes {
            stage.cluster.stop(node).await;
            stage.cluster.node_mut(node).start_with_stuck_log();
            stage.whole().await;
        }
        for &node in &nodes {
            stage.cluster.node_mut(node).close_log();
        }
        let owner = stage.owner().await;
        stage.cluster.stop(owner).await;
        self.stopped = Some(owner);
        Ok(Effect::restart(nodes))
    }

    async fn confirm(&mut self, stage: &mut Stage) -> Confirmed {
        let stopped = self.stopped;
        for node in (0..stage.cluster.len()).filter(|&node| Some(node) != stopped) {
            if stage.cluster.node_mut(node).has_ended() {
                return Confirmed::Indeterminate(format!("node {node} ended with its log"));
            }
        }
        Confirmed::Installed
    }

    async fn heal(&mut self, stage: &mut Stage) {
        for node in 0..stage.cluster.len() {
            if stage.cluster.node(node).runs() {
                stage.cluster.stop(node).await;
            }
            stage.restart(node);
            stage.whole().await;
        }
    }
}
