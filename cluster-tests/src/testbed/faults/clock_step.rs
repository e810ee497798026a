//! The owner's wall clock steps an hour ahead, and in the next round an hour back. Its monotonic clock is not
//! affected.

use std::sync::Arc;
use std::time::Duration;

use tonic::async_trait;

use super::super::Testbed;
use super::counter;
use crate::faults::{FaultContext, FaultEffect, FaultInjector, FaultState};
use crate::wait::secs;

/// A step of the clock.
pub(super) struct ClockStep {
    testbed: Arc<Testbed>,
    seconds: i64,
    node: Option<usize>,
    /// The number of stepped clock reads before.
    stepped_reads_before: u64,
}

impl ClockStep {
    pub(super) fn new(testbed: Arc<Testbed>) -> ClockStep {
        ClockStep { testbed, seconds: 3600, node: None, stepped_reads_before: 0 }
    }
}

#[async_trait(?Send)]
impl FaultInjector for ClockStep {
    fn duration(&self) -> Duration {
        secs(6)
    }

    async fn inject(&mut self, context: &mut FaultContext) -> Result<FaultEffect, String> {
        let node = context.hot_topic_owner().await;
        self.node = Some(node);
        let shim = &self.testbed.host(node).shim;
        self.stepped_reads_before = shim.stepped_clock_reads();
        shim.step_clock(self.seconds);
        self.seconds = -self.seconds;
        Ok(FaultEffect::on_nodes(vec![node]))
    }

    /// Confirmed when the node has read the stepped clock.
    async fn confirm(&mut self, _: &mut FaultContext) -> FaultState {
        let host = self.testbed.host(self.node.expect("the fault was injected"));
        counter::confirm_grows("stepped clock was read", self.stepped_reads_before, || {
            host.shim.stepped_clock_reads()
        })
        .await
    }

    async fn heal(&mut self, _: &mut FaultContext) {
        if let Some(node) = self.node.take() {
            self.testbed.host(node).shim.step_clock(0);
        }
    }
}
