//! Bounds what one peer has open at this node: one stream of requests, and a number of snapshot steps.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pushonce_core::NodeId;
use tokio_util::sync::CancellationToken;

/// Maximum snapshot steps of one peer processed at once: two pieces, and an offer or installation of each
/// group that the peer leads. A peer that leads more groups repeats the steps that were rejected.
const TRANSFER_STEPS_MAX: usize = 256;

/// The open calls of all peers. Clones share them.
#[derive(Clone, Debug, Default)]
pub(crate) struct PeerCalls(Arc<Mutex<HashMap<NodeId, OpenCalls>>>);

#[derive(Debug, Default)]
struct OpenCalls {
    /// The number of the newest stream, and what ends it.
    stream: Option<(u64, CancellationToken)>,
    last_stream: u64,
    transfer_steps: usize,
}

/// The stream of a peer. Dropping it closes the entry.
#[derive(Debug)]
pub(super) struct PeerStream {
    calls: PeerCalls,
    peer: NodeId,
    number: u64,
    replaced: CancellationToken,
}

/// A snapshot step of a peer. Dropping it ends it.
#[derive(Debug)]
pub(super) struct TransferPermit {
    calls: PeerCalls,
    peer: NodeId,
}

impl PeerCalls {
    /// Begins the stream of a peer. An earlier one ends: a peer that reconnects has given it up.
    pub(super) fn open_stream(&self, peer: NodeId) -> PeerStream {
        let mut calls = self.lock();
        let open = calls.entry(peer).or_default();
        if let Some((_, previous)) = open.stream.take() {
            previous.cancel();
        }
        open.last_stream += 1;
        let (number, replaced) = (open.last_stream, CancellationToken::new());
        open.stream = Some((number, replaced.clone()));
        PeerStream { calls: self.clone(), peer, number, replaced }
    }

    /// Begins a snapshot step; `None` when the peer has too many.
    pub(super) fn begin_transfer_step(&self, peer: NodeId) -> Option<TransferPermit> {
        let mut calls = self.lock();
        let open = calls.entry(peer).or_default();
        if open.transfer_steps >= TRANSFER_STEPS_MAX {
            return None;
        }
        open.transfer_steps += 1;
        Some(TransferPermit { calls: self.clone(), peer })
    }

    fn end(&self, peer: NodeId, end: impl FnOnce(&mut OpenCalls)) {
        let mut calls = self.lock();
        if let Some(open) = calls.get_mut(&peer) {
            end(open);
            if open.stream.is_none() && open.transfer_steps == 0 {
                calls.remove(&peer);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<NodeId, OpenCalls>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PeerStream {
    /// Waits until a newer stream of the peer has replaced this one.
    pub(super) async fn replaced(&self) {
        self.replaced.cancelled().await;
    }
}

impl Drop for PeerStream {
    fn drop(&mut self) {
        self.calls.end(self.peer, |open| {
            open.stream.take_if(|(number, _)| *number == self.number);
        });
    }
}

impl Drop for TransferPermit {
    fn drop(&mut self) {
        self.calls.end(self.peer, |open| open.transfer_steps -= 1);
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    const PEER: NodeId = NodeId(2);

    #[test]
    fn newer_stream_of_a_peer_replaces_the_older_one() {
        let calls = PeerCalls::default();
        let (first, other) = (calls.open_stream(PEER), calls.open_stream(NodeId(3)));
        let second = calls.open_stream(PEER);
        assert!(first.replaced().now_or_never().is_some());
        drop(first);
        assert!(second.replaced().now_or_never().is_none());
        assert!(other.replaced().now_or_never().is_none(), "the stream of another peer");
        drop((second, other));
        assert!(calls.lock().is_empty(), "closed calls are remembered");
    }

    #[test]
    fn snapshot_steps_of_a_peer_are_bounded() {
        let calls = PeerCalls::default();
        let steps: Vec<_> =
            (0..TRANSFER_STEPS_MAX).map(|_| calls.begin_transfer_step(PEER)).collect();
        assert!(steps.iter().all(Option::is_some));
        assert!(calls.begin_transfer_step(PEER).is_none());
        assert!(calls.begin_transfer_step(NodeId(3)).is_some(), "another peer is bounded too");
        drop(steps);
        assert!(calls.begin_transfer_step(PEER).is_some());
        assert!(calls.lock().is_empty());
    }
}
