//! Keeps the links to peers up.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Instant;

use futures::stream;
use pushonce_core::NodeId;
use pushonce_peer::{ChannelKind, DialError, Dialer, PeerTransport};
use pushonce_proto::pb::peer::v1::ExchangeResponse;
use pushonce_proto::pb::peer::v1::raft_service_client::RaftServiceClient;
use pushonce_telemetry::LogLimiter;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::{Request, Status, Streaming};
use tracing::Instrument as _;

use super::link::RaftLink;
use super::log_handshake::CheckedResponse;
use super::log_proof::WritesProof;
use super::rollback::{LogHandshake, RollbackDetector};
use super::snapshot_channel::SnapshotChannel;
use super::wire::FRAME_BYTES_MAX;
use crate::ConsensusSettings;

/// The links of a node, created on first use. Clones share them.
#[derive(Clone)]
pub(crate) struct RaftLinks(Arc<RaftLinksShared>);

/// The context in which the links of a node are created.
pub(crate) struct RaftLinksContext {
    pub(crate) transport: PeerTransport,
    pub(crate) settings: Arc<ConsensusSettings>,
    pub(crate) rollback_detector: RollbackDetector,
    pub(crate) tasks: TaskTracker,
    pub(crate) shutdown: CancellationToken,
}

struct RaftLinksShared {
    context: RaftLinksContext,
    links: Mutex<HashMap<NodeId, Arc<RaftLink>>>,
    /// Each exists while a group uses it.
    snapshot_channels: Mutex<HashMap<NodeId, Weak<SnapshotChannel>>>,
}

impl RaftLinks {
    pub(crate) fn new(context: RaftLinksContext) -> RaftLinks {
        let (links, snapshot_channels) = (Mutex::default(), Mutex::default());
        RaftLinks(Arc::new(RaftLinksShared { context, links, snapshot_channels }))
    }

    /// The channel for snapshots to a peer. It connects when a snapshot is sent.
    pub(crate) fn snapshot_channel(&self, peer: NodeId) -> Arc<SnapshotChannel> {
        let RaftLinksContext { transport, rollback_detector, .. } = &self.0.context;
        let channels = self.0.snapshot_channels.lock();
        let mut channels = channels.unwrap_or_else(PoisonError::into_inner);
        channels.retain(|_, channel| channel.strong_count() > 0);
        if let Some(channel) = channels.get(&peer).and_then(Weak::upgrade) {
            return channel;
        }
        let channel =
            Arc::new(SnapshotChannel::new(peer, transport.clone(), rollback_detector.clone()));
        channels.insert(peer, Arc::downgrade(&channel));
        channel
    }

    /// The link to a peer. It is dialled from the first call on.
    pub(crate) fn for_peer(&self, peer: NodeId) -> Arc<RaftLink> {
        let mut links = self.0.links.lock().unwrap_or_else(PoisonError::into_inner);
        let link = links.entry(peer).or_insert_with(|| {
            let ConsensusSettings { link_bytes_max, entry_bytes_in_flight_max, .. } =
                *self.0.context.settings;
            let agreed_version = self.0.context.transport.agreed_version().clone();
            let link = Arc::new(RaftLink::new(
                peer,
                agreed_version,
                link_bytes_max,
                entry_bytes_in_flight_max,
            ));
            let shared = Arc::clone(&self.0);
            let task_link = Arc::clone(&link);
            let span = tracing::info_span!("consensus_link", %peer);
            let maintaining = async move {
                shared.context.shutdown.run_until_cancelled(shared.maintain(&task_link)).await;
                task_link.on_disconnected();
            };
            self.0.context.tasks.spawn(maintaining.instrument(span));
            link
        });
        Arc::clone(link)
    }
}

