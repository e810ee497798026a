//! Who lost the lead a moment ago, and is not handed it again so soon.
//!
//! A preferred owner may be level and have a link, and still not get a majority of its own: one
//! direction is cut, or the others are slow to answer it. Handed the lead, it loses it within a
//! lease; handed it at once again, the shard would go to and fro and accept little. So each loss is
//! followed by a pause, longer each time.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use pushonce_core::NodeId;
use tokio::time::Instant;

/// After the first loss: about as long as an election takes. A node that was only restarted leads
/// again soon.
const PAUSE_MIN: Duration = Duration::from_secs(2);
/// However often it was lost: somebody who repairs a network should not have to wait long.
const PAUSE_MAX: Duration = Duration::from_secs(64);
/// Who kept the lead this long, or never had it, begins anew.
const FORGIVEN_AFTER: Duration = Duration::from_secs(300);

/// The leaders of one group, as far as they were seen to lose it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Losses {
    leader: Option<NodeId>,
    lost: BTreeMap<NodeId, Loss>,
}

#[derive(Clone, Copy, Debug)]
struct Loss {
    at: Instant,
    pause: Duration,
}

impl Losses {
    /// Takes who leads now. A moment without a leader is no loss yet: the same may lead again.
    pub(crate) fn see(&mut self, leader: Option<NodeId>, now: Instant) {
        let Some(leader) = leader else { return };
        if let Some(before) = self.leader.replace(leader).filter(|&before| before != leader) {
            self.lost.retain(|_, loss| now < loss.at + FORGIVEN_AFTER);
            let pause =
                self.lost.get(&before).map_or(PAUSE_MIN, |loss| (loss.pause * 2).min(PAUSE_MAX));
            self.lost.insert(before, Loss { at: now, pause });
        }
    }

    /// Who is not handed the lead now.
    pub(crate) fn doubted(&self, now: Instant) -> BTreeSet<NodeId> {
        let fresh = self.lost.iter().filter(|(_, loss)| now < loss.at + loss.pause);
        fresh.map(|(&node, _)| node).collect()
    }

    /// When the next of them is trusted again.
    pub(crate) fn next_trust(&self, now: Instant) -> Option<Instant> {
        let ends = self.lost.values().map(|loss| loss.at + loss.pause);
        ends.filter(|&end| now < end).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: NodeId = NodeId(1);
    const B: NodeId = NodeId(2);

    #[test]
    fn who_lost_the_lead_is_not_handed_it_for_a_while_and_longer_each_time() {
        let mut now = Instant::now();
        let mut losses = Losses::default();
        for pause in [2, 4, 8, 16, 32, 64, 64] {
            losses.see(Some(A), now);
            losses.see(None, now);
            assert!(!losses.doubted(now).contains(&A), "it may lead again");
            losses.see(Some(B), now);
            let end = now + Duration::from_secs(pause);
            assert!(losses.doubted(end - Duration::from_millis(1)).contains(&A));
            assert_eq!(losses.next_trust(end - Duration::from_millis(1)), Some(end));
            assert!(!losses.doubted(end).contains(&A));
            now = end;
        }
    }

    #[test]
    fn who_kept_the_lead_for_long_begins_anew() {
        let start = Instant::now();
        let mut losses = Losses::default();
        for leader in [A, B, A, B] {
            losses.see(Some(leader), start);
        }
        let later = start + FORGIVEN_AFTER;
        losses.see(Some(A), later);
        losses.see(Some(B), later);
        assert!(losses.doubted(later).contains(&A));
        assert!(!losses.doubted(later + PAUSE_MIN).contains(&A));
    }

    #[test]
    fn whoever_is_doubted_has_a_time_at_which_that_ends() {
        let start = Instant::now();
        let mut losses = Losses::default();
        losses.see(Some(A), start);
        losses.see(Some(B), start);
        for millis in 0..=2_100 {
            let now = start + Duration::from_millis(millis);
            let doubted = losses.doubted(now).contains(&A);
            assert_eq!(losses.next_trust(now).is_some_and(|end| end > now), doubted);
        }
    }

    #[test]
    fn the_first_leader_that_is_seen_has_lost_nothing() {
        let now = Instant::now();
        let mut losses = Losses::default();
        losses.see(None, now);
        losses.see(Some(A), now);
        assert_eq!((losses.doubted(now), losses.next_trust(now)), (BTreeSet::new(), None));
    }
}
