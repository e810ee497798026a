//! TCP: listeners and streams.
//!
//! A lost segment is sent again, and everything behind it waits, as TCP does; so loss and reordering appear as delay.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddrV4};

use super::descriptor::{Object, ObjectId, Readiness, Watchers};
use super::host::ProcessId;
use super::timer::Timer;
use super::{DescriptorError, HostId, Kernel, WorldTime};

/// Why a connection failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamError {
    /// Nothing listens there.
    Refused,
    /// The other host answers nothing.
    TimedOut,
    /// The other end dropped the connection.
    Reset,
    /// The stream was closed before.
    Closed,
    /// The connection is not open yet.
    NotConnected,
}

/// Bytes that a socket accepts before the other host has them.
const SEND_BUFFER_BYTES: usize = 256 << 10;
/// Bytes that a host keeps for a process that does not read.
const RECEIVE_BUFFER_BYTES: usize = 256 << 10;

/// The delay before a segment is sent again; it doubles each time.
const SEGMENT_RETRY_NS: u64 = 200_000_000;
const RETRY_MAX_NS: u64 = 30_000_000_000;
const SEGMENT_ATTEMPTS: u32 = 40;

pub(super) struct Listener {
    pub(super) process: ProcessId,
    pub(super) local: SocketAddrV4,
    pub(super) backlog: VecDeque<ObjectId>,
    pub(super) watchers: Watchers,
}

pub(super) struct Stream {
    pub(super) process: ProcessId,
    pub(super) local: SocketAddrV4,
    pub(super) remote: SocketAddrV4,
    /// The other end, once there is one.
    pub(super) peer: Option<ObjectId>,
    pub(super) is_connected: bool,
    /// Reported once, by the next call.
    pub(super) error: Option<StreamError>,
    pub(super) has_failed: bool,
    received: VecDeque<u8>,
    has_received_end: bool,
    outgoing: VecDeque<Segment>,
    outgoing_bytes: usize,
    has_sent_end: bool,
    /// The arrival of the last segment: none overtakes another.
    pub(super) last_arrival: WorldTime,
    is_transmitting: bool,
    /// Failed attempts to send the first segment, or the request for the connection.
    pub(super) attempts: u32,
    was_full: bool,
    /// Nothing of it arrives any more.
    is_stalled: bool,
    /// The process has closed the stream. Its outgoing segments are still sent.
    pub(super) is_closed: bool,
    pub(super) watchers: Watchers,
}

struct Segment {
    arrives_at: WorldTime,
    content: Content,
}

enum Content {
    Data(Vec<u8>),
    End,
}

impl Stream {
    pub(super) fn new(process: ProcessId, local: SocketAddrV4, remote: SocketAddrV4) -> Stream {
        Stream {
            process,
            local,
            remote,
            peer: None,
            is_connected: false,
            error: None,
            has_failed: false,
            received: VecDeque::new(),
            has_received_end: false,
            outgoing: VecDeque::new(),
            outgoing_bytes: 0,
            has_sent_end: false,
            last_arrival: 0,
            is_transmitting: false,
            attempts: 0,
            was_full: false,
            is_stalled: false,
            is_closed: false,
            watchers: Vec::new(),
        }
    }

    pub(super) fn readiness(&self) -> Readiness {
        let is_full = self.outgoing_bytes >= SEND_BUFFER_BYTES;
        Readiness {
            readable: !self.received.is_empty() || self.has_received_end || self.has_failed,
            writable: self.has_failed || (self.is_connected && !is_full),
            read_closed: self.has_received_end || self.has_failed,
            hung_up: self.has_failed || (self.has_received_end && self.has_sent_end),
            failed: self.error.is_some(),
        }
    }
}

impl Kernel {
    pub(super) fn on_reset(&mut self, id: ObjectId) {
        self.fail(id, StreamError::Reset);
    }

    /// Ends a connection with an error, at this end.
    pub(super) fn fail(&mut self, id: ObjectId, error: StreamError) {
        let Ok(stream) = self.stream(id) else { return };
        if stream.is_closed {
            self.objects.remove(&id);
            return;
        }
        if stream.has_failed {
            return;
        }
        stream.error.get_or_insert(error);
        stream.has_failed = true;
        stream.is_connected = false;
        stream.received.clear();
        stream.outgoing.clear();
        stream.outgoing_bytes = 0;
        let all = Readiness {
            readable: true,
            writable: true,
            read_closed: true,
            hung_up: true,
            failed: true,
        };
        self.notify(id, all);
    }

