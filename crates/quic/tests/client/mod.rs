//! A QUIC client in memory, which sends one payload and reads its echo.

#![allow(dead_code, reason = "each test file uses a part of it")]

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use quinn_proto::crypto::rustls::QuicClientConfig;
use quinn_proto::{
    ClientConfig, ConnectionHandle, DatagramEvent, Dir, Endpoint, EndpointConfig, Event, StreamId,
};
use rustls::RootCertStore;
use rustls::crypto::ring;
use rustls::pki_types::CertificateDer;

pub(crate) struct Client {
    endpoint: Endpoint,
    handle: ConnectionHandle,
    connection: quinn_proto::Connection,
    payload: Vec<u8>,
    stream: Option<StreamId>,
    pub(crate) received: Vec<u8>,
}

impl Client {
    /// Connects to a server with `certificate`.
    pub(crate) fn connect(
        now: Instant,
        payload: &[u8],
        certificate: &CertificateDer<'static>,
    ) -> Client {
        let mut roots = RootCertStore::empty();
        roots.add(certificate.clone()).expect("a certificate");
        let mut tls =
            rustls::ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
                .with_protocol_versions(&[&rustls::version::TLS13])
                .expect("ring has TLS 1.3")
                .with_root_certificates(roots)
                .with_no_client_auth();
        tls.alpn_protocols = vec![b"fuzz".to_vec()];
        let config =
            ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).expect("ring has QUIC")));
        let mut endpoint = Endpoint::new(Arc::new(EndpointConfig::default()), None, true, None);
        let server = SocketAddr::from((Ipv4Addr::LOCALHOST, 443));
        let (handle, connection) =
            endpoint.connect(now, config, server, "localhost").expect("a valid address");
        let (payload, received) = (payload.to_vec(), Vec::new());
        Client { endpoint, handle, connection, payload, stream: None, received }
    }

    pub(crate) fn is_done(&self) -> bool {
        self.received.len() >= self.payload.len() || self.connection.is_closed()
    }

    pub(crate) fn deadline(&mut self) -> Option<Instant> {
        self.connection.poll_timeout()
    }

    pub(crate) fn on_deadline(&mut self, now: Instant) {
        if self.deadline().is_some_and(|deadline| deadline <= now) {
            self.connection.handle_timeout(now);
        }
    }

    pub(crate) fn receive(&mut self, datagram: &[u8], now: Instant) {
        let server = SocketAddr::from((Ipv4Addr::LOCALHOST, 443));
        let mut buffer = Vec::new();
        let event = self.endpoint.handle(now, server, None, None, datagram.into(), &mut buffer);
        if let Some(DatagramEvent::ConnectionEvent(_, event)) = event {
            self.connection.handle_event(event);
        }
    }

    /// Handles events, writes and reads. Returns the datagrams to send.
    pub(crate) fn send(&mut self, now: Instant) -> Vec<Vec<u8>> {
        while let Some(event) = self.connection.poll() {
            if let Event::Connected = event {
                self.write_payload();
            }
        }
        self.read_echo();
        let mut sent = Vec::new();
        let mut buffer = Vec::new();
        while self.connection.poll_transmit(now, 1, &mut buffer).is_some() {
            sent.push(std::mem::take(&mut buffer));
        }
        while let Some(event) = self.connection.poll_endpoint_events() {
            if let Some(event) = self.endpoint.handle_event(self.handle, event) {
                self.connection.handle_event(event);
            }
        }
        sent
    }

    fn write_payload(&mut self) {
        let stream = self.connection.streams().open(Dir::Bi).expect("the server allows one");
        let mut writer = self.connection.send_stream(stream);
        assert_eq!(writer.write(&self.payload), Ok(self.payload.len()));
        writer.finish().expect("an open stream");
        self.stream = Some(stream);
    }

    fn read_echo(&mut self) {
        let Some(stream) = self.stream else { return };
        let mut reader = self.connection.recv_stream(stream);
        let Ok(mut chunks) = reader.read(true) else { return };
        while let Ok(Some(chunk)) = chunks.next(usize::MAX) {
            self.received.extend_from_slice(&chunk.bytes);
        }
        let _ = chunks.finalize();
    }
}
