//! A rolling upgrade, back, forward again, and the cluster version raised: after that the older build
//! is refused.

use std::time::Duration;

use tonic::async_trait;

use super::{Confirmed, Effect, Fault, Row, Stage, loopback, secs};
use crate::binary::{self, Build};
use crate::tool;
use crate::wait::until;

pub(super) const ROW: Row = Row {
    name: "rolling-upgrade-and-back",
    story: "every node goes to the next build, back, and forward again; the cluster version is raised; \
            the older build is refused",
    nodes: 3,
    flags: &[],
    prepare: |_| {
        binary::next()?;
        loopback(Upgrade { failed: None })
    },
};

struct Upgrade {
    /// What did not happen as it should.
    failed: Option<String>,
}

/// The cluster version that the next build adds.
const NEXT_VERSION: u32 = 2;

/// What an older build says of a directory whose cluster has moved on.
const REFUSED: &str = "cluster version 2 is not supported";

#[async_trait(?Send)]
impl Fault for Upgrade {
    fn hold(&self) -> Duration {
        secs(1)
    }

    /// The version never goes down, so that one cluster is upgraded once.
    fn rounds(&self) -> usize {
        1
    }

    async fn inject(&mut self, stage: &mut Stage) -> Result<Effect, String> {
        let nodes: Vec<_> = stage.cluster.running().collect();
        for build in [Build::Next, Build::Current, Build::Next] {
            for &node in &nodes {
                self.go_to(stage, node, build).await;
            }
        }
        finalize(stage, nodes[0]).await;
        for &node in &nodes {
            until(&format!("node {node} has the next cluster version"), secs(20), async || {
                match stage.cluster.status(node).await?.cluster_version {
                    NEXT_VERSION => Ok(()),
                    other => Err(format!("it has {other}")),
                }
            })
            .await;
        }
        self.go_back(stage, nodes[0]).await;
        Ok(Effect::restart(nodes))
    }

    async fn confirm(&mut self, _: &mut Stage) -> Confirmed {
        let failed = self.failed.take();
        failed.map_or(Confirmed::Installed, Confirmed::Indeterminate)
    }

    async fn heal(&mut self, _: &mut Stage) {}
}

impl Upgrade {
    /// Stops a node as an operator does, and starts it with another build.
    async fn go_to(&mut self, stage: &mut Stage, node: usize, build: Build) {
        let status = stage.cluster.stop(node).await;
        if !status.success() {
            self.failed = Some(format!("node {node} ended by {status}"));
        }
        stage.cluster.node_mut(node).switch_to(build);
        stage.cluster.restart(node);
        stage.whole().await;
    }

    /// The older build refuses the directory in words, and leaves it as it is.
    async fn go_back(&mut self, stage: &mut Stage, node: usize) {
        let status = stage.cluster.stop(node).await;
        stage.cluster.node_mut(node).switch_to(Build::Current);
        let said = stage.cluster.node(node).log().matches(REFUSED).count();
        stage.cluster.restart(node);
        let refused = stage.cluster.ended(node).await;
        let says = stage.cluster.node(node).log().matches(REFUSED).count();
        if !status.success() || refused.success() || says <= said {
            self.failed = Some(format!(
                "node {node} was not refused with the older build: it ended by {refused}"
            ));
        }
        stage.cluster.node_mut(node).switch_to(Build::Next);
        stage.cluster.restart(node);
        stage.whole().await;
    }
}

/// Raises the cluster version, as an operator does.
async fn finalize(stage: &Stage, node: usize) {
    let server = format!("http://{}", stage.cluster.node(node).ports.grpc);
    until("the cluster version is raised", secs(30), async || {
        let done = tool::pushonce(["cluster", "finalize", "--server", &server], "").await;
        if done.status.success() { Ok(()) } else { Err(done.err) }
    })
    .await;
}
