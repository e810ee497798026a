//! Many connections on one thread: opens them, reads from them, and reports their events.
//!
//! Level-triggered epoll with one read per turn and socket, the minimum for a reader; for UDP several packets
//! per turn, as many as one read of TCP returns.

mod accept_any_certificate;
mod quic;
mod stream;

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use rustls::ClientConfig;
use socket2::{Domain, SockRef, Socket, Type};

use crate::wire::{ConnectionSpec, Role, ServerMessage, ServerProtocol};
use quic::QuicClients;
use stream::{ClientStream, tls_config};

/// Large enough for several hundred queued messages.
const SCRATCH_BYTES: usize = 64 << 10;

const EVENTS_MAX: usize = 1_024;

/// When a server's accept queue is full, the TCP handshake is retried after a second.
const CONNECT_MAX: Duration = Duration::from_secs(5);

/// The receive buffer of a stopped reader: small, so that its unread messages queue on the server's side.
const STOPPED_BYTES: usize = 4 << 10;

/// The connections to one server.
pub(crate) struct ClientPool {
    pub(crate) wire: ServerProtocol,
    server: SocketAddr,
    pub(crate) topics: Vec<String>,
    /// Whether subscribers keep a resume token.
    with_resume_tokens: bool,
    poll: OwnedFd,
    /// The QUIC connections, if the protocol uses QUIC; the clients have no sockets then.
    quic: Option<QuicClients>,
    /// The settings of TLS, if the connections use it.
    tls: Option<Arc<ClientConfig>>,
    pub(crate) clients: Vec<BenchClient>,
    scratch: Box<[u8]>,
    events: Vec<epoll::Event>,
}

/// One client, connected or not.
pub(crate) struct BenchClient {
    pub(crate) index: usize,
    pub(crate) role: Role,
    pub(crate) topics: Range<usize>,
    /// Stops reading once it is ready.
    pub(crate) is_stopped: bool,
    /// Whether it counts as a reader of its messages.
    pub(crate) is_counted: bool,
    socket: Option<ClientStream>,
    pub(crate) is_ready: bool,
    /// The incomplete message at the end of the input. Mostly empty.
    partial: Vec<u8>,
    /// Bytes that the socket has not accepted yet.
    unsent: Vec<u8>,
    /// The sequence number of the next expected message per topic, counted over the whole run.
    pub(crate) next_sequences: Box<[u64]>,
    /// The number of topics without a confirmed subscription.
    pending_subscriptions: usize,
    /// The position of the last message, as the server names it.
    resume_token: String,
}

/// An event of a client.
#[derive(Debug)]
pub(crate) enum ClientEvent<'a> {
    Ready,
    Message(&'a [u8]),
    Skipped(u64),
    Disconnected(String),
}

impl BenchClient {
    pub(crate) fn new(index: usize, role: Role, topics: Range<usize>) -> BenchClient {
        BenchClient {
            index,
            role,
            next_sequences: topics.clone().map(|topic| topic as u64).collect(),
            pending_subscriptions: topics.len(),
            topics,
            is_stopped: false,
            is_counted: false,
            socket: None,
            is_ready: false,
            partial: Vec::new(),
            unsent: Vec::new(),
            resume_token: String::new(),
        }
    }
}

impl ClientPool {
    pub(crate) fn new(
        wire: ServerProtocol,
        server: SocketAddr,
        tls: bool,
        topics: usize,
        with_resume_tokens: bool,
    ) -> io::Result<ClientPool> {
        Ok(ClientPool {
            wire,
            server,
            topics: (0..topics).map(|nth| format!("bench/{nth}")).collect(),
            with_resume_tokens,
            poll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            quic: wire.is_quic().then(|| QuicClients::new(server)).transpose()?,
            tls: tls.then(tls_config).transpose()?,
            clients: Vec::new(),
            scratch: vec![0; SCRATCH_BYTES].into(),
            events: Vec::with_capacity(EVENTS_MAX),
        })
    }

    /// Connects a client and sends its opening bytes.
    pub(crate) fn connect(&mut self, index: usize) -> io::Result<()> {
        let client = &mut self.clients[index];
        let resume_token =
            (!client.resume_token.is_empty()).then_some(client.resume_token.as_str());
        let Some((topic, others)) = self.topics[client.topics.clone()].split_first() else {
            return Ok(());
        };
        client.pending_subscriptions = client.topics.len();
        let opening = ConnectionSpec {
            role: client.role,
            topic,
            other_topics: others,
            resume_token,
            with_resume_tokens: self.with_resume_tokens,
        };
        let opening = self.wire.opening_bytes(opening);
        if let Some(quic) = &mut self.quic {
            client.unsent = opening;
            return quic.connect(index, &self.poll);
        }
        let socket = Socket::new(Domain::for_address(self.server), Type::STREAM, None)?;
        if client.is_stopped {
            socket.set_recv_buffer_size(STOPPED_BYTES)?;
        }
        socket.connect_timeout(&self.server.into(), CONNECT_MAX)?;
        socket.set_tcp_nodelay(true)?;
        let mut stream = ClientStream::new(TcpStream::from(socket), self.tls.as_ref())?;
        // The handshake of TLS blocks.
        stream.write_all(&opening)?;
        stream.tcp().set_nonblocking(true)?;
        let data = epoll::EventData::new_u64(index as u64);
        epoll::add(&self.poll, stream.tcp(), data, epoll::EventFlags::IN)?;
        client.socket = Some(stream);
        Ok(())
    }

