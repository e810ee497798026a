//! A rolling upgrade, back, forward again, and the cluster version raised: after that the older build
//! is refused. A second release repeats this, and reads records that were written before the first.

use std::time::Duration;

use tonic::async_trait;

use super::{Confirmed, Effect, Fault, Row, Stage, loopback, secs};
use crate::binary::{self, Build};
use crate::tool;
use crate::wait::until;

pub(super) const ROW: Row = Row {
    name: "rolling-upgrade-and-back",
    story: "every node goes to the next build, back, and forward again; the cluster version is raised; \
            the older build is refused; and the same once more with the build after the next",
    nodes: 3,
    flags: &[],
    prepare: |_| {
        LATER.iter().try_for_each(|(build, _)| binary::path_of(*build).map(drop))?;
        loopback(Upgrade { failed: None })
    },
};

struct Upgrade {
    /// What did not happen as it should.
    failed: Option<String>,
}

/// The later builds in turn, and the cluster version that each adds.
const LATER: [(Build, u32); 2] = [(Build::Next, 2), (Build::AfterNext, 3)];

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
        let mut current = Build::Current;
        for (next, version) in LATER {
            for build in [next, current, next] {
                for &node in &nodes {
                    self.go_to(stage, node, build).await;
                }
            }
            finalize(stage, nodes[0]).await;
            for &node in &nodes {
                until(
                    &format!("node {node} has cluster version {version}"),
                    secs(20),
                    async || match stage.cluster.status(node).await?.cluster_version {
                        known if known == version => Ok(()),
                        other => Err(format!("it has {other}")),
                    },
                )
                .await;
            }
            let refused = format!("cluster version {version} is not supported");
            self.go_back(stage, nodes[0], current, &refused).await;
            stage.cluster.node_mut(nodes[0]).switch_to(next);
            stage.cluster.restart(nodes[0]);
            stage.whole().await;
            current = next;
        }
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

    /// An older build refuses the directory in these words, and leaves it as it is.
    async fn go_back(&mut self, stage: &mut Stage, node: usize, older: Build, words: &str) {
        let status = stage.cluster.stop(node).await;
        stage.cluster.node_mut(node).switch_to(older);
        let before = stage.cluster.node(node).log().matches(words).count();
        stage.cluster.restart(node);
        let ended = stage.cluster.ended(node).await;
        let after = stage.cluster.node(node).log().matches(words).count();
        if !status.success() || ended.success() || after <= before {
            self.failed = Some(format!(
                "node {node} was not refused with the older build: it ended by {ended}"
            ));
        }
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
