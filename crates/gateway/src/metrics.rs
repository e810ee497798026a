//! What the doors count. No label names a topic or a client.

use metrics::{Counter, Gauge, counter, gauge};
use pushonce_proto::client::ErrorCode;
use pushonce_proto::close::CloseCode;

/// The way a session came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TransportKind {
    WebSocket,
    Quic,
}

/// Why a new connection is rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shortage {
    /// `connections_max` are open.
    Connections,
    /// The descriptors of clients are in use.
    Descriptors,
    /// Memory, or the backlog of a lane, is near its bound.
    Load,
}

impl Shortage {
    pub(crate) const ALL: [Shortage; 3] =
        [Shortage::Connections, Shortage::Descriptors, Shortage::Load];

    /// What is short, and what to change.
    pub(crate) fn text(self) -> &'static str {
        match self {
            Shortage::Connections => "as many connections are open as a node may have; add a node",
            Shortage::Descriptors => {
                "the file descriptors for clients are in use; raise the limit of open files or add a \
                 node"
            }
            Shortage::Load => {
                "memory or the backlog of deliveries is near its bound; raise --memory-max or add a \
                 node"
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

/// The meters of one lane. Handles, taken once: the hot path looks nothing up.
pub(crate) struct GatewayMetrics {
    ws: TransportMetrics,
    quic: TransportMetrics,
    /// New connections that were rejected, by what the node is short of.
    rejected: [Counter; 3],
    /// Sessions that an overloaded node sent away.
    pub(crate) shed: Counter,
}

/// Of one door.
pub(crate) struct TransportMetrics {
    /// Open sessions.
    pub(crate) sessions: Gauge,
    /// Sessions that began.
    pub(crate) accepted: Counter,
    /// Handshakes that were refused.
    pub(crate) refused: Counter,
    /// Requests of sessions.
    pub(crate) frames_in: Counter,
    /// Bytes handed to sockets and streams.
    pub(crate) bytes_out: Counter,
    /// Calls of the system by which they left, beside which the fan-out's deliveries say how many
    /// shared one.
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

    /// A new connection was rejected.
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

/// A request was answered with an error.
pub(crate) fn count_error(code: ErrorCode) {
    counter!("pushonce_gateway_errors_total", "code" => code.as_str()).increment(1);
}

/// A session was closed from this side.
pub(crate) fn count_closed(close: &CloseCode) {
    counter!("pushonce_gateway_closed_total", "code" => close.reason).increment(1);
}
