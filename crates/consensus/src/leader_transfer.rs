//! The leadership transfers that leaders announce to their voters.
//!
//! The election of a transfer ignores the lease of the leader, because the leader itself has ended it. Every
//! voter checks that: without an announcement of that leader, the election counts as any other.

use std::time::Duration;

use pushonce_core::{FailPoint, NodeId, Term};
use tokio::sync::watch;
use tokio::time::timeout;

/// The newest transfer that a leader announced to this replica.
#[derive(Debug)]
pub(crate) struct TransferAnnouncements(watch::Sender<Option<Announcement>>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Announcement {
    /// The term of the leader. It does not lead again in it, so the announcement does not expire.
    term: Term,
    successor: NodeId,
}

impl Default for TransferAnnouncements {
    fn default() -> TransferAnnouncements {
        TransferAnnouncements(watch::Sender::new(None))
    }
}

impl TransferAnnouncements {
    /// The leader of `term` transfers its leadership to `successor`. An older announcement has no effect.
    pub(crate) fn announce(&self, term: Term, successor: NodeId) {
        self.0.send_if_modified(|known| {
            let is_newer = known.is_none_or(|known| known.term < term);
            if is_newer {
                *known = Some(Announcement { term, successor });
            }
            is_newer
        });
    }

    /// Whether the leader of the previous term has announced that `candidate` succeeds it in `term`. Waits
    /// for the announcement, which travels on another stream than the vote request.
    pub(crate) async fn is_announced(
        &self,
        candidate: NodeId,
        term: Term,
        wait_max: Duration,
    ) -> bool {
        if FailPoint::TransferUnannounced.is_active() {
            return true;
        }
        let Some(previous) = term.0.checked_sub(1).map(Term) else { return false };
        let expected = Announcement { term: previous, successor: candidate };
        let mut announced = self.0.subscribe();
        let arrived = announced.wait_for(|known| *known == Some(expected));
        timeout(wait_max, arrived).await.is_ok_and(|known| known.is_ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAIT: Duration = Duration::from_millis(10);

    #[tokio::test]
    async fn only_the_announced_successor_of_the_announced_term_is_accepted() {
        let announcements = TransferAnnouncements::default();
        assert!(!announcements.is_announced(NodeId(2), Term(8), WAIT).await, "nothing announced");
        announcements.announce(Term(7), NodeId(2));
        announcements.announce(Term(6), NodeId(3));
        assert!(announcements.is_announced(NodeId(2), Term(8), WAIT).await);
        assert!(!announcements.is_announced(NodeId(3), Term(8), WAIT).await, "another successor");
        assert!(!announcements.is_announced(NodeId(3), Term(7), WAIT).await, "an older term");
        assert!(!announcements.is_announced(NodeId(2), Term(9), WAIT).await, "a later term");
        assert!(!announcements.is_announced(NodeId(2), Term(0), WAIT).await);
    }

    #[tokio::test]
    async fn announcement_that_arrives_after_the_request_counts() {
        let announcements = TransferAnnouncements::default();
        let late = Duration::from_secs(60);
        // The request is polled first and waits.
        let (accepted, ()) =
            tokio::join!(announcements.is_announced(NodeId(2), Term(8), late), async {
                announcements.announce(Term(7), NodeId(2));
            });
        assert!(accepted);
    }
}
