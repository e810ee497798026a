//! The owner's wall clock jumps an hour ahead, and the next time an hour back. The monotonic one goes
//! on as it was.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::LocalBoxFuture;

use super::super::Rig;
use super::watch;
use crate::faults::{Confirmed, Effect, Fault, Stage};
use crate::wait::secs;

/// A step of the clock.
pub(super) struct Step {
    rig: Arc<Rig>,
    seconds: i64,
    node: Option<usize>,
}

impl Step {
    pub(super) fn new(rig: Arc<Rig>) -> Step {
        Step { rig, seconds: 3600, node: None }
    }
}

impl Fault for Step {
    fn hold(&self) -> Duration {
        secs(6)
    }

    fn inject<'a>(
        &'a mut self,
        stage: &'a mut Stage,
    ) -> LocalBoxFuture<'a, Result<Effect, String>> {
        async move {
            let node = stage.owner().await;
            self.node = Some(node);
            self.rig.berth(node).shim.step_clock(self.seconds);
            self.seconds = -self.seconds;
            Ok(Effect { nodes: vec![node], majority: true, ..Effect::default() })
        }
        .boxed_local()
    }

    /// The node has read the clock since.
    fn confirm<'a>(&'a mut self, _: &'a mut Stage) -> LocalBoxFuture<'a, Confirmed> {
        async move {
            let berth = self.rig.berth(self.node.expect("it was injected"));
            let before = berth.shim.false_times();
            watch::grows("false time read", before, || berth.shim.false_times()).await
        }
        .boxed_local()
    }

    fn heal<'a>(&'a mut self, _: &'a mut Stage) -> LocalBoxFuture<'a, ()> {
        if let Some(node) = self.node.take() {
            self.rig.berth(node).shim.step_clock(0);
        }
        std::future::ready(()).boxed_local()
    }
}
