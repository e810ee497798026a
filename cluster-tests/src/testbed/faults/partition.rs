//! Partitions by pair of nodes, by direction, and by port.

use std::sync::Arc;
use std::time::Duration;

use tonic::async_trait;

use super::super::{LinkCut, LinkEnd, LinkRules, Testbed};
use super::{counter, other_nodes, pick_other_node};
use crate::faults::{FaultContext, FaultEffect, FaultInjector, FaultState};
use crate::wait::secs;

/// A partition.
pub(super) struct Partition {
    testbed: Arc<Testbed>,
    shape: PartitionShape,
    /// The blocked directions, with the number of packets lost in each before.
    cut_directions: Vec<(Direction, u64)>,
}

/// The shape of a partition.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum PartitionShape {
    /// The owner is alone on one side.
    OwnerIsolated,
    /// Another node is alone on one side.
    OtherIsolated,
    /// The owner receives nothing from other nodes.
    OwnerReceivesNothing,
    /// The other nodes receive nothing from the owner.
    OwnerSendsNothing,
    /// Only the owner's port for nodes is blocked.
    PeerPort,
    /// The owner's client ports are blocked, and its port for nodes is not.
    ClientPorts,
    /// The owner and one other node do not reach each other; all other nodes reach both.
    Partial,
}

type Direction = (LinkEnd, LinkEnd);

const PEER_PORT: u16 = 7091;

/// HTTP, QUIC and gRPC.
const CLIENT_PORTS: [u16; 3] = [7080, 7443, 7090];

impl Partition {
    pub(super) fn new(testbed: Arc<Testbed>, shape: PartitionShape) -> Partition {
        Partition { testbed, shape, cut_directions: Vec::new() }
    }

    fn lost_packets(&self, direction: Direction) -> u64 {
        let count = self.testbed.packet_counts(direction.0, direction.1);
        count.sent - count.carried
    }
}

/// The directions from one end to several.
pub(super) fn directions_from(end: LinkEnd, others: &[LinkEnd]) -> impl Iterator<Item = Direction> {
    others.iter().map(move |&other| (end, other))
}

/// The directions from several ends to one.
pub(super) fn directions_to(end: LinkEnd, others: &[LinkEnd]) -> impl Iterator<Item = Direction> {
    others.iter().map(move |&other| (other, end))
}

/// The directions between one end and several.
pub(super) fn directions_between(end: LinkEnd, others: &[LinkEnd]) -> Vec<Direction> {
    directions_from(end, others).chain(directions_to(end, others)).collect()
}

impl PartitionShape {
    /// The directions and the packets that are blocked, for the given owner and another node.
    fn cut_directions(
        self,
        owner: usize,
        other: usize,
        all: &[usize],
    ) -> (Vec<Direction>, LinkCut) {
        let target =
            LinkEnd::Node(if self == PartitionShape::OtherIsolated { other } else { owner });
        let other_nodes: Vec<_> =
            all.iter().map(|&i| LinkEnd::Node(i)).filter(|&end| end != target).collect();
        let everyone_else: Vec<_> = other_nodes.iter().copied().chain([LinkEnd::Clients]).collect();
        match self {
            PartitionShape::OwnerIsolated | PartitionShape::OtherIsolated => {
                (directions_between(target, &other_nodes), LinkCut::All)
            }
            PartitionShape::OwnerReceivesNothing => {
                (directions_to(target, &other_nodes).collect(), LinkCut::All)
            }
            PartitionShape::OwnerSendsNothing => {
                (directions_from(target, &other_nodes).collect(), LinkCut::All)
            }
            PartitionShape::PeerPort => {
                (directions_between(target, &everyone_else), LinkCut::Ports(vec![PEER_PORT]))
            }
            PartitionShape::ClientPorts => {
                (directions_between(target, &everyone_else), LinkCut::Ports(CLIENT_PORTS.to_vec()))
            }
            PartitionShape::Partial => {
                (directions_between(target, &[LinkEnd::Node(other)]), LinkCut::All)
            }
        }
    }

