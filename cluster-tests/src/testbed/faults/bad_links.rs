//! Bad links between nodes that still deliver most packets.

use std::sync::Arc;
use std::time::Duration;

use tonic::async_trait;

use super::super::{LinkEnd, LinkRules, PacketCounts, Testbed};
use super::counter;
use crate::faults::{FaultContext, FaultEffect, FaultInjector, FaultState};
use crate::wait::secs;

/// The same bad link between all nodes.
pub(super) struct BadLinks {
    testbed: Arc<Testbed>,
    link: LinkRules,
    nodes: usize,
    /// The number of packets that were lost or delayed before.
    affected_before: u64,
}

/// A link that loses every tenth packet.
pub(super) fn lossy_link() -> LinkRules {
    LinkRules { loss: 0.1, ..LinkRules::default() }
}

/// A link with the delay between two continents, and with reordering.
pub(super) fn slow_link() -> LinkRules {
    LinkRules {
        delay: Duration::from_millis(40),
        jitter: Duration::from_millis(10),
        reorder: 0.1,
        ..LinkRules::default()
    }
}

impl BadLinks {
    pub(super) fn new(testbed: Arc<Testbed>, link: LinkRules) -> BadLinks {
        BadLinks { testbed, link, nodes: 0, affected_before: 0 }
    }

    fn directions(&self) -> impl Iterator<Item = (LinkEnd, LinkEnd)> {
        let nodes = self.nodes;
        let pairs = (0..nodes).flat_map(move |from| (0..nodes).map(move |to| (from, to)));
        pairs
            .filter(|(from, to)| from != to)
            .map(|(from, to)| (LinkEnd::Node(from), LinkEnd::Node(to)))
    }

    /// The number of packets that were lost or delayed.
    fn affected_packets(&self) -> u64 {
        let counts = self.directions().map(|(from, to)| self.testbed.packet_counts(from, to));
        counts.map(|PacketCounts { sent, carried, delayed }| sent - carried + delayed).sum()
    }

    fn set_links(&self, link: &LinkRules) {
        self.directions().for_each(|(from, to)| self.testbed.set_link(from, to, link.clone()));
    }
}

#[async_trait(?Send)]
impl FaultInjector for BadLinks {
    fn duration(&self) -> Duration {
        secs(10)
    }

    async fn inject(&mut self, context: &mut FaultContext) -> Result<FaultEffect, String> {
        self.nodes = context.cluster.len();
        self.affected_before = self.affected_packets();
        self.set_links(&self.link);
        Ok(FaultEffect::on_nodes(context.cluster.running_nodes().collect()))
    }

    async fn confirm(&mut self, _: &mut FaultContext) -> FaultState {
        counter::confirm_grows("packet was lost or delayed", self.affected_before, || {
            self.affected_packets()
        })
        .await
    }

    async fn heal(&mut self, _: &mut FaultContext) {
        self.set_links(&LinkRules::default());
    }
}
