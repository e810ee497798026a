//! What changed from one message of a topic to the next.

use bytes::Bytes;
use pushonce_core::{ContentType, Message};

/// Messages beyond this go whole. A publisher that means harm can make the search for what stayed
/// cost 1 µs a byte, some 500 times the usual, and a lane waits for it: 30 ms at this bound.
const PAYLOAD_BYTES_MAX: usize = 32 << 10;

/// What makes the payload of `message` out of that of `before`, in the fossil format; none when the
/// payload itself is no more to send.
pub(crate) fn between(before: &Message, message: &Message) -> Option<Bytes> {
    let (old, new) = (&before.payload, &message.payload);
    let small = old.len().max(new.len()) <= PAYLOAD_BYTES_MAX;
    // A frame with a delta does not say the content type again.
    if !small || before.content_type != message.content_type || !is_kept_exactly(before) {
        return None;
    }
    let mut delta = fossil_delta::delta(new, old);
    let as_base64 = delta.len().div_ceil(3) * 4;
    if as_base64 >= new.len() {
        return None;
    }
    // It has room for the whole old payload, and is kept as long as the message.
    delta.shrink_to_fit();
    Some(delta.into())
}

/// Whether every client has the payload byte for byte: of a JSON frame it may have taken the value
/// without the white space around it.
fn is_kept_exactly(message: &Message) -> bool {
    let payload = &message.payload[..];
    message.content_type != ContentType::Json || payload.trim_ascii().len() == payload.len()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use pushonce_core::{Position, Timestamp};

    use super::*;

    fn message(content_type: ContentType, payload: &[u8]) -> Message {
        let payload = Bytes::copy_from_slice(payload);
        let (position, time) = (Position::new(1, 1), Timestamp(0));
        Message { position, time, content_type, key: None, payload }
    }

    fn score(home: u32, minute: u32) -> String {
        let teams = r#""home":"Germany","away":"Brazil","ground":"Estadio Azteca, Mexico City""#;
        format!(r#"{{{teams},"score":[{home},1],"minute":{minute}}}"#)
    }

    fn of(content_type: ContentType, old: &str, new: &str) -> Option<Bytes> {
        let old = message(content_type.clone(), old.as_bytes());
        between(&old, &message(content_type, new.as_bytes()))
    }

    #[test]
    fn a_score_that_changed_a_little_is_sent_as_what_changed() {
        let (old, new) = (score(1, 56), score(2, 57));
        let delta = of(ContentType::Json, &old, &new).expect("less");
        assert_eq!(fossil_delta::deltainv(&old, &delta), new.as_bytes());
        assert!(delta.len() * 2 < new.len(), "{}", delta.escape_ascii());
    }

    #[test]
    fn what_has_nothing_in_common_with_the_message_before_goes_whole() {
        assert_eq!(of(ContentType::Text, "first", "second"), None);
        assert_eq!(of(ContentType::Text, "", &"0123456789 ".repeat(9)), None);
        assert_eq!(of(ContentType::Text, &"x".repeat(100), ""), None);
    }

    #[test]
    fn another_content_type_goes_whole() {
        let (old, new) = (score(1, 56), score(2, 57));
        let old = message(ContentType::Text, old.as_bytes());
        assert_eq!(between(&old, &message(ContentType::Json, new.as_bytes())), None);
    }

    #[test]
    fn what_a_client_may_have_without_its_white_space_is_no_base() {
        let (old, new) = (score(1, 56), score(2, 57));
        assert_eq!(of(ContentType::Json, &format!("{old}\n"), &new), None);
        assert!(of(ContentType::Json, &old, &format!("{new}\n")).is_some());
        assert!(of(ContentType::Text, &format!("{old}\n"), &new).is_some());
    }

    #[test]
    fn a_large_message_goes_whole() {
        let old = "x".repeat(PAYLOAD_BYTES_MAX);
        assert!(of(ContentType::Text, &old, &old).is_some());
        assert_eq!(of(ContentType::Text, &old, &format!("{old}x")), None);
        assert_eq!(of(ContentType::Text, &format!("{old}x"), &old), None);
    }

    proptest! {
        #[test]
        fn whatever_changed_it_gives_the_new_payload(
            old in proptest::collection::vec(0_u8..4, 0..400),
            at in any::<proptest::sample::Index>(),
            cut in 0_usize..40,
            put in proptest::collection::vec(any::<u8>(), 0..40),
        ) {
            let at = at.index(old.len() + 1);
            let mut new = old.clone();
            new.splice(at..(at + cut).min(old.len()), put);
            let [before, after] = [&old, &new].map(|payload| message(ContentType::Binary, payload));
            if let Some(delta) = between(&before, &after) {
                prop_assert!(delta.len() < new.len());
                prop_assert_eq!(fossil_delta::deltainv(&old, &delta), new);
            }
        }
    }
}
