//! Detects nodes whose log was rolled back, and excludes them.
//!
//! Every commit of a node's log increments a counter, and every frame carries it. Peers remember the counter
//! of each node. When a node starts again with a lower value, its log was rolled back to an earlier state (a
//! restored directory, a disk snapshot, a disk that lost synced data): the node has forgotten votes that it
//! gave and entries that it acknowledged. Both ends of a new stream compare the counters; such a node is
//! rejected by its peers and closes its own fence.
//!
//! A rollback is not detected while no peer is up that knows of the lost commits. The control group therefore
//! stores a counter as well, at each start of a node.

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pushonce_core::{FailPoint, NodeId};

use super::fence::Fence;
use crate::metrics;
use crate::store::WriteCounter;

/// Maximum number of peers whose counter is remembered, 40 bytes each. Any client that knows the cluster id
/// can claim to be an unknown node.
const PEERS_MAX: usize = 10_000;

/// The counters of the peers and of this node. Clones share them.
#[derive(Clone)]
pub(crate) struct RollbackDetector(Arc<RollbackDetectorShared>);

struct RollbackDetectorShared {
    me: NodeId,
    instance_id: u64,
    /// The counter when this process opened its log.
    writes_at_open: u64,
    write_counter: WriteCounter,
    peers: Mutex<HashMap<NodeId, PeerRecord>>,
    fence: Fence,
}

/// The known state of a peer.
#[derive(Clone, Copy, Debug)]
struct PeerRecord {
    known_writes: KnownWrites,
    /// The process that was rejected last.
    rejected_instance: Option<u64>,
}

/// The highest counter received from a process of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct KnownWrites {
    instance_id: u64,
    writes: u64,
}

/// The state of a log that each end of a stream sends first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LogHandshake {
    /// A random number drawn when the process opened its log.
    instance_id: u64,
    /// The counter when the log was opened.
    writes_at_open: u64,
    /// The current counter.
    writes: u64,
}

/// The log of a node was rolled back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the log of {node} was rolled back to an earlier state: its peers know of {known} commits, and it \
     has {opened}. It has forgotten votes and messages that it acknowledged. Stop {node}, run \
     `pushonce cluster remove {node}`, and start a new node with an empty data directory"
)]
pub(super) struct RolledBack {
    pub(super) node: NodeId,
    known: u64,
    opened: u64,
}

impl RollbackDetector {
    pub(crate) fn new(
        me: NodeId,
        writes_at_open: u64,
        write_counter: WriteCounter,
        fence: Fence,
    ) -> RollbackDetector {
        let (instance_id, peers) = (rand::random(), Mutex::default());
        RollbackDetector(Arc::new(RollbackDetectorShared {
            me,
            instance_id,
            writes_at_open,
            write_counter,
            peers,
            fence,
        }))
    }

    pub(super) fn fence(&self) -> &Fence {
        &self.0.fence
    }

    /// The current number of commits of this node's log.
    pub(super) fn writes(&self) -> u64 {
        self.0.write_counter.get()
    }

    pub(super) fn handshake(&self) -> LogHandshake {
        LogHandshake {
            instance_id: self.0.instance_id,
            writes_at_open: self.0.writes_at_open,
            writes: self.writes(),
        }
    }

    /// The highest counter received from a peer.
    pub(super) fn known_writes(&self, peer: NodeId) -> Option<KnownWrites> {
        self.peers().get(&peer).map(|known| known.known_writes)
    }

    /// Compares the counter that a peer knows of this node with this node's log. Closes the fence when the
    /// log is older.
    pub(super) fn check_own_log(
        &self,
        known_writes: Option<KnownWrites>,
    ) -> Result<(), RolledBack> {
        let RollbackDetectorShared { me, instance_id, writes_at_open, fence, .. } = &*self.0;
        let result = check_rollback(*me, known_writes, *instance_id, *writes_at_open)
            .and_then(|()| self.check_own_instance(known_writes));
        if let Err(error) = result {
            if !fence.is_closed() {
                tracing::error!(node = %me, %error, "log restored to an earlier state, this node takes no part in any group");
            }
            fence.close(error.to_string());
        }
        result
    }

