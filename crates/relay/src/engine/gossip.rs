//! Selects the nodes to which a claim received from another node is forwarded.
//!
//! An owner sends its claim on every link that it has. Other nodes forward it, because a node without a link
//! to the owner depends on them. If each forwarded it to all, a claim would cost one frame for every pair of
//! nodes: a million for 1,000 nodes.

use pushonce_core::NodeId;

/// Up to this many links the claim is sent on all of them.
const BROADCAST_LINKS_MAX: usize = 16;

/// The linked nodes to which `me` forwards a claim. With few links these are all of them. With many, they
/// are the nodes 1, 2, 4, 8, … places after `me` in the circular order of ids. Along these a claim reaches
/// all nodes in a few steps and on enough paths to tolerate missing links.
pub(super) fn gossip_targets(me: NodeId, linked: impl IntoIterator<Item = NodeId>) -> Vec<NodeId> {
    let mut order: Vec<NodeId> = linked.into_iter().filter(|&node| node != me).collect();
    if order.len() <= BROADCAST_LINKS_MAX {
        return order;
    }
    order.sort_unstable();
    let next = order.partition_point(|&node| node < me);
    order.rotate_left(next);
    let places = std::iter::successors(Some(1), |place| Some(place * 2));
    places.map_while(|place| order.get(place - 1).copied()).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeSet, VecDeque};

    use super::*;

    /// Forwards a claim of node 1. Returns how many nodes received it and how many frames were sent.
    fn spread(nodes: u64, linked: impl Fn(u64, u64) -> bool) -> (usize, usize) {
        let linked = &linked;
        let links = |node: u64| (1..=nodes).filter(move |&other| other != node);
        let peers_of =
            |node: u64| links(node).filter(move |&other| linked(node.min(other), node.max(other)));
        let mut reached = BTreeSet::from([1]);
        let mut frames = VecDeque::from_iter(peers_of(1));
        let mut count = 0;
        while let Some(to) = frames.pop_front() {
            count += 1;
            if reached.insert(to) {
                let targets = gossip_targets(NodeId(to), peers_of(to).map(NodeId));
                frames.extend(targets.iter().map(|node| node.0).filter(|&node| node != 1));
            }
        }
        (reached.len(), count)
    }

    #[test]
    fn claim_reaches_a_thousand_nodes_in_a_few_frames_each() {
        let (reached, frames) = spread(1_000, |_, _| true);
        assert_eq!(reached, 1_000);
        assert!(frames <= 12_000, "{frames} frames");
    }

    #[test]
    fn claim_reaches_the_nodes_that_have_no_link_to_its_owner() {
        let (reached, _) = spread(1_000, |a, b| a != 1 || b == 500);
        assert_eq!(reached, 1_000, "the owner has one link");
        // One link of five is missing.
        let (reached, _) = spread(1_000, |a, b| (a * 7919 + b * 104_729) % 5 != 0);
        assert_eq!(reached, 1_000);
    }

    #[test]
    fn claim_is_sent_to_all_nodes_when_they_are_few() {
        let others: Vec<NodeId> = (2..=17).map(NodeId).collect();
        assert_eq!(gossip_targets(NodeId(1), others.clone()), others);
    }
}
