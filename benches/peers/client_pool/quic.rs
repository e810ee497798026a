//! The client side of QUIC: `quinn-proto`, driven by the generator's thread.
//!
//! Each client has a socket of its own, as in production: the server sends to as many addresses as there are
//! clients, and clients do not share receive buffers.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Instant;

use quinn_proto::crypto::rustls::QuicClientConfig;
use quinn_proto::{
    ClientConfig, Connection, ConnectionHandle, DatagramEvent, Dir, Endpoint, EndpointConfig,
    EndpointEvent, Event, ReadError, StreamEvent, StreamId, TransportConfig, WriteError,
};
use rustix::event::epoll;

use super::accept_any_certificate::AcceptAnyCertificate;
use super::{BenchClient, ClientEvent};
use crate::wire::ServerProtocol;

/// The maximum number of packets read from one client per turn, so that a busy client delays the others no
/// longer than a full read of TCP does.
const PACKETS_PER_TURN: usize = 32;

/// The maximum length of a packet on loopback.
const PACKET_BYTES: usize = 64 << 10;

pub(super) struct QuicClients {
    server: SocketAddr,
    endpoint: Endpoint,
    config: ClientConfig,
    /// Connections by client index.
    connections: HashMap<usize, QuicClient>,
    /// The timers of the connections.
    timers: BTreeSet<(Instant, usize)>,
    packet: Box<[u8]>,
    out: Vec<u8>,
}

struct QuicClient {
    socket: UdpSocket,
    handle: ConnectionHandle,
    connection: Connection,
    /// The open streams, control stream first, each with the incomplete message at the end of its input.
    streams: Vec<(StreamId, Vec<u8>)>,
    timer: Option<Instant>,
}

impl QuicClients {
    pub(super) fn new(server: SocketAddr) -> io::Result<QuicClients> {
        Ok(QuicClients {
            server,
            endpoint: Endpoint::new(Arc::new(EndpointConfig::default()), None, false, None),
            config: client_config().map_err(io::Error::other)?,
            connections: HashMap::new(),
            timers: BTreeSet::new(),
            packet: vec![0; PACKET_BYTES].into(),
            out: Vec::new(),
        })
    }

    /// Starts a connection. The client's unsent bytes are sent when it is established.
    pub(super) fn connect(&mut self, index: usize, poll: &OwnedFd) -> io::Result<()> {
        let any = match self.server {
            SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
            SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
        };
        let socket = UdpSocket::bind(any)?;
        socket.connect(self.server)?;
        socket.set_nonblocking(true)?;
        let data = epoll::EventData::new_u64(index as u64);
        epoll::add(poll, &socket, data, epoll::EventFlags::IN)?;
        let config = self.config.clone();
        let connected = self.endpoint.connect(Instant::now(), config, self.server, "localhost");
        let (handle, connection) = connected.map_err(io::Error::other)?;
        let client = QuicClient { socket, handle, connection, streams: Vec::new(), timer: None };
        self.connections.insert(index, client);
        self.transmit(index, Instant::now());
        Ok(())
    }

    /// Drops a connection without a closing handshake.
    pub(super) fn close(&mut self, index: usize) {
        if let Some(client) = self.connections.remove(&index) {
            self.endpoint.handle_event(client.handle, EndpointEvent::drained());
            if let Some(timer) = client.timer {
                self.timers.remove(&(timer, index));
            }
        }
    }

    /// The next time at which [`QuicClients::pop_due`] returns a client.
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// Removes and returns a client whose timer is due.
    pub(super) fn pop_due(&mut self, now: Instant) -> Option<usize> {
        let (at, index) = *self.timers.first().filter(|(at, _)| *at <= now)?;
        self.timers.remove(&(at, index));
        let client = self.connections.get_mut(&index)?;
        client.timer = None;
        if client.connection.poll_timeout().is_some_and(|at| at <= now) {
            client.connection.handle_timeout(now);
        }
        Some(index)
    }

    /// Reads the packets of a client and processes them.
    pub(super) fn read(
        &mut self,
        index: usize,
        client: &mut BenchClient,
        wire: ServerProtocol,
        on_event: &mut impl FnMut(&mut BenchClient, ClientEvent<'_>, Instant),
    ) -> Result<(), String> {
        for _ in 0..PACKETS_PER_TURN {
            let Some(connection) = self.connections.get_mut(&index) else { return Ok(()) };
            let count = match connection.socket.recv(&mut self.packet) {
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error.to_string()),
            };
            let (now, data) = (Instant::now(), self.packet[..count].into());
            let event = self.endpoint.handle(now, self.server, None, None, data, &mut self.out);
            match event {
                Some(DatagramEvent::ConnectionEvent(handle, event))
                    if handle == connection.handle =>
                {
                    connection.connection.handle_event(event);
                }
                Some(DatagramEvent::Response(transmit)) => {
                    // A lost packet is retransmitted, as on any network.
                    let _lost = connection.socket.send(&self.out[..transmit.size]);
                }
                _ => {}
            }
            self.out.clear();
        }
        self.drive(index, client, wire, on_event)
    }

