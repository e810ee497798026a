//! Detects nodes whose log was rolled back, and excludes them.
//!
//! Every commit of a node's log increments a counter, and every frame carries it. Peers remember the counter
//! of each node. When a node starts again with a lower value, its log was rolled back to an earlier state (a
//! restored directory, a disk snapshot, a disk that lost synced data): the node has forgotten votes that it
//! gave and entries that it acknowledged. Both ends of a new stream compare the counters; such a node is
//! rejected by its peers and closes its own fence.
//!
//! Which node a comparison may exclude: the one that reported the counter. A node rejects a peer for what that peer
//! itself reported earlier. It closes its own fence, for good and for all groups, only for a counter that it signed
//! itself ([`LogKey`]) and that a peer returns: otherwise one lying member could exclude an honest node. A majority
//! of peers that agree would be no substitute, because after restarts often a single peer remembers the counter, and
//! a restored node must not vote even then. The key is part of the store since its creation, so every older copy of
//! the store recognises the signature. A store of an earlier build has no key, and believes unsigned counters.
//!
//! A rollback is not detected while no peer is up that knows of the lost commits. The control group therefore
//! stores a counter as well, at each start of a node.

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use pushonce_core::{FailPoint, NodeId};
use pushonce_telemetry::LogLimiter;

use super::fence::Fence;
use super::log_proof::{LogKey, WritesProof};
use crate::metrics;
use crate::store::WriteCounter;

/// Maximum number of peers whose counter is remembered, 80 bytes each. Any client that knows the cluster id
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
    /// `None` for a store of an earlier build.
    log_key: Option<LogKey>,
    peers: Mutex<HashMap<NodeId, PeerRecord>>,
    fence: Fence,
}

/// The known state of a peer.
#[derive(Clone, Copy, Debug)]
struct PeerRecord {
    claim: WritesClaim,
    /// The process that was rejected last.
    rejected_instance: Option<u64>,
}

/// The highest counter received from a process of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct KnownWrites {
    instance_id: u64,
    writes: u64,
}

/// What a node reports of another one's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct WritesClaim {
    pub(super) known_writes: KnownWrites,
    /// The signature of the node whose log it is, over exactly these numbers.
    pub(super) proof: Option<WritesProof>,
}