    pub(super) fn stream(&mut self, id: ObjectId) -> Result<&mut Stream, DescriptorError> {
        match self.object(id)? {
            Object::Stream(stream) => Ok(stream),
            _ => Err(DescriptorError::Invalid),
        }
    }

    fn stream_of(&mut self, descriptor: i32) -> Result<(ObjectId, &mut Stream), DescriptorError> {
        let id = self.object_of(descriptor)?;
        Ok((id, self.stream(id)?))
    }

    /// Reads received bytes; 0 at the end of the stream.
    pub(crate) fn receive(
        &mut self,
        descriptor: i32,
        buffer: &mut [u8],
        peek: bool,
    ) -> Result<usize, DescriptorError> {
        let (_, stream) = self.stream_of(descriptor)?;
        if stream.received.is_empty() {
            if let Some(error) = stream.error.take() {
                return Err(DescriptorError::Stream(error));
            }
            if stream.has_received_end || stream.has_failed {
                return Ok(0);
            }
            return match stream.is_connected {
                true => Err(DescriptorError::WouldBlock),
                false => Err(DescriptorError::Stream(StreamError::NotConnected)),
            };
        }
        let count = buffer.len().min(stream.received.len());
        let (first, second) = stream.received.as_slices();
        let split = count.min(first.len());
        buffer[..split].copy_from_slice(&first[..split]);
        buffer[split..count].copy_from_slice(&second[..count - split]);
        if !peek {
            let was_full = stream.received.len() >= RECEIVE_BUFFER_BYTES;
            stream.received.drain(..count);
            let peer = stream.peer;
            if was_full && let Some(peer) = peer {
                self.transmit(peer);
            }
        }
        Ok(count)
    }

    /// Writes as much as there is room for.
    pub(crate) fn send(&mut self, descriptor: i32, bytes: &[u8]) -> Result<usize, DescriptorError> {
        let (id, stream) = self.stream_of(descriptor)?;
        if let Some(error) = stream.error.take() {
            return Err(DescriptorError::Stream(error));
        }
        if stream.has_failed || stream.has_sent_end {
            return Err(DescriptorError::Stream(StreamError::Closed));
        }
        if !stream.is_connected {
            return Err(DescriptorError::Stream(StreamError::NotConnected));
        }
        let room = SEND_BUFFER_BYTES.saturating_sub(stream.outgoing_bytes);
        let count = room.min(bytes.len());
        if count == 0 {
            stream.was_full = true;
            return Err(DescriptorError::WouldBlock);
        }
        stream.was_full = count < bytes.len();
        stream.outgoing_bytes += count;
        self.enqueue(id, Content::Data(bytes[..count].to_vec()), count);
        Ok(count)
    }

    fn enqueue(&mut self, id: ObjectId, content: Content, bytes: usize) {
        let Ok(stream) = self.stream(id) else { return };
        let (from, remote) = (stream.process.host, stream.remote);
        let Some(to) = self.host_at(*remote.ip()) else { return };
        let arrives_at = self.arrival(from, to, bytes);
        let Ok(stream) = self.stream(id) else { return };
        let arrives_at = arrives_at.max(stream.last_arrival);
        stream.last_arrival = arrives_at;
        stream.outgoing.push_back(Segment { arrives_at, content });
        self.transmit(id);
    }

    /// Sets the timer of the first segment.
    fn transmit(&mut self, id: ObjectId) {
        let now = self.now;
        let Ok(stream) = self.stream(id) else { return };
        if stream.is_transmitting {
            return;
        }
        let Some(first) = stream.outgoing.front() else { return };
        let at = first.arrives_at.max(now);
        stream.is_transmitting = true;
        self.timers.set(at, Timer::Transmit(id));
    }

