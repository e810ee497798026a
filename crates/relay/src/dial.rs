//! The client side of links: this node opens a link to each node with a higher id and reopens it when it
//! ends.

use std::sync::Arc;
use std::time::Duration;

use pushonce_core::{NodeId, VersionConflict, VersionOffer};
use pushonce_proto::pb::peer::v1::relay_service_client::RelayServiceClient;
use pushonce_proto::status::{describe, error_chain};
use rand::Rng as _;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::transport::{Endpoint, Server};

use crate::Config;
use crate::link::{self, HandshakeError, PeerLink, check_hello, decode_frames};
use crate::send_queue::SendQueue;
use crate::version_conflicts::VersionConflicts;

/// Windows of 4 and 8 MiB sustain 300 Mbit/s at a round trip of 100 ms. The memory that a slow peer can
/// occupy on this node is bounded by its send queue, not by these windows.
const STREAM_WINDOW_BYTES: u32 = 4 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 8 << 20;

/// A peer that lost power sends nothing. It is detected after the interval and the timeout, before the
/// heartbeat timeout expires.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(2);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(2);

/// A batch has at most 256 KiB of payload, or one message of at most 1 MiB, plus framing.
pub(crate) const DECODE_BYTES_MAX: usize = 8 << 20;

/// The first delay is short, so that a restarted node is reconnected at once. The longest delay is the
/// time that a returning node may have to wait.
const BACKOFF_MIN: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(1);

/// A server with the transport settings that links need, for [`Relay::service`](crate::Relay::service)
/// and the other services of the peer port.
pub fn server() -> Server {
    Server::builder()
        .tcp_nodelay(true)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .http2_keepalive_interval(Some(KEEP_ALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEP_ALIVE_TIMEOUT))
}

/// Keeps a link to `to` up: dials again, with backoff, whenever it ends. Runs until the relay ends.
pub(crate) async fn maintain_link(
    config: Arc<Config>,
    to: NodeId,
    address: String,
    link_sender: mpsc::Sender<PeerLink>,
    conflicts: VersionConflicts,
) {
    let mut backoff = BACKOFF_MIN;
    loop {
        match timeout(config.connect_timeout * 2, dial(&config, to, &address)).await {
            Ok(Ok(link)) => {
                conflicts.clear(to);
                let closed = link.closed.clone();
                if link_sender.send(link).await.is_err() {
                    return;
                }
                closed.cancelled().await;
                backoff = BACKOFF_MIN;
            }
            Ok(Err(DialError::Version(conflict))) => conflicts.record(to, conflict),
            Ok(Err(DialError::Other(error))) => {
                tracing::debug!(address, error = %describe(&error), "cannot reach peer, retrying");
            }
            Err(_) => tracing::debug!(address, "peer sent no hello in time, retrying"),
        }
        sleep(with_jitter(backoff)).await;
        backoff = (backoff * 2).min(BACKOFF_MAX);
    }
}

/// The reason why an attempt did not produce a link.
enum DialError {
    /// The versions of the nodes are incompatible.
    Version(VersionConflict),
    /// Any other failure.
    Other(Status),
}

impl From<Status> for DialError {
    fn from(status: Status) -> DialError {
        DialError::Other(status)
    }
}

impl From<HandshakeError> for DialError {
    fn from(error: HandshakeError) -> DialError {
        match error {
            HandshakeError::Version { conflict, .. } => DialError::Version(conflict),
            other => DialError::Other(other.into()),
        }
    }
}

/// Extracts the version conflict from a peer's rejection, which carries the versions that the peer supports.
fn classify_rejection(status: Status, ours: VersionOffer) -> DialError {
    let offer =
        status.metadata().get(link::VERSIONS_METADATA_KEY).and_then(|value| value.to_str().ok());
    match offer.and_then(|offer| offer.parse().ok()).map(|theirs| ours.negotiate(Some(theirs))) {
        Some(Err(conflict)) => DialError::Version(conflict),
        _ => DialError::Other(status),
    }
}

/// Makes one attempt to open a link.
async fn dial(config: &Config, to: NodeId, address: &str) -> Result<PeerLink, DialError> {
    let invalid =
        |error| Status::invalid_argument(format!("{address} is not a valid peer address: {error}"));
    let channel = Endpoint::from_shared(format!("http://{address}"))
        .map_err(invalid)?
        .connect_timeout(config.connect_timeout)
        .tcp_nodelay(true)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .connect()
        .await
        .map_err(|error| Status::unavailable(error_chain(&error)))?;
    let send_queue = SendQueue::new(config.link_bytes_max, config.agreed_version.clone());
    let &Config { cluster, me, ref agreed_version, .. } = config;
    // The first frame of an empty queue always fits.
    let _fits = send_queue.push(link::hello_frame(config, to));
    let mut client = RelayServiceClient::new(channel).max_decoding_message_size(DECODE_BYTES_MAX);
    let response = client.link(send_queue.clone().into_stream()).await;
    let mut inbound =
        response.map_err(|status| classify_rejection(status, agreed_version.offer()))?.into_inner();
    let first = inbound.message().await?.ok_or(HandshakeError::MissingHello)?;
    let unsupported = link::check_version(&first).err();
    let mut early_frames = decode_frames(to, first).into_iter();
    let hello = early_frames.next().ok_or(HandshakeError::MissingHello)?;
    let (node, version) = check_hello(cluster, me, agreed_version.offer(), &hello)?;
    if node != to {
        return Err(HandshakeError::UnexpectedPeer { node, expected: to }.into());
    }
    if let Some(error) = unsupported {
        return Err(Status::failed_precondition(error.to_string()).into());
    }
    send_queue.set_peer_version(version);
    let closed = CancellationToken::new();
    Ok(PeerLink { node, send_queue, inbound, early_frames: early_frames.collect(), closed })
}

/// A random delay between half of `backoff` and all of it, so that nodes do not redial a lost peer together.
fn with_jitter(backoff: Duration) -> Duration {
    backoff.mul_f64(rand::rng().random_range(0.5..=1.0))
}
