//! The client side of links: this node opens a link to each node with a higher id and reopens it when it
//! ends.

use std::sync::Arc;
use std::time::Duration;

use pushonce_core::NodeId;
use pushonce_peer::{ChannelKind, DialError, Dialer, PeerTransport};
use pushonce_proto::pb::peer::v1::relay_service_client::RelayServiceClient;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::Config;
use crate::link::PeerLink;
use crate::send_queue::SendQueue;
use crate::version_conflicts::VersionConflicts;

/// Maximum size of a batch. A node puts frames of 256 KiB into one, and then one more, which may have a message of
/// 1 MiB; framing adds up to 1.3 MiB if all of them are tiny. A larger batch is rejected before it is received.
pub(crate) const DECODE_BYTES_MAX: usize = 4 << 20;

/// Timeout of the answer to a new link, which the peer gives without any other work.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// Keeps a link to `to` up: dials again whenever it ends. Runs until the relay ends.
pub(crate) async fn maintain_link(
    config: Arc<Config>,
    transport: PeerTransport,
    to: NodeId,
    link_sender: mpsc::Sender<PeerLink>,
    conflicts: VersionConflicts,
) {
    let mut dialer = transport.dialer(to, ChannelKind::Data);
    loop {
        match dial(&config, &transport, to, &mut dialer).await {
            Ok(link) => {
                conflicts.clear(to);
                dialer.on_answered();
                let closed = link.closed.clone();
                if link_sender.send(link).await.is_err() {
                    return;
                }
                closed.cancelled().await;
            }
            Err(error) => match error.version_conflict() {
                Some(conflict) => conflicts.record(to, conflict),
                None => {
                    let address = dialer.address();
                    tracing::debug!(address, %error, "cannot reach peer, retrying");
                }
            },
        }
        dialer.wait_before_retry().await;
    }
}

/// Makes one attempt to open a link.
async fn dial(
    config: &Config,
    transport: &PeerTransport,
    to: NodeId,
    dialer: &mut Dialer,
) -> Result<PeerLink, DialError> {
    let channel = dialer.connect().await?;
    let send_queue = SendQueue::new(config.link_bytes_max, transport.agreed_version().clone());
    let mut client = RelayServiceClient::new(channel).max_decoding_message_size(DECODE_BYTES_MAX);
    let call = client.link(send_queue.clone().into_stream());
    let (version, response) = transport.check_response(to, ANSWER_TIMEOUT, call).await?;
    send_queue.set_peer_version(version);
    let (inbound, closed) = (response.into_inner(), CancellationToken::new());
    Ok(PeerLink { node: to, send_queue, inbound, closed })
}
