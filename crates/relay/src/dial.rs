//! The client's end of links: this node opens one to each node with a higher id, and again when it
//! ends.

use std::sync::Arc;
use std::time::Duration;

use pushonce_core::{NodeId, VersionConflict, VersionOffer};
use pushonce_proto::pb::peer::v1::relay_client::RelayClient;
use pushonce_proto::status::{describe, error_chain};
use rand::Rng as _;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::transport::{Endpoint, Server};

use crate::Config;
use crate::conflicts::Conflicts;
use crate::link::{self, Link, Misdialled, frames_of, greeted};
use crate::outbox::Outbox;

/// Windows of 4 and 8 MiB fill 100 ms of round trip at 300 Mbit/s; what a slow peer may make this
/// node hold is bounded by its outbox, not by these.
const STREAM_WINDOW: u32 = 4 << 20;
const CONNECTION_WINDOW: u32 = 8 << 20;

/// A peer that lost its power says nothing: it is noticed after interval and timeout together, before
/// the silence of heartbeats is.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(2);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(2);

/// A frame has 256 KiB, or one message of at most 1 MiB, and what is packed with it once more.
pub(crate) const DECODE_BYTES_MAX: usize = 8 << 20;

/// The first pause is short, so that a node that was only restarted is back at once; the longest is
/// what a node that comes back is waited for.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// A server with the settings that links want: to mount [`Relay::service`](crate::Relay::service)
/// on, beside the others of the peer port.
pub fn server() -> Server {
    Server::builder()
        .tcp_nodelay(true)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .http2_keepalive_interval(Some(KEEP_ALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEP_ALIVE_TIMEOUT))
}

/// Keeps a link to `to` up, for ever.
pub(crate) async fn keep(
    config: Arc<Config>,
    to: NodeId,
    address: String,
    links: mpsc::Sender<Link>,
    conflicts: Conflicts,
) {
    let mut pause = PAUSE_MIN;
    loop {
        match timeout(config.connect_timeout * 2, dial(&config, to, &address)).await {
            Ok(Ok(link)) => {
                conflicts.clear(to);
                let life = link.life.clone();
                if links.send(link).await.is_err() {
                    return;
                }
                life.cancelled().await;
                pause = PAUSE_MIN;
            }
            Ok(Err(NoLink::Version(conflict))) => conflicts.note(to, conflict),
            Ok(Err(NoLink::Other(why))) => {
                tracing::debug!(%to, address, why = %describe(&why), "no link yet");
            }
            Err(_) => tracing::debug!(%to, address, "no link yet: no greeting in time"),
        }
        sleep(jittered(pause)).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// Why there is no link.
enum NoLink {
    /// The versions do not fit.
    Version(VersionConflict),
    /// Anything else.
    Other(Status),
}

impl From<Status> for NoLink {
    fn from(status: Status) -> NoLink {
        NoLink::Other(status)
    }
}

impl From<Misdialled> for NoLink {
    fn from(why: Misdialled) -> NoLink {
        match why {
            Misdialled::Version { conflict, .. } => NoLink::Version(conflict),
            other => NoLink::Other(other.into()),
        }
    }
}

/// A peer that refuses this node for its version says which versions it has itself.
fn refused(status: Status, ours: VersionOffer) -> NoLink {
    let said = status.metadata().get(link::VERSIONS).and_then(|value| value.to_str().ok());
    match said.and_then(|said| said.parse().ok()).map(|theirs| ours.check(Some(theirs))) {
        Some(Err(conflict)) => NoLink::Version(conflict),
        _ => NoLink::Other(status),
    }
}

/// One attempt.
async fn dial(config: &Config, to: NodeId, address: &str) -> Result<Link, NoLink> {
    let invalid = |why| Status::invalid_argument(format!("{address} is no address: {why}"));
    let channel = Endpoint::from_shared(format!("http://{address}"))
        .map_err(invalid)?
        .connect_timeout(config.connect_timeout)
        .tcp_nodelay(true)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .connect()
        .await
        .map_err(|why| Status::unavailable(error_chain(&why)))?;
    let outbox = Outbox::new(config.link_bytes_max, config.agreed.clone());
    let &Config { cluster, me, ref agreed, .. } = config;
    // The first frame of an empty queue always fits.
    let _fits = outbox.push(link::hello(config, to));
    let mut client = RelayClient::new(channel).max_decoding_message_size(DECODE_BYTES_MAX);
    let answer = client.link(outbox.clone().stream()).await;
    let mut inbound = answer.map_err(|status| refused(status, agreed.offer()))?.into_inner();
    let first = inbound.message().await?.ok_or(Misdialled::NoHello)?;
    let unsupported = link::supported(&first).err();
    let mut early = frames_of(to, first).into_iter();
    let hello = early.next().ok_or(Misdialled::NoHello)?;
    let (node, version) = greeted(cluster, me, agreed.offer(), &hello)?;
    if node != to {
        return Err(Misdialled::OtherAnswers { node, meant: to }.into());
    }
    if let Some(why) = unsupported {
        return Err(Status::failed_precondition(why.to_string()).into());
    }
    outbox.greeted(version);
    let life = CancellationToken::new();
    Ok(Link { node, outbox, inbound, early: early.collect(), life })
}

/// Between half of it and all: a node that many have lost is not dialled by all of them at once.
fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(rand::rng().random_range(0.5..=1.0))
}
