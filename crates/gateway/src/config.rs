//! The settings of the gateway.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use crate::AllowedOrigins;

/// The settings of a [`Gateway`](crate::Gateway).
#[derive(Clone, Debug)]
pub struct Config {
    /// Address of HTTP and WebSocket, without TLS. Port 0 selects a free port.
    pub http: SocketAddr,
    /// The listener of HTTP and WebSocket with TLS, if there is one.
    pub https: Option<HttpsConfig>,
    /// Address of QUIC. Port 0 selects a free port. A delivery costs a quarter less on one specific address
    /// than on all addresses (`0.0.0.0`): packets without an explicit source address can be sent together.
    pub quic: SocketAddr,
    /// The origins of pages that may use the node besides its own pages.
    pub origins: AllowedOrigins,
    /// The host under which others know the node: accepted as `Host` by a listener on a loopback address.
    pub advertise: Option<String>,
    /// Number of threads that serve sessions, each with its own listener; 0 counts as 1.
    pub lanes: usize,
    /// Whether each lane is pinned to its own core, if there are enough cores and the system allows it.
    pub pin_lanes: bool,
    /// Interval of heartbeats to each session, and the unit of idle detection: a client is pinged after one
    /// silent interval and closed after [`IDLE_INTERVALS`].
    pub heartbeat: Duration,
    /// Maximum time for a client to send its request headers, to finish the QUIC handshake, and then to open
    /// its control stream.
    pub handshake_timeout: Duration,
    /// Maximum time for a client to send a request body.
    pub body_timeout: Duration,
    /// Maximum bytes of request line and headers. Values below 8 KiB count as 8 KiB.
    pub header_bytes_max: usize,
    /// Maximum number of pending publishes of one session. Further ones are rejected with `overloaded`.
    pub publishes_max: usize,
    /// Maximum number of connections over all transports. Further ones get 503, or are refused on QUIC.
    pub connections_max: usize,
    /// Maximum number of connections of one client address (IPv6: of one network of 64 bits) over HTTP,
    /// WebSocket, QUIC and gRPC, and with it the limit of the rate of new ones; 0 for neither. 127.0.0.1 and
    /// `::1` are not limited.
    pub address_connections_max: usize,
    /// Maximum number of publishes a second of one caller over HTTP, WebSocket and QUIC, twice as many at once; 0
    /// for no limit. Callers on 127.0.0.1 and `::1` are not limited.
    pub publish_rate_max: u32,
    /// Maximum number of subscriptions a second of one caller over WebSocket, QUIC and gRPC,
    /// [`SUBSCRIBE_BURST_SECONDS`](pushonce_listener::SUBSCRIBE_BURST_SECONDS) times as many at once; 0 for no limit.
    /// Callers on 127.0.0.1 and `::1` are not limited.
    pub subscribe_rate_max: u32,
    /// Maximum number of replicated topics that one caller may create in a second over HTTP, WebSocket, QUIC and gRPC,
    /// [`NEW_TOPIC_BURST_SECONDS`](pushonce_listener::NEW_TOPIC_BURST_SECONDS) times as many at once; 0 for no limit.
    /// Callers on 127.0.0.1 and `::1` are not limited.
    pub new_topic_rate_max: u32,
    /// Maximum bytes of all requests and messages that are only half received.
    pub receive_bytes_max: usize,
    /// Whether the WebSocket extension permessage-deflate (RFC 7692) is accepted. A message is then
    /// compressed once for all its subscribers on this node, and no session keeps state for it. Compression
    /// costs 10 to 20 µs for some hundred bytes and about 15 µs per KiB of a large message; a delivery costs
    /// 4 µs. It pays off if a message has ten subscribers or bandwidth is expensive, and not if each topic
    /// has a single subscriber.
    pub compression: bool,
    /// Maximum age of a session, which is then closed with
    /// [`SESSION_AGE`](pushonce_proto::close::SESSION_AGE); `None` for no limit.
    pub session_age_max: Option<Duration>,
    /// Age after which an event stream ends and its client connects again, differing by a fifth from stream to
    /// stream; `None` for no limit. It spreads streams over the nodes again after one was added, and ends those
    /// that a proxy holds open for a client that is gone.
    pub sse_age_max: Option<Duration>,
    /// Time to drain sessions at shutdown. Sessions get their `goaway` spread over four fifths of it, so that
    /// they reconnect to other servers at an even rate; the last fifth is for sessions that close slowly.
    /// Zero sends all of them at once.
    pub grace: Duration,
}

/// A listener of HTTP and WebSocket with TLS.
#[derive(Clone, Debug)]
pub struct HttpsConfig {
    /// Its address. Port 0 selects a free port.
    pub address: SocketAddr,
    /// The settings of TLS. The gateway sets the application protocols.
    pub tls: rustls::ServerConfig,
}

/// The TLS settings of new connections.
#[derive(Clone, Debug)]
pub(crate) struct HttpsSettings {
    /// Of a connection with a regular permit: HTTP/2 or HTTP/1.1.
    pub(crate) regular: Arc<rustls::ServerConfig>,
    /// Of a connection that gets one response: HTTP/1.1.
    pub(crate) one_response: Arc<rustls::ServerConfig>,
}

impl HttpsSettings {
    pub(crate) fn new(config: &rustls::ServerConfig) -> HttpsSettings {
        let with_protocols = |names: &[&[u8]]| {
            let mut config = config.clone();
            config.alpn_protocols = names.iter().map(|name| name.to_vec()).collect();
            Arc::new(config)
        };
        HttpsSettings {
            regular: with_protocols(&[b"h2", b"http/1.1"]),
            one_response: with_protocols(&[b"http/1.1"]),
        }
    }
}

/// Silent heartbeat intervals after which a session is closed as idle. Fewer than two would close a client
/// whose only pong was lost in a network change; with three, a vanished phone holds its socket for 75 s by
/// default.
pub const IDLE_INTERVALS: u8 = 3;

/// Heartbeat intervals without a single written byte after which a blocked session is closed as slow. Its
/// cursor costs little, but the full send buffer of the kernel costs some hundred KiB.
pub const STUCK_INTERVALS: u8 = 2;

impl Default for Config {
    fn default() -> Config {
        Config {
            http: SocketAddr::from((Ipv4Addr::LOCALHOST, 7080)),
            https: None,
            quic: SocketAddr::from((Ipv4Addr::LOCALHOST, 7443)),
            origins: AllowedOrigins::default(),
            advertise: None,
            lanes: std::thread::available_parallelism().map_or(1, usize::from),
            pin_lanes: false,
            // Below the 30 s after which many proxies and home routers drop an idle connection.
            heartbeat: Duration::from_secs(25),
            handshake_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(30),
            header_bytes_max: 16 << 10,
            publishes_max: 64,
            connections_max: 200_000,
            // The viewers behind one address translator of a stadium or of a mobile provider.
            address_connections_max: 10_000,
            publish_rate_max: 1_000,
            // 6 % of a lane. The 10,000 sessions behind one address come back at once.
            subscribe_rate_max: 2_000,
            // The million topics of a namespace take more than an hour.
            new_topic_rate_max: 200,
            // Sixty of the largest messages at once.
            receive_bytes_max: 64 << 20,
            // On a typical node a message has many subscribers, and browsers offer compression.
            compression: true,
            session_age_max: None,
            // A page that is open all day connects a hundred times, which costs nothing.
            sse_age_max: Some(Duration::from_secs(15 * 60)),
            grace: Duration::from_secs(5),
        }
    }
}
