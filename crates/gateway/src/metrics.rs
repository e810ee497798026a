//! The metrics of the gateway. No label names a topic or a client.

use pushonce_listener::AddressRefusal;
use pushonce_proto::client::ErrorCode;
use pushonce_proto::close::CloseCode;
use pushonce_telemetry::{Counter, Gauge, Histogram, Metric, Unit};

/// Every metric of this crate.
pub const METRICS: &[Metric] = &[
    SESSIONS,
    SESSIONS_ACCEPTED,
    SESSIONS_REJECTED,
    SESSIONS_CLOSED,
    SESSIONS_SHED,
    CONNECTIONS_REJECTED,
    REQUESTS_REJECTED,
    PUBLISHES_REJECTED,
    READS_PAUSED,
    TLS_HANDSHAKE_FAILURES,
    RECEIVED_FRAMES,
    SENT_BYTES,
    WRITES,
    ERRORS,
    PRESSURE,
    PUBLISH,
];

const TRANSPORT: &[&str] = &["transport"];

const SESSIONS: Metric = Metric::gauge("pushonce_gateway_sessions", "Open sessions, by transport.")
    .with_labels(TRANSPORT);

const SESSIONS_ACCEPTED: Metric = Metric::counter(
    "pushonce_gateway_sessions_accepted_total",
    "Sessions that were opened, by transport.",
)
.with_labels(TRANSPORT);

pub(crate) const SESSIONS_REJECTED: Metric = Metric::counter(
    "pushonce_gateway_sessions_rejected_total",
    "Handshakes that were rejected, by transport.",
)
.with_labels(TRANSPORT);

const SESSIONS_CLOSED: Metric = Metric::counter(
    "pushonce_gateway_sessions_closed_total",
    "Sessions that this node closed, by close code.",
)
.with_labels(&["code"]);

const SESSIONS_SHED: Metric = Metric::counter(
    "pushonce_gateway_sessions_shed_total",
    "Sessions that this node closed because it was overloaded.",
);

const CONNECTIONS_REJECTED: Metric = Metric::counter(
    "pushonce_gateway_connections_rejected_total",
    "Client connections that were rejected, by what the node is short of: connections, descriptors or \
     load (memory or the backlog of a lane); or because of their address: address (it has its maximum of \
     connections) or address_rate (it opens them too fast).",
)
.with_labels(&["reason"]);

pub(crate) const REQUESTS_REJECTED: Metric = Metric::counter(
    "pushonce_gateway_requests_rejected_total",
    "HTTP requests, handshakes included, that were rejected before they were routed, by reason: origin (a page \
     whose origin is not in --origins), host (an unknown name of a node on a loopback address) or malformed.",
)
.with_labels(&["reason"]);

pub(crate) const PUBLISHES_REJECTED: Metric = Metric::counter(
    "pushonce_gateway_publishes_rejected_total",
    "Publishes over HTTP, WebSocket, QUIC and WebTransport that were rejected because their caller exceeded its rate.",
);

const READS_PAUSED: Metric = Metric::counter(
    "pushonce_gateway_reads_paused_total",
    "Times that a session was not read for a while because its requests cost more than its share of the lane.",
);

const TLS_HANDSHAKE_FAILURES: Metric = Metric::counter(
    "pushonce_gateway_tls_handshake_failures_total",
    "Connections of HTTPS and WebSocket whose TLS handshake failed, by reason: error (of either side) or \
     timeout.",
)
.with_labels(&["reason"]);

const RECEIVED_FRAMES: Metric = Metric::counter(
    "pushonce_gateway_received_frames_total",
    "Frames received from clients, by transport.",
)
.with_labels(TRANSPORT);

const SENT_BYTES: Metric = Metric::counter(
    "pushonce_gateway_sent_bytes_total",
    "Bytes written to the sockets and streams of sessions, by transport.",
)
.with_labels(TRANSPORT)
.with_unit(Unit::Bytes);

const WRITES: Metric = Metric::counter(
    "pushonce_gateway_writes_total",
    "System calls that wrote to sessions, by transport; those of WebTransport count as quic, which sends its \
     packets. Divide pushonce_fanout_deliveries_total by it for the frames of one write.",
)
.with_labels(TRANSPORT);

const ERRORS: Metric =
    Metric::counter("pushonce_gateway_errors_total", "Requests answered with an error, by code.")
        .with_labels(&["code"]);

/// A publish into memory takes some 0.1 ms, through the log of three nodes some ms, over an election some s.
const PUBLISH_BUCKETS: &[f64] =
    &[0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 2.5, 10.0];

pub(crate) const PUBLISH: Metric = Metric::histogram(
    "pushonce_gateway_publish_seconds",
    PUBLISH_BUCKETS,
    "Time from the moment a publish of a client is routed to its acknowledgement or rejection, by \
     transport: http, websocket, quic or webtransport. gRPC has pushonce_publish_grpc_seconds.",
)
.with_labels(TRANSPORT)
.with_unit(Unit::Seconds);

pub(crate) const PRESSURE: Metric = Metric::gauge(
    "pushonce_gateway_pressure",
    "Overload level of a lane: 0 normal, 1 lower rate of latest subscriptions, 2 rejects new sessions, \
     3 closes sessions.",
)
.with_labels(&["lane"]);

/// The transport of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TransportKind {
    WebSocket,
    Quic,
    WebTransport,
    EventStream,
}