    /// Detects a machine that was restored together with its memory: the process has reported commits to
    /// peers that it has not made since.
    fn check_own_instance(&self, known_writes: Option<KnownWrites>) -> Result<(), RolledBack> {
        let (node, now) = (self.0.me, self.writes());
        match known_writes
            .filter(|known| known.instance_id == self.0.instance_id && known.writes > now)
        {
            Some(KnownWrites { writes: known, .. }) => Err(RolledBack { node, known, opened: now }),
            None => Ok(()),
        }
    }

    /// Compares a peer's handshake with its known counter and records it.
    pub(super) fn check_peer(
        &self,
        peer: NodeId,
        handshake: LogHandshake,
    ) -> Result<(), RolledBack> {
        let mut peers = self.peers();
        let known = peers.get_mut(&peer);
        if let Err(error) = check_rollback(
            peer,
            known.as_ref().map(|it| it.known_writes),
            handshake.instance_id,
            handshake.writes_at_open,
        ) {
            let is_repeated = known.is_some_and(|it| {
                it.rejected_instance.replace(handshake.instance_id) == Some(handshake.instance_id)
            });
            if !is_repeated {
                tracing::warn!(%peer, %error, "rejected a peer whose log was restored to an earlier state");
                metrics::ROLLED_BACK_PEERS.register_counter(&[]).increment(1);
            }
            return Err(error);
        }
        if known.is_none() && peers.len() >= PEERS_MAX {
            return Ok(());
        }
        let known = peers.get(&peer);
        let before = known.map_or(0, |it| it.known_writes.writes);
        let known_writes = KnownWrites {
            instance_id: handshake.instance_id,
            writes: handshake.writes.max(handshake.writes_at_open).max(before),
        };
        peers.insert(peer, PeerRecord { known_writes, rejected_instance: None });
        Ok(())
    }

    /// Records the counter in a frame of a stream that began with `handshake`.
    pub(super) fn record_writes(&self, peer: NodeId, handshake: LogHandshake, writes: u64) {
        let mut peers = self.peers();
        let known = peers.get_mut(&peer).map(|known| &mut known.known_writes);
        if let Some(known_writes) =
            known.filter(|known_writes| known_writes.instance_id == handshake.instance_id)
        {
            known_writes.writes = known_writes.writes.max(writes);
        }
    }

    fn peers(&self) -> MutexGuard<'_, HashMap<NodeId, PeerRecord>> {
        self.0.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Checks whether a log opened by one process lacks commits that an earlier process made.
fn check_rollback(
    node: NodeId,
    known_writes: Option<KnownWrites>,
    instance_id: u64,
    writes_at_open: u64,
) -> Result<(), RolledBack> {
    if FailPoint::RollbackUndetected.is_active() {
        return Ok(());
    }
    match known_writes {
        Some(KnownWrites { instance_id: before, writes: known })
            if before != instance_id && known > writes_at_open =>
        {
            Err(RolledBack { node, known, opened: writes_at_open })
        }
        _ => Ok(()),
    }
}

/// The form in the metadata.
impl fmt::Display for LogHandshake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.instance_id, self.writes_at_open, self.writes)
    }
}

impl FromStr for LogHandshake {
    type Err = ();

    fn from_str(text: &str) -> Result<LogHandshake, ()> {
        match parse_numbers(text).as_deref() {
            Some(&[instance_id, writes_at_open, writes]) => {
                Ok(LogHandshake { instance_id, writes_at_open, writes })
            }
            _ => Err(()),
        }
    }
}

/// The form in the metadata.
impl fmt::Display for KnownWrites {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.instance_id, self.writes)
    }
}

impl FromStr for KnownWrites {
    type Err = ();

    fn from_str(text: &str) -> Result<KnownWrites, ()> {
        match parse_numbers(text).as_deref() {
            Some(&[instance_id, writes]) => Ok(KnownWrites { instance_id, writes }),
            _ => Err(()),
        }
    }
}

