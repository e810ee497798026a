//! What goes wrong on purpose, and is put right again.
//!
//! A [`Fault`] is done to the [`Stage`] of a run while load goes on. The runner injects it, lets it
//! prove that it is there, leaves it for a while, heals it, and waits until the cluster is whole;
//! then it injects it again, until the time is over. A fault that cannot take place says why, and a
//! run in which it never did is no pass.

mod addresses;
mod damage;
mod deleted_log;
mod descriptors;
mod durability;
mod flood;
mod kill;
mod log_gone;
mod membership;
mod none;
pub(crate) mod operator;
mod pause;
mod rolling;
mod settings;
mod start_up;
mod stranger;
mod times;
mod upgrade;
mod wipe;

use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use tonic::async_trait;

use crate::cluster::Cluster;
use crate::ground::{Ground, Loopback};
use crate::history::Scribe;
use crate::wait::{secs, until};
use crate::web;

pub use crate::history::Effect;
pub(crate) use damage::STORE;

/// What a fault is done to.
pub struct Stage {
    /// The cluster.
    pub cluster: Cluster,
    /// The topic that is busiest: its owner is the node to hit.
    pub hot: String,
    /// Chance, by the seed of the run.
    pub rng: StdRng,
    /// Writes for the nemesis.
    pub scribe: Scribe,
}

/// Whether a fault is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Confirmed {
    /// It was seen to be there.
    Installed,
    /// It is not, and why.
    Skipped(String),
    /// Nobody can say, and why.
    Indeterminate(String),
}

/// What goes wrong on purpose. One value is used for a whole run.
#[async_trait(?Send)]
pub trait Fault: Send {
    /// How long it stays, each time, at most.
    fn hold(&self) -> Duration;

    /// How often it can be done to one cluster.
    fn rounds(&self) -> usize {
        usize::MAX
    }

    /// Makes the cluster ready for it, before there is any load.
    async fn prepare(&mut self, _: &mut Stage) {}

    /// Makes it happen, and says what it does to the cluster. `Err` says why it cannot: nothing was
    /// changed. It may last as long as the fault takes to happen, a rolling restart for instance.
    async fn inject(&mut self, stage: &mut Stage) -> Result<Effect, String>;

    /// Looks whether it really is there, by something other than that injecting it did not fail.
    async fn confirm(&mut self, stage: &mut Stage) -> Confirmed;

    /// Puts right what it broke: all nodes run again and reach each other. Called also when
    /// confirming failed.
    async fn heal(&mut self, stage: &mut Stage);
}

/// One row of the table: a fault, and where it can take place.
pub struct Row {
    /// As it is called on the command line.
    pub name: &'static str,
    /// What it does, in a line.
    pub story: &'static str,
    /// How many nodes the cluster has.
    pub nodes: usize,
    /// Flags of the first node, for `init` and `serve`.
    pub flags: &'static [&'static str],
    /// Makes ready one run; `Err` says why it cannot take place on this machine.
    pub prepare: fn(seed: u64) -> Result<Prepared, String>,
}

/// What one run needs. Dropped after the cluster is gone.
pub struct Prepared {
    /// Where the nodes live.
    pub ground: Arc<dyn Ground>,
    /// What is done to them.
    pub fault: Box<dyn Fault>,
}

/// Every fault that needs no more than processes on loopback.
pub const ON_LOOPBACK: &[Row] = &[
    none::ROW,
    kill::OWNER,
    kill::LEADER,
    kill::MAJORITY,
    kill::ALL,
    pause::ROW,
    wipe::ROW,
    wipe::FOUNDER,
    stranger::AT_ADDRESS,
    stranger::MALFORMED,
    deleted_log::ROW,
    times::ROW,
    damage::FLIPPED,
    damage::TORN,
    membership::JOIN,
    membership::LEAVE,
    rolling::ROW,
    upgrade::ROW,
    start_up::ROW,
    settings::RAISED,
    durability::ROW,
    addresses::ROW,
    descriptors::ROW,
    rolling::TERMINATED,
    log_gone::ROW,
    flood::ROW,
    flood::STOPPED,
];

/// Nodes and their processes, as they were.
#[derive(Default)]
struct Processes(Vec<(usize, Option<rustix::process::Pid>)>);

