//! Arbitrary and almost valid streams: no panic, bounded memory, and a result that does not depend on how the bytes
//! are split.

use pushonce_fuzz::Input;

use crate::connection::connection_test::{close_capsule, control_stream, request, session_stream};
use crate::{ConnectionError, ConnectionEvent, REQUEST_BYTES_MAX, ServerConnection};

/// The streams that an input can write to: three unidirectional and three bidirectional ones.
const STREAMS: [u64; 6] = [0, 4, 8, 2, 6, 10];

/// What a connection made of its input.
#[derive(Debug, Default, PartialEq, Eq)]
struct Report {
    events: Vec<String>,
    /// The bytes of the session's stream.
    session: Vec<u8>,
    error: Option<ConnectionError>,
}

/// One stream with a piece of its content; an empty piece is its end.
type Write<'a> = (u64, &'a [u8]);

/// Reads writes: a byte for the stream, two for the length, and the content.
fn writes(input: &[u8]) -> Vec<Write<'_>> {
    let mut input = Input::new(input);
    let mut writes = Vec::new();
    while !input.rest().is_empty() {
        let stream = STREAMS[usize::from(input.byte()) % STREAMS.len()];
        let len = usize::from(input.u16());
        writes.push((stream, input.bytes(len)));
    }
    writes
}

fn run(writes: &[Write<'_>], piece_len: usize) -> Report {
    let (mut connection, mut report) = (ServerConnection::new(), Report::default());
    let mut ended = Vec::new();
    for (stream, content) in writes {
        if ended.contains(stream) {
            continue;
        }
        if content.is_empty() {
            ended.push(*stream);
        }
        let pieces: Vec<&[u8]> = match content {
            [] => vec![&[]],
            content => content.chunks(piece_len).collect(),
        };
        for piece in pieces {
            match write(&mut connection, *stream, piece, &mut report) {
                Ok(events) => record(&mut connection, events, &mut report),
                Err(error) => {
                    report.error = Some(error);
                    return report;
                }
            }
        }
    }
    let ends = report.events.iter().filter(|event| event.starts_with("SessionClosed")).count();
    assert!(ends <= 1, "the session ended twice: {report:?}");
    if !report.events.iter().any(|event| event.starts_with("session stream")) {
        // The stream was not handed over: its first bytes are still held.
        report.session.clear();
    }
    report
}

fn write(
    connection: &mut ServerConnection,
    stream: u64,
    piece: &[u8],
    report: &mut Report,
) -> Result<Vec<ConnectionEvent>, ConnectionError> {
    let is_uni = stream % 4 == 2;
    match (is_uni, piece.is_empty()) {
        (true, true) => connection.on_uni_end(stream).map(|()| Vec::new()),
        (true, false) => connection.on_uni_bytes(stream, piece),
        (false, _) if !connection.wants(stream) => {
            report.session.extend_from_slice(piece);
            Ok(Vec::new())
        }
        (false, true) => connection.on_bidi_end(stream),
        (false, false) => connection.on_bidi_bytes(stream, piece),
    }
}

/// Accepts each request.
fn record(connection: &mut ServerConnection, events: Vec<ConnectionEvent>, report: &mut Report) {
    for event in events {
        let accepted = match &event {
            ConnectionEvent::Request { request, .. } => {
                let bytes = request.path.len() + request.authority.len();
                // A URL may be three times as long as its text.
                assert!(bytes <= 3 * REQUEST_BYTES_MAX);
                connection.accept()
            }
            ConnectionEvent::SessionStream { .. } => Some(event),
            _ => {
                report.events.push(format!("{event:?}"));
                continue;
            }
        };
        if let Some(ConnectionEvent::SessionStream { stream, early }) = accepted {
            report.events.push(format!("session stream {stream}"));
            report.session.splice(0..0, early);
        }
    }
}

fn seed(writes: &[(u8, &[u8])]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (stream, content) in writes {
        bytes.push(*stream);
        // As `Input` reads it.
        bytes.extend(u16::try_from(content.len()).expect("a short write").to_be_bytes());
        bytes.extend_from_slice(content);
    }
    bytes
}

fn seeds() -> Vec<Vec<u8>> {
    let (control, request) = (control_stream(), request("https://localhost:7443/webtransport?a=b"));
    let (stream, close) = (session_stream(0, b"frames"), close_capsule(1, "done"));
    vec![
        seed(&[(3, &control), (4, &[2]), (5, &[3]), (0, &request), (1, &stream), (0, &close)]),
        seed(&[(1, &stream), (0, &request), (3, &control), (0, &[])]),
        seed(&[
            (3, &control),
            (0, &[0x21, 1, 0]),
            (0, &request),
            (4, &[0x40, 0x54, 0, 1]),
            (4, &[]),
        ]),
        seed(&[(3, &control), (0, &[1, 8, 0, 0, 0xc0 | 17, 0xc0 | 23, 0xc0 | 1, 0x50, 1, b'a'])]),
    ]
}

#[test]
fn events_of_a_connection_do_not_depend_on_how_its_bytes_are_split() {
    pushonce_fuzz::check!("connections", seeds(), |input| {
        let writes = writes(input);
        let whole = run(&writes, usize::MAX);
        let split = run(&writes, 1);
        match whole.error {
            None => assert_eq!(whole, split),
            // A whole write may have events before its error, which are not returned.
            Some(error) => {
                assert_eq!(split.error, Some(error));
                assert!(split.events.starts_with(&whole.events), "{split:?} {whole:?}");
            }
        }
    });
}

#[test]
fn header_fields_of_any_content_are_decoded_or_rejected() {
    let content = request("https://localhost/webtransport")[2..].to_vec();
    pushonce_fuzz::check!("requests", vec![content], |input| {
        let content = &input[..input.len().min(REQUEST_BYTES_MAX)];
        if let Ok(Err(rejected)) = crate::request::decode(content) {
            assert!(rejected.status.is_client_error() || rejected.status.is_server_error());
        }
    });
}
