//! The endpoint of one lane without its socket: packets and times in, packets out.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use quinn_proto::{
    ConnectionHandle, DatagramEvent, EndpointConfig, Incoming, ServerConfig, Transmit,
};

use crate::connection::Connection;
use crate::handler::{Acceptor, ConnectionEvent, ConnectionHandler};
use crate::ready_queue::ReadyQueue;
use crate::send_batch::SendBatch;
use crate::socket::ReceivedPacket;
use crate::steering::LaneCidGenerator;
use crate::timers::{ConnectionTimer, Timers};
use crate::unproven_address::UnprovenAddress;

/// Handshakes in progress on a lane; one more is refused. Each costs about half a millisecond of CPU: many
/// more would not complete in the time that a client waits.
const HANDSHAKES_MAX: usize = 1_024;

/// Handshakes in progress beyond which a client must prove its address before it may start one.
const HANDSHAKES_BEFORE_RETRY: usize = 128;

/// Packets of one connection in one turn, so that one that catches up does not delay the others.
const PACKETS_PER_TURN: usize = 16;

pub(crate) struct Engine<A: Acceptor> {
    acceptor: A,
    protocol: quinn_proto::Endpoint,
    /// By [`ConnectionHandle`].
    connections: Vec<Option<ConnectionEntry<A::Handler>>>,
    handshakes: usize,
    ready_queue: Rc<ReadyQueue>,
    timers: Timers,
    /// Packets to be sent. The owner of the engine empties it.
    pub(crate) batch: SendBatch,
}

struct ConnectionEntry<H> {
    connection: Rc<Connection>,
    handler: H,
    timer: ConnectionTimer,
    /// `None` once the client has proven its address.
    unproven: Option<UnprovenAddress>,
}

impl<A: Acceptor> Engine<A> {
    /// An engine for lane `lane` of `lanes`.
    pub(crate) fn new(
        acceptor: A,
        server_config: Arc<ServerConfig>,
        (lane, lanes): (usize, usize),
        allow_mtud: bool,
    ) -> Engine<A> {
        let mut config = EndpointConfig::default();
        config.cid_generator(move || Box::new(LaneCidGenerator::new(lane, lanes)));
        let protocol =
            quinn_proto::Endpoint::new(Arc::new(config), Some(server_config), allow_mtud, None);
        Engine {
            acceptor,
            protocol,
            connections: Vec::new(),
            handshakes: 0,
            ready_queue: Rc::default(),
            timers: Timers::default(),
            batch: SendBatch::new(),
        }
    }

    /// New connections get this configuration.
    pub(crate) fn set_server_config(&mut self, config: Arc<ServerConfig>) {
        self.protocol.set_server_config(Some(config));
    }

    pub(crate) fn ready_queue(&self) -> &Rc<ReadyQueue> {
        &self.ready_queue
    }

