//! Sessions over QUIC: raw, ALPN `pushonce/1`, and WebTransport over HTTP/3, ALPN `h3`. The endpoint of each lane is `pushonce_quic`; a session is the handler of
//! its connection.

mod acceptor;
mod carrier;
mod http3_output;
mod open_session;
mod session;
mod sink;
mod stream_writer;
mod subscription;
mod transport;
mod webtransport;
mod webtransport_request;

use pushonce_quic::{CertificateSource, Port, PortConfig, TransportSettings};

pub(crate) use acceptor::SessionAcceptor;

use crate::{BindError, Config, IDLE_INTERVALS};

/// The names of the protocols in the TLS handshake: raw QUIC and HTTP/3.
const ALPN: &[&[u8]] = &[b"pushonce/1", ALPN_HTTP3];

const ALPN_HTTP3: &[u8] = b"h3";

/// Unidirectional streams of a client: the three that HTTP/3 has (RFC 9114, 6.2). Over raw QUIC a client opens none.
const UNI_STREAMS_MAX: u32 = 3;

/// Bidirectional streams of a client over HTTP/3: the request of its session, and the control stream.
const HTTP3_BIDI_STREAMS_MAX: u32 = 2;

/// Bytes that a client may send before they are read: a few requests, or most of its largest frame. Also
/// what a client that sends out of order can make a session hold.
const RECEIVE_WINDOW_BYTES: u32 = 64 << 10;

/// The same until a credential was verified: the largest frame that is accepted then.
const UNAUTHENTICATED_RECEIVE_WINDOW_BYTES: u32 = 16 << 10;

/// Bytes of a session that are sent and not acknowledged, over all streams. The default of quinn is
/// 10 MiB; with 256 KiB, a thousand stopped readers hold no more than 256 MiB.
const SEND_WINDOW_BYTES: u64 = 256 << 10;

/// The same for a session with a subscription of `latest` or `rate`: a message in the window cannot be
/// replaced by a newer one. Enough for a hundred small messages, or one large one, per round trip.
const LATEST_SEND_WINDOW_BYTES: u64 = 32 << 10;

/// Bytes of datagrams that wait for the network. Some dozens, to fill the packets of a turn: more would
/// grow old here, while at the hub a newer message replaces an older one.
const DATAGRAM_SEND_BUFFER_BYTES: usize = 16 << 10;

/// Opens the port for all lanes.
pub(crate) fn bind(config: &Config, certificate: CertificateSource) -> Result<Port, BindError> {
    let transport = TransportSettings {
        // The control stream. Over HTTP/3 there are more, once the protocol is known.
        bidi_streams_max: 1,
        uni_streams_max: UNI_STREAMS_MAX,
        stream_receive_window_bytes: RECEIVE_WINDOW_BYTES,
        receive_window_bytes: UNAUTHENTICATED_RECEIVE_WINDOW_BYTES,
        send_window_bytes: SEND_WINDOW_BYTES,
        datagram_send_buffer_bytes: DATAGRAM_SEND_BUFFER_BYTES,
        keep_alive: config.heartbeat,
        idle_timeout: config.heartbeat * u32::from(IDLE_INTERVALS),
    };
    let port = PortConfig { address: config.quic, lanes: config.lanes, alpn: ALPN, transport };
    Port::bind(&port, certificate).map_err(|error| match error {
        pushonce_quic::BindError::Address(source) => {
            BindError::Address { protocol: "QUIC", address: config.quic, flag: "--quic", source }
        }
        pushonce_quic::BindError::Certificate(source) => BindError::Certificate(source),
    })
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use pushonce_quic::certificate::load_or_generate;

    use super::*;

    #[test]
    fn quic_bind_error_for_a_used_port_names_the_flag() {
        let dir = tempfile::tempdir().unwrap();
        let certificate = || {
            let certificate = load_or_generate(dir.path(), SystemTime::now()).unwrap();
            CertificateSource::Development(certificate)
        };
        for lanes in [1, 2] {
            let quic = ([127, 0, 0, 1], 0).into();
            let config = Config { quic, lanes, ..Config::default() };
            let port = bind(&config, certificate()).unwrap();
            let config = Config { quic: port.address(), ..config };
            let Err(error) = bind(&config, certificate()) else { panic!("the port is shared") };
            let text = error.to_string();
            assert!(text.contains("QUIC") && text.contains("--quic"), "{text}");
        }
    }
}
