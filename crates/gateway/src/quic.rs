//! QUIC, ALPN `pushonce/1`: one endpoint, sessions on every lane.
//!
//! The endpoint lives on the first lane, which reads the UDP socket and does the first step of each
//! handshake; the connection is then handed to a lane in turn, and all else of it happens there.

mod outlet;
mod session;

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use pushonce_proto::close;
use quinn::crypto::rustls::QuicServerConfig;
use quinn::{EndpointConfig, IdleTimeout, TokioRuntime, TransportConfig, VarInt};
use tokio::sync::{mpsc, watch};

pub(crate) use session::run;

use crate::certificate::{Fingerprint, Kept};
use crate::metrics::{Door, Meters};
use crate::{BindError, Certificate, Config, IDLE_INTERVALS, bind, lane};

/// What both sides say in the handshake to mean this protocol.
const ALPN: &[u8] = b"pushonce/1";

/// What a client may send ahead of being read: a few requests, or most of its largest frame. It is
/// granted anew as it is read, and bounds what a client that sends out of order makes us hold.
const RECEIVE_WINDOW_BYTES: u32 = 64 << 10;

/// What a session may have sent without its acknowledgement, over all its streams. Quinn would take
/// 10 MiB; at a quarter of a mebibyte a thousand stopped readers hold no more than that many MiB.
const SEND_WINDOW_BYTES: u64 = 256 << 10;

/// How often the age of the certificate is looked at: often against the days that are left then.
const RENEW_EVERY: Duration = Duration::from_secs(3600);

/// The UDP socket of the gateway, before the lanes run.
pub(crate) struct Socket {
    udp: UdpSocket,
    address: SocketAddr,
    config: quinn::ServerConfig,
    identity: Identity,
    lanes: Vec<mpsc::Sender<quinn::Incoming>>,
}

/// What the endpoint shows to clients, and what it takes to change it.
struct Identity {
    kept: Kept,
    shown: watch::Sender<Fingerprint>,
    transport: Arc<TransportConfig>,
}

/// The endpoint, on the lane that runs it.
pub(crate) struct Endpoint {
    endpoint: quinn::Endpoint,
    identity: Identity,
    lanes: Vec<mpsc::Sender<quinn::Incoming>>,
}

impl Socket {
    pub(crate) fn bind(config: &Config, certificate: Certificate) -> Result<Socket, BindError> {
        let udp = bind::quic(config.quic)?;
        let address = udp.local_addr().unwrap_or(config.quic);
        let (shown, _) = watch::channel(certificate.fingerprint());
        let transport = Arc::new(transport(config));
        let identity = Identity { kept: certificate.kept(), shown, transport };
        let config = identity.config(certificate)?;
        Ok(Socket { udp, address, config, identity, lanes: Vec::new() })
    }

    /// The certificate that clients meet, now and later.
    pub(crate) fn fingerprint(&self) -> watch::Receiver<Fingerprint> {
        self.identity.shown.subscribe()
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Connections go to these lanes, in turn.
    pub(crate) fn hand_to(self, lanes: Vec<mpsc::Sender<quinn::Incoming>>) -> Socket {
        Socket { lanes, ..self }
    }
}

impl Endpoint {
    /// Opens the endpoint on the runtime of the lane that calls.
    pub(crate) fn open(socket: Socket) -> io::Result<Endpoint> {
        let Socket { udp, config, identity, lanes, .. } = socket;
        let (own, runtime) = (EndpointConfig::default(), Arc::new(TokioRuntime));
        let endpoint = quinn::Endpoint::new(own, Some(config), udp, runtime)?;
        Ok(Endpoint { endpoint, identity, lanes })
    }

