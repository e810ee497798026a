//! The clients' side of QUIC: `quinn-proto`, driven by the one thread that drives everything here.
//!
//! Each client has a socket of its own, as it would have anywhere else: the server sends to as many
//! addresses as there are clients, and no client's packets take the room of another's.

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

/// Packets of one client that are read in one turn: one that has much holds up the others no more
/// than a full read of TCP does.
const PACKETS_PER_TURN: usize = 32;

/// No packet is longer on loopback.
const PACKET_BYTES: usize = 64 << 10;

pub(super) struct QuicClients {
    server: SocketAddr,
    endpoint: Endpoint,
    config: ClientConfig,
    /// By seat.
    connections: HashMap<usize, QuicClient>,
    /// When each wants to be looked at.
    timers: BTreeSet<(Instant, usize)>,
    packet: Box<[u8]>,
    out: Vec<u8>,
}

struct QuicClient {
    socket: UdpSocket,
    handle: ConnectionHandle,
    connection: Connection,
    /// The first is control, once there is one. Each with the front of what has not come whole.
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

    /// Begins a connection. What the seat has to say goes when it is there.
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

    /// Forgets a connection without a word.
    pub(super) fn close(&mut self, index: usize) {
        if let Some(client) = self.connections.remove(&index) {
            self.endpoint.handle_event(client.handle, EndpointEvent::drained());
            if let Some(timer) = client.timer {
                self.timers.remove(&(timer, index));
            }
        }
    }

    /// The next moment at which [`QuicClients::due`] has somebody.
    pub(super) fn next_timeout(&self) -> Option<Instant> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// A seat whose moment has come.
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

    /// Takes the packets that came for a seat, and does what follows from them.
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
                Err(why) if why.kind() == io::ErrorKind::WouldBlock => break,
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
                    // What is lost here is lost as on any network.
                    let _lost = connection.socket.send(&self.out[..transmit.size]);
                }
                _ => {}
            }
            self.out.clear();
        }
        self.drive(index, client, wire, on_event)
    }

    /// Tells the seat what it was sent, and sends what it has to say and what the protocol has.
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
        // A moment that moves away is not followed: it comes too early then, which does no harm.
        if let Some(at) = connection.connection.poll_timeout()
            && connection.timer.is_none_or(|alarm| at < alarm)
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
            // What the other side may send is told with the packets that go anyway.
            let _transmit = chunks.finalize();
            if ended {
                return Err("a stream ended".into());
            }
        }
        Ok(())
    }

    /// As much as the server takes.
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
    // Every handshake is a whole one.
    tls.resumption = rustls::client::Resumption::disabled();
    let mut transport = TransportConfig::default();
    transport.mtu_discovery_config(None);
    let mut config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls)?));
    config.transport_config(Arc::new(transport));
    Ok(config)
}
