//! What the doors are told: where they stand and what they bear.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

/// The settings of a [`Gateway`](crate::Gateway).
#[derive(Clone, Debug)]
pub struct Config {
    /// Where HTTP and WebSocket are served, in the clear. Port 0 takes a free one.
    pub http: SocketAddr,
    /// Where QUIC is served. Port 0 takes a free one. On one address of the machine a delivery costs
    /// a quarter less than on all of them (`0.0.0.0`): packets that need not say which address they
    /// come from go out together.
    pub quic: SocketAddr,
    /// Threads that hold sessions, each with a listener of its own; 0 counts as 1.
    pub lanes: usize,
    /// Whether each lane is tied to a core of its own, where there are enough and the system allows it.
    pub pin_lanes: bool,
    /// How often a session hears from the server, and the unit of its patience: after one interval
    /// of silence a client is asked whether it is there, after [`IDLE_INTERVALS`] it is let go.
    pub heartbeat: Duration,
    /// How long a client may take to send its request headers, or to finish the QUIC handshake and
    /// open its control stream.
    pub handshake_timeout: Duration,
    /// How long a client may take to send the body of a request.
    pub body_timeout: Duration,
    /// Bytes of request line and headers; below 8 KiB counts as 8 KiB.
    pub header_bytes_max: usize,
    /// Publishes of one session that wait for their answer. One more is answered with `overloaded_lanes`.
    pub publishes_max: usize,
    /// Connections at all doors together. One more is answered with 503, or refused on QUIC.
    pub connections_max: usize,
    /// Whether an offer to deflate is taken (WebSocket, RFC 7692). A message is then deflated once for
    /// all its readers on this node, and no session holds any state for it: 10 to 20 µs for some hundred
    /// bytes, about 15 for each KiB of a large message, where a delivery is 4. So it pays where a message
    /// has ten readers or bytes cost money, and costs where each topic has a reader of its own.
    pub compression: bool,
    /// How long sessions have to take their leave when the gateway ends. They are told to go one by one
    /// over four fifths of it, so that their next servers accept them at an even rate; the last fifth is
    /// for those that close slowly. Zero tells all of them at once.
    pub grace: Duration,
}

/// Intervals of silence after which a session is closed as idle. Fewer than two would cut off a
/// client whose one pong was lost to a change of network; at three a vanished phone holds its
/// socket for 75 s.
pub const IDLE_INTERVALS: u8 = 3;

/// Intervals in which a blocked client took not one byte, after which it is closed as slow. Its
/// cursor costs little, but the kernel's full send buffer costs some hundred KiB.
pub const STUCK_INTERVALS: u8 = 2;

impl Default for Config {
    fn default() -> Config {
        Config {
            http: SocketAddr::from((Ipv4Addr::LOCALHOST, 7080)),
            quic: SocketAddr::from((Ipv4Addr::LOCALHOST, 7443)),
            lanes: std::thread::available_parallelism().map_or(1, usize::from),
            pin_lanes: false,
            // Below the half minute after which many proxies and home routers forget a connection.
            heartbeat: Duration::from_secs(25),
            handshake_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(30),
            header_bytes_max: 16 << 10,
            publishes_max: 64,
            connections_max: 200_000,
            // Publish once, everybody has it: many readers are what a node is for, and browsers offer it.
            compression: true,
            grace: Duration::from_secs(5),
        }
    }
}