    /// Ends when the sessions of every lane have: until then their packets go out through here.
    /// Waits no longer than `grace` for them.
    pub(crate) async fn close(self, grace: Duration) {
        let Endpoint { endpoint, lanes, .. } = self;
        let all = async {
            for lane in &lanes {
                lane.closed().await;
            }
        };
        // Whoever is left after that is cut off, as its lane has said.
        let _ = tokio::time::timeout(grace, all).await;
        endpoint.close(VarInt::from(close::GOING_AWAY.code), b"the server is going away");
    }
}

/// Hands connections to the lanes; for ever, also where there is no endpoint.
pub(crate) async fn hand_out(endpoint: Option<&Endpoint>, meters: &Meters) {
    let Some(Endpoint { endpoint, lanes, .. }) = endpoint else {
        return std::future::pending().await;
    };
    for lane in lanes.iter().cycle() {
        let Some(incoming) = endpoint.accept().await else { break };
        // A lane behind with its handshakes: only those who own their address may wait.
        let busy = lane.capacity() < lane::INCOMING_MAX / 2;
        if busy && incoming.may_retry() && !incoming.remote_address_validated() {
            // It fails only when it was asked for before, which `may_retry` rules out.
            let _ = incoming.retry();
            continue;
        }
        if let Err(refused) = lane.try_send(incoming) {
            meters.of(Door::Quic).refused.increment(1);
            refused.into_inner().refuse();
        }
    }
    std::future::pending().await
}

/// Shows a new certificate before the old one ends; for ever, also where there is no endpoint.
/// Sessions that are open keep what they began with.
pub(crate) async fn renew(endpoint: Option<&Endpoint>) {
    let Some(Endpoint { endpoint, identity, .. }) = endpoint else {
        return std::future::pending().await;
    };
    let mut kept = identity.kept.clone();
    loop {
        tokio::time::sleep(RENEW_EVERY).await;
        let next = match kept.renew(SystemTime::now()) {
            Ok(Some(next)) => next,
            Ok(None) => continue,
            Err(error) => {
                tracing::warn!(%error, "QUIC keeps its certificate, which expires soon");
                continue;
            }
        };
        let fingerprint = next.fingerprint();
        match identity.config(next) {
            Ok(config) => {
                endpoint.set_server_config(Some(config));
                identity.shown.send_replace(fingerprint);
            }
            Err(error) => tracing::warn!(%error, "QUIC keeps its certificate"),
        }
    }
}

impl Identity {
    fn config(&self, certificate: Certificate) -> Result<quinn::ServerConfig, BindError> {
        let mut config = quinn::ServerConfig::with_crypto(Arc::new(crypto(certificate)?));
        config.transport_config(self.transport.clone());
        Ok(config)
    }
}

fn crypto(certificate: Certificate) -> Result<QuicServerConfig, BindError> {
    let bad = |error: rustls::Error| BindError::Certificate(error.to_string());
    // Named, so that no other crate of the process has a say in it.
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(bad)?
        .with_no_client_auth()
        .with_single_cert(certificate.chain, certificate.key)
        .map_err(bad)?;
    tls.alpn_protocols = vec![ALPN.to_vec()];
    QuicServerConfig::try_from(tls).map_err(|error| BindError::Certificate(error.to_string()))
}

fn transport(config: &Config) -> TransportConfig {
    let mut transport = TransportConfig::default();
    let idle = IdleTimeout::try_from(config.heartbeat * u32::from(IDLE_INTERVALS)).ok();
    transport
        // The control stream is all that a client opens.
        .max_concurrent_bidi_streams(VarInt::from_u32(1))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .stream_receive_window(VarInt::from_u32(RECEIVE_WINDOW_BYTES))
        .receive_window(VarInt::from_u32(RECEIVE_WINDOW_BYTES))
        .send_window(SEND_WINDOW_BYTES)
        // Messages are small and rare: a larger packet gains nothing, and the search for it costs
        // memory in each connection.
        .mtu_discovery_config(None)
        .datagram_receive_buffer_size(None)
        .keep_alive_interval(Some(config.heartbeat))
        .max_idle_timeout(idle);
    transport
}
