//! Deltas become whole messages, or close the session.

use bytes::Bytes;
use pushonce_core::test_util::topic;
use pushonce_core::{ContentType, Position, Timestamp};
use pushonce_proto::client::MessageDelta;

use super::resume_state_test::message;
use super::*;

fn full_message(name: &str, offset: u64, payload: &[u8]) -> client::ServerEvent {
    let client::ServerEvent::Message { topic, message } = message(name, offset) else { panic!() };
    let payload = Bytes::copy_from_slice(payload);
    let message = Arc::new(Message { payload, ..Arc::unwrap_or_clone(message) });
    client::ServerEvent::Message { topic, message }
}

fn delta_event(name: &str, offset: u64, old: &[u8], new: &[u8]) -> client::ServerEvent {
    let (position, delta) = (Position::new(7, offset), fossil_delta::delta(new, old).into());
    let message_delta = MessageDelta { position, time: Timestamp(0), key: None, delta };
    client::ServerEvent::MessageDelta { topic: topic(name), message_delta }
}

fn resume_state_with_deltas() -> ResumeState {
    let (mut state, delta) = (
        ResumeState::default(),
        SubscribeOptions { accept_deltas: true, ..SubscribeOptions::default() },
    );
    state.add_topic(topic("a"), StartFrom::Start, delta);
    state.add_topic(topic("b"), StartFrom::Last(2), delta);
    assert!(state.begin_session().iter().all(|ask| ask.options.accept_deltas));
    state
}

fn delivered_payload(action: SessionAction) -> Bytes {
    let SessionAction::Deliver(SubscriberEvent::Message { message, .. }) = action else {
        panic!("{action:?}")
    };
    assert_eq!(message.content_type, ContentType::Text);
    message.payload.clone()
}

const ONE: &[u8] = b"Germany against Brazil: 1 to 0";
const TWO: &[u8] = b"Germany against Brazil: 2 to 0";
const THREE: &[u8] = b"Germany against Brazil: 2 to 1";

#[test]
fn consecutive_deltas_become_full_messages() {
    let mut state = resume_state_with_deltas();
    assert_eq!(delivered_payload(state.on_event(full_message("a", 1, ONE))), ONE);
    assert_eq!(
        delivered_payload(state.on_event(full_message("b", 1, b"another topic"))),
        "another topic"
    );
    assert_eq!(delivered_payload(state.on_event(delta_event("a", 2, ONE, TWO))), TWO);
    assert_eq!(delivered_payload(state.on_event(delta_event("a", 3, TWO, THREE))), THREE);
    assert!(
        matches!(state.on_event(delta_event("c", 1, ONE, TWO)), SessionAction::Ignore),
        "c is not subscribed"
    );
}

#[test]
fn duplicate_message_still_serves_as_a_delta_base() {
    let mut state = resume_state_with_deltas();
    state.on_event(full_message("a", 4, ONE));
    state.begin_session();
    assert!(matches!(state.on_event(full_message("a", 4, ONE)), SessionAction::Ignore));
    assert_eq!(delivered_payload(state.on_event(delta_event("a", 5, ONE, TWO))), TWO);
}

#[test]
fn delta_without_its_base_closes_the_session_and_delivers_nothing() {
    let mut state = resume_state_with_deltas();
    assert!(
        matches!(state.on_event(delta_event("a", 1, ONE, TWO)), SessionAction::Close(_)),
        "no base yet"
    );
    state.on_event(full_message("a", 1, ONE));
    assert!(
        matches!(state.on_event(delta_event("a", 3, ONE, TWO)), SessionAction::Close(_)),
        "a message is missing in between"
    );
    state.begin_session();
    assert!(
        matches!(state.on_event(delta_event("a", 2, ONE, TWO)), SessionAction::Close(_)),
        "the base is of another session"
    );
    let from = state.begin_session()[0].from;
    assert_eq!(from, StartFrom::Position(Position::new(7, 1)), "the message is requested again");
}

#[test]
fn delta_of_another_base_closes_the_session_and_delivers_nothing() {
    let mut state = resume_state_with_deltas();
    state.on_event(full_message("a", 1, ONE));
    let other = [ONE, b"?"].concat();
    let action = state.on_event(delta_event("a", 2, &other, &[&other[..], b"!"].concat()));
    assert!(matches!(action, SessionAction::Close(_)), "{action:?}");
}
