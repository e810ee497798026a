//! Faults that are injected into a cluster and healed again.
//!
//! The runner applies a [`FaultInjector`] to the [`FaultContext`] of a run while load goes on: it injects the
//! fault, confirms that it took place, holds it for a while, heals it, and waits until the cluster is
//! healthy; then it repeats this until the time is over. A fault that cannot take place reports the reason. A
//! run in which the fault never took place does not pass.

mod addresses_changed;
mod deleted_log;
mod descriptors_exhausted;
mod durability_switched;
mod flood;
mod foreign_node;
mod kill;
mod log_damage;
mod log_output_closed;
mod membership;
mod mixed_consensus_times;
mod no_fault;
pub(crate) mod operator;
mod pause;
mod restart_under_load;
mod rolling_restart;
mod rolling_upgrade;
mod settings_raised;
mod wiped_node;

use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use tonic::async_trait;

use crate::cluster::ProcessCluster;
use crate::environment::{Loopback, NodeEnvironment};
use crate::history::ProcessRecorder;
use crate::http_client;
use crate::wait::{secs, wait_until};

pub use crate::history::FaultEffect;
pub(crate) use log_damage::LOG_FILE;

/// The cluster under test, and what faults need to choose their targets.
pub struct FaultContext {
    /// The cluster.
    pub cluster: ProcessCluster,
    /// The busiest topic; faults target its owner.
    pub hot_topic: String,
    /// Random numbers, from the seed of the run.
    pub rng: StdRng,
    /// Records the events of the nemesis.
    pub process_recorder: ProcessRecorder,
}

/// Whether a fault took place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FaultState {
    /// The fault was observed.
    Active,
    /// The fault did not take place, for this reason.
    NotActive(String),
    /// Whether the fault took place could not be determined, for this reason.
    Indeterminate(String),
}

/// Injects and heals a fault. One value is used for a whole run.
#[async_trait(?Send)]
pub trait FaultInjector: Send {
    /// The maximum time for which the fault is held in each round.
    fn duration(&self) -> Duration;

    /// How often the fault can be injected into one cluster.
    fn rounds_max(&self) -> usize {
        usize::MAX
    }

    /// Prepares the cluster before the load starts.
    async fn prepare(&mut self, _: &mut FaultContext) {}

    /// Injects the fault and returns its effect on the cluster. `Err` gives the reason why it cannot be
    /// injected; nothing was changed then. Faults that take time, such as a rolling restart, are complete on
    /// return.
    async fn inject(&mut self, context: &mut FaultContext) -> Result<FaultEffect, String>;

    /// Confirms that the fault took place, by an observation other than the success of the injection.
    async fn confirm(&mut self, context: &mut FaultContext) -> FaultState;

    /// Heals the fault: afterwards all nodes run and reach each other. Also called when the confirmation
    /// failed.
    async fn heal(&mut self, context: &mut FaultContext);
}

/// One row of the fault matrix.
pub struct FaultScenario {
    /// The name on the command line.
    pub name: &'static str,
    /// A one-line description.
    pub description: &'static str,
    /// The number of nodes of the cluster.
    pub nodes: usize,
    /// Flags of the first node, for `init` and `serve`.
    pub flags: &'static [&'static str],
    /// Prepares one run. `Err` gives the reason why it cannot take place on this machine.
    pub prepare: fn(seed: u64) -> Result<PreparedScenario, String>,
}

/// The environment and the fault of one run. Dropped after the cluster.
pub struct PreparedScenario {
    /// The environment of the nodes.
    pub environment: Arc<dyn NodeEnvironment>,
    /// The fault.
    pub fault: Box<dyn FaultInjector>,
}

/// All faults that need only processes on loopback.
pub const LOOPBACK_SCENARIOS: &[FaultScenario] = &[
    no_fault::SCENARIO,
    kill::KILL_OWNER,
    kill::KILL_CONTROL_LEADER,
    kill::KILL_MAJORITY,
    kill::KILL_ALL,
    pause::SCENARIO,
    wiped_node::SCENARIO,
    wiped_node::FOUNDER_SCENARIO,
    foreign_node::FOREIGN_NODE_AT_ADDRESS,
    foreign_node::MALFORMED_JOIN,
    deleted_log::SCENARIO,
    mixed_consensus_times::SCENARIO,
    log_damage::BIT_FLIPS,
    log_damage::TRUNCATED_TAIL,
    membership::JOIN_AND_KILL,
    membership::LEAVE_AND_KILL,
    rolling_restart::SCENARIO,
    rolling_upgrade::SCENARIO,
    restart_under_load::SCENARIO,
    settings_raised::SCENARIO,
    durability_switched::SCENARIO,
    addresses_changed::SCENARIO,
    descriptors_exhausted::SCENARIO,
    rolling_restart::SIGTERM_SCENARIO,
    log_output_closed::SCENARIO,
    flood::SCENARIO,
    flood::STOPPED_READERS,
];