    /// Closes a connection with a reset, without a closing handshake.
    pub(crate) fn abort(&mut self, index: usize) {
        if let Some(socket) = self.clients[index].reset() {
            // If this fails, the connection is closed normally.
            let _linger = SockRef::from(socket.tcp()).set_linger(Some(Duration::ZERO));
        }
        if let Some(quic) = &mut self.quic {
            quic.close(index);
        }
    }

    /// Starts reading again.
    pub(crate) fn resume_reading(&mut self, index: usize) -> io::Result<()> {
        self.clients[index].is_stopped = false;
        let Some(socket) = &self.clients[index].socket else { return Ok(()) };
        let data = epoll::EventData::new_u64(index as u64);
        Ok(epoll::add(&self.poll, socket.tcp(), data, epoll::EventFlags::IN)?)
    }

    /// Appends a publish to the unsent bytes of a client.
    pub(crate) fn publish(&mut self, index: usize, topic: usize, payload: &[u8]) {
        self.wire.publish(&mut self.clients[index].unsent, &self.topics[topic], payload);
    }

    /// Sends pending bytes, waits up to `wait` for input, and reads it.
    pub(crate) fn poll_once(
        &mut self,
        wait: Duration,
        publishers: Range<usize>,
        on_event: &mut impl FnMut(&mut BenchClient, ClientEvent<'_>, Instant),
    ) -> io::Result<()> {
        for index in publishers {
            if let Err(error) = self.flush(index, on_event) {
                self.on_disconnected(index, error, on_event);
            }
        }
        let next_timeout = self.quic.as_ref().and_then(QuicClients::next_timeout);
        let wait =
            next_timeout.map_or(wait, |at| wait.min(at.saturating_duration_since(Instant::now())));
        // Rounded down to milliseconds: short waits become polls.
        let wait = Timespec { tv_sec: 0, tv_nsec: i64::from(wait.subsec_millis()) * 1_000_000 };
        let mut events = std::mem::take(&mut self.events);
        match epoll::wait(&self.poll, spare_capacity(&mut events), Some(&wait)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        for event in events.drain(..) {
            let index = event.data.u64() as usize;
            if let Err(error) = self.read(index, on_event) {
                self.on_disconnected(index, error, on_event);
            }
        }
        self.events = events;
        self.handle_timers(on_event);
        Ok(())
    }

    /// Handles the QUIC timers that are due.
    fn handle_timers(
        &mut self,
        on_event: &mut impl FnMut(&mut BenchClient, ClientEvent<'_>, Instant),
    ) {
        let now = Instant::now();
        while let Some(quic) = &mut self.quic
            && let Some(index) = quic.pop_due(now)
        {
            if let Err(error) = quic.drive(index, &mut self.clients[index], self.wire, on_event) {
                self.on_disconnected(index, error, on_event);
            }
        }
    }

    fn flush(
        &mut self,
        index: usize,
        on_event: &mut impl FnMut(&mut BenchClient, ClientEvent<'_>, Instant),
    ) -> Result<(), String> {
        let client = &mut self.clients[index];
        match &mut self.quic {
            Some(quic) if !client.unsent.is_empty() => {
                quic.drive(index, client, self.wire, on_event)
            }
            Some(_) => Ok(()),
            None => client.flush().map_err(|error| error.to_string()),
        }
    }

    fn on_disconnected(
        &mut self,
        index: usize,
        reason: String,
        on_event: &mut impl FnMut(&mut BenchClient, ClientEvent<'_>, Instant),
    ) {
        if let Some(quic) = &mut self.quic {
            quic.close(index);
        }
        self.clients[index].disconnect(reason, on_event);
    }

    fn read(
        &mut self,
        index: usize,
        on_event: &mut impl FnMut(&mut BenchClient, ClientEvent<'_>, Instant),
    ) -> Result<(), String> {
        let client = &mut self.clients[index];
        if let Some(quic) = &mut self.quic {
            return quic.read(index, client, self.wire, on_event);
        }
        while self.read_once(index, on_event)? {}
        Ok(())
    }

    /// Reads one buffer. Returns whether to read again: TLS may have decrypted more than that.
    fn read_once(
        &mut self,
        index: usize,
        on_event: &mut impl FnMut(&mut BenchClient, ClientEvent<'_>, Instant),
    ) -> Result<bool, String> {
        let client = &mut self.clients[index];
        let Some(socket) = &mut client.socket else { return Ok(false) };
        let is_tls = socket.is_tls();
        let count = match socket.read(&mut self.scratch) {
            Ok(0) => return Err("the server closed the connection".into()),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error.to_string()),
        };
        let at = Instant::now();
        let mut partial = std::mem::take(&mut client.partial);
        let bytes = &self.scratch[..count];
        client.decode_buffered(
            &mut partial,
            bytes,
            self.wire,
            self.with_resume_tokens,
            at,
            on_event,
        )?;
        client.partial = partial;
        if client.is_stopped
            && client.is_ready
            && let Some(socket) = &client.socket
        {
            epoll::delete(&self.poll, socket.tcp()).map_err(|error| error.to_string())?;
            return Ok(false);
        }
        Ok(is_tls)
    }
}

impl BenchClient {
    /// Decodes the complete messages of `partial` and `bytes`, and leaves the remainder in `partial`.
    fn decode_buffered(
        &mut self,
        partial: &mut Vec<u8>,
        bytes: &[u8],
        wire: ServerProtocol,
        with_resume_tokens: bool,
        at: Instant,
        on_event: &mut impl FnMut(&mut BenchClient, ClientEvent<'_>, Instant),
    ) -> Result<(), String> {
        if partial.is_empty() {
            let remaining = self.decode(bytes, wire, with_resume_tokens, at, on_event)?;
            partial.extend_from_slice(&bytes[bytes.len() - remaining..]);
        } else {
            partial.extend_from_slice(bytes);
            let remaining = self.decode(partial, wire, with_resume_tokens, at, on_event)?;
            partial.drain(..partial.len() - remaining);
        }
        if partial.is_empty() {
            partial.shrink_to(0);
        }
        Ok(())
    }

    /// Decodes complete messages; returns the number of remaining bytes.
    fn decode(
        &mut self,
        mut bytes: &[u8],
        wire: ServerProtocol,
        with_resume_tokens: bool,
        at: Instant,
        on_event: &mut impl FnMut(&mut BenchClient, ClientEvent<'_>, Instant),
    ) -> Result<usize, String> {
        while let Some(message) =
            wire.decode_next(&mut bytes, self.role, self.is_ready, with_resume_tokens)?
        {
            if let ServerMessage::Reply(reply) = message {
                self.unsent.extend(reply);
                self.flush().map_err(|error| error.to_string())?;
            } else {
                self.on_server_message(message, at, on_event);
            }
        }
        Ok(bytes.len())
    }

    fn on_server_message(
        &mut self,
        message: ServerMessage<'_>,
        at: Instant,
        on_event: &mut impl FnMut(&mut BenchClient, ClientEvent<'_>, Instant),
    ) {
        match message {
            ServerMessage::Ready => {
                self.pending_subscriptions = self.pending_subscriptions.saturating_sub(1);
                // NATS answers every PING with a PONG, also after the first.
                if self.pending_subscriptions == 0 && !std::mem::replace(&mut self.is_ready, true) {
                    on_event(self, ClientEvent::Ready, at);
                }
            }
            ServerMessage::Message { payload, resume_token } => {
                if let Some(resume_token) = resume_token {
                    self.resume_token = String::from_utf8_lossy(resume_token).into_owned();
                }
                on_event(self, ClientEvent::Message(payload), at);
            }
            ServerMessage::Skipped(count) => on_event(self, ClientEvent::Skipped(count), at),
            ServerMessage::Reply(_) | ServerMessage::Ignored => {}
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        let Some(socket) = &mut self.socket else { return Ok(()) };
        let mut sent = 0;
        while sent < self.unsent.len() {
            match socket.write(&self.unsent[sent..]) {
                Ok(count) => sent += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        self.unsent.drain(..sent);
        Ok(())
    }

    /// Takes the socket and resets the connection state, but keeps the position in the topics.
    fn reset(&mut self) -> Option<ClientStream> {
        (self.is_ready, self.partial, self.unsent) = (false, Vec::new(), Vec::new());
        self.socket.take()
    }

    fn disconnect(
        &mut self,
        reason: String,
        on_event: &mut impl FnMut(&mut BenchClient, ClientEvent<'_>, Instant),
    ) {
        self.reset();
        on_event(self, ClientEvent::Disconnected(reason), Instant::now());
    }
}
