//! What a client of any transport may rely on. Each story is written once and told over WebSocket
//! in both encodings and over QUIC.

mod support;

use std::num::NonZeroU16;
use std::time::Duration;

use bytes::Bytes;
use pushonce_core::{Delivery, Durability, From, NamespaceChange, Options, Position};
use pushonce_proto::client::{Command, ErrorCode, Event};
use pushonce_proto::close;

use support::Server;
use support::client::{
    Client, Via, publish, subscribe, subscribe_to_deltas, subscribe_with, topic, unsubscribe,
};
use support::origin::EPOCH;

macro_rules! session_suite {
    ($($story:ident),* $(,)?) => {
        session_suite!(@ ws_json, WsJson, $($story),*);
        session_suite!(@ ws_proto, WsProto, $($story),*);
        session_suite!(@ quic, Quic, $($story),*);
    };
    (@ $name:ident, $via:ident, $($story:ident),*) => {
        mod $name {
            $(#[tokio::test]
            async fn $story() {
                super::$story(super::Via::$via).await;
            })*
        }
    };
}

session_suite!(
    a_subscription_from_now_gets_what_comes_next,
    a_subscription_begins_with_the_last_few,
    a_subscription_resumes_after_a_position,
    a_subscription_from_the_start_gets_everything,
    after_unsubscribed_nothing_of_the_topic_follows,
    several_topics_share_a_session,
    publishes_are_acknowledged_in_order,
    a_malformed_topic_is_answered_and_the_session_goes_on,
    a_broken_frame_is_answered_and_ends_the_session,
    a_second_subscription_to_a_topic_is_refused,
    nobody_publishes_to_the_system,
    a_payload_over_the_limit_is_answered,
    a_frame_over_the_limit_ends_the_session,
    the_largest_payload_of_a_namespace_fits_however_it_is_written,
    topics_of_the_system_cannot_be_subscribed_to,
    a_position_that_was_never_given_out_is_refused,
    nothing_to_unsubscribe_is_said,
    heartbeats_carry_what_was_sent,
    a_topic_that_goes_stale_is_told_and_left_out_of_heartbeats,
    who_asks_is_told_how_many_watch_and_nobody_else,
    a_server_that_goes_says_so_and_closes,
    a_client_that_pauses_reading_misses_nothing,
    who_wants_the_latest_gets_the_newest_of_the_past,
    a_namespace_says_what_a_session_gets_and_how_much_at_most,
    an_overloaded_server_closes_its_doors_then_sends_sessions_away_for_a_while,
    who_asks_for_deltas_is_sent_what_changed,
);

fn at(offset: u64) -> Position {
    Position::new(EPOCH, offset)
}

async fn server_with_three_messages() -> Server {
    let server = Server::start().await;
    for text in ["one", "two", "three"] {
        server.origin.say("a/b", text).await;
    }
    server
}

async fn a_subscription_from_now_gets_what_comes_next(via: Via) {
    let server = server_with_three_messages().await;
    let mut client = Client::connect(&server, via).await;
    let answer = client.subscribe(1, "a/b", From::Now).await;
    let (id, topic, position) = (Some(1), topic("a/b"), at(3));
    let delivery = Delivery::All;
    assert_eq!(answer, Event::Subscribed { id, topic, position, recovered: true, delivery });
    server.origin.say("a/b", "four").await;
    assert_eq!(client.message().await, ("a/b".to_owned(), "four".to_owned()));
}

async fn a_subscription_begins_with_the_last_few(via: Via) {
    let server = server_with_three_messages().await;
    let mut client = Client::connect(&server, via).await;
    client.subscribe(1, "a/b", From::Last(2)).await;
    server.origin.say("a/b", "four").await;
    assert_eq!(client.texts(3).await, ["two", "three", "four"]);
}

async fn a_subscription_resumes_after_a_position(via: Via) {
    let server = server_with_three_messages().await;
    let mut client = Client::connect(&server, via).await;
    client.subscribe(1, "a/b", From::Position(at(1))).await;
    assert_eq!(client.texts(2).await, ["two", "three"]);
}

