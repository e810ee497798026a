use pushonce_core::test_util::{self, acknowledgement, topic};
use pushonce_core::{Delivery, Position, SubscribeAck, SubscribeOptions};

use super::*;

const LIMITS: SessionLimits = SessionLimits { publishes_max: 3, publish_bytes_max: 100 };

/// A node without issuers.
struct OpenGate;

impl AccessGate for OpenGate {
    fn is_open(&self) -> bool {
        true
    }

    fn authorize(&self, _: Option<&Caller>, _: Action<'_>) -> Result<(), AccessError> {
        Ok(())
    }

    fn expires_at(&self, _: &Caller) -> Timestamp {
        Timestamp(0)
    }
}

fn session() -> Session {
    Session::new(Rc::new(LIMITS))
}

fn request(id: u64, command: ClientCommand) -> SessionInput {
    SessionInput::Request(Ok(ClientRequest { id: Some(id), command }))
}

fn subscribe(id: u64, name: &str) -> SessionInput {
    let options = SubscribeOptions::default();
    request(id, ClientCommand::Subscribe { topic: topic(name), from: StartFrom::Now, options })
}

fn unsubscribe(id: u64, name: &str) -> SessionInput {
    request(id, ClientCommand::Unsubscribe { topic: topic(name) })
}

fn publish(id: u64, payload: &'static [u8]) -> SessionInput {
    request(id, ClientCommand::Publish(test_util::publish("a", payload)))
}

fn subscribed(name: &str) -> SessionInput {
    SessionInput::Subscribed(
        topic(name),
        Ok(SubscriptionGrant {
            subscribed: SubscribeAck { position: Position::new(1, 7), recovered: true },
            delivery: Delivery::All,
        }),
    )
}

fn published(offset: u64) -> SessionInput {
    SessionInput::Published(Ok(acknowledgement(1, offset)))
}

/// Formats each effect as one short line.
fn summarize(effects: Vec<SessionEffect>) -> Vec<String> {
    let id = |id: Option<u64>| id.map_or("-".to_owned(), |id| id.to_string());
    let line = |effect| match effect {
        SessionEffect::Reply(ServerEvent::Error { id: request_id, code, .. }) => {
            format!("{} {code:?}", id(request_id))
        }
        SessionEffect::Reply(ServerEvent::Subscribed { id: request_id, topic, .. }) => {
            format!("{} subscribed {topic}", id(request_id))
        }
        SessionEffect::Reply(ServerEvent::Published { id: request_id, position, .. }) => {
            format!("{} at {position}", id(request_id))
        }
        SessionEffect::Subscribe { token, topic, .. } => format!("subscribe {topic} as {token}"),
        SessionEffect::StartDelivery(topic) => format!("start {topic}"),
        SessionEffect::Unsubscribe { id: request_id, topic } => {
            format!("{} unsubscribe {topic}", id(request_id))
        }
        SessionEffect::Publish(publish) => format!("publish {}", publish.payload.escape_ascii()),
        SessionEffect::PublishesDone => "all published".to_owned(),
        SessionEffect::Close(close, _) => format!("close {}", close.code),
        other => format!("{other:?}"),
    };
    effects.into_iter().map(line).collect()
}

fn run_inputs(
    session: &mut Session,
    inputs: impl IntoIterator<Item = SessionInput>,
) -> Vec<Vec<String>> {
    inputs.into_iter().map(|input| summarize(session.on_input(input, &OpenGate))).collect()
}

#[test]
fn delivery_starts_only_after_the_subscribed_reply() {
    let inputs = [subscribe(1, "a"), subscribed("a"), unsubscribe(2, "a")];
    assert_eq!(
        run_inputs(&mut session(), inputs),
        [vec!["subscribe a as 0"], vec!["1 subscribed a", "start a"], vec!["2 unsubscribe a"]]
    );
}

#[test]
fn second_subscribe_is_rejected_even_while_the_first_is_pending() {
    let inputs = [subscribe(1, "a"), subscribe(2, "a"), subscribed("a"), subscribe(3, "a")];
    let effects = run_inputs(&mut session(), inputs);
    assert_eq!(effects[1], ["2 AlreadySubscribed"]);
    assert_eq!(effects[3], ["subscribe a as 1"], "the lane knows of the first");
}

#[test]
fn unsubscribe_waits_for_the_reply_to_its_subscribe() {
    let inputs = [subscribe(1, "a"), unsubscribe(2, "a"), unsubscribe(3, "a"), subscribed("a")];
    assert_eq!(
        run_inputs(&mut session(), inputs)[1..],
        [vec![], vec!["3 NotSubscribed"], vec!["1 subscribed a", "2 unsubscribe a"]]
    );
}

#[test]
fn unsubscribe_after_a_rejected_subscribe_reaches_the_lane() {
    let rejected =
        SessionInput::Subscribed(topic("a"), Err(SubscribeError::AlreadySubscribed.into()));
    let inputs = [subscribe(1, "a"), unsubscribe(2, "a"), rejected, subscribe(3, "a")];
    let effects = run_inputs(&mut session(), inputs);
    assert_eq!(effects[2], ["1 AlreadySubscribed", "2 unsubscribe a"]);
    assert_eq!(effects[3], ["subscribe a as 1"]);
}

#[test]
fn publishes_are_forwarded_at_once_and_acknowledged_in_order() {
    let inputs = [publish(1, b"x"), publish(2, b"y"), published(1), published(2), published(3)];
    let expected = [vec!["1 at 1:1"], vec!["2 at 1:2", "all published"], vec![]];
    let mut session = session();
    let steps = run_inputs(&mut session, inputs);
    assert_eq!(steps[..2], [["publish x"], ["publish y"]]);
    assert_eq!(steps[2..], expected);
}

#[test]
fn publish_over_the_limit_is_rejected_without_affecting_others() {
    let inputs = (1..=4).map(|id| publish(id, b"x")).chain([published(1), publish(5, b"x")]);
    let effects = run_inputs(&mut session(), inputs);
    assert_eq!(effects[3], ["4 Overloaded"]);
    assert_eq!(effects[5], ["publish x"]);
}

#[test]
fn pending_publish_bytes_are_limited_except_for_a_single_publish() {
    let inputs = [(1, 110), (2, 1)].map(|(id, bytes)| publish(id, vec![b'x'; bytes].leak()));
    let effects = run_inputs(&mut session(), inputs);
    assert_eq!(effects[0], [format!("publish {}", "x".repeat(110))]);
    assert_eq!(effects[1], ["2 Overloaded"]);
}

#[test]
fn invalid_frame_gets_an_error_and_broken_frame_closes_the_session() {
    let invalid = |is_fatal| {
        let (code, message) = (ErrorCode::BadTopic, String::new());
        SessionInput::Request(Err(InvalidFrame { id: Some(9), code, message, is_fatal }))
    };
    let effects = run_inputs(&mut session(), [invalid(false), invalid(true), subscribe(1, "a")]);
    assert_eq!(effects[0], ["9 BadTopic"]);
    assert_eq!(effects[1], ["9 BadTopic".to_owned(), format!("close {}", close::BAD_FRAME.code)]);
    assert_eq!(effects[2], Vec::<String>::new(), "effects after a close");
}
