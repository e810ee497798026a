//! Requests, replies and positions of a session.

use pushonce_core::test_util::{self, topic};
use pushonce_core::{Delivery, Position};
use pushonce_proto::client::ErrorCode;

use super::*;

const OPTIONS: SubscribeOptions = SubscribeOptions {
    delivery: None,
    report_conflated: false,
    report_audience: true,
    accept_deltas: false,
    use_datagrams: false,
};

fn resume_state() -> ResumeState {
    let mut state = ResumeState::default();
    state.add_topic(topic("a"), StartFrom::Start, OPTIONS);
    state.add_topic(topic("b"), StartFrom::Last(2), OPTIONS);
    state
}

pub(super) fn message(name: &str, offset: u64) -> client::ServerEvent {
    let message = Arc::new(test_util::message(7, offset));
    client::ServerEvent::Message { topic: topic(name), message }
}

fn subscribed(id: u64, name: &str) -> client::ServerEvent {
    let (topic, position) = (topic(name), Position::new(7, 0));
    let (id, delivery) = (Some(id), Delivery::All);
    client::ServerEvent::Subscribed { id, topic, position, recovered: true, delivery }
}

#[test]
fn each_session_requests_what_the_previous_one_did_not_deliver() {
    let mut state = resume_state();
    let request =
        |id, name, from| SubscriptionRequest { id, topic: topic(name), from, options: OPTIONS };
    assert_eq!(
        state.begin_session(),
        [request(1, "a", StartFrom::Start), request(2, "b", StartFrom::Last(2))]
    );
    assert!(matches!(
        state.on_event(message("b", 4)),
        SessionAction::Deliver(SubscriberEvent::Message { .. })
    ));
    assert!(matches!(state.on_event(message("b", 4)), SessionAction::Ignore));
    assert_eq!(
        state.begin_session(),
        [
            request(1, "a", StartFrom::Start),
            request(2, "b", StartFrom::Position(Position::new(7, 4)))
        ]
    );
}

#[test]
fn session_is_fully_subscribed_when_every_topic_has_a_reply() {
    let mut state = resume_state();
    state.begin_session();
    state.on_event(subscribed(1, "a"));
    assert!(!state.is_fully_subscribed());
    state.on_event(client::ServerEvent::error(Some(2), ErrorCode::NotAllowed, "no"));
    assert!(state.is_fully_subscribed());
}

#[test]
fn rejected_topic_is_reported_and_not_requested_again() {
    let mut state = resume_state();
    state.begin_session();
    let action =
        state.on_event(client::ServerEvent::error(Some(2), ErrorCode::FuturePosition, "no"));
    let SessionAction::Deliver(SubscriberEvent::Rejected { topic: rejected, code, message }) =
        action
    else {
        panic!("{action:?}")
    };
    assert_eq!(rejected, Some(topic("b")));
    assert_eq!((code, message.as_str()), (ErrorCode::FuturePosition, "no"));
    assert_eq!(state.begin_session().len(), 1);
    state.on_event(client::ServerEvent::error(Some(1), ErrorCode::NotAllowed, "no"));
    assert!(state.is_empty());
}

fn unavailable(id: u64) -> client::ServerEvent {
    client::ServerEvent::error(Some(id), ErrorCode::Unavailable, "no owner")
}

#[test]
fn session_is_closed_when_no_topic_is_available() {
    let mut state = resume_state();
    state.begin_session();
    assert!(
        matches!(state.on_event(unavailable(1)), SessionAction::RetryLater { .. }),
        "b may still be served"
    );
    assert!(matches!(state.on_event(unavailable(2)), SessionAction::Close(_)));
    assert_eq!(state.begin_session().len(), 2);
}

#[test]
fn unavailable_topic_is_requested_again_on_the_same_session() {
    let mut state = resume_state();
    state.begin_session();
    state.on_event(subscribed(1, "a"));
    assert!(matches!(state.on_event(unavailable(2)), SessionAction::RetryLater { .. }));
    assert!(!state.is_fully_subscribed());
    let requests = state.take_requests();
    let (topic_b, from) = (topic("b"), StartFrom::Last(2));
    assert_eq!(requests, [SubscriptionRequest { id: 3, topic: topic_b, from, options: OPTIONS }]);
    state.on_event(subscribed(3, "b"));
    assert!(state.is_fully_subscribed());
}

#[test]
fn unreported_gap_closes_the_session_and_delivers_nothing() {
    let mut state = resume_state();
    state.begin_session();
    state.on_event(message("a", 1));
    assert!(matches!(state.on_event(message("a", 3)), SessionAction::Close(_)));
}