    /// Reports received messages to the client, and sends its unsent bytes and the packets of the protocol.
    pub(super) fn drive(
        &mut self,
        index: usize,
        client: &mut BenchClient,
        wire: ServerProtocol,
        on_event: &mut impl FnMut(&mut BenchClient, ClientEvent<'_>, Instant),
    ) -> Result<(), String> {
        let Some(connection) = self.connections.get_mut(&index) else { return Ok(()) };
        connection.process_events(client, wire, on_event)?;
        connection.write_unsent(&mut client.unsent)?;
        self.transmit(index, Instant::now());
        Ok(())
    }

    fn transmit(&mut self, index: usize, now: Instant) {
        let Some(connection) = self.connections.get_mut(&index) else { return };
        while let Some(transmit) = connection.connection.poll_transmit(now, 1, &mut self.out) {
            let _lost = connection.socket.send(&self.out[..transmit.size]);
            self.out.clear();
        }
        while let Some(event) = connection.connection.poll_endpoint_events() {
            if let Some(event) = self.endpoint.handle_event(connection.handle, event) {
                connection.connection.handle_event(event);
            }
        }
        // A timer that moves back is not updated: it fires too early, which is harmless.
        if let Some(at) = connection.connection.poll_timeout()
            && connection.timer.is_none_or(|timer| at < timer)
        {
            if let Some(timer) = connection.timer.replace(at) {
                self.timers.remove(&(timer, index));
            }
            self.timers.insert((at, index));
        }
    }
}

impl QuicClient {
    fn process_events(
        &mut self,
        client: &mut BenchClient,
        wire: ServerProtocol,
        on_event: &mut impl FnMut(&mut BenchClient, ClientEvent<'_>, Instant),
    ) -> Result<(), String> {
        let mut readable = false;
        while let Some(event) = self.connection.poll() {
            match event {
                Event::Connected => {
                    let control = self.connection.streams().open(Dir::Bi);
                    self.streams.extend(control.map(|id| (id, Vec::new())));
                }
                Event::Stream(StreamEvent::Opened { dir }) => {
                    while let Some(id) = self.connection.streams().accept(dir) {
                        self.streams.push((id, Vec::new()));
                    }
                    readable = true;
                }
                Event::Stream(StreamEvent::Readable { .. }) => readable = true,
                Event::DatagramReceived => {
                    while let Some(datagram) = self.connection.datagrams().recv() {
                        let message = wire.decode_datagram(&datagram, client.role)?;
                        client.on_server_message(message, Instant::now(), on_event);
                    }
                }
                Event::ConnectionLost { reason } => return Err(reason.to_string()),
                _ => {}
            }
        }
        for (id, partial) in self.streams.iter_mut().filter(|_| readable) {
            let mut stream = self.connection.recv_stream(*id);
            let Ok(mut chunks) = stream.read(true) else { return Err("a stream ended".into()) };
            let ended = loop {
                match chunks.next(usize::MAX) {
                    Ok(Some(chunk)) => {
                        client.decode_buffered(
                            partial,
                            &chunk.bytes,
                            wire,
                            false,
                            Instant::now(),
                            on_event,
                        )?;
                    }
                    Err(ReadError::Blocked) => break false,
                    Ok(None) | Err(ReadError::Reset(_)) => break true,
                }
            };
            // Flow control updates are sent with the next packets.
            let _transmit = chunks.finalize();
            if ended {
                return Err("a stream ended".into());
            }
        }
        Ok(())
    }

    /// Writes as much as flow control permits.
    fn write_unsent(&mut self, unsent: &mut Vec<u8>) -> Result<(), String> {
        let Some((control, _)) = self.streams.first() else { return Ok(()) };
        while !unsent.is_empty() {
            match self.connection.send_stream(*control).write(unsent) {
                Ok(count) => drop(unsent.drain(..count)),
                Err(WriteError::Blocked) => break,
                Err(error) => return Err(error.to_string()),
            }
        }
        Ok(())
    }
}

fn client_config() -> Result<ClientConfig, Box<dyn std::error::Error + Send + Sync>> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut tls = rustls::ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AcceptAnyCertificate(provider)))
        .with_no_client_auth();
    tls.alpn_protocols = vec![b"pushonce/1".to_vec()];
    // Every handshake is a full handshake.
    tls.resumption = rustls::client::Resumption::disabled();
    let mut transport = TransportConfig::default();
    transport.mtu_discovery_config(None);
    let mut config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls)?));
    config.transport_config(Arc::new(transport));
    Ok(config)
}
