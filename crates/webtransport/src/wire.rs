//! What a server sends, as complete bytes of a stream.

use bytes::{BufMut as _, Bytes, BytesMut};
use http::StatusCode;
use web_transport_proto::{Capsule, ConnectResponse, Frame, Setting, Settings, StreamUni, VarInt};

use crate::control_stream::FRAME_GOAWAY;

/// The capsule that asks the client to end its session soon.
const CAPSULE_DRAIN: u64 = 0x78ae;

/// Settings of newer drafts, which `web-transport-proto` does not know. Safari 26 requires `WT_MAX_SESSIONS` and sends
/// nothing without the three initial limits; QUIC limits streams and data all the same.
const NEWER_SETTINGS: [(u32, u64); 5] = [
    // WT_MAX_SESSIONS, drafts 13 and 14
    (0x14e9_cd29, 1),
    // WT_INITIAL_MAX_DATA
    (0x2b61, 1 << 60),
    // WT_INITIAL_MAX_STREAMS_UNI
    (0x2b64, 1 << 20),
    // WT_INITIAL_MAX_STREAMS_BIDI
    (0x2b65, 1 << 20),
    // WT_ENABLED, from draft 15 on
    (0x2c7c_f000, 1),
];

/// The first bytes of the control stream of the server: its type and the SETTINGS, for one session, in every dialect.
pub fn control_stream() -> Bytes {
    let mut settings = Settings::default();
    settings.enable_webtransport(1);
    for (id, value) in NEWER_SETTINGS {
        settings.insert(Setting(VarInt::from_u32(id)), varint(value));
    }
    let mut bytes = BytesMut::new();
    settings.encode(&mut bytes);
    bytes.freeze()
}

/// The response that accepts a session. `protocol`: the one that was chosen of those that the client offers.
pub fn accept(protocol: Option<&str>) -> Bytes {
    let response = ConnectResponse::new(StatusCode::OK);
    response_bytes(match protocol {
        Some(protocol) => response.with_protocol(protocol),
        None => response,
    })
}

/// The response to a request that opens no session: a status, and a text for a person. The stream ends after it.
pub fn reject(status: StatusCode, text: &str) -> Bytes {
    let mut bytes = BytesMut::from(&response_bytes(ConnectResponse::new(status))[..]);
    bytes.extend_from_slice(&data(text.as_bytes()));
    bytes.freeze()
}

/// Ends the session with a code and a reason, which is cut at 1,024 bytes. The stream of the request ends after it.
pub fn close(code: u32, reason: &str) -> Bytes {
    let mut end = reason.len().min(1_024);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    capsule(&Capsule::CloseWebTransportSession { code, reason: reason[..end].to_owned() })
}

/// Asks the client to end its session soon.
pub fn drain() -> Bytes {
    capsule(&Capsule::Unknown { typ: varint(CAPSULE_DRAIN), payload: Bytes::new() })
}

/// For the control stream: no request after that on `stream` is answered.
pub fn goaway(stream: u64) -> Bytes {
    let mut content = BytesMut::new();
    // The ids of the client's bidirectional streams are four apart.
    varint(stream.saturating_add(4)).encode(&mut content);
    frame(varint(FRAME_GOAWAY), &content)
}

/// What each unidirectional stream of the session begins with.
pub fn uni_stream(session: u64) -> Bytes {
    let mut bytes = BytesMut::new();
    StreamUni::WEBTRANSPORT.encode(&mut bytes);
    varint(session).encode(&mut bytes);
    bytes.freeze()
}

/// What each datagram of the session begins with.
pub fn datagram(session: u64) -> Bytes {
    let mut bytes = BytesMut::new();
    varint(session / 4).encode(&mut bytes);
    bytes.freeze()
}

/// The encoder fails only beyond the limit of the header fields, which no response reaches.
fn response_bytes(response: ConnectResponse) -> Bytes {
    let mut bytes = BytesMut::new();
    let _ = response.encode(&mut bytes);
    bytes.freeze()
}

fn capsule(capsule: &Capsule) -> Bytes {
    let mut bytes = BytesMut::new();
    capsule.encode(&mut bytes);
    data(&bytes)
}

fn data(content: &[u8]) -> Bytes {
    frame(Frame::DATA.0, content)
}

fn frame(kind: VarInt, content: &[u8]) -> Bytes {
    let mut bytes = BytesMut::with_capacity(content.len() + 2 * VarInt::MAX_SIZE);
    kind.encode(&mut bytes);
    varint(content.len() as u64).encode(&mut bytes);
    bytes.put_slice(content);
    bytes.freeze()
}

/// Ids of streams and lengths are below 2^62.
fn varint(value: u64) -> VarInt {
    VarInt::from_u64(value).unwrap_or(VarInt::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_speak_the_dialect_of_every_browser() {
        let settings = Settings::decode(&mut &control_stream()[..]).unwrap();
        assert_eq!(settings.supports_webtransport(), 1);
        let value = |id: u32| settings.get(&Setting(VarInt::from_u32(id))).map(|v| v.into_inner());
        for (id, expected) in NEWER_SETTINGS {
            assert_eq!(value(id), Some(expected), "{id:#x}");
        }
        // Chromium and Firefox.
        for id in [0x8, 0x33, 0x2b60_3742, 0x2b60_3743] {
            assert_eq!(value(id), Some(1), "{id:#x}");
        }
    }

    #[test]
    fn reason_is_cut_between_characters() {
        let closed = close(4_408, &"ä".repeat(1_000));
        let mut content = &closed[..];
        let (kind, content) = Frame::read(&mut content).unwrap();
        assert_eq!(kind, Frame::DATA);
        let mut content = content.into_inner();
        let Capsule::CloseWebTransportSession { code, reason } =
            Capsule::decode(&mut content).unwrap()
        else {
            panic!("another capsule")
        };
        assert_eq!((code, reason.len()), (4_408, 1_024));
    }

    #[test]
    fn headers_of_streams_and_datagrams_name_the_session() {
        assert_eq!(uni_stream(0)[..], [0x40, 0x54, 0]);
        assert_eq!(datagram(0)[..], [0]);
        assert_eq!(datagram(260)[..], [0x40, 65]);
        assert_eq!(goaway(0)[..], [7, 1, 4]);
        assert_eq!(drain()[..], [0, 5, 0x80, 0, 0x78, 0xae, 0]);
    }
}
