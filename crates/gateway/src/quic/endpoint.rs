//! The QUIC of one lane: its socket, its connections, one timer, and one task for all of them.
//!
//! A turn reads what came, looks after the connections that it was for, after those whose time has
//! come and those that the fan-out or a session has written to, and sends the packets of all of them
//! together. Nothing is locked and nobody is woken between a frame and its packet.

use std::io;
use std::net::UdpSocket;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pushonce_proto::close;
use quinn_proto::{
    ConnectionHandle, DatagramEvent, EndpointConfig, Incoming, ServerConfig, Transmit,
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::Door;
use super::link::{Due, Link};
use super::session::Session;
use super::socket::{Packet, Socket};
use super::steering::LaneIds;
use super::timers::{Alarm, Timers};
use crate::lane::Local;
use crate::metrics;

/// Handshakes under way at a lane; one more is refused. Each costs about half a millisecond of CPU:
/// many more would not be done in the time that a client waits.
const HANDSHAKES_MAX: usize = 1_024;

/// Handshakes beyond which only clients that own their address may begin one.
const HANDSHAKES_BUSY: usize = 128;

/// Looks at the socket in one turn, each up to some dozens of packets. Packets that wait take no
/// harm, frames that wait do.
const LOOKS_PER_TURN: usize = 4;

/// Connections that are looked after in one turn, at some 10 µs each: sockets wait less than a
/// millisecond to be read, and the packets of a turn are as many as go out together.
const CONNECTIONS_PER_TURN: usize = 64;

/// Packets of one connection in one turn. One that catches up does not hold up the others.
const PACKETS_PER_TURN: usize = 16;

pub(crate) struct Endpoint {
    local: Rc<Local>,
    protocol: quinn_proto::Endpoint,
    config: watch::Receiver<Arc<ServerConfig>>,
    socket: Socket,
    packets: Vec<Packet>,
    /// By the protocol's own handles.
    connections: Vec<Option<Connection>>,
    handshakes: usize,
    due: Rc<Due>,
    timers: Timers,
    /// Closed when the last lane is: were one closed earlier, the kernel would count anew.
    _group: Arc<[UdpSocket]>,
}

struct Connection {
    link: Rc<Link>,
    session: Session,
    alarm: Alarm,
    /// The lane waits for it when it takes its leave: until the client knows that it is over.
    _counted: TaskTrackerToken,
}

impl Endpoint {
    /// Opens the endpoint on the runtime of the lane that calls.
    pub(crate) fn open(door: Door, local: Rc<Local>) -> io::Result<Endpoint> {
        let Door { udp, lane, lanes, mut config, group } = door;
        let writes = local.meters.of(metrics::Door::Quic).writes.clone();
        let socket = Socket::open(udp, writes)?;
        let mut own = EndpointConfig::default();
        own.cid_generator(move || Box::new(LaneIds::new(lane, lanes)));
        let server = config.borrow_and_update().clone();
        let unbroken = !socket.may_fragment();
        let protocol = quinn_proto::Endpoint::new(Arc::new(own), Some(server), unbroken, None);
        Ok(Endpoint {
            local,
            protocol,
            config,
            socket,
            packets: Vec::new(),
            connections: Vec::new(),
            handshakes: 0,
            due: Rc::default(),
            timers: Timers::default(),
            _group: group,
        })
    }

    /// Runs until `over`, then cuts off whoever is left. Nobody is taken in from when the lane
    /// leaves.
    pub(crate) async fn run(mut self, over: CancellationToken) {
        let due = self.due.clone();
        let mut alarm = pin!(tokio::time::sleep(Duration::ZERO));
        while !over.is_cancelled() {
            if self.turn() {
                tokio::task::yield_now().await;
                continue;
            }
            let next = self.timers.next();
            if let Some(next) = next
                && alarm.deadline() != next.into()
            {
                alarm.as_mut().reset(next.into());
            }
            tokio::select! {
                biased;
                () = over.cancelled() => {}
                () = due.wait() => {}
                () = self.socket.ready() => {}
                () = alarm.as_mut(), if next.is_some() => {}
                Ok(()) = self.config.changed() => {
                    let config = self.config.borrow_and_update().clone();
                    self.protocol.set_server_config(Some(config));
                }
            }
        }
        self.cut_off();
    }

    /// Says whether there is more to do at once.
    fn turn(&mut self) -> bool {
        let now = Instant::now();
        let more_to_read = self.receive(now);
        self.ring(now);
        for _ in 0..CONNECTIONS_PER_TURN {
            if !self.socket.has_room() && !self.socket.send() {
                // Nothing more goes out until the kernel has room.
                return false;
            }
            let Some(handle) = self.due.next() else { break };
            self.look_after(handle, now);
        }
        let all_sent = self.socket.send();
        all_sent && (more_to_read || !self.due.is_empty())
    }

    // === in ===

    fn receive(&mut self, now: Instant) -> bool {
        let mut packets = std::mem::take(&mut self.packets);
        let more = (0..LOOKS_PER_TURN).all(|_| self.socket.receive(&mut packets));
        for packet in packets.drain(..) {
            self.take(packet, now);
        }
        self.packets = packets;
        more
    }

    fn take(&mut self, packet: Packet, now: Instant) {
        let Packet { from, to, ecn, data } = packet;
        let answer = self.socket.buffer();
        match self.protocol.handle(now, from, to, ecn, data, answer) {
            Some(DatagramEvent::ConnectionEvent(handle, event)) => {
                if let Some(Some(connection)) = self.connections.get(handle.0) {
                    connection.link.connection().handle_event(event);
                    connection.link.set_due();
                }
            }
            Some(DatagramEvent::NewConnection(incoming)) => self.admit(incoming, now),
            Some(DatagramEvent::Response(transmit)) => self.socket.put(transmit),
            None => {}
        }
    }

    fn admit(&mut self, incoming: Incoming, now: Instant) {
        let answer = self.socket.buffer();
        let full = self.handshakes >= HANDSHAKES_MAX || self.local.leaving.is_cancelled();
        let busy = self.handshakes >= HANDSHAKES_BUSY;
        if !full && busy && incoming.may_retry() && !incoming.remote_address_validated() {
            // It fails only when it was asked for before, which `may_retry` rules out.
            if let Ok(transmit) = self.protocol.retry(incoming, answer) {
                self.socket.put(transmit);
            }
            return;
        }
        let permit = if full { None } else { self.local.permit() };
        let Some(permit) = permit else {
            let transmit = self.protocol.refuse(incoming, answer);
            return self.refused(Some(transmit));
        };
        match self.protocol.accept(incoming, now, answer, None) {
            Ok((handle, connection)) => {
                let link = Rc::new(Link::new(handle, connection, self.due.clone()));
                link.set_due();
                self.seat(
                    handle,
                    Connection {
                        session: Session::new(self.local.clone(), link.clone(), permit),
                        link,
                        alarm: Alarm::default(),
                        _counted: self.local.count_in(),
                    },
                );
            }
            Err(error) => self.refused(error.response),
        }
    }

    fn refused(&mut self, answer: Option<Transmit>) {
        self.local.meters.of(metrics::Door::Quic).refused.increment(1);
        if let Some(transmit) = answer {
            self.socket.put(transmit);
        }
    }

    fn seat(&mut self, handle: ConnectionHandle, connection: Connection) {
        if self.connections.len() <= handle.0 {
            self.connections.resize_with(handle.0 + 1, || None);
        }
        self.connections[handle.0] = Some(connection);
        self.handshakes += 1;
    }

    // === in time ===

    /// Looks for deadlines that have come.
    fn ring(&mut self, now: Instant) {
        while let Some(index) = self.timers.due(now) {
            let Some(Some(connection)) = self.connections.get_mut(index) else { break };
            self.timers.clear(index, &mut connection.alarm);
            match connection.deadline() {
                Some(deadline) if now < deadline => {
                    self.timers.set(index, &mut connection.alarm, deadline);
                }
                _ => {
                    let met = connection.session.meets();
                    connection.expire(now);
                    self.handshakes -= usize::from(met && !connection.session.meets());
                }
            }
        }
    }

    // === each connection ===

    /// Tells the session what happened, lets it do what it can, and takes the packets that come of
    /// it.
    fn look_after(&mut self, handle: ConnectionHandle, now: Instant) {
        let Some(Some(connection)) = self.connections.get_mut(handle.0) else { return };
        let Connection { link, session, alarm, .. } = connection;
        let mut turn = link.take_call();
        let met = session.meets();
        while let Some(event) = link.event() {
            session.hear(event);
            turn = true;
        }
        if link.take_loss() {
            session.doubt();
            turn = true;
        }
        if turn {
            session.turn();
        }
        self.handshakes -= usize::from(met && !session.meets());
        link.clear_due();
        let mut connection = link.connection();
        let mut packets = 0;
        while packets < PACKETS_PER_TURN && self.socket.has_room() {
            let Some(transmit) = connection.poll_transmit(now, 1, self.socket.buffer()) else {
                break;
            };
            self.socket.put(transmit);
            packets += 1;
        }
        let more = packets == PACKETS_PER_TURN || !self.socket.has_room();
        if let Some(deadline) = earliest(&mut connection, session) {
            self.timers.set(handle.0, alarm, deadline);
        }
        let mut drained = false;
        while let Some(event) = connection.poll_endpoint_events() {
            drained |= event.is_drained();
            if let Some(event) = self.protocol.handle_event(handle, event) {
                connection.handle_event(event);
                link.set_due();
            }
        }
        drop(connection);
        if more {
            link.set_due();
        }
        if packets > 0 {
            link.has_sent();
        }
        if drained {
            self.forget(handle);
        }
    }

    fn forget(&mut self, handle: ConnectionHandle) {
        if let Some(mut connection) = self.connections[handle.0].take() {
            self.timers.clear(handle.0, &mut connection.alarm);
            self.handshakes -= usize::from(connection.session.meets());
        }
    }

    /// Says goodbye to whoever is left, once.
    fn cut_off(mut self) {
        let now = Instant::now();
        for index in 0..self.connections.len() {
            let Some(Some(connection)) = self.connections.get_mut(index) else { continue };
            connection.link.close(&close::GOING_AWAY, "the server is going away");
            let mut protocol = connection.link.connection();
            if let Some(transmit) = protocol.poll_transmit(now, 1, self.socket.buffer()) {
                drop(protocol);
                self.socket.put(transmit);
            }
            if !self.socket.has_room() {
                self.socket.send();
            }
        }
        self.socket.send();
    }
}

// === impl Connection ===

impl Connection {
    fn deadline(&self) -> Option<Instant> {
        earliest(&mut self.link.connection(), &self.session)
    }

    /// A deadline has come: of the protocol, of the session, or of both.
    fn expire(&mut self, now: Instant) {
        let passed = |deadline: Option<Instant>| deadline.is_some_and(|deadline| deadline <= now);
        let mut protocol = self.link.connection();
        if passed(protocol.poll_timeout()) {
            protocol.handle_timeout(now);
        }
        drop(protocol);
        if passed(self.session.deadline()) {
            self.session.expire();
        }
        self.link.set_due();
    }
}

fn earliest(protocol: &mut quinn_proto::Connection, session: &Session) -> Option<Instant> {
    [protocol.poll_timeout(), session.deadline()].into_iter().flatten().min()
}
