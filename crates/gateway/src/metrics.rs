//! The metrics of the gateway. No label names a topic or a client.

use metrics::{Counter, Gauge, counter, gauge};
use pushonce_proto::client::ErrorCode;
use pushonce_proto::close::CloseCode;

/// The transport of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TransportKind {
    WebSocket,
    Quic,
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
    /// Rejected new connections, by [`Shortage`].
    rejected: [Counter; 3],
    /// Sessions that were closed because of overload.
    pub(crate) shed: Counter,
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
}

impl GatewayMetrics {
    pub(crate) fn new() -> GatewayMetrics {
        GatewayMetrics {
            ws: TransportMetrics::new("websocket"),
            quic: TransportMetrics::new("quic"),
            rejected: Shortage::ALL.map(|shortage| {
                let reason = shortage.as_str();
                counter!("pushonce_gateway_connections_rejected_total", "reason" => reason)
            }),
            shed: counter!("pushonce_gateway_sessions_shed_total"),
        }
    }

    /// Counts a rejected connection.
    pub(crate) fn count_rejected(&self, shortage: Shortage) {
        self.rejected[shortage as usize].increment(1);
    }

    pub(crate) fn for_transport(&self, kind: TransportKind) -> &TransportMetrics {
        match kind {
            TransportKind::WebSocket => &self.ws,
            TransportKind::Quic => &self.quic,
        }
    }
}

impl TransportMetrics {
    fn new(transport: &'static str) -> TransportMetrics {
        TransportMetrics {
            sessions: gauge!("pushonce_gateway_sessions", "transport" => transport),
            accepted: counter!("pushonce_gateway_sessions_accepted_total", "transport" => transport),
            refused: counter!("pushonce_gateway_sessions_refused_total", "transport" => transport),
            frames_in: counter!("pushonce_gateway_frames_in_total", "transport" => transport),
            bytes_out: counter!("pushonce_gateway_bytes_out_total", "transport" => transport),
            writes: counter!("pushonce_gateway_writes_total", "transport" => transport),
        }
    }
}

/// Counts an error reply to a request.
pub(crate) fn count_error(code: ErrorCode) {
    counter!("pushonce_gateway_errors_total", "code" => code.as_str()).increment(1);
}

/// Counts a session that was closed by the server.
pub(crate) fn count_closed(close: &CloseCode) {
    counter!("pushonce_gateway_closed_total", "code" => close.reason).increment(1);
}
