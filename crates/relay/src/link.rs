//! A link and the reader of its frames.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use pushonce_core::{ClusterVersion, Message, NodeId, UnsupportedVersion, VersionRange};
use pushonce_proto::pb::peer::v1 as pb;
use pushonce_proto::peer::{FetchedPart, PeerFrame};
use pushonce_proto::status::describe;
use pushonce_telemetry::LogLimiter;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::Streaming;

use crate::frame_check;
use crate::metrics;
use crate::send_queue::SendQueue;

/// A link whose sides have accepted each other's greeting.
pub(crate) struct PeerLink {
    /// The peer.
    pub(crate) node: NodeId,
    /// Frames to the peer.
    pub(crate) send_queue: Arc<SendQueue>,
    /// Frames from the peer.
    pub(crate) inbound: Streaming<pb::LinkFrames>,
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
fn check_version(frames: &pb::LinkFrames) -> Result<(), UnsupportedVersion> {
    let version = ClusterVersion(u16::try_from(frames.version).unwrap_or(u16::MAX));
    VersionRange::supported().ensure_contains(version).map(drop)
}

/// Decodes the frames of a batch and skips those that cannot be decoded. A frame of a newer version is not
/// meant for this node; in this version, the hole that a skipped frame leaves is detected and repaired.
fn decode_frames(node: NodeId, frames: pb::LinkFrames) -> Vec<PeerFrame> {
    let decoded = frames.frames.into_iter().filter_map(|frame| match PeerFrame::try_from(frame) {
        Ok(frame) if !frame_check::is_plausible(&frame) => {
            metrics::REJECTED_FRAMES.register_counter(&["position"]).increment(1);
            log_invalid(node, "a number in it is beyond every possible one");
            None
        }
        Ok(frame) => Some(copy_small_payloads(frame)),
        Err(error) => {
            log_invalid(node, error);
            metrics::INVALID_FRAMES.register_counter(&[]).increment(1);
            None
        }
    });
    decoded.collect()
}

fn log_invalid(node: NodeId, error: impl std::fmt::Display) {
    static LIMITER: LogLimiter = LogLimiter::new();
    if let Some(suppressed) = LIMITER.allow(Instant::now()) {
        tracing::warn!(peer = %node, %error, suppressed, "skipped an invalid frame");
    }
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
