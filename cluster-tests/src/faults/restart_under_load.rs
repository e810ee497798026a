//! Every node is killed and restarted at once while publishers keep sending: everything that is acknowledged
//! from the first moment of a start must be readable.

use std::time::Duration;

use tonic::async_trait;

use super::{
    FaultContext, FaultEffect, FaultInjector, FaultScenario, FaultState, ProcessSnapshot,
    on_loopback, secs,
};

pub(super) const SCENARIO: FaultScenario = FaultScenario {
    name: "restart-under-load",
    description: "64 shards; kill -9 of every node and an immediate restart, under load",
    nodes: 3,
    flags: &["--shards", "64"],
    prepare: |_| on_loopback(RestartUnderLoad { processes_before: ProcessSnapshot::default() }),
};

struct RestartUnderLoad {
    processes_before: ProcessSnapshot,
}

#[async_trait(?Send)]
impl FaultInjector for RestartUnderLoad {
    fn duration(&self) -> Duration {
        secs(5)
    }

    async fn inject(&mut self, context: &mut FaultContext) -> Result<FaultEffect, String> {
        self.processes_before = context.running_processes();
        let nodes = self.processes_before.nodes();
        nodes.iter().for_each(|&node| context.cluster.kill(node));
        nodes.iter().for_each(|&node| context.cluster.restart(node));
        Ok(FaultEffect { has_majority: false, ..FaultEffect::restart(nodes) })
    }

    async fn confirm(&mut self, context: &mut FaultContext) -> FaultState {
        self.processes_before.confirm_replaced(context)
    }

    async fn heal(&mut self, context: &mut FaultContext) {
        self.processes_before.nodes().into_iter().for_each(|node| context.restart_if_stopped(node));
    }
}
