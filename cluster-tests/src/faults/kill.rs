//! `kill -9` of the owner, of the control leader, of a majority at once, or of all nodes.

use std::time::Duration;

use rand::seq::SliceRandom;
use tonic::async_trait;

use super::{
    FaultContext, FaultEffect, FaultInjector, FaultScenario, FaultState, confirm_ports_closed,
    on_loopback, secs,
};

pub(super) const KILL_OWNER: FaultScenario = FaultScenario {
    name: "kill-owner",
    description: "kill -9 of the owner of the hot topic, repeatedly",
    nodes: 3,
    flags: &[],
    prepare: |_| on_loopback(KillNodes::new(KillTarget::Owner)),
};

pub(super) const KILL_CONTROL_LEADER: FaultScenario = FaultScenario {
    name: "kill-control-leader",
    description: "kill -9 of the leader of the control group",
    nodes: 3,
    flags: &[],
    prepare: |_| on_loopback(KillNodes::new(KillTarget::Leader)),
};

pub(super) const KILL_MAJORITY: FaultScenario = FaultScenario {
    name: "kill-majority",
    description: "kill -9 of two of three nodes at once, including the owner",
    nodes: 3,
    flags: &[],
    prepare: |_| on_loopback(KillNodes::new(KillTarget::Majority)),
};

pub(super) const KILL_ALL: FaultScenario = FaultScenario {
    name: "kill-all",
    description: "kill -9 of every node at once",
    nodes: 3,
    flags: &[],
    prepare: |_| on_loopback(KillNodes::new(KillTarget::All)),
};

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum KillTarget {
    Owner,
    Leader,
    Majority,
    All,
}

pub(super) struct KillNodes {
    target: KillTarget,
    victims: Vec<usize>,
}

impl KillNodes {
    pub(super) fn new(target: KillTarget) -> KillNodes {
        KillNodes { target, victims: Vec::new() }
    }

    async fn victims(&self, context: &mut FaultContext) -> Vec<usize> {
        let mut all: Vec<usize> = context.cluster.running_nodes().collect();
        match self.target {
            KillTarget::Owner => vec![context.hot_topic_owner().await],
            KillTarget::Leader => vec![context.control_leader().await],
            KillTarget::All => all,
            KillTarget::Majority => {
                let owner = context.hot_topic_owner().await;
                let majority = all.len() / 2 + 1;
                all.retain(|&node| node != owner);
                all.shuffle(&mut context.rng);
                all.insert(0, owner);
                all.truncate(majority);
                all
            }
        }
    }
}

#[async_trait(?Send)]
impl FaultInjector for KillNodes {
    fn duration(&self) -> Duration {
        match self.target {
            KillTarget::Owner | KillTarget::Leader | KillTarget::All => secs(3),
            // Longer than a node may take to report that it cannot commit.
            KillTarget::Majority => secs(7),
        }
    }

    async fn inject(&mut self, context: &mut FaultContext) -> Result<FaultEffect, String> {
        self.victims = self.victims(context).await;
        self.victims.iter().for_each(|&victim| context.cluster.kill(victim));
        let survivors: Vec<_> = context.cluster.running_nodes().collect();
        let has_majority = survivors.len() > self.victims.len();
        let unready = if has_majority { Vec::new() } else { survivors };
        Ok(FaultEffect { has_majority, unready, ..FaultEffect::restart(self.victims.clone()) })
    }

    async fn confirm(&mut self, context: &mut FaultContext) -> FaultState {
        confirm_ports_closed(context, &self.victims).await
    }

    async fn heal(&mut self, context: &mut FaultContext) {
        self.victims.drain(..).for_each(|victim| context.restart_if_stopped(victim))
    }
}
