//! The faults that need a rig, one idea a file, and their rows in the table.

mod clock;
mod clocks_ahead;
mod disk;
mod links;
mod partition;
mod power;
mod soak;
mod swizzle;
mod watch;

use std::sync::Arc;

use rand::seq::IteratorRandom;

use super::Rig;
use crate::faults::{Fault, Prepared, Row, Stage};
use partition::Shape;

/// Every fault that needs a rig.
pub const ON_THE_RIG: &[Row] = &[
    row("power-one", "power cut of the owner's volume, and kill -9", |seed| {
        on(seed, |rig| power::Cut::new(rig, power::Victims::Owner))
    }),
    row("power-all", "power cut of all volumes at once, and kill -9", |seed| {
        on(seed, |rig| power::Cut::new(rig, power::Victims::All))
    }),
    row("minority", "the owner is cut off from the other nodes", |seed| {
        cut(seed, Shape::OwnerAlone)
    }),
    row("majority", "another node is cut off; the owner keeps a majority", |seed| {
        cut(seed, Shape::OtherAlone)
    }),
    row("deaf", "the owner sends to the other nodes, and receives nothing from them", |seed| {
        cut(seed, Shape::OwnerDeaf)
    }),
    row("mute", "the owner receives from the other nodes, and sends nothing to them", |seed| {
        cut(seed, Shape::OwnerMute)
    }),
    row("peer-port", "the owner's port 7091 is cut; clients reach it", |seed| {
        cut(seed, Shape::PeerPort)
    }),
    row("client-ports", "the owner's client ports are cut; nodes reach it", |seed| {
        cut(seed, Shape::ClientPorts)
    }),
    row("partial", "the owner and another do not reach each other, a third reaches both", |seed| {
        cut(seed, Shape::Partial)
    }),
    row("swizzle", "nodes are cut off one by one and come back in another order", |seed| {
        on(seed, swizzle::Swizzle::new)
    }),
    row("loss", "10 % of the packets between nodes are lost", |seed| {
        on(seed, |rig| links::Bad::new(rig, links::lossy()))
    }),
    row("delay", "40 ms between nodes, with packets that overtake", |seed| {
        on(seed, |rig| links::Bad::new(rig, links::slow()))
    }),
    row("fsync-error", "one fsync of the owner fails: it must stop", |seed| {
        on(seed, disk::FsyncError::new)
    }),
    row("slow-fsync", "every fsync of the owner takes 50 ms more", |seed| {
        on(seed, disk::SlowFsync::new)
    }),
    row("disk-full", "the owner's volume is full, and there is room again", |seed| {
        on(seed, disk::Full::new)
    }),
    row("clock", "the owner's wall clock jumps an hour ahead, and an hour back", |seed| {
        on(seed, clock::Step::new)
    }),
    row(
        "clocks-ahead",
        "successors two hours ahead, the owner three days, with a retention of one hour",
        |seed| on(seed, clocks_ahead::Ahead::new),
    ),
];

/// Several at a time, for as long as somebody wants: no row of the table.
pub static SOAK: Row = Row {
    name: "soak",
    story: "several faults and operator commands at a time, drawn by the seed",
    nodes: 4,
    flags: &[],
    prepare: |seed| on(seed, |rig| soak::Soak::new(rig, seed)),
};

type Prepare = fn(u64) -> Result<Prepared, String>;

const fn row(name: &'static str, story: &'static str, prepare: Prepare) -> Row {
    Row { name, story, nodes: 3, flags: &[], prepare }
}

/// A run with a partition.
fn cut(seed: u64, shape: Shape) -> Result<Prepared, String> {
    on(seed, |rig| partition::Cuts::new(rig, shape))
}

/// A run on a rig of its own.
fn on<F: Fault + 'static>(
    seed: u64,
    fault: impl FnOnce(Arc<Rig>) -> F,
) -> Result<Prepared, String> {
    let rig = Arc::new(Rig::new(seed)?);
    Ok(Prepared { ground: rig.clone(), fault: Box::new(fault(rig)) })
}

/// The running nodes that are not this one.
fn others(stage: &Stage, node: usize) -> Vec<usize> {
    stage.cluster.running().filter(|&i| i != node).collect()
}

/// One of them.
fn another(stage: &mut Stage, node: usize) -> Result<usize, String> {
    let others = others(stage, node).into_iter();
    others.choose(&mut stage.rng).ok_or_else(|| "it is alone".to_owned())
}
