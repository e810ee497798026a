//! Session guarantees on every transport. Each test runs over WebSocket and WebTransport in both encodings and over
//! QUIC.

mod support;

use std::num::NonZeroU16;
use std::time::Duration;

use bytes::Bytes;
use pushonce_core::test_util::topic;
use pushonce_core::{
    AccessToken, Delivery, Durability, NamespaceChange, Position, StartFrom, SubscribeOptions,
};
use pushonce_proto::client::{ClientCommand, ErrorCode, ServerEvent};
use pushonce_proto::close;

use support::TestGateway;
use support::client::{
    ClientTransport, GatewayClient, publish, subscribe, subscribe_to_deltas, subscribe_with,
    unsubscribe,
};
use support::cluster::EPOCH;

macro_rules! session_suite {
    ($($story:ident),* $(,)?) => {
        session_suite!(@ ws_json, WsJson, $($story),*);
        session_suite!(@ ws_proto, WsProto, $($story),*);
        session_suite!(@ quic, Quic, $($story),*);
        session_suite!(@ webtransport_json, WebTransport, $($story),*);
        session_suite!(@ webtransport_proto, WebTransportProto, $($story),*);
    };
    (@ $name:ident, $via:ident, $($story:ident),*) => {
        mod $name {
            $(#[tokio::test]
            async fn $story() {
                super::$story(super::ClientTransport::$via).await;
            })*
        }
    };
}

session_suite!(
    subscription_from_now_gets_later_messages,
    subscription_from_last_begins_with_the_last_messages,
    a_subscription_resumes_after_a_position,
    a_subscription_from_the_start_gets_everything,
    no_message_follows_the_unsubscribed_reply,
    several_topics_share_a_session,
    publishes_are_acknowledged_in_order,
    malformed_topic_gets_an_error_and_the_session_continues,
    broken_frame_gets_an_error_and_closes_the_session,
    second_subscription_to_a_topic_is_rejected,
    publish_to_a_system_topic_is_rejected,
    payload_over_the_limit_is_rejected,
    frame_over_the_limit_closes_the_session,
    largest_payload_of_a_namespace_is_accepted_in_any_encoding,
    subscription_to_a_system_topic_is_rejected,
    future_position_is_rejected,
    unsubscribe_without_a_subscription_is_rejected,
    heartbeats_carry_the_last_sent_position,
    stale_topic_is_reported_and_left_out_of_heartbeats,
    audience_is_sent_only_to_subscriptions_that_request_it,
    stopping_server_sends_goaway_and_closes,
    client_that_pauses_reading_misses_nothing,
    latest_subscription_begins_with_the_newest_message,
    namespace_sets_the_default_delivery_and_the_rate_limit,
    overloaded_server_rejects_new_sessions_then_sheds_open_ones,
    delta_subscription_gets_deltas_after_one_whole_message,
);

fn position(offset: u64) -> Position {
    Position::new(EPOCH, offset)
}

async fn server_with_three_messages() -> TestGateway {
    let server = TestGateway::start().await;
    for text in ["one", "two", "three"] {
        server.cluster.publish_text("a/b", text).await;
    }
    server
}

async fn subscription_from_now_gets_later_messages(via: ClientTransport) {
    let server = server_with_three_messages().await;
    let mut client = GatewayClient::connect(&server, via).await;
    let reply = client.subscribe(1, "a/b", StartFrom::Now).await;
    let (id, topic, position) = (Some(1), topic("a/b"), position(3));
    let delivery = Delivery::All;
    assert_eq!(reply, ServerEvent::Subscribed { id, topic, position, recovered: true, delivery });
    server.cluster.publish_text("a/b", "four").await;
    assert_eq!(client.next_message().await, ("a/b".to_owned(), "four".to_owned()));
}

async fn subscription_from_last_begins_with_the_last_messages(via: ClientTransport) {
    let server = server_with_three_messages().await;
    let mut client = GatewayClient::connect(&server, via).await;
    client.subscribe(1, "a/b", StartFrom::Last(2)).await;
    server.cluster.publish_text("a/b", "four").await;
    assert_eq!(client.next_texts(3).await, ["two", "three", "four"]);
}

