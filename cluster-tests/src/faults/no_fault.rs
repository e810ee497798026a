//! No fault: the invariants must hold in a healthy cluster first.

use std::time::Duration;

use tonic::async_trait;

use super::{
    FaultContext, FaultEffect, FaultInjector, FaultScenario, FaultState, on_loopback, secs,
};

pub(super) const SCENARIO: FaultScenario = FaultScenario {
    name: "no-fault",
    description: "no fault is injected",
    nodes: 3,
    flags: &[],
    prepare: |_| on_loopback(NoFault),
};

struct NoFault;

#[async_trait(?Send)]
impl FaultInjector for NoFault {
    fn duration(&self) -> Duration {
        secs(4)
    }

    async fn inject(&mut self, _: &mut FaultContext) -> Result<FaultEffect, String> {
        Ok(FaultEffect::on_nodes(Vec::new()))
    }

    async fn confirm(&mut self, _: &mut FaultContext) -> FaultState {
        FaultState::Active
    }

    async fn heal(&mut self, _: &mut FaultContext) {}
}
