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

use super::QuicListener;
use super::connection::{LaneConnection, ReadyQueue};
use super::session::Session;
use super::socket::{BatchSocket, ReceivedPacket};
use super::steering::LaneCidGenerator;
use super::timers::{ConnectionTimer, Timers};
use crate::lane::LaneState;
use crate::{driver, metrics};

/// Handshakes under way at a lane; one more is refused. Each costs about half a millisecond of CPU:
/// many more would not be done in the time that a client waits.
const HANDSHAKES_MAX: usize = 1_024;

/// Handshakes beyond which only clients that own their address may begin one.
const HANDSHAKES_BEFORE_RETRY: usize = 128;

/// Looks at the socket in one turn, each up to some dozens of packets. Packets that wait take no
/// harm, frames that wait do.
const RECEIVES_PER_TURN: usize = 4;

/// Connections that are looked after in one turn, at some 10 µs each: sockets wait less than a
/// millisecond to be read, and the packets of a turn are as many as go out together.
const CONNECTIONS_PER_TURN: usize = 64;

/// Packets of one connection in one turn. One that catches up does not hold up the others.
const PACKETS_PER_TURN: usize = 16;

pub(crate) struct Endpoint {
    lane: Rc<LaneState>,
    protocol: quinn_proto::Endpoint,
    config: watch::Receiver<Arc<ServerConfig>>,
    socket: BatchSocket,
    packets: Vec<ReceivedPacket>,
    /// By the protocol's own handles.
    connections: Vec<Option<ConnectionEntry>>,
    handshakes: usize,
    ready_queue: Rc<ReadyQueue>,
    timers: Timers,
    /// Closed when the last lane is: were one closed earlier, the kernel would count anew.
    _all_sockets: Arc<[UdpSocket]>,
}

struct ConnectionEntry {
    connection: Rc<LaneConnection>,
    session: Session,
    timer: ConnectionTimer,
    span: tracing::Span,
    /// The lane waits for it when it takes its leave: until the client knows that it is over.
    _drain_token: TaskTrackerToken,
}

impl Endpoint {
    /// Opens the endpoint on the runtime of the lane that calls.
    pub(crate) fn open(listener: QuicListener, lane: Rc<LaneState>) -> io::Result<Endpoint> {
        let QuicListener { udp, lane_index, lane_count, mut config, all_sockets } = listener;
        let writes = lane.metrics.for_transport(metrics::TransportKind::Quic).writes.clone();
        let socket = BatchSocket::open(udp, writes)?;
        let mut endpoint_config = EndpointConfig::default();
        endpoint_config
            .cid_generator(move || Box::new(LaneCidGenerator::new(lane_index, lane_count)));
        let server_config = config.borrow_and_update().clone();
        let allow_mtud = !socket.may_fragment();
        let protocol = quinn_proto::Endpoint::new(
            Arc::new(endpoint_config),
            Some(server_config),
            allow_mtud,
            None,
        );
        Ok(Endpoint {
            lane,
            protocol,
            config,
            socket,
            packets: Vec::new(),
            connections: Vec::new(),
            handshakes: 0,
            ready_queue: Rc::default(),
            timers: Timers::default(),
            _all_sockets: all_sockets,
        })
    }