    pub(super) fn on_transmit(&mut self, id: ObjectId) {
        let Ok(stream) = self.stream(id) else { return };
        stream.is_transmitting = false;
        let (from, remote, peer) = (stream.process.host, stream.remote, stream.peer);
        let is_stalled = stream.is_stalled;
        let Some(to) = self.host_at(*remote.ip()) else { return };
        if is_stalled || !self.delivers(from, to) {
            return self.transmit_again(id);
        }
        let Ok(stream) = self.stream(id) else { return };
        stream.attempts = 0;
        let Some(peer) = peer else { return };
        while self.deliver_first(id, peer) {}
        let now = self.now;
        let is_due = |stream: &Stream| {
            stream.outgoing.front().is_some_and(|segment| segment.arrives_at <= now)
        };
        // A segment that is due has no room. The reader sets the timer.
        if !self.stream(id).is_ok_and(|stream| is_due(stream)) {
            self.transmit(id);
        }
        self.remove_if_done(id);
    }

    /// Delivers the first segment, if it is due and has room; returns whether another one may follow.
    fn deliver_first(&mut self, id: ObjectId, peer: ObjectId) -> bool {
        let now = self.now;
        let Ok(stream) = self.stream(id) else { return false };
        if stream.outgoing.front().is_none_or(|segment| segment.arrives_at > now) {
            return false;
        }
        let (has_room, is_open) = match self.stream(peer) {
            Ok(peer) => {
                (peer.received.len() < RECEIVE_BUFFER_BYTES, !peer.is_closed && !peer.has_failed)
            }
            Err(_) => (true, false),
        };
        if !has_room {
            // The reader sets the timer again.
            return false;
        }
        let Ok(stream) = self.stream(id) else { return false };
        let Some(segment) = stream.outgoing.pop_front() else { return false };
        match segment.content {
            Content::Data(data) => {
                stream.outgoing_bytes -= data.len();
                self.record(2, hash(&data));
                let Ok(stream) = self.stream(id) else { return false };
                let has_drained = stream.was_full && stream.outgoing_bytes <= SEND_BUFFER_BYTES / 2;
                if has_drained {
                    stream.was_full = false;
                    self.notify(id, Readiness::WRITABLE);
                }
                if !is_open {
                    self.reset_back(id);
                    return false;
                }
                if let Ok(peer) = self.stream(peer) {
                    peer.received.extend(data);
                }
                self.notify(peer, Readiness::READABLE);
            }
            Content::End => {
                if let Ok(stream) = self.stream(peer) {
                    stream.has_received_end = true;
                    let hung_up = stream.has_sent_end;
                    let end = Readiness { read_closed: true, hung_up, ..Readiness::READABLE };
                    self.notify(peer, end);
                    self.remove_if_done(peer);
                }
            }
        }
        true
    }

    /// The other end has no such connection: it answers with a reset.
    fn reset_back(&mut self, id: ObjectId) {
        let Ok(stream) = self.stream(id) else { return };
        let remote = *stream.remote.ip();
        if let Some(from) = self.host_at(remote) {
            self.send_reset(from, id);
        }
    }

    fn transmit_again(&mut self, id: ObjectId) {
        let now = self.now;
        let Ok(stream) = self.stream(id) else { return };
        stream.attempts += 1;
        if stream.attempts > SEGMENT_ATTEMPTS {
            return self.fail(id, StreamError::TimedOut);
        }
        let delay = (SEGMENT_RETRY_NS << (stream.attempts - 1).min(8)).min(RETRY_MAX_NS);
        stream.is_transmitting = true;
        self.timers.set(now + delay, Timer::Transmit(id));
    }

    /// Ends the outgoing half.
    pub(crate) fn shut_down_write(&mut self, descriptor: i32) -> Result<(), DescriptorError> {
        let (id, stream) = self.stream_of(descriptor)?;
        if !stream.is_connected {
            return Err(DescriptorError::Stream(StreamError::NotConnected));
        }
        if !std::mem::replace(&mut stream.has_sent_end, true) {
            self.enqueue(id, Content::End, 0);
        }
        Ok(())
    }

    /// The process closes a stream: with unread bytes the other end gets a reset, else the end after everything that
    /// was written.
    pub(super) fn close_stream(&mut self, id: ObjectId) {
        let Ok(stream) = self.stream(id) else { return };
        stream.is_closed = true;
        if stream.has_failed || !stream.is_connected || !stream.received.is_empty() {
            let (host, peer) = (stream.process.host, stream.peer);
            self.objects.remove(&id);
            if let Some(peer) = peer {
                self.send_reset(host, peer);
            }
        } else {
            if !std::mem::replace(&mut stream.has_sent_end, true) {
                self.enqueue(id, Content::End, 0);
            }
            self.remove_if_done(id);
        }
    }