/// The state of a log that each end of a stream sends first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LogHandshake {
    /// A random number drawn when the process opened its log.
    instance_id: u64,
    /// The counter when the log was opened.
    writes_at_open: u64,
    /// The current counter.
    pub(super) writes: u64,
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
        log_key: Option<LogKey>,
        fence: Fence,
    ) -> RollbackDetector {
        let (instance_id, peers) = (rand::random(), Mutex::default());
        RollbackDetector(Arc::new(RollbackDetectorShared {
            me,
            instance_id,
            writes_at_open,
            write_counter,
            log_key,
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

    /// The signature of a counter of this process, if its store has a key.
    pub(super) fn prove(&self, writes: u64) -> Option<WritesProof> {
        self.0.log_key.as_ref().map(|key| key.sign(self.0.instance_id, writes))
    }

    /// As [`RollbackDetector::prove`], in the form of a frame.
    pub(super) fn proof_bytes(&self, writes: u64) -> Bytes {
        self.prove(writes).map(WritesProof::into_bytes).unwrap_or_default()
    }

    /// The highest counter received from a peer.
    pub(super) fn claim_about(&self, peer: NodeId) -> Option<WritesClaim> {
        self.peers().get(&peer).map(|known| known.claim)
    }

    /// Compares the counter that a peer knows of this node with this node's log. Closes the fence when the
    /// log is older. Ignores a counter that this node did not sign.
    pub(super) fn check_own_log(&self, claim: Option<WritesClaim>) -> Result<(), RolledBack> {
        let known_writes = claim.filter(|claim| self.is_believed(claim));
        let known_writes = known_writes.map(|claim| claim.known_writes);
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

    fn is_believed(&self, claim: &WritesClaim) -> bool {
        static LIMITER: LogLimiter = LogLimiter::new();
        let Some(key) = &self.0.log_key else { return true };
        let KnownWrites { instance_id, writes } = claim.known_writes;
        if claim.proof.is_some_and(|proof| key.verify(instance_id, writes, proof)) {
            return true;
        }
        // Without a signature it is a peer of an earlier build, or one that lies: harmless unless it matters.
        let would_fence = writes > self.writes();
        if would_fence {
            metrics::FORGED_CLAIMS.register_counter(&[]).increment(1);
            if let Some(suppressed) = LIMITER.allow(Instant::now()) {
                tracing::warn!(
                    writes,
                    suppressed,
                    "ignored a number of commits that this node never signed"
                );
            }
        }
        false
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

    /// Compares a peer's handshake with its known counter and records it. `proof` is the peer's signature of the
    /// present counter in the handshake.
    pub(super) fn check_peer(
        &self,
        peer: NodeId,
        handshake: LogHandshake,
        proof: Option<WritesProof>,
    ) -> Result<(), RolledBack> {
        let mut peers = self.peers();
        let known = peers.get_mut(&peer);
        if let Err(error) = check_rollback(
            peer,
            known.as_ref().map(|it| it.claim.known_writes),
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
        let before = peers.get(&peer).map(|it| it.claim);
        let writes = handshake.writes.max(handshake.writes_at_open);
        let claim = match before.filter(|before| before.known_writes.writes > writes) {
            // Another stream of the same process was faster.
            Some(WritesClaim { known_writes, proof }) => WritesClaim {
                known_writes: KnownWrites { instance_id: handshake.instance_id, ..known_writes },
                proof,
            },
            None => WritesClaim {
                known_writes: KnownWrites { instance_id: handshake.instance_id, writes },
                proof,
            },
        };
        peers.insert(peer, PeerRecord { claim, rejected_instance: None });
        Ok(())
    }

    /// Records the counter in a frame of a stream that began with `handshake`, and the peer's signature of it.
    pub(super) fn record_writes(
        &self,
        peer: NodeId,
        handshake: LogHandshake,
        writes: u64,
        proof: Option<WritesProof>,
    ) {
        let mut peers = self.peers();
        let known = peers.get_mut(&peer).map(|known| &mut known.claim);
        if let Some(claim) = known.filter(|claim| {
            claim.known_writes.instance_id == handshake.instance_id
                && claim.known_writes.writes < writes
        }) {
            (claim.known_writes.writes, claim.proof) = (writes, proof);
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
        detector_with_key(writes_at_open, Some(LogKey::new(&[7; 32])))
    }

    fn detector_with_key(writes_at_open: u64, log_key: Option<LogKey>) -> RollbackDetector {
        let (counter, fence) = (WriteCounter::default(), Fence::default());
        RollbackDetector::new(NodeId(1), writes_at_open, counter, log_key, fence)
    }

    /// A counter that this node signed earlier.
    fn signed(own: &RollbackDetector, instance_id: u64, writes: u64) -> Option<WritesClaim> {
        let proof = own.0.log_key.as_ref().map(|key| key.sign(instance_id, writes));
        Some(WritesClaim { known_writes: KnownWrites { instance_id, writes }, proof })
    }

    fn handshake(instance_id: u64, writes_at_open: u64, writes: u64) -> LogHandshake {
        LogHandshake { instance_id, writes_at_open, writes }
    }

    #[test]
    fn restarted_peer_with_its_log_is_accepted() {
        let detector = detector(0);
        let first = handshake(1, 10, 10);
        assert_eq!(detector.check_peer(PEER, first, None), Ok(()));
        detector.record_writes(PEER, first, 50, None);
        assert_eq!(
            detector.check_peer(PEER, first, None),
            Ok(()),
            "a second stream of the same process"
        );
        assert_eq!(detector.check_peer(PEER, handshake(2, 50, 50), None), Ok(()));
        assert_eq!(detector.check_peer(PEER, handshake(3, 60, 60), None), Ok(()));
    }

    #[test]
    fn restarted_peer_with_fewer_writes_is_rejected() {
        let detector = detector(0);
        let first = handshake(1, 10, 10);
        detector.check_peer(PEER, first, None).expect("the peer is new");
        detector.record_writes(PEER, first, 50, None);
        let back = detector
            .check_peer(PEER, handshake(2, 49, 49), None)
            .expect_err("one commit is missing");
        assert_eq!(back, RolledBack { node: PEER, known: 50, opened: 49 });
        // The node continues on its own and exceeds its earlier counter.
        assert!(detector.check_peer(PEER, handshake(2, 49, 900), None).is_err());
        assert!(detector.check_peer(PEER, handshake(3, 49, 900), None).is_err());
    }

    #[test]
    fn frame_of_earlier_instance_does_not_update_newer_one() {
        let detector = detector(0);
        let first = handshake(1, 10, 10);
        detector.check_peer(PEER, first, None).expect("the peer is new");
        detector.check_peer(PEER, handshake(2, 20, 20), None).expect("the peer has its log");
        detector.record_writes(PEER, first, 15, None);
        let known_writes = KnownWrites { instance_id: 2, writes: 20 };
        assert_eq!(detector.claim_about(PEER), Some(WritesClaim { known_writes, proof: None }));
    }

    #[test]
    fn node_closes_fence_when_peer_knows_more_writes() {
        let own = detector(40);
        let instance_id = own.handshake().instance_id;
        assert_eq!(own.check_own_log(None), Ok(()));
        own.0.write_counter.set(60);
        assert_eq!(
            own.check_own_log(signed(&own, instance_id, 60)),
            Ok(()),
            "its own commits are known"
        );
        let before = instance_id.wrapping_add(1);
        assert_eq!(own.check_own_log(signed(&own, before, 40)), Ok(()));
        assert!(!own.fence().is_closed());
        assert!(own.check_own_log(signed(&own, before, 41)).is_err());
        assert!(own.fence().reason().is_some_and(|reason| reason.contains("cluster remove n1")));
    }

    #[test]
    fn process_restored_with_its_memory_closes_fence() {
        let own = detector(40);
        own.0.write_counter.set(60);
        let instance_id = own.handshake().instance_id;
        assert!(own.check_own_log(signed(&own, instance_id, 61)).is_err());
        assert!(own.fence().is_closed());
    }

    #[test]
    fn counter_that_the_node_never_signed_closes_no_fence() {
        let own = detector(40);
        let stranger = LogKey::new(&[8; 32]);
        let instance_id = own.handshake().instance_id;
        for (instance_id, writes) in [(1, u64::MAX), (1, 41), (instance_id, u64::MAX)] {
            let known_writes = KnownWrites { instance_id, writes };
            for proof in [None, Some(stranger.sign(instance_id, writes)), own.prove(40)] {
                assert_eq!(own.check_own_log(Some(WritesClaim { known_writes, proof })), Ok(()));
            }
        }
        assert!(!own.fence().is_closed());
    }

    #[test]
    fn store_without_a_key_believes_unsigned_counters() {
        let own = detector_with_key(40, None);
        assert_eq!(own.prove(40), None);
        assert!(own.check_own_log(signed(&own, 1, 41)).is_err());
        assert!(own.fence().is_closed());
    }

    #[test]
    fn peer_returns_the_signed_counter_with_which_a_restored_node_closes_its_fence() {
        let (peer, key) = (detector(0), LogKey::new(&[9; 32]));
        let before = RollbackDetector::new(
            PEER,
            10,
            WriteCounter::default(),
            Some(key.clone()),
            Fence::default(),
        );
        before.0.write_counter.set(10);
        let first = before.handshake();
        peer.check_peer(PEER, first, before.prove(first.writes)).expect("the peer is new");
        peer.record_writes(PEER, first, 50, before.prove(50));
        // A frame that was overtaken.
        peer.record_writes(PEER, first, 30, before.prove(30));
        let counter = WriteCounter::default();
        let restored = RollbackDetector::new(PEER, 49, counter, Some(key), Fence::default());
        let claim = peer.claim_about(PEER);
        let error = restored.check_own_log(claim).expect_err("one commit is missing");
        assert_eq!(error, RolledBack { node: PEER, known: 50, opened: 49 });
        assert!(restored.fence().is_closed());
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
