//! The owner is paused for longer than an election takes, with publishes waiting in its sockets, and then
//! resumed.

use std::time::{Duration, Instant};

use tonic::async_trait;

use super::{
    FaultContext, FaultEffect, FaultInjector, FaultScenario, FaultState, on_loopback, secs,
};

pub(super) const SCENARIO: FaultScenario = FaultScenario {
    name: "pause-owner",
    description: "SIGSTOP of the owner of the hot topic for 3 s, then SIGCONT",
    nodes: 3,
    flags: &[],
    prepare: |_| on_loopback(PauseOwner::default()),
};

#[derive(Default)]
pub(super) struct PauseOwner(Option<usize>);

#[async_trait(?Send)]
impl FaultInjector for PauseOwner {
    fn duration(&self) -> Duration {
        secs(3)
    }

    async fn inject(&mut self, context: &mut FaultContext) -> Result<FaultEffect, String> {
        let owner = context.hot_topic_owner().await;
        context.cluster.node(owner).pause();
        self.0 = Some(owner);
        Ok(FaultEffect { deposed: vec![owner], ..FaultEffect::on_nodes(vec![owner]) })
    }

    async fn confirm(&mut self, context: &mut FaultContext) -> FaultState {
        let pid = self.0.and_then(|owner| context.cluster.node(owner).pid());
        let Some(pid) = pid else { return FaultState::NotActive("no process".to_owned()) };
        let stat = format!("/proc/{}/stat", pid.as_raw_nonzero());
        let begun = Instant::now();
        // A signal may be delayed until the process is scheduled.
        loop {
            let text = std::fs::read_to_string(&stat).unwrap_or_default();
            // Format: `pid (name) state …`.
            match text.rsplit(") ").next().and_then(|fields| fields.chars().next()) {
                Some('T') => return FaultState::Active,
                state if begun.elapsed() > secs(2) => {
                    return FaultState::Indeterminate(format!("the process is in state {state:?}"));
                }
                _ => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }

    async fn heal(&mut self, context: &mut FaultContext) {
        if let Some(owner) = self.0.take() {
            context.cluster.node(owner).resume();
        }
    }
}
