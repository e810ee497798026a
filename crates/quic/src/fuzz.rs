//! An entry point for fuzzers: arbitrary datagrams into an endpoint, without a socket. Random bytes
//! are rejected before the first handshake; [`FuzzEndpoint`] also answers a real client, whose datagrams
//! a test can drop, repeat, reorder and change.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use quinn_proto::StreamId;
use rustls::pki_types::CertificateDer;

use crate::certificate;
use crate::connection::{Connection, StreamRead};
use crate::engine::Engine;
use crate::handler::{Acceptor, ConnectionEvent, ConnectionHandler};
use crate::rotation;
use crate::socket::ReceivedPacket;
use crate::transport::TransportSettings;

#[cfg(test)]
#[path = "../tests/client/mod.rs"]
mod client;
#[cfg(test)]
mod targets;

/// The largest payload of a UDP packet over IPv4.
const DATAGRAM_BYTES_MAX: usize = 65_507;

/// How long a connection may be silent.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// An endpoint in memory that echoes the first stream of each connection. Time is an argument.
pub struct FuzzEndpoint {
    engine: Engine<EchoAcceptor>,
    certificate: CertificateDer<'static>,
}

struct EchoAcceptor;

/// Echoes one stream.
struct EchoHandler {
    connection: Rc<Connection>,
    stream: Option<StreamId>,
    is_handshaking: bool,
}

/// Receives the datagrams in `data` on a new endpoint. Each is preceded by its length, two bytes, big
/// endian; the last may be shorter. Then all timeouts pass.
pub fn receive(mut data: &[u8]) {
    let Some(mut endpoint) = FuzzEndpoint::new() else { return };
    let (client, mut now) = (SocketAddr::from((Ipv4Addr::LOCALHOST, 4433)), Instant::now());
    while let [high, low, rest @ ..] = data {
        let len = usize::from(u16::from_be_bytes([*high, *low])).min(rest.len());
        let (datagram, rest) = rest.split_at(len);
        endpoint.receive(client, datagram, now);
        now += Duration::from_millis(1);
        data = rest;
    }
    endpoint.advance(now + 2 * IDLE_TIMEOUT);
}

impl FuzzEndpoint {
    /// An endpoint with a new certificate, for ALPN `fuzz`. `None` if the cryptography library fails.
    pub fn new() -> Option<FuzzEndpoint> {
        let (certificate, _) = certificate::generate(Path::new(""), SystemTime::now()).ok()?;
        let leaf = certificate.chain.first()?.clone();
        let settings = TransportSettings {
            bidi_streams_max: 1,
            uni_streams_max: 0,
            stream_receive_window_bytes: 4 << 10,
            receive_window_bytes: 4 << 10,
            send_window_bytes: 4 << 10,
            datagram_send_buffer_bytes: 4 << 10,
            keep_alive: IDLE_TIMEOUT / 3,
            idle_timeout: IDLE_TIMEOUT,
        };
        let config =
            rotation::development_config(certificate, &[b"fuzz"], Arc::new(settings.to_config()));
        let engine = Engine::new(EchoAcceptor, config.ok()?, (0, 1), true);
        Some(FuzzEndpoint { engine, certificate: leaf })
    }

    /// The certificate for clients to trust.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// Receives one datagram. Returns the datagrams that are sent in response.
    pub fn receive(&mut self, source: SocketAddr, datagram: &[u8], now: Instant) -> Vec<Vec<u8>> {
        let data = datagram[..datagram.len().min(DATAGRAM_BYTES_MAX)].into();
        let packet = ReceivedPacket { source, local_ip: None, ecn: None, data };
        self.engine.on_packet(packet, now);
        self.send(now)
    }

    /// Handles all deadlines up to `now`. Returns the datagrams that are sent.
    pub fn advance(&mut self, now: Instant) -> Vec<Vec<u8>> {
        self.engine.fire_timers(now);
        self.send(now)
    }

    /// When [`FuzzEndpoint::advance`] is to be called.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.engine.next_deadline()
    }

    /// Number of connections, closing ones included.
    pub fn connection_count(&self) -> usize {
        self.engine.connection_count()
    }

    fn send(&mut self, now: Instant) -> Vec<Vec<u8>> {
        let mut sent = Vec::new();
        let mut has_more = true;
        while has_more {
            has_more = self.engine.drive_next(now);
            let batch = &mut self.engine.batch;
            let before = sent.len();
            sent.extend(batch.unsent().map(|(_, data)| data.to_vec()));
            batch.on_sent(sent.len() - before);
        }
        sent
    }
}

impl Acceptor for EchoAcceptor {
    type Permit = ();
    type Handler = EchoHandler;

    fn is_accepting(&self) -> bool {
        true
    }

    fn admit(&self, _: std::net::SocketAddr) -> Option<()> {
        Some(())
    }

    fn open(&self, connection: Rc<Connection>, (): ()) -> EchoHandler {
        EchoHandler { connection, stream: None, is_handshaking: true }
    }

    fn on_refused(&self) {}
}

impl ConnectionHandler for EchoHandler {
    fn deadline(&self) -> Option<Instant> {
        None
    }

    fn is_handshaking(&self) -> bool {
        self.is_handshaking
    }

    fn on_event(&mut self, event: ConnectionEvent) {
        match event {
            ConnectionEvent::Connected | ConnectionEvent::Closed => self.is_handshaking = false,
            ConnectionEvent::StreamOpened => self.stream = self.connection.accept_stream(),
            ConnectionEvent::UniStreamOpened => {}
            ConnectionEvent::StreamAcknowledged(_) => self.connection.close(0, "done"),
            ConnectionEvent::StreamStopped(stream) => self.connection.reset_stream(stream),
        }
    }

    fn on_packet_lost(&mut self) {}

    fn drive(&mut self) {
        let Some(stream) = self.stream else { return };
        loop {
            match self.connection.read(stream, 1 << 10) {
                StreamRead::Bytes(mut bytes) => {
                    // Bytes beyond the send window are dropped: the payloads of the tests fit.
                    let _ = self.connection.write(stream, &mut bytes);
                }
                StreamRead::End => {
                    self.connection.finish_stream(stream);
                    self.stream = None;
                    return;
                }
                StreamRead::Blocked => return,
            }
        }
    }

    fn on_deadline(&mut self) {}
}
