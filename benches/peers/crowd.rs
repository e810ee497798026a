//! Many connections on one thread: opens them, reads what comes, and says who heard what.
//!
//! Level-triggered epoll and one read a turn and socket, which is the least that a reader can do; of UDP
//! some packets, which are what one read of TCP brings.

mod anyone;
mod quic;

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use socket2::{Domain, SockRef, Socket, Type};

use crate::wire::{Opening, Role, Said, Wire};
use quic::Quic;

/// Takes some hundred messages that have piled up.
const SCRATCH_BYTES: usize = 64 << 10;

const EVENTS_MAX: usize = 1_024;

/// A server whose queue of new connections is full lets the handshake of TCP wait for a second.
const CONNECT_MAX: Duration = Duration::from_secs(5);

/// The queue of what a stopped reader has not read should fill on the server's side.
const STOPPED_BYTES: usize = 4 << 10;

/// Where everybody goes, and in which words.
pub(crate) struct Crowd {
    pub(crate) wire: Wire,
    server: SocketAddr,
    pub(crate) topics: Vec<String>,
    /// Whether subscribers note where they stand.
    marks: bool,
    poll: OwnedFd,
    /// Connections of QUIC, if that is what is spoken; the seats have no sockets then.
    quic: Option<Quic>,
    pub(crate) seats: Vec<Seat>,
    scratch: Box<[u8]>,
    events: Vec<epoll::Event>,
}

/// One connection, or the place of one.
pub(crate) struct Seat {
    pub(crate) nth: usize,
    pub(crate) role: Role,
    pub(crate) topics: Range<usize>,
    /// Reads nothing once it is ready.
    pub(crate) stopped: bool,
    /// Is among those who should read each message.
    pub(crate) counted: bool,
    socket: Option<TcpStream>,
    pub(crate) ready: bool,
    /// The front of what has not come whole. Mostly empty.
    partial: Vec<u8>,
    /// What the socket would not take yet.
    unsent: Vec<u8>,
    /// The next message it should see of each of its topics: of the whole run, not of the topic.
    pub(crate) next: Box<[u64]>,
    /// Topics that it is not subscribed to yet.
    awaited: usize,
    /// Where it stands, in the server's words.
    mark: String,
}

/// What is new at a seat.
#[derive(Debug)]
pub(crate) enum News<'a> {
    Ready,
    Message(&'a [u8]),
    Told(u64),
    Gone(String),
}

impl Seat {
    pub(crate) fn new(nth: usize, role: Role, topics: Range<usize>) -> Seat {
        Seat {
            nth,
            role,
            next: topics.clone().map(|topic| topic as u64).collect(),
            awaited: topics.len(),
            topics,
            stopped: false,
            counted: false,
            socket: None,
            ready: false,
            partial: Vec::new(),
            unsent: Vec::new(),
            mark: String::new(),
        }
    }
}

impl Crowd {
    pub(crate) fn new(
        wire: Wire,
        server: SocketAddr,
        topics: usize,
        marks: bool,
    ) -> io::Result<Crowd> {
        Ok(Crowd {
            wire,
            server,
            topics: (0..topics).map(|nth| format!("bench/{nth}")).collect(),
            marks,
            poll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            quic: wire.is_quic().then(|| Quic::new(server)).transpose()?,
            seats: Vec::new(),
            scratch: vec![0; SCRATCH_BYTES].into(),
            events: Vec::with_capacity(EVENTS_MAX),
        })
    }

    /// Connects a seat, and says what its protocol begins with.
    pub(crate) fn open(&mut self, nth: usize) -> io::Result<()> {
        let seat = &mut self.seats[nth];
        let mark = (!seat.mark.is_empty()).then_some(seat.mark.as_str());
        let Some((topic, others)) = self.topics[seat.topics.clone()].split_first() else {
            return Ok(());
        };
        seat.awaited = seat.topics.len();
        let opening = Opening { role: seat.role, topic, others, mark, marks: self.marks };
        let opening = self.wire.open(opening);
        if let Some(quic) = &mut self.quic {
            seat.unsent = opening;
            return quic.open(nth, &self.poll);
        }
        let socket = Socket::new(Domain::for_address(self.server), Type::STREAM, None)?;
        if seat.stopped {
            socket.set_recv_buffer_size(STOPPED_BYTES)?;
        }
        socket.connect_timeout(&self.server.into(), CONNECT_MAX)?;
        socket.set_tcp_nodelay(true)?;
        socket.set_nonblocking(true)?;
        let mut stream = TcpStream::from(socket);
        stream.write_all(&opening)?;
        let data = epoll::EventData::new_u64(nth as u64);
        epoll::add(&self.poll, &stream, data, epoll::EventFlags::IN)?;
        seat.socket = Some(stream);
        Ok(())
    }

