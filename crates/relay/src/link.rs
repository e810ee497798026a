//! The handshake of a link and the reader of its frames.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use pushonce_core::{
    ClusterId, ClusterVersion, Message, NodeId, UnsupportedVersion, VersionConflict, VersionOffer,
    VersionRange,
};
use pushonce_proto::pb::peer::v1 as pb;
use pushonce_proto::peer::{FetchedPart, PeerFrame};
use pushonce_proto::status::describe;
use pushonce_telemetry::LogLimiter;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};

use crate::Config;
use crate::metrics;
use crate::send_queue::SendQueue;

/// A link whose sides have exchanged hellos.
pub(crate) struct PeerLink {
    /// The peer.
    pub(crate) node: NodeId,
    /// Frames to the peer.
    pub(crate) send_queue: Arc<SendQueue>,
    /// Frames from the peer.
    pub(crate) inbound: Streaming<pb::LinkFrames>,
    /// Frames that arrived in one batch with the peer's hello.
    pub(crate) early_frames: Vec<PeerFrame>,
    /// Cancelled when either side ends the link.
    pub(crate) closed: CancellationToken,
}

/// An event of a link. The link id tells the links of one peer apart: a peer may reconnect before its
/// previous link ends.
pub(crate) struct LinkEvent {
    pub(crate) node: NodeId,
    pub(crate) link_id: u64,
    pub(crate) kind: LinkEventKind,
}

/// The kind of a [`LinkEvent`].
pub(crate) enum LinkEventKind {
    Frames(Vec<PeerFrame>),
    /// The link ended, with the reason.
    Down(String),
}

/// The peer is not the one expected. Each message names what to change.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HandshakeError {
    #[error("a link begins with a hello; the peer is not a Pushonce node or runs another version")]
    MissingHello,
    #[error("this is cluster {own_cluster}, not {peer_cluster}; correct the dialled address")]
    WrongCluster { own_cluster: ClusterId, peer_cluster: ClusterId },
    #[error("this is {me}, not {expected}; correct the address of {expected}")]
    WrongNode { me: NodeId, expected: NodeId },
    #[error("{node} answers at the address of {expected}; correct the address of {expected}")]
    UnexpectedPeer { node: NodeId, expected: NodeId },
    #[error("a link is opened by the lower node id: {me} dials {node}")]
    WrongDirection { me: NodeId, node: NodeId },
    #[error("{conflict}")]
    Version { node: NodeId, conflict: VersionConflict },
    #[error("{node} was removed from the cluster; ids are not reused, join as a new node")]
    RemovedNode { node: NodeId },
}

impl From<HandshakeError> for Status {
    fn from(error: HandshakeError) -> Status {
        Status::failed_precondition(error.to_string())
    }
}

/// Metadata key of a rejection: the versions of the node that rejects.
pub(crate) const VERSIONS_METADATA_KEY: &str = "pushonce-versions";

/// The hello that this node sends first on a link.
pub(crate) fn hello_frame(config: &Config, to: NodeId) -> PeerFrame {
    let &Config { cluster, me, ref agreed_version, .. } = config;
    PeerFrame::Hello {
        cluster,
        node: me,
        expected_peer: Some(to),
        versions: Some(agreed_version.offer()),
    }
}

/// Checks the peer's hello. Returns the peer's id and the version in which to write to it.
pub(crate) fn check_hello(
    cluster: ClusterId,
    me: NodeId,
    ours: VersionOffer,
    hello: &PeerFrame,
) -> Result<(NodeId, ClusterVersion), HandshakeError> {
    let &PeerFrame::Hello { cluster: peer_cluster, node, expected_peer, versions } = hello else {
        return Err(HandshakeError::MissingHello);
    };
    if peer_cluster != cluster {
        return Err(HandshakeError::WrongCluster { own_cluster: cluster, peer_cluster });
    }
    match expected_peer {
        Some(expected) if expected != me => Err(HandshakeError::WrongNode { me, expected }),
        _ => match ours.negotiate(versions) {
            Ok(version) => Ok((node, version)),
            Err(conflict) => Err(HandshakeError::Version { node, conflict }),
        },
    }
}

/// Forwards the frames of a link as events, and finally that the link went down. When the relay is behind,
/// the reader waits and applies backpressure to the peer. A link silent for `silence_timeout` is closed.
pub(crate) async fn run_reader(
    link_id: u64,
    link: PeerLink,
    link_events: mpsc::Sender<LinkEvent>,
    silence_timeout: Duration,
) {
    let PeerLink { node, mut inbound, closed, .. } = link;
    let reason = loop {
        let next = tokio::select! {
            () = closed.cancelled() => break "closed by this node".to_owned(),
            next = tokio::time::timeout(silence_timeout, inbound.message()) => next,
        };
        match next {
            Err(_) => break format!("no frame for {silence_timeout:?}"),
            Ok(Err(status)) => break describe(&status),
            Ok(Ok(None)) => break "closed by the peer".to_owned(),
            Ok(Ok(Some(frames))) => {
                if let Err(error) = check_version(&frames) {
                    break error.to_string();
                }
                let kind = LinkEventKind::Frames(decode_frames(node, frames));
                if link_events.send(LinkEvent { node, link_id, kind }).await.is_err() {
                    break "the relay has ended".to_owned();
                }
            }
        }
    };
    closed.cancel();
    // Sending fails only when the relay has ended.
    let _ended =
        link_events.send(LinkEvent { node, link_id, kind: LinkEventKind::Down(reason) }).await;
}

