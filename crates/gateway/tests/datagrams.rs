//! A subscription with datagrams receives the newest message of its topic despite packet loss.

mod support;

use pushonce_core::test_util::topic;
use pushonce_core::{Delivery, StartFrom, SubscribeOptions};
use pushonce_proto::client::{ClientCommand, ErrorCode, ServerEvent};

use support::TestGateway;
use support::client::{ClientTransport, GatewayClient, Received};
use support::lossy::{FaultyProxy, PacketFate};

/// How a message was delivered.
#[derive(Debug, PartialEq, Eq)]
enum DeliveredBy {
    Stream,
    Datagram,
}

const DATAGRAMS: SubscribeOptions = SubscribeOptions {
    delivery: Some(Delivery::Latest),
    report_conflated: false,
    report_audience: false,
    accept_deltas: false,
    use_datagrams: true,
};

fn subscribe(from: StartFrom, options: SubscribeOptions) -> ClientCommand {
    ClientCommand::Subscribe { topic: topic("a"), from, options }
}

/// Returns the next message and how it was delivered.
async fn next_message_and_carrier(client: &mut GatewayClient) -> (DeliveredBy, String) {
    loop {
        let (by, event) = match client.next().await {
            Received::Event(event) => (DeliveredBy::Stream, event),
            Received::Datagram(event) => (DeliveredBy::Datagram, event),
            Received::Closed(code) => panic!("closed with {code}"),
        };
        if let ServerEvent::Message { message, .. } = event {
            return (by, String::from_utf8_lossy(&message.payload).into_owned());
        }
        assert_eq!(by, DeliveredBy::Stream, "{event:?}");
    }
}

/// Returns a client that has received the first message, on the stream.
async fn subscribed_client(server: &TestGateway) -> GatewayClient {
    subscribed_client_over(server, ClientTransport::Quic).await
}

async fn subscribed_client_over(server: &TestGateway, via: ClientTransport) -> GatewayClient {
    server.cluster.publish_text("a", "first").await;
    let mut client = GatewayClient::connect(server, via).await;
    client.send(1, subscribe(StartFrom::Last(1), DATAGRAMS)).await;
    assert_eq!(
        next_message_and_carrier(&mut client).await,
        (DeliveredBy::Stream, "first".to_owned())
    );
    client
}

/// Returns a server behind a proxy that can drop or hold packets.
async fn server_behind_proxy() -> (TestGateway, FaultyProxy) {
    let mut server = TestGateway::start().await;
    let proxy = FaultyProxy::start(server.quic).await;
    server.quic = proxy.address;
    (server, proxy)
}

#[tokio::test]
async fn first_message_uses_the_stream_and_later_ones_datagrams() {
    let server = TestGateway::start().await;
    let mut client = subscribed_client(&server).await;
    for text in ["two", "three"] {
        server.cluster.publish_text("a", text).await;
        assert_eq!(
            next_message_and_carrier(&mut client).await,
            (DeliveredBy::Datagram, text.to_owned())
        );
    }
}

#[tokio::test]
async fn datagrams_of_a_webtransport_session_name_it() {
    let server = TestGateway::start().await;
    for via in [ClientTransport::WebTransport, ClientTransport::WebTransportProto] {
        let mut client = subscribed_client_over(&server, via).await;
        for (by, text) in [
            (DeliveredBy::Datagram, "two".to_owned()),
            (DeliveredBy::Stream, "x".repeat(1_200)),
            (DeliveredBy::Datagram, "three".to_owned()),
        ] {
            server.cluster.publish_text("a", &text).await;
            assert_eq!(next_message_and_carrier(&mut client).await, (by, text), "{via:?}");
        }
    }
}

#[tokio::test]
async fn message_too_long_for_a_datagram_uses_the_stream() {
    let server = TestGateway::start().await;
    let mut client = subscribed_client(&server).await;
    for (by, len) in
        [(DeliveredBy::Datagram, 1_000), (DeliveredBy::Stream, 1_200), (DeliveredBy::Datagram, 10)]
    {
        let text = "x".repeat(len);
        server.cluster.publish_text("a", &text).await;
        assert_eq!(next_message_and_carrier(&mut client).await, (by, text));
    }
}

#[tokio::test]
async fn newest_message_is_resent_on_the_stream_if_its_datagram_was_lost() {
    let (server, mut proxy) = server_behind_proxy().await;
    let mut client = subscribed_client(&server).await;
    for round in 0..3 {
        // Longer than all other packets sent meanwhile, so that it is recognised by its size.
        let text = format!("lost {round} {}", "x".repeat(800));
        proxy.set_fate(PacketFate::Lose);
        server.cluster.publish_text("a", &text).await;
        proxy.wait_for_affected_bytes(800).await;
        proxy.set_fate(PacketFate::Forward);
        assert_eq!(next_message_and_carrier(&mut client).await, (DeliveredBy::Stream, text));
        let text = format!("not lost {round}");
        server.cluster.publish_text("a", &text).await;
        assert_eq!(next_message_and_carrier(&mut client).await, (DeliveredBy::Datagram, text));
    }
}

/// The messages exceed the send window and the datagram queue, so the hub skips most of them.
#[tokio::test]
async fn client_cut_off_for_a_while_gets_the_newest_and_few_older_messages() {
    for fate in [PacketFate::Hold, PacketFate::Lose] {
        let (server, mut proxy) = server_behind_proxy().await;
        let mut client = subscribed_client(&server).await;
        proxy.set_fate(fate);
        let texts: Vec<String> = (0..400).map(|n| format!("{n} {}", "x".repeat(900))).collect();
        for text in &texts {
            server.cluster.publish_text("a", text).await;
        }
        proxy.wait_for_affected_bytes(900).await;
        proxy.set_fate(PacketFate::Forward);
        let mut count = 0;
        while next_message_and_carrier(&mut client).await.1 != texts[399] {
            count += 1;
        }
        assert!(count < 200, "{count} messages were received before the newest: {fate:?}");
    }
}

#[tokio::test]
async fn datagrams_are_rejected_with_incompatible_options() {
    let server = TestGateway::start().await;
    let mut client = GatewayClient::connect(&server, ClientTransport::Quic).await;
    let all = Some(Delivery::All);
    let invalid_options = [
        SubscribeOptions { delivery: all, ..DATAGRAMS },
        SubscribeOptions { delivery: None, ..DATAGRAMS },
        SubscribeOptions { report_conflated: true, ..DATAGRAMS },
        SubscribeOptions { accept_deltas: true, ..DATAGRAMS },
    ];
    for options in invalid_options {
        client.send(1, subscribe(StartFrom::Now, options)).await;
        assert_eq!(client.error_code().await, (Some(1), ErrorCode::BadRequest), "{options:?}");
    }
    client.send(2, subscribe(StartFrom::Now, DATAGRAMS)).await;
    assert!(matches!(
        client.next_reply().await,
        ServerEvent::Subscribed { delivery: Delivery::Latest, .. }
    ));
}

#[tokio::test]
async fn datagrams_are_rejected_for_clients_that_do_not_support_them() {
    let server = TestGateway::start().await;
    let without_datagrams = GatewayClient::quic_with(&server, |transport| {
        transport.datagram_receive_buffer_size(None);
    });
    let clients = [
        GatewayClient::connect(&server, ClientTransport::WsJson).await,
        GatewayClient::connect(&server, ClientTransport::WsProto).await,
        without_datagrams.await,
    ];
    for mut client in clients {
        client.send(1, subscribe(StartFrom::Now, DATAGRAMS)).await;
        assert_eq!(client.error_code().await, (Some(1), ErrorCode::NotSupported));
    }
}
