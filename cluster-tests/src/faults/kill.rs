//! `kill -9`: of the owner, of the control leader, of a majority in one moment, of all.

use std::time::Duration;

use rand::seq::SliceRandom;
use tonic::async_trait;

use super::{Confirmed, Effect, Fault, Row, Stage, closed, loopback, secs};

pub(super) const OWNER: Row = Row {
    name: "kill-owner",
    story: "kill -9 of the owner of the hot topic, again and again",
    nodes: 3,
    flags: &[],
    prepare: |_| loopback(Kill::of(Who::Owner)),
};

pub(super) const LEADER: Row = Row {
    name: "kill-leader",
    story: "kill -9 of the leader of the control group",
    nodes: 3,
    flags: &[],
    prepare: |_| loopback(Kill::of(Who::Leader)),
};

pub(super) const MAJORITY: Row = Row {
    name: "kill-majority",
    story: "kill -9 of two of three nodes in one moment, the owner among them",
    nodes: 3,
    flags: &[],
    prepare: |_| loopback(Kill::of(Who::Majority)),
};

pub(super) const ALL: Row = Row {
    name: "kill-all",
    story: "kill -9 of every node in one moment",
    nodes: 3,
    flags: &[],
    prepare: |_| loopback(Kill::of(Who::All)),
};

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Who {
    Owner,
    Leader,
    Majority,
    All,
}

pub(super) struct Kill {
    who: Who,
    victims: Vec<usize>,
}

impl Kill {
    pub(super) fn of(who: Who) -> Kill {
        Kill { who, victims: Vec::new() }
    }

    async fn victims(&self, stage: &mut Stage) -> Vec<usize> {
        let mut all: Vec<usize> = stage.cluster.running().collect();
        match self.who {
            Who::Owner => vec![stage.owner().await],
            Who::Leader => vec![stage.leader().await],
            Who::All => all,
            Who::Majority => {
                let owner = stage.owner().await;
                let majority = all.len() / 2 + 1;
                all.retain(|&node| node != owner);
                all.shuffle(&mut stage.rng);
                all.insert(0, owner);
                all.truncate(majority);
                all
            }
        }
    }
}

#[async_trait(?Send)]
impl Fault for Kill {
    fn hold(&self) -> Duration {
        match self.who {
            Who::Owner | Who::Leader | Who::All => secs(3),
            // Longer than a node may take to say that it cannot commit.
            Who::Majority => secs(7),
        }
    }

    async fn inject(&mut self, stage: &mut Stage) -> Result<Effect, String> {
        self.victims = self.victims(stage).await;
        self.victims.iter().for_each(|&victim| stage.cluster.kill(victim));
        let left: Vec<_> = stage.cluster.running().collect();
        let majority = left.len() > self.victims.len();
        let unready = if majority { Vec::new() } else { left };
        Ok(Effect { majority, unready, ..Effect::restart(self.victims.clone()) })
    }

    async fn confirm(&mut self, stage: &mut Stage) -> Confirmed {
        closed(stage, &self.victims).await
    }

    async fn heal(&mut self, stage: &mut Stage) {
        self.victims.drain(..).for_each(|victim| stage.restart(victim))
    }
}
