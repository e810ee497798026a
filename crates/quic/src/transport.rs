//! The transport parameters of an endpoint, and the reasons for those that no caller sets.

use std::time::Duration;

use quinn_proto::{AckFrequencyConfig, IdleTimeout, TransportConfig, VarInt};

/// Packets that a client may receive before it must acknowledge, unless one is missing or the maximum
/// delay of 25 ms has passed. Processing an acknowledgement for every second packet costs a quarter of a
/// delivery. Clients without the extension acknowledge as usual.
const PACKETS_PER_ACK: u32 = 10;

/// The largest datagram that a client may send: what RFC 9221 recommends to announce.
const DATAGRAM_BYTES_MAX: usize = 65_535;

/// Limits and times of each connection.
#[derive(Clone, Debug)]
pub struct TransportSettings {
    /// Bidirectional streams that a client may have open at the same time, until
    /// [`Connection::set_bidi_streams_max`](crate::Connection::set_bidi_streams_max).
    pub bidi_streams_max: u32,
    /// Unidirectional streams that a client may have open at the same time.
    pub uni_streams_max: u32,
    /// Bytes that a client may send on one stream before they are read.
    pub stream_receive_window_bytes: u32,
    /// The same over all streams, until [`Connection::set_receive_window`](crate::Connection::set_receive_window). Also
    /// what a client that sends out of order can make the server hold.
    pub receive_window_bytes: u32,
    /// Bytes that are sent and not acknowledged, over all streams of a connection.
    pub send_window_bytes: u64,
    /// Bytes of datagrams that wait for the network.
    pub datagram_send_buffer_bytes: usize,
    /// Interval of keepalive packets.
    pub keep_alive: Duration,
    /// Silence after which a connection is lost. Zero is no limit.
    pub idle_timeout: Duration,
}

impl TransportSettings {
    pub(crate) fn to_config(&self) -> TransportConfig {
        let mut acks = AckFrequencyConfig::default();
        acks.ack_eliciting_threshold(VarInt::from_u32(PACKETS_PER_ACK));
        let mut transport = TransportConfig::default();
        transport
            .max_concurrent_bidi_streams(VarInt::from_u32(self.bidi_streams_max))
            .max_concurrent_uni_streams(VarInt::from_u32(self.uni_streams_max))
            .stream_receive_window(VarInt::from_u32(self.stream_receive_window_bytes))
            .receive_window(VarInt::from_u32(self.receive_window_bytes))
            .send_window(self.send_window_bytes)
            // Messages are small and rare: larger packets gain nothing, and the search for their size
            // costs memory in each connection.
            .mtu_discovery_config(None)
            .enable_segmentation_offload(false)
            // Incoming datagrams are dropped as they arrive. HTTP/3 requires that they are accepted (RFC 9297,
            // 2.1.1), and unset would disable outgoing ones as well.
            .datagram_receive_buffer_size(Some(DATAGRAM_BYTES_MAX))
            .datagram_send_buffer_size(self.datagram_send_buffer_bytes)
            .ack_frequency_config(Some(acks))
            .keep_alive_interval(Some(self.keep_alive))
            .max_idle_timeout(IdleTimeout::try_from(self.idle_timeout).ok());
        transport
    }
}
