//! Configurations and servers that a publisher or subscriber rejects.

#![allow(clippy::panic)]

use std::time::Duration;

use pushonce_client::{
    BuildError, CertificateTrust, Publisher, ServerAddress, Subscriber, SubscriberEvent, Transport,
};
use pushonce_core::{StartFrom, Topic, test_util};
use pushonce_test_node::TestNode;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

fn topic() -> Topic {
    test_util::topic("chat/7")
}

fn server(text: &str) -> ServerAddress {
    text.parse().expect("an address")
}

#[tokio::test]
async fn builder_rejects_what_cannot_work() {
    assert_eq!(Publisher::new([]).err(), Some(BuildError::NoServers));
    assert_eq!(Subscriber::builder([]).connect().err(), Some(BuildError::NoServers));
    let wrong = Publisher::new([server("http://a:1"), server("ws://a:1")]).expect_err("rejected");
    assert_eq!(
        wrong,
        BuildError::WrongScheme { server: server("ws://a:1"), transport: Transport::Grpc }
    );
    assert!(wrong.to_string().contains("gRPC requires https://HOST:PORT"), "{wrong}");

    let subscriber = || Subscriber::builder([server("ws://a:1")]);
    let publisher = || Publisher::builder([server("https://a:1")]);
    let roots = || CertificateTrust::Roots(b"no certificate".to_vec());
    let invalid_trust = |error| matches!(error, Some(BuildError::InvalidTrust(_)));
    assert!(invalid_trust(subscriber().trust(roots()).connect().err()));
    assert!(invalid_trust(publisher().trust(roots()).build().err()));

    let setting_of = |error| match error {
        Some(BuildError::InvalidSetting { setting, .. }) => setting,
        other => panic!("{other:?}"),
    };
    let (none, day) = (Duration::ZERO, Duration::from_secs(86_400));
    for wrong in [none, day] {
        assert_eq!(setting_of(publisher().deadline(wrong).build().err()), "deadline");
        let error = subscriber().connect_timeout(wrong).connect().err();
        assert_eq!(setting_of(error), "connect_timeout");
    }
    for wrong in [0, 1 << 20] {
        let error = subscriber().queue_events_max(wrong).connect().err();
        assert_eq!(setting_of(error), "queue_events_max");
    }
}

#[tokio::test]
async fn builder_rejects_an_address_of_another_transport() {
    for (transport, right, wrong) in [
        (Transport::Ws, "http://a:1", "quic://a:1"),
        (Transport::Quic, "quic://a:1", "http://a:1"),
        (Transport::Grpc, "http://a:1", "ws://a:1"),
    ] {
        let builder = Subscriber::builder([server(right), server(wrong)]).transport(transport);
        let error = builder.topic(topic(), StartFrom::Now).connect().expect_err("rejected");
        assert_eq!(error, BuildError::WrongScheme { server: server(wrong), transport });
        assert!(error.to_string().contains(wrong), "{error}");
    }
}

/// A server that replies to one connection with these bytes.
async fn server_answering(response: &'static str) -> ServerAddress {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("a client");
        let mut request = [0; 2048];
        let _ = stream.read(&mut request).await;
        stream.write_all(response.as_bytes()).await.expect("written");
    });
    server(&format!("http://{address}"))
}

async fn first_disconnect(server: ServerAddress) -> (String, bool) {
    let mut subscriber = Subscriber::builder([server])
        .topic(topic(), StartFrom::Now)
        .connect()
        .expect("a valid configuration");
    loop {
        match subscriber.next().await.expect("an event") {
            SubscriberEvent::Disconnected { reason, retry_in, .. } => {
                return (reason, retry_in.is_some());
            }
            _ => continue,
        }
    }
}

#[tokio::test]
async fn web_server_without_websocket_ends_the_subscriber() {
    let wrong = server_answering("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n").await;
    let (reason, is_retried) = first_disconnect(wrong).await;
    assert!(reason.contains("404") && reason.contains("--http"), "{reason}");
    assert!(!is_retried);
    let busy =
        server_answering("HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n").await;
    let (reason, is_retried) = first_disconnect(busy).await;
    assert!(reason.contains("503") && is_retried, "{reason}");
}

#[tokio::test]
async fn server_without_websocket_is_dropped_and_the_others_are_retried() {
    let wrong = server_answering("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n").await;
    let busy =
        server_answering("HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n").await;
    let servers = [wrong.clone(), busy.clone()];
    let mut subscriber = Subscriber::builder(servers)
        .topic(topic(), StartFrom::Now)
        .connect()
        .expect("a valid configuration");
    let mut disconnects = Vec::new();
    while disconnects.len() < 3 {
        match subscriber.next().await.expect("an event") {
            SubscriberEvent::Disconnected { server, retry_in, .. } => {
                disconnects.push((server, retry_in.is_some()))
            }
            _ => continue,
        }
    }
    assert_eq!(disconnects, [(wrong, true), (busy.clone(), true), (busy, true)]);
}

#[tokio::test]
async fn wrong_port_ends_the_subscriber_with_its_cause() {
    let node = TestNode::start().await;
    let [ws, grpc] = [node.websocket(), node.grpc()];
    for (server, transport, words) in [
        (grpc.replace("http://", "ws://"), Transport::Ws, "give the address of a node's --http"),
        (ws.replace("ws://", "wss://"), Transport::Ws, "write http:// or ws://"),
        (ws.replace("ws://", "http://"), Transport::Grpc, "give the address of a node's --grpc"),
        (grpc.replace("http://", "https://"), Transport::Grpc, "write http:// or ws://"),
    ] {
        let mut subscriber = Subscriber::builder([self::server(&server)])
            .transport(transport)
            .topic(topic(), StartFrom::Now)
            .connect()
            .expect("a valid configuration");
        let (reason, is_retried) = loop {
            match subscriber.next().await.expect("an event") {
                SubscriberEvent::Disconnected { reason, retry_in, .. } => {
                    break (reason, retry_in.is_some());
                }
                _ => continue,
            }
        };
        assert!(reason.contains(words) && !is_retried, "{server}: {reason}");
    }
}

#[tokio::test]
async fn server_with_another_protocol_is_dropped_and_the_other_one_is_used() {
    let node = TestNode::start().await;
    let wrong = node.websocket().replace("ws://", "http://");
    let mut subscriber = Subscriber::builder([server(&wrong), server(&node.grpc())])
        .transport(Transport::Grpc)
        .topic(topic(), StartFrom::Now)
        .connect()
        .expect("a valid configuration");
    while !matches!(subscriber.next().await, Some(SubscriberEvent::Subscribed { .. })) {}
}