    /// Runs until `over`, then cuts off whoever is left. Nobody is taken in from when the lane
    /// leaves.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let ready_queue = self.ready_queue.clone();
        let mut sleep = pin!(tokio::time::sleep(Duration::ZERO));
        while !stop.is_cancelled() {
            if self.run_turn() {
                tokio::task::yield_now().await;
                continue;
            }
            let next_deadline = self.timers.next_deadline();
            if let Some(next) = next_deadline
                && sleep.deadline() != next.into()
            {
                sleep.as_mut().reset(next.into());
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => {}
                () = ready_queue.wait() => {}
                () = self.socket.ready() => {}
                () = sleep.as_mut(), if next_deadline.is_some() => {}
                Ok(()) = self.config.changed() => {
                    let config = self.config.borrow_and_update().clone();
                    self.protocol.set_server_config(Some(config));
                }
            }
        }
        self.close_all();
    }

    /// Says whether there is more to do at once.
    fn run_turn(&mut self) -> bool {
        let now = Instant::now();
        let more_to_read = self.receive_packets(now);
        self.fire_timers(now);
        for _ in 0..CONNECTIONS_PER_TURN {
            if !self.socket.has_room() && !self.socket.flush() {
                // Nothing more goes out until the kernel has room.
                return false;
            }
            let Some(handle) = self.ready_queue.pop() else { break };
            self.drive_connection(handle, now);
        }
        let all_sent = self.socket.flush();
        all_sent && (more_to_read || !self.ready_queue.is_empty())
    }

    // === in ===

    fn receive_packets(&mut self, now: Instant) -> bool {
        let mut packets = std::mem::take(&mut self.packets);
        let has_more = (0..RECEIVES_PER_TURN).all(|_| self.socket.receive(&mut packets));
        for packet in packets.drain(..) {
            self.on_packet(packet, now);
        }
        self.packets = packets;
        has_more
    }

    fn on_packet(&mut self, packet: ReceivedPacket, now: Instant) {
        let ReceivedPacket { source, local_ip, ecn, data } = packet;
        let buffer = self.socket.next_buffer();
        match self.protocol.handle(now, source, local_ip, ecn, data, buffer) {
            Some(DatagramEvent::ConnectionEvent(handle, event)) => {
                if let Some(Some(entry)) = self.connections.get(handle.0) {
                    entry.connection.protocol().handle_event(event);
                    entry.connection.mark_ready();
                }
            }
            Some(DatagramEvent::NewConnection(incoming)) => self.on_new_connection(incoming, now),
            Some(DatagramEvent::Response(transmit)) => self.socket.enqueue(transmit),
            None => {}
        }
    }

    fn on_new_connection(&mut self, incoming: Incoming, now: Instant) {
        let buffer = self.socket.next_buffer();
        let is_full = self.handshakes >= HANDSHAKES_MAX || self.lane.draining.is_cancelled();
        let is_busy = self.handshakes >= HANDSHAKES_BEFORE_RETRY;
        if !is_full && is_busy && incoming.may_retry() && !incoming.remote_address_validated() {
            // It fails only when it was asked for before, which `may_retry` rules out.
            if let Ok(transmit) = self.protocol.retry(incoming, buffer) {
                self.socket.enqueue(transmit);
            }
            return;
        }
        let permit = if is_full { None } else { self.lane.acquire_permit() };
        let Some(permit) = permit else {
            let transmit = self.protocol.refuse(incoming, buffer);
            return self.send_refusal(Some(transmit));
        };
        match self.protocol.accept(incoming, now, buffer, None) {
            Ok((handle, protocol)) => {
                let remote = protocol.remote_address();
                let span = tracing::debug_span!(
                    "session", id = driver::next_session_id(), transport = "quic", %remote
                );
                let connection =
                    Rc::new(LaneConnection::new(handle, protocol, self.ready_queue.clone()));
                connection.mark_ready();
                self.insert(
                    handle,
                    ConnectionEntry {
                        session: Session::new(self.lane.clone(), connection.clone(), permit),
                        connection,
                        timer: ConnectionTimer::default(),
                        span,
                        _drain_token: self.lane.track_connection(),
                    },
                );
            }
            Err(error) => self.send_refusal(error.response),
        }
    }

    fn send_refusal(&mut self, response: Option<Transmit>) {
        self.lane.metrics.for_transport(metrics::TransportKind::Quic).refused.increment(1);
        if let Some(transmit) = response {
            self.socket.enqueue(transmit);
        }
    }

    fn insert(&mut self, handle: ConnectionHandle, entry: ConnectionEntry) {
        if self.connections.len() <= handle.0 {
            self.connections.resize_with(handle.0 + 1, || None);
        }
        self.connections[handle.0] = Some(entry);
        self.handshakes += 1;
    }

    // === in time ===

    /// Looks for deadlines that have come.
    fn fire_timers(&mut self, now: Instant) {
        while let Some(index) = self.timers.next_expired(now) {
            let Some(Some(entry)) = self.connections.get_mut(index) else { break };
            self.timers.clear(index, &mut entry.timer);
            match entry.deadline() {
                Some(deadline) if now < deadline => {
                    self.timers.set(index, &mut entry.timer, deadline);
                }
                _ => {
                    let was_handshaking = entry.session.is_handshaking();
                    entry.on_deadline(now);
                    self.handshakes -=
                        usize::from(was_handshaking && !entry.session.is_handshaking());
                }
            }
        }
    }

    // === each connection ===

    /// Tells the session what happened, lets it do what it can, and takes the packets that come of
    /// it.
    fn drive_connection(&mut self, handle: ConnectionHandle, now: Instant) {
        let Some(Some(entry)) = self.connections.get_mut(handle.0) else { return };
        let ConnectionEntry { connection, session, timer, span, .. } = entry;
        let _entered = span.clone().entered();
        let mut has_work = connection.take_session_wake();
        let was_handshaking = session.is_handshaking();
        while let Some(event) = connection.poll_event() {
            session.on_event(event);
            has_work = true;
        }
        if connection.take_packet_loss() {
            session.on_packet_lost();
            has_work = true;
        }
        if has_work {
            session.drive();
        }
        self.handshakes -= usize::from(was_handshaking && !session.is_handshaking());
        connection.clear_ready();
        let mut protocol = connection.protocol();
        let mut packets = 0;
        while packets < PACKETS_PER_TURN && self.socket.has_room() {
            let Some(transmit) = protocol.poll_transmit(now, 1, self.socket.next_buffer()) else {
                break;
            };
            self.socket.enqueue(transmit);
            packets += 1;
        }
        let has_more = packets == PACKETS_PER_TURN || !self.socket.has_room();
        if let Some(deadline) = earliest_deadline(&mut protocol, session) {
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
            self.handshakes -= usize::from(entry.session.is_handshaking());
        }
    }

    /// Says goodbye to whoever is left, once.
    fn close_all(mut self) {
        let now = Instant::now();
        for index in 0..self.connections.len() {
            let Some(Some(entry)) = self.connections.get_mut(index) else { continue };
            entry.connection.close(&close::GOING_AWAY, "the server is going away");
            let mut protocol = entry.connection.protocol();
            if let Some(transmit) = protocol.poll_transmit(now, 1, self.socket.next_buffer()) {
                drop(protocol);
                self.socket.enqueue(transmit);
            }
            if !self.socket.has_room() {
                self.socket.flush();
            }
        }
        self.socket.flush();
    }
}

// === impl Connection ===

impl ConnectionEntry {
    fn deadline(&self) -> Option<Instant> {
        earliest_deadline(&mut self.connection.protocol(), &self.session)
    }

    /// A deadline has come: of the protocol, of the session, or of both.
    fn on_deadline(&mut self, now: Instant) {
        let has_passed =
            |deadline: Option<Instant>| deadline.is_some_and(|deadline| deadline <= now);
        let mut protocol = self.connection.protocol();
        if has_passed(protocol.poll_timeout()) {
            protocol.handle_timeout(now);
        }
        drop(protocol);
        if has_passed(self.session.deadline()) {
            self.session.on_deadline();
        }
        self.connection.mark_ready();
    }
}

fn earliest_deadline(protocol: &mut quinn_proto::Connection, session: &Session) -> Option<Instant> {
    [protocol.poll_timeout(), session.deadline()].into_iter().flatten().min()
}
