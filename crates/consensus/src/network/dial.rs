//! Keeps the links to peers up: dials with backoff.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::stream;
use pushonce_core::{AgreedVersion, ClusterId, ClusterVersion, NodeId};
use pushonce_proto::pb::peer::v1::ExchangeResponse;
use pushonce_proto::pb::peer::v1::raft_service_client::RaftServiceClient;
use pushonce_proto::status::error_chain;
use pushonce_telemetry::LogLimiter;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::metadata::MetadataMap;
use tonic::transport::Endpoint;
use tonic::{Code, Request, Status, Streaming};
use tracing::Instrument as _;

use super::handshake::{insert_offer, negotiate_version};
use super::link::RaftLink;
use super::rollback::{LogHandshake, RollbackDetector};
use super::wire::{
    CLUSTER_HEADER, FRAME_BYTES_MAX, FROM_HEADER, KNOWN_WRITES_HEADER, LOG_HEADER, TO_HEADER,
    parse_metadata,
};
use crate::{ConsensusSettings, PeerAddresses};

/// The shortest and the longest delay between two attempts.
const BACKOFF_MIN: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(1);

/// HTTP/2 flow control window of a link: more than the bandwidth-delay product of a long fast link.
const WINDOW_BYTES: u32 = 8 << 20;

/// The links of a node, created on first use. Clones share them.
#[derive(Clone)]
pub(crate) struct RaftLinks(Arc<RaftLinksShared>);

/// The context in which the links of a node are created.
pub(crate) struct RaftLinksContext {
    pub(crate) cluster: ClusterId,
    pub(crate) me: NodeId,
    pub(crate) agreed_version: AgreedVersion,
    pub(crate) settings: Arc<ConsensusSettings>,
    pub(crate) peer_addresses: PeerAddresses,
    pub(crate) rollback_detector: RollbackDetector,
    pub(crate) tasks: TaskTracker,
    pub(crate) shutdown: CancellationToken,
}

struct RaftLinksShared {
    context: RaftLinksContext,
    links: Mutex<HashMap<NodeId, Arc<RaftLink>>>,
}

impl RaftLinks {
    pub(crate) fn new(context: RaftLinksContext) -> RaftLinks {
        RaftLinks(Arc::new(RaftLinksShared { context, links: Mutex::default() }))
    }

