//! A rolling upgrade, a downgrade, and another upgrade; then the cluster version is raised, after which the
//! older build is refused. All of this is repeated with a second release, which reads records written before
//! the first.

use std::time::Duration;

use tonic::async_trait;

use super::{
    FaultContext, FaultEffect, FaultInjector, FaultScenario, FaultState, on_loopback, secs,
};
use crate::binary::{self, BinaryBuild};
use crate::cli;
use crate::wait::wait_until;

pub(super) const SCENARIO: FaultScenario = FaultScenario {
    name: "rolling-upgrade-and-downgrade",
    description: "every node is upgraded to the next build, downgraded, and upgraded again; the cluster version is \
            raised; the older build is refused; then the same with the build after the next",
    nodes: 3,
    flags: &[],
    prepare: |_| {
        NEXT_BUILDS.iter().try_for_each(|(build, _)| binary::path_for_build(*build).map(drop))?;
        on_loopback(RollingUpgrade { failure: None })
    },
};

struct RollingUpgrade {
    /// The step that failed.
    failure: Option<String>,
}

/// The later builds, each with the cluster version that it adds.
const NEXT_BUILDS: [(BinaryBuild, u32); 2] = [(BinaryBuild::Next, 2), (BinaryBuild::AfterNext, 3)];

#[async_trait(?Send)]
impl FaultInjector for RollingUpgrade {
    fn duration(&self) -> Duration {
        secs(1)
    }

    /// The cluster version never decreases, so a cluster can be upgraded only once.
    fn rounds_max(&self) -> usize {
        1
    }

    async fn inject(&mut self, context: &mut FaultContext) -> Result<FaultEffect, String> {
        let nodes: Vec<_> = context.cluster.running_nodes().collect();
        let mut current = BinaryBuild::Current;
        for (next, version) in NEXT_BUILDS {
            for build in [next, current, next] {
                for &node in &nodes {
                    self.restart_with_build(context, node, build).await;
                }
            }
            finalize(context, nodes[0]).await;
            for &node in &nodes {
                wait_until(
                    &format!("node {node} has cluster version {version}"),
                    secs(20),
                    async || match context.cluster.status(node).await?.cluster_version {
                        found if found == version => Ok(()),
                        other => Err(format!("the version is {other}")),
                    },
                )
                .await;
            }
            let refusal = format!("cluster version {version} is not supported");
            self.expect_downgrade_refused(context, nodes[0], current, &refusal).await;
            context.cluster.node_mut(nodes[0]).set_build(next);
            context.cluster.restart(nodes[0]);
            context.wait_all_ready().await;
            current = next;
        }
        Ok(FaultEffect::restart(nodes))
    }

    async fn confirm(&mut self, _: &mut FaultContext) -> FaultState {
        let failure = self.failure.take();
        failure.map_or(FaultState::Active, FaultState::Indeterminate)
    }

    async fn heal(&mut self, _: &mut FaultContext) {}
}

impl RollingUpgrade {
    /// Stops a node as an operator does, and restarts it with another build.
    async fn restart_with_build(
        &mut self,
        context: &mut FaultContext,
        node: usize,
        build: BinaryBuild,
    ) {
        let status = context.cluster.stop(node).await;
        if !status.success() {
            self.failure = Some(format!("node {node} exited with {status}"));
        }
        context.cluster.node_mut(node).set_build(build);
        context.cluster.restart(node);
        context.wait_all_ready().await;
    }

    /// Checks that an older build refuses the data directory with this message.
    async fn expect_downgrade_refused(
        &mut self,
        context: &mut FaultContext,
        node: usize,
        older_build: BinaryBuild,
        message: &str,
    ) {
        let status = context.cluster.stop(node).await;
        context.cluster.node_mut(node).set_build(older_build);
        let before = context.cluster.node(node).log_text().matches(message).count();
        context.cluster.restart(node);
        let exit_status = context.cluster.wait_exit(node).await;
        let after = context.cluster.node(node).log_text().matches(message).count();
        if !status.success() || exit_status.success() || after <= before {
            self.failure = Some(format!(
                "node {node} was not refused with the older build: it exited with {exit_status}"
            ));
        }
    }
}

/// Raises the cluster version as an operator does.
async fn finalize(context: &FaultContext, node: usize) {
    let server = format!("http://{}", context.cluster.node(node).ports.grpc);
    wait_until("the cluster version is raised", secs(30), async || {
        let output = cli::pushonce(["cluster", "finalize", "--server", &server], "").await;
        if output.status.success() { Ok(()) } else { Err(output.stderr) }
    })
    .await;
}
