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

use super::anyone::Anyone;
use super::{News, Seat};
use crate::wire::Wire;

/// Packets of one client that are read in one turn: one that has much holds up the others no more
/// than a full read of TCP does.
const PACKETS_PER_TURN: usize = 32;

/// No packet is longer on loopback.
const PACKET_BYTES: usize = 64 << 10;

pub(super) struct Quic {
    server: SocketAddr,
    endpoint: Endpoint,
    config: ClientConfig,
    /// By seat.
    clients: HashMap<usize, Client>,
    /// When each wants to be looked at.
    timers: BTreeSet<(Instant, usize)>,
    packet: Box<[u8]>,
    out: Vec<u8>,
}

struct Client {
    socket: UdpSocket,
    handle: ConnectionHandle,
    connection: Connection,
    /// The first is control, once there is one. Each with the front of what has not come whole.
    streams: Vec<(StreamId, Vec<u8>)>,
    alarm: Option<Instant>,
}

impl Quic {
    pub(super) fn new(server: SocketAddr) -> io::Result<Quic> {
        Ok(Quic {
            server,
            endpoint: Endpoint::new(Arc::new(EndpointConfig::default()), None, false, None),
            config: config().map_err(io::Error::other)?,
            clients: HashMap::new(),
            timers: BTreeSet::new(),
            packet: vec![0; PACKET_BYTES].into(),
            out: Vec::new(),
        })
    }

    /// Begins a connection. What the seat has to say goes when it is there.
    pub(super) fn open(&mut self, nth: usize, poll: &OwnedFd) -> io::Result<()> {
        let any = match self.server {
            SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
            SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
        };
        let socket = UdpSocket::bind(any)?;
        socket.connect(self.server)?;
        socket.set_nonblocking(true)?;
        let data = epoll::EventData::new_u64(nth as u64);
        epoll::add(poll, &socket, data, epoll::EventFlags::IN)?;
        let config = self.config.clone();
        let connected = self.endpoint.connect(Instant::now(), config, self.server, "localhost");
        let (handle, connection) = connected.map_err(io::Error::other)?;
        let client = Client { socket, handle, connection, streams: Vec::new(), alarm: None };
        self.clients.insert(nth, client);
        self.send(nth, Instant::now());
        Ok(())
    }

    /// Forgets a connection without a word.
    pub(super) fn close(&mut self, nth: usize) {
        if let Some(client) = self.clients.remove(&nth) {
            self.endpoint.handle_event(client.handle, EndpointEvent::drained());
            if let Some(alarm) = client.alarm {
                self.timers.remove(&(alarm, nth));
            }
        }
    }

    /// The next moment at which [`Quic::due`] has somebody.
    pub(super) fn next(&self) -> Option<Instant> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// A seat whose moment has come.
    pub(super) fn due(&mut self, now: Instant) -> Option<usize> {
        let (at, nth) = *self.timers.first().filter(|(at, _)| *at <= now)?;
        self.timers.remove(&(at, nth));
        let client = self.clients.get_mut(&nth)?;
        client.alarm = None;
        if client.connection.poll_timeout().is_some_and(|at| at <= now) {
            client.connection.handle_timeout(now);
        }
        Some(nth)
    }

    /// Takes the packets that came for a seat, and does what follows from them.
    pub(super) fn read(
        &mut self,
        nth: usize,
        seat: &mut Seat,
        wire: Wire,
        hear: &mut impl FnMut(&mut Seat, News<'_>, Instant),
    ) -> Result<(), String> {
        for _ in 0..PACKETS_PER_TURN {
            let Some(client) = self.clients.get_mut(&nth) else { return Ok(()) };
            let count = match client.socket.recv(&mut self.packet) {
                Ok(count) => count,
                Err(why) if why.kind() == io::ErrorKind::WouldBlock => break,
                Err(why) => return Err(why.to_string()),
            };
            let (now, data) = (Instant::now(), self.packet[..count].into());
            let event = self.endpoint.handle(now, self.server, None, None, data, &mut self.out);
            match event {
                Some(DatagramEvent::ConnectionEvent(handle, event)) if handle == client.handle => {
                    client.connection.handle_event(event);
                }
                Some(DatagramEvent::Response(transmit)) => {
                    // What is lost here is lost as on any network.
                    let _lost = client.socket.send(&self.out[..transmit.size]);
                }
                _ => {}
            }
            self.out.clear();
        }
        self.go_on(nth, seat, wire, hear)
    }

    /// Tells the seat what it was sent, and sends what it has to say and what the protocol has.
    pub(super) fn go_on(
        &mut self,
        nth: usize,
        seat: &mut Seat,
        wire: Wire,
        hear: &mut impl FnMut(&mut Seat, News<'_>, Instant),
    ) -> Result<(), String> {
        let Some(client) = self.clients.get_mut(&nth) else { return Ok(()) };
        client.hear(seat, wire, hear)?;
        client.say(&mut seat.unsent)?;
        self.send(nth, Instant::now());
        Ok(())
    }

    fn send(&mut self, nth: usize, now: Instant) {
        let Some(client) = self.clients.get_mut(&nth) else { return };
        while let Some(transmit) = client.connection.poll_transmit(now, 1, &mut self.out) {
            let _lost = client.socket.send(&self.out[..transmit.size]);
            self.out.clear();
        }
        while let Some(event) = client.connection.poll_endpoint_events() {
            if let Some(event) = self.endpoint.handle_event(client.handle, event) {
                client.connection.handle_event(event);
            }
        }
        // A moment that moves away is not followed: it comes too early then, which does no harm.
        if let Some(at) = client.connection.poll_timeout()
            && client.alarm.is_none_or(|alarm| at < alarm)
        {
            if let Some(alarm) = client.alarm.replace(at) {
                self.timers.remove(&(alarm, nth));
            }
            self.timers.insert((at, nth));
        }
    }
}

impl Client {
    fn hear(
        &mut self,
        seat: &mut Seat,
        wire: Wire,
        hear: &mut impl FnMut(&mut Seat, News<'_>, Instant),
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
                        let said = wire.datagram(&datagram, seat.role)?;
                        seat.hear(said, Instant::now(), hear);
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
                        seat.take_whole(partial, &chunk.bytes, wire, false, Instant::now(), hear)?;
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
    fn say(&mut self, unsent: &mut Vec<u8>) -> Result<(), String> {
        let Some((control, _)) = self.streams.first() else { return Ok(()) };
        while !unsent.is_empty() {
            match self.connection.send_stream(*control).write(unsent) {
                Ok(count) => drop(unsent.drain(..count)),
                Err(WriteError::Blocked) => break,
                Err(why) => return Err(why.to_string()),
            }
        }
        Ok(())
    }
}

fn config() -> Result<ClientConfig, Box<dyn std::error::Error + Send + Sync>> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut tls = rustls::ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anyone(provider)))
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