    /// The effect on the cluster. With three nodes or more, the remaining nodes are a majority.
    fn effect(self, owner: usize, other: usize) -> FaultEffect {
        let isolated = |node| {
            let nodes = vec![node];
            FaultEffect {
                unready: nodes.clone(),
                deposed: nodes.clone(),
                ..FaultEffect::on_nodes(nodes)
            }
        };
        match self {
            PartitionShape::OtherIsolated => isolated(other),
            PartitionShape::OwnerIsolated
            | PartitionShape::OwnerReceivesNothing
            | PartitionShape::OwnerSendsNothing
            | PartitionShape::PeerPort => isolated(owner),
            // The node is healthy, but no client reaches it.
            PartitionShape::ClientPorts => FaultEffect::on_nodes(vec![owner]),
            // Each of the two has a majority with the third; either may own topics.
            PartitionShape::Partial => {
                let deposed = vec![owner, other];
                FaultEffect { deposed: deposed.clone(), ..FaultEffect::on_nodes(deposed) }
            }
        }
    }
}

#[async_trait(?Send)]
impl FaultInjector for Partition {
    fn duration(&self) -> Duration {
        secs(8)
    }

    async fn inject(&mut self, context: &mut FaultContext) -> Result<FaultEffect, String> {
        let owner = context.hot_topic_owner().await;
        let other = pick_other_node(context, owner)?;
        let all: Vec<_> = other_nodes(context, owner).into_iter().chain([owner]).collect();
        let (directions, cut) = self.shape.cut_directions(owner, other, &all);
        for (from, to) in directions {
            self.cut_directions.push(((from, to), self.lost_packets((from, to))));
            self.testbed.set_link(from, to, LinkRules { cut: cut.clone(), ..LinkRules::default() });
        }
        Ok(self.shape.effect(owner, other))
    }

    async fn confirm(&mut self, _: &mut FaultContext) -> FaultState {
        let before = self.cut_directions.iter().map(|&(_, lost)| lost).sum();
        let lost =
            || self.cut_directions.iter().map(|&(direction, _)| self.lost_packets(direction)).sum();
        counter::confirm_grows("packet was lost at a blocked link", before, lost).await
    }

    async fn heal(&mut self, _: &mut FaultContext) {
        for ((from, to), _) in self.cut_directions.drain(..) {
            self.testbed.set_link(from, to, LinkRules::default());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The blocked directions of a shape as text, with node 0 as the owner and node 1 as the other node.
    fn cut_directions_text(shape: PartitionShape) -> String {
        let name = |end| match end {
            LinkEnd::Node(i) => i.to_string(),
            LinkEnd::Clients => "c".to_owned(),
        };
        let (mut directions, _) = shape.cut_directions(0, 1, &[0, 1, 2]);
        directions.sort();
        let texts = directions.into_iter().map(|(from, to)| format!("{}>{}", name(from), name(to)));
        texts.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn each_shape_cuts_the_expected_directions() {
        assert_eq!(cut_directions_text(PartitionShape::OwnerIsolated), "0>1 0>2 1>0 2>0");
        assert_eq!(cut_directions_text(PartitionShape::OtherIsolated), "0>1 1>0 1>2 2>1");
        assert_eq!(cut_directions_text(PartitionShape::OwnerReceivesNothing), "1>0 2>0");
        assert_eq!(cut_directions_text(PartitionShape::OwnerSendsNothing), "0>1 0>2");
        assert_eq!(cut_directions_text(PartitionShape::Partial), "0>1 1>0");
        assert_eq!(cut_directions_text(PartitionShape::PeerPort), "0>1 0>2 0>c 1>0 2>0 c>0");
        assert_eq!(
            PartitionShape::PeerPort.cut_directions(0, 1, &[0, 1, 2]).1,
            LinkCut::Ports(vec![7091])
        );
        assert_eq!(
            PartitionShape::ClientPorts.cut_directions(0, 1, &[0, 1, 2]).1,
            LinkCut::Ports(vec![7080, 7443, 7090])
        );
    }
}
