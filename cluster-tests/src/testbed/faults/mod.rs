//! The faults that need a testbed, and their rows in the table.

mod bad_links;
mod clock_step;
mod clocks_ahead;
mod counter;
mod disk;
mod partition;
mod power_cut;
mod soak;
mod swizzle;

use std::sync::Arc;

use rand::seq::IteratorRandom;

use super::Testbed;
use crate::faults::{FaultContext, FaultInjector, FaultScenario, PreparedScenario};
use partition::PartitionShape;

/// All faults that need a testbed.
pub const TESTBED_SCENARIOS: &[FaultScenario] = &[
    scenario("power-cut-owner", "power cut of the owner's volume, and kill -9", |seed| {
        on_testbed(seed, |testbed| {
            power_cut::PowerCut::new(testbed, power_cut::PowerCutTarget::Owner)
        })
    }),
    scenario("power-cut-all", "power cut of all volumes at once, and kill -9", |seed| {
        on_testbed(seed, |testbed| {
            power_cut::PowerCut::new(testbed, power_cut::PowerCutTarget::All)
        })
    }),
    scenario("partition-owner", "the owner is partitioned from the other nodes", |seed| {
        partition_scenario(seed, PartitionShape::OwnerIsolated)
    }),
    scenario(
        "partition-other",
        "another node is partitioned; the owner keeps a majority",
        |seed| partition_scenario(seed, PartitionShape::OtherIsolated),
    ),
    scenario(
        "owner-receives-nothing",
        "the owner sends to the other nodes and receives nothing from them",
        |seed| partition_scenario(seed, PartitionShape::OwnerReceivesNothing),
    ),
    scenario(
        "owner-sends-nothing",
        "the owner receives from the other nodes and sends nothing to them",
        |seed| partition_scenario(seed, PartitionShape::OwnerSendsNothing),
    ),
    scenario("partition-peer-port", "the owner's port 7091 is blocked; clients reach it", |seed| {
        partition_scenario(seed, PartitionShape::PeerPort)
    }),
    scenario(
        "partition-client-ports",
        "the owner's client ports are blocked; nodes reach it",
        |seed| partition_scenario(seed, PartitionShape::ClientPorts),
    ),
    scenario(
        "partition-pair",
        "the owner and another node do not reach each other; the third reaches both",
        |seed| partition_scenario(seed, PartitionShape::Partial),
    ),
    scenario(
        "swizzle",
        "nodes are partitioned one by one and reconnected in another order",
        |seed| on_testbed(seed, swizzle::Swizzle::new),
    ),
    scenario("packet-loss", "10 % of the packets between nodes are lost", |seed| {
        on_testbed(seed, |testbed| bad_links::BadLinks::new(testbed, bad_links::lossy_link()))
    }),
    scenario("packet-delay", "40 ms between nodes, with reordered packets", |seed| {
        on_testbed(seed, |testbed| bad_links::BadLinks::new(testbed, bad_links::slow_link()))
    }),
    scenario("fsync-error", "one fsync of the owner fails, and the owner must stop", |seed| {
        on_testbed(seed, disk::FsyncError::new)
    }),
    scenario("slow-fsync", "every fsync of the owner takes 50 ms longer", |seed| {
        on_testbed(seed, disk::SlowFsync::new)
    }),
    scenario("disk-full", "the owner's volume is filled, and freed again", |seed| {
        on_testbed(seed, disk::FullDisk::new)
    }),
    scenario(
        "clock-step",
        "the owner's wall clock steps an hour ahead, then an hour back",
        |seed| on_testbed(seed, clock_step::ClockStep::new),
    ),
    scenario(
        "clocks-ahead",
        "clocks of successors are two hours ahead, the owner's three days, with a retention of one hour",
        |seed| on_testbed(seed, clocks_ahead::ClocksAhead::new),
    ),
];

/// Several faults at a time, for as long as requested. Not a row of the table.
pub static SOAK_SCENARIO: FaultScenario = FaultScenario {
    name: "soak",
    description: "several faults and operator commands at a time, drawn from the seed",
    nodes: 4,
    flags: &[],
    prepare: |seed| on_testbed(seed, |testbed| soak::Soak::new(testbed, seed)),
};

type PrepareFn = fn(u64) -> Result<PreparedScenario, String>;

const fn scenario(
    name: &'static str,
    description: &'static str,
    prepare: PrepareFn,
) -> FaultScenario {
    FaultScenario { name, description, nodes: 3, flags: &[], prepare }
}

/// A scenario with a partition.
fn partition_scenario(seed: u64, shape: PartitionShape) -> Result<PreparedScenario, String> {
    on_testbed(seed, |testbed| partition::Partition::new(testbed, shape))
}

/// A scenario on a new testbed.
fn on_testbed<F: FaultInjector + 'static>(
    seed: u64,
    fault: impl FnOnce(Arc<Testbed>) -> F,
) -> Result<PreparedScenario, String> {
    let testbed = Arc::new(Testbed::new(seed)?);
    Ok(PreparedScenario { environment: testbed.clone(), fault: Box::new(fault(testbed)) })
}

/// The running nodes other than `node`.
fn other_nodes(context: &FaultContext, node: usize) -> Vec<usize> {
    context.cluster.running_nodes().filter(|&i| i != node).collect()
}

/// A random running node other than `node`.
fn pick_other_node(context: &mut FaultContext, node: usize) -> Result<usize, String> {
    let others = other_nodes(context, node).into_iter();
    others.choose(&mut context.rng).ok_or_else(|| "no other node runs".to_owned())
}