#[test]
fn session_is_stale_until_every_topic_is_live_or_a_new_session_begins() {
    let at = Position::new(7, 1);
    let stale = |name| client::ServerEvent::Stale { topic: topic(name), since: at };
    let live = |name| client::ServerEvent::Live { topic: topic(name), position: at };
    let mut state = resume_state();
    state.begin_session();
    assert!(matches!(
        state.on_event(stale("a")),
        SessionAction::Deliver(SubscriberEvent::Stale { .. })
    ));
    assert!(matches!(state.on_event(stale("c")), SessionAction::Ignore), "c is not subscribed");
    state.on_event(stale("b"));
    assert!(matches!(
        state.on_event(live("a")),
        SessionAction::Deliver(SubscriberEvent::Live { .. })
    ));
    assert!(state.has_stale_topics());
    state.on_event(live("b"));
    assert!(!state.has_stale_topics());
    state.on_event(stale("b"));
    state.begin_session();
    assert!(!state.has_stale_topics(), "a new session is not stale");
}

#[test]
fn events_of_unsubscribed_topics_are_ignored() {
    let mut state = resume_state();
    state.begin_session();
    assert!(matches!(state.on_event(message("c", 1)), SessionAction::Ignore));
    let audience = |name| client::ServerEvent::Audience { topic: topic(name), count: 7 };
    assert!(matches!(state.on_event(audience("c")), SessionAction::Ignore));
    let action = state.on_event(audience("a"));
    assert!(matches!(action, SessionAction::Deliver(SubscriberEvent::Audience { count: 7, .. })));
    assert!(matches!(state.on_event(subscribed(9, "c")), SessionAction::Ignore));
    let heartbeat = client::ServerEvent::Heartbeat { positions: vec![] };
    assert!(matches!(state.on_event(heartbeat), SessionAction::Ignore));
}

#[test]
fn removed_topic_is_requested_again_only_after_its_old_subscription_has_ended() {
    let mut state = resume_state();
    state.begin_session();
    state.on_event(subscribed(1, "a"));
    let unsubscribe = state.leave_topic(&topic("a"));
    assert_eq!(unsubscribe, Some(3));
    assert!(matches!(state.on_event(message("a", 1)), SessionAction::Ignore));
    state.add_topic(topic("a"), StartFrom::Start, OPTIONS);
    assert_eq!(state.take_new_requests(), []);
    assert!(matches!(state.on_event(message("a", 2)), SessionAction::Ignore));
    let unsubscribed = client::ServerEvent::Unsubscribed { id: Some(3), topic: topic("a") };
    assert!(matches!(state.on_event(unsubscribed), SessionAction::RequestAgain));
    let (topic_a, from) = (topic("a"), StartFrom::Start);
    let expected = SubscriptionRequest { id: 4, topic: topic_a, from, options: OPTIONS };
    assert_eq!(state.take_new_requests(), [expected]);
    assert!(matches!(state.on_event(message("a", 1)), SessionAction::Deliver(_)));
}

#[test]
fn removal_of_a_topic_that_was_rejected_meanwhile_is_no_rejection() {
    let mut state = resume_state();
    state.begin_session();
    assert_eq!(state.leave_topic(&topic("a")), Some(3));
    let rejected = client::ServerEvent::error(Some(1), ErrorCode::NotAllowed, "no");
    // The reply to the request that was pending; nobody asks for the topic any more.
    assert!(matches!(state.on_event(rejected), SessionAction::Deliver(_)));
    let not_subscribed = client::ServerEvent::error(Some(3), ErrorCode::NotSubscribed, "no");
    assert!(matches!(state.on_event(not_subscribed), SessionAction::Ignore));
    assert_eq!(state.leave_topic(&topic("a")), None, "it is not requested");
}

#[test]
fn subscription_that_the_server_ended_is_reported_and_not_requested_again() {
    let mut state = resume_state();
    state.begin_session();
    state.on_event(subscribed(1, "a"));
    state.on_event(subscribed(2, "b"));
    let ended = client::ServerEvent::Unsubscribed { id: None, topic: topic("a") };
    let SessionAction::Deliver(SubscriberEvent::Rejected { topic: rejected, code, .. }) =
        state.on_event(ended.clone())
    else {
        panic!("expected a rejection")
    };
    assert_eq!((rejected, code), (Some(topic("a")), ErrorCode::NotAllowed));
    assert!(matches!(state.on_event(ended), SessionAction::Ignore), "it has ended already");
    assert!(matches!(state.on_event(message("a", 1)), SessionAction::Ignore));
    assert_eq!(state.begin_session().len(), 1);
}