async fn a_subscription_from_the_start_gets_everything(via: Via) {
    let server = server_with_three_messages().await;
    let mut client = Client::connect(&server, via).await;
    client.subscribe(1, "a/b", From::Start).await;
    assert_eq!(client.texts(3).await, ["one", "two", "three"]);
}

async fn after_unsubscribed_nothing_of_the_topic_follows(via: Via) {
    let server = Server::start().await;
    let mut client = Client::connect(&server, via).await;
    client.subscribe(1, "a", From::Now).await;
    client.subscribe(2, "b", From::Now).await;
    client.send(3, unsubscribe("a")).await;
    let answer = client.answer().await;
    assert_eq!(answer, Event::Unsubscribed { id: Some(3), topic: topic("a") });
    server.origin.say("a", "not for this client").await;
    server.origin.say("b", "for this client").await;
    assert_eq!(client.message().await.0, "b");
    client.subscribe(4, "a", From::Now).await;
    server.origin.say("a", "again").await;
    assert_eq!(client.message().await.1, "again");
}

async fn several_topics_share_a_session(via: Via) {
    let server = Server::start().await;
    let mut client = Client::connect(&server, via).await;
    let names: Vec<String> = (0..20).map(|n| format!("match/{n}")).collect();
    for (id, name) in names.iter().enumerate() {
        client.subscribe(id as u64 + 1, name, From::Now).await;
    }
    for name in &names {
        server.origin.say(name, name).await;
    }
    let mut got = client.texts(20).await;
    got.sort_by_key(|name| names.iter().position(|known| known == name));
    assert_eq!(got, names);
}

async fn publishes_are_acknowledged_in_order(via: Via) {
    let server = Server::start().await;
    let mut client = Client::connect(&server, via).await;
    client.subscribe(100, "a", From::Now).await;
    for id in 1..=10 {
        client.send(id, publish("a", &id.to_string())).await;
    }
    for id in 1..=10 {
        let answer = client.answer().await;
        assert_eq!(answer, published(id, id));
    }
    let expected: Vec<String> = (1..=10).map(|id| id.to_string()).collect();
    assert_eq!(client.texts(10).await, expected);
}

fn published(id: u64, offset: u64) -> Event {
    Event::Published { id: Some(id), position: at(offset), durability: Durability::Replicated }
}

async fn a_malformed_topic_is_answered_and_the_session_goes_on(via: Via) {
    let server = Server::start().await;
    let mut client = Client::connect(&server, via).await;
    client.send_raw(malformed_topic(via)).await;
    assert_eq!(client.refused().await, (Some(5), ErrorCode::BadTopic));
    client.send(6, publish("a", "goes on")).await;
    assert_eq!(client.answer().await, published(6, 1));
}

