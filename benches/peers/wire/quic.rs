//! Our protocol on QUIC: protobuf behind its length on a stream, and without one in a datagram.

use bytes::Bytes;
use pushonce_core::{ContentType, Delivery, From, Options, Publish, Topic};
use pushonce_proto::client::{Command, Encoding, Event, Request};
use pushonce_proto::delimited;

use super::{Heard, Opening, Role, Said, take};

/// What a publisher says is refused, and that answers: publishes are taken.
pub(super) fn open(opening: Opening<'_>, datagrams: bool) -> Vec<u8> {
    let command = match opening.role {
        Role::Publisher => Command::Authenticate { token: String::new() },
        Role::Subscriber => {
            let delivery = datagrams.then_some(Delivery::Latest);
            let options = Options { delivery, datagrams, ..Options::default() };
            Command::Subscribe { topic: topic(opening.topic), from: From::Now, options }
        }
    };
    request(command)
}

pub(super) fn publish(out: &mut Vec<u8>, name: &str, payload: &[u8]) {
    let (topic, payload) = (topic(name), Bytes::copy_from_slice(payload));
    let content_type = ContentType::Text;
    let publish = Publish { topic, content_type, key: None, stamp: None, payload };
    out.extend(request(Command::Publish(publish)));
}

fn request(command: Command) -> Vec<u8> {
    let frame = Encoding::Proto.encode_request(&Request { id: Some(1), command });
    delimited::encode(&frame).into()
}

/// Names are ours.
fn topic(name: &str) -> Topic {
    Topic::new(name).expect("a topic of the bench is valid")
}

/// Off a stream.
pub(super) fn next<'a>(bytes: &mut &'a [u8], role: Role, ready: bool) -> Heard<'a> {
    let mut rest = *bytes;
    let Some(length) = varint(&mut rest) else { return Ok(None) };
    let Some(frame) = take(&mut rest, length) else { return Ok(None) };
    *bytes = rest;
    said(frame, role, ready).map(Some)
}

/// What a whole frame says.
pub(super) fn said(frame: &[u8], role: Role, ready: bool) -> Result<Said<'_>, String> {
    if let Some(payload) = payload(frame) {
        return Ok(Said::Message { payload, mark: None });
    }
    let event = Encoding::Proto.decode_event(&Bytes::copy_from_slice(frame));
    Ok(match event.map_err(|why| why.to_string())? {
        Event::Subscribed { .. } => Said::Ready,
        Event::Error { .. } if role == Role::Publisher && !ready => Said::Ready,
        Event::Error { message, .. } => return Err(message),
        Event::Gap { gap, .. } => {
            Said::Told((gap.to.offset.0 + 1).saturating_sub(gap.from.offset.0))
        }
        _ => Said::Aside,
    })
}

/// `ServerFrame.message` and `Message.data`: field 6, behind its length.
const SIXTH: usize = 6 << 3 | 2;

/// What a message carries; none, if the frame is of something else.
fn payload(frame: &[u8]) -> Option<&[u8]> {
    find(find(frame, SIXTH)?, SIXTH)
}

/// The bytes of a field of bytes.
fn find(mut message: &[u8], wanted: usize) -> Option<&[u8]> {
    loop {
        let key = varint(&mut message)?;
        let value = varint(&mut message)?;
        if key & 7 == 2 {
            let bytes = take(&mut message, value)?;
            if key == wanted {
                return Some(bytes);
            }
        }
    }
}

/// A whole number; none, if it is not there whole.
fn varint(bytes: &mut &[u8]) -> Option<usize> {
    let mut number = 0;
    for nth in 0..10 {
        let [byte] = *take(bytes, 1)? else { return None };
        number |= usize::from(byte & 0x7f).checked_shl(7 * nth).unwrap_or(0);
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use pushonce_core::{Message, Position, Timestamp};
    use pushonce_proto::client::encode_message;

    use super::*;

    fn frame() -> Bytes {
        let message = Message {
            position: Position::new(12, 4_052),
            // In whose bytes there is a `~`.
            time: Timestamp(0x7e),
            content_type: ContentType::Text,
            key: None,
            payload: Bytes::from_static(b"~1"),
        };
        encode_message(Encoding::Proto, &topic("t"), &message)
    }

    #[test]
    fn the_payload_of_a_message_is_found_in_a_datagram_and_on_a_stream() {
        let (frame, stream) = (frame(), delimited::encode(&frame()));
        let heard = said(&frame, Role::Subscriber, true);
        assert_eq!(heard, Ok(Said::Message { payload: b"~1", mark: None }));
        for cut in 0..stream.len() {
            assert_eq!(next(&mut &stream[..cut], Role::Subscriber, true), Ok(None), "{cut}");
        }
        let mut bytes = &stream[..];
        let heard = next(&mut bytes, Role::Subscriber, true);
        assert_eq!(heard, Ok(Some(Said::Message { payload: b"~1", mark: None })));
        assert!(bytes.is_empty());
    }

    #[test]
    fn an_answer_makes_ready_and_a_refusal_ends_it() {
        let error = pushonce_proto::client::ErrorCode::NotSupported;
        let refused = Encoding::Proto.encode_event(&Event::error(Some(1), error, "no"));
        assert_eq!(said(&refused, Role::Publisher, false), Ok(Said::Ready));
        assert_eq!(said(&refused, Role::Publisher, true), Err("no".to_owned()));
        assert_eq!(said(&refused, Role::Subscriber, false), Err("no".to_owned()));
    }
}
