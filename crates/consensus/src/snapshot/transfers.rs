//! The progress of the snapshots that a leader sends.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pushonce_core::NodeId;
use tokio::time::Instant;

use crate::status::SnapshotProgress;

/// The transfers of one group, by receiver. Clones share them.
#[derive(Clone, Debug)]
pub(crate) struct SnapshotTransfers(Arc<TransfersShared>);

#[derive(Debug)]
struct TransfersShared {
    /// A transfer without progress for this long is not expected to complete.
    idle_max: Duration,
    running: Mutex<BTreeMap<NodeId, TransferState>>,
}

#[derive(Clone, Copy, Debug)]
struct TransferState {
    /// The sender's number of the snapshot.
    generation: u64,
    progress: SnapshotProgress,
    /// When the transfer last made progress.
    progressed_at: Instant,
}

/// One transfer. If it is dropped before completion, it is expected to be resumed.
pub(crate) struct SnapshotTransfer {
    transfers: SnapshotTransfers,
    to: NodeId,
    generation: u64,
    pieces_total: u32,
}

impl SnapshotTransfers {
    pub(crate) fn new(idle_max: Duration) -> SnapshotTransfers {
        SnapshotTransfers(Arc::new(TransfersShared { idle_max, running: Mutex::default() }))
    }

    /// Begins or resumes a transfer. It counts as running once the receiver has answered.
    pub(crate) fn begin(&self, to: NodeId, generation: u64, pieces_total: u32) -> SnapshotTransfer {
        SnapshotTransfer { transfers: self.clone(), to, generation, pieces_total }
    }

    /// The transfers that made progress recently.
    pub(crate) fn progress(&self, now: Instant) -> BTreeMap<NodeId, SnapshotProgress> {
        let running = self.running();
        let recent = running.iter().filter(|(_, transfer)| self.is_running(transfer, now));
        recent.map(|(&to, transfer)| (to, transfer.progress)).collect()
    }

    /// Whether any transfer made progress recently.
    pub(crate) fn is_any_running(&self, now: Instant) -> bool {
        self.running().values().any(|transfer| self.is_running(transfer, now))
    }

    fn is_running(&self, transfer: &TransferState, now: Instant) -> bool {
        now.saturating_duration_since(transfer.progressed_at) < self.0.idle_max
    }

    fn running(&self) -> MutexGuard<'_, BTreeMap<NodeId, TransferState>> {
        self.0.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SnapshotTransfer {
    /// Records that the receiver holds the first `pieces_sent` pieces. Repeating an earlier count is no
    /// progress.
    pub(crate) fn record_progress(&self, pieces_sent: u32, now: Instant) {
        let SnapshotTransfer { generation, pieces_total, .. } = *self;
        let progress = SnapshotProgress { pieces_sent, pieces_total };
        let mut running = self.transfers.running();
        let known = running.get(&self.to);
        if known
            .is_none_or(|it| it.generation != generation || it.progress.pieces_sent < pieces_sent)
        {
            running.insert(self.to, TransferState { generation, progress, progressed_at: now });
        }
    }

    /// Ends a transfer: the receiver installed the snapshot or rejected it permanently.
    pub(crate) fn complete(self) {
        self.transfers.running().remove(&self.to);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: NodeId = NodeId(2);

    #[test]
    fn transfer_is_running_only_while_it_makes_progress() {
        let start = Instant::now();
        let at = |second| start + Duration::from_secs(second);
        let transfers = SnapshotTransfers::new(Duration::from_secs(10));
        let first = transfers.begin(PEER, 1, 40);
        assert!(
            !transfers.is_any_running(at(0)),
            "a receiver that has not answered counts as running"
        );
        for sent in 1..=20 {
            first.record_progress(sent, at(9 * u64::from(sent)));
            assert!(transfers.is_any_running(at(9 * u64::from(sent) + 9)));
        }
        let progress = SnapshotProgress { pieces_sent: 20, pieces_total: 40 };
        assert_eq!(transfers.progress(at(181))[&PEER], progress);

        // The transfer broke and was resumed repeatedly without progress.
        drop(first);
        for second in [184, 188, 192] {
            transfers.begin(PEER, 1, 40).record_progress(20, at(second));
        }
        assert!(
            !transfers.is_any_running(at(192)),
            "a receiver without progress counts as running"
        );
        transfers.begin(PEER, 2, 40).record_progress(0, at(193));
        assert!(transfers.is_any_running(at(194)), "a newer snapshot does not count as running");
    }

    #[test]
    fn completed_transfer_is_not_running() {
        let now = Instant::now();
        let transfers = SnapshotTransfers::new(Duration::from_secs(10));
        let transfer = transfers.begin(PEER, 1, 1);
        transfer.record_progress(1, now);
        transfer.complete();
        assert!(!transfers.is_any_running(now) && transfers.progress(now).is_empty());
    }
}
