//! What goes wrong on purpose, and is put right again.
//!
//! A [`FaultInjector`] is done to the [`FaultContext`] of a run while load goes on. The runner injects it, lets it
//! prove that it is there, leaves it for a while, heals it, and waits until the cluster is whole;
//! then it injects it again, until the time is over. A fault that cannot take place says why, and a
//! run in which it never did is no pass.

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

/// What a fault is done to.
pub struct FaultContext {
    /// The cluster.
    pub cluster: ProcessCluster,
    /// The topic that is busiest: its owner is the node to hit.
    pub hot_topic: String,
    /// Chance, by the seed of the run.
    pub rng: StdRng,
    /// Writes for the nemesis.
    pub process_recorder: ProcessRecorder,
}

/// Whether a fault is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FaultState {
    /// It was seen to be there.
    Active,
    /// It is not, and why.
    NotActive(String),
    /// Nobody can say, and why.
    Indeterminate(String),
}

/// What goes wrong on purpose. One value is used for a whole run.
#[async_trait(?Send)]
pub trait FaultInjector: Send {
    /// How long it stays, each time, at most.
    fn duration(&self) -> Duration;

    /// How often it can be done to one cluster.
    fn rounds_max(&self) -> usize {
        usize::MAX
    }

    /// Makes the cluster ready for it, before there is any load.
    async fn prepare(&mut self, _: &mut FaultContext) {}

    /// Makes it happen, and says what it does to the cluster. `Err` says why it cannot: nothing was
    /// changed. It may last as long as the fault takes to happen, a rolling restart for instance.
    async fn inject(&mut self, context: &mut FaultContext) -> Result<FaultEffect, String>;

    /// Looks whether it really is there, by something other than that injecting it did not fail.
    async fn confirm(&mut self, context: &mut FaultContext) -> FaultState;

    /// Puts right what it broke: all nodes run again and reach each other. Called also when
    /// confirming failed.
    async fn heal(&mut self, context: &mut FaultContext);
}

/// One row of the table: a fault, and where it can take place.
pub struct FaultScenario {
    /// As it is called on the command line.
    pub name: &'static str,
    /// What it does, in a line.
    pub description: &'static str,
    /// How many nodes the cluster has.
    pub nodes: usize,
    /// Flags of the first node, for `init_cluster` and `serve`.
    pub flags: &'static [&'static str],
    /// Makes ready one run; `Err` says why it cannot take place on this machine.
    pub prepare: fn(seed: u64) -> Result<PreparedScenario, String>,
}

/// What one run needs. Dropped after the cluster is gone.
pub struct PreparedScenario {
    /// Where the nodes live.
    pub environment: Arc<dyn NodeEnvironment>,
    /// What is done to them.
    pub fault: Box<dyn FaultInjector>,
}

/// Every fault that needs no more than processes on loopback.
pub const LOOPBACK_SCENARIOS: &[FaultScenario] = &[
    no_fault::SCENARIO,
    kill::KILL_OWNER,
    kill::KILL_LEADER,
    kill::KILL_MAJORITY,
    kill::KILL_ALL,
    pause::SCENARIO,
    wiped_node::SCENARIO,
    wiped_node::FOUNDER_SCENARIO,
    foreign_node::FOREIGN_NODE_AT_ADDRESS,
    foreign_node::MALFORMED_JOINER,
    deleted_log::SCENARIO,
    mixed_consensus_times::SCENARIO,
    log_damage::FLIPPED_BITS,
    log_damage::TORN_TAIL,
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

/// Nodes and their processes, as they were.
#[derive(Default)]
struct ProcessSnapshot(Vec<(usize, Option<rustix::process::Pid>)>);

impl ProcessSnapshot {
    /// Whether every node has another process now.
    fn confirm_replaced(&self, context: &FaultContext) -> FaultState {
        let unchanged = self.0.iter().find(|&&(node, pid)| context.cluster.node(node).pid() == pid);
        unchanged.map_or(FaultState::Active, |(node, _)| {
            FaultState::Indeterminate(format!("node {node} is the same process"))
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

    /// Says on standard output what a fault that draws has drawn.
    #[allow(clippy::print_stdout)]
    pub(crate) fn print_note(&self, text: &str) {
        println!("   {text}");
    }

    /// Waits until every node that runs says that it is ready.
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

    /// Takes a node out of the cluster for ever, as an operator does.
    async fn remove_node(&self, node: usize) {
        let name = &self.cluster.node(node).name;
        wait_until(&format!("{name} is removed"), secs(60), async || {
            let output = self.cluster.remove(node).await;
            if output.status.success() { Ok(()) } else { Err(output.stderr) }
        })
        .await;
    }

    /// The processes of the nodes that run.
    fn running_processes(&self) -> ProcessSnapshot {
        let running = self.cluster.running_nodes();
        ProcessSnapshot(running.map(|node| (node, self.cluster.node(node).pid())).collect())
    }

    /// Whether a node that was started ended by itself, with these words.
    async fn confirm_start_refused(&mut self, node: usize, message: &str) -> FaultState {
        let status = self.cluster.wait_exit(node).await;
        match status.code() {
            Some(1) if self.cluster.node(node).log_text().contains(message) => FaultState::Active,
            code => FaultState::Indeterminate(format!("it was not refused but ended by {code:?}")),
        }
    }

    /// A new node takes the place of one that will not come back.
    async fn replace_node(&mut self, node: usize) {
        self.cluster.join("");
        self.remove_node(node).await;
    }

    /// Starts a node again, and does not wait for it.
    pub(crate) fn restart_if_stopped(&mut self, node: usize) {
        if !self.cluster.node(node).is_running() {
            self.cluster.restart(node);
        }
    }
}

/// The faults of these rows, for one that does several at a time.
pub(crate) fn kill_owner() -> Box<dyn FaultInjector> {
    Box::new(kill::KillNodes::new(kill::KillTarget::Owner))
}

/// See [`kill_owner`].
pub(crate) fn kill_leader() -> Box<dyn FaultInjector> {
    Box::new(kill::KillNodes::new(kill::KillTarget::Leader))
}

/// See [`kill_owner`].
pub(crate) fn pause_owner() -> Box<dyn FaultInjector> {
    Box::new(pause::PauseOwner::default())
}

/// See [`kill_owner`].
pub(crate) fn rolling_restart(by_sigterm: bool) -> Box<dyn FaultInjector> {
    Box::new(rolling_restart::RollingRestart::new(by_sigterm))
}

/// What happens on loopback.
fn on_loopback(fault: impl FaultInjector + 'static) -> Result<PreparedScenario, String> {
    Ok(PreparedScenario { environment: Arc::new(Loopback::new()), fault: Box::new(fault) })
}

/// Whether nobody listens at the doors of these nodes any more.
async fn confirm_ports_closed(context: &FaultContext, nodes: &[usize]) -> FaultState {
    for &node in nodes {
        let address = context.cluster.node(node).ports.http;
        if tokio::net::TcpStream::connect(address).await.is_ok() {
            return FaultState::Indeterminate(format!("somebody listens at {address}"));
        }
    }
    FaultState::Active
}