    /// When [`Engine::fire_timers`] is to be called.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.timers.next_deadline()
    }

    // === packets ===

    pub(crate) fn on_packet(&mut self, packet: ReceivedPacket, now: Instant) {
        let ReceivedPacket { source, local_ip, ecn, data } = packet;
        let received = data.len();
        let buffer = self.batch.next_buffer();
        match self.protocol.handle(now, source, local_ip, ecn, data, buffer) {
            Some(DatagramEvent::ConnectionEvent(handle, event)) => {
                if let Some(Some(entry)) = self.connections.get_mut(handle.0) {
                    if let Some(address) = &mut entry.unproven {
                        address.on_received(received);
                    }
                    entry.connection.protocol().handle_event(event);
                    entry.connection.mark_ready();
                }
            }
            Some(DatagramEvent::NewConnection(incoming)) => {
                self.on_new_connection(incoming, received, now);
            }
            Some(DatagramEvent::Response(transmit)) => self.batch.enqueue(transmit),
            None => {}
        }
    }

    fn on_new_connection(&mut self, incoming: Incoming, received: usize, now: Instant) {
        let buffer = self.batch.next_buffer();
        let is_full = self.handshakes >= HANDSHAKES_MAX || !self.acceptor.is_accepting();
        let is_busy = self.handshakes >= HANDSHAKES_BEFORE_RETRY;
        if !is_full && is_busy && incoming.may_retry() && !incoming.remote_address_validated() {
            // Fails only after an earlier retry, which `may_retry` rules out.
            if let Ok(transmit) = self.protocol.retry(incoming, buffer) {
                self.batch.enqueue(transmit);
            }
            return;
        }
        let permit = if is_full { None } else { self.acceptor.admit(incoming.remote_address()) };
        let Some(permit) = permit else {
            let transmit = self.protocol.refuse(incoming, buffer);
            return self.send_refusal(Some(transmit));
        };
        let mut unproven = (!incoming.remote_address_validated()).then(UnprovenAddress::default);
        if let Some(address) = &mut unproven {
            address.on_received(received);
        }
        match self.protocol.accept(incoming, now, buffer, None) {
            Ok((handle, protocol)) => {
                let connection =
                    Rc::new(Connection::new(handle, protocol, self.ready_queue.clone()));
                connection.mark_ready();
                let handler = self.acceptor.open(connection.clone(), permit);
                let timer = ConnectionTimer::default();
                self.insert(handle, ConnectionEntry { connection, handler, timer, unproven });
            }
            Err(error) => self.send_refusal(error.response),
        }
    }

    fn send_refusal(&mut self, response: Option<Transmit>) {
        self.acceptor.on_refused();
        if let Some(transmit) = response {
            self.batch.enqueue(transmit);
        }
    }

    fn insert(&mut self, handle: ConnectionHandle, entry: ConnectionEntry<A::Handler>) {
        if self.connections.len() <= handle.0 {
            self.connections.resize_with(handle.0 + 1, || None);
        }
        self.connections[handle.0] = Some(entry);
        self.handshakes += 1;
    }

    // === deadlines ===

    /// Handles the deadlines that have passed.
    pub(crate) fn fire_timers(&mut self, now: Instant) {
        while let Some(index) = self.timers.next_expired(now) {
            let Some(Some(entry)) = self.connections.get_mut(index) else { break };
            self.timers.clear(index, &mut entry.timer);
            match entry.deadline() {
                Some(deadline) if now < deadline => {
                    self.timers.set(index, &mut entry.timer, deadline);
                }
                _ => {
                    let was_handshaking = entry.handler.is_handshaking();
                    entry.on_deadline(now);
                    self.handshakes -=
                        usize::from(was_handshaking && !entry.handler.is_handshaking());
                }
            }
        }
    }

    // === connections ===

    /// Drives the next ready connection. Returns false if there is none.
    pub(crate) fn drive_next(&mut self, now: Instant) -> bool {
        let Some(handle) = self.ready_queue.pop() else { return false };
        self.drive_connection(handle, now);
        true
    }

    /// Passes events to the handler, lets it read and write, and takes the packets that result.
    fn drive_connection(&mut self, handle: ConnectionHandle, now: Instant) {
        let Some(Some(entry)) = self.connections.get_mut(handle.0) else { return };
        let ConnectionEntry { connection, handler, timer, unproven } = entry;
        let was_handshaking = handler.is_handshaking();
        run_handler(connection, handler);
        self.handshakes -= usize::from(was_handshaking && !handler.is_handshaking());
        connection.clear_ready();
        let mut protocol = connection.protocol();
        if !protocol.is_handshaking() && !protocol.is_closed() {
            *unproven = None;
        }
        let mut packets = 0;
        while packets < PACKETS_PER_TURN && self.batch.has_room() {
            let Some(transmit) = protocol.poll_transmit(now, 1, self.batch.next_buffer()) else {
                break;
            };
            if unproven.as_mut().is_none_or(|address| address.try_send(transmit.size)) {
                self.batch.enqueue(transmit);
            }
            packets += 1;
        }
        let has_more = packets == PACKETS_PER_TURN || !self.batch.has_room();
        if let Some(deadline) = earliest_deadline(&mut protocol, handler) {
            self.timers.set(handle.0, timer, deadline);
        }
        let mut drained = false;
        while let Some(event) = protocol.poll_endpoint_events() {
            drained |= event.is_drained();
            if let Some(event) = self.protocol.handle_event(handle, event) {
                protocol.handle_event(event);
                connection.mark_ready();
            }
        }
        drop(protocol);
        if has_more {
            connection.mark_ready();
        }
        if packets > 0 {
            connection.on_packets_sent();
        }
        if drained {
            self.remove(handle);
        }
    }

    fn remove(&mut self, handle: ConnectionHandle) {
        if let Some(mut entry) = self.connections[handle.0].take() {
            self.timers.clear(handle.0, &mut entry.timer);
            self.handshakes -= usize::from(entry.handler.is_handshaking());
        }
    }

    /// Closes all connections. `flush` is called whenever the batch is full.
    pub(crate) fn close_all(
        &mut self,
        code: u32,
        reason: &str,
        mut flush: impl FnMut(&mut SendBatch),
    ) {
        let now = Instant::now();
        for ConnectionEntry { connection, unproven, .. } in self.connections.iter_mut().flatten() {
            connection.close(code, reason);
            let mut protocol = connection.protocol();
            if let Some(transmit) = protocol.poll_transmit(now, 1, self.batch.next_buffer())
                && unproven.as_mut().is_none_or(|address| address.try_send(transmit.size))
            {
                self.batch.enqueue(transmit);
            }
            if !self.batch.has_room() {
                flush(&mut self.batch);
            }
        }
        flush(&mut self.batch);
    }

    /// Number of connections, closing ones included.
    pub(crate) fn connection_count(&self) -> usize {
        self.connections.iter().flatten().count()
    }
}

fn run_handler(connection: &Connection, handler: &mut impl ConnectionHandler) {
    let mut has_work = connection.take_handler_wake();
    while let Some(event) = connection.poll_event() {
        if let Some(event) = ConnectionEvent::from_protocol(&event) {
            handler.on_event(event);
        }
        has_work = true;
    }
    if connection.take_packet_loss() {
        handler.on_packet_lost();
        has_work = true;
    }
    if has_work {
        handler.drive();
    }
}

impl<H: ConnectionHandler> ConnectionEntry<H> {
    fn deadline(&self) -> Option<Instant> {
        earliest_deadline(&mut self.connection.protocol(), &self.handler)
    }

    /// A deadline has passed: of the protocol, of the handler, or of both.
    fn on_deadline(&mut self, now: Instant) {
        let has_passed =
            |deadline: Option<Instant>| deadline.is_some_and(|deadline| deadline <= now);
        let mut protocol = self.connection.protocol();
        if has_passed(protocol.poll_timeout()) {
            protocol.handle_timeout(now);
        }
        drop(protocol);
        if has_passed(self.handler.deadline()) {
            self.handler.on_deadline();
        }
        self.connection.mark_ready();
    }
}

fn earliest_deadline(
    protocol: &mut quinn_proto::Connection,
    handler: &impl ConnectionHandler,
) -> Option<Instant> {
    [protocol.poll_timeout(), handler.deadline()].into_iter().flatten().min()
}
