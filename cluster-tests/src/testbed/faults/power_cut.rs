//! Cuts the power of volumes and kills the nodes on them.

use std::sync::Arc;
use std::time::Duration;

use tonic::async_trait;

use super::super::Testbed;
use crate::faults::{FaultContext, FaultEffect, FaultInjector, FaultState};
use crate::wait::secs;

/// A power cut.
pub(super) struct PowerCut {
    testbed: Arc<Testbed>,
    target: PowerCutTarget,
    /// The nodes without power.
    without_power: Vec<usize>,
}

/// The nodes whose power is cut.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum PowerCutTarget {
    Owner,
    All,
}

impl PowerCut {
    pub(super) fn new(testbed: Arc<Testbed>, target: PowerCutTarget) -> PowerCut {
        PowerCut { testbed, target, without_power: Vec::new() }
    }
}

#[async_trait(?Send)]
impl FaultInjector for PowerCut {
    fn duration(&self) -> Duration {
        secs(3)
    }

    async fn inject(&mut self, context: &mut FaultContext) -> Result<FaultEffect, String> {
        let nodes = match self.target {
            PowerCutTarget::Owner => vec![context.hot_topic_owner().await],
            PowerCutTarget::All => context.cluster.running_nodes().collect(),
        };
        // All volumes lose power before any process is killed, so that no node sees another one end.
        for &node in &nodes {
            self.testbed.host(node).cut_power()?;
            self.without_power.push(node);
        }
        nodes.iter().for_each(|&node| context.cluster.kill(node));
        Ok(FaultEffect {
            has_majority: self.target == PowerCutTarget::Owner,
            ..FaultEffect::restart(nodes)
        })
    }

    async fn confirm(&mut self, _: &mut FaultContext) -> FaultState {
        let still_writable = self.without_power.iter().find(|&&node| {
            std::fs::write(self.testbed.host(node).volume_path().join("probe"), "power").is_ok()
        });
        match still_writable {
            Some(node) => FaultState::NotActive(format!("the volume of node {node} has power")),
            None => FaultState::Active,
        }
    }

    async fn heal(&mut self, context: &mut FaultContext) {
        for node in self.without_power.drain(..) {
            self.testbed.host(node).restore_power().expect("mount the volume again");
            context.restart_if_stopped(node);
        }
    }
}
