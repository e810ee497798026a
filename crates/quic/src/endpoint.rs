//! The endpoint of one lane: its socket, one timer, and one task for all of its connections.
//!
//! A turn reads packets, drives the connections that received some, those whose deadline has passed and
//! those that were written to, and sends the packets of all of them together. Between a write and its
//! packet nothing is locked and no task is woken.

use std::io;
use std::net::UdpSocket;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pushonce_telemetry::Counter;
use quinn_proto::ServerConfig;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::engine::Engine;
use crate::handler::Acceptor;
use crate::port::Listener;
use crate::socket::{BatchSocket, ReceivedPacket};

/// Receive calls in one turn, each for up to some dozens of packets. Packets may wait in the socket
/// without harm, frames that are ready to be sent may not.
const RECEIVES_PER_TURN: usize = 4;

/// Connections that are driven in one turn, at some 10 µs each: a socket waits less than a millisecond
/// to be read, and the packets of a turn fill one batch.
const CONNECTIONS_PER_TURN: usize = 64;

/// Drives all connections of one lane.
pub struct Endpoint<A: Acceptor> {
    engine: Engine<A>,
    server_config: watch::Receiver<Arc<ServerConfig>>,
    socket: BatchSocket,
    /// Empty between turns.
    packets: Vec<ReceivedPacket>,
    /// Kept open until the last lane ends: if one closed earlier, the kernel would renumber the others.
    _all_sockets: Arc<[UdpSocket]>,
}

impl<A: Acceptor> Endpoint<A> {
    /// Opens the endpoint on the runtime of the calling lane. `writes` counts the system calls that send
    /// packets.
    ///
    /// # Errors
    /// When the runtime cannot register the socket.
    pub fn open(listener: Listener, acceptor: A, writes: Counter) -> io::Result<Endpoint<A>> {
        let Listener { udp, lane, lanes, mut server_config, all_sockets } = listener;
        let socket = BatchSocket::open(udp, writes)?;
        let current_config = server_config.borrow_and_update().clone();
        let allow_mtud = !socket.may_fragment();
        Ok(Endpoint {
            engine: Engine::new(acceptor, current_config, (lane, lanes), allow_mtud),
            server_config,
            socket,
            packets: Vec::new(),
            _all_sockets: all_sockets,
        })
    }

    /// Runs until `stop`, then closes the remaining connections with this code and reason.
    pub async fn run(mut self, stop: CancellationToken, code: u32, reason: &str) {
        let ready_queue = self.engine.ready_queue().clone();
        let mut sleep = pin!(tokio::time::sleep(Duration::ZERO));
        while !stop.is_cancelled() {
            if self.run_turn() {
                tokio::task::yield_now().await;
                continue;
            }
            let next_deadline = self.engine.next_deadline();
            if let Some(next) = next_deadline
                && sleep.deadline() != next.into()
            {
                sleep.as_mut().reset(next.into());
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => {}
                () = ready_queue.wait() => {}
                () = self.socket.ready(!self.engine.batch.is_empty()) => {}
                () = sleep.as_mut(), if next_deadline.is_some() => {}
                Ok(()) = self.server_config.changed() => {
                    let config = self.server_config.borrow_and_update().clone();
                    self.engine.set_server_config(config);
                }
            }
        }
        self.engine.close_all(code, reason, |batch| {
            self.socket.flush(batch);
        });
    }

    /// Returns whether there is more to do at once.
    fn run_turn(&mut self) -> bool {
        let now = Instant::now();
        let more_to_read = self.receive_packets(now);
        self.engine.fire_timers(now);
        for _ in 0..CONNECTIONS_PER_TURN {
            if !self.engine.batch.has_room() && !self.socket.flush(&mut self.engine.batch) {
                // Nothing more can be sent until the kernel has room.
                return false;
            }
            if !self.engine.drive_next(now) {
                break;
            }
        }
        let all_sent = self.socket.flush(&mut self.engine.batch);
        all_sent && (more_to_read || !self.engine.ready_queue().is_empty())
    }

    fn receive_packets(&mut self, now: Instant) -> bool {
        let has_more = (0..RECEIVES_PER_TURN).all(|_| self.socket.receive(&mut self.packets));
        for packet in self.packets.drain(..) {
            self.engine.on_packet(packet, now);
        }
        has_more
    }
}