/// Nodes with their process ids at one time.
#[derive(Default)]
struct ProcessSnapshot(Vec<(usize, Option<rustix::process::Pid>)>);

impl ProcessSnapshot {
    /// Confirms that every node has a new process now.
    fn confirm_replaced(&self, context: &FaultContext) -> FaultState {
        let unchanged = self.0.iter().find(|&&(node, pid)| context.cluster.node(node).pid() == pid);
        unchanged.map_or(FaultState::Active, |(node, _)| {
            FaultState::Indeterminate(format!("node {node} still has the same process"))
        })
    }

    fn nodes(&self) -> Vec<usize> {
        self.0.iter().map(|&(node, _)| node).collect()
    }
}

impl FaultContext {
    /// The node that owns the hot topic.
    pub async fn hot_topic_owner(&self) -> usize {
        self.cluster.owner_of(&self.hot_topic).await
    }

    /// The node that leads the control group.
    pub async fn control_leader(&self) -> usize {
        wait_until("a leader of the control group", secs(20), async || {
            let queried = self.cluster.running_nodes().next().ok_or("no node runs")?;
            let leader = self.cluster.status(queried).await?.control_leader;
            self.cluster.node_index(queried, leader).await
        })
        .await
    }

    /// Prints what a fault with random choices has chosen.
    #[allow(clippy::print_stdout)]
    pub(crate) fn print_note(&self, text: &str) {
        println!("   {text}");
    }

    /// Waits until every running node reports that it is ready.
    pub async fn wait_all_ready(&self) {
        for i in self.cluster.running_nodes() {
            let http = self.cluster.node(i).ports.http;
            wait_until(&format!("node {i} is ready"), secs(60), async || {
                let answer = http_client::get(http, "/health/ready", &[]).await?;
                if answer.status == 200 { Ok(()) } else { Err(answer.body) }
            })
            .await;
        }
    }

    /// Removes a node from the cluster for good, as an operator does.
    async fn remove_node(&self, node: usize) {
        let name = &self.cluster.node(node).name;
        wait_until(&format!("{name} is removed"), secs(60), async || {
            let output = self.cluster.remove(node).await;
            if output.status.success() { Ok(()) } else { Err(output.stderr) }
        })
        .await;
    }

    /// The process ids of the running nodes.
    fn running_processes(&self) -> ProcessSnapshot {
        let running = self.cluster.running_nodes();
        ProcessSnapshot(running.map(|node| (node, self.cluster.node(node).pid())).collect())
    }

    /// Confirms that a started node exited by itself with this message in its log.
    async fn confirm_start_refused(&mut self, node: usize, message: &str) -> FaultState {
        let status = self.cluster.wait_exit(node).await;
        match status.code() {
            Some(1) if self.cluster.node(node).log_text().contains(message) => FaultState::Active,
            code => FaultState::Indeterminate(format!(
                "the node was not refused; it exited with {code:?}"
            )),
        }
    }

    /// Replaces a node that will not come back by a new node.
    async fn replace_node(&mut self, node: usize) {
        self.cluster.join("");
        self.remove_node(node).await;
    }

    /// Restarts a node if it is stopped, and does not wait for it.
    pub(crate) fn restart_if_stopped(&mut self, node: usize) {
        if !self.cluster.node(node).is_running() {
            self.cluster.restart(node);
        }
    }
}

/// The fault of the row `kill-owner`, for the soak.
pub(crate) fn kill_owner() -> Box<dyn FaultInjector> {
    Box::new(kill::KillNodes::new(kill::KillTarget::Owner))
}

/// The fault of the row `kill-control-leader`, for the soak.
pub(crate) fn kill_leader() -> Box<dyn FaultInjector> {
    Box::new(kill::KillNodes::new(kill::KillTarget::Leader))
}

/// The fault of the row `pause-owner`, for the soak.
pub(crate) fn pause_owner() -> Box<dyn FaultInjector> {
    Box::new(pause::PauseOwner::default())
}

/// The fault of the rows `rolling-restart` and `rolling-restart-sigterm`, for the soak.
pub(crate) fn rolling_restart(by_sigterm: bool) -> Box<dyn FaultInjector> {
    Box::new(rolling_restart::RollingRestart::new(by_sigterm))
}

/// A prepared scenario on loopback.
fn on_loopback(fault: impl FaultInjector + 'static) -> Result<PreparedScenario, String> {
    Ok(PreparedScenario { environment: Arc::new(Loopback::new()), fault: Box::new(fault) })
}

/// Confirms that no process listens on the HTTP ports of these nodes.
async fn confirm_ports_closed(context: &FaultContext, nodes: &[usize]) -> FaultState {
    for &node in nodes {
        let address = context.cluster.node(node).ports.http;
        if tokio::net::TcpStream::connect(address).await.is_ok() {
            return FaultState::Indeterminate(format!("a process still listens at {address}"));
        }
    }
    FaultState::Active
}
