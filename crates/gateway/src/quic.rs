//! QUIC, ALPN `pushonce/1`: one port, and an endpoint on every lane.
//!
//! Each lane has a socket of its own on the port, and the kernel brings it the packets of its own
//! connections (see [`steering`]); where the system cannot do that, all sessions are on the first
//! lane. The protocol is `quinn-proto`, driven by the lane itself ([`Endpoint`]): no task and no
//! lock a connection, and the packets of a turn go out together.

mod connection;
mod endpoint;
mod session;
mod sink;
mod socket;
pub(crate) mod steering;
mod stream_writer;
mod subscription;
mod timers;

use std::convert::Infallible;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use quinn_proto::crypto::rustls::QuicServerConfig;
use quinn_proto::{AckFrequencyConfig, IdleTimeout, ServerConfig, TransportConfig, VarInt};
use tokio::sync::watch;

pub(crate) use endpoint::Endpoint;

use crate::certificate::{CertificateFile, Fingerprint};
use crate::{BindError, Certificate, Config, IDLE_INTERVALS, bind};

/// What both sides say in the handshake to mean this protocol.
const ALPN: &[u8] = b"pushonce/1";

/// What a client may send ahead of being read: a few requests, or most of its largest frame. It is
/// granted anew as it is read, and bounds what a client that sends out of order makes us hold.
const RECEIVE_WINDOW_BYTES: u32 = 64 << 10;

/// What a session may have sent without its acknowledgement, over all its streams. Quinn would take
/// 10 MiB; at a quarter of a mebibyte a thousand stopped readers hold no more than that many MiB.
const SEND_WINDOW_BYTES: u64 = 256 << 10;

/// The same for a session with a subscription of `latest` or `rate`: what is in the window cannot be
/// replaced by what is newer. Enough for a hundred small messages, or one large one, in each round trip.
const LATEST_SEND_WINDOW_BYTES: u64 = 32 << 10;

/// Datagrams of a session that wait for the network. Some dozens, so that they fill the packets of a
/// turn: more would grow old here, where at the hub a newer one takes the place of an older.
const DATAGRAM_SEND_BUFFER_BYTES: usize = 16 << 10;

/// Packets that a client may take before it must acknowledge, if nothing is missing and its delay
/// (25 ms) is not over: to read the acknowledgement of every second one costs a quarter of a
/// delivery. Clients that do not know the extension do as they always do.
const PACKETS_PER_ACK: u32 = 10;

/// How often the age of the certificate is looked at: often against the days that are left then.
const RENEWAL_CHECK_INTERVAL: Duration = Duration::from_secs(3600);

/// The port, before the lanes run.
pub(crate) struct QuicPort {
    address: SocketAddr,
    listeners: Vec<QuicListener>,
    rotator: CertificateRotator,
}

/// A lane's part of it.
pub(crate) struct QuicListener {
    udp: UdpSocket,
    lane_index: usize,
    /// How many lanes have one.
    lane_count: usize,
    config: watch::Receiver<Arc<ServerConfig>>,
    /// The sockets of all lanes.
    all_sockets: Arc<[UdpSocket]>,
}

/// What the endpoints show to clients, and what it takes to change it.
pub(crate) struct CertificateRotator {
    certificate_file: CertificateFile,
    fingerprint: watch::Sender<Fingerprint>,
    config: watch::Sender<Arc<ServerConfig>>,
    transport: Arc<TransportConfig>,
}

// === impl Port ===

impl QuicPort {
    pub(crate) fn bind(config: &Config, certificate: Certificate) -> Result<QuicPort, BindError> {
        let rotator = CertificateRotator::new(certificate, transport_config(config))?;
        let fail = |source| bind::quic_error(config.quic, source);
        let sockets: Arc<[UdpSocket]> = bind::quic(config.quic, config.lanes.max(1))?.into();
        let lane_listeners = sockets.iter().enumerate().map(|(lane_index, socket)| {
            Ok(QuicListener {
                udp: socket.try_clone().map_err(fail)?,
                lane_index,
                lane_count: sockets.len(),
                config: rotator.config.subscribe(),
                all_sockets: sockets.clone(),
            })
        });
        let listeners = lane_listeners.collect::<Result<Vec<_>, BindError>>()?;
        let address = match sockets.first().map(UdpSocket::local_addr) {
            Some(Ok(address)) => address,
            _ => config.quic,
        };
        Ok(QuicPort { address, listeners, rotator })
    }

    /// The certificate that clients meet, now and later.
    pub(crate) fn fingerprint(&self) -> watch::Receiver<Fingerprint> {
        self.rotator.fingerprint.subscribe()
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The doors of the lanes, from the first, and what keeps their certificate fresh.
    pub(crate) fn into_listeners(self) -> (Vec<QuicListener>, CertificateRotator) {
        (self.listeners, self.rotator)
    }
}

// === impl Identity ===

impl CertificateRotator {
    fn new(
        certificate: Certificate,
        transport: TransportConfig,
    ) -> Result<CertificateRotator, BindError> {
        let (certificate_file, transport) = (certificate.file(), Arc::new(transport));
        let (fingerprint, _) = watch::channel(certificate.fingerprint());
        let (config, _) = watch::channel(server_config(certificate, transport.clone())?);
        Ok(CertificateRotator { certificate_file, fingerprint, config, transport })
    }

    /// Shows a new certificate before the old one ends; for ever. Sessions that are open keep what
    /// they began with.
    pub(crate) async fn run(mut self) -> Infallible {
        loop {
            tokio::time::sleep(RENEWAL_CHECK_INTERVAL).await;
            let next = match self.certificate_file.renew(SystemTime::now()) {
                Ok(Some(next)) => next,
                Ok(None) => continue,
                Err(error) => {
                    tracing::warn!(%error, "cannot renew the QUIC certificate, keeping the current one until it expires");
                    continue;
                }
            };
            let fingerprint = next.fingerprint();
            match server_config(next, self.transport.clone()) {
                Ok(config) => {
                    self.config.send_replace(config);
                    self.fingerprint.send_replace(fingerprint);
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot use the new QUIC certificate, keeping the current one")
                }
            }
        }
    }
}

fn server_config(
    certificate: Certificate,
    transport: Arc<TransportConfig>,
) -> Result<Arc<ServerConfig>, BindError> {
    let mut config = ServerConfig::with_crypto(Arc::new(crypto_config(certificate)?));
    config.transport_config(transport);
    Ok(Arc::new(config))
}

fn crypto_config(certificate: Certificate) -> Result<QuicServerConfig, BindError> {
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

fn transport_config(config: &Config) -> TransportConfig {
    let mut transport = TransportConfig::default();
    let mut acks = AckFrequencyConfig::default();
    acks.ack_eliciting_threshold(VarInt::from_u32(PACKETS_PER_ACK));
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
        .enable_segmentation_offload(false)
        // Zero says that we take none; were it not set, we could not send any.
        .datagram_receive_buffer_size(Some(0))
        .datagram_send_buffer_size(DATAGRAM_SEND_BUFFER_BYTES)
        .ack_frequency_config(Some(acks))
        .keep_alive_interval(Some(config.heartbeat))
        .max_idle_timeout(idle);
    transport
}
