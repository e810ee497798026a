//! The network between nodes is bad, and carries most of what it is given.

use std::sync::Arc;
use std::time::Duration;

use tonic::async_trait;

use super::super::{Count, Link, Rig, Spot};
use super::watch;
use crate::faults::{Confirmed, Effect, Fault, Stage};
use crate::wait::secs;

/// The same bad link between all nodes.
pub(super) struct Bad {
    rig: Arc<Rig>,
    link: Link,
    nodes: usize,
    /// Packets that had been lost or late before.
    hit: u64,
}

/// Every tenth packet is lost.
pub(super) fn lossy() -> Link {
    Link { loss: 0.1, ..Link::default() }
}

/// As far as from one continent to the next, with packets that overtake each other.
pub(super) fn slow() -> Link {
    Link {
        delay: Duration::from_millis(40),
        jitter: Duration::from_millis(10),
        reorder: 0.1,
        ..Link::default()
    }
}

impl Bad {
    pub(super) fn new(rig: Arc<Rig>, link: Link) -> Bad {
        Bad { rig, link, nodes: 0, hit: 0 }
    }

    fn ways(&self) -> impl Iterator<Item = (Spot, Spot)> {
        let nodes = self.nodes;
        let pairs = (0..nodes).flat_map(move |from| (0..nodes).map(move |to| (from, to)));
        pairs.filter(|(from, to)| from != to).map(|(from, to)| (Spot::Node(from), Spot::Node(to)))
    }

    /// Packets that were lost or late.
    fn hit(&self) -> u64 {
        let counts = self.ways().map(|(from, to)| self.rig.count(from, to));
        counts.map(|Count { sent, carried, late }| sent - carried + late).sum()
    }

    fn set(&self, link: &Link) {
        self.ways().for_each(|(from, to)| self.rig.set(from, to, link.clone()));
    }
}

#[async_trait(?Send)]
impl Fault for Bad {
    fn hold(&self) -> Duration {
        secs(10)
    }

    async fn inject(&mut self, stage: &mut Stage) -> Result<Effect, String> {
        self.nodes = stage.cluster.len();
        self.hit = self.hit();
        self.set(&self.link);
        Ok(Effect::on(stage.cluster.running().collect()))
    }

    async fn confirm(&mut self, _: &mut Stage) -> Confirmed {
        watch::grows("packet lost or late", self.hit, || self.hit()).await
    }

    async fn heal(&mut self, _: &mut Stage) {
        self.set(&Link::default());
    }
}
