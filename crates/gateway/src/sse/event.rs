//! The blocks of an event stream (HTML, 9.2: server-sent events).
//!
//! A payload cannot end its event or begin another field: each of its lines is a line `data: …` of its own.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{BufMut, Bytes, BytesMut};
use pushonce_core::{ContentType, Message, Position};

use super::positions::StreamPositions;

/// The name of an event whose data is base64: an event without a name has data as it was published.
const BASE64: &str = "base64";

/// Bytes of a block besides its data: the fields and their ends.
const BLOCK_OVERHEAD_BYTES: usize = 96;

/// A comment, which keeps the connection alive. It is no block: some clients report a block without data as an event.
pub(super) const COMMENT: Bytes = Bytes::from_static(b":\n");

/// A block in progress.
pub(super) struct EventBlock(BytesMut);

impl EventBlock {
    pub(super) fn new(data_bytes: usize) -> EventBlock {
        EventBlock(BytesMut::with_capacity(data_bytes + BLOCK_OVERHEAD_BYTES))
    }

    /// The time after which the client connects again when the stream ends, in milliseconds.
    pub(super) fn retry(mut self, milliseconds: u32) -> EventBlock {
        self.field("retry", &milliseconds.to_string());
        self
    }

    /// The position from which the client resumes, for a stream of one topic.
    pub(super) fn position(mut self, position: Position) -> EventBlock {
        self.field("id", &position.to_string());
        self
    }

    /// The positions from which the client resumes.
    pub(super) fn positions(mut self, positions: &StreamPositions) -> EventBlock {
        self.field("id", &positions.to_string());
        self
    }

    /// The name of the event.
    pub(super) fn name(mut self, name: &'static str) -> EventBlock {
        self.field("event", name);
        self
    }

    /// A comment of this many bytes, for proxies that buffer the first ones.
    pub(super) fn padding(mut self, bytes: usize) -> EventBlock {
        self.0.put_u8(b':');
        self.0.put_bytes(b' ', bytes);
        self.0.put_u8(b'\n');
        self
    }

    /// A text, each of its lines on a line of its own. Its line ends become LF.
    fn text(mut self, text: &str) -> EventBlock {
        let mut rest = text;
        while let Some(end) = rest.find(['\r', '\n']) {
            self.field("data", &rest[..end]);
            let line_end = if rest[end..].starts_with("\r\n") { 2 } else { 1 };
            rest = &rest[end + line_end..];
        }
        self.field("data", rest);
        self
    }

    /// A JSON text on one line. Line ends in JSON are white space between tokens.
    pub(super) fn json(mut self, text: &[u8]) -> EventBlock {
        self.0.put(&b"data: "[..]);
        let begin = self.0.len();
        self.0.put(text);
        for byte in &mut self.0[begin..] {
            if matches!(byte, b'\r' | b'\n') {
                *byte = b' ';
            }
        }
        self.0.put_u8(b'\n');
        self
    }

    fn field(&mut self, name: &str, value: &str) {
        self.0.put(name.as_bytes());
        self.0.put(&b": "[..]);
        self.0.put(value.as_bytes());
        self.0.put_u8(b'\n');
    }

    /// The fields so far, which the client reads at once although the block continues.
    pub(super) fn begin(self) -> Bytes {
        self.0.freeze()
    }

    /// Ends the block.
    pub(super) fn finish(mut self) -> Bytes {
        self.0.put_u8(b'\n');
        self.0.freeze()
    }
}

/// The event with a message, for a stream of its topic alone.
pub(crate) fn encode_message(message: &Message) -> Bytes {
    let Message { content_type, payload, position, .. } = message;
    let block = EventBlock::new(payload.len());
    let block = match (content_type, std::str::from_utf8(payload)) {
        (ContentType::Json, Ok(_)) => block.json(payload),
        (content_type, Ok(text)) if is_utf8_text(content_type) => block.text(text),
        _ => block.name(BASE64).text(&STANDARD.encode(payload)),
    };
    block.position(*position).finish()
}

/// The event with a frame of a JSON session, and the position that it reaches, if there is one.
pub(crate) fn encode_frame(
    name: Option<&'static str>,
    position: Option<Position>,
    frame: &[u8],
) -> Bytes {
    let mut block = EventBlock::new(frame.len()).json(frame);
    if let Some(name) = name {
        block = block.name(name);
    }
    if let Some(position) = position {
        block = block.position(position);
    }
    block.finish()
}

