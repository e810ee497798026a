//! Wall clocks are far ahead, with a retention of one hour: recently published messages must not expire.

use std::sync::Arc;
use std::time::Duration;

use rand::seq::IndexedRandom;
use tonic::async_trait;

use super::super::Testbed;
use super::{counter, other_nodes};
use crate::cli::pushonce;
use crate::faults::{FaultContext, FaultEffect, FaultInjector, FaultState};
use crate::wait::{secs, wait_until};

/// The retention of every topic's history.
const RETENTION: &str = "1h";

const TWO_HOURS: i64 = 2 * 3_600;
const THREE_DAYS: i64 = 3 * 24 * 3_600;

/// The clocks that are ahead, in turns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ClockTarget {
    /// The clocks of all nodes except the owner are stepped ahead, then the owner is killed: one of them
    /// succeeds it.
    Successors,
    /// The clock of the owner is stepped ahead.
    Owner,
    /// One node restarts with a clock that is ahead, then the owner is killed.
    RestartedNode,
}

/// A fault with clocks that are ahead.
pub(super) struct ClocksAhead {
    testbed: Arc<Testbed>,
    target: ClockTarget,
    /// The nodes whose clocks are ahead.
    stepped_nodes: Vec<usize>,
    /// The number of stepped clock reads before.
    stepped_reads_before: u64,
    is_prepared: bool,
}

impl ClocksAhead {
    pub(super) fn new(testbed: Arc<Testbed>) -> ClocksAhead {
        let (stepped_nodes, stepped_reads_before, is_prepared) = (Vec::new(), 0, false);
        ClocksAhead {
            testbed,
            target: ClockTarget::Successors,
            stepped_nodes,
            stepped_reads_before,
            is_prepared,
        }
    }

    fn step_clocks(&mut self, nodes: Vec<usize>, seconds: i64) {
        self.stepped_reads_before = self.stepped_reads(&nodes);
        nodes.iter().for_each(|&node| self.testbed.host(node).shim.step_clock(seconds));
        self.stepped_nodes = nodes;
    }

    fn stepped_reads(&self, nodes: &[usize]) -> u64 {
        nodes.iter().map(|&node| self.testbed.host(node).shim.stepped_clock_reads()).sum()
    }

    /// Sets the retention of every topic.
    async fn set_retention(&mut self, context: &FaultContext) {
        if std::mem::replace(&mut self.is_prepared, true) {
            return;
        }
        let node = context.cluster.running_nodes().next().expect("at least one node runs");
        let server = format!("http://{}", context.cluster.ports(node).grpc);
        let set =
            ["namespace", "set", "--default", "--history-age", RETENTION, "--server", &server];
        wait_until("the retention is set", secs(30), async || {
            let output = pushonce(set, "").await;
            if output.status.success() { Ok(()) } else { Err(output.stderr) }
        })
        .await;
    }
}

#[async_trait(?Send)]
impl FaultInjector for ClocksAhead {
    fn duration(&self) -> Duration {
        secs(8)
    }

    async fn inject(&mut self, context: &mut FaultContext) -> Result<FaultEffect, String> {
        self.set_retention(context).await;
        let owner = context.hot_topic_owner().await;
        let successors = other_nodes(context, owner);
        let mut killed = vec![owner];
        match self.target {
            ClockTarget::Owner => {
                self.step_clocks(vec![owner], THREE_DAYS);
                return Ok(FaultEffect::on_nodes(vec![owner]));
            }
            ClockTarget::Successors => self.step_clocks(successors, TWO_HOURS),
            ClockTarget::RestartedNode => {
                let one = successors.choose(&mut context.rng).ok_or("no other node runs")?;
                context.cluster.kill(*one);
                self.step_clocks(vec![*one], TWO_HOURS);
                context.restart_if_stopped(*one);
                context.wait_all_ready().await;
                killed.push(*one);
            }
        }
        context.cluster.kill(owner);
        Ok(FaultEffect::restart(killed))
    }

    /// Confirmed when the nodes have read their stepped clocks.
    async fn confirm(&mut self, _: &mut FaultContext) -> FaultState {
        let (before, stepped_nodes) = (self.stepped_reads_before, &self.stepped_nodes);
        counter::confirm_grows("stepped clock was read", before, || {
            self.stepped_reads(stepped_nodes)
        })
        .await
    }

    async fn heal(&mut self, context: &mut FaultContext) {
        for node in self.stepped_nodes.drain(..) {
            self.testbed.host(node).shim.step_clock(0);
        }
        let dead: Vec<_> =
            (0..context.cluster.len()).filter(|&i| !context.cluster.node(i).is_running()).collect();
        dead.into_iter().for_each(|node| context.restart_if_stopped(node));
        self.target = match self.target {
            ClockTarget::Successors => ClockTarget::Owner,
            ClockTarget::Owner => ClockTarget::RestartedNode,
            ClockTarget::RestartedNode => ClockTarget::Successors,
        };
    }
}