    /// The link to a peer. It is dialled from the first call on.
    pub(crate) fn for_peer(&self, peer: NodeId) -> Arc<RaftLink> {
        let mut links = self.0.links.lock().unwrap_or_else(PoisonError::into_inner);
        let link = links.entry(peer).or_insert_with(|| {
            let ConsensusSettings { link_bytes_max, entry_bytes_in_flight_max, .. } =
                *self.0.context.settings;
            let agreed_version = self.0.context.agreed_version.clone();
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
        let mut address_watch = self.context.peer_addresses.subscribe();
        let mut backoff = BACKOFF_MIN;
        let mut last_rejection = String::new();
        let (down_limiter, rejection_limiter) = (LogLimiter::new(), LogLimiter::new());
        for attempt in 0_usize.. {
            let addresses = address_watch.borrow_and_update().candidates(link.peer());
            let address = addresses.get(attempt.checked_rem(addresses.len()).unwrap_or(0));
            if let Some(address) = address {
                match self.dial(link, address).await {
                    Ok((handshake, responses, version)) => {
                        tracing::debug!(address, %version, "consensus link up");
                        backoff = BACKOFF_MIN;
                        last_rejection.clear();
                        link.on_connected(version);
                        let reason = tokio::select! {
                            reason = self.read_responses(link, handshake, responses) => reason,
                            () = self.context.peer_addresses.wait_removed(link.peer()) => "the peer was removed from the cluster".to_owned(),
                            () = self.context.rollback_detector.fence().closed() => "this node is fenced".to_owned(),
                        };
                        if let Some(suppressed) = down_limiter.allow(Instant::now()) {
                            tracing::info!(reason, suppressed, "consensus link down");
                        }
                    }
                    // Once for each reason. The peer writes the reason, so its changes are limited, too.
                    Err(error) if error.code() == Code::FailedPrecondition => {
                        if last_rejection != error.message()
                            && let Some(suppressed) = rejection_limiter.allow(Instant::now())
                        {
                            last_rejection = error.message().to_owned();
                            tracing::warn!(
                                address,
                                error = last_rejection,
                                suppressed,
                                "peer rejected the consensus link, retrying"
                            );
                        }
                    }
                    Err(error) => {
                        tracing::debug!(address, %error, "cannot reach peer");
                    }
                }
                link.on_disconnected();
            }
            if self.remove_if_unused(link) {
                return;
            }
            // A new address is tried at once.
            tokio::select! {
                () = tokio::time::sleep(backoff) => {}
                _ = address_watch.changed() => {}
            }
            backoff = (backoff * 2).min(BACKOFF_MAX);
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

    /// Opens the stream and returns the version in which the peer writes.
    async fn dial(
        &self,
        link: &Arc<RaftLink>,
        address: &str,
    ) -> Result<(LogHandshake, Streaming<ExchangeResponse>, ClusterVersion), Status> {
        if let Some(reason) = self.context.rollback_detector.fence().reason() {
            return Err(Status::aborted(reason));
        }
        let settings = &self.context.settings;
        let channel = Endpoint::from_shared(format!("http://{address}"))
            .map_err(|error| Status::invalid_argument(error.to_string()))?
            .connect_timeout(settings.connect_timeout)
            .tcp_nodelay(true)
            .initial_stream_window_size(WINDOW_BYTES)
            .initial_connection_window_size(WINDOW_BYTES)
            // A stopped process keeps its sockets open: only a timeout detects it.
            .http2_keep_alive_interval(settings.election_max)
            .keep_alive_timeout(settings.election_max)
            .connect()
            .await
            .map_err(|error| Status::unavailable(error_chain(&error)))?;
        let stream_id = link.open_stream();
        let begin = (Arc::clone(link), self.context.rollback_detector.clone());
        let frames = stream::unfold(begin, move |(link, rollback_detector)| async move {
            let mut frame = link.next_frame(stream_id).await?;
            frame.writes = rollback_detector.writes();
            Some((frame, (link, rollback_detector)))
        });
        let mut request = Request::new(frames);
        let metadata = request.metadata_mut();
        let text = |text: String| {
            text.parse()
                .map_err(|_| Status::internal(format!("{text:?} is not a valid header value")))
        };
        metadata.insert(CLUSTER_HEADER, text(self.context.cluster.to_string())?);
        metadata.insert(TO_HEADER, text(link.peer().to_string())?);
        metadata.insert(FROM_HEADER, text(self.context.me.to_string())?);
        metadata.insert(LOG_HEADER, text(self.context.rollback_detector.handshake().to_string())?);
        if let Some(known_writes) = self.context.rollback_detector.known_writes(link.peer()) {
            metadata.insert(KNOWN_WRITES_HEADER, text(known_writes.to_string())?);
        }
        let ours = self.context.agreed_version.offer();
        insert_offer(metadata, ours);
        let mut client = RaftServiceClient::new(channel).max_decoding_message_size(FRAME_BYTES_MAX);
        let response = timeout(settings.rpc_timeout, client.exchange(request)).await;
        let timed_out =
            |_| Status::deadline_exceeded(format!("no answer within {:?}", settings.rpc_timeout));
        let response = match response.map_err(timed_out)? {
            Ok(response) => response,
            Err(status) => {
                self.check_own_log(status.metadata()).map_err(Status::aborted)?;
                return Err(status);
            }
        };
        let version = negotiate_version(ours, response.metadata())
            .map_err(|error| Status::failed_precondition(error.to_string()))?;
        let handshake =
            self.check_handshake(link.peer(), response.metadata()).map_err(Status::aborted)?;
        Ok((handshake, response.into_inner(), version))
    }

    /// Checks the peer's handshake of both logs, before anything that it sends is used.
    fn check_handshake(
        &self,
        peer: NodeId,
        metadata: &MetadataMap,
    ) -> Result<LogHandshake, String> {
        self.check_own_log(metadata)?;
        let handshake: Option<LogHandshake> = parse_metadata(metadata, LOG_HEADER);
        let handshake = handshake.ok_or_else(|| format!("{peer} sent no log handshake"))?;
        self.context
            .rollback_detector
            .check_peer(peer, handshake)
            .map_err(|error| error.to_string())?;
        Ok(handshake)
    }

    fn check_own_log(&self, metadata: &MetadataMap) -> Result<(), String> {
        self.context
            .rollback_detector
            .check_own_log(parse_metadata(metadata, KNOWN_WRITES_HEADER))
            .map_err(|error| error.to_string())
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
                    );
                    link.on_responses(frame.responses);
                }
                Ok(None) => return "closed by the peer".to_owned(),
                Err(status) => return status.to_string(),
            }
        }
    }
}
