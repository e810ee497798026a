use web_transport_proto::{Capsule, ConnectRequest, Frame, Settings, VarInt};

use super::*;

const CONTROL: u64 = 2;

pub(crate) fn control_stream() -> Vec<u8> {
    let mut settings = Settings::default();
    settings.enable_webtransport(1);
    let mut bytes = Vec::new();
    settings.encode(&mut bytes);
    bytes
}

pub(crate) fn request(url: &str) -> Vec<u8> {
    let request = ConnectRequest::new(url::Url::parse(url).unwrap());
    let mut bytes = Vec::new();
    request.encode(&mut bytes).unwrap();
    bytes
}

pub(crate) fn close_capsule(code: u32, reason: &str) -> Vec<u8> {
    let mut capsule = Vec::new();
    Capsule::CloseWebTransportSession { code, reason: reason.to_owned() }.encode(&mut capsule);
    let mut bytes = vec![0, u8::try_from(capsule.len()).unwrap()];
    bytes.append(&mut capsule);
    bytes
}

/// The first bytes of a bidirectional stream of the session.
pub(crate) fn session_stream(session: u64, content: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    Frame::WEBTRANSPORT.encode(&mut bytes);
    VarInt::from_u64(session).unwrap().encode(&mut bytes);
    bytes.extend_from_slice(content);
    bytes
}

fn connected() -> ServerConnection {
    let mut connection = ServerConnection::new();
    assert!(connection.on_uni_bytes(CONTROL, &control_stream()).unwrap().is_empty());
    connection
}

#[test]
fn session_is_requested_accepted_and_closed() {
    let mut connection = connected();
    let events = connection.on_bidi_bytes(0, &request("https://a:7443/webtransport?b=c")).unwrap();
    let [ConnectionEvent::Request { stream: 0, request }] = &events[..] else {
        panic!("{events:?}")
    };
    assert_eq!(request.authority, "a:7443");
    assert_eq!((&request.path[..], request.query.as_deref()), ("/webtransport", Some("b=c")));
    assert!(connection.accept().is_none());
    let events = connection.on_bidi_bytes(4, &session_stream(0, b"early")).unwrap();
    let [ConnectionEvent::SessionStream { stream: 4, early }] = &events[..] else {
        panic!("{events:?}")
    };
    assert_eq!(early, b"early");
    assert!(!connection.wants(4) && connection.wants(0));
    let events = connection.on_bidi_bytes(0, &close_capsule(7, "bye")).unwrap();
    let [ConnectionEvent::SessionClosed { code: 7, reason }] = &events[..] else {
        panic!("{events:?}")
    };
    assert_eq!(reason, "bye");
}

/// Streams arrive in any order.
#[test]
fn request_waits_for_settings_and_the_stream_for_acceptance() {
    let mut connection = ServerConnection::new();
    assert!(connection.on_bidi_bytes(4, &session_stream(0, b"x")).unwrap().is_empty());
    assert!(connection.on_bidi_bytes(0, &request("https://a/")).unwrap().is_empty());
    let events = connection.on_uni_bytes(CONTROL, &control_stream()).unwrap();
    assert!(matches!(events[..], [ConnectionEvent::Request { stream: 0, .. }]), "{events:?}");
    let Some(ConnectionEvent::SessionStream { stream: 4, early }) = connection.accept() else {
        panic!("the stream is lost")
    };
    assert_eq!(early, b"x");
}

#[test]
fn end_of_the_request_stream_closes_the_session() {
    let mut connection = connected();
    connection.on_bidi_bytes(0, &request("https://a/")).unwrap();
    let events = connection.on_bidi_end(0).unwrap();
    assert!(matches!(events[..], [ConnectionEvent::SessionClosed { code: 0, .. }]), "{events:?}");
}

#[test]
fn request_that_opens_no_session_is_rejected_with_a_status() {
    /// GET, https, `/`, with the static table of QPACK: 17, 23 and 1, and the authority `a`.
    const GET: &[u8] = &[1, 8, 0, 0, 0xc0 | 17, 0xc0 | 23, 0xc0 | 1, 0x50, 1, b'a'];
    let mut connection = connected();
    let events = connection.on_bidi_bytes(0, GET).unwrap();
    let [ConnectionEvent::Rejected { stream: 0, rejected }] = &events[..] else {
        panic!("{events:?}")
    };
    assert_eq!(rejected.status, 405);
    // What follows is skipped, but not without end.
    assert!(connection.on_bidi_bytes(0, &[0; 1_000]).unwrap().is_empty());
    let error = connection.on_bidi_bytes(0, &vec![0; IGNORED_BYTES_MAX]).unwrap_err();
    assert_eq!(error, ConnectionError::ExcessiveLoad);
}

