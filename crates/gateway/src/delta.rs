//! Computes the delta from one message of a topic to the next.

use bytes::Bytes;
use pushonce_core::{ContentType, Message};

/// Larger payloads are sent whole. A malicious publisher can make the computation cost 1 µs a byte, about 500
/// times the usual, and it blocks a lane: for 30 ms at this limit.
const PAYLOAD_BYTES_MAX: usize = 32 << 10;

/// The delta from the payload of `base` to the payload of `message`, in the fossil format. `None` when the
/// whole payload is no longer than the delta, or when a delta is not possible.
pub(crate) fn between(base: &Message, message: &Message) -> Option<Bytes> {
    let (old, new) = (&base.payload, &message.payload);
    let is_small = old.len().max(new.len()) <= PAYLOAD_BYTES_MAX;
    // A delta frame does not contain the content type.
    if !is_small || base.content_type != message.content_type || !is_preserved_exactly(base) {
        return None;
    }
    let mut delta = fossil_delta::delta(new, old);
    let base64_len = delta.len().div_ceil(3) * 4;
    if base64_len >= new.len() {
        return None;
    }
    // The buffer has the capacity of the old payload and is kept as long as the message.
    delta.shrink_to_fit();
    Some(delta.into())
}

/// Whether every client has the payload byte for byte. A client that receives JSON may drop the white space
/// around the value.
fn is_preserved_exactly(message: &Message) -> bool {
    let payload = &message.payload[..];
    message.content_type != ContentType::Json || payload.trim_ascii().len() == payload.len()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use pushonce_core::test_util;

    use super::*;

    fn message(content_type: ContentType, payload: &[u8]) -> Message {
        let payload = Bytes::copy_from_slice(payload);
        Message { content_type, payload, ..test_util::message(1, 1) }
    }

    fn score(home: u32, minute: u32) -> String {
        let teams = r#""home":"Germany","away":"Brazil","ground":"Estadio Azteca, Mexico City""#;
        format!(r#"{{{teams},"score":[{home},1],"minute":{minute}}}"#)
    }

    fn delta_of(content_type: ContentType, old: &str, new: &str) -> Option<Bytes> {
        let old = message(content_type.clone(), old.as_bytes());
        between(&old, &message(content_type, new.as_bytes()))
    }

    #[test]
    fn small_change_is_encoded_as_a_delta() {
        let (old, new) = (score(1, 56), score(2, 57));
        let delta =
            delta_of(ContentType::Json, &old, &new).expect("a delta shorter than the payload");
        assert_eq!(fossil_delta::deltainv(&old, &delta), new.as_bytes());
        assert!(delta.len() * 2 < new.len(), "{}", delta.escape_ascii());
    }

    #[test]
    fn unrelated_payloads_have_no_delta() {
        assert_eq!(delta_of(ContentType::Text, "first", "second"), None);
        assert_eq!(delta_of(ContentType::Text, "", &"0123456789 ".repeat(9)), None);
        assert_eq!(delta_of(ContentType::Text, &"x".repeat(100), ""), None);
    }

    #[test]
    fn changed_content_type_has_no_delta() {
        let (old, new) = (score(1, 56), score(2, 57));
        let old = message(ContentType::Text, old.as_bytes());
        assert_eq!(between(&old, &message(ContentType::Json, new.as_bytes())), None);
    }

    #[test]
    fn json_base_with_surrounding_white_space_has_no_delta() {
        let (old, new) = (score(1, 56), score(2, 57));
        assert_eq!(delta_of(ContentType::Json, &format!("{old}\n"), &new), None);
        assert!(delta_of(ContentType::Json, &old, &format!("{new}\n")).is_some());
        assert!(delta_of(ContentType::Text, &format!("{old}\n"), &new).is_some());
    }

    #[test]
    fn payload_over_the_limit_has_no_delta() {
        let old = "x".repeat(PAYLOAD_BYTES_MAX);
        assert!(delta_of(ContentType::Text, &old, &old).is_some());
        assert_eq!(delta_of(ContentType::Text, &old, &format!("{old}x")), None);
        assert_eq!(delta_of(ContentType::Text, &format!("{old}x"), &old), None);
    }

    proptest! {
        #[test]
        fn delta_applied_to_the_old_payload_gives_the_new_payload(
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