impl TransportKind {
    /// The label of metrics.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            TransportKind::WebSocket => "websocket",
            TransportKind::Quic => "quic",
            TransportKind::WebTransport => "webtransport",
            TransportKind::EventStream => "sse",
        }
    }
}

/// The resource whose shortage causes new connections to be rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shortage {
    /// The maximum number of connections are open.
    Connections,
    /// All file descriptors for clients are in use.
    Descriptors,
    /// The memory of the process or the backlog of a lane is near its limit.
    Load,
}

impl Shortage {
    pub(crate) const ALL: [Shortage; 3] =
        [Shortage::Connections, Shortage::Descriptors, Shortage::Load];

    /// What is exhausted, and what to change.
    pub(crate) fn text(self) -> &'static str {
        match self {
            Shortage::Connections => "the maximum number of connections are open; add a node",
            Shortage::Descriptors => {
                "all file descriptors for clients are in use; raise the limit of open files or add a \
                 node"
            }
            Shortage::Load => {
                "memory or the delivery backlog is near its limit; raise --memory-max or add a node"
            }
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Shortage::Connections => "connections",
            Shortage::Descriptors => "descriptors",
            Shortage::Load => "load",
        }
    }
}

/// The metric handles of one lane, created once so that the hot path needs no lookups.
pub(crate) struct GatewayMetrics {
    ws: TransportMetrics,
    quic: TransportMetrics,
    webtransport: TransportMetrics,
    sse: TransportMetrics,
    /// Rejected new connections, by [`Shortage`].
    rejected: [Counter; 3],
    /// New connections that were rejected because of their address.
    rejected_addresses: [Counter; 2],
    /// Sessions that were not read for a while.
    pub(crate) reads_paused: Counter,
    /// Sessions that were closed because of overload.
    pub(crate) shed: Counter,
    /// TLS handshakes that failed.
    pub(crate) tls_errors: Counter,
    /// TLS handshakes that did not finish in time.
    pub(crate) tls_timeouts: Counter,
}

/// The metric handles of one transport.
pub(crate) struct TransportMetrics {
    /// Open sessions.
    pub(crate) sessions: Gauge,
    /// Sessions that were opened.
    pub(crate) accepted: Counter,
    /// Refused handshakes.
    pub(crate) refused: Counter,
    /// Requests received from sessions.
    pub(crate) frames_in: Counter,
    /// Bytes written to sockets and streams.
    pub(crate) bytes_out: Counter,
    /// System calls that wrote them. Compared with the deliveries of the fan-out, this shows how many
    /// deliveries share one call.
    pub(crate) writes: Counter,
    /// From the routing of a publish to its outcome.
    pub(crate) publish_seconds: Histogram,
}

impl GatewayMetrics {
    pub(crate) fn new() -> GatewayMetrics {
        GatewayMetrics {
            ws: TransportMetrics::new(TransportKind::WebSocket),
            quic: TransportMetrics::new(TransportKind::Quic),
            webtransport: TransportMetrics::new(TransportKind::WebTransport),
            sse: TransportMetrics::new(TransportKind::EventStream),
            rejected: Shortage::ALL
                .map(|shortage| CONNECTIONS_REJECTED.register_counter(&[shortage.as_str()])),
            rejected_addresses: ["address", "address_rate"]
                .map(|reason| CONNECTIONS_REJECTED.register_counter(&[reason])),
            reads_paused: READS_PAUSED.register_counter(&[]),
            shed: SESSIONS_SHED.register_counter(&[]),
            tls_errors: TLS_HANDSHAKE_FAILURES.register_counter(&["error"]),
            tls_timeouts: TLS_HANDSHAKE_FAILURES.register_counter(&["timeout"]),
        }
    }

    /// Counts a rejected connection.
    pub(crate) fn count_rejected(&self, shortage: Shortage) {
        self.rejected[shortage as usize].increment(1);
    }

    /// Counts a connection that was rejected because of its address.
    pub(crate) fn count_rejected_address(&self, refusal: AddressRefusal) {
        let [too_many, too_fast] = &self.rejected_addresses;
        match refusal {
            AddressRefusal::TooMany { .. } => too_many.increment(1),
            AddressRefusal::TooFast => too_fast.increment(1),
        }
    }

    pub(crate) fn for_transport(&self, kind: TransportKind) -> &TransportMetrics {
        match kind {
            TransportKind::WebSocket => &self.ws,
            TransportKind::Quic => &self.quic,
            TransportKind::WebTransport => &self.webtransport,
            TransportKind::EventStream => &self.sse,
        }
    }
}

impl TransportMetrics {
    fn new(transport: TransportKind) -> TransportMetrics {
        let values = &[transport.as_str()];
        TransportMetrics {
            sessions: SESSIONS.register_gauge(values),
            accepted: SESSIONS_ACCEPTED.register_counter(values),
            refused: SESSIONS_REJECTED.register_counter(values),
            frames_in: RECEIVED_FRAMES.register_counter(values),
            bytes_out: SENT_BYTES.register_counter(values),
            writes: WRITES.register_counter(values),
            publish_seconds: PUBLISH.register_histogram(values),
        }
    }
}

/// Counts an error reply to a request.
pub(crate) fn count_error(code: ErrorCode) {
    ERRORS.register_counter(&[code.as_str()]).increment(1);
}

/// Counts a session that was closed by the server.
pub(crate) fn count_closed(close: &CloseCode) {
    SESSIONS_CLOSED.register_counter(&[close.reason]).increment(1);
}