async fn a_subscription_resumes_after_a_position(via: ClientTransport) {
    let server = server_with_three_messages().await;
    let mut client = GatewayClient::connect(&server, via).await;
    client.subscribe(1, "a/b", StartFrom::Position(position(1))).await;
    assert_eq!(client.next_texts(2).await, ["two", "three"]);
}

async fn a_subscription_from_the_start_gets_everything(via: ClientTransport) {
    let server = server_with_three_messages().await;
    let mut client = GatewayClient::connect(&server, via).await;
    client.subscribe(1, "a/b", StartFrom::Start).await;
    assert_eq!(client.next_texts(3).await, ["one", "two", "three"]);
}

async fn no_message_follows_the_unsubscribed_reply(via: ClientTransport) {
    let server = TestGateway::start().await;
    let mut client = GatewayClient::connect(&server, via).await;
    client.subscribe(1, "a", StartFrom::Now).await;
    client.subscribe(2, "b", StartFrom::Now).await;
    client.send(3, unsubscribe("a")).await;
    let reply = client.next_reply().await;
    assert_eq!(reply, ServerEvent::Unsubscribed { id: Some(3), topic: topic("a") });
    server.cluster.publish_text("a", "not for this client").await;
    server.cluster.publish_text("b", "for this client").await;
    assert_eq!(client.next_message().await.0, "b");
    client.subscribe(4, "a", StartFrom::Now).await;
    server.cluster.publish_text("a", "again").await;
    assert_eq!(client.next_message().await.1, "again");
}

async fn several_topics_share_a_session(via: ClientTransport) {
    let server = TestGateway::start().await;
    let mut client = GatewayClient::connect(&server, via).await;
    let names: Vec<String> = (0..20).map(|n| format!("match/{n}")).collect();
    for (id, name) in names.iter().enumerate() {
        client.subscribe(id as u64 + 1, name, StartFrom::Now).await;
    }
    for name in &names {
        server.cluster.publish_text(name, name).await;
    }
    let mut got = client.next_texts(20).await;
    got.sort_by_key(|name| names.iter().position(|known| known == name));
    assert_eq!(got, names);
}

async fn publishes_are_acknowledged_in_order(via: ClientTransport) {
    let server = TestGateway::start().await;
    let mut client = GatewayClient::connect(&server, via).await;
    client.subscribe(100, "a", StartFrom::Now).await;
    for id in 1..=10 {
        client.send(id, publish("a", &id.to_string())).await;
    }
    for id in 1..=10 {
        let reply = client.next_reply().await;
        assert_eq!(reply, published(id, id));
    }
    let expected: Vec<String> = (1..=10).map(|id| id.to_string()).collect();
    assert_eq!(client.next_texts(10).await, expected);
}

fn published(id: u64, offset: u64) -> ServerEvent {
    ServerEvent::Published {
        id: Some(id),
        position: position(offset),
        durability: Durability::Replicated,
    }
}

async fn malformed_topic_gets_an_error_and_the_session_continues(via: ClientTransport) {
    let server = TestGateway::start().await;
    let mut client = GatewayClient::connect(&server, via).await;
    client.send_raw(malformed_topic(via)).await;
    assert_eq!(client.error_code().await, (Some(5), ErrorCode::BadTopic));
    client.send(6, publish("a", "valid")).await;
    assert_eq!(client.next_reply().await, published(6, 1));
}

