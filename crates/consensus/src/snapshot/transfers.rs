//! The snapshots that a leader is sending, as far as they have come.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pushonce_core::NodeId;
use tokio::time::Instant;

use crate::status::SnapshotProgress;

/// The transfers of one group, by receiver. Clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Transfers(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// A transfer without progress for this long is not expected to complete.
    idle_max: Duration,
    running: Mutex<BTreeMap<NodeId, Running>>,
}

#[derive(Clone, Copy, Debug)]
struct Running {
    /// The sender's number of the snapshot.
    generation: u64,
    progress: SnapshotProgress,
    /// When it last made progress.
    at: Instant,
}

/// One transfer. Dropped before it is complete, it is expected to be resumed.
pub(crate) struct Transfer {
    transfers: Transfers,
    to: NodeId,
    generation: u64,
    pieces: u32,
}

impl Transfers {
    pub(crate) fn new(idle_max: Duration) -> Transfers {
        Transfers(Arc::new(Shared { idle_max, running: Mutex::default() }))
    }

    /// A transfer begins, or resumes. It counts once the receiver has answered.
    pub(crate) fn begin(&self, to: NodeId, generation: u64, pieces: u32) -> Transfer {
        Transfer { transfers: self.clone(), to, generation, pieces }
    }

    /// The transfers that have made progress lately.
    pub(crate) fn progress(&self, now: Instant) -> BTreeMap<NodeId, SnapshotProgress> {
        let running = self.running();
        let lately = running.iter().filter(|(_, transfer)| self.is_running(transfer, now));
        lately.map(|(&to, transfer)| (to, transfer.progress)).collect()
    }

    /// Whether any has made progress lately.
    pub(crate) fn are_running(&self, now: Instant) -> bool {
        self.running().values().any(|transfer| self.is_running(transfer, now))
    }

    fn is_running(&self, transfer: &Running, now: Instant) -> bool {
        now.saturating_duration_since(transfer.at) < self.0.idle_max
    }

    fn running(&self) -> MutexGuard<'_, BTreeMap<NodeId, Running>> {
        self.0.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Transfer {
    /// The receiver holds the first `sent` pieces. To hold no more than before is no progress, however
    /// often the receiver says so.
    pub(crate) fn reached(&self, sent: u32, now: Instant) {
        let Transfer { generation, pieces, .. } = *self;
        let progress = SnapshotProgress { sent, pieces };
        let mut running = self.transfers.running();
        let known = running.get(&self.to);
        if known.is_none_or(|it| it.generation != generation || it.progress.sent < sent) {
            running.insert(self.to, Running { generation, progress, at: now });
        }
    }

    /// The receiver has installed the snapshot, or refuses it for good.
    pub(crate) fn complete(self) {
        self.transfers.running().remove(&self.to);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: NodeId = NodeId(2);

    #[test]
    fn a_transfer_counts_while_it_makes_progress_and_not_after() {
        let start = Instant::now();
        let at = |second| start + Duration::from_secs(second);
        let transfers = Transfers::new(Duration::from_secs(10));
        let first = transfers.begin(PEER, 1, 40);
        assert!(!transfers.are_running(at(0)), "a receiver out of reach counts");
        for sent in 1..=20 {
            first.reached(sent, at(9 * u64::from(sent)));
            assert!(transfers.are_running(at(9 * u64::from(sent) + 9)));
        }
        let progress = SnapshotProgress { sent: 20, pieces: 40 };
        assert_eq!(transfers.progress(at(181))[&PEER], progress);

        // Broken, and resumed again and again in vain.
        drop(first);
        for second in [184, 188, 192] {
            transfers.begin(PEER, 1, 40).reached(20, at(second));
        }
        assert!(!transfers.are_running(at(192)), "a receiver that is stuck counts for ever");
        transfers.begin(PEER, 2, 40).reached(0, at(193));
        assert!(transfers.are_running(at(194)), "a newer snapshot does not count");
    }

    #[test]
    fn a_complete_transfer_counts_no_more() {
        let now = Instant::now();
        let transfers = Transfers::new(Duration::from_secs(10));
        let transfer = transfers.begin(PEER, 1, 1);
        transfer.reached(1, now);
        transfer.complete();
        assert!(!transfers.are_running(now) && transfers.progress(now).is_empty());
    }
}