/// Whether the payload is text in UTF-8, the only encoding of an event stream.
fn is_utf8_text(content_type: &ContentType) -> bool {
    let text = content_type.as_str().to_ascii_lowercase();
    let mut parts = text.split(';').map(str::trim);
    let is_text = parts.next().is_some_and(|essence| essence.starts_with("text/"));
    let charset = parts.find_map(|parameter| parameter.strip_prefix("charset="));
    is_text && charset.is_none_or(|charset| charset.trim_matches('"') == "utf-8")
}

#[cfg(test)]
pub(super) mod tests {
    use pushonce_core::test_util;

    use super::*;

    /// An event as a client receives it.
    #[derive(Clone, Debug, Default, PartialEq, Eq)]
    pub(crate) struct ReceivedEvent {
        pub(crate) name: String,
        pub(crate) data: String,
        pub(crate) id: String,
    }

    /// Interprets a stream as the HTML standard says (9.2.6).
    pub(crate) fn parse(stream: &str) -> Vec<ReceivedEvent> {
        let (mut events, mut event, mut data) =
            (Vec::new(), ReceivedEvent::default(), String::new());
        let text = stream.replace("\r\n", "\n").replace('\r', "\n");
        for line in text.strip_suffix('\n').unwrap_or(&text).split('\n') {
            if line.is_empty() {
                if data.pop().is_some() {
                    events.push(ReceivedEvent { data: std::mem::take(&mut data), ..event.clone() });
                }
                event.name.clear();
                continue;
            }
            let (name, value) = line.split_once(':').unwrap_or((line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match name {
                "event" => value.clone_into(&mut event.name),
                "data" => data.extend([value, "\n"]),
                "id" if !value.contains('\0') => value.clone_into(&mut event.id),
                _ => {}
            }
        }
        events
    }

    fn message(content_type: &str, payload: &[u8]) -> Message {
        Message {
            content_type: ContentType::parse(content_type).expect("valid"),
            payload: Bytes::copy_from_slice(payload),
            ..test_util::message(12, 4_051)
        }
    }

    fn received(content_type: &str, payload: &[u8]) -> ReceivedEvent {
        let block = encode_message(&message(content_type, payload));
        let mut events = parse(std::str::from_utf8(&block).expect("UTF-8"));
        assert_eq!(events.len(), 1, "{}", block.escape_ascii());
        events.remove(0)
    }

    #[test]
    fn message_is_one_event_with_its_position_as_id() {
        let block = encode_message(&message("application/json", b"{\"gb\":21}"));
        assert_eq!(block, "data: {\"gb\":21}\nid: 12:4051\n\n");
    }

    #[test]
    fn text_is_received_with_its_lines_and_cannot_add_fields() {
        for (text, expected) in [
            ("goal", "goal"),
            ("", ""),
            (" leading space", " leading space"),
            ("a\nb", "a\nb"),
            ("a\r\nb\rc", "a\nb\nc"),
            ("ends\n", "ends\n"),
            ("\n\nid: 9:9\n\ndata: x", "\n\nid: 9:9\n\ndata: x"),
            ("\u{feff}:comment\0", "\u{feff}:comment\0"),
        ] {
            for content_type in ["text/plain", "text/html; charset=UTF-8"] {
                let event = received(content_type, text.as_bytes());
                assert_eq!((event.data.as_str(), event.name.as_str()), (expected, ""), "{text:?}");
                assert_eq!(event.id, "12:4051");
            }
        }
    }

    #[test]
    fn json_is_on_one_line() {
        let event = received("application/json", b"{\n\"a\":\r\n 1}");
        assert_eq!(event.data, "{ \"a\":   1}");
    }

    #[test]
    fn other_payloads_are_base64_under_a_name_of_their_own() {
        for (content_type, payload) in
            [("image/png", &b"\x89PNG\n"[..]), ("text/plain; charset=iso-8859-1", b"caf\xe9")]
        {
            let event = received(content_type, payload);
            assert_eq!(event.name, "base64");
            assert_eq!(STANDARD.decode(event.data).expect("base64"), payload);
        }
    }
}
