//! Many connections on one thread: opens them, reads what comes, and says who heard what.
//!
//! Level-triggered epoll and one read a turn and socket, which is the least that a reader can do; of UDP
//! some packets, which are what one read of TCP brings.

mod accept_any_certificate;
mod quic;

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use socket2::{Domain, SockRef, Socket, Type};

use crate::wire::{ConnectionSpec, Role, ServerMessage, ServerProtocol};
use quic::QuicClients;

/// Takes some hundred messages that have piled up.
const SCRATCH_BYTES: usize = 64 << 10;

const EVENTS_MAX: usize = 1_024;

/// A server whose queue of new connections is full lets the handshake of TCP wait for a second.
const CONNECT_MAX: Duration = Duration::from_secs(5);

/// The queue of what a stopped reader has not read should fill on the server's side.
const STOPPED_BYTES: usize = 4 << 10;

/// Where everybody goes, and in which words.
pub(crate) struct ClientPool {
    pub(crate) wire: ServerProtocol,
    server: SocketAddr,
    pub(crate) topics: Vec<String>,
    /// Whether subscribers note where they stand.
    with_resume_tokens: bool,
    poll: OwnedFd,
    /// Connections of QUIC, if that is what is spoken; the seats have no sockets then.
    quic: Option<QuicClients>,
    pub(crate) clients: Vec<BenchClient>,
    scratch: Box<[u8]>,
    events: Vec<epoll::Event>,
}

/// One connection, or the place of one.
pub(crate) struct BenchClient {
    pub(crate) index: usize,
    pub(crate) role: Role,
    pub(crate) topics: Range<usize>,
    /// Reads nothing once it is ready.
    pub(crate) is_stopped: bool,
    /// Is among those who should read each message.
    pub(crate) is_counted: bool,
    socket: Option<TcpStream>,
    pub(crate) is_ready: bool,
    /// The front of what has not come whole. Mostly empty.
    partial: Vec<u8>,
    /// What the socket would not take yet.
    unsent: Vec<u8>,
    /// The next message it should see of each of its topics: of the whole run, not of the topic.
    pub(crate) next_sequences: Box<[u64]>,
    /// Topics that it is not subscribed to yet.
    pending_subscriptions: usize,
    /// Where it stands, in the server's words.
    resume_token: String,
}

/// What is new at a seat.
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
            clients: Vec::new(),
            scratch: vec![0; SCRATCH_BYTES].into(),
            events: Vec::with_capacity(EVENTS_MAX),
        })
    }

    /// Connects a seat, and says what its protocol begins with.
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
        socket.set_nonblocking(true)?;
        let mut stream = TcpStream::from(socket);
        stream.write_all(&opening)?;
        let data = epoll::EventData::new_u64(index as u64);
        epoll::add(&self.poll, &stream, data, epoll::EventFlags::IN)?;
        client.socket = Some(stream);
        Ok(())
    }

    /// Cuts a connection as a lost network does: without a word.
    pub(crate) fn abort(&mut self, index: usize) {
        if let Some(socket) = self.clients[index].reset() {
            // At worst it is closed in the polite way.
            let _linger = SockRef::from(&socket).set_linger(Some(Duration::ZERO));
        }
        if let Some(quic) = &mut self.quic {
            quic.close(index);
        }
    }

    /// Begins to read again.
    pub(crate) fn resume_reading(&mut self, index: usize) -> io::Result<()> {
        self.clients[index].is_stopped = false;
        let Some(socket) = &self.clients[index].socket else { return Ok(()) };
        let data = epoll::EventData::new_u64(index as u64);
        Ok(epoll::add(&self.poll, socket, data, epoll::EventFlags::IN)?)
    }

    /// Puts a publish of seat `nth` behind what it has not sent yet.
    pub(crate) fn publish(&mut self, index: usize, topic: usize, payload: &[u8]) {
        self.wire.publish(&mut self.clients[index].unsent, &self.topics[topic], payload);
    }

    /// Sends what is to be sent, waits for something to read, at most for so long, and reads it.
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
        // To the millisecond, rounded down: who waits for a moment polls for the last of it.
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

    /// Does what the clock asks for.
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
        let Some(socket) = &mut client.socket else { return Ok(()) };
        let count = match socket.read(&mut self.scratch) {
            Ok(0) => return Err("the server hung up".into()),
            Ok(count) => count,
            Err(why) if why.kind() == io::ErrorKind::WouldBlock => return Ok(()),
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
            epoll::delete(&self.poll, socket).map_err(|error| error.to_string())?;
        }
        Ok(())
    }
}

impl BenchClient {
    /// Takes what is whole of `partial` and the bytes that follow it, and leaves the rest there.
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

    /// Takes whole things; gives back how many bytes are left.
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
                // NATS says PONG to whoever asks.
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
                Err(why) if why.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        self.unsent.drain(..sent);
        Ok(())
    }

    /// Closes, and is as it was in the beginning, but for its place in the topic.
    fn reset(&mut self) -> Option<TcpStream> {
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