    /// Cuts a connection as a lost network does: without a word.
    pub(crate) fn drop(&mut self, nth: usize) {
        if let Some(socket) = self.seats[nth].leave() {
            // At worst it is closed in the polite way.
            let _rude = SockRef::from(&socket).set_linger(Some(Duration::ZERO));
        }
        if let Some(quic) = &mut self.quic {
            quic.close(nth);
        }
    }

    /// Begins to read again.
    pub(crate) fn wake(&mut self, nth: usize) -> io::Result<()> {
        self.seats[nth].stopped = false;
        let Some(socket) = &self.seats[nth].socket else { return Ok(()) };
        let data = epoll::EventData::new_u64(nth as u64);
        Ok(epoll::add(&self.poll, socket, data, epoll::EventFlags::IN)?)
    }

    /// Puts a publish of seat `nth` behind what it has not sent yet.
    pub(crate) fn publish(&mut self, nth: usize, topic: usize, payload: &[u8]) {
        self.wire.publish(&mut self.seats[nth].unsent, &self.topics[topic], payload);
    }

    /// Sends what is to be sent, waits for something to read, at most for so long, and reads it.
    pub(crate) fn turn(
        &mut self,
        wait: Duration,
        publishers: Range<usize>,
        hear: &mut impl FnMut(&mut Seat, News<'_>, Instant),
    ) -> io::Result<()> {
        for nth in publishers {
            if let Err(why) = self.flush(nth, hear) {
                self.gone(nth, why, hear);
            }
        }
        let due = self.quic.as_ref().and_then(Quic::next);
        let wait = due.map_or(wait, |at| wait.min(at.saturating_duration_since(Instant::now())));
        // To the millisecond, rounded down: who waits for a moment polls for the last of it.
        let wait = Timespec { tv_sec: 0, tv_nsec: i64::from(wait.subsec_millis()) * 1_000_000 };
        let mut events = std::mem::take(&mut self.events);
        match epoll::wait(&self.poll, spare_capacity(&mut events), Some(&wait)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(why) => return Err(why.into()),
        }
        for event in events.drain(..) {
            let nth = event.data.u64() as usize;
            if let Err(why) = self.read(nth, hear) {
                self.gone(nth, why, hear);
            }
        }
        self.events = events;
        self.ring(hear);
        Ok(())
    }

    /// Does what the clock asks for.
    fn ring(&mut self, hear: &mut impl FnMut(&mut Seat, News<'_>, Instant)) {
        let now = Instant::now();
        while let Some(quic) = &mut self.quic
            && let Some(nth) = quic.due(now)
        {
            if let Err(why) = quic.go_on(nth, &mut self.seats[nth], self.wire, hear) {
                self.gone(nth, why, hear);
            }
        }
    }

    fn flush(
        &mut self,
        nth: usize,
        hear: &mut impl FnMut(&mut Seat, News<'_>, Instant),
    ) -> Result<(), String> {
        let seat = &mut self.seats[nth];
        match &mut self.quic {
            Some(quic) if !seat.unsent.is_empty() => quic.go_on(nth, seat, self.wire, hear),
            Some(_) => Ok(()),
            None => seat.flush().map_err(|why| why.to_string()),
        }
    }

    fn gone(
        &mut self,
        nth: usize,
        why: String,
        hear: &mut impl FnMut(&mut Seat, News<'_>, Instant),
    ) {
        if let Some(quic) = &mut self.quic {
            quic.close(nth);
        }
        self.seats[nth].gone(why, hear);
    }

    fn read(
        &mut self,
        nth: usize,
        hear: &mut impl FnMut(&mut Seat, News<'_>, Instant),
    ) -> Result<(), String> {
        let seat = &mut self.seats[nth];
        if let Some(quic) = &mut self.quic {
            return quic.read(nth, seat, self.wire, hear);
        }
        let Some(socket) = &mut seat.socket else { return Ok(()) };
        let count = match socket.read(&mut self.scratch) {
            Ok(0) => return Err("the server hung up".into()),
            Ok(count) => count,
            Err(why) if why.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(why) => return Err(why.to_string()),
        };
        let at = Instant::now();
        let mut partial = std::mem::take(&mut seat.partial);
        let bytes = &self.scratch[..count];
        seat.take_whole(&mut partial, bytes, self.wire, self.marks, at, hear)?;
        seat.partial = partial;
        if seat.stopped
            && seat.ready
            && let Some(socket) = &seat.socket
        {
            epoll::delete(&self.poll, socket).map_err(|why| why.to_string())?;
        }
        Ok(())
    }
}

impl Seat {
    /// Takes what is whole of `partial` and the bytes that follow it, and leaves the rest there.
    fn take_whole(
        &mut self,
        partial: &mut Vec<u8>,
        bytes: &[u8],
        wire: Wire,
        marks: bool,
        at: Instant,
        hear: &mut impl FnMut(&mut Seat, News<'_>, Instant),
    ) -> Result<(), String> {
        if partial.is_empty() {
            let rest = self.take(bytes, wire, marks, at, hear)?;
            partial.extend_from_slice(&bytes[bytes.len() - rest..]);
        } else {
            partial.extend_from_slice(bytes);
            let rest = self.take(partial, wire, marks, at, hear)?;
            partial.drain(..partial.len() - rest);
        }
        if partial.is_empty() {
            partial.shrink_to(0);
        }
        Ok(())
    }

    /// Takes whole things; gives back how many bytes are left.
    fn take(
        &mut self,
        mut bytes: &[u8],
        wire: Wire,
        marks: bool,
        at: Instant,
        hear: &mut impl FnMut(&mut Seat, News<'_>, Instant),
    ) -> Result<usize, String> {
        while let Some(said) = wire.next(&mut bytes, self.role, self.ready, marks)? {
            if let Said::Ask(answer) = said {
                self.unsent.extend(answer);
                self.flush().map_err(|why| why.to_string())?;
            } else {
                self.hear(said, at, hear);
            }
        }
        Ok(bytes.len())
    }

    fn hear(
        &mut self,
        said: Said<'_>,
        at: Instant,
        hear: &mut impl FnMut(&mut Seat, News<'_>, Instant),
    ) {
        match said {
            Said::Ready => {
                self.awaited = self.awaited.saturating_sub(1);
                // NATS says PONG to whoever asks.
                if self.awaited == 0 && !std::mem::replace(&mut self.ready, true) {
                    hear(self, News::Ready, at);
                }
            }
            Said::Message { payload, mark } => {
                if let Some(mark) = mark {
                    self.mark = String::from_utf8_lossy(mark).into_owned();
                }
                hear(self, News::Message(payload), at);
            }
            Said::Told(count) => hear(self, News::Told(count), at),
            Said::Ask(_) | Said::Aside => {}
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        let Some(socket) = &mut self.socket else { return Ok(()) };
        let mut sent = 0;
        while sent < self.unsent.len() {
            match socket.write(&self.unsent[sent..]) {
                Ok(count) => sent += count,
                Err(why) if why.kind() == io::ErrorKind::WouldBlock => break,
                Err(why) => return Err(why),
            }
        }
        self.unsent.drain(..sent);
        Ok(())
    }

    /// Closes, and is as it was in the beginning, but for its place in the topic.
    fn leave(&mut self) -> Option<TcpStream> {
        (self.ready, self.partial, self.unsent) = (false, Vec::new(), Vec::new());
        self.socket.take()
    }

    fn gone(&mut self, why: String, hear: &mut impl FnMut(&mut Seat, News<'_>, Instant)) {
        self.leave();
        hear(self, News::Gone(why), Instant::now());
    }
}