    /// Sends a reset to the other end of a stream, which may be lost.
    fn send_reset(&mut self, from: HostId, peer: ObjectId) {
        let Ok(stream) = self.stream(peer) else { return };
        let to = stream.process.host;
        if self.delivers(from, to) {
            let at = self.arrival(from, to, 0);
            self.timers.set(at, Timer::Reset(peer));
        }
    }

    /// Forgets a closed stream that has sent everything.
    fn remove_if_done(&mut self, id: ObjectId) {
        if let Ok(stream) = self.stream(id)
            && stream.is_closed
            && stream.outgoing.is_empty()
        {
            self.objects.remove(&id);
        }
    }

    pub(super) fn close_listener(&mut self, id: ObjectId) {
        if let Some(Object::Listener(listener)) = self.objects.remove(&id) {
            for stream in listener.backlog {
                let Ok(entry) = self.stream(stream) else { continue };
                let (host, peer) = (entry.process.host, entry.peer);
                self.objects.remove(&stream);
                if let Some(peer) = peer {
                    self.send_reset(host, peer);
                }
            }
        }
    }

    /// The streams between two hosts, at both ends, in the order in which they were opened.
    fn streams_between(&self, a: HostId, b: HostId) -> Vec<ObjectId> {
        let addresses = [*self.host_address(a), *self.host_address(b)];
        let is_between = |stream: &Stream| {
            let ends = [*stream.local.ip(), *stream.remote.ip()];
            ends == addresses || ends == [addresses[1], addresses[0]]
        };
        let streams = self
            .objects
            .iter()
            .filter(|(_, object)| matches!(object, Object::Stream(stream) if is_between(stream)));
        streams.map(|(&id, _)| id).collect()
    }

    /// Resets every connection between two hosts.
    pub fn reset_connections(&mut self, a: HostId, b: HostId) {
        for stream in self.streams_between(a, b) {
            self.fail(stream, StreamError::Reset);
        }
    }

    /// Lets nothing of one connection between two hosts arrive any more.
    pub fn stall_connection(&mut self, a: HostId, b: HostId, index: usize) {
        let streams = self.streams_between(a, b);
        let Some(&chosen) = streams.get(index % streams.len().max(1)) else { return };
        let Ok(stream) = self.stream(chosen) else { return };
        stream.is_stalled = true;
        if let Some(peer) = stream.peer
            && let Ok(peer) = self.stream(peer)
        {
            peer.is_stalled = true;
        }
    }

    /// The addresses of a socket: its own, and that of the other end.
    pub(crate) fn addresses(
        &mut self,
        descriptor: i32,
    ) -> Result<(SocketAddrV4, Option<SocketAddrV4>), DescriptorError> {
        const UNBOUND: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0);
        let id = self.object_of(descriptor)?;
        match self.object(id)? {
            Object::Socket { local, .. } => Ok((local.unwrap_or(UNBOUND), None)),
            Object::Listener(listener) => Ok((listener.local, None)),
            Object::Stream(stream) => {
                let remote = (stream.is_connected || stream.has_failed).then_some(stream.remote);
                Ok((stream.local, remote))
            }
            _ => Err(DescriptorError::Invalid),
        }
    }

    /// Takes the pending error of a socket.
    pub(crate) fn take_error(
        &mut self,
        descriptor: i32,
    ) -> Result<Option<StreamError>, DescriptorError> {
        let id = self.object_of(descriptor)?;
        match self.object(id)? {
            Object::Stream(stream) => Ok(stream.error.take()),
            _ => Ok(None),
        }
    }
}

impl Listener {
    pub(super) fn accepts(&self, address: SocketAddrV4) -> bool {
        self.local.port() == address.port()
            && (self.local.ip() == address.ip() || self.local.ip().is_unspecified())
    }
}

/// A hash of a segment, for the trace.
fn hash(bytes: &[u8]) -> u64 {
    let step = |hash: u64, &byte: &u8| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3);
    bytes.iter().fold(0xCBF2_9CE4_8422_2325, step)
}
