//! A node loses its disk and restarts under its name: it must be refused, and a new node replaces it.

use std::time::Duration;

use tonic::async_trait;

use super::{
    FaultContext, FaultEffect, FaultInjector, FaultScenario, FaultState, on_loopback, secs,
};

pub(super) const SCENARIO: FaultScenario = FaultScenario {
    name: "wiped-node",
    description: "a killed node loses its disk, is refused under its name, and is replaced",
    nodes: 3,
    flags: &[],
    prepare: |_| on_loopback(WipedNode { is_founder: false, victim: None }),
};

pub(super) const FOUNDER_SCENARIO: FaultScenario = FaultScenario {
    name: "wiped-founder",
    description: "the first node is killed and loses its disk; it is refused when it restarts, and is replaced",
    nodes: 3,
    flags: &[],
    prepare: |_| on_loopback(WipedNode { is_founder: true, victim: None }),
};

struct WipedNode {
    /// Whether the victim is the node that initialized the cluster: its command has no `--join` flag.
    is_founder: bool,
    victim: Option<usize>,
}

#[async_trait(?Send)]
impl FaultInjector for WipedNode {
    fn duration(&self) -> Duration {
        secs(3)
    }

    /// After a second replacement, no majority would have the data.
    fn rounds_max(&self) -> usize {
        1
    }

    async fn inject(&mut self, context: &mut FaultContext) -> Result<FaultEffect, String> {
        let victim = if self.is_founder { 0 } else { 1.max(context.hot_topic_owner().await) };
        context.cluster.kill(victim);
        context.cluster.node(victim).wipe();
        context.cluster.restart(victim);
        self.victim = Some(victim);
        Ok(FaultEffect::on_nodes(vec![victim]))
    }

    async fn confirm(&mut self, context: &mut FaultContext) -> FaultState {
        let victim = self.victim.expect("the fault was injected");
        let message =
            if self.is_founder { "belongs to no cluster" } else { "does not let this node join" };
        context.confirm_start_refused(victim, message).await
    }

    async fn heal(&mut self, context: &mut FaultContext) {
        if let Some(victim) = self.victim.take() {
            context.replace_node(victim).await;
        }
    }
}
