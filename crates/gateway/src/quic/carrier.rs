//! How the frames of a session are carried: over raw QUIC as they are, over WebTransport behind headers.

use bytes::{BufMut as _, Bytes, BytesMut};
use pushonce_fanout::WireFormat;
use pushonce_proto::client::Encoding;
use pushonce_webtransport::wire;

use crate::encoder;
use crate::metrics::TransportKind;

/// What raw QUIC and WebTransport do differently with the same frames.
#[derive(Debug)]
pub(super) struct Carrier {
    pub(super) kind: TransportKind,
    pub(super) wire: WireFormat,
    /// What the stream of each subscription begins with.
    pub(super) stream_header: Bytes,
    /// What each datagram begins with.
    datagram_header: Bytes,
    /// Whether the client accepts datagrams, as far as HTTP/3 is concerned.
    pub(super) has_datagrams: bool,
    /// Whether a stream may be reset that the client has not heard of.
    pub(super) may_reset: bool,
}

impl Carrier {
    /// The frames as they are.
    pub(super) fn raw() -> Carrier {
        Carrier {
            kind: TransportKind::Quic,
            wire: encoder::QUIC_PROTO,
            stream_header: Bytes::new(),
            datagram_header: Bytes::new(),
            has_datagrams: true,
            may_reset: true,
        }
    }

    /// The frames of the WebTransport session with this id.
    pub(super) fn webtransport(session: u64, encoding: Encoding, has_datagrams: bool) -> Carrier {
        Carrier {
            kind: TransportKind::WebTransport,
            wire: match encoding {
                Encoding::Json => encoder::WT_JSON,
                Encoding::Proto => encoder::WT_PROTO,
            },
            stream_header: wire::uni_stream(session),
            datagram_header: wire::datagram(session),
            has_datagrams,
            may_reset: false,
        }
    }

    /// The encoding of the frames.
    pub(super) fn encoding(&self) -> Encoding {
        encoder::encoding(self.wire)
    }

    /// The datagram with this content.
    pub(super) fn datagram(&self, content: Bytes) -> Bytes {
        if self.datagram_header.is_empty() {
            return content;
        }
        let mut datagram = BytesMut::with_capacity(self.datagram_header.len() + content.len());
        datagram.put_slice(&self.datagram_header);
        datagram.put_slice(&content);
        datagram.freeze()
    }
}