/// Checks that this build reads the version in which the frames are written. The version was agreed when
/// the link was opened and may have been raised since.
pub(crate) fn check_version(frames: &pb::LinkFrames) -> Result<(), UnsupportedVersion> {
    let version = ClusterVersion(u16::try_from(frames.version).unwrap_or(u16::MAX));
    VersionRange::SUPPORTED.ensure_contains(version).map(drop)
}

/// Decodes the frames of a batch and skips those that cannot be decoded. A frame of a newer version is not
/// meant for this node; in this version, the hole that a skipped frame leaves is detected and repaired.
pub(crate) fn decode_frames(node: NodeId, frames: pb::LinkFrames) -> Vec<PeerFrame> {
    let decoded = frames.frames.into_iter().filter_map(|frame| match PeerFrame::try_from(frame) {
        Ok(frame) => Some(copy_small_payloads(frame)),
        Err(error) => {
            static LIMITER: LogLimiter = LogLimiter::new();
            if let Some(suppressed) = LIMITER.allow(Instant::now()) {
                tracing::warn!(peer = %node, %error, suppressed, "skipped an invalid frame");
            }
            metrics::INVALID_FRAMES.register_counter(&[]).increment(1);
            None
        }
    });
    decoded.collect()
}

/// Copies small payloads out of the receive buffer. Payloads are slices of it, and a small one that is kept
/// for long would keep the whole buffer allocated.
fn copy_small_payloads(mut frame: PeerFrame) -> PeerFrame {
    match &mut frame {
        PeerFrame::Deliver { messages, .. }
        | PeerFrame::Fetched {
            part: FetchedPart::More(messages) | FetchedPart::Done { messages, .. },
            ..
        } => messages.iter_mut().filter_map(Arc::get_mut).for_each(copy_small_payload),
        _ => {}
    }
    frame
}

fn copy_small_payload(message: &mut Message) {
    if message.payload.len() < COPY_BELOW_BYTES {
        message.payload = Bytes::copy_from_slice(&message.payload);
    }
}

/// From this size on a payload is a fair part of its buffer, and its copy is no longer cheap.
const COPY_BELOW_BYTES: usize = 16 << 10;

#[cfg(test)]
mod tests {
    use pushonce_core::Timestamp;
    use pushonce_proto::peer::HeartbeatTiming;

    use super::*;

    const OURS: ClusterId = ClusterId(7);
    const ME: NodeId = NodeId(2);
    const OFFER: VersionOffer =
        VersionOffer { supported: VersionRange::SUPPORTED, agreed: VersionRange::SUPPORTED.min };

    fn check_hello(
        cluster: ClusterId,
        me: NodeId,
        hello: &PeerFrame,
    ) -> Result<NodeId, HandshakeError> {
        super::check_hello(cluster, me, OFFER, hello).map(|(node, _)| node)
    }

    #[test]
    fn hello_with_incompatible_versions_is_rejected_with_the_reason() {
        let check = |versions| {
            let hello = PeerFrame::Hello {
                cluster: OURS,
                node: NodeId(1),
                expected_peer: Some(ME),
                versions,
            };
            check_hello(OURS, ME, &hello).map_err(|error| error.to_string())
        };
        assert_eq!(check(Some(OFFER)), Ok(NodeId(1)));
        let error = check(None).unwrap_err();
        assert!(error.contains("older than cluster versions"), "{error}");
        let only = VersionRange::single(VersionRange::SUPPORTED.max.next());
        let error = check(Some(VersionOffer { supported: only, agreed: only.max })).unwrap_err();
        assert!(error.contains("on this node"), "{error}");
    }

    fn hello(cluster: u128, to: Option<u64>) -> PeerFrame {
        let versions = Some(OFFER);
        PeerFrame::Hello {
            cluster: ClusterId(cluster),
            node: NodeId(1),
            expected_peer: to.map(NodeId),
            versions,
        }
    }

    #[test]
    fn hello_for_another_cluster_or_node_is_rejected_with_what_to_change() {
        assert_eq!(check_hello(OURS, ME, &hello(7, Some(2))), Ok(NodeId(1)));
        assert_eq!(check_hello(OURS, ME, &hello(7, None)), Ok(NodeId(1)));
        let peer_cluster = ClusterId(8);
        let other = HandshakeError::WrongCluster { own_cluster: OURS, peer_cluster };
        assert_eq!(check_hello(OURS, ME, &hello(8, Some(2))), Err(other));
        let other = HandshakeError::WrongNode { me: ME, expected: NodeId(3) };
        assert_eq!(other.to_string(), "this is n2, not n3; correct the address of n3");
        assert_eq!(check_hello(OURS, ME, &hello(7, Some(3))), Err(other));
        let heartbeat = PeerFrame::Heartbeat {
            heads: vec![],
            stale_shards: vec![],
            clock: Timestamp(7),
            log_times: vec![],
            timing: HeartbeatTiming::default(),
        };
        assert_eq!(check_hello(OURS, ME, &heartbeat), Err(HandshakeError::MissingHello));
    }
}
