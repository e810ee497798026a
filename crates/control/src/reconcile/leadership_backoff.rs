//! Backoff for nodes that lost leadership a moment ago.
//!
//! A preferred owner may have caught up and have a link, and still not reach a majority: one direction is
//! cut, or its peers answer slowly. After a transfer it loses leadership within a lease; after repeated
//! immediate transfers the shard would move back and forth and accept little. So each loss is followed by a
//! pause, longer each time.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use pushonce_core::NodeId;
use tokio::time::Instant;

/// Backoff after the first loss: about as long as an election takes, so that a restarted node leads again
/// soon.
const BACKOFF_MIN: Duration = Duration::from_secs(2);
/// Maximum backoff, so that the effect of a network repair is visible soon.
const BACKOFF_MAX: Duration = Duration::from_secs(64);
/// Time after the last loss at which the backoff of a node starts over.
const RESET_AFTER: Duration = Duration::from_secs(300);

/// The recent leadership losses in one group.
#[derive(Clone, Debug, Default)]
pub(crate) struct LeadershipBackoff {
    leader: Option<NodeId>,
    losses: BTreeMap<NodeId, LeadershipLoss>,
}

#[derive(Clone, Copy, Debug)]
struct LeadershipLoss {
    at: Instant,
    backoff: Duration,
}

impl LeadershipBackoff {
    /// Records the current leader. A moment without a leader is not a loss: the same node may lead again.
    pub(crate) fn observe_leader(&mut self, leader: Option<NodeId>, now: Instant) {
        let Some(leader) = leader else { return };
        if let Some(previous) = self.leader.replace(leader).filter(|&before| before != leader) {
            self.losses.retain(|_, loss| now < loss.at + RESET_AFTER);
            let backoff = self
                .losses
                .get(&previous)
                .map_or(BACKOFF_MIN, |loss| (loss.backoff * 2).min(BACKOFF_MAX));
            self.losses.insert(previous, LeadershipLoss { at: now, backoff });
        }
    }

    /// The nodes that must not receive leadership now.
    pub(crate) fn nodes_in_backoff(&self, now: Instant) -> BTreeSet<NodeId> {
        let active = self.losses.iter().filter(|(_, loss)| now < loss.at + loss.backoff);
        active.map(|(&node, _)| node).collect()
    }

    /// The end of the next backoff.
    pub(crate) fn next_expiry(&self, now: Instant) -> Option<Instant> {
        let ends = self.losses.values().map(|loss| loss.at + loss.backoff);
        ends.filter(|&end| now < end).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: NodeId = NodeId(1);
    const B: NodeId = NodeId(2);

    #[test]
    fn former_leader_is_in_backoff_longer_after_each_loss() {
        let mut now = Instant::now();
        let mut backoff = LeadershipBackoff::default();
        for pause in [2, 4, 8, 16, 32, 64, 64] {
            backoff.observe_leader(Some(A), now);
            backoff.observe_leader(None, now);
            assert!(!backoff.nodes_in_backoff(now).contains(&A), "the same node may lead again");
            backoff.observe_leader(Some(B), now);
            let end = now + Duration::from_secs(pause);
            assert!(backoff.nodes_in_backoff(end - Duration::from_millis(1)).contains(&A));
            assert_eq!(backoff.next_expiry(end - Duration::from_millis(1)), Some(end));
            assert!(!backoff.nodes_in_backoff(end).contains(&A));
            now = end;
        }
    }

    #[test]
    fn backoff_resets_after_a_long_leadership() {
        let start = Instant::now();
        let mut backoff = LeadershipBackoff::default();
        for leader in [A, B, A, B] {
            backoff.observe_leader(Some(leader), start);
        }
        let later = start + RESET_AFTER;
        backoff.observe_leader(Some(A), later);
        backoff.observe_leader(Some(B), later);
        assert!(backoff.nodes_in_backoff(later).contains(&A));
        assert!(!backoff.nodes_in_backoff(later + BACKOFF_MIN).contains(&A));
    }

    #[test]
    fn node_in_backoff_has_an_expiry() {
        let start = Instant::now();
        let mut backoff = LeadershipBackoff::default();
        backoff.observe_leader(Some(A), start);
        backoff.observe_leader(Some(B), start);
        for millis in 0..=2_100 {
            let now = start + Duration::from_millis(millis);
            let in_backoff = backoff.nodes_in_backoff(now).contains(&A);
            assert_eq!(backoff.next_expiry(now).is_some_and(|end| end > now), in_backoff);
        }
    }

    #[test]
    fn first_observed_leader_is_not_in_backoff() {
        let now = Instant::now();
        let mut backoff = LeadershipBackoff::default();
        backoff.observe_leader(None, now);
        backoff.observe_leader(Some(A), now);
        assert_eq!(
            (backoff.nodes_in_backoff(now), backoff.next_expiry(now)),
            (BTreeSet::new(), None)
        );
    }
}