impl Processes {
    /// Whether every node has another process now.
    fn replaced(&self, stage: &Stage) -> Confirmed {
        let same = self.0.iter().find(|&&(node, pid)| stage.cluster.node(node).pid() == pid);
        same.map_or(Confirmed::Installed, |(node, _)| {
            Confirmed::Indeterminate(format!("node {node} is the same process"))
        })
    }

    fn nodes(&self) -> Vec<usize> {
        self.0.iter().map(|&(node, _)| node).collect()
    }
}

impl Stage {
    /// The node that owns the hot topic.
    pub async fn owner(&self) -> usize {
        self.cluster.owner(&self.hot).await
    }

    /// The node that leads the control group.
    pub async fn leader(&self) -> usize {
        until("a leader of the control group", secs(20), async || {
            let asked = self.cluster.running().next().ok_or("no node runs")?;
            let leader = self.cluster.status(asked).await?.control_leader;
            self.cluster.index_of(asked, leader).await
        })
        .await
    }

    /// Says on standard output what a fault that draws has drawn.
    #[allow(clippy::print_stdout)]
    pub(crate) fn note(&self, what: &str) {
        println!("   {what}");
    }

    /// Waits until every node that runs says that it is ready.
    pub async fn whole(&self) {
        for i in self.cluster.running() {
            let http = self.cluster.node(i).ports.http;
            until(&format!("node {i} is ready"), secs(60), async || {
                let answer = web::get(http, "/health/ready", &[]).await?;
                if answer.status == 200 { Ok(()) } else { Err(answer.body) }
            })
            .await;
        }
    }

    /// Takes a node out of the cluster for ever, as an operator does.
    async fn remove(&self, node: usize) {
        let name = &self.cluster.node(node).name;
        until(&format!("{name} is removed"), secs(60), async || {
            let done = self.cluster.remove(node).await;
            if done.status.success() { Ok(()) } else { Err(done.err) }
        })
        .await;
    }

    /// The processes of the nodes that run.
    fn processes(&self) -> Processes {
        let running = self.cluster.running();
        Processes(running.map(|node| (node, self.cluster.node(node).pid())).collect())
    }

    /// Whether a node that was started ended by itself, with these words.
    async fn refused(&mut self, node: usize, words: &str) -> Confirmed {
        let status = self.cluster.ended(node).await;
        match status.code() {
            Some(1) if self.cluster.node(node).log().contains(words) => Confirmed::Installed,
            code => Confirmed::Indeterminate(format!("it was not refused but ended by {code:?}")),
        }
    }

    /// A new node takes the place of one that will not come back.
    async fn replace(&mut self, node: usize) {
        self.cluster.join("");
        self.remove(node).await;
    }

    /// Starts a node again, and does not wait for it.
    pub(crate) fn restart(&mut self, node: usize) {
        if !self.cluster.node(node).runs() {
            self.cluster.restart(node);
        }
    }
}

/// The faults of these rows, for one that does several at a time.
pub(crate) fn kill_owner() -> Box<dyn Fault> {
    Box::new(kill::Kill::of(kill::Who::Owner))
}

/// See [`kill_owner`].
pub(crate) fn kill_leader() -> Box<dyn Fault> {
    Box::new(kill::Kill::of(kill::Who::Leader))
}

/// See [`kill_owner`].
pub(crate) fn pause_owner() -> Box<dyn Fault> {
    Box::new(pause::Pause::default())
}

/// See [`kill_owner`].
pub(crate) fn every_node_restarts(terminated: bool) -> Box<dyn Fault> {
    Box::new(rolling::Rolling::new(terminated))
}

/// What happens on loopback.
fn loopback(fault: impl Fault + 'static) -> Result<Prepared, String> {
    Ok(Prepared { ground: Arc::new(Loopback::new()), fault: Box::new(fault) })
}

/// Whether nobody listens at the doors of these nodes any more.
async fn closed(stage: &Stage, nodes: &[usize]) -> Confirmed {
    for &node in nodes {
        let door = stage.cluster.node(node).ports.http;
        if tokio::net::TcpStream::connect(door).await.is_ok() {
            return Confirmed::Indeterminate(format!("somebody listens at {door}"));
        }
    }
    Confirmed::Installed
}