impl RaftLinksShared {
    async fn maintain(&self, link: &Arc<RaftLink>) {
        let RaftLinksContext { transport, rollback_detector, .. } = &self.context;
        let mut dialer = transport.dialer(link.peer(), ChannelKind::Consensus);
        let mut last_rejection = String::new();
        let (down_limiter, rejection_limiter) = (LogLimiter::new(), LogLimiter::new());
        loop {
            match self.open_stream(link, &mut dialer).await {
                Ok(CheckedResponse { version, handshake, body: responses }) => {
                    tracing::debug!(address = dialer.address(), %version, "consensus link up");
                    dialer.on_answered();
                    last_rejection.clear();
                    link.on_connected(version);
                    let reason = tokio::select! {
                        reason = self.read_responses(link, handshake, responses) => reason,
                        () = transport.addresses().wait_removed(link.peer()) => "the peer was removed from the cluster".to_owned(),
                        () = rollback_detector.fence().closed() => "this node is fenced".to_owned(),
                    };
                    if let Some(suppressed) = down_limiter.allow(Instant::now()) {
                        tracing::info!(reason, suppressed, "consensus link down");
                    }
                }
                // Once for each reason. The peer writes the reason, so its changes are limited, too.
                Err(error) if error.is_rejection() => {
                    let error = error.to_string();
                    if last_rejection != error
                        && let Some(suppressed) = rejection_limiter.allow(Instant::now())
                    {
                        tracing::warn!(
                            address = dialer.address(),
                            error,
                            suppressed,
                            "peer rejected the consensus link, retrying"
                        );
                        last_rejection = error;
                    }
                }
                Err(error) => {
                    tracing::debug!(address = dialer.address(), %error, "cannot reach peer");
                }
            }
            link.on_disconnected();
            if self.remove_if_unused(link) {
                return;
            }
            dialer.wait_before_retry().await;
        }
    }

    /// Ends a link that is down and that no group uses any more. Returns whether it did.
    fn remove_if_unused(&self, link: &Arc<RaftLink>) -> bool {
        let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        // The table and this task hold one reference each; under the lock no group can add one.
        let unused = Arc::strong_count(link) <= 2;
        if unused {
            links.remove(&link.peer());
        }
        unused
    }

    /// Makes one attempt to open the stream.
    async fn open_stream(
        &self,
        link: &Arc<RaftLink>,
        dialer: &mut Dialer,
    ) -> Result<CheckedResponse<Streaming<ExchangeResponse>>, DialError> {
        let RaftLinksContext { transport, settings, rollback_detector, .. } = &self.context;
        if let Some(reason) = rollback_detector.fence().reason() {
            return Err(DialError::Failed(Status::aborted(reason)));
        }
        let channel = dialer.connect().await?;
        let stream_id = link.open_stream();
        let begin = (Arc::clone(link), rollback_detector.clone());
        let frames = stream::unfold(begin, move |(link, rollback_detector)| async move {
            let mut frame = link.next_frame(stream_id).await?;
            frame.writes = rollback_detector.writes();
            frame.writes_proof = rollback_detector.proof_bytes(frame.writes);
            Some((frame, (link, rollback_detector)))
        });
        let mut request = Request::new(frames);
        rollback_detector.insert_handshake(link.peer(), request.metadata_mut());
        let mut client = RaftServiceClient::new(channel).max_decoding_message_size(FRAME_BYTES_MAX);
        let call = client.exchange(request);
        let response = transport.check_response(link.peer(), settings.rpc_timeout, call).await;
        rollback_detector.check_response(link.peer(), response)
    }

    /// Handles responses until the stream ends; returns the reason.
    async fn read_responses(
        &self,
        link: &RaftLink,
        handshake: LogHandshake,
        mut responses: Streaming<ExchangeResponse>,
    ) -> String {
        loop {
            match responses.message().await {
                Ok(Some(frame)) => {
                    // Recorded before the responses have any effect.
                    self.context.rollback_detector.record_writes(
                        link.peer(),
                        handshake,
                        frame.writes,
                        WritesProof::from_bytes(&frame.writes_proof),
                    );
                    link.on_responses(frame.responses);
                }
                Ok(None) => return "closed by the peer".to_owned(),
                Err(status) => return status.to_string(),
            }
        }
    }
}
