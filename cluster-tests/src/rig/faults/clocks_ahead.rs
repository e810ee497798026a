//! Wall clocks that are far ahead, beside a retention of one hour: nothing that was published a moment ago
//! may expire by them.

use std::sync::Arc;
use std::time::Duration;

use rand::seq::IndexedRandom;
use tonic::async_trait;

use super::super::Rig;
use super::{others, watch};
use crate::faults::{Confirmed, Effect, Fault, Stage};
use crate::tool::pushonce;
use crate::wait::{secs, until};

/// What every topic's history keeps meanwhile.
const RETENTION: &str = "1h";

const TWO_HOURS: i64 = 2 * 3_600;
const THREE_DAYS: i64 = 3 * 24 * 3_600;

/// Which clocks are ahead, in turns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    /// The clocks of all nodes but the owner step ahead while they run, then the owner dies: one of them
    /// succeeds it.
    Successors,
    /// The clock of the owner steps ahead while it runs.
    Owner,
    /// One node starts with a clock that is ahead, then the owner dies.
    Starter,
}

/// Clocks that are ahead.
pub(super) struct Ahead {
    rig: Arc<Rig>,
    turn: Turn,
    /// The nodes whose clocks are wrong.
    wrong: Vec<usize>,
    /// How often they had read a wrong time before.
    false_times: u64,
    is_prepared: bool,
}

impl Ahead {
    pub(super) fn new(rig: Arc<Rig>) -> Ahead {
        let (wrong, false_times, is_prepared) = (Vec::new(), 0, false);
        Ahead { rig, turn: Turn::Successors, wrong, false_times, is_prepared }
    }

    fn step(&mut self, nodes: Vec<usize>, seconds: i64) {
        self.false_times = self.read_false_times(&nodes);
        nodes.iter().for_each(|&node| self.rig.berth(node).shim.step_clock(seconds));
        self.wrong = nodes;
    }

    fn read_false_times(&self, nodes: &[usize]) -> u64 {
        nodes.iter().map(|&node| self.rig.berth(node).shim.false_times()).sum()
    }

    /// Sets the retention of every topic.
    async fn prepare(&mut self, stage: &Stage) {
        if std::mem::replace(&mut self.is_prepared, true) {
            return;
        }
        let node = stage.cluster.running().next().expect("some node runs");
        let server = format!("http://{}", stage.cluster.ports(node).grpc);
        let set =
            ["namespace", "set", "--default", "--history-age", RETENTION, "--server", &server];
        until("the retention is set", secs(30), async || {
            let done = pushonce(set, "").await;
            if done.status.success() { Ok(()) } else { Err(done.err) }
        })
        .await;
    }
}

#[async_trait(?Send)]
impl Fault for Ahead {
    fn hold(&self) -> Duration {
        secs(8)
    }

    async fn inject(&mut self, stage: &mut Stage) -> Result<Effect, String> {
        self.prepare(stage).await;
        let owner = stage.owner().await;
        let successors = others(stage, owner);
        let mut killed = vec![owner];
        match self.turn {
            Turn::Owner => {
                self.step(vec![owner], THREE_DAYS);
                return Ok(Effect::on(vec![owner]));
            }
            Turn::Successors => self.step(successors, TWO_HOURS),
            Turn::Starter => {
                let one = successors.choose(&mut stage.rng).ok_or("the owner is alone")?;
                stage.cluster.kill(*one);
                self.step(vec![*one], TWO_HOURS);
                stage.restart(*one);
                stage.whole().await;
                killed.push(*one);
            }
        }
        stage.cluster.kill(owner);
        Ok(Effect::restart(killed))
    }

    /// The nodes have read their clocks since.
    async fn confirm(&mut self, _: &mut Stage) -> Confirmed {
        let (before, wrong) = (self.false_times, &self.wrong);
        watch::grows("false time read", before, || self.read_false_times(wrong)).await
    }

    async fn heal(&mut self, stage: &mut Stage) {
        for node in self.wrong.drain(..) {
            self.rig.berth(node).shim.step_clock(0);
        }
        let dead: Vec<_> =
            (0..stage.cluster.len()).filter(|&i| !stage.cluster.node(i).runs()).collect();
        dead.into_iter().for_each(|node| stage.restart(node));
        self.turn = match self.turn {
            Turn::Successors => Turn::Owner,
            Turn::Owner => Turn::Starter,
            Turn::Starter => Turn::Successors,
        };
    }
}
