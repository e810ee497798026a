use bytes::Bytes;
use pushonce_core::{ContentType, Delivery, Options, Position, Timestamp};

use super::*;

const LIMITS: Limits = Limits { subscriptions_max: 2, publishes_max: 3, publish_bytes_max: 100 };

fn session() -> Session {
    Session::new(Rc::new(LIMITS))
}

fn topic(name: &str) -> Topic {
    Topic::new(name).unwrap()
}

fn request(id: u64, command: Command) -> Input {
    Input::Request(Ok(Request { id: Some(id), command }))
}

fn subscribe(id: u64, name: &str) -> Input {
    let options = Options::default();
    request(id, Command::Subscribe { topic: topic(name), from: From::Now, options })
}

fn unsubscribe(id: u64, name: &str) -> Input {
    request(id, Command::Unsubscribe { topic: topic(name) })
}

fn publish(id: u64, payload: &'static [u8]) -> Input {
    let payload = Bytes::from_static(payload);
    let (topic, content_type) = (topic("a"), ContentType::Binary);
    request(id, Command::Publish(Publish { topic, content_type, key: None, stamp: None, payload }))
}

fn subscribed(name: &str) -> Input {
    Input::Subscribed(
        topic(name),
        Ok(Granted {
            subscribed: Subscribed { position: Position::new(1, 7), recovered: true },
            delivery: Delivery::All,
        }),
    )
}

fn placed(offset: u64) -> Input {
    Input::Published(Ok(Placed {
        position: Position::new(1, offset),
        time: Timestamp(0),
        durability: Default::default(),
    }))
}

/// Effects in short, so that a story reads as one line each.
fn short(effects: Vec<Effect>) -> Vec<String> {
    let id = |id: Option<u64>| id.map_or("-".to_owned(), |id| id.to_string());
    let line = |effect| match effect {
        Effect::Reply(Event::Error { id: of, code, .. }) => format!("{} {code:?}", id(of)),
        Effect::Reply(Event::Subscribed { id: of, topic, .. }) => {
            format!("{} subscribed {topic}", id(of))
        }
        Effect::Reply(Event::Unsubscribed { id: of, .. }) => format!("{} unsubscribed", id(of)),
        Effect::Reply(Event::Published { id: of, position, .. }) => {
            format!("{} at {position}", id(of))
        }
        Effect::Subscribe { token, topic, .. } => format!("subscribe {topic} as {token}"),
        Effect::Start(topic) => format!("start {topic}"),
        Effect::Stop { token, .. } => format!("stop {token}"),
        Effect::Publish(publish) => format!("publish {}", publish.payload.escape_ascii()),
        Effect::Published => "all published".to_owned(),
        Effect::Close(close, _) => format!("close {}", close.code),
        other => format!("{other:?}"),
    };
    effects.into_iter().map(line).collect()
}

fn steps(session: &mut Session, inputs: impl IntoIterator<Item = Input>) -> Vec<Vec<String>> {
    inputs.into_iter().map(|input| short(session.step(input))).collect()
}

#[test]
fn frames_flow_only_after_the_answer_was_queued() {
    let inputs = [subscribe(1, "a"), subscribed("a"), unsubscribe(2, "a")];
    assert_eq!(
        steps(&mut session(), inputs),
        [
            vec!["subscribe a as 0"],
            vec!["1 subscribed a", "start a"],
            vec!["stop 0", "2 unsubscribed"]
        ]
    );
}

#[test]
fn a_second_subscription_is_refused_also_while_the_first_is_asked_for() {
    let inputs = [subscribe(1, "a"), subscribe(2, "a"), subscribed("a"), subscribe(3, "a")];
    let answers = steps(&mut session(), inputs);
    assert_eq!(answers[1], ["2 AlreadySubscribed"]);
    assert_eq!(answers[3], ["3 AlreadySubscribed"]);
}

#[test]
fn an_unsubscribe_waits_for_the_answer_to_its_subscribe() {
    let inputs = [subscribe(1, "a"), unsubscribe(2, "a"), unsubscribe(3, "a"), subscribed("a")];
    assert_eq!(
        steps(&mut session(), inputs)[1..],
        [vec![], vec!["3 NotSubscribed"], vec!["1 subscribed a", "stop 0", "2 unsubscribed"]]
    );
}

#[test]
fn a_refused_subscription_leaves_room_for_another() {
    let refused = || Input::Subscribed(topic("a"), Err((ErrorCode::Unavailable, String::new())));
    let inputs =
        [subscribe(1, "a"), subscribe(2, "b"), subscribe(3, "c"), refused(), subscribe(4, "c")];
    let answers = steps(&mut session(), inputs);
    assert_eq!(answers[2], ["3 TooManySubscriptions"]);
    assert_eq!(answers[3], ["1 Unavailable"]);
    assert_eq!(answers[4], ["subscribe c as 2"]);
}

#[test]
fn publishes_are_sent_on_as_they_come_and_answered_in_order() {
    let inputs = [publish(1, b"x"), publish(2, b"y"), placed(1), placed(2), placed(3)];
    let answers = [vec!["1 at 1:1"], vec!["2 at 1:2", "all published"], vec![]];
    let mut session = session();
    let steps = steps(&mut session, inputs);
    assert_eq!(steps[..2], [["publish x"], ["publish y"]]);
    assert_eq!(steps[2..], answers);
}

#[test]
fn publishes_beyond_the_bound_are_refused_and_the_others_are_not() {
    let inputs = (1..=4).map(|id| publish(id, b"x")).chain([placed(1), publish(5, b"x")]);
    let answers = steps(&mut session(), inputs);
    assert_eq!(answers[3], ["4 Overloaded"]);
    assert_eq!(answers[5], ["publish x"]);
}

#[test]
fn publishes_without_an_answer_are_bounded_in_bytes_but_for_one_alone() {
    let inputs = [(1, 110), (2, 1)].map(|(id, bytes)| publish(id, vec![b'x'; bytes].leak()));
    let answers = steps(&mut session(), inputs);
    assert_eq!(answers[0], [format!("publish {}", "x".repeat(110))]);
    assert_eq!(answers[1], ["2 Overloaded"]);
}

#[test]
fn a_wrong_frame_is_answered_and_a_broken_one_ends_the_session() {
    let wrong = |broken| {
        let (code, message) = (ErrorCode::BadTopic, String::new());
        Input::Request(Err(InvalidFrame { id: Some(9), code, message, broken }))
    };
    let answers = steps(&mut session(), [wrong(false), wrong(true), subscribe(1, "a")]);
    assert_eq!(answers[0], ["9 BadTopic"]);
    assert_eq!(answers[1], ["9 BadTopic".to_owned(), format!("close {}", close::BAD_FRAME.code)]);
    assert_eq!(answers[2], Vec::<String>::new(), "nothing follows a close");
}