/// A request with an invalid topic, which no encoder produces.
fn malformed_topic(via: ClientTransport) -> Bytes {
    match via {
        ClientTransport::WsJson | ClientTransport::WebTransport => {
            Bytes::from_static(br#"{"id":5,"subscribe":{"topic":"a//b"}}"#)
        }
        // id = 5; subscribe = { topic = "a//b" }
        ClientTransport::WsProto | ClientTransport::Quic | ClientTransport::WebTransportProto => {
            Bytes::from_static(b"\x08\x05\x12\x06\x0a\x04a//b")
        }
    }
}

async fn broken_frame_gets_an_error_and_closes_the_session(via: ClientTransport) {
    let server = TestGateway::start().await;
    let mut client = GatewayClient::connect(&server, via).await;
    client.send_raw(Bytes::from_static(b"\xff{")).await;
    assert_eq!(client.error_code().await, (None, ErrorCode::BadFrame));
    assert_eq!(client.close_code().await, close::BAD_FRAME.code);
}

async fn second_subscription_to_a_topic_is_rejected(via: ClientTransport) {
    let server = TestGateway::start().await;
    let mut client = GatewayClient::connect(&server, via).await;
    client.subscribe(1, "a", StartFrom::Now).await;
    client.send(2, subscribe("a", StartFrom::Start)).await;
    assert_eq!(client.error_code().await, (Some(2), ErrorCode::AlreadySubscribed));
    server.cluster.publish_text("a", "once").await;
    server.cluster.publish_text("a", "only").await;
    assert_eq!(client.next_texts(2).await, ["once", "only"]);
}

async fn publish_to_a_system_topic_is_rejected(via: ClientTransport) {
    let server = TestGateway::start().await;
    let mut client = GatewayClient::connect(&server, via).await;
    client.send(1, publish("$sys/a", "x")).await;
    assert_eq!(client.error_code().await, (Some(1), ErrorCode::NotAllowed));
}

async fn payload_over_the_limit_is_rejected(via: ClientTransport) {
    let server = TestGateway::start().await;
    let mut client = GatewayClient::connect(&server, via).await;
    client.send(1, publish("a", &"x".repeat((64 << 10) + 1))).await;
    assert_eq!(client.error_code().await, (Some(1), ErrorCode::TooLarge));
}

async fn frame_over_the_limit_closes_the_session(via: ClientTransport) {
    let server = TestGateway::start().await;
    let mut client = GatewayClient::connect(&server, via).await;
    client.send(1, publish("a", &"x".repeat(600 << 10))).await;
    assert_eq!(client.close_code().await, close::TOO_BIG.code);
}

async fn largest_payload_of_a_namespace_is_accepted_in_any_encoding(via: ClientTransport) {
    let server = TestGateway::start().await;
    let mut client = GatewayClient::connect(&server, via).await;
    // Each of these characters is six bytes long in JSON.
    client.send(1, publish("a", &"\u{1}".repeat(64 << 10))).await;
    assert!(matches!(client.next_reply().await, ServerEvent::Published { .. }));
    // A raised limit also applies to open sessions.
    let raised = Some(1 << 20);
    server.change_namespaces(NamespaceChange {
        payload_bytes_max: raised,
        ..NamespaceChange::default()
    });
    client.send(2, publish("a", &"\u{1}".repeat(1 << 20))).await;
    assert!(matches!(client.next_reply().await, ServerEvent::Published { .. }));
    client.send(3, publish("a", &"x".repeat((1 << 20) + 1))).await;
    assert_eq!(client.error_code().await, (Some(3), ErrorCode::TooLarge));
}

async fn subscription_to_a_system_topic_is_rejected(via: ClientTransport) {
    let server = TestGateway::start().await;
    let mut client = GatewayClient::connect(&server, via).await;
    for topic in ["$sys/nodes", "a/$presence"] {
        client.send(1, subscribe(topic, StartFrom::Now)).await;
        assert_eq!(client.error_code().await, (Some(1), ErrorCode::NotAllowed));
    }
}

async fn future_position_is_rejected(via: ClientTransport) {
    let server = server_with_three_messages().await;
    let mut client = GatewayClient::connect(&server, via).await;
    client.send(1, subscribe("a/b", StartFrom::Position(position(9)))).await;
    assert_eq!(client.error_code().await, (Some(1), ErrorCode::FuturePosition));
    client.subscribe(2, "a/b", StartFrom::Last(1)).await;
    assert_eq!(client.next_texts(1).await, ["three"]);
}

async fn unsubscribe_without_a_subscription_is_rejected(via: ClientTransport) {
    let server = TestGateway::start().await;
    let mut client = GatewayClient::connect(&server, via).await;
    client.send(1, unsubscribe("a")).await;
    assert_eq!(client.error_code().await, (Some(1), ErrorCode::NotSubscribed));
    client.send(2, ClientCommand::Authenticate { token: AccessToken::new("t") }).await;
    assert_eq!(client.error_code().await, (Some(2), ErrorCode::NotSupported));
}

async fn heartbeats_carry_the_last_sent_position(via: ClientTransport) {
    let server =
        TestGateway::with_config(|config| config.heartbeat = std::time::Duration::from_millis(256))
            .await;
    let mut client = GatewayClient::connect(&server, via).await;
    client.subscribe(1, "a", StartFrom::Now).await;
    server.cluster.publish_text("a", "x").await;
    let expected = ServerEvent::Heartbeat { positions: vec![(topic("a"), position(1))] };
    client.next_matching(|event| *event == expected).await;
}

async fn stale_topic_is_reported_and_left_out_of_heartbeats(via: ClientTransport) {
    let server =
        TestGateway::with_config(|config| config.heartbeat = std::time::Duration::from_millis(256))
            .await;
    let mut client = GatewayClient::connect(&server, via).await;
    client.subscribe(1, "a", StartFrom::Now).await;
    server.cluster.publish_text("a", "x").await;
    let at = position(1);
    let is_heartbeat_with_positions = |event: &ServerEvent| matches!(event, ServerEvent::Heartbeat { positions } if !positions.is_empty());
    client.next_matching(is_heartbeat_with_positions).await;
    server.cluster.set_live("a", false);
    let stale = ServerEvent::Stale { topic: topic("a"), since: at };
    client.next_matching(|event| *event == stale).await;
    client.skipped.clear();
    for _ in 0..3 {
        let ServerEvent::Heartbeat { positions } =
            client.next_matching(|event| matches!(event, ServerEvent::Heartbeat { .. })).await
        else {
            unreachable!("next_matching returns a heartbeat")
        };
        assert_eq!(positions, []);
    }
    server.cluster.set_live("a", true);
    let live = ServerEvent::Live { topic: topic("a"), position: at };
    client.next_matching(|event| *event == live).await;
    client.next_matching(is_heartbeat_with_positions).await;
}

async fn audience_is_sent_only_to_subscriptions_that_request_it(via: ClientTransport) {
    let server = TestGateway::start().await;
    let mut observer = GatewayClient::connect(&server, via).await;
    let mut plain = GatewayClient::connect(&server, via).await;
    let options = SubscribeOptions { report_audience: true, ..SubscribeOptions::default() };
    observer
        .send(1, ClientCommand::Subscribe { topic: topic("a"), from: StartFrom::Now, options })
        .await;
    observer.next_reply().await;
    plain.subscribe(1, "a", StartFrom::Now).await;
    for count in [2, 41_877] {
        server.cluster.set_audience("a", count);
        let event =
            observer.next_matching(|event| matches!(event, ServerEvent::Audience { .. })).await;
        assert_eq!(event, ServerEvent::Audience { topic: topic("a"), count });
    }
    server.cluster.publish_text("a", "last").await;
    assert_eq!(plain.next_message().await.1, "last");
    assert!(!plain.skipped.iter().any(|event| matches!(event, ServerEvent::Audience { .. })));
}

async fn stopping_server_sends_goaway_and_closes(via: ClientTransport) {
    let server = TestGateway::start().await;
    // One client per lane.
    let mut clients = Vec::new();
    for _ in 0..2 {
        let mut client = GatewayClient::connect(&server, via).await;
        client.subscribe(1, "a", StartFrom::Now).await;
        clients.push(client);
    }
    server.stop();
    for client in &mut clients {
        client.next_matching(|event| matches!(event, ServerEvent::Goaway { .. })).await;
        assert_eq!(client.close_code().await, close::GOING_AWAY.code);
    }
    drop(clients);
    server.wait_until_stopped().await;
}

/// The messages are more than sockets and windows hold and fewer than the ring of the hub holds: the session
/// must stop in the middle of a frame and continue there.
async fn client_that_pauses_reading_misses_nothing(via: ClientTransport) {
    let server = TestGateway::start().await;
    let mut paused = GatewayClient::connect(&server, via).await;
    let mut fast = GatewayClient::connect(&server, via).await;
    paused.subscribe(1, "a", StartFrom::Now).await;
    fast.subscribe(1, "a", StartFrom::Now).await;
    let texts: Vec<String> = (0..900).map(|n| format!("{n} {}", "x".repeat(1_000))).collect();
    for text in &texts {
        server.cluster.publish_text("a", text).await;
        assert_eq!(fast.next_message().await.1, *text);
    }
    assert_eq!(paused.next_texts(900).await, texts);
}

async fn latest_subscription_begins_with_the_newest_message(via: ClientTransport) {
    let server = server_with_three_messages().await;
    let mut client = GatewayClient::connect(&server, via).await;
    client.send(1, subscribe_with("a/b", StartFrom::Start, Delivery::Latest)).await;
    assert!(matches!(client.next_reply().await, ServerEvent::Subscribed { recovered: true, .. }));
    assert_eq!(client.next_texts(1).await, ["three"]);
    server.cluster.publish_text("a/b", "four").await;
    assert_eq!(client.next_texts(1).await, ["four"]);
}

async fn namespace_sets_the_default_delivery_and_the_rate_limit(via: ClientTransport) {
    let server = server_with_three_messages().await;
    let latest = Some(Delivery::Latest);
    server.change_namespaces(NamespaceChange { delivery: latest, ..NamespaceChange::default() });
    let mut client = GatewayClient::connect(&server, via).await;
    client.subscribe(1, "a/b", StartFrom::Start).await;
    assert_eq!(client.next_texts(1).await, ["three"]);

    server.change_namespaces(NamespaceChange { rate_max: Some(2), ..NamespaceChange::default() });
    let mut client = GatewayClient::connect(&server, via).await;
    client.send(1, subscribe_with("a/b", StartFrom::Start, Delivery::All)).await;
    assert_eq!(client.error_code().await, (Some(1), ErrorCode::NotAllowed));
    let granted = client.subscribe(2, "a/b", StartFrom::Last(1)).await;
    let rate = Delivery::Rate(NonZeroU16::new(2).expect("non-zero"));
    assert!(matches!(granted, ServerEvent::Subscribed { delivery, .. } if delivery == rate));
    assert_eq!(client.next_texts(1).await, ["three"]);
    for text in ["four", "five", "six"] {
        server.cluster.publish_text("a/b", text).await;
    }
    assert_eq!(
        client.next_texts(1).await,
        ["six"],
        "a rate of 2 sends one message in half a second"
    );
}

async fn overloaded_server_rejects_new_sessions_then_sheds_open_ones(via: ClientTransport) {
    // Every session is due for shedding once per heartbeat interval.
    let server =
        TestGateway::with_config(|config| config.heartbeat = Duration::from_millis(300)).await;
    let mut client = GatewayClient::connect(&server, via).await;
    client.subscribe(1, "a/b", StartFrom::Now).await;
    server.set_memory_percent(97);
    server.wait_until_rejecting().await;
    server.cluster.publish_text("a/b", "still served").await;
    assert_eq!(client.next_texts(1).await, ["still served"]);
    server.set_memory_percent(100);
    let goaway = client.next_matching(|event| matches!(event, ServerEvent::Goaway { .. })).await;
    let ServerEvent::Goaway { after_ms, retry_after_ms, .. } = goaway else { unreachable!() };
    assert!(after_ms == 0 && (10_000..20_000).contains(&retry_after_ms), "{goaway:?}");
    assert_eq!(client.close_code().await, close::OVERLOADED.code);
    server.set_memory_percent(10);
    server.wait_until_accepting().await;
    server.cluster.publish_text("a/b", "recovered").await;
    let mut again = GatewayClient::connect(&server, via).await;
    again.subscribe(1, "a/b", StartFrom::Last(1)).await;
    assert_eq!(again.next_texts(1).await, ["recovered"]);
}

#[tokio::test]
async fn stopped_quic_stream_unsubscribes_its_topic() {
    let server = TestGateway::start().await;
    let (_endpoint, connection) =
        support::client::dial(&server, b"pushonce/1").await.expect("connected");
    let (mut control, mut replies) = connection.open_bi().await.expect("a stream");
    let encoding = pushonce_proto::client::Encoding::Proto;
    let request = pushonce_proto::client::ClientRequest {
        id: Some(1),
        command: subscribe("a", StartFrom::Now),
    };
    let frame = pushonce_proto::delimited::encode(&encoding.encode_request(&request));
    control.write_all(&frame).await.expect("sent");
    let mut stream = support::with_timeout(connection.accept_uni()).await.expect("a stream");
    stream.stop(quinn::VarInt::from_u32(0)).expect("open");
    let mut decoder = pushonce_proto::delimited::FrameDecoder::new(1 << 16);
    let unsubscribed = ServerEvent::Unsubscribed { id: None, topic: topic("a") };
    let mut events = Vec::new();
    while !events.contains(&unsubscribed) {
        // The server detects a stopped stream at the next write to it.
        tokio::select! {
            chunk = replies.read_chunk(1 << 16, true) => {
                decoder.push(&chunk.expect("replies").expect("more").bytes);
                while let Ok(Some(frame)) = decoder.next() {
                    events.push(encoding.decode_event(&frame).expect("an event"));
                }
            }
            _ = server.cluster.publish_text("a", "x") => {}
        }
    }
}

/// Each stopped stream gives its place to another: a client allows a limited number.
#[tokio::test]
async fn stopped_quic_streams_do_not_use_up_what_the_client_allows() {
    let server = TestGateway::start().await;
    let few = |transport: &mut quinn::TransportConfig| {
        transport.max_concurrent_uni_streams(2_u32.into());
    };
    let dialed = support::client::dial_with(&server, b"pushonce/1", few).await;
    let (_endpoint, connection) = dialed.expect("connected");
    let (mut control, mut replies) = connection.open_bi().await.expect("a stream");
    tokio::spawn(async move { while let Ok(Some(_)) = replies.read_chunk(1 << 16, true).await {} });
    for round in 0..5 {
        let topic = format!("a/{round}");
        let request = pushonce_proto::client::ClientRequest {
            id: Some(1),
            command: subscribe(&topic, StartFrom::Now),
        };
        let encoding = pushonce_proto::client::Encoding::Proto;
        let frame = pushonce_proto::delimited::encode(&encoding.encode_request(&request));
        control.write_all(&frame).await.expect("sent");
        let mut stream = support::with_timeout(connection.accept_uni()).await.expect("a stream");
        stream.stop(quinn::VarInt::from_u32(0)).expect("open");
        // The server detects a stopped stream at the next write to it.
        for _ in 0..5 {
            server.cluster.publish_text(&topic, "x").await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

#[tokio::test]
async fn quic_client_that_opens_a_unidirectional_stream_is_closed() {
    let server = TestGateway::start().await;
    let (_endpoint, connection) =
        support::client::dial(&server, b"pushonce/1").await.expect("connected");
    let mut stream = connection.open_uni().await.expect("a stream");
    stream.write_all(&[0]).await.expect("sent");
    let error = support::with_timeout(connection.closed()).await;
    let quinn::ConnectionError::ApplicationClosed(close) = error else { panic!("{error}") };
    assert_eq!(close.error_code.into_inner(), u64::from(close::PROTOCOL_ERROR.code));
}

#[tokio::test]
async fn quic_client_that_stops_the_control_stream_is_closed() {
    let heartbeat = std::time::Duration::from_millis(256);
    let server = TestGateway::with_config(|config| config.heartbeat = heartbeat).await;
    let (_endpoint, connection) =
        support::client::dial(&server, b"pushonce/1").await.expect("connected");
    let (mut control, mut replies) = connection.open_bi().await.expect("a stream");
    // An incomplete frame, which opens the stream.
    control.write_all(&[0x05]).await.expect("sent");
    replies.stop(quinn::VarInt::from_u32(0)).expect("open");
    let error = support::with_timeout(connection.closed()).await;
    let quinn::ConnectionError::ApplicationClosed(close) = error else { panic!("{error}") };
    assert_eq!(close.error_code.into_inner(), u64::from(close::NORMAL.code));
}

/// Packets reach the lane of their session from any source address.
#[tokio::test]
async fn quic_session_survives_a_client_address_change() {
    let server = TestGateway::with_config(|config| config.lanes = 4).await;
    for text in ["one", "two", "three", "four", "five"] {
        let mut client = GatewayClient::connect(&server, ClientTransport::Quic).await;
        client.subscribe(1, "a", StartFrom::Now).await;
        client.change_address();
        client.subscribe(2, "b", StartFrom::Now).await;
        server.cluster.publish_text("a", text).await;
        assert_eq!(client.next_message().await.1, text);
    }
}

#[tokio::test]
async fn quic_connection_over_the_limit_is_refused_until_another_ends() {
    let server = TestGateway::with_config(|config| config.connections_max = 1).await;
    let (_endpoint, first) =
        support::client::dial(&server, b"pushonce/1").await.expect("connected");
    assert!(support::client::dial(&server, b"pushonce/1").await.is_err());
    first.close(quinn::VarInt::from_u32(0), b"");
    support::with_timeout(async {
        while support::client::dial(&server, b"pushonce/1").await.is_err() {}
    })
    .await;
}

/// Connections count as handshaking until they open the control stream. With that many, a new client must
/// validate its address first, which costs one more round trip and nothing else.
#[tokio::test]
async fn quic_client_connects_while_many_handshakes_are_pending() {
    let server = TestGateway::with_config(|config| config.lanes = 1).await;
    let mut silent = Vec::new();
    for _ in 0..140 {
        silent.push(support::client::dial(&server, b"pushonce/1").await.expect("connected"));
    }
    let mut client = GatewayClient::connect(&server, ClientTransport::Quic).await;
    client.subscribe(1, "a", StartFrom::Now).await;
    server.cluster.publish_text("a", "one").await;
    assert_eq!(client.next_message().await.1, "one");
}

#[tokio::test]
async fn quic_client_with_another_alpn_is_refused() {
    let server = TestGateway::start().await;
    assert!(support::client::dial(&server, b"h2").await.is_err());
}

#[tokio::test]
async fn quic_client_that_opens_no_stream_is_closed_after_the_handshake_timeout() {
    let timeout = std::time::Duration::from_millis(100);
    let server = TestGateway::with_config(|config| config.handshake_timeout = timeout).await;
    let (_endpoint, connection) =
        support::client::dial(&server, b"pushonce/1").await.expect("connected");
    let error = support::with_timeout(connection.closed()).await;
    let quinn::ConnectionError::ApplicationClosed(close) = error else { panic!("{error}") };
    assert_eq!(close.error_code.into_inner(), u64::from(close::PROTOCOL_ERROR.code));
}

fn score(minute: u32) -> String {
    format!("Germany against Brazil, Estadio Azteca, Mexico City: 2 to 1 after {minute} minutes")
}

async fn delta_subscription_gets_deltas_after_one_whole_message(via: ClientTransport) {
    let server = TestGateway::start().await;
    server.cluster.publish_text("a", &score(56)).await;
    let (mut plain, mut client) =
        (GatewayClient::connect(&server, via).await, GatewayClient::connect(&server, via).await);
    plain.subscribe(1, "a", StartFrom::Last(1)).await;
    client.send(1, subscribe_to_deltas("a", StartFrom::Last(1))).await;
    client.next_reply().await;
    for minute in [57, 58] {
        server.cluster.publish_text("a", &score(minute)).await;
    }
    assert_eq!(plain.next_texts(3).await, [score(56), score(57), score(58)]);
    let (_, mut current) = client.next_message().await;
    assert_eq!(current, score(56), "the first message must be whole");
    for (offset, minute) in [(2, 57), (3, 58)] {
        let event =
            client.next_matching(|event| matches!(event, ServerEvent::MessageDelta { .. })).await;
        let ServerEvent::MessageDelta { message_delta, .. } = event else { panic!("{event:?}") };
        assert_eq!(message_delta.position, position(offset));
        assert!(message_delta.delta.len() < current.len() / 2, "{}", message_delta.delta.len());
        let payload = fossil_delta::deltainv(&current, &message_delta.delta);
        current = String::from_utf8(payload).expect("text");
        assert_eq!(current, score(minute));
    }
    // This payload has nothing in common with the previous one, so it is sent whole.
    server.cluster.publish_text("a", "0123456789").await;
    assert_eq!(client.next_message().await.1, "0123456789");
}