fn parse_numbers(text: &str) -> Option<Vec<u64>> {
    text.split(':').take(4).map(|number| number.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: NodeId = NodeId(2);

    fn detector(writes_at_open: u64) -> RollbackDetector {
        RollbackDetector::new(NodeId(1), writes_at_open, WriteCounter::default(), Fence::default())
    }

    fn handshake(instance_id: u64, writes_at_open: u64, writes: u64) -> LogHandshake {
        LogHandshake { instance_id, writes_at_open, writes }
    }

    #[test]
    fn restarted_peer_with_its_log_is_accepted() {
        let detector = detector(0);
        let first = handshake(1, 10, 10);
        assert_eq!(detector.check_peer(PEER, first), Ok(()));
        detector.record_writes(PEER, first, 50);
        assert_eq!(detector.check_peer(PEER, first), Ok(()), "a second stream of the same process");
        assert_eq!(detector.check_peer(PEER, handshake(2, 50, 50)), Ok(()));
        assert_eq!(detector.check_peer(PEER, handshake(3, 60, 60)), Ok(()));
    }

    #[test]
    fn restarted_peer_with_fewer_writes_is_rejected() {
        let detector = detector(0);
        let first = handshake(1, 10, 10);
        detector.check_peer(PEER, first).expect("the peer is new");
        detector.record_writes(PEER, first, 50);
        let back =
            detector.check_peer(PEER, handshake(2, 49, 49)).expect_err("one commit is missing");
        assert_eq!(back, RolledBack { node: PEER, known: 50, opened: 49 });
        // The node continues on its own and exceeds its earlier counter.
        assert!(detector.check_peer(PEER, handshake(2, 49, 900)).is_err());
        assert!(detector.check_peer(PEER, handshake(3, 49, 900)).is_err());
    }

    #[test]
    fn frame_of_earlier_instance_does_not_update_newer_one() {
        let detector = detector(0);
        let first = handshake(1, 10, 10);
        detector.check_peer(PEER, first).expect("the peer is new");
        detector.check_peer(PEER, handshake(2, 20, 20)).expect("the peer has its log");
        detector.record_writes(PEER, first, 15);
        assert_eq!(detector.known_writes(PEER), Some(KnownWrites { instance_id: 2, writes: 20 }));
    }

    #[test]
    fn node_closes_fence_when_peer_knows_more_writes() {
        let own = detector(40);
        let instance_id = own.handshake().instance_id;
        assert_eq!(own.check_own_log(None), Ok(()));
        own.0.write_counter.set(60);
        assert_eq!(
            own.check_own_log(Some(KnownWrites { instance_id, writes: 60 })),
            Ok(()),
            "its own commits are known"
        );
        let before = instance_id.wrapping_add(1);
        assert_eq!(
            own.check_own_log(Some(KnownWrites { instance_id: before, writes: 40 })),
            Ok(())
        );
        assert!(!own.fence().is_closed());
        assert!(own.check_own_log(Some(KnownWrites { instance_id: before, writes: 41 })).is_err());
        assert!(own.fence().reason().is_some_and(|reason| reason.contains("cluster remove n1")));
    }

    #[test]
    fn process_restored_with_its_memory_closes_fence() {
        let own = detector(40);
        own.0.write_counter.set(60);
        let instance_id = own.handshake().instance_id;
        assert!(own.check_own_log(Some(KnownWrites { instance_id, writes: 61 })).is_err());
        assert!(own.fence().is_closed());
    }

    #[test]
    fn handshake_and_known_writes_round_trip() {
        let handshake = handshake(u64::MAX, 7, 9);
        assert_eq!(handshake.to_string().parse(), Ok(handshake));
        let known_writes = KnownWrites { instance_id: 3, writes: 4 };
        assert_eq!(known_writes.to_string().parse(), Ok(known_writes));
        for bad in ["", "1:2", "1:2:3:4", "a:b:c", "1:2:-3"] {
            assert_eq!(bad.parse::<LogHandshake>(), Err(()), "{bad:?}");
        }
    }
}
