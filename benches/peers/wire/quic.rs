//! Pushonce over QUIC: length-delimited protobuf on streams, and single protobuf messages in datagrams.

use bytes::Bytes;
use pushonce_core::{
    AccessToken, ContentType, Delivery, Publish, StartFrom, SubscribeOptions, Topic,
};
use pushonce_proto::client::{ClientCommand, ClientRequest, Encoding, ServerEvent};
use pushonce_proto::delimited;

use super::{ConnectionSpec, DecodeResult, Role, ServerMessage, split_front};

/// Opens a connection. The request of a publisher is rejected, and the error shows that it is ready to
/// publish.
pub(super) fn opening_bytes(spec: ConnectionSpec<'_>, datagrams: bool) -> Vec<u8> {
    let command = match spec.role {
        Role::Publisher => ClientCommand::Authenticate { token: AccessToken::new("") },
        Role::Subscriber => {
            let delivery = datagrams.then_some(Delivery::Latest);
            let options = SubscribeOptions {
                delivery,
                use_datagrams: datagrams,
                ..SubscribeOptions::default()
            };
            ClientCommand::Subscribe { topic: topic(spec.topic), from: StartFrom::Now, options }
        }
    };
    encode_request(command)
}

pub(super) fn publish(out: &mut Vec<u8>, name: &str, payload: &[u8]) {
    let (topic, payload) = (topic(name), Bytes::copy_from_slice(payload));
    let content_type = ContentType::Text;
    let publish = Publish { topic, content_type, key: None, publish_id: None, payload };
    out.extend(encode_request(ClientCommand::Publish(publish)));
}

fn encode_request(command: ClientCommand) -> Vec<u8> {
    let frame = Encoding::Proto.encode_request(&ClientRequest { id: Some(1), command });
    delimited::encode(&frame).into()
}

/// The topic with this name, which the benchmark itself has created.
fn topic(name: &str) -> Topic {
    Topic::new(name).expect("a topic of the bench is valid")
}

/// Decodes a message from a stream.
pub(super) fn decode_next<'a>(bytes: &mut &'a [u8], role: Role, ready: bool) -> DecodeResult<'a> {
    let mut remaining = *bytes;
    let Some(length) = read_varint(&mut remaining) else { return Ok(None) };
    let Some(frame) = split_front(&mut remaining, length) else { return Ok(None) };
    *bytes = remaining;
    decode_frame(frame, role, ready).map(Some)
}

/// Decodes a complete frame.
pub(super) fn decode_frame(
    frame: &[u8],
    role: Role,
    ready: bool,
) -> Result<ServerMessage<'_>, String> {
    if let Some(payload) = message_payload(frame) {
        return Ok(ServerMessage::Message { payload, resume_token: None });
    }
    let event = Encoding::Proto.decode_event(&Bytes::copy_from_slice(frame));
    Ok(match event.map_err(|error| error.to_string())? {
        ServerEvent::Subscribed { .. } => ServerMessage::Ready,
        ServerEvent::Error { .. } if role == Role::Publisher && !ready => ServerMessage::Ready,
        ServerEvent::Error { message, .. } => return Err(message),
        ServerEvent::Gap { gap, .. } => {
            ServerMessage::Skipped((gap.to.offset.0 + 1).saturating_sub(gap.from.offset.0))
        }
        _ => ServerMessage::Ignored,
    })
}

/// `ServerFrame.message` and `Message.data`: field 6, behind its length.
const FIELD_6_KEY: usize = 6 << 3 | 2;

/// The payload of a message frame; `None` for other frames.
fn message_payload(frame: &[u8]) -> Option<&[u8]> {
    find_field(find_field(frame, FIELD_6_KEY)?, FIELD_6_KEY)
}

/// The value of a length-delimited field.
fn find_field(mut message: &[u8], field_key: usize) -> Option<&[u8]> {
    loop {
        let key = read_varint(&mut message)?;
        let value = read_varint(&mut message)?;
        if key & 7 == 2 {
            let bytes = split_front(&mut message, value)?;
            if key == field_key {
                return Some(bytes);
            }
        }
    }
}

/// Reads a varint; `None` if it is incomplete.
fn read_varint(bytes: &mut &[u8]) -> Option<usize> {
    let mut number = 0;
    for nth in 0..10 {
        let [byte] = *split_front(bytes, 1)? else { return None };
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

    fn message_frame() -> Bytes {
        let message = Message {
            position: Position::new(12, 4_052),
            // The encoded timestamp contains a `~`.
            time: Timestamp(0x7e),
            content_type: ContentType::Text,
            key: None,
            payload: Bytes::from_static(b"~1"),
        };
        encode_message(Encoding::Proto, &topic("t"), &message)
    }

    #[test]
    fn message_payload_is_found_in_datagrams_and_streams() {
        let (frame, stream) = (message_frame(), delimited::encode(&message_frame()));
        let decoded = decode_frame(&frame, Role::Subscriber, true);
        assert_eq!(decoded, Ok(ServerMessage::Message { payload: b"~1", resume_token: None }));
        for cut in 0..stream.len() {
            assert_eq!(decode_next(&mut &stream[..cut], Role::Subscriber, true), Ok(None), "{cut}");
        }
        let mut bytes = &stream[..];
        let decoded = decode_next(&mut bytes, Role::Subscriber, true);
        assert_eq!(
            decoded,
            Ok(Some(ServerMessage::Message { payload: b"~1", resume_token: None }))
        );
        assert!(bytes.is_empty());
    }

    #[test]
    fn publisher_is_ready_after_the_first_error_and_fails_on_the_next() {
        let error = pushonce_proto::client::ErrorCode::NotSupported;
        let error_frame = Encoding::Proto.encode_event(&ServerEvent::error(Some(1), error, "no"));
        assert_eq!(decode_frame(&error_frame, Role::Publisher, false), Ok(ServerMessage::Ready));
        assert_eq!(decode_frame(&error_frame, Role::Publisher, true), Err("no".to_owned()));
        assert_eq!(decode_frame(&error_frame, Role::Subscriber, false), Err("no".to_owned()));
    }
}
