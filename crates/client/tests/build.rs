//! What a subscriber refuses before it connects.

use pushonce_client::{BuildError, Event, Server, Subscriber, Transport};
use pushonce_core::{From, Topic};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

fn topic() -> Topic {
    Topic::new("chat/7").expect("valid")
}

fn server(text: &str) -> Server {
    text.parse().expect("an address")
}

#[tokio::test]
async fn a_subscriber_without_servers_or_topics_is_refused() {
    let nowhere = Subscriber::builder([]).topic(topic(), From::Now).connect();
    assert_eq!(nowhere.err(), Some(BuildError::NoServers));
    let nothing = Subscriber::builder([server("ws://127.0.0.1:1")]).connect();
    assert_eq!(nothing.err(), Some(BuildError::NoTopics));
}

#[tokio::test]
async fn an_address_of_another_transport_is_refused_beside_a_right_one() {
    for (transport, right, wrong) in [
        (Transport::Ws, "http://a:1", "quic://a:1"),
        (Transport::Quic, "quic://a:1", "http://a:1"),
        (Transport::Grpc, "http://a:1", "ws://a:1"),
    ] {
        let builder = Subscriber::builder([server(right), server(wrong)]).transport(transport);
        let refused = builder.topic(topic(), From::Now).connect().err().expect("refused");
        assert_eq!(refused, BuildError::WrongScheme { server: server(wrong), transport });
        assert!(refused.to_string().contains(wrong), "{refused}");
    }
}

/// Answers one connection with these bytes.
async fn answering(answer: &'static str) -> Server {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("a client");
        let mut request = [0; 2048];
        let _ = stream.read(&mut request).await;
        stream.write_all(answer.as_bytes()).await.expect("written");
    });
    server(&format!("http://{address}"))
}

async fn first_end(server: Server) -> (String, bool) {
    let mut subscriber =
        Subscriber::builder([server]).topic(topic(), From::Now).connect().expect("it fits");
    loop {
        match subscriber.next().await.expect("an event") {
            Event::Disconnected { why, retry_in, .. } => return (why, retry_in.is_some()),
            _ => continue,
        }
    }
}

#[tokio::test]
async fn a_web_server_without_websocket_ends_the_subscriber() {
    let wrong = answering("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n").await;
    let (why, retries) = first_end(wrong).await;
    assert!(why.contains("404") && why.contains("--http"), "{why}");
    assert!(!retries);
    let busy = answering("HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n").await;
    let (why, retries) = first_end(busy).await;
    assert!(why.contains("503") && retries, "{why}");
}

#[tokio::test]
async fn a_wrong_server_is_not_asked_again_and_the_others_are() {
    let wrong = answering("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n").await;
    let busy = answering("HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n").await;
    let servers = [wrong.clone(), busy.clone()];
    let mut subscriber =
        Subscriber::builder(servers).topic(topic(), From::Now).connect().expect("they fit");
    let mut left = Vec::new();
    while left.len() < 3 {
        match subscriber.next().await.expect("it goes on") {
            Event::Disconnected { server, retry_in, .. } => left.push((server, retry_in.is_some())),
            _ => continue,
        }
    }
    assert_eq!(left, [(wrong, true), (busy.clone(), true), (busy, true)]);
}
