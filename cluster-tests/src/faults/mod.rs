//! What goes wrong on purpose, and is put right again.
//!
//! A [`Fault`] is done to the [`Stage`] of a run while load goes on. The runner injects it, lets it
//! prove that it is there, leaves it for a while, heals it, and waits until the cluster is whole;
//! then it injects it again, until the time is over. A fault that cannot take place says why, and a
//! run in which it never did is no pass.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use rand::rngs::StdRng;

use crate::cluster::Cluster;
use crate::ground::Ground;
use crate::history::Scribe;

pub use crate::history::Effect;

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
pub trait Fault: Send {
    /// How long it stays, each time, at most.
    fn hold(&self) -> Duration;

    /// Makes it happen, and says what it does to the cluster. `Err` says why it cannot: nothing was
    /// changed. It may last as long as the fault takes to happen, a rolling restart for instance.
    fn inject<'a>(&'a mut self, stage: &'a mut Stage) -> BoxFuture<'a, Result<Effect, String>>;

    /// Looks whether it really is there, by something other than that injecting it did not fail.
    fn confirm<'a>(&'a mut self, stage: &'a mut Stage) -> BoxFuture<'a, Confirmed>;

    /// Puts right what it broke: all nodes run again and reach each other. Called also when
    /// confirming failed.
    fn heal<'a>(&'a mut self, stage: &'a mut Stage) -> BoxFuture<'a, ()>;
}

/// One row of the table: a fault, and where it can take place.
pub struct Row {
    /// As it is called on the command line.
    pub name: &'static str,
    /// What it does, in a line.
    pub story: &'static str,
    /// How many nodes the cluster has.
    pub nodes: usize,
    /// Flags of the node that makes the cluster.
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
