//! Nodes are cut off one by one, and come back in another order: every partition there is, and every
//! way to come out of it.

use std::sync::Arc;
use std::time::Duration;

use rand::Rng;
use rand::seq::SliceRandom;
use tonic::async_trait;

use super::super::{Link, Rig, Spot};
use super::watch;
use crate::faults::{Confirmed, Effect, Fault, Stage};
use crate::wait::secs;

/// A swizzle.
pub(super) struct Swizzle {
    rig: Arc<Rig>,
    /// Who is cut off, in the order in which they come back.
    off: Vec<usize>,
    nodes: usize,
    lost: u64,
}

/// Between two nodes that are cut off, or come back: around the election timeout, so that elections
/// are under way when the next one goes.
const PAUSE_MS: std::ops::Range<u64> = 200..1500;

impl Swizzle {
    pub(super) fn new(rig: Arc<Rig>) -> Swizzle {
        Swizzle { rig, off: Vec::new(), nodes: 0, lost: 0 }
    }

    /// Cuts and joins the links between nodes: those of a node that is off are cut.
    fn set(&self) {
        for from in 0..self.nodes {
            for to in (0..self.nodes).filter(|&to| to != from) {
                let cut = self.off.contains(&from) || self.off.contains(&to);
                let link = if cut { Link::cut() } else { Link::default() };
                self.rig.set(Spot::Node(from), Spot::Node(to), link);
            }
        }
    }

    fn lost(&self) -> u64 {
        let lost = |from, to| {
            let count = self.rig.count(Spot::Node(from), Spot::Node(to));
            count.sent - count.carried
        };
        (0..self.nodes).flat_map(|from| (0..self.nodes).map(move |to| lost(from, to))).sum()
    }
}

async fn pause(stage: &mut Stage) {
    tokio::time::sleep(Duration::from_millis(stage.rng.random_range(PAUSE_MS))).await;
}

#[async_trait(?Send)]
impl Fault for Swizzle {
    fn hold(&self) -> Duration {
        secs(2)
    }

    async fn inject(&mut self, stage: &mut Stage) -> Result<Effect, String> {
        let mut nodes: Vec<_> = stage.cluster.running().collect();
        self.nodes = stage.cluster.len();
        self.lost = self.lost();
        nodes.shuffle(&mut stage.rng);
        for &node in &nodes {
            self.off.push(node);
            self.set();
            pause(stage).await;
        }
        self.off.shuffle(&mut stage.rng);
        // Nobody reaches anybody: each of them is cut off, and may take itself for an owner.
        let (unready, deposed) = (nodes.clone(), nodes.clone());
        Ok(Effect { nodes, unready, deposed, ..Effect::default() })
    }

    async fn confirm(&mut self, _: &mut Stage) -> Confirmed {
        watch::grows("packet lost at a cut", self.lost, || self.lost()).await
    }

    async fn heal(&mut self, stage: &mut Stage) {
        while self.off.pop().is_some() {
            self.set();
            pause(stage).await;
        }
    }
}
