//! The network between nodes is bad, and carries most of what it is given.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::LocalBoxFuture;

use super::super::{Count, Link, Rig, Spot};
use super::watch;
use crate::faults::{Confirmed, Effect, Fault, Stage};
use crate::wait::secs;

/// The same bad link between all nodes.
pub(super) struct Bad {
    rig: Arc<Rig>,
    link: Link,
    nodes: usize,
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
        Bad { rig, link, nodes: 0 }
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

impl Fault for Bad {
    fn hold(&self) -> Duration {
        secs(10)
    }

    fn inject<'a>(
        &'a mut self,
        stage: &'a mut Stage,
    ) -> LocalBoxFuture<'a, Result<Effect, String>> {
        self.nodes = stage.cluster.len();
        self.set(&self.link);
        let nodes = stage.cluster.running().collect();
        let effect = Effect { nodes, majority: true, ..Effect::default() };
        std::future::ready(Ok(effect)).boxed_local()
    }

    fn confirm<'a>(&'a mut self, _: &'a mut Stage) -> LocalBoxFuture<'a, Confirmed> {
        async move { watch::grows("packet lost or late", self.hit(), || self.hit()).await }
            .boxed_local()
    }

    fn heal<'a>(&'a mut self, _: &'a mut Stage) -> LocalBoxFuture<'a, ()> {
        self.set(&Link::default());
        std::future::ready(()).boxed_local()
    }
}
