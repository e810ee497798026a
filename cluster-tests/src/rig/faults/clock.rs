//! The owner's wall clock jumps an hour ahead, and the next time an hour back. The monotonic one goes
//! on as it was.

use std::sync::Arc;
use std::time::Duration;

use tonic::async_trait;

use super::super::Rig;
use super::watch;
use crate::faults::{Confirmed, Effect, Fault, Stage};
use crate::wait::secs;

/// A step of the clock.
pub(super) struct Step {
    rig: Arc<Rig>,
    seconds: i64,
    node: Option<usize>,
    /// How often the node had read a wrong time before.
    false_times: u64,
}

impl Step {
    pub(super) fn new(rig: Arc<Rig>) -> Step {
        Step { rig, seconds: 3600, node: None, false_times: 0 }
    }
}

#[async_trait(?Send)]
impl Fault for Step {
    fn hold(&self) -> Duration {
        secs(6)
    }

    async fn inject(&mut self, stage: &mut Stage) -> Result<Effect, String> {
        let node = stage.owner().await;
        self.node = Some(node);
        let shim = &self.rig.berth(node).shim;
        self.false_times = shim.false_times();
        shim.step_clock(self.seconds);
        self.seconds = -self.seconds;
        Ok(Effect::on(vec![node]))
    }

    /// The node has read the clock since. It may be paused by now.
    async fn confirm(&mut self, _: &mut Stage) -> Confirmed {
        let berth = self.rig.berth(self.node.expect("it was injected"));
        watch::grows("false time read", self.false_times, || berth.shim.false_times()).await
    }

    async fn heal(&mut self, _: &mut Stage) {
        if let Some(node) = self.node.take() {
            self.rig.berth(node).shim.step_clock(0);
        }
    }
}
