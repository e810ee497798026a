//! A node is restarted with other consensus times than the cluster's. It must not start, or two nodes could
//! own one shard.

use std::time::Duration;

use tonic::async_trait;

use super::{
    FaultContext, FaultEffect, FaultInjector, FaultScenario, FaultState, on_loopback, secs,
};

pub(super) const SCENARIO: FaultScenario = FaultScenario {
    name: "mixed-consensus-times",
    description: "the owner is killed and restarted with the consensus times of a wide-area network, which is refused",
    nodes: 3,
    flags: &[],
    prepare: |_| on_loopback(MixedConsensusTimes { victim: None }),
};

struct MixedConsensusTimes {
    victim: Option<usize>,
}

#[async_trait(?Send)]
impl FaultInjector for MixedConsensusTimes {
    fn duration(&self) -> Duration {
        secs(3)
    }

    async fn inject(&mut self, context: &mut FaultContext) -> Result<FaultEffect, String> {
        let victim = context.hot_topic_owner().await;
        context.cluster.kill(victim);
        context.cluster.restart_with(victim, &["--consensus", "wan"]);
        self.victim = Some(victim);
        Ok(FaultEffect::restart(vec![victim]))
    }

    async fn confirm(&mut self, context: &mut FaultContext) -> FaultState {
        let victim = self.victim.expect("the fault was injected");
        context.confirm_start_refused(victim, "the cluster has --consensus lan").await
    }

    async fn heal(&mut self, context: &mut FaultContext) {
        if let Some(victim) = self.victim.take() {
            context.restart_if_stopped(victim);
        }
    }
}