/// No encoder would write this.
fn malformed_topic(via: Via) -> Bytes {
    match via {
        Via::WsJson => Bytes::from_static(br#"{"id":5,"subscribe":{"topic":"a//b"}}"#),
        // id = 5; subscribe = { topic = "a//b" }
        Via::WsProto | Via::Quic => Bytes::from_static(b"\x08\x05\x12\x06\x0a\x04a//b"),
    }
}

async fn a_broken_frame_is_answered_and_ends_the_session(via: Via) {
    let server = Server::start().await;
    let mut client = Client::connect(&server, via).await;
    client.send_raw(Bytes::from_static(b"\xff{")).await;
    assert_eq!(client.refused().await, (None, ErrorCode::BadFrame));
    assert_eq!(client.closed().await, close::BAD_FRAME.code);
}

async fn a_second_subscription_to_a_topic_is_refused(via: Via) {
    let server = Server::start().await;
    let mut client = Client::connect(&server, via).await;
    client.subscribe(1, "a", From::Now).await;
    client.send(2, subscribe("a", From::Start)).await;
    assert_eq!(client.refused().await, (Some(2), ErrorCode::AlreadySubscribed));
    server.origin.say("a", "once").await;
    server.origin.say("a", "only").await;
    assert_eq!(client.texts(2).await, ["once", "only"]);
}

async fn nobody_publishes_to_the_system(via: Via) {
    let server = Server::start().await;
    let mut client = Client::connect(&server, via).await;
    client.send(1, publish("$sys/a", "x")).await;
    assert_eq!(client.refused().await, (Some(1), ErrorCode::NotAllowed));
}

async fn a_payload_over_the_limit_is_answered(via: Via) {
    let server = Server::start().await;
    let mut client = Client::connect(&server, via).await;
    client.send(1, publish("a", &"x".repeat((64 << 10) + 1))).await;
    assert_eq!(client.refused().await, (Some(1), ErrorCode::TooLarge));
}

async fn a_frame_over_the_limit_ends_the_session(via: Via) {
    let server = Server::start().await;
    let mut client = Client::connect(&server, via).await;
    client.send(1, publish("a", &"x".repeat(600 << 10))).await;
    assert_eq!(client.closed().await, close::TOO_BIG.code);
}

async fn the_largest_payload_of_a_namespace_fits_however_it_is_written(via: Via) {
    let server = Server::start().await;
    let mut client = Client::connect(&server, via).await;
    // Each of these is six bytes long in JSON.
    client.send(1, publish("a", &"\u{1}".repeat(64 << 10))).await;
    assert!(matches!(client.answer().await, Event::Published { .. }));
    // A session that is open learns of a raised limit as well.
    let raised = Some(1 << 20);
    server.set(NamespaceChange { payload_bytes_max: raised, ..NamespaceChange::default() });
    client.send(2, publish("a", &"\u{1}".repeat(1 << 20))).await;
    assert!(matches!(client.answer().await, Event::Published { .. }));
    client.send(3, publish("a", &"x".repeat((1 << 20) + 1))).await;
    assert_eq!(client.refused().await, (Some(3), ErrorCode::TooLarge));
}

async fn topics_of_the_system_cannot_be_subscribed_to(via: Via) {
    let server = Server::start().await;
    let mut client = Client::connect(&server, via).await;
    for topic in ["$sys/nodes", "a/$presence"] {
        client.send(1, subscribe(topic, From::Now)).await;
        assert_eq!(client.refused().await, (Some(1), ErrorCode::NotAllowed));
    }
}

async fn a_position_that_was_never_given_out_is_refused(via: Via) {
    let server = server_with_three_messages().await;
    let mut client = Client::connect(&server, via).await;
    client.send(1, subscribe("a/b", From::Position(at(9)))).await;
    assert_eq!(client.refused().await, (Some(1), ErrorCode::FuturePosition));
    client.subscribe(2, "a/b", From::Last(1)).await;
    assert_eq!(client.texts(1).await, ["three"]);
}

async fn nothing_to_unsubscribe_is_said(via: Via) {
    let server = Server::start().await;
    let mut client = Client::connect(&server, via).await;
    client.send(1, unsubscribe("a")).await;
    assert_eq!(client.refused().await, (Some(1), ErrorCode::NotSubscribed));
    client.send(2, Command::Authenticate { token: "t".to_owned() }).await;
    assert_eq!(client.refused().await, (Some(2), ErrorCode::NotSupported));
}

async fn heartbeats_carry_what_was_sent(via: Via) {
    let server =
        Server::with(|config| config.heartbeat = std::time::Duration::from_millis(256)).await;
    let mut client = Client::connect(&server, via).await;
    client.subscribe(1, "a", From::Now).await;
    server.origin.say("a", "x").await;
    let told = Event::Heartbeat { positions: vec![(topic("a"), at(1))] };
    client.find(|event| *event == told).await;
}

async fn a_topic_that_goes_stale_is_told_and_left_out_of_heartbeats(via: Via) {
    let server =
        Server::with(|config| config.heartbeat = std::time::Duration::from_millis(256)).await;
    let mut client = Client::connect(&server, via).await;
    client.subscribe(1, "a", From::Now).await;
    server.origin.say("a", "x").await;
    let at = at(1);
    let beats =
        |event: &Event| matches!(event, Event::Heartbeat { positions } if !positions.is_empty());
    client.find(beats).await;
    server.origin.stand("a", false);
    let stale = Event::Stale { topic: topic("a"), since: at };
    client.find(|event| *event == stale).await;
    client.kept.clear();
    for _ in 0..3 {
        let Event::Heartbeat { positions } =
            client.find(|event| matches!(event, Event::Heartbeat { .. })).await
        else {
            unreachable!("it was found")
        };
        assert_eq!(positions, []);
    }
    server.origin.stand("a", true);
    let live = Event::Live { topic: topic("a"), position: at };
    client.find(|event| *event == live).await;
    client.find(beats).await;
}

async fn who_asks_is_told_how_many_watch_and_nobody_else(via: Via) {
    let server = Server::start().await;
    let mut asks = Client::connect(&server, via).await;
    let mut quiet = Client::connect(&server, via).await;
    let options = Options { audience: true, ..Options::default() };
    asks.send(1, Command::Subscribe { topic: topic("a"), from: From::Now, options }).await;
    asks.answer().await;
    quiet.subscribe(1, "a", From::Now).await;
    for count in [2, 41_877] {
        server.origin.audience("a", count);
        let told = asks.find(|event| matches!(event, Event::Audience { .. })).await;
        assert_eq!(told, Event::Audience { topic: topic("a"), count });
    }
    server.origin.say("a", "last").await;
    assert_eq!(quiet.message().await.1, "last");
    assert!(!quiet.kept.iter().any(|event| matches!(event, Event::Audience { .. })));
}

async fn a_server_that_goes_says_so_and_closes(via: Via) {
    let server = Server::start().await;
    // As many as there are lanes.
    let mut clients = Vec::new();
    for _ in 0..2 {
        let mut client = Client::connect(&server, via).await;
        client.subscribe(1, "a", From::Now).await;
        clients.push(client);
    }
    server.stop();
    for client in &mut clients {
        client.find(|event| matches!(event, Event::Goaway { .. })).await;
        assert_eq!(client.closed().await, close::GOING_AWAY.code);
    }
    drop(clients);
    server.ended().await;
}

/// More than sockets and windows hold, less than the hub's ring: the session must stop in the
/// middle of a frame, and go on from there.
async fn a_client_that_pauses_reading_misses_nothing(via: Via) {
    let server = Server::start().await;
    let mut paused = Client::connect(&server, via).await;
    let mut brisk = Client::connect(&server, via).await;
    paused.subscribe(1, "a", From::Now).await;
    brisk.subscribe(1, "a", From::Now).await;
    let texts: Vec<String> = (0..900).map(|n| format!("{n} {}", "x".repeat(1_000))).collect();
    for text in &texts {
        server.origin.say("a", text).await;
        assert_eq!(brisk.message().await.1, *text);
    }
    assert_eq!(paused.texts(900).await, texts);
}

async fn who_wants_the_latest_gets_the_newest_of_the_past(via: Via) {
    let server = server_with_three_messages().await;
    let mut client = Client::connect(&server, via).await;
    client.send(1, subscribe_with("a/b", From::Start, Delivery::Latest)).await;
    assert!(matches!(client.answer().await, Event::Subscribed { recovered: true, .. }));
    assert_eq!(client.texts(1).await, ["three"]);
    server.origin.say("a/b", "four").await;
    assert_eq!(client.texts(1).await, ["four"]);
}

async fn a_namespace_says_what_a_session_gets_and_how_much_at_most(via: Via) {
    let server = server_with_three_messages().await;
    let latest = Some(Delivery::Latest);
    server.set(NamespaceChange { delivery: latest, ..NamespaceChange::default() });
    let mut client = Client::connect(&server, via).await;
    client.subscribe(1, "a/b", From::Start).await;
    assert_eq!(client.texts(1).await, ["three"]);

    server.set(NamespaceChange { rate_max: Some(2), ..NamespaceChange::default() });
    let mut client = Client::connect(&server, via).await;
    client.send(1, subscribe_with("a/b", From::Start, Delivery::All)).await;
    assert_eq!(client.refused().await, (Some(1), ErrorCode::NotAllowed));
    let granted = client.subscribe(2, "a/b", From::Last(1)).await;
    let rate = Delivery::Rate(NonZeroU16::new(2).expect("two"));
    assert!(matches!(granted, Event::Subscribed { delivery, .. } if delivery == rate));
    assert_eq!(client.texts(1).await, ["three"]);
    for text in ["four", "five", "six"] {
        server.origin.say("a/b", text).await;
    }
    assert_eq!(client.texts(1).await, ["six"], "it rests for half a second");
}

async fn an_overloaded_server_closes_its_doors_then_sends_sessions_away_for_a_while(via: Via) {
    // All sessions have their turn within a heartbeat.
    let server = Server::with(|config| config.heartbeat = Duration::from_millis(300)).await;
    let mut client = Client::connect(&server, via).await;
    client.subscribe(1, "a/b", From::Now).await;
    server.uses(97);
    server.takes_nobody().await;
    server.origin.say("a/b", "who is in stays").await;
    assert_eq!(client.texts(1).await, ["who is in stays"]);
    server.uses(100);
    let goaway = client.find(|event| matches!(event, Event::Goaway { .. })).await;
    let Event::Goaway { after_ms, back_ms, .. } = goaway else { unreachable!() };
    assert!(after_ms == 0 && (10_000..20_000).contains(&back_ms), "{goaway:?}");
    assert_eq!(client.closed().await, close::OVERLOADED.code);
    server.uses(10);
    server.takes_in().await;
    server.origin.say("a/b", "it is over").await;
    let mut again = Client::connect(&server, via).await;
    again.subscribe(1, "a/b", From::Last(1)).await;
    assert_eq!(again.texts(1).await, ["it is over"]);
}

#[tokio::test]
async fn what_a_quic_client_stops_is_unsubscribed() {
    let server = Server::start().await;
    let (_endpoint, connection) =
        support::client::dial(&server, b"pushonce/1").await.expect("connected");
    let (mut control, mut answers) = connection.open_bi().await.expect("a stream");
    let encoding = pushonce_proto::client::Encoding::Proto;
    let request =
        pushonce_proto::client::Request { id: Some(1), command: subscribe("a", From::Now) };
    let frame = pushonce_proto::delimited::encode(&encoding.encode_request(&request));
    control.write_all(&frame).await.expect("sent");
    let mut stream = support::within(connection.accept_uni()).await.expect("a stream");
    stream.stop(quinn::VarInt::from_u32(0)).expect("open");
    let mut decoder = pushonce_proto::delimited::Decoder::new(1 << 16);
    let unsubscribed = Event::Unsubscribed { id: None, topic: topic("a") };
    let mut events = Vec::new();
    while !events.contains(&unsubscribed) {
        // A stream is found stopped when there is something to write to it.
        tokio::select! {
            chunk = answers.read_chunk(1 << 16, true) => {
                decoder.push(&chunk.expect("answers").expect("more").bytes);
                while let Ok(Some(frame)) = decoder.next() {
                    events.push(encoding.decode_event(&frame).expect("an event"));
                }
            }
            _ = server.origin.say("a", "x") => {}
        }
    }
}

#[tokio::test]
async fn a_quic_client_that_wants_no_answers_has_no_session() {
    let heartbeat = std::time::Duration::from_millis(256);
    let server = Server::with(|config| config.heartbeat = heartbeat).await;
    let (_endpoint, connection) =
        support::client::dial(&server, b"pushonce/1").await.expect("connected");
    let (mut control, mut answers) = connection.open_bi().await.expect("a stream");
    // No frame yet, but the stream is there.
    control.write_all(&[0x05]).await.expect("sent");
    answers.stop(quinn::VarInt::from_u32(0)).expect("open");
    let why = support::within(connection.closed()).await;
    let quinn::ConnectionError::ApplicationClosed(close) = why else { panic!("{why}") };
    assert_eq!(close.error_code.into_inner(), u64::from(close::NORMAL.code));
}

/// Its packets go to the lane that has its session, wherever they come from.
#[tokio::test]
async fn a_quic_client_whose_address_changes_goes_on() {
    let server = Server::with(|config| config.lanes = 4).await;
    for text in ["one", "two", "three", "four", "five"] {
        let mut client = Client::connect(&server, Via::Quic).await;
        client.subscribe(1, "a", From::Now).await;
        client.change_address();
        client.subscribe(2, "b", From::Now).await;
        server.origin.say("a", text).await;
        assert_eq!(client.message().await.1, text);
    }
}

#[tokio::test]
async fn one_quic_connection_too_many_is_refused_until_another_ends() {
    let server = Server::with(|config| config.connections_max = 1).await;
    let (_endpoint, first) =
        support::client::dial(&server, b"pushonce/1").await.expect("connected");
    assert!(support::client::dial(&server, b"pushonce/1").await.is_err());
    first.close(quinn::VarInt::from_u32(0), b"");
    support::within(async {
        while support::client::dial(&server, b"pushonce/1").await.is_err() {}
    })
    .await;
}

/// They all are in their handshake until they open their control stream. The next has to prove its
/// address first, which is one more way there and back, and nothing else.
#[tokio::test]
async fn who_comes_while_many_quic_handshakes_are_under_way_gets_in() {
    let server = Server::with(|config| config.lanes = 1).await;
    let mut silent = Vec::new();
    for _ in 0..140 {
        silent.push(support::client::dial(&server, b"pushonce/1").await.expect("connected"));
    }
    let mut client = Client::connect(&server, Via::Quic).await;
    client.subscribe(1, "a", From::Now).await;
    server.origin.say("a", "one").await;
    assert_eq!(client.message().await.1, "one");
}

#[tokio::test]
async fn a_quic_client_that_means_another_protocol_is_refused() {
    let server = Server::start().await;
    assert!(support::client::dial(&server, b"h3").await.is_err());
}

#[tokio::test]
async fn a_quic_client_that_never_speaks_is_let_go() {
    let timeout = std::time::Duration::from_millis(100);
    let server = Server::with(|config| config.handshake_timeout = timeout).await;
    let (_endpoint, connection) =
        support::client::dial(&server, b"pushonce/1").await.expect("connected");
    let why = support::within(connection.closed()).await;
    let quinn::ConnectionError::ApplicationClosed(close) = why else { panic!("{why}") };
    assert_eq!(close.error_code.into_inner(), u64::from(close::PROTOCOL_ERROR.code));
}

fn score(minute: u32) -> String {
    format!("Germany against Brazil, Estadio Azteca, Mexico City: 2 to 1 after {minute} minutes")
}

async fn who_asks_for_deltas_is_sent_what_changed(via: Via) {
    let server = Server::start().await;
    server.origin.say("a", &score(56)).await;
    let (mut plain, mut client) =
        (Client::connect(&server, via).await, Client::connect(&server, via).await);
    plain.subscribe(1, "a", From::Last(1)).await;
    client.send(1, subscribe_to_deltas("a", From::Last(1))).await;
    client.answer().await;
    for minute in [57, 58] {
        server.origin.say("a", &score(minute)).await;
    }
    assert_eq!(plain.texts(3).await, [score(56), score(57), score(58)]);
    let (_, mut shown) = client.message().await;
    assert_eq!(shown, score(56), "the first is whole");
    for (offset, minute) in [(2, 57), (3, 58)] {
        let event = client.find(|event| matches!(event, Event::Difference { .. })).await;
        let Event::Difference { difference, .. } = event else { panic!("{event:?}") };
        assert_eq!(difference.position, at(offset));
        assert!(difference.delta.len() < shown.len() / 2, "{}", difference.delta.len());
        let payload = fossil_delta::deltainv(&shown, &difference.delta);
        shown = String::from_utf8(payload).expect("text");
        assert_eq!(shown, score(minute));
    }
    // Nothing in common with what was before.
    server.origin.say("a", "0123456789").await;
    assert_eq!(client.message().await.1, "0123456789");
}