#[test]
fn second_request_or_foreign_session_ends_the_connection() {
    let mut connection = connected();
    connection.on_bidi_bytes(0, &request("https://a/")).unwrap();
    let second = connection.on_bidi_bytes(4, &request("https://a/")).unwrap_err();
    assert_eq!(second, ConnectionError::General);
    let mut connection = connected();
    connection.on_bidi_bytes(0, &request("https://a/")).unwrap();
    let foreign = connection.on_bidi_bytes(4, &session_stream(8, b"")).unwrap_err();
    assert_eq!(foreign, ConnectionError::Id);
    let mut connection = connected();
    connection.on_bidi_bytes(4, &session_stream(0, b"")).unwrap();
    let second = connection.on_bidi_bytes(8, &session_stream(0, b"")).unwrap_err();
    assert_eq!(second, ConnectionError::General);
}

#[test]
fn critical_streams_exist_once_and_do_not_end() {
    let mut connection = connected();
    let second = connection.on_uni_bytes(6, &control_stream()).unwrap_err();
    assert_eq!(second, ConnectionError::StreamCreation);
    assert_eq!(connected().on_uni_end(CONTROL), Err(ConnectionError::ClosedCriticalStream));
    let mut connection = connected();
    assert!(connection.on_uni_bytes(6, &[2]).unwrap().is_empty());
    assert_eq!(connection.on_uni_bytes(10, &[2]).unwrap_err(), ConnectionError::StreamCreation);
    // A push stream, which only servers open.
    assert_eq!(connected().on_uni_bytes(6, &[1]).unwrap_err(), ConnectionError::StreamCreation);
}

#[test]
fn unused_streams_are_stopped_and_counted() {
    let mut connection = connected();
    // A unidirectional stream of the session, and one of an unknown type.
    for (stream, header) in [(6, &[0x40, 0x54, 0][..]), (10, &[0x21])] {
        let events = connection.on_uni_bytes(stream, header).unwrap();
        assert!(
            matches!(events[..], [ConnectionEvent::UnusedStream(unused)] if unused == stream),
            "{events:?}"
        );
        assert_eq!(connection.on_uni_end(stream), Ok(()));
    }
    let opened = (3..).map(|n| connection.on_uni_bytes(2 + 4 * n, &[0x21]).map(|_| ()));
    let error = opened.take(10_000).find_map(Result::err);
    assert_eq!(error, Some(ConnectionError::ExcessiveLoad));
}

/// A client with the flow control of newer drafts sends them for as long as the session lasts.
#[test]
fn capsules_of_flow_control_do_not_count_as_load_and_others_do() {
    let send = |kind: u64| {
        let mut capsule = Vec::new();
        VarInt::from_u64(kind).unwrap().encode(&mut capsule);
        capsule.extend_from_slice(&[1, 42]);
        let frame = [&[0, u8::try_from(capsule.len()).unwrap()], &capsule[..]].concat();
        let mut connection = connected();
        connection.on_bidi_bytes(0, &request("https://a/")).unwrap();
        (0..IGNORED_BYTES_MAX).find_map(|_| connection.on_bidi_bytes(0, &frame).err())
    };
    for kind in [0x190b_4d3d, 0x190b_4d3f, 0x190b_4d41] {
        assert_eq!(send(kind), None);
    }
    assert_eq!(send(0x1234), Some(ConnectionError::ExcessiveLoad));
}

#[test]
fn header_fields_that_cannot_be_decoded_end_the_connection() {
    // An entry of the dynamic table.
    let error = connected().on_bidi_bytes(0, &[1, 3, 0, 0, 0x80]).unwrap_err();
    assert_eq!(error, ConnectionError::QpackDecompression);
    let error = connected().on_bidi_bytes(0, &[1, 0xc0]).map(|_| ());
    assert_eq!(error, Ok(()));
    // 16 KiB and one byte.
    let error = connected().on_bidi_bytes(0, &[1, 0x80, 0, 0x40, 1]).unwrap_err();
    assert_eq!(error, ConnectionError::ExcessiveLoad);
}
